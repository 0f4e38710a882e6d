//! Fuzz target: the machine of one BGP peer.
//!
//! An input is a list of things that happen, one octet for what and a few for how: connections that come about or do not,
//! messages that are right, bytes that are not, closes, timers, the operator. Whatever they are and in whatever order, the
//! session has at most two connections, speaks of those alone, is up and down in turn, says of stale routes only what can be,
//! and its timers always move on. In the end, left alone with a network that answers nothing, every connection that it asked
//! for is given up; and when it is started once more it tries again.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use config::net::IpVersion::{self, V4, V6};
use control::bgp::message::{
    Capabilities, GracefulRestart, LongLived, Message, Notification, Open, Refresh, RefreshSubtype, Update,
};
use control::bgp::session::{Action, BfdFinding, ConnectionId, Event, Session, State};
use control::bgp::speaker_state::{Identity, MaxPrefixes, PeerKey, PeerKind, PeerState, Restart, Terms, Transport};
use control::bgp::wire::Codec;

use super::{Seen, Target};

pub const BGP_SESSION: Target = Target { name: "bgp_session", run, seeds, tokens: &[], longest: 2048, rounds: 10_000 };

const US: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// The peer's identifiers: higher, lower, the same, none.
const THEM: [Ipv4Addr; 4] = [Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(9, 0, 0, 1), US, Ipv4Addr::UNSPECIFIED];
/// RFC 4271 §6.8: one that each side made.
const CONNECTIONS_MAX: usize = 2;
/// Longer than any wait that ends by itself.
const LONG: Duration = Duration::from_secs(1200);

fn state(how: u8) -> PeerState {
    let bit = |bit: u8| how & 1 << bit != 0;
    PeerState {
        name: "Mesh_10_0_0_2".to_string(),
        origin: "node-to-node mesh".to_string(),
        kind: PeerKind::NodeMesh,
        transport: Transport {
            local_address: None,
            local_as: 64512,
            remote_as: if bit(0) { 64513 } else { 64512 },
            passive: bit(1),
            password: None,
            ttl_security: None,
            hold_time: Duration::from_secs(if bit(2) { 90 } else { 6 }),
            keepalive_time: None,
            families: if bit(3) { vec![V4, V6] } else { vec![V6] },
            add_path: true,
            restart: Restart {
                restart_time: Duration::from_secs(if bit(4) { 60 } else { 0 }),
                long_lived_time: Duration::from_secs(if bit(5) { 300 } else { 0 }),
            },
            role: None,
            bfd: None,
        },
        terms: Terms {
            max_prefixes: MaxPrefixes { count: 10, restart_after: bit(6).then_some(Duration::from_secs(100)) },
            ..Terms::default()
        },
    }
}

/// An OPEN that is mostly good for the session of that state.
fn open(how: u8, other: u8) -> Open {
    let bit = |bit: u8| how & 1 << bit != 0;
    let forwarding = bit(5);
    let families = [vec![V4, V6], vec![V6], vec![V4], vec![]];
    let offer = |family| LongLived { family, forwarding, stale_time: Duration::from_secs(u64::from(other)) };
    Open {
        as_number: if bit(0) { 64513 } else { 64512 },
        hold_time: Duration::from_secs([90, 3, 0, 1][usize::from(other % 4)]),
        router_id: THEM[usize::from(other >> 2 & 3)],
        capabilities: Capabilities {
            families: families[usize::from(other >> 4 & 3)].clone(),
            route_refresh: true,
            enhanced_refresh: bit(1),
            four_octet_as: bit(2),
            extended_message: bit(2),
            graceful_restart: bit(3).then(|| GracefulRestart {
                restarting: bit(4),
                notification: bit(6),
                restart_time: Duration::from_secs(u64::from(other >> 6) * 10),
                families: vec![(V4, forwarding), (V6, true)],
            }),
            long_lived: if bit(7) { vec![offer(V4), offer(V6)] } else { Vec::new() },
            ..Capabilities::default()
        },
    }
}

fn family(how: u8) -> IpVersion {
    if how & 1 == 0 { V6 } else { V4 }
}

/// What a peer that has agreed on everything writes.
fn bytes_of(message: &Message) -> Vec<u8> {
    let all = Open { as_number: 64512, ..open(0b0000_0100, 0) };
    let mut bytes = Vec::new();
    Codec::agreed(&all, &all, true).encode(message, &mut bytes);
    bytes
}

/// A session and what is known to be true of it.
struct Model {
    session: Session,
    now: Instant,
    accepted: u64,
    /// Asked for and not answered.
    pending: BTreeSet<ConnectionId>,
    /// TCP is up.
    open: Vec<ConnectionId>,
    up: Option<ConnectionId>,
    stale: BTreeSet<IpVersion>,
    /// What has been seen: actions, and states, as bits.
    seen: u32,
    ups: u32,
}

impl Model {
    fn new(how: u8, seed: u8) -> Model {
        let key = PeerKey { address: THEM[0].into(), port: 179 };
        let identity = Identity {
            as_number: 64512,
            router_id: US,
            listen_port: 179,
            listen_addresses: Vec::new(),
            cluster_id: None,
            addresses: vec![US.into()],
        };
        Model {
            session: Session::new(key, identity, state(how), u64::from(seed), seed & 1 == 1),
            now: Instant::now(),
            accepted: 0,
            pending: BTreeSet::new(),
            open: Vec::new(),
            up: None,
            stale: BTreeSet::new(),
            seen: 0,
            ups: 0,
        }
    }

    fn event(&mut self, event: Event<'_>) {
        let is_timer = matches!(event, Event::Timer);
        let mut out = Vec::new();
        self.session.handle(event, self.now, &mut out);
        for action in out {
            self.act(action);
        }
        assert!(self.pending.len() + self.open.len() <= CONNECTIONS_MAX, "too many connections");
        assert!(!is_timer || self.session.deadline().is_none_or(|next| next > self.now), "a timer that does not move");
        let state = self.session.state();
        assert_eq!(self.session.established().map(|(id, _)| id), self.up);
        assert_eq!(state == State::Established, self.up.is_some());
        let status = self.session.status();
        assert_eq!(status.problem.is_none(), self.up.is_some());
        assert!(status.stale.iter().all(|stale| stale.until > self.now && self.stale.contains(&stale.family)));
        self.seen |= 1 << (state as u32);
    }

    fn act(&mut self, action: Action) {
        let kind = match action {
            Action::Connect { connection } => {
                assert!(self.pending.insert(connection), "a number twice");
                0
            }
            Action::Close { connection } => {
                let is_pending = self.pending.remove(&connection);
                let place = self.open.iter().position(|open| *open == connection);
                assert!(is_pending || place.is_some(), "a connection that is not there is closed");
                place.map(|place| self.open.remove(place));
                1
            }
            Action::Send { connection, bytes } => {
                assert!(self.open.contains(&connection), "sent on a connection that is not there");
                let all = Open { as_number: 64512, ..open(0b0000_0100, 0) };
                let codec = Codec::agreed(&all, &all, true);
                let length = codec.frame(&bytes).expect("what is sent is a message");
                assert_eq!(length, Some(bytes.len()), "what is sent is one message");
                codec.decode(&bytes).expect("what is sent can be read");
                2
            }
            Action::Up(negotiated) => {
                assert!(self.open.contains(&negotiated.connection));
                assert_eq!(self.up.replace(negotiated.connection), None, "up twice");
                assert!(!negotiated.families.is_empty());
                assert!(negotiated.stale.iter().all(|family| negotiated.families.contains(family)));
                assert_eq!(negotiated.stale.iter().copied().collect::<BTreeSet<_>>(), self.stale);
                self.ups += 1;
                3
            }
            Action::Down { keep, end } => {
                assert!(self.up.take().is_some(), "down without up");
                assert!(!end.text().is_empty());
                let kind = if keep.is_empty() { 4 } else { 5 };
                self.stale = keep.into_iter().collect();
                kind
            }
            Action::DropStale(family) => {
                assert!(self.stale.remove(&family), "nothing of it is stale");
                6
            }
            Action::LongLived(family) => {
                assert!(self.stale.contains(&family) && self.up.is_none());
                7
            }
            Action::MarkStale(family) => {
                assert!(self.up.is_some());
                self.stale.insert(family);
                8
            }
            Action::EndOfRib(_) => 9,
            Action::Update(_) => 10,
            Action::Refresh(_) => 11,
        };
        if (9..=11).contains(&kind) {
            assert!(self.up.is_some());
        }
        self.seen |= 1 << (8 + kind);
    }

    /// All timers up to then.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        // No timer is shorter than half a second.
        let mut most = 100 + time.as_millis() / 100;
        while let Some(deadline) = self.session.deadline().filter(|deadline| *deadline <= end) {
            self.now = self.now.max(deadline);
            self.event(Event::Timer);
            most = most.checked_sub(1).expect("timers that do not end");
        }
        self.now = end;
    }

    /// One of those that are there.
    fn pick(&self, how: u8) -> Option<ConnectionId> {
        (!self.open.is_empty()).then(|| self.open[usize::from(how) % self.open.len()])
    }

    fn receive(&mut self, how: u8, bytes: &[u8]) {
        if let Some(connection) = self.pick(how) {
            self.event(Event::Received { connection, bytes });
        }
    }

    fn connected(&mut self) {
        let (local, remote) = (SocketAddr::from((US, 4000)), SocketAddr::from((THEM[0], 179)));
        if let Some(connection) = self.pending.pop_first() {
            self.open.push(connection);
            self.event(Event::Connected { connection, local, remote });
        }
    }

    fn accepted(&mut self) {
        let (local, remote) = (SocketAddr::from((US, 179)), SocketAddr::from((THEM[0], 4000)));
        let connection = ConnectionId::accepted(self.accepted);
        self.accepted += 1;
        self.open.push(connection);
        self.event(Event::Accepted { connection, local, remote });
    }

    /// One thing that happens. Gives what is left of the input.
    fn step<'a>(&mut self, input: &'a [u8]) -> &'a [u8] {
        let [what, how, other, rest @ ..] = input else { return &[] };
        let (how, other) = (*how, *other);
        match what % 20 {
            0 => {
                if let Some(deadline) = self.session.deadline() {
                    self.now = self.now.max(deadline);
                }
                self.event(Event::Timer);
            }
            1 => self.run(Duration::from_secs(u64::from(how))),
            // A timer that is early does nothing, however often it is said.
            2 => self.event(Event::Timer),
            3 => self.event(Event::Start),
            4 => self.event(Event::Stop { notification: Notification::with(6, how % 10, vec![other; 3]) }),
            5 => self.connected(),
            6 => {
                if let Some(connection) = self.pending.pop_first() {
                    self.event(Event::ConnectFailed { connection, reason: "refused".to_string() });
                }
            }
            7 => self.accepted(),
            8 => {
                let (bytes, rest) = rest.split_at(usize::from(how).min(rest.len()));
                self.receive(other, bytes);
                return rest;
            }
            9 | 10 => self.receive(what / 20, &bytes_of(&Message::Open(open(how, other)))),
            11 => self.receive(how, &bytes_of(&Message::Keepalive)),
            12 => {
                let end_of_rib = Update { end_of_rib: Some(family(other)), ..Update::default() };
                self.receive(how, &bytes_of(&Message::Update(end_of_rib)));
            }
            13 => self.receive(how, &bytes_of(&Message::Notification(Notification::new(other >> 4, other & 15)))),
            14 => {
                let subtype = match other >> 1 & 3 {
                    0 => RefreshSubtype::Request,
                    1 => RefreshSubtype::Begin,
                    _ => RefreshSubtype::End,
                };
                let refresh = Refresh { family: Some(family(other)), subtype };
                self.receive(how, &bytes_of(&Message::Refresh(refresh)));
            }
            // Several in one read, cut where it may be.
            15 => {
                let messages = [Message::Open(open(how, other)), Message::Keepalive, Message::Keepalive];
                let bytes: Vec<u8> = messages.iter().flat_map(bytes_of).collect();
                for piece in bytes.chunks(1 + usize::from(what / 20) * 7) {
                    self.receive(0, piece);
                }
            }
            16 => {
                if let Some(connection) = self.pick(how) {
                    self.open.retain(|open| *open != connection);
                    self.event(Event::Closed { connection, reason: "reset".to_string() });
                }
            }
            17 => {
                // Also for one that is not there.
                let connection = self.pick(how).unwrap_or(ConnectionId(u64::from(other)));
                match other & 1 {
                    0 => self.event(Event::OutputBlocked { connection }),
                    _ => self.event(Event::OutputProgress { connection }),
                }
            }
            18 => self.event(Event::Update(Box::new(state(how)))),
            _ => match how % 7 {
                0 => self.event(Event::Bfd(BfdFinding::Failed)),
                1 if other & 1 == 0 => self.event(Event::Bfd(BfdFinding::Down)),
                1 => self.event(Event::Bfd(BfdFinding::Up)),
                2 => self.event(Event::MaxPrefixes { family: family(other) }),
                3 => self.event(Event::ResetBy(Notification::new(other >> 4, other & 15))),
                4 => self.event(Event::RequestRefresh(family(other))),
                5 => self.event(Event::RefreshBegins(family(other))),
                _ => self.event(Event::RefreshEnds(family(other))),
            },
        }
        rest
    }
}

fn run(input: &[u8]) -> Seen {
    let [how, seed, rest @ ..] = input else { return Seen::refused(0) };
    let mut model = Model::new(*how, *seed);
    let mut rest = rest;
    while !rest.is_empty() {
        rest = model.step(rest);
    }
    let shape = (model.seen, model.ups.min(3), model.session.state(), model.open.len(), model.stale.len());

    // Nobody is there any longer: all that is open ends, and what was asked for is given up.
    let asked: Vec<ConnectionId> = model.pending.iter().copied().collect();
    model.run(LONG);
    assert!(asked.iter().all(|connection| !model.pending.contains(connection)), "a connection that nobody gives up");
    let is_silent = model.session.status().hold_time.is_some_and(|time| time.is_zero()) && model.up.is_some();
    assert!(model.open.is_empty() || is_silent, "a connection that stays without a word");
    assert!(model.stale.is_empty() || is_silent, "stale routes that stay");
    // And it goes on.
    model.event(Event::Start);
    model.run(Duration::from_secs(10));
    let is_trying = !model.pending.is_empty() || model.session.peer().transport.passive;
    assert!(is_trying || is_silent, "nothing is tried: {:?}", model.session.status().problem);
    match shape.1 {
        0 => Seen::refused(shape),
        _ => Seen::accepted(shape),
    }
}

/// Both sides in one system, both families, graceful restart and long-lived; the peer's identifier is the higher one.
fn seeds() -> Vec<Vec<u8>> {
    const ALL: u8 = 0b0111_1100;
    /// Graceful restart, N, F, long-lived, both families.
    const OPEN: [u8; 2] = [0b1110_1110, 0b1100_0000];
    let [how, other] = OPEN;
    let up = |rest: &[u8]| [&[ALL, 2, 3, 0, 0, 7, 0, 0, 15, how, other], rest].concat();
    let (closed, accepted, again) = ([16, 0, 0], [7, 0, 0], [15, how, other]);
    let end_of_rib = [12, 0, 0, 12, 0, 1];
    vec![
        // Our connection, message by message.
        vec![ALL, 2, 3, 0, 0, 0, 0, 0, 5, 0, 0, 9, how, other, 11, 0, 0, 12, 0, 0, 12, 0, 1, 1, 200, 0],
        // Refused, then nobody, then the error of the peer.
        vec![ALL, 3, 3, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 1, 9, 0, 0, 0, 0, 5, 0, 0, 13, 0, 0x22, 1, 60, 0],
        up(&end_of_rib),
        // A loss, the end of the restart time, the long-lived time.
        up(&[&closed[..], &[0, 0, 0, 0, 0, 0, 1, 100, 0, 1, 255, 0]].concat()),
        // Back in time, and lost again before the end of RIB.
        up(&[&closed[..], &accepted, &again, &end_of_rib[..3], &closed, &accepted, &again, &end_of_rib].concat()),
        // Two connections at once, both OPENs, both KEEPALIVEs.
        vec![ALL, 4, 3, 0, 0, 0, 0, 0, 5, 0, 0, 7, 0, 0, 9, how, other, 29, how, other, 11, 0, 0, 11, 1, 0],
        // Another connection of a peer that is up.
        up(&[&[1, 20, 0][..], &accepted, &[29, how | 16, other, 11, 1, 0]].concat()),
        // Refreshes, too many prefixes, a change of the transport, the operator.
        up(&[14, 0, 0, 12, 0, 0, 14, 0, 2, 14, 0, 4, 19, 4, 0, 19, 5, 0, 19, 6, 0, 19, 2, 0, 1, 120, 0]),
        up(&[18, ALL, 0, 18, 0, 0, 1, 10, 0, 4, 2, 2, 3, 0, 0, 19, 0, 0]),
        // A socket that takes nothing, while KEEPALIVEs come.
        up(&[&[17, 0, 0][..], &[1, 80, 0, 11, 0, 0].repeat(7)].concat()),
        // Bytes that are none.
        up(&[8, 3, 0, 255, 255, 255, 8, 2, 0, 0, 0]),
        // With another system, passive, without anything.
        vec![3, 5, 3, 0, 0, 7, 0, 0, 15, 1, 0x10, 1, 200, 0],
    ]
}
