//! Policy by walking the rules in order: what the compiled form is compared with, in cost and in answers.

use fastpath::table::RuleIndex;
use fastpath::table::acl::{AclSpec, Action, Decision, ProgramSpec, Question, RuleSpec, SideMatch, TierEnd};

/// What a program says, by its description.
pub fn evaluate(spec: &AclSpec, program: &ProgramSpec, question: &Question) -> Decision {
    let mut log = RuleIndex::NONE;
    for tier in &program.tiers {
        match (first_decision(spec, &tier.blocks, question, &mut log), tier.end) {
            (Some((Action::Allow, rule)), _) => return Decision { allow: true, rule, log },
            (Some((Action::Deny, rule)), _) | (None, TierEnd::Deny(rule)) => {
                return Decision { allow: false, rule, log };
            }
            _ => {}
        }
    }
    match first_decision(spec, &program.profiles, question, &mut log) {
        Some((action, rule)) => Decision { allow: action == Action::Allow, rule, log },
        None => Decision { allow: false, rule: program.no_match, log },
    }
}

fn first_decision(
    spec: &AclSpec,
    blocks: &[usize],
    question: &Question,
    log: &mut RuleIndex,
) -> Option<(Action, RuleIndex)> {
    for rule in blocks.iter().flat_map(|block| &spec.blocks[*block]) {
        if !holds(spec, rule, question) {
            continue;
        }
        if rule.action != Action::Log {
            return Some((rule.action, rule.index));
        }
        if log.is_none() {
            *log = rule.index;
        }
    }
    None
}

fn holds(spec: &AclSpec, rule: &RuleSpec, question: &Question) -> bool {
    rule.l4.holds(question.is_ipv4, question.protocol, question.icmp)
        && side_holds(spec, &rule.source, question.source, question.source_port)
        && side_holds(spec, &rule.destination, question.destination, question.destination_port)
}

fn side_holds(spec: &AclSpec, side: &SideMatch, address: u128, port: u16) -> bool {
    !side.never
        && (side.nets.is_empty() || contains(&side.nets, address))
        && !contains(&side.not_nets, address)
        && side.sets.iter().all(|set| contains(&spec.sets[*set], address))
        && !side.not_sets.iter().any(|set| contains(&spec.sets[*set], address))
        && (side.ports.is_empty() || contains(&side.ports, port))
        && !contains(&side.not_ports, port)
}

fn contains<T: PartialOrd>(ranges: &[(T, T)], value: T) -> bool {
    ranges.iter().any(|(first, last)| *first <= value && value <= *last)
}
