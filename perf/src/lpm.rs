//! The tables of routes, on one core: lookups in bursts and alone, changes, memory.
//!
//! A window is 1024 lookups of 2^18 different addresses, in bursts of 256 where it says so; the slow twin, a search in
//! sorted runs, takes turns with them, and its answers are compared before. A change is one route of the table
//! taken away or put back. Memory is what the process has more than before, with the RIB that changes need.

use std::hint::black_box;
use std::time::Instant;

use fastpath::rcu::Publisher;
use fastpath::table::dir24::Dir24Writer;
use fastpath::table::ipv6::Ipv6Writer;
use fastpath::table::lpm::{Address, Lpm, Prefix};

use crate::cpu::{on_last_core, resident_mib};
use crate::memory::thousands;
use crate::random::Random;
use crate::report::{Measurement, Report, ReportError, Spread};
use crate::{Error, Scale, route_sets};

const BURST: usize = 256;
const WINDOW: usize = 1024;
/// Windows of one way of looking up before another's turn: all addresses twice.
const ROUND: usize = 512;
/// Changes that are timed, each one alone.
const CHANGES: usize = 20_000;

pub fn measure(scale: &Scale, report: &mut Report) -> Result<(), Error> {
    Ok(on_last_core(|| tables(scale, report))??)
}

fn tables(scale: &Scale, report: &mut Report) -> Result<(), ReportError> {
    let most = scale.routes * 10;
    for count in [1000, 10_000, 100_000].into_iter().filter(|count| *count <= most) {
        ipv4(&format!("IPv4, {} cluster", thousands(count)), route_sets::cluster_ipv4(count), scale, report)?;
    }
    for count in [100_000, 1_000_000].into_iter().filter(|count| *count <= most) {
        ipv4(&format!("IPv4, {} public", thousands(count)), route_sets::public_ipv4(count), scale, report)?;
    }
    for count in [1000, 100_000].into_iter().filter(|count| *count <= most) {
        ipv6(&format!("IPv6, {} cluster", thousands(count)), route_sets::cluster_ipv6(count), scale, report)?;
    }
    for count in [1000, 230_000].into_iter().filter(|count| *count <= most) {
        ipv6(&format!("IPv6, {} public", thousands(count)), route_sets::public_ipv6(count), scale, report)?;
    }
    Ok(())
}

fn ipv4(name: &str, routes: Vec<Prefix<u32>>, scale: &Scale, report: &mut Report) -> Result<(), ReportError> {
    let before = resident_mib();
    let start = Instant::now();
    let mut writer = Dir24Writer::new(Publisher::new(()).grace());
    writer.expect(routes.len());
    for route in &routes {
        writer.insert(*route);
    }
    let (made, memory) = (start.elapsed(), resident_mib() - before);
    let table = writer.table().clone();
    let runs = Lpm::build(routes.clone());
    let keys = route_sets::inside_ipv4(&routes);
    let lookups = Lookups {
        burst: &|keys, values| table.lookup_burst(keys, values),
        single: &|key| table.lookup(key),
        runs: &runs,
    };
    lookups.measure_all(name, &keys, scale, report)?;
    let mut changes = Changes::new(&routes);
    for route in changes.chosen(scale) {
        changes.removed.record(time(|| writer.remove(route.0, route.1)), 1);
        changes.inserted.record(time(|| writer.insert(route)), 1);
    }
    changes.add(name, report)?;
    report.note(&format!("{name}: made in {:.0} ms, {:.1} MiB resident", made.as_secs_f64() * 1e3, memory));
    Ok(())
}

fn ipv6(name: &str, routes: Vec<Prefix<u128>>, scale: &Scale, report: &mut Report) -> Result<(), ReportError> {
    let before = resident_mib();
    let start = Instant::now();
    let mut writer = Ipv6Writer::default();
    for route in &routes {
        writer.insert(*route);
    }
    let table = writer.commit();
    let (made, memory) = (start.elapsed(), resident_mib() - before);
    let runs = Lpm::build(routes.clone());
    let keys = route_sets::inside_ipv6(&routes);
    let lookups = Lookups {
        burst: &|keys, values| table.lookup_burst(keys, values),
        single: &|key| table.lookup(key),
        runs: &runs,
    };
    lookups.measure_all(name, &keys, scale, report)?;
    let mut changes = Changes::new(&routes);
    // Each is committed: what control does with one change.
    for route in changes.chosen(scale).into_iter().take(scale.bursts) {
        let remove = || {
            writer.remove(route.0, route.1);
            writer.commit()
        };
        changes.removed.record(time(remove), 1);
        let insert = || {
            writer.insert(route);
            writer.commit()
        };
        changes.inserted.record(time(insert), 1);
    }
    changes.add(name, report)?;
    let table = writer.commit();
    let lookups = Lookups {
        burst: &|keys, values| table.lookup_burst(keys, values),
        single: &|key| table.lookup(key),
        runs: &runs,
    };
    lookups.measure(&format!("{name}, inside, after changes"), &keys, scale, report)?;
    report.note(&format!("{name}: made in {:.1} ms, {:.1} MiB resident", made.as_secs_f64() * 1e3, memory));
    Ok(())
}

/// One table, asked in all ways.
struct Lookups<'a, A: Address> {
    burst: &'a dyn Fn(&[A], &mut [u32]),
    single: &'a dyn Fn(A) -> u32,
    runs: &'a Lpm<A>,
}

impl<A: Address> Lookups<'_, A> {
    /// Addresses from anywhere inside the routes, and a few of them again and again.
    fn measure_all(&self, name: &str, keys: &[A], scale: &Scale, report: &mut Report) -> Result<(), ReportError> {
        self.measure(&format!("{name}, inside"), keys, scale, report)?;
        self.measure(&format!("{name}, hot"), &route_sets::hot(keys), scale, report)
    }

    fn measure(&self, name: &str, keys: &[A], scale: &Scale, report: &mut Report) -> Result<(), ReportError> {
        let mut values = [0; BURST];
        for keys in keys.chunks_exact(BURST) {
            (self.burst)(keys, &mut values);
            for (key, value) in keys.iter().zip(values) {
                assert_eq!(value, self.runs.lookup(*key), "{key:?} in a burst: the answer of the sorted runs");
                assert_eq!(value, (self.single)(*key), "{key:?} in a burst: the answer alone");
            }
        }
        // In rounds, so that a neighbour disturbs all; each round long enough to forget what another left in the caches.
        let mut spreads: [Spread; 3] = Default::default();
        for windows in (0..scale.bursts).collect::<Vec<_>>().chunks(ROUND) {
            let keys_of = |window: usize, count: usize| &keys[window * WINDOW % keys.len()..][..count];
            for window in windows {
                let keys = keys_of(*window, WINDOW);
                let start = Instant::now();
                for keys in keys.chunks_exact(BURST) {
                    (self.burst)(keys, &mut values);
                    black_box(&values);
                }
                spreads[0].record(start.elapsed().as_nanos() as u64, WINDOW);
            }
            for window in windows {
                let start = Instant::now();
                for key in keys_of(*window, WINDOW) {
                    black_box((self.single)(*key));
                }
                spreads[1].record(start.elapsed().as_nanos() as u64, WINDOW);
            }
            // It takes its time: a part will do.
            for window in windows.iter().step_by(4) {
                let start = Instant::now();
                for key in keys_of(*window, WINDOW) {
                    black_box(self.runs.lookup(*key));
                }
                spreads[2].record(start.elapsed().as_nanos() as u64, WINDOW);
            }
        }
        for (how, spread) in ["burst", "alone", "sorted runs"].iter().zip(&spreads) {
            report.add(row(report, format!("{name}: {how}"), spread))?;
        }
        Ok(())
    }
}

/// Times of changes, in nanoseconds.
struct Changes<A> {
    routes: Vec<Prefix<A>>,
    removed: Spread,
    inserted: Spread,
}

impl<A: Address> Changes<A> {
    fn new(routes: &[Prefix<A>]) -> Self {
        Self { routes: routes.to_vec(), removed: Spread::default(), inserted: Spread::default() }
    }

    fn chosen(&self, scale: &Scale) -> Vec<Prefix<A>> {
        let mut random = Random::new(8);
        let mut one = || self.routes[random.below(self.routes.len() as u64) as usize];
        (0..CHANGES.min(scale.bursts * 10)).map(|_| one()).collect()
    }

    fn add(&self, name: &str, report: &mut Report) -> Result<(), ReportError> {
        for (how, spread) in [("route taken away", &self.removed), ("route put back", &self.inserted)] {
            let numbers = [("ns p50", 50.0), ("p99", 99.0), ("p99.9", 99.9)];
            let numbers = numbers.map(|(column, percent)| (column, spread.percentile(percent))).to_vec();
            report.add(Measurement {
                group: "routes changed",
                name: format!("{name}: {how}"),
                frame_mode: "memory",
                numbers,
            })?;
        }
        Ok(())
    }
}

/// Nanoseconds.
fn time<T>(change: impl FnOnce() -> T) -> u64 {
    let start = Instant::now();
    black_box(change());
    start.elapsed().as_nanos() as u64
}

fn row(report: &Report, name: String, spread: &Spread) -> Measurement {
    let (p50, p10) = (spread.percentile(50.0), spread.percentile(10.0));
    let mut numbers = vec![("ns p50", p50), ("p10", p10), ("p99", spread.percentile(99.0))];
    numbers.extend(report.machine().tsc_ghz.map(|ghz| ("TSC ticks p10", p10 * ghz)));
    Measurement { group: "routes looked up", name, frame_mode: "memory", numbers }
}
