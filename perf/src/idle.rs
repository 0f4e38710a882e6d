//! What queues cost that have nothing to do: many endpoints, no traffic.
//!
//! ```text
//!     awake    one breath over 8, 64, 256 idle queues, in memory and on real sockets: nanoseconds, and for each queue
//!     asleep   the share of a core that a worker with 256 idle sockets takes while it sleeps
//! ```
//!
//! An idle worker looks at every queue in every breath, so a breath is one scan. The sockets are bound to one end each of as
//! many veth pairs, in a namespace of this process's own; nobody sends there.

use std::fs::File;
use std::thread;
use std::time::{Duration, Instant};

use fastpath::flow::{FlowTable, FlowWriter};
use fastpath::io::Queue;
use fastpath::io::memory::MemoryQueue;
use fastpath::io::umem::Umem;
use fastpath::io::xsk::{QueueOptions, XskMemory, XskOptions, XskQueue};
use fastpath::pipeline::Now;
use fastpath::rcu::Publisher;
use fastpath::table::{InterfaceIndex, Tables};
use fastpath::worker::{self, Clock, Command, Parts, Poll, Remote, Worker};
use nix::sched::{CloneFlags, setns};

use crate::cpu::Task;
use crate::cpu::on_last_core;
use crate::lab::{self, LabError, system};
use crate::report::{Measurement, Report, ReportError, Spread};
use crate::{Error, Scale};

const COUNTS: [usize; 3] = [8, 64, 256];
/// The kernel keeps about 125 bytes for each of them and each socket.
const FRAMES: u32 = 4096;
/// Breaths before a window is timed: queues have to cool down.
const TO_COOL: usize = 200;
/// Breaths in a window.
const BREATHS: usize = 256;

struct Idle<Q: Queue> {
    worker: Worker<Q>,
    remote: Remote<Q>,
    _publisher: Publisher<Tables>,
}

impl<Q: Queue> Idle<Q> {
    fn new(umem: Umem, queues: Vec<Q>) -> Result<Self, Error> {
        let publisher = Publisher::new(Tables::default());
        let parts = Parts {
            umem,
            flows: FlowWriter::new(FlowTable::new(4096), 0, 1, publisher.grace()),
            tables: publisher.reader(),
            poll: Poll::Sleep,
            clock: Clock::start(),
        };
        let workers = worker::build::<Q>(vec![parts]).map_err(Error::Worker)?;
        let (mut worker, remote) = workers.into_iter().next().ok_or(Error::NoWorker)?;
        for (index, queue) in queues.into_iter().enumerate() {
            worker.attach(InterfaceIndex(index as u16), queue);
        }
        Ok(Idle { worker, remote, _publisher: publisher })
    }

    /// Times of single breaths.
    fn awake(&mut self, windows: usize) -> Spread {
        let mut spread = Spread::default();
        for _ in 0..TO_COOL {
            self.worker.breathe(Now(1));
        }
        for _ in 0..windows {
            let start = Instant::now();
            for _ in 0..BREATHS {
                assert_eq!(self.worker.breathe(Now(1)), 0, "nothing arrives");
            }
            spread.record(start.elapsed().as_nanos() as u64, BREATHS);
        }
        spread
    }
}

pub fn measure(scale: &Scale, report: &mut Report) -> Result<(), Error> {
    let windows = scale.bursts / 4 + 1;
    // On a thread of its own: the namespace and the core are the thread's.
    on_last_core(|| {
        in_memory(windows, report)?;
        on_sockets(windows, scale.window, report)
    })?
}

fn in_memory(windows: usize, report: &mut Report) -> Result<(), Error> {
    let mut none = Idle::<MemoryQueue>::new(Umem::heap(2048, 64), Vec::new())?;
    let empty = none.awake(windows);
    add(report, "in memory", "no queue: the breath itself", 1, &empty, 0.0)?;
    for count in COUNTS {
        let (queues, _far_ends): (Vec<_>, Vec<_>) = (0..count).map(|_| MemoryQueue::pair(64)).unzip();
        let mut idle = Idle::new(Umem::heap(2048, 64), queues)?;
        let spread = idle.awake(windows);
        add(report, "in memory", &format!("{count} queues"), count, &spread, empty.percentile(10.0))?;
    }
    Ok(())
}

fn add(
    report: &mut Report,
    mode: &'static str,
    name: &str,
    count: usize,
    spread: &Spread,
    empty: f64,
) -> Result<(), ReportError> {
    let each = |percent: f64| (spread.percentile(percent) - empty) / count as f64;
    report.add(Measurement {
        group: "idle worker, awake",
        name: format!("{name}, {mode}"),
        frame_mode: mode,
        numbers: vec![
            ("ns a queue, p10", each(10.0)),
            ("p50", each(50.0)),
            ("breath p10", spread.percentile(10.0)),
            ("breath p50", spread.percentile(50.0)),
        ],
    })
}

fn on_sockets(windows: usize, window: Duration, report: &mut Report) -> Result<(), Error> {
    let namespace = lab::namespace("idle")?;
    let result = enter(&namespace).map_err(Error::Lab).and_then(|()| {
        for count in COUNTS {
            sockets(count, windows, window, report)?;
        }
        Ok(())
    });
    lab::delete_namespace(&namespace);
    result
}

fn enter(namespace: &str) -> Result<(), LabError> {
    let path = format!("/run/netns/{namespace}");
    let file = File::open(&path).map_err(system(format!("open {path}")))?;
    setns(&file, CloneFlags::CLONE_NEWNET).map_err(|error| system(format!("enter {path}"))(error.into()))
}

fn sockets(count: usize, windows: usize, window: Duration, report: &mut Report) -> Result<(), Error> {
    let opened = open(count).map_err(Error::Lab)?;
    let mut idle = Idle::<XskQueue>::new(opened.umem, opened.queues)?;
    let spread = idle.awake(windows);
    add(report, "sockets", &format!("{count} queues"), count, &spread, 0.0)?;
    if Some(&count) == COUNTS.last() {
        // As the daemon has them: one thread, which sleeps.
        let window = (window * 5 / 2).max(Duration::from_secs(1));
        let (task, share) = asleep(idle, window)?;
        report.add(Measurement {
            group: "idle worker, asleep",
            name: format!("{count} queues, sockets"),
            frame_mode: "sockets",
            numbers: vec![("% of a core", share * 100.0), ("wake-ups/s", task)],
        })?;
    }
    Ok(())
}

/// Wake-ups in a second and the share of a core, over a window in which the worker runs by itself.
fn asleep(idle: Idle<XskQueue>, window: Duration) -> Result<(f64, f64), Error> {
    let Idle { worker, remote, _publisher } = idle;
    let (send, receive) = std::sync::mpsc::channel();
    let thread = thread::spawn(move || {
        // Nobody waits for the answer only if the bench has given up.
        let _ = send.send(Task::current());
        worker.run();
    });
    let task = receive.recv().map_err(|_| LabError::Panicked)?;
    thread::sleep(Duration::from_millis(500));
    let (start, before, sleeps) = (Instant::now(), task.nanoseconds(), remote.counters.sleeps.get());
    thread::sleep(window);
    let (elapsed, after) = (start.elapsed(), task.nanoseconds());
    let sleeps = remote.counters.sleeps.get() - sleeps;
    // The ring of commands is empty: this is the only one.
    let _ = remote.commands.push(Command::Stop);
    remote.doorbell.ring();
    thread.join().map_err(|_| LabError::Panicked)?;
    Ok((sleeps as f64 / elapsed.as_secs_f64(), (after - before) as f64 / elapsed.as_nanos() as f64))
}

struct Opened {
    umem: Umem,
    queues: Vec<XskQueue>,
}

/// Makes pairs of links in the thread's namespace, which is empty again when the sockets of the last ones are closed.
fn open(count: usize) -> Result<Opened, LabError> {
    lab::run(
        "ip",
        &["link", "add", &format!("anchor{count}"), "type", "veth", "peer", "name", &format!("far{count}")],
    )?;
    lab::run("ip", &["link", "set", &format!("anchor{count}"), "up"])?;
    let (umem, memory) =
        XskMemory::new(XskOptions { frame_count: FRAMES, ..XskOptions::new(&format!("anchor{count}"), 0) })?;
    let mut queues = Vec::with_capacity(count);
    for index in 0..count {
        let (near, far) = (format!("n{count}.{index}"), format!("f{count}.{index}"));
        lab::run("ip", &["link", "add", &near, "type", "veth", "peer", "name", &far])?;
        lab::run("ip", &["link", "set", &near, "up"])?;
        queues.push(memory.open(&near, 0, QueueOptions::default())?);
    }
    Ok(Opened { umem, queues })
}
