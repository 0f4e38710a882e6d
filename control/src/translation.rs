//! Whose source is translated on the way out of the node, and into what.
//!
//! | said by | whose | except on the way to |
//! |---|---|---|
//! | an IPPool with `natOutgoing` | addresses of the pool | any pool; with `IPPoolsAndHostIPs` also nodes' addresses |
//! | an endpoint with `vrouter/ip-masq` (CNI's `ipMasq`) | its addresses | any pool, and the networks that the annotation names |
//!
//! Outside such a source has the address of the uplink it leaves by: the one that the Node resource names if it is there, else
//! the first of the link; where the link has none, the node's. `natOutgoingAddress` stands before all of these.
//!
//! Only what a workload of this node sends by an uplink is translated, so each node does its own.
//!
//! Source: Calico, felix/dataplane/linux/masq_mgr.go; the plugin `bridge` for what `ipMasq` means.

use std::collections::BTreeSet;
use std::net::IpAddr;

use config::net::Cidr;
use config::resource::{AllowedUse, Resource, WorkloadEndpoint};
use fastpath::flow::mapped_address;
use fastpath::flow::translation::Sources;
use fastpath::io::shared::Shared;
use fastpath::table::Tables;
use fastpath::table::interface::InterfaceKind;
use fastpath::table::translation::{Ranges, Translations};

use crate::compile::{HostView, is_link_local, range_of};
use crate::host::{InterfaceAddress, LinkIndex};
use crate::node_state::NodeState;
use crate::policy::local;
use crate::resources::Resources;

/// An endpoint whose source is translated has this annotation. Its value: networks, separated by commas, that are reached with
/// its own source; possibly none.
pub const ANNOTATION: &str = "vrouter/ip-masq";

/// Whose source is translated, and on the way to whom it is not.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SourceTranslation {
    pub sources: BTreeSet<Cidr>,
    pub exempt: BTreeSet<Cidr>,
    /// One sentence for each value that cannot be read.
    pub problems: Vec<String>,
}

impl SourceTranslation {
    /// What the resources say, of which these are the node's own endpoints.
    pub fn of<'a>(
        resources: &Resources,
        exempts_nodes: bool,
        endpoints: impl Iterator<Item = &'a WorkloadEndpoint>,
    ) -> SourceTranslation {
        let mut translated = SourceTranslation::default();
        for pool in resources.ip_pools() {
            if pool.spec.nat_outgoing {
                translated.sources.insert(pool.spec.cidr.masked());
            }
            if pool.spec.is_for(AllowedUse::Workload) || pool.spec.is_for(AllowedUse::Tunnel) {
                translated.exempt.insert(pool.spec.cidr.masked());
            }
        }
        for endpoint in endpoints {
            translated.endpoint(endpoint);
        }
        if exempts_nodes {
            translated.exempt.extend(resources.nodes().flat_map(local::addresses_of).map(Cidr::host));
        }
        translated
    }

    fn endpoint(&mut self, endpoint: &WorkloadEndpoint) {
        let Some(networks) = endpoint.metadata.annotations.get(ANNOTATION) else { return };
        self.sources.extend(endpoint.spec.ip_networks.iter().map(Cidr::masked));
        for text in networks.split(',').map(str::trim).filter(|text| !text.is_empty()) {
            match Cidr::parse(text) {
                Ok(network) => {
                    self.exempt.insert(network.masked());
                }
                Err(_) => self.problems.push(format!(
                    "WorkloadEndpoint {}/{}: annotation {ANNOTATION}: found {text:?}, expected CIDRs, separated by commas; it is \
                     translated on the way there",
                    endpoint.metadata.namespace.as_deref().unwrap_or_default(),
                    endpoint.metadata.name
                )),
            }
        }
    }
}

/// Adds to tables what they have to know, with addresses numbered as the flow table has them. Returns what the programs of
/// uplinks have to know, and what is wrong.
pub fn complete(
    tables: &mut Tables,
    state: &NodeState,
    host: &HostView<'_>,
    sources: &Sources,
) -> (Shared, Vec<String>) {
    let translated = &state.translated;
    let mut problems = translated.problems.clone();
    let mut shared = Shared { ports: state.felix.nat_ports, ..Shared::default() };
    let ranges = |prefixes: &BTreeSet<Cidr>| Ranges::new(prefixes.iter().map(range_of).collect());
    let mut outside = Vec::new();
    // What is translated no more has open flows that are: they keep their addresses as long as this process lives.
    if !translated.sources.is_empty() || !sources.is_empty() {
        for (name, uplink) in host.attached.iter().filter(|(_, a)| a.kind == InterfaceKind::Uplink) {
            let Some(Some(interface)) = tables.interfaces.get_mut(uplink.index.index()) else { continue };
            for is_ipv4 in [true, false] {
                let Some(address) = address_of(uplink.link, is_ipv4, state, host.addresses) else {
                    let is_wanted = translated.sources.iter().any(|source| source.is_ipv4() == is_ipv4);
                    let family = if is_ipv4 { "IPv4" } else { "IPv6" };
                    problems.extend(is_wanted.then(|| {
                        format!("{name}: no {family} address to translate sources to; give it one, or name one in the Node resource")
                    }));
                    continue;
                };
                let Some(number) = sources.add(mapped_address(address)) else {
                    problems.push(format!(
                        "{name}: sources are not translated to {address}: 255 addresses have been in use; restart the router"
                    ));
                    continue;
                };
                interface.outside[usize::from(!is_ipv4)] = Some(number);
                outside.push((mapped_address(address), number));
                shared.addresses.insert(address);
            }
        }
    }
    tables.translations = Translations {
        sources: ranges(&translated.sources),
        exempt: ranges(&translated.exempt),
        ports: shared.ports,
        outside,
    };
    (shared, problems)
}

/// What the programs of uplinks have to know before there are tables.
pub fn expected(state: &NodeState, uplinks: impl Iterator<Item = LinkIndex>, addresses: &[InterfaceAddress]) -> Shared {
    let both = |uplink| [true, false].map(|is_ipv4| address_of(uplink, is_ipv4, state, addresses));
    let all = uplinks.filter(|_| !state.translated.sources.is_empty()).flat_map(both).flatten();
    Shared { addresses: all.collect(), ports: state.felix.nat_ports }
}

/// What stands for sources that leave by an uplink.
fn address_of(uplink: LinkIndex, is_ipv4: bool, state: &NodeState, addresses: &[InterfaceAddress]) -> Option<IpAddr> {
    let chosen = state.felix.nat_outgoing_address.map(IpAddr::from).filter(|_| is_ipv4);
    let is_usable =
        |address: &IpAddr| address.is_ipv4() == is_ipv4 && !is_link_local(*address) && !address.is_loopback();
    let on_link = || addresses.iter().filter(|own| own.link == uplink).map(|own| own.address).filter(is_usable);
    let of_node = || state.node_addresses.iter().copied().filter(is_usable);
    let named_there = || on_link().find(|address| state.node_addresses.contains(address));
    chosen.or_else(named_there).or_else(|| on_link().next()).or_else(|| of_node().next())
}

/// The endpoints among resources.
pub fn endpoints<'a>(
    resources: &'a Resources,
    keys: impl Iterator<Item = &'a config::resource::Key>,
) -> impl Iterator<Item = &'a WorkloadEndpoint> {
    keys.filter_map(|key| match resources.get(key) {
        Some(Resource::WorkloadEndpoint(endpoint)) => Some(endpoint),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeMap;

    use fastpath::flow::translation::SourceIndex;
    use fastpath::table::{InterfaceIndex, WorkerIndex};

    use super::*;
    use crate::compile::Attachment;
    use crate::felix::FelixSettings;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// What stands for sources on two uplinks with these addresses, by the node's own and the setting.
    fn outside(
        up0: &[&str],
        up1: &[&str],
        node: &[&str],
        chosen: Option<&str>,
    ) -> (Vec<[Option<IpAddr>; 2]>, Vec<String>) {
        let mut tables = Tables::default();
        let attached: BTreeMap<String, Attachment> = [(0, "up0"), (1, "up1")]
            .map(|(index, name)| {
                let attachment = Attachment {
                    index: InterfaceIndex(index),
                    link: LinkIndex(u32::from(index) + 10),
                    kind: InterfaceKind::Uplink,
                    owner: WorkerIndex(0),
                };
                (name.to_owned(), attachment)
            })
            .into();
        let interface = fastpath::table::interface::Interface {
            kind: InterfaceKind::Uplink,
            mac: [0; 6],
            mtu: 1500,
            tags: [0; 2],
            owner: WorkerIndex(0),
            endpoint: fastpath::table::EndpointIndex::NONE,
            is_up: true,
            host_endpoint: fastpath::table::HostEndpointIndex::NONE,
            to_host: fastpath::table::AdjacencyIndex::NONE,
            from_host: fastpath::table::AdjacencyIndex::NONE,
            outside: [None; 2],
        };
        tables.interfaces = vec![Some(interface.clone()), Some(interface)];
        let on = |link: u32, texts: &[&str]| -> Vec<InterfaceAddress> {
            let address =
                |text: &&str| InterfaceAddress { link: LinkIndex(link), address: ip(text), prefix_length: 24 };
            texts.iter().map(address).collect()
        };
        let addresses = [on(10, up0), on(11, up1)].concat();
        let view = HostView {
            links: &BTreeMap::new(),
            neighbours: &BTreeMap::new(),
            routes: &[],
            addresses: &addresses,
            attached: &attached,
            host_link: None,
        };
        let sources = BTreeSet::from([Cidr::host(ip("10.0.0.1")), Cidr::host(ip("fd00::1"))]);
        let state = NodeState {
            node_addresses: node.iter().map(|text| ip(text)).collect(),
            translated: SourceTranslation { sources, ..SourceTranslation::default() },
            felix: FelixSettings {
                nat_outgoing_address: chosen.map(|text| text.parse().unwrap()),
                ..FelixSettings::default()
            },
            ..NodeState::default()
        };
        let numbers = Sources::default();
        let (shared, problems) = complete(&mut tables, &state, &view, &numbers);
        let address = |number: SourceIndex| fastpath::flow::unmapped_address(numbers.address(number));
        let found: Vec<[Option<IpAddr>; 2]> = tables
            .interfaces
            .iter()
            .flatten()
            .map(|interface| interface.outside.map(|number| number.map(address)))
            .collect();
        let told: BTreeSet<IpAddr> = found.iter().flatten().flatten().copied().collect();
        assert_eq!(shared.addresses, told, "programs hand over what the tables know");
        let links = attached.values().map(|attachment| attachment.link);
        assert_eq!(expected(&state, links, &addresses), shared, "and know it before");
        assert!(tables.translations.applies(mapped_address(ip("10.0.0.1")), mapped_address(ip("198.51.100.1"))));
        (found, problems)
    }

    #[test]
    fn an_uplink_has_its_own_address_or_the_nodes() {
        let both = |ipv4: &str, ipv6: &str| [Some(ip(ipv4)), Some(ip(ipv6))];
        let link_local = "fe80::1";
        let (found, problems) = outside(
            &["192.0.2.1", "192.0.2.9", link_local, "2001:db8::1"],
            &["198.51.100.1", link_local, "2001:db8:1::1"],
            &[],
            None,
        );
        assert_eq!(found, [both("192.0.2.1", "2001:db8::1"), both("198.51.100.1", "2001:db8:1::1")]);
        assert_eq!(problems, Vec::<String>::new());
        // The Node resource chooses among several; and stands in where there is none.
        let (found, _) = outside(&["192.0.2.1", "192.0.2.9"], &[], &["192.0.2.9", "2001:db8::9"], None);
        assert_eq!(found, [both("192.0.2.9", "2001:db8::9"); 2]);
        let (found, _) = outside(&["192.0.2.1"], &["198.51.100.1"], &["2001:db8::9"], Some("203.0.113.1"));
        assert_eq!(found, [both("203.0.113.1", "2001:db8::9"); 2]);
    }

    #[test]
    fn an_uplink_without_an_address_is_told() {
        let (found, problems) = outside(&["192.0.2.1"], &["fe80::2"], &[], None);
        assert_eq!(found, [[Some(ip("192.0.2.1")), None], [None, None]]);
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(problems[0].starts_with("up0: no IPv6 address to translate sources to"), "{problems:?}");
    }
}
