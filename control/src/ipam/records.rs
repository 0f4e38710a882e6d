//! The records of addresses as this node knows them, and a draft of what will be written.
//!
//! ```text
//!   watch ──learn──▶ Records ◀──changes in place── Draft (a journal: what, in which order, and as it was before)
//!                       ▲                            │
//!                       └── revisions, or rolled back ◀── commit (`commit.rs`)
//! ```
//!
//! What is known may be old: every write compares revisions, and what differs is read again. A change of the draft is
//! seen by what is planned after it, so that many requests become one commit.
//!
//! Invariants: without a draft, each record has the revision it was read or written at; news that is older than what is
//! known changes nothing, and brings back nothing that was deleted.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use config::net::Cidr;
use config::resource::{
    AffinityType, BlockAffinity, BlockOwner, IpamBlock, IpamBlockSpec, IpamHandle, IpamHandleSpec, Key, Kind, Metadata,
    Resource, block_name, handle_name,
};
use sha2::{Digest, Sha256};

use crate::datastore::{Revision, Stored, SyncEvent};

/// The longest name of an object.
const NAME_MAX: usize = 253;

/// Which record. In this order: blocks are walked by address, affinities by owner.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Slot {
    Block(Cidr),
    Affinity(BlockOwner, Cidr),
    /// By the name of its record.
    Handle(String),
}

/// A record, and where in the store's history it is from; one of the draft has no revision yet.
#[derive(Debug, Clone, PartialEq)]
pub struct Kept {
    pub resource: Arc<Resource>,
    pub revision: Option<Revision>,
}

/// All records.
#[derive(Debug, Default)]
pub struct Records {
    slots: BTreeMap<Slot, Kept>,
    /// Under which name a record is stored; somebody else may have given it another one than we would.
    names: HashMap<Key, Slot>,
    /// What was deleted here, until the watch has told of it.
    gone: HashMap<Key, Revision>,
}

impl Slot {
    pub fn of(resource: &Resource) -> Option<Slot> {
        match resource {
            Resource::IpamBlock(block) => Some(Slot::Block(block.spec.cidr.masked())),
            Resource::BlockAffinity(affinity) => {
                let name = affinity.spec.node.clone();
                let owner = match affinity.spec.affinity_type {
                    AffinityType::Host => BlockOwner::Host(name),
                    AffinityType::Virtual => BlockOwner::Virtual(name),
                };
                Some(Slot::Affinity(owner, affinity.spec.cidr.masked()))
            }
            Resource::IpamHandle(handle) => Some(Slot::Handle(handle.metadata.name.clone())),
            _ => None,
        }
    }
}

/// The kinds that are records of addresses.
pub const KINDS: [Kind; 3] = [Kind::IpamBlock, Kind::BlockAffinity, Kind::IpamHandle];

impl Records {
    /// Follows the datastore.
    pub fn follow(&mut self, event: &SyncEvent) {
        match event {
            SyncEvent::Snapshot(objects) => {
                *self = Records::default();
                objects.iter().for_each(|stored| self.learn_stored(stored));
            }
            SyncEvent::Updates(updates) => {
                for update in updates.iter().filter(|update| KINDS.contains(&update.key.kind)) {
                    self.learn(&update.key, update.value.clone(), update.revision);
                }
                if let Some(last) = updates.last() {
                    self.gone.retain(|_, revision| *revision > last.revision);
                }
            }
            SyncEvent::InSync => {}
        }
    }

    pub fn learn_stored(&mut self, stored: &Stored) {
        if KINDS.contains(&stored.key.kind) {
            self.learn(&stored.key, Some(stored.resource.clone()), stored.revision);
        }
    }

    /// What is under a key at a revision.
    pub fn learn(&mut self, key: &Key, value: Option<Arc<Resource>>, revision: Revision) {
        let is_old = |known: Option<Revision>| known.is_some_and(|known| known > revision);
        let known = self.names.get(key).and_then(|slot| self.slots.get(slot)).and_then(|kept| kept.revision);
        if is_old(known) || is_old(self.gone.get(key).copied()) {
            return;
        }
        if let Some(slot) = self.names.remove(key) {
            self.slots.remove(&slot);
        }
        match value.and_then(|resource| Some((Slot::of(&resource)?, resource))) {
            Some((slot, resource)) => {
                self.names.insert(key.clone(), slot.clone());
                self.slots.insert(slot, Kept { resource, revision: Some(revision) });
            }
            None => drop(self.gone.insert(key.clone(), revision)),
        }
    }

    /// The key is not there now, whatever was known of it.
    pub fn forget(&mut self, key: &Key) {
        if let Some(slot) = self.names.remove(key) {
            self.slots.remove(&slot);
        }
    }

    /// Changes a record in place. Its name stays that which it has.
    pub(super) fn set(&mut self, slot: &Slot, kept: Option<Kept>) {
        match kept {
            Some(kept) => {
                self.names.insert(kept.resource.key(), slot.clone());
                self.slots.insert(slot.clone(), kept);
            }
            None => {
                if let Some(old) = self.slots.remove(slot) {
                    self.names.remove(&old.resource.key());
                }
            }
        }
    }

    pub(super) fn get(&self, slot: &Slot) -> Option<&Kept> {
        self.slots.get(slot)
    }

    pub(super) fn deleted(&mut self, key: Key, revision: Revision) {
        self.gone.insert(key, revision);
    }

    pub fn block(&self, cidr: &Cidr) -> Option<&IpamBlockSpec> {
        as_block(&self.slots.get(&Slot::Block(*cidr))?.resource)
    }

    /// The block that an address is in, if there is one.
    pub fn block_of(&self, address: IpAddr) -> Option<&IpamBlockSpec> {
        let below = self.slots.range(..=Slot::Block(Cidr::host(address)));
        let mut blocks = below.rev().filter_map(|(_, kept)| as_block(&kept.resource));
        blocks.next().filter(|block| block.cidr.contains(address))
    }

    /// By address.
    pub fn blocks(&self) -> impl Iterator<Item = &IpamBlockSpec> {
        let first = Slot::Affinity(BlockOwner::Host(String::new()), Cidr::host(IpAddr::from([0; 4])));
        self.slots.range(..first).filter_map(|(_, kept)| as_block(&kept.resource))
    }

    /// Those within a network, by address.
    pub fn blocks_in(&self, network: Cidr) -> impl Iterator<Item = &IpamBlockSpec> {
        let found = self.slots.range(Slot::Block(network.masked())..).map_while(move |(slot, kept)| match slot {
            Slot::Block(cidr) if network.contains(cidr.address()) => Some(kept),
            _ => None,
        });
        found.filter_map(|kept| as_block(&kept.resource))
    }

    /// The affinities of an owner, by address.
    pub fn affinities_of(&self, owner: &BlockOwner) -> impl Iterator<Item = &BlockAffinity> {
        let lowest = Cidr::new(IpAddr::from([0; 4]), 0).unwrap_or(Cidr::host(IpAddr::from([0; 4])));
        let found = self.slots.range(Slot::Affinity(owner.clone(), lowest)..);
        found.map_while(move |(slot, kept)| match slot {
            Slot::Affinity(found, _) if found == owner => as_affinity(&kept.resource),
            _ => None,
        })
    }

    pub fn affinities(&self) -> impl Iterator<Item = (&BlockOwner, &BlockAffinity)> {
        self.slots.iter().filter_map(|(slot, kept)| match slot {
            Slot::Affinity(owner, _) => Some((owner, as_affinity(&kept.resource)?)),
            _ => None,
        })
    }

    pub fn affinity(&self, owner: &BlockOwner, cidr: &Cidr) -> Option<&BlockAffinity> {
        as_affinity(&self.slots.get(&Slot::Affinity(owner.clone(), *cidr))?.resource)
    }

    pub fn handle(&self, handle: &str) -> Option<&IpamHandleSpec> {
        as_handle(&self.slots.get(&Slot::Handle(handle_name(handle)))?.resource)
    }

    pub fn handles(&self) -> impl Iterator<Item = (&IpamHandleSpec, Option<Revision>)> {
        let found = self.slots.range(Slot::Handle(String::new())..);
        found.filter_map(|(_, kept)| Some((as_handle(&kept.resource)?, kept.revision)))
    }
}

fn as_block(resource: &Resource) -> Option<&IpamBlockSpec> {
    match resource {
        Resource::IpamBlock(block) => Some(&block.spec),
        _ => None,
    }
}

fn as_affinity(resource: &Resource) -> Option<&BlockAffinity> {
    match resource {
        Resource::BlockAffinity(affinity) => Some(affinity),
        _ => None,
    }
}

fn as_handle(resource: &Resource) -> Option<&IpamHandleSpec> {
    match resource {
        Resource::IpamHandle(handle) => Some(&handle.spec),
        _ => None,
    }
}

/// What an affinity is called: `NODE-CIDR`, or the hash of that where it is no name.
pub fn affinity_name(owner: &BlockOwner, cidr: &Cidr) -> String {
    let name = match owner {
        BlockOwner::Host(node) => format!("{node}-{}", block_name(cidr)),
        BlockOwner::Virtual(name) => format!("virtual-{name}-{}", block_name(cidr)),
    };
    let is_plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.'));
    match name.len() <= NAME_MAX && is_plain {
        true => name,
        false => {
            let hash = Sha256::digest(name.as_bytes());
            hash.iter().fold("affinity-".to_string(), |text, byte| text + &format!("{byte:02x}"))
        }
    }
}

/// One write that will be made.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) slot: Slot,
    pub(super) before: Option<Kept>,
    /// None: it is deleted.
    pub(super) after: Option<Arc<Resource>>,
    /// It counts what the next change makes true: if that fails, this one is taken back.
    pub(super) is_for_next: bool,
}

/// Changes of the records that are not written yet, in the order in which they have to be.
pub struct Draft<'a> {
    pub(super) records: &'a mut Records,
    pub(super) journal: Vec<Change>,
}

impl<'a> Draft<'a> {
    pub fn new(records: &'a mut Records) -> Draft<'a> {
        Draft { records, journal: Vec::new() }
    }

    pub fn records(&self) -> &Records {
        self.records
    }

    /// How many writes there are so far; see `roll_back`.
    pub fn len(&self) -> usize {
        self.journal.len()
    }

    pub fn is_empty(&self) -> bool {
        self.journal.is_empty()
    }

    /// Takes back all changes after the first `kept`.
    pub fn roll_back(&mut self, kept: usize) {
        for change in self.journal.drain(kept.min(self.journal.len())..).rev() {
            self.records.set(&change.slot, change.before);
        }
    }

    fn write(&mut self, slot: Slot, after: Option<Resource>, is_for_next: bool) {
        let before = self.records.get(&slot).cloned();
        let after = after.map(|mut resource| {
            if let Some(before) = &before {
                *resource.metadata_mut() = before.resource.metadata().clone();
            }
            Arc::new(resource)
        });
        self.records.set(&slot, after.clone().map(|resource| Kept { resource, revision: None }));
        self.journal.push(Change { slot, before, after, is_for_next });
    }

    pub fn put_block(&mut self, spec: IpamBlockSpec) {
        let metadata = Metadata::named(block_name(&spec.cidr));
        let slot = Slot::Block(spec.cidr.masked());
        self.write(slot, Some(Resource::IpamBlock(IpamBlock { metadata, spec })), false);
    }

    pub fn delete_block(&mut self, cidr: &Cidr) {
        self.write(Slot::Block(*cidr), None, false);
    }

    pub fn put_affinity(&mut self, owner: &BlockOwner, mut affinity: BlockAffinity) {
        let cidr = affinity.spec.cidr;
        affinity.metadata = Metadata::named(affinity_name(owner, &cidr));
        self.write(Slot::Affinity(owner.clone(), cidr), Some(Resource::BlockAffinity(affinity)), false);
    }

    pub fn delete_affinity(&mut self, owner: &BlockOwner, cidr: &Cidr) {
        self.write(Slot::Affinity(owner.clone(), *cidr), None, false);
    }

    /// One that counts what the next change makes true says so.
    pub fn put_handle(&mut self, spec: IpamHandleSpec, is_for_next: bool) {
        let name = handle_name(&spec.handle_id);
        let metadata = Metadata::named(name.clone());
        self.write(Slot::Handle(name), Some(Resource::IpamHandle(IpamHandle { metadata, spec })), is_for_next);
    }

    pub fn delete_handle(&mut self, handle: &str) {
        self.write(Slot::Handle(handle_name(handle)), None, false);
    }
}
