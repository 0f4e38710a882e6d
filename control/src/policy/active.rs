//! Policies of every kind in one shape, and which endpoints they select.

use config::resource::{Key, PolicyType, Resource, Rule};
use config::selector::Selector;

use super::labels::{Labels, NAMESPACE, SERVICE_ACCOUNT};
use crate::resources::Resources;

/// A policy, whatever its kind.
#[derive(Debug, Clone)]
pub struct Policy {
    pub key: Key,
    pub tier: String,
    pub order: Option<f64>,
    subject: Selector,
    pub types: Vec<PolicyType>,
    pub ingress: Vec<Rule>,
    pub egress: Vec<Rule>,
}

impl Policy {
    pub fn selects(&self, labels: &Labels) -> bool {
        let namespace = self.key.namespace.as_ref();
        namespace.is_none_or(|wanted| labels.get(NAMESPACE) == Some(wanted)) && self.subject.matches(labels)
    }

    pub fn rules(&self, direction: PolicyType) -> &[Rule] {
        match direction {
            PolicyType::Ingress => &self.ingress,
            PolicyType::Egress => &self.egress,
        }
    }
}

/// All policies, in key order.
pub fn collect(resources: &Resources) -> Vec<Policy> {
    let namespaced = resources.network_policies().map(|policy| {
        let spec = &policy.spec;
        let accounts = spec.service_account_selector.as_ref().map(|accounts| accounts.prefix_labels("pcsa."));
        Policy {
            key: Resource::NetworkPolicy(policy.clone()).key(),
            tier: spec.tier.clone(),
            order: spec.order,
            subject: all_of([Some(spec.selector.clone()), accounts]),
            types: spec.types.clone(),
            ingress: spec.ingress.clone(),
            egress: spec.egress.clone(),
        }
    });
    let global = resources.global_network_policies().map(|policy| {
        let spec = &policy.spec;
        let accounts = spec.service_account_selector.as_ref().map(|accounts| accounts.prefix_labels("pcsa."));
        let namespaces = spec.namespace_selector.as_ref().filter(|s| !s.is_blank()).map(in_namespaces);
        Policy {
            key: Resource::GlobalNetworkPolicy(policy.clone()).key(),
            tier: spec.tier.clone(),
            order: spec.order,
            subject: all_of([Some(spec.selector.clone()), namespaces, accounts]),
            types: spec.types.clone(),
            ingress: spec.ingress.clone(),
            egress: spec.egress.clone(),
        }
    });
    namespaced.chain(global).collect()
}

/// Endpoints in namespaces that a selector over namespace labels selects: those labels arrive with a prefix.
pub fn in_namespaces(selector: &Selector) -> Selector {
    if selector.is_all() {
        parsed(&format!("has({NAMESPACE})"))
    } else if selector.is_global() {
        parsed(&format!("!has({NAMESPACE})"))
    } else {
        selector.prefix_labels("pcns.")
    }
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
