//! The labels of an endpoint: its own, then those of its profiles in the order it lists them.

use std::collections::BTreeMap;

use config::resource::{HostEndpoint, Profile, WorkloadEndpoint};

/// Labels that every workload endpoint has, set by whoever creates it or, failing that, by us.
pub const NAMESPACE: &str = "projectcalico.org/namespace";
pub const ORCHESTRATOR: &str = "projectcalico.org/orchestrator";
pub const SERVICE_ACCOUNT: &str = "projectcalico.org/serviceaccount";

pub type Labels = BTreeMap<String, String>;
pub type Profiles<'a> = BTreeMap<&'a str, &'a Profile>;

pub fn of_workload(endpoint: &WorkloadEndpoint, profiles: &Profiles<'_>) -> Labels {
    let mut labels = inherited(&endpoint.spec.profiles, profiles);
    labels.extend(endpoint.metadata.labels.clone());
    // These say who the endpoint is: its own labels cannot claim another identity.
    if let Some(namespace) = &endpoint.metadata.namespace {
        labels.insert(NAMESPACE.into(), namespace.clone());
    }
    labels.insert(ORCHESTRATOR.into(), endpoint.spec.orchestrator.clone());
    if !endpoint.spec.service_account_name.is_empty() {
        labels.insert(SERVICE_ACCOUNT.into(), endpoint.spec.service_account_name.clone());
    }
    labels
}

pub fn of_host(endpoint: &HostEndpoint, profiles: &Profiles<'_>) -> Labels {
    let mut labels = inherited(&endpoint.spec.profiles, profiles);
    labels.extend(endpoint.metadata.labels.clone());
    labels.remove(NAMESPACE);
    labels
}

/// The first profile that has a label gives its value.
fn inherited(names: &[String], profiles: &Profiles<'_>) -> Labels {
    let known = names.iter().rev().filter_map(|name| profiles.get(name.as_str()));
    known.flat_map(|profile| profile.spec.labels_to_apply.clone()).collect()
}
