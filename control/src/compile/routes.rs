//! Routes as workers have them, kept up to date change by change; and places for the ways out, which stay.
//!
//! ```text
//!     local: prefix → way ──compare with what is installed──▶ changes ─┐
//!     learned: prefix → group ──those that were touched──────▶ changes ─┼─ IPv6: into the next snapshot's table
//!                                                                       └─ IPv4: `apply`, when it is published
//!     ways, groups ──▶ places, all of which are in the next snapshot
//! ```
//!
//! What is wanted of local routes is worked out whole each time; only what differs is changed. Learned routes are told as
//! changes, and only those are looked at. Where both have a prefix, `rib` says which counts.
//!
//! A way out keeps its place in all snapshots while it is wanted, whatever becomes of it (a MAC address is found, an MTU
//! changes), so routes that lead there stay as they are. A group of next hops has a place too: in it is the way of its only
//! member, or the choice among several. A way that is wanted no longer stays in its place as a blackhole until no route and
//! no breath can know it.
//!
//! IPv4 routes change one after the other, in an order in which each address goes from its old way to its new one: first
//! those that come or change, the longest first, then those that go, the shortest first. In any other order an address
//! would for a moment lead where neither the old routes nor the new ones say.
//!
//! Invariants: two ways never share a place; a place is given to another way only after a grace period that began when no
//! route led there. What was compiled but not published is no loss: its changes are made with the next.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Instant;

use config::net::Cidr;
use fastpath::rcu::Grace;
use fastpath::table::adjacency::{Adjacency, AdjacencyKind};
use fastpath::table::group::Groups;
use fastpath::table::routes::{Routes, RoutesWriter};
use fastpath::table::{AdjacencyIndex, InterfaceIndex, Tables};

use crate::host::{LinkIndex, Route};
use crate::rib::Rib;
use crate::rib::kernel::{Edit, Step};
use crate::rib::nexthop::{Member, Strength};

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

/// A local route: where it leads, and how it stands against a learned one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Local {
    pub place: AdjacencyIndex,
    pub strength: Strength,
}

/// The routes of the node, as workers have them.
pub struct RouteCompiler {
    /// What was learned.
    pub rib: Rib,
    writer: RoutesWriter,
    grace: Grace,
    /// Local routes as they were wanted last.
    local: BTreeMap<Cidr, Local>,
    places: BTreeMap<Way, AdjacencyIndex>,
    /// Places that were ever given.
    begun: u32,
    free: Vec<AdjacencyIndex>,
    /// Of ways that are wanted no longer, while routes may lead there.
    leaving: Vec<AdjacencyIndex>,
    /// The same with no route, and the epoch to wait for.
    retired: VecDeque<(u64, AdjacencyIndex)>,
    /// Uplinks as they were last: members of groups are told by link.
    uplinks: BTreeMap<LinkIndex, InterfaceIndex>,
    /// Members of groups that the kernel keeps resolved, and whose ways have places.
    members: BTreeSet<Member>,
}

/// What belongs into the next snapshot.
pub(super) struct Snapshot {
    pub adjacencies: Vec<Adjacency>,
    pub groups: Groups,
    pub routes: Routes,
}

/// What has to be done for learned routes to be in force.
pub enum Refresh {
    Nothing,
    /// [`RouteCompiler::apply`].
    Apply,
    /// To publish these, and then `apply`.
    Publish(Box<Tables>),
    /// To compile: there is a next hop that has no way yet.
    Compile,
}

impl RouteCompiler {
    /// No routes. `grace` is that of the publisher of the tables.
    pub fn new(grace: Grace) -> Self {
        Self {
            rib: Rib::default(),
            writer: RoutesWriter::new(grace.clone()),
            grace,
            local: BTreeMap::new(),
            places: BTreeMap::new(),
            begun: 0,
            free: Vec::new(),
            leaving: Vec::new(),
            retired: VecDeque::new(),
            uplinks: BTreeMap::new(),
            members: BTreeSet::new(),
        }
    }

    /// The place of a way.
    pub(super) fn place(&mut self, way: Way) -> AdjacencyIndex {
        if let Some(place) = self.places.get(&way) {
            return *place;
        }
        let place = self.new_place();
        self.places.insert(way, place);
        place
    }

    fn new_place(&mut self) -> AdjacencyIndex {
        let passed = if self.retired.is_empty() { 0 } else { self.grace.passed() };
        while let Some((_, place)) = self.retired.pop_front_if(|(epoch, _)| *epoch <= passed) {
            self.free.push(place);
        }
        self.free.pop().unwrap_or_else(|| {
            self.begun += 1;
            AdjacencyIndex(self.begun - 1)
        })
    }

    /// Takes the members that groups have now, with the uplinks: the ways of those on uplinks are among those of `follow`.
    pub(super) fn set_members(&mut self, members: BTreeSet<Member>, uplinks: BTreeMap<LinkIndex, InterfaceIndex>) {
        self.members = members;
        self.uplinks = uplinks;
    }

    /// Takes what is wanted, and gives what belongs into the next snapshot. `apply` when that is published.
    pub(super) fn follow(&mut self, mut ways: BTreeMap<Way, Adjacency>, local: BTreeMap<Cidr, Local>) -> Snapshot {
        let mut adjacencies = vec![nowhere(); self.begun as usize];
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
        let mut groups = Groups::default();
        self.settle_groups(&mut adjacencies, &mut groups);
        let differs = |(prefix, local): &(&Cidr, &Local)| self.local.get(prefix) != Some(local);
        let mut touched: Vec<Cidr> = local.iter().filter(differs).map(|(prefix, _)| *prefix).collect();
        touched.extend(self.local.keys().filter(|prefix| !local.contains_key(prefix)));
        self.local = local;
        touched.iter().for_each(|prefix| self.rib.touch_local(prefix));
        self.change(touched);
        Snapshot { adjacencies, groups, routes: self.writer.routes() }
    }

    /// What follows from changes of learned routes and their next hops alone. `current` is what was published last.
    pub fn refresh(&mut self, current: &Tables) -> Refresh {
        self.rib.resolve();
        if !self.rib.groups_have_changed() && !self.rib.has_touched_ipv6() {
            if !self.rib.has_touched() {
                return Refresh::Nothing;
            }
            self.change(Vec::new());
            return Refresh::Apply;
        }
        if !self.rib.members().is_subset(&self.members) {
            return Refresh::Compile;
        }
        let mut tables = Box::new(current.clone());
        tables.groups.groups.clear();
        self.settle_groups(&mut tables.adjacencies, &mut tables.groups);
        self.change(Vec::new());
        tables.routes = self.writer.routes();
        Refresh::Publish(tables)
    }

    /// Gives every group its place, and puts into it what its members come to now.
    fn settle_groups(&mut self, adjacencies: &mut Vec<Adjacency>, groups: &mut Groups) {
        let mut rib = std::mem::take(&mut self.rib);
        for place in rib.take_unused() {
            if let Some(adjacency) = adjacencies.get_mut(place.index()) {
                *adjacency = nowhere();
            }
            self.leaving.push(place);
        }
        rib.settle(|state, members| {
            let place = *state.place.get_or_insert_with(|| self.new_place());
            if adjacencies.len() <= place.index() {
                adjacencies.resize(place.index() + 1, nowhere());
            }
            let members = members.iter().filter_map(|member| self.place_of(member)).collect();
            let content = state.content(members, adjacencies, groups);
            adjacencies[place.index()] = content;
        });
        self.rib = rib;
    }

    /// The way to a member of a group. None: it is on a link that is no uplink.
    fn place_of(&self, member: &Member) -> Option<AdjacencyIndex> {
        let way = match member {
            Member::Neighbour { link, address } => Way::NextHop(*self.uplinks.get(link)?, *address),
            Member::Endpoint(interface) => Way::Endpoint(*interface),
        };
        self.places.get(&way).copied()
    }

    /// Where a prefix leads: by the local route or the learned one, if it has any.
    fn effective(&self, prefix: &Cidr) -> Option<AdjacencyIndex> {
        let local = self.local.get(prefix);
        let learned = self.rib.route_to(prefix);
        match (local, learned) {
            (Some(local), Some((place, metric))) if local.strength.yields_to(metric) => Some(place),
            (Some(local), _) => Some(local.place),
            (None, learned) => learned.map(|(place, _)| place),
        }
    }

    /// Gives the writer what these prefixes, and the learned ones that were touched, lead to now; in the order of the header.
    fn change(&mut self, mut touched: Vec<Cidr>) {
        touched.append(&mut self.rib.take_touched());
        touched.sort_unstable();
        touched.dedup();
        let (mut coming, mut going) = (Vec::new(), Vec::new());
        for prefix in touched {
            match self.effective(&prefix) {
                Some(place) => coming.push((prefix, place)),
                None => going.push(prefix),
            }
        }
        coming.sort_by_key(|(prefix, _)| Reverse(prefix.length()));
        going.sort_by_key(Cidr::length);
        self.writer.expect(self.local.len() + self.rib.counts()[0]);
        let changes = coming.into_iter().map(|(prefix, place)| (prefix, Some(place)));
        for (prefix, place) in changes.chain(going.into_iter().map(|prefix| (prefix, None))) {
            match prefix.address() {
                IpAddr::V4(address) => self.writer.change_ipv4(address.to_bits(), prefix.length(), place),
                IpAddr::V6(address) => self.writer.change_ipv6(address.to_bits(), prefix.length(), place),
            }
        }
    }

    /// Changes the IPv4 routes. The snapshot that `compile` gave last must be published, or the first of all.
    pub fn apply(&mut self) {
        self.writer.apply();
        self.rib.applied();
        let epoch = if self.leaving.is_empty() { 0 } else { self.grace.stamp() };
        self.retired.extend(self.leaving.drain(..).map(|place| (epoch, place)));
    }

    /// What is to be done about the kernel's routes to learned prefixes next, with about so many edits.
    pub fn kernel_step(&mut self, most: usize, now: Instant) -> Step {
        let local = &self.local;
        self.rib.kernel_step(most, now, &|prefix| is_firm(local, prefix))
    }

    /// Takes routes of our protocol that the kernel has. Returns what is wrong with them. `is_end`: these were the last.
    pub fn kernel_read(&mut self, routes: Vec<Route>, is_end: bool) -> Vec<Edit> {
        let local = &self.local;
        self.rib.kernel_read(routes, is_end, &|prefix| is_firm(local, prefix))
    }

    /// The kernel did not make an edit.
    pub fn kernel_refused(&mut self, edit: &Edit, now: Instant) {
        self.rib.kernel_refused(edit, now);
    }

    /// Whether packets go by a learned route of this metric, if there is one to the prefix.
    pub(crate) fn is_learned(&self, prefix: &Cidr, metric: u32) -> bool {
        self.local.get(prefix).is_none_or(|local| local.strength.yields_to(metric))
    }

    /// What could not be done, for people.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = self.rib.problems();
        let count = self.writer.nowhere();
        if count > 0 {
            problems
                .push(format!("{count} IPv4 networks of 256 addresses lead nowhere: too many routes longer than /24"));
        }
        problems
    }
}

/// A route of the node's own that the kernel has too, or that no learned route may stand beside.
fn is_firm(local: &BTreeMap<Cidr, Local>, prefix: &Cidr) -> bool {
    local.get(prefix).is_some_and(|local| local.strength == Strength::Firm)
}

/// What is in a place that nobody has.
fn nowhere() -> Adjacency {
    Adjacency::without_rewrite(AdjacencyKind::Blackhole, InterfaceIndex::NONE)
}

#[cfg(test)]
mod learned_tests;
#[cfg(test)]
mod tests;
