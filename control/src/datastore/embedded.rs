//! The datastore in one file on this node, on redb.
//!
//! ```text
//! commit ─decide→ one redb transaction, synced ─→ Mirror ─→ watches
//! get, list, watch ─────────────────────────────────↑
//! ```
//!
//! Three tables: `objects`, `history` (the latest changes, for watches) and `meta` (format,
//! revision, and where history begins). All of it is also in memory, in `Mirror`, which is read at
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

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::SystemTime;

use config::resource::{Key, Kind};
use redb::{Builder, Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};
use tokio::sync::watch;

use super::record::{self, MAX_OBJECT_BYTES};
use super::write::{self, Outcome, Write, WriteResult};
use super::{Committed, Datastore, MAX_WRITES_PER_COMMIT, Revision, StoreError, Stored, Update, Watch};

const OBJECTS: TableDefinition<(&str, &str, &str), &[u8]> = TableDefinition::new("objects");
const HISTORY: TableDefinition<(u64, u32), &[u8]> = TableDefinition::new("history");
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

const FILE_NAME: &str = "store.redb";

/// Keys of `META`.
const META_FORMAT: &str = "format";
const META_REVISION: &str = "revision";
const META_COMPACTED: &str = "compacted";
const META_OBJECTS: &str = "objects";

/// Counts up when a file of this layout could not be read by an older program.
const FORMAT: u64 = 1;

const MAX_HISTORY: usize = 10_000;
const MAX_HISTORY_BYTES: usize = 64 * 1024 * 1024;

/// Changes in one answer of a watch, give or take one commit.
const MAX_BATCH: usize = 1_000;

const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;

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
    objects: BTreeMap<Key, Stored>,
    history: VecDeque<Change>,
    history_bytes: usize,
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
        if !path.try_exists().map_err(io_error("look for", path))? {
            create(path)?;
        }
        let (database, mirror) = open(path)?;
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

    async fn commit(&self, writes: Vec<Write>, now: SystemTime) -> Result<Committed, StoreError> {
        let mut state = self.shared.lock();
        let before = state.mirror.revision;
        let result = state.commit(writes, now);
        // Also after an error: reopening may have found a commit that was kept after all.
        if state.mirror.revision != before {
            self.shared.changed.send_replace(state.mirror.revision);
        }
        result
    }

    async fn preview(&self, writes: Vec<Write>, now: SystemTime) -> Result<Committed, StoreError> {
        self.shared.lock().mirror.plan(writes, now)
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
    fn commit(&mut self, writes: Vec<Write>, now: SystemTime) -> Result<Committed, StoreError> {
        if self.database.is_none() {
            self.reopen()?;
        }
        let committed = self.mirror.plan(writes, now)?;
        if committed.revision == self.mirror.revision {
            return Ok(committed);
        }
        let batch = self.mirror.batch(&committed)?;
        let Some(database) = &self.database else {
            return Err(StoreError::Closed);
        };
        match persist(database, &batch) {
            Ok(()) => {
                self.mirror.apply(batch);
                Ok(committed)
            }
            Err(failure) => Err(self.after_failure(failure, committed.revision)),
        }
    }

    /// Finds out whether a failed commit was kept, and says so.
    fn after_failure(&mut self, failure: redb::Error, attempted: Revision) -> StoreError {
        self.database = None;
        let source = into_io(failure);
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
        let (database, mirror) = open(&self.path)?;
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
    puts: Vec<(Stored, Key, Vec<u8>)>,
    deletes: Vec<Key>,
    /// New changes, and their bytes.
    history: Vec<(Change, Vec<u8>)>,
    /// How many changes leave the front of the history.
    forgotten: Vec<(u64, u32)>,
}

impl Mirror {
    /// What `writes` would do.
    fn plan(&self, writes: Vec<Write>, now: SystemTime) -> Result<Committed, StoreError> {
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
            results.push(write::decide(write, current, next, now, new_uid)?);
        }
        let is_change = |result: &WriteResult| result.outcome != Outcome::Unchanged;
        let revision = if results.iter().any(is_change) { next } else { self.revision };
        Ok(Committed { revision, results })
    }

    fn batch(&self, committed: &Committed) -> Result<Batch, StoreError> {
        let revision = committed.revision;
        let mut batch = Batch {
            revision,
            compacted: self.compacted,
            object_count: 0,
            puts: Vec::new(),
            deletes: Vec::new(),
            history: Vec::new(),
            forgotten: Vec::new(),
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
                    let stored = Stored { resource, revision };
                    batch.puts.push((stored, key.clone(), bytes));
                    Some(result.resource.clone())
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
        Ok(batch)
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
        for key in batch.deletes {
            self.objects.remove(&key);
        }
        for (stored, key, _) in batch.puts {
            self.objects.insert(key, stored);
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

fn persist(database: &Database, batch: &Batch) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    {
        let mut objects = transaction.open_table(OBJECTS)?;
        for key in &batch.deletes {
            objects.remove(record::table_key(key))?;
        }
        for (_, key, bytes) in &batch.puts {
            objects.insert(record::table_key(key), bytes.as_slice())?;
        }
        let mut history = transaction.open_table(HISTORY)?;
        for position in &batch.forgotten {
            history.remove(position)?;
        }
        for (change, bytes) in &batch.history {
            history.insert((batch.revision.0, change.index), bytes.as_slice())?;
        }
        let mut meta = transaction.open_table(META)?;
        meta.insert(META_REVISION, batch.revision.0)?;
        meta.insert(META_COMPACTED, batch.compacted.0)?;
        meta.insert(META_OBJECTS, batch.object_count)?;
    }
    transaction.commit()?;
    Ok(())
}

/// Makes an empty store beside `path` and links it there once it is whole.
fn create(path: &Path) -> Result<(), StoreError> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    DirBuilder::new()
        .recursive(true)
        .mode(FOLDER_MODE)
        .create(folder)
        .map_err(io_error("create the folder of", path))?;

    let mut draft = path.as_os_str().to_os_string();
    draft.push(format!(".new.{}", std::process::id()));
    let draft = PathBuf::from(draft);
    let result = fill_draft(&draft, path).and_then(|()| {
        match fs::hard_link(&draft, path) {
            // Another process was faster; its store is as good, and opening it says who holds it.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            result => result.map_err(io_error("create", path)),
        }
    });
    let removed = fs::remove_file(&draft).map_err(io_error("remove the draft of", path));
    result.and(removed)?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(io_error("sync the folder of", path))
}

fn fill_draft(draft: &Path, path: &Path) -> Result<(), StoreError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(FILE_MODE)
        .open(draft)
        .map_err(io_error("create", path))?;
    let fill = || -> Result<(), redb::Error> {
        let database = Builder::new().create_file(file)?;
        let transaction = database.begin_write()?;
        transaction.open_table(OBJECTS)?;
        transaction.open_table(HISTORY)?;
        {
            let mut meta = transaction.open_table(META)?;
            meta.insert(META_FORMAT, FORMAT)?;
            meta.insert(META_REVISION, 0)?;
            meta.insert(META_COMPACTED, 0)?;
            meta.insert(META_OBJECTS, 0)?;
        }
        transaction.commit()?;
        Ok(())
    };
    fill().map_err(|error| redb_error("create", path, error))
}

/// Opens an existing file, checks all of it and reads it.
fn open(path: &Path) -> Result<(Database, Mirror), StoreError> {
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(io_error("open", path))?;
    let found = file.metadata().map_err(io_error("examine", path))?;
    if found.len() == 0 {
        return Err(StoreError::Damaged { path: path.to_path_buf(), reason: "the file is empty".to_string() });
    }
    if found.permissions().mode() & 0o777 != FILE_MODE {
        file.set_permissions(Permissions::from_mode(FILE_MODE)).map_err(io_error("set the mode of", path))?;
    }

    // redb asserts on some damage instead of reporting it. Nothing of ours outlives the unwinding.
    let opened = catch_unwind(AssertUnwindSafe(|| {
        let mut database = Builder::new().create_file(file)?;
        let is_clean = database.check_integrity()?;
        let mirror = read(&database)?;
        Ok((database, is_clean, mirror))
    }));
    let (database, is_clean, mirror) = match opened {
        Ok(Ok(opened)) => opened,
        Ok(Err(error)) => return Err(redb_error("open", path, error)),
        Err(_) => return Err(damaged(path, "its pages contradict each other")),
    };
    let mirror = mirror.map_err(|fault| match fault {
        Fault::Damaged(reason) => damaged(path, &reason),
        Fault::Format(found) => StoreError::Format { path: path.to_path_buf(), found, known: FORMAT },
    })?;
    // Repaired means an older state of the file: whole, but perhaps without the last commits.
    if !is_clean {
        return Err(damaged(
            path,
            "checksums did not match and the last changes may be lost; starting again accepts what is left",
        ));
    }
    Ok((database, mirror))
}

/// Why the contents are not acceptable, although redb can read them.
enum Fault {
    Damaged(String),
    Format(u64),
}

fn read(database: &Database) -> Result<Result<Mirror, Fault>, redb::Error> {
    let transaction = database.begin_read()?;
    let meta = transaction.open_table(META)?;
    let number = |name| -> Result<u64, redb::Error> { Ok(meta.get(name)?.map_or(0, |value| value.value())) };
    let format = number(META_FORMAT)?;
    if format != FORMAT {
        return Ok(Err(Fault::Format(format)));
    }
    let mut mirror = Mirror {
        revision: Revision(number(META_REVISION)?),
        compacted: Revision(number(META_COMPACTED)?),
        ..Mirror::default()
    };
    for entry in transaction.open_table(OBJECTS)?.iter()? {
        let (key, bytes) = entry?;
        match record::decode_object(key.value(), bytes.value()) {
            Ok((key, stored)) => mirror.objects.insert(key, stored),
            Err(reason) => return Ok(Err(Fault::Damaged(reason))),
        };
    }
    for entry in transaction.open_table(HISTORY)?.iter()? {
        let (position, bytes) = entry?;
        let bytes = bytes.value();
        let update = match record::decode_update(position.value(), bytes) {
            Ok(update) => update,
            Err(reason) => return Ok(Err(Fault::Damaged(reason))),
        };
        mirror.history_bytes += bytes.len();
        mirror.history.push_back(Change { update, index: position.value().1, bytes: bytes.len() });
    }
    let counted = number(META_OBJECTS)?;
    Ok(check_sums(&mirror, counted).map(|()| mirror))
}

/// Whether the tables agree with each other.
fn check_sums(mirror: &Mirror, counted: u64) -> Result<(), Fault> {
    if mirror.objects.len() as u64 != counted {
        let found = mirror.objects.len();
        return Err(Fault::Damaged(format!("{found} objects found, {counted} expected")));
    }
    let newest = mirror.objects.values().map(|stored| stored.revision).max();
    let last = mirror.history.back().map(|change| change.update.revision);
    let is_consistent = newest.is_none_or(|newest| newest <= mirror.revision)
        && last.unwrap_or_default() == mirror.revision
        && mirror.compacted <= mirror.revision;
    if !is_consistent {
        return Err(Fault::Damaged("objects, history and revision disagree".to_string()));
    }
    Ok(())
}

fn damaged(path: &Path, reason: &str) -> StoreError {
    StoreError::Damaged { path: path.to_path_buf(), reason: reason.to_string() }
}

fn io_error<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> StoreError + 'a {
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::DiskFull { path: path.to_path_buf() },
        _ => StoreError::Io { action, path: path.to_path_buf(), source },
    }
}

fn redb_error(action: &'static str, path: &Path, error: redb::Error) -> StoreError {
    match error {
        redb::Error::DatabaseAlreadyOpen => StoreError::InUse { path: path.to_path_buf() },
        redb::Error::Io(source) => match source.kind() {
            // How redb says that the file is not one of its own, or ends too soon.
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => damaged(path, &source.to_string()),
            _ => io_error(action, path)(source),
        },
        other => damaged(path, &other.to_string()),
    }
}

fn into_io(error: redb::Error) -> io::Error {
    match error {
        redb::Error::Io(source) => source,
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests;
