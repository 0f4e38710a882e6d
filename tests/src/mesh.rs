//! Speakers joined by a network that exists only here: connections, bytes and time are values.
//!
//! ```text
//!   speaker ─Action─▶ queue, by time ─▶ speaker       each direction of a connection keeps its order; delays are drawn
//! ```
//!
//! Every next hop can be reached unless `unreachable` has it. The same seed gives the same run.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use config::net::{Cidr, IpVersion};
use control::bgp::session::{ConnectionId, Event as SessionEvent};
use control::bgp::speaker::{Action, Event, Note, Speaker};
use control::bgp::speaker_state::{
    BGP_PORT, Identity, LocalRoute, LocalRouteKind, PeerKey, PeerKind, PeerState, Restart, SpeakerState, Terms,
    Transport,
};

use control::rib::{Group, GroupId};

use crate::random::Random;

/// Bytes in flight from one peer at a time, as a socket's buffer.
const PULLED: usize = 64 << 10;

/// One router.
pub struct Router {
    pub speaker: Speaker,
    pub address: IpAddr,
    /// Where packets would go.
    pub forwarding: BTreeMap<Cidr, Group>,
    groups: BTreeMap<GroupId, Group>,
    links: BTreeMap<(PeerKey, ConnectionId), Far>,
    pub notes: Vec<Note>,
}

/// The other end of a connection.
#[derive(Clone, Copy)]
struct Far {
    router: usize,
    peer: PeerKey,
    connection: ConnectionId,
    /// When the last bytes arrive there.
    busy_until: Instant,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Due {
    at: Instant,
    serial: u64,
    what: What,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Connect {
        from: usize,
        peer: PeerKey,
        connection: ConnectionId,
        local: Option<IpAddr>,
    },
    Bytes {
        to: usize,
        peer: PeerKey,
        connection: ConnectionId,
        bytes: Vec<u8>,
    },
    Closed {
        to: usize,
        peer: PeerKey,
        connection: ConnectionId,
    },
    /// Where these next hops are.
    Answer {
        router: usize,
        next_hops: BTreeSet<IpAddr>,
    },
}

pub struct Mesh {
    pub routers: Vec<Router>,
    pub now: Instant,
    random: Random,
    queue: BinaryHeap<Reverse<Due>>,
    serial: u64,
    pub unreachable: BTreeSet<IpAddr>,
    /// Routers that neither send nor hear.
    pub cut: BTreeSet<usize>,
    deadlines: BTreeSet<(Instant, usize)>,
    deadline_of: Vec<Option<Instant>>,
    /// The longest delay of a message.
    pub delay: Duration,
    /// How long it takes until a router knows where a next hop is.
    pub answer: Duration,
    pub handled: u64,
}

impl Mesh {
    pub fn new(seed: u64, routers: usize) -> Mesh {
        let random = Random::new(seed);
        let routers = (0..routers).map(|number| Router {
            speaker: Speaker::new(seed.wrapping_mul(31).wrapping_add(number as u64), false),
            address: address(number),
            forwarding: BTreeMap::new(),
            groups: BTreeMap::new(),
            links: BTreeMap::new(),
            notes: Vec::new(),
        });
        let routers: Vec<Router> = routers.collect();
        Mesh {
            deadline_of: vec![None; routers.len()],
            routers,
            now: Instant::now(),
            random,
            queue: BinaryHeap::new(),
            serial: 0,
            unreachable: BTreeSet::new(),
            cut: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            delay: Duration::from_millis(20),
            answer: Duration::ZERO,
            handled: 0,
        }
    }

    /// Gives a router its desired state.
    pub fn configure(&mut self, router: usize, state: SpeakerState) {
        self.with(router, |speaker, now, out| speaker.handle(Event::Desired(Arc::new(state)), now, out));
    }

    /// Does something to a speaker, and follows.
    pub fn with<T>(&mut self, router: usize, act: impl FnOnce(&mut Speaker, Instant, &mut Vec<Action>) -> T) -> T {
        let mut actions = Vec::new();
        let result = act(&mut self.routers[router].speaker, self.now, &mut actions);
        self.follow(router, actions);
        result
    }

    /// Runs until nothing happens before `until`, or for so long.
    pub fn run(&mut self, duration: Duration) {
        let until = self.now + duration;
        while self.step(until) {}
        self.now = until;
    }

    fn step(&mut self, until: Instant) -> bool {
        let queued = self.queue.peek().map(|due| due.0.at);
        let timer = self.deadlines.first().copied();
        let is_timer = match (queued, timer) {
            (None, None) => return false,
            (Some(queued), Some((deadline, _))) => deadline < queued,
            (queued, _) => queued.is_none(),
        };
        self.handled += 1;
        if is_timer && let Some((deadline, router)) = timer {
            if deadline > until {
                return false;
            }
            self.now = self.now.max(deadline);
            self.with(router, |speaker, now, out| speaker.handle(Event::Timer, now, out));
            return true;
        }
        if queued.is_some_and(|at| at > until) {
            return false;
        }
        let Some(Reverse(due)) = self.queue.pop() else { return false };
        self.now = self.now.max(due.at);
        match due.what {
            What::Connect { from, peer, connection, local } => self.connect(from, peer, connection, local),
            What::Bytes { to, peer, connection, bytes } => {
                if !self.cut.contains(&to) && self.routers[to].links.contains_key(&(peer, connection)) {
                    self.session(to, peer, SessionEvent::Received { connection, bytes: &bytes });
                }
            }
            What::Answer { router, next_hops } => {
                let metric = |hop: &IpAddr| (!self.unreachable.contains(hop)).then_some(0);
                let metrics: BTreeMap<IpAddr, Option<u32>> = next_hops.iter().map(|hop| (*hop, metric(hop))).collect();
                self.with(router, |speaker, now, out| speaker.handle(Event::NextHops(&metrics), now, out));
            }
            What::Closed { to, peer, connection } => {
                if self.routers[to].links.remove(&(peer, connection)).is_some() {
                    self.session(to, peer, SessionEvent::Closed { connection, reason: "closed".to_owned() });
                }
            }
        }
        true
    }

    /// The process of a router is gone, and a new one that says so takes its place.
    pub fn restart(&mut self, router: usize, seed: u64, state: SpeakerState) {
        self.break_connections(router);
        let at = &mut self.routers[router];
        at.speaker = Speaker::new(seed, true);
        at.links.clear();
        at.groups.clear();
        at.forwarding.clear();
        self.configure(router, state);
    }

    /// All connections of a router break, seen by the other sides. Returns how many.
    pub fn break_connections(&mut self, router: usize) -> usize {
        let links: Vec<((PeerKey, ConnectionId), Far)> =
            self.routers[router].links.iter().map(|(key, far)| (*key, *far)).collect();
        for ((peer, connection), far) in &links {
            self.push(self.now, What::Closed { to: far.router, peer: far.peer, connection: far.connection });
            self.push(self.now, What::Closed { to: router, peer: *peer, connection: *connection });
        }
        links.len()
    }

    fn session(&mut self, router: usize, peer: PeerKey, event: SessionEvent<'_>) {
        self.with(router, |speaker, now, out| speaker.handle(Event::Session(peer, event), now, out));
    }

    fn connect(&mut self, from: usize, peer: PeerKey, connection: ConnectionId, local: Option<IpAddr>) {
        let source = local.unwrap_or(self.routers[from].address);
        let far = self.routers.iter().position(|router| router.address == peer.address);
        let far = far.filter(|far| !self.cut.contains(far) && !self.cut.contains(&from));
        let local = SocketAddr::new(source, 40_000);
        let remote = SocketAddr::new(peer.address, peer.port);
        let mut actions = Vec::new();
        let accepted = far.and_then(|far| {
            let accepted = self.routers[far].speaker.accept(remote, local, self.now, &mut actions);
            accepted.map(|(far_peer, far_connection)| (far, far_peer, far_connection))
        });
        let Some((far, far_peer, far_connection)) = accepted else {
            let reason = "connection refused".to_owned();
            return self.session(from, peer, SessionEvent::ConnectFailed { connection, reason });
        };
        let there = Far { router: far, peer: far_peer, connection: far_connection, busy_until: self.now };
        self.routers[from].links.insert((peer, connection), there);
        let back = Far { router: from, peer, connection, busy_until: self.now };
        self.routers[far].links.insert((far_peer, far_connection), back);
        self.follow(far, actions);
        self.session(from, peer, SessionEvent::Connected { connection, local, remote });
    }

    fn follow(&mut self, router: usize, mut actions: Vec<Action>) {
        loop {
            for action in actions.drain(..) {
                self.carry_out(router, action);
            }
            let at = &mut self.routers[router];
            at.speaker.settle();
            let changes = at.speaker.take_forwarding();
            at.groups.extend(changes.groups);
            for (prefix, group) in changes.routes {
                match group.and_then(|group| at.groups.get(&group)) {
                    Some(group) => _ = at.forwarding.insert(prefix, group.clone()),
                    None => _ = at.forwarding.remove(&prefix),
                }
            }
            for group in changes.retired {
                at.groups.remove(&group);
            }
            if let Some(next_hops) = at.speaker.take_next_hops() {
                self.push(self.now + self.answer, What::Answer { router, next_hops });
            }
            if actions.is_empty() {
                break;
            }
        }
        let output = self.routers[router].speaker.with_output();
        for peer in output {
            loop {
                let mut bytes = Vec::new();
                let connection = self.routers[router].speaker.pull(&peer, PULLED, self.now, &mut bytes);
                let Some(connection) = connection.filter(|_| !bytes.is_empty()) else { break };
                self.send(router, peer, connection, bytes);
            }
        }
        let deadline = self.routers[router].speaker.deadline();
        let old = std::mem::replace(&mut self.deadline_of[router], deadline);
        if old != deadline {
            if let Some(old) = old {
                self.deadlines.remove(&(old, router));
            }
            self.deadlines.extend(deadline.map(|deadline| (deadline, router)));
        }
    }

    fn carry_out(&mut self, router: usize, action: Action) {
        match action {
            Action::Connect { peer, connection, transport } => {
                let what = What::Connect { from: router, peer, connection, local: transport.local_address };
                let at = self.now + self.latency();
                self.push(at, what);
            }
            Action::Close { peer, connection } => {
                if let Some(far) = self.routers[router].links.remove(&(peer, connection)) {
                    let what = What::Closed { to: far.router, peer: far.peer, connection: far.connection };
                    let at = far.busy_until.max(self.now) + self.latency();
                    self.push(at, what);
                }
            }
            Action::Send { peer, connection, bytes } => self.send(router, peer, connection, bytes),
            Action::ConnectStation(_) | Action::CloseStation => {}
            Action::Note(note) => self.routers[router].notes.push(note),
        }
    }

    fn send(&mut self, router: usize, peer: PeerKey, connection: ConnectionId, bytes: Vec<u8>) {
        let latency = self.latency();
        let now = self.now;
        let Some(far) = self.routers[router].links.get_mut(&(peer, connection)) else { return };
        far.busy_until = far.busy_until.max(now) + latency;
        let far = *far;
        if !self.cut.contains(&router) {
            let what = What::Bytes { to: far.router, peer: far.peer, connection: far.connection, bytes };
            self.push(far.busy_until, what);
        }
    }

    fn latency(&mut self) -> Duration {
        let longest = self.delay.as_micros().max(1) as usize;
        Duration::from_micros(1 + self.random.below(longest) as u64)
    }

    fn push(&mut self, at: Instant, what: What) {
        self.serial += 1;
        self.queue.push(Reverse(Due { at, serial: self.serial, what }));
    }

    /// The table of a router as text: prefix, next hops, path; sorted.
    pub fn table(&self, router: usize) -> Vec<String> {
        let rib = self.routers[router].speaker.rib();
        let mut lines: Vec<String> = rib
            .iter()
            .filter_map(|(_, prefix, entry)| {
                let best = entry.best()?;
                let path: Vec<String> = best.attributes.as_path.numbers().map(|number| number.to_string()).collect();
                let (hop, pref) = (best.attributes.next_hop.address, best.attributes.local_pref.unwrap_or(0));
                Some(format!("{prefix} via {hop} path [{}] pref {pref} paths {}", path.join(" "), entry.paths.len()))
            })
            .collect();
        lines.sort();
        lines
    }
}

/// 10.255.x.y.
pub fn address(router: usize) -> IpAddr {
    Ipv4Addr::from(0x0aff_0000 + 1 + router as u32).into()
}

/// A block of a router: 10.x.y.0/26.
pub fn block(router: usize) -> Cidr {
    Cidr::new(Ipv4Addr::from(0x0a00_0000 + ((router as u32) << 6)).into(), 26).expect("a /26")
}

/// Rules that take and tell everything.
pub fn session(router: usize, peer: usize, systems: (u32, u32)) -> (PeerKey, PeerState) {
    let key = PeerKey { address: address(peer), port: BGP_PORT };
    let transport = Transport {
        local_address: Some(address(router)),
        local_as: systems.0,
        remote_as: systems.1,
        passive: false,
        password: None,
        ttl_security: None,
        hold_time: Duration::from_secs(90),
        keepalive_time: None,
        families: vec![IpVersion::V4],
        add_path: false,
        restart: Restart { restart_time: Duration::from_secs(120), long_lived_time: Duration::ZERO },
        role: None,
        bfd: None,
    };
    let state = PeerState {
        name: format!("Mesh_{}", key.address.to_string().replace('.', "_")),
        origin: "node-to-node mesh".to_owned(),
        kind: PeerKind::NodeMesh,
        transport,
        terms: Terms::default(),
    };
    (key, state)
}

/// Who a router is, and a block of its own.
pub fn state(router: usize, as_number: u32, peers: impl IntoIterator<Item = (PeerKey, PeerState)>) -> SpeakerState {
    let IpAddr::V4(router_id) = address(router) else { unreachable!("addresses are IPv4") };
    let route = LocalRoute { kind: LocalRouteKind::Block, metric: 1024, interface: None };
    SpeakerState {
        identity: Some(Identity {
            as_number,
            router_id,
            listen_port: BGP_PORT,
            listen_addresses: Vec::new(),
            cluster_id: None,
            addresses: vec![address(router)],
        }),
        peers: peers.into_iter().collect(),
        routes: BTreeMap::from([(block(router), route)]),
        ..SpeakerState::default()
    }
}
