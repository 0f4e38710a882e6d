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

/// What two records of one kind have in common; as in [`Record`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordKind {
    pub reason: Option<DropReason>,
    pub rule: RuleIndex,
    pub log: RuleIndex,
    pub ingress: InterfaceIndex,
}

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
    /// What the first half of the ring still takes in this breath; unknown until it is asked.
    room: Option<usize>,
    /// What there was no room for last: the next packet of a flood is like it.
    last: Option<RecordKind>,
    seen: Box<[Option<RecordKind>]>,
    /// Some place in `seen` is taken.
    has_seen: bool,
}

impl Recorder {
    pub fn new(ring: Records) -> Self {
        Self { ring, room: None, last: None, seen: vec![None; KINDS].into_boxed_slice(), has_seen: false }
    }

    /// Once a breath is often enough to look what control has taken.
    pub fn begin_breath(&mut self) {
        self.room = None;
    }

    /// Keeps a record; false when there was no room for it. It is made only when there is.
    #[inline]
    pub fn keep(&mut self, kind: RecordKind, key: &Key, generation: u32) -> bool {
        if !self.takes(kind) {
            return false;
        }
        let RecordKind { reason, rule, log, ingress } = kind;
        self.ring.push(Record { key: *key, ingress, reason, rule, log, generation }).is_ok()
    }

    /// Whether there is room for one more of this kind. Under a flood the answer is no, and nothing else is done.
    #[inline]
    fn takes(&mut self, kind: RecordKind) -> bool {
        if self.room == Some(0) && self.last == Some(kind) {
            return false;
        }
        let room = match self.room {
            Some(room) => room,
            None => {
                let room = (RECORDS / 2).saturating_sub(self.ring.len());
                if room > 0 && self.has_seen {
                    self.seen.fill(None);
                    self.has_seen = false;
                    self.last = None;
                }
                room
            }
        };
        self.room = Some(room.saturating_sub(1));
        if room > 0 {
            return true;
        }
        let place = &mut self.seen[place_of(kind)];
        let is_new = *place != Some(kind);
        if is_new {
            *place = Some(kind);
            self.has_seen = true;
        }
        self.last = Some(kind);
        is_new
    }
}

impl RecordKind {
    /// None when a slot is not worth a record.
    #[inline]
    pub fn of(slot: &Slot) -> Option<Self> {
        let reason = match slot.verdict {
            Verdict::Drop(reason) => Some(reason),
            _ if slot.log.is_none() => return None,
            _ => None,
        };
        // The rule of a flow says nothing about a drop for another reason.
        let names_rule = reason.is_none_or(DropReason::is_policy);
        let rule = if names_rule { slot.rule } else { RuleIndex::NONE };
        Some(Self { reason, rule, log: slot.log, ingress: slot.ingress })
    }
}

fn place_of(RecordKind { reason, rule, log, ingress }: RecordKind) -> usize {
    let reason = reason.map_or(0, |reason| reason as u64 + 1);
    let mixed = reason | u64::from(ingress.0) << 8 | u64::from(rule.0) << 24;
    let mixed = (mixed ^ u64::from(log.0).rotate_left(40)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    // The high bits are the well mixed ones.
    (mixed >> 54) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(rule: u32) -> RecordKind {
        let reason = Some(DropReason::PolicyIngress);
        RecordKind { reason, rule: RuleIndex(rule), log: RuleIndex::NONE, ingress: InterfaceIndex(1) }
    }

    /// One record in a breath of its own.
    fn push(recorder: &mut Recorder, rule: u32) -> bool {
        recorder.begin_breath();
        recorder.keep(kind(rule), &Key::default(), 1)
    }

    #[test]
    fn a_flood_of_one_kind_does_not_hide_another() {
        for breath in [1, 64, 100_000] {
            let ring = ring();
            let mut recorder = Recorder::new(ring.clone());
            let mut kept = 0;
            for number in 0..100_000 {
                if number % breath == 0 {
                    recorder.begin_breath();
                }
                kept += usize::from(recorder.keep(kind(1), &Key::default(), 1));
            }
            assert_eq!(kept, RECORDS / 2 + 1, "half of the ring, and the first beyond it");
            let others = (2..102).filter(|rule| recorder.keep(kind(*rule), &Key::default(), 1)).count();
            assert_eq!(others, 100);
            let found = std::iter::from_fn(|| ring.pop()).map(|record| record.rule.0);
            assert_eq!(found.collect::<std::collections::BTreeSet<_>>().len(), 101);
            // Control has emptied the ring: everything is welcome again.
            assert!(push(&mut recorder, 1) && push(&mut recorder, 1));
        }
    }

    #[test]
    fn a_visit_ends_however_fast_records_come() {
        let ring = ring();
        let mut recorder = Recorder::new(ring.clone());
        assert!((0..3).all(|_| push(&mut recorder, 1)));
        let mut taken = 0;
        for _ in waiting(&ring) {
            assert!(push(&mut recorder, 1) && push(&mut recorder, 1));
            taken += 1;
        }
        assert_eq!((taken, ring.len()), (3, 6));
    }

    #[test]
    fn places_are_within_the_table() {
        assert!((0..5000).map(|rule| place_of(kind(rule))).all(|place| place < KINDS));
    }
}
