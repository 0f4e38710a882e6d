//! What a monitoring station is told, in BMP: who we are, which sessions come and go, every route as a peer has told it before
//! any rule is asked, and counts.
//!
//! ```text
//!     version 1 | length 4 | type 1 | peer: 42 octets (not in initiation and termination) | body
//!     peer: type 1 | flags 1 | distinguisher 8 | address 16 | AS 4 | router id 4 | seconds 4 | microseconds 4
//! ```
//!
//! Encoders only. `station` knows when there is a connection; `speaker::monitor` what is told on it, and what happens when the
//! station is slow.
//!
//! Left out: mirrored messages, what is left after rules (RFC 7854 §5, L set), what is sent (RFC 8671), the best routes (RFC 9069).
//!
//! Sources: RFC 7854 §4.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use config::net::IpVersion;

use super::message::{Message, Notification, Open};
use super::wire::{Codec, afi_and_safi};

pub mod station;

const VERSION: u8 = 3;

const ROUTE_MONITORING: u8 = 0;
const STATISTICS: u8 = 1;
const PEER_DOWN: u8 = 2;
const PEER_UP: u8 = 3;
const INITIATION: u8 = 4;
const TERMINATION: u8 = 5;

/// Octets before the body.
const COMMON_HEADER: usize = 6;

/// Whose routes a message is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    pub address: IpAddr,
    pub as_number: u32,
    pub router_id: Ipv4Addr,
    /// AS numbers of four octets were agreed on.
    pub four_octet_as: bool,
}

/// Why a session is down. RFC 7854 §4.9.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Down {
    /// We have said so.
    Told(Notification),
    /// We have closed it without a word; the number of the event of RFC 4271 §8.1, or 0.
    Closed(u16),
    /// The peer has said so.
    Heard(Notification),
    /// The connection was lost.
    Lost,
    /// It is not told of any more.
    NotMonitored,
}

/// Counts of one peer. RFC 7854 §4.8. Those that only grow have four octets on the wire and begin anew after the last.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counts {
    pub rejected_by_rules: u64,
    /// Of routes that the peer had not told.
    pub duplicate_withdraws: u64,
    pub cluster_loops: u64,
    pub path_loops: u64,
    pub originator_loops: u64,
    pub updates_treated_as_withdraw: u64,
    /// Routes that are there now, by family, before rules and after them.
    pub received: Vec<(IpVersion, u64)>,
    pub accepted: Vec<(IpVersion, u64)>,
}

/// Why the connection to the station ends. RFC 7854 §4.5.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Administrative = 0,
    Unspecified = 1,
    OutOfResources = 2,
    Redundant = 3,
}

/// The first message: the name of this node, and what it runs. RFC 7854 §4.3.
pub fn initiation(name: &str, description: &str, out: &mut Vec<u8>) {
    const DESCRIPTION: u16 = 1;
    const NAME: u16 = 2;
    let begin = begin(INITIATION, out);
    push_tlv(DESCRIPTION, description.as_bytes(), out);
    push_tlv(NAME, name.as_bytes(), out);
    set_length(begin, out);
}

/// The last message. RFC 7854 §4.5.
pub fn termination(end: End, text: &str, out: &mut Vec<u8>) {
    const TEXT: u16 = 0;
    const REASON: u16 = 1;
    let begin = begin(TERMINATION, out);
    if !text.is_empty() {
        push_tlv(TEXT, text.as_bytes(), out);
    }
    push_tlv(REASON, &(end as u16).to_be_bytes(), out);
    set_length(begin, out);
}

/// A session is up: its local end, and the OPENs that were exchanged. RFC 7854 §4.10.
pub fn peer_up(
    peer: &Peer,
    at: Duration,
    (local, local_port): (IpAddr, u16),
    remote_port: u16,
    (sent, received): (&Open, &Open),
    out: &mut Vec<u8>,
) {
    let begin = begin_of_peer(PEER_UP, peer, at, out);
    push_address(local, out);
    out.extend(local_port.to_be_bytes());
    out.extend(remote_port.to_be_bytes());
    let codec = Codec::new();
    for open in [sent, received] {
        codec.encode(&Message::Open(open.clone()), out);
    }
    set_length(begin, out);
}

/// A session is down. RFC 7854 §4.9.
pub fn peer_down(peer: &Peer, at: Duration, down: &Down, out: &mut Vec<u8>) {
    let begin = begin_of_peer(PEER_DOWN, peer, at, out);
    let notification = |notification: &Notification, out: &mut Vec<u8>| {
        Codec::new().encode(&Message::Notification(notification.clone()), out);
    };
    match down {
        Down::Told(said) => {
            out.push(1);
            notification(said, out);
        }
        Down::Closed(event) => {
            out.push(2);
            out.extend(event.to_be_bytes());
        }
        Down::Heard(said) => {
            out.push(3);
            notification(said, out);
        }
        Down::Lost => out.push(4),
        Down::NotMonitored => out.push(5),
    }
    set_length(begin, out);
}

/// Routes of a peer, before rules: one whole UPDATE, as it came or as `Codec::reach` and `withdraw` write it in the way that
/// was agreed on with the peer. RFC 7854 §4.6.
pub fn route_monitoring(peer: &Peer, at: Duration, update: &[u8], out: &mut Vec<u8>) {
    let begin = begin_of_peer(ROUTE_MONITORING, peer, at, out);
    out.extend(update);
    set_length(begin, out);
}

/// Counts of a peer. RFC 7854 §4.8.
pub fn statistics(peer: &Peer, at: Duration, counts: &Counts, out: &mut Vec<u8>) {
    const RECEIVED: u16 = 7;
    const ACCEPTED: u16 = 8;
    const RECEIVED_OF_FAMILY: u16 = 9;
    const ACCEPTED_OF_FAMILY: u16 = 10;
    let begin = begin_of_peer(STATISTICS, peer, at, out);
    let count_at = out.len();
    out.extend([0; 4]);
    let mut count: u32 = 0;
    let counters = [
        (0, counts.rejected_by_rules),
        (2, counts.duplicate_withdraws),
        (3, counts.cluster_loops),
        (4, counts.path_loops),
        (5, counts.originator_loops),
        (11, counts.updates_treated_as_withdraw),
    ];
    for (kind, value) in counters {
        push_tlv(kind, &(value as u32).to_be_bytes(), out);
        count += 1;
    }
    let gauges = [(RECEIVED, RECEIVED_OF_FAMILY, &counts.received), (ACCEPTED, ACCEPTED_OF_FAMILY, &counts.accepted)];
    for (all, of_family, families) in gauges {
        let sum = families.iter().fold(0u64, |sum, (_, value)| sum.saturating_add(*value));
        push_tlv(all, &sum.to_be_bytes(), out);
        count += 1;
        for (family, value) in families {
            let (afi, safi) = afi_and_safi(*family);
            let mut octets = afi.to_be_bytes().to_vec();
            octets.push(safi);
            octets.extend(value.to_be_bytes());
            push_tlv(of_family, &octets, out);
            count += 1;
        }
    }
    put(count_at, &count.to_be_bytes(), out);
    set_length(begin, out);
}

/// The common header, RFC 7854 §4.1; gives where it begins.
fn begin(kind: u8, out: &mut Vec<u8>) -> usize {
    let begin = out.len();
    out.extend([VERSION, 0, 0, 0, 0, kind]);
    debug_assert_eq!(out.len() - begin, COMMON_HEADER, "version, length, type");
    begin
}

/// The header of a peer as well, RFC 7854 §4.2. `at`: since 1970; when it was learned.
fn begin_of_peer(kind: u8, peer: &Peer, at: Duration, out: &mut Vec<u8>) -> usize {
    const GLOBAL_INSTANCE: u8 = 0;
    const IS_IPV6: u8 = 0x80;
    const TWO_OCTET_PATHS: u8 = 0x20;
    let begin = begin(kind, out);
    let mut flags = 0;
    if peer.address.is_ipv6() {
        flags |= IS_IPV6;
    }
    if !peer.four_octet_as {
        flags |= TWO_OCTET_PATHS;
    }
    out.extend([GLOBAL_INSTANCE, flags]);
    // No distinguisher: there is one instance.
    out.extend([0; 8]);
    push_address(peer.address, out);
    out.extend(peer.as_number.to_be_bytes());
    out.extend(peer.router_id.octets());
    out.extend((at.as_secs().min(u32::MAX.into()) as u32).to_be_bytes());
    out.extend(at.subsec_micros().to_be_bytes());
    begin
}

/// Type and length of two octets; what is longer than that can say is cut off.
fn push_tlv(kind: u16, value: &[u8], out: &mut Vec<u8>) {
    let value = value.get(..u16::MAX.into()).unwrap_or(value);
    out.extend(kind.to_be_bytes());
    out.extend((value.len() as u16).to_be_bytes());
    out.extend(value);
}

/// 16 octets; an IPv4 address in the last four. RFC 7854 §4.2.
fn push_address(address: IpAddr, out: &mut Vec<u8>) {
    match address {
        IpAddr::V4(address) => {
            out.extend([0; 12]);
            out.extend(address.octets());
        }
        IpAddr::V6(address) => out.extend(address.octets()),
    }
}

fn set_length(begin: usize, out: &mut [u8]) {
    let length = out.len().saturating_sub(begin).min(u32::MAX as usize) as u32;
    put(begin + 1, &length.to_be_bytes(), out);
}

fn put(at: usize, octets: &[u8], out: &mut [u8]) {
    if let Some(place) = out.get_mut(at..at + octets.len()) {
        place.copy_from_slice(octets);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bgp::message::Capabilities;

    use bgpkit_parser::parser::bmp::messages::{BmpMessage, BmpMessageBody, PeerDownReason};
    use bgpkit_parser::parser::bmp::parse_bmp_msg;

    const AT: Duration = Duration::new(0x6543_2100, 7_000);

    fn peer() -> Peer {
        Peer {
            address: Ipv4Addr::new(192, 0, 2, 2).into(),
            as_number: 65001,
            router_id: Ipv4Addr::new(192, 0, 2, 9),
            four_octet_as: true,
        }
    }

    /// The header of that peer.
    const PEER: [u8; 42] = [
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 192, 0, 2, 2, 0, 0, 0xfd, 0xe9, 192, 0, 2, 9,
        0x65, 0x43, 0x21, 0, 0, 0, 0, 7,
    ];

    fn open() -> Open {
        let capabilities = Capabilities { four_octet_as: true, ..Capabilities::default() };
        let hold_time = Duration::from_secs(90);
        Open { as_number: 65001, hold_time, router_id: Ipv4Addr::new(192, 0, 2, 9), capabilities }
    }

    /// Header, and what is behind it; and that somebody else can read it.
    fn check(found: Vec<u8>, kind: u8, parts: &[&[u8]]) -> BmpMessage {
        let body = parts.concat();
        let length = (body.len() + COMMON_HEADER) as u32;
        let expected = [&[3][..], &length.to_be_bytes(), &[kind], &body].concat();
        assert_eq!(found, expected);
        parse_bmp_msg(&mut found.into()).unwrap_or_else(|error| panic!("{error:?}"))
    }

    fn written(write: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out);
        out
    }

    #[test]
    fn the_first_and_the_last() {
        let read = check(
            written(|out| initiation("node-1", "vrouter", out)),
            4,
            &[&[0, 1, 0, 7], b"vrouter", &[0, 2, 0, 6], b"node-1"],
        );
        assert!(matches!(read.message_body, BmpMessageBody::InitiationMessage(_)));
        let read = check(
            written(|out| termination(End::OutOfResources, "bye", out)),
            5,
            &[&[0, 0, 0, 3], b"bye", &[0, 1, 0, 2, 0, 2]],
        );
        assert!(matches!(read.message_body, BmpMessageBody::TerminationMessage(_)));
    }

    #[test]
    fn a_session_comes_up() {
        let local = (Ipv4Addr::new(192, 0, 2, 1).into(), 179);
        let bytes = written(|out| Codec::new().encode(&Message::Open(open()), out));
        let read = check(
            written(|out| peer_up(&peer(), AT, local, 40000, (&open(), &open()), out)),
            3,
            &[&PEER, &[0; 12], &[192, 0, 2, 1, 0, 179, 0x9c, 0x40], &bytes, &bytes],
        );
        let header = read.per_peer_header.unwrap();
        assert_eq!((header.peer_ip, header.peer_asn.to_u32()), (peer().address, 65001));
        let BmpMessageBody::PeerUpNotification(up) = read.message_body else { panic!("a session") };
        assert_eq!((up.local_addr, up.local_port, up.remote_port), (local.0, 179, 40000));
    }

    #[test]
    fn a_session_goes_down() {
        let said = Notification::new(6, 2);
        let bytes = written(|out| Codec::new().encode(&Message::Notification(said.clone()), out));
        let check = |down: &Down, parts: &[&[u8]], reason: fn(&PeerDownReason) -> bool| {
            let parts = [&[&PEER[..]], parts].concat();
            let read = check(written(|out| peer_down(&peer(), AT, down, out)), 2, &parts);
            let BmpMessageBody::PeerDownNotification(found) = read.message_body else { panic!("a session") };
            assert!(reason(&found.reason), "{:?}", found.reason);
        };
        use PeerDownReason as Reason;
        check(&Down::Told(said.clone()), &[&[1], &bytes], |reason| {
            matches!(reason, Reason::LocalSystemClosedNotificationPduFollows)
        });
        check(&Down::Closed(10), &[&[2, 0, 10]], |reason| matches!(reason, Reason::LocalSystemClosedFsmEvenFollows));
        check(&Down::Heard(said.clone()), &[&[3], &bytes], |reason| {
            matches!(reason, Reason::RemoteSystemClosedNotificationPduFollows)
        });
        check(&Down::Lost, &[&[4]], |reason| matches!(reason, Reason::RemoteSystemsClosedNoData));
        check(&Down::NotMonitored, &[&[5]], |reason| matches!(reason, Reason::PeerDeConfigured));
    }

    #[test]
    fn a_peer_has_flags() {
        let check = |peer: Peer, expected: u8| {
            let found = written(|out| peer_down(&peer, AT, &Down::Lost, out));
            assert_eq!(found[COMMON_HEADER + 1], expected);
        };
        check(peer(), 0);
        check(Peer { four_octet_as: false, ..peer() }, 0x20);
        check(Peer { address: "2001:db8::2".parse().unwrap(), ..peer() }, 0x80);
    }

    #[test]
    fn routes_are_told_as_they_came() {
        let update = written(|out| Codec::new().end_of_rib(IpVersion::V4, out));
        let read = check(written(|out| route_monitoring(&peer(), AT, &update, out)), 0, &[&PEER, &update]);
        assert!(matches!(read.message_body, BmpMessageBody::RouteMonitoring(_)));
    }

    #[test]
    fn counts_are_told() {
        let counts = Counts {
            rejected_by_rules: 1,
            path_loops: 5,
            updates_treated_as_withdraw: 0x1_0000_0002,
            received: vec![(IpVersion::V4, 300), (IpVersion::V6, 2)],
            accepted: vec![(IpVersion::V4, 100)],
            ..Counts::default()
        };
        let read = check(
            written(|out| statistics(&peer(), AT, &counts, out)),
            1,
            &[
                &PEER,
                &[0, 0, 0, 11],
                &[0, 0, 0, 4, 0, 0, 0, 1, 0, 2, 0, 4, 0, 0, 0, 0],
                &[0, 3, 0, 4, 0, 0, 0, 0, 0, 4, 0, 4, 0, 0, 0, 5, 0, 5, 0, 4, 0, 0, 0, 0],
                &[0, 11, 0, 4, 0, 0, 0, 2],
                &[0, 7, 0, 8, 0, 0, 0, 0, 0, 0, 1, 46],
                &[0, 9, 0, 11, 0, 1, 1, 0, 0, 0, 0, 0, 0, 1, 44],
                &[0, 9, 0, 11, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 2],
                &[0, 8, 0, 8, 0, 0, 0, 0, 0, 0, 0, 100],
                &[0, 10, 0, 11, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 100],
            ],
        );
        let BmpMessageBody::StatsReport(found) = read.message_body else { panic!("counts") };
        assert_eq!(found.counters.len(), 11);
    }
}
