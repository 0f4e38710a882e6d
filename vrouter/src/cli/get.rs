//! get: resources as calicoctl shows them. Which columns a kind has is in `columns.rs`.
//!
//! Left out: Go templates; `-o json` and a tool that reads it, or custom columns, do that.

use std::path::PathBuf;

use clap::Args;
use config::resource::{DEFAULT_NAMESPACE, Key, Resource};
use control::http::api::ErrorCode;
use control::http::views::GetReply;
use serde_json::{Value, json};

use super::Format;
use super::error::CliError;
use super::input::{self, Walk};
use super::output::Output;
use super::{columns, render};
use crate::client::{Client, ClientError, encode};

/// What the store adds to a resource; `--export` leaves it out.
const STORE_FIELDS: [&str; 3] = ["uid", "resourceVersion", "creationTimestamp"];

#[derive(Debug, Args)]
pub struct GetArguments {
    /// Kind, in any of calicoctl's words
    #[arg(required_unless_present = "files")]
    kind: Option<String>,

    #[arg(value_name = "NAME")]
    names: Vec<String>,

    /// The resources of these manifests; may be given several times
    #[arg(short, long = "filename", conflicts_with = "kind", value_name = "FILE|DIR|-")]
    files: Vec<PathBuf>,

    #[command(flatten)]
    walk: Walk,

    /// Namespace to look in, and of resources in files that name none [default: default]
    #[arg(short, long)]
    namespace: Option<String>,

    /// Look in all namespaces
    #[arg(short = 'A', long, short_alias = 'a')]
    all_namespaces: bool,

    /// Leave out what the datastore added
    #[arg(long)]
    export: bool,
}

pub fn get(client: &Client, output: &Output, arguments: &GetArguments) -> Result<(), CliError> {
    let format = output.format;
    let mut items = fetch(client, arguments)?;
    items.iter_mut().for_each(render::shorten_numbers);
    if arguments.export {
        items.iter_mut().for_each(strip);
    }
    // One resource that was named is shown alone, everything else as a list.
    let is_single = arguments.names.len() == 1 && items.len() == 1;
    let structured = match is_single {
        true => render::structured(format, &items[0])?,
        false => render::structured(format, &list(arguments, &items)?)?,
    };
    match structured {
        Some(text) => render::print(&text),
        None => {
            let asked = arguments.kind.as_deref().map(super::kind).transpose()?;
            match &output.columns {
                Some(names) => render::print(&columns::custom(asked, &items, names)?),
                None => {
                    let is_wide = format == Format::Wide;
                    render::print(&columns::tables(asked, &items, is_wide, arguments.all_namespaces))
                }
            }
        }
    }
}

/// The path of one resource.
pub fn path(key: &Key) -> String {
    let query = key.namespace.as_deref().map(|namespace| format!("?namespace={}", encode(namespace)));
    format!("/v1/resources/{}/{}{}", key.kind, encode(&key.name), query.unwrap_or_default())
}

/// The object as the daemon has it; none when there is none.
pub fn stored(client: &Client, key: &Key) -> Result<Option<Value>, CliError> {
    match client.get::<GetReply>(&path(key)) {
        Ok(reply) => Ok(reply.items.into_iter().next()),
        Err(ClientError::Refused(refusal)) if refusal.code == ErrorCode::ObjectNotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn fetch(client: &Client, arguments: &GetArguments) -> Result<Vec<Value>, CliError> {
    let keys: Vec<Key> = match &arguments.kind {
        None => {
            let resources = input::read_in(&arguments.files, arguments.walk, arguments.namespace.as_deref())?;
            resources.iter().map(Resource::key).collect()
        }
        Some(word) => {
            let kind = super::kind(word)?;
            if arguments.names.is_empty() {
                let query = match kind.is_namespaced() && !arguments.all_namespaces {
                    true => {
                        let namespace = arguments.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
                        format!("?namespace={}", encode(namespace))
                    }
                    false => String::new(),
                };
                return Ok(client.get::<GetReply>(&format!("/v1/resources/{kind}{query}"))?.items);
            }
            if arguments.all_namespaces && kind.is_namespaced() {
                return Err(CliError::Usage("a name and all namespaces cannot be combined; use -n".to_string()));
            }
            let key = |name: &String| super::key(kind, arguments.namespace.as_deref(), name);
            arguments.names.iter().map(key).collect()
        }
    };
    let mut items = Vec::with_capacity(keys.len());
    for key in keys {
        items.extend(client.get::<GetReply>(&path(&key))?.items);
    }
    Ok(items)
}

pub fn strip(item: &mut Value) {
    if let Some(metadata) = item["metadata"].as_object_mut() {
        metadata.retain(|name, _| !STORE_FIELDS.contains(&name.as_str()));
    }
}

fn list(arguments: &GetArguments, items: &[Value]) -> Result<Value, CliError> {
    let (api_version, kind) = match &arguments.kind {
        Some(word) => {
            let kind = super::kind(word)?;
            (kind.api_version(), format!("{}List", kind.written()))
        }
        None => ("v1", "List".to_string()),
    };
    Ok(json!({ "apiVersion": api_version, "kind": kind, "items": items }))
}
