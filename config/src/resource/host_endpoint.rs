//! HostEndpoint: an interface of a node, as something policy applies to.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::check::Check;
use super::form::is_default;
use super::metadata::Metadata;
use crate::net::{PortName, Protocol};

/// Stands for every interface of the node that has no host endpoint of its own.
pub const ALL_INTERFACES: &str = "*";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostEndpoint {
    #[serde(default)]
    pub metadata: Metadata,
    #[serde(default)]
    pub spec: HostEndpointSpec,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HostEndpointSpec {
    pub node: String,
    /// A name, or `*`; blank when the interface is found by its addresses.
    #[serde(skip_serializing_if = "is_default")]
    pub interface_name: String,
    #[serde(rename = "expectedIPs", skip_serializing_if = "is_default")]
    pub expected_ips: Vec<IpAddr>,
    #[serde(skip_serializing_if = "is_default")]
    pub profiles: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub ports: Vec<EndpointPort>,
}

/// A port the endpoint gives a name to, for rules to refer to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EndpointPort {
    pub name: PortName,
    pub protocol: Protocol,
    pub port: u16,
}

impl HostEndpoint {
    pub(super) fn validate(&self, check: &mut Check) {
        self.metadata.refuse_reserved_labels(check);
        check.field("spec", |check| self.spec.validate(check));
    }
}

impl HostEndpointSpec {
    fn validate(&self, check: &mut Check) {
        check.required_name("node", &self.node, "the name of the node the interface is on");
        if self.interface_name.is_empty() && self.expected_ips.is_empty() {
            let expected = "an interface name, \"*\" for all, or expectedIPs to find the interface by";
            check.refuse_field("interfaceName", "nothing", expected);
        } else if !self.interface_name.is_empty() && self.interface_name != ALL_INTERFACES {
            check.interface("interfaceName", &self.interface_name);
        }
        check.each("profiles", &self.profiles, |check, profile| {
            if !super::check::is_subdomain(profile) {
                check.refuse(super::check::quoted(profile), "a profile name");
            }
        });
        check.each("ports", &self.ports, |check, port| {
            if port.port == 0 {
                check.refuse_field("port", 0, "a port 1-65535");
            }
            if !port.protocol.has_ports() {
                check.refuse_field("protocol", port.protocol, "TCP, UDP or SCTP");
            }
        });
    }
}
