//! The table for tools that read MRT: what every peer said, as it was received.
//!
//! It is told in pieces, each made between two events, so sessions wait for a piece and never for the table. Nothing is kept
//! between pieces: who asks says where the last one ended, and which number each peer has.
//!
//! Left out: when a path came, which is not kept: the time of the dump stands there. The table is not that of one moment: what
//! changes while it is dumped may be there as it was or as it is.
//!
//! Sources: RFC 6396 §4.3, RFC 8050 §4.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::super::call::PeerName;
use super::super::mrt::{self, Told};
use super::super::rib::path::{Path, PeerIndex};
use super::super::speaker_state::PeerKey;
use super::Speaker;

/// Places of the table that are looked at for one piece.
const PLACES: usize = 16_384;
/// Octets after which a piece is enough; a prefix is told whole.
const OCTETS: usize = 4 << 20;
/// Peers in a dump: numbers have two octets, and the first is this node's.
const PEERS_MAX: usize = u16::MAX as usize - 1;

/// Which piece.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DumpCall {
    /// The time of the dump: seconds since 1970.
    pub taken: u64,
    /// None: from the beginning.
    pub begun: Option<Begun>,
}

/// Where the next piece begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Begun {
    /// In the order of their numbers, from 1.
    pub peers: Vec<PeerName>,
    pub place: usize,
    /// Prefixes dumped so far.
    pub prefixes: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DumpView {
    /// Whole records, in base64.
    pub records: String,
    /// None: that was all.
    pub then: Option<Begun>,
    /// Prefixes dumped so far, with this piece.
    pub prefixes: u32,
}

impl Speaker {
    /// The next piece of a dump.
    pub fn dump(&self, call: &DumpCall) -> DumpView {
        let taken = Duration::from_secs(call.taken);
        let mut records = Vec::new();
        let mut begun = match &call.begun {
            Some(begun) => begun.clone(),
            None => self.begin_dump(taken, &mut records),
        };
        let numbers = self.numbers(&begun.peers);
        let mut is_all = true;
        let rest = self.rib.iter().skip_while(|(place, ..)| place.index() < begun.place);
        for (looked_at, (place, prefix, entry)) in rest.enumerate() {
            if looked_at == PLACES || records.len() >= OCTETS {
                begun.place = place.index();
                is_all = false;
                break;
            }
            let told = |path: &'_ Path| Some((*numbers.get(&path.peer)?, path_id(path)));
            // Paths without a number are told in the older form, which more tools read.
            let has_path_ids = entry.paths.iter().filter_map(told).any(|(_, id)| id != 0);
            let routes = entry.paths.iter().filter_map(|path| {
                let (peer, path_id) = told(path)?;
                let attributes = path.received();
                Some(Told { peer, told: taken, path_id, attributes })
            });
            mrt::rib_entry(taken, begun.prefixes, prefix, routes, has_path_ids, &mut records);
            begun.prefixes = begun.prefixes.saturating_add(1);
        }
        let prefixes = begun.prefixes;
        DumpView { records: STANDARD.encode(&records), then: (!is_all).then_some(begun), prefixes }
    }

    /// Numbers the peers, and tells them.
    fn begin_dump(&self, taken: Duration, records: &mut Vec<u8>) -> Begun {
        let identity = self.identity();
        let collector = identity.map_or(Ipv4Addr::UNSPECIFIED, |identity| identity.router_id);
        // This node has no address here, as in the dumps of others.
        let own = mrt::Peer {
            router_id: collector,
            address: Ipv4Addr::UNSPECIFIED.into(),
            as_number: identity.map_or(0, |identity| identity.as_number),
        };
        let peers = self.peers.iter().take(PEERS_MAX).map(|(key, peer)| mrt::Peer {
            router_id: self.rib.facts(peer.index).map_or(Ipv4Addr::UNSPECIFIED, |facts| facts.router_id),
            address: key.address,
            as_number: peer.state.transport.remote_as,
        });
        let peers: Vec<mrt::Peer> = std::iter::once(own).chain(peers).collect();
        mrt::peer_index(taken, collector, &peers, records);
        let names = self.peers.keys().take(PEERS_MAX);
        let names = names.map(|key| PeerName { address: key.address, port: Some(key.port) });
        Begun { peers: names.collect(), place: 0, prefixes: 0 }
    }

    /// A peer that is gone, or has come since, has none.
    fn numbers(&self, names: &[PeerName]) -> BTreeMap<PeerIndex, u16> {
        let index = |name: &PeerName| {
            let key = PeerKey { address: name.address, port: name.port? };
            self.peers.get(&key).map(|peer| peer.index)
        };
        let peers = names.iter().map(index).zip(1..=u16::MAX);
        let peers = peers.filter_map(|(index, number)| Some((index?, number)));
        std::iter::once((PeerIndex::LOCAL, 0)).chain(peers).collect()
    }
}

/// The peer's number for the path. Of routes of this node the kind stands there, which is nobody's business.
fn path_id(path: &Path) -> u32 {
    if path.peer.is_local() { 0 } else { path.path_id }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;
    use std::time::Instant;

    use bgpkit_parser::models::{MrtMessage, TableDumpV2Message};
    use bgpkit_parser::parser::mrt::mrt_record::parse_mrt_record;
    use config::net::Cidr;

    use super::*;
    use crate::bgp::speaker::Event;
    use crate::bgp::speaker_state::{Identity, LocalRoute, LocalRouteKind, SpeakerState};

    /// A node with so many routes of its own and no peer.
    fn speaker(routes: u32) -> Speaker {
        let route = |number: u32| {
            let prefix = Cidr::new(Ipv4Addr::from(0x0a00_0000 + number).into(), 32).unwrap();
            (prefix, LocalRoute { kind: LocalRouteKind::Endpoint, metric: 1024, interface: None })
        };
        let router_id = Ipv4Addr::new(192, 0, 2, 1);
        let identity = Identity {
            as_number: 64512,
            router_id,
            listen_port: 179,
            listen_addresses: Vec::new(),
            cluster_id: None,
            addresses: vec![router_id.into()],
        };
        let routes = (0..routes).map(route).collect();
        let desired = SpeakerState { identity: Some(identity), routes, ..SpeakerState::default() };
        let mut speaker = Speaker::new(7, false);
        speaker.handle(Event::Desired(Arc::new(desired)), Instant::now(), &mut Vec::new());
        speaker
    }

    /// The pieces of a dump, until there is none.
    fn pieces(speaker: &Speaker) -> Vec<DumpView> {
        let mut pieces = vec![speaker.dump(&DumpCall { taken: 1000, begun: None })];
        while let Some(begun) = pieces.last().and_then(|piece| piece.then.clone()) {
            pieces.push(speaker.dump(&DumpCall { taken: 1000, begun: Some(begun) }));
        }
        pieces
    }

    #[test]
    fn all_pieces_together_are_the_table() {
        let count = PLACES as u32 + 3;
        let pieces = pieces(&speaker(count));
        assert!(pieces.len() > 1);
        let octets: Vec<u8> = pieces.iter().flat_map(|piece| STANDARD.decode(&piece.records).unwrap()).collect();
        let mut rest = octets.as_slice();
        let (mut tables, mut numbers, mut prefixes) = (0, Vec::new(), BTreeSet::new());
        while !rest.is_empty() {
            match parse_mrt_record(&mut rest).unwrap().message {
                MrtMessage::TableDumpV2Message(TableDumpV2Message::PeerIndexTable(_)) => tables += 1,
                MrtMessage::TableDumpV2Message(TableDumpV2Message::RibAfi(rib)) => {
                    numbers.push(rib.sequence_number);
                    prefixes.insert(rib.prefix.to_string());
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(tables, 1);
        assert_eq!(numbers, (0..count).collect::<Vec<_>>());
        assert_eq!(prefixes.len(), count as usize);
        assert_eq!(pieces.last().unwrap().prefixes, count);
    }
}
