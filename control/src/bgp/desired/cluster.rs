//! The nodes of the cluster as speakers of BGP, and what the BGPConfigurations say.
//!
//! The configuration `default` is for all nodes, `node.<name>` for one; what is not said there has Calico's defaults.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use config::net::{Cidr, IpVersion};
use config::resource::{
    BgpConfiguration, BgpConfigurationSpec, BindMode, DEFAULT_CONFIGURATION, Key, Kind, Labels, Node, NodeInterface,
    Resource,
};
use config::selector::Selector;
use sha2::{Digest, Sha256};

use crate::bgp::speaker_state::BGP_PORT;
use crate::resources::Resources;

/// Calico's, for whoever says nothing.
const AS_NUMBER_DEFAULT: u32 = 64_512;
/// The metric of a route that has nothing special.
const PRIORITY_DEFAULT: u32 = 1024;
/// The orchestrator whose names of nodes are in its resources.
const KUBERNETES: &str = "k8s";
/// First octets from here on are multicast and reserved: no router identifiers.
const UNICAST_OCTETS: u8 = 224;

/// What all nodes know.
pub struct Cluster<'a> {
    /// Those that have BGP data, by name.
    pub nodes: BTreeMap<&'a str, ClusterNode<'a>>,
    /// This one.
    pub own: ClusterNode<'a>,
    /// What holds for all nodes.
    pub global: Option<&'a BgpConfiguration>,
    /// What holds for this one.
    pub local: Option<&'a BgpConfiguration>,
}

/// A node that speaks BGP.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterNode<'a> {
    pub name: &'a str,
    /// Its name here, and in Kubernetes if that is another.
    pub names: Vec<&'a str>,
    pub labels: &'a Labels,
    /// With the length of the subnet that it is in.
    pub ipv4: Option<Cidr>,
    pub ipv6: Option<Cidr>,
    pub as_number: u32,
    pub cluster_id: Option<Ipv4Addr>,
    /// Addresses of its interfaces, with the lengths of their subnets.
    interfaces: &'a [NodeInterface],
    pub port: u16,
}

impl<'a> Cluster<'a> {
    /// None: the node is not there, or has no BGP data.
    pub fn of(resources: &'a Resources, name: &str) -> Option<Cluster<'a>> {
        let global = configuration(resources, DEFAULT_CONFIGURATION);
        let as_number = global.and_then(|global| global.spec.as_number);
        let as_number = as_number.map_or(AS_NUMBER_DEFAULT, |number| number.0);
        let global_port = global.and_then(|global| port(&global.spec)).unwrap_or(BGP_PORT);
        let node = |node: &'a Node| {
            let bgp = node.spec.bgp.as_ref()?;
            let name = node.metadata.name.as_str();
            let own = configuration(resources, &format!("node.{name}"));
            let others = node.spec.orch_refs.iter().filter(|other| other.orchestrator == KUBERNETES);
            let others = others.map(|other| other.node_name.as_str()).filter(|other| !other.is_empty());
            let node = ClusterNode {
                name,
                names: std::iter::once(name).chain(others).collect(),
                labels: &node.metadata.labels,
                ipv4: bgp.ipv4_address.filter(Cidr::is_ipv4),
                ipv6: bgp.ipv6_address.filter(|address| !address.is_ipv4()),
                as_number: bgp.as_number.map_or(as_number, |number| number.0),
                cluster_id: bgp.route_reflector_cluster_id,
                interfaces: &node.spec.interfaces,
                port: own.and_then(|own| port(&own.spec)).unwrap_or(global_port),
            };
            Some((name, node))
        };
        let nodes: BTreeMap<&str, ClusterNode<'_>> = resources.nodes().filter_map(node).collect();
        let own = nodes.get(name)?.clone();
        let local = configuration(resources, &format!("node.{name}"));
        Some(Cluster { nodes, own, global, local })
    }

    /// A field that a node's own configuration may set in place of the one for all.
    pub fn setting<T>(&self, field: impl Fn(&'a BgpConfigurationSpec) -> Option<T>) -> Option<T> {
        let own = self.local.and_then(|local| field(&local.spec));
        own.or_else(|| self.global.and_then(|global| field(&global.spec)))
    }

    /// A field that is the same for all nodes.
    pub fn global<T>(&self, field: impl Fn(&'a BgpConfigurationSpec) -> Option<T>) -> Option<T> {
        self.global.and_then(|global| field(&global.spec))
    }

    pub fn is_mesh_enabled(&self) -> bool {
        self.global(|spec| spec.node_to_node_mesh_enabled).unwrap_or(true)
    }

    /// The metric of routes of this family that have nothing special.
    pub fn normal_priority(&self, version: IpVersion) -> u32 {
        let priority = self.global(|spec| match version {
            IpVersion::V4 => spec.ipv4_normal_route_priority,
            IpVersion::V6 => spec.ipv6_normal_route_priority,
        });
        priority.and_then(|priority| u32::try_from(priority.get()).ok()).unwrap_or(PRIORITY_DEFAULT)
    }

    /// The address that workloads of every node have as their neighbour's.
    pub fn workload_peering_address(&self, version: IpVersion) -> Option<IpAddr> {
        self.global(|spec| match version {
            IpVersion::V4 => spec.local_workload_peering_ipv4.map(IpAddr::V4),
            IpVersion::V6 => spec.local_workload_peering_ipv6.map(IpAddr::V6),
        })
    }

    pub fn selected<'b>(&'b self, selector: &'b Selector) -> impl Iterator<Item = &'b ClusterNode<'a>> {
        self.nodes.values().filter(|node| selector.matches(node.labels))
    }

    /// The node's IPv4 address, also for a node that speaks IPv6 only; one that is made of the name where there is none.
    /// An identifier is any number that no other speaker of the system has (RFC 6286).
    pub fn router_id(&self) -> Ipv4Addr {
        match self.own.address(IpVersion::V4) {
            Some(IpAddr::V4(address)) => address,
            _ => hashed(self.own.name),
        }
    }

    /// Empty: all.
    pub fn listen_addresses(&self) -> Vec<IpAddr> {
        match self.global(|spec| spec.bind_mode) {
            Some(BindMode::NodeIp) => {
                IpVersion::BOTH.into_iter().filter_map(|version| self.own.address(version)).collect()
            }
            Some(BindMode::None) | None => Vec::new(),
        }
    }
}

impl ClusterNode<'_> {
    pub fn address(&self, version: IpVersion) -> Option<IpAddr> {
        self.subnet(version).map(|subnet| subnet.address())
    }

    /// The address, and how long the subnet is that it is in.
    pub fn subnet(&self, version: IpVersion) -> Option<Cidr> {
        match version {
            IpVersion::V4 => self.ipv4,
            IpVersion::V6 => self.ipv6,
        }
    }

    /// The address is on a link of the node, as far as its resource says which links it has.
    pub fn is_near(&self, address: IpAddr) -> bool {
        let interfaces = self.interfaces.iter().flat_map(|interface| &interface.addresses);
        [&self.ipv4, &self.ipv6].into_iter().flatten().chain(interfaces).any(|subnet| subnet.contains(address))
    }

    pub fn has_address(&self, address: IpAddr) -> bool {
        self.address(IpVersion::of(address)) == Some(address)
    }
}

fn configuration<'a>(resources: &'a Resources, name: &str) -> Option<&'a BgpConfiguration> {
    match resources.get(&Key::cluster(Kind::BgpConfiguration, name))? {
        Resource::BgpConfiguration(configuration) => Some(configuration),
        _ => None,
    }
}

fn port(spec: &BgpConfigurationSpec) -> Option<u16> {
    spec.listen_port.and_then(|port| u16::try_from(port.get()).ok())
}

/// The same identifier as Calico's `hash` makes of a name.
fn hashed(name: &str) -> Ipv4Addr {
    let hash = Sha256::digest(name);
    let [mut first, b, c, d] = [0, 1, 2, 3].map(|at| hash.get(at).copied().unwrap_or_default());
    if first >= UNICAST_OCTETS {
        first -= 32;
    }
    // Zero is no identifier (RFC 6286 §2.1).
    let identifier = Ipv4Addr::new(first, b, c, d);
    if identifier.is_unspecified() { Ipv4Addr::new(0, 0, 0, 1) } else { identifier }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_made_of_names() {
        assert_eq!(hashed("kube-master"), Ipv4Addr::new(25, 79, 212, 8));
        for number in 0..2000 {
            assert!(hashed(&format!("node-{number}")).octets()[0] < UNICAST_OCTETS);
        }
    }
}
