//! The Internet checksum: whole, in pieces, and incrementally. RFC 1071, RFC 1624.
//!
//! Sums are kept unfolded in a `u64`, so that pieces add up in any order; only a piece of odd length must be the
//! last one, or be joined with [`Sum::bytes_at`], which knows whether its piece starts on an odd byte.

/// A running ones'-complement sum.
#[derive(Clone, Copy, Default, Debug)]
pub struct Sum(u64);

impl Sum {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes that start at an even position of what is summed.
    pub fn bytes(self, bytes: &[u8]) -> Self {
        let mut sum = self.0;
        let (words, tail) = bytes.as_chunks::<4>();
        for word in words {
            sum += u64::from(u32::from_be_bytes(*word));
        }
        let mut last = [0u8; 4];
        last[..tail.len()].copy_from_slice(tail);
        Self(fold_once(sum + u64::from(u32::from_be_bytes(last))))
    }

    /// Adds bytes that start at any position of what is summed: a piece at an odd position has its bytes swapped.
    pub fn bytes_at(self, position: usize, bytes: &[u8]) -> Self {
        if position.is_multiple_of(2) {
            return self.bytes(bytes);
        }
        let piece = Sum::new().bytes(bytes).fold().swap_bytes();
        self.word(piece)
    }

    pub fn word(self, value: u16) -> Self {
        Self(self.0 + u64::from(value))
    }

    /// The 16-bit sum, not complemented: what stands in the field of a partial checksum.
    #[inline(always)]
    pub fn fold(self) -> u16 {
        // 64 bits to 33, to 18, to 17, to 16: each round adds what does not fit.
        let sum = (self.0 & 0xffff_ffff).wrapping_add(self.0 >> 32);
        let sum = (sum & 0xffff).wrapping_add(sum >> 16);
        let sum = (sum & 0xffff).wrapping_add(sum >> 16);
        (sum & 0xffff).wrapping_add(sum >> 16) as u16
    }

    /// True when the folded sum is this; and when they differ as the two ones' complement zeros do. For less than `fold` costs.
    #[inline(always)]
    pub fn is_alike(self, folded: u16) -> bool {
        // What is congruent modulo 65,535 folds to the same. 65,535 · INVERSE = 1 modulo 2^64, and a multiple times that is
        // the quotient. Granlund, Montgomery, "Division by Invariant Integers using Multiplication", 1994, §9.
        const INVERSE: u64 = 0u64.wrapping_sub(0x0001_0001_0001_0001);
        let difference = self.0.wrapping_add(u64::from(!folded));
        difference.wrapping_mul(INVERSE) <= u64::MAX / 0xffff
    }

    /// The checksum: the complement of the folded sum.
    pub fn finish(self) -> u16 {
        !self.fold()
    }
}

/// Keeps the running sum small enough that adding never overflows, whatever the length.
fn fold_once(sum: u64) -> u64 {
    (sum & 0xffff_ffff) + (sum >> 32)
}

/// Sum of the pseudo header. RFC 9293 §3.1 for IPv4, RFC 8200 §8.1 for IPv6. Addresses as in [`crate::flow::Key`]:
/// IPv4 in mapped form, of which only the IPv4 part counts.
#[inline]
pub fn pseudo_header(source: u128, destination: u128, is_ipv4: bool, protocol: u8, length: usize) -> Sum {
    // Ten summands of 32 bits do not fill 64.
    let both = (source as u32 as u64).wrapping_add(destination as u32 as u64);
    let own = both.wrapping_add(u64::from(length as u32)).wrapping_add(u64::from(protocol));
    if is_ipv4 {
        return Sum(own);
    }
    let upper = |address: u128| {
        let (middle, top) = ((address >> 32) as u64, (address >> 96) as u64);
        (middle & 0xffff_ffff).wrapping_add(middle >> 32).wrapping_add(top)
    };
    Sum(own.wrapping_add(upper(source)).wrapping_add(upper(destination)))
}

/// A checksum after one 16-bit word under it changed. RFC 1624 equation 3.
#[inline(always)]
pub fn update(checksum: u16, old: u16, new: u16) -> u16 {
    Change::of_word(old, new).apply(checksum)
}

/// How a sum changes when what is summed does. Changes of several pieces, all at even places, add up.
#[derive(Clone, Copy, Debug)]
pub struct Change(u64);

impl Change {
    pub const NONE: Self = Self(0);

    /// Of a piece of even length.
    #[inline]
    pub fn of(old: &[u8], new: &[u8]) -> Self {
        Self(u64::from(!Sum::new().bytes(old).fold()) + u64::from(Sum::new().bytes(new).fold()))
    }

    #[inline]
    pub fn of_word(old: u16, new: u16) -> Self {
        Self(u64::from(!old) + u64::from(new))
    }

    #[inline]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// The checksum after the change. RFC 1624 equation 3.
    #[inline]
    pub fn apply(self, checksum: u16) -> u16 {
        !Sum(u64::from(!checksum) + self.0).fold()
    }
}

/// An IPv4 header's checksum after its TTL, which was not 0, has gone down by one: `update` by a word that has become 0x0100
/// less. The complement of the old word and the new one add up to 0xfeff.
#[inline(always)]
pub fn after_ttl(checksum: u16) -> u16 {
    !Sum(u64::from(!checksum).wrapping_add(0xfeff)).fold()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn obvious(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    #[test]
    fn rfc1071_example() {
        assert_eq!(Sum::new().bytes(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]).fold(), 0xddf2);
    }

    proptest! {
        #[test]
        fn alike_is_equal_but_for_the_zeros(sum in 0u64..1 << 40, other: u16) {
            let folded = Sum(sum).fold();
            prop_assert!(Sum(sum).is_alike(folded));
            let is_zero = |sum| matches!(sum, 0 | 0xffff);
            for other in [other, 0, 0xffff, folded ^ 1, folded.wrapping_add(1)] {
                let expected = other == folded || (is_zero(other) && is_zero(folded));
                prop_assert_eq!(Sum(sum).is_alike(other), expected);
            }
        }

        #[test]
        fn whole_equals_obvious(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
            prop_assert_eq!(Sum::new().bytes(&bytes).finish(), obvious(&bytes));
        }

        #[test]
        fn pieces_equal_whole(bytes in prop::collection::vec(any::<u8>(), 0..3000), cut in 0usize..3000) {
            let cut = cut.min(bytes.len());
            let sum = Sum::new().bytes(&bytes[..cut]).bytes_at(cut, &bytes[cut..]);
            prop_assert_eq!(sum.finish(), obvious(&bytes));
        }

        #[test]
        fn a_step_of_the_ttl_is_an_update(checksum: u16, ttl in 1u8.., protocol: u8) {
            let [old, new] = [ttl, ttl - 1].map(|ttl| u16::from_be_bytes([ttl, protocol]));
            prop_assert_eq!(after_ttl(checksum), update(checksum, old, new));
        }

        #[test]
        fn changes_add_up_to_recomputation(
            mut bytes in prop::collection::vec(any::<u8>(), 40),
            pieces in prop::collection::vec((0usize..16, prop::collection::vec(any::<[u8; 2]>(), 1..4)), 1..4),
        ) {
            // As below.
            bytes[38] = 0x45;
            let before = obvious(&bytes);
            let mut change = Change::NONE;
            for (at, words) in pieces {
                let new = words.concat();
                let piece = &mut bytes[2 * at..2 * at + new.len()];
                change = change.and(Change::of(piece, &new));
                piece.copy_from_slice(&new);
            }
            prop_assert_eq!(change.apply(before), obvious(&bytes));
        }

        #[test]
        fn update_equals_recomputation(mut bytes in prop::collection::vec(any::<u8>(), 20), at in 0usize..9, new: u16) {
            // A sum of all zeroes has two representations; real headers start with a version and never are that.
            bytes[18] = 0x45;
            let before = obvious(&bytes);
            let old = u16::from_be_bytes([bytes[2 * at], bytes[2 * at + 1]]);
            bytes[2 * at..2 * at + 2].copy_from_slice(&new.to_be_bytes());
            prop_assert_eq!(update(before, old, new), obvious(&bytes));
        }
    }
}
