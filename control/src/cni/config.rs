//! The network configuration: Calico's fields, and the specification's.
//!
//! What is not known is somebody else's and left alone. Where Calico's plugin reads a datastore or credentials from here, ours
//! asks the daemon: those fields are read by nobody.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::reply::Dns;

/// Address plugins whose work the daemon does.
const OURS: [&str; 3] = ["", "calico-ipam", "vrouter-ipam"];

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct NetworkConfig {
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    #[serde(deserialize_with = "or_default")]
    pub ipam: IpamConfig,
    /// 0: the daemon's.
    #[serde(deserialize_with = "number_or_text")]
    pub mtu: u64,
    #[serde(deserialize_with = "number_or_text")]
    pub num_queues: u64,
    #[serde(deserialize_with = "or_default")]
    pub device_type: String,
    /// Only where the address plugin has given routes: the default routes as well.
    #[serde(deserialize_with = "truth")]
    pub include_default_routes: bool,
    #[serde(deserialize_with = "or_default")]
    pub nodename: String,
    #[serde(deserialize_with = "or_default")]
    pub policy: PolicyConfig,
    #[serde(deserialize_with = "or_default")]
    pub container_settings: ContainerSettings,
    #[serde(deserialize_with = "or_default")]
    pub feature_control: FeatureControl,
    /// Where the daemon listens; the usual place when empty.
    #[serde(deserialize_with = "or_default")]
    pub socket: String,
    /// Labels of every container of the network.
    #[serde(deserialize_with = "or_default")]
    pub labels: BTreeMap<String, String>,
    /// Profiles in place of the network's own.
    pub profiles: Option<Vec<String>>,
    #[serde(rename = "ipMasq", deserialize_with = "truth")]
    pub ip_masq: bool,
    #[serde(deserialize_with = "or_default")]
    pub dns: Dns,
    #[serde(deserialize_with = "or_default")]
    pub args: ArgsConfig,
    #[serde(rename = "runtimeConfig", deserialize_with = "or_default")]
    pub runtime: RuntimeConfig,
    #[serde(rename = "prevResult")]
    pub previous: Option<Value>,
    #[serde(rename = "cni.dev/valid-attachments")]
    pub valid_attachments: Option<Vec<ValidAttachment>>,
    /// The same, as the reference library writes it too.
    #[serde(rename = "cni.dev/attachments")]
    pub attachments: Option<Vec<ValidAttachment>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct IpamConfig {
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub kind: String,
    #[serde(deserialize_with = "truth_or_none")]
    pub assign_ipv4: Option<bool>,
    #[serde(deserialize_with = "truth_or_none")]
    pub assign_ipv6: Option<bool>,
    #[serde(deserialize_with = "or_default")]
    pub ipv4_pools: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub ipv6_pools: Vec<String>,
    /// Of those plugins that have them.
    #[serde(deserialize_with = "or_default")]
    pub routes: Vec<RouteConfig>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct RouteConfig {
    #[serde(deserialize_with = "or_default")]
    pub dst: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct PolicyConfig {
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub kind: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ContainerSettings {
    #[serde(deserialize_with = "truth")]
    pub allow_ip_forwarding: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct FeatureControl {
    #[serde(deserialize_with = "truth")]
    pub ip_addrs_no_ipam: bool,
    #[serde(deserialize_with = "truth")]
    pub floating_ips: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ArgsConfig {
    #[serde(deserialize_with = "or_default")]
    pub cni: CniArgs,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct CniArgs {
    #[serde(deserialize_with = "or_default")]
    pub ips: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub labels: Vec<Label>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Label {
    #[serde(deserialize_with = "or_default")]
    pub key: String,
    #[serde(deserialize_with = "or_default")]
    pub value: String,
}

/// What the runtime was asked for, by the capabilities that the configuration names.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RuntimeConfig {
    #[serde(deserialize_with = "or_default")]
    pub ips: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub mac: String,
    #[serde(deserialize_with = "or_default")]
    pub port_mappings: Vec<PortMapping>,
    pub bandwidth: Option<Bandwidth>,
    #[serde(deserialize_with = "or_default")]
    pub dns: RuntimeDns,
    #[serde(rename = "io.kubernetes.cri.pod-annotations", deserialize_with = "or_default")]
    pub pod_annotations: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PortMapping {
    #[serde(deserialize_with = "or_default")]
    pub host_port: u16,
    #[serde(deserialize_with = "or_default")]
    pub container_port: u16,
    #[serde(deserialize_with = "or_default")]
    pub protocol: String,
    #[serde(rename = "hostIP", deserialize_with = "or_default")]
    pub host_ip: String,
}

/// Bits a second, and bits.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Bandwidth {
    #[serde(deserialize_with = "or_default")]
    pub ingress_rate: i64,
    #[serde(deserialize_with = "or_default")]
    pub ingress_burst: i64,
    #[serde(deserialize_with = "or_default")]
    pub egress_rate: i64,
    #[serde(deserialize_with = "or_default")]
    pub egress_burst: i64,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct RuntimeDns {
    #[serde(deserialize_with = "or_default")]
    pub servers: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub searches: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub options: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(default)]
pub struct ValidAttachment {
    #[serde(rename = "containerID", deserialize_with = "or_default")]
    pub container_id: String,
    #[serde(deserialize_with = "or_default")]
    pub ifname: String,
}

impl NetworkConfig {
    /// The address plugin to run; none where addresses are the daemon's work.
    pub fn delegate(&self) -> Option<&str> {
        let kind = self.ipam.kind.as_str();
        (!OURS.contains(&kind)).then_some(kind)
    }

    /// Those that shall stay; none: nobody said.
    pub fn valid(&self) -> Option<&[ValidAttachment]> {
        self.valid_attachments.as_deref().or(self.attachments.as_deref())
    }

    /// Addresses that the runtime asks for, in the order of who counts more.
    pub fn asked_addresses(&self) -> Option<&[String]> {
        [&self.runtime.ips, &self.args.cni.ips].into_iter().find(|ips| !ips.is_empty()).map(Vec::as_slice)
    }

    /// For the result: the runtime's word, else the configuration's.
    pub fn dns(&self) -> Dns {
        let own = self.dns.clone();
        let RuntimeDns { servers, searches, options } = &self.runtime.dns;
        let or = |runtime: &[String], own: Vec<String>| if runtime.is_empty() { own } else { runtime.to_vec() };
        Dns {
            nameservers: or(servers, own.nameservers),
            domain: own.domain,
            search: or(searches, own.search),
            options: or(options, own.options),
        }
    }
}

/// Go writes null for a list or map without anything in it, as containerd does for a pod without annotations, and takes it anywhere.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Calico writes "true" as well as true.
fn truth_or_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<bool>, D::Error> {
    use serde::de::Error;
    match Value::deserialize(deserializer)? {
        Value::Null => Ok(None),
        Value::Bool(truth) => Ok(Some(truth)),
        Value::String(text) => match text.to_lowercase().as_str() {
            "" => Ok(None),
            "true" | "1" => Ok(Some(true)),
            "false" | "0" => Ok(Some(false)),
            _ => Err(D::Error::custom("expected true or false")),
        },
        _ => Err(D::Error::custom("expected true or false")),
    }
}

fn truth<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Ok(truth_or_none(deserializer)?.unwrap_or(false))
}

fn number_or_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    use serde::de::Error;
    match Value::deserialize(deserializer)? {
        Value::Null => Ok(0),
        Value::Number(number) => {
            number.as_u64().ok_or_else(|| D::Error::custom("expected a number that is not negative"))
        }
        Value::String(text) if text.is_empty() => Ok(0),
        Value::String(text) => text.parse().map_err(|_| D::Error::custom("expected a number")),
        _ => Err(D::Error::custom("expected a number")),
    }
}
