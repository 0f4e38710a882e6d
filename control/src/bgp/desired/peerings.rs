//! Who speaks to whom: the sessions that a node should have, each with the reason for it.
//!
//! ```text
//!   BGPPeers for all nodes, by name          ─┐
//!   BGPPeers that name or select this node   ─┤ the first that claims an address and port has it
//!   BGPPeers that others speak to us by      ─┤
//!   the node-to-node mesh                    ─┘
//! ```
//!
//! A BGPPeer is written for one side. Where the other side is a node too, that node peers back by itself, so that one object
//! is a whole session; `reversePeering: Manual` leaves that to whoever writes the objects.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::IpAddr;

use config::net::IpVersion;
use config::resource::{Annotated, AsNumber, BgpAnnotations, BgpPeer, BgpPeerSpec, ReversePeering, WorkloadEndpoint};
use config::selector::Selector;

use super::cluster::{Cluster, ClusterNode};
use crate::bgp::speaker_state::{BGP_PORT, PeerKey, PeerKind};
use crate::policy::labels::{self, Labels, ProfileLabels};
use crate::policy::labels_of_profile;
use crate::resources::Resources;

/// A session, and why there is one.
#[derive(Debug, Clone, PartialEq)]
pub struct Peering<'a> {
    pub kind: PeerKind,
    pub remote_as: u32,
    /// The node at the other side, if it is one of ours.
    pub remote: Option<&'a ClusterNode<'a>>,
    /// What asks for it; none: the mesh.
    pub peer: Option<&'a BgpPeer>,
    /// It is the other side that asks for it.
    pub is_reverse: bool,
}

impl Peering<'_> {
    pub fn origin(&self) -> String {
        match self.peer {
            None => "node-to-node mesh".to_owned(),
            Some(peer) => format!("BGPPeer {}", peer.metadata.name),
        }
    }

    /// Whether the other side peers back by itself, so that both sides are sure to have the session.
    pub fn is_mutual(&self) -> bool {
        self.remote.is_some() && self.peer.is_none_or(peers_back)
    }

    fn is_explicit(&self) -> bool {
        self.peer.is_some() && !self.is_reverse
    }

    /// But for whose session it is.
    fn says_the_same(&self, other: &Peering<'_>) -> bool {
        let how = |peering: &Peering<'_>| {
            let peer = peering.peer?;
            let spec = BgpPeerSpec {
                node: String::new(),
                node_selector: None,
                peer_ip: None,
                peer_selector: None,
                local_workload_selector: None,
                reverse_peering: None,
                as_number: AsNumber(peering.remote_as),
                ..peer.spec.clone()
            };
            Some((spec, BgpAnnotations::read(&peer.metadata.annotations, Annotated::Peer).0))
        };
        how(self) == how(other)
    }

    pub fn gateway(&self) -> Option<IpAddr> {
        self.peer.filter(|_| !self.is_reverse).and_then(|peer| peer.spec.reachable_by)
    }
}

pub fn of_node<'a>(
    resources: &'a Resources,
    cluster: &'a Cluster<'a>,
    endpoints: &[&WorkloadEndpoint],
    problems: &mut Vec<String>,
) -> BTreeMap<PeerKey, Peering<'a>> {
    let workloads = workloads(resources, endpoints);
    let mut found = Found { cluster, workloads, peerings: BTreeMap::new(), problems };
    for wants_global in [true, false] {
        for peer in resources.bgp_peers() {
            let kind = if wants_global { PeerKind::Global } else { PeerKind::Node };
            if is_global(peer) == wants_global && is_local(peer, cluster) {
                found.explicit(peer, kind);
            }
        }
    }
    for peer in resources.bgp_peers() {
        found.reverse(peer);
    }
    if cluster.is_mesh_enabled() && cluster.own.cluster_id.is_none() {
        found.mesh();
    }
    found.peerings
}

/// A workload endpoint of this node, as selectors see it.
struct Workload {
    labels: Labels,
    addresses: Vec<IpAddr>,
}

/// None, if no BGPPeer asks for them.
fn workloads(resources: &Resources, endpoints: &[&WorkloadEndpoint]) -> Vec<Workload> {
    if resources.bgp_peers().all(|peer| peer.spec.local_workload_selector.is_none()) {
        return Vec::new();
    }
    let mut profiles = ProfileLabels::new();
    for name in endpoints.iter().flat_map(|endpoint| &endpoint.spec.profiles) {
        if !profiles.contains_key(name)
            && let Some(labels) = labels_of_profile(resources, name)
        {
            profiles.insert(name.clone(), labels);
        }
    }
    let first = |endpoint: &WorkloadEndpoint, version| {
        endpoint.spec.ip_networks.iter().find(|network| network.version() == version).map(|network| network.address())
    };
    let workload = |endpoint: &&WorkloadEndpoint| Workload {
        labels: labels::of_workload(endpoint, &profiles),
        addresses: IpVersion::BOTH.iter().filter_map(|version| first(endpoint, *version)).collect(),
    };
    endpoints.iter().map(workload).collect()
}

struct Found<'a, 'p> {
    cluster: &'a Cluster<'a>,
    workloads: Vec<Workload>,
    peerings: BTreeMap<PeerKey, Peering<'a>>,
    problems: &'p mut Vec<String>,
}

impl<'a> Found<'a, '_> {
    fn explicit(&mut self, peer: &'a BgpPeer, kind: PeerKind) {
        let cluster = self.cluster;
        if let Some(selector) = &peer.spec.local_workload_selector {
            self.workloads(peer, selector);
        } else if let Some(selector) = &peer.spec.peer_selector {
            for remote in cluster.selected(selector) {
                self.node(remote, &IpVersion::BOTH, kind, Some(peer), false);
            }
        } else if peer.spec.peer_ip.is_some() {
            self.address(peer, kind);
        } else {
            let name = &peer.metadata.name;
            let ways = "one of spec.peerIP, spec.peerSelector, spec.localWorkloadSelector has to say who the peer is";
            self.problems.push(format!("BGPPeer {name} has no session: {ways}"));
        }
    }

    /// Workloads of this node: each is spoken to at its first address of each family, from an address that all have as their
    /// neighbour's.
    fn workloads(&mut self, peer: &'a BgpPeer, selector: &Selector) {
        let remote_as = peer.spec.as_number.0;
        let selected: Vec<IpAddr> = self
            .workloads
            .iter()
            .filter(|workload| selector.matches(&workload.labels))
            .flat_map(|workload| &workload.addresses)
            .copied()
            .collect();
        for address in selected {
            let version = IpVersion::of(address);
            if self.cluster.workload_peering_address(version).is_none() {
                self.problems.push(format!(
                    "BGPPeer {} has no IPv{version} sessions to local workloads: localWorkloadPeeringIPV{version} is missing in \
                     BGPConfiguration default",
                    peer.metadata.name
                ));
                continue;
            }
            let kind = PeerKind::LocalWorkload;
            let peering = Peering { kind, remote_as, remote: None, peer: Some(peer), is_reverse: false };
            self.add(PeerKey { address, port: BGP_PORT }, peering);
        }
    }

    /// A peer that is named by its address. If it is one of our nodes, that node says what is left out.
    fn address(&mut self, peer: &'a BgpPeer, kind: PeerKind) {
        let Some(at) = peer.spec.peer_ip else { return };
        let remote = node_at(self.cluster, peer);
        let remote_as = match (peer.spec.as_number.0, remote) {
            (0, Some(remote)) => remote.as_number,
            (0, None) => {
                let name = &peer.metadata.name;
                return self.problems.push(format!(
                    "BGPPeer {name} has no session: spec.asNumber is missing, and {} is no node's address",
                    at.address
                ));
            }
            (number, _) => number,
        };
        let port = at.port.or(remote.map(|remote| remote.port)).unwrap_or(BGP_PORT);
        let peering = Peering { kind, remote_as, remote, peer: Some(peer), is_reverse: false };
        self.add(PeerKey { address: at.address, port }, peering);
    }

    /// The other side of what a node is asked to have with us.
    fn reverse(&mut self, peer: &'a BgpPeer) {
        let cluster = self.cluster;
        // A workload has a cluster of its own, which peers back, or does not.
        if !peers_back(peer) || peer.spec.local_workload_selector.is_some() {
            return;
        }
        let versions: &[IpVersion] = match (&peer.spec.peer_selector, peer.spec.peer_ip) {
            (Some(selector), _) if selector.matches(cluster.own.labels) => &IpVersion::BOTH,
            (None, Some(at)) if node_at(cluster, peer).is_some_and(|node| node.name == cluster.own.name) => {
                if at.address.is_ipv4() { &IpVersion::BOTH[..1] } else { &IpVersion::BOTH[1..] }
            }
            _ => return,
        };
        for remote in cluster.nodes.values().filter(|node| is_for(peer, node)) {
            self.node(remote, versions, PeerKind::Node, Some(peer), true);
        }
    }

    fn mesh(&mut self) {
        let cluster = self.cluster;
        for remote in cluster.nodes.values().filter(|node| node.cluster_id.is_none()) {
            self.node(remote, &IpVersion::BOTH, PeerKind::NodeMesh, None, false);
        }
    }

    /// One session per address that the node has.
    fn node(
        &mut self,
        remote: &'a ClusterNode<'a>,
        versions: &[IpVersion],
        kind: PeerKind,
        peer: Option<&'a BgpPeer>,
        is_reverse: bool,
    ) {
        for address in versions.iter().filter_map(|version| remote.address(*version)) {
            // A session of IPv6 needs an address of ours to be from. That a node has only one family is nothing to tell.
            if self.cluster.own.address(IpVersion::of(address)).is_none() {
                continue;
            }
            // What a peer calls itself by localASNumber it is called on the other side.
            let called = peer.filter(|_| is_reverse).and_then(|peer| peer.spec.local_as_number);
            let remote_as = called.map_or(remote.as_number, |number| number.0);
            let peering = Peering { kind, remote_as, remote: Some(remote), peer, is_reverse };
            self.add(PeerKey { address, port: remote.port }, peering);
        }
    }

    fn add(&mut self, key: PeerKey, peering: Peering<'a>) {
        // Nobody speaks to itself.
        if self.cluster.own.has_address(key.address) {
            return;
        }
        match self.peerings.entry(key) {
            Entry::Vacant(entry) => drop(entry.insert(peering)),
            Entry::Occupied(entry) => {
                let taken = entry.get();
                if taken.is_explicit() && peering.is_explicit() && !taken.says_the_same(&peering) {
                    self.problems.push(format!(
                        "{}: the session to {key} is as {} says, which is another thing; delete one of the two",
                        peering.origin(),
                        taken.origin()
                    ));
                }
            }
        }
    }
}

fn peers_back(peer: &BgpPeer) -> bool {
    peer.spec.reverse_peering != Some(ReversePeering::Manual)
}

fn is_global(peer: &BgpPeer) -> bool {
    peer.spec.node.is_empty() && peer.spec.node_selector.is_none()
}

fn is_local(peer: &BgpPeer, cluster: &Cluster<'_>) -> bool {
    is_for(peer, &cluster.own)
}

fn is_for(peer: &BgpPeer, node: &ClusterNode<'_>) -> bool {
    match &peer.spec.node_selector {
        Some(selector) => selector.matches(node.labels),
        None => peer.spec.node.is_empty() || peer.spec.node == node.name,
    }
}

/// The node that a peer's address is of, if its number and port are the peer's too: at the same address may be another
/// speaker, which is none of ours.
fn node_at<'a>(cluster: &'a Cluster<'a>, peer: &BgpPeer) -> Option<&'a ClusterNode<'a>> {
    let at = peer.spec.peer_ip?;
    let number = peer.spec.as_number.0;
    cluster.nodes.values().find(|node| {
        node.has_address(at.address)
            && (number == 0 || number == node.as_number)
            && at.port.is_none_or(|port| port == node.port)
    })
}
