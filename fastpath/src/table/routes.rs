//! Destination → adjacency, for both families: what workers read, and what control edits.
//!
//! | family | table | how a change gets there |
//! |---|---|---|
//! | IPv4 | `dir24.rs`, shared by all snapshots | in place, address by address |
//! | IPv6 | `ipv6.rs`, one per snapshot | with the snapshot |
//!
//! A change of routes goes in this order, so that a success is said only of what every breath sees, and no address leads to
//! what nobody wants on the way:
//!
//!  1. Publish a snapshot with the IPv6 routes and with *all* adjacencies, the old ones and the new, at the places they
//!     keep; those that are wanted no longer are blackholes.
//!  2. Edit the IPv4 routes: [`RoutesWriter::apply`]. Each address leads to its old adjacency or to its new one.
//!  3. Then `apply` counts the edition up. A worker reads it once at the start of a breath, as a part of
//!     `Tables::stamp`, and flows that were decided under another stamp are routed again.
//!  4. When every reader has begun another breath, places of unwanted adjacencies are free.
//!
//! Invariants: an edition that a breath has read means that it sees all edits before that edition; editions only grow.

use std::collections::VecDeque;
use std::sync::Arc;

use super::AdjacencyIndex;
use super::dir24::{Dir24, Dir24Writer};
use super::ipv6::{Ipv6Routes, Ipv6Writer};
use super::lpm::Prefix;
use crate::mapped::Extent;
use crate::rcu::{Grace, Publisher};

/// Destinations that are told apart by family at a time.
const CHUNK: usize = 32;

/// Where a packet wants to go: an address, IPv4 mapped, and its family.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Destination {
    pub address: u128,
    pub is_ipv4: bool,
}

/// What workers read.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    ipv4: Arc<Dir24>,
    ipv6: Ipv6Routes,
}

impl Routes {
    /// Routes that nobody will change.
    pub fn build(ipv4: Vec<Prefix<u32>>, ipv6: Vec<Prefix<u128>>) -> Self {
        let mut writer = RoutesWriter::new(Publisher::new(()).grace());
        writer.expect(ipv4.len());
        for (address, length, value) in ipv4 {
            writer.change_ipv4(address, length, Some(AdjacencyIndex(value)));
        }
        for (address, length, value) in ipv6 {
            writer.change_ipv6(address, length, Some(AdjacencyIndex(value)));
        }
        let routes = writer.routes();
        writer.apply();
        routes
    }

    /// The adjacency of the longest prefix that covers the destination; NONE if none does.
    #[inline]
    pub fn lookup(&self, destination: Destination) -> AdjacencyIndex {
        let Destination { address, is_ipv4 } = destination;
        AdjacencyIndex(if is_ipv4 { self.ipv4.lookup(address as u32) } else { self.ipv6.lookup(address) })
    }

    /// The same for many. Panics unless there is a place for each answer.
    pub fn lookup_burst(&self, destinations: &[Destination], adjacencies: &mut [AdjacencyIndex]) {
        assert_eq!(destinations.len(), adjacencies.len(), "a place for every answer");
        for (destinations, adjacencies) in destinations.chunks(CHUNK).zip(adjacencies.chunks_mut(CHUNK)) {
            self.lookup_chunk(destinations, adjacencies);
        }
    }

    fn lookup_chunk(&self, destinations: &[Destination], adjacencies: &mut [AdjacencyIndex]) {
        let mut values = [0; CHUNK];
        let values = &mut values[..destinations.len()];
        let ipv4 = destinations.iter().filter(|destination| destination.is_ipv4).count();
        if ipv4 == destinations.len() {
            let mut addresses = [0; CHUNK];
            for (address, destination) in addresses.iter_mut().zip(destinations) {
                *address = destination.address as u32;
            }
            self.ipv4.lookup_burst(&addresses[..ipv4], values);
        } else if ipv4 == 0 {
            let mut addresses = [0; CHUNK];
            for (address, destination) in addresses.iter_mut().zip(destinations) {
                *address = destination.address;
            }
            self.ipv6.lookup_burst(&addresses[..destinations.len()], values);
        } else {
            // Few nodes have both in one breath, and those have few packets of one of them.
            for (value, destination) in values.iter_mut().zip(destinations) {
                *value = self.lookup(*destination).0;
            }
        }
        for (adjacency, value) in adjacencies.iter_mut().zip(values) {
            *adjacency = AdjacencyIndex(*value);
        }
    }

    /// What the tables of IPv4 and of IPv6 take.
    pub fn extents(&self) -> [Extent; 2] {
        [self.ipv4.extent(), Extent::of_heap(self.ipv6.size())]
    }

    /// How often IPv4 routes have changed in place. What had changed by then is seen by every lookup that follows.
    pub fn edition(&self) -> u32 {
        self.ipv4.edition()
    }
}

/// What control edits.
pub struct RoutesWriter {
    ipv4: Dir24Writer,
    ipv6: Ipv6Writer,
    /// Changes of IPv4 that wait for `apply`.
    waiting: VecDeque<(u32, u8, Option<AdjacencyIndex>)>,
}

impl RoutesWriter {
    /// No routes. `grace` is that of the publisher whose snapshots contain the routes.
    pub fn new(grace: Grace) -> Self {
        Self { ipv4: Dir24Writer::new(grace), ipv6: Ipv6Writer::default(), waiting: VecDeque::new() }
    }

    /// Says how many routes of IPv4 there will be, before the first of many.
    pub fn expect(&mut self, routes: usize) {
        self.ipv4.expect(routes);
    }

    /// A prefix leads there, or nowhere of its own, when `apply` has been called.
    pub fn change_ipv4(&mut self, address: u32, length: u8, adjacency: Option<AdjacencyIndex>) {
        self.waiting.push_back((address, length, adjacency));
    }

    /// A prefix leads there, or nowhere of its own, in all snapshots whose routes are asked for after this.
    pub fn change_ipv6(&mut self, address: u128, length: u8, adjacency: Option<AdjacencyIndex>) {
        match adjacency {
            Some(adjacency) => self.ipv6.insert((address, length, adjacency.0)),
            None => self.ipv6.remove(address, length),
        };
    }

    /// The routes for the next snapshot.
    pub fn routes(&mut self) -> Routes {
        Routes { ipv4: self.ipv4.table().clone(), ipv6: self.ipv6.commit() }
    }

    /// Edits the IPv4 routes, one after the other as they were given. The snapshot in which all adjacencies are must be
    /// published.
    pub fn apply(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        while self.apply_one() {}
        self.ipv4.count_edition();
    }

    /// One of the edits that `apply` makes. False when there is none left.
    pub fn apply_one(&mut self) -> bool {
        let Some((address, length, adjacency)) = self.waiting.pop_front() else { return false };
        match adjacency {
            Some(adjacency) => self.ipv4.insert((address, length, adjacency.0)),
            None => self.ipv4.remove(address, length),
        };
        true
    }

    /// /24s that lead nowhere for want of memory; see `dir24.rs`.
    pub fn nowhere(&self) -> usize {
        self.ipv4.nowhere()
    }
}

#[cfg(test)]
mod tests {
    use super::super::lpm::{Lpm, NO_VALUE};
    use super::super::test_routes::{ipv4_prefix, ipv6_prefix, probes};
    use super::*;
    use crate::flow::mapped;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        #[test]
        fn bursts_of_both_families_equal_the_runs(
            ipv4 in prop::collection::vec(ipv4_prefix(), 0..40),
            ipv6 in prop::collection::vec(ipv6_prefix(), 0..40),
            order in prop::collection::vec(any::<prop::sample::Index>(), 0..200),
        ) {
            let routes = Routes::build(ipv4.clone(), ipv6.clone());
            let mut all: Vec<Destination> = Vec::new();
            all.extend(probes(&ipv4).into_iter().map(|address| Destination { address: mapped(address), is_ipv4: true }));
            all.extend(probes(&ipv6).into_iter().map(|address| Destination { address, is_ipv4: false }));
            // In order of family first, then mixed.
            let mixed: Vec<Destination> = order.iter().filter_map(|index| all.get(index.index(all.len().max(1))).copied()).collect();
            all.extend(mixed);
            let mut found = vec![AdjacencyIndex::NONE; all.len()];
            routes.lookup_burst(&all, &mut found);
            let (ipv4, ipv6) = (Lpm::build(ipv4), Lpm::build(ipv6));
            for (destination, found) in all.into_iter().zip(found) {
                let address = destination.address;
                let expected = if destination.is_ipv4 { ipv4.lookup(address as u32) } else { ipv6.lookup(address) };
                prop_assert_eq!(found.0, expected);
                prop_assert_eq!(routes.lookup(destination).0, expected);
            }
        }
    }

    #[test]
    fn ipv4_changes_when_applied_and_ipv6_with_the_snapshot() {
        let mut writer = RoutesWriter::new(Publisher::new(()).grace());
        let ipv4 = Destination { address: mapped(0x0a00_0001), is_ipv4: true };
        let ipv6 = Destination { address: 1 << 64 | 1, is_ipv4: false };
        let before = writer.routes();
        writer.change_ipv4(0x0a00_0000, 8, Some(AdjacencyIndex(4)));
        writer.change_ipv6(1 << 64, 64, Some(AdjacencyIndex(6)));
        let after = writer.routes();
        assert_eq!([&before, &after].map(|routes| routes.lookup(ipv6).0), [NO_VALUE, 6]);
        assert_eq!([&before, &after].map(|routes| (routes.lookup(ipv4).0, routes.edition())), [(NO_VALUE, 0); 2]);
        writer.apply();
        assert_eq!([&before, &after].map(|routes| (routes.lookup(ipv4).0, routes.edition())), [(4, 1); 2]);
        writer.apply();
        assert_eq!(after.edition(), 1, "nothing has changed");
        writer.change_ipv4(0x0a00_0000, 8, None);
        writer.apply();
        assert_eq!((after.lookup(ipv4).0, after.edition()), (NO_VALUE, 2));
    }
}
