//! Which pools may be used, their blocks in the order in which a node tries them, and what holds for all of them.
//!
//! ```text
//!   asked for by name or CIDR ───────────────────────────────────────────┐
//!   else: enabled, Automatic, node selected, namespace selected ─────────┴─▶ allowedUses ─▶ candidates
//! ```
//!
//! Nodes begin at different blocks, each at one that follows from its name, so that they seldom meet.
//!
//! Bounds: `WALK` blocks of a pool are tried; an IPv6 pool may have more than can be counted.
//!
//! Sources: FNV-1 of 32 bits, which Calico begins at.

use std::net::IpAddr;
use std::time::Duration;

use config::net::{Cidr, IpVersion};
use config::resource::{AllowedUse, AssignmentMode, IpPool, Key, Kind, Resource};

use super::block::{self, Counts};
use super::error::{IpamError, PassedOver, PoolState};
use super::records::Records;
use crate::resources::Resources;

/// Blocks of one pool that are looked at for one that is free.
pub const WALK: u128 = 1 << 20;

/// Blocks of one family that a node may have when nothing says how many.
pub const BLOCKS_PER_HOST: usize = 20;

/// The name of the only IPAMConfiguration.
pub const CONFIGURATION: &str = "default";

/// What an IPAMConfiguration says, or its defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    pub is_strict: bool,
    pub may_claim: bool,
    pub max_blocks: usize,
    /// How long an address rests that was released.
    pub rest: Duration,
}

impl Rules {
    pub fn of(resources: &Resources) -> Rules {
        let key = Key::cluster(Kind::IpamConfiguration, CONFIGURATION);
        let spec = match resources.get(&key) {
            Some(Resource::IpamConfiguration(configuration)) => configuration.spec.clone(),
            _ => Default::default(),
        };
        let rest = spec.ip_cooldown_seconds.map_or(0, |seconds| seconds.get().unsigned_abs());
        Rules {
            is_strict: spec.strict_affinity,
            may_claim: spec.auto_allocate_blocks,
            max_blocks: match spec.max_blocks_per_host {
                0 => BLOCKS_PER_HOST,
                most => most as usize,
            },
            rest: Duration::from_secs(rest),
        }
    }
}

/// What addresses are for, and who wants them.
#[derive(Debug, Clone)]
pub struct Wish<'a> {
    pub family: IpVersion,
    pub intended: AllowedUse,
    pub host: &'a str,
    pub namespace: Option<&'a str>,
    /// Names or CIDRs of pools; none leaves it to their selectors.
    pub requested: &'a [String],
}

/// The pools to take addresses from, by name.
pub fn candidates<'a>(resources: &'a Resources, wish: &Wish<'_>) -> Result<Vec<&'a IpPool>, IpamError> {
    let of_family = |pool: &&IpPool| pool.spec.cidr.version() == wish.family;
    let mut passed_over = Vec::new();
    let mut found = Vec::new();
    if wish.requested.is_empty() {
        for pool in resources.ip_pools().filter(of_family) {
            match reason_against(resources, pool, wish) {
                None => found.push(pool),
                Some(why) => passed_over.push(PassedOver { pool: pool.metadata.name.clone(), why }),
            }
        }
    } else {
        for wanted in wish.requested {
            let Some(pool) = named(resources, wanted) else {
                let known = resources.ip_pools().filter(|pool| !pool.spec.disabled && of_family(pool));
                let known = known.map(|pool| format!("{} ({})", pool.metadata.name, pool.spec.cidr)).collect();
                return Err(IpamError::UnknownPool { pool: wanted.clone(), known });
            };
            match of_family(&pool) {
                true => found.push(pool),
                false => passed_over.push(PassedOver { pool: wanted.clone(), why: "its family" }),
            }
        }
    }
    found.retain(|pool| {
        let is_for = pool.spec.is_for(wish.intended);
        if !is_for {
            passed_over.push(PassedOver { pool: pool.metadata.name.clone(), why: "its allowedUses" });
        }
        is_for
    });
    match found.is_empty() {
        true => Err(IpamError::NoPool { family: wish.family, intended: wish.intended, passed_over }),
        false => Ok(found),
    }
}

/// The pool that is meant, if it is enabled.
pub fn named<'a>(resources: &'a Resources, wanted: &str) -> Option<&'a IpPool> {
    let is_meant = |pool: &&IpPool| pool.metadata.name == wanted || pool.spec.cidr.to_string() == wanted;
    resources.ip_pools().find(is_meant).filter(|pool| !pool.spec.disabled)
}

fn reason_against(resources: &Resources, pool: &IpPool, wish: &Wish<'_>) -> Option<&'static str> {
    if pool.spec.disabled {
        return Some("disabled");
    }
    if pool.spec.assignment_mode != AssignmentMode::Automatic {
        return Some("assignmentMode Manual");
    }
    if !selects_node(resources, pool, wish.host) {
        return Some("its nodeSelector");
    }
    let is_namespace_selected = match (&pool.spec.namespace_selector, wish.namespace) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(selector), Some(name)) => match resources.get(&Key::cluster(Kind::Namespace, name)) {
            Some(Resource::Namespace(namespace)) => selector.matches(&namespace.metadata.labels),
            _ => false,
        },
    };
    (!is_namespace_selected).then_some("its namespaceSelector")
}

/// Whether a node may have blocks of the pool. A node that has no resource has no labels.
pub fn selects_node(resources: &Resources, pool: &IpPool, host: &str) -> bool {
    match resources.get(&Key::cluster(Kind::Node, host)) {
        Some(Resource::Node(node)) => pool.spec.node_selector.matches(&node.metadata.labels),
        _ => pool.spec.node_selector.matches(&config::resource::Labels::default()),
    }
}

/// The pool that an address is of, enabled or not.
pub fn pool_of(resources: &Resources, address: IpAddr) -> Option<&IpPool> {
    resources.ip_pools().find(|pool| pool.spec.cidr.contains(address))
}

/// The block of a pool that an address is in.
pub fn block_at(pool: &IpPool, address: IpAddr) -> Option<Cidr> {
    Some(Cidr::new(address, pool.spec.block_size)?.masked())
}

/// What is kept back.
pub fn reserved(resources: &Resources) -> Vec<Cidr> {
    resources.ip_reservations().flat_map(|reservation| reservation.spec.reserved_cidrs.iter().copied()).collect()
}

/// Whether every address of a block is kept back, by one reservation or by several.
pub fn is_all_reserved(block: Cidr, reserved: &[Cidr]) -> bool {
    !reserved.is_empty() && covered(block, reserved) == covered(block, &[block])
}

/// How many blocks a pool has.
pub fn block_count(pool: &IpPool) -> u128 {
    let bits = u32::from(pool.spec.block_size.saturating_sub(pool.spec.cidr.length()));
    1u128.checked_shl(bits).unwrap_or(u128::MAX)
}

/// The blocks of a pool, from the one that follows from the host's name, around to the one before it.
pub fn blocks_from(pool: &IpPool, host: &str) -> impl Iterator<Item = Cidr> {
    let count = block_count(pool);
    let start = u128::from(fnv1(host.as_bytes())) % count;
    let (network, length) = (pool.spec.cidr.masked().address(), pool.spec.block_size);
    let bits = IpVersion::of(network).address_bits().saturating_sub(length);
    (0..count.min(WALK)).filter_map(move |step| {
        let index = start.checked_add(step)? % count;
        let offset = index.checked_shl(bits.into())?;
        let address = match network {
            IpAddr::V4(first) => IpAddr::V4(first.to_bits().checked_add(u32::try_from(offset).ok()?)?.into()),
            IpAddr::V6(first) => IpAddr::V6(first.to_bits().checked_add(offset)?.into()),
        };
        Cidr::new(address, length)
    })
}

/// FNV-1, not FNV-1a.
pub fn fnv1(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash: u32, byte| hash.wrapping_mul(0x0100_0193) ^ u32::from(*byte))
}

/// What the addresses of a pool are doing.
pub fn state(pool: &IpPool, records: &Records, reserved: &[Cidr]) -> PoolState {
    let bits = u32::from(pool.spec.cidr.version().address_bits() - pool.spec.cidr.length());
    let mut counts = Counts { total: 1u128.checked_shl(bits).unwrap_or(u128::MAX), ..Counts::default() };
    let is_reserved = |address: IpAddr| reserved.iter().any(|cidr| cidr.contains(address));
    let mut reserved_in_blocks = 0u128;
    for block in records.blocks_in(pool.spec.cidr) {
        let of_block = block::counts(block, &is_reserved);
        counts.used += of_block.used;
        counts.resting += of_block.resting;
        // Reserved ones that somebody has all the same count as used.
        let held = block.allocations.iter().enumerate().filter(|(_, entry)| entry.is_some());
        reserved_in_blocks += held.filter(|(ordinal, _)| is_reserved(block.address(*ordinal))).count() as u128;
    }
    let all_reserved = covered(pool.spec.cidr, reserved);
    counts.reserved = all_reserved.saturating_sub(reserved_in_blocks);
    PoolState { name: pool.metadata.name.clone(), cidr: pool.spec.cidr.to_string(), counts }
}

/// How many addresses of a network are in some of these.
fn covered(network: Cidr, networks: &[Cidr]) -> u128 {
    let bits = u32::from(network.version().address_bits());
    let size = |cidr: &Cidr| 1u128.checked_shl(bits - u32::from(cidr.length())).unwrap_or(u128::MAX);
    let mut inside: Vec<Cidr> = networks.iter().map(Cidr::masked).filter(|cidr| network.overlaps(cidr)).collect();
    if inside.iter().any(|cidr| cidr.length() <= network.length()) {
        return size(&network);
    }
    // A network is whole within another or beside it: larger ones first, each counts once.
    inside.sort_by_key(|cidr| (cidr.length(), cidr.address()));
    let mut kept: Vec<Cidr> = Vec::new();
    for cidr in inside {
        if !kept.iter().any(|outer| outer.contains(cidr.address())) {
            kept.push(cidr);
        }
    }
    kept.iter().map(size).fold(0, u128::saturating_add)
}
