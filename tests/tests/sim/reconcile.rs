//! The kernel as a table that refuses, forgets and is changed by others, and rounds of `diff` against it.
//!
//! The simulated kernel has everything: what carries our mark and what does not. A round reads what `reconcile::read`
//! would read of it (ours, and the links and settings that are wanted), compares, and does the steps, some of which fail.
//! As soon as nothing fails any more, a round or two end in the desired state.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use config::net::{Cidr, MacAddress};
use control::host::{InterfaceAddress, LinkIndex, NextHop, Route, Target};
use control::reconcile::{Change, HostState, LinkState, diff, missing_links};

use tests::random::Random;

use crate::seeds::with_seeds;

type NeighbourKey = (LinkIndex, IpAddr);

/// What the kernel holds. `foreign` is without our mark.
#[derive(Clone, Debug, Default, PartialEq)]
struct Kernel {
    ours: HostState,
    foreign_routes: BTreeSet<Route>,
    foreign_addresses: BTreeSet<InterfaceAddress>,
    foreign_neighbours: BTreeMap<NeighbourKey, MacAddress>,
    links: BTreeMap<LinkIndex, LinkState>,
    sysctls: BTreeMap<String, String>,
}

impl Kernel {
    /// As `reconcile::read` sees it.
    fn read(&self, desired: &HostState) -> HostState {
        let mut actual = self.ours.clone();
        actual.links = self.links.clone();
        actual.links.retain(|link, _| desired.links.contains_key(link));
        actual.sysctls = self.sysctls.clone();
        actual.sysctls.retain(|key, _| desired.sysctls.contains_key(key));
        actual
    }

    /// Does a step by the kernel's rules; false when it refuses.
    fn carry_out(&mut self, change: &Change) -> bool {
        let is_there = |link: &LinkIndex| self.links.contains_key(link);
        match change.clone() {
            // The kernel compares the mark: of another's it says that there is no such entry.
            Change::DeleteRoute(route) => self.ours.routes.remove(&route),
            Change::DeleteNeighbour { link, address } => {
                let key = (link, address);
                self.ours.neighbours.remove(&key).is_some() | self.ours.managed.remove(&key)
            }
            Change::DeleteAddress(address) => self.ours.addresses.remove(&address),
            Change::SetSysctl { key, value } => match self.sysctls.get_mut(&key) {
                Some(found) => {
                    *found = value;
                    true
                }
                None => false,
            },
            Change::SetMac { link, mac } => self.links.get_mut(&link).map(|found| found.mac = mac).is_some(),
            Change::SetMtu { link, mtu } => self.links.get_mut(&link).map(|found| found.mtu = mtu).is_some(),
            Change::SetUp { link, up } => {
                let found = self.links.get_mut(&link).map(|found| found.up = up).is_some();
                if found && !up {
                    self.forget_routes_by(link);
                }
                found
            }
            Change::AddAddress(address) => {
                is_there(&address.link)
                    && !self.foreign_addresses.contains(&address)
                    && self.ours.addresses.insert(address)
            }
            Change::SetNeighbour { link, address, mac } => {
                // An entry is static or managed; to become the other it has to go first.
                let key = (link, address);
                let is_free =
                    is_there(&link) && !self.foreign_neighbours.contains_key(&key) && !self.ours.managed.contains(&key);
                if is_free {
                    self.ours.neighbours.insert(key, mac);
                }
                is_free
            }
            Change::ManageNeighbour { link, address } => {
                let key = (link, address);
                let is_free = is_there(&link)
                    && !self.foreign_neighbours.contains_key(&key)
                    && !self.ours.neighbours.contains_key(&key);
                is_free && self.ours.managed.insert(key)
            }
            Change::AddRoute(route) => {
                let mut all = self.foreign_routes.iter().chain(&self.ours.routes);
                // NLM_F_EXCL; and nothing is routed by a link that is down.
                let is_free = all.all(|other| other.key() != route.key());
                let is_possible = is_free && self.is_up(&route);
                is_possible && self.ours.routes.insert(route)
            }
            Change::ReplaceRoute { old, new } => {
                let is_possible = self.ours.routes.contains(&old) && self.is_up(&new);
                if is_possible {
                    self.ours.routes.remove(&old);
                    self.ours.routes.insert(new);
                }
                is_possible
            }
        }
    }

    fn is_up(&self, route: &Route) -> bool {
        route.links().all(|link| self.links.get(&link).is_some_and(|state| state.up))
    }

    /// What the kernel does by itself when a link goes down.
    fn forget_routes_by(&mut self, gone: LinkIndex) {
        self.ours.routes.retain(|route| route.links().all(|link| link != gone));
        self.foreign_routes.retain(|route| route.links().all(|link| link != gone));
    }

    /// Somebody else does something to what is ours or to links; what is not ours stays, so that it can be compared.
    fn meddle(&mut self, random: &mut Random, desired: &HostState) {
        match random.below(6) {
            0 => drop(self.ours.routes.pop_first()),
            1 => drop(self.ours.neighbours.pop_first()),
            2 => drop(self.ours.addresses.pop_first()),
            3 => drop(self.ours.routes.insert(route(random, 1))),
            4 => {
                if let Some(state) = self.links.values_mut().next() {
                    state.mtu += 1;
                }
            }
            _ => {
                for (link, state) in &desired.links {
                    self.links.entry(*link).or_insert(LinkState { up: false, ..*state });
                }
            }
        }
        self.ours.routes = one_per_key(&self.ours.routes);
    }
}

fn one_per_key(routes: &BTreeSet<Route>) -> BTreeSet<Route> {
    let mut by_key = BTreeMap::new();
    for route in routes {
        by_key.entry(route.key()).or_insert(route.clone());
    }
    by_key.into_values().collect()
}

fn link(random: &mut Random) -> LinkIndex {
    LinkIndex(1 + random.below(4) as u32)
}

fn address(random: &mut Random) -> IpAddr {
    let last = 1 + random.below(5) as u8;
    if random.chance(50) { IpAddr::from([10, 0, 0, last]) } else { format!("fd00::{last}").parse().unwrap() }
}

fn mac(random: &mut Random) -> MacAddress {
    MacAddress([2, 0, 0, 0, 0, random.below(3) as u8])
}

/// Metrics tell ours from others': the two never meet on one key here.
fn route(random: &mut Random, metric: u32) -> Route {
    let target = if random.chance(30) {
        Target::Blackhole
    } else {
        let gateway = random.chance(60).then(|| address(random));
        Target::Forward(vec![NextHop { link: link(random), gateway, onlink: false }])
    };
    let host = address(random);
    let shorter = random.below(3) as u8;
    let length = if host.is_ipv4() { 32 } else { 128 } - shorter;
    Route::new(Cidr::new(host, length).unwrap(), metric, target)
}

fn state(random: &mut Random) -> HostState {
    let mut state = HostState::default();
    for _ in 0..random.below(5) {
        state.links.insert(link(random), LinkState { up: true, mac: mac(random), mtu: 1400 + random.below(3) as u32 });
    }
    for _ in 0..random.below(6) {
        let (link, address) = (link(random), address(random));
        state.addresses.insert(InterfaceAddress { link, address, prefix_length: 32 });
        state.neighbours.insert((link, address), mac(random));
    }
    for _ in 0..random.below(6) {
        let key = (link(random), address(random));
        state.managed.insert(key);
        state.routes.insert(route(random, 1));
    }
    for key in ["a", "b"] {
        state.sysctls.insert(key.into(), random.below(2).to_string());
    }
    state
}

fn kernel(random: &mut Random) -> Kernel {
    let mut ours = state(random);
    ours.routes = one_per_key(&ours.routes);
    let static_entries = ours.neighbours.clone();
    ours.managed.retain(|key| !static_entries.contains_key(key));
    let sysctls = ["a", "b", "c"].map(|key| (key.to_string(), random.below(2).to_string())).into();
    let mut links: BTreeMap<LinkIndex, LinkState> = BTreeMap::new();
    for number in 1..=5 {
        let state = LinkState { up: random.chance(60), mac: mac(random), mtu: 1500 };
        links.extend(random.chance(80).then_some((LinkIndex(number), state)));
    }
    ours.links = BTreeMap::new();
    ours.sysctls = BTreeMap::new();
    let mut kernel = Kernel { ours, links, sysctls, ..Kernel::default() };
    for _ in 0..4 {
        // By a link that nobody of ours touches, so that the kernel has no reason of its own to forget them.
        let hop = NextHop { link: LinkIndex(9), gateway: None, onlink: false };
        let target = if random.chance(50) { Target::Blackhole } else { Target::Forward(vec![hop]) };
        kernel.foreign_routes.insert(Route::new(Cidr::host(address(random)), 2, target));
        let (link, address) = (LinkIndex(9), address(random));
        kernel.foreign_addresses.insert(InterfaceAddress { link, address, prefix_length: 24 });
        kernel.foreign_neighbours.insert((link, address), mac(random));
    }
    kernel
}

/// `desired` without what hangs on links that are not there, and without what it asks for twice.
fn reachable(desired: &HostState, kernel: &Kernel) -> HostState {
    let missing = missing_links(desired, &kernel.read(desired));
    let mut wanted = desired.clone();
    wanted.links.retain(|link, _| !missing.contains(link));
    wanted.addresses.retain(|address| !missing.contains(&address.link));
    wanted.neighbours.retain(|(link, _), _| !missing.contains(link));
    wanted.managed.retain(|key| !missing.contains(&key.0) && !desired.neighbours.contains_key(key));
    wanted.routes.retain(|route| route.links().all(|link| !missing.contains(&link)));
    wanted.routes = one_per_key(&wanted.routes);
    wanted
}

/// Everything that hangs on a link asks for the link too, as `compile` does.
fn sound(mut desired: HostState, random: &mut Random) -> HostState {
    let on_routes = desired.routes.iter().flat_map(|route| route.links().collect::<Vec<_>>());
    let on_entries = desired.neighbours.keys().chain(&desired.managed).map(|(link, _)| *link);
    let used: BTreeSet<LinkIndex> =
        on_routes.chain(on_entries).chain(desired.addresses.iter().map(|address| address.link)).collect();
    for link in used {
        let state = LinkState { up: true, mac: mac(random), mtu: 1400 };
        desired.links.entry(link).or_insert(state);
    }
    desired
}

#[test]
fn rounds_that_fail_in_part_still_converge() {
    with_seeds(2000, |random| {
        let wanted = state(random);
        let desired = sound(wanted, random);
        let mut kernel = kernel(random);
        let before = kernel.clone();
        let failing = random.below(70);
        for _ in 0..random.below(6) {
            for change in diff(&desired, &kernel.read(&desired)) {
                if !random.chance(failing) {
                    kernel.carry_out(&change);
                }
                if random.chance(5) {
                    kernel.meddle(random, &desired);
                }
            }
        }
        // From here on nothing fails. A route that waited for its link takes a second round.
        for _ in 0..2 {
            for change in diff(&desired, &kernel.read(&desired)) {
                kernel.carry_out(&change);
            }
        }
        assert_eq!(kernel.read(&desired), reachable(&desired, &kernel));
        assert_eq!(diff(&desired, &kernel.read(&desired)), vec![], "nothing is left to do");

        assert_eq!(kernel.foreign_routes, before.foreign_routes);
        assert_eq!(kernel.foreign_addresses, before.foreign_addresses);
        assert_eq!(kernel.foreign_neighbours, before.foreign_neighbours);
        assert_eq!(kernel.sysctls["c"], before.sysctls["c"], "a setting nobody asked about");
        let untouched = |kernel: &Kernel| kernel.links.get(&LinkIndex(5)).copied();
        assert_eq!(untouched(&kernel).map(|state| state.mac), untouched(&before).map(|state| state.mac));
    });
}

#[test]
fn nothing_is_deleted_that_is_not_ours() {
    with_seeds(1000, |random| {
        let kernel = kernel(random);
        let desired = state(random);
        for change in diff(&desired, &kernel.read(&desired)) {
            match change {
                Change::DeleteRoute(route) | Change::ReplaceRoute { old: route, .. } => {
                    assert!(kernel.ours.routes.contains(&route), "{route:?}");
                }
                Change::DeleteAddress(address) => assert!(kernel.ours.addresses.contains(&address)),
                Change::DeleteNeighbour { link, address } => {
                    let key = (link, address);
                    assert!(kernel.ours.neighbours.contains_key(&key) || kernel.ours.managed.contains(&key));
                }
                _ => {}
            }
        }
    });
}

#[test]
fn taking_everything_back_leaves_only_what_was_not_ours() {
    with_seeds(500, |random| {
        let wanted = state(random);
        let desired = sound(wanted, random);
        let mut kernel = kernel(random);
        for desired in [&desired, &HostState::default()] {
            for change in diff(desired, &kernel.read(desired)) {
                kernel.carry_out(&change);
            }
        }
        assert_eq!(kernel.ours, HostState::default());
    });
}
