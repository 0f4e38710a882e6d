//! Routes of several next hops: flows spread over them, each keeps to one, and when a next hop goes only its flows move.

use std::collections::BTreeMap;

use control::rib::buckets::deal;
use fastpath::burst::DropReason;
use fastpath::table::AdjacencyIndex;
use fastpath::table::group::Buckets;
use fastpath::table::interface::InterfaceKind;
use tests::packet::{ACK, Packet, SYN};
use tests::plan::{Attachment, Net, Plan, Way};
use tests::router::{Fate, Options, Router};

const NETS: [&str; 2] = ["192.0.2.0/24", "2001:db8::/32"];
const UPLINKS: [&str; 4] = ["up", "up2", "up3", "up4"];

/// Several uplinks, and a route of each family by those of them that control's function dealt buckets to.
struct Node {
    router: Router,
    buckets: Buckets,
}

impl Node {
    fn new(members: &[usize]) -> Node {
        let mut plan = Plan::small();
        for (position, name) in UPLINKS.iter().enumerate().skip(1) {
            plan.attachments.push(Attachment::shared(name, 10 + position as u8, InterfaceKind::Uplink));
        }
        let mut node = Node {
            router: Router::with(plan, Options { flows: 65_536, ..Options::default() }),
            buckets: Buckets::default(),
        };
        node.have(members);
        node
    }

    /// These are the next hops from now on.
    fn have(&mut self, members: &[usize]) {
        let places: Vec<AdjacencyIndex> = members.iter().map(|member| AdjacencyIndex(*member as u32)).collect();
        deal(&mut self.buckets, &places);
        let owners = match members {
            [] => Vec::new(),
            _ => self.buckets.0.iter().map(|owner| UPLINKS[owner.index()].to_string()).collect(),
        };
        self.router.update(|plan| {
            plan.routes.retain(|(net, _)| !NETS.map(Net::new).contains(net));
            plan.routes.extend(NETS.map(|net| (Net::new(net), Way::Choice(owners.clone()))));
        });
    }

    /// By which uplink each of so many flows leaves, half of them of either family.
    fn ways(&mut self, flows: u16) -> BTreeMap<u16, String> {
        let way = |flow: u16| {
            let (from, to) =
                if flow.is_multiple_of(2) { ("10.0.0.1", "192.0.2.1") } else { ("fd00::1", "2001:db8::1") };
            match self.router.fate("a", &Packet::new(from, to).udp(1024 + flow, 53)) {
                Fate::Forwarded { on, .. } => (flow, on),
                other => panic!("flow {flow}: {other}"),
            }
        };
        (0..flows).map(way).collect()
    }
}

fn counts(ways: &BTreeMap<u16, String>) -> BTreeMap<&str, u32> {
    let mut counts = BTreeMap::new();
    for way in ways.values() {
        *counts.entry(way.as_str()).or_insert(0) += 1;
    }
    counts
}

#[test]
fn flows_spread_and_keep_their_way() {
    let mut node = Node::new(&[0, 1, 2, 3]);
    let first = node.ways(4000);
    let expected = 1000.0;
    let chi_square: f64 = counts(&first).values().map(|count| (f64::from(*count) - expected).powi(2) / expected).sum();
    assert_eq!(counts(&first).len(), 4);
    // Three degrees of freedom: 30 has a chance of one in half a million.
    assert!(chi_square < 30.0, "{:?}", counts(&first));
    assert_eq!(node.ways(4000), first, "as known flows");
    node.router.update(|_| {});
    assert_eq!(node.ways(4000), first, "looked up again under new tables");
}

#[test]
fn only_flows_of_a_next_hop_that_goes_move_and_whoever_comes_gets_a_fair_share() {
    let mut node = Node::new(&[0, 1, 2, 3]);
    let before = node.ways(2000);
    node.have(&[0, 1, 3]);
    let after = node.ways(2000);
    assert_eq!(counts(&after).len(), 3);
    for (flow, way) in &after {
        let old = &before[flow];
        assert!(way == old || old == "up3", "flow {flow} went from {old} to {way}");
    }
    assert!(counts(&after).values().all(|count| (550..800).contains(count)), "{:?}", counts(&after));

    node.have(&[0, 1, 2, 3]);
    let again = node.ways(2000);
    for (flow, way) in &again {
        assert!(*way == after[flow] || way == "up3", "flow {flow} went from {} to {way}", after[flow]);
    }
    assert!((350..650).contains(&counts(&again)["up3"]), "{:?}", counts(&again));

    // One is left, and then none.
    node.have(&[1]);
    assert_eq!(counts(&node.ways(100)), BTreeMap::from([("up2", 100)]));
    node.have(&[]);
    node.router.fate("a", &Packet::new("10.0.0.1", "192.0.2.1").udp(1024, 53)).dropped(DropReason::NextHopsGone);
}

#[test]
fn replies_come_back_by_any_of_the_uplinks() {
    let mut node = Node::new(&[0, 1, 2]);
    for port in 4000..4016 {
        let syn = Packet::new("10.0.0.1", "192.0.2.1").tcp(port, 80, SYN);
        let Fate::Forwarded { on, .. } = node.router.fate("a", &syn) else { panic!("it leaves by some uplink") };
        assert!(UPLINKS.contains(&on.as_str()));
        for uplink in &UPLINKS[..3] {
            let reply = Packet::new("192.0.2.1", "10.0.0.1").tcp(80, port, SYN | ACK);
            node.router.fate(uplink, &reply).forwarded("a");
        }
    }
}

#[test]
fn a_member_that_is_down_says_so_and_its_mtu_counts() {
    let mut node = Node::new(&[0, 1]);
    let ways = node.ways(64);
    node.router.update(|plan| {
        plan.at_mut("up").is_up = false;
        plan.at_mut("up2").mtu = 600;
    });
    for flow in (0..64).step_by(2) {
        let packet = Packet::new("10.0.0.1", "192.0.2.1").udp(1024 + flow, 53).filled(1000);
        let fate = node.router.fate("a", &packet);
        match ways[&flow].as_str() {
            "up" => fate.dropped(DropReason::InterfaceDown),
            _ => assert!(matches!(fate, Fate::Answered(_)), "too big for the second: {fate}"),
        }
    }
}
