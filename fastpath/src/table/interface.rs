//! Interfaces and the endpoints behind them, as the stages need them.

use super::{EndpointIndex, ProgramIndex, WorkerIndex};
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
}

impl Interface {
    pub fn tag_count(&self) -> usize {
        self.tags.iter().take_while(|tag| **tag != 0).count()
    }
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
