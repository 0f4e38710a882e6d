//! What packets to a prefix do: the group of next hops of its best paths, each group once.
//!
//! A group is the next hops that packets are spread over, and those that take over when none of them can be reached. When
//! a next hop goes, whoever forwards changes the groups that it is in, and no prefix.
//!
//! Invariant: a group that some prefix has is in `groups`, with the number of its prefixes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::Rib;
use super::path::Path;
use super::table::PrefixIndex;

/// Where packets go.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct NextHops {
    /// Sorted, each once; packets are spread over them.
    pub primary: Vec<IpAddr>,
    /// The next best; empty when there is none.
    pub backup: Vec<IpAddr>,
    /// As told to the kernel.
    pub metric: u32,
}

/// A group of next hops. Numbers are given again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u32);

impl GroupId {
    pub const NONE: GroupId = GroupId(u32::MAX);
}

/// How forwarding differs from what was told last.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ForwardingChanges {
    /// New groups; to be known before routes that have them.
    pub defined: Vec<(GroupId, NextHops)>,
    pub routes: Vec<(config::net::Cidr, Option<GroupId>)>,
    /// Groups that no route has any more.
    pub gone: Vec<GroupId>,
}

/// Groups in use, and which prefix has which.
#[derive(Debug, Default)]
pub struct Forwarding {
    ids: BTreeMap<NextHops, GroupId>,
    groups: Vec<(NextHops, u32)>,
    free: Vec<GroupId>,
    /// By place of the prefix.
    given: Vec<GroupId>,
    pending: ForwardingChanges,
}

/// Metric in the kernel of a route without a local preference: Calico's.
const NORMAL_METRIC: u32 = 1024;
/// Local preference and metric add up to this.
const PREFERENCE_AND_METRIC: u32 = 2_147_483_647;

impl Forwarding {
    /// Looks at a prefix again.
    pub fn follow(&mut self, rib: &Rib, place: PrefixIndex) {
        if self.given.len() <= place.index() {
            self.given.resize((place.index() / super::table::PIECE + 1) * super::table::PIECE, GroupId::NONE);
        }
        let new = next_hops(rib, place).map_or(GroupId::NONE, |next_hops| self.group(next_hops));
        let old = std::mem::replace(&mut self.given[place.index()], new);
        if old == new {
            return;
        }
        if let Some((_, count)) = self.groups.get_mut(new.0 as usize) {
            *count += 1;
        }
        self.pending.routes.push((rib.prefix(place), (new != GroupId::NONE).then_some(new)));
        if let Some((next_hops, count)) = self.groups.get_mut(old.0 as usize) {
            *count -= 1;
            if *count == 0 {
                self.ids.remove(next_hops);
                self.pending.gone.push(old);
            }
        }
    }

    fn group(&mut self, next_hops: NextHops) -> GroupId {
        if let Some(id) = self.ids.get(&next_hops) {
            return *id;
        }
        let id = match self.free.pop() {
            Some(id) => {
                self.groups[id.0 as usize] = (next_hops.clone(), 0);
                id
            }
            None => {
                self.groups.push((next_hops.clone(), 0));
                GroupId((self.groups.len() - 1) as u32)
            }
        };
        self.pending.defined.push((id, next_hops.clone()));
        self.ids.insert(next_hops, id);
        id
    }

    pub fn has_changes(&self) -> bool {
        !self.pending.routes.is_empty()
    }

    /// What changed since the last time. Groups that went can have their numbers given again after this.
    pub fn take(&mut self) -> ForwardingChanges {
        let changes = std::mem::take(&mut self.pending);
        self.free.extend(changes.gone.iter().copied());
        changes
    }

    /// Next hops that some group has.
    pub fn next_hops(&self) -> impl Iterator<Item = IpAddr> {
        self.ids.keys().flat_map(|group| group.primary.iter().chain(&group.backup)).copied()
    }

    pub fn group_of(&self, place: PrefixIndex) -> Option<&NextHops> {
        let id = self.given.get(place.index())?;
        self.groups.get(id.0 as usize).map(|(next_hops, _)| next_hops)
    }
}

/// Where packets to a prefix go. None: nowhere, or where this node's own routes lead.
fn next_hops(rib: &Rib, place: PrefixIndex) -> Option<NextHops> {
    let entry = rib.entry(place);
    let best = entry.best().filter(|best| !best.peer.is_local())?;
    let metric = best.attributes.local_pref.filter(|_| rib.facts(best.peer).is_some_and(|facts| facts.internal));
    let metric = metric.map_or(NORMAL_METRIC, |pref| PREFERENCE_AND_METRIC.saturating_sub(pref));
    let metric = if metric == 0 { NORMAL_METRIC } else { metric };
    let hop = |path: &Path| path.attributes.next_hop.address;
    if entry.paths.len() == 1 {
        return Some(NextHops { primary: vec![hop(best)], backup: Vec::new(), metric });
    }
    let decision = rib.decision(place);
    let paths = decision.multipath.iter().filter_map(|at| entry.paths.get(*at));
    let mut primary: Vec<IpAddr> = paths.filter(|path| !path.peer.is_local()).map(hop).collect();
    primary.sort_unstable();
    primary.dedup();
    // The one that lost last is the next best; a rough order is enough, since the decision is made again when it is needed.
    let mut others: Vec<_> =
        decision.lost.iter().filter_map(|(at, lost)| Some((*lost, entry.paths.get(*at)?))).collect();
    others.retain(|(lost, path)| {
        *lost > crate::bgp::decision::Lost::NextHopUnreachable && !path.peer.is_local() && !primary.contains(&hop(path))
    });
    let backup =
        others.iter().max_by_key(|(lost, path)| (*lost, std::cmp::Reverse(hop(path)))).map(|(_, path)| hop(path));
    Some(NextHops { primary, backup: backup.into_iter().collect(), metric })
}
