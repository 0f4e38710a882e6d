//! Which XDP programs an interface has, whoever's they are.
//!
//! The kernel is asked by netlink about the one interface. libbpf would have it list every interface of the machine, which
//! with hundreds of them, asked one after the other, is most of a start.
//!
//! ```text
//! request  [ struct nlmsghdr 16 | struct ifinfomsg 16 ]
//! answer   [ struct nlmsghdr 16 | struct ifinfomsg 16 | attributes … IFLA_XDP [ IFLA_XDP_DRV_PROG_ID | … ] … ]
//! ```
//!
//! Sources: linux/rtnetlink.h, linux/if_link.h (`IFLA_XDP_*`).

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::program::c_index;

const HEADER: usize = 16;
const BODY: usize = 16;
/// A link's message takes about 2 KiB.
const ANSWER_MAX: usize = 32 * 1024;

const IFLA_XDP_DRV_PROG_ID: u16 = 5;
const IFLA_XDP_SKB_PROG_ID: u16 = 6;
/// Flags in the type of an attribute: nested, and in network order.
const TYPE_FLAGS: u16 = 0xc000;

/// Numbers of the programs, 0 where there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Attached {
    pub(super) native: u32,
    pub(super) generic: u32,
}

impl Attached {
    /// An interface that is not there has none.
    pub(super) fn to(ifindex: u32) -> io::Result<Attached> {
        let index = c_index(ifindex);
        if index == 0 {
            return Ok(Attached::default());
        }
        match ask(index).and_then(|answer| read(&answer)) {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(Attached::default()),
            result => result,
        }
    }
}

fn ask(index: libc::c_int) -> io::Result<Vec<u8>> {
    // SAFETY: makes a descriptor, which is owned from here on.
    let socket = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made, and nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    let mut request = [0u8; HEADER + BODY];
    request[..4].copy_from_slice(&((HEADER + BODY) as u32).to_ne_bytes());
    request[4..6].copy_from_slice(&libc::RTM_GETLINK.to_ne_bytes());
    request[6..8].copy_from_slice(&(libc::NLM_F_REQUEST as u16).to_ne_bytes());
    request[20..24].copy_from_slice(&index.to_ne_bytes());
    // SAFETY: the buffer is as long as is said.
    if unsafe { libc::send(socket.as_raw_fd(), request.as_ptr().cast(), request.len(), 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut answer = vec![0u8; ANSWER_MAX];
    // SAFETY: the buffer is as long as is said; with MSG_TRUNC the result may be longer.
    let length = unsafe { libc::recv(socket.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), libc::MSG_TRUNC) };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    if length > ANSWER_MAX {
        return Err(io::Error::other(format!("the kernel's answer has {length} bytes, more than {ANSWER_MAX}")));
    }
    answer.truncate(length);
    Ok(answer)
}

fn read(answer: &[u8]) -> io::Result<Attached> {
    let cut_off = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let size = u32::from_ne_bytes(*answer.first_chunk().ok_or_else(cut_off)?) as usize;
    let message = answer.get(..size).ok_or_else(cut_off)?;
    let kind = u16::from_ne_bytes(*message.get(4..).and_then(|rest| rest.first_chunk()).ok_or_else(cut_off)?);
    let body = message.get(HEADER..).unwrap_or_default();
    if i32::from(kind) == libc::NLMSG_ERROR {
        let code = body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
        return Err(io::Error::from_raw_os_error(code.saturating_neg()));
    }
    if kind != libc::RTM_NEWLINK {
        return Err(io::Error::other(format!("the kernel answered with message {kind}, expected a link")));
    }
    let links = body.get(BODY..).ok_or_else(cut_off)?;
    let mut attached = Attached::default();
    for (_, xdp) in Attributes(links).filter(|(kind, _)| *kind == libc::IFLA_XDP) {
        for (kind, value) in Attributes(xdp) {
            let id = value.first_chunk().map_or(0, |id| u32::from_ne_bytes(*id));
            match kind {
                IFLA_XDP_DRV_PROG_ID => attached.native = id,
                IFLA_XDP_SKB_PROG_ID => attached.generic = id,
                _ => {}
            }
        }
    }
    Ok(attached)
}

/// Attributes one after the other: length and type of 16 bits each, the value, padding to 4.
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let [a, b, c, d] = *self.0.first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([a, b]));
        // Shorter than its own header: nothing after it can be trusted.
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([c, d]) & !TYPE_FLAGS, value))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = ((4 + value.len()) as u16).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.resize(HEADER, 0);
        bytes.extend(body);
        bytes
    }

    fn link(attributes: &[Vec<u8>]) -> Vec<u8> {
        message(libc::RTM_NEWLINK, &[vec![0; BODY], attributes.concat()].concat())
    }

    #[test]
    fn programs_of_a_link() {
        let name = attribute(libc::IFLA_IFNAME, b"cali0\0");
        let check = |xdp: &[Vec<u8>], native: u32, generic: u32| {
            for flag in [0, 0x8000] {
                let answer = link(&[name.clone(), attribute(libc::IFLA_XDP | flag, &xdp.concat()), name.clone()]);
                assert_eq!(read(&answer).unwrap(), Attached { native, generic });
            }
        };
        let (mode, id) = (attribute(2, &[1]), |kind, id: u32| attribute(kind, &id.to_ne_bytes()));
        check(&[attribute(2, &[0])], 0, 0);
        check(&[mode.clone(), id(4, 7), id(5, 7)], 7, 0);
        check(&[mode.clone(), id(6, 8), id(4, 8)], 0, 8);
        check(&[mode, id(6, 8), id(5, 9)], 9, 8);
        assert_eq!(read(&link(&[name])).unwrap(), Attached::default());
    }

    #[test]
    fn answers_that_are_no_link() {
        let check = |answer: &[u8], expected: &str| assert_eq!(read(answer).unwrap_err().to_string(), expected);
        let error = |code: i32| message(libc::NLMSG_ERROR as u16, &code.to_ne_bytes());
        assert_eq!(read(&error(-libc::ENODEV)).unwrap_err().raw_os_error(), Some(libc::ENODEV));
        check(&message(99, &[0; 32]), "the kernel answered with message 99, expected a link");
        let whole = link(&[attribute(libc::IFLA_XDP, &attribute(5, &[1, 0, 0, 0]))]);
        for length in 0..whole.len() {
            check(&whole[..length], "unexpected end of file");
            // A message that says itself to be that short may end anywhere.
            let mut short = whole[..length].to_vec();
            if length >= 4 {
                short[..4].copy_from_slice(&(length as u32).to_ne_bytes());
                let _ = read(&short);
            }
        }
        assert_eq!(read(&link(&[vec![0, 0, 43, 0], attribute(43, &[])])).unwrap(), Attached::default());
    }

    #[test]
    fn an_interface_that_is_not_there_has_none() {
        assert_eq!(Attached::to(0).unwrap(), Attached::default());
        assert_eq!(Attached::to(i32::MAX as u32).unwrap(), Attached::default());
        assert_eq!(Attached::to(u32::MAX).unwrap(), Attached::default());
    }
}
