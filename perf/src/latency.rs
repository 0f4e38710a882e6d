//! How long a UDP packet of 64 bytes takes from A to B and back.
//!
//! Both ends block in `recv`, as most programs do, so two wake-ups by the scheduler are part of every round trip, and with a
//! sleeping worker four. Nobody is pinned: where ends and worker are more than the cores, a worker that never sleeps is in
//! the way of both.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use fastpath::worker::Poll;

use crate::forwarder::{self, Forwarder, Kernel};
use crate::lab::{A_ADDRESSES, B_ADDRESSES, Lab, LabError, Place, system};
use crate::report::{Measurement, Report, Spread, median};
use crate::router::RouterOptions;
use crate::{Error, Scale};

const PORT: u16 = 7;
const LENGTH: usize = 64;
const PERCENTILES: [f64; 3] = [50.0, 99.0, 99.9];
/// A round trip that takes longer is lost.
const LOST: Duration = Duration::from_millis(500);
/// The first ones find cold caches and no flow.
const WARM_UP: usize = 100;

pub fn measure(scale: &Scale, report: &mut Report) -> Result<(), Error> {
    let lab = Lab::new(1500)?;
    let sleeping = RouterOptions { rules: 100, ..RouterOptions::default() };
    let ways = [
        ("kernel forwarding", &Kernel as &dyn Forwarder),
        ("router, sleeps when idle", &sleeping),
        ("router, never sleeps", &RouterOptions { poll: Poll::Always, ..sleeping }),
    ];
    let mut rounds: Vec<Vec<[f64; 3]>> = ways.iter().map(|_| Vec::new()).collect();
    for _ in 0..scale.rounds {
        for ((_, way), rounds) in ways.iter().zip(&mut rounds) {
            rounds.push(forwarder::with(*way, &lab, |_| percentiles(&lab, scale.window))?);
        }
    }
    let kernel = &rounds[0];
    for (position, ((name, _), own)) in ways.iter().zip(&rounds).enumerate() {
        let of = |position: usize| median(&own.iter().map(|round| round[position]).collect::<Vec<_>>());
        let ratios: Vec<f64> = own.iter().zip(kernel).map(|(own, kernel)| own[0] / kernel[0]).collect();
        report.add(Measurement {
            group: "latency, UDP round trip",
            name: (*name).to_owned(),
            frame_mode: if position > 0 { "veth, native xdp, copy" } else { "veth" },
            numbers: vec![("x kernel", median(&ratios)), ("p50 us", of(0)), ("p99 us", of(1)), ("p99.9 us", of(2))],
        })?;
    }
    Ok(())
}

/// Percentiles of the round trips of one window, in microseconds.
pub(crate) fn percentiles(lab: &Lab, window: Duration) -> Result<[f64; 3], LabError> {
    let mut spread = Spread::default();
    for nanoseconds in ping_pong(lab, window)? {
        spread.record(nanoseconds, 1);
    }
    Ok(PERCENTILES.map(|percent| spread.percentile(percent) / 1e3))
}

/// The round trips of one window, in nanoseconds.
pub fn ping_pong(lab: &Lab, window: Duration) -> Result<Vec<u64>, LabError> {
    let far = SocketAddr::new(address(B_ADDRESSES.0)?, PORT);
    let server = lab.within(Place::B, || bind(far))??;
    let client = lab.within(Place::A, || bind(SocketAddr::new(address(A_ADDRESSES.0)?, PORT)))??;
    client.connect(far).map_err(system("connect a socket at A"))?;
    thread::scope(|scope| {
        let answering = scope.spawn(move || answer(&server));
        let times = ask(&client, window);
        // An empty packet ends the other side, and so does its time limit.
        let _ = client.send(&[]);
        answering.join().map_err(|_| LabError::Panicked)??;
        times
    })
}

fn ask(socket: &UdpSocket, window: Duration) -> Result<Vec<u64>, LabError> {
    let message = [0x5a; LENGTH];
    let mut buffer = [0; LENGTH];
    let mut times = Vec::new();
    let mut count = 0;
    let end = Instant::now() + window;
    loop {
        let start = Instant::now();
        if start >= end {
            return Ok(times);
        }
        socket.send(&message).map_err(system("send from A"))?;
        socket.recv(&mut buffer).map_err(system("wait at A for the answer from B"))?;
        count += 1;
        if count > WARM_UP {
            times.push(start.elapsed().as_nanos() as u64);
        }
    }
}

fn answer(socket: &UdpSocket) -> Result<(), LabError> {
    let mut buffer = [0; LENGTH];
    loop {
        let (length, from) = socket.recv_from(&mut buffer).map_err(system("wait at B for a packet from A"))?;
        if length == 0 {
            return Ok(());
        }
        socket.send_to(&buffer[..length], from).map_err(system("answer from B"))?;
    }
}

fn bind(address: SocketAddr) -> Result<UdpSocket, LabError> {
    let socket = UdpSocket::bind(address).map_err(system(format!("bind to {address}")))?;
    socket.set_read_timeout(Some(LOST)).map_err(system("limit the wait for a packet"))?;
    Ok(socket)
}

fn address(text: &str) -> Result<IpAddr, LabError> {
    text.parse().map_err(|_| LabError::Answer { answer: text.to_owned() })
}
