//! What a monitoring station is told: which sessions are there, and what each peer has said, before any rule is asked.
//!
//! ```text
//!   sessions, updates ─▶ log ──▶ pull ─▶ socket of the station
//!                 rib ─▶ dump ──┘        a piece whenever the log is empty
//! ```
//!
//! A station that connects is told of all sessions that are up, then their routes piece by piece, then the end of the RIB of
//! each. What happens meanwhile goes through the log, and the log goes first: a piece of the dump says what is so by then, so
//! nothing old comes after it.
//!
//! Routes are written again from what was understood of an UPDATE: with AS numbers of four octets, and with the peer's numbers of
//! paths where it has some. A route that was malformed is told as withdrawn, as it was taken (RFC 7606).
//!
//! Bounds: `LOG_MAX` octets wait, after which the station is closed, and told everything anew when it is back; a piece looks at
//! `PLACES` prefixes and ends with `PATHS` paths.
//! Left out: stale routes, which were said in an earlier session; the time at which a route of the dump came, which is not kept;
//! peers that differ by their port alone, which BMP cannot tell apart.
//!
//! Sources: RFC 7854 §3.3 and §5.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use config::net::IpVersion;
use serde::{Deserialize, Serialize};

use super::super::attribute::Attributes;
use super::super::bmp::station::{Action as StationAction, Event as StationEvent, State, Station};
use super::super::bmp::{self, Counts, Down};
use super::super::message::{Nlri, Update};
use super::super::rib::path::{PeerIndex, Rejected, Stale};
use super::super::rib::store::Same;
use super::super::rib::table::PrefixIndex;
use super::super::session::{End, Negotiated};
use super::super::speaker_state::PeerKey;
use super::super::wire::Codec;
use super::{Action, Speaker};

/// Octets that wait for the station.
const LOG_MAX: usize = 16 << 20;
const PLACES: usize = 4096;
const PATHS: usize = 8192;

/// Who is told, and how far it is.
#[derive(Debug)]
pub struct Monitor {
    address: SocketAddr,
    /// This node.
    name: String,
    station: Station,
    feed: Option<Feed>,
}

/// While the station is there.
#[derive(Debug)]
struct Feed {
    /// The same moment by both clocks; the second since 1970.
    begun: (Instant, Duration),
    /// Who was told to be up.
    peers: BTreeMap<PeerKey, Told>,
    log: VecDeque<Vec<u8>>,
    octets: usize,
    dump: Option<Dump>,
    /// When there was too much: nothing is kept any more.
    overflow: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Told {
    index: PeerIndex,
    header: bmp::Peer,
    codec: Codec,
}

#[derive(Debug)]
struct Dump {
    place: u32,
    peers: BTreeSet<PeerKey>,
}

/// How often a peer has told something that was not taken.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Refusals {
    pub by_rules: u64,
    pub own_as: u64,
    pub own_originator: u64,
    pub own_cluster: u64,
    pub unknown_withdraws: u64,
    pub malformed_updates: u64,
}

impl Refusals {
    pub(super) fn count(&mut self, rejected: Option<Rejected>) {
        let count = match rejected {
            Some(Rejected::Rules) => &mut self.by_rules,
            Some(Rejected::OwnAs) => &mut self.own_as,
            Some(Rejected::OwnOriginator) => &mut self.own_originator,
            Some(Rejected::OwnCluster) => &mut self.own_cluster,
            Some(Rejected::OwnNextHop | Rejected::RouteLeak | Rejected::FirstAs) | None => return,
        };
        *count = count.saturating_add(1);
    }
}

/// The station, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StationView {
    pub address: SocketAddr,
    pub is_connected: bool,
    pub connections: u64,
    /// Octets that wait for it.
    pub waiting_bytes: usize,
    /// All that was there when it connected has been told.
    pub is_dumped: bool,
    /// Why it is not connected, or was not before.
    pub problem: Option<String>,
}

impl Monitor {
    pub fn new(address: SocketAddr, name: &str, now: Instant) -> Monitor {
        Monitor { address, name: name.to_owned(), station: Station::new(now), feed: None }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let overflow = self.feed.as_ref().and_then(|feed| feed.overflow);
        self.station.deadline().into_iter().chain(overflow).min()
    }

    pub(super) fn view(&self) -> StationView {
        let feed = self.feed.as_ref();
        StationView {
            address: self.address,
            is_connected: matches!(self.station.state(), State::Up { .. }),
            connections: self.station.connected(),
            waiting_bytes: feed.map_or(0, |feed| feed.octets),
            is_dumped: feed.is_some_and(|feed| feed.dump.is_none()),
            problem: self.station.problem().map(str::to_owned),
        }
    }
}

impl Feed {
    fn at(&self, now: Instant) -> Duration {
        let (instant, since_1970) = self.begun;
        since_1970 + now.saturating_duration_since(instant)
    }

    /// Appends whole messages.
    fn say(&mut self, messages: Vec<u8>, now: Instant) {
        if messages.is_empty() || self.overflow.is_some() {
            return;
        }
        self.octets += messages.len();
        self.log.push_back(messages);
        if self.octets > LOG_MAX {
            self.overflow = Some(now);
            self.log = VecDeque::new();
            self.octets = 0;
            self.dump = None;
        }
    }

    /// `is_new`: it has told nothing yet.
    fn up(&mut self, key: PeerKey, index: PeerIndex, negotiated: &Negotiated, is_new: bool, now: Instant) {
        let header = bmp::Peer {
            address: key.address,
            as_number: negotiated.theirs.as_number,
            router_id: negotiated.theirs.router_id,
            // What is told is written again, see `Codec::as_received`.
            four_octet_as: true,
        };
        let mut out = Vec::new();
        let (local, remote) = (negotiated.local, negotiated.remote);
        let opens = (&negotiated.ours, &negotiated.theirs);
        bmp::peer_up(&header, self.at(now), (local.ip(), local.port()), remote.port(), opens, &mut out);
        if is_new && !negotiated.end_of_rib_expected {
            // It will not say when it has told everything: there is nothing of it to be waited for.
            for family in &negotiated.families {
                end_of_rib(&header, *family, &mut out);
            }
        }
        self.peers.insert(key, Told { index, header, codec: negotiated.codec.as_received() });
        self.say(out, now);
    }

    fn down(&mut self, key: PeerKey, down: &Down, now: Instant) {
        let Some(told) = self.peers.remove(&key) else { return };
        if let Some(dump) = &mut self.dump {
            dump.peers.remove(&key);
        }
        let mut out = Vec::new();
        bmp::peer_down(&told.header, self.at(now), down, &mut out);
        self.say(out, now);
    }

    fn update(&mut self, key: PeerKey, update: &Update, now: Instant) {
        let Some(told) = self.peers.get(&key).copied() else { return };
        let at = self.at(now);
        let mut out = Vec::new();
        told.withdraw(&update.withdrawn, at, &mut out);
        for reachable in &update.reachable {
            told.reach(&reachable.attributes, &reachable.nlri, at, &mut out);
        }
        self.say(out, now);
    }
}

impl Told {
    /// Routes of one family.
    fn reach(&self, attributes: &Attributes, nlri: &[Nlri], at: Duration, out: &mut Vec<u8>) {
        let mut each = |update: &[u8], _| bmp::route_monitoring(&self.header, at, update, out);
        if self.codec.reach(attributes, nlri, &mut each).is_err() {
            // Numbers of four octets are longer than those that came.
            let said = self.codec.with_extended_messages().reach(attributes, nlri, &mut each);
            debug_assert_eq!(said, Ok(()), "what came in a message fits into the longest one");
        }
    }

    /// Routes of both families.
    fn withdraw(&self, nlri: &[Nlri], at: Duration, out: &mut Vec<u8>) {
        for family in IpVersion::BOTH {
            let of_family = nlri.iter().filter(|nlri| nlri.prefix.version() == family);
            let of_family: Vec<Nlri> = of_family.copied().collect();
            self.codec.withdraw(&of_family, &mut |update: &[u8], _| {
                bmp::route_monitoring(&self.header, at, update, out);
            });
        }
    }
}

fn end_of_rib(header: &bmp::Peer, family: IpVersion, out: &mut Vec<u8>) {
    let mut update = Vec::new();
    Codec::new().end_of_rib(family, &mut update);
    bmp::route_monitoring(header, Duration::ZERO, &update, out);
}

fn down(end: End) -> Down {
    /// TcpConnectionConfirmed of RFC 4271 §8.1: the peer is there on another connection.
    const CONNECTION_CONFIRMED: u16 = 17;
    match end {
        End::Sent(notification) => Down::Told(notification),
        End::Received(notification) => Down::Heard(notification),
        End::Lost(_) | End::GivenUp(_) => Down::Lost,
        End::Replaced => Down::Closed(CONNECTION_CONFIRMED),
    }
}

/// What a station is told, while it is there.
fn feed_of(monitor: &mut Option<Monitor>) -> Option<&mut Feed> {
    monitor.as_mut()?.feed.as_mut()
}

impl Speaker {
    /// A station that is told everything from now on.
    pub fn monitor_by(&mut self, monitor: Monitor) {
        self.monitor = Some(monitor);
    }

    /// Of the connection to the station; `since_1970` is `now` by the other clock.
    pub fn station(&mut self, event: StationEvent, now: Instant, since_1970: Duration, out: &mut Vec<Action>) {
        let Some(monitor) = &mut self.monitor else { return };
        let mut actions = Vec::new();
        monitor.station.handle(event, now, &mut actions);
        for action in actions {
            match action {
                StationAction::Connect => {
                    out.extend(self.monitor.as_ref().map(|monitor| Action::ConnectStation(monitor.address)));
                }
                StationAction::Close => out.push(Action::CloseStation),
                StationAction::Begin => self.begin_feed((now, since_1970)),
                StationAction::End => {
                    if let Some(monitor) = &mut self.monitor {
                        monitor.feed = None;
                    }
                }
                StationAction::Count => self.tell_counts(now),
            }
        }
    }

    /// `deadline` is reached, perhaps the station's.
    pub(super) fn station_timer(&mut self, now: Instant, out: &mut Vec<Action>) {
        let is_slow = feed_of(&mut self.monitor).is_some_and(|feed| feed.overflow.is_some());
        let event = if is_slow { StationEvent::Slow } else { StationEvent::Timer };
        self.station(event, now, Duration::ZERO, out);
    }

    fn begin_feed(&mut self, begun: (Instant, Duration)) {
        let Some(monitor) = &mut self.monitor else { return };
        let mut first = Vec::new();
        bmp::initiation(&monitor.name, concat!("vrouter ", env!("CARGO_PKG_VERSION")), &mut first);
        let mut feed =
            Feed { begun, peers: BTreeMap::new(), log: VecDeque::from([first]), octets: 0, dump: None, overflow: None };
        feed.octets = feed.log.iter().map(Vec::len).sum();
        let up = self.peers.iter().filter_map(|(key, peer)| Some((*key, peer.index, peer.up.as_ref()?)));
        for (key, index, up) in up {
            feed.up(key, index, &up.negotiated, false, begun.0);
        }
        feed.dump = Some(Dump { place: 0, peers: feed.peers.keys().copied().collect() });
        monitor.feed = Some(feed);
    }

    pub(super) fn tell_up(&mut self, key: PeerKey, now: Instant) {
        let Some(feed) = feed_of(&mut self.monitor) else { return };
        let found = self.peers.get(&key).and_then(|peer| Some((peer.index, peer.up.as_ref()?)));
        if let Some((index, up)) = found {
            feed.up(key, index, &up.negotiated, true, now);
        }
    }

    pub(super) fn tell_down(&mut self, key: PeerKey, end: End, now: Instant) {
        if let Some(feed) = feed_of(&mut self.monitor) {
            feed.down(key, &down(end), now);
        }
    }

    pub(super) fn tell_update(&mut self, key: PeerKey, update: &Update, now: Instant) {
        if let Some(feed) = feed_of(&mut self.monitor) {
            feed.update(key, update, now);
        }
    }

    pub(super) fn tell_end_of_rib(&mut self, key: PeerKey, family: IpVersion, now: Instant) {
        let Some(feed) = feed_of(&mut self.monitor) else { return };
        let Some(told) = feed.peers.get(&key).copied() else { return };
        if feed.dump.as_ref().is_some_and(|dump| dump.peers.contains(&key)) {
            // The dump ends with it.
            return;
        }
        let mut out = Vec::new();
        end_of_rib(&told.header, family, &mut out);
        feed.say(out, now);
    }

    /// What is stale of a peer is about to go. The station may have heard of it before it was.
    pub(super) fn tell_stale(&mut self, key: PeerKey, family: IpVersion, now: Instant) {
        let Some(feed) = feed_of(&mut self.monitor) else { return };
        let Some(told) = feed.peers.get(&key).copied() else { return };
        let mut gone = Vec::new();
        for (_, prefix, entry) in self.rib.iter().filter(|(_, prefix, _)| prefix.version() == family) {
            let of_peer = entry.paths.iter().filter(|path| path.peer == told.index && path.stale != Stale::No);
            gone.extend(of_peer.map(|path| Nlri { prefix, path_id: path.path_id }));
        }
        let mut out = Vec::new();
        told.withdraw(&gone, feed.at(now), &mut out);
        feed.say(out, now);
    }

    fn tell_counts(&mut self, now: Instant) {
        let Some(feed) = feed_of(&mut self.monitor) else { return };
        let at = feed.at(now);
        let mut out = Vec::new();
        for (key, told) in &feed.peers {
            let Some(peer) = self.peers.get(key) else { continue };
            let now = IpVersion::BOTH.map(|family| (family, self.rib.counts(peer.index, family)));
            let refusals = &peer.refusals;
            let counts = Counts {
                rejected_by_rules: refusals.by_rules,
                duplicate_withdraws: refusals.unknown_withdraws,
                cluster_loops: refusals.own_cluster,
                path_loops: refusals.own_as,
                originator_loops: refusals.own_originator,
                updates_treated_as_withdraw: refusals.malformed_updates,
                received: now.map(|(family, count)| (family, count.received.into())).into(),
                accepted: now.map(|(family, count)| (family, (count.received - count.rejected).into())).into(),
            };
            bmp::statistics(&told.header, at, &counts, &mut out);
        }
        feed.say(out, now);
    }

    /// Whole messages for the station: at least `enough` octets, if there are.
    pub fn pull_for_station(&mut self, enough: usize, out: &mut Vec<u8>) {
        while out.len() < enough {
            let Some(feed) = feed_of(&mut self.monitor) else { return };
            if let Some(messages) = feed.log.pop_front() {
                feed.octets -= messages.len();
                out.extend(messages);
            } else if !self.dump_some(out) {
                return;
            }
        }
    }

    /// The next piece of all that there is. False: there is none.
    fn dump_some(&mut self, out: &mut Vec<u8>) -> bool {
        let Some(feed) = feed_of(&mut self.monitor) else { return false };
        let Some(dump) = &mut feed.dump else { return false };
        let told = |key: &PeerKey| Some((feed.peers.get(key)?.index, feed.peers.get(key)?));
        let peers: HashMap<PeerIndex, &Told> = dump.peers.iter().filter_map(told).collect();
        // Routes with the same attributes go together.
        let mut same: HashMap<(PeerIndex, IpVersion, Same), Vec<Nlri>> = HashMap::new();
        let (end, mut paths) = (self.rib.places().count() as u32, 0);
        let until = end.min(dump.place.saturating_add(PLACES as u32));
        while dump.place < until && paths < PATHS && !peers.is_empty() {
            let place = PrefixIndex(dump.place);
            dump.place += 1;
            let prefix = self.rib.prefix(place);
            for path in self.rib.entry(place).paths.iter().filter(|path| path.stale == Stale::No) {
                if peers.contains_key(&path.peer) {
                    let received = path.received();
                    let key = (path.peer, prefix.version(), Same(Arc::clone(received)));
                    same.entry(key).or_default().push(Nlri { prefix, path_id: path.path_id });
                    paths += 1;
                }
            }
        }
        for ((peer, _, attributes), nlri) in &same {
            if let Some(told) = peers.get(peer) {
                told.reach(&attributes.0, nlri, Duration::ZERO, out);
            }
        }
        if dump.place >= end || peers.is_empty() {
            for told in peers.values() {
                for family in told.codec.families() {
                    end_of_rib(&told.header, *family, out);
                }
            }
            feed.dump = None;
        }
        true
    }

    /// The last that the station hears: nothing else is told any more.
    pub(super) fn end_monitoring(&mut self, now: Instant) {
        let Some(feed) = feed_of(&mut self.monitor) else { return };
        feed.dump = None;
        let mut last = Vec::new();
        bmp::termination(bmp::End::Administrative, "", &mut last);
        feed.say(last, now);
    }

    /// Whether `pull_for_station` gives something.
    pub fn has_for_station(&self) -> bool {
        let feed = self.monitor.as_ref().and_then(|monitor| monitor.feed.as_ref());
        feed.is_some_and(|feed| !feed.log.is_empty() || feed.dump.is_some())
    }
}

#[cfg(test)]
mod tests;
