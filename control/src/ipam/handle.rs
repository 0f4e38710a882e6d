//! Handles: under which names addresses are had, and where they are.
//!
//! A handle counts its addresses in each block. It is written before the block when one is given out, and after it when one
//! is released: its count is never too low.

use std::collections::BTreeMap;

use config::net::Cidr;
use config::resource::{AllocationAttributes, IpamHandleSpec};
use serde::{Deserialize, Serialize};

use super::error::IpamError;
use super::records::Draft;

/// What a node's own address is for: each has a name that follows from the node's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tunnel {
    Ipip,
    Vxlan,
    VxlanV6,
    Wireguard,
    WireguardV6,
}

impl Tunnel {
    pub const ALL: [Tunnel; 5] = [Tunnel::Ipip, Tunnel::Vxlan, Tunnel::VxlanV6, Tunnel::Wireguard, Tunnel::WireguardV6];

    pub fn handle(self, node: &str) -> String {
        let prefix = match self {
            Tunnel::Ipip => "ipip",
            Tunnel::Vxlan => "vxlan",
            Tunnel::VxlanV6 => "vxlan-v6",
            Tunnel::Wireguard => "wireguard",
            Tunnel::WireguardV6 => "wireguard-v6",
        };
        format!("{prefix}-tunnel-addr-{node}")
    }

    /// As the attribute `type` says it.
    pub fn attribute(self) -> &'static str {
        match self {
            Tunnel::Ipip => "ipipTunnelAddress",
            Tunnel::Vxlan => "vxlanTunnelAddress",
            Tunnel::VxlanV6 => "vxlanV6TunnelAddress",
            Tunnel::Wireguard => "wireguardTunnelAddress",
            Tunnel::WireguardV6 => "wireguardV6TunnelAddress",
        }
    }

    /// What the address of a node's tunnel is kept with.
    pub fn attributes(self, node: &str) -> AllocationAttributes {
        let secondary = BTreeMap::from([
            ("node".to_string(), node.to_string()),
            ("type".to_string(), self.attribute().to_string()),
        ]);
        AllocationAttributes { handle_id: Some(self.handle(node)), secondary, ..AllocationAttributes::default() }
    }
}

/// Refuses a handle whose record another handle has.
pub fn check(draft: &Draft<'_>, handle: &str) -> Result<(), IpamError> {
    match draft.records().handle(handle) {
        Some(spec) if spec.handle_id != handle => {
            Err(IpamError::SameName { wanted: handle.to_string(), found: spec.handle_id.clone() })
        }
        _ => Ok(()),
    }
}

/// Counts addresses that the next write gives out.
pub fn add(draft: &mut Draft<'_>, handle: &str, cidr: &Cidr, count: u64) {
    let known = draft.records().handle(handle).cloned();
    let mut spec = known.unwrap_or_else(|| IpamHandleSpec { handle_id: handle.to_string(), ..Default::default() });
    let counted = spec.block.entry(cidr.to_string()).or_default();
    *counted = counted.saturating_add(count);
    draft.put_handle(spec, true);
}

/// Counts addresses no more that were released. The handle goes with its last address.
pub fn subtract(draft: &mut Draft<'_>, handle: &str, cidr: &Cidr, count: u64) {
    let left = draft.records().handle(handle).and_then(|spec| spec.block.get(&cidr.to_string()));
    if let Some(left) = left {
        set(draft, handle, cidr, left.saturating_sub(count));
    }
}

/// Says how many addresses there are in a block.
pub fn set(draft: &mut Draft<'_>, handle: &str, cidr: &Cidr, count: u64) {
    let Some(mut spec) = draft.records().handle(handle).cloned() else { return };
    match count {
        0 => drop(spec.block.remove(&cidr.to_string())),
        count => drop(spec.block.insert(cidr.to_string(), count)),
    }
    match spec.block.is_empty() {
        true => draft.delete_handle(handle),
        false => draft.put_handle(spec, false),
    }
}
