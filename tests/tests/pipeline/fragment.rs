//! Fragments share the fate of their first: its verdict, its way, its flow; and none may overwrite what was judged.

use fastpath::burst::DropReason;
use tests::decode::Network;
use tests::packet::{self, Packet};
use tests::plan::{Plan, Rule, Rules};
use tests::router::{Fate, Router};

const FAMILIES: [(&str, &str); 2] = [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")];

fn whole(a: &str, b: &str, port: u16) -> Packet {
    Packet::new(a, b).udp(4000, port).filled(192).identification(0x0102_0304)
}

/// The datagram's 200 bytes in five fragments.
fn pieces(packet: &Packet) -> Vec<Vec<u8>> {
    (0..5).map(|number| packet.fragment(number * 40, 40)).collect()
}

#[test]
fn all_fragments_of_an_allowed_datagram_pass_unchanged() {
    for (a, b) in FAMILIES {
        let mut router = Router::small(|plan| {
            plan.at_mut("b").ingress = Rules::only([Rule::allow(packet::UDP).to_port(53)]);
        });
        let sent = pieces(&whole(a, b, 53));
        let mut data = Vec::new();
        for piece in &sent {
            let frame = router.fate_of_bytes("a", piece).forwarded_frame("b");
            let header = if piece[0] >> 4 == 4 { 20 } else { 48 };
            data.extend_from_slice(&frame[14 + header..]);
        }
        let bytes = whole(a, b, 53).bytes();
        let header = if bytes[0] >> 4 == 4 { 20 } else { 40 };
        assert_eq!(data, bytes[header..], "what the receiver puts together");
    }
}

#[test]
fn any_order_after_the_first() {
    for (a, b) in FAMILIES {
        for order in [[4, 3, 2, 1], [2, 4, 1, 3], [1, 1, 2, 2]] {
            let mut router = Router::new(Plan::small());
            let sent = pieces(&whole(a, b, 53));
            router.fate_of_bytes("a", &sent[0]).forwarded_frame("b");
            for number in order {
                router.fate_of_bytes("a", &sent[number]).forwarded_frame("b");
            }
        }
    }
}

#[test]
fn all_fragments_of_one_burst_share_a_fate() {
    for (a, b) in FAMILIES {
        for (port, arrive) in [(53, 5), (54, 0)] {
            let mut router = Router::small(|plan| {
                plan.at_mut("b").ingress = Rules::only([Rule::allow(packet::UDP).to_port(53)]);
            });
            for piece in pieces(&whole(a, b, port)) {
                let frame = router.wrap("a", &piece);
                router.send("a", &frame);
            }
            router.breathe();
            assert_eq!(router.received("b").len(), arrive, "{a} to port {port}");
            let lost = router.dropped(DropReason::PolicyIngress) + router.dropped(DropReason::FragmentWithoutFirst);
            assert_eq!(lost, 5 - arrive as u64);
        }
    }
}

#[test]
fn before_the_first_nothing_passes() {
    for (a, b) in FAMILIES {
        let mut router = Router::new(Plan::small());
        let sent = pieces(&whole(a, b, 53));
        router.fate_of_bytes("a", &sent[4]).dropped(DropReason::FragmentWithoutFirst);
        router.fate_of_bytes("a", &sent[0]).forwarded_frame("b");
        router.fate_of_bytes("a", &sent[4]).forwarded_frame("b");
    }
}

#[test]
fn fragments_of_a_denied_datagram_are_dropped_with_it() {
    for (a, b) in FAMILIES {
        let mut router = Router::small(|plan| {
            plan.at_mut("b").ingress = Rules::only([Rule::allow(packet::UDP).to_port(53)]);
        });
        let sent = pieces(&whole(a, b, 54));
        router.fate_of_bytes("a", &sent[0]).dropped(DropReason::PolicyIngress);
        for piece in &sent[1..] {
            router.fate_of_bytes("a", piece).dropped(DropReason::FragmentWithoutFirst);
        }
    }
}

#[test]
fn a_fragment_belongs_to_its_own_datagram_only() {
    for (a, b) in FAMILIES {
        let mut router = Router::new(Plan::small());
        let first = whole(a, b, 53);
        router.fate_of_bytes("a", &first.fragment(0, 40)).forwarded_frame("b");
        let other = first.clone().identification(0x0102_0305);
        router.fate_of_bytes("a", &other.fragment(40, 40)).dropped(DropReason::FragmentWithoutFirst);
        if a.contains(':') {
            // All 32 bits of the identification count.
            let other = first.clone().identification(0x0103_0304);
            router.fate_of_bytes("a", &other.fragment(40, 40)).dropped(DropReason::FragmentWithoutFirst);
        } else {
            // Another protocol is another datagram. RFC 791 §2.3.
            let other = first.clone().raw(packet::TCP).filled(192);
            router.fate_of_bytes("a", &other.fragment(40, 40)).dropped(DropReason::FragmentWithoutFirst);
        }
        let c = if a.contains(':') { "fd00::3" } else { "10.0.0.3" };
        let foreign = Packet::new(c, b).udp(4000, 53).filled(192).identification(0x0102_0304);
        router.fate_of_bytes("c", &foreign.fragment(40, 40)).dropped(DropReason::FragmentWithoutFirst);
    }
}

#[test]
fn nothing_overwrites_the_header_that_was_judged() {
    for (a, b) in FAMILIES {
        let mut router = Router::new(Plan::small());
        let packet = whole(a, b, 53);
        router.fate_of_bytes("a", &packet.fragment(0, 40)).forwarded_frame("b");
        for offset in [8, 16, 32] {
            router.fate_of_bytes("a", &packet.piece(&[0; 64], offset, true)).dropped(DropReason::FragmentMalformed);
        }
        router.fate_of_bytes("a", &packet.piece(&[0; 64], 40, true)).forwarded_frame("b");
    }
}

#[test]
fn nothing_overwrites_a_header_behind_destination_options() {
    // The fragmentable part begins with destination options; the UDP header stands behind them. RFC 8200 §4.5.
    let mut router = Router::new(Plan::small());
    let udp = Packet::new("fd00::1", "fd00::2").udp(4000, 53).bytes()[40..].to_vec();
    let options = [packet::UDP, 0, 1, 4, 0, 0, 0, 0];
    let frame = Packet::new("fd00::1", "fd00::2").raw(packet::DESTINATION_OPTIONS).identification(9);
    let first = frame.piece(&[&options[..], &udp].concat(), 0, true);
    router.fate_of_bytes("a", &first).forwarded_frame("b");
    let over = frame.piece(&[0; 16], 8, false);
    router.fate_of_bytes("a", &over).dropped(DropReason::FragmentMalformed);
    let behind = frame.piece(&[0; 16], 16, false);
    router.fate_of_bytes("a", &behind).forwarded_frame("b");
}

#[test]
fn a_second_first_fragment_does_not_open_a_way_for_a_denied_one() {
    for (a, b) in FAMILIES {
        let mut router = Router::small(|plan| {
            plan.at_mut("b").ingress = Rules::only([Rule::allow(packet::UDP).to_port(53)]);
        });
        router.fate_of_bytes("a", &whole(a, b, 53).fragment(0, 40)).forwarded_frame("b");
        router.fate_of_bytes("a", &whole(a, b, 54).fragment(0, 40)).dropped(DropReason::PolicyIngress);
    }
}

#[test]
fn fragments_of_an_open_flow_and_of_its_replies_pass() {
    for (a, b) in FAMILIES {
        let mut router = Router::small(|plan| plan.at_mut("a").ingress = Rules::only([]));
        router.fate("a", &Packet::new(a, b).udp(4000, 53)).forwarded("b");
        let reply = Packet::new(b, a).udp(53, 4000).filled(192).identification(77);
        for piece in pieces(&reply) {
            router.fate_of_bytes("b", &piece).forwarded_frame("a");
        }
    }
}

#[test]
fn the_memory_of_a_first_fragment_fades() {
    let mut router = Router::new(Plan::small());
    let sent = pieces(&whole("10.0.0.1", "10.0.0.2", 53));
    router.fate_of_bytes("a", &sent[0]).forwarded_frame("b");
    assert_eq!(router.flows().iter().count(), 2, "the flow and its fragments");
    let view = router.flows().iter().find(|view| view.state.name() == "fragment").expect("an entry for the fragments");
    assert_eq!(view.state.timeout(), 2);
}

#[test]
fn the_same_fragment_by_another_interface_is_refused() {
    let mut router = Router::new(Plan::small());
    let packet = Packet::new("192.0.2.1", "10.0.0.1").udp(53, 4000).filled(192).identification(5);
    router.fate_of_bytes("up", &packet.fragment(0, 40)).forwarded_frame("a");
    router.update(|plan| plan.at_mut("b").addresses.push("192.0.2.1".parse().unwrap()));
    router.fate_of_bytes("b", &packet.fragment(40, 80)).dropped(DropReason::FlowWrongInterface);
}

#[test]
fn a_flood_of_identifications_keeps_within_the_table() {
    let options = tests::router::Options { flows: 64, ..Default::default() };
    let mut router = Router::with(Plan::small(), options);
    for identification in 0..500 {
        let first = Packet::new("10.0.0.1", "10.0.0.2").udp(4000, 53).filled(100).identification(identification);
        match router.fate_of_bytes("a", &first.fragment(0, 40)) {
            Fate::Forwarded { .. } => {}
            fate => fate.dropped(DropReason::FlowTableFull),
        }
        assert!(router.flows().iter().count() <= 64);
    }
}

#[test]
fn a_fragment_keeps_its_place_in_the_datagram() {
    let mut router = Router::new(Plan::small());
    let packet = whole("10.0.0.1", "10.0.0.2", 53);
    for piece in pieces(&packet) {
        let view = router.fate_of_bytes("a", &piece).forwarded("b");
        assert!(matches!(view.network, Network::Ip { is_fragment: true, .. }), "{view}");
    }
}
