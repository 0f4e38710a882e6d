//! node: calicoctl's `node status`, in its own table.
//!
//! Sources: the text of calicoctl 3.29, which scripts read.

use clap::{Args, Subcommand};
use control::bgp::call::BgpCall;
use control::bgp::speaker::view::{PeerView, SummaryView};
use control::datastore::transaction::time_text;

use super::Format;
use super::error::CliError;
use super::render::{self, harmless};
use crate::client::{Client, ClientError};

#[derive(Debug, Args)]
pub struct NodeArguments {
    #[command(subcommand)]
    command: NodeCommand,
}

#[derive(Debug, Subcommand)]
enum NodeCommand {
    /// The BGP peers of this node, in calicoctl's table
    Status,
}

pub fn run(client: &Client, format: Format, arguments: &NodeArguments) -> Result<(), CliError> {
    let NodeCommand::Status = arguments.command;
    let view: SummaryView = match client.post("/v1/bgp", &BgpCall::Summary) {
        // calicoctl says it so, and so it is looked for.
        Err(ClientError::Unreachable { .. }) if format == Format::Ps => {
            return render::print("Calico process is not running.\n");
        }
        result => result?,
    };
    if let Some(text) = render::structured(format, &view)? {
        return render::print(&text);
    }
    let family = |is_ipv4: bool| -> Vec<&PeerView> {
        view.peers.iter().filter(|peer| peer.address.is_ipv4() == is_ipv4).collect()
    };
    let ipv4 = table("IPv4", &family(true));
    let ipv6 = table("IPv6", &family(false));
    render::print(&format!("Calico process is running.\n\n{ipv4}\n{ipv6}\n"))
}

fn table(family: &str, peers: &[&PeerView]) -> String {
    if peers.is_empty() {
        return format!("{family} BGP status\nNo {family} peers found.\n");
    }
    let headings = ["PEER ADDRESS", "PEER TYPE", "STATE", "SINCE", "INFO"];
    let rows: Vec<Vec<String>> = peers.iter().map(|peer| row(peer).into()).collect();
    format!("{family} BGP status\n{}", render::framed(&headings, &rows))
}

fn row(peer: &PeerView) -> [String; 5] {
    // BIRD's words for its protocols.
    let state = match (peer.state.as_str(), peer.is_disabled) {
        ("Established", _) => "up",
        (_, true) => "down",
        (_, false) => "start",
    };
    let info = info(&peer.state, peer.problem.as_deref(), peer.is_disabled);
    let cells = [peer.address.to_string(), peer.kind.words().to_owned(), state.to_owned(), since(peer), info];
    cells.map(|cell| harmless(&cell))
}

/// The state of the session and what went wrong last, by classes, as BIRD has it: `Active Socket: Connection refused`.
fn info(state: &str, problem: Option<&str>, is_disabled: bool) -> String {
    let Some(problem) = problem.filter(|_| state != "Established") else { return state.to_owned() };
    let problem = problem.strip_prefix("waits after an error: ").unwrap_or(problem);
    let classes = [
        ("connect: ", "Socket: "),
        ("connection closed: ", "Socket: "),
        ("the peer sent ", "Received: "),
        ("we sent ", "BGP Error: "),
        ("waits: ", "Error: "),
        ("waits to be enabled by hand: ", "Error: "),
    ];
    let class = classes.into_iter().find_map(|(ours, class)| Some((class, problem.strip_prefix(ours)?)));
    match class {
        // The number of an error of the system is nothing that BIRD prints.
        Some((class, text)) => format!("{state} {class}{}", text.split(" (os error").next().unwrap_or(text)),
        None if is_disabled => problem.to_owned(),
        // What is waited for goes without saying.
        None => state.to_owned(),
    }
}

/// The time of day it began, or the day when that was not today; UTC, as in the containers that people know.
fn since(peer: &PeerView) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
    let then = now.saturating_sub(peer.since_seconds);
    let text = time_text(then);
    let (day, time) = text.split_once('T').unwrap_or((&text, ""));
    if now / 86_400 == then / 86_400 { time.trim_end_matches('Z').to_owned() } else { day.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_wrong_stands_behind_the_state() {
        let check = |state: &str, problem: Option<&str>, expected: &str| {
            assert_eq!(info(state, problem, false), expected);
        };
        check("Established", None, "Established");
        check("Active", Some("connect: Connection refused (os error 111)"), "Active Socket: Connection refused");
        check("Connect", Some("connect: No route to host (os error 113)"), "Connect Socket: No route to host");
        check("Connect", Some("connects"), "Connect");
        check("OpenSent", Some("waits for the peer's OPEN"), "OpenSent");
        check("Active", Some("waits for the peer to connect"), "Active");
        check("Active", Some("connection closed: closed by the peer"), "Active Socket: closed by the peer");
        check("Idle", Some("waits after an error: the peer sent Cease (6/2)"), "Idle Received: Cease (6/2)");
        check("Active", Some("we sent Hold Timer Expired (4/0)"), "Active BGP Error: Hold Timer Expired (4/0)");
        check(
            "Idle",
            Some("waits: secret bgp, key rack is not there"),
            "Idle Error: secret bgp, key rack is not there",
        );
        assert_eq!(info("Idle", Some("stopped: Cease (6/2)"), true), "stopped: Cease (6/2)");
    }
}
