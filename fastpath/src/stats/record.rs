//! Records: what was dropped or logged, packet by packet, for as long as the ring to control has room.
//!
//! Half of the ring is for whatever comes. The other half is kept for what is new since control emptied the ring: a drop
//! for another reason, by another rule or on another interface than those before. So a flood of one kind does not hide
//! another kind; what it loses is counted.
//!
//! Left out: that a kind is kept for sure when hundreds of kinds meet in one collection, or two share a place in `seen`.

use crossbeam::queue::ArrayQueue;
use std::sync::Arc;

use crate::burst::{DropReason, Slot, Verdict};
use crate::flow::Key;
use crate::table::{InterfaceIndex, RuleIndex};

/// Records that wait for control; more are counted and lost.
pub const RECORDS: usize = 1024;

/// One packet that was dropped, or matched a `Log` rule.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    pub key: Key,
    pub ingress: InterfaceIndex,
    /// None when the packet was not dropped but only logged.
    pub reason: Option<DropReason>,
    /// The rule that denied, or NONE.
    pub rule: RuleIndex,
    /// The `Log` rule that matched, or NONE.
    pub log: RuleIndex,
    /// Of the tables that decided.
    pub generation: u32,
}

/// What two records of one kind have in common.
type RecordKind = (Option<DropReason>, RuleIndex, RuleIndex, InterfaceIndex);

/// Places for the kinds seen since the ring was emptied.
const KINDS: usize = 1024;

/// The ring that a worker fills and control empties.
pub type Records = Arc<ArrayQueue<Record>>;

pub fn ring() -> Records {
    Arc::new(ArrayQueue::new(RECORDS))
}

/// What waits in the ring now. What the worker adds meanwhile waits for the next time: under a flood there would be no end.
pub fn waiting(ring: &Records) -> impl Iterator<Item = Record> {
    (0..ring.len()).map_while(|_| ring.pop())
}

/// A worker's end of the ring.
pub struct Recorder {
    ring: Records,
    seen: Box<[Option<RecordKind>]>,
    /// Some place in `seen` is taken.
    has_seen: bool,
}

impl Recorder {
    pub fn new(ring: Records) -> Self {
        Self { ring, seen: vec![None; KINDS].into_boxed_slice(), has_seen: false }
    }

    /// False when the record was not kept.
    pub fn push(&mut self, record: Record) -> bool {
        if self.ring.len() < RECORDS / 2 {
            if self.has_seen {
                self.seen.fill(None);
                self.has_seen = false;
            }
            return self.ring.push(record).is_ok();
        }
        let kind = record.kind();
        let place = &mut self.seen[place_of(kind)];
        if *place == Some(kind) {
            return false;
        }
        *place = Some(kind);
        self.has_seen = true;
        self.ring.push(record).is_ok()
    }
}

fn place_of((reason, rule, log, interface): RecordKind) -> usize {
    let reason = reason.map_or(0, |reason| reason as u64 + 1);
    let mixed = reason | u64::from(interface.0) << 8 | u64::from(rule.0) << 24;
    let mixed = (mixed ^ u64::from(log.0).rotate_left(40)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    // The high bits are the well mixed ones.
    (mixed >> 54) as usize
}

impl Record {
    fn kind(&self) -> RecordKind {
        (self.reason, self.rule, self.log, self.ingress)
    }

    /// The record of a slot, if it is worth one.
    #[inline]
    pub fn of(slot: &Slot, generation: u32) -> Option<Self> {
        let reason = match slot.verdict {
            Verdict::Drop(reason) => Some(reason),
            _ if slot.log.is_none() => return None,
            _ => None,
        };
        let is_policy = reason.is_some_and(DropReason::is_policy);
        let rule = if is_policy { slot.rule } else { RuleIndex::NONE };
        Some(Self { key: slot.key, ingress: slot.ingress, reason, rule, log: slot.log, generation })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(rule: u32) -> Record {
        Record {
            key: Key::default(),
            ingress: InterfaceIndex(1),
            reason: Some(DropReason::PolicyIngress),
            rule: RuleIndex(rule),
            log: RuleIndex::NONE,
            generation: 1,
        }
    }

    #[test]
    fn a_flood_of_one_kind_does_not_hide_another() {
        let ring = ring();
        let mut recorder = Recorder::new(ring.clone());
        let kept = (0..100_000).filter(|_| recorder.push(record(1))).count();
        assert_eq!(kept, RECORDS / 2 + 1, "half of the ring, and the first beyond it");
        let others = (2..102).filter(|rule| recorder.push(record(*rule))).count();
        assert_eq!(others, 100);
        let found =
            std::iter::from_fn(|| ring.pop()).map(|record| record.rule.0).collect::<std::collections::BTreeSet<_>>();
        assert_eq!(found.len(), 101);
        // Control has emptied the ring: everything is welcome again.
        assert!(recorder.push(record(1)) && recorder.push(record(1)));
    }

    #[test]
    fn a_visit_ends_however_fast_records_come() {
        let ring = ring();
        let mut recorder = Recorder::new(ring.clone());
        assert!((0..3).all(|_| recorder.push(record(1))));
        let mut taken = 0;
        for _ in waiting(&ring) {
            assert!(recorder.push(record(1)) && recorder.push(record(1)));
            taken += 1;
        }
        assert_eq!((taken, ring.len()), (3, 6));
    }

    #[test]
    fn places_are_within_the_table() {
        let kinds = (0..5000).map(|rule| record(rule).kind());
        assert!(kinds.map(place_of).all(|place| place < KINDS));
    }
}
