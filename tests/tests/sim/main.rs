//! Control under conditions that are made up: in memory, without a clock, from a seed.
//!
//! | file | what it asks |
//! |---|---|
//! | `seeds.rs` | seeds, and random resources made from them |
//! | `order.rs` | does any order and grouping of the same updates end in the same state, and does nothing stay behind? |
//! | `policy.rs` | do the tables say what a naive reading of the resources says, for any packet? |
//! | `host.rs` | do they ask host endpoints as such a reading does, list by list? |
//! | `bgp.rs` | do speakers end with the same tables, whatever the order of messages? |
//! | `datastore.rs` | is anything acknowledged ever lost: races, slow watchers, killed writers, damaged files? |
//! | `ipam.rs` | does an address ever have two owners, or none for good, when nodes race and stop? |
//! | `learned.rs` | are learned routes in force, follow their next hops, and what do a million of them cost? |
//! | `reconcile.rs` | does the kernel end as desired although steps fail and others change it, and does what is not ours stay? |
//!
//! A failure prints its seed; `seeds.rs` says how to repeat it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bgp;
mod datastore;
mod host;
mod ipam;
mod learned;
mod order;
mod policy;
mod reconcile;
mod seeds;
