//! The decision, step by step, and against a pairwise reading of the RFC.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::bgp::attribute::{AsPath, Attributes, NextHop, Origin};
use crate::bgp::rib::path::{PeerIndex, Rejected};

struct Peers(BTreeMap<u16, PeerFacts>, BTreeMap<IpAddr, u32>);

impl Facts for Peers {
    fn peer(&self, path: &Path) -> PeerFacts {
        let nobody =
            PeerFacts { address: [0; 4].into(), router_id: Ipv4Addr::UNSPECIFIED, internal: path.peer.is_local() };
        self.0.get(&path.peer.0).copied().unwrap_or(nobody)
    }

    fn metric(&self, path: &Path) -> Option<u32> {
        self.1.get(&path.attributes.next_hop.address).copied()
    }
}

fn hop(number: u8) -> IpAddr {
    [192, 0, 2, number].into()
}

/// Peers 1 to 8, the even ones of our own system; next hops 1 to 8 with metric 0 but for 7 (metric 5) and 8 (nowhere).
fn peers() -> Peers {
    let facts = |number: u16| PeerFacts {
        address: hop(number as u8),
        router_id: [10, 0, 0, number as u8].into(),
        internal: number.is_multiple_of(2),
    };
    let metrics = (1..=7).map(|number| (hop(number), if number == 7 { 5 } else { 0 }));
    Peers((1..=8).map(|number| (number, facts(number))).collect(), metrics.collect())
}

fn path(peer: u16, change: impl FnOnce(&mut Attributes)) -> Path {
    let mut attributes = Attributes::local(hop(1));
    attributes.as_path = AsPath::sequence(vec![65001, 65002]);
    change(&mut attributes);
    Path {
        peer: PeerIndex(peer),
        number: peer,
        path_id: 0,
        stale: Stale::No,
        rejected: None,
        beats_local: false,
        attributes: Arc::new(attributes),
    }
}

/// The first is better, and the second is lost at that step.
fn check(better: Path, worse: Path, step: Lost) {
    for paths in [[better.clone(), worse.clone()], [worse.clone(), better.clone()]] {
        let best = usize::from(paths[0].peer != better.peer || paths[0].path_id != better.path_id);
        let decision = decide(&paths, &peers());
        assert_eq!((decision.best, &decision.lost[..]), (Some(best), &[(1 - best, step)][..]), "{paths:?}");
    }
}

#[test]
fn each_step_decides_when_those_before_do_not() {
    let plain = |peer| path(peer, |_| {});
    check(plain(1), Path { rejected: Some(Rejected::OwnAs), ..plain(3) }, Lost::Rejected);
    let nowhere = NextHop { address: hop(8), link_local: None };
    check(plain(1), path(3, |a| a.next_hop = nowhere), Lost::NextHopUnreachable);
    let block = Path::local_id(LocalRouteKind::Block);
    let local = Path { peer: PeerIndex::LOCAL, path_id: block, ..plain(1) };
    check(local.clone(), path(1, |a| a.local_pref = Some(1 << 30)), Lost::Preference);
    check(Path { beats_local: true, ..plain(2) }, local, Lost::Preference);
    check(plain(1), Path { stale: Stale::LongLived, ..path(3, |a| a.local_pref = Some(900)) }, Lost::LongLivedStale);
    check(path(2, |a| a.local_pref = Some(101)), path(4, |a| a.as_path = AsPath::default()), Lost::LocalPref);
    check(
        path(1, |a| a.origin = Origin::Incomplete),
        path(3, |a| a.as_path = a.as_path.prepended(&[1])),
        Lost::AsPathLength,
    );
    check(plain(3), path(1, |a| a.origin = Origin::Egp), Lost::Origin);
    check(path(3, |a| a.med = Some(1)), path(1, |a| a.med = Some(2)), Lost::Med);
    check(plain(3), plain(2), Lost::Internal);
    check(plain(3), path(1, |a| a.next_hop.address = hop(7)), Lost::IgpMetric);
    check(plain(1), plain(3), Lost::RouterId);
    check(plain(2), path(4, |a| a.originator_id = Some([10, 0, 0, 3].into())), Lost::RouterId);
    let reflected = |peer, clusters: usize| {
        path(peer, |a| {
            a.originator_id = Some([10, 0, 0, 99].into());
            a.cluster_list = vec![[1, 1, 1, 1].into(); clusters].into();
        })
    };
    check(reflected(4, 1), reflected(2, 2), Lost::ClusterListLength);
    check(reflected(2, 1), reflected(4, 1), Lost::PeerAddress);
    check(plain(1), Path { path_id: 7, ..plain(1) }, Lost::PathId);
}

#[test]
fn a_med_says_something_within_one_neighbouring_system_only() {
    // The RFC's own trouble: a < b by MED, b < c by router id, c < a; a pairwise walk depends on the order.
    let a = path(3, |a| (a.as_path, a.med) = (AsPath::sequence(vec![1]), Some(10)));
    let b = path(1, |a| (a.as_path, a.med) = (AsPath::sequence(vec![1]), Some(20)));
    let c = path(5, |a| (a.as_path, a.med) = (AsPath::sequence(vec![2]), Some(0)));
    for paths in [[a.clone(), b.clone(), c.clone()], [c.clone(), b.clone(), a.clone()], [b, c, a.clone()]] {
        let decision = decide(&paths, &peers());
        assert_eq!(paths[decision.best.unwrap()].peer, a.peer);
    }
}

#[test]
fn paths_that_only_ids_tell_apart_are_taken_together() {
    let other = |peer, number| path(peer, |a| a.next_hop.address = hop(number));
    let decision = decide(&[other(5, 2), other(1, 1), path(3, |a| a.med = Some(9)), other(2, 3)], &peers());
    assert_eq!((decision.best, decision.multipath), (Some(1), vec![0, 1]));
    let none = decide(&[], &peers());
    assert_eq!((none.best, none.multipath.len()), (None, 0));
}

fn any_path() -> impl Strategy<Value = Path> {
    let attributes = (0u8..3, 0usize..3, 0u32..3, prop::option::of(0u32..3), prop::option::of(99u32..102), 1u8..9);
    let about = (1u16..9, 0u32..2, prop::bool::weighted(0.1), prop::bool::weighted(0.1), 0usize..3, prop::bool::ANY);
    (attributes, about).prop_map(|((origin, length, neighbour, med, local_pref, next_hop), about)| {
        let (peer, path_id, rejected, long_lived, clusters, reflected) = about;
        let mut made = path(peer, |a| {
            a.origin = [Origin::Igp, Origin::Egp, Origin::Incomplete][usize::from(origin)];
            a.as_path = AsPath::sequence([vec![65000 + neighbour], vec![7; length]].concat());
            (a.med, a.local_pref) = (med, local_pref);
            a.next_hop.address = hop(next_hop);
            a.originator_id = reflected.then_some([10, 0, 0, 50].into());
            a.cluster_list = vec![[1, 1, 1, 1].into(); clusters].into();
        });
        made.path_id = path_id;
        made.rejected = rejected.then_some(Rejected::OwnAs);
        made.stale = if long_lived { Stale::LongLived } else { Stale::No };
        made
    })
}

/// The steps as the RFC writes them: what is not as good as the best of those left is removed from consideration.
fn by_the_book(paths: &[Path], facts: &Peers) -> Option<usize> {
    type Key = Box<dyn Fn(&Path) -> i64>;
    let internal = |path: &Path| facts.peer(path).internal;
    let mut left: Vec<usize> = (0..paths.len()).collect();
    left.retain(|at| paths[*at].rejected.is_none() && facts.metric(&paths[*at]).is_some());
    let steps: Vec<Key> = vec![
        Box::new(|path| i64::from(path.stale == Stale::LongLived)),
        Box::new(|path| -i64::from(path.attributes.local_pref.unwrap_or(100))),
        Box::new(|path| path.attributes.as_path.length() as i64),
        Box::new(|path| path.attributes.origin as i64),
    ];
    for step in &steps {
        let least = left.iter().map(|at| step(&paths[*at])).min()?;
        left.retain(|at| step(&paths[*at]) == least);
    }
    // RFC 4271 §9.1.2.2 c), its loop: for m, for n: if same neighbour and MED(n) > MED(m), remove n.
    let all = left.clone();
    for m in &all {
        for n in &all {
            let (m, n) = (&paths[*m].attributes, &paths[*n].attributes);
            if m.as_path.neighbour() == n.as_path.neighbour() && n.med.unwrap_or(0) > m.med.unwrap_or(0) {
                left.retain(|at| !std::ptr::eq(&*paths[*at].attributes, &**n));
            }
        }
    }
    if left.iter().any(|at| !internal(&paths[*at])) {
        left.retain(|at| !internal(&paths[*at]));
    }
    left.into_iter().min_by_key(|at| {
        let path = &paths[*at];
        let peer = facts.peer(path);
        let id = path.attributes.originator_id.unwrap_or(peer.router_id);
        (facts.metric(path), id, path.attributes.cluster_list.len(), peer.address, path.path_id, *at)
    })
}

proptest! {
    #[test]
    fn equals_the_book_in_any_order(paths in prop::collection::vec(any_path(), 0..8), seed in any::<u64>()) {
        let facts = peers();
        let mut paths = paths;
        paths.dedup_by_key(|path| (path.peer, path.path_id));
        let is_once = |at: usize| !paths[..at].iter().any(|other| (other.peer, other.path_id) == (paths[at].peer, paths[at].path_id));
        let once: Vec<Path> = (0..paths.len()).filter(|at| is_once(*at)).map(|at| paths[at].clone()).collect();
        let decision = decide(&once, &facts);
        let name = |at: usize, of: &[Path]| (of[at].peer, of[at].path_id);
        let best = decision.best.map(|at| name(at, &once));
        prop_assert_eq!(best, by_the_book(&once, &facts).map(|at| name(at, &once)));
        prop_assert_eq!(decision.lost.len() + usize::from(decision.best.is_some()), once.len(), "everybody has a fate");
        let mut turned = once.clone();
        let turns = seed as usize % turned.len().max(1);
        turned.rotate_left(turns);
        prop_assert_eq!(decide(&turned, &facts).best.map(|at| name(at, &turned)), best);
    }
}
