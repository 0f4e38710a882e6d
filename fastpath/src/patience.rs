//! How long a worker with nothing to do looks for packets before it sleeps.
//!
//! Waking up costs the next packet some microseconds; looking in vain costs the core. So a worker looks as long as the next
//! packet can be expected soon, and no longer:
//!
//! ```text
//!     packets came every  < 50 µs    look for twice that time, at least 50 µs and at most 100 µs
//!     packets came rarer             look for 10 µs: it is not worth waiting for the next
//! ```
//!
//! "Every" is a mean over the last few arrivals, in which one long pause does not count for more than four times the longest
//! wait: a handful of packets is enough to be expected again.

use crate::pipeline::Now;

/// Nanoseconds.
const SHORTEST: u64 = 50_000;
const LONGEST: u64 = 100_000;
const HOPELESS: u64 = 10_000;

/// What a single pause counts for at most.
const PAUSE: u64 = 4 * LONGEST;
/// One arrival changes the mean by this share of the difference.
const WEIGHT: u64 = 4;

#[derive(Debug)]
pub struct Patience {
    last: Now,
    /// Mean time between arrivals.
    mean: u64,
}

impl Patience {
    pub fn new(now: Now) -> Self {
        Self { last: now, mean: 0 }
    }

    /// Packets were found.
    pub fn arrived(&mut self, now: Now) {
        let pause = now.0.saturating_sub(self.last.0).min(PAUSE);
        self.mean = (self.mean * (WEIGHT - 1) + pause) / WEIGHT;
        self.last = now;
    }

    /// Nothing was found, and it is time to sleep.
    pub fn is_over(&self, now: Now) -> bool {
        now.0.saturating_sub(self.last.0) > self.limit()
    }

    fn limit(&self) -> u64 {
        if self.mean * 2 <= LONGEST { (self.mean * 2).max(SHORTEST) } else { HOPELESS }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The limit after arrivals with these pauses between them, in microseconds.
    fn limit(pauses: impl IntoIterator<Item = u64>) -> u64 {
        let mut patience = Patience::new(Now(0));
        let mut now = 0;
        for pause in pauses {
            now += pause * 1000;
            patience.arrived(Now(now));
        }
        let limit = patience.limit();
        assert!(!patience.is_over(Now(now + limit)));
        assert!(patience.is_over(Now(now + limit + 1)));
        limit / 1000
    }

    #[test]
    fn a_packet_that_can_be_expected_is_waited_for() {
        assert_eq!(limit([]), 50, "at the start");
        assert_eq!(limit([1; 20]), 50);
        assert_eq!(limit([40; 20]), 79, "twice the mean, which forty microseconds approach");
        assert_eq!(limit([50; 40]), 99);
        assert_eq!(limit([60; 40]), 10, "one that is not");
        assert_eq!(limit([1_000_000; 3]), 10);
    }

    #[test]
    fn a_long_pause_is_forgotten_after_a_few_packets() {
        assert_eq!(limit([10; 20].into_iter().chain([60_000_000])), 10);
        let needed = (1..20).find(|count| limit([1_000_000; 20].into_iter().chain(vec![10; *count])) > 10);
        assert_eq!(needed, Some(8));
    }
}
