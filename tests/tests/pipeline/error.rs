//! ICMP errors: ours are right, and others' are let through only for an open flow and from the way it takes.

use fastpath::burst::DropReason;
use tests::decode::View;
use tests::packet::{self, ACK, Packet, SYN};
use tests::plan::{OUR_MAC, Plan, Rule, Rules};
use tests::router::Router;

const A_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// An answer that must be an error from the node about `sent`, quoting as much of it as may be.
#[track_caller]
fn check_error(view: &View, sent: &[u8], kind: u8, code: u8, rest: [u8; 4]) {
    let is_ipv4 = sent[0] >> 4 == 4;
    let (node, most, source) = if is_ipv4 {
        ("10.9.9.9", 576 - 28, View::sound(&frame_of(sent)).source())
    } else {
        ("fd09::9", 1280 - 48, View::sound(&frame_of(sent)).source())
    };
    assert_eq!((view.source(), view.destination()), (node.parse().ok(), source), "{view}");
    assert_eq!(view.icmp(), Some((kind, code, rest)), "{view}");
    assert_eq!((view.destination_mac, view.source_mac), (A_MAC, OUR_MAC));
    assert_eq!(view.payload, sent[..sent.len().min(most)], "the quote");
}

fn frame_of(network: &[u8]) -> Vec<u8> {
    let ethertype = if network[0] >> 4 == 4 { 0x0800 } else { 0x86dd };
    Plan::small().at("a").link().frame(network, ethertype)
}

#[test]
fn time_exceeded() {
    let mut router = Router::new(Plan::small());
    for ttl in [0, 1] {
        for length in [0, 4, 8, 1200, 1400] {
            let packet = Packet::new("10.0.0.1", "10.0.0.2").udp(4000, 33434).filled(length).ttl(ttl);
            check_error(&router.fate("a", &packet).answered(), &packet.bytes(), 11, 0, [0; 4]);
            let packet = Packet::new("fd00::1", "fd00::2").udp(4000, 33434).filled(length).ttl(ttl);
            check_error(&router.fate("a", &packet).answered(), &packet.bytes(), 3, 0, [0; 4]);
        }
    }
}

#[test]
fn no_route_and_no_neighbour() {
    let mut router = Router::new(Plan::small());
    for (a, destination, kind, code) in [
        ("10.0.0.1", "198.51.100.1", 3, 0),
        ("fd00::1", "2001:dba::1", 1, 0),
        ("10.0.0.1", "10.88.0.1", 3, 1),
        ("fd00::1", "fd88::1", 1, 3),
    ] {
        for packet in [Packet::new(a, destination).tcp(1, 2, SYN), Packet::new(a, destination).echo_request(1, 1)] {
            check_error(&router.fate("a", &packet).answered(), &packet.bytes(), kind, code, [0; 4]);
        }
    }
}

#[test]
fn too_big_names_the_mtu_that_fits() {
    let mut router = Router::small(|plan| plan.at_mut("up").mtu = 1400);
    let [high, low] = 1400u16.to_be_bytes();
    for (a, far, header, kind, code) in [("10.0.0.1", "192.0.2.1", 28, 3, 4), ("fd00::1", "2001:db8::1", 48, 2, 0)] {
        let fits = Packet::new(a, far).udp(1, 2).filled(1400 - header);
        router.fate("a", &fits).forwarded("up");
        let packet = Packet::new(a, far).udp(1, 3).filled(1401 - header);
        check_error(&router.fate("a", &packet).answered(), &packet.bytes(), kind, code, [0, 0, high, low]);
        // A packet of an open flow is no smaller.
        let packet = Packet::new(a, far).udp(1, 2).filled(1401 - header);
        check_error(&router.fate("a", &packet).answered(), &packet.bytes(), kind, code, [0, 0, high, low]);
    }
}

#[test]
fn a_chained_packet_is_quoted_from_its_start() {
    for frame_size in [2048, 4096] {
        let mut plan = Plan::small();
        plan.at_mut("up").mtu = 1400;
        let options = tests::router::Options { frame_size, ..Default::default() };
        let mut router = Router::with(plan, options);
        let packet = Packet::new("10.0.0.1", "192.0.2.1").tcp(1, 2, ACK).filled(8900);
        check_error(&router.fate("a", &packet).answered(), &packet.bytes(), 3, 4, [0, 0, 5, 0x78]);
        let packet = Packet::new("fd00::1", "2001:db8::1").tcp(1, 2, ACK).filled(8900);
        check_error(&router.fate("a", &packet).answered(), &packet.bytes(), 2, 0, [0, 0, 5, 0x78]);
    }
}

#[test]
fn without_addresses_of_the_node_the_gateway_answers() {
    let mut router = Router::small(|plan| plan.addresses = Default::default());
    let view = router.fate("a", &Packet::new("10.0.0.1", "198.51.100.1")).answered();
    assert_eq!(view.source(), "169.254.1.1".parse().ok());
    let view = router.fate("a", &Packet::new("fd00::1", "2001:dba::1")).answered();
    assert_eq!(view.source(), "fe80::ecee:eeff:feee:eeee".parse().ok());
}

#[test]
fn no_error_about_an_error_or_a_later_fragment() {
    let mut router = Router::new(Plan::small());
    let whole = Packet::new("10.0.0.1", "10.0.0.2").udp(1, 2).filled(100);
    router.fate_of_bytes("a", &whole.fragment(0, 40)).forwarded("b");
    router.fate_of_bytes("a", &whole.clone().ttl(1).fragment(40, 80)).dropped(DropReason::TtlExceeded);
    let first = Packet::new("10.0.0.1", "10.0.0.2").udp(4000, 53);
    router.fate("a", &first).forwarded("b");
    let error = Packet::new("10.0.0.2", "10.0.0.1").unreachable(&first.bytes()).ttl(1);
    router.fate("b", &error).dropped(DropReason::TtlExceeded);
    // A first fragment may be answered: it has ports.
    let view = router.fate_of_bytes("a", &whole.ttl(1).identification(9).fragment(0, 40)).answered();
    assert_eq!(view.icmp().map(|(kind, code, _)| (kind, code)), Some((11, 0)));
}

/// A flow a → b of each kind, what it quotes, and the other end's error about it.
fn conversations() -> Vec<(Packet, Packet)> {
    let mut found = Vec::new();
    for (a, b) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
        for packet in [
            Packet::new(a, b).tcp(4000, 80, SYN),
            Packet::new(a, b).udp(4000, 53).filled(8),
            Packet::new(a, b).sctp(4000, 80),
            Packet::new(a, b).echo_request(7, 1),
            Packet::new(a, b).raw(47).filled(8),
        ] {
            let error = Packet::new(b, a).unreachable(&packet.bytes());
            found.push((packet, error));
        }
    }
    found
}

#[test]
fn an_error_about_an_open_flow_passes_whatever_policy_says_of_icmp() {
    for (packet, error) in conversations() {
        let mut router = Router::small(|plan| {
            plan.at_mut("a").ingress = Rules::only([]);
            plan.at_mut("b").egress = Rules::only([]);
        });
        router.fate("b", &error).dropped(DropReason::IcmpErrorUnmatched);
        router.fate("a", &packet).forwarded("b");
        let frame = router.fate("b", &error).forwarded_frame("a");
        View::sound(&frame);
        // The quote is not ours to change.
        let sent = error.bytes();
        let header = if sent[0] >> 4 == 4 { 20 } else { 40 };
        assert_eq!(frame[14 + header..], sent[header..]);
    }
}

#[test]
fn an_error_about_a_reply_travels_the_flow_s_own_way() {
    for (a, b) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
        let mut router = Router::small(|plan| {
            plan.at_mut("b").ingress = Rules::only([Rule::allow(packet::UDP)]);
            plan.at_mut("a").ingress = Rules::only([]);
        });
        router.fate("a", &Packet::new(a, b).udp(4000, 53)).forwarded("b");
        let reply = Packet::new(b, a).udp(53, 4000);
        router.fate("b", &reply).forwarded("a");
        router.fate("a", &Packet::new(a, b).unreachable(&reply.bytes())).forwarded("b");
    }
}

#[test]
fn a_router_on_the_way_may_report_what_does_not_fit() {
    let mut router = Router::small(|plan| plan.at_mut("a").ingress = Rules::only([]));
    for (a, far, router_far) in [("10.0.0.1", "192.0.2.1", "203.0.113.1"), ("fd00::1", "2001:db8::1", "2001:dbf::1")] {
        let packet = Packet::new(a, far).tcp(4000, 80, ACK).filled(1400);
        router.fate("a", &packet).forwarded("up");
        // Eight bytes of the transport header are all that must be quoted. RFC 792.
        let header = if packet.source().is_ipv4() { 20 } else { 40 };
        let error = Packet::new(router_far, a).too_big(1280, &packet.bytes()[..header + 8]);
        router.fate("up", &error).forwarded("a");
    }
}

#[test]
fn an_error_from_an_endpoint_that_is_no_part_of_the_flow_is_dropped() {
    // c can guess a's and b's addresses and ports, and would reset or shrink their connections.
    for (packet, _) in conversations() {
        let mut router = Router::new(Plan::small());
        router.fate("a", &packet).forwarded("b");
        let c = if packet.source().is_ipv4() { "10.0.0.3" } else { "fd00::3" };
        let a = packet.source();
        let forged = Packet::new(c.parse::<std::net::IpAddr>().unwrap(), a).unreachable(&packet.bytes());
        router.fate("c", &forged).dropped(DropReason::IcmpErrorUnmatched);
        let outside = if a.is_ipv4() { "192.0.2.1" } else { "2001:db8::1" };
        let forged = Packet::new(outside.parse::<std::net::IpAddr>().unwrap(), a).unreachable(&packet.bytes());
        router.fate("up", &forged).dropped(DropReason::IcmpErrorUnmatched);
    }
}

#[test]
fn a_redirect_from_an_endpoint_never_passes() {
    let mut router = Router::new(Plan::small());
    let packet = Packet::new("10.0.0.1", "10.0.0.2").udp(4000, 53);
    router.fate("a", &packet).forwarded("b");
    let redirect = Packet::new("10.0.0.2", "10.0.0.1").icmp(5, 1, [10, 0, 0, 3]).payload(&packet.bytes());
    router.fate("b", &redirect).dropped(DropReason::RouterMessage);
}

#[test]
fn other_icmp_is_judged_by_policy() {
    let mut router = Router::small(|plan| {
        let ping = Rule { icmp: Some((8, None)), ..Rule::allow(packet::ICMP) };
        plan.at_mut("b").ingress = Rules::only([ping]);
    });
    router.fate("a", &Packet::new("10.0.0.1", "10.0.0.2").echo_request(1, 1)).forwarded("b");
    router.fate("b", &Packet::new("10.0.0.2", "10.0.0.1").echo_reply(1, 1)).forwarded("a");
    // A reply that nobody asked for, and a timestamp request, are not pings.
    router.fate("a", &Packet::new("10.0.0.1", "10.0.0.2").echo_reply(2, 1)).dropped(DropReason::PolicyIngress);
    router.fate("a", &Packet::new("10.0.0.1", "10.0.0.2").icmp(13, 0, [0; 4])).dropped(DropReason::PolicyIngress);
}
