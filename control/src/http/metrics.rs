//! The views as Prometheus text, version 0.0.4.
//!
//! Names start with `vrouter_`, base units are in the name, counters end in `_total`. Labels come
//! from closed sets, from the interfaces of this node, from IPPools, or from its BGP peers, of which `PEERS_MAX` have
//! series of their own and the rest is summed; so the number of series is bounded, whatever traffic is.
//!
//! Left out: endpoint, policy and rule labels. They would name workloads to whoever may scrape, and
//! grow without bound.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};

use super::views::{CopyMode, DhcpView, DropView, InterfaceView, StatusView, WorkerView, XdpMode};
use crate::bgp::speaker::view::{MessagesView, PeerView, SummaryView};
use crate::bgp::speaker_state::PeerKey;
use crate::ipam::call::{CountsView, PoolsView};

pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// BGP peers with series of their own, the first by address.
pub const PEERS_MAX: usize = 1000;
/// IPPools with series of their own, the first by name.
const POOLS_MAX: usize = 1000;
/// The label of all others together.
const OTHER_PEERS: &str = "other";
/// The state of a session that is up.
const ESTABLISHED: &str = "Established";

/// What a scrape shows.
#[derive(Debug, Clone, PartialEq)]
pub struct Views {
    pub status: StatusView,
    pub interfaces: Vec<InterfaceView>,
    pub workers: Vec<WorkerView>,
    pub drops: Vec<DropView>,
    pub bgp: SummaryView,
    pub addresses: PoolsView,
}

pub fn metrics(views: &Views) -> String {
    let mut page = Page::default();
    status(&mut page, &views.status);
    interfaces(&mut page, &views.interfaces);
    drops(&mut page, &views.drops);
    workers(&mut page, &views.workers);
    bgp(&mut page, &views.bgp);
    addresses(&mut page, &views.addresses);
    if let Some(view) = &views.status.dhcp {
        dhcp(&mut page, view);
    }
    page.text
}

fn status(page: &mut Page, status: &StatusView) {
    let gauges: [(&str, &str, u64); 9] = [
        ("ready", "1 when the router does what it was asked to", status.is_ready.into()),
        ("uptime_seconds", "Time since start", status.uptime_seconds),
        ("datastore_in_sync", "1 when all of the datastore was seen", status.datastore.in_sync.into()),
        ("datastore_objects", "Objects in the datastore", status.datastore.objects),
        ("datastore_revision", "Revision that was acted on", status.datastore.revision),
        ("generation", "Table sets published to the workers", status.generation),
        ("endpoints", "Endpoints on this node", status.endpoints),
        ("policies", "Policies that apply on this node", status.policies),
        ("routes", "Routes in the tables", status.routes),
    ];
    let labels = [("version", status.version.as_str()), ("node", status.node.as_str())];
    page.family("build_info", "gauge", "Which program runs where");
    page.sample("build_info", &labels, 1);
    for (name, help, value) in gauges {
        page.family(name, "gauge", help);
        page.sample(name, &[], value);
    }
}

fn interfaces(page: &mut Page, interfaces: &[InterfaceView]) {
    type Read = fn(&InterfaceView) -> u64;
    let counters: [(&str, &str, Read); 4] = [
        ("rx_packets_total", "Packets received", |interface| interface.rx_packets),
        ("rx_bytes_total", "Bytes received", |interface| interface.rx_bytes),
        ("tx_packets_total", "Packets sent", |interface| interface.tx_packets),
        ("tx_bytes_total", "Bytes sent", |interface| interface.tx_bytes),
    ];
    for (name, help, read) in counters {
        page.family(name, "counter", help);
        for interface in interfaces {
            page.sample(name, &[("interface", &interface.name)], read(interface));
        }
    }
    page.family("interface_up", "gauge", "1 when the link is up");
    for interface in interfaces {
        let value = u64::from(interface.is_up);
        page.sample("interface_up", &[("interface", &interface.name)], value);
    }
    page.family("queue_mode_info", "gauge", "How a queue is attached, and to which worker");
    for interface in interfaces {
        for queue in &interface.queues {
            let labels = [
                ("interface", interface.name.as_str()),
                ("queue", &queue.queue.to_string()),
                ("worker", &queue.worker.to_string()),
                ("xdp", xdp_text(queue.xdp)),
                ("copy", copy_text(queue.copy)),
            ];
            page.sample("queue_mode_info", &labels, 1);
        }
    }
}

/// By pool. The largest number there is stands for what is larger.
fn addresses(page: &mut Page, view: &PoolsView) {
    page.family("ipam_addresses", "gauge", "Addresses of an IPPool, by what they are doing");
    for pool in view.pools.iter().take(POOLS_MAX) {
        let CountsView { in_use, reserved, resting, free, .. } = pool.counts;
        for (state, count) in [("in_use", in_use), ("reserved", reserved), ("resting", resting), ("free", free)] {
            page.sample("ipam_addresses", &[("pool", pool.name.as_str()), ("state", state)], count);
        }
    }
    page.family("ipam_blocks", "gauge", "Blocks of an IPPool");
    for pool in view.pools.iter().take(POOLS_MAX) {
        page.sample("ipam_blocks", &[("pool", pool.name.as_str())], pool.blocks.len());
    }
}

fn dhcp(page: &mut Page, view: &DhcpView) {
    page.family("dhcp_relayed_packets_total", "counter", "DHCP messages passed on, by direction");
    for (direction, packets) in [("request", view.requests), ("reply", view.replies)] {
        page.sample("dhcp_relayed_packets_total", &[("direction", direction)], packets);
    }
    page.family("dhcp_refused_packets_total", "counter", "DHCP messages not passed on, by reason");
    for refused in &view.refused {
        page.sample("dhcp_refused_packets_total", &[("reason", refused.reason.as_str())], refused.packets);
    }
}

/// Summed over rules, which have no label here.
fn drops(page: &mut Page, drops: &[DropView]) {
    let mut sums: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for drop in drops {
        let interface = drop.interface.as_deref().unwrap_or_default();
        *sums.entry((interface, &drop.reason)).or_default() += drop.packets;
    }
    page.family("drop_packets_total", "counter", "Packets dropped, by reason");
    for ((interface, reason), packets) in sums {
        let labels = [("interface", interface), ("reason", reason)];
        page.sample("drop_packets_total", &labels, packets);
    }
}

fn workers(page: &mut Page, workers: &[WorkerView]) {
    type Count = fn(&WorkerView) -> u64;
    let counters: [(&str, &str, Count); 8] = [
        ("worker_breaths_total", "Turns of the loop", |worker| worker.breaths),
        ("worker_bursts_total", "Turns that found packets", |worker| worker.bursts),
        ("worker_packets_total", "Packets taken in", |worker| worker.packets_in),
        ("worker_sent_packets_total", "Packets sent on", |worker| worker.sent),
        ("worker_answered_packets_total", "Packets answered by the router", |worker| worker.answered),
        ("worker_punted_packets_total", "Packets given to the control side", |worker| worker.punted),
        ("worker_dropped_packets_total", "Packets dropped", |worker| worker.dropped),
        ("worker_handed_off_packets_total", "Packets given to another worker", |worker| worker.handed_off),
    ];
    for (name, help, read) in counters {
        page.family(name, "counter", help);
        for worker in workers {
            page.sample(name, &[("worker", &worker.index.to_string())], read(worker));
        }
    }
    // A gauge, as it must come back to zero and may be negative.
    page.family("unaccounted_packets", "gauge", "Packets without a fate; must be 0");
    for worker in workers {
        let labels = [("worker", &*worker.index.to_string())];
        page.sample("unaccounted_packets", &labels, worker.unaccounted);
    }

    type Measure = fn(&WorkerView) -> f64;
    let gauges: [(&str, &str, Measure); 6] = [
        ("worker_busy_ratio", "Share of time spent on packets", |worker| worker.busy_ratio),
        ("worker_burst_packets", "Packets in a burst, on average", |worker| worker.burst_size_average),
        ("umem_frames", "Frames of packet memory", |worker| worker.frames_total as f64),
        ("umem_free_frames", "Frames not in use", |worker| worker.frames_free as f64),
        ("flows", "Tracked connections", |worker| worker.flows as f64),
        ("flows_limit", "Most connections tracked", |worker| worker.flows_limit as f64),
    ];
    for (name, help, read) in gauges {
        page.family(name, "gauge", help);
        for worker in workers {
            page.sample(name, &[("worker", &worker.index.to_string())], read(worker));
        }
    }
    page.family("worker_breath_seconds", "gauge", "Time of one turn, by quantile");
    for worker in workers {
        let quantiles = [
            ("0.5", worker.breath_microseconds_p50),
            ("0.99", worker.breath_microseconds_p99),
            ("0.999", worker.breath_microseconds_p999),
        ];
        for (quantile, microseconds) in quantiles {
            let labels = [("worker", &*worker.index.to_string()), ("quantile", quantile)];
            page.sample("worker_breath_seconds", &labels, microseconds / 1e6);
        }
    }
}

/// Names are GoBGP's, with units and `_total` where they belong.
fn bgp(page: &mut Page, bgp: &SummaryView) {
    let gauges = [
        ("bgp_peers", "BGP sessions that there should be", bgp.peers.len()),
        ("bgp_prefixes", "Prefixes that somebody says something about", bgp.prefixes),
        ("bgp_paths", "Paths to these prefixes, those that were not taken too", bgp.paths),
        ("bgp_memory_bytes", "Memory of the speaker by what it holds, approximately", bgp.memory_bytes),
    ];
    for (name, help, value) in gauges {
        page.family(name, "gauge", help);
        page.sample(name, &[], value);
    }
    let peers = Peers::of(&bgp.peers);
    page.family("bgp_peer_up", "gauge", "1 when the session is established; of the other peers, how many are");
    peers.samples(page, "bgp_peer_up", None, |peer| is_up(peer).into());
    page.family("bgp_peer_state_info", "gauge", "The state of the session");
    for (label, peers) in &peers.0 {
        let mut states: BTreeMap<&str, u64> = BTreeMap::new();
        peers.iter().for_each(|peer| *states.entry(&peer.state).or_default() += 1);
        for (state, count) in states {
            page.sample("bgp_peer_state_info", &[("peer", label), ("state", state)], count);
        }
    }
    page.family("bgp_peer_uptime_seconds", "gauge", "Time since the session was established, 0 when it is not");
    for (label, peers) in &peers.0 {
        // Times of several peers have no sum that says anything.
        if let [peer] = peers {
            let seconds = if is_up(peer) { peer.since_seconds } else { 0 };
            page.sample("bgp_peer_uptime_seconds", &[("peer", label)], seconds);
        }
    }

    type Read = fn(&PeerView) -> u64;
    let families: [(&str, &str, &str, Read); 6] = [
        ("bgp_peer_flaps_total", "counter", "Times that an established session was lost", |peer| peer.flaps),
        ("bgp_routes_received", "gauge", "Routes that the peer says", |peer| peer.received.into()),
        ("bgp_routes_accepted", "gauge", "Of these, taken", |peer| peer.accepted.into()),
        ("bgp_routes_rejected", "gauge", "Of these, not taken", |peer| peer.rejected.into()),
        ("bgp_routes_stale", "gauge", "Of these, kept for a peer that restarts", |peer| peer.stale.into()),
        ("bgp_routes_advertised", "gauge", "Routes that the peer is told", |peer| peer.advertised.into()),
    ];
    for (name, kind, help, read) in families {
        page.family(name, kind, help);
        peers.samples(page, name, None, read);
    }

    type Count = fn(&MessagesView) -> u64;
    let types: [(&str, Count); 5] = [
        ("open", |messages| messages.opens),
        ("update", |messages| messages.updates),
        ("notification", |messages| messages.notifications),
        ("keepalive", |messages| messages.keepalives),
        ("refresh", |messages| messages.refreshes),
    ];
    page.family("bgp_messages_sent_total", "counter", "BGP messages sent, by type");
    for (kind, count) in types {
        let label = Some(("type", kind));
        peers.samples(page, "bgp_messages_sent_total", label, |peer| count(&peer.messages_sent));
    }
    page.family("bgp_messages_received_total", "counter", "BGP messages received, by type");
    for (kind, count) in types {
        let label = Some(("type", kind));
        peers.samples(page, "bgp_messages_received_total", label, |peer| count(&peer.messages_received));
    }
    page.family(
        "bgp_malformed_total",
        "counter",
        "What was malformed: attributes that were discarded, routes taken as withdrawn",
    );
    let discarded = Some(("outcome", "discarded"));
    peers.samples(page, "bgp_malformed_total", discarded, |peer| peer.discarded_attributes);
    let withdrawn = Some(("outcome", "withdrawn"));
    peers.samples(page, "bgp_malformed_total", withdrawn, |peer| peer.withdrawn_by_error);
}

fn is_up(peer: &PeerView) -> bool {
    peer.state == ESTABLISHED
}

/// Labels, each with the peers that it stands for.
struct Peers<'a>(Vec<(String, &'a [PeerView])>);

impl Peers<'_> {
    fn of(peers: &[PeerView]) -> Peers<'_> {
        let (own, rest) = peers.split_at(peers.len().min(PEERS_MAX));
        let label = |peer: &PeerView| PeerKey { address: peer.address, port: peer.port }.to_string();
        let own = own.iter().map(|peer| (label(peer), std::slice::from_ref(peer)));
        let rest = (!rest.is_empty()).then(|| (OTHER_PEERS.to_owned(), rest));
        Peers(own.chain(rest).collect())
    }

    fn samples(
        &self,
        page: &mut Page,
        name: &str,
        label: Option<(&str, &str)>,
        read: impl Fn(&PeerView) -> u64 + Copy,
    ) {
        for (peer, views) in &self.0 {
            let labels: Vec<(&str, &str)> = std::iter::once(("peer", peer.as_str())).chain(label).collect();
            page.sample(name, &labels, views.iter().map(read).sum::<u64>());
        }
    }
}

fn xdp_text(mode: XdpMode) -> &'static str {
    match mode {
        XdpMode::Native => "native",
        XdpMode::Generic => "generic",
    }
}

fn copy_text(mode: CopyMode) -> &'static str {
    match mode {
        CopyMode::Copy => "copy",
        CopyMode::ZeroCopy => "zero-copy",
    }
}

#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP vrouter_{name} {help}"));
        self.line(format_args!("# TYPE vrouter_{name} {kind}"));
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
        match labels.is_empty() {
            true => self.line(format_args!("vrouter_{name} {value}")),
            false => self.line(format_args!("vrouter_{name}{{{}}} {value}", labels.join(","))),
        }
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "{line}");
    }
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
