//! NetworkPolicy of networking.k8s.io/v1, and StagedKubernetesNetworkPolicy, which is one that is not enforced.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::label_selector::LabelSelector;
use crate::net::{Cidr, Protocol, number_or_text};
use crate::resource::check::Check;
use crate::resource::form::{blank_is_absent, blank_is_default, is_default};
use crate::resource::metadata::Metadata;
use crate::resource::rule::PolicyType;
use crate::resource::staged_policy::{StagedAction, validate_deletion};

/// The longest name a container's port may have (RFC 6335).
const PORT_NAME_MAX: usize = 15;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KubernetesNetworkPolicy {
    #[serde(default)]
    pub metadata: Metadata,
    #[serde(default)]
    pub spec: KubernetesNetworkPolicySpec,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct KubernetesNetworkPolicySpec {
    /// Pods of the namespace.
    pub pod_selector: LabelSelector,
    #[serde(skip_serializing_if = "is_default")]
    pub ingress: Vec<KubernetesIngressRule>,
    #[serde(skip_serializing_if = "is_default")]
    pub egress: Vec<KubernetesEgressRule>,
    #[serde(skip_serializing_if = "is_default")]
    pub policy_types: Vec<PolicyType>,
}

/// Allows what comes from any of the peers to any of the ports; an empty list is any.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct KubernetesIngressRule {
    #[serde(skip_serializing_if = "is_default")]
    pub from: Vec<KubernetesPeer>,
    #[serde(skip_serializing_if = "is_default")]
    pub ports: Vec<KubernetesPolicyPort>,
}

/// Allows what goes to any of the peers, there to any of the ports; an empty list is any.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct KubernetesEgressRule {
    #[serde(skip_serializing_if = "is_default")]
    pub to: Vec<KubernetesPeer>,
    #[serde(skip_serializing_if = "is_default")]
    pub ports: Vec<KubernetesPolicyPort>,
}

/// Pods, or addresses.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct KubernetesPeer {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<LabelSelector>,
    /// Absent: the policy's namespace. Present and empty: all namespaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_block: Option<IpBlock>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IpBlock {
    pub cidr: Cidr,
    #[serde(default, skip_serializing_if = "is_default")]
    pub except: Vec<Cidr>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct KubernetesPolicyPort {
    /// TCP when absent.
    #[serde(deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// Absent: all ports of the protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<PortOrName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_port: Option<u16>,
}

/// A port as Kubernetes writes it: a number, or the name a container gave to one of its ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortOrName {
    Number(u16),
    Name(String),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StagedKubernetesNetworkPolicy {
    #[serde(default)]
    pub metadata: Metadata,
    #[serde(default)]
    pub spec: StagedKubernetesNetworkPolicySpec,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct StagedKubernetesNetworkPolicySpec {
    #[serde(deserialize_with = "blank_is_default")]
    pub staged_action: StagedAction,
    #[serde(skip_serializing_if = "is_default")]
    pub pod_selector: LabelSelector,
    #[serde(skip_serializing_if = "is_default")]
    pub ingress: Vec<KubernetesIngressRule>,
    #[serde(skip_serializing_if = "is_default")]
    pub egress: Vec<KubernetesEgressRule>,
    #[serde(skip_serializing_if = "is_default")]
    pub policy_types: Vec<PolicyType>,
}

impl KubernetesNetworkPolicy {
    pub(in crate::resource) fn apply_defaults(&mut self) {
        self.spec.apply_defaults();
    }

    pub(in crate::resource) fn validate(&self, check: &mut Check) {
        check.field("spec", |check| self.spec.validate(check));
    }
}

impl StagedKubernetesNetworkPolicy {
    pub(in crate::resource) fn apply_defaults(&mut self) {
        if self.spec.staged_action != StagedAction::Delete {
            let mut policy = self.spec.policy();
            policy.apply_defaults();
            self.spec.policy_types = policy.policy_types;
        }
    }

    pub(in crate::resource) fn validate(&self, check: &mut Check) {
        check.field("spec", |check| {
            let policy = self.spec.policy();
            let is_empty = policy == KubernetesNetworkPolicySpec::default();
            validate_deletion(self.spec.staged_action, is_empty, check);
            policy.validate(check);
        });
    }
}

impl StagedKubernetesNetworkPolicySpec {
    /// The policy this would become.
    pub fn policy(&self) -> KubernetesNetworkPolicySpec {
        KubernetesNetworkPolicySpec {
            pod_selector: self.pod_selector.clone(),
            ingress: self.ingress.clone(),
            egress: self.egress.clone(),
            policy_types: self.policy_types.clone(),
        }
    }
}

impl KubernetesNetworkPolicySpec {
    /// Ingress always, egress when there are rules for it.
    fn apply_defaults(&mut self) {
        if self.policy_types.is_empty() {
            self.policy_types.push(PolicyType::Ingress);
            if !self.egress.is_empty() {
                self.policy_types.push(PolicyType::Egress);
            }
        }
    }

    fn validate(&self, check: &mut Check) {
        check.distinct("policyTypes", &self.policy_types);
        check.field("podSelector", |check| self.pod_selector.validate(check));
        check.each("ingress", &self.ingress, |check, rule| validate_rule("from", &rule.from, &rule.ports, check));
        check.each("egress", &self.egress, |check, rule| validate_rule("to", &rule.to, &rule.ports, check));
    }
}

fn validate_rule(peers_field: &str, peers: &[KubernetesPeer], ports: &[KubernetesPolicyPort], check: &mut Check) {
    check.each(peers_field, peers, |check, peer| peer.validate(check));
    check.each("ports", ports, |check, port| port.validate(check));
}

impl KubernetesPeer {
    fn validate(&self, check: &mut Check) {
        let has_selector = self.pod_selector.is_some() || self.namespace_selector.is_some();
        match (&self.ip_block, has_selector) {
            (None, false) => check.refuse("nothing", "one of podSelector, namespaceSelector, ipBlock"),
            (Some(_), true) => check.refuse_field("ipBlock", "an ipBlock beside selectors", "one or the other"),
            _ => {}
        }
        for (name, selector) in [("podSelector", &self.pod_selector), ("namespaceSelector", &self.namespace_selector)] {
            if let Some(selector) = selector {
                check.field(name, |check| selector.validate(check));
            }
        }
        if let Some(block) = &self.ip_block {
            check.field("ipBlock", |check| {
                check.each("except", &block.except, |check, except| {
                    let is_inside = block.cidr.overlaps(except) && except.length() > block.cidr.length();
                    if !is_inside {
                        check.refuse(except, format!("a network inside {}, and smaller", block.cidr));
                    }
                });
            });
        }
    }
}

impl KubernetesPolicyPort {
    fn validate(&self, check: &mut Check) {
        if let Some(protocol) = self.protocol.filter(|protocol| !protocol.has_ports()) {
            check.refuse_field("protocol", protocol, "TCP, UDP or SCTP");
        }
        match (&self.port, self.end_port) {
            (Some(PortOrName::Number(first)), Some(last)) if last < *first => {
                check.refuse_field("endPort", last, format!("a port {first}-65535"));
            }
            (Some(PortOrName::Name(_)) | None, Some(last)) => {
                check.refuse_field("endPort", last, "none, unless port is a number");
            }
            _ => {}
        }
    }
}

impl PortOrName {
    pub const EXPECTED: &'static str =
        "a port 1-65535, or a port name: at most 15 lowercase letters, digits and '-', with a letter in it";

    pub fn from_number(number: u64) -> Option<PortOrName> {
        u16::try_from(number).ok().filter(|port| *port != 0).map(PortOrName::Number)
    }

    pub fn from_name(name: &str) -> Option<PortOrName> {
        let is_allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let is_name = (1..=PORT_NAME_MAX).contains(&name.len())
            && name.bytes().all(is_allowed)
            && name.bytes().any(|b| b.is_ascii_lowercase())
            && !name.starts_with('-')
            && !name.ends_with('-')
            && !name.contains("--");
        is_name.then(|| PortOrName::Name(name.to_string()))
    }
}

impl fmt::Display for PortOrName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PortOrName::Number(number) => number.fmt(f),
            PortOrName::Name(name) => f.write_str(name),
        }
    }
}

impl Serialize for PortOrName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            PortOrName::Number(number) => serializer.serialize_u16(*number),
            PortOrName::Name(name) => serializer.serialize_str(name),
        }
    }
}

impl<'de> Deserialize<'de> for PortOrName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<PortOrName, D::Error> {
        number_or_text(deserializer, PortOrName::EXPECTED, PortOrName::from_number, PortOrName::from_name)
    }
}
