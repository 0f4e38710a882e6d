//! Control's side of the policy: takes changes, and makes of them the next thing to publish.
//!
//! ```text
//! change_set, change_port_set ──▶ member → sets it is in ──▶ class ─┬─ new class: its rows, from those of a class like it
//!                                                                   └─ store the class in the member's slot
//! put_block, remove_block ──────▶ rules ──▶ Block
//! set_programs                                             commit ──▶ Acl: publish it, and use it from then on
//! ```
//!
//! A member that moves between sets while blocks and programs stay as they are is one store into the table that workers
//! read, right away. When blocks or programs change in the same commit, the members whose published meaning changes go
//! into a copy of the table, so that no packet sees the one change without the other. Members of sets that no published
//! block asks about mean nothing yet, and are stored right away as well: a new policy's large sets cost no copy. Nothing is
//! stored into a table that is still read together with blocks from before the published ones.
//!
//! Invariants: between two commits the last committed `Acl` is the published one, or will be before the next commit. Numbers
//! of classes are not reused; when dead ones prevail, all are numbered anew.
//! Left out: what sets and policies are called. `control::compile` keeps the names.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};

use ahash::{HashMap, HashSet};

use super::block::Block;
use super::class_rows::{BothRows, ClassRows, ClassTable};
use super::classes::ClassNames;
use super::members::{Class, Member, Members, Prefixes};
use super::spec::{AddressRange, PortMember, ProgramSpec, RuleSpec};
use super::{Acl, Blocks, Head, address_set, port_set};

/// More members than this are not stored one by one beside readers when they could be published at once.
const STORES_MAX: usize = 64;

/// The policy of a node, as it is being changed.
#[derive(Default)]
pub struct Editor {
    classes: ClassNames,
    /// Per class, if it is in use, its rows for the blocks there are.
    rows: Vec<Option<Arc<ClassRows>>>,
    /// Every member that was ever in a set, and its classes.
    members: BTreeMap<Member, MemberClasses>,
    /// Prefixes longer than one address, and the sets they are in.
    nets: BTreeMap<AddressRange, BTreeSet<u32>>,
    blocks: Vec<Option<BlockRecord>>,
    programs: Arc<[ProgramSpec]>,
    /// Which blocks ask about a set.
    asking: HashMap<u32, HashSet<usize>>,
    /// What was committed last.
    current: Acl,
    /// What was committed before, with other blocks and the same table of members; gone when no worker reads it.
    older: Vec<Weak<Blocks>>,
    /// Sets that the blocks of `current` ask about.
    published_sets: HashSet<u32>,
    changed: Changed,
}

/// What one member is in.
#[derive(Clone, Copy, Debug)]
struct MemberClasses {
    /// By sets that list it.
    own: Class,
    /// And by the prefixes around it: what its slot says.
    effective: Class,
}

/// The class of a member becomes another.
struct Move {
    member: Member,
    from: Class,
    to: Class,
}

struct BlockRecord {
    sets: BTreeSet<u32>,
    head: Head,
}

/// What a commit has to look at.
#[derive(Default)]
struct Changed {
    members: HashSet<Member>,
    /// Sets whose members changed.
    sets: HashSet<u32>,
    nets: bool,
    blocks: BTreeMap<usize, Option<Vec<RuleSpec>>>,
    programs: bool,
}

impl Editor {
    /// Adds to and removes from a set of addresses. A set that was never mentioned is empty.
    pub fn change_set(&mut self, set: usize, added: &[AddressRange], removed: &[AddressRange]) {
        let set = address_set(set);
        self.changed.sets.insert(set);
        for (range, is_added) in with_sign(added, removed) {
            if range.0 == range.1 {
                self.change_member(Member::address(range.0), set, is_added);
                continue;
            }
            self.changed.nets = true;
            let sets = self.nets.entry(*range).or_default();
            if is_added {
                sets.insert(set)
            } else {
                sets.remove(&set)
            };
            if sets.is_empty() {
                self.nets.remove(range);
            }
        }
    }

    /// Adds to and removes from a set of ports.
    pub fn change_port_set(&mut self, set: usize, added: &[PortMember], removed: &[PortMember]) {
        let set = port_set(set);
        self.changed.sets.insert(set);
        for (&(address, protocol, port), is_added) in with_sign(added, removed) {
            self.change_member(Member::port(address, protocol, port), set, is_added);
        }
    }

    fn change_member(&mut self, member: Member, set: u32, is_added: bool) {
        let classes = self.members.entry(member).or_insert(MemberClasses { own: Class::NONE, effective: Class::NONE });
        classes.own = self.classes.step(classes.own, set, is_added);
        self.changed.members.insert(member);
    }

    /// A new block, or new rules for one.
    pub fn put_block(&mut self, block: usize, rules: Vec<RuleSpec>) {
        self.changed.blocks.insert(block, Some(rules));
    }

    /// Programs must not name it any more.
    pub fn remove_block(&mut self, block: usize) {
        self.changed.blocks.insert(block, None);
    }

    pub fn set_programs(&mut self, programs: Vec<ProgramSpec>) {
        self.programs = programs.into();
        self.changed.programs = true;
    }

    /// Makes what was changed whole. Publish the result; nothing before it has to be unpublished.
    pub fn commit(&mut self) -> Acl {
        let changed = std::mem::take(&mut self.changed);
        let is_renumbered = self.classes.is_mostly_dead() && {
            self.renumber();
            true
        };
        let old_prefixes = self.current.members.prefixes().clone();
        let has_new_prefixes = changed.nets || is_renumbered;
        let prefixes = if has_new_prefixes { Arc::new(self.prefixes()) } else { old_prefixes.clone() };
        let mut moving = changed.members;
        if changed.nets && !is_renumbered {
            for (first, last) in prefixes.differences(&old_prefixes) {
                let inside = self.members.range(Member::address(first)..=Member::last_of(last));
                moving.extend(inside.map(|(member, _)| *member).filter(|member| member.is_address()));
            }
        }
        let moves = self.moves(moving, &prefixes);
        let mut new_classes: Vec<(Class, Class)> = moves.iter().map(|step| (step.to, step.from)).collect();
        if has_new_prefixes {
            new_classes.extend(prefixes.classes().iter().map(|class| (*class, Class::NONE)));
            prefixes.classes().iter().for_each(|class| self.classes.hold(*class));
            if !is_renumbered {
                old_prefixes.classes().iter().for_each(|class| self.classes.release(*class));
            }
        }

        // First for the blocks there are, also those that are about to be replaced: workers still read them.
        let mut is_crowded = false;
        for (class, like) in new_classes {
            let Some(rows) = self.make_rows(class, like) else { continue };
            is_crowded |= !is_renumbered && !self.current.blocks.classes.set(class, &rows);
        }
        let is_structural = changed.programs || !changed.blocks.is_empty() || is_crowded || is_renumbered;
        let is_meant = changed.sets.iter().any(|set| self.published_sets.contains(set));
        self.replace_blocks(changed.blocks);

        let is_at_once = has_new_prefixes || is_crowded || (is_meant && (is_structural || moves.len() > STORES_MAX));
        let has_new_members = self.move_members(&moves, prefixes, is_renumbered, is_at_once);
        if is_structural {
            self.make_blocks(has_new_members);
        }
        self.current.clone()
    }

    /// Gives members their classes: in the table that is read, or, if that has to be seen at once, in a copy of it, or in one
    /// made anew. True when it is another table.
    fn move_members(&mut self, moves: &[Move], prefixes: Arc<Prefixes>, is_anew: bool, is_at_once: bool) -> bool {
        self.older.retain(|blocks| blocks.strong_count() > 0);
        let is_shared = !self.older.is_empty() && !moves.is_empty();
        let has_room = self.members.len() <= self.current.members.room();
        let table = if is_anew || !has_room || moves.len() > self.members.len() / 2 {
            self.members.retain(|_, classes| classes.own != Class::NONE);
            let table = Members::with_room(self.members.len() * 2, prefixes);
            self.members.iter().for_each(|(member, classes)| table.set(*member, classes.effective));
            table
        } else if is_at_once || is_shared {
            let copy = self.current.members.copy(prefixes);
            moves.iter().for_each(|step| copy.set(step.member, step.to));
            copy
        } else {
            moves.iter().for_each(|step| self.current.members.set(step.member, step.to));
            return false;
        };
        self.current.members = Arc::new(table);
        self.older.clear();
        true
    }

    /// What is published beside the members, anew: blocks, programs, and the classes that are in use.
    fn make_blocks(&mut self, has_new_members: bool) {
        for class in (1..).map(Class).take(self.rows.len().saturating_sub(1)) {
            if !self.classes.is_held(class) {
                self.rows[class.0 as usize] = None;
            }
        }
        let records = || self.blocks.iter().flatten();
        let blocks = Arc::new(Blocks {
            classes: ClassTable::new(&self.rows),
            heads: self.blocks.iter().map(|record| Some(record.as_ref()?.head.clone())).collect(),
            programs: self.programs.clone(),
            asks_for_sets: records().any(|record| record.head.block.asks_for_sets()),
            asks_for_named_ports: records().any(|record| record.head.block.asks_for_named_ports()),
        });
        let old = std::mem::replace(&mut self.current.blocks, blocks);
        if !has_new_members {
            self.older.push(Arc::downgrade(&old));
        }
        self.published_sets = self.asking.keys().copied().collect();
    }

    /// How many classes there are, used or not.
    pub fn known_classes(&self) -> usize {
        self.classes.len()
    }

    /// The members whose class is another one now.
    fn moves(&mut self, members: HashSet<Member>, prefixes: &Prefixes) -> Vec<Move> {
        let mut moves = Vec::with_capacity(members.len());
        for member in members {
            let Some(classes) = self.members.get_mut(&member) else { continue };
            let around = if member.is_address() { prefixes.class(member.address) } else { Class::NONE };
            let (from, to) = (classes.effective, self.classes.union(classes.own, around));
            if to != from {
                self.classes.hold(to);
                self.classes.release(from);
                classes.effective = to;
                moves.push(Move { member, from, to });
            }
        }
        moves
    }

    /// Numbers only the classes that are in use, anew. Their rows stay what they are.
    fn renumber(&mut self) {
        let old = std::mem::take(&mut self.classes);
        let mut old_rows = std::mem::take(&mut self.rows);
        self.members.retain(|_, classes| classes.own != Class::NONE);
        for classes in self.members.values_mut() {
            classes.own = self.classes.intern(old.sets(classes.own).to_vec());
            let number = classes.effective.0 as usize;
            classes.effective = self.classes.intern(old.sets(classes.effective).to_vec());
            self.classes.hold(classes.effective);
            if let Some(rows) = old_rows.get_mut(number).and_then(Option::take) {
                *slot_of(&mut self.rows, classes.effective.0 as usize) = Some(rows);
            }
        }
    }

    /// The rows of a class, made if need be from those of one that differs from it in few sets. None for the class in no set.
    fn make_rows(&mut self, class: Class, like: Class) -> Option<Arc<ClassRows>> {
        if class == Class::NONE {
            return None;
        }
        let slot = slot_of(&mut self.rows, class.0 as usize);
        if slot.is_none() {
            let base = self.rows.get(like.0 as usize).and_then(Option::clone);
            let like = if base.is_some() { like } else { Class::NONE };
            let base = base.unwrap_or_default();
            let sets = self.classes.sets(class);
            let differing = self.classes.difference(class, like);
            let asking: BTreeSet<usize> =
                differing.iter().filter_map(|set| self.asking.get(set)).flatten().copied().collect();
            let changes = self.rows_of(&sets, asking);
            let rows = if changes.is_empty() { base } else { Arc::new(base.with(&changes)) };
            self.rows[class.0 as usize] = Some(rows);
        }
        self.rows[class.0 as usize].clone()
    }

    /// The rows of these blocks for a class of these sets.
    fn rows_of(&self, sets: &[u32], blocks: impl IntoIterator<Item = usize>) -> Vec<(usize, BothRows)> {
        let rows = |position: usize| match self.blocks.get(position) {
            Some(Some(record)) => record.head.block.rows_of(sets),
            _ => BothRows::default(),
        };
        blocks.into_iter().map(|position| (position, rows(position))).collect()
    }

    /// Puts and removes blocks, and gives every class its rows for them.
    fn replace_blocks(&mut self, changes: BTreeMap<usize, Option<Vec<RuleSpec>>>) {
        // Per class, the blocks that ask about one of its sets, or did.
        let mut affected: HashMap<Class, Vec<usize>> = HashMap::default();
        for (position, rules) in changes {
            let slot = slot_of(&mut self.blocks, position);
            let mut sets = slot.take().map(|old| old.sets).unwrap_or_default();
            for set in &sets {
                if let Some(asking) = self.asking.get_mut(set) {
                    asking.remove(&position);
                    if asking.is_empty() {
                        self.asking.remove(set);
                    }
                }
            }
            if let Some(rules) = rules {
                let block = Block::build(&rules);
                let asks = sets_of(&rules);
                for set in &asks {
                    self.asking.entry(*set).or_default().insert(position);
                }
                sets.extend(&asks);
                *slot = Some(BlockRecord {
                    sets: asks,
                    head: Head { otherwise: block.otherwise(), block: Arc::new(block) },
                });
            }
            let in_use = |class: &Class| self.rows.get(class.0 as usize).is_some_and(Option::is_some);
            for class in self.classes.containing(&sets).into_iter().filter(in_use) {
                affected.entry(class).or_default().push(position);
            }
        }
        for (class, blocks) in affected {
            let changes = self.rows_of(&self.classes.sets(class), blocks);
            if let Some(rows) = &mut self.rows[class.0 as usize] {
                *rows = Arc::new(rows.with(&changes));
            }
        }
    }

    /// Prefixes as steps along all addresses.
    fn prefixes(&mut self) -> Prefixes {
        let mut edges: BTreeMap<u128, Vec<(bool, u32)>> = BTreeMap::new();
        for (&(first, last), sets) in &self.nets {
            for set in sets {
                edges.entry(first).or_default().push((true, *set));
                if let Some(after) = last.checked_add(1) {
                    edges.entry(after).or_default().push((false, *set));
                }
            }
        }
        // Prefixes of one set may lie in each other: it is open as long as any of them is.
        let mut open: BTreeMap<u32, usize> = BTreeMap::new();
        let mut steps = vec![(0, Class::NONE)];
        for (at, changes) in edges {
            for (begins, set) in changes {
                let count = open.entry(set).or_insert(0);
                *count = if begins { *count + 1 } else { count.saturating_sub(1) };
                if *count == 0 && !begins {
                    open.remove(&set);
                }
            }
            open.retain(|_, count| *count > 0);
            let class = self.classes.intern(open.keys().copied().collect());
            steps.retain(|(start, _)| *start != at);
            if steps.last().is_none_or(|(_, last)| *last != class) {
                steps.push((at, class));
            }
        }
        if steps.len() == 1 { Prefixes::default() } else { Prefixes::new(steps) }
    }
}

fn with_sign<'a, T>(added: &'a [T], removed: &'a [T]) -> impl Iterator<Item = (&'a T, bool)> {
    added.iter().map(|item| (item, true)).chain(removed.iter().map(|item| (item, false)))
}

/// The sets that rules ask about.
fn sets_of(rules: &[RuleSpec]) -> BTreeSet<u32> {
    let sides = || rules.iter().flat_map(|rule| [&rule.source, &rule.destination]);
    let addresses = sides().flat_map(|side| side.sets.iter().chain(&side.not_sets)).map(|set| address_set(*set));
    let ports = sides()
        .flat_map(|side| side.named_ports.iter().chain(&side.not_named_ports).chain(&side.services))
        .map(|set| port_set(*set));
    addresses.chain(ports).collect()
}

/// A position of a list that grows as needed.
fn slot_of<T>(list: &mut Vec<Option<T>>, position: usize) -> &mut Option<T> {
    if list.len() <= position {
        list.resize_with(position + 1, || None);
    }
    &mut list[position]
}
