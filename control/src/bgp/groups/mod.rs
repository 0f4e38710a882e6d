//! Groups of peers that are told the same, in the same bytes.
//!
//! ```text
//!   changed prefixes ─export─▶ compare with `sent` ─▶ packed by attributes ─encoded once─▶ log ─▶ each peer at its own pace
//!                                                                                         └▶ marks of a peer that catches up
//! ```
//!
//! A peer is either at a place in the log, or it catches up: then it has marks, the prefixes that it has yet to be told about,
//! and is told what is in `sent` at that moment. A new peer, one that asks for everything again, and one that fell too far
//! behind catch up alike. So nobody waits for the slowest, and what is kept for it is one bit a prefix.
//!
//! A path is not told to the peer that said it. When the best path moves to one that a member itself said, that member gets
//! a withdrawal instead.
//!
//! | file | what it knows |
//! |---|---|
//! | `export.rs` | what a route becomes on its way, or why it is not told |
//! | `sent.rs` | what was told |
//! | `log.rs` | messages, each once |
//! | `marks.rs` | sets of prefixes |
//!
//! Invariants: after a member has read the log to its end, or has no marks left, it was told `sent` but for its own paths.
//! A place is released only when nobody has a mark or a message about it that would be lost.
//! Sources: RFC 4271 §9.2, RFC 7911, RFC 7313, RFC 4724 §2.

pub mod export;
pub mod log;
pub mod marks;
pub mod sent;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use config::net::IpVersion;
use smallvec::SmallVec;

use super::attribute::Attributes;
use super::message::{Message, Nlri, Refresh, RefreshSubtype};
use super::rib::Rib;
use super::rib::path::{Path, PeerIndex, Stale};
use super::rib::store::Same;
use super::rib::table::PrefixIndex;
use super::wire::Codec;
use export::{Audience, NotTold};
use log::{For, Log, Logged};
use marks::Marks;
use sent::{Sent, SentPath, SentPaths};

/// Prefixes that a peer which catches up is told about at a time.
const CATCH_UP: usize = 4096;
/// Peers that are told the same.
#[derive(Debug)]
pub struct Group {
    pub audience: Audience,
    codec: Codec,
    sent: Sent,
    log: Log,
    /// Octets of it that are kept.
    log_most: usize,
    members: BTreeMap<PeerIndex, Member>,
    /// Paths told, by family; and of these, those that one peer said.
    told: [u32; 2],
    told_from: HashMap<PeerIndex, [u32; 2]>,
}

#[derive(Debug)]
struct Member {
    /// The next message of the log.
    next: u64,
    catch_up: Option<CatchUp>,
    /// Fell behind so often.
    fell_behind: u64,
}

/// What a peer has yet to be told.
#[derive(Debug, Default)]
struct CatchUp {
    marks: Marks,
    /// Of those, prefixes that it may have been told about before, so that it needs a withdrawal if there is nothing to tell.
    changed: Marks,
    /// The same by path, for peers that take several: which numbers it may have been told.
    numbers: HashMap<PrefixIndex, BTreeSet<u16>, ahash::RandomState>,
    /// Said before: the beginning of a refresh (RFC 7313).
    begin: Vec<IpVersion>,
    /// Said when nothing is left: End-of-RIB, or the end of a refresh.
    end: Vec<(IpVersion, RefreshSubtype)>,
}

impl CatchUp {
    /// A path that the peer may have been told about has changed.
    fn mark(&mut self, place: PrefixIndex, number: u16) {
        self.marks.insert(place);
        self.changed.insert(place);
        if number != 0 {
            self.numbers.entry(place).or_default().insert(number);
        }
    }
}

/// What is shown of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemberView {
    pub advertised: [u32; 2],
    /// Messages it has not been given yet.
    pub behind: u64,
    /// Prefixes it has yet to be told about, while it catches up.
    pub catching_up: usize,
    pub fell_behind: u64,
}

/// Who is a client of ours, by peer.
pub type Clients = std::collections::BTreeSet<PeerIndex>;

impl Group {
    pub fn new(audience: Audience, codec: Codec) -> Group {
        Group {
            audience,
            codec,
            sent: Sent::default(),
            log: Log::default(),
            log_most: log::BYTES_MAX,
            members: BTreeMap::new(),
            told: [0; 2],
            told_from: HashMap::new(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub fn members(&self) -> impl Iterator<Item = PeerIndex> {
        self.members.keys().copied()
    }

    /// A peer comes, and is to be told everything; what it was `told` in another group it is told anew or has taken back. The
    /// first brings the group up to date.
    pub fn join(&mut self, peer: PeerIndex, rib: &mut Rib, clients: &Clients, told: Option<&[(PrefixIndex, u16)]>) {
        // Of a member that was alone its own paths are not in `sent` yet.
        if self.members.len() < 2 {
            let alone = self.members.keys().next().copied();
            let mut last = None;
            for place in rib.places() {
                let is_missing = |path: &Path| alone.is_none_or(|alone| alone == path.peer);
                if rib.entry(place).paths.iter().any(is_missing) {
                    let paths = self.export(rib, place, clients, None, &mut last);
                    self.record(rib, place, paths);
                }
            }
        }
        let mut catch_up = CatchUp::default();
        self.sent.places().for_each(|place| catch_up.marks.insert(place));
        for (place, number) in told.unwrap_or_default() {
            catch_up.mark(*place, *number);
        }
        let families = IpVersion::BOTH.into_iter().filter(|family| self.audience.families[family.index()]);
        let families = families.filter(|_| told.is_none());
        catch_up.end = families.map(|family| (family, RefreshSubtype::Request)).collect();
        let member = Member { next: self.log.end(), catch_up: Some(catch_up), fell_behind: 0 };
        self.members.insert(peer, member);
    }

    /// A peer goes.
    pub fn leave(&mut self, peer: PeerIndex) {
        self.members.remove(&peer);
        self.trim();
    }

    /// A peer wants to be told everything of a family again.
    pub fn refresh(&mut self, peer: PeerIndex, family: IpVersion, rib: &Rib, is_enhanced: bool) {
        let places: Vec<PrefixIndex> =
            self.sent.places().filter(|place| rib.prefix(*place).version() == family).collect();
        let Some(member) = self.members.get_mut(&peer) else { return };
        fall_behind(member, &self.log);
        let Some(catch_up) = &mut member.catch_up else { return };
        places.into_iter().for_each(|place| catch_up.marks.insert(place));
        if is_enhanced {
            catch_up.begin.push(family);
            catch_up.end.push((family, RefreshSubtype::End));
        }
        self.trim();
    }

    /// Looks at prefixes again, and tells what differs. True when there is something.
    pub fn follow(&mut self, rib: &mut Rib, places: &[PrefixIndex], clients: &Clients) -> bool {
        if self.members.is_empty() {
            return false;
        }
        let mut has_changed = false;
        let alone = self.members.keys().next().copied().filter(|_| self.members.len() == 1);
        let is_read = self.members.values().any(|member| member.catch_up.is_none());
        let mut packed = Packed::default();
        let mut last = None;
        for place in places {
            let paths = self.export(rib, *place, clients, alone, &mut last);
            let old = self.sent.get(*place);
            if old == &paths[..] {
                continue;
            }
            has_changed = true;
            let numbers: SmallVec<[u16; 2]> = old.iter().chain(&paths).map(|path| path.number).collect();
            if is_read {
                self.pack(rib, *place, &paths, &mut packed);
            }
            self.record(rib, *place, paths);
            for member in self.members.values_mut() {
                if let Some(catch_up) = &mut member.catch_up {
                    for number in &numbers {
                        catch_up.mark(*place, *number);
                    }
                }
            }
        }
        packed.encode(&self.codec, &mut self.log);
        if self.log.bytes() > self.log_most {
            self.leave_behind();
        }
        self.trim();
        has_changed
    }

    /// What the group should be told about a prefix. To a member that is `alone` its own paths are told in no case. `last`: what
    /// was made of the path before, which is often made of the next one too.
    fn export(
        &self,
        rib: &mut Rib,
        place: PrefixIndex,
        clients: &Clients,
        alone: Option<PeerIndex>,
        last: &mut Option<Made>,
    ) -> SentPaths {
        let prefix = rib.prefix(place);
        let family = prefix.version();
        let is_several = self.audience.sends_path_ids[family.index()];
        let Some(best) = rib.entry(place).best else { return SentPaths::new() };
        let mut told = SentPaths::new();
        for at in 0..rib.entry(place).paths.len() {
            let path = &rib.entry(place).paths[at];
            let is_best = at == usize::from(best);
            if alone == Some(path.peer) || !(is_best || is_several && rib.is_eligible(path)) {
                continue;
            }
            let is_client = clients.contains(&path.peer);
            let Ok(changed) = export::admit(rib, prefix, path, is_client, &self.audience) else { continue };
            let (source, number) = (path.peer, if is_several { path.number } else { 0 });
            let known = last.as_ref().filter(|last| changed.is_none() && last.is_of(path, family));
            let attributes = match known {
                Some(known) => known.attributes.clone(),
                None => {
                    let is_unchanged = changed.is_none();
                    let from = (path.attributes.clone(), path.peer, path.stale, family);
                    let begun = changed.map_or_else(|| (*path.attributes).clone(), |changed| *changed);
                    let Ok(made) = export::finish(rib, family, path, begun, &self.audience) else { continue };
                    let attributes = rib.store.intern(Arc::new(made));
                    if is_unchanged {
                        *last = Some(Made { from, attributes: attributes.clone() });
                    }
                    attributes
                }
            };
            told.push(SentPath { attributes, source, number });
        }
        told.sort_by_key(|path| path.number);
        told
    }

    fn record(&mut self, rib: &Rib, place: PrefixIndex, paths: SentPaths) {
        let family = rib.prefix(place).version().index();
        for path in self.sent.get(place) {
            self.told[family] = self.told[family].saturating_sub(1);
            let from = self.told_from.entry(path.source).or_default();
            from[family] = from[family].saturating_sub(1);
        }
        for path in &paths {
            self.told[family] += 1;
            self.told_from.entry(path.source).or_default()[family] += 1;
        }
        self.sent.set(place, paths);
    }

    /// Sorts what changed about a prefix into messages to be.
    fn pack(&self, rib: &Rib, place: PrefixIndex, new: &[SentPath], packed: &mut Packed) {
        let prefix = rib.prefix(place);
        let nlri = |number: u16| Nlri { prefix, path_id: u32::from(number) };
        let old = self.sent.get(place);
        for path in new {
            let before = old.iter().find(|before| before.number == path.number);
            match before {
                Some(before) if before == path => {}
                Some(before) if Arc::ptr_eq(&before.attributes, &path.attributes) => {
                    // Others know it already.
                    packed.reach(For::Only(before.source), &path.attributes, nlri(path.number), place);
                    packed.withdraw(For::Only(path.source), nlri(path.number), place);
                }
                before => {
                    packed.reach(For::AllBut(path.source), &path.attributes, nlri(path.number), place);
                    if before.is_some_and(|before| before.source != path.source) {
                        packed.withdraw(For::Only(path.source), nlri(path.number), place);
                    }
                }
            }
        }
        for before in old.iter().filter(|before| !new.iter().any(|path| path.number == before.number)) {
            packed.withdraw(For::AllBut(before.source), nlri(before.number), place);
        }
    }

    /// The log is too long: those that are behind the middle of it catch up instead.
    fn leave_behind(&mut self) {
        let middle = self.log.middle();
        for member in self.members.values_mut() {
            if member.catch_up.is_none() && member.next < middle {
                member.fell_behind += 1;
                fall_behind(member, &self.log);
            }
        }
    }

    /// Forgets messages that everybody has read.
    fn trim(&mut self) {
        let read = self.members.values().filter(|member| member.catch_up.is_none()).map(|member| member.next);
        let read = read.min().unwrap_or(self.log.end());
        self.log.forget(read);
    }

    /// True when there is something to tell.
    pub fn has_output(&self, peer: PeerIndex) -> bool {
        self.members.get(&peer).is_some_and(|member| member.catch_up.is_some() || member.next < self.log.end())
    }

    /// Appends whole messages for a peer until there are `enough` octets, or nothing is left.
    pub fn pull(&mut self, peer: PeerIndex, rib: &Rib, enough: usize, out: &mut Vec<u8>) {
        let Some(mut member) = self.members.remove(&peer) else { return };
        while out.len() < enough {
            match &mut member.catch_up {
                Some(catch_up) => {
                    if self.catch_up(peer, catch_up, rib, out) {
                        member.catch_up = None;
                        member.next = self.log.end();
                    }
                }
                None => {
                    let Some(message) = self.log.get(member.next) else { break };
                    member.next += 1;
                    if message.to.includes(peer) {
                        out.extend_from_slice(&message.bytes);
                    }
                }
            }
        }
        self.members.insert(peer, member);
        self.trim();
    }

    /// Tells about some of the marked prefixes as they are now. True when nothing is left.
    fn catch_up(&self, peer: PeerIndex, catch_up: &mut CatchUp, rib: &Rib, out: &mut Vec<u8>) -> bool {
        for family in catch_up.begin.drain(..) {
            let refresh = Refresh { family: Some(family), subtype: RefreshSubtype::Begin };
            self.codec.encode(&Message::Refresh(refresh), out);
        }
        let mut packed = Packed::default();
        for _ in 0..CATCH_UP {
            let Some(place) = catch_up.marks.pop() else { break };
            let prefix = rib.prefix(place);
            let nlri = |number: u16| Nlri { prefix, path_id: u32::from(number) };
            let paths = self.sent.get(place);
            for path in paths.iter().filter(|path| path.source != peer) {
                packed.reach(For::AllBut(PeerIndex::LOCAL), &path.attributes, nlri(path.number), place);
            }
            if catch_up.changed.contains(place) {
                catch_up.changed.remove(place);
                let is_told = |number: &u16| paths.iter().any(|path| path.number == *number && path.source != peer);
                let numbers = catch_up.numbers.remove(&place).unwrap_or_else(|| BTreeSet::from([0]));
                for number in numbers.into_iter().filter(|number| !is_told(number)) {
                    packed.withdraw(For::AllBut(PeerIndex::LOCAL), nlri(number), place);
                }
            }
        }
        packed.each(&self.codec, |_, bytes, _| out.extend_from_slice(bytes));
        if !catch_up.marks.is_empty() {
            return false;
        }
        for (family, subtype) in catch_up.end.drain(..) {
            match subtype {
                RefreshSubtype::End => {
                    let refresh = Refresh { family: Some(family), subtype };
                    self.codec.encode(&Message::Refresh(refresh), out);
                }
                RefreshSubtype::Request | RefreshSubtype::Begin => self.codec.end_of_rib(family, out),
            }
        }
        true
    }

    /// Whether somebody has yet to be told about a prefix that is gone.
    pub fn is_waiting(&self) -> bool {
        self.members.values().any(|member| member.catch_up.is_some() || member.next < self.log.end())
    }

    pub fn view(&self, peer: PeerIndex) -> MemberView {
        let Some(member) = self.members.get(&peer) else { return MemberView::default() };
        let own = self.told_from.get(&peer).copied().unwrap_or_default();
        MemberView {
            advertised: [0, 1].map(|at| self.told[at].saturating_sub(own[at])),
            behind: if member.catch_up.is_some() { 0 } else { self.log.end() - member.next },
            catching_up: member.catch_up.as_ref().map_or(0, |catch_up| catch_up.marks.len()),
            fell_behind: member.fell_behind,
        }
    }

    /// Octets of messages that are kept.
    pub fn log_bytes(&self) -> usize {
        self.log.bytes()
    }

    /// What a member was told about a prefix, or will have been when it has caught up.
    pub fn advertised(&self, peer: PeerIndex, place: PrefixIndex) -> impl Iterator<Item = &SentPath> {
        self.sent.get(place).iter().filter(move |path| path.source != peer)
    }

    /// All that a member was told, or would have been: prefixes and our numbers of paths.
    pub fn told_to(&self, peer: PeerIndex) -> Vec<(PrefixIndex, u16)> {
        let mut told = Vec::new();
        for place in self.sent.places() {
            told.extend(self.advertised(peer, place).map(|path| (place, path.number)));
        }
        // What it has yet to be taken back.
        if let Some(catch_up) = self.members.get(&peer).and_then(|member| member.catch_up.as_ref()) {
            told.extend(catch_up.numbers.iter().flat_map(|(place, numbers)| numbers.iter().map(|n| (*place, *n))));
            told.extend(catch_up.changed.iter().map(|place| (place, 0)));
        }
        if let Some(member) = self.members.get(&peer).filter(|member| member.catch_up.is_none()) {
            told.extend(self.log.since(member.next).flat_map(|message| message.about.iter().copied()));
        }
        told
    }

    pub fn advertised_places(&self) -> impl Iterator<Item = PrefixIndex> {
        self.sent.places()
    }

    /// Why each path to a prefix is told to a peer as it is, or is not.
    pub fn explain(
        &self,
        peer: PeerIndex,
        rib: &Rib,
        place: PrefixIndex,
        clients: &Clients,
    ) -> Vec<(Path, Result<Attributes, NotTold>)> {
        let prefix = rib.prefix(place);
        let is_several = self.audience.sends_path_ids[prefix.version().index()];
        let entry = rib.entry(place);
        let told = entry.paths.iter().enumerate().map(|(at, path)| {
            let result = if path.peer == peer {
                Err(NotTold::FromThere)
            } else if entry.best == u16::try_from(at).ok() || is_several && rib.is_eligible(path) {
                export::explained(rib, prefix, path, clients.contains(&path.peer), &self.audience)
            } else {
                Err(NotTold::NotBest)
            };
            (path.clone(), result)
        });
        told.collect()
    }
}

/// What was made of a path that the rules left as it was: of which attributes, whose, how stale and of which family.
struct Made {
    from: (Arc<Attributes>, PeerIndex, Stale, IpVersion),
    attributes: Arc<Attributes>,
}

impl Made {
    fn is_of(&self, path: &Path, family: IpVersion) -> bool {
        let (attributes, peer, stale, of) = &self.from;
        Arc::ptr_eq(attributes, &path.attributes) && (*peer, *stale, *of) == (path.peer, path.stale, family)
    }
}

/// From the log to marks of its own.
fn fall_behind(member: &mut Member, log: &Log) {
    if member.catch_up.is_some() {
        return;
    }
    let mut catch_up = CatchUp::default();
    for (place, number) in log.since(member.next).flat_map(|message| message.about.iter()) {
        catch_up.mark(*place, *number);
    }
    member.catch_up = Some(catch_up);
}

/// Prefixes by what is said about them and to whom, so that a message holds many.
#[derive(Default)]
struct Packed {
    reach: HashMap<(For, Same), usize, ahash::RandomState>,
    withdraw: HashMap<For, usize, ahash::RandomState>,
    /// In the order that they began in, so that what is sent does not depend on a hash.
    lots: Vec<Lot>,
}

struct Lot {
    to: For,
    attributes: Option<Arc<Attributes>>,
    nlri: Vec<Nlri>,
    about: Vec<(PrefixIndex, u16)>,
}

impl Packed {
    fn reach(&mut self, to: For, attributes: &Arc<Attributes>, nlri: Nlri, place: PrefixIndex) {
        let lots = &mut self.lots;
        let at = *self.reach.entry((to, Same(attributes.clone()))).or_insert_with(|| {
            lots.push(Lot { to, attributes: Some(attributes.clone()), nlri: Vec::new(), about: Vec::new() });
            lots.len() - 1
        });
        self.add(at, nlri, place);
    }

    fn withdraw(&mut self, to: For, nlri: Nlri, place: PrefixIndex) {
        let lots = &mut self.lots;
        let at = *self.withdraw.entry(to).or_insert_with(|| {
            lots.push(Lot { to, attributes: None, nlri: Vec::new(), about: Vec::new() });
            lots.len() - 1
        });
        self.add(at, nlri, place);
    }

    fn add(&mut self, at: usize, nlri: Nlri, place: PrefixIndex) {
        if let Some(lot) = self.lots.get_mut(at) {
            lot.nlri.push(nlri);
            lot.about.push((place, nlri.path_id as u16));
        }
    }

    /// Every message: who it is for, its bytes, what it is about. Withdrawals first, so that memory is free when more comes.
    fn each(mut self, codec: &Codec, mut each: impl FnMut(For, &[u8], &[(PrefixIndex, u16)])) {
        self.lots.sort_by_key(|lot| lot.attributes.is_some());
        for lot in &self.lots {
            for family in IpVersion::BOTH {
                let is_of = |nlri: &Nlri| nlri.prefix.version() == family;
                // All of one family, as they nearly always are, need no copy.
                let is_all = lot.nlri.iter().all(is_of);
                let (nlri, about): (Vec<Nlri>, Vec<(PrefixIndex, u16)>);
                let (nlri, about) = if is_all {
                    (&lot.nlri, &lot.about)
                } else {
                    (nlri, about) =
                        lot.nlri.iter().copied().zip(lot.about.iter().copied()).filter(|(n, _)| is_of(n)).unzip();
                    (&nlri, &about)
                };
                if nlri.is_empty() {
                    continue;
                }
                let mut at = 0;
                let mut take = |bytes: &[u8], count: usize| {
                    let end = (at + count).min(about.len());
                    each(lot.to, bytes, about.get(at..end).unwrap_or(&[]));
                    at = end;
                };
                let said = lot.attributes.as_ref().map(|attributes| codec.reach(attributes, nlri, &mut take));
                if !matches!(said, Some(Ok(()))) {
                    // What cannot be said in a message is taken back, so that nobody goes on with what was said before.
                    codec.withdraw(nlri, &mut take);
                }
                if is_all {
                    break;
                }
            }
        }
    }

    fn encode(self, codec: &Codec, log: &mut Log) {
        self.each(codec, |to, bytes, about| log.push(Logged { to, bytes: bytes.into(), about: about.into() }));
    }
}

#[cfg(test)]
mod tests;
