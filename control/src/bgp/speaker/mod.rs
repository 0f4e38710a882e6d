//! The speaker: owns sessions, paths and groups, and says who hears of what.
//!
//! ```text
//!   Event ─▶ session of the peer ─Action─▶ rib, groups ─ settle ─▶ forwarding changes
//!                     └──▶ sockets                       └─▶ pull: messages for a peer that takes some
//! ```
//!
//! It has no socket and no clock: `handle` takes what happened and gives what is to be done, `settle` lets those follow who look at
//! changed prefixes, `pull` gives the messages that a peer can be sent now, and `deadline` says when to come back.
//!
//! | file | what it does |
//! |---|---|
//! | `follow.rs` | from one desired state to the next, without disturbing what did not change |
//! | `orders.rs` | what an operator wants done |
//! | `receive.rs` | what is taken from a peer, and what is refused |
//! | `view.rs` | what is shown |
//! | `dump.rs` | the table for tools that read MRT |
//! | `memory.rs` | how much of it there is |
//! | `monitor.rs` | what a monitoring station hears, by BMP |
//!
//! Invariants: a peer is a member of one group exactly while its session is established; an action that names a connection
//! names its peer too, since connections are numbered by session.

pub mod dump;
mod follow;
mod memory;
pub mod monitor;
mod orders;
mod receive;
pub mod view;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use config::net::IpVersion;

use super::attribute::community;
use super::groups::export::{Audience, own_next_hops};
use super::groups::{Clients, Group};
use super::message::{Refresh, RefreshSubtype};
use super::rib::Rib;
use super::rib::forwarding::Forwarding;
use super::rib::path::{PeerFacts, PeerIndex, Stale};
use super::rib::table::PrefixIndex;
use super::session::{
    Action as SessionAction, BfdFinding, ConnectionId, Event as SessionEvent, Negotiated, Session, State,
};
use super::speaker_state::{Identity, PeerKey, PeerState, SpeakerState, Transport};
use crate::rib::LearnedBatch;

/// How long a speaker that has restarted waits for its peers to tell it everything, before it tells them (RFC 4724 §4.1).
const DEFERRAL: Duration = Duration::from_secs(60);
/// Prefixes without paths that are kept because a slow peer has yet to hear that they are gone.
const GONE_MAX: usize = 1_000_000;
/// Routes that control is told at a time: what it works on, and what is there twice meanwhile.
const ROUTES_MOST: usize = 1 << 15;
/// Events that are remembered.
const NEWS_MAX: usize = 1024;

/// What can happen.
#[derive(Debug)]
pub enum Event<'a> {
    /// `deadline` is reached.
    Timer,
    /// What the speaker should be.
    Desired(Arc<SpeakerState>),
    /// Where next hops are now; none: they cannot be reached.
    NextHops(&'a BTreeMap<IpAddr, Option<u32>>),
    /// Of the session of a peer. Accepted connections go by `accept`.
    Session(PeerKey, SessionEvent<'a>),
    /// Packets to the peer get there, or no longer (RFC 5880).
    Bfd { address: IpAddr, finding: BfdFinding },
}

/// What is to be done.
#[derive(Debug)]
pub enum Action {
    Connect {
        peer: PeerKey,
        connection: ConnectionId,
        transport: Box<Transport>,
    },
    Close {
        peer: PeerKey,
        connection: ConnectionId,
    },
    Send {
        peer: PeerKey,
        connection: ConnectionId,
        bytes: Vec<u8>,
    },
    /// To the monitoring station.
    ConnectStation(SocketAddr),
    CloseStation,
    /// Something that whoever watches wants to hear.
    Note(Note),
}

/// What happened to a session, for those who watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    Up(PeerKey),
    Down(PeerKey, String),
    EndOfRib(PeerKey, IpVersion),
    Faults(PeerKey, Vec<super::message::Fault>),
}

/// One node's speaker.
#[derive(Debug)]
pub struct Speaker {
    seed: u64,
    /// We have restarted, and packets went on meanwhile.
    restarted: bool,
    desired: Arc<SpeakerState>,
    peers: BTreeMap<PeerKey, Peer>,
    rib: Rib,
    groups: Vec<Option<Group>>,
    clients: Clients,
    forwarding: Forwarding,
    /// Prefixes without paths, to be released when everybody has heard.
    gone: Vec<PrefixIndex>,
    deferral: Option<Deferral>,
    /// Accepted connections so far.
    accepted: u64,
    /// When which session has to be looked at; the same as in `Peer::deadline`.
    timers: BTreeSet<(Instant, PeerKey)>,
    /// What happened last, for those who watch; and how much ever did.
    news: VecDeque<view::EventView>,
    news_begun: u64,
    monitor: Option<monitor::Monitor>,
    /// Nobody has anything to be told: found so, and nothing has changed since.
    is_quiet: bool,
}

#[derive(Debug)]
struct Peer {
    index: PeerIndex,
    session: Session,
    state: PeerState,
    up: Option<Up>,
    deadline: Option<Instant>,
    /// Attributes that were wrong, by what was done: discarded, withdrawn.
    faults: [u64; 2],
    refusals: monitor::Refusals,
    last_fault: Option<String>,
    /// Routes that there was no room for.
    no_room: u64,
    is_disabled: bool,
}

#[derive(Debug)]
struct Up {
    negotiated: Box<Negotiated>,
    group: usize,
}

/// After a restart nothing is told before everything was heard.
#[derive(Debug)]
struct Deferral {
    until: Instant,
    waits_for: BTreeSet<(PeerKey, IpVersion)>,
}

impl Speaker {
    /// `seed` makes timers differ between nodes. `restarted`: forwarding went on while we were gone (RFC 4724 §4.1).
    pub fn new(seed: u64, restarted: bool) -> Speaker {
        Speaker {
            seed,
            restarted,
            desired: Arc::default(),
            peers: BTreeMap::new(),
            rib: Rib::default(),
            groups: Vec::new(),
            clients: Clients::new(),
            forwarding: Forwarding::default(),
            gone: Vec::new(),
            deferral: None,
            accepted: 0,
            timers: BTreeSet::new(),
            news: VecDeque::new(),
            news_begun: 0,
            monitor: None,
            is_quiet: false,
        }
    }

    pub fn identity(&self) -> Option<&Identity> {
        self.desired.identity.as_ref()
    }

    pub fn handle(&mut self, event: Event<'_>, now: Instant, out: &mut Vec<Action>) {
        match event {
            Event::Timer => {
                if self.deferral.as_ref().is_some_and(|deferral| deferral.until <= now) {
                    self.deferral = None;
                    self.is_quiet = false;
                }
                let due = self.timers.iter().take_while(|(deadline, _)| *deadline <= now);
                let due: Vec<PeerKey> = due.map(|(_, key)| *key).collect();
                due.into_iter().for_each(|key| self.session(key, SessionEvent::Timer, now, out));
                self.station_timer(now, out);
            }
            Event::Desired(desired) => self.follow(desired, now, out),
            Event::NextHops(metrics) => {
                self.rib.set_metrics(metrics);
                self.end_deferral();
            }
            Event::Session(key, event) => self.session(key, event, now, out),
            Event::Bfd { address, finding } => {
                let with_bfd =
                    |key: &PeerKey, peer: &Peer| key.address == address && peer.state.transport.bfd.is_some();
                let keys: Vec<PeerKey> =
                    self.peers.iter().filter(|(key, peer)| with_bfd(key, peer)).map(|(key, _)| *key).collect();
                for key in keys {
                    self.session(key, SessionEvent::Bfd(finding), now, out);
                }
            }
        }
    }

    /// Somebody has connected. None: it is nobody that we know, and the connection is to be closed.
    pub fn accept(
        &mut self,
        local: SocketAddr,
        remote: SocketAddr,
        now: Instant,
        out: &mut Vec<Action>,
    ) -> Option<(PeerKey, ConnectionId)> {
        // The port that somebody connects from says nothing; of several peers with one address the first that waits.
        let from = PeerKey { address: remote.ip(), port: 0 };
        let known = self.peers.range(from..).take_while(|(key, _)| key.address == remote.ip());
        let accepts = |peer: &Peer| peer.state.transport.local_address.is_none_or(|address| address == local.ip());
        let mut known = known.filter(|(_, peer)| accepts(peer) && !peer.is_disabled);
        let key = known.clone().find(|(_, peer)| peer.up.is_none()).or_else(|| known.next()).map(|(key, _)| *key)?;
        self.accepted += 1;
        let connection = ConnectionId::accepted(self.accepted);
        self.session(key, SessionEvent::Accepted { connection, local, remote }, now, out);
        Some((key, connection))
    }

    /// When `Event::Timer` is due.
    pub fn deadline(&self) -> Option<Instant> {
        let first = self.timers.first().map(|(deadline, _)| *deadline);
        let deferral = self.deferral.as_ref().map(|deferral| deferral.until);
        let station = self.monitor.as_ref().and_then(monitor::Monitor::deadline);
        [first, deferral, station].into_iter().flatten().min()
    }

    fn session(&mut self, key: PeerKey, event: SessionEvent<'_>, now: Instant, out: &mut Vec<Action>) {
        let mut actions = Vec::new();
        let Some(peer) = self.peers.get_mut(&key) else { return };
        peer.session.handle(event, now, &mut actions);
        let deadline = peer.session.deadline();
        if let Some(old) = std::mem::replace(&mut peer.deadline, deadline) {
            self.timers.remove(&(old, key));
        }
        self.timers.extend(deadline.map(|deadline| (deadline, key)));
        for action in actions {
            self.carry_out(key, action, now, out);
        }
    }

    fn carry_out(&mut self, key: PeerKey, action: SessionAction, now: Instant, out: &mut Vec<Action>) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let index = peer.index;
        match action {
            SessionAction::Connect { connection } => {
                let transport = Box::new(peer.state.transport.clone());
                out.push(Action::Connect { peer: key, connection, transport });
            }
            SessionAction::Close { connection } => out.push(Action::Close { peer: key, connection }),
            SessionAction::Send { connection, bytes } => out.push(Action::Send { peer: key, connection, bytes }),
            SessionAction::Up(negotiated) => {
                self.come_up(key, negotiated);
                self.tell_up(key, now);
                self.note(Note::Up(key), out);
            }
            SessionAction::Update(update) => self.receive(key, update, now, out),
            SessionAction::Refresh(refresh) => self.refresh(key, refresh),
            SessionAction::Down { end, keep } => {
                let reason = end.text();
                self.tell_down(key, end, now);
                self.go_down(key, &keep);
                self.note(Note::Down(key, reason), out);
            }
            SessionAction::MarkStale(family) => {
                self.rib.mark_stale(index, family, Stale::Graceful);
            }
            SessionAction::DropStale(family) => {
                self.tell_stale(key, family, now);
                self.rib.drop_paths(index, Some(family), |path| path.stale != Stale::No);
            }
            SessionAction::LongLived(family) => {
                self.rib.drop_paths(index, Some(family), |path| {
                    path.stale != Stale::No && path.attributes.has_community(community::NO_LLGR)
                });
                self.rib.edit(index, Some(family), |path| {
                    let is_due = path.stale == Stale::Graceful;
                    is_due.then(|| Some(super::rib::path::Path { stale: Stale::LongLived, ..path.clone() }))
                });
            }
            SessionAction::EndOfRib(family) => {
                if let Some(deferral) = &mut self.deferral {
                    deferral.waits_for.remove(&(key, family));
                }
                self.end_deferral();
                self.tell_end_of_rib(key, family, now);
                self.note(Note::EndOfRib(key, family), out);
            }
        }
    }

    /// Says it to those who watch.
    fn note(&mut self, note: Note, out: &mut Vec<Action>) {
        let (peer, text) = match &note {
            Note::Up(peer) => (peer, "session established".to_owned()),
            Note::Down(peer, reason) => (peer, format!("session ended: {reason}")),
            Note::EndOfRib(peer, family) => (peer, format!("has told all of IPv{family}")),
            Note::Faults(peer, faults) => {
                let first = faults.first().map_or("", |fault| &fault.reason);
                (peer, format!("{} wrong in an update: {first}", faults.len()))
            }
        };
        if self.news.len() >= NEWS_MAX {
            self.news.pop_front();
        }
        let number = self.news_begun;
        self.news.push_back(view::EventView { number, peer: peer.to_string(), text: format!("{peer} {text}") });
        self.news_begun += 1;
        out.push(Action::Note(note));
    }

    fn come_up(&mut self, key: PeerKey, negotiated: Box<Negotiated>) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let facts =
            PeerFacts { address: key.address, router_id: negotiated.theirs.router_id, internal: negotiated.internal };
        self.rib.set_facts(peer.index, facts);
        let audience = audience(peer, &negotiated, &self.desired);
        let index = peer.index;
        if let Some(deferral) = self.deferral.as_mut().filter(|_| !negotiated.end_of_rib_expected) {
            // It will not say when it has told everything, or waits for us itself. RFC 4724 §4.1.
            deferral.waits_for.retain(|(waiting, _)| *waiting != key);
        }
        self.end_deferral();
        // What is about to change is told before the end of the RIB.
        self.settle();
        let group = self.group(audience, &negotiated);
        self.is_quiet = false;
        if let Some(Some(group)) = self.groups.get_mut(group) {
            group.join(index, &mut self.rib, &self.clients, None);
        }
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.up = Some(Up { negotiated, group });
        }
    }

    fn go_down(&mut self, key: PeerKey, keep: &[IpVersion]) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let index = peer.index;
        if let Some(up) = peer.up.take() {
            self.leave(index, up.group);
        }
        for family in IpVersion::BOTH {
            if keep.contains(&family) {
                self.rib.mark_stale(index, family, Stale::Graceful);
            } else {
                self.rib.drop_paths(index, Some(family), |_| true);
            }
        }
        if let Some(deferral) = &mut self.deferral {
            deferral.waits_for.retain(|(waiting, _)| *waiting != key);
        }
        self.end_deferral();
    }

    /// Nobody is waited for any more, and what they said counts: everybody may be told. An end of RIB that came before routes
    /// whose next hops are not known yet would take these away from peers that have kept them.
    fn end_deferral(&mut self) {
        let rib = &self.rib;
        if self.deferral.take_if(|deferral| deferral.waits_for.is_empty() && !rib.has_unanswered()).is_some() {
            self.is_quiet = false;
        }
    }

    /// The group for an audience; a new one if there is none.
    fn group(&mut self, audience: Audience, negotiated: &Negotiated) -> usize {
        let is_same = |group: &Option<Group>| group.as_ref().is_some_and(|group| group.audience == audience);
        if let Some(found) = self.groups.iter().position(is_same) {
            return found;
        }
        let group = Some(Group::new(audience, negotiated.codec));
        match self.groups.iter().position(Option::is_none) {
            Some(free) => {
                self.groups[free] = group;
                free
            }
            None => {
                self.groups.push(group);
                self.groups.len() - 1
            }
        }
    }

    fn leave(&mut self, peer: PeerIndex, group: usize) {
        let Some(slot) = self.groups.get_mut(group) else { return };
        if let Some(left) = slot {
            left.leave(peer);
        }
        slot.take_if(|group| group.is_empty());
    }

    fn refresh(&mut self, key: PeerKey, refresh: Refresh) {
        let Some((index, up)) = self.peers.get(&key).and_then(|peer| Some((peer.index, peer.up.as_ref()?))) else {
            return;
        };
        if let (Some(family), RefreshSubtype::Request) = (refresh.family, refresh.subtype)
            && let Some(Some(group)) = self.groups.get_mut(up.group)
        {
            group.refresh(index, family, &self.rib, up.negotiated.enhanced_refresh);
            self.is_quiet = false;
        }
    }

    /// Lets those follow who look at changed prefixes.
    pub fn settle(&mut self) {
        let changed = self.rib.take_changed();
        if !changed.is_empty() {
            for place in &changed {
                self.forwarding.follow(&self.rib, *place);
            }
            for group in self.groups.iter_mut().flatten() {
                self.is_quiet &= !group.follow(&mut self.rib, &changed, &self.clients);
            }
            let rib = &self.rib;
            self.gone.extend(changed.into_iter().filter(|place| rib.entry(*place).paths.is_empty()));
        }
        if !self.gone.is_empty() && !self.groups.iter().flatten().any(Group::is_waiting) {
            // Control is told by place what a prefix leads to: until it is, the place is not another's.
            let waiting = self.gone.extract_if(.., |place| !self.forwarding.is_waiting(*place));
            waiting.for_each(|place| _ = self.rib.release(place));
        }
    }

    /// Sessions that hold up the release of too many prefixes, and have to go.
    pub fn too_slow(&self) -> Vec<PeerKey> {
        if self.gone.len() <= GONE_MAX {
            return Vec::new();
        }
        let is_waiting = |peer: &&Peer| {
            let group = peer.up.as_ref().and_then(|up| self.groups.get(up.group)?.as_ref());
            group.is_some_and(|group| group.has_output(peer.index))
        };
        self.peers.iter().filter(|(_, peer)| is_waiting(peer)).map(|(key, _)| *key).collect()
    }

    /// Changes of forwarding since the last time, as many as control is told at a time. Packets do not wait for peers that have yet to tell us everything: after a
    /// restart the workers know of no route but these.
    pub fn take_forwarding(&mut self) -> LearnedBatch {
        self.forwarding.take(&self.rib, ROUTES_MOST)
    }

    /// Next hops whose way has to be known, if they are others than when this was asked last.
    pub fn take_next_hops(&mut self) -> Option<BTreeSet<IpAddr>> {
        self.rib.take_next_hops()
    }

    /// Peers that can be sent something now.
    pub fn has_output(&self, key: &PeerKey) -> bool {
        let Some(peer) = self.peers.get(key).filter(|_| self.deferral.is_none()) else { return false };
        let group = peer.up.as_ref().and_then(|up| self.groups.get(up.group)?.as_ref());
        group.is_some_and(|group| group.has_output(peer.index))
    }

    /// All peers that `pull` gives something for.
    pub fn with_output(&mut self) -> Vec<PeerKey> {
        if self.is_quiet {
            return Vec::new();
        }
        let found: Vec<PeerKey> = self.peers.keys().filter(|key| self.has_output(key)).copied().collect();
        self.is_quiet = found.is_empty();
        found
    }

    /// Whole messages for an established peer: at least `enough` octets, if there are. Gives the connection to send them on.
    pub fn pull(&mut self, key: &PeerKey, enough: usize, now: Instant, out: &mut Vec<u8>) -> Option<ConnectionId> {
        let peer = self.peers.get_mut(key).filter(|_| self.deferral.is_none())?;
        let up = peer.up.as_ref()?;
        let group = self.groups.get_mut(up.group)?.as_mut()?;
        let begun = out.len();
        group.pull(peer.index, &self.rib, enough, out);
        let connection = up.negotiated.connection;
        let updates = updates(out.get(begun..).unwrap_or_default());
        if updates > 0 {
            peer.session.sent_updates(updates, now);
        }
        Some(connection)
    }

    /// Whether `take_next_hops` or `take_forwarding` give something.
    pub fn has_news(&self) -> bool {
        self.rib.has_new_next_hops() || self.forwarding.has_changes()
    }

    /// The connection of an established session.
    pub fn connection(&self, key: &PeerKey) -> Option<ConnectionId> {
        self.peers.get(key)?.up.as_ref().map(|up| up.negotiated.connection)
    }

    pub fn state_of(&self, key: &PeerKey) -> Option<State> {
        self.peers.get(key).map(|peer| peer.session.state())
    }

    pub fn transport(&self, key: &PeerKey) -> Option<&Transport> {
        self.peers.get(key).map(|peer| &peer.state.transport)
    }

    pub fn rib(&self) -> &Rib {
        &self.rib
    }
}

/// How many of whole messages are UPDATEs. RFC 4271 §4.1.
fn updates(mut messages: &[u8]) -> u64 {
    const UPDATE: u8 = 2;
    let mut count = 0;
    while let Some(&[high, low, kind]) = messages.get(16..19) {
        count += u64::from(kind == UPDATE);
        let length = usize::from(u16::from_be_bytes([high, low]));
        // They are our own; a length of zero would be read for ever.
        messages = messages.get(length.max(19)..).unwrap_or_default();
    }
    count
}

/// What a peer has in common with those that are told the same.
fn audience(peer: &Peer, negotiated: &Negotiated, desired: &SpeakerState) -> Audience {
    let (terms, transport) = (&peer.state.terms, &peer.state.transport);
    let identity = desired.identity.as_ref();
    let flags = |has: &dyn Fn(IpVersion) -> bool| [has(IpVersion::V4), has(IpVersion::V6)];
    let codec = &negotiated.codec;
    Audience {
        internal: negotiated.internal,
        client: terms.reflector_client,
        cluster_id: terms.cluster_id.or_else(|| identity.and_then(|identity| identity.cluster_id)),
        local_as: transport.local_as,
        next_hop: terms.next_hop,
        own_next_hops: own_next_hops(Some(negotiated.local.ip()), identity.map_or(&[], |identity| &identity.addresses)),
        families: flags(&|family| negotiated.families.contains(&family)),
        extended_next_hop: codec.extended_next_hop(),
        sends_path_ids: flags(&|family| codec.sends_path_ids(family)),
        four_octet_as: negotiated.theirs.capabilities.four_octet_as,
        longest: codec.longest(),
        role: transport.role,
        long_lived: negotiated.long_lived,
        export: terms.export.clone(),
    }
}
