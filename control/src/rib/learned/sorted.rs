//! A sorted map in pieces: small keys and values side by side, each piece in one place.
//!
//! ```text
//!   firsts   [ a │ h │ q ]                       searched by halving
//!   pieces     │   │   └─ [ q r t … ] [ 5 2 5 … ]
//!              │   └───── [ h k m … ] [ 1 1 2 … ]
//!              └───────── [ a c d … ] [ 7 1 5 … ]  at most 512 keys, and their values
//! ```
//!
//! A tree of the standard library takes 22 octets for a key of five and a value of four, and a lookup waits for memory at each
//! of its levels. Here it is 12, and two.
//!
//! Invariants: keys grow within a piece and from one to the next; no piece is empty; a piece begins with its first.
//! Left out: keys or values that are not plain.

use std::ops::Bound;

/// Keys in a piece at most: what is moved for one that comes is half of that.
const PIECE: usize = 512;

#[derive(Debug)]
pub(super) struct Sorted<K, V> {
    firsts: Vec<K>,
    pieces: Vec<Piece<K, V>>,
    count: usize,
}

#[derive(Debug)]
struct Piece<K, V> {
    keys: Vec<K>,
    values: Vec<V>,
}

impl<K, V> Default for Sorted<K, V> {
    fn default() -> Self {
        Sorted { firsts: Vec::new(), pieces: Vec::new(), count: 0 }
    }
}

impl<K: Copy, V: Copy> Piece<K, V> {
    /// Takes out those from a position on.
    fn split_off(&mut self, position: usize) -> Piece<K, V> {
        let mut rest = Piece { keys: Vec::with_capacity(PIECE), values: Vec::with_capacity(PIECE) };
        rest.keys.extend(self.keys.drain(position..));
        rest.values.extend(self.values.drain(position..));
        rest
    }

    fn insert(&mut self, position: usize, key: K, value: V) {
        self.keys.insert(position, key);
        self.values.insert(position, value);
    }
}

impl<K: Copy + Ord, V: Copy> Sorted<K, V> {
    pub fn len(&self) -> usize {
        self.count
    }

    /// The piece that a key is in, if it is anywhere.
    fn piece_of(&self, key: &K) -> usize {
        self.firsts.partition_point(|first| first <= key).saturating_sub(1)
    }

    pub fn get(&self, key: &K) -> Option<V> {
        let piece = self.pieces.get(self.piece_of(key))?;
        let position = piece.keys.binary_search(key).ok()?;
        piece.values.get(position).copied()
    }

    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let at = self.piece_of(key);
        let piece = self.pieces.get_mut(at)?;
        let position = piece.keys.binary_search(key).ok()?;
        piece.values.get_mut(position)
    }

    /// Returns the value that the key had.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let mut at = self.piece_of(&key);
        let Some(piece) = self.pieces.get_mut(at) else {
            self.firsts.push(key);
            self.pieces.push(Piece { keys: vec![key], values: vec![value] });
            self.count = 1;
            return None;
        };
        let mut position = match piece.keys.binary_search(&key) {
            Ok(position) => return Some(std::mem::replace(&mut piece.values[position], value)),
            Err(position) => position,
        };
        if piece.keys.len() >= PIECE {
            // Behind all others nothing is left over: keys that come in order fill their pieces.
            let is_last = position == piece.keys.len() && at + 1 == self.firsts.len();
            let middle = if is_last { position } else { PIECE / 2 };
            let rest = piece.split_off(middle);
            self.firsts.insert(at + 1, rest.keys.first().copied().unwrap_or(key));
            self.pieces.insert(at + 1, rest);
            if position > middle || is_last {
                (at, position) = (at + 1, position - middle);
            }
        }
        self.pieces[at].insert(position, key, value);
        if position == 0 {
            self.firsts[at] = key;
        }
        self.count += 1;
        None
    }

    /// Returns the value that the key had.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let at = self.piece_of(key);
        let piece = self.pieces.get_mut(at)?;
        let position = piece.keys.binary_search(key).ok()?;
        piece.keys.remove(position);
        let value = piece.values.remove(position);
        self.count -= 1;
        match piece.keys.first() {
            None => {
                self.firsts.remove(at);
                self.pieces.remove(at);
            }
            Some(first) => self.firsts[at] = *first,
        }
        self.join(at);
        self.join(at.saturating_sub(1));
        Some(value)
    }

    /// A piece takes in the next, if they are small together.
    fn join(&mut self, at: usize) {
        if let [piece, next, ..] = &mut self.pieces[at.min(self.firsts.len())..]
            && piece.keys.len() + next.keys.len() <= PIECE / 2
        {
            piece.keys.append(&mut next.keys);
            piece.values.append(&mut next.values);
            self.firsts.remove(at + 1);
            self.pieces.remove(at + 1);
        }
    }

    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.pieces.iter_mut().flat_map(|piece| &mut piece.values)
    }

    /// Those from a bound on, in order.
    pub fn from(&self, bound: Bound<K>) -> impl Iterator<Item = (K, V)> + '_ {
        let (at, position) = match bound {
            Bound::Unbounded => (0, 0),
            Bound::Included(key) => self.first_where(&key, |one| *one < key),
            Bound::Excluded(key) => self.first_where(&key, |one| *one <= key),
        };
        let mut pieces = self.pieces.get(at..).unwrap_or_default().iter();
        let first = pieces.next().map(|piece| piece.from(position));
        first.into_iter().flatten().chain(pieces.flat_map(|piece| piece.from(0)))
    }

    /// The first position that is not before.
    fn first_where(&self, key: &K, is_before: impl Fn(&K) -> bool) -> (usize, usize) {
        let at = self.piece_of(key);
        (at, self.pieces.get(at).map_or(0, |piece| piece.keys.partition_point(is_before)))
    }
}

impl<K: Copy, V: Copy> Piece<K, V> {
    fn from(&self, position: usize) -> impl Iterator<Item = (K, V)> + '_ {
        self.keys.iter().copied().zip(self.values.iter().copied()).skip(position)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn check(sorted: &Sorted<u16, u16>, plain: &BTreeMap<u16, u16>, from: u16) {
        assert_eq!(sorted.len(), plain.len());
        let all: Vec<(u16, u16)> = sorted.from(Bound::Unbounded).collect();
        assert_eq!(all, plain.iter().map(|(key, value)| (*key, *value)).collect::<Vec<_>>());
        for bound in [Bound::Included(from), Bound::Excluded(from)] {
            let rest: Vec<u16> = sorted.from(bound).map(|(key, _)| key).collect();
            assert_eq!(rest, plain.range((bound, Bound::Unbounded)).map(|(key, _)| *key).collect::<Vec<_>>());
        }
        let firsts: Vec<u16> = sorted.pieces.iter().map(|piece| piece.keys[0]).collect();
        assert_eq!(firsts, sorted.firsts);
        assert!(sorted.pieces.iter().all(|piece| piece.keys.len() <= PIECE && piece.keys.len() == piece.values.len()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        #[test]
        fn equals_a_tree(
            runs in prop::collection::vec((any::<u16>(), 1u16..700, 1u16..7, any::<bool>(), any::<u16>()), 1..24),
        ) {
            let (mut sorted, mut plain) = (Sorted::default(), BTreeMap::new());
            // Runs up and down, so that pieces fill, part and join.
            for (start, length, step, comes, value) in runs {
                for number in 0..length {
                    let key = start.wrapping_add(number.wrapping_mul(step));
                    if comes {
                        prop_assert_eq!(sorted.insert(key, value), plain.insert(key, value));
                        *sorted.get_mut(&key).unwrap() ^= 1;
                        *plain.get_mut(&key).unwrap() ^= 1;
                    } else {
                        prop_assert_eq!(sorted.remove(&key), plain.remove(&key));
                    }
                    prop_assert_eq!(sorted.get(&key), plain.get(&key).copied());
                }
                check(&sorted, &plain, value);
            }
            sorted.values_mut().for_each(|value| *value = 3);
            prop_assert!(sorted.from(Bound::Unbounded).all(|(_, value)| value == 3));
        }
    }

    #[test]
    fn pieces_are_full_of_what_came_in_order_and_few_after_most_went() {
        let mut sorted = Sorted::default();
        for key in 0..20 * PIECE as u32 {
            sorted.insert(key, ());
        }
        assert_eq!(sorted.pieces.len(), 20);
        for key in (0..20 * PIECE as u32).filter(|key| key % 64 != 0) {
            sorted.remove(&key);
        }
        assert_eq!(sorted.len(), 160);
        assert!(sorted.pieces.len() <= 2, "{}", sorted.pieces.len());
    }
}
