//! TCP. RFC 9293 §3.1.

use super::{be16, be32};

pub const HEADER_LEN: usize = 20;
/// Offset of the checksum from the start of the header.
pub const CHECKSUM_OFFSET: usize = 16;

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;

/// View of the fixed part of a TCP header.
pub struct Tcp<'a>(&'a [u8; HEADER_LEN]);

impl<'a> Tcp<'a> {
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
    pub fn sequence(&self) -> u32 {
        be32(self.0, 4)
    }
    /// Length of the header with options, in bytes.
    pub fn header_len(&self) -> usize {
        usize::from(self.0[12] >> 4) * 4
    }
    pub fn flags(&self) -> u8 {
        self.0[13]
    }
}

/// Combinations that no TCP sends: nothing at all, or opening and closing at once.
pub fn flags_are_valid(flags: u8) -> bool {
    flags & (SYN | ACK | RST | FIN) != 0 && !(flags & SYN != 0 && flags & (FIN | RST) != 0)
}
