//! In which order tiers and policies apply.
//!
//! Tiers by order (absent = last), then name; a tier that policies name but nobody made comes after all and denies.
//! Policies in a tier by order (absent = last), then by name, namespace and kind.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use config::resource::{FIXED_TIERS, Key, TierAction};

use crate::resources::Resources;

/// A tier in its place.
#[derive(Debug, Clone, PartialEq)]
pub struct OrderedTier {
    pub name: String,
    /// Packets that no policy of the tier decided go on to the next.
    pub passes: bool,
}

/// The tiers in order, those that always exist included.
pub fn tiers(resources: &Resources) -> Vec<OrderedTier> {
    let mut known: BTreeMap<&str, (Option<f64>, bool)> =
        FIXED_TIERS.iter().map(|(name, order, action)| (*name, (Some(*order), *action == TierAction::Pass))).collect();
    for tier in resources.tiers() {
        let passes = tier.spec.default_action == TierAction::Pass;
        known.insert(&tier.metadata.name, (tier.spec.order, passes));
    }
    let mut ordered: Vec<(Option<f64>, &str, bool)> =
        known.iter().map(|(name, (order, passes))| (*order, *name, *passes)).collect();
    ordered.sort_by(|left, right| compare_orders(left.0, right.0).then_with(|| left.1.cmp(right.1)));
    ordered.into_iter().map(|(_, name, passes)| OrderedTier { name: name.into(), passes }).collect()
}

/// The place of a policy in its tier.
#[derive(Debug, Clone)]
pub struct Rank {
    order: Option<f64>,
    /// `name/namespace/kind`.
    name: String,
}

impl Rank {
    pub fn new(order: Option<f64>, key: &Key) -> Self {
        let namespace = key.namespace.as_deref().unwrap_or_default();
        Self { order, name: format!("{}/{namespace}/{}", key.name, key.kind.name()) }
    }
}

impl Ord for Rank {
    fn cmp(&self, other: &Self) -> Ordering {
        compare_orders(self.order, other.order).then_with(|| self.name.cmp(&other.name))
    }
}

impl PartialOrd for Rank {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Rank {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Rank {}

fn compare_orders(left: Option<f64>, right: Option<f64>) -> Ordering {
    left.unwrap_or(f64::INFINITY).total_cmp(&right.unwrap_or(f64::INFINITY))
}
