//! Bidirectional forwarding detection: is the path to a neighbour there, told within some tens of milliseconds.
//!
//! ```text
//!   control ──want(sessions)──▶ ┌ thread `bfd` ───────────────────────────────┐
//!           ◀──Change────────── │ sockets ─payload─▶ packet ─Packet─▶ session │ ◀──UDP 3784, 4784──▶ neighbours
//!           ──status()────────▶ │ sockets ◀────────── packet ◀─Action─┘       │
//!                               └─────────────────────────────────────────────┘
//! ```
//!
//! It has a thread of its own, because control may calculate for hundreds of milliseconds while a neighbour waits for thirty.
//! Sessions exist only where they are wanted; both sides begin them. `Change` tells when one goes up and when it no longer is.
//!
//! | file | what it knows |
//! |---|---|
//! | `packet.rs` | the bytes, and the checks of a received packet |
//! | `session.rs` | one side of a session: no socket, no clock, no thread |
//! | `sessions.rs` | all of them: which are wanted, whose packet it is |
//! | `socket.rs` | UDP with TTL, interface and addresses of each packet |
//! | `thread.rs` | the thread: waits, receives, lets time pass; and the handle to it |
//!
//! Asynchronous mode without echo and without authentication, IPv4 and IPv6, single hop and multihop.
//! Sources: RFC 5880, RFC 5881, RFC 5882 §4, RFC 5883.

pub mod packet;
pub mod session;
mod sessions;
mod socket;
mod thread;

pub use packet::{Diagnostic, State};
pub use sessions::{BfdKey, Change, SessionStatus};
pub use thread::{Bfd, BfdError};
