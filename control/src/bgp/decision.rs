//! Which path to a prefix is best, which are as good, and why each of the others is not.
//!
//! Paths are eliminated step by step, in the order of the RFC; who goes, goes with the name of the step. So the result does
//! not depend on the order that paths came in, with MEDs either: a MED is compared with those of the same neighbouring
//! system, among all that are still there.
//!
//! Before the RFC's steps come two of a router that has other routes too: what is reachable, and the preference of the kind of
//! route, as in BIRD (endpoint and block 240, static and service 200, BGP 100, kernel 10; BGP that import rules put before
//! the routes of this node 250, so that an address of a workload that has moved beats the old node's).
//!
//! Left out: age of a route ("the older external path wins"), which makes the result depend on the past.
//!
//! Sources: RFC 4271 §9.1.2.2, RFC 4456 §9, RFC 9494 §4.3, RFC 5004 (not followed).

use std::cmp::Reverse;
use std::net::IpAddr;

use super::rib::path::{Path, PeerFacts, Stale};
use super::speaker_state::LocalRouteKind;

/// What a route without a local preference has. RFC 4271 leaves it open; everybody says 100.
pub const DEFAULT_LOCAL_PREF: u32 = 100;
/// Paths that packets are spread over at most.
pub const MULTIPATH_MAX: usize = 64;

/// The step that a path was eliminated in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lost {
    Rejected,
    NextHopUnreachable,
    Preference,
    LongLivedStale,
    LocalPref,
    AsPathLength,
    Origin,
    Med,
    Internal,
    IgpMetric,
    RouterId,
    ClusterListLength,
    PeerAddress,
    PathId,
}

impl Lost {
    pub fn reason(self) -> &'static str {
        match self {
            Lost::Rejected => "not accepted",
            Lost::NextHopUnreachable => "next hop cannot be reached",
            Lost::Preference => "another kind of route is preferred",
            Lost::LongLivedStale => "its peer is gone for long (LLGR stale)",
            Lost::LocalPref => "lower local preference",
            Lost::AsPathLength => "longer AS path",
            Lost::Origin => "worse origin",
            Lost::Med => "higher MED from the same neighbouring AS",
            Lost::Internal => "internal, another is external",
            Lost::IgpMetric => "farther next hop",
            Lost::RouterId => "higher router id",
            Lost::ClusterListLength => "longer cluster list",
            Lost::PeerAddress => "higher peer address",
            Lost::PathId => "higher path id",
        }
    }
}

/// What the decision asks about paths.
pub trait Facts {
    fn peer(&self, path: &Path) -> PeerFacts;
    /// Cost of the way to the next hop; none: it cannot be reached.
    fn metric(&self, path: &Path) -> Option<u32>;
}

/// What came out, by position of the path.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Decision {
    pub best: Option<usize>,
    /// As good as the best until ids had to decide, the best among them: packets may be spread over these. By position.
    pub multipath: Vec<usize>,
    /// Every other, and why.
    pub lost: Vec<(usize, Lost)>,
}

/// The preference of the kind of route: higher wins.
pub fn preference(path: &Path) -> u8 {
    match path.local_kind() {
        Some(LocalRouteKind::Endpoint | LocalRouteKind::Block) => 240,
        Some(LocalRouteKind::Static | LocalRouteKind::Service) => 200,
        Some(LocalRouteKind::Kernel) => 10,
        None if path.beats_local => 250,
        None => 100,
    }
}

/// Whether one path alone can be used.
pub fn is_eligible(path: &Path, facts: &impl Facts) -> bool {
    path.rejected.is_none() && (path.peer.is_local() || facts.metric(path).is_some())
}

/// Decides between all paths to one prefix.
pub fn decide(paths: &[Path], facts: &impl Facts) -> Decision {
    decide_among(paths, (0..paths.len()).collect(), facts)
}

/// Decides as if there were only these, by position. Panics if one is beyond the last.
pub fn decide_among(paths: &[Path], among: Vec<usize>, facts: &impl Facts) -> Decision {
    let mut round = Round { left: among, lost: Vec::new() };
    let internal = |at: usize| facts.peer(&paths[at]).internal;
    round.keep(Lost::Rejected, |at| paths[at].rejected.is_none());
    round.keep(Lost::NextHopUnreachable, |at| paths[at].peer.is_local() || facts.metric(&paths[at]).is_some());
    round.least(Lost::Preference, |at| Reverse(preference(&paths[at])));
    round.least(Lost::LongLivedStale, |at| paths[at].stale == Stale::LongLived);
    round.least(Lost::LocalPref, |at| Reverse(paths[at].attributes.local_pref.unwrap_or(DEFAULT_LOCAL_PREF)));
    round.least(Lost::AsPathLength, |at| paths[at].attributes.as_path.length());
    round.least(Lost::Origin, |at| paths[at].attributes.origin);
    round.med(paths);
    round.least(Lost::Internal, internal);
    round.least(Lost::IgpMetric, |at| facts.metric(&paths[at]).unwrap_or(0));
    let mut multipath = round.left.clone();
    // A reflected route counts as its originator's. RFC 4456 §9.
    round.least(Lost::RouterId, |at| {
        paths[at].attributes.originator_id.unwrap_or_else(|| facts.peer(&paths[at]).router_id)
    });
    round.least(Lost::ClusterListLength, |at| paths[at].attributes.cluster_list.len());
    round.least(Lost::PeerAddress, |at| facts.peer(&paths[at]).address);
    round.least(Lost::PathId, |at| paths[at].path_id);
    let best = round.left.first().copied();
    if multipath.len() > MULTIPATH_MAX {
        // Which ones may not depend on the order that they came in.
        let address = |at: &usize| -> (IpAddr, u32) { (facts.peer(&paths[*at]).address, paths[*at].path_id) };
        multipath.sort_by_key(|at| (Some(*at) != best, address(at)));
        multipath.truncate(MULTIPATH_MAX);
        multipath.sort_unstable();
    }
    round.lost.sort_unstable();
    Decision { best, multipath, lost: round.lost }
}

/// Those that are still there, and those that went.
struct Round {
    left: Vec<usize>,
    lost: Vec<(usize, Lost)>,
}

impl Round {
    fn keep(&mut self, step: Lost, is_kept: impl Fn(usize) -> bool) {
        let lost = &mut self.lost;
        self.left.retain(|at| {
            let is_kept = is_kept(*at);
            if !is_kept {
                lost.push((*at, step));
            }
            is_kept
        });
    }

    /// Keeps those with the least value.
    fn least<T: Ord>(&mut self, step: Lost, value: impl Fn(usize) -> T) {
        if self.left.len() < 2 {
            return;
        }
        if let Some(least) = self.left.iter().map(|at| value(*at)).min() {
            self.keep(step, |at| value(at) == least);
        }
    }

    /// A MED says something only beside another of the same neighbouring system. A missing one is the best, 0.
    fn med(&mut self, paths: &[Path]) {
        if self.left.len() < 2 {
            return;
        }
        let med = |at: usize| paths[at].attributes.med.unwrap_or(0);
        let neighbour = |at: usize| paths[at].attributes.as_path.neighbour();
        let left = self.left.clone();
        self.keep(Lost::Med, |at| {
            !left.iter().any(|other| neighbour(*other) == neighbour(at) && med(*other) < med(at))
        });
    }
}

#[cfg(test)]
mod tests;
