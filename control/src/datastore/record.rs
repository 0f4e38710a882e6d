//! The bytes of a record in the embedded store.
//!
//! ```text
//! objects   (kind, namespace, name) → [ checksum 8 | revision 8 | JSON of the resource ]
//! history   (revision, index)       → [ checksum 8 | JSON {kind, namespace, name, value} ]
//! ```
//!
//! The checksum covers key and value, so a record that moved, was cut or has a flipped bit is
//! refused. FNV-1a is enough: every step is a bijection, so one changed byte always shows, and the
//! enemy here is a disk, not a forger.
//!
//! Left out: compression, encryption.

use std::borrow::Cow;
use std::sync::Arc;

use config::resource::{Key, Kind, Resource};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::{Revision, Stored, Update};

/// Largest resource kept, as JSON. etcd's own limit for a request is close to it.
pub(super) const MAX_OBJECT_BYTES: usize = 1024 * 1024;

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// A key's parts as the table has them; an object outside namespaces has an empty one.
pub fn table_key(key: &Key) -> (&'static str, &str, &str) {
    (key.kind.name(), key.namespace.as_deref().unwrap_or_default(), &key.name)
}

pub fn encode_object(key: &Key, revision: Revision, resource: &Resource) -> Vec<u8> {
    let json = resource.to_json().to_string();
    let (kind, namespace, name) = table_key(key);
    let sum =
        checksum(&[kind.as_bytes(), namespace.as_bytes(), name.as_bytes(), &revision.0.to_le_bytes(), json.as_bytes()]);
    let mut bytes = Vec::with_capacity(16 + json.len());
    bytes.extend(sum.to_le_bytes());
    bytes.extend(revision.0.to_le_bytes());
    bytes.extend(json.as_bytes());
    bytes
}

/// The object, or what is wrong with it.
pub fn decode_object((kind, namespace, name): (&str, &str, &str), bytes: &[u8]) -> Result<Stored, String> {
    let object = || format!("object {kind}({namespace}/{name})");
    let (sum, rest) = split_u64(bytes).ok_or_else(|| format!("{} is cut off", object()))?;
    let (revision, json) = split_u64(rest).ok_or_else(|| format!("{} is cut off", object()))?;
    let expected = checksum(&[kind.as_bytes(), namespace.as_bytes(), name.as_bytes(), &revision.to_le_bytes(), json]);
    if sum != expected {
        return Err(format!("{} does not match its checksum", object()));
    }
    let resource = parse(json).map_err(|reason| format!("{}: {reason}", object()))?;
    let key = resource.key();
    if table_key(&key) != (kind, namespace, name) {
        return Err(format!("{} is stored under another's key", object()));
    }
    let revision = Revision(revision);
    Ok(Stored { key: Arc::new(key), resource: Arc::new(resource), revision })
}

pub fn encode_update(update: &Update, index: u32) -> Vec<u8> {
    let (kind, namespace, name) = table_key(&update.key);
    let value = update.value.as_ref().map(|resource| resource.to_json());
    let json = json!({ "kind": kind, "namespace": namespace, "name": name, "value": value });
    let json = json.to_string();
    let sum = update_checksum(update.revision.0, index, json.as_bytes());
    let mut bytes = Vec::with_capacity(8 + json.len());
    bytes.extend(sum.to_le_bytes());
    bytes.extend(json.as_bytes());
    bytes
}

/// The change, or what is wrong with it.
pub fn decode_update((revision, index): (u64, u32), bytes: &[u8]) -> Result<Update, String> {
    let change = || format!("change {revision}.{index}");
    let (sum, json) = split_u64(bytes).ok_or_else(|| format!("{} is cut off", change()))?;
    if sum != update_checksum(revision, index, json) {
        return Err(format!("{} does not match its checksum", change()));
    }
    let fields: Fields<'_> = serde_json::from_slice(json).map_err(|error| format!("{}: {error}", change()))?;
    let value = fields.value.map(|value| parse(value.get().as_bytes()));
    let value = value.transpose().map_err(|reason| format!("{}: {reason}", change()))?;
    let kind = Kind::from_name(&fields.kind);
    let kind = kind.ok_or_else(|| format!("{} is of unknown kind {:?}", change(), fields.kind))?;
    let namespace = Some(fields.namespace.into_owned()).filter(|namespace| !namespace.is_empty());
    let key = Key { kind, namespace, name: fields.name.into_owned() };
    if value.as_ref().is_some_and(|resource| resource.key() != key) {
        return Err(format!("{} holds another object than {key}", change()));
    }
    Ok(Update { revision: Revision(revision), key, value: value.map(Arc::new) })
}

/// The fields of a change.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    namespace: Cow<'a, str>,
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    value: Option<&'a RawValue>,
}

fn parse(text: &[u8]) -> Result<Resource, String> {
    if let Some(resource) = Resource::from_written(text) {
        return Ok(resource);
    }
    let json: Value = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    Resource::from_json(&json).map_err(|errors| {
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        errors.join("; ")
    })
}

pub(super) fn split_u64(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*number), rest))
}

fn update_checksum(revision: u64, index: u32, json: &[u8]) -> u64 {
    checksum(&[&revision.to_le_bytes(), &index.to_le_bytes(), json])
}

/// FNV-1a over the parts, each preceded by its length so that no byte can change sides.
pub(super) fn checksum(parts: &[&[u8]]) -> u64 {
    let step = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(FNV_PRIME);
    parts.iter().fold(FNV_OFFSET, |sum, part| {
        let length = (part.len() as u64).to_le_bytes();
        part.iter().fold(length.iter().fold(sum, step), step)
    })
}
