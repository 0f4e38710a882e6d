//! Records: what was dropped or logged, packet by packet, for as long as the ring to control has room.

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
}

/// The ring that a worker fills and control empties.
pub type Records = Arc<ArrayQueue<Record>>;

pub fn ring() -> Records {
    Arc::new(ArrayQueue::new(RECORDS))
}

impl Record {
    /// The record of a slot, if it is worth one.
    #[inline]
    pub fn of(slot: &Slot) -> Option<Self> {
        let reason = match slot.verdict {
            Verdict::Drop(reason) => Some(reason),
            _ if slot.log.is_none() => return None,
            _ => None,
        };
        let is_policy = reason.is_some_and(DropReason::is_policy);
        let rule = if is_policy { slot.rule } else { RuleIndex::NONE };
        Some(Self { key: slot.key, ingress: slot.ingress, reason, rule, log: slot.log })
    }
}
