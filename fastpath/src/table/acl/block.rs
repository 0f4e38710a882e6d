//! A block: one policy in one direction, compiled once and shared by every program that uses it.
//!
//! A rule is an AND of conditions on the fields of a packet. For every field that a rule constrains the block keeps rows of
//! bits, one bit per rule; a packet's value in the field leads to one row, and the rules that match are the AND of the rows:
//!
//!     l4, ports, nets    value ─steps─▶ row    the block's own                         (this file, steps.rs)
//!     sets, named ports  class ───────▶ row    beside those of all other blocks        (class_field.rs, class_rows.rs)
//!
//! A port matches by number OR by name. That is no AND, so such a rule stands there twice, once for each, with the same
//! answer.
//!
//! Invariants: rule order is bit order; bits beyond the last rule mean nothing.

use std::collections::{BTreeSet, HashMap};

use super::class_field::ClassField;
use super::class_rows::{BothRows, Row};
use super::rows::{Collector, Layout, Rows, Scan, set};
use super::spec::{Action, AddressRange, IcmpMatch, L4Match, RuleSpec, SideMatch};
use super::steps::{Run, Steps, holding};
use super::{Classes, EndClasses, is_port_set};
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

impl Block {
    pub(super) fn build(rules: &[RuleSpec]) -> Self {
        let rules: Vec<RuleSpec> = rules.iter().flat_map(by_number_or_name).collect();
        let layout = Layout::of(rules.len());
        Self {
            rules: rules.iter().map(|rule| (rule.action, rule.index)).collect(),
            layout,
            l4: L4Field::build(&rules, layout),
            source: SideFields::build(&rules, |rule| &rule.source, layout),
            destination: SideFields::build(&rules, |rule| &rule.destination, layout),
        }
    }

    /// The rows of a class of addresses, or of ports: of these sets, sorted.
    pub(super) fn rows_of(&self, sets: &[u32]) -> BothRows {
        [&self.source, &self.destination].map(|fields| {
            let field = if sets.first().is_some_and(|set| is_port_set(*set)) { &fields.named } else { &fields.sets };
            let field = field.as_ref()?;
            if self.layout.is_narrow() {
                let mut row = [0];
                return field.write_row(sets, self.layout, &mut row).then_some(Row::Narrow(row[0]));
            }
            let mut row = self.layout.row(true);
            field.write_row(sets, self.layout, &mut row).then(|| Row::Wide(row.into()))
        })
    }

    /// True when the block asks about ports of addresses.
    pub(super) fn asks_for_named_ports(&self) -> bool {
        self.source.named.is_some() || self.destination.named.is_some()
    }

    /// Of a narrow block the rules that hold for addresses outside of all sets, as source and as destination; of a wide one all.
    pub(super) fn otherwise(&self) -> [u64; 2] {
        [&self.source, &self.destination].map(|fields| match &fields.sets {
            Some(field) if self.layout.is_narrow() => field.otherwise()[0],
            _ => u64::MAX,
        })
    }

    /// The first matching rule that decides; `Log` rules before it are noted. `matching` are the rules of a narrow block that
    /// hold for the sets of both addresses.
    #[inline]
    pub(super) fn first_decision(
        &self,
        position: usize,
        matching: u64,
        packet: &Classes<'_>,
        scan: Scan,
        log: &mut RuleIndex,
    ) -> Option<(Action, RuleIndex)> {
        let question = &packet.question;
        let l4 = self.l4.as_ref().map(|field| field.row(question.is_ipv4, question.protocol, question.icmp));
        let ends = [(&self.source, &packet.source), (&self.destination, &packet.destination)];
        if self.layout.is_narrow() {
            let mut matching = matching & l4.map_or(u64::MAX, |row| row[0]);
            for (fields, end) in ends {
                if matching == 0 {
                    return None;
                }
                matching &= fields.narrow_row(position, end);
            }
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
        let mut rows: [&[u64]; ROWS_MAX] = [&[]; ROWS_MAX];
        let mut count = 0;
        let mut add = |row| {
            rows[count] = row;
            count += 1;
        };
        if let Some(row) = l4 {
            add(row);
        }
        for (fields, end) in ends {
            if let Some(field) = &fields.sets {
                add(end.rows.wide(position).unwrap_or(field.otherwise()));
            }
            if let Some(field) = &fields.nets {
                add(field.row(end.address));
            }
            if let Some(field) = &fields.ports {
                add(field.row(end.port));
            }
            if let Some(field) = &fields.named {
                add(end.port_rows.wide(position).unwrap_or(field.otherwise()));
            }
        }
        let mut from = 0;
        while let Some(bit) = scan(&rows[..count], self.layout, from) {
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
    fn build(rules: &[RuleSpec], side: fn(&RuleSpec) -> &SideMatch, layout: Layout) -> Self {
        let sides: Vec<&SideMatch> = rules.iter().map(side).collect();
        Self {
            nets: NetField::build(&sides, layout),
            ports: PortField::build(&sides, layout),
            sets: ClassField::of_sets(&sides, layout),
            named: ClassField::of_named_ports(&sides, layout),
        }
    }

    /// The rules of a narrow block that hold for this end; those for the sets of its address have been looked at.
    #[inline]
    fn narrow_row(&self, position: usize, end: &EndClasses<'_>) -> u64 {
        let mut row = u64::MAX;
        if let Some(field) = &self.ports {
            row &= field.row(end.port)[0];
        }
        if let Some(field) = &self.nets {
            row &= field.row(end.address)[0];
        }
        if let Some(field) = &self.named {
            row &= end.port_rows.narrow(position).unwrap_or(field.otherwise()[0]);
        }
        row
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
    steps: Steps<u16>,
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
        let steps = Steps::build(&runs, layout, &mut rows);
        Some(Self { steps, rows: rows.finish() })
    }

    #[inline]
    fn row(&self, port: u16) -> &[u64] {
        self.rows.row(self.steps.find(port))
    }
}

/// Protocols of a family.
const FAMILY: u16 = 256;

/// Family, protocol, ICMP type and code.
#[derive(Debug)]
struct L4Field {
    /// IPv6 protocols, then those of IPv4; for ICMP only where no rule looks at types.
    protocols: Steps<u16>,
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
        // A protocol that no rule mentions behaves like its neighbours.
        let around = mentioned.iter().flat_map(|number| [u16::from(*number), u16::from(*number) + 1]);
        let around: BTreeSet<u16> = around.chain([0]).filter(|number| *number < FAMILY).collect();
        let starts: Vec<u16> = around.iter().copied().chain(around.iter().map(|number| FAMILY + number)).collect();
        let protocols = starts.iter().map(|at| position_of(*at >= FAMILY, *at as u8, None)).collect();
        let protocols = Steps::new(starts, protocols);
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
        if let (Some((kind, code)), Some(steps)) = (icmp, &self.icmp[usize::from(is_ipv4)]) {
            return self.rows.row(steps.find(u16::from(kind) << 8 | u16::from(code)));
        }
        self.rows.row(self.protocols.find(FAMILY * u16::from(is_ipv4) + u16::from(number)))
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
