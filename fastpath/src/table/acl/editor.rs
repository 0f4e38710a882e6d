//! Control's side of the policy: takes changes, and makes of them the next thing to publish.
//!
//! ```text
//! change_set, change_port_set ──▶ member → sets it is in ──▶ class ─┬─ new class: every block that asks about it learns it
//!                                                                   └─ store the class in the member's slot
//! put_block, remove_block ──────▶ rules ──▶ Block
//! set_programs                                             commit ──▶ Acl: publish it, and use it from then on
//! ```
//!
//! A member that moves between sets while blocks and programs stay as they are is one store into the table that workers
//! read, right away. When blocks or programs change in the same commit, the members whose published meaning changes go
//! into a copy of the table, so that no packet sees the one change without the other. Members of sets that no published
//! block asks about mean nothing yet, and are stored right away as well: a new policy's large sets cost no copy.
//!
//! Invariants: between two commits the last committed `Acl` is the published one, or will be before the next commit. Numbers
//! of classes are not reused; when dead ones prevail, everything is made anew.
//! Left out: what sets and policies are called. `control::compile` keeps the names.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::block::{Block, BlockKnown};
use super::members::{Class, Member, Members, Prefixes};
use super::spec::{AddressRange, PortMember, ProgramSpec, RuleSpec};
use super::{Acl, address_set, port_set};

/// More members than this are not stored one by one beside readers when they could be published at once.
const STORES_MAX: usize = 64;
/// Classes that no member has, and those on the way to another, are tolerated up to this many.
const DEAD_CLASSES_MIN: usize = 4096;

/// The policy of a node, as it is being changed.
#[derive(Default)]
pub struct Editor {
    classes: ClassNames,
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

struct BlockRecord {
    rules: Vec<RuleSpec>,
    sets: BTreeSet<u32>,
    block: Arc<Block>,
    known: BlockKnown,
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

        // First the blocks there are, also those that are about to be replaced: workers still read them.
        let mut crowded = BTreeSet::new();
        let mut new_classes: BTreeSet<Class> = moves.iter().map(|(_, class)| *class).collect();
        if has_new_prefixes {
            new_classes.extend(prefixes.classes());
            prefixes.classes().iter().for_each(|class| self.classes.hold(*class));
            if !is_renumbered {
                old_prefixes.classes().iter().for_each(|class| self.classes.release(*class));
            }
        }
        for class in new_classes {
            self.teach(class, &mut crowded);
        }
        let is_structural = changed.programs || !changed.blocks.is_empty() || !crowded.is_empty() || is_renumbered;
        crowded.retain(|position| !changed.blocks.contains_key(position));
        let is_crowded = is_structural && !crowded.is_empty();
        for position in crowded {
            let rules = self.blocks[position].as_mut().map(|record| std::mem::take(&mut record.rules));
            self.replace_block(position, rules);
        }
        for (position, rules) in changed.blocks {
            self.replace_block(position, rules);
        }

        let is_meant = is_crowded || changed.sets.iter().any(|set| self.published_sets.contains(set));
        let has_room = self.members.len() <= self.current.members.room();
        if is_renumbered || !has_room || moves.len() > self.members.len() / 2 {
            self.members.retain(|_, classes| classes.own != Class::NONE);
            let table = Members::with_room(self.members.len() * 2, prefixes);
            self.members.iter().for_each(|(member, classes)| table.set(*member, classes.effective));
            self.current.members = Arc::new(table);
        } else if has_new_prefixes || (is_meant && (is_structural || moves.len() > STORES_MAX)) {
            let copy = self.current.members.copy(prefixes);
            moves.iter().for_each(|(member, class)| copy.set(*member, *class));
            self.current.members = Arc::new(copy);
        } else {
            moves.iter().for_each(|(member, class)| self.current.members.set(*member, *class));
        }
        if is_structural {
            self.current.blocks = self.blocks.iter().map(|record| Some(record.as_ref()?.block.clone())).collect();
            self.current.programs = self.programs.clone();
            self.current.asks_for_named_ports =
                self.blocks.iter().flatten().any(|record| record.block.asks_for_named_ports());
            self.published_sets = self.asking.keys().copied().collect();
        }
        self.current.clone()
    }

    /// How many classes there are, used or not.
    pub fn known_classes(&self) -> usize {
        self.classes.sets.len()
    }

    /// The members whose class is another one now.
    fn moves(&mut self, members: HashSet<Member>, prefixes: &Prefixes) -> Vec<(Member, Class)> {
        let mut moves = Vec::with_capacity(members.len());
        for member in members {
            let Some(classes) = self.members.get_mut(&member) else { continue };
            let around = if member.is_address() { prefixes.class(member.address) } else { Class::NONE };
            let effective = self.classes.union(classes.own, around);
            if effective != classes.effective {
                self.classes.hold(effective);
                self.classes.release(classes.effective);
                classes.effective = effective;
                moves.push((member, effective));
            }
        }
        moves
    }

    /// Numbers only the classes that are in use, anew, and makes every block for them.
    fn renumber(&mut self) {
        let old = std::mem::take(&mut self.classes);
        self.members.retain(|_, classes| classes.own != Class::NONE);
        for classes in self.members.values_mut() {
            classes.own = self.classes.intern(old.sets(classes.own).to_vec());
            classes.effective = self.classes.intern(old.sets(classes.effective).to_vec());
            self.classes.hold(classes.effective);
        }
        for position in 0..self.blocks.len() {
            if let Some(rules) = self.blocks[position].as_mut().map(|record| std::mem::take(&mut record.rules)) {
                self.replace_block(position, Some(rules));
            }
        }
    }

    /// Tells every block that asks about a set of the class. Blocks without room are noted.
    fn teach(&mut self, class: Class, crowded: &mut BTreeSet<usize>) {
        let sets = self.classes.sets(class);
        let asking: BTreeSet<usize> = sets.iter().filter_map(|set| self.asking.get(set)).flatten().copied().collect();
        for position in asking {
            let Some(record) = &mut self.blocks[position] else { continue };
            if !record.block.learn(class, &sets, &mut record.known) {
                crowded.insert(position);
            }
        }
    }

    fn replace_block(&mut self, position: usize, rules: Option<Vec<RuleSpec>>) {
        if self.blocks.len() <= position {
            self.blocks.resize_with(position + 1, || None);
        }
        if let Some(old) = self.blocks[position].take() {
            for set in old.sets {
                if let Some(asking) = self.asking.get_mut(&set) {
                    asking.remove(&position);
                    if asking.is_empty() {
                        self.asking.remove(&set);
                    }
                }
            }
        }
        let Some(rules) = rules else { return };
        let sets = sets_of(&rules);
        let relevant = self.classes.containing(&sets);
        let relevant: Vec<(Class, &[u32])> = relevant.iter().map(|(class, sets)| (*class, &**sets)).collect();
        let (block, known) = Block::build(&rules, &relevant);
        for set in &sets {
            self.asking.entry(*set).or_default().insert(position);
        }
        self.blocks[position] = Some(BlockRecord { rules, sets, block: Arc::new(block), known });
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

/// Which sets a class stands for, and the other way round.
struct ClassNames {
    sets: Vec<Arc<[u32]>>,
    numbers: HashMap<Arc<[u32]>, Class>,
    containing: HashMap<u32, BTreeSet<Class>>,
    /// How many members have the class.
    holders: Vec<u32>,
    dead: usize,
    /// How a class changes when one set is added or removed: found once, used for every member that does the same.
    steps: HashMap<(Class, u32, bool), Class>,
}

impl Default for ClassNames {
    fn default() -> Self {
        let none: Arc<[u32]> = Arc::new([]);
        Self {
            sets: vec![none.clone()],
            numbers: HashMap::from([(none, Class::NONE)]),
            containing: HashMap::new(),
            holders: vec![0],
            dead: 0,
            steps: HashMap::new(),
        }
    }
}

impl ClassNames {
    fn sets(&self, class: Class) -> Arc<[u32]> {
        self.sets[class.0 as usize].clone()
    }

    fn hold(&mut self, class: Class) {
        let holders = &mut self.holders[class.0 as usize];
        *holders += 1;
        self.dead -= usize::from(*holders == 1 && class != Class::NONE);
    }

    fn release(&mut self, class: Class) {
        let holders = &mut self.holders[class.0 as usize];
        *holders = holders.saturating_sub(1);
        self.dead += usize::from(*holders == 0 && class != Class::NONE);
    }

    fn is_mostly_dead(&self) -> bool {
        self.dead > DEAD_CLASSES_MIN && self.dead > self.sets.len() / 2
    }

    /// The class of these sets, sorted.
    fn intern(&mut self, sets: Vec<u32>) -> Class {
        if let Some(class) = self.numbers.get(sets.as_slice()) {
            return *class;
        }
        let class = Class(self.sets.len() as u32);
        let sets: Arc<[u32]> = sets.into();
        for set in sets.iter() {
            self.containing.entry(*set).or_default().insert(class);
        }
        self.sets.push(sets.clone());
        self.holders.push(0);
        self.dead += 1;
        self.numbers.insert(sets, class);
        class
    }

    fn step(&mut self, class: Class, set: u32, is_added: bool) -> Class {
        if let Some(next) = self.steps.get(&(class, set, is_added)) {
            return *next;
        }
        let mut sets: BTreeSet<u32> = self.sets(class).iter().copied().collect();
        if is_added {
            sets.insert(set)
        } else {
            sets.remove(&set)
        };
        let next = self.intern(sets.into_iter().collect());
        self.steps.insert((class, set, is_added), next);
        next
    }

    fn union(&mut self, left: Class, right: Class) -> Class {
        if left == Class::NONE || left == right {
            return right;
        }
        if right == Class::NONE {
            return left;
        }
        let sets: BTreeSet<u32> = self.sets(left).iter().chain(self.sets(right).iter()).copied().collect();
        self.intern(sets.into_iter().collect())
    }

    /// The classes that contain one of the sets.
    fn containing(&self, sets: &BTreeSet<u32>) -> Vec<(Class, Arc<[u32]>)> {
        let classes: BTreeSet<Class> =
            sets.iter().filter_map(|set| self.containing.get(set)).flatten().copied().collect();
        classes.into_iter().map(|class| (class, self.sets(class))).collect()
    }
}
