//! Messages: what each means on a connection that is as far as it is.
//!
//! Sources: RFC 4271 §6.8 and §8.2.2, RFC 6286 §2.3, RFC 6608, RFC 4724 §4 and §5, RFC 7313 §4.

use std::time::Instant;

use config::net::IpVersion;

use super::connection::{Connection, Phase};
use super::ending::End;
use super::event::{Action, ConnectionId, Negotiated};
use super::notification::{CEASE, FSM_ERROR, cease};
use super::{Session, open, timers};
use crate::bgp::message::{Message, Notification, Open, Refresh, RefreshSubtype, Update};
use crate::bgp::speaker_state::Transport;
use crate::bgp::wire::{self, Codec};

impl Session {
    /// All whole messages of a read, one after the other. Ends early when the connection does.
    pub(super) fn received(&mut self, id: ConnectionId, mut bytes: &[u8], now: Instant, out: &mut Vec<Action>) {
        while let Some(connection) = self.connection(id).filter(|connection| connection.phase != Phase::Connecting) {
            match connection.next_message(&mut bytes) {
                Some(Ok(message)) => self.message(id, message, now, out),
                Some(Err(notification)) => return self.end(id, End::Sent(notification), now, out),
                None => return,
            }
        }
    }

    fn message(&mut self, id: ConnectionId, message: Message, now: Instant, out: &mut Vec<Action>) {
        self.history.received.count(&message);
        let Some(connection) = self.connection(id) else { return };
        match (&message, connection.confirmed_until) {
            // The peer goes on: it is Established on this one, and will not give it up for another (RFC 4271 §6.8).
            (Message::Update(_) | Message::Refresh(_), Some(_)) => self.establish(id, now, out),
            // Once more, while a better one is waited for.
            (Message::Keepalive, Some(_)) => return self.restart_hold(id, now),
            _ => {}
        }
        let Some(connection) = self.connection(id) else { return };
        match (connection.phase, message) {
            (_, Message::Notification(notification)) => self.end(id, End::Received(notification), now, out),
            (Phase::OpenSent, Message::Open(theirs)) => self.opened(id, theirs, now, out),
            (Phase::OpenConfirm, Message::Keepalive) => self.confirmed(id, now, out),
            (Phase::Established, Message::Keepalive) => self.restart_hold(id, now),
            (Phase::Established, Message::Update(update)) => {
                self.restart_hold(id, now);
                self.updated(update, out);
            }
            (Phase::Established, Message::Refresh(refresh)) => {
                self.restart_hold(id, now);
                self.refreshed(refresh, out);
            }
            (phase, message) => {
                let subcode = match phase {
                    Phase::Connecting | Phase::OpenSent => 1,
                    Phase::OpenConfirm => 2,
                    Phase::Established => 3,
                };
                // RFC 6608 §4: the type of the message is said.
                let notification = Notification::with(FSM_ERROR, subcode, [wire::message_type(&message)]);
                self.end(id, End::Sent(notification), now, out);
            }
        }
    }

    /// The peer's OPEN has come.
    fn opened(&mut self, id: ConnectionId, theirs: Open, now: Instant, out: &mut Vec<Action>) {
        let transport = self.peer.transport.clone();
        let Some(ours) = self.connection(id).and_then(|connection| connection.ours.clone()) else { return };
        if let Err(notification) = open::check(&theirs, &ours, &transport) {
            if let Some(connection) = self.connection(id) {
                connection.theirs = Some(theirs);
            }
            return self.end(id, End::Sent(notification), now, out);
        }
        if !self.survives_collision(id, &ours, &theirs, now, out) {
            return self.end(id, End::Sent(Notification::new(CEASE, cease::CONNECTION_COLLISION)), now, out);
        }
        let Some(connection) = self.connection(id) else { return };
        connection.codec = Codec::agreed(&ours, &theirs, open::is_internal(&transport));
        connection.hold_time = open::hold_time(&theirs, &ours);
        connection.keepalive_time = open::keepalive_time(connection.hold_time, &transport);
        connection.theirs = Some(theirs);
        connection.phase = Phase::OpenConfirm;
        // Without a hold time the peer's KEEPALIVE is not waited for for ever.
        let wait = if connection.hold_time.is_zero() { timers::OPEN_WAIT } else { connection.hold_time };
        (connection.hold_until, connection.is_excused) = (now.checked_add(wait), false);
        self.send(id, &Message::Keepalive, out);
        self.restart_keepalive(id, now);
    }

    /// Whether the connection whose OPEN has come stays; if the other one has to go instead, it goes. RFC 4271 §6.8.
    ///
    /// A connection is given up at once only while the peer cannot be Established on it, that is before our KEEPALIVE. After
    /// that it goes when the better one is Established: the peer never gives up what is Established (it may not, by the same
    /// section), so it could refuse the better one, and both would be gone.
    fn survives_collision(
        &mut self,
        id: ConnectionId,
        ours: &Open,
        theirs: &Open,
        now: Instant,
        out: &mut Vec<Action>,
    ) -> bool {
        let Some(other) = self.connections.iter().find(|connection| connection.id != id) else { return true };
        let (other_id, other_phase) = (other.id, other.phase);
        match other_phase {
            Phase::Established => {
                let is_restart = self.is_restart_of(other_id, theirs, now);
                if is_restart {
                    self.end(other_id, End::Replaced, now, out);
                } else {
                    // If the peer is there anew and the old connection is dead, this finds it out: the next try gets in, and
                    // the hold time need not pass.
                    self.send(other_id, &Message::Keepalive, out);
                    self.restart_keepalive(other_id, now);
                }
                is_restart
            }
            Phase::OpenConfirm | Phase::OpenSent => {
                let is_better = self.is_better(id, other_id, ours, theirs);
                if is_better && other_phase == Phase::OpenSent {
                    let notification = Notification::new(CEASE, cease::CONNECTION_COLLISION);
                    self.end(other_id, End::Sent(notification), now, out);
                }
                // One whose OPEN has not come may never get any further: both stay for now.
                is_better || other_phase == Phase::OpenSent
            }
            // Nothing is lost by waiting: it ends when this one is Established.
            Phase::Connecting => true,
        }
    }

    /// RFC 4724 §4.2: a peer that can restart and opens another connection has restarted. Unless both sides have connected at
    /// the same time and one of the two was late, which is a collision as any: then the first is young, and the peer says
    /// nothing of a restart that it had not said on the first.
    fn is_restart_of(&mut self, established: ConnectionId, theirs: &Open, now: Instant) -> bool {
        let Some(connection) = self.connection(established) else { return true };
        let Some(negotiated) = &connection.negotiated else { return false };
        let restarts = |open: &Open| open.capabilities.graceful_restart.as_ref().is_some_and(|found| found.restarting);
        let age = connection.established_at.map(|at| now.saturating_duration_since(at)).unwrap_or_default();
        let is_new = restarts(theirs) && !restarts(&negotiated.theirs);
        !negotiated.graceful.is_empty() && (is_new || age >= timers::COLLISION_AGE)
    }

    /// RFC 4271 §6.8, RFC 6286 §2.3: the connection of the side with the higher identifier, or AS number if those are equal.
    /// Of two that the same side made, the one that it made last.
    fn is_better(&self, id: ConnectionId, other: ConnectionId, ours: &Open, theirs: &Open) -> bool {
        let place = |id| self.connections.iter().position(|connection| connection.id == id);
        let incoming = |id| self.connections.iter().any(|connection| connection.id == id && connection.incoming);
        let rank = |open: &Open| (u32::from(open.router_id), open.as_number);
        match (incoming(id), incoming(other)) {
            (true, false) => rank(theirs) > rank(ours),
            (false, true) => rank(ours) > rank(theirs),
            _ => place(id) > place(other),
        }
    }

    /// KEEPALIVE in OpenConfirm. If the other connection is better, it is waited for a little: else this side could be
    /// Established here, the other side give it up for the better one, and both be gone.
    fn confirmed(&mut self, id: ConnectionId, now: Instant, out: &mut Vec<Action>) {
        if self.has_better(id)
            && let Some(connection) = self.connection(id)
        {
            connection.confirmed_until = now.checked_add(timers::COLLISION_WAIT);
            return;
        }
        self.establish(id, now, out);
    }

    /// Another connection is there that would win.
    pub(super) fn has_better(&self, id: ConnectionId) -> bool {
        let Some(connection) = self.connections.iter().find(|connection| connection.id == id) else { return false };
        let (Some(ours), Some(theirs)) = (&connection.ours, &connection.theirs) else { return false };
        let is_there = |other: &Connection| matches!(other.phase, Phase::OpenSent | Phase::OpenConfirm);
        self.connections
            .iter()
            .any(|other| other.id != id && is_there(other) && self.is_better(other.id, id, ours, theirs))
    }

    /// The session is up on this connection; the other one goes.
    pub(super) fn establish(&mut self, id: ConnectionId, now: Instant, out: &mut Vec<Action>) {
        // First, so that the end of the other one does not come back to this.
        if let Some(connection) = self.connection(id) {
            connection.confirmed_until = None;
        }
        let others: Vec<ConnectionId> =
            self.connections.iter().map(|other| other.id).filter(|other| *other != id).collect();
        for other in others {
            self.end(other, End::Sent(Notification::new(CEASE, cease::CONNECTION_COLLISION)), now, out);
        }
        let transport = self.peer.transport.clone();
        let Some(connection) = self.connection(id) else { return };
        let Some(mut negotiated) = negotiate(connection, &transport) else { return };
        connection.phase = Phase::Established;
        connection.established_at = Some(now);
        self.restart_hold(id, now);
        negotiated.stale = self.helper.up(&negotiated.theirs, &negotiated.families, now, out);
        if let Some(connection) = self.connection(id) {
            connection.negotiated = Some(Box::new(negotiated.clone()));
        }
        self.synchronized.clear();
        self.refreshing.clear();
        // The peer has seen that we have restarted.
        self.restarting = false;
        self.retry_at = None;
        self.history.up();
        out.push(Action::Up(Box::new(negotiated)));
    }

    fn updated(&mut self, update: Update, out: &mut Vec<Action>) {
        let family = update.end_of_rib;
        if !update.withdrawn.is_empty() || !update.reachable.is_empty() || !update.faults.is_empty() {
            out.push(Action::Update(update));
        }
        if let Some(family) = family.filter(|family| self.is_spoken(*family)) {
            if !self.synchronized.contains(&family) {
                self.synchronized.push(family);
            }
            self.helper.end_of_rib(family, out);
            out.push(Action::EndOfRib(family));
        }
    }

    fn refreshed(&mut self, refresh: Refresh, out: &mut Vec<Action>) {
        // What is not spoken is not refreshed (RFC 2918 §4).
        let Some(family) = refresh.family.filter(|family| self.is_spoken(*family)) else { return };
        let can_end_of_rib =
            self.negotiated().is_some_and(|found| found.theirs.capabilities.graceful_restart.is_some());
        let is_told = self.synchronized.contains(&family) || !can_end_of_rib;
        let is_refreshing = self.refreshing.contains(&family);
        match refresh.subtype {
            RefreshSubtype::Request => out.push(Action::Refresh(refresh)),
            // RFC 7313 §4: before the end of RIB a beginning is ignored.
            RefreshSubtype::Begin if is_told => {
                if !is_refreshing {
                    self.refreshing.push(family);
                }
                out.push(Action::MarkStale(family));
            }
            // Without a beginning, an end means nothing.
            RefreshSubtype::End if is_refreshing => {
                self.refreshing.retain(|found| *found != family);
                out.push(Action::DropStale(family));
            }
            RefreshSubtype::Begin | RefreshSubtype::End => {}
        }
    }

    fn is_spoken(&self, family: IpVersion) -> bool {
        self.negotiated().is_some_and(|negotiated| negotiated.families.contains(&family))
    }

    /// RFC 4271 §8.2.2: KEEPALIVE and UPDATE restart the HoldTimer; so does ROUTE-REFRESH, which shows the same.
    fn restart_hold(&mut self, id: ConnectionId, now: Instant) {
        if let Some(connection) = self.connection(id) {
            connection.is_excused = false;
            connection.hold_until = match connection.hold_time.is_zero() {
                true => None,
                false => now.checked_add(connection.hold_time),
            };
        }
    }
}

fn negotiate(connection: &Connection, transport: &Transport) -> Option<Negotiated> {
    let (ours, theirs) = (connection.ours.clone()?, connection.theirs.clone()?);
    let families = connection.codec.families().to_vec();
    let restart = theirs.capabilities.graceful_restart.as_ref();
    let can = &theirs.capabilities;
    Some(Negotiated {
        connection: connection.id,
        local: connection.local?,
        remote: connection.remote?,
        codec: connection.codec,
        internal: open::is_internal(transport),
        hold_time: connection.hold_time,
        keepalive_time: connection.keepalive_time,
        route_refresh: can.route_refresh || can.enhanced_refresh,
        enhanced_refresh: can.enhanced_refresh,
        graceful: open::graceful(&theirs, &ours, &families),
        graceful_notification: open::graceful_notification(&theirs, &ours),
        end_of_rib_expected: restart.is_some_and(|capability| !capability.restarting),
        long_lived: restart.is_some() && !can.long_lived.is_empty() && !ours.capabilities.long_lived.is_empty(),
        role: ours.capabilities.role,
        stale: Vec::new(),
        families,
        ours,
        theirs,
    })
}
