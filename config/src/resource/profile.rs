//! Profile: rules and labels that the endpoints listing it inherit.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::check::Check;
use super::form::is_default;
use super::metadata::Metadata;
use super::rule::{self, Rule};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    #[serde(default)]
    pub metadata: Metadata,
    #[serde(default)]
    pub spec: ProfileSpec,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ProfileSpec {
    #[serde(skip_serializing_if = "is_default")]
    pub ingress: Vec<Rule>,
    #[serde(skip_serializing_if = "is_default")]
    pub egress: Vec<Rule>,
    /// Labels of the endpoints that list the profile; an endpoint's own labels win.
    #[serde(skip_serializing_if = "is_default")]
    pub labels_to_apply: BTreeMap<String, String>,
}

impl Profile {
    pub(super) fn validate(&self, check: &mut Check) {
        check.field("spec", |check| {
            check.labels("labelsToApply", &self.spec.labels_to_apply);
            rule::validate_rules(&self.spec.ingress, &self.spec.egress, true, check);
        });
    }
}
