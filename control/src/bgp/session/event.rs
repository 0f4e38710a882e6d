//! What can happen to a session, and what it wants done.
//!
//! The caller numbers the connections that others made (`ConnectionId::accepted`), the session those that it asks for.
//! After `Close`, `ConnectFailed` or `Closed` a number is not used again in either direction; what still comes for it is
//! ignored. `Close` means: give the socket as much as it takes at once of what was to be sent before, then close.

use std::net::SocketAddr;
use std::time::Duration;

use config::net::IpVersion;

use crate::bgp::message::{Notification, Open, Refresh, Role, Update};
use crate::bgp::speaker_state::PeerState;
use crate::bgp::wire::Codec;

pub use super::ending::End;

/// A TCP connection of one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

impl ConnectionId {
    /// The `serial`th that we asked for.
    pub fn requested(serial: u64) -> ConnectionId {
        ConnectionId(serial.wrapping_mul(2))
    }

    /// The `serial`th that the other side made.
    pub fn accepted(serial: u64) -> ConnectionId {
        ConnectionId(serial.wrapping_mul(2).wrapping_add(1))
    }
}

/// What BFD has found (RFC 5880).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BfdFinding {
    Up,
    /// Packets do not get there any longer.
    Failed,
    /// It is not watched any more, which says nothing about packets (RFC 5882 §4.2).
    Down,
}

/// What can happen.
#[derive(Debug, Clone)]
pub enum Event<'a> {
    /// `deadline` is reached. What the sockets have is best told before: the hold time may be over only because nobody looked.
    Timer,
    /// By the operator: from now on, try. Also ends a wait after too many prefixes.
    Start,
    /// By the operator: the peer is told why, and nothing is tried until `Start`.
    Stop {
        notification: Notification,
    },
    /// What the session should be. With another transport it is reset, else nothing is interrupted.
    Update(Box<PeerState>),
    /// The answer to `Action::Connect`.
    Connected {
        connection: ConnectionId,
        local: SocketAddr,
        remote: SocketAddr,
    },
    /// The other answer. For people: `connection refused`.
    ConnectFailed {
        connection: ConnectionId,
        reason: String,
    },
    /// The peer has connected. Answered by `Close` when it is not wanted.
    Accepted {
        connection: ConnectionId,
        local: SocketAddr,
        remote: SocketAddr,
    },
    Received {
        connection: ConnectionId,
        bytes: &'a [u8],
    },
    /// By the other side or by the kernel.
    Closed {
        connection: ConnectionId,
        reason: String,
    },
    /// Bytes wait, and the socket takes none. Said again after `OutputProgress` while bytes wait.
    OutputBlocked {
        connection: ConnectionId,
    },
    /// The socket has taken some bytes.
    OutputProgress {
        connection: ConnectionId,
    },
    Bfd(BfdFinding),
    /// More prefixes of the family than `Terms::max_prefixes` allows.
    MaxPrefixes {
        family: IpVersion,
    },
    /// By speaker or operator: end the session, and try again.
    ResetBy(Notification),
    /// Ask the peer for all its routes again. Nothing is sent to a peer that cannot (RFC 2918).
    RequestRefresh(IpVersion),
    /// We begin to tell all routes of a family again, or are done. Said only to peers that want to know (RFC 7313).
    RefreshBegins(IpVersion),
    RefreshEnds(IpVersion),
}

/// What is to be done, in this order.
#[derive(Debug, Clone)]
pub enum Action {
    /// Answered by `Connected` or `ConnectFailed`, unless it is closed before.
    Connect {
        connection: ConnectionId,
    },
    Close {
        connection: ConnectionId,
    },
    Send {
        connection: ConnectionId,
        bytes: Vec<u8>,
    },
    /// Established.
    Up(Box<Negotiated>),
    Update(Update),
    /// The peer asks for all routes of a family again.
    Refresh(Refresh),
    /// Established no longer. Routes of the families in `keep` stay, as stale; all others of the peer go.
    Down {
        end: End,
        keep: Vec<IpVersion>,
    },
    /// The peer begins to tell a family again: what it has said so far is stale (RFC 7313 §4).
    MarkStale(IpVersion),
    /// Routes of the family that are still stale go.
    DropStale(IpVersion),
    /// Stale routes of the family become those of last resort (RFC 9494 §4.3).
    LongLived(IpVersion),
    /// The peer has told all it knows of the family (RFC 4724 §2).
    EndOfRib(IpVersion),
}

/// What both sides of an established session can do.
#[derive(Debug, Clone)]
pub struct Negotiated {
    pub connection: ConnectionId,
    pub local: SocketAddr,
    pub remote: SocketAddr,
    pub codec: Codec,
    pub ours: Open,
    pub theirs: Open,
    /// In our own system.
    pub internal: bool,
    /// Offered by both. Never empty.
    pub families: Vec<IpVersion>,
    /// Zero: none.
    pub hold_time: Duration,
    /// Zero: none.
    pub keepalive_time: Duration,
    /// RFC 2918: the peer can be asked for its routes.
    pub route_refresh: bool,
    /// RFC 7313, by both.
    pub enhanced_refresh: bool,
    /// Families that the peer's restart will not take away (RFC 4724); empty when one side cannot.
    pub graceful: Vec<IpVersion>,
    /// NOTIFICATIONs are survived too (RFC 8538).
    pub graceful_notification: bool,
    /// The peer sends an end of RIB, and is not waiting for ours (RFC 4724 §4.1).
    pub end_of_rib_expected: bool,
    /// RFC 9494: the peer may be told routes of last resort.
    pub long_lived: bool,
    /// Ours towards the peer (RFC 9234), if it is configured.
    pub role: Option<Role>,
    /// Families whose routes from before are still there, as stale; they go at the end of RIB.
    pub stale: Vec<IpVersion>,
}
