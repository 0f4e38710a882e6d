//! The part of the flow table that one worker allocates from: entering, evicting and freeing flows.
//!
//!     never used ─┐
//!     free        ├─▶ place ─▶ live ─▶ remove ─▶ retired ─ grace period ─▶ free
//!
//! Room is shared by three rules. A worker that runs low evicts the flow that is least worth keeping among the next few
//! under the clock hand, never an established one. An interface may have so many flows and no more, so that one endpoint
//! cannot use up the node's table: it then evicts among its own, or its new flow is refused. What cannot be entered may
//! not begin.
//!
//! Invariants: a live entry counts against one interface's quota; an entry is reused only after a grace period.

use std::collections::VecDeque;
use std::sync::Arc;

use super::table::{Direction, FlowHandle, FlowTable};
use super::tcp_state::{self, State};
use super::translation::Translated;
use super::{FlowView, Key, KeyKind, Seconds};
use crate::rcu::Grace;
use crate::stats::counters::MAX_INTERFACES;
use crate::table::{AdjacencyIndex, InterfaceIndex, RuleIndex};

/// Flows that an interface may have, as a part of what its worker has room for, where nothing else is said.
const QUOTA_SHARE: u32 = 4;
/// Never fewer than this, however small the table.
const SMALLEST_QUOTA: u32 = 1024;
/// Entries looked at to find one to evict.
const LOOKED_AT: u32 = 32;
/// Room for entries that wait for a grace period; more than a few breaths retire.
const RETIRED: usize = 1 << 12;
/// So many insertions before it is filled, an entry is asked for.
const AHEAD: usize = 8;

/// A new flow.
#[derive(Clone, Copy, Debug)]
pub struct NewFlow {
    pub key: Key,
    pub hash: u64,
    pub ingress: InterfaceIndex,
    pub egress: InterfaceIndex,
    /// Whose quota it counts against.
    pub charged: InterfaceIndex,
    pub adjacency: AdjacencyIndex,
    pub generation: u32,
    /// The rule that allowed it.
    pub rule: RuleIndex,
    pub tcp_flags: u8,
    pub bytes: u32,
    /// For the fragments of a datagram: how much of it the first fragment covered, in bytes.
    pub covered: u16,
    /// What stands in place of its source outside.
    pub translated: Translated,
}

/// Why a flow was not entered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InsertError {
    /// No free entry, or only established flows in both buckets.
    Full,
    /// The interface has all the flows it may have, and none of them can go.
    Quota,
}

/// What one worker may write of the table.
pub struct FlowWriter {
    table: Arc<FlowTable>,
    /// Which of how many workers this is.
    share: (usize, usize),
    /// First entry and number of entries of this worker.
    first: u32,
    count: u32,
    /// How many of them have ever been used.
    used: u32,
    free: Vec<u32>,
    /// Unlinked, but perhaps still read by a worker in the breath in which that happened.
    retired: VecDeque<(u64, u32)>,
    grace: Grace,
    pub(super) cursor: u32,
    /// Flows by the interface they count against, and how many that may be.
    charges: Box<[u32]>,
    quota: u32,
}

impl FlowWriter {
    /// The share of worker `index` of `workers`.
    pub fn new(table: Arc<FlowTable>, index: usize, workers: usize, grace: Grace) -> Self {
        let count = (table.capacity() / workers.max(1)) as u32;
        Self {
            table,
            share: (index, workers),
            first: count * index as u32,
            count,
            used: 0,
            free: Vec::with_capacity(count as usize),
            retired: VecDeque::with_capacity(RETIRED),
            grace,
            cursor: 0,
            charges: vec![0; MAX_INTERFACES].into(),
            quota: (count / QUOTA_SHARE).max(SMALLEST_QUOTA),
        }
    }

    /// The same with another bound on the flows of one interface.
    pub fn with_quota(self, quota: u32) -> Self {
        Self { quota, ..self }
    }

    pub fn table(&self) -> &FlowTable {
        &self.table
    }

    /// Which worker this is, and of how many.
    pub fn share(&self) -> (usize, usize) {
        self.share
    }

    /// Entries of this worker that have ever been used.
    pub(super) fn used(&self) -> u32 {
        self.used
    }

    /// Flows made by this worker and not yet freed.
    pub fn live(&self) -> usize {
        self.used as usize - self.free.len() - self.retired.len()
    }

    /// Flows that count against an interface.
    pub fn charged(&self, interface: InterfaceIndex) -> u32 {
        self.charges.get(interface.index()).copied().unwrap_or(0)
    }

    /// Asks for what entering a flow of this key will touch and what a packet of it has not touched: the bucket of its replies.
    #[inline]
    pub fn expect(&self, key: &Key) {
        self.table.prefetch_bucket(self.table.hash(&key.reversed()));
    }

    /// Enters a flow; both directions are found from now on. A flow that another packet entered meanwhile is found.
    pub fn insert(&mut self, new: &NewFlow, now: Seconds) -> Result<FlowHandle, InsertError> {
        if let Some(handle) = self.table.lookup(&new.key, new.hash) {
            return Ok(handle);
        }
        self.reclaim();
        if self.charged(new.charged) >= self.quota && !self.evict(Some(new.charged), now) {
            return Err(InsertError::Quota);
        }
        if self.room() < self.reserve() {
            self.evict(None, now);
        }
        let flow = FlowView {
            key: new.key,
            state: tcp_state::first(&new.key, new.tcp_flags),
            rule: new.rule,
            translated: new.translated,
            ingress: new.ingress,
            egress: new.egress,
            created: now,
            seen: [now; 2],
            packets: [1, 0],
            bytes: [u64::from(new.bytes), 0],
            tcp_flags: [new.tcp_flags, 0],
        };
        let index = self.place(&flow, new.covered, new.charged, (new.adjacency, new.generation), new.hash)?;
        Ok(FlowHandle::new(index, Direction::Forward))
    }

    /// Writes a flow into a free entry and lets it be found. The forward way out may be known already.
    pub(super) fn place(
        &mut self,
        flow: &FlowView,
        covered: u16,
        charged: InterfaceIndex,
        (adjacency, generation): (AdjacencyIndex, u32),
        hash: u64,
    ) -> Result<u32, InsertError> {
        let index = self.take().ok_or(InsertError::Full)?;
        if let Some(charge) = self.charges.get_mut(charged.index()) {
            *charge += 1;
        }
        let forward = FlowHandle::new(index, Direction::Forward);
        self.table.set_way_out(forward, adjacency, generation);
        self.table.set_way_out(forward.reversed(), AdjacencyIndex::NONE, generation);
        let answer = self.table.sources().key_of(&flow.key, flow.translated, Direction::Reverse);
        self.table.entries[index as usize].fill(flow, &answer, covered, charged);
        if self.table.link(hash, forward).is_err() {
            self.discard(index);
            return Err(InsertError::Full);
        }
        if flow.key.kind != KeyKind::Fragment {
            let reverse_hash = self.table.hash(&answer);
            if self.table.link(reverse_hash, forward.reversed()).is_err() {
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
        for handle in [forward, forward.reversed()] {
            self.table.unlink(self.table.hash(&self.table.key_of(handle)), handle);
        }
        self.discard(index);
    }

    /// Entries that can be filled now.
    fn room(&self) -> usize {
        self.free.len() + (self.count - self.used) as usize
    }

    /// An entry to fill; and asks for one that will soon be.
    fn take(&mut self) -> Option<u32> {
        let soon = match self.free.len().checked_sub(AHEAD) {
            Some(position) => self.free.get(position).copied(),
            None => Some(self.first + self.used + AHEAD as u32),
        };
        if let Some(entry) = soon.and_then(|index| self.table.entries.get(index as usize)) {
            entry.prefetch();
        }
        self.free.pop().or_else(|| {
            let index = (self.used < self.count).then_some(self.first + self.used)?;
            self.used += 1;
            Some(index)
        })
    }

    /// Free entries below which flows are evicted. An evicted entry can be used a breath later, so this covers a burst.
    fn reserve(&self) -> usize {
        (self.count as usize / 16).min(4 * crate::burst::BURST)
    }

    /// Ends the flow that is least worth keeping among the next few under the hand; never an established one. Only among
    /// those that count against `of`, if that is given.
    fn evict(&mut self, of: Option<InterfaceIndex>, now: Seconds) -> bool {
        let mut victim: Option<(u8, Seconds, u32)> = None;
        for _ in 0..LOOKED_AT {
            self.advance();
            let Some((index, state, idle)) = self.inspect(self.cursor, now) else { continue };
            let Some(class) = state.eviction_class() else { continue };
            if of.is_some_and(|of| self.table.entries[index as usize].charged() != of) {
                continue;
            }
            // The lowest class, and in it the longest idle.
            let candidate = (class, Seconds::MAX - idle, index);
            victim = Some(victim.map_or(candidate, |known| known.min(candidate)));
        }
        if let Some((_, _, index)) = victim {
            self.remove(index);
        }
        victim.is_some()
    }

    /// Moves the clock hand on, over what has ever been used.
    pub(super) fn advance(&mut self) {
        self.cursor = if self.cursor + 1 >= self.used { 0 } else { self.cursor + 1 };
    }

    fn discard(&mut self, index: u32) {
        let entry = &self.table.entries[index as usize];
        if let Some(charge) = self.charges.get_mut(entry.charged().index()) {
            *charge = charge.saturating_sub(1);
        }
        entry.clear();
        self.retired.push_back((self.grace.stamp(), index));
    }

    pub(super) fn reclaim(&mut self) {
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
        for index in self.first..self.first + self.used {
            let entry = &self.table.entries[index as usize];
            if entry.version().is_some() && entry.uses(interface) {
                self.remove(index);
                purged += 1;
            }
        }
        purged
    }

    /// The entry at a position of this worker's share, if it is live: its index, state and age.
    pub(super) fn inspect(&self, position: u32, now: Seconds) -> Option<(u32, State, Seconds)> {
        let index = self.first + position;
        let entry = &self.table.entries[index as usize];
        entry.version()?;
        Some((index, entry.state(), now.saturating_sub(entry.last_seen())))
    }
}
