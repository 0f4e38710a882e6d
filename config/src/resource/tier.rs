//! Tier: a named step in the order policies are tried in.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::check::Check;
use super::form::is_default;
use super::metadata::Metadata;
use super::status::Condition;

/// Tiers every cluster has. Their order and default action cannot be changed.
pub const FIXED_TIERS: [(&str, f64, TierAction); 3] = [
    ("default", 1_000_000.0, TierAction::Deny),
    ("kube-admin", 1_000.0, TierAction::Pass),
    ("kube-baseline", 10_000_000.0, TierAction::Pass),
];

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tier {
    #[serde(default)]
    pub metadata: Metadata,
    #[serde(default)]
    pub spec: TierSpec,
    #[serde(default, skip_serializing_if = "is_default")]
    pub status: TierStatus,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TierSpec {
    /// Lower comes first; absent comes last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<f64>,
    pub default_action: TierAction,
}

/// What happens to a packet when policies of the tier select its endpoint and none of their rules decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
pub enum TierAction {
    #[default]
    Deny,
    Pass,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TierStatus {
    #[serde(skip_serializing_if = "is_default")]
    pub conditions: Vec<Condition>,
}

impl Tier {
    pub(super) fn validate(&self, check: &mut Check) {
        check.field("spec", |check| check.order(self.spec.order));
        let name = &self.metadata.name;
        let Some((_, order, action)) = FIXED_TIERS.iter().find(|(fixed, ..)| fixed == name) else {
            return;
        };
        check.field("spec", |check| {
            if self.spec.order != Some(*order) {
                let found = self.spec.order.map_or("nothing".to_string(), |order| order.to_string());
                check.refuse_field("order", found, format!("{order}, which is fixed for tier {name}"));
            }
            if self.spec.default_action != *action {
                let expected = format!("{action}, which is fixed for tier {name}");
                check.refuse_field("defaultAction", self.spec.default_action, expected);
            }
        });
    }
}

impl fmt::Display for TierAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
