//! What workers only read: built whole by control, published, never edited; but for IPv4 routes and members of sets, which
//! change in place, one store at a time.
//!
//! | file | what it answers |
//! |---|---|
//! | `routes.rs` | destination → adjacency: `dir24.rs` for IPv4, painted from `prefixes.rs`, `ipv6.rs` over `interval.rs` and `overlay.rs` for IPv6 |
//! | `lpm.rs` | the same in its obvious form |
//! | `adjacency.rs` | adjacency → interface and complete rewrite |
//! | `group.rs` | group × flow → adjacency, where a route has several |
//! | `interface.rs` | interface → what may come in, whose it is; endpoint → addresses and policy |
//! | `translation.rs` | source × destination → whether the source is translated, and to which ports |
//! | `acl.rs` | program × packet → allow or deny, and by which rule |
//!
//! `Tables` is the one root. A worker takes it once a breath, so no packet sees half of a change.

pub mod acl;
pub mod adjacency;
pub mod dir24;
pub mod group;
pub mod interface;
pub mod interval;
pub mod ipv6;
pub mod lpm;
pub mod overlay;
mod prefixes;
pub mod routes;
#[cfg(test)]
mod test_routes;
pub mod translation;

use acl::Acl;
use adjacency::{Adjacency, AdjacencyKind};
use group::Groups;
use interface::{Endpoint, Failsafes, HostEndpoint, Interface, WorkloadTunnels};
use routes::{Destination, Routes};
use translation::Translations;

macro_rules! index {
    ($(#[doc = $doc:literal])+ $name:ident($inner:ty)) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
        pub struct $name(pub $inner);
        impl $name {
            /// Stands for "none"; never a valid position.
            pub const NONE: Self = Self(<$inner>::MAX);
            pub const fn index(self) -> usize {
                self.0 as usize
            }
            pub fn is_none(self) -> bool {
                self == Self::NONE
            }
        }
    };
}

index! {
    /// An attachment. Not reused before every flow that names it is gone.
    InterfaceIndex(u16)
}
index! {
    /// A way out: position in [`Tables::adjacencies`], and the same way in every snapshot until nothing refers to it.
    AdjacencyIndex(u32)
}
index! {
    /// Next hops to choose from: position in [`Groups::groups`].
    GroupIndex(u32)
}
index! {
    /// A workload endpoint: position in [`Tables::endpoints`].
    EndpointIndex(u32)
}
index! {
    /// A host endpoint: position in [`Tables::host_endpoints`].
    HostEndpointIndex(u16)
}
index! {
    /// A rule, or a default that decides like one. Control keeps the names; the number outlives a snapshot.
    RuleIndex(u32)
}
index! {
    /// What one endpoint enforces in one direction.
    ProgramIndex(u32)
}
index! {
    /// A worker.
    WorkerIndex(u16)
}

/// What happens to an open flow when policy changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PolicyChange {
    /// It keeps its verdict, as in Calico.
    #[default]
    Preserve,
    /// Its next packet is judged again.
    Reevaluate,
}

/// Addresses the router itself answers with.
#[derive(Clone, Copy, Debug, Default)]
pub struct RouterAddresses {
    /// The node's own address, source of ICMP errors; the gateway stands in when there is none.
    pub node_ipv4: Option<u32>,
    pub node_ipv6: Option<u128>,
}

/// 169.254.1.1, the gateway of every endpoint.
pub const GATEWAY_IPV4: u32 = 0xa9fe_0101;
/// fe80::ecee:eeff:feee:eeee, the link-local address that goes with `ee:ee:ee:ee:ee:ee`.
pub const GATEWAY_IPV6: u128 = 0xfe80_0000_0000_0000_ecee_eeff_feee_eeee;

/// Everything a worker looks up in, as one immutable whole.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    /// Grows with every publication.
    pub generation: u32,
    pub interfaces: Vec<Option<Interface>>,
    pub endpoints: Vec<Endpoint>,
    pub host_endpoints: Vec<HostEndpoint>,
    /// Uplinks by the kernel's number, for frames that the host's stack sends by them.
    pub uplinks: Vec<(u32, InterfaceIndex)>,
    pub failsafes: Failsafes,
    pub workload_tunnels: WorkloadTunnels,
    pub adjacencies: Vec<Adjacency>,
    pub groups: Groups,
    pub routes: Routes,
    pub policy: Acl,
    pub translations: Translations,
    pub addresses: RouterAddresses,
    pub policy_change: PolicyChange,
    /// Endpoint → own host is allowed.
    pub endpoint_to_host: bool,
    /// Control relays what workloads ask DHCP servers.
    pub relays_dhcp: bool,
}

impl Tables {
    pub fn interface(&self, index: InterfaceIndex) -> Option<&Interface> {
        self.interfaces.get(index.index())?.as_ref()
    }

    pub fn adjacency(&self, index: AdjacencyIndex) -> Option<&Adjacency> {
        self.adjacencies.get(index.index())
    }

    /// The endpoint behind an interface.
    pub fn endpoint_of(&self, interface: &Interface) -> Option<&Endpoint> {
        self.endpoints.get(interface.endpoint.index())
    }

    /// What the interface enforces towards the host.
    pub fn host_endpoint_of(&self, interface: &Interface) -> Option<&HostEndpoint> {
        self.host_endpoints.get(interface.host_endpoint.index())
    }

    /// The uplink with this number of the kernel's.
    pub fn uplink(&self, link: u32) -> Option<InterfaceIndex> {
        self.uplinks.iter().find(|(number, _)| *number == link).map(|(_, index)| *index)
    }

    /// True for an address of the host itself.
    pub fn is_own(&self, address: u128) -> bool {
        let is_ipv4 = address >> 32 == crate::flow::MAPPED_PREFIX >> 32;
        self.adjacency(self.route(address, is_ipv4)).is_some_and(|adjacency| adjacency.kind == AdjacencyKind::Host)
    }

    /// Longest prefix match in the family of the (possibly mapped) address.
    #[inline]
    pub fn route(&self, address: u128, is_ipv4: bool) -> AdjacencyIndex {
        self.routes.lookup(Destination { address, is_ipv4 })
    }

    /// What a flow remembers of what it was decided under. To be read once in a breath, before the first lookup: who reads
    /// it again later sees the same only if nothing has changed meanwhile.
    ///
    /// Both parts only grow, and control counts them up in turn, so no two states of the tables have one stamp, but for a
    /// breath on an old snapshot that sees the IPv4 routes of the next: what it remembers has the stamp of a moment
    /// before those routes were complete, which has passed when a change is reported done.
    pub fn stamp(&self) -> u32 {
        self.generation.wrapping_add(self.routes.edition())
    }
}
