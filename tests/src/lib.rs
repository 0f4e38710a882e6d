//! What the tests of every kind share.
//!
//! | file | what it holds |
//! |---|---|
//! | `packet.rs` | packets as they are written in tests: every field can be wrong |
//! | `decode.rs` | what a frame holds, by an independent decoder; checksums recomputed |
//! | `plan.rs` | a small node as a test describes it, and the tables that follow from it |
//! | `router.rs` | workers over queues in memory, with the far ends in the test's hands |
//! | `live.rs` | the same workers on threads of their own |
//! | `model.rs` | what a router should do with a valid packet, the slow and obvious way |
//! | `node.rs` | resources to tables, as control does it, over a plan's attachments |
//! | `casefile.rs` | cases in text that a network engineer can read and extend |
//! | `bgp_cases.rs` | UPDATEs that are wrong in one thing, and what has to become of them |
//! | `random.rs` | numbers that a seed decides |
//! | `fuzz.rs` | seeded mutation, the fuzz targets and their corpus |
//! | `wait.rs` | waiting for a condition, with a deadline |
//! | `topology.rs` | network namespaces and veth pairs that go away by themselves |
//! | `mesh.rs` | BGP speakers in a network that exists only in memory |
//! | `bgp/` | BIRD and GoBGP as neighbours, and a speaker that says any bytes |
//! | `cni.rs` | network plugins called as libcni does, and cases in text of what has to come of it |
//! | `dhcp.rs` | a DHCP server with leases as short as a test, and what it has heard |
//! | `containers/` | containerd, podman and dockerd on a node, and containers of theirs |
//! | `daemon.rs` | the router's binary, running in a namespace |
//! | `load.rs` | datagrams one way, and a count of those that arrive |
//! | `reach.rs` | who reaches whom: cases in text, tried with real sockets |
//! | `talk.rs` | two machines talk over sockets of real stacks |
//!
//! The kinds are in `tests/`: `pipeline` (the fast path in memory), `sim` (control under simulated time), `scenario`
//! (network namespaces), `fuzz` (the saved corpus), `conformance` (Calico's own cases) and `tidy` (house rules). docs/TESTING.md says how to add to them.

#![allow(clippy::unwrap_used, clippy::expect_used)]

pub mod bgp;
pub mod bgp_cases;
pub mod casefile;
pub mod cni;
pub mod containers;
pub mod daemon;
pub mod decode;
pub mod dhcp;
pub mod fuzz;
pub mod live;
pub mod load;
pub mod mesh;
pub mod model;
pub mod node;
pub mod packet;
pub mod plan;
pub mod random;
pub mod reach;
pub mod router;
pub mod talk;
pub mod topology;
pub mod wait;
