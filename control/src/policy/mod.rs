//! From resources to what this node should be. A function of the current resources, never of how they came about.
//!
//! ```text
//! WorkloadEndpoint, Profile ─labels─┬─▶ active: which policies select which local endpoints ─┐
//!                                   └─▶ ipsets: which addresses a rule's selector means ─────┤
//! Tier, policies ─order─▶ tiers of policies ─────────────────────────────────────────────────┴─▶ endpoint_rules ─▶ NodeState
//! ```
//!
//! | file | what it decides |
//! |---|---|
//! | `labels.rs` | the labels of an endpoint, own and inherited |
//! | `active.rs` | which policies select it |
//! | `order.rs` | in which order tiers and policies apply |
//! | `ipsets.rs` | the addresses behind a selector |
//! | `endpoint_rules.rs` | rules without names, programs per endpoint |
//! | `supported.rs` | which fields cannot be enforced yet and are therefore refused |
//! | `oracle.rs` | the same verdicts by an independent, naive way: what the compiled way is compared with |
//!
//! Sources: Calico's documentation of network policy, and shared semantics in docs/ARCHITECTURE.md.

pub mod active;
pub mod endpoint_rules;
pub mod ipsets;
pub mod labels;
pub mod oracle;
pub mod order;
pub mod supported;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use config::net::Cidr;
use config::resource::{ALL_INTERFACES, WorkloadEndpoint};

use crate::node_state::{EndpointState, NodeState, RouteState, RouteTarget};
use crate::resources::Resources;
use active::Policy;
use endpoint_rules::Builder;
use ipsets::Members;

/// What the node of this name should be.
pub fn calculate(resources: &Resources, node: &str) -> NodeState {
    let profiles = resources.profiles().map(|profile| (profile.metadata.name.as_str(), profile)).collect();
    let members = Members::collect(resources, &profiles);
    let policies = active::collect(resources);
    let tiers = order::tiers(resources, &policies);

    let mut builder = Builder::new(&members, &profiles);
    let mut state = NodeState::default();
    let mut problems = BTreeSet::new();
    for endpoint in local_endpoints(resources, node, &mut problems) {
        let labels = labels::of_workload(endpoint, &profiles);
        let selecting: Vec<&Policy> = policies.iter().filter(|policy| policy.selects(&labels)).collect();
        let profiles = &endpoint.spec.profiles;
        let ingress = builder.program(&tiers, &selecting, profiles, config::resource::PolicyType::Ingress);
        let egress = builder.program(&tiers, &selecting, profiles, config::resource::PolicyType::Egress);
        if endpoint.spec.mac.is_none() {
            problems.insert(format!(
                "WorkloadEndpoint {}/{}: spec.mac is missing, so packets to it cannot be sent; set it to the address of \
                 the interface inside the workload",
                endpoint.metadata.namespace.as_deref().unwrap_or_default(),
                endpoint.metadata.name
            ));
        }
        state.endpoints.push(EndpointState {
            key: config::resource::Resource::WorkloadEndpoint(endpoint.clone()).key(),
            interface: endpoint.spec.interface_name.clone(),
            mac: endpoint.spec.mac,
            addresses: endpoint.spec.ip_networks.clone(),
            egress,
            ingress,
        });
    }
    (state.sets, state.blocks, state.programs) = builder.finish();
    state.static_routes = static_routes(resources, node);
    state.pools = resources.ip_pools().filter(|pool| !pool.spec.disabled).map(|pool| pool.spec.cidr.masked()).collect();
    state.host_interfaces = resources
        .host_endpoints()
        .filter(|endpoint| endpoint.spec.node == node)
        .map(|endpoint| endpoint.spec.interface_name.clone())
        .filter(|name| !name.is_empty() && name != ALL_INTERFACES)
        .collect();
    state.node_addresses = resources
        .nodes()
        .filter(|resource| resource.metadata.name == node)
        .flat_map(|resource| {
            let bgp = resource.spec.bgp.iter().flat_map(|bgp| [bgp.ipv4_address, bgp.ipv6_address]).flatten();
            bgp.chain(resource.spec.addresses.iter().map(|address| address.address)).map(|cidr| cidr.address())
        })
        .collect();
    state.problems = problems.into_iter().collect();
    state
}

/// The endpoints of this node. Of two that claim one interface, the first in (orchestrator, workload, endpoint) order
/// has it; of two that claim one address, likewise.
fn local_endpoints<'a>(
    resources: &'a Resources,
    node: &str,
    problems: &mut BTreeSet<String>,
) -> Vec<&'a WorkloadEndpoint> {
    let mut all: Vec<&WorkloadEndpoint> = resources
        .workload_endpoints()
        .filter(|endpoint| endpoint.spec.node == node && !endpoint.spec.interface_name.is_empty())
        .collect();
    let rank = |endpoint: &WorkloadEndpoint| {
        let spec = &endpoint.spec;
        let workload = if spec.workload.is_empty() { &spec.pod } else { &spec.workload };
        let namespace = endpoint.metadata.namespace.clone();
        (spec.orchestrator.clone(), namespace, workload.clone(), spec.endpoint.clone(), endpoint.metadata.name.clone())
    };
    all.sort_by_cached_key(|endpoint| rank(endpoint));
    let mut by_interface: BTreeMap<&str, &WorkloadEndpoint> = BTreeMap::new();
    let mut by_address: BTreeMap<Cidr, &WorkloadEndpoint> = BTreeMap::new();
    all.retain(|endpoint| {
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
    all
}

fn static_routes(resources: &Resources, node: &str) -> Vec<RouteState> {
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
