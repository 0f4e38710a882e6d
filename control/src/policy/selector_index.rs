//! Which selectors could match these labels, without trying them all.
//!
//! Most selectors can only match if some label is there, or has one of a few values. Such a selector is filed under those;
//! the others are asked about everything.
//!
//!     role == 'web' && has(zone)   ─▶ by value   role → web
//!     has(zone) && env != 'test'   ─▶ by name    zone
//!     !has(quarantine)             ─▶ always
//!
//! Invariant: what is not returned does not match. What is returned still has to be asked.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

use config::selector::Selector;

use super::labels::Labels;

/// Selectors by what they need, under numbers of the caller's.
#[derive(Debug)]
pub struct SelectorIndex<T> {
    by_value: HashMap<String, HashMap<String, BTreeSet<T>>>,
    by_name: HashMap<String, BTreeSet<T>>,
    always: BTreeSet<T>,
}

/// What a selector cannot match without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    Value { label: String, values: Vec<String> },
    Label(String),
    Nothing,
}

impl Need {
    /// The need that fewest labels meet.
    pub fn of(selector: &Selector) -> Need {
        let restrictions = selector.restrictions();
        let valued = restrictions.iter().filter_map(|(label, restriction)| {
            let values = restriction.must_have_one_of.as_ref()?;
            Some((*label, values))
        });
        if let Some((label, values)) = valued.min_by_key(|(_, values)| values.len()) {
            let values = values.iter().map(|value| value.to_string()).collect();
            return Need::Value { label: label.to_owned(), values };
        }
        let present = restrictions.iter().find(|(_, restriction)| restriction.must_be_present);
        present.map_or(Need::Nothing, |(label, _)| Need::Label(label.to_string()))
    }
}

impl<T> Default for SelectorIndex<T> {
    fn default() -> Self {
        Self { by_value: HashMap::new(), by_name: HashMap::new(), always: BTreeSet::new() }
    }
}

impl<T: Copy + Ord + Hash> SelectorIndex<T> {
    pub fn insert(&mut self, id: T, need: &Need) {
        match need {
            Need::Value { label, values } => {
                let by_value = self.by_value.entry(label.clone()).or_default();
                for value in values {
                    by_value.entry(value.clone()).or_default().insert(id);
                }
            }
            Need::Label(label) => {
                self.by_name.entry(label.clone()).or_default().insert(id);
            }
            Need::Nothing => {
                self.always.insert(id);
            }
        }
    }

    /// The need must be the one it was inserted with.
    pub fn remove(&mut self, id: T, need: &Need) {
        match need {
            Need::Value { label, values } => {
                let Some(by_value) = self.by_value.get_mut(label) else { return };
                for value in values {
                    forget(by_value, value, id);
                }
                if by_value.is_empty() {
                    self.by_value.remove(label);
                }
            }
            Need::Label(label) => forget(&mut self.by_name, label, id),
            Need::Nothing => {
                self.always.remove(&id);
            }
        }
    }

    /// Everything that could match, each once.
    pub fn candidates(&self, labels: &Labels) -> BTreeSet<T> {
        let mut found = self.always.clone();
        for (name, value) in labels.iter() {
            found.extend(self.by_name.get(&**name).into_iter().flatten());
            let by_value = self.by_value.get(&**name);
            found.extend(by_value.and_then(|by_value| by_value.get(&**value)).into_iter().flatten());
        }
        found
    }
}

fn forget<T: Ord>(sets: &mut HashMap<String, BTreeSet<T>>, key: &str, id: T) {
    if let Some(set) = sets.get_mut(key) {
        set.remove(&id);
        if set.is_empty() {
            sets.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needs() {
        let check = |selector: &str, expected: Need| {
            assert_eq!(Need::of(&Selector::parse(selector).unwrap()), expected, "{selector}");
        };
        let value = |label: &str, values: &[&str]| Need::Value {
            label: label.into(),
            values: values.iter().map(|value| value.to_string()).collect(),
        };
        check("role == 'web'", value("role", &["web"]));
        check("role in {'a', 'b'} && zone == 'z'", value("zone", &["z"]));
        check("has(zone) && env != 'test'", Need::Label("zone".into()));
        check("!has(zone)", Need::Nothing);
        check("role == 'web' || has(zone)", Need::Nothing);
        check("", Need::Nothing);
    }

    #[test]
    fn candidates_are_all_that_could_match() {
        let selectors = ["role == 'web'", "role in {'web', 'db'}", "has(zone)", "!has(role)", "env == 'test'"];
        let mut index = SelectorIndex::default();
        let needs = selectors.map(|selector| Need::of(&Selector::parse(selector).unwrap()));
        needs.iter().enumerate().for_each(|(id, need)| index.insert(id, need));
        let check = |index: &SelectorIndex<usize>, labels: &[(&str, &str)], expected: &[usize]| {
            let found = index.candidates(&labels.iter().copied().collect());
            assert_eq!(found.into_iter().collect::<Vec<_>>(), expected, "{labels:?}");
        };
        check(&index, &[("role", "web")], &[0, 1, 3]);
        check(&index, &[("role", "db"), ("zone", "1")], &[1, 2, 3]);
        check(&index, &[("env", "prod")], &[3]);
        needs.iter().enumerate().skip(1).for_each(|(id, need)| index.remove(id, need));
        check(&index, &[("role", "web"), ("zone", "1")], &[0]);
        index.remove(0, &needs[0]);
        assert!(index.by_value.is_empty() && index.by_name.is_empty() && index.always.is_empty());
    }
}
