//! The rules, and a slow and literal reading of what confd writes for BIRD, which they are compared with.

use std::net::{IpAddr, Ipv4Addr};

use config::resource::Resource;
use proptest::prelude::*;
use serde_json::json;

use super::filter::{Direction, rules_of};
use super::*;

/// What a node tells, as lists in the order that they were written.
#[derive(Debug, Clone, Default)]
struct Written {
    filters: Vec<FilterRule>,
    disabled_pools: Vec<Cidr>,
    enabled_pools: Vec<Cidr>,
    tunnels: Vec<String>,
    communities: Vec<(Cidr, Community)>,
    blocks: Vec<Cidr>,
    services: Vec<Cidr>,
    reflected: Vec<Cidr>,
}

const NORMAL: u32 = 1024;

impl Written {
    fn rules(&self) -> ExportRules {
        let set = |networks: &[Cidr]| networks.iter().copied().collect::<PrefixSet>();
        let communities = self.communities.iter().map(|(network, community)| (*network, vec![*community]));
        let mut exact_blocks = self.blocks.clone();
        exact_blocks.sort();
        ExportRules {
            filters: Filters { v4: FilterRules::new(self.filters.clone()), ..Filters::default() },
            built_in: Some(Arc::new(BuiltIn {
                normal_priority_v4: NORMAL,
                normal_priority_v6: NORMAL,
                disabled_pools: set(&self.disabled_pools),
                enabled_pools: set(&self.enabled_pools),
                tunnel_interfaces: self.tunnels.clone(),
                communities: PrefixTable::new(communities, |all, more| all.extend(more)),
                blocks: set(&self.blocks),
                exact_blocks,
                services: set(&self.services),
                reflected_services: set(&self.reflected),
            })),
        }
    }

    /// Line by line. None: rejected.
    fn literal(&self, candidate: &Candidate<'_>, internal: bool) -> Option<Attributes> {
        let is_in = |network: &Cidr| {
            network.length() <= candidate.prefix.length() && network.contains(candidate.prefix.address())
        };
        let mut attributes = candidate.attributes.clone();
        let (metric, preference) = match candidate.source {
            Source::Peer { .. } => {
                let preference = attributes.local_pref.unwrap_or(100);
                (2_147_483_647_u32.saturating_sub(preference), preference)
            }
            Source::Local { metric, .. } => (metric, 2_147_483_647 - metric),
        };
        if internal && matches!(candidate.source, Source::Local { .. }) {
            attributes.local_pref = Some(preference);
        }
        let asked = Asked::of(candidate, internal);
        for rule in &self.filters {
            if rule.mismatch(&asked).is_none() {
                rule.operations.iter().for_each(|operation| operation.apply(&mut attributes));
                return rule.accepts.then_some(attributes);
            }
        }
        if matches!(candidate.source, Source::Local { kind: LocalRouteKind::Static, .. }) {
            return None;
        }
        if self.disabled_pools.iter().any(is_in) {
            return None;
        }
        let interface = match candidate.source {
            Source::Local { interface, .. } => interface,
            Source::Peer { .. } => None,
        };
        if let Some(name) = interface {
            if internal && self.tunnels.iter().any(|pattern| filter::is_like(name, pattern)) {
                return None;
            }
            if name.starts_with("bpf") && name.ends_with(".cali") {
                return None;
            }
        }
        for (network, community) in &self.communities {
            if is_in(network) {
                filter::add_community(&mut attributes, *community);
            }
        }
        for block in &self.blocks {
            if candidate.prefix == *block {
                return Some(attributes);
            }
            if is_in(block) && metric < NORMAL {
                return Some(attributes);
            }
            if is_in(block) {
                return None;
            }
        }
        let accepted = [&self.services, &self.reflected, &self.enabled_pools];
        accepted.iter().any(|networks| networks.iter().any(is_in)).then_some(attributes)
    }
}

fn net() -> impl Strategy<Value = Cidr> {
    (0..16u32, 0..=6u8)
        .prop_map(|(bits, length)| Cidr::new(Ipv4Addr::from_bits(bits << 28).into(), length).unwrap().masked())
}

fn nets() -> impl Strategy<Value = Vec<Cidr>> {
    proptest::collection::vec(net(), 0..4)
}

/// Blocks are of one size, as those of one pool.
fn blocks() -> impl Strategy<Value = Vec<Cidr>> {
    let block = (0..16u32).prop_map(|bits| Cidr::new(Ipv4Addr::from_bits(bits << 28).into(), 4).unwrap());
    proptest::collection::vec(block, 0..4)
}

fn filter_rules() -> impl Strategy<Value = Vec<FilterRule>> {
    let rule = (net(), any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(net, accepts, is_in, changes)| {
        let mut rule = json!({"cidr": net, "matchOperator": if is_in { "In" } else { "Equal" }});
        rule["action"] = if accepts { "Accept" } else { "Reject" }.into();
        if accepts && changes {
            rule["operations"] = json!([{"addCommunity": {"value": "65000:9"}}, {"prependASPath": {"prefix": [9]}}]);
        }
        rule
    });
    proptest::collection::vec(rule, 0..3).prop_map(|rules| {
        let document = json!({
            "apiVersion": "projectcalico.org/v3", "kind": "BGPFilter", "metadata": {"name": "f"},
            "spec": {"exportV4": rules},
        });
        match Resource::from_json(&document).unwrap() {
            Resource::BgpFilter(filter) => rules_of(&filter, Direction::Export, IpVersion::V4).collect(),
            other => panic!("{other:?}"),
        }
    })
}

fn written() -> impl Strategy<Value = Written> {
    let tunnels = prop_oneof![Just(vec![]), Just(vec!["*.cali".to_owned(), "tunl0".to_owned()])];
    let community = (net(), 0..3u16).prop_map(|(net, low)| (net, Community::Standard(65000, low)));
    let communities = proptest::collection::vec(community, 0..4);
    (filter_rules(), nets(), nets(), tunnels, communities, blocks(), nets(), nets()).prop_map(
        |(filters, disabled_pools, enabled_pools, tunnels, communities, blocks, services, reflected)| Written {
            filters,
            disabled_pools,
            enabled_pools,
            tunnels,
            communities,
            blocks,
            services,
            reflected,
        },
    )
}

fn source() -> impl Strategy<Value = Source<'static>> {
    let interface = prop_oneof![Just(None), Just(Some("cali1")), Just(Some("bpfin.cali")), Just(Some("tunl0"))];
    let metric = prop_oneof![Just(512u32), Just(1024), Just(2000)];
    let kind = prop_oneof![4 => Just(LocalRouteKind::Endpoint), 1 => Just(LocalRouteKind::Static)];
    prop_oneof![
        (kind, metric, interface).prop_map(|(kind, metric, interface)| Source::Local { kind, metric, interface }),
        any::<bool>().prop_map(|internal| Source::Peer { internal }),
    ]
}

fn attributes() -> impl Strategy<Value = Attributes> {
    let preference = prop_oneof![
        Just(None),
        Just(Some(100)),
        Just(Some(PREFERENCE_SUM - 512)),
        Just(Some(PREFERENCE_SUM - 1024)),
        Just(Some(u32::MAX))
    ];
    preference.prop_map(|local_pref| Attributes { local_pref, ..local() })
}

fn local() -> Attributes {
    Attributes::local(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

proptest! {
    #[test]
    fn what_is_told_is_what_bird_would_tell(
        written in written(), prefix in net(), attributes in attributes(), source in source(), internal in any::<bool>(),
    ) {
        let rules = written.rules();
        let candidate = Candidate { prefix, attributes: &attributes, source };
        let expected = written.literal(&candidate, internal);
        let found = match rules.judge(&candidate, internal) {
            Judgement::Accept => Some(attributes.clone()),
            Judgement::Change(changed) => {
                prop_assert_ne!(&*changed, &attributes, "a change that changes nothing");
                Some(*changed)
            }
            Judgement::Reject(_) => None,
        };
        prop_assert_eq!(&found, &expected);
        prop_assert_eq!(rules.refusal(&candidate, internal).is_none(), expected.is_some());
        let why = rules.why(&candidate, internal);
        prop_assert_eq!(why.contains("accepted"), expected.is_some(), "{}", why);
    }
}

#[test]
fn peers_of_other_systems_may_have_to_have_rules() {
    let attributes = local();
    let prefix = "10.0.0.0/24".parse().unwrap();
    let candidate = Candidate { prefix, attributes: &attributes, source: Source::Peer { internal: false } };
    let check = |filters: Filters, internal: bool, expected: bool| {
        let import = ImportRules { filters: filters.clone(), ..ImportRules::default() };
        assert_eq!(import.judge(&candidate, internal) == Judgement::Accept, expected);
        let export = ExportRules { filters, built_in: None };
        assert_eq!(export.judge(&candidate, internal) == Judgement::Accept, expected);
    };
    let required =
        |rules: Vec<FilterRule>| Filters { v4: FilterRules::new(rules), are_required: true, ..Filters::default() };
    check(required(vec![]), false, false);
    check(required(vec![]), true, true);
    check(Filters::default(), false, true);
    // A filter that is not there lets nothing through.
    check(required(vec![FilterRule::missing("f")]), true, false);
}

#[test]
fn a_route_of_a_workload_that_moves_beats_the_local_one() {
    let rules = ImportRules { normal_priority_v4: 1024, normal_priority_v6: 1024, ..ImportRules::default() };
    let check = |local_pref, expected| {
        let attributes = Attributes { local_pref, ..local() };
        assert_eq!(rules.beats_local("10.0.0.1/32".parse().unwrap(), &attributes), expected, "{local_pref:?}");
    };
    check(None, false);
    check(Some(PREFERENCE_SUM - 1024), false);
    check(Some(PREFERENCE_SUM - 1023), true);
    check(Some(PREFERENCE_SUM - 512), true);
}
