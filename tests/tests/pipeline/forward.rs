//! Good packets leave as they should: the neighbour's MAC address, one TTL less, right checksums, the tags of the
//! interface, and not a byte more than the packet.

use fastpath::burst::DropReason;
use tests::decode::{Network, Transport, View};
use tests::packet::{self, ACK, Packet, SYN, sum};
use tests::plan::{OUR_MAC, Plan};
use tests::router::{Fate, Options, Router};

const A_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const B_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// A packet and the same one as it must leave: everything as it was but for MAC addresses, TTL and header checksum.
fn check_unchanged(frame: &[u8], sent: &[u8]) {
    let l3 = frame.len() - sent.len();
    let mut expected = sent.to_vec();
    if sent[0] >> 4 == 4 {
        expected[8] -= 1;
        packet::repair_ipv4(&mut expected);
    } else {
        expected[7] -= 1;
    }
    assert_eq!(frame[l3..], expected);
}

#[test]
fn between_endpoints_in_both_families() {
    let mut router = Router::new(Plan::small());
    for (a, b) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
        for packet in [
            Packet::new(a, b).tcp(4000, 80, SYN),
            Packet::new(a, b).udp(4000, 53).filled(1),
            Packet::new(a, b).udp(4001, 53).filled(1400).ttl(2),
            Packet::new(a, b).sctp(4000, 80).filled(20),
            Packet::new(a, b).echo_request(7, 1).filled(56).ttl(255),
            Packet::new(a, b).raw(47).filled(8),
            Packet::new(a, b).raw(59),
        ] {
            let sent = packet.bytes();
            let frame = router.fate("a", &packet).forwarded_frame("b");
            check_unchanged(&frame, &sent);
            assert_eq!((&frame[..6], &frame[6..12]), (&B_MAC[..], &OUR_MAC[..]));
            assert_eq!(frame.len(), 14 + sent.len());
        }
    }
}

#[test]
fn to_the_uplink_and_back() {
    let mut router = Router::new(Plan::small());
    let up = router.plan.at("up").clone();
    for (a, far) in [("10.0.0.1", "192.0.2.1"), ("fd00::1", "2001:db8::1")] {
        let view = router.fate("a", &Packet::new(a, far).tcp(4000, 80, SYN)).forwarded("up");
        assert_eq!((view.destination_mac, view.source_mac), (up.peer_mac, up.mac));
        let view = router.fate("up", &Packet::new(far, a).tcp(80, 4000, SYN | ACK).ttl(50)).forwarded("a");
        assert_eq!((view.destination_mac, view.source_mac, view.ttl()), (A_MAC, OUR_MAC, Some(49)));
    }
}

#[test]
fn host_and_endpoint_talk_when_the_host_begins_or_the_setting_allows() {
    let mut router = Router::new(Plan::small());
    let request = Packet::new("10.9.9.9", "10.0.0.1").tcp(4000, 80, SYN);
    router.fate("host", &request).forwarded("a");
    router.fate("a", &Packet::new("10.0.0.1", "10.9.9.9").tcp(80, 4000, SYN | ACK)).forwarded("host");
    let own = Packet::new("10.0.0.1", "10.9.9.9").tcp(4001, 22, SYN);
    router.fate("a", &own).dropped(DropReason::EndpointToHost);
    router.update(|plan| plan.endpoint_to_host = true);
    router.fate("a", &own).forwarded("host");
}

#[test]
fn the_most_specific_route_wins() {
    let mut router = Router::small(|plan| {
        let up2 = tests::plan::Attachment::shared("up2", 6, fastpath::table::interface::InterfaceKind::Uplink);
        plan.attachments.push(up2);
        plan.routes.push((tests::plan::Net::new("192.0.2.128/25"), tests::plan::Way::Via("up2".to_string())));
        plan.routes.push((tests::plan::Net::new("192.0.2.200"), tests::plan::Way::Blackhole));
    });
    router.fate("a", &Packet::new("10.0.0.1", "192.0.2.127")).forwarded("up");
    router.fate("a", &Packet::new("10.0.0.1", "192.0.2.128")).forwarded("up2");
    router.fate("a", &Packet::new("10.0.0.1", "192.0.2.200")).dropped(DropReason::Blackhole);
    router.fate("a", &Packet::new("10.0.0.1", "192.0.2.201")).forwarded("up2");
}

#[test]
fn ttl_wraps_no_checksum() {
    // All TTLs, and identifications that bring the header checksum to both of its edges.
    let mut router = Router::new(Plan::small());
    for ttl in 2..=255u8 {
        let packet = Packet::new("10.0.0.1", "10.0.0.2").udp(4000, 53).ttl(ttl);
        let mut id = 0;
        for identification in 0..=0xffffu32 {
            let bytes = packet.clone().identification(identification).bytes();
            if matches!(u16::from_be_bytes([bytes[10], bytes[11]]), 0 | 0xfeff..=0xffff) {
                id = identification;
                break;
            }
        }
        let view = router.fate("a", &packet.identification(id)).forwarded("b");
        assert_eq!(view.ttl(), Some(ttl - 1));
    }
}

#[test]
fn padding_is_cut_and_options_are_kept() {
    let mut router = Router::new(Plan::small());
    let short = Packet::new("10.0.0.1", "10.0.0.2").udp(4000, 53);
    let mut frame = router.frame("a", &short);
    frame.resize(60, 0xaa);
    let out = router.fate_of_frame("a", &frame).forwarded_frame("b");
    assert_eq!(out.len(), 14 + 28);
    View::sound(&out);
    // Record route, which shifts the transport header.
    let view = router.fate("a", &short.options(&[7, 7, 4, 0, 0, 0, 0])).forwarded("b");
    assert_eq!(view.transport, Transport::Udp { source: 4000, destination: 53 });
    let view = router
        .fate(
            "a",
            &Packet::new("fd00::1", "fd00::2").udp(5, 6).extension(0, &[1, 4, 0, 0, 0, 0]).extension(60, &[0; 14]),
        )
        .forwarded("b");
    assert_eq!(view.transport, Transport::Udp { source: 5, destination: 6 });
    // An atomic fragment is a whole packet. RFC 6946.
    let atomic = Packet::new("fd00::1", "fd00::2").udp(5, 7).filled(8).piece(
        &Packet::new("fd00::1", "fd00::2").udp(5, 7).filled(8).bytes()[40..],
        0,
        false,
    );
    router.fate_of_bytes("a", &atomic).forwarded("b");
}

#[test]
fn eight_extension_headers_pass_and_types_that_are_none_are_opaque() {
    let mut router = Router::new(Plan::small());
    let udp = || Packet::new("fd00::1", "fd00::2").udp(5, 6);
    router.fate("a", &(0..8).fold(udp(), |packet, _| packet.extension(60, &[0; 6]))).forwarded_frame("b");
    router.fate("a", &udp().extension(60, &[0; 254])).forwarded_frame("b");
    router.fate("a", &udp().extension(51, &[0; 10])).forwarded_frame("b");
    // Segment routing (type 4) is no type 0.
    router.fate("a", &udp().extension(43, &[4, 0, 0, 0, 0, 0])).forwarded_frame("b");
    router.fate("a", &udp().raw(253).filled(3)).forwarded_frame("b");
}

#[test]
fn tags_are_taken_off_and_put_on() {
    for (tags, expected) in [([7, 0], vec![7]), ([100, 7], vec![100, 7])] {
        let mut router = Router::small(|plan| plan.at_mut("up").tags = tags);
        for (a, far) in [("10.0.0.1", "192.0.2.1"), ("fd00::1", "2001:db8::1")] {
            let packet = Packet::new(a, far).udp(4000, 53).filled(100);
            let frame = router.fate("a", &packet).forwarded_frame("up");
            let view = View::sound(&frame);
            assert_eq!(view.tags, expected);
            check_unchanged(&frame, &packet.bytes());
            let reply = Packet::new(far, a).udp(53, 4000).filled(100);
            let frame = router.fate("up", &reply).forwarded_frame("a");
            assert_eq!(View::sound(&frame).tags, Vec::<u16>::new());
            check_unchanged(&frame, &reply.bytes());
        }
    }
}

#[test]
fn a_service_tag_is_outermost_of_two() {
    let mut router = Router::small(|plan| plan.at_mut("up").tags = [100, 7]);
    let frame = router.fate("a", &Packet::new("10.0.0.1", "192.0.2.1")).forwarded_frame("up");
    assert_eq!(frame[12..20], [0x88, 0xa8, 0, 100, 0x81, 0, 0, 7]);
}

#[test]
fn a_priority_tag_counts_as_none() {
    let mut router = Router::new(Plan::small());
    let mut frame = router.frame("a", &Packet::new("10.0.0.1", "10.0.0.2"));
    frame.splice(12..12, [0x81, 0, 0xe0, 0]);
    let view = router.fate_of_frame("a", &frame).forwarded("b");
    assert_eq!(view.tags, Vec::<u16>::new());
}

#[test]
fn a_tag_is_added_to_a_packet_that_fills_its_frame() {
    let plan = {
        let mut plan = Plan::small();
        plan.at_mut("up").tags = [100, 7];
        plan.at_mut("up").mtu = 9000;
        plan
    };
    // Frames of 512 bytes have room for 256: with two tags more the packet does not fit any more.
    let mut router = Router::with(plan, Options { frame_size: 512, ..Options::default() });
    let fits = Packet::new("10.0.0.1", "192.0.2.1").udp(1, 2).filled(256 - 14 - 8 - 28);
    router.fate("a", &fits).forwarded("up");
    let full = Packet::new("10.0.0.1", "192.0.2.1").udp(1, 2).filled(256 - 14 - 28);
    router.fate("a", &full).dropped(DropReason::TooBig);
}

#[test]
fn partial_checksums_are_completed() {
    let mut router = Router::new(Plan::small());
    for (a, b) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
        for length in [0, 1, 2, 3, 20, 1400, 1401] {
            for packet in [Packet::new(a, b).tcp(4000, 80, ACK), Packet::new(a, b).udp(4000, 53)] {
                let packet = packet.filled(length);
                let completed = router.fate("a", &packet.clone().partial_checksum()).forwarded_frame("b");
                View::sound(&completed);
                // A checksum that was complete already stays what it is.
                assert_eq!(router.fate("a", &packet).forwarded_frame("b"), completed);
            }
        }
    }
}

#[test]
fn partial_checksums_of_padded_and_tagged_packets_too() {
    let mut router = Router::small(|plan| plan.at_mut("up").tags = [100, 7]);
    let packet = Packet::new("10.0.0.1", "192.0.2.1").tcp(4000, 80, SYN).partial_checksum();
    let mut frame = router.frame("a", &packet);
    frame.resize(60, 0xaa);
    router.fate_of_frame("a", &frame).forwarded("up");
}

#[test]
fn a_udp_checksum_that_comes_out_as_zero_is_sent_as_all_ones() {
    let mut router = Router::new(Plan::small());
    for (a, b) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
        // The word that brings the sum to all ones, whose complement is zero.
        let zero = Packet::new(a, b).udp(4000, 53).payload(&[0, 0]);
        let bytes = zero.bytes();
        let at = bytes.len() - 4;
        let word = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let packet = zero.payload(&word.to_be_bytes()).partial_checksum();
        let frame = router.fate("a", &packet).forwarded_frame("b");
        assert_eq!(frame[frame.len() - 4..frame.len() - 2], [0xff, 0xff]);
        View::sound(&frame);
    }
}

#[test]
fn a_udp_packet_without_checksum_stays_without() {
    let mut router = Router::new(Plan::small());
    let packet = Packet::new("10.0.0.1", "10.0.0.2").udp(4000, 53).filled(9).checksum(0);
    let frame = router.fate("a", &packet).forwarded_frame("b");
    assert_eq!(frame[14 + 26..14 + 28], [0, 0]);
}

#[test]
fn wrong_checksums_from_the_uplink_are_not_repaired() {
    let mut router = Router::new(Plan::small());
    // What looks partial on a wire is damage: only a veth leaves work to be done.
    let packet = Packet::new("192.0.2.1", "10.0.0.1").udp(4000, 53).filled(9).partial_checksum();
    let frame = router.fate("up", &packet).forwarded_frame("a");
    assert_eq!(frame[14 + 26..14 + 28], packet.bytes()[26..28]);
}

#[test]
fn jumbo_packets_go_through_chains_of_frames() {
    for frame_size in [512, 2048, 4096] {
        let mut plan = Plan::small();
        for attachment in &mut plan.attachments {
            attachment.mtu = 9000;
        }
        let frames = 64;
        let mut router = Router::with(plan, Options { frame_size, frames, ..Options::default() });
        for (a, b, header) in [("10.0.0.1", "10.0.0.2", 40), ("fd00::1", "fd00::2", 60)] {
            for length in [9000 - header, 4001, 2500] {
                let packet = Packet::new(a, b).tcp(4000, 80, ACK).filled(length);
                let longest = (frame_size - 256) * fastpath::io::umem::LONGEST_CHAIN;
                if packet.bytes().len() + 14 > longest {
                    assert_eq!(router.fate("a", &packet), Fate::NotReceived);
                    continue;
                }
                let frame = router.fate("a", &packet.clone().partial_checksum()).forwarded_frame("b");
                check_unchanged(&frame, &packet.bytes());
                View::sound(&frame);
            }
        }
    }
}

#[test]
fn a_burst_from_everybody_arrives_in_order() {
    let mut router = Router::new(Plan::small());
    let number = |bytes: &[u8]| u16::from_be_bytes([bytes[bytes.len() - 2], bytes[bytes.len() - 1]]);
    for sequence in 0..200u16 {
        for (from, source) in [("a", "10.0.0.1"), ("c", "10.0.0.3")] {
            let packet = Packet::new(source, "10.0.0.2").udp(4000, 53).payload(&sequence.to_be_bytes());
            let frame = router.frame(from, &packet);
            router.send(from, &frame);
        }
    }
    while router.breathe_one(0) > 0 {}
    let received = router.received("b");
    assert_eq!(received.len(), 400);
    for source in ["10.0.0.1", "10.0.0.3"] {
        let own = received.iter().filter(|frame| View::sound(frame).source() == Some(source.parse().unwrap()));
        assert!(own.map(|frame| number(frame)).eq(0..200), "packets of one flow overtook each other");
    }
}

#[test]
fn an_unresolved_neighbour_is_for_control_to_find() {
    let mut router = Router::new(Plan::small());
    for (source, destination) in [("10.0.0.1", "10.77.0.1"), ("fd00::1", "fd77::1")] {
        let packet = Packet::new(source, destination);
        let frame = router.frame("a", &packet);
        // The whole frame as it came, so that control can give it back.
        assert_eq!(router.fate_of_frame("a", &frame), Fate::Punted(frame.clone()));
        router.update(|plan| {
            for (net, way) in &mut plan.routes {
                if net.contains(packet.destination()) {
                    *way = tests::plan::Way::Via("up".to_string());
                }
            }
        });
        let fate = router.observe(|router| {
            router.inject("a", &frame);
            router.breathe();
        });
        let view = fate.forwarded("up");
        assert!(matches!(view.network, Network::Ip { ttl: 63, .. }), "{view}");
    }
}

#[test]
fn the_oracle_notices_a_wrong_checksum() {
    // The positive control of everything above: the same decoder, and a packet that is wrong.
    for packet in
        [Packet::new("10.0.0.1", "10.0.0.2").tcp(1, 2, ACK), Packet::new("fd00::1", "fd00::2").udp(1, 2).filled(3)]
    {
        let link = Plan::small().at("a").link();
        assert_eq!(View::of(&packet.frame(&link)).unwrap().faults, Vec::<String>::new());
        assert!(!View::of(&packet.partial_checksum().frame(&link)).unwrap().faults.is_empty());
    }
    let mut bytes = Packet::new("10.0.0.1", "10.0.0.2").bytes();
    assert_eq!(sum(&bytes[..20]), 0);
    bytes[8] -= 1;
    let frame = Plan::small().at("a").link().frame(&bytes, 0x0800);
    assert_eq!(View::of(&frame).unwrap().faults.len(), 1);
}
