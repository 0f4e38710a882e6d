//! diff: what `apply` would change, as unified text.
//!
//! Compared is what would be stored with what is stored: both with their defaults, in one order of fields, without
//! what the store adds by itself. Status 0 when there is no difference, 1 when there is one.

use clap::Args;
use config::resource::{Key, Resource};
use serde::Serialize;
use serde_json::Value;
use similar::TextDiff;

use super::Format;
use super::error::CliError;
use super::get;
use super::input::{self, Input};
use super::render;
use crate::client::Client;

/// Lines around a change.
const CONTEXT: usize = 3;

#[derive(Debug, Args)]
pub struct DiffArguments {
    #[command(flatten)]
    input: Input,

    /// Namespace of resources that name none
    #[arg(short, long)]
    namespace: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Difference {
    Same,
    /// It would be created.
    Missing,
    Different,
}

#[derive(Debug, Serialize)]
struct Compared {
    kind: String,
    namespace: Option<String>,
    name: String,
    difference: Difference,
    stored: Option<Value>,
    given: Value,
    /// Unified text; empty when there is no difference.
    diff: String,
}

pub fn diff(client: &Client, format: Format, arguments: &DiffArguments) -> Result<(), CliError> {
    let input = &arguments.input;
    let resources = input::read_in(&input.files, input.walk, arguments.namespace.as_deref())?;
    let mut all = Vec::with_capacity(resources.len());
    for resource in &resources {
        all.push(compare(client, resource)?);
    }
    let is_same = all.iter().all(|compared| compared.difference == Difference::Same);
    match render::structured(format, &all)? {
        Some(text) => render::print(&text)?,
        None => render::print(&all.iter().map(|compared| compared.diff.as_str()).collect::<String>())?,
    }
    match is_same {
        true => Ok(()),
        false => Err(CliError::Different),
    }
}

fn compare(client: &Client, resource: &Resource) -> Result<Compared, CliError> {
    let key = resource.key();
    let stored = get::stored(client, &key)?.map(comparable);
    let given = comparable(resource.to_json());
    let difference = match &stored {
        None => Difference::Missing,
        Some(stored) if *stored == given => Difference::Same,
        Some(_) => Difference::Different,
    };
    let diff = unified(&key.to_string(), "stored", "given", stored.as_ref(), Some(&given))?;
    let Key { kind, namespace, name } = key;
    Ok(Compared { kind: kind.to_string(), namespace, name, difference, stored, given, diff })
}

/// Without what the store adds.
pub fn comparable(mut resource: Value) -> Value {
    get::strip(&mut resource);
    render::shorten_numbers(&mut resource);
    resource
}

/// The difference of two forms of one object as unified text, empty when there is none.
pub fn unified(
    object: &str,
    old_name: &str,
    new_name: &str,
    old: Option<&Value>,
    new: Option<&Value>,
) -> Result<String, CliError> {
    if old == new {
        return Ok(String::new());
    }
    let text = |value: Option<&Value>| match value {
        None => Ok(String::new()),
        Some(value) => render::structured(Format::Yaml, value).map(Option::unwrap_or_default),
    };
    let (old_text, new_text) = (text(old)?, text(new)?);
    let object = render::harmless(object);
    let name = |value: Option<&Value>, name: &str| match value {
        None => "/dev/null".to_string(),
        Some(_) => format!("{object} ({name})"),
    };
    let diff = TextDiff::from_lines(&old_text, &new_text);
    Ok(diff.unified_diff().context_radius(CONTEXT).header(&name(old, old_name), &name(new, new_name)).to_string())
}
