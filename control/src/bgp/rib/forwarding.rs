//! What packets to a prefix do: the group of next hops of its best paths, each group once.
//!
//! A group is the next hops that packets are spread over. When one of them goes, whoever forwards changes the groups that it
//! is in, and no prefix.
//!
//! Invariant: a group that some prefix has is in `groups`, with the number of its prefixes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::Rib;
use super::path::Path;
use super::table::{PIECE, PrefixIndex};
use crate::bgp::decision::Lost;
use crate::bgp::rules::filter::PREFERENCE_SUM;
use crate::host::route::METRIC;
use crate::rib::{Group, GroupId, GroupTarget, LearnedBatch};

/// Groups in use, and which prefix has which.
#[derive(Debug, Default)]
pub struct Forwarding {
    ids: BTreeMap<Group, GroupId>,
    groups: Vec<(Group, u32)>,
    /// Numbers that may be given again.
    free: Vec<GroupId>,
    /// By place of the prefix.
    given: Vec<Option<GroupId>>,
    pending: LearnedBatch,
}

impl Forwarding {
    /// Looks at a prefix again.
    pub fn follow(&mut self, rib: &Rib, place: PrefixIndex) {
        if self.given.len() <= place.index() {
            self.given.resize((place.index() / PIECE + 1) * PIECE, None);
        }
        let new = group(rib, place).map(|group| self.id_of(group));
        let old = std::mem::replace(&mut self.given[place.index()], new);
        if old == new {
            return;
        }
        if let Some((_, count)) = new.and_then(|id| self.groups.get_mut(id.0 as usize)) {
            *count += 1;
        }
        self.pending.routes.push((rib.prefix(place), new));
        if let Some(old) = old
            && let Some((group, count)) = self.groups.get_mut(old.0 as usize)
        {
            *count -= 1;
            if *count == 0 {
                self.ids.remove(group);
                self.pending.retired.push(old);
            }
        }
    }

    fn id_of(&mut self, group: Group) -> GroupId {
        if let Some(id) = self.ids.get(&group) {
            return *id;
        }
        let id = match self.free.pop() {
            Some(id) => {
                self.groups[id.0 as usize] = (group.clone(), 0);
                id
            }
            None => {
                self.groups.push((group.clone(), 0));
                GroupId((self.groups.len() - 1) as u32)
            }
        };
        self.pending.groups.push((id, group.clone()));
        self.ids.insert(group, id);
        id
    }

    pub fn has_changes(&self) -> bool {
        !self.pending.routes.is_empty()
    }

    /// What changed since the last time. Groups that went can have their numbers given again after this.
    pub fn take(&mut self) -> LearnedBatch {
        let changes = std::mem::take(&mut self.pending);
        self.free.extend(changes.retired.iter().copied());
        changes
    }
}

/// Where packets to a prefix go. None: nowhere, or where this node's own routes lead.
fn group(rib: &Rib, place: PrefixIndex) -> Option<Group> {
    let best = rib.entry(place).best().filter(|best| !best.peer.is_local())?;
    let preference = best.attributes.local_pref.filter(|_| rib.facts(best.peer).is_some_and(|facts| facts.internal));
    let metric = preference.map(|preference| PREFERENCE_SUM.saturating_sub(preference)).filter(|metric| *metric > 0);
    Some(Group { target: GroupTarget::NextHops(next_hops(rib, place)), metric: metric.unwrap_or(METRIC) })
}

/// Next hops that packets to a prefix are spread over, sorted, each once. None where this node's own routes lead.
pub fn next_hops(rib: &Rib, place: PrefixIndex) -> Vec<IpAddr> {
    let entry = rib.entry(place);
    let Some(best) = entry.best().filter(|best| !best.peer.is_local()) else { return Vec::new() };
    if entry.paths.len() == 1 {
        return vec![hop(best)];
    }
    let decision = rib.decision(place);
    let paths = decision.multipath.iter().filter_map(|at| entry.paths.get(*at));
    let mut next_hops: Vec<IpAddr> = paths.filter(|path| !path.peer.is_local()).map(hop).collect();
    next_hops.sort_unstable();
    next_hops.dedup();
    next_hops
}

/// For people: the next hop of the path that lost last, which takes over if `next_hops` go. A rough answer is enough, since
/// the decision is made again then.
pub fn next_best(rib: &Rib, place: PrefixIndex) -> Option<IpAddr> {
    let next_hops = next_hops(rib, place);
    let entry = rib.entry(place);
    let decision = rib.decision(place);
    let lost = decision.lost.iter().filter_map(|(at, lost)| Some((*lost, entry.paths.get(*at)?)));
    let usable = lost.filter(|(lost, path)| {
        *lost > Lost::NextHopUnreachable && !path.peer.is_local() && !next_hops.contains(&hop(path))
    });
    let last = usable.max_by_key(|(lost, path)| (*lost, std::cmp::Reverse(hop(path))));
    last.filter(|_| !next_hops.is_empty()).map(|(_, path)| hop(path))
}

fn hop(path: &Path) -> IpAddr {
    path.attributes.next_hop.address
}
