//! ClusterNetworkPolicy of policy.networking.k8s.io/v1alpha2: a cluster administrator's rules, before or after those of
//! namespaces.
//!
//! A peer, subject, protocol or port that names nothing we know was written for a version with more in it. Such a
//! value is read, and it is for `convert` to fail closed.

use serde::{Deserialize, Serialize};

use super::label_selector::LabelSelector;
use crate::net::Cidr;
use crate::resource::check::Check;
use crate::resource::form::is_default;
use crate::resource::metadata::Metadata;
use crate::resource::number::Number;
use crate::resource::status::Condition;
use crate::resource::word::words;

const RULES_MAX: usize = 25;
const ENTRIES_MAX: usize = 25;
const RULE_NAME_MAX: usize = 100;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClusterNetworkPolicy {
    #[serde(default)]
    pub metadata: Metadata,
    pub spec: ClusterNetworkPolicySpec,
    #[serde(default, skip_serializing_if = "is_default")]
    pub status: ClusterNetworkPolicyStatus,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClusterNetworkPolicySpec {
    pub tier: ClusterPolicyTier,
    /// Lower comes first in its tier.
    pub priority: Number<0, 1000>,
    pub subject: ClusterPolicySubject,
    #[serde(default, skip_serializing_if = "is_default")]
    pub ingress: Vec<ClusterPolicyRule>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub egress: Vec<ClusterPolicyRule>,
}

words! {
    ClusterPolicyTier: exact {
        /// Before all policies of namespaces.
        Admin = "Admin",
        /// After them.
        Baseline = "Baseline",
    }
    ClusterPolicyAction: exact {
        Accept = "Accept",
        Deny = "Deny",
        /// Go on with the next tier.
        Pass = "Pass",
    }
}

/// The pods the policy is for. Exactly one field is there.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterPolicySubject {
    /// All pods of these namespaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<LabelSelector>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pods: Option<NamespacedPods>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NamespacedPods {
    pub namespace_selector: LabelSelector,
    pub pod_selector: LabelSelector,
}

/// Ingress rules have `from`, egress rules have `to`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClusterPolicyRule {
    #[serde(default, skip_serializing_if = "is_default")]
    pub name: String,
    pub action: ClusterPolicyAction,
    #[serde(default, skip_serializing_if = "is_default")]
    pub from: Vec<ClusterPolicyPeer>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub to: Vec<ClusterPolicyPeer>,
    /// Empty is any.
    #[serde(default, skip_serializing_if = "is_default")]
    pub protocols: Vec<ClusterPolicyProtocol>,
}

/// Exactly one field is there. The last three are for `to` only.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ClusterPolicyPeer {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<LabelSelector>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pods: Option<NamespacedPods>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<LabelSelector>,
    #[serde(skip_serializing_if = "is_default")]
    pub networks: Vec<Cidr>,
    #[serde(skip_serializing_if = "is_default")]
    pub domain_names: Vec<String>,
}

/// Exactly one field is there.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ClusterPolicyProtocol {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<ClusterPolicyPorts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub udp: Option<ClusterPolicyPorts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sctp: Option<ClusterPolicyPorts>,
    #[serde(skip_serializing_if = "is_default")]
    pub destination_named_port: String,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ClusterPolicyPorts {
    /// Absent is any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination_port: Option<ClusterPolicyPort>,
}

/// Exactly one field is there.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterPolicyPort {
    #[serde(skip_serializing_if = "is_default")]
    pub number: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range: Option<ClusterPolicyPortRange>,
}

/// Both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ClusterPolicyPortRange {
    pub start: u16,
    pub end: u16,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterNetworkPolicyStatus {
    #[serde(skip_serializing_if = "is_default")]
    pub conditions: Vec<Condition>,
}

impl ClusterNetworkPolicy {
    pub(in crate::resource) fn validate(&self, check: &mut Check) {
        check.field("spec", |check| {
            let spec = &self.spec;
            check.field("subject", |check| {
                exactly_one(
                    &[("namespaces", spec.subject.namespaces.is_some()), ("pods", spec.subject.pods.is_some())],
                    check,
                );
                validate_pods(&spec.subject.namespaces, &spec.subject.pods, check);
            });
            for (name, rules) in [("ingress", &spec.ingress), ("egress", &spec.egress)] {
                check.at_most(name, rules.len(), RULES_MAX);
                check.each(name, rules, |check, rule| rule.validate(name == "egress", check));
            }
        });
    }
}

/// Refuses none and several. An unknown field was passed over, so none may also mean that.
fn exactly_one(fields: &[(&str, bool)], check: &mut Check) {
    let names = fields.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    match fields.iter().filter(|(_, is_set)| *is_set).count() {
        0 => check.refuse("none of the known fields", format!("exactly one of {names}")),
        1 => {}
        _ => check.refuse("several fields", format!("exactly one of {names}")),
    }
}

fn validate_pods(namespaces: &Option<LabelSelector>, pods: &Option<NamespacedPods>, check: &mut Check) {
    if let Some(selector) = namespaces {
        check.field("namespaces", |check| selector.validate(check));
    }
    if let Some(pods) = pods {
        check.field("pods.namespaceSelector", |check| pods.namespace_selector.validate(check));
        check.field("pods.podSelector", |check| pods.pod_selector.validate(check));
    }
}

impl ClusterPolicyRule {
    fn validate(&self, is_egress: bool, check: &mut Check) {
        if self.name.chars().count() > RULE_NAME_MAX {
            let found = format!("{} characters", self.name.chars().count());
            check.refuse_field("name", found, format!("at most {RULE_NAME_MAX}"));
        }
        let ((name, peers), (other_name, other)) = match is_egress {
            true => (("to", &self.to), ("from", &self.from)),
            false => (("from", &self.from), ("to", &self.to)),
        };
        if !other.is_empty() {
            check.refuse_field(other_name, "peers", format!("none: the peers of this rule are in {name}"));
        }
        if peers.is_empty() {
            check.refuse_field(name, "nothing", "at least one peer");
        }
        check.at_most(name, peers.len(), ENTRIES_MAX);
        check.each(name, peers, |check, peer| peer.validate(is_egress, check));
        check.at_most("protocols", self.protocols.len(), ENTRIES_MAX);
        let has_named_ports = peers.iter().all(|peer| peer.namespaces.is_some() || peer.pods.is_some());
        check.each("protocols", &self.protocols, |check, protocol| {
            protocol.validate(check);
            if !protocol.destination_named_port.is_empty() && !has_named_ports {
                let expected = "a number: only pods have named ports";
                check.refuse_field("destinationNamedPort", &protocol.destination_named_port, expected);
            }
        });
    }
}

impl ClusterPolicyPeer {
    fn validate(&self, is_egress: bool, check: &mut Check) {
        let fields = [
            ("namespaces", self.namespaces.is_some()),
            ("pods", self.pods.is_some()),
            ("nodes", self.nodes.is_some()),
            ("networks", !self.networks.is_empty()),
            ("domainNames", !self.domain_names.is_empty()),
        ];
        exactly_one(if is_egress { &fields } else { &fields[..2] }, check);
        validate_pods(&self.namespaces, &self.pods, check);
        if let Some(selector) = &self.nodes {
            check.field("nodes", |check| selector.validate(check));
        }
        check.at_most("networks", self.networks.len(), ENTRIES_MAX);
        check.at_most("domainNames", self.domain_names.len(), ENTRIES_MAX);
        check.each("domainNames", &self.domain_names, |check, name| {
            let plain = name.strip_prefix("*.").unwrap_or(name).trim_end_matches('.').to_lowercase();
            if !crate::resource::is_subdomain(&plain.replace('_', "-")) || !plain.contains('.') {
                check.refuse(crate::resource::quoted(name), "a domain name such as example.org or *.example.org");
            }
        });
    }
}

impl ClusterPolicyProtocol {
    fn validate(&self, check: &mut Check) {
        let fields = [
            ("tcp", self.tcp.is_some()),
            ("udp", self.udp.is_some()),
            ("sctp", self.sctp.is_some()),
            ("destinationNamedPort", !self.destination_named_port.is_empty()),
        ];
        exactly_one(&fields, check);
        for (name, ports) in [("tcp", &self.tcp), ("udp", &self.udp), ("sctp", &self.sctp)] {
            let port = ports.as_ref().and_then(|ports| ports.destination_port.as_ref());
            if let Some(port) = port {
                check.field(name, |check| check.field("destinationPort", |check| port.validate(check)));
            }
        }
        let named = &self.destination_named_port;
        if !named.is_empty() && super::PortOrName::from_name(named).is_none() {
            check.refuse_field(
                "destinationNamedPort",
                crate::resource::quoted(named),
                "the name of a container's port",
            );
        }
    }
}

impl ClusterPolicyPort {
    fn validate(&self, check: &mut Check) {
        exactly_one(&[("number", self.number != 0), ("range", self.range.is_some())], check);
        if let Some(range) = self.range
            && (range.start == 0 || range.start >= range.end)
        {
            let found = format!("{}-{}", range.start, range.end);
            check.refuse_field("range", found, "a start of at least 1, and an end above it");
        }
    }
}
