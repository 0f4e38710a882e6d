//! Node: a machine of the cluster, its BGP identity and its tunnel addresses.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::check::Check;
use super::form::{blank_is_absent, is_default};
use super::metadata::Metadata;
use crate::net::{Cidr, MacAddress, number_or_text};

/// Characters of the base64 text of a WireGuard public key: 32 bytes and one '='.
const WIREGUARD_KEY_LENGTH: usize = 44;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Node {
    #[serde(default)]
    pub metadata: Metadata,
    #[serde(default)]
    pub spec: NodeSpec,
    #[serde(default, skip_serializing_if = "is_default")]
    pub status: NodeStatus,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NodeSpec {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bgp: Option<NodeBgpSpec>,
    #[serde(
        rename = "ipv4VXLANTunnelAddr",
        deserialize_with = "blank_is_absent",
        skip_serializing_if = "Option::is_none"
    )]
    pub ipv4_vxlan_tunnel_addr: Option<Ipv4Addr>,
    #[serde(
        rename = "vxlanTunnelMACAddr",
        deserialize_with = "blank_is_absent",
        skip_serializing_if = "Option::is_none"
    )]
    pub vxlan_tunnel_mac_addr: Option<MacAddress>,
    #[serde(
        rename = "ipv6VXLANTunnelAddr",
        deserialize_with = "blank_is_absent",
        skip_serializing_if = "Option::is_none"
    )]
    pub ipv6_vxlan_tunnel_addr: Option<Ipv6Addr>,
    #[serde(
        rename = "vxlanTunnelMACAddrV6",
        deserialize_with = "blank_is_absent",
        skip_serializing_if = "Option::is_none"
    )]
    pub vxlan_tunnel_mac_addr_v6: Option<MacAddress>,
    #[serde(skip_serializing_if = "is_default")]
    pub orch_refs: Vec<OrchRef>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wireguard: Option<NodeWireguardSpec>,
    #[serde(skip_serializing_if = "is_default")]
    pub addresses: Vec<NodeAddress>,
    #[serde(skip_serializing_if = "is_default")]
    pub interfaces: Vec<NodeInterface>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeBgpSpec {
    #[serde(rename = "asNumber", skip_serializing_if = "Option::is_none")]
    pub as_number: Option<AsNumber>,
    /// The node's address and the length of its subnet.
    #[serde(rename = "ipv4Address", deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub ipv4_address: Option<Cidr>,
    #[serde(rename = "ipv6Address", deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub ipv6_address: Option<Cidr>,
    #[serde(
        rename = "ipv4IPIPTunnelAddr",
        deserialize_with = "blank_is_absent",
        skip_serializing_if = "Option::is_none"
    )]
    pub ipv4_ipip_tunnel_addr: Option<Ipv4Addr>,
    /// Makes the node a route reflector of this cluster.
    #[serde(
        rename = "routeReflectorClusterID",
        deserialize_with = "blank_is_absent",
        skip_serializing_if = "Option::is_none"
    )]
    pub route_reflector_cluster_id: Option<Ipv4Addr>,
}

/// The node's name in an orchestrator.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct OrchRef {
    #[serde(skip_serializing_if = "is_default")]
    pub node_name: String,
    pub orchestrator: String,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeWireguardSpec {
    #[serde(
        rename = "interfaceIPv4Address",
        deserialize_with = "blank_is_absent",
        skip_serializing_if = "Option::is_none"
    )]
    pub interface_ipv4_address: Option<Ipv4Addr>,
    #[serde(
        rename = "interfaceIPv6Address",
        deserialize_with = "blank_is_absent",
        skip_serializing_if = "Option::is_none"
    )]
    pub interface_ipv6_address: Option<Ipv6Addr>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeAddress {
    pub address: Cidr,
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub address_type: Option<NodeAddressType>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeAddressType {
    CalicoNodeIP,
    InternalIP,
    ExternalIP,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeInterface {
    pub name: String,
    #[serde(skip_serializing_if = "is_default")]
    pub addresses: Vec<Cidr>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NodeStatus {
    #[serde(skip_serializing_if = "is_default")]
    pub wireguard_public_key: String,
    #[serde(skip_serializing_if = "is_default")]
    pub wireguard_public_key_v6: String,
    #[serde(rename = "podCIDRs", skip_serializing_if = "is_default")]
    pub pod_cidrs: Vec<Cidr>,
}

impl Node {
    pub(super) fn validate(&self, check: &mut Check) {
        check.field("spec", |check| {
            if let Some(bgp) = &self.spec.bgp {
                check.field("bgp", |check| bgp.validate(check));
            }
            check.each("interfaces", &self.spec.interfaces, |check, interface| {
                check.interface("name", &interface.name);
            });
        });
        check.field("status", |check| {
            let keys = [
                ("wireguardPublicKey", &self.status.wireguard_public_key),
                ("wireguardPublicKeyV6", &self.status.wireguard_public_key_v6),
            ];
            for (name, key) in keys {
                if !key.is_empty() && !is_wireguard_key(key) {
                    check.refuse_field(name, super::check::quoted(key), "the base64 text of a 32-byte key");
                }
            }
        });
    }
}

impl NodeBgpSpec {
    fn validate(&self, check: &mut Check) {
        if *self == NodeBgpSpec::default() {
            check.refuse("an empty bgp section", "at least one field in it, or no bgp section");
        }
        if let Some(address) = self.ipv4_address.filter(|address| !address.is_ipv4()) {
            check.refuse_field("ipv4Address", address, "an IPv4 address with its prefix length");
        }
        if let Some(address) = self.ipv6_address.filter(Cidr::is_ipv4) {
            check.refuse_field("ipv6Address", address, "an IPv6 address with its prefix length");
        }
    }
}

fn is_wireguard_key(text: &str) -> bool {
    let is_digit = |b: u8| b.is_ascii_alphanumeric() || b == b'+' || b == b'/';
    // 43 digits carry 258 bits: the last digit's lowest two, beyond the 256 of the key, are zero.
    let ends_clean = |digits: &str| digits.ends_with(|c: char| "AEIMQUYcgkosw048".contains(c));
    let digits = text.strip_suffix('=').unwrap_or_default();
    text.len() == WIREGUARD_KEY_LENGTH && digits.bytes().all(is_digit) && ends_clean(digits)
}

/// An autonomous system number, written as a number, as text, or as `high.low`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct AsNumber(pub u32);

impl AsNumber {
    pub const EXPECTED: &'static str = "an AS number 0-4294967295, or two 16-bit halves such as 1.10";

    pub fn parse(text: &str) -> Option<AsNumber> {
        if !text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
            return None;
        }
        match text.split_once('.') {
            None => text.parse().ok().map(AsNumber),
            Some((high, low)) => {
                let (high, low): (u16, u16) = (high.parse().ok()?, low.parse().ok()?);
                Some(AsNumber(u32::from(high) << 16 | u32::from(low)))
            }
        }
    }
}

impl fmt::Display for AsNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for AsNumber {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(self.0)
    }
}

impl<'de> Deserialize<'de> for AsNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<AsNumber, D::Error> {
        let from_number = |number| u32::try_from(number).ok().map(AsNumber);
        number_or_text(deserializer, AsNumber::EXPECTED, from_number, AsNumber::parse)
    }
}
