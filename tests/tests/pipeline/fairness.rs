//! Endpoints that share a worker: what one sends, or does not take, is nothing to the others.

use fastpath::burst::DropReason;
use tests::packet::Packet;
use tests::plan::{Attachment, Plan};
use tests::router::{Options, Router};

/// Endpoints beside those of the small node, `e0` and so on.
const MORE: u8 = 20;

fn address(number: u8) -> String {
    format!("10.0.7.{}", number + 1)
}

fn crowd() -> Router {
    let mut plan = Plan::small();
    let addresses: Vec<String> = (0..MORE).map(address).collect();
    for number in 0..MORE {
        let mut endpoint =
            Attachment::workload(&format!("e{number}"), 100 + number, &[addresses[usize::from(number)].as_str()]);
        endpoint.ingress = plan.at("b").ingress.clone();
        endpoint.egress = plan.at("b").egress.clone();
        plan.attachments.push(endpoint);
    }
    Router::with(plan, Options { frames: 4096, ring: 2048, ..Options::default() })
}

fn flood(router: &mut Router, from: &str, source: &str, packets: usize) {
    let frame = router.frame(from, &Packet::new(source, "10.0.0.2").udp(4000, 4000));
    for _ in 0..packets {
        router.send(from, &frame);
    }
}

#[test]
fn a_quiet_endpoint_goes_through_the_very_next_breath() {
    let mut router = crowd();
    for number in 0..MORE {
        flood(&mut router, &format!("e{number}"), &address(number), 300);
    }
    router.breathe();
    for _ in 0..10 {
        let frame = router.frame("a", &Packet::new("10.0.0.1", "10.0.0.2").udp(53, 53).payload(b"quiet"));
        router.received("b");
        router.send("a", &frame);
        router.breathe();
        let quiet = router.received("b").iter().filter(|bytes| bytes.ends_with(b"quiet")).count();
        assert_eq!(quiet, 1, "between {MORE} floods");
    }
}

#[test]
fn floods_share_the_worker_evenly() {
    let mut router = crowd();
    for number in 0..MORE {
        flood(&mut router, &format!("e{number}"), &address(number), 600);
    }
    for _ in 0..30 {
        router.breathe();
    }
    let counters = &router.remote(0).counters;
    let shares: Vec<u64> = (0..MORE)
        .map(|number| counters.interface(router.plan.index(&format!("e{number}"))).received_packets.get())
        .collect();
    let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
    assert!(most - least <= 64, "{shares:?}");
    assert_eq!(shares.iter().sum::<u64>(), 30 * 256, "and nothing of it is left unused");
}

#[test]
fn an_endpoint_that_takes_nothing_holds_up_nobody_else() {
    let mut router = crowd();
    let to = |router: &mut Router, destination: &str| {
        let frame = router.frame("a", &Packet::new("10.0.0.1", destination).udp(4000, 4000));
        router.send("a", &frame);
    };
    // The ring of `b` is full and stays so.
    for _ in 0..2100 {
        to(&mut router, "10.0.0.2");
        if router.dropped(DropReason::TransmitRingFull) == 0 {
            router.breathe_unheard();
        }
    }
    for _ in 0..64 {
        router.breathe_unheard();
    }
    let refused = router.dropped(DropReason::TransmitRingFull);
    assert_eq!(refused, 2100 - 2048);
    let sent = router.sent();
    for number in 0..MORE {
        to(&mut router, &address(number));
    }
    router.breathe_unheard();
    assert_eq!(router.sent() - sent, u64::from(MORE), "everybody else gets what is sent to him");
    assert_eq!(router.dropped(DropReason::TransmitRingFull), refused);
}
