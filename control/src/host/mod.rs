//! The kernel's side of this node: interfaces, addresses, routes, neighbours, namespaces, sysctls.
//!
//! | file | what it holds |
//! |---|---|
//! | `rtnetlink.rs` | `Host`, the request socket; `Events`, the subscription; every netlink error becomes a `HostError` here |
//! | `link.rs` | interfaces, veth pairs |
//! | `address.rs` | addresses of interfaces |
//! | `route.rs` | the kernel's routes: all to read, ours to write; the kernel's own lookup |
//! | `learned_routes.rs` | the kernel's routes to learned prefixes, many at a time |
//! | `neighbour.rs` | the kernel's ARP and ND cache |
//! | `netns.rs` | named network namespaces, as `ip netns` keeps them |
//! | `peer.rs` | the namespace that an interface's other end is in |
//! | `prepare.rs` | what makes interfaces fit for a router in user space, and undoes it |
//! | `sysctl.rs` | files below /proc/sys/net |
//! | `frames.rs` | frames sent by an interface as they are |
//! | `genetlink.rs` | one blocking generic netlink exchange |
//! | `ethtool.rs` | offloads and channels of an interface |
//! | `netdev.rs` | what XDP features a driver claims |
//!
//! What is ours carries a mark the kernel keeps for us: protocol number 196 ([`PROTOCOL`]) on
//! routes (RTA_PROTOCOL), neighbours (NDA_PROTOCOL) and addresses (IFA_PROTO). Nothing here changes
//! or deletes a route without that mark; lists of "ours" are filtered by it. So a restart needs no
//! memory of what the last process did.
//!
//! Routes to learned prefixes are many, and are told apart by a number of their own, 197 ([`LEARNED`]).
//!
//! Left out on purpose: deciding anything. What should be there is `reconcile`'s business.

pub mod address;
pub mod ethtool;
pub mod frames;
pub mod genetlink;
pub mod learned_routes;
pub mod link;
pub mod neighbour;
pub mod netdev;
pub mod netns;
pub mod peer;
pub mod prepare;
pub mod route;
pub mod rtnetlink;
pub mod sysctl;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use config::net::{Cidr, MacAddress};

pub use address::InterfaceAddress;
pub use learned_routes::LearnedRoutes;
pub use link::{FarPeer, Link, VethEnd, XdpMode};
pub use neighbour::{Neighbour, NeighbourState};
pub use route::{Lookup, NextHop, Route, Target};
pub use rtnetlink::{Events, Host, HostEvent};

/// The mark on everything we add to the kernel: RTPROT_* numbers of 192 and up are free for daemons,
/// and 196 is in no list of iproute2 (rt_protos) or the kernel (include/uapi/linux/rtnetlink.h).
pub const PROTOCOL: u8 = 196;

/// The mark on routes to prefixes that BGP has learned: Felix's number is 80, BIRD's 12, and this one too is in no list.
pub const LEARNED: u8 = 197;

/// What `ip` marks routes with that a person adds (RTPROT_STATIC in linux/rtnetlink.h).
const OPERATOR: u8 = 4;

/// The kernel's number for an interface (ifindex); 0 is never a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkIndex(pub u32);

impl fmt::Display for LinkIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "link {}", self.0)
    }
}

/// The Ethernet address every host-side end of an endpoint carries: endpoints learn their gateway once
/// and for all, on any node.
pub const GATEWAY_MAC: MacAddress = MacAddress([0xee; 6]);

/// What the kernel refused, or what was asked of it wrongly. `action` is verb and object.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    #[error("open netlink socket: no tokio runtime with I/O on this thread; call inside the control thread's runtime")]
    NoRuntime,
    #[error("{action}: {source}")]
    Io {
        action: String,
        #[source]
        source: io::Error,
    },
    /// The kernel answered with an error number; `hint` is its extended acknowledgement, if any.
    #[error("{action}: {source}{}", hint.as_deref().map(|hint| format!(" (kernel says: {hint})")).unwrap_or_default())]
    Refused {
        action: String,
        #[source]
        source: io::Error,
        hint: Option<String>,
    },
    #[error("{action}: the netlink connection has ended; open the host again")]
    Closed { action: String },
    #[error("{action}: netlink answer not understood: {detail}")]
    Protocol { action: String, detail: String },
    #[error("find interface {name}: no interface of that name in this namespace")]
    NoSuchLink { name: String },
    #[error(
        "create veth pair {name}: an interface of that name exists and is of kind {kind}, not veth; remove or rename it"
    )]
    NotVeth { name: String, kind: String },
    #[error("{what} `{value}`: expected {expected}")]
    Invalid { what: &'static str, value: String, expected: &'static str },
    #[error(
        "add route to {prefix} metric {metric}: one that is not ours exists (`ip route show {prefix}`); it is left alone"
    )]
    ForeignRoute { prefix: Cidr, metric: u32 },
    #[error("open generic netlink family {name}: this kernel has none; Linux {since} or later has it")]
    NoFamily { name: &'static str, since: &'static str },
    #[error("write {} to {}: {source}", value, path.display())]
    Sysctl {
        path: PathBuf,
        value: String,
        #[source]
        source: io::Error,
    },
}

impl HostError {
    /// The kernel's error number, where the kernel refused.
    pub fn errno(&self) -> Option<i32> {
        match self {
            HostError::Refused { source, .. } | HostError::Io { source, .. } | HostError::Sysctl { source, .. } => {
                source.raw_os_error()
            }
            _ => None,
        }
    }

    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> HostError {
        let action = action.into();
        move |source| HostError::Io { action, source }
    }
}

/// AF_INET or AF_INET6 as the netlink crates spell it.
fn family_of(address: IpAddr) -> netlink_packet_route::AddressFamily {
    match address {
        IpAddr::V4(_) => netlink_packet_route::AddressFamily::Inet,
        IpAddr::V6(_) => netlink_packet_route::AddressFamily::Inet6,
    }
}

#[cfg(test)]
mod tests;
