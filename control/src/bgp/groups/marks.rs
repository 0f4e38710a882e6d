//! A set of places, one bit each, with a walk that can be interrupted and set ahead or behind of it.

use super::super::rib::table::PrefixIndex;

#[derive(Debug, Clone, Default)]
pub struct Marks {
    words: Vec<u64>,
    count: usize,
    /// Where the walk goes on.
    next: usize,
}

impl Marks {
    pub fn insert(&mut self, place: PrefixIndex) {
        let (word, bit) = (place.index() / 64, place.index() % 64);
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        if self.words[word] & (1 << bit) == 0 {
            self.words[word] |= 1 << bit;
            self.count += 1;
        }
    }

    pub fn contains(&self, place: PrefixIndex) -> bool {
        self.words.get(place.index() / 64).is_some_and(|word| word & (1 << (place.index() % 64)) != 0)
    }

    pub fn remove(&mut self, place: PrefixIndex) {
        if self.contains(place) {
            self.words[place.index() / 64] &= !(1 << (place.index() % 64));
            self.count -= 1;
        }
    }

    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = PrefixIndex> {
        let words = self.words.iter().enumerate().filter(|(_, word)| **word != 0);
        let bits = |(at, word): (usize, &u64)| {
            let word = *word;
            (0..64).filter(move |bit| word & (1 << bit) != 0).map(move |bit| PrefixIndex((at * 64 + bit) as u32))
        };
        words.flat_map(bits)
    }

    /// Takes out the next place, round and round.
    pub fn pop(&mut self) -> Option<PrefixIndex> {
        if self.count == 0 {
            return None;
        }
        let words = self.words.len();
        for step in 0..=words {
            let at = (self.next + step) % words;
            let word = self.words[at];
            if word != 0 {
                let bit = word.trailing_zeros() as usize;
                self.words[at] &= word - 1;
                self.count -= 1;
                self.next = at;
                return Some(PrefixIndex((at * 64 + bit) as u32));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_set(steps in prop::collection::vec((0u32..300, 0u8..4), 0..200)) {
            let mut marks = Marks::default();
            let mut set = BTreeSet::new();
            for (place, what) in steps {
                let place = PrefixIndex(place);
                match what {
                    0 | 1 => { marks.insert(place); set.insert(place); }
                    2 => { marks.remove(place); set.remove(&place); }
                    _ => match marks.pop() {
                        Some(popped) => prop_assert!(set.remove(&popped)),
                        None => prop_assert!(set.is_empty()),
                    },
                }
                prop_assert_eq!(marks.len(), set.len());
                prop_assert_eq!(marks.contains(place), set.contains(&place));
            }
        }
    }
}
