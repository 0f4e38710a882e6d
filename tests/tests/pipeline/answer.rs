//! What the router answers itself: ARP and neighbour discovery for the gateway, and echo requests to it.

use fastpath::burst::DropReason;
use tests::decode::{Network, View};
use tests::packet::{self, Packet};
use tests::plan::{OUR_MAC, Plan};
use tests::router::Router;

const A_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const GATEWAY: &str = "169.254.1.1";
const GATEWAY6: &str = "fe80::ecee:eeff:feee:eeee";

fn arp_request(router: &Router, from: &str, sender: &str) -> Vec<u8> {
    let attachment = router.plan.at(from);
    let arp = packet::arp(1, attachment.peer_mac, sender.parse().unwrap(), [0; 6], GATEWAY.parse().unwrap());
    let mut link = attachment.link();
    link.destination = [0xff; 6];
    link.frame(&arp, 0x0806)
}

#[test]
fn arp_for_the_gateway_byte_by_byte() {
    let mut router = Router::new(Plan::small());
    let request = arp_request(&router, "a", "10.0.0.1");
    let view = router.fate_of_frame("a", &request).answered();
    assert_eq!((view.destination_mac, view.source_mac), (A_MAC, OUR_MAC));
    assert_eq!(
        view.network,
        Network::Arp {
            operation: 2,
            sender_mac: OUR_MAC,
            sender: GATEWAY.parse().unwrap(),
            target_mac: A_MAC,
            target: "10.0.0.1".parse().unwrap(),
        }
    );
}

#[test]
fn the_answer_to_a_padded_request_and_to_a_probe() {
    let mut router = Router::new(Plan::small());
    let mut padded = arp_request(&router, "a", "10.0.0.1");
    padded.resize(60, 0);
    assert_eq!(router.fate_of_frame("a", &padded).answered().destination_mac, A_MAC);
    // RFC 5227 §2.1.1: the sender has no address yet.
    let probe = arp_request(&router, "a", "0.0.0.0");
    let view = router.fate_of_frame("a", &probe).answered();
    assert!(matches!(view.network, Network::Arp { operation: 2, .. }), "{view}");
}

#[test]
fn an_answer_leaves_by_the_interface_it_came_from_with_its_tag() {
    let mut router = Router::small(|plan| plan.at_mut("host").tags = [9, 0]);
    let request = arp_request(&router, "host", "10.9.9.9");
    let view = router.fate_of_frame("host", &request).answered();
    assert_eq!(view.tags, [9]);
    assert_eq!(view.source_mac, router.plan.at("host").mac);
}

/// A neighbour solicitation for the gateway, as a stack sends it: to the group of the target.
fn solicitation(router: &Router, from: &str, source: &str) -> Vec<u8> {
    let attachment = router.plan.at(from);
    let packet = Packet::new(source, "ff02::1:ffee:eeee").solicitation(GATEWAY6.parse().unwrap(), attachment.peer_mac);
    let mut link = attachment.link();
    link.destination = [0x33, 0x33, 0xff, 0xee, 0xee, 0xee];
    packet.frame(&link)
}

#[test]
fn neighbour_solicitation_for_the_gateway_byte_by_byte() {
    let mut router = Router::new(Plan::small());
    for source in ["fd00::1", "fe80::1"] {
        let frame = solicitation(&router, "a", source);
        let view = router.fate_of_frame("a", &frame).answered();
        assert_eq!((view.destination_mac, view.source_mac, view.ttl()), (A_MAC, OUR_MAC, Some(255)));
        assert_eq!((view.source(), view.destination()), (GATEWAY6.parse().ok(), source.parse().ok()));
        // Router, solicited, override; the target; option 2 with our MAC address.
        assert_eq!(view.icmp(), Some((136, 0, [0xe0, 0, 0, 0])));
        let target: std::net::Ipv6Addr = GATEWAY6.parse().unwrap();
        assert_eq!(view.payload, [&target.octets()[..], &[2, 1], &OUR_MAC].concat());
    }
}

#[test]
fn duplicate_address_detection_is_answered_to_all_nodes() {
    let mut router = Router::new(Plan::small());
    let frame = solicitation(&router, "a", "::");
    let view = router.fate_of_frame("a", &frame).answered();
    assert_eq!(view.destination(), "ff02::1".parse().ok());
    assert_eq!(view.destination_mac, [0x33, 0x33, 0, 0, 0, 1]);
    assert_eq!(view.icmp(), Some((136, 0, [0xa0, 0, 0, 0])));
}

#[test]
fn the_gateway_answers_echo_requests() {
    let mut router = Router::new(Plan::small());
    for (source, gateway, reply) in [("10.0.0.1", GATEWAY, 0), ("fd00::1", GATEWAY6, 129), ("fe80::1", GATEWAY6, 129)] {
        for length in [0, 1, 56, 1400] {
            let request = Packet::new(source, gateway).echo_request(0x1234, 7).filled(length);
            let view = router.fate("a", &request).answered();
            assert_eq!((view.source(), view.destination()), (gateway.parse().ok(), source.parse().ok()));
            assert_eq!((view.destination_mac, view.source_mac), (A_MAC, OUR_MAC));
            assert_eq!(view.icmp(), Some((reply, 0, [0x12, 0x34, 0, 7])));
            let sent = request.bytes();
            assert_eq!(view.payload, sent[sent.len() - length..]);
        }
    }
    assert_eq!(router.answered(), 12);
}

#[test]
fn a_large_echo_request_is_answered_whole() {
    let mut router = Router::new(Plan::small());
    let request = Packet::new("10.0.0.1", GATEWAY).echo_request(1, 1).filled(8000);
    assert_eq!(router.fate("a", &request).answered().payload.len(), 8000);
}

#[test]
fn an_echo_request_with_options_is_answered() {
    let mut router = Router::new(Plan::small());
    let request = Packet::new("10.0.0.1", GATEWAY).echo_request(1, 1).options(&[7, 7, 4, 0, 0, 0, 0]).filled(8);
    router.fate("a", &request).answered();
    let request = Packet::new("fd00::1", GATEWAY6).echo_request(1, 1).extension(60, &[0; 6]).filled(8);
    router.fate("a", &request).answered();
}

#[test]
fn nobody_else_s_gateway_is_answered_for() {
    let mut router = Router::new(Plan::small());
    // The uplink's own neighbours have a gateway of their own.
    let frame = router.frame("up", &Packet::new("192.0.2.1", GATEWAY).echo_request(1, 1));
    router.fate_of_frame("up", &frame).dropped(DropReason::DestinationMartian);
    let first = Packet::new("10.0.0.1", GATEWAY).echo_request(1, 1).filled(100);
    let frame = router.wrap("a", &first.fragment(0, 48));
    router.fate_of_frame("a", &frame).dropped(DropReason::DestinationMartian);
}

#[test]
fn answers_are_limited_and_come_back_with_time() {
    let mut router = Router::new(Plan::small());
    let answered = |router: &mut Router| {
        for sequence in 0..200 {
            let frame = router.frame("a", &Packet::new("10.0.0.1", GATEWAY).echo_request(1, sequence));
            router.send("a", &frame);
        }
        let before = router.answered();
        (0..4).for_each(|_| router.breathe_unheard());
        router.answered() - before
    };
    assert_eq!(answered(&mut router), 100);
    assert_eq!(answered(&mut router), 0);
    router.advance(std::time::Duration::from_millis(10));
    assert_eq!(answered(&mut router), 10);
    router.advance(std::time::Duration::from_secs(10));
    assert_eq!(answered(&mut router), 100);
    assert_eq!(router.dropped(DropReason::AnswerRateLimited), 800 - 210);
    router.breathe();
    assert!(router.received("a").iter().all(|frame| View::of(frame).is_ok()));
}
