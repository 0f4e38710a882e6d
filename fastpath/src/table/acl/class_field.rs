//! A field that is asked by class: which rules of a block hold for members of these sets.
//!
//!     asked   set 3: rules 0, 4 inside │ set 8: rule 1 outside │ …      sorted by set, so is a class: one walk along both
//!
//! Invariants: the row depends on nothing but which of the asked sets the class contains; a class that contains none of them
//! has the row `otherwise`.

use std::collections::{BTreeMap, BTreeSet};

use super::rows::{Layout, clear};
use super::spec::SideMatch;
use super::{address_set, port_set};

/// What the rules of a block want of an address, or of a port, at one side.
#[derive(Debug)]
pub(super) struct ClassField {
    /// Every set that is asked about, sorted.
    asked: Box<[Asked]>,
    /// Rules, as `asked` divides them.
    rules: Box<[u32]>,
    /// Rules that hold inside any of several sets.
    any: Box<[(u32, Box<[u32]>)]>,
    otherwise: Box<[u64]>,
}

/// A set, and where its rules end: first those that hold only inside of it, then those that hold only outside.
#[derive(Debug)]
struct Asked {
    set: u32,
    inside: u32,
    outside: u32,
}

impl ClassField {
    /// Bytes on the heap.
    pub(super) fn size(&self) -> usize {
        let any: usize = self.any.iter().map(|(_, sets)| size_of_val(&**sets)).sum();
        size_of_val(&*self.asked)
            + size_of_val(&*self.rules)
            + size_of_val(&*self.any)
            + any
            + size_of_val(&*self.otherwise)
    }

    /// Conditions on the address; none when there are none.
    pub(super) fn of_sets(sides: &[&SideMatch], layout: Layout) -> Option<Self> {
        let mut conditions = Conditions::default();
        for (rule, side) in (0..).zip(sides) {
            side.sets.iter().for_each(|set| conditions.require(rule, address_set(*set)));
            side.not_sets.iter().for_each(|set| conditions.exclude(rule, address_set(*set)));
        }
        conditions.finish(layout)
    }

    /// Conditions on address, protocol and port together.
    pub(super) fn of_named_ports(sides: &[&SideMatch], layout: Layout) -> Option<Self> {
        let mut conditions = Conditions::default();
        for (rule, side) in (0..).zip(sides) {
            side.services.iter().for_each(|set| conditions.require(rule, port_set(*set)));
            side.not_named_ports.iter().for_each(|set| conditions.exclude(rule, port_set(*set)));
            if !side.named_ports.is_empty() {
                conditions.require_any(rule, side.named_ports.iter().map(|set| port_set(*set)).collect());
            }
        }
        conditions.finish(layout)
    }

    /// The row of classes that contain no set that is asked about.
    #[inline(always)]
    pub(super) fn otherwise(&self) -> &[u64] {
        &self.otherwise
    }

    /// Writes the row of the class of these sets, sorted. False when none of them is asked about.
    pub(super) fn write_row(&self, sets: &[u32], layout: Layout, row: &mut [u64]) -> bool {
        row.fill(u64::MAX);
        let mut sets_left = sets.iter().copied().peekable();
        let mut is_asked = false;
        let mut start = 0;
        for asked in &self.asked {
            while sets_left.next_if(|set| *set < asked.set).is_some() {}
            let is_inside = sets_left.peek() == Some(&asked.set);
            is_asked |= is_inside;
            let (inside, outside) = (asked.inside as usize, asked.outside as usize);
            let fails = if is_inside { inside..outside } else { start..inside };
            self.rules[fails].iter().for_each(|rule| clear(row, *rule as usize));
            start = outside;
        }
        for (rule, wanted) in &self.any {
            if !wanted.iter().any(|set| sets.binary_search(set).is_ok()) {
                clear(row, *rule as usize);
            }
        }
        layout.summarise(row);
        is_asked
    }
}

/// The same while it is being gathered: per set, rules that hold only inside, and only outside.
#[derive(Default)]
struct Conditions {
    by_set: BTreeMap<u32, [BTreeSet<u32>; 2]>,
    any: Vec<(u32, Box<[u32]>)>,
}

impl Conditions {
    fn require(&mut self, rule: u32, set: u32) {
        self.by_set.entry(set).or_default()[0].insert(rule);
    }

    fn exclude(&mut self, rule: u32, set: u32) {
        self.by_set.entry(set).or_default()[1].insert(rule);
    }

    fn require_any(&mut self, rule: u32, sets: Vec<u32>) {
        match sets[..] {
            [set] => self.require(rule, set),
            _ => {
                for set in &sets {
                    self.by_set.entry(*set).or_default();
                }
                self.any.push((rule, sets.into()));
            }
        }
    }

    fn finish(self, layout: Layout) -> Option<ClassField> {
        if self.by_set.is_empty() {
            return None;
        }
        let (mut asked, mut rules) = (Vec::new(), Vec::new());
        for (set, [inside, outside]) in self.by_set {
            rules.extend(inside);
            let inside = rules.len() as u32;
            rules.extend(outside);
            asked.push(Asked { set, inside, outside: rules.len() as u32 });
        }
        let mut otherwise: Box<[u64]> = layout.row(true).into();
        let mut field =
            ClassField { asked: asked.into(), rules: rules.into(), any: self.any.into(), otherwise: Box::default() };
        field.write_row(&[], layout, &mut otherwise);
        field.otherwise = otherwise;
        Some(field)
    }
}
