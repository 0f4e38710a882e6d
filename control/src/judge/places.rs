//! Who is where: endpoints, interfaces and addresses by what people call them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use config::net::Cidr;
use config::resource::{ALL_INTERFACES, Key, Kind, Resource, WorkloadEndpoint};

use super::node::uplink_of;
use crate::resources::Resources;

/// What is behind an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Behind {
    Workload(Key),
    Uplink(String),
}

/// The places of all nodes.
#[derive(Debug, Default)]
pub struct Places {
    /// Endpoints by the addresses that are theirs alone.
    owners: HashMap<IpAddr, Key>,
    /// The few that own more than single addresses.
    prefixes: Vec<(Cidr, Key)>,
    /// Each by its name, and by the name of its pod. Those of hosts have no slash in their name.
    named: HashMap<String, Key>,
    /// By interface name: node and endpoint.
    interfaces: HashMap<String, Vec<(String, Key)>>,
    /// The node of each workload endpoint.
    nodes: HashMap<Key, String>,
    hosts: BTreeMap<String, Host>,
}

/// A node with host endpoints, or with addresses of its own.
#[derive(Debug, Default)]
struct Host {
    /// Uplink and expected addresses of each host endpoint.
    endpoints: Vec<(Key, String, Vec<IpAddr>)>,
    addresses: BTreeSet<IpAddr>,
}

impl Places {
    pub fn of(resources: &Resources) -> Self {
        let mut places = Self::default();
        for endpoint in resources.workload_endpoints() {
            places.add_workload(endpoint);
        }
        for key in resources.workload_endpoints().map(key_of) {
            let namespace = key.namespace.as_deref().unwrap_or_default();
            places.named.insert(format!("{namespace}/{}", key.name), key);
        }
        for endpoint in resources.host_endpoints() {
            let (name, spec) = (&endpoint.metadata.name, &endpoint.spec);
            let key = Key::cluster(Kind::HostEndpoint, name);
            places.named.insert(name.clone(), key.clone());
            let host = places.hosts.entry(spec.node.clone()).or_default();
            host.addresses.extend(&spec.expected_ips);
            let uplink = uplink_of(&spec.interface_name, name);
            host.endpoints.push((key, uplink, spec.expected_ips.clone()));
        }
        for node in resources.nodes() {
            let own = crate::policy::local::node_addresses(resources, &node.metadata.name);
            places.hosts.entry(node.metadata.name.clone()).or_default().addresses.extend(own);
        }
        places
    }

    fn add_workload(&mut self, endpoint: &WorkloadEndpoint) {
        let key = key_of(endpoint);
        let namespace = key.namespace.clone().unwrap_or_default();
        for network in &endpoint.spec.ip_networks {
            match network.is_host() {
                true => drop(self.owners.entry(network.address()).or_insert_with(|| key.clone())),
                false => self.prefixes.push((*network, key.clone())),
            }
        }
        let on_interface = self.interfaces.entry(endpoint.spec.interface_name.clone()).or_default();
        on_interface.push((endpoint.spec.node.clone(), key.clone()));
        for name in [&endpoint.spec.pod, &endpoint.spec.workload].into_iter().filter(|name| !name.is_empty()) {
            self.named.entry(format!("{namespace}/{name}")).or_insert_with(|| key.clone());
        }
        self.nodes.insert(key, endpoint.spec.node.clone());
    }

    /// The endpoint called `namespace/name` or `namespace/pod`, or the host endpoint of that name.
    pub fn endpoint(&self, name: &str) -> Result<Key, String> {
        let expected = "namespace/name of a WorkloadEndpoint, namespace/pod, or the name of a HostEndpoint";
        self.named.get(name).cloned().ok_or_else(|| format!("endpoint: found \"{name}\", expected {expected}"))
    }

    /// What is behind an interface, of one node or of all: the node and the endpoint or uplink. An interface that nobody
    /// names is that of a node whose host endpoint has all of them.
    pub fn on_interface(&self, name: &str, node: Option<&str>) -> Result<(String, Behind), String> {
        let known = self.interfaces.get(name).into_iter().flatten();
        let workloads = known.map(|(node, key)| (node.as_str(), Behind::Workload(key.clone())));
        let named = self.uplinks(|uplink| uplink == name);
        let mut found: Vec<(&str, Behind)> = workloads.chain(named).collect();
        found.retain(|(on, _)| node.is_none_or(|node| *on == node));
        if found.is_empty() {
            found.extend(self.uplinks(|uplink| uplink == ALL_INTERFACES));
            found.retain(|(on, _)| node.is_none_or(|node| *on == node));
        }
        let Some((first, behind)) = found.first() else {
            let expected = "the interface of a WorkloadEndpoint or of a HostEndpoint";
            return Err(format!("interface: found \"{name}\", expected {expected}"));
        };
        match found.iter().find(|(other, _)| other != first) {
            Some((other, _)) => Err(format!(
                "interface: found \"{name}\" on the nodes {first} and {other}, expected one; say which with --node"
            )),
            // Should two on one node claim it, the other one's problem names this one.
            None => Ok(((*first).to_owned(), behind.clone())),
        }
    }

    fn uplinks(&self, is_wanted: impl Fn(&str) -> bool) -> impl Iterator<Item = (&str, Behind)> {
        self.hosts.iter().flat_map(move |(node, host)| {
            let wanted: Vec<(&str, Behind)> = host
                .endpoints
                .iter()
                .filter(|(_, uplink, _)| is_wanted(uplink) && !self.is_workloads(node, uplink))
                .map(|(_, uplink, _)| (node.as_str(), Behind::Uplink(uplink.clone())))
                .collect();
            wanted
        })
    }

    /// What a host endpoint names may be the interface of a workload, and is no uplink then.
    fn is_workloads(&self, node: &str, interface: &str) -> bool {
        self.interfaces.get(interface).is_some_and(|known| known.iter().any(|(on, _)| on == node))
    }

    /// Node and uplink of a host endpoint.
    pub fn uplink_of(&self, host_endpoint: &Key) -> Option<(&str, &str)> {
        self.hosts.iter().find_map(|(node, host)| {
            let (_, uplink, _) = host.endpoints.iter().find(|(key, ..)| key == host_endpoint)?;
            Some((node.as_str(), uplink.as_str()))
        })
    }

    /// The workload endpoint that an address belongs to.
    pub fn owner(&self, address: IpAddr) -> Option<&Key> {
        let covering = || self.prefixes.iter().filter(|(prefix, _)| prefix.contains(address));
        let by_prefix = || covering().max_by_key(|(prefix, _)| prefix.length()).map(|(_, key)| key);
        self.owners.get(&address).or_else(by_prefix)
    }

    /// The node a workload endpoint is on.
    pub fn node_of(&self, endpoint: &Key) -> Option<&str> {
        self.nodes.get(endpoint).map(String::as_str)
    }

    /// The node whose host has the address.
    pub fn host_of(&self, address: IpAddr) -> Option<&str> {
        let mut hosts = self.hosts.iter();
        hosts.find(|(_, host)| host.addresses.contains(&address)).map(|(node, _)| node.as_str())
    }

    pub fn has_host_endpoints(&self, node: &str) -> bool {
        self.hosts.get(node).is_some_and(|host| !host.endpoints.is_empty())
    }

    /// The uplinks by which the host's packets of this address travel, as far as host endpoints know: those with the address,
    /// or else all of the node.
    pub fn uplinks_for(&self, node: &str, own: Option<IpAddr>) -> BTreeSet<&str> {
        let of_node = || self.hosts.get(node).into_iter().flat_map(|host| &host.endpoints);
        let endpoints = || of_node().filter(|(_, uplink, _)| !self.is_workloads(node, uplink));
        let with_address = endpoints().filter(|(_, _, expected)| own.is_some_and(|own| expected.contains(&own)));
        let names: BTreeSet<&str> = with_address.map(|(_, uplink, _)| uplink.as_str()).collect();
        match names.is_empty() {
            true => endpoints().map(|(_, uplink, _)| uplink.as_str()).collect(),
            false => names,
        }
    }
}

fn key_of(endpoint: &WorkloadEndpoint) -> Key {
    let namespace = endpoint.metadata.namespace.clone().unwrap_or_default();
    Key::namespaced(Kind::WorkloadEndpoint, namespace, &endpoint.metadata.name)
}

/// An endpoint whose interface is not said gets one of its own: it is about to be asked, not attached.
pub fn with_interfaces(resources: Resources) -> Resources {
    let unnamed: Vec<WorkloadEndpoint> =
        resources.workload_endpoints().filter(|endpoint| endpoint.spec.interface_name.is_empty()).cloned().collect();
    let mut resources = resources;
    for (number, mut endpoint) in unnamed.into_iter().enumerate() {
        endpoint.spec.interface_name = format!("unnamed-{number}");
        resources.put(Resource::WorkloadEndpoint(endpoint));
    }
    resources
}
