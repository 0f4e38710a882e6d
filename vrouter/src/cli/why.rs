//! why: recent drops, and for each the rule that decided and the one that almost matched.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use clap::Args;
use control::http::views::{DecisionView, RecentDropView, WhyRequest, WhyView};

use super::Format;
use super::error::CliError;
use super::policy::packet::{PROTOCOL, named_protocol};
use super::render::{self, harmless};
use crate::client::Client;

#[derive(Debug, Args)]
pub struct WhyArguments {
    /// At most so many flows, the youngest first; default: 20
    #[arg(long, value_name = "N")]
    last: Option<usize>,

    #[arg(long, value_name = "ADDRESS")]
    src: Option<IpAddr>,

    #[arg(long, value_name = "ADDRESS")]
    dst: Option<IpAddr>,

    /// Port of the destination
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,

    /// A name or a number
    #[arg(long, value_name = "PROTOCOL", value_parser = protocol)]
    proto: Option<u8>,

    /// All of it at once, as show flows has it
    #[arg(long, num_args = 3, value_names = ["PROTOCOL", "SOURCE[:PORT]", "DESTINATION[:PORT]"],
          conflicts_with_all = ["src", "dst", "port", "proto"])]
    flow: Option<Vec<String>>,

    /// Where the packets came in
    #[arg(short, long, value_name = "INTERFACE")]
    interface: Option<String>,

    /// A reason as show drops has it
    #[arg(long, value_name = "REASON")]
    reason: Option<String>,
}

fn protocol(text: &str) -> Result<u8, String> {
    named_protocol(text).ok_or_else(|| format!("found {text:?}, expected {PROTOCOL}"))
}

/// An address, or an address and a port: `10.0.0.1:80`, `[fd00::1]:80`.
fn end(text: &str) -> Result<(IpAddr, Option<u16>), CliError> {
    if let Ok(socket) = SocketAddr::from_str(text) {
        return Ok((socket.ip(), Some(socket.port())));
    }
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let expected = "an address, with or without a port, such as 10.0.0.1:80 or [fd00::1]:80";
    bare.parse()
        .map(|ip| (ip, None))
        .map_err(|_| CliError::Usage(format!("--flow: found {text:?}, expected {expected}")))
}

pub fn why(client: &Client, format: Format, arguments: &WhyArguments) -> Result<(), CliError> {
    let view: WhyView = client.post("/v1/why", &request(arguments)?)?;
    let text = render::structured(format, &view)?;
    render::print(&text.unwrap_or_else(|| outline(&view)))
}

fn request(arguments: &WhyArguments) -> Result<WhyRequest, CliError> {
    let mut request = WhyRequest {
        last: arguments.last,
        source: arguments.src,
        destination: arguments.dst,
        source_port: None,
        port: arguments.port,
        protocol: arguments.proto,
        interface: arguments.interface.clone(),
        reason: arguments.reason.clone(),
    };
    if let Some([name, source, destination]) = arguments.flow.as_deref() {
        let number = protocol(name).map_err(|message| CliError::Usage(format!("--flow: {message}")))?;
        request.protocol = Some(number);
        let ((source, source_port), (destination, port)) = (end(source)?, end(destination)?);
        (request.source, request.source_port) = (Some(source), source_port);
        (request.destination, request.port) = (Some(destination), port);
    }
    Ok(request)
}

fn outline(view: &WhyView) -> String {
    let mut text = String::new();
    for drop in &view.drops {
        text.push_str(&of_drop(drop, view.generation));
    }
    if view.drops.is_empty() {
        text.push_str("No drop of the last 10 minutes is like that.\n");
    }
    if view.not_kept > 0 {
        text.push_str(&format!("{} more dropped packets were counted and not kept one by one\n", view.not_kept));
    }
    text
}

fn of_drop(drop: &RecentDropView, generation: u32) -> String {
    let (source, destination) =
        (render::end(drop.source, drop.source_port), render::end(drop.destination, drop.destination_port));
    let kind = match (drop.icmp_type, drop.icmp_code) {
        (Some(kind), Some(code)) => format!(" type {kind} code {code}"),
        _ => String::new(),
    };
    let interface = drop.interface.as_deref().map(harmless).unwrap_or_else(|| "an interface that is gone".into());
    let mut text = format!(
        "{} ago  DROP {}  {}{kind} {source} -> {destination}  in by {interface}\n",
        ago(drop.last_seen_seconds_ago),
        harmless(&drop.reason),
        harmless(&drop.protocol),
    );
    text.push_str(&format!("  {}\n", harmless(&drop.description)));
    if let Some(decision) = &drop.decision {
        text.push_str(&of_decision(decision, "  "));
    }
    let since = match drop.packets {
        1 => "once".to_owned(),
        packets => format!("{packets} times, first {} ago", ago(drop.first_seen_seconds_ago)),
    };
    let then = match drop.generation == generation {
        true => format!("generation {generation}, which is in force"),
        false => format!("generation {}; {generation} is in force now", drop.generation),
    };
    text.push_str(&format!("  seen {since}; {then}\n"));
    text
}

/// Who decided, and what almost did.
pub(super) fn of_decision(decision: &DecisionView, indent: &str) -> String {
    let verdict = match decision.verdict.as_str() {
        "allow" => "allowed",
        "pass" => "passed on",
        _ => "denied",
    };
    let tier = decision.tier.as_ref().map(|tier| format!(" in tier {}", harmless(tier))).unwrap_or_default();
    let by = match &decision.name {
        Some(name) => format!(" by {}", harmless(name)),
        None if decision.verdict == "pass" => ", no rule decided".into(),
        None => " by a rule that is not known".into(),
    };
    let list = if decision.list == "normal" { String::new() } else { format!("{} ", harmless(&decision.list)) };
    let endpoint = decision.endpoint.as_ref().map(|name| format!(" of {}", harmless(name))).unwrap_or_default();
    let direction = harmless(&decision.direction);
    let mut text = format!("{indent}{list}{direction}{endpoint}: {verdict}{by}{tier}\n");
    if let Some(near) = &decision.nearest {
        text.push_str(&format!("{indent}almost: {}\n", harmless(&near.sentence)));
    }
    text
}

fn ago(seconds: f64) -> String {
    match seconds {
        seconds if seconds < 10.0 => format!("{seconds:.1} s"),
        seconds if seconds < 120.0 => format!("{seconds:.0} s"),
        seconds => format!("{:.0} min", seconds / 60.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use control::http::views::NearView;

    #[test]
    fn ends_of_flows() {
        assert_eq!(end("10.0.0.1:80").unwrap(), ("10.0.0.1".parse().unwrap(), Some(80)));
        assert_eq!(end("[fd00::1]:80").unwrap(), ("fd00::1".parse().unwrap(), Some(80)));
        assert_eq!(end("fd00::1").unwrap(), ("fd00::1".parse().unwrap(), None));
        assert!(end("web:80").unwrap_err().to_string().contains("found \"web:80\""));
    }

    #[test]
    fn a_drop_is_told_with_its_rule_and_the_nearest() {
        let drop = RecentDropView {
            last_seen_seconds_ago: 1.25,
            first_seen_seconds_ago: 300.0,
            packets: 412,
            interface: Some("cali1".into()),
            protocol: "tcp".into(),
            source: "10.0.0.1".parse().unwrap(),
            destination: "10.0.0.2".parse().unwrap(),
            source_port: Some(4000),
            destination_port: Some(80),
            icmp_type: None,
            icmp_code: None,
            reason: "policy_ingress".into(),
            description: "Denied by the receiver's ingress policy.".into(),
            generation: 7,
            decision: Some(DecisionView {
                endpoint: Some("WorkloadEndpoint shop/db".into()),
                list: "normal".into(),
                direction: "ingress".into(),
                verdict: "deny".into(),
                name: Some("Tier default: end of tier, ingress default deny".into()),
                tier: Some("default".into()),
                policy: None,
                rule: Some("end-of-tier".into()),
                position: None,
                nearest: Some(NearView {
                    rule: "NetworkPolicy shop/db ingress[0]".into(),
                    would_allow: true,
                    differences: Vec::new(),
                    sentence: "NetworkPolicy shop/db ingress[0] allows destination port 443; the packet has 80".into(),
                }),
            }),
        };
        let view = WhyView { drops: vec![drop], remembered: 1, not_kept: 3, generation: 9 };
        let expected = "\
1.2 s ago  DROP policy_ingress  tcp 10.0.0.1:4000 -> 10.0.0.2:80  in by cali1
  Denied by the receiver's ingress policy.
  ingress of WorkloadEndpoint shop/db: denied by Tier default: end of tier, ingress default deny in tier default
  almost: NetworkPolicy shop/db ingress[0] allows destination port 443; the packet has 80
  seen 412 times, first 5 min ago; generation 7; 9 is in force now
3 more dropped packets were counted and not kept one by one
";
        assert_eq!(outline(&view), expected);
    }
}
