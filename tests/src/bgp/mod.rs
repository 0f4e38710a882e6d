//! Neighbours that are not ours: BIRD 2 and GoBGP in a namespace of a topology, and a speaker that says any bytes.
//!
//! ```text
//!     Speaker ─config()─▶ file ─▶ bird | gobgpd ◀─asked by birdc | gobgp─ Neighbour ─▶ Vec<Route>, Session, BfdSession
//! ```
//!
//! | file | what it holds |
//! |---|---|
//! | `mod.rs` | what a neighbour should be, and what it says it has: the same words for both programs |
//! | `ours.rs` | our router among them: sessions as resources, and what its command line says
//! | `neighbour.rs` | a running program: start, ask, wait, reload, stop |
//! | `bird.rs` | BIRD's configuration, and what `birdc` prints |
//! | `gobgp.rs` | GoBGP's configuration, and what `gobgp` prints |
//! | `raw.rs` `message.rs` | a peer by plain TCP that sends exact bytes and keeps what comes |
//! | `flood.rs` | connections that never speak, a peer with very many routes |
//! | `cases.rs` | wrong UPDATEs from a file, said to a device that has another router behind it |
//!
//! Invariants: a neighbour is up when `start` returns and gone when it is dropped; nothing is written to a kernel's routes.
//! Left out: numbers of paths (RFC 7911) in `Route`. BIRD does not print them; `Neighbour::path_ids` asks GoBGP's table for people.

pub mod bird;
pub mod cases;
pub mod flood;
pub mod gobgp;
pub mod message;
pub mod neighbour;
pub mod ours;
pub mod raw;

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use config::net::{Cidr, IpVersion};

pub use neighbour::{Kind, Neighbour};

/// What a neighbour should be.
#[derive(Debug, Clone)]
pub struct Speaker {
    pub as_number: u32,
    pub router_id: Ipv4Addr,
    /// Where it listens.
    pub port: u16,
    pub peers: Vec<Peer>,
    /// What it tells of its own.
    pub routes: Vec<Announced>,
    /// Intervals of BFD; BIRD alone has it.
    pub bfd: Option<Bfd>,
    /// Lines put as they are at the end of the configuration: filters, in the program's own language.
    pub more: String,
}

impl Speaker {
    pub fn new(as_number: u32, router_id: &str) -> Speaker {
        Speaker {
            as_number,
            router_id: router_id.parse().unwrap(),
            port: 179,
            peers: Vec::new(),
            routes: Vec::new(),
            bfd: None,
            more: String::new(),
        }
    }
}

/// A session that a neighbour should have.
#[derive(Debug, Clone)]
pub struct Peer {
    pub address: IpAddr,
    pub port: u16,
    /// Equal to the speaker's own: iBGP.
    pub as_number: u32,
    pub local_address: Option<IpAddr>,
    pub families: Vec<IpVersion>,
    /// Waits to be called.
    pub is_passive: bool,
    /// The other side is a client of this reflector.
    pub is_client: bool,
    pub password: Option<String>,
    /// Only packets from one hop away (RFC 5082).
    pub ttl_security: bool,
    /// The other side may be more than a hop away.
    pub is_multihop: bool,
    pub hold_time: Duration,
    /// How long the other side is asked to keep routes; none: no graceful restart.
    pub restart_time: Option<Duration>,
    /// After that, as routes of last resort (RFC 9494).
    pub long_lived_time: Option<Duration>,
    /// All paths to a prefix, both ways (RFC 7911).
    pub add_paths: bool,
    /// More prefixes of a family end the session.
    pub import_limit: Option<u32>,
    pub bfd: bool,
    /// Routes are told with this speaker as their next hop.
    pub next_hop_self: bool,
    /// Messages of up to 65535 octets (RFC 8654); BIRD alone has it.
    pub extended_messages: bool,
    /// An expression of BIRD's that a route must satisfy to be told: `net ~ [10.1.0.0/16+]`.
    pub export_where: Option<String>,
    /// Likewise to be taken.
    pub import_where: Option<String>,
}

impl Peer {
    pub fn new(address: &str, as_number: u32) -> Peer {
        Peer {
            address: address.parse().unwrap(),
            port: 179,
            as_number,
            local_address: None,
            families: vec![IpVersion::V4, IpVersion::V6],
            is_passive: false,
            is_client: false,
            password: None,
            ttl_security: false,
            is_multihop: false,
            hold_time: Duration::from_secs(9),
            restart_time: None,
            long_lived_time: None,
            add_paths: false,
            import_limit: None,
            bfd: false,
            next_hop_self: false,
            extended_messages: false,
            export_where: None,
            import_where: None,
        }
    }
}

/// A route of the neighbour's own.
#[derive(Debug, Clone)]
pub struct Announced {
    pub prefix: Cidr,
    /// None: the neighbour itself.
    pub next_hop: Option<IpAddr>,
    /// The nearest first.
    pub as_path: Vec<u32>,
    pub med: Option<u32>,
    pub local_pref: Option<u32>,
    pub communities: Vec<(u16, u16)>,
    pub large_communities: Vec<(u32, u32, u32)>,
}

impl Announced {
    pub fn new(prefix: &str) -> Announced {
        Announced {
            prefix: Cidr::parse(prefix).unwrap(),
            next_hop: None,
            as_path: Vec::new(),
            med: None,
            local_pref: None,
            communities: Vec::new(),
            large_communities: Vec::new(),
        }
    }
}

/// RFC 5880: the same interval both ways.
#[derive(Debug, Clone, Copy)]
pub struct Bfd {
    pub interval: Duration,
    pub multiplier: u8,
}

/// A route as a neighbour's own tool shows it. What is a list of numbers is text, as people write it: `65000:1:2`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub prefix: Cidr,
    pub is_best: bool,
    /// Who told it, by address; none: the neighbour's own.
    pub from: Option<IpAddr>,
    /// Igp, Egp, Incomplete.
    pub origin: Option<Origin>,
    pub next_hop: Option<IpAddr>,
    /// The nearest first; a set in braces.
    pub as_path: String,
    pub med: Option<u32>,
    pub local_pref: Option<u32>,
    pub communities: Vec<String>,
    pub extended_communities: Vec<String>,
    pub large_communities: Vec<String>,
    pub originator: Option<Ipv4Addr>,
    pub cluster_list: Vec<Ipv4Addr>,
    /// Kept after its peer went away, for the peer may come back: GoBGP's of RFC 4724 and RFC 9494, BIRD's of the latter alone.
    pub is_stale: bool,
}

impl Route {
    fn to(prefix: Cidr) -> Route {
        Route {
            prefix,
            is_best: false,
            from: None,
            origin: None,
            next_hop: None,
            as_path: String::new(),
            med: None,
            local_pref: None,
            communities: Vec::new(),
            extended_communities: Vec::new(),
            large_communities: Vec::new(),
            originator: None,
            cluster_list: Vec::new(),
            is_stale: false,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    Igp,
    Egp,
    Incomplete,
}

/// A session as a neighbour's own tool shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Session {
    pub peer: IpAddr,
    pub is_established: bool,
    /// Seconds, from whenever the tool counts: another session has another begin.
    pub since: f64,
    /// Routes of all families that came and were taken.
    pub imported: u64,
    /// Routes of all families that were told.
    pub exported: u64,
    /// Everything the tool says about it.
    pub details: String,
}

impl Session {
    /// Up all the time since it was seen before. BIRD's own times differ by a millisecond from one look to the next.
    pub fn is_still(&self, before: &Session) -> bool {
        self.is_established && before.is_established && (self.since - before.since).abs() < 0.1
    }
}

/// A BFD session, as BIRD shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BfdSession {
    pub peer: IpAddr,
    pub interface: String,
    pub is_up: bool,
    pub interval: Duration,
    pub timeout: Duration,
}
