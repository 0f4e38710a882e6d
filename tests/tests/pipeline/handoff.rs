//! Two workers: an endpoint's queue is on one, its way out on the other. Everything arrives, once, in order.

use fastpath::burst::DropReason;
use tests::decode::View;
use tests::packet::{ACK, Packet, SYN};
use tests::plan::{Plan, Rules};
use tests::router::{Options, Router};

/// `a` and the uplink on the first worker, `b` and the host on the second.
fn two_workers(change: impl FnOnce(&mut Plan)) -> Router {
    let mut plan = Plan::small();
    plan.at_mut("b").owner = 1;
    plan.at_mut("host").owner = 1;
    change(&mut plan);
    Router::with(plan, Options { workers: 2, ..Options::default() })
}

#[test]
fn a_conversation_over_two_workers() {
    for (a, b) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
        let mut router = two_workers(|plan| plan.at_mut("a").ingress = Rules::only([]));
        router.fate("b", &Packet::new(b, a).tcp(80, 4000, SYN | ACK)).dropped(DropReason::PolicyIngress);
        for (from, to, packet) in [
            ("a", "b", Packet::new(a, b).tcp(4000, 80, SYN)),
            // The flow was entered by the other worker.
            ("b", "a", Packet::new(b, a).tcp(80, 4000, SYN | ACK)),
            ("a", "b", Packet::new(a, b).tcp(4000, 80, ACK)),
        ] {
            let view = router.fate(from, &packet).forwarded(to);
            assert_eq!(view.ttl(), Some(63), "finished once, by the worker that received it");
        }
        let (first, second) = (&router.remote(0).counters, &router.remote(1).counters);
        assert_eq!((first.handed_off.get(), second.handed_in.get()), (2, 2));
        assert_eq!((second.handed_off.get(), first.handed_in.get()), (1, 1));
    }
}

#[test]
fn jumbo_packets_change_worker_whole() {
    let mut router = two_workers(|plan| plan.attachments.iter_mut().for_each(|attachment| attachment.mtu = 9000));
    let packet = Packet::new("10.0.0.1", "10.0.0.2").tcp(4000, 80, ACK).filled(8960).partial_checksum();
    let view = router.fate("a", &packet).forwarded("b");
    assert_eq!(view.payload.len(), 8960);
}

#[test]
fn many_packets_arrive_once_and_in_order() {
    let mut router = two_workers(|_| {});
    for sequence in 0..500u16 {
        for (from, source, destination) in [("a", "10.0.0.1", "10.0.0.2"), ("b", "10.0.0.2", "10.0.0.1")] {
            let packet = Packet::new(source, destination).udp(4000, 4000).payload(&sequence.to_be_bytes());
            let frame = router.frame(from, &packet);
            router.send(from, &frame);
        }
    }
    for _ in 0..20 {
        router.breathe();
    }
    for name in ["a", "b"] {
        let received = router.received(name);
        let numbers = received.iter().map(|frame| {
            let payload = View::sound(frame).payload;
            u16::from_be_bytes([payload[0], payload[1]])
        });
        assert!(numbers.eq(0..500), "to {name}: {} packets", received.len());
    }
}

#[test]
fn an_owner_that_does_not_exist_is_an_interface_that_is_down() {
    let mut router = two_workers(|_| {});
    router.update(|plan| plan.at_mut("b").owner = 7);
    router.fate("a", &Packet::new("10.0.0.1", "10.0.0.2")).dropped(DropReason::InterfaceDown);
}

#[test]
fn policy_is_published_to_both_at_once() {
    let mut router = two_workers(|_| {});
    router.update(|plan| plan.at_mut("b").ingress = Rules::only([]));
    router.fate("a", &Packet::new("10.0.0.1", "10.0.0.2")).dropped(DropReason::PolicyIngress);
    router.update(|plan| plan.at_mut("b").ingress = Rules::open());
    router.fate("a", &Packet::new("10.0.0.1", "10.0.0.2")).forwarded("b");
}
