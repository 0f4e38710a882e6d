//! What this node should be: the only output of every calculation above it.
//!
//! No selector, label or policy name is left to resolve: sets are lists of prefixes, rules refer to sets by position,
//! endpoints to programs by position. Names remain where people will want to read them.

use std::net::IpAddr;

use config::net::{Cidr, IpVersion, MacAddress, PortRange};
use config::resource::{Action, Key};

/// The desired state of one node.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NodeState {
    pub endpoints: Vec<EndpointState>,
    /// What selectors select: prefixes in order, without duplicates.
    pub sets: Vec<Vec<Cidr>>,
    /// One policy in one direction each.
    pub blocks: Vec<Block>,
    /// What endpoints enforce; shared by endpoints that enforce the same.
    pub programs: Vec<Program>,
    pub static_routes: Vec<RouteState>,
    /// Prefixes of enabled pools: what is in them and has no route goes nowhere.
    pub pools: Vec<Cidr>,
    /// Interfaces that host endpoints of this node name.
    pub host_interfaces: Vec<String>,
    /// The node's own addresses, by its Node resource.
    pub node_addresses: Vec<IpAddr>,
    /// What could not be done as asked, one sentence each.
    pub problems: Vec<String>,
}

/// A workload endpoint of this node.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointState {
    pub key: Key,
    pub interface: String,
    pub mac: Option<MacAddress>,
    pub addresses: Vec<Cidr>,
    /// Positions in [`NodeState::programs`].
    pub egress: usize,
    pub ingress: usize,
}

/// The rules of one policy in one direction.
#[derive(Debug, Clone, PartialEq)]
pub struct Block {
    pub rules: Vec<ResolvedRule>,
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
    /// Positions in [`NodeState::sets`].
    pub sets: Vec<usize>,
    pub not_sets: Vec<usize>,
    pub ports: Vec<PortRange>,
    pub not_ports: Vec<PortRange>,
}

/// What an endpoint enforces in one direction.
#[derive(Debug, Clone, PartialEq)]
pub struct Program {
    pub tiers: Vec<TierProgram>,
    /// Positions in [`NodeState::blocks`].
    pub profiles: Vec<usize>,
    /// Who denies when nothing decided.
    pub no_match: String,
}

#[derive(Debug, Clone, PartialEq)]
pub struct TierProgram {
    /// Positions in [`NodeState::blocks`], in order.
    pub blocks: Vec<usize>,
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
