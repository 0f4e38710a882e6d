//! A lab as somebody wrote it down, and as it is built: names made whole, addresses checked.
//!
//! ```yaml
//! name: demo                       # default lab; also the prefix of all namespaces (demo-web, ...)
//! node: router                     # the router's own namespace
//! endpoints:                       # each a namespace with eth0, and a cali… interface in the node's
//!   - { name: web,    addresses: [10.65.0.2, "fd65::2"], labels: { app: web } }
//!   - { name: client, addresses: [10.65.0.3, "fd65::3"], mtu: 1500, offload: leave }
//! hosts:                           # machines behind an uplink of the node
//!   - name: far
//!     addresses: [192.0.2.2/24, "2001:db8::2/64"]
//!     uplink: up0
//!     nodeAddresses: [192.0.2.1/24, "2001:db8::1/64"]
//! staticRoutes:
//!   - { destination: 0.0.0.0/0, nextHop: 192.0.2.2 }
//! live:                            # a policy changed while traffic flows
//!   apply: deny.yaml
//!   expect: { from: client, to: web, tcp: 8080, verdict: dropped }
//! checks: { pings: 3, tcpMebibytes: 16, udpExchanges: 500 }
//! ```
//!
//! Invariants of a `Lab`: names are unique and legal, interface names fit the kernel, every endpoint
//! and host has an address, at most one per family, and no address is given twice.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use config::net::{Cidr, MacAddress};
use serde::Deserialize;

use super::LabError;

/// Namespaces, threads and pairs to check grow with these.
const PARTICIPANTS_LIMIT: usize = 64;
const INTERFACE_NAME_LIMIT: usize = 15;
const QUEUES_LIMIT: u32 = 64;
/// The least that carries IPv6 (RFC 8200, section 5), and the jumbo frames of most networks. A router that finds such
/// links at its start takes packets in several frames.
const MTU_RANGE: std::ops::RangeInclusive<u32> = 1280..=9000;
const TCP_MEBIBYTES_LIMIT: u32 = 1024;
const COUNT_LIMIT: u32 = 100_000;

/// A lab, checked.
#[derive(Debug, Clone)]
pub struct Lab {
    pub name: String,
    prefix: String,
    /// The router's name as a Node.
    pub node: String,
    pub endpoints: Vec<Endpoint>,
    pub hosts: Vec<FarHost>,
    pub static_routes: Vec<StaticRoute>,
    pub live: Option<Live>,
    pub checks: Checks,
}

#[derive(Debug, Clone)]
pub struct Endpoint {
    pub name: String,
    pub addresses: Vec<IpAddr>,
    pub labels: BTreeMap<String, String>,
    /// The host-side interface, in the node's namespace.
    pub interface: String,
    pub mac: MacAddress,
    pub mtu: u32,
    pub queues: u32,
    pub offload: Offload,
    /// The Kubernetes namespace the endpoint is in.
    pub namespace: String,
}

/// A machine that the node reaches over an uplink.
#[derive(Debug, Clone)]
pub struct FarHost {
    pub name: String,
    pub addresses: Vec<Cidr>,
    pub uplink: String,
    pub node_addresses: Vec<Cidr>,
    pub mtu: u32,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StaticRoute {
    pub destination: Cidr,
    #[serde(default)]
    pub next_hop: Option<IpAddr>,
    #[serde(default)]
    pub interface: Option<String>,
    #[serde(default)]
    pub blackhole: bool,
}

/// What the endpoint's own stack leaves to its interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Offload {
    /// Transmit checksums and segmentation are done by the sender's stack: what the router advises.
    #[default]
    Off,
    /// As the kernel made it: frames come with partial checksums.
    Leave,
}

/// A policy applied and removed again while a connection is open.
#[derive(Debug, Clone)]
pub struct Live {
    pub apply: PathBuf,
    pub from: String,
    pub to: String,
    pub tcp: u16,
    pub verdict: Verdict,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Dropped,
    Allowed,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Checks {
    pub pings: u32,
    pub tcp_mebibytes: u32,
    pub udp_exchanges: u32,
}

impl Default for Checks {
    fn default() -> Checks {
        Checks { pings: 3, tcp_mebibytes: 16, udp_exchanges: 500 }
    }
}

impl Lab {
    /// Reads and checks a description; files it names are relative to it.
    pub fn read(path: &Path) -> Result<Lab, LabError> {
        let text = fs::read_to_string(path).map_err(LabError::io(format!("read {}", path.display())))?;
        let written: Written = serde_saphyr::from_str(&text)
            .map_err(|error| LabError::Description { file: path.to_owned(), message: error.to_string() })?;
        let folder = path.parent().unwrap_or(Path::new("."));
        written.check(folder).map_err(|message| LabError::Description { file: path.to_owned(), message })
    }

    /// The name of the network namespace of a participant, or of the node.
    pub fn namespace(&self, participant: &str) -> String {
        format!("{}{participant}", self.prefix)
    }

    /// Every network namespace the lab needs, the node's first.
    pub fn namespaces(&self) -> Vec<String> {
        let endpoints = self.endpoints.iter().map(|endpoint| &endpoint.name);
        let hosts = self.hosts.iter().map(|host| &host.name);
        [&self.node].into_iter().chain(endpoints).chain(hosts).map(|name| self.namespace(name)).collect()
    }

    /// Name and addresses of everyone packets can be sent to; endpoints come first.
    pub fn participants(&self) -> Vec<(&str, Vec<IpAddr>)> {
        let endpoints = self.endpoints.iter().map(|endpoint| (endpoint.name.as_str(), endpoint.addresses.clone()));
        let hosts = self.hosts.iter().map(|host| {
            let addresses = host.addresses.iter().map(Cidr::address).collect();
            (host.name.as_str(), addresses)
        });
        endpoints.chain(hosts).collect()
    }

    pub fn is_endpoint(&self, name: &str) -> bool {
        self.endpoints.iter().any(|endpoint| endpoint.name == name)
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    #[serde(default = "default_name")]
    name: String,
    prefix: Option<String>,
    #[serde(default = "default_node")]
    node: String,
    #[serde(default)]
    endpoints: Vec<WrittenEndpoint>,
    #[serde(default)]
    hosts: Vec<WrittenHost>,
    #[serde(default)]
    static_routes: Vec<StaticRoute>,
    live: Option<WrittenLive>,
    #[serde(default)]
    checks: Checks,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenEndpoint {
    name: String,
    addresses: Vec<IpAddr>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    interface: Option<String>,
    #[serde(default = "default_mtu")]
    mtu: u32,
    #[serde(default = "default_queues")]
    queues: u32,
    #[serde(default)]
    offload: Offload,
    #[serde(default = "default_namespace")]
    namespace: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenHost {
    name: String,
    addresses: Vec<Cidr>,
    uplink: String,
    node_addresses: Vec<Cidr>,
    #[serde(default = "default_mtu")]
    mtu: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenLive {
    apply: PathBuf,
    expect: Expectation,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expectation {
    from: String,
    to: String,
    tcp: u16,
    verdict: Verdict,
}

fn default_name() -> String {
    "lab".to_owned()
}

fn default_node() -> String {
    "router".to_owned()
}

fn default_namespace() -> String {
    "default".to_owned()
}

fn default_mtu() -> u32 {
    1500
}

fn default_queues() -> u32 {
    1
}

impl Written {
    /// The first fault, in words that name the field.
    fn check(self, folder: &Path) -> Result<Lab, String> {
        check_name("name", &self.name)?;
        check_name("node", &self.node)?;
        let prefix = self.prefix.unwrap_or_else(|| format!("{}-", self.name));
        check_name("prefix", prefix.trim_end_matches('-'))?;
        let count = self.endpoints.len() + self.hosts.len();
        if self.endpoints.is_empty() || count > PARTICIPANTS_LIMIT {
            return Err(format!(
                "endpoints and hosts: {count} given, expected at least one endpoint and at most {PARTICIPANTS_LIMIT} in all"
            ));
        }
        check_checks(&self.checks)?;

        let mut seen = Seen { names: BTreeSet::from([self.node.clone()]), ..Seen::default() };
        let mut endpoints = Vec::new();
        for (index, endpoint) in self.endpoints.into_iter().enumerate() {
            endpoints.push(endpoint.check(index, &mut seen)?);
        }
        let mut hosts = Vec::new();
        for host in self.hosts {
            hosts.push(host.check(&mut seen)?);
        }
        let live = self.live.map(|live| live.check(folder, &seen)).transpose()?;
        for route in &self.static_routes {
            let ways = [route.next_hop.is_some() || route.interface.is_some(), route.blackhole];
            if ways.iter().filter(|way| **way).count() != 1 {
                return Err(format!("staticRoutes {}: expected nextHop, interface or blackhole", route.destination));
            }
        }
        Ok(Lab {
            name: self.name,
            prefix,
            node: self.node,
            endpoints,
            hosts,
            static_routes: self.static_routes,
            live,
            checks: self.checks,
        })
    }
}

/// What has to be unique.
#[derive(Default)]
struct Seen {
    names: BTreeSet<String>,
    interfaces: BTreeSet<String>,
    addresses: BTreeSet<IpAddr>,
}

impl Seen {
    fn name(&mut self, name: &str) -> Result<(), String> {
        check_name("name", name)?;
        let is_new = self.names.insert(name.to_owned());
        is_new.then_some(()).ok_or_else(|| format!("{name}: this name is given twice"))
    }

    fn interface(&mut self, owner: &str, interface: &str) -> Result<(), String> {
        if interface.is_empty() || interface.len() > INTERFACE_NAME_LIMIT || !interface.bytes().all(is_name_byte) {
            return Err(format!(
                "{owner}: interface `{interface}`: expected 1 to {INTERFACE_NAME_LIMIT} letters, digits, dashes or dots"
            ));
        }
        let is_new = self.interfaces.insert(interface.to_owned());
        is_new.then_some(()).ok_or_else(|| format!("{owner}: interface {interface} is used twice"))
    }

    fn addresses(&mut self, owner: &str, addresses: &[IpAddr]) -> Result<(), String> {
        let of_family = |v4| addresses.iter().filter(|address| address.is_ipv4() == v4).count();
        if addresses.is_empty() || of_family(true) > 1 || of_family(false) > 1 {
            return Err(format!("{owner}: {} addresses, expected one IPv4, one IPv6, or one of each", addresses.len()));
        }
        for address in addresses {
            if address.is_unspecified() || address.is_multicast() || address.is_loopback() {
                return Err(format!("{owner}: address {address}: expected a unicast address"));
            }
            if !self.addresses.insert(*address) {
                return Err(format!("{owner}: address {address} is given twice"));
            }
        }
        Ok(())
    }
}

impl WrittenEndpoint {
    fn check(self, index: usize, seen: &mut Seen) -> Result<Endpoint, String> {
        seen.name(&self.name)?;
        check_name("namespace", &self.namespace)?;
        let interface = self.interface.unwrap_or_else(|| {
            let name: String = format!("cali{}", self.name).chars().take(INTERFACE_NAME_LIMIT).collect();
            name
        });
        seen.interface(&self.name, &interface)?;
        seen.addresses(&self.name, &self.addresses)?;
        check_mtu(&self.name, self.mtu)?;
        if !(1..=QUEUES_LIMIT).contains(&self.queues) {
            return Err(format!("{}: queues {}, expected 1 to {QUEUES_LIMIT}", self.name, self.queues));
        }
        // Locally administered, and the same each time: manifests follow from the description alone.
        let last = u8::try_from(index + 1).unwrap_or(u8::MAX);
        Ok(Endpoint {
            mac: MacAddress([0x02, 0x6c, 0x61, 0x62, 0, last]),
            name: self.name,
            addresses: self.addresses,
            labels: self.labels,
            interface,
            mtu: self.mtu,
            queues: self.queues,
            offload: self.offload,
            namespace: self.namespace,
        })
    }
}

impl WrittenHost {
    fn check(self, seen: &mut Seen) -> Result<FarHost, String> {
        seen.name(&self.name)?;
        seen.interface(&self.name, &self.uplink)?;
        check_mtu(&self.name, self.mtu)?;
        for addresses in [&self.addresses, &self.node_addresses] {
            let plain: Vec<IpAddr> = addresses.iter().map(Cidr::address).collect();
            seen.addresses(&self.name, &plain)?;
        }
        for address in &self.addresses {
            if !self.node_addresses.iter().any(|near| near.contains(address.address())) {
                return Err(format!(
                    "{}: address {address}: expected one of nodeAddresses in the same network",
                    self.name
                ));
            }
        }
        Ok(FarHost {
            name: self.name,
            addresses: self.addresses,
            uplink: self.uplink,
            node_addresses: self.node_addresses,
            mtu: self.mtu,
        })
    }
}

impl WrittenLive {
    fn check(self, folder: &Path, seen: &Seen) -> Result<Live, String> {
        let Expectation { from, to, tcp, verdict } = self.expect;
        for name in [&from, &to] {
            if !seen.names.contains(name) {
                return Err(format!("live: `{name}` is no endpoint or host of this lab"));
            }
        }
        if tcp == 0 {
            return Err("live: tcp 0, expected a port 1 to 65535".to_owned());
        }
        Ok(Live { apply: folder.join(self.apply), from, to, tcp, verdict })
    }
}

fn check_mtu(owner: &str, mtu: u32) -> Result<(), String> {
    let (low, high) = MTU_RANGE.into_inner();
    let fits = (low..=high).contains(&mtu);
    fits.then_some(()).ok_or_else(|| format!("{owner}: mtu {mtu}, expected {low} to {high}"))
}

fn check_checks(checks: &Checks) -> Result<(), String> {
    let limits = [
        ("pings", checks.pings, COUNT_LIMIT),
        ("tcpMebibytes", checks.tcp_mebibytes, TCP_MEBIBYTES_LIMIT),
        ("udpExchanges", checks.udp_exchanges, COUNT_LIMIT),
    ];
    for (field, value, limit) in limits {
        if !(1..=limit).contains(&value) {
            return Err(format!("checks.{field}: {value}, expected 1 to {limit}"));
        }
    }
    Ok(())
}

/// Names become parts of namespace, file and resource names.
fn check_name(field: &str, name: &str) -> Result<(), String> {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let legal = !name.is_empty()
        && name.len() <= 40
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-');
    legal
        .then_some(())
        .ok_or_else(|| format!("{field} `{name}`: expected 1 to 40 lower-case letters, digits and inner dashes"))
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_')
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const BASE: &str = "
name: demo
endpoints:
  - { name: web, addresses: [10.65.0.2, 'fd65::2'], labels: { app: web } }
  - { name: client, addresses: [10.65.0.3], offload: leave }
hosts:
  - { name: far, addresses: [192.0.2.2/24], uplink: up0, nodeAddresses: [192.0.2.1/24] }
staticRoutes:
  - { destination: 0.0.0.0/0, nextHop: 192.0.2.2 }
live: { apply: deny.yaml, expect: { from: client, to: web, tcp: 8080, verdict: dropped } }
";

    fn read(text: &str) -> Result<Lab, String> {
        let written: Written = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        written.check(Path::new("/labs"))
    }

    #[test]
    fn a_whole_description() {
        let lab = read(BASE).unwrap();
        assert_eq!(lab.namespaces(), ["demo-router", "demo-web", "demo-client", "demo-far"]);
        assert_eq!(lab.endpoints[0].interface, "caliweb");
        assert_eq!((lab.endpoints[0].offload, lab.endpoints[1].offload), (Offload::Off, Offload::Leave));
        assert_ne!(lab.endpoints[0].mac, lab.endpoints[1].mac);
        assert_eq!(lab.live.as_ref().unwrap().apply, Path::new("/labs/deny.yaml"));
        assert_eq!(lab.participants().len(), 3);
    }

    #[test]
    fn faults_name_the_field() {
        let check = |from: &str, to: &str, expected: &str| {
            assert!(BASE.contains(from), "{from}");
            let message = read(&BASE.replacen(from, to, 1)).unwrap_err();
            assert!(message.contains(expected), "{message}");
        };
        check("name: demo", "name: Demo", "name `Demo`");
        check("name: demo", "name: ''", "name ``");
        check("name: web", "name: ../etc", "name `../etc`");
        check("name: web", "name: router", "given twice");
        check("10.65.0.3", "10.65.0.2", "address 10.65.0.2 is given twice");
        check("10.65.0.3", "224.0.0.1", "expected a unicast address");
        check("10.65.0.3", "10.65.0.3, 10.65.0.4", "expected one IPv4");
        check("10.65.0.3", "10.65.0.300", "10.65.0.300");
        check("uplink: up0", "uplink: caliweb", "used twice");
        check("uplink: up0", "uplink: a-very-long-name", "expected 1 to 15");
        check("offload: leave", "offload: perhaps", "perhaps");
        check("offload: leave", "mtu: 9001", "mtu 9001, expected 1280 to 9000");
        check("offload: leave", "queues: 0", "queues 0");
        check("offload: leave", "colour: red", "colour");
        check("nodeAddresses: [192.0.2.1/24]", "nodeAddresses: [10.0.0.1/24]", "same network");
        check("nextHop: 192.0.2.2", "blackhole: false", "expected nextHop, interface or blackhole");
        check("to: web", "to: nobody", "`nobody`");
        check("tcp: 8080", "tcp: 0", "tcp 0");
    }
}
