//! patch and label: read one resource, change it, write it back if nobody else did meanwhile.
//!
//! Three types of patch:
//! - `strategic`, the default: a piece of the resource. Maps are merged, `null` removes, a list replaces the whole list.
//!   That is what the strategic type does to Calico's kinds, none of whose lists has a merge key. In a map
//!   `$patch: replace` replaces the map and `$patch: delete` removes it; other directives are refused.
//! - `merge`: RFC 7386, the same without directives.
//! - `json`: RFC 6902, a list of operations.
//!
//! Invariants: a write that lost a race is repeated on what is there now, at most `ATTEMPTS` times.

use clap::{Args, ValueEnum};
use config::resource::Key;
use control::http::api::{ErrorCode, WriteCall};
use control::http::views::{GetReply, WriteReply};
use serde_json::{Map, Value};

use super::apply::{self, DryRun, How};
use super::error::CliError;
use super::render::{self, harmless};
use super::{Format, Style, get};
use crate::client::{Client, ClientError};

const ATTEMPTS: usize = 5;

/// The directive of a strategic patch.
const DIRECTIVE: &str = "$patch";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PatchType {
    Strategic,
    Json,
    Merge,
}

#[derive(Debug, Args)]
pub struct PatchArguments {
    /// Kind, in any of calicoctl's words
    kind: String,

    name: String,

    /// The patch, as JSON or YAML
    #[arg(short, long)]
    patch: String,

    /// strategic: a piece of the resource, lists are replaced; merge: RFC 7386; json: RFC 6902
    #[arg(short = 't', long = "type", value_enum, default_value_t = PatchType::Strategic)]
    kind_of_patch: PatchType,

    #[arg(short, long)]
    namespace: Option<String>,

    #[command(flatten)]
    how: How,
}

#[derive(Debug, Args)]
pub struct LabelArguments {
    /// Kind, in any of calicoctl's words
    kind: String,

    name: String,

    /// key=value to set, key with --remove
    #[arg(value_name = "KEY=VALUE")]
    label: String,

    /// Change the value of a label that is there
    #[arg(long, conflicts_with = "remove")]
    overwrite: bool,

    /// Remove the label
    #[arg(long)]
    remove: bool,

    #[arg(short, long)]
    namespace: Option<String>,
}

pub fn patch(client: &Client, format: Format, style: Style, arguments: &PatchArguments) -> Result<(), CliError> {
    let kind = super::kind(&arguments.kind)?;
    let key = super::key(kind, arguments.namespace.as_deref(), &arguments.name);
    let patch = read(&arguments.patch)?;
    if arguments.how.dry_run == Some(DryRun::Client) {
        let message = "--dry-run=client: a patch needs the resource it changes; use --dry-run=server";
        return Err(CliError::Usage(message.to_string()));
    }
    let reply = change(client, &key, &arguments.how, |resource| patched(arguments.kind_of_patch, resource, &patch))?;
    let dry_run = arguments.how.dry_run.is_some();
    if let Some(text) = render::structured(format, &reply)? {
        return render::print(&text);
    }
    let mut text = match dry_run {
        true => format!("Dry run: would patch 1 '{kind}' resource\n"),
        false => format!("Successfully patched 1 '{kind}' resource\n"),
    };
    if style == Style::Ours {
        text.push_str(&apply::unchanged(&reply.results, false));
        text.push_str(&reply.pending.as_ref().map(apply::pending_text).unwrap_or_default());
    }
    render::print(&text)
}

pub fn label(client: &Client, format: Format, arguments: &LabelArguments) -> Result<(), CliError> {
    let kind = super::kind(&arguments.kind)?;
    let key = super::key(kind, arguments.namespace.as_deref(), &arguments.name);
    let wrong = |message: String| CliError::refused(ErrorCode::BadLabel, message);
    let (label, value) = match (arguments.label.split_once('='), arguments.remove) {
        (Some((label, value)), false) => (label, Some(value)),
        (None, true) => (arguments.label.as_str(), None),
        (None, false) => return Err(wrong(format!("found {:?}, expected key=value", arguments.label))),
        (Some(_), true) => return Err(wrong(format!("found {:?}, expected a key to remove", arguments.label))),
    };
    let mut done = "set";
    let reply = change(client, &key, &How::default(), |mut resource| {
        let labels = &mut resource["metadata"]["labels"];
        if !labels.is_object() {
            *labels = Value::Object(Map::new());
        }
        let old = labels[label].as_str().map(str::to_string);
        match (value, old) {
            (Some(new), Some(old)) if old != new && !arguments.overwrite => {
                let message = format!("label {label} of {key} is {old} already; use --overwrite to change it");
                return Err(CliError::refused(ErrorCode::LabelExists, message));
            }
            (Some(new), old) => {
                done = if old.is_some() { "updated" } else { "set" };
                labels[label] = Value::from(new);
            }
            (None, Some(_)) => {
                done = "removed";
                labels.as_object_mut().map(|labels| labels.remove(label));
            }
            (None, None) => return Err(wrong(format!("{key} has no label {label} to remove"))),
        }
        Ok(resource)
    })?;
    if let Some(text) = render::structured(format, &reply)? {
        return render::print(&text);
    }
    let place = if arguments.remove { "from" } else { "on" };
    let (label, kind, name) = (harmless(label), harmless(&arguments.kind), harmless(&arguments.name));
    render::print(&format!("Successfully {done} label {label} {place} {kind} {name}\n"))
}

/// Reads the resource, changes it and writes it, again when somebody else wrote in between.
fn change(
    client: &Client,
    key: &Key,
    how: &How,
    mut change: impl FnMut(Value) -> Result<Value, CliError>,
) -> Result<WriteReply, CliError> {
    let mut attempt = 1;
    loop {
        let reply: GetReply = client.get(&get::path(key))?;
        let mut resource = reply.items.into_iter().next().unwrap_or_default();
        render::shorten_numbers(&mut resource);
        let marks = ["kind", "apiVersion"].map(|field| resource[field].clone());
        let read_at = resource["metadata"]["resourceVersion"].clone();
        let changed = change(resource)?;
        let is_same = ["kind", "apiVersion"].map(|field| changed[field].clone()) == marks
            && changed["metadata"]["name"].as_str() == Some(key.name.as_str())
            && changed["metadata"]["namespace"].as_str() == key.namespace.as_deref();
        if !is_same {
            let message = format!("the patch makes another object of {key}: kind, name and namespace stay");
            return Err(CliError::refused(ErrorCode::BadPatch, message));
        }
        // A patch that names a resourceVersion means that one and no later.
        let may_repeat = changed["metadata"]["resourceVersion"] == read_at;
        let call = WriteCall { resources: vec![changed], dry_run: how.dry_run.is_some(), confirm_seconds: how.confirm };
        match client.post("/v1/replace", &call) {
            Ok(reply) => return Ok(reply),
            Err(ClientError::Refused(refusal))
                if refusal.code == ErrorCode::ChangedSinceRead && may_repeat && attempt < ATTEMPTS =>
            {
                attempt += 1;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// A patch as written on the command line.
fn read(text: &str) -> Result<Value, CliError> {
    // JSON first: its messages are closer to what was written.
    if let Ok(value) = serde_json::from_str(text) {
        return Ok(value);
    }
    serde_saphyr::from_str(text)
        .map_err(|error| CliError::refused(ErrorCode::BadPatch, format!("neither JSON nor YAML: {error}")))
}

pub fn patched(kind: PatchType, mut resource: Value, patch: &Value) -> Result<Value, CliError> {
    let wrong = |reason: String| CliError::refused(ErrorCode::BadPatch, reason);
    if kind != PatchType::Json && !patch.is_object() {
        return Err(wrong("a strategic or merge patch is a piece of the resource: a map".to_string()));
    }
    match kind {
        PatchType::Merge => json_patch::merge(&mut resource, patch),
        PatchType::Json => {
            let patch: json_patch::Patch = serde_json::from_value(patch.clone())
                .map_err(|error| wrong(format!("not a list of operations as in RFC 6902: {error}")))?;
            json_patch::patch(&mut resource, &patch).map_err(|error| wrong(error.to_string()))?;
        }
        PatchType::Strategic => merge_strategic(&mut resource, patch, "").map_err(wrong)?,
    }
    Ok(resource)
}

/// Merges `patch` into `target`. Both are at most `document::DEPTH_MAX` deep, so is the recursion.
fn merge_strategic(target: &mut Value, patch: &Value, path: &str) -> Result<(), String> {
    let Value::Object(entries) = patch else {
        *target = patch.clone();
        return Ok(());
    };
    let mut fresh = Value::Object(Map::new());
    match entries.get(DIRECTIVE).map(Value::as_str) {
        None => {}
        Some(Some("merge")) => {}
        Some(Some("replace")) => *target = std::mem::take(&mut fresh),
        Some(_) => {
            return Err(format!("{path}/{DIRECTIVE}: found {}, expected merge, replace or delete", entries[DIRECTIVE]));
        }
    }
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    for (name, value) in entries.iter().filter(|(name, _)| *name != DIRECTIVE) {
        let path = format!("{path}/{name}");
        if name.starts_with('$') {
            return Err(format!("{path}: this directive is about lists with merge keys; these kinds have none"));
        }
        let is_removed = value.is_null() || value.get(DIRECTIVE).and_then(Value::as_str) == Some("delete");
        let Some(fields) = target.as_object_mut() else { continue };
        match is_removed {
            true => drop(fields.remove(name)),
            false => merge_strategic(fields.entry(name).or_insert(Value::Null), value, &path)?,
        }
    }
    Ok(())
}
