//! ARP for IPv4 over Ethernet. RFC 826.

use super::{be16, be32, ethernet::Mac};

pub const LEN: usize = 28;
pub const REQUEST: u16 = 1;
pub const REPLY: u16 = 2;

/// View of an ARP packet.
pub struct Arp<'a>(&'a [u8; LEN]);

impl<'a> Arp<'a> {
    pub fn at(bytes: &'a [u8]) -> Option<Self> {
        bytes.first_chunk().map(Self)
    }
    /// Ethernet, IPv4, and the address lengths that go with them.
    pub fn is_ethernet_ipv4(&self) -> bool {
        be16(self.0, 0) == 1 && be16(self.0, 2) == 0x0800 && self.0[4] == 6 && self.0[5] == 4
    }
    pub fn operation(&self) -> u16 {
        be16(self.0, 6)
    }
    pub fn sender_mac(&self) -> Mac {
        [self.0[8], self.0[9], self.0[10], self.0[11], self.0[12], self.0[13]]
    }
    pub fn sender_ip(&self) -> u32 {
        be32(self.0, 14)
    }
    pub fn target_ip(&self) -> u32 {
        be32(self.0, 24)
    }
}
