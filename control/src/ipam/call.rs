//! What can be asked about addresses, and how the answers look.

use std::collections::BTreeMap;
use std::net::IpAddr;

use config::resource::{AllocationAttributes, AllowedUse};
use serde::{Deserialize, Serialize};

use super::error::{IpamError, Limit};
use super::handle::Tunnel;
use crate::http::api::{ApiError, ErrorCode};
use crate::tell::chain;

/// One question or order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum IpamCall {
    /// Answered with `AssignView`: all addresses that are asked for, or none.
    Assign(AssignCall),
    /// Answered with `ReleaseView`.
    Release(ReleaseCall),
    /// What a check has found to be nobody's; what has been given out again stays. Answered with `ReleaseView`.
    ReleaseAll { addresses: Vec<ReleaseCall> },
    /// Answered with `PoolsView`.
    Pools,
    /// Answered with a list of `BorrowedView`.
    Borrowed,
    /// Answered with `ConfigurationView`.
    Configuration,
    /// Answered with `AddressView`.
    Who { address: IpAddr },
    /// Answered with `CheckView`.
    Check,
    /// What this node's containers have. Answered with a list of `AllocationView`.
    Allocations,
}

impl IpamCall {
    /// It changes something.
    pub fn is_order(&self) -> bool {
        matches!(self, IpamCall::Assign(_) | IpamCall::Release(_) | IpamCall::ReleaseAll { .. })
    }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct AssignCall {
    /// How many of each family.
    pub ipv4: usize,
    pub ipv6: usize,
    /// These, by name.
    pub addresses: Vec<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handle: Option<String>,
    /// Such as `pod` and `namespace`; `node` is this one.
    pub attributes: BTreeMap<String, String>,
    /// Whose namespace selects pools.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Names or CIDRs of the pools of each family; none leaves that family to the pools' selectors. One that is named for both
    /// counts for its own.
    pub ipv4_pools: Vec<String>,
    pub ipv6_pools: Vec<String>,
    /// Workload when absent.
    #[serde(rename = "use", skip_serializing_if = "Option::is_none")]
    pub intended: Option<AllowedUse>,
    /// One of this node's tunnel addresses: handle, attributes and use follow from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<Tunnel>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_blocks: Option<usize>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ReleaseCall {
    /// This one; with a handle, only if the handle has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// Without an address: all of the handle's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handle: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AssignView {
    pub addresses: Vec<AssignedView>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AssignedView {
    pub address: IpAddr,
    pub block: String,
    pub pool: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReleaseView {
    pub released: Vec<IpAddr>,
    /// What was left alone, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left: Vec<String>,
}

/// An address of a container of this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AllocationView {
    pub address: IpAddr,
    pub handle: Option<String>,
    pub sequence: Option<u64>,
    pub attributes: BTreeMap<String, String>,
    /// An endpoint has it.
    pub is_attached: bool,
}

/// Addresses by what they are doing. What no number can hold is told as the largest one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CountsView {
    pub total: u64,
    pub in_use: u64,
    pub reserved: u64,
    /// Released, and not given out again yet.
    pub resting: u64,
    pub free: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolsView {
    pub pools: Vec<PoolView>,
    /// Blocks that are in no pool any more.
    pub stray: Vec<BlockView>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolView {
    pub name: String,
    pub cidr: String,
    pub is_disabled: bool,
    pub counts: CountsView,
    pub blocks: Vec<BlockView>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlockView {
    pub cidr: String,
    pub affinity: Option<String>,
    pub counts: CountsView,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BorrowedView {
    pub address: IpAddr,
    pub borrowing_node: String,
    pub block: String,
    pub block_owner: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub allocated_to: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigurationView {
    pub strict_affinity: bool,
    pub auto_allocate_blocks: bool,
    /// 0: the allocator's own limit.
    pub max_blocks_per_host: u32,
    pub ip_cooldown_seconds: i64,
    pub kube_virt_vm_address_persistence: String,
}

/// All that is known of an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AddressView {
    pub address: IpAddr,
    pub pool: Option<String>,
    pub block: Option<String>,
    pub block_owner: Option<String>,
    pub is_reserved: bool,
    pub is_assigned: bool,
    pub handle: Option<String>,
    pub attributes: BTreeMap<String, String>,
    /// The number of the block when it was given out.
    pub sequence: Option<u64>,
    pub rests_until: Option<String>,
    /// Endpoints that have it, `NAMESPACE/NAME`.
    pub endpoints: Vec<String>,
}

/// What `ipam check` has found: also the form of its report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckView {
    pub version: String,
    #[serde(rename = "clusterGUID")]
    pub cluster_guid: String,
    /// Of ClusterInformation: it changes when the datastore is locked.
    pub cluster_information_revision: String,
    pub is_locked: bool,
    pub pools: Vec<String>,
    pub blocks: Vec<CheckedBlock>,
    pub tunnel_addresses: usize,
    pub workload_addresses: usize,
    /// Addresses by node.
    pub nodes: BTreeMap<String, usize>,
    pub handles_with_addresses: usize,
    /// Given out, and no endpoint or node has them.
    pub leaked: Vec<CheckedAddress>,
    /// An endpoint has them: outside of all pools; in one, but not given out.
    pub outside_pools: Vec<CheckedAddress>,
    pub not_assigned: Vec<CheckedAddress>,
    pub all: Vec<CheckedAddress>,
    pub handles_without_addresses: Vec<String>,
    pub missing_handles: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckedBlock {
    pub cidr: String,
    pub affinity: Option<String>,
    pub allocations: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckedAddress {
    pub address: IpAddr,
    pub handle: Option<String>,
    pub sequence: Option<u64>,
    /// Whose it is, in words.
    pub owner: String,
}

impl CheckView {
    pub fn problems(&self) -> usize {
        self.leaked.len()
            + self.outside_pools.len()
            + self.not_assigned.len()
            + self.handles_without_addresses.len()
            + self.missing_handles.len()
    }
}

impl AssignCall {
    /// Whose the addresses will be.
    pub fn owner(&self, node: &str, timestamp: String) -> AllocationAttributes {
        if let Some(tunnel) = self.tunnel {
            return tunnel.attributes(node);
        }
        let mut secondary = self.attributes.clone();
        secondary.insert("node".to_string(), node.to_string());
        secondary.entry("timestamp".to_string()).or_insert(timestamp);
        AllocationAttributes { handle_id: self.handle.clone(), secondary, ..AllocationAttributes::default() }
    }
}

impl From<IpamError> for ApiError {
    fn from(error: IpamError) -> ApiError {
        let code = match error {
            IpamError::Store(error) => return error.into(),
            IpamError::Exhausted { limit: Limit::Pools, .. } => ErrorCode::NoAddresses,
            IpamError::Exhausted { .. } => ErrorCode::NoBlocks,
            IpamError::NoPool { .. } | IpamError::UnknownPool { .. } | IpamError::OutsidePools { .. } => {
                ErrorCode::NoPool
            }
            IpamError::Taken { .. } | IpamError::Rests { .. } | IpamError::OtherBlock { .. } => ErrorCode::AddressTaken,
            IpamError::SameName { .. } => ErrorCode::AddressTaken,
            IpamError::NotAssigned { .. } => ErrorCode::NotAssigned,
            IpamError::OtherHandle { .. } | IpamError::GivenAgain { .. } => ErrorCode::NotReleased,
            IpamError::Invalid { .. } => ErrorCode::Invalid,
            IpamError::Contended { .. } => ErrorCode::Busy,
            IpamError::Together { .. } => ErrorCode::Unavailable,
            IpamError::Locked => ErrorCode::AddressesLocked,
        };
        ApiError::new(code, chain(&error))
    }
}
