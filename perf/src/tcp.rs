//! TCP throughput from A to B and back, by iperf3, one connection.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::lab::{B_ADDRESSES, Lab, LabError, Place, RouterOptions, system};
use crate::report::{Measurement, Report, median};
use crate::{Error, Scale};

/// iperf3's own.
const PORT: u16 = 5201;
const START_LIMIT: Duration = Duration::from_secs(5);
/// The state of a listening socket in /proc/net/tcp6.
const LISTENING: &str = "0A";

/// What is sent where.
#[derive(Clone, Copy)]
struct Stream {
    address: &'static str,
    name: &'static str,
    is_reverse: bool,
}

const STREAMS: [Stream; 4] = [
    Stream { address: B_ADDRESSES.0, name: "IPv4, A to B", is_reverse: false },
    Stream { address: B_ADDRESSES.0, name: "IPv4, B to A", is_reverse: true },
    Stream { address: B_ADDRESSES.1, name: "IPv6, A to B", is_reverse: false },
    Stream { address: B_ADDRESSES.1, name: "IPv6, B to A", is_reverse: true },
];

/// What one run of iperf3 showed.
#[derive(Clone, Copy)]
struct Run {
    gbits: f64,
    retransmits: f64,
    /// Packets that found no frame, and packets that the worker dropped.
    lost: f64,
    dropped: f64,
    /// Milliseconds of the worker's CPU per gigabit.
    worker: f64,
}

pub fn measure(scale: &Scale, report: &mut Report) -> Result<(), Error> {
    if Command::new("iperf3").arg("--version").stdout(Stdio::null()).status().is_err() {
        report.note("tcp not measured: iperf3 is not installed (Debian package iperf3)");
        return Ok(());
    }
    for mtu in [1500, 9000] {
        let lab = Lab::new(mtu)?;
        let _server = Server::start(&lab)?;
        let mut rounds: [Vec<(Run, Run)>; STREAMS.len()] = Default::default();
        for _ in 0..scale.rounds {
            for (stream, rounds) in STREAMS.iter().zip(&mut rounds) {
                let kernel = lab.with_kernel(|| iperf(&lab, stream, scale.window))?;
                let router = lab.with_router(RouterOptions { rules: 100, ..RouterOptions::default() }, |router| {
                    let before = router.task.nanoseconds();
                    let run = iperf(&lab, stream, scale.window)?;
                    let spent = (router.task.nanoseconds() - before) as f64 / 1e6;
                    let lost = router.lost_before()? as f64;
                    let dropped = router.counters().packets_dropped() as f64;
                    for reason in fastpath::burst::DropReason::ALL {
                        let n = router.counters().dropped[*reason as usize].get();
                        if n > 0 {
                            eprintln!("{} {n}", reason.name());
                        }
                    }
                    Ok(Run {
                        lost,
                        dropped,
                        worker: spent / (run.gbits * whole_seconds(scale.window) as f64).max(1e-9),
                        ..run
                    })
                })?;
                rounds.push((kernel, router));
            }
        }
        for (stream, rounds) in STREAMS.iter().zip(&rounds) {
            let of = |number: fn(&(Run, Run)) -> f64| median(&rounds.iter().map(number).collect::<Vec<_>>());
            report.add(Measurement {
                group: "tcp, one connection",
                name: format!("{}, MTU {mtu}", stream.name),
                frame_mode: if mtu > 1500 { "veth, native xdp, copy, 4096 B frames" } else { "veth, native xdp, copy" },
                numbers: vec![
                    ("x kernel", of(|(kernel, router)| router.gbits / kernel.gbits)),
                    ("Gbit/s", of(|(_, router)| router.gbits)),
                    ("kernel", of(|(kernel, _)| kernel.gbits)),
                    ("retransmits", of(|(_, router)| router.retransmits)),
                    ("lost", of(|(_, router)| router.lost)),
                    ("dropped", of(|(_, router)| router.dropped)),
                    ("worker ms/Gb", of(|(_, router)| router.worker)),
                ],
            })?;
        }
    }
    Ok(())
}

/// iperf3's server at B; ends with this.
struct Server(Child);

impl Server {
    fn start(lab: &Lab) -> Result<Server, LabError> {
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

fn iperf(lab: &Lab, stream: &Stream, window: Duration) -> Result<Run, LabError> {
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
    Ok(Run { gbits: bits / 1e9, retransmits, lost: 0.0, dropped: 0.0, worker: 0.0 })
}

/// iperf3 takes nothing else.
fn whole_seconds(window: Duration) -> u64 {
    window.as_secs().max(1)
}

/// iperf3 in a namespace.
fn command(lab: &Lab, place: Place) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &lab.name(place), "iperf3", "-p", &PORT.to_string()]);
    command
}
