//! Fuzz target: the file of flows that outlive the process.
//!
//! An input is a file; what stands before its checksum and the checksum itself are made right, or nothing else would ever
//! be looked at. Whatever it says, a flow that is let back in is one of an interface and an endpoint that are there, from
//! and to addresses of theirs, in a state that its protocol has, not idle for too long; and there are no more of them than
//! there is room for.

use std::collections::BTreeMap;
use std::sync::Arc;

use config::net::Cidr;
use config::resource::{Key as ResourceKey, Kind};
use control::compile::{Attachment, RuleNames};
use control::host::LinkIndex;
use control::node_state::{EndpointState, Program, ProgramEnd};
use control::saved_flows::Boot;
use control::saved_flows::format::{Header, Passage, Reader, SavedFlow, SavedInterface, SavedKind, VERSION, Writer};
use control::saved_flows::load::{self, Ground, Refusal};
use fastpath::flow::tcp_state::State;
use fastpath::flow::translation::{Sources, Translated};
use fastpath::flow::{Key, KeyKind, mapped_address, unmapped_address};
use fastpath::table::interface::InterfaceKind;
use fastpath::table::{InterfaceIndex, WorkerIndex};

use super::{Seen, Target};

pub const FLOWS: Target =
    Target { name: "flows", run, seeds, tokens: &["caliweb", "up0", "node", "boot"], longest: 4096, rounds: 100_000 };

/// Before what the checksum covers: magic, version, checksum.
const FRONT: usize = 16;
const NOW: u64 = 100_000;
const CLOCK: u32 = 3600;
const ROOM: usize = 8;
const ADDRESSES: [(&str, &str); 2] = [("web", "10.65.0.2"), ("client", "fd65::3")];

fn no_program() -> Arc<Program> {
    Arc::new(Program { tiers: Vec::new(), profiles: Vec::new(), end: ProgramEnd::Undecided })
}

fn endpoints() -> Vec<EndpointState> {
    let endpoint = |(name, address): (&str, &str)| EndpointState {
        key: ResourceKey { kind: Kind::WorkloadEndpoint, namespace: Some("default".into()), name: name.into() },
        interface: format!("cali{name}"),
        mac: None,
        addresses: vec![Cidr::host(address.parse().unwrap())],
        spoofed: Vec::new(),
        egress: no_program(),
        ingress: no_program(),
    };
    ADDRESSES.into_iter().map(endpoint).collect()
}

fn attached() -> BTreeMap<String, Attachment> {
    let kinds =
        [("caliclient", InterfaceKind::Workload), ("caliweb", InterfaceKind::Workload), ("up0", InterfaceKind::Uplink)];
    let numbered = kinds.into_iter().zip(0u16..);
    let attachment = |((name, kind), position): ((&str, InterfaceKind), u16)| {
        let (index, link) = (InterfaceIndex(40 + position), LinkIndex(u32::from(position) + 1));
        (name.to_owned(), Attachment { index, link, kind, owner: WorkerIndex(0) })
    };
    numbered.map(attachment).collect()
}

fn seeds() -> Vec<Vec<u8>> {
    let key = |source: &str, destination: &str, protocol: u8, kind| Key {
        source: mapped_address(source.parse().unwrap()),
        destination: mapped_address(destination.parse().unwrap()),
        source_port: 4000,
        destination_port: 80,
        protocol,
        kind,
    };
    let flows = [
        (key("192.0.2.2", "10.65.0.2", 6, KeyKind::Ports), State::TcpEstablished, 2, 1),
        (key("fd65::3", "2001:db8::2", 17, KeyKind::Ports), State::Udp, 0, 2),
        (key("10.65.0.2", "192.0.2.2", 1, KeyKind::EchoRequest), State::Icmp, 1, 2),
        (key("2001:db8::2", "fd65::3", 132, KeyKind::Ports), State::Unreplied, 2, 0),
    ];
    let file = |count: usize| {
        let mut writer = Writer::new(&Header { node: "node".into(), boot: "boot".into(), taken: NOW });
        for (name, attachment) in attached() {
            let endpoint = endpoints().into_iter().find(|endpoint| endpoint.interface == name);
            let kind = if endpoint.is_some() { SavedKind::Workload } else { SavedKind::Uplink };
            let endpoint = endpoint.map(|endpoint| endpoint.key.to_string());
            writer.interface(SavedInterface { name, link: attachment.link.0, kind, endpoint });
        }
        writer.rule("a rule".into());
        for (key, state, ingress, egress) in flows.iter().cycle().take(count) {
            let passage = Passage {
                ingress: *ingress,
                egress: *egress,
                rule: Some(0),
                outside: (*egress == 2).then(|| (mapped_address(outside(key).parse().unwrap()), 20_000)),
                created: NOW - 50,
                seen: [NOW - 3, NOW - 4],
                packets: [1, 2],
                bytes: [3, 4],
                tcp_flags: [16, 18],
            };
            writer.flow(SavedFlow::new(key, *state, passage));
        }
        writer.finish()
    };
    [0, 1, 2, 4, ROOM + 4].map(file).to_vec()
}

/// What stands in place of its source.
fn outside(key: &Key) -> &'static str {
    if key.is_ipv4() { "192.0.2.1" } else { "2001:db8::1" }
}

fn run(input: &[u8]) -> Seen {
    // As it is, it is refused or it is right.
    let _ = Reader::new(input).map(|mut reader| while let Ok(Some(_)) = reader.flow() {});
    let body = input.get(FRONT..).unwrap_or_default();
    let checksum = crc32fast::hash(body).to_le_bytes();
    let bytes = [b"VRFLOWS\n", &VERSION.to_le_bytes()[..], &checksum, body].concat();

    let (attached, endpoints) = (attached(), endpoints());
    let boot = Boot { id: "boot".into(), now: NOW };
    let sources = Sources::default();
    let ground = Ground {
        node: "node",
        boot: &boot,
        now: CLOCK,
        room: ROOM,
        attached: &attached,
        sources: &sources,
        endpoints: &endpoints,
    };
    let mut names = RuleNames::default();
    let (flows, tally) = match load::admissible(&bytes, &ground, &mut names) {
        Ok(admissible) => admissible,
        Err(Refusal::Format(error)) => return Seen::refused((1, error.to_string().len())),
        Err(refusal) => return Seen::refused((2, std::mem::discriminant(&refusal))),
    };
    assert!(flows.len() <= ROOM && flows.len() == tally.restored, "{tally:?}");
    for flow in &flows {
        assert!(flow.state.fits(&flow.key) && flow.key.kind != KeyKind::Fragment, "{flow:?}");
        assert!(flow.last_seen() <= CLOCK && CLOCK - flow.last_seen() < flow.state.timeout(), "{flow:?}");
        for (index, address) in [(flow.ingress, flow.key.source), (flow.egress, flow.key.destination)] {
            let (name, attachment) = attached.iter().find(|(_, attachment)| attachment.index == index).unwrap();
            if attachment.kind == InterfaceKind::Workload {
                let endpoint = endpoints.iter().find(|endpoint| endpoint.interface == *name).unwrap();
                assert!(endpoint.addresses[0].contains(unmapped_address(address)), "{flow:?}");
            }
        }
        if let Translated::Flow(translation) = flow.translated {
            let outside = Key { source: sources.address(translation.source), ..flow.key };
            assert_eq!(outside.is_ipv4(), flow.key.is_ipv4(), "{flow:?}");
            assert!(matches!(flow.key.kind, KeyKind::Ports | KeyKind::EchoRequest), "{flow:?}");
        }
        assert!(flow.rule.is_none() || names.name(flow.rule).is_some(), "{flow:?}");
    }
    let is_some = |count: usize| count > 0;
    let states = flows.iter().fold(0u16, |states, flow| states | 1 << flow.state as u16);
    Seen::accepted((flows.len(), is_some(tally.expired), is_some(tally.gone), is_some(tally.without_room), states))
}
