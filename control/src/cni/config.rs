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
    pub name: String,
    pub ipam: IpamConfig,
    /// 0: the daemon's.
    #[serde(deserialize_with = "number_or_text")]
    pub mtu: u64,
    #[serde(deserialize_with = "number_or_text")]
    pub num_queues: u64,
    pub device_type: String,
    /// Only where the address plugin has given routes: the default routes as well.
    #[serde(deserialize_with = "truth")]
    pub include_default_routes: bool,
    pub nodename: String,
    pub policy: PolicyConfig,
    pub container_settings: ContainerSettings,
    pub feature_control: FeatureControl,
    /// Where the daemon listens; the usual place when empty.
    pub socket: String,
    /// Labels of every container of the network.
    pub labels: BTreeMap<String, String>,
    /// Profiles in place of the network's own.
    pub profiles: Option<Vec<String>>,
    #[serde(rename = "ipMasq", deserialize_with = "truth")]
    pub ip_masq: bool,
    pub dns: Dns,
    pub args: ArgsConfig,
    #[serde(rename = "runtimeConfig")]
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
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(deserialize_with = "truth_or_none")]
    pub assign_ipv4: Option<bool>,
    #[serde(deserialize_with = "truth_or_none")]
    pub assign_ipv6: Option<bool>,
    pub ipv4_pools: Vec<String>,
    pub ipv6_pools: Vec<String>,
    /// Of those plugins that have them.
    pub routes: Vec<RouteConfig>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct RouteConfig {
    pub dst: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct PolicyConfig {
    #[serde(rename = "type")]
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
    pub cni: CniArgs,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct CniArgs {
    pub ips: Vec<String>,
    pub labels: Vec<Label>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Label {
    pub key: String,
    pub value: String,
}

/// What the runtime was asked for, by the capabilities that the configuration names.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RuntimeConfig {
    pub ips: Vec<String>,
    pub mac: String,
    pub port_mappings: Vec<PortMapping>,
    pub bandwidth: Option<Bandwidth>,
    pub dns: RuntimeDns,
    #[serde(rename = "io.kubernetes.cri.pod-annotations")]
    pub pod_annotations: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PortMapping {
    pub host_port: u16,
    pub container_port: u16,
    pub protocol: String,
    #[serde(rename = "hostIP")]
    pub host_ip: String,
}

/// Bits a second, and bits.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Bandwidth {
    pub ingress_rate: i64,
    pub ingress_burst: i64,
    pub egress_rate: i64,
    pub egress_burst: i64,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct RuntimeDns {
    pub servers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(default)]
pub struct ValidAttachment {
    #[serde(rename = "containerID")]
    pub container_id: String,
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
