//! history, undo, confirm: who changed what, and taking it back.

use clap::{Args, Subcommand};
use control::http::api::UndoCall;
use control::http::views::{ChangeView, HistoryView, PendingView, TransactionView, UndoReply, WriteOutcome};

use super::error::CliError;
use super::render::{self, Table, harmless, optional};
use super::{Format, apply, diff};
use crate::client::Client;

/// Objects named in one line of the history.
const MAX_OBJECTS_SHOWN: usize = 3;

#[derive(Debug, Args)]
pub struct HistoryArguments {
    #[command(subcommand)]
    command: Option<HistoryCommand>,
}

#[derive(Debug, Subcommand)]
enum HistoryCommand {
    /// What one transaction changed, as unified text
    Show {
        /// Its number in the history
        revision: u64,
    },
}

#[derive(Debug, Args)]
pub struct UndoArguments {
    /// The transaction to take back, by its number in the history [default: the latest]
    revision: Option<u64>,

    /// Also when its objects changed since; those changes are lost
    #[arg(long)]
    force: bool,

    /// Say what would happen; change nothing
    #[arg(long)]
    dry_run: bool,
}

pub fn history(client: &Client, format: Format, arguments: &HistoryArguments) -> Result<(), CliError> {
    let path = match arguments.command {
        None => "/v1/history".to_string(),
        Some(HistoryCommand::Show { revision }) => format!("/v1/history/{revision}"),
    };
    let view: HistoryView = client.get(&path)?;
    if let Some(text) = render::structured(format, &view)? {
        return render::print(&text);
    }
    match (&arguments.command, view.transactions.first()) {
        (Some(_), Some(transaction)) => render::print(&one(transaction)?),
        _ => render::print(&list(&view, format == Format::Wide)),
    }
}

pub fn undo(client: &Client, format: Format, arguments: &UndoArguments) -> Result<(), CliError> {
    let UndoArguments { revision, force, dry_run } = *arguments;
    let reply: UndoReply = client.post("/v1/undo", &UndoCall { revision, force, dry_run })?;
    if let Some(text) = render::structured(format, &reply)? {
        return render::print(&text);
    }
    let counted = apply::counted(reply.results.iter().map(|view| view.kind.as_str()));
    let mut text = match dry_run {
        true => format!("Dry run: would undo revision {}: {counted}\n", reply.undone),
        false => format!("Undid revision {} by revision {}: {counted}\n", reply.undone, reply.revision),
    };
    text.push_str(&apply::unchanged(&reply.results, true));
    render::print(&text)
}

pub fn confirm(client: &Client, format: Format) -> Result<(), CliError> {
    let confirmed: PendingView = client.post("/v1/confirm", &serde_json::json!({}))?;
    match render::structured(format, &confirmed)? {
        Some(text) => render::print(&text),
        None => render::print(&format!("Confirmed revision {}; it stays\n", confirmed.revision)),
    }
}

pub fn list(view: &HistoryView, is_wide: bool) -> String {
    let narrow = ["REVISION", "TIME", "WHO", "WHAT", "CHANGES"];
    let headings = narrow.into_iter().chain(is_wide.then_some("UID"));
    let mut table = Table::new(headings);
    for transaction in &view.transactions {
        let verb = match transaction.undoes {
            Some(undone) => format!("{} of {undone}", transaction.verb),
            None => transaction.verb.clone(),
        };
        let changes = match is_wide {
            true => objects(&transaction.changes, transaction.changes.len()),
            false => objects(&transaction.changes, MAX_OBJECTS_SHOWN),
        };
        let narrow =
            [transaction.revision.to_string(), transaction.time.clone(), transaction.author.clone(), verb, changes];
        table.row(narrow.into_iter().chain(is_wide.then(|| optional(transaction.uid))));
    }
    let mut text = table.text();
    if let Some(pending) = &view.pending {
        text.push_str(&apply::pending_text(pending));
    }
    text
}

/// `+Tier a, ~Profile b, -Node c and 4 more`.
fn objects(changes: &[ChangeView], limit: usize) -> String {
    let one = |change: &ChangeView| {
        let sign = match change.outcome {
            WriteOutcome::Created => '+',
            WriteOutcome::Deleted => '-',
            WriteOutcome::Updated | WriteOutcome::Unchanged => '~',
        };
        format!("{sign}{}", object(change))
    };
    let mut text = changes.iter().take(limit).map(one).collect::<Vec<_>>().join(", ");
    if changes.len() > limit {
        text.push_str(&format!(" and {} more", changes.len() - limit));
    }
    text
}

fn object(change: &ChangeView) -> String {
    render::object(&change.kind, change.namespace.as_deref(), &change.name)
}

fn one(transaction: &TransactionView) -> Result<String, CliError> {
    let mut text = format!(
        "Revision  {}\nTime      {}\nWho       {}\nWhat      {}\n",
        transaction.revision,
        harmless(&transaction.time),
        harmless(&transaction.author),
        harmless(&transaction.verb)
    );
    if let Some(undone) = transaction.undoes {
        text.push_str(&format!("Undoes    {undone}\n"));
    }
    if !transaction.can_be_undone {
        text.push_str("The objects were not kept: they are larger than the history may be\n");
    }
    for change in &transaction.changes {
        let object = object(change);
        text.push('\n');
        let (before, after) = (change.before.clone().map(diff::comparable), change.after.clone().map(diff::comparable));
        match (&before, &after) {
            (None, None) => text.push_str(&format!("{}\n", harmless(&object))),
            _ => text.push_str(&diff::unified(&object, "before", "after", before.as_ref(), after.as_ref())?),
        }
    }
    Ok(text)
}
