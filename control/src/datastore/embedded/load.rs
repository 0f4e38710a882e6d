//! The file of the embedded store, read whole into memory and checked.
//!
//! Objects are decoded on several threads, because they are many and everything else waits for them:
//!
//! ```text
//! objects   ─┬─ every n-th part ─▶ thread 1 ─┬─▶ map of objects
//!            └─ the others ──────▶ thread … ─┘        │ those of the history that are still in force
//! history   ─────────────────────────────────────────▶ are the same ones
//! ```
//!
//! Invariant: a mirror is given out only when all of its parts agree.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread;

use config::resource::Texts;
use redb::{Database, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable, TableError};

use super::super::record;
use super::super::transaction::{self, Transaction};
use super::super::{Revision, Stored};
use super::file::{
    FORMAT, HISTORY, META, META_COMPACTED, META_FORMAT, META_OBJECTS, META_REVISION, OBJECTS, PENDING, PENDING_KEY,
    TRANSACTIONS,
};
use super::{Change, Mirror};

/// Threads that decode objects. More would wait for each other's memory.
const DECODERS_MAX: usize = 4;
/// Objects in one part.
const PART: usize = 256;

/// Why the contents are not acceptable, although redb can read them.
pub(super) enum Fault {
    Damaged(String),
    Format(u64),
}

pub(super) fn read(database: &Database) -> Result<Result<Mirror, Fault>, redb::Error> {
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
    let counted = number(META_OBJECTS)?;
    let parts = [read_objects, read_history, read_transactions];
    for part in parts {
        if let Err(reason) = part(&transaction, &mut mirror)? {
            return Ok(Err(Fault::Damaged(reason)));
        }
    }
    Ok(check_sums(&mirror, counted).map(|()| mirror).map_err(Fault::Damaged))
}

type Objects = ReadOnlyTable<(&'static str, &'static str, &'static str), &'static [u8]>;
type Decoded = Result<Result<Vec<Stored>, String>, redb::Error>;

fn read_objects(transaction: &ReadTransaction, mirror: &mut Mirror) -> Result<Result<(), String>, redb::Error> {
    let table = transaction.open_table(OBJECTS)?;
    let threads = thread::available_parallelism().map_or(1, |count| count.get().min(DECODERS_MAX));
    let decoded: Vec<Decoded> = thread::scope(|scope| {
        let decode = |own: usize| decode_objects(&table, own, threads);
        let others: Vec<_> = (1..threads).map(|own| scope.spawn(move || decode(own))).collect();
        let first = decode(0);
        let others = others.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
        [first].into_iter().chain(others).collect()
    });
    let mut objects = Vec::new();
    for part in decoded {
        match part? {
            Ok(part) => objects.extend(part),
            Err(reason) => return Ok(Err(reason)),
        }
    }
    mirror.objects = objects.into_iter().map(|stored: Stored| (stored.key.clone(), stored)).collect();
    Ok(Ok(()))
}

/// Every `threads`-th part of the table, beginning with the one of this number. All threads go through the same pages at
/// about the same time, so that redb reads each once.
fn decode_objects(table: &Objects, own: usize, threads: usize) -> Decoded {
    let mut decoded = Vec::new();
    let mut texts = Texts::default();
    for (position, entry) in table.iter()?.enumerate() {
        let (key, bytes) = entry?;
        if position / PART % threads != own {
            continue;
        }
        match record::decode_object(key.value(), bytes.value()) {
            Ok(mut object) => {
                // It is new: nobody else has it yet.
                if let Some(resource) = Arc::get_mut(&mut object.resource) {
                    resource.metadata_mut().labels.share(&mut texts);
                }
                decoded.push(object);
            }
            Err(reason) => return Ok(Err(reason)),
        }
    }
    Ok(Ok(decoded))
}

fn read_history(transaction: &ReadTransaction, mirror: &mut Mirror) -> Result<Result<(), String>, redb::Error> {
    for entry in transaction.open_table(HISTORY)?.iter()? {
        let (position, bytes) = entry?;
        let (position, bytes) = (position.value(), bytes.value());
        let mut update = match record::decode_update(position, bytes) {
            Ok(update) => update,
            Err(reason) => return Ok(Err(reason)),
        };
        // Most changes of the history are the last of their object.
        if let (Some(value), Some(stored)) = (&mut update.value, mirror.objects.get(&update.key))
            && *value == stored.resource
        {
            *value = stored.resource.clone();
        }
        mirror.history_bytes += bytes.len();
        mirror.history.push_back(Change { update, index: position.1, bytes: bytes.len() });
    }
    Ok(Ok(()))
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
fn check_sums(mirror: &Mirror, counted: u64) -> Result<(), String> {
    if mirror.objects.len() as u64 != counted {
        let found = mirror.objects.len();
        return Err(format!("{found} objects found, {counted} expected"));
    }
    let newest = mirror.objects.values().map(|stored| stored.revision).max();
    let last = mirror.history.back().map(|change| change.update.revision);
    let is_consistent = newest.is_none_or(|newest| newest <= mirror.revision)
        && last.unwrap_or_default() == mirror.revision
        && mirror.compacted <= mirror.revision;
    if !is_consistent {
        return Err("objects, history and revision disagree".to_string());
    }
    Ok(())
}
