//! One trial: so many packets a second from A to B for so long, and what came of them.
//!
//! ```text
//!     core 0                                    core 1
//!     tester's thread: live frames ── end0 ══ near-a ── forwarder ── near-b ══ end0: gauge
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
use fastpath::io::gauge::{Depth, Gauge, Totals};

use crate::cpu::{Task, softirq_tasks};
use crate::forwarder::Running;
use crate::lab::{Lab, LabError, Place, index, system};
use crate::replay::{Capture, Replay};
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
/// Between two looks at the clock, and between two turns of what else is done.
const TURN: Duration = Duration::from_millis(2);
const START_LIMIT: Duration = Duration::from_secs(5);

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

    /// Packets a second that arrived.
    pub fn rate(&self) -> f64 {
        self.arrived as f64 / self.seconds.max(1e-9)
    }
}

/// Where packets come from.
enum Source {
    /// The kernel makes them.
    Made(Arc<Blast>),
    /// From a capture, out of an AF_XDP socket.
    Replayed(Arc<Replay>),
}

/// Generator and gauge of one lab, for one kind of traffic.
pub struct Tester<'lab> {
    lab: &'lab Lab,
    source: Source,
    gauge: Gauge,
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
        let source = Source::Made(Arc::new(Blast::load(&traffic.frames())?));
        Tester::with(lab, source, traffic, depth)
    }

    /// One that sends the packets of a capture. They have no stamps, so they are counted and nothing more, and whatever
    /// else arrives counts with them.
    pub fn replaying(lab: &'lab Lab, capture: Capture) -> Result<Tester<'lab>, LabError> {
        let traffic = Traffic { size: Size::Fixed(0), family: Family::Ipv4, flows: 1 };
        Tester::with(lab, Source::Replayed(Arc::new(Replay::new(capture))), traffic, Depth::Count)
    }

    fn with(lab: &'lab Lab, source: Source, traffic: Traffic, depth: Depth) -> Result<Tester<'lab>, LabError> {
        lab.receive_by_napi()?;
        let gauge = Gauge::load(depth)?;
        lab.within(Place::B, || Ok::<_, LabError>(gauge.attach(index("end0")?)?))??;
        Ok(Tester { lab, source, gauge, depth, traffic, sequence: 0, is_urgent: true })
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
        let softirq = softirq_tasks();
        let _timekeeper = self.is_urgent.then(Timekeeper::begin);
        let cost = |tasks: &[Task]| tasks.iter().map(|task| task.nanoseconds()).sum::<u64>();
        let before_latencies = self.latencies()?;
        let before = self.gauge.totals()?;
        let sending = self.start(offer.rate)?;
        let costs = |sending: &Sending| [cost(&tasks), sending.task.nanoseconds(), cost(&softirq)];
        let (start, first, first_costs) = (Instant::now(), self.gauge.totals()?, costs(&sending));
        let mut result = Ok(());
        while result.is_ok() && start.elapsed() < offer.duration {
            result = meanwhile(self);
            thread::sleep(TURN.min(offer.duration.saturating_sub(start.elapsed())));
        }
        let (elapsed, last, last_costs) = (start.elapsed(), self.gauge.totals()?, costs(&sending));
        sending.stop()?;
        result?;
        thread::sleep(DRAIN);
        let mut progress = self.progress()?;
        self.sequence = progress.sequence;
        if let (Source::Replayed(_), Some(rate)) = (&self.source, offer.rate) {
            progress.missed = ((rate * elapsed.as_secs_f64()) as u64).saturating_sub(progress.sent);
        }
        let after = self.gauge.totals()?;
        let all: fn(&Totals) -> u64 = match self.source {
            Source::Made(_) => |totals| totals.packets,
            Source::Replayed(_) => |totals| totals.packets + totals.foreign,
        };
        let of = |field: fn(&Totals) -> u64| field(&after).saturating_sub(field(&before));
        let mut cpu = last_costs;
        for (cost, first) in cpu.iter_mut().zip(first_costs) {
            *cost = cost.saturating_sub(first);
        }
        Ok(Outcome {
            seconds: elapsed.as_secs_f64(),
            due: progress.sent + progress.missed,
            sent: progress.sent,
            received: of(all),
            arrived: all(&last).saturating_sub(all(&first)),
            twice: of(|totals| totals.twice),
            reordered: of(|totals| totals.reordered),
            marked: of(|totals| totals.marked),
            latencies: difference(&self.latencies()?, &before_latencies),
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
    pub fn now(&self) -> Result<(Progress, Totals), LabError> {
        Ok((self.progress()?, self.gauge.totals()?))
    }

    fn progress(&self) -> Result<Progress, LabError> {
        match &self.source {
            Source::Made(blast) => Ok(blast.progress()?),
            Source::Replayed(replay) => Ok(Progress { sent: replay.sent(), ..Progress::default() }),
        }
    }

    fn latencies(&self) -> Result<Vec<(u64, u64)>, LabError> {
        match self.depth {
            Depth::Whole => Ok(self.gauge.latencies()?),
            Depth::Count => Ok(Vec::new()),
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
            Source::Made(blast) => {
                let Some(own) = Arc::get_mut(blast) else { return Err(LabError::Panicked) };
                own.set(&plan)?;
                let blast = blast.clone();
                Box::new(move || blast.run(&is_stopped).map_err(LabError::from))
            }
            Source::Replayed(replay) => {
                replay.reset();
                let replay = replay.clone();
                Box::new(move || replay.run(rate, &is_stopped))
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
        let sending = Sending { thread, task, stop, is_interruptible: matches!(self.source, Source::Made(_)) };
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
        // The namespace goes soon after, and the program with it.
        let _ = self.lab.within(Place::B, || index("end0").map(Gauge::detach));
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
