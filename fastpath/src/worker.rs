//! A worker: one core, its queues, its frames, its share of the flow table.
//!
//! One turn of the loop is a *breath*: take the snapshot, gather a burst, run the stages, send. Around it: the clock, the
//! commands of control, the sweep over old flows, and sleep. A worker with nothing to do spins for a short while (`patience`) and then
//! waits in epoll; it is offline to `rcu` while it sleeps.
//!
//! Invariant, checked after every breath: packets in = packets accounted for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam::queue::ArrayQueue;
use crossbeam::utils::CachePadded;

use crate::burst::{BURST, Burst};
use crate::closer::{self, Closer, Closers, Closing};
use crate::flow::tcp_state::State;
use crate::flow::{FlowView, FlowWriter};
use crate::handoff::{self, Incoming, Lane, Outgoing};
use crate::interfaces::Interfaces;
use crate::io::Queue;
use crate::io::sleep::{Sleeper, Waker};
use crate::io::umem::{Released, Umem};
use crate::packet::Packet;
use crate::patience::Patience;
use crate::pipeline::{Now, Pipeline};
use crate::rcu::Reader;
use crate::stage::{rx, tx};
use crate::stats::counters::Counters;
use crate::stats::record::{Recorder, Records};
use crate::table::{InterfaceIndex, Tables, WorkerIndex};

/// Longest sleep: flows are swept and frames reclaimed even when nothing happens.
const NAP: Duration = Duration::from_millis(100);
/// Commands that wait for a worker; control retries when the ring is full.
pub const COMMANDS: usize = 256;
/// Packets that wait for control, or from control.
pub const PUNT_DEPTH: usize = 64;

/// What a worker does when there is nothing to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Poll {
    /// Spin for a moment, then sleep until something arrives.
    #[default]
    Sleep,
    /// Never sleep: for cores that have nothing else to do.
    Always,
}

/// The clock that all workers of a process share. It does not begin at zero: what happened in an earlier process, and still
/// matters, has a time on it.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    const BEGINNING: Duration = Duration::from_secs(State::LONGEST_TIMEOUT as u64);

    pub fn start() -> Self {
        Self(Instant::now())
    }

    pub fn now(&self) -> Now {
        Now((Self::BEGINNING + self.0.elapsed()).as_nanos() as u64)
    }
}

/// What control asks of a worker.
pub enum Command<Q> {
    Attach(InterfaceIndex, Box<Q>),
    /// Let the interface's queues go; who closes them is said in `closer.rs`.
    Detach(InterfaceIndex),
    /// Forget every flow that uses the interface.
    Purge(InterfaceIndex),
    /// Enter flows of an earlier process, as many as there is room for.
    Restore(Vec<FlowView>),
    Stop,
    /// Take the frames of a closed queue back. Said by a closer, and not counted among the commands of control.
    Recover(Released),
}

/// The ends that control and the other workers hold.
pub struct Remote<Q: Queue> {
    pub counters: Arc<Counters>,
    pub commands: Arc<ArrayQueue<Command<Q>>>,
    pub records: Records,
    pub punt: Lane,
    pub inject: Lane,
    pub doorbell: Doorbell,
    closers: Closers<Q>,
}

impl<Q: Queue> Remote<Q> {
    /// Who closes the queues that the worker lets go, for a thread of its own.
    pub fn closer(&self) -> Closer<Q> {
        self.closers.closer(&self.commands, &self.doorbell)
    }
}

/// Wakes a worker, if it sleeps.
#[derive(Clone)]
pub struct Doorbell {
    asleep: Arc<CachePadded<AtomicBool>>,
    waker: Waker,
}

impl Doorbell {
    /// Call after something was put where the worker looks before it sleeps.
    pub fn ring(&self) {
        // Pairs with the fence in `Worker::sleep`: either it sees what was put there, or we see it asleep.
        std::sync::atomic::fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) {
            self.waker.wake();
        }
    }
}

/// Everything a worker is made of.
pub struct Worker<Q: Queue> {
    index: WorkerIndex,
    umem: Umem,
    interfaces: Interfaces<Q>,
    pipeline: Pipeline,
    tables: Reader<Tables>,
    burst: Burst,
    received: Vec<Packet>,
    counters: Arc<Counters>,
    commands: Arc<ArrayQueue<Command<Q>>>,
    records: Option<Recorder>,
    punt: Lane,
    inject: Lane,
    /// From each worker to this one, and from this one to each.
    incoming: Vec<Incoming>,
    outgoing: Vec<Outgoing>,
    doorbells: Vec<Doorbell>,
    sleeper: Sleeper,
    asleep: Arc<CachePadded<AtomicBool>>,
    poll: Poll,
    clock: Clock,
    closing: Closing<Q>,
    is_stopped: bool,
    /// Packets wait in a queue until its other side has taken earlier ones.
    is_held_up: bool,
}

/// What is needed to make a worker, beside its place among the others.
pub struct Parts {
    pub umem: Umem,
    pub flows: FlowWriter,
    pub tables: Reader<Tables>,
    pub poll: Poll,
    pub clock: Clock,
}

/// Makes all workers of a node, with the lanes between them.
pub fn build<Q: Queue>(parts: Vec<Parts>) -> std::io::Result<Vec<(Worker<Q>, Remote<Q>)>> {
    let count = parts.len();
    let mut ends: Vec<(Vec<Outgoing>, Vec<Incoming>)> = (0..count).map(|_| (Vec::new(), Vec::new())).collect();
    for from in 0..count {
        for to in 0..count {
            // The way to oneself is never used.
            let (outgoing, incoming) = handoff::pair(if from == to { 1 } else { handoff::RING });
            ends[from].0.push(outgoing);
            ends[to].1.push(incoming);
        }
    }
    let mut workers = Vec::with_capacity(count);
    for (position, (part, (outgoing, incoming))) in parts.into_iter().zip(ends).enumerate() {
        let sleeper = Sleeper::new()?;
        let asleep = Arc::new(CachePadded::new(AtomicBool::new(false)));
        let doorbell = Doorbell { asleep: asleep.clone(), waker: sleeper.waker() };
        let (closing, closers) = closer::pair();
        let remote = Remote {
            counters: Counters::new(),
            commands: Arc::new(ArrayQueue::new(COMMANDS)),
            records: crate::stats::record::ring(),
            punt: Lane::new(PUNT_DEPTH),
            inject: Lane::new(PUNT_DEPTH),
            doorbell,
            closers,
        };
        remote.counters.frames_total.set(part.umem.frame_count() as u64);
        let worker = Worker {
            index: WorkerIndex(position as u16),
            umem: part.umem,
            interfaces: Interfaces::default(),
            pipeline: Pipeline::new(part.flows),
            tables: part.tables,
            burst: Burst::with_capacity(),
            received: Vec::with_capacity(BURST),
            counters: remote.counters.clone(),
            commands: remote.commands.clone(),
            records: Some(Recorder::new(remote.records.clone())),
            punt: remote.punt.clone(),
            inject: remote.inject.clone(),
            incoming,
            outgoing,
            doorbells: Vec::new(),
            sleeper,
            asleep,
            poll: part.poll,
            clock: part.clock,
            closing,
            is_stopped: false,
            is_held_up: false,
        };
        workers.push((worker, remote));
    }
    let doorbells: Vec<Doorbell> = workers.iter().map(|(_, remote)| remote.doorbell.clone()).collect();
    for (worker, _) in &mut workers {
        worker.doorbells.clone_from(&doorbells);
    }
    Ok(workers)
}

impl<Q: Queue> Worker<Q> {
    /// Takes a queue in before the worker runs; afterwards control sends [`Command::Attach`].
    pub fn attach(&mut self, interface: InterfaceIndex, queue: Q) {
        if let Some(fd) = queue.fd() {
            // A queue that cannot wake us is still looked at after every nap.
            let _ = self.sleeper.add(fd, u64::from(interface.0));
        }
        self.interfaces.attach(interface, queue, &mut self.umem);
    }

    /// Records nothing from now on. For benchmarks: what recording costs is the difference.
    pub fn stop_recording(&mut self) {
        self.records = None;
    }

    /// One breath. Returns how many packets passed.
    pub fn breathe(&mut self, now: Now) -> usize {
        let tables = self.tables.enter();
        let counters = &*self.counters;
        let burst = &mut self.burst;
        let umem = &mut self.umem;

        rx::burst(burst, &mut self.interfaces, umem, &self.inject, &mut self.received, now, counters);
        let gathered = burst.slots.len();
        let mut handed_off = 0;
        if gathered > 0 {
            self.pipeline.run(burst, umem, tables, now, |_, _, _| {});
            let before = counters.handed_off.get();
            if let Some(records) = &mut self.records {
                records.begin_breath();
            }
            let mut exits = tx::Exits {
                worker: self.index,
                handoff: &mut self.outgoing,
                punt: &self.punt,
                records: self.records.as_mut(),
                generation: tables.generation,
            };
            tx::burst(burst, &mut self.interfaces, umem, tables, &mut exits, counters);
            handed_off = counters.handed_off.get() - before;
        }
        let handed_in = tx::handed_in(&mut self.incoming, &mut self.interfaces, umem, counters);
        self.is_held_up = self.interfaces.settle(umem);
        if gathered == 0 {
            self.interfaces.look_at_all();
        }

        assert_eq!(counters.packets_in(), counters.packets_accounted(), "packets in = packets accounted for");
        if handed_off > 0 {
            for (position, doorbell) in self.doorbells.iter().enumerate() {
                if position != self.index.index() && !self.outgoing[position].is_empty() {
                    doorbell.ring();
                }
            }
        }
        gathered + handed_in
    }

    /// Breathes until told to stop. The queues are closed when this returns, and every frame is free again.
    pub fn run(mut self) {
        let mut patience = Patience::new(self.clock.now());
        while !self.is_stopped {
            let now = self.clock.now();
            let packets = self.breathe(now);
            self.account(now, packets);
            if packets > 0 {
                patience.arrived(now);
                continue;
            }
            self.obey();
            self.pipeline.flows.sweep(now.seconds());
            if self.is_held_up {
                // The other side needs a core to go on, perhaps this one.
                std::thread::yield_now();
            } else if self.poll == Poll::Sleep && patience.is_over(now) {
                self.sleep();
            } else {
                std::hint::spin_loop();
            }
        }
        self.interfaces.detach_all(&mut self.umem);
        self.closing.finish(&self.commands, &mut self.umem);
        let audit = self.umem.audit();
        debug_assert_eq!(audit.free, audit.sum(), "a frame was lost: {audit:?}");
    }

    /// Statistics of a breath. A busy worker obeys and sweeps every so many breaths, so that load cannot shut control out.
    fn account(&mut self, now: Now, packets: usize) {
        const BREATHS_BETWEEN_CHORES: u64 = 64;
        let counters = &self.counters;
        counters.breaths.add(1);
        if packets > 0 {
            let spent = self.clock.now().0.saturating_sub(now.0);
            counters.bursts.add(1);
            counters.busy_nanoseconds.add(spent);
            let bucket = (64 - spent.leading_zeros() as usize).min(counters.breath_time.len() - 1);
            counters.breath_time[bucket].add(1);
        }
        if counters.breaths.get().is_multiple_of(BREATHS_BETWEEN_CHORES) {
            counters.flows.set(self.pipeline.flows.live() as u64);
            counters.frames_free.set(self.umem.free_frames() as u64);
            self.obey();
            self.pipeline.flows.sweep(now.seconds());
        }
    }

    /// Carries out a few of the commands that wait.
    fn obey(&mut self) {
        const AT_ONCE: usize = 4;
        for _ in 0..AT_ONCE {
            let Some(command) = self.commands.pop() else { return };
            match command {
                Command::Attach(interface, queue) => self.attach(interface, *queue),
                Command::Detach(interface) => self.let_go(interface),
                Command::Recover(released) => {
                    self.umem.recover(released);
                    self.closing.recovered();
                    continue;
                }
                Command::Purge(interface) => {
                    self.pipeline.flows.purge(interface);
                }
                Command::Restore(flows) => {
                    for flow in &flows {
                        // What does not fit is judged as new when it goes on.
                        let _ = self.pipeline.flows.restore(flow);
                    }
                }
                Command::Stop => self.is_stopped = true,
            }
            self.counters.commands.add(1);
        }
    }

    fn let_go(&mut self, interface: InterfaceIndex) {
        let Self { interfaces, umem, sleeper, closing, .. } = self;
        interfaces.detach(interface, |queue| {
            if let Some(fd) = queue.fd() {
                // What still arrives there must not wake us. One that was never added is none to remove.
                let _ = sleeper.remove(fd);
            }
            closing.close(queue, umem);
        });
    }

    /// Waits until a packet, a hand-off or a command arrives, or for a nap.
    fn sleep(&mut self) {
        self.counters.flows.set(self.pipeline.flows.live() as u64);
        self.counters.frames_free.set(self.umem.free_frames() as u64);
        self.asleep.store(true, Ordering::Relaxed);
        // Pairs with the fence in `Doorbell::ring`.
        std::sync::atomic::fence(Ordering::SeqCst);
        let is_wanted =
            !self.commands.is_empty() || !self.inject.is_empty() || self.incoming.iter().any(|lane| !lane.is_empty());
        if !is_wanted {
            self.tables.offline();
            self.counters.sleeps.add(1);
            // An error here means no sleep: the worker spins, which costs time and nothing else.
            let _ = self.sleeper.wait(Some(NAP));
        }
        self.asleep.store(false, Ordering::Relaxed);
    }
}
