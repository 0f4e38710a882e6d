//! Times of a session, and the two things that vary them: jitter and errors that repeat.
//!
//! Sources: RFC 4271 §10; RFC 9687 §4.4; the times that Calico gives BIRD.

use std::time::{Duration, Instant};

/// Before the first try, and after a session that was up is lost.
pub(super) const CONNECT_DELAY: Duration = Duration::from_secs(2);
/// Between tries, and how long one may take.
pub(super) const CONNECT_RETRY: Duration = Duration::from_secs(5);
/// After an error, doubled each time.
const ERROR_WAIT_MIN: Duration = Duration::from_secs(5);
const ERROR_WAIT_MAX: Duration = Duration::from_secs(30);
/// After so long without an error the next one is the first.
const ERROR_FORGET: Duration = Duration::from_secs(300);
/// RFC 4271 §8.2.2: a large value while an OPEN is waited for.
pub(super) const OPEN_WAIT: Duration = Duration::from_secs(240);
/// The same for a connection that the other side made: who connects has something to say.
pub(super) const ACCEPTED_WAIT: Duration = Duration::from_secs(10);
/// How long a connection that is ready waits for a better one. See `Session::confirmed`.
pub(super) const COLLISION_WAIT: Duration = Duration::from_secs(5);
/// A second connection of a peer that can restart is a collision while the first is that young, else a restart.
pub(super) const COLLISION_AGE: Duration = Duration::from_secs(10);
/// A timer that is told so late means that we have stood still, not the peer.
pub(super) const STALL: Duration = Duration::from_secs(1);
/// RFC 9687 §4.4.
const SEND_HOLD_MIN: Duration = Duration::from_secs(480);

/// RFC 9687: the larger of 8 minutes and twice the hold time.
pub(super) fn send_hold_time(hold_time: Duration) -> Duration {
    SEND_HOLD_MIN.max(hold_time.saturating_mul(2))
}

/// Numbers that a seed decides: splitmix64.
#[derive(Debug)]
pub(super) struct Jitter(u64);

impl Jitter {
    pub(super) fn new(seed: u64) -> Jitter {
        Jitter(seed)
    }

    pub(super) fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// Between 75 % and all of it. RFC 4271 §10.
    pub(super) fn vary(&mut self, time: Duration) -> Duration {
        // Thousandths of a quarter.
        let part = u32::try_from(self.number() % 1001).unwrap_or(0);
        time * 3 / 4 + time / 4 * part / 1000
    }
}

/// How long to wait after errors that follow each other.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    last: Option<(Instant, Duration)>,
}

impl Backoff {
    pub(super) fn next(&mut self, now: Instant) -> Duration {
        let wait = match self.last {
            Some((at, wait)) if now.saturating_duration_since(at) < ERROR_FORGET => (wait * 2).min(ERROR_WAIT_MAX),
            _ => ERROR_WAIT_MIN,
        };
        self.last = Some((now, wait));
        wait
    }

    pub(super) fn forget(&mut self) {
        self.last = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_limit_and_are_forgotten() {
        let start = Instant::now();
        let mut backoff = Backoff::default();
        let mut check = |seconds: u64, expected: u64| {
            assert_eq!(backoff.next(start + Duration::from_secs(seconds)), Duration::from_secs(expected));
        };
        check(0, 5);
        check(10, 10);
        check(20, 20);
        check(30, 30);
        check(40, 30);
        check(340, 5);
    }

    #[test]
    fn jitter_takes_away_up_to_a_quarter() {
        let mut jitter = Jitter::new(7);
        let times: Vec<Duration> = (0..1000).map(|_| jitter.vary(Duration::from_secs(100))).collect();
        assert!(times.iter().all(|time| (Duration::from_secs(75)..=Duration::from_secs(100)).contains(time)));
        // The whole range is used.
        assert!(times.iter().any(|time| *time < Duration::from_secs(77)));
        assert!(times.iter().any(|time| *time > Duration::from_secs(98)));
        assert_eq!(jitter.vary(Duration::ZERO), Duration::ZERO);
    }

    #[test]
    fn the_send_hold_time_is_the_larger_of_two() {
        assert_eq!(send_hold_time(Duration::from_secs(90)), Duration::from_secs(480));
        assert_eq!(send_hold_time(Duration::from_secs(300)), Duration::from_secs(600));
    }
}
