//! What is told about addresses: pools and blocks, who has borrowed, whose one is, and what does not fit together.
//!
//! Functions of the records and the resources; nothing is asked of anybody.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::SystemTime;

use config::net::Cidr;
use config::resource::{
    AllocationAttributes, BlockOwner, IpamBlockSpec, Key, Kind, Resource, Switch, WorkloadEndpoint,
};

use super::block::{self, Counts};
use super::call::{
    AddressView, AllocationView, BlockView, BorrowedView, CheckView, CheckedAddress, CheckedBlock, ConfigurationView,
    CountsView, PoolView, PoolsView,
};
use super::handle::Tunnel;
use super::moment;
use super::pools::{self, CONFIGURATION, Rules};
use super::records::Records;
use crate::resources::Resources;
use crate::workload::identity;

pub fn pools(records: &Records, resources: &Resources) -> PoolsView {
    let reserved = pools::reserved(resources);
    let view = |block: &IpamBlockSpec| block_view(block, &reserved);
    let pool_view = |pool: &config::resource::IpPool| PoolView {
        name: pool.metadata.name.clone(),
        cidr: pool.spec.cidr.to_string(),
        is_disabled: pool.spec.disabled,
        counts: counts_view(&pools::state(pool, records, &reserved).counts),
        blocks: records.blocks_in(pool.spec.cidr).map(view).collect(),
    };
    let is_stray = |block: &&IpamBlockSpec| pools::pool_of(resources, block.cidr.address()).is_none();
    PoolsView {
        pools: resources.ip_pools().map(pool_view).collect(),
        stray: records.blocks().filter(is_stray).map(view).collect(),
    }
}

fn block_view(block: &IpamBlockSpec, reserved: &[Cidr]) -> BlockView {
    let is_reserved = |address: IpAddr| reserved.iter().any(|cidr| cidr.contains(address));
    BlockView {
        cidr: block.cidr.to_string(),
        affinity: block.affinity.clone(),
        counts: counts_view(&block::counts(block, &is_reserved)),
    }
}

fn counts_view(counts: &Counts) -> CountsView {
    let number = |count: u128| u64::try_from(count).unwrap_or(u64::MAX);
    CountsView {
        total: number(counts.total),
        in_use: number(counts.used),
        reserved: number(counts.reserved),
        resting: number(counts.resting),
        free: number(counts.free()),
    }
}

/// Addresses that a node has from a block of another, or of nobody.
pub fn borrowed(records: &Records) -> Vec<BorrowedView> {
    let mut found = Vec::new();
    for block in records.blocks() {
        for (ordinal, attributes) in block::held(block) {
            let Some(node) = attributes.secondary.get("node") else { continue };
            let owner = block.owner();
            if matches!(&owner, Some(BlockOwner::Host(owner)) if owner == node) {
                continue;
            }
            let kind = attributes.secondary.get("type").map_or("pod", String::as_str);
            found.push(BorrowedView {
                address: block.address(ordinal),
                borrowing_node: node.clone(),
                block: block.cidr.to_string(),
                block_owner: owner.map(|owner| owner.name().to_string()).unwrap_or_default(),
                kind: kind.to_string(),
                allocated_to: owner_text(attributes),
            });
        }
    }
    found
}

/// Whose an address is, in words: a pod, a tunnel, or a handle.
fn owner_text(attributes: &AllocationAttributes) -> String {
    let get = |name: &str| attributes.secondary.get(name).map(String::as_str);
    match (get("namespace"), get("pod"), get("type")) {
        (Some(namespace), Some(pod), _) => format!("{namespace}/{pod}"),
        (None, Some(pod), _) => pod.to_string(),
        (_, None, Some(kind)) => format!("{kind} of {}", get("node").unwrap_or("an unknown node")),
        _ => attributes.handle_id.clone().unwrap_or_else(|| "unknown".to_string()),
    }
}

pub fn configuration(resources: &Resources) -> ConfigurationView {
    let spec = match resources.get(&Key::cluster(Kind::IpamConfiguration, CONFIGURATION)) {
        Some(Resource::IpamConfiguration(configuration)) => configuration.spec.clone(),
        _ => Default::default(),
    };
    ConfigurationView {
        strict_affinity: spec.strict_affinity,
        auto_allocate_blocks: spec.auto_allocate_blocks,
        max_blocks_per_host: spec.max_blocks_per_host,
        ip_cooldown_seconds: spec.ip_cooldown_seconds.map_or(0, |seconds| seconds.get()),
        kube_virt_vm_address_persistence: spec.kube_virt_vm_address_persistence.unwrap_or(Switch::Enabled).to_string(),
    }
}

/// All that is known of an address.
pub fn who(records: &Records, resources: &Resources, address: IpAddr, now: SystemTime) -> AddressView {
    let place = records.block_of(address).and_then(|block| Some((block, block.ordinal(address)?)));
    let holder = place.and_then(|(block, ordinal)| block::holder(block, ordinal));
    let rest = Rules::of(resources).rest;
    let rests_until = place.and_then(|(block, ordinal)| block::rests_until(block, ordinal, rest));
    let endpoints = resources.workload_endpoints().filter(|endpoint| has(endpoint, address));
    AddressView {
        address,
        pool: pools::pool_of(resources, address).map(|pool| format!("{} ({})", pool.metadata.name, pool.spec.cidr)),
        block: place.map(|(block, _)| block.cidr.to_string()),
        block_owner: place.and_then(|(block, _)| block.affinity.clone()),
        is_reserved: pools::reserved(resources).iter().any(|cidr| cidr.contains(address)),
        is_assigned: holder.is_some(),
        handle: holder.and_then(|holder| holder.handle_id.clone()),
        attributes: holder.map(|holder| holder.secondary.clone()).unwrap_or_default(),
        sequence: place.and_then(|(block, ordinal)| block::sequence(block, ordinal)).filter(|_| holder.is_some()),
        rests_until: rests_until.filter(|until| *until > now).map(moment::text),
        endpoints: endpoints.map(endpoint_text).collect(),
    }
}

fn has(endpoint: &WorkloadEndpoint, address: IpAddr) -> bool {
    endpoint.spec.ip_networks.iter().any(|network| network.address() == address)
}

fn endpoint_text(endpoint: &WorkloadEndpoint) -> String {
    let namespace = endpoint.metadata.namespace.as_deref().unwrap_or_default();
    format!("{namespace}/{}", endpoint.metadata.name)
}

/// Compares what the records say with what is used.
pub fn check(records: &Records, resources: &Resources) -> CheckView {
    let mut used: BTreeMap<IpAddr, String> = BTreeMap::new();
    for endpoint in resources.workload_endpoints() {
        let networks = endpoint.spec.ip_networks.iter();
        used.extend(networks.map(|network| (network.address(), endpoint_text(endpoint))));
    }
    let workload_addresses = used.len();
    let nodes: BTreeSet<&str> = resources.nodes().map(|node| node.metadata.name.as_str()).collect();
    let pools: Vec<&config::resource::IpPool> = resources.ip_pools().filter(|pool| !pool.spec.disabled).collect();
    let mut view = CheckView {
        version: env!("CARGO_PKG_VERSION").to_string(),
        cluster_guid: String::new(),
        cluster_information_revision: String::new(),
        is_locked: is_locked(resources),
        pools: pools.iter().map(|pool| pool.spec.cidr.to_string()).collect(),
        blocks: Vec::new(),
        tunnel_addresses: 0,
        workload_addresses,
        nodes: BTreeMap::new(),
        handles_with_addresses: 0,
        leaked: Vec::new(),
        outside_pools: Vec::new(),
        not_assigned: Vec::new(),
        all: Vec::new(),
        handles_without_addresses: Vec::new(),
        missing_handles: Vec::new(),
    };
    if let Some(Resource::ClusterInformation(information)) =
        resources.get(&Key::cluster(Kind::ClusterInformation, "default"))
    {
        view.cluster_guid = information.spec.cluster_guid.clone();
        view.cluster_information_revision = information.metadata.resource_version.clone().unwrap_or_default();
    }
    let mut handles: BTreeSet<&str> = BTreeSet::new();
    let mut assigned: BTreeSet<IpAddr> = BTreeSet::new();
    for block in records.blocks() {
        let mut allocations = 0;
        for (ordinal, attributes) in block::held(block) {
            allocations += 1;
            let address = block.address(ordinal);
            assigned.insert(address);
            handles.extend(attributes.handle_id.as_deref());
            let node = attributes.secondary.get("node");
            if let Some(node) = node {
                *view.nodes.entry(node.clone()).or_default() += 1;
            }
            let kind = attributes.secondary.get("type").map(String::as_str);
            let is_tunnel = Tunnel::ALL.iter().any(|tunnel| kind == Some(tunnel.attribute()));
            let is_node_there = node.is_some_and(|node| nodes.contains(node.as_str()) || nodes.is_empty());
            view.tunnel_addresses += usize::from(is_tunnel && is_node_there);
            let found = CheckedAddress {
                address,
                handle: attributes.handle_id.clone(),
                sequence: block::sequence(block, ordinal),
                owner: owner_text(attributes),
            };
            if !(used.contains_key(&address) || is_tunnel && is_node_there) {
                view.leaked.push(found.clone());
            }
            view.all.push(found);
        }
        let (cidr, affinity) = (block.cidr.to_string(), block.affinity.clone());
        view.blocks.push(CheckedBlock { cidr, affinity, allocations });
    }
    for (address, owner) in used.iter().filter(|(address, _)| !assigned.contains(address)) {
        let found = CheckedAddress { address: *address, handle: None, sequence: None, owner: owner.clone() };
        match pools.iter().any(|pool| pool.spec.cidr.contains(*address)) {
            true => view.not_assigned.push(found),
            false => view.outside_pools.push(found),
        }
    }
    for (spec, _) in records.handles() {
        match handles.remove(spec.handle_id.as_str()) {
            true => view.handles_with_addresses += 1,
            false => view.handles_without_addresses.push(spec.handle_id.clone()),
        }
    }
    view.missing_handles = handles.into_iter().map(str::to_string).collect();
    view
}

/// What containers of this node have been given, by their main plugin or by another's.
pub fn allocations(records: &Records, resources: &Resources, host: &str) -> Vec<AllocationView> {
    let networks = resources.workload_endpoints().flat_map(|endpoint| &endpoint.spec.ip_networks);
    let used: BTreeSet<IpAddr> = networks.map(Cidr::address).collect();
    let mut found = Vec::new();
    for block in records.blocks() {
        for (ordinal, attributes) in block::held(block) {
            let has = |name: &str| attributes.secondary.contains_key(name);
            let is_ours = attributes.secondary.get("node").is_some_and(|node| node == host);
            if is_ours && (has(identity::ATTRIBUTES[0]) || has(identity::ALONE[0])) {
                let address = block.address(ordinal);
                found.push(AllocationView {
                    address,
                    handle: attributes.handle_id.clone(),
                    sequence: block::sequence(block, ordinal),
                    attributes: attributes.secondary.clone(),
                    is_attached: used.contains(&address),
                });
            }
        }
    }
    found
}

/// Whether somebody has asked everybody to stand by.
pub fn is_locked(resources: &Resources) -> bool {
    match resources.get(&Key::cluster(Kind::ClusterInformation, "default")) {
        Some(Resource::ClusterInformation(information)) => information.spec.datastore_ready == Some(false),
        _ => false,
    }
}
