//! Fuzz target over translation: any frames between workloads and the world outside.
//!
//! An input is a conversation, as in `frames.rs`; its senders are `a`, `b` and `up`. Nobody outside may begin anything with a
//! workload. Promises:
//!
//! - no panic, and every packet is accounted for;
//! - what leaves by the uplink has an address of the node for its source, never an inner one;
//! - what comes in by the uplink and reaches a workload was sent to an address of the node, and is then that workload's;
//! - what reaches the host at an address that it shares is what came in;
//! - what was right in every checksum stays so.

use std::net::IpAddr;

use fastpath::table::interface::InterfaceKind;

use super::frames::{REPAIR, TOKENS, converse, repair};
use super::{Seen, Target};
use crate::decode::{View, hex};
use crate::packet::{self, ACK, Packet, SYN};
use crate::plan::{Plan, Rule, Rules};
use crate::router::{Fate, Options, Router};

pub const TRANSLATE: Target = Target { name: "translate", run, seeds, tokens: TOKENS, longest: 6000, rounds: 3_000 };

const SENDERS: [&str; 3] = ["a", "b", "up"];

fn router() -> Router {
    let mut plan = Plan::translating();
    for name in ["a", "b"] {
        plan.at_mut(name).ingress = Rules::only(["10.0.0.0/24", "fd00::/64"].map(|net| Rule::default().from_net(net)));
    }
    Router::with(plan, Options { frames: 32, ring: 16, flows: 64, ..Options::default() })
}

fn run(input: &[u8]) -> Seen {
    let mut router = router();
    converse(input, |control, frame| {
        let from = SENDERS[usize::from(control & 7) % SENDERS.len()];
        let mut frame = frame.to_vec();
        if control & REPAIR != 0 && frame.len() >= 34 {
            frame[..6].copy_from_slice(&router.plan.at(from).mac);
            repair(&mut frame, false);
        }
        let fate = router.fate_of_frame(from, &frame);
        let (kind, detail) = match &fate {
            Fate::Dropped(reason) => (0, *reason as u8),
            Fate::Forwarded { on, frame: left } => {
                judge(&router.plan, from, &frame, on, left);
                (1, router.plan.index(on).0 as u8)
            }
            Fate::Answered(_) => (2, 0),
            Fate::Punted(_) | Fate::NotReceived => (3, 0),
        };
        (kind == 1, (kind << 3 | control & 7, detail))
    })
}

fn judge(plan: &Plan, from: &str, sent: &[u8], on: &str, left: &[u8]) {
    let said = || format!("{} from {from} left by {on} as {}", hex(sent), hex(left));
    let (before, after) = (View::of(sent), View::of(left));
    if let (Ok(before), Ok(after)) = (&before, &after) {
        assert!(!before.faults.is_empty() || after.faults.is_empty(), "{:?}: {}", after.faults, said());
    }
    let outside = &plan.at("up").outside;
    let is_outside = |address: Option<IpAddr>| address.is_some_and(|address| outside.contains(&address));
    match plan.at(on).kind {
        InterfaceKind::Uplink => {
            let source = after.ok().and_then(|view| view.source()).unwrap_or_else(|| panic!("no packet: {}", said()));
            assert!(outside.contains(&source), "{source} is no address of the node: {}", said());
        }
        InterfaceKind::Workload if from == "up" => {
            let to = before.ok().and_then(|view| view.destination()).unwrap_or_else(|| panic!("no packet: {}", said()));
            assert!(outside.contains(&to), "{to} is no address of the node: {}", said());
            let to = after.ok().and_then(|view| view.destination()).unwrap_or_else(|| panic!("no packet: {}", said()));
            assert!(plan.at(on).addresses.contains(&to), "{to} is not that of {on}: {}", said());
        }
        InterfaceKind::Host if from == "up" && before.is_ok_and(|view| is_outside(view.destination())) => {
            assert_eq!(sent[12..][..left.len() - 12], left[12..], "changed: {}", said());
        }
        InterfaceKind::Workload | InterfaceKind::Host => {}
    }
}

/// Makes a packet the answer to one from that port.
type Answer = fn(Packet, u16) -> Packet;

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for [a, far, outside] in [["10.0.0.1", "192.0.2.7", "192.0.2.254"], ["fd00::1", "2001:db8::7", "2001:db8::fe"]] {
        let talks: [(Packet, Answer); 3] = [
            (Packet::new(a, far).tcp(4000, 80, SYN).filled(60), |packet, port| packet.tcp(80, port, SYN | ACK)),
            (Packet::new(a, far).udp(4000, 53).filled(64), |packet, port| packet.udp(53, port).filled(9)),
            (Packet::new(a, far).echo_request(7, 1).filled(70), |packet, port| packet.echo_reply(port, 1)),
        ];
        for (packet, answer) in talks {
            // The port that it gets is that of a router with these keys.
            let mut router = router();
            let sent = router.fate("a", &packet).forwarded_frame("up");
            let flow = router.flows().iter().next().expect("just entered");
            let fastpath::flow::translation::Translated::Flow(translation) = flow.translated else {
                panic!("{flow:?} is not translated")
            };
            let back = answer(Packet::new(far, outside), translation.port);
            let error = Packet::new(far, outside).unreachable(&sent[14..]);
            let refusal = Packet::new(a, far).unreachable(&back.bytes());
            let frames = [("a", &packet), ("up", &back), ("up", &error), ("a", &refusal)];
            seeds.push(frames.iter().flat_map(|(from, packet)| said(&router, from, &packet.bytes())).collect());
            let pieces = (0..3).map(|number| packet.clone().may_fragment().fragment(number * 24, 24));
            seeds.push(pieces.flat_map(|piece| said(&router, "a", &piece)).collect());
        }
        let router = router();
        let strange = Packet::new(far, outside).udp(53, 25_000).filled(100);
        seeds.push(said(&router, "up", &strange.bytes()));
        seeds.push((0..3).flat_map(|number| said(&router, "up", &strange.fragment(number * 40, 40))).collect());
        seeds.push(said(&router, "a", &Packet::new(a, far).raw(50).filled(8).bytes()));
        seeds.push(said(&router, "a", &Packet::new(a, far).sctp(1, 2).bytes()));
        seeds.push(said(&router, "up", &Packet::new(far, a).tcp(1, 2, packet::SYN).bytes()));
    }
    seeds
}

/// One unit of a conversation.
fn said(router: &Router, from: &str, network: &[u8]) -> Vec<u8> {
    let frame = router.wrap(from, network);
    let sender = SENDERS.iter().position(|name| *name == from).expect("a sender") as u8;
    [&[sender | REPAIR], &(frame.len() as u16).to_be_bytes()[..], &frame].concat()
}
