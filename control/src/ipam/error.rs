//! Why there is no address, told so that the next step is clear.

use std::net::IpAddr;

use config::net::IpVersion;
use config::resource::AllowedUse;

use super::block::Counts;
use crate::datastore::StoreError;

/// A pool, and what its addresses are doing.
#[derive(Debug, Clone, PartialEq)]
pub struct PoolState {
    pub name: String,
    pub cidr: String,
    pub counts: Counts,
}

/// Why blocks were not enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Every address of the pools has an owner, rests, or is reserved.
    Pools,
    /// The node has as many blocks as it may have, and may not borrow.
    Blocks(usize),
    /// The node may claim no block, and may not borrow.
    NoClaims,
    /// Free addresses are in blocks of other nodes, and may not be borrowed.
    Strict,
}

/// A pool that was passed over, and the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassedOver {
    pub pool: String,
    pub why: &'static str,
}

#[derive(Debug, thiserror::Error)]
pub enum IpamError {
    #[error("{}", no_pool(*family, *intended, passed_over))]
    NoPool { family: IpVersion, intended: AllowedUse, passed_over: Vec<PassedOver> },

    #[error("pool {pool}: found no enabled IPPool of this name or CIDR, expected one of {}", known.join(", "))]
    UnknownPool { pool: String, known: Vec<String> },

    #[error("{}", exhausted(*wanted, *found, *family, *limit, pools))]
    Exhausted { wanted: usize, found: usize, family: IpVersion, limit: Limit, pools: Vec<PoolState> },

    #[error("{address} is in no IPPool for workloads; the pools are {}", pools.join(", "))]
    OutsidePools { address: IpAddr, pools: Vec<String> },

    #[error("{address} has an owner already: handle {holder}; release it first, or ask for another")]
    Taken { address: IpAddr, holder: String },

    #[error("{address} was released and rests until {until}; ask for another, or lower ipCooldownSeconds")]
    Rests { address: IpAddr, until: String },

    #[error(
        "{address} is in a block of {owner}, and strictAffinity forbids to borrow it; ask for one of this node's blocks"
    )]
    OtherBlock { address: IpAddr, owner: String },

    #[error("{address} is not assigned; nothing was released")]
    NotAssigned { address: IpAddr },

    #[error("{address} belongs to handle {found}, expected {expected}; nothing was released")]
    OtherHandle { address: IpAddr, found: String, expected: String },

    #[error("{address} was given out again since it was looked at; nothing was released")]
    GivenAgain { address: IpAddr },

    #[error("handle {wanted:?} is kept under the name that handle {found:?} has; choose another")]
    SameName { wanted: String, found: String },

    #[error("{what}: found {found}, expected {expected}")]
    Invalid { what: String, found: String, expected: String },

    #[error(
        "the datastore is locked (ClusterInformation default: datastoreReady is false); no address is given out or back"
    )]
    Locked,

    #[error("other writers were faster {attempts} times in a row; try again")]
    Contended { attempts: usize },

    /// What has befallen the commit that this call shared with others.
    #[error("{text}")]
    Together { text: String },

    #[error(transparent)]
    Store(#[from] StoreError),
}

fn no_pool(family: IpVersion, intended: AllowedUse, passed_over: &[PassedOver]) -> String {
    let mut text = format!("no IPv{family} pool that this node may use for {intended:?} addresses");
    match passed_over {
        [] => text.push_str(": there is no pool of the family; apply an IPPool"),
        pools => {
            text.push_str("; passed over: ");
            let each: Vec<String> = pools.iter().map(|pool| format!("{} ({})", pool.pool, pool.why)).collect();
            text.push_str(&each.join(", "));
        }
    }
    text
}

fn exhausted(wanted: usize, found: usize, family: IpVersion, limit: Limit, pools: &[PoolState]) -> String {
    let mut text = format!("no IPv{family} addresses left: {wanted} wanted, {found} found");
    for PoolState { name, cidr, counts } in pools {
        let Counts { total, used, resting, reserved } = counts;
        text.push_str(&format!(
            "; pool {name} ({cidr}): {total} addresses, {used} in use, {reserved} reserved, {resting} resting, {} free",
            counts.free()
        ));
    }
    text.push_str(match limit {
        Limit::Pools => "; apply another IPPool, or look for addresses nobody uses with `vrouter ipam check`",
        Limit::Blocks(_) => "; this node has as many blocks as it may have",
        Limit::NoClaims => "; this node may claim no block: autoAllocateBlocks is off",
        Limit::Strict => "; what is free is in blocks of other nodes, and strictAffinity forbids to borrow",
    });
    if let Limit::Blocks(most) = limit {
        text.push_str(&format!(
            ", {most}; raise it with `vrouter ipam configure --max-blocks-per-host`, or allow borrowing with --strictaffinity=false"
        ));
    }
    if limit == Limit::Strict {
        text.push_str("; allow it with `vrouter ipam configure --strictaffinity=false`, or apply another IPPool");
    }
    text
}
