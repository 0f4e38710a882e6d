//! Our tables beside DPDK's, in memory: the same sets, the same keys, one core, round by round in turn.
//!
//! A window is 1024 lookups in bursts of 256 on both sides. Theirs is timed inside their program with the time-stamp
//! counter; ours here with the monotonic clock, and turned into ticks. Before anything is timed every answer of theirs
//! is compared with ours; one that differs is an error.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fastpath::rcu::Publisher;
use fastpath::table::ProgramIndex;
use fastpath::table::acl::{Acl, Question};
use fastpath::table::dir24::Dir24Writer;
use fastpath::table::ipv6::Ipv6Writer;
use fastpath::table::lpm::Prefix;

use super::dpdk_tables::{DpdkTables, Kind, LargePages, Line, compile, wide_words, write_words};
use super::sets;
use crate::Scale;
use crate::cpu::{last_core, on_last_core};
use crate::lab::LabError;
use crate::memory::thousands;
use crate::report::{Measurement, Report, Spread, median};
use crate::route_sets::{self, KEYS};
use crate::{Error, tables};

const BURST: usize = 256;
const WINDOW: usize = 1024;
/// Windows of ours in a round; as many as theirs.
const WINDOWS: usize = 1024;
/// Changes that are timed, and for how long at most; as theirs.
const CHANGES: usize = 10_000;
const CHANGES_LIMIT: Duration = Duration::from_secs(2);
/// How many of the answers that differ are told.
const TOLD: usize = 3;

/// Something of ours that a burst of keys can be put to: position of the first key, and where the answers go.
type Lookup<'a> = &'a dyn Fn(usize, &mut [u32; BURST]);

/// What our table is measured against, and where.
struct Bench<'a> {
    program: &'a Path,
    directory: PathBuf,
    core: usize,
    pages: &'a LargePages,
    rounds: usize,
}

pub fn measure(scale: &Scale, out: &Path, report: &mut Report) -> Result<(), Error> {
    let directory = out.join("peers");
    let (program, version) = match compile(&directory) {
        Ok(compiled) => compiled,
        Err(error) => {
            report.note(&format!("DPDK's tables not measured: {} (`make peers` installs it)", crate::chain(&error)));
            return Ok(());
        }
    };
    let pages = LargePages::allow();
    let kind = if pages.are_allowed() { "2 MiB" } else { "4 KiB, which cannot be helped without root" };
    report.note(&format!("DPDK {version}; its memory is in pages of {kind}"));
    on_last_core(|| all(scale, &program, &directory, &pages, report))?
}

fn all(scale: &Scale, program: &Path, directory: &Path, pages: &LargePages, report: &mut Report) -> Result<(), Error> {
    let bench = Bench {
        program,
        directory: directory.to_owned(),
        core: last_core().map_or(0, |core| core.id),
        pages,
        rounds: scale.rounds,
    };
    let most = scale.routes * 10;
    let is_wanted = |count: &usize| *count <= most;
    for count in [1000, 100_000].into_iter().filter(is_wanted) {
        let name = format!("IPv4, {} cluster routes", thousands(count));
        routes_ipv4(&bench, &name, route_sets::cluster_ipv4(count), report)?;
    }
    for count in [100_000, 1_000_000].into_iter().filter(is_wanted) {
        let name = format!("IPv4, {} public routes", thousands(count));
        routes_ipv4(&bench, &name, route_sets::public_ipv4(count), report)?;
    }
    for count in [1000, 100_000].into_iter().filter(is_wanted) {
        let name = format!("IPv6, {} cluster routes", thousands(count));
        routes_ipv6(&bench, &name, route_sets::cluster_ipv6(count), report)?;
    }
    for count in [1000, 230_000].into_iter().filter(is_wanted) {
        let name = format!("IPv6, {} public routes", thousands(count));
        routes_ipv6(&bench, &name, route_sets::public_ipv6(count), report)?;
    }
    for count in [10, 100, 1000].into_iter().filter(|count| *count <= scale.rules) {
        rules(&bench, count, report)?;
    }
    Ok(())
}

/// The default route left out: `rte_lpm` has none.
fn routes_ipv4(bench: &Bench, name: &str, mut routes: Vec<Prefix<u32>>, report: &mut Report) -> Result<(), Error> {
    routes.retain(|route| route.1 > 0);
    let keys = route_sets::inside_ipv4(&routes);
    let words = routes.iter().flat_map(|(address, length, value)| [*address, u32::from(*length), *value]);
    write_words(&bench.directory, "routes", words)?;
    write_words(&bench.directory, "keys", keys.iter().copied())?;
    let mut writer = Dir24Writer::new(Publisher::new(()).grace());
    writer.expect(routes.len());
    for route in &routes {
        writer.insert(*route);
    }
    let table = writer.table().clone();
    let lookup = |first: usize, answers: &mut [u32; BURST]| table.lookup_burst(&keys[first..first + BURST], answers);
    let mut theirs = compare(bench, Kind::Ipv4, name, "DIR-24-8", report, &lookup)?;
    let changes = changes(&routes, theirs.hz, &mut |route, is_there| {
        match is_there {
            true => writer.insert(route),
            false => writer.remove(route.0, route.1),
        };
    });
    updates(name, "DIR-24-8", &changes, &mut theirs, report)
}

fn routes_ipv6(bench: &Bench, name: &str, mut routes: Vec<Prefix<u128>>, report: &mut Report) -> Result<(), Error> {
    routes.retain(|route| route.1 > 0);
    let keys = route_sets::inside_ipv6(&routes);
    let words = routes
        .iter()
        .flat_map(|(address, length, value)| wide_words(*address).into_iter().chain([u32::from(*length), *value]));
    write_words(&bench.directory, "routes", words)?;
    write_words(&bench.directory, "keys", keys.iter().flat_map(|key| wide_words(*key)))?;
    let mut writer = Ipv6Writer::default();
    for route in &routes {
        writer.insert(*route);
    }
    let table = writer.commit();
    let lookup = |first: usize, answers: &mut [u32; BURST]| table.lookup_burst(&keys[first..first + BURST], answers);
    let mut theirs = compare(bench, Kind::Ipv6, name, "interval tree", report, &lookup)?;
    // Each change is committed alone, the worst way for a table that is made for many at once.
    let changes = changes(&routes, theirs.hz, &mut |route, is_there| {
        match is_there {
            true => writer.insert(route),
            false => writer.remove(route.0, route.1),
        };
        black_box(writer.commit());
    });
    updates(name, "interval tree", &changes, &mut theirs, report)
}

/// Ticks of changes, a route taken away and put back, until there were enough or it has taken long enough.
fn changes<A: Copy>(routes: &[Prefix<A>], hz: f64, change: &mut dyn FnMut(Prefix<A>, bool)) -> [f64; 4] {
    let [mut deletes, mut adds]: [Spread; 2] = Default::default();
    let end = Instant::now() + CHANGES_LIMIT;
    for number in 0..CHANGES.min(routes.len()) {
        // Like theirs: a prime step.
        let route = routes[number * 7919 % routes.len()];
        for (is_there, spread) in [(false, &mut deletes), (true, &mut adds)] {
            let start = Instant::now();
            change(route, is_there);
            spread.record(start.elapsed().as_nanos() as u64, 1);
        }
        if Instant::now() > end {
            break;
        }
    }
    [(&deletes, 50.0), (&deletes, 99.0), (&adds, 50.0), (&adds, 99.0)]
        .map(|(spread, percent)| spread.percentile(percent) * hz / 1e9)
}

/// Rows of ours and theirs.
fn updates(
    name: &str,
    ours: &str,
    changes: &[f64; 4],
    theirs: &mut DpdkTables,
    report: &mut Report,
) -> Result<(), Error> {
    let ours = Line { table: format!("ours: {ours}"), numbers: changes.to_vec() };
    for line in [ours].into_iter().chain(theirs.ask("update")?) {
        if let [delete_p50, delete_p99, add_p50, add_p99] = line.numbers.as_slice() {
            report.add(Measurement {
                group: "tables in memory, ticks an update",
                name: format!("{name}: {}", line.table),
                frame_mode: "memory",
                numbers: vec![
                    ("delete p50", *delete_p50),
                    ("delete p99", *delete_p99),
                    ("add p50", *add_p50),
                    ("add p99", *add_p99),
                ],
            })?;
        }
    }
    Ok(())
}

fn rules(bench: &Bench, count: usize, report: &mut Report) -> Result<(), Error> {
    let spec = tables::policy(count);
    let Some(words) = spec.blocks[0].iter().map(sets::rule_words).collect::<Option<Vec<_>>>() else {
        report.note(&format!("{count} rules: not measured, some of them cannot be said to rte_acl"));
        return Ok(());
    };
    let questions = sets::questions(&spec);
    write_words(&bench.directory, "rules", words.into_iter().flatten())?;
    write_words(&bench.directory, "keys", questions.iter().flat_map(key_words))?;
    let acl = Acl::build(&spec);
    let name = format!("ACL, {} rules", thousands(count));
    compare(bench, Kind::Acl, &name, "policy", report, &|first, answers| {
        for (question, answer) in questions[first..first + BURST].iter().zip(answers) {
            // Rules are numbered from 1 here as there.
            *answer = acl.evaluate(ProgramIndex(0), &acl.classify(question)).rule.0;
        }
    })?;
    Ok(())
}

fn key_words(question: &Question) -> [u32; 5] {
    [
        question.source as u32,
        question.destination as u32,
        question.source_port.into(),
        question.destination_port.into(),
        question.protocol.into(),
    ]
}

/// Starts theirs over the files that were written, compares all answers, and measures both in turn.
fn compare(
    bench: &Bench,
    kind: Kind,
    name: &str,
    ours: &str,
    report: &mut Report,
    lookup: Lookup,
) -> Result<DpdkTables, Error> {
    let mut theirs = DpdkTables::start(bench.program, kind, &bench.directory, bench.core, bench.pages)?;
    let mut answers = vec![0; KEYS];
    let mut burst = [0; BURST];
    for (position, part) in answers.chunks_mut(BURST).enumerate() {
        lookup(position * BURST, &mut burst);
        part.copy_from_slice(&burst);
    }
    let mut names = Vec::new();
    // Every kind of lookup over a table has answered, also where one table was built for two of them.
    for line in theirs.ask("round")? {
        agree(name, &line.table, &answers, &theirs.answers(&line.table)?)?;
        names.push(line.table);
    }
    let mut rounds: Vec<Vec<[f64; 2]>> = vec![Vec::new(); names.len() + 1];
    for _ in 0..bench.rounds {
        rounds[0].push(one_round(lookup, theirs.hz));
        for line in theirs.ask("round")? {
            let position = names.iter().position(|known| *known == line.table);
            if let (Some(position), [p10, p50]) = (position, line.numbers.as_slice()) {
                rounds[position + 1].push([*p10, *p50]);
            }
        }
    }
    for (table, own) in [format!("ours: {ours}")].iter().chain(&names).zip(&rounds) {
        let of = |number: fn(&[f64; 2]) -> f64| median(&own.iter().map(number).collect::<Vec<_>>());
        let ratios: Vec<f64> = own.iter().zip(&rounds[0]).map(|(own, ours)| own[1] / ours[1]).collect();
        report.add(Measurement {
            group: "tables in memory, ticks a lookup",
            name: format!("{name}: {table}"),
            frame_mode: "memory",
            numbers: vec![("p50", of(|round| round[1])), ("p10", of(|round| round[0])), ("x ours", median(&ratios))],
        })?;
    }
    for refusal in &theirs.refused {
        report.note(&format!("{name}: {refusal}"));
    }
    Ok(theirs)
}

/// p10 and p50 of the ticks of a lookup of ours.
fn one_round(lookup: Lookup, hz: f64) -> [f64; 2] {
    let mut spread = Spread::default();
    let mut answers = [0; BURST];
    for window in 0..WINDOWS {
        let first = window * WINDOW % KEYS;
        let start = Instant::now();
        for burst in (0..WINDOW).step_by(BURST) {
            lookup(first + burst, &mut answers);
            black_box(&answers);
        }
        spread.record(start.elapsed().as_nanos() as u64, WINDOW);
    }
    [10.0, 50.0].map(|percent| spread.percentile(percent) * hz / 1e9)
}

fn agree(name: &str, table: &str, ours: &[u32], theirs: &[u32]) -> Result<(), LabError> {
    let differ: Vec<String> = ours
        .iter()
        .zip(theirs)
        .enumerate()
        .filter(|(_, (ours, theirs))| ours != theirs)
        .map(|(key, (ours, theirs))| format!("key {key}: ours {ours}, theirs {theirs}"))
        .collect();
    if ours.len() != theirs.len() || !differ.is_empty() {
        let answer = format!(
            "{name}: {table} differs in {} answers: {}",
            differ.len(),
            differ[..differ.len().min(TOLD)].join("; ")
        );
        return Err(LabError::Peer(answer));
    }
    Ok(())
}
