//! Policies of every kind in one shape, and which endpoints they select.

use config::convert;
use config::resource::{
    GlobalNetworkPolicy, INHERITED_FROM_ACCOUNT, INHERITED_FROM_NAMESPACE, Key, Kind, NetworkPolicy, PolicyType,
    Resource, Rule,
};
use config::selector::Selector;

use super::labels::{Labels, NAMESPACE, SERVICE_ACCOUNT};
use super::order::Rank;
use crate::node_state::BlockName;

/// A policy, whatever its kind.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    pub key: Key,
    pub tier: String,
    pub rank: Rank,
    subject: Selector,
    types: Vec<PolicyType>,
    ingress: Vec<Rule>,
    egress: Vec<Rule>,
    /// What its rules are called, by direction.
    blocks: [BlockName; 2],
    pub stage: Stage,
    /// Of host endpoints: also for what is forwarded through them.
    pub applies_on_forward: bool,
}

/// When a policy is asked about a packet of a host endpoint. Workload endpoints know only `Normal`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Before flows are looked up; without memory.
    Untracked,
    /// Before destinations are translated.
    PreDnat,
    Normal,
}

/// Kinds that `Policy::of` makes a policy of.
pub fn is_policy(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::NetworkPolicy | Kind::GlobalNetworkPolicy | Kind::KubernetesNetworkPolicy | Kind::ClusterNetworkPolicy
    )
}

impl Policy {
    /// None for resources that are no policy, and for staged ones: those are never enforced.
    pub fn of(resource: &Resource) -> Option<Policy> {
        Some(match resource {
            Resource::NetworkPolicy(policy) => Policy::of_namespace(resource.key(), policy),
            Resource::GlobalNetworkPolicy(policy) => Policy::of_cluster(resource.key(), policy),
            // These have the names of what was written, and the meaning of what Calico makes of it.
            Resource::KubernetesNetworkPolicy(policy) => {
                Policy::of_namespace(resource.key(), &convert::network_policy(policy).resource)
            }
            Resource::ClusterNetworkPolicy(policy) => {
                Policy::of_cluster(resource.key(), &convert::cluster_network_policy(policy).resource)
            }
            _ => return None,
        })
    }

    fn of_namespace(key: Key, policy: &NetworkPolicy) -> Policy {
        let spec = &policy.spec;
        let accounts = spec.service_account_selector.as_ref().map(of_accounts);
        Policy {
            rank: Rank::new(spec.order, &key),
            blocks: blocks(&key),
            key,
            tier: spec.tier.clone(),
            subject: all_of([Some(spec.selector.clone()), accounts]),
            types: spec.types.clone(),
            ingress: spec.ingress.clone(),
            egress: spec.egress.clone(),
            stage: Stage::Normal,
            applies_on_forward: false,
        }
    }

    fn of_cluster(key: Key, policy: &GlobalNetworkPolicy) -> Policy {
        let spec = &policy.spec;
        let accounts = spec.service_account_selector.as_ref().map(of_accounts);
        let namespaces = spec.namespace_selector.as_ref().filter(|s| !s.is_blank()).map(in_namespaces);
        Policy {
            rank: Rank::new(spec.order, &key),
            blocks: blocks(&key),
            key,
            tier: spec.tier.clone(),
            subject: all_of([Some(spec.selector.clone()), namespaces, accounts]),
            types: spec.types.clone(),
            ingress: spec.ingress.clone(),
            egress: spec.egress.clone(),
            stage: match (spec.do_not_track, spec.pre_dnat) {
                (true, _) => Stage::Untracked,
                (_, true) => Stage::PreDnat,
                _ => Stage::Normal,
            },
            applies_on_forward: spec.apply_on_forward,
        }
    }

    pub fn selects(&self, labels: &Labels) -> bool {
        let namespace = self.key.namespace.as_deref();
        namespace.is_none_or(|wanted| labels.get(NAMESPACE) == Some(wanted)) && self.subject.matches(labels)
    }

    pub fn governs(&self, direction: PolicyType) -> bool {
        self.types.contains(&direction)
    }

    pub fn block(&self, direction: PolicyType) -> &BlockName {
        &self.blocks[usize::from(direction == PolicyType::Egress)]
    }

    pub fn rules(&self, direction: PolicyType) -> &[Rule] {
        match direction {
            PolicyType::Ingress => &self.ingress,
            PolicyType::Egress => &self.egress,
        }
    }
}

fn blocks(key: &Key) -> [BlockName; 2] {
    [PolicyType::Ingress, PolicyType::Egress].map(|direction| BlockName::new(key, direction))
}

/// Endpoints in namespaces that a selector over namespace labels selects: those labels arrive with a prefix.
pub fn in_namespaces(selector: &Selector) -> Selector {
    if selector.is_all() {
        parsed(&format!("has({NAMESPACE})"))
    } else if selector.is_global() {
        parsed(&format!("!has({NAMESPACE})"))
    } else {
        selector.prefix_labels(INHERITED_FROM_NAMESPACE)
    }
}

/// Endpoints whose service account a selector over its labels selects.
pub fn of_accounts(selector: &Selector) -> Selector {
    selector.prefix_labels(INHERITED_FROM_ACCOUNT)
}

/// Endpoints with one of these service accounts.
pub fn with_accounts(names: &[String]) -> Selector {
    let list: Vec<String> = names.iter().map(|name| format!("'{name}'")).collect();
    parsed(&format!("{SERVICE_ACCOUNT} in {{{}}}", list.join(", ")))
}

/// Endpoints of one namespace.
pub fn of_namespace(namespace: &str) -> Selector {
    parsed(&format!("{NAMESPACE} == '{namespace}'"))
}

/// The conjunction of the selectors that are there.
pub fn all_of(selectors: impl IntoIterator<Item = Option<Selector>>) -> Selector {
    let present = selectors.into_iter().flatten().filter(|selector| !selector.is_blank());
    present.reduce(|left, right| left.and(&right)).unwrap_or_else(Selector::all)
}

/// A selector that we wrote. Names in it were validated; should one not parse all the same, nothing may match it.
fn parsed(text: &str) -> Selector {
    Selector::parse(text).unwrap_or_else(|_| nothing())
}

fn nothing() -> Selector {
    Selector::parse("!all()").unwrap_or_else(|_| Selector::all())
}
