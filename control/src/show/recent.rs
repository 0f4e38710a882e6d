//! The drops of the last minutes, ready to be asked about: nothing has to be switched on before.
//!
//! ```text
//! record ─▶ same flow, reason, rule and interface?  ─yes─▶ counted, and now the youngest
//!                │ no
//!                └─▶ a new entry; the oldest leaves when there are more than KEPT, or after KEPT_FOR
//! ```
//!
//! Beside the entries the last record of every kind (reason, rule, interface) is kept, so that ten thousand flows of one
//! kind do not push out the only one of another.
//!
//! Invariants: at most `KEPT` entries and `KINDS` kinds; what was not kept is counted.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastpath::burst::DropReason;
use fastpath::flow::Key;
use fastpath::stats::record::Record;
use fastpath::table::{InterfaceIndex, RuleIndex};

use crate::policy::decided::Decided;

/// Entries: about 10 MB when all are taken.
pub const KEPT: usize = 65_536;
pub const KEPT_FOR: Duration = Duration::from_secs(600);
const KINDS: usize = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Kind {
    pub interface: InterfaceIndex,
    pub reason: DropReason,
    pub rule: RuleIndex,
}

/// What a kind was called when it was seen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct About {
    pub interface: Option<String>,
    pub rule: Option<String>,
    pub decided: Decided,
}

/// A flow that was dropped, so and so often.
#[derive(Debug, Clone)]
pub struct Seen {
    pub key: Key,
    pub kind: Kind,
    pub about: Arc<About>,
    pub generation: u32,
    pub first: Instant,
    pub last: Instant,
    pub packets: u64,
}

#[derive(Debug, Default)]
pub struct RecentDrops {
    /// By when it was seen last; numbers only grow.
    entries: BTreeMap<u64, Seen>,
    places: HashMap<(Key, Kind), u64>,
    next: u64,
    /// The last record of each kind, and what its names were.
    kinds: HashMap<Kind, Seen>,
    /// Packets whose entries had to leave before their time.
    pub forgotten: u64,
}

impl RecentDrops {
    /// Takes a drop in. `name` is asked once for each kind and generation.
    pub fn note(&mut self, record: &Record, reason: DropReason, now: Instant, name: impl FnOnce() -> About) {
        let kind = Kind { interface: record.ingress, reason, rule: record.rule };
        let known = self.kinds.get(&kind).filter(|seen| seen.generation == record.generation);
        let about = known.map_or_else(|| Arc::new(name()), |seen| seen.about.clone());
        let fresh =
            Seen { key: record.key, kind, about, generation: record.generation, first: now, last: now, packets: 1 };
        let id = (record.key, kind);
        let seen = match self.places.remove(&id).and_then(|place| self.entries.remove(&place)) {
            Some(before) => Seen { first: before.first, packets: before.packets + 1, ..fresh },
            None => fresh,
        };
        if self.kinds.len() >= KINDS && !self.kinds.contains_key(&kind) {
            let oldest = self.kinds.iter().min_by_key(|(_, seen)| seen.last).map(|(kind, _)| *kind);
            oldest.and_then(|kind| self.kinds.remove(&kind));
        }
        self.kinds.insert(kind, seen.clone());
        self.places.insert(id, self.next);
        self.entries.insert(self.next, seen);
        self.next += 1;
        if self.entries.len() > KEPT
            && let Some((_, oldest)) = self.entries.pop_first()
        {
            self.places.remove(&(oldest.key, oldest.kind));
            self.forgotten += oldest.packets;
        }
    }

    /// Lets go of what is too old.
    pub fn expire(&mut self, now: Instant) {
        while let Some(oldest) = self.entries.first_entry() {
            if now.saturating_duration_since(oldest.get().last) <= KEPT_FOR {
                break;
            }
            let oldest = oldest.remove();
            self.places.remove(&(oldest.key, oldest.kind));
        }
        self.kinds.retain(|_, seen| now.saturating_duration_since(seen.last) <= KEPT_FOR);
    }

    /// The youngest that are wanted, the youngest first.
    pub fn find(&self, most: usize, is_wanted: impl Fn(&Seen) -> bool) -> Vec<&Seen> {
        let mut found: Vec<&Seen> = self.entries.values().rev().filter(|seen| is_wanted(seen)).take(most).collect();
        // A kind whose flows have all been pushed out is still told of.
        let told: HashSet<Kind> = found.iter().map(|seen| seen.kind).collect();
        let others = self.kinds.values().filter(|seen| !self.places.contains_key(&(seen.key, seen.kind)));
        let mut others: Vec<&Seen> = others.filter(|seen| !told.contains(&seen.kind) && is_wanted(seen)).collect();
        others.sort_by_key(|seen| std::cmp::Reverse(seen.last));
        found.extend(others);
        found.truncate(most);
        found
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(port: u16, rule: u32) -> Record {
        Record {
            key: Key { destination_port: port, protocol: 6, source: u128::from(rule), ..Key::default() },
            ingress: InterfaceIndex(1),
            reason: Some(DropReason::PolicyIngress),
            rule: RuleIndex(rule),
            log: RuleIndex::NONE,
            generation: 1,
        }
    }

    fn note(recent: &mut RecentDrops, record: &Record, now: Instant) {
        recent.note(record, DropReason::PolicyIngress, now, About::default);
    }

    #[test]
    fn repeats_are_counted_and_the_youngest_is_told_first() {
        let (mut recent, start) = (RecentDrops::default(), Instant::now());
        for (second, port) in [(0, 80), (1, 443), (2, 80)] {
            note(&mut recent, &record(port, 1), start + Duration::from_secs(second));
        }
        let found = recent.find(9, |_| true);
        let found: Vec<_> = found.iter().map(|seen| (seen.key.destination_port, seen.packets)).collect();
        assert_eq!(found, [(80, 2), (443, 1)]);
        assert_eq!(recent.find(9, |seen| seen.key.destination_port == 80)[0].first, start);
        recent.expire(start + KEPT_FOR + Duration::from_millis(1500));
        assert_eq!(recent.find(9, |_| true).len(), 1, "what was seen last at 2 s is still there");
        recent.expire(start + KEPT_FOR + Duration::from_secs(3));
        assert!(recent.find(9, |_| true).is_empty() && recent.is_empty());
    }

    #[test]
    fn a_flood_of_flows_does_not_push_out_another_kind() {
        let (mut recent, now) = (RecentDrops::default(), Instant::now());
        note(&mut recent, &record(80, 2), now);
        for port in 0..=u16::MAX {
            note(&mut recent, &record(port, 1), now);
        }
        assert_eq!(recent.len(), KEPT);
        assert_eq!(recent.forgotten, 1, "one packet is known only by its kind");
        let found = recent.find(usize::MAX, |seen| seen.kind.rule == RuleIndex(2));
        assert_eq!(found.len(), 1);
    }

    #[test]
    fn kinds_are_bounded() {
        let (mut recent, now) = (RecentDrops::default(), Instant::now());
        for rule in 0..2 * KINDS as u32 {
            note(&mut recent, &record(80, rule), now);
        }
        assert_eq!(recent.kinds.len(), KINDS);
    }
}
