//! Docker's remote drivers: the network driver `vrouter` and the address driver `vrouter-ipam`.
//!
//! ```text
//! dockerd ──POST, JSON──▶ vrouter.sock ─▶ server ─▶ messages ─┬─▶ driver ─▶ workload: pair, endpoint
//!                         vrouter-ipam.sock ─link─┘           └─▶ ipam ───▶ control: addresses
//! ```
//!
//! | file | what it holds |
//! |---|---|
//! | `server.rs` | the socket, its two names, and how an answer or a refusal looks |
//! | `messages.rs` | the calls, as dockerd writes them, and what they are answered with |
//! | `options.rs` | what people give with `--opt`, and what dockerd adds |
//! | `driver.rs` | networks and endpoints come and go, and are joined |
//! | `endpoints.rs` | an endpoint's names and pair, and whether a container has it |
//! | `ipam.rs` | pools and addresses |
//! | `networks.rs` | what is known of a network |
//! | `error.rs` | why a call is refused |
//!
//! | of Docker | is here | known by |
//! |---|---|---|
//! | network | Profile `docker-<first 12 of its id>` | annotations of the Profile |
//! | endpoint | WorkloadEndpoint, veth pair | annotations, alias |
//! | address | an address of handle `libnetwork.<node>` | the handle |
//!
//! Nothing else is remembered: dockerd may be started again, and so may this process, between any two calls. A call that is
//! repeated because the answer to it was lost has the same result.
//!
//! Invariants: addresses are Docker's from RequestAddress to ReleaseAddress, whatever becomes of endpoints; an endpoint that
//! was created has its policy in force before anything can use it; what is gone already can be taken away.
//! Left out: ports published on the host; swarm's global networks; a part of a pool (`--ip-range`).
//!
//! Sources: libnetwork's docs/remote.md and docs/ipam.md; Calico's libnetwork plugin for what a network becomes.

pub mod driver;
pub mod endpoints;
pub mod error;
pub mod ipam;
pub mod messages;
pub mod networks;
pub mod options;
pub mod server;
#[cfg(test)]
mod tests;

pub use server::serve;
