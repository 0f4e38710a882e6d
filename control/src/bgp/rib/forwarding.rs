//! What packets to a prefix do: the group of next hops of its best paths, each group once.
//!
//! A group is the next hops that packets are spread over, and the one that takes over when all of them are gone. When one
//! goes, whoever forwards changes the groups that it is in, and no prefix. With very many groups, which take the square of
//! the number of next hops, new ones are made without the one that takes over.
//!
//! Invariant: a group that some prefix has is in `groups`, with the number of its prefixes.
//! See: draft-ietf-rtgwg-bgp-pic, which calls this prefix-independent convergence.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::Rib;
use super::path::Path;
use super::table::{PIECE, PrefixIndex};
use crate::bgp::rules::filter::PREFERENCE_SUM;
use crate::host::route::METRIC;
use crate::rib::{Group, GroupId, GroupTarget, LearnedBatch, MAX_GROUPS};

/// From here on a group has to do without a backup: there are to be enough for all that have none.
const WITH_BACKUP_MAX: usize = MAX_GROUPS / 2;

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

    fn id_of(&mut self, mut group: Group) -> GroupId {
        if let Some(id) = self.ids.get(&group) {
            return *id;
        }
        if self.ids.len() >= WITH_BACKUP_MAX && group.backup.take().is_some() {
            return self.id_of(group);
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
    let Ways { next_hops, backup } = ways(rib, place);
    Some(Group { target: GroupTarget::NextHops(next_hops), backup, metric: metric.unwrap_or(METRIC) })
}

/// By whom packets to a prefix go.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ways {
    /// Packets are spread over these: sorted, each once.
    pub next_hops: Vec<IpAddr>,
    /// What is best when the paths by all of them are gone.
    pub backup: Option<IpAddr>,
}

/// None where this node's own routes lead.
pub fn ways(rib: &Rib, place: PrefixIndex) -> Ways {
    let entry = rib.entry(place);
    let Some(best) = entry.best().filter(|best| !best.peer.is_local()) else { return Ways::default() };
    if entry.paths.len() == 1 {
        return Ways { next_hops: vec![hop(best)], backup: None };
    }
    let used = rib.decision(place).multipath;
    let used = used.iter().filter_map(|at| entry.paths.get(*at)).filter(|path| !path.peer.is_local());
    let mut next_hops: Vec<IpAddr> = used.map(hop).collect();
    next_hops.sort_unstable();
    next_hops.dedup();
    let others: Vec<usize> = (0..entry.paths.len()).filter(|at| !next_hops.contains(&hop(&entry.paths[*at]))).collect();
    let backup = rib.best_among(place, others).map(|at| &entry.paths[at]).filter(|path| !path.peer.is_local());
    Ways { backup: backup.map(hop), next_hops }
}

fn hop(path: &Path) -> IpAddr {
    path.attributes.next_hop.address
}
