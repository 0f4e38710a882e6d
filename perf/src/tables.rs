//! What the router is told in every measurement: two endpoints, their routes, and a policy of a given number of rules.
//!
//! ```text
//!     endpoint A  10.66.0.0/16  fd66::/64 ── interface 1 ── router ── interface 2 ── endpoint B  10.67.0.0/16  fd67::/64
//! ```
//!
//! The same policy stands at A's egress and at B's ingress. All its rules but the last are about addresses outside
//! both networks, so that the last one decides: the worst case of a linear list, and no special case of a compiled one.

use fastpath::flow::mapped;
use fastpath::flow::translation::SourceIndex;
use fastpath::header::ethernet::Mac;
use fastpath::header::protocol;
use fastpath::table::acl::{
    Acl, AclSpec, Action, L4Match, ProgramEnd, ProgramSpec, RuleSpec, SideMatch, TierEnd, TierSpec,
};
use fastpath::table::adjacency::{Adjacency, AdjacencyKind};
use fastpath::table::interface::{Endpoint, HostEndpoint, Interface, InterfaceKind};
use fastpath::table::routes::Routes;
use fastpath::table::translation::{Ranges, Translations};
use fastpath::table::{
    AdjacencyIndex, EndpointIndex, HostEndpointIndex, InterfaceIndex, ProgramIndex, RuleIndex, Tables, WorkerIndex,
};

use crate::random::Random;
use crate::route_sets;

pub const A: InterfaceIndex = InterfaceIndex(1);
pub const B: InterfaceIndex = InterfaceIndex(2);

/// The router's MAC address on every endpoint interface, as in Calico.
pub const ROUTER_MAC: Mac = [0xee; 6];
pub const A_MAC: Mac = [2, 0, 0, 0, 0, 0x0a];
pub const B_MAC: Mac = [2, 0, 0, 0, 0, 0x0b];

pub const A_IPV4: u32 = 0x0a42_0000;
pub const B_IPV4: u32 = 0x0a43_0000;
const NET_LENGTH_IPV4: u8 = 16;
pub const A_IPV6: u128 = 0xfd66 << 112;
pub const B_IPV6: u128 = 0xfd67 << 112;
const NET_LENGTH_IPV6: u8 = 64;

/// Numbered beyond all rules.
const END_OF_TIER: RuleIndex = RuleIndex(60_000);
const NO_MATCH: RuleIndex = RuleIndex(60_001);

/// The tables of a node with both endpoints.
pub fn two_endpoints(rules: usize, mtu: u16) -> Tables {
    let interface = |endpoint| {
        Some(Interface {
            kind: InterfaceKind::Workload,
            mac: ROUTER_MAC,
            mtu,
            tags: [0; 2],
            owner: WorkerIndex(0),
            endpoint: EndpointIndex(endpoint),
            is_up: true,
            host_endpoint: HostEndpointIndex::NONE,
            to_host: AdjacencyIndex::NONE,
            from_host: AdjacencyIndex::NONE,
            outside: [None; 2],
        })
    };
    let endpoint = |ipv4: u32, ipv6: u128| Endpoint {
        sources: vec![(mapped(ipv4), mapped(ipv4 | 0xffff)), (ipv6, ipv6 | u128::from(u64::MAX))],
        egress: ProgramIndex(0),
        ingress: ProgramIndex(0),
    };
    let adjacency = |interface, endpoint, mac| {
        Adjacency::new(AdjacencyKind::Forward, interface, EndpointIndex(endpoint), mtu, mac, ROUTER_MAC, [0; 2])
    };
    Tables {
        generation: 1,
        interfaces: vec![None, interface(0), interface(1)],
        endpoints: vec![endpoint(A_IPV4, A_IPV6), endpoint(B_IPV4, B_IPV6)],
        adjacencies: vec![adjacency(A, 0, A_MAC), adjacency(B, 1, B_MAC)],
        routes: Routes::build(
            vec![(A_IPV4, NET_LENGTH_IPV4, 0), (B_IPV4, NET_LENGTH_IPV4, 1)],
            vec![(A_IPV6, NET_LENGTH_IPV6, 0), (B_IPV6, NET_LENGTH_IPV6, 1)],
        ),
        policy: Acl::build(&policy(rules)),
        ..Tables::default()
    }
}

/// An uplink with a host endpoint whose list without state has this many rules, and the host behind it. Packets of
/// [`two_endpoints`] come in by A, which is the uplink here, and go to the host by B.
pub fn untracked(rules: usize, mtu: u16) -> Tables {
    let mut tables = two_endpoints(1, mtu);
    tables.policy = Acl::build(&policy(rules));
    tables.host_endpoints = vec![HostEndpoint {
        untracked_ingress: ProgramIndex(0),
        untracked_egress: ProgramIndex::NONE,
        pre_dnat: ProgramIndex::NONE,
        forward_ingress: ProgramIndex::NONE,
        forward_egress: ProgramIndex::NONE,
        ingress: ProgramIndex(0),
        egress: ProgramIndex(0),
    }];
    let passes = Adjacency::new(AdjacencyKind::Frame, B, EndpointIndex::NONE, mtu, [0; 6], ROUTER_MAC, [0; 2]);
    tables.adjacencies = vec![passes];
    for (kind, interface) in [InterfaceKind::Uplink, InterfaceKind::Host].into_iter().zip(&mut tables.interfaces[1..]) {
        let Some(interface) = interface else { continue };
        interface.kind = kind;
        interface.endpoint = EndpointIndex::NONE;
        if kind == InterfaceKind::Uplink {
            interface.host_endpoint = HostEndpointIndex(0);
            interface.to_host = AdjacencyIndex(0);
        }
    }
    tables.routes = Routes::default();
    tables
}

/// Makes B an uplink, and gives what A sends there another source.
pub fn translate(tables: &mut Tables, outside: Option<(u128, SourceIndex)>) {
    if let Some(uplink) = tables.interfaces[B.index()].as_mut() {
        uplink.kind = InterfaceKind::Uplink;
        uplink.endpoint = EndpointIndex::NONE;
        uplink.outside = [outside.map(|(_, number)| number), None];
    }
    tables.translations = Translations {
        sources: Ranges::new(vec![(mapped(A_IPV4), mapped(A_IPV4 | 0xffff))]),
        outside: outside.into_iter().collect(),
        ..Translations::default()
    };
}

/// The same with so many routes of a cluster beside those of the endpoints, none of which covers them.
pub fn with_routes(mut tables: Tables, count: usize) -> Tables {
    if count > 0 {
        route_to_b(&mut tables, count, 1);
    }
    tables
}

/// Routes to A, to B by this adjacency, and to so many networks of other nodes.
pub fn route_to_b(tables: &mut Tables, others: usize, adjacency: u32) {
    // 10.128.0.0/9 and fd80::/16: other nodes. They lead to A, where no packet of a measurement goes.
    let elsewhere = route_sets::cluster_ipv4(others).into_iter().filter(|(_, length, _)| *length > 0);
    let mut ipv4: Vec<_> = elsewhere.map(|(address, length, _)| (address | 0x0080_0000, length, 0)).collect();
    let elsewhere = route_sets::cluster_ipv6(others).into_iter().filter(|(_, length, _)| *length > 0);
    let other_prefix = |address: u128| address & !(0xffff << 112) | 0xfd80 << 112;
    let mut ipv6: Vec<_> = elsewhere.map(|(address, length, _)| (other_prefix(address), length, 0)).collect();
    ipv4.extend([(A_IPV4, NET_LENGTH_IPV4, 0), (B_IPV4, NET_LENGTH_IPV4, adjacency)]);
    ipv6.extend([(A_IPV6, NET_LENGTH_IPV6, 0), (B_IPV6, NET_LENGTH_IPV6, adjacency)]);
    tables.routes = Routes::build(ipv4, ipv6);
}

/// A port that nobody may reach, where a measurement needs one.
pub const DENIED_PORT: u16 = 7;

/// The same with two rules: one port is denied, everything else is allowed.
pub fn two_endpoints_but_one_port(mtu: u16) -> Tables {
    let mut spec = policy(1);
    let deny = RuleSpec {
        l4: L4Match { protocol: Some(protocol::UDP), ..L4Match::default() },
        source: SideMatch::default(),
        destination: SideMatch { ports: vec![(DENIED_PORT, DENIED_PORT)], ..SideMatch::default() },
        action: Action::Deny,
        index: RuleIndex(2),
    };
    spec.blocks[0].insert(0, deny);
    Tables { policy: Acl::build(&spec), ..two_endpoints(1, mtu) }
}

/// One program of one tier of one policy: rules as a cluster has them, and a last one that allows everything.
pub fn policy(rules: usize) -> AclSpec {
    const PORTS: [u16; 8] = [53, 80, 443, 2379, 3306, 5432, 8080, 9090];
    let mut random = Random::new(rules as u64);
    let mut block: Vec<RuleSpec> = (1..rules)
        .map(|position| {
            // 10.128.0.0/9: the networks of other nodes.
            let length = 24 + random.below(9) as u32;
            let host = (1u32 << (32 - length)) - 1;
            let first = (0x0a80_0000 | random.below(1 << 23) as u32) & !host;
            let port = PORTS[random.below(PORTS.len() as u64) as usize];
            let number = if random.below(4) == 0 { protocol::UDP } else { protocol::TCP };
            RuleSpec {
                l4: L4Match { protocol: Some(number), ..L4Match::default() },
                source: SideMatch { nets: vec![(mapped(first), mapped(first | host))], ..SideMatch::default() },
                destination: SideMatch { ports: vec![(port, port + 1)], ..SideMatch::default() },
                action: if random.below(8) == 0 { Action::Deny } else { Action::Allow },
                index: RuleIndex(position as u32),
            }
        })
        .collect();
    block.push(RuleSpec {
        l4: L4Match::default(),
        source: SideMatch::default(),
        destination: SideMatch::default(),
        action: Action::Allow,
        index: RuleIndex(rules as u32),
    });
    let tier = TierSpec { blocks: vec![0], end: TierEnd::Deny(END_OF_TIER) };
    let program = ProgramSpec { tiers: vec![tier], profiles: Vec::new(), end: ProgramEnd::Deny(NO_MATCH) };
    AclSpec { blocks: vec![block], programs: vec![program], ..AclSpec::default() }
}
