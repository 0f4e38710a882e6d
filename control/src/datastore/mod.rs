//! Where the resources are kept: revisions, atomic commits, watches.
//!
//! ```text
//! api, settings ─Vec<Write>→ commit ─→ Datastore ─watch→ Syncer ─SyncEvent→ control
//! ```
//!
//! - `write.rs`     what one write means, decided without touching a store
//! - `embedded.rs`  the store in a file on this node; `record.rs` is its bytes
//! - `syncer.rs`    list once, then follow; survives a lost history
//! - `transaction.rs` `undo.rs`  who changed what, and taking it back
//! - `suite.rs`     the tests every store must pass
//!
//! The contract is etcd's, because it is the weakest that Calico needs: one revision counter for
//! the whole store, an object's revision is that of its last change, a commit is one transaction
//! with compare-and-swap per object, a watch gives every change after a revision in order, or says
//! that the history is gone. Kubernetes fits as well: a list and a watch per kind behind one
//! interface, with a commit of one write. Neither is here yet.
//!
//! Invariants: revisions only grow; all changes of one commit carry one revision; a watch never
//! skips a change and never splits a commit; an error leaves the store as it was, except
//! `StoreError::Unknown`, which says that it does not know.
//! Left out: leases, watches on part of the keys (a follower wants them all).

mod embedded;
pub mod record;
#[cfg(test)]
mod suite;
mod syncer;
pub mod transaction;
#[cfg(test)]
mod transaction_tests;
pub mod undo;
mod write;

pub use embedded::{Embedded, EmbeddedWatch};
pub use syncer::{SyncEvent, Syncer};
pub use transaction::{Author, Note, Pending, Transaction};
pub use write::{Outcome, Write, WriteResult};

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use config::resource::{Key, Kind, Resource};

/// Most writes in one commit. Larger sets are split by whoever can say where.
pub const MAX_WRITES_PER_COMMIT: usize = 10_000;

/// A point in the store's history. Zero is the empty store before any commit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An object as the store has it. `resource` carries `revision` as its resourceVersion, and is shared with whoever follows.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    pub key: Arc<Key>,
    pub resource: Arc<Resource>,
    pub revision: Revision,
}

/// One change. `value` is none when the object was deleted.
#[derive(Debug, Clone, PartialEq)]
pub struct Update {
    pub revision: Revision,
    pub key: Key,
    pub value: Option<Arc<Resource>>,
}

/// What a commit did. `revision` is the store's after it; unchanged when nothing changed.
#[derive(Debug, Clone, PartialEq)]
pub struct Committed {
    pub revision: Revision,
    /// One per write, in the order given.
    pub results: Vec<WriteResult>,
}

/// A place that keeps resources.
///
/// The methods are async for the stores behind a network. The embedded store never waits: its
/// futures are ready at the first poll, and a commit takes as long as the disk takes to sync.
/// Callers are generic over the store; there is no boxed form and no `Send` bound, as one thread
/// owns the control side.
#[allow(async_fn_in_trait)]
pub trait Datastore {
    type Watch: Watch;

    async fn get(&self, key: &Key) -> Result<Stored, StoreError>;

    /// Every object, or those of one kind, in key order, and the revision they were read at.
    async fn list(&self, kind: Option<Kind>) -> Result<(Vec<Stored>, Revision), StoreError>;

    /// All writes or none, remembered under `note`. Two writes to one object are refused, and so is one to an object
    /// that waits for its confirmation, unless the note says that it undoes that.
    async fn commit_as(&self, writes: Vec<Write>, note: &Note, now: SystemTime) -> Result<Committed, StoreError>;

    /// How many writes one commit can carry. A store without transactions says one; whoever needs more of them orders
    /// them so that each alone leaves the store in a state that the next writer understands.
    fn writes_per_commit(&self) -> usize {
        MAX_WRITES_PER_COMMIT
    }

    /// What `commit_as` would do, without doing it.
    async fn preview_as(&self, writes: Vec<Write>, note: &Note, now: SystemTime) -> Result<Committed, StoreError>;

    /// `commit_as` for what the daemon does by itself.
    async fn commit(&self, writes: Vec<Write>, now: SystemTime) -> Result<Committed, StoreError> {
        self.commit_as(writes, &Note::own("write"), now).await
    }

    async fn preview(&self, writes: Vec<Write>, now: SystemTime) -> Result<Committed, StoreError> {
        self.preview_as(writes, &Note::own("write"), now).await
    }

    /// The latest commits, oldest first.
    async fn transactions(&self) -> Result<Vec<Arc<Transaction>>, StoreError>;

    /// The transaction that waits for its confirmation.
    async fn pending(&self) -> Result<Option<Pending>, StoreError>;

    /// Keeps the transaction that waits for its confirmation.
    async fn confirm(&self) -> Result<Pending, StoreError>;

    /// Every change after `from`, in order. Listing at a revision and watching from it misses
    /// nothing.
    async fn watch(&self, from: Revision) -> Result<Self::Watch, StoreError>;
}

/// A running watch.
#[allow(async_fn_in_trait)]
pub trait Watch {
    /// Waits for the next changes: one or more whole commits, never an empty list. Dropping the
    /// future loses nothing. After an error the watch is over.
    async fn next(&mut self) -> Result<Vec<Update>, StoreError>;
}

/// Why a store refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{0} not found")]
    NotFound(Key),

    #[error("{0} already exists; use apply or replace to change it")]
    AlreadyExists(Key),

    #[error(
        "{key} changed since it was read: found revision {found}, expected {expected}; \
         read it again and repeat the change"
    )]
    Conflict { key: Key, found: Revision, expected: Revision },

    #[error("{key} is another object now: found uid {found}, expected {expected}")]
    Replaced { key: Key, found: String, expected: String },

    #[error("{key}: metadata.resourceVersion must not be set on create, found \"{found}\"")]
    VersionOnCreate { key: Key, found: String },

    #[error("{key}: metadata.resourceVersion \"{found}\" is not a revision of this store")]
    BadVersion { key: Key, found: String },

    #[error("{0} is written twice in one commit; keep one of the two")]
    WrittenTwice(Key),

    #[error("{found} writes in one commit; the limit is {limit}")]
    TooManyWrites { found: usize, limit: usize },

    #[error("{key} takes {bytes} bytes stored; the limit is {limit}")]
    TooLarge { key: Key, bytes: usize, limit: usize },

    #[error("revision {revision} is not in the history; `vrouter history` lists what is")]
    NoSuchTransaction { revision: Revision },

    #[error("the history is empty, there is nothing to undo")]
    NothingToUndo,

    #[error(
        "cannot undo revision {revision}: its objects were not kept, because they are larger than the history may be"
    )]
    UndoNotKept { revision: Revision },

    #[error("cannot undo revision {revision}: {object} cannot be read: {reason}")]
    UndoNotRead { revision: Revision, object: String, reason: String },

    #[error(
        "cannot undo revision {revision}: {}; undo the later change first, or use --force to lose it",
        changed.join(", ")
    )]
    ChangedSince { revision: Revision, changed: Vec<String> },

    #[error("revision {revision} waits for `vrouter confirm` until {until}; confirm or undo it first")]
    ConfirmPending { revision: Revision, until: String },

    #[error(
        "{key} was changed by revision {revision}, which waits for `vrouter confirm` until {until}; \
         confirm or undo that first"
    )]
    AwaitsConfirmation { key: Key, revision: Revision, until: String },

    #[error("nothing waits for a confirmation")]
    NothingToConfirm,

    #[error("{bytes} bytes of objects before and after; what waits for a confirmation has at most {limit}")]
    ConfirmTooLarge { bytes: usize, limit: usize },

    #[error("changes after revision {from} are no longer kept; the oldest kept follow {oldest}")]
    Compacted { from: Revision, oldest: Revision },

    /// The store is behind what was seen of it before: a backup was restored, or it is another.
    #[error("revision {from} was asked for, but the datastore is only at {found}; was it restored from a backup?")]
    WentBackwards { from: Revision, found: Revision },

    #[error("watch ended: the datastore was closed")]
    Closed,

    #[error(
        "datastore {path} is damaged: {reason}; restore it from a backup, or move it away to \
         start empty and apply the manifests again",
        path = path.display()
    )]
    Damaged { path: PathBuf, reason: String },

    #[error(
        "datastore {path} has format {found}, this program knows {known}; use the release that wrote it",
        path = path.display()
    )]
    Format { path: PathBuf, found: u64, known: u64 },

    #[error("datastore {path} is in use by another process; is a vrouter daemon running already?", path = path.display())]
    InUse { path: PathBuf },

    #[error("no space left for datastore {path}: nothing was written, reading goes on; free some space and repeat", path = path.display())]
    DiskFull { path: PathBuf },

    #[error("{action} datastore {path}", path = path.display())]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },

    /// The failure came so late that the commit may have reached the disk.
    #[error("{action} datastore {path}: it is not known whether the commit was kept; read it again", path = path.display())]
    Unknown { action: &'static str, path: PathBuf, source: std::io::Error },
}
