//! Routes as a cluster has them, and as the public network has them; and addresses to look up.
//!
//! | set | what it is like |
//! |---|---|
//! | cluster, IPv4 | blocks of 64 addresses of 10.0.0.0/8 on other nodes, 110 endpoints of this one, a default route |
//! | cluster, IPv6 | the same in one /64 |
//! | public, IPv4 | 60,000 allocations and what is announced out of them, 61 % of it /24; one in a thousand is longer |
//! | public, IPv6 | 40,000 allocations of /29 to /32 and what is announced out of them, most of it /48 |
//!
//! Addresses are *inside*: in a route taken at random, anywhere in it; or *hot*: 20,000 of those, the n-th asked for 1/n as
//! often as the first. No prefix comes twice.

use std::collections::HashSet;

use fastpath::table::lpm::{Address, Prefix};

use crate::random::Random;

/// Different addresses before the first comes again: more than a branch predictor remembers.
pub const KEYS: usize = 1 << 18;

const NEXT_HOPS: u64 = 64;
/// Endpoints of one node, which is what Kubernetes allows by default.
const ENDPOINTS: u32 = 110;
const HOT: usize = 20_000;

/// Prefix lengths and how many of a thousand have them, about as in the public tables.
const LENGTHS_IPV4: [(u8, u64); 13] = [
    (24, 610),
    (23, 98),
    (22, 110),
    (21, 50),
    (20, 44),
    (19, 27),
    (18, 14),
    (17, 8),
    (16, 26),
    (15, 5),
    (14, 4),
    (13, 3),
    (28, 1),
];
const LENGTHS_IPV6: [(u8, u64); 9] =
    [(48, 590), (44, 90), (40, 90), (36, 50), (46, 50), (47, 50), (42, 30), (38, 20), (64, 30)];

/// A default route, endpoints of this node, and blocks of other nodes until there are as many.
pub fn cluster_ipv4(count: usize) -> Vec<Prefix<u32>> {
    let mut random = Random::new(4);
    let mut routes = Collected::new(vec![(0, 0, 0)]);
    for number in 0..ENDPOINTS.min(count as u32) {
        routes.add((0x0aff_ff00 - number, 32, 1 + number % 63));
    }
    while routes.len() < count {
        routes.add((0x0a00_0000 | (random.below(1 << 18) as u32) << 6, 26, random.below(NEXT_HOPS) as u32));
    }
    routes.all
}

/// The same in one /64.
pub fn cluster_ipv6(count: usize) -> Vec<Prefix<u128>> {
    let mut random = Random::new(6);
    let subnet = 0xfd00_0066 << 96;
    let mut routes = Collected::new(vec![(0, 0, 0), (subnet, 64, 1)]);
    for number in 0..u128::from(ENDPOINTS.min(count as u32)) {
        routes.add((subnet | 0xffff_ff00 << 16 | number, 128, 1 + number as u32 % 63));
    }
    while routes.len() < count {
        routes.add((subnet | u128::from(random.below(1 << 24)) << 6, 122, random.below(NEXT_HOPS) as u32));
    }
    routes.all
}

/// So many routes as a router of the public network has.
pub fn public_ipv4(count: usize) -> Vec<Prefix<u32>> {
    const ALLOCATIONS: usize = 60_000;
    let mut random = Random::new(24);
    let mut routes = Collected::new(vec![(0, 0, 0)]);
    let mut allocations = Vec::new();
    // Unicast, without what begins at 0 and 224.
    while allocations.len() < ALLOCATIONS.min(count / 8).max(1) {
        let length = 16 + random.below(7) as u8;
        let allocation = (0x0100_0000 + random.below(0xdf00_0000) as u32).range(length).0;
        routes.add((allocation, length, random.below(NEXT_HOPS) as u32));
        allocations.push((allocation, length));
    }
    while routes.len() < count {
        let (address, outer) = allocations[random.below(allocations.len() as u64) as usize];
        let length = one_of(&LENGTHS_IPV4, &mut random);
        // What is shorter than the allocation covers it.
        let inside = (random.next_u64() as u32).checked_shr(outer.into()).unwrap_or(0);
        routes.add(((address | inside).range(length).0, length, random.below(NEXT_HOPS) as u32));
        if random.below(8) == 0 {
            // Space that nobody has allocated as a whole.
            let address = 0x0100_0000 + random.below(0xdf00_0000) as u32;
            routes.add((address.range(24).0, 24, random.below(NEXT_HOPS) as u32));
        }
    }
    routes.all
}

/// The same of IPv6.
pub fn public_ipv6(count: usize) -> Vec<Prefix<u128>> {
    const ALLOCATIONS: usize = 40_000;
    let mut random = Random::new(48);
    let mut routes = Collected::new(vec![(0, 0, 0)]);
    let mut allocations = Vec::new();
    while allocations.len() < ALLOCATIONS.min(count / 4).max(1) {
        // 2400::/5, where the registries give from.
        let length = if random.below(4) == 0 { 29 } else { 32 };
        let allocation = ((0x2400_0000 + u128::from(random.below(0x0800_0000))) << 96).range(length).0;
        routes.add((allocation, length, random.below(NEXT_HOPS) as u32));
        allocations.push((allocation, length));
    }
    while routes.len() < count {
        let (address, outer) = allocations[random.below(allocations.len() as u64) as usize];
        let length = one_of(&LENGTHS_IPV6, &mut random);
        routes.add(((address | wide(&mut random) >> outer).range(length).0, length, random.below(NEXT_HOPS) as u32));
    }
    routes.all
}

/// Addresses in routes taken at random, the default route left out.
pub fn inside_ipv4(routes: &[Prefix<u32>]) -> Vec<u32> {
    inside(routes, |random| random.next_u64() as u32)
}

pub fn inside_ipv6(routes: &[Prefix<u128>]) -> Vec<u128> {
    inside(routes, wide)
}

fn inside<A>(routes: &[Prefix<A>], any: impl Fn(&mut Random) -> A) -> Vec<A>
where
    A: Address + std::ops::BitOr<Output = A> + std::ops::BitXor<Output = A> + std::ops::BitAnd<Output = A>,
{
    let mut random = Random::new(1);
    let longer: Vec<&Prefix<A>> = routes.iter().filter(|route| route.1 > 0).collect();
    let mut key = || {
        let (address, length, _) = longer[random.below(longer.len() as u64) as usize];
        let (first, last) = address.range(*length);
        first | any(&mut random) & (first ^ last)
    };
    (0..KEYS).map(|_| key()).collect()
}

/// A few of these addresses again and again, the first far more often than the last. See: Zipf, 1949.
pub fn hot<A: Copy>(keys: &[A]) -> Vec<A> {
    let mut random = Random::new(9);
    let few = &keys[..HOT.min(keys.len())];
    let mut sums = Vec::with_capacity(few.len());
    let mut sum = 0.0;
    for rank in 1..=few.len() {
        sum += 1.0 / rank as f64;
        sums.push(sum);
    }
    let mut key = || {
        let at = random.next_u64() as f64 / u64::MAX as f64 * sum;
        few[sums.partition_point(|sum| *sum < at).min(few.len() - 1)]
    };
    (0..KEYS).map(|_| key()).collect()
}

/// Routes in the order they were made, each prefix once.
struct Collected<A> {
    all: Vec<Prefix<A>>,
    seen: HashSet<(A, u8)>,
}

impl<A: Address + std::hash::Hash> Collected<A> {
    fn new(all: Vec<Prefix<A>>) -> Self {
        let seen = all.iter().map(|(address, length, _)| (*address, *length)).collect();
        Self { all, seen }
    }

    fn len(&self) -> usize {
        self.all.len()
    }

    fn add(&mut self, route: Prefix<A>) {
        if self.seen.insert((route.0, route.1)) {
            self.all.push(route);
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_prefix_comes_twice_and_none_has_host_bits() {
        fn check<A: Address + std::hash::Hash>(routes: Vec<Prefix<A>>, at_least: usize) {
            let seen: HashSet<(A, u8)> = routes.iter().map(|route| (route.0, route.1)).collect();
            assert!(seen.len() == routes.len() && routes.len() >= at_least && routes.len() <= at_least + 2);
            assert!(routes.iter().all(|(address, length, _)| address.range(*length).0 == *address));
        }
        for count in [500, 5000] {
            check(cluster_ipv4(count), count);
            check(cluster_ipv6(count), count);
            check(public_ipv4(count), count);
            check(public_ipv6(count), count);
        }
    }

    #[test]
    fn addresses_lie_in_routes() {
        let routes = public_ipv4(5000);
        let covers = |key: &u32| routes.iter().any(|(first, length, _)| *length > 0 && key.range(*length).0 == *first);
        assert!(inside_ipv4(&routes)[..500].iter().all(covers));
        assert_eq!(hot(&inside_ipv6(&public_ipv6(100))).len(), KEYS);
    }
}
