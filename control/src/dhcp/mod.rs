//! A DHCP relay agent: what workloads ask reaches servers elsewhere, and what these answer comes back.
//!
//! ```text
//!   workload ─broadcast─▶ worker ─punt─▶ control: whose interface? ─▶ ┌ task ─────┐ ─UDP 67─▶ servers
//!   workload ◀────── frame, by a packet socket on the host side ───── │  Relay    │ ◀─UDP 67─ servers
//!                                                                    └───────────┘
//! ```
//!
//! A broadcast is heard by nobody on this network but us. A relay puts the node's address into it (`giaddr`), by which servers
//! find the way back and, unless a link selection names another, the subnet to lease from; and says by option 82 by which
//! interface it came. It leases nothing, remembers no lease, and no lease opens anything: what a workload may send is what its
//! endpoint says.
//!
//! | file | what it holds |
//! |---|---|
//! | `message.rs` | a message: its fixed part, its options, and what a relay may change of it |
//! | `relay.rs` | events in, packets out: what is refused, who waits for an answer |
//! | `frame.rs` | frames of clients, read and made |
//! | `count.rs` | why packets are refused, and how many were |
//! | `task.rs` | the sockets, beside control on its thread |
//!
//! Invariants: no workload can ask in another's name, since its hardware address has to be its endpoint's; nobody but a
//! configured server is listened to, and only by who has asked; whatever else a message says is passed on octet by octet, so
//! that clients and servers can authenticate it (RFC 3118).
//! Left out: DHCPv6; servers on this network, which would have to be heard by workloads; BOOTP without options.
//! Sources: RFC 2131 §4.1, RFC 1542 §4, RFC 3046, RFC 3527.

pub mod count;
pub mod frame;
pub mod message;
pub mod relay;
pub mod task;

use std::net::Ipv4Addr;

/// What the relay is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayState {
    /// Each is sent what a client asks.
    pub servers: Vec<Ipv4Addr>,
    /// The node's own address, to which servers answer.
    pub own_address: Ipv4Addr,
    /// In the subnet that servers shall lease from; else that of `own_address` counts. RFC 3527.
    pub link_selection: Option<Ipv4Addr>,
}
