//! Groups of next hops: one route, several ways out, and a flow always by the same one.
//!
//!     route ──▶ adjacency of kind Group ──▶ [ A │ B │ C │ A │ … ]  64 buckets ──hash of the flow──▶ adjacency A, B or C
//!
//! A route of one next hop needs none of this: what is in its place is the next hop's adjacency itself. So packets pay for
//! groups only where there is a choice, and no more than once for a flow.
//!
//! The hash is of addresses, protocol and ports, the same in every process, with a seed of the node's own: otherwise all
//! routers in a row would choose alike, and the second would use only some of its ways. The two directions of a flow need
//! not choose alike. Which member has which bucket is control's business: when a member goes, its buckets go to the
//! others and theirs stay, so the flows of the others stay too.
//!
//! Invariants: every bucket names an adjacency of the same snapshot that is no group, or none when no member is left.
//! See: RFC 2992 for the share of flows that move; RFC 6438 for what to hash.

use super::{AdjacencyIndex, GroupIndex};
use crate::flow::Key;

/// Buckets of a group: as many members can have a share, and of few members each share is fair to 1/64.
pub const BUCKETS: usize = 64;
const _: () = assert!(BUCKETS.is_power_of_two());

/// The members, as often as their share.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Buckets(pub [AdjacencyIndex; BUCKETS]);

impl Default for Buckets {
    /// Nobody.
    fn default() -> Self {
        Self([AdjacencyIndex::NONE; BUCKETS])
    }
}

/// All groups of a snapshot, and what makes this node's choices its own.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Groups {
    pub groups: Vec<Buckets>,
    pub seed: u64,
}

impl Groups {
    /// The way of a flow by a group; NONE if the group has no member, or is none.
    #[inline]
    pub fn pick(&self, group: GroupIndex, key: &Key) -> AdjacencyIndex {
        let Some(group) = self.groups.get(group.index()) else { return AdjacencyIndex::NONE };
        group.0[hash(key, self.seed) as usize % BUCKETS]
    }
}

/// Odd numbers with as many ones as zeros, and no pattern: the fraction of the golden ratio, and of the root of 3.
const ONE: u64 = 0x9e37_79b9_7f4a_7c15;
const TWO: u64 = 0xbb67_ae85_84ca_a73b;

/// Folds the product of two words: every bit of both has a say in every bit that comes out.
#[inline(always)]
fn fold(one: u64, two: u64) -> u64 {
    let product = u128::from(one) * u128::from(two);
    product as u64 ^ (product >> 64) as u64
}

/// A hash of what makes a flow.
#[inline]
fn hash(key: &Key, seed: u64) -> u64 {
    let [a, b, c, d, ports] = key.words();
    let source = fold(a ^ seed ^ ONE, b ^ TWO);
    let destination = fold(c ^ seed ^ TWO, d ^ ONE);
    fold(source ^ ports ^ TWO, destination.rotate_left(23) ^ ONE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{KeyKind, mapped};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn key(number: u32) -> Key {
        Key {
            source: mapped(0x0a00_0000 | (number % 7)),
            destination: mapped(0xc000_0200 | (number % 251)),
            source_port: (number >> 3) as u16,
            destination_port: 80,
            protocol: 6,
            kind: KeyKind::Ports,
        }
    }

    /// Members in turn.
    fn groups(members: u32, seed: u64) -> Groups {
        let buckets = Buckets(std::array::from_fn(|bucket| AdjacencyIndex(bucket as u32 % members)));
        Groups { groups: vec![buckets], seed }
    }

    proptest! {
        /// The obvious twin: the buckets as a list of flows each, made by asking for every bucket alone.
        #[test]
        fn a_flow_has_one_bucket_and_follows_its_member(numbers in prop::collection::vec(any::<u32>(), 1..100), seed in any::<u64>()) {
            let alone = |bucket: usize| {
                let mut buckets = Buckets::default();
                buckets.0[bucket] = AdjacencyIndex(1);
                Groups { groups: vec![buckets], seed }
            };
            let groups = groups(5, seed);
            for number in numbers {
                let key = key(number);
                let of: Vec<usize> = (0..BUCKETS).filter(|b| !alone(*b).pick(GroupIndex(0), &key).is_none()).collect();
                prop_assert_eq!(of.len(), 1, "a flow is of one bucket");
                prop_assert_eq!(groups.pick(GroupIndex(0), &key), groups.groups[0].0[of[0]]);
            }
        }
    }

    /// Sum of squared differences from the expected number, over that number.
    fn chi_square(counts: &BTreeMap<u32, u32>, total: u32, bins: u32) -> f64 {
        let expected = f64::from(total) / f64::from(bins);
        (0..bins).map(|bin| (f64::from(counts.get(&bin).copied().unwrap_or(0)) - expected).powi(2) / expected).sum()
    }

    #[test]
    fn flows_that_differ_in_one_thing_spread_evenly() {
        const FLOWS: u32 = 64_000;
        let everywhere =
            Groups { groups: vec![Buckets(std::array::from_fn(|bucket| AdjacencyIndex(bucket as u32)))], seed: 7 };
        let check = |what: &str, key: &dyn Fn(u32) -> Key| {
            let mut counts = BTreeMap::new();
            for number in 0..FLOWS {
                *counts.entry(everywhere.pick(GroupIndex(0), &key(number)).0).or_insert(0) += 1;
            }
            // 63 degrees of freedom: 120 has a chance of one in a hundred thousand.
            let found = chi_square(&counts, FLOWS, BUCKETS as u32);
            assert!(found < 120.0, "{what}: {found}");
        };
        let base = key(0);
        check("source port", &|n| Key { source_port: n as u16, ..base });
        check("destination port", &|n| Key { destination_port: n as u16, ..base });
        check("source", &|n| Key { source: mapped(0x0a00_0000 + n), ..base });
        check("destination", &|n| Key { destination: mapped(0x0a00_0000 + n), ..base });
        check("IPv6 source", &|n| Key { source: 0xfd << 120 | u128::from(n), destination: 1 << 120, ..base });
        check("IPv6 subnet", &|n| Key { source: 1 << 120, destination: 0xfd << 120 | u128::from(n) << 64, ..base });
        check("both ports alike", &|n| Key { source_port: n as u16, destination_port: n as u16, ..base });
    }

    #[test]
    fn the_next_router_in_a_row_chooses_otherwise() {
        let (first, second) = (groups(2, 1), groups(2, 2));
        let of_first = (0..40_000).map(key).filter(|key| first.pick(GroupIndex(0), key) == AdjacencyIndex(0));
        let mut counts = BTreeMap::new();
        let mut total = 0;
        for key in of_first {
            *counts.entry(second.pick(GroupIndex(0), &key).0).or_insert(0) += 1;
            total += 1;
        }
        assert!(chi_square(&counts, total, 2) < 20.0, "{counts:?}");
    }

    #[test]
    fn no_group_and_no_member() {
        assert!(Groups::default().pick(GroupIndex::NONE, &key(1)).is_none());
        let empty = Groups { groups: vec![Buckets::default()], seed: 0 };
        assert!(empty.pick(GroupIndex(0), &key(1)).is_none());
    }
}
