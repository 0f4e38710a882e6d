//! Everybody in turn, in one lab and one run: packets per second, round trips, TCP.
//!
//! In every round each entrant is started, measured and stopped before the next one starts. Kernel forwarding is the first of a
//! round, and a ratio is to the kernel of the same round. An entrant that does not start is left out from then on and its
//! line says why; one that fails in one topic, because it forwards too little for TCP, keeps the other figures.
//!
//! Endpoints are set up for the entrant: who forwards in user space gets finished checksums from them, because nothing but our
//! router completes them, and for TCP endpoints that are prepared in full ([`Lab::prepare_endpoints`]); the kernel gets them as they are.

use std::net::UdpSocket;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use fastpath::worker::Poll;

use super::dpdk::L3fwd;
use super::firewall::{Firewall, Language};
use super::layout::Tracking;
use super::ovs::{OpenVswitch, Port};
use crate::cpu::{Task, softirq_tasks};
use crate::forwarder::{Forwarder, Kernel, Running};
use crate::generator::{DESTINATION_PORT, FIRST_PORT, Generator};
use crate::lab::{A_ADDRESSES, B_ADDRESSES, Lab, LabError, Place, run, system};
use crate::report::{Measurement, Report, median};
use crate::router::RouterOptions;
use crate::sink::Sink;
use crate::{Error, Scale, latency, tcp};

const LENGTH: usize = 60;
const FLOWS: u32 = 64;
/// Time for rings to fill, for caches of flows, and for the scheduler to place the threads.
const WARM_UP: Duration = Duration::from_millis(300);
const GREETING_LIMIT: Duration = Duration::from_secs(1);
const GREETINGS: u8 = 3;
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
    let lab = Arc::new(Lab::new(1500)?);
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
                    let reason: String = super::chain(&error).chars().take(FAILURE_LENGTH).collect();
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
                ("Mpps", of(&|figures| figures.mpps)),
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

/// The kernel first: ratios are to it. What has as many rules stands together.
fn entrants(scale: &Scale, out: &Path) -> Vec<Entrant> {
    let mut all = vec![entrant(Kernel, false)];
    let ours = |rules| RouterOptions { rules, ..RouterOptions::default() };
    let counts = [1, 100, 1000, 10_000].into_iter().filter(|count| *count <= scale.rules);
    all.extend(counts.clone().map(|count| entrant(ours(count), true)));
    all.push(entrant(RouterOptions { poll: Poll::Always, ..ours(1000.min(scale.rules)) }, true));
    for language in [Language::Iptables, Language::Nftables] {
        for tracking in [Tracking::Established, Tracking::Untracked] {
            let counts = [10, 100, 1000, 10_000].into_iter().filter(|count| *count <= scale.rules);
            all.extend(counts.map(|policies| entrant(Firewall { language, policies, tracking }, false)));
        }
    }
    let switch = |port, rules, is_tracking| OpenVswitch { port, rules, is_tracking, out: out.to_owned() };
    for (port, rules, is_tracking) in [
        (Port::AfXdp, 0, false),
        (Port::AfXdp, scale.rules, false),
        (Port::AfXdp, 1000.min(scale.rules), true),
        (Port::AfPacket, 0, false),
    ] {
        all.push(entrant(switch(port, rules, is_tracking), true));
    }
    all.extend([0].into_iter().chain(counts.skip(1)).map(|rules| entrant(L3fwd { rules, out: out.to_owned() }, true)));
    all
}

fn entrant(forwarder: impl Forwarder + 'static, is_in_user_space: bool) -> Entrant {
    Entrant { forwarder: Box::new(forwarder), is_in_user_space, rounds: Vec::new(), failure: None }
}

/// One round of one entrant.
fn once(lab: &Arc<Lab>, entrant: &Entrant, window: Duration) -> Result<Figures, LabError> {
    let running = entrant.forwarder.start(lab)?;
    let result = measured(lab, running.as_ref(), entrant.is_in_user_space, window);
    running.stop()?;
    result
}

fn measured(
    lab: &Arc<Lab>,
    running: &dyn Running,
    is_in_user_space: bool,
    window: Duration,
) -> Result<Figures, LabError> {
    if is_in_user_space {
        finish_checksums(lab, true)?;
    }
    greet(lab)?;
    let (mpps, cpu) = packets(lab, &running.tasks(), window)?;
    let missing = [f64::NAN; 3];
    let (round_trip, gbits) = if is_in_user_space {
        let round_trip = latency::percentiles(lab, window).unwrap_or(missing);
        finish_checksums(lab, false)?;
        lab.prepare_endpoints(true)?;
        let gbits = tcp::gbits(lab, window).unwrap_or(f64::NAN);
        lab.prepare_endpoints(false)?;
        (round_trip, gbits)
    } else {
        let round_trip = latency::percentiles(lab, window).unwrap_or(missing);
        (round_trip, tcp::gbits(lab, window).unwrap_or(f64::NAN))
    };
    Ok(Figures { mpps, ratio: f64::NAN, cpu, gbits, round_trip })
}

/// Lets the endpoints' stacks finish checksums themselves, or leave them to hardware that is not there.
fn finish_checksums(lab: &Lab, is_on: bool) -> Result<(), LabError> {
    for place in [Place::A, Place::B] {
        let offload = if is_on { "off" } else { "on" };
        run("ip", &["netns", "exec", &lab.name(place), "ethtool", "-K", "end0", "tx", offload])?;
    }
    Ok(())
}

/// Lets B answer one packet of every flow that the generator will send. Whoever tracks connections takes a flow that was never
/// answered for a new one, for ever; with the answer all that follow are established.
fn greet(lab: &Lab) -> Result<(), LabError> {
    let bind = |place, (address, port): (&str, u16)| {
        let socket = lab.within(place, || UdpSocket::bind((address, port)))?;
        let socket = socket.map_err(system(format!("bind to {address}, port {port}")))?;
        socket.set_read_timeout(Some(GREETING_LIMIT)).map_err(system("limit the wait for a packet"))?;
        Ok::<_, LabError>(socket)
    };
    let far = bind(Place::B, (B_ADDRESSES.0, DESTINATION_PORT))?;
    for flow in 0..FLOWS as u16 {
        let near = bind(Place::A, (A_ADDRESSES.0, FIRST_PORT + flow))?;
        let mut buffer = [0; 16];
        let tried = (0..GREETINGS).any(|_| {
            let sent = near.send_to(b"hello", (B_ADDRESSES.0, DESTINATION_PORT));
            let answered = far.recv_from(&mut buffer).and_then(|(length, from)| far.send_to(&buffer[..length], from));
            sent.is_ok() && answered.is_ok() && near.recv(&mut buffer).is_ok()
        });
        if !tried {
            let what = format!("an answer to flow {flow} from B");
            return Err(LabError::Late { what, seconds: GREETING_LIMIT.as_secs() * u64::from(GREETINGS) });
        }
    }
    Ok(())
}

/// Millions of packets a second that arrive at B, and the nanoseconds of CPU that each takes on both sides.
fn packets(lab: &Arc<Lab>, workers: &[Task], length: Duration) -> Result<(f64, f64), LabError> {
    let sink = Sink::attach(lab, Place::B, "end0")?;
    let counted = count(lab, workers, &sink, length);
    sink.detach(lab)?;
    counted
}

fn count(lab: &Arc<Lab>, workers: &[Task], sink: &Sink, length: Duration) -> Result<(f64, f64), LabError> {
    let mut tasks = softirq_tasks();
    tasks.extend(workers);
    let generator = Generator::start(lab, LENGTH, FLOWS)?;
    tasks.push(generator.task);
    for task in workers.iter().chain([&generator.task]) {
        task.make_urgent();
    }
    thread::sleep(WARM_UP);
    let costs = || tasks.iter().map(|task| task.nanoseconds()).sum::<u64>();
    let (start, first, before) = (Instant::now(), sink.count()?, costs());
    thread::sleep(length);
    let (elapsed, last, after) = (start.elapsed(), sink.count()?, costs());
    generator.stop()?;
    let packets = last.saturating_sub(first) as f64;
    if packets == 0.0 {
        let what = "a packet arrives at the sink".to_owned();
        return Err(LabError::Late { what, seconds: length.as_secs().max(1) });
    }
    Ok((packets / elapsed.as_secs_f64() / 1e6, after.saturating_sub(before) as f64 / packets))
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
