//! Taking transactions back: by somebody's wish, or because nobody confirmed in time.
//!
//! An undo is a transaction like any other, all or none. It is refused when an object of the transaction changed since,
//! because it would take that change back as well; `force` asks for exactly that.
//!
//! Left out: uids. An object that was deleted comes back under a new one.

use std::time::SystemTime;

use config::resource::{Key, Kind, Resource};

use super::transaction::{Author, Change, Form, Note, Transaction};
use super::{Committed, Datastore, Revision, StoreError, Write};

/// What to take back, and how.
#[derive(Debug, Clone, Default)]
pub struct Undo {
    /// The latest when none.
    pub revision: Option<Revision>,
    /// Also when objects changed since.
    pub force: bool,
    pub dry_run: bool,
}

/// Takes one transaction back; gives its revision and what the undoing did.
pub async fn undo<D: Datastore>(
    store: &D,
    undo: &Undo,
    author: Author,
    verb: &str,
    now: SystemTime,
) -> Result<(Revision, Committed), StoreError> {
    let transactions = store.transactions().await?;
    let transaction = match undo.revision {
        None => transactions.last().ok_or(StoreError::NothingToUndo)?,
        Some(wanted) => transactions
            .iter()
            .find(|transaction| transaction.revision == wanted.0)
            .ok_or(StoreError::NoSuchTransaction { revision: wanted })?,
    };
    let revision = Revision(transaction.revision);
    if !transaction.is_whole {
        return Err(StoreError::UndoNotKept { revision });
    }
    let mut writes = Vec::with_capacity(transaction.changes.len());
    let mut changed = Vec::new();
    for change in &transaction.changes {
        match step(store, transaction, change, undo.force).await? {
            Step::Write(write) => writes.push(*write),
            Step::Nothing => {}
            Step::Conflict(how) => changed.push(format!("{} {how}", change.object())),
        }
    }
    if !changed.is_empty() {
        return Err(StoreError::ChangedSince { revision, changed });
    }
    let note = Note { author, verb: verb.to_string(), undoes: Some(revision), confirm_within: None, is_report: false };
    let committed = match undo.dry_run {
        true => store.preview_as(writes, &note, now).await?,
        false => store.commit_as(writes, &note, now).await?,
    };
    Ok((revision, committed))
}

/// Takes back the transaction whose time for a confirmation is over, if there is one.
pub async fn expire<D: Datastore>(store: &D, now: SystemTime) -> Result<Option<Revision>, StoreError> {
    let Some(pending) = store.pending().await?.filter(|pending| pending.is_overdue(now)) else {
        return Ok(None);
    };
    let revision = Revision(pending.revision);
    // Its objects could not be written meanwhile, so there is no conflict that `force` would hide.
    let wish = Undo { revision: Some(revision), force: true, dry_run: false };
    let author = Author { name: "vrouter".to_string(), uid: None };
    undo(store, &wish, author, "undo, not confirmed in time", now).await?;
    if store.pending().await?.is_some_and(|left| left.revision == pending.revision) {
        // Everything was as before already: nothing was written, so nothing settled it.
        store.confirm().await?;
    }
    Ok(Some(revision))
}

enum Step {
    Write(Box<Write>),
    Nothing,
    Conflict(String),
}

async fn step<D: Datastore>(
    store: &D,
    transaction: &Transaction,
    change: &Change,
    force: bool,
) -> Result<Step, StoreError> {
    let key = key(transaction, change)?;
    let current = match store.get(&key).await {
        Ok(stored) => Some(stored),
        Err(StoreError::NotFound(_)) => None,
        Err(error) => return Err(error),
    };
    let before = change.before.as_ref().map(|form| resource(transaction, change, form)).transpose()?;
    if !force {
        match (&current, &change.after) {
            (Some(stored), Some(_)) if stored.revision.0 == transaction.revision => {}
            (Some(stored), Some(_)) => {
                return Ok(Step::Conflict(format!("changed again at revision {}", stored.revision)));
            }
            (Some(stored), None) => {
                return Ok(Step::Conflict(format!("was made anew at revision {}", stored.revision)));
            }
            (None, Some(_)) => return Ok(Step::Conflict("was deleted since".to_string())),
            (None, None) => {}
        }
    }
    Ok(match (before, current) {
        (Some(mut resource), Some(stored)) => {
            // Compared once more where it is written.
            resource.metadata_mut().resource_version = Some(stored.revision.to_string());
            Step::Write(Box::new(Write::Put(resource)))
        }
        (Some(resource), None) => Step::Write(Box::new(Write::Create(resource))),
        (None, Some(stored)) => Step::Write(Box::new(Write::Delete { key, expected: Some(stored.revision) })),
        (None, None) => Step::Nothing,
    })
}

fn key(transaction: &Transaction, change: &Change) -> Result<Key, StoreError> {
    let kind = Kind::from_name(&change.kind).ok_or_else(|| StoreError::UndoNotRead {
        revision: Revision(transaction.revision),
        object: change.object(),
        reason: "its kind is not known to this version".to_string(),
    })?;
    Ok(Key { kind, namespace: change.namespace.clone(), name: change.name.clone() })
}

/// The object as it was, without the marks of the state it was in.
fn resource(transaction: &Transaction, change: &Change, form: &Form) -> Result<Resource, StoreError> {
    let not_read = |reason: String| StoreError::UndoNotRead {
        revision: Revision(transaction.revision),
        object: change.object(),
        reason,
    };
    let json = form.read().map_err(|error| not_read(error.to_string()))?;
    let mut resource = Resource::from_json(&json)
        .map_err(|errors| not_read(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")))?;
    let metadata = resource.metadata_mut();
    metadata.resource_version = None;
    metadata.uid = None;
    Ok(resource)
}
