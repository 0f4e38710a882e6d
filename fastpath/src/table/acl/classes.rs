//! A field that is asked by class: which of the sets that rules name contain the packet's address, or its port.
//!
//!     class ──map──▶ row     a class that is not in the map is in none of the sets asked about: row 0
//!
//! Classes appear while workers read. A row is stored before the entry that leads to it, and neither changes afterwards.
//!
//! Invariants: at most half of the map is used; an entry is made before the first member has its class.
//! Left out: growing, and forgetting classes. Control builds the block anew.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::members::Class;
use super::rows::{Layout, clear};
use super::spec::SideMatch;
use super::{address_set, port_set};

/// Rows that a field has, by their bits; kept by control.
pub(super) type Known = HashMap<Box<[u64]>, u32>;

/// Class → row.
#[derive(Debug)]
pub(super) struct ClassField {
    conditions: Conditions,
    /// Class + 1 above, position of the row below; 0 is empty.
    map: Box<[AtomicU64]>,
    rows: Box<[OnceLock<Box<[u64]>>]>,
    /// Of the map; control's.
    entries: AtomicUsize,
}

/// What the rules of a block want of a class.
#[derive(Debug, Default)]
struct Conditions {
    /// Per set, the rules that hold only inside of it.
    required: BTreeMap<u32, Vec<u32>>,
    /// Per set, the rules that hold only outside of it.
    excluded: BTreeMap<u32, Vec<u32>>,
    /// Rules that hold inside any of several sets.
    any: Vec<(u32, Vec<u32>)>,
    /// The sets asked about, each once.
    sets: BTreeSet<u32>,
}

impl ClassField {
    /// Conditions on the address; none when there are none.
    pub(super) fn of_sets(
        sides: &[&SideMatch],
        layout: Layout,
        relevant: &[(Class, &[u32])],
        known: &mut Known,
    ) -> Option<Self> {
        let mut conditions = Conditions::default();
        for (rule, side) in (0..).zip(sides) {
            side.sets.iter().for_each(|set| conditions.require(rule, address_set(*set)));
            side.not_sets.iter().for_each(|set| conditions.exclude(rule, address_set(*set)));
        }
        Self::build(conditions, layout, relevant, known)
    }

    /// Conditions on address, protocol and port together.
    pub(super) fn of_named_ports(
        sides: &[&SideMatch],
        layout: Layout,
        relevant: &[(Class, &[u32])],
        known: &mut Known,
    ) -> Option<Self> {
        let mut conditions = Conditions::default();
        for (rule, side) in (0..).zip(sides) {
            side.services.iter().for_each(|set| conditions.require(rule, port_set(*set)));
            side.not_named_ports.iter().for_each(|set| conditions.exclude(rule, port_set(*set)));
            if !side.named_ports.is_empty() {
                conditions.require_any(rule, side.named_ports.iter().map(|set| port_set(*set)).collect());
            }
        }
        Self::build(conditions, layout, relevant, known)
    }

    fn build(conditions: Conditions, layout: Layout, relevant: &[(Class, &[u32])], known: &mut Known) -> Option<Self> {
        if conditions.sets.is_empty() {
            return None;
        }
        // Twice the classes there are, so that some more can appear before the block has to be built anew.
        let room = (relevant.len() * 2 + 8).next_power_of_two();
        let field = Self {
            conditions,
            map: (0..room * 2).map(|_| AtomicU64::new(0)).collect(),
            rows: (0..room + 1).map(|_| OnceLock::new()).collect(),
            entries: AtomicUsize::new(0),
        };
        field.row_of(&[], layout, known);
        for (class, sets) in relevant {
            let is_learnt = field.learn(*class, sets, layout, known);
            debug_assert!(is_learnt, "room for the classes there are");
        }
        Some(field)
    }

    /// Adds a class if it says anything here. False when there is no room.
    pub(super) fn learn(&self, class: Class, sets: &[u32], layout: Layout, known: &mut Known) -> bool {
        if !sets.iter().any(|set| self.conditions.sets.contains(set)) {
            return true;
        }
        let wanted = u64::from(class.0) + 1;
        let mut position = self.home(class);
        loop {
            match self.map[position].load(Ordering::Relaxed) {
                0 => break,
                entry if entry >> 32 == wanted => return true,
                _ => position = (position + 1) & (self.map.len() - 1),
            }
        }
        if self.entries.load(Ordering::Relaxed) == self.map.len() / 2 {
            return false;
        }
        let Some(row) = self.row_of(sets, layout, known) else { return false };
        self.entries.fetch_add(1, Ordering::Relaxed);
        self.map[position].store(wanted << 32 | u64::from(row), Ordering::Release);
        true
    }

    /// The position of the row for members of these sets; none when there is no room for another.
    fn row_of(&self, sets: &[u32], layout: Layout, known: &mut Known) -> Option<u32> {
        let row = self.conditions.row(sets, layout);
        if let Some(position) = known.get(row.as_slice()) {
            return Some(*position);
        }
        let position = known.len() as u32;
        let row: Box<[u64]> = row.into();
        self.rows.get(position as usize)?.set(row.clone()).ok()?;
        known.insert(row, position);
        Some(position)
    }

    fn home(&self, class: Class) -> usize {
        // Fibonacci hashing: neighbours fall apart.
        (class.0.wrapping_mul(0x9e37_79b1) as usize).rotate_right(16) & (self.map.len() - 1)
    }

    /// The row of a packet whose address, or port, has this class.
    #[inline]
    pub(super) fn row(&self, class: Class) -> &[u64] {
        let wanted = u64::from(class.0) + 1;
        let mut position = self.home(class);
        let row = loop {
            match self.map[position].load(Ordering::Acquire) {
                0 => break 0,
                entry if entry >> 32 == wanted => break entry as u32,
                _ => position = (position + 1) & (self.map.len() - 1),
            }
        };
        // Stored before the entry, and row 0 before the block was published.
        self.rows[row as usize].get().map_or(&[], |row| row)
    }
}

impl Conditions {
    fn require(&mut self, rule: u32, set: u32) {
        self.required.entry(set).or_default().push(rule);
        self.sets.insert(set);
    }

    fn exclude(&mut self, rule: u32, set: u32) {
        self.excluded.entry(set).or_default().push(rule);
        self.sets.insert(set);
    }

    fn require_any(&mut self, rule: u32, sets: Vec<u32>) {
        self.sets.extend(&sets);
        match sets[..] {
            [set] => self.require(rule, set),
            _ => self.any.push((rule, sets)),
        }
    }

    /// The rules that hold for members of these sets (sorted).
    fn row(&self, sets: &[u32], layout: Layout) -> Vec<u64> {
        let contains = |set: &u32| sets.binary_search(set).is_ok();
        let mut row = layout.row(true);
        for rules in self.required.iter().filter(|(set, _)| !contains(set)).map(|(_, rules)| rules) {
            rules.iter().for_each(|rule| clear(&mut row, *rule as usize));
        }
        for rules in sets.iter().filter_map(|set| self.excluded.get(set)) {
            rules.iter().for_each(|rule| clear(&mut row, *rule as usize));
        }
        for (rule, _) in self.any.iter().filter(|(_, wanted)| !wanted.iter().any(contains)) {
            clear(&mut row, *rule as usize);
        }
        layout.summarise(&mut row);
        row
    }
}
