//! The machine of one peer: connections, OPENs, timers, collisions, and what stays when the peer restarts.
//!
//! ```text
//!                    Start ─▶ Connect ◀──▶ Active       (outgoing; a passive side only waits)
//!   per connection:             │ TCP         │ Accepted
//!                               ▼             ▼
//!                            OpenSent ──OPEN──▶ OpenConfirm ──KEEPALIVE──▶ Established ──▶ Up
//!                               └───────────────────┴── collision ──┴── error, loss ──▶ Down, then again
//! ```
//!
//! A session has up to two connections: both sides may connect at the same time, or the peer may be back before the loss of
//! its old connection is seen. Each is for itself until OPENs have come on both; then one is left. The state of the session
//! is the state of the one that is further.
//!
//! | file | what it knows |
//! |---|---|
//! | `event.rs` | what can happen, what is to be done, what was agreed on |
//! | `mod.rs` | which event does what; when a connection is made |
//! | `receive.rs` | messages: OPEN, collision, Established, refresh |
//! | `ending.rs` | how connections end, and what follows |
//! | `connection.rs` | one connection: its bytes, its timers |
//! | `open.rs` | our OPEN, and what is wrong with the other |
//! | `restart.rs` | routes of a peer that is away |
//! | `notification.rs` `status.rs` `timers.rs` | errors in words; what a person wants to know; times |
//!
//! Invariants: at most two connections, at most one of them Established; `Up` and `Down` alternate; after `Timer` at its
//! deadline the next deadline is later; a message is handled before the next one is read, in order, without recursion.
//! Left out on purpose: DelayOpen (RFC 4271 §8.1.1), which only saves a collision; a timer that ends a refresh of the peer
//! (RFC 7313 §4 allows it), as routes that are told again late do no harm; OPENs without capabilities for peers that do not
//! know them, as RFC 5492 is older than any peer that is met.
//!
//! Sources: RFC 4271 §6 and §8, RFC 6286, RFC 6608, RFC 4724, RFC 8538, RFC 9494, RFC 7313, RFC 9687, and those that the
//! files name.

mod connection;
mod ending;
mod event;
pub mod notification;
mod open;
mod receive;
mod restart;
mod status;
#[cfg(test)]
mod tests;
mod timers;

use std::time::Instant;

use config::net::IpVersion;

use self::connection::{Connection, Phase};
pub use self::event::{Action, BfdFinding, ConnectionId, End, Event, Negotiated};
use self::notification::{CEASE, SEND_HOLD_TIMER_EXPIRED, cease, too_many_prefixes};
use self::open::RestartBits;
use self::restart::Helper;
use self::status::{History, Wait};
pub use self::status::{Incident, Messages, StaleStatus, State, Status};
use self::timers::{Backoff, Jitter};
use super::message::{Message, Notification, Open, Refresh, RefreshSubtype};
use super::speaker_state::{Identity, Password, PeerKey, PeerState};
use super::wire::{Codec, describe};

/// RFC 4271 §6.8: one that each side made.
const CONNECTIONS_MAX: usize = 2;

/// The machine of one peer.
#[derive(Debug)]
pub struct Session {
    key: PeerKey,
    identity: Identity,
    peer: PeerState,
    jitter: Jitter,
    /// How many connections were asked for.
    serial: u64,
    /// By the operator, and why.
    stopped: Option<String>,
    /// After an error nothing is tried or accepted for a while.
    wait: Option<Wait>,
    /// ConnectRetryTimer.
    retry_at: Option<Instant>,
    backoff: Backoff,
    /// In the order in which they came about. At most `CONNECTIONS_MAX`.
    connections: Vec<Connection>,
    helper: Helper,
    /// Families of the connection that is up whose end of RIB has come.
    synchronized: Vec<IpVersion>,
    /// Families that the peer is telling again (RFC 7313).
    refreshing: Vec<IpVersion>,
    /// We have restarted, the peer has not seen us since, and until when that is worth telling.
    restarting: bool,
    restarting_until: Option<Instant>,
    history: History,
}

impl Session {
    /// A session that waits for `Start`. `seed` varies its timers; `restarting`: this process is new, and forwarding goes on by
    /// what the one before it had learned (RFC 4724 §4.1).
    pub fn new(key: PeerKey, identity: Identity, state: PeerState, seed: u64, restarting: bool) -> Session {
        Session {
            key,
            identity,
            peer: state,
            jitter: Jitter::new(seed),
            serial: 0,
            stopped: Some("not started".to_string()),
            wait: None,
            retry_at: None,
            backoff: Backoff::default(),
            connections: Vec::new(),
            helper: Helper::default(),
            synchronized: Vec::new(),
            refreshing: Vec::new(),
            restarting,
            restarting_until: None,
            history: History::default(),
        }
    }

    /// Takes in what has happened; what is to be done is added to `out`, in order.
    pub fn handle(&mut self, event: Event<'_>, now: Instant, out: &mut Vec<Action>) {
        match event {
            Event::Timer => self.expire(now, out),
            Event::Start => self.start(now),
            Event::Stop { notification } => {
                self.stopped = Some(describe(&notification));
                self.end_all(&notification, now, out);
                self.helper.drop_all(out);
            }
            Event::Update(peer) => self.update(*peer, now, out),
            Event::Connected { connection, local, remote } => {
                let is_pending = |found: &Connection| found.phase == Phase::Connecting;
                if let Some(found) = self.connection(connection).filter(|found| is_pending(found)) {
                    (found.local, found.remote) = (Some(local), Some(remote));
                    self.send_open(connection, timers::OPEN_WAIT, now, out);
                }
            }
            Event::Accepted { connection, local, remote } => {
                if self.connection(connection).is_some() {
                    return;
                }
                if !self.has_room_for_accepted(now, out) {
                    self.history.refused = self.history.refused.saturating_add(1);
                    out.push(Action::Close { connection });
                    return;
                }
                let mut accepted = Connection::new(connection, true, None);
                (accepted.local, accepted.remote) = (Some(local), Some(remote));
                self.connections.push(accepted);
                self.send_open(connection, timers::ACCEPTED_WAIT, now, out);
            }
            Event::ConnectFailed { connection, reason } => {
                self.end(connection, End::Lost(format!("connect: {reason}")), now, out);
            }
            Event::Closed { connection, reason } => {
                self.end(connection, End::Lost(format!("connection closed: {reason}")), now, out);
            }
            Event::Received { connection, bytes } => self.received(connection, bytes, now, out),
            Event::OutputBlocked { connection } => {
                if let Some(found) = self.established_connection().filter(|found| found.id == connection)
                    // No hold time, no send hold time: the operator wants no timers.
                    && !found.hold_time.is_zero()
                    && found.send_hold_until.is_none()
                {
                    found.send_hold_until = now.checked_add(timers::send_hold_time(found.hold_time));
                }
            }
            Event::OutputProgress { connection } => {
                if let Some(found) = self.connection(connection) {
                    found.send_hold_until = None;
                }
            }
            Event::Bfd(finding) => {
                self.history.is_bfd_up = Some(finding == BfdFinding::Up);
                if finding == BfdFinding::Failed {
                    // RFC 9384. A connection that is not up yet has its own timers: BFD may only be late.
                    self.end_established(Notification::new(CEASE, cease::BFD_DOWN), now, out);
                }
            }
            Event::MaxPrefixes { family } => {
                if self.state() == State::Established {
                    let limit = self.peer.terms.max_prefixes.count;
                    self.end_all(&too_many_prefixes(family, limit), now, out);
                }
            }
            Event::ResetBy(notification) => self.end_all(&notification, now, out),
            Event::RequestRefresh(family) => self.send_refresh(family, RefreshSubtype::Request, now, out),
            Event::RefreshBegins(family) => self.send_refresh(family, RefreshSubtype::Begin, now, out),
            Event::RefreshEnds(family) => self.send_refresh(family, RefreshSubtype::End, now, out),
        }
        self.arm_retry(now);
        let state = self.state();
        self.history.note(state, now);
    }

    /// When `Event::Timer` is due.
    pub fn deadline(&self) -> Option<Instant> {
        let connections = self.connections.iter().filter_map(Connection::deadline).min();
        let wait = self.wait.as_ref().and_then(|wait| wait.until);
        [connections, wait, self.retry_at, self.helper.deadline()].into_iter().flatten().min()
    }

    pub fn key(&self) -> PeerKey {
        self.key
    }

    pub fn peer(&self) -> &PeerState {
        &self.peer
    }

    pub fn state(&self) -> State {
        match self.furthest().map(|connection| connection.phase) {
            Some(Phase::Established) => State::Established,
            Some(Phase::OpenConfirm) => State::OpenConfirm,
            Some(Phase::OpenSent) => State::OpenSent,
            Some(Phase::Connecting) => State::Connect,
            None if self.is_idle() => State::Idle,
            None => State::Active,
        }
    }

    /// The connection that is up, and how bytes are written on it.
    pub fn established(&self) -> Option<(ConnectionId, &Codec)> {
        let connection = self.connections.iter().find(|connection| connection.phase == Phase::Established)?;
        Some((connection.id, &connection.codec))
    }

    /// What was agreed on, while it is up.
    pub fn negotiated(&self) -> Option<&Negotiated> {
        self.connections.iter().find_map(|connection| connection.negotiated.as_deref())
    }

    pub fn peer_open(&self) -> Option<&Open> {
        self.furthest().and_then(|connection| connection.theirs.as_ref())
    }

    /// UPDATEs that the caller has given to the connection that is up. RFC 4271 §8.2.2: they restart the KeepaliveTimer.
    pub fn sent_updates(&mut self, count: u64, now: Instant) {
        self.history.sent.updates = self.history.sent.updates.saturating_add(count);
        if let Some(id) = self.established_connection().map(|connection| connection.id) {
            self.restart_keepalive(id, now);
        }
    }

    pub fn status(&self) -> Status {
        let furthest = self.furthest();
        let negotiated = self.negotiated();
        let confirmed = furthest.filter(|connection| connection.phase >= Phase::OpenConfirm);
        Status {
            state: self.state(),
            since: self.history.since(),
            problem: self.problem(),
            retry_at: self.wait.as_ref().and_then(|wait| wait.until).or(self.retry_at),
            last_sent: self.history.last_sent.clone(),
            last_received: self.history.last_received.clone(),
            last_loss: self.history.last_loss.clone(),
            established: self.history.established,
            flaps: self.history.flaps,
            sent: self.history.sent,
            received: self.history.received,
            local: furthest.and_then(|connection| connection.local),
            remote: furthest.and_then(|connection| connection.remote),
            peer_open: self.peer_open().cloned(),
            hold_time: confirmed.map(|connection| connection.hold_time),
            keepalive_time: confirmed.map(|connection| connection.keepalive_time),
            families: negotiated.map(|negotiated| negotiated.families.clone()).unwrap_or_default(),
            graceful: negotiated.map(|negotiated| negotiated.graceful.clone()).unwrap_or_default(),
            stale: self.helper.status(),
            is_restarting: self.restarting,
            is_bfd_up: self.history.is_bfd_up,
            refused: self.history.refused,
        }
    }

    /// Why it is not up, for people.
    fn problem(&self) -> Option<String> {
        if self.state() == State::Established {
            return None;
        }
        if let Some(why) = &self.stopped {
            return Some(format!("stopped: {why}"));
        }
        if let Some(Password::Missing(what)) = &self.peer.transport.password {
            return Some(format!("waits: {what}"));
        }
        if let Some(wait) = &self.wait {
            return Some(match wait.until {
                Some(_) => format!("waits after an error: {}", wait.why),
                None => format!("waits to be enabled by hand: {}", wait.why),
            });
        }
        match (self.state(), self.history.last()) {
            (State::OpenSent, _) => Some("waits for the peer's OPEN".to_string()),
            (State::OpenConfirm, _) => Some("waits for the peer's KEEPALIVE".to_string()),
            (_, Some(incident)) => Some(incident.text.clone()),
            (State::Connect, None) => Some("connects".to_string()),
            _ if self.peer.transport.passive => Some("waits for the peer to connect".to_string()),
            _ => Some("waits before it connects".to_string()),
        }
    }

    /// What may be wrong when nobody answers: the kernel drops both without a word.
    fn no_answer(&self) -> String {
        let mut text = "connect: no answer".to_string();
        if self.peer.transport.password.is_some() {
            text.push_str("; the other side may have another TCP-MD5 password, or none");
        }
        if self.peer.transport.ttl_security.is_some() {
            text.push_str("; it may be further away than TTL security allows");
        }
        text
    }

    fn start(&mut self, now: Instant) {
        if self.stopped.is_none() && self.wait.is_none() {
            return;
        }
        if self.restarting && self.restarting_until.is_none() {
            // Peers keep our routes that long and no longer.
            self.restarting_until = now.checked_add(self.peer.transport.restart.restart_time);
        }
        self.stopped = None;
        self.wait = None;
        self.backoff.forget();
        self.retry_after(timers::CONNECT_DELAY, now);
    }

    fn update(&mut self, peer: PeerState, now: Instant, out: &mut Vec<Action>) {
        if peer.transport != self.peer.transport {
            // What was agreed on holds no longer, the families that could be kept included.
            self.end_all(&Notification::new(CEASE, cease::OTHER_CONFIGURATION_CHANGE), now, out);
            self.helper.drop_all(out);
            self.wait = None;
            self.retry_after(timers::CONNECT_DELAY, now);
        }
        self.peer = peer;
    }

    /// Nothing is tried, and nobody is let in.
    fn is_idle(&self) -> bool {
        let is_password_missing = matches!(self.peer.transport.password, Some(Password::Missing(_)));
        self.stopped.is_some() || self.wait.is_some() || is_password_missing
    }

    /// Whether another connection of the peer is taken; one that has said nothing gives way to it.
    fn has_room_for_accepted(&mut self, now: Instant, out: &mut Vec<Action>) -> bool {
        if self.is_idle() {
            return false;
        }
        if self.connections.len() < CONNECTIONS_MAX {
            return true;
        }
        let silent = |connection: &&Connection| connection.incoming && connection.phase == Phase::OpenSent;
        let Some(id) = self.connections.iter().find(silent).map(|connection| connection.id) else { return false };
        self.end(id, End::Sent(Notification::new(CEASE, cease::CONNECTION_COLLISION)), now, out);
        self.connections.len() < CONNECTIONS_MAX
    }

    fn expire(&mut self, now: Instant, out: &mut Vec<Action>) {
        let ids: Vec<ConnectionId> = self.connections.iter().map(|connection| connection.id).collect();
        for id in ids {
            self.expire_connection(id, now, out);
        }
        if self.wait.as_ref().is_some_and(|wait| wait.until.is_some_and(|until| until <= now)) {
            self.wait = None;
            self.retry_at = Some(now);
        }
        self.helper.expire(now, out);
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
            if self.may_connect() {
                let id = ConnectionId::requested(self.serial);
                self.serial = self.serial.wrapping_add(1);
                // RFC 4271 §8.2.2: a try that takes that long is given up, and the next one begins.
                let until = now.checked_add(timers::CONNECT_RETRY);
                self.connections.push(Connection::new(id, false, until));
                out.push(Action::Connect { connection: id });
            }
        }
    }

    fn expire_connection(&mut self, id: ConnectionId, now: Instant, out: &mut Vec<Action>) {
        let is_over = |until: Option<Instant>| until.is_some_and(|until| until <= now);
        let Some(connection) = self.connection(id) else { return };
        let late = connection.hold_until.map(|until| now.saturating_duration_since(until)).unwrap_or_default();
        if late >= timers::STALL && !connection.is_excused && connection.phase != Phase::Connecting {
            // What the peer has said meanwhile is still in its socket: it is read first.
            connection.is_excused = true;
            connection.hold_until = now.checked_add(timers::STALL);
        } else if is_over(connection.hold_until) {
            return match connection.phase {
                Phase::Connecting => {
                    self.end(id, End::GivenUp(self.no_answer()), now, out);
                    self.retry_at = Some(now);
                }
                _ => self.end(id, End::Sent(Notification::new(notification::HOLD_TIMER_EXPIRED, 0)), now, out),
            };
        }
        let Some(connection) = self.connection(id) else { return };
        if is_over(connection.send_hold_until) {
            // RFC 9687 §4.3: whether it gets there is another matter.
            return self.end(id, End::Sent(Notification::new(SEND_HOLD_TIMER_EXPIRED, 0)), now, out);
        }
        if is_over(connection.keepalive_at) {
            self.send(id, &Message::Keepalive, out);
            self.restart_keepalive(id, now);
        }
        if self.connection(id).is_some_and(|connection| is_over(connection.confirmed_until)) {
            self.establish(id, now, out);
        }
    }

    fn may_connect(&self) -> bool {
        let is_enough = |connection: &Connection| !connection.incoming || connection.phase >= Phase::OpenConfirm;
        !self.is_idle()
            && !self.peer.transport.passive
            && self.connections.len() < CONNECTIONS_MAX
            && !self.connections.iter().any(is_enough)
    }

    /// ConnectRetryTimer runs when, and only when, a connection could be made.
    fn arm_retry(&mut self, now: Instant) {
        match (self.may_connect(), self.retry_at) {
            (true, None) => self.retry_after(timers::CONNECT_RETRY, now),
            (false, Some(_)) => self.retry_at = None,
            _ => {}
        }
    }

    fn retry_after(&mut self, time: std::time::Duration, now: Instant) {
        self.retry_at = now.checked_add(self.jitter.vary(time));
    }

    fn restart_bits(&self, now: Instant) -> RestartBits {
        let restarting = self.restarting && self.restarting_until.is_none_or(|until| now < until);
        // RFC 8538 §4: F is set after any loss but our own cold start, for nothing has stopped forwarding.
        RestartBits { restarting, forwarding: restarting || self.history.established > 0 }
    }

    fn connection(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.connections.iter_mut().find(|connection| connection.id == id)
    }

    fn established_connection(&mut self) -> Option<&mut Connection> {
        self.connections.iter_mut().find(|connection| connection.phase == Phase::Established)
    }

    fn furthest(&self) -> Option<&Connection> {
        self.connections.iter().max_by_key(|connection| connection.phase)
    }

    /// TCP is up: say who we are.
    fn send_open(&mut self, id: ConnectionId, wait: std::time::Duration, now: Instant, out: &mut Vec<Action>) {
        let ours = open::ours(&self.identity, &self.peer.transport, self.restart_bits(now));
        let Some(connection) = self.connection(id) else { return };
        connection.phase = Phase::OpenSent;
        connection.hold_until = now.checked_add(wait);
        connection.ours = Some(ours.clone());
        self.send(id, &Message::Open(ours), out);
    }

    fn send_refresh(&mut self, family: IpVersion, subtype: RefreshSubtype, now: Instant, out: &mut Vec<Action>) {
        let Some(negotiated) = self.negotiated() else { return };
        let is_wanted = match subtype {
            RefreshSubtype::Request => negotiated.route_refresh,
            _ => negotiated.enhanced_refresh,
        };
        let id = negotiated.connection;
        if is_wanted && negotiated.families.contains(&family) {
            self.send(id, &Message::Refresh(Refresh { family: Some(family), subtype }), out);
            self.restart_keepalive(id, now);
        }
    }

    fn send(&mut self, id: ConnectionId, message: &Message, out: &mut Vec<Action>) {
        let Some(connection) = self.connection(id) else { return };
        let mut bytes = Vec::new();
        connection.codec.encode(message, &mut bytes);
        out.push(Action::Send { connection: id, bytes });
        self.history.sent.count(message);
    }

    fn restart_keepalive(&mut self, id: ConnectionId, now: Instant) {
        let Some(time) = self.connection(id).map(|connection| connection.keepalive_time) else { return };
        let at = match time.is_zero() {
            true => None,
            // RFC 4271 §10, and not more often than once a second (§4.4).
            false => now.checked_add(self.jitter.vary(time).max(open::KEEPALIVE_TIME_MIN)),
        };
        if let Some(connection) = self.connection(id) {
            connection.keepalive_at = at;
        }
    }
}
