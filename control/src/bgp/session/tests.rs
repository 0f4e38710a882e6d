//! A session alone: events and simulated time in, actions as short texts out.
//!
//! `0`, `2`, … are connections that the session asked for, `1`, `3`, … those that the peer made. The session is AS 64512,
//! 10.0.0.1; the peer is 10.0.0.2, in the same system unless a test says otherwise.

mod collision;
mod fsm;
mod opens;
mod pair;
mod restart;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use config::net::IpVersion::{self, V4, V6};

use super::*;
use crate::bgp::message::{Capabilities, GracefulRestart, Update};
use crate::bgp::speaker_state::{PeerKind, Restart, Terms, Transport};

pub(super) const US: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub(super) const THEM: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
pub(super) const OUR_AS: u32 = 64512;

pub(super) fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(super) fn address(of: Ipv4Addr) -> SocketAddr {
    SocketAddr::from((of, 179))
}

pub(super) fn identity(router_id: Ipv4Addr) -> Identity {
    Identity {
        as_number: OUR_AS,
        router_id,
        listen_port: 179,
        listen_addresses: Vec::new(),
        cluster_id: None,
        addresses: vec![router_id.into()],
    }
}

pub(super) fn peer_state() -> PeerState {
    PeerState {
        name: "Mesh_10_0_0_2".to_string(),
        origin: "node-to-node mesh".to_string(),
        kind: PeerKind::NodeMesh,
        transport: Transport {
            local_address: None,
            local_as: OUR_AS,
            remote_as: OUR_AS,
            passive: false,
            password: None,
            ttl_security: None,
            hold_time: seconds(90),
            keepalive_time: None,
            families: vec![V4, V6],
            add_path: true,
            restart: Restart { restart_time: seconds(120), long_lived_time: Duration::ZERO },
            role: None,
            bfd: None,
        },
        terms: Terms::default(),
    }
}

/// What the peer says of itself: all that we can, both families, and nothing kept over a restart yet.
pub(super) fn their_open() -> Open {
    Open {
        as_number: OUR_AS,
        hold_time: seconds(240),
        router_id: THEM,
        capabilities: Capabilities {
            families: vec![V4, V6],
            route_refresh: true,
            enhanced_refresh: true,
            four_octet_as: true,
            extended_message: true,
            graceful_restart: Some(GracefulRestart {
                restarting: false,
                notification: false,
                restart_time: seconds(60),
                families: vec![(V4, true), (V6, true)],
            }),
            ..Capabilities::default()
        },
    }
}

pub(super) fn plain_open() -> Open {
    let mut open = their_open();
    open.capabilities.graceful_restart = None;
    open
}

pub(super) fn bytes_of(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    let capable = their_open();
    Codec::agreed(&capable, &capable, true).encode(message, &mut bytes);
    bytes
}

pub(super) fn end_of_rib(family: IpVersion) -> Message {
    Message::Update(Update { end_of_rib: Some(family), ..Update::default() })
}

/// A session, and the time.
pub(super) struct Rig {
    pub session: Session,
    pub now: Instant,
}

impl Rig {
    pub(super) fn new(change: impl FnOnce(&mut PeerState)) -> Rig {
        Rig::with(1, false, change)
    }

    pub(super) fn with(seed: u64, restarting: bool, change: impl FnOnce(&mut PeerState)) -> Rig {
        let mut state = peer_state();
        change(&mut state);
        let key = PeerKey { address: THEM.into(), port: 179 };
        Rig { session: Session::new(key, identity(US), state, seed, restarting), now: Instant::now() }
    }

    pub(super) fn event(&mut self, event: Event<'_>) -> Vec<String> {
        let mut out = Vec::new();
        self.session.handle(event, self.now, &mut out);
        out.iter().map(text).collect()
    }

    #[track_caller]
    pub(super) fn check(&mut self, event: Event<'_>, expected: &[&str]) {
        assert_eq!(self.event(event), expected);
    }

    /// Up to that time, all timers on the way.
    pub(super) fn after(&mut self, time: Duration) -> Vec<String> {
        let end = self.now + time;
        let mut actions = Vec::new();
        while let Some(deadline) = self.session.deadline().filter(|deadline| *deadline <= end) {
            self.now = self.now.max(deadline);
            actions.extend(self.event(Event::Timer));
            assert!(self.session.deadline().is_none_or(|next| next > self.now), "a timer that does not move");
        }
        self.now = end;
        actions
    }

    /// Until timers do something other than send a KEEPALIVE: what, and after how long.
    pub(super) fn until_something(&mut self) -> (Duration, Vec<String>) {
        let start = self.now;
        loop {
            let Some(deadline) = self.session.deadline() else { return (Duration::MAX, Vec::new()) };
            self.now = self.now.max(deadline);
            let actions: Vec<String> =
                self.event(Event::Timer).into_iter().filter(|text| !text.ends_with("KEEPALIVE")).collect();
            if !actions.is_empty() {
                return (self.now - start, actions);
            }
        }
    }

    /// The same, and it is in that range of seconds.
    #[track_caller]
    pub(super) fn check_timer(&mut self, range: std::ops::RangeInclusive<f64>, expected: &[&str]) {
        let (time, actions) = self.until_something();
        assert_eq!(actions, expected);
        assert!(range.contains(&time.as_secs_f64()), "after {time:?}");
    }

    pub(super) fn connected(&mut self, connection: u64) -> Vec<String> {
        self.event(Event::Connected { connection: ConnectionId(connection), local: address(US), remote: address(THEM) })
    }

    pub(super) fn accepted(&mut self, connection: u64) -> Vec<String> {
        self.event(Event::Accepted { connection: ConnectionId(connection), local: address(US), remote: address(THEM) })
    }

    pub(super) fn receive(&mut self, connection: u64, messages: &[Message]) -> Vec<String> {
        let bytes: Vec<u8> = messages.iter().flat_map(bytes_of).collect();
        self.event(Event::Received { connection: ConnectionId(connection), bytes: &bytes })
    }

    pub(super) fn closed(&mut self, connection: u64) -> Vec<String> {
        self.event(Event::Closed { connection: ConnectionId(connection), reason: "connection reset".to_string() })
    }

    /// Established on the connection that the session has asked for, with that OPEN from the peer.
    #[track_caller]
    pub(super) fn up(change: impl FnOnce(&mut PeerState), theirs: &Open) -> Rig {
        let mut rig = Rig::new(change);
        rig.event(Event::Start);
        rig.check_timer(1.5..=2.0, &["connect 0"]);
        assert_eq!(rig.connected(0), ["send 0 OPEN"]);
        assert_eq!(rig.receive(0, &[Message::Open(theirs.clone())]), ["send 0 KEEPALIVE"]);
        assert_eq!(rig.receive(0, &[Message::Keepalive]), ["up 0"]);
        rig
    }

    /// Established once more, on the connection that the peer makes next.
    pub(super) fn up_again(&mut self, connection: u64, theirs: &Open) -> Vec<String> {
        assert_eq!(self.accepted(connection), [format!("send {connection} OPEN")]);
        self.receive(connection, &[Message::Open(theirs.clone()), Message::Keepalive])
    }
}

/// An action in short.
pub(super) fn text(action: &Action) -> String {
    match action {
        Action::Connect { connection } => format!("connect {}", connection.0),
        Action::Close { connection } => format!("close {}", connection.0),
        Action::Send { connection, bytes } => {
            let messages: Vec<String> = messages(bytes).iter().map(message_text).collect();
            format!("send {} {}", connection.0, messages.join(" "))
        }
        Action::Up(negotiated) => {
            let stale: String = negotiated.stale.iter().map(|family| format!(" stale {family}")).collect();
            format!("up {}{stale}", negotiated.connection.0)
        }
        Action::Update(_) => "update".to_string(),
        Action::Refresh(_) => "refresh".to_string(),
        Action::Down { keep, .. } => {
            let keep: String = keep.iter().map(|family| format!(" keep {family}")).collect();
            format!("down{keep}")
        }
        Action::MarkStale(family) => format!("mark {family}"),
        Action::DropStale(family) => format!("drop {family}"),
        Action::LongLived(family) => format!("long-lived {family}"),
        Action::EndOfRib(family) => format!("end-of-rib {family}"),
    }
}

/// What was sent, read by somebody who has agreed on everything.
pub(super) fn messages(mut bytes: &[u8]) -> Vec<Message> {
    let capable = their_open();
    let codec = Codec::agreed(&capable, &capable, true);
    let mut messages = Vec::new();
    while let Ok(Some(length)) = codec.frame(bytes) {
        let (message, rest) = bytes.split_at(length);
        messages.push(codec.decode(message).expect("what we send can be read"));
        bytes = rest;
    }
    assert!(bytes.is_empty(), "what we send is whole messages");
    messages
}

fn message_text(message: &Message) -> String {
    match message {
        Message::Open(_) => "OPEN".to_string(),
        Message::Update(_) => "UPDATE".to_string(),
        Message::Notification(Notification { code, subcode, .. }) => format!("N({code}/{subcode})"),
        Message::Keepalive => "KEEPALIVE".to_string(),
        Message::Refresh(refresh) => format!("{:?}", refresh.subtype),
    }
}
