//! ICMPv6 and neighbour discovery. RFC 4443, RFC 4861. The header itself has the shape of [`super::icmp::Icmp`].

use super::be128;

pub const UNREACHABLE: u8 = 1;
pub const PACKET_TOO_BIG: u8 = 2;
pub const TIME_EXCEEDED: u8 = 3;
pub const ECHO_REQUEST: u8 = 128;
pub const ECHO_REPLY: u8 = 129;
pub const ROUTER_SOLICITATION: u8 = 133;
pub const ROUTER_ADVERTISEMENT: u8 = 134;
pub const NEIGHBOUR_SOLICITATION: u8 = 135;
pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
pub const REDIRECT: u8 = 137;

pub const CODE_NO_ROUTE: u8 = 0;
pub const CODE_ADDRESS_UNREACHABLE: u8 = 3;

/// Neighbour discovery is only valid with this hop limit: nobody forwarded it. RFC 4861 §7.1.
pub const ND_HOP_LIMIT: u8 = 255;
pub const NEIGHBOUR_LEN: usize = 24;

/// Messages below 128 report a problem with another packet, which they quote. RFC 4443 §2.1.
pub fn is_error(kind: u8) -> bool {
    kind < 128
}

/// View of a neighbour solicitation or advertisement: ICMPv6 header and target.
pub struct Neighbour<'a>(&'a [u8; NEIGHBOUR_LEN]);

impl<'a> Neighbour<'a> {
    pub fn at(bytes: &'a [u8]) -> Option<Self> {
        bytes.first_chunk().map(Self)
    }
    pub fn target(&self) -> u128 {
        be128(self.0, 8)
    }
}

/// True when every option has a length and fits. RFC 4861 §4.6: a zero length makes the packet invalid.
pub fn options_are_valid(mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        let length = bytes.get(1).map_or(0, |l| usize::from(*l) * 8);
        match bytes.get(length..) {
            Some(next) if length > 0 => bytes = next,
            _ => return false,
        }
    }
    true
}
