//! The peer's restart, seen from here: which of its routes stay while it is gone, and until when.
//!
//! ```text
//!   loss ──restart time──▶ long-lived stale time ──▶ dropped        the peer is away
//!     └──────────┬──────────────────┘
//!             up again: F set?  no ──▶ dropped
//!                 └─yes─▶ until the end of RIB, or a timer ──▶ what was not told again is dropped
//! ```
//!
//! Invariants: a family has at most one entry; an entry has a deadline. The rules are per family, because the peer may keep
//! the forwarding state of one and not of the other.
//! Left out: our own restart, which is two bits in the OPEN here, and deferral of the selection in the speaker.
//!
//! Sources: RFC 4724 §4.2, RFC 8538 §4.1, RFC 9494 §4.2.

use std::time::{Duration, Instant};

use config::net::IpVersion;

use super::ending::End;
use super::event::Action;
use super::status::StaleStatus;
use crate::bgp::message::Open;

/// How long an end of RIB is waited for after the peer is back. RFC 8538 §4.1 asks for such a timer and suggests less; this
/// leaves time for a full table.
pub(super) const SYNCHRONIZE_TIME: Duration = Duration::from_secs(360);

/// What is kept of a family when the session is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kept {
    pub family: IpVersion,
    /// As routes like all others.
    pub restart_time: Duration,
    /// After that, as routes of last resort; zero: they go.
    pub long_lived_time: Duration,
}

/// The families with stale routes.
#[derive(Debug, Default)]
pub(super) struct Helper {
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    family: IpVersion,
    /// The peer is away, and has so long to come back.
    restart_until: Option<Instant>,
    long_lived_time: Duration,
    /// The timer of RFC 9494; runs on when the peer is back.
    long_lived_until: Option<Instant>,
    /// The peer is back, and has so long for its end of RIB.
    synchronize_until: Option<Instant>,
}

impl Entry {
    fn deadline(&self) -> Option<Instant> {
        [self.restart_until, self.long_lived_until, self.synchronize_until].into_iter().flatten().min()
    }
}

impl Helper {
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.entries.iter().filter_map(Entry::deadline).min()
    }

    pub(super) fn status(&self) -> Vec<StaleStatus> {
        let status = |entry: &Entry| {
            let is_long_lived = entry.restart_until.is_none() && entry.long_lived_until.is_some();
            Some(StaleStatus { family: entry.family, is_long_lived, until: entry.deadline()? })
        };
        self.entries.iter().filter_map(status).collect()
    }

    /// The session was up, and is not: `kept` stays, all else goes.
    pub(super) fn lost(&mut self, end: End, kept: &[Kept], now: Instant, out: &mut Vec<Action>) {
        let mut before = std::mem::take(&mut self.entries);
        for kept in kept {
            let old = before.iter().position(|entry| entry.family == kept.family).map(|at| before.swap_remove(at));
            // RFC 4724 §4.2: what is still stale from the loss before goes. RFC 9494 §4.2 keeps it until its timer ends.
            if old.is_some() && kept.long_lived_time.is_zero() {
                out.push(Action::DropStale(kept.family));
            }
            self.entries.push(Entry {
                family: kept.family,
                restart_until: now.checked_add(kept.restart_time),
                long_lived_time: kept.long_lived_time,
                long_lived_until: old
                    .filter(|_| !kept.long_lived_time.is_zero())
                    .and_then(|entry| entry.long_lived_until),
                synchronize_until: None,
            });
        }
        let keep = kept.iter().map(|kept| kept.family).collect();
        out.push(Action::Down { end, keep });
        // A restart time of zero is over at once.
        self.expire(now, out);
    }

    /// The session is up. Gives the families whose routes stay stale until the end of RIB.
    pub(super) fn up(
        &mut self,
        theirs: &Open,
        families: &[IpVersion],
        now: Instant,
        out: &mut Vec<Action>,
    ) -> Vec<IpVersion> {
        self.entries.retain_mut(|entry| {
            let is_kept = families.contains(&entry.family) && is_forwarding(theirs, entry);
            match is_kept {
                true => {
                    entry.restart_until = None;
                    entry.synchronize_until = now.checked_add(SYNCHRONIZE_TIME);
                }
                // RFC 4724 §4.2: F is not set, or the family or the capability is not there.
                false => out.push(Action::DropStale(entry.family)),
            }
            is_kept
        });
        self.entries.iter().map(|entry| entry.family).collect()
    }

    /// The peer has told all it knows: what is still stale goes. RFC 4724 §4.2.
    pub(super) fn end_of_rib(&mut self, family: IpVersion, out: &mut Vec<Action>) {
        let before = self.entries.len();
        self.entries.retain(|entry| entry.family != family);
        if self.entries.len() != before {
            out.push(Action::DropStale(family));
        }
    }

    /// All stale routes go now.
    pub(super) fn drop_all(&mut self, out: &mut Vec<Action>) {
        out.extend(self.entries.drain(..).map(|entry| Action::DropStale(entry.family)));
    }

    pub(super) fn expire(&mut self, now: Instant, out: &mut Vec<Action>) {
        let is_over = |until: Option<Instant>| until.is_some_and(|until| until <= now);
        self.entries.retain_mut(|entry| {
            if is_over(entry.restart_until) && !entry.long_lived_time.is_zero() {
                // RFC 9494 §4.2: the timer is not started again before the peer has told all it knows.
                entry.restart_until = None;
                if entry.long_lived_until.is_none() {
                    entry.long_lived_until = now.checked_add(entry.long_lived_time);
                }
                if !is_over(entry.long_lived_until) {
                    out.push(Action::LongLived(entry.family));
                }
            }
            let is_kept = entry.deadline().is_some_and(|deadline| deadline > now);
            if !is_kept {
                out.push(Action::DropStale(entry.family));
            }
            is_kept
        });
    }
}

/// The peer says that it has forwarded by these routes all the time.
fn is_forwarding(theirs: &Open, entry: &Entry) -> bool {
    let Some(capability) = &theirs.capabilities.graceful_restart else { return false };
    match entry.long_lived_until {
        // RFC 9494 §4.2: in its period the bit of its own capability counts.
        Some(_) => theirs.capabilities.long_lived.iter().any(|offer| offer.family == entry.family && offer.forwarding),
        None => capability.families.contains(&(entry.family, true)),
    }
}
