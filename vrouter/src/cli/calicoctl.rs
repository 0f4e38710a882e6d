//! Called by the name `calicoctl` (a link to this binary), it behaves like calicoctl: the same commands and flags, the
//! same success texts, exit status 1 on any error.
//!
//! Accepted without effect: `--config`, `--context`, `--log-level` and `--allow-version-mismatch`, as there is one
//! datastore and one version. `node` has `status`; `datastore` and `cluster` say that they are not there yet.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use control::http::api::ErrorCode;
use control::http::views::VersionView;

use super::error::CliError;
use super::output::Output;
use super::{Style, apply, delete, get, help, ipam, node, patch, render, validate};
use crate::client::{Client, DEFAULT_SOCKET};

/// Status of anything that went wrong.
const EXIT_ERROR: u8 = 1;

/// Calico's command line, answered by vrouter.
#[derive(Debug, Parser)]
#[command(name = "calicoctl", disable_help_subcommand = true)]
pub struct Calicoctl {
    #[command(subcommand)]
    command: Command,

    #[command(flatten)]
    global: Global,
}

#[derive(Debug, Args)]
struct Global {
    /// The daemon's socket
    #[arg(long, global = true, env = "VROUTER_SOCKET", value_name = "PATH")]
    socket: Option<PathBuf>,

    /// ps, wide, json, yaml or custom-columns=NAME,...
    #[arg(short, long, global = true, default_value = "ps", value_name = "FORMAT")]
    output: Output,

    /// Accepted; there is one datastore
    #[arg(short, long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Accepted; there is no kubeconfig
    #[arg(long, global = true)]
    context: Option<String>,

    /// Accepted; this program does not log
    #[arg(short, long, global = true, value_name = "LEVEL")]
    log_level: Option<String>,

    /// Accepted; versions are not compared
    #[arg(long, global = true)]
    allow_version_mismatch: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create resources
    Create(apply::CreateArguments),
    /// Replace resources
    Replace(apply::WriteArguments),
    /// Create or replace resources
    Apply(apply::WriteArguments),
    /// Patch a resource
    Patch(patch::PatchArguments),
    /// Delete resources
    Delete(delete::DeleteArguments),
    /// Show resources
    Get(get::GetArguments),
    /// Add, change or remove a label
    Label(patch::LabelArguments),
    /// Check manifests
    Validate(validate::ValidateArguments),
    /// Show versions
    Version(VersionArguments),
    /// Addresses: show, check, release, configure, split
    Ipam(ipam::IpamArguments),
    /// The BGP peers of this node: status
    Node(node::NodeArguments),
    /// Not there yet
    Datastore(Rest),
    /// Not there yet
    Cluster(Rest),
    /// Gone from calicoctl as well
    Convert(Rest),
}

#[derive(Debug, Args)]
struct VersionArguments {
    /// Only this program
    #[arg(long)]
    client: bool,

    /// Ask again and again: 1s, 10m; 0 is once
    #[arg(long, value_name = "TIME", value_parser = poll, default_value = "0")]
    poll: u64,
}

#[derive(Debug, Args)]
struct Rest {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

fn poll(text: &str) -> Result<u64, String> {
    if matches!(text, "0" | "0s") { Ok(0) } else { apply::seconds(text) }
}

pub fn main(arguments: Vec<OsString>) -> ExitCode {
    let arguments = ipam::name_report(arguments);
    let format = help::format_of(&arguments);
    let calicoctl = match Calicoctl::try_parse_from(arguments) {
        Ok(calicoctl) => calicoctl,
        Err(error) => {
            return match help::report(&error, format) {
                0 => ExitCode::SUCCESS,
                _ => ExitCode::from(EXIT_ERROR),
            };
        }
    };
    let Calicoctl { command, global } = calicoctl;
    match execute(command, &global) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error.report(global.output.format);
            ExitCode::from(EXIT_ERROR)
        }
    }
}

fn execute(command: Command, global: &Global) -> Result<(), CliError> {
    let client = Client::new(global.socket.as_deref().unwrap_or(Path::new(DEFAULT_SOCKET)));
    let (format, style) = (global.output.format, Style::Calicoctl);
    match command {
        Command::Create(arguments) => apply::create(&client, format, style, &arguments),
        Command::Replace(arguments) => apply::replace(&client, format, style, &arguments),
        Command::Apply(arguments) => apply::apply(&client, format, style, &arguments),
        Command::Patch(arguments) => patch::patch(&client, format, style, &arguments),
        Command::Delete(arguments) => delete::delete(&client, format, style, &arguments),
        Command::Get(arguments) => get::get(&client, &global.output, &arguments),
        Command::Label(arguments) => patch::label(&client, format, &arguments),
        Command::Validate(arguments) => validate::validate(format, &arguments),
        Command::Version(arguments) => version(&client, &arguments),
        Command::Ipam(arguments) => ipam::run(&client, format, &arguments),
        Command::Node(arguments) => node::run(&client, format, &arguments),
        Command::Datastore(rest) => Err(not_there("datastore", &rest, "use `vrouter get -o yaml --export` and apply")),
        Command::Cluster(rest) => Err(not_there("cluster", &rest, "use `vrouter doctor` and `vrouter show status`")),
        Command::Convert(rest) => Err(not_there("convert", &rest, "calicoctl does not have it any more either")),
    }
}

fn not_there(command: &str, rest: &Rest, instead: &str) -> CliError {
    let mut words = vec![command];
    words.extend(rest.rest.iter().map(String::as_str).take_while(|word| !word.starts_with('-')));
    CliError::refused(ErrorCode::NotOffered, format!("`{}` is not there yet: {instead}", words.join(" ")))
}

fn version(client: &Client, arguments: &VersionArguments) -> Result<(), CliError> {
    loop {
        let mut text = format!("Client Version:    v{}\nGit commit:        unknown\n", env!("CARGO_PKG_VERSION"));
        if !arguments.client {
            let daemon: VersionView = client.get("/v1/version")?;
            let version = render::harmless(&daemon.version);
            text.push_str(&format!("Cluster Version:   v{version}\nCluster Type:      vrouter\n"));
        }
        render::print(&text)?;
        match arguments.poll {
            0 => return Ok(()),
            seconds => std::thread::sleep(Duration::from_secs(seconds)),
        }
    }
}
