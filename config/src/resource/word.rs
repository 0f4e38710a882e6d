//! Fields whose value is one of a few words.
//!
//! `words!` makes the enum, its JSON form and its text. Most words must be written exactly; where Calico takes them in
//! any case, so do we, and keep them in the exact one.

/// `words! { /// Doc. Name: any_case { Word = "text", ... } }`
macro_rules! words {
    ($($(#[$attribute:meta])* $name:ident: $case:ident { $($(#[$word_attribute:meta])* $word:ident = $text:literal,)+ })+) => {
        $(
            $(#[$attribute])*
            #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
            pub enum $name {
                $($(#[$word_attribute])* $word,)+
            }

            impl $name {
                pub const WORDS: &'static [&'static str] = &[$($text,)+];

                pub fn parse(text: &str) -> Option<$name> {
                    $(
                        if $crate::resource::word::$case(text, $text) {
                            return Some($name::$word);
                        }
                    )+
                    None
                }

                pub fn as_str(self) -> &'static str {
                    match self {
                        $($name::$word => $text,)+
                    }
                }
            }

            impl std::fmt::Display for $name {
                fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.write_str(self.as_str())
                }
            }

            impl serde::Serialize for $name {
                fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                    serializer.serialize_str(self.as_str())
                }
            }

            impl<'de> serde::Deserialize<'de> for $name {
                fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<$name, D::Error> {
                    $crate::resource::word::read(deserializer, $name::WORDS, $name::parse)
                }
            }
        )+
    };
}
pub(crate) use words;

use std::fmt;

use serde::Deserializer;
use serde::de::{self, Visitor};

pub(crate) fn exact(text: &str, word: &str) -> bool {
    text == word
}

pub(crate) fn any_case(text: &str, word: &str) -> bool {
    text.eq_ignore_ascii_case(word)
}

/// Reads one of `words`.
pub(crate) fn read<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    words: &'static [&'static str],
    parse: fn(&str) -> Option<T>,
) -> Result<T, D::Error> {
    deserializer.deserialize_str(Text { expected: Expected::Words(words), parse })
}

/// Reads text of a form that `expected` names.
pub(crate) fn read_text<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    expected: &'static str,
    parse: fn(&str) -> Option<T>,
) -> Result<T, D::Error> {
    deserializer.deserialize_str(Text { expected: Expected::Form(expected), parse })
}

struct Text<T> {
    expected: Expected,
    parse: fn(&str) -> Option<T>,
}

enum Expected {
    Words(&'static [&'static str]),
    Form(&'static str),
}

impl<T> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.expected {
            Expected::Words(words) => write!(f, "one of {}", words.join(", ")),
            Expected::Form(form) => f.write_str(form),
        }
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
    }
}

words! {
    /// On or off, where Calico writes it as a word.
    Switch: exact {
        Enabled = "Enabled",
        Disabled = "Disabled",
    }
}
