//! Workloads attached and taken away, for whoever runs them: CNI, Docker, a person at the command line.
//!
//! ```text
//!   wish ─▶ service ─┬─ addresses ──▶ control (ipam) ─┐
//!                    ├─ veth pair ──▶ kernel          ├─▶ addresses and routes inside ─▶ endpoint ─▶ control: in force ─▶ attached
//!                    └────────────────────────────────┘
//! ```
//!
//! | file | what it holds |
//! |---|---|
//! | `call.rs` | what can be asked for, and what the service asks of control |
//! | `identity.rs` | which interface of which workload: the names that follow from it |
//! | `endpoint.rs` | the WorkloadEndpoint that is written |
//! | `wire.rs` | the veth pair, and what is inside the workload's namespace |
//! | `namespace.rs` | a network namespace given by a path |
//! | `service.rs` | the steps, one after the other, and back when one fails |
//! | `addresses.rs` | addresses of the pools, had and given back |
//! | `sweep.rs` | what nobody has taken away |
//! | `error.rs` | why it cannot be done |
//!
//! No journal is kept. Everything that is made says whose it is: the interface by its alias, the addresses by the attributes
//! of their handle, the endpoint by its annotations. So whatever a process leaves that is killed half way is found, by the
//! next one when it starts.
//!
//! Invariants: success means that policy is in force; whoever takes away what is gone succeeds; of two who want the same
//! interface attached, one waits.
//! Left out: what a runtime's words mean. That is `cni` and `docker`.

pub mod addresses;
pub mod call;
pub mod endpoint;
pub mod error;
pub mod identity;
pub mod namespace;
pub mod service;
pub mod sweep;
pub mod wire;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What workloads take for their gateway: Calico's addresses, the same on every node.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The link-local address that follows from `GATEWAY_MAC`.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0xecee, 0xeeff, 0xfeee, 0xeeee);

/// The gateway for an address of that family.
pub fn gateway_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => GATEWAY_V4.into(),
        IpAddr::V6(_) => GATEWAY_V6.into(),
    }
}
