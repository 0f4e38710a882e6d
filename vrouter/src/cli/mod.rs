//! The command line: arguments to requests, answers to text.
//!
//! ```text
//! vrouter apply -f … ─input─▶ resources ─client─▶ daemon ─▶ views ─render─▶ table, JSON, YAML
//! ```
//!
//! - `input.rs`    files, folders and stdin to resources
//! - `apply.rs`    apply, create, replace
//! - `get.rs` `describe.rs` `delete.rs`   resources; the words and columns are calicoctl's
//! - `show.rs` `trace.rs`                 what the router does with packets
//! - `selector.rs` `policy/`              questions about policy that no daemon has to answer; `lines.rs` carries them
//! - `run.rs`      flags of the daemon, made from the table of settings
//! - `render.rs`   tables, and text from elsewhere made harmless to a terminal
//! - `error.rs`    every way to fail, its exit status, its JSON
//!
//! The daemon, the doctor and the lab are started from here and live elsewhere.
//!
//! Left out: patch, label, diff, shell completion.

mod apply;
mod delete;
mod describe;
pub mod error;
mod get;
pub mod input;
mod lines;
mod render;
pub mod run;
mod selector;
mod show;
#[cfg(test)]
mod tests;
mod trace;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use config::resource::{DEFAULT_NAMESPACE, Key, Kind};
use control::http::views::VersionView;

use crate::client::{Client, DEFAULT_SOCKET};
use error::CliError;

const EXIT_CODES: &str = "Exit status: 0 done, 1 differences or problems found, 2 wrong usage or manifest, \
    3 not found, 4 conflict, 5 denied, 6 daemon or datastore not available, 7 done in part, 8 timeout, \
    9 refused for safety, 70 fault of vrouter";

/// A virtual router for one node: Calico resources in, packets through AF_XDP.
#[derive(Debug, Parser)]
#[command(name = "vrouter", version, after_help = EXIT_CODES, disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,

    #[command(flatten)]
    pub global: Global,
}

/// What every sub-command knows.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// The daemon's socket; default: /run/vrouter/api.sock
    #[arg(long, global = true, env = "VROUTER_SOCKET", value_name = "PATH")]
    pub socket: Option<PathBuf>,

    /// How to print
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Ps, value_name = "FORMAT")]
    pub output: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A table
    #[value(alias = "text")]
    Ps,
    /// A table with more columns
    Wide,
    Yaml,
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the router on this node
    #[command(after_help = "Example:\n  vrouter run --uplinks eth1 --workers 0,1 --apply /etc/vrouter/manifests")]
    Run(RunArguments),

    /// Create or update resources, all or none
    #[command(after_help = "Examples:\n  vrouter apply -f policies/\n  vrouter apply -f - --dry-run < policy.yaml")]
    Apply(apply::WriteArguments),

    /// Create resources that must not exist yet, all or none
    #[command(after_help = "Example:\n  vrouter create -f pool.yaml")]
    Create(apply::CreateArguments),

    /// Replace resources that must exist, all or none
    #[command(after_help = "Example:\n  vrouter replace -f policy.yaml")]
    Replace(apply::WriteArguments),

    /// Show resources
    #[command(after_help = "Examples:\n  vrouter get policies -A\n  vrouter get gnp allow-dns -o yaml")]
    Get(get::GetArguments),

    /// Show one resource and what the router does with it
    #[command(after_help = "Example:\n  vrouter describe wep web-1 -n shop")]
    Describe(describe::DescribeArguments),

    /// Delete resources, all or none
    #[command(after_help = "Examples:\n  vrouter delete np allow-web -n shop\n  vrouter delete -f policies/")]
    Delete(delete::DeleteArguments),

    /// Show interfaces, routes, flows, drops, ...
    #[command(after_help = "Examples:\n  vrouter show interfaces\n  vrouter show flows --address 10.0.0.2 -o json")]
    Show(show::ShowArguments),

    /// Show what each stage would decide about a packet; nothing is sent
    #[command(after_help = "Example:\n  vrouter trace --from shop/web-1 --src 10.0.0.2 --dst 10.0.0.9 --tcp 5432")]
    Trace(trace::TraceArguments),

    /// Read selectors as JSON lines from stdin: canonical text, identity, and whether they match
    #[command(
        after_help = "Example:\n  echo '{\"selector\": \"a == \'b\'\", \"labels\": {\"a\": \"b\"}}' | vrouter selector"
    )]
    Selector,

    /// Check this machine for what the router needs
    #[command(after_help = "Example:\n  vrouter doctor -o json")]
    Doctor(crate::doctor::DoctorArguments),

    /// Build and try a topology of network namespaces on this machine
    #[command(after_help = "Example:\n  vrouter lab up two-pods.yaml")]
    Lab(crate::lab::LabArguments),

    /// Show the version of this program and of the daemon
    #[command(after_help = "Example:\n  vrouter version --client")]
    Version(VersionArguments),
}

/// Flags of `vrouter run`. What is not given comes from the environment or the settings file.
#[derive(Debug, Clone, Args)]
pub struct RunArguments {
    /// File with settings
    #[arg(long, env = "VROUTER_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Apply the manifests of this folder at start
    #[arg(long, value_name = "DIR")]
    pub apply: Option<PathBuf>,

    #[command(flatten)]
    pub settings: run::SettingFlags,
}

#[derive(Debug, Args)]
pub struct VersionArguments {
    /// Do not ask the daemon
    #[arg(long)]
    client: bool,
}

/// Carries out the command and says how it went.
pub fn execute(cli: Cli) -> ExitCode {
    let Cli { command, global } = cli;
    let client = Client::new(global.socket.as_deref().unwrap_or(Path::new(DEFAULT_SOCKET)));
    let format = global.output;
    let result = match command {
        Command::Run(mut arguments) => {
            arguments.settings.default_socket(global.socket.as_deref());
            return crate::daemon::run(arguments);
        }
        Command::Doctor(arguments) => return crate::doctor::run(arguments),
        Command::Lab(arguments) => return crate::lab::run(arguments),
        Command::Apply(arguments) => apply::apply(&client, format, &arguments),
        Command::Create(arguments) => apply::create(&client, format, &arguments),
        Command::Replace(arguments) => apply::replace(&client, format, &arguments),
        Command::Get(arguments) => get::get(&client, format, &arguments),
        Command::Describe(arguments) => describe::describe(&client, format, &arguments),
        Command::Delete(arguments) => delete::delete(&client, format, &arguments),
        Command::Show(arguments) => show::show(&client, format, &arguments),
        Command::Selector => selector::run(),
        Command::Trace(arguments) => trace::trace(&client, format, &arguments),
        Command::Version(arguments) => version(&client, format, &arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error.report(format);
            ExitCode::from(error.exit_status())
        }
    }
}

fn version(client: &Client, format: Format, arguments: &VersionArguments) -> Result<(), CliError> {
    let own = env!("CARGO_PKG_VERSION");
    let daemon: Option<VersionView> = match arguments.client {
        true => None,
        false => Some(client.get("/v1/version")?),
    };
    if let Some(text) = render::structured(format, &serde_json::json!({ "client": own, "daemon": daemon }))? {
        return render::print(&text);
    }
    let mut text = format!("Client version:  {own}\n");
    if let Some(daemon) = daemon {
        text.push_str(&format!("Daemon version:  {}\n", render::harmless(&daemon.version)));
        if let Some(node) = daemon.node {
            text.push_str(&format!("Node:            {}\n", render::harmless(&node)));
        }
    }
    render::print(&text)
}

/// The kind a word on the command line means.
fn kind(word: &str) -> Result<Kind, CliError> {
    Kind::parse_word(word).map_err(|error| CliError::Usage(error.to_string()))
}

/// The key meant by a kind, `-n` and a name.
fn key(kind: Kind, namespace: Option<&str>, name: &str) -> Key {
    match kind.is_namespaced() {
        true => Key::namespaced(kind, namespace.unwrap_or(DEFAULT_NAMESPACE), name),
        false => Key::cluster(kind, name),
    }
}
