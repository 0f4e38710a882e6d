//! Where packets go.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::NeighbourState;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RouteKind {
    LocalEndpoint,
    NextHop,
    Blackhole,
    /// The kernel's own address: the packet is punted to the host.
    Host,
    /// By BGP.
    Learned,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteView {
    pub prefix: String,
    pub kind: RouteKind,
    pub next_hop: Option<IpAddr>,
    pub interface: Option<String>,
    /// State of the adjacency behind the route; none for a black hole.
    pub adjacency: Option<NeighbourState>,
    pub mac: Option<String>,
}
