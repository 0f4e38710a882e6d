//! AS_PATH and AS4_PATH: segments of numbers, of two octets each where a side does not know longer ones.
//!
//! ```text
//!     kind 1 | count 1 | count × number (2 or 4) | kind …
//! ```
//!
//! A peer of two octets is told AS_TRANS for what does not fit, and the whole path beside it in AS4_PATH; what comes from
//! one is put together again from both, whichever came first in the message.
//!
//! Sources: RFC 4271 §4.3, RFC 5065 §3, RFC 6793 §4.2, RFC 7606 §7.2, RFC 7607.

use crate::bgp::attribute::{AsPath, Segment, SegmentKind};

use super::reader::Reader;

/// Stands for a number that does not fit into two octets. RFC 6793 §9.
pub(super) const AS_TRANS: u32 = 23456;

/// Numbers in one segment: the count is one octet.
const SEGMENT_MAX: usize = 255;

/// Octets of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Width {
    Two,
    Four,
}

impl Width {
    pub fn octets(self) -> usize {
        match self {
            Width::Two => 2,
            Width::Four => 4,
        }
    }
}

/// Says what is wrong with it when it is malformed.
pub(super) fn read(value: &[u8], width: Width) -> Result<AsPath, String> {
    let mut reader = Reader::new(value);
    let mut segments = Vec::new();
    while !reader.is_empty() {
        let kind = match reader.u8() {
            Some(1) => SegmentKind::Set,
            Some(2) => SegmentKind::Sequence,
            Some(3) => SegmentKind::ConfederationSequence,
            Some(4) => SegmentKind::ConfederationSet,
            found => return Err(format!("found a segment of type {}, expected 1 to 4", found.unwrap_or_default())),
        };
        let count = reader.u8().ok_or("a segment ends after its type")?;
        if count == 0 {
            return Err("a segment has no numbers".to_owned());
        }
        let octets = usize::from(count) * width.octets();
        let left = reader.rest().len();
        let octets = reader
            .take(octets)
            .ok_or_else(|| format!("a segment of {count} numbers has {left} octets left, expected {octets}"))?;
        let numbers: Box<[u32]> = match width {
            Width::Two => octets.as_chunks().0.iter().map(|number| u16::from_be_bytes(*number).into()).collect(),
            Width::Four => octets.as_chunks().0.iter().map(|number| u32::from_be_bytes(*number)).collect(),
        };
        if numbers.contains(&0) {
            return Err("found AS 0".to_owned());
        }
        segments.push(Segment { kind, numbers });
    }
    Ok(AsPath { segments: segments.into() })
}

/// Appends the value of the attribute.
pub(super) fn write(path: &AsPath, width: Width, out: &mut Vec<u8>) {
    for segment in &path.segments {
        let kind = match segment.kind {
            SegmentKind::Set => 1,
            SegmentKind::Sequence => 2,
            SegmentKind::ConfederationSequence => 3,
            SegmentKind::ConfederationSet => 4,
        };
        for numbers in segment.numbers.chunks(SEGMENT_MAX) {
            out.extend([kind, numbers.len() as u8]);
            for &number in numbers {
                match width {
                    Width::Two => out.extend(two_octets(number).to_be_bytes()),
                    Width::Four => out.extend(number.to_be_bytes()),
                }
            }
        }
    }
}

/// As a peer of two octets is told it.
pub(in crate::bgp) fn two_octets(number: u32) -> u16 {
    u16::try_from(number).unwrap_or(AS_TRANS as u16)
}

/// Some number does not fit into two octets, so that AS4_PATH has to go along.
pub(super) fn needs_four(path: &AsPath) -> bool {
    path.numbers().any(|number| number > u16::MAX.into())
}

/// The path that both tell of: AS4_PATH, in front of it what systems of two octets have put before AS_PATH since.
/// RFC 6793 §4.2.3.
pub(super) fn merge(path: AsPath, long: AsPath) -> AsPath {
    // Somebody has made it shorter without knowing of AS4_PATH, which is old then.
    let Some(mut missing) = path.length().checked_sub(long.length()) else { return path };
    let mut front: Vec<Segment> = Vec::new();
    for segment in path.segments {
        // Those of the confederation go along when they are in front, or beside what goes along.
        if segment.kind.is_confederation() {
            front.push(segment);
            continue;
        }
        if missing == 0 {
            break;
        }
        match segment.kind {
            SegmentKind::Set => {
                missing -= 1;
                front.push(segment);
            }
            _ => {
                let count = missing.min(segment.numbers.len());
                missing -= count;
                let is_whole = count == segment.numbers.len();
                let numbers = segment.numbers.iter().copied().take(count).collect();
                front.push(Segment { kind: segment.kind, numbers });
                if !is_whole {
                    break;
                }
            }
        }
    }
    let mut path = long;
    for segment in front.into_iter().rev() {
        path = match segment.kind {
            SegmentKind::Sequence => path.prepended(&segment.numbers),
            _ => AsPath { segments: std::iter::once(segment).chain(path.segments).collect() },
        };
    }
    path
}

#[cfg(test)]
mod tests {
    use super::SegmentKind::{ConfederationSequence as Confederation, Sequence, Set};
    use super::*;

    fn path(segments: &[(SegmentKind, &[u32])]) -> AsPath {
        let segment = |(kind, numbers): &(SegmentKind, &[u32])| Segment { kind: *kind, numbers: (*numbers).into() };
        AsPath { segments: segments.iter().map(segment).collect() }
    }

    #[test]
    fn a_path_is_put_together_from_both() {
        type Segments<'a> = &'a [(SegmentKind, &'a [u32])];
        let check = |short: Segments, long: Segments, expected: Segments| {
            assert_eq!(merge(path(short), path(long)), path(expected), "{short:?} and {long:?}");
        };
        // As long as the other: the long one says all.
        check(&[(Sequence, &[1, 23456])], &[(Sequence, &[1, 70000])], &[(Sequence, &[1, 70000])]);
        // Systems of two octets have put themselves in front.
        check(&[(Sequence, &[8, 9, 23456])], &[(Sequence, &[70000])], &[(Sequence, &[8, 9, 70000])]);
        check(&[(Sequence, &[9]), (Sequence, &[23456])], &[(Sequence, &[70000])], &[(Sequence, &[9, 70000])]);
        // A set counts as one.
        check(
            &[(Sequence, &[9, 23456]), (Set, &[5, 23456])],
            &[(Sequence, &[70000]), (Set, &[5, 80000])],
            &[(Sequence, &[9, 70000]), (Set, &[5, 80000])],
        );
        check(
            &[(Set, &[5, 6]), (Sequence, &[23456])],
            &[(Sequence, &[70000])],
            &[(Set, &[5, 6]), (Sequence, &[70000])],
        );
        // Longer than the other: old, and ignored.
        check(&[(Sequence, &[1])], &[(Sequence, &[2, 70000])], &[(Sequence, &[1])]);
        // The confederation in front is not in the other, and is kept.
        check(
            &[(Confederation, &[3]), (Sequence, &[9, 23456])],
            &[(Sequence, &[70000])],
            &[(Confederation, &[3]), (Sequence, &[9, 70000])],
        );
        // It is not where only a part is taken.
        check(
            &[(Sequence, &[9, 23456]), (Confederation, &[3]), (Sequence, &[23456])],
            &[(Sequence, &[70000, 80000])],
            &[(Sequence, &[9, 70000, 80000])],
        );
    }

    #[test]
    fn a_long_segment_is_written_as_several() {
        let numbers: Vec<u32> = (1..=300).collect();
        let mut octets = Vec::new();
        write(&path(&[(Sequence, &numbers)]), Width::Four, &mut octets);
        let segments = read(&octets, Width::Four).unwrap().segments;
        let lengths: Vec<usize> = segments.iter().map(|segment| segment.numbers.len()).collect();
        assert_eq!(lengths, [255, 45]);
    }
}
