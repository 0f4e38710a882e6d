//! Generic netlink, as much of it as `ethtool` and `netdev` need: find a family, ask, read attributes.
//!
//! Blocking, one socket per call site: these are rare requests the kernel answers at once, and a second
//! asynchronous stack for them would cost more than it gives.
//!
//! ```text
//! nlmsghdr (16) | genlmsghdr (4): command, version | attributes: length u16, kind u16, value, pad to 4
//! ```
//!
//! Invariants: `Attributes` holds whole, padded attributes; `attributes()` never reads past its slice.
//! See: linux/Documentation/userspace-api/netlink/intro.rst.

use netlink_sys::protocols::NETLINK_GENERIC;
use netlink_sys::{Socket, SocketAddr};

use super::HostError;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_MULTI: u16 = 2;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLA_F_NESTED: u16 = 1 << 15;
const NLA_TYPE_MASK: u16 = 0x3fff;
const MESSAGE_HEADER: usize = 16;
const GENERIC_HEADER: usize = 4;

/// Families are numbered at boot; the controller's own number is fixed.
const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;

/// A family, ready to be asked, in the namespace of the thread that opened it.
pub struct Family {
    socket: Socket,
    number: u16,
    sequence: u32,
}

impl Family {
    /// None: this kernel has no such family.
    pub fn open(name: &str) -> Result<Option<Family>, HostError> {
        let action = || format!("open generic netlink family {name}");
        let mut socket = Socket::new(NETLINK_GENERIC).map_err(HostError::io(action()))?;
        socket.bind_auto().map_err(HostError::io(action()))?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(HostError::io(action()))?;
        let mut family = Family { socket, number: GENL_ID_CTRL, sequence: 0 };
        let mut request = Attributes::default();
        request.put_str(CTRL_ATTR_FAMILY_NAME, name);
        let answers = match family.ask(&action(), CTRL_CMD_GETFAMILY, &request) {
            Ok(answers) => answers,
            Err(error) if error.errno() == Some(nix::Error::ENOENT as i32) => return Ok(None),
            Err(error) => return Err(error),
        };
        let number = answers.iter().flat_map(|answer| attributes(answer)).find_map(|(kind, value)| {
            let value = <[u8; 2]>::try_from(value).ok()?;
            (kind == CTRL_ATTR_FAMILY_ID).then_some(u16::from_ne_bytes(value))
        });
        let Some(number) = number else {
            return Err(HostError::Protocol { action: action(), detail: "no family number".to_owned() });
        };
        family.number = number;
        Ok(Some(family))
    }

    /// Asks and waits for the acknowledgement; gives the attributes of every answer before it.
    pub fn ask(&mut self, action: &str, command: u8, request: &Attributes) -> Result<Vec<Vec<u8>>, HostError> {
        self.exchange(action, command, request, NLM_F_REQUEST | NLM_F_ACK)
    }

    /// Asks for all objects of a kind.
    pub fn dump(&mut self, action: &str, command: u8) -> Result<Vec<Vec<u8>>, HostError> {
        self.exchange(action, command, &Attributes::default(), NLM_F_REQUEST | NLM_F_DUMP)
    }

    fn exchange(
        &mut self,
        action: &str,
        command: u8,
        request: &Attributes,
        flags: u16,
    ) -> Result<Vec<Vec<u8>>, HostError> {
        self.sequence = self.sequence.wrapping_add(1);
        let message = frame(self.number, flags, self.sequence, command, &request.0);
        self.socket.send(&message, 0).map_err(HostError::io(action))?;
        let mut answers = Vec::new();
        loop {
            let (datagram, _) = self.socket.recv_from_full().map_err(HostError::io(action))?;
            let mut rest = datagram.as_slice();
            while !rest.is_empty() {
                let Some((answer, next)) = split_message(rest) else {
                    return Err(HostError::Protocol {
                        action: action.to_owned(),
                        detail: "message cut short".to_owned(),
                    });
                };
                rest = next;
                if answer.sequence != self.sequence {
                    continue;
                }
                match answer.kind {
                    NLMSG_DONE => return Ok(answers),
                    NLMSG_ERROR => return finish(action, answer.body, answers),
                    _ => answers.push(answer.body.get(GENERIC_HEADER..).unwrap_or_default().to_vec()),
                }
                debug_assert!(flags & NLM_F_DUMP != NLM_F_DUMP || answer.flags & NLM_F_MULTI != 0);
            }
        }
    }
}

/// An acknowledgement is an error message with number 0.
fn finish(action: &str, body: &[u8], answers: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>, HostError> {
    let code = body.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
    if code == 0 {
        return Ok(answers);
    }
    let source = std::io::Error::from_raw_os_error(code.saturating_neg());
    Err(HostError::Refused { action: action.to_owned(), source, hint: None })
}

/// Attributes being written.
#[derive(Default, Clone)]
pub struct Attributes(Vec<u8>);

impl Attributes {
    pub fn put(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        assert!(length < u16::MAX, "an attribute holds less than 64 KiB");
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    pub fn put_u32(&mut self, kind: u16, value: u32) {
        self.put(kind, &value.to_ne_bytes());
    }

    pub fn put_str(&mut self, kind: u16, value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.put(kind, &bytes);
    }

    /// An attribute whose presence is its value.
    pub fn put_flag(&mut self, kind: u16) {
        self.put(kind, &[]);
    }

    pub fn put_nested(&mut self, kind: u16, inner: &Attributes) {
        self.put(kind | NLA_F_NESTED, &inner.0);
    }
}

/// The attributes in `bytes`, up to the first that is malformed.
pub fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let [a, b, c, d, ..] = *rest else { return None };
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let kind = u16::from_ne_bytes([c, d]) & NLA_TYPE_MASK;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// A string attribute without its final zero.
pub fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim_end_matches('\0').to_owned()
}

/// A number attribute of four or eight bytes.
pub fn number(value: &[u8]) -> Option<u64> {
    if let Ok(bytes) = <[u8; 4]>::try_from(value) {
        return Some(u64::from(u32::from_ne_bytes(bytes)));
    }
    <[u8; 8]>::try_from(value).ok().map(u64::from_ne_bytes)
}

fn frame(kind: u16, flags: u16, sequence: u32, command: u8, attributes: &[u8]) -> Vec<u8> {
    let length = MESSAGE_HEADER + GENERIC_HEADER + attributes.len();
    let mut bytes = Vec::with_capacity(length);
    bytes.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&flags.to_ne_bytes());
    bytes.extend_from_slice(&sequence.to_ne_bytes());
    bytes.extend_from_slice(&0u32.to_ne_bytes());
    bytes.extend_from_slice(&[command, 1, 0, 0]);
    bytes.extend_from_slice(attributes);
    bytes
}

struct Answer<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    body: &'a [u8],
}

fn split_message(bytes: &[u8]) -> Option<(Answer<'_>, &[u8])> {
    let header: &[u8; MESSAGE_HEADER] = bytes.first_chunk()?;
    let [l0, l1, l2, l3, k0, k1, f0, f1, s0, s1, s2, s3, ..] = *header;
    let length = usize::try_from(u32::from_ne_bytes([l0, l1, l2, l3])).ok()?;
    let answer = Answer {
        kind: u16::from_ne_bytes([k0, k1]),
        flags: u16::from_ne_bytes([f0, f1]),
        sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
        body: bytes.get(MESSAGE_HEADER..length)?,
    };
    Some((answer, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn attributes_come_back_as_they_were_put() {
        let mut inner = Attributes::default();
        inner.put_str(2, "abc");
        inner.put_flag(3);
        let mut outer = Attributes::default();
        outer.put_u32(1, 7);
        outer.put_nested(9, &inner);
        let found: Vec<_> = attributes(&outer.0).collect();
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].0, number(found[0].1)), (1, Some(7)));
        let nested: Vec<_> = attributes(found[1].1).map(|(kind, value)| (kind, text(value))).collect();
        assert_eq!(nested, [(2, "abc".to_owned()), (3, String::new())]);
    }

    #[test]
    fn malformed_attributes_end_the_walk() {
        for bytes in [&[0u8; 8][..], &[255, 255, 1, 0], &[4, 0], &[]] {
            assert_eq!(attributes(bytes).count(), 0, "{bytes:?}");
        }
        assert!(split_message(&[0; 16]).is_none());
        assert!(split_message(&[255; 20]).is_none());
    }

    #[test]
    fn an_unknown_family_is_none() {
        assert!(Family::open("no_such_family").unwrap().is_none());
    }
}
