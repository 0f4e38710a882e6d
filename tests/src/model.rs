//! What a router should do with a valid packet, the slow and obvious way.
//!
//! The model reads the same [`Plan`] as the tables are built from, and nothing else: routes are scanned for the longest
//! prefix, rules are tried one after the other, open flows are a list. It knows nothing of bytes; the packet is given by
//! its fields. What the router does beyond it (answers, fragments, limits) has tests of its own.
//!
//! Host endpoints, as Calico's documentation has them: untracked lists for every packet; then, for the first packet of a
//! flow, preDNAT on the way in; then for what is the host's the normal list, and for what is forwarded the forward list
//! beside the policies of workloads. Failsafe ports are open to all but the forward lists.

use std::net::IpAddr;

use fastpath::burst::DropReason;
use fastpath::table::interface::InterfaceKind;

use crate::packet::{ICMP, ICMPV6};
use crate::plan::{HostLists, Net, Plan, Rule, Rules, Way};

/// The fields of a packet that decide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fields {
    pub from: String,
    /// From the host: the uplink by which its kernel sends the packet. None: the router routes it.
    pub by: Option<String>,
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
        let passes = passage(plan, packet);
        let out = match (&passes, way(plan, packet.destination)) {
            (Some(out), _) => out.clone(),
            (None, None) => return Expected::Error(DropReason::NoRoute),
            (None, Some(Way::Blackhole)) => return Expected::Dropped(DropReason::Blackhole),
            (None, Some(Way::Unresolved(_))) => return Expected::Punted,
            (None, Some(Way::Unreachable(_))) => return Expected::Error(DropReason::NeighbourUnresolved),
            (None, Some(Way::Via(name))) => name,
            // Which of several a flow gets is not for a model to know: it is told of groups of one.
            (None, Some(Way::Choice(owners))) => match owners.into_iter().next() {
                Some(name) => name,
                None => return Expected::Dropped(DropReason::NextHopsGone),
            },
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
        if packet.ttl <= 1 && passes.is_none() {
            return Expected::Error(DropReason::TtlExceeded);
        }
        if packet.length > usize::from(to.mtu) {
            // What only passes is not the router's to answer for.
            return match passes {
                Some(_) => Expected::Dropped(DropReason::TooBig),
                None => Expected::Error(DropReason::TooBig),
            };
        }
        match untracked(plan, packet) {
            Some(Untracked::Denied(reason)) => return Expected::Dropped(reason),
            // Nothing is kept of it.
            Some(Untracked::Allowed) if passes.is_some() => return Expected::Forwarded(out),
            Some(Untracked::Allowed) | None => {}
        }
        if !is_known {
            if let Some(reason) = first_denial(plan, packet, &out) {
                return Expected::Dropped(reason);
            }
            self.flows.push(Flow { first: packet.clone(), out: out.clone() });
        }
        Expected::Forwarded(out)
    }
}

/// Where a packet goes that the router hands on as it is: what the host sends by an uplink, and what comes by an uplink
/// with a host endpoint and leads to no workload.
fn passage(plan: &Plan, packet: &Fields) -> Option<String> {
    if packet.by.is_some() {
        return packet.by.clone();
    }
    plan.at(&packet.from).host.as_ref()?;
    let leads_to_workload = match way(plan, packet.destination) {
        None | Some(Way::Choice(_)) => false,
        Some(Way::Blackhole) => true,
        Some(Way::Via(name) | Way::Unresolved(name) | Way::Unreachable(name)) => {
            plan.at(&name).kind == InterfaceKind::Workload
        }
    };
    (!leads_to_workload).then(|| plan.attachments.iter().find(|a| a.kind == InterfaceKind::Host).unwrap().name.clone())
}

enum Untracked {
    Denied(DropReason),
    Allowed,
}

/// What the lists without state say, if they say anything.
fn untracked(plan: &Plan, packet: &Fields) -> Option<Untracked> {
    let (lists, reason, is_failsafe) = match &packet.by {
        Some(uplink) => {
            let rules = plan.at(uplink).host.as_ref()?.untracked_egress.as_ref()?;
            if !is_own(plan, packet.source) {
                return None;
            }
            let answers = is_failsafe(&plan.failsafe_inbound, packet.protocol, packet.source_port);
            let asks = is_failsafe(&plan.failsafe_outbound, packet.protocol, packet.destination_port);
            (rules, DropReason::HostUntrackedEgress, answers || asks)
        }
        None => {
            let rules = plan.at(&packet.from).host.as_ref()?.untracked_ingress.as_ref()?;
            let asks = is_failsafe(&plan.failsafe_inbound, packet.protocol, packet.destination_port);
            let answers = is_failsafe(&plan.failsafe_outbound, packet.protocol, packet.source_port);
            (rules, DropReason::HostUntrackedIngress, answers || asks)
        }
    };
    match first(lists, packet).filter(|_| !is_failsafe) {
        Some(rule) if rule.deny => Some(Untracked::Denied(reason)),
        Some(_) => Some(Untracked::Allowed),
        None => None,
    }
}

/// The first list on the way of a new flow that denies it.
fn first_denial(plan: &Plan, packet: &Fields, out: &str) -> Option<DropReason> {
    let (from, to) = (plan.at(&packet.from), plan.at(out));
    let asks_failsafe = is_failsafe(&plan.failsafe_inbound, packet.protocol, packet.destination_port);
    let denies =
        |rules: &Option<Vec<Rule>>| rules.iter().any(|rules| first(rules, packet).is_some_and(|rule| rule.deny));
    let closes = |rules: &Option<Rules>| rules.as_ref().is_some_and(|rules| !allows(rules, packet));
    let early = |lists: &HostLists| !asks_failsafe && denies(&lists.pre_dnat);

    if from.kind == InterfaceKind::Uplink && to.kind == InterfaceKind::Host {
        let lists = from.host.as_ref()?;
        return match is_own(plan, packet.destination) {
            _ if early(lists) => Some(DropReason::HostPreDnat),
            false => closes(&lists.forward_ingress).then_some(DropReason::HostForwardIngress),
            true => (!asks_failsafe && !allows(&lists.ingress, packet)).then_some(DropReason::HostIngress),
        };
    }
    if from.kind == InterfaceKind::Host && to.kind == InterfaceKind::Uplink {
        let lists = to.host.as_ref()?;
        let is_failsafe = is_failsafe(&plan.failsafe_outbound, packet.protocol, packet.destination_port);
        return match is_own(plan, packet.source) {
            false => closes(&lists.forward_egress).then_some(DropReason::HostForwardEgress),
            true => (!is_failsafe && !allows(&lists.egress, packet)).then_some(DropReason::HostEgress),
        };
    }
    // What the host itself sends to its workloads is not policed; what its kernel forwards for others is.
    if from.kind == InterfaceKind::Host && is_own(plan, packet.source) {
        return None;
    }
    let checks = [
        (from.host.as_ref().is_some_and(early), DropReason::HostPreDnat),
        (from.host.as_ref().is_some_and(|lists| closes(&lists.forward_ingress)), DropReason::HostForwardIngress),
        (from.has_endpoint && !allows(&from.egress, packet), DropReason::PolicyEgress),
        (to.has_endpoint && !allows(&to.ingress, packet), DropReason::PolicyIngress),
        (to.host.as_ref().is_some_and(|lists| closes(&lists.forward_egress)), DropReason::HostForwardEgress),
    ];
    checks.into_iter().find(|(is_denied, _)| *is_denied).map(|(_, reason)| reason)
}

fn is_failsafe(ports: &[(u8, u16)], protocol: u8, port: u16) -> bool {
    ports.contains(&(protocol, port))
}

/// Whether the host has the address.
fn is_own(plan: &Plan, address: IpAddr) -> bool {
    matches!(way(plan, address), Some(Way::Via(name)) if plan.at(&name).kind == InterfaceKind::Host)
}

/// The way of the longest prefix; of two equal ones the later.
fn way(plan: &Plan, destination: IpAddr) -> Option<Way> {
    let routes = plan.all_routes();
    let covering = routes.into_iter().filter(|(net, _)| net.contains(destination));
    covering.max_by_key(|(Net(_, length), _)| *length).map(|(_, way)| way)
}

fn allows(rules: &Rules, packet: &Fields) -> bool {
    first(&rules.rules, packet).map_or(rules.otherwise_allow, |rule| !rule.deny)
}

/// The first rule that decides.
fn first<'a>(rules: &'a [Rule], packet: &Fields) -> Option<&'a Rule> {
    rules.iter().find(|rule| !rule.log && matches(rule, packet))
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
