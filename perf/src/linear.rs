//! Policy by walking the rules in order: what the compiled form is compared with, in cost and in answers.

use fastpath::table::RuleIndex;
use fastpath::table::acl::{
    AclSpec, Action, Decision, Outcome, ProgramEnd, ProgramSpec, Question, RuleSpec, SideMatch, TierEnd,
};

/// What a program says, by its description.
pub fn evaluate(spec: &AclSpec, program: &ProgramSpec, question: &Question) -> Decision {
    let mut log = RuleIndex::NONE;
    for tier in &program.tiers {
        match (first_decision(spec, &tier.blocks, question, &mut log), tier.end) {
            (Some((Action::Allow, rule)), _) => return Decision { outcome: Outcome::Allow, rule, log },
            (Some((Action::Deny, rule)), _) | (None, TierEnd::Deny(rule)) => {
                return Decision { outcome: Outcome::Deny, rule, log };
            }
            _ => {}
        }
    }
    match (first_decision(spec, &program.profiles, question, &mut log), program.end) {
        (Some((Action::Allow, rule)), _) => Decision { outcome: Outcome::Allow, rule, log },
        (Some((_, rule)), _) | (None, ProgramEnd::Deny(rule)) => Decision { outcome: Outcome::Deny, rule, log },
        (None, ProgramEnd::Undecided) => Decision { outcome: Outcome::Undecided, rule: RuleIndex::NONE, log },
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
        && side_holds(spec, &rule.source, question.source, question.protocol, question.source_port)
        && side_holds(spec, &rule.destination, question.destination, question.protocol, question.destination_port)
}

fn side_holds(spec: &AclSpec, side: &SideMatch, address: u128, protocol: u8, port: u16) -> bool {
    let is_named = |set: &usize| spec.port_sets[*set].contains(&(address, protocol, port));
    let is_any_port = side.ports.is_empty() && side.named_ports.is_empty();
    !side.never
        && (side.nets.is_empty() || contains(&side.nets, address))
        && !contains(&side.not_nets, address)
        && side.sets.iter().all(|set| contains(&spec.sets[*set], address))
        && !side.not_sets.iter().any(|set| contains(&spec.sets[*set], address))
        && (is_any_port || contains(&side.ports, port) || side.named_ports.iter().any(is_named))
        && !contains(&side.not_ports, port)
        && !side.not_named_ports.iter().any(is_named)
        && side.services.iter().all(is_named)
}

fn contains<T: PartialOrd>(ranges: &[(T, T)], value: T) -> bool {
    ranges.iter().any(|(first, last)| *first <= value && value <= *last)
}
