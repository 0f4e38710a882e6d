//! Rows by class: of one class, the rows of all blocks that ask about its sets, side by side.
//!
//!     class ─▶ groups of 64 blocks   narrow  0 1 1 0 …     a block of at most 64 rules: one word
//!                                    wide    0 0 0 1 …     a block of more: a row of its own
//!                                      rank │ │
//!              rows                  [ w ][ w ] …
//!
//! A block without a row here has the one of its own for classes outside of all its sets. A packet meets the rows of its
//! two classes in the order of the blocks, one word after the other; and a class that differs from another by one set
//! copies all rows but those of blocks that ask about that set.
//!
//! Classes appear while workers read: a slot of the table is filled before the first member has the class, and never changes.
//! Left out: growing, and forgetting classes. Control makes a new table, of the same rows.

use std::sync::{Arc, OnceLock};

use super::members::Class;

/// A row of one block, for one class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Row {
    /// Of at most 64 rules.
    Narrow(u64),
    Wide(Arc<[u64]>),
}

/// A block's rows for a class, as source and as destination; none where the block asks about none of its sets.
pub(super) type BothRows = [Option<Row>; 2];

/// The rows of a class, as source and as destination.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ClassRows {
    sides: [SideRows; 2],
}

/// The rows of a class at one side of packets.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SideRows {
    groups: Box<[Group]>,
    narrow: Box<[u64]>,
    wide: Box<[Arc<[u64]>]>,
}

/// Which of 64 blocks have rows, and how many rows come before theirs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Group {
    narrow: u64,
    wide: u64,
    narrow_before: u32,
    wide_before: u32,
}

const BLOCKS: usize = u64::BITS as usize;

impl ClassRows {
    /// Bytes on the heap, with its own. Wide rows that classes share are counted with each.
    fn size(&self) -> usize {
        let wide = |side: &SideRows| side.wide.iter().map(|row| size_of_val(&**row)).sum::<usize>();
        let lists =
            |side: &SideRows| size_of_val(&*side.groups) + size_of_val(&*side.narrow) + size_of_val(&*side.wide);
        size_of::<Self>() + self.sides.iter().map(|side| wide(side) + lists(side)).sum::<usize>()
    }

    pub(super) fn source(&self) -> &SideRows {
        &self.sides[0]
    }

    pub(super) fn destination(&self) -> &SideRows {
        &self.sides[1]
    }

    /// The same, but for these blocks, sorted.
    pub(super) fn with(&self, changes: &[(usize, BothRows)]) -> Self {
        Self { sides: [0, 1].map(|side| self.sides[side].with(changes, |rows| rows[side].as_ref())) }
    }
}

impl SideRows {
    /// The row of a block of at most 64 rules.
    #[inline(always)]
    pub(super) fn narrow(&self, block: usize) -> Option<u64> {
        let group = self.groups.get(block / BLOCKS)?;
        let bit = 1 << (block % BLOCKS);
        if group.narrow & bit == 0 {
            return None;
        }
        let rank = (group.narrow & (bit - 1)).count_ones();
        Some(self.narrow[(group.narrow_before + rank) as usize])
    }

    /// The row of a block of more.
    #[inline]
    pub(super) fn wide(&self, block: usize) -> Option<&[u64]> {
        let group = self.groups.get(block / BLOCKS)?;
        let bit = 1 << (block % BLOCKS);
        if group.wide & bit == 0 {
            return None;
        }
        let rank = (group.wide & (bit - 1)).count_ones();
        Some(&self.wide[(group.wide_before + rank) as usize])
    }

    fn with(&self, changes: &[(usize, BothRows)], side: impl Fn(&BothRows) -> Option<&Row>) -> Self {
        let last = changes.last().map_or(0, |(block, _)| block / BLOCKS + 1);
        let mut groups = vec![Group::default(); self.groups.len().max(last)];
        let mut narrow = Vec::with_capacity(self.narrow.len() + changes.len());
        let mut wide = Vec::with_capacity(self.wide.len());
        let mut changes = changes;
        for (number, group) in groups.iter_mut().enumerate() {
            let old = self.groups.get(number).copied().unwrap_or_default();
            let here = changes.partition_point(|(block, _)| block / BLOCKS == number);
            let (these, others) = changes.split_at(here);
            changes = others;
            *group = Group { narrow_before: narrow.len() as u32, wide_before: wide.len() as u32, ..old };
            if these.is_empty() {
                let (from, wide_from) = (old.narrow_before as usize, old.wide_before as usize);
                narrow.extend_from_slice(&self.narrow[from..from + old.narrow.count_ones() as usize]);
                wide.extend_from_slice(&self.wide[wide_from..wide_from + old.wide.count_ones() as usize]);
                continue;
            }
            let (mut old_narrow, mut old_wide) =
                (self.narrow[old.narrow_before as usize..].iter(), self.wide[old.wide_before as usize..].iter());
            let mut these = these.iter().peekable();
            (group.narrow, group.wide) = (0, 0);
            for bit in 0..BLOCKS {
                let (mask, block) = (1 << bit, number * BLOCKS + bit);
                // Passed over also where it is replaced.
                let was_narrow = (old.narrow & mask != 0).then(|| old_narrow.next()).flatten();
                let was_wide = (old.wide & mask != 0).then(|| old_wide.next()).flatten();
                let row = match these.next_if(|(changed, _)| *changed == block) {
                    Some((_, rows)) => side(rows).cloned(),
                    None => was_narrow.copied().map(Row::Narrow).or_else(|| was_wide.cloned().map(Row::Wide)),
                };
                match row {
                    Some(Row::Narrow(row)) => {
                        group.narrow |= mask;
                        narrow.push(row);
                    }
                    Some(Row::Wide(row)) => {
                        group.wide |= mask;
                        wide.push(row);
                    }
                    None => {}
                }
            }
        }
        Self { groups: groups.into(), narrow: narrow.into(), wide: wide.into() }
    }
}

/// Class → its rows.
#[derive(Debug, Default)]
pub(super) struct ClassTable {
    slots: Box<[OnceLock<Arc<ClassRows>>]>,
    /// Of [`Class::NONE`].
    nothing: ClassRows,
}

impl ClassTable {
    /// A table of the classes that have rows, with room for as many more, and some.
    pub(super) fn new(rows: &[Option<Arc<ClassRows>>]) -> Self {
        const SPARE: usize = 256;
        let room = rows.len() + rows.len() / 2 + SPARE;
        let known = rows.iter().map(|rows| rows.clone().map_or_else(OnceLock::new, OnceLock::from));
        let slots = known.chain(std::iter::repeat_with(OnceLock::new)).take(room).collect();
        Self { slots, nothing: ClassRows::default() }
    }

    /// Bytes on the heap.
    pub(super) fn size(&self) -> usize {
        let rows = self.slots.iter().filter_map(OnceLock::get).map(|rows| rows.size());
        size_of_val(&*self.slots) + rows.sum::<usize>()
    }

    pub(super) fn nothing(&self) -> &ClassRows {
        &self.nothing
    }

    #[inline(always)]
    pub(super) fn get(&self, class: Class) -> Option<&ClassRows> {
        if class == Class::NONE {
            return Some(&self.nothing);
        }
        self.slots.get(class.0 as usize)?.get().map(|rows| &**rows)
    }

    /// Makes a class known, if there is room for it.
    pub(super) fn set(&self, class: Class, rows: &Arc<ClassRows>) -> bool {
        let Some(slot) = self.slots.get(class.0 as usize) else { return false };
        // If it is there already, it is the same.
        let known = slot.get_or_init(|| rows.clone());
        debug_assert_eq!(known, rows, "a class has one meaning under the same blocks");
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn row() -> impl Strategy<Value = Option<Row>> {
        prop_oneof![
            2 => any::<u64>().prop_map(|word| Some(Row::Narrow(word))),
            1 => prop::collection::vec(any::<u64>(), 2..4).prop_map(|words| Some(Row::Wide(words.into()))),
            1 => Just(None),
        ]
    }

    proptest! {
        #[test]
        fn equals_a_map(steps in prop::collection::vec(prop::collection::btree_map(0usize..300, (row(), row()), 0..40), 0..8)) {
            let mut expected: BTreeMap<usize, BothRows> = BTreeMap::new();
            let mut rows = ClassRows::default();
            for step in steps {
                let changes: Vec<(usize, BothRows)> = step.into_iter().map(|(block, (a, b))| (block, [a, b])).collect();
                rows = rows.with(&changes);
                expected.extend(changes);
                for block in 0..400 {
                    let wanted = expected.get(&block).cloned().unwrap_or_default();
                    for (side, wanted) in [rows.source(), rows.destination()].into_iter().zip(wanted) {
                        let found = (side.narrow(block), side.wide(block));
                        match wanted {
                            Some(Row::Narrow(word)) => prop_assert_eq!(found, (Some(word), None)),
                            Some(Row::Wide(words)) => prop_assert_eq!(found, (None, Some(&*words))),
                            None => prop_assert_eq!(found, (None, None)),
                        }
                    }
                }
            }
        }
    }
}
