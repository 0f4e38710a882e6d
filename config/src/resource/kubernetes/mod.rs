//! Kubernetes' own objects, as far as they mean something to a router.
//!
//! | file | objects |
//! |---|---|
//! | `label_selector.rs` | the selectors inside the others |
//! | `network_policy.rs` | NetworkPolicy, and Calico's staged form of it |
//! | `cluster_network_policy.rs` | ClusterNetworkPolicy |
//! | `identity.rs` | Namespace, ServiceAccount: their labels |
//! | `service.rs` | Service, EndpointSlice |
//!
//! Fields that are not here are passed over when an object is read, and are not kept: the object's home is the
//! Kubernetes API, not our store. `convert` makes Calico's resources of them.

mod cluster_network_policy;
mod identity;
mod label_selector;
mod network_policy;
mod service;

pub use cluster_network_policy::{
    ClusterNetworkPolicy, ClusterNetworkPolicySpec, ClusterNetworkPolicyStatus, ClusterPolicyAction, ClusterPolicyPeer,
    ClusterPolicyPort, ClusterPolicyPortRange, ClusterPolicyPorts, ClusterPolicyProtocol, ClusterPolicyRule,
    ClusterPolicySubject, ClusterPolicyTier, NamespacedPods,
};
pub use identity::{Namespace, ServiceAccount};
pub use label_selector::{LabelSelector, SelectorOperator, SelectorRequirement};
pub use network_policy::{
    IpBlock, KubernetesEgressRule, KubernetesIngressRule, KubernetesNetworkPolicy, KubernetesNetworkPolicySpec,
    KubernetesPeer, KubernetesPolicyPort, PortOrName, StagedKubernetesNetworkPolicy, StagedKubernetesNetworkPolicySpec,
};
pub use service::{
    AddressType, ClusterIp, EndpointConditions, EndpointSlice, EndpointSlicePort, LoadBalancerIngress,
    LoadBalancerStatus, Service, ServicePort, ServiceSpec, ServiceStatus, ServiceType, SliceEndpoint, TargetReference,
    TrafficPolicy,
};
