//! What a router should do with a valid packet, the slow and obvious way.
//!
//! The model reads the same [`Plan`] as the tables are built from, and nothing else: routes are scanned for the longest
//! prefix, rules are tried one after the other, open flows are a list. It knows nothing of bytes; the packet is given by
//! its fields. What the router does beyond it (answers, fragments, limits) has tests of its own.

use std::net::IpAddr;

use fastpath::burst::DropReason;
use fastpath::table::interface::InterfaceKind;

use crate::packet::{ICMP, ICMPV6};
use crate::plan::{Net, Plan, Rule, Rules, Way};

/// The fields of a packet that decide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fields {
    pub from: String,
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: u8,
    /// ICMP echo: the identifier, on the side of the one who asks.
    pub source_port: u16,
    pub destination_port: u16,
    /// Type and code.
    pub icmp: Option<(u8, u8)>,
    pub ttl: u8,
    /// Of the network packet.
    pub length: usize,
}

/// What should become of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    Forwarded(String),
    /// An ICMP error; the reason stands for which.
    Error(DropReason),
    Punted,
    Dropped(DropReason),
}

/// A flow as its first packet was: the ends, and the attachments it goes between.
#[derive(Clone, Debug)]
struct Flow {
    first: Fields,
    out: String,
}

#[derive(Default)]
pub struct Model {
    flows: Vec<Flow>,
}

impl Model {
    /// The verdict, which is remembered if it opens a flow.
    pub fn judge(&mut self, plan: &Plan, packet: &Fields) -> Expected {
        let from = plan.at(&packet.from);
        if from.kind == InterfaceKind::Workload && !from.addresses.contains(&packet.source) {
            return Expected::Dropped(DropReason::SourceSpoofed);
        }
        let known = self.flows.iter().find(|flow| is_forward(flow, packet) || is_reverse(flow, packet));
        // Where a packet of this direction comes in, and where it leaves.
        let ends = known.map(|flow| {
            if is_forward(flow, packet) { (&flow.first.from, &flow.out) } else { (&flow.out, &flow.first.from) }
        });
        let is_known = ends.is_some();
        if ends.is_some_and(|(comes_in, _)| *comes_in != packet.from) {
            return Expected::Dropped(DropReason::FlowWrongInterface);
        }
        let out = match way(plan, packet.destination) {
            None => return Expected::Error(DropReason::NoRoute),
            Some(Way::Blackhole) => return Expected::Dropped(DropReason::Blackhole),
            Some(Way::Unresolved(_)) => return Expected::Punted,
            Some(Way::Unreachable(_)) => return Expected::Error(DropReason::NeighbourUnresolved),
            Some(Way::Via(name)) => name,
        };
        let to = plan.at(&out);
        match (from.kind, to.kind) {
            (InterfaceKind::Uplink, InterfaceKind::Uplink) => return Expected::Dropped(DropReason::NotLocal),
            (InterfaceKind::Workload, InterfaceKind::Host) if !is_known && !plan.endpoint_to_host => {
                return Expected::Dropped(DropReason::EndpointToHost);
            }
            _ => {}
        }
        // The answer to one who came by the uplink with an endpoint's address does not go to that endpoint.
        let is_workload = |name: &String| plan.at(name).kind == InterfaceKind::Workload;
        if ends.is_some_and(|(_, leaves)| *leaves != out && (is_workload(leaves) || is_workload(&out))) {
            return Expected::Dropped(DropReason::FlowWrongInterface);
        }
        if packet.ttl <= 1 {
            return Expected::Error(DropReason::TtlExceeded);
        }
        if packet.length > usize::from(to.mtu) {
            return Expected::Error(DropReason::TooBig);
        }
        if !is_known {
            // What the host itself sends to its workloads is not policed; what its kernel forwards for others is.
            let owner = way(plan, packet.source);
            let is_own = matches!(&owner, Some(Way::Via(name)) if plan.at(name).kind == InterfaceKind::Host);
            let is_policed = from.kind != InterfaceKind::Host || !is_own;
            if is_policed && from.has_endpoint && !allows(&from.egress, packet) {
                return Expected::Dropped(DropReason::PolicyEgress);
            }
            if is_policed && to.has_endpoint && !allows(&to.ingress, packet) {
                return Expected::Dropped(DropReason::PolicyIngress);
            }
            self.flows.push(Flow { first: packet.clone(), out: out.clone() });
        }
        Expected::Forwarded(out)
    }
}

/// The way of the longest prefix; of two equal ones the later.
fn way(plan: &Plan, destination: IpAddr) -> Option<Way> {
    let routes = plan.all_routes();
    let covering = routes.into_iter().filter(|(net, _)| net.contains(destination));
    covering.max_by_key(|(Net(_, length), _)| *length).map(|(_, way)| way)
}

fn allows(rules: &Rules, packet: &Fields) -> bool {
    let decides = |rule: &&Rule| !rule.log && matches(rule, packet);
    rules.rules.iter().find(decides).map_or(rules.otherwise_allow, |rule| !rule.deny)
}

fn matches(rule: &Rule, packet: &Fields) -> bool {
    let has_ports = !is_icmp(packet);
    let is_in = |nets: &[Net], address| nets.is_empty() || nets.iter().any(|net| net.contains(address));
    let port = |port| if has_ports { port } else { 0 };
    let is_within = |ranges: &[(u16, u16)], port: u16| {
        ranges.is_empty() || ranges.iter().any(|(first, last)| (*first..=*last).contains(&port))
    };
    rule.is_ipv4.is_none_or(|wanted| wanted == packet.source.is_ipv4())
        && rule.protocol.is_none_or(|wanted| wanted == packet.protocol)
        && rule.icmp.is_none_or(|(kind, code)| {
            packet.icmp.is_some_and(|found| found.0 == kind && code.is_none_or(|code| code == found.1))
        })
        && is_in(&rule.from, packet.source)
        && is_in(&rule.to, packet.destination)
        && is_within(&rule.from_ports, port(packet.source_port))
        && is_within(&rule.to_ports, port(packet.destination_port))
}

fn is_icmp(packet: &Fields) -> bool {
    packet.protocol == if packet.source.is_ipv4() { ICMP } else { ICMPV6 }
}

fn is_forward(flow: &Flow, packet: &Fields) -> bool {
    let first = &flow.first;
    (first.source, first.destination, first.protocol, first.source_port, first.destination_port, first.icmp)
        == (
            packet.source,
            packet.destination,
            packet.protocol,
            packet.source_port,
            packet.destination_port,
            packet.icmp,
        )
}

/// The other way round; an echo request is answered by a reply, and the other way round.
fn is_reverse(flow: &Flow, packet: &Fields) -> bool {
    let first = &flow.first;
    let answer = first.icmp.map(|(kind, code)| match kind {
        8 => (0, code),
        0 => (8, code),
        128 => (129, code),
        129 => (128, code),
        kind => (kind, code),
    });
    (first.destination, first.source, first.protocol, first.destination_port, first.source_port, answer)
        == (
            packet.source,
            packet.destination,
            packet.protocol,
            packet.source_port,
            packet.destination_port,
            packet.icmp,
        )
}
