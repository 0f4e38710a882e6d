//! apply, create and replace: manifests to one transaction.
//!
//! Everything is read and validated here first, where file, line and column are known. The daemon
//! takes all of it or nothing, so there is no partial success to report.

use clap::Args;
use config::resource::Resource;
use control::http::api::WriteCall;
use control::http::views::{GetReply, WriteOutcome, WriteReply, WriteView};

use super::error::CliError;
use super::input::{self, Input};
use super::{Format, get, render};
use crate::client::{Client, ClientError};

#[derive(Debug, Args)]
pub struct WriteArguments {
    #[command(flatten)]
    input: Input,

    /// Check everything and say what would happen; change nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
pub struct CreateArguments {
    #[command(flatten)]
    write: WriteArguments,

    /// Leave out resources that exist already
    #[arg(long)]
    skip_exists: bool,
}

pub fn apply(client: &Client, format: Format, arguments: &WriteArguments) -> Result<(), CliError> {
    let resources = input::read(&arguments.input.files, arguments.input.walk)?;
    send(client, format, "apply", "applied", resources, arguments.dry_run)
}

pub fn replace(client: &Client, format: Format, arguments: &WriteArguments) -> Result<(), CliError> {
    let resources = input::read(&arguments.input.files, arguments.input.walk)?;
    send(client, format, "replace", "replaced", resources, arguments.dry_run)
}

pub fn create(client: &Client, format: Format, arguments: &CreateArguments) -> Result<(), CliError> {
    let write = &arguments.write;
    let mut resources = input::read(&write.input.files, write.input.walk)?;
    if arguments.skip_exists {
        let mut missing = Vec::new();
        for resource in resources {
            if !exists(client, &resource)? {
                missing.push(resource);
            }
        }
        resources = missing;
    }
    send(client, format, "create", "created", resources, write.dry_run)
}

fn exists(client: &Client, resource: &Resource) -> Result<bool, CliError> {
    match client.get::<GetReply>(&get::path(&resource.key())) {
        Ok(_) => Ok(true),
        Err(ClientError::Refused(refusal)) if refusal.code == control::http::api::ErrorCode::NotFound => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn send(
    client: &Client,
    format: Format,
    verb: &str,
    done: &str,
    resources: Vec<Resource>,
    dry_run: bool,
) -> Result<(), CliError> {
    for warning in input::warnings(&resources) {
        eprintln!("warning: {warning}");
    }
    let reply = match resources.is_empty() {
        true => WriteReply { revision: 0, results: Vec::new(), pending: None },
        false => {
            let resources = resources.iter().map(Resource::to_json).collect();
            client.post(&format!("/v1/{verb}"), &WriteCall { resources, dry_run, confirm_seconds: None })?
        }
    };
    match render::structured(format, &reply)? {
        Some(text) => render::print(&text),
        None => render::print(&summary(verb, done, &reply.results, dry_run)),
    }
}

/// calicoctl's line; the kind is left out when there are several.
pub fn summary(verb: &str, done: &str, results: &[WriteView], dry_run: bool) -> String {
    let first = results.first().map(|view| view.kind.as_str());
    let kind = match first {
        Some(kind) if results.iter().all(|view| view.kind == kind) => format!("'{}' ", render::harmless(kind)),
        _ => String::new(),
    };
    let count = results.len();
    let unchanged = results.iter().filter(|view| view.outcome == WriteOutcome::Unchanged).count();
    let note = match unchanged {
        0 => String::new(),
        _ if unchanged == count => " (unchanged)".to_string(),
        _ => format!(" ({unchanged} unchanged)"),
    };
    match dry_run {
        true => format!("Dry run: would {verb} {count} {kind}resource(s){note}\n"),
        false => format!("Successfully {done} {count} {kind}resource(s){note}\n"),
    }
}
