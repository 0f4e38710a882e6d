//! Service and EndpointSlice: an address that stands for many, and who they are.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::network_policy::PortOrName;
use crate::net::{Cidr, IpVersion, Protocol};
use crate::resource::check::{Check, quoted};
use crate::resource::form::{blank_is_absent, blank_is_default, is_default};
use crate::resource::metadata::Metadata;
use crate::resource::word::{read_text, words};

/// What Kubernetes lets one slice hold.
const SLICE_ENDPOINTS_MAX: usize = 1000;
const SLICE_ADDRESSES_MAX: usize = 100;
/// What a service without an address of its own has in its place.
const HEADLESS: &str = "None";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Service {
    #[serde(default)]
    pub metadata: Metadata,
    #[serde(default)]
    pub spec: ServiceSpec,
    #[serde(default, skip_serializing_if = "is_default")]
    pub status: ServiceStatus,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServiceSpec {
    #[serde(rename = "type", deserialize_with = "blank_is_default")]
    pub service_type: ServiceType,
    /// Pods behind the service. None: its endpoints are written by somebody else.
    #[serde(skip_serializing_if = "is_default")]
    pub selector: BTreeMap<String, String>,
    #[serde(rename = "clusterIP", deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub cluster_ip: Option<ClusterIp>,
    /// The first is `clusterIP`.
    #[serde(rename = "clusterIPs", skip_serializing_if = "is_default")]
    pub cluster_ips: Vec<ClusterIp>,
    #[serde(rename = "externalIPs", skip_serializing_if = "is_default")]
    pub external_ips: Vec<IpAddr>,
    #[serde(rename = "loadBalancerIP", deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub load_balancer_ip: Option<IpAddr>,
    #[serde(skip_serializing_if = "is_default")]
    pub load_balancer_source_ranges: Vec<Cidr>,
    #[serde(deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub external_traffic_policy: Option<TrafficPolicy>,
    #[serde(deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub internal_traffic_policy: Option<TrafficPolicy>,
    #[serde(skip_serializing_if = "is_default")]
    pub publish_not_ready_addresses: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub ports: Vec<ServicePort>,
}

words! {
    #[derive(Default)]
    ServiceType: exact {
        #[default]
        ClusterIp = "ClusterIP",
        NodePort = "NodePort",
        LoadBalancer = "LoadBalancer",
        ExternalName = "ExternalName",
    }
    /// Which endpoints a packet may be sent to.
    TrafficPolicy: exact {
        Cluster = "Cluster",
        Local = "Local",
    }
    AddressType: exact {
        Ipv4 = "IPv4",
        Ipv6 = "IPv6",
        Fqdn = "FQDN",
    }
}

/// An address of a service inside the cluster, or the word that it has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClusterIp {
    Headless,
    Address(IpAddr),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    #[serde(default, skip_serializing_if = "is_default")]
    pub name: String,
    /// TCP when absent.
    #[serde(default, deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    pub port: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_port: Option<PortOrName>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub node_port: u16,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServiceStatus {
    #[serde(skip_serializing_if = "is_default")]
    pub load_balancer: LoadBalancerStatus,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LoadBalancerStatus {
    #[serde(skip_serializing_if = "is_default")]
    pub ingress: Vec<LoadBalancerIngress>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LoadBalancerIngress {
    #[serde(deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub ip: Option<IpAddr>,
    #[serde(skip_serializing_if = "is_default")]
    pub hostname: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointSlice {
    #[serde(default)]
    pub metadata: Metadata,
    pub address_type: AddressType,
    #[serde(default, skip_serializing_if = "is_default")]
    pub endpoints: Vec<SliceEndpoint>,
    /// The same for all endpoints of the slice.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ports: Vec<EndpointSlicePort>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SliceEndpoint {
    pub addresses: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub conditions: EndpointConditions,
    #[serde(skip_serializing_if = "is_default")]
    pub hostname: String,
    #[serde(skip_serializing_if = "is_default")]
    pub node_name: String,
    #[serde(skip_serializing_if = "is_default")]
    pub zone: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<TargetReference>,
}

/// Absent is unknown, which counts as ready.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointConditions {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serving: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminating: Option<bool>,
}

/// Whose addresses they are.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TargetReference {
    #[serde(skip_serializing_if = "is_default")]
    pub kind: String,
    #[serde(skip_serializing_if = "is_default")]
    pub namespace: String,
    #[serde(skip_serializing_if = "is_default")]
    pub name: String,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointSlicePort {
    #[serde(skip_serializing_if = "is_default")]
    pub name: String,
    /// TCP when absent.
    #[serde(deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// Absent: all ports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

impl Service {
    pub(in crate::resource) fn validate(&self, check: &mut Check) {
        check.field("spec", |check| {
            check.labels("selector", &self.spec.selector);
            check.each("ports", &self.spec.ports, |check, port| {
                validate_port(port.protocol, Some(port.port), check);
            });
        });
    }
}

impl EndpointSlice {
    pub(in crate::resource) fn validate(&self, check: &mut Check) {
        check.at_most("endpoints", self.endpoints.len(), SLICE_ENDPOINTS_MAX);
        check.each("endpoints", &self.endpoints, |check, endpoint| {
            check.at_most("addresses", endpoint.addresses.len(), SLICE_ADDRESSES_MAX);
            if endpoint.addresses.is_empty() {
                check.refuse_field("addresses", "nothing", "at least one address");
            }
            check.each("addresses", &endpoint.addresses, |check, address| self.validate_address(address, check));
            check.name("nodeName", &endpoint.node_name);
        });
        check.each("ports", &self.ports, |check, port| validate_port(port.protocol, port.port, check));
    }

    fn validate_address(&self, address: &str, check: &mut Check) {
        let version = match self.address_type {
            AddressType::Ipv4 => IpVersion::V4,
            AddressType::Ipv6 => IpVersion::V6,
            AddressType::Fqdn => {
                if !crate::resource::is_subdomain(address) {
                    check.refuse(quoted(address), "a domain name, in a slice of addressType FQDN");
                }
                return;
            }
        };
        if !address.parse().is_ok_and(|address| IpVersion::of(address) == version) {
            let expected = format!("an IPv{version} address, in a slice of addressType {}", self.address_type);
            check.refuse(quoted(address), expected);
        }
    }
}

fn validate_port(protocol: Option<Protocol>, port: Option<u16>, check: &mut Check) {
    if port == Some(0) {
        check.refuse_field("port", 0, "a port 1-65535");
    }
    if let Some(protocol) = protocol.filter(|protocol| !protocol.has_ports()) {
        check.refuse_field("protocol", protocol, "TCP, UDP or SCTP");
    }
}

impl ClusterIp {
    fn parse(text: &str) -> Option<ClusterIp> {
        match text {
            HEADLESS => Some(ClusterIp::Headless),
            _ => text.parse().ok().map(ClusterIp::Address),
        }
    }
}

impl fmt::Display for ClusterIp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClusterIp::Headless => f.write_str(HEADLESS),
            ClusterIp::Address(address) => address.fmt(f),
        }
    }
}

impl Serialize for ClusterIp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ClusterIp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ClusterIp, D::Error> {
        read_text(deserializer, "an address, or None for a service without one", ClusterIp::parse)
    }
}
