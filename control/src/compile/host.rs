//! What the kernel of the host should be told, from the facts that the tables are made of.
//!
//! | route of the host | to |
//! |---|---|
//! | an address of an endpoint | the private pair, where workers have it |
//! | a block of this node | nowhere: the host's own packets to an address that nobody has leave by no default route |
//! | a BGP peer with `reachableBy` | its gateway, by the link on which that is a neighbour |
//!
//! A gateway that is a neighbour on no link has no route, until there is such a link.

use std::collections::BTreeMap;
use std::net::IpAddr;

use config::net::Cidr;
use fastpath::table::interface::InterfaceKind;
use fastpath::table::{GATEWAY_IPV4, GATEWAY_IPV6};

use super::{Choices, Compiler};
use crate::host::route::METRIC;
use crate::host::{GATEWAY_MAC, InterfaceAddress, NextHop, Route, Target};
use crate::reconcile::{HostState, LinkState};

impl Compiler<'_> {
    /// The host's own way to endpoints leads through the private pair; next hops on uplinks stay resolved.
    pub(super) fn desired<'n>(&self, guarded: impl Iterator<Item = &'n String>, choices: &Choices) -> HostState {
        let mut desired = HostState { managed: self.managed.clone(), ..HostState::default() };
        desired.routes.extend(choices.blocks.iter().map(|block| Route::new(*block, METRIC, Target::Blackhole)));
        desired.routes.extend(gateway_routes(&choices.gateways, self.host.addresses));
        for attachment in self.host.attached.values().filter(|a| a.kind == InterfaceKind::Workload) {
            if let Some(link) = self.link_of(attachment) {
                desired.links.insert(link.index, LinkState { up: true, mac: GATEWAY_MAC, mtu: link.mtu });
            }
        }
        let Some(host_link) = self.host.host_link else { return desired };
        // What passes between the host and a guarded uplink has the uplink's MTU.
        let links = guarded.filter_map(|name| self.host.attached.get(name)).filter_map(|a| self.link_of(a));
        if let Some(mtu) = links.map(|link| link.mtu).max() {
            let ours = self.host.attached.values().find(|a| a.kind == InterfaceKind::Host).map(|a| a.link);
            let pair = [Some(host_link), ours].into_iter().flatten().filter_map(|link| self.host.links.get(&link));
            for link in pair.filter(|link| link.mtu < mtu) {
                let mac = link.mac.unwrap_or_default();
                desired.links.insert(link.index, LinkState { up: true, mac, mtu });
            }
        }
        let gateways = [IpAddr::V4(GATEWAY_IPV4.into()), IpAddr::V6(GATEWAY_IPV6.into())];
        for gateway in gateways {
            desired.neighbours.insert((host_link, gateway), GATEWAY_MAC);
        }
        for endpoint in &self.state.endpoints {
            let is_attached = self.host.attached.contains_key(&endpoint.interface);
            for address in endpoint.addresses.iter().filter(|_| is_attached) {
                let gateway = if address.is_ipv4() { gateways[0] } else { gateways[1] };
                let hop = NextHop { link: host_link, gateway: Some(gateway), onlink: address.is_ipv4() };
                let mut route = Route::new(*address, METRIC, Target::Forward(vec![hop]));
                route.source = self.host_source(address.is_ipv4());
                desired.routes.insert(route);
            }
        }
        desired
    }

    /// The address that the host uses towards endpoints: the node's, if the kernel has it.
    fn host_source(&self, is_ipv4: bool) -> Option<IpAddr> {
        let own = |address: &&IpAddr| self.host.addresses.iter().any(|own| own.address == **address);
        self.state.node_addresses.iter().filter(|address| address.is_ipv4() == is_ipv4).find(own).copied()
    }
}

/// Host routes to peers. One that is its own gateway needs none, and nobody is reached by this node itself.
fn gateway_routes<'a>(
    gateways: &'a BTreeMap<IpAddr, IpAddr>,
    addresses: &'a [InterfaceAddress],
) -> impl Iterator<Item = Route> + 'a {
    let is_own = |gateway: &IpAddr| addresses.iter().any(|own| own.address == *gateway);
    let routes = gateways.iter().filter(move |(peer, gateway)| peer != gateway && !is_own(gateway));
    routes.filter_map(|(peer, gateway)| {
        let near = addresses.iter().filter(|own| {
            let subnet = Cidr::new(own.address, own.prefix_length).map(|subnet| subnet.masked());
            subnet.is_some_and(|subnet| subnet.contains(*gateway))
        });
        // As the kernel chooses: by the longest prefix.
        let link = near.max_by_key(|own| own.prefix_length)?.link;
        let hop = NextHop { link, gateway: Some(*gateway), onlink: false };
        Some(Route::new(Cidr::host(*peer), METRIC, Target::Forward(vec![hop])))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::LinkIndex;

    #[test]
    fn a_peer_is_reached_by_its_gateway() {
        let own = |link, address: &str, prefix_length| InterfaceAddress {
            link: LinkIndex(link),
            address: address.parse().unwrap(),
            prefix_length,
        };
        let addresses = [own(1, "10.0.0.1", 8), own(2, "10.1.0.1", 24), own(3, "fd00::1", 64)];
        let check = |peer: &str, gateway: &str, expected: Option<u32>| {
            let (peer, gateway) = (peer.parse().unwrap(), gateway.parse().unwrap());
            let routes: Vec<Route> = gateway_routes(&BTreeMap::from([(peer, gateway)]), &addresses).collect();
            let found: Vec<(Cidr, Target)> = routes.iter().map(|r| (r.destination(), r.target.clone())).collect();
            let hop = |link| NextHop { link: LinkIndex(link), gateway: Some(gateway), onlink: false };
            let expected: Vec<(Cidr, Target)> =
                expected.map(|link| (Cidr::host(peer), Target::Forward(vec![hop(link)]))).into_iter().collect();
            assert_eq!(found, expected, "{peer} by {gateway}");
        };
        check("192.0.2.7", "10.2.0.9", Some(1));
        check("192.0.2.7", "10.1.0.9", Some(2));
        check("2001:db8::7", "fd00::9", Some(3));
        check("192.0.2.7", "172.16.0.1", None);
        check("10.1.0.9", "10.1.0.9", None);
        check("192.0.2.7", "10.1.0.1", None);
    }
}
