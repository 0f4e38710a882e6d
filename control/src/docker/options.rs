//! What people give with `--opt` and `--driver-opt`, and what dockerd adds to it.
//!
//! | option | of | means |
//! |---|---|---|
//! | `label.KEY`, `vrouter.label.KEY` | network, endpoint | a label, for selectors |
//! | `vrouter.namespace` | network | the namespace of its endpoints; `default` |
//! | `com.docker.network.driver.mtu` | network | MTU; that of the uplinks |
//! | `com.docker.network.internal` | network | nobody outside may be talked to |
//! | `com.docker.network.portmap` | endpoint | ports, recorded and not published |
//!
//! Other options with Docker's prefix are Docker's own. Any other is refused: nobody would miss it until it is needed.

use std::collections::BTreeMap;
use std::net::IpAddr;

use config::net::Protocol;
use config::resource::WorkloadEndpointPort;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::error::{DockerError, shown};

const GENERIC: &str = "com.docker.network.generic";
const INTERNAL: &str = "com.docker.network.internal";
const MTU: &str = "com.docker.network.driver.mtu";
const PORTMAP: &str = "com.docker.network.portmap";
const NAMESPACE: &str = "vrouter.namespace";
const LABELS: [&str; 2] = ["label.", "vrouter.label."];
const DOCKERS: &str = "com.docker.";

const OF_NETWORK: &str =
    "label.KEY or vrouter.label.KEY, vrouter.namespace, com.docker.network.driver.mtu, or another of Docker's own";
const OF_ENDPOINT: &str = "label.KEY or vrouter.label.KEY, or one of Docker's own";

/// Of a network, or of an endpoint.
const LABELS_MAX: usize = 64;
const PORTS_MAX: usize = 1024;
pub const MTUS: std::ops::RangeInclusive<u32> = 576..=65535;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkOptions {
    pub labels: BTreeMap<String, String>,
    pub namespace: Option<String>,
    pub mtu: Option<u32>,
    pub is_internal: bool,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct EndpointOptions {
    pub labels: BTreeMap<String, String>,
    pub ports: Vec<WorkloadEndpointPort>,
}

pub fn of_network(options: &Map<String, Value>) -> Result<NetworkOptions, DockerError> {
    let nothing = Map::new();
    let generic = match options.get(GENERIC) {
        None | Some(Value::Null) => &nothing,
        Some(Value::Object(generic)) => generic,
        Some(other) => return Err(DockerError::invalid(GENERIC, &other.to_string(), "an object of texts")),
    };
    let mut read = NetworkOptions { is_internal: options.get(INTERNAL) == Some(&true.into()), ..Default::default() };
    for (name, value) in generic {
        if take_label(&mut read.labels, name, value)? {
            continue;
        }
        match name.as_str() {
            NAMESPACE => read.namespace = Some(text(name, value)?.to_string()),
            MTU => {
                let text = text(name, value)?;
                let mtu = text.parse().ok().filter(|mtu| MTUS.contains(mtu));
                read.mtu =
                    Some(mtu.ok_or_else(|| DockerError::invalid(name, text, "a number of bytes, 576 to 65535"))?);
            }
            _ if name.starts_with(DOCKERS) => {}
            _ => return Err(unknown(name, OF_NETWORK)),
        }
    }
    Ok(read)
}

/// An endpoint's come beside Docker's own, not in an object of their own.
pub fn of_endpoint(options: &Map<String, Value>) -> Result<EndpointOptions, DockerError> {
    let mut read = EndpointOptions::default();
    for (name, value) in options {
        if take_label(&mut read.labels, name, value)? {
            continue;
        }
        match name.as_str() {
            PORTMAP => read.ports = ports(value)?,
            _ if name.starts_with(DOCKERS) => {}
            _ => return Err(unknown(name, OF_ENDPOINT)),
        }
    }
    Ok(read)
}

fn unknown(name: &str, expected: &str) -> DockerError {
    DockerError::invalid("option", name, expected)
}

fn take_label(labels: &mut BTreeMap<String, String>, name: &str, value: &Value) -> Result<bool, DockerError> {
    let Some(key) = LABELS.iter().find_map(|prefix| name.strip_prefix(prefix)) else { return Ok(false) };
    labels.insert(key.to_string(), text(name, value)?.to_string());
    if labels.len() > LABELS_MAX {
        let expected = format!("at most {LABELS_MAX} labels");
        return Err(DockerError::Invalid { what: "option".to_string(), found: shown(name), expected });
    }
    Ok(true)
}

fn text<'a>(name: &str, value: &'a Value) -> Result<&'a str, DockerError> {
    value.as_str().ok_or_else(|| DockerError::invalid(shown(name), &value.to_string(), "a text"))
}

/// A container's port, and where on the host it was asked to be.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[derive(Default)]
struct PortBinding {
    proto: u8,
    port: u16,
    #[serde(rename = "HostIP")]
    host_ip: Option<String>,
    host_port: u16,
}

/// Those that have a port of the host. Docker's own driver would choose one for the others.
fn ports(value: &Value) -> Result<Vec<WorkloadEndpointPort>, DockerError> {
    let wrong = |found: &str, expected: &str| DockerError::invalid(PORTMAP, found, expected);
    let bindings: Option<Vec<PortBinding>> =
        serde_json::from_value(value.clone()).map_err(|error| wrong(&error.to_string(), "a list of port bindings"))?;
    let bindings = bindings.unwrap_or_default();
    if bindings.len() > PORTS_MAX {
        return Err(wrong(&bindings.len().to_string(), "at most 1024 port bindings"));
    }
    let mut ports = Vec::new();
    for binding in bindings.into_iter().filter(|binding| binding.host_port != 0) {
        let protocol = [Protocol::TCP, Protocol::UDP, Protocol::SCTP].into_iter();
        let protocol = protocol.into_iter().find(|protocol| protocol.number() == binding.proto);
        let host_ip = binding.host_ip.as_deref().filter(|text| !text.is_empty());
        let host_ip: Option<IpAddr> =
            host_ip.map(|text| text.parse().map_err(|_| wrong(text, "an address"))).transpose()?;
        ports.push(WorkloadEndpointPort {
            name: None,
            protocol: protocol.ok_or_else(|| wrong(&binding.proto.to_string(), "protocol 6, 17 or 132"))?,
            port: binding.port,
            host_port: binding.host_port,
            host_ip: host_ip.filter(|address| !address.is_unspecified()),
        });
    }
    Ok(ports)
}
