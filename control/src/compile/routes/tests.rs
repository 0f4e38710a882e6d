//! Random states one after the other, against the whole worked out anew.

use super::*;
use fastpath::flow::mapped_address;
use fastpath::rcu::Publisher;
use fastpath::table::routes::Destination;
use proptest::prelude::*;

/// Prefixes of few addresses, each with one of a few ways.
fn wanted() -> impl Strategy<Value = BTreeMap<Cidr, u16>> {
    let ipv4 =
        (0u32..1 << 10, 20u8..=32).prop_map(|(low, length)| (IpAddr::V4((0x0a00_0000 | low << 2).into()), length));
    let ipv6 =
        (0u128..1 << 6, 56u8..=128).prop_map(|(low, length)| (IpAddr::V6((0xfd00 << 112 | low << 62).into()), length));
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

pub(super) fn destination(address: IpAddr) -> Destination {
    Destination { address: mapped_address(address), is_ipv4: address.is_ipv4() }
}

pub(super) fn probes(states: &[BTreeMap<Cidr, u16>]) -> Vec<IpAddr> {
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
fn found(Snapshot { adjacencies, routes, .. }: &Snapshot, address: IpAddr) -> Option<(AdjacencyKind, u16)> {
    let place = routes.lookup(destination(address));
    adjacencies.get(place.index()).map(|adjacency| (adjacency.kind, adjacency.interface.0))
}

fn firm(place: AdjacencyIndex) -> Local {
    Local { place, strength: Strength::Firm }
}

fn follow(compiler: &mut RouteCompiler, wanted: &BTreeMap<Cidr, u16>) -> Snapshot {
    let mut ways = BTreeMap::new();
    let mut places = BTreeMap::new();
    for (prefix, way) in wanted {
        let index = InterfaceIndex(*way);
        places.insert(*prefix, firm(compiler.place(Way::Endpoint(index))));
        ways.insert(Way::Endpoint(index), Adjacency::without_rewrite(AdjacencyKind::Forward, index));
    }
    compiler.follow(ways, places)
}

/// As `follow` does, where there is nothing but local routes.
fn change(compiler: &mut RouteCompiler, local: BTreeMap<Cidr, Local>) {
    let touched = local.keys().chain(compiler.local.keys()).copied().collect();
    compiler.local = local;
    compiler.change(touched);
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
        let places = |wanted: &BTreeMap<Cidr, u16>| wanted.iter().map(|(prefix, way)| (*prefix, firm(place(way)))).collect();
        let mut compiler = RouteCompiler::new(Publisher::new(()).grace());
        change(&mut compiler, places(&old));
        compiler.apply();
        let routes = compiler.writer.routes();
        change(&mut compiler, places(&new));
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
        let Snapshot { adjacencies, .. } = follow(&mut compiler, &one(way));
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
