//! The calls as dockerd writes them, and what they are answered with.
//!
//! dockerd is written in a language where an absent list, an empty one and `null` are the same, and adds fields from one
//! version to the next: all three are read alike, and what is not known is passed over.
//!
//! Sources: libnetwork's drivers/remote/api, ipams/remote/api.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::error::DockerError;

/// One call.
#[derive(Debug, Clone, PartialEq)]
pub enum Call {
    Activate,
    NetworkCapabilities,
    GatewayCheck,
    CreateNetwork(CreateNetwork),
    DeleteNetwork(NetworkRef),
    CreateEndpoint(CreateEndpoint),
    DeleteEndpoint(EndpointRef),
    EndpointInfo(EndpointRef),
    Join(EndpointRef),
    Leave(EndpointRef),
    /// Of another node, which routes tell us about.
    Discovered,
    AddressCapabilities,
    AddressSpaces,
    RequestPool(RequestPool),
    ReleasePool(PoolRef),
    RequestAddress(RequestAddress),
    ReleaseAddress(RequestAddress),
}

impl Call {
    /// None: there is no such call, which for some means that there is nothing to do.
    pub fn read(path: &str, body: &[u8]) -> Option<Result<Call, DockerError>> {
        Some(match path {
            "/Plugin.Activate" => Ok(Call::Activate),
            "/NetworkDriver.GetCapabilities" => Ok(Call::NetworkCapabilities),
            "/NetworkDriver.GwAllocCheck" => Ok(Call::GatewayCheck),
            "/NetworkDriver.CreateNetwork" => parse(body).map(Call::CreateNetwork),
            "/NetworkDriver.DeleteNetwork" => parse(body).map(Call::DeleteNetwork),
            "/NetworkDriver.CreateEndpoint" => parse(body).map(Call::CreateEndpoint),
            "/NetworkDriver.DeleteEndpoint" => parse(body).map(Call::DeleteEndpoint),
            "/NetworkDriver.EndpointOperInfo" => parse(body).map(Call::EndpointInfo),
            "/NetworkDriver.Join" => parse(body).map(Call::Join),
            "/NetworkDriver.Leave" => parse(body).map(Call::Leave),
            "/NetworkDriver.DiscoverNew" | "/NetworkDriver.DiscoverDelete" => Ok(Call::Discovered),
            "/IpamDriver.GetCapabilities" => Ok(Call::AddressCapabilities),
            "/IpamDriver.GetDefaultAddressSpaces" => Ok(Call::AddressSpaces),
            "/IpamDriver.RequestPool" => parse(body).map(Call::RequestPool),
            "/IpamDriver.ReleasePool" => parse(body).map(Call::ReleasePool),
            "/IpamDriver.RequestAddress" => parse(body).map(Call::RequestAddress),
            "/IpamDriver.ReleaseAddress" => parse(body).map(Call::ReleaseAddress),
            _ => return None,
        })
    }

    /// The answer depends on what there is, and not on the call alone.
    pub fn is_about_the_node(&self) -> bool {
        match self {
            Call::Activate
            | Call::NetworkCapabilities
            | Call::GatewayCheck
            | Call::Leave(_)
            | Call::Discovered
            | Call::AddressCapabilities
            | Call::AddressSpaces
            | Call::ReleasePool(_) => false,
            Call::CreateNetwork(_)
            | Call::DeleteNetwork(_)
            | Call::CreateEndpoint(_)
            | Call::DeleteEndpoint(_)
            | Call::EndpointInfo(_)
            | Call::Join(_)
            | Call::RequestPool(_)
            | Call::RequestAddress(_)
            | Call::ReleaseAddress(_) => true,
        }
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, DockerError> {
    // What it says of the body may be as long as the body.
    serde_json::from_slice(body).map_err(|error| {
        DockerError::invalid("the body", &error.to_string(), "what libnetwork's remote drivers are sent")
    })
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CreateNetwork {
    #[serde(rename = "NetworkID")]
    pub network_id: String,
    #[serde(rename = "Options", deserialize_with = "or_default")]
    pub options: Map<String, Value>,
    #[serde(rename = "IPv4Data", deserialize_with = "or_default")]
    pub ipv4: Vec<PoolData>,
    #[serde(rename = "IPv6Data", deserialize_with = "or_default")]
    pub ipv6: Vec<PoolData>,
}

/// What the address driver has said of a pool.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PoolData {
    #[serde(deserialize_with = "or_default")]
    pub address_space: String,
    #[serde(deserialize_with = "or_default")]
    pub pool: String,
    #[serde(deserialize_with = "or_default")]
    pub gateway: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkRef {
    #[serde(rename = "NetworkID")]
    pub network_id: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointRef {
    #[serde(rename = "NetworkID")]
    pub network_id: String,
    #[serde(rename = "EndpointID")]
    pub endpoint_id: String,
    /// Path of the network namespace that is joined.
    #[serde(rename = "SandboxKey", deserialize_with = "or_default")]
    pub sandbox_key: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CreateEndpoint {
    #[serde(rename = "NetworkID")]
    pub network_id: String,
    #[serde(rename = "EndpointID")]
    pub endpoint_id: String,
    #[serde(rename = "Interface", deserialize_with = "or_default")]
    pub interface: EndpointInterface,
    #[serde(rename = "Options", deserialize_with = "or_default")]
    pub options: Map<String, Value>,
}

/// What dockerd knows of an interface already, and what it is told of one. Empty: nothing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointInterface {
    #[serde(rename = "Address", skip_serializing_if = "String::is_empty", deserialize_with = "or_default")]
    pub address: String,
    #[serde(rename = "AddressIPv6", skip_serializing_if = "String::is_empty", deserialize_with = "or_default")]
    pub address_ipv6: String,
    #[serde(rename = "MacAddress", skip_serializing_if = "String::is_empty", deserialize_with = "or_default")]
    pub mac_address: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RequestPool {
    #[serde(rename = "AddressSpace", deserialize_with = "or_default")]
    pub address_space: String,
    #[serde(rename = "Pool", deserialize_with = "or_default")]
    pub pool: String,
    #[serde(rename = "SubPool", deserialize_with = "or_default")]
    pub sub_pool: String,
    #[serde(rename = "Options", deserialize_with = "or_default")]
    pub options: BTreeMap<String, String>,
    #[serde(rename = "V6", deserialize_with = "or_default")]
    pub is_ipv6: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PoolRef {
    #[serde(rename = "PoolID")]
    pub pool_id: String,
}

/// One that is asked for, or given back.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RequestAddress {
    #[serde(rename = "PoolID")]
    pub pool_id: String,
    #[serde(rename = "Address", deserialize_with = "or_default")]
    pub address: String,
    #[serde(rename = "Options", deserialize_with = "or_default")]
    pub options: BTreeMap<String, String>,
}

/// Null is as good as nothing.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Joined {
    pub interface_name: InterfaceName,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub gateway: String,
    #[serde(rename = "GatewayIPv6", skip_serializing_if = "String::is_empty")]
    pub gateway_ipv6: String,
    pub static_routes: Vec<StaticRoute>,
}

/// dockerd moves the interface of the first name, and calls it by the second and a number.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct InterfaceName {
    pub src_name: String,
    pub dst_prefix: String,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct StaticRoute {
    pub destination: String,
    /// 1: on the link.
    pub route_type: u8,
}
