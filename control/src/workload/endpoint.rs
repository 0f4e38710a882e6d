//! The endpoint of a workload as it is written, and what has to be beside it.

use std::net::IpAddr;

use config::convert::{namespace_profile_name, service_account_profile_name};
use config::net::{Cidr, MacAddress};
use config::resource::{
    Action, EntityRule, Key, Metadata, Namespace, Profile, ProfileSpec, Resource, Rule, WorkloadEndpoint,
    WorkloadEndpointSpec,
};
use config::selector::Selector;

use super::call::{NodeView, Wish};
use super::identity::{self, Identity, legal};
use crate::translation;

/// The endpoint that is written, and what has to be beside it.
pub fn endpoint_of(
    wish: &Wish,
    node: &NodeView,
    interface: &str,
    addresses: &[IpAddr],
    mac: Option<MacAddress>,
) -> (WorkloadEndpoint, Option<Resource>) {
    let identity = &wish.identity;
    let key: Key = identity.key(&node.node);
    let (profiles, companion) = match &wish.profiles {
        Some(profiles) => (profiles.clone(), None),
        None => profiles_of(identity, &wish.service_account),
    };
    let mut annotations = identity.annotations();
    if let Some(networks) = &wish.masquerade {
        let networks: Vec<String> = networks.iter().map(ToString::to_string).collect();
        annotations.insert(translation::ANNOTATION.to_string(), networks.join(","));
    }
    let metadata = Metadata {
        labels: wish.labels.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
        annotations,
        ..Metadata::namespaced(&identity.namespace, &key.name)
    };
    let spec = WorkloadEndpointSpec {
        ip_networks: addresses.iter().map(|address| Cidr::host(*address)).collect(),
        ip_nats: wish.floating.clone(),
        profiles,
        interface_name: interface.to_string(),
        mac,
        ports: wish.ports.clone(),
        service_account_name: wish.service_account.clone(),
        allow_spoofed_source_prefixes: wish.allowed_sources.clone(),
        qos_controls: wish.qos.clone(),
        ..identity.spec(&node.node)
    };
    (WorkloadEndpoint { metadata, spec }, companion)
}

/// A pod's are those of its namespace and account. Others have the network's: who is in it may talk to who is in it.
fn profiles_of(identity: &Identity, account: &str) -> (Vec<String>, Option<Resource>) {
    if identity.orchestrator == identity::KUBERNETES {
        let mut profiles = vec![namespace_profile_name(&identity.namespace)];
        if !account.is_empty() {
            profiles.push(service_account_profile_name(&identity.namespace, account));
        }
        let namespace = Namespace { metadata: Metadata::named(&identity.namespace) };
        return (profiles, Some(Resource::Namespace(namespace)));
    }
    let profile = network_profile(&legal(&identity.network));
    (vec![profile.metadata.name.clone()], Some(Resource::Profile(profile)))
}

/// Who is in the network may talk to who is in it, and to everybody else; of others it hears nobody.
pub fn network_profile(name: &str) -> Profile {
    let allow = || Rule::any(Action::Allow);
    // What cannot be a label selects nobody.
    let members = Selector::parse(&format!("has({name})"))
        .map(|selector| EntityRule { selector: Some(selector), ..EntityRule::default() });
    let spec = ProfileSpec {
        ingress: members.into_iter().map(|source| Rule { source, ..allow() }).collect(),
        egress: vec![allow()],
        labels_to_apply: [(name.to_string(), String::new())].into(),
    };
    Profile { metadata: Metadata::named(name), spec }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever a network is called, its own may talk to each other and nobody else may to them.
    #[test]
    fn a_network_has_a_profile_that_is_valid() {
        for network in ["pods", "My_net.1", "a-", &"n".repeat(255)] {
            let identity = Identity { network: network.to_string(), ..Identity::default() };
            let (names, companion) = profiles_of(&identity, "");
            let Some(Resource::Profile(profile)) = companion else { panic!("no profile") };
            assert_eq!(names, std::slice::from_ref(&profile.metadata.name));
            assert_eq!(profile.spec.ingress.len(), 1);
            assert!(profile.spec.ingress.iter().all(|rule| rule.source.selector.is_some()));
            let problems = Resource::Profile(profile).validate();
            assert!(problems.is_empty(), "{network}: {problems:?}");
        }
    }
}
