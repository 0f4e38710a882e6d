//! What next hops come to, case by case.

use super::*;
use crate::rib::GroupId;

/// A node with three links, as text: own routes, then learned ones, then who is down.
#[derive(Default)]
struct Node {
    next_hops: NextHops,
    learned: Learned,
    groups: BTreeMap<GroupId, Group>,
}

impl Definitions for BTreeMap<GroupId, Group> {
    fn definition(&self, group: GroupId) -> Option<&Group> {
        self.get(&group)
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn addresses(text: &str) -> Vec<IpAddr> {
    text.split_whitespace().map(address).collect()
}

impl Node {
    /// `PREFIX METRIC HOP…`, where a hop is `LINK` or `LINK:GATEWAY`; `self` and `endpoint` stand for themselves.
    fn own(lines: &[&str]) -> Node {
        let mut own = BTreeMap::new();
        for line in lines {
            let (prefix, rest) = line.split_once(' ').unwrap();
            let (metric, hops) = rest.split_once(' ').unwrap();
            let strength = match metric {
                "firm" => Strength::Firm,
                "weak" => Strength::Weak,
                metric => Strength::Metric(metric.parse().unwrap()),
            };
            let hops = match hops {
                "self" => Hops::Nowhere,
                "endpoint" => Hops::Endpoint(InterfaceIndex(7)),
                hops => Hops::Links(hops.split(' ').map(hop).collect()),
            };
            own.insert(Cidr::parse(prefix).unwrap(), Path { hops, strength });
        }
        let mut node = Node::default();
        node.next_hops.set_own(own);
        node
    }

    /// `HOP… | BACKUP`, or `blackhole`.
    fn learn(mut self, prefix: &str, metric: u32, next_hops: &str) -> Node {
        let id = GroupId(self.groups.len() as u32);
        let (next_hops, backup) = next_hops.split_once(" | ").unwrap_or((next_hops, ""));
        let target = match next_hops {
            "blackhole" => GroupTarget::Blackhole,
            next_hops => GroupTarget::NextHops(addresses(next_hops)),
        };
        self.groups.insert(id, Group { target, backup: addresses(backup).pop(), metric });
        self.learned.insert(&Cidr::parse(prefix).unwrap(), id);
        self
    }

    fn down(mut self, next_hop: &str) -> Node {
        assert!(self.next_hops.set_down(address(next_hop), true));
        self
    }

    /// `LINK:ADDRESS…` and the metric, or `unreachable`.
    fn check(&self, next_hop: &str, expected: &str) {
        let Resolved { members, metric } = self.next_hops.resolved(address(next_hop), &self.learned, &self.groups);
        let members: Vec<String> = members
            .iter()
            .map(|member| match member {
                Member::Neighbour { link, address } => format!("{}:{address}", link.0),
                Member::Endpoint(interface) => format!("endpoint {}", interface.0),
            })
            .collect();
        let found = metric.map_or("unreachable".to_owned(), |metric| format!("{} metric {metric}", members.join(" ")));
        assert_eq!(found, expected, "{next_hop}");
    }
}

fn hop(text: &str) -> (LinkIndex, Option<IpAddr>) {
    let (link, gateway) = text.split_once('@').map_or((text, None), |(link, gateway)| (link, Some(address(gateway))));
    (LinkIndex(link.parse().unwrap()), gateway)
}

fn node() -> Node {
    Node::own(&[
        "10.1.0.0/24 0 1",
        "10.2.0.0/24 0 2",
        "fd00:1::/64 256 1",
        "10.1.0.9/32 firm self",
        "10.0.5.1/32 firm endpoint",
        "10.0.0.0/16 weak self",
        "172.16.0.0/12 20 1@10.1.0.1 2@10.2.0.1",
        "0.0.0.0/0 100 1@10.1.0.1",
    ])
}

#[test]
fn by_own_routes() {
    let node = node();
    node.check("10.1.0.7", "1:10.1.0.7 metric 0");
    node.check("10.2.0.7", "2:10.2.0.7 metric 0");
    node.check("fd00:1::7", "1:fd00:1::7 metric 256");
    node.check("fd00:2::7", "unreachable");
    node.check("172.16.9.9", "1:10.1.0.1 2:10.2.0.1 metric 20");
    node.check("8.8.8.8", "1:10.1.0.1 metric 100");
    // The node itself, a workload, and a pool in which nobody has the address.
    node.check("10.1.0.9", "unreachable");
    node.check("10.0.5.1", "endpoint 7 metric 0");
    node.check("10.0.5.2", "unreachable");
    node.check("fe80::1", "unreachable");
}

#[test]
fn who_is_down_is_nobodys_way() {
    let node = node().down("10.1.0.1").down("10.2.0.7");
    node.check("10.2.0.7", "unreachable");
    node.check("10.1.0.7", "1:10.1.0.7 metric 0");
    node.check("172.16.9.9", "2:10.2.0.1 metric 20");
    node.check("8.8.8.8", "unreachable");
}

#[test]
fn through_learned_routes() {
    let node = node()
        .learn("192.0.2.0/24", 1024, "10.1.0.7 10.2.0.7")
        .learn("198.51.100.0/24", 1024, "192.0.2.1")
        .learn("203.0.113.0/24", 1024, "198.51.100.1 10.2.0.8")
        .learn("10.0.7.0/24", 1024, "10.1.0.7")
        .learn("10.9.0.0/26", 1024, "blackhole");
    node.check("192.0.2.1", "1:10.1.0.7 2:10.2.0.7 metric 0");
    node.check("198.51.100.1", "1:10.1.0.7 2:10.2.0.7 metric 0");
    node.check("203.0.113.1", "1:10.1.0.7 2:10.2.0.7 2:10.2.0.8 metric 0");
    node.check("10.0.7.1", "1:10.1.0.7 metric 0");
    node.check("10.9.0.1", "unreachable");
    let node = node.down("10.1.0.7");
    node.check("203.0.113.1", "2:10.2.0.7 2:10.2.0.8 metric 0");
    node.check("10.0.7.1", "unreachable");
}

#[test]
fn by_the_backup_when_nothing_else_is_left() {
    let node = node().learn("192.0.2.0/24", 1024, "10.1.0.7 10.1.0.8 | 172.16.0.1").learn(
        "198.51.100.0/24",
        1024,
        "10.1.0.7 | 192.0.2.1",
    );
    node.check("192.0.2.1", "1:10.1.0.7 1:10.1.0.8 metric 0");
    let node = node.down("10.1.0.7");
    node.check("192.0.2.1", "1:10.1.0.8 metric 0");
    node.check("198.51.100.1", "1:10.1.0.8 metric 0");
    let node = node.down("10.1.0.8");
    node.check("192.0.2.1", "1:10.1.0.1 2:10.2.0.1 metric 20");
    node.check("198.51.100.1", "1:10.1.0.1 2:10.2.0.1 metric 20");
    node.down("172.16.0.1").check("192.0.2.1", "unreachable");
}

#[test]
fn of_equal_prefixes() {
    let node = node()
        .learn("10.1.0.0/24", 10, "10.2.0.7")
        .learn("172.16.0.0/12", 19, "10.2.0.8")
        .learn("10.0.0.0/16", 1024, "10.2.0.9")
        .learn("0.0.0.0/0", 100, "10.2.0.9");
    node.check("10.1.0.7", "1:10.1.0.7 metric 0");
    node.check("172.16.1.1", "2:10.2.0.8 metric 0");
    node.check("10.0.5.2", "2:10.2.0.9 metric 0");
    node.check("8.8.8.8", "1:10.1.0.1 metric 100");
}

#[test]
fn never_through_itself() {
    // A peer tells its own address, with itself as the next hop.
    let node = node().learn("10.1.0.7/32", 1024, "10.1.0.7").learn("10.1.0.0/28", 1024, "10.1.0.7 10.2.0.7");
    node.check("10.1.0.7", "1:10.1.0.7 metric 0");
    node.check("10.1.0.8", "1:10.1.0.7 2:10.2.0.7 metric 0");
    // In a ring: what is left is the default route.
    let node = node.learn("192.0.2.0/24", 1024, "198.51.100.1").learn("198.51.100.0/24", 1024, "192.0.2.1");
    node.check("192.0.2.1", "1:10.1.0.1 metric 100");
}

#[test]
fn depth_and_work_are_bounded() {
    let mut node = node();
    for step in 1..8 {
        node = node.learn(&format!("192.0.{step}.0/24"), 1024, &format!("192.0.{}.1", step + 1));
    }
    let mut node = node.learn("192.0.8.0/24", 1024, "10.1.0.7");
    node.check("192.0.8.1", "1:10.1.0.7 metric 0");
    node.check("192.0.5.1", "1:10.1.0.7 metric 0");
    node.check("192.0.4.1", "unreachable");
    // Each leads to all of the next: 16^4 ways.
    for step in 0u32..4 {
        let next: Vec<String> = (0..16).map(|host| format!("198.51.{}.{host}", step + 1)).collect();
        node = node.learn(&format!("198.51.{step}.0/24"), 1024, &next.join(" "));
    }
    node.check("198.51.3.1", "1:10.1.0.1 metric 100");
    node.check("198.51.0.1", "unreachable");
}

#[test]
fn reachability_is_told_once_and_when_it_changes() {
    let Node { mut next_hops, learned, groups } = node();
    let far = address("172.16.0.1");
    assert!(next_hops.watch(far, true) && next_hops.count(address("10.1.0.7"), true));
    next_hops.resolve(&learned, &groups);
    assert_eq!(next_hops.take_reachability(), Reachability::from([(far, Some(20))]), "and not of who is not watched");
    next_hops.resolve(&learned, &groups);
    assert_eq!(next_hops.take_reachability(), Reachability::new());
    next_hops.set_down(address("10.1.0.1"), true);
    assert!(next_hops.resolve(&learned, &groups));
    assert_eq!(next_hops.take_reachability(), Reachability::new(), "by the other gateway");
    next_hops.set_down(address("10.2.0.1"), true);
    next_hops.resolve(&learned, &groups);
    assert_eq!(next_hops.take_reachability(), Reachability::from([(far, None)]));
    next_hops.watch(far, false);
    next_hops.set_down(address("10.2.0.1"), false);
    next_hops.resolve(&learned, &groups);
    assert_eq!(next_hops.take_reachability(), Reachability::new());
    assert_eq!(next_hops.members(far), []);
    // Who asks again is told again.
    next_hops.watch(far, true);
    next_hops.resolve(&learned, &groups);
    assert_eq!(next_hops.take_reachability(), Reachability::from([(far, Some(20))]));
}

#[test]
fn only_a_prefix_around_a_next_hop_makes_anything_be_resolved_again() {
    let Node { mut next_hops, learned, groups } = node();
    next_hops.count(address("192.0.2.77"), true);
    assert!(next_hops.resolve(&learned, &groups), "by the default route");
    for (prefix, is_near) in [
        ("192.0.3.0/24", false),
        ("192.0.2.76/32", false),
        ("192.0.2.64/26", true),
        ("0.0.0.0/0", true),
        ("::/0", false),
    ] {
        next_hops.note_learned(&Cidr::parse(prefix).unwrap());
        assert_eq!(std::mem::take(&mut next_hops.is_stale), is_near, "{prefix}");
    }
}
