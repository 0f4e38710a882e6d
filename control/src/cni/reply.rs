//! Results, in the form of the version that was asked for.
//!
//! | version | addresses | interfaces |
//! |---|---|---|
//! | 0.1.0, 0.2.0 | `ip4`, `ip6`: one each, with its routes | none |
//! | 0.3.0 – 0.4.0 | `ips`, each with a `version` of "4" or "6" | `interfaces` |
//! | 1.0.0 | `ips` without it | `interfaces` |
//! | 1.1.0 | the same | `interfaces` with `mtu` |
//!
//! Results of other plugins are read in any of these forms: of an address plugin, and of those before ours in a chain. What is
//! in them that we do not know is kept.

use std::net::IpAddr;

use config::net::Cidr;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::arguments;
use super::error::{self, CniError};
use super::request::position;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dns {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub domain: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Interface {
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mac: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub mtu: u32,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sandbox: String,
    #[serde(flatten)]
    pub others: Map<String, Value>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Address {
    /// With its prefix.
    pub address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// Its place among the interfaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<usize>,
    #[serde(flatten)]
    pub others: Map<String, Value>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RouteReply {
    pub dst: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gw: Option<String>,
    #[serde(flatten)]
    pub others: Map<String, Value>,
}

/// A result, whatever its form.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reply {
    pub interfaces: Vec<Interface>,
    pub ips: Vec<Address>,
    pub routes: Vec<RouteReply>,
    pub dns: Dns,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Written {
    interfaces: Vec<Interface>,
    ips: Vec<Address>,
    routes: Vec<RouteReply>,
    dns: Dns,
    ip4: Option<WrittenFamily>,
    ip6: Option<WrittenFamily>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct WrittenFamily {
    ip: String,
    gateway: Option<String>,
    routes: Vec<RouteReply>,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Reply {
    /// A result of somebody else; `whose` is for the error.
    pub fn read(value: &Value, whose: &str) -> Result<Reply, CniError> {
        let written: Written = Written::deserialize(value).map_err(|error| {
            CniError::new(error::DECODE, format!("{whose} is not a result")).with_details(error.to_string())
        })?;
        let Written { interfaces, mut ips, mut routes, dns, ip4, ip6 } = written;
        for family in [ip4, ip6].into_iter().flatten() {
            ips.push(Address { address: family.ip, gateway: family.gateway, ..Address::default() });
            routes.extend(family.routes);
        }
        if let Some(wrong) = ips.iter().find(|ip| arguments::address(&ip.address).is_none()) {
            let shown: String = wrong.address.chars().take(64).collect();
            return Err(CniError::new(
                error::DECODE,
                format!("{whose}: ips: found {shown:?}, expected an address with its prefix"),
            ));
        }
        if let Some(wrong) = ips.iter().filter_map(|ip| ip.interface).find(|index| *index >= interfaces.len()) {
            return Err(CniError::new(
                error::DECODE,
                format!("{whose}: ips: interface {wrong} is none of its interfaces"),
            ));
        }
        Ok(Reply { interfaces, ips, routes, dns })
    }

    /// Its addresses, without their prefixes.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.ips.iter().filter_map(|ip| arguments::address(&ip.address)).collect()
    }

    /// The networks that its addresses are in.
    pub fn networks(&self) -> Vec<Cidr> {
        self.ips.iter().filter_map(|ip| Cidr::parse(&ip.address).ok()).map(|network| network.masked()).collect()
    }

    /// Where its routes lead.
    pub fn destinations(&self) -> Vec<Cidr> {
        self.routes.iter().filter_map(|route| Cidr::parse(&route.dst).ok()).collect()
    }

    /// Behind what plugins before ours have said.
    pub fn after(self, mut earlier: Reply) -> Reply {
        let shift = earlier.interfaces.len();
        earlier.interfaces.extend(self.interfaces);
        earlier
            .ips
            .extend(self.ips.into_iter().map(|ip| Address { interface: ip.interface.map(|own| own + shift), ..ip }));
        earlier.routes.extend(self.routes);
        if self.dns != Dns::default() {
            earlier.dns = self.dns;
        }
        earlier
    }

    pub fn write(&self, version: &str) -> Value {
        let mut object = Map::new();
        object.insert("cniVersion".to_string(), json!(version));
        if position(version) < position("0.3.0") {
            for (key, is_ipv4) in [("ip4", true), ("ip6", false)] {
                let of_family =
                    |text: &str| arguments::address(text).is_some_and(|address| address.is_ipv4() == is_ipv4);
                let Some(ip) = self.ips.iter().find(|ip| of_family(&ip.address)) else { continue };
                let mut family = Map::new();
                family.insert("ip".to_string(), json!(ip.address));
                if let Some(gateway) = &ip.gateway {
                    family.insert("gateway".to_string(), json!(gateway));
                }
                let routes: Vec<&RouteReply> = self.routes.iter().filter(|route| of_family(&route.dst)).collect();
                if !routes.is_empty() {
                    family.insert("routes".to_string(), json!(routes));
                }
                object.insert(key.to_string(), Value::Object(family));
            }
        } else {
            let interfaces: Vec<Interface> = self.interfaces.iter().cloned().map(|own| fitting(own, version)).collect();
            if !interfaces.is_empty() {
                object.insert("interfaces".to_string(), json!(interfaces));
            }
            let ips: Vec<Address> = self.ips.iter().cloned().map(|ip| versioned(ip, version)).collect();
            object.insert("ips".to_string(), json!(ips));
            if !self.routes.is_empty() {
                object.insert("routes".to_string(), json!(self.routes));
            }
        }
        if self.dns != Dns::default() {
            object.insert("dns".to_string(), json!(self.dns));
        }
        Value::Object(object)
    }
}

/// Before 1.1.0 nobody tells an MTU.
fn fitting(interface: Interface, version: &str) -> Interface {
    match position(version) < position("1.1.0") {
        true => Interface { mtu: 0, ..interface },
        false => interface,
    }
}

fn versioned(mut ip: Address, version: &str) -> Address {
    ip.others.remove("version");
    if position(version) < position("1.0.0") {
        let is_ipv4 = arguments::address(&ip.address).is_none_or(|address| address.is_ipv4());
        ip.others.insert("version".to_string(), json!(if is_ipv4 { "4" } else { "6" }));
    }
    ip
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::request::VERSIONS;

    fn reply() -> Reply {
        let route = |dst: &str, gw: &str| RouteReply {
            dst: dst.to_string(),
            gw: Some(gw.to_string()),
            ..RouteReply::default()
        };
        let ip = |address: &str| Address { address: address.to_string(), interface: Some(1), ..Address::default() };
        let interface = |name: &str| Interface { name: name.to_string(), mtu: 1500, ..Interface::default() };
        Reply {
            interfaces: vec![interface("cali1"), interface("eth0")],
            ips: vec![ip("10.0.0.1/32"), ip("fd00::1/128")],
            routes: vec![route("0.0.0.0/0", "169.254.1.1"), route("::/0", "fe80::1")],
            dns: Dns { nameservers: vec!["10.0.0.10".to_string()], ..Dns::default() },
        }
    }

    /// What is written in a version can be read again, as far as the version can say it.
    #[test]
    fn every_version_is_read_again() {
        for version in VERSIONS {
            let written = reply().write(version);
            assert_eq!(written["cniVersion"], version);
            let read = Reply::read(&written, "it").unwrap_or_else(|error| panic!("{version}: {error}"));
            assert_eq!(read.addresses(), reply().addresses(), "{version}");
            assert_eq!(read.destinations(), reply().destinations(), "{version}");
            assert_eq!(read.dns, reply().dns);
            assert_eq!(read.interfaces.is_empty(), position(version) < position("0.3.0"));
        }
    }

    #[test]
    fn forms_of_versions() {
        let old = reply().write("0.2.0");
        assert_eq!(old["ip4"]["ip"], "10.0.0.1/32");
        assert_eq!(old["ip6"]["routes"][0]["dst"], "::/0");
        assert!(old.get("ips").is_none());
        let middle = reply().write("0.4.0");
        assert_eq!((&middle["ips"][0]["version"], &middle["ips"][1]["version"]), (&json!("4"), &json!("6")));
        assert!(middle["interfaces"][0].get("mtu").is_none());
        let new = reply().write("1.1.0");
        assert!(new["ips"][0].get("version").is_none());
        assert_eq!(new["interfaces"][1]["mtu"], 1500);
    }

    #[test]
    fn a_chain_keeps_what_was_before() {
        let earlier = json!({
            "interfaces": [{ "name": "lo", "pciID": "0000:00:01.0" }],
            "ips": [{ "address": "127.0.0.1/8", "interface": 0 }],
        });
        let whole = reply().after(Reply::read(&earlier, "prevResult").unwrap_or_default()).write("1.0.0");
        assert_eq!(whole["interfaces"][0]["pciID"], "0000:00:01.0");
        assert_eq!(whole["ips"][1]["interface"], 2);
        let wrong = json!({ "ips": [{ "address": "10.0.0.1/32", "interface": 3 }] });
        assert_eq!(Reply::read(&wrong, "prevResult").map_err(|error| error.code), Err(6));
        assert_eq!(Reply::read(&json!({ "ips": [{ "address": "x" }] }), "it").map_err(|error| error.code), Err(6));
        assert_eq!(Reply::read(&json!([1]), "it").map_err(|error| error.code), Err(6));
    }
}
