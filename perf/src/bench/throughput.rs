//! Packets per second: as many as arrive (`mrr`, `compare`), and as many as may be sent (`ndr`, `pdr`).

use std::time::{Duration, Instant};

use fastpath::io::gauge::Depth;
use serde_json::json;

use super::record::{about, cell, rounded, tell_sink};
use super::{BenchError, Kind, LOADS, Plan, Point, Recorder, SEARCH, TRIAL, forwarders, tester};
use crate::forwarder::{self, Forwarder, Running};
use crate::lab::{Lab, LabError};
use crate::report::median;
use crate::search::{Found, Goal, Search, Trial};
use crate::trial::{Offer, Outcome, Tester};

const NAME_WIDTH: usize = 34;

/// What a forwarder did in every round of a point.
struct Column<'a> {
    name: String,
    forwarder: &'a dyn Forwarder,
    outcomes: Vec<Outcome>,
    /// Why it is not measured.
    failure: Option<String>,
}

pub fn receive_rates(plan: &Plan, others: &[Box<dyn Forwarder>], recorder: &mut Recorder) -> Result<(), BenchError> {
    let lab = Lab::new(1500)?;
    let trial = plan.duration.unwrap_or(TRIAL);
    for point in plan.points() {
        recorder.say(&format!("\n{}", plan.title(&point)))?;
        recorder.say(&format!("  {:NAME_WIDTH$}{}", "", headings()))?;
        let own = forwarders(&point);
        let mut columns: Vec<Column> = own
            .iter()
            .map(|(name, forwarder)| ((*name).to_owned(), forwarder))
            .chain(others.iter().map(|forwarder| (forwarder.name(), forwarder)))
            .map(|(name, forwarder)| Column {
                name,
                forwarder: forwarder.as_ref(),
                outcomes: Vec::new(),
                failure: None,
            })
            .collect();
        let mut tester = tester(plan, &lab, &point, Depth::Count)?;
        for _ in 0..plan.rounds {
            for column in columns.iter_mut().filter(|column| column.failure.is_none()) {
                match receive_rate(&lab, column.forwarder, &mut tester, trial) {
                    Ok(outcome) => column.outcomes.push(outcome),
                    // One that cannot be had on this machine is no reason not to measure the others.
                    Err(error) if column.name != "kernel" && column.name != "router" => {
                        column.failure = Some(error.to_string());
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        }
        let kernel: Vec<f64> = columns[0].outcomes.iter().map(Outcome::rate).collect();
        for column in &columns {
            tell(column, &kernel, plan, &point, recorder)?;
        }
    }
    Ok(())
}

/// One trial of a forwarder with all that the tester can send.
pub(crate) fn receive_rate(
    lab: &Lab,
    forwarder: &dyn Forwarder,
    tester: &mut Tester<'_>,
    duration: Duration,
) -> Result<Outcome, LabError> {
    forwarder::with(forwarder, lab, |running| {
        tester.introduce(running)?;
        tester.run(running, Offer { rate: None, duration })
    })
}

fn headings() -> String {
    ["Mpps", "x kernel", "Gbit/s", "offered", "own ns", "tester ns"].map(|name| format!("{name:>11}")).concat()
}

fn tell(
    column: &Column,
    kernel: &[f64],
    plan: &Plan,
    point: &Point,
    recorder: &mut Recorder,
) -> Result<(), BenchError> {
    if let Some(failure) = &column.failure {
        recorder.say(&format!("  {:NAME_WIDTH$}not measured: {failure}", column.name))?;
        let mut line = about("throughput", &column.name, point);
        line["failure"] = failure.as_str().into();
        return recorder.write(line);
    }
    let of = |field: &dyn Fn(&Outcome) -> f64| median(&column.outcomes.iter().map(field).collect::<Vec<_>>());
    let ratios: Vec<f64> = column.outcomes.iter().zip(kernel).map(|(own, kernel)| own.rate() / kernel).collect();
    let mpps = of(&|outcome| outcome.rate() / 1e6);
    let gbits = mpps * plan.bytes(point) * 8.0 / 1e3;
    let offered = of(&|outcome| outcome.sent as f64 / outcome.seconds / 1e6);
    let own = of(&|outcome| outcome.cpu[0] as f64 / outcome.arrived.max(1) as f64);
    let tester = of(&|outcome| outcome.cpu[1] as f64 / outcome.arrived.max(1) as f64);
    let ratio = median(&ratios);
    let all = [(mpps, 3), (ratio, 2), (gbits, 2), (offered, 2), (own, 0), (tester, 0)];
    let numbers = all.map(|(value, digits)| cell(value, digits)).concat();
    recorder.say(&format!("  {:NAME_WIDTH$}{numbers}", column.name))?;
    let mut line = about("throughput", &column.name, point);
    line["measure"] = "mrr".into();
    line["mpps"] = rounded(mpps);
    line["gbits"] = rounded(gbits);
    line["x_kernel"] = rounded(ratio);
    line["offered_mpps"] = rounded(offered);
    line["own_ns"] = rounded(own);
    line["tester_ns"] = rounded(tester);
    line["trials_mpps"] = column.outcomes.iter().map(|outcome| rounded(outcome.rate() / 1e6)).collect();
    if let Some(text) = tell_sink(&column.outcomes, &mut line) {
        recorder.say(&text)?;
    }
    recorder.write(line)
}

pub fn searches(plan: &Plan, recorder: &mut Recorder) -> Result<(), BenchError> {
    let lab = Lab::new(1500)?;
    let goal = match plan.kind {
        Kind::Ndr => Goal::ndr(TRIAL),
        _ => Goal::pdr(TRIAL),
    };
    recorder.say(&format!(
        "goal: loss ratio {}, exceeded in at most {} of {:.1} s of trials of {:.1} s; width {}",
        goal.loss_ratio,
        goal.exceed_ratio,
        goal.sum.as_secs_f64(),
        goal.trial.as_secs_f64(),
        goal.width
    ))?;
    for point in plan.points() {
        recorder.say(&format!("\n{}", plan.title(&point)))?;
        let headings =
            ["Mpps", "x kernel", "Gbit/s", "lower", "upper", "trials"].map(|name| format!("{name:>11}")).concat();
        recorder.say(&format!("  {:NAME_WIDTH$}{headings}", ""))?;
        let mut kernel = f64::NAN;
        for (name, forwarder) in forwarders(&point) {
            let mut tester = tester(plan, &lab, &point, Depth::Count)?;
            let (found, search) = forwarder::with(forwarder.as_ref(), &lab, |running| {
                tester.introduce(running)?;
                highest(&mut tester, running, goal, plan.duration.unwrap_or(SEARCH))
            })?;
            let mpps = found.throughput.unwrap_or(f64::NAN) / 1e6;
            if name == "kernel" {
                kernel = mpps;
            }
            let gbits = mpps * plan.bytes(&point) * 8.0 / 1e3;
            let bound = |bound: Option<f64>| bound.map_or(f64::NAN, |load| load / 1e6);
            let (lower, upper) = (bound(found.lower), bound(found.upper));
            let all = [(mpps, 3), (mpps / kernel, 2), (gbits, 2), (lower, 3), (upper, 3)];
            let numbers = all.map(|(value, digits)| cell(value, digits)).concat();
            let remark = if found.is_done { "" } else { "  out of time: bounds are not as near as asked" };
            recorder.say(&format!("  {name:NAME_WIDTH$}{numbers}{:>11}{remark}", search.trials.len()))?;
            let mut line = about("throughput", name, &point);
            line["measure"] = plan.kind.name().into();
            line["mpps"] = rounded(mpps);
            line["gbits"] = rounded(gbits);
            line["x_kernel"] = rounded(mpps / kernel);
            line["lower_mpps"] = rounded(lower);
            line["upper_mpps"] = rounded(upper);
            line["is_done"] = found.is_done.into();
            line["goal"] = json!({
                "loss_ratio": goal.loss_ratio, "exceed_ratio": goal.exceed_ratio, "width": goal.width,
                "trial_s": goal.trial.as_secs_f64(), "duration_sum_s": goal.sum.as_secs_f64(),
            });
            let of_trial = |trial: &Trial| json!([rounded(trial.load / 1e6), rounded(trial.loss_ratio)]);
            line["trials"] = search.trials.iter().map(of_trial).collect();
            recorder.write(line)?;
        }
    }
    Ok(())
}

/// The highest load of a goal, from a first trial with as much as the tester has.
pub fn highest(
    tester: &mut Tester<'_>,
    running: &dyn Running,
    goal: Goal,
    time: Duration,
) -> Result<(Found, Search), LabError> {
    let start = Instant::now();
    let most = tester.run(running, Offer { rate: None, duration: goal.trial })?;
    let mut search = Search::default();
    let mut measure = |rate: f64, duration: Duration| {
        let outcome = tester.run(running, Offer { rate: Some(rate), duration })?;
        Ok::<_, LabError>(Trial { load: rate, seconds: outcome.seconds, loss_ratio: outcome.loss_ratio() })
    };
    let found = search.find(goal, LOADS, most.rate(), &mut measure, &mut || start.elapsed() >= time)?;
    Ok((found, search))
}
