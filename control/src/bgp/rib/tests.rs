//! The table of paths against a plain list.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use config::net::{Cidr, IpVersion};
use proptest::prelude::*;

use super::*;
use crate::bgp::attribute::Attributes;
use crate::bgp::decision::decide;
use crate::bgp::rib::forwarding::{Ways, ways};

fn prefix(number: u8) -> Cidr {
    let address: IpAddr = if number.is_multiple_of(2) {
        [10, number, 0, 0].into()
    } else {
        [0xfd00, u16::from(number), 0, 0, 0, 0, 0, 0].into()
    };
    Cidr::new(address, if number.is_multiple_of(2) { 24 } else { 64 }).unwrap()
}

fn facts(number: u16) -> PeerFacts {
    PeerFacts {
        address: [192, 0, 2, number as u8].into(),
        router_id: [10, 0, 0, number as u8].into(),
        internal: number.is_multiple_of(2),
    }
}

fn said(med: u32, next_hop: u8, is_rejected: bool) -> Said {
    let attributes = Attributes { med: Some(med), ..Attributes::local([192, 0, 2, next_hop].into()) };
    Said { attributes: Arc::new(attributes), rejected: is_rejected.then_some(Rejected::OwnAs), beats_local: false }
}

#[derive(Debug, Clone)]
enum Step {
    Announce(u16, u8, u32, u32, u8, bool),
    Withdraw(u16, u8, u32),
    Stale(u16, bool),
    DropStale(u16),
    Drop(u16),
    Metric(u8, Option<u32>),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0u16..3, 0u8..6, 0u32..2, 0u32..3, 1u8..4, prop::bool::weighted(0.2))
            .prop_map(|(peer, prefix, id, med, hop, bad)| Step::Announce(peer, prefix, id, med, hop, bad)),
        4 => (0u16..3, 0u8..6, 0u32..2).prop_map(|(peer, prefix, id)| Step::Withdraw(peer, prefix, id)),
        1 => (0u16..3, any::<bool>()).prop_map(|(peer, is_ipv4)| Step::Stale(peer, is_ipv4)),
        1 => (0u16..3).prop_map(Step::DropStale),
        1 => (0u16..3).prop_map(Step::Drop),
        2 => (1u8..4, prop::option::of(0u32..3)).prop_map(|(hop, metric)| Step::Metric(hop, metric)),
    ]
}

proptest! {
    #[test]
    fn equals_a_list_of_paths(steps in prop::collection::vec(step(), 1..60)) {
        let mut rib = Rib::default();
        for number in 0..3 {
            prop_assert_eq!(rib.add_peer(facts(number)), Some(PeerIndex(number)));
        }
        let mut plain: BTreeMap<(Cidr, u16, u32), (Said, Stale)> = BTreeMap::new();
        let mut before: BTreeMap<Cidr, String> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Announce(peer, number, path_id, med, hop, bad) => {
                    let mut said = said(med, hop, bad);
                    said.attributes = rib.store.intern(said.attributes);
                    let is_taken = rib.announce(PeerIndex(peer), Nlri { prefix: prefix(number), path_id }, said.clone());
                    prop_assert!(is_taken);
                    plain.insert((prefix(number), peer, path_id), (said, Stale::No));
                }
                Step::Withdraw(peer, number, path_id) => {
                    let was = plain.remove(&(prefix(number), peer, path_id)).is_some();
                    prop_assert_eq!(rib.withdraw(PeerIndex(peer), Nlri { prefix: prefix(number), path_id }), was);
                }
                Step::Stale(peer, is_ipv4) => {
                    let family = if is_ipv4 { IpVersion::V4 } else { IpVersion::V6 };
                    rib.mark_stale(PeerIndex(peer), family, Stale::Graceful);
                    for ((prefix, from, _), (_, stale)) in &mut plain {
                        if *from == peer && prefix.version() == family {
                            *stale = Stale::Graceful;
                        }
                    }
                }
                Step::DropStale(peer) => {
                    rib.drop_paths(PeerIndex(peer), None, |path| path.stale != Stale::No);
                    plain.retain(|(_, from, _), (_, stale)| *from != peer || *stale == Stale::No);
                }
                Step::Drop(peer) => {
                    rib.drop_paths(PeerIndex(peer), None, |_| true);
                    plain.retain(|(_, from, _), _| *from != peer);
                }
                Step::Metric(hop, metric) => {
                    rib.set_metrics(&BTreeMap::from([([192, 0, 2, hop].into(), metric)]));
                }
            }
            // Counts are those of the paths.
            prop_assert_eq!(rib.path_count(), plain.len());
            for peer in 0..3 {
                for family in [IpVersion::V4, IpVersion::V6] {
                    let of: Vec<_> = plain.iter().filter(|((p, from, _), _)| *from == peer && p.version() == family).collect();
                    let counts = rib.counts(PeerIndex(peer), family);
                    prop_assert_eq!(counts.received as usize, of.len());
                    prop_assert_eq!(counts.rejected as usize, of.iter().filter(|(_, (said, _))| said.rejected.is_some()).count());
                    prop_assert_eq!(counts.stale as usize, of.iter().filter(|(_, (_, stale))| *stale != Stale::No).count());
                }
            }
            let hops: BTreeSet<IpAddr> =
                plain.values().filter(|(said, _)| said.rejected.is_none()).map(|(said, _)| said.attributes.next_hop.address).collect();
            prop_assert_eq!(rib.next_hops.keys().copied().collect::<BTreeSet<_>>(), hops);
            // What is best is what a decision over all paths says, and whatever differs from before is told.
            let mut now = BTreeMap::new();
            for (place, prefix, entry) in rib.iter() {
                let view = View { peers: &rib.peers, metrics: &rib.metrics };
                let decision = decide(&entry.paths, &view);
                prop_assert_eq!(entry.best.map(usize::from), decision.best);
                prop_assert_eq!(entry.is_multipath, decision.multipath.len() > 1);
                // The backup is what is best when all that packets go by is gone.
                let Ways { next_hops, backup } = ways(&rib, place);
                let hop = |path: &Path| path.attributes.next_hop.address;
                let left: Vec<Path> = entry.paths.iter().filter(|path| !next_hops.contains(&hop(path))).cloned().collect();
                let next = decide(&left, &view).best.map(|at| &left[at]).filter(|next| !next.peer.is_local());
                prop_assert_eq!(backup, next.filter(|_| !next_hops.is_empty()).map(hop));
                prop_assert_eq!(rib.find(&prefix), Some(place));
                let mut numbers: Vec<u16> = entry.paths.iter().map(|path| path.number).collect();
                numbers.sort_unstable();
                numbers.dedup();
                prop_assert_eq!(numbers.len(), entry.paths.len(), "each path has a number of its own");
                let of: BTreeSet<(u16, u32)> = entry.paths.iter().map(|path| (path.peer.0, path.path_id)).collect();
                let expected: BTreeSet<(u16, u32)> =
                    plain.keys().filter(|(p, ..)| *p == prefix).map(|(_, from, id)| (*from, *id)).collect();
                prop_assert_eq!(of, expected);
                now.insert(prefix, format!("{:?} {:?}", entry.paths, entry.best));
            }
            let told: BTreeSet<Cidr> = rib.take_changed().into_iter().map(|place| rib.prefix(place)).collect();
            for prefix in before.keys().chain(now.keys()) {
                prop_assert!(before.get(prefix) == now.get(prefix) || told.contains(prefix), "{} was not told", prefix);
            }
            before = now;
            let empty: Vec<PrefixIndex> = rib.places().filter(|place| rib.entry(*place).paths.is_empty()).collect();
            for place in empty {
                rib.release(place);
            }
            prop_assert_eq!(rib.len(), before.len());
        }
    }
}

/// A next hop whose only route is told anew, or goes and comes, is where it was: control has seen no change of it.
#[test]
fn what_is_known_of_a_next_hop_outlives_its_only_route() {
    let nlri = Nlri { prefix: prefix(0), path_id: 0 };
    let check = |expected: bool, change: &dyn Fn(&mut Rib, PeerIndex)| {
        let mut rib = Rib::default();
        let peer = rib.add_peer(facts(0)).unwrap();
        rib.announce(peer, nlri, said(1, 1, false));
        assert_eq!(rib.take_next_hops().unwrap().len(), 1);
        rib.set_metrics(&BTreeMap::from([([192, 0, 2, 1].into(), Some(0))]));
        change(&mut rib, peer);
        let place = rib.find(&nlri.prefix).unwrap();
        assert_eq!(rib.entry(place).best.is_some(), expected);
    };
    check(true, &|rib, peer| assert!(rib.announce(peer, nlri, said(2, 1, false))));
    check(true, &|rib, peer| assert_eq!(rib.mark_stale(peer, IpVersion::V4, Stale::Graceful), 1));
    check(true, &|rib, peer| rib.edit_one(peer, nlri, |path| path.stale = Stale::LongLived));
    check(true, &|rib, peer| {
        rib.withdraw(peer, nlri);
        rib.announce(peer, nlri, said(1, 1, false));
    });
    // Control looks after it no more once it was told so.
    check(false, &|rib, peer| {
        rib.withdraw(peer, nlri);
        assert!(rib.take_next_hops().unwrap().is_empty());
        rib.announce(peer, nlri, said(1, 1, false));
    });
    // It is heard of while it has no route.
    check(false, &|rib, peer| {
        rib.withdraw(peer, nlri);
        rib.set_metrics(&BTreeMap::from([([192, 0, 2, 1].into(), None)]));
        rib.announce(peer, nlri, said(1, 1, false));
    });
}
