//! The mutations: small changes to bytes, drawn from a seed.

use crate::random::Random;

/// Values at which lengths and offsets break.
const NUMBERS: [u32; 20] =
    [0, 1, 2, 4, 7, 8, 16, 20, 40, 60, 64, 127, 128, 255, 256, 1280, 0x7fff, 0x8000, 0xffff, 0xffff_ffff];

/// A range within `length` bytes, rather short than long.
fn range(random: &mut Random, length: usize) -> std::ops::Range<usize> {
    let start = random.below(length + 1);
    let most = (length - start).min(1 << random.below(8));
    start..start + random.below(most + 1)
}

/// Changes an input in a few places. `other` lends pieces; no result is longer than `longest`.
pub fn mutate(random: &mut Random, input: &mut Vec<u8>, other: &[u8], tokens: &[&str], longest: usize) {
    for _ in 0..1 << random.below(3) {
        change(random, input, other, tokens);
    }
    input.truncate(longest);
}

fn change(random: &mut Random, input: &mut Vec<u8>, other: &[u8], tokens: &[&str]) {
    let kind = random.below(10);
    if input.is_empty() && kind < 6 {
        return input.push(random.number() as u8);
    }
    match kind {
        0 => {
            let at = random.below(input.len());
            input[at] ^= 1 << random.below(8);
        }
        1 => {
            let at = random.below(input.len());
            input[at] = random.number() as u8;
        }
        // A number of one, two or four bytes, in either byte order.
        2 => {
            let number = NUMBERS[random.below(NUMBERS.len())];
            let width = 1 << random.below(3);
            let bytes = number.to_be_bytes();
            let mut bytes = bytes[4 - width..].to_vec();
            if random.below(4) == 0 {
                bytes.reverse();
            }
            let at = random.below(input.len());
            overwrite(input, at, &bytes);
        }
        3 => {
            let at = random.below(input.len());
            input[at] = input[at].wrapping_add(random.below(9) as u8).wrapping_sub(4);
        }
        4 => {
            let range = range(random, input.len());
            input.drain(range);
        }
        5 if random.below(4) == 0 => input.truncate(random.below(input.len())),
        5 | 6 => {
            let piece = input[range(random, input.len())].to_vec();
            insert(random, input, &piece);
        }
        7 => {
            let piece = other[range(random, other.len())].to_vec();
            insert(random, input, &piece);
        }
        8 if random.below(4) == 0 => {
            let keep = random.below(input.len() + 1);
            input.truncate(keep);
            input.extend_from_slice(&other[random.below(other.len() + 1)..]);
        }
        _ if tokens.is_empty() => input.push(random.number() as u8),
        _ => {
            let token = tokens[random.below(tokens.len())].as_bytes();
            match random.below(2) {
                0 => insert(random, input, token),
                _ => {
                    let at = random.below(input.len() + 1);
                    overwrite(input, at, token);
                }
            }
        }
    }
}

fn insert(random: &mut Random, input: &mut Vec<u8>, piece: &[u8]) {
    let at = random.below(input.len() + 1);
    input.splice(at..at, piece.iter().copied());
}

fn overwrite(input: &mut Vec<u8>, at: usize, piece: &[u8]) {
    let end = input.len().min(at + piece.len());
    input.splice(at..end, piece.iter().copied());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_decides_everything() {
        let made = |seed| {
            let mut random = Random::new(seed);
            let mut input = b"role == 'web'".to_vec();
            for _ in 0..100 {
                mutate(&mut random, &mut input, b"other", &["token"], 64);
            }
            input
        };
        assert_eq!(made(1), made(1));
        assert_ne!(made(1), made(2));
    }

    #[test]
    fn any_input_can_be_changed() {
        let mut random = Random::new(3);
        for round in 0..10_000 {
            let mut input = vec![7; round % 5];
            mutate(&mut random, &mut input, &[], &[], 4);
            assert!(input.len() <= 4);
        }
    }
}
