//! What the router shows of itself: control's state as the views of `http::views`.
//!
//! Looking changes nothing: counters are read, never reset.

pub mod drops;
mod host_endpoints;
mod memory;
pub mod nearest;
pub mod preview;
pub mod recent;
mod routes;
pub mod why;

use std::time::Duration;

use config::resource::Kind;
use fastpath::flow::translation::{Translated, Translation};
use fastpath::flow::{self, unmapped_address};
use fastpath::header::protocol;
use fastpath::stats::counters::{Counter, Counters};
use fastpath::table::InterfaceIndex;
use fastpath::table::interface::InterfaceKind;
use netlink_packet_route::neighbour::NeighbourState as KernelState;
use serde_json::Value;

use crate::control::Control;
use crate::host::{Link, Neighbour};
use crate::http::api::{ShowFilter, ShowKind};
use crate::http::views::{
    self, CopyMode, DatastoreView, FlowView, InterfaceView, NeighbourSource, NeighbourState, NeighbourView, Outside,
    PollMode, PreparationView, QueueView, StatusView, VersionView, WorkerView, XdpMode,
};
use crate::tell::to_json;

const DEFAULT_LIMIT: usize = 10_000;

/// The kinds of policy that are enforced.
const ENFORCED: [Kind; 4] =
    [Kind::NetworkPolicy, Kind::GlobalNetworkPolicy, Kind::KubernetesNetworkPolicy, Kind::ClusterNetworkPolicy];

pub fn show<D>(control: &Control<D>, what: ShowKind, filter: &ShowFilter) -> Value {
    let limit = filter.limit.unwrap_or(DEFAULT_LIMIT);
    let is_wanted = |name: Option<&str>| filter.interface.as_deref().is_none_or(|wanted| name == Some(wanted));
    match what {
        ShowKind::Interfaces => {
            let rows = interfaces(control).filter(|row| is_wanted(Some(&row.name)));
            to_json(&rows.take(limit).collect::<Vec<_>>())
        }
        ShowKind::Routes => {
            let rows = routes::routes(control, filter.address).filter(|row| is_wanted(row.interface.as_deref()));
            to_json(&rows.take(limit).collect::<Vec<_>>())
        }
        ShowKind::Neighbours => {
            let rows = neighbours(control).filter(|row| is_wanted(Some(&row.interface)));
            let rows = rows.filter(|row| filter.address.is_none_or(|wanted| row.ip == wanted));
            to_json(&rows.take(limit).collect::<Vec<_>>())
        }
        ShowKind::Flows => {
            let rows = flows(control).filter(|row| {
                let is_end = |address| row.source == address || row.destination == address;
                let (ingress, egress) = (row.ingress_interface.as_deref(), row.egress_interface.as_deref());
                filter.address.is_none_or(is_end) && (is_wanted(ingress) || is_wanted(egress))
            });
            to_json(&rows.take(limit).collect::<Vec<_>>())
        }
        ShowKind::Workers => {
            let rows = workers(control).filter(|row| filter.worker.is_none_or(|wanted| row.index == wanted));
            to_json(&rows.take(limit).collect::<Vec<_>>())
        }
        ShowKind::Drops => {
            let name = |index| control.attachments.name_of(index).map(str::to_owned);
            let rows = control.drops.view(control.attachments.remotes(), control.attachments.view(), name);
            let rows = rows.into_iter().chain(drops::before_workers(control.attachments.kernel_drops()));
            let rows = rows.filter(|row| is_wanted(row.interface.as_deref()));
            to_json(&rows.take(limit).collect::<Vec<_>>())
        }
        ShowKind::HostEndpoints => {
            let rows = host_endpoints::host_endpoints(control).into_iter().filter(|row| {
                filter.interface.is_none() || row.interfaces.iter().any(|interface| is_wanted(Some(&interface.name)))
            });
            to_json(&rows.take(limit).collect::<Vec<_>>())
        }
        ShowKind::Memory => to_json(&memory::memory(control)),
        ShowKind::Status => to_json(&status(control)),
    }
}

pub fn version<D>(control: &Control<D>) -> VersionView {
    VersionView { version: env!("CARGO_PKG_VERSION").into(), node: Some(control.settings.node_name.clone()) }
}

fn counters<D>(control: &Control<D>) -> impl Iterator<Item = &Counters> {
    control.attachments.remotes().map(|remote| &*remote.counters)
}

fn sum<D>(control: &Control<D>, of: impl Fn(&Counters) -> u64) -> u64 {
    counters(control).map(of).sum()
}

fn interfaces<D>(control: &Control<D>) -> impl Iterator<Item = InterfaceView> {
    control.attachments.view().iter().map(move |(name, attachment)| {
        let link = control.kernel.links.get(&attachment.link);
        let endpoint = control.state().endpoints.iter().find(|endpoint| endpoint.interface == *name);
        let index = attachment.index;
        let of = |pick: fn(&fastpath::stats::counters::InterfaceCounters) -> u64| {
            sum(control, |counters| pick(counters.interface(index)))
        };
        let (mode, queues) = control.attachments.state(name).map_or((None, &[][..]), |(m, q)| (Some(m), q));
        InterfaceView {
            name: name.clone(),
            index: attachment.link.0,
            kind: match attachment.kind {
                InterfaceKind::Workload => views::InterfaceKind::Workload,
                InterfaceKind::Uplink => views::InterfaceKind::Uplink,
                InterfaceKind::Host => views::InterfaceKind::Host,
            },
            endpoint: endpoint.map(|e| format!("{}/{}", e.key.namespace.as_deref().unwrap_or_default(), e.key.name)),
            queues: queues
                .iter()
                .map(|queue| QueueView {
                    queue: queue.queue,
                    worker: queue.worker.0,
                    xdp: match mode {
                        Some(fastpath::io::XdpMode::Native) => XdpMode::Native,
                        _ => XdpMode::Generic,
                    },
                    copy: match queue.copy {
                        fastpath::io::CopyMode::ZeroCopy => CopyMode::ZeroCopy,
                        _ => CopyMode::Copy,
                    },
                    busy_poll: queue.busy_poll,
                })
                .collect(),
            prepared: control
                .attachments
                .prepared(name)
                .iter()
                .map(|outcome| PreparationView {
                    step: outcome.step.name().to_owned(),
                    failure: outcome.failure.clone(),
                })
                .collect(),
            mtu: link.map_or(0, |link| link.mtu),
            mac: link.and_then(|link| link.mac).map(|mac| mac.to_string()),
            is_up: link.is_some_and(Link::can_carry),
            rx_packets: of(|interface| interface.received_packets.get()),
            rx_bytes: of(|interface| interface.received_bytes.get()),
            tx_packets: of(|interface| interface.sent_packets.get()),
            tx_bytes: of(|interface| interface.sent_bytes.get()),
            drops: of(|interface| interface.dropped.iter().map(Counter::get).sum()),
        }
    })
}

fn neighbours<D>(control: &Control<D>) -> impl Iterator<Item = NeighbourView> {
    let configured = control.state().endpoints.iter().flat_map(|endpoint| {
        endpoint.addresses.iter().map(|address| NeighbourView {
            ip: address.address(),
            mac: endpoint.mac.map(|mac| mac.to_string()),
            interface: endpoint.interface.clone(),
            state: if endpoint.mac.is_some() { NeighbourState::Permanent } else { NeighbourState::Incomplete },
            source: NeighbourSource::Configured,
        })
    });
    let of_kernel = control.kernel.neighbours.values().filter_map(|neighbour| {
        let attached = control.attachments.view().iter().find(|(_, a)| a.link == neighbour.link)?;
        (attached.1.kind == InterfaceKind::Uplink && !neighbour.address.is_multicast()).then(|| NeighbourView {
            ip: neighbour.address,
            mac: neighbour.mac.map(|mac| mac.to_string()),
            interface: attached.0.clone(),
            state: state_of(neighbour),
            source: NeighbourSource::Kernel,
        })
    });
    configured.chain(of_kernel)
}

fn state_of(neighbour: &Neighbour) -> NeighbourState {
    match neighbour.state {
        KernelState::Reachable => NeighbourState::Reachable,
        KernelState::Stale => NeighbourState::Stale,
        KernelState::Delay => NeighbourState::Delay,
        KernelState::Probe => NeighbourState::Probe,
        KernelState::Failed => NeighbourState::Failed,
        KernelState::Permanent | KernelState::Noarp => NeighbourState::Permanent,
        _ => NeighbourState::Incomplete,
    }
}

fn flows<D>(control: &Control<D>) -> impl Iterator<Item = FlowView> {
    let now = u64::from(control.clock.now().seconds());
    control.flows.iter().filter(|flow| flow.key.kind != flow::KeyKind::Fragment).map(move |view| {
        let key = view.key;
        let has_ports = protocol::has_ports(key.protocol);
        let is_echo = matches!(key.kind, flow::KeyKind::EchoRequest | flow::KeyKind::EchoReply);
        let name = |index: InterfaceIndex| control.attachments.name_of(index).map(str::to_owned);
        FlowView {
            worker: 0,
            source: unmapped_address(key.source),
            destination: unmapped_address(key.destination),
            protocol: protocol_name(key.protocol),
            source_port: has_ports.then_some(key.source_port),
            destination_port: has_ports.then_some(key.destination_port),
            icmp_id: is_echo.then_some(key.source_port | key.destination_port),
            state: view.state.name().into(),
            age_seconds: now.saturating_sub(view.created.into()),
            idle_seconds: now.saturating_sub(view.last_seen().into()),
            forward_packets: view.packets[0],
            forward_bytes: view.bytes[0],
            reply_packets: view.packets[1],
            reply_bytes: view.bytes[1],
            ingress_interface: name(view.ingress),
            egress_interface: name(view.egress),
            rule: control.names.name(view.rule).map(str::to_owned),
            outside: match view.translated {
                Translated::Flow(Translation { source, port }) => {
                    let address = unmapped_address(control.flows.sources().address(source));
                    Some(Outside { address, port })
                }
                Translated::No | Translated::Fragment(..) => None,
            },
        }
    })
}

pub(crate) fn protocol_name(number: u8) -> String {
    match number {
        1 => "icmp".into(),
        6 => "tcp".into(),
        17 => "udp".into(),
        58 => "icmpv6".into(),
        132 => "sctp".into(),
        136 => "udplite".into(),
        number => number.to_string(),
    }
}

fn workers<D>(control: &Control<D>) -> impl Iterator<Item = WorkerView> {
    let uptime = control.started.elapsed();
    let owned = move |worker| control.attachments.view().iter().filter(move |(_, a)| a.owner.index() == worker);
    counters(control).enumerate().map(move |(position, counters)| {
        let (packets_in, accounted) = read_balance(counters);
        let bursts = counters.bursts.get();
        let microseconds = |percent| counters.breath_percentile(percent) as f64 / 1000.0;
        WorkerView {
            index: position as u16,
            core: control.settings.workers.get(position).map(|core| *core as u32),
            poll: match control.settings.poll {
                config::settings::Poll::Sleep => PollMode::Sleep,
                config::settings::Poll::Always => PollMode::Always,
            },
            breaths: counters.breaths.get(),
            bursts,
            packets_in,
            sent: counters.sent.get(),
            answered: counters.answered.get(),
            punted: counters.punted.get(),
            dropped: counters.packets_dropped(),
            handed_off: counters.handed_off.get(),
            unaccounted: packets_in as i64 - accounted as i64,
            busy_ratio: ratio(counters.busy_nanoseconds.get(), uptime),
            interfaces: owned(position).count() as u64,
            packets_per_second: owned(position).map(|(name, _)| control.attachments.loads().rate(name)).sum(),
            frames_total: counters.frames_total.get(),
            frames_free: counters.frames_free.get(),
            flows: counters.flows.get(),
            flows_limit: (control.flows.capacity() / control.attachments.workers().max(1)) as u64,
            burst_size_average: if bursts == 0 { 0.0 } else { packets_in as f64 / bursts as f64 },
            breath_microseconds_p50: microseconds(50.0),
            breath_microseconds_p99: microseconds(99.0),
            breath_microseconds_p999: microseconds(99.9),
        }
    })
}

/// Both sides of the balance. A worker writes while we read, so read until it stood still for a moment.
fn read_balance(counters: &Counters) -> (u64, u64) {
    const TRIES: usize = 1000;
    let mut last = (counters.packets_in(), counters.packets_accounted());
    for _ in 0..TRIES {
        if last.0 == last.1 {
            break;
        }
        std::thread::yield_now();
        last = (counters.packets_in(), counters.packets_accounted());
    }
    last
}

fn ratio(nanoseconds: u64, of: Duration) -> f64 {
    if of.is_zero() { 0.0 } else { nanoseconds as f64 / of.as_nanos() as f64 }
}

fn status<D>(control: &Control<D>) -> StatusView {
    let balances: Vec<(u64, u64)> = counters(control).map(read_balance).collect();
    let mut problems: Vec<String> = control.problems.values().flatten().cloned().collect();
    problems.extend(control.store_error.clone());
    StatusView {
        node: control.settings.node_name.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        uptime_seconds: control.started.elapsed().as_secs(),
        is_ready: control.is_ready(),
        problems,
        datastore: DatastoreView {
            location: control.store_location.clone(),
            revision: control.revision.0,
            in_sync: control.in_sync,
            objects: control.resources.len() as u64,
            error: control.store_error.clone(),
        },
        generation: control.generation.into(),
        workers: control.attachments.workers() as u64,
        interfaces: control.attachments.view().len() as u64,
        endpoints: control.state().endpoints.len() as u64,
        policies: ENFORCED.iter().map(|kind| control.resources.of_kind(*kind).count() as u64).sum(),
        routes: control.routes.len() as u64,
        flows: sum(control, |counters| counters.flows.get()),
        packets_in: balances.iter().map(|balance| balance.0).sum(),
        sent: sum(control, |counters| counters.sent.get()),
        dropped: sum(control, Counters::packets_dropped),
        unaccounted: balances.iter().map(|balance| balance.0 as i64 - balance.1 as i64).sum(),
        dhcp: control.dhcp_view(),
    }
}
