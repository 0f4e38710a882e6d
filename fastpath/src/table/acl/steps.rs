//! A field with an order (addresses, ports, ICMP types): where along it the rules that hold change.
//!
//!     values  0 ─────── 80 ── 81 ───── 443 ─ 444 ─────▶
//!     rows    row 0     row 1 row 0    row 2 row 0
//!
//! Few starts are all compared at once. More are found by buckets of equal width that say between which starts to look; in a
//! large policy, values of 16 bits by pages of all values.
//!
//! Invariants: starts are sorted and distinct, the first is the lowest value; neighbours differ.

use super::rows::{Collector, Layout, clear, set};

/// A value of such a field.
pub(super) trait Value: Copy + Ord {
    const LOWEST: Self;
    fn next(self) -> Option<Self>;
    fn previous(self) -> Option<Self>;
    /// Bits that are needed to write the distance from `base`, which is not above it.
    fn width_from(self, base: Self) -> u32;
    /// The distance from `base`, without its low bits.
    fn bucket(self, base: Self, shift: u32) -> usize;
    /// The value, where it has 16 bits.
    fn short(self) -> Option<u16>;
}

macro_rules! value {
    ($($integer:ty),+) => {
        $(impl Value for $integer {
            const LOWEST: Self = 0;
            fn next(self) -> Option<Self> {
                self.checked_add(1)
            }
            fn previous(self) -> Option<Self> {
                self.checked_sub(1)
            }
            fn width_from(self, base: Self) -> u32 {
                <$integer>::BITS - self.abs_diff(base).leading_zeros()
            }
            #[inline(always)]
            fn bucket(self, base: Self, shift: u32) -> usize {
                usize::try_from(self.wrapping_sub(base) >> shift).unwrap_or(usize::MAX)
            }
            #[inline(always)]
            fn short(self) -> Option<u16> {
                (<$integer>::BITS == u16::BITS).then_some(self as u16)
            }
        })+
    };
}
value!(u16, u32, u128);

/// First and last of a run.
pub(super) type Run<T> = (T, T);

/// The values for which a rule's condition holds: in one of `wanted` (everything, if that is none), in none of `unwanted`.
/// Sorted, apart from each other.
pub(super) fn holding<T: Value>(wanted: Option<&[Run<T>]>, unwanted: &[Run<T>], highest: T) -> Vec<Run<T>> {
    let everything = [(T::LOWEST, highest)];
    let mut runs = joined(wanted.unwrap_or(&everything));
    for &(first, last) in &joined(unwanted) {
        runs = runs
            .into_iter()
            .flat_map(|run| {
                let below = first.previous().map(|end| (run.0, end.min(run.1)));
                let above = last.next().map(|start| (start.max(run.0), run.1));
                [below, above]
            })
            .flatten()
            .filter(|(first, last)| first <= last)
            .collect();
    }
    joined(&runs)
}

/// The same values in as few runs as possible.
fn joined<T: Value>(runs: &[Run<T>]) -> Vec<Run<T>> {
    let mut sorted = runs.to_vec();
    sorted.sort_unstable();
    let mut result: Vec<Run<T>> = Vec::with_capacity(sorted.len());
    for (first, last) in sorted {
        match result.last_mut() {
            Some(open) if open.1.next().is_none_or(|next| first <= next) => open.1 = open.1.max(last),
            _ => result.push((first, last)),
        }
    }
    result
}

/// So few starts are compared at once.
const FEW: usize = 8;

/// Value → row: its position, or the row itself where it is one word.
#[derive(Debug)]
pub(super) enum Steps<T, R> {
    Few(Box<Few<T, R>>),
    Pages(Box<Pages<R>>),
    Buckets(Box<Buckets<T, R>>),
}

/// Starts and their rows; the last of each stands to the end.
#[derive(Debug)]
pub(super) struct Few<T, R> {
    starts: [T; FEW],
    rows: [R; FEW],
}

/// Values of 16 bits: by their high byte the number of a page, by their low byte a row in it.
#[derive(Debug)]
pub(super) struct Pages<R> {
    numbers: [u8; 256],
    pages: Box<[[R; 256]]>,
}

#[derive(Debug)]
pub(super) struct Buckets<T, R> {
    steps: Box<[Step<T, R>]>,
    /// The second start: where the buckets begin.
    base: T,
    shift: u32,
    /// Per bucket, the last step that starts at or before its first value; one more than there are.
    buckets: Box<[u32]>,
}

/// From a value on, a row.
#[derive(Clone, Copy, Debug)]
struct Step<T, R> {
    start: T,
    row: R,
}

impl<T, R> Steps<T, R> {
    /// Bytes on the heap.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Few(few) => size_of_val(&**few),
            Self::Pages(pages) => size_of_val(&**pages) + size_of_val(&*pages.pages),
            Self::Buckets(own) => size_of_val(&**own) + size_of_val(&*own.steps) + size_of_val(&*own.buckets),
        }
    }
}

impl<T: Value> Steps<T, u32> {
    /// `holding` gives for every rule, in order, the runs of values for which it holds; none stands for all values.
    pub(super) fn build(holding: &[Option<Vec<Run<T>>>], layout: Layout, rows: &mut Collector) -> Self {
        let mut row = layout.row(true);
        let mut edges: Vec<(T, bool, usize)> = Vec::new();
        for (rule, runs) in holding.iter().enumerate() {
            let Some(runs) = runs else { continue };
            clear(&mut row, rule);
            for (first, last) in runs {
                edges.push((*first, true, rule));
                edges.extend(last.next().map(|after| (after, false, rule)));
            }
        }
        // Of two edges of one rule at one value there are none: runs are apart from each other.
        edges.sort_unstable();
        let (mut starts, mut positions) = (Vec::new(), Vec::new());
        let mut step = |start: T, row: &[u64]| {
            let position = rows.position(row);
            if positions.last() != Some(&position) {
                starts.push(start);
                positions.push(position);
            }
        };
        let mut edges = edges.into_iter().peekable();
        let mut start = T::LOWEST;
        loop {
            while let Some((_, begins, rule)) = edges.next_if(|(at, ..)| *at == start) {
                if begins { set(&mut row, rule) } else { clear(&mut row, rule) }
            }
            step(start, &row);
            match edges.peek() {
                Some((next, ..)) => start = *next,
                None => break,
            }
        }
        Self::new(starts, positions, layout)
    }

    /// Steps whose rows are found already. The first start is the lowest value.
    pub(super) fn new(starts: Vec<T>, rows: Vec<u32>, layout: Layout) -> Self {
        let (Some(last), Some(last_row)) = (starts.last().copied(), rows.last().copied()) else {
            return Self::Few(Box::new(Few { starts: [T::LOWEST; FEW], rows: [0; FEW] }));
        };
        if starts.len() <= FEW {
            let starts = std::array::from_fn(|at| starts.get(at).copied().unwrap_or(last));
            let rows = std::array::from_fn(|at| rows.get(at).copied().unwrap_or(last_row));
            return Self::Few(Box::new(Few { starts, rows }));
        }
        match last.short() {
            // Pages are some kilobytes: too many for the caches if every small policy had some.
            Some(_) if !layout.is_narrow() => Self::Pages(Box::new(Pages::new(&starts, &rows))),
            _ => Self::Buckets(Box::new(Buckets::new(starts, rows))),
        }
    }

    /// The same steps with something else in place of the positions.
    pub(super) fn map<R: Copy>(&self, row: impl Fn(u32) -> R) -> Steps<T, R> {
        match self {
            Self::Few(few) => Steps::Few(Box::new(Few { starts: few.starts, rows: few.rows.map(row) })),
            Self::Pages(pages) => {
                let rows = pages.pages.iter().map(|page| page.map(&row)).collect();
                Steps::Pages(Box::new(Pages { numbers: pages.numbers, pages: rows }))
            }
            Self::Buckets(old) => {
                let steps = old.steps.iter().map(|step| Step { start: step.start, row: row(step.row) }).collect();
                let (base, shift, buckets) = (old.base, old.shift, old.buckets.clone());
                Steps::Buckets(Box::new(Buckets { steps, base, shift, buckets }))
            }
        }
    }
}

impl<T: Value, R: Copy> Steps<T, R> {
    #[inline(always)]
    pub(super) fn find(&self, value: T) -> R {
        match self {
            Self::Few(few) => few.find(value),
            Self::Pages(pages) => pages.find(value.short().unwrap_or(0)),
            Self::Buckets(buckets) => buckets.find(value),
        }
    }
}

impl<T: Value, R: Copy> Few<T, R> {
    #[inline(always)]
    fn find(&self, value: T) -> R {
        // Counting has no branch to be guessed wrong. The first start is the lowest value, so there is one at least.
        let after = self.starts.iter().fold(0u16, |count, start| count.wrapping_add(u16::from(*start <= value)));
        self.rows[usize::from(after.wrapping_sub(1)) % FEW]
    }
}

impl Pages<u32> {
    fn new<T: Value>(starts: &[T], rows: &[u32]) -> Self {
        let mut steps = starts.iter().filter_map(|start| start.short()).zip(rows).peekable();
        let mut row = 0;
        let mut pages: Vec<[u32; 256]> = Vec::new();
        let numbers = std::array::from_fn(|high| {
            let page: [u32; 256] = std::array::from_fn(|low| {
                if let Some((_, begins)) = steps.next_if(|(start, _)| usize::from(*start) == high << 8 | low) {
                    row = *begins;
                }
                row
            });
            let known = pages.iter().position(|known| *known == page);
            // At most as many as there are high bytes.
            known.unwrap_or_else(|| {
                pages.push(page);
                pages.len() - 1
            }) as u8
        });
        Self { numbers, pages: pages.into() }
    }
}

impl<R: Copy> Pages<R> {
    #[inline(always)]
    fn find(&self, value: u16) -> R {
        let [high, low] = value.to_be_bytes();
        self.pages[usize::from(self.numbers[usize::from(high)])][usize::from(low)]
    }
}

impl<T: Value> Buckets<T, u32> {
    /// Of more than two starts.
    fn new(starts: Vec<T>, rows: Vec<u32>) -> Self {
        let (base, last) = (starts[1], starts[starts.len() - 1]);
        let most = starts.len().next_power_of_two().ilog2() + 1;
        let shift = last.width_from(base).saturating_sub(most);
        let count = last.bucket(base, shift) + 1;
        // Every bucket begins after the last start that lies in one before it.
        let mut buckets = vec![0; count + 1];
        for (position, start) in (0..).zip(&starts).skip(1) {
            buckets[start.bucket(base, shift) + 1] = position;
        }
        for bucket in 1..buckets.len() {
            buckets[bucket] = buckets[bucket].max(buckets[bucket - 1]);
        }
        let steps = starts.into_iter().zip(rows).map(|(start, row)| Step { start, row }).collect();
        Self { steps, base, shift, buckets: buckets.into() }
    }
}

impl<T: Value, R: Copy> Buckets<T, R> {
    #[inline(always)]
    fn find(&self, value: T) -> R {
        if value < self.base {
            return self.steps[0].row;
        }
        let bucket = value.bucket(self.base, self.shift).min(self.buckets.len() - 2);
        let (low, high) = (self.buckets[bucket] as usize, self.buckets[bucket + 1] as usize);
        let within = &self.steps[low + 1..=high];
        let after = match within.len() {
            0..=FEW => within.iter().take_while(|step| step.start <= value).count(),
            _ => within.partition_point(|step| step.start <= value),
        };
        self.steps[low + after].row
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn runs() -> impl Strategy<Value = Vec<Run<u16>>> {
        let run = (any::<u16>(), 0u16..600).prop_map(|(first, length)| (first, first.saturating_add(length)));
        prop::collection::vec(run, 0..6)
    }

    fn is_in(runs: &[Run<u16>], value: u16) -> bool {
        runs.iter().any(|(first, last)| *first <= value && value <= *last)
    }

    proptest! {
        #[test]
        fn holding_equals_its_definition(wanted in prop::option::of(runs()), unwanted in runs(), value: u16) {
            let found = holding(wanted.as_deref(), &unwanted, u16::MAX);
            let expected = wanted.as_ref().is_none_or(|wanted| is_in(wanted, value)) && !is_in(&unwanted, value);
            prop_assert_eq!(is_in(&found, value), expected);
            prop_assert!(found.windows(2).all(|pair| pair[0].1 < pair[1].0 - 1));
        }

        #[test]
        fn steps_equal_the_runs(rules in prop::collection::vec(prop::option::of(runs()), 1..80), values: [u16; 32]) {
            let rules: Vec<Option<Vec<Run<u16>>>> =
                rules.into_iter().map(|runs| runs.map(|runs| holding(Some(&runs), &[], u16::MAX))).collect();
            let layout = Layout::of(rules.len());
            let mut rows = Collector::new(layout);
            let steps = Steps::build(&rules, layout, &mut rows);
            let rows = rows.finish();
            for value in values.into_iter().chain([0, 255, 256, u16::MAX]) {
                let row = rows.row(steps.find(value));
                for (rule, runs) in rules.iter().enumerate() {
                    let is_set = row[rule / 64] >> (rule % 64) & 1 == 1;
                    prop_assert_eq!(is_set, runs.as_ref().is_none_or(|runs| is_in(runs, value)));
                }
            }
        }

        /// Starts near each other, far apart, and in heaps; values at, beside and between them.
        #[test]
        fn buckets_equal_the_search(
            starts in prop::collection::btree_set(prop_oneof![any::<u128>(), 0u128..300, (0u32..128).prop_map(|bit| 1 << bit)], 1..60),
            values in prop::collection::vec(any::<u128>(), 20),
        ) {
            let mut starts: Vec<u128> = [0].into_iter().chain(starts).collect();
            starts.dedup();
            let steps = Steps::new(starts.clone(), (0..starts.len() as u32).collect(), Layout::of(1000));
            let near = starts.iter().flat_map(|start| [start.saturating_sub(1), *start, start.saturating_add(1)]);
            for value in near.chain(values).chain([u128::MAX]) {
                let expected = starts.iter().rposition(|start| *start <= value);
                prop_assert_eq!(Some(steps.find(value) as usize), expected);
            }
        }
    }
}
