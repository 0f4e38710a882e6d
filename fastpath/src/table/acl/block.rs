//! A block: one policy in one direction, compiled once and shared by every program that uses it.
//!
//! A rule is an AND of conditions on the fields of a packet. For every field that a rule constrains the block keeps rows of
//! bits, one bit per rule; a packet's value in the field leads to one row, and the rules that match are the AND of the rows:
//!
//!     l4, ports, nets    value ─steps─▶ row    fixed when the block is made            (this file, steps.rs)
//!     sets, named ports  class ─map───▶ row    rows are added as classes appear        (classes.rs)
//!
//! A port matches by number OR by name. That is no AND, so such a rule stands there twice, once for each, with the same
//! answer.
//!
//! Invariants: rule order is bit order; bits beyond the last rule mean nothing.

use std::collections::{BTreeSet, HashMap};

use super::Classes;
use super::classes::{ClassField, Known};
use super::members::Class;
use super::rows::{Collector, Layout, Rows, Scan, set};
use super::spec::{Action, AddressRange, IcmpMatch, L4Match, RuleSpec, SideMatch};
use super::steps::{PortSteps, Run, Steps, holding};
use crate::flow::{MAPPED_PREFIX, mapped};
use crate::table::RuleIndex;

/// The most rows of one packet: l4, and of each side nets, sets, port and named port.
const ROWS_MAX: usize = 9;

/// The compiled rules of one policy in one direction.
#[derive(Debug)]
pub(super) struct Block {
    rules: Box<[(Action, RuleIndex)]>,
    layout: Layout,
    l4: Option<L4Field>,
    source: SideFields,
    destination: SideFields,
}

/// What a block asks about one side of a packet.
#[derive(Debug)]
struct SideFields {
    nets: Option<NetField>,
    sets: Option<ClassField>,
    ports: Option<PortField>,
    named: Option<ClassField>,
}

/// What is known of a block's rows; with control, beside the block.
pub(super) type BlockKnown = [Known; 4];

impl Block {
    /// `relevant` are the classes that there are and that contain a set the rules ask about.
    pub(super) fn build(rules: &[RuleSpec], relevant: &[(Class, &[u32])]) -> (Self, BlockKnown) {
        let rules: Vec<RuleSpec> = rules.iter().flat_map(by_number_or_name).collect();
        let layout = Layout::of(rules.len());
        let mut known = BlockKnown::default();
        let [sets_a, named_a, sets_b, named_b] = &mut known;
        let source = SideFields::build(&rules, |rule| &rule.source, layout, relevant, sets_a, named_a);
        let destination = SideFields::build(&rules, |rule| &rule.destination, layout, relevant, sets_b, named_b);
        let block = Self {
            rules: rules.iter().map(|rule| (rule.action, rule.index)).collect(),
            layout,
            l4: L4Field::build(&rules, layout),
            source,
            destination,
        };
        (block, known)
    }

    /// Makes room for a class before any member has it. False when there is none: the block has to be built anew.
    pub(super) fn learn(&self, class: Class, sets: &[u32], known: &mut BlockKnown) -> bool {
        let fields = [&self.source.sets, &self.source.named, &self.destination.sets, &self.destination.named];
        fields
            .into_iter()
            .zip(known)
            .all(|(field, known)| field.as_ref().is_none_or(|field| field.learn(class, sets, self.layout, known)))
    }

    /// True when the block asks about ports of addresses.
    pub(super) fn asks_for_named_ports(&self) -> bool {
        self.source.named.is_some() || self.destination.named.is_some()
    }

    /// The first matching rule that decides; `Log` rules before it are noted.
    #[inline]
    pub(super) fn first_decision(
        &self,
        packet: &Classes,
        scan: Scan,
        log: &mut RuleIndex,
    ) -> Option<(Action, RuleIndex)> {
        let mut rows: [&[u64]; ROWS_MAX] = [&[]; ROWS_MAX];
        let mut count = 0;
        let mut add = |row| {
            rows[count] = row;
            count += 1;
        };
        let question = &packet.question;
        let sides = [
            (&self.source, question.source, question.source_port, packet.source),
            (&self.destination, question.destination, question.destination_port, packet.destination),
        ];
        if let Some(field) = &self.l4 {
            add(field.row(question.is_ipv4, question.protocol, question.icmp));
        }
        for (fields, address, port, class) in sides {
            if let Some(field) = &fields.sets {
                add(field.row(class.address));
            }
            if let Some(field) = &fields.nets {
                add(field.row(address));
            }
            if let Some(field) = &fields.ports {
                add(field.row(port));
            }
            if let Some(field) = &fields.named {
                add(field.row(class.port));
            }
        }
        let rows = &rows[..count];
        if self.rules.len() <= 64 {
            let mut matching = rows.iter().fold(u64::MAX, |matching, row| matching & row[0]);
            while matching != 0 {
                let bit = matching.trailing_zeros() as usize;
                matching &= matching - 1;
                match self.rules.get(bit)? {
                    (Action::Log, rule) => note(log, *rule),
                    decision => return Some(*decision),
                }
            }
            return None;
        }
        let mut from = 0;
        while let Some(bit) = scan(rows, self.layout, from) {
            match self.rules.get(bit)? {
                (Action::Log, rule) => note(log, *rule),
                decision => return Some(*decision),
            }
            from = bit + 1;
        }
        None
    }
}

fn note(log: &mut RuleIndex, rule: RuleIndex) {
    if log.is_none() {
        *log = rule;
    }
}

fn source_of(rule: &mut RuleSpec) -> &mut SideMatch {
    &mut rule.source
}

fn destination_of(rule: &mut RuleSpec) -> &mut SideMatch {
    &mut rule.destination
}

/// The rule as it is, or one for numbered and one for named ports of a side that has both.
fn by_number_or_name(rule: &RuleSpec) -> Vec<RuleSpec> {
    let mut rules = vec![rule.clone()];
    for side in [source_of as fn(&mut RuleSpec) -> &mut SideMatch, destination_of] {
        rules = rules
            .into_iter()
            .flat_map(|mut by_number| {
                let mut by_name = by_number.clone();
                if side(&mut by_number).ports.is_empty() || side(&mut by_number).named_ports.is_empty() {
                    return vec![by_number];
                }
                side(&mut by_number).named_ports.clear();
                side(&mut by_name).ports.clear();
                vec![by_number, by_name]
            })
            .collect();
    }
    rules
}

impl SideFields {
    fn build(
        rules: &[RuleSpec],
        side: fn(&RuleSpec) -> &SideMatch,
        layout: Layout,
        relevant: &[(Class, &[u32])],
        sets: &mut Known,
        named: &mut Known,
    ) -> Self {
        let sides: Vec<&SideMatch> = rules.iter().map(side).collect();
        Self {
            nets: NetField::build(&sides, layout),
            ports: PortField::build(&sides, layout),
            sets: ClassField::of_sets(&sides, layout, relevant, sets),
            named: ClassField::of_named_ports(&sides, layout, relevant, named),
        }
    }
}

/// Prefixes that rules name. The two families have lines of their own: an IPv4 address is compared as the 32 bits it is.
#[derive(Debug)]
struct NetField {
    ipv4: Steps<u32>,
    ipv6: Steps<u128>,
    rows: Rows,
}

impl NetField {
    fn build(sides: &[&SideMatch], layout: Layout) -> Option<Self> {
        let is_free = |side: &&SideMatch| !side.never && side.nets.is_empty() && side.not_nets.is_empty();
        if sides.iter().all(is_free) {
            return None;
        }
        let runs: Vec<Option<Vec<AddressRange>>> = sides
            .iter()
            .map(|side| match is_free(side) {
                true => None,
                false if side.never => Some(Vec::new()),
                false => {
                    let wanted = (!side.nets.is_empty()).then_some(side.nets.as_slice());
                    Some(holding(wanted, &side.not_nets, u128::MAX))
                }
            })
            .collect();
        let ipv4: Vec<Option<Vec<Run<u32>>>> =
            runs.iter().map(|runs| runs.as_ref().map(|runs| runs.iter().filter_map(within_ipv4).collect())).collect();
        let mut rows = Collector::new(layout);
        let ipv4 = Steps::build(&ipv4, layout, &mut rows);
        let ipv6 = Steps::build(&runs, layout, &mut rows);
        Some(Self { ipv4, ipv6, rows: rows.finish() })
    }

    #[inline]
    fn row(&self, address: u128) -> &[u64] {
        let is_ipv4 = address >> 32 == MAPPED_PREFIX >> 32;
        self.rows.row(if is_ipv4 { self.ipv4.find(address as u32) } else { self.ipv6.find(address) })
    }
}

/// The part of a run that is IPv4.
fn within_ipv4(&(first, last): &AddressRange) -> Option<Run<u32>> {
    let (lowest, highest) = (mapped(0), mapped(u32::MAX));
    let (first, last) = (first.max(lowest), last.min(highest));
    (first <= last).then_some((first as u32, last as u32))
}

/// Ports by number.
#[derive(Debug)]
struct PortField {
    steps: PortSteps,
    rows: Rows,
}

impl PortField {
    fn build(sides: &[&SideMatch], layout: Layout) -> Option<Self> {
        let is_free = |side: &&SideMatch| side.ports.is_empty() && side.not_ports.is_empty();
        if sides.iter().all(is_free) {
            return None;
        }
        let runs: Vec<Option<Vec<Run<u16>>>> = sides
            .iter()
            .map(|side| {
                let wanted = (!side.ports.is_empty()).then_some(side.ports.as_slice());
                (!is_free(side)).then(|| holding(wanted, &side.not_ports, u16::MAX))
            })
            .collect();
        let mut rows = Collector::new(layout);
        let steps = PortSteps::new(Steps::build(&runs, layout, &mut rows));
        Some(Self { steps, rows: rows.finish() })
    }

    #[inline]
    fn row(&self, port: u16) -> &[u64] {
        self.rows.row(self.steps.find(port))
    }
}

/// Family, protocol, ICMP type and code.
#[derive(Debug)]
struct L4Field {
    /// By family and protocol; for ICMP only where no rule looks at types.
    protocols: Box<[u16; 512]>,
    /// ICMPv6 and ICMP, by type and code.
    icmp: [Option<Steps<u16>>; 2],
    rows: Rows,
}

impl L4Field {
    fn build(rules: &[RuleSpec], layout: Layout) -> Option<Self> {
        if rules.iter().all(|rule| rule.l4 == L4Match::default()) {
            return None;
        }
        // Few rules differ in this: each distinct condition is asked once, and answers for all of its rules.
        let mut masks: HashMap<L4Match, Vec<u64>> = HashMap::new();
        for (position, rule) in rules.iter().enumerate() {
            set(masks.entry(rule.l4).or_insert_with(|| layout.row(false)), position);
        }
        let mut rows = Collector::new(layout);
        let mut position_of = |is_ipv4: bool, number: u8, icmp: Option<(u8, u8)>| {
            let mut row = layout.row(false);
            for mask in masks.iter().filter(|(l4, _)| l4.holds(is_ipv4, number, icmp)).map(|(_, mask)| mask) {
                row.iter_mut().zip(mask).for_each(|(word, mask)| *word |= mask);
            }
            rows.position(&row)
        };
        let mentioned: BTreeSet<u8> = masks.keys().flat_map(|l4| [l4.protocol, l4.not_protocol]).flatten().collect();
        // A protocol that no rule mentions behaves like any other such protocol.
        let unmentioned = (0..=255).rev().find(|number| !mentioned.contains(number));
        let mut protocols = Box::new([0u16; 512]);
        for is_ipv4 in [false, true] {
            let family = usize::from(is_ipv4) << 8;
            if let Some(number) = unmentioned {
                protocols[family..family + 256].fill(position_of(is_ipv4, number, None) as u16);
            }
            for number in &mentioned {
                protocols[family | usize::from(*number)] = position_of(is_ipv4, *number, None) as u16;
            }
        }
        let types: BTreeSet<IcmpMatch> = masks.keys().flat_map(|l4| [l4.icmp, l4.not_icmp]).flatten().collect();
        let icmp = [(false, crate::header::protocol::ICMPV6), (true, crate::header::protocol::ICMP)].map(
            |(is_ipv4, number)| {
                (!types.is_empty()).then(|| {
                    let starts = icmp_starts(&types);
                    let positions =
                        starts.iter().map(|at| position_of(is_ipv4, number, Some((((at >> 8) as u8), *at as u8))));
                    let positions = positions.collect();
                    Steps::new(starts, positions)
                })
            },
        );
        Some(Self { protocols, icmp, rows: rows.finish() })
    }

    #[inline]
    fn row(&self, is_ipv4: bool, number: u8, icmp: Option<(u8, u8)>) -> &[u64] {
        let family = usize::from(is_ipv4);
        if let (Some((kind, code)), Some(steps)) = (icmp, &self.icmp[family]) {
            return self.rows.row(steps.find(u16::from(kind) << 8 | u16::from(code)));
        }
        self.rows.row(u32::from(self.protocols[family << 8 | usize::from(number)]))
    }
}

/// Types and codes, as one number, at which an answer may change.
fn icmp_starts(types: &BTreeSet<IcmpMatch>) -> Vec<u16> {
    let mut starts = BTreeSet::from([0u16]);
    for IcmpMatch { kind, code } in types {
        let kind = u16::from(*kind) << 8;
        let (first, last) = code.map_or((kind, kind | 0xff), |code| (kind | u16::from(code), kind | u16::from(code)));
        starts.insert(first);
        starts.extend(last.checked_add(1));
    }
    starts.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_of_both_sides_make_four_rules() {
        let side = |ports: &[(u16, u16)], named: &[usize]| SideMatch {
            ports: ports.to_vec(),
            named_ports: named.to_vec(),
            ..SideMatch::default()
        };
        let rule = |source, destination| RuleSpec {
            l4: L4Match::default(),
            source,
            destination,
            action: Action::Allow,
            index: RuleIndex(7),
        };
        assert_eq!(by_number_or_name(&rule(side(&[(1, 1)], &[2]), side(&[(3, 3)], &[4]))).len(), 4);
        assert_eq!(by_number_or_name(&rule(side(&[(1, 1)], &[2]), side(&[], &[4]))).len(), 2);
        assert_eq!(by_number_or_name(&rule(side(&[(1, 1)], &[]), side(&[], &[4]))).len(), 1);
    }
}
