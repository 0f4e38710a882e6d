//! ipam: who has which address, in calicoctl's words and tables; addresses given out and back by hand.
//!
//! - `ipam/show.rs`   pools, blocks, borrowed addresses, one address
//! - `ipam/check.rs`  what does not fit together, and the release of what nobody has
//! - `ipam/split.rs`  a pool made into several
//!
//! Sources: the tables and texts of calicoctl 3.29, which scripts read.

mod check;
mod show;
mod split;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::{ArgAction, Args, Subcommand, ValueEnum};
use config::resource::{AllowedUse, Kind, Switch};
use control::http::api::{ErrorCode, WriteCall};
use control::http::views::{GetReply, WriteReply};
use control::ipam::call::{AssignCall, AssignView, IpamCall, ReleaseCall, ReleaseView};
use serde_json::{Value, json};

use super::Format;
use super::error::CliError;
use super::output::Output;
use super::render::{self, harmless};
use crate::client::{Client, ClientError};

#[derive(Debug, Args)]
pub struct IpamArguments {
    #[command(subcommand)]
    command: IpamCommand,
}

#[derive(Debug, Subcommand)]
enum IpamCommand {
    /// Addresses in use and free, by pool
    Show(ShowArguments),

    /// Look for addresses that nobody has, and for records that do not fit together
    Check(CheckArguments),

    /// Give back an address, all of a handle, or what reports agree on
    Release(ReleaseArguments),

    /// Show or change how blocks go to nodes
    Configure(ConfigureArguments),

    /// Make several pools of equal size out of one
    Split(SplitArguments),

    /// Tell whose an address is
    Who { address: IpAddr },

    /// Take addresses of this node by hand
    Assign(AssignArguments),
}

#[derive(Debug, Args)]
struct ShowArguments {
    /// Only this address
    #[arg(long, value_name = "IP", conflicts_with_all = ["show_blocks", "show_borrowed", "show_configuration"])]
    ip: Option<IpAddr>,

    /// The blocks of each pool
    #[arg(long)]
    show_blocks: bool,

    /// Addresses that nodes have from blocks of others
    #[arg(long, conflicts_with = "show_blocks")]
    show_borrowed: bool,

    /// What IPAMConfiguration says
    #[arg(long, conflicts_with_all = ["show_blocks", "show_borrowed"])]
    show_configuration: bool,
}

#[derive(Debug, Args)]
struct CheckArguments {
    /// Every address that is given out, and whose it is
    #[arg(long)]
    show_all_ips: bool,

    /// The addresses that something is wrong with
    #[arg(long)]
    show_problem_ips: bool,

    /// Write a report to this file, for release --from-report
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct ReleaseArguments {
    #[arg(long, value_name = "IP", required_unless_present_any = ["handle", "from_report"])]
    ip: Option<IpAddr>,

    /// All addresses of a handle; with --ip, only if the handle has it
    #[arg(long, conflicts_with = "from_report")]
    handle: Option<String>,

    /// A report of check; given several times, what all of them agree on
    #[arg(long, value_name = "FILE", conflicts_with = "ip")]
    from_report: Vec<PathBuf>,

    /// Also from reports of another version, and without a locked datastore
    #[arg(long, requires = "from_report")]
    force: bool,
}

#[derive(Debug, Args)]
struct ConfigureArguments {
    /// Nodes have addresses of their own blocks only
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    strictaffinity: Option<bool>,

    /// Blocks that a node may have; 0 leaves it to the allocator
    #[arg(long, value_name = "N")]
    max_blocks_per_host: Option<u32>,

    /// Whether a virtual machine keeps its address: Enabled, Disabled
    #[arg(long, value_name = "WORD", value_parser = switch)]
    kubevirt_ip_persistence: Option<Switch>,

    /// How long a released address rests, 0-1200
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(i64).range(0..=1200))]
    ip_cooldown_seconds: Option<i64>,
}

#[derive(Debug, Args)]
struct SplitArguments {
    /// Into how many: 2, 4, 8, ...
    number: u32,

    /// The pool with this CIDR
    #[arg(long, required_unless_present = "name", conflicts_with = "name")]
    cidr: Option<String>,

    /// The pool with this name
    #[arg(long)]
    name: Option<String>,

    /// Also where the datastore is not locked
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Purpose {
    Workload,
    Tunnel,
    LoadBalancer,
}

#[derive(Debug, Args)]
struct AssignArguments {
    /// Under which name they are had, and given back
    #[arg(long)]
    handle: String,

    /// How many IPv4 addresses
    #[arg(long, value_name = "N", default_value_t = 0)]
    ipv4: usize,

    /// How many IPv6 addresses
    #[arg(long, value_name = "N", default_value_t = 0)]
    ipv6: usize,

    /// This one; may be given several times
    #[arg(long, value_name = "IP")]
    ip: Vec<IpAddr>,

    /// From this pool, by name or CIDR; may be given several times
    #[arg(long)]
    pool: Vec<String>,

    /// The namespace that selects pools
    #[arg(short, long)]
    namespace: Option<String>,

    /// What they are for
    #[arg(long = "use", value_enum, default_value_t = Purpose::Workload)]
    purpose: Purpose,

    /// What is kept with them, such as pod=web; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = attribute)]
    attribute: Vec<(String, String)>,
}

fn switch(text: &str) -> Result<Switch, String> {
    Switch::parse(text).ok_or_else(|| format!("expected one of {}", Switch::WORDS.join(", ")))
}

fn attribute(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.to_string(), value.to_string()))
}

/// calicoctl's `ipam check -o FILE` names a report, where everywhere else `-o` says how to print.
pub fn name_report(arguments: Vec<OsString>) -> Vec<OsString> {
    let words: Vec<&str> = arguments.iter().map(|argument| argument.to_str().unwrap_or_default()).collect();
    if !words.windows(2).any(|pair| pair == ["ipam", "check"]) {
        return arguments;
    }
    let is_file = |value: &str| value.parse::<Output>().is_err();
    let mut named = Vec::with_capacity(arguments.len());
    for (position, word) in words.iter().enumerate() {
        let value = word.strip_prefix("--output=").or(word.strip_prefix("-o=")).filter(|value| is_file(value));
        let follows = || words.get(position + 1).is_some_and(|value| is_file(value));
        match (*word, value) {
            (_, Some(value)) => named.push(format!("--report={value}").into()),
            ("-o" | "--output", None) if follows() => named.push("--report".into()),
            _ => named.push(arguments[position].clone()),
        }
    }
    named
}

pub fn run(client: &Client, format: Format, arguments: &IpamArguments) -> Result<(), CliError> {
    match &arguments.command {
        IpamCommand::Show(arguments) => show::show(client, format, arguments),
        IpamCommand::Who { address } => show::who(client, format, *address),
        IpamCommand::Check(arguments) => check::check(client, format, arguments),
        IpamCommand::Release(arguments) if !arguments.from_report.is_empty() => {
            check::release_reported(client, format, arguments)
        }
        IpamCommand::Release(arguments) => release(client, format, arguments),
        IpamCommand::Configure(arguments) => configure(client, format, arguments),
        IpamCommand::Split(arguments) => split::split(client, format, arguments),
        IpamCommand::Assign(arguments) => assign(client, format, arguments),
    }
}

fn assign(client: &Client, format: Format, arguments: &AssignArguments) -> Result<(), CliError> {
    let call = AssignCall {
        ipv4: arguments.ipv4,
        ipv6: arguments.ipv6,
        addresses: arguments.ip.clone(),
        handle: Some(arguments.handle.clone()),
        attributes: arguments.attribute.iter().cloned().collect::<BTreeMap<_, _>>(),
        namespace: arguments.namespace.clone(),
        ipv4_pools: arguments.pool.clone(),
        ipv6_pools: arguments.pool.clone(),
        intended: Some(match arguments.purpose {
            Purpose::Workload => AllowedUse::Workload,
            Purpose::Tunnel => AllowedUse::Tunnel,
            Purpose::LoadBalancer => AllowedUse::LoadBalancer,
        }),
        tunnel: None,
        max_blocks: None,
    };
    let view: AssignView = client.post("/v1/ipam", &IpamCall::Assign(call))?;
    if let Some(text) = render::structured(format, &view)? {
        return render::print(&text);
    }
    let line = |address: &control::ipam::call::AssignedView| format!("{}\n", address.address);
    render::print(&view.addresses.iter().map(line).collect::<String>())
}

fn release(client: &Client, format: Format, arguments: &ReleaseArguments) -> Result<(), CliError> {
    let call = ReleaseCall { address: arguments.ip, handle: arguments.handle.clone(), sequence: None };
    let view: ReleaseView = client.post("/v1/ipam", &IpamCall::Release(call))?;
    if let Some(text) = render::structured(format, &view)? {
        return render::print(&text);
    }
    match (arguments.ip, &arguments.handle) {
        (Some(ip), _) => render::print(&format!("Successfully released IP address {ip}\n")),
        (None, handle) => {
            let handle = harmless(handle.as_deref().unwrap_or_default());
            render::print(&format!("Successfully released {} IPs of handle {handle}\n", view.released.len()))
        }
    }
}

fn configure(client: &Client, format: Format, arguments: &ConfigureArguments) -> Result<(), CliError> {
    let ConfigureArguments { strictaffinity, max_blocks_per_host, kubevirt_ip_persistence, ip_cooldown_seconds } =
        arguments;
    let changes = [
        ("strictAffinity", strictaffinity.map(Value::from)),
        ("maxBlocksPerHost", max_blocks_per_host.map(Value::from)),
        ("kubeVirtVMAddressPersistence", kubevirt_ip_persistence.map(|word| Value::from(word.as_str()))),
        ("ipCooldownSeconds", ip_cooldown_seconds.map(Value::from)),
    ];
    if changes.iter().all(|(_, value)| value.is_none()) {
        return show::configuration(client, format);
    }
    let mut object = match stored(client, Kind::IpamConfiguration, "default")? {
        Some(object) => object,
        None => json!({
            "apiVersion": Kind::IpamConfiguration.api_version(), "kind": Kind::IpamConfiguration.written(),
            "metadata": { "name": "default" }, "spec": {},
        }),
    };
    for (name, value) in changes {
        if let Some(value) = value {
            object["spec"][name] = value;
        }
    }
    apply(client, vec![object])?;
    match format {
        Format::Ps | Format::Wide => {
            let mut text = String::new();
            if let Some(strict) = strictaffinity {
                text.push_str(&format!("Successfully set StrictAffinity to: {strict}\n"));
            }
            if let Some(most) = max_blocks_per_host {
                text.push_str(&format!("Successfully set MaxBlocksPerHost to: {most}\n"));
            }
            if let Some(word) = kubevirt_ip_persistence {
                text.push_str(&format!("Successfully set KubeVirtVMAddressPersistence to: {word}\n"));
            }
            if let Some(seconds) = ip_cooldown_seconds {
                text.push_str(&format!("Successfully set IPCooldownSeconds to: {seconds}\n"));
            }
            render::print(&text)
        }
        Format::Json | Format::Yaml => show::configuration(client, format),
    }
}

/// An object as it is stored now.
fn stored(client: &Client, kind: Kind, name: &str) -> Result<Option<Value>, CliError> {
    let path = format!("/v1/resources/{}/{}", kind.name(), crate::client::encode(name));
    match client.get::<GetReply>(&path) {
        Ok(reply) => Ok(reply.items.into_iter().next()),
        Err(ClientError::Refused(refusal)) if refusal.code == ErrorCode::ObjectNotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn apply(client: &Client, resources: Vec<Value>) -> Result<WriteReply, CliError> {
    let call = WriteCall { resources, dry_run: false, confirm_seconds: None };
    Ok(client.post("/v1/apply", &call)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_named_as_calicoctl_names_it() {
        let check = |line: &str, expected: &str| {
            let words = name_report(line.split(' ').map(OsString::from).collect());
            let words: Vec<String> = words.into_iter().filter_map(|word| word.into_string().ok()).collect();
            assert_eq!(words.join(" "), expected);
        };
        check("vrouter ipam check -o report.json", "vrouter ipam check --report report.json");
        check("vrouter ipam check --output=r -o json", "vrouter ipam check --report=r -o json");
        check("vrouter ipam check -o json", "vrouter ipam check -o json");
        check("vrouter get pools -o report.json", "vrouter get pools -o report.json");
    }
}
