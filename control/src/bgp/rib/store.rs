//! Attributes, each once in memory however many routes have them.
//!
//! Invariant: two attributes from one store are equal exactly if they are the same allocation.

use std::hash::Hash;
use std::sync::Arc;

use hashbrown::HashTable;

use super::super::attribute::Attributes;

/// Looked through for what nobody has any more when it is so much larger than after the last time.
const GROWTH: usize = 2;
const SMALLEST: usize = 4096;

#[derive(Debug, Default)]
pub struct AttributeStore {
    all: HashTable<Arc<Attributes>>,
    hasher: ahash::RandomState,
    /// Sweep when there are so many.
    sweep_at: usize,
}

impl AttributeStore {
    /// The one that is equal to this.
    pub fn intern(&mut self, attributes: Arc<Attributes>) -> Arc<Attributes> {
        let hash = self.hasher.hash_one(&*attributes);
        if let Some(found) = self.all.find(hash, |other| Arc::ptr_eq(other, &attributes) || **other == *attributes) {
            return found.clone();
        }
        if self.all.len() >= self.sweep_at.max(SMALLEST) {
            self.sweep();
        }
        let hasher = &self.hasher;
        self.all.insert_unique(hash, attributes.clone(), |other| hasher.hash_one(&**other));
        attributes
    }

    /// Forgets what nobody has.
    fn sweep(&mut self) {
        self.all.retain(|attributes| Arc::strong_count(attributes) > 1);
        self.sweep_at = self.all.len().saturating_mul(GROWTH);
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
}

/// An allocation as a key: equal for the same one.
#[derive(Debug, Clone)]
pub struct Same(pub Arc<Attributes>);

impl PartialEq for Same {
    fn eq(&self, other: &Same) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Same {}

impl Hash for Same {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_is_the_same_and_what_nobody_has_goes() {
        let mut store = AttributeStore::default();
        let attributes =
            |med| Arc::new(Attributes { med: Some(med), ..Attributes::local(std::net::Ipv4Addr::LOCALHOST.into()) });
        let first = store.intern(attributes(1));
        assert!(Arc::ptr_eq(&first, &store.intern(attributes(1))));
        assert!(!Arc::ptr_eq(&first, &store.intern(attributes(2))));
        for med in 0..2 * SMALLEST as u32 {
            store.intern(attributes(med));
        }
        assert!(store.len() <= SMALLEST + 2, "{}", store.len());
        assert!(Arc::ptr_eq(&first, &store.intern(attributes(1))), "one that is in use stays");
    }
}
