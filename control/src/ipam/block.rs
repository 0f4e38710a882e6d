//! One block: addresses taken, given out by name, released, resting. Functions over the record; the clock comes in.
//!
//! ```text
//!              take, assign                  release
//!   unallocated ─────────▶ allocations[i] = attributes ─────────▶ unallocated, at the back
//!        ▲                                        └─ with a rest ─▶ allocations[i] = {releasedAt}
//!        └───────────────────────── wake, when it has rested ────────────┘
//! ```
//!
//! Every change makes the sequence number larger, and an address remembers the number it was given out at: who releases
//! one and says that number cannot release it from somebody who got it later.
//!
//! Invariants: an address is free, resting, or one owner's; records that others have damaged lose no address that has an
//! owner: what an entry of `allocations` points to may be missing, the address is taken all the same.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use config::net::Cidr;
use config::resource::{AllocationAttributes, BlockOwner, IpamBlockSpec};

use super::moment;

/// What an entry that points nowhere is taken for.
static UNKNOWN: AllocationAttributes = AllocationAttributes {
    handle_id: None,
    secondary: std::collections::BTreeMap::new(),
    alternate: std::collections::BTreeMap::new(),
    released_at: None,
};

/// What the addresses of a block, or of a pool, are doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    pub total: u128,
    pub used: u128,
    pub resting: u128,
    /// Of those that are free: kept back by an IPReservation.
    pub reserved: u128,
}

impl Counts {
    pub fn free(&self) -> u128 {
        self.total.saturating_sub(self.used + self.resting + self.reserved)
    }
}

/// A block that nobody has an address of.
pub fn new(cidr: Cidr, owner: Option<&BlockOwner>, now: SystemTime) -> IpamBlockSpec {
    let nanoseconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let mut block = IpamBlockSpec {
        cidr,
        affinity: owner.map(BlockOwner::to_string),
        affinity_claim_time: owner.map(|_| moment::text(now)),
        allocations: Vec::new(),
        unallocated: Vec::new(),
        attributes: Vec::new(),
        // A block that is deleted and made anew shall not repeat the numbers of the old one.
        sequence_number: u64::try_from(nanoseconds).unwrap_or(u64::MAX),
        sequence_number_for_allocation: Default::default(),
        deleted: false,
        strict_affinity: false,
    };
    let size = block.size();
    block.allocations = vec![None; size];
    block.unallocated = (0..size as u32).collect();
    block
}

/// Takes up to `count` free addresses for `owner`, those that have been free for the longest first.
pub fn take(
    block: &mut IpamBlockSpec,
    count: usize,
    owner: &AllocationAttributes,
    is_reserved: &dyn Fn(IpAddr) -> bool,
    rest: Duration,
    now: SystemTime,
) -> Vec<IpAddr> {
    mend(block);
    wake(block, rest, now);
    let free = std::mem::take(&mut block.unallocated);
    let is_wanted = |ordinal: &u32| !is_reserved(block.address(*ordinal as usize));
    let taken: Vec<u32> = free.iter().copied().filter(is_wanted).take(count).collect();
    block.unallocated = free.into_iter().filter(|ordinal| !taken.contains(ordinal)).collect();
    if taken.is_empty() {
        return Vec::new();
    }
    give(block, &taken, owner);
    taken.into_iter().map(|ordinal| block.address(ordinal as usize)).collect()
}

/// Takes one address, which has to be free.
pub fn assign(
    block: &mut IpamBlockSpec,
    ordinal: usize,
    owner: &AllocationAttributes,
    rest: Duration,
    now: SystemTime,
) -> Result<(), AllocationAttributes> {
    mend(block);
    wake(block, rest, now);
    match block.allocations.get(ordinal) {
        Some(None) => {
            block.unallocated.retain(|free| *free as usize != ordinal);
            give(block, &[ordinal as u32], owner);
            Ok(())
        }
        _ => Err(holder(block, ordinal).unwrap_or(&UNKNOWN).clone()),
    }
}

fn give(block: &mut IpamBlockSpec, ordinals: &[u32], owner: &AllocationAttributes) {
    let index = match block.attributes.iter().position(|known| known == owner) {
        Some(index) => index,
        None => {
            block.attributes.push(owner.clone());
            block.attributes.len() - 1
        }
    };
    block.sequence_number = block.sequence_number.wrapping_add(1);
    for ordinal in ordinals {
        block.allocations[*ordinal as usize] = Some(index as u32);
        block.sequence_number_for_allocation.insert(ordinal.to_string(), block.sequence_number);
    }
}

/// Takes addresses from whoever has them. Those that nobody has stay as they are.
pub fn release(block: &mut IpamBlockSpec, ordinals: &[usize], rest: Duration, now: SystemTime) {
    let held: Vec<usize> = ordinals.iter().copied().filter(|ordinal| holder(block, *ordinal).is_some()).collect();
    if held.is_empty() {
        return;
    }
    mend(block);
    block.sequence_number = block.sequence_number.wrapping_add(1);
    let resting = AllocationAttributes { released_at: Some(moment::text(now)), ..AllocationAttributes::default() };
    let entry = (!rest.is_zero()).then(|| {
        block.attributes.push(resting);
        (block.attributes.len() - 1) as u32
    });
    for ordinal in held {
        // Named twice, it is given back once.
        if block.allocations[ordinal] == entry {
            continue;
        }
        block.allocations[ordinal] = entry;
        block.sequence_number_for_allocation.remove(&ordinal.to_string());
        if entry.is_none() {
            block.unallocated.push(ordinal as u32);
        }
    }
    tidy(block);
}

/// Makes addresses free that have rested for long enough. Returns whether there were any.
pub fn wake(block: &mut IpamBlockSpec, rest: Duration, now: SystemTime) -> bool {
    let has_rested = |attributes: &AllocationAttributes| {
        let released = attributes.released_at.as_deref().map(moment::read);
        // A time that cannot be read would keep the address for ever.
        released.is_some_and(|at| at.is_none_or(|at| at + rest <= now))
    };
    let awake: Vec<bool> = block.attributes.iter().map(has_rested).collect();
    if !awake.contains(&true) {
        return false;
    }
    for (ordinal, entry) in block.allocations.iter_mut().enumerate() {
        if entry.is_some_and(|index| awake.get(index as usize) == Some(&true)) {
            *entry = None;
            block.unallocated.push(ordinal as u32);
        }
    }
    block.sequence_number = block.sequence_number.wrapping_add(1);
    tidy(block);
    true
}

/// Makes a damaged record one that can be changed. What points nowhere points to attributes that say nothing, so that it does
/// not become somebody's whose attributes come to stand there; what is free stands in the list of free ones, once.
fn mend(block: &mut IpamBlockSpec) {
    let size = block.size();
    block.allocations.resize(size, None);
    let count = block.attributes.len();
    let is_astray = |entry: &Option<u32>| entry.is_some_and(|index| index as usize >= count);
    if block.allocations.iter().any(is_astray) {
        block.attributes.push(UNKNOWN.clone());
        block.allocations.iter_mut().filter(|entry| is_astray(entry)).for_each(|entry| *entry = Some(count as u32));
    }
    let mut is_listed = vec![false; size];
    let allocations = &block.allocations;
    block.unallocated.retain(|ordinal| {
        let is_free = allocations.get(*ordinal as usize) == Some(&None);
        is_free && !std::mem::replace(&mut is_listed[*ordinal as usize], true)
    });
    let is_forgotten = |ordinal: &usize| allocations[*ordinal].is_none() && !is_listed[*ordinal];
    block.unallocated.extend((0..size).filter(is_forgotten).map(|ordinal| ordinal as u32));
}

/// Drops attributes that no address has any more.
fn tidy(block: &mut IpamBlockSpec) {
    let mut places: Vec<Option<u32>> = vec![None; block.attributes.len()];
    let old = std::mem::take(&mut block.attributes);
    for entry in block.allocations.iter_mut() {
        let Some(index) = *entry else { continue };
        let Some(place) = places.get_mut(index as usize) else { continue };
        let place = place.get_or_insert_with(|| {
            block.attributes.push(old[index as usize].clone());
            (block.attributes.len() - 1) as u32
        });
        *entry = Some(*place);
    }
}

/// Who has the address. Nobody has one that rests.
pub fn holder(block: &IpamBlockSpec, ordinal: usize) -> Option<&AllocationAttributes> {
    let index = (*block.allocations.get(ordinal)?)?;
    let attributes = block.attributes.get(index as usize).unwrap_or(&UNKNOWN);
    attributes.released_at.is_none().then_some(attributes)
}

/// Addresses that somebody has, by their place.
pub fn held(block: &IpamBlockSpec) -> impl Iterator<Item = (usize, &AllocationAttributes)> {
    (0..block.allocations.len().min(block.size())).filter_map(|ordinal| Some((ordinal, holder(block, ordinal)?)))
}

/// The number the block had when the address was given out.
pub fn sequence(block: &IpamBlockSpec, ordinal: usize) -> Option<u64> {
    block.sequence_number_for_allocation.get(&ordinal.to_string()).copied()
}

/// No address has an owner, and none rests.
pub fn is_empty(block: &IpamBlockSpec) -> bool {
    block.allocations.iter().all(Option::is_none)
}

/// When the address will be free again, if it rests.
pub fn rests_until(block: &IpamBlockSpec, ordinal: usize, rest: Duration) -> Option<SystemTime> {
    let index = (*block.allocations.get(ordinal)?)?;
    let released = block.attributes.get(index as usize)?.released_at.as_deref()?;
    Some(moment::read(released)? + rest)
}

pub fn counts(block: &IpamBlockSpec, is_reserved: &dyn Fn(IpAddr) -> bool) -> Counts {
    let mut counts = Counts { total: block.size() as u128, ..Counts::default() };
    for (ordinal, entry) in block.allocations.iter().enumerate() {
        match (entry, holder(block, ordinal)) {
            (Some(_), Some(_)) => counts.used += 1,
            (Some(_), None) => counts.resting += 1,
            (None, _) if is_reserved(block.address(ordinal)) => counts.reserved += 1,
            (None, _) => {}
        }
    }
    counts
}
