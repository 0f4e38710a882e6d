//! bgp: the speaker's sessions and routes, the reasons, and what an operator can do about them.
//!
//! The words are those that people know from vtysh, birdc and gobgp; every answer is JSON too.

mod dump;
mod import_test;

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use config::net::Cidr;
use control::bgp::call::{BgpCall, PeerName};
use control::bgp::speaker::view::{NeighborView, PeerView, RouteView, SummaryView, Which, WhyView};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Format;
use super::error::CliError;
use super::render::{self, Table, harmless, mebibytes, optional};
use crate::client::Client;

#[derive(Debug, Args)]
pub struct BgpArguments {
    #[command(subcommand)]
    command: BgpCommand,
}

#[derive(Debug, Subcommand)]
enum BgpCommand {
    /// Every session in a line
    Summary,
    /// One session, or its routes
    #[command(visible_alias = "neighbour")]
    Neighbor {
        /// The peer's address
        peer: Peer,
        /// Routes before import rules, after them, those that were not taken, or those that it is told
        #[arg(value_enum)]
        routes: Option<Routes>,
        /// At most so many routes
        #[arg(long)]
        limit: Option<usize>,
    },
    /// The best routes, or the one that packets to an address take
    Route {
        /// `for` may stand before the address
        #[arg(value_name = "[for] ADDRESS", num_args = 0..=2)]
        words: Vec<String>,
        #[arg(long)]
        limit: Option<usize>,
    },
    /// Why a prefix goes where it goes, and who is told of it
    Why {
        #[arg(value_parser = prefix)]
        prefix: Cidr,
        /// `peer` may stand before the peer's address
        #[arg(value_name = "[peer] PEER", num_args = 0..=2)]
        words: Vec<String>,
    },
    /// What a BGPFilter would make of a route that a peer tells
    #[command(
        after_help = "Examples:\n  vrouter bgp import-test edge 10.9.0.0/24 --from-as 65001 --community 65001:7\n  vrouter bgp import-test edge fd00::/64 --internal"
    )]
    ImportTest(import_test::ImportTestArguments),
    /// Write the table, as every peer said it, to a file that tools for MRT read (RFC 6396)
    Dump {
        /// A new file
        file: PathBuf,
    },
    /// Judge what was received again, or tell everything again
    Reload {
        #[arg(value_enum)]
        direction: Direction,
        /// All peers when absent
        peer: Option<Peer>,
    },
    /// End a session until it is enabled
    Disable {
        peer: Peer,
        /// Said to the peer (RFC 9003)
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Let a session be made again
    Enable { peer: Peer },
    /// Print what happens to sessions, until interrupted
    Monitor,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Routes {
    Received,
    Accepted,
    Advertised,
    Filtered,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Direction {
    In,
    Out,
}

/// An address, with a port where several peers have the same.
#[derive(Debug, Clone, Copy)]
struct Peer(PeerName);

impl std::str::FromStr for Peer {
    type Err = String;

    fn from_str(text: &str) -> Result<Peer, String> {
        let parsed = config::resource::PeerAddress::parse(text);
        let parsed = parsed.ok_or_else(|| format!("expected {}", config::resource::PeerAddress::EXPECTED))?;
        Ok(Peer(PeerName { address: parsed.address, port: parsed.port }))
    }
}

fn prefix(text: &str) -> Result<Cidr, String> {
    Cidr::parse(text).map_err(|_| format!("expected {}", Cidr::EXPECTED))
}

pub fn run(client: &Client, format: Format, arguments: &BgpArguments) -> Result<(), CliError> {
    match &arguments.command {
        BgpCommand::Summary => show(client, format, &BgpCall::Summary, summary),
        BgpCommand::Neighbor { peer, routes: None, .. } => {
            show(client, format, &BgpCall::Neighbor { peer: peer.0 }, |view, _| neighbor(view))
        }
        BgpCommand::Neighbor { peer, routes: Some(which), limit } => {
            let which = match which {
                Routes::Received => Which::Received,
                Routes::Accepted => Which::Accepted,
                Routes::Advertised => Which::Advertised,
                Routes::Filtered => Which::Filtered,
            };
            let call = BgpCall::Routes { peer: peer.0, which, limit: *limit };
            show(client, format, &call, |views: &Vec<RouteView>, is_wide| routes(views, is_wide))
        }
        BgpCommand::Route { words, limit } => match address("for", words)? {
            None => {
                let call = BgpCall::Table { limit: *limit };
                show(client, format, &call, |views: &Vec<RouteView>, is_wide| routes(views, is_wide))
            }
            Some(address) => show(client, format, &BgpCall::For { address }, why),
        },
        BgpCommand::Why { prefix, words } => {
            let peer = address("peer", words)?;
            show(client, format, &BgpCall::Why { prefix: *prefix, peer }, why)
        }
        BgpCommand::ImportTest(arguments) => import_test::run(client, format, arguments),
        BgpCommand::Dump { file } => dump::run(client, format, file),
        BgpCommand::Reload { direction, peer } => {
            for peer in peers(client, *peer)? {
                order(
                    client,
                    match direction {
                        Direction::In => BgpCall::ReloadIn { peer },
                        Direction::Out => BgpCall::ReloadOut { peer },
                    },
                )?;
            }
            Ok(())
        }
        BgpCommand::Disable { peer, reason } => order(client, BgpCall::Disable { peer: peer.0, text: reason.clone() }),
        BgpCommand::Enable { peer } => order(client, BgpCall::Enable { peer: peer.0 }),
        BgpCommand::Monitor => monitor(client, format),
    }
}

/// One address among words, after one that may be left out.
fn address(word: &str, words: &[String]) -> Result<Option<IpAddr>, CliError> {
    let text = match words {
        [] => return Ok(None),
        [text] => text,
        [first, text] if first == word => text,
        [first, ..] => return Err(CliError::Usage(format!("found {first:?}, expected `{word}` and an address"))),
    };
    let parsed = text.parse().map_err(|_| CliError::Usage(format!("found {text:?}, expected an address")))?;
    Ok(Some(parsed))
}

fn ask<T: DeserializeOwned>(client: &Client, call: &BgpCall) -> Result<T, CliError> {
    Ok(client.post("/v1/bgp", call)?)
}

fn show<T: DeserializeOwned + Serialize>(
    client: &Client,
    format: Format,
    call: &BgpCall,
    text: impl FnOnce(&T, bool) -> String,
) -> Result<(), CliError> {
    let view: T = ask(client, call)?;
    let structured = render::structured(format, &view)?;
    render::print(&structured.unwrap_or_else(|| text(&view, format == Format::Wide)))
}

fn order(client: &Client, call: BgpCall) -> Result<(), CliError> {
    let _: bool = ask(client, &call)?;
    Ok(())
}

fn peers(client: &Client, only: Option<Peer>) -> Result<Vec<PeerName>, CliError> {
    if let Some(peer) = only {
        return Ok(vec![peer.0]);
    }
    let view: SummaryView = ask(client, &BgpCall::Summary)?;
    Ok(view.peers.iter().map(|peer| PeerName { address: peer.address, port: Some(peer.port) }).collect())
}

fn summary(view: &SummaryView, is_wide: bool) -> String {
    let mut text = match (view.router_id, view.as_number) {
        (Some(id), Some(number)) => {
            let cluster = view.cluster_id.map(|cluster| format!(", reflects as cluster {cluster}")).unwrap_or_default();
            let (prefixes, paths, memory) = (view.prefixes, view.paths, size(view.memory_bytes));
            format!("Router {id}, AS {number}{cluster}: {prefixes} prefixes, {paths} paths, about {memory}\n")
        }
        _ => {
            "This node does not speak BGP: it has nobody to speak to, or no Node resource with an address\n".to_owned()
        }
    };
    if view.is_deferred {
        text.push_str("Restarted: peers are told nothing before they have told everything\n");
    }
    if !view.peers.is_empty() {
        let narrow = ["PEER", "AS", "STATE", "SINCE", "RECEIVED", "ACCEPTED", "ADVERTISED"];
        let wide = ["LOCAL-AS", "ROUTER-ID", "TYPE", "STALE", "FLAPS", "BEHIND", "ORIGIN"];
        let headings = narrow.into_iter().chain(wide.into_iter().filter(|_| is_wide)).chain(["WHY"]);
        let mut table = Table::new(headings);
        for peer in &view.peers {
            let mut cells = vec![
                name(peer),
                peer.as_number.to_string(),
                peer.state.clone(),
                duration(peer.since_seconds),
                peer.received.to_string(),
                peer.accepted.to_string(),
                peer.advertised.to_string(),
            ];
            if is_wide {
                cells.extend([
                    peer.local_as.to_string(),
                    optional(peer.router_id),
                    peer.kind.words().to_owned(),
                    peer.stale.to_string(),
                    peer.flaps.to_string(),
                    (peer.behind + peer.catching_up as u64).to_string(),
                    peer.origin.clone(),
                ]);
            }
            cells.push(optional(peer.problem.as_ref()));
            table.row(cells);
        }
        text.push_str(&table.text());
    }
    if let Some(station) = &view.station {
        let state = match (station.is_connected, station.is_dumped) {
            (true, true) => "is told what peers say".to_owned(),
            (true, false) => "is being told what peers have said".to_owned(),
            (false, _) => format!("not connected: {}", harmless(station.problem.as_deref().unwrap_or("connecting"))),
        };
        let _ = writeln!(text, "BMP station {}: {state}", station.address);
    }
    for problem in &view.problems {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "! {}", harmless(problem));
    }
    text
}

fn name(peer: &PeerView) -> String {
    control::bgp::speaker_state::PeerKey { address: peer.address, port: peer.port }.to_string()
}

fn neighbor(view: &NeighborView) -> String {
    let peer = &view.peer;
    let mut text = String::new();
    let mut line = |label: &str, value: String| {
        if !value.is_empty() {
            let _ = writeln!(text, "{label:<22}{}", harmless(&value));
        }
    };
    let flag = |is_so: bool, word: &str| if is_so { word.to_owned() } else { String::new() };
    line("Peer:", format!("{} ({})", name(peer), peer.origin));
    line("State:", format!("{} for {}", peer.state, duration(peer.since_seconds)));
    line("Why not up:", optional(peer.problem.as_ref()));
    line("AS:", format!("{}, ours {}", peer.as_number, peer.local_as));
    line("Router id:", optional(peer.router_id));
    line(
        "Connection:",
        view.local.as_ref().zip(view.remote.as_ref()).map(|(l, r)| format!("{l} -> {r}")).unwrap_or_default(),
    );
    line(
        "Hold, keepalive:",
        view.hold_seconds.zip(view.keepalive_seconds).map(|(h, k)| format!("{h} s, {k} s")).unwrap_or_default(),
    );
    line("Capabilities:", view.capabilities.join(", "));
    line("Graceful restart:", view.graceful.join(", "));
    line("Route reflector:", flag(view.is_client, "the peer is our client"));
    line("Next hop:", view.next_hop.clone());
    line("Role:", optional(view.role.as_ref()));
    line("TTL security:", view.ttl_security.map(|hops| format!("at most {hops} hops")).unwrap_or_default());
    line("Password:", flag(view.has_password, "TCP-MD5"));
    line("Passive:", flag(view.is_passive, "we wait for the peer"));
    line("BFD:", view.is_bfd_up.map(|is_up| if is_up { "up" } else { "down" }.to_owned()).unwrap_or_default());
    line("Prefixes at most:", view.max_prefixes.to_string());
    let (sent, received) = (peer.messages_sent, peer.messages_received);
    line(
        "Messages sent:",
        format!("{} updates, {} keepalives, {} refreshes", sent.updates, sent.keepalives, sent.refreshes),
    );
    line(
        "Messages received:",
        format!("{} updates, {} keepalives, {} refreshes", received.updates, received.keepalives, received.refreshes),
    );
    line(
        "Malformed:",
        flag(
            peer.discarded_attributes + peer.withdrawn_by_error > 0,
            &format!(
                "{} attributes discarded, {} taken as withdrawn",
                peer.discarded_attributes, peer.withdrawn_by_error
            ),
        ),
    );
    line("No room for:", flag(view.no_room > 0, &format!("{} routes", view.no_room)));
    line("Last fault:", optional(view.last_fault.as_ref()));
    for (label, incident) in [
        ("Last error sent:", &view.last_sent),
        ("Last error received:", &view.last_received),
        ("Last loss:", &view.last_loss),
    ] {
        line(
            label,
            incident.as_ref().map(|i| format!("{} ago: {}", duration(i.seconds_ago), i.text)).unwrap_or_default(),
        );
    }
    let mut table = Table::new(["FAMILY", "RECEIVED", "ACCEPTED", "REJECTED", "STALE", "ADVERTISED"]);
    for family in &view.per_family {
        table.row([
            family.family.clone(),
            family.received.to_string(),
            family.accepted.to_string(),
            family.rejected.to_string(),
            family.stale.to_string(),
            family.advertised.to_string(),
        ]);
    }
    text + &table.text()
}

fn routes(views: &[RouteView], is_wide: bool) -> String {
    let narrow = ["PREFIX", "NEXT-HOP", "FROM", "LOCAL-PREF", "MED", "AS-PATH", "BEST"];
    let wide = ["METRIC", "ORIGIN", "PATH-ID", "COMMUNITIES", "ORIGINATOR", "CLUSTERS"];
    let headings = narrow.into_iter().chain(wide.into_iter().filter(|_| is_wide)).chain(["WHY-NOT"]);
    let mut table = Table::new(headings);
    for view in views {
        let mut cells = vec![
            view.prefix.to_string(),
            view.next_hop.to_string(),
            view.from.map_or_else(|| optional(view.local.as_ref()), |from| from.to_string()),
            optional(view.local_pref),
            optional(view.med),
            view.as_path.clone(),
            if view.is_best {
                "*"
            } else if view.is_multipath {
                "="
            } else {
                ""
            }
            .to_owned(),
        ];
        if is_wide {
            let clusters: Vec<String> = view.cluster_list.iter().map(ToString::to_string).collect();
            cells.extend([
                optional(view.metric),
                view.origin.clone(),
                view.path_id.to_string(),
                view.communities.join(" "),
                optional(view.originator_id),
                clusters.join(" "),
            ]);
        }
        cells.push(optional(view.reason.as_ref()));
        table.row(cells);
    }
    table.text()
}

fn why(view: &WhyView, is_wide: bool) -> String {
    let mut text = format!("{}\n\n{}", view.prefix, routes(&view.paths, is_wide));
    let list = |hops: &[IpAddr]| hops.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if !view.next_hops.is_empty() {
        let backup =
            if view.backup.is_empty() { String::new() } else { format!("; next best: {}", list(&view.backup)) };
        let _ = writeln!(text, "\nPackets go to {}{backup}", list(&view.next_hops));
    }
    if !view.told.is_empty() {
        let mut table = Table::new(["TOLD-TO", "NEXT-HOP", "LOCAL-PREF", "AS-PATH", "WHY-NOT"]);
        for told in &view.told {
            let route = told.route.as_ref();
            table.row([
                told.peer.to_string(),
                optional(route.map(|route| route.next_hop)),
                optional(route.and_then(|route| route.local_pref)),
                optional(route.map(|route| &route.as_path)),
                optional(told.reason.as_ref()),
            ]);
        }
        let _ = write!(text, "\n{}", table.text());
    }
    text
}

fn monitor(client: &Client, format: Format) -> Result<(), CliError> {
    let mut after = None;
    loop {
        let news: control::bgp::speaker::view::NewsView = ask(client, &BgpCall::News { after })?;
        for event in &news.events {
            render::print(&match format {
                Format::Json | Format::Yaml => serde_json::to_string(event).unwrap_or_default() + "\n",
                Format::Ps | Format::Wide => format!("{}\n", harmless(&event.text)),
            })?;
        }
        after = Some(news.next);
        std::thread::sleep(Duration::from_millis(500));
    }
}

fn size(octets: usize) -> String {
    match octets {
        0..1_048_576 => format!("{} KiB", octets.div_ceil(1024)),
        _ => mebibytes(octets as u64),
    }
}

/// As people say it: `3d04h`, `2h05m`, `7m20s`, `12s`.
fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{:02}s", seconds % 60),
        (0, _, _) => format!("{hours}h{minutes:02}m"),
        _ => format!("{days}d{hours:02}h"),
    }
}
