//! Next hops: which neighbours packets to them are sent to, by the node's other routes; and whether they can be reached.
//!
//! ```text
//!   10.9.0.7 ──longest own route: 10.9.0.0/16 by eth0, on link──────────▶ neighbour 10.9.0.7 on eth0
//!   10.8.0.1 ──own route: 10.8.0.0/16 via 10.9.0.1, 10.9.0.2 by eth0────▶ neighbours 10.9.0.1, 10.9.0.2 on eth0
//!   10.7.0.1 ──learned: 10.7.0.0/24 → group of 10.8.0.1─────────────────▶ as 10.8.0.1
//! ```
//!
//! A next hop is resolved as a packet to it would be routed: by the longest prefix, and by the same order among equal ones.
//! Through learned routes it goes at most [`MAX_DEPTH`] steps, and never through a route whose own next hops are being resolved:
//! such a route is passed over, and the next shorter one counts. A next hop that is down is nobody's way, neither as
//! itself nor as the gateway of an own route.
//!
//! Invariants: what a next hop comes to is a function of own routes, learned routes, groups, and who is down. Resolving one
//! takes at most `MAX_STEPS` searches; one that needs more is not reachable.
//! See: RFC 4271 §5.1.3 and §9.1.2.1, route resolvability.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use config::net::Cidr;
use fastpath::table::InterfaceIndex;

use super::learned::Learned;
use super::{Group, GroupId, GroupTarget, MAX_NEXT_HOPS, MAX_WATCHED, Reachability};
use crate::host::LinkIndex;

/// Learned routes that one next hop may be resolved through, one after the other.
pub const MAX_DEPTH: usize = 4;

/// Searches that resolving one next hop may take, with everything it depends on.
const MAX_STEPS: u32 = 512;

/// Somebody who packets can be sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Member {
    Neighbour {
        link: LinkIndex,
        address: IpAddr,
    },
    /// A workload of this node.
    Endpoint(InterfaceIndex),
}

/// Where an own route leads, as far as it matters to next hops in its prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    pub hops: Hops,
    pub strength: Strength,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hops {
    /// By these links, to a gateway, or without one to whoever has the address.
    Links(Vec<(LinkIndex, Option<IpAddr>)>),
    Endpoint(InterfaceIndex),
    /// To the host itself, or discarded.
    Nowhere,
}

/// How an own route stands against a learned one of the same prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strength {
    Firm,
    /// The lower metric wins, and the own one if they are equal.
    Metric(u32),
    Weak,
}

impl Strength {
    pub fn yields_to(self, learned_metric: u32) -> bool {
        match self {
            Strength::Firm => false,
            Strength::Metric(metric) => learned_metric < metric,
            Strength::Weak => true,
        }
    }

    fn metric(self) -> u32 {
        match self {
            Strength::Metric(metric) => metric,
            Strength::Firm | Strength::Weak => 0,
        }
    }
}

/// Groups, for those who look through them.
pub trait Definitions {
    fn definition(&self, group: GroupId) -> Option<&Group>;
}

/// A next hop that somebody wants to know about.
#[derive(Debug, Default)]
struct NextHop {
    /// Groups that it is in.
    groups: u32,
    is_watched: bool,
    /// Sorted; empty: not reachable.
    members: Vec<Member>,
    metric: Option<u32>,
    /// What was told last.
    told: Option<Option<u32>>,
}

/// All next hops.
#[derive(Debug, Default)]
pub struct NextHops {
    known: BTreeMap<IpAddr, NextHop>,
    down: BTreeSet<IpAddr>,
    own: BTreeMap<Cidr, Path>,
    /// Lengths of own prefixes, per family.
    lengths: [BTreeSet<u8>; 2],
    is_stale: bool,
    /// Something is to be told.
    is_untold: bool,
}

/// What a next hop comes to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Resolved {
    pub members: Vec<Member>,
    pub metric: Option<u32>,
}

impl NextHops {
    /// A group has it, or no longer. False when there is no room for one more.
    pub fn count(&mut self, address: IpAddr, comes: bool) -> bool {
        if comes && !self.known.contains_key(&address) && self.known.len() >= MAX_WATCHED {
            return false;
        }
        let next_hop = self.known.entry(address).or_default();
        next_hop.groups = if comes { next_hop.groups + 1 } else { next_hop.groups.saturating_sub(1) };
        self.is_stale |= comes;
        self.forget_unused(address);
        true
    }

    /// Somebody asks for it, or no longer. False when there is no room for one more.
    pub fn watch(&mut self, address: IpAddr, is_watched: bool) -> bool {
        if is_watched && !self.known.contains_key(&address) && self.known.len() >= MAX_WATCHED {
            return false;
        }
        let next_hop = self.known.entry(address).or_default();
        if is_watched && !next_hop.is_watched {
            next_hop.told = None;
            self.is_stale = true;
        }
        next_hop.is_watched = is_watched;
        self.forget_unused(address);
        true
    }

    fn forget_unused(&mut self, address: IpAddr) {
        if self.known.get(&address).is_some_and(|next_hop| next_hop.groups == 0 && !next_hop.is_watched) {
            self.known.remove(&address);
        }
    }

    /// Nobody's way from now on, until it is up again. True if that is news.
    pub fn set_down(&mut self, address: IpAddr, is_down: bool) -> bool {
        // A bound for what nobody uses: only so many can be of interest.
        let is_news = match is_down {
            true => self.down.len() < MAX_WATCHED && self.down.insert(address),
            false => self.down.remove(&address),
        };
        self.is_stale |= is_news;
        is_news
    }

    /// The node's own routes.
    pub fn set_own(&mut self, own: BTreeMap<Cidr, Path>) {
        if own == self.own {
            return;
        }
        self.lengths = [true, false]
            .map(|is_ipv4| own.keys().filter(|prefix| prefix.is_ipv4() == is_ipv4).map(Cidr::length).collect());
        self.own = own;
        self.is_stale = true;
    }

    /// A learned prefix leads elsewhere: some next hop may be resolved through it.
    pub fn note_learned(&mut self, prefix: &Cidr) {
        if !self.is_stale {
            let first = self.known.range(prefix.address()..).next();
            self.is_stale = first.is_some_and(|(address, _)| prefix.contains(*address));
        }
    }

    /// The next hops of a group are others, which some next hop may be resolved through.
    pub fn note_group(&mut self) {
        self.is_stale = true;
    }

    /// Works out what may have changed. True if something has.
    pub fn resolve(&mut self, learned: &Learned, groups: &impl Definitions) -> bool {
        if !std::mem::take(&mut self.is_stale) {
            return false;
        }
        let addresses: Vec<IpAddr> = self.known.keys().copied().collect();
        let mut is_news = false;
        for address in addresses {
            let Resolved { members, metric } = self.resolved(address, learned, groups);
            let Some(next_hop) = self.known.get_mut(&address) else { continue };
            is_news |= members != next_hop.members;
            next_hop.members = members;
            next_hop.metric = metric;
            self.is_untold |= next_hop.is_watched && next_hop.told != Some(metric);
        }
        is_news
    }

    /// What a next hop comes to now.
    pub fn resolved(&self, address: IpAddr, learned: &Learned, groups: &impl Definitions) -> Resolved {
        if matches!(address, IpAddr::V6(address) if address.is_unicast_link_local()) {
            return Resolved::default();
        }
        let mut search = Search { next_hops: self, learned, groups, on_the_way: Vec::new(), steps: MAX_STEPS };
        let mut members = BTreeSet::new();
        let metric = search.search(address, &mut members);
        match (metric, search.steps) {
            (Some(metric), 1..) if !members.is_empty() => {
                Resolved { members: members.into_iter().take(MAX_NEXT_HOPS).collect(), metric: Some(metric) }
            }
            _ => Resolved::default(),
        }
    }

    /// Who packets to a next hop are sent to, as it was resolved last.
    pub fn members(&self, address: IpAddr) -> &[Member] {
        self.known.get(&address).map_or(&[], |next_hop| &next_hop.members)
    }

    /// Everybody that any group has, each once.
    pub fn all_members(&self) -> BTreeSet<Member> {
        let used = self.known.values().filter(|next_hop| next_hop.groups > 0);
        used.flat_map(|next_hop| next_hop.members.iter().copied()).collect()
    }

    /// What is to be told.
    pub fn take_reachability(&mut self) -> Reachability {
        if !std::mem::take(&mut self.is_untold) {
            return Reachability::new();
        }
        let untold =
            self.known.iter_mut().filter(|(_, next_hop)| next_hop.is_watched && next_hop.told != Some(next_hop.metric));
        untold
            .map(|(address, next_hop)| {
                next_hop.told = Some(next_hop.metric);
                (*address, next_hop.metric)
            })
            .collect()
    }

    /// The longest own prefix that covers an address.
    fn own_route(&self, address: IpAddr) -> Option<(u8, &Path)> {
        let lengths = self.lengths[usize::from(address.is_ipv6())].iter().rev();
        lengths.copied().find_map(|length| Some((length, self.own.get(&Cidr::new(address, length)?.masked())?)))
    }
}

struct Search<'a, D> {
    next_hops: &'a NextHops,
    learned: &'a Learned,
    groups: &'a D,
    /// Next hops that are being resolved.
    on_the_way: Vec<IpAddr>,
    steps: u32,
}

impl<D: Definitions> Search<'_, D> {
    /// Adds who the address comes to. Returns the least metric of the own routes in use; none: not reachable.
    fn search(&mut self, address: IpAddr, members: &mut BTreeSet<Member>) -> Option<u32> {
        self.steps = self.steps.saturating_sub(1);
        if self.steps == 0 || self.next_hops.down.contains(&address) {
            return None;
        }
        self.on_the_way.push(address);
        let metric = self.follow(address, members);
        self.on_the_way.pop();
        metric
    }

    fn follow(&mut self, address: IpAddr, members: &mut BTreeSet<Member>) -> Option<u32> {
        let own = self.next_hops.own_route(address);
        let learned = self.learned;
        for (prefix, group) in learned.covering(address) {
            let Some(group) = self.groups.definition(group) else { continue };
            let is_better = own.is_none_or(|(length, path)| {
                prefix.length() > length || prefix.length() == length && path.strength.yields_to(group.metric)
            });
            if !is_better {
                break;
            }
            let GroupTarget::NextHops(next_hops) = &group.target else { return None };
            if next_hops.iter().chain(&group.backup).any(|next_hop| self.on_the_way.contains(next_hop)) {
                continue;
            }
            if self.on_the_way.len() > MAX_DEPTH {
                return None;
            }
            let (next_hops, backup) = (next_hops.clone(), group.backup);
            let metric = next_hops.into_iter().filter_map(|next_hop| self.search(next_hop, members)).min();
            return metric.or_else(|| self.search(backup?, members));
        }
        let (_, path) = own?;
        match &path.hops {
            Hops::Nowhere => None,
            Hops::Endpoint(interface) => {
                members.insert(Member::Endpoint(*interface));
                Some(path.strength.metric())
            }
            Hops::Links(links) => {
                let alive = links.iter().map(|(link, gateway)| (*link, gateway.unwrap_or(address)));
                let alive = alive.filter(|(_, neighbour)| !self.next_hops.down.contains(neighbour));
                let before = members.len();
                members.extend(alive.clone().map(|(link, address)| Member::Neighbour { link, address }));
                (members.len() > before || alive.count() > 0).then_some(path.strength.metric())
            }
        }
    }
}

#[cfg(test)]
mod tests;
