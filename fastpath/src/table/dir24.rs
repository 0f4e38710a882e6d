//! Longest prefix match for IPv4: one slot for every /24, edited in place under readers that take no lock.
//!
//!     address ──first 24 bits──▶ slot ─┬─ 0          no route but the default: `default` has the answer
//!                                      ├─ value + 1  the answer
//!                                      ├─ line ──next 4 bits──▶ cell: 0, or value + 1
//!                                      └─ group ──last 8 bits──▶ cell: 0, or value + 1
//!
//! The table of 2^24 slots is mapped page by page as it is written to, so a node with few routes keeps few pages, and the
//! default route is one store. A prefix is painted over the addresses that no longer prefix in it has; what has which is
//! known from the prefixes beside it (`prefixes.rs`). Each address changes by one store, from its old answer to its new one.
//!
//! A /24 with more than one answer has a line, sixteen cells in one line of the cache, if its routes are no longer than /28,
//! else a group of 256 cells. Blocks of 64 addresses, as clusters have them, so cost one line for four, and 100,000 of
//! them fit a cache. Lines and groups are filled before a slot names them, and never changed while one does: a /24 that
//! changes inside is made anew, and what it had is used again when every reader has begun another breath.
//!
//! Invariants: a slot names a line or group only while its /24 has more than one answer. There are at most [`MAX_LINES`]
//! lines and [`MAX_GROUPS`] groups: a /24 for which they do not suffice leads nowhere (fails closed) until one is free.
//! Left out: more than one writer; a change of many routes at one instant (`routes.rs` says when one is complete).
//! See: Gupta, Lin, McKeown, "Routing Lookups in Hardware at Memory Access Speeds", 1998.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::lpm::{Address, MAX_VALUE, Prefix};
use super::prefixes::{Number, Prefixes};
use crate::mapped::{self, Extent};
use crate::rcu::Grace;

const SLOTS: usize = 1 << 24;

/// Cells of a line, which is 64 bytes; and lines of a group.
const CELLS: usize = 16;

/// /24s that may have more than one answer at a time: those with routes up to /28, and those with longer ones. In all 256
/// MiB of addresses, mapped as they are used.
pub const MAX_LINES: usize = 1 << 20;
pub const MAX_GROUPS: usize = 3 << 16;

/// Lines of both kinds, groups behind single ones.
const ALL_LINES: usize = MAX_LINES + MAX_GROUPS * CELLS;
const _: () = assert!(ALL_LINES.is_power_of_two());

/// Cells of all lines, and as many as a group has beyond the first of the last.
const ALL_CELLS: usize = ALL_LINES * CELLS + 256 - CELLS;

/// In a slot: what follows is the number of a line; with the second bit, of the first line of a group.
const LINE: u32 = 1 << 31;
const GROUP: u32 = 1 << 30;

/// Addresses that are looked up side by side.
const LANES: usize = 32;

/// In a slot: it should name a line and there is none. As an answer it is beyond every list.
const NOWHERE: u32 = LINE - 1;
const _: () = assert!(MAX_VALUE + 1 < NOWHERE);

/// From how many routes on tables are worth huge pages, since with fewer most of each page would be empty; and looks ahead,
/// since with fewer they fit the caches.
const MANY_ROUTES: usize = 50_000;

/// What workers read.
#[derive(Debug)]
pub struct Dir24 {
    slots: mapped::Zeroed<AtomicU32>,
    /// Lines, from the first whole line of the cache on.
    cells: mapped::Zeroed<AtomicU32>,
    first_cell: usize,
    default: AtomicU32,
    edition: AtomicU32,
    /// Has, or will have, [`MANY_ROUTES`].
    is_large: AtomicBool,
}

impl Default for Dir24 {
    fn default() -> Self {
        let cells = mapped::zeroed::<AtomicU32>(ALL_CELLS + CELLS);
        let first_cell = cells.as_ptr().align_offset(CELLS * size_of::<AtomicU32>()).min(CELLS);
        let (default, edition) = (AtomicU32::new(0), AtomicU32::new(0));
        Self { slots: mapped::zeroed(SLOTS), cells, first_cell, default, edition, is_large: AtomicBool::new(false) }
    }
}

/// The tables with their lengths, which the compiler knows from here on.
#[derive(Clone, Copy)]
struct View<'a> {
    slots: &'a [AtomicU32; SLOTS],
    cells: &'a [AtomicU32; ALL_CELLS],
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
    /// All slots of some of them first, and then all cells: so that as many waits for memory overlap as the processor can
    /// have.
    pub fn lookup_burst(&self, addresses: &[u32], values: &mut [u32]) {
        assert_eq!(addresses.len(), values.len(), "a value for every address");
        let (view, is_large) = (self.view(), self.is_large.load(Ordering::Relaxed));
        let (whole, rest) = addresses.as_chunks::<LANES>();
        let (whole_values, rest_values) = values.as_chunks_mut::<LANES>();
        for (position, (addresses, values)) in whole.iter().zip(whole_values).enumerate() {
            if is_large && let Some(next) = whole.get(position + 1) {
                // Beyond the caches: nothing that a lookup waits for, or guesses wrong, holds the next ones up.
                next.iter().for_each(|address| mapped::prefetch(&view.slots[(*address >> 8) as usize]));
            }
            let slots = addresses.map(|address| view.slot(address));
            for ((address, slot), value) in addresses.iter().zip(slots).zip(values) {
                *value = view.value(slot, *address);
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

    /// What it takes, and what of that has been touched.
    pub fn extent(&self) -> Extent {
        [self.slots.extent(), self.cells.extent()].into_iter().sum()
    }

    /// What a /24 leads to that is a prefix, and has no longer one in it.
    fn value_of_whole(&self, at: u32) -> u32 {
        self.slots[at as usize].load(Ordering::Relaxed).wrapping_sub(1)
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
        self.value(self.slot(address), address)
    }

    #[inline(always)]
    fn slot(self, address: u32) -> u32 {
        // Acquire: what a slot names was written before it. A plain load on x86-64.
        self.slots[(address >> 8) as usize].load(Ordering::Acquire)
    }

    /// What a slot comes to for an address. 0 becomes `NO_VALUE`, which no prefix has.
    #[inline(always)]
    fn value(self, slot: u32, address: u32) -> u32 {
        let slot = if slot & LINE == 0 { slot } else { self.cells[cell(slot, address)].load(Ordering::Relaxed) };
        (if slot == 0 { self.default } else { slot }).wrapping_sub(1)
    }
}

/// Where the cell of an address is, in the line or group that its slot names.
#[inline(always)]
fn cell(slot: u32, address: u32) -> usize {
    let shift = if slot & GROUP == 0 { 4 } else { 0 };
    slot as usize % ALL_LINES * CELLS + ((address & 255) >> shift) as usize
}

/// What control edits: the prefixes, and through them the table that workers read.
pub struct Dir24Writer {
    prefixes: Prefixes,
    painter: Painter,
}

impl Dir24Writer {
    /// An empty table. `grace` tells when no reader is left in what was unlinked.
    pub fn new(grace: Grace) -> Self {
        let painter = Painter {
            table: Arc::default(),
            grace,
            lines: Pool::new(0, 1, MAX_LINES),
            groups: Pool::new(MAX_LINES, CELLS, MAX_GROUPS),
            waiting: BTreeSet::new(),
        };
        Self { prefixes: Prefixes::default(), painter }
    }

    /// What workers read.
    pub fn table(&self) -> &Arc<Dir24> {
        &self.painter.table
    }

    /// Number of routes.
    pub fn len(&self) -> usize {
        self.prefixes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of /24s that lead nowhere because there was no line for them.
    pub fn nowhere(&self) -> usize {
        self.painter.waiting.len()
    }

    /// Says how many routes there will be, before the first of many is inserted.
    pub fn expect(&mut self, routes: usize) {
        let table = &self.painter.table;
        if routes >= MANY_ROUTES && !table.is_large.swap(true, Ordering::Relaxed) {
            mapped::huge_pages(&table.slots);
            mapped::huge_pages(&table.cells);
        }
    }

    /// Routes a prefix, whatever host bits are set. Returns what it led to before. Panics for a value beyond `MAX_VALUE`.
    pub fn insert(&mut self, (address, length, value): Prefix<u32>) -> Option<u32> {
        assert!(value <= MAX_VALUE, "a value that fits a slot");
        let (address, length) = prefix(address, length);
        let table = &self.painter.table;
        let old = self.prefixes.insert(address, length, value, |at| table.value_of_whole(at));
        if old.is_none() {
            self.expect(self.len());
        }
        if old != Some(value) {
            self.paint(address, length, Some(value));
        }
        old
    }

    /// Takes a route away. Returns what it led to.
    pub fn remove(&mut self, address: u32, length: u8) -> Option<u32> {
        let (address, length) = prefix(address, length);
        let table = &self.painter.table;
        let old = self.prefixes.remove(address, length, |at| table.value_of_whole(at))?;
        let around = if length > 24 { None } else { self.prefixes.around(Number::of(address, length)) };
        self.paint(address, length, around);
        Some(old)
    }

    /// Says that what has changed until now belongs together, and is complete.
    pub fn count_edition(&mut self) {
        self.painter.table.edition.fetch_add(1, Ordering::Release);
    }

    /// Gives every address of the prefix that no longer prefix has its new answer. That of addresses in a /24 with longer
    /// prefixes than that is not asked for: it is what the prefixes say.
    fn paint(&mut self, address: u32, length: u8, value: Option<u32>) {
        let Self { prefixes, painter } = self;
        let slot = slot(value);
        match length {
            0 => return painter.table.default.store(slot, Ordering::Release),
            1..=24 => prefixes.free(Number::of(address, length), &mut |range| painter.set_all(range, slot, prefixes)),
            _ => painter.remake(address >> 8, prefixes),
        }
        painter.retry(prefixes);
    }
}

/// A prefix without host bits.
fn prefix(address: u32, length: u8) -> (u32, u8) {
    let length = length.min(u32::BITS as u8);
    (address.range(length).0, length)
}

/// What a slot or cell says that leads there.
fn slot(value: Option<u32>) -> u32 {
    value.map_or(0, |value| value + 1)
}

/// Lines of one kind, and which of them are free.
struct Pool {
    /// Number of the first, and from each to the next.
    first: u32,
    step: u32,
    most: u32,
    /// Those that were ever used.
    begun: u32,
    unused: Vec<u32>,
    /// Those that no slot names any more, with the epoch to wait for.
    retired: VecDeque<(u64, u32)>,
}

impl Pool {
    fn new(first: usize, step: usize, most: usize) -> Self {
        let (first, step, most) = (first as u32, step as u32, most as u32);
        Self { first, step, most, begun: 0, unused: Vec::new(), retired: VecDeque::new() }
    }

    /// One that nobody reads.
    fn take(&mut self, grace: &Grace) -> Option<u32> {
        if self.unused.is_empty() && !self.retired.is_empty() {
            let passed = grace.passed();
            while let Some((_, line)) = self.retired.pop_front_if(|(epoch, _)| *epoch <= passed) {
                self.unused.push(line);
            }
        }
        self.unused.pop().or_else(|| {
            let line = self.first + self.begun * self.step;
            let is_left = self.begun < self.most;
            self.begun += u32::from(is_left);
            is_left.then_some(line)
        })
    }
}

/// Writes slots and lines.
struct Painter {
    table: Arc<Dir24>,
    grace: Grace,
    lines: Pool,
    groups: Pool,
    /// /24s that lead nowhere for want of a line.
    waiting: BTreeSet<u32>,
}

impl Painter {
    /// One answer for each of these /24s, but where there are longer prefixes.
    fn set_all(&mut self, mut range: Range<u32>, slot: u32, prefixes: &Prefixes) {
        while let Some(at) = prefixes.first_with_inner(range.clone()) {
            (range.start..at).for_each(|at| self.set(at, slot));
            self.remake(at, prefixes);
            range.start = at + 1;
        }
        range.for_each(|at| self.set(at, slot));
    }

    fn set(&mut self, at: u32, slot: u32) {
        let place = &self.table.slots[at as usize];
        let old = place.load(Ordering::Relaxed);
        if old == slot {
            return;
        }
        place.store(slot, Ordering::Release);
        if old & LINE != 0 {
            let pool = if old & GROUP == 0 { &mut self.lines } else { &mut self.groups };
            pool.retired.push_back((self.grace.stamp(), old % ALL_LINES as u32));
        } else if old == NOWHERE {
            self.waiting.remove(&at);
        }
    }

    /// A /24 with longer prefixes from what these say.
    fn remake(&mut self, at: u32, prefixes: &Prefixes) {
        let mut answers = [slot(prefixes.around_inner(at)); 256];
        for (address, length, value) in prefixes.inner(at) {
            let (first, last) = address.range(length);
            answers[(first & 255) as usize..=(last & 255) as usize].fill(value + 1);
        }
        match self.slot_of(&answers) {
            Some(slot) => self.set(at, slot),
            None => {
                self.set(at, NOWHERE);
                self.waiting.insert(at);
            }
        }
    }

    /// What a slot for these answers is: the one they all are, or a new line or group. None if there is none left.
    fn slot_of(&mut self, answers: &[u32; 256]) -> Option<u32> {
        let is_one = |answers: &[u32]| answers.iter().all(|answer| *answer == answers[0]);
        if is_one(answers) {
            return Some(answers[0]);
        }
        let is_line = answers.chunks(256 / CELLS).all(is_one);
        let (slot, step) = match is_line {
            true => (LINE | self.lines.take(&self.grace)?, 256 / CELLS),
            false => (LINE | GROUP | self.groups.take(&self.grace)?, 1),
        };
        let cells = &self.table.view().cells[cell(slot, 0)..];
        for (cell, answer) in cells.iter().zip(answers.iter().step_by(step)) {
            cell.store(*answer, Ordering::Relaxed);
        }
        Some(slot)
    }

    /// Lets those that wait for lines try again, if there are any.
    fn retry(&mut self, prefixes: &Prefixes) {
        while let Some(at) = self.waiting.first().copied() {
            self.remake(at, prefixes);
            if self.waiting.first() == Some(&at) {
                return;
            }
        }
    }
}

#[cfg(test)]
#[path = "dir24_tests.rs"]
mod tests;
