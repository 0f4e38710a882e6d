//! Another source for what leaves the node: answers, errors and fragments find back, nothing leaves with the inner address,
//! and what is for the host comes to the host.

use std::collections::HashMap;
use std::net::IpAddr;

use fastpath::burst::DropReason;
use fastpath::flow::tcp_state::State;
use fastpath::table::translation::Ports;
use tests::decode::{Transport, View};
use tests::packet::{self, ACK, Packet, RST, SYN, ToAddress};
use tests::plan::{HostLists, Plan, Rule, Rules};
use tests::random::Random;
use tests::router::{Options, Router};

/// A workload, its neighbour, somebody outside, and the host there.
const FAMILIES: [[&str; 4]; 2] =
    [["10.0.0.1", "10.0.0.2", "192.0.2.7", "192.0.2.254"], ["fd00::1", "fd00::2", "2001:db8::7", "2001:db8::fe"]];

/// What can be told apart by a port or identifier: a packet with it at its source, and the answer to a packet like that.
type Talk = (fn(Packet, u16) -> Packet, fn(Packet, u16) -> Packet);
const TALKS: [Talk; 3] = [
    (|packet, port| packet.tcp(port, 80, SYN), |packet, port| packet.tcp(80, port, SYN | ACK)),
    (|packet, port| packet.udp(port, 53).filled(33), |packet, port| packet.udp(53, port).filled(7)),
    (|packet, port| packet.echo_request(port, 1).filled(8), |packet, port| packet.echo_reply(port, 1).filled(8)),
];

fn router() -> Router {
    Router::new(Plan::translating())
}

/// The port or identifier at the end that is the workload's.
#[track_caller]
fn inner_port(view: &View, is_source: bool) -> u16 {
    match view.transport {
        Transport::Tcp { source, destination, .. } | Transport::Udp { source, destination } => {
            if is_source {
                source
            } else {
                destination
            }
        }
        Transport::Icmp { rest, .. } => u16::from_be_bytes([rest[0], rest[1]]),
        Transport::None => panic!("{view} has no ports"),
    }
}

/// It left with another source. Returns the port.
#[track_caller]
fn check_outside(view: &View, outside: &str, far: &str) -> u16 {
    assert_eq!((view.source(), view.destination()), (Some(outside.to_address()), Some(far.to_address())), "{view}");
    assert_eq!(view.ttl(), Some(63));
    let port = inner_port(view, true);
    assert!((20_000..=29_999).contains(&port), "{view}");
    port
}

#[track_caller]
fn check_inside(view: &View, far: &str, workload: &str, port: u16) {
    assert_eq!((view.source(), view.destination()), (Some(far.to_address()), Some(workload.to_address())), "{view}");
    assert_eq!((view.ttl(), inner_port(view, false)), (Some(63), port), "{view}");
}

#[test]
fn out_and_back() {
    for [a, _, far, outside] in FAMILIES {
        for (ask, answer) in TALKS {
            let mut router = router();
            let first = router.fate("a", &ask(Packet::new(a, far), 4000)).forwarded("up");
            let port = check_outside(&first, outside, far);
            // Again and again, by what was recorded.
            for _ in 0..3 {
                let back = router.fate("up", &answer(Packet::new(far, outside), port)).forwarded("a");
                check_inside(&back, far, a, 4000);
                let again = router.fate("a", &ask(Packet::new(a, far), 4000)).forwarded("up");
                assert_eq!(check_outside(&again, outside, far), port);
            }
        }
    }
}

#[test]
fn checksums_that_a_veth_leaves_to_others_and_one_that_is_not_there() {
    for [a, _, far, outside] in FAMILIES {
        for (ask, _) in [TALKS[0], TALKS[1]] {
            for length in [0, 1, 2, 700] {
                let packet = ask(Packet::new(a, far), 4001).filled(length).partial_checksum();
                check_outside(&router().fate("a", &packet).forwarded("up"), outside, far);
            }
        }
    }
    let without = Packet::new("10.0.0.1", "192.0.2.7").udp(1, 2).filled(9).checksum(0);
    let frame = router().fate("a", &without).forwarded_frame("up");
    assert_eq!(frame[14 + 20 + 6..][..2], [0, 0], "none stays none");
}

#[test]
fn only_what_leaves_the_node_for_elsewhere() {
    for [a, b, far, _] in FAMILIES {
        let own = |router: &mut Router, to: &str, by: &str| {
            let view = router.fate("a", &Packet::new(a, to).udp(4000, 53)).forwarded(by);
            assert_eq!((view.source(), inner_port(&view, true)), (Some(a.to_address()), 4000), "{view}");
        };
        own(&mut router(), b, "b");
        // Exempt, and not among the sources.
        let mut exempting = Router::new(Plan::translating());
        exempting.update(|plan| plan.exempt.push(tests::plan::Net::new(far)));
        own(&mut exempting, far, "up");
        let mut others = Router::new(Plan::translating());
        others.update(|plan| plan.translated = vec![tests::plan::Net::new(b)]);
        own(&mut others, far, "up");
        // Somebody outside began: its answers have the address that it asked.
        let mut inward = router();
        inward.fate("up", &Packet::new(far, a).udp(53, 4000)).forwarded("a");
        own(&mut inward, far, "up");
    }
}

#[test]
fn two_who_look_the_same_outside_are_told_apart() {
    for [a, b, far, outside] in FAMILIES {
        for (ask, answer) in TALKS {
            let mut router = router();
            // In one burst.
            let frames = [("a", a), ("b", b)].map(|(from, source)| (from, ask(Packet::new(source, far), 4000)));
            for (from, packet) in &frames {
                let frame = router.frame(from, packet);
                router.send(from, &frame);
            }
            router.settle();
            let sent: Vec<View> = router.received("up").iter().map(|frame| View::sound(frame)).collect();
            let ports: Vec<u16> = sent.iter().map(|view| check_outside(view, outside, far)).collect();
            assert_ne!(ports[0], ports[1]);
            let both: Vec<(String, IpAddr)> = ports
                .iter()
                .map(|port| {
                    let packet = answer(Packet::new(far, outside), *port);
                    let frame = router.frame("up", &packet);
                    router.send("up", &frame);
                    router.settle();
                    let [to_a, to_b] = ["a", "b"].map(|on| router.received(on).pop());
                    match (to_a, to_b) {
                        (Some(frame), None) => ("a".to_string(), View::sound(&frame).destination().unwrap()),
                        (None, Some(frame)) => ("b".to_string(), View::sound(&frame).destination().unwrap()),
                        other => panic!("one of the two: {other:?}"),
                    }
                })
                .collect();
            let mut both = both;
            both.sort();
            assert_eq!(both, [("a".to_string(), a.to_address()), ("b".to_string(), b.to_address())]);
        }
    }
}

/// Every port but one is taken: with few ports two flows that begin at once would soon meet.
#[test]
fn no_two_flows_share_a_port_however_few_there_are() {
    let mut router = router();
    router.update(|plan| plan.ports = Ports { first: 30_000, last: 30_009 });
    let mut taken = HashMap::new();
    for round in 0..2 {
        for source in 0..5u16 {
            let from = if round == 0 { "a" } else { "b" };
            let address = if round == 0 { "10.0.0.1" } else { "10.0.0.2" };
            let frame = router.frame(from, &Packet::new(address, "192.0.2.7").udp(1000 + source, 53));
            router.send(from, &frame);
        }
    }
    router.settle();
    for frame in router.received("up") {
        let view = View::sound(&frame);
        assert_eq!(taken.insert(inner_port(&view, true), ()), None, "{view}");
    }
    assert_eq!(taken.len(), 10);
    let one_more = Packet::new("10.0.0.1", "192.0.2.7").udp(2000, 53);
    router.fate("a", &one_more).dropped(DropReason::SourcePortsExhausted);
    // The same ports serve for somebody else.
    router.fate("a", &Packet::new("10.0.0.1", "192.0.2.8").udp(2000, 53)).forwarded("up");
}

#[test]
fn workers_have_ports_of_their_own() {
    let mut plan = Plan::translating();
    plan.ports = Ports { first: 40_000, last: 40_099 };
    plan.at_mut("b").owner = 1;
    let mut router = Router::with(plan, Options { workers: 2, ..Options::default() });
    for source in 0..40 {
        let view = router.fate("a", &Packet::new("10.0.0.1", "192.0.2.7").udp(source, 53)).forwarded("up");
        assert!((40_000..40_050).contains(&inner_port(&view, true)), "{view}");
        let view = router.fate("b", &Packet::new("10.0.0.2", "192.0.2.7").udp(source, 53)).forwarded("up");
        assert!((40_050..40_100).contains(&inner_port(&view, true)), "{view}");
    }
}

#[test]
fn what_cannot_be_translated_does_not_leave() {
    for [a, _, far, _] in FAMILIES {
        let mut router = router();
        for packet in [
            Packet::new(a, far).sctp(1, 2),
            Packet::new(a, far).raw(50).filled(20),
            Packet::new(a, far).tcp(1, 2, RST),
            Packet::new(a, far).echo_reply(1, 1),
        ] {
            router.fate("a", &packet).dropped(DropReason::TranslationImpossible);
        }
        router.update(|plan| plan.at_mut("up").outside.clear());
        router.fate("a", &Packet::new(a, far).udp(1, 2)).dropped(DropReason::TranslationImpossible);
    }
}

#[test]
fn errors_find_back_and_say_what_their_reader_knows() {
    for [a, _, far, outside] in FAMILIES {
        let router_on_the_way = if a.contains('.') { "192.0.2.99" } else { "2001:db8::99" };
        for (ask, answer) in TALKS {
            let mut router = router();
            let packet = ask(Packet::new(a, far), 4000);
            let sent = router.fate("a", &packet).forwarded_frame("up");
            let port = check_outside(&View::sound(&sent), outside, far);
            // About the packet as it was outside, whole or in the eight bytes that are due, from the far end or on the way.
            let header = if a.contains('.') { 20 } else { 40 };
            for quote in [&sent[14..], &sent[14..14 + header + 8]] {
                for from in [far, router_on_the_way] {
                    let error = Packet::new(from, outside).unreachable(quote);
                    let view = router.fate("up", &error).forwarded("a");
                    assert_eq!((view.source(), view.destination()), (Some(from.to_address()), Some(a.to_address())));
                    let mut inside = packet.clone().ttl(63).bytes();
                    // A checksum may come out as the other zero.
                    if quote.len() < inside.len() {
                        inside.truncate(quote.len());
                    }
                    assert_eq!(view.payload[..header], inside[..header], "{view}");
                    assert_eq!(view.payload[header..], inside[header..], "{view}");
                }
            }
            // And an answer that the workload refuses.
            let back = answer(Packet::new(far, outside), port);
            let inside = router.fate("up", &back).forwarded_frame("a");
            let error = Packet::new(a, far).unreachable(&inside[14..]);
            let view = router.fate("a", &error).forwarded("up");
            assert_eq!((view.source(), view.destination()), (Some(outside.to_address()), Some(far.to_address())));
            assert_eq!(view.payload, back.clone().ttl(63).bytes(), "{view}");
        }
    }
}

#[test]
fn an_error_about_no_flow_is_the_hosts() {
    for [a, _, far, outside] in FAMILIES {
        let mut router = router();
        router.fate("a", &Packet::new(a, far).udp(4000, 53)).forwarded("up");
        for quoted in [Packet::new(outside, far).udp(555, 53), Packet::new(outside, far).tcp(20_000, 80, SYN)] {
            let error = Packet::new(far, outside).unreachable(&quoted.bytes());
            let frame = router.fate("up", &error).forwarded_frame("host");
            assert_eq!(frame[12..], router.frame("up", &error)[12..], "as it came");
        }
        // A router beside us may speak by its address on the link.
        if !a.contains('.') {
            let error =
                Packet::new("fe80::1", outside).too_big(1400, &Packet::new(outside, far).tcp(555, 80, ACK).bytes());
            router.fate("up", &error).forwarded_frame("host");
        }
        // A martian does not get in by quoting a flow.
        let sent = router.fate("a", &Packet::new(a, far).udp(4000, 53)).forwarded_frame("up");
        let martian = if a.contains('.') { "127.0.0.1" } else { "::1" };
        let error = Packet::new(martian, outside).unreachable(&sent[14..]);
        router.fate("up", &error).dropped(DropReason::SourceMartian);
    }
}

#[test]
fn what_is_for_the_host_passes_as_it_came() {
    for [_, _, far, outside] in FAMILIES {
        let mut router = router();
        let all = [
            Packet::new(far, outside).udp(53, 25_000).filled(11),
            Packet::new(far, outside).tcp(4000, 27_017, SYN),
            Packet::new(far, outside).tcp(4000, 27_017, ACK).ttl(1),
            Packet::new(far, outside).echo_request(1, 1),
            Packet::new(far, outside).sctp(1, 20_000),
        ];
        for packet in all {
            let frame = router.fate("up", &packet).forwarded_frame("host");
            assert_eq!(frame[12..], router.frame("up", &packet)[12..], "{packet:?}");
        }
        assert!(router.flows().iter().next().is_none(), "the host's connections are none of ours");
        let whole = Packet::new(far, outside).udp(53, 25_000).filled(192).identification(77);
        for order in [[0, 1, 2], [2, 1, 0]] {
            for number in order {
                let piece = whole.fragment(number * 64, 64);
                let frame = router.fate_of_bytes("up", &piece).forwarded_frame("host");
                assert_eq!(frame[14..], piece);
            }
        }
        // All in one burst.
        let other = whole.clone().identification(78);
        let pieces: Vec<Vec<u8>> = (0..3).map(|number| other.fragment(number * 64, 64)).collect();
        for piece in &pieces {
            let frame = router.wrap("up", piece);
            router.send("up", &frame);
        }
        router.settle();
        assert_eq!(router.received("host").iter().map(|frame| frame[14..].to_vec()).collect::<Vec<_>>(), pieces);
    }
}

/// What the fragments of a datagram carry, put together.
fn together(frames: &[Vec<u8>], header: usize) -> Vec<u8> {
    frames.iter().flat_map(|frame| frame[14 + header..].to_vec()).collect()
}

#[test]
fn fragments_both_ways() {
    for [a, _, far, outside] in FAMILIES {
        let is_ipv4 = a.contains('.');
        let (header, fragment_header) = if is_ipv4 { (20, 20) } else { (40, 48) };
        for in_one_burst in [false, true] {
            let mut router = router();
            let mut pass = |from: &str, on: &str, whole: &Packet| -> Vec<Vec<u8>> {
                let mut found = Vec::new();
                for number in 0..4 {
                    let frame = router.wrap(from, &whole.fragment(number * 48, 48));
                    router.send(from, &frame);
                    if !in_one_burst {
                        router.settle();
                        found.extend(router.received(on));
                    }
                }
                router.settle();
                found.extend(router.received(on));
                assert_eq!(found.len(), 4, "{from} to {on}, in one burst: {in_one_burst}");
                for frame in &found {
                    assert_eq!(View::of(frame).unwrap().faults, Vec::<String>::new());
                }
                found
            };
            let out = Packet::new(a, far).udp(4000, 53).filled(184).identification(5);
            let sent = pass("a", "up", &out);
            let port = u16::from_be_bytes([sent[0][14 + fragment_header], sent[0][14 + fragment_header + 1]]);
            let expected = Packet::new(outside, far).udp(port, 53).filled(184);
            assert_eq!(together(&sent, fragment_header), expected.bytes()[header..], "what the far end puts together");
            for frame in &sent {
                assert_eq!(View::of(frame).unwrap().source(), Some(outside.to_address()));
            }
            let back = Packet::new(far, outside).udp(53, port).filled(184).identification(6);
            let got = pass("up", "a", &back);
            let expected = Packet::new(far, a).udp(53, 4000).filled(184);
            assert_eq!(together(&got, fragment_header), expected.bytes()[header..], "what the workload puts together");
            for frame in &got {
                assert_eq!(View::of(frame).unwrap().destination(), Some(a.to_address()));
            }
        }
    }
}

#[test]
fn a_guarded_uplink_does_the_same() {
    for [a, _, far, outside] in FAMILIES {
        for (ask, answer) in TALKS {
            let mut router = router();
            router.update(|plan| plan.at_mut("up").host = Some(HostLists::default()));
            let packet = ask(Packet::new(a, far), 4000);
            let sent = router.fate("a", &packet).forwarded_frame("up");
            let port = check_outside(&View::sound(&sent), outside, far);
            for _ in 0..2 {
                let back = router.fate("up", &answer(Packet::new(far, outside), port)).forwarded("a");
                check_inside(&back, far, a, 4000);
            }
            let error = Packet::new(far, outside).unreachable(&sent[14..]);
            assert_eq!(router.fate("up", &error).forwarded("a").destination(), Some(a.to_address()));
            // The host's own lists are asked about what is the host's.
            router.update(|plan| {
                plan.at_mut("up").host = Some(HostLists { ingress: Rules::only([]), ..HostLists::default() });
            });
            let strange = Packet::new(far, outside).udp(53, 1);
            router.fate("up", &strange).dropped(DropReason::HostIngress);
            router.fate("up", &answer(Packet::new(far, outside), port)).forwarded("a");
        }
    }
}

#[test]
fn policy_speaks_of_the_workload() {
    for [a, _, far, outside] in FAMILIES {
        let rule = Rule::allow(packet::TCP).to_port(80).from_net(a).to_net(far);
        let mut router = Router::new(Plan::translating());
        router.update(|plan| {
            plan.at_mut("a").egress = Rules::only([rule]);
            plan.at_mut("a").ingress = Rules::only([]);
        });
        router.fate("a", &Packet::new(a, far).tcp(4000, 81, SYN)).dropped(DropReason::PolicyEgress);
        assert!(router.flows().iter().next().is_none(), "what is denied takes no port");
        let view = router.fate("a", &Packet::new(a, far).tcp(4000, 80, SYN)).forwarded("up");
        let port = check_outside(&view, outside, far);
        router.fate("up", &Packet::new(far, outside).tcp(80, port, SYN | ACK)).forwarded("a");
        // Whoever opens a connection from outside under the same ports is asked for as such.
        router.fate("up", &Packet::new(far, outside).tcp(80, port, SYN)).dropped(DropReason::PolicyIngress);
        let allowing = Rule::allow(packet::TCP).to_port(4000).from_net(far).to_net(a);
        router.update(|plan| plan.at_mut("a").ingress = Rules::only([allowing]));
        router.fate("up", &Packet::new(far, outside).tcp(80, port, SYN)).forwarded("a");
        // Judged again, the flow is what it was.
        router.update(|plan| plan.policy_change = fastpath::table::PolicyChange::Reevaluate);
        router.fate("up", &Packet::new(far, outside).tcp(80, port, ACK)).forwarded("a");
        router.update(|plan| plan.at_mut("a").egress = Rules::only([]));
        router.fate("up", &Packet::new(far, outside).tcp(80, port, ACK)).dropped(DropReason::PolicyEgress);
    }
}

#[test]
fn others_get_no_answer_that_is_not_theirs() {
    for [a, _, far, outside] in FAMILIES {
        let mut router = router();
        let view = router.fate("a", &Packet::new(a, far).udp(4000, 53)).forwarded("up");
        let port = check_outside(&view, outside, far);
        // From another address or port: the host's, who knows nothing of it.
        let stranger = if a.contains('.') { "192.0.2.8" } else { "2001:db8::8" };
        for packet in [Packet::new(stranger, outside).udp(53, port), Packet::new(far, outside).udp(54, port)] {
            router.fate("up", &packet).forwarded_frame("host");
        }
        // From inside, to the address outside.
        let other = Packet::new(FAMILIES.iter().find(|family| family[0] == a).unwrap()[1], outside).udp(53, port);
        router.fate("b", &other).dropped(DropReason::EndpointToHost);
        // A neighbour that says it is the far end.
        router.fate("b", &Packet::new(far, outside).udp(53, port)).dropped(DropReason::SourceSpoofed);
    }
}

#[test]
fn an_address_that_goes_ends_its_flows() {
    for [a, _, far, outside] in FAMILIES {
        let mut router = router();
        let packet = Packet::new(a, far).udp(4000, 53);
        check_outside(&router.fate("a", &packet).forwarded("up"), outside, far);
        let other = if a.contains('.') { "192.0.2.200" } else { "2001:db8::c8" };
        router.update(|plan| plan.at_mut("up").outside = vec![other.to_address()]);
        router.fate("a", &packet).dropped(DropReason::TranslationImpossible);
        // The worker takes it away when it next sweeps.
        assert_eq!(router.flows().iter().map(|flow| flow.state).collect::<Vec<_>>(), [State::Evicted]);
        let packet = Packet::new(a, far).udp(4002, 53);
        check_outside(&router.fate("a", &packet).forwarded("up"), other, far);
        // What is translated no more goes on as it began; who begins now has its own source.
        router.update(|plan| plan.translated.clear());
        check_outside(&router.fate("a", &packet).forwarded("up"), other, far);
        let new = router.fate("a", &Packet::new(a, far).udp(4001, 53)).forwarded("up");
        assert_eq!(new.source(), Some(a.to_address()));
    }
}

/// Random talk against the plainest translator there is: two maps.
#[test]
fn a_naive_translator_agrees() {
    for seed in 0..40 {
        let mut random = Random::new(seed);
        let mut router = router();
        let [_, _, _, outside] = FAMILIES[(seed % 2) as usize];
        let far: [&str; 2] = if seed % 2 == 0 { ["192.0.2.7", "192.0.2.8"] } else { ["2001:db8::7", "2001:db8::8"] };
        let near: [(&str, &str); 2] =
            if seed % 2 == 0 { [("a", "10.0.0.1"), ("b", "10.0.0.2")] } else { [("a", "fd00::1"), ("b", "fd00::2")] };
        let mut out: HashMap<(usize, usize, usize, u16), u16> = HashMap::new();
        let mut back: HashMap<(usize, usize, u16), (usize, u16)> = HashMap::new();
        for _ in 0..200 {
            let (talk, far_end) = (random.below(TALKS.len()), random.below(2));
            if random.below(2) == 0 {
                let (who, port) = (random.below(2), 1 + random.below(3) as u16);
                let (from, address) = near[who];
                let packet = TALKS[talk].0(Packet::new(address, far[far_end]), port);
                let given = check_outside(&router.fate(from, &packet).forwarded("up"), outside, far[far_end]);
                let known = out.entry((talk, far_end, who, port)).or_insert(given);
                assert_eq!(*known, given);
                assert_eq!(*back.entry((talk, far_end, given)).or_insert((who, port)), (who, port));
            } else {
                let all: Vec<u16> = out.values().copied().chain([20_000]).collect();
                let given = all[random.below(all.len())];
                let packet = TALKS[talk].1(Packet::new(far[far_end], outside), given);
                let fate = router.fate("up", &packet);
                match back.get(&(talk, far_end, given)) {
                    Some((who, port)) => {
                        check_inside(&fate.forwarded(near[*who].0), far[far_end], near[*who].1, *port);
                    }
                    None => drop(fate.forwarded_frame("host")),
                }
            }
        }
    }
}
