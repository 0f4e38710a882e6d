//! What two speakers say to each other, as types; bytes are `wire`'s.
//!
//! Families are IPv4 and IPv6 unicast, so a family is an `IpVersion`. What belongs to others is skipped when it is read.
//!
//! Sources: RFC 4271 §4, RFC 5492, RFC 4760, RFC 6793, RFC 2918, RFC 7313, RFC 4724, RFC 8538, RFC 9494, RFC 7911, RFC 8950, RFC 8654,
//! RFC 9234.

use std::fmt;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use config::net::{Cidr, IpVersion};

use super::attribute::Attributes;

/// A message.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    Open(Open),
    Update(Update),
    Notification(Notification),
    Keepalive,
    Refresh(Refresh),
}

/// OPEN: who somebody is, and what it can do. RFC 4271 §4.2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// From the capability of RFC 6793 if it is there, else the two octets of the message.
    pub as_number: u32,
    /// Whole seconds, 0-65535.
    pub hold_time: Duration,
    pub router_id: Ipv4Addr,
    pub capabilities: Capabilities,
}

/// What a speaker can do. RFC 5492.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Capabilities {
    /// Multiprotocol, RFC 4760. None at all means IPv4.
    pub families: Vec<IpVersion>,
    pub route_refresh: bool,
    /// RFC 7313.
    pub enhanced_refresh: bool,
    /// RFC 6793: AS numbers of four octets.
    pub four_octet_as: bool,
    /// RFC 8654: messages of up to 65535 octets.
    pub extended_message: bool,
    /// RFC 4724.
    pub graceful_restart: Option<GracefulRestart>,
    /// RFC 9494.
    pub long_lived: Vec<LongLived>,
    /// RFC 7911.
    pub add_path: Vec<AddPath>,
    /// RFC 8950: IPv4 routes with an IPv6 next hop.
    pub extended_next_hop: bool,
    /// RFC 9234.
    pub role: Option<Role>,
    /// Codes of those that we do not know, and of those that were malformed and are taken for absent.
    pub others: Vec<u8>,
}

/// RFC 4724 §3.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GracefulRestart {
    /// The speaker has restarted: R.
    pub restarting: bool,
    /// NOTIFICATIONs are survived too: N, RFC 8538.
    pub notification: bool,
    /// Whole seconds, 0-4095.
    pub restart_time: Duration,
    /// Families, and whether their forwarding state was kept: F.
    pub families: Vec<(IpVersion, bool)>,
}

/// RFC 9494 §3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LongLived {
    pub family: IpVersion,
    pub forwarding: bool,
    /// Whole seconds, 24 bits.
    pub stale_time: Duration,
}

/// RFC 7911 §4: what whoever says so can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddPath {
    pub family: IpVersion,
    pub send: bool,
    pub receive: bool,
}

/// RFC 9234 §4.1: what the speaker is to its neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    Provider,
    RouteServer,
    RouteServerClient,
    Customer,
    Peer,
}

/// UPDATE: what can be reached no longer, and what can. RFC 4271 §4.3.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Update {
    /// Withdrawn routes, and those whose attributes were wrong (RFC 7606: treat-as-withdraw).
    pub withdrawn: Vec<Nlri>,
    pub reachable: Vec<Reachable>,
    /// The peer has told all it knew about a family. RFC 4724 §2.
    pub end_of_rib: Option<IpVersion>,
    /// What was wrong with it, and what was done about it. The session goes on.
    pub faults: Vec<Fault>,
}

/// Routes with the same attributes. Their next hop may be of the other family (RFC 8950).
#[derive(Debug, Clone, PartialEq)]
pub struct Reachable {
    pub attributes: Arc<Attributes>,
    /// All of one family, without host bits.
    pub nlri: Vec<Nlri>,
}

/// A prefix, and which of the peer's paths to it (RFC 7911); 0 where paths have no numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nlri {
    pub prefix: Cidr,
    pub path_id: u32,
}

/// Something wrong in an UPDATE that did not end the session. RFC 7606.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Attribute code; none when it was about the prefixes.
    pub attribute: Option<u8>,
    pub outcome: Outcome,
    /// For people: what was found and what was expected.
    pub reason: String,
}

/// RFC 7606 §2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    AttributeDiscard,
    TreatAsWithdraw,
    SessionReset,
}

/// ROUTE-REFRESH. RFC 2918, RFC 7313.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refresh {
    /// None: a family that we do not speak.
    pub family: Option<IpVersion>,
    pub subtype: RefreshSubtype,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefreshSubtype {
    Request,
    Begin,
    End,
}

/// Codes of NOTIFICATIONs. RFC 4271 §4.5, RFC 9687.
pub const OPEN_ERROR: u8 = 2;
pub const HOLD_TIMER_EXPIRED: u8 = 4;
pub const FSM_ERROR: u8 = 5;
pub const CEASE: u8 = 6;
pub const SEND_HOLD_TIMER_EXPIRED: u8 = 8;

/// Subcodes of `OPEN_ERROR`. RFC 4271 §6.2, RFC 5492, RFC 9234.
pub mod open_error {
    pub const BAD_PEER_AS: u8 = 2;
    pub const BAD_BGP_IDENTIFIER: u8 = 3;
    pub const UNACCEPTABLE_HOLD_TIME: u8 = 6;
    pub const UNSUPPORTED_CAPABILITY: u8 = 7;
    pub const ROLE_MISMATCH: u8 = 11;
}

/// Subcodes of `CEASE`. RFC 4486, RFC 8538, RFC 9384.
pub mod cease {
    pub const MAXIMUM_PREFIXES: u8 = 1;
    pub const ADMINISTRATIVE_SHUTDOWN: u8 = 2;
    pub const PEER_DECONFIGURED: u8 = 3;
    pub const ADMINISTRATIVE_RESET: u8 = 4;
    pub const OTHER_CONFIGURATION_CHANGE: u8 = 6;
    pub const CONNECTION_COLLISION: u8 = 7;
    pub const OUT_OF_RESOURCES: u8 = 8;
    pub const HARD_RESET: u8 = 9;
    pub const BFD_DOWN: u8 = 10;
}

/// NOTIFICATION: why the session ends. RFC 4271 §4.5.
#[derive(Clone, PartialEq, Eq)]
pub struct Notification {
    pub code: u8,
    pub subcode: u8,
    pub data: Vec<u8>,
}

impl Notification {
    pub fn new(code: u8, subcode: u8) -> Notification {
        Notification { code, subcode, data: Vec::new() }
    }

    pub fn with(code: u8, subcode: u8, data: impl Into<Vec<u8>>) -> Notification {
        Notification { code, subcode, data: data.into() }
    }
}

impl fmt::Debug for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "N({}/{}, {} octets)", self.code, self.subcode, self.data.len())
    }
}
