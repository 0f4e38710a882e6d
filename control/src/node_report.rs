//! What a node reports of itself when a CalicoNodeStatus asks: its speaker, its sessions, its routes.
//!
//! A function of what the speaker says. There is one speaker, which answers for what Calico calls `birdV4` and `birdV6`.
//!
//! Bounds: `ROUTES` routes of a family, the first by prefix; an object in the datastore has to fit there.
//!
//! Sources: the fields of Calico's CalicoNodeStatus, and what its node puts into them from BIRD.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use config::net::IpVersion;
use config::resource::{
    BgpDaemonState, BgpDaemonStatus, BgpPeerType, BgpSessionState, CalicoNodeStatusReport, NodeAgentStatus,
    NodeBgpStatus, NodePeer, NodeRoute, NodeRouteLearnedFrom, NodeRouteSource, NodeRouteType, NodeRoutesStatus,
    NodeStatusClass,
};

use crate::bgp::speaker::view::{PeerKindView, PeerView, RouteView, SummaryView};
use crate::datastore::transaction::time_text;

/// Routes of a family in a report.
pub const ROUTES: usize = 1000;
/// A route that has no gateway, as BIRD's tools say it.
const NO_GATEWAY: &str = "N/A";

/// What is reported.
pub struct Facts<'a> {
    pub now: SystemTime,
    /// When the daemon began, and when the speaker was told last what it should be.
    pub begun: SystemTime,
    pub reconfigured: Option<SystemTime>,
    pub speaker: &'a SummaryView,
    /// Addresses of the node that the speaker has.
    pub addresses: &'a [IpAddr],
    /// Paths that were accepted, by prefix; at most `ROUTES` of a family.
    pub routes: &'a [RouteView],
    /// Where packets to an address leave.
    pub interface: &'a dyn Fn(IpAddr) -> Option<String>,
}

/// The parts that are asked for.
pub fn report(classes: &[NodeStatusClass], facts: &Facts<'_>) -> CalicoNodeStatusReport {
    let mut report = CalicoNodeStatusReport { last_updated: Some(text(facts.now)), ..Default::default() };
    for class in classes {
        match class {
            NodeStatusClass::Agent => report.agent = agent(facts),
            NodeStatusClass::Bgp => report.bgp = sessions(facts),
            NodeStatusClass::Routes => report.routes = routes(facts),
        }
    }
    report
}

fn agent(facts: &Facts<'_>) -> NodeAgentStatus {
    let speaker = |family: IpVersion| {
        let is_ready = facts.addresses.iter().any(|address| IpVersion::of(*address) == family);
        BgpDaemonStatus {
            state: Some(if is_ready { BgpDaemonState::Ready } else { BgpDaemonState::NotReady }),
            version: concat!("vrouter ", env!("CARGO_PKG_VERSION")).to_owned(),
            router_id: facts.speaker.router_id.map(|id| id.to_string()).unwrap_or_default(),
            last_boot_time: text(facts.begun),
            last_reconfiguration_time: facts.reconfigured.map(text).unwrap_or_default(),
        }
    };
    NodeAgentStatus { bird_v4: speaker(IpVersion::V4), bird_v6: speaker(IpVersion::V6) }
}

fn sessions(facts: &Facts<'_>) -> NodeBgpStatus {
    let of = |family: IpVersion| {
        let peers = facts.speaker.peers.iter().filter(|peer| IpVersion::of(peer.address) == family);
        let peers: Vec<NodePeer> = peers.map(|peer| session(peer, facts.now)).collect();
        let up = peers.iter().filter(|peer| peer.state == Some(BgpSessionState::Established)).count();
        (count(up), count(peers.len() - up), peers)
    };
    let (v4, v6) = (of(IpVersion::V4), of(IpVersion::V6));
    NodeBgpStatus {
        number_established_v4: v4.0,
        number_not_established_v4: v4.1,
        number_established_v6: v6.0,
        number_not_established_v6: v6.1,
        peers_v4: v4.2,
        peers_v6: v6.2,
    }
}

fn session(peer: &PeerView, now: SystemTime) -> NodePeer {
    NodePeer {
        peer_ip: Some(peer.address),
        peer_type: Some(match peer.kind {
            PeerKindView::NodeMesh => BgpPeerType::NodeMesh,
            PeerKindView::Global => BgpPeerType::GlobalPeer,
            PeerKindView::Node | PeerKindView::LocalWorkload => BgpPeerType::NodePeer,
        }),
        state: Some(match peer.state.as_str() {
            "Connect" => BgpSessionState::Connect,
            "Active" => BgpSessionState::Active,
            "OpenSent" => BgpSessionState::OpenSent,
            "OpenConfirm" => BgpSessionState::OpenConfirm,
            "Established" => BgpSessionState::Established,
            _ => BgpSessionState::Idle,
        }),
        since: text(now.checked_sub(Duration::from_secs(peer.since_seconds)).unwrap_or(UNIX_EPOCH)),
    }
}

fn routes(facts: &Facts<'_>) -> NodeRoutesStatus {
    let of = |family: IpVersion| {
        let routes = facts.routes.iter().filter(|route| route.prefix.version() == family);
        routes.take(ROUTES).map(|view| route(view, facts)).collect()
    };
    NodeRoutesStatus { routes_v4: of(IpVersion::V4), routes_v6: of(IpVersion::V6) }
}

fn route(view: &RouteView, facts: &Facts<'_>) -> NodeRoute {
    let (gateway, towards) = match view.local {
        Some(_) => (NO_GATEWAY.to_owned(), view.prefix.address()),
        None => (view.next_hop.to_string(), view.next_hop),
    };
    let is_mesh = |from: IpAddr| {
        let peer = facts.speaker.peers.iter().find(|peer| peer.address == from);
        peer.is_some_and(|peer| peer.kind == PeerKindView::NodeMesh)
    };
    let source_type = match (view.local.as_deref(), view.from) {
        // Routes to endpoints are the kernel's in Calico, where Felix writes them.
        (Some("endpoint" | "kernel"), _) => NodeRouteSource::Kernel,
        (Some(_), _) | (None, None) => NodeRouteSource::Static,
        (None, Some(from)) if is_mesh(from) => NodeRouteSource::NodeMesh,
        (None, Some(_)) => NodeRouteSource::BgpPeer,
    };
    NodeRoute {
        route_type: Some(match view.is_best || view.is_multipath {
            true => NodeRouteType::Fib,
            false => NodeRouteType::Rib,
        }),
        destination: view.prefix.to_string(),
        gateway,
        interface: (facts.interface)(towards).unwrap_or_default(),
        learned_from: NodeRouteLearnedFrom {
            source_type: Some(source_type),
            peer_ip: view.from.filter(|_| view.local.is_none()),
        },
    }
}

fn text(time: SystemTime) -> String {
    time_text(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs())
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bgp::speaker::view::MessagesView;

    fn time(second: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_700_000_000 + second)
    }

    fn peer(address: &str, kind: PeerKindView, state: &str) -> PeerView {
        let none = MessagesView { opens: 0, updates: 0, notifications: 0, keepalives: 0, refreshes: 0 };
        PeerView {
            address: address.parse().unwrap(),
            port: 179,
            name: String::new(),
            kind,
            origin: String::new(),
            as_number: 64512,
            local_as: 64512,
            state: state.to_owned(),
            since_seconds: 100,
            problem: None,
            is_disabled: false,
            router_id: None,
            families: Vec::new(),
            received: 0,
            accepted: 0,
            rejected: 0,
            stale: 0,
            advertised: 0,
            established: 0,
            flaps: 0,
            messages_sent: none,
            messages_received: none,
            discarded_attributes: 0,
            withdrawn_by_error: 0,
            behind: 0,
            catching_up: 0,
            fell_behind: 0,
        }
    }

    fn view(prefix: &str, local: Option<&str>, from: Option<&str>, next_hop: &str, is_best: bool) -> RouteView {
        RouteView {
            prefix: config::net::Cidr::parse(prefix).unwrap(),
            from: from.map(|from| from.parse().unwrap()),
            local: local.map(str::to_owned),
            path_id: 0,
            next_hop: next_hop.parse().unwrap(),
            metric: None,
            as_path: String::new(),
            origin: String::new(),
            med: None,
            local_pref: None,
            communities: Vec::new(),
            originator_id: None,
            cluster_list: Vec::new(),
            is_best,
            is_multipath: false,
            is_stale: false,
            reason: None,
        }
    }

    fn made(classes: &[NodeStatusClass]) -> CalicoNodeStatusReport {
        let speaker = SummaryView {
            router_id: Some([192, 0, 2, 1].into()),
            as_number: Some(64512),
            cluster_id: None,
            listen_port: Some(179),
            prefixes: 0,
            paths: 0,
            attribute_sets: 0,
            memory_bytes: 4096,
            waiting_bytes: 0,
            is_deferred: false,
            peers: vec![
                peer("192.0.2.2", PeerKindView::NodeMesh, "Established"),
                peer("192.0.2.3", PeerKindView::Global, "Active"),
                peer("2001:db8::4", PeerKindView::Node, "Established"),
            ],
            station: None,
            problems: Vec::new(),
        };
        let routes = [
            view("10.1.0.0/26", Some("block"), None, "0.0.0.0", true),
            view("10.1.0.1/32", Some("endpoint"), None, "0.0.0.0", true),
            view("10.2.0.0/16", None, Some("192.0.2.2"), "192.0.2.2", true),
            view("10.2.0.0/16", None, Some("192.0.2.3"), "192.0.2.9", false),
        ];
        let interface = |address: IpAddr| match address.to_string().as_str() {
            "10.1.0.1" => Some("caliweb".to_owned()),
            "10.1.0.0" => None,
            _ => Some("eth0".to_owned()),
        };
        let facts = Facts {
            now: time(200),
            begun: time(0),
            reconfigured: Some(time(10)),
            speaker: &speaker,
            addresses: &["192.0.2.1".parse().unwrap()],
            routes: &routes,
            interface: &interface,
        };
        report(classes, &facts)
    }

    #[test]
    fn only_what_is_asked_for_is_reported() {
        let all = made(&[NodeStatusClass::Agent, NodeStatusClass::Bgp, NodeStatusClass::Routes]);
        let check = |classes: &[NodeStatusClass], expected: CalicoNodeStatusReport| {
            assert_eq!(made(classes), expected);
        };
        let last_updated = all.last_updated.clone();
        assert_eq!(last_updated.as_deref(), Some("2023-11-14T22:16:40Z"));
        let nothing = CalicoNodeStatusReport { last_updated, ..Default::default() };
        check(&[], nothing.clone());
        check(&[NodeStatusClass::Agent], CalicoNodeStatusReport { agent: all.agent.clone(), ..nothing.clone() });
        check(&[NodeStatusClass::Bgp], CalicoNodeStatusReport { bgp: all.bgp.clone(), ..nothing.clone() });
        check(&[NodeStatusClass::Routes], CalicoNodeStatusReport { routes: all.routes.clone(), ..nothing });
    }

    #[test]
    fn a_node_without_addresses_of_a_family_is_not_ready_there() {
        let agent = made(&[NodeStatusClass::Agent]).agent;
        assert_eq!(
            (agent.bird_v4.state, agent.bird_v6.state),
            (Some(BgpDaemonState::Ready), Some(BgpDaemonState::NotReady))
        );
        assert_eq!(agent.bird_v4.router_id, "192.0.2.1");
        let times = (agent.bird_v4.last_boot_time.as_str(), agent.bird_v4.last_reconfiguration_time.as_str());
        assert_eq!(times, ("2023-11-14T22:13:20Z", "2023-11-14T22:13:30Z"));
    }

    #[test]
    fn sessions_are_counted_by_family() {
        let bgp = made(&[NodeStatusClass::Bgp]).bgp;
        let counts = (bgp.number_established_v4, bgp.number_not_established_v4);
        assert_eq!((counts, bgp.number_established_v6, bgp.number_not_established_v6), ((1, 1), 1, 0));
        let expected = NodePeer {
            peer_ip: Some("192.0.2.3".parse().unwrap()),
            peer_type: Some(BgpPeerType::GlobalPeer),
            state: Some(BgpSessionState::Active),
            since: "2023-11-14T22:15:00Z".to_owned(),
        };
        assert_eq!(bgp.peers_v4[1], expected);
        assert_eq!(bgp.peers_v6.len(), 1);
    }

    #[test]
    fn routes_say_where_they_are_from() {
        let routes = made(&[NodeStatusClass::Routes]).routes.routes_v4;
        let check = |at: usize, expected: (NodeRouteType, &str, &str, NodeRouteSource, Option<&str>)| {
            let route = &routes[at];
            let learned = &route.learned_from;
            let from = learned.peer_ip.map(|ip| ip.to_string());
            let found = (route.route_type.unwrap(), route.gateway.as_str(), route.interface.as_str());
            assert_eq!(
                (found.0, found.1, found.2, learned.source_type.unwrap(), from.as_deref()),
                expected,
                "{}",
                route.destination
            );
        };
        use NodeRouteType::{Fib, Rib};
        check(0, (Fib, "N/A", "", NodeRouteSource::Static, None));
        check(1, (Fib, "N/A", "caliweb", NodeRouteSource::Kernel, None));
        check(2, (Fib, "192.0.2.2", "eth0", NodeRouteSource::NodeMesh, Some("192.0.2.2")));
        check(3, (Rib, "192.0.2.9", "eth0", NodeRouteSource::BgpPeer, Some("192.0.2.3")));
    }
}
