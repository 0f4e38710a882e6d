//! What a write means: the checks before it and the object that results.
//!
//! `decide` is a function of the write and of what the store has. Every store calls it inside its
//! own transaction, so the rules for resourceVersion, uid and creationTimestamp exist once.
//!
//! Rules, as Calico's clients know them:
//! - create refuses a set resourceVersion and an existing object;
//! - update needs the object to exist; a resourceVersion, if given, must be the current one;
//! - put creates or updates, with the same check when the object exists;
//! - uid and creationTimestamp are given at creation and kept for life, whatever a writer sends;
//! - a change that changes nothing is no change: no new revision, no event to followers.
//!
//! Left out: validation. A `Resource` that gets here was validated at the edge.

use std::fs;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use config::resource::{Key, Resource};

use super::{Revision, StoreError, Stored};

/// The kernel's own generator of random (version 4) UUIDs.
const KERNEL_UUID: &str = "/proc/sys/kernel/random/uuid";

/// One change asked for.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    Create(Resource),
    /// Without `expected`, the resource's own resourceVersion is the one that is compared.
    Update {
        resource: Resource,
        expected: Option<Revision>,
    },
    /// Create or update.
    Put(Resource),
    Delete {
        key: Key,
        expected: Option<Revision>,
    },
}

impl Write {
    pub fn key(&self) -> Key {
        match self {
            Write::Create(resource) | Write::Put(resource) | Write::Update { resource, .. } => resource.key(),
            Write::Delete { key, .. } => key.clone(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Created,
    Updated,
    Unchanged,
    Deleted,
}

/// What became of one write.
#[derive(Debug, Clone, PartialEq)]
pub struct WriteResult {
    pub key: Key,
    pub outcome: Outcome,
    /// The object after the write; after a delete, as it was last.
    pub resource: Arc<Resource>,
}

/// The result of `write` on an object that is now `current`, if the commit becomes `next`.
///
/// `new_uid` is asked only for objects that are created.
pub(super) fn decide(
    write: Write,
    current: Option<&Stored>,
    next: Revision,
    now: SystemTime,
    new_uid: impl FnOnce() -> Result<String, StoreError>,
) -> Result<WriteResult, StoreError> {
    let key = write.key();
    match (write, current) {
        (Write::Create(_), Some(_)) => Err(StoreError::AlreadyExists(key)),
        (Write::Update { .. } | Write::Delete { .. }, None) => Err(StoreError::NotFound(key)),
        (Write::Create(resource), None) => match version_text(&resource) {
            Some(found) => Err(StoreError::VersionOnCreate { key, found: found.to_string() }),
            None => created(key, resource, next, now, new_uid()?),
        },
        (Write::Put(resource), None) => created(key, resource, next, now, new_uid()?),
        (Write::Put(resource), Some(current)) => updated(key, resource, None, current, next),
        (Write::Update { resource, expected }, Some(current)) => updated(key, resource, expected, current, next),
        (Write::Delete { expected, .. }, Some(current)) => {
            check_revision(&key, expected, current)?;
            Ok(WriteResult { key, outcome: Outcome::Deleted, resource: current.resource.clone() })
        }
    }
}

/// A new uid from the kernel.
pub(super) fn kernel_uid() -> io::Result<String> {
    Ok(fs::read_to_string(KERNEL_UUID)?.trim_end().to_string())
}

fn created(
    key: Key,
    mut resource: Resource,
    next: Revision,
    now: SystemTime,
    uid: String,
) -> Result<WriteResult, StoreError> {
    let metadata = resource.metadata_mut();
    metadata.uid = Some(uid);
    metadata.creation_timestamp = Some(rfc3339(now));
    metadata.resource_version = Some(next.to_string());
    Ok(WriteResult { key, outcome: Outcome::Created, resource: Arc::new(resource) })
}

fn updated(
    key: Key,
    mut resource: Resource,
    expected: Option<Revision>,
    current: &Stored,
    next: Revision,
) -> Result<WriteResult, StoreError> {
    let expected = match expected {
        Some(expected) => Some(expected),
        None => version(&key, &resource)?,
    };
    check_revision(&key, expected, current)?;

    let kept = current.resource.metadata();
    let metadata = resource.metadata_mut();
    if let (Some(expected), Some(found)) = (&metadata.uid, &kept.uid)
        && !expected.is_empty()
        && expected != found
    {
        return Err(StoreError::Replaced { key, found: found.clone(), expected: expected.clone() });
    }
    metadata.uid = kept.uid.clone();
    metadata.creation_timestamp = kept.creation_timestamp.clone();
    metadata.resource_version = kept.resource_version.clone();
    if resource == *current.resource {
        return Ok(WriteResult { key, outcome: Outcome::Unchanged, resource: current.resource.clone() });
    }
    resource.metadata_mut().resource_version = Some(next.to_string());
    Ok(WriteResult { key, outcome: Outcome::Updated, resource: Arc::new(resource) })
}

fn check_revision(key: &Key, expected: Option<Revision>, current: &Stored) -> Result<(), StoreError> {
    match expected {
        Some(expected) if expected != current.revision => {
            Err(StoreError::Conflict { key: key.clone(), found: current.revision, expected })
        }
        _ => Ok(()),
    }
}

fn version_text(resource: &Resource) -> Option<&str> {
    resource.metadata().resource_version.as_deref().filter(|text| !text.is_empty())
}

/// The revision a resource says it was read at.
fn version(key: &Key, resource: &Resource) -> Result<Option<Revision>, StoreError> {
    let Some(text) = version_text(resource) else {
        return Ok(None);
    };
    match text.parse() {
        Ok(number) => Ok(Some(Revision(number))),
        Err(_) => Err(StoreError::BadVersion { key: key.clone(), found: text.to_string() }),
    }
}

/// `now` as RFC 3339 in UTC, to the second. Before 1970 counts as 1970.
pub(super) fn rfc3339(now: SystemTime) -> String {
    let seconds = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let (days, second_of_day) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil_date(days);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        second_of_day / 3_600,
        second_of_day / 60 % 60,
        second_of_day % 60
    )
}

/// Year, month and day of a day counted from 1970-01-01. Years start in March here, so that the
/// leap day is the last day of a year and a month's length follows from its number alone.
fn civil_date(days: u64) -> (u64, u64, u64) {
    const DAYS_PER_ERA: u64 = 146_097; // 400 years
    const DAYS_BEFORE_EPOCH: u64 = 719_468; // from 0000-03-01
    let days = days + DAYS_BEFORE_EPOCH;
    let (era, day_of_era) = (days / DAYS_PER_ERA, days % DAYS_PER_ERA);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_follow_the_calendar() {
        let check = |seconds: u64, expected: &str| {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), expected);
        };
        check(0, "1970-01-01T00:00:00Z");
        check(68_169_599, "1972-02-28T23:59:59Z");
        check(68_169_600, "1972-02-29T00:00:00Z");
        check(951_782_400, "2000-02-29T00:00:00Z");
        check(951_868_800, "2000-03-01T00:00:00Z");
        check(1_735_689_599, "2024-12-31T23:59:59Z");
        check(4_107_542_400, "2100-03-01T00:00:00Z");
    }

    #[test]
    fn the_kernel_gives_uids() {
        let uid = kernel_uid().unwrap_or_default();
        assert_eq!(uid.len(), 36);
        assert_ne!(Some(uid), kernel_uid().ok());
    }
}
