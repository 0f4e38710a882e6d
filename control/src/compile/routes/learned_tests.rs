//! Local and learned routes together, in random order, by whichever way they get into force: against the obvious twin, and
//! against a compiler that is told the end state at once.

use std::collections::{BTreeMap, BTreeSet};

use fastpath::rcu::Publisher;
use fastpath::table::EndpointIndex;
use proptest::prelude::*;

use super::tests::{destination, probes};
use super::*;
use crate::rib::nexthop::{Hops, Path};
use crate::rib::{Group, GroupId, GroupTarget, LearnedBatch};

/// Two links with sixteen neighbours each.
const LINKS: [u32; 2] = [1, 2];

fn next_hop(number: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, number % 32])
}

fn link_of(next_hop: IpAddr) -> u32 {
    let IpAddr::V4(address) = next_hop else { unreachable!("next hops here are of IPv4") };
    LINKS[usize::from(address.octets()[3] / 16)]
}

/// Everything that is asked for.
#[derive(Clone, Debug, Default)]
struct State {
    local: BTreeMap<Cidr, (u16, u8)>,
    groups: BTreeMap<u32, Group>,
    learned: BTreeMap<Cidr, u32>,
    /// Groups that were given up: whoever uses one again says anew what it is.
    retired: BTreeSet<u32>,
    down: BTreeSet<IpAddr>,
    without_link: Option<u32>,
}

#[derive(Clone, Debug)]
enum Event {
    Local(BTreeMap<Cidr, (u16, u8)>),
    Learn { groups: Vec<(u32, Group)>, routes: Vec<(Cidr, Option<u32>)>, retired: Vec<u32> },
    Down(u8, bool),
    Link(Option<u32>),
}

fn strength(number: u8) -> Strength {
    match number {
        0 => Strength::Firm,
        1 => Strength::Weak,
        number => Strength::Metric(u32::from(number)),
    }
}

/// A group keeps its metric: between those of local routes, and equal to one.
fn metric_of(group: u32) -> u32 {
    2 + group % 3
}

fn group(id: u32, next_hops: &[u8], backup: Option<u8>) -> Group {
    let target = GroupTarget::NextHops(next_hops.iter().map(|number| next_hop(*number)).collect());
    Group { target, backup: backup.map(next_hop), metric: metric_of(id) }
}

/// What becomes of a packet: the interfaces and MAC addresses it may leave by.
type Outcome = Option<BTreeSet<(u16, Vec<u8>)>>;

fn mac_of(address: IpAddr) -> [u8; 6] {
    let IpAddr::V4(address) = address else { unreachable!("next hops here are of IPv4") };
    [2, 0, 0, 0, 0, address.octets()[3]]
}

fn way_to(link: u32, address: IpAddr) -> Adjacency {
    let interface = InterfaceIndex(100 + link as u16);
    Adjacency::new(AdjacencyKind::Forward, interface, EndpointIndex::NONE, 1500, mac_of(address), [0; 6], [0; 2])
}

impl State {
    /// The obvious twin: looks through everything.
    fn outcome(&self, address: IpAddr) -> Outcome {
        let local = self.local.iter().filter(|(prefix, _)| prefix.contains(address)).max_by_key(|(p, _)| p.length());
        let learned =
            self.learned.iter().filter(|(prefix, _)| prefix.contains(address)).max_by_key(|(p, _)| p.length());
        let group = match (local, learned) {
            (None, None) => return None,
            (None, Some((_, group))) => group,
            (Some((own, (_, strong))), Some((prefix, group)))
                if prefix.length() > own.length()
                    || prefix == own && strength(*strong).yields_to(metric_of(*group)) =>
            {
                group
            }
            (Some((_, (way, _))), _) => return Some(BTreeSet::from([(*way, Vec::new())])),
        };
        let group = &self.groups[group];
        let GroupTarget::NextHops(next_hops) = &group.target else { unreachable!("no blackholes here") };
        let is_alive =
            |next_hop: &IpAddr| !self.down.contains(next_hop) && self.without_link != Some(link_of(*next_hop));
        let mut members: Vec<IpAddr> = next_hops.iter().copied().filter(is_alive).collect();
        if members.is_empty() {
            members.extend(group.backup.filter(is_alive));
        }
        Some(members.into_iter().map(|member| (100 + link_of(member) as u16, mac_of(member).to_vec())).collect())
    }

    fn uplinks(&self) -> BTreeMap<LinkIndex, InterfaceIndex> {
        let links = LINKS.iter().filter(|link| self.without_link != Some(**link));
        links.map(|link| (LinkIndex(*link), InterfaceIndex(100 + *link as u16))).collect()
    }

    /// As `compile` does.
    fn compile(&self, compiler: &mut RouteCompiler) -> Tables {
        // Without its link a next hop is nowhere, and not behind a learned route: that is asked in the tests of next hops.
        let nowhere = Path { hops: Hops::Nowhere, strength: Strength::Firm };
        let mut own = BTreeMap::from([(Cidr::new(next_hop(0), 24).unwrap(), nowhere)]);
        for (link, first) in [(LINKS[0], 0), (LINKS[1], 16)] {
            if self.without_link != Some(link) {
                let hops = Hops::Links(vec![(LinkIndex(link), None)]);
                let prefix = Cidr::new(next_hop(first), 28).unwrap();
                own.insert(prefix, Path { hops, strength: Strength::Metric(0) });
            }
        }
        compiler.rib.set_own(own);
        compiler.rib.resolve();
        let (members, uplinks) = (compiler.rib.members(), self.uplinks());
        let mut ways = BTreeMap::new();
        for member in &members {
            let Member::Neighbour { link, address } = member else { continue };
            let way = Way::NextHop(uplinks[link], *address);
            compiler.place(way);
            ways.insert(way, way_to(link.0, *address));
        }
        let mut local = BTreeMap::new();
        for (prefix, (way, strong)) in &self.local {
            let index = InterfaceIndex(*way);
            local.insert(*prefix, Local { place: compiler.place(Way::Endpoint(index)), strength: strength(*strong) });
            ways.insert(Way::Endpoint(index), Adjacency::without_rewrite(AdjacencyKind::Forward, index));
        }
        compiler.set_members(members, uplinks);
        let Snapshot { adjacencies, groups, routes } = compiler.follow(ways, local);
        Tables { adjacencies, groups, routes, ..Tables::default() }
    }

    /// The same at once.
    fn anew(&self) -> Tables {
        let mut compiler = RouteCompiler::new(Publisher::new(()).grace());
        compiler.rib.learn(LearnedBatch {
            groups: self.groups.iter().map(|(id, group)| (GroupId(*id), group.clone())).collect(),
            routes: self.learned.iter().map(|(prefix, group)| (*prefix, Some(GroupId(*group)))).collect(),
            ..LearnedBatch::default()
        });
        self.down.iter().for_each(|address| compiler.rib.next_hop_down(*address));
        let tables = self.compile(&mut compiler);
        compiler.apply();
        tables
    }

    /// Takes an event in, here and in the compiler. True if only a whole compilation can follow.
    fn take(&mut self, event: Event, compiler: &mut RouteCompiler) -> bool {
        match event {
            Event::Local(local) => self.local = local,
            Event::Link(link) => self.without_link = link,
            Event::Down(number, true) => {
                self.down.insert(next_hop(number));
                compiler.rib.next_hop_down(next_hop(number));
                return false;
            }
            Event::Down(number, false) => {
                self.down.remove(&next_hop(number));
                compiler.rib.next_hop_up(next_hop(number));
                return false;
            }
            Event::Learn { mut groups, routes, retired } => {
                let known = self.groups.keys().copied().filter(|id| !self.retired.contains(id));
                let known: BTreeSet<u32> = known.chain(groups.iter().map(|(id, _)| *id)).collect();
                let used: BTreeSet<u32> = routes.iter().filter_map(|(_, group)| *group).collect();
                groups.extend(used.difference(&known).map(|id| (*id, group(*id, &[*id as u8], None))));
                let mut batch = LearnedBatch::default();
                for (id, group) in groups {
                    batch.groups.push((GroupId(id), group.clone()));
                    self.groups.insert(id, group);
                    self.retired.remove(&id);
                }
                for (prefix, group) in routes {
                    batch.routes.push((prefix, group.map(GroupId)));
                    match group {
                        Some(group) => self.learned.insert(prefix, group),
                        None => self.learned.remove(&prefix),
                    };
                }
                // Some that no prefix leads to, and some that one does.
                batch.retired = retired.iter().copied().map(GroupId).collect();
                self.retired.extend(retired.iter().filter(|id| self.groups.contains_key(id)));
                compiler.rib.learn(batch);
                return false;
            }
        }
        true
    }
}

fn outcome(tables: &Tables, address: IpAddr) -> Outcome {
    let place = tables.routes.lookup(destination(address));
    let adjacency = tables.adjacency(place)?;
    let of = |adjacency: &Adjacency| {
        assert_eq!(adjacency.kind, AdjacencyKind::Forward, "{adjacency:?}");
        let rewrite = if adjacency.interface.0 < 100 { Vec::new() } else { adjacency.rewrite()[..6].to_vec() };
        (adjacency.interface.0, rewrite)
    };
    match adjacency.group() {
        None => Some(BTreeSet::from([of(adjacency)])),
        Some(group) => {
            let buckets = tables.groups.groups.get(group.index()).map_or([].as_slice(), |buckets| &buckets.0);
            Some(buckets.iter().map(|member| of(tables.adjacency(*member).unwrap())).collect())
        }
    }
}

fn prefix() -> impl Strategy<Value = Cidr> {
    let ipv4 =
        (0u32..1 << 8, 20u8..=32).prop_map(|(low, length)| (IpAddr::V4((0x0a00_0000 | low << 4).into()), length));
    let ipv6 =
        (0u128..1 << 4, 56u8..=128).prop_map(|(low, length)| (IpAddr::V6((0xfd00 << 112 | low << 62).into()), length));
    let any = prop_oneof![Just((IpAddr::V4(0.into()), 0)), Just((IpAddr::V6(0.into()), 0))];
    let prefix = prop_oneof![5 => ipv4, 3 => ipv6, 1 => any];
    prefix.prop_filter_map("a prefix", |(address, length)| Some(Cidr::new(address, length)?.masked()))
}

/// Few prefixes, so that local and learned ones meet.
fn prefixes() -> impl Strategy<Value = Vec<Cidr>> {
    prop::collection::vec(prefix(), 10)
}

fn event(prefixes: Vec<Cidr>) -> impl Strategy<Value = Event> {
    let one = prop::sample::select(prefixes);
    let id = 0u32..5;
    let next_hop = || prop_oneof![0u8..4, 16u8..18];
    let defined = (id.clone(), prop::collection::vec(next_hop(), 0..4), prop::option::of(next_hop()));
    let defined = defined.prop_map(|(id, next_hops, backup)| (id, group(id, &next_hops, backup)));
    let local = prop::collection::btree_map(one.clone(), (0u16..5, 0u8..5), 0..6).prop_map(Event::Local);
    let learn = (
        prop::collection::vec(defined, 0..3),
        prop::collection::vec((one, prop::option::weighted(0.7, id.clone())), 0..8),
        prop::collection::vec(id, 0..2),
    );
    let learn = learn.prop_map(|(groups, routes, retired)| Event::Learn { groups, routes, retired });
    let down = (next_hop(), any::<bool>()).prop_map(|(number, is_down)| Event::Down(number, is_down));
    let link = prop::option::of(prop::sample::select(LINKS.to_vec())).prop_map(Event::Link);
    prop_oneof![2 => local, 5 => learn, 2 => down, 1 => link]
}

/// How an event gets into force.
#[derive(Clone, Copy, Debug)]
enum By {
    Compiling,
    Refreshing,
    /// With the next.
    Waiting,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn changes_of_both_kinds_equal_the_whole_worked_out_anew(
        (prefixes, events) in prefixes().prop_flat_map(|prefixes| {
            let by = prop_oneof![Just(By::Compiling), Just(By::Refreshing), Just(By::Refreshing), Just(By::Waiting)];
            (Just(prefixes.clone()), prop::collection::vec((event(prefixes), by), 1..24))
        }),
    ) {
        let all: BTreeMap<Cidr, u16> = prefixes.into_iter().map(|prefix| (prefix, 0)).collect();
        let probes = probes(&[all]);
        let mut publisher = Publisher::new(Tables::default());
        let mut compiler = RouteCompiler::new(publisher.grace());
        let mut reader = publisher.reader();
        let mut state = State::default();
        publisher.publish(state.compile(&mut compiler));
        compiler.apply();
        let mut has_to_compile = false;
        for (event, by) in events {
            reader.enter();
            has_to_compile |= state.take(event, &mut compiler);
            match by {
                By::Waiting => continue,
                By::Refreshing if !has_to_compile => match compiler.refresh(publisher.current()) {
                    Refresh::Compile => publisher.publish(state.compile(&mut compiler)),
                    Refresh::Publish(tables) => publisher.publish(*tables),
                    Refresh::Nothing | Refresh::Apply => {}
                },
                By::Compiling | By::Refreshing => publisher.publish(state.compile(&mut compiler)),
            }
            compiler.apply();
            has_to_compile = false;
            let anew = state.anew();
            for probe in &probes {
                let expected = state.outcome(*probe);
                prop_assert_eq!(outcome(publisher.current(), *probe), expected.clone(), "{}", probe);
                prop_assert_eq!(outcome(&anew, *probe), expected, "{} anew", probe);
            }
        }
        // What is not used has no place: the ways that are wanted, and a few that wait for their end.
        prop_assert!(compiler.begun < 64, "{} places", compiler.begun);
    }
}
