//! Addresses given out: from own blocks, from blocks claimed for it, from blocks of others.
//!
//! ```text
//!   own blocks ──short──▶ claim one that is not there ──▶ claim an empty one of another ──▶ borrow ──▶ error
//!                         (autoAllocateBlocks, below the node's limit)                      (not strict)
//! ```
//!
//! Every function drafts writes and makes none: handle before block, affinity before block. What fails has drafted
//! something all the same; the caller rolls that back.
//!
//! Invariants: an address is taken from one place only, its block; two nodes that take from one block meet at its revision.
//!
//! Sources: Calico's auto-assignment, from candidate pools to borrowing.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use config::net::{Cidr, IpVersion};
use config::resource::{AllocationAttributes, AllowedUse, BlockOwner, IpPool};

use super::error::{IpamError, Limit};
use super::pools::{self, Rules, Wish};
use super::records::Draft;
use super::{affinity, block, handle, moment};
use crate::resources::Resources;

/// How old the claim of another's empty block has to be before the block may be claimed from it.
const CLAIM_AGE: Duration = Duration::from_secs(60);

/// Most addresses of one request.
pub const COUNT_MAX: usize = 4096;

/// Some addresses, of any block that the asker may have.
#[derive(Debug, Clone, PartialEq)]
pub struct Ask {
    pub count: usize,
    pub family: IpVersion,
    pub owner: AllocationAttributes,
    pub host: String,
    pub namespace: Option<String>,
    /// Names or CIDRs of pools; none leaves it to their selectors.
    pub pools: Vec<String>,
    pub intended: AllowedUse,
    /// Blocks that the host may have, where it is not the configuration that says so.
    pub max_blocks: Option<usize>,
}

/// One address that was given out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    pub address: IpAddr,
    pub block: Cidr,
}

struct Search<'a, 'r, 'd> {
    draft: &'d mut Draft<'r>,
    ask: &'a Ask,
    owner: BlockOwner,
    pools: Vec<&'a IpPool>,
    reserved: Vec<Cidr>,
    rules: Rules,
    now: SystemTime,
    given: Vec<Given>,
}

/// All addresses that are asked for, or none.
pub fn auto_assign(
    draft: &mut Draft<'_>,
    resources: &Resources,
    ask: &Ask,
    now: SystemTime,
) -> Result<Vec<Given>, IpamError> {
    if !(1..=COUNT_MAX).contains(&ask.count) {
        let (found, expected) = (ask.count.to_string(), format!("1 to {COUNT_MAX}"));
        return Err(IpamError::Invalid { what: "count".to_string(), found, expected });
    }
    if let Some(handle) = &ask.owner.handle_id {
        handle::check(draft, handle)?;
    }
    let wish = Wish {
        family: ask.family,
        intended: ask.intended,
        host: &ask.host,
        namespace: ask.namespace.as_deref(),
        requested: &ask.pools,
    };
    let pools = pools::candidates(resources, &wish)?;
    let mut rules = Rules::of(resources);
    rules.max_blocks = ask.max_blocks.unwrap_or(rules.max_blocks);
    let owner = BlockOwner::Host(ask.host.clone());
    let reserved = pools::reserved(resources);
    let mut search = Search { draft, ask, owner, pools, reserved, rules, now, given: Vec::new() };
    let own = search.own_blocks(resources);
    for cidr in &own {
        if search.is_candidate(cidr) {
            search.take(*cidr);
        }
    }
    // Blocks of the family count, whichever pool they are of.
    let mut count = own.iter().filter(|cidr| cidr.version() == ask.family).count();
    while search.is_short() && search.rules.may_claim && count < search.rules.max_blocks {
        let Some(cidr) = search.claim() else { break };
        search.take(cidr);
        count += 1;
    }
    if search.is_short() && !search.rules.is_strict {
        search.borrow();
    }
    match search.is_short() {
        false => Ok(search.given),
        true => Err(search.exhausted(count)),
    }
}

impl Search<'_, '_, '_> {
    fn is_short(&self) -> bool {
        self.given.len() < self.ask.count
    }

    fn is_candidate(&self, cidr: &Cidr) -> bool {
        self.pools.iter().any(|pool| pool.spec.cidr.contains(cidr.address()))
    }

    /// The host's blocks, with what was left half done put right. Empty ones of pools that do not select it any more are
    /// given up.
    fn own_blocks(&mut self, resources: &Resources) -> Vec<Cidr> {
        let affinities: Vec<_> = self.draft.records().affinities_of(&self.owner).cloned().collect();
        let mut own = Vec::with_capacity(affinities.len());
        for affinity in affinities {
            let cidr = affinity.spec.cidr.masked();
            if !affinity::settle(self.draft, &self.owner, &affinity, self.now) {
                continue;
            }
            let is_unselected = pools::pool_of(resources, cidr.address())
                .is_some_and(|pool| !pools::selects_node(resources, pool, &self.ask.host));
            let is_empty = self.draft.records().block(&cidr).is_some_and(block::is_empty);
            match is_unselected && is_empty {
                true => affinity::give_up(self.draft, &self.owner, cidr),
                false => own.push(cidr),
            }
        }
        own
    }

    /// Takes what is still wanted from a block, as far as it goes.
    fn take(&mut self, cidr: Cidr) {
        let wanted = self.ask.count - self.given.len();
        let Some(known) = self.draft.records().block(&cidr).filter(|_| wanted > 0) else { return };
        let mut block = known.clone();
        let is_reserved = |address: IpAddr| self.reserved.iter().any(|cidr| cidr.contains(address));
        let taken = block::take(&mut block, wanted, &self.ask.owner, &is_reserved, self.rules.rest, self.now);
        if taken.is_empty() {
            return;
        }
        if let Some(handle) = &self.ask.owner.handle_id {
            handle::add(self.draft, handle, &cidr, taken.len() as u64);
        }
        self.draft.put_block(block);
        self.given.extend(taken.into_iter().map(|address| Given { address, block: cidr }));
    }

    /// Claims a block that nobody has, or an empty one of somebody else.
    fn claim(&mut self) -> Option<Cidr> {
        let records = self.draft.records();
        let is_free = |cidr: &Cidr| records.block(cidr).is_none() && !pools::is_all_reserved(*cidr, &self.reserved);
        let mut all = self.pools.iter().flat_map(|pool| pools::blocks_from(pool, &self.ask.host));
        if let Some(cidr) = all.find(is_free) {
            affinity::claim(self.draft, &self.owner, cidr, self.now);
            return Some(cidr);
        }
        let idle = self.pools.iter().flat_map(|pool| records.blocks_in(pool.spec.cidr)).find_map(|block| {
            let other = block.owner().filter(|other| matches!(other, BlockOwner::Host(_)) && *other != self.owner)?;
            let claimed = block.affinity_claim_time.as_deref().and_then(moment::read);
            let is_old = claimed.is_none_or(|at| at + CLAIM_AGE <= self.now);
            let is_reserved = pools::is_all_reserved(block.cidr, &self.reserved);
            (is_old && !is_reserved && block::is_empty(block)).then_some((other, block.cidr))
        });
        let (other, cidr) = idle?;
        affinity::give_up(self.draft, &other, cidr);
        affinity::claim(self.draft, &self.owner, cidr, self.now);
        Some(cidr)
    }

    /// Takes from blocks of others, each host in an order of its own.
    fn borrow(&mut self) {
        let blocks = self.pools.iter().flat_map(|pool| self.draft.records().blocks_in(pool.spec.cidr));
        let others = blocks.filter(|block| block.owner().as_ref() != Some(&self.owner));
        let order = |cidr: &Cidr| pools::fnv1(format!("{} {cidr}", self.ask.host).as_bytes());
        let mut others: Vec<(u32, Cidr)> = others.map(|block| (order(&block.cidr), block.cidr)).collect();
        others.sort_unstable();
        for (_, cidr) in others {
            self.take(cidr);
            if !self.is_short() {
                return;
            }
        }
    }

    fn exhausted(&mut self, blocks: usize) -> IpamError {
        // Counted without what this request has drafted: nothing of it is kept.
        let found = self.given.len();
        let ordered = |pool: &&IpPool| pools::state(pool, self.draft.records(), &self.reserved);
        let mut pools: Vec<_> = self.pools.iter().map(ordered).collect();
        for given in &self.given {
            let of = self.pools.iter().position(|pool| pool.spec.cidr.contains(given.address));
            if let Some(position) = of {
                pools[position].counts.used = pools[position].counts.used.saturating_sub(1);
            }
        }
        let free: u128 = pools.iter().map(|pool| pool.counts.free()).sum();
        let limit = match (free > found as u128, self.rules) {
            (false, _) => Limit::Pools,
            (true, rules) if !rules.may_claim => Limit::NoClaims,
            (true, rules) if blocks >= rules.max_blocks => Limit::Blocks(rules.max_blocks),
            (true, rules) if rules.is_strict => Limit::Strict,
            (true, _) => Limit::Pools,
        };
        IpamError::Exhausted { wanted: self.ask.count, found, family: self.ask.family, limit, pools }
    }
}

/// One address by name. Reservations, disabled pools and selectors do not matter to who knows what he wants.
pub fn assign_address(
    draft: &mut Draft<'_>,
    resources: &Resources,
    address: IpAddr,
    owner: &AllocationAttributes,
    host: &str,
    now: SystemTime,
) -> Result<Given, IpamError> {
    if let Some(handle) = &owner.handle_id {
        handle::check(draft, handle)?;
    }
    let pool = pools::pool_of(resources, address).filter(|pool| pool.spec.is_for(AllowedUse::Workload));
    let cidr = pool.and_then(|pool| pools::block_at(pool, address));
    let Some(cidr) = cidr else {
        let pools = resources.ip_pools().filter(|pool| pool.spec.is_for(AllowedUse::Workload));
        let pools = pools.map(|pool| format!("{} ({})", pool.metadata.name, pool.spec.cidr)).collect();
        return Err(IpamError::OutsidePools { address, pools });
    };
    let rules = Rules::of(resources);
    let own = BlockOwner::Host(host.to_string());
    // One of an earlier block size is as good.
    let cidr = draft.records().block_of(address).map_or(cidr, |block| block.cidr);
    if draft.records().block(&cidr).is_none() {
        affinity::claim(draft, &own, cidr, now);
    }
    let Some(known) = draft.records().block(&cidr) else {
        return Err(IpamError::OutsidePools { address, pools: Vec::new() });
    };
    if let Some(other) = known.owner().filter(|other| rules.is_strict && *other != own) {
        return Err(IpamError::OtherBlock { address, owner: other.to_string() });
    }
    let mut block = known.clone();
    let ordinal = block.ordinal(address).unwrap_or(usize::MAX);
    if let Err(holder) = block::assign(&mut block, ordinal, owner, rules.rest, now) {
        return Err(match block::rests_until(&block, ordinal, rules.rest) {
            Some(until) => IpamError::Rests { address, until: moment::text(until) },
            None => {
                let holder = holder.handle_id.unwrap_or_else(|| "unknown".to_string());
                IpamError::Taken { address, holder }
            }
        });
    }
    if let Some(handle) = &owner.handle_id {
        handle::add(draft, handle, &cidr, 1);
    }
    draft.put_block(block);
    Ok(Given { address, block: cidr })
}
