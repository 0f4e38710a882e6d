//! The answers that need nothing but the datastore: writes and reads of resources.
//!
//! Here JSON becomes resources, once, for every caller: read, defaults applied, validated. All the
//! faults of a request are told together.
//!
//! Left out: who may write; the socket's mode decides that.

use std::time::SystemTime;

use config::resource::{DEFAULT_NAMESPACE, FieldError, Key, Kind, Resource};
use serde_json::Value;

use super::api::{ApiError, ApiProblem, DeleteCall, ErrorCode, GetCall, WriteCall};
use super::views::{GetReply, WriteOutcome, WriteReply, WriteView};
use crate::datastore::{Committed, Datastore, Outcome, Revision, StoreError, Write};

/// What to do with each resource of a `WriteCall`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteMode {
    Apply,
    Create,
    Replace,
}

/// Writes all resources of `call`, or none.
pub async fn write<D: Datastore>(
    store: &D,
    mode: WriteMode,
    call: &WriteCall,
    now: SystemTime,
) -> Result<WriteReply, ApiError> {
    let resources = read_resources(&call.resources)?;
    let write = |resource| match mode {
        WriteMode::Apply => Write::Put(resource),
        WriteMode::Create => Write::Create(resource),
        WriteMode::Replace => Write::Update { resource, expected: None },
    };
    let writes = resources.into_iter().map(write).collect();
    commit(store, writes, call.dry_run, now).await.map(reply)
}

/// Deletes all targets of `call`, or none.
pub async fn delete<D: Datastore>(store: &D, call: &DeleteCall, now: SystemTime) -> Result<WriteReply, ApiError> {
    let mut writes = Vec::with_capacity(call.targets.len());
    for target in &call.targets {
        let key = key(read_kind(&target.kind)?, target.namespace.as_deref(), &target.name);
        if call.skip_missing && matches!(store.get(&key).await, Err(StoreError::NotFound(_))) {
            continue;
        }
        writes.push(Write::Delete { key, expected: target.expected.map(Revision) });
    }
    commit(store, writes, call.dry_run, now).await.map(reply)
}

/// One resource by name, or all of a kind.
pub async fn get<D: Datastore>(store: &D, call: &GetCall) -> Result<GetReply, ApiError> {
    let kind = read_kind(&call.kind)?;
    if let Some(name) = &call.name {
        let stored = store.get(&key(kind, call.namespace.as_deref(), name)).await?;
        return Ok(GetReply { revision: stored.revision.0, items: vec![stored.resource.to_json()] });
    }
    let (objects, revision) = store.list(Some(kind)).await?;
    let is_wanted = |resource: &Resource| match &call.namespace {
        Some(namespace) if kind.is_namespaced() => resource.metadata().namespace.as_ref() == Some(namespace),
        _ => true,
    };
    let resources = objects.into_iter().map(|stored| stored.resource);
    let items = resources.filter(is_wanted).map(|resource| resource.to_json()).collect();
    Ok(GetReply { revision: revision.0, items })
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
    Err(ApiError { code: ErrorCode::Invalid, message, problems })
}

async fn commit<D: Datastore>(
    store: &D,
    writes: Vec<Write>,
    dry_run: bool,
    now: SystemTime,
) -> Result<Committed, ApiError> {
    match dry_run {
        true => Ok(store.preview(writes, now).await?),
        false => Ok(store.commit(writes, now).await?),
    }
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
    WriteReply { revision: committed.revision.0, results: committed.results.into_iter().map(view).collect() }
}

fn read_kind(word: &str) -> Result<Kind, ApiError> {
    Kind::parse_word(word).map_err(|error| ApiError::new(ErrorCode::Invalid, error.to_string()))
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
    ApiProblem { object: object.to_string(), field: error.path.clone(), message: error.to_string() }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> ApiError {
        let code = match &error {
            StoreError::NotFound(_) => ErrorCode::NotFound,
            StoreError::AlreadyExists(_) | StoreError::Conflict { .. } | StoreError::Replaced { .. } => {
                ErrorCode::Conflict
            }
            StoreError::VersionOnCreate { .. }
            | StoreError::BadVersion { .. }
            | StoreError::WrittenTwice(_)
            | StoreError::TooManyWrites { .. }
            | StoreError::TooLarge { .. } => ErrorCode::Invalid,
            StoreError::Compacted { .. }
            | StoreError::WentBackwards { .. }
            | StoreError::Closed
            | StoreError::Damaged { .. }
            | StoreError::Format { .. }
            | StoreError::InUse { .. }
            | StoreError::DiskFull { .. }
            | StoreError::Io { .. }
            | StoreError::Unknown { .. } => ErrorCode::Unavailable,
        };
        ApiError::new(code, chain(&error))
    }
}

/// The error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
