//! policy: questions about policy; all but `preview` need no daemon and no root.
//!
//! - `eval.rs`    packets as JSON lines, verdicts as JSON lines
//! - `test.rs`    cases beside the manifests
//! - `preview.rs` which open flows would be decided otherwise
//! - `packet.rs`  a packet as it is described, and the endpoints it meets

mod eval;
pub mod packet;
mod preview;
mod test;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Format;
use super::error::CliError;
use super::input::Walk;
use crate::client::Client;

#[derive(Debug, Args)]
pub struct PolicyArguments {
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    /// Judge packets described on stdin, one JSON object a line, by the resources of files; no daemon, no root
    #[command(after_help = "Example:\n  vrouter policy eval -f resources/ < packets.jsonl")]
    Eval(EvalArguments),

    /// Run the cases of files that end in .case by the manifests beside them; no daemon, no root
    #[command(
        after_help = "Example:\n  vrouter policy test policies/\n\nA case:\n  shop/web -> shop/db tcp 4000:5432 => allow NetworkPolicy shop/db ingress[0]"
    )]
    Test(TestArguments),

    /// Show which of the flows that are open now other policy would decide otherwise; nothing is written
    #[command(after_help = "Examples:\n  vrouter policy preview -f deny.yaml\n  vrouter policy preview --staged")]
    Preview(PreviewArguments),
}

#[derive(Debug, Args)]
pub struct EvalArguments {
    /// File or folder with endpoints, policies, tiers, profiles, ...; may be given several times
    #[arg(short, long = "filename", required = true, value_name = "FILE|DIR")]
    files: Vec<PathBuf>,

    #[command(flatten)]
    walk: Walk,

    /// Ask the naive interpreter of the resources in place of the classifier that routers use
    #[arg(long)]
    oracle: bool,

    /// Judge only where this node would
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
}

#[derive(Debug, Args)]
pub struct TestArguments {
    /// Folders with manifests and cases, or such files
    #[arg(required = true, value_name = "DIR|FILE")]
    files: Vec<PathBuf>,

    #[command(flatten)]
    walk: Walk,

    /// Ask the naive interpreter of the resources in place of the classifier that routers use
    #[arg(long)]
    oracle: bool,
}

#[derive(Debug, Args)]
pub struct PreviewArguments {
    /// File or folder with resources as they would be; may be given several times
    #[arg(short, long = "filename", value_name = "FILE|DIR|-")]
    files: Vec<PathBuf>,

    #[command(flatten)]
    walk: Walk,

    /// Take staged policies for real
    #[arg(long)]
    staged: bool,

    /// List at most so many flows; default: 100
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

/// False when what was tested does not hold.
pub fn run(client: &Client, format: Format, arguments: &PolicyArguments) -> Result<bool, CliError> {
    match &arguments.command {
        PolicyCommand::Eval(arguments) => eval::eval(arguments).map(|()| true),
        PolicyCommand::Test(arguments) => test::test(format, arguments),
        PolicyCommand::Preview(arguments) => preview::preview(client, format, arguments).map(|()| true),
    }
}
