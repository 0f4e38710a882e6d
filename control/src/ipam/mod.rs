//! Addresses for workloads and tunnels, in blocks, by Calico's algorithm and records.
//!
//! ```text
//!   pools, nodes, reservations ─┐
//!   blocks, affinities, handles ┴─▶ plan (allocator, release, collect) ─▶ draft ─commit─▶ datastore
//!              ▲                                                                             │
//!              └──────────────────────────────── watch ──────────────────────────────────────┘
//! ```
//!
//! | file | what it does |
//! |---|---|
//! | `block.rs` | one block: take, assign, release, rest |
//! | `pools.rs` | which pools may be used, and their blocks in the order of a node |
//! | `allocator.rs`, `release.rs` | addresses given out and back |
//! | `affinity.rs`, `handle.rs` | whose a block is; where a handle has addresses |
//! | `records.rs`, `commit.rs` | what is known of the records; a plan written, compared, tried again |
//! | `collect.rs` | addresses that nobody has any more, blocks that nobody needs |
//! | `call.rs`, `show.rs` | what is asked and shown |
//! | `service.rs` | what a node does: calls that share a commit |
//! | `error.rs`, `moment.rs` | why there is no address; times as records have them |
//!
//! Planning is a function of records, resources and the time. Records are the truth that nodes share, each changed by
//! comparing revisions; a node that stops between two writes leaves nothing that the next one would not put right.
//!
//! Invariants: no address has two owners; an address that has none is free, or will be: after its rest, or when the
//! collector has found it.

pub mod affinity;
pub mod allocator;
pub mod block;
pub mod call;
pub mod collect;
pub mod commit;
pub mod error;
pub mod handle;
pub mod moment;
pub mod pools;
pub mod records;
pub mod release;
pub mod service;
pub mod show;
#[cfg(test)]
mod tests;
