//! Random packets through the whole pipeline.
//!
//! Valid ones: the verdict is that of the naive model, and what leaves is sound; most plans have a host endpoint on the
//! uplink, with some or all of its lists. Damaged and random ones: no panic, one
//! fate for each (the worker asserts that), no frame lost (the router asserts that), and what is forwarded all the same
//! has a right IPv4 header, one TTL less, and leaves by the interface of a route.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use tests::decode::View;
use tests::model::{Expected, Fields, Model};
use tests::packet::{self, Packet, sum};
use tests::plan::{HostLists, Net, Plan, Rule, Rules, Way};
use tests::router::{Fate, Router};

/// Addresses with something behind them, beside them, and nowhere.
pub(crate) const IPV4: [&str; 8] =
    ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.9.9.9", "192.0.2.1", "10.66.0.1", "10.77.0.1", "198.51.100.1"];
pub(crate) const IPV6: [&str; 8] =
    ["fd00::1", "fd00::2", "fd00::3", "fd09::9", "2001:db8::1", "fd66::1", "fd77::1", "2001:dba::1"];
const FROM: [&str; 5] = ["a", "b", "c", "up", "host"];
const PORTS: [u16; 5] = [0, 53, 80, 4000, 65535];
const NETS: [&str; 8] =
    ["0.0.0.0/0", "::/0", "10.0.0.0/8", "10.0.0.2/31", "10.0.0.1", "fd00::/64", "fd00::2", "2001:db8::/32"];

#[derive(Clone, Debug)]
pub(crate) enum What {
    Tcp(u16, u16),
    Udp(u16, u16),
    Sctp(u16, u16),
    EchoRequest(u16),
    EchoReply(u16),
    Raw(u8),
}

#[derive(Clone, Debug)]
pub(crate) struct Shot {
    pub(crate) from: &'static str,
    pub(crate) source: &'static str,
    pub(crate) destination: &'static str,
    pub(crate) what: What,
    pub(crate) ttl: u8,
    pub(crate) length: usize,
}

impl Shot {
    pub(crate) fn packet(&self) -> Packet {
        let packet = Packet::new(self.source, self.destination).ttl(self.ttl).filled(self.length);
        match self.what {
            What::Tcp(source, destination) => packet.tcp(source, destination, packet::ACK),
            What::Udp(source, destination) => packet.udp(source, destination),
            What::Sctp(source, destination) => packet.sctp(source, destination),
            What::EchoRequest(identifier) => packet.echo_request(identifier, 1),
            What::EchoReply(identifier) => packet.echo_reply(identifier, 1),
            What::Raw(number) => packet.raw(number),
        }
    }

    /// The uplink by which the host's kernel sends it; only where a host endpoint makes it hand such frames over.
    fn by(&self, plan: &Plan) -> Option<String> {
        let destination = self.destination.parse().unwrap();
        let is_workload = plan.attachments.iter().any(|attachment| attachment.addresses.contains(&destination));
        (self.from == "host" && !is_workload && plan.at("up").host.is_some()).then(|| "up".to_string())
    }

    fn fields(&self, plan: &Plan) -> Fields {
        let is_ipv4 = self.source.contains('.');
        let (number, request, reply) = if is_ipv4 { (packet::ICMP, 8, 0) } else { (packet::ICMPV6, 128, 129) };
        let (protocol, source_port, destination_port, icmp) = match self.what {
            What::Tcp(source, destination) => (packet::TCP, source, destination, None),
            What::Udp(source, destination) => (packet::UDP, source, destination, None),
            What::Sctp(source, destination) => (packet::SCTP, source, destination, None),
            What::EchoRequest(identifier) => (number, identifier, 0, Some((request, 0))),
            What::EchoReply(identifier) => (number, 0, identifier, Some((reply, 0))),
            What::Raw(number) => (number, 0, 0, None),
        };
        Fields {
            from: self.from.to_string(),
            by: self.by(plan),
            source: self.source.parse().unwrap(),
            destination: self.destination.parse().unwrap(),
            protocol,
            source_port,
            destination_port,
            icmp,
            ttl: self.ttl,
            length: self.packet().bytes().len(),
        }
    }
}

pub(crate) fn shot() -> impl Strategy<Value = Shot> {
    let port = || prop::sample::select(PORTS.to_vec());
    let what = prop_oneof![
        3 => (port(), port()).prop_map(|(s, d)| What::Tcp(s, d)),
        3 => (port(), port()).prop_map(|(s, d)| What::Udp(s, d)),
        1 => (port(), port()).prop_map(|(s, d)| What::Sctp(s, d)),
        1 => port().prop_map(What::EchoRequest),
        1 => port().prop_map(What::EchoReply),
        1 => prop::sample::select(vec![4u8, 41, 47, 89, 103, 253]).prop_map(What::Raw),
    ];
    let ttl = prop::sample::select(vec![0u8, 1, 2, 64, 64, 64, 255]);
    let length = prop::sample::select(vec![0usize, 1, 8, 100, 1480, 1600]);
    // Mostly honest: an endpoint that spoofs never gets any further.
    let ends = (0..IPV4.len(), 1..IPV4.len(), any::<bool>(), 0..FROM.len(), 0..10u8).prop_map(
        |(source, distance, is_ipv4, from, dishonest)| {
            let destination = (source + distance) % IPV4.len();
            let addresses = if is_ipv4 { IPV4 } else { IPV6 };
            let honest = ["a", "b", "c", "host", "up", "up", "up", "up"][source];
            // The host's kernel forwards for others, too.
            let from = match dishonest {
                0 => FROM[from],
                1 => "host",
                _ => honest,
            };
            (addresses[source], addresses[destination], from)
        },
    );
    (ends, what, ttl, length).prop_map(|((source, destination, from), what, ttl, length)| Shot {
        from,
        source,
        destination,
        what,
        ttl,
        length,
    })
}

fn rule() -> impl Strategy<Value = Rule> {
    let nets = || prop::collection::vec(prop::sample::select(NETS.to_vec()).prop_map(Net::new), 0..3);
    let ports = || prop::collection::vec((0u16..5000, 0u16..3000), 0..2);
    let protocol = prop::option::of(prop::sample::select(vec![
        packet::TCP,
        packet::UDP,
        packet::SCTP,
        packet::ICMP,
        packet::ICMPV6,
        47,
    ]));
    let icmp = prop::option::weighted(0.1, (prop::sample::select(vec![0u8, 8, 128, 129]), Just(None)));
    (
        any::<bool>(),
        prop::option::weighted(0.2, any::<bool>()),
        protocol,
        icmp,
        nets(),
        nets(),
        ports(),
        ports(),
        0..8u8,
    )
        .prop_map(|(deny, is_ipv4, protocol, icmp, from, to, from_ports, to_ports, log)| {
            let has_ports = protocol.is_some_and(|number| [packet::TCP, packet::UDP, packet::SCTP].contains(&number));
            let ranges = |ports: Vec<(u16, u16)>| {
                ports.into_iter().filter(|_| has_ports).map(|(first, more)| (first, first + more)).collect()
            };
            Rule {
                deny,
                is_ipv4,
                protocol,
                icmp,
                from,
                to,
                from_ports: ranges(from_ports),
                to_ports: ranges(to_ports),
                log: log == 0,
            }
        })
}

/// Narrow rules meet few packets: one in four is about a protocol alone, or about everything.
fn some_rule() -> impl Strategy<Value = Rule> {
    let protocol = prop::option::of(prop::sample::select(vec![packet::TCP, packet::UDP]));
    let broad = (any::<bool>(), protocol).prop_map(|(deny, protocol)| Rule { deny, protocol, ..Rule::default() });
    prop_oneof![3 => rule(), 1 => broad]
}

fn rules() -> impl Strategy<Value = Rules> {
    (prop::collection::vec(some_rule(), 0..6), any::<bool>())
        .prop_map(|(rules, otherwise_allow)| Rules { rules, otherwise_allow })
}

fn host_lists() -> impl Strategy<Value = HostLists> {
    let list = || prop::option::of(prop::collection::vec(some_rule(), 0..4));
    let forward = || prop::option::of(rules());
    (list(), list(), list(), forward(), forward(), rules(), rules()).prop_map(
        |(untracked_ingress, untracked_egress, pre_dnat, forward_ingress, forward_egress, ingress, egress)| HostLists {
            untracked_ingress,
            untracked_egress,
            pre_dnat,
            forward_ingress,
            forward_egress,
            ingress,
            egress,
        },
    )
}

fn failsafes() -> impl Strategy<Value = Vec<(u8, u16)>> {
    prop::sample::subsequence(vec![(packet::TCP, 80), (packet::TCP, 4000), (packet::UDP, 53), (packet::UDP, 80)], 0..3)
}

fn plan() -> impl Strategy<Value = Plan> {
    let host = (prop::option::weighted(0.7, host_lists()), failsafes(), failsafes());
    let all_rules = prop::collection::vec((rules(), rules()), 3);
    let more_routes = prop::collection::vec((prop::sample::select(NETS.to_vec()), 0..4u8), 0..3);
    (all_rules, more_routes, any::<bool>(), host).prop_map(|(all_rules, more_routes, endpoint_to_host, host)| {
        let mut plan = Plan::small();
        plan.endpoint_to_host = endpoint_to_host;
        (plan.at_mut("up").host, plan.failsafe_inbound, plan.failsafe_outbound) = host;
        for (attachment, (egress, ingress)) in plan.attachments.iter_mut().zip(all_rules) {
            attachment.egress = egress;
            attachment.ingress = ingress;
        }
        for (net, way) in more_routes {
            let up = "up".to_string();
            let way = [Way::Via(up.clone()), Way::Blackhole, Way::Unresolved(up.clone()), Way::Unreachable(up)]
                [usize::from(way)]
            .clone();
            // Ahead of the others: of two equal prefixes the later wins in both, and endpoints come last.
            plan.routes.insert(0, (Net::new(net), way));
        }
        plan
    })
}

/// Holds for whatever is forwarded, however damaged it came in.
fn check_forwarded(plan: &Plan, sent: &[u8], on: &str, frame: &[u8]) {
    let l3 = 14;
    let packet = &frame[l3..];
    let (destination, ttl_at): (std::net::IpAddr, usize) = match packet[0] >> 4 {
        4 => (<[u8; 4]>::try_from(&packet[16..20]).unwrap().into(), 8),
        6 => (<[u8; 16]>::try_from(&packet[24..40]).unwrap().into(), 7),
        version => panic!("IP version {version} forwarded"),
    };
    if packet[0] >> 4 == 4 {
        let header_len = usize::from(packet[0] & 0x0f) * 4;
        assert_eq!(sum(&packet[..header_len]), 0, "header checksum");
    }
    let tags = sent[12..].chunks(4).take_while(|tag| matches!(tag[..2], [0x81, 0] | [0x88, 0xa8])).count();
    assert_eq!(packet[ttl_at], sent[l3 + 4 * tags + ttl_at] - 1, "TTL");
    let routes = plan.all_routes();
    let covering = routes.iter().filter(|(net, _)| net.contains(destination));
    let best = covering.max_by_key(|(net, _)| net.1).map(|(_, way)| way);
    assert_eq!(best, Some(&Way::Via(on.to_string())), "left by the way of its route");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn valid_packets_meet_the_fate_that_the_model_says(plan in plan(), shots in prop::collection::vec(shot(), 1..40)) {
        let mut router = Router::new(plan.clone());
        let mut model = Model::default();
        for shot in shots {
            let fields = shot.fields(&plan);
            let expected = model.judge(&plan, &fields);
            // So that no answer is held back by the limit.
            router.advance(std::time::Duration::from_millis(10));
            let fate = match &fields.by {
                Some(uplink) => router.fate_from_host(uplink, &shot.packet()),
                None => router.fate(shot.from, &shot.packet()),
            };
            match (&fate, &expected) {
                (Fate::Forwarded { on, frame }, Expected::Forwarded(to)) => {
                    prop_assert_eq!(on, to);
                    // A frame that passes between the host and its uplink stays as it is.
                    let ends = [shot.from, to.as_str()];
                    let passes = ends.contains(&"up") && ends.contains(&"host") && plan.at("up").host.is_some();
                    prop_assert_eq!(View::sound(frame).ttl(), Some(shot.ttl - u8::from(!passes)));
                }
                (Fate::Answered(frame), Expected::Error(reason)) => {
                    use fastpath::burst::DropReason::{NeighbourUnresolved, NoRoute, TooBig, TtlExceeded};
                    let (kind, code, _) = View::sound(frame).icmp().expect("an ICMP error");
                    let is_ipv4 = shot.source.contains('.');
                    let wanted = match (reason, is_ipv4) {
                        (NoRoute, true) => (3, 0),
                        (NoRoute, false) => (1, 0),
                        (NeighbourUnresolved, true) => (3, 1),
                        (NeighbourUnresolved, false) => (1, 3),
                        (TtlExceeded, true) => (11, 0),
                        (TtlExceeded, false) => (3, 0),
                        (TooBig, true) => (3, 4),
                        (TooBig, false) => (2, 0),
                        (reason, _) => panic!("no error is due for {}", reason.name()),
                    };
                    prop_assert_eq!((kind, code), wanted, "{}", fate);
                }
                (Fate::Punted(_), Expected::Punted) => {}
                (Fate::Dropped(found), Expected::Dropped(reason)) => prop_assert_eq!(found, reason, "{:?}", shot),
                _ => prop_assert!(false, "{:?}: {}, expected {:?}", shot, fate, expected),
            }
        }
    }

    #[test]
    fn damaged_packets_are_dropped_or_leave_sound(
        shots in prop::collection::vec((shot(), prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6), any::<prop::sample::Index>(), 0..4u8), 1..60),
    ) {
        let plan = Plan::small();
        let mut router = Router::new(plan.clone());
        for (shot, damages, cut, kind) in shots {
            let mut frame = router.frame(shot.from, &shot.packet());
            for (at, value) in damages {
                let at = at.index(frame.len());
                frame[at] = value;
            }
            match kind {
                0 => frame.truncate(cut.index(frame.len() + 1)),
                1 => frame.extend(std::iter::repeat_n(0xaa, cut.index(64))),
                _ => {}
            }
            // Many damaged packets would otherwise end at the header checksum.
            if kind % 2 == 1 && frame.len() >= 34 && frame[12..15] == [8, 0, 0x45] {
                packet::repair_ipv4(&mut frame[14..]);
            }
            let sent = frame.clone();
            if let Fate::Forwarded { on, frame } = router.fate_of_frame(shot.from, &frame) {
                check_forwarded(&plan, &sent, &on, &frame);
            }
        }
    }

    #[test]
    fn any_bytes_have_a_fate(frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..30), ethertype in prop::sample::select(vec![0x0800u16, 0x86dd, 0x0806, 0x8100])) {
        let mut router = Router::new(Plan::small());
        for mut frame in frames {
            if frame.len() > 14 {
                frame[..6].fill(0xee);
                frame[6] &= 0xfe;
                frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
            }
            router.fate_of_frame("a", &frame);
        }
    }
}

/// The comparison is worth something only if packets meet every list.
#[test]
fn random_packets_are_denied_by_every_list() {
    use fastpath::burst::DropReason::{
        HostEgress, HostForwardEgress, HostForwardIngress, HostIngress, HostPreDnat, HostUntrackedEgress,
        HostUntrackedIngress, PolicyEgress, PolicyIngress,
    };
    let mut runner = TestRunner::deterministic();
    let mut missing = vec![
        HostUntrackedIngress,
        HostUntrackedEgress,
        HostPreDnat,
        HostForwardIngress,
        HostForwardEgress,
        HostIngress,
        HostEgress,
        PolicyIngress,
        PolicyEgress,
    ];
    for _ in 0..200 {
        let plan = plan().new_tree(&mut runner).unwrap().current();
        let shots = prop::collection::vec(shot(), 20).new_tree(&mut runner).unwrap().current();
        let mut model = Model::default();
        for shot in shots {
            let expected = model.judge(&plan, &shot.fields(&plan));
            missing.retain(|reason| expected != Expected::Dropped(*reason));
        }
    }
    assert!(missing.is_empty(), "no packet in 4000 was denied by {missing:?}");
}

#[test]
fn the_model_notices_a_wrong_table() {
    // The positive control: a router whose tables are of another plan than the model's.
    let mut plan = Plan::small();
    let mut router = Router::new(plan.clone());
    plan.at_mut("b").ingress = Rules::only([]);
    let shot =
        Shot { from: "a", source: "10.0.0.1", destination: "10.0.0.2", what: What::Udp(1, 2), ttl: 64, length: 0 };
    let expected = Model::default().judge(&plan, &shot.fields(&plan));
    assert_eq!(expected, Expected::Dropped(fastpath::burst::DropReason::PolicyIngress));
    router.fate("a", &shot.packet()).forwarded("b");
}
