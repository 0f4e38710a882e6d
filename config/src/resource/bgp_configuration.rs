//! BGPConfiguration: how nodes speak BGP. `default` is for all nodes, `node.<name>` for one.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::bgp_annotations::{Annotated, BGP_GROUP, BgpAnnotations};
use super::check::{Check, entry, quoted};
use super::community::Community;
use super::duration::TimeSpan;
use super::form::{blank_is_absent, is_default};
use super::metadata::Metadata;
use super::node::AsNumber;
use super::number::Number;
use super::word::{Switch, words};
use crate::net::Cidr;

/// The one configuration that is for all nodes.
pub const DEFAULT_CONFIGURATION: &str = "default";
const COMMUNITIES_MAX: usize = 500;
const ADVERTISEMENTS_MAX: usize = 500;
const COMMUNITIES_OF_ONE_MAX: usize = 50;

/// The metric of a route in the kernel.
pub type RoutePriority = Number<1, 2_147_483_646>;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BgpConfiguration {
    #[serde(default)]
    pub metadata: Metadata,
    #[serde(default)]
    pub spec: BgpConfigurationSpec,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct BgpConfigurationSpec {
    #[serde(deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub log_severity_screen: Option<LogSeverity>,
    /// Every node peers with every other; so when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_to_node_mesh_enabled: Option<bool>,
    /// 64512 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub as_number: Option<AsNumber>,
    #[serde(rename = "serviceLoadBalancerIPs", skip_serializing_if = "is_default")]
    pub service_load_balancer_ips: Vec<ServiceIpBlock>,
    #[serde(rename = "serviceExternalIPs", skip_serializing_if = "is_default")]
    pub service_external_ips: Vec<ServiceIpBlock>,
    #[serde(rename = "serviceClusterIPs", skip_serializing_if = "is_default")]
    pub service_cluster_ips: Vec<ServiceIpBlock>,
    /// Disabled: one host route per service instead of the range. Enabled when absent.
    #[serde(deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub service_load_balancer_aggregation: Option<Switch>,
    #[serde(skip_serializing_if = "is_default")]
    pub communities: Vec<NamedCommunity>,
    #[serde(skip_serializing_if = "is_default")]
    pub prefix_advertisements: Vec<PrefixAdvertisement>,
    /// 179 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen_port: Option<Number<1, 65_535>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_mesh_password: Option<BgpPassword>,
    /// 120 s when absent.
    #[serde(deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub node_mesh_max_restart_time: Option<TimeSpan>,
    #[serde(deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub bind_mode: Option<BindMode>,
    /// Names, in which `*` stands for anything.
    #[serde(skip_serializing_if = "is_default")]
    pub ignored_interfaces: Vec<String>,
    #[serde(
        rename = "localWorkloadPeeringIPV4",
        deserialize_with = "blank_is_absent",
        skip_serializing_if = "Option::is_none"
    )]
    pub local_workload_peering_ipv4: Option<Ipv4Addr>,
    #[serde(
        rename = "localWorkloadPeeringIPV6",
        deserialize_with = "blank_is_absent",
        skip_serializing_if = "Option::is_none"
    )]
    pub local_workload_peering_ipv6: Option<Ipv6Addr>,
    #[serde(deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub program_cluster_routes: Option<ProgramClusterRoutes>,
    #[serde(rename = "ipv4NormalRoutePriority", skip_serializing_if = "Option::is_none")]
    pub ipv4_normal_route_priority: Option<RoutePriority>,
    #[serde(rename = "ipv6NormalRoutePriority", skip_serializing_if = "Option::is_none")]
    pub ipv6_normal_route_priority: Option<RoutePriority>,
}

words! {
    LogSeverity: any_case {
        Trace = "Trace",
        Debug = "Debug",
        Info = "Info",
        Warning = "Warning",
        Error = "Error",
        Fatal = "Fatal",
    }
    /// Which addresses the BGP listener takes.
    BindMode: exact {
        None = "None",
        NodeIp = "NodeIP",
    }
    /// Which routes to other nodes' blocks are programmed.
    ProgramClusterRoutes: exact {
        Enabled = "Enabled",
        Disabled = "Disabled",
        EnabledIpipOnly = "EnabledIPIPOnly",
        EnabledNoEncapOnly = "EnabledNoEncapOnly",
    }
}

/// A range that addresses of services are advertised from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceIpBlock {
    pub cidr: Cidr,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NamedCommunity {
    pub name: String,
    pub value: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PrefixAdvertisement {
    pub cidr: Cidr,
    /// Names from `communities`, or values.
    #[serde(default)]
    pub communities: Vec<String>,
}

/// Where a password is: never the password itself.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct BgpPassword {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<SecretKeySelector>,
}

/// An entry of a secret.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SecretKeySelector {
    #[serde(skip_serializing_if = "is_default")]
    pub name: String,
    pub key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub optional: Option<bool>,
}

impl BgpConfiguration {
    pub(super) fn validate(&self, check: &mut Check) {
        if self.metadata.name == DEFAULT_CONFIGURATION {
            BgpAnnotations::validate(&self.metadata.annotations, Annotated::Configuration, check);
        } else {
            let own = self.metadata.annotations.iter().filter(|(key, _)| key.starts_with(BGP_GROUP));
            for (key, value) in own {
                let path = format!("metadata.{}", entry("annotations", key));
                check.refuse_field(&path, quoted(value), "none, except on the configuration named default");
            }
        }
        check.field("spec", |check| {
            if self.metadata.name != DEFAULT_CONFIGURATION {
                self.spec.validate_for_one_node(check);
            }
            self.spec.validate(check);
        });
    }
}

impl BgpConfigurationSpec {
    /// What is the same for all nodes cannot be set for one.
    fn validate_for_one_node(&self, check: &mut Check) {
        let fields = [
            ("nodeToNodeMeshEnabled", self.node_to_node_mesh_enabled.is_some()),
            ("asNumber", self.as_number.is_some()),
            ("serviceLoadBalancerIPs", !self.service_load_balancer_ips.is_empty()),
            ("serviceExternalIPs", !self.service_external_ips.is_empty()),
            ("serviceClusterIPs", !self.service_cluster_ips.is_empty()),
            ("nodeMeshPassword", self.node_mesh_password.is_some()),
            ("nodeMeshMaxRestartTime", self.node_mesh_max_restart_time.is_some()),
        ];
        for (name, _) in fields.iter().filter(|(_, is_set)| *is_set) {
            check.refuse_field(name, "a value for one node", "none, except in the configuration named default");
        }
    }

    fn validate(&self, check: &mut Check) {
        if self.node_to_node_mesh_enabled == Some(false) {
            let of_mesh = [
                ("nodeMeshPassword", self.node_mesh_password.is_some()),
                ("nodeMeshMaxRestartTime", self.node_mesh_max_restart_time.is_some()),
            ];
            for (name, _) in of_mesh.iter().filter(|(_, is_set)| *is_set) {
                check.refuse_field(name, "a value beside nodeToNodeMeshEnabled: false", "none without a mesh");
            }
        }
        if let Some(password) = &self.node_mesh_password {
            check.field("nodeMeshPassword", |check| password.validate(check));
        }
        check.each("ignoredInterfaces", &self.ignored_interfaces, |check, name| {
            if !is_interface_pattern(name) || name == "*" {
                let expected = "an interface name of 1-15 letters, digits, '_', '.', '-' or '*', and not '*' alone";
                check.refuse(quoted(name), expected);
            }
        });
        self.validate_communities(check);
    }

    fn validate_communities(&self, check: &mut Check) {
        check.at_most("communities", self.communities.len(), COMMUNITIES_MAX);
        check.at_most("prefixAdvertisements", self.prefix_advertisements.len(), ADVERTISEMENTS_MAX);
        if !self.communities.is_empty() && self.prefix_advertisements.is_empty() {
            let expected = "prefixAdvertisements beside them, that use them";
            check.refuse_field("communities", "names that nothing uses", expected);
        }
        check.each("communities", &self.communities, |check, community| {
            check.required_name("name", &community.name, "a name for the community");
            if Community::parse(&community.value).is_none() {
                check.refuse_field("value", quoted(&community.value), Community::EXPECTED);
            }
        });
        check.each("prefixAdvertisements", &self.prefix_advertisements, |check, advertisement| {
            check.at_most("communities", advertisement.communities.len(), COMMUNITIES_OF_ONE_MAX);
            if advertisement.communities.is_empty() {
                check.refuse_field("communities", "nothing", "at least one community");
            }
            check.each("communities", &advertisement.communities, |check, written| {
                let is_named = self.communities.iter().any(|community| community.name == *written);
                if !is_named && Community::parse(written).is_none() {
                    check.refuse(quoted(written), "a name from spec.communities, or a value such as 65000:100");
                }
            });
        });
    }
}

impl BgpPassword {
    pub(super) fn validate(&self, check: &mut Check) {
        let Some(secret) = &self.secret_key_ref else {
            return check.refuse_field("secretKeyRef", "nothing", "the name and key of a secret");
        };
        check.field("secretKeyRef", |check| {
            check.required_name("name", &secret.name, "the name of a secret");
            if secret.key.is_empty() {
                check.refuse_field("key", "nothing", "the key in the secret");
            }
        });
    }
}

/// An interface name in which `*` stands for anything.
pub(super) fn is_interface_pattern(name: &str) -> bool {
    let is_allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-' | b'*');
    (1..=15).contains(&name.len()) && name.bytes().all(is_allowed)
}
