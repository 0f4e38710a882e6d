//! Kubernetes' NetworkPolicy: every rule allows, and what no rule allows ends at the end of tier `default`.

use super::ports::ByProtocol;
use super::{Converted, Obstacle, identity, selector};
use crate::net::{Port, PortName, PortRange, Protocol};
use crate::resource::{
    Action, DEFAULT_TIER, EntityRule, KubernetesNetworkPolicy, KubernetesNetworkPolicySpec, KubernetesPeer,
    KubernetesPolicyPort, LabelSelector, NetworkPolicy, NetworkPolicySpec, PolicyType, PortOrName, Rule, StagedAction,
    StagedKubernetesNetworkPolicy,
};

/// After the policies people write with an order below it, before those without an order.
pub const KUBERNETES_POLICY_ORDER: f64 = 1000.0;
/// Networks in one list of a rule.
const NETS_MAX: usize = 256;

const RULE_LEFT_OUT: &str = "the rule is left out: it allows nothing";
const ALL_ISOLATED: &str = "the policy isolates all pods of its namespace";

pub fn network_policy(policy: &KubernetesNetworkPolicy) -> Converted<NetworkPolicy> {
    convert(identity(&policy.metadata), &policy.spec)
}

/// None when promoting the staged policy would enforce nothing.
pub fn staged_network_policy(policy: &StagedKubernetesNetworkPolicy) -> Option<Converted<NetworkPolicy>> {
    match policy.spec.staged_action {
        StagedAction::Set | StagedAction::Learn => Some(convert(identity(&policy.metadata), &policy.spec.policy())),
        StagedAction::Delete | StagedAction::Ignore => None,
    }
}

fn convert(metadata: crate::resource::Metadata, spec: &KubernetesNetworkPolicySpec) -> Converted<NetworkPolicy> {
    let mut left_out = Vec::new();
    let mut types = spec.policy_types.clone();
    if types.is_empty() {
        types.push(PolicyType::Ingress);
        if !spec.egress.is_empty() {
            types.push(PolicyType::Egress);
        }
    }
    let mut converted = NetworkPolicySpec {
        tier: DEFAULT_TIER.to_string(),
        order: Some(KUBERNETES_POLICY_ORDER),
        types,
        ..NetworkPolicySpec::default()
    };
    match selector::pods(&spec.pod_selector) {
        Ok(selector) => {
            converted.selector = selector;
            for (position, rule) in spec.ingress.iter().enumerate() {
                match rules("from", &rule.from, &rule.ports, PolicyType::Ingress) {
                    Ok(rules) => converted.ingress.extend(rules),
                    Err(why) => left_out.push(why.under(&format!("spec.ingress[{position}]")).told(RULE_LEFT_OUT)),
                }
            }
            for (position, rule) in spec.egress.iter().enumerate() {
                match rules("to", &rule.to, &rule.ports, PolicyType::Egress) {
                    Ok(rules) => converted.egress.extend(rules),
                    Err(why) => left_out.push(why.under(&format!("spec.egress[{position}]")).told(RULE_LEFT_OUT)),
                }
            }
        }
        // Some pods are to be isolated and nobody knows which. Rules that allow would go to the wrong ones.
        Err(why) => {
            converted.selector = selector::pods(&LabelSelector::default()).unwrap_or_default();
            left_out.push(why.under("spec.podSelector").told(ALL_ISOLATED));
        }
    }
    let mut resource = NetworkPolicy { metadata, spec: converted };
    resource.apply_defaults();
    Converted { resource, left_out }
}

/// One rule for each peer and protocol.
fn rules(
    peers_field: &str,
    peers: &[KubernetesPeer],
    ports: &[KubernetesPolicyPort],
    direction: PolicyType,
) -> Result<Vec<Rule>, Obstacle> {
    let mut by_protocol = ByProtocol::default();
    for (position, port) in ports.iter().enumerate() {
        let protocol = port.protocol.unwrap_or(Protocol::TCP);
        let port = port_of(port).map_err(|why| why.under(&format!("ports[{position}]")))?;
        by_protocol.add(Some(protocol), port);
    }
    let mut sides = Vec::new();
    for (position, peer) in peers.iter().enumerate() {
        sides.push(side(peer).map_err(|why| why.under(&format!("{peers_field}[{position}]")))?);
    }
    if peers.is_empty() {
        sides.push(EntityRule::default());
    }
    Ok(by_protocol.rules_with(sides, Action::Allow, direction))
}

/// The port or range; none is all ports.
fn port_of(port: &KubernetesPolicyPort) -> Result<Option<Port>, Obstacle> {
    if let Some(protocol) = port.protocol.filter(|protocol| !protocol.has_ports()) {
        return Err(Obstacle::new("protocol", protocol.to_string(), "TCP, UDP or SCTP"));
    }
    match (&port.port, port.end_port) {
        (None, None) => Ok(None),
        (Some(PortOrName::Number(first)), last) => {
            let range = PortRange::new(*first, last.unwrap_or(*first));
            let found = || format!("{first}-{}", last.unwrap_or(*first));
            range.map(Port::Numbers).map(Some).ok_or_else(|| Obstacle::new("endPort", found(), "port or more"))
        }
        (Some(PortOrName::Name(name)), None) => match PortName::parse(name) {
            Ok(name) => Ok(Some(Port::Named(name))),
            Err(_) => Err(Obstacle::new("port", format!("{name:?}"), PortName::EXPECTED)),
        },
        (Some(PortOrName::Name(_)) | None, Some(last)) => {
            Err(Obstacle::new("endPort", last.to_string(), "none, unless port is a number"))
        }
    }
}

fn side(peer: &KubernetesPeer) -> Result<EntityRule, Obstacle> {
    let KubernetesPeer { pod_selector, namespace_selector, ip_block } = peer;
    match (ip_block, pod_selector, namespace_selector) {
        (Some(block), None, None) => {
            if block.except.len() > NETS_MAX {
                let found = format!("{} networks", block.except.len());
                return Err(Obstacle::new("ipBlock.except", found, "at most 256"));
            }
            let is_inside =
                |except: &&crate::net::Cidr| except.length() > block.cidr.length() && block.cidr.overlaps(except);
            if let Some(except) = block.except.iter().find(|except| !is_inside(except)) {
                return Err(Obstacle::new("ipBlock.except", except.to_string(), "smaller networks inside the cidr"));
            }
            Ok(EntityRule { nets: vec![block.cidr], not_nets: block.except.clone(), ..EntityRule::default() })
        }
        (None, None, None) => Err(Obstacle::new("", "none of the known fields", "a selector or an ipBlock")),
        (Some(_), _, _) => Err(Obstacle::new("ipBlock", "an ipBlock beside selectors", "one or the other")),
        (None, pods, namespaces) => {
            // Both fields select pods: without a namespace selector those of the policy's namespace, which a side with
            // nothing but a selector is limited to.
            let all = LabelSelector::default();
            let pods = selector::pods(pods.as_ref().unwrap_or(&all)).map_err(|why| why.under("podSelector"))?;
            let namespaces = namespaces.as_ref().map(selector::namespaces).transpose();
            let namespaces = namespaces.map_err(|why| why.under("namespaceSelector"))?;
            Ok(EntityRule { selector: Some(pods), namespace_selector: namespaces, ..EntityRule::default() })
        }
    }
}
