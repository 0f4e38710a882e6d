//! Routes for the tests of this folder: nested, in few places, and at the edges of the address space.

use proptest::prelude::*;

use super::lpm::{Address, MAX_VALUE, Prefix};

/// Few values, so that neighbours and outer prefixes often have the same one.
fn value() -> impl Strategy<Value = u32> + Clone {
    prop_oneof![8 => 0u32..5, 1 => Just(MAX_VALUE)]
}

/// Prefixes of IPv4: anywhere, in one /16, and in one /24, with the first and the last address of all.
pub fn ipv4_prefix() -> impl Strategy<Value = Prefix<u32>> + Clone {
    // A short prefix is painted over millions of slots, so there are few.
    let place = prop_oneof![
        20 => (any::<u32>(), 10u8..=32),
        1 => (any::<u32>(), 0u8..10),
        40 => (0u32..1 << 16, 12u8..=32).prop_map(|(low, length)| (0x0a01_0000 | low, length)),
        40 => (0u32..1 << 8, 22u8..=32).prop_map(|(low, length)| (0x0a01_0200 | low, length)),
        10 => (prop::sample::select(vec![0, u32::MAX]), 10u8..=32),
        1 => (prop::sample::select(vec![0, u32::MAX]), 0u8..10),
    ];
    (place, value()).prop_map(|((address, length), value)| (address, length, value))
}

/// Prefixes of IPv6: anywhere, in one /32, across the middle, in one /64, and the edges.
pub fn ipv6_prefix() -> impl Strategy<Value = Prefix<u128>> + Clone {
    const SUBNET: u128 = 0x2001_0db8_0000_0001 << 64;
    let place = prop_oneof![
        (any::<u128>(), 0u8..=128),
        (0u128..1 << 8, 28u8..=64).prop_map(|(low, length)| (SUBNET | low << 64, length)),
        (0u128..4, 0u128..4, 60u8..=128).prop_map(|(high, low, length)| (SUBNET ^ high << 64 | low << 62, length)),
        (0u128..1 << 10, 64u8..=128).prop_map(|(low, length)| (SUBNET | low, length)),
        (prop::sample::select(vec![0, u128::MAX]), 0u8..=128),
    ];
    (place, value()).prop_map(|((address, length), value)| (address, length, value))
}

pub fn ipv6_prefixes() -> impl Strategy<Value = Vec<Prefix<u128>>> {
    prop::collection::vec(ipv6_prefix(), 0..120)
}

/// The addresses at which an answer may change, and those beside them.
pub fn probes<A: Address>(prefixes: &[Prefix<A>]) -> Vec<A> {
    let edges = prefixes.iter().flat_map(|(address, length, _)| {
        let (first, last) = address.range(*length);
        [Some(first), Some(last), last.next(), first.previous(), Some(*address)]
    });
    edges.flatten().collect()
}
