//! What settings can be, where they are one of a few words.

use std::fmt;
use std::path::PathBuf;

/// What a worker does when there is nothing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Poll {
    Sleep,
    Always,
}

/// Whether endpoints change their worker when loads are uneven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rebalance {
    Off,
    Auto,
}

/// Whether the host's own packets go by learned routes too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BgpKernelRoutes {
    /// They are written into the kernel's main table, protocol 197.
    On,
    Off,
}

/// Where resources are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Datastore {
    /// Files of our own, in this directory.
    Embedded(PathBuf),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// What a changed policy means for flows it had allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PolicyChange {
    Preserve,
    Reevaluate,
}

/// What becomes of a packet from a workload to its own host, once the workload's egress policy allowed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndpointToHostAction {
    Drop,
    Accept,
    /// Go on to the host's own filter.
    Return,
}

/// Whether a workload endpoint may ask for other sources than its own addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceSpoofing {
    Disabled,
    Any,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XdpMode {
    Native,
    Generic,
    /// Native where the driver can, generic elsewhere.
    Auto,
}

/// Whether endpoint interfaces are prepared for a router in user space, or left as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndpointOffload {
    /// Offloads that are in its way are switched off, and those that help on.
    Off,
    Leave,
}

/// Who makes AF_XDP sockets and works their rings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Io {
    /// vrouter itself, by system calls.
    Raw,
    /// The crate xsk-rs.
    XskRs,
}

/// Whether workers poll drivers instead of waiting for interrupts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BusyPoll {
    /// For uplinks that are network cards.
    Auto,
    Off,
}

/// Whether drivers use frames in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ZeroCopy {
    /// Those of network cards that can.
    Auto,
    Off,
}

impl fmt::Display for Datastore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Datastore::Embedded(directory) => write!(f, "embedded:{}", directory.display()),
        }
    }
}
