//! ICMP for IPv4. RFC 792, RFC 1191 for the next-hop MTU.

use super::{be16, be32};

pub const HEADER_LEN: usize = 8;
/// Where the checksum is, and an echo's identifier; as in ICMPv6.
pub const CHECKSUM_OFFSET: usize = 2;
pub const IDENTIFIER_OFFSET: usize = 4;

pub const ECHO_REPLY: u8 = 0;
pub const UNREACHABLE: u8 = 3;
pub const REDIRECT: u8 = 5;
pub const ECHO_REQUEST: u8 = 8;
pub const ROUTER_ADVERTISEMENT: u8 = 9;
pub const TIME_EXCEEDED: u8 = 11;
pub const PARAMETER_PROBLEM: u8 = 12;

pub const CODE_NET_UNREACHABLE: u8 = 0;
pub const CODE_HOST_UNREACHABLE: u8 = 1;
pub const CODE_FRAGMENTATION_NEEDED: u8 = 4;

/// View of an ICMP or ICMPv6 header: type, code, checksum, and four bytes that depend on the type.
pub struct Icmp<'a>(&'a [u8; HEADER_LEN]);

impl<'a> Icmp<'a> {
    #[inline(always)]
    pub fn at(bytes: &'a [u8]) -> Option<Self> {
        bytes.first_chunk().map(Self)
    }
    pub fn kind(&self) -> u8 {
        self.0[0]
    }
    pub fn code(&self) -> u8 {
        self.0[1]
    }
    pub fn checksum(&self) -> u16 {
        be16(self.0, 2)
    }
    /// Identifier of an echo message.
    pub fn identifier(&self) -> u16 {
        be16(self.0, 4)
    }
    /// The last four bytes, such as the MTU of an ICMPv6 packet-too-big.
    pub fn rest(&self) -> u32 {
        be32(self.0, 4)
    }
}

/// Messages that report a problem with another packet, which they quote. RFC 1122 §3.2.2.
pub fn is_error(kind: u8) -> bool {
    matches!(kind, UNREACHABLE | 4 | REDIRECT | TIME_EXCEEDED | PARAMETER_PROBLEM)
}
