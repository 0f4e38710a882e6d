//! WorkloadEndpoint: one interface of one workload, its addresses and what applies to it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::check::{Check, quoted};
use super::form::{blank_is_absent, is_default};
use super::metadata::Metadata;
use super::qos::QosControls;
use crate::net::{Cidr, MacAddress, PortName, Protocol};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkloadEndpoint {
    #[serde(default)]
    pub metadata: Metadata,
    #[serde(default)]
    pub spec: WorkloadEndpointSpec,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct WorkloadEndpointSpec {
    /// Who made the workload: k8s, cni, openstack, libnetwork.
    #[serde(skip_serializing_if = "is_default")]
    pub orchestrator: String,
    #[serde(skip_serializing_if = "is_default")]
    pub workload: String,
    #[serde(skip_serializing_if = "is_default")]
    pub node: String,
    #[serde(rename = "containerID", skip_serializing_if = "is_default")]
    pub container_id: String,
    #[serde(skip_serializing_if = "is_default")]
    pub pod: String,
    /// Which of the workload's interfaces, as it calls it; usually eth0.
    #[serde(skip_serializing_if = "is_default")]
    pub endpoint: String,
    #[serde(skip_serializing_if = "is_default")]
    pub service_account_name: String,
    /// The workload's own addresses, as /32 or /128.
    #[serde(skip_serializing_if = "is_default")]
    pub ip_networks: Vec<Cidr>,
    #[serde(rename = "ipNATs", skip_serializing_if = "is_default")]
    pub ip_nats: Vec<IpNat>,
    #[serde(rename = "ipv4Gateway", deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub ipv4_gateway: Option<Ipv4Addr>,
    #[serde(rename = "ipv6Gateway", deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub ipv6_gateway: Option<Ipv6Addr>,
    #[serde(skip_serializing_if = "is_default")]
    pub profiles: Vec<String>,
    /// The host's side.
    pub interface_name: String,
    #[serde(deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddress>,
    #[serde(skip_serializing_if = "is_default")]
    pub ports: Vec<WorkloadEndpointPort>,
    /// Sources the workload may use beside its own addresses.
    #[serde(skip_serializing_if = "is_default")]
    pub allow_spoofed_source_prefixes: Vec<Cidr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qos_controls: Option<Box<QosControls>>,
}

/// A floating address: what the world calls one of the workload's own addresses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IpNat {
    #[serde(rename = "internalIP")]
    pub internal_ip: IpAddr,
    #[serde(rename = "externalIP")]
    pub external_ip: IpAddr,
}

/// A port of the workload: named for rules, published on the host, or both.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadEndpointPort {
    #[serde(default, deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub name: Option<PortName>,
    pub protocol: Protocol,
    pub port: u16,
    #[serde(default, skip_serializing_if = "is_default")]
    pub host_port: u16,
    #[serde(default, rename = "hostIP", deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
}

impl WorkloadEndpoint {
    pub(super) fn validate(&self, check: &mut Check) {
        check.field("spec", |check| self.spec.validate(check));
    }
}

impl WorkloadEndpointSpec {
    /// The name Calico derives: `<node>-<orchestrator>-<workload>-<endpoint>`, each part with its `-` doubled.
    pub fn derived_name(&self) -> String {
        let workload = match self.orchestrator.as_str() {
            "k8s" => &self.pod,
            "cni" => &self.container_id,
            _ => &self.workload,
        };
        let parts = [&self.node, &self.orchestrator, workload, &self.endpoint];
        parts.map(|part| part.replace('-', "--")).join("-")
    }

    fn validate(&self, check: &mut Check) {
        let names = [
            ("orchestrator", &self.orchestrator),
            ("workload", &self.workload),
            ("node", &self.node),
            ("pod", &self.pod),
            ("endpoint", &self.endpoint),
            ("serviceAccountName", &self.service_account_name),
        ];
        for (field, name) in names {
            check.name(field, name);
        }
        if !self.container_id.is_empty() && !is_container_id(&self.container_id) {
            let expected = "a container id: letters and digits, with dashes inside only";
            check.refuse_field("containerID", quoted(&self.container_id), expected);
        }
        if self.interface_name.is_empty() {
            check.refuse_field("interfaceName", "nothing", "the name of the host's side of the interface");
        } else {
            check.interface("interfaceName", &self.interface_name);
        }
        check.each("profiles", &self.profiles, |check, profile| {
            if !super::check::is_subdomain(profile) {
                check.refuse(quoted(profile), "a profile name");
            }
        });
        self.validate_addresses(check);
        check.each("ports", &self.ports, |check, port| port.validate(check));
        if let Some(qos) = &self.qos_controls {
            check.field("qosControls", |check| qos.validate(check));
        }
    }

    fn validate_addresses(&self, check: &mut Check) {
        check.each("ipNetworks", &self.ip_networks, |check, network| {
            if !network.is_host() {
                check.refuse(network, "one address: a /32 or /128");
            }
        });
        check.each("ipNATs", &self.ip_nats, |check, nat| {
            if nat.internal_ip.is_ipv4() != nat.external_ip.is_ipv4() {
                let expected = "an address of the same family as internalIP";
                check.refuse_field("externalIP", nat.external_ip, expected);
            }
            if !self.ip_networks.contains(&Cidr::host(nat.internal_ip)) {
                check.refuse_field("internalIP", nat.internal_ip, "one of the addresses in ipNetworks");
            }
        });
    }
}

impl WorkloadEndpointPort {
    fn validate(&self, check: &mut Check) {
        if self.port == 0 {
            check.refuse_field("port", 0, "a port 1-65535");
        }
        if self.name.is_none() && self.host_port == 0 {
            check.refuse_field("name", "nothing", "a port name, or a hostPort to publish the port on");
        }
        if !self.protocol.has_ports() {
            check.refuse_field("protocol", self.protocol, "TCP, UDP or SCTP");
        }
    }
}

fn is_container_id(id: &str) -> bool {
    let is_inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    id.bytes().all(is_inner) && !id.starts_with('-') && !id.ends_with('-')
}
