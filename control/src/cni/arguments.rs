//! CNI_ARGS, and the annotations of a pod that say how it is attached.
//!
//! Sources: the CNI specification (CNI_ARGS); Calico's annotations, prefix `cni.projectcalico.org/`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use config::net::{Cidr, MacAddress};
use serde::de::DeserializeOwned;

use super::error::{self, CniError};

/// Ours: labels, as a JSON object. Runtimes do not pass on those of the pod.
const LABELS: &str = "vrouter/labels";
/// What Calico's begin with.
const PREFIX: &str = "cni.projectcalico.org/";

/// `K=V;K=V`, as far as it is known here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Arguments {
    pub namespace: String,
    pub pod: String,
    pub addresses: Vec<IpAddr>,
}

/// What a pod says of how it is attached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Annotations {
    pub addresses: Option<Vec<IpAddr>>,
    /// Addresses that are in no pool.
    pub addresses_without_ipam: Option<Vec<IpAddr>>,
    pub ipv4_pools: Option<Vec<String>>,
    pub ipv6_pools: Option<Vec<String>>,
    /// Which families: IPv4, IPv6.
    pub families: Option<Vec<String>>,
    pub floating: Option<Vec<IpAddr>>,
    pub mac: Option<MacAddress>,
    pub allowed_sources: Option<Vec<Cidr>>,
    pub labels: BTreeMap<String, String>,
}

pub fn read(text: &str) -> Result<Arguments, CniError> {
    let pairs: Vec<(&str, &str)> = text
        .split(';')
        .filter(|pair| !pair.trim().is_empty())
        .map(|pair| {
            pair.split_once('=').ok_or_else(|| {
                let shown: String = pair.chars().take(40).collect();
                CniError::new(error::ENVIRONMENT, format!("CNI_ARGS: found {shown:?}, expected KEY=VALUE"))
            })
        })
        .collect::<Result<_, _>>()?;
    let ignores =
        pairs.iter().any(|(key, value)| *key == "IgnoreUnknown" && matches!(*value, "1" | "true" | "True" | "TRUE"));
    let mut arguments = Arguments::default();
    for (key, value) in pairs {
        match key {
            "K8S_POD_NAMESPACE" => arguments.namespace = named(key, value)?,
            "K8S_POD_NAME" => arguments.pod = named(key, value)?,
            "IP" => {
                for text in value.split(',').filter(|text| !text.is_empty()) {
                    arguments.addresses.push(address(text).ok_or_else(|| wrong(key, text, "an address"))?);
                }
            }
            "K8S_POD_INFRA_CONTAINER_ID" | "K8S_POD_UID" | "IgnoreUnknown" => {}
            _ if ignores => {}
            _ => {
                let shown: String = key.chars().take(40).collect();
                let msg = format!("CNI_ARGS: found the key {shown:?}, expected a known one or IgnoreUnknown=1");
                return Err(CniError::new(error::ENVIRONMENT, msg));
            }
        }
    }
    Ok(arguments)
}

/// An address, with or without a prefix.
pub fn address(text: &str) -> Option<IpAddr> {
    let (address, length) = text.trim().split_once('/').map_or((text.trim(), None), |(a, l)| (a, Some(l)));
    let address: IpAddr = address.parse().ok()?;
    match length {
        None => Some(address),
        Some(length) => Cidr::new(address, length.parse().ok()?).map(|_| address),
    }
}

fn named(key: &str, value: &str) -> Result<String, CniError> {
    let is_legal = value.len() <= 253
        && value.bytes().all(|byte| {
            byte.is_ascii_lowercase()
                || byte.is_ascii_digit()
                || matches!(byte, b'-' | b'.' | b'_')
                || byte.is_ascii_uppercase()
        })
        && value.bytes().next().is_none_or(|byte| byte.is_ascii_alphanumeric());
    match is_legal {
        true => Ok(value.to_string()),
        false => Err(wrong(key, value, "a name of at most 253 letters, digits, `-`, `.` and `_`")),
    }
}

fn wrong(key: &str, found: &str, expected: &str) -> CniError {
    let shown: String = found.chars().take(40).collect();
    CniError::new(error::ENVIRONMENT, format!("CNI_ARGS: {key}: found {shown:?}, expected {expected}"))
}

impl Annotations {
    pub fn read(annotations: &BTreeMap<String, String>) -> Result<Annotations, CniError> {
        let text = |name: &str| annotations.get(&format!("{PREFIX}{name}")).map(String::as_str);
        let mac = text("hwAddr")
            .map(|text| MacAddress::parse(text).map_err(|_| bad("hwAddr", "a MAC address")))
            .transpose()?;
        let sources = list::<String>(text("allowedSourcePrefixes"), "allowedSourcePrefixes")?;
        let sources = sources.map(|texts| {
            texts.iter().map(|text| Cidr::parse(text).map_err(|_| bad("allowedSourcePrefixes", "CIDRs"))).collect()
        });
        Ok(Annotations {
            addresses: addresses(text("ipAddrs"), "ipAddrs")?,
            addresses_without_ipam: addresses(text("ipAddrsNoIpam"), "ipAddrsNoIpam")?,
            ipv4_pools: list(text("ipv4pools"), "ipv4pools")?,
            ipv6_pools: list(text("ipv6pools"), "ipv6pools")?,
            families: list(text("ipFamilies"), "ipFamilies")?,
            floating: addresses(text("floatingIPs"), "floatingIPs")?,
            mac,
            allowed_sources: sources.transpose()?,
            labels: match annotations.get(LABELS) {
                None => BTreeMap::new(),
                Some(text) => serde_json::from_str(text).map_err(|_| {
                    CniError::new(error::CONFIG, format!("annotation {LABELS}: expected a JSON object of texts"))
                })?,
            },
        })
    }
}

fn list<T: DeserializeOwned>(text: Option<&str>, name: &str) -> Result<Option<Vec<T>>, CniError> {
    text.map(|text| serde_json::from_str(text).map_err(|_| bad(name, "a JSON list"))).transpose()
}

fn addresses(text: Option<&str>, name: &str) -> Result<Option<Vec<IpAddr>>, CniError> {
    let Some(texts) = list::<String>(text, name)? else { return Ok(None) };
    let read = |text: &String| address(text).ok_or_else(|| bad(name, "a JSON list of addresses"));
    texts.iter().map(read).collect::<Result<_, _>>().map(Some)
}

fn bad(name: &str, expected: &str) -> CniError {
    CniError::new(error::CONFIG, format!("annotation {PREFIX}{name}: expected {expected}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_of_runtimes() {
        let found = read("IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-1;K8S_POD_UID=7;X=y;IP=10.0.0.7");
        let expected = Arguments {
            namespace: "shop".to_string(),
            pod: "web-1".to_string(),
            addresses: vec![IpAddr::from([10, 0, 0, 7])],
        };
        assert_eq!(found, Ok(expected));
        assert_eq!(read(""), Ok(Arguments::default()));
        assert_eq!(read("IP=10.0.0.7/24,fd00::1").map(|found| found.addresses.len()), Ok(2));
        for text in ["X=y", "IP=x", "IP=10.0.0.1/33", "K8S_POD_NAME=../x", "K8S_POD_NAME=a b", "alone"] {
            assert_eq!(read(text).map_err(|error| error.code), Err(4), "{text}");
        }
    }

    #[test]
    fn annotations_of_pods() {
        let of = |name: &str, value: &str| {
            Annotations::read(&BTreeMap::from([(format!("{PREFIX}{name}"), value.to_string())]))
        };
        assert_eq!(of("ipAddrs", r#"["10.0.0.7"]"#).unwrap_or_default().addresses, Some(vec![[10, 0, 0, 7].into()]));
        assert_eq!(
            of("ipv4pools", r#"["a", "10.0.0.0/8"]"#).unwrap_or_default().ipv4_pools.map(|pools| pools.len()),
            Some(2)
        );
        assert_eq!(of("other", "x"), Ok(Annotations::default()));
        let labelled = |text: &str| Annotations::read(&BTreeMap::from([(LABELS.to_string(), text.to_string())]));
        assert_eq!(labelled(r#"{"role": "web"}"#).unwrap_or_default().labels.len(), 1);
        assert_eq!(labelled("role=web").map_err(|error| error.code), Err(7));
        for (name, value) in
            [("ipAddrs", "10.0.0.7"), ("ipAddrs", r#"["x"]"#), ("hwAddr", "x"), ("allowedSourcePrefixes", r#"["x"]"#)]
        {
            assert_eq!(of(name, value).map_err(|error| error.code), Err(7), "{name} {value}");
        }
    }
}
