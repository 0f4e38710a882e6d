//! A limit on answers: a token bucket per worker, so that nobody makes us flood a third party with ICMP errors.

/// Answers a second that a worker may send, and how many at once. RFC 1812 §4.3.2.8 asks for a limit and leaves the figure.
const PER_SECOND: u64 = 1000;
const AT_ONCE: u64 = 100;
const NANOSECONDS_PER_TOKEN: u64 = 1_000_000_000 / PER_SECOND;

/// A token bucket.
#[derive(Debug)]
pub struct Limiter {
    tokens: u64,
    /// When the last token was added.
    filled_at: u64,
}

impl Default for Limiter {
    fn default() -> Self {
        Self { tokens: AT_ONCE, filled_at: 0 }
    }
}

impl Limiter {
    /// Adds the tokens due since the last call. `now` in nanoseconds of the worker's clock.
    pub fn refill(&mut self, now: u64) {
        let due = now.saturating_sub(self.filled_at) / NANOSECONDS_PER_TOKEN;
        if due > 0 {
            self.tokens = (self.tokens + due).min(AT_ONCE);
            self.filled_at = now;
        }
    }

    /// Takes a token; false when there is none.
    pub fn take(&mut self) -> bool {
        let has = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        has
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burst_then_rate() {
        let mut limiter = Limiter::default();
        assert_eq!((0..200).filter(|_| limiter.take()).count(), 100);
        limiter.refill(10 * NANOSECONDS_PER_TOKEN);
        assert_eq!((0..200).filter(|_| limiter.take()).count(), 10);
        limiter.refill(u64::MAX);
        assert_eq!((0..200).filter(|_| limiter.take()).count(), 100);
    }
}
