//! Interfaces of the fast path: for each a program, sockets, and a worker per queue.
//!
//! An interface is attached in this order: program loaded, sockets bound and registered, queues given to their workers,
//! program put on the link. Until the last step the kernel has the packets, afterwards nobody but us. It is detached in
//! three: out of the tables, then queues closed and flows forgotten, and when every worker has done that its index is
//! free. The program stays on the link: what arrives there from then on is dropped.
//!
//! An uplink with a host endpoint is *guarded*: another program takes the place of its own, on the same sockets, when the
//! tables know of the endpoint, and gives it back when they do not any more. An uplink that leaves goes back to the kernel.
//!
//! A workload's interface is prepared on the way (`host::prepare`): its host side before sockets are bound, its inside when it
//! is up. What fails there is told, and the interface attached all the same.
//!
//! An endpoint's interface can be moved from one worker to another: its sockets are closed and bound anew.
//!
//! Left out: which interfaces are wanted (`control`), where endpoints should be (`placement`), and what the tables say of them
//! (`compile`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

use fastpath::flow::FlowView;
use fastpath::io::guard::{HostWay, Openings};
use fastpath::io::program::{Preference, Program, ProgramCounters, ProgramError, Role};
use fastpath::io::shared::Shared;
use fastpath::io::xsk::{QueueOptions, QueueWatch, XskError, XskMemory, XskQueue};
use fastpath::io::{CopyMode, XdpMode};
use fastpath::mapped::Extent;
use fastpath::stats::counters::MAX_INTERFACES;
use fastpath::table::interface::InterfaceKind;
use fastpath::table::{InterfaceIndex, WorkerIndex};
use fastpath::worker::{Command, Remote};

use crate::compile::Attachment;
use crate::host::peer::Namespaces;
use crate::host::prepare::{self, BusyPolling, Inside, Outcome};
use crate::host::{Link, LinkIndex, ethtool};
use crate::placement::Placement;
use crate::workload::wire;

mod losses;
mod recipe;
mod rehome;

pub use losses::KernelDrops;
pub use recipe::Recipe;
pub use rehome::Moved;

/// Largest layer 2 header in front of a packet of MTU size.
const LAYER2: u32 = 22;

/// Why an interface could not be attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    #[error("attach {name}")]
    Program { name: String, source: Box<ProgramError> },
    #[error("attach {name}")]
    Socket { name: String, source: XskError },
    #[error("attach {name}: hold its sockets")]
    Watch { name: String, source: std::io::Error },
    #[error("attach {name}: {MAX_INTERFACES} interfaces are attached already")]
    TooMany { name: String },
    #[error("move {name}: no such interface is attached")]
    Unknown { name: String },
    #[error("move {name}: every worker has a queue of it; only endpoints' interfaces have one worker")]
    Shared { name: String },
    #[error("move {name} to worker {worker}: found {workers} worker(s), numbered from 0")]
    NoSuchWorker { name: String, worker: usize, workers: usize },
    #[error("move {name}: worker {worker} did not let it go within {} ms", rehome::PATIENCE.as_millis())]
    Held { name: String, worker: usize },
    #[error("let packets through to the host")]
    HostWay(#[source] ProgramError),
}

/// Which uplinks have a host endpoint, and what is open there without the router.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Guards {
    pub interfaces: BTreeSet<String>,
    pub openings: Openings,
}

/// A queue of an attached interface.
#[derive(Debug, Clone, Copy)]
pub struct QueueState {
    pub queue: u32,
    pub worker: WorkerIndex,
    pub copy: CopyMode,
    /// The worker polls the driver.
    pub busy_poll: bool,
}

struct Attached {
    attachment: Attachment,
    program: Program,
    is_guarded: bool,
    /// What programs before it counted here.
    earlier: ProgramCounters,
    mode: XdpMode,
    queues: Vec<QueueState>,
    options: QueueOptions,
    /// Packets may be longer than a frame.
    multi_buffer: bool,
    /// The sockets of the queues, to read what the kernel counts there.
    watches: Vec<QueueWatch>,
    prepared: Vec<Outcome>,
    /// False while the inside waits for the interface to be up.
    is_prepared: bool,
    _polling: Option<BusyPolling>,
    /// What the kernel counted at sockets before them.
    earlier_sockets: KernelDrops,
}

/// A worker as control knows it.
struct Peer {
    memory: XskMemory,
    remote: Remote<XskQueue>,
    /// Commands that found the ring full.
    waiting: VecDeque<Command<XskQueue>>,
    /// Commands given so far.
    given: u64,
    queues: usize,
}

/// All attached interfaces, and the workers that serve them.
pub struct Attachments {
    peers: Vec<Peer>,
    by_name: BTreeMap<String, Attached>,
    /// What `compile` sees.
    view: BTreeMap<String, Attachment>,
    /// Out of the tables with the next publication; then to be closed.
    leaving: Vec<InterfaceIndex>,
    /// Closing: free when each worker has carried out so many commands.
    closing: Vec<(InterfaceIndex, Vec<u64>)>,
    free: Vec<InterfaceIndex>,
    preference: Preference,
    prefixes: Vec<(IpAddr, u8)>,
    shared: Shared,
    guards: Guards,
    host_way: Option<HostWay>,
    frame_room: u32,
    pub recipe: Recipe,
    placement: Placement,
}

impl Attachments {
    pub fn new(workers: Vec<(XskMemory, Remote<XskQueue>)>, preference: Preference, frame_room: usize) -> Self {
        let peers = workers
            .into_iter()
            .map(|(memory, remote)| Peer { memory, remote, waiting: VecDeque::new(), given: 0, queues: 0 })
            .collect();
        Self {
            peers,
            by_name: BTreeMap::new(),
            view: BTreeMap::new(),
            leaving: Vec::new(),
            closing: Vec::new(),
            free: (0..MAX_INTERFACES as u16).rev().map(InterfaceIndex).collect(),
            preference,
            prefixes: Vec::new(),
            shared: Shared::default(),
            guards: Guards::default(),
            host_way: None,
            frame_room: frame_room as u32,
            recipe: Recipe::default(),
            placement: Placement::default(),
        }
    }

    /// What is attached, by name.
    pub fn view(&self) -> &BTreeMap<String, Attachment> {
        &self.view
    }

    pub fn remotes(&self) -> impl Iterator<Item = &Remote<XskQueue>> {
        self.peers.iter().map(|peer| &peer.remote)
    }

    pub fn workers(&self) -> usize {
        self.peers.len()
    }

    /// What the frames of all workers take.
    pub fn frames(&self) -> Extent {
        self.peers.iter().map(|peer| peer.memory.extent()).sum()
    }

    /// How an interface is attached: program mode and queues.
    pub fn state(&self, name: &str) -> Option<(XdpMode, &[QueueState])> {
        self.by_name.get(name).map(|attached| (attached.mode, attached.queues.as_slice()))
    }

    /// What was done to prepare an interface, and what could not be.
    pub fn prepared(&self, name: &str) -> &[Outcome] {
        self.by_name.get(name).map_or(&[], |attached| attached.prepared.as_slice())
    }

    /// What was lost before a worker had it, by interface, since the interface was attached.
    pub fn kernel_drops(&self) -> impl Iterator<Item = (&str, KernelDrops)> {
        self.by_name.iter().map(|(name, attached)| (name.as_str(), attached.kernel_drops()))
    }

    pub fn name_of(&self, index: InterfaceIndex) -> Option<&str> {
        self.view.iter().find(|(_, attachment)| attachment.index == index).map(|(name, _)| name.as_str())
    }

    /// Attaches what is wanted and there, detaches what is not. Errors concern one interface each. What is attached anew is
    /// guarded at once where it should be; what is there already is left to [`Self::guard`].
    pub fn sync(
        &mut self,
        wanted: &BTreeMap<String, InterfaceKind>,
        guards: Guards,
        links: &BTreeMap<LinkIndex, Link>,
        errors: &mut Vec<AttachError>,
    ) {
        self.guards = guards;
        let is_right = |name: &String, attachment: &Attachment| {
            wanted.get(name) == Some(&attachment.kind)
                && links.get(&attachment.link).is_some_and(|link| link.name == *name)
        };
        let gone: Vec<String> =
            self.view.iter().filter(|(name, a)| !is_right(name, a)).map(|(name, _)| name.clone()).collect();
        for name in gone {
            self.detach(&name, links, errors);
        }
        let mut namespaces = Namespaces::default();
        for (name, kind) in wanted {
            if !self.view.contains_key(name) {
                let Some(link) = links.values().find(|link| link.name == *name) else { continue };
                if let Err(error) = self.attach(name, *kind, link, &mut namespaces) {
                    errors.push(error);
                    continue;
                }
            }
            self.prepare_inside(name, links, &mut namespaces);
        }
    }

    fn attach(
        &mut self,
        name: &str,
        kind: InterfaceKind,
        link: &Link,
        namespaces: &mut Namespaces,
    ) -> Result<(), AttachError> {
        let is_guarded = kind == InterfaceKind::Uplink && self.guards.interfaces.contains(name);
        let program_error = |source| AttachError::Program { name: name.to_owned(), source: Box::new(source) };
        if is_guarded || self.shares(kind) {
            self.open_host_way()?;
        }
        let mut program = self.load(kind, is_guarded).map_err(program_error)?;
        let index = *self.free.last().ok_or_else(|| AttachError::TooMany { name: name.to_owned() })?;
        let is_prepared = !self.recipe.prepare_endpoints || kind != InterfaceKind::Workload || !link.is_veth();
        let prepared = if is_prepared { Vec::new() } else { prepare::host_side(link, wire::is_ours(link), namespaces) };
        tell(name, &prepared);
        let options = self.recipe.options(kind, link, self.frame_room);
        let (mut opened, mut watches) = (Vec::new(), Vec::new());
        for (queue, worker) in self.placement(kind, link) {
            let (socket, watch) = open(&self.peers[worker].memory, &mut program, name, queue, options)?;
            opened.push((worker, socket));
            watches.push(watch);
        }
        // The private pair is a veth, which can do it in the driver; generic XDP does not look at what tc redirected there.
        let preference = if kind == InterfaceKind::Host { Preference::Auto } else { self.preference };
        let mode = program.attach(link.index.0, preference).map_err(program_error)?;
        if kind == InterfaceKind::Uplink {
            self.set_mode(link.index, mode).map_err(program_error)?;
        }
        self.free.pop();
        let queues: Vec<QueueState> = opened
            .iter()
            .map(|(worker, socket)| QueueState {
                queue: socket.queue_id(),
                worker: WorkerIndex(*worker as u16),
                copy: socket.copy_mode(),
                busy_poll: socket.is_busy_polled(),
            })
            .collect();
        let is_polled = queues.iter().any(|queue| queue.busy_poll);
        let polling = is_polled.then(|| BusyPolling::start(name)).and_then(|started| {
            started.inspect_err(|error| tracing::warn!(interface = name, %error, "interrupts not put off")).ok()
        });
        let multi_buffer = opened.iter().all(|(_, socket)| socket.is_multi_buffer());
        let owner = queues.first().map_or(WorkerIndex(0), |queue| queue.worker);
        for (worker, socket) in opened {
            self.peers[worker].queues += 1;
            self.command(worker, Command::Attach(index, Box::new(socket)));
        }
        tracing::info!(interface = name, ?kind, ?mode, queues = queues.len(), "attached");
        let attachment = Attachment { index, link: link.index, kind, owner };
        self.view.insert(name.to_owned(), attachment.clone());
        self.by_name.insert(
            name.to_owned(),
            Attached {
                attachment,
                program,
                is_guarded,
                earlier: ProgramCounters::default(),
                mode,
                queues,
                options,
                multi_buffer,
                watches,
                prepared,
                is_prepared,
                _polling: polling,
                earlier_sockets: KernelDrops::default(),
            },
        );
        Ok(())
    }

    /// Prepares the inside of an endpoint, once, when it is up.
    fn prepare_inside(&mut self, name: &str, links: &BTreeMap<LinkIndex, Link>, namespaces: &mut Namespaces) {
        let Some(attached) = self.by_name.get_mut(name).filter(|attached| !attached.is_prepared) else { return };
        // A pair of ours whose other end is here is on its way to a container.
        let is_there = |link: &&Link| link.can_carry() && !(link.peer.is_some() && wire::is_ours(link));
        let Some(link) = links.get(&attached.attachment.link).filter(is_there) else { return };
        let finishes_checksums = self.peers.iter().all(|peer| peer.memory.finishes_checksums());
        // A packet that generic XDP cannot take whole is lost, and large ones come from who need not finish checksums.
        let finish_checksums = !finishes_checksums || attached.mode == XdpMode::Generic;
        let outcomes = prepare::inside(link, Inside { finish_checksums, is_ahead: wire::is_ours(link) }, namespaces);
        tell(name, &outcomes);
        attached.prepared.extend(outcomes);
        attached.is_prepared = true;
    }

    /// A program that knows what it has to know.
    fn load(&self, kind: InterfaceKind, is_guarded: bool) -> Result<Program, ProgramError> {
        let role = match kind {
            InterfaceKind::Workload => Role::Workload,
            InterfaceKind::Uplink if is_guarded => Role::Guarded,
            InterfaceKind::Uplink => Role::Uplink,
            InterfaceKind::Host => Role::Host,
        };
        let multi_buffer = self.peers.first().is_some_and(|peer| peer.memory.multi_buffer());
        let mut program = Program::load(role, multi_buffer)?;
        if kind == InterfaceKind::Uplink {
            program.set_prefixes(&self.prefixes)?;
            program.share(&self.shared)?;
        }
        program.open(&self.guards.openings)?;
        Ok(program)
    }

    /// Puts the program in place that lets frames through from the private pair to the uplinks' receiving sides.
    fn open_host_way(&mut self) -> Result<(), AttachError> {
        let Some(pair) = self.guards.openings.private_pair else { return Ok(()) };
        if !self.host_way.as_ref().is_some_and(|way| way.is_on(pair)) {
            let mut way = HostWay::load(pair).map_err(AttachError::HostWay)?;
            let is_uplink = |attached: &&Attached| attached.attachment.kind == InterfaceKind::Uplink;
            for attached in self.by_name.values().filter(is_uplink) {
                way.set_mode(attached.attachment.link.0, attached.mode).map_err(AttachError::HostWay)?;
            }
            way.attach().map_err(AttachError::HostWay)?;
            self.host_way = Some(way);
        }
        Ok(())
    }

    fn set_mode(&mut self, uplink: LinkIndex, mode: XdpMode) -> Result<(), ProgramError> {
        self.host_way.as_mut().map_or(Ok(()), |way| way.set_mode(uplink.0, mode))
    }

    /// To be called when tables that know the host endpoints are published: makes exactly those uplinks guarded.
    pub fn guard(&mut self, errors: &mut Vec<AttachError>) {
        let uplinks = self.by_name.iter().filter(|(_, attached)| attached.attachment.kind == InterfaceKind::Uplink);
        let uplinks: Vec<String> = uplinks.map(|(name, _)| name.clone()).collect();
        let is_guarding = uplinks.iter().any(|name| self.guards.interfaces.contains(name));
        let is_needed = is_guarding || self.shares(InterfaceKind::Uplink);
        if is_needed && let Err(error) = self.open_host_way() {
            errors.push(error);
            return;
        }
        for name in uplinks {
            if let Err(source) = self.guard_one(&name) {
                errors.push(AttachError::Program { name, source: Box::new(source) });
            }
        }
        if !is_needed && let Some(pair) = self.guards.openings.private_pair {
            self.host_way = None;
            if let Err(source) = HostWay::detach(pair) {
                errors.push(AttachError::HostWay(source));
            }
        }
    }

    fn guard_one(&mut self, name: &str) -> Result<(), ProgramError> {
        let is_wanted = self.guards.interfaces.contains(name);
        let Some(attached) = self.by_name.get_mut(name) else { return Ok(()) };
        if attached.is_guarded == is_wanted {
            return attached.program.open(&self.guards.openings);
        }
        let Some(attached) = self.by_name.get(name) else { return Ok(()) };
        let mut program = self.load(InterfaceKind::Uplink, is_wanted)?;
        for (queue, watch) in attached.queues.iter().zip(&attached.watches) {
            program.register(queue.queue, watch.map_fd())?;
        }
        let link = attached.attachment.link;
        let mode = program.attach(link.0, self.preference)?;
        self.set_mode(link, mode)?;
        if let Some(attached) = self.by_name.get_mut(name) {
            attached.earlier = attached.counted();
            attached.program = program;
            attached.is_guarded = is_wanted;
            attached.mode = mode;
        }
        tracing::info!(interface = name, guarded = is_wanted, "host endpoint");
        Ok(())
    }

    /// Whether the interface's host endpoint is in force.
    pub fn is_guarded(&self, name: &str) -> bool {
        self.by_name.get(name).is_some_and(|attached| attached.is_guarded)
    }

    /// Which worker has which queue: those of shared interfaces go round, an endpoint goes where there is least.
    fn placement(&self, kind: InterfaceKind, link: &Link) -> Vec<(u32, usize)> {
        let workers = self.peers.len();
        let queues = match kind {
            InterfaceKind::Host => workers as u32,
            _ => ethtool::channels(link.index).ok().flatten().map_or(1, |c| c.rx.max(c.combined).max(1)),
        };
        if kind == InterfaceKind::Workload {
            let queues_of_each: Vec<usize> = self.peers.iter().map(|peer| peer.queues).collect();
            let least = self.placement.place(&queues_of_each, &self.candidates());
            return (0..queues).map(|queue| (queue, least)).collect();
        }
        (0..queues).map(|queue| (queue, queue as usize % workers)).collect()
    }

    fn detach(&mut self, name: &str, links: &BTreeMap<LinkIndex, Link>, errors: &mut Vec<AttachError>) {
        self.view.remove(name);
        if let Some(mut attached) = self.by_name.remove(name) {
            attached.unregister(name);
            // An uplink was the kernel's before it was ours. A workload's interface was nobody's else.
            let link = attached.attachment.link;
            if attached.attachment.kind == InterfaceKind::Uplink && links.contains_key(&link) {
                let result = Program::detach(link.0);
                errors.extend(
                    result.err().map(|source| AttachError::Program { name: name.to_owned(), source: Box::new(source) }),
                );
            }
            tracing::info!(interface = name, "detached");
            for queue in &attached.queues {
                if let Some(peer) = self.peers.get_mut(queue.worker.index()) {
                    peer.queues -= 1;
                }
            }
            self.leaving.push(attached.attachment.index);
        }
    }

    /// To be called when tables without the leaving interfaces are published.
    pub fn published(&mut self) {
        for index in std::mem::take(&mut self.leaving) {
            for worker in 0..self.peers.len() {
                self.command(worker, Command::Detach(index));
                self.command(worker, Command::Purge(index));
            }
            self.closing.push((index, self.peers.iter().map(|peer| peer.given).collect()));
        }
    }

    /// Gives workers what waits for them, and takes indexes back that nobody uses any more.
    pub fn tick(&mut self) {
        for peer in &mut self.peers {
            peer.push_waiting();
        }
        let done: Vec<u64> = self.peers.iter().map(|peer| peer.remote.counters.commands.get()).collect();
        let (free, closing): (Vec<_>, Vec<_>) = std::mem::take(&mut self.closing)
            .into_iter()
            .partition(|(_, targets)| targets.iter().zip(&done).all(|(target, done)| done >= target));
        self.closing = closing;
        // At the far end, so that an index rests as long as possible.
        self.free.splice(0..0, free.into_iter().map(|(index, _)| index));
    }

    /// Tells the programs of uplinks which prefixes are ours.
    pub fn set_prefixes(&mut self, prefixes: &[(IpAddr, u8)]) -> Vec<AttachError> {
        if self.prefixes == prefixes {
            return Vec::new();
        }
        self.prefixes = prefixes.to_vec();
        let uplinks = self.by_name.iter_mut().filter(|(_, a)| a.attachment.kind == InterfaceKind::Uplink);
        uplinks
            .filter_map(|(name, attached)| {
                let result = attached.program.set_prefixes(prefixes);
                result.err().map(|source| AttachError::Program { name: name.clone(), source: Box::new(source) })
            })
            .collect()
    }

    /// Tells the programs of uplinks which addresses the host shares with workloads. What is then for the host after all needs
    /// a way there: to be called before [`Self::guard`], which sees to it.
    pub fn share(&mut self, shared: &Shared) -> Vec<AttachError> {
        if self.shared == *shared {
            return Vec::new();
        }
        self.shared = shared.clone();
        let way = if shared.addresses.is_empty() { Ok(()) } else { self.open_host_way() };
        let uplinks = self.by_name.iter_mut().filter(|(_, a)| a.attachment.kind == InterfaceKind::Uplink);
        let told = uplinks.filter_map(|(name, attached)| {
            let result = attached.program.share(shared);
            result.err().map(|source| AttachError::Program { name: name.clone(), source: Box::new(source) })
        });
        way.err().into_iter().chain(told).collect()
    }

    /// True when interfaces of that kind give the host what the router does not know.
    fn shares(&self, kind: InterfaceKind) -> bool {
        kind == InterfaceKind::Uplink && !self.shared.addresses.is_empty()
    }

    /// Interfaces whose packets do not fit the frames.
    pub fn oversized<'a>(&'a self, links: &'a BTreeMap<LinkIndex, Link>) -> impl Iterator<Item = String> + 'a {
        let bounded = self.by_name.values().filter(|attached| !attached.multi_buffer);
        let links = bounded.filter_map(|attached| links.get(&attached.attachment.link));
        links.filter(|link| link.mtu + LAYER2 > self.frame_room).map(|link| {
            format!(
                "{}: MTU {} does not fit frames of {} bytes, longer packets are dropped; restart the router to take \
                     larger frames",
                link.name, link.mtu, self.frame_room
            )
        })
    }

    /// Hands flows of an earlier process to the workers, as many to each.
    pub fn restore(&mut self, mut flows: Vec<FlowView>) {
        for worker in 0..self.peers.len() {
            let share = flows.len().div_ceil(self.peers.len() - worker);
            let own = flows.split_off(flows.len() - share);
            self.command(worker, Command::Restore(own));
        }
    }

    /// True when the workers have carried out every command.
    pub fn is_obeyed(&self) -> bool {
        self.peers.iter().all(|peer| peer.remote.counters.commands.get() >= peer.given)
    }

    /// Ends the workers. Sockets close with them; programs stay and drop.
    pub fn stop(&mut self) {
        // A socket is closed when the last hold on it is gone.
        self.by_name.values_mut().for_each(|attached| attached.watches.clear());
        for worker in 0..self.peers.len() {
            self.command(worker, Command::Stop);
        }
    }

    fn command(&mut self, worker: usize, command: Command<XskQueue>) {
        let Some(peer) = self.peers.get_mut(worker) else { return };
        peer.given += 1;
        peer.waiting.push_back(command);
        peer.push_waiting();
    }
}

/// Binds a socket to a queue, for the packets that the program redirects there.
fn open(
    memory: &XskMemory,
    program: &mut Program,
    name: &str,
    queue: u32,
    options: QueueOptions,
) -> Result<(XskQueue, QueueWatch), AttachError> {
    let opening = memory.open(name, queue, options);
    let socket = opening.map_err(|source| AttachError::Socket { name: name.to_owned(), source })?;
    let registering = program.register(queue, socket.map_fd());
    registering.map_err(|source| AttachError::Program { name: name.to_owned(), source: Box::new(source) })?;
    let watch = socket.watch().map_err(|source| AttachError::Watch { name: name.to_owned(), source })?;
    Ok((socket, watch))
}

fn tell(interface: &str, outcomes: &[Outcome]) {
    for Outcome { step, failure } in outcomes {
        if let Some(reason) = failure {
            tracing::warn!(interface, step = step.name(), reason, "endpoint not prepared");
        }
    }
}

impl Peer {
    fn push_waiting(&mut self) {
        while let Some(command) = self.waiting.pop_front() {
            if let Err(command) = self.remote.commands.push(command) {
                self.waiting.push_front(command);
                break;
            }
        }
        self.remote.doorbell.ring();
    }
}
