//! What members hear, decoded, against what they should have heard.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use config::net::{Cidr, IpVersion};
use proptest::prelude::*;

use super::*;
use crate::bgp::attribute::NextHop;
use crate::bgp::message::{AddPath, Capabilities, Open};
use crate::bgp::rib::Said;
use crate::bgp::rib::path::PeerFacts;
use crate::bgp::rules::ExportRules;
use crate::bgp::speaker_state::NextHopMode;

const PEERS: u16 = 4;

fn open(several: bool) -> Open {
    let families = vec![IpVersion::V4, IpVersion::V6];
    let add_path = |family| AddPath { family, send: several, receive: several };
    Open {
        as_number: 64512,
        hold_time: Duration::from_secs(90),
        router_id: Ipv4Addr::new(10, 0, 0, 1),
        capabilities: Capabilities {
            add_path: families.iter().map(|family| add_path(*family)).filter(|_| several).collect(),
            families,
            four_octet_as: true,
            ..Capabilities::default()
        },
    }
}

fn group(several: bool) -> (Group, Codec) {
    let codec = Codec::agreed(&open(several), &open(several), true);
    let hop = |address: IpAddr| Some(NextHop { address, link_local: None });
    let audience = Audience {
        internal: true,
        client: true,
        cluster_id: Some(Ipv4Addr::new(9, 9, 9, 9)),
        local_as: 64512,
        next_hop: NextHopMode::Auto,
        own_next_hops: [hop([192, 0, 2, 100].into()), hop("fd00::100".parse().unwrap())],
        families: [true; 2],
        extended_next_hop: false,
        sends_path_ids: [several; 2],
        four_octet_as: true,
        longest: codec.longest(),
        role: None,
        long_lived: false,
        export: Arc::new(ExportRules::default()),
    };
    (Group::new(audience, codec), codec)
}

fn prefix(number: u8) -> Cidr {
    let address: IpAddr = if number.is_multiple_of(3) {
        [0xfd01, u16::from(number), 0, 0, 0, 0, 0, 0].into()
    } else {
        [10, number, 0, 0].into()
    };
    Cidr::new(address, if number.is_multiple_of(3) { 64 } else { 24 }).unwrap()
}

/// A member's table, from the bytes it was given.
#[derive(Default)]
struct Heard {
    table: BTreeMap<Nlri, Attributes>,
    ends: usize,
    /// Withdrawals of what it had never heard of.
    needless: usize,
}

impl Heard {
    fn hear(&mut self, codec: &Codec, mut bytes: &[u8]) {
        while let Some(length) = codec.frame(bytes).unwrap() {
            let (message, rest) = bytes.split_at(length);
            bytes = rest;
            let Message::Update(update) = codec.decode(message).unwrap() else { continue };
            assert!(update.faults.is_empty(), "{:?}", update.faults);
            self.ends += usize::from(update.end_of_rib.is_some());
            for nlri in update.withdrawn {
                self.needless += usize::from(self.table.remove(&nlri).is_none());
            }
            for reachable in update.reachable {
                for nlri in reachable.nlri {
                    self.table.insert(nlri, (*reachable.attributes).clone());
                }
            }
        }
        assert!(bytes.is_empty(), "whole messages only");
    }
}

#[derive(Debug, Clone)]
enum Step {
    Announce(u16, u8, u8),
    Withdraw(u16, u8),
    Join(u16),
    Leave(u16),
    Refresh(u16, bool),
    Follow,
    /// So many octets.
    Pull(u16, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let peer = 0..PEERS;
    prop_oneof![
        10 => (peer.clone(), 0u8..10, 0u8..3).prop_map(|(peer, prefix, med)| Step::Announce(peer, prefix, med)),
        5 => (peer.clone(), 0u8..10).prop_map(|(peer, prefix)| Step::Withdraw(peer, prefix)),
        3 => peer.clone().prop_map(Step::Join),
        1 => peer.clone().prop_map(Step::Leave),
        1 => (peer.clone(), any::<bool>()).prop_map(|(peer, is_ipv4)| Step::Refresh(peer, is_ipv4)),
        6 => Just(Step::Follow),
        6 => (peer, 1usize..400).prop_map(|(peer, enough)| Step::Pull(peer, enough)),
    ]
}

fn follow(group: &mut Group, rib: &mut Rib) {
    let changed = rib.take_changed();
    group.follow(rib, &changed, &Clients::new());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn every_member_ends_with_what_there_is(
        steps in prop::collection::vec(step(), 1..120),
        several in any::<bool>(),
        most in prop_oneof![Just(0usize), Just(500), Just(usize::MAX)],
    ) {
        let (mut group, codec) = group(several);
        group.log_most = most;
        let mut rib = Rib::default();
        for number in 0..PEERS {
            let address: IpAddr = [192, 0, 2, number as u8 + 1].into();
            rib.add_peer(PeerFacts { address, router_id: [10, 0, 0, number as u8 + 1].into(), internal: true });
        }
        let reachable: BTreeMap<IpAddr, Option<u32>> = (0..=PEERS as u8 + 1).map(|n| ([192, 0, 2, n].into(), Some(0))).collect();
        let mut heard: BTreeMap<u16, Heard> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Announce(peer, number, med) => {
                    let hop = IpAddr::from([192, 0, 2, peer as u8 + 1]);
                    let hop6 = IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, peer + 1]);
                    let hop = if prefix(number).is_ipv4() { hop } else { hop6 };
                    let attributes = Attributes { med: Some(u32::from(med)), local_pref: Some(100), ..Attributes::local(hop) };
                    let attributes = rib.store.intern(Arc::new(attributes));
                    let nlri = Nlri { prefix: prefix(number), path_id: 0 };
                    rib.announce(PeerIndex(peer), nlri, Said { attributes, rejected: None, beats_local: false });
                    rib.set_metrics(&reachable);
                    rib.set_metrics(&BTreeMap::from([(hop6, Some(0))]));
                }
                Step::Withdraw(peer, number) => {
                    rib.withdraw(PeerIndex(peer), Nlri { prefix: prefix(number), path_id: 0 });
                }
                Step::Join(peer) if heard.contains_key(&peer) => {}
                Step::Join(peer) => {
                    follow(&mut group, &mut rib);
                    group.join(PeerIndex(peer), &mut rib, &Clients::new(), None);
                    heard.insert(peer, Heard::default());
                }
                Step::Leave(peer) => {
                    group.leave(PeerIndex(peer));
                    heard.remove(&peer);
                    if group.is_empty() {
                        // As the speaker does: an empty group goes.
                        group = self::group(several).0;
                        group.log_most = most;
                    }
                }
                Step::Refresh(peer, is_ipv4) => {
                    group.refresh(PeerIndex(peer), if is_ipv4 { IpVersion::V4 } else { IpVersion::V6 }, &rib, true);
                }
                Step::Follow => follow(&mut group, &mut rib),
                Step::Pull(peer, enough) => {
                    if let Some(heard) = heard.get_mut(&peer) {
                        let mut bytes = Vec::new();
                        group.pull(PeerIndex(peer), &rib, enough, &mut bytes);
                        heard.hear(&codec, &bytes);
                    }
                }
            }
            prop_assert!(group.log.bytes() <= most.saturating_add(64 << 10));
        }
        follow(&mut group, &mut rib);
        for (peer, heard) in &mut heard {
            while group.has_output(PeerIndex(*peer)) {
                let mut bytes = Vec::new();
                group.pull(PeerIndex(*peer), &rib, 1000, &mut bytes);
                heard.hear(&codec, &bytes);
            }
            let mut expected = BTreeMap::new();
            for (_, prefix, entry) in rib.iter() {
                let told = entry.paths.iter().enumerate().filter(|(at, path)| {
                    let is_best = entry.best.map(usize::from) == Some(*at);
                    path.peer.0 != *peer && (is_best || several && rib.is_eligible(path))
                });
                for (_, path) in told {
                    let number = if several { u32::from(path.number) } else { 0 };
                    if let Ok(attributes) = export::export(&rib, prefix, path, false, &group.audience) {
                        expected.insert(Nlri { prefix, path_id: number }, attributes);
                    }
                }
            }
            prop_assert_eq!(&heard.table, &expected, "peer {}", peer);
            prop_assert!(heard.ends == 2, "one end of RIB for each family, not {}", heard.ends);
            let view = group.view(PeerIndex(*peer));
            prop_assert_eq!(view.advertised.iter().sum::<u32>() as usize, expected.len());
            prop_assert_eq!((view.behind, view.catching_up), (0, 0));
        }
        prop_assert_eq!(group.log.bytes(), 0, "what everybody has read is gone");
    }
}

#[test]
fn a_member_that_hears_all_in_time_hears_nothing_needless() {
    let (mut group, codec) = group(false);
    let mut rib = Rib::default();
    for number in 0..2 {
        let address: IpAddr = [192, 0, 2, number + 1].into();
        rib.add_peer(PeerFacts { address, router_id: [10, 0, 0, number + 1].into(), internal: true });
    }
    let mut heard: Vec<Heard> = vec![Heard::default(), Heard::default()];
    for peer in 0..2 {
        group.join(PeerIndex(peer), &mut rib, &Clients::new(), None);
    }
    let hear = |group: &mut Group, rib: &Rib, heard: &mut Vec<Heard>| {
        let mut sizes = BTreeSet::new();
        for (peer, heard) in heard.iter_mut().enumerate() {
            let mut bytes = Vec::new();
            group.pull(PeerIndex(peer as u16), rib, usize::MAX, &mut bytes);
            heard.hear(&codec, &bytes);
            sizes.insert(bytes.len());
        }
        sizes
    };
    hear(&mut group, &rib, &mut heard);
    let hops = BTreeMap::from([([192, 0, 2, 1].into(), Some(0)), ([192, 0, 2, 2].into(), Some(0))]);
    for round in 0..3u32 {
        for number in [1u8, 2, 4] {
            let peer = PeerIndex((round % 2) as u16);
            let hop = [192, 0, 2, peer.0 as u8 + 1].into();
            let attributes = Attributes { local_pref: Some(100 + round), ..Attributes::local(hop) };
            let said = Said { attributes: rib.store.intern(Arc::new(attributes)), rejected: None, beats_local: false };
            rib.announce(peer, Nlri { prefix: prefix(number), path_id: 0 }, said);
        }
        rib.set_metrics(&hops);
        follow(&mut group, &mut rib);
        hear(&mut group, &rib, &mut heard);
    }
    assert_eq!(heard.iter().map(|heard| heard.needless).sum::<usize>(), 0);
    // The last word is peer 0's, so it hears nothing and the other all.
    assert_eq!((heard[0].table.len(), heard[1].table.len()), (0, 3));
    // Nothing new: nothing is said.
    for place in rib.places().collect::<Vec<_>>() {
        rib.touch(place);
    }
    follow(&mut group, &mut rib);
    assert_eq!(hear(&mut group, &rib, &mut heard), BTreeSet::from([0]));
}
