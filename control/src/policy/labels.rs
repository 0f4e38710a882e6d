//! The labels of an endpoint or network set: its own, then those of its profiles in the order it lists them.

use std::collections::BTreeMap;
use std::sync::Arc;

use config::convert::namespace_profile_name;
use config::resource::{HostEndpoint, INHERITED_FROM_ACCOUNT, INHERITED_FROM_NAMESPACE, Metadata, WorkloadEndpoint};
use config::selector;

/// Labels that every workload endpoint has, set by whoever creates it or, failing that, by us.
pub use config::resource::NAMESPACE_LABEL as NAMESPACE;
pub const ORCHESTRATOR: &str = "projectcalico.org/orchestrator";
pub const SERVICE_ACCOUNT: &str = "projectcalico.org/serviceaccount";

/// Labels by name: sorted, in as little memory as a hundred thousand endpoints need.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Labels(Box<[(Arc<str>, Arc<str>)]>);

impl Labels {
    pub fn iter(&self) -> impl Iterator<Item = &(Arc<str>, Arc<str>)> {
        self.0.iter()
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        let position = self.0.binary_search_by(|(own, _)| (**own).cmp(name)).ok()?;
        Some(&self.0[position].1)
    }

    /// The same labels, in the texts that `share` has for them.
    pub fn shared(&self, mut share: impl FnMut(&Arc<str>, &Arc<str>) -> (Arc<str>, Arc<str>)) -> Labels {
        Labels(self.0.iter().map(|(name, value)| share(name, value)).collect())
    }
}

impl selector::Labels for Labels {
    fn label(&self, name: &str) -> Option<&str> {
        self.get(name)
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for Labels {
    /// Of two labels of one name the last stays.
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a str)>>(labels: I) -> Self {
        let sorted: BTreeMap<&str, &str> = labels.into_iter().collect();
        Labels(sorted.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

/// The labels that profiles give to whoever lists them, by the profile's name.
pub type ProfileLabels = BTreeMap<String, BTreeMap<String, String>>;

pub fn of_workload(endpoint: &WorkloadEndpoint, profiles: &ProfileLabels) -> Labels {
    let spec = &endpoint.spec;
    // Nor can they claim the labels of a namespace or service account: those come from profiles alone (Calico:
    // libcalico-go, updateprocessors/workloadendpointprocessor.go).
    let is_claim = |name: &str| name.starts_with(INHERITED_FROM_NAMESPACE) || name.starts_with(INHERITED_FROM_ACCOUNT);
    let own = pairs(&endpoint.metadata).filter(|(name, _)| !is_claim(name));
    // These say who the endpoint is: its own labels cannot claim another identity.
    let identity = [
        endpoint.metadata.namespace.as_deref().map(|namespace| (NAMESPACE, namespace)),
        Some((ORCHESTRATOR, spec.orchestrator.as_str())),
        (!spec.service_account_name.is_empty()).then_some((SERVICE_ACCOUNT, spec.service_account_name.as_str())),
    ];
    inherited(&spec.profiles, profiles).chain(own).chain(identity.into_iter().flatten()).collect()
}

pub fn of_host(endpoint: &HostEndpoint, profiles: &ProfileLabels) -> Labels {
    let labels = inherited(&endpoint.spec.profiles, profiles).chain(pairs(&endpoint.metadata));
    labels.filter(|(name, _)| *name != NAMESPACE).collect()
}

/// A network set of a namespace carries the namespace's labels, as that namespace's profile gives them.
pub fn of_network_set(metadata: &Metadata, profiles: &ProfileLabels) -> Labels {
    let namespace = metadata.namespace.as_deref();
    let profile: Vec<String> = namespace.into_iter().map(namespace_profile_name).collect();
    let inherited = inherited(&profile, profiles);
    let own = pairs(metadata).filter(|(name, _)| *name != NAMESPACE);
    inherited.chain(own).chain(namespace.map(|namespace| (NAMESPACE, namespace))).collect()
}

fn pairs(metadata: &Metadata) -> impl Iterator<Item = (&str, &str)> {
    metadata.labels.iter()
}

/// The first profile that has a label gives its value.
fn inherited<'a>(names: &'a [String], profiles: &'a ProfileLabels) -> impl Iterator<Item = (&'a str, &'a str)> {
    let known = names.iter().rev().filter_map(|name| profiles.get(name));
    known.flatten().map(|(name, value)| (name.as_str(), value.as_str()))
}
