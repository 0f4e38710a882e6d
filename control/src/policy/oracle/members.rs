//! Who has which addresses, labels and ports, as selectors and Services in rules mean it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use config::net::Cidr;
use config::resource::{HostEndpoint, Metadata, Resource, WorkloadEndpoint};
use config::selector::Selector;

use super::TCP;
use crate::resources::Resources;

pub const NAMESPACE: &str = "projectcalico.org/namespace";
pub const SERVICE_ACCOUNT: &str = "projectcalico.org/serviceaccount";
pub const ORCHESTRATOR: &str = "projectcalico.org/orchestrator";
const NAME: &str = "projectcalico.org/name";

pub type Labels = BTreeMap<String, String>;

/// An endpoint or network set as rules see it.
pub struct Member {
    /// Kind, namespace and name.
    pub name: String,
    pub labels: Labels,
    pub addresses: Vec<Cidr>,
    /// Name, protocol and number.
    pub ports: Vec<(String, u8, u16)>,
}

pub fn members(resources: &Resources) -> Vec<Member> {
    let workloads = resources.workload_endpoints().map(|endpoint| Member {
        name: Resource::WorkloadEndpoint(endpoint.clone()).key().to_string(),
        labels: labels_of_workload(resources, endpoint),
        addresses: endpoint.spec.ip_networks.clone(),
        ports: endpoint
            .spec
            .ports
            .iter()
            .filter_map(|port| Some((port.name.as_ref()?.as_str().to_string(), port.protocol.number(), port.port)))
            .collect(),
    });
    let hosts = resources.host_endpoints().map(|endpoint| {
        let ports = endpoint.spec.ports.iter();
        Member {
            name: Resource::HostEndpoint(endpoint.clone()).key().to_string(),
            labels: labels_of_host(resources, endpoint),
            addresses: endpoint.spec.expected_ips.iter().map(|address| Cidr::host(*address)).collect(),
            ports: ports.map(|port| (port.name.as_str().to_string(), port.protocol.number(), port.port)).collect(),
        }
    });
    let sets = resources.network_sets().map(|set| {
        let namespace = set.metadata.namespace.clone().unwrap_or_default();
        let mut labels = labels_with_profiles(resources, own_labels(&set.metadata), &[format!("kns.{namespace}")]);
        labels.insert(NAMESPACE.into(), namespace);
        let name = Resource::NetworkSet(set.clone()).key().to_string();
        Member { name, labels, addresses: set.spec.nets.clone(), ports: Vec::new() }
    });
    let global_sets = resources.global_network_sets().map(|set| {
        let mut labels = own_labels(&set.metadata);
        labels.remove(NAMESPACE);
        let name = Resource::GlobalNetworkSet(set.clone()).key().to_string();
        Member { name, labels, addresses: set.spec.nets.clone(), ports: Vec::new() }
    });
    workloads.chain(hosts).chain(sets).chain(global_sets).collect()
}

/// A part of what a Service leads to.
pub struct Slice {
    pub namespace: String,
    pub service: String,
    pub addresses: Vec<IpAddr>,
    /// Protocol and number. A port without a number is all ports, which rules do not mean.
    pub ports: Vec<(u8, u16)>,
}

pub fn slices(resources: &Resources) -> Vec<Slice> {
    let labelled = resources.endpoint_slices().filter_map(|slice| {
        let service = slice.metadata.labels.get("kubernetes.io/service-name")?;
        let addresses = slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
        let ports = slice.ports.iter();
        Some(Slice {
            namespace: slice.metadata.namespace.clone().unwrap_or_default(),
            service: service.to_owned(),
            addresses: addresses.filter_map(|address| address.parse().ok()).collect(),
            ports: ports.filter_map(|port| Some((port.protocol.map_or(TCP, |p| p.number()), port.port?))).collect(),
        })
    });
    labelled.collect()
}

pub fn labels_of_workload(resources: &Resources, endpoint: &WorkloadEndpoint) -> Labels {
    let mut own = own_labels(&endpoint.metadata);
    // What it inherits is not for its own labels to say.
    own.retain(|label, _| !label.starts_with("pcns.") && !label.starts_with("pcsa."));
    let mut labels = labels_with_profiles(resources, own, &endpoint.spec.profiles);
    labels.insert(NAMESPACE.into(), endpoint.metadata.namespace.clone().unwrap_or_default());
    labels.insert(ORCHESTRATOR.into(), endpoint.spec.orchestrator.clone());
    if !endpoint.spec.service_account_name.is_empty() {
        labels.insert(SERVICE_ACCOUNT.into(), endpoint.spec.service_account_name.clone());
    }
    labels
}

pub fn labels_of_host(resources: &Resources, endpoint: &HostEndpoint) -> Labels {
    let mut labels = labels_with_profiles(resources, own_labels(&endpoint.metadata), &endpoint.spec.profiles);
    labels.remove(NAMESPACE);
    labels
}

fn own_labels(metadata: &Metadata) -> Labels {
    metadata.labels.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Own labels, and those of profiles that nobody before gave.
fn labels_with_profiles(resources: &Resources, own: Labels, profiles: &[String]) -> Labels {
    let mut labels = own;
    for name in profiles {
        for (label, value) in labels_of_profile(resources, name) {
            labels.entry(label).or_insert(value);
        }
    }
    labels
}

/// What a profile gives to whoever lists it: its own labels, or those of the namespace or account it stands for.
fn labels_of_profile(resources: &Resources, name: &str) -> Labels {
    if let Some(profile) = resources.profiles().find(|profile| profile.metadata.name == name) {
        return profile.spec.labels_to_apply.clone();
    }
    let inherited = |prefix: &str, own: &Labels, name: &str| {
        let mut labels: Labels = own.iter().map(|(label, value)| (format!("{prefix}{label}"), value.clone())).collect();
        labels.insert(format!("{prefix}{NAME}"), name.to_owned());
        labels
    };
    if let Some(namespace) = resources.namespaces().find(|namespace| format!("kns.{}", namespace.metadata.name) == name)
    {
        return inherited("pcns.", &own_labels(&namespace.metadata), &namespace.metadata.name);
    }
    for account in resources.service_accounts() {
        let metadata = &account.metadata;
        let of = metadata.namespace.as_deref().unwrap_or_default();
        if format!("ksa.{of}.{}", metadata.name) == name {
            return inherited("pcsa.", &own_labels(metadata), &metadata.name);
        }
    }
    Labels::new()
}

/// Labels of what stands behind an endpoint (its namespace, its service account) travel with a prefix.
pub fn without_prefix(labels: &Labels, prefix: &str) -> Labels {
    labels.iter().filter_map(|(label, value)| Some((label.strip_prefix(prefix)?.to_string(), value.clone()))).collect()
}

pub fn is_in_namespace(labels: &Labels, selector: &Selector) -> bool {
    match (selector.is_all(), selector.is_global()) {
        (true, _) => labels.contains_key(NAMESPACE),
        (_, true) => !labels.contains_key(NAMESPACE),
        _ => selector.matches(&without_prefix(labels, "pcns.")),
    }
}
