//! Policy: which rule decides a packet, by class-based bit vectors.
//!
//! Every field of a packet is mapped to a *class* once: two addresses (ports, protocols) that no rule tells apart are
//! in one class. A *block* is one policy in one direction; for every class of a field it holds a row of bits, one bit
//! per rule, set where the rule's condition on that field holds. The rules that match are the AND of five rows; the
//! first one is the lowest set bit. A *program* is what an endpoint enforces in one direction: tiers of blocks.
//!
//!     source ──▶ class ──▶ row  0 1 1 0 1 ┐
//!     dest.  ──▶ class ──▶ row  1 1 1 0 0 │
//!     l4     ──▶ class ──▶ row  1 1 0 0 1 ├─ AND ─▶ 0 1 0 0 0 ─▶ rule 1 decides
//!     sport  ──▶ class ──▶ row  1 1 1 1 1 │
//!     dport  ──▶ class ──▶ row  0 1 0 1 1 ┘
//!
//! Invariants: classes split a field at least as finely as every condition in use, so the AND is exact; rule order is
//! bit order; blocks are shared by all programs that name them.
//! Left out: editing. [`Acl::build`] makes a new one; `rcu` swaps it in.
//! See: Lakshman, Stiliadis, "High-Speed Policy-Based Packet Forwarding Using Efficient Multi-Dimensional Range
//! Matching", 1998; the verdict rules are those of Calico.

mod class;

use super::{ProgramIndex, RuleIndex};
use class::{AddressClasses, L4Classes, PortClasses};

/// First and last of a run of addresses; IPv4 mapped into IPv6.
pub type AddressRange = (u128, u128);
/// First and last of a run of ports.
pub type PortRange = (u16, u16);

/// What a matching rule does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    Allow,
    Deny,
    /// Leave this tier for the next.
    Pass,
    /// Note it and go on to the next rule.
    Log,
}

/// The condition on protocol and ICMP type.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash, PartialOrd, Ord)]
pub struct L4Match {
    pub is_ipv4: Option<bool>,
    pub protocol: Option<u8>,
    pub not_protocol: Option<u8>,
    pub icmp: Option<IcmpMatch>,
    pub not_icmp: Option<IcmpMatch>,
}

/// An ICMP type, and possibly a code.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub struct IcmpMatch {
    pub kind: u8,
    pub code: Option<u8>,
}

impl IcmpMatch {
    fn holds(self, kind: u8, code: u8) -> bool {
        self.kind == kind && self.code.is_none_or(|wanted| wanted == code)
    }
}

impl L4Match {
    /// The condition itself; ICMP conditions say nothing about other protocols.
    pub fn holds(&self, is_ipv4: bool, protocol: u8, icmp: Option<(u8, u8)>) -> bool {
        self.is_ipv4.is_none_or(|wanted| wanted == is_ipv4)
            && self.protocol.is_none_or(|wanted| wanted == protocol)
            && self.not_protocol.is_none_or(|unwanted| unwanted != protocol)
            && self.icmp.is_none_or(|wanted| icmp.is_some_and(|(kind, code)| wanted.holds(kind, code)))
            && self.not_icmp.is_none_or(|unwanted| !icmp.is_some_and(|(kind, code)| unwanted.holds(kind, code)))
    }
}

/// The condition on one side of a packet. Empty positive lists do not constrain.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SideMatch {
    /// The address is in one of these, unless there are none.
    pub nets: Vec<AddressRange>,
    /// The rule had nets, but none of the packet's family: it can not match.
    pub never: bool,
    pub not_nets: Vec<AddressRange>,
    /// The address is in all of these sets (positions in [`AclSpec::sets`]).
    pub sets: Vec<usize>,
    pub not_sets: Vec<usize>,
    pub ports: Vec<PortRange>,
    pub not_ports: Vec<PortRange>,
}

/// A rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RuleSpec {
    pub l4: L4Match,
    pub source: SideMatch,
    pub destination: SideMatch,
    pub action: Action,
    pub index: RuleIndex,
}

/// What happens after the last policy of a tier.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TierEnd {
    /// Deny, counted under this index.
    Deny(RuleIndex),
    Pass,
}

/// A tier of a program: its blocks in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TierSpec {
    pub blocks: Vec<usize>,
    pub end: TierEnd,
}

/// What one endpoint enforces in one direction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProgramSpec {
    pub tiers: Vec<TierSpec>,
    pub profiles: Vec<usize>,
    /// Counted when nothing decided: deny.
    pub no_match: RuleIndex,
}

/// Everything an [`Acl`] is built from.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AclSpec {
    pub sets: Vec<Vec<AddressRange>>,
    pub blocks: Vec<Vec<RuleSpec>>,
    pub programs: Vec<ProgramSpec>,
}

/// The fields of a packet that rules look at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Question {
    pub source: u128,
    pub destination: u128,
    pub is_ipv4: bool,
    pub protocol: u8,
    pub source_port: u16,
    pub destination_port: u16,
    /// Type and code when the protocol is ICMP or ICMPv6.
    pub icmp: Option<(u8, u8)>,
}

/// The answer, and the rule that gave it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decision {
    pub allow: bool,
    pub rule: RuleIndex,
    /// The first `Log` rule on the way, or NONE.
    pub log: RuleIndex,
}

/// The classes of a packet's fields, found once and used for every program it has to pass.
#[derive(Clone, Copy, Debug)]
pub struct Classes {
    source: u32,
    destination: u32,
    l4: u32,
    source_port: u32,
    destination_port: u32,
}

/// The compiled policy of a node.
#[derive(Debug, Default)]
pub struct Acl {
    addresses: AddressClasses,
    ports: PortClasses,
    l4: L4Classes,
    blocks: Vec<Block>,
    programs: Vec<ProgramSpec>,
}

/// One policy in one direction.
#[derive(Debug)]
struct Block {
    rules: Vec<(Action, RuleIndex)>,
    /// 64-bit words per row.
    words: usize,
    fields: [Rows; 5],
}

/// For every class of a field, one bit per rule; empty when no rule constrains the field.
#[derive(Debug)]
struct Rows(Vec<u64>);

impl Acl {
    /// Compiles. The description's indexes must be within its own lists.
    pub fn build(spec: &AclSpec) -> Self {
        let sides = || spec.blocks.iter().flatten().flat_map(|rule| [&rule.source, &rule.destination]);
        let addresses =
            AddressClasses::build(sides().flat_map(|s| s.nets.iter().chain(&s.not_nets).copied()), &spec.sets);
        let ports = PortClasses::build(sides().flat_map(|side| side.ports.iter().chain(&side.not_ports).copied()));
        let l4 = L4Classes::build(spec.blocks.iter().flatten().map(|rule| rule.l4));
        let blocks = spec.blocks.iter().map(|rules| Block::build(rules, &addresses, &ports, &l4)).collect();
        Self { addresses, ports, l4, blocks, programs: spec.programs.clone() }
    }

    /// The classes of a packet's fields.
    pub fn classify(&self, question: &Question) -> Classes {
        Classes {
            source: self.addresses.class(question.source),
            destination: self.addresses.class(question.destination),
            l4: self.l4.class(question.is_ipv4, question.protocol, question.icmp),
            source_port: self.ports.class(question.source_port),
            destination_port: self.ports.class(question.destination_port),
        }
    }

    /// What a program says to a packet of these classes. An unknown program denies.
    pub fn evaluate(&self, program: ProgramIndex, classes: &Classes) -> Decision {
        let mut log = RuleIndex::NONE;
        let Some(program) = self.programs.get(program.index()) else {
            return Decision { allow: false, rule: RuleIndex::NONE, log };
        };
        for tier in &program.tiers {
            match self.first_decision(&tier.blocks, classes, &mut log) {
                Some((Action::Allow, rule)) => return Decision { allow: true, rule, log },
                Some((Action::Deny, rule)) => return Decision { allow: false, rule, log },
                Some((Action::Pass | Action::Log, _)) => {}
                None => {
                    if let TierEnd::Deny(rule) = tier.end {
                        return Decision { allow: false, rule, log };
                    }
                }
            }
        }
        match self.first_decision(&program.profiles, classes, &mut log) {
            Some((Action::Allow, rule)) => Decision { allow: true, rule, log },
            // In a profile there is no next tier: Pass ends the evaluation, and nothing allowed the packet.
            Some((_, rule)) => Decision { allow: false, rule, log },
            None => Decision { allow: false, rule: program.no_match, log },
        }
    }

    fn first_decision(&self, blocks: &[usize], classes: &Classes, log: &mut RuleIndex) -> Option<(Action, RuleIndex)> {
        blocks.iter().find_map(|block| self.blocks[*block].first_decision(classes, log))
    }
}

impl Block {
    fn build(rules: &[RuleSpec], addresses: &AddressClasses, ports: &PortClasses, l4: &L4Classes) -> Self {
        let words = rules.len().div_ceil(64);
        let side = |select: fn(&RuleSpec) -> &SideMatch| {
            Rows::build(rules, words, addresses.len(), |rule| addresses.condition(select(rule)))
        };
        let port = |select: fn(&RuleSpec) -> &SideMatch| {
            Rows::build(rules, words, ports.len(), |rule| ports.condition(select(rule)))
        };
        let fields = [
            side(|rule| &rule.source),
            side(|rule| &rule.destination),
            Rows::build(rules, words, l4.len(), |rule| l4.condition(rule.l4)),
            port(|rule| &rule.source),
            port(|rule| &rule.destination),
        ];
        Self { rules: rules.iter().map(|rule| (rule.action, rule.index)).collect(), words, fields }
    }

    /// The first matching rule that decides; `Log` rules before it are noted.
    #[inline]
    fn first_decision(&self, classes: &Classes, log: &mut RuleIndex) -> Option<(Action, RuleIndex)> {
        let classes = [classes.source, classes.destination, classes.l4, classes.source_port, classes.destination_port];
        for word in 0..self.words {
            let mut matching = u64::MAX;
            for (rows, class) in self.fields.iter().zip(classes) {
                matching &= rows.word(class, word, self.words);
            }
            while matching != 0 {
                let bit = matching.trailing_zeros() as usize;
                matching &= matching - 1;
                // Unconstrained fields have bits beyond the last rule set.
                let Some(&(action, rule)) = self.rules.get(word * 64 + bit) else { break };
                if action != Action::Log {
                    return Some((action, rule));
                }
                if log.is_none() {
                    *log = rule;
                }
            }
        }
        None
    }
}

impl Rows {
    /// `condition` gives, for a rule, the test of a class, or `None` when the rule does not constrain the field.
    fn build<F: Fn(u32) -> bool>(
        rules: &[RuleSpec],
        words: usize,
        classes: usize,
        condition: impl Fn(&RuleSpec) -> Option<F>,
    ) -> Self {
        let conditions: Vec<Option<F>> = rules.iter().map(condition).collect();
        if conditions.iter().all(Option::is_none) {
            return Self(Vec::new());
        }
        let mut rows = vec![0u64; classes * words];
        for (position, condition) in conditions.iter().enumerate() {
            for class in 0..classes {
                if condition.as_ref().is_none_or(|holds| holds(class as u32)) {
                    rows[class * words + position / 64] |= 1 << (position % 64);
                }
            }
        }
        Self(rows)
    }

    #[inline(always)]
    fn word(&self, class: u32, word: usize, words: usize) -> u64 {
        if self.0.is_empty() { u64::MAX } else { self.0[class as usize * words + word] }
    }
}

#[cfg(test)]
mod tests;
