//! Everybody in turn, in one lab and one run: packets per second, round trips, TCP.
//!
//! In every round each entrant is started, measured and stopped before the next one starts. Kernel forwarding is the first of a
//! round, and a ratio is to the kernel of the same round. An entrant that does not start is left out from then on and its
//! line says why; one that fails in one topic, because it forwards too little for TCP, keeps the other figures.
//!
//! Endpoints are set up for the entrant: who forwards in user space gets finished checksums from them, because nothing but our
//! router completes them, and for TCP endpoints that are prepared in full ([`Lab::prepare_endpoints`]); the kernel gets them as they are.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use fastpath::io::gauge::Depth;
use fastpath::worker::Poll;

use crate::bench::TRIAL;
use crate::forwarder::{Forwarder, Kernel, Running};
use crate::lab::{Lab, LabError, system};
use crate::report::{Measurement, Report, median};
use crate::router::RouterOptions;
use crate::traffic::{Family, Size, Traffic};
use crate::trial::{Offer, Tester};
use crate::{Error, Scale, latency, tcp};

/// What is sent: few flows, which [`super::greet`] knows.
const TRAFFIC: Traffic = Traffic { size: Size::Fixed(64), family: Family::Ipv4, flows: super::FLOWS as u32 };
/// Of packets, in a round; the middle one counts.
const TRIALS: usize = 3;
const FAILURE_LENGTH: usize = 160;

/// A forwarder that takes part.
struct Entrant {
    forwarder: Box<dyn Forwarder>,
    is_in_user_space: bool,
    rounds: Vec<Figures>,
    /// Why it takes part no longer.
    failure: Option<String>,
}

/// What one round showed; what could not be measured is not a number.
#[derive(Clone, Copy)]
struct Figures {
    mpps: f64,
    ratio: f64,
    cpu: f64,
    gbits: f64,
    round_trip: [f64; 3],
}

pub fn measure(scale: &Scale, out: &Path, report: &mut Report) -> Result<(), Error> {
    let out = out.join("peers");
    std::fs::create_dir_all(&out).map_err(system(format!("make {}", out.display())))?;
    for line in versions() {
        report.note(&line);
    }
    let lab = Lab::new(1500)?;
    let _server = tcp::Server::start(&lab)?;
    let mut entrants = entrants(scale, &out);
    for round in 0..scale.rounds {
        let mut kernel = f64::NAN;
        for (position, entrant) in entrants.iter_mut().enumerate() {
            if entrant.failure.is_some() {
                continue;
            }
            match once(&lab, entrant, scale.window) {
                Ok(figures) => {
                    if position == 0 {
                        kernel = figures.mpps;
                    }
                    entrant.rounds.push(Figures { ratio: figures.mpps / kernel, ..figures });
                }
                Err(error) => {
                    let reason: String = crate::chain(&error).chars().take(FAILURE_LENGTH).collect();
                    report.note(&format!("{} (round {}): {reason}", entrant.forwarder.name(), round + 1));
                    entrant.failure = Some(reason);
                }
            }
        }
    }
    for entrant in &entrants {
        if entrant.rounds.is_empty() {
            let reason = entrant.failure.as_deref().unwrap_or("no round was measured");
            report.note(&format!("{}: not measured: {reason}", entrant.forwarder.name()));
            continue;
        }
        let of = |number: &dyn Fn(&Figures) -> f64| {
            let known: Vec<f64> = entrant.rounds.iter().map(number).filter(|number| number.is_finite()).collect();
            median(&known)
        };
        report.add(Measurement {
            group: "peers, 64 B UDP, TCP, round trip",
            name: entrant.forwarder.name(),
            frame_mode: if entrant.is_in_user_space { "veth, native xdp, copy" } else { "veth" },
            numbers: vec![
                ("x kernel", of(&|figures| figures.ratio)),
                ("kpps", of(&|figures| figures.mpps * 1e3)),
                ("CPU ns", of(&|figures| figures.cpu)),
                ("TCP Gbit/s", of(&|figures| figures.gbits)),
                ("p50 us", of(&|figures| figures.round_trip[0])),
                ("p99 us", of(&|figures| figures.round_trip[1])),
                ("p99.9 us", of(&|figures| figures.round_trip[2])),
            ],
        })?;
    }
    Ok(())
}

/// The kernel first: ratios are to it. Then ours, then all others.
fn entrants(scale: &Scale, out: &Path) -> Vec<Entrant> {
    let mut all = vec![entrant(Box::new(Kernel), false)];
    let ours = |rules| RouterOptions { rules, ..RouterOptions::default() };
    let counts = [1, 100, 1000, 10_000].into_iter().filter(|count| *count <= scale.rules);
    all.extend(counts.map(|count| entrant(Box::new(ours(count)), true)));
    all.push(entrant(Box::new(RouterOptions { poll: Poll::Always, ..ours(1000.min(scale.rules)) }), true));
    all.extend(super::firewalls(scale.rules).into_iter().map(|forwarder| entrant(forwarder, false)));
    all.extend(super::switches(scale.rules, out).into_iter().map(|forwarder| entrant(forwarder, true)));
    all
}

fn entrant(forwarder: Box<dyn Forwarder>, is_in_user_space: bool) -> Entrant {
    Entrant { forwarder, is_in_user_space, rounds: Vec::new(), failure: None }
}

/// One round of one entrant.
fn once(lab: &Lab, entrant: &Entrant, window: Duration) -> Result<Figures, LabError> {
    let running = entrant.forwarder.start(lab)?;
    let result = packets(lab, running.as_ref()).and_then(|(mpps, cpu)| {
        let (round_trip, gbits) = sockets(lab, entrant.is_in_user_space, window)?;
        Ok(Figures { mpps, ratio: f64::NAN, cpu, gbits, round_trip })
    });
    running.stop()?;
    result
}

/// Round trips and TCP between real sockets; not a number where too little comes through. Endpoints are as before afterwards.
fn sockets(lab: &Lab, is_in_user_space: bool, window: Duration) -> Result<([f64; 3], f64), LabError> {
    let prepare = |is_on| if is_in_user_space { lab.prepare_endpoints(is_on) } else { Ok(()) };
    let finish = |is_on| if is_in_user_space { super::finish_checksums(lab, is_on) } else { Ok(()) };
    finish(true)?;
    let round_trip = latency::percentiles(lab, window).ok();
    finish(false)?;
    prepare(true)?;
    let gbits = tcp::gbits(lab, window).ok();
    prepare(false)?;
    // Zeros: nothing came back often enough to speak of.
    let round_trip = round_trip.filter(|percentiles| percentiles[0] > 0.0);
    Ok((round_trip.unwrap_or([f64::NAN; 3]), gbits.unwrap_or(f64::NAN)))
}

/// Millions of packets a second that arrive at B, and the nanoseconds of CPU that each takes on both sides.
fn packets(lab: &Lab, running: &dyn Running) -> Result<(f64, f64), LabError> {
    let mut tester = Tester::new(lab, TRAFFIC, Depth::Count)?;
    tester.introduce(running)?;
    let mut trials = Vec::with_capacity(TRIALS);
    for _ in 0..TRIALS {
        let start = Instant::now();
        let outcome = tester.run(running, Offer { rate: None, duration: TRIAL })?;
        let (packets, rate) = outcome.rate_within(start.elapsed());
        trials.push((rate / 1e6, outcome.cpu.iter().sum::<u64>() as f64 / packets.max(1) as f64));
    }
    if trials.iter().all(|(mpps, _)| *mpps == 0.0) {
        return Err(LabError::Peer(format!("no packet arrived at B in {TRIALS} trials of {} ms", TRIAL.as_millis())));
    }
    let of = |number: fn(&(f64, f64)) -> f64| median(&trials.iter().map(number).collect::<Vec<_>>());
    Ok((of(|trial| trial.0), of(|trial| trial.1)))
}

/// What is installed, a line each.
fn versions() -> Vec<String> {
    let asked: [(&str, &str, &[&str]); 4] = [
        ("nftables", "nft", &["--version"]),
        ("iptables", "iptables", &["--version"]),
        ("Open vSwitch", "ovs-vsctl", &["--version"]),
        ("DPDK", "pkg-config", &["--modversion", "libdpdk"]),
    ];
    asked
        .iter()
        .map(|(name, program, arguments)| {
            let output = Command::new(program).args(*arguments).stderr(Stdio::null()).output();
            let said = output.ok().filter(|output| output.status.success()).map(|output| output.stdout);
            let said = said.map(|said| String::from_utf8_lossy(&said).lines().next().unwrap_or("").trim().to_owned());
            format!("{name}: {}", said.unwrap_or_else(|| "not installed (`make peers` installs it)".to_owned()))
        })
        .collect()
}
