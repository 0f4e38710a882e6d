//! Policies of every kind, in the order in which they are asked; tiers and profiles.

use std::cmp::Ordering;

use config::resource::{
    Action, ClusterPolicyTier, FIXED_TIERS, Key, Kind, PolicyType, Resource, Rule, ServiceAccount, TierAction,
};

use super::matching::{holds, written};
use super::members::{Labels, NAMESPACE, is_in_namespace, without_prefix};
use super::{List, WrittenRule, kubernetes};
use crate::resources::Resources;

/// A policy of any kind, in one direction.
pub struct Policy<'a> {
    pub key: Key,
    pub tier: &'a str,
    order: f64,
    pub selects: Box<dyn Fn(&Labels) -> bool + 'a>,
    rules: Vec<WrittenRule>,
    pub is_untracked: bool,
    pub is_pre_dnat: bool,
    pub is_for_forwarded: bool,
}

impl Policy<'_> {
    pub fn is_normal(&self) -> bool {
        !self.is_untracked && !self.is_pre_dnat
    }

    pub fn list(&self) -> List {
        List { owner: self.key.to_string(), namespace: self.key.namespace.clone(), rules: self.rules.clone() }
    }

    fn namespace(&self) -> Option<&str> {
        self.key.namespace.as_deref()
    }

    fn rank(&self) -> (f64, String) {
        let namespace = self.namespace().unwrap_or_default();
        (self.order, format!("{}/{namespace}/{}", self.key.name, self.key.kind.name()))
    }
}

/// Those that say something in this direction.
pub fn policies(resources: &Resources, direction: PolicyType) -> Vec<Policy<'_>> {
    let choose = |ingress: &[Rule], egress: &[Rule]| match direction {
        PolicyType::Ingress => calico(ingress),
        PolicyType::Egress => calico(egress),
    };
    let mut found = Vec::new();
    for policy in resources.network_policies().filter(|policy| policy.spec.types.contains(&direction)) {
        let spec = &policy.spec;
        found.push(Policy {
            key: Resource::NetworkPolicy(policy.clone()).key(),
            tier: &spec.tier,
            order: spec.order.unwrap_or(f64::INFINITY),
            selects: Box::new(|labels| {
                labels.get(NAMESPACE) == policy.metadata.namespace.as_ref()
                    && spec.selector.matches(labels)
                    && holds(&spec.service_account_selector, &without_prefix(labels, "pcsa."))
            }),
            rules: choose(&spec.ingress, &spec.egress),
            is_untracked: false,
            is_pre_dnat: false,
            is_for_forwarded: false,
        });
    }
    for policy in resources.global_network_policies().filter(|policy| policy.spec.types.contains(&direction)) {
        let spec = &policy.spec;
        found.push(Policy {
            key: Resource::GlobalNetworkPolicy(policy.clone()).key(),
            tier: &spec.tier,
            order: spec.order.unwrap_or(f64::INFINITY),
            selects: Box::new(|labels| {
                spec.selector.matches(labels)
                    && written(&spec.namespace_selector).is_none_or(|selector| is_in_namespace(labels, selector))
                    && holds(&spec.service_account_selector, &without_prefix(labels, "pcsa."))
            }),
            rules: choose(&spec.ingress, &spec.egress),
            is_untracked: spec.do_not_track,
            is_pre_dnat: spec.pre_dnat,
            is_for_forwarded: spec.apply_on_forward,
        });
    }
    for policy in resources.kubernetes_network_policies() {
        let Some(rules) = kubernetes::rules(policy, direction) else { continue };
        found.push(Policy {
            key: Resource::KubernetesNetworkPolicy(policy.clone()).key(),
            tier: "default",
            order: 1000.0,
            selects: Box::new(|labels| kubernetes::is_about(policy, labels)),
            rules,
            is_untracked: false,
            is_pre_dnat: false,
            is_for_forwarded: false,
        });
    }
    for policy in resources.cluster_network_policies() {
        let Some(rules) = kubernetes::cluster_rules(policy, direction) else { continue };
        found.push(Policy {
            key: Resource::ClusterNetworkPolicy(policy.clone()).key(),
            tier: match policy.spec.tier {
                ClusterPolicyTier::Admin => "kube-admin",
                ClusterPolicyTier::Baseline => "kube-baseline",
            },
            order: policy.spec.priority.get() as f64,
            selects: Box::new(|labels| kubernetes::is_about_cluster(policy, labels)),
            rules,
            is_untracked: false,
            is_pre_dnat: false,
            is_for_forwarded: false,
        });
    }
    found
}

pub fn calico(rules: &[Rule]) -> Vec<WrittenRule> {
    rules.iter().cloned().map(Box::new).map(WrittenRule::Calico).collect()
}

/// Those of a tier, in order.
pub fn in_order<'p, 'a>(policies: &'p [Policy<'a>], tier: &str) -> impl Iterator<Item = &'p Policy<'a>> {
    let mut of_tier: Vec<&Policy<'a>> = policies.iter().filter(|policy| policy.tier == tier).collect();
    of_tier.sort_by(|left, right| {
        let ((left_order, left_name), (right_order, right_name)) = (left.rank(), right.rank());
        left_order.partial_cmp(&right_order).unwrap_or(Ordering::Equal).then(left_name.cmp(&right_name))
    });
    of_tier.into_iter()
}

/// Names of tiers in order, and whether what they do not decide passes. Tiers that only policies know come last.
pub fn tiers(resources: &Resources, policies: &[Policy<'_>]) -> Vec<(String, bool)> {
    let mut all: Vec<(bool, f64, String, bool)> = Vec::new();
    for (name, order, action) in FIXED_TIERS {
        all.push((false, order, name.to_string(), action == TierAction::Pass));
    }
    for tier in resources.tiers() {
        all.retain(|(_, _, name, _)| *name != tier.metadata.name);
        let order = tier.spec.order.unwrap_or(f64::INFINITY);
        all.push((false, order, tier.metadata.name.clone(), tier.spec.default_action == TierAction::Pass));
    }
    for policy in policies {
        if !all.iter().any(|(_, _, name, _)| name == policy.tier) {
            all.push((true, 0.0, policy.tier.to_string(), false));
        }
    }
    all.sort_by(|left, right| {
        left.0.cmp(&right.0).then(left.1.partial_cmp(&right.1).unwrap_or(Ordering::Equal)).then(left.2.cmp(&right.2))
    });
    all.into_iter().map(|(_, _, name, passes)| (name, passes)).collect()
}

/// The name and rules of a profile. One that does not exist denies, one that always exists allows, that of a namespace
/// allows and that of a service account has no rules.
pub fn profile(resources: &Resources, name: &str, direction: PolicyType) -> List {
    let key = Key::cluster(Kind::Profile, name).to_string();
    let account = |account: &ServiceAccount| {
        format!("ksa.{}.{}", account.metadata.namespace.as_deref().unwrap_or_default(), account.metadata.name) == name
    };
    let (owner, rules) = match resources.profiles().find(|profile| profile.metadata.name == name) {
        _ if name == "projectcalico-default-allow" => (key, vec![Rule::any(Action::Allow)]),
        Some(profile) if direction == PolicyType::Ingress => (key, profile.spec.ingress.clone()),
        Some(profile) => (key, profile.spec.egress.clone()),
        None if resources.namespaces().any(|namespace| format!("kns.{}", namespace.metadata.name) == name) => {
            (key, vec![Rule::any(Action::Allow)])
        }
        None if resources.service_accounts().any(account) => (key, Vec::new()),
        None => (format!("{key} (does not exist)"), vec![Rule::any(Action::Deny)]),
    };
    List { owner, namespace: None, rules: calico(&rules) }
}
