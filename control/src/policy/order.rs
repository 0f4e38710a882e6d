//! In which order tiers and policies apply.
//!
//! Tiers by order (absent = last), then name; a tier that policies name but nobody made comes after all and denies.
//! Policies in a tier by order (absent = last), then by name, namespace and kind.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use config::resource::{FIXED_TIERS, TierAction};

use super::active::Policy;
use crate::resources::Resources;

/// A tier in its place.
#[derive(Debug, Clone, PartialEq)]
pub struct OrderedTier {
    pub name: String,
    /// Packets that no policy of the tier decided go on to the next.
    pub passes: bool,
}

/// The tiers in order, those that always exist included.
pub fn tiers(resources: &Resources, policies: &[Policy]) -> Vec<OrderedTier> {
    let mut known: BTreeMap<&str, (Option<f64>, bool)> =
        FIXED_TIERS.iter().map(|(name, order, action)| (*name, (Some(*order), *action == TierAction::Pass))).collect();
    for tier in resources.tiers() {
        let passes = tier.spec.default_action == TierAction::Pass;
        known.insert(&tier.metadata.name, (tier.spec.order, passes));
    }
    let mut ordered: Vec<(Option<f64>, &str, bool)> =
        known.iter().map(|(name, (order, passes))| (*order, *name, *passes)).collect();
    ordered.sort_by(|left, right| compare_orders(left.0, right.0).then_with(|| left.1.cmp(right.1)));
    let mut unknown: Vec<&str> =
        policies.iter().map(|policy| policy.tier.as_str()).filter(|name| !known.contains_key(name)).collect();
    unknown.sort_unstable();
    unknown.dedup();
    let known = ordered.into_iter().map(|(_, name, passes)| OrderedTier { name: name.into(), passes });
    known.chain(unknown.into_iter().map(|name| OrderedTier { name: name.into(), passes: false })).collect()
}

/// The order of two policies of one tier.
pub fn compare_policies(left: &Policy, right: &Policy) -> Ordering {
    let name = |policy: &Policy| {
        let namespace = policy.key.namespace.as_deref().unwrap_or_default();
        format!("{}/{namespace}/{}", policy.key.name, policy.key.kind.name())
    };
    compare_orders(left.order, right.order).then_with(|| name(left).cmp(&name(right)))
}

fn compare_orders(left: Option<f64>, right: Option<f64>) -> Ordering {
    left.unwrap_or(f64::INFINITY).total_cmp(&right.unwrap_or(f64::INFINITY))
}
