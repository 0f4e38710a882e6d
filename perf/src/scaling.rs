//! What a second worker is worth: whole breaths in memory, on one core and on two.
//!
//! ```text
//!     worker 0 alone │ worker 1 alone │ both at once     windows in turn; a round's ratio is both / mean of the two
//! ```
//!
//! Each worker is bound to a core of its own and has its own queues, frames and flows; tables and flow table are shared.
//! *Apart*: a packet leaves by the worker it came to. *Crossing*: every packet leaves by the other one, which is the worst
//! case of placement; one worker alone cannot do that, so its ratio is to the same packets apart. *Bare loop* is
//! arithmetic in registers: what the machine itself makes of two cores at this moment, and the most that can be expected.
//!
//! Time is the threads' own CPU time, which neighbours on the machine do not count in; a neighbour's use of caches and of the
//! memory behind them remains.

use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use core_affinity::CoreId;
use fastpath::flow::{FlowTable, FlowWriter};
use fastpath::io::memory::ReplayQueue;
use fastpath::io::umem::Umem;
use fastpath::pipeline::Now;
use fastpath::rcu::Publisher;
use fastpath::table::{Tables, WorkerIndex};
use fastpath::worker::{self, Clock, Parts, Poll, Remote, Worker};
use nix::time::{ClockId, clock_gettime};

use crate::cpu::Task;
use crate::frames;
use crate::lab::LabError;
use crate::report::{Measurement, Report, median};
use crate::stages::SHORT;
use crate::tables::{self, A, B};
use crate::{Error, Scale};

/// Flows of each worker.
const FLOWS: [u32; 2] = [64, 8192];
const WINDOW: Duration = Duration::from_millis(30);
/// Breaths, or rounds of the bare loop, between two looks at the clock.
const AT_ONCE: usize = 16;
const MTU: u16 = 1500;

/// What one thread did in a window.
#[derive(Clone, Copy, Default)]
struct Done {
    work: f64,
    nanoseconds: f64,
}

impl Done {
    fn rate(self) -> f64 {
        self.work / self.nanoseconds
    }
}

/// Something that a thread can do over and over; how much of it is done is what is compared.
trait Load: Send {
    /// Some of it, and how much has been done in all.
    fn go_on(&mut self) -> u64;
}

struct Bare(u64, u64);

impl Load for Bare {
    fn go_on(&mut self) -> u64 {
        for _ in 0..10_000 {
            self.0 = black_box(self.0).wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        }
        self.1 += 10_000;
        self.1
    }
}

struct Breathing {
    worker: Worker<ReplayQueue>,
    remote: Remote<ReplayQueue>,
}

impl Load for Breathing {
    fn go_on(&mut self) -> u64 {
        for _ in 0..AT_ONCE {
            self.worker.breathe(Now(1));
        }
        self.remote.counters.sent.get()
    }
}

pub fn measure(scale: &Scale, report: &mut Report) -> Result<(), Error> {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let [first, second, ..] = cores[..] else {
        report.note("scaling not measured: there is one core");
        return Ok(());
    };
    let cores = [first, second];
    let rounds = scale.bursts.div_ceil(50).max(3);
    let mut bare = [Bare(1, 0), Bare(2, 0)];
    let mut row = |name: String, ratios: Vec<[f64; 2]>| {
        let of = |position: usize| ratios.iter().map(|ratio| ratio[position]).collect::<Vec<_>>();
        let mut sorted = of(0);
        sorted.sort_by(f64::total_cmp);
        let percentile = |percent: usize| sorted[(sorted.len() - 1) * percent / 100];
        report.add(Measurement {
            group: "scaling, 1 → 2 workers",
            name,
            frame_mode: "memory",
            numbers: vec![
                ("× one", median(&of(0))),
                ("p10", percentile(10)),
                ("p90", percentile(90)),
                ("ns each, two", median(&of(1))),
            ],
        })
    };
    row("bare loop, no memory".to_owned(), (0..rounds).map(|_| round(&mut bare, cores)).collect::<Result<_, _>>()?)?;
    for flows in FLOWS {
        let (mut apart, _apart_tables) = pair(flows, false)?;
        let (mut crossing, _crossing_tables) = pair(flows, true)?;
        let mut ratios = [Vec::new(), Vec::new()];
        for _ in 0..rounds {
            ratios[0].push(round(&mut apart, cores)?);
            // Alone and apart, beside both and crossing.
            let alone =
                (window(&mut apart[..1], cores)?[0].rate() + window(&mut apart[1..], [cores[1]; 2])?[0].rate()) / 2.0;
            ratios[1].push(compare(alone, &window(&mut crossing, cores)?));
        }
        let [own, others] = ratios;
        row(format!("apart, {flows} flows each"), own)?;
        row(format!("crossing, {flows} flows each"), others)?;
    }
    Ok(())
}

/// The ratio of both to one, and the nanoseconds of one thing while both work.
fn round<L: Load>(loads: &mut [L; 2], cores: [CoreId; 2]) -> Result<[f64; 2], Error> {
    let (first, second) = loads.split_at_mut(1);
    let alone = (window(first, cores)?[0].rate() + window(second, [cores[1]; 2])?[0].rate()) / 2.0;
    Ok(compare(alone, &window(loads, cores)?))
}

fn compare(alone: f64, both: &[Done]) -> [f64; 2] {
    let rates: f64 = both.iter().map(|done| done.rate()).sum();
    [rates / alone, 2.0 / rates]
}

/// Lets each load work on its core for a while, all at once.
fn window<L: Load>(loads: &mut [L], cores: [CoreId; 2]) -> Result<Vec<Done>, Error> {
    let barrier = Barrier::new(loads.len());
    thread::scope(|scope| {
        let threads: Vec<_> = loads
            .iter_mut()
            .zip(cores)
            .map(|(load, core)| {
                let barrier = &barrier;
                scope.spawn(move || {
                    core_affinity::set_for_current(core);
                    Task::current().make_urgent();
                    load.go_on();
                    barrier.wait();
                    let (before, cpu, start) = (load.go_on(), cpu_time(), Instant::now());
                    let mut work = before;
                    while start.elapsed() < WINDOW {
                        work = load.go_on();
                    }
                    Done { work: (work - before) as f64, nanoseconds: cpu_time() - cpu }
                })
            })
            .collect();
        let done: Result<Vec<Done>, _> = threads.into_iter().map(|thread| thread.join()).collect();
        done.map_err(|_| LabError::Panicked.into())
    })
}

/// Nanoseconds that this thread has been on a core.
fn cpu_time() -> f64 {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(0.0, |time| Duration::from(time).as_nanos() as f64)
}

/// Two workers of one node. The first has packets from A to B, the second from B to A.
fn pair(flows: u32, is_crossing: bool) -> Result<([Breathing; 2], Publisher<Tables>), Error> {
    let mut tables = tables::two_endpoints(1, MTU);
    if let Some(interface) = &mut tables.interfaces[B.index()] {
        interface.owner = WorkerIndex(1);
    }
    let publisher = Publisher::new(tables);
    let table = FlowTable::new(4 * flows.max(4096));
    let parts = (0..2)
        .map(|index| Parts {
            umem: Umem::heap(2048, 1024),
            flows: FlowWriter::new(table.clone(), index, 2, publisher.grace()),
            tables: publisher.reader(),
            poll: Poll::Always,
            clock: Clock::start(),
        })
        .collect();
    let mut made = Vec::new();
    for (index, (mut worker, remote)) in worker::build(parts).map_err(Error::Worker)?.into_iter().enumerate() {
        let (own, other) = if index == 0 { (A, B) } else { (B, A) };
        worker.attach(own, ReplayQueue::new(packets(index as u32 * flows, flows, index == 1)).0);
        if !is_crossing {
            worker.attach(other, ReplayQueue::new(Vec::new()).0);
        }
        made.push(Breathing { worker, remote });
    }
    let [first, second] = <[Breathing; 2]>::try_from(made).map_err(|_| Error::NoWorker)?;
    Ok(([first, second], publisher))
}

fn packets(first: u32, count: u32, is_reversed: bool) -> Vec<Vec<u8>> {
    let mut frame = frames::udp_frame(SHORT);
    (first..first + count)
        .map(|flow| {
            frames::address(&mut frame, flow);
            let mut frame = frame.clone();
            if is_reversed {
                // The sum of the header stays the same when its addresses change places.
                let (source, destination) = frame[26..34].split_at_mut(4);
                source.swap_with_slice(destination);
            }
            frame
        })
        .collect()
}
