//! Namespaces and service accounts give their pods labels, and a namespace lets through what no policy decides.

use std::collections::BTreeMap;

use crate::resource::{
    Action, DEFAULT_NAMESPACE, INHERITED_FROM_ACCOUNT, INHERITED_FROM_NAMESPACE, Metadata, Namespace, Profile,
    ProfileSpec, Rule, ServiceAccount,
};

/// The label with the name of what the others come from.
const NAME_LABEL: &str = "projectcalico.org/name";

const OF_NAMESPACE: &str = "kns.";
const OF_ACCOUNT: &str = "ksa.";

/// What the profile of a namespace is called.
pub fn namespace_profile_name(namespace: &str) -> String {
    format!("{OF_NAMESPACE}{namespace}")
}

/// What the profile of a service account is called.
pub fn service_account_profile_name(namespace: &str, name: &str) -> String {
    format!("{OF_ACCOUNT}{namespace}.{name}")
}

/// What a profile's name says it stands for. No namespace has a dot, so that the parts of an account's are told apart.
pub fn source_of_profile(name: &str) -> Option<ProfileSource<'_>> {
    if let Some(namespace) = name.strip_prefix(OF_NAMESPACE) {
        return Some(ProfileSource::Namespace(namespace));
    }
    let (namespace, name) = name.strip_prefix(OF_ACCOUNT)?.split_once('.')?;
    Some(ProfileSource::ServiceAccount { namespace, name })
}

/// The object of Kubernetes that a profile is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProfileSource<'a> {
    Namespace(&'a str),
    ServiceAccount { namespace: &'a str, name: &'a str },
}

/// `kns.<name>`: everything is let through that no policy decides.
pub fn namespace_profile(namespace: &Namespace) -> Profile {
    let metadata = &namespace.metadata;
    let spec = ProfileSpec {
        ingress: vec![Rule::any(Action::Allow)],
        egress: vec![Rule::any(Action::Allow)],
        labels_to_apply: inherited(INHERITED_FROM_NAMESPACE, metadata),
    };
    Profile { metadata: Metadata::named(namespace_profile_name(&metadata.name)), spec }
}

/// `ksa.<namespace>.<name>`: labels only.
pub fn service_account_profile(account: &ServiceAccount) -> Profile {
    let metadata = &account.metadata;
    let namespace = metadata.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
    let labels_to_apply = inherited(INHERITED_FROM_ACCOUNT, metadata);
    let spec = ProfileSpec { labels_to_apply, ..ProfileSpec::default() };
    Profile { metadata: Metadata::named(service_account_profile_name(namespace, &metadata.name)), spec }
}

fn inherited(prefix: &str, metadata: &Metadata) -> BTreeMap<String, String> {
    let mut labels: BTreeMap<String, String> =
        metadata.labels.iter().map(|(label, value)| (format!("{prefix}{label}"), value.to_owned())).collect();
    // Last, so that no label claims another name.
    labels.insert(format!("{prefix}{NAME_LABEL}"), metadata.name.clone());
    labels
}
