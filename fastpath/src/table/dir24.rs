//! Longest prefix match for IPv4: one slot for every /24, edited in place under readers that take no lock.
//!
//!     address ──first 24 bits──▶ slot ─┬─ 0            no route but the default: `default` has the answer
//!                                      ├─ value + 1    the answer
//!                                      └─ group ──last 8 bits──▶ cell: 0, or value + 1
//!
//! A table of 2^24 slots is mapped page by page as it is written to, so a node with few routes keeps few pages, and the
//! default route is one store. A prefix is painted over the addresses that no longer prefix in it has; what has which is
//! known from the RIB beside it. Each address changes by one store, from its old answer to its new one.
//!
//! A /24 needs a group when it has more than one answer. The group is filled before the slot names it; when it has one
//! answer again the slot takes that, and the group is used again when every reader has begun another breath.
//!
//! Invariants: a slot names a group only while the RIB has prefixes longer than /24 there; readers never see a group that
//! is being filled for somebody else. Groups are bounded by [`MAX_GROUPS`]: a /24 that needs one and gets none leads
//! nowhere (fails closed) until one is free.
//! Left out: more than one writer; a change of many routes at one instant (`Tables::stamp` says when one is complete).
//! See: Gupta, Lin, McKeown, "Routing Lookups in Hardware at Memory Access Speeds", 1998.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use prefix_trie::PrefixMap;

use super::lpm::{Address, MAX_VALUE, Prefix};
use crate::mapped;
use crate::rcu::Grace;

const SLOTS: usize = 1 << 24;
const CELLS: usize = 1 << 8;

/// The /24s that may have more than one answer at a time: 256 MiB of addresses, mapped as they are used.
pub const MAX_GROUPS: usize = 1 << 18;

/// In a slot: what follows is the number of a group.
const GROUP: u32 = 1 << 31;

/// In a slot: it should name a group and there is none. As an answer it is beyond every list.
const NOWHERE: u32 = GROUP - 1;
const _: () = assert!(MAX_VALUE + 1 < NOWHERE);

/// From how many routes on the slots are worth huge pages: with fewer, most of each page would be empty.
const MANY_ROUTES: usize = 100_000;

/// Addresses that are looked up side by side, so that the waits for memory overlap.
const LANES: usize = 32;

/// What workers read.
#[derive(Debug)]
pub struct Dir24 {
    slots: Box<[AtomicU32]>,
    cells: Box<[AtomicU32]>,
    default: AtomicU32,
    edition: AtomicU32,
}

impl Default for Dir24 {
    fn default() -> Self {
        Self {
            slots: mapped::zeroed(SLOTS),
            cells: mapped::zeroed(MAX_GROUPS * CELLS),
            default: AtomicU32::new(0),
            edition: AtomicU32::new(0),
        }
    }
}

impl Dir24 {
    /// The value of the longest prefix that covers the address, or [`NO_VALUE`](super::lpm::NO_VALUE).
    #[inline]
    pub fn lookup(&self, address: u32) -> u32 {
        // Acquire: what a slot names was written before it. A plain load on x86-64.
        let slot = self.slots[(address >> 8) as usize].load(Ordering::Acquire);
        let slot = if slot & GROUP == 0 { slot } else { self.cells[cell(slot, address)].load(Ordering::Relaxed) };
        self.value(slot, self.default.load(Ordering::Relaxed))
    }

    /// The same for many addresses. Panics unless there is a value for each.
    pub fn lookup_burst(&self, addresses: &[u32], values: &mut [u32]) {
        assert_eq!(addresses.len(), values.len(), "a value for every address");
        let slots = self.slots.first_chunk::<SLOTS>().unwrap_or_else(|| unreachable!("made with that many"));
        let default = self.default.load(Ordering::Relaxed);
        for (addresses, values) in addresses.chunks(LANES).zip(values.chunks_mut(LANES)) {
            let mut groups = 0;
            for (address, value) in addresses.iter().zip(&mut *values) {
                *value = slots[(address >> 8) as usize].load(Ordering::Acquire);
                groups |= *value;
            }
            if groups & GROUP != 0 {
                for (address, value) in addresses.iter().zip(&mut *values) {
                    if *value & GROUP != 0 {
                        *value = self.cells[cell(*value, *address)].load(Ordering::Relaxed);
                    }
                }
            }
            for value in values {
                *value = self.value(*value, default);
            }
        }
    }

    /// How often the table has changed: what had changed by then is seen by every lookup that follows.
    pub fn edition(&self) -> u32 {
        self.edition.load(Ordering::Acquire)
    }

    /// 0 becomes `NO_VALUE`, which no prefix has.
    #[inline(always)]
    fn value(&self, slot: u32, default: u32) -> u32 {
        (if slot == 0 { default } else { slot }).wrapping_sub(1)
    }
}

/// Where the cell of an address is, in the group that its slot names.
#[inline(always)]
fn cell(slot: u32, address: u32) -> usize {
    ((slot & !GROUP) as usize * CELLS) | (address as usize % CELLS)
}

/// What control edits: the RIB, and through it the table that workers read.
pub struct Dir24Writer {
    rib: PrefixMap<(u32, u8), u32>,
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

    /// Number of /24s that lead nowhere because there was no group for them.
    pub fn nowhere(&self) -> usize {
        self.painter.waiting.len()
    }

    /// Says how many routes there will be, before the first of many is inserted.
    pub fn expect(&mut self, routes: usize) {
        if routes >= MANY_ROUTES && !self.painter.is_huge {
            mapped::huge_pages(&self.painter.table.slots);
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
        let cover = self.rib.get_lpm(&prefix).filter(|((_, length), _)| *length > 0);
        let slot = cover.map_or(0, |(_, value)| value + 1);
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
        // The next address to be painted: beyond the last there is one more number.
        let mut next = u64::from(first);
        for (inner, _) in rib.children(&prefix).filter(|(inner, _)| inner.1 > prefix.1) {
            let (inner_first, inner_last) = inner.0.range(inner.1);
            if u64::from(inner_first) < next {
                // Within a prefix that was passed over.
                continue;
            }
            if u64::from(inner_first) > next {
                painter.paint(next as u32, inner_first - 1, slot, rib);
            }
            next = u64::from(inner_last) + 1;
        }
        if next <= u64::from(last) {
            painter.paint(next as u32, last, slot, rib);
        }
        painter.retry(rib);
    }
}

/// A prefix without host bits.
fn prefix(address: u32, length: u8) -> (u32, u8) {
    let length = length.min(u32::BITS as u8);
    (address.range(length).0, length)
}

type Rib = PrefixMap<(u32, u8), u32>;

/// Writes slots and cells, and knows which groups are free.
struct Painter {
    table: Arc<Dir24>,
    grace: Grace,
    unused: Vec<u32>,
    /// Groups that no slot names any more, with the epoch to wait for.
    retired: VecDeque<(u64, u32)>,
    /// Groups that were ever used.
    begun: u32,
    /// /24s that lead nowhere for want of a group.
    waiting: BTreeSet<u32>,
    is_huge: bool,
}

impl Painter {
    /// All addresses from the first to the last.
    fn paint(&mut self, first: u32, last: u32, slot: u32, rib: &Rib) {
        let (mut from, to) = (first >> 8, last >> 8);
        if from == to {
            self.paint_cells(from, first & 255, last & 255, slot, rib);
            return;
        }
        if first & 255 != 0 {
            self.paint_cells(from, first & 255, 255, slot, rib);
            from += 1;
        }
        for at in from..to {
            self.set(at, slot);
        }
        self.paint_cells(to, 0, last & 255, slot, rib);
    }

    /// Some addresses of a /24.
    fn paint_cells(&mut self, at: u32, first: u32, last: u32, slot: u32, rib: &Rib) {
        let old = self.table.slots[at as usize].load(Ordering::Relaxed);
        if (first, last) == (0, 255) {
            self.set(at, slot);
        } else if old == NOWHERE {
            self.remake(at, rib);
        } else if old & GROUP != 0 {
            for cell in &self.table.cells[cell(old, first)..=cell(old, last)] {
                cell.store(slot, Ordering::Release);
            }
            if self.group(old).iter().all(|cell| cell.load(Ordering::Relaxed) == slot) {
                self.set(at, slot);
            }
        } else if old != slot {
            let mut cells = [old; CELLS];
            cells[first as usize..=last as usize].fill(slot);
            self.link(at, &cells);
        }
    }

    /// One answer for a whole /24.
    fn set(&mut self, at: u32, slot: u32) {
        let place = &self.table.slots[at as usize];
        let old = place.load(Ordering::Relaxed);
        if old == slot {
            return;
        }
        place.store(slot, Ordering::Release);
        if old & GROUP != 0 {
            self.retired.push_back((self.grace.stamp(), old & !GROUP));
        } else if old == NOWHERE {
            self.waiting.remove(&at);
        }
    }

    /// Different answers for a /24 that had one.
    fn link(&mut self, at: u32, cells: &[u32; CELLS]) {
        let Some(group) = self.take() else {
            self.set(at, NOWHERE);
            self.waiting.insert(at);
            return;
        };
        let slot = GROUP | group;
        for (cell, value) in self.group(slot).iter().zip(cells) {
            cell.store(*value, Ordering::Relaxed);
        }
        self.waiting.remove(&at);
        self.table.slots[at as usize].store(slot, Ordering::Release);
    }

    /// A /24 from what the RIB says.
    fn remake(&mut self, at: u32, rib: &Rib) {
        let whole = (at << 8, 24);
        let cover = rib.get_lpm(&whole).filter(|((_, length), _)| *length > 0);
        let mut cells = [cover.map_or(0, |(_, value)| value + 1); CELLS];
        // Outer prefixes come before those within them.
        for ((address, length), value) in rib.children(&whole).filter(|((_, length), _)| *length > 24) {
            let (first, last) = address.range(length);
            cells[(first & 255) as usize..=(last & 255) as usize].fill(value + 1);
        }
        if cells.iter().all(|cell| *cell == cells[0]) {
            self.set(at, cells[0]);
        } else {
            self.link(at, &cells);
        }
    }

    /// Gives groups to those that wait for one.
    fn retry(&mut self, rib: &Rib) {
        while let Some(at) = self.waiting.first().copied() {
            let Some(group) = self.take() else { return };
            self.unused.push(group);
            self.remake(at, rib);
        }
    }

    /// A group that nobody reads.
    fn take(&mut self) -> Option<u32> {
        if self.unused.is_empty() && !self.retired.is_empty() {
            let passed = self.grace.passed();
            while let Some((_, group)) = self.retired.pop_front_if(|(epoch, _)| *epoch <= passed) {
                self.unused.push(group);
            }
        }
        if let Some(group) = self.unused.pop() {
            return Some(group);
        }
        let group = self.begun;
        ((group as usize) < MAX_GROUPS).then(|| {
            self.begun += 1;
            group
        })
    }

    fn group(&self, slot: u32) -> &[AtomicU32] {
        &self.table.cells[cell(slot, 0)..][..CELLS]
    }
}

#[cfg(test)]
#[path = "dir24_tests.rs"]
mod tests;
