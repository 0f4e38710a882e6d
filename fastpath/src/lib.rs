//! The fast path: packets in, decisions from tables that control published, packets out.
//!
//! ```text
//!            control ──publish──▶ Tables (rcu)            flow::FlowTable (shared, lock-free)
//!                                   │ read                      │ read, write
//!      AF_XDP ─▶ rx ─▶ parse ─▶ admit ─▶ classify ─▶ route ─▶ policy ─▶ remember ─▶ respond ─▶ rewrite ─▶ tx ─▶ AF_XDP
//!                                                                                                  └─▶ another worker
//! ```
//!
//! | module | what it holds |
//! |---|---|
//! | `worker`, `patience` | one breath, and the loop around it; how long it spins |
//! | `pipeline`, `stage` | the stages and their order |
//! | `burst`, `packet` | what travels between stages |
//! | `header` | layouts |
//! | `table` | what workers only read |
//! | `flow` | what workers write |
//! | `io`, `interfaces`, `handoff` | where packets enter, leave, and change threads |
//! | `rcu` | publication |
//! | `mapped` | memory of large tables, prefetching |
//! | `stats` | counters and records |
//!
//! Invariants: no allocation, lock, log, clock or syscall inside a stage; every packet ends sent, answered, punted, handed
//! off or dropped with a reason; an unknown interface, endpoint or program means drop.

pub mod burst;
pub mod closer;
pub mod flow;
pub mod handoff;
pub mod header;
pub mod interfaces;
pub mod io;
pub mod mapped;
pub mod packet;
pub mod patience;
pub mod pipeline;
pub mod rcu;
pub mod stage;
pub mod stats;
pub mod table;
pub mod worker;
