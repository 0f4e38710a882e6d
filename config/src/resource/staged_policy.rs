//! Staged policies: what a policy would be. They are never enforced; they say what would become of packets if they were.

use serde::{Deserialize, Serialize};

use super::check::Check;
use super::form::{blank_is_absent, blank_is_default, is_default};
use super::global_network_policy::GlobalNetworkPolicySpec;
use super::metadata::Metadata;
use super::network_policy::{NetworkPolicySpec, PerformanceHint, default_tier, default_types};
use super::rule::{PolicyType, Rule};
use super::word::words;
use crate::selector::Selector;

words! {
    /// What promoting the staged policy would do to the policy it stands for.
    #[derive(Default)]
    StagedAction: exact {
        #[default]
        Set = "Set",
        Delete = "Delete",
        Learn = "Learn",
        Ignore = "Ignore",
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StagedNetworkPolicy {
    #[serde(default)]
    pub metadata: Metadata,
    #[serde(default)]
    pub spec: StagedNetworkPolicySpec,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct StagedNetworkPolicySpec {
    #[serde(deserialize_with = "blank_is_default")]
    pub staged_action: StagedAction,
    pub tier: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<f64>,
    #[serde(skip_serializing_if = "is_default")]
    pub ingress: Vec<Rule>,
    #[serde(skip_serializing_if = "is_default")]
    pub egress: Vec<Rule>,
    #[serde(deserialize_with = "blank_is_default", skip_serializing_if = "is_default")]
    pub selector: Selector,
    #[serde(skip_serializing_if = "is_default")]
    pub types: Vec<PolicyType>,
    #[serde(deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub service_account_selector: Option<Selector>,
    #[serde(skip_serializing_if = "is_default")]
    pub performance_hints: Vec<PerformanceHint>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StagedGlobalNetworkPolicy {
    #[serde(default)]
    pub metadata: Metadata,
    #[serde(default)]
    pub spec: StagedGlobalNetworkPolicySpec,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct StagedGlobalNetworkPolicySpec {
    #[serde(deserialize_with = "blank_is_default")]
    pub staged_action: StagedAction,
    pub tier: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<f64>,
    #[serde(skip_serializing_if = "is_default")]
    pub ingress: Vec<Rule>,
    #[serde(skip_serializing_if = "is_default")]
    pub egress: Vec<Rule>,
    #[serde(deserialize_with = "blank_is_default", skip_serializing_if = "is_default")]
    pub selector: Selector,
    #[serde(skip_serializing_if = "is_default")]
    pub types: Vec<PolicyType>,
    #[serde(skip_serializing_if = "is_default")]
    pub do_not_track: bool,
    #[serde(rename = "preDNAT", skip_serializing_if = "is_default")]
    pub pre_dnat: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub apply_on_forward: bool,
    #[serde(deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub service_account_selector: Option<Selector>,
    #[serde(deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<Selector>,
    #[serde(skip_serializing_if = "is_default")]
    pub performance_hints: Vec<PerformanceHint>,
}

impl StagedNetworkPolicy {
    pub(super) fn apply_defaults(&mut self) {
        let spec = &mut self.spec;
        default_tier(&mut self.metadata, &mut spec.tier);
        if spec.staged_action != StagedAction::Delete {
            default_types(&mut spec.types, &spec.ingress, &spec.egress);
        }
    }

    pub(super) fn validate(&self, check: &mut Check) {
        check.field("spec", |check| {
            let spec = self.spec.policy();
            let empty = NetworkPolicySpec { tier: spec.tier.clone(), ..NetworkPolicySpec::default() };
            validate_deletion(self.spec.staged_action, spec == empty, check);
            spec.validate(check);
        });
    }
}

impl StagedNetworkPolicySpec {
    /// The policy this would become.
    pub fn policy(&self) -> NetworkPolicySpec {
        NetworkPolicySpec {
            tier: self.tier.clone(),
            order: self.order,
            ingress: self.ingress.clone(),
            egress: self.egress.clone(),
            selector: self.selector.clone(),
            types: self.types.clone(),
            service_account_selector: self.service_account_selector.clone(),
            performance_hints: self.performance_hints.clone(),
        }
    }
}

impl StagedGlobalNetworkPolicy {
    pub(super) fn apply_defaults(&mut self) {
        let spec = &mut self.spec;
        default_tier(&mut self.metadata, &mut spec.tier);
        if spec.staged_action != StagedAction::Delete {
            default_types(&mut spec.types, &spec.ingress, &spec.egress);
        }
    }

    pub(super) fn validate(&self, check: &mut Check) {
        check.field("spec", |check| {
            let spec = self.spec.policy();
            let empty = GlobalNetworkPolicySpec { tier: spec.tier.clone(), ..GlobalNetworkPolicySpec::default() };
            validate_deletion(self.spec.staged_action, spec == empty, check);
            spec.validate(check);
        });
    }
}

impl StagedGlobalNetworkPolicySpec {
    /// The policy this would become.
    pub fn policy(&self) -> GlobalNetworkPolicySpec {
        GlobalNetworkPolicySpec {
            tier: self.tier.clone(),
            order: self.order,
            ingress: self.ingress.clone(),
            egress: self.egress.clone(),
            selector: self.selector.clone(),
            types: self.types.clone(),
            do_not_track: self.do_not_track,
            pre_dnat: self.pre_dnat,
            apply_on_forward: self.apply_on_forward,
            service_account_selector: self.service_account_selector.clone(),
            namespace_selector: self.namespace_selector.clone(),
            performance_hints: self.performance_hints.clone(),
        }
    }
}

/// A policy that is to be deleted has no content of its own.
pub(super) fn validate_deletion(action: StagedAction, is_empty: bool, check: &mut Check) {
    if action == StagedAction::Delete && !is_empty {
        check.refuse_field("stagedAction", "Delete beside other fields", "Delete with nothing but a tier beside it");
    }
}
