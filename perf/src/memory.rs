//! The stages, the tables and the checksum on one core, without kernel.
//!
//! A window is one burst of 256 packets, or one batch of lookups. Packets are written into their frames before the window
//! and freed after it, so a window holds what `Pipeline::run` does and nothing else; the frames are as warm as
//! a driver that has just copied them leaves them. `worker, 64 packets a breath` is the one exception: it runs whole
//! breaths over queues in memory, with receiving, sending and counting.

use std::hint::black_box;
use std::time::Instant;

use fastpath::burst::BURST;
use fastpath::flow::{FlowTable, FlowWriter, MAPPED_PREFIX};
use fastpath::header::checksum::Sum;
use fastpath::io::memory::ReplayQueue;
use fastpath::io::umem::Umem;
use fastpath::pipeline::Now;
use fastpath::rcu::Publisher;
use fastpath::table::ProgramIndex;
use fastpath::table::acl::{Acl, Question};
use fastpath::worker::{self, Clock, Parts, Poll};

use crate::cpu::on_last_core;
use crate::frames;
use crate::random::Random;
use crate::report::{Measurement, Report, ReportError, Spread};
use crate::stages::{Bench, Order, SHORT, STAGES};
use crate::tables::{self, A, B};
use crate::{Error, Scale, linear, recorder, sets};

const LONG: usize = 1514;
const MTU: u16 = 1500;
/// Lookups in one window, and different ones before the first comes again: more than a branch predictor remembers.
const BATCH: usize = 1024;
const DIFFERENT: usize = 64 * BATCH;

pub fn measure(scale: &Scale, report: &mut Report) -> Result<(), Error> {
    on_last_core(|| all(scale, report))?
}

fn all(scale: &Scale, report: &mut Report) -> Result<(), Error> {
    flow_hits(scale, report)?;
    flow_misses(scale, report)?;
    policies(scale, report)?;
    sets::measure(scale, report)?;
    checksums(scale, report)?;
    recorder::measure(scale, report)
}

fn flow_hits(scale: &Scale, report: &mut Report) -> Result<(), ReportError> {
    for flows in [64, 50_000, 1_000_000].into_iter().filter(|flows| *flows <= scale.flows) {
        let mut bench = Bench::new(tables::two_endpoints(1, MTU), flows.max(4096) * 5 / 4, frames::udp_frame(SHORT));
        let mut order = Order::new(flows);
        for _ in 0..flows.div_ceil(BURST) + 4 {
            bench.pass(false, || order.next());
        }
        let mut spread = Spread::default();
        for _ in 0..scale.bursts {
            spread.record(bench.pass(false, || order.next()).nanoseconds, BURST);
        }
        report.add(row(report, format!("flow hit, {} flows", thousands(flows)), &spread))?;
        if flows != 50_000 {
            stages(&mut bench, &format!("flow hit, {} flows", thousands(flows)), scale, report, || order.next())?;
        }
    }
    whole_breaths(scale, report)?;
    for (name, frame) in [("complete", frames::udp_frame(LONG)), ("partial", with_partial_checksum(LONG))] {
        let mut bench = Bench::new(tables::two_endpoints(1, MTU), 4096, frame);
        let mut order = Order::new(64);
        let mut spread = Spread::default();
        for _ in 0..scale.bursts {
            spread.record(bench.pass(false, || order.next()).nanoseconds, BURST);
        }
        report.add(row(report, format!("flow hit, 64 flows, 1514 B, checksum {name}"), &spread))?;
    }
    Ok(())
}

fn with_partial_checksum(length: usize) -> Vec<u8> {
    let mut frame = frames::udp_frame(length);
    frames::leave_partial_checksum(&mut frame);
    frame
}

/// The same packets through whole breaths of a worker.
fn whole_breaths(scale: &Scale, report: &mut Report) -> Result<(), ReportError> {
    let publisher = Publisher::new(tables::two_endpoints(1, MTU));
    let parts = Parts {
        umem: Umem::heap(2048, 1024),
        flows: FlowWriter::new(FlowTable::new(4096), 0, 1, publisher.grace()),
        tables: publisher.reader(),
        poll: Poll::Always,
        clock: Clock::start(),
    };
    let workers = match worker::build::<ReplayQueue>(vec![parts]) {
        Ok(workers) => workers,
        Err(error) => {
            report.note(&format!("worker in memory not measured: {error}"));
            return Ok(());
        }
    };
    let mut order = Order::new(64);
    let packets: Vec<Vec<u8>> = (0..64)
        .map(|_| {
            let mut frame = frames::udp_frame(SHORT);
            frames::address(&mut frame, order.next());
            frame
        })
        .collect();
    for (mut worker, _remote) in workers {
        worker.attach(A, ReplayQueue::new(packets.clone()).0);
        worker.attach(B, ReplayQueue::new(Vec::new()).0);
        let mut spread = Spread::default();
        for _ in 0..scale.bursts {
            // Four breaths make a window of the usual length.
            let start = Instant::now();
            let count: usize = (0..4).map(|_| worker.breathe(Now(1))).sum();
            spread.record(start.elapsed().as_nanos() as u64, count);
        }
        report.add(row(report, "worker, 64 packets a breath, 64 flows".to_owned(), &spread))?;
    }
    Ok(())
}

fn flow_misses(scale: &Scale, report: &mut Report) -> Result<(), ReportError> {
    for rules in [1, 10, 100, 1000].into_iter().filter(|rules| *rules <= scale.rules) {
        // A quarter of the table at most, which is what its owner should see.
        let mut bench = Bench::new(
            tables::two_endpoints(rules, MTU),
            (scale.bursts * BURST * 4).max(4096),
            frames::udp_frame(SHORT),
        );
        let mut order = Order::new(scale.bursts * BURST);
        let mut spread = Spread::default();
        for _ in 0..scale.bursts / 2 {
            spread.record(bench.pass(false, || order.next()).nanoseconds, BURST);
        }
        let name = format!("flow miss, policy of {}", thousands(rules));
        report.add(row(report, name.clone(), &spread))?;
        if rules == 1000 {
            stages(&mut bench, &name, &Scale { bursts: scale.bursts / 2, ..*scale }, report, || order.next())?;
        }
    }
    Ok(())
}

fn stages(
    bench: &mut Bench,
    name: &str,
    scale: &Scale,
    report: &mut Report,
    mut flow: impl FnMut() -> u32,
) -> Result<(), ReportError> {
    let mut spreads: [Spread; STAGES.len()] = std::array::from_fn(|_| Spread::default());
    for _ in 0..scale.bursts {
        let times = bench.pass(true, &mut flow).stages;
        for (spread, nanoseconds) in spreads.iter_mut().zip(times) {
            spread.record(nanoseconds, BURST);
        }
    }
    for (stage, spread) in STAGES.iter().zip(&spreads) {
        report.add(row(report, format!("  {name}: {}", stage.name()), spread))?;
    }
    Ok(())
}

/// Policy alone: the compiled form and the walk over the rules, on the same packets in turn, with the same answers.
fn policies(scale: &Scale, report: &mut Report) -> Result<(), ReportError> {
    for rules in [10, 100, 1000, 10_000].into_iter().filter(|rules| *rules <= scale.rules) {
        let spec = tables::policy(rules);
        let start = Instant::now();
        let acl = Acl::build(&spec);
        let built = start.elapsed();
        let questions = questions(DIFFERENT);
        let program = &spec.programs[0];
        let (mut compiled, mut walked) = (Spread::default(), Spread::default());
        for round in 0..(scale.bursts / 20).max(3) {
            let part = &questions[(round * BATCH) % DIFFERENT..][..BATCH];
            let start = Instant::now();
            for question in part {
                black_box(acl.evaluate(ProgramIndex(0), &acl.classify(question)));
            }
            compiled.record(start.elapsed().as_nanos() as u64, BATCH);
            // The walk takes its time: a few of them will do.
            let part = &part[..16];
            let start = Instant::now();
            for question in part {
                black_box(linear::evaluate(&spec, program, question));
            }
            walked.record(start.elapsed().as_nanos() as u64, part.len());
        }
        for question in &questions[..64] {
            let answer = acl.evaluate(ProgramIndex(0), &acl.classify(question));
            assert_eq!(answer, linear::evaluate(&spec, program, question), "compiled and walked policy agree");
        }
        let name = thousands(rules);
        let (compiled_p50, walked_p50) = (compiled.percentile(50.0), walked.percentile(50.0));
        report.add(row(report, format!("policy compiled, {name} rules"), &compiled))?;
        report.add(row(report, format!("policy walked, {name} rules"), &walked))?;
        report.note(&format!(
            "{name} rules: {:.1} × as fast as walking them; compiled in {:.1} ms",
            walked_p50 / compiled_p50,
            built.as_secs_f64() * 1e3
        ));
    }
    Ok(())
}

/// Packets, half of them from addresses that rules are about.
fn questions(count: usize) -> Vec<Question> {
    let mut random = Random::new(7);
    (0..count)
        .map(|position| {
            let network = if position % 2 == 0 { 0x0a80_0000 } else { 0x0a42_0000 };
            Question {
                source: MAPPED_PREFIX | u128::from(network | random.below(1 << 16) as u32),
                destination: MAPPED_PREFIX | u128::from(0x0a43_0000 | random.below(1 << 16) as u32),
                is_ipv4: true,
                protocol: if random.below(2) == 0 { 6 } else { 17 },
                source_port: random.next_u64() as u16,
                destination_port: [80, 443, 8080, 9][random.below(4) as usize],
                icmp: None,
            }
        })
        .collect()
}

/// The sum over a full TCP segment, in the cache and out of it.
fn checksums(scale: &Scale, report: &mut Report) -> Result<(), ReportError> {
    const SEGMENT: usize = 1480;
    const COLD: usize = 64 << 20;
    let memory = vec![0x5au8; COLD];
    for (name, reach) in [("hot", SEGMENT), ("cold", COLD - SEGMENT)] {
        let mut random = Random::new(3);
        let mut spread = Spread::default();
        for _ in 0..scale.bursts {
            let places: [usize; 64] = std::array::from_fn(|_| (random.below(reach as u64) as usize) & !63);
            let places = places.map(|place| if reach == SEGMENT { 0 } else { place });
            let start = Instant::now();
            for place in places {
                black_box(Sum::new().bytes(&memory[place..place + SEGMENT]).finish());
            }
            spread.record(start.elapsed().as_nanos() as u64, places.len());
        }
        report.add(row(report, format!("checksum of {SEGMENT} bytes, {name}"), &spread))?;
    }
    Ok(())
}

pub(crate) fn row(report: &Report, name: String, spread: &Spread) -> Measurement {
    let p50 = spread.percentile(50.0);
    let mut numbers = vec![("ns p50", p50), ("p10", spread.percentile(10.0)), ("p99", spread.percentile(99.0))];
    numbers.extend(report.machine().tsc_ghz.map(|ghz| ("TSC ticks", p50 * ghz)));
    Measurement { group: "memory", name, frame_mode: "memory", numbers }
}

/// 50,000 rather than 50000.
pub(crate) fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_grouped() {
        assert_eq!([1, 100, 1000, 1_000_000].map(thousands), ["1", "100", "1,000", "1,000,000"]);
    }
}
