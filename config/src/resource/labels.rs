//! The labels of a resource: names and values in order, in as little memory as a hundred thousand endpoints need.
//!
//! The same names and values are written over and over; `Texts` keeps one copy of each for whoever reads many resources.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Labels by name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Labels(Box<[(Arc<str>, Arc<str>)]>);

/// Names and values that were seen before.
#[derive(Debug, Default)]
pub struct Texts(HashSet<Arc<str>>);

impl Labels {
    /// In the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        let position = self.0.binary_search_by(|(own, _)| (**own).cmp(name)).ok()?;
        Some(&self.0[position].1)
    }

    pub fn insert(&mut self, name: impl Into<Arc<str>>, value: impl Into<Arc<str>>) {
        self.extend([(name, value)]);
    }

    /// Replaces every text by the copy that others have.
    pub fn share(&mut self, texts: &mut Texts) {
        for (name, value) in &mut self.0 {
            texts.share(name);
            texts.share(value);
        }
    }
}

impl Texts {
    fn share(&mut self, text: &mut Arc<str>) {
        match self.0.get(text) {
            Some(known) => *text = known.clone(),
            None => {
                self.0.insert(text.clone());
            }
        }
    }
}

impl<N: Into<Arc<str>>, V: Into<Arc<str>>> Extend<(N, V)> for Labels {
    /// Of two labels of one name the last stays.
    fn extend<I: IntoIterator<Item = (N, V)>>(&mut self, labels: I) {
        let mut all = std::mem::take(&mut self.0).into_vec();
        all.extend(labels.into_iter().map(|(name, value)| (name.into(), value.into())));
        // The sort keeps the order of equals.
        all.sort_by(|left, right| left.0.cmp(&right.0));
        all.dedup_by(|later, kept| {
            let is_same = later.0 == kept.0;
            if is_same {
                std::mem::swap(later, kept);
            }
            is_same
        });
        self.0 = all.into();
    }
}

impl<N: Into<Arc<str>>, V: Into<Arc<str>>> FromIterator<(N, V)> for Labels {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(labels: I) -> Self {
        let mut all = Self::default();
        all.extend(labels);
        all
    }
}

impl Serialize for Labels {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Labels;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Labels, A::Error> {
                let mut all: Vec<(Arc<str>, Arc<str>)> = Vec::new();
                while let Some((Text(name), Text(value))) = map.next_entry()? {
                    all.push((name, value));
                }
                Ok(all.into_iter().collect())
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

struct Text(Arc<str>);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Copied;
        impl Visitor<'_> for Copied {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Text, E> {
                Ok(Text(text.into()))
            }
        }
        deserializer.deserialize_str(Copied)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(labels: &Labels, expected: &str) {
        assert_eq!(serde_json::to_string(labels).unwrap_or_default(), expected);
        assert_eq!(serde_json::from_str::<Labels>(expected).ok().as_ref(), Some(labels));
    }

    #[test]
    fn labels_are_in_order_and_the_last_of_a_name_stays() {
        let mut labels: Labels = [("b", "1"), ("a", "2"), ("b", "3"), ("b", "4")].into_iter().collect();
        check(&labels, r#"{"a":"2","b":"4"}"#);
        labels.insert("aa", "5");
        labels.insert("a", "6");
        check(&labels, r#"{"a":"6","aa":"5","b":"4"}"#);
        assert_eq!((labels.get("aa"), labels.get("c")), (Some("5"), None));
        check(&Labels::default(), "{}");
        assert!(serde_json::from_str::<Labels>(r#"{"a":1}"#).is_err());
    }

    #[test]
    fn texts_are_shared() {
        let mut texts = Texts::default();
        let mut both = [1, 2].map(|_| [("app", "web")].into_iter().collect::<Labels>());
        both.iter_mut().for_each(|labels| labels.share(&mut texts));
        let [one, other] = &both;
        assert_eq!(one, other);
        assert!(Arc::ptr_eq(&one.0[0].0, &other.0[0].0) && Arc::ptr_eq(&one.0[0].1, &other.0[0].1));
    }
}
