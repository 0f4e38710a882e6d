//! Which worker has which endpoint: where a new one goes, and when one should change.
//!
//! Loads are packets a second, sampled once a second and smoothed over the last few. A new endpoint goes to the worker with
//! the least load, and among those alike to the one with the fewest queues. With `--rebalance auto` an endpoint is moved from
//! the busiest worker to the idlest, when that takes load off the busiest and the need has lasted; seldom, because every
//! move costs the endpoint some milliseconds of packets:
//!
//! ```text
//!     busiest ≥ 10,000 packets/s and ≥ 1.5 × idlest, three samples in a row
//!     the busier of both would have ≤ 0.8 × of what the busiest has
//!     no move within 10 s of the last one, nor of the same endpoint within 60 s
//! ```
//!
//! Invariant: what is decided here is a function of the samples; nothing here touches a worker.
//! Left out: uplinks and the way to the host, whose queues are every worker's; who talks with whom, so a move may put two
//! that talk on different workers.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How often loads are sampled.
const SAMPLE: Duration = Duration::from_secs(1);
/// A sample's weight in the smoothed rate.
const WEIGHT: f64 = 0.4;
/// Rates that differ by less are alike.
const ALIKE: f64 = 1000.0;

/// When a worker is busy enough for a move to be worth it.
const BUSY: f64 = 10_000.0;
const IMBALANCE: f64 = 1.5;
const IMPROVEMENT: f64 = 0.8;
/// Samples in a row that must ask for a move.
const INSISTENCE: u32 = 3;
const BETWEEN_MOVES: Duration = Duration::from_secs(10);
const BETWEEN_MOVES_OF_ONE: Duration = Duration::from_secs(60);

/// An interface as the decision sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    pub name: String,
    pub worker: usize,
    pub is_movable: bool,
    /// Packets so far, in both directions.
    pub packets: u64,
}

/// An endpoint that should change its worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advice {
    pub name: String,
    pub to: usize,
}

/// Loads, and what was moved when.
#[derive(Debug, Default)]
pub struct Placement {
    sampled: Option<Instant>,
    rates: BTreeMap<String, Rate>,
    insisted: u32,
    moved: Option<Instant>,
    moved_each: BTreeMap<String, Instant>,
    moves: u64,
}

/// What is known of an interface's packets.
#[derive(Debug, Clone, Copy)]
struct Rate {
    /// Counted at the last sample.
    packets: u64,
    /// A second: in the last sample, and smoothed over some.
    latest: f64,
    smoothed: f64,
}

impl Placement {
    /// True when it is time for another sample.
    pub fn is_due(&self, now: Instant) -> bool {
        self.sampled.is_none_or(|last| now.saturating_duration_since(last) >= SAMPLE)
    }

    /// Takes a sample of all interfaces.
    pub fn sample(&mut self, candidates: &[Candidate], now: Instant) {
        let seconds = self.sampled.map_or(0.0, |last| now.saturating_duration_since(last).as_secs_f64());
        let mut rates = BTreeMap::new();
        for candidate in candidates {
            let packets = candidate.packets;
            let rate = match self.rates.get(&candidate.name) {
                Some(before) if seconds > 0.0 => {
                    // A counter that went back belongs to another interface of that name.
                    let latest = packets.saturating_sub(before.packets) as f64 / seconds;
                    Rate { packets, latest, smoothed: before.smoothed + WEIGHT * (latest - before.smoothed) }
                }
                _ => Rate { packets, latest: 0.0, smoothed: 0.0 },
            };
            rates.insert(candidate.name.clone(), rate);
        }
        self.rates = rates;
        self.sampled = Some(now);
        self.moved_each.retain(|_, moved| now.saturating_duration_since(*moved) < BETWEEN_MOVES_OF_ONE);
    }

    /// Packets a second of an interface, over the last few seconds.
    pub fn rate(&self, name: &str) -> f64 {
        self.rates.get(name).map_or(0.0, |rate| rate.smoothed)
    }

    /// True while an interface is about as busy as it was over the last few seconds.
    fn lasts(&self, name: &str) -> bool {
        self.rates.get(name).is_some_and(|rate| rate.latest * 2.0 >= rate.smoothed)
    }

    /// Moves since the start.
    pub fn moves(&self) -> u64 {
        self.moves
    }

    /// The worker for a new endpoint, of those with so many queues and these interfaces.
    pub fn place(&self, queues: &[usize], candidates: &[Candidate]) -> usize {
        let loads = self.loads(queues.len(), candidates);
        let key = |worker: &usize| ((loads[*worker] / ALIKE) as u64, queues[*worker]);
        (0..queues.len()).min_by_key(key).unwrap_or(0)
    }

    /// Packets a second of each worker: what its interfaces receive and send.
    fn loads(&self, workers: usize, candidates: &[Candidate]) -> Vec<f64> {
        let mut loads = vec![0.0; workers];
        for candidate in candidates {
            if let Some(load) = loads.get_mut(candidate.worker) {
                *load += self.rate(&candidate.name);
            }
        }
        loads
    }

    /// What should be moved, if anything. To be asked once after each sample.
    pub fn advise(&mut self, workers: usize, candidates: &[Candidate], now: Instant) -> Option<Advice> {
        let advice = self.best_move(workers, candidates, now);
        self.insisted = if advice.is_some() { self.insisted + 1 } else { 0 };
        let is_rested = self.moved.is_none_or(|last| now.saturating_duration_since(last) >= BETWEEN_MOVES);
        advice.filter(|_| self.insisted >= INSISTENCE && is_rested)
    }

    /// Notes that an endpoint was moved, whoever wanted it.
    pub fn moved(&mut self, name: &str, now: Instant) {
        self.insisted = 0;
        self.moves += 1;
        self.moved = Some(now);
        self.moved_each.insert(name.to_owned(), now);
    }

    fn best_move(&self, workers: usize, candidates: &[Candidate], now: Instant) -> Option<Advice> {
        let loads = self.loads(workers, candidates);
        let by_load = |one: &usize, other: &usize| loads[*one].total_cmp(&loads[*other]);
        let (busiest, idlest) = ((0..workers).max_by(by_load)?, (0..workers).min_by(by_load)?);
        let (high, low) = (loads[busiest], loads[idlest]);
        if high < BUSY || high < low * IMBALANCE {
            return None;
        }
        let is_rested = |name: &str| {
            let moved = self.moved_each.get(name);
            moved.is_none_or(|moved| now.saturating_duration_since(*moved) >= BETWEEN_MOVES_OF_ONE)
        };
        let movable = candidates
            .iter()
            .filter(|c| c.worker == busiest && c.is_movable && is_rested(&c.name) && self.lasts(&c.name));
        let after = |candidate: &Candidate| {
            let rate = self.rate(&candidate.name);
            (high - rate).max(low + rate)
        };
        let best = movable.min_by(|one, other| after(one).total_cmp(&after(other)))?;
        (after(best) <= high * IMPROVEMENT).then(|| Advice { name: best.name.clone(), to: idlest })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    /// Endpoints with a worker and a rate each, and time that is told.
    struct Node {
        placement: Placement,
        candidates: Vec<Candidate>,
        rates: Vec<u64>,
        now: Instant,
    }

    impl Node {
        fn new(endpoints: &[(&str, usize, u64)]) -> Node {
            let candidates = endpoints.iter().map(|(name, worker, _)| Candidate {
                name: (*name).to_owned(),
                worker: *worker,
                is_movable: *name != "uplink",
                packets: 0,
            });
            let rates = endpoints.iter().map(|(.., rate)| *rate).collect();
            Node { placement: Placement::default(), candidates: candidates.collect(), rates, now: Instant::now() }
        }

        /// A second goes by; what is advised is done.
        fn second(&mut self) -> Option<Advice> {
            self.now += SAMPLE;
            for (candidate, rate) in self.candidates.iter_mut().zip(&self.rates) {
                candidate.packets += rate;
            }
            self.placement.sample(&self.candidates, self.now);
            let advice = self.placement.advise(2, &self.candidates, self.now)?;
            self.candidates.iter_mut().find(|c| c.name == advice.name).unwrap().worker = advice.to;
            self.placement.moved(&advice.name, self.now);
            Some(advice)
        }

        fn moves(&mut self, seconds: usize) -> Vec<String> {
            (0..seconds).filter_map(|_| self.second()).map(|advice| advice.name).collect()
        }
    }

    #[test]
    fn a_new_endpoint_goes_where_there_is_least() {
        let mut node = Node::new(&[("a", 0, 50_000), ("b", 1, 100), ("c", 1, 100)]);
        node.moves(5);
        assert_eq!(node.placement.place(&[1, 2], &node.candidates), 1, "less load, though more queues");
        let mut node = Node::new(&[("a", 0, 300), ("b", 1, 100), ("c", 1, 100)]);
        node.moves(5);
        assert_eq!(node.placement.place(&[1, 2], &node.candidates), 0, "the same load, and fewer queues");
        assert_eq!(Placement::default().place(&[0, 0], &[]), 0);
    }

    #[test]
    fn load_that_lasts_is_spread_and_then_left_alone() {
        let mut node = Node::new(&[("a", 0, 40_000), ("b", 0, 30_000), ("c", 0, 20_000), ("d", 1, 1000)]);
        assert_eq!(node.moves(60), ["a"], "forty there, fifty here: nothing more to gain");
        assert_eq!(node.placement.moves(), 1);
    }

    #[test]
    fn what_does_not_help_is_not_done() {
        assert_eq!(Node::new(&[("a", 0, 90_000), ("b", 1, 10)]).moves(60), [""; 0], "it would only change places");
        assert_eq!(Node::new(&[("a", 0, 4000), ("b", 0, 4000)]).moves(60), [""; 0], "nobody is busy");
        assert_eq!(Node::new(&[("uplink", 0, 50_000), ("uplink", 0, 50_000)]).moves(60), [""; 0], "not ours to move");
        let mut short = Node::new(&[("a", 0, 40_000), ("b", 0, 40_000)]);
        assert_eq!(short.moves(3), [""; 0], "the first sample knows no rate, and three must agree");
        short.rates = vec![0, 0];
        assert_eq!(short.moves(60), [""; 0], "a burst is over before it is worth it");
    }

    #[test]
    fn moves_are_seldom_and_never_to_and_fro() {
        let mut node = Node::new(&[("a", 0, 30_000), ("b", 0, 30_000), ("c", 0, 30_000), ("d", 0, 30_000)]);
        let start = node.now;
        let mut times = Vec::new();
        for second in 0..600usize {
            // Whoever is on worker 1 is busy, and then whoever is on worker 0: as bad as it gets.
            let busy = second / 20 % 2;
            for (rate, candidate) in node.rates.iter_mut().zip(&node.candidates) {
                *rate = if candidate.worker == busy { 30_000 } else { 100 };
            }
            if let Some(advice) = node.second() {
                times.push((advice.name, node.now - start));
            }
        }
        for pair in times.windows(2) {
            assert!(pair[1].1 - pair[0].1 >= BETWEEN_MOVES, "{times:?}");
        }
        for name in ["a", "b", "c", "d"] {
            let own: Vec<Duration> = times.iter().filter(|(moved, _)| moved == name).map(|(_, at)| *at).collect();
            assert!(own.windows(2).all(|pair| pair[1] - pair[0] >= BETWEEN_MOVES_OF_ONE), "{name}: {own:?}");
        }
    }
}
