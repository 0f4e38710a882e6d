//! ClusterNetworkPolicy: rules before or after those of namespaces, in two tiers that pass on what they do not decide.
//!
//! A rule we cannot read may name what a newer version knows. As its API asks: one that accepts is then left out, one
//! that denies or passes denies everything.

use super::ports::ByProtocol;
use super::{Converted, Obstacle, identity, selector};
use crate::net::{IpVersion, Port, PortName, PortRange, Protocol};
use crate::resource::{
    Action, ClusterNetworkPolicy, ClusterPolicyAction, ClusterPolicyPeer, ClusterPolicyPort, ClusterPolicyProtocol,
    ClusterPolicyRule, ClusterPolicySubject, ClusterPolicyTier, EntityRule, FieldError, GlobalNetworkPolicy,
    GlobalNetworkPolicySpec, LabelSelector, NamespacedPods, PolicyType, Rule, TIER_LABEL,
};
use crate::selector::Selector;

pub const ADMIN_TIER: &str = "kube-admin";
pub const BASELINE_TIER: &str = "kube-baseline";

const RULE_LEFT_OUT: &str = "the rule is left out: it accepts nothing";
const RULE_DENIES: &str = "the rule denies everything";
const ALL_DENIED: &str = "directions in which the policy denies or passes anything are denied for all pods";

/// A direction without rules, in the policy or after what was left out, is one that the policy does not govern.
pub fn cluster_network_policy(policy: &ClusterNetworkPolicy) -> Converted<GlobalNetworkPolicy> {
    let spec = &policy.spec;
    let mut left_out = Vec::new();
    let tier = match spec.tier {
        ClusterPolicyTier::Admin => ADMIN_TIER,
        ClusterPolicyTier::Baseline => BASELINE_TIER,
    };
    let mut converted = GlobalNetworkPolicySpec {
        tier: tier.to_string(),
        // At most 1000: exact.
        order: Some(spec.priority.get() as f64),
        ..GlobalNetworkPolicySpec::default()
    };
    match subject(&spec.subject) {
        Ok((pods, namespaces)) => {
            converted.selector = pods;
            converted.namespace_selector = Some(namespaces);
            converted.ingress = rules("spec.ingress", &spec.ingress, PolicyType::Ingress, &mut left_out);
            converted.egress = rules("spec.egress", &spec.egress, PolicyType::Egress, &mut left_out);
        }
        // Some pods are to be cut off and nobody knows which.
        Err(why) => {
            converted.selector = selector::pods(&LabelSelector::default()).unwrap_or_default();
            converted.ingress = deny_in_place_of(&spec.ingress);
            converted.egress = deny_in_place_of(&spec.egress);
            left_out.push(why.under("spec.subject").told(ALL_DENIED));
        }
    }
    let governed = [(PolicyType::Ingress, &converted.ingress), (PolicyType::Egress, &converted.egress)];
    converted.types = governed.iter().filter(|(_, rules)| !rules.is_empty()).map(|(direction, _)| *direction).collect();
    let mut metadata = identity(&policy.metadata);
    metadata.namespace = None;
    metadata.labels.insert(TIER_LABEL.to_string(), tier.to_string());
    Converted { resource: GlobalNetworkPolicy { metadata, spec: converted }, left_out }
}

fn rules(path: &str, rules: &[ClusterPolicyRule], direction: PolicyType, left_out: &mut Vec<FieldError>) -> Vec<Rule> {
    let mut converted = Vec::new();
    for (position, rule) in rules.iter().enumerate() {
        match convert(rule, direction) {
            Ok(rules) => converted.extend(rules),
            Err(why) => {
                let instead = deny_in_place_of(std::slice::from_ref(rule));
                let consequence = if instead.is_empty() { RULE_LEFT_OUT } else { RULE_DENIES };
                converted.extend(instead);
                left_out.push(why.under(&format!("{path}[{position}]")).told(consequence));
            }
        }
    }
    converted
}

/// What rules become that cannot be converted: nothing if they only accept.
fn deny_in_place_of(rules: &[ClusterPolicyRule]) -> Vec<Rule> {
    let is_only_accepting = rules.iter().all(|rule| rule.action == ClusterPolicyAction::Accept);
    if is_only_accepting { Vec::new() } else { vec![Rule::any(Action::Deny)] }
}

/// The pods, and the namespaces they are in.
fn subject(subject: &ClusterPolicySubject) -> Result<(Selector, Selector), Obstacle> {
    match (&subject.namespaces, &subject.pods) {
        (Some(namespaces), None) => all_pods_of(namespaces),
        (None, Some(pods)) => some_pods(pods),
        (None, None) => Err(Obstacle::new("", "none of the known fields", "exactly one of namespaces, pods")),
        (Some(_), Some(_)) => Err(Obstacle::new("", "several fields", "exactly one of namespaces, pods")),
    }
}

fn all_pods_of(namespaces: &LabelSelector) -> Result<(Selector, Selector), Obstacle> {
    let pods = selector::pods(&LabelSelector::default())?;
    Ok((pods, selector::namespaces(namespaces).map_err(|why| why.under("namespaces"))?))
}

fn some_pods(pods: &NamespacedPods) -> Result<(Selector, Selector), Obstacle> {
    let namespaces = selector::namespaces(&pods.namespace_selector);
    Ok((
        selector::pods(&pods.pod_selector).map_err(|why| why.under("pods.podSelector"))?,
        namespaces.map_err(|why| why.under("pods.namespaceSelector"))?,
    ))
}

fn convert(rule: &ClusterPolicyRule, direction: PolicyType) -> Result<Vec<Rule>, Obstacle> {
    let (field, peers, other) = match direction {
        PolicyType::Ingress => ("from", &rule.from, &rule.to),
        PolicyType::Egress => ("to", &rule.to, &rule.from),
    };
    if peers.is_empty() || !other.is_empty() {
        return Err(Obstacle::new(field, "no peers, or peers of another direction", "at least one peer, here alone"));
    }
    let mut by_protocol = ByProtocol::default();
    for (position, protocol) in rule.protocols.iter().enumerate() {
        let (protocol, port) = ports(protocol).map_err(|why| why.under(&format!("protocols[{position}]")))?;
        by_protocol.add(protocol, port);
    }
    let action = match rule.action {
        ClusterPolicyAction::Accept => Action::Allow,
        ClusterPolicyAction::Deny => Action::Deny,
        ClusterPolicyAction::Pass => Action::Pass,
    };
    let mut all = Vec::new();
    for (position, peer) in peers.iter().enumerate() {
        all.extend(sides(peer, direction).map_err(|why| why.under(&format!("{field}[{position}]")))?);
    }
    Ok(by_protocol.rules_with(all, action, direction))
}

/// The peer; networks of both families are two, because a rule has one.
fn sides(peer: &ClusterPolicyPeer, direction: PolicyType) -> Result<Vec<EntityRule>, Obstacle> {
    let ClusterPolicyPeer { namespaces, pods, nodes, networks, domain_names } = peer;
    let pods_in = |(pods, namespaces)| {
        vec![EntityRule { selector: Some(pods), namespace_selector: Some(namespaces), ..EntityRule::default() }]
    };
    match (namespaces, pods, nodes, networks.as_slice(), domain_names.as_slice()) {
        (Some(namespaces), None, None, [], []) => all_pods_of(namespaces).map(pods_in),
        (None, Some(pods), None, [], []) => some_pods(pods).map(pods_in),
        (None, None, None, networks @ [_, ..], []) if direction == PolicyType::Egress => {
            let of = |version| networks.iter().copied().filter(|net| net.version() == version).collect::<Vec<_>>();
            let lists = [of(IpVersion::V4), of(IpVersion::V6)].into_iter().filter(|nets| !nets.is_empty());
            Ok(lists.map(|nets| EntityRule { nets, ..EntityRule::default() }).collect())
        }
        (None, None, Some(_), [], []) => Err(Obstacle::new("nodes", "nodes", "another peer: nodes are not resolved")),
        (None, None, None, [], [_, ..]) => {
            Err(Obstacle::new("domainNames", "domain names", "another peer: names are not resolved"))
        }
        (None, None, None, [], []) => Err(Obstacle::new("", "none of the known fields", "exactly one kind of peer")),
        _ => Err(Obstacle::new("", "fields that do not go together", "exactly one kind of peer for this direction")),
    }
}

fn ports(written: &ClusterPolicyProtocol) -> Result<(Option<Protocol>, Option<Port>), Obstacle> {
    let ClusterPolicyProtocol { tcp, udp, sctp, destination_named_port: name } = written;
    let (field, protocol, ports) = match (tcp, udp, sctp, name.as_str()) {
        (Some(ports), None, None, "") => ("tcp", Protocol::TCP, ports),
        (None, Some(ports), None, "") => ("udp", Protocol::UDP, ports),
        (None, None, Some(ports), "") => ("sctp", Protocol::SCTP, ports),
        (None, None, None, name) if !name.is_empty() => {
            let expected = PortName::EXPECTED;
            let name = PortName::parse(name);
            let name = name.map_err(|error| Obstacle::new("destinationNamedPort", error.found, expected))?;
            return Ok((None, Some(Port::Named(name))));
        }
        _ => return Err(Obstacle::new("", "none of the known fields, or several", "exactly one protocol or name")),
    };
    let range = match &ports.destination_port {
        None => return Ok((Some(protocol), None)),
        Some(ClusterPolicyPort { number, range: None }) => PortRange::new(*number, *number),
        Some(ClusterPolicyPort { number: 0, range: Some(range) }) => PortRange::new(range.start, range.end),
        Some(ClusterPolicyPort { range: Some(_), .. }) => None,
    };
    let expected = "a number 1-65535, or a range that ends after its start";
    let range = range.ok_or_else(|| Obstacle::new(format!("{field}.destinationPort"), "no port", expected))?;
    Ok((Some(protocol), Some(Port::Numbers(range))))
}
