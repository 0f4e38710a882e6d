//! A length of time as Go writes it: `90s`, `1h30m`, `1.5s`, `300ms`.
//!
//! It keeps the text it was written in, as selectors do. Negative lengths are refused: none has a meaning anywhere.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest text; every length of time that fits its number is shorter.
const TEXT_MAX: usize = 64;
const NANOS_MAX: u128 = i64::MAX as u128;

#[derive(Debug, Clone)]
pub struct TimeSpan {
    text: String,
    length: Duration,
}

impl TimeSpan {
    pub const EXPECTED: &'static str = "a length of time such as 90s, 1h30m or 300ms, not negative";

    pub fn parse(text: &str) -> Option<TimeSpan> {
        if text.len() > TEXT_MAX {
            return None;
        }
        let mut rest = text.strip_prefix('+').unwrap_or(text);
        let mut nanos: u128 = 0;
        // Go takes a bare zero, and nothing else without a unit.
        if rest == "0" {
            rest = "0s";
        }
        if rest.is_empty() {
            return None;
        }
        while !rest.is_empty() {
            let (part, after) = part(rest)?;
            nanos = nanos.checked_add(part).filter(|nanos| *nanos <= NANOS_MAX)?;
            rest = after;
        }
        let length = Duration::from_nanos(u64::try_from(nanos).ok()?);
        Some(TimeSpan { text: text.to_string(), length })
    }

    pub fn length(&self) -> Duration {
        self.length
    }
}

/// The nanoseconds of the first number and unit, and what follows them.
fn part(text: &str) -> Option<(u128, &str)> {
    const UNITS: [(&str, u128); 8] = [
        ("ns", 1),
        ("us", 1_000),
        ("\u{b5}s", 1_000),
        ("\u{3bc}s", 1_000),
        ("ms", 1_000_000),
        ("s", 1_000_000_000),
        ("m", 60_000_000_000),
        ("h", 3_600_000_000_000),
    ];
    let digits = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (whole, rest) = text.split_at(digits(text));
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(digits(rest)),
        None => ("", rest),
    };
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let unit_end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(unit_end);
    let (_, nanos) = UNITS.iter().find(|(name, _)| *name == unit)?;
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut total = whole.checked_mul(*nanos)?;
    let mut scale = *nanos;
    for digit in fraction.bytes() {
        scale /= 10;
        total = total.checked_add(u128::from(digit - b'0') * scale)?;
    }
    Some((total, rest))
}

impl PartialEq for TimeSpan {
    fn eq(&self, other: &TimeSpan) -> bool {
        self.length == other.length
    }
}

impl fmt::Display for TimeSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for TimeSpan {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for TimeSpan {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<TimeSpan, D::Error> {
        super::word::read_text(deserializer, TimeSpan::EXPECTED, TimeSpan::parse)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        let check = |text: &str, expected: Option<u64>| {
            let found = TimeSpan::parse(text).map(|span| span.length().as_nanos());
            assert_eq!(found, expected.map(u128::from), "{text:?}");
        };
        check("0", Some(0));
        check("0s", Some(0));
        check("10s", Some(10_000_000_000));
        check("1h3m2s", Some(3_782_000_000_000));
        check("1.5s", Some(1_500_000_000));
        check(".5ms", Some(500_000));
        check("300us", Some(300_000));
        check("1\u{b5}s", Some(1_000));
        check("+1s", Some(1_000_000_000));
        check("2562047h", Some(9_223_369_200_000_000_000));
        for refused in ["", "10", "s", ".s", "-1s", "1 s", "1d", "1e-8s", "2562048h", "+", "1s2", "\u{b5}"] {
            check(refused, None);
        }
        check(&"0h".repeat(40), None);
    }
}
