//! Interfaces and the endpoints behind them, as the stages need them.

use super::{AdjacencyIndex, EndpointIndex, HostEndpointIndex, ProgramIndex, WorkerIndex};
use crate::flow::translation::SourceIndex;
use crate::header::ethernet::Mac;

/// What is attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InterfaceKind {
    /// The host side of a workload's veth: everything that arrives is the endpoint's.
    Workload,
    /// Shared with the kernel: only what belongs to us arrives.
    Uplink,
    /// The router's own veth towards the kernel of the host.
    Host,
}

/// An attachment.
#[derive(Clone, Debug)]
pub struct Interface {
    pub kind: InterfaceKind,
    pub mac: Mac,
    /// Largest network packet that may leave.
    pub mtu: u16,
    /// VLAN tags that a frame must carry, outermost first; 0 = none.
    pub tags: [u16; 2],
    /// The worker that transmits when the sending worker has no queue of its own here.
    pub owner: WorkerIndex,
    /// The endpoint of a workload interface; NONE means: drop what arrives.
    pub endpoint: EndpointIndex,
    pub is_up: bool,
    /// What an uplink enforces towards the host; NONE: nothing, and the kernel has the host's packets.
    pub host_endpoint: HostEndpointIndex,
    /// Of an uplink: the ways on which frames pass unchanged to the host's stack, and from there.
    pub to_host: AdjacencyIndex,
    pub from_host: AdjacencyIndex,
    /// Of an uplink: what stands in place of translated sources outside, in IPv4 and in IPv6.
    pub outside: [Option<SourceIndex>; 2],
}

impl Interface {
    pub fn tag_count(&self) -> usize {
        self.tags.iter().take_while(|tag| **tag != 0).count()
    }
}

/// A host endpoint: what is enforced between an uplink and the host behind it. NONE: no policy in that list.
#[derive(Clone, Debug)]
pub struct HostEndpoint {
    /// Without state, before anything else.
    pub untracked_ingress: ProgramIndex,
    pub untracked_egress: ProgramIndex,
    /// Before it is known where a packet goes.
    pub pre_dnat: ProgramIndex,
    /// What is only forwarded.
    pub forward_ingress: ProgramIndex,
    pub forward_egress: ProgramIndex,
    /// What is for the host, and what the host sends. Always there.
    pub ingress: ProgramIndex,
    pub egress: ProgramIndex,
}

/// Ports that no policy closes to the host, so that nobody locks himself out.
#[derive(Clone, Debug, Default)]
pub struct Failsafes {
    pub inbound: Vec<Failsafe>,
    pub outbound: Vec<Failsafe>,
}

impl Failsafes {
    /// From `remote` to this port of the host.
    pub fn is_inbound(&self, protocol: u8, port: u16, remote: u128) -> bool {
        self.inbound.iter().any(|failsafe| failsafe.covers(protocol, port, remote))
    }

    /// From the host to this port of `remote`.
    pub fn is_outbound(&self, protocol: u8, port: u16, remote: u128) -> bool {
        self.outbound.iter().any(|failsafe| failsafe.covers(protocol, port, remote))
    }
}

/// A port, and who may use it: first and last address of the other side.
#[derive(Clone, Debug)]
pub struct Failsafe {
    pub protocol: u8,
    pub port: u16,
    pub remote: (u128, u128),
}

impl Failsafe {
    pub fn covers(&self, protocol: u8, port: u16, remote: u128) -> bool {
        self.protocol == protocol && self.port == port && self.remote.0 <= remote && remote <= self.remote.1
    }
}

/// Tunnels that workloads may not speak themselves, since what they say would pass for the node's word.
#[derive(Clone, Copy, Debug, Default)]
pub struct WorkloadTunnels {
    /// UDP to this port is dropped.
    pub vxlan_port: Option<u16>,
    /// IP in IP is dropped.
    pub is_ipip_denied: bool,
}

/// A workload endpoint: whose packets these are, and what it enforces.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Source prefixes the endpoint may use: (first, last) address of each, IPv4 mapped.
    pub sources: Vec<(u128, u128)>,
    pub egress: ProgramIndex,
    pub ingress: ProgramIndex,
}

impl Endpoint {
    /// True when the endpoint may send from this address.
    #[inline]
    pub fn owns(&self, address: u128) -> bool {
        self.sources.iter().any(|(first, last)| *first <= address && address <= *last)
    }
}
