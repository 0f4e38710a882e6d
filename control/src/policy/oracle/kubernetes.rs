//! Kubernetes' policies, read as Kubernetes wrote them: label selectors over labels, ports by number or name.
//!
//! Calico makes one rule of each peer and protocol of a rule, and people find decisions under their positions: that much of
//! the conversion is repeated here, in its order. Left out: more than 50 ports of one protocol, which would be two rules.

use config::net::Cidr;
use config::resource::{
    Action, ClusterNetworkPolicy, ClusterPolicyAction, ClusterPolicyPeer, ClusterPolicyProtocol, ClusterPolicyRule,
    IpBlock, KubernetesNetworkPolicy, KubernetesPeer, KubernetesPolicyPort, LabelSelector, PolicyType, PortOrName,
    SelectorOperator,
};

use super::matching::Walk;
use super::members::{self, Labels, NAMESPACE, ORCHESTRATOR};
use super::{TCP, WrittenRule};

/// A peer with the ports of one protocol.
#[derive(Clone)]
pub struct PeerRule {
    pub action: Action,
    direction: PolicyType,
    peer: Peer,
    /// None: any protocol.
    ports: Option<(Spoken, Vec<Ports>)>,
}

/// The number of a protocol, and whether it was not said: a name brings its own, which is TCP.
type Spoken = (u8, bool);

#[derive(Clone)]
enum Peer {
    Anybody,
    Block(IpBlock),
    Networks(Vec<Cidr>),
    Pods { pods: LabelSelector, namespaces: Namespaces },
}

#[derive(Clone)]
enum Namespaces {
    Only(String),
    With(LabelSelector),
}

#[derive(Clone)]
enum Ports {
    All,
    Numbers(u16, u16),
    Named(String),
}

impl PeerRule {
    pub fn matches(&self, walk: &Walk<'_>) -> bool {
        let fields = walk.fields;
        let far = if self.direction == PolicyType::Ingress { fields.source } else { fields.destination };
        let is_peer = match &self.peer {
            Peer::Anybody => true,
            Peer::Networks(nets) => nets.iter().any(|net| net.contains(far)),
            Peer::Block(block) => block.cidr.contains(far) && !block.except.iter().any(|net| net.contains(far)),
            Peer::Pods { pods, namespaces } => walk.at(far).any(|member| is_pod_of(&member.labels, pods, namespaces)),
        };
        let Some(((protocol, _), ports)) = &self.ports else { return is_peer };
        let has_port = |name: &str| {
            walk.at(fields.destination).any(|member| {
                let named = member.ports.contains(&(name.to_owned(), *protocol, fields.destination_port));
                // Where a packet goes is the peer's in a rule about what leaves.
                let is_meant = match &self.peer {
                    Peer::Pods { pods, namespaces } if self.direction == PolicyType::Egress => {
                        is_pod_of(&member.labels, pods, namespaces)
                    }
                    _ => true,
                };
                named && is_meant
            })
        };
        let is_port = |wanted: &Ports| match wanted {
            Ports::All => true,
            Ports::Numbers(first, last) => (*first..=*last).contains(&fields.destination_port),
            Ports::Named(name) => has_port(name),
        };
        is_peer && *protocol == fields.protocol && ports.iter().any(is_port)
    }
}

/// Pods alone are meant, whatever else has such labels.
fn is_pod_of(labels: &Labels, pods: &LabelSelector, namespaces: &Namespaces) -> bool {
    let is_in_namespace = match namespaces {
        Namespaces::Only(name) => labels.get(NAMESPACE) == Some(name),
        Namespaces::With(wanted) if is_empty(wanted) => labels.contains_key(NAMESPACE),
        Namespaces::With(wanted) => selects(wanted, &members::without_prefix(labels, "pcns.")),
    };
    labels.get(ORCHESTRATOR).is_some_and(|own| own == "k8s") && is_in_namespace && selects(pods, labels)
}

fn is_empty(selector: &LabelSelector) -> bool {
    selector.match_labels.is_empty() && selector.match_expressions.is_empty()
}

fn selects(selector: &LabelSelector, labels: &Labels) -> bool {
    selector.match_labels.iter().all(|(label, wanted)| labels.get(label) == Some(wanted))
        && selector.match_expressions.iter().all(|requirement| {
            let own = labels.get(&requirement.key);
            match requirement.operator {
                SelectorOperator::In => own.is_some_and(|own| requirement.values.contains(own)),
                SelectorOperator::NotIn => !own.is_some_and(|own| requirement.values.contains(own)),
                SelectorOperator::Exists => own.is_some(),
                SelectorOperator::DoesNotExist => own.is_none(),
            }
        })
}

/// Whether a policy of Kubernetes is about an endpoint with these labels.
pub fn is_about(policy: &KubernetesNetworkPolicy, labels: &Labels) -> bool {
    let namespace = policy.metadata.namespace.clone().unwrap_or_default();
    is_pod_of(labels, &policy.spec.pod_selector, &Namespaces::Only(namespace))
}

/// None where the policy says nothing about the direction.
pub fn rules(policy: &KubernetesNetworkPolicy, direction: PolicyType) -> Option<Vec<WrittenRule>> {
    let spec = &policy.spec;
    let is_governed = match (spec.policy_types.is_empty(), direction) {
        (false, direction) => spec.policy_types.contains(&direction),
        (true, PolicyType::Ingress) => true,
        (true, PolicyType::Egress) => !spec.egress.is_empty(),
    };
    let written: Vec<(&[KubernetesPeer], &[KubernetesPolicyPort])> = match direction {
        PolicyType::Ingress => spec.ingress.iter().map(|rule| (&rule.from[..], &rule.ports[..])).collect(),
        PolicyType::Egress => spec.egress.iter().map(|rule| (&rule.to[..], &rule.ports[..])).collect(),
    };
    let namespace = policy.metadata.namespace.clone().unwrap_or_default();
    let mut all = Vec::new();
    for (peers, ports) in written {
        let mut known: Vec<Peer> = peers.iter().map(|peer| peer_of(peer, &namespace)).collect();
        if peers.is_empty() {
            known.push(Peer::Anybody);
        }
        let ports = ports.iter().map(|port| {
            let wanted = match (&port.port, port.end_port) {
                (None, _) => Ports::All,
                (Some(PortOrName::Number(first)), last) => Ports::Numbers(*first, last.unwrap_or(*first)),
                (Some(PortOrName::Name(name)), _) => Ports::Named(name.clone()),
            };
            ((port.protocol.map_or(TCP, |protocol| protocol.number()), false), wanted)
        });
        all.extend(each(known, ports.collect(), Action::Allow, direction));
    }
    is_governed.then_some(all)
}

fn peer_of(peer: &KubernetesPeer, namespace: &str) -> Peer {
    if let Some(block) = &peer.ip_block {
        return Peer::Block(block.clone());
    }
    let own = || Namespaces::Only(namespace.to_owned());
    Peer::Pods {
        pods: peer.pod_selector.clone().unwrap_or_default(),
        namespaces: peer.namespace_selector.clone().map_or_else(own, Namespaces::With),
    }
}

/// Whether a cluster's policy is about an endpoint with these labels.
pub fn is_about_cluster(policy: &ClusterNetworkPolicy, labels: &Labels) -> bool {
    let subject = &policy.spec.subject;
    let all = LabelSelector::default();
    match (&subject.namespaces, &subject.pods) {
        (Some(namespaces), None) => is_pod_of(labels, &all, &Namespaces::With(namespaces.clone())),
        (None, Some(pods)) => is_pod_of(labels, &pods.pod_selector, &Namespaces::With(pods.namespace_selector.clone())),
        // Nobody knows whom it means: all pods.
        _ => labels.get(ORCHESTRATOR).is_some_and(|own| own == "k8s"),
    }
}

/// None where the policy says nothing about the direction.
pub fn cluster_rules(policy: &ClusterNetworkPolicy, direction: PolicyType) -> Option<Vec<WrittenRule>> {
    let written = match direction {
        PolicyType::Ingress => &policy.spec.ingress,
        PolicyType::Egress => &policy.spec.egress,
    };
    let subject = &policy.spec.subject;
    if subject.namespaces.is_some() == subject.pods.is_some() {
        // Nobody knows whom it means.
        let denies = written.iter().any(|rule| rule.action != ClusterPolicyAction::Accept);
        return denies.then(|| each(vec![Peer::Anybody], Vec::new(), Action::Deny, direction));
    }
    let all: Vec<WrittenRule> = written.iter().flat_map(|rule| cluster_rule(rule, direction)).collect();
    (!all.is_empty()).then_some(all)
}

fn cluster_rule(rule: &ClusterPolicyRule, direction: PolicyType) -> Vec<WrittenRule> {
    let action = match rule.action {
        ClusterPolicyAction::Accept => Action::Allow,
        ClusterPolicyAction::Deny => Action::Deny,
        ClusterPolicyAction::Pass => Action::Pass,
    };
    let written = if direction == PolicyType::Ingress { &rule.from } else { &rule.to };
    // A peer that is not understood takes its whole rule along; what would have denied or passed then denies everything.
    let is_beyond_us = |peer: &&ClusterPolicyPeer| peer.nodes.is_some() || !peer.domain_names.is_empty();
    if written.iter().any(|peer| is_beyond_us(&peer)) {
        return match action {
            Action::Allow => Vec::new(),
            _ => each(vec![Peer::Anybody], Vec::new(), Action::Deny, direction),
        };
    }
    let peers = written.iter().flat_map(cluster_peers).collect();
    let ports = rule.protocols.iter().filter_map(cluster_ports).collect();
    each(peers, ports, action, direction)
}

fn cluster_peers(peer: &ClusterPolicyPeer) -> Vec<Peer> {
    let pods = |pods: &LabelSelector, namespaces: &LabelSelector| Peer::Pods {
        pods: pods.clone(),
        namespaces: Namespaces::With(namespaces.clone()),
    };
    if let Some(namespaces) = &peer.namespaces {
        return vec![pods(&LabelSelector::default(), namespaces)];
    }
    if let Some(wanted) = &peer.pods {
        return vec![pods(&wanted.pod_selector, &wanted.namespace_selector)];
    }
    // A rule has networks of one family: IPv4 first.
    let of = |is_ipv4| peer.networks.iter().copied().filter(move |net| net.is_ipv4() == is_ipv4).collect::<Vec<_>>();
    [of(true), of(false)].into_iter().filter(|nets| !nets.is_empty()).map(Peer::Networks).collect()
}

fn cluster_ports(written: &ClusterPolicyProtocol) -> Option<(Spoken, Ports)> {
    if !written.destination_named_port.is_empty() {
        return Some(((TCP, true), Ports::Named(written.destination_named_port.clone())));
    }
    let known = [(&written.tcp, TCP), (&written.udp, 17), (&written.sctp, 132)];
    let (ports, protocol) = known.into_iter().find_map(|(ports, number)| Some((ports.as_ref()?, number)))?;
    let wanted = match &ports.destination_port {
        None => Ports::All,
        Some(port) => match port.range {
            Some(range) => Ports::Numbers(range.start, range.end),
            None => Ports::Numbers(port.number, port.number),
        },
    };
    Some(((protocol, false), wanted))
}

/// One rule for each peer and protocol, protocols in the order in which they are first named.
fn each(peers: Vec<Peer>, ports: Vec<(Spoken, Ports)>, action: Action, direction: PolicyType) -> Vec<WrittenRule> {
    let mut by_protocol: Vec<(Spoken, Vec<Ports>)> = Vec::new();
    for (protocol, wanted) in ports {
        match by_protocol.iter_mut().find(|(known, _)| *known == protocol) {
            Some((_, all)) => all.push(wanted),
            None => by_protocol.push((protocol, vec![wanted])),
        }
    }
    let mut choices: Vec<Option<(Spoken, Vec<Ports>)>> = by_protocol.into_iter().map(Some).collect();
    if choices.is_empty() {
        choices.push(None);
    }
    let mut rules = Vec::new();
    for peer in peers {
        for ports in &choices {
            let rule = PeerRule { action, direction, peer: peer.clone(), ports: ports.clone() };
            rules.push(WrittenRule::Kubernetes(rule));
        }
    }
    rules
}
