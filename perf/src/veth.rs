//! Packets per second from A to B: UDP of 60 bytes, which are 64 on a wire.
//!
//! The generator's thread also carries what the kernel does in its name: with kernel forwarding that is everything up to
//! the sink, with the router it ends with the copy into the worker's frames. So both columns of CPU time matter, and
//! their sum is what a packet costs the machine. Both threads run before everything of normal priority.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::cpu::{Task, softirq_tasks};
use crate::forwarder::{self, Kernel};
use crate::generator::Generator;
use crate::lab::{Lab, LabError, Place};
use crate::report::{Measurement, Report, median};
use crate::router::RouterOptions;
use crate::sink::Sink;
use crate::{Error, Scale};

const LENGTH: usize = 60;
const FEW: u32 = 64;
const MANY: u32 = 1 << 20;
/// Time for rings to fill and for the scheduler to place the threads.
const WARM_UP: Duration = Duration::from_millis(200);

/// A way of forwarding, and how many flows there are.
struct Case {
    name: &'static str,
    way: Way,
    flows: u32,
}

#[derive(Clone, Copy)]
enum Way {
    /// Dropped where the router would receive it: what the generator can do.
    Ceiling,
    Kernel,
    Router(RouterOptions),
}

/// What one window showed: packets that arrived, and the CPU time of each.
#[derive(Clone, Copy)]
struct Window {
    mpps: f64,
    worker: f64,
    sender: f64,
    softirq: f64,
}

pub fn measure(scale: &Scale, report: &mut Report) -> Result<(), Error> {
    let lab = Arc::new(Lab::new(1500)?);
    let sink = Sink::attach(&lab, Place::B, "end0")?;
    let few = RouterOptions::default();
    let cases = [
        Case { name: "kernel forwarding", way: Way::Kernel, flows: FEW },
        Case { name: "dropped at the router: the ceiling", way: Way::Ceiling, flows: FEW },
        Case { name: "router, 1 rule", way: Way::Router(few), flows: FEW },
        Case { name: "router, 1,000 rules", way: Way::Router(RouterOptions { rules: 1000, ..few }), flows: FEW },
        Case {
            name: "router, 1,000 rules, 1M flows in turn",
            way: Way::Router(RouterOptions { rules: 1000, flows: MANY + MANY / 2, ..few }),
            flows: MANY,
        },
    ];
    let mut windows: Vec<Vec<Window>> = cases.iter().map(|_| Vec::new()).collect();
    for _ in 0..scale.rounds {
        for (case, windows) in cases.iter().zip(&mut windows) {
            windows.push(once(&lab, case, &sink, scale.window)?);
        }
    }
    let kernel = &windows[0];
    for (case, own) in cases.iter().zip(&windows) {
        let of = |field: fn(&Window) -> f64| median(&own.iter().map(field).collect::<Vec<_>>());
        let ratios: Vec<f64> = own.iter().zip(kernel).map(|(own, kernel)| own.mpps / kernel.mpps).collect();
        report.add(Measurement {
            group: "veth, 64 B UDP",
            name: case.name.to_owned(),
            frame_mode: if matches!(case.way, Way::Router(_)) { "veth, native xdp, copy" } else { "veth" },
            numbers: vec![
                ("x kernel", median(&ratios)),
                ("Mpps", of(|window| window.mpps)),
                ("worker ns", of(|window| window.worker)),
                ("sender ns", of(|window| window.sender)),
                ("softirq ns", of(|window| window.softirq)),
                ("sum ns", of(|window| window.worker + window.sender + window.softirq)),
            ],
        })?;
    }
    Ok(())
}

fn once(lab: &Arc<Lab>, case: &Case, sink: &Sink, length: Duration) -> Result<Window, LabError> {
    match case.way {
        Way::Ceiling => {
            let near = Sink::attach(lab, Place::Router, "near-a")?;
            let window = window(lab, None, case.flows, &near, length);
            near.detach(lab)?;
            window
        }
        Way::Kernel => forwarder::with(&Kernel, lab, |_| window(lab, None, case.flows, sink, length)),
        Way::Router(options) => {
            forwarder::with_router(options, lab, |router| window(lab, Some(router.task), case.flows, sink, length))
        }
    }
}

fn window(lab: &Arc<Lab>, worker: Option<Task>, flows: u32, sink: &Sink, length: Duration) -> Result<Window, LabError> {
    let softirq = softirq_tasks();
    let generator = Generator::start(lab, LENGTH, flows)?;
    for task in worker.iter().chain([&generator.task]) {
        task.make_urgent();
    }
    thread::sleep(WARM_UP);
    let costs = || {
        let softirq: u64 = softirq.iter().map(|task| task.nanoseconds()).sum();
        [worker.map_or(0, Task::nanoseconds), generator.task.nanoseconds(), softirq]
    };
    let (start, first, before) = (Instant::now(), sink.count()?, costs());
    thread::sleep(length);
    let (elapsed, last, after) = (start.elapsed(), sink.count()?, costs());
    generator.stop()?;
    let packets = last.saturating_sub(first) as f64;
    if packets == 0.0 {
        return Err(LabError::Late {
            what: "a packet arrives at the sink".to_owned(),
            seconds: length.as_secs().max(1),
        });
    }
    let each = |position: usize| (after[position] - before[position]) as f64 / packets;
    Ok(Window { mpps: packets / elapsed.as_secs_f64() / 1e6, worker: each(0), sender: each(1), softirq: each(2) })
}
