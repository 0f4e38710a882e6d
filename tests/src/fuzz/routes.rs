//! Routes that come and go in any order, and what the tables make of them.
//!
//! Each five bytes are an edit: what is done, how long the prefix is, and where; places are few, so that prefixes nest.
//! After every eighth edit, and at the end, IPv4 is compared with a search in sorted runs, and so is IPv6.

use std::collections::BTreeMap;

use fastpath::flow::mapped;
use fastpath::rcu::Publisher;
use fastpath::table::AdjacencyIndex;
use fastpath::table::lpm::{Address, Lpm};
use fastpath::table::routes::{Destination, Routes, RoutesWriter};

use super::{Seen, Target};

pub const ROUTES: Target = Target { name: "routes", run: routes, seeds, tokens: &[], longest: 5 * 64, rounds: 2000 };

/// Prefix → value, as one would write it down.
#[derive(Default)]
struct Slow {
    ipv4: BTreeMap<(u32, u8), u32>,
    ipv6: BTreeMap<(u128, u8), u32>,
}

fn routes(bytes: &[u8]) -> Seen {
    let mut writer = RoutesWriter::new(Publisher::new(()).grace());
    let mut slow = Slow::default();
    let mut edges = Vec::new();
    let edits = bytes.as_chunks::<5>().0;
    for (step, edit) in edits.iter().enumerate() {
        change(edit, &mut writer, &mut slow, &mut edges);
        if step % 8 == 7 || step + 1 == edits.len() {
            let routes = writer.routes();
            writer.apply();
            compare(&routes, &slow, &edges);
        }
    }
    Seen::accepted((slow.ipv4.len().min(8), slow.ipv6.len().min(8), edits.len().min(8)))
}

fn change(edit: &[u8; 5], writer: &mut RoutesWriter, slow: &mut Slow, edges: &mut Vec<Destination>) {
    let [what, length, high, middle, low] = *edit;
    let value = (what & 2 == 0).then_some(u32::from(what >> 4));
    let place = value.map(AdjacencyIndex);
    if what & 1 == 0 {
        // Around the first and the last address of all, and in 10.0.0.0/14.
        let base = [0, 0x0a00_0000, 0x0a00_0000, 0xffff_ffff - 0x3_ffff][usize::from(what >> 2 & 3)];
        let address = base | u32::from_be_bytes([0, high & 3, middle, low]);
        // Shorter ones are painted over millions of slots.
        let length = if length % 64 == 0 { 0 } else { 9 + length % 24 };
        let (first, last) = address.range(length);
        writer.change_ipv4(address, length, place);
        match value {
            Some(value) => slow.ipv4.insert((first, length), value),
            None => slow.ipv4.remove(&(first, length)),
        };
        let around = [first.wrapping_sub(1), first, address, last, last.wrapping_add(1)];
        edges.extend(around.map(|address| Destination { address: mapped(address), is_ipv4: true }));
    } else {
        let base = [0, 0xfd00 << 112, 0xfd00 << 112, u128::MAX << 72][usize::from(what >> 2 & 3)];
        let address = base | u128::from(high & 3) << 70 | u128::from(middle) << 60 | u128::from(low);
        let length = length % 129;
        let (first, last) = address.range(length);
        writer.change_ipv6(address, length, place);
        match value {
            Some(value) => slow.ipv6.insert((first, length), value),
            None => slow.ipv6.remove(&(first, length)),
        };
        let around = [first.wrapping_sub(1), first, address, last, last.wrapping_add(1)];
        edges.extend(around.map(|address| Destination { address, is_ipv4: false }));
    }
}

fn compare(routes: &Routes, slow: &Slow, edges: &[Destination]) {
    let ipv4 = Lpm::build(slow.ipv4.iter().map(|((address, length), value)| (*address, *length, *value)).collect());
    let ipv6 = Lpm::build(slow.ipv6.iter().map(|((address, length), value)| (*address, *length, *value)).collect());
    let mut found = vec![AdjacencyIndex::NONE; edges.len()];
    routes.lookup_burst(edges, &mut found);
    for (edge, found) in edges.iter().zip(found) {
        let expected = if edge.is_ipv4 { ipv4.lookup(edge.address as u32) } else { ipv6.lookup(edge.address) };
        assert_eq!(found.0, expected, "{edge:x?} in a burst");
        assert_eq!(routes.lookup(*edge).0, expected, "{edge:x?} alone");
    }
}

fn seeds() -> Vec<Vec<u8>> {
    // Nested prefixes of both families that come, change and go.
    let nested = |family: u8| -> Vec<u8> {
        let come = (0..20u8).flat_map(|step| [family | 4 | step << 4, 8 + step, 1, 2, step]);
        let go = (0..20u8).flat_map(|step| [family | 4 | 2, 8 + step, 1, 2, step]);
        come.chain(go).collect()
    };
    vec![nested(0), nested(1), [nested(0), nested(1)].concat(), vec![4, 0, 0, 0, 0, 0, 23, 0, 0, 1]]
}
