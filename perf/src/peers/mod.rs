//! Others beside ours, in the same run: DPDK's tables in memory, and other forwarders in the same topology.
//!
//! | file | what it holds |
//! |---|---|
//! | `sets.rs` | routes, rules and keys that both sides are given |
//! | `dpdk_tables.rs` | the program over DPDK's tables: compiled, started, asked |
//! | `memory.rs` | our tables beside DPDK's |
//!
//! Nothing of theirs is part of this program or of its repository: they are Debian's packages, which `make peers`
//! installs. What is not installed or does not start is a line that says so, and never an error.

pub mod dpdk_tables;
pub mod memory;
pub mod sets;

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
