//! endpoint: workloads attached by hand, without a runtime: any network namespace, or an interface of this host.
//!
//! The work is the daemon's, by the same steps as for a runtime; here words become a wish.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};
use config::net::{Cidr, MacAddress};
use config::resource::DEFAULT_NAMESPACE;
use control::http::api::ErrorCode;
use control::workload::call::{Ask, Attached, Attachment, Detached, Place, Source, Wish, WorkloadCall};
use control::workload::identity::{BY_HAND, FIRST_INTERFACE, Identity};

use super::Format;
use super::error::CliError;
use super::render::{self, Table, harmless};
use crate::client::Client;

/// The network of whom no runtime attaches; its profile has this name.
const NETWORK: &str = "by-hand";
const NAMESPACES: &str = "/run/netns";

#[derive(Debug, Args)]
pub struct EndpointArguments {
    #[command(subcommand)]
    command: EndpointCommand,
}

#[derive(Debug, Subcommand)]
enum EndpointCommand {
    /// Give a network namespace an interface, addresses and an endpoint; or an interface of this host an endpoint
    Add(Box<AddArguments>),

    /// Take away what `add` has made; what is gone already is no error
    #[command(alias = "delete")]
    Del(DelArguments),

    /// What is attached to this node, by hand and by runtimes
    #[command(alias = "ls")]
    List,
}

#[derive(Debug, Args)]
struct Who {
    /// What the workload is called
    name: String,

    /// Its namespace, as policy knows it
    #[arg(short, long, default_value = DEFAULT_NAMESPACE)]
    namespace: String,

    /// What the workload calls the interface
    #[arg(long, default_value = FIRST_INTERFACE)]
    ifname: String,

    /// Who is in one network may talk to each other, unless policy or --profile says otherwise
    #[arg(long, default_value = NETWORK)]
    network: String,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("place").required(true).args(["netns", "pid", "interface"]))]
struct AddArguments {
    #[command(flatten)]
    who: Who,

    /// A network namespace: a name, as `ip netns` has it, or the path of its file
    #[arg(long, value_name = "NAME|PATH")]
    netns: Option<String>,

    /// The network namespace of this process
    #[arg(long)]
    pid: Option<u32>,

    /// An interface of this host that leads to the workload: a card, a virtual machine's
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,

    /// An address it shall have: one of a pool's, or with --no-ipam any
    #[arg(long = "ip", value_name = "ADDRESS")]
    addresses: Vec<IpAddr>,

    /// The addresses are nobody's to give out: they are not looked for in pools
    #[arg(long, requires = "addresses")]
    no_ipam: bool,

    /// Take an IPv6 address as well
    #[arg(long)]
    ipv6: bool,

    /// Take no IPv4 address
    #[arg(long)]
    no_ipv4: bool,

    /// A pool to take addresses from: a name or CIDR
    #[arg(long = "pool", value_name = "POOL")]
    pools: Vec<String>,

    /// A label that policy selects by
    #[arg(short, long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,

    /// A profile in place of the network's own
    #[arg(long = "profile", value_name = "NAME")]
    profiles: Vec<String>,

    /// Where to, by the router; everywhere when there is none
    #[arg(long = "route", value_name = "CIDR", value_parser = cidr)]
    routes: Vec<Cidr>,

    /// Give it the node's source on its way out of the node, but to pools
    #[arg(long)]
    ip_masq: bool,

    #[arg(long, value_parser = mac)]
    mac: Option<MacAddress>,

    #[arg(long)]
    mtu: Option<u32>,
}

#[derive(Debug, Args)]
struct DelArguments {
    #[command(flatten)]
    who: Who,
}

fn cidr(text: &str) -> Result<Cidr, String> {
    Cidr::parse(text).map_err(|error| error.to_string())
}

fn mac(text: &str) -> Result<MacAddress, String> {
    MacAddress::parse(text).map_err(|error| error.to_string())
}

impl Who {
    fn identity(&self) -> Identity {
        Identity {
            orchestrator: BY_HAND.to_string(),
            namespace: self.namespace.clone(),
            workload: self.name.clone(),
            container: self.name.clone(),
            interface: self.ifname.clone(),
            network: self.network.clone(),
        }
    }
}

pub fn run(client: &Client, format: Format, arguments: &EndpointArguments) -> Result<(), CliError> {
    match &arguments.command {
        EndpointCommand::Add(arguments) => add(client, format, arguments),
        EndpointCommand::Del(arguments) => del(client, format, arguments),
        EndpointCommand::List => list(client, format),
    }
}

fn add(client: &Client, format: Format, arguments: &AddArguments) -> Result<(), CliError> {
    let attached: Attached = client.post("/v1/workload", &WorkloadCall::Attach(Box::new(wish(arguments)?)))?;
    if let Some(text) = render::structured(format, &attached)? {
        return render::print(&text);
    }
    let addresses: Vec<String> = attached.addresses.iter().map(ToString::to_string).collect();
    render::print(&format!(
        "{}/{} attached: {} on {}; policy is in force\n",
        harmless(&attached.namespace),
        harmless(&attached.endpoint),
        addresses.join(", "),
        harmless(&attached.interface)
    ))
}

fn del(client: &Client, format: Format, arguments: &DelArguments) -> Result<(), CliError> {
    let detached: Detached = client.post("/v1/workload", &WorkloadCall::Detach(arguments.who.identity()))?;
    if let Some(text) = render::structured(format, &detached)? {
        return render::print(&text);
    }
    let name = harmless(&arguments.who.name);
    render::print(&match detached.endpoint || detached.interface || detached.addresses > 0 {
        true => format!("{name} detached; {} address(es) released\n", detached.addresses),
        false => format!("{name}: there was nothing to take away\n"),
    })
}

fn list(client: &Client, format: Format) -> Result<(), CliError> {
    let attachments: Vec<Attachment> = client.post("/v1/workload", &WorkloadCall::List)?;
    if let Some(text) = render::structured(format, &attachments)? {
        return render::print(&text);
    }
    let mut table = Table::new(["NAMESPACE", "WORKLOAD", "IFNAME", "BY", "NETWORK", "INTERFACE", "ADDRESSES"]);
    for attachment in &attachments {
        let identity = &attachment.identity;
        let addresses: Vec<String> = attachment.addresses.iter().map(ToString::to_string).collect();
        let words =
            [&identity.namespace, &identity.workload, &identity.interface, &identity.orchestrator, &identity.network];
        let cells = words.into_iter().chain([&attachment.interface]).map(|word| harmless(word));
        table.row(cells.chain([addresses.join(" ")]));
    }
    render::print(&table.text())
}

fn wish(arguments: &AddArguments) -> Result<Wish, CliError> {
    let place = match (&arguments.netns, arguments.pid, &arguments.interface) {
        (Some(netns), _, _) if netns.contains('/') => {
            Place::Namespace(std::path::absolute(netns).unwrap_or_else(|_| PathBuf::from(netns)))
        }
        (Some(netns), _, _) => Place::Namespace(PathBuf::from(NAMESPACES).join(netns)),
        (None, Some(pid), _) => Place::Namespace(PathBuf::from(format!("/proc/{pid}/ns/net"))),
        (None, None, Some(interface)) => Place::Interface(interface.clone()),
        (None, None, None) => {
            return Err(CliError::Usage("one of --netns, --pid and --interface is needed".to_string()));
        }
    };
    let mut labels = std::collections::BTreeMap::new();
    for label in &arguments.labels {
        let (key, value) = label.split_once('=').ok_or_else(|| {
            CliError::refused(ErrorCode::BadLabel, format!("--label {label}: found no `=`, expected KEY=VALUE"))
        })?;
        labels.insert(key.to_string(), value.to_string());
    }
    let addresses = match arguments.no_ipam {
        true => Source::Given(arguments.addresses.clone()),
        false => Source::Pools(Ask {
            ipv4: !arguments.no_ipv4,
            ipv6: arguments.ipv6,
            addresses: arguments.addresses.clone(),
            ipv4_pools: arguments.pools.clone(),
            ipv6_pools: arguments.pools.clone(),
        }),
    };
    Ok(Wish {
        identity: arguments.who.identity(),
        place,
        addresses,
        mac: arguments.mac,
        mtu: arguments.mtu,
        labels,
        profiles: (!arguments.profiles.is_empty()).then(|| arguments.profiles.clone()),
        routes: arguments.routes.clone(),
        masquerade: arguments.ip_masq.then(Vec::new),
        ..Wish::default()
    })
}
