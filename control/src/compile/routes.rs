//! Routes as workers have them, kept up to date change by change; and places for the ways out, which stay.
//!
//! ```text
//!     wanted: prefix → way ──compare with what is installed──▶ changes ─┬─ IPv6: into the next snapshot's table
//!     ways ──▶ places, all of which are in the next snapshot            └─ IPv4: `apply`, when it is published
//! ```
//!
//! What is wanted is worked out whole each time; only what differs is changed. A way out keeps its place in all snapshots
//! while it is wanted, whatever becomes of it (a MAC address is found, an MTU changes), so routes that lead there stay as
//! they are. A way that is wanted no longer stays in its place as a blackhole until no route and no breath can know it.
//!
//! IPv4 routes change one after the other, in an order in which each address goes from its old way to its new one: first
//! those that come or change, the longest first, then those that go, the shortest first. In any other order an address
//! would for a moment lead where neither the old routes nor the new ones say.
//!
//! Invariants: two ways never share a place; a place is given to another way only after a grace period that began when no
//! route led there. What was compiled but not published is no loss: its changes are made with the next.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use config::net::Cidr;
use fastpath::rcu::Grace;
use fastpath::table::adjacency::{Adjacency, AdjacencyKind};
use fastpath::table::routes::{Routes, RoutesWriter};
use fastpath::table::{AdjacencyIndex, InterfaceIndex};

/// What makes a way out that way and no other, as long as it is wanted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Way {
    Nowhere,
    /// To whoever is on that link.
    OnLink(InterfaceIndex),
    NextHop(InterfaceIndex, IpAddr),
    Endpoint(InterfaceIndex),
    /// To the host's own stack.
    Host,
    /// Frames that pass unchanged, of an uplink to the host's stack and from there.
    ToHost(InterfaceIndex),
    FromHost(InterfaceIndex),
}

/// The routes of the node, as workers have them.
pub struct RouteCompiler {
    writer: RoutesWriter,
    grace: Grace,
    /// What was given to the writer last.
    installed: BTreeMap<Cidr, AdjacencyIndex>,
    places: BTreeMap<Way, AdjacencyIndex>,
    /// Places that were ever given.
    begun: u32,
    free: Vec<AdjacencyIndex>,
    /// Of ways that are wanted no longer, while routes may lead there.
    leaving: Vec<AdjacencyIndex>,
    /// The same with no route, and the epoch to wait for.
    retired: VecDeque<(u64, AdjacencyIndex)>,
}

impl RouteCompiler {
    /// No routes. `grace` is that of the publisher of the tables.
    pub fn new(grace: Grace) -> Self {
        Self {
            writer: RoutesWriter::new(grace.clone()),
            grace,
            installed: BTreeMap::new(),
            places: BTreeMap::new(),
            begun: 0,
            free: Vec::new(),
            leaving: Vec::new(),
            retired: VecDeque::new(),
        }
    }

    /// The place of a way.
    pub(super) fn place(&mut self, way: Way) -> AdjacencyIndex {
        if let Some(place) = self.places.get(&way) {
            return *place;
        }
        let passed = if self.retired.is_empty() { 0 } else { self.grace.passed() };
        while let Some((_, place)) = self.retired.pop_front_if(|(epoch, _)| *epoch <= passed) {
            self.free.push(place);
        }
        let place = self.free.pop().unwrap_or_else(|| {
            self.begun += 1;
            AdjacencyIndex(self.begun - 1)
        });
        self.places.insert(way, place);
        place
    }

    /// Takes what is wanted, and gives what belongs into the next snapshot. `apply` when that is published.
    pub(super) fn follow(
        &mut self,
        mut ways: BTreeMap<Way, Adjacency>,
        wanted: BTreeMap<Cidr, AdjacencyIndex>,
    ) -> (Vec<Adjacency>, Routes) {
        let nothing = Adjacency::without_rewrite(AdjacencyKind::Blackhole, InterfaceIndex::NONE);
        let mut adjacencies = vec![nothing; self.begun as usize];
        self.places.retain(|way, place| match ways.remove(way) {
            Some(adjacency) => {
                adjacencies[place.index()] = adjacency;
                true
            }
            None => {
                self.leaving.push(*place);
                false
            }
        });
        self.change(wanted);
        (adjacencies, self.writer.routes())
    }

    /// Gives the writer what differs, in the order of the header.
    fn change(&mut self, wanted: BTreeMap<Cidr, AdjacencyIndex>) {
        let is_new = |(prefix, place): &(&Cidr, &AdjacencyIndex)| self.installed.get(prefix) != Some(place);
        let mut coming: Vec<(Cidr, AdjacencyIndex)> = wanted.iter().filter(is_new).map(|(p, a)| (*p, *a)).collect();
        let mut going: Vec<Cidr> =
            self.installed.keys().filter(|prefix| !wanted.contains_key(prefix)).copied().collect();
        coming.sort_by_key(|(prefix, _)| Reverse(prefix.length()));
        going.sort_by_key(Cidr::length);
        self.writer.expect(wanted.len());
        let changes = coming.into_iter().map(|(prefix, place)| (prefix, Some(place)));
        for (prefix, place) in changes.chain(going.into_iter().map(|prefix| (prefix, None))) {
            match prefix.address() {
                IpAddr::V4(address) => self.writer.change_ipv4(address.to_bits(), prefix.length(), place),
                IpAddr::V6(address) => self.writer.change_ipv6(address.to_bits(), prefix.length(), place),
            }
        }
        self.installed = wanted;
    }

    /// Changes the IPv4 routes. The snapshot that `compile` gave last must be published, or the first of all.
    pub fn apply(&mut self) {
        self.writer.apply();
        let epoch = if self.leaving.is_empty() { 0 } else { self.grace.stamp() };
        self.retired.extend(self.leaving.drain(..).map(|place| (epoch, place)));
    }

    /// What could not be done, for people.
    pub fn problems(&self) -> Option<String> {
        let count = self.writer.nowhere();
        (count > 0)
            .then(|| format!("{count} IPv4 networks of 256 addresses lead nowhere: too many routes longer than /24"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fastpath::flow::mapped_address;
    use fastpath::rcu::Publisher;
    use fastpath::table::routes::Destination;
    use proptest::prelude::*;

    /// Prefixes of few addresses, each with one of a few ways.
    fn wanted() -> impl Strategy<Value = BTreeMap<Cidr, u16>> {
        let ipv4 =
            (0u32..1 << 10, 20u8..=32).prop_map(|(low, length)| (IpAddr::V4((0x0a00_0000 | low << 2).into()), length));
        let ipv6 = (0u128..1 << 6, 56u8..=128)
            .prop_map(|(low, length)| (IpAddr::V6((0xfd00 << 112 | low << 62).into()), length));
        let any = prop_oneof![Just((IpAddr::V4(0.into()), 0)), Just((IpAddr::V6(0.into()), 0))];
        let prefix = prop_oneof![5 => ipv4, 3 => ipv6, 1 => any];
        let prefix = prefix.prop_filter_map("a prefix", |(address, length)| Some(Cidr::new(address, length)?.masked()));
        prop::collection::btree_map(prefix, 0u16..6, 0..12)
    }

    /// Where an address should lead: to the interface that stands for the way.
    fn slow(wanted: &BTreeMap<Cidr, u16>, address: IpAddr) -> Option<u16> {
        let covering = wanted.iter().filter(|(prefix, _)| prefix.contains(address));
        covering.max_by_key(|(prefix, _)| prefix.length()).map(|(_, way)| *way)
    }

    fn destination(address: IpAddr) -> Destination {
        Destination { address: mapped_address(address), is_ipv4: address.is_ipv4() }
    }

    fn probes(states: &[BTreeMap<Cidr, u16>]) -> Vec<IpAddr> {
        let edges = states.iter().flat_map(|wanted| wanted.keys()).flat_map(|prefix| match prefix.address() {
            IpAddr::V4(first) => {
                let size = 1u32.checked_shl(32 - u32::from(prefix.length())).unwrap_or(0);
                let bits = first.to_bits();
                [bits.wrapping_sub(1), bits, bits.wrapping_add(size.wrapping_sub(1)), bits.wrapping_add(size)]
                    .map(|bits| IpAddr::V4(bits.into()))
            }
            IpAddr::V6(first) => {
                let size = 1u128.checked_shl(128 - u32::from(prefix.length())).unwrap_or(0);
                let bits = first.to_bits();
                [bits.wrapping_sub(1), bits, bits.wrapping_add(size.wrapping_sub(1)), bits.wrapping_add(size)]
                    .map(|bits| IpAddr::V6(bits.into()))
            }
        });
        edges.collect()
    }

    /// What a breath with this snapshot finds.
    fn found((adjacencies, routes): &(Vec<Adjacency>, Routes), address: IpAddr) -> Option<(AdjacencyKind, u16)> {
        let place = routes.lookup(destination(address));
        adjacencies.get(place.index()).map(|adjacency| (adjacency.kind, adjacency.interface.0))
    }

    fn follow(compiler: &mut RouteCompiler, wanted: &BTreeMap<Cidr, u16>) -> (Vec<Adjacency>, Routes) {
        let mut ways = BTreeMap::new();
        let mut places = BTreeMap::new();
        for (prefix, way) in wanted {
            let index = InterfaceIndex(*way);
            places.insert(*prefix, compiler.place(Way::Endpoint(index)));
            ways.insert(Way::Endpoint(index), Adjacency::without_rewrite(AdjacencyKind::Forward, index));
        }
        compiler.follow(ways, places)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(150))]
        #[test]
        fn change_by_change_equals_the_search_and_nothing_leads_astray_on_the_way(
            states in prop::collection::vec((wanted(), prop::bool::weighted(0.8)), 1..8),
        ) {
            let all: Vec<BTreeMap<Cidr, u16>> = states.iter().map(|(wanted, _)| wanted.clone()).collect();
            let probes = probes(&all);
            let publisher = Publisher::new(());
            let mut reader = publisher.reader();
            let mut compiler = RouteCompiler::new(publisher.grace());
            let mut before: BTreeMap<Cidr, u16> = BTreeMap::new();
            for (wanted, is_published) in &states {
                reader.enter();
                let snapshot = follow(&mut compiler, wanted);
                if !is_published {
                    // Something failed on the way: the next time makes good for it.
                    continue;
                }
                // Between publication and edits: the old way, if it is still wanted, or nowhere.
                for probe in &probes {
                    let now = found(&snapshot, *probe);
                    if probe.is_ipv4() {
                        let old = slow(&before, *probe).map(|way| (AdjacencyKind::Forward, way));
                        prop_assert!(now == old || now.is_none_or(|(kind, _)| kind == AdjacencyKind::Blackhole));
                    } else {
                        prop_assert_eq!(now, slow(wanted, *probe).map(|way| (AdjacencyKind::Forward, way)));
                    }
                }
                compiler.apply();
                let mut anew = RouteCompiler::new(Publisher::new(()).grace());
                let restarted = follow(&mut anew, wanted);
                anew.apply();
                for probe in &probes {
                    let expected = slow(wanted, *probe).map(|way| (AdjacencyKind::Forward, way));
                    prop_assert_eq!(found(&snapshot, *probe), expected, "{}", probe);
                    prop_assert_eq!(found(&restarted, *probe), expected, "{} after a restart", probe);
                }
                before = wanted.clone();
            }
        }

        /// Edits one at a time, in the order that they are made in.
        #[test]
        fn each_address_goes_from_its_old_way_to_its_new_one(old in wanted(), new in wanted()) {
            let probes = probes(&[old.clone(), new.clone()]);
            let place = |way: &u16| AdjacencyIndex(u32::from(*way));
            let places = |wanted: &BTreeMap<Cidr, u16>| wanted.iter().map(|(prefix, way)| (*prefix, place(way))).collect();
            let mut compiler = RouteCompiler::new(Publisher::new(()).grace());
            compiler.change(places(&old));
            compiler.apply();
            let routes = compiler.writer.routes();
            compiler.change(places(&new));
            loop {
                for probe in probes.iter().filter(|probe| probe.is_ipv4()) {
                    let found = routes.lookup(destination(*probe));
                    let allowed = [slow(&old, *probe), slow(&new, *probe)];
                    let allowed = allowed.map(|way| way.map_or(AdjacencyIndex::NONE, |way| place(&way)));
                    prop_assert!(allowed.contains(&found), "{} leads to {:?}, not one of {:?}", probe, found, allowed);
                }
                if !compiler.writer.apply_one() {
                    break;
                }
            }
        }
    }

    #[test]
    fn a_place_is_another_ways_only_after_a_grace_period() {
        let publisher = Publisher::new(());
        let mut reader = publisher.reader();
        let mut compiler = RouteCompiler::new(publisher.grace());
        let prefix = Cidr::new("10.0.0.0".parse().unwrap(), 8).unwrap();
        let one = |way| BTreeMap::from([(prefix, way)]);
        reader.enter();
        follow(&mut compiler, &one(1));
        compiler.apply();
        let first = compiler.places[&Way::Endpoint(InterfaceIndex(1))];
        for way in [2, 3] {
            let (adjacencies, _) = follow(&mut compiler, &one(way));
            assert_ne!(compiler.places[&Way::Endpoint(InterfaceIndex(way))], first);
            assert_eq!(adjacencies[first.index()].kind, AdjacencyKind::Blackhole);
            compiler.apply();
        }
        reader.enter();
        follow(&mut compiler, &one(4));
        compiler.apply();
        follow(&mut compiler, &one(5));
        assert_eq!(compiler.begun, 3, "the first two places are other ways' now");
    }
}
