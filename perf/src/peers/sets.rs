//! Routes, rules and keys that both sides are given: ours, and DPDK's in `perf/peers/dpdk_tables.c`.
//!
//! | set | what it is like |
//! |---|---|
//! | cluster | blocks of 64 addresses of 10.0.0.0/8, and 110 endpoints of this node |
//! | BGP-like | lengths as in the public table of today, and one in a hundred longer than 24 |
//! | BGP-like, IPv6 | allocations of /29 to /32 and what is announced out of them, mostly /48 |
//! | rules | [`crate::tables::policy`], as far as `rte_acl` can say it: all of it |
//!
//! Keys of routes are addresses inside routes, any route as likely as any other. Of the keys of rules one half matches a
//! rule taken at random, unless one before it does, and one half only the last. No prefix comes twice, so that adding and deleting mean the same to all.

use std::collections::HashSet;

use fastpath::flow::MAPPED_PREFIX;
use fastpath::table::acl::{AclSpec, Question, RuleSpec};
use fastpath::table::lpm::Prefix;

use crate::generator::Random;
use crate::tables;

/// Keys of a set: more than a branch predictor remembers, and more cache lines than a second-level cache has.
pub const KEYS: usize = 1 << 18;
/// Endpoints of one node, which is what Kubernetes allows by default.
const ENDPOINTS: u32 = 110;
const NEXT_HOPS: u64 = 64;

/// Prefix lengths of the public IPv4 table, in per mille, as its yearly reports give them, rounded.
const LENGTHS_IPV4: [(u8, u64); 14] = [
    (24, 595),
    (23, 98),
    (22, 111),
    (21, 50),
    (20, 44),
    (19, 26),
    (18, 14),
    (17, 8),
    (16, 14),
    (15, 5),
    (14, 5),
    (12, 10),
    (28, 10),
    (32, 10),
];
/// Of IPv6: what is announced out of allocations.
const LENGTHS_IPV6: [(u8, u64); 10] =
    [(48, 520), (44, 100), (40, 110), (36, 60), (46, 40), (47, 40), (42, 40), (38, 30), (56, 30), (64, 30)];
const ALLOCATIONS: usize = 20_000;

/// A cluster of so many blocks.
pub fn cluster_ipv4(count: usize) -> Vec<Prefix<u32>> {
    let mut routes = unique(tables::cluster_routes_ipv4(count));
    routes.extend((0..ENDPOINTS).map(|number| (tables::A_IPV4 + number, 32, number % NEXT_HOPS as u32)));
    unique(routes)
}

/// So many routes as a router of the public network has them.
pub fn public_ipv4(count: usize) -> Vec<Prefix<u32>> {
    let mut random = Random::new(24);
    let mut seen = HashSet::with_capacity(count);
    let mut routes = Vec::with_capacity(count);
    while routes.len() < count {
        let length = one_of(&LENGTHS_IPV4, &mut random);
        // Unicast, without 0.0.0.0/8 and what begins at 224.
        let address = (0x0100_0000 + random.below(0xdf00_0000) as u32) & (u32::MAX << (32 - length));
        if seen.insert((address, length)) {
            routes.push((address, length, random.below(NEXT_HOPS) as u32));
        }
    }
    routes
}

/// The same of IPv6.
pub fn public_ipv6(count: usize) -> Vec<Prefix<u128>> {
    let mut random = Random::new(48);
    let mut seen = HashSet::with_capacity(count);
    let mut allocations: Vec<Prefix<u128>> = Vec::with_capacity(ALLOCATIONS);
    while allocations.len() < ALLOCATIONS.min(count) {
        // 2400::/6 to 2a00::/6, where the registries give from, in blocks of 2^96 addresses.
        let address = (0x2400_0000 + u128::from(random.below(0x0800_0000))) << 96;
        let length = if random.below(4) == 0 { 29 } else { 32 };
        let address = address & (u128::MAX << (128 - length));
        if seen.insert((address, length)) {
            allocations.push((address, length, random.below(NEXT_HOPS) as u32));
        }
    }
    let mut routes = allocations.clone();
    while routes.len() < count {
        let (base, outer, _) = allocations[random.below(allocations.len() as u64) as usize];
        let length = one_of(&LENGTHS_IPV6, &mut random);
        let address = (base | wide(&mut random) >> outer) & (u128::MAX << (128 - length));
        if seen.insert((address, length)) {
            routes.push((address, length, random.below(NEXT_HOPS) as u32));
        }
    }
    routes
}

pub fn keys_ipv4(routes: &[Prefix<u32>]) -> Vec<u32> {
    let mut random = Random::new(1);
    let mut key = || {
        let (address, length, _) = routes[random.below(routes.len() as u64) as usize];
        address | (u64::from(random.next_u64() as u32) & ((1 << (32 - length)) - 1)) as u32
    };
    (0..KEYS).map(|_| key()).collect()
}

pub fn keys_ipv6(routes: &[Prefix<u128>]) -> Vec<u128> {
    let mut random = Random::new(2);
    let mut key = || {
        let (address, length, _) = routes[random.below(routes.len() as u64) as usize];
        address | wide(&mut random).checked_shr(u32::from(length)).unwrap_or(0)
    };
    (0..KEYS).map(|_| key()).collect()
}

/// A rule as `rte_acl` takes it: addresses as prefixes, ports as ranges, and a protocol under a mask.
pub fn rule_words(rule: &RuleSpec) -> Option<[u32; 10]> {
    let plain = |side: &fastpath::table::acl::SideMatch| {
        !side.never
            && side.nets.len() <= 1
            && side.ports.len() <= 1
            && side.not_nets.is_empty()
            && side.sets.is_empty()
            && side.not_sets.is_empty()
            && side.named_ports.is_empty()
            && side.not_ports.is_empty()
            && side.not_named_ports.is_empty()
    };
    if !plain(&rule.source) || !plain(&rule.destination) || rule.l4.icmp.is_some() || rule.l4.not_protocol.is_some() {
        return None;
    }
    let net = |nets: &[(u128, u128)]| match nets.first() {
        Some((first, last)) => {
            let host_bits = (last - first + 1).ilog2();
            (*first as u32, 32 - host_bits)
        }
        None => (0, 0),
    };
    let ports = |ports: &[(u16, u16)]| match ports.first() {
        Some((first, last)) => (u32::from(*first), u32::from(*last)),
        None => (0, u32::from(u16::MAX)),
    };
    let ((source, source_length), (destination, destination_length)) =
        (net(&rule.source.nets), net(&rule.destination.nets));
    let (source_ports, destination_ports) = (ports(&rule.source.ports), ports(&rule.destination.ports));
    let (protocol, mask) = rule.l4.protocol.map_or((0, 0), |protocol| (u32::from(protocol), 0xff));
    Some([
        source,
        source_length,
        destination,
        destination_length,
        source_ports.0,
        source_ports.1,
        destination_ports.0,
        destination_ports.1,
        protocol,
        mask,
    ])
}

pub fn questions(spec: &AclSpec) -> Vec<Question> {
    let mut random = Random::new(3);
    let block = &spec.blocks[0];
    let mut question = |position: usize| {
        let rule = &block[random.below(block.len() as u64) as usize];
        let net = rule.source.nets.first().filter(|_| position.is_multiple_of(2));
        let source = match net {
            Some((first, last)) => first + u128::from(random.below((last - first + 1) as u64)),
            None => MAPPED_PREFIX | u128::from(tables::A_IPV4 | random.below(1 << 16) as u32),
        };
        Question {
            source,
            destination: MAPPED_PREFIX | u128::from(tables::B_IPV4 | random.below(1 << 16) as u32),
            is_ipv4: true,
            protocol: rule.l4.protocol.unwrap_or(17),
            source_port: random.next_u64() as u16,
            destination_port: rule.destination.ports.first().map_or(9, |(first, _)| *first),
            icmp: None,
        }
    };
    (0..KEYS).map(&mut question).collect()
}

fn one_of(lengths: &[(u8, u64)], random: &mut Random) -> u8 {
    let total = lengths.iter().map(|(_, weight)| weight).sum();
    let mut left = random.below(total);
    for (length, weight) in lengths {
        match left.checked_sub(*weight) {
            Some(rest) => left = rest,
            None => return *length,
        }
    }
    unreachable!("a number below the sum of all weights")
}

fn wide(random: &mut Random) -> u128 {
    u128::from(random.next_u64()) << 64 | u128::from(random.next_u64())
}

fn unique(routes: Vec<Prefix<u32>>) -> Vec<Prefix<u32>> {
    let mut seen = HashSet::with_capacity(routes.len());
    routes.into_iter().filter(|(address, length, _)| seen.insert((*address, *length))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_inside_routes_and_no_prefix_comes_twice() {
        let routes = public_ipv4(1000);
        let prefixes: HashSet<(u32, u8)> = routes.iter().map(|route| (route.0, route.1)).collect();
        assert_eq!(prefixes.len(), 1000);
        let covers = |key: u32| (1..=32).any(|length| prefixes.contains(&(key & (u32::MAX << (32 - length)), length)));
        assert!(keys_ipv4(&routes).into_iter().all(covers));
        let routes = public_ipv6(1000);
        assert!(routes.iter().all(|(address, length, _)| address & !(u128::MAX << (128 - length)) == 0));
        assert_eq!(keys_ipv6(&routes).len(), KEYS);
    }

    #[test]
    fn every_rule_can_be_said() {
        let spec = tables::policy(100);
        let words: Vec<_> = spec.blocks[0].iter().map(rule_words).collect();
        assert!(words.iter().all(Option::is_some));
        assert_eq!(words[99], Some([0, 0, 0, 0, 0, 65535, 0, 65535, 0, 0]));
    }
}
