//! The file of the embedded store: made, opened, checked, and written one batch at a time.
//!
//! ```text
//! objects        (kind, namespace, name) → record.rs
//! history        (revision, index)       → record.rs
//! transactions   revision                → transaction.rs
//! pending        "confirm"               → transaction.rs
//! meta           format, revision, where history begins, number of objects
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use redb::{Builder, Database, Durability, TableDefinition, WriteTransaction};

use super::super::StoreError;
use super::super::record;
use super::super::transaction::{self, Pending};
use super::load::{self, Fault};
use super::{Batch, Mirror};

pub(super) const OBJECTS: TableDefinition<(&str, &str, &str), &[u8]> = TableDefinition::new("objects");
pub(super) const HISTORY: TableDefinition<(u64, u32), &[u8]> = TableDefinition::new("history");
pub(super) const TRANSACTIONS: TableDefinition<u64, &[u8]> = TableDefinition::new("transactions");
pub(super) const PENDING: TableDefinition<&str, &[u8]> = TableDefinition::new("pending");
pub(super) const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

pub(super) const PENDING_KEY: &str = "confirm";

/// Keys of `META`.
pub(super) const META_FORMAT: &str = "format";
pub(super) const META_REVISION: &str = "revision";
pub(super) const META_COMPACTED: &str = "compacted";
pub(super) const META_OBJECTS: &str = "objects";

/// Counts up when a file of this layout could not be read by an older program.
pub(super) const FORMAT: u64 = 1;

/// Pages that redb keeps in memory. Reads are answered by the mirror, so these serve opening and committing only; its
/// default would keep the whole file a second time.
const CACHE_BYTES: usize = 16 * 1024 * 1024;

const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;

pub(super) fn persist(database: &Database, batch: &Batch) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    {
        let mut objects = transaction.open_table(OBJECTS)?;
        for key in &batch.deletes {
            objects.remove(record::table_key(key))?;
        }
        for (stored, bytes) in &batch.puts {
            objects.insert(record::table_key(&stored.key), bytes.as_slice())?;
        }
        let mut history = transaction.open_table(HISTORY)?;
        for position in &batch.forgotten {
            history.remove(position)?;
        }
        for (change, bytes) in &batch.history {
            history.insert((batch.revision.0, change.index), bytes.as_slice())?;
        }
        let mut transactions = transaction.open_table(TRANSACTIONS)?;
        for revision in &batch.forgotten_transactions {
            transactions.remove(revision)?;
        }
        if let Some((_, bytes)) = &batch.transaction {
            transactions.insert(batch.revision.0, bytes.as_slice())?;
        }
        write_pending(&transaction, batch.pending.as_ref())?;
        let mut meta = transaction.open_table(META)?;
        meta.insert(META_REVISION, batch.revision.0)?;
        meta.insert(META_COMPACTED, batch.compacted.0)?;
        meta.insert(META_OBJECTS, batch.object_count)?;
    }
    transaction.commit()?;
    Ok(())
}

/// Nothing waits for a confirmation any more.
pub(super) fn settle(database: &Database) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    write_pending(&transaction, None)?;
    transaction.commit()?;
    Ok(())
}

fn write_pending(transaction: &WriteTransaction, pending: Option<&Pending>) -> Result<(), redb::Error> {
    let mut table = transaction.open_table(PENDING)?;
    match pending {
        Some(pending) => {
            table.insert(PENDING_KEY, transaction::encode(0, pending).as_slice())?;
        }
        None => {
            table.remove(PENDING_KEY)?;
        }
    }
    Ok(())
}

/// Makes an empty store beside `path` and links it there once it is whole.
pub(super) fn create(path: &Path) -> Result<(), StoreError> {
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
        let database = Builder::new().set_cache_size(CACHE_BYTES).create_file(file)?;
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
pub(super) fn open(path: &Path) -> Result<(Database, Mirror), StoreError> {
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
        let mut database = Builder::new().set_cache_size(CACHE_BYTES).create_file(file)?;
        let is_clean = database.check_integrity()?;
        let mirror = load::read(&database)?;
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

fn damaged(path: &Path, reason: &str) -> StoreError {
    StoreError::Damaged { path: path.to_path_buf(), reason: reason.to_string() }
}

pub(super) fn io_error<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> StoreError + 'a {
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

pub(super) fn into_io(error: redb::Error) -> io::Error {
    match error {
        redb::Error::Io(source) => source,
        other => io::Error::other(other),
    }
}
