//! The flow table with as many flows as it is for: ten million. That they fit, are found, and go.
//!
//! ```text
//!     enter      N flows with keys of their own, one after the other        refused, load of the index, bytes, time
//!     find       each of them by both of its keys: in bursts as stages ask, and alone        missing, time
//!     crowd      a tenth more into the full table: the oldest of low worth go
//!     age        time passes: the sweep frees all, and what is entered then takes their places
//! ```
//!
//! Addresses are those of a cluster's private network: many ports of few addresses, so keys differ in few bits. A window
//! is `WINDOW` flows.

use std::hint::black_box;
use std::time::Instant;

use fastpath::flow::table::{InsertError, NewFlow};
use fastpath::flow::translation::Translated;
use fastpath::flow::{FlowHandle, FlowTable, FlowWriter, Key, KeyKind, Seconds, mapped};
use fastpath::header::protocol;
use fastpath::rcu::Publisher;
use fastpath::table::{AdjacencyIndex, InterfaceIndex, RuleIndex};

use crate::cpu::{on_last_core, resident_mib};
use crate::memory::thousands;
use crate::report::{Measurement, Report, ReportError, Spread};
use crate::{Error, Scale};

const WINDOW: usize = 256;
/// Entries that a worker keeps free, at most: beyond that it evicts. See `flow/writer.rs`.
const RESERVE: usize = 1024;
/// When the flows are entered, and a time at which all of them are too old.
const BEGIN: Seconds = 1000;
const END: Seconds = 10_000;

pub fn measure(scale: &Scale, report: &mut Report) -> Result<(), Error> {
    Ok(on_last_core(|| fill(scale.flows * 10, report))??)
}

fn fill(count: usize, report: &mut Report) -> Result<(), ReportError> {
    let before = resident_mib();
    let table = FlowTable::new((count + RESERVE) as u32);
    let grace = Publisher::new(()).grace();
    let mut writer = FlowWriter::new(table.clone(), 0, 1, grace).with_quota(u32::MAX);
    let name = format!("{} flows", thousands(count));

    let mut entered = Spread::default();
    let mut refused = 0;
    for_windows(count, |window, numbers| {
        let keys = numbers.map(key).collect::<Vec<_>>();
        let start = Instant::now();
        for key in &keys {
            refused += usize::from(enter(&mut writer, key, BEGIN).is_err());
        }
        entered.record(start.elapsed().as_nanos() as u64, window);
    });
    let memory = resident_mib() - before;
    report.add(row(report, format!("{name}: enter"), &entered))?;

    let (mut in_bursts, mut alone) = (Spread::default(), Spread::default());
    let mut missing = 0;
    // In an order in which no two that follow each other lie together.
    for_windows(count, |window, numbers| {
        let keys = numbers.map(|number| key(scattered(number, count))).flat_map(|key| [key, key.reversed()]);
        let keys = keys.collect::<Vec<_>>();
        let start = Instant::now();
        let found = find_burst(&table, &keys);
        in_bursts.record(start.elapsed().as_nanos() as u64, window * 2);
        missing += keys.len() - found;
    });
    for_windows(count / 8, |window, numbers| {
        let keys = numbers.map(|number| key(scattered(number + count / 2, count))).collect::<Vec<_>>();
        let start = Instant::now();
        for key in &keys {
            black_box(table.lookup(key, table.hash(key)));
        }
        alone.record(start.elapsed().as_nanos() as u64, window);
    });
    report.add(row(report, format!("{name}: find, in bursts, both ways"), &in_bursts))?;
    report.add(row(report, format!("{name}: find, alone"), &alone))?;
    assert_eq!(missing, refused * 2, "every flow that was entered is found by both keys");
    assert_eq!(writer.live(), count - refused, "every flow that was entered is there");
    let live = writer.live();
    report.add(Measurement {
        group: "flow table",
        name: format!("{name}: room"),
        frame_mode: "memory",
        numbers: vec![
            ("refused", refused as f64),
            ("% of index", live as f64 * 200.0 / table.slots() as f64),
            ("bytes a flow", table.size() as f64 / live as f64),
            ("MiB resident", memory),
        ],
    })?;

    // Flows of a minute ago make room for those of now.
    let mut crowding = Spread::default();
    let mut turned_away = 0;
    for_windows(count / 10, |window, numbers| {
        let keys = numbers.map(|number| key(count + number)).collect::<Vec<_>>();
        let start = Instant::now();
        for key in &keys {
            turned_away += usize::from(enter(&mut writer, key, BEGIN + 50).is_err());
        }
        crowding.record(start.elapsed().as_nanos() as u64, window);
    });
    report.add(row(report, format!("{name}: enter a tenth more, others go"), &crowding))?;
    report.note(&format!("{turned_away} of {} refused; {} live", thousands(count / 10), thousands(writer.live())));

    let mut aged = Spread::default();
    while writer.live() > 0 {
        let start = Instant::now();
        let ended = writer.sweep(END);
        aged.record(start.elapsed().as_nanos() as u64, ended.max(1));
    }
    report.add(row(report, format!("{name}: age"), &aged))?;
    let still_found = (0..count + count / 10).step_by(97).filter(|number| {
        let key = key(*number);
        table.lookup(&key, table.hash(&key)).is_some()
    });
    assert_eq!(still_found.count(), 0, "nothing is found that has ended");

    let mut again = Spread::default();
    let mut refused = 0;
    for_windows(count, |window, numbers| {
        let keys = numbers.map(|number| key(2 * count + number)).collect::<Vec<_>>();
        let start = Instant::now();
        for key in &keys {
            refused += usize::from(enter(&mut writer, key, END).is_err());
        }
        again.record(start.elapsed().as_nanos() as u64, window);
    });
    report.add(row(report, format!("{name}: enter, in places used before"), &again))?;
    report.note(&format!("{refused} refused; {} live", thousands(writer.live())));
    Ok(())
}

/// Calls `each` with the numbers of every window.
fn for_windows(count: usize, mut each: impl FnMut(usize, std::ops::Range<usize>)) {
    for first in (0..count).step_by(WINDOW) {
        let end = (first + WINDOW).min(count);
        each(end - first, first..end);
    }
}

/// How many of the keys are found, asked as stages ask: all buckets first, then all entries.
fn find_burst(table: &FlowTable, keys: &[Key]) -> usize {
    let mut found = 0;
    for keys in keys.chunks(WINDOW) {
        let mut hashes = [0; WINDOW];
        for (hash, key) in hashes.iter_mut().zip(keys) {
            *hash = table.hash(key);
            table.prefetch_bucket(*hash);
        }
        let mut candidates = [None; WINDOW];
        for (candidate, hash) in candidates.iter_mut().zip(&hashes[..keys.len()]) {
            *candidate = table.candidate(*hash);
        }
        for ((candidate, hash), key) in candidates.iter().zip(hashes).zip(keys) {
            let is_it = candidate.is_some_and(|candidate| table.is(candidate, key));
            found += usize::from(is_it || table.lookup(key, hash).is_some());
        }
    }
    found
}

fn enter(writer: &mut FlowWriter, key: &Key, now: Seconds) -> Result<FlowHandle, InsertError> {
    let new = NewFlow {
        key: *key,
        hash: writer.table().hash(key),
        ingress: InterfaceIndex(1),
        egress: InterfaceIndex(2),
        charged: InterfaceIndex(1),
        adjacency: AdjacencyIndex(1),
        generation: 1,
        rule: RuleIndex(1),
        tcp_flags: 0,
        bytes: 64,
        covered: 0,
        translated: Translated::No,
    };
    writer.insert(&new, now)
}

/// A flow by its number: 20,000 ports of one address, and then those of the next.
fn key(number: usize) -> Key {
    const PORTS: usize = 20_000;
    Key {
        source: mapped(0x0a40_0000 + (number / PORTS) as u32),
        destination: mapped(0x0a80_0000 + (number % 251) as u32),
        source_port: 32_768 + (number % PORTS) as u16,
        destination_port: 443,
        protocol: protocol::UDP,
        kind: KeyKind::Ports,
    }
}

/// All numbers below `count`, in another order.
fn scattered(number: usize, count: usize) -> usize {
    // A prime that divides no count there is.
    (number * 2_147_483_647) % count
}

fn row(report: &Report, name: String, spread: &Spread) -> Measurement {
    let p50 = spread.percentile(50.0);
    let mut numbers = vec![("ns p50", p50), ("p10", spread.percentile(10.0)), ("p99", spread.percentile(99.0))];
    numbers.extend(report.machine().tsc_ghz.map(|ghz| ("TSC ticks", p50 * ghz)));
    Measurement { group: "flow table", name, frame_mode: "memory", numbers }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ_and_the_other_order_has_all() {
        let mut keys: Vec<Key> = (0..50_000).map(key).collect();
        keys.sort_by_key(|key| (key.source, key.destination, key.source_port));
        keys.dedup();
        assert_eq!(keys.len(), 50_000);
        let mut numbers: Vec<usize> = (0..10_000).map(|number| scattered(number, 10_000)).collect();
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..10_000));
    }
}
