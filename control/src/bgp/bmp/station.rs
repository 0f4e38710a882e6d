//! The connection to a monitoring station: when it is tried, when counts are due, when it is given up.
//!
//! ```text
//!   Waits ──deadline──▶ Connects ──Connected──▶ Up ──Lost, Slow──▶ Waits, twice as long each time
//!     ▲                    └──Lost──┐             └─every `COUNTS`─▶ Count
//!     └─────────────────────────────┘
//! ```
//!
//! Whoever has been up for `WAIT_MAX` begins with the shortest wait again. RFC 7854 §3.2 suggests to begin with 30 s and to end
//! with 12 minutes, for stations of many routers; a restart of the station is over sooner here.
//!
//! Left out: a station that connects to us (RFC 7854 §3.2 allows it), and several stations.
//!
//! Sources: RFC 7854 §3.2 to §3.4.

use std::time::{Duration, Instant};

const WAIT_MIN: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Between two reports of counts.
pub const COUNTS: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Station {
    state: State,
    /// The next one.
    wait: Duration,
    /// Why the last connection ended.
    problem: Option<String>,
    /// How often it was up.
    connected: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Waits { until: Instant },
    Connects,
    Up { since: Instant, count_at: Instant },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// `deadline` is reached.
    Timer,
    Connected,
    /// It could not be made, or is there no longer. For people: `connection refused`.
    Lost(String),
    /// It does not take what there is to say.
    Slow,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Answered by `Connected` or `Lost`.
    Connect,
    Close,
    /// From now on it is told everything.
    Begin,
    /// It is told nothing any more, and what waited for it is forgotten.
    End,
    /// It is told counts.
    Count,
}

impl Station {
    /// One that is tried at once.
    pub fn new(now: Instant) -> Station {
        Station { state: State::Waits { until: now }, wait: WAIT_MIN, problem: None, connected: 0 }
    }

    pub fn handle(&mut self, event: Event, now: Instant, out: &mut Vec<Action>) {
        match (event, self.state) {
            (Event::Timer, State::Waits { until }) if until <= now => {
                self.state = State::Connects;
                out.push(Action::Connect);
            }
            (Event::Timer, State::Up { since, count_at }) if count_at <= now => {
                self.state = State::Up { since, count_at: now + COUNTS };
                out.push(Action::Count);
            }
            (Event::Connected, State::Connects) => {
                self.state = State::Up { since: now, count_at: now + COUNTS };
                self.connected = self.connected.saturating_add(1);
                self.problem = None;
                out.push(Action::Begin);
            }
            (Event::Lost(reason), State::Connects | State::Up { .. }) => self.end(reason, now, out),
            (Event::Slow, State::Up { .. }) => {
                out.push(Action::Close);
                self.end("it was too slow, and is told everything anew".to_owned(), now, out);
            }
            _ => {}
        }
    }

    fn end(&mut self, reason: String, now: Instant, out: &mut Vec<Action>) {
        if let State::Up { since, .. } = self.state {
            out.push(Action::End);
            if now.saturating_duration_since(since) >= WAIT_MAX {
                self.wait = WAIT_MIN;
            }
        }
        self.problem = Some(reason);
        self.state = State::Waits { until: now + self.wait };
        self.wait = (self.wait * 2).min(WAIT_MAX);
    }

    /// When `Event::Timer` is due.
    pub fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Waits { until } => Some(until),
            State::Connects => None,
            State::Up { count_at, .. } => Some(count_at),
        }
    }

    pub fn state(&self) -> State {
        self.state
    }

    /// Why it is not up, as far as that is known.
    pub fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    pub fn connected(&self) -> u64 {
        self.connected
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Events at seconds, and what is done.
    fn check(steps: &[(u64, Event, &[Action])]) -> Station {
        let start = Instant::now();
        let mut station = Station::new(start);
        for (second, event, expected) in steps {
            let mut out = Vec::new();
            station.handle(event.clone(), start + Duration::from_secs(*second), &mut out);
            assert_eq!(out, *expected, "{event:?} at {second}");
        }
        station
    }

    fn lost() -> Event {
        Event::Lost("refused".to_owned())
    }

    #[test]
    fn it_is_tried_again_with_longer_waits() {
        let station = check(&[
            (0, Event::Timer, &[Action::Connect]),
            (0, lost(), &[]),
            (0, Event::Timer, &[]),
            (1, Event::Timer, &[Action::Connect]),
            (1, lost(), &[]),
            (2, Event::Timer, &[]),
            (3, Event::Timer, &[Action::Connect]),
        ]);
        assert_eq!((station.problem(), station.deadline()), (Some("refused"), None));
        let mut station = Station::new(Instant::now());
        for _ in 0..10 {
            let now = station.deadline().unwrap();
            station.handle(Event::Timer, now, &mut Vec::new());
            station.handle(lost(), now, &mut Vec::new());
            assert!(station.deadline().unwrap() - now <= WAIT_MAX);
        }
    }

    #[test]
    fn counts_are_due_while_it_is_up() {
        let station = check(&[
            (0, Event::Timer, &[Action::Connect]),
            (1, Event::Connected, &[Action::Begin]),
            (60, Event::Timer, &[]),
            (61, Event::Timer, &[Action::Count]),
            (120, Event::Timer, &[]),
            (121, Event::Timer, &[Action::Count]),
            (130, lost(), &[Action::End]),
            // It was up for long.
            (131, Event::Timer, &[Action::Connect]),
        ]);
        assert_eq!(station.connected(), 1);
    }

    #[test]
    fn who_is_slow_is_closed_and_tried_again() {
        let station = check(&[
            (0, Event::Timer, &[Action::Connect]),
            (0, Event::Connected, &[Action::Begin]),
            (5, Event::Slow, &[Action::Close, Action::End]),
            // What comes late from the connection that was closed.
            (5, lost(), &[]),
            (5, Event::Connected, &[]),
            (6, Event::Timer, &[Action::Connect]),
        ]);
        assert!(station.problem().unwrap().contains("slow"));
    }
}
