//! A regular expression, as a resource holds it. It is read to see that it is one; whoever matches with it compiles it.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longer ones are refused: nobody writes them, and reading one costs memory.
const TEXT_MAX: usize = 1024;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    pub const EXPECTED: &'static str = "a regular expression of at most 1024 characters";

    pub fn parse(text: &str) -> Option<Pattern> {
        let is_pattern = text.len() <= TEXT_MAX && regex_syntax::Parser::new().parse(text).is_ok();
        is_pattern.then(|| Pattern(text.to_string()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Pattern, D::Error> {
        super::word::read_text(deserializer, Pattern::EXPECTED, Pattern::parse)
    }
}
