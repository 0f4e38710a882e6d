//! BGP communities: `65000:100` (RFC 1997) and `65000:1:2` (RFC 8092).

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Community {
    Standard(u16, u16),
    Large(u32, u32, u32),
}

impl Community {
    pub const EXPECTED: &'static str = "a community: two numbers 0-65535 such as 65000:100, or three 0-4294967295";

    pub fn parse(text: &str) -> Option<Community> {
        fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
            let is_plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
            text.parse().ok().filter(|_| is_plain)
        }
        let mut parts = text.split(':');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(a), Some(b), None, _) => Some(Community::Standard(number(a)?, number(b)?)),
            (Some(a), Some(b), Some(c), None) => Some(Community::Large(number(a)?, number(b)?, number(c)?)),
            _ => None,
        }
    }
}

impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Community::Standard(a, b) => write!(f, "{a}:{b}"),
            Community::Large(a, b, c) => write!(f, "{a}:{b}:{c}"),
        }
    }
}

impl Serialize for Community {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Community {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Community, D::Error> {
        super::word::read_text(deserializer, Community::EXPECTED, Community::parse)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        for text in ["0:0", "65535:65535", "1:2:3", "4294967295:0:4294967295"] {
            assert_eq!(Community::parse(text).map(|community| community.to_string()).as_deref(), Some(text));
        }
        for text in ["", "1", "1:", ":1", "65536:0", "1:2:4294967296", "1:2:3:4", "01:2", "+1:2", "a:b", "1 :2"] {
            assert_eq!(Community::parse(text), None, "{text:?}");
        }
    }
}
