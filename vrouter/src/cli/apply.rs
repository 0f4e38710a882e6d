//! apply, create and replace: manifests to one transaction.
//!
//! Everything is read and validated here first, where file, line and column are known. The daemon
//! takes all of it or nothing, so there is no partial success to report.

use clap::{Args, ValueEnum};
use config::resource::Resource;
use control::http::api::WriteCall;
use control::http::views::{PendingView, WriteOutcome, WriteReply, WriteView};

use super::error::CliError;
use super::input::{self, Input};
use super::{Format, Style, get, render};
use crate::client::Client;

/// Unchanged objects named before the rest is only counted.
const MAX_UNCHANGED_SHOWN: usize = 20;

/// Who checks what would happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DryRun {
    /// This program alone: the manifests by themselves
    Client,
    /// The daemon: also against what it has
    Server,
}

/// How a change is made.
#[derive(Debug, Clone, Default, Args)]
pub struct How {
    /// Check everything and say what would happen; change nothing
    #[arg(long, value_enum, num_args = 0..=1, require_equals = true, default_missing_value = "server", value_name = "BY")]
    pub dry_run: Option<DryRun>,

    /// Undo it again unless `vrouter confirm` comes within this time: 60s, 5m, 1h
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub confirm: Option<u64>,
}

#[derive(Debug, Args)]
pub struct WriteArguments {
    #[command(flatten)]
    input: Input,

    #[command(flatten)]
    how: How,

    /// Namespace of resources that name none
    #[arg(short, long)]
    namespace: Option<String>,
}

#[derive(Debug, Args)]
pub struct CreateArguments {
    #[command(flatten)]
    write: WriteArguments,

    /// Leave out resources that exist already
    #[arg(long)]
    skip_exists: bool,
}

/// `90`, `60s`, `5m`, `1h` as seconds.
pub fn seconds(text: &str) -> Result<u64, String> {
    let wrong = || format!("found {text:?}, expected a time of 1s to 1h, such as 60s or 5m");
    let (digits, unit) = match text.char_indices().find(|(_, letter)| !letter.is_ascii_digit()) {
        Some((end, _)) => text.split_at(end),
        None => (text, "s"),
    };
    let factor = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(wrong()),
    };
    let seconds = digits.parse::<u64>().ok().and_then(|count| count.checked_mul(factor));
    seconds.filter(|seconds| (1..=3600).contains(seconds)).ok_or_else(wrong)
}

pub fn apply(client: &Client, format: Format, style: Style, arguments: &WriteArguments) -> Result<(), CliError> {
    send(client, format, style, ("apply", "applied"), resources(arguments)?, &arguments.how)
}

pub fn replace(client: &Client, format: Format, style: Style, arguments: &WriteArguments) -> Result<(), CliError> {
    send(client, format, style, ("replace", "replaced"), resources(arguments)?, &arguments.how)
}

pub fn create(client: &Client, format: Format, style: Style, arguments: &CreateArguments) -> Result<(), CliError> {
    let write = &arguments.write;
    let mut resources = resources(write)?;
    if arguments.skip_exists && write.how.dry_run != Some(DryRun::Client) {
        let mut missing = Vec::new();
        for resource in resources {
            if get::stored(client, &resource.key())?.is_none() {
                missing.push(resource);
            }
        }
        resources = missing;
    }
    send(client, format, style, ("create", "created"), resources, &write.how)
}

fn resources(arguments: &WriteArguments) -> Result<Vec<Resource>, CliError> {
    let input = &arguments.input;
    input::read_in(&input.files, input.walk, arguments.namespace.as_deref())
}

fn send(
    client: &Client,
    format: Format,
    style: Style,
    (verb, done): (&str, &str),
    resources: Vec<Resource>,
    how: &How,
) -> Result<(), CliError> {
    for warning in input::warnings(&resources) {
        eprintln!("warning: {warning}");
    }
    if how.dry_run == Some(DryRun::Client) {
        return checked_here(format, verb, &resources);
    }
    let dry_run = how.dry_run.is_some();
    let reply = match resources.is_empty() {
        true => WriteReply { revision: 0, results: Vec::new(), pending: None, warnings: Vec::new() },
        false => {
            let resources = resources.iter().map(Resource::to_json).collect();
            let call = WriteCall { resources, dry_run, confirm_seconds: how.confirm };
            client.post(&format!("/v1/{verb}"), &call)?
        }
    };
    report(format, style, (verb, done), &reply, dry_run)
}

/// Prints what a write did or would do.
pub fn report(
    format: Format,
    style: Style,
    (verb, done): (&str, &str),
    reply: &WriteReply,
    dry_run: bool,
) -> Result<(), CliError> {
    if let Some(text) = render::structured(format, reply)? {
        return render::print(&text);
    }
    let mut text = summary(verb, done, &reply.results, dry_run);
    if style == Style::Ours {
        text.push_str(&unchanged(&reply.results, format == Format::Wide));
        text.push_str(&reply.pending.as_ref().map(pending_text).unwrap_or_default());
    }
    render::print(&text)
}

/// What waits, and what to do about it.
pub fn pending_text(pending: &PendingView) -> String {
    let PendingView { revision, until, seconds_left, .. } = pending;
    format!(
        "Revision {revision} is undone in {seconds_left} s, at {}, unless `vrouter confirm` comes first\n",
        render::harmless(until)
    )
}

/// What can be said without a daemon: the manifests are right by themselves.
fn checked_here(format: Format, verb: &str, resources: &[Resource]) -> Result<(), CliError> {
    let keys: Vec<_> = resources.iter().map(Resource::key).collect();
    if let Some(text) = render::structured(
        format,
        &serde_json::json!({ "dryRun": "client", "resources": keys.iter().map(ToString::to_string).collect::<Vec<_>>() }),
    )? {
        return render::print(&text);
    }
    let kinds = keys.iter().map(|key| key.kind.name());
    render::print(&format!("Dry run (client): would {verb} {}\n", counted(kinds)))
}

/// `3 'IPPool' resource(s)`; the kind is left out when there are several.
pub fn counted<'a>(kinds: impl Iterator<Item = &'a str> + Clone) -> String {
    let count = kinds.clone().count();
    let first = kinds.clone().next();
    match first {
        Some(kind) if kinds.clone().all(|other| other == kind) => {
            format!("{count} '{}' resource(s)", render::harmless(kind))
        }
        _ => format!("{count} resource(s)"),
    }
}

/// calicoctl's line.
pub fn summary(verb: &str, done: &str, results: &[WriteView], dry_run: bool) -> String {
    let counted = counted(results.iter().map(|view| view.kind.as_str()));
    match dry_run {
        true => format!("Dry run: would {verb} {counted}\n"),
        false => format!("Successfully {done} {counted}\n"),
    }
}

/// Which of the objects are as they were; with `all` what became of each.
pub fn unchanged(results: &[WriteView], all: bool) -> String {
    let shown: Vec<&WriteView> = results.iter().filter(|view| all || view.outcome == WriteOutcome::Unchanged).collect();
    let limit = if all { shown.len() } else { MAX_UNCHANGED_SHOWN };
    let mut text = String::new();
    for view in shown.iter().take(limit) {
        let outcome = match view.outcome {
            WriteOutcome::Created => "created",
            WriteOutcome::Updated => "updated",
            WriteOutcome::Unchanged => "unchanged",
            WriteOutcome::Deleted => "deleted",
        };
        text.push_str(&format!(
            "  {outcome:<9}  {}\n",
            render::harmless(&render::object(&view.kind, view.namespace.as_deref(), &view.name))
        ));
    }
    if shown.len() > limit {
        text.push_str(&format!("  ... and {} more unchanged\n", shown.len() - limit));
    }
    text
}
