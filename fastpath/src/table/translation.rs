//! Whose source is translated, for whom, and with which ports.
//!
//! A flow that a workload begins and that leaves by an uplink gets another source if its own is among `sources` and its
//! destination is not among `exempt`. Which address it gets, its uplink says ([`super::interface::Interface::outside`]).
//!
//! Ports are shared out among workers, so that two never choose the same at the same time; within its part a worker takes
//! one under which no flow is known. What comes to such an address and port and belongs to no flow is the host's.
//!
//! Source: RFC 4787 and RFC 5382 for what a translator may do; of these, mappings are per destination (address and port
//! dependent), as Linux' are.

use std::fmt;

use crate::flow::translation::SourceIndex;

/// A set of addresses: first and last of each run, in order, none touching the next. IPv4 mapped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges(Vec<(u128, u128)>);

impl Ranges {
    pub fn new(mut ranges: Vec<(u128, u128)>) -> Self {
        ranges.retain(|(first, last)| first <= last);
        ranges.sort_unstable();
        let mut merged: Vec<(u128, u128)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match merged.last_mut() {
                Some(before) if before.1 >= first.saturating_sub(1) => before.1 = before.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        Self(merged)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[inline]
    pub fn contains(&self, address: u128) -> bool {
        let after = self.0.partition_point(|(first, _)| *first <= address);
        after.checked_sub(1).and_then(|before| self.0.get(before)).is_some_and(|(_, last)| address <= *last)
    }
}

/// Ports that sources are given: first and last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    pub first: u16,
    pub last: u16,
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl Default for Ports {
    /// Those of Calico's eBPF dataplane (`BPFPSNATPorts`): below those that Linux gives to the host's own connections.
    fn default() -> Self {
        Self { first: 20_000, last: 29_999 }
    }
}

impl Ports {
    /// The part of worker `index` of `workers`. There is none for some when there are more workers than ports.
    pub fn part(self, index: usize, workers: usize) -> Option<Ports> {
        let (index, workers) = (index as u32, workers.max(1) as u32);
        let count = u32::from(self.last).checked_sub(u32::from(self.first))? + 1;
        let start =
            |index: u32| u32::from(self.first) + (u64::from(count) * u64::from(index) / u64::from(workers)) as u32;
        let (first, end) = (start(index), start(index.checked_add(1)?));
        (index < workers && first < end).then(|| Ports { first: first as u16, last: (end - 1) as u16 })
    }

    /// As many of the ports as are to be tried, from one that `seed` chooses and round.
    pub fn from(self, seed: u64, most: u32) -> impl Iterator<Item = u16> {
        let count = u32::from(self.last).saturating_sub(u32::from(self.first)) + 1;
        let start = (seed % u64::from(count)) as u32;
        (0..count.min(most)).map(move |step| (u32::from(self.first) + (start + step) % count) as u16)
    }
}

/// What the stages ask.
#[derive(Clone, Debug, Default)]
pub struct Translations {
    pub sources: Ranges,
    pub exempt: Ranges,
    pub ports: Ports,
    /// The addresses that sources have outside now, and their numbers in the flow table.
    pub outside: Vec<(u128, SourceIndex)>,
}

impl Translations {
    #[inline]
    pub fn applies(&self, source: u128, destination: u128) -> bool {
        self.sources.contains(source) && !self.exempt.contains(destination)
    }

    /// True for an address of the host that flows of workloads share with it.
    #[inline]
    pub fn is_shared(&self, address: u128) -> bool {
        self.outside.iter().any(|(own, _)| *own == address)
    }

    /// The address of that number, as long as a flow may stand under it.
    pub fn address(&self, source: SourceIndex) -> Option<u128> {
        self.outside.iter().find(|(_, own)| *own == source).map(|(address, _)| *address)
    }

    /// True as long as a flow may stand under this address.
    pub fn is_in_use(&self, source: SourceIndex) -> bool {
        self.address(source).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn ranges_are_what_they_were_made_of(
            ranges in prop::collection::vec((0u128..200, 0u128..200), 0..20),
            ends in prop::collection::vec(any::<bool>(), 0..3),
        ) {
            let mut ranges = ranges;
            // The ends of all addresses, too.
            ranges.extend(ends.iter().map(|is_last| if *is_last { (u128::MAX - 2, u128::MAX) } else { (0, 1) }));
            let made = Ranges::new(ranges.clone());
            for address in (0..202).chain(u128::MAX - 5..=u128::MAX) {
                let expected = ranges.iter().any(|(first, last)| *first <= address && address <= *last);
                prop_assert_eq!(made.contains(address), expected, "{}", address);
            }
        }

        #[test]
        fn every_port_is_one_workers(first: u16, last: u16, workers in 1usize..70) {
            let ports = Ports { first, last };
            let mut all = Vec::new();
            for index in 0..workers {
                if let Some(part) = ports.part(index, workers) {
                    prop_assert!(part.first <= part.last);
                    all.extend(part.first..=part.last);
                }
            }
            prop_assert_eq!(all, (first..=last).collect::<Vec<_>>());
            prop_assert_eq!(ports.part(workers, workers), None);
        }

        #[test]
        fn a_round_meets_every_port_once(first in 0u16..1000, count in 1u16..300, seed: u64, most in 0u32..400) {
            let ports = Ports { first, last: first + count - 1 };
            let met: Vec<u16> = ports.from(seed, most).collect();
            prop_assert_eq!(met.len(), usize::from(count).min(most as usize));
            prop_assert_eq!(met.iter().collect::<BTreeSet<_>>().len(), met.len());
            prop_assert!(met.iter().all(|port| ports.first <= *port && *port <= ports.last));
        }
    }
}
