//! What the router shows of itself: one model for tables, JSON, YAML and metrics.
//!
//! The control loop fills these, the HTTP layer carries them as JSON, the command line reads them
//! back and prints them. Field names are therefore public interface: add, do not rename.
//!
//! Invariants: every number is a plain count since start unless the name carries a unit; addresses,
//! prefixes and hardware addresses are in their usual text form; a field that can be unknown is an
//! `Option`, never a zero or an empty string that stands for "do not know".
//! Left out: resources. What was asked of the router travels as the resource itself.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

mod dhcp;
mod memory;
mod route;

pub use dhcp::{DhcpRefusedView, DhcpView};
pub use memory::MemoryView;
pub use route::{RouteKind, RouteView};

/// What one interface is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InterfaceKind {
    Workload,
    Uplink,
    Host,
}

/// Where in the kernel our program sits on a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum XdpMode {
    Native,
    Generic,
}

/// Whether frames are copied between the kernel and us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CopyMode {
    Copy,
    ZeroCopy,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueView {
    pub queue: u32,
    /// The worker that serves this queue.
    pub worker: u16,
    pub xdp: XdpMode,
    pub copy: CopyMode,
    /// The worker polls the driver instead of waiting for interrupts.
    #[serde(default)]
    pub busy_poll: bool,
}

/// Something done to an interface so that it suits a router in user space.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreparationView {
    /// `tso` `queues` `checksums` `gro` `thread`.
    pub step: String,
    /// Why it could not be done; none when it was.
    pub failure: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceView {
    pub name: String,
    pub index: u32,
    pub kind: InterfaceKind,
    /// The endpoint this interface belongs to: `namespace/name`, or a host endpoint's name.
    pub endpoint: Option<String>,
    pub queues: Vec<QueueView>,
    #[serde(default)]
    pub prepared: Vec<PreparationView>,
    pub mtu: u32,
    pub mac: Option<String>,
    pub is_up: bool,
    pub rx_packets: u64,
    pub rx_bytes: u64,
    pub tx_packets: u64,
    pub tx_bytes: u64,
    pub drops: u64,
}

/// How far we know an L2 peer. The words of RFC 4861, section 7.3.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NeighbourState {
    Incomplete,
    Reachable,
    Stale,
    Delay,
    Probe,
    Failed,
    /// Given by configuration, never asked for.
    Permanent,
}

/// Who told us of a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NeighbourSource {
    Configured,
    Learned,
    Kernel,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeighbourView {
    pub ip: IpAddr,
    pub mac: Option<String>,
    pub interface: String,
    pub state: NeighbourState,
    pub source: NeighbourSource,
}

/// One tracked connection, seen from the side that opened it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowView {
    pub worker: u16,
    pub source: IpAddr,
    pub destination: IpAddr,
    /// `tcp`, `udp`, `icmp`, `icmpv6`, or the number.
    pub protocol: String,
    pub source_port: Option<u16>,
    pub destination_port: Option<u16>,
    pub icmp_id: Option<u16>,
    pub state: String,
    pub age_seconds: u64,
    pub idle_seconds: u64,
    pub forward_packets: u64,
    pub forward_bytes: u64,
    pub reply_packets: u64,
    pub reply_bytes: u64,
    pub ingress_interface: Option<String>,
    pub egress_interface: Option<String>,
    /// The rule that let the flow in.
    pub rule: Option<String>,
    /// What stands in place of its source outside, where that is translated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outside: Option<Outside>,
}

/// A source as others see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outside {
    pub address: IpAddr,
    /// Of ICMP echo: the identifier.
    pub port: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PollMode {
    /// Sleeps until a ring has something.
    Sleep,
    /// Turns without pause.
    Always,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerView {
    pub index: u16,
    /// The core it is pinned to.
    pub core: Option<u32>,
    pub poll: PollMode,
    pub breaths: u64,
    pub bursts: u64,
    pub packets_in: u64,
    pub sent: u64,
    pub answered: u64,
    pub punted: u64,
    pub dropped: u64,
    pub handed_off: u64,
    /// Packets that came in and have no fate. Anything but zero is a fault of the router.
    pub unaccounted: i64,
    /// Share of time spent on packets, 0 to 1.
    pub busy_ratio: f64,
    /// Interfaces it owns.
    #[serde(default)]
    pub interfaces: u64,
    /// What they receive and send, over the last few seconds; 0 with one worker, where nothing has to be weighed.
    #[serde(default)]
    pub packets_per_second: f64,
    pub frames_total: u64,
    pub frames_free: u64,
    pub flows: u64,
    pub flows_limit: u64,
    pub burst_size_average: f64,
    pub breath_microseconds_p50: f64,
    pub breath_microseconds_p99: f64,
    pub breath_microseconds_p999: f64,
}

/// An interface that has another worker now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MovedView {
    pub interface: String,
    pub from: u16,
    pub to: u16,
    /// How long nobody received from it.
    pub gap_milliseconds: f64,
}

impl MovedView {
    pub fn new(interface: &str, moved: crate::attach::Moved) -> MovedView {
        MovedView {
            interface: interface.to_owned(),
            from: moved.from.0,
            to: moved.to.0,
            gap_milliseconds: (moved.gap.as_secs_f64() * 1e6).round() / 1e3,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropView {
    /// None where the interface is not known, or for the sum over all.
    pub interface: Option<String>,
    pub reason: String,
    /// What the reason means, in the user's terms.
    pub description: String,
    pub packets: u64,
    /// The policy and rule that refused, for reasons that have one.
    pub rule: Option<String>,
    pub last_seen_seconds_ago: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatastoreView {
    /// Where it is, as given to `--datastore`.
    pub location: String,
    pub revision: u64,
    pub in_sync: bool,
    pub objects: u64,
    pub error: Option<String>,
}

/// One screen: is it well, and if not, why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatusView {
    pub node: String,
    pub version: String,
    pub uptime_seconds: u64,
    pub is_ready: bool,
    /// What is wrong, one sentence each; empty when all is well.
    pub problems: Vec<String>,
    pub datastore: DatastoreView,
    /// Counts up with every table set the workers were given.
    pub generation: u64,
    pub workers: u64,
    pub interfaces: u64,
    pub endpoints: u64,
    pub policies: u64,
    pub routes: u64,
    pub flows: u64,
    pub packets_in: u64,
    pub sent: u64,
    pub dropped: u64,
    pub unaccounted: i64,
    /// Where there are servers to relay to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dhcp: Option<DhcpView>,
}

/// The packet `vrouter trace` describes. It is built and classified, not sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TraceRequest {
    /// `namespace/pod`, an interface name, or `host` for what the host itself sends.
    pub from: String,
    /// The uplink by which the host sends it; none: to a workload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out: Option<String>,
    pub source: IpAddr,
    pub destination: IpAddr,
    pub transport: TraceTransport,
    pub ttl: u8,
    /// Describe a later fragment: no ports are visible to the router.
    pub is_fragment: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "protocol", deny_unknown_fields)]
pub enum TraceTransport {
    Tcp {
        source_port: u16,
        destination_port: u16,
    },
    Udp {
        source_port: u16,
        destination_port: u16,
    },
    /// ICMP, or ICMPv6 when the addresses are IPv6.
    IcmpEcho,
    Other {
        number: u8,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceStageView {
    pub stage: String,
    pub decision: String,
    pub detail: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceView {
    pub stages: Vec<TraceStageView>,
    /// `forward`, `respond`, `punt: …` or `drop: …`.
    pub verdict: String,
    /// The policy and rule that decided.
    pub rule: Option<String>,
    /// Of the tables that decided.
    #[serde(default)]
    pub generation: u32,
    /// What was said on the way, one list after the other; empty when none was asked.
    #[serde(default)]
    pub decisions: Vec<DecisionView>,
}

/// A host endpoint of this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostEndpointView {
    pub name: String,
    /// As it is written: a name, or `*`; none when it is found by its addresses.
    pub interface: Option<String>,
    pub expected_ips: Vec<IpAddr>,
    /// Those it has on this node.
    pub interfaces: Vec<HostInterfaceView>,
    /// Those that there are, in the order in which they are asked, inward and then outward.
    pub lists: Vec<HostListView>,
    /// As in `tcp:22`; open in every list but forward.
    pub failsafe_inbound: Vec<String>,
    pub failsafe_outbound: Vec<String>,
    /// Why it is not what it says.
    pub problems: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostInterfaceView {
    pub name: String,
    pub is_attached: bool,
    /// Its lists are in force.
    pub is_guarded: bool,
}

/// What stands in a list, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostListView {
    /// `untracked`, `preDNAT`, `forward` or `normal`.
    pub list: String,
    /// `ingress` or `egress`.
    pub direction: String,
    /// Kind, namespace and name of each.
    pub policies: Vec<String>,
    pub profiles: Vec<String>,
}

/// What one list of an endpoint says about one packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecisionView {
    /// Kind, namespace and name.
    pub endpoint: Option<String>,
    /// `normal`; of a host endpoint also `untracked`, `preDNAT`, `forward`.
    pub list: String,
    /// `ingress` or `egress`.
    pub direction: String,
    /// `allow` or `deny`; `pass` where nothing in the list decided and the packet goes on.
    pub verdict: String,
    /// As counters name it.
    pub name: Option<String>,
    pub tier: Option<String>,
    /// Kind, namespace and name; none for a default.
    pub policy: Option<String>,
    /// As in `ingress[0]`, or the name of the default.
    pub rule: Option<String>,
    pub position: Option<usize>,
    pub nearest: Option<NearView>,
}

/// The rule that would have decided otherwise and came nearest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NearView {
    pub rule: String,
    pub would_allow: bool,
    /// What the rule wants and what the packet has; empty when another rule was before it.
    pub differences: Vec<DifferenceView>,
    pub sentence: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DifferenceView {
    pub wanted: String,
    pub found: String,
}

/// Which of the recent drops are asked about; what is absent does not narrow.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WhyRequest {
    /// At most so many, the youngest first.
    pub last: Option<usize>,
    pub source: Option<IpAddr>,
    pub destination: Option<IpAddr>,
    pub source_port: Option<u16>,
    /// Of the destination.
    pub port: Option<u16>,
    pub protocol: Option<u8>,
    pub interface: Option<String>,
    pub reason: Option<String>,
}

/// Recent drops, and how complete the record of them is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WhyView {
    pub drops: Vec<RecentDropView>,
    /// Flows that are remembered now.
    pub remembered: u64,
    /// Packets that were dropped and of which no record was kept, since the start. Counters have them all.
    pub not_kept: u64,
    /// Of the tables in force now.
    pub generation: u32,
}

/// Packets of one flow, dropped for one reason.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RecentDropView {
    pub last_seen_seconds_ago: f64,
    pub first_seen_seconds_ago: f64,
    pub packets: u64,
    /// Where they came in.
    pub interface: Option<String>,
    pub protocol: String,
    pub source: IpAddr,
    pub destination: IpAddr,
    pub source_port: Option<u16>,
    pub destination_port: Option<u16>,
    pub icmp_type: Option<u8>,
    pub icmp_code: Option<u8>,
    pub reason: String,
    pub description: String,
    /// Of the tables that decided.
    pub generation: u32,
    /// For reasons that policy has.
    pub decision: Option<DecisionView>,
}

/// Which policy would change: these resources put in place, and staged policies made real.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PreviewRequest {
    pub resources: Vec<serde_json::Value>,
    pub staged: bool,
    /// At most so many flows one by one.
    pub limit: Option<usize>,
}

/// Open flows that would be decided otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PreviewView {
    /// Flows with an endpoint of this node.
    pub judged: u64,
    pub now_denied: u64,
    pub now_allowed: u64,
    /// Staged policies that were taken for real.
    pub promoted: u64,
    pub changes: Vec<PreviewChangeView>,
    /// Changes beyond the limit.
    pub not_listed: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreviewChangeView {
    pub protocol: String,
    pub source: IpAddr,
    pub destination: IpAddr,
    pub source_port: Option<u16>,
    pub destination_port: Option<u16>,
    /// Both ways.
    pub packets: u64,
    pub bytes: u64,
    pub before: PreviewVerdictView,
    pub after: PreviewVerdictView,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreviewVerdictView {
    /// `allow` or `deny`.
    pub verdict: String,
    pub rule: String,
}

/// What became of one resource of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WriteOutcome {
    Created,
    Updated,
    Unchanged,
    Deleted,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteView {
    pub kind: String,
    pub namespace: Option<String>,
    pub name: String,
    pub outcome: WriteOutcome,
}

/// Answer to apply, create, replace and delete. All of it happened, or the call failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteReply {
    pub revision: u64,
    pub results: Vec<WriteView>,
    /// Set when this write is taken back unless it is confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<PendingView>,
    /// What of the resources is not looked at, one sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// What waits for `confirm`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingView {
    pub revision: u64,
    /// When it is taken back, RFC 3339.
    pub until: String,
    pub seconds_left: u64,
    pub author: String,
}

/// One transaction of the history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TransactionView {
    pub revision: u64,
    /// RFC 3339.
    pub time: String,
    pub author: String,
    pub uid: Option<u32>,
    pub verb: String,
    /// The transaction this one took back.
    pub undoes: Option<u64>,
    /// False when the objects were too large to be kept: then it cannot be undone.
    pub can_be_undone: bool,
    pub changes: Vec<ChangeView>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChangeView {
    pub kind: String,
    pub namespace: Option<String>,
    pub name: String,
    pub outcome: WriteOutcome,
    /// The object before and after; only where one transaction was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<serde_json::Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<serde_json::Value>,
}

/// Answer to history: the newest transaction first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HistoryView {
    pub pending: Option<PendingView>,
    pub transactions: Vec<TransactionView>,
}

/// Answer to undo.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UndoReply {
    /// The transaction that was taken back.
    pub undone: u64,
    /// The store's revision after it.
    pub revision: u64,
    pub results: Vec<WriteView>,
}

/// Answer to get: the resources in their stored form.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GetReply {
    pub revision: u64,
    pub items: Vec<serde_json::Value>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionView {
    pub version: String,
    pub node: Option<String>,
}
