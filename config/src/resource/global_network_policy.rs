//! GlobalNetworkPolicy: rules for workload endpoints of all namespaces and for host endpoints.

use serde::{Deserialize, Serialize};

use super::check::Check;
use super::form::{blank_is_absent, blank_is_default, is_default};
use super::metadata::Metadata;
use super::network_policy::{PerformanceHint, default_tier, default_types};
use super::rule::{self, PolicyType, Rule};
use crate::selector::Selector;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GlobalNetworkPolicy {
    #[serde(default)]
    pub metadata: Metadata,
    #[serde(default)]
    pub spec: GlobalNetworkPolicySpec,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GlobalNetworkPolicySpec {
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
    /// Stateless, on host endpoints only.
    #[serde(skip_serializing_if = "is_default")]
    pub do_not_track: bool,
    /// Before destination translation, on host endpoints only.
    #[serde(rename = "preDNAT", skip_serializing_if = "is_default")]
    pub pre_dnat: bool,
    /// Also for traffic forwarded through a host endpoint.
    #[serde(skip_serializing_if = "is_default")]
    pub apply_on_forward: bool,
    #[serde(deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub service_account_selector: Option<Selector>,
    #[serde(deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<Selector>,
    #[serde(skip_serializing_if = "is_default")]
    pub performance_hints: Vec<PerformanceHint>,
}

impl GlobalNetworkPolicy {
    pub(crate) fn apply_defaults(&mut self) {
        default_tier(&mut self.metadata, &mut self.spec.tier);
        default_types(&mut self.spec.types, &self.spec.ingress, &self.spec.egress);
    }

    pub(super) fn validate(&self, check: &mut Check) {
        check.field("spec", |check| self.spec.validate(check));
    }
}

impl GlobalNetworkPolicySpec {
    pub(super) fn validate(&self, check: &mut Check) {
        check.required_name("tier", &self.tier, "a tier name");
        check.order(self.order);
        check.distinct("types", &self.types);
        check.distinct("performanceHints", &self.performance_hints);
        check.selector("selector", &self.selector);
        let narrowing = [
            ("serviceAccountSelector", &self.service_account_selector),
            ("namespaceSelector", &self.namespace_selector),
        ];
        for (name, selector) in narrowing {
            if let Some(selector) = selector {
                check.selector(name, selector);
            }
        }
        self.validate_host_modes(check);
        rule::validate_rules(&self.ingress, &self.egress, true, check);
    }

    fn validate_host_modes(&self, check: &mut Check) {
        if self.pre_dnat && self.do_not_track {
            check.refuse_field("preDNAT", "both preDNAT and doNotTrack", "at most one of them");
        }
        for (name, is_set) in [("preDNAT", self.pre_dnat), ("doNotTrack", self.do_not_track)] {
            if is_set && !self.apply_on_forward {
                check.refuse_field(name, "true without applyOnForward", "applyOnForward: true beside it");
            }
        }
        if self.pre_dnat && !self.egress.is_empty() {
            check.refuse_field("egress", "egress rules in a preDNAT policy", "ingress rules only");
        } else if self.pre_dnat && self.types.contains(&PolicyType::Egress) {
            check.refuse_field("types", "Egress in a preDNAT policy", "Ingress only");
        }
    }
}
