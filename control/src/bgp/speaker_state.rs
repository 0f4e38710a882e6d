//! What the speaker of this node should be: its sessions, what it tells and takes, and its own routes. No selector, node name or
//! filter name is left to resolve.
//!
//! Worked out from the resources by `desired`; taken in by the speaker, which changes only the sessions that differ.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use config::net::{Cidr, IpVersion};

use super::message::Role;
use super::rules::{ExportRules, ImportRules};

/// The port of BGP.
pub const BGP_PORT: u16 = 179;

/// What one node should say and listen to.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SpeakerState {
    /// None: this node does not speak BGP; it has no address, or nobody to talk to.
    pub identity: Option<Identity>,
    /// By address and port of the other side: one session each.
    pub peers: BTreeMap<PeerKey, PeerState>,
    /// Routes of this node that may be told: blocks, endpoints outside of them, services.
    pub routes: BTreeMap<Cidr, LocalRoute>,
    /// Peers, and the gateway that each is reached by: a host route to have before the session.
    pub gateways: BTreeMap<IpAddr, IpAddr>,
    /// What could not be done as asked, one sentence each.
    pub problems: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub as_number: u32,
    pub router_id: Ipv4Addr,
    pub listen_port: u16,
    /// Empty: all addresses.
    pub listen_addresses: Vec<IpAddr>,
    /// This node reflects routes.
    pub cluster_id: Option<Ipv4Addr>,
    /// The node's own addresses: next hops of what it tells, and never of what it takes.
    pub addresses: Vec<IpAddr>,
}

/// Who is at the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerKey {
    pub address: IpAddr,
    pub port: u16,
}

impl fmt::Display for PeerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.port, self.address) {
            (BGP_PORT, address) => write!(f, "{address}"),
            (port, IpAddr::V4(address)) => write!(f, "{address}:{port}"),
            (port, IpAddr::V6(address)) => write!(f, "[{address}]:{port}"),
        }
    }
}

/// A session as it should be.
#[derive(Debug, Clone, PartialEq)]
pub struct PeerState {
    /// As Calico names its protocols: `Mesh_10_0_0_2`, `Global_…`, `Node_…`, `Local_Workload_…`.
    pub name: String,
    /// Why there is this session: `node-to-node mesh`, or `BGPPeer rack-7`.
    pub origin: String,
    pub kind: PeerKind,
    /// What makes the session; changing any of it means a new session.
    pub transport: Transport,
    /// What may change while the session is up.
    pub terms: Terms,
}

/// As `calicoctl node status` and CalicoNodeStatus tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PeerKind {
    NodeMesh,
    Global,
    Node,
    LocalWorkload,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transport {
    /// The node's address that the session is from; none: the kernel chooses.
    pub local_address: Option<IpAddr>,
    pub local_as: u32,
    pub remote_as: u32,
    /// Waits for the other side to connect.
    pub passive: bool,
    pub password: Option<Password>,
    /// GTSM: the peer is at most so many hops away (RFC 5082). None: any distance.
    pub ttl_security: Option<u8>,
    pub hold_time: Duration,
    /// None: a third of the hold time that was agreed on.
    pub keepalive_time: Option<Duration>,
    /// Families that are offered. Never empty.
    pub families: Vec<IpVersion>,
    /// Offered in both directions.
    pub add_path: bool,
    pub restart: Restart,
    pub role: Option<Role>,
    /// Bidirectional forwarding detection watches the session.
    pub bfd: Option<BfdState>,
}

/// A shared secret for TCP-MD5 (RFC 2385). Never shown.
#[derive(Clone, PartialEq, Eq)]
pub enum Password {
    Known(Arc<str>),
    /// The secret is not there: the session has to wait. The text says which.
    Missing(String),
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Password::Known(_) => f.write_str("Known(…)"),
            Password::Missing(what) => write!(f, "Missing({what})"),
        }
    }
}

/// Graceful restart, both roles. RFC 4724, RFC 9494.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restart {
    /// How long the other side is asked to keep our routes; zero: graceful restart is not offered.
    pub restart_time: Duration,
    /// Long-lived: after that, as routes of last resort. Zero: not offered.
    pub long_lived_time: Duration,
}

/// RFC 5880.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BfdState {
    pub min_rx: Duration,
    pub min_tx: Duration,
    pub multiplier: u8,
    /// Over several hops, where a packet may come with any TTL (RFC 5883). A single hop asks for 255.
    pub multihop: bool,
}

/// By default everything is taken and told, with nothing special.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Terms {
    /// The peer is our client: what others in our system say is passed on to it, and the other way round (RFC 4456).
    pub reflector_client: bool,
    pub cluster_id: Option<Ipv4Addr>,
    pub next_hop: NextHopMode,
    /// How often our own number may stand in a path.
    pub allow_own_as: u32,
    /// Prefixes taken from the peer, per family; more end the session.
    pub max_prefixes: MaxPrefixes,
    pub import: Arc<ImportRules>,
    pub export: Arc<ExportRules>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxPrefixes {
    pub count: u32,
    /// Tried again after that; none: stays down until it is enabled by hand.
    pub restart_after: Option<Duration>,
}

impl Default for MaxPrefixes {
    /// Nobody's memory is without end, and nobody tells twice the public network but by mistake.
    fn default() -> Self {
        Self { count: 2_000_000, restart_after: Some(Duration::from_secs(15 * 60)) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum NextHopMode {
    #[default]
    /// Ours towards other systems, and for routes of our own; unchanged inside the system.
    Auto,
    Itself,
    Keep,
}

/// A route that this node can tell.
#[derive(Debug, Clone, PartialEq)]
pub struct LocalRoute {
    pub kind: LocalRouteKind,
    /// As in the kernel; lower is better. Told to others in our system as a local preference of 2147483647 - metric.
    pub metric: u32,
    /// The interface of an endpoint.
    pub interface: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LocalRouteKind {
    /// A block of addresses of this node, told as one.
    Block,
    /// An address of an endpoint.
    Endpoint,
    /// An address or range of services.
    Service,
    /// By hand: a StaticRoute.
    Static,
    /// Of the kernel's own table, by others.
    Kernel,
}
