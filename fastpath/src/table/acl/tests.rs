//! The compiled policy against the obvious one: walk the rules in order.

use super::*;
use proptest::prelude::*;

fn in_ranges<T: PartialOrd>(ranges: &[(T, T)], value: &T) -> bool {
    ranges.iter().any(|(first, last)| first <= value && value <= last)
}

fn side_holds(spec: &AclSpec, side: &SideMatch, address: u128, port: u16) -> bool {
    !side.never
        && (side.nets.is_empty() || in_ranges(&side.nets, &address))
        && !in_ranges(&side.not_nets, &address)
        && side.sets.iter().all(|set| in_ranges(&spec.sets[*set], &address))
        && !side.not_sets.iter().any(|set| in_ranges(&spec.sets[*set], &address))
        && (side.ports.is_empty() || in_ranges(&side.ports, &port))
        && !in_ranges(&side.not_ports, &port)
}

fn walk(spec: &AclSpec, blocks: &[usize], question: &Question, log: &mut RuleIndex) -> Option<(Action, RuleIndex)> {
    for rule in blocks.iter().flat_map(|block| &spec.blocks[*block]) {
        let holds = rule.l4.holds(question.is_ipv4, question.protocol, question.icmp)
            && side_holds(spec, &rule.source, question.source, question.source_port)
            && side_holds(spec, &rule.destination, question.destination, question.destination_port);
        match rule.action {
            _ if !holds => {}
            Action::Log if log.is_none() => *log = rule.index,
            Action::Log => {}
            action => return Some((action, rule.index)),
        }
    }
    None
}

fn interpret(spec: &AclSpec, program: &ProgramSpec, question: &Question) -> Decision {
    let mut log = RuleIndex::NONE;
    for tier in &program.tiers {
        match (walk(spec, &tier.blocks, question, &mut log), tier.end) {
            (Some((Action::Allow, rule)), _) => return Decision { allow: true, rule, log },
            (Some((Action::Deny, rule)), _) | (None, TierEnd::Deny(rule)) => {
                return Decision { allow: false, rule, log };
            }
            _ => {}
        }
    }
    match walk(spec, &program.profiles, question, &mut log) {
        Some((action, rule)) => Decision { allow: action == Action::Allow, rule, log },
        None => Decision { allow: false, rule: program.no_match, log },
    }
}

const MAPPED: u128 = 0xffff_0000_0000;

fn range() -> impl Strategy<Value = AddressRange> {
    (0u128..32, 0u128..8).prop_map(|(first, length)| (MAPPED + first, MAPPED + first + length))
}

fn side(sets: usize) -> impl Strategy<Value = SideMatch> {
    let few_ranges = || prop_oneof![3 => Just(vec![]), 2 => prop::collection::vec(range(), 1..3)];
    let few_sets = || prop_oneof![3 => Just(vec![]), 1 => prop::collection::vec(0..sets, 1..3)];
    let few_ports = || {
        let port = (0u16..12, 0u16..4).prop_map(|(first, length)| (first, first + length));
        prop_oneof![3 => Just(vec![]), 1 => prop::collection::vec(port, 1..3)]
    };
    (few_ranges(), few_ranges(), few_sets(), few_sets(), few_ports(), few_ports(), prop::bool::weighted(0.03)).prop_map(
        |(nets, not_nets, sets, not_sets, ports, not_ports, never)| SideMatch {
            nets,
            never,
            not_nets,
            sets,
            not_sets,
            ports,
            not_ports,
        },
    )
}

fn l4() -> impl Strategy<Value = L4Match> {
    let protocol = || prop::option::weighted(0.3, prop::sample::select(vec![1u8, 6, 17, 58, 132]));
    let icmp = || {
        let one = (prop::sample::select(vec![0u8, 3, 8, 128]), prop::option::of(0u8..3));
        prop::option::weighted(0.2, one.prop_map(|(kind, code)| IcmpMatch { kind, code }))
    };
    (prop::option::weighted(0.2, any::<bool>()), protocol(), protocol(), icmp(), icmp()).prop_map(
        |(is_ipv4, protocol, not_protocol, icmp, not_icmp)| L4Match { is_ipv4, protocol, not_protocol, icmp, not_icmp },
    )
}

fn spec() -> impl Strategy<Value = AclSpec> {
    const SETS: usize = 4;
    let sets = prop::collection::vec(prop::collection::vec(range(), 0..5), SETS);
    let action = || prop::sample::select(vec![Action::Allow, Action::Deny, Action::Pass, Action::Log]);
    let rule = || (l4(), side(SETS), side(SETS), action());
    // Blocks past 64 rules use more than one word a row.
    let block = prop_oneof![4 => prop::collection::vec(rule(), 0..6), 1 => prop::collection::vec(rule(), 60..80)];
    let end = prop::bool::ANY;
    let tiers = prop::collection::vec((prop::collection::vec(0usize..6, 0..4), end), 0..4);
    (sets, prop::collection::vec(block, 6), tiers, prop::collection::vec(0usize..6, 0..2)).prop_map(
        |(sets, blocks, tiers, profiles)| {
            let mut next = 0;
            let mut index = || {
                next += 1;
                RuleIndex(next)
            };
            let blocks = blocks
                .into_iter()
                .map(|rules| {
                    let rules = rules.into_iter();
                    rules
                        .map(|(l4, source, destination, action)| RuleSpec {
                            l4,
                            source,
                            destination,
                            action,
                            index: index(),
                        })
                        .collect()
                })
                .collect();
            let tiers = tiers
                .into_iter()
                .map(|(blocks, denies)| TierSpec {
                    blocks,
                    end: if denies { TierEnd::Deny(index()) } else { TierEnd::Pass },
                })
                .collect();
            AclSpec { sets, blocks, programs: vec![ProgramSpec { tiers, profiles, no_match: index() }] }
        },
    )
}

fn question() -> impl Strategy<Value = Question> {
    let protocol = prop::sample::select(vec![1u8, 6, 17, 58, 132, 47]);
    (0u128..44, 0u128..44, any::<bool>(), protocol, 0u16..18, 0u16..18, 0usize..5, 0u8..4).prop_map(
        |(source, destination, is_ipv4, protocol, source_port, destination_port, kind, code)| Question {
            source: MAPPED + source,
            destination: MAPPED + destination,
            is_ipv4,
            protocol,
            source_port,
            destination_port,
            // As the parser gives it: ICMP in IPv4 and ICMPv6 in IPv6 have a type, nothing else has.
            icmp: matches!((is_ipv4, protocol), (true, 1) | (false, 58)).then(|| ([0, 3, 8, 128, 200][kind], code)),
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn compiled_equals_walk(spec in spec(), questions in prop::collection::vec(question(), 40)) {
        let acl = Acl::build(&spec);
        for question in questions {
            let compiled = acl.evaluate(ProgramIndex(0), &acl.classify(&question));
            prop_assert_eq!(compiled, interpret(&spec, &spec.programs[0], &question), "{:?}", question);
        }
    }
}

#[test]
fn unknown_program_denies() {
    let acl = Acl::default();
    let question = Question {
        source: 1,
        destination: 2,
        is_ipv4: true,
        protocol: 6,
        source_port: 1,
        destination_port: 2,
        icmp: None,
    };
    let decision = acl.evaluate(ProgramIndex(0), &acl.classify(&question));
    assert!(!decision.allow);
}
