//! Namespaces and service accounts give their pods labels, and a namespace lets through what no policy decides.

use std::collections::BTreeMap;

use crate::resource::{
    Action, DEFAULT_NAMESPACE, INHERITED_FROM_ACCOUNT, INHERITED_FROM_NAMESPACE, Metadata, Namespace, Profile,
    ProfileSpec, Rule, ServiceAccount,
};

/// The label with the name of what the others come from.
const NAME_LABEL: &str = "projectcalico.org/name";

/// `kns.<name>`: everything is let through that no policy decides.
pub fn namespace_profile(namespace: &Namespace) -> Profile {
    let metadata = &namespace.metadata;
    let spec = ProfileSpec {
        ingress: vec![Rule::any(Action::Allow)],
        egress: vec![Rule::any(Action::Allow)],
        labels_to_apply: inherited(INHERITED_FROM_NAMESPACE, metadata),
    };
    Profile { metadata: Metadata::named(format!("kns.{}", metadata.name)), spec }
}

/// `ksa.<namespace>.<name>`: labels only.
pub fn service_account_profile(account: &ServiceAccount) -> Profile {
    let metadata = &account.metadata;
    let namespace = metadata.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
    let labels_to_apply = inherited(INHERITED_FROM_ACCOUNT, metadata);
    let spec = ProfileSpec { labels_to_apply, ..ProfileSpec::default() };
    Profile { metadata: Metadata::named(format!("ksa.{namespace}.{}", metadata.name)), spec }
}

fn inherited(prefix: &str, metadata: &Metadata) -> BTreeMap<String, String> {
    let mut labels: BTreeMap<String, String> =
        metadata.labels.iter().map(|(label, value)| (format!("{prefix}{label}"), value.clone())).collect();
    // Last, so that no label claims another name.
    labels.insert(format!("{prefix}{NAME_LABEL}"), metadata.name.clone());
    labels
}
