//! The flow table: one for all workers, read without locks.
//!
//!     key ──hash──▶ two buckets ──tag──▶ entry<<1 | direction ──▶ entry: the key, and all that a packet needs
//!
//! A flow is one entry and two handles in buckets, one for its key and one for the reversed key. Handles are set and
//! cleared by compare-and-swap; an entry is allocated, aged and freed by one worker (its *owner*, see `writer.rs`), so
//! the free list needs no lock. An entry is not reused before every worker has ended the breath in which it was unlinked
//! (`rcu`), so a handle stays good for the breath that found it, and what it found stays the same flow.
//!
//! What a hit needs is in the entry: that policy has allowed the flow (or there would be none), whose packets these are,
//! the way out with all of its rewrite, and the generation of the tables under which that was found. Only when the tables
//! are newer is anything else looked up.
//!
//! Invariants: both handles of a live entry are set, unless it was evicted. A full pair of buckets evicts by class and
//! never an established flow: then the new flow is refused. Nothing here lets a packet through: a miss only means that
//! policy decides.
//! Left out: relocation, so that a reader never misses a present key. See: Pagh, Rodler, "Cuckoo Hashing", 2004, for what
//! two choices are worth without it: Azar et al., "Balanced Allocations", 1994. Here the second choice is taken only where
//! the first is crowded, so that most lookups end after one line.

use std::hash::{BuildHasher, Hasher};
use std::num::NonZeroU32;
use std::ops::Range;
use std::sync::Arc;

use super::bucket::{Bucket, CROWDED, WAYS};
use super::entry::{Entry, Packed};
use super::tcp_state::State;
use super::translation::{Replacement, Sources, Translated};
use super::{FlowView, Key, Seconds};
use crate::mapped::{self, Extent, Zeroed};
use crate::table::{AdjacencyIndex, InterfaceIndex, RuleIndex};

pub use super::entry::Decision;
pub use super::writer::{InsertError, NewFlow};

/// A flow found, and the direction in which the packet that found it travels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowHandle(NonZeroU32);

impl FlowHandle {
    pub(super) fn new(entry: u32, direction: Direction) -> Self {
        Self(NonZeroU32::MIN.saturating_add(1).saturating_add(entry << 1 | direction as u32))
    }
    /// As it stands in a bucket.
    #[inline(always)]
    pub(super) fn word(self) -> u32 {
        self.0.get()
    }
    #[inline(always)]
    pub(super) fn from_word(word: u32) -> Option<Self> {
        NonZeroU32::new(word).map(Self)
    }
    #[inline(always)]
    pub(super) fn entry(self) -> usize {
        (self.0.get() as usize >> 1) - 1
    }
    #[inline(always)]
    pub fn direction(self) -> Direction {
        if self.0.get() & 1 == 0 { Direction::Forward } else { Direction::Reverse }
    }
    /// Handle of the other direction of the same flow.
    pub fn reversed(self) -> Self {
        Self::new(self.entry() as u32, if self.0.get() & 1 == 0 { Direction::Reverse } else { Direction::Forward })
    }
}

/// Forward is the way of the flow's first packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Direction {
    Forward = 0,
    Reverse = 1,
}

/// The table.
pub struct FlowTable {
    buckets: Zeroed<Bucket>,
    pub(super) entries: Zeroed<Entry>,
    /// Elsewhere: what changes in place here would keep the compiler from keeping the rest in registers.
    sources: Box<Sources>,
    hasher: ahash::RandomState,
}

impl FlowTable {
    /// Flows that a table may be asked to hold.
    pub const LARGEST: u32 = 1 << 30;

    /// A table for `capacity` flows with keys that nobody outside can guess. Half the slots stay empty at capacity.
    pub fn new(capacity: u32) -> Arc<Self> {
        Self::with_hasher(capacity, ahash::RandomState::new())
    }

    /// The same with chosen hash keys, so that a test repeats.
    pub fn with_hasher(capacity: u32, hasher: ahash::RandomState) -> Arc<Self> {
        let capacity = capacity.clamp(64, Self::LARGEST);
        // Two slots a flow, half of them empty.
        let buckets = (capacity as usize * 4 / WAYS).next_power_of_two();
        let (buckets, entries) = (mapped::zeroed(buckets), mapped::zeroed(capacity as usize));
        let table = Self { buckets, entries, sources: Box::default(), hasher };
        mapped::huge_pages(&table.buckets);
        mapped::huge_pages(&table.entries);
        Arc::new(table)
    }

    pub fn capacity(&self) -> usize {
        self.entries.len()
    }

    /// Places in the index; a flow takes two.
    pub fn slots(&self) -> usize {
        self.buckets.len() * WAYS
    }

    /// Bytes of memory, touched or not.
    pub fn size(&self) -> usize {
        size_of_val(&*self.buckets) + size_of_val(&*self.entries)
    }

    /// What it takes, and what of that has been touched.
    pub fn extent(&self) -> Extent {
        [self.buckets.extent(), self.entries.extent()].into_iter().sum()
    }

    /// The keyed hash of a key.
    #[inline(always)]
    pub fn hash(&self, key: &Key) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        let packed = Packed::of(key);
        if packed.is_ipv4() {
            hasher.write_u128(packed.whole());
        } else {
            hasher.write_u128(key.source);
            hasher.write_u128(key.destination);
            hasher.write_u64(key.ports_word());
        }
        hasher.finish()
    }

    #[inline(always)]
    fn buckets_of(&self, hash: u64) -> (&Bucket, &Bucket, u16) {
        let mask = self.buckets.len() - 1;
        let (first, second) = (hash as usize & mask, hash.rotate_left(32) as usize & mask);
        (&self.buckets[first], &self.buckets[second], (hash >> 48) as u16 | 1)
    }

    /// Asks for the bucket where a flow of this hash is most likely.
    #[inline(always)]
    pub fn prefetch_bucket(&self, hash: u64) {
        mapped::prefetch(self.buckets_of(hash).0);
    }

    /// The flow that it probably is, unseen; and asks for what `is` will read.
    #[inline(always)]
    pub fn candidate(&self, hash: u64) -> Option<FlowHandle> {
        let (first, second, tag) = self.buckets_of(hash);
        let handle = first.first(tag).or_else(|| if first.has_spilled() { second.first(tag) } else { None })?;
        mapped::prefetch(self.entries[handle.entry()].side(handle.direction()));
        Some(handle)
    }

    /// True when the flow has this key, in the handle's direction. No says only that `lookup` has to be asked.
    #[inline(always)]
    pub fn is(&self, handle: FlowHandle, key: &Key) -> bool {
        self.entry(handle).holds_at_once(handle.direction(), Packed::of(key), key)
    }

    /// Finds the flow of which this key is either direction.
    #[inline]
    pub fn lookup(&self, key: &Key, hash: u64) -> Option<FlowHandle> {
        let (first, second, tag) = self.buckets_of(hash);
        let packed = Packed::of(key);
        let is_it = |handle: FlowHandle| self.entry(handle).holds(handle.direction(), packed, key, &self.sources);
        first.find(tag, is_it).or_else(|| if first.has_spilled() { second.find(tag, is_it) } else { None })
    }

    /// What is recorded for packets of the handle's direction.
    #[inline(always)]
    pub fn decision(&self, handle: FlowHandle) -> Decision {
        self.entry(handle).side(handle.direction()).decision()
    }

    /// Records a way out that was found again.
    pub fn set_way_out(&self, handle: FlowHandle, adjacency: AdjacencyIndex, generation: u32) {
        self.entry(handle).side(handle.direction()).decide(adjacency, generation);
    }

    /// The interface by which packets of the handle's direction leave: where the other direction comes in.
    pub fn egress(&self, handle: FlowHandle) -> InterfaceIndex {
        self.entry(handle).egress(handle.direction())
    }

    #[inline(always)]
    pub fn rule(&self, handle: FlowHandle) -> RuleIndex {
        self.entry(handle).side(handle.direction()).rule()
    }

    /// For fragments: how many bytes of the datagram the first fragment covered.
    pub fn covered(&self, handle: FlowHandle) -> u16 {
        self.entry(handle).covered()
    }

    /// The key of the flow's first packet.
    pub fn key(&self, handle: FlowHandle) -> Key {
        self.entry(handle).key()
    }

    /// The key that packets of the handle's direction come in with.
    pub fn key_of(&self, handle: FlowHandle) -> Key {
        self.entry(handle).key_of(handle.direction(), &self.sources)
    }

    /// The addresses that sources are translated to.
    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// True when packets of the flow change more than their way.
    #[inline(always)]
    pub fn is_translated(&self, handle: FlowHandle) -> bool {
        self.entry(handle).side(handle.direction()).is_translated()
    }

    /// What stands in place of the flow's source outside.
    pub fn translated(&self, handle: FlowHandle) -> Translated {
        self.entry(handle).translated()
    }

    /// What is written into packets of the handle's direction.
    pub fn replacement(&self, handle: FlowHandle) -> Option<Replacement> {
        let entry = self.entry(handle);
        self.sources.replacement(&entry.key(), entry.translated(), handle.direction())
    }

    /// Ends a flow: its owner frees it when it next comes by, and until then its packets go on as they did.
    pub fn end(&self, handle: FlowHandle) {
        self.entry(handle).set_state(State::Evicted);
    }

    /// Counts a packet and moves the state on.
    #[inline(always)]
    pub fn touch(&self, handle: FlowHandle, bytes: u32, tcp_flags: u8, now: Seconds) {
        let entry = self.entry(handle);
        if entry.side(handle.direction()).count(bytes, tcp_flags, now) {
            entry.advance(handle.direction(), tcp_flags);
        }
    }

    #[inline(always)]
    fn entry(&self, handle: FlowHandle) -> &Entry {
        &self.entries[handle.entry()]
    }

    /// A look at every live flow. Each is consistent in itself; the set is not a snapshot.
    pub fn iter(&self) -> impl Iterator<Item = FlowView> + '_ {
        self.views(0..self.capacity())
    }

    /// A look at the live flows of some entries.
    pub fn views(&self, entries: Range<usize>) -> impl Iterator<Item = FlowView> + '_ {
        let end = entries.end.min(self.capacity());
        self.entries[entries.start.min(end)..end].iter().filter_map(Entry::view)
    }

    /// The bucket that a handle of a flow would stand in if there were room.
    fn first_bucket(&self, handle: FlowHandle) -> &Bucket {
        self.buckets_of(self.hash(&self.key_of(handle))).0
    }

    /// Puts a handle into one of the key's buckets: the first, or the emptier where that is crowded. Evicts when both are full.
    pub(super) fn link(&self, hash: u64, handle: FlowHandle) -> Result<(), InsertError> {
        let (first, second, tag) = self.buckets_of(hash);
        if first.add(0..CROWDED, tag, handle) {
            return Ok(());
        }
        let order = if second.used() < first.used() { [second, first] } else { [first, second] };
        if order.into_iter().any(|bucket| within(first, bucket, || bucket.add(0..WAYS, tag, handle))) {
            return Ok(());
        }
        let candidates = order.iter().flat_map(|bucket| bucket.flows().map(move |(way, flow)| (*bucket, way, flow)));
        let victim = candidates
            .filter_map(|(bucket, way, flow)| {
                let entry = self.entry(flow);
                Some(((entry.state().eviction_class()?, entry.last_seen()), bucket, way, flow))
            })
            .min_by_key(|(worth, ..)| *worth);
        match victim {
            Some((_, bucket, way, flow)) if within(first, bucket, || bucket.replace(way, flow, tag, handle)) => {
                let its_first = self.first_bucket(flow);
                if !std::ptr::eq(its_first, bucket) {
                    its_first.unspill();
                }
                // The victim lost one of its two slots: its owner frees it at the next sweep.
                self.entry(flow).set_state(State::Evicted);
                Ok(())
            }
            _ => Err(InsertError::Full),
        }
    }

    /// Removes a handle from the buckets, if it is there.
    pub(super) fn unlink(&self, hash: u64, handle: FlowHandle) {
        let (first, second, _) = self.buckets_of(hash);
        if !first.remove(handle) && second.remove(handle) {
            first.unspill();
        }
    }
}

/// Puts a flow into a bucket by `put`, which says whether it did; its first bucket knows when it is another one.
fn within(first: &Bucket, bucket: &Bucket, put: impl FnOnce() -> bool) -> bool {
    if std::ptr::eq(first, bucket) {
        return put();
    }
    first.spill();
    let is_put = put();
    if !is_put {
        first.unspill();
    }
    is_put
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
