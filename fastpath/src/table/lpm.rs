//! Prefixes, and the runs of addresses they come to: longest prefix match in its obvious form.
//!
//! Prefixes are turned into the sorted list of addresses at which the answer changes; a lookup is a search for
//! the last start that is not beyond the address. The tables of workers are `dir24.rs`, and `interval.rs`, which is made
//! from these runs; this one is what both are compared with.
//!
//!     prefixes   0.0.0.0/0 → A     10.0.0.0/8 → B     10.1.0.0/16 → C
//!     starts     0.0.0.0 A │ 10.0.0.0 B │ 10.1.0.0 C │ 10.2.0.0 B │ 11.0.0.0 A
//!
//! Invariants: starts are sorted and distinct, the first is the zero address, equal neighbours are merged.
//! Left out: insertion and removal.

/// An address that prefixes are made of.
pub trait Address: Copy + Ord + std::fmt::Debug + Default {
    const BITS: u8;
    /// First and last address of the prefix, whatever host bits are set.
    fn range(self, length: u8) -> (Self, Self);
    /// The next address, if this is not the last.
    fn next(self) -> Option<Self>;
    /// The address before, if this is not the first.
    fn previous(self) -> Option<Self>;
}

macro_rules! address {
    ($integer:ty, $bits:literal) => {
        impl Address for $integer {
            const BITS: u8 = $bits;
            fn range(self, length: u8) -> (Self, Self) {
                let host =
                    if length == 0 { <$integer>::MAX } else { <$integer>::MAX.checked_shr(length.into()).unwrap_or(0) };
                (self & !host, self | host)
            }
            fn next(self) -> Option<Self> {
                self.checked_add(1)
            }
            fn previous(self) -> Option<Self> {
                self.checked_sub(1)
            }
        }
    };
}
address!(u32, 32);
address!(u128, 128);

/// A prefix and the value found under it.
pub type Prefix<A> = (A, u8, u32);

/// No prefix covers the address.
pub const NO_VALUE: u32 = u32::MAX;

/// The largest value a prefix may have: tables keep the bits above for themselves.
pub const MAX_VALUE: u32 = (1 << 31) - 16;

/// Runs of addresses with one answer.
#[derive(Debug, Clone)]
pub struct Lpm<A> {
    starts: Vec<A>,
    values: Vec<u32>,
}

impl<A: Address> Default for Lpm<A> {
    fn default() -> Self {
        Self::build(Vec::new())
    }
}

impl<A: Address> Lpm<A> {
    /// Builds the table. Of two equal prefixes the later wins.
    pub fn build(prefixes: Vec<Prefix<A>>) -> Self {
        let mut ranges: Vec<(A, A, u8, u32)> = prefixes
            .into_iter()
            .map(|(address, length, value)| {
                let length = length.min(A::BITS);
                let (first, last) = address.range(length);
                (first, last, length, value)
            })
            .collect();
        // Stable: an outer prefix before the inner ones that start with it, a later duplicate after an earlier.
        ranges.sort_by_key(|range| (range.0, range.2));
        let mut table = Self { starts: vec![A::default()], values: vec![NO_VALUE] };
        let mut open: Vec<(A, u32)> = Vec::new();
        for (first, last, _, value) in ranges {
            while let Some((end, _)) = open.last().copied().filter(|(end, _)| *end < first) {
                open.pop();
                table.resume(end, &open);
            }
            open.push((last, value));
            table.start(first, value);
        }
        while let Some((end, _)) = open.pop() {
            table.resume(end, &open);
        }
        table
    }

    /// The value of the longest prefix that covers the address, or [`NO_VALUE`].
    #[inline]
    pub fn lookup(&self, address: A) -> u32 {
        let position = self.starts.partition_point(|start| *start <= address);
        // The first start is the zero address, so the position is never 0.
        self.values[position - 1]
    }

    /// The first address of every run, and the answer from there on.
    pub fn runs(&self) -> impl ExactSizeIterator<Item = (A, u32)> {
        self.starts.iter().copied().zip(self.values.iter().copied())
    }

    /// Number of runs: what the table's size grows with.
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    pub fn is_empty(&self) -> bool {
        self.values.iter().all(|value| *value == NO_VALUE)
    }

    /// After `end` the answer is that of the innermost prefix still open there.
    fn resume(&mut self, end: A, open: &[(A, u32)]) {
        if let Some(next) = end.next() {
            let value = open.iter().rev().find(|(last, _)| *last >= next).map_or(NO_VALUE, |(_, value)| *value);
            self.start(next, value);
        }
    }

    fn start(&mut self, at: A, value: u32) {
        if self.starts.last() == Some(&at) {
            self.starts.pop();
            self.values.pop();
        }
        if self.values.last() != Some(&value) {
            self.starts.push(at);
            self.values.push(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The obvious twin: scan all prefixes, keep the longest.
    fn scan<A: Address>(prefixes: &[Prefix<A>], address: A) -> u32 {
        let mut best = (None, NO_VALUE);
        for (prefix, length, value) in prefixes {
            let (first, last) = prefix.range(*length);
            if first <= address && address <= last && best.0.is_none_or(|found| *length >= found) {
                best = (Some(*length), *value);
            }
        }
        best.1
    }

    fn check<A: Address>(prefixes: Vec<Prefix<A>>, probes: Vec<A>) {
        let table = Lpm::build(prefixes.clone());
        assert_eq!(table.starts[0], A::default());
        assert!(table.starts.is_sorted() && table.starts.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(table.values.windows(2).all(|pair| pair[0] != pair[1]));
        for address in probes {
            assert_eq!(table.lookup(address), scan(&prefixes, address), "{address:?} in {prefixes:?}");
        }
    }

    #[test]
    fn header_example() {
        let table = Lpm::<u32>::build(vec![(0, 0, 1), (0x0a00_0000, 8, 2), (0x0a01_0000, 16, 3)]);
        assert_eq!(table.len(), 5);
        assert_eq!(table.lookup(0x0a01_0203), 3);
        assert_eq!(table.lookup(0x0a02_0000), 2);
        assert_eq!(table.lookup(0x0b00_0000), 1);
    }

    #[test]
    fn empty_table_has_no_answer() {
        assert_eq!(Lpm::<u32>::default().lookup(7), NO_VALUE);
        assert!(Lpm::<u128>::default().is_empty());
    }

    #[test]
    fn edges_of_the_address_space() {
        check(vec![(u32::MAX, 32, 7), (0, 32, 8), (0, 0, 9)], vec![0, 1, u32::MAX, u32::MAX - 1]);
        check(vec![(u128::MAX, 128, 7)], vec![0, u128::MAX, u128::MAX - 1]);
    }

    proptest! {
        #[test]
        fn ipv4_equals_scan(
            prefixes in prop::collection::vec((0u32..64, 0u8..=32, 0u32..6), 0..24),
            shift in 0u32..=26,
            probes in prop::collection::vec(any::<u32>(), 8),
        ) {
            // Few distinct bits, moved about, so that prefixes nest and touch.
            let prefixes: Vec<Prefix<u32>> = prefixes.into_iter().map(|(a, l, v)| (a << shift, l, v)).collect();
            let mut probes = probes;
            for (address, length, _) in &prefixes {
                let (first, last) = address.range(*length);
                probes.extend([first, last, first.wrapping_sub(1), last.wrapping_add(1)]);
            }
            check(prefixes, probes);
        }

        #[test]
        fn ipv6_equals_scan(
            prefixes in prop::collection::vec((0u128..64, 0u8..=128, 0u32..6), 0..24),
            shift in 0u32..=122,
        ) {
            let prefixes: Vec<Prefix<u128>> = prefixes.into_iter().map(|(a, l, v)| (a << shift, l, v)).collect();
            let probes = prefixes
                .iter()
                .flat_map(|(address, length, _)| {
                    let (first, last) = address.range(*length);
                    [first, last, first.wrapping_sub(1), last.wrapping_add(1)]
                })
                .collect();
            check(prefixes, probes);
        }
    }
}
