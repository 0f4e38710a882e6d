//! The routes that a node has to tell: its blocks, its endpoints, and what it tells of services.
//!
//! ```text
//!   BlockAffinity     confirmed, of this node          ─▶ the block, as one route that leads nowhere
//!   WorkloadEndpoint  of this node, each address       ─▶ a route to its interface
//!   StaticRoute       of this node                     ─▶ told where a filter accepts it
//!   Service           ranges, and addresses one by one ─▶ routes that lead nowhere (`services.rs`)
//! ```
//!
//! Which of them a peer is told is for the export rules: those in a block are told by the block.
//!
//! Left out: blocks of one address, which are told by what is there; affinities that are not confirmed. An endpoint that names
//! spoofed sources without leave keeps its address here: it is closed, not gone.

use std::collections::{BTreeMap, BTreeSet};

use config::net::Cidr;
use config::resource::{AffinityType, BlockAffinityState, Key, Resource, WorkloadEndpoint};

use super::cluster::Cluster;
use super::services;
use crate::bgp::speaker_state::{LocalRoute, LocalRouteKind};
use crate::policy::local;
use crate::resources::Resources;

/// What a node has to tell, and what rules need to know of it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LocalRoutes {
    pub routes: BTreeMap<Cidr, LocalRoute>,
    /// Confirmed ones of this node, those of one address too.
    pub blocks: BTreeSet<Cidr>,
    pub services: BTreeSet<Cidr>,
}

/// Of several routes to one prefix the endpoint's stays, then the block's, then the service's.
pub fn of_node(resources: &Resources, cluster: &Cluster<'_>, endpoints: &[&WorkloadEndpoint]) -> LocalRoutes {
    let services = services::of_node(resources, cluster);
    let blocks: BTreeSet<Cidr> = resources
        .block_affinities()
        .map(|affinity| &affinity.spec)
        .filter(|spec| spec.node == cluster.own.name && spec.affinity_type == AffinityType::Host)
        .filter(|spec| spec.state == BlockAffinityState::Confirmed && !spec.deleted)
        .map(|spec| spec.cidr.masked())
        .collect();
    let route = |prefix: Cidr, kind, interface: Option<&str>| {
        let metric = cluster.normal_priority(prefix.version());
        (prefix, LocalRoute { kind, metric, interface: interface.map(str::to_owned) })
    };
    let own_static = resources
        .static_routes()
        .map(|route| &route.spec)
        .filter(|spec| spec.node.as_deref().is_none_or(|node| node == cluster.own.name));
    let own_static =
        own_static.map(|spec| route(spec.destination.masked(), LocalRouteKind::Static, spec.interface.as_deref()));
    let mut routes: BTreeMap<Cidr, LocalRoute> = own_static.collect();
    routes.extend(services.iter().map(|prefix| route(*prefix, LocalRouteKind::Service, None)));
    let networks = blocks.iter().filter(|block| !block.is_host());
    routes.extend(networks.map(|block| route(*block, LocalRouteKind::Block, None)));
    for endpoint in endpoints {
        let spec = &endpoint.spec;
        let floating = spec.ip_nats.iter().map(|nat| Cidr::host(nat.external_ip));
        let addresses = spec.ip_networks.iter().map(Cidr::masked).chain(floating);
        routes.extend(addresses.map(|address| route(address, LocalRouteKind::Endpoint, Some(&spec.interface_name))));
    }
    LocalRoutes { routes, blocks, services }
}

/// The workload endpoints that this node has, of those that name it; in key order.
pub fn endpoints<'a>(resources: &'a Resources, own: &BTreeSet<Key>) -> Vec<&'a WorkloadEndpoint> {
    let active = local::active(resources, own, true);
    let endpoint = |key: &Key| match resources.get(key)? {
        Resource::WorkloadEndpoint(endpoint) => Some(endpoint),
        _ => None,
    };
    active.keys.iter().filter_map(endpoint).collect()
}
