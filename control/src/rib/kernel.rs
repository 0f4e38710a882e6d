//! The host's own way to learned prefixes: routes of the kernel, kept as they should be a few at a time.
//!
//! ```text
//!   prefixes that changed ─▶ queue ──┐
//!   groups that changed ───▶ sweep ──┼─▶ at most so many edits ─▶ kernel ─▶ what it refused: again after a while
//!   start, lost events ────▶ dump ───┘   then a sweep for what the kernel has not
//! ```
//!
//! The kernel has a route for each prefix, so what is one change for the workers is a hundred thousand here. So nothing is
//! done at once: a change of a prefix is queued, a change of a group starts a sweep through all prefixes, and each round takes
//! what the caller has time for. What the kernel has of ours is known by marks beside the prefixes; when that is in doubt its
//! routes are read, compared, and what was not among them is written again.
//!
//! A prefix is never without a route in between: the same metric is one replacement, and with another the new route comes
//! before the old one goes. Only routes of our own protocol number are ever replaced or deleted; a route of somebody else's
//! with the same prefix and metric stays, and ours waits.
//!
//! Invariants: at most [`MAX_QUEUE`] prefixes wait; with more the kernel's routes are read again instead. No edit is made
//! while they are read. `Mark::InKernel` is set for prefixes whose route was written, under the metric of their group, and
//! not for those in the queue, which say themselves what the kernel has.
//! Left out: next hop objects, which would make the switch of a group one change here too.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use config::net::Cidr;
use fastpath::table::{GATEWAY_IPV4, GATEWAY_IPV6};

use super::learned::{Learned, Mark};
use super::nexthop::Member;
use super::{GroupId, GroupTarget, Groups};
use crate::host::LinkIndex;
use crate::host::route::{NextHop, Route, Target};

/// Prefixes that wait for their turn.
pub const MAX_QUEUE: usize = 1 << 16;

/// Prefixes that a round of a sweep looks at.
const SWEEP: usize = 4096;

/// How long what the kernel refused is left alone.
const PAUSE: Duration = Duration::from_secs(5);

/// A change of the kernel's routes, all of our own protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// There is none of this prefix and metric.
    Add(Route),
    /// There is one of ours.
    Replace(Route),
    Delete(Cidr, u32),
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    Nothing,
    /// To be made in order, and answered by `refused` for those that were not. None: there was only something to look at.
    Edit(Vec<Edit>),
    /// The kernel's routes of our protocol are to be read, a piece at a time, and given to `read`.
    Read,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Idle,
    /// Asked for, and coming piece by piece.
    Reading,
    Sweeping {
        after: Option<Cidr>,
        /// Looks for what was not read, too.
        is_whole: bool,
        groups: BTreeSet<GroupId>,
    },
}

/// What is known of the kernel's routes.
#[derive(Debug, Default)]
pub struct KernelRoutes {
    is_enabled: bool,
    /// Prefixes to look at, and the metric under which the kernel has a route of ours.
    queue: BTreeMap<Cidr, Option<u32>>,
    /// Groups that lead elsewhere since the sweep that is under way began.
    groups: BTreeSet<GroupId>,
    phase: Phase,
    has_to_read: bool,
    /// What was refused is tried again then.
    again: Option<Instant>,
    refused: u64,
    /// The kernel's end of the private pair: the host's way to workloads.
    host_link: Option<LinkIndex>,
}

/// What the kernel should have is asked of these.
pub(super) struct Wanted<'a> {
    pub learned: &'a mut Learned,
    pub groups: &'a Groups,
    /// The node has a route of its own to the prefix, which the kernel has too.
    pub is_local: &'a dyn Fn(&Cidr) -> bool,
}

impl KernelRoutes {
    /// Nothing is written, and what an earlier process wrote is taken away, unless this is said.
    pub fn enable(&mut self, is_enabled: bool) {
        self.is_enabled = is_enabled;
        self.read_anew();
    }

    /// What the kernel has is in doubt.
    pub fn read_anew(&mut self) {
        self.has_to_read = true;
    }

    pub fn set_host_link(&mut self, link: Option<LinkIndex>) {
        if self.host_link != link {
            self.host_link = link;
            self.read_anew();
        }
    }

    /// Routes that the kernel did not take in the last whole round.
    pub fn count_refused(&self) -> u64 {
        self.refused
    }

    /// Prefixes that wait.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// A prefix leads elsewhere. `has`: the metric of the route that the kernel has of ours by the marks.
    pub(super) fn touch(&mut self, prefix: Cidr, has: Option<u32>) {
        if !self.is_enabled || self.has_to_read {
            // Everything will be looked at.
            return;
        }
        if self.queue.len() >= MAX_QUEUE && !self.queue.contains_key(&prefix) {
            self.queue.clear();
            self.read_anew();
            return;
        }
        let known = self.queue.entry(prefix).or_default();
        *known = known.or(has);
    }

    pub(super) fn touch_group(&mut self, group: GroupId) {
        if self.is_enabled {
            self.groups.insert(group);
        }
    }

    /// What to do next, with at most about `most` edits.
    pub(super) fn next(&mut self, most: usize, now: Instant, mut wanted: Wanted<'_>) -> Step {
        if self.phase == Phase::Reading {
            return Step::Read;
        }
        if self.has_to_read {
            self.has_to_read = false;
            self.queue.clear();
            self.groups.clear();
            self.phase = Phase::Reading;
            return Step::Read;
        }
        let mut edits = Vec::new();
        while edits.len() < most
            && let Some((prefix, has)) = self.queue.pop_first()
        {
            self.edit(prefix, has, &mut wanted, &mut edits);
        }
        // Not both in one step: whether a route that was just added is there is known only afterwards, and one that is not
        // must not be replaced.
        if edits.is_empty() {
            self.sweep(most, now, &mut wanted, &mut edits);
        }
        let is_done = edits.is_empty() && self.phase == Phase::Idle && self.groups.is_empty();
        if is_done { Step::Nothing } else { Step::Edit(edits) }
    }

    /// Brings one prefix to what is wanted from what the kernel has.
    fn edit(&mut self, prefix: Cidr, has: Option<u32>, wanted: &mut Wanted<'_>, edits: &mut Vec<Edit>) {
        let route = self.route(&prefix, wanted);
        if let Some(entry) = wanted.learned.get_mut(&prefix) {
            entry.set(Mark::InKernel, route.is_some());
        }
        let metric = route.as_ref().map(|route| route.metric);
        match route {
            Some(route) if has == Some(route.metric) => edits.push(Edit::Replace(route)),
            Some(route) => edits.push(Edit::Add(route)),
            None => {}
        }
        if let Some(old) = has.filter(|old| metric != Some(*old)) {
            edits.push(Edit::Delete(prefix, old));
        }
    }

    /// Looks at the next prefixes, for groups that changed, for what the kernel refused, and for what it has lost.
    fn sweep(&mut self, most: usize, now: Instant, wanted: &mut Wanted<'_>, edits: &mut Vec<Edit>) {
        if self.phase == Phase::Idle {
            let is_whole = self.again.is_some_and(|again| again <= now);
            if !is_whole && self.groups.is_empty() {
                return;
            }
            if is_whole {
                (self.again, self.refused) = (None, 0);
            }
            self.phase = Phase::Sweeping { after: None, is_whole, groups: std::mem::take(&mut self.groups) };
        }
        let Phase::Sweeping { after, is_whole, groups } = std::mem::take(&mut self.phase) else { return };
        let mut last = after;
        let mut found = Vec::new();
        let mut looked = 0;
        for (prefix, entry) in wanted.learned.after(after).take(SWEEP) {
            if edits.len() + found.len() >= most {
                break;
            }
            looked += 1;
            last = Some(prefix);
            let is_there = entry.has(Mark::InKernel);
            if groups.contains(&entry.group()) || is_whole && !is_there {
                found.push((prefix, entry.group(), is_there));
            }
        }
        let is_end = looked < SWEEP && edits.len() + found.len() < most;
        for (prefix, group, is_there) in found {
            let metric = wanted.groups.0.get(&group).map(|state| state.group.metric);
            self.edit(prefix, metric.filter(|_| is_there), wanted, edits);
        }
        if !is_end {
            self.phase = Phase::Sweeping { after: last, is_whole, groups };
        }
    }

    /// Takes routes of our protocol that the kernel has, and gives what is wrong about them. `is_end`: these were the last.
    pub(super) fn read(&mut self, routes: Vec<Route>, is_end: bool, wanted: Wanted<'_>) -> Vec<Edit> {
        let mut edits = Vec::new();
        for route in routes {
            let prefix = route.destination();
            match self.route(&prefix, &wanted) {
                Some(right) if right.metric == route.metric => {
                    if let Some(entry) = wanted.learned.get_mut(&prefix) {
                        entry.set(Mark::Seen, true);
                    }
                    if !is_same(&right, &route) {
                        edits.push(Edit::Replace(right));
                    }
                }
                _ => edits.push(Edit::Delete(prefix, route.metric)),
            }
        }
        if is_end {
            // What was seen is there, and nothing else is: the sweep writes the rest.
            wanted.learned.settle_seen();
            (self.again, self.refused) = (None, 0);
            self.phase = Phase::Sweeping { after: None, is_whole: true, groups: BTreeSet::new() };
        }
        edits
    }

    /// The routes could not be read.
    pub fn could_not_read(&mut self) {
        self.phase = Phase::Idle;
        self.has_to_read = true;
    }

    /// The kernel did not make an edit. Somebody else's route is in the way, or the next hop is none to the kernel.
    pub(super) fn refused(&mut self, edit: &Edit, now: Instant, learned: &mut Learned) {
        let (Edit::Add(route) | Edit::Replace(route)) = edit else { return };
        self.refused += 1;
        self.again.get_or_insert(now + PAUSE);
        if let Some(entry) = learned.get_mut(&route.destination()) {
            entry.set(Mark::InKernel, false);
        }
    }

    /// The route that the kernel should have.
    fn route(&self, prefix: &Cidr, wanted: &Wanted<'_>) -> Option<Route> {
        let entry = wanted.learned.get(prefix).filter(|_| self.is_enabled)?;
        let state = wanted.groups.0.get(&entry.group())?;
        if (wanted.is_local)(prefix) {
            return None;
        }
        let target = match state.group.target {
            GroupTarget::Blackhole => Target::Blackhole,
            GroupTarget::NextHops(_) => {
                let hops = state.members.iter().filter_map(|member| self.hop(prefix, member));
                Target::Forward(hops.collect::<BTreeSet<_>>().into_iter().collect())
            }
        };
        let is_somewhere = !matches!(&target, Target::Forward(hops) if hops.is_empty());
        is_somewhere.then(|| Route::new(*prefix, state.group.metric, target))
    }

    fn hop(&self, prefix: &Cidr, member: &Member) -> Option<NextHop> {
        let (link, gateway) = match member {
            Member::Neighbour { link, address } => (*link, *address),
            Member::Endpoint(_) if prefix.is_ipv4() => (self.host_link?, IpAddr::V4(GATEWAY_IPV4.into())),
            Member::Endpoint(_) => (self.host_link?, IpAddr::V6(GATEWAY_IPV6.into())),
        };
        // The kernel has IPv4 behind IPv6 neighbours, and not the other way round.
        let fits = prefix.is_ipv4() || gateway.is_ipv6();
        // On the link by what we know; the kernel would ask its own routes, of which some may be ours.
        let onlink = !matches!(gateway, IpAddr::V6(address) if address.is_unicast_link_local());
        fits.then_some(NextHop { link, gateway: Some(gateway), onlink })
    }
}

/// The same, whatever the order of next hops.
fn is_same(one: &Route, other: &Route) -> bool {
    let sorted = |route: &Route| match &route.target {
        Target::Forward(hops) => {
            let mut hops = hops.clone();
            hops.sort();
            Target::Forward(hops)
        }
        target => target.clone(),
    };
    one.key() == other.key() && sorted(one) == sorted(other)
}

#[cfg(test)]
mod tests;
