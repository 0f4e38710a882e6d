//! Workers on threads: commands, publication and hand-over while packets pass.

use fastpath::burst::DropReason;
use fastpath::worker::Command;
use tests::decode::View;
use tests::live::Live;
use tests::packet;
use tests::packet::Packet;
use tests::plan::{Plan, Rule, Rules};

fn two_workers() -> Live {
    let mut plan = Plan::small();
    plan.at_mut("b").owner = 1;
    Live::start(plan, 2)
}

/// Sends that many packets from `a` to `b`, never more at once than the rings between hold.
fn pass(live: &Live, count: u16) {
    const WINDOW: usize = 64;
    let mut received = Vec::new();
    for sequence in 0..count {
        live.send("a", &Packet::new("10.0.0.1", "10.0.0.2").udp(4000, 53).payload(&sequence.to_be_bytes()));
        live.wait("the packets on their way", || {
            received.extend(live.received("b"));
            received.len() + WINDOW > usize::from(sequence)
        });
    }
    live.wait("the last packet", || {
        received.extend(live.received("b"));
        received.len() == usize::from(count)
    });
    let numbers = received.iter().map(|frame| {
        let payload = View::sound(frame).payload;
        u16::from_be_bytes([payload[0], payload[1]])
    });
    assert!(numbers.eq(0..count));
}

#[test]
fn packets_change_threads_and_all_arrive() {
    pass(&two_workers(), 3000);
}

#[test]
fn a_sleeping_worker_wakes_for_a_packet_of_another() {
    let live = two_workers();
    for _ in 0..3 {
        let slept = [0, 1].map(|worker| live.remote(worker).counters.sleeps.get());
        live.wait("both workers to sleep", || {
            [0, 1].iter().all(|worker| live.remote(*worker).counters.sleeps.get() > slept[*worker])
        });
        pass(&live, 1);
    }
}

#[test]
fn publication_under_load_settles_and_judges_by_old_or_new() {
    let mut live = two_workers();
    for round in 0..50u16 {
        let is_open = round % 2 == 0;
        live.update(|plan| {
            let rules = [Rule::allow(packet::UDP).to_port(53)];
            plan.at_mut("b").ingress = if is_open { Rules::open() } else { Rules::only(rules) };
        });
        for port in 0..10 {
            live.send("a", &Packet::new("10.0.0.1", "10.0.0.2").udp(round * 10 + port, 53));
        }
        live.received("b");
    }
    let sent = || (0..2).map(|worker| live.remote(worker).counters.sent.get()).sum::<u64>();
    live.wait("all packets", || sent() == 500);
    assert_eq!(live.dropped(DropReason::PolicyIngress), 0);
    tests::wait::until_true("old snapshots to be freed", std::time::Duration::from_secs(20), || live.is_settled());
}

#[test]
fn a_purge_forgets_the_flows_of_an_interface_only() {
    let live = Live::start(Plan::small(), 1);
    let flows = || {
        let mut ports: Vec<u16> = live.router().flows().iter().map(|view| view.key.destination_port).collect();
        ports.sort_unstable();
        ports
    };
    live.send("a", &Packet::new("10.0.0.1", "10.0.0.2").udp(4000, 2));
    live.send("b", &Packet::new("10.0.0.2", "10.0.0.3").udp(4000, 23));
    live.send("a", &Packet::new("10.0.0.1", "10.0.0.3").udp(4000, 3));
    live.wait("three flows", || flows() == [2, 3, 23]);
    let b = live.plan().index("b");
    live.command(|| Command::Purge(b));
    assert_eq!(flows(), [3]);
}

#[test]
fn a_queue_that_is_gone_drops_and_one_that_is_back_sends() {
    let mut live = two_workers();
    let b = live.plan().index("b");
    let packet = Packet::new("10.0.0.1", "10.0.0.2").udp(4000, 53);
    live.command(|| Command::Detach(b));
    live.send("a", &packet);
    live.wait("the drop", || live.dropped(DropReason::InterfaceDown) == 1);
    live.reattach("b");
    live.send("a", &packet);
    live.wait("the packet", || !live.received("b").is_empty());
}

#[test]
fn every_packet_of_a_burst_to_an_own_queue_that_is_gone_ends_the_same_way() {
    let live = two_workers();
    let up = live.plan().index("up");
    live.command(|| Command::Detach(up));
    for port in 0..200 {
        live.send("a", &Packet::new("10.0.0.1", "192.0.2.1").udp(port, 53));
    }
    let drops = || live.remote(0).counters.packets_dropped();
    live.wait("the drops", || drops() == 200);
    assert_eq!(live.dropped(DropReason::InterfaceDown), 200);
}
