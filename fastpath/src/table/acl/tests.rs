//! The compiled policy against the obvious one: walk the rules in order.

use super::*;
use proptest::prelude::*;

fn in_ranges<T: PartialOrd>(ranges: &[(T, T)], value: &T) -> bool {
    ranges.iter().any(|(first, last)| first <= value && value <= last)
}

fn side_holds(spec: &AclSpec, side: &SideMatch, address: u128, protocol: u8, port: u16) -> bool {
    let is_named = |sets: &[usize]| sets.iter().any(|set| spec.port_sets[*set].contains(&(address, protocol, port)));
    let is_any_port = side.ports.is_empty() && side.named_ports.is_empty();
    !side.never
        && (side.nets.is_empty() || in_ranges(&side.nets, &address))
        && !in_ranges(&side.not_nets, &address)
        && side.sets.iter().all(|set| in_ranges(&spec.sets[*set], &address))
        && !side.not_sets.iter().any(|set| in_ranges(&spec.sets[*set], &address))
        && (is_any_port || in_ranges(&side.ports, &port) || is_named(&side.named_ports))
        && !in_ranges(&side.not_ports, &port)
        && !is_named(&side.not_named_ports)
        && side.services.iter().all(|set| is_named(&[*set]))
}

fn walk(spec: &AclSpec, blocks: &[usize], question: &Question, log: &mut RuleIndex) -> Option<(Action, RuleIndex)> {
    for rule in blocks.iter().flat_map(|block| &spec.blocks[*block]) {
        let holds = rule.l4.holds(question.is_ipv4, question.protocol, question.icmp)
            && side_holds(spec, &rule.source, question.source, question.protocol, question.source_port)
            && side_holds(spec, &rule.destination, question.destination, question.protocol, question.destination_port);
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
            (Some((Action::Allow, rule)), _) => return Decision { outcome: Outcome::Allow, rule, log },
            (Some((Action::Deny, rule)), _) | (None, TierEnd::Deny(rule)) => {
                return Decision { outcome: Outcome::Deny, rule, log };
            }
            _ => {}
        }
    }
    match (walk(spec, &program.profiles, question, &mut log), program.end) {
        (Some((Action::Allow, rule)), _) => Decision { outcome: Outcome::Allow, rule, log },
        (Some((_, rule)), _) | (None, ProgramEnd::Deny(rule)) => Decision { outcome: Outcome::Deny, rule, log },
        (None, ProgramEnd::Undecided) => Decision { outcome: Outcome::Undecided, rule: RuleIndex::NONE, log },
    }
}

const MAPPED: u128 = 0xffff_0000_0000;

fn range() -> impl Strategy<Value = AddressRange> {
    (0u128..32, 0u128..8).prop_map(|(first, length)| (MAPPED + first, MAPPED + first + length))
}

const SETS: usize = 5;

fn side() -> impl Strategy<Value = SideMatch> {
    let few_ranges = || prop_oneof![3 => Just(vec![]), 2 => prop::collection::vec(range(), 1..3)];
    let few_sets = || prop_oneof![3 => Just(vec![]), 1 => prop::collection::vec(0..SETS, 1..3)];
    let few_named = || prop_oneof![8 => Just(vec![]), 1 => prop::collection::vec(0..SETS, 1..3)];
    let few_ports = || {
        let port = (0u16..12, 0u16..4).prop_map(|(first, length)| (first, first + length));
        prop_oneof![3 => Just(vec![]), 1 => prop::collection::vec(port, 1..3)]
    };
    let addresses = (few_ranges(), few_ranges(), few_sets(), few_sets(), prop::bool::weighted(0.03));
    let ports = (few_ports(), few_ports(), few_named(), few_named(), few_named());
    (addresses, ports).prop_map(|((nets, not_nets, sets, not_sets, never), ports)| {
        let (ports, not_ports, named_ports, not_named_ports, services) = ports;
        SideMatch { nets, never, not_nets, sets, not_sets, ports, named_ports, not_ports, not_named_ports, services }
    })
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

/// Members of a set: single addresses, and prefixes.
fn set() -> impl Strategy<Value = Vec<AddressRange>> {
    let member = prop_oneof![3 => (0u128..40).prop_map(|at| (MAPPED + at, MAPPED + at)), 1 => range()];
    prop::collection::btree_set(member, 0..8).prop_map(|set| set.into_iter().collect())
}

fn ports_set() -> impl Strategy<Value = Vec<PortMember>> {
    let member = (0u128..40, prop::sample::select(vec![6u8, 17]), 0u16..18);
    let member = member.prop_map(|(address, protocol, port)| (MAPPED + address, protocol, port));
    prop::collection::btree_set(member, 0..30).prop_map(|set| set.into_iter().collect())
}

/// A rule without its number.
type Unnumbered = (L4Match, SideMatch, SideMatch, Action);

/// Blocks past 64 rules use more than one word a row, past 512 a summary.
fn block() -> impl Strategy<Value = Vec<Unnumbered>> {
    let action = || prop::sample::select(vec![Action::Allow, Action::Deny, Action::Pass, Action::Log]);
    let rule = || (l4(), side(), side(), action());
    prop_oneof![
        8 => prop::collection::vec(rule(), 0..6),
        2 => prop::collection::vec(rule(), 60..80),
        1 => prop::collection::vec(rule(), 500..600),
    ]
}

fn numbered(rules: Vec<Unnumbered>, next: &mut u32) -> Vec<RuleSpec> {
    let number = |(l4, source, destination, action)| {
        *next += 1;
        RuleSpec { l4, source, destination, action, index: RuleIndex(*next) }
    };
    rules.into_iter().map(number).collect()
}

fn spec() -> impl Strategy<Value = AclSpec> {
    let sets = (prop::collection::vec(set(), SETS), prop::collection::vec(ports_set(), SETS));
    let tiers = prop::collection::vec((prop::collection::vec(0usize..6, 0..4), any::<bool>()), 0..4);
    let profiles = prop::collection::vec(0usize..6, 0..2);
    (sets, prop::collection::vec(block(), 6), tiers, profiles, any::<bool>()).prop_map(
        |((sets, port_sets), blocks, tiers, profiles, denies)| {
            let mut next = 0;
            let blocks = blocks.into_iter().map(|rules| numbered(rules, &mut next)).collect();
            let mut end = || {
                next += 1;
                RuleIndex(next)
            };
            let tiers = tiers
                .into_iter()
                .map(|(blocks, denies)| TierSpec {
                    blocks,
                    end: if denies { TierEnd::Deny(end()) } else { TierEnd::Pass },
                })
                .collect();
            let end = if denies { ProgramEnd::Deny(end()) } else { ProgramEnd::Undecided };
            AclSpec { sets, port_sets, blocks, programs: vec![ProgramSpec { tiers, profiles, end }] }
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

fn agrees(acl: &Acl, spec: &AclSpec, question: &Question) -> Result<(), TestCaseError> {
    let packet = acl.classify(question);
    let expected = interpret(spec, &spec.programs[0], question);
    prop_assert_eq!(acl.evaluate(ProgramIndex(0), &packet), expected, "{:?}", question);
    prop_assert_eq!(acl.evaluate_plainly(ProgramIndex(0), &packet), expected, "{:?}", question);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn compiled_equals_walk(spec in spec(), questions in prop::collection::vec(question(), 40)) {
        let acl = Acl::build(&spec);
        for question in questions {
            agrees(&acl, &spec, &question)?;
        }
    }
}

/// One step of a life: sets and blocks that get other contents; and whether workers are done with all that came before.
#[derive(Debug, Clone)]
struct Edit {
    is_settled: bool,
    sets: Vec<(usize, Vec<AddressRange>)>,
    port_sets: Vec<(usize, Vec<PortMember>)>,
    blocks: Vec<(usize, Vec<Unnumbered>)>,
}

fn edit() -> impl Strategy<Value = Edit> {
    let sets = prop::collection::vec((0..SETS, set()), 0..3);
    let port_sets = prop::collection::vec((0..SETS, ports_set()), 0..2);
    let blocks = prop_oneof![2 => Just(vec![]), 1 => prop::collection::vec((0usize..6, block()), 1..3)];
    (any::<bool>(), sets, port_sets, blocks).prop_map(|(is_settled, sets, port_sets, blocks)| Edit {
        is_settled,
        sets,
        port_sets,
        blocks,
    })
}

fn difference<T: PartialEq + Copy>(new: &[T], old: &[T]) -> Vec<T> {
    new.iter().filter(|item| !old.contains(item)).copied().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    /// However it came about, the policy is the one that is described; and a snapshot that workers still use says, after
    /// later changes, what its rules say with the members of then, of now, or of a time between: never anything else.
    #[test]
    fn edited_equals_walk(
        first in spec(),
        edits in prop::collection::vec(edit(), 1..12),
        questions in prop::collection::vec(question(), 40),
    ) {
        let mut spec = first;
        let mut editor = Editor::default();
        spec.sets.iter().enumerate().for_each(|(set, members)| editor.change_set(set, members, &[]));
        spec.port_sets.iter().enumerate().for_each(|(set, members)| editor.change_port_set(set, members, &[]));
        spec.blocks.iter().enumerate().for_each(|(block, rules)| editor.put_block(block, rules.clone()));
        editor.set_programs(spec.programs.clone());
        let mut read = vec![(editor.commit(), vec![spec.clone()])];
        let mut next = 1_000_000;
        for edit in edits {
            if edit.is_settled {
                read.drain(..read.len() - 1);
            }
            for (set, members) in edit.sets {
                let added = difference(&members, &spec.sets[set]);
                let removed = difference(&spec.sets[set], &members);
                editor.change_set(set, &added, &removed);
                spec.sets[set] = members;
            }
            for (set, members) in edit.port_sets {
                let added = difference(&members, &spec.port_sets[set]);
                let removed = difference(&spec.port_sets[set], &members);
                editor.change_port_set(set, &added, &removed);
                spec.port_sets[set] = members;
            }
            for (block, rules) in edit.blocks {
                spec.blocks[block] = numbered(rules, &mut next);
                editor.put_block(block, spec.blocks[block].clone());
            }
            let acl = editor.commit();
            for question in &questions {
                agrees(&acl, &spec, question)?;
            }
            for (old, described) in &mut read {
                let (sets, port_sets) = (spec.sets.clone(), spec.port_sets.clone());
                described.push(AclSpec { sets, port_sets, ..described[0].clone() });
                for question in &questions {
                    let said = old.evaluate(ProgramIndex(0), &old.classify(question));
                    let is_meant = described.iter().any(|spec| said == interpret(spec, &spec.programs[0], question));
                    prop_assert!(is_meant, "{:?} says {:?}", question, said);
                }
            }
            read.push((acl, vec![spec.clone()]));
        }
    }
}

#[test]
fn classes_that_nobody_has_are_forgotten() {
    let mut editor = Editor::default();
    let rule = |set: usize| RuleSpec {
        l4: L4Match::default(),
        source: SideMatch { sets: vec![set], ..SideMatch::default() },
        destination: SideMatch::default(),
        action: Action::Allow,
        index: RuleIndex(set as u32),
    };
    editor.put_block(0, (0..16).map(rule).collect());
    let tier = TierSpec { blocks: vec![0], end: TierEnd::Deny(RuleIndex(99)) };
    editor.set_programs(vec![ProgramSpec {
        tiers: vec![tier],
        profiles: vec![],
        end: ProgramEnd::Deny(RuleIndex(98)),
    }]);
    let question = Question {
        source: MAPPED + 1,
        destination: MAPPED + 2,
        is_ipv4: true,
        protocol: 6,
        source_port: 1,
        destination_port: 2,
        icmp: None,
    };
    // One address goes through every combination of 16 sets, by one set at a time.
    let address = [(MAPPED + 1, MAPPED + 1)];
    let mut inside = 0u32;
    for step in 1..40_000u32 {
        let set = step.trailing_zeros().min(15) as usize;
        inside ^= 1 << set;
        match inside >> set & 1 {
            1 => editor.change_set(set, &address, &[]),
            _ => editor.change_set(set, &[], &address),
        }
        let acl = editor.commit();
        let decision = acl.evaluate(ProgramIndex(0), &acl.classify(&question));
        let expected = if inside == 0 { 99 } else { inside.trailing_zeros() };
        assert_eq!(decision.rule, RuleIndex(expected), "{inside:016b}");
    }
    assert!(editor.known_classes() < 10_000, "{} classes", editor.known_classes());
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
    assert_eq!(decision.outcome, Outcome::Deny);
}
