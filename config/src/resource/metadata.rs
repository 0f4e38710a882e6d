//! What every resource carries beside its spec: name, labels, annotations and the store's marks.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::check::{self, Check};
use super::form::is_default;
use super::kind::Kind;
use super::labels::Labels;

pub const DEFAULT_NAMESPACE: &str = "default";

/// The namespace something is in, as a label that selectors see.
pub const NAMESPACE_LABEL: &str = "projectcalico.org/namespace";
/// What the labels begin with that a pod has from its namespace.
pub const INHERITED_FROM_NAMESPACE: &str = "pcns.";
/// What the labels begin with that a pod has from its service account.
pub const INHERITED_FROM_ACCOUNT: &str = "pcsa.";

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Metadata {
    #[serde(skip_serializing_if = "is_default")]
    pub name: String,
    /// Set for namespaced kinds, and only for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub labels: Labels,
    #[serde(skip_serializing_if = "is_default")]
    pub annotations: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// The store's mark of one version of the resource; opaque.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
    /// RFC 3339, as the store wrote it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub creation_timestamp: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deletion_timestamp: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub generation: u64,
    /// Who must let go before a deletion completes.
    #[serde(skip_serializing_if = "is_default")]
    pub finalizers: Vec<String>,
}

impl Metadata {
    /// Metadata with a name and nothing else.
    pub fn named(name: impl Into<String>) -> Metadata {
        Metadata { name: name.into(), ..Metadata::default() }
    }

    /// Metadata with a namespace and a name.
    pub fn namespaced(namespace: impl Into<String>, name: impl Into<String>) -> Metadata {
        Metadata { namespace: Some(namespace.into()), ..Metadata::named(name) }
    }

    pub(super) fn apply_defaults(&mut self, kind: Kind) {
        if self.namespace.as_deref() == Some("") {
            self.namespace = None;
        }
        if kind.is_namespaced() && self.namespace.is_none() {
            self.namespace = Some(DEFAULT_NAMESPACE.to_string());
        }
    }

    pub(super) fn validate(&self, kind: Kind, check: &mut Check) {
        check.field("metadata", |check| {
            self.validate_name(kind, check);
            match &self.namespace {
                Some(namespace) if kind.is_namespaced() => {
                    check.required_name("namespace", namespace, "a namespace");
                }
                Some(namespace) => {
                    check.refuse_field("namespace", check::quoted(namespace), "no namespace");
                    check.help(format!("{kind} is not namespaced; remove this line"));
                }
                None if kind.is_namespaced() => check.refuse_field("namespace", "nothing", "a namespace"),
                None => {}
            }
            check.labels("labels", self.labels.iter());
            check.annotations("annotations", &self.annotations);
        });
    }

    /// Which namespace something is in, and what it inherits from there, is not for its own labels to say: whoever
    /// writes one could claim to be what a rule lets through.
    pub(super) fn refuse_reserved_labels(&self, check: &mut Check) {
        let is_reserved = |label: &str| {
            label == NAMESPACE_LABEL
                || label.starts_with(INHERITED_FROM_NAMESPACE)
                || label.starts_with(INHERITED_FROM_ACCOUNT)
        };
        for (label, value) in self.labels.iter().filter(|(label, _)| is_reserved(label)) {
            let path = format!("metadata.{}", check::entry("labels", label));
            check.refuse_field(&path, check::quoted(value), "no such label: it is set by the router");
        }
    }

    fn validate_name(&self, kind: Kind, check: &mut Check) {
        if self.name.is_empty() {
            return check.refuse_field("name", "nothing", format!("a name for this {kind}"));
        }
        let (is_right, expected) = match kind {
            Kind::NetworkPolicy | Kind::StagedNetworkPolicy => (is_policy_name(&self.name), POLICY_NAME),
            Kind::GlobalNetworkPolicy | Kind::StagedGlobalNetworkPolicy => {
                (is_one_or_two_labels(&self.name), POLICY_NAME)
            }
            Kind::IpamConfiguration | Kind::ClusterInformation | Kind::KubeControllersConfiguration => {
                (self.name == ONLY_NAME, ONLY_NAME_EXPECTED)
            }
            Kind::Namespace => (self.name.len() <= 63 && check::is_dns_label(&self.name), NAMESPACE_NAME),
            Kind::Tier => (self.name.len() <= 63 && check::is_dns_label(&self.name), TIER_NAME),
            _ => (check::is_subdomain(&self.name), RESOURCE_NAME),
        };
        if !is_right {
            check.refuse_field("name", check::quoted(&self.name), expected);
            if check::is_subdomain(&self.name.to_lowercase()) && self.name != self.name.to_lowercase() {
                check.help(format!("did you mean {}?", self.name.to_lowercase()));
            }
        }
    }
}

const RESOURCE_NAME: &str = "a name: lowercase letters, digits, '-' and '.', at most 253";
const POLICY_NAME: &str = "a policy name: lowercase letters, digits and '-', with at most one '.', at most 253";
const NAMESPACE_NAME: &str = "a namespace's name: lowercase letters, digits and '-', at most 63";
/// The name of the only instance of a kind.
const ONLY_NAME: &str = "default";
const ONLY_NAME_EXPECTED: &str = "default: there is one of this kind";
const TIER_NAME: &str = "a tier name: lowercase letters, digits and '-', at most 63";

fn is_policy_name(name: &str) -> bool {
    // Policies made from Kubernetes objects carry the object's own subdomain behind a fixed prefix.
    let derived = ["knp.default.", "ossg.default."];
    let is_derived = derived.iter().any(|prefix| name.strip_prefix(prefix).is_some_and(check::is_subdomain));
    is_one_or_two_labels(name) || (is_derived && name.len() <= check::NAME_MAX)
}

fn is_one_or_two_labels(name: &str) -> bool {
    check::is_subdomain(name) && name.matches('.').count() <= 1
}
