//! Sockets and timers turned into events: the loop of the control thread, and the workers' threads beside it.
//!
//! Started in order: datastore, private pair, frames, workers, API; stopped in reverse. A restart is the same as a start:
//! what an earlier process left (the private pair, programs on links, routes with our mark, saved flows) is found and
//! taken over.

use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use config::resource::Resource;
use config::settings::{self, Settings};
use fastpath::flow::{FlowTable, FlowWriter};
use fastpath::io::program::Preference;
use fastpath::io::xsk::{Backend, XskError, XskMemory, XskOptions, XskQueue};
use fastpath::rcu::Publisher;
use fastpath::table::Tables;
use fastpath::worker::{self, Clock, Poll, Remote, Worker};
use tokio::sync::{mpsc, watch};

use crate::attach::{Attachments, Recipe};
use crate::control::routing::Routing;
use crate::control::{Control, HOST_INTERFACE, HOST_LINK, Parts};
use crate::datastore::{Datastore, Embedded, Note, StoreError, Syncer, Write, undo};
use crate::docker;
use crate::event::Event;
use crate::host::ethtool::{self, Offload};
use crate::host::{GATEWAY_MAC, Host, HostError, LearnedRoutes};
use crate::http::desk::Desk;
use crate::http::{self, ServeError};
use crate::policy;
use crate::saved_flows::save::Saver;
use crate::workload::service::Workloads;

/// How often rings are looked at. Bounds how long a first packet to an unresolved next hop waits for its question.
const TICK: Duration = Duration::from_millis(20);
/// How long a broken datastore is left alone before it is asked again.
const STORE_PAUSE: Duration = Duration::from_secs(1);
/// Requests that wait for control.
const REQUESTS: usize = 64;
/// Frames for packets of Ethernet's usual MTU, and for longer ones.
const SMALL_FRAME: usize = 2048;
const LARGE_FRAME: usize = 4096;
/// Largest MTU for which a small frame is enough.
const SMALL_MTU: u32 = 1500;
/// In the folder of the datastore, whose lock it shares: only one process has it.
const FLOWS_FILE: &str = "flows";

/// Why the router could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("open the datastore")]
    Store(#[from] StoreError),
    #[error("read or change the host's interfaces")]
    Host(#[from] HostError),
    #[error("prepare frames for worker {worker}")]
    Frames { worker: usize, source: XskError },
    #[error("prepare workers")]
    Worker(#[source] std::io::Error),
    #[error("start the thread of worker {worker}")]
    Thread { worker: usize, source: std::io::Error },
    #[error("start the thread of BGP")]
    Routing(#[source] std::io::Error),
    #[error("start the runtime")]
    Runtime(#[source] std::io::Error),
    #[error("offer the API")]
    Api(#[from] ServeError),
    #[error("offer Docker's drivers")]
    Docker(#[source] ServeError),
    #[error("{0}")]
    Setting(String),
}

/// Runs until `stop` says so. `ready` is called once, when a first set of tables is in force.
pub async fn run(
    settings: Settings,
    manifests: Vec<Resource>,
    mut stop: watch::Receiver<bool>,
    ready: impl FnOnce(),
) -> Result<(), StartError> {
    let settings::Datastore::Embedded(path) = settings.datastore.clone();
    let store = Embedded::open(&path)?;
    // Before anything is put in force: what was not confirmed while nobody was here to take it back.
    match undo::expire(&store, SystemTime::now()).await {
        Ok(Some(revision)) => tracing::warn!(%revision, "not confirmed in time: undone"),
        Ok(None) => {}
        // Tried again by the loop; a router that does not start would be worse than the change.
        Err(error) => tracing::error!(%error, "what was not confirmed in time could not be undone"),
    }
    apply(&store, manifests).await?;
    let mut syncer = Syncer::new(store.clone());
    let (host, mut host_events) = Host::open()?;
    let learned_routes = LearnedRoutes::open()?;
    host_events.ignore(learned_routes.port());

    let cores = cores(&settings)?;
    let workers = cores.len();
    // The private pair stays when a process ends, so whoever finds it is not the first of this boot.
    let restarted = host.find_link(HOST_LINK).await?.is_some();
    let (kernel_end, _) = host.ensure_veth_pair(HOST_LINK, HOST_INTERFACE, workers as u32).await?;
    prepare_pair(&host, kernel_end.index).await?;
    let frame_size = frame_size(&host, &settings).await?;

    let flows = FlowTable::new(settings.flow_table_size as u32);
    let clock = Clock::start();
    let publisher = Publisher::new(Tables::default());
    let mut memories = Vec::with_capacity(workers);
    let mut parts = Vec::with_capacity(workers);
    for worker in 0..workers {
        let options = XskOptions {
            frame_size,
            frame_count: settings.frames_per_worker as u32,
            backend: match settings.io {
                settings::Io::Raw => Backend::Raw,
                settings::Io::XskRs => Backend::XskRs,
            },
            ..XskOptions::new(HOST_INTERFACE, worker as u32)
        };
        let (umem, memory) = XskMemory::new(options).map_err(|source| StartError::Frames { worker, source })?;
        memories.push(memory);
        parts.push(worker::Parts {
            umem,
            flows: match FlowWriter::new(flows.clone(), worker, workers, publisher.grace()) {
                writer if settings.flow_quota == 0 => writer,
                writer => writer.with_quota(settings.flow_quota as u32),
            },
            tables: publisher.reader(),
            poll: match settings.poll {
                settings::Poll::Sleep => Poll::Sleep,
                settings::Poll::Always => Poll::Always,
            },
            clock,
        });
    }
    let (threads, remotes) = spawn(worker::build(parts).map_err(StartError::Worker)?, &cores)?;
    let preference = match settings.xdp_mode {
        settings::XdpMode::Auto => Preference::Auto,
        settings::XdpMode::Native => Preference::Native,
        settings::XdpMode::Generic => Preference::Generic,
    };
    // Frames start with the kernel's headroom.
    let frame_room = frame_size - fastpath::io::umem::HEADROOM;
    let mut attachments = Attachments::new(memories.into_iter().zip(remotes).collect(), preference, frame_room);
    attachments.recipe = Recipe {
        prepare_endpoints: settings.endpoint_offload == settings::EndpointOffload::Off,
        busy_poll: settings.busy_poll == settings::BusyPoll::Auto,
        zero_copy: settings.zero_copy == settings::ZeroCopy::Auto,
    };

    let (requests, mut incoming) = mpsc::channel(REQUESTS);
    let socket = settings.api_socket.clone();
    let plugin_socket = settings.docker_plugin_socket.clone();
    let store_location = format!("embedded:{}", path.display());
    let saver = Saver::new(path.join(FLOWS_FILE));
    let routing = Routing::start(&settings, restarted).map_err(StartError::Routing)?;
    let parts = Parts {
        settings,
        store,
        store_location,
        host,
        learned_routes,
        attachments,
        publisher,
        flows,
        saver,
        routing,
        clock,
    };
    let mut control = Control::new(parts);
    let desk = Desk::new(requests);
    let workloads = Workloads::new(desk.clone());
    let tidying = tokio::spawn(workloads.clone().keep_tidy());
    let plugin = plugin_socket.map(|path| docker::serve(&path, desk.clone(), workloads.clone()));
    let plugin = plugin.transpose().map_err(StartError::Docker)?;
    let server = http::serve(&socket, desk, workloads)?;
    tracing::info!(socket = %socket.display(), workers, frame_size, "started");

    let mut ready = Some(ready);
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut store_pause: Option<tokio::time::Instant> = None;
    loop {
        let event = tokio::select! {
            biased;
            changed = stop.changed() => {
                if changed.is_err() || *stop.borrow() {
                    break;
                }
                continue;
            }
            event = host_events.next() => match event {
                Ok(event) => Event::Host(event),
                Err(error) => {
                    tracing::error!(%error, "kernel events cannot be read; reading everything again");
                    tokio::time::sleep(TICK).await;
                    Event::Host(crate::host::HostEvent::Overflow)
                }
            },
            event = syncer.next(), if store_pause.is_none_or(|until| until <= tokio::time::Instant::now()) => {
                store_pause = event.is_err().then(|| tokio::time::Instant::now() + STORE_PAUSE);
                Event::Datastore(event)
            }
            event = control.routing.next() => event,
            request = incoming.recv() => match request {
                Some(request) => Event::Api(request),
                None => break,
            },
            _ = tick.tick() => Event::Tick,
        };
        control.handle(event).await;
        // A burst of kernel events is one change.
        while let Some(event) = more(&mut host_events).await {
            control.handle(Event::Host(event)).await;
        }
        // Whoever asked meanwhile is answered together: orders for addresses share a commit.
        for _ in 0..REQUESTS {
            let Ok(request) = incoming.try_recv() else { break };
            control.handle(Event::Api(request)).await;
        }
        control.settle().await;
        if control.is_ready()
            && let Some(ready) = ready.take()
        {
            ready();
        }
    }

    tracing::info!("stopping");
    tidying.abort();
    drop((server, plugin));
    control.attachments.stop();
    for thread in threads {
        if thread.join().is_err() {
            tracing::error!("a worker ended in a panic");
        }
    }
    control.save_all_flows();
    control.routing.stop();
    Ok(())
}

/// Writes manifests that were given at start, all or none.
async fn apply(store: &Embedded, manifests: Vec<Resource>) -> Result<(), StartError> {
    if manifests.is_empty() {
        return Ok(());
    }
    for resource in &manifests {
        for warning in policy::ignored::warnings(resource) {
            tracing::warn!("{warning}");
        }
    }
    // What waits for its confirmation stays as it is; if it is undone, its object is what it was before.
    let pending = store.pending().await?.map(|pending| pending.revision);
    let transactions = store.transactions().await?;
    let waits = transactions.iter().find(|transaction| Some(transaction.revision) == pending);
    let mut writes = Vec::with_capacity(manifests.len());
    for resource in manifests {
        let key = resource.key();
        match waits.and_then(|transaction| transaction.change_of(&key)) {
            Some(_) => tracing::warn!(object = %key, "manifest left out: the object waits for a confirmation"),
            None => writes.push(Write::Put(resource)),
        }
    }
    let count = writes.len();
    store.commit_as(writes, &Note::own("start"), SystemTime::now()).await?;
    tracing::info!(resources = count, "manifests applied");
    Ok(())
}

/// The next kernel event, if one waits.
async fn more(events: &mut crate::host::Events) -> Option<crate::host::HostEvent> {
    tokio::select! {
        biased;
        event = events.next() => event.ok(),
        () = std::future::ready(()) => None,
    }
}

/// Brings the private pair up. The kernel's end may not answer for others nor take its address from the network.
async fn prepare_pair(host: &Host, kernel_end: crate::host::LinkIndex) -> Result<(), HostError> {
    let ours = host.link(HOST_INTERFACE).await?;
    host.set_mac(ours.index, GATEWAY_MAC).await?;
    for name in [HOST_LINK, HOST_INTERFACE] {
        for (key, value) in [("accept_ra", "0"), ("dad_transmits", "0")] {
            // Absent where IPv6 is switched off.
            let _ = crate::host::sysctl::write(&format!("ipv6/conf/{name}/{key}"), value);
        }
    }
    // A socket of ours cannot carry the mark of a partial checksum, and not every protocol's can be told and completed.
    ethtool::set_offloads(kernel_end, &[(Offload::TxChecksum, false)])?;
    // Sources behind an uplink in generic mode come in here, and loose filtering refuses all on a link without an address.
    // Who may use which source the router has judged.
    crate::host::sysctl::write(&format!("ipv4/conf/{HOST_LINK}/rp_filter"), "0")?;
    host.set_up(ours.index, true).await?;
    host.set_up(kernel_end, true).await
}

/// Large frames when an interface that we will attach has long packets.
async fn frame_size(host: &Host, settings: &Settings) -> Result<usize, HostError> {
    let prefix = settings.default_workload_interface_prefix.as_str();
    let is_ours =
        |name: &str| (!prefix.is_empty() && name.starts_with(prefix)) || settings.uplinks.iter().any(|u| u == name);
    let links = host.links().await?;
    let longest = links.iter().filter(|link| is_ours(&link.name)).map(|link| link.mtu).max().unwrap_or(SMALL_MTU);
    Ok(if longest > SMALL_MTU { LARGE_FRAME } else { SMALL_FRAME })
}

/// The cores to pin to, all of them there.
fn cores(settings: &Settings) -> Result<Vec<core_affinity::CoreId>, StartError> {
    let present = core_affinity::get_core_ids().unwrap_or_default();
    let find = |wanted: &usize| {
        let found = present.iter().find(|core| core.id == *wanted).copied();
        found.ok_or_else(|| {
            let known: Vec<String> = present.iter().map(|core| core.id.to_string()).collect();
            StartError::Setting(format!("workers: found core {wanted}, expected one of {}", known.join(", ")))
        })
    };
    settings.workers.iter().map(find).collect()
}

type Spawned = (Vec<JoinHandle<()>>, Vec<Remote<XskQueue>>);

fn spawn(
    workers: Vec<(Worker<XskQueue>, Remote<XskQueue>)>,
    cores: &[core_affinity::CoreId],
) -> Result<Spawned, StartError> {
    let mut threads = Vec::new();
    let mut remotes = Vec::new();
    for (position, ((worker, remote), core)) in workers.into_iter().zip(cores.iter().copied()).enumerate() {
        let thread = std::thread::Builder::new()
            .name(format!("worker-{position}"))
            .spawn(move || {
                if !core_affinity::set_for_current(core) {
                    tracing::warn!(worker = position, core = core.id, "could not be pinned to its core");
                }
                // A worker that panics leaves its queues unserved: their packets are dropped in the kernel. Ending the
                // process lets its supervisor start it again.
                let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| worker.run()));
                if outcome.is_err() {
                    tracing::error!(worker = position, "worker failed; stopping the process");
                    std::process::abort();
                }
            })
            .map_err(|source| StartError::Thread { worker: position, source })?;
        threads.push(thread);
        let closer = remote.closer();
        let thread = std::thread::Builder::new()
            .name(format!("closer-{position}"))
            .spawn(move || closer.run())
            .map_err(|source| StartError::Thread { worker: position, source })?;
        threads.push(thread);
        remotes.push(remote);
    }
    Ok((threads, remotes))
}

/// Where the embedded store lives, for messages.
pub fn store_path(settings: &Settings) -> PathBuf {
    let settings::Datastore::Embedded(path) = &settings.datastore;
    path.clone()
}
