//! The datastore in one file on this node, on redb.
//!
//! ```text
//! commit ─decide→ one redb transaction, synced ─→ Mirror ─→ watches
//! get, list, watch ─────────────────────────────────↑
//! ```
//!
//! The tables, in `embedded/file.rs` (`load.rs` reads them whole): `objects`, `history` (the latest changes, for watches), `transactions` (who changed
//! what, for undoing) and `meta`. All of it is also in memory, in `Mirror`, which is read at
//! opening and changed only after the disk has the commit. So reads never fail and never wait, and
//! a record is checked once, at opening, before anything acts on it.
//!
//! Fails closed: a file that is empty, damaged, of another format or held by another process is an
//! error that names it. A new store appears under its name only when it is complete, so an empty
//! file is never one of ours. redb answers nothing after a failed write until it is reopened; the
//! next commit reopens it, and re-reads it to learn whether the failed commit was kept after all.
//!
//! Invariants: mirror and file hold the same at rest; history holds whole commits, at most
//! `MAX_HISTORY` changes and `MAX_HISTORY_BYTES`, except for the latest commit, which always stays.
//! Left out: several writers, and detection of a file replaced by an older copy of itself while the
//! daemon was down.

mod file;
mod load;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::SystemTime;

use config::resource::{Key, Kind};
use redb::Database;
use tokio::sync::watch;

use super::record::{self, MAX_OBJECT_BYTES};
use super::transaction::{self, MAX_TRANSACTION_BYTES, MAX_TRANSACTIONS, Note, Pending, Transaction};
use super::write::{self, Outcome, Write, WriteResult};
use super::{Committed, Datastore, MAX_WRITES_PER_COMMIT, Revision, StoreError, Stored, Update, Watch};

const FILE_NAME: &str = "store.redb";

const MAX_HISTORY: usize = 10_000;
const MAX_HISTORY_BYTES: usize = 64 * 1024 * 1024;

/// Changes in one answer of a watch, give or take one commit.
const MAX_BATCH: usize = 1_000;

/// The store. Clones are handles to the same one; the file is closed with the last.
#[derive(Clone)]
pub struct Embedded {
    shared: Arc<Shared>,
}

/// A watch. It does not keep the store open.
pub struct EmbeddedWatch {
    shared: Weak<Shared>,
    changed: watch::Receiver<Revision>,
    seen: Revision,
}

struct Shared {
    state: Mutex<State>,
    changed: watch::Sender<Revision>,
}

struct State {
    path: PathBuf,
    /// None after a failed write, until the next commit has reopened it.
    database: Option<Database>,
    mirror: Mirror,
}

/// What the file holds.
#[derive(Default)]
struct Mirror {
    revision: Revision,
    /// Changes up to and including this revision are gone from `history`.
    compacted: Revision,
    objects: BTreeMap<Arc<Key>, Stored>,
    history: VecDeque<Change>,
    history_bytes: usize,
    /// Oldest first.
    transactions: VecDeque<Kept>,
    transaction_bytes: usize,
    pending: Option<Pending>,
}

struct Kept {
    transaction: Arc<Transaction>,
    bytes: usize,
}

struct Change {
    update: Update,
    index: u32,
    bytes: usize,
}

impl Embedded {
    /// Opens the store in `folder`. Where nothing is, a new one is made, with its folder.
    pub fn open(folder: &Path) -> Result<Embedded, StoreError> {
        let path = &folder.join(FILE_NAME);
        if !path.try_exists().map_err(file::io_error("look for", path))? {
            file::create(path)?;
        }
        let (database, mirror) = file::open(path)?;
        let changed = watch::Sender::new(mirror.revision);
        let state = State { path: path.to_path_buf(), database: Some(database), mirror };
        let shared = Shared { state: Mutex::new(state), changed };
        Ok(Embedded { shared: Arc::new(shared) })
    }
}

impl Datastore for Embedded {
    type Watch = EmbeddedWatch;

    async fn get(&self, key: &Key) -> Result<Stored, StoreError> {
        match self.shared.lock().mirror.objects.get(key) {
            Some(stored) => Ok(stored.clone()),
            None => Err(StoreError::NotFound(key.clone())),
        }
    }

    async fn list(&self, kind: Option<Kind>) -> Result<(Vec<Stored>, Revision), StoreError> {
        let state = self.shared.lock();
        let wanted = |key: &Key| kind.is_none_or(|kind| key.kind == kind);
        let found = state.mirror.objects.iter().filter(|(key, _)| wanted(key));
        let found = found.map(|(_, stored)| stored.clone()).collect();
        Ok((found, state.mirror.revision))
    }

    async fn commit_as(&self, writes: Vec<Write>, note: &Note, now: SystemTime) -> Result<Committed, StoreError> {
        let mut state = self.shared.lock();
        let before = state.mirror.revision;
        let result = state.commit(writes, note, now);
        // Also after an error: reopening may have found a commit that was kept after all.
        if state.mirror.revision != before {
            self.shared.changed.send_replace(state.mirror.revision);
        }
        result
    }

    async fn preview_as(&self, writes: Vec<Write>, note: &Note, now: SystemTime) -> Result<Committed, StoreError> {
        let state = self.shared.lock();
        let committed = state.mirror.plan(writes, note, now)?;
        if committed.revision != state.mirror.revision {
            state.mirror.batch(&committed, note, now)?;
        }
        Ok(committed)
    }

    async fn transactions(&self) -> Result<Vec<Arc<Transaction>>, StoreError> {
        let state = self.shared.lock();
        Ok(state.mirror.transactions.iter().map(|kept| kept.transaction.clone()).collect())
    }

    async fn pending(&self) -> Result<Option<Pending>, StoreError> {
        Ok(self.shared.lock().mirror.pending.clone())
    }

    async fn confirm(&self) -> Result<Pending, StoreError> {
        let mut state = self.shared.lock();
        let before = state.mirror.revision;
        let result = state.confirm();
        if state.mirror.revision != before {
            self.shared.changed.send_replace(state.mirror.revision);
        }
        result
    }

    async fn watch(&self, from: Revision) -> Result<EmbeddedWatch, StoreError> {
        self.shared.lock().mirror.check_kept(from)?;
        Ok(EmbeddedWatch { shared: Arc::downgrade(&self.shared), changed: self.shared.changed.subscribe(), seen: from })
    }
}

impl Watch for EmbeddedWatch {
    async fn next(&mut self) -> Result<Vec<Update>, StoreError> {
        loop {
            // Marked as seen before looking, so that a commit in between wakes us once too often
            // rather than once too rarely.
            self.changed.borrow_and_update();
            let shared = self.shared.upgrade().ok_or(StoreError::Closed)?;
            let updates = shared.lock().mirror.changes_after(self.seen)?;
            drop(shared);
            if let Some(last) = updates.last() {
                self.seen = last.revision;
                return Ok(updates);
            }
            if self.changed.changed().await.is_err() {
                return Err(StoreError::Closed);
            }
        }
    }
}

impl Shared {
    /// A panic of another holder cannot leave the mirror half changed: it is changed in one go,
    /// after everything that can fail.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn commit(&mut self, writes: Vec<Write>, note: &Note, now: SystemTime) -> Result<Committed, StoreError> {
        if self.database.is_none() {
            self.reopen()?;
        }
        let committed = self.mirror.plan(writes, note, now)?;
        if committed.revision == self.mirror.revision {
            return Ok(committed);
        }
        let batch = self.mirror.batch(&committed, note, now)?;
        let Some(database) = &self.database else {
            return Err(StoreError::Closed);
        };
        match file::persist(database, &batch) {
            Ok(()) => {
                self.mirror.apply(batch);
                Ok(committed)
            }
            Err(failure) => Err(self.after_failure(failure, committed.revision)),
        }
    }

    fn confirm(&mut self) -> Result<Pending, StoreError> {
        if self.database.is_none() {
            self.reopen()?;
        }
        let pending = self.mirror.pending.clone().ok_or(StoreError::NothingToConfirm)?;
        let Some(database) = &self.database else {
            return Err(StoreError::Closed);
        };
        match file::settle(database) {
            Ok(()) => {
                self.mirror.pending = None;
                Ok(pending)
            }
            Err(failure) => {
                let attempted = Revision(self.mirror.revision.0 + 1);
                let error = self.after_failure(failure, attempted);
                // Reopening has told whether it was kept after all.
                match (&self.database, &self.mirror.pending) {
                    (Some(_), None) => Ok(pending),
                    _ => Err(error),
                }
            }
        }
    }

    /// Finds out whether a failed commit was kept, and says so.
    fn after_failure(&mut self, failure: redb::Error, attempted: Revision) -> StoreError {
        self.database = None;
        let source = file::into_io(failure);
        let is_known = self.reopen().is_ok() && self.mirror.revision < attempted;
        let path = self.path.clone();
        let action = "write";
        match (is_known, source.kind()) {
            (true, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => StoreError::DiskFull { path },
            (true, _) => StoreError::Io { action, path, source },
            (false, _) => StoreError::Unknown { action, path, source },
        }
    }

    fn reopen(&mut self) -> Result<(), StoreError> {
        let (database, mirror) = file::open(&self.path)?;
        if mirror.revision < self.mirror.revision {
            return Err(StoreError::WentBackwards { from: self.mirror.revision, found: mirror.revision });
        }
        self.database = Some(database);
        self.mirror = mirror;
        Ok(())
    }
}

/// One commit, ready for the disk.
struct Batch {
    revision: Revision,
    compacted: Revision,
    object_count: u64,
    puts: Vec<(Stored, Vec<u8>)>,
    deletes: Vec<Key>,
    /// New changes, and their bytes.
    history: Vec<(Change, Vec<u8>)>,
    /// How many changes leave the front of the history.
    forgotten: Vec<(u64, u32)>,
    /// None: it is not remembered.
    transaction: Option<(Arc<Transaction>, Vec<u8>)>,
    forgotten_transactions: Vec<u64>,
    /// What waits for its confirmation after this commit.
    pending: Option<Pending>,
}

impl Mirror {
    /// What `writes` would do.
    fn plan(&self, writes: Vec<Write>, note: &Note, now: SystemTime) -> Result<Committed, StoreError> {
        if writes.len() > MAX_WRITES_PER_COMMIT {
            return Err(StoreError::TooManyWrites { found: writes.len(), limit: MAX_WRITES_PER_COMMIT });
        }
        let next = Revision(self.revision.0 + 1);
        let mut written = BTreeSet::new();
        let mut results = Vec::with_capacity(writes.len());
        for write in writes {
            let key = write.key();
            let current = self.objects.get(&key);
            if !written.insert(key.clone()) {
                return Err(StoreError::WrittenTwice(key));
            }
            let result = write::decide(write, current, next, now, new_uid)?;
            if result.outcome != Outcome::Unchanged {
                self.check_settled(&key, note)?;
            }
            results.push(result);
        }
        let is_change = |result: &WriteResult| result.outcome != Outcome::Unchanged;
        let revision = if results.iter().any(is_change) { next } else { self.revision };
        Ok(Committed { revision, results })
    }

    /// Refuses a write to what waits for its confirmation.
    fn check_settled(&self, key: &Key, note: &Note) -> Result<(), StoreError> {
        let Some(pending) = &self.pending else {
            return Ok(());
        };
        let revision = Revision(pending.revision);
        let mut kept = self.transactions.iter().map(|kept| &kept.transaction);
        let waits = kept.find(|transaction| transaction.revision == pending.revision);
        let is_locked = waits.is_none_or(|transaction| transaction.change_of(key).is_some());
        match is_locked && note.undoes != Some(revision) {
            true => Err(StoreError::AwaitsConfirmation { key: key.clone(), revision, until: pending.until_text() }),
            false => Ok(()),
        }
    }

    fn batch(&self, committed: &Committed, note: &Note, now: SystemTime) -> Result<Batch, StoreError> {
        let revision = committed.revision;
        let transaction = Transaction::new(revision, note, now, &committed.results, |key| self.objects.get(key));
        let mut encoded = transaction::encode(revision.0, &transaction);
        let mut transaction = transaction;
        if encoded.len() > MAX_TRANSACTION_BYTES {
            if note.confirm_within.is_some() {
                return Err(StoreError::ConfirmTooLarge { bytes: encoded.len(), limit: MAX_TRANSACTION_BYTES });
            }
            transaction = transaction.without_objects();
            encoded = transaction::encode(revision.0, &transaction);
        }
        let mut batch = Batch {
            revision,
            compacted: self.compacted,
            object_count: 0,
            puts: Vec::new(),
            deletes: Vec::new(),
            history: Vec::new(),
            forgotten: Vec::new(),
            transaction: (!note.is_report).then(|| (Arc::new(transaction), encoded)),
            forgotten_transactions: Vec::new(),
            pending: self.pending_after(revision, note, now)?,
        };
        let mut created = 0u64;
        for result in &committed.results {
            let key = result.key.clone();
            let value = match result.outcome {
                Outcome::Unchanged => continue,
                Outcome::Deleted => {
                    batch.deletes.push(key.clone());
                    None
                }
                Outcome::Created | Outcome::Updated => {
                    created += u64::from(result.outcome == Outcome::Created);
                    let resource = result.resource.clone();
                    let bytes = record::encode_object(&key, revision, &resource);
                    if bytes.len() > MAX_OBJECT_BYTES {
                        return Err(StoreError::TooLarge { key, bytes: bytes.len(), limit: MAX_OBJECT_BYTES });
                    }
                    let stored = Stored { key: Arc::new(key.clone()), resource: resource.clone(), revision };
                    batch.puts.push((stored, bytes));
                    Some(resource)
                }
            };
            let update = Update { revision, key, value };
            let index = batch.history.len() as u32;
            let bytes = record::encode_update(&update, index);
            let change = Change { update, index, bytes: bytes.len() };
            batch.history.push((change, bytes));
        }
        batch.object_count = self.objects.len() as u64 + created - batch.deletes.len() as u64;
        self.choose_forgotten(&mut batch);
        self.choose_forgotten_transactions(&mut batch);
        Ok(batch)
    }

    fn pending_after(&self, revision: Revision, note: &Note, now: SystemTime) -> Result<Option<Pending>, StoreError> {
        let left = self.pending.clone().filter(|pending| note.undoes != Some(Revision(pending.revision)));
        match (left, note.confirm_within) {
            (left, None) => Ok(left),
            (Some(pending), Some(_)) => {
                Err(StoreError::ConfirmPending { revision: Revision(pending.revision), until: pending.until_text() })
            }
            (None, Some(within)) => {
                let since = transaction::seconds(now);
                let until = since.saturating_add(within.min(transaction::MAX_CONFIRM).as_secs());
                Ok(Some(Pending { revision: revision.0, since, until, author: note.author.clone() }))
            }
        }
    }

    /// Drops the oldest transactions until the new one fits, but not the one that waits for its confirmation.
    fn choose_forgotten_transactions(&self, batch: &mut Batch) {
        let Some((_, new)) = &batch.transaction else { return };
        let mut count = self.transactions.len() + 1;
        let mut bytes = self.transaction_bytes + new.len();
        let waits = batch.pending.as_ref().map(|pending| pending.revision);
        for kept in &self.transactions {
            if count <= MAX_TRANSACTIONS && bytes <= MAX_TRANSACTION_BYTES {
                break;
            }
            let revision = kept.transaction.revision;
            if Some(revision) != waits {
                batch.forgotten_transactions.push(revision);
                count -= 1;
                bytes -= kept.bytes;
            }
        }
    }

    fn remember(&mut self, transaction: Arc<Transaction>, bytes: usize) {
        self.transaction_bytes += bytes;
        self.transactions.push_back(Kept { transaction, bytes });
    }

    /// Drops whole commits from the front until the new one fits.
    fn choose_forgotten(&self, batch: &mut Batch) {
        let mut count = self.history.len() + batch.history.len();
        let mut bytes: usize = self.history_bytes + batch.history.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
        for change in &self.history {
            let revision = change.update.revision;
            let is_cut_open = batch.compacted == revision;
            if count <= MAX_HISTORY && bytes <= MAX_HISTORY_BYTES && !is_cut_open {
                break;
            }
            batch.compacted = revision;
            batch.forgotten.push((revision.0, change.index));
            count -= 1;
            bytes -= change.bytes;
        }
    }

    /// The disk has the batch; now memory. Cannot fail.
    fn apply(&mut self, batch: Batch) {
        self.revision = batch.revision;
        self.compacted = batch.compacted;
        for change in self.history.drain(..batch.forgotten.len()) {
            self.history_bytes -= change.bytes;
        }
        for (change, bytes) in batch.history {
            self.history_bytes += bytes.len();
            self.history.push_back(change);
        }
        let forgotten = batch.forgotten_transactions;
        let bytes = &mut self.transaction_bytes;
        self.transactions.retain(|kept| {
            let stays = !forgotten.contains(&kept.transaction.revision);
            *bytes -= if stays { 0 } else { kept.bytes };
            stays
        });
        if let Some((transaction, encoded)) = batch.transaction {
            self.remember(transaction, encoded.len());
        }
        self.pending = batch.pending;
        for key in batch.deletes {
            self.objects.remove(&key);
        }
        for (stored, _) in batch.puts {
            self.objects.insert(stored.key.clone(), stored);
        }
    }

    fn check_kept(&self, from: Revision) -> Result<(), StoreError> {
        if from > self.revision {
            return Err(StoreError::WentBackwards { from, found: self.revision });
        }
        if from < self.compacted {
            return Err(StoreError::Compacted { from, oldest: self.compacted });
        }
        Ok(())
    }

    fn changes_after(&self, seen: Revision) -> Result<Vec<Update>, StoreError> {
        self.check_kept(seen)?;
        let start = self.history.partition_point(|change| change.update.revision <= seen);
        let mut updates: Vec<Update> = Vec::new();
        for change in self.history.iter().skip(start) {
            let starts_commit = change.index == 0;
            if updates.len() >= MAX_BATCH && starts_commit {
                break;
            }
            updates.push(change.update.clone());
        }
        Ok(updates)
    }
}

fn new_uid() -> Result<String, StoreError> {
    write::kernel_uid().map_err(|source| StoreError::Io {
        action: "get a new uid for an object of",
        path: PathBuf::from("/proc/sys/kernel/random/uuid"),
        source,
    })
}
