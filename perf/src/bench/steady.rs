//! A steady load: for long (`soak`), and while tables are swapped (`reconf`).
//!
//! Effective blocked time is what was lost by the swaps, in time: packets lost beyond those that the same load loses without
//! swaps, by the load. A packet that met half a change would either go to a MAC address that the gauge knows as wrong, or
//! be denied: the two sets of tables that take turns have routes and policy at different places, and at each other's places
//! what is wrong.

use std::time::{Duration, Instant};

use fastpath::io::gauge::{Depth, MARK};
use fastpath::table::acl::{Acl, AclSpec, ProgramEnd, ProgramSpec};
use fastpath::table::adjacency::{Adjacency, AdjacencyKind};
use fastpath::table::{EndpointIndex, ProgramIndex, RuleIndex, Tables};

use super::record::{about, rounded};
use super::throughput::highest;
use super::{BenchError, Plan, Point, Recorder, SEARCH, TRIAL, tester};
use crate::cpu::resident_mib;
use crate::forwarder;
use crate::lab::{Lab, LabError};
use crate::report::median;
use crate::search::Goal;
use crate::tables;
use crate::trial::{Offer, Outcome, Tester};

const SOAK: Duration = Duration::from_secs(60);
const SLICE: Duration = Duration::from_secs(1);
/// Sets of tables made before a trial; more than one trial can publish, one a turn.
const SWAPS: usize = 200;

pub fn soak(plan: &Plan, recorder: &mut Recorder) -> Result<(), BenchError> {
    let lab = Lab::new(1500)?;
    let duration = plan.duration.unwrap_or(SOAK);
    let point = plan.points()[0];
    recorder.say(&format!("\nrouter, {}", point.name()))?;
    let mut tester = tester(plan, &lab, &point, Depth::Whole)?;
    let mut slices = Vec::new();
    let outcome = forwarder::with_router(point.router(), &lab, |router| {
        tester.introduce(router)?;
        let rate = steady_rate(plan, &mut tester, router)?;
        // For as long as this takes, the machine is not ours alone.
        tester.is_urgent = false;
        let (start, mut slice) = (Instant::now(), Instant::now());
        let (mut sent, mut missed, mut received) = (0, 0, tester.now()?.1.packets);
        tester.run_while(router, Offer { rate: Some(rate), duration }, |tester| {
            if slice.elapsed() >= SLICE {
                let (progress, totals) = tester.now()?;
                let lost = (progress.sent - sent).saturating_sub(totals.packets - received);
                let flows = router.counters().flows.get();
                let second = start.elapsed().as_secs_f64();
                slices.push((second, progress.sent - sent, progress.missed - missed, lost, resident_mib(), flows));
                (sent, missed, received) = (progress.sent, progress.missed, totals.packets);
                slice = Instant::now();
            }
            Ok(())
        })
    })?;
    let names = ["second", "sent", "not sent", "lost", "memory MB", "flows"].map(|name| format!("{name:>12}"));
    recorder.say(&format!("  {}", names.concat()))?;
    for (second, sent, missed, lost, memory, flows) in &slices {
        recorder.say(&format!("  {second:>12.0}{sent:>12}{missed:>12}{lost:>12}{memory:>12.1}{flows:>12}"))?;
        let mut line = about("soak", "router", &point);
        line["second"] = rounded(*second);
        line["sent"] = (*sent).into();
        line["not_sent"] = (*missed).into();
        line["lost"] = (*lost).into();
        line["memory_mb"] = rounded(*memory);
        line["live_flows"] = (*flows).into();
        recorder.write(line)?;
    }
    recorder.say(&format!(
        "  in all: {} sent, {} of them lost ({:.4} %), {} not sent because the tester was kept waiting, {} out of order, {} twice",
        outcome.sent,
        outcome.sent.saturating_sub(outcome.received),
        100.0 * outcome.sent.saturating_sub(outcome.received) as f64 / outcome.sent.max(1) as f64,
        outcome.due - outcome.sent,
        outcome.reordered,
        outcome.twice
    ))
}

pub fn reconfigure(plan: &Plan, recorder: &mut Recorder) -> Result<(), BenchError> {
    let lab = Lab::new(1500)?;
    let trial = plan.duration.unwrap_or(TRIAL);
    for point in plan.points() {
        recorder.say(&format!("\nrouter, {}", point.name()))?;
        let mut tester = tester(plan, &lab, &point, Depth::Whole)?;
        let (rate, rounds) = forwarder::with_router(point.router(), &lab, |router| {
            tester.introduce(router)?;
            let rate = steady_rate(plan, &mut tester, router)?;
            let offer = Offer { rate: Some(rate), duration: trial };
            let mut rounds = Vec::new();
            // The router began with tables of generation 1.
            let mut generations = 2..;
            for _ in 0..plan.rounds {
                let still = tester.run(router, offer)?;
                // Made before the trial: what is measured is publication, not compilation.
                let next = generations.by_ref().take(SWAPS);
                let mut ready: Vec<Tables> = next.map(|generation| variant(&point, lab.mtu(), generation)).collect();
                let mut swaps = 0;
                let moved = tester.run_while(router, offer, |_| {
                    if let Some(tables) = ready.pop() {
                        router.publish(tables);
                        swaps += 1;
                    }
                    Ok(())
                })?;
                rounds.push((still, moved, swaps));
            }
            Ok((rate, rounds))
        })?;
        tell(&point, rate, &rounds, recorder)?;
    }
    Ok(())
}

fn tell(
    point: &Point,
    rate: f64,
    rounds: &[(Outcome, Outcome, usize)],
    recorder: &mut Recorder,
) -> Result<(), BenchError> {
    let sum = |field: &dyn Fn(&(Outcome, Outcome, usize)) -> u64| rounds.iter().map(field).sum::<u64>();
    let swaps = sum(&|round| round.2 as u64);
    let (still, moved) = (sum(&|round| round.0.lost()), sum(&|round| round.1.lost()));
    let marked = sum(&|round| round.1.marked);
    let blocked: Vec<f64> =
        rounds.iter().map(|(still, moved, _)| (moved.lost() as f64 - still.lost() as f64).max(0.0) / rate).collect();
    let blocked_us = median(&blocked) * 1e6;
    let p99 = |outcome: &Outcome| percentile(&outcome.latencies, 0.99) / 1e3;
    let (still_p99, moved_p99) = (
        median(&rounds.iter().map(|round| p99(&round.0)).collect::<Vec<_>>()),
        median(&rounds.iter().map(|round| p99(&round.1)).collect::<Vec<_>>()),
    );
    recorder.say(&format!(
        "  {:.3} Mpps, {} rounds with and without {swaps} swaps of all tables",
        rate / 1e6,
        rounds.len()
    ))?;
    recorder.say(&format!("  lost without swaps        {still:>10}   p99 {still_p99:>9.1} us"))?;
    recorder.say(&format!("  lost with swaps           {moved:>10}   p99 {moved_p99:>9.1} us"))?;
    recorder.say(&format!("  effective blocked time    {blocked_us:>10.1} us a round, median"))?;
    recorder.say(&format!("  met half a change         {marked:>10}"))?;
    let mut line = about("reconf", "router", point);
    line["mpps"] = rounded(rate / 1e6);
    line["rounds"] = rounds.len().into();
    line["swaps"] = swaps.into();
    line["lost_without"] = still.into();
    line["lost_with"] = moved.into();
    line["blocked_us"] = rounded(blocked_us);
    line["mixed"] = marked.into();
    line["p99_without_us"] = rounded(still_p99);
    line["p99_with_us"] = rounded(moved_p99);
    recorder.write(line)
}

/// Half of what is carried, where nothing else is asked.
fn steady_rate(plan: &Plan, tester: &mut Tester<'_>, router: &dyn forwarder::Running) -> Result<f64, LabError> {
    if let Some(rate) = plan.rate {
        return Ok(rate);
    }
    let (found, _) = highest(tester, router, Goal::pdr(TRIAL), SEARCH / 2)?;
    let most = found.throughput.ok_or(LabError::Answer {
        answer: "no load loses less than 0.5 %: nothing to take half of; give --rate".to_owned(),
    })?;
    Ok(most / 2.0)
}

/// The tables of a point with everything in one of two orders. In each, what stands where the other has the way to B is
/// a way to nobody, and what stands where the other has B's policy denies.
fn variant(point: &Point, mtu: u16, generation: u32) -> Tables {
    let mut tables = point.router().tables(mtu);
    let is_odd = generation % 2 == 1;
    let wrong_mac = [2, 0, 0, 0, 0, MARK];
    let way =
        |mac| Adjacency::new(AdjacencyKind::Forward, tables::B, EndpointIndex(1), mtu, mac, tables::ROUTER_MAC, [0; 2]);
    let (right, wrong) = (way(tables::B_MAC), way(wrong_mac));
    tables.adjacencies.truncate(1);
    tables.adjacencies.extend(if is_odd { [right, wrong] } else { [wrong, right] });
    let to_b = if is_odd { 1 } else { 2 };
    tables::route_to_b(&mut tables, point.routes, to_b);
    tables.policy = Acl::build(&two_programs(point.rules, is_odd));
    let program = ProgramIndex(u32::from(!is_odd) as _);
    for endpoint in &mut tables.endpoints {
        (endpoint.egress, endpoint.ingress) = (program, program);
    }
    // No flow was decided under these.
    tables.generation = generation;
    tables
}

/// The policy that allows, and one that denies everything, in one of two orders.
fn two_programs(rules: usize, allows_first: bool) -> AclSpec {
    let mut spec = tables::policy(rules);
    let nobody = ProgramSpec { tiers: Vec::new(), profiles: Vec::new(), end: ProgramEnd::Deny(RuleIndex(60_002)) };
    spec.programs.insert(if allows_first { 1 } else { 0 }, nobody);
    spec
}

/// Nanoseconds that this share of packets took at most.
fn percentile(latencies: &[(u64, u64)], share: f64) -> f64 {
    let all: u64 = latencies.iter().map(|(_, count)| count).sum();
    let mut seen = 0;
    let reached = latencies.iter().find(|(_, count)| {
        seen += count;
        seen as f64 >= all as f64 * share
    });
    reached.map_or(f64::NAN, |(value, _)| *value as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_buckets() {
        let latencies = [(1000, 90), (2000, 9), (9000, 1)];
        assert_eq!(
            [0.5, 0.99, 0.995, 1.0].map(|share| percentile(&latencies, share)),
            [1000.0, 2000.0, 9000.0, 9000.0]
        );
        assert!(percentile(&[], 0.5).is_nan());
    }
}
