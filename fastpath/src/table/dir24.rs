//! Longest prefix match for IPv4: one slot for every /24, edited in place under readers that take no lock.
//!
//!     address ──first 24 bits──▶ slot ─┬─ 0           no route but the default: `default` has the answer
//!                                      ├─ value + 1   the answer
//!                                      └─ line ──next 4 bits──▶ cell ─┬─ as a slot
//!                                                                     └─ line ──last 4 bits──▶ cell: as a slot
//!
//! The table of 2^24 slots is mapped page by page as it is written to, so a node with few routes keeps few pages, and the
//! default route is one store. A prefix is painted over the addresses that no longer prefix in it has; what has which is
//! known from the RIB beside it. Each address changes by one store, from its old answer to its new one.
//!
//! A /24 with more than one answer needs a line, and a /28 in it with more than one needs one too: sixteen cells, one line
//! of the cache. Blocks of 64 addresses, as clusters have them, so cost a line for four, and not four lines each, as they
//! would in a group of 256 cells. Lines are filled before anything names them, and never changed while something does: a
//! /24 that changes inside is made anew, and its old lines are used again when every reader has begun another breath.
//!
//! Invariants: a slot names a line only while its /24 has more than one answer, a cell only while its /28 has. There are at
//! most [`MAX_LINES`]: a /24 for which they do not suffice leads nowhere (fails closed) until some are free.
//! Left out: more than one writer; a change of many routes at one instant (`routes.rs` says when one is complete).
//! See: Gupta, Lin, McKeown, "Routing Lookups in Hardware at Memory Access Speeds", 1998.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use prefix_trie::PrefixMap;

use super::lpm::{Address, MAX_VALUE, Prefix};
use crate::mapped;
use crate::rcu::Grace;

const SLOTS: usize = 1 << 24;

/// Cells of a line: 64 bytes.
const CELLS: usize = 16;

/// Lines at a time: 256 MiB of addresses, mapped as they are used. Enough for every address of 240,000 /24s to have an
/// answer of its own.
pub const MAX_LINES: usize = 1 << 22;

/// Addresses that are looked up side by side.
const LANES: usize = 32;

/// In a slot or cell: what follows is the number of a line.
const LINE: u32 = 1 << 31;

/// In a slot: it should name a line and there is none. As an answer it is beyond every list.
const NOWHERE: u32 = LINE - 1;
const _: () = assert!(MAX_VALUE + 1 < NOWHERE);

/// From how many routes on tables are worth huge pages: with fewer, most of each page would be empty.
const MANY_ROUTES: usize = 50_000;

/// What workers read.
#[derive(Debug)]
pub struct Dir24 {
    slots: Box<[AtomicU32]>,
    /// Lines, from the first whole line of the cache on.
    cells: Box<[AtomicU32]>,
    first_cell: usize,
    default: AtomicU32,
    edition: AtomicU32,
}

impl Default for Dir24 {
    fn default() -> Self {
        let cells = mapped::zeroed::<AtomicU32>((MAX_LINES + 1) * CELLS);
        let first_cell = cells.as_ptr().align_offset(CELLS * size_of::<AtomicU32>()).min(CELLS);
        let (default, edition) = (AtomicU32::new(0), AtomicU32::new(0));
        Self { slots: mapped::zeroed(SLOTS), cells, first_cell, default, edition }
    }
}

/// The tables with their lengths, which the compiler knows from here on.
#[derive(Clone, Copy)]
struct View<'a> {
    slots: &'a [AtomicU32; SLOTS],
    cells: &'a [AtomicU32; MAX_LINES * CELLS],
    default: u32,
}

impl Dir24 {
    /// The value of the longest prefix that covers the address, or [`NO_VALUE`](super::lpm::NO_VALUE).
    #[inline]
    pub fn lookup(&self, address: u32) -> u32 {
        self.view().lookup(address)
    }

    /// The same for many addresses. Panics unless there is a value for each.
    ///
    /// Step by step for some of them at once, without a branch that depends on what was found: so that as many waits for
    /// memory overlap as the processor can have.
    pub fn lookup_burst(&self, addresses: &[u32], values: &mut [u32]) {
        assert_eq!(addresses.len(), values.len(), "a value for every address");
        let view = self.view();
        let (whole, rest) = addresses.as_chunks::<LANES>();
        let (whole_values, rest_values) = values.as_chunks_mut::<LANES>();
        for (addresses, values) in whole.iter().zip(whole_values) {
            for (address, value) in addresses.iter().zip(&mut *values) {
                *value = view.slot(*address);
            }
            for (address, value) in addresses.iter().zip(&mut *values) {
                *value = view.below(*value, *address >> 4);
            }
            for (address, value) in addresses.iter().zip(values) {
                *value = view.value(view.below(*value, *address));
            }
        }
        for (address, value) in rest.iter().zip(rest_values) {
            *value = view.lookup(*address);
        }
    }

    /// How often the table has changed: what had changed by then is seen by every lookup that follows.
    pub fn edition(&self) -> u32 {
        self.edition.load(Ordering::Acquire)
    }

    #[inline(always)]
    fn view(&self) -> View<'_> {
        let cells = self.cells.get(self.first_cell..).and_then(|cells| cells.first_chunk());
        let (Some(slots), Some(cells)) = (self.slots.first_chunk(), cells) else {
            unreachable!("tables are made with that many slots and cells")
        };
        View { slots, cells, default: self.default.load(Ordering::Relaxed) }
    }
}

impl View<'_> {
    #[inline(always)]
    fn lookup(self, address: u32) -> u32 {
        self.value(self.below(self.below(self.slot(address), address >> 4), address))
    }

    #[inline(always)]
    fn slot(self, address: u32) -> u32 {
        // Acquire: what a slot names was written before it. A plain load on x86-64.
        self.slots[(address >> 8) as usize].load(Ordering::Acquire)
    }

    /// What a slot comes to with the next four bits. A cell is read in any case: the first of all for those without a line.
    #[inline(always)]
    fn below(self, slot: u32, bits: u32) -> u32 {
        // All ones if it names a line, else none: the compiler might make a branch of a condition.
        let is_line = (slot.cast_signed() >> 31).cast_unsigned();
        let found = self.cells[cell(slot, bits) & is_line as usize].load(Ordering::Acquire);
        (found & is_line) | (slot & !is_line)
    }

    /// 0 becomes `NO_VALUE`, which no prefix has.
    #[inline(always)]
    fn value(self, slot: u32) -> u32 {
        (if slot == 0 { self.default } else { slot }).wrapping_sub(1)
    }
}

/// Where the cell for these last four bits is, in the line that a slot names.
#[inline(always)]
fn cell(slot: u32, bits: u32) -> usize {
    (slot as usize % MAX_LINES * CELLS) | (bits as usize % CELLS)
}

type Rib = PrefixMap<(u32, u8), u32>;

/// What control edits: the RIB, and through it the table that workers read.
pub struct Dir24Writer {
    rib: Rib,
    painter: Painter,
}

impl Dir24Writer {
    /// An empty table. `grace` tells when no reader is left in what was unlinked.
    pub fn new(grace: Grace) -> Self {
        let painter = Painter {
            table: Arc::default(),
            grace,
            unused: Vec::new(),
            retired: VecDeque::new(),
            begun: 0,
            waiting: BTreeSet::new(),
            is_huge: false,
        };
        Self { rib: PrefixMap::new(), painter }
    }

    /// What workers read.
    pub fn table(&self) -> &Arc<Dir24> {
        &self.painter.table
    }

    /// Number of routes.
    pub fn len(&self) -> usize {
        self.rib.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rib.is_empty()
    }

    /// Number of /24s that lead nowhere because there was no line for them.
    pub fn nowhere(&self) -> usize {
        self.painter.waiting.len()
    }

    /// Says how many routes there will be, before the first of many is inserted.
    pub fn expect(&mut self, routes: usize) {
        if routes >= MANY_ROUTES && !self.painter.is_huge {
            mapped::huge_pages(&self.painter.table.slots);
            mapped::huge_pages(&self.painter.table.cells);
            self.painter.is_huge = true;
        }
    }

    /// Routes a prefix, whatever host bits are set. Returns what it led to before. Panics for a value beyond `MAX_VALUE`.
    pub fn insert(&mut self, (address, length, value): Prefix<u32>) -> Option<u32> {
        assert!(value <= MAX_VALUE, "a value that fits a slot");
        let prefix = prefix(address, length);
        let old = self.rib.insert(prefix, value);
        if old != Some(value) {
            self.paint(prefix, value + 1);
        }
        old
    }

    /// Takes a route away. Returns what it led to.
    pub fn remove(&mut self, address: u32, length: u8) -> Option<u32> {
        let prefix = prefix(address, length);
        let old = self.rib.remove(&prefix)?;
        let slot = cover(&self.rib, prefix);
        self.paint(prefix, slot);
        Some(old)
    }

    /// Says that what has changed until now belongs together, and is complete.
    pub fn count_edition(&mut self) {
        self.painter.table.edition.fetch_add(1, Ordering::Release);
    }

    /// Gives every address of the prefix that no longer prefix has its new answer.
    fn paint(&mut self, prefix: (u32, u8), slot: u32) {
        let Self { rib, painter } = self;
        if prefix.1 == 0 {
            painter.table.default.store(slot, Ordering::Release);
            return;
        }
        let (first, last) = prefix.0.range(prefix.1);
        if prefix.1 > 24 {
            painter.remake(first >> 8, rib);
        } else {
            // The next /24 to be painted.
            let mut next = first >> 8;
            for (inner, _) in rib.children(&prefix).filter(|(inner, _)| inner.1 > prefix.1) {
                let (inner_first, inner_last) = inner.0.range(inner.1);
                let at = inner_first >> 8;
                if at < next {
                    // Within a /24 or a prefix that was passed over.
                    continue;
                }
                painter.set_all(next..at, slot);
                if inner.1 > 24 {
                    painter.remake(at, rib);
                }
                next = (inner_last >> 8) + 1;
            }
            painter.set_all(next..(last >> 8) + 1, slot);
        }
        painter.retry(rib);
    }
}

/// A prefix without host bits.
fn prefix(address: u32, length: u8) -> (u32, u8) {
    let length = length.min(u32::BITS as u8);
    (address.range(length).0, length)
}

/// What a slot says of a prefix and of nothing longer.
fn cover(rib: &Rib, prefix: (u32, u8)) -> u32 {
    // The default route is not painted.
    rib.get_lpm(&prefix).filter(|((_, length), _)| *length > 0).map_or(0, |(_, value)| value + 1)
}

/// No line is free.
struct NoLine;

/// Writes slots and lines, and knows which lines are free.
struct Painter {
    table: Arc<Dir24>,
    grace: Grace,
    unused: Vec<u32>,
    /// Lines that nothing names any more, with the epoch to wait for.
    retired: VecDeque<(u64, u32)>,
    /// Lines that were ever used.
    begun: u32,
    /// /24s that lead nowhere for want of a line.
    waiting: BTreeSet<u32>,
    is_huge: bool,
}

impl Painter {
    /// One answer for each of these /24s.
    fn set_all(&mut self, range: std::ops::Range<u32>, slot: u32) {
        for at in range {
            self.set(at, slot);
        }
    }

    fn set(&mut self, at: u32, slot: u32) {
        let place = &self.table.slots[at as usize];
        let old = place.load(Ordering::Relaxed);
        if old == slot {
            return;
        }
        place.store(slot, Ordering::Release);
        if old & LINE != 0 {
            let epoch = self.grace.stamp();
            self.retire(old, epoch);
        } else if old == NOWHERE {
            self.waiting.remove(&at);
        }
    }

    /// The lines that hang on a slot which nothing names any more.
    fn retire(&mut self, slot: u32, epoch: u64) {
        for bits in 0..CELLS as u32 {
            let below = self.table.view().cells[cell(slot, bits)].load(Ordering::Relaxed);
            if below & LINE != 0 {
                self.retired.push_back((epoch, below & !LINE));
            }
        }
        self.retired.push_back((epoch, slot & !LINE));
    }

    /// A /24 from what the RIB says.
    fn remake(&mut self, at: u32, rib: &Rib) {
        let whole = (at << 8, 24);
        let mut answers = [cover(rib, whole); 256];
        // Outer prefixes come before those within them.
        for ((address, length), value) in rib.children(&whole).filter(|((_, length), _)| *length > 24) {
            let (first, last) = address.range(length);
            answers[(first & 255) as usize..=(last & 255) as usize].fill(value + 1);
        }
        match self.slot_of(&answers) {
            Ok(slot) => self.set(at, slot),
            Err(NoLine) => {
                self.set(at, NOWHERE);
                self.waiting.insert(at);
            }
        }
    }

    /// What a slot or cell for these answers is: the one they all are, or a new line.
    fn slot_of(&mut self, answers: &[u32]) -> Result<u32, NoLine> {
        if answers.iter().all(|answer| *answer == answers[0]) {
            return Ok(answers[0]);
        }
        let mut line = [0; CELLS];
        for (at, answers) in answers.chunks(answers.len() / CELLS).enumerate() {
            match self.slot_of(answers) {
                Ok(slot) => line[at] = slot,
                Err(NoLine) => {
                    self.give_back(&line);
                    return Err(NoLine);
                }
            }
        }
        let taken = self.take();
        let Ok(number) = taken else {
            self.give_back(&line);
            return Err(NoLine);
        };
        let slot = LINE | number;
        let cells = self.table.view().cells;
        for (bits, value) in (0..).zip(line) {
            cells[cell(slot, bits)].store(value, Ordering::Release);
        }
        Ok(slot)
    }

    /// Lines that were made for a line that will not be, which nobody has seen.
    fn give_back(&mut self, line: &[u32; CELLS]) {
        self.unused.extend(line.iter().filter(|slot| **slot & LINE != 0).map(|slot| slot & !LINE));
    }

    /// Lets those that wait for lines try again, if there are any.
    fn retry(&mut self, rib: &Rib) {
        while let Some(at) = self.waiting.first().copied() {
            self.remake(at, rib);
            if self.waiting.first() == Some(&at) {
                return;
            }
        }
    }

    /// A line that nobody reads.
    fn take(&mut self) -> Result<u32, NoLine> {
        if self.unused.is_empty() && !self.retired.is_empty() {
            let passed = self.grace.passed();
            while let Some((_, line)) = self.retired.pop_front_if(|(epoch, _)| *epoch <= passed) {
                self.unused.push(line);
            }
        }
        if let Some(line) = self.unused.pop() {
            return Ok(line);
        }
        let line = self.begun;
        if line as usize >= MAX_LINES {
            return Err(NoLine);
        }
        self.begun += 1;
        Ok(line)
    }
}

#[cfg(test)]
#[path = "dir24_tests.rs"]
mod tests;
