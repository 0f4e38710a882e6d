//! From a draft to the datastore, with a comparison for every write.
//!
//! ```text
//!   plan ─▶ journal ─▶ one commit, where the store has transactions ─▶ done
//!    ▲                 one write after the other, where it has none ─┤
//!    └── what differs is read again ◀── conflict: rolled back ◀──────┘
//! ```
//!
//! Without transactions the order of the journal is what keeps addresses safe: handle before block, affinity before block.
//! A crash between two writes leaves a count that is too high, or an affinity that is pending; the next allocation of that
//! node and the collector put both right. A plan that fails half way has given out addresses that nobody is told of: the next
//! plan begins with their release.
//!
//! Bounds: `RETRIES` plans; every eighth reads all records anew.

use std::collections::BTreeMap;
use std::time::SystemTime;

use config::resource::{Key, Resource};

use super::block;
use super::error::IpamError;
use super::records::{Change, Draft, KINDS, Kept, Records, Slot};
use super::release::{self, Return};
use crate::datastore::{Datastore, Note, Outcome, Revision, StoreError, Write, WriteResult};

/// How often a plan is made before it is given up.
pub const RETRIES: usize = 100;

/// Nobody asks for these writes one by one, and nobody wants to take them back: who has an address would not know.
fn note() -> Note {
    Note { is_report: true, ..Note::own("ipam") }
}

/// Makes a plan and carries it out, again and again until nobody else was faster.
pub async fn run<D: Datastore, T>(
    store: &D,
    records: &mut Records,
    now: SystemTime,
    mut plan: impl FnMut(&mut Draft<'_>) -> T,
) -> Result<T, IpamError> {
    // What plans that failed half way have given out. Each is released once: its number tells.
    let mut astray: Vec<Return> = Vec::new();
    for attempt in 1..=RETRIES {
        let mut draft = Draft::new(records);
        for wish in &astray {
            let _ = release::take_back(&mut draft, wish, now);
        }
        let result = plan(&mut draft);
        match commit(store, draft, now).await? {
            Attempt::Done => return Ok(result),
            Attempt::Again(given) => astray.extend(given),
        }
        if attempt % 8 == 0 {
            read_all(store, records).await?;
        }
    }
    Err(IpamError::Contended { attempts: RETRIES })
}

/// All records as the store has them.
pub async fn read_all<D: Datastore>(store: &D, records: &mut Records) -> Result<(), StoreError> {
    let mut all = Records::default();
    for kind in KINDS {
        let (objects, _) = store.list(Some(kind)).await?;
        objects.iter().for_each(|stored| all.learn_stored(stored));
    }
    *records = all;
    Ok(())
}

enum Attempt {
    Done,
    /// Somebody else was faster: the draft does not hold any more. These addresses were given out before that was seen.
    Again(Vec<Return>),
}

/// Writes what was drafted.
async fn commit<D: Datastore>(store: &D, mut draft: Draft<'_>, now: SystemTime) -> Result<Attempt, IpamError> {
    if draft.is_empty() {
        return Ok(Attempt::Done);
    }
    let mut given = Vec::new();
    let folded = fold(&draft.journal);
    let result = match folded.len() <= store.writes_per_commit() {
        true => together(store, &mut draft, folded, now).await,
        false => one_by_one(store, &mut draft, &mut given, now).await,
    };
    match result {
        Ok(()) => Ok(Attempt::Done),
        Err(StoreError::Conflict { key, .. } | StoreError::AlreadyExists(key) | StoreError::NotFound(key)) => {
            read_again(store, draft.records, &key).await?;
            Ok(Attempt::Again(given))
        }
        Err(error @ StoreError::Unknown { .. }) => {
            // It may have been kept: the next plan begins with what is there.
            read_all(store, draft.records).await?;
            Err(error.into())
        }
        Err(error) => Err(error.into()),
    }
}

async fn read_again<D: Datastore>(store: &D, records: &mut Records, key: &Key) -> Result<(), StoreError> {
    records.forget(key);
    match store.get(key).await {
        Ok(stored) => records.learn_stored(&stored),
        Err(StoreError::NotFound(_)) => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

/// One change for each record: as it was first, and as it is last.
fn fold(journal: &[Change]) -> Vec<Change> {
    let mut places: BTreeMap<&Slot, usize> = BTreeMap::new();
    let mut folded: Vec<Change> = Vec::with_capacity(journal.len());
    for change in journal {
        match places.get(&change.slot) {
            Some(place) => folded[*place].after = change.after.clone(),
            None => {
                places.insert(&change.slot, folded.len());
                folded.push(change.clone());
            }
        }
    }
    folded.retain(|change| change.before.is_some() || change.after.is_some());
    folded
}

fn write(change: &Change, expected: Option<Revision>) -> Option<Write> {
    match (&change.before, &change.after) {
        (Some(before), None) => Some(Write::Delete { key: before.resource.key(), expected }),
        (Some(_), Some(after)) => Some(Write::Update { resource: (**after).clone(), expected }),
        (None, Some(after)) => {
            let mut resource = (**after).clone();
            resource.metadata_mut().resource_version = None;
            Some(Write::Create(resource))
        }
        (None, None) => None,
    }
}

async fn together<D: Datastore>(
    store: &D,
    draft: &mut Draft<'_>,
    folded: Vec<Change>,
    now: SystemTime,
) -> Result<(), StoreError> {
    let revision = |change: &Change| change.before.as_ref().and_then(|before| before.revision);
    let writes = folded.iter().filter_map(|change| write(change, revision(change))).collect();
    let committed = match store.commit_as(writes, &note(), now).await {
        Ok(committed) => committed,
        Err(error) => {
            draft.roll_back(0);
            return Err(error);
        }
    };
    draft.journal.clear();
    for (change, result) in folded.iter().zip(committed.results) {
        keep(draft.records, change, result, committed.revision);
    }
    Ok(())
}

/// The store has the change: so have we.
fn keep(records: &mut Records, change: &Change, result: WriteResult, revision: Revision) {
    let kept = match result.outcome {
        Outcome::Deleted => {
            records.set(&change.slot, None);
            records.deleted(result.key, revision);
            return;
        }
        Outcome::Unchanged => change.before.as_ref().and_then(|before| before.revision).unwrap_or(revision),
        Outcome::Created | Outcome::Updated => revision,
    };
    records.set(&change.slot, Some(Kept { resource: result.resource, revision: Some(kept) }));
}

async fn one_by_one<D: Datastore>(
    store: &D,
    draft: &mut Draft<'_>,
    given: &mut Vec<Return>,
    now: SystemTime,
) -> Result<(), StoreError> {
    let journal = std::mem::take(&mut draft.journal);
    // As the store has the records that were written here; none where one was deleted.
    let mut written: BTreeMap<Slot, Option<Kept>> = BTreeMap::new();
    for (position, change) in journal.iter().enumerate() {
        let before = written.get(&change.slot).unwrap_or(&change.before);
        let change_now = Change { before: before.clone(), ..change.clone() };
        let expected = before.as_ref().and_then(|before| before.revision);
        let Some(write) = write(&change_now, expected) else { continue };
        match store.commit_as(vec![write], &note(), now).await {
            Ok(mut committed) => {
                let Some(result) = committed.results.pop() else { continue };
                let kept = match result.outcome {
                    Outcome::Deleted => None,
                    Outcome::Unchanged => before.clone(),
                    _ => Some(Kept { resource: result.resource, revision: Some(committed.revision) }),
                };
                if kept.is_none() {
                    draft.records.deleted(result.key, committed.revision);
                }
                written.insert(change.slot.clone(), kept);
            }
            Err(error) => {
                for change in journal.iter().rev() {
                    draft.records.set(&change.slot, change.before.clone());
                }
                for (slot, kept) in &written {
                    draft.records.set(slot, kept.clone());
                }
                given.extend(journal[..position].iter().flat_map(given_out));
                if let Some(count) = position.checked_sub(1).map(|last| &journal[last]).filter(|last| last.is_for_next)
                {
                    take_back(store, draft.records, count, &written, now).await;
                }
                return Err(error);
            }
        }
    }
    for (slot, kept) in written {
        draft.records.set(&slot, kept);
    }
    Ok(())
}

/// The addresses that have an owner by a change of a block, and had none before.
fn given_out(change: &Change) -> Vec<Return> {
    let block = |resource: &Resource| match resource {
        Resource::IpamBlock(block) => Some(block.spec.clone()),
        _ => None,
    };
    let Some(after) = change.after.as_deref().and_then(block) else { return Vec::new() };
    let before = change.before.as_ref().and_then(|before| block(&before.resource));
    let is_new = |ordinal: usize| before.as_ref().is_none_or(|before| block::holder(before, ordinal).is_none());
    let new = block::held(&after).filter(|(ordinal, _)| is_new(*ordinal));
    new.map(|(ordinal, owner)| Return {
        address: after.address(ordinal),
        handle: owner.handle_id.clone(),
        sequence: block::sequence(&after, ordinal),
    })
    .collect()
}

/// Writes a count again as it was, unless somebody has changed it since: then the collector will find it.
async fn take_back<D: Datastore>(
    store: &D,
    records: &mut Records,
    count: &Change,
    written: &BTreeMap<Slot, Option<Kept>>,
    now: SystemTime,
) {
    let Some(Some(kept)) = written.get(&count.slot) else { return };
    let key = kept.resource.key();
    let expected = kept.revision;
    let write = match &count.before {
        None => Write::Delete { key: key.clone(), expected },
        Some(before) => {
            let mut resource: Resource = (*before.resource).clone();
            *resource.metadata_mut() = kept.resource.metadata().clone();
            Write::Update { resource, expected }
        }
    };
    // What cannot be taken back is a count too high, which harms nobody.
    let _ = store.commit_as(vec![write], &note(), now).await;
    let _ = read_again(store, records, &key).await;
}
