//! Two sessions and a network that delays, cuts, loses and refuses: whatever happens, once it is calm both are Established on
//! one and the same connection, have told each other all they know, keep nothing stale, and stay so.
//!
//! A connection is a pipe with two ends. What is sent on it comes in pieces, in order, some time later, unless the pipe is
//! cut; a cut is seen by both ends, by one of them, or by none. A seed decides everything; a failure prints it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::*;
use crate::bgp::session::notification::reset;
use crate::bgp::session::timers::Jitter;

/// How long it is not calm, and how long it may take from then: a hold time for a loss that nobody saw, an error wait, and
/// some tries.
const CHAOS: Duration = Duration::from_secs(120);
const RECOVERY: Duration = Duration::from_secs(240);
/// Then nothing happens any longer.
const CALM: Duration = Duration::from_secs(600);

#[derive(Debug)]
enum Happening {
    Accept {
        pipe: usize,
    },
    Connected {
        pipe: usize,
    },
    Refused {
        pipe: usize,
    },
    /// To that end of the pipe.
    Bytes {
        pipe: usize,
        to: usize,
        bytes: Vec<u8>,
    },
    Closed {
        pipe: usize,
        to: usize,
    },
    Trouble,
}

#[derive(Debug)]
struct Pipe {
    /// By side: its number for it, while it is open there.
    ends: [Option<ConnectionId>; 2],
    /// The side that has asked for it.
    from: usize,
    is_cut: bool,
    /// By the receiving side: nothing overtakes.
    last: [Instant; 2],
}

struct Side {
    session: Session,
    accepted: u64,
    is_up: bool,
    ups: u64,
    /// Families whose end of RIB has come since it is up.
    told: BTreeSet<IpVersion>,
}

struct World {
    random: Jitter,
    now: Instant,
    start: Instant,
    sides: [Side; 2],
    pipes: Vec<Pipe>,
    /// By time; of the same time, in any order.
    queue: BTreeMap<(Instant, u64), Happening>,
    trace: VecDeque<String>,
    external: bool,
    identical: bool,
    passive: Option<usize>,
}

impl World {
    fn new(seed: u64) -> World {
        let mut random = Jitter::new(seed);
        let now = Instant::now();
        let external = random.number().is_multiple_of(2);
        // RFC 6286: only with another system may the identifiers be equal.
        let identical = external && random.number().is_multiple_of(3);
        let passive = match random.number() % 4 {
            side @ 0..2 => Some(side as usize),
            _ => None,
        };
        let graceful = random.number().is_multiple_of(2);
        let make = |side: usize, seed: u64| Side {
            session: session(side, external, identical, passive, graceful, seed, false),
            accepted: 0,
            is_up: false,
            ups: 0,
            told: BTreeSet::new(),
        };
        let sides = [make(0, random.number()), make(1, random.number())];
        let mut world = World {
            random,
            now,
            start: now,
            sides,
            pipes: Vec::new(),
            queue: BTreeMap::new(),
            trace: VecDeque::new(),
            external,
            identical,
            passive,
        };
        world.event(0, Event::Start);
        world.event(1, Event::Start);
        world.later(seconds(1), Happening::Trouble);
        world
    }

    fn is_calm(&self) -> bool {
        self.now >= self.start + CHAOS
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.random.number() % 100 < percent
    }

    /// Mostly little, at times seconds while it is not calm.
    fn delay(&mut self) -> Duration {
        let most = if !self.is_calm() && self.chance(10) { 4000 } else { 100 };
        Duration::from_millis(self.random.number() % most)
    }

    fn later(&mut self, delay: Duration, happening: Happening) {
        let order = self.random.number();
        self.queue.insert((self.now + delay, order), happening);
    }

    /// On a pipe, to one end, after all that was before.
    fn along(&mut self, pipe: usize, to: usize, happening: Happening) {
        let at = (self.now + self.delay()).max(self.pipes[pipe].last[to] + Duration::from_nanos(1));
        self.pipes[pipe].last[to] = at;
        self.queue.insert((at, self.random.number()), happening);
    }

    fn note(&mut self, text: String) {
        if self.trace.len() == 200 {
            self.trace.pop_front();
        }
        self.trace.push_back(format!("{:9.3} {text}", (self.now - self.start).as_secs_f64()));
    }

    fn event(&mut self, side: usize, event: Event<'_>) {
        let mut out = Vec::new();
        let is_timer = matches!(event, Event::Timer);
        self.sides[side].session.handle(event, self.now, &mut out);
        let deadline = self.sides[side].session.deadline();
        assert!(!is_timer || deadline.is_none_or(|deadline| deadline > self.now), "a timer that does not move");
        for action in out {
            self.note(format!("{side}: {}", text(&action)));
            self.act(side, action);
        }
        let open = self.pipes.iter().filter(|pipe| pipe.ends[side].is_some()).count();
        assert!(open <= CONNECTIONS_MAX, "{open} connections");
    }

    fn act(&mut self, side: usize, action: Action) {
        match action {
            Action::Connect { connection } => {
                let mut ends = [None; 2];
                ends[side] = Some(connection);
                let pipe = self.pipes.len();
                self.pipes.push(Pipe { ends, from: side, is_cut: false, last: [self.now; 2] });
                match self.is_calm() {
                    false if self.chance(10) => {}
                    false if self.chance(20) => self.along(pipe, side, Happening::Refused { pipe }),
                    _ => self.along(pipe, 1 - side, Happening::Accept { pipe }),
                }
            }
            Action::Close { connection } => {
                let pipe = self.pipe_of(side, connection);
                self.pipes[pipe].ends[side] = None;
                self.along(pipe, 1 - side, Happening::Closed { pipe, to: 1 - side });
            }
            Action::Send { connection, mut bytes } => {
                let pipe = self.pipe_of(side, connection);
                while !bytes.is_empty() {
                    let length = 1 + (self.random.number() as usize) % bytes.len();
                    let rest = bytes.split_off(length);
                    self.along(pipe, 1 - side, Happening::Bytes { pipe, to: 1 - side, bytes });
                    bytes = rest;
                }
            }
            Action::Up(negotiated) => {
                self.pipe_of(side, negotiated.connection);
                assert!(!self.sides[side].is_up, "up twice");
                (self.sides[side].is_up, self.sides[side].ups) = (true, self.sides[side].ups + 1);
                self.sides[side].told.clear();
                // What a speaker without routes says.
                for family in &negotiated.families {
                    let mut bytes = Vec::new();
                    negotiated.codec.encode(&end_of_rib(*family), &mut bytes);
                    self.act(side, Action::Send { connection: negotiated.connection, bytes });
                }
            }
            Action::EndOfRib(family) => {
                self.sides[side].told.insert(family);
            }
            Action::Down { .. } => {
                assert!(self.sides[side].is_up, "down without up");
                self.sides[side].is_up = false;
            }
            _ => {}
        }
    }

    /// A connection that the session names is open.
    fn pipe_of(&self, side: usize, connection: ConnectionId) -> usize {
        self.pipes.iter().position(|pipe| pipe.ends[side] == Some(connection)).expect("an open connection")
    }

    fn happen(&mut self, happening: Happening) {
        match &happening {
            Happening::Bytes { pipe, to, bytes } => {
                self.note(format!("   pipe {pipe} to {to}: {} octets", bytes.len()))
            }
            other => self.note(format!("   {other:?}")),
        }
        let (local, remote) = (address(US), address(THEM));
        match happening {
            Happening::Accept { pipe } => {
                let side = 1 - self.pipes[pipe].from;
                // Given up before it came about.
                if self.pipes[pipe].ends[1 - side].is_none() {
                    return;
                }
                let connection = ConnectionId::accepted(self.sides[side].accepted);
                self.sides[side].accepted += 1;
                self.pipes[pipe].ends[side] = Some(connection);
                // Who knows first that TCP is up is luck.
                if self.chance(50) {
                    self.happen(Happening::Connected { pipe });
                } else {
                    self.along(pipe, 1 - side, Happening::Connected { pipe });
                }
                self.event(side, Event::Accepted { connection, local, remote });
            }
            Happening::Connected { pipe } => {
                let side = self.pipes[pipe].from;
                if let Some(connection) = self.pipes[pipe].ends[side] {
                    self.event(side, Event::Connected { connection, local, remote });
                }
            }
            Happening::Refused { pipe } => {
                let side = self.pipes[pipe].from;
                if let Some(connection) = self.pipes[pipe].ends[side].take() {
                    self.event(side, Event::ConnectFailed { connection, reason: "refused".to_string() });
                }
            }
            Happening::Bytes { pipe, to, bytes } => match self.pipes[pipe].ends[to] {
                Some(connection) if !self.pipes[pipe].is_cut => {
                    self.event(to, Event::Received { connection, bytes: &bytes });
                }
                Some(_) => {}
                // Nobody there: a reset comes back.
                None => self.along(pipe, 1 - to, Happening::Closed { pipe, to: 1 - to }),
            },
            Happening::Closed { pipe, to } => {
                if let Some(connection) = self.pipes[pipe].ends[to].take() {
                    self.event(to, Event::Closed { connection, reason: "closed".to_string() });
                }
            }
            Happening::Trouble => self.trouble(),
        }
    }

    fn trouble(&mut self) {
        if self.is_calm() {
            return;
        }
        let side = (self.random.number() % 2) as usize;
        match self.random.number() % 8 {
            0 | 1 => {
                for pipe in 0..self.pipes.len() {
                    self.pipes[pipe].is_cut = true;
                    for to in [0, 1] {
                        if self.chance(60) {
                            self.along(pipe, to, Happening::Closed { pipe, to });
                        }
                    }
                }
            }
            2 => self.event(side, Event::ResetBy(reset(""))),
            3 => {
                self.event(side, Event::Stop { notification: Notification::new(6, 2) });
                self.event(side, Event::Start);
            }
            4 => self.restart(side),
            5 => self.event(side, Event::Bfd(BfdFinding::Failed)),
            _ => {}
        }
        let delay = Duration::from_millis(self.random.number() % 20_000);
        self.later(delay, Happening::Trouble);
    }

    /// The process of one side ends and is there again; its kernel closes what it had open.
    fn restart(&mut self, side: usize) {
        for pipe in 0..self.pipes.len() {
            if self.pipes[pipe].ends[side].take().is_some() && self.chance(70) {
                self.along(pipe, 1 - side, Happening::Closed { pipe, to: 1 - side });
            }
        }
        let graceful = !self.sides[side].session.peer().transport.restart.restart_time.is_zero();
        let seed = self.random.number();
        self.sides[side].session = session(side, self.external, self.identical, self.passive, graceful, seed, graceful);
        self.sides[side].is_up = false;
        self.event(side, Event::Start);
    }

    /// Until that time after the start.
    fn run(&mut self, until: Duration) {
        let end = self.start + until;
        loop {
            let deadlines = [0, 1].map(|side| self.sides[side].session.deadline());
            let next = self.queue.keys().next().map(|(at, _)| *at);
            let Some(at) = deadlines.into_iter().flatten().chain(next).min().filter(|at| *at <= end) else { break };
            self.now = self.now.max(at);
            // What comes is told before what is due, as the events ask for.
            if next == Some(at) {
                if let Some((_, happening)) = self.queue.pop_first() {
                    self.happen(happening);
                }
                continue;
            }
            for side in [0, 1] {
                if deadlines[side].is_some_and(|deadline| deadline <= self.now) {
                    self.event(side, Event::Timer);
                }
            }
        }
        self.now = end;
    }

    fn assert_one_connection(&self, seed: u64) {
        let trace = || self.trace.iter().map(String::as_str).collect::<Vec<_>>().join("\n");
        let states = [0, 1].map(|side| self.sides[side].session.state());
        assert_eq!(states, [State::Established; 2], "seed {seed}\n{}", trace());
        let open: Vec<&Pipe> = self.pipes.iter().filter(|pipe| pipe.ends.iter().any(Option::is_some)).collect();
        assert_eq!(open.len(), 1, "seed {seed}\n{}", trace());
        let ids = [0, 1].map(|side| self.sides[side].session.established().map(|(id, _)| id));
        assert_eq!(open.first().map(|pipe| pipe.ends), Some(ids), "seed {seed}");
        for side in &self.sides {
            assert_eq!(side.session.status().stale, [], "seed {seed}");
            assert_eq!(side.told.len(), 2, "seed {seed}");
        }
    }
}

fn session(
    side: usize,
    external: bool,
    identical: bool,
    passive: Option<usize>,
    graceful: bool,
    seed: u64,
    restarting: bool,
) -> Session {
    let numbers = [OUR_AS, if external { 64513 } else { OUR_AS }];
    let addresses = [US, THEM];
    let mut state = peer_state();
    state.transport.local_as = numbers[side];
    state.transport.remote_as = numbers[1 - side];
    state.transport.passive = passive == Some(side);
    if !graceful {
        state.transport.restart.restart_time = Duration::ZERO;
    }
    let identity = identity(if identical { US } else { addresses[side] });
    let key = PeerKey { address: addresses[1 - side].into(), port: 179 };
    Session::new(key, identity, state, seed, restarting)
}

#[test]
fn both_end_up_on_one_connection_whatever_happens() {
    let mut ups = 0;
    for seed in 0..400 {
        let mut world = World::new(seed);
        world.run(CHAOS + RECOVERY);
        world.assert_one_connection(seed);
        let before = [0, 1].map(|side| world.sides[side].ups);
        ups += before.iter().sum::<u64>();
        world.run(CHAOS + RECOVERY + CALM);
        world.assert_one_connection(seed);
        assert_eq!([0, 1].map(|side| world.sides[side].ups), before, "seed {seed}: it was up again");
    }
    // There was trouble: sessions came up several times each.
    assert!(ups > 400 * 2 * 2, "{ups}");
}

#[test]
fn two_that_connect_at_the_same_time_are_up_at_once() {
    // No trouble but delays: whatever the order of messages on the two connections, nobody gives up what the other keeps.
    for seed in 0..2000 {
        let mut world = World::new(seed);
        world.queue.clear();
        world.start -= CHAOS;
        world.run(CHAOS + seconds(30));
        world.assert_one_connection(seed);
        let ups = [0, 1].map(|side| world.sides[side].ups);
        assert_eq!(ups, [1, 1], "seed {seed}\n{:#?}", world.trace);
    }
}
