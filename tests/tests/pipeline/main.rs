//! The fast path in memory: bytes in, then verdict, bytes out and counters.
//!
//! | file | what it asks |
//! |---|---|
//! | `drops.rs` | is every drop reason reached, by each input that should end in it? |
//! | `forward.rs` | do good packets leave as they should: MAC, TTL, checksums, tags, lengths? |
//! | `answer.rs` | are ARP, ND and echo for the gateway answered, byte by byte? |
//! | `dhcp.rs` | does what a workload asks DHCP servers reach control, where it is relayed, and nothing else? |
//! | `error.rs` | are our ICMP errors right, and are others' let through only for an open flow? |
//! | `fragment.rs` | do fragments share the fate of their first? |
//! | `policy.rs` | do replies pass, and what does a change of policy or route do to an open flow? |
//! | `group.rs` | routes of several next hops: does every flow keep to one, and does only that move which has to? |
//! | `handoff.rs` | two workers: does everything arrive that changes worker? |
//! | `fairness.rs` | endpoints that share a worker: does one that floods, or takes nothing, hold up the others? |
//! | `live.rs` | the same on threads: commands, publication and sleep while packets pass |
//! | `model.rs` | random packets: no panic, nothing lost, and the verdict of a naive model |
//! | `recall.rs` | is a packet that is settled by what its flow has recorded one that all stages would have sent the same way? |
//! | `translate.rs` | another source outside: do answers, errors and fragments find back, and does the host keep its own? |
//! | `case_files.rs` | the cases in tests/data/pipeline/*.case |

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod answer;
mod case_files;
mod dhcp;
mod drops;
mod error;
mod fairness;
mod forward;
mod fragment;
mod group;
mod handoff;
mod live;
mod model;
mod policy;
mod recall;
mod translate;
