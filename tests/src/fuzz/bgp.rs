//! Fuzz targets: what a BGP peer sends.
//!
//! | target | input | promise |
//! |---|---|---|
//! | `bgp_open` | the body of an OPEN | what is read means the same when it is written and read again |
//! | `bgp_update` | what was agreed on (1 octet), the body of an UPDATE | so does this; and every prefix of the message is reachable, withdrawn, or of no use |
//! | `bgp_message` | what was agreed on, then what comes over the connection | messages end where they say; a refusal has a name that can be shown |
//!
//! Headers are made right, or nothing else would be looked at; `bgp_message` leaves them as they are when the input says so.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use config::net::{Cidr, IpVersion};
use control::bgp::attribute::{Attributes, SegmentKind};
use control::bgp::message::{
    AddPath, Capabilities, GracefulRestart, LongLived, Message, Nlri, Notification, Open, Outcome, Role, Update,
};
use control::bgp::wire::{Codec, describe};

use super::{Seen, Target};
use crate::bgp_cases;

/// Pieces of messages: flags and code of attributes, families, capabilities.
const TOKENS: &[&str] = &[
    "@\u{1}\u{1}\0",
    "@\u{2}\u{6}\u{2}\u{1}\0\0\u{1}\0",
    "@\u{3}\u{4}\n\0\0\u{1}",
    "\0\u{1}\u{1}",
    "\0\u{2}\u{1}",
    "\u{2}\u{6}A\u{4}\0\0\u{1}\0",
    "\u{1}\u{4}\0\u{2}\0\u{1}",
    "E\u{4}\0\u{1}\u{1}\u{3}",
    "@\u{6}\0x\0\u{1}\u{1}\0",
    "\u{18}\n\0\0",
];

pub const OPEN: Target =
    Target { name: "bgp_open", run: open, seeds: open_seeds, tokens: TOKENS, longest: 600, rounds: 30_000 };

pub const UPDATE: Target =
    Target { name: "bgp_update", run: update, seeds: update_seeds, tokens: TOKENS, longest: 1500, rounds: 30_000 };

pub const MESSAGE: Target =
    Target { name: "bgp_message", run: message, seeds: message_seeds, tokens: TOKENS, longest: 3000, rounds: 30_000 };

fn an_open(capabilities: Capabilities) -> Open {
    Open { as_number: 64512, hold_time: Duration::from_secs(90), router_id: Ipv4Addr::new(192, 0, 2, 1), capabilities }
}

/// Every bit of the octet is something that was agreed on.
fn agreed(bits: u8) -> (Codec, Agreed) {
    let has = |bit: u8| bits & 1 << bit != 0;
    let families = match (has(0), has(1)) {
        (false, _) => vec![IpVersion::V4, IpVersion::V6],
        (true, false) => vec![IpVersion::V4],
        (true, true) => vec![IpVersion::V6],
    };
    let add_path = |family| AddPath { family, send: true, receive: true };
    let capabilities = Capabilities {
        add_path: if has(2) { families.iter().copied().map(add_path).collect() } else { Vec::new() },
        families: families.clone(),
        four_octet_as: !has(3),
        extended_message: has(4),
        extended_next_hop: has(5),
        enhanced_refresh: has(6),
        ..Capabilities::default()
    };
    let open = an_open(capabilities);
    (Codec::agreed(&open, &open, has(7)), Agreed { families, has_ids: has(2), two_octets: has(3) })
}

struct Agreed {
    families: Vec<IpVersion>,
    has_ids: bool,
    two_octets: bool,
}

fn told(notification: &Notification) -> (u8, u8) {
    let text = describe(notification);
    assert!(!text.chars().any(char::is_control), "shown as it came: {text:?}");
    (notification.code, notification.subcode)
}

fn open(input: &[u8]) -> Seen {
    let codec = Codec::new();
    let bytes = bgp_cases::message(1, input);
    let open = match codec.decode(&bytes) {
        Err(notification) => return Seen::refused(told(&notification)),
        Ok(Message::Open(open)) => open,
        Ok(other) => panic!("read as {other:?}"),
    };
    assert!(open.as_number != 0 && !open.router_id.is_unspecified());
    let mut again = Vec::new();
    codec.encode(&Message::Open(open.clone()), &mut again);
    // What a capability that we do not know said is gone.
    let expected = Open { capabilities: Capabilities { others: Vec::new(), ..open.capabilities.clone() }, ..open };
    assert_eq!(codec.decode(&again), Ok(Message::Open(expected)));
    let Capabilities { families, graceful_restart, long_lived, add_path, role, others, .. } = open.capabilities;
    Seen::accepted((families, graceful_restart.is_some(), long_lived.len(), add_path.len(), role, others.len().min(4)))
}

fn open_seeds() -> Vec<Vec<u8>> {
    let families = vec![IpVersion::V4, IpVersion::V6];
    let all = Capabilities {
        add_path: families.iter().map(|&family| AddPath { family, send: true, receive: true }).collect(),
        long_lived: vec![LongLived { family: IpVersion::V6, forwarding: true, stale_time: Duration::from_secs(3600) }],
        graceful_restart: Some(GracefulRestart {
            restarting: true,
            notification: true,
            restart_time: Duration::from_secs(120),
            families: families.iter().map(|&family| (family, true)).collect(),
        }),
        families,
        route_refresh: true,
        enhanced_refresh: true,
        four_octet_as: true,
        extended_message: true,
        extended_next_hop: true,
        role: Some(Role::Customer),
        others: Vec::new(),
    };
    let body = |capabilities| {
        let mut bytes = Vec::new();
        Codec::new().encode(&Message::Open(an_open(capabilities)), &mut bytes);
        bytes.split_off(19)
    };
    let plain = body(Capabilities::default());
    let full = body(all);
    // The same capabilities, with lengths of two octets (RFC 9072), and an unknown one with a lot to say.
    let [front @ .., _, _, _] = &full[..13] else { panic!("the fixed part of an OPEN") };
    let value = [&full[12..], &[0x49, 250][..], &[7; 250]].concat();
    let length = value.len() as u16;
    let extended =
        [&front[..9], &[255, 255], &(length + 3).to_be_bytes(), &[2], &length.to_be_bytes(), &value].concat();
    vec![plain, full, extended]
}

fn update(input: &[u8]) -> Seen {
    let [bits, body @ ..] = input else { return Seen::refused(0) };
    let (codec, agreed) = agreed(*bits);
    let bytes = bgp_cases::message(2, body);
    let update = match codec.decode(&bytes) {
        Err(notification) => return Seen::refused(told(&notification)),
        Ok(Message::Update(update)) => update,
        Ok(other) => panic!("read as {other:?}"),
    };
    check_prefixes(&agreed, body, &update);
    for reachable in &update.reachable {
        check_attributes(&reachable.attributes);
        assert!(!reachable.nlri.is_empty());
        let family = reachable.nlri[0].prefix.version();
        assert!(reachable.nlri.iter().all(|nlri| nlri.prefix.version() == family), "two families in one");
    }
    let is_withdrawn = update.faults.iter().any(|fault| fault.outcome == Outcome::TreatAsWithdraw);
    assert!(!is_withdrawn || update.reachable.is_empty(), "taken and withdrawn: {:?}", update.faults);
    if let Some(family) = update.end_of_rib {
        assert_eq!(update, Update { end_of_rib: Some(family), ..Update::default() });
    }
    check_again(&codec, &agreed, &update);
    let codes: Vec<_> = update.faults.iter().map(|fault| (fault.attribute, fault.outcome as u8)).collect();
    let sizes = (update.withdrawn.len().min(3), update.reachable.len(), update.end_of_rib);
    if update.reachable.is_empty() && update.withdrawn.is_empty() {
        return Seen::refused((codes, sizes));
    }
    Seen::accepted((codes, sizes))
}

fn check_attributes(attributes: &Attributes) {
    let Attributes { communities, extended_communities, large_communities, others, as_path, .. } = attributes;
    assert!(communities.is_sorted_by(|a, b| a < b) && extended_communities.is_sorted_by(|a, b| a < b));
    assert!(large_communities.is_sorted_by(|a, b| a < b) && others.is_sorted_by(|a, b| a.code < b.code));
    assert!(as_path.segments.iter().all(|segment| !segment.numbers.is_empty()), "{as_path:?}");
    assert!(as_path.numbers().all(|number| number != 0));
}

/// Every prefix of a family that was agreed on, and that a route can lead to, is in one of the two.
fn check_prefixes(agreed: &Agreed, body: &[u8], update: &Update) {
    let mut expected = Vec::new();
    let (withdrawn, rest) = section(body);
    let (attributes, reachable) = section(rest);
    prefixes(agreed, IpVersion::V4, withdrawn, &mut expected);
    prefixes(agreed, IpVersion::V4, reachable, &mut expected);
    let mut rest = attributes;
    while let [flags, code, length @ ..] = rest {
        let (octets, value) = match (flags & 0x10, length) {
            (0, [short, value @ ..]) => (usize::from(*short), value),
            (0x10, [high, low, value @ ..]) => (usize::from(u16::from_be_bytes([*high, *low])), value),
            _ => break,
        };
        if octets > value.len() {
            break;
        }
        let (value, next) = value.split_at(octets);
        let family = match value {
            [0, 1, 1, ..] => Some(IpVersion::V4),
            [0, 2, 1, ..] => Some(IpVersion::V6),
            _ => None,
        };
        match (code, family) {
            (14, Some(family)) => prefixes(agreed, family, &value[5 + usize::from(value[3])..], &mut expected),
            (15, Some(family)) => prefixes(agreed, family, &value[3..], &mut expected),
            _ => (),
        }
        rest = next;
    }
    let told = update.reachable.iter().flat_map(|reachable| &reachable.nlri);
    let mut found: Vec<Nlri> = update.withdrawn.iter().chain(told).copied().collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}

fn section(bytes: &[u8]) -> (&[u8], &[u8]) {
    let length = usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
    bytes[2..].split_at(length)
}

/// The slow and obvious way: bit by bit.
fn prefixes(agreed: &Agreed, family: IpVersion, mut field: &[u8], out: &mut Vec<Nlri>) {
    if !agreed.families.contains(&family) {
        return;
    }
    while !field.is_empty() {
        let mut path_id = 0;
        if agreed.has_ids {
            path_id = u32::from_be_bytes([field[0], field[1], field[2], field[3]]);
            field = &field[4..];
        }
        let length = field[0];
        let octets = usize::from(length).div_ceil(8);
        let mut address = [0u8; 16];
        for bit in 0..usize::from(length) {
            address[bit / 8] |= field[1 + bit / 8] & 0x80 >> (bit % 8);
        }
        field = &field[1 + octets..];
        let address: IpAddr = match family {
            IpVersion::V4 => <[u8; 4]>::try_from(&address[..4]).unwrap().into(),
            IpVersion::V6 => address.into(),
        };
        let prefix = Cidr::new(address, length).unwrap();
        let nowhere = ["224.0.0.0/4", "127.0.0.0/8", "0.0.0.0/32", "ff00::/8", "fe80::/10", "::/128", "::1/128"];
        let nowhere = nowhere.map(|text| Cidr::parse(text).unwrap());
        if !nowhere.iter().any(|nowhere| nowhere.contains(address) && length >= nowhere.length()) {
            out.push(Nlri { prefix, path_id });
        }
    }
}

fn check_again(codec: &Codec, agreed: &Agreed, update: &Update) {
    // With numbers of two octets a path through a confederation cannot be put together again.
    let is_lossy = |attributes: &Attributes| {
        let in_confederation =
            |kind| matches!(kind, SegmentKind::ConfederationSequence | SegmentKind::ConfederationSet);
        agreed.two_octets && attributes.as_path.segments.iter().any(|segment| in_confederation(segment.kind))
    };
    if update.reachable.iter().any(|reachable| is_lossy(&reachable.attributes)) {
        return;
    }
    let mut bytes = Vec::new();
    codec.encode(&Message::Update(update.clone()), &mut bytes);
    let mut again = Update::default();
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let length = codec.frame(rest).unwrap().expect("a whole message");
        let Ok(Message::Update(one)) = codec.decode(&rest[..length]) else { panic!("an UPDATE") };
        again.withdrawn.extend(one.withdrawn);
        again.reachable.extend(one.reachable);
        again.faults.extend(one.faults);
        again.end_of_rib = again.end_of_rib.or(one.end_of_rib);
        rest = &rest[length..];
    }
    assert_eq!(again.faults, [], "what we write is wrong");
    assert_eq!(again.end_of_rib, update.end_of_rib);
    assert_eq!(flat(&again), flat(update));
}

/// Prefixes and what is said of them, in an order of their own.
fn flat(update: &Update) -> (Vec<Nlri>, Vec<(Nlri, &Attributes)>) {
    let mut withdrawn = update.withdrawn.clone();
    withdrawn.sort();
    let each = update.reachable.iter().flat_map(|one| one.nlri.iter().map(|nlri| (*nlri, &*one.attributes)));
    let mut reachable: Vec<_> = each.collect();
    reachable.sort_by_key(|(nlri, _)| *nlri);
    (withdrawn, reachable)
}

fn update_seeds() -> Vec<Vec<u8>> {
    let body = |case: bgp_cases::Case| {
        let bgp_cases::Session { two_octet_as, extended_next_hop, path_ids, ipv4_only } = case.session;
        let bits = u8::from(ipv4_only)
            | u8::from(path_ids) << 2
            | u8::from(two_octet_as) << 3
            | u8::from(extended_next_hop) << 5
            | 0x80;
        [&[bits][..], &case.message()[19..]].concat()
    };
    bgp_cases::cases().into_iter().map(body).collect()
}

fn message(input: &[u8]) -> Seen {
    let [bits, repair, stream @ ..] = input else { return Seen::refused(0) };
    let (codec, _) = agreed(*bits);
    let mut stream = stream.to_vec();
    let mut kinds = Vec::new();
    let mut rest = &mut stream[..];
    loop {
        // Once in four inputs everything stays as it is.
        if repair & 3 != 0 {
            let count = rest.len().min(16);
            rest[..count].fill(0xff);
        }
        let length = match codec.frame(rest) {
            Err(notification) => return Seen::refused((kinds, told(&notification))),
            Ok(None) => break,
            Ok(Some(length)) => length,
        };
        assert!((19..=rest.len()).contains(&length), "a message of {length} octets in {}", rest.len());
        // Nothing that comes later changes what was found, and nothing less is enough.
        assert_eq!(codec.frame(&rest[..length]), Ok(Some(length)));
        assert_eq!(codec.frame(&rest[..length - 1]), Ok(None));
        let (one, next) = rest.split_at_mut(length);
        match codec.decode(one) {
            Err(notification) => return Seen::refused((kinds, told(&notification))),
            Ok(Message::Update(_) | Message::Open(_)) => (),
            Ok(other) => {
                if let Message::Notification(notification) = &other {
                    told(notification);
                }
                let mut again = Vec::new();
                codec.encode(&other, &mut again);
                assert_eq!(codec.decode(&again), Ok(other));
            }
        }
        kinds.push(one[18]);
        rest = next;
    }
    if kinds.is_empty() { Seen::refused(1) } else { Seen::accepted(kinds) }
}

fn message_seeds() -> Vec<Vec<u8>> {
    let messages = [
        bgp_cases::message(1, &open_seeds()[1]),
        bgp_cases::message(4, &[]),
        bgp_cases::message(2, &update_seeds()[0][1..]),
        bgp_cases::message(5, &[0, 2, 0, 1]),
        bgp_cases::message(3, b"\x06\x02\x05later"),
        bgp_cases::message(3, &[6, 9, 6, 1, 0, 1, 1, 0, 0, 0, 9]),
    ];
    let alone = messages.iter().map(|message| [&[0, 1][..], message].concat());
    let together = [&[0x40, 0][..], &messages.concat()].concat();
    alone.chain([together]).collect()
}
