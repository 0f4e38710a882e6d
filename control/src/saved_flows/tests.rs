//! What is saved comes back, unless something about it has changed; and every file that is refused, with what is said.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use config::net::Cidr;
use config::resource::{Key as ResourceKey, Kind};
use fastpath::flow::tcp_state::State;
use fastpath::flow::translation::{Sources, Translated, Translation};
use fastpath::flow::{FlowTable, FlowView, FlowWriter, Key, KeyKind, mapped_address};
use fastpath::rcu::Publisher;
use fastpath::table::interface::InterfaceKind;
use fastpath::table::{InterfaceIndex, RuleIndex, WorkerIndex};
use fastpath::worker::Clock;

use super::format::{FormatError, Header, Passage, Reader, SavedFlow, SavedInterface, SavedKind, Writer};
use super::load::{self, Ground, Refusal, Tally};
use super::save::{Saver, Source};
use super::*;
use crate::compile::{Attachment, RuleNames};
use crate::host::LinkIndex;
use crate::node_state::{EndpointState, Program, ProgramEnd};

const WEB: &str = "10.65.0.2";
const CLIENT: &str = "10.65.0.3";
const FAR: &str = "192.0.2.2";
const RULE: &str = "NetworkPolicy default/web ingress[0]";

fn ip(address: &str) -> IpAddr {
    address.parse().unwrap()
}

fn no_program() -> Arc<Program> {
    Arc::new(Program { tiers: Vec::new(), profiles: Vec::new(), end: ProgramEnd::Undecided })
}

/// A node with two endpoints and an uplink.
struct Node {
    attached: BTreeMap<String, Attachment>,
    endpoints: Vec<EndpointState>,
    names: RuleNames,
    boot: Boot,
    room: usize,
    sources: Sources,
}

impl Node {
    /// Interfaces are numbered from `first`, as they may be otherwise after a restart.
    fn new(first: u16) -> Node {
        let interfaces = [
            ("caliweb", InterfaceKind::Workload, 10),
            ("caliclient", InterfaceKind::Workload, 11),
            ("up0", InterfaceKind::Uplink, 12),
            ("vrouter-fp", InterfaceKind::Host, 13),
        ];
        let attached = interfaces.into_iter().zip(first..).map(|((name, kind, link), index)| {
            let attachment =
                Attachment { index: InterfaceIndex(index), link: LinkIndex(link), kind, owner: WorkerIndex(0) };
            (name.to_owned(), attachment)
        });
        let endpoint = |name: &str, address: &str| EndpointState {
            key: ResourceKey {
                kind: Kind::WorkloadEndpoint,
                namespace: Some("default".into()),
                name: format!("node-k8s-{name}-eth0"),
            },
            interface: format!("cali{name}"),
            mac: None,
            addresses: vec![Cidr::host(ip(address))],
            spoofed: Vec::new(),
            egress: no_program(),
            ingress: no_program(),
        };
        Node {
            attached: attached.collect(),
            endpoints: vec![endpoint("web", WEB), endpoint("client", CLIENT)],
            names: RuleNames::default(),
            boot: Boot { id: "boot".into(), now: 100_000 },
            room: 100,
            sources: Sources::default(),
        }
    }

    fn index(&self, name: &str) -> InterfaceIndex {
        self.attached[name].index
    }

    fn admissible(&mut self, bytes: &[u8]) -> Result<(Vec<FlowView>, Tally), Refusal> {
        let ground = Ground {
            node: "node",
            boot: &self.boot,
            now: 3600,
            room: self.room,
            attached: &self.attached,
            sources: &self.sources,
            endpoints: &self.endpoints,
        };
        load::admissible(bytes, &ground, &mut self.names)
    }
}

fn tcp_key(source: &str, destination: &str) -> Key {
    Key {
        source: mapped_address(ip(source)),
        destination: mapped_address(ip(destination)),
        source_port: 40_000,
        destination_port: 80,
        protocol: 6,
        kind: KeyKind::Ports,
    }
}

/// Interfaces of a file, by position.
const IN_FILE: [(&str, SavedKind, u32, Option<&str>); 3] = [
    ("caliclient", SavedKind::Workload, 11, Some("client")),
    ("caliweb", SavedKind::Workload, 10, Some("web")),
    ("up0", SavedKind::Uplink, 12, None),
];

fn header() -> Header {
    Header { node: "node".into(), boot: "boot".into(), taken: 99_990 }
}

fn passage(ingress: u32, egress: u32) -> Passage {
    Passage {
        ingress,
        egress,
        rule: Some(0),
        outside: None,
        created: 90_000,
        seen: [99_980, 99_970],
        packets: [5, 6],
        bytes: [500, 600],
        tcp_flags: [0x10, 0x12],
    }
}

/// A file of these flows, as node `node` would have written it.
fn file(header: &Header, flows: &[SavedFlow]) -> Vec<u8> {
    let mut writer = Writer::new(header);
    let node = Node::new(0);
    for (name, kind, link, _) in IN_FILE {
        let endpoint = node.endpoints.iter().find(|endpoint| endpoint.interface == name);
        let endpoint = endpoint.map(|endpoint| endpoint.key.to_string());
        writer.interface(SavedInterface { name: name.into(), link, kind, endpoint });
    }
    writer.rule(RULE.into());
    flows.iter().for_each(|flow| writer.flow(*flow));
    writer.finish()
}

/// client → web, established.
fn flow() -> SavedFlow {
    SavedFlow::new(&tcp_key(CLIENT, WEB), State::TcpEstablished, passage(0, 1))
}

#[test]
fn a_flow_comes_back_with_all_that_was_known_of_it() {
    let mut node = Node::new(40);
    let (flows, tally) = node.admissible(&file(&header(), &[flow()])).unwrap();
    assert_eq!(tally, Tally { restored: 1, ..Tally::default() });
    let expected = FlowView {
        key: tcp_key(CLIENT, WEB),
        state: State::TcpEstablished,
        rule: node.names.index(RULE),
        translated: Translated::No,
        ingress: node.index("caliclient"),
        egress: node.index("caliweb"),
        // Older than the clock.
        created: 0,
        seen: [3580, 3570],
        packets: [5, 6],
        bytes: [500, 600],
        tcp_flags: [0x10, 0x12],
    };
    assert_eq!(flows, [expected]);
}

#[test]
fn a_flow_whose_interface_or_endpoint_is_another_does_not_come_back() {
    type Change = fn(&mut Node);
    let cases: [(&str, Change); 8] = [
        ("interface gone", |node| node.attached.retain(|name, _| name != "caliweb")),
        ("interface made anew", |node| node.attached.get_mut("caliweb").unwrap().link = LinkIndex(99)),
        ("another kind", |node| node.attached.get_mut("caliweb").unwrap().kind = InterfaceKind::Uplink),
        ("endpoint gone", |node| node.endpoints.retain(|endpoint| endpoint.interface != "caliweb")),
        ("another endpoint", |node| node.endpoints[0].key.name.push('2')),
        ("another namespace", |node| node.endpoints[0].key.namespace = Some("other".into())),
        ("another address of the receiver", |node| node.endpoints[0].addresses = vec![Cidr::host(ip("10.65.0.9"))]),
        ("another address of the sender", |node| node.endpoints[1].addresses = vec![Cidr::host(ip("10.65.0.9"))]),
    ];
    for (what, change) in cases {
        let mut node = Node::new(40);
        change(&mut node);
        let (flows, tally) = node.admissible(&file(&header(), &[flow()])).unwrap();
        assert_eq!((flows.len(), tally), (0, Tally { gone: 1, ..Tally::default() }), "{what}");
    }
}

#[test]
fn a_flow_that_never_was_the_endpoints_does_not_come_back() {
    let mut node = Node::new(40);
    let foreign = [
        SavedFlow::new(&tcp_key(FAR, WEB), State::TcpEstablished, passage(0, 1)),
        SavedFlow::new(&tcp_key(CLIENT, FAR), State::TcpEstablished, passage(0, 1)),
    ];
    let (flows, tally) = node.admissible(&file(&header(), &foreign)).unwrap();
    assert_eq!((flows.len(), tally.gone), (0, 2));
    // Behind an uplink is everybody else.
    let by_uplink = SavedFlow::new(&tcp_key(FAR, WEB), State::TcpEstablished, passage(2, 1));
    assert_eq!(node.admissible(&file(&header(), &[by_uplink])).unwrap().1.restored, 1);
}

#[test]
fn an_idle_flow_does_not_come_back() {
    let key = tcp_key(CLIENT, WEB);
    for (state, idle, comes_back) in [
        (State::TcpEstablished, 3599, true),
        (State::TcpEstablished, 3600, false),
        (State::TcpOpening, 19, true),
        (State::TcpOpening, 20, false),
    ] {
        let seen = [100_000 - idle, 0];
        let flow = SavedFlow::new(&key, state, Passage { created: 0, seen, ..passage(0, 1) });
        let (_, tally) = Node::new(0).admissible(&file(&header(), &[flow])).unwrap();
        assert_eq!((tally.restored == 1, tally.expired == 0), (comes_back, comes_back), "{state:?} {idle}");
    }
}

#[test]
fn when_there_is_no_room_for_all_established_ones_come_back() {
    let opening = |port| {
        let key = Key { source_port: port, ..tcp_key(CLIENT, WEB) };
        SavedFlow::new(&key, State::TcpOpening, Passage { seen: [99_999; 2], ..passage(0, 1) })
    };
    let mut node = Node { room: 2, ..Node::new(0) };
    let (flows, tally) = node.admissible(&file(&header(), &[opening(1), flow(), opening(2)])).unwrap();
    assert_eq!((tally.restored, tally.without_room), (2, 1));
    assert_eq!(flows[0].state, State::TcpEstablished);
}

#[track_caller]
fn refused(bytes: &[u8], expected: &str) {
    let error = Node::new(0).admissible(bytes).unwrap_err();
    assert!(error.to_string().contains(expected), "{error}");
}

#[test]
fn a_file_of_another_node_boot_or_time_is_refused() {
    refused(&file(&Header { node: "other".into(), ..header() }, &[flow()]), "of node \"other\", expected \"node\"");
    refused(&file(&Header { boot: "other".into(), ..header() }, &[flow()]), "before the machine was last started");
    refused(
        &file(&Header { taken: 100_000 - 3600, ..header() }, &[flow()]),
        "3600 seconds ago, expected less than 3600",
    );
    refused(&file(&Header { taken: 100_003, ..header() }, &[flow()]), "3 seconds from now");
}

#[test]
fn a_damaged_file_is_refused() {
    let good = file(&header(), &[flow()]);
    assert!(Node::new(0).admissible(&good).is_ok());
    refused(b"", "does not begin as");
    refused(b"SQLite format 3\0", "does not begin as");
    refused(&good[..10], "cut short");
    let mut newer = good.clone();
    newer[8] = 3;
    refused(&newer, "version 3, expected 2");
    // Every bit matters.
    for bit in 0..good.len() * 8 {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(Node::new(0).admissible(&bytes).is_err(), "bit {bit}");
    }
    for length in 0..good.len() {
        assert!(Node::new(0).admissible(&good[..length]).is_err(), "{length} bytes");
    }
}

#[test]
fn a_file_with_the_right_checksum_and_wrong_content_is_refused() {
    let with = |change: fn(&mut Passage)| {
        let mut passage = passage(0, 1);
        change(&mut passage);
        file(&header(), &[SavedFlow::new(&tcp_key(CLIENT, WEB), State::TcpEstablished, passage)])
    };
    refused(&with(|passage| passage.ingress = 3), "an interface that is not there");
    refused(&with(|passage| passage.egress = u32::MAX), "an interface that is not there");
    refused(&with(|passage| passage.rule = Some(1)), "a rule that is not there");
    refused(&with(|passage| passage.seen[1] = u64::MAX), "a flow that cannot be");
    refused(&with(|passage| passage.created = 200_000), "a flow that cannot be");
    let udp = Key { protocol: 17, ..tcp_key(CLIENT, WEB) };
    refused(&file(&header(), &[SavedFlow::new(&udp, State::TcpEstablished, passage(0, 1))]), "a flow that cannot be");
    let fragment = Key { kind: KeyKind::Fragment, ..tcp_key(CLIENT, WEB) };
    refused(&file(&header(), &[SavedFlow::new(&fragment, State::Fragment, passage(0, 1))]), "a flow that cannot be");
    let two_families = Key { destination: 1, ..tcp_key(CLIENT, WEB) };
    let two_families = SavedFlow::new(&two_families, State::TcpEstablished, passage(0, 1));
    refused(&file(&header(), &[two_families]), "a flow that cannot be");
    let mut writer = Writer::new(&header());
    writer.rule("x".repeat(super::format::NAME_MAX + 1));
    refused(&writer.finish(), "name of a rule is too long");
}

/// A connection of the client's that leaves by an interface, seen just now.
fn open_flow(node: &Node, egress: &str) -> FlowView {
    FlowView {
        key: tcp_key(CLIENT, WEB),
        state: State::TcpEstablished,
        rule: RuleIndex::NONE,
        translated: Translated::No,
        ingress: node.index("caliclient"),
        egress: node.index(egress),
        created: 3600,
        seen: [3600, 3600],
        packets: [1, 2],
        bytes: [100, 200],
        tcp_flags: [0x12, 0x12],
    }
}

/// A table with one flow for each source port.
fn table(node: &mut Node, flows: u16) -> (Arc<FlowTable>, FlowWriter) {
    let table = FlowTable::new(10_000);
    let mut writer = FlowWriter::new(table.clone(), 0, 1, Publisher::new(()).grace());
    for port in 0..flows {
        let view = FlowView { rule: node.names.index(RULE), ..open_flow(node, "caliweb") };
        let key = Key { source_port: port, ..view.key };
        writer.restore(&FlowView { key, ..view }).unwrap();
    }
    (table, writer)
}

fn source<'a>(node: &'a Node, flows: &'a FlowTable) -> Source<'a> {
    let Node { names, attached, endpoints, .. } = node;
    Source { node: "node", flows, clock: Clock::start(), names, attached, endpoints }
}

#[test]
fn a_saved_table_comes_back_whole_and_only_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("flows");
    let mut before = Node::new(0);
    let (flows, mut writer) = table(&mut before, 1000);
    // Neither of these is saved: the rest of a datagram, and what passed an interface that has left.
    let gone = FlowView { ingress: InterfaceIndex(77), ..flows.iter().next().unwrap() };
    let gone = FlowView { key: Key { source_port: 2000, ..gone.key }, ..gone };
    writer.restore(&gone).unwrap();
    assert_eq!(Saver::new(path.clone()).finish(&source(&before, &flows)).unwrap(), 1000);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

    let bytes = load::take(&path).unwrap().unwrap();
    let mut after = Node { boot: Boot::read().unwrap(), room: 5000, ..Node::new(40) };
    let (restored, tally) = after.admissible(&bytes).unwrap();
    assert_eq!(tally, Tally { restored: 1000, ..Tally::default() });
    let ports: std::collections::BTreeSet<u16> = restored.iter().map(|flow| flow.key.source_port).collect();
    assert_eq!(ports.len(), 1000);
    let is_right = |flow: &FlowView| {
        (flow.ingress, flow.egress) == (after.index("caliclient"), after.index("caliweb"))
            && flow.state == State::TcpEstablished
            && (flow.packets, flow.bytes) == ([1, 2], [100, 200])
            && after.names.name(flow.rule) == Some(RULE)
    };
    assert!(restored.iter().all(is_right), "{:?}", restored.iter().find(|flow| !is_right(flow)));
    assert!(load::take(&path).is_none(), "the file was there for one process");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "a draft was left");
}

#[test]
fn a_walk_takes_slices_and_ends_with_the_same_file() {
    let folder = tempfile::tempdir().unwrap();
    let mut node = Node::new(0);
    let (flows, _writer) = table(&mut node, 6000);
    let mut saver = Saver::new(folder.path().join("flows"));
    let mut ticks = 1;
    // One moment for all: only the first walk is due.
    let now = Instant::now();
    while !saver.tick(&source(&node, &flows), now).unwrap() {
        ticks += 1;
        assert!(ticks < 100);
    }
    assert_eq!(ticks, 10_000usize.div_ceil(4096));
    let bytes = load::take(saver.path()).unwrap().unwrap();
    assert!(bytes.len() / 6000 < 80, "{} bytes for 6000 flows", bytes.len());
    let mut reader = Reader::new(&bytes).unwrap();
    let mut count = 0;
    while reader.flow().unwrap().is_some() {
        count += 1;
    }
    assert_eq!((count, reader.interfaces.len(), reader.rules.len()), (6000, 2, 1));
    assert!(!saver.tick(&source(&node, &flows), now).unwrap(), "the next one is not due");
}

#[test]
fn what_cannot_be_written_is_said_and_what_cannot_be_read_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::new(0);
    let flows = FlowTable::new(64);
    let error = Saver::new(folder.path().join("none/flows")).finish(&source(&node, &flows)).unwrap_err();
    assert!(error.to_string().contains("save open flows in"), "{error}");

    let path = folder.path().join("flows");
    assert!(load::take(&path).is_none());
    std::fs::create_dir(&path).unwrap();
    assert!(matches!(load::take(&path), Some(Err(Refusal::NoFile("a folder")))));
    std::fs::remove_dir(&path).unwrap();
    std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
    assert!(matches!(load::take(&path), Some(Err(Refusal::NoFile(_)))));
    assert!(load::take(&path).is_none(), "what is refused is removed");
    assert!(matches!(Reader::new(b"VRFLOWS\n"), Err(FormatError::Content(_))));
}

#[test]
fn a_translated_flow_keeps_what_it_has_outside() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("flows");
    let before = Node::new(0);
    let flows = FlowTable::new(64);
    let mut writer = FlowWriter::new(flows.clone(), 0, 1, Publisher::new(()).grace());
    let outside = mapped_address(ip("192.0.2.1"));
    // Numbers are each process' own.
    flows.sources().add(mapped_address(ip("192.0.2.99")));
    let translation = Translation { source: flows.sources().add(outside).unwrap(), port: 20_123 };
    let (key, translated) = (tcp_key(CLIENT, "198.51.100.7"), Translated::Flow(translation));
    let view = FlowView { key, translated, ..open_flow(&before, "up0") };
    writer.restore(&view).unwrap();
    assert_eq!(Saver::new(path.clone()).finish(&source(&before, &flows)).unwrap(), 1);
    let bytes = load::take(&path).unwrap().unwrap();
    let mut after = Node { boot: Boot::read().unwrap(), ..Node::new(40) };
    let (restored, _) = after.admissible(&bytes).unwrap();
    let Translated::Flow(Translation { source, port }) = restored[0].translated else {
        panic!("{:?}", restored[0].translated)
    };
    assert_eq!((after.sources.address(source), port), (outside, 20_123));
    // Its answers find it.
    let flows = FlowTable::new(64);
    flows.sources().copy_from(&after.sources);
    FlowWriter::new(flows.clone(), 0, 1, Publisher::new(()).grace()).restore(&restored[0]).unwrap();
    let answer = Key { source: outside, source_port: 20_123, ..view.key }.reversed();
    assert!(flows.lookup(&answer, flows.hash(&answer)).is_some());
    assert!(flows.lookup(&view.key.reversed(), flows.hash(&view.key.reversed())).is_none());
}

#[test]
fn what_has_no_ports_or_another_family_outside_is_refused() {
    let wrong = |outside, kind| {
        let key = Key { kind, protocol: 1, ..tcp_key(CLIENT, "198.51.100.7") };
        let state = if kind == KeyKind::Ports { State::TcpEstablished } else { State::Icmp };
        let key = Key { protocol: if kind == KeyKind::Ports { 6 } else { 1 }, ..key };
        let passage = Passage { outside: Some((outside, 20_000)), seen: [99_999; 2], ..passage(0, 2) };
        refused(&file(&header(), &[SavedFlow::new(&key, state, passage)]), "a flow that cannot be");
    };
    wrong(mapped_address(ip("2001:db8::1")), KeyKind::Ports);
    wrong(mapped_address(ip("192.0.2.1")), KeyKind::IcmpOther);
}
