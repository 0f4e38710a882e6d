//! How connections end, and what follows: routes that stay or go, and when the next try is.
//!
//! Sources: RFC 4271 §8.2.2, RFC 4486, RFC 4724 §4.2, RFC 8538 §3 and §4, RFC 9494 §4.2.

use std::time::{Duration, Instant};

use super::Session;
use super::connection::{Connection, Phase};
use super::event::{Action, ConnectionId};
use super::notification::{
    CEASE, HOLD_TIMER_EXPIRED, SEND_HOLD_TIMER_EXPIRED, cease, is_collision, is_hard_reset, means_hard_reset,
};
use super::restart::Kept;
use super::status::Wait;
use super::{open, timers};
use crate::bgp::message::{Message, Notification};
use crate::bgp::wire::describe;
use crate::bgp::wire::notification::hard_reset;

/// How a connection ends.
#[derive(Debug, Clone)]
pub enum End {
    /// By us, and we say why.
    Sent(Notification),
    /// By the peer, who says why.
    Received(Notification),
    /// By the peer or the kernel; it is closed already.
    Lost(String),
    /// By us, before it was up.
    GivenUp(String),
    /// The peer has restarted, and is there on another one.
    Replaced,
}

impl Session {
    pub(super) fn end_all(&mut self, notification: &Notification, now: Instant, out: &mut Vec<Action>) {
        let mut ids = Vec::with_capacity(self.connections.len());
        for connection in &mut self.connections {
            // The end of one does not bring up the other.
            connection.confirmed_until = None;
            ids.push(connection.id);
        }
        for id in ids {
            self.end(id, End::Sent(notification.clone()), now, out);
        }
    }

    pub(super) fn end_established(&mut self, notification: Notification, now: Instant, out: &mut Vec<Action>) {
        if let Some(id) = self.established_connection().map(|connection| connection.id) {
            self.end(id, End::Sent(notification), now, out);
        }
    }

    /// Ends a connection, and says to the other side and to the caller what there is to say.
    pub(super) fn end(&mut self, id: ConnectionId, end: End, now: Instant, out: &mut Vec<Action>) {
        let Some(place) = self.connections.iter().position(|connection| connection.id == id) else { return };
        let connection = self.connections.remove(place);
        if let End::Sent(notification) = &end
            && connection.phase != Phase::Connecting
        {
            // RFC 8538 §3: only towards a peer that knows it.
            let is_hard = connection.negotiated.as_ref().is_some_and(|found| found.graceful_notification)
                && means_hard_reset(notification);
            let message = Message::Notification(if is_hard { hard_reset(notification) } else { notification.clone() });
            let mut bytes = Vec::new();
            connection.codec.encode(&message, &mut bytes);
            out.push(Action::Send { connection: id, bytes });
            self.history.sent.count(&message);
        }
        if !matches!(end, End::Lost(_)) {
            out.push(Action::Close { connection: id });
        }
        self.note(&connection, &end, now);
        if connection.phase == Phase::Established {
            self.synchronized.clear();
            self.refreshing.clear();
            self.history.flaps = self.history.flaps.saturating_add(1);
            let kept = if is_graceful(&connection, &end) { self.kept(&connection) } else { Vec::new() };
            self.helper.lost(end.clone(), &kept, now, out);
        }
        if self.connections.is_empty() {
            self.follow(&end, connection.established_at, now);
        }
        // What another connection has waited for may be gone now.
        let ready = self.connections.iter().find(|other| other.confirmed_until.is_some()).map(|other| other.id);
        if let Some(ready) = ready.filter(|ready| !self.has_better(*ready)) {
            self.establish(ready, now, out);
        }
    }

    /// Families whose routes stay, and how long. RFC 4724 §4.2, RFC 9494 §4.2.
    fn kept(&self, connection: &Connection) -> Vec<Kept> {
        let Some(negotiated) = &connection.negotiated else { return Vec::new() };
        let (theirs, ours) = (&negotiated.theirs, &negotiated.ours);
        let asked = theirs.capabilities.graceful_restart.as_ref().map_or(Duration::ZERO, |found| found.restart_time);
        let kept = negotiated.families.iter().map(|family| Kept {
            family: *family,
            restart_time: match negotiated.graceful.contains(family) {
                true => asked.min(self.peer.transport.restart.restart_time),
                false => Duration::ZERO,
            },
            long_lived_time: open::long_lived_time(theirs, ours, *family),
        });
        kept.filter(|kept| !kept.restart_time.is_zero() || !kept.long_lived_time.is_zero()).collect()
    }

    /// When the next try is, now that no connection is left.
    fn follow(&mut self, end: &End, established_at: Option<Instant>, now: Instant) {
        let code = |notification: &Notification| (notification.code, notification.subcode);
        match end {
            End::Sent(notification) => match code(notification) {
                (CEASE, cease::MAXIMUM_PREFIXES) => {
                    let after = self.peer.terms.max_prefixes.restart_after;
                    self.wait = Some(Wait { until: after.and_then(|after| now.checked_add(after)), why: end.text() });
                }
                // Nobody's mistake: the other side may be there again at once.
                (CEASE, cease::CONNECTION_COLLISION | cease::BFD_DOWN) => {}
                (HOLD_TIMER_EXPIRED | SEND_HOLD_TIMER_EXPIRED, _) => {}
                (CEASE, _) => self.retry_after(timers::CONNECT_DELAY, now),
                _ => self.wait_after_error(end.text(), now),
            },
            End::Received(notification) => match code(notification) {
                (CEASE, cease::CONNECTION_COLLISION) => {}
                // The peer does not want to now; it may come to us when it does.
                (CEASE, _) => {
                    let wait = self.backoff.next(now);
                    self.retry_after(wait, now);
                }
                _ => self.wait_after_error(end.text(), now),
            },
            End::Lost(_) if established_at.is_some() => self.retry_after(timers::CONNECT_DELAY, now),
            // ConnectRetryTimer.
            End::Lost(_) | End::GivenUp(_) | End::Replaced => {}
        }
    }

    /// RFC 4271 §8.1.1, DampPeerOscillations: in Idle for a while.
    fn wait_after_error(&mut self, why: String, now: Instant) {
        let wait = self.backoff.next(now);
        self.wait = Some(Wait { until: now.checked_add(self.jitter.vary(wait)), why });
    }

    /// For people. A collision is nothing that went wrong.
    fn note(&mut self, connection: &Connection, end: &End, now: Instant) {
        let is_other = |end: &End| match end {
            End::Sent(notification) | End::Received(notification) => !is_collision(notification),
            _ => true,
        };
        if is_other(end) {
            self.history.incident(end, connection.theirs.as_ref(), now);
        }
    }
}

impl End {
    /// For people.
    pub fn text(&self) -> String {
        match self {
            End::Sent(notification) => format!("we sent {}", describe(notification)),
            End::Received(notification) => format!("the peer sent {}", describe(notification)),
            End::Lost(reason) | End::GivenUp(reason) => reason.clone(),
            End::Replaced => "the peer has restarted".to_string(),
        }
    }
}

/// Whether routes may stay: after a loss without a word (RFC 4724 §4.2), and after a NOTIFICATION if both sides have said so
/// and it is no hard reset (RFC 8538 §4).
fn is_graceful(connection: &Connection, end: &End) -> bool {
    let Some(negotiated) = &connection.negotiated else { return false };
    match end {
        End::Lost(_) | End::GivenUp(_) | End::Replaced => true,
        End::Sent(notification) => {
            negotiated.graceful_notification && !is_hard_reset(notification) && !means_hard_reset(notification)
        }
        End::Received(notification) => negotiated.graceful_notification && !is_hard_reset(notification),
    }
}
