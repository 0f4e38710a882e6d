//! All paths to all prefixes, from this node and from its peers, and what is best.
//!
//! A path is decided about the moment it comes or goes; the prefix then waits in `changed` for those who follow: the groups of
//! peers, and forwarding. Whoever follows looks at the prefix as it is then, so many changes of one prefix cost one look.
//!
//! | file | what it knows |
//! |---|---|
//! | `table.rs` | prefix → its place |
//! | `path.rs` | one path |
//! | `paths.rs` | those to one prefix |
//! | `store.rs` | attributes, each once |
//! | `forwarding.rs` | groups of next hops, each once |
//!
//! Invariants: `best` and `multipath` are what `decide` says of `paths`; a prefix whose paths or decision changed is in
//! `changed`; counts of a peer are those of its paths; a prefix without paths is kept until `release`.
//! Left out: Adj-RIB-In as a table of its own: the paths of a peer are its Adj-RIB-In, rejected ones too.

pub mod forwarding;
pub mod path;
pub mod paths;
pub mod store;
pub mod table;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use config::net::{Cidr, IpVersion};

use super::attribute::Attributes;
use super::decision::{self, Decision, Facts};
use super::message::Nlri;
use path::{Path, PeerFacts, PeerIndex, Rejected, Stale};
use paths::Paths;
use store::AttributeStore;
use table::{PrefixIndex, Table};

/// Paths to one prefix.
const PATHS_MAX: usize = 4096;

/// What is known of one prefix.
#[derive(Debug, Default)]
pub struct Entry {
    pub paths: Paths,
    /// Position of the best path.
    pub best: Option<u16>,
    /// The others that packets may be spread over are marked; this says whether there are any.
    pub is_multipath: bool,
    is_changed: bool,
}

// There are a million.
const _: () = assert!(size_of::<Entry>() <= 32);

impl Entry {
    pub fn best(&self) -> Option<&Path> {
        self.paths.get(usize::from(self.best?))
    }
}

/// How many paths a peer has here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PathCount {
    pub received: u32,
    pub rejected: u32,
    pub stale: u32,
}

/// What is said about one route, after import rules.
#[derive(Debug, Clone)]
pub struct Said {
    pub attributes: Arc<Attributes>,
    pub rejected: Option<Rejected>,
    /// As in `Path`.
    pub beats_local: bool,
}

#[derive(Debug, Default)]
pub struct Rib {
    table: Table<Entry>,
    pub store: AttributeStore,
    peers: Vec<Option<PeerRow>>,
    /// Where next hops are, as control says. Unknown ones cannot be reached.
    metrics: BTreeMap<IpAddr, Option<u32>>,
    /// To all prefixes.
    paths: usize,
    /// How many accepted paths lead to a next hop.
    next_hops: HashMap<IpAddr, u32, ahash::RandomState>,
    is_next_hop_new: bool,
    /// Interfaces of local endpoints.
    interfaces: BTreeMap<Cidr, String>,
    changed: Vec<PrefixIndex>,
}

#[derive(Debug, Clone)]
struct PeerRow {
    facts: PeerFacts,
    counts: [PathCount; 2],
}

/// What is counted of a path.
#[derive(Clone, Copy)]
struct Counted {
    peer: PeerIndex,
    next_hop: IpAddr,
    is_rejected: bool,
    is_stale: bool,
}

impl Counted {
    fn of(path: &Path) -> Counted {
        Counted {
            peer: path.peer,
            next_hop: path.attributes.next_hop.address,
            is_rejected: path.rejected.is_some(),
            is_stale: path.stale != Stale::No,
        }
    }
}

struct View<'a> {
    peers: &'a [Option<PeerRow>],
    metrics: &'a BTreeMap<IpAddr, Option<u32>>,
}

impl Facts for View<'_> {
    fn peer(&self, path: &Path) -> PeerFacts {
        let nobody =
            PeerFacts { address: IpAddr::V4(0.into()), router_id: std::net::Ipv4Addr::UNSPECIFIED, internal: true };
        let row = self.peers.get(usize::from(path.peer.0)).and_then(Option::as_ref);
        row.map_or(nobody, |row| row.facts)
    }

    fn metric(&self, path: &Path) -> Option<u32> {
        self.metrics.get(&path.attributes.next_hop.address).copied().flatten()
    }
}

impl Rib {
    /// A place for a peer. None: there are too many.
    pub fn add_peer(&mut self, facts: PeerFacts) -> Option<PeerIndex> {
        let row = Some(PeerRow { facts, counts: Default::default() });
        if let Some(free) = self.peers.iter().position(Option::is_none) {
            self.peers[free] = row;
            return u16::try_from(free).ok().map(PeerIndex);
        }
        let index = u16::try_from(self.peers.len()).ok().map(PeerIndex).filter(|index| !index.is_local())?;
        self.peers.push(row);
        Some(index)
    }

    /// The peer said who it is now.
    pub fn set_facts(&mut self, peer: PeerIndex, facts: PeerFacts) {
        if let Some(row) = self.row(peer) {
            row.facts = facts;
        }
    }

    /// Frees the place of a peer, and drops what is left of it.
    pub fn remove_peer(&mut self, peer: PeerIndex) {
        self.drop_paths(peer, None, |_| true);
        if let Some(row) = self.peers.get_mut(usize::from(peer.0)) {
            *row = None;
        }
    }

    pub fn facts(&self, peer: PeerIndex) -> Option<PeerFacts> {
        self.peers.get(usize::from(peer.0))?.as_ref().map(|row| row.facts)
    }

    pub fn counts(&self, peer: PeerIndex, family: IpVersion) -> PathCount {
        let row = self.peers.get(usize::from(peer.0)).and_then(Option::as_ref);
        row.map_or_else(PathCount::default, |row| row.counts[family.index()])
    }

    fn row(&mut self, peer: PeerIndex) -> Option<&mut PeerRow> {
        self.peers.get_mut(usize::from(peer.0))?.as_mut()
    }

    fn count(&mut self, counted: Counted, family: IpVersion, sign: i32) {
        let Counted { peer, next_hop, is_rejected, is_stale } = counted;
        self.paths = self.paths.saturating_add_signed(sign as isize);
        if !is_rejected && !peer.is_local() {
            self.count_next_hop(next_hop, sign);
        }
        let Some(row) = self.row(peer) else { return };
        let counts = &mut row.counts[family.index()];
        let add = |count: &mut u32| *count = count.saturating_add_signed(sign);
        add(&mut counts.received);
        if is_rejected {
            add(&mut counts.rejected);
        }
        if is_stale {
            add(&mut counts.stale);
        }
    }

    fn count_next_hop(&mut self, next_hop: IpAddr, sign: i32) {
        let count = self.next_hops.entry(next_hop).or_default();
        self.is_next_hop_new |= *count == 0;
        *count = count.saturating_add_signed(sign);
        if *count == 0 {
            self.next_hops.remove(&next_hop);
            self.is_next_hop_new = true;
        }
    }

    /// A peer says something about a route. False: there is no room for it.
    pub fn announce(&mut self, peer: PeerIndex, nlri: Nlri, said: Said) -> bool {
        let Some(place) = self.table.find_or_insert(&nlri.prefix) else { return false };
        let family = nlri.prefix.version();
        let entry = self.table.get_mut(place);
        let found = entry.paths.iter_mut().find(|path| path.peer == peer && path.path_id == nlri.path_id);
        let next_hop = said.attributes.next_hop.address;
        let new = Counted { peer, next_hop, is_rejected: said.rejected.is_some(), is_stale: false };
        let old = match found {
            Some(path) => {
                let is_same = Arc::ptr_eq(&path.attributes, &said.attributes)
                    && (path.rejected, path.beats_local) == (said.rejected, said.beats_local)
                    && path.stale == Stale::No;
                if is_same {
                    return true;
                }
                let old = Counted::of(path);
                path.attributes = said.attributes;
                path.rejected = said.rejected;
                path.beats_local = said.beats_local;
                path.stale = Stale::No;
                Some(old)
            }
            None => {
                if entry.paths.len() >= PATHS_MAX {
                    return false;
                }
                let is_free = |number: &u16| !entry.paths.iter().any(|path| path.number == *number);
                let number = if entry.paths.is_empty() { 1 } else { (1..=u16::MAX).find(is_free).unwrap_or(u16::MAX) };
                entry.paths.push(Path {
                    peer,
                    number,
                    path_id: nlri.path_id,
                    stale: Stale::No,
                    rejected: said.rejected,
                    beats_local: said.beats_local,
                    attributes: said.attributes,
                });
                None
            }
        };
        if let Some(old) = old {
            self.count(old, family, -1);
        }
        self.count(new, family, 1);
        self.settle(place);
        true
    }

    /// A peer takes a route back. False: it had said nothing about it.
    pub fn withdraw(&mut self, peer: PeerIndex, nlri: Nlri) -> bool {
        let Some(place) = self.table.find(&nlri.prefix) else { return false };
        let entry = self.table.get_mut(place);
        let found = entry.paths.iter().position(|path| path.peer == peer && path.path_id == nlri.path_id);
        let Some(path) = found.and_then(|position| entry.paths.remove(position)) else { return false };
        self.count(Counted::of(&path), nlri.prefix.version(), -1);
        self.settle(place);
        true
    }

    /// Drops paths of a peer, of one family or of both. Returns how many went.
    pub fn drop_paths(&mut self, peer: PeerIndex, family: Option<IpVersion>, goes: impl Fn(&Path) -> bool) -> usize {
        self.edit(peer, family, |path| goes(path).then_some(None))
    }

    /// The peer is gone, and its paths stay for a while.
    pub fn mark_stale(&mut self, peer: PeerIndex, family: IpVersion, stale: Stale) -> usize {
        self.edit(peer, Some(family), |path| (path.stale < stale).then(|| Some(Path { stale, ..path.clone() })))
    }

    /// Gives every path of a peer to `change`: none leaves it as it is, some of none drops it.
    pub fn edit(
        &mut self,
        peer: PeerIndex,
        family: Option<IpVersion>,
        change: impl Fn(&Path) -> Option<Option<Path>>,
    ) -> usize {
        let mut changed = 0;
        for place in self.table.places() {
            let prefix = self.table.prefix(place);
            if family.is_some_and(|family| family != prefix.version()) {
                continue;
            }
            let mut position = 0;
            let mut is_touched = false;
            while let Some(path) = self.table.get(place).paths.get(position) {
                let new = if path.peer == peer { change(path) } else { None };
                match new {
                    None => position += 1,
                    Some(new) => {
                        is_touched = true;
                        changed += 1;
                        let paths = &mut self.table.get_mut(place).paths;
                        let old = paths.get(position).map(Counted::of);
                        let counted = new.as_ref().map(Counted::of);
                        match new {
                            Some(new) => {
                                paths[position] = new;
                                position += 1;
                            }
                            None => _ = paths.remove(position),
                        }
                        old.into_iter().for_each(|old| self.count(old, prefix.version(), -1));
                        counted.into_iter().for_each(|new| self.count(new, prefix.version(), 1));
                    }
                }
            }
            if is_touched {
                self.settle(place);
            }
        }
        changed
    }

    /// Changes one path, if it is there.
    pub fn edit_one(&mut self, peer: PeerIndex, nlri: Nlri, change: impl FnOnce(&mut Path)) {
        let Some(place) = self.table.find(&nlri.prefix) else { return };
        let paths = &mut self.table.get_mut(place).paths;
        let Some(path) = paths.iter_mut().find(|path| path.peer == peer && path.path_id == nlri.path_id) else {
            return;
        };
        let old = Counted::of(path);
        change(path);
        let new = Counted::of(path);
        self.count(old, nlri.prefix.version(), -1);
        self.count(new, nlri.prefix.version(), 1);
        self.settle(place);
    }

    /// Next hops of all accepted paths of peers, if they are others than when this was asked last.
    pub fn take_next_hops(&mut self) -> Option<BTreeSet<IpAddr>> {
        if !std::mem::take(&mut self.is_next_hop_new) {
            return None;
        }
        // Where a next hop leads is forgotten only with the one who watches it: one that went and came back in between is not told again.
        self.metrics.retain(|next_hop, _| self.next_hops.contains_key(next_hop));
        Some(self.next_hops.keys().copied().collect())
    }

    /// Whether control has yet to say where some next hop is: routes that lead there do not count until then.
    pub fn has_unanswered(&self) -> bool {
        self.next_hops.keys().any(|next_hop| !self.metrics.contains_key(next_hop))
    }

    pub fn has_new_next_hops(&self) -> bool {
        self.is_next_hop_new
    }

    /// Where a next hop is now; decides again about all routes that lead there.
    pub fn set_metrics(&mut self, metrics: &BTreeMap<IpAddr, Option<u32>>) {
        let is_new =
            |(next_hop, metric): &(&IpAddr, &Option<u32>)| self.metrics.get(next_hop).copied().flatten() != **metric;
        let new: BTreeMap<IpAddr, Option<u32>> = metrics.iter().filter(is_new).map(|(n, m)| (*n, *m)).collect();
        // One that no route leads to at the moment may be back before `take_next_hops`, and is not told again then.
        for (next_hop, metric) in metrics {
            if self.next_hops.contains_key(next_hop) || self.metrics.contains_key(next_hop) {
                self.metrics.insert(*next_hop, *metric);
            }
        }
        if new.is_empty() {
            return;
        }
        for place in self.table.places() {
            let paths = &self.table.get(place).paths;
            if paths.iter().any(|path| !path.peer.is_local() && new.contains_key(&path.attributes.next_hop.address)) {
                self.settle(place);
            }
        }
    }

    /// The interface of the local endpoint with this prefix.
    pub fn set_local_interface(&mut self, prefix: Cidr, interface: Option<String>) {
        match interface {
            Some(interface) => self.interfaces.insert(prefix, interface),
            None => self.interfaces.remove(&prefix),
        };
    }

    pub fn local_interface(&self, prefix: &Cidr) -> Option<&str> {
        self.interfaces.get(prefix).map(String::as_str)
    }

    /// Decides about a prefix, and lets others know.
    fn settle(&mut self, place: PrefixIndex) {
        let view = View { peers: &self.peers, metrics: &self.metrics };
        let entry = self.table.get_mut(place);
        match &entry.paths[..] {
            [] => (entry.best, entry.is_multipath) = (None, false),
            [path] => (entry.best, entry.is_multipath) = (decision::is_eligible(path, &view).then_some(0), false),
            paths => {
                let decision = decision::decide(paths, &view);
                entry.best = decision.best.and_then(|best| u16::try_from(best).ok());
                entry.is_multipath = decision.multipath.len() > 1;
            }
        }
        if !entry.is_changed {
            entry.is_changed = true;
            self.changed.push(place);
        }
    }

    /// Has to be looked at by those who follow, though nothing about it changed here.
    pub fn touch(&mut self, place: PrefixIndex) {
        let entry = self.table.get_mut(place);
        if !entry.is_changed && !entry.paths.is_empty() {
            entry.is_changed = true;
            self.changed.push(place);
        }
    }

    /// Prefixes that changed since the last time.
    pub fn take_changed(&mut self) -> Vec<PrefixIndex> {
        let changed = std::mem::take(&mut self.changed);
        for place in &changed {
            self.table.get_mut(*place).is_changed = false;
        }
        changed
    }

    pub fn has_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// The place is for another prefix if nobody says anything about this one. True if it was freed.
    pub fn release(&mut self, place: PrefixIndex) -> bool {
        let entry = self.table.get(place);
        let is_free =
            entry.paths.is_empty() && !entry.is_changed && self.table.find(&self.table.prefix(place)) == Some(place);
        if is_free {
            self.table.remove(place);
        }
        is_free
    }

    pub fn entry(&self, place: PrefixIndex) -> &Entry {
        self.table.get(place)
    }

    pub fn prefix(&self, place: PrefixIndex) -> Cidr {
        self.table.prefix(place)
    }

    pub fn find(&self, prefix: &Cidr) -> Option<PrefixIndex> {
        self.table.find(prefix)
    }

    /// The longest prefix with a best path that covers an address.
    pub fn longest(&self, address: IpAddr) -> Option<PrefixIndex> {
        let bits = IpVersion::of(address).address_bits();
        let mut lengths = (0..=bits).rev();
        lengths.find_map(|length| {
            let prefix = Cidr::new(address, length)?.masked();
            self.table.find(&prefix).filter(|place| self.table.get(*place).best.is_some())
        })
    }

    pub fn iter(&self) -> impl Iterator<Item = (PrefixIndex, Cidr, &Entry)> {
        self.table.iter().filter(|(_, _, entry)| !entry.paths.is_empty())
    }

    pub fn places(&self) -> impl Iterator<Item = PrefixIndex> + use<> {
        self.table.places()
    }

    /// Paths to all prefixes.
    pub fn path_count(&self) -> usize {
        self.paths
    }

    /// Prefixes, and those that wait to be released.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// The whole decision about a prefix, with the reasons.
    pub fn decision(&self, place: PrefixIndex) -> Decision {
        let view = View { peers: &self.peers, metrics: &self.metrics };
        decision::decide(&self.table.get(place).paths, &view)
    }

    /// The position of the path that would be best if there were only these.
    pub fn best_among(&self, place: PrefixIndex, among: Vec<usize>) -> Option<usize> {
        let view = View { peers: &self.peers, metrics: &self.metrics };
        decision::decide_among(&self.table.get(place).paths, among, &view).best
    }

    /// Whether a path can be used at all.
    pub fn is_eligible(&self, path: &Path) -> bool {
        decision::is_eligible(path, &View { peers: &self.peers, metrics: &self.metrics })
    }

    pub fn metric(&self, next_hop: &IpAddr) -> Option<u32> {
        self.metrics.get(next_hop).copied().flatten()
    }
}

#[cfg(test)]
mod tests;
