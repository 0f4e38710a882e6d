//! What is shown of the speaker: sessions, routes as they were received, taken and told, and the reasons.
//!
//! Values with names, made by the thread that owns the speaker and told as JSON; times are seconds.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use config::net::{Cidr, IpVersion};
use serde::{Deserialize, Serialize};

use super::super::attribute::{Attributes, Origin};
use super::super::groups::Group;
use super::super::rib::forwarding::{self, Ways};
use super::super::rib::path::{Path, Stale};
use super::super::rib::table::PrefixIndex;
use super::super::session::Messages;
use super::super::speaker_state::{PeerKey, PeerKind};
use super::monitor::{Monitor, StationView};
use super::receive::rules_reason;
use super::{Peer, Speaker};
use words::{as_path_text, capabilities, family_name, role_name};

mod words;

/// Routes shown at a time, unless more are asked for.
pub const ROUTES: usize = 1000;

/// The whole speaker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SummaryView {
    /// None: this node does not speak BGP.
    pub router_id: Option<Ipv4Addr>,
    pub as_number: Option<u32>,
    pub cluster_id: Option<Ipv4Addr>,
    pub listen_port: Option<u16>,
    pub prefixes: usize,
    pub paths: usize,
    /// Sets of attributes in memory.
    pub attribute_sets: usize,
    /// Octets, by what there is of everything: an approximation.
    pub memory_bytes: usize,
    /// Octets of messages that wait for slow peers, and for the monitoring station.
    pub waiting_bytes: usize,
    /// After a restart: peers are told nothing before all was heard.
    pub is_deferred: bool,
    pub peers: Vec<PeerView>,
    /// Who is told everything by BMP.
    pub station: Option<StationView>,
    pub problems: Vec<String>,
}

/// One session in a line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerView {
    pub address: IpAddr,
    pub port: u16,
    pub name: String,
    pub kind: PeerKindView,
    /// Why there is this session.
    pub origin: String,
    pub as_number: u32,
    pub local_as: u32,
    pub state: String,
    /// In this state.
    pub since_seconds: u64,
    /// Why it is not up.
    pub problem: Option<String>,
    pub is_disabled: bool,
    pub router_id: Option<Ipv4Addr>,
    pub families: Vec<String>,
    pub received: u32,
    pub accepted: u32,
    pub rejected: u32,
    pub stale: u32,
    pub advertised: u32,
    pub established: u64,
    pub flaps: u64,
    pub messages_sent: MessagesView,
    pub messages_received: MessagesView,
    /// Attributes that were dropped, and routes taken for withdrawn, because they were malformed.
    pub discarded_attributes: u64,
    pub withdrawn_by_error: u64,
    /// Messages and prefixes that it has yet to be told.
    pub behind: u64,
    pub catching_up: usize,
    pub fell_behind: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PeerKindView {
    NodeMesh,
    Global,
    Node,
    LocalWorkload,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MessagesView {
    pub opens: u64,
    pub updates: u64,
    pub notifications: u64,
    pub keepalives: u64,
    pub refreshes: u64,
}

/// One session with all there is to know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NeighborView {
    pub peer: PeerView,
    pub local: Option<String>,
    pub remote: Option<String>,
    pub hold_seconds: Option<u64>,
    pub keepalive_seconds: Option<u64>,
    pub is_passive: bool,
    pub has_password: bool,
    pub ttl_security: Option<u8>,
    pub is_client: bool,
    pub next_hop: String,
    pub role: Option<String>,
    pub max_prefixes: u32,
    pub is_bfd_up: Option<bool>,
    /// What the peer says it can do.
    pub capabilities: Vec<String>,
    pub graceful: Vec<String>,
    pub is_restarting: bool,
    pub last_sent: Option<IncidentView>,
    pub last_received: Option<IncidentView>,
    pub last_loss: Option<IncidentView>,
    pub last_fault: Option<String>,
    pub refused_connections: u64,
    /// Routes that there was no room for.
    pub no_room: u64,
    pub per_family: Vec<FamilyView>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FamilyView {
    pub family: String,
    pub received: u32,
    pub accepted: u32,
    pub rejected: u32,
    pub stale: u32,
    pub advertised: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IncidentView {
    pub seconds_ago: u64,
    pub text: String,
}

/// Which routes of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Which {
    /// Before import rules.
    Received,
    /// After them.
    Accepted,
    /// Those that were not taken.
    Filtered,
    Advertised,
}

/// A path to a prefix.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteView {
    pub prefix: Cidr,
    /// Who said it; none: this node.
    pub from: Option<IpAddr>,
    /// `block`, `endpoint` …: a route of this node.
    pub local: Option<String>,
    pub path_id: u32,
    pub next_hop: IpAddr,
    /// To the next hop; none: it cannot be reached.
    pub metric: Option<u32>,
    pub as_path: String,
    pub origin: String,
    pub med: Option<u32>,
    pub local_pref: Option<u32>,
    pub communities: Vec<String>,
    pub originator_id: Option<Ipv4Addr>,
    pub cluster_list: Vec<Ipv4Addr>,
    pub is_best: bool,
    /// Packets may take it, beside the best.
    pub is_multipath: bool,
    pub is_stale: bool,
    /// Why it is not the best, or was not taken.
    pub reason: Option<String>,
}

/// What is known about a prefix, and what each peer is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WhyView {
    pub prefix: Cidr,
    pub paths: Vec<RouteView>,
    /// Where packets go.
    pub next_hops: Vec<IpAddr>,
    pub backup: Vec<IpAddr>,
    pub told: Vec<ToldView>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ToldView {
    pub peer: IpAddr,
    /// What it is told.
    pub route: Option<RouteView>,
    /// Why it is told nothing.
    pub reason: Option<String>,
}

/// What happened lately, and the number to ask on from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NewsView {
    pub events: Vec<EventView>,
    pub next: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EventView {
    pub number: u64,
    pub peer: String,
    pub text: String,
}

impl From<PeerKind> for PeerKindView {
    fn from(kind: PeerKind) -> PeerKindView {
        match kind {
            PeerKind::NodeMesh => PeerKindView::NodeMesh,
            PeerKind::Global => PeerKindView::Global,
            PeerKind::Node => PeerKindView::Node,
            PeerKind::LocalWorkload => PeerKindView::LocalWorkload,
        }
    }
}

impl PeerKindView {
    /// As calicoctl says it.
    pub fn words(self) -> &'static str {
        match self {
            PeerKindView::NodeMesh => "node-to-node mesh",
            PeerKindView::Global => "global",
            PeerKindView::Node => "node specific",
            PeerKindView::LocalWorkload => "local workload",
        }
    }
}

fn messages(messages: Messages) -> MessagesView {
    let Messages { opens, updates, notifications, keepalives, refreshes } = messages;
    MessagesView { opens, updates, notifications, keepalives, refreshes }
}

impl Speaker {
    pub fn summary(&self, now: Instant) -> SummaryView {
        let identity = self.identity();
        SummaryView {
            router_id: identity.map(|identity| identity.router_id),
            as_number: identity.map(|identity| identity.as_number),
            cluster_id: identity.and_then(|identity| identity.cluster_id),
            listen_port: identity.map(|identity| identity.listen_port),
            prefixes: self.rib.len(),
            paths: self.rib.path_count(),
            attribute_sets: self.rib.store.len(),
            memory_bytes: self.memory(),
            waiting_bytes: self.waiting_bytes(),
            is_deferred: self.deferral.is_some(),
            peers: self.peers.iter().map(|(key, peer)| self.peer_view(key, peer, now)).collect(),
            station: self.monitor.as_ref().map(Monitor::view),
            problems: self.desired.problems.clone(),
        }
    }

    fn peer_view(&self, key: &PeerKey, peer: &Peer, now: Instant) -> PeerView {
        let status = peer.session.status();
        let counts = IpVersion::BOTH.map(|family| self.rib.counts(peer.index, family));
        let told = peer.up.as_ref().and_then(|up| self.groups.get(up.group)?.as_ref());
        let told = told.map(|group| group.view(peer.index)).unwrap_or_default();
        let sum = |of: fn(&super::super::rib::PathCount) -> u32| counts.iter().map(of).sum::<u32>();
        PeerView {
            address: key.address,
            port: key.port,
            name: peer.state.name.clone(),
            kind: peer.state.kind.into(),
            origin: peer.state.origin.clone(),
            as_number: peer.state.transport.remote_as,
            local_as: peer.state.transport.local_as,
            state: status.state.to_string(),
            since_seconds: status.since.map_or(0, |since| now.saturating_duration_since(since).as_secs()),
            problem: status.problem.clone(),
            is_disabled: peer.is_disabled,
            router_id: status.peer_open.as_ref().map(|open| open.router_id),
            families: status.families.iter().map(|family| family_name(*family)).collect(),
            received: sum(|count| count.received),
            accepted: sum(|count| count.received - count.rejected),
            rejected: sum(|count| count.rejected),
            stale: sum(|count| count.stale),
            advertised: told.advertised.iter().sum(),
            established: status.established,
            flaps: status.flaps,
            messages_sent: messages(status.sent),
            messages_received: messages(status.received),
            discarded_attributes: peer.faults[0],
            withdrawn_by_error: peer.faults[1],
            behind: told.behind,
            catching_up: told.catching_up,
            fell_behind: told.fell_behind,
        }
    }

    /// What happened since, of what is still known; from now on when nothing is said.
    pub fn news(&self, after: Option<u64>) -> NewsView {
        let next = self.news_begun;
        let events = self.news.iter().filter(|event| after.is_some_and(|after| event.number >= after));
        NewsView { events: events.cloned().collect(), next }
    }

    /// Peers with an address: more than one when they differ by port.
    pub fn keys_of(&self, address: IpAddr) -> Vec<PeerKey> {
        self.peers.keys().filter(|key| key.address == address).copied().collect()
    }

    pub fn neighbor(&self, key: PeerKey, now: Instant) -> Option<NeighborView> {
        let peer = self.peers.get(&key)?;
        let status = peer.session.status();
        let incident = |incident: &super::super::session::Incident| IncidentView {
            seconds_ago: now.saturating_duration_since(incident.at).as_secs(),
            text: incident.text.clone(),
        };
        let (transport, terms) = (&peer.state.transport, &peer.state.terms);
        let told = peer.up.as_ref().and_then(|up| self.groups.get(up.group)?.as_ref());
        let told = told.map(|group| group.view(peer.index)).unwrap_or_default();
        let per_family = IpVersion::BOTH.into_iter().zip(told.advertised).map(|(family, advertised)| {
            let count = self.rib.counts(peer.index, family);
            FamilyView {
                family: family_name(family),
                received: count.received,
                accepted: count.received - count.rejected,
                rejected: count.rejected,
                stale: count.stale,
                advertised,
            }
        });
        Some(NeighborView {
            local: status.local.map(|address| address.to_string()),
            remote: status.remote.map(|address| address.to_string()),
            hold_seconds: status.hold_time.map(|time| time.as_secs()),
            keepalive_seconds: status.keepalive_time.map(|time| time.as_secs()),
            is_passive: transport.passive,
            has_password: transport.password.is_some(),
            ttl_security: transport.ttl_security,
            is_client: terms.reflector_client,
            next_hop: format!("{:?}", terms.next_hop),
            role: transport.role.map(|role| role_name(role).to_owned()),
            max_prefixes: terms.max_prefixes.count,
            is_bfd_up: transport.bfd.and(status.is_bfd_up),
            capabilities: status.peer_open.as_ref().map_or_else(Vec::new, |open| capabilities(&open.capabilities)),
            graceful: status.graceful.iter().map(|family| family_name(*family)).collect(),
            is_restarting: status.is_restarting,
            last_sent: status.last_sent.as_ref().map(incident),
            last_received: status.last_received.as_ref().map(incident),
            last_loss: status.last_loss.as_ref().map(incident),
            last_fault: peer.last_fault.clone(),
            refused_connections: status.refused,
            no_room: peer.no_room,
            per_family: per_family.collect(),
            peer: self.peer_view(&key, peer, now),
        })
    }

    /// Routes of a peer, in the order of prefixes; at most so many.
    pub fn routes(&self, key: PeerKey, which: Which, limit: usize) -> Option<Vec<RouteView>> {
        let peer = self.peers.get(&key)?;
        let mut routes = Vec::new();
        if which == Which::Advertised {
            let group = peer.up.as_ref().and_then(|up| self.groups.get(up.group)?.as_ref());
            for place in group.into_iter().flat_map(Group::advertised_places) {
                let told = group.into_iter().flat_map(|group| group.advertised(peer.index, place));
                routes.extend(told.map(|sent| {
                    let from = self.rib.facts(sent.source).map(|facts| facts.address);
                    RouteView { from, path_id: u32::from(sent.number), ..self.bare(place, &sent.attributes) }
                }));
            }
        } else {
            for (place, _, entry) in self.rib.iter() {
                let of_peer = entry.paths.iter().enumerate().filter(|(_, path)| path.peer == peer.index);
                for (at, path) in of_peer {
                    let is_rejected = path.rejected.is_some();
                    let is_wanted = match which {
                        Which::Received | Which::Advertised => true,
                        Which::Accepted => !is_rejected,
                        Which::Filtered => is_rejected,
                    };
                    if is_wanted {
                        routes.push(self.path_view(place, at, path, which == Which::Received));
                    }
                }
            }
        }
        routes.sort_by_key(|route| (route.prefix, route.path_id));
        routes.truncate(limit);
        Some(routes)
    }

    /// All best routes, or all paths to those that an address is in; at most so many.
    pub fn table(&self, limit: usize) -> Vec<RouteView> {
        let best = self.rib.iter().filter_map(|(place, _, entry)| {
            let best = usize::from(entry.best?);
            Some(self.path_view(place, best, entry.paths.get(best)?, false))
        });
        let mut routes: Vec<RouteView> = best.collect();
        routes.sort_by_key(|route| route.prefix);
        routes.truncate(limit);
        routes
    }

    /// The accepted paths to the first prefixes of each family, the best of a prefix first; at most so many of a family.
    pub fn first_paths(&self, limit: usize) -> Vec<RouteView> {
        let mut routes = Vec::new();
        for family in IpVersion::BOTH {
            let of_family = self.rib.iter().filter(|(_, prefix, _)| prefix.version() == family);
            let mut places: Vec<(Cidr, PrefixIndex)> = of_family.map(|(place, prefix, _)| (prefix, place)).collect();
            if places.len() > limit {
                places.select_nth_unstable(limit);
                places.truncate(limit);
            }
            places.sort_unstable();
            let begun = routes.len();
            for (_, place) in places {
                let paths = self.rib.entry(place).paths.iter().enumerate();
                let accepted = paths.filter(|(_, path)| path.rejected.is_none());
                let mut of_prefix: Vec<RouteView> =
                    accepted.map(|(at, path)| self.path_view(place, at, path, false)).collect();
                of_prefix.sort_by_key(|route| (!route.is_best, !route.is_multipath, route.from));
                routes.extend(of_prefix);
            }
            routes.truncate(begun + limit);
        }
        routes
    }

    /// The prefix that packets to an address go by.
    pub fn prefix_for(&self, address: IpAddr) -> Option<Cidr> {
        self.rib.longest(address).map(|place| self.rib.prefix(place))
    }

    /// All paths to a prefix with the reasons, and what peers are told of it: all, or one.
    pub fn why(&self, prefix: Cidr, only: Option<IpAddr>) -> Option<WhyView> {
        let place = self.rib.find(&prefix).filter(|place| !self.rib.entry(*place).paths.is_empty())?;
        let entry = self.rib.entry(place);
        let paths = entry.paths.iter().enumerate().map(|(at, path)| self.path_view(place, at, path, false));
        let mut paths: Vec<RouteView> = paths.collect();
        paths.sort_by_key(|path| (!path.is_best, !path.is_multipath, path.from));
        let told = self.peers.iter().filter(|(key, _)| only.is_none_or(|address| address == key.address));
        let told = told.flat_map(|(key, peer)| self.told(key, peer, place)).collect();
        let Ways { next_hops, backup } = forwarding::ways(&self.rib, place);
        Some(WhyView { prefix, paths, next_hops, backup: backup.into_iter().collect(), told })
    }

    fn told(&self, key: &PeerKey, peer: &Peer, place: PrefixIndex) -> Vec<ToldView> {
        let nothing = |reason: &str| vec![ToldView { peer: key.address, route: None, reason: Some(reason.to_owned()) }];
        let Some(up) = &peer.up else { return nothing("the session is not established") };
        let Some(Some(group)) = self.groups.get(up.group) else { return nothing("the session is not established") };
        let explained = group.explain(peer.index, &self.rib, place, &self.clients);
        let mut told: Vec<ToldView> = Vec::new();
        let mut reasons = Vec::new();
        for (path, result) in explained {
            match result {
                Ok(attributes) => {
                    let from = self.rib.facts(path.peer).map(|facts| facts.address);
                    let route = RouteView { from, ..self.bare(place, &attributes) };
                    told.push(ToldView { peer: key.address, route: Some(route), reason: None });
                }
                Err(reason) => reasons.push((matches!(reason, super::super::groups::export::NotTold::NotBest), reason)),
            }
        }
        if told.is_empty() {
            // Why the best is not told says more than why another is not.
            reasons.sort_by_key(|(is_not_best, _)| *is_not_best);
            return nothing(reasons.first().map_or("there is no usable path", |(_, reason)| reason.reason()));
        }
        told
    }

    fn path_view(&self, place: PrefixIndex, at: usize, path: &Path, is_received: bool) -> RouteView {
        let prefix = self.rib.prefix(place);
        let entry = self.rib.entry(place);
        let decision = self.rib.decision(place);
        let lost = decision.lost.iter().find(|(position, _)| *position == at).map(|(_, lost)| lost);
        let reason = match (path.rejected, lost) {
            (Some(super::super::rib::path::Rejected::Rules), _) => {
                let peer = self.peers.values().find(|peer| peer.index == path.peer);
                let internal = self.rib.facts(path.peer).is_some_and(|facts| facts.internal);
                let reason = peer.and_then(|peer| rules_reason(prefix, path, &peer.state, internal));
                Some(reason.unwrap_or_else(|| "rejected by import rules".to_owned()))
            }
            (Some(rejected), _) => Some(rejected.reason().to_owned()),
            (None, Some(lost)) => Some(lost.reason().to_owned()),
            (None, None) => None,
        };
        let attributes = if is_received { path.received() } else { &path.attributes };
        RouteView {
            from: self.rib.facts(path.peer).map(|facts| facts.address),
            local: path.local_kind().map(|kind| format!("{kind:?}").to_lowercase()),
            path_id: if path.peer.is_local() { 0 } else { path.path_id },
            is_best: entry.best == u16::try_from(at).ok(),
            is_multipath: decision.multipath.contains(&at),
            is_stale: path.stale != Stale::No,
            reason,
            ..self.bare(place, attributes)
        }
    }

    fn bare(&self, place: PrefixIndex, attributes: &Attributes) -> RouteView {
        let large = attributes.large_communities.iter().map(|(a, b, c)| format!("{a}:{b}:{c}"));
        let standard = attributes.communities.iter().map(|value| format!("{}:{}", value >> 16, value & 0xffff));
        RouteView {
            prefix: self.rib.prefix(place),
            from: None,
            local: None,
            path_id: 0,
            next_hop: attributes.next_hop.address,
            metric: self.rib.metric(&attributes.next_hop.address),
            as_path: as_path_text(&attributes.as_path),
            origin: match attributes.origin {
                Origin::Igp => "IGP",
                Origin::Egp => "EGP",
                Origin::Incomplete => "incomplete",
            }
            .to_owned(),
            med: attributes.med,
            local_pref: attributes.local_pref,
            communities: standard.chain(large).collect(),
            originator_id: attributes.originator_id,
            cluster_list: attributes.cluster_list.to_vec(),
            is_best: false,
            is_multipath: false,
            is_stale: false,
            reason: None,
        }
    }
}
