//! The BGP speaker: sessions, what was learned, what is best, what is told to whom.
//!
//! ```text
//!   socket ─bytes─▶ wire ─Message─▶ session ─Update─▶ rib ─changes─▶ forwarding (control: routes of workers and kernel)
//!   socket ◀─bytes─ wire ◀─Message─ session           └──▶ groups ─encoded once per group─▶ sockets
//! ```
//!
//! Everything but `thread/` takes state and gives results: no socket, no clock, no thread. The caller carries out the actions and
//! comes back with what happened and the time.
//!
//! | file | what it knows |
//! |---|---|
//! | `message.rs` `attribute.rs` | what is said: messages, and what is known about a route |
//! | `wire/` | bytes and messages |
//! | `session/` | one peer: connections, timers, collisions, restarts |
//! | `rib/` `decision.rs` | all paths; which is best, and why others are not |
//! | `groups/` | what is told to peers that are told the same |
//! | `speaker/` | owns all of these, and says who hears of what |
//! | `call.rs` | what people ask and order |
//! | `thread/` | sockets and timers: the only part that has any |
//! | `mrt.rs` `bmp.rs` `bmp/` | tables and messages for tools: dumps to files, monitoring stations |
//! | `speaker_state.rs` `rules.rs` | what the speaker should be; what is taken and told |
//! | `desired/` | what the resources of the cluster come to, for one node |
//!
//! Sources: RFC 4271, and the RFCs that each file names.

pub mod attribute;
pub mod bmp;
pub mod call;
pub mod decision;
pub mod desired;
pub mod groups;
pub mod message;
pub mod mrt;
pub mod rib;
pub mod rules;
pub mod session;
pub mod speaker;
pub mod speaker_state;
pub mod thread;
pub mod wire;
