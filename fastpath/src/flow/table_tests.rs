//! The flow table against a map, and its promises one by one.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::*;
use crate::flow::{FlowWriter, KeyKind};
use crate::header::{protocol, tcp};
use crate::rcu::Publisher;

fn table(capacity: u32) -> (Publisher<()>, FlowWriter) {
    let publisher = Publisher::new(());
    let table = FlowTable::with_hasher(capacity, ahash::RandomState::with_seeds(1, 2, 3, 4));
    let writer = FlowWriter::new(table, 0, 1, publisher.grace()).with_quota(u32::MAX);
    (publisher, writer)
}

fn key(number: u32) -> Key {
    Key {
        source: crate::flow::mapped(0x0a00_0000 + number),
        destination: crate::flow::mapped(0x0a01_0000),
        source_port: number as u16,
        destination_port: 80,
        protocol: protocol::TCP,
        kind: KeyKind::Ports,
    }
}

fn new(writer: &FlowWriter, key: Key) -> NewFlow {
    NewFlow {
        key,
        hash: writer.table().hash(&key),
        ingress: InterfaceIndex(1),
        egress: InterfaceIndex(2),
        charged: InterfaceIndex(1),
        adjacency: AdjacencyIndex(7),
        generation: 3,
        rule: RuleIndex(9),
        tcp_flags: tcp::SYN,
        bytes: 60,
        covered: 0,
        translated: Translated::No,
    }
}

/// Lets both sides acknowledge: from here on the flow is never evicted.
fn establish(writer: &FlowWriter, handle: FlowHandle) {
    writer.table().touch(handle.reversed(), 60, tcp::SYN | tcp::ACK, 0);
    writer.table().touch(handle, 60, tcp::ACK, 0);
}

fn find(writer: &FlowWriter, key: &Key) -> Option<FlowHandle> {
    writer.table().lookup(key, writer.table().hash(key))
}

#[test]
fn both_directions_are_found_and_know_their_side() {
    let (_publisher, mut writer) = table(64);
    let flow = new(&writer, key(1));
    let handle = writer.insert(&flow, 0).unwrap();
    assert_eq!(find(&writer, &flow.key), Some(handle));
    let reverse = find(&writer, &flow.key.reversed()).unwrap();
    assert_eq!(reverse, handle.reversed());
    let table = writer.table();
    let expected = Decision { ingress: InterfaceIndex(1), adjacency: AdjacencyIndex(7), generation: 3 };
    assert_eq!(table.decision(handle), expected);
    assert_eq!(table.decision(reverse).ingress, InterfaceIndex(2));
    assert!(table.decision(reverse).adjacency.is_none());
    assert_eq!((table.egress(handle), table.egress(reverse)), (InterfaceIndex(2), InterfaceIndex(1)));
    assert_eq!(find(&writer, &key(2)), None);
}

#[test]
fn a_flow_entered_twice_is_one_flow() {
    let (_publisher, mut writer) = table(64);
    let forward = new(&writer, key(1));
    let handle = writer.insert(&forward, 0).unwrap();
    let crossing = new(&writer, key(1).reversed());
    assert_eq!(writer.insert(&crossing, 0), Ok(handle.reversed()));
    assert_eq!(writer.live(), 1);
}

#[test]
fn entries_are_reused_only_after_a_grace_period() {
    let (publisher, mut writer) = table(64);
    let mut reader = publisher.reader();
    reader.enter();
    for number in 0..64 {
        let flow = new(&writer, key(number));
        let handle = writer.insert(&flow, 0).unwrap();
        establish(&writer, handle);
    }
    assert_eq!(writer.purge(InterfaceIndex(2)), 64);
    let flow = new(&writer, key(100));
    assert_eq!(writer.insert(&flow, 0), Err(InsertError::Full), "a worker may still read the old entries");
    reader.enter();
    assert!(writer.insert(&flow, 0).is_ok());
}

#[test]
fn idle_flows_end_by_their_state() {
    let (_publisher, mut writer) = table(64);
    let opening = new(&writer, key(1));
    writer.insert(&opening, 0).unwrap();
    let established = new(&writer, key(2));
    let handle = writer.insert(&established, 0).unwrap();
    establish(&writer, handle);
    writer.sweep(19);
    assert_eq!(writer.live(), 2);
    writer.sweep(20);
    assert_eq!(find(&writer, &opening.key), None);
    assert!(find(&writer, &established.key).is_some());
    writer.sweep(3600);
    assert_eq!(find(&writer, &established.key.reversed()), None);
}

#[test]
fn a_flood_never_evicts_an_established_flow() {
    let (_publisher, mut writer) = table(256);
    let mut established = Vec::new();
    for number in 0..100 {
        let flow = new(&writer, key(number));
        let handle = writer.insert(&flow, 0).unwrap();
        establish(&writer, handle);
        established.push(flow.key);
    }
    for number in 1000..5000 {
        let flow = new(&writer, key(number));
        let _ = writer.insert(&flow, 1);
        writer.sweep(1);
    }
    for key in established {
        assert!(find(&writer, &key).is_some(), "{key:?}");
        assert!(find(&writer, &key.reversed()).is_some(), "{key:?}");
    }
}

#[test]
fn a_scan_does_not_shut_out_new_flows() {
    let (publisher, mut writer) = table(1024);
    let mut reader = publisher.reader();
    for number in 0..50_000 {
        // A worker breathes at least once per burst.
        if number % 32 == 0 {
            reader.enter();
        }
        let flow = new(&writer, key(number));
        assert!(writer.insert(&flow, 1).is_ok(), "flow {number} of a scan was refused");
    }
    assert!(writer.live() <= 1024);
}

#[test]
fn an_interface_has_so_many_flows_and_no_more() {
    let (publisher, writer) = table(4096);
    let mut reader = publisher.reader();
    let mut writer = writer.with_quota(100);
    let from = |writer: &FlowWriter, number: u32, charged: u16| NewFlow {
        charged: InterfaceIndex(charged),
        ..new(writer, key(number))
    };
    for number in 0..100 {
        let flow = from(&writer, number, 1);
        let handle = writer.insert(&flow, 0).unwrap();
        establish(&writer, handle);
    }
    let refused = from(&writer, 100, 1);
    assert_eq!(writer.insert(&refused, 0), Err(InsertError::Quota), "established flows do not go");
    let other = from(&writer, 101, 2);
    assert!(writer.insert(&other, 0).is_ok(), "another interface has room of its own");
    // An opening flow makes room, but only for its own interface, and only when the hand comes by it.
    let mut entered = 0;
    for number in 200..600 {
        reader.enter();
        let flow = from(&writer, number, 3);
        entered += usize::from(writer.insert(&flow, 0).is_ok());
    }
    assert!(entered > 200, "a scan ends its own flows: {entered} of 400 entered");
    assert_eq!([1, 2, 3].map(|interface| writer.charged(InterfaceIndex(interface))), [100, 1, 100]);
    assert_eq!(writer.live(), 201);
    assert_eq!(writer.purge(InterfaceIndex(2)), 201);
    assert_eq!([1, 2, 3].map(|interface| writer.charged(InterfaceIndex(interface))), [0; 3]);
}

/// Keys of both families with the same tag, alike in all that is compared first.
#[test]
fn ipv6_addresses_are_compared_whole() {
    let (_publisher, mut writer) = table(64);
    let flow = new(&writer, Key { source: 1 << 64, destination: 2, ..key(1) });
    let handle = writer.insert(&flow, 0).unwrap();
    // The mixture of addresses is the same: a change of one word is undone in another.
    let alike = Key { source: (1 ^ 1 << 17) << 64 | 1, ..flow.key };
    assert!(!writer.table().is(handle, &alike));
    assert!(writer.table().is(handle, &flow.key));
    assert!(writer.table().is(handle.reversed(), &flow.key.reversed()));
    assert!(!writer.table().is(handle.reversed(), &flow.key));
}

#[test]
fn random_operations_agree_with_a_map() {
    let (_publisher, mut writer) = table(4096);
    let mut model: HashMap<Key, InterfaceIndex> = HashMap::new();
    let mut state = 0x1234_5678_9abc_def0u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..20_000 {
        let key = key((random() % 1500) as u32);
        match random() % 3 {
            0 => {
                let egress = InterfaceIndex((random() % 50) as u16 + 10);
                let flow = NewFlow { egress, ..new(&writer, key) };
                if let Entry::Vacant(vacant) = model.entry(key) {
                    writer.insert(&flow, 0).unwrap();
                    vacant.insert(egress);
                }
            }
            1 => {
                let found = find(&writer, &key).map(|handle| writer.table().egress(handle));
                assert_eq!(found, model.get(&key).copied());
                assert_eq!(find(&writer, &key.reversed()).is_some(), model.contains_key(&key));
            }
            _ if random() % 100 == 0 => {
                let interface = InterfaceIndex((random() % 50) as u16 + 10);
                let expected = model.values().filter(|egress| **egress == interface).count();
                assert_eq!(writer.purge(interface), expected);
                model.retain(|_, egress| *egress != interface);
            }
            _ => {}
        }
        assert_eq!(writer.live(), model.len());
    }
    assert_eq!(writer.table().iter().count(), model.len());
}

/// Every bucket knows how many of its flows stand elsewhere, whatever was entered, evicted and taken out.
#[test]
fn spilled_flows_are_counted() {
    let count = |writer: &FlowWriter| {
        let table = writer.table();
        let mut expected: HashMap<usize, u32> = HashMap::new();
        for bucket in &*table.buckets {
            for (_, flow) in bucket.flows() {
                let key = table.key(flow);
                let key = if flow.direction() == Direction::Forward { key } else { key.reversed() };
                let (first, ..) = table.buckets_of(table.hash(&key));
                if !std::ptr::eq(first, bucket) {
                    *expected.entry(std::ptr::from_ref(first).addr()).or_default() += 1;
                }
            }
        }
        for bucket in &*table.buckets {
            let wanted = expected.get(&std::ptr::from_ref(bucket).addr()).copied().unwrap_or(0);
            assert_eq!(bucket.spilled(), wanted);
        }
        expected.values().sum::<u32>()
    };
    let (_publisher, mut writer) = table(1024);
    let mut most = 0;
    for round in 0..20u32 {
        for number in 0..400 {
            let flow = new(&writer, key(round * 300 + number));
            let _may_be_full = writer.insert(&flow, round);
        }
        most = most.max(count(&writer));
        // Every third flow ends.
        for position in (round % 3..1024).step_by(3) {
            if writer.table().entries[position as usize].version().is_some() {
                writer.remove(position);
            }
        }
        count(&writer);
    }
    assert!(most > 50, "{most} flows in their second bucket: nothing was tested");
    writer.purge(InterfaceIndex(2));
    assert_eq!(count(&writer), 0);
}

/// At capacity few flows need a look at a second bucket, and all are found.
#[test]
fn few_flows_spill() {
    let (_publisher, mut writer) = table(1 << 14);
    for number in 0..1 << 14 {
        let flow = new(&writer, key(number));
        let handle = writer.insert(&flow, 0).unwrap();
        establish(&writer, handle);
    }
    let spilled: u32 = writer.table().buckets.iter().map(Bucket::spilled).sum();
    assert!(spilled < (2 << 14) / 10, "{spilled} of {} handles", 2 << 14);
    assert!((0..1 << 14).all(|number| find(&writer, &key(number)).is_some()));
}

#[test]
fn a_translated_flow_is_found_by_what_its_answers_have() {
    use crate::flow::translation::{End, Replacement, Translated, Translation};
    let ipv6 = Key { source: 0xfd00 << 112 | 5, destination: 0x2001 << 112 | 7, ..key(5) };
    for key in [
        Key { source: crate::flow::mapped(0x0a00_0005), destination: crate::flow::mapped(0xc000_0207), ..key(5) },
        ipv6,
    ] {
        let (_publisher, mut writer) = table(64);
        let address = if key.is_ipv4() { crate::flow::mapped(0xc000_0201) } else { 0x2001 << 112 | 1 };
        let translation = Translation { source: writer.table().sources().add(address).unwrap(), port: 20_001 };
        let flow = NewFlow { translated: Translated::Flow(translation), ..new(&writer, key) };
        let handle = writer.insert(&flow, 0).unwrap();
        let answer = Key { source: address, source_port: 20_001, ..key }.reversed();
        assert_eq!((find(&writer, &key), find(&writer, &answer)), (Some(handle), Some(handle.reversed())));
        assert_eq!(find(&writer, &key.reversed()), None, "nobody outside knows that address");
        let table = writer.table();
        assert_eq!((table.key_of(handle), table.key_of(handle.reversed())), (key, answer));
        let replacement = |end, address, port| Some(Replacement { end, address, port: Some(port) });
        assert_eq!(table.replacement(handle), replacement(End::Source, address, 20_001));
        let inner = replacement(End::Destination, key.source, key.source_port);
        assert_eq!(table.replacement(handle.reversed()), inner);
        assert_eq!(table.iter().next().map(|flow| flow.translated), Some(Translated::Flow(translation)));
        // The fragments of a datagram have the address alone.
        let fragment = Key { kind: KeyKind::Fragment, ..key };
        let translated = Translated::Fragment(End::Destination, address);
        let handle = writer.insert(&NewFlow { translated, ..new(&writer, fragment) }, 0).unwrap();
        let expected = Replacement { end: End::Destination, address, port: None };
        assert_eq!(writer.table().replacement(handle), Some(expected));
        // When it ends both are gone.
        writer.sweep(3600);
        assert_eq!((find(&writer, &key), find(&writer, &answer), find(&writer, &fragment)), (None, None, None));
        assert_eq!(writer.live(), 0);
    }
}
