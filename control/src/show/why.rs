//! Why was it dropped: recent drops, with the rule that decided and the one that almost matched.
//!
//! Who decided is as it was then. What almost matched is looked for in the resources as they are now.

use std::time::Instant;

use fastpath::flow::{Key, KeyKind, unmapped_address};
use fastpath::header::protocol;
use fastpath::stage::lists::List;

use super::recent::Seen;
use super::{nearest, protocol_name};
use crate::control::Control;
use crate::guard::Claims;
use crate::http::views::{DecisionView, DifferenceView, NearView, RecentDropView, WhyRequest, WhyView};
use crate::node_state::{EndpointState, Program};
use crate::policy::decided::{self, Decided, list_name};
use crate::policy::oracle::{Difference, Fields, Near, Verdict};

/// Drops in an answer that did not say how many.
const USUAL: usize = 20;
const MOST: usize = 1000;

pub fn why<D>(control: &Control<D>, request: &WhyRequest) -> WhyView {
    let most = request.last.unwrap_or(USUAL).min(MOST);
    let found = control.drops.recent.find(most, |seen| is_wanted(request, seen));
    let now = Instant::now();
    let claims = control.claims();
    let lost: u64 = control.attachments.remotes().map(|remote| remote.counters.records_lost.get()).sum();
    WhyView {
        drops: found.into_iter().map(|seen| view(control, &claims, seen, now)).collect(),
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

fn view<D>(control: &Control<D>, claims: &Claims, seen: &Seen, now: Instant) -> RecentDropView {
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
        decision: seen.about.rule.as_ref().and_then(|rule| {
            let list = List::ALL.into_iter().find(|list| list.drop_reason() == reason)?;
            let verdict = Verdict { allow: false, rule: rule.clone(), log: None };
            let asked = Asked { list, endpoint: who_dropped(control, claims, list, seen), fields: &fields };
            Some(decision(control, &asked, &verdict, &seen.about.decided))
        }),
    }
}

/// Whose list was asked about what.
pub struct Asked<'a> {
    pub list: List,
    pub endpoint: Option<AskedEndpoint<'a>>,
    pub fields: &'a Fields,
}

/// An endpoint of this node, with the program of the list.
#[derive(Clone, Copy)]
pub struct AskedEndpoint<'a> {
    key: &'a config::resource::Key,
    program: Option<&'a Program>,
}

/// The endpoint that has a list, by the interface it is on.
pub fn on_interface<'a, D>(
    control: &'a Control<D>,
    claims: &Claims,
    list: List,
    interface: &str,
) -> Option<AskedEndpoint<'a>> {
    if list.is_of_host_endpoint() {
        return host_endpoint(control, claims, list, interface);
    }
    let endpoint = control.state().endpoints.iter().find(|endpoint| endpoint.interface == interface)?;
    Some(of_workload(endpoint, list))
}

fn of_workload(endpoint: &EndpointState, list: List) -> AskedEndpoint<'_> {
    let program = if list.is_ingress() { &endpoint.ingress } else { &endpoint.egress };
    AskedEndpoint { key: &endpoint.key, program: Some(program) }
}

fn host_endpoint<'a, D>(
    control: &'a Control<D>,
    claims: &Claims,
    list: List,
    uplink: &str,
) -> Option<AskedEndpoint<'a>> {
    let position = *claims.get(uplink)?;
    let endpoint = control.state().host_endpoints.get(position)?;
    Some(AskedEndpoint { key: &endpoint.key, program: endpoint.program(list) })
}

/// Whose list dropped a packet that came in by an interface.
fn who_dropped<'a, D>(control: &'a Control<D>, claims: &Claims, list: List, seen: &Seen) -> Option<AskedEndpoint<'a>> {
    let destination = unmapped_address(seen.key.destination);
    if list == List::WorkloadIngress {
        let is_its = |endpoint: &&EndpointState| endpoint.addresses.iter().any(|net| net.contains(destination));
        return control.state().endpoints.iter().find(is_its).map(|endpoint| of_workload(endpoint, list));
    }
    if list.is_at_the_start() {
        return on_interface(control, claims, list, seen.about.interface.as_deref()?);
    }
    // By which uplink it would have left is not recorded: by the only one there is, or by the one it would take now.
    let only = claims.keys().next().filter(|_| claims.len() == 1).cloned();
    let by_route = || {
        let tables = control.publisher.current();
        let adjacency = tables.adjacency(tables.route(seen.key.destination, seen.key.is_ipv4()))?;
        control.attachments.name_of(adjacency.interface).map(str::to_owned)
    };
    host_endpoint(control, claims, list, &only.or_else(by_route)?)
}

/// A decision with the rule that almost turned it.
pub fn decision<D>(control: &Control<D>, asked: &Asked<'_>, verdict: &Verdict, decided: &Decided) -> DecisionView {
    let direction = decided::direction(asked.list);
    let program = asked.endpoint.and_then(|endpoint| endpoint.program);
    let nearest =
        program.and_then(|program| nearest::nearest(&control.calculation, program, direction, asked.fields, verdict));
    let name = Some(verdict.rule.clone()).filter(|name| !name.is_empty());
    DecisionView {
        endpoint: asked.endpoint.map(|endpoint| endpoint.key.to_string()),
        list: list_name(asked.list).into(),
        direction: direction.word().into(),
        verdict: match (&name, verdict.allow) {
            (None, true) => "pass",
            (_, true) => "allow",
            (_, false) => "deny",
        }
        .into(),
        name,
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
