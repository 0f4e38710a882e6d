//! Measures what the router costs, and what kernel forwarding costs in the same run.
//!
//! | file | what it holds |
//! |---|---|
//! | `memory.rs` | the stages, tables and checksum on one core, without kernel |
//! | `instructions.rs` | instructions per packet and stage, counted under callgrind and held against a baseline |
//! | `stages.rs` | bursts through the stages, for both of them |
//! | `lpm.rs`, `route_sets.rs` | the tables of routes on one core; routes of a cluster and of the public network |
//! | `veth.rs`, `tcp.rs`, `latency.rs` | endpoint → router → endpoint over veth, kernel forwarding and router in turn |
//! | `lab.rs` | namespaces and veth pairs |
//! | `forwarder.rs`, `router.rs` | what forwards between them: the kernel, the router, and whoever is compared |
//! | `traffic.rs`, `trial.rs` | what is sent; one trial: so many packets a second for so long, and what came of them |
//! | `frames.rs`, `random.rs` | packets in memory; numbers that repeat from run to run |
//! | `replay.rs`, `sender.rs` | packets of a capture; a sender out of an AF_XDP socket |
//! | `sink.rs`, `ledger.rs` | where packets end; what became of each, flow by flow |
//! | `search.rs`, `bench/` | the search for the highest load; `vrouter bench` |
//! | `page/` | one HTML page of what a bench has measured |
//! | `cpu.rs` | what a thread has cost, and that it is not kept waiting |
//! | `recorder.rs` | what the recorder of recent drops costs |
//! | `sets.rs` | addresses that join and leave sets, and policies full of them |
//! | `flows.rs` | the flow table with ten million flows |
//! | `cluster.rs` | the daemon with a large cluster in its datastore: start, memory, changes |
//! | `cni.rs` | containers added and taken away, beside the reference plugins |
//! | `ipam.rs` | the daemon's addresses: how many in a second, and how long one waits |
//! | `resident.rs` | what the daemon of a busy node holds in memory, part by part |
//! | `tables.rs`, `linear.rs` | what the router is told; policy by walking the rules, for comparison |
//! | `idle.rs` | what queues cost that have nothing to do, awake and asleep |
//! | `scaling.rs` | what a second worker is worth |
//! | `bgp/` | our BGP speaker beside BIRD 2: a full table, a route reflector, churn |
//! | `peers/` | DPDK's tables beside ours, and other forwarders in the same topology |
//! | `report.rs`, `baseline.rs` | numbers for people and as JSON lines; the numbers of an earlier run |
//!
//! Invariants: a figure over veth is the median of rounds that alternate with kernel forwarding, and its ratio is the
//! median of the rounds' ratios, so that a neighbour on the host disturbs both; nothing is judged by a threshold on time.
//! Left out: network cards. Nothing here touches an interface that it has not made.

#![forbid(unsafe_code)]

pub mod baseline;
pub mod bench;
pub mod bgp;
pub mod cluster;
pub mod cni;
pub mod cpu;
pub mod flows;
pub mod forwarder;
pub mod frames;
pub mod idle;
pub mod instructions;
pub mod ipam;
pub mod lab;
pub mod latency;
pub mod ledger;
pub mod linear;
pub mod lpm;
pub mod memory;
pub mod page;
pub mod peers;
pub mod random;
pub mod recorder;
pub mod replay;
pub mod report;
pub mod resident;
pub mod route_sets;
pub mod router;
pub mod scaling;
pub mod search;
pub mod sender;
pub mod sets;
pub mod sink;
pub mod stages;
pub mod tables;
pub mod tcp;
pub mod traffic;
pub mod trial;
pub mod veth;

use std::path::PathBuf;
use std::time::Duration;

use report::Report;

/// What can be measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Topic {
    Memory,
    Lpm,
    Veth,
    Tcp,
    Latency,
    Cluster,
    Flows,
    Resident,
    Ipam,
    /// Containers, by the CNI plugin.
    Cni,
    Instructions,
    Idle,
    Scaling,
    /// DPDK's tables beside ours; not part of `all`, because it needs packages that nothing else does.
    PeersMemory,
    /// Other forwarders in the lab; neither.
    Peers,
    /// One TCP connection through them; neither.
    PeersTcp,
    /// Our BGP speaker beside BIRD 2; neither.
    Bgp,
    /// Of that the one peer with a million prefixes; neither.
    BgpTable,
}

impl Topic {
    pub const ALL: [Topic; 13] = [
        Topic::Memory,
        Topic::Lpm,
        Topic::Veth,
        Topic::Tcp,
        Topic::Latency,
        Topic::Cluster,
        Topic::Flows,
        Topic::Resident,
        Topic::Ipam,
        Topic::Cni,
        Topic::Instructions,
        Topic::Idle,
        Topic::Scaling,
    ];

    /// What is measured only when it is asked for by name.
    pub const MORE: [Topic; 5] = [Topic::PeersMemory, Topic::Peers, Topic::PeersTcp, Topic::Bgp, Topic::BgpTable];

    pub fn name(self) -> &'static str {
        match self {
            Topic::Memory => "memory",
            Topic::Lpm => "lpm",
            Topic::Veth => "veth",
            Topic::Tcp => "tcp",
            Topic::Latency => "latency",
            Topic::Cluster => "cluster",
            Topic::Flows => "flows",
            Topic::Resident => "resident",
            Topic::Ipam => "ipam",
            Topic::Cni => "cni",
            Topic::Instructions => "instructions",
            Topic::Idle => "idle",
            Topic::Scaling => "scaling",
            Topic::PeersMemory => "peers-memory",
            Topic::Peers => "peers",
            Topic::PeersTcp => "peers-tcp",
            Topic::Bgp => "bgp",
            Topic::BgpTable => "bgp-table",
        }
    }
}

/// How much is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scale {
    /// Bursts of 256 packets per figure in memory.
    pub bursts: usize,
    /// Largest number of flows, rules and routes.
    pub flows: usize,
    pub rules: usize,
    pub routes: usize,
    /// Endpoints in the cluster, policies, endpoints of the node, and changes that are timed.
    pub cluster: (usize, usize, usize, usize),
    /// Addresses that are given out and back.
    pub addresses: usize,
    /// Containers on the node.
    pub containers: usize,
    pub bgp: bgp::Size,
    /// Rounds over veth; each measures every way of forwarding once.
    pub rounds: usize,
    /// Length of one measurement over veth.
    pub window: Duration,
}

impl Scale {
    /// Figures worth keeping: some minutes.
    pub const FULL: Scale = Scale {
        bursts: 2000,
        flows: 1_000_000,
        rules: 10_000,
        routes: 100_000,
        cluster: (100_000, 2000, 100, 1000),
        addresses: 6000,
        containers: 100,
        bgp: bgp::Size {
            prefixes: 1_000_000,
            clients: 20,
            each: 50_000,
            churn_clients: 100,
            churn_rate: 10_000,
            churn: Duration::from_secs(60),
        },
        rounds: 5,
        window: Duration::from_secs(2),
    };
    /// Shows that every measurement still runs: within a minute.
    pub const SMOKE: Scale = Scale {
        bursts: 20,
        flows: 50_000,
        rules: 1000,
        routes: 10_000,
        cluster: (2000, 100, 10, 20),
        addresses: 120,
        containers: 4,
        bgp: bgp::Size {
            prefixes: 20_000,
            clients: 5,
            each: 2000,
            churn_clients: 10,
            churn_rate: 1000,
            churn: Duration::from_secs(2),
        },
        rounds: 1,
        window: Duration::from_millis(300),
    };
}

/// What a run is asked for.
#[derive(Clone, Debug)]
pub struct Options {
    pub topics: Vec<Topic>,
    pub scale: Scale,
    /// Written into every line; where they are not given, git and the clock are asked.
    pub commit: Option<String>,
    pub date: Option<String>,
    /// Directory for the lines of this run.
    pub out: PathBuf,
    /// Directory of baselines, and whether this run becomes one.
    pub baselines: PathBuf,
    pub save_baseline: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Lab(#[from] lab::LabError),
    #[error(transparent)]
    Report(#[from] report::ReportError),
    #[error("make a worker in memory")]
    Worker(#[source] std::io::Error),
    #[error(
        "more instructions than the baseline allows; if that is right, run `perf instructions --save-baseline`\n  {0}"
    )]
    Dearer(String),
    #[error("make a worker in memory: none was made")]
    NoWorker,
}

/// An error and all that caused it, in a line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        message = format!("{message}: {source}");
        cause = source.source();
    }
    message
}

/// Measures, prints, and writes the lines.
pub fn run(options: &Options) -> Result<(), Error> {
    let mut report = Report::open(options)?;
    for topic in &options.topics {
        match topic {
            Topic::Memory => memory::measure(&options.scale, &mut report)?,
            Topic::Lpm => lpm::measure(&options.scale, &mut report)?,
            Topic::Veth => veth::measure(&options.scale, &mut report)?,
            Topic::Tcp => tcp::measure(&options.scale, &mut report)?,
            Topic::Latency => latency::measure(&options.scale, &mut report)?,
            Topic::Cluster => cluster::measure(&options.scale, &mut report)?,
            Topic::Flows => flows::measure(&options.scale, &mut report)?,
            Topic::Resident => resident::measure(&options.scale, &mut report)?,
            Topic::Ipam => ipam::measure(&options.scale, &mut report)?,
            Topic::Cni => cni::measure(&options.scale, &mut report)?,
            Topic::Instructions => instructions::measure(&mut report, &options.baselines, options.save_baseline)?,
            Topic::Idle => idle::measure(&options.scale, &mut report)?,
            Topic::Scaling => scaling::measure(&options.scale, &mut report)?,
            Topic::PeersMemory => peers::memory::measure(&options.scale, &options.out, &mut report)?,
            Topic::Peers => peers::compare::measure(&options.scale, &options.out, &mut report)?,
            Topic::PeersTcp => peers::stream::measure(&options.scale, &options.out, &mut report)?,
            Topic::Bgp => bgp::measure(&options.scale, &mut report)?,
            Topic::BgpTable => bgp::measure_table(&options.scale, &mut report)?,
        }
    }
    report.finish(options)?;
    Ok(())
}
