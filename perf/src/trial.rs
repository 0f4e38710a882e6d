//! One trial: so many packets a second from A to B for so long, and what came of them.
//!
//! ```text
//!     core 0                                    core 1
//!     tester's thread: generator ── end0 ══ near-a ── forwarder ── near-b ══ end0: gauge, or a socket
//! ```
//!
//! The tester has one core, the forwarder's threads the other; a forwarder without threads of its own, the kernel, works on
//! the tester's core, in the name of the packets it receives. Both run before everything of normal priority. On a machine
//! with one core they share it.
//!
//! A packet that could not be sent in time, because the tester's core was busy receiving for the forwarder, counts as lost:
//! a forwarder shall not look better for keeping its tester waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fastpath::io::blast::{self, Blast, Plan, Progress};
use fastpath::io::gauge::Depth;

use crate::cpu::{Task, softirq_tasks};
use crate::forwarder::Running;
use crate::lab::{Lab, LabError, Place, index, system};
use crate::ledger::{self, FlowLoss};
use crate::replay::Capture;
use crate::sender::{Contents, Pace, Sender};
use crate::sink::{FarEnd, Seen};
use crate::traffic::{Family, Size, Traffic};

pub const TESTER_CORE: usize = 0;
pub const FORWARDER_CORE: usize = 1;
/// After the last packet was sent, until the last can have arrived.
const DRAIN: Duration = Duration::from_millis(30);
/// Packets that the tester may catch up with at once.
const BURST: u32 = 64;
/// Frames handed to the interface at once: many for throughput; few where their wait for each other would be measured.
const BATCH: u32 = 64;
const SMALL_BATCH: u32 = 8;
/// By a socket, which is slower: others have to wait meanwhile.
const SOCKET_BATCH: u32 = 32;
/// Between two looks at the clock, and between two turns of what else is done.
const TURN: Duration = Duration::from_millis(2);
const START_LIMIT: Duration = Duration::from_secs(5);

/// Who makes packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Generator {
    /// The kernel, as XDP frames.
    #[default]
    Kernel,
    /// A thread, out of an AF_XDP socket.
    Xsk,
}

/// Where packets end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Sink {
    /// In the kernel.
    #[default]
    Gauge,
    /// In an AF_XDP socket, where each is read and checked.
    Xsk,
}

/// Both ends of a tester.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ends {
    pub generator: Generator,
    pub sink: Sink,
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct Offer {
    /// Packets a second; none: as many as the tester can.
    pub rate: Option<f64>,
    pub duration: Duration,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub seconds: f64,
    /// Packets that were due: sent, or not sent in time.
    pub due: u64,
    pub sent: u64,
    pub received: u64,
    /// Those of them that arrived within `seconds`, while packets were being sent.
    pub arrived: u64,
    pub twice: u64,
    pub reordered: u64,
    /// See [`fastpath::io::gauge::MARK`].
    pub marked: u64,
    /// As in [`Seen`], as is the next.
    pub damaged: u64,
    pub unread: u64,
    /// What flows have lost, where the sink reads every packet; what it lost itself is among it.
    pub flow_loss: Option<FlowLoss>,
    /// Nanoseconds and how many packets took them; only from a tester that looks at stamps.
    pub latencies: Vec<(u64, u64)>,
    /// Nanoseconds of CPU time within `seconds`: the forwarder's threads, the tester's, what was put off to ksoftirqd.
    pub cpu: [u64; 3],
}

impl Outcome {
    pub fn lost(&self) -> u64 {
        self.due.saturating_sub(self.received)
    }

    pub fn loss_ratio(&self) -> f64 {
        if self.due == 0 { 1.0 } else { self.lost() as f64 / self.due as f64 }
    }

    /// Packets that arrived, and how many a second. Where a packet takes milliseconds those of a trial arrive after it: then
    /// all of them in all of the time.
    pub fn rate_within(&self, whole: Duration) -> (u64, f64) {
        match self.arrived {
            0 => (self.received, self.received as f64 / whole.as_secs_f64().max(1e-9)),
            arrived => (arrived, self.rate()),
        }
    }

    /// Packets a second that arrived.
    pub fn rate(&self) -> f64 {
        self.arrived as f64 / self.seconds.max(1e-9)
    }
}

/// Where packets come from.
enum Source {
    /// The kernel.
    Blast(Arc<Blast>),
    /// An AF_XDP socket.
    Socket(Arc<Sender>),
}

/// Generator and gauge of one lab, for one kind of traffic.
pub struct Tester<'lab> {
    lab: &'lab Lab,
    source: Source,
    far: FarEnd,
    depth: Depth,
    traffic: Traffic,
    /// Of the next packet: no number comes twice in the life of a tester.
    sequence: u64,
    /// Threads run before everything of normal priority. Not for trials of a second and more: the kernel then takes the
    /// cores away for a twentieth of the time, so that others can run at all.
    pub is_urgent: bool,
}

impl<'lab> Tester<'lab> {
    pub fn new(lab: &'lab Lab, traffic: Traffic, depth: Depth) -> Result<Tester<'lab>, LabError> {
        Tester::between(lab, traffic, depth, Ends::default())
    }

    pub fn between(lab: &'lab Lab, traffic: Traffic, depth: Depth, ends: Ends) -> Result<Tester<'lab>, LabError> {
        let source = match ends.generator {
            Generator::Kernel => Source::Blast(Arc::new(Blast::load(&traffic.frames())?)),
            Generator::Xsk => Source::Socket(Arc::new(Sender::new(Contents::Made(traffic)))),
        };
        let far = match ends.sink {
            Sink::Gauge => FarEnd::gauge(lab, depth)?,
            Sink::Xsk if traffic.flows > ledger::MOST_FLOWS => {
                let what = format!("keep books on {} flows: expected at most {}", traffic.flows, ledger::MOST_FLOWS);
                return Err(LabError::Peer(what));
            }
            Sink::Xsk => FarEnd::socket(lab, traffic.flows)?,
        };
        Tester::with(lab, source, traffic, depth, far)
    }

    /// One that sends the packets of a capture. They have no stamps, so they are counted and nothing more, and whatever
    /// else arrives counts with them.
    pub fn replaying(lab: &'lab Lab, capture: Capture) -> Result<Tester<'lab>, LabError> {
        let traffic = Traffic { size: Size::Fixed(0), family: Family::Ipv4, flows: 1 };
        let source = Source::Socket(Arc::new(Sender::new(Contents::Replayed(capture))));
        Tester::with(lab, source, traffic, Depth::Count, FarEnd::gauge(lab, Depth::Count)?)
    }

    fn with(
        lab: &'lab Lab,
        source: Source,
        traffic: Traffic,
        depth: Depth,
        far: FarEnd,
    ) -> Result<Tester<'lab>, LabError> {
        lab.receive_by_napi()?;
        if let Some(task) = far.task() {
            task.pin(TESTER_CORE);
        }
        Ok(Tester { lab, source, far, depth, traffic, sequence: 0, is_urgent: true })
    }

    pub fn traffic(&self) -> Traffic {
        self.traffic
    }

    /// Sends a packet of each flow, so that a forwarder that remembers flows knows them all.
    pub fn introduce(&mut self, running: &dyn Running) -> Result<(), LabError> {
        // At a rate that no forwarder loses many at; twice, for those that it did.
        for _ in 0..2 {
            let seconds = (f64::from(self.traffic.flows) / 400_000.0).max(0.05);
            self.run(running, Offer { rate: Some(400_000.0), duration: Duration::from_secs_f64(seconds) })?;
        }
        Ok(())
    }

    /// Carries out a trial.
    pub fn run(&mut self, running: &dyn Running, offer: Offer) -> Result<Outcome, LabError> {
        self.run_while(running, offer, |_| Ok(()))
    }

    /// The same, while something else is done again and again.
    pub fn run_while(
        &mut self,
        running: &dyn Running,
        offer: Offer,
        mut meanwhile: impl FnMut(&Tester<'_>) -> Result<(), LabError>,
    ) -> Result<Outcome, LabError> {
        let tasks = running.tasks();
        for task in &tasks {
            task.pin(FORWARDER_CORE);
            self.prioritise(*task);
        }
        if let Some(task) = self.far.task() {
            match self.is_urgent {
                true => task.make_collector(),
                false => task.make_normal(),
            };
        }
        let softirq = softirq_tasks();
        let _timekeeper = self.is_urgent.then(Timekeeper::begin);
        let cost = |tasks: &[Task]| tasks.iter().map(|task| task.nanoseconds()).sum::<u64>();
        self.far.begin(self.sequence);
        let before_latencies = if self.far.task().is_some() { Vec::new() } else { self.far.latencies()? };
        let before = self.far.seen()?;
        let sending = self.start(offer.rate)?;
        let own: Vec<Task> = self.far.task().into_iter().chain([sending.task]).collect();
        let costs = || [cost(&tasks), cost(&own), cost(&softirq)];
        let (start, first, first_costs) = (Instant::now(), self.far.seen()?, costs());
        let mut result = Ok(());
        while result.is_ok() && start.elapsed() < offer.duration {
            result = meanwhile(self);
            thread::sleep(TURN.min(offer.duration.saturating_sub(start.elapsed())));
        }
        let (elapsed, last, last_costs) = (start.elapsed(), self.far.seen()?, costs());
        sending.stop()?;
        result?;
        thread::sleep(DRAIN);
        self.far.settle();
        let progress = self.progress()?;
        self.sequence = progress.sequence;
        let after = self.far.seen()?;
        let is_replaying = matches!(&self.source, Source::Socket(sender) if sender.is_replaying());
        let all = |seen: &Seen| if is_replaying { seen.packets + seen.foreign } else { seen.packets };
        let of = |field: fn(&Seen) -> u64| field(&after).saturating_sub(field(&before));
        let mut cpu = last_costs;
        for (cost, first) in cpu.iter_mut().zip(first_costs) {
            *cost = cost.saturating_sub(first);
        }
        Ok(Outcome {
            seconds: elapsed.as_secs_f64(),
            due: progress.sent + progress.missed,
            sent: progress.sent,
            received: all(&after).saturating_sub(all(&before)),
            arrived: all(&last).saturating_sub(all(&first)),
            twice: of(|seen| seen.twice),
            reordered: of(|seen| seen.reordered),
            marked: of(|seen| seen.marked),
            damaged: of(|seen| seen.damaged),
            unread: of(|seen| seen.unread),
            flow_loss: self.far.flow_loss(progress.sent),
            latencies: difference(&self.far.latencies()?, &before_latencies),
            cpu,
        })
    }

    fn prioritise(&self, task: Task) {
        match self.is_urgent {
            true => task.make_urgent(),
            false => task.make_normal(),
        };
    }

    /// What has been sent and has arrived so far, while a trial runs.
    pub fn now(&self) -> Result<(Progress, Seen), LabError> {
        Ok((self.progress()?, self.far.seen()?))
    }

    fn progress(&self) -> Result<Progress, LabError> {
        match &self.source {
            Source::Blast(blast) => Ok(blast.progress()?),
            Source::Socket(sender) => {
                let (sent, missed) = sender.progress();
                Ok(Progress { sent, missed, sequence: self.sequence + sent })
            }
        }
    }

    fn start(&mut self, rate: Option<f64>) -> Result<Sending, LabError> {
        let interface = self.lab.within(Place::A, || index("end0"))??;
        let plan = Plan {
            interface,
            flows: self.traffic.flows,
            rate,
            burst: BURST,
            limit: None,
            sequence: self.sequence,
            batch: if self.depth == Depth::Whole { SMALL_BATCH } else { BATCH },
        };
        let stop = Arc::new(AtomicBool::new(false));
        let (send, receive) = mpsc::channel();
        let (is_stopped, name, is_urgent) = (stop.clone(), self.lab.name(Place::A), self.is_urgent);
        let work: Box<dyn FnOnce() -> Result<(), LabError> + Send> = match &mut self.source {
            Source::Blast(blast) => {
                let Some(own) = Arc::get_mut(blast) else { return Err(LabError::Panicked) };
                own.set(&plan)?;
                let blast = blast.clone();
                Box::new(move || blast.run(&is_stopped).map_err(LabError::from))
            }
            Source::Socket(sender) => {
                sender.reset();
                let (sender, batch) = (sender.clone(), plan.batch.min(SOCKET_BATCH));
                let pace = Pace { rate, sequence: plan.sequence, batch };
                Box::new(move || sender.run(pace, &is_stopped))
            }
        };
        let thread = thread::Builder::new()
            .name("tester".to_owned())
            .spawn(move || {
                crate::lab::enter(&name)?;
                let task = Task::current();
                task.pin(TESTER_CORE);
                if is_urgent {
                    task.make_urgent();
                }
                // Nobody waits for the answer only if the trial has been given up.
                let _ = send.send(task);
                work()
            })
            .map_err(system("start the tester's thread"))?;
        let Ok(task) = receive.recv() else {
            return Err(thread.join().map_err(|_| LabError::Panicked)?.err().unwrap_or(LabError::Panicked));
        };
        let sending = Sending { thread, task, stop, is_interruptible: matches!(self.source, Source::Blast(_)) };
        let start = Instant::now();
        while self.progress()?.sent == 0 {
            if start.elapsed() > START_LIMIT || sending.thread.is_finished() {
                sending.stop()?;
                let what = "the first packet is sent".to_owned();
                return Err(LabError::Late { what, seconds: START_LIMIT.as_secs() });
            }
            thread::sleep(Duration::from_micros(100));
        }
        Ok(sending)
    }
}

impl Drop for Tester<'_> {
    fn drop(&mut self) {
        self.far.detach(self.lab);
    }
}

/// While it lives, the calling thread goes before the tester's and the forwarder's: with both cores taken, it would else
/// look at the clock a second too late.
struct Timekeeper(Task);

impl Timekeeper {
    fn begin() -> Timekeeper {
        let task = Task::current();
        task.make_timekeeper();
        Timekeeper(task)
    }
}

impl Drop for Timekeeper {
    fn drop(&mut self) {
        self.0.make_normal();
    }
}

/// A tester's thread at work.
struct Sending {
    thread: JoinHandle<Result<(), LabError>>,
    task: Task,
    stop: Arc<AtomicBool>,
    /// It is in a system call that only a signal ends.
    is_interruptible: bool,
}

impl Sending {
    fn stop(self) -> Result<(), LabError> {
        self.stop.store(true, Ordering::SeqCst);
        while !self.thread.is_finished() {
            if self.is_interruptible {
                blast::interrupt(self.task.number());
            }
            thread::sleep(Duration::from_micros(500));
        }
        self.thread.join().map_err(|_| LabError::Panicked)?
    }
}

/// What a histogram has gained.
fn difference(after: &[(u64, u64)], before: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let counted = |value: u64| before.iter().find(|(other, _)| *other == value).map_or(0, |(_, count)| *count);
    let gained = after.iter().map(|(value, count)| (*value, count.saturating_sub(counted(*value))));
    gained.filter(|(_, count)| *count > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_difference_of_histograms() {
        assert_eq!(difference(&[(1, 5), (2, 3), (4, 1)], &[(1, 5), (2, 1)]), [(2, 2), (4, 1)]);
    }

    #[test]
    fn what_was_not_sent_in_time_is_lost() {
        let outcome = Outcome { due: 100, sent: 90, received: 80, ..Outcome::default() };
        assert_eq!((outcome.lost(), outcome.loss_ratio()), (20, 0.2));
        assert_eq!(Outcome::default().loss_ratio(), 1.0);
    }
}
