//! TCP throughput from A to B and back, by iperf3, one connection.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::forwarder::{self, Kernel};
use crate::lab::{B_ADDRESSES, Lab, LabError, Place, system};
use crate::report::{Measurement, Report, median};
use crate::router::RouterOptions;
use crate::{Error, Scale};

/// iperf3's own.
const PORT: u16 = 5201;
const START_LIMIT: Duration = Duration::from_secs(5);
/// The state of a listening socket in /proc/net/tcp6.
const LISTENING: &str = "0A";

/// What is sent where.
#[derive(Clone, Copy)]
pub(crate) struct Stream {
    address: &'static str,
    pub name: &'static str,
    is_reverse: bool,
}

pub(crate) const STREAMS: [Stream; 4] = [
    Stream { address: B_ADDRESSES.0, name: "IPv4, A to B", is_reverse: false },
    Stream { address: B_ADDRESSES.0, name: "IPv4, B to A", is_reverse: true },
    Stream { address: B_ADDRESSES.1, name: "IPv6, A to B", is_reverse: false },
    Stream { address: B_ADDRESSES.1, name: "IPv6, B to A", is_reverse: true },
];

/// What one run of iperf3 showed.
#[derive(Clone, Copy, Default)]
pub(crate) struct Run {
    pub gbits: f64,
    pub retransmits: f64,
    /// Packets for which no frame was waiting, or no room in the receive ring.
    lost: f64,
    /// Milliseconds of the worker's CPU per gigabit.
    worker: f64,
}

/// The ways of forwarding that are compared, the kernel first.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Kernel,
    Router,
    /// With endpoints that are prepared for it.
    Prepared,
}

const WAYS: [Way; 3] = [Way::Kernel, Way::Router, Way::Prepared];

pub fn measure(scale: &Scale, report: &mut Report) -> Result<(), Error> {
    if Command::new("iperf3").arg("--version").stdout(Stdio::null()).status().is_err() {
        report.note("tcp not measured: iperf3 is not installed (Debian package iperf3)");
        return Ok(());
    }
    for mtu in [1500, 9000] {
        let lab = Lab::new(mtu)?;
        let _server = Server::start(&lab)?;
        let mut runs: [Vec<[Run; WAYS.len()]>; STREAMS.len()] = Default::default();
        for _ in 0..scale.rounds {
            for (stream, runs) in STREAMS.iter().zip(&mut runs) {
                let mut round = [Run::default(); WAYS.len()];
                for (way, run) in WAYS.into_iter().zip(&mut round) {
                    *run = once(&lab, way, stream, scale.window)?;
                }
                runs.push(round);
            }
        }
        for (stream, runs) in STREAMS.iter().zip(&runs) {
            for (position, way) in WAYS.into_iter().enumerate().skip(1) {
                report.add(row(stream, mtu, way, runs.iter().map(|round| (round[0], round[position])).collect()))?;
            }
        }
    }
    Ok(())
}

fn once(lab: &Lab, way: Way, stream: &Stream, window: Duration) -> Result<Run, LabError> {
    match way {
        Way::Kernel => forwarder::with(&Kernel, lab, |_| iperf(lab, stream, window)),
        Way::Router => routed(lab, stream, window),
        Way::Prepared => {
            lab.prepare_endpoints(true)?;
            let run = routed(lab, stream, window);
            lab.prepare_endpoints(false)?;
            run
        }
    }
}

fn routed(lab: &Lab, stream: &Stream, window: Duration) -> Result<Run, LabError> {
    forwarder::with_router(RouterOptions { rules: 100, ..RouterOptions::default() }, lab, |router| {
        let before = router.task.nanoseconds();
        let run = iperf(lab, stream, window)?;
        let spent = (router.task.nanoseconds() - before) as f64 / 1e6;
        let gigabits = run.gbits * whole_seconds(window) as f64;
        Ok(Run { lost: router.lost_before()? as f64, worker: spent / gigabits.max(1e-9), ..run })
    })
}

/// Rounds of the kernel and of one other way.
fn row(stream: &Stream, mtu: u16, way: Way, rounds: Vec<(Run, Run)>) -> Measurement {
    let of = |number: fn(&(Run, Run)) -> f64| median(&rounds.iter().map(number).collect::<Vec<_>>());
    let prepared = if way == Way::Prepared { ", prepared" } else { "" };
    Measurement {
        group: "tcp, one connection",
        name: format!("{}, MTU {mtu}{prepared}", stream.name),
        frame_mode: if mtu > 1500 { "veth, native xdp, copy, 4096 B frames" } else { "veth, native xdp, copy" },
        numbers: vec![
            ("x kernel", of(|(kernel, own)| own.gbits / kernel.gbits)),
            ("Gbit/s", of(|(_, own)| own.gbits)),
            ("kernel", of(|(kernel, _)| kernel.gbits)),
            ("retransmits", of(|(_, own)| own.retransmits)),
            ("lost", of(|(_, own)| own.lost)),
            ("worker ms/Gb", of(|(_, own)| own.worker)),
        ],
    }
}

/// iperf3's server at B; ends with this.
pub(crate) struct Server(Child);

impl Server {
    pub(crate) fn start(lab: &Lab) -> Result<Server, LabError> {
        let child = command(lab, Place::B)
            .arg("-s")
            .stdout(Stdio::null())
            .spawn()
            .map_err(system("start the iperf3 server"))?;
        let server = Server(child);
        let end = Instant::now() + START_LIMIT;
        while !lab.within(Place::B, is_listening)? {
            if Instant::now() > end {
                let what = format!("iperf3 listens on port {PORT}");
                return Err(LabError::Late { what, seconds: START_LIMIT.as_secs() });
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to do.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn is_listening() -> bool {
    let tables = ["tcp", "tcp6"].map(|name| fs::read_to_string(format!("/proc/thread-self/net/{name}")));
    let port = format!(":{PORT:04X}");
    tables.iter().flatten().flat_map(|table| table.lines()).any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.get(1).is_some_and(|local| local.ends_with(&port)) && fields.get(3) == Some(&LISTENING)
    })
}

/// Gbit/s of one IPv4 connection from A to B.
pub(crate) fn gbits(lab: &Lab, window: Duration) -> Result<f64, LabError> {
    Ok(iperf(lab, &STREAMS[0], window)?.gbits)
}

pub(crate) fn iperf(lab: &Lab, stream: &Stream, window: Duration) -> Result<Run, LabError> {
    let seconds = whole_seconds(window).to_string();
    let mut command = command(lab, Place::A);
    command.args(["-c", stream.address, "-t", &seconds, "-J", "--connect-timeout", "2000"]);
    if stream.is_reverse {
        command.arg("-R");
    }
    let output = command.output().map_err(system("run the iperf3 client"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let answer: Value = serde_json::from_str(&text).unwrap_or_default();
    let bits = answer["end"]["sum_received"]["bits_per_second"].as_f64();
    let Some(bits) = bits else {
        let answer = answer["error"].as_str().map_or_else(|| text.into_owned(), str::to_owned);
        return Err(LabError::Answer { answer });
    };
    let retransmits = answer["end"]["sum_sent"]["retransmits"].as_f64().unwrap_or(0.0);
    Ok(Run { gbits: bits / 1e9, retransmits, ..Run::default() })
}

/// iperf3 takes nothing else.
pub(crate) fn whole_seconds(window: Duration) -> u64 {
    window.as_secs().max(1)
}

/// iperf3 in a namespace.
fn command(lab: &Lab, place: Place) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &lab.name(place), "iperf3", "-p", &PORT.to_string()]);
    command
}
