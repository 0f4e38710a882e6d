//! What can be asked for, and what the service asks of control.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use config::net::{Cidr, MacAddress};
use config::resource::{IpNat, Key, QosControls, Resource, WorkloadEndpoint, WorkloadEndpointPort};
use serde::{Deserialize, Serialize};

use super::identity::Identity;

/// One order or question, as the API has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum WorkloadCall {
    /// Answered with `Attached`, when policy is in force.
    Attach(Box<Wish>),
    /// What is gone already counts as taken away. Answered with `Detached`.
    Detach(Identity),
    /// Answered with a list of `Attachment`: what this node has.
    List,
}

impl WorkloadCall {
    /// It changes something.
    pub fn is_order(&self) -> bool {
        !matches!(self, WorkloadCall::List)
    }

    /// For the log.
    pub fn word(&self) -> &'static str {
        match self {
            WorkloadCall::Attach(_) => "attach",
            WorkloadCall::Detach(_) => "detach",
            WorkloadCall::List => "list",
        }
    }
}

/// An interface that a workload shall have.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Wish {
    pub identity: Identity,
    pub place: Place,
    /// The pair is there already.
    pub is_wired: bool,
    pub addresses: Source,
    /// The kernel's choice when absent.
    pub mac: Option<MacAddress>,
    /// That of the uplinks when absent.
    pub mtu: Option<u32>,
    /// Queues of the interface; 0 is one.
    pub queues: u32,
    pub labels: BTreeMap<String, String>,
    /// When absent: one named like the network, made when there is none, that lets its own talk to each other.
    pub profiles: Option<Vec<String>>,
    pub ports: Vec<WorkloadEndpointPort>,
    /// Where to, by the gateway; everywhere when empty.
    pub routes: Vec<Cidr>,
    /// Its source is translated on the way out of the node, but not on the way to these networks.
    pub masquerade: Option<Vec<Cidr>>,
    /// The workload may forward packets (net.ipv4.ip_forward).
    pub may_forward: bool,
    pub service_account: String,
    pub allowed_sources: Vec<Cidr>,
    pub floating: Vec<IpNat>,
    pub qos: Option<Box<QosControls>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Place {
    /// A network namespace, by the path of its file.
    Namespace(PathBuf),
    /// An interface of the host that leads to the workload, such as a card or a virtual machine's.
    Interface(String),
}

impl Default for Place {
    fn default() -> Place {
        Place::Namespace(PathBuf::new())
    }
}

/// Where the workload's addresses come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Source {
    Pools(Ask),
    /// Somebody else gives them out.
    Given(Vec<IpAddr>),
}

impl Default for Source {
    fn default() -> Source {
        Source::Pools(Ask { ipv4: true, ..Ask::default() })
    }
}

/// What is asked of this cluster's pools.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Ask {
    pub ipv4: bool,
    pub ipv6: bool,
    /// These, and none of the families' own.
    pub addresses: Vec<IpAddr>,
    /// Names or CIDRs of the pools to take each family's from; one that is named for both counts for its own.
    pub ipv4_pools: Vec<String>,
    pub ipv6_pools: Vec<String>,
}

/// What has been attached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attached {
    pub namespace: String,
    /// Name of the WorkloadEndpoint.
    pub endpoint: String,
    /// Host side.
    pub interface: String,
    pub host_mac: Option<MacAddress>,
    pub mac: Option<MacAddress>,
    pub mtu: u32,
    pub addresses: Vec<IpAddr>,
    pub routes: Vec<Cidr>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Detached {
    /// What there was of it.
    pub endpoint: bool,
    pub interface: bool,
    pub addresses: usize,
}

/// One that this node has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    pub identity: Identity,
    pub endpoint: String,
    pub interface: String,
    pub addresses: Vec<IpAddr>,
}

/// What the service asks of control.
#[derive(Debug, Clone, PartialEq)]
pub enum EndpointCall {
    /// Answered with `NodeView`; refused as long as no tables are in force.
    Node,
    /// Stored, in force when answered. What has to be beside it is made only if there is none of the name. Answered with null.
    Put { endpoint: Box<WorkloadEndpoint>, companion: Option<Box<Resource>> },
    /// Only while it is that container's. Answered with whether it was.
    Delete { key: Key, container: String },
    /// The pair is there and nothing else: what that hardware address asks DHCP servers is relayed. Answered with null.
    Wired { interface: String, mac: MacAddress },
    /// Answered with `ReadyView`.
    Ready { interface: String },
    /// Answered with a list of `WorkloadEndpoint`: those of this node that were attached.
    List,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeView {
    pub node: String,
    /// What host sides are called.
    pub prefix: String,
    /// Of the uplinks.
    pub mtu: u32,
    /// Endpoints are made fit for a router in user space.
    pub prepares: bool,
    /// Whether workloads can ask DHCP servers.
    #[serde(default)]
    pub dhcp: DhcpRelay,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum DhcpRelay {
    /// There are none to ask.
    #[default]
    Off,
    On,
    /// Why not, for now.
    Broken(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadyView {
    /// Its endpoint's policy is in force.
    pub is_ready: bool,
    /// The fast path has it, with an endpoint or without.
    #[serde(default)]
    pub is_attached: bool,
    /// Why it cannot be attached, as far as is known.
    pub problems: Vec<String>,
}
