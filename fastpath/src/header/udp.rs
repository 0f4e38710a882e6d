//! UDP. RFC 768. The ports of SCTP and UDP-Lite stand at the same place.

use super::be16;

pub const HEADER_LEN: usize = 8;
/// Offset of the checksum from the start of the header.
pub const CHECKSUM_OFFSET: usize = 6;
/// Offset of the length from the start of the header.
pub const LENGTH_OFFSET: usize = 4;

/// Where DHCP clients are, and servers and relays. RFC 2131 §4.1.
pub const DHCP_CLIENT: u16 = 68;
pub const DHCP_SERVER: u16 = 67;

/// View of a UDP header.
pub struct Udp<'a>(&'a [u8; HEADER_LEN]);

impl<'a> Udp<'a> {
    #[inline(always)]
    pub fn at(bytes: &'a [u8]) -> Option<Self> {
        bytes.first_chunk().map(Self)
    }
    pub fn source_port(&self) -> u16 {
        be16(self.0, 0)
    }
    pub fn destination_port(&self) -> u16 {
        be16(self.0, 2)
    }
    pub fn len(&self) -> usize {
        usize::from(be16(self.0, 4))
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    pub fn checksum(&self) -> u16 {
        be16(self.0, 6)
    }
}
