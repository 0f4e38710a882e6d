//! Waiting for a condition, with a deadline. The only place in the tests that sleeps: between two looks.

use std::time::{Duration, Instant};

/// Between two looks: short beside anything a test waits for, long beside the look itself.
const PAUSE: Duration = Duration::from_millis(10);

/// Looks until there is something, or panics at the deadline with what was waited for.
#[track_caller]
pub fn until<T>(what: &str, deadline: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < deadline, "waited {deadline:?} for {what}");
        std::thread::sleep(PAUSE);
    }
}

/// The same for a claim that becomes true.
#[track_caller]
pub fn until_true(what: &str, deadline: Duration, mut look: impl FnMut() -> bool) {
    until(what, deadline, || look().then_some(()));
}

/// Whether a claim becomes true within that long.
pub fn within(period: Duration, mut look: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if look() {
            return true;
        }
        if start.elapsed() >= period {
            return false;
        }
        std::thread::sleep(PAUSE);
    }
}

/// The same for something that can fail; at the deadline the last failure is part of the message.
#[track_caller]
pub fn until_ok<T, E: std::fmt::Display>(what: &str, deadline: Duration, mut look: impl FnMut() -> Result<T, E>) -> T {
    let start = Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(error) => assert!(start.elapsed() < deadline, "waited {deadline:?} for {what}: {error}"),
        }
        std::thread::sleep(PAUSE);
    }
}

/// Looks for that long and panics if the claim is ever false: for what must *not* happen.
#[track_caller]
pub fn while_true(what: &str, period: Duration, mut look: impl FnMut() -> bool) {
    let start = Instant::now();
    while start.elapsed() < period {
        assert!(look(), "{what}, and after {:?} it was not so", start.elapsed());
        std::thread::sleep(PAUSE);
    }
}
