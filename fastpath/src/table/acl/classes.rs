//! Which sets a class stands for, and the other way round; control's side alone.
//!
//! Invariants: equal lists of sets have one number; numbers are not reused.

use std::collections::BTreeSet;
use std::sync::Arc;

use ahash::HashMap;

use super::members::Class;

/// Classes that no member has, and those on the way to another, are tolerated up to this many.
const DEAD_CLASSES_MIN: usize = 4096;

/// Which sets a class stands for, and the other way round.
pub(super) struct ClassNames {
    sets: Vec<Arc<[u32]>>,
    numbers: HashMap<Arc<[u32]>, Class>,
    /// Per set, in order.
    containing: HashMap<u32, Vec<Class>>,
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
            numbers: HashMap::from_iter([(none, Class::NONE)]),
            containing: HashMap::default(),
            holders: vec![0],
            dead: 0,
            steps: HashMap::default(),
        }
    }
}

impl ClassNames {
    pub(super) fn sets(&self, class: Class) -> Arc<[u32]> {
        self.sets[class.0 as usize].clone()
    }

    pub(super) fn hold(&mut self, class: Class) {
        let holders = &mut self.holders[class.0 as usize];
        *holders += 1;
        self.dead -= usize::from(*holders == 1 && class != Class::NONE);
    }

    pub(super) fn release(&mut self, class: Class) {
        let holders = &mut self.holders[class.0 as usize];
        *holders = holders.saturating_sub(1);
        self.dead += usize::from(*holders == 0 && class != Class::NONE);
    }

    pub(super) fn is_mostly_dead(&self) -> bool {
        self.dead > DEAD_CLASSES_MIN && self.dead > self.sets.len() / 2
    }

    /// The class of these sets, sorted.
    pub(super) fn intern(&mut self, sets: Vec<u32>) -> Class {
        if let Some(class) = self.numbers.get(sets.as_slice()) {
            return *class;
        }
        let class = Class(self.sets.len() as u32);
        let sets: Arc<[u32]> = sets.into();
        for set in sets.iter() {
            self.containing.entry(*set).or_default().push(class);
        }
        self.sets.push(sets.clone());
        self.holders.push(0);
        self.dead += 1;
        self.numbers.insert(sets, class);
        class
    }

    pub(super) fn step(&mut self, class: Class, set: u32, is_added: bool) -> Class {
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

    pub(super) fn union(&mut self, left: Class, right: Class) -> Class {
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
    pub(super) fn containing(&self, sets: &BTreeSet<u32>) -> BTreeSet<Class> {
        sets.iter().filter_map(|set| self.containing.get(set)).flatten().copied().collect()
    }

    /// The sets that one of the two contains and the other does not.
    pub(super) fn difference(&self, one: Class, other: Class) -> Vec<u32> {
        let (one, other) = (&self.sets[one.0 as usize], &self.sets[other.0 as usize]);
        let only = |these: &Arc<[u32]>, those: &Arc<[u32]>| {
            let those = those.clone();
            these.iter().copied().filter(move |set| those.binary_search(set).is_err()).collect::<Vec<_>>()
        };
        [only(one, other), only(other, one)].concat()
    }

    /// True when a member, or a prefix, has the class.
    pub(super) fn is_held(&self, class: Class) -> bool {
        self.holders[class.0 as usize] > 0
    }

    /// How many numbers there are, used or not.
    pub(super) fn len(&self) -> usize {
        self.sets.len()
    }
}
