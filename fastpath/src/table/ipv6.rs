//! Routes of IPv6: a table that is made whole, and a small one laid over it for what changed since.
//!
//!     base      … │ 2001:db8:: A │ 2001:db8:1:: B │ 2001:db9:: – │ …       hundreds of thousands of runs
//!     overlay   0 pass │ 2001:db8:7:: C │ 2001:db8:8:: pass               those of the prefixes that changed
//!     default   D                                                         where both find nothing
//!
//! An address is looked up in both, and the overlay's answer counts unless it is `pass`. The overlay holds runs that are
//! resolved: for a prefix that was added, changed or taken away, every run of addresses in it as it is now. So a
//! prefix that is gone stands there with what covers it, and one within another needs no search by length. The default
//! route, which has all others within it, stands apart: a change of it is a change of one number.
//!
//! Invariants: a published table never changes; base and overlay of one [`Ipv6Routes`] belong together. The overlay has at
//! most [`MAX_OVERLAY`] runs in [`MAX_PARTS`] parts; with more, for a small table, or when many routes change at once, all is
//! made anew, which folds it in.
//! Left out: edits in place. A table is published with the snapshot that it belongs to.

use std::sync::Arc;

use prefix_trie::PrefixMap;

use super::interval::Interval;
use super::lpm::{Address, Lpm, MAX_VALUE, NO_VALUE, Prefix};
use super::overlay::Overlay;

/// Runs of an overlay: what still fits the cache of a core beside everything else.
pub const MAX_OVERLAY: usize = 4096;

/// Parts of an overlay, each of which a snapshot refers to.
pub const MAX_PARTS: usize = 256;

/// Routes up to which a table is made anew at every change: that takes no longer than an overlay does.
const SMALL: usize = 16;

/// The same where this part of all routes changes in one commit.
const MUCH: usize = 4;

/// Changes in one commit from which on making all anew is no dearer than looking at each.
const MANY_CHANGES: usize = 1024;

/// An overlay's answer where it has none. No prefix has this value.
const PASS: u32 = MAX_VALUE + 1;

/// Addresses whose answers of the overlay are kept on the stack at a time.
const CHUNK: usize = 32;

/// What workers read.
#[derive(Clone, Debug)]
pub struct Ipv6Routes {
    base: Arc<Interval>,
    overlay: Option<Arc<Overlay>>,
    default: u32,
}

impl Default for Ipv6Routes {
    fn default() -> Self {
        Self { base: Arc::default(), overlay: None, default: NO_VALUE }
    }
}

impl Ipv6Routes {
    /// The value of the longest prefix that covers the address, or [`NO_VALUE`].
    #[inline]
    pub fn lookup(&self, address: u128) -> u32 {
        let value = match self.overlay.as_ref().map_or(PASS, |overlay| overlay.lookup(address)) {
            PASS => self.base.lookup(address),
            value => value,
        };
        if value == NO_VALUE { self.default } else { value }
    }

    /// The same for many addresses. Panics unless there is a value for each.
    pub fn lookup_burst(&self, addresses: &[u128], values: &mut [u32]) {
        self.base.lookup_burst(addresses, values);
        if let Some(overlay) = &self.overlay {
            for (addresses, values) in addresses.chunks(CHUNK).zip(values.chunks_mut(CHUNK)) {
                let mut over = [PASS; CHUNK];
                let over = &mut over[..addresses.len()];
                overlay.lookup_burst(addresses, over);
                for (value, over) in values.iter_mut().zip(over) {
                    *value = if *over == PASS { *value } else { *over };
                }
            }
        }
        for value in values {
            *value = if *value == NO_VALUE { self.default } else { *value };
        }
    }
}

impl Ipv6Routes {
    /// Bytes of memory.
    pub fn size(&self) -> usize {
        self.base.size() + self.overlay.as_ref().map_or(0, |overlay| overlay.size())
    }
}

/// What control edits: the RIB, and what has changed since the last commit.
pub struct Ipv6Writer {
    rib: PrefixMap<(u128, u8), u32>,
    overlay: Overlay,
    changed: Vec<(u128, u8)>,
    routes: Ipv6Routes,
}

impl Default for Ipv6Writer {
    fn default() -> Self {
        Self {
            rib: PrefixMap::new(),
            overlay: Overlay::of_one(PASS),
            changed: Vec::new(),
            routes: Ipv6Routes::default(),
        }
    }
}

impl Ipv6Writer {
    /// Number of routes.
    pub fn len(&self) -> usize {
        self.rib.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rib.is_empty()
    }

    /// Routes a prefix from the next commit on. Returns what it led to. Panics for a value beyond `MAX_VALUE`.
    pub fn insert(&mut self, (address, length, value): Prefix<u128>) -> Option<u32> {
        assert!(value <= MAX_VALUE, "a value that tables can hold");
        let prefix = prefix(address, length);
        let old = self.rib.insert(prefix, value);
        if old != Some(value) {
            self.note(prefix);
        }
        old
    }

    /// Takes a route away from the next commit on. Returns what it led to.
    pub fn remove(&mut self, address: u128, length: u8) -> Option<u32> {
        let prefix = prefix(address, length);
        let old = self.rib.remove(&prefix)?;
        self.note(prefix);
        Some(old)
    }

    /// One change beyond the many says as much as all of them.
    fn note(&mut self, prefix: (u128, u8)) {
        if self.changed.len() <= MANY_CHANGES {
            self.changed.push(prefix);
        }
    }

    /// A table with all changes so far.
    pub fn commit(&mut self) -> Ipv6Routes {
        let changed = std::mem::take(&mut self.changed);
        if !changed.is_empty() {
            let is_little = changed.len() <= MANY_CHANGES.min(self.len() / MUCH) && self.len() > SMALL;
            if !(is_little && self.lay_over(&changed)) {
                self.make_anew();
            }
            self.routes.default = self.rib.get(&(0, 0)).copied().unwrap_or(NO_VALUE);
        }
        self.routes.clone()
    }

    fn make_anew(&mut self) {
        self.overlay = Overlay::of_one(PASS);
        let routes = self.rib.iter().filter(|((_, length), _)| *length > 0);
        let runs = Lpm::build(routes.map(|((address, length), value)| (address, length, *value)).collect());
        self.routes = Ipv6Routes { base: Arc::new(Interval::build(&runs)), ..Ipv6Routes::default() };
    }

    /// Puts the runs of changed prefixes into the overlay. False when it would become too large.
    fn lay_over(&mut self, changed: &[(u128, u8)]) -> bool {
        for prefix in changed.iter().filter(|(_, length)| *length > 0) {
            let cover = self.rib.get_lpm(prefix).filter(|((_, length), _)| *length > 0);
            let cover = cover.map_or(NO_VALUE, |(_, value)| *value);
            let inner = self.rib.children(prefix).filter(|(inner, _)| inner.1 > prefix.1);
            let mut routes: Vec<Prefix<u128>> = vec![(prefix.0, prefix.1, cover)];
            routes.extend(inner.take(MAX_OVERLAY).map(|((address, length), value)| (address, length, *value)));
            if routes.len() > MAX_OVERLAY {
                return false;
            }
            let (first, last) = prefix.0.range(prefix.1);
            let mut runs = vec![(first, cover)];
            if routes.len() > 1 {
                let inside = Lpm::build(routes);
                runs[0].1 = inside.lookup(first);
                runs.extend(inside.runs().filter(|(start, _)| *start > first && *start <= last));
            }
            self.overlay.replace((first, last), &runs);
            if self.overlay.len() > MAX_OVERLAY || self.overlay.parts() > MAX_PARTS {
                return false;
            }
        }
        // The default route alone needs none.
        if changed.iter().any(|(_, length)| *length > 0) {
            self.routes.overlay = Some(Arc::new(self.overlay.clone()));
        }
        true
    }
}

/// A prefix without host bits.
fn prefix(address: u128, length: u8) -> (u128, u8) {
    let length = length.min(u128::BITS as u8);
    (address.range(length).0, length)
}

#[cfg(test)]
mod tests {
    use super::super::test_routes::{ipv6_prefix, probes};
    use super::*;
    use proptest::prelude::*;

    /// Every probe alone, in a burst, by the RIB and by sorted runs.
    fn check(writer: &Ipv6Writer, routes: &Ipv6Routes, probes: &[u128]) {
        let all = writer.rib.iter().map(|((address, length), value)| (address, length, *value)).collect();
        let runs = Lpm::build(all);
        let mut values = vec![0; probes.len()];
        routes.lookup_burst(probes, &mut values);
        for (probe, value) in probes.iter().zip(values) {
            let expected = runs.lookup(*probe);
            let by_rib = writer.rib.get_lpm(&(*probe, 128)).map_or(NO_VALUE, |(_, value)| *value);
            assert_eq!(by_rib, expected, "{probe:x} by the RIB");
            assert_eq!(routes.lookup(*probe), expected, "{probe:x} alone");
            assert_eq!(value, expected, "{probe:x} in a burst");
        }
    }

    /// So many routes elsewhere that edits are laid over them.
    fn with_many() -> Ipv6Writer {
        let mut writer = Ipv6Writer::default();
        for number in 0..=1024u128 {
            writer.insert((0x3ffe << 112 | number << 80, 48, number as u32 % 7));
        }
        writer.commit();
        writer
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]
        #[test]
        fn laid_over_equals_rib_and_runs(
            edits in prop::collection::vec((ipv6_prefix(), prop::bool::weighted(0.4), prop::bool::weighted(0.3)), 1..80),
            picks in prop::collection::vec(any::<prop::sample::Index>(), 80),
            more in prop::collection::vec(any::<u128>(), 8),
        ) {
            let mut writer = with_many();
            let mut known: Vec<Prefix<u128>> = vec![(0x3ffe << 112 | 5 << 80, 48, 5)];
            let mut old: Vec<(Ipv6Routes, Lpm<u128>)> = Vec::new();
            for ((route, is_removal, is_commit), pick) in edits.into_iter().zip(picks) {
                if is_removal {
                    let (address, length, _) = known[pick.index(known.len())];
                    writer.remove(address, length);
                } else {
                    known.push(route);
                    writer.insert(route);
                }
                if is_commit {
                    let routes = writer.commit();
                    let mut probes = probes(&known);
                    probes.extend(&more);
                    check(&writer, &routes, &probes);
                    let all = writer.rib.iter().map(|((address, length), value)| (address, length, *value)).collect();
                    old.push((routes, Lpm::build(all)));
                }
            }
            // What was published stays what it was.
            for (routes, runs) in old {
                for probe in probes(&known) {
                    prop_assert_eq!(routes.lookup(probe), runs.lookup(probe));
                }
            }
        }
    }

    #[test]
    fn one_change_is_laid_over_and_many_are_folded_in() {
        let mut writer = with_many();
        let base = writer.routes.base.clone();
        let place = |number: u128| 0x2001 << 112 | number << 64;
        writer.insert((place(1), 64, 1));
        let routes = writer.commit();
        assert!(routes.overlay.is_some() && Arc::ptr_eq(&base, &routes.base));
        check(&writer, &routes, &[place(1), place(2), place(1) - 1]);
        for number in 0..MAX_OVERLAY as u128 {
            writer.insert((place(2 * number), 64, 2));
            if number % 512 == 0 {
                let routes = writer.commit();
                assert!(writer.overlay.len() <= MAX_OVERLAY);
                check(&writer, &routes, &[place(2 * number), place(2 * number + 1)]);
            }
        }
        let routes = writer.commit();
        assert!(!Arc::ptr_eq(&base, &routes.base), "folded in");
        // A prefix with more inside than an overlay holds.
        writer.insert((place(0), 16, 3));
        let routes = writer.commit();
        assert!(routes.overlay.is_none());
        check(&writer, &routes, &[place(2), place(3), place(1 << 20)]);
    }

    #[test]
    fn nothing_changed_is_the_same_table() {
        let mut writer = with_many();
        let before = writer.commit();
        assert_eq!(writer.insert((0x3ffe << 112, 48, 0)), Some(0));
        assert_eq!(writer.remove(1, 128), None);
        assert!(Arc::ptr_eq(&before.base, &writer.commit().base));
    }
}
