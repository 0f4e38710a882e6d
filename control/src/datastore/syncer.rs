//! Follows a datastore: everything once, then every change.
//!
//! ```text
//! list ──→ Snapshot, InSync ──→ watch ──→ Updates … ──→ history gone ──→ list
//!                                 ↑                                       │
//!                                 └── InSync ←── Updates (the difference) ┘
//! ```
//!
//! When the store no longer has the changes since our revision, the syncer lists again and works
//! out what it missed, deletes included. It never resumes from a later revision than it has seen.
//!
//! An error is returned once and changes nothing: calling `next` again takes up where it stopped.
//! How long to wait before that is the caller's business, as clocks are not ours.
//!
//! Invariants: after `InSync`, replaying all events gives exactly the store's objects at
//! `revision`; a store whose revision went backwards is an error, not a mass delete.
//! Left out: holding back a list that lost most objects.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use config::resource::Key;

use super::{Datastore, Revision, StoreError, Stored, Update, Watch};

#[derive(Debug, Clone, PartialEq)]
pub enum SyncEvent {
    /// All objects. The first event, and only that.
    Snapshot(Vec<Stored>),
    /// What changed since the event before.
    Updates(Vec<Update>),
    /// The events so far are all there is for now. Comes after the snapshot and after each re-list.
    InSync,
}

pub struct Syncer<D: Datastore> {
    store: D,
    known: Known,
    stage: Stage<D::Watch>,
    ready: VecDeque<SyncEvent>,
}

enum Stage<W> {
    /// Nothing read yet.
    Start,
    /// Known up to a revision; no watch runs.
    Follow,
    Watching(W),
    /// Known up to a revision that the store cannot continue from.
    Relist,
}

impl<D: Datastore> Syncer<D> {
    pub fn new(store: D) -> Syncer<D> {
        Syncer { store, known: Known::default(), stage: Stage::Start, ready: VecDeque::new() }
    }

    /// The revision that the events given out so far add up to.
    pub fn revision(&self) -> Revision {
        self.known.revision
    }

    /// Waits for the next event. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<SyncEvent, StoreError> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            match &mut self.stage {
                Stage::Start => {
                    let (objects, revision) = self.store.list(None).await?;
                    self.known.replace(&objects, revision);
                    self.ready.push_back(SyncEvent::Snapshot(objects));
                    self.ready.push_back(SyncEvent::InSync);
                    self.stage = Stage::Follow;
                }
                Stage::Relist => {
                    let (objects, revision) = self.store.list(None).await?;
                    let updates = self.known.difference(objects, revision)?;
                    if !updates.is_empty() {
                        self.ready.push_back(SyncEvent::Updates(updates));
                    }
                    self.ready.push_back(SyncEvent::InSync);
                    self.stage = Stage::Follow;
                }
                Stage::Follow => match self.store.watch(self.known.revision).await {
                    Ok(watch) => self.stage = Stage::Watching(watch),
                    Err(StoreError::Compacted { .. }) => self.stage = Stage::Relist,
                    Err(error) => return Err(error),
                },
                Stage::Watching(watch) => match watch.next().await {
                    Ok(updates) => {
                        self.known.follow(&updates);
                        return Ok(SyncEvent::Updates(updates));
                    }
                    Err(StoreError::Compacted { .. }) => self.stage = Stage::Relist,
                    Err(error) => {
                        self.stage = Stage::Follow;
                        return Err(error);
                    }
                },
            }
        }
    }
}

/// Which objects the follower of our events has, and at which revision.
#[derive(Default)]
struct Known {
    revision: Revision,
    objects: BTreeMap<Arc<Key>, Revision>,
}

impl Known {
    fn replace(&mut self, objects: &[Stored], revision: Revision) {
        self.revision = revision;
        self.objects = objects.iter().map(|stored| (stored.key.clone(), stored.revision)).collect();
    }

    fn follow(&mut self, updates: &[Update]) {
        for update in updates {
            assert!(update.revision >= self.revision, "watch went backwards");
            self.revision = update.revision;
            match update.value {
                Some(_) => self.objects.insert(Arc::new(update.key.clone()), update.revision),
                None => self.objects.remove(&update.key),
            };
        }
    }

    /// Changes that lead from what is known to `objects`: deletes, then the rest.
    fn difference(&mut self, objects: Vec<Stored>, revision: Revision) -> Result<Vec<Update>, StoreError> {
        if revision < self.revision {
            return Err(StoreError::WentBackwards { from: self.revision, found: revision });
        }
        let mut gone = std::mem::take(&mut self.objects);
        self.replace(&objects, revision);
        let mut changed = Vec::new();
        for Stored { key, resource, revision } in objects {
            if gone.remove(&key) != Some(revision) {
                changed.push(Update { revision, key: Key::clone(&key), value: Some(resource) });
            }
        }
        let deleted = gone.into_keys().map(|key| Update { revision, key: Key::clone(&key), value: None });
        Ok(deleted.chain(changed).collect())
    }
}
