//! One TCP connection through everybody in turn: kernel forwarding, ours, Open vSwitch and l3fwd on AF_XDP.
//!
//! Endpoints are prepared for whoever forwards in user space, ours and theirs alike ([`Lab::prepare_endpoints`]): finished
//! checksums, segments no longer than the MTU, receiving on a thread of its own. The kernel gets them as they are.
//!
//! Nobody is pinned or urgent but those who pin themselves: a poll loop of theirs keeps one of two cores, and ours sleeps when
//! nothing comes. CPU is that of the forwarder's threads, for a gigabit that arrived.

use std::path::Path;
use std::time::Duration;

use super::dpdk::L3fwd;
use super::ovs::{OpenVswitch, Port};
use crate::cpu::Task;
use crate::forwarder::{self, Forwarder, Kernel};
use crate::lab::{Lab, LabError, system};
use crate::report::{Measurement, Report, median};
use crate::router::RouterOptions;
use crate::tcp::{self, Server, Stream};
use crate::{Error, Scale};

const MTUS: [u16; 2] = [1500, 9000];
const FAILURE_LENGTH: usize = 160;

struct Entrant {
    name: &'static str,
    forwarder: Box<dyn Forwarder>,
    who: Who,
    rounds: Vec<Figures>,
    failure: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    Kernel,
    Ours,
    Peer,
}

#[derive(Clone, Copy)]
struct Figures {
    round: usize,
    gbits: f64,
    retransmits: f64,
    /// Milliseconds of the forwarder's threads per gigabit.
    cpu: f64,
}

pub fn measure(scale: &Scale, out: &Path, report: &mut Report) -> Result<(), Error> {
    let out = out.join("peers");
    std::fs::create_dir_all(&out).map_err(system(format!("make {}", out.display())))?;
    for mtu in MTUS {
        let lab = Lab::new(mtu)?;
        for stream in [&tcp::STREAMS[0], &tcp::STREAMS[1]] {
            let mut entrants = entrants(&out);
            for round in 0..scale.rounds {
                for entrant in entrants.iter_mut().filter(|entrant| entrant.failure.is_none()) {
                    match once(&lab, entrant, stream, scale.window) {
                        Ok(figures) => entrant.rounds.push(Figures { round, ..figures }),
                        Err(error) if entrant.who == Who::Peer => {
                            let reason = crate::chain(&error).chars().take(FAILURE_LENGTH).collect();
                            entrant.failure = Some(reason);
                        }
                        Err(error) => return Err(error.into()),
                    }
                }
            }
            for entrant in &entrants {
                let name = format!("{}, {}, MTU {mtu}", entrant.name, stream.name);
                if let Some(failure) = &entrant.failure {
                    report.note(&format!("{name}: left out: {failure}"));
                }
                if !entrant.rounds.is_empty() {
                    report.add(row(name, entrant, &entrants))?;
                }
            }
        }
    }
    Ok(())
}

fn entrants(out: &Path) -> Vec<Entrant> {
    let entrant = |who, name, forwarder| Entrant { name, forwarder, who, rounds: Vec::new(), failure: None };
    let ovs = OpenVswitch { port: Port::AfXdp, rules: 0, is_tracking: false, out: out.to_owned() };
    vec![
        entrant(Who::Kernel, "kernel", Box::new(Kernel)),
        entrant(Who::Ours, "router, 100 rules", Box::new(RouterOptions { rules: 100, ..RouterOptions::default() })),
        entrant(Who::Peer, "Open vSwitch, AF_XDP", Box::new(ovs)),
        entrant(Who::Peer, "DPDK l3fwd, AF_XDP", Box::new(L3fwd { rules: 0, out: out.to_owned() })),
    ]
}

fn once(lab: &Lab, entrant: &Entrant, stream: &Stream, window: Duration) -> Result<Figures, LabError> {
    let is_prepared = entrant.who != Who::Kernel;
    // One for each: a server whose client went away with its forwarder stays busy.
    let _server = Server::start(lab)?;
    forwarder::with(entrant.forwarder.as_ref(), lab, |running| {
        if is_prepared {
            lab.prepare_endpoints(true)?;
        }
        let spent = || running.tasks().iter().map(|task: &Task| task.nanoseconds()).sum::<u64>();
        let before = spent();
        let run = tcp::iperf(lab, stream, window);
        let milliseconds = spent().saturating_sub(before) as f64 / 1e6;
        if is_prepared {
            lab.prepare_endpoints(false)?;
        }
        let run = run?;
        let gigabits = run.gbits * tcp::whole_seconds(window) as f64;
        Ok(Figures { round: 0, gbits: run.gbits, retransmits: run.retransmits, cpu: milliseconds / gigabits.max(1e-9) })
    })
}

fn row(name: String, entrant: &Entrant, all: &[Entrant]) -> Measurement {
    // The best of a round, of those that took part in it.
    let best = |who: Who, round: usize| {
        let of = all.iter().filter(|entrant| entrant.who == who).flat_map(|entrant| &entrant.rounds);
        of.filter(|figures| figures.round == round).map(|figures| figures.gbits).fold(f64::NAN, f64::max)
    };
    let of = |number: &dyn Fn(&Figures) -> f64| {
        let known = entrant.rounds.iter().map(number).filter(|number| number.is_finite());
        median(&known.collect::<Vec<_>>())
    };
    let gbits = || entrant.rounds.iter().map(|figures| figures.gbits);
    Measurement {
        group: "peers, one TCP connection",
        name,
        frame_mode: if entrant.who == Who::Kernel { "veth" } else { "veth, native xdp, copy" },
        numbers: vec![
            ("x best peer", of(&|figures| figures.gbits / best(Who::Peer, figures.round))),
            ("x kernel", of(&|figures| figures.gbits / best(Who::Kernel, figures.round))),
            ("Gbit/s", of(&|figures| figures.gbits)),
            ("least", gbits().fold(f64::NAN, f64::min)),
            ("most", gbits().fold(f64::NAN, f64::max)),
            ("resent", of(&|figures| figures.retransmits)),
            ("CPU ms/Gbit", of(&|figures| figures.cpu)),
        ],
    }
}
