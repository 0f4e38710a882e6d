//! IPv4. RFC 791 §3.1, RFC 6864 for the identification field.

use super::{be16, be32};

pub const HEADER_LEN: usize = 20;
/// Where the checksum and the addresses are.
pub const CHECKSUM_OFFSET: usize = 10;
pub const SOURCE_OFFSET: usize = 12;
pub const DESTINATION_OFFSET: usize = 16;
/// Every link carries at least this much. RFC 791 §3.2.
pub const MIN_MTU: u16 = 68;

const FLAG_DONT_FRAGMENT: u16 = 0x4000;
const FLAG_MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET_MASK: u16 = 0x1fff;

/// View of the fixed part of an IPv4 header.
pub struct Ipv4<'a>(&'a [u8; HEADER_LEN]);

impl<'a> Ipv4<'a> {
    #[inline(always)]
    pub fn at(bytes: &'a [u8]) -> Option<Self> {
        bytes.first_chunk().map(Self)
    }
    pub fn version(&self) -> u8 {
        self.0[0] >> 4
    }
    /// Length of the header with options, in bytes.
    pub fn header_len(&self) -> usize {
        usize::from(self.0[0] & 0x0f) * 4
    }
    pub fn total_len(&self) -> usize {
        usize::from(be16(self.0, 2))
    }
    pub fn identification(&self) -> u16 {
        be16(self.0, 4)
    }
    pub fn dont_fragment(&self) -> bool {
        be16(self.0, 6) & FLAG_DONT_FRAGMENT != 0
    }
    pub fn more_fragments(&self) -> bool {
        be16(self.0, 6) & FLAG_MORE_FRAGMENTS != 0
    }
    /// Position of this fragment's payload in the datagram, in bytes.
    pub fn fragment_offset(&self) -> usize {
        usize::from(be16(self.0, 6) & OFFSET_MASK) * 8
    }
    pub fn ttl(&self) -> u8 {
        self.0[8]
    }
    pub fn protocol(&self) -> u8 {
        self.0[9]
    }
    pub fn checksum(&self) -> u16 {
        be16(self.0, 10)
    }
    pub fn source(&self) -> u32 {
        be32(self.0, 12)
    }
    pub fn destination(&self) -> u32 {
        be32(self.0, 16)
    }
}

/// What the options of a header say that matters to a router.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Options {
    Harmless,
    /// Loose or strict source route: the sender picks the path. RFC 7126 §4.3 advises to drop.
    SourceRoute,
    Malformed,
}

/// Walks the options after the fixed header. Every step consumes at least one byte.
pub fn options(mut bytes: &[u8]) -> Options {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const LOOSE_SOURCE_ROUTE: u8 = 131;
    const STRICT_SOURCE_ROUTE: u8 = 137;
    while let Some((&kind, rest)) = bytes.split_first() {
        match kind {
            END => return Options::Harmless,
            NO_OPERATION => bytes = rest,
            LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE => return Options::SourceRoute,
            _ => {
                let length = rest.first().map_or(0, |l| usize::from(*l));
                match bytes.get(length..) {
                    Some(next) if length >= 2 => bytes = next,
                    _ => return Options::Malformed,
                }
            }
        }
    }
    Options::Harmless
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_walked_and_bounded() {
        assert_eq!(options(&[]), Options::Harmless);
        assert_eq!(options(&[1, 1, 0, 131]), Options::Harmless); // after the end of the list nothing counts
        assert_eq!(options(&[7, 3, 4, 131, 3, 0, 0, 0]), Options::SourceRoute);
        assert_eq!(options(&[7, 0, 0, 0]), Options::Malformed);
        assert_eq!(options(&[7, 1, 0, 0]), Options::Malformed);
        assert_eq!(options(&[7, 5, 0, 0]), Options::Malformed);
        assert_eq!(options(&[7]), Options::Malformed);
    }
}
