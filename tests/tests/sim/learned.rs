//! Learned routes through the RIB into the tables of the workers: that they are there, and what it costs.
//!
//! They print figures; with as many routes as there are in the world, and a release build:
//! `LEARNED_ROUTES=1000000 cargo test --release -p tests --test sim -- --nocapture learned`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use config::net::{Cidr, MacAddress};
use control::compile::{Attachment, Choices, HostView, Refresh, RouteCompiler, compile};
use control::host::{InterfaceAddress, Link, LinkIndex, Neighbour, NeighbourState, NextHop, Route, Target};
use control::node_state::NodeState;
use control::rib::learned::Learned;
use control::rib::{Group, GroupId, GroupTarget, LearnedBatch};
use fastpath::flow::mapped_address;
use fastpath::rcu::Publisher;
use fastpath::table::adjacency::AdjacencyKind;
use fastpath::table::interface::InterfaceKind;
use fastpath::table::{InterfaceIndex, Tables, WorkerIndex};

use tests::random::Random;

const UPLINK: LinkIndex = LinkIndex(1);
const BATCH: usize = 10_000;
const METRIC: u32 = 1024;
/// Routes in an ordinary run.
const ROUTES: usize = 5000;

fn routes(usual: usize) -> usize {
    std::env::var("LEARNED_ROUTES").map_or(usual, |text| text.parse().expect("LEARNED_ROUTES: a number"))
}

fn next_hop(number: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, number))
}

/// A node with one uplink, whose neighbours all answer.
struct Node {
    links: BTreeMap<LinkIndex, Link>,
    neighbours: BTreeMap<(LinkIndex, IpAddr), Neighbour>,
    attached: BTreeMap<String, Attachment>,
    routes: Vec<Route>,
    compiler: RouteCompiler,
    publisher: Publisher<Tables>,
    generation: u32,
}

impl Node {
    fn new() -> Node {
        let link =
            Link { mac: Some(MacAddress([2; 6])), mtu: 1500, up: true, running: true, ..Link::named(UPLINK, "up") };
        let neighbour = |number: u8| Neighbour {
            link: UPLINK,
            address: next_hop(number),
            mac: Some(MacAddress([2, 0, 0, 0, 1, number])),
            state: NeighbourState::Reachable,
            is_managed: true,
            is_ours: true,
            is_router: false,
        };
        let attachment =
            Attachment { index: InterfaceIndex(1), link: UPLINK, kind: InterfaceKind::Uplink, owner: WorkerIndex(0) };
        let on_link = NextHop { link: UPLINK, gateway: None, onlink: false };
        let publisher = Publisher::new(Tables::default());
        Node {
            links: BTreeMap::from([(UPLINK, link)]),
            neighbours: (1..9).map(|number| ((UPLINK, next_hop(number)), neighbour(number))).collect(),
            attached: BTreeMap::from([("up".to_owned(), attachment)]),
            routes: vec![Route::new(Cidr::parse("192.0.2.0/24").unwrap(), 0, Target::Forward(vec![on_link]))],
            compiler: RouteCompiler::new(publisher.grace()),
            publisher,
            generation: 0,
        }
    }

    fn compile(&mut self) {
        self.generation += 1;
        let view = HostView {
            links: &self.links,
            neighbours: &self.neighbours,
            routes: &self.routes,
            addresses: &[InterfaceAddress { link: UPLINK, address: next_hop(250), prefix_length: 24 }],
            attached: &self.attached,
            host_link: None,
        };
        let choices = Choices { seed: 1, ..Choices::default() };
        let state = NodeState::default();
        let compiled = compile(&state, Default::default(), &mut self.compiler, &view, &choices, self.generation);
        self.publisher.publish(compiled.tables);
        self.compiler.apply();
    }

    /// As control's `settle` does.
    fn settle(&mut self) {
        match self.compiler.refresh(self.publisher.current()) {
            Refresh::Nothing => return,
            Refresh::Compile => return self.compile(),
            Refresh::Apply => {}
            Refresh::Publish(mut tables) => {
                self.generation += 1;
                tables.generation = self.generation;
                self.publisher.publish(*tables);
            }
        }
        self.compiler.apply();
    }

    fn define(&mut self, group: u32, next_hops: &[u8], backup: Option<u8>) {
        let target = GroupTarget::NextHops(next_hops.iter().map(|number| next_hop(*number)).collect());
        let groups = vec![(GroupId(group), Group { target, backup: backup.map(next_hop), metric: METRIC })];
        self.compiler.rib.learn(LearnedBatch { groups, ..LearnedBatch::default() });
    }

    fn learn(&mut self, prefixes: &[Cidr], group: Option<u32>) {
        let routes = prefixes.iter().map(|prefix| (*prefix, group.map(GroupId))).collect();
        self.compiler.rib.learn(LearnedBatch { routes, ..LearnedBatch::default() });
        self.settle();
    }

    /// The last bytes of the MAC addresses that packets to an address may be sent to.
    fn ways(&self, address: IpAddr) -> Vec<u8> {
        let tables = self.publisher.current();
        let Some(adjacency) = tables.adjacency(tables.route(mapped_address(address), address.is_ipv4())) else {
            return Vec::new();
        };
        let mut ways: Vec<u8> = match adjacency.group() {
            None if adjacency.kind == AdjacencyKind::Forward => vec![adjacency.rewrite()[5]],
            None => Vec::new(),
            Some(group) => {
                let buckets = tables.groups.groups.get(group.index()).map_or([].as_slice(), |buckets| &buckets.0);
                buckets.iter().map(|member| tables.adjacency(*member).unwrap().rewrite()[5]).collect()
            }
        };
        ways.sort_unstable();
        ways.dedup();
        ways
    }
}

/// Distinct prefixes of the lengths that the public network has: mostly /24, many /22 and /23, few shorter ones.
fn ipv4_prefixes(count: usize) -> Vec<Cidr> {
    let mut random = Random::new(4);
    let mut prefixes = std::collections::BTreeSet::new();
    while prefixes.len() < count {
        let length = match random.below(100) {
            0..60 => 24,
            60..71 => 23,
            71..83 => 22,
            83..96 => 20,
            _ => 16,
        };
        let address = 0x0100_0000 + random.below(0xdf00_0000) as u32;
        prefixes.extend(Cidr::new(IpAddr::V4(address.into()), length).map(|prefix| prefix.masked()));
    }
    let mut prefixes: Vec<Cidr> = prefixes.into_iter().collect();
    random.shuffle(&mut prefixes);
    prefixes
}

fn ipv6_prefixes(count: usize) -> Vec<Cidr> {
    let mut random = Random::new(6);
    let mut prefixes = std::collections::BTreeSet::new();
    while prefixes.len() < count {
        let length = [48, 48, 48, 32, 40, 44][random.below(6)];
        let address = 0x2000 << 112 | (random.below(1 << 16) as u128) << 96 | (random.below(1 << 20) as u128) << 76;
        prefixes.extend(Cidr::new(IpAddr::V6(Ipv6Addr::from_bits(address)), length).map(|prefix| prefix.masked()));
    }
    let mut prefixes: Vec<Cidr> = prefixes.into_iter().collect();
    random.shuffle(&mut prefixes);
    prefixes
}

fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

fn tell(what: &str, count: usize, time: Duration, bytes: Option<usize>) {
    let each = time.as_nanos() / count.max(1) as u128;
    let memory = bytes.map_or(String::new(), |bytes| format!(", {} MiB, {} B each", bytes >> 20, bytes / count));
    println!("{what}: {count} in {:.1} ms, {each} ns each{memory}", time.as_secs_f64() * 1e3);
}

/// Told in batches, and found; moved by a next hop that goes and comes; withdrawn.
fn check(what: &str, prefixes: &[Cidr], told: bool) {
    let mut node = Node::new();
    node.define(1, &[1, 2], None);
    node.compile();
    let before = resident();
    let (begun, mut longest) = (Instant::now(), Duration::ZERO);
    for batch in prefixes.chunks(BATCH) {
        let begun = Instant::now();
        node.learn(batch, Some(1));
        longest = longest.max(begun.elapsed());
    }
    let time = begun.elapsed();
    if told {
        tell(&format!("{what} learned, in force"), prefixes.len(), time, Some(resident().saturating_sub(before)));
        println!("{what}: the longest batch took {:.1} ms", longest.as_secs_f64() * 1e3);
    }
    let all_by = |node: &Node, ways: &[u8]| {
        for prefix in prefixes.iter().step_by(97) {
            assert_eq!(node.ways(prefix.address()), ways, "{prefix}");
        }
    };
    all_by(&node, &[1, 2]);

    let begun = Instant::now();
    node.compiler.rib.next_hop_down(next_hop(1));
    node.settle();
    if told {
        println!("{what}: a next hop of all goes, in force after {:.3} ms", begun.elapsed().as_secs_f64() * 1e3);
    }
    all_by(&node, &[2]);
    node.compiler.rib.next_hop_up(next_hop(1));
    node.settle();
    all_by(&node, &[1, 2]);

    let begun = Instant::now();
    for batch in prefixes.chunks(BATCH) {
        node.learn(batch, None);
    }
    if told {
        tell(&format!("{what} withdrawn"), prefixes.len(), begun.elapsed(), None);
    }
    all_by(&node, &[]);
}

#[test]
fn learned_routes_are_found_follow_their_next_hops_and_go() {
    check("IPv4", &ipv4_prefixes(3000), false);
    check("IPv6", &ipv6_prefixes(1500), false);
}

#[test]
fn a_link_that_goes_takes_its_next_hops_and_an_own_route_that_comes_gives_them_others() {
    let mut node = Node::new();
    node.define(1, &[1], None);
    node.compile();
    let prefix = Cidr::parse("10.0.0.0/8").unwrap();
    node.learn(&[prefix], Some(1));
    assert_eq!(node.ways(prefix.address()), [1]);
    let routes = std::mem::take(&mut node.routes);
    node.compile();
    assert!(node.ways(prefix.address()).is_empty());
    // By a gateway: the next hop is not a neighbour any more.
    let hop = NextHop { link: UPLINK, gateway: Some(next_hop(5)), onlink: true };
    node.routes = vec![Route::new(Cidr::parse("192.0.2.1/32").unwrap(), 5, Target::Forward(vec![hop]))];
    node.compile();
    assert_eq!(node.ways(prefix.address()), [5]);
    node.routes = routes;
    // Its neighbour does not answer, and no other is left: whoever sends there is told.
    node.neighbours.get_mut(&(UPLINK, next_hop(1))).unwrap().state = NeighbourState::Failed;
    node.compile();
    assert!(node.ways(prefix.address()).is_empty());
    node.define(1, &[1, 3], None);
    node.settle();
    assert_eq!(node.ways(prefix.address()), [3], "the one that answers");
}

#[test]
fn the_backup_is_the_way_of_all_prefixes_at_once() {
    let prefixes = ipv4_prefixes(routes(ROUTES).min(100_000));
    let mut node = Node::new();
    node.define(1, &[1], Some(2));
    node.compile();
    for batch in prefixes.chunks(BATCH) {
        node.learn(batch, Some(1));
    }
    let all_by = |node: &Node, way: u8| prefixes.iter().all(|prefix| node.ways(prefix.address()) == [way]);
    assert!(all_by(&node, 1));
    let begun = Instant::now();
    node.compiler.rib.next_hop_down(next_hop(1));
    node.settle();
    tell("the only next hop goes, all by its backup", prefixes.len(), begun.elapsed(), None);
    assert!(all_by(&node, 2));
    node.compiler.rib.next_hop_up(next_hop(1));
    node.settle();
    assert!(all_by(&node, 1));
}

#[test]
fn learned_routes_of_ipv4() {
    let prefixes = ipv4_prefixes(routes(ROUTES));
    let mut learned = Learned::default();
    let before = resident();
    let begun = Instant::now();
    for prefix in &prefixes {
        learned.insert(prefix, GroupId(1));
    }
    tell("IPv4 prefixes alone", prefixes.len(), begun.elapsed(), Some(resident().saturating_sub(before)));
    drop(learned);
    let mut sorted = prefixes.clone();
    sorted.sort_unstable();
    let mut learned = Learned::default();
    let before = resident();
    for prefix in &sorted {
        learned.insert(prefix, GroupId(1));
    }
    tell("the same in order", prefixes.len(), Duration::ZERO, Some(resident().saturating_sub(before)));
    drop(learned);
    check("IPv4", &prefixes, true);
    check("IPv4 behind one next hop", &prefixes[..prefixes.len() / 10], true);
}

#[test]
fn learned_routes_of_ipv6() {
    let prefixes = ipv6_prefixes(routes(ROUTES).min(230_000));
    let mut learned = Learned::default();
    let before = resident();
    let begun = Instant::now();
    for prefix in &prefixes {
        learned.insert(prefix, GroupId(1));
    }
    tell("IPv6 prefixes alone", prefixes.len(), begun.elapsed(), Some(resident().saturating_sub(before)));
    check("IPv6", &prefixes, true);
}
