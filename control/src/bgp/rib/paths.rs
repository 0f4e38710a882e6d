//! The paths to one prefix: none, one in place, or several on the heap.
//!
//! Most prefixes have one path, and there are a million of them: what an entry takes is what the table of a router takes.
//!
//! Invariant: `Several` has at least two.

use std::ops::{Deref, DerefMut};

use super::path::Path;

#[derive(Debug, Default)]
pub enum Paths {
    #[default]
    None,
    One(Path),
    /// Boxed twice, so that it takes no more room than a pointer.
    #[allow(clippy::box_collection)]
    Several(Box<Vec<Path>>),
}

// The other variants have their place in values that no path has.
const _: () = assert!(size_of::<Paths>() == size_of::<Path>());

impl Deref for Paths {
    type Target = [Path];

    fn deref(&self) -> &[Path] {
        match self {
            Paths::None => &[],
            Paths::One(path) => std::slice::from_ref(path),
            Paths::Several(paths) => paths,
        }
    }
}

impl DerefMut for Paths {
    fn deref_mut(&mut self) -> &mut [Path] {
        match self {
            Paths::None => &mut [],
            Paths::One(path) => std::slice::from_mut(path),
            Paths::Several(paths) => paths,
        }
    }
}

impl Paths {
    /// Appends one.
    pub fn push(&mut self, path: Path) {
        *self = match std::mem::take(self) {
            Paths::None => Paths::One(path),
            Paths::One(first) => Paths::Several(Box::new(vec![first, path])),
            Paths::Several(mut paths) => {
                paths.push(path);
                Paths::Several(paths)
            }
        };
    }

    /// Takes out the one at a position; those behind it move up. None: there is none.
    pub fn remove(&mut self, position: usize) -> Option<Path> {
        if position >= self.len() {
            return None;
        }
        match std::mem::take(self) {
            Paths::None => None,
            Paths::One(path) => Some(path),
            Paths::Several(mut paths) => {
                let removed = paths.remove(position);
                *self = match paths.len() {
                    1 => paths.pop().map_or(Paths::None, Paths::One),
                    _ => Paths::Several(paths),
                };
                Some(removed)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::super::path::{PeerIndex, Stale};
    use super::*;
    use crate::bgp::attribute::Attributes;

    proptest! {
        #[test]
        fn it_is_a_vector(steps in prop::collection::vec(prop::option::weighted(0.6, 0usize..6), 0..60)) {
            let attributes = Arc::new(Attributes::local([192, 0, 2, 1].into()));
            let (mut paths, mut plain) = (Paths::default(), Vec::new());
            for (id, step) in (0..).zip(steps) {
                match step {
                    None => {
                        let path = Path {
                            peer: PeerIndex(1),
                            number: 1,
                            path_id: id,
                            stale: Stale::No,
                            rejected: None,
                            beats_local: false,
                            attributes: attributes.clone(),
                        };
                        paths.push(path);
                        plain.push(id);
                    }
                    Some(position) => {
                        let removed = paths.remove(position).map(|path| path.path_id);
                        prop_assert_eq!(removed, (position < plain.len()).then(|| plain.remove(position)));
                    }
                }
                let ids: Vec<u32> = paths.iter().map(|path| path.path_id).collect();
                prop_assert_eq!(&ids, &plain);
                prop_assert_eq!(matches!(paths, Paths::Several(_)), plain.len() > 1);
            }
        }
    }
}
