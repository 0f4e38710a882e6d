//! Routes learned from others: which there are, where they lead now, and who can be reached.
//!
//! ```text
//!   LearnedBatch ──▶ learned: prefix → group            a million; 4 bytes each beside the prefix
//!                └─▶ groups:  group → next hops         thousands at most
//!   own routes ────▶ next hops: address → neighbours    thousands at most; worked out again when an own route changes
//! ```
//!
//! A prefix leads to a *group*, and a group to next hops. What changes about a next hop (its link, its neighbour's MAC
//! address, whether it is alive) changes the groups that it is in and no prefix, however many are behind it: a group has
//! one place in the tables of the workers, and what is in the place changes.
//!
//! Of equal prefixes, as administrative distance has it:
//!
//! | | |
//! |---|---|
//! | the node's own addresses and local endpoints | always win over learned routes |
//! | static routes (resources) | always win |
//! | a route of the kernel's by an uplink | the lower metric wins, the kernel's if they are equal: the host's own packets and those of workloads go the same way |
//! | neighbours, and pools (which lead nowhere) | always lose |
//!
//! | file | what it knows |
//! |---|---|
//! | `learned.rs` | prefix → group, small |
//! | `nexthop.rs` | next hop → neighbours on links, by the node's other routes |
//! | `kernel.rs` | the same prefixes in the kernel, for the host's own packets, a few at a time |
//! | `shown.rs` | what people see of it |
//! | `buckets.rs` | the share of each member in a group, so that few flows move |
//!
//! Invariants: at most [`MAX_ROUTES`] prefixes, [`MAX_GROUPS`] groups, [`MAX_NEXT_HOPS`] next hops in each and
//! [`MAX_WATCHED`] in all; what is beyond that is refused and told. A group is forgotten only when no prefix leads to it.
//! Left out: next hops that are link-local addresses, since an address alone does not say on which link; shares by weight.

pub mod buckets;
pub mod kernel;
pub mod learned;
pub mod nexthop;
mod shown;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Instant;

use config::net::Cidr;
use fastpath::table::adjacency::{Adjacency, AdjacencyKind};
use fastpath::table::group::{BUCKETS, Buckets};
use fastpath::table::{AdjacencyIndex, GroupIndex, InterfaceIndex};

use kernel::{Edit, KernelRoutes, Step, Wanted};
use learned::{Learned, Mark};
use nexthop::{Definitions, Member, NextHops, Path};

use crate::host::Route;

/// Prefixes of both families together.
pub const MAX_ROUTES: usize = 1 << 22;
pub const MAX_GROUPS: usize = 1 << 14;
/// Next hops of one group: no more than have a share in it.
pub const MAX_NEXT_HOPS: usize = BUCKETS;
/// Next hops that are kept an eye on.
pub const MAX_WATCHED: usize = 1 << 14;

/// A group of next hops. Whoever defines them gives the numbers, which are less than [`GroupId::END`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u32);

impl GroupId {
    /// No number is as large.
    pub const END: u32 = 1 << 24;
}

/// Where all prefixes of a group lead.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group {
    pub target: GroupTarget,
    /// The way when none of the next hops can be reached: known beforehand, so that the switch waits for nobody.
    pub backup: Option<IpAddr>,
    /// In the kernel; lower is better. Routes of different metrics are of different groups: a group keeps its metric while a
    /// prefix leads to it.
    pub metric: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum GroupTarget {
    /// To all that can be reached of these, each flow to one of them; to the backup if there is none.
    NextHops(Vec<IpAddr>),
    /// Nowhere: a block of addresses of this node, in which only endpoints have routes of their own.
    Blackhole,
}

/// What has changed about learned routes. Taken in in the order of the fields: a group may be used by the batch that
/// defines it, and given up by the batch that takes the last prefix from it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LearnedBatch {
    /// New groups, and those with other next hops than before.
    pub groups: Vec<(GroupId, Group)>,
    /// Prefixes without host bits, and where they lead now; none: nowhere any more.
    pub routes: Vec<(Cidr, Option<GroupId>)>,
    /// Groups that are used no longer. One that a prefix leads to stays until none does.
    pub retired: Vec<GroupId>,
    /// Next hops whose reachability is asked for (true) or no longer (false), whether or not a group has them.
    pub watched: Vec<(IpAddr, bool)>,
}

/// Next hops of which something else is true than was told last: the metric of the own route to them, or none when they
/// cannot be reached.
pub type Reachability = BTreeMap<IpAddr, Option<u32>>;

/// All that was learned, and what it comes to.
#[derive(Debug, Default)]
pub struct Rib {
    pub(crate) learned: Learned,
    groups: Groups,
    next_hops: NextHops,
    /// Prefixes that may lead elsewhere than the tables of the workers say.
    touched: Vec<Cidr>,
    /// One of them is of IPv6.
    has_touched_ipv6: bool,
    /// A group, or a next hop of one, is another than the workers know.
    groups_have_changed: bool,
    refused: Refused,
    pub kernel: KernelRoutes,
}

/// What was not taken, since the start.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Refused {
    routes: u64,
    unknown: u64,
    groups: u64,
    next_hops: u64,
}

/// A group, and what the workers have of it.
#[derive(Debug)]
pub(crate) struct GroupState {
    pub(crate) group: Group,
    /// That lead to it.
    prefixes: u32,
    is_retired: bool,
    /// No route of the workers leads here, and none will.
    is_unused: bool,
    /// In the tables of the workers, once it is there.
    pub(crate) place: Option<AdjacencyIndex>,
    pub(crate) buckets: Box<Buckets>,
    /// Whoever is in it now.
    members: BTreeSet<Member>,
}

#[derive(Debug, Default)]
pub(crate) struct Groups(BTreeMap<GroupId, GroupState>);

impl GroupState {
    /// What belongs into the group's place: the way of its only member, or the choice among several.
    ///
    /// Members that have to be resolved first, or do not answer, are left out while there are others: no packet waits for
    /// one next hop where another is known.
    pub(crate) fn content(
        &mut self,
        places: Vec<AdjacencyIndex>,
        adjacencies: &[Adjacency],
        groups: &mut fastpath::table::group::Groups,
    ) -> Adjacency {
        if self.group.target == GroupTarget::Blackhole {
            return Adjacency::without_rewrite(AdjacencyKind::Blackhole, InterfaceIndex::NONE);
        }
        let rank = |place: &AdjacencyIndex| match adjacencies.get(place.index()).map(|adjacency| adjacency.kind) {
            Some(AdjacencyKind::Forward) => 0,
            Some(AdjacencyKind::Unresolved) => 1,
            Some(AdjacencyKind::Unreachable) => 2,
            _ => 3,
        };
        let best = places.iter().map(rank).min().filter(|rank| *rank < 3);
        let mut members: Vec<AdjacencyIndex> = places.into_iter().filter(|place| Some(rank(place)) == best).collect();
        members.sort_unstable();
        members.truncate(BUCKETS);
        buckets::deal(&mut self.buckets, &members);
        match members.as_slice() {
            [] => Adjacency::choice(GroupIndex::NONE),
            [only] => adjacencies[only.index()].clone(),
            _ => {
                groups.groups.push((*self.buckets).clone());
                Adjacency::choice(GroupIndex(groups.groups.len() as u32 - 1))
            }
        }
    }
}

impl Definitions for Groups {
    fn definition(&self, group: GroupId) -> Option<&Group> {
        self.0.get(&group).map(|state| &state.group)
    }
}

impl Rib {
    /// Takes in what has changed.
    pub fn learn(&mut self, batch: LearnedBatch) {
        for (id, group) in batch.groups {
            self.define(id, group);
        }
        for (prefix, group) in batch.routes {
            self.route(prefix.masked(), group);
        }
        for id in batch.retired {
            if let Some(state) = self.groups.0.get_mut(&id) {
                state.is_retired = true;
            }
        }
        for (address, is_watched) in batch.watched {
            self.refused.next_hops += u64::from(!self.next_hops.watch(address, is_watched));
        }
        // A prefix that changed often is there often.
        if self.touched.len() > MAX_ROUTES {
            self.touched.sort_unstable();
            self.touched.dedup();
        }
    }

    fn define(&mut self, id: GroupId, mut group: Group) {
        let is_full = self.groups.0.len() >= MAX_GROUPS && !self.groups.0.contains_key(&id);
        if id.0 >= GroupId::END || is_full {
            self.refused.groups += 1;
            return;
        }
        if let GroupTarget::NextHops(next_hops) = &mut group.target {
            next_hops.sort_unstable();
            next_hops.dedup();
            self.refused.next_hops += next_hops.len().saturating_sub(MAX_NEXT_HOPS) as u64;
            next_hops.truncate(MAX_NEXT_HOPS);
            // First those that come, so that those that stay are known all the time.
            let (next_hops, known) = (&mut self.next_hops, next_hops);
            known.retain(|address| next_hops.count(*address, true));
            group.backup = group.backup.filter(|backup| !known.contains(backup) && next_hops.count(*backup, true));
        }
        let old = match self.groups.0.get_mut(&id) {
            Some(state) => {
                (state.is_retired, state.is_unused) = (false, false);
                if state.prefixes > 0 {
                    group.metric = state.group.metric;
                }
                Some(std::mem::replace(&mut state.group, group))
            }
            None => {
                let state = GroupState {
                    group,
                    prefixes: 0,
                    is_retired: false,
                    is_unused: false,
                    place: None,
                    buckets: Box::default(),
                    members: BTreeSet::new(),
                };
                self.groups.0.insert(id, state);
                None
            }
        };
        self.next_hops.note_group();
        self.groups_have_changed = true;
        self.kernel.touch_group(id);
        old.iter().for_each(|old| self.release(old));
    }

    fn release(&mut self, group: &Group) {
        if let GroupTarget::NextHops(next_hops) = &group.target {
            for address in next_hops.iter().chain(&group.backup) {
                self.next_hops.count(*address, false);
            }
        }
    }

    fn route(&mut self, prefix: Cidr, group: Option<GroupId>) {
        let state = group.and_then(|id| self.groups.0.get_mut(&id));
        let old = match (group, state) {
            (Some(id), Some(state)) => {
                if self.learned.len() >= MAX_ROUTES && self.learned.get(&prefix).is_none() {
                    self.refused.routes += 1;
                    return;
                }
                state.prefixes += 1;
                state.is_unused = false;
                self.learned.insert(&prefix, id)
            }
            (group, _) => {
                // Nobody knows where it should lead, so it leads nowhere.
                self.refused.unknown += u64::from(group.is_some());
                self.learned.remove(&prefix)
            }
        };
        let mut old_metric = None;
        if let Some(state) = old.and_then(|old| self.groups.0.get_mut(&old.group())) {
            state.prefixes = state.prefixes.saturating_sub(1);
            old_metric = Some(state.group.metric);
        }
        if old.map(|old| old.group()) != group {
            let is_in_kernel = old.is_some_and(|old| old.has(Mark::InKernel) || old.has(Mark::Seen));
            self.touch_kernel(prefix, old_metric.filter(|_| is_in_kernel));
            self.touched.push(prefix);
            self.has_touched_ipv6 |= !prefix.is_ipv4();
            self.next_hops.note_learned(&prefix);
        }
    }

    /// The kernel may need another route, where it has this one of ours.
    fn touch_kernel(&mut self, prefix: Cidr, has: Option<u32>) {
        if let Some(entry) = self.learned.get_mut(&prefix) {
            entry.set(Mark::InKernel, false);
            entry.set(Mark::Seen, false);
        }
        self.kernel.touch(prefix, has);
    }

    /// The node has a route of its own to the prefix, or no longer.
    pub(crate) fn touch_local(&mut self, prefix: &Cidr) {
        let Some(entry) = self.learned.get(prefix) else { return };
        let is_in_kernel = entry.has(Mark::InKernel) || entry.has(Mark::Seen);
        let metric = self.groups.definition(entry.group()).map(|group| group.metric);
        self.touch_kernel(*prefix, metric.filter(|_| is_in_kernel));
    }

    /// What is to be done about the kernel's routes next; see `kernel.rs`.
    pub(crate) fn kernel_step(&mut self, most: usize, now: Instant, is_local: &dyn Fn(&Cidr) -> bool) -> Step {
        self.kernel.next(most, now, Wanted { learned: &mut self.learned, groups: &self.groups, is_local })
    }

    /// Takes routes of ours that the kernel has.
    pub(crate) fn kernel_read(
        &mut self,
        routes: Vec<Route>,
        is_end: bool,
        is_local: &dyn Fn(&Cidr) -> bool,
    ) -> Vec<Edit> {
        self.kernel.read(routes, is_end, Wanted { learned: &mut self.learned, groups: &self.groups, is_local })
    }

    /// The kernel did not make an edit.
    pub(crate) fn kernel_refused(&mut self, edit: &Edit, now: Instant) {
        self.kernel.refused(edit, now, &mut self.learned);
    }

    /// A next hop is nobody's way from now on: every group that has others uses those.
    pub fn next_hop_down(&mut self, address: IpAddr) {
        self.next_hops.set_down(address, true);
    }

    /// It may be used again.
    pub fn next_hop_up(&mut self, address: IpAddr) {
        self.next_hops.set_down(address, false);
    }

    /// The node's own routes, by which next hops are resolved.
    pub(crate) fn set_own(&mut self, own: BTreeMap<Cidr, Path>) {
        self.next_hops.set_own(own);
    }

    /// Works out next hops that may be reached otherwise than before.
    pub(crate) fn resolve(&mut self) {
        self.groups_have_changed |= self.next_hops.resolve(&self.learned, &self.groups);
    }

    /// Everybody that is in a group.
    pub(crate) fn members(&self) -> BTreeSet<Member> {
        self.next_hops.all_members()
    }

    pub(crate) fn groups_have_changed(&self) -> bool {
        self.groups_have_changed
    }

    pub(crate) fn has_touched(&self) -> bool {
        !self.touched.is_empty()
    }

    pub(crate) fn has_touched_ipv6(&self) -> bool {
        self.has_touched_ipv6
    }

    pub(crate) fn take_touched(&mut self) -> Vec<Cidr> {
        self.has_touched_ipv6 = false;
        std::mem::take(&mut self.touched)
    }

    /// The place and the metric of a learned route.
    pub(crate) fn route_to(&self, prefix: &Cidr) -> Option<(AdjacencyIndex, u32)> {
        let state = self.groups.0.get(&self.learned.get(prefix)?.group())?;
        Some((state.place?, state.group.metric))
    }

    /// Shows every group with its members, for its place in the next snapshot.
    pub(crate) fn settle(&mut self, mut show: impl FnMut(&mut GroupState, &BTreeSet<Member>)) {
        for (id, state) in &mut self.groups.0 {
            let members: BTreeSet<Member> = match &state.group.target {
                GroupTarget::NextHops(next_hops) => {
                    let of = |address| self.next_hops.members(address).iter().copied();
                    let members: BTreeSet<Member> = next_hops.iter().flat_map(|address| of(*address)).collect();
                    if members.is_empty() { state.group.backup.into_iter().flat_map(of).collect() } else { members }
                }
                GroupTarget::Blackhole => BTreeSet::new(),
            };
            show(state, &members);
            if members != state.members {
                state.members = members;
                self.kernel.touch_group(*id);
            }
        }
        self.groups_have_changed = false;
    }

    /// Forgets the groups that are used no longer. Returns their places.
    pub(crate) fn take_unused(&mut self) -> Vec<AdjacencyIndex> {
        let unused = self.groups.0.extract_if(.., |_, state| state.is_unused);
        let unused: Vec<GroupState> = unused.map(|(_, state)| state).collect();
        unused.iter().for_each(|state| self.release(&state.group));
        unused.into_iter().filter_map(|state| state.place).collect()
    }

    /// All that was touched is in the tables of the workers.
    pub(crate) fn applied(&mut self) {
        if self.touched.is_empty() {
            for state in self.groups.0.values_mut() {
                state.is_unused = state.is_retired && state.prefixes == 0;
            }
        }
    }

    /// Which watched next hops can be reached, of those of which something else was told last.
    pub fn take_reachability(&mut self) -> Reachability {
        self.next_hops.take_reachability()
    }

    /// Prefixes of IPv4, and of IPv6.
    pub fn counts(&self) -> [usize; 2] {
        self.learned.counts()
    }

    /// What could not be done, for people.
    pub fn problems(&self) -> Vec<String> {
        let Refused { routes, unknown, groups, next_hops } = self.refused;
        let told = [
            (
                self.kernel.count_refused(),
                "learned routes are not in the kernel: it refuses them, or has others' there".to_owned(),
            ),
            (routes, format!("learned routes were refused: more than {MAX_ROUTES}")),
            (unknown, "learned routes lead nowhere: their group is not known".to_owned()),
            (groups, format!("groups of next hops were refused: more than {MAX_GROUPS}")),
            (
                next_hops,
                format!("next hops were left out: more than {MAX_NEXT_HOPS} in a group, or {MAX_WATCHED} in all"),
            ),
        ];
        told.into_iter().filter(|(count, _)| *count > 0).map(|(count, text)| format!("{count} {text}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A number that is given again is another group: nothing of the old one stays.
    #[test]
    fn a_number_that_is_given_again_has_the_metric_of_its_new_group() {
        let mut rib = Rib::default();
        let prefix = Cidr::new([10, 9, 0, 0].into(), 16).unwrap();
        let define = |metric| {
            (GroupId(1), Group { target: GroupTarget::NextHops(vec![[192, 0, 2, 1].into()]), backup: None, metric })
        };
        let metric = |rib: &Rib| {
            rib.learned.get(&prefix).and_then(|entry| rib.groups.definition(entry.group())).map(|group| group.metric)
        };
        rib.learn(LearnedBatch {
            groups: vec![define(1024)],
            routes: vec![(prefix, Some(GroupId(1)))],
            ..LearnedBatch::default()
        });
        assert_eq!(metric(&rib), Some(1024));
        // While a prefix leads there, the kernel has a route of that metric.
        rib.learn(LearnedBatch { groups: vec![define(7)], ..LearnedBatch::default() });
        assert_eq!(metric(&rib), Some(1024));
        rib.learn(LearnedBatch { routes: vec![(prefix, None)], retired: vec![GroupId(1)], ..LearnedBatch::default() });
        assert_eq!(metric(&rib), None);
        rib.learn(LearnedBatch {
            groups: vec![define(512)],
            routes: vec![(prefix, Some(GroupId(1)))],
            ..LearnedBatch::default()
        });
        assert_eq!(metric(&rib), Some(512));
    }
}
