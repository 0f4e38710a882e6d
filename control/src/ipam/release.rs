//! Addresses given back: one by one, or all of a handle.
//!
//! ```text
//!   block without the address ──▶ handle counts one less ──▶ handle without addresses is deleted
//!     └─ empty, and nobody's: deleted
//! ```
//!
//! An empty block stays with its node, for the next address.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use config::net::Cidr;
use config::resource::IpamBlockSpec;

use super::error::IpamError;
use super::pools::Rules;
use super::records::Draft;
use super::{block, handle};
use crate::resources::Resources;

/// One address, and what it has to be for its release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Return {
    pub address: IpAddr,
    /// Refuse unless this handle has it.
    pub handle: Option<String>,
    /// Refuse unless it was given out when the block had this number.
    pub sequence: Option<u64>,
}

/// Gives one address back. Returns the handle that had it.
pub fn release_address(
    draft: &mut Draft<'_>,
    resources: &Resources,
    wish: &Return,
    now: SystemTime,
) -> Result<Option<String>, IpamError> {
    give_back(draft, wish, Rules::of(resources).rest, now)
}

/// Gives back what nobody was told of. It need not rest.
pub fn take_back(draft: &mut Draft<'_>, wish: &Return, now: SystemTime) -> Result<Option<String>, IpamError> {
    give_back(draft, wish, Duration::ZERO, now)
}

fn give_back(
    draft: &mut Draft<'_>,
    wish: &Return,
    rest: Duration,
    now: SystemTime,
) -> Result<Option<String>, IpamError> {
    let address = wish.address;
    let block = draft.records().block_of(address);
    let place = block.and_then(|block| Some((block, block.ordinal(address)?)));
    let found = place.and_then(|(block, ordinal)| Some((block, ordinal, block::holder(block, ordinal)?)));
    let Some((block, ordinal, holder)) = found else {
        return Err(IpamError::NotAssigned { address });
    };
    let found = holder.handle_id.clone();
    if let Some(expected) = wish.handle.as_ref().filter(|expected| found.as_ref() != Some(expected)) {
        let found = found.unwrap_or_else(|| "unknown".to_string());
        return Err(IpamError::OtherHandle { address, found, expected: expected.clone() });
    }
    if wish.sequence.is_some_and(|expected| block::sequence(block, ordinal) != Some(expected)) {
        return Err(IpamError::GivenAgain { address });
    }
    let block = block.clone();
    let cidr = block.cidr.masked();
    write(draft, block, &[ordinal], rest, now);
    if let Some(handle) = &found {
        handle::subtract(draft, handle, &cidr, 1);
    }
    Ok(found)
}

/// Gives back all addresses of a handle, which may be none.
pub fn release_handle(draft: &mut Draft<'_>, resources: &Resources, name: &str, now: SystemTime) -> Vec<IpAddr> {
    let rules = Rules::of(resources);
    let Some(spec) = draft.records().handle(name).filter(|spec| spec.handle_id == name) else { return Vec::new() };
    let blocks: Vec<String> = spec.block.keys().cloned().collect();
    let mut released = Vec::new();
    for text in blocks {
        let Ok(cidr) = Cidr::parse(&text) else { continue };
        if let Some(block) = draft.records().block(&cidr) {
            let own = block::held(block).filter(|(_, attributes)| attributes.handle_id.as_deref() == Some(name));
            let ordinals: Vec<usize> = own.map(|(ordinal, _)| ordinal).collect();
            released.extend(ordinals.iter().map(|ordinal| block.address(*ordinal)));
            if !ordinals.is_empty() {
                write(draft, block.clone(), &ordinals, rules.rest, now);
            }
        }
        // Also a count that was too high.
        handle::set(draft, name, &cidr, 0);
    }
    released
}

fn write(draft: &mut Draft<'_>, mut block: IpamBlockSpec, ordinals: &[usize], rest: Duration, now: SystemTime) {
    block::release(&mut block, ordinals, rest, now);
    match block.owner().is_none() && block::is_empty(&block) {
        true => draft.delete_block(&block.cidr.masked()),
        false => draft.put_block(block),
    }
}
