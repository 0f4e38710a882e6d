//! Any message, written and read again, in every way that can be agreed on.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use config::net::Cidr;
use proptest::collection::{btree_set, vec};
use proptest::option::of;
use proptest::prelude::*;

use super::*;
use crate::bgp::attribute::{Aggregator, AsPath, NextHop, Origin, OtherAttribute, Segment, SegmentKind};
use crate::bgp::message::{Capabilities, GracefulRestart, LongLived, Reachable, Role};

pub(super) fn open(capabilities: Capabilities) -> Open {
    Open { as_number: 64512, hold_time: Duration::from_secs(90), router_id: Ipv4Addr::new(192, 0, 2, 1), capabilities }
}

fn family() -> impl Strategy<Value = IpVersion> {
    prop_oneof![Just(IpVersion::V4), Just(IpVersion::V6)]
}

/// Both, one, or none, each at most once.
fn per_family<T: std::fmt::Debug>(one: impl Strategy<Value = T>) -> impl Strategy<Value = Vec<(IpVersion, T)>> {
    (vec(one, 0..=2), any::<bool>()).prop_map(|(values, turned)| {
        let mut families = [IpVersion::V4, IpVersion::V6];
        if turned {
            families.reverse();
        }
        families.into_iter().zip(values).collect()
    })
}

pub(super) fn capabilities() -> impl Strategy<Value = Capabilities> {
    let role = prop_oneof![
        Just(Role::Provider),
        Just(Role::RouteServer),
        Just(Role::RouteServerClient),
        Just(Role::Customer),
        Just(Role::Peer)
    ];
    let restart = (any::<[bool; 2]>(), 0u64..4096, per_family(any::<bool>())).prop_map(|(flags, time, families)| {
        let [restarting, notification] = flags;
        GracefulRestart { restarting, notification, restart_time: Duration::from_secs(time), families }
    });
    let add_path = per_family(1u8..4).prop_map(|families| {
        let add_path = |(family, what)| AddPath { family, send: what & 1 != 0, receive: what & 2 != 0 };
        families.into_iter().map(add_path).collect::<Vec<_>>()
    });
    let long_lived = per_family((any::<bool>(), 0u64..1 << 24)).prop_map(|families| {
        let long_lived =
            |(family, (forwarding, time))| LongLived { family, forwarding, stale_time: Duration::from_secs(time) };
        families.into_iter().map(long_lived).collect::<Vec<_>>()
    });
    let families = per_family(Just(())).prop_map(|families| families.into_iter().map(|(family, ())| family).collect());
    (families, any::<[bool; 5]>(), of(restart), long_lived, add_path, of(role)).prop_map(
        |(families, flags, graceful_restart, long_lived, add_path, role)| {
            let [route_refresh, enhanced_refresh, four_octet_as, extended_message, extended_next_hop] = flags;
            Capabilities {
                families,
                route_refresh,
                enhanced_refresh,
                four_octet_as,
                extended_message,
                graceful_restart,
                long_lived,
                add_path,
                extended_next_hop,
                role,
                others: Vec::new(),
            }
        },
    )
}

pub(super) fn codec() -> impl Strategy<Value = Codec> {
    (any::<[bool; 8]>(), 0usize..3).prop_map(|(flags, families)| {
        let [internal, four_octet_as, extended_message, extended_next_hop, ids @ ..] = flags;
        let [s4, s6, ..] = ids;
        Codec {
            internal,
            four_octet_as,
            extended_message,
            extended_next_hop,
            enhanced_refresh: true,
            longest_path: LONGEST_PATH,
            families: [&[IpVersion::V4, IpVersion::V6][..], &[IpVersion::V4], &[IpVersion::V6]][families],
            // Read as it is written.
            sends_path_ids: [s4, s6],
            receives_path_ids: [s4, s6],
        }
    })
}

fn ipv4() -> impl Strategy<Value = Ipv4Addr> {
    (1u8..224, any::<[u8; 3]>())
        .prop_filter("no loopback", |(first, _)| *first != 127)
        .prop_map(|(first, [b, c, d])| Ipv4Addr::new(first, b, c, d))
}

fn ipv6() -> impl Strategy<Value = Ipv6Addr> {
    any::<u128>().prop_map(|bits| Ipv6Addr::from_bits(bits >> 8 | 0x2000 << 112))
}

fn link_local() -> impl Strategy<Value = Ipv6Addr> {
    any::<u64>().prop_map(|bits| Ipv6Addr::from_bits(0xfe80 << 112 | u128::from(bits)))
}

fn prefixes(codec: Codec, family: IpVersion) -> impl Strategy<Value = Vec<Nlri>> {
    let prefix = match family {
        IpVersion::V4 => (ipv4(), 1u8..=32).prop_map(|(address, length)| Cidr::new(address.into(), length)).boxed(),
        IpVersion::V6 => (ipv6(), 1u8..=128).prop_map(|(address, length)| Cidr::new(address.into(), length)).boxed(),
    };
    let has_ids = codec.sends_path_ids(family);
    let one = (prefix, any::<u32>()).prop_map(move |(prefix, id)| {
        let prefix = prefix.unwrap().masked();
        Nlri { prefix, path_id: if has_ids { id } else { 0 } }
    });
    // Some of them do not fit into one message.
    prop_oneof![4 => vec(one.clone(), 1..40), 1 => vec(one, 1000..1500)]
}

/// AS4_PATH has no confederations, so with a peer of two octets they are not put together again.
fn as_path(is_confederation_known: bool) -> impl Strategy<Value = AsPath> {
    let kind = match is_confederation_known {
        true => prop_oneof![
            Just(SegmentKind::Set),
            Just(SegmentKind::Sequence),
            Just(SegmentKind::ConfederationSequence),
            Just(SegmentKind::ConfederationSet)
        ]
        .boxed(),
        false => prop_oneof![Just(SegmentKind::Set), Just(SegmentKind::Sequence)].boxed(),
    };
    let segment = (kind, vec(prop_oneof![1u32..70000, 1..=u32::MAX], 1..6))
        .prop_map(|(kind, numbers)| Segment { kind, numbers: numbers.into() });
    vec(segment, 1..4).prop_map(|segments| AsPath { segments: segments.into() })
}

pub(super) fn attributes(codec: Codec, next_hop: NextHop) -> impl Strategy<Value = Attributes> {
    let aggregator = (1..=u32::MAX, any::<u32>())
        .prop_map(|(as_number, id)| Aggregator { as_number, router_id: Ipv4Addr::from_bits(id) });
    let others = btree_set(prop_oneof![128u8..=255, 20..23u8, 33..35u8], 0..3).prop_flat_map(|codes| {
        let values = vec(vec(any::<u8>(), 0..300), codes.len());
        values.prop_map(move |values| {
            let other = |(code, value): (&u8, Vec<u8>)| OtherAttribute { code: *code, value: value.into() };
            codes.iter().zip(values).map(other).collect::<Box<[_]>>()
        })
    });
    let origin = prop_oneof![Just(Origin::Igp), Just(Origin::Egp), Just(Origin::Incomplete)];
    let communities =
        (btree_set(any::<u32>(), 0..80), btree_set(any::<[u8; 8]>(), 0..4), btree_set(any::<[u32; 3]>(), 0..4));
    let internal = (of(any::<u32>()), of(any::<u32>()), vec(any::<u32>(), 0..4));
    let first =
        (origin, as_path(codec.internal && codec.four_octet_as), of(any::<u32>()), any::<bool>(), of(aggregator));
    (first, communities, internal, of(any::<u32>()), others).prop_map(
        move |(
            (origin, as_path, med, atomic_aggregate, aggregator),
            communities,
            internal,
            only_to_customer,
            others,
        )| {
            let (communities, extended, large) = communities;
            let (local_pref, originator_id, cluster_list) = if codec.internal { internal } else { Default::default() };
            Attributes {
                origin,
                as_path,
                next_hop,
                med,
                local_pref,
                atomic_aggregate,
                aggregator,
                communities: communities.into_iter().collect(),
                extended_communities: extended.into_iter().collect(),
                large_communities: large.into_iter().map(|[a, b, c]| (a, b, c)).collect(),
                originator_id: originator_id.map(Ipv4Addr::from_bits),
                cluster_list: cluster_list.into_iter().map(Ipv4Addr::from_bits).collect(),
                only_to_customer,
                others,
                received: None,
            }
        },
    )
}

fn next_hop(codec: Codec, family: IpVersion) -> impl Strategy<Value = NextHop> {
    let four = ipv4().prop_map(|address| NextHop { address: address.into(), link_local: None });
    let six =
        (ipv6(), of(link_local())).prop_map(|(address, link_local)| NextHop { address: address.into(), link_local });
    let link = link_local().prop_map(|address| NextHop { address: address.into(), link_local: None });
    match family {
        IpVersion::V4 if !codec.extended_next_hop => four.boxed(),
        _ => prop_oneof![four, six, link].boxed(),
    }
}

pub(super) fn reachable(codec: Codec, family: IpVersion) -> impl Strategy<Value = Reachable> {
    let attributes = next_hop(codec, family).prop_flat_map(move |next_hop| attributes(codec, next_hop));
    (attributes, prefixes(codec, family))
        .prop_map(|(attributes, nlri)| Reachable { attributes: Arc::new(attributes), nlri })
}

pub(super) fn one_family(codec: Codec) -> impl Strategy<Value = IpVersion> {
    proptest::sample::select(codec.families)
}

/// All messages in the bytes.
pub(super) fn decode_all(codec: &Codec, mut bytes: &[u8]) -> Vec<Message> {
    let mut messages = Vec::new();
    while !bytes.is_empty() {
        let length = codec.frame(bytes).unwrap().expect("a whole message");
        assert!(length <= codec.longest());
        messages.push(codec.decode(&bytes[..length]).unwrap());
        bytes = &bytes[length..];
    }
    messages
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn an_open_is_read_as_it_was_written(capabilities in capabilities(), as_number in 1..=u32::MAX, hold in 3u64..65536) {
        let mut open = open(capabilities);
        open.as_number = if open.capabilities.four_octet_as { as_number } else { as_number % 65535 + 1 };
        open.hold_time = Duration::from_secs(hold);
        let mut bytes = Vec::new();
        Codec::new().encode(&Message::Open(open.clone()), &mut bytes);
        prop_assert_eq!(decode_all(&Codec::new(), &bytes), vec![Message::Open(open)]);
    }

    #[test]
    fn routes_are_read_as_they_were_written(
        (codec, told) in codec().prop_flat_map(|codec| {
            (Just(codec), one_family(codec).prop_flat_map(move |family| reachable(codec, family)))
        })
    ) {
        let mut bytes = Vec::new();
        let mut counted = 0;
        codec.reach(&told.attributes, &told.nlri, &mut |message: &[u8], count| {
            bytes.extend(message);
            counted += count;
        }).unwrap();
        prop_assert_eq!(counted, told.nlri.len());
        let mut nlri: Vec<Nlri> = Vec::new();
        for message in decode_all(&codec, &bytes) {
            let Message::Update(update) = message else { panic!("an UPDATE") };
            prop_assert_eq!(&update.faults, &vec![]);
            prop_assert_eq!(&update.withdrawn, &vec![]);
            let [reachable] = &update.reachable[..] else { panic!("one kind of routes") };
            prop_assert_eq!(&reachable.attributes, &told.attributes);
            nlri.extend(&reachable.nlri);
        }
        prop_assert_eq!(nlri, told.nlri);
    }

    #[test]
    fn what_is_gone_is_read_as_it_was_written(
        (codec, gone) in codec().prop_flat_map(|codec| {
            (Just(codec), one_family(codec).prop_flat_map(move |family| prefixes(codec, family)))
        })
    ) {
        let mut bytes = Vec::new();
        codec.withdraw(&gone, &mut |message: &[u8], _| bytes.extend(message));
        let mut nlri = Vec::new();
        for message in decode_all(&codec, &bytes) {
            let Message::Update(update) = message else { panic!("an UPDATE") };
            prop_assert_eq!((update.reachable, update.faults, update.end_of_rib), (vec![], vec![], None));
            nlri.extend(update.withdrawn);
        }
        prop_assert_eq!(nlri, gone);
    }

    #[test]
    fn other_messages_are_read_as_they_were_written(
        code in any::<[u8; 2]>(), data in vec(any::<u8>(), 0..300), family in of(family()), codec in codec()
    ) {
        let refresh = |subtype| Message::Refresh(Refresh { family, subtype });
        let messages = vec![
            Message::Notification(Notification::with(code[0], code[1], data)),
            Message::Keepalive,
            refresh(RefreshSubtype::Request),
            refresh(RefreshSubtype::Begin),
            refresh(RefreshSubtype::End),
        ];
        let mut bytes = Vec::new();
        messages.iter().for_each(|message| codec.encode(message, &mut bytes));
        prop_assert_eq!(decode_all(&codec, &bytes), messages);
    }
}

#[test]
fn the_end_of_a_family_is_told() {
    let both = Codec { families: &[IpVersion::V4, IpVersion::V6], ..Codec::new() };
    for family in [IpVersion::V4, IpVersion::V6] {
        let mut bytes = Vec::new();
        both.end_of_rib(family, &mut bytes);
        let expected = Update { end_of_rib: Some(family), ..Update::default() };
        assert_eq!(decode_all(&both, &bytes), [Message::Update(expected)]);
    }
}

#[test]
fn a_path_has_a_limit() {
    let nlri = [Nlri { prefix: Cidr::parse("198.51.100.0/24").unwrap(), path_id: 0 }];
    let mut attributes = Attributes::local(Ipv4Addr::new(192, 0, 2, 1).into());
    attributes.as_path = AsPath::sequence(vec![9; 11]);
    for (codec, is_taken) in [(Codec::new(), true), (Codec::new().with_longest_path(10), false)] {
        let mut each = |message: &[u8], _| {
            let Message::Update(update) = codec.decode(message).unwrap() else { panic!("an UPDATE") };
            assert_eq!(
                (update.reachable.len(), update.withdrawn.len()),
                (usize::from(is_taken), usize::from(!is_taken))
            );
        };
        codec.reach(&attributes, &nlri, &mut each).unwrap();
    }
}

fn framed(length: u16, kind: u8) -> Vec<u8> {
    let mut octets = MARKER.to_vec();
    octets.extend(length.to_be_bytes());
    octets.push(kind);
    octets
}

#[test]
fn what_is_no_message_is_refused_as_soon_as_it_is_seen() {
    let check = |octets: &[u8], expected: Result<Option<usize>, (u8, u8, &[u8])>| {
        let found = Codec::new().frame(octets);
        assert_eq!(
            found,
            expected.map_err(|(code, subcode, data)| Notification::with(code, subcode, data)),
            "{octets:?}"
        );
    };
    check(&[], Ok(None));
    check(&[0xff; 7], Ok(None));
    check(&[0xff, 0xff, 0xfe], Err((1, 1, &[])));
    check(&[0; 19], Err((1, 1, &[])));
    check(&framed(19, 4), Ok(Some(19)));
    check(&[framed(19, 4), vec![0xff; 30]].concat(), Ok(Some(19)));
    check(&framed(18, 4)[..18], Err((1, 2, &[0, 18])));
    check(&framed(0, 4)[..18], Err((1, 2, &[0, 0])));
    check(&framed(20, 4), Err((1, 2, &[0, 20])));
    check(&framed(28, 1), Err((1, 2, &[0, 28])));
    check(&framed(22, 2), Err((1, 2, &[0, 22])));
    check(&framed(20, 3), Err((1, 2, &[0, 20])));
    check(&framed(22, 5), Err((1, 2, &[0, 22])));
    check(&framed(4096, 2), Ok(None));
    check(&framed(4097, 2), Err((1, 2, &[0x10, 1])));
    check(&framed(19, 0), Err((1, 3, &[0])));
    check(&framed(19, 6), Err((1, 3, &[6])));
}

#[test]
fn long_messages_are_read_where_they_were_agreed_on() {
    let codec = Codec { extended_message: true, ..Codec::new() };
    assert_eq!(codec.frame(&framed(65535, 2)), Ok(None));
    // RFC 8654 §4: not these two.
    assert!(codec.frame(&framed(4097, 1)).is_err() && codec.frame(&framed(20, 4)).is_err());
}

#[test]
fn a_message_is_as_long_as_it_says() {
    let mut message = framed(19, 4);
    message.push(0);
    assert_eq!(Codec::new().decode(&message), Err(Notification::with(1, 2, [0, 20])));
    assert_eq!(Codec::new().decode(&message[..18]), Err(Notification::with(1, 2, [0, 18])));
}

#[test]
fn kinds_of_refreshes_are_read_where_they_were_agreed_on() {
    let check = |is_enhanced: bool, body: &[u8], expected: Option<(Option<IpVersion>, RefreshSubtype)>| {
        let codec = Codec { enhanced_refresh: is_enhanced, ..Codec::new() };
        let message = [&framed(19 + body.len() as u16, 5)[..], body].concat();
        let expected = match expected {
            Some((family, subtype)) => Ok(Message::Refresh(Refresh { family, subtype })),
            None => Err(Notification::with(7, 1, &message[..])),
        };
        assert_eq!(codec.decode(&message), expected, "{body:?}");
    };
    use RefreshSubtype::{Begin, End, Request};
    check(true, &[0, 1, 0, 1], Some((Some(IpVersion::V4), Request)));
    check(true, &[0, 2, 1, 1], Some((Some(IpVersion::V6), Begin)));
    check(true, &[0, 2, 2, 1], Some((Some(IpVersion::V6), End)));
    check(true, &[0, 2, 3, 1], Some((None, Request)));
    check(true, &[0, 2, 255, 1, 9, 9], Some((None, Request)));
    check(false, &[0, 2, 1, 1], Some((Some(IpVersion::V6), Request)));
    check(true, &[0, 25, 0, 70], Some((None, Request)));
    check(true, &[0, 1, 1, 1, 0], None);
    // A filter (RFC 5291) whose length is wrong; or right, but nobody has offered to know it.
    check(true, &[0, 1, 0, 1, 1, 64, 255, 255], None);
    check(false, &[0, 1, 0, 1, 1, 64, 0, 1, 0], None);
}

#[test]
fn what_cannot_be_said_is_not_said() {
    let nlri = [Nlri { prefix: Cidr::parse("198.51.100.0/24").unwrap(), path_id: 0 }];
    let by_ipv6 = Attributes::local(Ipv6Addr::LOCALHOST.into());
    let mut long = Attributes::local(Ipv4Addr::LOCALHOST.into());
    long.communities = (0..1030).collect();
    let mut each = |_: &[u8], _| panic!("something was said");
    let codec = Codec::new();
    assert_eq!(codec.reach(&by_ipv6, &nlri, &mut each), Err(Unsayable::NextHop));
    assert_eq!(codec.reach(&long, &nlri, &mut each), Err(Unsayable::TooLong(4096)));
    // RFC 8654 §4: then it is gone.
    let update = Update {
        reachable: vec![Reachable { attributes: Arc::new(long.clone()), nlri: nlri.to_vec() }],
        ..Update::default()
    };
    let mut bytes = Vec::new();
    codec.encode(&Message::Update(update), &mut bytes);
    let expected = Update { withdrawn: nlri.to_vec(), ..Update::default() };
    assert_eq!(decode_all(&codec, &bytes), [Message::Update(expected)]);
    let codec = Codec { extended_message: true, ..codec };
    assert_eq!(codec.reach(&long, &nlri, &mut |_: &[u8], _| ()), Ok(()));
}

#[test]
fn what_both_can_do_is_agreed_on() {
    let add_path = |family, send, receive| AddPath { family, send, receive };
    let ours = open(Capabilities {
        families: vec![IpVersion::V6, IpVersion::V4],
        four_octet_as: true,
        extended_message: true,
        extended_next_hop: true,
        add_path: vec![add_path(IpVersion::V4, true, true), add_path(IpVersion::V6, true, true)],
        ..Capabilities::default()
    });
    let theirs = open(Capabilities {
        families: vec![IpVersion::V4, IpVersion::V6],
        four_octet_as: true,
        add_path: vec![add_path(IpVersion::V4, true, false)],
        ..Capabilities::default()
    });
    let codec = Codec::agreed(&ours, &theirs, true);
    assert_eq!(codec.families(), [IpVersion::V4, IpVersion::V6]);
    assert!(codec.four_octet_as() && !codec.extended_next_hop());
    assert_eq!(codec.longest(), 4096);
    let ids = |codec: Codec, family| (codec.sends_path_ids(family), codec.receives_path_ids(family));
    assert_eq!((ids(codec, IpVersion::V4), ids(codec, IpVersion::V6)), ((false, true), (false, false)));
    // Whoever names no family speaks IPv4.
    let plain = open(Capabilities::default());
    assert_eq!(Codec::agreed(&ours, &plain, true).families(), [IpVersion::V4]);
    assert_eq!(Codec::agreed(&ours, &ours, false).longest(), 65535);
}

#[test]
fn a_message_looks_as_it_should() {
    let nlri = [Nlri { prefix: Cidr::parse("2001:db8:100::/48").unwrap(), path_id: 0 }];
    let codec = Codec { internal: true, families: &[IpVersion::V6], ..Codec::new() };
    let mut attributes = Attributes::local("2001:db8::1".parse().unwrap());
    attributes.as_path = AsPath::sequence(vec![65536]);
    attributes.local_pref = Some(100);
    let mut bytes: Vec<u8> = Vec::new();
    codec.reach(&attributes, &nlri, &mut |message: &[u8], _| bytes.extend(message)).unwrap();
    let expected: &[&[u8]] = &[
        &[0xff; 16],
        &[0, 81, 2, 0, 0, 0, 58],
        // MP_REACH_NLRI comes first.
        &[0x80, 14, 28, 0, 2, 1, 16, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0],
        &[48, 0x20, 1, 0xd, 0xb8, 1, 0],
        &[0x40, 1, 1, 0],
        &[0x40, 2, 4, 2, 1, 0x5b, 0xa0],
        &[0x40, 5, 4, 0, 0, 0, 100],
        &[0xc0, 17, 6, 2, 1, 0, 1, 0, 0],
    ];
    assert_eq!(bytes, expected.concat());
    // To another system neither LOCAL_PREF nor what reflection says.
    attributes.originator_id = Some(Ipv4Addr::LOCALHOST);
    attributes.cluster_list = Box::new([Ipv4Addr::LOCALHOST]);
    let codec = Codec { internal: false, ..codec };
    codec
        .reach(&attributes, &nlri, &mut |message: &[u8], _| {
            let Message::Update(update) = codec.decode(message).unwrap() else { panic!("an UPDATE") };
            assert_eq!(update.faults, []);
            assert_eq!(update.reachable[0].attributes.local_pref, None);
        })
        .unwrap();
}
