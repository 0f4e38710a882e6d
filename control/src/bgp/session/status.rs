//! What a person wants to know about a session: values, and sentences.

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use config::net::IpVersion;

use super::ending::End;
use crate::bgp::message::{Message, Open};

/// The states of RFC 4271 §8.2.2; of two connections the one that is further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    Idle,
    Connect,
    Active,
    OpenSent,
    OpenConfirm,
    Established,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Idle => "Idle",
            State::Connect => "Connect",
            State::Active => "Active",
            State::OpenSent => "OpenSent",
            State::OpenConfirm => "OpenConfirm",
            State::Established => "Established",
        })
    }
}

/// A session as it is.
#[derive(Debug, Clone)]
pub struct Status {
    pub state: State,
    /// The state's; none before the first event.
    pub since: Option<Instant>,
    /// Why it is not up, for people; none when it is.
    pub problem: Option<String>,
    /// When it is tried again, if that is known.
    pub retry_at: Option<Instant>,
    /// The last times that something went wrong.
    pub last_sent: Option<Incident>,
    pub last_received: Option<Incident>,
    pub last_loss: Option<Incident>,
    /// How often it was up, and how often that ended.
    pub established: u64,
    pub flaps: u64,
    pub sent: Messages,
    pub received: Messages,
    /// Of the connection that is furthest.
    pub local: Option<SocketAddr>,
    pub remote: Option<SocketAddr>,
    pub peer_open: Option<Open>,
    /// Zero: none. As agreed on.
    pub hold_time: Option<Duration>,
    pub keepalive_time: Option<Duration>,
    pub families: Vec<IpVersion>,
    pub graceful: Vec<IpVersion>,
    /// Families whose routes are stale, and until when they are kept.
    pub stale: Vec<StaleStatus>,
    /// We tell the peer that we have restarted.
    pub is_restarting: bool,
    /// What BFD said last.
    pub is_bfd_up: Option<bool>,
    /// Connections of the peer that were closed unasked.
    pub refused: u64,
}

/// Routes of a family after a loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StaleStatus {
    pub family: IpVersion,
    pub is_long_lived: bool,
    pub until: Instant,
}

/// Something that went wrong, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incident {
    pub at: Instant,
    pub text: String,
}

/// Messages by type, since the session is configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Messages {
    pub opens: u64,
    pub updates: u64,
    pub notifications: u64,
    pub keepalives: u64,
    pub refreshes: u64,
}

impl Messages {
    pub(super) fn count(&mut self, message: &Message) {
        let counter = match message {
            Message::Open(_) => &mut self.opens,
            Message::Update(_) => &mut self.updates,
            Message::Notification(_) => &mut self.notifications,
            Message::Keepalive => &mut self.keepalives,
            Message::Refresh(_) => &mut self.refreshes,
        };
        *counter = counter.saturating_add(1);
    }

    pub fn total(&self) -> u64 {
        self.opens + self.updates + self.notifications + self.keepalives + self.refreshes
    }
}

/// A wait after an error; without an end it is ended by hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wait {
    pub until: Option<Instant>,
    pub why: String,
}

/// What has happened so far.
#[derive(Debug, Default)]
pub(super) struct History {
    state: Option<(State, Instant)>,
    pub last_sent: Option<Incident>,
    pub last_received: Option<Incident>,
    pub last_loss: Option<Incident>,
    pub established: u64,
    pub flaps: u64,
    pub sent: Messages,
    pub received: Messages,
    pub is_bfd_up: Option<bool>,
    pub refused: u64,
}

impl History {
    pub(super) fn note(&mut self, state: State, now: Instant) {
        if self.state.is_none_or(|(before, _)| before != state) {
            self.state = Some((state, now));
        }
    }

    pub(super) fn since(&self) -> Option<Instant> {
        self.state.map(|(_, at)| at)
    }

    pub(super) fn up(&mut self) {
        self.established = self.established.saturating_add(1);
    }

    pub(super) fn incident(&mut self, end: &End, theirs: Option<&Open>, now: Instant) {
        let place = match end {
            End::Sent(_) => &mut self.last_sent,
            End::Received(_) => &mut self.last_received,
            End::Lost(_) | End::GivenUp(_) | End::Replaced => &mut self.last_loss,
        };
        let mut text = end.text();
        // What an OPEN was refused for is in it.
        if let (End::Sent(notification), Some(open)) = (end, theirs)
            && notification.code == super::notification::OPEN_ERROR
        {
            let Open { as_number, router_id, hold_time, .. } = open;
            text.push_str(&format!(
                "; its OPEN says AS {as_number}, identifier {router_id}, hold time {} s",
                hold_time.as_secs()
            ));
        }
        *place = Some(Incident { at: now, text });
    }

    /// The latest of the three.
    pub(super) fn last(&self) -> Option<&Incident> {
        [&self.last_sent, &self.last_received, &self.last_loss].into_iter().flatten().max_by_key(|incident| incident.at)
    }
}
