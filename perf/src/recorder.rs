//! What the recorder of recent drops costs: whole breaths of two workers that differ in nothing else, in turn.
//!
//! ```text
//!     worker that records ────┐  64 packets a breath, window by window in turn;
//!     worker that does not ───┘  a round's ratio is that of the medians of its windows, with / without
//! ```
//!
//! Figures are geometric means of two such pairs, whose memory was taken in either order.
//! Traffic: forwarded only; forwarded with one denied packet in a hundred; floods that are dropped to the last packet, by
//! policy and at the first look. The ring is emptied as often as control does, outside of what is timed. A pair of workers that
//! do the same shows what a ratio is worth on this machine at this moment.

use std::time::Instant;

use fastpath::burst::DropReason;
use fastpath::flow::{FlowTable, FlowWriter};
use fastpath::io::memory::ReplayQueue;
use fastpath::io::umem::Umem;
use fastpath::pipeline::Now;
use fastpath::rcu::Publisher;
use fastpath::table::Tables;
use fastpath::worker::{self, Clock, Parts, Poll, Remote, Worker};

use crate::frames;
use crate::report::{Measurement, Report, ReportError, Spread};
use crate::stages::SHORT;
use crate::tables::{self, A, B};
use crate::{Error, Scale};

/// Different packets, one after the other.
const PACKETS: u32 = 6400;
/// Breaths in a window, and windows of each worker in a round.
const BREATHS: usize = 4;
const WINDOWS: usize = 20;
/// Breaths between two visits of control: its tick is 20 ms, a breath of 64 packets takes some microseconds.
const BREATHS_BETWEEN_VISITS: usize = 3000;

const MTU: u16 = 1500;

/// One packet in so many is dropped, and how.
#[derive(Clone, Copy)]
struct Traffic {
    name: &'static str,
    one_in: Option<u32>,
    how: Drop,
}

#[derive(Clone, Copy)]
enum Drop {
    /// By a rule, after a look for its flow.
    Denied,
    /// By its source address: the cheapest drop of a whole packet.
    Spoofed,
}

const TRAFFIC: [Traffic; 4] = [
    Traffic { name: "nothing dropped", one_in: None, how: Drop::Denied },
    Traffic { name: "1 % denied", one_in: Some(100), how: Drop::Denied },
    Traffic { name: "all denied", one_in: Some(1), how: Drop::Denied },
    Traffic { name: "all spoofed", one_in: Some(1), how: Drop::Spoofed },
];

/// A worker, what control holds of it, and how long ago control came by.
struct Bench {
    worker: Worker<ReplayQueue>,
    remote: Remote<ReplayQueue>,
    breaths: usize,
    _publisher: Publisher<Tables>,
}

impl Bench {
    fn new(traffic: Traffic, records: bool) -> Result<Bench, Error> {
        let publisher = Publisher::new(tables::two_endpoints_but_one_port(MTU));
        let parts = Parts {
            umem: Umem::heap(2048, 1024),
            flows: FlowWriter::new(FlowTable::new(16_384), 0, 1, publisher.grace()),
            tables: publisher.reader(),
            poll: Poll::Always,
            clock: Clock::start(),
        };
        let mut workers = worker::build::<ReplayQueue>(vec![parts]).map_err(Error::Worker)?;
        let (mut worker, remote) = workers.pop().ok_or(Error::NoWorker)?;
        worker.attach(A, ReplayQueue::new(packets(traffic)).0);
        worker.attach(B, ReplayQueue::new(Vec::new()).0);
        if !records {
            worker.stop_recording();
        }
        Ok(Bench { worker, remote, breaths: 0, _publisher: publisher })
    }

    /// Nanoseconds of a window, and its packets.
    fn window(&mut self) -> (u64, usize) {
        self.breaths += BREATHS;
        if self.breaths >= BREATHS_BETWEEN_VISITS {
            self.breaths = 0;
            while self.remote.records.pop().is_some() {}
        }
        let start = Instant::now();
        let count = (0..BREATHS).map(|_| self.worker.breathe(Now(1))).sum();
        (start.elapsed().as_nanos() as u64, count)
    }

    fn dropped(&self) -> u64 {
        let reasons = [DropReason::PolicyEgress, DropReason::SourceSpoofed];
        reasons.iter().map(|reason| self.remote.counters.dropped[*reason as usize].get()).sum()
    }
}

fn packets(traffic: Traffic) -> Vec<Vec<u8>> {
    (0..PACKETS)
        .map(|number| {
            let mut frame = frames::udp_frame(SHORT);
            let is_dropped = traffic.one_in.is_some_and(|one_in| number % one_in == 0);
            frames::address(&mut frame, number);
            match traffic.how {
                Drop::Denied if is_dropped => frames::to_denied_port(&mut frame),
                Drop::Spoofed if is_dropped => frames::from_nobody(&mut frame),
                _ => {}
            }
            frame
        })
        .collect()
}

pub fn measure(scale: &Scale, report: &mut Report) -> Result<(), Error> {
    for traffic in TRAFFIC {
        let mut pairs = pairs(traffic, [true, false])?;
        compare(&format!("recorder, {}", traffic.name), &mut pairs, scale, report)?;
        for [with, without] in &pairs {
            let expected = traffic.one_in.is_some();
            assert_eq!(with.dropped() > 0, expected, "{}: packets are dropped as they should be", traffic.name);
            assert_eq!(with.remote.counters.sent.get() > 0, traffic.one_in != Some(1), "{}", traffic.name);
            assert!(without.remote.records.is_empty(), "the other worker records nothing");
        }
    }
    compare("recorder, the same twice: all denied", &mut pairs(TRAFFIC[2], [true, true])?, scale, report)?;
    Ok(())
}

/// Two pairs. In one the first is made first, in the other the second: where their memory lies makes a difference of some
/// per cent, and so makes none.
fn pairs(traffic: Traffic, records: [bool; 2]) -> Result<[[Bench; 2]; 2], Error> {
    let (first, second) = (Bench::new(traffic, records[0])?, Bench::new(traffic, records[1])?);
    let (last, before) = (Bench::new(traffic, records[1])?, Bench::new(traffic, records[0])?);
    Ok([[first, second], [before, last]])
}

fn compare(name: &str, pairs: &mut [[Bench; 2]; 2], scale: &Scale, report: &mut Report) -> Result<(), ReportError> {
    let mut spreads = [Spread::default(), Spread::default()];
    let mut ratios = Vec::new();
    // The first packets of all flows are not what is compared.
    for bench in pairs.iter_mut().flatten() {
        for _ in 0..PACKETS / 64 {
            bench.window();
        }
    }
    for number in 0..scale.bursts.div_ceil(WINDOWS) {
        let of_pairs = pairs.each_mut().map(|pair| round(pair, number, &mut spreads));
        ratios.push((of_pairs[0] * of_pairs[1]).sqrt());
    }
    ratios.sort_by(f64::total_cmp);
    let ratio = |percent: usize| ratios[(ratios.len() - 1) * percent / 100];
    let numbers = vec![
        ("× without", ratio(50)),
        ("p10", ratio(10)),
        ("p90", ratio(90)),
        ("ns with", spreads[0].percentile(50.0)),
        ("ns without", spreads[1].percentile(50.0)),
    ];
    report.add(Measurement { group: "memory", name: name.to_owned(), frame_mode: "memory", numbers })
}

/// Windows of both in turn, and the ratio of their medians.
fn round(pair: &mut [Bench; 2], number: usize, spreads: &mut [Spread; 2]) -> f64 {
    let mut times = [const { Vec::new() }; 2];
    for window in 0..WINDOWS {
        // Who goes first changes, in a round and between rounds: neither always finds the cache as somebody else left it.
        let first = (number + window) % 2;
        for turn in [first, 1 - first] {
            let (nanoseconds, count) = pair[turn].window();
            spreads[turn].record(nanoseconds, count);
            times[turn].push(nanoseconds);
        }
    }
    let [with, without] = times.map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2] as f64
    });
    with / without
}
