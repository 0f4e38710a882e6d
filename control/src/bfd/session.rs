//! One side of a BFD session in asynchronous mode.
//!
//! ```text
//!              Down ──receives Down──▶ Init ──receives Init, Up──▶ Up
//!               │ └──────────────receives Init────────────────────▶ │
//!               ◀── receives AdminDown, detection time expires ──────┤
//!               ◀── receives Down ───────────────────────────────────┘
//! ```
//!
//! Two deadlines: when the next packet is due, and when the other side has been silent for the detection time. The first is
//! the time of the last packet and the agreed interval, shortened by chance for each packet; both are worked out anew
//! whenever what they depend on changes. What is asked for is put into force when the other side has acknowledged it by the
//! Final bit, where putting it into force earlier could end the session.
//!
//! The caller gives it every packet that waits before it lets a deadline pass: a caller that was late itself then does not
//! take its own delay for the other side's silence.
//!
//! Invariants: outside `Up` no more than a packet a second is sent by itself; no packet has both Poll and Final; at most one
//! Poll sequence is under way; handling one event sends at most two packets.
//! Left out: echo (we say that we take none), demand mode of our own, authentication.
//! Sources: RFC 5880 §6.2, §6.5, §6.8; RFC 5882 §4.2.

use std::time::{Duration, Instant};

use super::packet::{Diagnostic, Micros, Packet, State};
use crate::bgp::speaker_state::BfdState;

/// RFC 5880 §6.8.3: while a session is not up, no less than this lies between packets.
const SLOW: Micros = Micros(1_000_000);
/// No interval is shorter.
const SHORTEST: Duration = Duration::from_millis(1);
/// No interval is longer: what a packet can say.
const LONGEST: Duration = Duration::from_micros(u32::MAX as u64);

/// What a session is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameters {
    min_tx: Micros,
    min_rx: Micros,
    multiplier: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadParameters {
    /// RFC 5880 §6.8.1: it must not be zero.
    #[error("the multiplier is 0, expected 1 to 255")]
    Multiplier,
    #[error("{name} is {value:?}, expected 1 ms to 4294 s")]
    Interval { name: &'static str, value: Duration },
}

impl Parameters {
    pub fn of(wanted: &BfdState) -> Result<Parameters, BadParameters> {
        if wanted.multiplier == 0 {
            return Err(BadParameters::Multiplier);
        }
        for (name, value) in [("min_tx", wanted.min_tx), ("min_rx", wanted.min_rx)] {
            if !(SHORTEST..=LONGEST).contains(&value) {
                return Err(BadParameters::Interval { name, value });
            }
        }
        let (min_tx, min_rx) = (Micros::of(wanted.min_tx), Micros::of(wanted.min_rx));
        Ok(Parameters { min_tx, min_rx, multiplier: wanted.multiplier })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A packet of this session that was decoded and came from where it may.
    Received(Packet),
    /// A deadline has passed, or perhaps has.
    Timer,
    Configure(Parameters),
    /// Nobody wants the session any more. It stays so.
    AdminDown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Send(Packet),
    Changed(Changed),
}

/// The session went up, or was up and is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Changed {
    pub up: bool,
    pub diagnostic: Diagnostic,
    /// The path is to be taken as failed. Not so when either side has shut the session: RFC 5882 §4.2.
    pub is_failure: bool,
}

/// What was last heard from the other side. RFC 5880 §6.8.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remote {
    /// Zero: unknown.
    pub discriminator: u32,
    pub state: State,
    pub diagnostic: Diagnostic,
    pub min_tx: Micros,
    pub min_rx: Micros,
    /// Zero: nothing was heard.
    pub multiplier: u8,
    pub demand: bool,
}

/// As long as nothing is known; the interval is the RFC's initial value.
pub(super) const UNKNOWN: Remote = Remote {
    discriminator: 0,
    state: State::Down,
    diagnostic: Diagnostic::None,
    min_tx: Micros(0),
    min_rx: Micros(1),
    multiplier: 0,
    demand: false,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Poll {
    Idle,
    /// Begins with the next packet.
    Wanted,
    /// A packet with the Poll bit is out.
    Sent,
    /// One is out, and what it asks for has changed since.
    SentAndAgain,
    /// Begins with the packet after the next, so that an answer to the former sequence is not taken for one to this.
    AfterNext,
}

pub struct Session {
    discriminator: u32,
    parameters: Parameters,
    state: State,
    diagnostic: Diagnostic,
    remote: Remote,
    /// What our packets say.
    desired_min_tx: Micros,
    required_min_rx: Micros,
    /// What we keep to meanwhile. RFC 5880 §6.8.3.
    tx_in_use: Micros,
    rx_in_use: Micros,
    poll: Poll,
    /// When the timer is to send the first packet, or has sent the last one.
    timer_from: Instant,
    has_sent: bool,
    /// Without Poll and Final.
    last_said: Option<Packet>,
    /// Of the interval to the next packet, in thousandths.
    jitter: u32,
    received_at: Option<Instant>,
    random: u64,
}

impl Session {
    /// A session that is down; its first packet is due at once. The discriminator is not zero and no other session's.
    pub fn new(discriminator: u32, parameters: Parameters, seed: u64, now: Instant) -> Session {
        assert!(discriminator != 0, "RFC 5880 §6.8.1: a discriminator is not zero");
        let desired_min_tx = parameters.min_tx.max(SLOW);
        Session {
            discriminator,
            parameters,
            state: State::Down,
            diagnostic: Diagnostic::None,
            remote: UNKNOWN,
            desired_min_tx,
            required_min_rx: parameters.min_rx,
            tx_in_use: desired_min_tx,
            rx_in_use: parameters.min_rx,
            poll: Poll::Idle,
            timer_from: now,
            has_sent: false,
            last_said: None,
            jitter: 1000,
            received_at: None,
            random: seed,
        }
    }

    pub fn state(&self) -> State {
        self.state
    }

    pub fn diagnostic(&self) -> Diagnostic {
        self.diagnostic
    }

    pub fn remote(&self) -> &Remote {
        &self.remote
    }

    pub fn discriminator(&self) -> u32 {
        self.discriminator
    }

    /// What lies between our packets, before chance shortens it. RFC 5880 §6.8.2.
    pub fn interval(&self) -> Duration {
        self.tx_in_use.max(self.remote.min_rx).duration()
    }

    /// How long the other side may be silent; none as long as nothing was heard. RFC 5880 §6.8.4.
    pub fn detection_time(&self) -> Option<Duration> {
        let interval = self.rx_in_use.max(self.remote.min_tx).duration();
        (self.remote.multiplier > 0).then(|| interval.saturating_mul(u32::from(self.remote.multiplier)))
    }

    /// The other side's detection time: how long it waits for us.
    pub fn detection_time_of_remote(&self) -> Duration {
        self.desired_min_tx.max(self.remote.min_rx).duration().saturating_mul(u32::from(self.parameters.multiplier))
    }

    pub fn deadline(&self) -> Option<Instant> {
        [self.send_at(), self.detect_at()].into_iter().flatten().min()
    }

    pub fn handle(&mut self, event: Event, now: Instant, out: &mut Vec<Action>) {
        let mut answers_poll = false;
        match event {
            Event::Received(packet) => {
                answers_poll = self.receive(&packet, now, out);
            }
            Event::Timer => self.expire(now, out),
            Event::Configure(parameters) => {
                self.parameters = parameters;
                self.advertise();
            }
            Event::AdminDown => self.go(State::AdminDown, Diagnostic::AdministrativelyDown, false, out),
        }
        if answers_poll {
            // RFC 5880 §6.8.7: at once, whatever the timer says, and without Poll. The timer goes on as it was.
            let packet = Packet { is_final: true, ..self.packet() };
            self.last_said = Some(self.packet());
            out.push(Action::Send(packet));
        }
        // RFC 5880 §6.8.7: what differs from the last packet is said before the next one is due.
        let is_news = self.last_said.is_some_and(|said| said != self.packet());
        if is_news || self.send_at().is_some_and(|at| at <= now) {
            self.send(now, out);
        }
    }

    /// RFC 5880 §6.8.6, from where the session is known. True: a Poll is to be answered.
    fn receive(&mut self, packet: &Packet, now: Instant, out: &mut Vec<Action>) -> bool {
        self.remote = Remote {
            discriminator: packet.my_discriminator,
            state: packet.state,
            diagnostic: packet.diagnostic,
            min_tx: packet.desired_min_tx,
            min_rx: packet.required_min_rx,
            multiplier: packet.detect_mult,
            demand: packet.demand,
        };
        if packet.is_final {
            self.finish_poll();
        }
        if self.state == State::AdminDown {
            // The packet is discarded. One that shows that the other side does not know yet is answered by what it should
            // know: RFC 5880 §6.8.16 wants to be sure of that.
            if matches!(packet.state, State::Init | State::Up) {
                self.last_said = None;
                self.send(now, out);
            }
            return false;
        }
        match (self.state, packet.state) {
            (State::Down, State::AdminDown) => {}
            (_, State::AdminDown) => self.go(State::Down, Diagnostic::NeighbourSignaledDown, false, out),
            (State::Down, State::Down) => self.go(State::Init, self.diagnostic, false, out),
            (State::Down | State::Init, State::Init) | (State::Init, State::Up) => {
                self.go(State::Up, Diagnostic::None, false, out);
            }
            (State::Up, State::Down) => self.go(State::Down, Diagnostic::NeighbourSignaledDown, true, out),
            _ => {}
        }
        self.received_at = Some(now);
        packet.poll
    }

    /// RFC 5880 §6.8.4: nothing was heard for the detection time.
    fn expire(&mut self, now: Instant, out: &mut Vec<Action>) {
        if self.detect_at().is_none_or(|at| at > now) {
            return;
        }
        // RFC 5880 §6.8.1: after a detection time without a packet the discriminator is unknown. The rest goes with it: what
        // comes next may be another system, which must not find us obeying the intervals of this one.
        self.remote = UNKNOWN;
        self.received_at = None;
        if matches!(self.state, State::Init | State::Up) {
            self.go(State::Down, Diagnostic::DetectionTimeExpired, true, out);
        }
    }

    fn go(&mut self, state: State, diagnostic: Diagnostic, is_failure: bool, out: &mut Vec<Action>) {
        let was_up = self.state == State::Up;
        let is_up = state == State::Up;
        (self.state, self.diagnostic) = (state, diagnostic);
        self.advertise();
        if was_up != is_up {
            out.push(Action::Changed(Changed { up: is_up, diagnostic, is_failure }));
        }
    }

    /// Says the intervals that state and parameters ask for, and keeps to them as soon as may be. RFC 5880 §6.8.3.
    fn advertise(&mut self) {
        let is_up = self.state == State::Up;
        let desired_min_tx = if is_up { self.parameters.min_tx } else { self.parameters.min_tx.max(SLOW) };
        let required_min_rx = self.parameters.min_rx;
        if (desired_min_tx, required_min_rx) == (self.desired_min_tx, self.required_min_rx) {
            return;
        }
        (self.desired_min_tx, self.required_min_rx) = (desired_min_tx, required_min_rx);
        // The other side still waits for packets at the former rate, ...
        if !is_up || desired_min_tx <= self.tx_in_use {
            self.tx_in_use = desired_min_tx;
        }
        // ... and still sends at the former rate.
        if !is_up || required_min_rx >= self.rx_in_use {
            self.rx_in_use = required_min_rx;
        }
        self.poll = match self.poll {
            Poll::Idle | Poll::Wanted => Poll::Wanted,
            Poll::Sent | Poll::SentAndAgain => Poll::SentAndAgain,
            Poll::AfterNext => Poll::AfterNext,
        };
    }

    /// RFC 5880 §6.5: the Final bit ends the sequence, if one is under way.
    fn finish_poll(&mut self) {
        self.poll = match self.poll {
            Poll::Sent => {
                (self.tx_in_use, self.rx_in_use) = (self.desired_min_tx, self.required_min_rx);
                Poll::Idle
            }
            Poll::SentAndAgain => Poll::AfterNext,
            other => other,
        };
    }

    /// Sends by itself: RFC 5880 §6.8.7.
    fn send(&mut self, now: Instant, out: &mut Vec<Action>) {
        let packet = self.packet();
        let poll = matches!(self.poll, Poll::Wanted | Poll::Sent | Poll::SentAndAgain);
        self.poll = match self.poll {
            Poll::Wanted => Poll::Sent,
            Poll::AfterNext => Poll::Wanted,
            other => other,
        };
        out.push(Action::Send(Packet { poll, ..packet }));
        self.last_said = Some(packet);
        (self.timer_from, self.has_sent) = (now, true);
        // RFC 5880 §6.8.7: up to a quarter less, and at least a tenth less where one lost packet ends the session.
        let most = if self.parameters.multiplier == 1 { 900 } else { 1000 };
        self.jitter = 750 + self.draw() % (most - 750 + 1);
    }

    fn packet(&self) -> Packet {
        Packet {
            diagnostic: self.diagnostic,
            state: self.state,
            poll: false,
            is_final: false,
            // The control thread may end without this one, but not the process.
            control_plane_independent: false,
            demand: false,
            detect_mult: self.parameters.multiplier,
            my_discriminator: self.discriminator,
            your_discriminator: self.remote.discriminator,
            desired_min_tx: self.desired_min_tx,
            required_min_rx: self.required_min_rx,
            required_min_echo_rx: Micros(0),
        }
    }

    /// When the next packet is due. None: the other side wants none.
    fn send_at(&self) -> Option<Instant> {
        let both_up = self.state == State::Up && self.remote.state == State::Up;
        let is_demand_active = self.remote.demand && both_up && self.poll == Poll::Idle;
        if self.remote.min_rx == Micros(0) || is_demand_active {
            return None;
        }
        let wait = if self.has_sent { self.interval() * self.jitter / 1000 } else { Duration::ZERO };
        Some(self.timer_from + wait)
    }

    fn detect_at(&self) -> Option<Instant> {
        if self.state == State::AdminDown {
            return None;
        }
        Some(self.received_at? + self.detection_time()?)
    }
    /// SplitMix64: enough to keep sessions from beating together.
    fn draw(&mut self) -> u32 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z >> 32) as u32
    }
}

#[cfg(test)]
mod pair;
#[cfg(test)]
pub(super) mod tests;
