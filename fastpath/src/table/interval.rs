//! Longest prefix match for IPv6: runs of addresses with one answer, in trees of cache lines.
//!
//! A table is made from the sorted starts of its runs. The upper halves at which something begins stand in one tree, and
//! below an upper half in which more than one thing begins hangs a tree of lower halves:
//!
//!     starts   2001:db8:: A │ 2001:db8:0:1::5 B │ 2001:db8:0:1::6 A │ 2001:db9:: –
//!     upper    [ 2001:db8:0:0 → A │ 2001:db8:0:1 → tree │ 2001:db8:0:2 → A │ 2001:db9:0:0 → – ]
//!     lower                               └─ [ ::0 → A │ ::5 → B │ ::6 → A ]
//!
//! A node is one cache line of eight keys in order. Node k of a tree has nine children, 9k + 1 … 9k + 9, which hold what
//! lies before, between and behind its keys; so no pointer is kept, and 32 addresses go down one level after the other
//! without a branch, each waiting for its line while the others do.
//!
//! Invariants: the first key of every tree is 0, so that something is always found. An upper half with a tree is followed
//! by the next upper half, so that who arrives at a tree has exactly that upper half. A place without a key holds the
//! greatest number and the answer of the last key before it.
//! Left out: insertion and removal; `ipv6.rs` lays edits over a table until it makes a new one.
//! See: Khuong, Morin, "Array Layouts for Comparison-Based Searching", 2017.

use super::lpm::Lpm;
use crate::mapped;

/// Keys of a node.
const KEYS: usize = 8;

/// Addresses that go down side by side.
const LANES: usize = 32;

/// In an answer: the number of a tree.
const TREE: u32 = 1 << 31;

#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Node([i64; KEYS]);
const _: () = assert!(size_of::<Node>() == 64);

/// A tree among the nodes of a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tree {
    first: u32,
    nodes: u32,
}

/// What workers read.
#[derive(Debug)]
pub struct Interval {
    /// Tree by tree.
    nodes: Box<[Node]>,
    /// One for each key: 0, value + 1, or the number of a tree.
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
        assert!(runs.len() < 1 << 27, "a table of more than 2^27 runs");
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
    #[inline]
    pub fn lookup(&self, address: u128) -> u32 {
        let answer = self.find(self.upper, (address >> 64) as u64);
        let answer = if answer & TREE == 0 { answer } else { self.find(self.tree(answer), address as u64) };
        answer.wrapping_sub(1)
    }

    /// The same for many addresses. Panics unless there is a value for each.
    pub fn lookup_burst(&self, addresses: &[u128], values: &mut [u32]) {
        assert_eq!(addresses.len(), values.len(), "a value for every address");
        for (addresses, values) in addresses.chunks(LANES).zip(values.chunks_mut(LANES)) {
            let mut keys = [0; LANES];
            for (key, address) in keys.iter_mut().zip(addresses) {
                *key = biased((address >> 64) as u64);
            }
            let answers = self.answers_in(self.upper, &keys);
            let trees = answers.iter().fold(0, |all, answer| all | answer) & TREE != 0;
            if trees {
                self.lower_halves(addresses, answers, values);
            } else {
                for (value, answer) in values.iter_mut().zip(answers) {
                    *value = answer.wrapping_sub(1);
                }
            }
        }
    }

    /// The second half of the way, for those that have one.
    fn lower_halves(&self, addresses: &[u128], answers: [u32; LANES], values: &mut [u32]) {
        let first = answers[0];
        if first & TREE != 0 && answers[..addresses.len()].iter().all(|answer| *answer == first) {
            // All in one subnet: as for the upper halves.
            let mut keys = [0; LANES];
            for (key, address) in keys.iter_mut().zip(addresses) {
                *key = biased(*address as u64);
            }
            let answers = self.answers_in(self.tree(first), &keys);
            for (value, answer) in values.iter_mut().zip(answers) {
                *value = answer.wrapping_sub(1);
            }
            return;
        }
        for ((address, answer), value) in addresses.iter().zip(answers).zip(values) {
            let answer = if answer & TREE == 0 { answer } else { self.find(self.tree(answer), *address as u64) };
            *value = answer.wrapping_sub(1);
        }
    }

    fn tree(&self, answer: u32) -> Tree {
        self.lower[(answer & !TREE) as usize]
    }

    /// The answer of the last key of a tree that is not beyond this one.
    #[inline]
    fn find(&self, tree: Tree, key: u64) -> u32 {
        let nodes = self.nodes_of(tree);
        let key = biased(key);
        let (mut at, mut found) = (0, 0);
        while let Some(node) = nodes.get(at) {
            let count = node.count(key);
            if count > 0 {
                found = at * KEYS + count - 1;
            }
            at = at * (KEYS + 1) + 1 + count;
        }
        self.answers[tree.first as usize * KEYS + found]
    }

    /// The same for 32 keys of one tree.
    fn answers_in(&self, tree: Tree, keys: &[i64; LANES]) -> [u32; LANES] {
        let found = descend(self.nodes_of(tree), keys);
        let answers = &self.answers[tree.first as usize * KEYS..];
        found.map(|found| answers[found as usize])
    }

    fn nodes_of(&self, tree: Tree) -> &[Node] {
        &self.nodes[tree.first as usize..][..tree.nodes as usize]
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

/// For each key the place of the last one that is not beyond it, in all levels of a tree side by side.
#[multiversion::multiversion(targets(
    "x86_64+avx512f+avx512vl+popcnt",
    "x86_64+avx2+popcnt+bmi1+bmi2",
    "aarch64+neon"
))]
fn descend(nodes: &[Node], keys: &[i64; LANES]) -> [u32; LANES] {
    let mut found = [0u32; LANES];
    let Some(last) = nodes.len().checked_sub(1) else { return found };
    let mut at = [0usize; LANES];
    // The first node of the level at hand.
    let mut level = 0;
    while level <= last {
        for lane in 0..LANES {
            let place = at[lane];
            let count = nodes[place.min(last)].count(keys[lane]);
            // Below the last level the last node is looked at once more, for nothing.
            let is_found = (place <= last) & (count > 0);
            let position = place.wrapping_mul(KEYS).wrapping_add(count).wrapping_sub(1) as u32;
            found[lane] = if is_found { position } else { found[lane] };
            let next = place.wrapping_mul(KEYS + 1).wrapping_add(1 + count);
            mapped::prefetch(&nodes[next.min(last)]);
            at[lane] = next;
        }
        level = level * (KEYS + 1) + 1;
    }
    found
}

#[derive(Default)]
struct Builder {
    nodes: Vec<Node>,
    answers: Vec<u32>,
}

impl Builder {
    fn tree(&mut self, keys: &[(u64, u32)]) -> Tree {
        let first = self.nodes.len();
        let nodes = keys.len().div_ceil(KEYS);
        // The answer of the last key stands in all places behind it.
        let last = keys.last().map_or(0, |(_, answer)| *answer);
        self.nodes.resize(first + nodes, Node([biased(u64::MAX); KEYS]));
        self.answers.resize((first + nodes) * KEYS, last);
        let rest = self.fill(first, nodes, 0, keys);
        debug_assert!(rest.is_empty());
        Tree { first: first as u32, nodes: nodes as u32 }
    }

    /// Puts keys into a node and all nodes below it, in order. Returns those that are left.
    fn fill<'a>(&mut self, first: usize, nodes: usize, at: usize, mut keys: &'a [(u64, u32)]) -> &'a [(u64, u32)] {
        if at >= nodes {
            return keys;
        }
        for place in 0..KEYS {
            keys = self.fill(first, nodes, at * (KEYS + 1) + 1 + place, keys);
            if let Some(((key, answer), rest)) = keys.split_first() {
                self.nodes[first + at].0[place] = biased(*key);
                self.answers[(first + at) * KEYS + place] = *answer;
                keys = rest;
            }
        }
        self.fill(first, nodes, at * (KEYS + 1) + 1 + KEYS, keys)
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
        assert_eq!(table.upper.nodes, 1);
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
