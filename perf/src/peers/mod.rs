//! Others beside ours, in the same run: DPDK's tables in memory, and other forwarders in the same topology.
//!
//! | file | what it holds |
//! |---|---|
//! | `sets.rs` | routes, rules and keys that both sides are given |
//! | `dpdk_tables.rs` | the program over DPDK's tables: compiled, started, asked |
//! | `memory.rs` | our tables beside DPDK's |
//! | `layout.rs`, `firewall.rs` | policies as Calico lays them out for the kernel; the kernel with them |
//! | `ovs.rs`, `dpdk.rs` | Open vSwitch and DPDK's l3fwd on their AF_XDP ports |
//! | `daemon.rs` | programs of others in the router's namespace |
//! | `compare.rs` | all of them and ours in turn: packets, TCP, round trips; one table |
//!
//! Nothing of theirs is part of this program or of its repository: they are Debian's packages, which `make peers`
//! installs. What is not installed or does not start is a line that says so, and never an error.

pub mod compare;
pub mod daemon;
pub mod dpdk;
pub mod dpdk_tables;
pub mod firewall;
pub mod layout;
pub mod memory;
pub mod ovs;
pub mod sets;

use crate::lab::{Lab, Place, run};

/// The core that a forwarder with a thread of its own runs on: the last one.
pub(crate) fn worker_core() -> usize {
    core_affinity::get_core_ids().and_then(|cores| cores.last().copied()).map_or(0, |core| core.id)
}

/// Takes whatever program is still there off the near interfaces, and leaves them as the lab made them.
pub(crate) fn clear_programs(lab: &Lab) {
    let router = lab.name(Place::Router);
    for near in ["near-a", "near-b"] {
        for command in [["xdp", "off"], ["xdpgeneric", "off"], ["promisc", "off"]] {
            // There may be none.
            let _ = run("ip", &["-n", &router, "link", "set", "dev", near, command[0], command[1]]);
        }
    }
}

/// An error and all that caused it, in a line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        message = format!("{message}: {source}");
        cause = source.source();
    }
    message
}
