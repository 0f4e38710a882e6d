//! Packets each of which has to be decided anew: our router beside the kernel in Calico's layouts, in one run.
//!
//! - **new flow**: no flow comes twice in a trial, and state is kept of each. With us that is a lookup among flows, both
//!   policies, a route, and two entries; with the kernel it is a connection of its tables and both policies. A flow of ours that
//!   comes again after it was evicted is as new as any.
//! - **untracked**: no state is kept, so every packet walks the policies. With the kernel they are those of both endpoints;
//!   with us the untracked policy of a host endpoint, which is the only one without state that there is, on the way to the host.
//!
//! Sixty-four flows and `established` are what [`super::throughput`] and [`crate::peers`] measure.

use std::time::{Duration, Instant};

use fastpath::io::gauge::Depth;
use serde_json::Value;

use super::record::{about, cell, rounded};
use super::{BenchError, Plan, Point, Recorder};
use crate::forwarder::{self, Forwarder};
use crate::lab::{Lab, LabError};
use crate::peers::firewall::{Firewall, Language};
use crate::peers::layout::Tracking;
use crate::report::median;
use crate::router::RouterOptions;
use crate::traffic::Traffic;
use crate::trial::{Offer, Tester};

/// More than are sent in a trial.
const NEW_FLOWS: u32 = 8 << 20;
/// Fewer than are new in a trial: the table is full most of the time, and each flow takes another's place.
const TABLE: u32 = 1 << 16;
/// Of a trial: the kernel hands 64 packets over at once, which take it twenty milliseconds, and a trial should have many of those.
const DECIDE: Duration = Duration::from_millis(800);
const NAME_WIDTH: usize = 44;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Packets {
    NewFlow,
    Untracked,
}

impl Packets {
    fn name(self) -> &'static str {
        match self {
            Packets::NewFlow => "new flow",
            Packets::Untracked => "untracked",
        }
    }
}

/// A forwarder, and what it did in every round.
struct Column {
    name: String,
    is_ours: bool,
    forwarder: Box<dyn Forwarder>,
    /// Packets a second, and CPU nanoseconds of one.
    rounds: Vec<(f64, f64)>,
    failure: Option<String>,
}

pub fn measure(plan: &Plan, recorder: &mut Recorder) -> Result<(), BenchError> {
    let lab = Lab::new(1500)?;
    for point in plan.points() {
        for packets in [Packets::NewFlow, Packets::Untracked] {
            let (size, family) = (point.traffic.size.name(), point.traffic.family.name());
            let rules = crate::memory::thousands(point.rules);
            recorder.say(&format!("\nevery packet {}: {size}, {family}, {rules} rules", packets.name()))?;
            let headings =
                ["kpps", "x best kernel", "CPU ns", "least", "most"].map(|name| format!("{name:>14}")).concat();
            recorder.say(&format!("  {:NAME_WIDTH$}{headings}", ""))?;
            let mut columns = columns(packets, &point);
            for _ in 0..plan.rounds {
                for column in columns.iter_mut().filter(|column| column.failure.is_none()) {
                    match once(&lab, column.forwarder.as_ref(), packets, plan, &point) {
                        Ok(round) => column.rounds.push(round),
                        Err(error) if column.is_ours => return Err(error.into()),
                        Err(error) => column.failure = Some(crate::chain(&error)),
                    }
                }
            }
            tell(&columns, packets, &point, recorder)?;
        }
    }
    Ok(())
}

fn columns(packets: Packets, point: &Point) -> Vec<Column> {
    let column = |is_ours, name, forwarder| Column { name, is_ours, forwarder, rounds: Vec::new(), failure: None };
    let is_untracked = packets == Packets::Untracked;
    let router = RouterOptions { flows: TABLE, is_untracked, ..point.router() };
    let mut all = vec![column(true, "router".to_owned(), Box::new(router) as Box<dyn Forwarder>)];
    let tracking = if is_untracked { Tracking::Untracked } else { Tracking::New };
    for language in [Language::Iptables, Language::Nftables] {
        let firewall = Firewall { language, policies: point.rules, tracking };
        all.push(column(false, firewall.name(), Box::new(firewall)));
    }
    all
}

/// One trial with all that the tester can send.
fn once(
    lab: &Lab,
    forwarder: &dyn Forwarder,
    packets: Packets,
    plan: &Plan,
    point: &Point,
) -> Result<(f64, f64), LabError> {
    let flows = if packets == Packets::NewFlow { NEW_FLOWS } else { point.traffic.flows };
    let traffic = Traffic { flows, ..point.traffic };
    let mut tester = Tester::between(lab, traffic, Depth::Count, plan.ends)?;
    let duration = plan.duration.unwrap_or(DECIDE);
    forwarder::with(forwarder, lab, |running| {
        let start = Instant::now();
        let outcome = tester.run(running, Offer { rate: None, duration })?;
        let (arrived, rate) = outcome.rate_within(start.elapsed());
        match arrived {
            0 => Err(LabError::Peer(format!("no packet arrived at B in {} ms", duration.as_millis()))),
            _ => Ok((rate, outcome.cpu.iter().sum::<u64>() as f64 / arrived as f64)),
        }
    })
}

fn tell(columns: &[Column], packets: Packets, point: &Point, recorder: &mut Recorder) -> Result<(), BenchError> {
    // The better of the kernel's two layouts, round by round.
    let kernel = |round: usize| {
        let rates =
            columns.iter().filter(|column| !column.is_ours).filter_map(|column| Some(column.rounds.get(round)?.0));
        rates.fold(f64::NAN, f64::max)
    };
    for column in columns {
        let mut line = about("decided", &column.name, point);
        line["packets"] = packets.name().into();
        if let Some(failure) = &column.failure {
            recorder.say(&format!("  {:NAME_WIDTH$}not measured: {failure}", column.name))?;
            line["failure"] = failure.as_str().into();
            recorder.write(line)?;
            continue;
        }
        let rates: Vec<f64> = column.rounds.iter().map(|round| round.0 / 1e3).collect();
        let costs: Vec<f64> = column.rounds.iter().map(|round| round.1).collect();
        let ratios: Vec<f64> =
            column.rounds.iter().enumerate().map(|(number, round)| round.0 / kernel(number)).collect();
        let (least, most) =
            (rates.iter().copied().fold(f64::NAN, f64::min), rates.iter().copied().fold(f64::NAN, f64::max));
        let (kpps, ratio, cost) = (median(&rates), median(&ratios), median(&costs));
        let all = [(kpps, 2), (ratio, 1), (cost, 0), (least, 2), (most, 2)];
        let numbers = all.map(|(value, digits)| format!("{:>14}", cell(value, digits).trim())).concat();
        recorder.say(&format!("  {:NAME_WIDTH$}{numbers}", column.name))?;
        line["kpps"] = rounded(kpps);
        line["x_best_kernel"] = rounded(ratio);
        line["cpu_ns"] = rounded(cost);
        line["rounds_kpps"] = rates.iter().map(|rate| rounded(*rate)).collect::<Value>();
        recorder.write(line)?;
    }
    Ok(())
}
