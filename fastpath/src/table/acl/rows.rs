//! Rows: one bit per rule of a block, and the scan for the first bit that is set in all of them.
//!
//!     up to 64 rules     [ word ]
//!     more               [ chunk of 8 words | chunk | … | summary: a bit per chunk that is not empty ]
//!
//! The scan ANDs the summaries first, so that its cost follows the number of chunks in which anything could match. The
//! same source is compiled for the instruction sets a processor may have; `scan_plain` is its obvious twin.

use std::collections::HashMap;

/// Words of a chunk: one cache line, one AVX-512 register.
const CHUNK: usize = 8;

/// How the rows of a block of some number of rules are laid out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Layout {
    /// Words that hold bits of rules, whole chunks when there is more than one.
    words: usize,
    /// Words of summary behind them.
    summary: usize,
}

impl Layout {
    pub(super) fn of(rules: usize) -> Self {
        match rules.div_ceil(64) {
            words @ (0 | 1) => Self { words, summary: 0 },
            words => {
                let words = words.next_multiple_of(CHUNK);
                // With one chunk there is nothing to skip.
                let summary = if words == CHUNK { 0 } else { (words / CHUNK).div_ceil(64) };
                Self { words, summary }
            }
        }
    }

    /// True when a row is one word.
    #[inline(always)]
    pub(super) fn is_narrow(self) -> bool {
        self.words <= 1
    }

    pub(super) fn stride(self) -> usize {
        self.words + self.summary
    }

    /// A row with every bit clear, or every bit set. Bits beyond the last rule do no harm: no field constrains them all.
    pub(super) fn row(self, is_set: bool) -> Vec<u64> {
        let mut row = vec![if is_set { u64::MAX } else { 0 }; self.stride()];
        self.summarise(&mut row);
        row
    }

    /// Brings a row's summary up to date with its bits.
    pub(super) fn summarise(self, row: &mut [u64]) {
        let (words, summary) = row.split_at_mut(self.words);
        summary.fill(0);
        if self.summary > 0 {
            for (chunk, words) in words.chunks_exact(CHUNK).enumerate() {
                if words.iter().any(|word| *word != 0) {
                    summary[chunk / 64] |= 1 << (chunk % 64);
                }
            }
        }
    }
}

pub(super) fn set(row: &mut [u64], rule: usize) {
    row[rule / 64] |= 1 << (rule % 64);
}

pub(super) fn clear(row: &mut [u64], rule: usize) {
    row[rule / 64] &= !(1 << (rule % 64));
}

/// The rows that a block's fields lead to, each kept once.
#[derive(Debug)]
pub(super) struct Rows {
    stride: usize,
    bits: Box<[u64]>,
}

impl Rows {
    /// Bytes on the heap.
    pub(super) fn size(&self) -> usize {
        size_of_val(&*self.bits)
    }

    #[inline(always)]
    pub(super) fn row(&self, position: u32) -> &[u64] {
        let start = position as usize * self.stride;
        &self.bits[start..start + self.stride]
    }

    /// A row of one word.
    pub(super) fn word(&self, position: u32) -> u64 {
        self.bits[position as usize * self.stride]
    }
}

/// Collects distinct rows.
#[derive(Debug)]
pub(super) struct Collector {
    layout: Layout,
    positions: HashMap<Vec<u64>, u32>,
    bits: Vec<u64>,
}

impl Collector {
    pub(super) fn new(layout: Layout) -> Self {
        Self { layout, positions: HashMap::new(), bits: Vec::new() }
    }

    /// The position of a row, whose summary need not be up to date.
    pub(super) fn position(&mut self, row: &[u64]) -> u32 {
        if let Some(position) = self.positions.get(row) {
            return *position;
        }
        let position = self.positions.len() as u32;
        self.positions.insert(row.to_vec(), position);
        let start = self.bits.len();
        self.bits.extend_from_slice(row);
        self.layout.summarise(&mut self.bits[start..]);
        position
    }

    pub(super) fn finish(self) -> Rows {
        Rows { stride: self.layout.stride(), bits: self.bits.into() }
    }
}

/// How the first common bit is looked for: the fast way or the plain one.
pub(super) type Scan = fn(&[&[u64]], Layout) -> Option<usize>;

/// The first bit that is set in every row.
#[multiversion::multiversion(targets("x86_64+avx512f+avx512vl+bmi1", "x86_64+avx2+bmi1", "aarch64+neon"))]
pub(super) fn scan(rows: &[&[u64]], layout: Layout) -> Option<usize> {
    for group in 0..layout.summary.max(1) {
        // The chunks of this group that are not empty in any row.
        let mut candidates = if layout.summary == 0 { 1 } else { u64::MAX };
        if layout.summary > 0 {
            for row in rows {
                candidates &= row.get(layout.words + group)?;
            }
        }
        while candidates != 0 {
            let chunk = group * 64 + candidates.trailing_zeros() as usize;
            candidates &= candidates - 1;
            let mut bits = [u64::MAX; CHUNK];
            for row in rows {
                let words = row.get(chunk * CHUNK..)?.first_chunk::<CHUNK>()?;
                for (bits, word) in bits.iter_mut().zip(words) {
                    *bits &= word;
                }
            }
            let word = first_occupied(bits);
            if bits[word] != 0 {
                return Some((chunk * CHUNK + word) * 64 + bits[word].trailing_zeros() as usize);
            }
        }
    }
    None
}

/// The first word that is not empty, or any if all are, halving without a branch.
#[inline(always)]
fn first_occupied([a, b, c, d, e, f, g, h]: [u64; CHUNK]) -> usize {
    let (quad, at) = if a | b | c | d != 0 { ([a, b, c, d], 0) } else { ([e, f, g, h], 4) };
    let (pair, at) = if quad[0] | quad[1] != 0 { (quad[0], at) } else { (quad[2], at + 2) };
    at + usize::from(pair == 0)
}

/// What `scan` finds, by looking at one word after the other.
pub(super) fn scan_plain(rows: &[&[u64]], layout: Layout) -> Option<usize> {
    scan_from(rows, layout, 0)
}

/// The first common bit at or after `from`: how it goes on after a rule that decides nothing.
pub(super) fn scan_from(rows: &[&[u64]], layout: Layout, from: usize) -> Option<usize> {
    (from / 64..layout.words).find_map(|word| {
        let mut bits = rows.iter().fold(u64::MAX, |bits, row| bits & row[word]);
        if word == from / 64 {
            bits &= u64::MAX << (from % 64);
        }
        (bits != 0).then(|| word * 64 + bits.trailing_zeros() as usize)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Rows of a block with that many rules; bits are rare, so that chunks are skipped.
    fn rows(rules: usize) -> impl Strategy<Value = (usize, Vec<Vec<u64>>)> {
        let row = move |is_set: bool, flips: Vec<prop::sample::Index>| {
            let layout = Layout::of(rules);
            let mut row = layout.row(is_set);
            for flip in flips {
                let rule = flip.index(rules);
                if is_set { clear(&mut row, rule) } else { set(&mut row, rule) }
            }
            layout.summarise(&mut row);
            row
        };
        let row = (prop::bool::weighted(0.3), prop::collection::vec(any::<prop::sample::Index>(), 0..40))
            .prop_map(move |(is_set, flips)| row(is_set, flips));
        (Just(rules), prop::collection::vec(row, 1..8))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn both_scans_find_the_same((rules, rows) in (65usize..40_000).prop_flat_map(rows), start in any::<prop::sample::Index>()) {
            let layout = Layout::of(rules);
            let mut rows = rows;
            // Every common bit in turn, each taken away when it was found.
            let mut from = 0;
            for _ in 0..50 {
                let slices: Vec<&[u64]> = rows.iter().map(Vec::as_slice).collect();
                let found = scan(&slices, layout);
                prop_assert_eq!(found, scan_plain(&slices, layout));
                prop_assert_eq!(found, scan_from(&slices, layout, from));
                let Some(bit) = found else { break };
                clear(&mut rows[0], bit);
                layout.summarise(&mut rows[0]);
                from = bit + 1;
            }
            let start = start.index(rules);
            let slices: Vec<&[u64]> = rows.iter().map(Vec::as_slice).collect();
            let is_common = |bit: &usize| rows.iter().all(|row| row[bit / 64] >> (bit % 64) & 1 == 1);
            prop_assert_eq!(scan_from(&slices, layout, start), (start..layout.words * 64).find(is_common));
        }
    }

    #[test]
    fn layouts() {
        let of = |rules| (Layout::of(rules).words, Layout::of(rules).summary);
        assert_eq!([of(0), of(1), of(64), of(65), of(512), of(513)], [(0, 0), (1, 0), (1, 0), (8, 0), (8, 0), (16, 1)]);
        assert_eq!(of(64 * 512 + 1), (8 * 65, 2));
    }
}
