//! The lab's namespaces and links.
//!
//! Fabric and wire are bridges in a namespace of their own. A bridge that is switched off forwards nothing and tells
//! nobody: the interfaces plugged into it stay up with their carrier, as those of a switch whose forwarding broke do.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;

use config::net::{Cidr, MacAddress};
use control::host::{VethEnd, netns};
use nix::unistd::geteuid;

use super::super::LabError;
use super::super::description::{Endpoint, Offload};
use super::super::state::State;
use super::super::up::{add_addresses, complete_checksums, connect_endpoint, found, in_host};
use super::NAME;

pub const NODES: [Member; 3] = [
    Member { name: "node1", number: 1, has_wire: true },
    Member { name: "node2", number: 2, has_wire: true },
    Member { name: "node3", number: 3, has_wire: false },
];
pub const REFLECTOR: Member = Member { name: "tor", number: 254, has_wire: false };

const MANIFESTS: &str = include_str!("manifests.yaml");

/// A router's node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    pub name: &'static str,
    /// The last octet of its addresses on fabric and wire, and the third of its block's.
    pub number: u8,
    pub has_wire: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    Fabric,
    Wire,
}

impl Switch {
    fn name(self) -> &'static str {
        match self {
            Switch::Fabric => "fabric",
            Switch::Wire => "wire",
        }
    }
}

impl Member {
    pub fn namespace(&self) -> String {
        format!("{NAME}-{}", self.name)
    }

    pub fn web_namespace(&self) -> String {
        format!("{NAME}-web{}", self.number)
    }

    pub fn web_address(&self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 65, self.number, 2))
    }

    pub fn uplinks(&self) -> &'static [&'static str] {
        if self.has_wire { &["up0", "up1"] } else { &["up0"] }
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint {
            name: format!("web{}", self.number),
            addresses: vec![self.web_address()],
            labels: BTreeMap::new(),
            interface: format!("caliweb{}", self.number),
            mac: MacAddress([2, 0, 0, 0, 0, self.number]),
            mtu: 1500,
            queues: 1,
            offload: Offload::Off,
            namespace: "default".to_owned(),
        }
    }
}

/// All routers; the reflector is the last.
pub fn members() -> impl Iterator<Item = Member> {
    NODES.into_iter().chain([REFLECTOR])
}

/// The addresses of a node's workloads.
pub fn block(number: u8) -> Cidr {
    network(Ipv4Addr::new(10, 65, number, 0), 26)
}

pub fn namespaces() -> Vec<String> {
    let routers = members().map(|member| member.namespace());
    let workloads = NODES.iter().map(Member::web_namespace);
    routers.chain(workloads).chain([switches()]).collect()
}

pub fn build(state: &State) -> Result<(), LabError> {
    if !geteuid().is_root() {
        return Err(LabError::NotRoot);
    }
    found(state, &namespaces())?;
    for switch in [Switch::Fabric, Switch::Wire] {
        in_host(&switches(), async |host| host.create_bridge(switch.name()).await)?;
        set_switch(switch, true)?;
    }
    for member in members() {
        plug(&member, "up0", Switch::Fabric, network(Ipv4Addr::new(192, 0, 2, member.number), 24))?;
        if member.has_wire {
            plug(&member, "up1", Switch::Wire, network(Ipv4Addr::new(198, 51, 100, member.number), 30))?;
        }
    }
    for node in &NODES {
        connect_endpoint(&node.namespace(), &node.web_namespace(), &node.endpoint())?;
    }
    let path = state.manifests().join("bgp.yaml");
    fs::write(&path, MANIFESTS).map_err(LabError::io(format!("write {}", path.display())))
}

/// On, or off and silent about it.
pub fn set_switch(switch: Switch, on: bool) -> Result<(), LabError> {
    in_host(&switches(), async |host| {
        let bridge = host.link(switch.name()).await?.index;
        host.set_up(bridge, on).await
    })
}

fn plug(member: &Member, uplink: &str, switch: Switch, address: Cidr) -> Result<(), LabError> {
    let port = format!("{}{}", switch.name(), member.number);
    let there = netns::open(&switches())?;
    in_host(&member.namespace(), async |host| {
        let far = VethEnd { namespace: Some(there.as_fd()), ..VethEnd::new(&port) };
        host.create_veth_pair(&VethEnd::new(uplink), &far).await?;
        let link = host.link(uplink).await?.index;
        // A wire carries whole checksums; what the node itself sends here must have them too.
        complete_checksums(link)?;
        add_addresses(host, link, &[address]).await?;
        host.set_up(link, true).await
    })?;
    in_host(&switches(), async |host| {
        let bridge = host.link(switch.name()).await?.index;
        let link = host.link(&port).await?.index;
        host.set_controller(link, bridge).await?;
        host.set_up(link, true).await
    })
}

fn switches() -> String {
    format!("{NAME}-switches")
}

/// With the host's bits; the lengths here are all legal, and one that were not would be the whole address.
fn network(address: Ipv4Addr, length: u8) -> Cidr {
    Cidr::new(address.into(), length).unwrap_or(Cidr::host(address.into()))
}

#[cfg(test)]
mod tests {
    use config::resource::Resource;

    use super::*;

    /// The manifests are text, the links are made by code: what both say must be the same.
    #[test]
    #[allow(clippy::unwrap_used)]
    fn manifests_say_what_is_built() {
        let mut nodes = Vec::new();
        let mut endpoints = Vec::new();
        let mut blocks = Vec::new();
        for resource in config::yaml::parse("bgp.yaml", MANIFESTS).unwrap() {
            match resource {
                Resource::Node(node) => nodes.push((node.metadata.name, node.spec.bgp.unwrap().ipv4_address.unwrap())),
                Resource::WorkloadEndpoint(endpoint) => {
                    let spec = endpoint.spec;
                    endpoints.push((spec.node, spec.interface_name, spec.mac.unwrap(), spec.ip_networks));
                }
                Resource::BlockAffinity(block) => blocks.push((block.spec.node, block.spec.cidr)),
                _ => {}
            }
        }
        let on_fabric = |member: Member| network(Ipv4Addr::new(192, 0, 2, member.number), 24);
        assert_eq!(nodes, members().map(|member| (member.name.to_owned(), on_fabric(member))).collect::<Vec<_>>());
        let node = |node: &Member| node.name.to_owned();
        let of_node = |member: &Member| {
            let Endpoint { interface, mac, .. } = member.endpoint();
            (node(member), interface, mac, vec![Cidr::host(member.web_address())])
        };
        assert_eq!(endpoints, NODES.iter().map(of_node).collect::<Vec<_>>());
        assert_eq!(blocks, NODES.iter().map(|member| (node(member), block(member.number))).collect::<Vec<_>>());
    }
}
