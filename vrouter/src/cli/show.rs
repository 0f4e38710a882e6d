//! show: the daemon's views as tables.
//!
//! Each view has one function from its structs to a table; `wide` adds columns at the end.

use std::net::IpAddr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use control::http::views::{
    CopyMode, DropView, FlowView, HostEndpointView, InterfaceView, MemoryView, NeighbourView, PollMode,
    PreparationView, QueueView, RouteView, StatusView, WorkerView, XdpMode,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Format;
use super::error::CliError;
use super::render::{self, Table, harmless, mebibytes, optional};
use crate::client::{Client, encode};

#[derive(Debug, Args)]
pub struct ShowArguments {
    #[arg(value_enum, ignore_case = true)]
    what: What,

    /// Only what belongs to this interface
    #[arg(long, short)]
    interface: Option<String>,

    /// Only this worker
    #[arg(long)]
    worker: Option<u16>,

    /// Flows with this address, the route to it, the neighbour that has it
    #[arg(long)]
    address: Option<IpAddr>,

    /// At most so many entries
    #[arg(long)]
    limit: Option<usize>,

    /// Show again every so many seconds
    #[arg(long, short, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2",
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    watch: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// Attachments, their queues and counters
    #[value(aliases = ["interface", "int", "if"])]
    Interfaces,
    /// Where packets go
    #[value(aliases = ["route", "fib"])]
    Routes,
    /// L2 peers
    #[value(aliases = ["neighbour", "neighbors", "neighbor", "neigh", "arp"])]
    Neighbours,
    /// Tracked connections
    #[value(aliases = ["flow", "conntrack", "ct"])]
    Flows,
    /// Packet loops and what they cost
    #[value(aliases = ["worker"])]
    Workers,
    /// Why packets were dropped
    #[value(aliases = ["drop", "errors"])]
    Drops,
    /// Host endpoints of this node, with the policies in each list
    #[value(aliases = ["hostendpoints", "host-endpoint", "hostendpoint", "hep", "heps"])]
    HostEndpoints,
    /// What of the machine's memory is used for what
    #[value(aliases = ["mem"])]
    Memory,
    /// Is all well
    Status,
}

pub fn show(client: &Client, format: Format, arguments: &ShowArguments) -> Result<(), CliError> {
    loop {
        once(client, format, arguments)?;
        let Some(seconds) = arguments.watch else {
            return Ok(());
        };
        std::thread::sleep(Duration::from_secs(seconds));
        // JSON documents are told apart by their lines, YAML's by its own mark.
        match format {
            Format::Json => {}
            Format::Yaml => render::print("---\n")?,
            Format::Ps | Format::Wide => render::print("\n")?,
        }
    }
}

fn once(client: &Client, format: Format, arguments: &ShowArguments) -> Result<(), CliError> {
    let query = query(arguments);
    let how = (format, arguments.watch.is_some());
    match arguments.what {
        What::Interfaces => table(client, how, &format!("interfaces{query}"), interfaces),
        What::Routes => table(client, how, &format!("routes{query}"), routes),
        What::Neighbours => table(client, how, &format!("neighbours{query}"), neighbours),
        What::Flows => table(client, how, &format!("flows{query}"), flows),
        What::Workers => table(client, how, &format!("workers{query}"), workers),
        What::Drops => table(client, how, &format!("drops{query}"), drops),
        What::HostEndpoints => table(client, how, &format!("host-endpoints{query}"), host_endpoints),
        What::Memory => table(client, how, &format!("memory{query}"), memory),
        What::Status => {
            let view: StatusView = client.get("/v1/show/status")?;
            let text = structured(format, &view, arguments.watch.is_some())?;
            render::print(&text.unwrap_or_else(|| status(&view)))
        }
    }
}

fn query(arguments: &ShowArguments) -> String {
    let filters = [
        arguments.interface.as_deref().map(|name| format!("interface={}", encode(name))),
        arguments.worker.map(|worker| format!("worker={worker}")),
        arguments.address.map(|address| format!("address={}", encode(&address.to_string()))),
        arguments.limit.map(|limit| format!("limit={limit}")),
    ];
    let filters: Vec<String> = filters.into_iter().flatten().collect();
    match filters.is_empty() {
        true => String::new(),
        false => format!("?{}", filters.join("&")),
    }
}

/// As `render::structured`; when it is shown again and again, each JSON document is one line.
fn structured(format: Format, value: &impl Serialize, is_watch: bool) -> Result<Option<String>, CliError> {
    match (format, is_watch) {
        (Format::Json, true) => render::json_line(value).map(Some),
        _ => render::structured(format, value),
    }
}

fn table<T: Serialize + DeserializeOwned>(
    client: &Client,
    (format, is_watch): (Format, bool),
    path: &str,
    table: fn(&[T], bool) -> Table,
) -> Result<(), CliError> {
    let views: Vec<T> = client.get(&format!("/v1/show/{path}"))?;
    let text = structured(format, &views, is_watch)?;
    render::print(&text.unwrap_or_else(|| table(&views, format == Format::Wide).text()))
}

pub fn interfaces(views: &[InterfaceView], is_wide: bool) -> Table {
    let narrow = ["NAME", "KIND", "ENDPOINT", "STATE", "MTU", "QUEUES", "RX", "TX", "DROPS"];
    let wide = ["INDEX", "MAC", "RX-BYTES", "TX-BYTES", "PREPARED"];
    let mut table = Table::new(headings(&narrow, &wide, is_wide));
    for view in views {
        let state = if view.is_up { "up" } else { "down" };
        let narrow = [
            view.name.clone(),
            word(&view.kind),
            optional(view.endpoint.as_ref()),
            state.to_string(),
            view.mtu.to_string(),
            queues(&view.queues),
            view.rx_packets.to_string(),
            view.tx_packets.to_string(),
            view.drops.to_string(),
        ];
        let wide = [
            view.index.to_string(),
            optional(view.mac.as_ref()),
            view.rx_bytes.to_string(),
            view.tx_bytes.to_string(),
            prepared(&view.prepared),
        ];
        table.row(cells(narrow, wide, is_wide));
    }
    table
}

pub fn memory(views: &[MemoryView], is_wide: bool) -> Table {
    let mut table = Table::new(headings(&["PART", "RESIDENT", "ALLOCATED"], &["MEANING"], is_wide));
    for view in views {
        let narrow = [view.part.clone(), mebibytes(view.resident_bytes), optional(view.allocated_bytes.map(mebibytes))];
        table.row(cells(narrow, [view.description.clone()], is_wide));
    }
    table
}

/// `tso,gro,!thread`: what was done, and after an exclamation mark what could not be.
fn prepared(steps: &[PreparationView]) -> String {
    let word = |step: &PreparationView| format!("{}{}", if step.failure.is_some() { "!" } else { "" }, step.step);
    match steps {
        [] => "-".to_owned(),
        _ => steps.iter().map(word).collect::<Vec<_>>().join(","),
    }
}

/// `0:w1 native copy` for each queue; the mode once when it is the same for all.
fn queues(queues: &[QueueView]) -> String {
    let mode = |queue: &QueueView| {
        let xdp = match queue.xdp {
            XdpMode::Native => "native",
            XdpMode::Generic => "generic",
        };
        let copy = match queue.copy {
            CopyMode::Copy => "copy",
            CopyMode::ZeroCopy => "zero-copy",
        };
        let polled = if queue.busy_poll { " polled" } else { "" };
        format!("{xdp} {copy}{polled}")
    };
    let Some(first) = queues.first().map(mode) else {
        return String::new();
    };
    let place = |queue: &QueueView| format!("{}:w{}", queue.queue, queue.worker);
    if queues.iter().all(|queue| mode(queue) == first) {
        let places: Vec<String> = queues.iter().map(place).collect();
        return format!("{} {first}", places.join(","));
    }
    let all: Vec<String> = queues.iter().map(|queue| format!("{} {}", place(queue), mode(queue))).collect();
    all.join(", ")
}

fn routes(views: &[RouteView], _is_wide: bool) -> Table {
    let mut table = Table::new(["PREFIX", "KIND", "NEXT-HOP", "INTERFACE", "ADJACENCY", "MAC"]);
    for view in views {
        table.row([
            view.prefix.clone(),
            word(&view.kind),
            optional(view.next_hop),
            optional(view.interface.as_ref()),
            view.adjacency.as_ref().map(word).unwrap_or_default(),
            optional(view.mac.as_ref()),
        ]);
    }
    table
}

fn neighbours(views: &[NeighbourView], _is_wide: bool) -> Table {
    let mut table = Table::new(["ADDRESS", "MAC", "INTERFACE", "STATE", "SOURCE"]);
    for view in views {
        table.row([
            view.ip.to_string(),
            optional(view.mac.as_ref()),
            view.interface.clone(),
            word(&view.state),
            word(&view.source),
        ]);
    }
    table
}

pub fn flows(views: &[FlowView], is_wide: bool) -> Table {
    let narrow = ["PROTOCOL", "SOURCE", "DESTINATION", "STATE", "AGE", "IDLE", "PACKETS", "REPLIES", "RULE"];
    let wide = ["BYTES", "REPLY-BYTES", "FROM", "TO", "WORKER", "OUTSIDE"];
    let mut table = Table::new(headings(&narrow, &wide, is_wide));
    for view in views {
        let end = |address: IpAddr, port: Option<u16>| match (address, port) {
            (address, None) => address.to_string(),
            (IpAddr::V6(address), Some(port)) => format!("[{address}]:{port}"),
            (address, Some(port)) => format!("{address}:{port}"),
        };
        let protocol = match view.icmp_id {
            Some(id) => format!("{} id {id}", view.protocol),
            None => view.protocol.clone(),
        };
        let narrow = [
            protocol,
            end(view.source, view.source_port),
            end(view.destination, view.destination_port),
            view.state.clone(),
            format!("{}s", view.age_seconds),
            format!("{}s", view.idle_seconds),
            view.forward_packets.to_string(),
            view.reply_packets.to_string(),
            optional(view.rule.as_ref()),
        ];
        let wide = [
            view.forward_bytes.to_string(),
            view.reply_bytes.to_string(),
            optional(view.ingress_interface.as_ref()),
            optional(view.egress_interface.as_ref()),
            view.worker.to_string(),
            optional(view.outside.map(|outside| end(outside.address, Some(outside.port))).as_ref()),
        ];
        table.row(cells(narrow, wide, is_wide));
    }
    table
}

fn workers(views: &[WorkerView], is_wide: bool) -> Table {
    let narrow = [
        "WORKER",
        "CORE",
        "POLL",
        "BUSY",
        "PACKETS",
        "SENT",
        "ANSWERED",
        "PUNTED",
        "DROPPED",
        "HANDED-OFF",
        "UNACCOUNTED",
        "FLOWS",
    ];
    let wide = [
        "BREATHS",
        "BURSTS",
        "BURST-SIZE",
        "P50-US",
        "P99-US",
        "P999-US",
        "FRAMES",
        "FRAMES-FREE",
        "FLOWS-LIMIT",
        "INTERFACES",
        "PACKETS/S",
    ];
    let mut table = Table::new(headings(&narrow, &wide, is_wide));
    for view in views {
        let poll = match view.poll {
            PollMode::Sleep => "sleep",
            PollMode::Always => "always",
        };
        let narrow = [
            view.index.to_string(),
            optional(view.core),
            poll.to_string(),
            format!("{:.0}%", view.busy_ratio * 100.0),
            view.packets_in.to_string(),
            view.sent.to_string(),
            view.answered.to_string(),
            view.punted.to_string(),
            view.dropped.to_string(),
            view.handed_off.to_string(),
            view.unaccounted.to_string(),
            view.flows.to_string(),
        ];
        let wide = [
            view.breaths.to_string(),
            view.bursts.to_string(),
            format!("{:.1}", view.burst_size_average),
            format!("{:.1}", view.breath_microseconds_p50),
            format!("{:.1}", view.breath_microseconds_p99),
            format!("{:.1}", view.breath_microseconds_p999),
            view.frames_total.to_string(),
            view.frames_free.to_string(),
            view.flows_limit.to_string(),
            view.interfaces.to_string(),
            format!("{:.0}", view.packets_per_second),
        ];
        table.row(cells(narrow, wide, is_wide));
    }
    table
}

pub fn drops(views: &[DropView], _is_wide: bool) -> Table {
    let mut table = Table::new(["INTERFACE", "REASON", "PACKETS", "LAST-SEEN", "RULE", "MEANING"]);
    for view in views {
        table.row([
            optional(view.interface.as_ref()),
            view.reason.clone(),
            view.packets.to_string(),
            view.last_seen_seconds_ago.map(|seconds| format!("{seconds}s ago")).unwrap_or_default(),
            optional(view.rule.as_ref()),
            view.description.clone(),
        ]);
    }
    table
}

/// A line for each list; what is wrong with an endpoint stands in their place when it has none.
fn host_endpoints(views: &[HostEndpointView], is_wide: bool) -> Table {
    let narrow = ["NAME", "INTERFACE", "GUARDED", "EXPECTED-IPS", "LIST", "DIRECTION", "POLICIES"];
    let wide = ["FAILSAFE-IN", "FAILSAFE-OUT", "PROBLEMS"];
    let mut table = Table::new(headings(&narrow, &wide, is_wide));
    for view in views {
        let guarded = view.interfaces.iter().filter(|interface| interface.is_guarded).count();
        let guarded = match view.interfaces.len() {
            0 => "no interface",
            all if guarded == all => "yes",
            _ if guarded == 0 => "no",
            _ => "not all",
        };
        let names: Vec<&str> = view.interfaces.iter().map(|interface| interface.name.as_str()).collect();
        let interface = match (view.interface.as_deref(), names.as_slice()) {
            (Some(asked), []) => asked.to_owned(),
            (Some("*"), names) => format!("* ({})", names.join(",")),
            (_, names) => names.join(","),
        };
        let of = |list: [String; 3]| {
            let [list, direction, policies] = list;
            // What is only forwarded has none; what is wrong is told once.
            let is_open = |ports: &[String]| if list == "forward" { String::new() } else { ports.join(",") };
            let failsafes = [is_open(&view.failsafe_inbound), is_open(&view.failsafe_outbound)];
            let problems = if view.lists.is_empty() { String::new() } else { view.problems.join("; ") };
            let [inbound, outbound] = failsafes;
            let expected: Vec<String> = view.expected_ips.iter().map(ToString::to_string).collect();
            let narrow =
                [view.name.clone(), interface.clone(), guarded.into(), expected.join(","), list, direction, policies];
            let wide = [inbound, outbound, problems];
            cells(narrow, wide, is_wide).collect::<Vec<_>>()
        };
        if view.lists.is_empty() {
            table.row(of(["none".into(), String::new(), view.problems.join("; ")]));
        }
        for list in &view.lists {
            let policies = list.policies.iter().chain(&list.profiles).cloned().collect::<Vec<_>>().join(", ");
            let policies = if policies.is_empty() { "none: all is denied".to_owned() } else { policies };
            table.row(of([list.list.clone(), list.direction.clone(), policies]));
        }
    }
    table
}

fn status(view: &StatusView) -> String {
    let verdict = match view.is_ready {
        true => "ready".to_string(),
        false => format!("NOT READY, {} problem(s)", view.problems.len()),
    };
    let datastore = &view.datastore;
    let sync = match (&datastore.error, datastore.in_sync) {
        (Some(error), _) => format!("error: {error}"),
        (None, true) => "in sync".to_string(),
        (None, false) => "not in sync yet".to_string(),
    };
    let lines = [
        ("Status", verdict),
        ("Node", view.node.clone()),
        ("Version", view.version.clone()),
        ("Uptime", format!("{}s", view.uptime_seconds)),
        (
            "Datastore",
            format!("{}, {sync}, {} objects, revision {}", datastore.location, datastore.objects, datastore.revision),
        ),
        ("Tables", format!("generation {}, {} routes, {} policies", view.generation, view.routes, view.policies)),
        ("Attached", format!("{} endpoints, {} interfaces, {} workers", view.endpoints, view.interfaces, view.workers)),
        ("Flows", view.flows.to_string()),
        (
            "Packets",
            format!(
                "{} in, {} sent, {} dropped, {} unaccounted",
                view.packets_in, view.sent, view.dropped, view.unaccounted
            ),
        ),
    ];
    let mut text = String::new();
    for (title, value) in lines {
        text.push_str(&format!("{title:<11}{}\n", harmless(&value)));
        if title == "Status" {
            view.problems.iter().for_each(|problem| text.push_str(&format!("  - {}\n", harmless(problem))));
        }
    }
    text
}

/// An enum of the views as the word its JSON has.
fn word(value: &impl Serialize) -> String {
    serde_json::to_value(value).map(|value| render::cell(&value)).unwrap_or_default()
}

fn headings<'a>(
    narrow: &'a [&'static str],
    wide: &'a [&'static str],
    is_wide: bool,
) -> impl Iterator<Item = &'static str> + 'a {
    narrow.iter().chain(wide.iter().filter(move |_| is_wide)).copied()
}

fn cells<const N: usize, const M: usize>(
    narrow: [String; N],
    wide: [String; M],
    is_wide: bool,
) -> impl Iterator<Item = String> {
    narrow.into_iter().chain(wide.into_iter().filter(move |_| is_wide))
}
