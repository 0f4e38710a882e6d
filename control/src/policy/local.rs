//! What belongs to this node: its endpoints, its addresses, its routes, and the pools everybody shares.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use config::net::Cidr;
use config::resource::{Key, Node, Resource, WorkloadEndpoint};

use crate::node_state::{RouteState, RouteTarget};
use crate::resources::Resources;

/// Whether a resource is an endpoint of the node.
pub fn is_of_node(resource: Option<&Resource>, node: &str) -> bool {
    match resource {
        Some(Resource::WorkloadEndpoint(endpoint)) => endpoint.spec.node == node,
        Some(Resource::HostEndpoint(endpoint)) => endpoint.spec.node == node,
        _ => false,
    }
}

/// The endpoints that a node has.
pub struct Active {
    pub keys: BTreeSet<Key>,
    /// What is wrong with others that name it.
    pub problems: Vec<String>,
    /// Interfaces of endpoints that may not be used.
    pub closed: Vec<String>,
}

/// Which of the endpoints that name this node it has. Of two that claim one interface, the first in (orchestrator, workload,
/// endpoint) order has it; of two that claim one address, likewise; of host endpoints, the first by name,
/// and none has the interface of a workload.
pub fn active(resources: &Resources, own: &BTreeSet<Key>, allows_spoofing: bool) -> Active {
    let mut problems = BTreeSet::new();
    let is_refused =
        |endpoint: &WorkloadEndpoint| !allows_spoofing && !endpoint.spec.allow_spoofed_source_prefixes.is_empty();
    let (refused, usable): (Vec<_>, Vec<_>) =
        workloads(resources, own, &mut problems).into_iter().partition(|(_, endpoint)| is_refused(endpoint));
    for (key, _) in &refused {
        problems.insert(format!(
            "{key} is inactive: spec.allowSpoofedSourcePrefixes needs workloadSourceSpoofing Any, and it is Disabled"
        ));
    }
    let hosts = hosts(resources, own, &mut problems);
    Active {
        keys: usable.into_iter().map(|(key, _)| key).chain(hosts).cloned().collect(),
        problems: problems.into_iter().collect(),
        closed: refused.into_iter().map(|(_, endpoint)| endpoint.spec.interface_name.clone()).collect(),
    }
}

fn hosts<'a>(resources: &Resources, own: &'a BTreeSet<Key>, problems: &mut BTreeSet<String>) -> Vec<&'a Key> {
    let of_workloads: BTreeMap<&str, &Key> = own
        .iter()
        .filter_map(|key| match resources.get(key) {
            Some(Resource::WorkloadEndpoint(endpoint)) => Some((endpoint.spec.interface_name.as_str(), key)),
            _ => None,
        })
        .collect();
    let mut by_interface: BTreeMap<&str, &Key> = BTreeMap::new();
    let mut active = Vec::new();
    for key in own.iter() {
        let Some(Resource::HostEndpoint(endpoint)) = resources.get(key) else { continue };
        let interface = endpoint.spec.interface_name.as_str();
        if let Some(workload) = of_workloads.get(interface).filter(|_| !interface.is_empty()) {
            problems.insert(format!("{key} is inactive: interface {interface} is that of {workload}; name another"));
            continue;
        }
        match by_interface.get(interface).filter(|_| !interface.is_empty()) {
            Some(rival) => {
                problems.insert(format!(
                    "{key} is inactive: interface {interface} belongs to {}; delete one of the two",
                    rival.name
                ));
            }
            None => {
                by_interface.insert(interface, key);
                active.push(key);
            }
        }
    }
    active
}

fn workloads<'a>(
    resources: &'a Resources,
    own: &'a BTreeSet<Key>,
    problems: &mut BTreeSet<String>,
) -> Vec<(&'a Key, &'a WorkloadEndpoint)> {
    let endpoint = |key| match resources.get(key)? {
        Resource::WorkloadEndpoint(endpoint) => Some((key, endpoint)),
        _ => None,
    };
    let mut all: Vec<(&Key, &WorkloadEndpoint)> = own.iter().filter_map(endpoint).collect();
    all.retain(|(_, endpoint)| !endpoint.spec.interface_name.is_empty());
    let rank = |endpoint: &WorkloadEndpoint| {
        let spec = &endpoint.spec;
        let workload = if spec.workload.is_empty() { &spec.pod } else { &spec.workload };
        let namespace = endpoint.metadata.namespace.clone();
        (spec.orchestrator.clone(), namespace, workload.clone(), spec.endpoint.clone(), endpoint.metadata.name.clone())
    };
    all.sort_by_cached_key(|(_, endpoint)| rank(endpoint));
    let mut by_interface: BTreeMap<&str, &WorkloadEndpoint> = BTreeMap::new();
    let mut by_address: BTreeMap<Cidr, &WorkloadEndpoint> = BTreeMap::new();
    all.retain(|(_, endpoint)| {
        let interface = endpoint.spec.interface_name.as_str();
        let rival = by_interface.get(interface).map(|rival| (format!("interface {interface}"), *rival)).or_else(|| {
            let taken = endpoint.spec.ip_networks.iter().find_map(|cidr| Some((*cidr, *by_address.get(cidr)?)));
            taken.map(|(cidr, rival)| (format!("address {cidr}"), rival))
        });
        if let Some((what, rival)) = rival {
            problems.insert(format!(
                "WorkloadEndpoint {} is inactive: {what} belongs to {}; delete one of the two",
                endpoint.metadata.name, rival.metadata.name
            ));
            return false;
        }
        by_interface.insert(interface, endpoint);
        by_address.extend(endpoint.spec.ip_networks.iter().map(|cidr| (*cidr, *endpoint)));
        true
    });
    for (_, endpoint) in all.iter().filter(|(_, endpoint)| endpoint.spec.mac.is_none()) {
        problems.insert(format!(
            "WorkloadEndpoint {}/{}: spec.mac is missing, so packets to it cannot be sent; set it to the address of the \
             interface inside the workload",
            endpoint.metadata.namespace.as_deref().unwrap_or_default(),
            endpoint.metadata.name
        ));
    }
    all
}

pub fn static_routes(resources: &Resources, node: &str) -> Vec<RouteState> {
    resources
        .static_routes()
        .filter(|route| route.spec.node.as_deref().is_none_or(|wanted| wanted == node))
        .filter_map(|route| {
            let spec = &route.spec;
            let target = match (spec.blackhole, spec.next_hop, &spec.interface) {
                (true, ..) => RouteTarget::Blackhole,
                (_, Some(address), interface) => RouteTarget::NextHop { address, interface: interface.clone() },
                (_, None, Some(interface)) => RouteTarget::Interface(interface.clone()),
                // Validation refuses a route to nowhere.
                (_, None, None) => return None,
            };
            let name = format!("StaticRoute {}", route.metadata.name);
            Some(RouteState { name, destination: spec.destination.masked(), target })
        })
        .collect()
}

/// Prefixes of enabled pools.
pub fn pools(resources: &Resources) -> Vec<Cidr> {
    resources.ip_pools().filter(|pool| !pool.spec.disabled).map(|pool| pool.spec.cidr.masked()).collect()
}

/// What the node's own resource says of it.
pub fn node_addresses(resources: &Resources, node: &str) -> Vec<IpAddr> {
    resources.nodes().filter(|resource| resource.metadata.name == node).flat_map(addresses_of).collect()
}

/// The addresses that a node says it has.
pub fn addresses_of(node: &Node) -> impl Iterator<Item = IpAddr> {
    let bgp = node.spec.bgp.iter().flat_map(|bgp| [bgp.ipv4_address, bgp.ipv6_address]).flatten();
    bgp.chain(node.spec.addresses.iter().map(|address| address.address)).map(|cidr| cidr.address())
}
