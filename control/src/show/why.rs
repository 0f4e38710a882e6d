//! Why was it dropped: recent drops, with the rule that decided and the one that almost matched.
//!
//! Who decided is as it was then. What almost matched is looked for in the resources as they are now.

use std::net::IpAddr;
use std::time::Instant;

use config::resource::{PolicyType, Resource, WorkloadEndpoint};
use fastpath::burst::DropReason;
use fastpath::flow::{Key, KeyKind, unmapped_address};
use fastpath::header::protocol;

use super::protocol_name;
use super::recent::Seen;
use crate::control::Control;
use crate::http::views::{DecisionView, DifferenceView, NearView, RecentDropView, WhyRequest, WhyView};
use crate::policy::decided::Decided;
use crate::policy::oracle::{Difference, Fields, Lists, Near, Oracle, Verdict};
use crate::resources::Resources;

/// Drops in an answer that did not say how many.
const USUAL: usize = 20;
const MOST: usize = 1000;

pub fn why<D>(control: &Control<D>, request: &WhyRequest) -> WhyView {
    let most = request.last.unwrap_or(USUAL).min(MOST);
    let found = control.drops.recent.find(most, |seen| is_wanted(request, seen));
    let oracle = Oracle::new(&control.resources);
    let node = control.settings.node_name.as_str();
    let now = Instant::now();
    let lost: u64 = control.attachments.remotes().map(|remote| remote.counters.records_lost.get()).sum();
    WhyView {
        drops: found.into_iter().map(|seen| view(seen, &oracle, &control.resources, node, now)).collect(),
        remembered: control.drops.recent.len() as u64,
        not_kept: lost + control.drops.recent.forgotten,
        generation: control.generation,
    }
}

fn is_wanted(request: &WhyRequest, seen: &Seen) -> bool {
    let key = &seen.key;
    let (source_port, destination_port) = ports(key);
    request.source.is_none_or(|wanted| unmapped_address(key.source) == wanted)
        && request.destination.is_none_or(|wanted| unmapped_address(key.destination) == wanted)
        && request.source_port.is_none_or(|wanted| source_port == Some(wanted))
        && request.port.is_none_or(|wanted| destination_port == Some(wanted))
        && request.protocol.is_none_or(|wanted| key.protocol == wanted)
        && request.interface.as_ref().is_none_or(|wanted| seen.about.interface.as_ref() == Some(wanted))
        && request.reason.as_ref().is_none_or(|wanted| seen.kind.reason.name() == wanted)
}

/// Source and destination, of packets that have ports.
fn ports(key: &Key) -> (Option<u16>, Option<u16>) {
    let has_ports = key.kind == KeyKind::Ports && protocol::has_ports(key.protocol);
    (has_ports.then_some(key.source_port), has_ports.then_some(key.destination_port))
}

/// What rules look at in a packet of this flow.
pub fn fields(key: &Key) -> Fields {
    let (source_port, destination_port) = ports(key);
    Fields {
        source: unmapped_address(key.source),
        destination: unmapped_address(key.destination),
        protocol: key.protocol,
        source_port: source_port.unwrap_or(0),
        destination_port: destination_port.unwrap_or(0),
        icmp: key.icmp(),
    }
}

fn view(seen: &Seen, oracle: &Oracle, resources: &Resources, node: &str, now: Instant) -> RecentDropView {
    let key = &seen.key;
    let fields = fields(key);
    let (source_port, destination_port) = ports(key);
    let ago = |then: Instant| now.saturating_duration_since(then).as_millis() as f64 / 1000.0;
    let reason = seen.kind.reason;
    RecentDropView {
        last_seen_seconds_ago: ago(seen.last),
        first_seen_seconds_ago: ago(seen.first),
        packets: seen.packets,
        interface: seen.about.interface.clone(),
        protocol: protocol_name(key.protocol),
        source: fields.source,
        destination: fields.destination,
        source_port,
        destination_port,
        icmp_type: fields.icmp.map(|(kind, _)| kind),
        icmp_code: fields.icmp.map(|(_, code)| code),
        reason: reason.name().into(),
        description: reason.description().into(),
        generation: seen.generation,
        decision: seen.about.rule.as_ref().map(|rule| {
            let (endpoint, direction) = match reason {
                DropReason::PolicyEgress => {
                    (on_interface(resources, node, seen.about.interface.as_deref()), PolicyType::Egress)
                }
                _ => (owner(resources, node, fields.destination), PolicyType::Ingress),
            };
            let verdict = Verdict { allow: false, rule: rule.clone(), log: None };
            decision(&Asked { resources, oracle, endpoint, direction, fields: &fields }, &verdict, &seen.about.decided)
        }),
    }
}

/// Whose policy was asked about what.
pub struct Asked<'a> {
    pub resources: &'a Resources,
    pub oracle: &'a Oracle,
    pub endpoint: Option<&'a WorkloadEndpoint>,
    pub direction: PolicyType,
    pub fields: &'a Fields,
}

/// A decision with the rule that almost turned it.
pub fn decision(asked: &Asked<'_>, verdict: &Verdict, decided: &Decided) -> DecisionView {
    let nearest = asked.endpoint.and_then(|endpoint| {
        let lists = Lists::of_workload(asked.resources, endpoint, asked.direction);
        asked.oracle.nearest(&lists, asked.fields, verdict)
    });
    DecisionView {
        endpoint: asked.endpoint.map(|endpoint| Resource::WorkloadEndpoint(endpoint.clone()).key().to_string()),
        direction: asked.direction.word().into(),
        verdict: if verdict.allow { "allow" } else { "deny" }.into(),
        name: Some(verdict.rule.clone()).filter(|name| !name.is_empty()),
        tier: decided.tier.clone(),
        policy: decided.policy.clone(),
        rule: decided.rule(),
        position: decided.position,
        nearest: nearest.map(near_view),
    }
}

fn near_view(near: Near) -> NearView {
    let sentence = near.sentence();
    let difference = |d: Difference| DifferenceView { wanted: d.wanted, found: d.found };
    let differences = near.differences.into_iter().map(difference).collect();
    NearView { rule: near.rule, would_allow: near.would_allow, differences, sentence }
}

/// The endpoint behind an interface of this node.
pub fn on_interface<'a>(resources: &'a Resources, node: &str, name: Option<&str>) -> Option<&'a WorkloadEndpoint> {
    let name = name?;
    let mut all = resources.workload_endpoints();
    all.find(|endpoint| endpoint.spec.node == node && endpoint.spec.interface_name == name)
}

/// The endpoint of this node that an address belongs to.
pub fn owner<'a>(resources: &'a Resources, node: &str, address: IpAddr) -> Option<&'a WorkloadEndpoint> {
    let mut all = resources.workload_endpoints().filter(|endpoint| endpoint.spec.node == node);
    all.find(|endpoint| endpoint.spec.ip_networks.iter().any(|net| net.contains(address)))
}
