//! Rules of filters: each condition by itself, what they change, and that a table finds the rule that a walk finds.

use std::net::{IpAddr, Ipv4Addr};

use config::resource::Resource;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::bgp::attribute::Segment;
use crate::bgp::speaker_state::LocalRouteKind;

fn filter(rules: serde_json::Value) -> BgpFilter {
    let document = json!({
        "apiVersion": "projectcalico.org/v3", "kind": "BGPFilter", "metadata": {"name": "f"}, "spec": {"importV4": rules},
    });
    match Resource::from_json(&document).unwrap() {
        Resource::BgpFilter(filter) => filter,
        other => panic!("{other:?}"),
    }
}

fn rules(rules: serde_json::Value) -> Vec<FilterRule> {
    rules_of(&filter(rules), Direction::Import, IpVersion::V4).collect()
}

fn attributes() -> Attributes {
    Attributes {
        as_path: AsPath::sequence([65001, 65002]),
        communities: Box::new([standard(65000, 1)]),
        large_communities: Box::new([(65000, 1, 2)]),
        local_pref: Some(PREFERENCE_SUM - 512),
        ..Attributes::local(IpAddr::V4(Ipv4Addr::LOCALHOST))
    }
}

fn asked<'a>(prefix: &str, attributes: &'a Attributes, source: Source<'a>) -> Asked<'a> {
    Asked::of(&Candidate { prefix: prefix.parse().unwrap(), attributes, source }, true)
}

#[test]
fn conditions() {
    let attributes = attributes();
    let check = |prefix: &str, rule: serde_json::Value, expected: &str| {
        let rule = &rules(json!([rule]))[0];
        let asked = asked(prefix, &attributes, Source::Peer { internal: true });
        assert_eq!(rule.mismatch(&asked).unwrap_or_default(), expected, "{prefix} {rule:?}");
        assert_eq!(rule.matches(&asked), expected.is_empty(), "{prefix} {rule:?}");
    };
    let net = |cidr: &str, operator: &str| json!({"cidr": cidr, "matchOperator": operator, "action": "Accept"});
    check("10.0.0.0/24", json!({"action": "Accept"}), "");
    check("10.0.0.0/24", net("10.0.0.0/24", "Equal"), "");
    check("10.0.0.0/25", net("10.0.0.0/24", "Equal"), "10.0.0.0/25 is not 10.0.0.0/24");
    check("10.0.0.0/24", net("10.0.0.0/24", "NotEqual"), "10.0.0.0/24 is 10.0.0.0/24");
    check("10.0.0.0/25", net("10.0.0.0/24", "NotEqual"), "");
    check("10.0.0.0/24", net("10.0.0.0/24", "In"), "");
    check("10.0.0.128/32", net("10.0.0.0/24", "In"), "");
    check("10.0.0.0/16", net("10.0.0.0/24", "In"), "10.0.0.0/16 is not in 10.0.0.0/24");
    check("10.0.0.128/32", net("10.0.0.0/24", "NotIn"), "10.0.0.128/32 is in 10.0.0.0/24");
    check("10.0.0.0/16", net("10.0.0.0/24", "NotIn"), "");
    // Host bits say nothing.
    check("10.0.0.0/24", net("10.0.0.7/24", "Equal"), "");
    let long = |min: u8, max: u8| {
        let length = json!({"min": min, "max": max});
        json!({"cidr": "10.0.0.0/16", "matchOperator": "In", "prefixLength": length, "action": "Accept"})
    };
    check("10.0.1.0/24", long(24, 28), "");
    check("10.0.1.0/23", long(24, 28), "10.0.1.0/23 is not in 10.0.0.0/16 with length 24-28");
    check("10.0.1.0/29", long(24, 28), "10.0.1.0/29 is not in 10.0.0.0/16 with length 24-28");
    // No network is longer than what it lies in.
    check("10.0.0.0/8", long(0, 32), "10.0.0.0/8 is not in 10.0.0.0/16");
    check("10.0.0.0/24", json!({"source": "RemotePeers", "action": "Accept"}), "");
    check(
        "10.0.0.0/24",
        json!({"interface": "eth*", "action": "Accept"}),
        "the route has no interface, and eth* is asked for",
    );
    check("10.0.0.0/24", json!({"peerType": "iBGP", "action": "Accept"}), "");
    check("10.0.0.0/24", json!({"peerType": "eBGP", "action": "Accept"}), "the peer is iBGP and not eBGP");
    let community = |text: &str| json!({"communities": {"values": [text]}, "action": "Accept"});
    check("10.0.0.0/24", community("65000:1"), "");
    check("10.0.0.0/24", community("65000:2"), "the route has no community 65000:2");
    check("10.0.0.0/24", community("65000:1:2"), "");
    check("10.0.0.0/24", community("65000:1:3"), "the route has no community 65000:1:3");
    check("10.0.0.0/24", json!({"asPathPrefix": [65001], "action": "Accept"}), "");
    check("10.0.0.0/24", json!({"asPathPrefix": [65001, 65002], "action": "Accept"}), "");
    let too_long = json!({"asPathPrefix": [65001, 65002, 65003], "action": "Accept"});
    check("10.0.0.0/24", too_long, "its AS path does not begin with 65001 65002 65003");
    check("10.0.0.0/24", json!({"priority": 512, "action": "Accept"}), "");
    check("10.0.0.0/24", json!({"priority": 1024, "action": "Accept"}), "its priority is 512 and not 1024");
}

#[test]
fn routes_of_this_node() {
    let attributes = Attributes::local(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let source = Source::Local { kind: LocalRouteKind::Endpoint, metric: 1024, interface: Some("cali123") };
    let check = |rule: serde_json::Value, expected: &str| {
        let asked = asked("10.0.0.1/32", &attributes, source);
        assert_eq!(rules(json!([rule]))[0].mismatch(&asked).unwrap_or_default(), expected);
    };
    check(json!({"source": "RemotePeers", "action": "Accept"}), "the route is of this node and not from a peer");
    check(json!({"interface": "cali*", "action": "Accept"}), "");
    check(json!({"interface": "eth0", "action": "Accept"}), "interface cali123 is not eth0");
    check(json!({"priority": 1024, "action": "Accept"}), "");
}

#[test]
fn names_and_patterns() {
    let check = |name: &str, pattern: &str, expected| assert_eq!(is_like(name, pattern), expected, "{name} {pattern}");
    check("eth0", "eth0", true);
    check("eth01", "eth0", false);
    check("eth0", "eth*", true);
    check("eth", "eth*", true);
    check("veth", "eth*", false);
    check("vxlan.calico", "*.calico", true);
    check("vxlan.calico2", "*.calico", false);
    check("bpfin.cali", "bpf*.cali", true);
    check("bpf.cali", "bpf*.cali", true);
    check("bpfcali", "bpf*.cali", false);
    check("abcabc", "*b*b*", true);
    check("abc", "*b*b*", false);
    check("aba", "ab*ba", false);
    check("", "*", true);
    check("x", "", false);
}

#[test]
fn sets_are_one_step_of_a_path() {
    let segment = |kind, numbers: &[u32]| Segment { kind, numbers: numbers.into() };
    let path = AsPath {
        segments: Box::new([
            segment(SegmentKind::Sequence, &[1, 2]),
            segment(SegmentKind::Set, &[3, 4]),
            segment(SegmentKind::Sequence, &[5]),
        ]),
    };
    let check = |wanted: &[u32], expected| assert_eq!(starts_with(&path, wanted), expected, "{wanted:?}");
    check(&[], true);
    check(&[1, 2], true);
    check(&[1, 2, 4], true);
    check(&[1, 2, 3, 5], true);
    check(&[1, 2, 3, 4], false);
    check(&[2], false);
    check(&[1, 2, 3, 5, 6], false);
    assert!(!starts_with(&AsPath::default(), &[1]));
}

#[test]
fn operations_change_attributes() {
    let rule = &rules(json!([{"action": "Accept", "operations": [
        {"addCommunity": {"value": "65000:0"}}, {"addCommunity": {"value": "65000:1"}},
        {"addCommunity": {"value": "65000:1:1"}}, {"prependASPath": {"prefix": [7, 8]}}, {"setPriority": {"value": 100}},
    ]}]))[0];
    let mut changed = attributes();
    rule.operations.iter().for_each(|operation| operation.apply(&mut changed));
    assert_eq!(changed.communities[..], [standard(65000, 0), standard(65000, 1)]);
    assert_eq!(changed.large_communities[..], [(65000, 1, 1), (65000, 1, 2)]);
    assert_eq!(changed.as_path, AsPath::sequence([7, 8, 65001, 65002]));
    assert_eq!(changed.local_pref, Some(PREFERENCE_SUM - 100));
}

/// A rule about networks close together, or about anything.
fn rule() -> impl Strategy<Value = serde_json::Value> {
    let network = (0..8u32, 0..=6u8, 0..4usize, proptest::option::of((0..=6u8, 0..=6u8)));
    (proptest::option::weighted(0.8, network), any::<bool>(), proptest::option::weighted(0.3, 0..3u16)).prop_map(
        |(network, accepts, community)| {
            let mut rule = json!({"action": if accepts { "Accept" } else { "Reject" }});
            if let Some((bits, length, operator, lengths)) = network {
                rule["cidr"] = format!("{}/{length}", Ipv4Addr::from_bits(bits << 29)).into();
                rule["matchOperator"] = BgpFilterOperator::WORDS[operator].into();
                if let Some((min, max)) = lengths {
                    rule["prefixLength"] = json!({"min": min, "max": max});
                }
            }
            if let Some(low) = community {
                rule["communities"] = json!({"values": [format!("65000:{low}")]});
            }
            rule
        },
    )
}

proptest! {
    /// Many rules are found by their networks, and the same one is found as by trying all.
    #[test]
    fn the_first_that_matches(written in proptest::collection::vec(rule(), 0..40), bits in 0..64u32, length in 0..=8u8) {
        let all = rules(written.into());
        let attributes = attributes();
        let prefix = Cidr::new(Ipv4Addr::from_bits(bits << 26).into(), length).unwrap().masked();
        let asked = asked(&prefix.to_string(), &attributes, Source::Peer { internal: true });
        let expected = all.iter().find(|rule| rule.mismatch(&asked).is_none()).cloned();
        for rule in &all {
            prop_assert_eq!(rule.matches(&asked), rule.mismatch(&asked).is_none());
        }
        let rules = FilterRules::new(all);
        prop_assert_eq!(rules.first(&asked), expected.as_ref());
    }
}
