//! What nobody will give back any more: addresses of workloads that are gone, empty blocks, counts that are wrong.
//!
//! ```text
//!   look: records, endpoints, nodes ─▶ candidates, each with the time it was seen first ─grace─▶ Due ─▶ plan: released
//! ```
//!
//! | what | when |
//! |---|---|
//! | address of a workload of this node that no endpoint has | for the grace period; a handle's addresses all or none |
//! | everything of a node that is gone | seen twice |
//! | empty block of this node | seen twice, with no write in between; never its last one of the family |
//! | empty block of nobody | at once |
//! | count of a handle that is not that of the blocks | unchanged for a minute |
//! | block of this node without an affinity | seen twice |
//!
//! An address is released with the sequence number it was seen with, so one that was given out again meanwhile stays.
//! Addresses without a pod, such as those that a person has assigned, are not for us to judge.
//!
//! Bounds: `WORK` addresses and handles, each, in one round.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use config::net::Cidr;
use config::resource::{AllocationAttributes, BlockOwner, IpamBlockSpec, Key, Kind, Resource};

use super::handle::Tunnel;
use super::pools::Rules;
use super::records::{Draft, Records};
use super::release::{self, Return};
use super::{affinity, block};
use crate::datastore::Revision;
use crate::docker;
use crate::resources::Resources;
use crate::workload::identity;

/// How long an address may seem lost before it is taken back, unless a KubeControllersConfiguration says otherwise.
pub const GRACE: Duration = Duration::from_secs(15 * 60);

/// How long a count has to be wrong.
const COUNT_GRACE: Duration = Duration::from_secs(60);

/// Addresses, and handles, of one round.
const WORK: usize = 1000;

/// What was seen, and since when.
#[derive(Debug, Default)]
pub struct Collector {
    /// By address and sequence number.
    leaks: BTreeMap<(IpAddr, u64), SystemTime>,
    gone: BTreeSet<String>,
    empty: BTreeMap<Cidr, u64>,
    miscounted: BTreeMap<String, (Option<Revision>, SystemTime)>,
    unclaimed: BTreeSet<Cidr>,
}

/// What is to be done now.
#[derive(Debug, Default, PartialEq)]
pub struct Due {
    leaks: Vec<Return>,
    gone: Vec<String>,
    empty: Vec<(Cidr, u64)>,
    orphans: Vec<Cidr>,
    miscounted: Vec<String>,
    unclaimed: Vec<Cidr>,
}

/// What was done.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Collected {
    pub addresses: Vec<IpAddr>,
    pub blocks: usize,
    pub handles: usize,
}

impl Due {
    pub fn is_empty(&self) -> bool {
        *self == Due::default()
    }
}

/// How long an address may seem lost here; none: for ever.
pub fn grace(resources: &Resources) -> Option<Duration> {
    let key = Key::cluster(Kind::KubeControllersConfiguration, "default");
    let configured = match resources.get(&key) {
        Some(Resource::KubeControllersConfiguration(configuration)) => {
            configuration.spec.controllers.node.as_ref().and_then(|node| node.leak_grace_period.as_ref())
        }
        _ => None,
    };
    match configured.map(|period| period.length()) {
        Some(period) if period.is_zero() => None,
        Some(period) => Some(period),
        None => Some(GRACE),
    }
}

impl Collector {
    /// Addresses that seem lost, but not for long enough.
    pub fn candidates(&self) -> usize {
        self.leaks.len()
    }

    /// Remembers what seems wrong, and says what has been for long enough.
    pub fn look(&mut self, records: &Records, resources: &Resources, host: &str, now: SystemTime) -> Due {
        let mut due = Due::default();
        self.look_for_leaks(records, resources, host, now, &mut due);
        self.look_for_nodes(records, resources, host, &mut due);
        self.look_for_blocks(records, host, &mut due);
        self.look_for_counts(records, now, &mut due);
        due
    }

    fn look_for_leaks(&mut self, records: &Records, resources: &Resources, host: &str, now: SystemTime, due: &mut Due) {
        let Some(grace) = grace(resources) else { return self.leaks.clear() };
        let used: BTreeSet<IpAddr> = resources
            .workload_endpoints()
            .flat_map(|endpoint| endpoint.spec.ip_networks.iter().map(Cidr::address))
            .collect();
        let mut seen = BTreeMap::new();
        // A handle with an address that is used, or not lost for long enough, keeps all of them.
        let mut kept: BTreeSet<&str> = BTreeSet::new();
        let mut lost: Vec<(&AllocationAttributes, Return)> = Vec::new();
        for (block, ordinal, attributes) in every(records) {
            let address = block.address(ordinal);
            let is_ours = attributes.secondary.get("node").is_some_and(|node| node == host);
            if !is_ours || !attributes.secondary.contains_key("pod") || used.contains(&address) {
                kept.extend(attributes.handle_id.as_deref());
                continue;
            }
            let sequence = block::sequence(block, ordinal).unwrap_or(0);
            let since = self.leaks.get(&(address, sequence)).copied().unwrap_or(now);
            seen.insert((address, sequence), since);
            if now.duration_since(since).is_ok_and(|age| age >= grace) {
                let sequence = block::sequence(block, ordinal);
                lost.push((attributes, Return { address, handle: attributes.handle_id.clone(), sequence }));
            } else {
                kept.extend(attributes.handle_id.as_deref());
            }
        }
        let is_kept = |attributes: &AllocationAttributes| {
            attributes.handle_id.as_deref().is_some_and(|handle| kept.contains(handle))
        };
        due.leaks = lost.into_iter().filter(|(attributes, _)| !is_kept(attributes)).map(|(_, lost)| lost).collect();
        due.leaks.truncate(WORK);
        self.leaks = seen;
    }

    fn look_for_nodes(&mut self, records: &Records, resources: &Resources, host: &str, due: &mut Due) {
        let mut there: BTreeSet<&str> = resources.nodes().map(|node| node.metadata.name.as_str()).collect();
        // Where nobody writes nodes down, none is gone.
        if there.is_empty() {
            return self.gone.clear();
        }
        there.insert(host);
        there.extend(resources.workload_endpoints().map(|endpoint| endpoint.spec.node.as_str()));
        let owners = records.affinities().filter_map(|(owner, _)| match owner {
            BlockOwner::Host(node) => Some(node.as_str()),
            BlockOwner::Virtual(_) => None,
        });
        let holders = every(records).filter(|(_, _, attributes)| is_of_node(attributes));
        let holders = holders.filter_map(|(_, _, attributes)| attributes.secondary.get("node").map(String::as_str));
        let gone: BTreeSet<String> =
            owners.chain(holders).filter(|node| !there.contains(node)).map(str::to_string).collect();
        due.gone = gone.intersection(&self.gone).cloned().collect();
        self.gone = gone;
    }

    fn look_for_blocks(&mut self, records: &Records, host: &str, due: &mut Due) {
        let own = BlockOwner::Host(host.to_string());
        let (mut empty, mut unclaimed) = (BTreeMap::new(), BTreeSet::new());
        let mut counts = [0usize; 2];
        for block in records.blocks() {
            let cidr = block.cidr.masked();
            match block.owner() {
                Some(owner) if owner == own => {
                    counts[cidr.version().index()] += 1;
                    if block::is_empty(block) {
                        empty.insert(cidr, block.sequence_number);
                    }
                    if records.affinity(&own, &cidr).is_none() {
                        unclaimed.insert(cidr);
                    }
                }
                Some(_) => {}
                None => {
                    if block::held(block).next().is_none() {
                        due.orphans.push(cidr);
                    }
                }
            }
        }
        let seen_twice = empty.iter().filter(|(cidr, sequence)| self.empty.get(*cidr) == Some(*sequence));
        for (cidr, sequence) in seen_twice {
            let left: &mut usize = &mut counts[cidr.version().index()];
            if *left > 1 {
                *left -= 1;
                due.empty.push((*cidr, *sequence));
            }
        }
        due.unclaimed = unclaimed.intersection(&self.unclaimed).copied().collect();
        (self.empty, self.unclaimed) = (empty, unclaimed);
    }

    fn look_for_counts(&mut self, records: &Records, now: SystemTime, due: &mut Due) {
        let actual = actual_counts(records);
        let nothing = BTreeMap::new();
        let mut wrong = BTreeMap::new();
        for (spec, revision) in records.handles() {
            if spec.block == *actual.get(spec.handle_id.as_str()).unwrap_or(&nothing) {
                continue;
            }
            let name = spec.handle_id.clone();
            let known = self.miscounted.get(&name).filter(|(known, _)| *known == revision);
            let since = known.map_or(now, |(_, since)| *since);
            if now.duration_since(since).is_ok_and(|age| age >= COUNT_GRACE) && due.miscounted.len() < WORK {
                due.miscounted.push(name.clone());
            }
            wrong.insert(name, (revision, since));
        }
        self.miscounted = wrong;
    }
}

/// Every address that somebody has.
fn every(records: &Records) -> impl Iterator<Item = (&IpamBlockSpec, usize, &AllocationAttributes)> {
    records.blocks().flat_map(|block| block::held(block).map(move |(ordinal, attributes)| (block, ordinal, attributes)))
}

/// What a node had for its workloads and its tunnels.
fn is_of_node(attributes: &AllocationAttributes) -> bool {
    let is_tunnel = |text: &String| Tunnel::ALL.iter().any(|tunnel| tunnel.attribute() == text);
    // What a runtime on it was given goes with it, also what no endpoint of ours ever had.
    let is_given =
        ["pod", identity::ALONE[0], docker::ipam::POOL].iter().any(|name| attributes.secondary.contains_key(*name));
    is_given || attributes.secondary.get("type").is_some_and(is_tunnel)
}

/// Addresses by handle and block, as the blocks have them.
fn actual_counts(records: &Records) -> BTreeMap<&str, BTreeMap<String, u64>> {
    let mut counts: BTreeMap<&str, BTreeMap<String, u64>> = BTreeMap::new();
    for (block, _, attributes) in every(records) {
        if let Some(handle) = &attributes.handle_id {
            *counts.entry(handle).or_default().entry(block.cidr.masked().to_string()).or_default() += 1;
        }
    }
    counts
}

/// Drafts what is due, as far as it still holds.
pub fn plan(draft: &mut Draft<'_>, resources: &Resources, due: &Due, host: &str, now: SystemTime) -> Collected {
    let mut collected = Collected::default();
    let mut release = |draft: &mut Draft<'_>, wish: &Return| {
        if release::release_address(draft, resources, wish, now).is_ok() {
            collected.addresses.push(wish.address);
        }
    };
    for wish in &due.leaks {
        release(draft, wish);
    }
    for node in &due.gone {
        let is_gone = |attributes: &AllocationAttributes| {
            attributes.secondary.get("node") == Some(node) && is_of_node(attributes)
        };
        let held = every(draft.records()).filter(|(_, _, attributes)| is_gone(attributes)).take(WORK);
        let held: Vec<Return> = held
            .map(|(block, ordinal, attributes)| Return {
                address: block.address(ordinal),
                handle: attributes.handle_id.clone(),
                sequence: block::sequence(block, ordinal),
            })
            .collect();
        held.iter().for_each(|wish| release(draft, wish));
    }
    for node in &due.gone {
        let owner = BlockOwner::Host(node.clone());
        let cidrs: Vec<Cidr> = draft.records().affinities_of(&owner).map(|found| found.spec.cidr.masked()).collect();
        collected.blocks += cidrs.len();
        cidrs.into_iter().for_each(|cidr| affinity::give_up(draft, &owner, cidr));
    }
    let own = BlockOwner::Host(host.to_string());
    for (cidr, sequence) in &due.empty {
        let is_same = |block: &&IpamBlockSpec| block.sequence_number == *sequence && block::is_empty(block);
        if draft.records().block(cidr).filter(is_same).is_some() {
            affinity::give_up(draft, &own, *cidr);
            collected.blocks += 1;
        }
    }
    for cidr in &due.unclaimed {
        let is_own = draft.records().block(cidr).is_some_and(|block| block.owner().as_ref() == Some(&own));
        if is_own && draft.records().affinity(&own, cidr).is_none() {
            affinity::confirm(draft, &own, *cidr);
        }
    }
    let rest = Rules::of(resources).rest;
    for cidr in &due.orphans {
        let Some(known) = draft.records().block(cidr).filter(|block| block.owner().is_none()) else { continue };
        let mut block = known.clone();
        block::wake(&mut block, rest, now);
        if block::is_empty(&block) {
            draft.delete_block(cidr);
            collected.blocks += 1;
        }
    }
    for name in &due.miscounted {
        collected.handles += usize::from(recount(draft, name));
    }
    collected
}

/// Makes the counts of a handle those of the blocks.
fn recount(draft: &mut Draft<'_>, name: &str) -> bool {
    let actual = actual_counts(draft.records()).remove(name).unwrap_or_default();
    let Some(known) = draft.records().handle(name).filter(|known| known.block != actual).cloned() else { return false };
    match actual.is_empty() {
        true => draft.delete_handle(name),
        false => draft.put_handle(config::resource::IpamHandleSpec { block: actual, ..known }, false),
    }
    true
}
