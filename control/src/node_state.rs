//! What this node should be: the only output of every calculation above it.
//!
//! No selector or label is left to resolve: sets are lists of members, rules refer to sets by name, endpoints have the names of
//! the blocks they enforce. `Changes` says how a state differs from the one that was last looked at, so that whoever
//! follows need not compare a hundred thousand members.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use config::net::{Cidr, IpVersion, MacAddress, PortRange};
use config::resource::{Action, Key, PolicyType};
use fastpath::stage::lists::List;

use crate::felix::FelixSettings;
use crate::translation::SourceTranslation;

/// The desired state of one node.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NodeState {
    pub endpoints: Vec<EndpointState>,
    pub host_endpoints: Vec<HostEndpointState>,
    /// What the rules in `blocks` refer to.
    pub sets: BTreeMap<SetName, SetMembers>,
    /// One policy in one direction each, of those that some endpoint enforces.
    pub blocks: BTreeMap<BlockName, Arc<[ResolvedRule]>>,
    pub static_routes: Vec<RouteState>,
    /// Prefixes of enabled pools: what is in them and has no route goes nowhere.
    pub pools: Vec<Cidr>,
    /// Whose source is another outside.
    pub translated: SourceTranslation,
    /// Interfaces of endpoints that may not be used: they carry nothing.
    pub closed_interfaces: Vec<String>,
    /// The node's own addresses, by its Node resource.
    pub node_addresses: Vec<IpAddr>,
    /// What holds for the whole node.
    pub felix: FelixSettings,
    /// What could not be done as asked, one sentence each.
    pub problems: Vec<String>,
}

/// How a state differs from the one before.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Changes {
    /// Members that came (true) or went.
    pub sets: BTreeMap<SetName, BTreeMap<Member, bool>>,
    /// Blocks that came, went or have other rules.
    pub blocks: BTreeSet<BlockName>,
    /// Anything else.
    pub other: bool,
}

impl Changes {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What is selected, and what it is called by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetName(Arc<str>);

impl SetName {
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }
}

impl fmt::Display for SetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Members, each with how many endpoints, network sets or slices bring it.
pub type SetMembers = BTreeMap<Member, u32>;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Member {
    Net(Cidr),
    /// Address, protocol and number.
    Port(IpAddr, u8, u16),
}

/// The rules of one policy or profile in one direction: `NetworkPolicy shop/web ingress`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockName(Arc<str>);

impl BlockName {
    pub fn new(owner: impl fmt::Display, direction: PolicyType) -> Self {
        Self(format!("{owner} {}", direction.word()).into())
    }
}

impl fmt::Display for BlockName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A workload endpoint of this node.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointState {
    pub key: Key,
    pub interface: String,
    pub mac: Option<MacAddress>,
    pub addresses: Vec<Cidr>,
    /// Sources it may use beside its own addresses.
    pub spoofed: Vec<Cidr>,
    pub egress: Arc<Program>,
    pub ingress: Arc<Program>,
}

/// A host endpoint of this node, and what is enforced on its interface.
#[derive(Debug, Clone, PartialEq)]
pub struct HostEndpointState {
    pub key: Key,
    /// A name, or `*` for every interface without a host endpoint of its own; blank when it is found by an address.
    pub interface: String,
    pub expected_addresses: Vec<IpAddr>,
    pub untracked_ingress: Option<Arc<Program>>,
    pub untracked_egress: Option<Arc<Program>>,
    pub pre_dnat: Option<Arc<Program>>,
    pub forward_ingress: Option<Arc<Program>>,
    pub forward_egress: Option<Arc<Program>>,
    pub ingress: Arc<Program>,
    pub egress: Arc<Program>,
}

impl HostEndpointState {
    /// None: the endpoint has no such list.
    pub fn program(&self, list: List) -> Option<&Program> {
        match list {
            List::UntrackedIngress => self.untracked_ingress.as_deref(),
            List::UntrackedEgress => self.untracked_egress.as_deref(),
            List::PreDnat => self.pre_dnat.as_deref(),
            List::ForwardIngress => self.forward_ingress.as_deref(),
            List::ForwardEgress => self.forward_egress.as_deref(),
            List::HostIngress => Some(&self.ingress),
            List::HostEgress => Some(&self.egress),
            List::WorkloadIngress | List::WorkloadEgress => None,
        }
    }
}

/// A rule without names.
#[derive(Debug, Clone, PartialEq)]
pub struct ResolvedRule {
    /// How people find it: kind, namespace, name, direction, position.
    pub name: String,
    pub action: Action,
    pub ip_version: Option<IpVersion>,
    pub protocol: Option<u8>,
    pub not_protocol: Option<u8>,
    /// Type, and possibly code.
    pub icmp: Option<(u8, Option<u8>)>,
    pub not_icmp: Option<(u8, Option<u8>)>,
    pub source: ResolvedSide,
    pub destination: ResolvedSide,
}

/// One side of a rule. Empty positive lists do not constrain.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ResolvedSide {
    pub nets: Vec<Cidr>,
    pub not_nets: Vec<Cidr>,
    /// In all of these.
    pub sets: Vec<SetName>,
    pub not_sets: Vec<SetName>,
    /// In one of these, or of `named_ports`.
    pub ports: Vec<PortRange>,
    pub named_ports: Vec<SetName>,
    pub not_ports: Vec<PortRange>,
    pub not_named_ports: Vec<SetName>,
    /// Address and port in all of these.
    pub services: Vec<SetName>,
}

/// What an endpoint enforces in one direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    pub tiers: Vec<TierProgram>,
    pub profiles: Vec<BlockName>,
    pub end: ProgramEnd,
}

impl Program {
    /// Denies everything.
    pub fn closed() -> Self {
        let end = ProgramEnd::Deny("no program: default deny".to_owned());
        Self { tiers: Vec::new(), profiles: Vec::new(), end }
    }

    /// Every block, as often as it is named.
    pub fn blocks(&self) -> impl Iterator<Item = &BlockName> {
        self.tiers.iter().flat_map(|tier| &tier.blocks).chain(&self.profiles)
    }
}

/// What happens when nothing in a program decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProgramEnd {
    /// Who denies.
    Deny(String),
    /// The packet goes on.
    Undecided,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TierProgram {
    /// In order.
    pub blocks: Vec<BlockName>,
    /// Who denies at the end of the tier; none when the tier passes.
    pub end: Option<String>,
}

/// A route asked for by a resource.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteState {
    pub name: String,
    pub destination: Cidr,
    pub target: RouteTarget,
}

#[derive(Debug, Clone, PartialEq)]
pub enum RouteTarget {
    NextHop {
        address: IpAddr,
        interface: Option<String>,
    },
    /// Every destination is a neighbour on the interface.
    Interface(String),
    Blackhole,
}
