//! All sessions: which are wanted, whose a received packet is, which is due next.
//!
//! ```text
//!   wanted ──compare──▶ new: begins          by our discriminator ──▶ session
//!                       as it was: not touched      or, when it is zero, by port, addresses and interface
//!                       other intervals: told by Poll
//!                       gone: AdminDown, and heard out for a detection time
//! ```
//!
//! Invariants: discriminators are drawn by chance and never used twice at a time; no packet makes a session; a session that
//! is not wanted any more tells nothing to control; every packet that comes in is of a session or counted with its reason.
//! Left out: sockets (`thread.rs` carries the actions out).
//! Sources: RFC 5880 §6.3, §6.8.1, §6.8.16; RFC 5881 §3, §5; RFC 5883 §3, §5.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::packet::{Diagnostic, Packet, Refused, State};
use super::session::{Action, Event, Parameters, Remote, Session};
use crate::bgp::speaker_state::BfdState;

/// More are not begun.
pub const SESSIONS_MAX: usize = 4096;
/// A session that is not wanted any more is heard out for a detection time, and no longer than this.
pub const LEAVING_MAX: Duration = Duration::from_secs(1);
/// RFC 5881 §5: what no router has forwarded.
const TTL_UNTOUCHED: u8 = 255;

/// Which path is watched.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BfdKey {
    pub peer: IpAddr,
    /// Packets are from this address; none: the kernel chooses.
    pub local: Option<IpAddr>,
    /// Packets leave and arrive by this interface; needed for link-local addresses. Not looked at with multihop.
    pub interface: Option<String>,
}

impl fmt::Display for BfdKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.peer)?;
        if let Some(interface) = &self.interface {
            write!(f, "%{interface}")?;
        }
        self.local.map_or(Ok(()), |local| write!(f, " from {local}"))
    }
}

/// A session went up, or was up and is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub key: BfdKey,
    pub up: bool,
    pub diagnostic: Diagnostic,
    /// The path is to be taken as failed. Not so when the neighbour has shut BFD down on purpose, or when another kind of
    /// session takes its place: then routes stay as if there were no BFD (RFC 5882 §4.2).
    pub is_failure: bool,
    pub at: Instant,
}

/// A wanted session as it is.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionStatus {
    pub key: BfdKey,
    pub wanted: BfdState,
    /// Why nothing is sent, if so.
    pub problem: Option<String>,
    pub state: State,
    pub diagnostic: Diagnostic,
    pub discriminator: u32,
    pub remote: Remote,
    /// Between our packets.
    pub interval: Duration,
    pub detection_time: Option<Duration>,
    /// For how long it has been in this state.
    pub state_age: Duration,
    pub counters: SessionCounters,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SessionCounters {
    pub received: u64,
    pub sent: u64,
    pub not_sent: u64,
    pub ups: u64,
    /// Of these, those that were not asked for by either side.
    pub downs: u64,
    pub failures: u64,
}

/// What is to be done, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    Send {
        discriminator: u32,
        packet: Packet,
    },
    Change(Change),
    /// Its socket is not needed any more.
    Gone {
        discriminator: u32,
    },
}

/// A payload with what the kernel says about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival<'a> {
    pub from: IpAddr,
    pub to: IpAddr,
    /// The kernel's number.
    pub interface: u32,
    pub ttl: u8,
    /// By the port it came to.
    pub multihop: bool,
    pub payload: &'a [u8],
}

pub struct Sessions {
    by_discriminator: BTreeMap<u32, Entry>,
    by_key: BTreeMap<BfdKey, u32>,
    /// With the port: multihop or not.
    by_neighbour: BTreeMap<(IpAddr, bool), Vec<u32>>,
    deadlines: BTreeSet<(Instant, u32)>,
    /// Wanted, and why there is no session.
    refused_keys: BTreeMap<BfdKey, (BfdState, String)>,
    refused: BTreeMap<Refused, u64>,
    random: RandomState,
    drawn: u64,
}

struct Entry {
    key: BfdKey,
    wanted: BfdState,
    session: Session,
    /// As it stands in `deadlines`.
    deadline: Option<Instant>,
    leaving_until: Option<Instant>,
    /// The number of the key's interface, as far as known.
    interface: Option<u32>,
    problem: Option<String>,
    state_since: Instant,
    counters: SessionCounters,
}

impl Entry {
    /// RFC 5881 §3, RFC 5883 §3: whether a packet with these addresses is of this session.
    fn is_path_of(&self, arrival: &Arrival) -> bool {
        let is_interface =
            self.key.interface.is_none() || self.wanted.multihop || self.interface == Some(arrival.interface);
        let is_local = self.key.local.is_none_or(|local| local == arrival.to);
        self.key.peer == arrival.from && self.wanted.multihop == arrival.multihop && is_interface && is_local
    }

    fn status(&self, now: Instant) -> SessionStatus {
        SessionStatus {
            key: self.key.clone(),
            wanted: self.wanted,
            problem: self.problem.clone(),
            state: self.session.state(),
            diagnostic: self.session.diagnostic(),
            discriminator: self.session.discriminator(),
            remote: *self.session.remote(),
            interval: self.session.interval(),
            detection_time: self.session.detection_time(),
            state_age: now.saturating_duration_since(self.state_since),
            counters: self.counters,
        }
    }
}

impl Default for Sessions {
    fn default() -> Sessions {
        Sessions {
            by_discriminator: BTreeMap::new(),
            by_key: BTreeMap::new(),
            by_neighbour: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            refused_keys: BTreeMap::new(),
            refused: BTreeMap::new(),
            random: RandomState::new(),
            drawn: 0,
        }
    }
}

impl Sessions {
    /// Makes the sessions those that are wanted. What is wanted as before is not touched.
    pub fn want(&mut self, wanted: &BTreeMap<BfdKey, BfdState>, now: Instant, out: &mut Vec<Output>) {
        self.refused_keys.clear();
        let gone: Vec<u32> = self
            .by_key
            .iter()
            .filter(|(key, _)| !wanted.contains_key(key))
            .map(|(_, discriminator)| *discriminator)
            .collect();
        for discriminator in gone {
            self.leave(discriminator, now, out);
        }
        for (key, state) in wanted {
            let parameters = match check(key, state) {
                Ok(parameters) => parameters,
                Err(problem) => {
                    if let Some(discriminator) = self.by_key.get(key).copied() {
                        self.replaced(discriminator, now, out);
                    }
                    self.refused_keys.insert(key.clone(), (*state, problem));
                    continue;
                }
            };
            let known = self.by_key.get(key).copied();
            let entry = known.and_then(|discriminator| self.by_discriminator.get_mut(&discriminator));
            match (known, entry) {
                (Some(_), Some(entry)) if entry.wanted == *state => {}
                (Some(discriminator), Some(entry)) if entry.wanted.multihop == state.multihop => {
                    entry.wanted = *state;
                    self.handle(discriminator, Event::Configure(parameters), now, out);
                }
                (Some(discriminator), Some(_)) => {
                    self.replaced(discriminator, now, out);
                    self.begin(key, state, parameters, now, out);
                }
                _ => self.begin(key, state, parameters, now, out),
            }
        }
    }

    /// A payload came in.
    pub fn receive(&mut self, arrival: &Arrival, now: Instant, out: &mut Vec<Output>) {
        match self.select(arrival) {
            Ok((discriminator, packet)) => {
                if let Some(entry) = self.by_discriminator.get_mut(&discriminator) {
                    entry.counters.received += 1;
                }
                self.handle(discriminator, Event::Received(packet), now, out);
            }
            Err(reason) => *self.refused.entry(reason).or_default() += 1,
        }
    }

    /// Lets the sessions act that are due.
    pub fn expire(&mut self, now: Instant, out: &mut Vec<Output>) {
        // Each session once: one that is due again at once has to wait for what came in meanwhile.
        let due: Vec<u32> =
            self.deadlines.iter().take_while(|(at, _)| *at <= now).map(|(_, discriminator)| *discriminator).collect();
        for discriminator in due {
            self.handle(discriminator, Event::Timer, now, out);
        }
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Nothing is left to say to anybody.
    pub fn is_empty(&self) -> bool {
        self.by_discriminator.is_empty()
    }

    /// Ports and families that are listened on: of every session, the ones that leave included.
    pub fn listens(&self) -> BTreeSet<(bool, bool)> {
        self.by_discriminator.values().map(|entry| (entry.key.peer.is_ipv6(), entry.wanted.multihop)).collect()
    }

    pub fn key(&self, discriminator: u32) -> Option<(&BfdKey, &BfdState)> {
        self.by_discriminator.get(&discriminator).map(|entry| (&entry.key, &entry.wanted))
    }

    pub fn sent(&mut self, discriminator: u32) {
        if let Some(entry) = self.by_discriminator.get_mut(&discriminator) {
            entry.counters.sent += 1;
            entry.problem = None;
        }
    }

    pub fn not_sent(&mut self, discriminator: u32, problem: String) {
        if let Some(entry) = self.by_discriminator.get_mut(&discriminator) {
            entry.counters.not_sent += 1;
            entry.problem = Some(problem);
        }
    }

    /// The number that the interface of a session has now.
    pub fn interface_is(&mut self, discriminator: u32, interface: Option<u32>) {
        if let Some(entry) = self.by_discriminator.get_mut(&discriminator) {
            entry.interface = interface;
        }
    }

    /// What is wanted, and how it is, in the order of the keys.
    pub fn status(&self, now: Instant) -> Vec<SessionStatus> {
        let sessions = self.by_key.values().filter_map(|discriminator| self.by_discriminator.get(discriminator));
        let mut all: Vec<SessionStatus> = sessions.map(|entry| entry.status(now)).collect();
        all.extend(self.refused_keys.iter().map(|(key, (wanted, problem))| absent(key, wanted, problem)));
        all.sort_by(|a, b| a.key.cmp(&b.key));
        all
    }

    /// Packets that were dropped, by reason. Reasons that never occurred are not in it.
    pub fn refused(&self) -> &BTreeMap<Refused, u64> {
        &self.refused
    }

    /// Whose packet it is: RFC 5880 §6.8.6 with RFC 5881 §5 and RFC 5883 §3.
    fn select(&self, arrival: &Arrival) -> Result<(u32, Packet), Refused> {
        // Over several hops any TTL will do: BIRD sends 64, and nobody knows how many routers have taken from it.
        if !arrival.multihop && arrival.ttl != TTL_UNTOUCHED {
            return Err(Refused::Ttl);
        }
        let packet = Packet::decode(arrival.payload)?;
        let entry = match packet.your_discriminator {
            0 => self.by_addresses(arrival).ok_or(Refused::UnknownNeighbour)?,
            discriminator => self.by_discriminator.get(&discriminator).ok_or(Refused::UnknownDiscriminator)?,
        };
        // The discriminator alone selects the session. Without authentication nothing else tells who sent the packet, so it has
        // to come from where the session's packets come from.
        if !entry.is_path_of(arrival) {
            return Err(Refused::WrongPath);
        }
        Ok((entry.session.discriminator(), packet))
    }

    /// The session that says most about itself, of those that the packet may be of.
    fn by_addresses(&self, arrival: &Arrival) -> Option<&Entry> {
        let all = self.by_neighbour.get(&(arrival.from, arrival.multihop))?;
        let fitting = all.iter().filter_map(|discriminator| self.by_discriminator.get(discriminator));
        let wanted = fitting.filter(|entry| entry.is_path_of(arrival));
        wanted.max_by_key(|entry| {
            (entry.leaving_until.is_none(), entry.key.interface.is_some(), entry.key.local.is_some())
        })
    }

    fn begin(&mut self, key: &BfdKey, wanted: &BfdState, parameters: Parameters, now: Instant, out: &mut Vec<Output>) {
        if self.by_key.len() >= SESSIONS_MAX {
            let problem = format!("there are {SESSIONS_MAX} sessions, and no more are begun");
            self.refused_keys.insert(key.clone(), (*wanted, problem));
            return;
        }
        let discriminator = self.draw();
        let session = Session::new(discriminator, parameters, self.random.hash_one(self.drawn), now);
        let entry = Entry {
            key: key.clone(),
            wanted: *wanted,
            session,
            deadline: None,
            leaving_until: None,
            interface: None,
            problem: None,
            state_since: now,
            counters: SessionCounters::default(),
        };
        self.by_discriminator.insert(discriminator, entry);
        self.by_key.insert(key.clone(), discriminator);
        self.by_neighbour.entry((key.peer, wanted.multihop)).or_default().push(discriminator);
        self.handle(discriminator, Event::Timer, now, out);
    }

    /// RFC 5880 §6.8.1: unique, not zero, and not to be guessed.
    fn draw(&mut self) -> u32 {
        loop {
            self.drawn = self.drawn.wrapping_add(1);
            let drawn = self.random.hash_one(self.drawn) as u32;
            // Of four thousand million, at most some thousand are taken.
            if drawn != 0 && !self.by_discriminator.contains_key(&drawn) {
                return drawn;
            }
        }
    }

    /// As `leave`, where the key is still wanted: who was told that it is up learns that it is not.
    fn replaced(&mut self, discriminator: u32, now: Instant, out: &mut Vec<Output>) {
        let entry = self.by_discriminator.get(&discriminator);
        if let Some(entry) = entry.filter(|entry| entry.session.state() == State::Up) {
            let (key, diagnostic) = (entry.key.clone(), Diagnostic::AdministrativelyDown);
            out.push(Output::Change(Change { key, up: false, diagnostic, is_failure: false, at: now }));
        }
        self.leave(discriminator, now, out);
    }

    /// Says AdminDown, and goes on saying it until the other side is known to know, or has given up by itself.
    fn leave(&mut self, discriminator: u32, now: Instant, out: &mut Vec<Output>) {
        let Some(entry) = self.by_discriminator.get_mut(&discriminator) else { return };
        let patience = entry.session.detection_time_of_remote().min(LEAVING_MAX);
        entry.leaving_until = Some(now + patience);
        self.by_key.remove(&entry.key);
        self.handle(discriminator, Event::AdminDown, now, out);
        // Who wants others all the time does not get more sessions by that.
        if self.by_discriminator.len() > 2 * SESSIONS_MAX {
            self.forget(discriminator, out);
        }
    }

    fn handle(&mut self, discriminator: u32, event: Event, now: Instant, out: &mut Vec<Output>) {
        let Some(entry) = self.by_discriminator.get_mut(&discriminator) else { return };
        let state = entry.session.state();
        let mut actions = Vec::new();
        entry.session.handle(event, now, &mut actions);
        if entry.session.state() != state {
            entry.state_since = now;
        }
        for action in actions {
            match action {
                Action::Send(packet) => out.push(Output::Send { discriminator, packet }),
                Action::Changed(changed) if entry.leaving_until.is_none() => {
                    entry.counters.ups += u64::from(changed.up);
                    entry.counters.downs += u64::from(!changed.up);
                    entry.counters.failures += u64::from(changed.is_failure);
                    let (up, diagnostic, is_failure) = (changed.up, changed.diagnostic, changed.is_failure);
                    out.push(Output::Change(Change { key: entry.key.clone(), up, diagnostic, is_failure, at: now }));
                }
                Action::Changed(_) => {}
            }
        }
        let remote = entry.session.remote();
        let is_known = remote.discriminator == 0 || matches!(remote.state, State::Down | State::AdminDown);
        if entry.leaving_until.is_some_and(|until| until <= now || is_known) {
            return self.forget(discriminator, out);
        }
        let next = [entry.session.deadline(), entry.leaving_until].into_iter().flatten().min();
        if next != entry.deadline {
            if let Some(at) = entry.deadline {
                self.deadlines.remove(&(at, discriminator));
            }
            if let Some(at) = next {
                self.deadlines.insert((at, discriminator));
            }
            entry.deadline = next;
        }
    }

    fn forget(&mut self, discriminator: u32, out: &mut Vec<Output>) {
        let Some(entry) = self.by_discriminator.remove(&discriminator) else { return };
        if let Some(at) = entry.deadline {
            self.deadlines.remove(&(at, discriminator));
        }
        let neighbour = (entry.key.peer, entry.wanted.multihop);
        if let Some(all) = self.by_neighbour.get_mut(&neighbour) {
            all.retain(|other| *other != discriminator);
            if all.is_empty() {
                self.by_neighbour.remove(&neighbour);
            }
        }
        out.push(Output::Gone { discriminator });
    }
}

/// Whether there can be such a session.
fn check(key: &BfdKey, wanted: &BfdState) -> Result<Parameters, String> {
    let parameters = Parameters::of(wanted).map_err(|error| error.to_string())?;
    if key.local.is_some_and(|local| local.is_ipv6() != key.peer.is_ipv6()) {
        return Err("the local address is of another family than the neighbour's".to_string());
    }
    if key.peer.is_unspecified() || key.peer.is_multicast() {
        return Err(format!("{} is no address of a neighbour", key.peer));
    }
    let is_link_local = matches!(key.peer, IpAddr::V6(peer) if peer.is_unicast_link_local());
    if is_link_local && key.interface.is_none() {
        return Err("a link-local address needs an interface".to_string());
    }
    if is_link_local && wanted.multihop {
        return Err("a link-local address is never several hops away".to_string());
    }
    Ok(parameters)
}

fn absent(key: &BfdKey, wanted: &BfdState, problem: &str) -> SessionStatus {
    SessionStatus {
        key: key.clone(),
        wanted: *wanted,
        problem: Some(problem.to_string()),
        state: State::AdminDown,
        diagnostic: Diagnostic::None,
        discriminator: 0,
        remote: super::session::UNKNOWN,
        interval: Duration::ZERO,
        detection_time: None,
        state_age: Duration::ZERO,
        counters: SessionCounters::default(),
    }
}

#[cfg(test)]
mod tests;
