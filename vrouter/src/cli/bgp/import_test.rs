//! bgp import-test: what a stored BGPFilter makes of a route that a peer might tell.
//!
//! The filter is the one in the datastore, and it is judged by the code that the speaker judges with. Nothing is sent to a peer.
//!
//! Left out: which filters a peer names, and their order. One filter is asked, and the answer says when it leaves the route to
//! the next.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use clap::Args;
use config::net::Cidr;
use config::resource::{BgpFilter, Community, Key, Kind, Resource};
use control::bgp::attribute::{AsPath, Attributes};
use control::bgp::rules::filter::{self, Asked, Direction};
use control::bgp::rules::{Candidate, Source, explain};
use control::http::api::ErrorCode;
use control::http::views::GetReply;
use serde::Serialize;

use super::super::Format;
use super::super::error::CliError;
use super::super::get;
use super::super::render::{self, harmless};
use crate::client::Client;

#[derive(Debug, Args)]
pub struct ImportTestArguments {
    /// The name of a BGPFilter
    filter: String,

    #[arg(value_parser = super::prefix)]
    prefix: Cidr,

    /// The AS path that the route comes with, the nearest first
    #[arg(long, value_name = "NUMBER", value_delimiter = ',')]
    from_as: Vec<u32>,

    /// A community of the route, such as 65000:100 or 65000:1:2
    #[arg(long = "community", value_name = "COMMUNITY", value_delimiter = ',', value_parser = community)]
    communities: Vec<Community>,

    /// The local preference that the route comes with
    #[arg(long, value_name = "NUMBER")]
    local_pref: Option<u32>,

    /// The peer is in the node's own system
    #[arg(long)]
    internal: bool,
}

/// What became of the route.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct ImportTestView {
    filter: String,
    prefix: Cidr,
    verdict: Verdict,
    /// The rule that matched: `importV4[2]`, with the filter's name.
    rule: Option<String>,
    /// What that rule changes about the route.
    changes: Vec<String>,
    /// A line for each rule: why it does not match, or that it does.
    explanation: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Verdict {
    Accept,
    Reject,
    /// No rule matches: the peer's next filter decides, and after the last the route is accepted.
    NoMatch,
}

fn community(text: &str) -> Result<Community, String> {
    Community::parse(text).ok_or_else(|| format!("expected {}", Community::EXPECTED))
}

pub fn run(client: &Client, format: Format, arguments: &ImportTestArguments) -> Result<(), CliError> {
    let filter = stored(client, &arguments.filter)?;
    let view = judge(&filter, arguments);
    let structured = render::structured(format, &view)?;
    render::print(&structured.unwrap_or_else(|| text(&view)))
}

/// The filter as the daemon has it.
fn stored(client: &Client, name: &str) -> Result<BgpFilter, CliError> {
    let reply: GetReply = client.get(&get::path(&Key::cluster(Kind::BgpFilter, name)))?;
    let read = reply.items.first().map(Resource::from_json);
    match read {
        Some(Ok(Resource::BgpFilter(filter))) => Ok(filter),
        _ => {
            let message = format!("the daemon's BGPFilter {name} is not understood; is it of the same version?");
            Err(CliError::refused(ErrorCode::NotUnderstood, message))
        }
    }
}

fn judge(filter: &BgpFilter, arguments: &ImportTestArguments) -> ImportTestView {
    let prefix = arguments.prefix.masked();
    let attributes = attributes(arguments);
    let source = Source::Peer { internal: arguments.internal };
    let candidate = Candidate { prefix, attributes: &attributes, source };
    let asked = Asked::of(&candidate, arguments.internal);
    let mut rules = filter::rules_of(filter, Direction::Import, prefix.version());
    let matching = rules.find(|rule| rule.matches(&asked));
    ImportTestView {
        filter: filter.metadata.name.clone(),
        prefix,
        verdict: match &matching {
            None => Verdict::NoMatch,
            Some(rule) if rule.accepts => Verdict::Accept,
            Some(_) => Verdict::Reject,
        },
        rule: matching.as_ref().map(|rule| rule.name.to_string()),
        changes: matching.iter().flat_map(|rule| rule.operations.iter()).map(ToString::to_string).collect(),
        explanation: explain::explain(filter, Direction::Import, &candidate, arguments.internal),
    }
}

/// Of a route with nothing special but what was said. No rule looks at its next hop.
fn attributes(arguments: &ImportTestArguments) -> Attributes {
    let next_hop: IpAddr = match arguments.prefix.is_ipv4() {
        true => Ipv4Addr::UNSPECIFIED.into(),
        false => Ipv6Addr::UNSPECIFIED.into(),
    };
    let mut attributes = Attributes {
        as_path: AsPath::sequence(arguments.from_as.clone()),
        local_pref: arguments.local_pref,
        ..Attributes::local(next_hop)
    };
    arguments.communities.iter().for_each(|community| filter::add_community(&mut attributes, *community));
    attributes
}

fn text(view: &ImportTestView) -> String {
    let verdict = match view.verdict {
        Verdict::Accept => "accepted",
        Verdict::Reject => "rejected",
        Verdict::NoMatch => "no rule matches",
    };
    let mut text = format!("{}: {verdict}\n", view.prefix);
    for line in &view.explanation {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {}", harmless(line));
    }
    text
}
