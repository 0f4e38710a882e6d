//! A DHCP message, and what a relay may change of it.
//!
//! ```text
//!   0    op  htype  hlen  hops        24   giaddr                      240  options:  code length value … code length value  255
//!   4    xid                          28   chaddr, 16 octets
//!   8    secs, flags                  44   sname, file                      option 82, ours, is the last: RFC 3046 §2.1
//!   12   ciaddr, yiaddr, siaddr       236  magic cookie
//! ```
//!
//! Of a question `hops` and `giaddr` are changed, and option 82 is added; it is taken out of the answer. All else stays as it
//! was, in its order: decoded and written again, options would come in another, and what authenticates a message (RFC 3118)
//! covers them as they stand. That is why no codec is used here.
//!
//! Bounds: `MESSAGE_MAX` octets.
//! Sources: RFC 2131 §2, RFC 2132, RFC 1542 §2.1 and §4, RFC 3046, RFC 3527.

use std::net::Ipv4Addr;
use std::ops::Range;

use config::net::MacAddress;

use super::count::Refusal;

/// What Ethernet's usual MTU leaves for it: there is no reason to fragment one.
pub const MESSAGE_MAX: usize = 1472;
/// What is shorter some servers and clients do not take for BOOTP. RFC 1542 §2.1.
const MESSAGE_MIN: usize = 300;

/// The fixed part, and the cookie.
const OPTIONS: usize = 240;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
const ETHERNET: u8 = 1;

const PAD: u8 = 0;
const MESSAGE_TYPE: u8 = 53;
const RELAY_AGENT: u8 = 82;
const END: u8 = 255;
/// Of the relay's own option.
const CIRCUIT_ID: u8 = 1;
const LINK_SELECTION: u8 = 5;

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Request,
    Reply,
}

/// What is said, by option 53.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Discover,
    Offer,
    Request,
    Decline,
    Acknowledge,
    Refuse,
    Release,
    Inform,
}

impl Kind {
    fn of(number: u8) -> Option<Kind> {
        Some(match number {
            1 => Kind::Discover,
            2 => Kind::Offer,
            3 => Kind::Request,
            4 => Kind::Decline,
            5 => Kind::Acknowledge,
            6 => Kind::Refuse,
            7 => Kind::Release,
            8 => Kind::Inform,
            _ => return None,
        })
    }

    /// Who says it.
    pub fn op(self) -> Op {
        match self {
            Kind::Offer | Kind::Acknowledge | Kind::Refuse => Op::Reply,
            Kind::Discover | Kind::Request | Kind::Decline | Kind::Release | Kind::Inform => Op::Request,
        }
    }

    /// Whether a server answers.
    pub fn is_answered(self) -> bool {
        matches!(self, Kind::Discover | Kind::Request | Kind::Inform)
    }
}

/// Code, and where the whole option stands.
type Place = (u8, Range<usize>);

/// A message whose options can be told apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    bytes: Vec<u8>,
    options: Vec<Place>,
    /// Where the options end.
    end: usize,
    kind: Kind,
}

impl Message {
    pub fn read(bytes: &[u8]) -> Result<Message, Refusal> {
        if bytes.len() > MESSAGE_MAX {
            return Err(Refusal::TooLong);
        }
        if bytes.get(OPTIONS - COOKIE.len()..OPTIONS) != Some(&COOKIE) {
            return Err(Refusal::Malformed);
        }
        if (bytes[1], bytes[2]) != (ETHERNET, 6) {
            return Err(Refusal::HardwareType);
        }
        let (options, end) = options(bytes).ok_or(Refusal::Malformed)?;
        let mut kinds = options.iter().filter(|(code, _)| *code == MESSAGE_TYPE);
        // Twice is once too often: servers and clients may not look at the same one.
        let (Some((_, place)), None) = (kinds.next(), kinds.next()) else { return Err(Refusal::Malformed) };
        let &[_, 1, number] = &bytes[place.clone()] else { return Err(Refusal::Malformed) };
        let kind = Kind::of(number).ok_or(Refusal::WrongDirection)?;
        let op = match bytes[0] {
            1 => Op::Request,
            2 => Op::Reply,
            _ => return Err(Refusal::Malformed),
        };
        if op != kind.op() {
            return Err(Refusal::WrongDirection);
        }
        Ok(Message { bytes: bytes.to_vec(), options, end, kind })
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub fn hops(&self) -> u8 {
        self.bytes[3]
    }

    /// The client's number for what it wants.
    pub fn xid(&self) -> u32 {
        u32::from_be_bytes(self.octets(4))
    }

    /// The client has no address that a packet could be sent to. RFC 2131 §4.1.
    pub fn wants_broadcast(&self) -> bool {
        self.bytes[10] & 0x80 != 0
    }

    /// What the client has.
    pub fn ciaddr(&self) -> Ipv4Addr {
        self.octets::<4>(12).into()
    }

    /// What it gets.
    pub fn yiaddr(&self) -> Ipv4Addr {
        self.octets::<4>(16).into()
    }

    /// The relay's.
    pub fn giaddr(&self) -> Ipv4Addr {
        self.octets::<4>(24).into()
    }

    /// The client's hardware address.
    pub fn chaddr(&self) -> MacAddress {
        MacAddress(self.octets(28))
    }

    pub fn has_relay_option(&self) -> bool {
        self.options.iter().any(|(code, _)| *code == RELAY_AGENT)
    }

    /// The interface that we named in the question, where the server says it again. RFC 3046 §2.2.
    pub fn circuit_id(&self) -> Option<&[u8]> {
        let (_, place) = self.options.iter().find(|(code, _)| *code == RELAY_AGENT)?;
        let mut rest = self.bytes.get(place.start + 2..place.end)?;
        while let [code, length, more @ ..] = rest {
            let value = more.get(..usize::from(*length))?;
            if *code == CIRCUIT_ID {
                return Some(value);
            }
            rest = &more[value.len()..];
        }
        None
    }

    /// The same question by this relay, from that interface.
    pub fn relayed(mut self, by: Ipv4Addr, circuit: &str, link: Option<Ipv4Addr>) -> Result<Vec<u8>, Refusal> {
        self.bytes[3] = self.bytes[3].checked_add(1).ok_or(Refusal::TooManyHops)?;
        self.bytes[24..28].copy_from_slice(&by.octets());
        let mut option = vec![CIRCUIT_ID, u8::try_from(circuit.len()).map_err(|_| Refusal::TooLong)?];
        option.extend(circuit.bytes());
        if let Some(link) = link {
            option.extend([LINK_SELECTION, 4]);
            option.extend(link.octets());
        }
        let length = u8::try_from(option.len()).map_err(|_| Refusal::TooLong)?;
        let before = self.bytes.len();
        self.bytes.truncate(self.end);
        self.bytes.extend([RELAY_AGENT, length]);
        self.bytes.extend(option);
        self.bytes.push(END);
        padded(self.bytes, before)
    }

    /// The answer as the client has it.
    pub fn without_relay_option(mut self) -> Vec<u8> {
        for (_, place) in self.options.iter().rev().filter(|(code, _)| *code == RELAY_AGENT) {
            self.bytes.drain(place.clone());
        }
        let length = self.bytes.len().max(MESSAGE_MIN);
        self.bytes.resize(length, PAD);
        self.bytes
    }

    fn octets<const N: usize>(&self, at: usize) -> [u8; N] {
        // All of the fixed part is there.
        self.bytes[at..at + N].try_into().unwrap_or([0; N])
    }
}

/// As long as it was, and no shorter than anybody takes.
fn padded(mut bytes: Vec<u8>, before: usize) -> Result<Vec<u8>, Refusal> {
    let length = bytes.len().max(before).max(MESSAGE_MIN);
    bytes.resize(length, PAD);
    if bytes.len() > MESSAGE_MAX { Err(Refusal::TooLong) } else { Ok(bytes) }
}

/// All up to the end, which has to be there.
fn options(bytes: &[u8]) -> Option<(Vec<Place>, usize)> {
    let (mut all, mut at) = (Vec::new(), OPTIONS);
    loop {
        match *bytes.get(at)? {
            PAD => at += 1,
            END => return Some((all, at)),
            code => {
                let next = at + 2 + usize::from(*bytes.get(at + 1)?);
                if next > bytes.len() {
                    return None;
                }
                all.push((code, at..next));
                at = next;
            }
        }
    }
}
