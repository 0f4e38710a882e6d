//! Blocks that belong to somebody: claimed, confirmed, given up.
//!
//! ```text
//!               claim                                 give up
//!   ─────────▶ pending ──▶ block made ──▶ confirmed ─────────────▶ pendingDeletion ──▶ block deleted, ──▶ ─
//!                 └── the block is another's ──▶ deleted                               or without owner
//! ```
//!
//! Each arrow is one write. Whoever stops between two is followed by `settle`, which goes on from where the records are.

use std::time::SystemTime;

use config::net::Cidr;
use config::resource::{
    AffinityType, BlockAffinity, BlockAffinitySpec, BlockAffinityState, BlockOwner, IpamBlockSpec, Metadata,
};

use super::block;
use super::records::Draft;

/// Makes a block of an owner that is not there yet.
pub fn claim(draft: &mut Draft<'_>, owner: &BlockOwner, cidr: Cidr, now: SystemTime) {
    put(draft, owner, cidr, BlockAffinityState::Pending);
    draft.put_block(block::new(cidr, Some(owner), now));
    put(draft, owner, cidr, BlockAffinityState::Confirmed);
}

/// Goes on where somebody stopped. Whether the block is the owner's now.
///
/// What is known of the affinity may be old. So a block is never made for one that is not written again: the write tells.
pub fn settle(draft: &mut Draft<'_>, owner: &BlockOwner, affinity: &BlockAffinity, now: SystemTime) -> bool {
    let cidr = affinity.spec.cidr.masked();
    let is_given_up = affinity.spec.deleted || affinity.spec.state == BlockAffinityState::PendingDeletion;
    let is_confirmed = affinity.spec.state == BlockAffinityState::Confirmed;
    match draft.records().block(&cidr) {
        None if is_given_up => {
            draft.delete_affinity(owner, &cidr);
            false
        }
        None => {
            claim(draft, owner, cidr, now);
            true
        }
        Some(block) if block.owner().as_ref() == Some(owner) => {
            // Somebody wanted it for being empty, and it is not any more.
            if is_given_up && block::is_empty(block) {
                give_up(draft, owner, cidr);
                return false;
            }
            if !is_confirmed {
                put(draft, owner, cidr, BlockAffinityState::Confirmed);
            }
            true
        }
        Some(_) => {
            draft.delete_affinity(owner, &cidr);
            false
        }
    }
}

/// Makes an affinity for a block that says whose it is, and has none.
pub fn confirm(draft: &mut Draft<'_>, owner: &BlockOwner, cidr: Cidr) {
    put(draft, owner, cidr, BlockAffinityState::Confirmed);
}

/// Gives a block up. Addresses in it stay whose they are; the block goes with the last of them.
pub fn give_up(draft: &mut Draft<'_>, owner: &BlockOwner, cidr: Cidr) {
    let state = draft.records().affinity(owner, &cidr).map(|affinity| affinity.spec.state);
    if state.is_some_and(|state| state != BlockAffinityState::PendingDeletion) {
        put(draft, owner, cidr, BlockAffinityState::PendingDeletion);
    }
    if let Some(own) = draft.records().block(&cidr).filter(|block| block.owner().as_ref() == Some(owner)) {
        match block::is_empty(own) {
            true => draft.delete_block(&cidr),
            false => {
                let sequence_number = own.sequence_number.wrapping_add(1);
                let block = own.clone();
                let free = IpamBlockSpec { affinity: None, affinity_claim_time: None, sequence_number, ..block };
                draft.put_block(free);
            }
        }
    }
    if state.is_some() {
        draft.delete_affinity(owner, &cidr);
    }
}

fn put(draft: &mut Draft<'_>, owner: &BlockOwner, cidr: Cidr, state: BlockAffinityState) {
    let affinity_type = match owner {
        BlockOwner::Host(_) => AffinityType::Host,
        BlockOwner::Virtual(_) => AffinityType::Virtual,
    };
    let spec = BlockAffinitySpec { state, node: owner.name().to_string(), affinity_type, cidr, deleted: false };
    draft.put_affinity(owner, BlockAffinity { metadata: Metadata::default(), spec });
}
