//! trace: describe a packet, see what each stage would decide about it.

use std::net::IpAddr;
use std::str::FromStr;

use clap::{ArgGroup, Args, ValueEnum};
use control::http::views::{TraceRequest, TraceTransport, TraceView};

use super::Format;
use super::error::CliError;
use super::render::{self, harmless};
use crate::client::Client;

/// A port no service listens on, for packets whose source port was not said.
const ANY_SOURCE_PORT: u16 = 40_000;

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("transport").required(true).args(["tcp", "udp", "icmp", "proto"]))]
pub struct TraceArguments {
    /// Where the packet comes in; `host` for what the host itself sends
    #[arg(long, value_name = "NAMESPACE/POD|INTERFACE|host")]
    from: String,

    /// The uplink by which the host sends it
    #[arg(long, value_name = "INTERFACE")]
    out: Option<String>,

    #[arg(long, value_name = "ADDRESS")]
    src: IpAddr,

    #[arg(long, value_name = "ADDRESS")]
    dst: IpAddr,

    /// TCP, first packet of a connection
    #[arg(long, value_name = "DPORT[:SPORT]")]
    tcp: Option<Ports>,

    #[arg(long, value_name = "DPORT[:SPORT]")]
    udp: Option<Ports>,

    /// ICMP, or ICMPv6 between IPv6 addresses
    #[arg(long, value_enum)]
    icmp: Option<Icmp>,

    /// Another protocol, by its number
    #[arg(long, value_name = "NUMBER")]
    proto: Option<u8>,

    /// TTL or hop limit
    #[arg(long, default_value_t = 64)]
    ttl: u8,

    /// A later fragment: no ports can be seen
    #[arg(long)]
    fragment: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ports {
    destination: u16,
    source: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Icmp {
    Echo,
}

impl FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Ports, String> {
        let port = |text: &str| match text.parse() {
            Ok(port) if port > 0 => Ok(port),
            _ => Err(format!("found port {text:?}, expected a number from 1 to 65535")),
        };
        match text.split_once(':') {
            Some((destination, source)) => Ok(Ports { destination: port(destination)?, source: port(source)? }),
            None => Ok(Ports { destination: port(text)?, source: ANY_SOURCE_PORT }),
        }
    }
}

pub fn trace(client: &Client, format: Format, arguments: &TraceArguments) -> Result<(), CliError> {
    let view: TraceView = client.post("/v1/trace", &request(arguments)?)?;
    let text = render::structured(format, &view)?;
    render::print(&text.unwrap_or_else(|| outline(&view)))
}

pub(super) fn request(arguments: &TraceArguments) -> Result<TraceRequest, CliError> {
    let (source, destination) = (arguments.src, arguments.dst);
    if source.is_ipv4() != destination.is_ipv4() {
        let message = format!("--src {source} and --dst {destination} are of two address families");
        return Err(CliError::Usage(message));
    }
    let transport = match (arguments.tcp, arguments.udp, arguments.icmp, arguments.proto) {
        (Some(Ports { source, destination }), ..) => {
            TraceTransport::Tcp { source_port: source, destination_port: destination }
        }
        (_, Some(Ports { source, destination }), ..) => {
            TraceTransport::Udp { source_port: source, destination_port: destination }
        }
        (_, _, Some(Icmp::Echo), _) => TraceTransport::IcmpEcho,
        (.., Some(number)) => TraceTransport::Other { number },
        (None, None, None, None) => {
            return Err(CliError::Usage("one of --tcp, --udp, --icmp and --proto is needed".to_string()));
        }
    };
    Ok(TraceRequest {
        from: arguments.from.clone(),
        out: arguments.out.clone(),
        source,
        destination,
        transport,
        ttl: arguments.ttl,
        is_fragment: arguments.fragment,
    })
}

fn outline(view: &TraceView) -> String {
    let stages: Vec<[String; 3]> = view
        .stages
        .iter()
        .map(|stage| [harmless(&stage.stage), harmless(&stage.decision), harmless(&stage.detail)])
        .collect();
    let width = |column: usize| stages.iter().map(|stage| stage[column].chars().count()).max().unwrap_or(0);
    let (first, second) = (width(0), width(1));
    let mut text = String::new();
    for (number, [stage, decision, detail]) in stages.iter().enumerate() {
        let line = format!("{:>3}  {stage:first$}  {decision:second$}  {detail}", number + 1);
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text.push_str(&format!("=> {}\n", harmless(&view.verdict)));
    if let Some(rule) = &view.rule {
        text.push_str(&format!("   by {}\n", harmless(rule)));
    }
    for decision in &view.decisions {
        text.push_str(&super::why::of_decision(decision, "   "));
    }
    if !view.decisions.is_empty() {
        text.push_str(&format!("   generation {}\n", view.generation));
    }
    text
}
