//! The command line: arguments to requests, answers to text.
//!
//! ```text
//! vrouter apply -f … ─input─▶ resources ─client─▶ daemon ─▶ views ─render─▶ table, JSON, YAML
//! ```
//!
//! - `input.rs`    files, folders and stdin to resources
//! - `apply.rs` `delete.rs` `patch.rs`    writes: apply, create, replace; delete; patch, label
//! - `get.rs` `columns.rs` `describe.rs`  resources; the words and columns are calicoctl's
//! - `validate.rs` `diff.rs`              manifests by themselves, and against what is stored
//! - `history.rs`  history, undo, confirm
//! - `explain.rs` `help.rs`               codes, kinds and fields; the first screen
//! - `calicoctl.rs`                       the same commands under calicoctl's name
//! - `show.rs` `trace.rs` `why.rs`        what the router does with packets
//! - `selector.rs` `policy/`              questions about policy that no daemon has to answer; `lines.rs` carries them
//! - `bgp.rs`      sessions and routes of the BGP speaker
//! - `ipam.rs`     addresses, in calicoctl's tables
//! - `endpoint.rs` workloads attached by hand
//! - `cni.rs`      the plugin put where runtimes look for it
//! - `bench.rs`    arguments of the measurements
//! - `node.rs`    calicoctl's node status
//! - `worker.rs`  which worker has which interface
//! - `run.rs`      flags of the daemon, made from the table of settings
//! - `render.rs`   tables, and text from elsewhere made harmless to a terminal
//! - `output.rs`   what `-o` may say
//! - `error.rs`    every way to fail, its code, its exit status, its JSON
//!
//! The daemon, the doctor and the lab are started from here and live elsewhere.
//!
//! Left out: edit, watching resources.

mod apply;
mod bench;
mod bgp;
mod calicoctl;
mod cni;
mod columns;
mod delete;
mod describe;
mod diff;
mod endpoint;
pub mod error;
mod explain;
mod get;
mod help;
mod history;
pub mod input;
mod ipam;
mod lines;
mod node;
pub mod output;
mod patch;
mod policy;
mod render;
pub mod run;
mod selector;
mod show;
#[cfg(test)]
mod tests;
mod trace;
mod validate;
mod why;
mod worker;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use config::resource::{DEFAULT_NAMESPACE, Key, Kind};
use control::http::api::ErrorCode;
use control::http::views::VersionView;

use crate::client::{Client, DEFAULT_SOCKET};
use error::CliError;
use output::Output;

/// A virtual router for one node: Calico resources in, packets through AF_XDP.
#[derive(Debug, Parser)]
#[command(name = "vrouter", version, disable_help_subcommand = true)]
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

    /// ps (a table), wide, json, yaml; get also has custom-columns=NAME,...
    #[arg(short, long, global = true, default_value = "ps", value_name = "FORMAT")]
    pub output: Output,
}

/// Whose habits to follow where the two differ: in the text of a success, and in the exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    Ours,
    Calicoctl,
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

    /// Change parts of one resource
    #[command(
        after_help = "Examples:\n  vrouter patch gnp web -p '{\"spec\":{\"order\":10}}'\n  vrouter patch pool main -t json -p '[{\"op\":\"remove\",\"path\":\"/spec/disabled\"}]'"
    )]
    Patch(patch::PatchArguments),

    /// Set or remove a label of one resource
    #[command(
        after_help = "Examples:\n  vrouter label node n1 rack=7 --overwrite\n  vrouter label node n1 rack --remove"
    )]
    Label(patch::LabelArguments),

    /// Delete resources, all or none
    #[command(after_help = "Examples:\n  vrouter delete np allow-web -n shop\n  vrouter delete -f policies/")]
    Delete(delete::DeleteArguments),

    /// Check manifests; needs no daemon
    #[command(after_help = "Examples:\n  vrouter validate -f policies/ -R\n  vrouter validate -f policy.yaml -o json")]
    Validate(validate::ValidateArguments),

    /// Show what apply would change
    #[command(after_help = "Example:\n  vrouter diff -f policies/\nExit status: 0 no difference, 1 differences")]
    Diff(diff::DiffArguments),

    /// Show who changed what
    #[command(after_help = "Examples:\n  vrouter history\n  vrouter history show 12")]
    History(history::HistoryArguments),

    /// Take a change back
    #[command(after_help = "Examples:\n  vrouter undo\n  vrouter undo 12 --dry-run")]
    Undo(history::UndoArguments),

    /// Keep what was applied with --confirm
    #[command(after_help = "Example:\n  vrouter confirm")]
    Confirm,

    /// Explain an error code, a kind or a field
    #[command(
        after_help = "Examples:\n  vrouter explain VR1203\n  vrouter explain gnp.spec.ingress\n  vrouter explain commands"
    )]
    Explain(explain::ExplainArguments),

    /// Show interfaces, routes, flows, drops, ...
    #[command(after_help = "Examples:\n  vrouter show interfaces\n  vrouter show flows --address 10.0.0.2 -o json")]
    Show(show::ShowArguments),

    /// Show what each stage would decide about a packet; nothing is sent
    #[command(after_help = "Example:\n  vrouter trace --from shop/web-1 --src 10.0.0.2 --dst 10.0.0.9 --tcp 5432")]
    Trace(trace::TraceArguments),

    /// Show recent drops: which rule, how often, and the rule that almost matched; nothing has to be switched on before
    #[command(
        after_help = "Examples:\n  vrouter why --last 3\n  vrouter why --dst 10.0.0.9 --port 5432\n  vrouter why --flow tcp 10.0.0.2:4000 10.0.0.9:5432"
    )]
    Why(why::WhyArguments),

    /// BGP sessions and routes: who says what, what is best and why, what is told to whom
    #[command(
        after_help = "Examples:\n  vrouter bgp summary\n  vrouter bgp neighbor 10.0.0.2 filtered\n  vrouter bgp why 10.0.0.0/26 peer 10.0.0.2"
    )]
    Bgp(bgp::BgpArguments),

    /// Addresses: who has which, what nobody has, how blocks go to nodes
    #[command(
        after_help = "Examples:\n  vrouter ipam show --show-blocks\n  vrouter ipam who 10.65.0.1\n  vrouter ipam check --show-problem-ips"
    )]
    Ipam(ipam::IpamArguments),

    /// Attach a network namespace or an interface by hand, and take it away
    #[command(
        after_help = "Examples:\n  vrouter endpoint add web --netns web --label role=web\n  vrouter endpoint add db --pid 4711 --ip 10.65.0.9\n  vrouter endpoint del web"
    )]
    Endpoint(endpoint::EndpointArguments),

    /// Put the CNI plugin where runtimes find it
    #[command(
        after_help = "Examples:\n  vrouter cni install\n  vrouter cni install --ipv6 --calico-names\n  vrouter cni uninstall"
    )]
    Cni(cni::CniArguments),

    /// The state of this node, as calicoctl tells it
    #[command(after_help = "Example:\n  vrouter node status")]
    Node(node::NodeArguments),

    /// Give an interface to another worker
    #[command(after_help = "Example:\n  vrouter worker move caliweb 1")]
    Worker(worker::WorkerArguments),

    /// Ask what policy says or would say
    #[command(after_help = "Example:\n  vrouter policy test policies/")]
    Policy(policy::PolicyArguments),

    /// Read selectors as JSON lines from stdin: canonical text, identity, and whether they match
    #[command(
        after_help = "Example:\n  echo '{\"selector\": \"a == \'b\'\", \"labels\": {\"a\": \"b\"}}' | vrouter selector"
    )]
    Selector,

    /// Check this machine for what the router needs
    #[command(after_help = "Example:\n  vrouter doctor -o json")]
    Doctor(crate::doctor::DoctorArguments),

    /// Build and try a topology of network namespaces on this machine
    #[command(after_help = "Examples:\n  vrouter lab up two-pods.yaml\n  vrouter lab run bgp")]
    Lab(crate::lab::LabArguments),

    /// Measure this machine: packets per second, latency, changes under load; kernel forwarding beside
    #[command(
        after_help = "Examples:\n  vrouter bench mrr\n  vrouter bench pdr --rules 100,10000\n  vrouter bench report"
    )]
    Bench(bench::BenchArguments),

    /// Show the version of this program and of the daemon
    #[command(after_help = "Example:\n  vrouter version --client")]
    Version(VersionArguments),

    /// Print the completion of commands for a shell
    #[command(after_help = "Example:\n  vrouter completion bash")]
    Completion(CompletionArguments),
}

#[derive(Debug, Args)]
pub struct CompletionArguments {
    #[arg(value_enum)]
    shell: clap_complete::Shell,
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

/// Reads the arguments, carries out the command and says how it went.
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    let is_calicoctl = arguments.first().is_some_and(|name| Path::new(name).file_name() == Some("calicoctl".as_ref()));
    if is_calicoctl {
        return calicoctl::main(arguments);
    }
    let arguments = ipam::name_report(arguments);
    let format = help::format_of(&arguments);
    match help::command().try_get_matches_from(arguments).and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => execute(cli),
        Err(error) => ExitCode::from(help::report(&error, format)),
    }
}

fn execute(cli: Cli) -> ExitCode {
    let Cli { command, global } = cli;
    let client = Client::new(global.socket.as_deref().unwrap_or(Path::new(DEFAULT_SOCKET)));
    let format = global.output.format;
    let style = Style::Ours;
    if global.output.columns.is_some() && !matches!(command, Command::Get(_)) {
        let error = CliError::Usage("custom columns are for get; take -o json here".to_string());
        error.report(format);
        return ExitCode::from(error.exit_status());
    }
    let result = match command {
        Command::Run(mut arguments) => {
            arguments.settings.default_socket(global.socket.as_deref());
            return crate::daemon::run(arguments);
        }
        Command::Doctor(arguments) => return crate::doctor::run(arguments),
        Command::Lab(arguments) => return crate::lab::run(arguments),
        Command::Bench(arguments) => return bench::run(format, arguments),
        Command::Apply(arguments) => apply::apply(&client, format, style, &arguments),
        Command::Create(arguments) => apply::create(&client, format, style, &arguments),
        Command::Replace(arguments) => apply::replace(&client, format, style, &arguments),
        Command::Patch(arguments) => patch::patch(&client, format, style, &arguments),
        Command::Label(arguments) => patch::label(&client, format, &arguments),
        Command::Validate(arguments) => validate::validate(format, &arguments),
        Command::Diff(arguments) => diff::diff(&client, format, &arguments),
        Command::History(arguments) => history::history(&client, format, &arguments),
        Command::Undo(arguments) => history::undo(&client, format, &arguments),
        Command::Confirm => history::confirm(&client, format),
        Command::Explain(arguments) => explain::explain(format, &arguments),
        Command::Get(arguments) => get::get(&client, &global.output, &arguments),
        Command::Describe(arguments) => describe::describe(&client, format, &arguments),
        Command::Delete(arguments) => delete::delete(&client, format, style, &arguments),
        Command::Show(arguments) => show::show(&client, format, &arguments),
        Command::Why(arguments) => why::why(&client, format, &arguments),
        Command::Policy(arguments) => match policy::run(&client, format, &arguments) {
            Ok(true) => Ok(()),
            Ok(false) => return ExitCode::from(1),
            Err(error) => Err(error),
        },
        Command::Bgp(arguments) => bgp::run(&client, format, &arguments),
        Command::Ipam(arguments) => ipam::run(&client, format, &arguments),
        Command::Endpoint(arguments) => endpoint::run(&client, format, &arguments),
        Command::Cni(arguments) => cni::run(global.socket.as_deref(), format, &arguments),
        Command::Node(arguments) => node::run(&client, format, &arguments),
        Command::Worker(arguments) => worker::run(&client, format, &arguments),
        Command::Selector => selector::run(),
        Command::Trace(arguments) => trace::trace(&client, format, &arguments),
        Command::Version(arguments) => version(&client, format, &arguments),
        Command::Completion(arguments) => completion(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error.report(format);
            ExitCode::from(error.exit_status())
        }
    }
}

fn completion(arguments: &CompletionArguments) -> Result<(), CliError> {
    let mut text = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "vrouter", &mut text);
    render::print(&String::from_utf8_lossy(&text))
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
    Kind::parse_word(word).map_err(|error| CliError::refused(ErrorCode::UnknownKind, error.to_string()))
}

/// The key meant by a kind, `-n` and a name.
fn key(kind: Kind, namespace: Option<&str>, name: &str) -> Key {
    match kind.is_namespaced() {
        true => Key::namespaced(kind, namespace.unwrap_or(DEFAULT_NAMESPACE), name),
        false => Key::cluster(kind, name),
    }
}
