//! How long packets take from A to B, at fixed loads.
//!
//! The tester writes the time into a packet when it makes it, and the gauge takes the difference when it arrives: one way,
//! with the wait for up to seven others of the same hand-over to the interface in it, and nothing of the ends' stacks. The
//! idle ping-pong is another thing: a datagram there and back between two sockets that block.

use std::time::Duration;

use fastpath::io::gauge::Depth;
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::record::{about, cell, rounded, tell_sink};
use super::throughput::highest;
use super::{BenchError, Plan, Recorder, SEARCH, TRIAL, forwarders, tester};
use crate::forwarder;
use crate::lab::{Lab, LabError};
use crate::latency::ping_pong;
use crate::search::Goal;
use crate::trial::{Offer, Outcome};

const PERCENTILES: [f64; 15] =
    [0.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.95, 99.99, 99.995, 99.999, 100.0];
const SHARES: [f64; 3] = [0.1, 0.5, 0.9];
/// Longest that a packet may take and still be told from others; beyond that it counts as that.
const LONGEST: u64 = 60_000_000_000;
const IDLE: Duration = Duration::from_secs(1);

pub fn measure(plan: &Plan, recorder: &mut Recorder) -> Result<(), BenchError> {
    let lab = Lab::new(1500)?;
    let trial = plan.duration.unwrap_or(TRIAL);
    for point in plan.points() {
        recorder.say(&format!("\n{}", point.name()))?;
        recorder.say(&format!(
            "  {:34}{}",
            "",
            ["Mpps", "p50 us", "p99", "p99.9", "max", "lost"].map(|name| format!("{name:>11}")).concat()
        ))?;
        for (name, forwarder) in forwarders(&point) {
            let mut tester = tester(plan, &lab, &point, Depth::Whole)?;
            let rows = forwarder::with(forwarder.as_ref(), &lab, |running| {
                tester.introduce(running)?;
                let mut rows = Vec::new();
                let loads: Vec<(String, f64)> = match plan.rate {
                    Some(rate) => vec![("the load asked for".to_owned(), rate)],
                    None => {
                        let (found, _) = highest(&mut tester, running, Goal::pdr(TRIAL), SEARCH / 2)?;
                        let most = found.throughput.ok_or(LabError::Answer {
                            answer: "no load loses less than 0.5 %: nothing to take shares of; give --rate".to_owned(),
                        })?;
                        SHARES.map(|share| (format!("{:.0} % of PDR", share * 100.0), share * most)).to_vec()
                    }
                };
                for (load, rate) in loads {
                    let mut histogram = empty();
                    let mut outcomes = Vec::new();
                    for _ in 0..plan.rounds {
                        let outcome = tester.run(running, Offer { rate: Some(rate), duration: trial })?;
                        for (nanoseconds, count) in &outcome.latencies {
                            histogram.saturating_record_n(*nanoseconds, *count);
                        }
                        outcomes.push(Outcome { latencies: Vec::new(), ..outcome });
                    }
                    rows.push((load, Some((rate, outcomes)), histogram));
                }
                Ok(rows)
            })?;
            drop(tester);
            let idle = forwarder::with(forwarder.as_ref(), &lab, |_| ping_pong(&lab, IDLE))?;
            let mut histogram = empty();
            for nanoseconds in idle {
                histogram.saturating_record(nanoseconds);
            }
            let idle = ("idle ping-pong, round trip".to_owned(), None, histogram);
            for (load, offered, histogram) in rows.into_iter().chain([idle]) {
                let us = |percent: f64| histogram.value_at_percentile(percent) as f64 / 1e3;
                let (rate, outcomes) = offered.unwrap_or((f64::NAN, Vec::new()));
                let sum = |field: fn(&Outcome) -> u64| outcomes.iter().map(field).sum::<u64>();
                let (due, lost) = (sum(|outcome| outcome.due), sum(Outcome::lost));
                let label = format!("{name}, {load}");
                let numbers = [50.0, 99.0, 99.9, 100.0].map(|percent| format!("{:>11.1}", us(percent))).concat();
                recorder.say(&format!("  {label:34}{}{numbers}{lost:>11}", cell(rate / 1e6, 3)))?;
                let mut line = about("latency", name, &point);
                line["load"] = load.into();
                line["mpps"] = rounded(rate / 1e6);
                line["due"] = due.into();
                line["lost"] = lost.into();
                line["reordered"] = sum(|outcome| outcome.reordered).into();
                line["samples"] = histogram.len().into();
                line["mean_us"] = rounded(histogram.mean() / 1e3);
                let pair = |percent: &f64| json!([percent, rounded(us(*percent))]);
                line["percentiles_us"] = PERCENTILES.iter().map(pair).collect::<Value>();
                if let Some(text) = tell_sink(&outcomes, &mut line) {
                    recorder.say(&text)?;
                }
                recorder.write(line)?;
            }
        }
    }
    Ok(())
}

fn empty() -> Histogram<u64> {
    let bounded = Histogram::new_with_bounds(1, LONGEST, 3);
    bounded.unwrap_or_else(|error| unreachable!("bounds of a histogram: {error}"))
}
