//! The DHCP relay as shown.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// The DHCP relay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DhcpView {
    pub servers: Vec<Ipv4Addr>,
    /// To which servers answer; none: the node has none, and nothing is relayed.
    pub own_address: Option<Ipv4Addr>,
    /// What workloads asked and servers answered, passed on.
    pub requests: u64,
    pub replies: u64,
    pub refused: Vec<DhcpRefusedView>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DhcpRefusedView {
    pub reason: String,
    pub packets: u64,
}
