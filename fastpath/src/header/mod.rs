//! One file per header: layout and accessors, no decisions.
//!
//! A view is made by `at(bytes)`, which is `None` when the fixed part does not fit; after that every accessor is
//! total. Multi-byte fields are read big-endian from their byte positions, so nothing depends on alignment.
//! What a value means, and whether it is acceptable, is decided in `stage/`.

pub mod arp;
pub mod build;
pub mod checksum;
pub mod ethernet;
pub mod icmp;
pub mod icmpv6;
pub mod ipv4;
pub mod ipv6;
pub mod tcp;
pub mod udp;

/// IP protocol numbers (IANA "Protocol Numbers").
pub mod protocol {
    pub const HOP_BY_HOP: u8 = 0;
    pub const ICMP: u8 = 1;
    pub const IPIP: u8 = 4;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const IPV6_ROUTING: u8 = 43;
    pub const IPV6_FRAGMENT: u8 = 44;
    pub const ESP: u8 = 50;
    pub const AUTHENTICATION: u8 = 51;
    pub const ICMPV6: u8 = 58;
    pub const NO_NEXT_HEADER: u8 = 59;
    pub const DESTINATION_OPTIONS: u8 = 60;
    pub const SCTP: u8 = 132;
    pub const UDPLITE: u8 = 136;

    /// Protocols whose header begins with two ports.
    pub const fn has_ports(number: u8) -> bool {
        matches!(number, TCP | UDP | SCTP | UDPLITE)
    }
}

/// Reads a big-endian 16-bit field at a constant position of a header.
#[inline(always)]
pub(crate) fn be16<const N: usize>(bytes: &[u8; N], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Reads a big-endian 32-bit field at a constant position of a header.
#[inline(always)]
pub(crate) fn be32<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Reads a big-endian 128-bit field at a constant position of a header.
#[inline(always)]
pub(crate) fn be128<const N: usize>(bytes: &[u8; N], at: usize) -> u128 {
    let mut field = [0u8; 16];
    field.copy_from_slice(&bytes[at..at + 16]);
    u128::from_be_bytes(field)
}
