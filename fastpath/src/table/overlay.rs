//! What has changed since a table was made: runs of addresses with one answer each, in parts that snapshots share.
//!
//!     starts   [ 0 │ 2001:db8:40:: │ 2001:db9:: ]           the first address of each part
//!     parts      │        │              └─ [ 2001:db9:: pass │ 2001:db9:1:: D │ … ]
//!                │        └─ [ 2001:db8:40:: B │ … ]        at most 64 runs
//!                └─ [ 0 pass │ 2001:db8:7:: C │ 2001:db8:8:: pass ]
//!
//! A change makes the parts anew that it touches, which is one nearly always; a copy of the whole has the others in common.
//! So what a change costs does not grow with how many there were before.
//!
//! Invariants: a published overlay never changes. Starts of parts and of runs grow, the first of all is 0, and a part begins
//! with its start. No part has more than `PART` runs.

use std::sync::Arc;

use super::lpm::Address;

/// Most runs of a part: as much as is searched in about as many steps as there are parts.
const PART: usize = 64;

/// Addresses that are looked up side by side.
const LANES: usize = 32;

/// Runs that lie together.
#[derive(Debug, Default)]
struct Part {
    starts: Box<[u128]>,
    values: Box<[u32]>,
}

/// All of them. A copy is cheap.
#[derive(Clone, Debug)]
pub struct Overlay {
    starts: Vec<u128>,
    parts: Vec<Arc<Part>>,
    runs: usize,
}

/// The position of the last start that is not beyond the address. There is one: the first is not beyond any.
#[inline(always)]
fn last_at_most(starts: &[u128], address: u128) -> usize {
    starts.partition_point(|start| *start <= address).saturating_sub(1)
}

impl Part {
    fn of(runs: &[(u128, u32)]) -> Arc<Self> {
        let (starts, values): (Vec<_>, Vec<_>) = runs.iter().copied().unzip();
        Arc::new(Self { starts: starts.into(), values: values.into() })
    }

    #[inline(always)]
    fn lookup(&self, address: u128) -> u32 {
        self.values[last_at_most(&self.starts, address)]
    }

    fn runs(&self) -> impl Iterator<Item = (u128, u32)> {
        self.starts.iter().copied().zip(self.values.iter().copied())
    }
}

impl Overlay {
    /// One answer for all addresses.
    pub fn of_one(value: u32) -> Self {
        Self { starts: vec![0], parts: vec![Part::of(&[(0, value)])], runs: 1 }
    }

    /// Number of runs.
    pub fn len(&self) -> usize {
        self.runs
    }

    /// Number of parts.
    pub fn parts(&self) -> usize {
        self.parts.len()
    }

    /// Never: there is always one run.
    pub fn is_empty(&self) -> bool {
        self.runs == 0
    }

    /// Bytes of memory, of parts that other overlays share too.
    pub fn size(&self) -> usize {
        let part = |part: &Arc<Part>| size_of::<Part>() + size_of_val(&*part.starts) + size_of_val(&*part.values);
        size_of_val(&*self.starts) + size_of_val(&*self.parts) + self.parts.iter().map(part).sum::<usize>()
    }

    /// The value of the run that the address lies in.
    #[inline]
    pub fn lookup(&self, address: u128) -> u32 {
        self.parts[last_at_most(&self.starts, address)].lookup(address)
    }

    /// The same for many addresses. Panics unless there is a value for each.
    pub fn lookup_burst(&self, addresses: &[u128], values: &mut [u32]) {
        assert_eq!(addresses.len(), values.len(), "a value for every address");
        for (addresses, values) in addresses.chunks(LANES).zip(values.chunks_mut(LANES)) {
            // All parts first, so that as many waits for memory overlap as can.
            let mut parts = [0; LANES];
            for (part, address) in parts.iter_mut().zip(addresses) {
                *part = last_at_most(&self.starts, *address);
            }
            for ((value, part), address) in values.iter_mut().zip(parts).zip(addresses) {
                *value = self.parts[part].lookup(*address);
            }
        }
    }

    /// What is said of the addresses from the first to the last becomes what these runs say, which begin with the first.
    pub fn replace(&mut self, (first, last): (u128, u128), runs: &[(u128, u32)]) {
        debug_assert_eq!(runs.first().map(|run| run.0), Some(first), "runs that begin with the first address");
        let (from, to) = (last_at_most(&self.starts, first), last_at_most(&self.starts, last));
        let (before, behind) = (&self.parts[from], &self.parts[to]);
        let mut joined: Vec<(u128, u32)> = before.runs().take_while(|(start, _)| *start < first).collect();
        joined.extend(runs);
        // Nothing, if the last address is the last of all, or of its part.
        let next = last.next().filter(|next| self.starts.get(to + 1) != Some(next));
        if let Some(next) = next {
            joined.push((next, behind.lookup(next)));
            joined.extend(behind.runs().filter(|(start, _)| *start > next));
        }
        joined.dedup_by(|run, before| run.1 == before.1);
        let replaced: usize = self.parts[from..=to].iter().map(|part| part.starts.len()).sum();
        self.runs = self.runs - replaced + joined.len();
        let each = joined.len().div_ceil(joined.len().div_ceil(PART).max(1)).max(1);
        self.starts.splice(from..=to, joined.chunks(each).map(|part| part[0].0));
        self.parts.splice(from..=to, joined.chunks(each).map(Part::of));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// The obvious twin: one sorted map.
    struct Plain(BTreeMap<u128, u32>);

    impl Plain {
        fn lookup(&self, address: u128) -> u32 {
            self.0.range(..=address).next_back().map_or(u32::MAX, |(_, value)| *value)
        }

        fn replace(&mut self, (first, last): (u128, u128), runs: &[(u128, u32)]) {
            let behind = last.checked_add(1).map(|next| (next, self.lookup(next)));
            self.0.retain(|start, _| *start < first || *start > last);
            self.0.extend(runs.iter().copied());
            self.0.extend(behind);
        }
    }

    fn check(overlay: &Overlay, plain: &Plain, more: &[u128]) {
        let mut probes: Vec<u128> = more.to_vec();
        for start in plain.0.keys() {
            probes.extend([*start, start.wrapping_sub(1), start.wrapping_add(1)]);
        }
        let mut values = vec![0; probes.len()];
        overlay.lookup_burst(&probes, &mut values);
        for (probe, value) in probes.iter().zip(values) {
            let expected = plain.lookup(*probe);
            assert_eq!(overlay.lookup(*probe), expected, "{probe:x} alone");
            assert_eq!(value, expected, "{probe:x} in a burst");
        }
        let starts: Vec<u128> = overlay.parts.iter().flat_map(|part| part.starts.iter().copied()).collect();
        assert_eq!((starts[0], starts.len()), (0, overlay.len()));
        assert!(starts.is_sorted_by(|one, next| one < next));
        assert!(overlay.parts.iter().all(|part| part.starts.len() <= PART));
        assert!(overlay.parts.iter().zip(&overlay.starts).all(|(part, start)| part.starts[0] == *start));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        #[test]
        fn equals_a_sorted_map(
            changes in prop::collection::vec((0u128..4096, 0u32..8, prop::collection::vec((0u128..64, 0u32..5), 1..8)), 1..300),
            is_high in any::<bool>(),
            more in prop::collection::vec(any::<u128>(), 8),
        ) {
            let (mut overlay, mut plain) = (Overlay::of_one(9), Plain(BTreeMap::from([(0, 9)])));
            let mut published: Vec<(Overlay, Vec<(u128, u32)>)> = Vec::new();
            for (place, size, runs) in changes {
                // Few distinct bits, at one end of the address space or at the other, so that changes meet.
                let size = 1u128 << size;
                let first = if is_high { u128::MAX - 4096 + 1 + place / size * size } else { place / size * size };
                let last = first + (size - 1);
                let mut inside: BTreeMap<u128, u32> = runs.into_iter().map(|(at, value)| (first + at % size, value)).collect();
                inside.entry(first).or_insert(7);
                let inside: Vec<(u128, u32)> = inside.into_iter().collect();
                overlay.replace((first, last), &inside);
                plain.replace((first, last), &inside);
                if published.len() < 4 {
                    published.push((overlay.clone(), plain.0.iter().map(|(start, value)| (*start, *value)).collect()));
                }
            }
            check(&overlay, &plain, &more);
            // What was published stays what it was.
            for (overlay, runs) in published {
                check(&overlay, &Plain(runs.into_iter().collect()), &more);
            }
        }
    }

    #[test]
    fn a_change_leaves_all_other_parts_as_they_are() {
        let mut overlay = Overlay::of_one(0);
        for number in 0..1000u128 {
            overlay.replace((number << 64, (number << 64) + 1), &[(number << 64, 1)]);
        }
        let before = overlay.clone();
        overlay.replace((500 << 64, 500 << 64), &[(500 << 64, 2)]);
        let kept = overlay.parts.iter().filter(|part| before.parts.iter().any(|old| Arc::ptr_eq(old, part)));
        assert_eq!(kept.count(), before.parts() - 1);
        assert!(before.parts() < 100, "parts are at least half full where changes come one after the other");
        // And one over everything leaves one.
        overlay.replace((0, u128::MAX), &[(0, 5)]);
        assert_eq!((overlay.parts(), overlay.len(), overlay.lookup(u128::MAX)), (1, 1, 5));
    }
}
