//! What we write, read by somebody else: the crate `netgauze-bgp-pkt`, which also writes it once more for us to read.
//!
//! A mistake that is made the same way in both directions does not show when a message is written and read again here. What
//! the other side has made of it is asked for where it has no other form than ours: prefixes, next hops, numbers.

use std::collections::HashMap;

use netgauze_bgp_pkt::BgpMessage;
use netgauze_bgp_pkt::path_attribute::{MpReach, PathAttributeValue};
use netgauze_bgp_pkt::wire::deserializer::BgpParsingContext;
use netgauze_parse_utils::WritablePdu;
use netgauze_parse_utils::reader::SliceReader;
use netgauze_parse_utils::traits::ParseFromWithOneInput;
use proptest::prelude::*;
use std::net::IpAddr;
use std::sync::Arc;

use super::tests::{capabilities, codec, one_family, open, reachable};
use super::*;

fn theirs(codec: &Codec, message: &[u8]) -> BgpMessage {
    let mut context =
        BgpParsingContext::new(codec.four_octet_as, HashMap::new(), HashMap::new(), true, true, true, true);
    BgpMessage::parse(&mut SliceReader::new(message), &mut context).unwrap_or_else(|error| panic!("{error}"))
}

fn again(message: &BgpMessage) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.write(&mut bytes).unwrap_or_else(|error| panic!("{error}"));
    bytes
}

/// A route target or origin (RFC 4360 §4, RFC 5668): of other extended communities it has reserved octets made zero, and one
/// kind made another.
fn target_or_origin([kind, subtype, value @ ..]: [u8; 8]) -> [u8; 8] {
    let [a, b, c, d, e, f] = value;
    [kind % 3, 2 + subtype % 2, a, b, c, d, e, f]
}

/// Numbers of paths would have to be agreed on there as well.
fn without_ids(codec: Codec) -> Codec {
    Codec { sends_path_ids: [false; 2], receives_path_ids: [false; 2], ..codec }
}

proptest! {
    #[test]
    fn they_read_our_routes_and_we_read_theirs(
        (codec, told) in codec().prop_map(without_ids).prop_flat_map(|codec| {
            (Just(codec), one_family(codec).prop_flat_map(move |family| reachable(codec, family)))
        })
    ) {
        // It does not know the segments of confederations.
        prop_assume!(!told.attributes.as_path.segments.iter().any(|segment| segment.kind.is_confederation()));
        let mut attributes = (*told.attributes).clone();
        attributes.extended_communities = attributes.extended_communities.into_iter().map(target_or_origin).collect();
        codec.reach(&Arc::new(attributes), &told.nlri, &mut |message: &[u8], _| {
            let ours = codec.decode(message).unwrap();
            let read = theirs(&codec, message);
            assert_eq!(codec.decode(&again(&read)), Ok(ours.clone()));
            let (BgpMessage::Update(read), Message::Update(ours)) = (read, ours) else { panic!("an UPDATE") };
            let reachable = &ours.reachable[0];
            let expected: Vec<String> = reachable.nlri.iter().map(|nlri| nlri.prefix.to_string()).collect();
            let mut prefixes: Vec<String> = read.nlri().iter().map(|nlri| nlri.network().address().to_string()).collect();
            for attribute in read.path_attributes() {
                match attribute.value() {
                    PathAttributeValue::MpReach(MpReach::Ipv6Unicast { nlri, next_hop_global, .. }) => {
                        prefixes.extend(nlri.iter().map(|nlri| nlri.network().address().to_string()));
                        let next_hop = reachable.attributes.next_hop.address;
                        assert_eq!(next_hop_global.to_canonical(), next_hop);
                    }
                    PathAttributeValue::MpReach(MpReach::Ipv4Unicast { nlri, next_hop, .. }) => {
                        prefixes.extend(nlri.iter().map(|nlri| nlri.network().address().to_string()));
                        assert_eq!(*next_hop, reachable.attributes.next_hop.address);
                    }
                    PathAttributeValue::NextHop(next_hop) => {
                        assert_eq!(IpAddr::from(next_hop.next_hop()), reachable.attributes.next_hop.address);
                    }
                    PathAttributeValue::MultiExitDiscriminator(med) => {
                        assert_eq!(Some(med.metric()), reachable.attributes.med);
                    }
                    PathAttributeValue::LocalPreference(preference) => {
                        assert_eq!(Some(preference.metric()), reachable.attributes.local_pref);
                    }
                    _ => (),
                }
            }
            assert_eq!(prefixes, expected);
        }).unwrap();
    }

    #[test]
    fn they_read_our_capabilities_and_we_read_theirs(capabilities in capabilities()) {
        let ours = open(capabilities);
        let mut bytes = Vec::new();
        Codec::new().encode(&Message::Open(ours.clone()), &mut bytes);
        let read = theirs(&Codec::new(), &bytes);
        prop_assert_eq!(Codec::new().decode(&again(&read)), Ok(Message::Open(ours.clone())));
        let BgpMessage::Open(read) = read else { panic!("an OPEN") };
        prop_assert_eq!((read.my_asn4(), read.bgp_id()), (ours.as_number, ours.router_id));
        prop_assert_eq!(u64::from(read.hold_time()), ours.hold_time.as_secs());
    }
}
