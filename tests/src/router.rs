//! Workers over queues in memory, with the far ends in the test's hands.
//!
//! ```text
//!     send("a", ..) ─▶ [ far end of a ] ─▶ worker ─▶ [ far end of b ] ─▶ received("b")
//! ```
//!
//! Nothing moves by itself: a test says when a worker breathes, what time it is, and when new tables are published. Each
//! attachment has one queue, on the worker that owns it; a packet that leaves by another worker's interface is handed
//! over as in the daemon.
//!
//! Invariant, checked when a router is dropped: every frame of every worker is free again. That packets in are packets
//! accounted for, the worker itself asserts after each breath.

use std::sync::Arc;
use std::time::Duration;

use fastpath::burst::DropReason;
use fastpath::flow::{FlowTable, FlowWriter};
use fastpath::header::ethernet;
use fastpath::io::memory::{FarEnd, MemoryQueue};
use fastpath::io::umem::Umem;
use fastpath::pipeline::Now;
use fastpath::rcu::Publisher;
use fastpath::table::Tables;
use fastpath::table::interface::InterfaceKind;
use fastpath::worker::{self, Clock, Command, Parts, Poll, Remote, Worker};

use crate::decode::{View, hex};
use crate::packet::{Link, Packet};
use crate::plan::Plan;

/// Breaths after which a packet must have arrived somewhere: one to receive and hand over, one to send.
const BREATHS: usize = 4;

/// Sizes of a router.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub workers: usize,
    /// Per worker.
    pub frames: usize,
    pub frame_size: usize,
    /// Packets that each ring of each queue holds.
    pub ring: usize,
    pub flows: u32,
    /// Flows of one interface on one worker.
    pub quota: u32,
    pub poll: Poll,
}

impl Default for Options {
    fn default() -> Self {
        Self { workers: 1, frames: 1024, frame_size: 2048, ring: 512, flows: 4096, quota: u32::MAX, poll: Poll::Always }
    }
}

/// What became of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    Forwarded {
        /// The attachment by which it left.
        on: String,
        frame: Vec<u8>,
    },
    Answered(Vec<u8>),
    Punted(Vec<u8>),
    Dropped(DropReason),
    /// The queue had no frame for it, so the worker never saw it.
    NotReceived,
}

impl Fate {
    /// The frame that left by `on`; every checksum in it must be right.
    #[track_caller]
    pub fn forwarded(self, on: &str) -> View {
        View::sound(&self.forwarded_frame(on))
    }

    #[track_caller]
    pub fn forwarded_frame(self, on: &str) -> Vec<u8> {
        match self {
            Fate::Forwarded { on: found, frame } if found == on => frame,
            other => panic!("expected forwarded on {on}, got {other}"),
        }
    }

    /// The answer; every checksum in it must be right.
    #[track_caller]
    pub fn answered(self) -> View {
        match self {
            Fate::Answered(frame) => View::sound(&frame),
            other => panic!("expected an answer, got {other}"),
        }
    }

    #[track_caller]
    pub fn dropped(self, reason: DropReason) {
        assert_eq!(self, Fate::Dropped(reason), "got {self}");
    }
}

impl std::fmt::Display for Fate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = |frame: &[u8]| View::of(frame).map_or_else(|_| hex(frame), |view| view.to_string());
        match self {
            Fate::Forwarded { on, frame } => write!(f, "forwarded on {on}: {}", text(frame)),
            Fate::Answered(frame) => write!(f, "answered: {}", text(frame)),
            Fate::Punted(frame) => write!(f, "punted: {}", text(frame)),
            Fate::Dropped(reason) => write!(f, "dropped: {}", reason.name()),
            Fate::NotReceived => write!(f, "not received"),
        }
    }
}

/// The workers of a node, and everything around them.
pub struct Router {
    pub plan: Plan,
    pub(crate) workers: Vec<(Worker<MemoryQueue>, Remote<MemoryQueue>)>,
    /// By attachment.
    pub(crate) far_ends: Vec<FarEnd>,
    inboxes: Vec<Vec<Vec<u8>>>,
    pub(crate) publisher: Publisher<Tables>,
    flows: Arc<FlowTable>,
    generation: u32,
    now: Duration,
}

/// Totals over all workers, to see what one packet changed.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Totals {
    received: u64,
    sent: u64,
    answered: u64,
    punted: u64,
    in_flight: u64,
    dropped: Vec<u64>,
}

impl Router {
    pub fn new(plan: Plan) -> Router {
        Router::with(plan, Options::default())
    }

    /// The small node, changed.
    pub fn small(change: impl FnOnce(&mut Plan)) -> Router {
        let mut plan = Plan::small();
        change(&mut plan);
        Router::new(plan)
    }

    pub fn with(plan: Plan, options: Options) -> Router {
        // The same keys every time, so that a test repeats.
        let flows = FlowTable::with_hasher(options.flows, ahash::RandomState::with_seeds(1, 2, 3, 4));
        let mut tables = plan.tables(1);
        plan.translate(&mut tables, flows.sources());
        let publisher = Publisher::new(tables);
        let parts = (0..options.workers)
            .map(|index| Parts {
                umem: Umem::heap(options.frame_size, options.frames),
                flows: FlowWriter::new(flows.clone(), index, options.workers, publisher.grace())
                    .with_quota(options.quota),
                tables: publisher.reader(),
                poll: options.poll,
                clock: Clock::start(),
            })
            .collect();
        let workers = worker::build(parts).expect("workers need an epoll descriptor each");
        let inboxes = vec![Vec::new(); plan.attachments.len()];
        // An hour, so that nothing is decided by a clock that begins at zero.
        let now = Duration::from_secs(3600);
        let mut router = Router { plan, workers, far_ends: Vec::new(), inboxes, publisher, flows, generation: 1, now };
        for attachment in router.plan.attachments.clone() {
            let (queue, far_end) = MemoryQueue::pair(options.ring);
            let index = router.plan.index(&attachment.name);
            router.workers[usize::from(attachment.owner)].0.attach(index, queue);
            router.far_ends.push(far_end);
        }
        router
    }

    /// Changes the plan and publishes the tables that follow from it.
    pub fn update(&mut self, change: impl FnOnce(&mut Plan)) {
        change(&mut self.plan);
        self.generation += 1;
        let mut tables = self.plan.tables(self.generation);
        self.plan.translate(&mut tables, self.flows.sources());
        self.publisher.publish(tables);
    }

    /// Publishes tables that were made elsewhere for the same attachments.
    pub fn publish(&mut self, tables: impl FnOnce(&Plan, u32) -> Tables) {
        self.generation += 1;
        self.publisher.publish(tables(&self.plan, self.generation));
    }

    /// A packet from the attachment's peer, in a frame as that one would make it.
    pub fn frame(&self, from: &str, packet: &Packet) -> Vec<u8> {
        packet.frame(&self.plan.at(from).link())
    }

    /// A network packet from the attachment's peer in such a frame.
    pub fn wrap(&self, from: &str, network: &[u8]) -> Vec<u8> {
        let ethertype = if network.first().is_some_and(|byte| byte >> 4 == 6) { 0x86dd } else { 0x0800 };
        self.plan.at(from).link().frame(network, ethertype)
    }

    /// Lets a frame arrive.
    pub fn send(&mut self, from: &str, frame: &[u8]) {
        let index = self.plan.index(from).index();
        assert!(self.far_ends[index].push(frame), "the ring of {from} is full");
    }

    /// Gives a worker a frame as control would.
    pub fn inject(&mut self, from: &str, frame: &[u8]) {
        let attachment = self.plan.at(from);
        let remote = &self.workers[usize::from(attachment.owner)].1;
        assert!(remote.inject.send(self.plan.index(from), [frame].into_iter()), "the ring from control is full");
    }

    /// Every worker breathes once, a millisecond later than before.
    pub fn breathe(&mut self) {
        for worker in 0..self.workers.len() {
            self.breathe_one(worker);
        }
    }

    pub fn breathe_one(&mut self, worker: usize) -> usize {
        self.now += Duration::from_millis(1);
        let now = Now(self.now.as_nanos() as u64);
        let packets = self.workers[worker].0.breathe(now);
        for (inbox, far_end) in self.inboxes.iter_mut().zip(&self.far_ends) {
            inbox.extend(far_end.pop_all());
        }
        packets
    }

    /// Breathes without taking out what was sent, as if nobody were at the other end.
    pub fn breathe_unheard(&mut self) {
        let now = Now(self.now.as_nanos() as u64);
        for (worker, _) in &mut self.workers {
            worker.breathe(now);
        }
    }

    /// Time goes by, without a breath.
    pub fn advance(&mut self, by: Duration) {
        self.now += by;
    }

    /// Sends one packet and says what became of it.
    pub fn fate(&mut self, from: &str, packet: &Packet) -> Fate {
        self.fate_of_frame(from, &self.frame(from, packet))
    }

    /// The same for a packet that the host's own stack sends by an uplink: the kernel's frame, by the private pair.
    pub fn fate_from_host(&mut self, uplink: &str, packet: &Packet) -> Fate {
        let host = self.plan.attachments.iter().find(|attachment| attachment.kind == InterfaceKind::Host);
        let host = host.expect("a way to the host").name.clone();
        let link = Link {
            destination: self.plan.at(uplink).peer_mac,
            source: ethernet::link_mac(self.plan.link_number(uplink)).expect("a small number"),
            tags: [0; 2],
        };
        self.fate_of_frame(&host, &packet.frame(&link))
    }

    /// The same for a network packet that no `Packet` stands for, such as a fragment.
    pub fn fate_of_bytes(&mut self, from: &str, network: &[u8]) -> Fate {
        self.fate_of_frame(from, &self.wrap(from, network))
    }

    pub fn fate_of_frame(&mut self, from: &str, frame: &[u8]) -> Fate {
        self.observe(|router| {
            router.send(from, frame);
            router.settle();
        })
    }

    /// What becomes of the one packet that `act` lets in.
    pub fn observe(&mut self, act: impl FnOnce(&mut Router)) -> Fate {
        let before = self.totals();
        let waiting: Vec<usize> = self.inboxes.iter().map(Vec::len).collect();
        act(self);
        let after = self.totals();
        let dropped =
            DropReason::ALL.iter().find(|reason| after.dropped[**reason as usize] > before.dropped[**reason as usize]);
        if let Some(reason) = dropped {
            return Fate::Dropped(*reason);
        }
        if after.punted > before.punted {
            return Fate::Punted(self.punted().pop().expect("counted, so it is there"));
        }
        let arrived = (0..self.inboxes.len()).find(|index| self.inboxes[*index].len() > waiting[*index]);
        match arrived {
            None if after.received == before.received => Fate::NotReceived,
            None => panic!("a packet vanished: {before:?}, then {after:?}"),
            Some(index) => {
                let frame = self.inboxes[index].pop().expect("longer than before");
                if after.answered > before.answered {
                    Fate::Answered(frame)
                } else {
                    Fate::Forwarded { on: self.plan.attachments[index].name.clone(), frame }
                }
            }
        }
    }

    /// Breathes until nothing is on its way between workers.
    pub fn settle(&mut self) {
        for _ in 0..BREATHS {
            self.breathe();
            if self.totals().in_flight == 0 && self.far_ends.iter().all(|far_end| far_end.waiting() == 0) {
                return;
            }
        }
        panic!("packets are still on their way after {BREATHS} breaths");
    }

    /// What has left by an attachment since the last call.
    pub fn received(&mut self, on: &str) -> Vec<Vec<u8>> {
        let index = self.plan.index(on).index();
        std::mem::take(&mut self.inboxes[index])
    }

    /// What control has been given since the last call.
    pub fn punted(&mut self) -> Vec<Vec<u8>> {
        let lanes = self.workers.iter().map(|(_, remote)| &remote.punt);
        lanes.flat_map(|lane| std::iter::from_fn(|| lane.receive(|buffer| buffer.bytes().to_vec()))).collect()
    }

    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.workers.iter().map(|(_, remote)| remote.counters.dropped[reason as usize].get()).sum()
    }

    pub fn sent(&self) -> u64 {
        self.totals().sent
    }

    pub fn answered(&self) -> u64 {
        self.totals().answered
    }

    pub fn remote(&self, worker: usize) -> &Remote<MemoryQueue> {
        &self.workers[worker].1
    }

    pub fn flows(&self) -> &FlowTable {
        &self.flows
    }

    fn totals(&self) -> Totals {
        let counters: Vec<_> = self.workers.iter().map(|(_, remote)| &remote.counters).collect();
        Totals {
            received: counters.iter().map(|c| c.received.get() + c.injected.get()).sum(),
            sent: counters.iter().map(|c| c.sent.get()).sum(),
            answered: counters.iter().map(|c| c.answered.get()).sum(),
            punted: counters.iter().map(|c| c.punted.get()).sum(),
            in_flight: counters.iter().map(|c| c.handed_off.get()).sum::<u64>()
                - counters.iter().map(|c| c.handed_in.get()).sum::<u64>(),
            dropped: (0..DropReason::ALL.len()).map(|i| counters.iter().map(|c| c.dropped[i].get()).sum()).collect(),
        }
    }
}

impl Drop for Router {
    /// Stops the workers, which makes each of them count its frames.
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        for (worker, remote) in self.workers.drain(..) {
            let _ = remote.commands.push(Command::Stop);
            worker.run();
        }
    }
}
