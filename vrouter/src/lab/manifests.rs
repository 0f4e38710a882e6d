//! The lab as resources: what a CNI plugin and an operator would have written for it.
//!
//! Every endpoint names the profile `lab-allow`, which allows both ways: without policies all pairs
//! reach each other, and a policy that selects an endpoint takes over, as in Calico.

use config::net::Cidr;
use config::resource::{
    Action, Metadata, Node, NodeBgpSpec, NodeSpec, NodeStatus, Profile, ProfileSpec, Resource, Rule, StaticRoute,
    StaticRouteSpec, WorkloadEndpoint, WorkloadEndpointSpec,
};

use super::Lab;
use super::description::{Endpoint, StaticRoute as WrittenRoute};

const PROFILE: &str = "lab-allow";

/// File name and content, in the order in which they are applied.
pub fn manifests(lab: &Lab) -> Vec<(&'static str, Vec<Resource>)> {
    let endpoints = lab.endpoints.iter().map(|endpoint| workload_endpoint(lab, endpoint));
    let routes = lab.static_routes.iter().enumerate().map(|(index, route)| static_route(lab, index, route));
    vec![
        ("00-node.yaml", vec![node(lab)]),
        ("10-profile.yaml", vec![profile()]),
        ("20-endpoints.yaml", endpoints.collect()),
        ("30-routes.yaml", routes.collect()),
    ]
}

fn node(lab: &Lab) -> Resource {
    let addresses = || lab.hosts.iter().flat_map(|host| &host.node_addresses).copied();
    let bgp = NodeBgpSpec {
        ipv4_address: addresses().find(Cidr::is_ipv4),
        ipv6_address: addresses().find(|address| !address.is_ipv4()),
        ..NodeBgpSpec::default()
    };
    let spec = NodeSpec { bgp: (!lab.hosts.is_empty()).then_some(bgp), ..NodeSpec::default() };
    Resource::Node(Node { metadata: Metadata::named(&lab.node), spec, status: NodeStatus::default() })
}

fn profile() -> Resource {
    let allow = || vec![Rule::any(Action::Allow)];
    let spec = ProfileSpec { ingress: allow(), egress: allow(), ..ProfileSpec::default() };
    Resource::Profile(Profile { metadata: Metadata::named(PROFILE), spec })
}

fn workload_endpoint(lab: &Lab, endpoint: &Endpoint) -> Resource {
    let spec = WorkloadEndpointSpec {
        orchestrator: "k8s".to_owned(),
        node: lab.node.clone(),
        pod: endpoint.name.clone(),
        endpoint: "eth0".to_owned(),
        ip_networks: endpoint.addresses.iter().copied().map(Cidr::host).collect(),
        profiles: vec![PROFILE.to_owned()],
        interface_name: endpoint.interface.clone(),
        mac: Some(endpoint.mac),
        ..WorkloadEndpointSpec::default()
    };
    let mut metadata = Metadata::namespaced(&endpoint.namespace, spec.derived_name());
    metadata.labels.extend(endpoint.labels.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    // The labels Calico gives every endpoint of Kubernetes.
    for (label, value) in [("namespace", endpoint.namespace.as_str()), ("orchestrator", "k8s")] {
        metadata.labels.insert(format!("projectcalico.org/{label}"), value.to_owned());
    }
    Resource::WorkloadEndpoint(WorkloadEndpoint { metadata, spec })
}

fn static_route(lab: &Lab, index: usize, route: &WrittenRoute) -> Resource {
    let spec = StaticRouteSpec {
        destination: route.destination.masked(),
        next_hop: route.next_hop,
        interface: route.interface.clone(),
        node: Some(lab.node.clone()),
        blackhole: route.blackhole,
    };
    Resource::StaticRoute(StaticRoute { metadata: Metadata::named(format!("{}-{index}", lab.name)), spec })
}
