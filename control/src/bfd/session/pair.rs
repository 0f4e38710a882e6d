//! Two sessions against each other in simulated time, over a path that delays, loses and reorders.
//!
//! ```text
//!   side 0 ──▶ [ loss, delay, cut ] ──▶ side 1
//!   side 0 ◀── [ loss, delay, cut ] ◀── side 1
//! ```
//!
//! The next event is the earliest of all deadlines and arrivals. A run depends on its seed alone; a failure names it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::super::packet::LENGTH;
use super::*;

const MS: Duration = Duration::from_millis(1);
const SEEDS: u64 = 40;

/// What the path does to packets.
#[derive(Clone, Copy, Default)]
struct Path {
    /// Of a thousand.
    lost: u64,
    /// Microseconds.
    delay: u64,
    /// Every packet is delayed by itself, so that they overtake each other.
    reorders: bool,
    /// This direction (from side 0, from side 1) loses everything.
    is_cut: [bool; 2],
}

/// When a packet arrives, in which order it was sent, to whom, what.
type Flight = (Instant, u64, usize, [u8; LENGTH]);

struct Pair {
    sides: [Session; 2],
    path: Path,
    now: Instant,
    flying: BinaryHeap<Reverse<Flight>>,
    last_arrival: [Instant; 2],
    sent: [u64; 2],
    random: u64,
    /// In order of time: which side, and what.
    changes: Vec<(Instant, usize, Changed)>,
    /// Since when a side has been up against one that is down.
    torn_since: [Option<(Instant, Duration)>; 2],
    longest_tear: Duration,
}

impl Pair {
    fn new(seed: u64, parameters: [Parameters; 2], path: Path) -> Pair {
        let now = Instant::now();
        let side =
            |number: usize| Session::new(number as u32 + 1, parameters[number], seed ^ (number as u64) << 32, now);
        Pair {
            sides: [side(0), side(1)],
            path,
            now,
            flying: BinaryHeap::new(),
            last_arrival: [now; 2],
            sent: [0; 2],
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15),
            changes: Vec::new(),
            torn_since: [None; 2],
            longest_tear: Duration::ZERO,
        }
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % below.max(1)
    }

    fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let arrival = self.flying.peek().map(|Reverse((at, ..))| *at);
            let deadlines = [self.sides[0].deadline(), self.sides[1].deadline()];
            let next = [arrival, deadlines[0], deadlines[1]].into_iter().flatten().min();
            let Some(next) = next.filter(|next| *next <= end) else { break };
            self.now = next.max(self.now);
            if arrival == Some(next) {
                let Some(Reverse((_, _, to, bytes))) = self.flying.pop() else { break };
                self.handle(to, Event::Received(Packet::decode(&bytes).unwrap()));
            } else {
                let side = usize::from(deadlines[0] != Some(next));
                self.handle(side, Event::Timer);
            }
        }
        self.now = end;
    }

    fn handle(&mut self, side: usize, event: Event) {
        let mut out = Vec::new();
        let is_timer = event == Event::Timer;
        self.sides[side].handle(event, self.now, &mut out);
        assert!(out.iter().filter(|action| matches!(action, Action::Send(_))).count() <= 2);
        for action in out {
            match action {
                Action::Changed(changed) => self.changes.push((self.now, side, changed)),
                Action::Send(packet) => self.send(side, packet),
            }
        }
        let is_due = self.sides[side].deadline().is_some_and(|at| at <= self.now);
        assert!(!(is_timer && is_due), "a caller would spin");
        self.look_for_tears();
    }

    fn send(&mut self, side: usize, packet: Packet) {
        assert!(!(packet.poll && packet.is_final), "RFC 5880 §6.8.7");
        assert!(packet.state == State::Up || packet.desired_min_tx >= SLOW, "RFC 5880 §6.8.3");
        self.sent[side] += 1;
        if self.path.is_cut[side] || self.draw(1000) < self.path.lost {
            return;
        }
        let drawn = self.now + Duration::from_micros(self.draw(self.path.delay + 1));
        let at = if self.path.reorders { drawn } else { drawn.max(self.last_arrival[1 - side]) };
        self.last_arrival[1 - side] = at;
        self.flying.push(Reverse((at, self.sent[0] + self.sent[1], 1 - side, packet.encode())));
    }

    /// A side that is up while the other is down: for how long, beyond what its detection time was meanwhile.
    fn look_for_tears(&mut self) {
        for side in [0, 1] {
            let is_torn = self.sides[side].state() == State::Up && self.sides[1 - side].state() == State::Down;
            let detection_time = self.sides[side].detection_time().unwrap_or_default();
            self.torn_since[side] = match self.torn_since[side] {
                _ if !is_torn => None,
                None => Some((self.now, detection_time)),
                Some((since, longest)) => Some((since, longest.max(detection_time))),
            };
            if let Some((since, longest)) = self.torn_since[side] {
                // What was on its way when the other side went down may still come.
                let allowed = longest + Duration::from_micros(self.path.delay);
                assert!(self.now - since <= allowed, "up for {:?} against a side that is down", self.now - since);
                self.longest_tear = self.longest_tear.max(self.now - since);
            }
        }
    }

    fn are_up(&self) -> bool {
        self.sides.iter().all(|side| side.state() == State::Up)
    }

    fn downs(&self) -> Vec<&(Instant, usize, Changed)> {
        self.changes.iter().filter(|(_, _, changed)| !changed.up).collect()
    }
}

fn parameters(min_tx: u64, min_rx: u64, multiplier: u8) -> Parameters {
    let (min_tx, min_rx) = (Duration::from_millis(min_tx), Duration::from_millis(min_rx));
    Parameters::of(&BfdState { min_rx, min_tx, multiplier, multihop: false }).unwrap()
}

fn any_parameters(pair: &mut Pair) -> Parameters {
    let interval = [10, 20, 50, 300, 1000];
    let (tx, rx) = (pair.draw(5) as usize, pair.draw(5) as usize);
    parameters(interval[tx], interval[rx], 2 + pair.draw(4) as u8)
}

/// Runs the story for many seeds and says which one failed.
fn for_seeds(story: impl Fn(u64) + std::panic::RefUnwindSafe) {
    for seed in 0..SEEDS {
        if let Err(panic) = std::panic::catch_unwind(|| story(seed)) {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn two_sides_find_each_other_and_agree() {
    for_seeds(|seed| {
        let path = Path { delay: 4000, ..Path::default() };
        let mut pair = Pair::new(seed, [parameters(10, 20, 3), parameters(50, 10, 5)], path);
        pair.run_for(3000 * MS);
        assert!(pair.are_up());
        assert_eq!((pair.sides[0].interval(), pair.sides[1].interval()), (10 * MS, 50 * MS));
        let times = pair.sides.each_ref().map(Session::detection_time);
        assert_eq!(times, [Some(250 * MS), Some(30 * MS)]);
        let before = pair.sent;
        pair.run_for(10_000 * MS);
        assert!(pair.downs().is_empty());
        // Jitter makes it an eighth more on average.
        let rates = [pair.sent[0] - before[0], pair.sent[1] - before[1]];
        assert!((1000..1334).contains(&rates[0]) && (200..267).contains(&rates[1]), "{rates:?}");
    });
}

/// RFC 5880 §6.5, §6.8.3: no change of intervals, by either side, at any time, ends a session.
#[test]
fn changed_intervals_end_no_session() {
    for_seeds(|seed| {
        let path = Path { delay: 4000, ..Path::default() };
        let mut pair = Pair::new(seed, [parameters(10, 10, 3); 2], path);
        pair.run_for(3000 * MS);
        assert!(pair.are_up());
        for _ in 0..40 {
            let side = pair.draw(2) as usize;
            let wanted = any_parameters(&mut pair);
            pair.handle(side, Event::Configure(wanted));
            let wait = [3, 30, 700, 4000][pair.draw(4) as usize];
            let wait = pair.draw(wait * 1000);
            pair.run_for(Duration::from_micros(wait));
        }
        // One sequence may wait for another, at the slowest interval.
        pair.run_for(8000 * MS);
        assert!(pair.downs().is_empty(), "{:?}", pair.downs());
        let [a, b] = &pair.sides;
        assert_eq!(a.interval(), a.parameters.min_tx.max(b.parameters.min_rx).duration());
        assert_eq!(b.interval(), b.parameters.min_tx.max(a.parameters.min_rx).duration());
        let of = |theirs: &Session| Some(theirs.interval() * u32::from(theirs.parameters.multiplier));
        assert_eq!((a.detection_time(), b.detection_time()), (of(b), of(a)));
    });
}

/// A cut, in one direction or both, is seen by each side within its detection time, and mended by itself.
#[test]
fn a_cut_is_seen_within_the_detection_time() {
    for_seeds(|seed| {
        let path = Path { delay: 2000, ..Path::default() };
        let mut pair = Pair::new(seed, [parameters(10, 10, 3); 2], path);
        pair.run_for(3000 * MS);
        let cut_at = pair.now;
        pair.path.is_cut = [[true, true], [true, false], [false, true]][seed as usize % 3];
        pair.run_for(100 * MS);
        let downs = pair.downs();
        assert_eq!(downs.len(), 2, "{downs:?}");
        let (at, side, first) = downs[0];
        assert!(*at - cut_at <= 32 * MS, "{:?}", *at - cut_at);
        assert_eq!((first.diagnostic, first.is_failure), (Diagnostic::DetectionTimeExpired, true));
        assert!(pair.path.is_cut[1 - side], "the side that hears nothing is the first to know");
        // The other side is told, or hears nothing either.
        assert!(downs[1].0 - cut_at <= 34 * MS && downs[1].2.is_failure);
        pair.path.is_cut = [false, false];
        pair.run_for(3000 * MS);
        assert!(pair.are_up());
    });
}

/// Whatever is lost or overtaken: no side is up against one that is down for longer than its detection time (asserted after
/// every event), and when the path is well again both go up and stay up.
#[test]
fn loss_and_reordering_leave_no_session_torn() {
    let seen = std::sync::Mutex::new((Duration::ZERO, 0));
    for_seeds(|seed| {
        let path =
            Path { lost: [100, 300, 500, 800][seed as usize % 4], delay: 30_000, reorders: true, ..Path::default() };
        let mut pair = Pair::new(seed, [parameters(10, 10, 3), parameters(20, 10, 2)], path);
        for _ in 0..20 {
            let wait = pair.draw(3_000_000);
            pair.run_for(Duration::from_micros(wait));
            match pair.draw(4) {
                0 => pair.path.is_cut = [pair.draw(2) == 0, pair.draw(2) == 0],
                1 => pair.path.is_cut = [false, false],
                _ => {
                    let wanted = any_parameters(&mut pair);
                    pair.handle(0, Event::Configure(wanted));
                }
            }
        }
        {
            let mut seen = seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            *seen = (pair.longest_tear.max(seen.0), seen.1 + pair.downs().len());
        }
        pair.path = Path { delay: 2000, ..Path::default() };
        pair.run_for(15_000 * MS);
        assert!(pair.are_up());
        let downs = pair.downs().len();
        pair.run_for(10_000 * MS);
        assert_eq!(pair.downs().len(), downs);
    });
    let (longest_tear, downs) = seen.into_inner().unwrap();
    assert!(longest_tear > 10 * MS && downs > 10 * SEEDS as usize, "{longest_tear:?}, {downs}: the path was too good");
}

/// RFC 5880 §6.8.16: a side that shuts the session takes the other down without a failure, even when the first packet is lost.
#[test]
fn a_shut_session_is_no_failure_to_the_other_side() {
    for_seeds(|seed| {
        let path = Path { delay: 2000, ..Path::default() };
        let mut pair = Pair::new(seed, [parameters(10, 10, 3); 2], path);
        pair.run_for(3000 * MS);
        pair.path.is_cut[0] = seed % 2 == 0;
        pair.handle(0, Event::AdminDown);
        pair.path.is_cut[0] = false;
        pair.run_for(100 * MS);
        let theirs: Vec<Changed> =
            pair.downs().iter().filter(|(_, side, _)| *side == 1).map(|(.., changed)| *changed).collect();
        let diagnostic = Diagnostic::NeighbourSignaledDown;
        assert_eq!(theirs, [Changed { up: false, diagnostic, is_failure: false }]);
        assert_eq!(pair.sides[0].remote().state, State::Down, "it is known to know");
    });
}
