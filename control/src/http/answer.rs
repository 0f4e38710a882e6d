//! The answers that need nothing but the datastore: resources, their history, and what waits for a confirmation.
//!
//! Here JSON becomes resources, once, for every caller: read, defaults applied, validated. All the
//! faults of a request are told together.
//!
//! Left out: who may write; the socket's mode decides that.

use std::time::{Duration, SystemTime};

use config::resource::{DEFAULT_NAMESPACE, FieldError, Key, Kind, Resource};
use config::suggest;
use serde_json::Value;

use super::api::{ApiCall, ApiError, ApiProblem, DeleteCall, ErrorCode, GetCall, UndoCall, WriteCall};
use super::views::{
    ChangeView, GetReply, HistoryView, PendingView, TransactionView, UndoReply, WriteOutcome, WriteReply, WriteView,
};
use crate::datastore::transaction::{self, ChangeOutcome, MAX_CONFIRM};
use crate::datastore::undo::{self, Undo};
use crate::datastore::{
    Author, Committed, Datastore, Note, Outcome, Pending, Revision, StoreError, Transaction, Write,
};
use crate::policy::ignored;
use crate::tell::{chain, to_json};

/// What to do with each resource of a `WriteCall`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteMode {
    Apply,
    Create,
    Replace,
}

/// An answer, and the revision that must be in force before it is given.
#[derive(Debug, Clone, PartialEq)]
pub struct Answered {
    pub value: Value,
    pub wait_for: Option<Revision>,
}

/// The answer to a call that needs nothing but the datastore; none for the others.
pub async fn respond<D: Datastore>(
    store: &D,
    call: &ApiCall,
    caller: &Author,
    now: SystemTime,
) -> Option<Result<Answered, ApiError>> {
    let written = |is_dry: bool, result: Result<WriteReply, ApiError>| {
        result.map(|reply| {
            let wait_for = (!is_dry).then_some(Revision(reply.revision));
            Answered { value: to_json(&reply), wait_for }
        })
    };
    let read = |value: Value| Answered { value, wait_for: None };
    Some(match call {
        ApiCall::Apply(call) => written(call.dry_run, write(store, WriteMode::Apply, call, caller, now).await),
        ApiCall::Create(call) => written(call.dry_run, write(store, WriteMode::Create, call, caller, now).await),
        ApiCall::Replace(call) => written(call.dry_run, write(store, WriteMode::Replace, call, caller, now).await),
        ApiCall::Delete(call) => written(call.dry_run, delete(store, call, caller, now).await),
        ApiCall::Get(call) => get(store, call).await.map(|reply| read(to_json(&reply))),
        ApiCall::History { revision } => history(store, *revision, now).await.map(|view| read(to_json(&view))),
        ApiCall::Undo(call) => undo(store, call, caller, now).await.map(|reply| Answered {
            value: to_json(&reply),
            wait_for: (!call.dry_run).then_some(Revision(reply.revision)),
        }),
        ApiCall::Confirm => match store.confirm().await {
            Ok(pending) => Ok(read(to_json(&pending_view(&pending, now)))),
            Err(error) => Err(error.into()),
        },
        ApiCall::Show { .. }
        | ApiCall::Why(_)
        | ApiCall::Preview(_)
        | ApiCall::Trace(_)
        | ApiCall::Move(_)
        | ApiCall::Bgp(_)
        | ApiCall::Ipam(_)
        | ApiCall::Endpoint(_)
        | ApiCall::Version => return None,
    })
}

/// Writes all resources of `call`, or none.
pub async fn write<D: Datastore>(
    store: &D,
    mode: WriteMode,
    call: &WriteCall,
    caller: &Author,
    now: SystemTime,
) -> Result<WriteReply, ApiError> {
    let resources = read_resources(&call.resources)?;
    let warnings: Vec<String> = resources.iter().flat_map(ignored::warnings).collect();
    let verb = match mode {
        WriteMode::Apply => "apply",
        WriteMode::Create => "create",
        WriteMode::Replace => "replace",
    };
    let note = note(caller, verb, call.confirm_seconds)?;
    let write = |resource| match mode {
        WriteMode::Apply => Write::Put(resource),
        WriteMode::Create => Write::Create(resource),
        WriteMode::Replace => Write::Update { resource, expected: None },
    };
    let writes = resources.into_iter().map(write).collect();
    let reply = commit(store, writes, &note, call.dry_run, now).await?;
    Ok(WriteReply { warnings, ..reply })
}

/// Deletes all targets of `call`, or none.
pub async fn delete<D: Datastore>(
    store: &D,
    call: &DeleteCall,
    caller: &Author,
    now: SystemTime,
) -> Result<WriteReply, ApiError> {
    let note = note(caller, "delete", call.confirm_seconds)?;
    let mut writes = Vec::with_capacity(call.targets.len());
    for target in &call.targets {
        let key = key(read_kind(&target.kind)?, target.namespace.as_deref(), &target.name);
        if call.skip_missing && matches!(store.get(&key).await, Err(StoreError::NotFound(_))) {
            continue;
        }
        writes.push(Write::Delete { key, expected: target.expected.map(Revision) });
    }
    commit(store, writes, &note, call.dry_run, now).await
}

/// The transactions, newest first; one of them with its objects when a revision is given.
pub async fn history<D: Datastore>(store: &D, revision: Option<u64>, now: SystemTime) -> Result<HistoryView, ApiError> {
    let pending = store.pending().await?.map(|pending| pending_view(&pending, now));
    let transactions = store.transactions().await?;
    let transactions = match revision {
        None => transactions.iter().rev().map(|transaction| transaction_view(transaction, false)).collect(),
        Some(wanted) => match transactions.iter().find(|transaction| transaction.revision == wanted) {
            Some(transaction) => vec![transaction_view(transaction, true)],
            None => return Err(StoreError::NoSuchTransaction { revision: Revision(wanted) }.into()),
        },
    };
    Ok(HistoryView { pending, transactions })
}

async fn undo<D: Datastore>(
    store: &D,
    call: &UndoCall,
    caller: &Author,
    now: SystemTime,
) -> Result<UndoReply, ApiError> {
    let wish = Undo { revision: call.revision.map(Revision), force: call.force, dry_run: call.dry_run };
    let (undone, committed) = undo::undo(store, &wish, caller.clone(), "undo", now).await?;
    let WriteReply { revision, results, .. } = reply(committed);
    Ok(UndoReply { undone: undone.0, revision, results })
}

fn note(caller: &Author, verb: &str, confirm_seconds: Option<u64>) -> Result<Note, ApiError> {
    let limit = MAX_CONFIRM.as_secs();
    if let Some(found) = confirm_seconds.filter(|seconds| !(1..=limit).contains(seconds)) {
        let message = format!("confirmSeconds: found {found}, expected 1 to {limit}");
        return Err(ApiError::new(ErrorCode::BadBody, message));
    }
    let confirm_within = confirm_seconds.map(Duration::from_secs);
    Ok(Note { author: caller.clone(), verb: verb.to_string(), undoes: None, confirm_within, is_report: false })
}

/// What waits for a confirmation, as shown.
pub fn pending_view(pending: &Pending, now: SystemTime) -> PendingView {
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    PendingView {
        revision: pending.revision,
        until: pending.until_text(),
        seconds_left: pending.until.saturating_sub(seconds),
        author: pending.author.name.clone(),
    }
}

/// Forms were read as JSON when the store was opened; one nested so deeply that a tree of it is refused is not ours.
fn shown(form: &transaction::Form) -> Option<Value> {
    form.read().ok()
}

fn transaction_view(transaction: &Transaction, with_objects: bool) -> TransactionView {
    let change = |change: &transaction::Change| ChangeView {
        kind: change.kind.clone(),
        namespace: change.namespace.clone(),
        name: change.name.clone(),
        outcome: match change.outcome {
            ChangeOutcome::Created => WriteOutcome::Created,
            ChangeOutcome::Updated => WriteOutcome::Updated,
            ChangeOutcome::Deleted => WriteOutcome::Deleted,
        },
        before: change.before.as_ref().filter(|_| with_objects).and_then(shown),
        after: change.after.as_ref().filter(|_| with_objects).and_then(shown),
    };
    TransactionView {
        revision: transaction.revision,
        time: transaction::time_text(transaction.time),
        author: transaction.author.name.clone(),
        uid: transaction.author.uid,
        verb: transaction.verb.clone(),
        undoes: transaction.undoes,
        can_be_undone: transaction.is_whole,
        changes: transaction.changes.iter().map(change).collect(),
    }
}

/// One resource by name, or all of a kind.
pub async fn get<D: Datastore>(store: &D, call: &GetCall) -> Result<GetReply, ApiError> {
    let kind = read_kind(&call.kind)?;
    if let Some(name) = &call.name {
        let key = key(kind, call.namespace.as_deref(), name);
        let stored = match store.get(&key).await {
            Err(StoreError::NotFound(key)) => return Err(missing(store, key).await),
            found => found?,
        };
        return Ok(GetReply { revision: stored.revision.0, items: vec![stored.resource.to_json()] });
    }
    let (objects, revision) = store.list(Some(kind)).await?;
    let is_wanted = |resource: &Resource| match &call.namespace {
        Some(namespace) if kind.is_namespaced() => resource.metadata().namespace.as_ref() == Some(namespace),
        _ => true,
    };
    let resources = objects.into_iter().map(|stored| stored.resource);
    let items = resources.filter(|resource| is_wanted(resource)).map(|resource| resource.to_json()).collect();
    Ok(GetReply { revision: revision.0, items })
}

/// "Not found", with the name that was probably meant: the nearest of that kind, or the same one elsewhere.
async fn missing<D: Datastore>(store: &D, key: Key) -> ApiError {
    let mut message = StoreError::NotFound(key.clone()).to_string();
    if let Ok((objects, _)) = store.list(Some(key.kind)).await {
        let keys: Vec<Key> = objects.iter().map(|stored| stored.resource.key()).collect();
        let here = keys.iter().filter(|other| other.namespace == key.namespace).map(|other| other.name.as_str());
        let elsewhere = keys.iter().find(|other| other.name == key.name).and_then(|other| other.namespace.as_ref());
        if let Some(near) = suggest::nearest(&key.name, here) {
            message.push_str(&format!("; did you mean {near}?"));
        } else if let Some(namespace) = elsewhere {
            message.push_str(&format!("; there is one in namespace {namespace}"));
        }
    }
    ApiError::new(ErrorCode::ObjectNotFound, message)
}

/// JSON to valid resources, or everything that is wrong with them.
pub fn read_resources(documents: &[Value]) -> Result<Vec<Resource>, ApiError> {
    let mut resources = Vec::with_capacity(documents.len());
    let mut problems = Vec::new();
    for (position, document) in documents.iter().enumerate() {
        let (object, errors) = match Resource::from_json(document) {
            Err(errors) => (describe(document, position), errors),
            Ok(resource) => {
                let errors = resource.validate();
                let object = resource.key().to_string();
                resources.push(resource);
                (object, errors)
            }
        };
        problems.extend(errors.into_iter().map(|error| problem(&object, error)));
    }
    let Some(first) = problems.first() else {
        return Ok(resources);
    };
    let message = match problems.len() {
        1 => format!("{}: {}", first.object, first.message),
        count => format!("{count} problems; the first: {}: {}", first.object, first.message),
    };
    Err(ApiError { code: ErrorCode::Manifest, message, problems })
}

async fn commit<D: Datastore>(
    store: &D,
    writes: Vec<Write>,
    note: &Note,
    dry_run: bool,
    now: SystemTime,
) -> Result<WriteReply, ApiError> {
    let result = match dry_run {
        true => store.preview_as(writes, note, now).await,
        false => store.commit_as(writes, note, now).await,
    };
    let mut reply = match result {
        Err(StoreError::NotFound(key)) => return Err(missing(store, key).await),
        result => reply(result?),
    };
    if !dry_run && note.confirm_within.is_some() {
        let pending = store.pending().await?.filter(|pending| pending.revision == reply.revision);
        reply.pending = pending.map(|pending| pending_view(&pending, now));
    }
    Ok(reply)
}

fn reply(committed: Committed) -> WriteReply {
    let view = |result: crate::datastore::WriteResult| WriteView {
        kind: result.key.kind.to_string(),
        namespace: result.key.namespace,
        name: result.key.name,
        outcome: match result.outcome {
            Outcome::Created => WriteOutcome::Created,
            Outcome::Updated => WriteOutcome::Updated,
            Outcome::Unchanged => WriteOutcome::Unchanged,
            Outcome::Deleted => WriteOutcome::Deleted,
        },
    };
    WriteReply {
        revision: committed.revision.0,
        results: committed.results.into_iter().map(view).collect(),
        pending: None,
        warnings: Vec::new(),
    }
}

fn read_kind(word: &str) -> Result<Kind, ApiError> {
    Kind::parse_word(word).map_err(|error| ApiError::new(ErrorCode::UnknownKind, error.to_string()))
}

/// The key meant: no namespace is the default one where the kind has one, and none elsewhere.
fn key(kind: Kind, namespace: Option<&str>, name: &str) -> Key {
    match kind.is_namespaced() {
        true => Key::namespaced(kind, namespace.unwrap_or(DEFAULT_NAMESPACE), name),
        false => Key::cluster(kind, name),
    }
}

/// A name for a document that did not become a resource.
fn describe(document: &Value, position: usize) -> String {
    let metadata = &document["metadata"];
    match (document["kind"].as_str(), metadata["namespace"].as_str(), metadata["name"].as_str()) {
        (Some(kind), Some(namespace), Some(name)) => format!("{kind} {namespace}/{name}"),
        (Some(kind), None, Some(name)) => format!("{kind} {name}"),
        _ => format!("resource {}", position + 1),
    }
}

fn problem(object: &str, error: FieldError) -> ApiProblem {
    let (code, field) = (code_of(&error), error.path.clone());
    ApiProblem { code, object: object.to_string(), field, message: error.to_string() }
}

/// The code of what is wrong with a field.
pub fn code_of(error: &FieldError) -> ErrorCode {
    match error.found.as_str() {
        "an unknown field" => ErrorCode::UnknownField,
        "nothing" => ErrorCode::MissingField,
        _ => ErrorCode::BadValue,
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> ApiError {
        let code = match &error {
            StoreError::NotFound(_) => ErrorCode::ObjectNotFound,
            StoreError::AlreadyExists(_) => ErrorCode::AlreadyExists,
            StoreError::Conflict { .. } => ErrorCode::ChangedSinceRead,
            StoreError::Replaced { .. } => ErrorCode::Replaced,
            StoreError::VersionOnCreate { .. } => ErrorCode::VersionOnCreate,
            StoreError::BadVersion { .. } => ErrorCode::BadVersion,
            StoreError::WrittenTwice(_) => ErrorCode::WrittenTwice,
            StoreError::TooManyWrites { .. } | StoreError::TooLarge { .. } => ErrorCode::TooLarge,
            StoreError::NoSuchTransaction { .. } => ErrorCode::NoSuchTransaction,
            StoreError::NothingToUndo => ErrorCode::NothingToUndo,
            StoreError::UndoNotKept { .. } | StoreError::UndoNotRead { .. } => ErrorCode::UndoNotKept,
            StoreError::ChangedSince { .. } => ErrorCode::UndoConflict,
            StoreError::ConfirmPending { .. } => ErrorCode::ConfirmPending,
            StoreError::AwaitsConfirmation { .. } => ErrorCode::AwaitsConfirmation,
            StoreError::NothingToConfirm => ErrorCode::NothingToConfirm,
            StoreError::ConfirmTooLarge { .. } => ErrorCode::ConfirmTooLarge,
            StoreError::Compacted { .. } | StoreError::WentBackwards { .. } => ErrorCode::StoreBehind,
            StoreError::Closed => ErrorCode::StoreClosed,
            StoreError::Damaged { .. } => ErrorCode::StoreDamaged,
            StoreError::Format { .. } => ErrorCode::StoreFormat,
            StoreError::InUse { .. } => ErrorCode::StoreInUse,
            StoreError::DiskFull { .. } => ErrorCode::DiskFull,
            StoreError::Io { .. } => ErrorCode::StoreIo,
            StoreError::Unknown { .. } => ErrorCode::CommitUnknown,
        };
        ApiError::new(code, chain(&error))
    }
}
