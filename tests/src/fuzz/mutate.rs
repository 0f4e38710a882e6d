//! The mutations: small changes to bytes, drawn from a seed.
//!
//! Random numbers are splitmix64: a counter and a hash of it, so that a seed is a number and nothing is global.

/// Values at which lengths and offsets break.
const NUMBERS: [u32; 20] =
    [0, 1, 2, 4, 7, 8, 16, 20, 40, 60, 64, 127, 128, 255, 256, 1280, 0x7fff, 0x8000, 0xffff, 0xffff_ffff];

/// A source of numbers that a seed decides.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        // Mixed once, or the numbers of one seed would be those of the seed before it, a step later.
        Random(Random(seed).number())
    }

    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// Less than `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.number() % bound as u64) as usize
    }

    /// A range within `length` bytes, rather short than long.
    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let start = self.below(length + 1);
        let most = (length - start).min(1 << self.below(8));
        start..start + self.below(most + 1)
    }
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
            let range = random.range(input.len());
            input.drain(range);
        }
        5 if random.below(4) == 0 => input.truncate(random.below(input.len())),
        5 | 6 => {
            let piece = input[random.range(input.len())].to_vec();
            insert(random, input, &piece);
        }
        7 => {
            let piece = other[random.range(other.len())].to_vec();
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
