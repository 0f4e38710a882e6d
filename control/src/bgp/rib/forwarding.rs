//! What packets to a prefix do: the group of next hops of its best paths, each group once.
//!
//! A group is the next hops that packets are spread over, and the one that takes over when all of them are gone. When one
//! goes, whoever forwards changes the groups that it is in, and no prefix. With very many groups, which take the square of
//! the number of next hops, new ones are made without the one that takes over.
//!
//! ```text
//!   prefixes that lead elsewhere ──▶ queue of places ──take──▶ at most so many routes, as they are then
//!   groups that no prefix has   ──▶ wait for the places before them in the queue ──▶ told, and their numbers free
//! ```
//!
//! Whoever forwards may be slow. Then places wait, at four octets each, and each once; what is told is made when it is taken.
//!
//! Invariants: a group that some prefix has is in `groups`, with the number of its prefixes. A place is in the queue once if it
//! is marked so, and not otherwise. A number is given again only when nobody was told last that a prefix has it.
//! See: draft-ietf-rtgwg-bgp-pic, which calls the switch to the backup prefix-independent convergence.

use std::collections::{BTreeMap, VecDeque};
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
    given: Vec<Given>,
    /// The next hop and metric that were looked for last, and their group: what is told together leads to the same.
    last: Option<(IpAddr, u32, GroupId)>,
    /// Places whose prefixes lead elsewhere than was told.
    queue: VecDeque<PrefixIndex>,
    /// Places that were ever taken out of it.
    taken: u64,
    /// To be told.
    defined: Vec<(GroupId, Group)>,
    /// The same, when so many places were taken.
    retired: VecDeque<(u64, GroupId)>,
}

/// The group of a prefix, if it has one, and whether its place waits in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Given(u32);

const WAITS: u32 = 1 << 31;
const _: () = assert!(GroupId::END < WAITS);

impl Given {
    fn group(self) -> Option<GroupId> {
        (self.0 & !WAITS).checked_sub(1).map(GroupId)
    }

    fn waits(self) -> bool {
        self.0 & WAITS != 0
    }

    fn waiting(group: Option<GroupId>) -> Given {
        Given(WAITS | group.map_or(0, |group| group.0 + 1))
    }
}

impl Forwarding {
    /// Looks at a prefix again.
    pub fn follow(&mut self, rib: &Rib, place: PrefixIndex) {
        if self.given.len() <= place.index() {
            self.given.resize((place.index() / PIECE + 1) * PIECE, Given::default());
        }
        let new = self.group_of(rib, place);
        let given = self.given[place.index()];
        let old = given.group();
        if old == new {
            return;
        }
        if let Some((_, count)) = new.and_then(|id| self.groups.get_mut(id.0 as usize)) {
            *count += 1;
        }
        if !given.waits() {
            self.queue.push_back(place);
        }
        self.given[place.index()] = Given::waiting(new);
        if let Some(old) = old
            && let Some((group, count)) = self.groups.get_mut(old.0 as usize)
        {
            *count -= 1;
            if *count == 0 {
                self.ids.remove(group);
                self.last = self.last.filter(|(.., last)| *last != old);
                self.retired.push_back((self.taken + self.queue.len() as u64, old));
            }
        }
    }

    /// The number of the group that a prefix belongs to now.
    fn group_of(&mut self, rib: &Rib, place: PrefixIndex) -> Option<GroupId> {
        let entry = rib.entry(place);
        let best = entry.best().filter(|best| !best.peer.is_local())?;
        let metric = metric(rib, best);
        if entry.paths.len() > 1 {
            let Ways { next_hops, backup } = ways(rib, place);
            return Some(self.id_of(Group { target: GroupTarget::NextHops(next_hops), backup, metric }));
        }
        match self.last {
            Some((next_hop, of, id)) if (next_hop, of) == (hop(best), metric) => Some(id),
            _ => {
                let id = self.id_of(Group { target: GroupTarget::NextHops(vec![hop(best)]), backup: None, metric });
                self.last = Some((hop(best), metric, id));
                Some(id)
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
        self.defined.push((id, group.clone()));
        self.ids.insert(group, id);
        id
    }

    pub fn has_changes(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Whether somebody has yet to be told about a prefix: until then its place must stay its own.
    pub fn is_waiting(&self, place: PrefixIndex) -> bool {
        self.given.get(place.index()).is_some_and(|given| given.waits())
    }

    /// What changed since the last time, with `most` routes at most. Groups that went can have their numbers given again
    /// after this.
    pub fn take(&mut self, rib: &Rib, most: usize) -> LearnedBatch {
        let count = self.queue.len().min(most);
        let mut batch = LearnedBatch { groups: std::mem::take(&mut self.defined), ..LearnedBatch::default() };
        batch.routes.reserve_exact(count);
        for place in self.queue.drain(..count) {
            let given = &mut self.given[place.index()];
            given.0 &= !WAITS;
            batch.routes.push((rib.prefix(place), given.group()));
        }
        self.queue.shrink_to(most);
        self.taken += count as u64;
        while let Some((_, id)) = self.retired.pop_front_if(|(after, _)| *after <= self.taken) {
            batch.retired.push(id);
        }
        self.free.extend(&batch.retired);
        batch
    }
}

/// The metric of the routes to a prefix whose best path this is.
fn metric(rib: &Rib, best: &Path) -> u32 {
    let preference = best.attributes.local_pref.filter(|_| rib.facts(best.peer).is_some_and(|facts| facts.internal));
    let metric = preference.map(|preference| PREFERENCE_SUM.saturating_sub(preference)).filter(|metric| *metric > 0);
    metric.unwrap_or(METRIC)
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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    use config::net::Cidr;
    use proptest::prelude::*;

    use super::*;
    use crate::bgp::attribute::Attributes;
    use crate::bgp::message::Nlri;
    use crate::bgp::rib::Said;
    use crate::bgp::rib::path::{PeerFacts, PeerIndex};

    /// Who forwards: what it was told last of every prefix, and the groups that it knows.
    #[derive(Default)]
    struct Told {
        routes: BTreeMap<Cidr, GroupId>,
        groups: BTreeMap<GroupId, Group>,
    }

    impl Told {
        fn take(&mut self, batch: LearnedBatch) {
            for (id, group) in batch.groups {
                assert!(self.groups.insert(id, group).is_none(), "the number of a group that is known");
            }
            for (prefix, group) in batch.routes {
                match group {
                    Some(group) => _ = self.routes.insert(prefix, group),
                    None => _ = self.routes.remove(&prefix),
                }
            }
            for id in batch.retired {
                assert!(self.groups.remove(&id).is_some());
            }
            assert!(self.routes.values().all(|id| self.groups.contains_key(id)), "a prefix of a group that is gone");
        }
    }

    proptest! {
        #[test]
        fn in_pieces_it_is_what_the_table_says(
            steps in prop::collection::vec((0u8..6, 0u16..2, prop::option::weighted(0.7, 1u8..4), prop::option::of(0usize..3)), 1..80),
        ) {
            let mut rib = Rib::default();
            for number in 0..2u8 {
                let address = [192, 0, 2, number].into();
                rib.add_peer(PeerFacts { address, router_id: Ipv4Addr::LOCALHOST, internal: false });
            }
            rib.set_metrics(&BTreeMap::new());
            let (mut forwarding, mut told) = (Forwarding::default(), Told::default());
            let mut gone = Vec::new();
            for (number, peer, hop, takes) in steps {
                let prefix = Cidr::new([10, number, 0, 0].into(), 16).unwrap();
                let nlri = Nlri { prefix, path_id: 0 };
                match hop {
                    Some(hop) => {
                        let attributes = rib.store.intern(Arc::new(Attributes::local([198, 51, 100, hop].into())));
                        rib.announce(PeerIndex(peer), nlri, Said { attributes, rejected: None, beats_local: false });
                        rib.set_metrics(&(1..4).map(|hop| ([198, 51, 100, hop].into(), Some(0))).collect());
                    }
                    None => _ = rib.withdraw(PeerIndex(peer), nlri),
                }
                for place in rib.take_changed() {
                    forwarding.follow(&rib, place);
                    gone.push(place);
                }
                // Places are given to other prefixes as soon as may be.
                gone.retain(|place| forwarding.is_waiting(*place) || !rib.release(*place));
                if let Some(most) = takes {
                    told.take(forwarding.take(&rib, most));
                }
            }
            while forwarding.has_changes() {
                told.take(forwarding.take(&rib, 2));
            }
            prop_assert_eq!(told.groups.len(), forwarding.ids.len(), "all that is not used was retired");
            let expected: BTreeMap<Cidr, Ways> = rib
                .iter()
                .map(|(place, prefix, _)| (prefix, ways(&rib, place)))
                .filter(|(_, ways)| !ways.next_hops.is_empty())
                .collect();
            let found: BTreeMap<Cidr, Ways> = told
                .routes
                .iter()
                .map(|(prefix, id)| match &told.groups[id] {
                    Group { target: GroupTarget::NextHops(next_hops), backup, .. } => {
                        (*prefix, Ways { next_hops: next_hops.clone(), backup: *backup })
                    }
                    _ => (*prefix, Ways::default()),
                })
                .collect();
            prop_assert_eq!(found, expected);
        }
    }
}
