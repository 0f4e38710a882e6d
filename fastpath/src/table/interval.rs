//! Longest prefix match for IPv6: runs of addresses with one answer, in trees of cache lines.
//!
//! A table is made from the sorted starts of its runs. The upper halves at which something begins stand in one tree, and
//! below an upper half in which more than one thing begins hangs a tree of lower halves:
//!
//!     starts   2001:db8:: A │ 2001:db8:0:1::5 B │ 2001:db8:0:1::6 A │ 2001:db9:: –
//!     upper    [ 2001:db8:0:0 → A │ 2001:db8:0:1 → tree │ 2001:db8:0:2 → A │ 2001:db9:0:0 → – ]
//!     lower                               └─ [ ::0 → A │ ::5 → B │ ::6 → A ]
//!
//! A node is one cache line of eight keys in order. All keys of a tree stand in its leaves; the nodes above hold the first
//! key of each of their nine children but the first. Children of node k are 9k … 9k + 8 of the level below, so no pointer is
//! kept, and 32 addresses go down one level after the other without a branch, each waiting for its line while the
//! others do.
//!
//! Invariants: the first key of every tree is 0, so that something is always found. An upper half with a tree is followed
//! by the next upper half, so that who arrives at a tree has exactly that upper half. A place without a key holds the
//! greatest number; in a leaf it has the answer of the last key before it.
//! Left out: insertion and removal; `ipv6.rs` lays edits over a table (`overlay.rs`) until it makes a new one.
//! See: Khuong, Morin, "Array Layouts for Comparison-Based Searching", 2017.

use super::lpm::Lpm;
use crate::mapped;

/// Keys of a node, and its children.
const KEYS: usize = 8;
const CHILDREN: usize = KEYS + 1;

/// Addresses that go down side by side.
const LANES: usize = 32;

/// The most runs that a table can be made of, and the levels that so many keys need: 9^8 leaves are enough for two keys
/// from each.
const MAX_RUNS: usize = 1 << 27;
const MAX_LEVELS: usize = 9;
const _: () = assert!(CHILDREN.pow(MAX_LEVELS as u32 - 1) * KEYS > 2 * MAX_RUNS);

/// In an answer: the number of a tree.
const TREE: u32 = 1 << 31;

#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Node([i64; KEYS]);
const _: () = assert!(size_of::<Node>() == 64);

/// A tree among the nodes of a table: its levels one after the other, the root first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tree {
    first_node: u32,
    first_answer: u32,
    leaves: u32,
}

/// What workers read.
#[derive(Debug)]
pub struct Interval {
    /// Tree by tree.
    nodes: Box<[Node]>,
    /// One for each key of each leaf: 0, value + 1, or the number of a tree.
    answers: Box<[u32]>,
    /// The tree of upper halves.
    upper: Tree,
    /// The trees of lower halves.
    lower: Box<[Tree]>,
}

impl Default for Interval {
    fn default() -> Self {
        Self::build(&Lpm::default())
    }
}

impl Interval {
    pub fn build(runs: &Lpm<u128>) -> Self {
        Self::from_runs(&runs.runs().collect::<Vec<_>>())
    }

    /// From runs in order, the first of which begins at 0. Panics when there are more than 2^27 of them.
    pub fn from_runs(runs: &[(u128, u32)]) -> Self {
        assert!(runs.len() <= MAX_RUNS, "a table of more than 2^27 runs");
        assert_eq!(runs.first().map(|run| run.0), Some(0), "runs that begin at 0");
        let mut builder = Builder::default();
        let mut lower = Vec::new();
        let mut upper: Vec<(u64, u32)> = Vec::new();
        let mut before = 0;
        for runs in runs.chunk_by(|one, next| one.0 >> 64 == next.0 >> 64) {
            let half = (runs[0].0 >> 64) as u64;
            // What follows a tree was not known to begin with something of its own.
            upper.pop_if(|last| last.0 == half);
            let mut keys: Vec<(u64, u32)> = Vec::new();
            if runs[0].0 as u64 != 0 {
                keys.push((0, before));
            }
            keys.extend(runs.iter().map(|run| (run.0 as u64, run.1.wrapping_add(1))));
            before = keys[keys.len() - 1].1;
            if keys.len() == 1 {
                upper.push((half, before));
                continue;
            }
            upper.push((half, TREE | lower.len() as u32));
            lower.push(builder.tree(&keys));
            if let Some(next) = half.checked_add(1) {
                upper.push((next, before));
            }
        }
        let upper = builder.tree(&upper);
        Self { nodes: builder.nodes.into(), answers: builder.answers.into(), upper, lower: lower.into() }
    }

    /// The value of the run that the address lies in.
    pub fn lookup(&self, address: u128) -> u32 {
        let answer = self.find_one(self.upper, (address >> 64) as u64);
        let answer = if answer & TREE == 0 { answer } else { self.find_one(self.tree(answer), address as u64) };
        answer.wrapping_sub(1)
    }

    /// The same for many addresses. Panics unless there is a value for each.
    pub fn lookup_burst(&self, addresses: &[u128], values: &mut [u32]) {
        assert_eq!(addresses.len(), values.len(), "a value for every address");
        for (addresses, values) in addresses.chunks(LANES).zip(values.chunks_mut(LANES)) {
            self.lookup_lanes(addresses, values);
        }
    }

    /// As many as go down side by side.
    #[inline]
    fn lookup_lanes(&self, addresses: &[u128], values: &mut [u32]) {
        self.find(self.upper, addresses.iter().map(|address| (address >> 64) as u64), values);
        let (any, all) = values.iter().fold((0, TREE), |(any, all), answer| (any | answer, all & answer));
        if any & TREE != 0 {
            let first = values[0];
            if all & TREE != 0 && values.iter().all(|answer| *answer == first) {
                // All in one subnet.
                self.find(self.tree(first), addresses.iter().map(|address| *address as u64), values);
            } else {
                for (address, value) in addresses.iter().zip(&mut *values).filter(|(_, value)| **value & TREE != 0) {
                    *value = self.find_one(self.tree(*value), *address as u64);
                }
            }
        }
        for value in values {
            *value = value.wrapping_sub(1);
        }
    }

    /// Bytes of memory.
    pub fn size(&self) -> usize {
        size_of_val(&*self.nodes) + size_of_val(&*self.answers) + size_of_val(&*self.lower)
    }

    fn tree(&self, answer: u32) -> Tree {
        self.lower[(answer & !TREE) as usize]
    }

    /// The answer of the last key of a tree that is not beyond this one.
    #[inline]
    fn find_one(&self, tree: Tree, key: u64) -> u32 {
        let (key, levels) = (biased(key), tree.levels());
        let mut nodes = &self.nodes[tree.first_node as usize..];
        let mut at = 0;
        for level in (1..levels.count).rev() {
            at = (at * CHILDREN + nodes[at].count(key)).min(levels.sizes[level - 1] - 1);
            nodes = &nodes[levels.sizes[level]..];
        }
        self.answers[tree.first_answer as usize + at * KEYS + nodes[at].count(key) - 1]
    }

    /// The same for the keys of some addresses.
    fn find(&self, tree: Tree, keys: impl Iterator<Item = u64>, answers: &mut [u32]) {
        let mut biased_keys = [0; LANES];
        for (place, key) in biased_keys.iter_mut().zip(keys) {
            *place = biased(key);
        }
        let levels = tree.levels();
        descend(&self.nodes[tree.first_node as usize..], &levels.sizes[..levels.count], &biased_keys, answers);
        let own = &self.answers[tree.first_answer as usize..];
        for answer in answers {
            *answer = own[*answer as usize];
        }
    }
}

/// How many nodes each level of a tree has, from the leaves up.
struct Levels {
    sizes: [usize; MAX_LEVELS],
    count: usize,
}

impl Tree {
    #[inline(always)]
    fn levels(self) -> Levels {
        let mut levels = Levels { sizes: [0; MAX_LEVELS], count: 0 };
        let mut size = self.leaves as usize;
        loop {
            levels.sizes[levels.count] = size;
            levels.count += 1;
            if size <= 1 {
                return levels;
            }
            size = size.div_ceil(CHILDREN);
        }
    }
}

impl Node {
    /// How many of the keys are not beyond this one.
    #[inline(always)]
    fn count(&self, key: i64) -> usize {
        self.0.iter().fold(0u64, |count, own| count + u64::from(*own <= key)) as usize
    }
}

/// In this form numbers are in order as signed ones, which is what vector instructions compare.
#[inline(always)]
fn biased(key: u64) -> i64 {
    (key ^ 1 << 63) as i64
}

/// For each key the place among the leaves' keys of the last one that is not beyond it, in all lanes side by side.
/// The sizes of levels are those of the leaves first, the nodes those of the root first.
#[multiversion::multiversion(targets("x86_64+avx2+popcnt+bmi1+bmi2", "aarch64+neon"))]
fn descend(nodes: &[Node], sizes: &[usize], keys: &[i64; LANES], places: &mut [u32]) {
    let mut below = nodes;
    places.fill(0);
    for level in (1..sizes.len()).rev() {
        let nodes;
        (nodes, below) = below.split_at(sizes[level]);
        let last = sizes[level - 1] - 1;
        for (place, key) in places.iter_mut().zip(keys) {
            let at = *place as usize;
            // Only the greatest key of all is as great as a place without one.
            let next = at.wrapping_mul(CHILDREN).wrapping_add(nodes[at].count(*key)).min(last);
            mapped::prefetch(&below[next]);
            *place = next as u32;
        }
    }
    for (place, key) in places.iter_mut().zip(keys) {
        let at = *place as usize;
        *place = at.wrapping_mul(KEYS).wrapping_add(below[at].count(*key)).wrapping_sub(1) as u32;
    }
}

#[derive(Default)]
struct Builder {
    nodes: Vec<Node>,
    answers: Vec<u32>,
}

impl Builder {
    fn tree(&mut self, keys: &[(u64, u32)]) -> Tree {
        let (first_node, first_answer) = (self.nodes.len(), self.answers.len());
        let leaves = keys.len().div_ceil(KEYS);
        self.answers.extend(keys.iter().map(|(_, answer)| *answer));
        // The answer of the last key stands in all places behind it.
        self.answers.resize(first_answer + leaves * KEYS, keys.last().map_or(0, |(_, answer)| *answer));
        let leaf_keys: Vec<i64> = keys.iter().map(|(key, _)| biased(*key)).collect();
        // Level by level, from the leaves up: the first key of each node, and the nodes.
        let mut firsts: Vec<i64> = leaf_keys.iter().copied().step_by(KEYS).collect();
        let mut levels = vec![leaf_keys.chunks(KEYS).map(Node::of).collect::<Vec<_>>()];
        while firsts.len() > 1 {
            levels.push(firsts.chunks(CHILDREN).map(|children| Node::of(&children[1..])).collect());
            firsts = firsts.iter().copied().step_by(CHILDREN).collect();
        }
        self.nodes.extend(levels.into_iter().rev().flatten());
        Tree { first_node: first_node as u32, first_answer: first_answer as u32, leaves: leaves as u32 }
    }
}

impl Node {
    /// Some keys, and the greatest number in the places behind them.
    fn of(keys: &[i64]) -> Self {
        let mut node = Self([i64::MAX; KEYS]);
        node.0[..keys.len()].copy_from_slice(keys);
        node
    }
}

#[cfg(test)]
mod tests {
    use super::super::lpm::{NO_VALUE, Prefix};
    use super::*;
    use crate::table::test_routes::{ipv6_prefixes, probes};
    use proptest::prelude::*;

    fn check(prefixes: Vec<Prefix<u128>>, more: &[u128]) {
        let runs = Lpm::build(prefixes.clone());
        let table = Interval::build(&runs);
        let mut probes = probes(&prefixes);
        probes.extend(more);
        let mut values = vec![0; probes.len()];
        table.lookup_burst(&probes, &mut values);
        for (probe, value) in probes.iter().zip(values) {
            let expected = runs.lookup(*probe);
            assert_eq!(table.lookup(*probe), expected, "{probe:x} alone, in {prefixes:x?}");
            assert_eq!(value, expected, "{probe:x} in a burst, in {prefixes:x?}");
        }
    }

    #[test]
    fn header_example() {
        let db8 = 0x2001_0db8 << 96;
        let table = Interval::build(&Lpm::build(vec![(db8, 32, 1), (db8 | 1 << 64 | 5, 128, 2)]));
        assert_eq!(table.upper.leaves, 1);
        assert_eq!(table.lower.len(), 1);
        let subnet = db8 | 1 << 64;
        let looked_up = [db8 - 1, db8, subnet | 4, subnet | 5, subnet | 6, subnet | 1 << 64, 0x2001_0db9 << 96];
        assert_eq!(looked_up.map(|address| table.lookup(address)), [NO_VALUE, 1, 1, 2, 1, 1, NO_VALUE]);
    }

    #[test]
    fn edges_of_the_address_space() {
        let last = u128::from(u64::MAX) << 64;
        check(vec![], &[0, u128::MAX]);
        check(vec![(0, 0, 1)], &[0, u128::MAX]);
        check(vec![(0, 128, 1), (u128::MAX, 128, 2)], &[]);
        check(vec![(last, 64, 1), (u128::MAX, 128, 2), (last, 128, 3)], &[]);
        check(vec![(0, 64, 1), (u128::from(u64::MAX), 128, 2)], &[1 << 64]);
        // Two subnets side by side, each with a tree.
        check(vec![(1 << 64 | 1, 128, 1), (2 << 64 | 1, 128, 2), (3 << 64, 64, 3)], &[]);
    }

    #[test]
    fn every_number_of_keys_in_a_tree() {
        for count in 0..800u128 {
            check((0..count).map(|number| (number << 80, 48, number as u32)).collect(), &[]);
        }
        for count in [1, 7, 8, 9, 80, 81, 900u128] {
            check((0..count).map(|number| (2 * number, 128, number as u32)).collect(), &[]);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]
        #[test]
        fn trees_equal_the_runs_they_are_made_of(prefixes in ipv6_prefixes(), more in prop::collection::vec(any::<u128>(), 40)) {
            check(prefixes, &more);
        }
    }
}
