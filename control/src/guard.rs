//! Host endpoints meet the node: which interface each one is on, and what follows from that for tables and programs.
//!
//! An endpoint that names an interface has it; one without a name has every interface with one of its addresses; of those
//! that come to one interface in either way, the first by its own name has it. `*` has every uplink that is left. An
//! interface with a host endpoint is *guarded*: its program gives the router what is for the host too, and what the host
//! sends by it.
//! Source: Calico, felix/dataplane/linux/endpoint_mgr.go, `resolveHostEndpoints` and `updateHostEndpoints`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use config::failsafe::FailsafePort;
use config::resource::ALL_INTERFACES;
use fastpath::io::guard::PortFilter;
use fastpath::table::InterfaceIndex;
use fastpath::table::interface::{Failsafe, Failsafes, InterfaceKind, WorkloadTunnels};

use crate::compile::{Attachment, range_of};
use crate::felix::FelixSettings;
use crate::host::{InterfaceAddress, Link, LinkIndex};
use crate::node_state::{HostEndpointState, NodeState};

/// By the interface's name, the position of its host endpoint.
pub type Claims = BTreeMap<String, usize>;

/// Which of [`NodeState::host_endpoints`] each attached uplink has.
pub fn claims(
    state: &NodeState,
    links: &BTreeMap<LinkIndex, Link>,
    addresses: &[InterfaceAddress],
    attached: &BTreeMap<String, Attachment>,
) -> Claims {
    let uplinks = attached.iter().filter(|(_, attachment)| attachment.kind == InterfaceKind::Uplink);
    claims_among(state, links, addresses, uplinks.map(|(name, _)| name.as_str()).collect())
}

/// The same before anything is attached: which interfaces endpoints ask for, and which of these uplinks `*` has.
pub fn claims_among(
    state: &NodeState,
    links: &BTreeMap<LinkIndex, Link>,
    addresses: &[InterfaceAddress],
    uplinks: BTreeSet<&str>,
) -> Claims {
    let mut claims = BTreeMap::new();
    let endpoints = || state.host_endpoints.iter().enumerate();
    // A workload's interface is none of the host's.
    let is_workloads = |name: &str| state.endpoints.iter().any(|endpoint| endpoint.interface == name);
    for (position, endpoint) in endpoints().filter(|(_, endpoint)| endpoint.interface != ALL_INTERFACES) {
        for name in places(endpoint, links, addresses).into_iter().filter(|name| !is_workloads(name)) {
            claims.entry(name).or_insert(position);
        }
    }
    if let Some((position, _)) = endpoints().find(|(_, endpoint)| endpoint.interface == ALL_INTERFACES) {
        for name in uplinks {
            claims.entry(name.to_owned()).or_insert(position);
        }
    }
    claims
}

/// The interface that an endpoint names, whatever its addresses; or those with one of its addresses.
fn places(
    endpoint: &HostEndpointState,
    links: &BTreeMap<LinkIndex, Link>,
    addresses: &[InterfaceAddress],
) -> BTreeSet<String> {
    if !endpoint.interface.is_empty() {
        return BTreeSet::from([endpoint.interface.clone()]);
    }
    let found = addresses.iter().filter(|own| endpoint.expected_addresses.contains(&own.address));
    let links = found.filter_map(|own| links.get(&own.link)).filter(|link| !link.loopback);
    links.map(|link| link.name.clone()).collect()
}

/// The uplinks by the kernel's numbers.
pub fn uplinks(attached: &BTreeMap<String, Attachment>) -> Vec<(u32, InterfaceIndex)> {
    let uplinks = attached.values().filter(|attachment| attachment.kind == InterfaceKind::Uplink);
    uplinks.map(|attachment| (attachment.link.0, attachment.index)).collect()
}

pub fn failsafes(felix: &FelixSettings) -> Failsafes {
    let all = |ports: &[FailsafePort]| -> Vec<Failsafe> {
        let failsafe = |port: &FailsafePort| Failsafe {
            protocol: port.protocol,
            port: port.port,
            remote: port.net.as_ref().map_or((0, u128::MAX), range_of),
        };
        ports.iter().map(failsafe).collect()
    };
    Failsafes { inbound: all(&felix.failsafe_inbound), outbound: all(&felix.failsafe_outbound) }
}

pub fn workload_tunnels(felix: &FelixSettings) -> WorkloadTunnels {
    WorkloadTunnels {
        vxlan_port: (!felix.allows_vxlan).then_some(felix.vxlan_port),
        is_ipip_denied: !felix.allows_ipip,
    }
}

/// What the programs of guarded interfaces let through by themselves.
pub fn port_filters(felix: &FelixSettings) -> BTreeSet<PortFilter> {
    let all = |is_inbound: bool, ports: &[FailsafePort]| -> Vec<PortFilter> {
        let filter = |port: &FailsafePort| PortFilter {
            is_inbound,
            protocol: port.protocol,
            port: port.port,
            remote: port.net.map(|net| (net.address(), net.length())),
        };
        ports.iter().map(filter).collect()
    };
    all(true, &felix.failsafe_inbound).into_iter().chain(all(false, &felix.failsafe_outbound)).collect()
}

/// The host's own addresses, as programs know them.
pub fn own_addresses(addresses: &[InterfaceAddress]) -> BTreeSet<IpAddr> {
    addresses.iter().map(|own| own.address).filter(|address| !address.is_loopback()).collect()
}
