//! Secrets of BGP sessions: files that others put there, change and take away.
//!
//! What was looked up for the sessions is looked at again, some of it with every look, one after the other. What differs is
//! believed when it is found a second time: a file may be looked at while it is being written.
//!
//! Bound: `AT_ONCE` files in one look.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

/// A secret is this long at most; keys of TCP-MD5 are 80 octets.
const SECRET_MAX: u64 = 4096;
/// Files that are looked at before others have their turn.
const AT_ONCE: usize = 64;

/// A secret's name, and a key in it.
type Name = (String, String);
type Value = Option<Arc<str>>;

/// What was found, by name.
#[derive(Debug, Default)]
pub struct Secrets {
    used: BTreeMap<Name, Value>,
    /// Found otherwise, once.
    changing: BTreeMap<Name, Value>,
    /// The last one that was looked at.
    last: Option<Name>,
}

impl Secrets {
    /// Calls `work` with something that looks secrets up in a folder, and remembers what it found.
    pub fn with<T>(&mut self, folder: &Path, work: impl FnOnce(&dyn Fn(&str, &str) -> Value) -> T) -> T {
        let used = RefCell::new(BTreeMap::new());
        let found = work(&|name, key| {
            let value = read(folder, name, key);
            used.borrow_mut().insert((name.to_owned(), key.to_owned()), value.clone());
            value
        });
        self.used = used.into_inner();
        self.changing.retain(|name, _| self.used.contains_key(name));
        found
    }

    /// Looks at some again. True: one of them is another now.
    pub fn look(&mut self, folder: &Path) -> bool {
        let after = self.last.take().map_or(Bound::Unbounded, Bound::Excluded);
        let behind = self.used.range((after, Bound::Unbounded)).take(AT_ONCE);
        let looked: Vec<(Name, Value)> = behind.map(|(name, value)| (name.clone(), value.clone())).collect();
        // Those whose change was seen once are seen again soon, whoever's turn it is.
        let mut names: BTreeSet<Name> = self.changing.keys().cloned().collect();
        names.extend(looked.iter().map(|(name, _)| name.clone()));
        self.last = looked.last().filter(|_| looked.len() == AT_ONCE).map(|(name, _)| name.clone());
        let mut is_changed = false;
        for name in names {
            let now = read(folder, &name.0, &name.1);
            if self.used.get(&name) == Some(&now) {
                self.changing.remove(&name);
            } else if self.changing.get(&name) == Some(&now) {
                is_changed = true;
            } else if self.changing.len() < AT_ONCE {
                self.changing.insert(name, now);
            }
        }
        is_changed
    }
}

/// `FOLDER/NAME/KEY`, as Kubernetes mounts secrets. Spaces at its end are none of it.
fn read(folder: &Path, name: &str, key: &str) -> Value {
    // Names come from resources that others may write: they name one file in one folder and nothing else.
    let is_plain = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains(['/', '\0']);
    if !is_plain(name) || !is_plain(key) {
        return None;
    }
    let path = folder.join(name).join(key);
    let is_short = std::fs::metadata(&path).ok()?.len() <= SECRET_MAX;
    let text = is_short.then(|| std::fs::read_to_string(&path).ok())??;
    let text = text.trim_end();
    (!text.is_empty()).then(|| text.into())
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    struct Stand {
        folder: TempDir,
        secrets: Secrets,
    }

    impl Stand {
        fn new() -> Stand {
            let folder = TempDir::new().unwrap();
            std::fs::create_dir(folder.path().join("bgp")).unwrap();
            Stand { folder, secrets: Secrets::default() }
        }

        fn write(&self, key: &str, text: &str) {
            std::fs::write(self.folder.path().join("bgp").join(key), text).unwrap();
        }

        fn find(&mut self, keys: &[&str]) -> Vec<Option<String>> {
            let find = |look: &dyn Fn(&str, &str) -> Value| {
                keys.iter().map(|key| look("bgp", key).map(|text| text.to_string())).collect()
            };
            self.secrets.with(self.folder.path(), find)
        }

        fn look(&mut self) -> bool {
            self.secrets.look(self.folder.path())
        }
    }

    #[test]
    fn a_change_is_believed_when_it_is_seen_twice() {
        let mut stand = Stand::new();
        stand.write("a", "one\n");
        assert_eq!(stand.find(&["a", "b"]), [Some("one".to_owned()), None]);
        assert_eq!([stand.look(), stand.look()], [false; 2]);
        stand.write("a", "two");
        assert_eq!([stand.look(), stand.look()], [false, true]);
        assert_eq!(stand.find(&["a", "b"])[0].as_deref(), Some("two"));
        assert!(!stand.look());
        // Half written, then whole.
        stand.write("b", "th");
        assert!(!stand.look());
        stand.write("b", "three");
        // The first time that it is so.
        assert!(!stand.look());
        assert!(!stand.look() || stand.find(&["a", "b"])[1].as_deref() == Some("three"));
        // There and back again is no change.
        stand.find(&["a", "b"]);
        stand.write("a", "four");
        assert!(!stand.look());
        stand.write("a", "two");
        assert_eq!([stand.look(), stand.look()], [false; 2]);
        std::fs::remove_file(stand.folder.path().join("bgp/a")).unwrap();
        assert_eq!([stand.look(), stand.look()], [false, true]);
    }

    #[test]
    fn many_are_looked_at_in_turns() {
        let mut stand = Stand::new();
        let keys: Vec<String> = (0..3 * AT_ONCE).map(|number| format!("key{number:04}")).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        stand.find(&keys);
        stand.write(keys[3 * AT_ONCE - 1], "late");
        let looks = (0..10).position(|_| stand.look());
        assert!(looks.is_some_and(|looks| looks <= 4), "{looks:?}");
    }

    #[test]
    fn names_stay_in_the_folder() {
        let mut stand = Stand::new();
        stand.write("a", "one");
        std::fs::write(stand.folder.path().join("outside"), "secret").unwrap();
        assert_eq!(
            stand.find(&["../outside", "..", "", "a/../a", "a"]),
            [None, None, None, None, Some("one".to_owned())]
        );
    }
}
