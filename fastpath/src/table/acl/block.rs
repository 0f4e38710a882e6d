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
use super::rows::{Collector, Layout, Rows, Scan, scan_from, set};
use super::spec::{Action, AddressRange, IcmpMatch, L4Match, RuleSpec, SideMatch};
use super::steps::{Run, Steps, holding};
use super::{Classes, Question, is_port_set};
use crate::flow::{MAPPED_PREFIX, mapped};
use crate::table::RuleIndex;

/// The most rows of one packet: l4, and of each side nets, sets, port and named port.
const ROWS_MAX: usize = 9;

/// The compiled rules of one policy in one direction.
#[derive(Debug)]
pub(super) struct Block {
    rules: Box<[(Action, RuleIndex)]>,
    layout: Layout,
    /// What is asked by class, of the source and of the destination.
    classes: [ClassFields; 2],
    fields: BlockFields,
}

/// Sets and named ports of one side.
#[derive(Debug)]
struct ClassFields {
    sets: Option<ClassField>,
    named: Option<ClassField>,
}

/// What is asked of the packet itself.
#[derive(Debug)]
enum BlockFields {
    /// At most 64 rules: a step leads to the row itself.
    Narrow(Fields<u64>),
    /// More: to its position among these.
    Wide(Fields<u32>, Rows),
}

/// What is asked of a packet's fields, each of which leads to an `R`.
#[derive(Debug)]
struct Fields<R> {
    l4: Option<L4Field<R>>,
    source: SideFields<R>,
    destination: SideFields<R>,
}

#[derive(Debug)]
struct SideFields<R> {
    nets: Option<NetField<R>>,
    ports: Option<Steps<u16, R>>,
}

impl Block {
    /// Bytes on the heap, with its own.
    pub(super) fn size(&self) -> usize {
        let fields = match &self.fields {
            BlockFields::Narrow(fields) => fields.size(),
            BlockFields::Wide(fields, rows) => fields.size() + rows.size(),
        };
        let classes: usize =
            self.classes.iter().flat_map(|own| [&own.sets, &own.named]).flatten().map(ClassField::size).sum();
        size_of::<Self>() + size_of_val(&*self.rules) + fields + classes
    }

    pub(super) fn build(rules: &[RuleSpec]) -> Self {
        let rules: Vec<RuleSpec> = rules.iter().flat_map(by_number_or_name).collect();
        let layout = Layout::of(rules.len());
        let mut rows = Collector::new(layout);
        let fields = Fields {
            l4: L4Field::build(&rules, layout, &mut rows),
            source: SideFields::build(&rules, |rule| &rule.source, layout, &mut rows),
            destination: SideFields::build(&rules, |rule| &rule.destination, layout, &mut rows),
        };
        let rows = rows.finish();
        let classes = [
            ClassFields::build(&rules, |rule| &rule.source, layout),
            ClassFields::build(&rules, |rule| &rule.destination, layout),
        ];
        Self {
            rules: rules.iter().map(|rule| (rule.action, rule.index)).collect(),
            layout,
            classes,
            fields: match layout.is_narrow() {
                true => BlockFields::Narrow(fields.map(|position| rows.word(position))),
                false => BlockFields::Wide(fields, rows),
            },
        }
    }

    /// The rows of a class of addresses, or of ports: of these sets, sorted.
    pub(super) fn rows_of(&self, sets: &[u32]) -> BothRows {
        self.classes.each_ref().map(|fields| {
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

    /// True when the block asks about sets of addresses.
    pub(super) fn asks_for_sets(&self) -> bool {
        self.classes.iter().any(|fields| fields.sets.is_some())
    }

    /// True when the block asks about ports of addresses.
    pub(super) fn asks_for_named_ports(&self) -> bool {
        self.classes.iter().any(|fields| fields.named.is_some())
    }

    /// Of a narrow block the rules that hold for addresses outside of all sets, as source and as destination; of a wide one all.
    pub(super) fn otherwise(&self) -> [u64; 2] {
        self.classes.each_ref().map(|fields| match &fields.sets {
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
        match &self.fields {
            BlockFields::Narrow(fields) => {
                let mut matching = matching & self.narrow_row(fields, position, packet);
                while matching != 0 {
                    let bit = matching.trailing_zeros() as usize;
                    matching &= matching - 1;
                    match self.rules.get(bit)? {
                        (Action::Log, rule) => note(log, *rule),
                        decision => return Some(*decision),
                    }
                }
                None
            }
            BlockFields::Wide(fields, rows) => {
                let mut list = RowList::default();
                self.wide_rows(fields, rows, position, packet, &mut list);
                let mut found = scan(list.as_slice(), self.layout);
                while let Some(bit) = found {
                    match self.rules.get(bit)? {
                        (Action::Log, rule) => note(log, *rule),
                        decision => return Some(*decision),
                    }
                    found = scan_from(list.as_slice(), self.layout, bit + 1);
                }
                None
            }
        }
    }

    /// The rules of a narrow block that hold for a packet; those for the sets of its addresses have been looked at.
    #[inline(always)]
    fn narrow_row(&self, fields: &Fields<u64>, position: usize, packet: &Classes<'_>) -> u64 {
        let mut row = u64::MAX;
        fields.each(packet.question, |word| row &= word);
        for (own, end) in self.classes.iter().zip([&packet.source, &packet.destination]) {
            if let Some(field) = &own.named {
                row &= end.port_rows.narrow(position).unwrap_or(field.otherwise()[0]);
            }
        }
        row
    }

    /// The rows of a wide block for a packet.
    #[inline(always)]
    fn wide_rows<'a>(
        &'a self,
        fields: &Fields<u32>,
        rows: &'a Rows,
        position: usize,
        packet: &Classes<'a>,
        list: &mut RowList<'a>,
    ) {
        fields.each(packet.question, |row| list.add(rows.row(row)));
        for (own, end) in self.classes.iter().zip([&packet.source, &packet.destination]) {
            if let Some(field) = &own.sets {
                list.add(end.rows.wide(position).unwrap_or(field.otherwise()));
            }
            if let Some(field) = &own.named {
                list.add(end.port_rows.wide(position).unwrap_or(field.otherwise()));
            }
        }
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

impl ClassFields {
    fn build(rules: &[RuleSpec], side: fn(&RuleSpec) -> &SideMatch, layout: Layout) -> Self {
        let sides: Vec<&SideMatch> = rules.iter().map(side).collect();
        Self { sets: ClassField::of_sets(&sides, layout), named: ClassField::of_named_ports(&sides, layout) }
    }
}

impl Fields<u32> {
    /// With rows in place of their positions.
    fn map<R: Copy>(&self, row: impl Fn(u32) -> R + Copy) -> Fields<R> {
        let side = |fields: &SideFields<u32>| SideFields {
            nets: fields.nets.as_ref().map(|nets| NetField { ipv4: nets.ipv4.map(row), ipv6: nets.ipv6.map(row) }),
            ports: fields.ports.as_ref().map(|ports| ports.map(row)),
        };
        let l4 = self.l4.as_ref().map(|l4| L4Field {
            protocols: l4.protocols.map(row),
            icmp: l4.icmp.each_ref().map(|steps| steps.as_ref().map(|steps| steps.map(row))),
        });
        Fields { l4, source: side(&self.source), destination: side(&self.destination) }
    }
}

impl<R> Fields<R> {
    /// Bytes on the heap.
    fn size(&self) -> usize {
        let l4 = self
            .l4
            .as_ref()
            .map_or(0, |l4| l4.protocols.size() + l4.icmp.iter().flatten().map(Steps::size).sum::<usize>());
        let side = |fields: &SideFields<R>| {
            let nets = fields.nets.as_ref().map_or(0, |nets| nets.ipv4.size() + nets.ipv6.size());
            nets + fields.ports.as_ref().map_or(0, Steps::size)
        };
        l4 + side(&self.source) + side(&self.destination)
    }
}

impl<R: Copy> Fields<R> {
    /// Looks every field up that is asked about.
    #[inline(always)]
    fn each(&self, question: &Question, mut visit: impl FnMut(R)) {
        if let Some(field) = &self.l4 {
            visit(field.find(question.is_ipv4, question.protocol, question.icmp));
        }
        self.source.each(question.source, question.source_port, &mut visit);
        self.destination.each(question.destination, question.destination_port, &mut visit);
    }
}

impl<R: Copy> SideFields<R> {
    #[inline(always)]
    fn each(&self, address: u128, port: u16, visit: &mut impl FnMut(R)) {
        if let Some(field) = &self.ports {
            visit(field.find(port));
        }
        if let Some(field) = &self.nets {
            visit(field.find(address));
        }
    }
}

impl SideFields<u32> {
    fn build(
        rules: &[RuleSpec],
        side: fn(&RuleSpec) -> &SideMatch,
        layout: Layout,
        rows: &mut Collector,
    ) -> SideFields<u32> {
        let sides: Vec<&SideMatch> = rules.iter().map(side).collect();
        Self { nets: NetField::build(&sides, layout, rows), ports: ports(&sides, layout, rows) }
    }
}

/// The rows of one packet.
#[derive(Default)]
struct RowList<'a> {
    rows: [&'a [u64]; ROWS_MAX],
    count: usize,
}

impl<'a> RowList<'a> {
    #[inline(always)]
    fn add(&mut self, row: &'a [u64]) {
        if let Some(place) = self.rows.get_mut(self.count) {
            *place = row;
            self.count += 1;
        }
    }

    #[inline(always)]
    fn as_slice(&self) -> &[&'a [u64]] {
        self.rows.get(..self.count).unwrap_or_default()
    }
}

/// Prefixes that rules name. The two families have lines of their own: an IPv4 address is compared as the 32 bits it is.
#[derive(Debug)]
struct NetField<R> {
    ipv4: Steps<u32, R>,
    ipv6: Steps<u128, R>,
}

impl NetField<u32> {
    fn build(sides: &[&SideMatch], layout: Layout, rows: &mut Collector) -> Option<Self> {
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
        let ipv4 = Steps::build(&ipv4, layout, rows);
        let ipv6 = Steps::build(&runs, layout, rows);
        Some(Self { ipv4, ipv6 })
    }
}

impl<R: Copy> NetField<R> {
    #[inline(always)]
    fn find(&self, address: u128) -> R {
        let is_ipv4 = address >> 32 == MAPPED_PREFIX >> 32;
        if is_ipv4 { self.ipv4.find(address as u32) } else { self.ipv6.find(address) }
    }
}

/// The part of a run that is IPv4.
fn within_ipv4(&(first, last): &AddressRange) -> Option<Run<u32>> {
    let (lowest, highest) = (mapped(0), mapped(u32::MAX));
    let (first, last) = (first.max(lowest), last.min(highest));
    (first <= last).then_some((first as u32, last as u32))
}

/// Ports by number.
fn ports(sides: &[&SideMatch], layout: Layout, rows: &mut Collector) -> Option<Steps<u16, u32>> {
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
    Some(Steps::build(&runs, layout, rows))
}

/// Protocols of a family.
const FAMILY: u16 = 256;

/// Family, protocol, ICMP type and code.
#[derive(Debug)]
struct L4Field<R> {
    /// IPv6 protocols, then those of IPv4; for ICMP only where no rule looks at types.
    protocols: Steps<u16, R>,
    /// ICMPv6 and ICMP, by type and code.
    icmp: [Option<Steps<u16, R>>; 2],
}

impl L4Field<u32> {
    fn build(rules: &[RuleSpec], layout: Layout, rows: &mut Collector) -> Option<Self> {
        if rules.iter().all(|rule| rule.l4 == L4Match::default()) {
            return None;
        }
        // Few rules differ in this: each distinct condition is asked once, and answers for all of its rules.
        let mut masks: HashMap<L4Match, Vec<u64>> = HashMap::new();
        for (position, rule) in rules.iter().enumerate() {
            set(masks.entry(rule.l4).or_insert_with(|| layout.row(false)), position);
        }
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
        let protocols = Steps::new(starts, protocols, layout);
        let types: BTreeSet<IcmpMatch> = masks.keys().flat_map(|l4| [l4.icmp, l4.not_icmp]).flatten().collect();
        let icmp = [(false, crate::header::protocol::ICMPV6), (true, crate::header::protocol::ICMP)].map(
            |(is_ipv4, number)| {
                (!types.is_empty()).then(|| {
                    let starts = icmp_starts(&types);
                    let positions =
                        starts.iter().map(|at| position_of(is_ipv4, number, Some((((at >> 8) as u8), *at as u8))));
                    let positions = positions.collect();
                    Steps::new(starts, positions, layout)
                })
            },
        );
        Some(Self { protocols, icmp })
    }
}

impl<R: Copy> L4Field<R> {
    #[inline(always)]
    fn find(&self, is_ipv4: bool, number: u8, icmp: Option<(u8, u8)>) -> R {
        if let (Some((kind, code)), Some(steps)) = (icmp, &self.icmp[usize::from(is_ipv4)]) {
            return steps.find(u16::from(kind) << 8 | u16::from(code));
        }
        self.protocols.find(FAMILY * u16::from(is_ipv4) + u16::from(number))
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
