//! IPv6 and the walk over its extension headers. RFC 8200.

use super::{be16, be32, be128, protocol};

pub const HEADER_LEN: usize = 40;
/// Where the addresses are.
pub const SOURCE_OFFSET: usize = 8;
pub const DESTINATION_OFFSET: usize = 24;
/// Every link carries at least this much. RFC 8200 §5.
pub const MIN_MTU: u16 = 1280;
/// Bounds of the extension header walk: beyond either the packet is refused.
pub const MAX_EXTENSIONS: usize = 8;
pub const MAX_EXTENSION_BYTES: usize = 256;

/// View of the IPv6 header.
pub struct Ipv6<'a>(&'a [u8; HEADER_LEN]);

impl<'a> Ipv6<'a> {
    #[inline(always)]
    pub fn at(bytes: &'a [u8]) -> Option<Self> {
        bytes.first_chunk().map(Self)
    }
    pub fn version(&self) -> u8 {
        self.0[0] >> 4
    }
    pub fn payload_len(&self) -> usize {
        usize::from(be16(self.0, 4))
    }
    pub fn next_header(&self) -> u8 {
        self.0[6]
    }
    pub fn hop_limit(&self) -> u8 {
        self.0[7]
    }
    pub fn source(&self) -> u128 {
        be128(self.0, 8)
    }
    pub fn destination(&self) -> u128 {
        be128(self.0, 24)
    }
}

/// A fragment header as found in a chain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fragment {
    pub offset: usize,
    pub more: bool,
    pub identification: u32,
    /// Where the fragmentable part begins, from the start of the packet.
    pub start: usize,
}

/// Where a chain of extension headers ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chain {
    /// The protocol found behind the last extension header.
    pub protocol: u8,
    /// Offset of that protocol's header from the start of the IPv6 header.
    pub offset: usize,
    pub fragment: Option<Fragment>,
}

/// Why a chain was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChainError {
    /// Cut in the middle, or a header at a place where it may not be.
    Malformed,
    /// More or longer than [`MAX_EXTENSIONS`] and [`MAX_EXTENSION_BYTES`].
    TooLong,
    /// A type 0 routing header. RFC 5095 §3.
    RoutingType0,
}

/// Walks the extension headers of a packet that starts at its IPv6 header.
pub fn walk(packet: &[u8], first: u8) -> Result<Chain, ChainError> {
    let mut next = first;
    let mut offset = HEADER_LEN;
    let mut fragment: Option<Fragment> = None;
    for count in 0.. {
        // Behind a non-first fragment header there is payload, not another header.
        if fragment.is_some_and(|f| f.offset > 0) || !is_extension(next) {
            return Ok(Chain { protocol: next, offset, fragment });
        }
        if count == MAX_EXTENSIONS || offset - HEADER_LEN > MAX_EXTENSION_BYTES {
            return Err(ChainError::TooLong);
        }
        let header: &[u8; 8] = packet.get(offset..).and_then(|b| b.first_chunk()).ok_or(ChainError::Malformed)?;
        let length = match next {
            protocol::IPV6_FRAGMENT => {
                if fragment.is_some() {
                    return Err(ChainError::Malformed);
                }
                let field = be16(header, 2);
                fragment = Some(Fragment {
                    offset: usize::from(field & 0xfff8),
                    more: field & 1 == 1,
                    identification: be32(header, 4),
                    start: offset + 8,
                });
                8
            }
            // RFC 4302 §2.2: in 4-byte units, minus 2.
            protocol::AUTHENTICATION => (usize::from(header[1]) + 2) * 4,
            protocol::HOP_BY_HOP if offset != HEADER_LEN => return Err(ChainError::Malformed),
            protocol::IPV6_ROUTING if header[2] == 0 => return Err(ChainError::RoutingType0),
            _ => (usize::from(header[1]) + 1) * 8,
        };
        next = header[0];
        offset += length;
        if offset > packet.len() {
            return Err(ChainError::Malformed);
        }
    }
    Err(ChainError::TooLong)
}

fn is_extension(next: u8) -> bool {
    matches!(
        next,
        protocol::HOP_BY_HOP
            | protocol::IPV6_ROUTING
            | protocol::IPV6_FRAGMENT
            | protocol::AUTHENTICATION
            | protocol::DESTINATION_OPTIONS
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(first: u8, extensions: &[u8]) -> Result<Chain, ChainError> {
        let mut packet = vec![0u8; HEADER_LEN];
        packet.extend_from_slice(extensions);
        walk(&packet, first)
    }

    #[test]
    fn plain_packet_has_an_empty_chain() {
        assert_eq!(chain(6, &[]), Ok(Chain { protocol: 6, offset: 40, fragment: None }));
    }

    #[test]
    fn fragment_is_reported_and_ends_the_walk_when_not_first() {
        let first = [17, 0, 0, 1, 0, 0, 0, 9];
        let later = [60, 0, 0, 0x10, 0, 0, 0, 9]; // "destination options" here is payload of the datagram
        assert_eq!(
            chain(44, &first),
            Ok(Chain {
                protocol: 17,
                offset: 48,
                fragment: Some(Fragment { offset: 0, more: true, identification: 9, start: 48 })
            })
        );
        assert_eq!(
            chain(44, &later),
            Ok(Chain {
                protocol: 60,
                offset: 48,
                fragment: Some(Fragment { offset: 16, more: false, identification: 9, start: 48 })
            })
        );
    }

    #[test]
    fn chains_are_bounded() {
        let mut many = Vec::new();
        for _ in 0..9 {
            many.extend_from_slice(&[60, 0, 0, 0, 0, 0, 0, 0]);
        }
        assert_eq!(chain(60, &many), Err(ChainError::TooLong));
        let mut long = vec![0u8; 2 * 264];
        (long[0], long[1]) = (60, 32);
        (long[264], long[265]) = (60, 32);
        assert_eq!(chain(60, &long), Err(ChainError::TooLong));
    }

    #[test]
    fn cut_misplaced_and_forbidden_headers_are_refused() {
        assert_eq!(chain(60, &[6, 1, 0, 0, 0, 0, 0, 0]), Err(ChainError::Malformed));
        assert_eq!(chain(60, &[6, 0, 0]), Err(ChainError::Malformed));
        assert_eq!(chain(43, &[6, 0, 0, 1, 0, 0, 0, 0]), Err(ChainError::RoutingType0));
        assert_eq!(chain(60, &[0, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0]), Err(ChainError::Malformed));
        assert_eq!(chain(44, &[44, 0, 0, 1, 0, 0, 0, 9, 17, 0, 0, 1, 0, 0, 0, 9]), Err(ChainError::Malformed));
    }
}
