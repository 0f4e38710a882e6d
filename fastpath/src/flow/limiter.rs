//! A limit on answers: one token bucket per interface, so that nobody makes us flood a third party with ICMP errors, and
//! no endpoint uses up what answers another's ARP.

use crate::stats::counters::MAX_INTERFACES;
use crate::table::InterfaceIndex;

/// Answers a second to one interface, and how many at once. RFC 1812 §4.3.2.8 asks for a limit and leaves the figure.
const PER_SECOND: u64 = 1000;
const AT_ONCE: u64 = 100;
const NANOSECONDS_PER_TOKEN: u64 = 1_000_000_000 / PER_SECOND;

/// The buckets of a worker.
#[derive(Debug)]
pub struct Limiter {
    buckets: Box<[Bucket]>,
    now: u64,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: u64,
    /// When tokens were added last.
    filled_at: u64,
}

impl Default for Limiter {
    fn default() -> Self {
        let bucket = Bucket { tokens: AT_ONCE, filled_at: 0 };
        Self { buckets: vec![bucket; MAX_INTERFACES].into_boxed_slice(), now: 0 }
    }
}

impl Limiter {
    /// Sets the time, in nanoseconds of the worker's clock.
    pub fn set_now(&mut self, now: u64) {
        self.now = now;
    }

    /// Takes a token for an answer to an interface; false when there is none.
    pub fn take(&mut self, interface: InterfaceIndex) -> bool {
        let Some(bucket) = self.buckets.get_mut(interface.index()) else { return false };
        let due = self.now.saturating_sub(bucket.filled_at) / NANOSECONDS_PER_TOKEN;
        if due > 0 {
            bucket.tokens = bucket.tokens.saturating_add(due).min(AT_ONCE);
            bucket.filled_at = self.now;
        }
        let has = bucket.tokens > 0;
        bucket.tokens = bucket.tokens.saturating_sub(1);
        has
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(limiter: &mut Limiter, interface: u16) -> usize {
        (0..200).filter(|_| limiter.take(InterfaceIndex(interface))).count()
    }

    #[test]
    fn burst_then_rate() {
        let mut limiter = Limiter::default();
        assert_eq!(taken(&mut limiter, 1), 100);
        limiter.set_now(10 * NANOSECONDS_PER_TOKEN);
        assert_eq!(taken(&mut limiter, 1), 10);
        limiter.set_now(u64::MAX);
        assert_eq!(taken(&mut limiter, 1), 100);
    }

    #[test]
    fn interfaces_do_not_share() {
        let mut limiter = Limiter::default();
        assert_eq!((taken(&mut limiter, 1), taken(&mut limiter, 2)), (100, 100));
        assert_eq!(taken(&mut limiter, u16::MAX), 0);
    }
}
