//! The flow table: one for all workers, read without locks.
//!
//!     bucket   8 × tag:16          one cache line; a key has two buckets
//!              8 × entry<<1 | dir  0 = empty
//!     entry    line 0  key, interfaces, ways out, rule, stamp     read by both directions
//!              line 1  forward: last seen, packets, bytes, flags  written by whoever sees the forward direction
//!              line 2  reverse: the same
//!
//! A flow is one entry and two slots, one for its key and one for the reversed key. Slots are set and cleared by
//! compare-and-swap; an entry is allocated, aged and freed by one worker (its *owner*), so the free list needs no lock.
//! A reader checks the entry's version before and after it has read: an entry that changed hands meanwhile is a miss.
//! An entry is not reused before every worker has ended the breath in which it was unlinked (`rcu`), so a handle stays
//! good for the breath that found it.
//!
//! Invariants: an even version means stable; a slot points to an entry whose key hashes to that bucket; both slots of a
//! live entry are set. A full pair of buckets evicts by class and never an established flow: then the new flow is
//! refused. Nothing here lets a packet through: a miss only means that policy decides.
//! Left out: relocation, so that a reader never misses a present key. See: Pagh, Rodler, "Cuckoo Hashing", 2004, for what
//! two choices are worth without it: Azar et al., "Balanced Allocations", 1994.

use std::hash::{BuildHasher, Hasher};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering, fence};

use super::tcp_state::{self, State};
use super::{FlowView, Key, Seconds};
use crate::rcu::Grace;
use crate::table::{AdjacencyIndex, InterfaceIndex, RuleIndex};

const WAYS: usize = 8;

/// A flow found, and the direction in which the packet that found it travels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowHandle(u32);

impl FlowHandle {
    fn new(entry: u32, direction: Direction) -> Self {
        Self(entry << 1 | direction as u32)
    }
    fn entry(self) -> usize {
        (self.0 >> 1) as usize
    }
    pub fn direction(self) -> Direction {
        if self.0 & 1 == 0 { Direction::Forward } else { Direction::Reverse }
    }
    /// Handle of the other direction of the same flow.
    pub fn reversed(self) -> Self {
        Self(self.0 ^ 1)
    }
}

/// Forward is the way of the flow's first packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Direction {
    Forward = 0,
    Reverse = 1,
}

/// What is recorded for packets of one direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decision {
    /// Where packets of this direction come in.
    pub ingress: InterfaceIndex,
    /// Where they go; NONE until the first packet of the direction has been routed.
    pub adjacency: AdjacencyIndex,
    /// The tables under which the way out was found.
    pub generation: u32,
}

/// A new flow.
#[derive(Clone, Copy, Debug)]
pub struct NewFlow {
    pub key: Key,
    pub hash: u64,
    pub ingress: InterfaceIndex,
    pub egress: InterfaceIndex,
    pub adjacency: AdjacencyIndex,
    pub generation: u32,
    /// The rule that allowed it.
    pub rule: RuleIndex,
    pub tcp_flags: u8,
    pub bytes: u32,
    /// For the fragments of a datagram: how much of it the first fragment covered, in bytes.
    pub covered: u16,
}

/// Why a flow was not entered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InsertError {
    /// No free entry, or only established flows in both buckets.
    Full,
}

#[derive(Default)]
#[repr(align(64))]
struct Bucket {
    tags: [AtomicU16; WAYS],
    entries: [AtomicU32; WAYS],
}

#[derive(Default)]
#[repr(align(64))]
struct Line0 {
    key: [AtomicU64; 5],
    /// Even: stable; odd: being written or free.
    version: AtomicU32,
    rule: AtomicU32,
    ingress: [AtomicU16; 2],
    created: AtomicU32,
    covered: AtomicU16,
    state: AtomicU8,
    _reserved: AtomicU8,
}

/// Written by packets of one direction only, so that the two directions do not share a line.
#[derive(Default)]
#[repr(align(64))]
struct Side {
    packets: AtomicU64,
    bytes: AtomicU64,
    /// Way out and generation in one word: they change together.
    decision: AtomicU64,
    last_seen: AtomicU32,
    tcp_flags: AtomicU8,
}

#[derive(Default)]
struct Entry {
    line0: Line0,
    sides: [Side; 2],
}

const _: () = assert!(size_of::<Bucket>() == 64 && size_of::<Line0>() == 64 && size_of::<Entry>() == 192);

/// The table.
pub struct FlowTable {
    buckets: Box<[Bucket]>,
    entries: Box<[Entry]>,
    hasher: ahash::RandomState,
}

impl FlowTable {
    /// A table for `capacity` flows with keys that nobody outside can guess. Half the slots stay empty at capacity.
    pub fn new(capacity: u32) -> Arc<Self> {
        Self::with_hasher(capacity, ahash::RandomState::new())
    }

    /// The same with chosen hash keys, so that a test repeats.
    pub fn with_hasher(capacity: u32, hasher: ahash::RandomState) -> Arc<Self> {
        let capacity = capacity.clamp(64, 1 << 30);
        // Two slots a flow, half of them empty.
        let buckets = (capacity as usize * 4 / WAYS).next_power_of_two();
        Arc::new(Self {
            buckets: (0..buckets).map(|_| Bucket::default()).collect(),
            entries: (0..capacity)
                .map(|_| Entry { line0: Line0 { version: AtomicU32::new(1), ..Line0::default() }, ..Entry::default() })
                .collect(),
            hasher,
        })
    }

    pub fn capacity(&self) -> usize {
        self.entries.len()
    }

    /// The keyed hash of a key.
    #[inline]
    pub fn hash(&self, key: &Key) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        for word in key.words() {
            hasher.write_u64(word);
        }
        hasher.finish()
    }

    fn buckets_of(&self, hash: u64) -> (usize, usize, u16) {
        let mask = self.buckets.len() - 1;
        let first = hash as usize & mask;
        let second = (hash >> 32) as usize & mask;
        (first, second, (hash >> 48) as u16 | 1)
    }

    /// Finds the flow of which this key is either direction.
    #[inline]
    pub fn lookup(&self, key: &Key, hash: u64) -> Option<FlowHandle> {
        let (first, second, tag) = self.buckets_of(hash);
        let words = key.words();
        self.probe(first, tag, key, &words).or_else(|| self.probe(second, tag, key, &words))
    }

    #[inline]
    fn probe(&self, bucket: usize, tag: u16, key: &Key, words: &[u64; 5]) -> Option<FlowHandle> {
        let bucket = &self.buckets[bucket];
        for way in 0..WAYS {
            if bucket.tags[way].load(Ordering::Relaxed) != tag {
                continue;
            }
            let value = bucket.entries[way].load(Ordering::Acquire);
            if value == 0 {
                continue;
            }
            let handle = FlowHandle(value - 2);
            if self.holds(handle, key, words) {
                return Some(handle);
            }
        }
        None
    }

    /// True when the entry is stable and its key, in the handle's direction, is this one.
    fn holds(&self, handle: FlowHandle, key: &Key, words: &[u64; 5]) -> bool {
        let line0 = &self.entries[handle.entry()].line0;
        let version = line0.version.load(Ordering::Acquire);
        if version & 1 == 1 {
            return false;
        }
        let stored: [u64; 5] = std::array::from_fn(|word| line0.key[word].load(Ordering::Relaxed));
        let is_equal = match handle.direction() {
            Direction::Forward => stored == *words,
            Direction::Reverse => Key::from_words(stored) == key.reversed(),
        };
        fence(Ordering::Acquire);
        is_equal && line0.version.load(Ordering::Relaxed) == version
    }

    /// What is recorded for packets of the handle's direction.
    #[inline]
    pub fn decision(&self, handle: FlowHandle) -> Decision {
        let entry = &self.entries[handle.entry()];
        let side = handle.direction() as usize;
        let word = entry.sides[side].decision.load(Ordering::Relaxed);
        Decision {
            ingress: InterfaceIndex(entry.line0.ingress[side].load(Ordering::Relaxed)),
            adjacency: AdjacencyIndex((word >> 32) as u32),
            generation: word as u32,
        }
    }

    /// Records a way out that was found again.
    pub fn set_way_out(&self, handle: FlowHandle, adjacency: AdjacencyIndex, generation: u32) {
        let word = u64::from(adjacency.0) << 32 | u64::from(generation);
        self.side(handle).decision.store(word, Ordering::Relaxed);
    }

    /// The interface by which packets of the handle's direction leave: where the other direction comes in.
    pub fn egress(&self, handle: FlowHandle) -> InterfaceIndex {
        let entry = &self.entries[handle.entry()];
        InterfaceIndex(entry.line0.ingress[handle.direction() as usize ^ 1].load(Ordering::Relaxed))
    }

    pub fn rule(&self, handle: FlowHandle) -> RuleIndex {
        RuleIndex(self.entries[handle.entry()].line0.rule.load(Ordering::Relaxed))
    }

    /// For fragments: how many bytes of the datagram the first fragment covered.
    pub fn covered(&self, handle: FlowHandle) -> u16 {
        self.entries[handle.entry()].line0.covered.load(Ordering::Relaxed)
    }

    /// The key of the flow's first packet.
    pub fn key(&self, handle: FlowHandle) -> Key {
        let line0 = &self.entries[handle.entry()].line0;
        Key::from_words(std::array::from_fn(|word| line0.key[word].load(Ordering::Relaxed)))
    }

    /// Counts a packet and moves the state on.
    #[inline]
    pub fn touch(&self, handle: FlowHandle, bytes: u32, tcp_flags: u8, now: Seconds) {
        let side = self.side(handle);
        // One writer a direction at a time, so load and store; a lost count under re-homing would be harmless.
        side.packets.store(side.packets.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        side.bytes.store(side.bytes.load(Ordering::Relaxed) + u64::from(bytes), Ordering::Relaxed);
        if side.last_seen.load(Ordering::Relaxed) != now {
            side.last_seen.store(now, Ordering::Relaxed);
        }
        let line0 = &self.entries[handle.entry()].line0;
        let state = State::from_bits(line0.state.load(Ordering::Relaxed));
        let seen = side.tcp_flags.load(Ordering::Relaxed);
        if seen | tcp_flags != seen {
            side.tcp_flags.store(seen | tcp_flags, Ordering::Relaxed);
        }
        let other = self.side(handle.reversed()).tcp_flags.load(Ordering::Relaxed);
        let next = tcp_state::next(state, handle.direction(), tcp_flags, seen | tcp_flags, other);
        if next != state {
            line0.state.store(next as u8, Ordering::Relaxed);
        }
    }

    fn side(&self, handle: FlowHandle) -> &Side {
        &self.entries[handle.entry()].sides[handle.direction() as usize]
    }

    fn state(&self, entry: usize) -> State {
        State::from_bits(self.entries[entry].line0.state.load(Ordering::Relaxed))
    }

    fn last_seen(&self, entry: usize) -> Seconds {
        self.entries[entry].sides.iter().map(|side| side.last_seen.load(Ordering::Relaxed)).max().unwrap_or(0)
    }

    /// A look at every live flow. Each is consistent in itself; the set is not a snapshot.
    pub fn iter(&self) -> impl Iterator<Item = FlowView> + '_ {
        self.views(0..self.capacity())
    }

    /// A look at the live flows of some entries.
    pub fn views(&self, entries: Range<usize>) -> impl Iterator<Item = FlowView> + '_ {
        let end = entries.end.min(self.capacity());
        (entries.start.min(end)..end).filter_map(|index| {
            let entry = &self.entries[index];
            let version = entry.line0.version.load(Ordering::Acquire);
            if version & 1 == 1 {
                return None;
            }
            let handle = FlowHandle::new(index as u32, Direction::Forward);
            let view = FlowView {
                key: self.key(handle),
                state: self.state(index),
                rule: self.rule(handle),
                ingress: self.decision(handle).ingress,
                egress: self.egress(handle),
                created: entry.line0.created.load(Ordering::Relaxed),
                seen: entry.sides.each_ref().map(|side| side.last_seen.load(Ordering::Relaxed)),
                packets: entry.sides.each_ref().map(|side| side.packets.load(Ordering::Relaxed)),
                bytes: entry.sides.each_ref().map(|side| side.bytes.load(Ordering::Relaxed)),
                tcp_flags: entry.sides.each_ref().map(|side| side.tcp_flags.load(Ordering::Relaxed)),
            };
            fence(Ordering::Acquire);
            (entry.line0.version.load(Ordering::Relaxed) == version).then_some(view)
        })
    }

    /// Puts a handle into one of the key's buckets; evicts when both are full.
    fn link(&self, hash: u64, handle: FlowHandle, now: Seconds) -> Result<(), InsertError> {
        let (first, second, tag) = self.buckets_of(hash);
        let value = handle.0 + 2;
        let load = |bucket: usize| {
            self.buckets[bucket].entries.iter().filter(|slot| slot.load(Ordering::Relaxed) != 0).count()
        };
        let order = if load(second) < load(first) { [second, first] } else { [first, second] };
        for bucket in order {
            let bucket = &self.buckets[bucket];
            for way in 0..WAYS {
                if bucket.entries[way].compare_exchange(0, value, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                    bucket.tags[way].store(tag, Ordering::Release);
                    return Ok(());
                }
            }
        }
        let candidates = order.iter().flat_map(|bucket| (0..WAYS).map(move |way| (*bucket, way)));
        let victim = candidates
            .filter_map(|(bucket, way)| {
                let value = self.buckets[bucket].entries[way].load(Ordering::Relaxed);
                if value == 0 {
                    return None;
                }
                let entry = FlowHandle(value - 2).entry();
                let class = self.state(entry).eviction_class()?;
                Some((class, self.last_seen(entry), bucket, way, value))
            })
            .min();
        let Some((_, last_seen, bucket, way, old)) = victim else { return Err(InsertError::Full) };
        debug_assert!(last_seen <= now.max(last_seen));
        let slot = &self.buckets[bucket].entries[way];
        if slot.compare_exchange(old, value, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return Err(InsertError::Full);
        }
        self.buckets[bucket].tags[way].store(tag, Ordering::Release);
        // The victim lost one of its two slots: its owner frees it at the next sweep.
        self.entries[FlowHandle(old - 2).entry()].line0.state.store(State::Evicted as u8, Ordering::Relaxed);
        Ok(())
    }

    /// Removes a handle from the buckets, if it is there.
    fn unlink(&self, hash: u64, handle: FlowHandle) {
        let (first, second, _) = self.buckets_of(hash);
        for bucket in [first, second] {
            for slot in &self.buckets[bucket].entries {
                if slot.compare_exchange(handle.0 + 2, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                    return;
                }
            }
        }
    }
}

/// The part of the table that one worker allocates from.
pub struct FlowWriter {
    table: Arc<FlowTable>,
    /// First entry and number of entries of this worker.
    first: u32,
    count: u32,
    free: Vec<u32>,
    /// Unlinked, but perhaps still read by a worker in the breath in which that happened.
    retired: std::collections::VecDeque<(u64, u32)>,
    grace: Grace,
    pub(super) cursor: u32,
}

impl FlowWriter {
    /// The share of worker `index` of `workers`.
    pub fn new(table: Arc<FlowTable>, index: usize, workers: usize, grace: Grace) -> Self {
        let share = table.capacity() / workers.max(1);
        let first = (share * index) as u32;
        let count = share as u32;
        Self {
            table,
            first,
            count,
            free: (first..first + count).rev().collect(),
            retired: std::collections::VecDeque::with_capacity(share),
            grace,
            cursor: 0,
        }
    }

    pub fn table(&self) -> &FlowTable {
        &self.table
    }

    pub(super) fn share(&self) -> u32 {
        self.count
    }

    /// Flows made by this worker and not yet freed.
    pub fn live(&self) -> usize {
        self.count as usize - self.free.len() - self.retired.len()
    }

    /// Enters a flow; both directions are found from now on. A flow that another packet entered meanwhile is found.
    pub fn insert(&mut self, new: &NewFlow, now: Seconds) -> Result<FlowHandle, InsertError> {
        if let Some(handle) = self.table.lookup(&new.key, new.hash) {
            return Ok(handle);
        }
        self.reclaim();
        if self.free.len() < self.reserve() {
            self.evict(now);
        }
        let flow = FlowView {
            key: new.key,
            state: tcp_state::first(&new.key, new.tcp_flags),
            rule: new.rule,
            ingress: new.ingress,
            egress: new.egress,
            created: now,
            seen: [now; 2],
            packets: [1, 0],
            bytes: [u64::from(new.bytes), 0],
            tcp_flags: [new.tcp_flags, 0],
        };
        let index = self.place(&flow, new.covered, (new.adjacency, new.generation), new.hash, now)?;
        Ok(FlowHandle::new(index, Direction::Forward))
    }

    /// Writes a flow into a free entry and lets it be found. The forward way out may be known already.
    pub(super) fn place(
        &mut self,
        flow: &FlowView,
        covered: u16,
        (adjacency, generation): (AdjacencyIndex, u32),
        hash: u64,
        now: Seconds,
    ) -> Result<u32, InsertError> {
        let index = self.free.pop().ok_or(InsertError::Full)?;
        let entry = &self.table.entries[index as usize];
        let forward = FlowHandle::new(index, Direction::Forward);
        for (word, value) in flow.key.words().into_iter().enumerate() {
            entry.line0.key[word].store(value, Ordering::Relaxed);
        }
        entry.line0.rule.store(flow.rule.0, Ordering::Relaxed);
        entry.line0.ingress[0].store(flow.ingress.0, Ordering::Relaxed);
        entry.line0.ingress[1].store(flow.egress.0, Ordering::Relaxed);
        entry.line0.covered.store(covered, Ordering::Relaxed);
        entry.line0.created.store(flow.created, Ordering::Relaxed);
        entry.line0.state.store(flow.state as u8, Ordering::Relaxed);
        for (position, side) in entry.sides.iter().enumerate() {
            side.packets.store(flow.packets[position], Ordering::Relaxed);
            side.bytes.store(flow.bytes[position], Ordering::Relaxed);
            side.tcp_flags.store(flow.tcp_flags[position], Ordering::Relaxed);
            side.last_seen.store(flow.seen[position], Ordering::Relaxed);
        }
        self.table.set_way_out(forward, adjacency, generation);
        self.table.set_way_out(forward.reversed(), AdjacencyIndex::NONE, generation);
        // Odd to even: what was written above is visible to whoever sees the even version.
        entry.line0.version.fetch_add(1, Ordering::Release);
        if self.table.link(hash, forward, now).is_err() {
            self.discard(index);
            return Err(InsertError::Full);
        }
        if flow.key.kind != super::KeyKind::Fragment {
            let reverse_hash = self.table.hash(&flow.key.reversed());
            if self.table.link(reverse_hash, forward.reversed(), now).is_err() {
                self.table.unlink(hash, forward);
                self.discard(index);
                return Err(InsertError::Full);
            }
        }
        Ok(index)
    }

    /// Frees an entry of this worker: unlinked at once, reused after a grace period.
    pub(super) fn remove(&mut self, index: u32) {
        let forward = FlowHandle::new(index, Direction::Forward);
        let key = self.table.key(forward);
        self.table.unlink(self.table.hash(&key), forward);
        self.table.unlink(self.table.hash(&key.reversed()), forward.reversed());
        self.discard(index);
    }

    /// Free entries below which flows are evicted. An evicted entry can be used a breath later, so this covers a burst.
    fn reserve(&self) -> usize {
        (self.count as usize / 16).min(4 * crate::burst::BURST)
    }

    /// Ends the flow that is least worth keeping among the next few under the hand; never an established one.
    fn evict(&mut self, now: Seconds) {
        const LOOKED_AT: u32 = 32;
        let mut victim: Option<(u8, Seconds, u32)> = None;
        for _ in 0..LOOKED_AT {
            self.cursor = if self.cursor + 1 >= self.count { 0 } else { self.cursor + 1 };
            let Some((index, state, idle)) = self.inspect(self.cursor, now) else { continue };
            let Some(class) = state.eviction_class() else { continue };
            // The lowest class, and in it the longest idle.
            let candidate = (class, Seconds::MAX - idle, index);
            victim = Some(victim.map_or(candidate, |known| known.min(candidate)));
        }
        if let Some((_, _, index)) = victim {
            self.remove(index);
        }
    }

    fn discard(&mut self, index: u32) {
        self.table.entries[index as usize].line0.version.fetch_add(1, Ordering::Release);
        self.retired.push_back((self.grace.stamp(), index));
    }

    fn reclaim(&mut self) {
        if self.retired.is_empty() {
            return;
        }
        let passed = self.grace.passed();
        while let Some((_, index)) = self.retired.front().copied().filter(|(stamp, _)| *stamp <= passed) {
            self.retired.pop_front();
            self.free.push(index);
        }
    }

    /// Removes every flow of this worker that comes in or leaves by an interface.
    pub fn purge(&mut self, interface: InterfaceIndex) -> usize {
        let mut purged = 0;
        for index in self.first..self.first + self.count {
            let line0 = &self.table.entries[index as usize].line0;
            let uses = line0.ingress.iter().any(|side| side.load(Ordering::Relaxed) == interface.0);
            if uses && line0.version.load(Ordering::Relaxed) & 1 == 0 {
                self.remove(index);
                purged += 1;
            }
        }
        purged
    }

    /// The entry at a position of this worker's share, if it is live: its index, state and age.
    pub(super) fn inspect(&self, position: u32, now: Seconds) -> Option<(u32, State, Seconds)> {
        let index = self.first + position;
        let line0 = &self.table.entries[index as usize].line0;
        if line0.version.load(Ordering::Relaxed) & 1 == 1 {
            return None;
        }
        let idle = now.saturating_sub(self.table.last_seen(index as usize));
        Some((index, self.table.state(index as usize), idle))
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
