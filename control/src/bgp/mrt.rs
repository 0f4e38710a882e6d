//! Dumps for tools that read MRT: the table, and messages as they came and went.
//!
//! ```text
//!     time 4 | type 2 | subtype 2 | length 4 | record
//!
//!     TABLE_DUMP_V2:  the peers, each with a number; then per prefix: who told of it, when, and what
//!     BGP4MP:         the two ends of a session, and one message
//! ```
//!
//! Records are made one at a time and handed to the caller, so a table of any size needs the memory of one prefix.
//!
//! Left out: state changes, views other than the only one, families other than unicast.
//!
//! Sources: RFC 6396 §2, §4.3 and §4.4, RFC 8050 (path identifiers).

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use config::net::{Cidr, IpVersion};

use super::attribute::Attributes;
use super::wire::{self, Codec};

const TABLE_DUMP_V2: u16 = 13;
const PEER_INDEX_TABLE: u16 = 1;
const RIB_IPV4_UNICAST: u16 = 2;
const RIB_IPV6_UNICAST: u16 = 4;
const RIB_IPV4_UNICAST_ADDPATH: u16 = 8;
const RIB_IPV6_UNICAST_ADDPATH: u16 = 10;

const BGP4MP: u16 = 16;
const MESSAGE: u16 = 1;
const MESSAGE_AS4: u16 = 4;
const MESSAGE_LOCAL: u16 = 6;
const MESSAGE_AS4_LOCAL: u16 = 7;
const MESSAGE_ADDPATH: u16 = 8;
const MESSAGE_AS4_ADDPATH: u16 = 9;
const MESSAGE_LOCAL_ADDPATH: u16 = 10;
const MESSAGE_AS4_LOCAL_ADDPATH: u16 = 11;

/// Somebody whose routes are in a table. The place in the list is the number that its routes have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    pub router_id: Ipv4Addr,
    pub address: IpAddr,
    pub as_number: u32,
}

/// What one peer has told of a prefix.
#[derive(Debug, Clone, Copy)]
pub struct Told<'a> {
    /// Place in the list of peers.
    pub peer: u16,
    /// Since 1970.
    pub told: Duration,
    pub path_id: u32,
    pub attributes: &'a Attributes,
}

/// The two ends of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    pub peer_as: u32,
    pub local_as: u32,
    pub peer: IpAddr,
    pub local: IpAddr,
}

/// Which way a message went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Received,
    Sent,
}

/// Dumps a table: calls `each` with one record after the other, the peers first.
///
/// `taken` is the time since 1970. At most 65535 peers, and as many routes of one prefix; what is beyond that is left out.
/// Prefixes are numbered in the order in which they come.
pub fn table<'a, Routes>(
    taken: Duration,
    collector: Ipv4Addr,
    peers: &[Peer],
    prefixes: impl IntoIterator<Item = (Cidr, Routes)>,
    has_path_ids: bool,
    each: &mut impl FnMut(&[u8]),
) where
    Routes: IntoIterator<Item = Told<'a>>,
{
    let mut record = Vec::new();
    peer_index(taken, collector, peers, &mut record);
    each(&record);
    for (sequence, (prefix, routes)) in (0u32..=u32::MAX).zip(prefixes) {
        record.clear();
        rib_entry(taken, sequence, prefix, routes, has_path_ids, &mut record);
        each(&record);
    }
}

/// Appends the record of the peers, which goes before all others. RFC 6396 §4.3.1.
pub fn peer_index(taken: Duration, collector: Ipv4Addr, peers: &[Peer], out: &mut Vec<u8>) {
    const IS_IPV6: u8 = 1;
    const HAS_FOUR_OCTETS: u8 = 2;
    let peers = peers.get(..u16::MAX.into()).unwrap_or(peers);
    let begin = header(taken, TABLE_DUMP_V2, PEER_INDEX_TABLE, out);
    out.extend(collector.octets());
    // A view without a name.
    out.extend([0; 2]);
    out.extend((peers.len() as u16).to_be_bytes());
    for Peer { router_id, address, as_number } in peers {
        out.push(HAS_FOUR_OCTETS | if address.is_ipv6() { IS_IPV6 } else { 0 });
        out.extend(router_id.octets());
        push_address(*address, out);
        out.extend(as_number.to_be_bytes());
    }
    set_length(begin, out);
}

/// Appends the record of one prefix; `sequence` counts them. RFC 6396 §4.3.2, RFC 8050 §4.
pub fn rib_entry<'a>(
    taken: Duration,
    sequence: u32,
    prefix: Cidr,
    routes: impl IntoIterator<Item = Told<'a>>,
    has_path_ids: bool,
    out: &mut Vec<u8>,
) {
    let family = prefix.version();
    let subtype = match (family, has_path_ids) {
        (IpVersion::V4, false) => RIB_IPV4_UNICAST,
        (IpVersion::V4, true) => RIB_IPV4_UNICAST_ADDPATH,
        (IpVersion::V6, false) => RIB_IPV6_UNICAST,
        (IpVersion::V6, true) => RIB_IPV6_UNICAST_ADDPATH,
    };
    let begin = header(taken, TABLE_DUMP_V2, subtype, out);
    out.extend(sequence.to_be_bytes());
    out.push(prefix.length());
    let octets = usize::from(prefix.length()).div_ceil(8);
    match prefix.address() {
        IpAddr::V4(address) => out.extend(address.octets().iter().take(octets)),
        IpAddr::V6(address) => out.extend(address.octets().iter().take(octets)),
    }
    let count_at = out.len();
    out.extend([0; 2]);
    let mut count: u16 = 0;
    for Told { peer, told, path_id, attributes } in routes.into_iter().take(u16::MAX.into()) {
        out.extend(peer.to_be_bytes());
        out.extend(seconds(told).to_be_bytes());
        if has_path_ids {
            out.extend(path_id.to_be_bytes());
        }
        let length_at = out.len();
        out.extend([0; 2]);
        wire::dump_attributes(family, attributes, out);
        // They have come in a message, which is no longer than that.
        let length = out.len().saturating_sub(length_at + 2).min(u16::MAX.into()) as u16;
        put(length_at, &length.to_be_bytes(), out);
        count += 1;
    }
    put(count_at, &count.to_be_bytes(), out);
    set_length(begin, out);
}

/// Appends one whole message of a session, header and all. RFC 6396 §4.4.2 and §4.4.3, RFC 8050 §3.
pub fn message(at: Duration, ends: &Ends, codec: &Codec, way: Way, message: &[u8], out: &mut Vec<u8>) {
    let has_ids = |family| match way {
        Way::Received => codec.receives_path_ids(family),
        Way::Sent => codec.sends_path_ids(family),
    };
    let has_ids = has_ids(IpVersion::V4) || has_ids(IpVersion::V6);
    // The subtype says how the message is to be read.
    let subtype = match (way, codec.four_octet_as(), has_ids) {
        (Way::Received, false, false) => MESSAGE,
        (Way::Received, true, false) => MESSAGE_AS4,
        (Way::Received, false, true) => MESSAGE_ADDPATH,
        (Way::Received, true, true) => MESSAGE_AS4_ADDPATH,
        (Way::Sent, false, false) => MESSAGE_LOCAL,
        (Way::Sent, true, false) => MESSAGE_AS4_LOCAL,
        (Way::Sent, false, true) => MESSAGE_LOCAL_ADDPATH,
        (Way::Sent, true, true) => MESSAGE_AS4_LOCAL_ADDPATH,
    };
    let begin = header(at, BGP4MP, subtype, out);
    for number in [ends.peer_as, ends.local_as] {
        match codec.four_octet_as() {
            true => out.extend(number.to_be_bytes()),
            false => out.extend(wire::two_octets(number).to_be_bytes()),
        }
    }
    // The interface, which is not known.
    out.extend([0; 2]);
    let afi: u16 = if ends.peer.is_ipv4() { 1 } else { 2 };
    out.extend(afi.to_be_bytes());
    push_address(ends.peer, out);
    // One family for both; a session of two cannot be.
    match (ends.peer, ends.local) {
        (IpAddr::V6(_), IpAddr::V4(local)) => push_address(local.to_ipv6_mapped().into(), out),
        (IpAddr::V4(_), IpAddr::V6(_)) => push_address(Ipv4Addr::UNSPECIFIED.into(), out),
        (_, local) => push_address(local, out),
    }
    out.extend(message);
    set_length(begin, out);
}

/// Gives where the record begins.
fn header(at: Duration, kind: u16, subtype: u16, out: &mut Vec<u8>) -> usize {
    out.extend(seconds(at).to_be_bytes());
    out.extend(kind.to_be_bytes());
    out.extend(subtype.to_be_bytes());
    out.extend([0; 4]);
    out.len()
}

fn set_length(begin: usize, out: &mut [u8]) {
    let length = out.len().saturating_sub(begin).min(u32::MAX as usize) as u32;
    put(begin.saturating_sub(4), &length.to_be_bytes(), out);
}

fn put(at: usize, octets: &[u8], out: &mut [u8]) {
    if let Some(place) = out.get_mut(at..at + octets.len()) {
        place.copy_from_slice(octets);
    }
}

/// Until 2106.
fn seconds(time: Duration) -> u32 {
    time.as_secs().min(u32::MAX.into()) as u32
}

fn push_address(address: IpAddr, out: &mut Vec<u8>) {
    match address {
        IpAddr::V4(address) => out.extend(address.octets()),
        IpAddr::V6(address) => out.extend(address.octets()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bgp::attribute::AsPath;
    use crate::bgp::message::{AddPath, Capabilities, Message, Open};

    use bgpkit_parser::models::{Bgp4MpEnum, MrtMessage, MrtRecord, TableDumpV2Message};
    use bgpkit_parser::parser::mrt::mrt_record::parse_mrt_record;

    const TAKEN: Duration = Duration::from_secs(0x6543_2100);

    fn peers() -> [Peer; 2] {
        let router_id = Ipv4Addr::new(192, 0, 2, 2);
        [
            Peer { router_id, address: router_id.into(), as_number: 65536 },
            Peer { router_id: Ipv4Addr::new(192, 0, 2, 3), address: "2001:db8::3".parse().unwrap(), as_number: 65001 },
        ]
    }

    fn attributes(next_hop: &str) -> Attributes {
        let mut attributes = Attributes::local(next_hop.parse().unwrap());
        attributes.as_path = AsPath::sequence(vec![65536]);
        attributes
    }

    fn records(has_path_ids: bool) -> Vec<Vec<u8>> {
        let (first, second) = (attributes("192.0.2.2"), attributes("2001:db8::3"));
        let told = |peer, attributes| Told { peer, told: Duration::from_secs(7), path_id: 9, attributes };
        let prefixes = [
            (Cidr::parse("198.51.100.0/22").unwrap(), vec![told(0, &first), told(1, &second)]),
            (Cidr::parse("2001:db8:100::/40").unwrap(), vec![told(1, &second)]),
        ];
        let mut records = Vec::new();
        let mut each = |record: &[u8]| records.push(record.to_vec());
        table(TAKEN, Ipv4Addr::new(192, 0, 2, 1), &peers(), prefixes, has_path_ids, &mut each);
        records
    }

    #[test]
    fn a_table_is_written_octet_by_octet() {
        let expected: &[&[u8]] = &[
            &[0x65, 0x43, 0x21, 0, 0, 13, 0, 1, 0, 0, 0, 46],
            &[192, 0, 2, 1, 0, 0, 0, 2],
            &[2, 192, 0, 2, 2, 192, 0, 2, 2, 0, 1, 0, 0],
            &[3, 192, 0, 2, 3, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0xfd, 0xe9],
        ];
        let records = records(false);
        assert_eq!(records[0], expected.concat());
        let expected: &[&[u8]] = &[
            &[0x65, 0x43, 0x21, 0, 0, 13, 0, 2, 0, 0, 0, 79],
            &[0, 0, 0, 0, 22, 198, 51, 100, 0, 2],
            &[0, 0, 0, 0, 0, 7, 0, 20],
            &[0x40, 1, 1, 0, 0x40, 2, 6, 2, 1, 0, 1, 0, 0, 0x40, 3, 4, 192, 0, 2, 2],
            &[0, 1, 0, 0, 0, 7, 0, 33],
            &[0x80, 14, 17, 16, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3],
            &[0x40, 1, 1, 0, 0x40, 2, 6, 2, 1, 0, 1, 0, 0],
        ];
        assert_eq!(records[1], expected.concat());
        assert_eq!(records[2][6..8], [0, 4]);
        assert_eq!(records[2][12..23], [0, 0, 0, 1, 40, 0x20, 1, 0xd, 0xb8, 1, 0]);
    }

    fn read(record: &[u8]) -> MrtRecord {
        parse_mrt_record(&mut &record[..]).unwrap_or_else(|error| panic!("{error:?}"))
    }

    #[test]
    fn a_table_is_read_by_somebody_else() {
        for has_path_ids in [false, true] {
            let records = records(has_path_ids);
            let MrtMessage::TableDumpV2Message(TableDumpV2Message::PeerIndexTable(found)) = read(&records[0]).message
            else {
                panic!("the peers")
            };
            assert_eq!(found.id_peer_map.len(), 2);
            assert_eq!(found.id_peer_map[&1].peer_ip, peers()[1].address);
            assert_eq!(found.id_peer_map[&0].peer_asn.to_u32(), 65536);
            for (record, prefix, count) in [(&records[1], "198.51.100.0/22", 2), (&records[2], "2001:db8:100::/40", 1)]
            {
                let MrtMessage::TableDumpV2Message(TableDumpV2Message::RibAfi(found)) = read(record).message else {
                    panic!("a prefix")
                };
                assert_eq!(found.prefix.to_string(), prefix);
                assert_eq!(found.rib_entries.len(), count);
                for entry in &found.rib_entries {
                    let path = entry.attributes.as_path().unwrap().to_string();
                    assert_eq!((path.as_str(), entry.originated_time), ("65536", 7));
                    assert_eq!(entry.path_id, has_path_ids.then_some(9));
                    let expected = if entry.peer_index == 0 { "192.0.2.2" } else { "2001:db8::3" };
                    let multiprotocol = entry.attributes.get_reachable_nlri().map(|nlri| nlri.next_hop.unwrap().addr());
                    assert_eq!(entry.attributes.next_hop().or(multiprotocol), Some(expected.parse().unwrap()));
                }
            }
        }
    }

    fn codec(four_octet_as: bool, has_ids: bool) -> Codec {
        let add_path = AddPath { family: IpVersion::V4, send: true, receive: true };
        let open = Open {
            as_number: 65001,
            hold_time: Duration::ZERO,
            router_id: Ipv4Addr::LOCALHOST,
            capabilities: Capabilities {
                four_octet_as,
                add_path: if has_ids { vec![add_path] } else { Vec::new() },
                ..Capabilities::default()
            },
        };
        Codec::agreed(&open, &open, true)
    }

    #[test]
    fn a_message_is_written_octet_by_octet() {
        let ends = Ends {
            peer_as: 65536,
            local_as: 65001,
            peer: Ipv4Addr::new(192, 0, 2, 2).into(),
            local: Ipv4Addr::new(192, 0, 2, 1).into(),
        };
        let keepalive = [&[0xff; 16][..], &[0, 19, 4]].concat();
        let check = |codec: Codec, way: Way, subtype: u8, numbers: &[u8]| {
            let mut found = Vec::new();
            message(TAKEN, &ends, &codec, way, &keepalive, &mut found);
            let length = 12 + numbers.len() as u8 + 19;
            let front: &[u8] = &[0x65, 0x43, 0x21, 0, 0, 16, 0, subtype, 0, 0, 0, length];
            let expected = [front, numbers, &[0, 0, 0, 1, 192, 0, 2, 2, 192, 0, 2, 1], &keepalive].concat();
            assert_eq!(found, expected);
            let MrtMessage::Bgp4Mp(Bgp4MpEnum::Message(read)) = read(&found).message else { panic!("a message") };
            assert_eq!(read.peer_ip, ends.peer);
            assert_eq!(codec.decode(&keepalive), Ok(Message::Keepalive));
        };
        let (short, long): (&[u8], &[u8]) = (&[0x5b, 0xa0, 0xfd, 0xe9], &[0, 1, 0, 0, 0, 0, 0xfd, 0xe9]);
        check(codec(false, false), Way::Received, 1, short);
        check(codec(true, false), Way::Received, 4, long);
        check(codec(false, false), Way::Sent, 6, short);
        check(codec(true, false), Way::Sent, 7, long);
        check(codec(false, true), Way::Received, 8, short);
        check(codec(true, true), Way::Received, 9, long);
        check(codec(false, true), Way::Sent, 10, short);
        check(codec(true, true), Way::Sent, 11, long);
    }
}
