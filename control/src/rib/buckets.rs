//! The share of each member in a group: buckets, of which as few as can be change hands.
//!
//!     members A B C     A B C A B C A B …
//!     B goes            A A C A C C A A …    its buckets go to the others; theirs stay
//!     D comes           A A D A C D A C …    its fair share comes from those with most; no other bucket moves
//!
//! A flow belongs to a bucket for good, so the flows that move are those of the buckets that move. What comes out is a
//! function of what was and of who is there, and of nothing else.
//!
//! Invariants: afterwards every bucket has a member, and no member has two buckets more than another. A bucket moves only
//! if its member is gone, or had more than its share.
//! Left out: weights.

use fastpath::table::AdjacencyIndex;
use fastpath::table::group::{BUCKETS, Buckets};

/// Deals the buckets again among these members, which are sorted and distinct, and at most [`BUCKETS`]. With no member
/// everything stays, so that those who come back find what they had.
pub fn deal(buckets: &mut Buckets, members: &[AdjacencyIndex]) {
    assert!(members.len() <= BUCKETS, "a bucket for every member");
    debug_assert!(members.is_sorted_by(|one, next| one < next), "each member once");
    if members.is_empty() {
        return;
    }
    let mut counts = vec![0usize; members.len()];
    let mut unowned = Vec::new();
    for (position, owner) in buckets.0.iter().enumerate() {
        match members.binary_search(owner) {
            Ok(member) => counts[member] += 1,
            Err(_) => unowned.push(position),
        }
    }
    // The first of those with fewest, and of those with most.
    let fewest = |counts: &[usize]| (0..counts.len()).min_by_key(|member| counts[*member]).unwrap_or_default();
    let most = |counts: &[usize]| (0..counts.len()).rev().max_by_key(|member| counts[*member]).unwrap_or_default();
    for position in unowned {
        let member = fewest(&counts);
        buckets.0[position] = members[member];
        counts[member] += 1;
    }
    // At most one round for each bucket: every round takes one from somebody with more than the fair share.
    for _ in 0..BUCKETS {
        let (from, to) = (most(&counts), fewest(&counts));
        if counts[from] <= counts[to] + 1 {
            return;
        }
        if let Some(bucket) = buckets.0.iter_mut().rev().find(|owner| **owner == members[from]) {
            *bucket = members[to];
        }
        counts[from] -= 1;
        counts[to] += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn members(numbers: &BTreeSet<u32>) -> Vec<AdjacencyIndex> {
        numbers.iter().copied().map(AdjacencyIndex).collect()
    }

    fn counts(buckets: &Buckets) -> BTreeMap<AdjacencyIndex, usize> {
        let mut counts = BTreeMap::new();
        for owner in buckets.0 {
            *counts.entry(owner).or_insert(0) += 1;
        }
        counts
    }

    proptest! {
        #[test]
        fn shares_are_fair_and_only_what_must_move_moves(
            states in prop::collection::vec(prop::collection::btree_set(0u32..70, 0..=BUCKETS), 1..12),
        ) {
            let mut buckets = Buckets::default();
            let mut before = BTreeSet::new();
            for state in states {
                let old = buckets.clone();
                deal(&mut buckets, &members(&state));
                if state.is_empty() {
                    prop_assert_eq!(&old, &buckets);
                    continue;
                }
                let counts = counts(&buckets);
                prop_assert_eq!(counts.keys().copied().collect::<Vec<_>>(), members(&state), "everybody, and nobody else");
                let (least, most) = (counts.values().min().unwrap(), counts.values().max().unwrap());
                prop_assert!(most - least <= 1, "{:?}", counts);
                let moved: Vec<usize> = (0..BUCKETS).filter(|at| old.0[*at] != buckets.0[*at]).collect();
                let gone = old.0.iter().filter(|owner| !state.contains(&owner.0)).count();
                if state.is_subset(&before) {
                    // Nobody came: only the buckets of those who went move.
                    prop_assert_eq!(moved.len(), gone);
                }
                if before.is_subset(&state) && !before.is_empty() {
                    // Nobody went: what moves goes to those who came, and no more than their share.
                    prop_assert!(moved.iter().all(|at| !before.contains(&buckets.0[*at].0)));
                    let theirs: usize = counts.iter().filter(|(owner, _)| !before.contains(&owner.0)).map(|(_, n)| n).sum();
                    prop_assert_eq!(moved.len(), theirs);
                }
                // The same again moves nothing.
                let again = buckets.clone();
                deal(&mut buckets, &members(&state));
                prop_assert_eq!(&again, &buckets);
                before = state;
            }
        }
    }

    #[test]
    fn whoever_comes_back_takes_as_much_as_was_taken() {
        let mut buckets = Buckets::default();
        deal(&mut buckets, &[AdjacencyIndex(1), AdjacencyIndex(2)]);
        let before = buckets.clone();
        deal(&mut buckets, &[AdjacencyIndex(2)]);
        assert!(buckets.0.iter().all(|owner| *owner == AdjacencyIndex(2)));
        deal(&mut buckets, &[]);
        assert!(buckets.0.iter().all(|owner| *owner == AdjacencyIndex(2)));
        deal(&mut buckets, &[AdjacencyIndex(1), AdjacencyIndex(2)]);
        assert_eq!(counts(&buckets), counts(&before));
    }
}
