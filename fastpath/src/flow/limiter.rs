//! Limits on what we do for an interface: one token bucket each. On answers, so that nobody makes us flood a third party with
//! ICMP errors, and no endpoint uses up what answers another's ARP; and on what goes to control because a workload wants it.

use crate::stats::counters::MAX_INTERFACES;
use crate::table::InterfaceIndex;

/// Answers a second to one interface, and how many at once. RFC 1812 §4.3.2.8 asks for a limit and leaves the figure.
const PER_SECOND: u64 = 1000;
const AT_ONCE: u64 = 100;
/// Questions to DHCP servers: a client that hears nobody asks once in some seconds. RFC 2131 §4.1.
const DHCP_PER_SECOND: u64 = 10;
const DHCP_AT_ONCE: u64 = 10;

/// The buckets of a worker.
#[derive(Debug)]
pub struct Limiter {
    buckets: Box<[Bucket]>,
    now: u64,
    at_once: u64,
    nanoseconds_per_token: u64,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: u64,
    /// When tokens were added last.
    filled_at: u64,
}

impl Limiter {
    pub fn of_answers() -> Self {
        Self::new(PER_SECOND, AT_ONCE)
    }

    pub fn of_dhcp() -> Self {
        Self::new(DHCP_PER_SECOND, DHCP_AT_ONCE)
    }

    fn new(per_second: u64, at_once: u64) -> Self {
        let bucket = Bucket { tokens: at_once, filled_at: 0 };
        let buckets = vec![bucket; MAX_INTERFACES].into_boxed_slice();
        Self { buckets, now: 0, at_once, nanoseconds_per_token: 1_000_000_000 / per_second }
    }

    /// Sets the time, in nanoseconds of the worker's clock.
    pub fn set_now(&mut self, now: u64) {
        self.now = now;
    }

    /// Takes a token of an interface; false when there is none.
    pub fn take(&mut self, interface: InterfaceIndex) -> bool {
        let Some(bucket) = self.buckets.get_mut(interface.index()) else { return false };
        let due = self.now.saturating_sub(bucket.filled_at) / self.nanoseconds_per_token;
        if due > 0 {
            bucket.tokens = bucket.tokens.saturating_add(due).min(self.at_once);
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
        let mut limiter = Limiter::of_answers();
        assert_eq!(taken(&mut limiter, 1), 100);
        limiter.set_now(10_000_000);
        assert_eq!(taken(&mut limiter, 1), 10);
        limiter.set_now(u64::MAX);
        assert_eq!(taken(&mut limiter, 1), 100);
        let mut limiter = Limiter::of_dhcp();
        assert_eq!(taken(&mut limiter, 1), 10);
        limiter.set_now(300_000_000);
        assert_eq!(taken(&mut limiter, 1), 3);
    }

    #[test]
    fn interfaces_do_not_share() {
        let mut limiter = Limiter::of_answers();
        assert_eq!((taken(&mut limiter, 1), taken(&mut limiter, 2)), (100, 100));
        assert_eq!(taken(&mut limiter, u16::MAX), 0);
    }
}
