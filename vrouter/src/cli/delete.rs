//! delete: by name or by manifest, all or none.

use std::path::PathBuf;

use clap::Args;
use config::resource::{Key, Resource};
use control::http::api::{DeleteCall, DeleteTarget};
use control::http::views::WriteReply;

use super::apply::{self, DryRun, How};
use super::error::CliError;
use super::input::{self, Walk};
use super::{Format, Style, render};
use crate::client::Client;

#[derive(Debug, Args)]
pub struct DeleteArguments {
    /// Kind, in any of calicoctl's words
    #[arg(required_unless_present = "files", requires = "names")]
    kind: Option<String>,

    #[arg(value_name = "NAME")]
    names: Vec<String>,

    /// File or folder with manifests, - for stdin; may be given several times
    #[arg(short, long = "filename", conflicts_with = "kind", value_name = "FILE|DIR|-")]
    files: Vec<PathBuf>,

    #[command(flatten)]
    walk: Walk,

    /// Namespace of the names
    #[arg(short, long)]
    namespace: Option<String>,

    /// What is not there counts as deleted
    #[arg(short = 's', long)]
    skip_not_exists: bool,

    #[command(flatten)]
    how: How,
}

pub fn delete(client: &Client, format: Format, style: Style, arguments: &DeleteArguments) -> Result<(), CliError> {
    let keys: Vec<Key> = match &arguments.kind {
        Some(word) => {
            let kind = super::kind(word)?;
            let key = |name: &String| super::key(kind, arguments.namespace.as_deref(), name);
            arguments.names.iter().map(key).collect()
        }
        None => {
            let resources = input::read_in(&arguments.files, arguments.walk, arguments.namespace.as_deref())?;
            resources.iter().map(Resource::key).collect()
        }
    };
    let target = |key: Key| DeleteTarget {
        kind: key.kind.to_string(),
        namespace: key.namespace,
        name: key.name,
        expected: None,
    };
    if arguments.how.dry_run == Some(DryRun::Client) {
        let counted = apply::counted(keys.iter().map(|key| key.kind.name()));
        return render::print(&format!("Dry run (client): would delete {counted}\n"));
    }
    let dry_run = arguments.how.dry_run.is_some();
    let call = DeleteCall {
        targets: keys.into_iter().map(target).collect(),
        skip_missing: arguments.skip_not_exists,
        dry_run,
        confirm_seconds: arguments.how.confirm,
    };
    let reply: WriteReply = client.post("/v1/delete", &call)?;
    apply::report(format, style, ("delete", "deleted"), &reply, dry_run)
}
