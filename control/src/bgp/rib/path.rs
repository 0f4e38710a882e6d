//! One path to a prefix: who said it, what was said, and what stands against it.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use super::super::attribute::Attributes;
use super::super::speaker_state::LocalRouteKind;

/// Who a path is from: position in the speaker's list of peers. Given again only when no path of its last owner is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerIndex(pub u16);

impl PeerIndex {
    /// This node itself.
    pub const LOCAL: PeerIndex = PeerIndex(u16::MAX);

    pub fn is_local(self) -> bool {
        self == Self::LOCAL
    }
}

/// A path to a prefix.
#[derive(Debug, Clone)]
pub struct Path {
    pub peer: PeerIndex,
    /// Our own number for it among the paths of its prefix, from 1; told to peers that take several (RFC 7911).
    pub number: u16,
    /// The peer's number for it; 0 where its paths have none. A local path has its kind here.
    pub path_id: u32,
    pub stale: Stale,
    pub rejected: Option<Rejected>,
    /// Goes before the routes of this node: better than one that has nothing special.
    pub beats_local: bool,
    /// After import rules, with those that it had before if they changed them; as received, where they rejected it.
    pub attributes: Arc<Attributes>,
}

// There is one for each prefix that each peer tells.
const _: () = assert!(size_of::<Path>() <= 24);

/// Whether whoever said it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stale {
    No,
    /// The peer restarts. RFC 4724.
    Graceful,
    /// For long: a route of last resort. RFC 9494 §4.3.
    LongLived,
}

/// Why a path was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rejected {
    /// Our own AS number stands in the path more often than is allowed. RFC 4271 §9.1.2.
    OwnAs,
    /// We began the route. RFC 4456 §8.
    OwnOriginator,
    /// It went through our cluster. RFC 4456 §8.
    OwnCluster,
    /// The next hop is an address of ours.
    OwnNextHop,
    /// It went the wrong way between systems. RFC 9234 §5.
    RouteLeak,
    /// The first system of the path is not the peer. RFC 4271 §6.3.
    FirstAs,
    /// By import rules, which can be asked again for the reason.
    Rules,
}

impl Rejected {
    pub fn reason(self) -> &'static str {
        match self {
            Rejected::OwnAs => "our own AS number is in the path",
            Rejected::OwnOriginator => "we are its originator",
            Rejected::OwnCluster => "it went through our cluster",
            Rejected::OwnNextHop => "its next hop is an address of this node",
            Rejected::RouteLeak => "a route leak: it went to a customer or peer before (OTC)",
            Rejected::FirstAs => "its path does not begin with the peer's AS number",
            Rejected::Rules => "rejected by import rules",
        }
    }
}

/// What the decision has to know about a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerFacts {
    pub address: IpAddr,
    pub router_id: Ipv4Addr,
    /// In our own system.
    pub internal: bool,
}

impl Path {
    /// Path ids of local routes tell their kinds apart.
    pub fn local_id(kind: LocalRouteKind) -> u32 {
        match kind {
            LocalRouteKind::Endpoint => 1,
            LocalRouteKind::Block => 2,
            LocalRouteKind::Service => 3,
            LocalRouteKind::Static => 4,
            LocalRouteKind::Kernel => 5,
        }
    }

    /// As the peer said it.
    pub fn received(&self) -> &Arc<Attributes> {
        self.attributes.received.as_ref().unwrap_or(&self.attributes)
    }

    /// The kind of a local route.
    pub fn local_kind(&self) -> Option<LocalRouteKind> {
        let kinds = [
            LocalRouteKind::Endpoint,
            LocalRouteKind::Block,
            LocalRouteKind::Service,
            LocalRouteKind::Static,
            LocalRouteKind::Kernel,
        ];
        kinds.into_iter().find(|kind| self.peer.is_local() && Path::local_id(*kind) == self.path_id)
    }
}
