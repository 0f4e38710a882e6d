//! The file of the embedded store: made, opened, checked, read whole, and written one batch at a time.
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
use std::sync::Arc;

use redb::{
    Builder, Database, Durability, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, TableError,
    WriteTransaction,
};

use super::super::record;
use super::super::transaction::{self, Pending, Transaction};
use super::super::{Revision, StoreError};
use super::{Batch, Change, Mirror};

const OBJECTS: TableDefinition<(&str, &str, &str), &[u8]> = TableDefinition::new("objects");
const HISTORY: TableDefinition<(u64, u32), &[u8]> = TableDefinition::new("history");
const TRANSACTIONS: TableDefinition<u64, &[u8]> = TableDefinition::new("transactions");
const PENDING: TableDefinition<&str, &[u8]> = TableDefinition::new("pending");
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

const PENDING_KEY: &str = "confirm";

/// Keys of `META`.
const META_FORMAT: &str = "format";
const META_REVISION: &str = "revision";
const META_COMPACTED: &str = "compacted";
const META_OBJECTS: &str = "objects";

/// Counts up when a file of this layout could not be read by an older program.
const FORMAT: u64 = 1;

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
        let mut transactions = transaction.open_table(TRANSACTIONS)?;
        for revision in &batch.forgotten_transactions {
            transactions.remove(revision)?;
        }
        transactions.insert(batch.revision.0, batch.transaction.1.as_slice())?;
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
    match read_transactions(&transaction, &mut mirror)? {
        Ok(()) => {}
        Err(reason) => return Ok(Err(Fault::Damaged(reason))),
    }
    let counted = number(META_OBJECTS)?;
    Ok(check_sums(&mirror, counted).map(|()| mirror))
}

/// The history of transactions. A file of a release before there was one has no such tables.
fn read_transactions(transaction: &ReadTransaction, mirror: &mut Mirror) -> Result<Result<(), String>, redb::Error> {
    match transaction.open_table(TRANSACTIONS) {
        Err(TableError::TableDoesNotExist(_)) => {}
        Err(error) => return Err(error.into()),
        Ok(table) => {
            for entry in table.iter()? {
                let (revision, bytes) = entry?;
                let (revision, bytes) = (revision.value(), bytes.value());
                match transaction::decode::<Transaction>("transaction", revision, bytes) {
                    Ok(kept) if kept.revision == revision => mirror.remember(Arc::new(kept), bytes.len()),
                    Ok(_) => return Ok(Err(format!("transaction {revision} is stored under another's number"))),
                    Err(reason) => return Ok(Err(reason)),
                }
            }
        }
    }
    match transaction.open_table(PENDING) {
        Err(TableError::TableDoesNotExist(_)) => {}
        Err(error) => return Err(error.into()),
        Ok(table) => {
            let found = table.get(PENDING_KEY)?;
            let found = found.map(|bytes| transaction::decode("confirmation", 0, bytes.value()));
            match found.transpose() {
                Ok(pending) => mirror.pending = pending,
                Err(reason) => return Ok(Err(reason)),
            }
        }
    }
    let waits = mirror.pending.as_ref().map(|pending| pending.revision);
    let is_kept = |revision: u64| mirror.transactions.iter().any(|kept| kept.transaction.revision == revision);
    Ok(match waits.is_none_or(is_kept) {
        true => Ok(()),
        false => Err("what waits for its confirmation is not in the history".to_string()),
    })
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
