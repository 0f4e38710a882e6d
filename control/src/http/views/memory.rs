//! What the router takes of the machine's memory, part by part.

use serde::{Deserialize, Serialize};

/// A part of the daemon's memory. The last one is `total`, the sum of all others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryView {
    /// `frames` `sockets` `flows` `routes-ipv4` `routes-ipv6` `policy` `program` `control` `total`.
    pub part: String,
    pub description: String,
    /// In memory at present.
    pub resident_bytes: u64,
    /// What it may come to without asking for more; none where nothing of the kind is said.
    pub allocated_bytes: Option<u64>,
}
