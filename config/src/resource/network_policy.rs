//! NetworkPolicy: rules for the workload endpoints of one namespace. Also what both policy kinds share.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::check::Check;
use super::form::{blank_is_absent, blank_is_default, is_default};
use super::metadata::Metadata;
use super::rule::{self, PolicyType, Rule};
use crate::selector::Selector;

/// The tier of a policy that names none.
pub const DEFAULT_TIER: &str = "default";
/// Mirrors `spec.tier`, so that policies can be listed by tier.
pub const TIER_LABEL: &str = "projectcalico.org/tier";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetworkPolicy {
    #[serde(default)]
    pub metadata: Metadata,
    #[serde(default)]
    pub spec: NetworkPolicySpec,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NetworkPolicySpec {
    pub tier: String,
    /// Lower comes first; absent comes last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<f64>,
    #[serde(skip_serializing_if = "is_default")]
    pub ingress: Vec<Rule>,
    #[serde(skip_serializing_if = "is_default")]
    pub egress: Vec<Rule>,
    #[serde(deserialize_with = "blank_is_default", skip_serializing_if = "is_default")]
    pub selector: Selector,
    /// The directions the policy governs; rules of another direction are ignored.
    pub types: Vec<PolicyType>,
    #[serde(deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub service_account_selector: Option<Selector>,
    #[serde(skip_serializing_if = "is_default")]
    pub performance_hints: Vec<PerformanceHint>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PerformanceHint {
    /// Compile on every node, even without a matching endpoint there.
    AssumeNeededOnEveryNode,
}

impl NetworkPolicy {
    pub(crate) fn apply_defaults(&mut self) {
        default_tier(&mut self.metadata, &mut self.spec.tier);
        default_types(&mut self.spec.types, &self.spec.ingress, &self.spec.egress);
    }

    pub(super) fn validate(&self, check: &mut Check) {
        check.field("spec", |check| self.spec.validate(check));
    }
}

impl NetworkPolicySpec {
    pub(super) fn validate(&self, check: &mut Check) {
        check.required_name("tier", &self.tier, "a tier name");
        check.order(self.order);
        check.distinct("types", &self.types);
        check.distinct("performanceHints", &self.performance_hints);
        check.selector("selector", &self.selector);
        if let Some(selector) = &self.service_account_selector {
            check.selector("serviceAccountSelector", selector);
        }
        rule::validate_rules(&self.ingress, &self.egress, false, check);
    }
}

pub(super) fn default_tier(metadata: &mut Metadata, tier: &mut String) {
    if tier.is_empty() {
        *tier = DEFAULT_TIER.to_string();
    }
    metadata.labels.insert(TIER_LABEL.to_string(), tier.clone());
}

/// The directions a policy governs when it does not say: those it has rules for, else ingress.
pub(super) fn default_types(types: &mut Vec<PolicyType>, ingress: &[Rule], egress: &[Rule]) {
    if types.is_empty() {
        *types = match (ingress.is_empty(), egress.is_empty()) {
            (_, true) => vec![PolicyType::Ingress],
            (true, false) => vec![PolicyType::Egress],
            (false, false) => vec![PolicyType::Ingress, PolicyType::Egress],
        };
    }
}

impl fmt::Display for PerformanceHint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
