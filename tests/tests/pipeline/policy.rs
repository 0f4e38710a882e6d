//! Flows and policy: replies pass where new flows do not, and a change of policy, route or owner does to an open flow
//! what the settings say.

use fastpath::burst::DropReason;
use fastpath::table::PolicyChange;
use tests::packet::{self, ACK, FIN, Packet, RST, SYN};
use tests::plan::{Net, Plan, Rule, Rules, Way};
use tests::router::Router;

const FAMILIES: [(&str, &str, &str); 2] = [("10.0.0.1", "10.0.0.2", "10.0.0.3"), ("fd00::1", "fd00::2", "fd00::3")];

#[test]
fn replies_pass_where_new_flows_are_denied() {
    for (a, b, _) in FAMILIES {
        let mut router = Router::small(|plan| plan.at_mut("a").ingress = Rules::only([]));
        for (request, reply, other) in [
            (
                Packet::new(a, b).tcp(4000, 80, SYN),
                Packet::new(b, a).tcp(80, 4000, SYN | ACK),
                Packet::new(b, a).tcp(80, 4001, SYN),
            ),
            (Packet::new(a, b).udp(4000, 53), Packet::new(b, a).udp(53, 4000), Packet::new(b, a).udp(53, 4001)),
            (Packet::new(a, b).sctp(4000, 53), Packet::new(b, a).sctp(53, 4000), Packet::new(b, a).sctp(54, 4000)),
            (
                Packet::new(a, b).echo_request(7, 1),
                Packet::new(b, a).echo_reply(7, 1),
                Packet::new(b, a).echo_reply(8, 1),
            ),
            (Packet::new(a, b).raw(47), Packet::new(b, a).raw(47), Packet::new(b, a).raw(48)),
        ] {
            router.fate("b", &reply).dropped(DropReason::PolicyIngress);
            router.fate("a", &request).forwarded_frame("b");
            router.fate("b", &reply).forwarded_frame("a");
            router.fate("a", &request).forwarded_frame("b");
            router.fate("b", &other).dropped(DropReason::PolicyIngress);
        }
    }
}

#[test]
fn both_ends_have_a_say_and_the_sender_speaks_first() {
    let packet = Packet::new("10.0.0.1", "10.0.0.2").tcp(4000, 80, SYN);
    let allow = || Rules::only([Rule::allow(packet::TCP).to_port(80)]);
    let deny = || Rules::only([]);
    for (egress, ingress, expected) in [
        (allow(), allow(), None),
        (deny(), allow(), Some(DropReason::PolicyEgress)),
        (allow(), deny(), Some(DropReason::PolicyIngress)),
        (deny(), deny(), Some(DropReason::PolicyEgress)),
    ] {
        let mut router = Router::small(|plan| {
            plan.at_mut("a").egress = egress;
            plan.at_mut("b").ingress = ingress;
        });
        let fate = router.fate("a", &packet);
        match expected {
            None => drop(fate.forwarded("b")),
            Some(reason) => fate.dropped(reason),
        }
    }
}

#[test]
fn probes_of_the_host_are_not_policed() {
    let mut router = Router::small(|plan| plan.at_mut("a").ingress = Rules::only([]));
    router.fate("host", &Packet::new("10.9.9.9", "10.0.0.1").tcp(4000, 8080, SYN)).forwarded("a");
    router.fate("a", &Packet::new("10.0.0.1", "10.9.9.9").tcp(8080, 4000, SYN | ACK)).forwarded("host");
}

#[test]
fn an_open_flow_keeps_its_verdict_by_default() {
    for (a, b, _) in FAMILIES {
        let mut router = Router::new(Plan::small());
        router.fate("a", &Packet::new(a, b).tcp(4000, 80, SYN)).forwarded("b");
        router.update(|plan| plan.at_mut("b").ingress = Rules::only([]));
        router.fate("a", &Packet::new(a, b).tcp(4000, 80, ACK)).forwarded("b");
        router.fate("b", &Packet::new(b, a).tcp(80, 4000, ACK)).forwarded("a");
        router.fate("a", &Packet::new(a, b).tcp(4001, 80, SYN)).dropped(DropReason::PolicyIngress);
    }
}

#[test]
fn an_open_flow_is_judged_again_where_the_setting_says_so() {
    for (a, b, _) in FAMILIES {
        let mut router = Router::small(|plan| plan.policy_change = PolicyChange::Reevaluate);
        router.fate("a", &Packet::new(a, b).tcp(4000, 80, SYN)).forwarded("b");
        router.fate("a", &Packet::new(a, b).tcp(4000, 81, SYN)).forwarded("b");
        router.update(|plan| plan.at_mut("b").ingress = Rules::only([Rule::allow(packet::TCP).to_port(81)]));
        // In both directions, and again and again.
        for _ in 0..2 {
            router.fate("a", &Packet::new(a, b).tcp(4000, 80, ACK)).dropped(DropReason::PolicyIngress);
            router.fate("b", &Packet::new(b, a).tcp(80, 4000, ACK)).dropped(DropReason::PolicyIngress);
        }
        // What is still allowed goes on, replies too, although nothing allows them by themselves.
        router.update(|plan| plan.at_mut("a").ingress = Rules::only([]));
        router.fate("b", &Packet::new(b, a).tcp(81, 4000, ACK)).forwarded("a");
        router.fate("a", &Packet::new(a, b).tcp(4000, 81, ACK)).forwarded("b");
        // Allowed again, the flow goes on where it was.
        router.update(|plan| plan.at_mut("b").ingress = Rules::open());
        router.fate("b", &Packet::new(b, a).tcp(80, 4000, ACK)).forwarded("a");
    }
}

#[test]
fn a_flow_follows_its_route() {
    let mut router = Router::small(|plan| {
        let up2 = tests::plan::Attachment::shared("up2", 6, fastpath::table::interface::InterfaceKind::Uplink);
        plan.attachments.push(up2);
    });
    let packet = Packet::new("10.0.0.1", "192.0.2.1").udp(4000, 53);
    let reply = Packet::new("192.0.2.1", "10.0.0.1").udp(53, 4000);
    router.fate("a", &packet).forwarded("up");
    router.update(|plan| plan.routes.push((Net::new("192.0.2.1"), Way::Via("up2".to_string()))));
    router.fate("a", &packet).forwarded("up2");
    // The fabric may bring the reply by either.
    router.fate("up2", &reply).forwarded("a");
    router.fate("up", &reply).forwarded("a");
    router.update(|plan| plan.routes.push((Net::new("192.0.2.1"), Way::Blackhole)));
    router.fate("a", &packet).dropped(DropReason::Blackhole);
    router.fate("up", &reply).forwarded("a");
}

#[test]
fn a_flow_does_not_follow_its_address_to_a_new_owner() {
    for (a, b, _) in FAMILIES {
        let mut router = Router::new(Plan::small());
        let packet = Packet::new(a, b).tcp(4000, 80, SYN);
        router.fate("a", &packet).forwarded("b");
        router.update(|plan| {
            let moved = std::mem::take(&mut plan.at_mut("b").addresses);
            plan.at_mut("c").addresses.extend(moved);
        });
        router.fate("a", &packet).dropped(DropReason::FlowWrongInterface);
        router.fate("b", &Packet::new(b, a).tcp(80, 4000, SYN | ACK)).dropped(DropReason::SourceSpoofed);
        router.fate("c", &Packet::new(b, a).tcp(80, 4000, SYN | ACK)).dropped(DropReason::FlowWrongInterface);
    }
}

#[test]
fn tcp_states_follow_the_flags() {
    let mut router = Router::new(Plan::small());
    let (a, b) = ("10.0.0.1", "10.0.0.2");
    let there = |flags| Packet::new(a, b).tcp(4000, 80, flags);
    let back = |flags| Packet::new(b, a).tcp(80, 4000, flags);
    let mut walk = |steps: &[(&str, Packet, &str)]| {
        for (from, packet, expected) in steps {
            let to = if *from == "a" { "b" } else { "a" };
            router.fate(from, packet).forwarded(to);
            let view = router.flows().iter().next().expect("the flow");
            assert_eq!(view.state.name(), *expected);
        }
    };
    walk(&[
        ("a", there(SYN), "opening"),
        ("b", back(SYN | ACK), "opening"),
        ("a", there(ACK), "established"),
        ("b", back(FIN | ACK), "established"),
        ("a", there(FIN | ACK), "closing"),
        ("a", there(SYN), "opening"),
        ("b", back(RST | ACK), "reset"),
    ]);
}

#[test]
fn a_reset_without_a_flow_begins_none() {
    let mut router = Router::new(Plan::small());
    router.fate("a", &Packet::new("10.0.0.1", "10.0.0.2").tcp(4000, 80, RST)).forwarded("b");
    assert_eq!(router.flows().iter().count(), 0);
}

#[test]
fn a_dropped_packet_begins_no_flow() {
    let mut router = Router::small(|plan| plan.at_mut("b").ingress = Rules::only([]));
    for packet in [
        Packet::new("10.0.0.1", "10.0.0.2"),
        Packet::new("10.0.0.3", "10.0.0.2"),
        Packet::new("10.0.0.1", "198.51.100.1"),
        Packet::new("10.0.0.1", "10.0.0.3").ttl(1),
        Packet::new("10.0.0.1", "10.77.0.1"),
    ] {
        router.fate("a", &packet);
    }
    assert_eq!(router.flows().iter().count(), 0);
}

#[test]
fn a_log_rule_leaves_a_record_and_changes_no_verdict() {
    let log = Rule { log: true, ..Rule::default() };
    for (rules, is_allowed) in
        [(Rules::only([log.clone()]), false), (Rules::only([log, Rule::allow(packet::UDP)]), true)]
    {
        let mut router = Router::small(|plan| plan.at_mut("b").ingress = rules);
        let fate = router.fate("a", &Packet::new("10.0.0.1", "10.0.0.2").udp(4000, 53));
        if is_allowed {
            drop(fate.forwarded("b"))
        } else {
            fate.dropped(DropReason::PolicyIngress)
        }
        let record = router.remote(0).records.pop().expect("a record");
        assert!(!record.log.is_none());
        assert_eq!(record.reason.is_none(), is_allowed);
    }
}

#[test]
fn the_flow_table_keeps_established_connections_under_a_flood() {
    let options = tests::router::Options { flows: 64, ..Default::default() };
    let mut router = Router::with(Plan::small(), options);
    let (a, b) = ("10.0.0.1", "10.0.0.2");
    for (from, to, packet) in [
        ("a", "b", Packet::new(a, b).tcp(4000, 80, SYN)),
        ("b", "a", Packet::new(b, a).tcp(80, 4000, SYN | ACK)),
        ("a", "b", Packet::new(a, b).tcp(4000, 80, ACK)),
    ] {
        router.fate(from, &packet).forwarded(to);
    }
    for port in 0..1000 {
        router.fate("c", &Packet::new("10.0.0.3", b).udp(port, 53));
    }
    router.update(|plan| plan.at_mut("a").ingress = Rules::only([]));
    router.fate("b", &Packet::new(b, a).tcp(80, 4000, ACK)).forwarded("a");
}
