//! Who changed what, and when: the transactions a store remembers so that they can be undone.
//!
//! ```text
//! commit_as(writes, note) ─→ Transaction { revision, note, objects before and after }
//!                       └──→ Pending, when the note asks for a confirmation
//! ```
//!
//! At most `MAX_TRANSACTIONS`, of at most `MAX_TRANSACTION_BYTES` together; the oldest go first. One that is larger than
//! that alone is remembered without its objects, and cannot be undone. The one that waits for its confirmation is never
//! forgotten.
//!
//! ```text
//! transactions   revision → [ checksum 8 | JSON ]
//! pending        "confirm" → [ checksum 8 | JSON ]
//! ```
//!
//! Left out: transactions of other nodes; a store that several nodes share keeps its own.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use config::resource::{Key, Resource};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

use super::record;
use super::write::{Outcome, WriteResult, rfc3339};
use super::{Revision, Stored};

pub const MAX_TRANSACTIONS: usize = 100;
pub const MAX_TRANSACTION_BYTES: usize = 16 * 1024 * 1024;

/// How long a change may wait for its confirmation.
pub const MAX_CONFIRM: Duration = Duration::from_secs(3600);

/// Who writes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Author {
    /// A user's name, or `vrouter` for what the daemon does by itself.
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
}

/// What is remembered of a commit beside its objects.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Note {
    pub author: Author,
    /// `apply`, `delete`, `undo`...
    pub verb: String,
    /// The transaction this one takes back.
    pub undoes: Option<Revision>,
    /// Taken back unless it is confirmed within this time.
    pub confirm_within: Option<Duration>,
    /// Nobody asked for it, and nobody wants to take it back: it is not remembered.
    pub is_report: bool,
}

impl Note {
    /// Something the daemon does by itself.
    pub fn own(verb: &str) -> Note {
        let author = Author { name: "vrouter".to_string(), uid: None };
        Note { author, verb: verb.to_string(), undoes: None, confirm_within: None, is_report: false }
    }

    /// Something that the daemon has seen, as opposed to done.
    pub fn report() -> Note {
        Note { is_report: true, ..Note::own("report") }
    }
}

/// One commit, as remembered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Transaction {
    pub revision: u64,
    /// Seconds since 1970.
    pub time: u64,
    pub author: Author,
    pub verb: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undoes: Option<u64>,
    pub changes: Vec<Change>,
    /// False when the objects were too large to be kept; then `before` and `after` are absent everywhere.
    pub is_whole: bool,
}

/// What became of one object. The forms are those of the time: they are read as resources only when they are needed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    pub name: String,
    pub outcome: ChangeOutcome,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Form>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Form>,
}

/// An object as it was written then. Text: a hundred transactions are kept, and few are ever looked at.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Form(Box<RawValue>);

impl Form {
    fn of(resource: &Resource) -> Option<Form> {
        // Our own structs have string keys and plain values only.
        to_raw_value(resource).ok().map(Form)
    }

    pub fn read(&self) -> Result<Value, serde_json::Error> {
        serde_json::from_str(self.0.get())
    }
}

impl PartialEq for Form {
    fn eq(&self, other: &Form) -> bool {
        self.0.get() == other.0.get()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeOutcome {
    Created,
    Updated,
    Deleted,
}

/// The transaction that is taken back unless it is confirmed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    pub revision: u64,
    /// Seconds since 1970.
    pub since: u64,
    pub until: u64,
    pub author: Author,
}

impl Pending {
    /// Whether its time is over. A clock that went behind `since` counts as over: a change nobody confirms must not
    /// stay because a clock was set.
    pub fn is_overdue(&self, now: SystemTime) -> bool {
        let now = seconds(now);
        now >= self.until || now < self.since
    }

    pub fn until_text(&self) -> String {
        time_text(self.until)
    }
}

/// Seconds since 1970 as RFC 3339.
pub fn time_text(seconds: u64) -> String {
    // What is stored may be anything; the calendar ends somewhere.
    rfc3339(UNIX_EPOCH.checked_add(Duration::from_secs(seconds.min(253_402_300_799))).unwrap_or(UNIX_EPOCH))
}

pub(super) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

impl Change {
    pub fn is_of(&self, key: &Key) -> bool {
        self.kind == key.kind.name() && self.namespace == key.namespace && self.name == key.name
    }

    /// Like a key is shown.
    pub fn object(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{} {namespace}/{}", self.kind, self.name),
            None => format!("{} {}", self.kind, self.name),
        }
    }
}

impl Transaction {
    /// What `results` did; `before` gives the objects as they were.
    pub(super) fn new<'a>(
        revision: Revision,
        note: &Note,
        now: SystemTime,
        results: &[WriteResult],
        before: impl Fn(&Key) -> Option<&'a Stored>,
    ) -> Transaction {
        let change = |result: &WriteResult| {
            let outcome = match result.outcome {
                Outcome::Unchanged => return None,
                Outcome::Created => ChangeOutcome::Created,
                Outcome::Updated => ChangeOutcome::Updated,
                Outcome::Deleted => ChangeOutcome::Deleted,
            };
            let Key { kind, namespace, name } = result.key.clone();
            let before = before(&result.key).and_then(|stored| Form::of(&stored.resource));
            let after = (outcome != ChangeOutcome::Deleted).then(|| Form::of(&result.resource)).flatten();
            Some(Change { kind: kind.to_string(), namespace, name, outcome, before, after })
        };
        Transaction {
            revision: revision.0,
            time: seconds(now),
            author: note.author.clone(),
            verb: note.verb.clone(),
            undoes: note.undoes.map(|revision| revision.0),
            changes: results.iter().filter_map(change).collect(),
            is_whole: true,
        }
    }

    /// The same without the objects.
    pub(super) fn without_objects(mut self) -> Transaction {
        for change in &mut self.changes {
            change.before = None;
            change.after = None;
        }
        self.is_whole = false;
        self
    }

    pub fn change_of(&self, key: &Key) -> Option<&Change> {
        self.changes.iter().find(|change| change.is_of(key))
    }
}

pub(super) fn encode<T: Serialize>(place: u64, value: &T) -> Vec<u8> {
    // Our own structs have string keys and plain values only.
    let json = serde_json::to_vec(value).unwrap_or_default();
    let mut bytes = Vec::with_capacity(8 + json.len());
    bytes.extend(record::checksum(&[&place.to_le_bytes(), &json]).to_le_bytes());
    bytes.extend(json);
    bytes
}

/// The value, or what is wrong with it.
pub(super) fn decode<T: serde::de::DeserializeOwned>(what: &str, place: u64, bytes: &[u8]) -> Result<T, String> {
    let (sum, json) = record::split_u64(bytes).ok_or_else(|| format!("{what} {place} is cut off"))?;
    if sum != record::checksum(&[&place.to_le_bytes(), json]) {
        return Err(format!("{what} {place} does not match its checksum"));
    }
    serde_json::from_slice(json).map_err(|error| format!("{what} {place}: {error}"))
}
