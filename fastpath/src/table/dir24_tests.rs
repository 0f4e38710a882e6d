//! The IPv4 table against a map of its routes, and against the sorted runs; readers beside a writer.

use std::sync::atomic::AtomicBool;
use std::thread;

use prefix_trie::PrefixMap;
use proptest::prelude::*;

use super::super::lpm::{Lpm, NO_VALUE};
use super::super::test_routes::{ipv4_prefix, probes};
use super::*;
use crate::rcu::Publisher;

fn writer() -> Dir24Writer {
    Dir24Writer::new(Publisher::new(()).grace())
}

/// A writer, and all its routes as a map has them.
struct Twins {
    writer: Dir24Writer,
    rib: PrefixMap<(u32, u8), u32>,
}

impl Twins {
    fn new() -> Twins {
        Twins { writer: writer(), rib: PrefixMap::new() }
    }

    fn insert(&mut self, (address, length, value): Prefix<u32>) {
        let old = self.writer.insert((address, length, value));
        assert_eq!(old, self.rib.insert(prefix(address, length), value), "{address:08x}/{length}");
        assert_eq!(self.writer.len(), self.rib.len());
    }

    fn remove(&mut self, address: u32, length: u8) -> Option<u32> {
        let old = self.writer.remove(address, length);
        assert_eq!(old, self.rib.remove(&prefix(address, length)), "{address:08x}/{length}");
        assert_eq!(self.writer.len(), self.rib.len());
        old
    }

    /// Every probe alone, in a burst, by the map and by sorted runs.
    fn check(&self, probes: &[u32]) {
        let routes: Vec<Prefix<u32>> =
            self.rib.iter().map(|((address, length), value)| (address, length, *value)).collect();
        let runs = Lpm::build(routes);
        let table = self.writer.table();
        let mut values = vec![0; probes.len()];
        table.lookup_burst(probes, &mut values);
        for (probe, value) in probes.iter().zip(values) {
            let expected = runs.lookup(*probe);
            let by_rib = self.rib.get_lpm(&(*probe, 32)).map_or(NO_VALUE, |(_, value)| *value);
            assert_eq!(by_rib, expected, "{probe:08x} by the map");
            assert_eq!(table.lookup(*probe), expected, "{probe:08x} alone");
            assert_eq!(value, expected, "{probe:08x} in a burst");
        }
    }
}

/// Lines are named only where answers differ, groups only where lines would not do, and each that was begun is named once
/// or free.
fn check_lines(writer: &Dir24Writer, probes: &[u32]) {
    let painter = &writer.painter;
    let view = painter.table.view();
    let mut named = [Vec::new(), Vec::new()];
    let places: BTreeSet<u32> = probes.iter().map(|probe| probe >> 8).collect();
    for slot in places.iter().map(|at| view.slot(at << 8)).filter(|slot| slot & LINE != 0) {
        let cells: Vec<u32> = (0..256).map(|address| view.cells[cell(slot, address)].load(Ordering::Relaxed)).collect();
        assert!(cells.iter().any(|cell| *cell != cells[0]), "a line for one answer");
        let is_group = slot & GROUP != 0;
        let needs_group = cells.chunks(16).any(|cells| cells.iter().any(|cell| *cell != cells[0]));
        assert_eq!(is_group, needs_group, "a group for longer routes than /28, a line else");
        named[usize::from(is_group)].push(slot % ALL_LINES as u32);
    }
    for (pool, mut named) in [&painter.lines, &painter.groups].into_iter().zip(named) {
        named.extend(pool.unused.iter().copied().chain(pool.retired.iter().map(|(_, line)| *line)));
        named.sort_unstable();
        let begun: Vec<u32> = (0..pool.begun).map(|number| pool.first + number * pool.step).collect();
        assert_eq!(named, begun, "each line once");
    }
}

#[derive(Clone, Debug)]
enum Edit {
    Insert(Prefix<u32>),
    /// One of those that were inserted.
    Remove(prop::sample::Index),
    /// One that may never have been.
    RemoveOther(Prefix<u32>),
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        4 => ipv4_prefix().prop_map(Edit::Insert),
        3 => any::<prop::sample::Index>().prop_map(Edit::Remove),
        1 => ipv4_prefix().prop_map(Edit::RemoveOther),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn edited_equals_map_and_runs(edits in prop::collection::vec(edit(), 1..120), more in prop::collection::vec(any::<u32>(), 8)) {
        let mut twins = Twins::new();
        let mut known: Vec<Prefix<u32>> = Vec::new();
        for (step, edit) in edits.iter().enumerate() {
            match edit {
                Edit::Insert(route) => {
                    known.push(*route);
                    twins.insert(*route);
                }
                Edit::Remove(index) if !known.is_empty() => {
                    let (address, length, _) = known.swap_remove(index.index(known.len()));
                    twins.remove(address, length);
                    // Its edges stay among the probes.
                    known.push((address, length, 0));
                }
                Edit::Remove(_) => {}
                Edit::RemoveOther((address, length, _)) => {
                    twins.remove(*address, *length);
                }
            }
            if step % 16 == 0 || step + 1 == edits.len() {
                let mut probes = probes(&known);
                probes.extend(&more);
                twins.check(&probes);
                check_lines(&twins.writer, &probes);
            }
        }
    }
}

#[test]
fn one_slot_24_bits_and_beyond() {
    let mut twins = Twins::new();
    let all: Vec<u32> = (0x0a00_0000..0x0a00_0400).collect();
    let mut routes: Vec<Prefix<u32>> = vec![(0, 0, 9), (0x0a00_0000, 8, 8), (0x0a00_0100, 24, 7)];
    routes.extend((25..=32).map(|length| (0x0a00_0155, length, u32::from(length))));
    for route in &routes {
        twins.insert(*route);
        twins.check(&all);
    }
    assert_eq!(twins.writer.len(), routes.len());
    for (address, length, value) in routes.iter().rev() {
        assert_eq!(twins.remove(*address, *length), Some(*value));
        twins.check(&all);
    }
    let mut writer = twins.writer;
    assert!(writer.is_empty());
    // A /24 is made anew before what it had is given back.
    assert_eq!([writer.painter.lines.begun, writer.painter.groups.begun], [2, 2], "used again");
    assert_eq!(writer.remove(0, 0), None);
}

#[test]
fn default_route_is_one_store() {
    let mut writer = writer();
    writer.insert((0, 0, 3));
    assert!(writer.table().slots[..1 << 16].iter().all(|slot| slot.load(Ordering::Relaxed) == 0));
    assert_eq!([0, u32::MAX].map(|address| writer.table().lookup(address)), [3; 2]);
    // A longer route with the default's value stands for itself when the default changes.
    writer.insert((0x0a00_0000, 8, 3));
    writer.insert((0, 0, 4));
    assert_eq!([0x0a00_0001, 0x0b00_0000].map(|address| writer.table().lookup(address)), [3, 4]);
}

#[test]
fn a_line_waits_for_readers() {
    let publisher = Publisher::new(());
    let mut reader = publisher.reader();
    let mut writer = Dir24Writer::new(publisher.grace());
    reader.enter();
    for round in 1..4 {
        writer.insert((0x0a00_0000, 26, 1));
        writer.remove(0x0a00_0000, 26);
        assert_eq!(writer.painter.lines.begun, round, "the reader may still be in the lines before");
    }
    reader.enter();
    writer.insert((0x0a00_0000, 26, 1));
    assert_eq!(writer.painter.lines.begun, 3);
}

#[test]
fn blocks_of_64_addresses_cost_one_line_for_four() {
    let mut writer = writer();
    for block in 0..64 {
        writer.insert((0x0a00_0000 | block << 6, 26, block));
    }
    // 16 that are in use; those they had before they were whole have been used again.
    assert!(writer.painter.lines.begun <= 17, "{}", writer.painter.lines.begun);
    assert_eq!(writer.painter.groups.begun, 0);
}

#[test]
fn without_a_line_a_24_leads_nowhere_until_there_is_one() {
    let mut twins = Twins::new();
    twins.insert((0x0a00_0000, 8, 1));
    twins.writer.painter.groups.begun = MAX_GROUPS as u32;
    twins.insert((0x0a00_0101, 32, 2));
    assert_eq!(twins.writer.nowhere(), 1);
    assert!([0x0a00_0101, 0x0a00_0102].iter().all(|address| twins.writer.table().lookup(*address) > MAX_VALUE));
    assert_eq!(twins.writer.table().lookup(0x0a00_0201), 1);
    twins.writer.painter.groups.unused.push(MAX_LINES as u32);
    twins.insert((0x0b00_0000, 8, 3));
    assert_eq!(twins.writer.nowhere(), 0);
    twins.check(&[0x0a00_0100, 0x0a00_0101, 0x0a00_0102]);
    // And one that is no longer wanted waits for nothing.
    twins.insert((0x0a00_0201, 32, 2));
    assert_eq!(twins.writer.nowhere(), 1);
    twins.remove(0x0a00_0201, 32);
    assert_eq!(twins.writer.nowhere(), 0);
    twins.check(&[0x0a00_0200, 0x0a00_0201]);
}

#[test]
fn readers_see_the_old_answer_or_the_new_one() {
    const ROUNDS: u32 = 20_000;
    let publisher = Publisher::new(());
    let mut writer = Dir24Writer::new(publisher.grace());
    writer.insert((0x0a00_0000, 8, 1));
    writer.insert((0x0a00_0900, 24, 2));
    // Toggled: a /16 around, a /24, a /26, and two addresses in it. Address, length, answers it may have.
    let toggled: [Prefix<u32>; 5] =
        [(0x0a00_0000, 16, 3), (0x0a00_0500, 24, 4), (0x0a00_0540, 26, 5), (0x0a00_0541, 32, 6), (0x0a00_0980, 25, 7)];
    let allowed: [(u32, &[u32]); 8] = [
        (0x0a01_0000, &[1]),
        (0x0a00_0000, &[1, 3]),
        (0x0a00_0501, &[1, 3, 4]),
        (0x0a00_0542, &[1, 3, 4, 5]),
        (0x0a00_0541, &[1, 3, 4, 5, 6]),
        (0x0a00_0580, &[1, 3, 4]),
        (0x0a00_0981, &[2, 7]),
        (0x0a00_0901, &[2]),
    ];
    let table = writer.table().clone();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let mut readers = Vec::new();
        for _ in 0..2 {
            let (table, done, mut reader) = (table.clone(), &done, publisher.reader());
            readers.push(scope.spawn(move || {
                let addresses = allowed.map(|(address, _)| address);
                let mut values = [0; 8];
                while !done.load(Ordering::Relaxed) {
                    reader.enter();
                    table.lookup_burst(&addresses, &mut values);
                    for ((address, allowed), value) in allowed.iter().zip(values) {
                        assert!(allowed.contains(&value), "{address:08x} → {value}");
                        assert!(allowed.contains(&table.lookup(*address)));
                    }
                }
            }));
        }
        for round in 0..ROUNDS {
            let (address, length, value) = toggled[round.wrapping_mul(2_654_435_761) as usize % toggled.len()];
            if writer.remove(address, length).is_none() {
                writer.insert((address, length, value));
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!((writer.painter.lines.begun as usize) < MAX_LINES && (writer.painter.groups.begun as usize) < MAX_GROUPS);
}
