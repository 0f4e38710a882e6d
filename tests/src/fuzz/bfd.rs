//! Fuzz target: what a BFD neighbour may send, one packet after the other, with time in between.
//!
//! An input is a row of events: a byte that says what and how long after the last one, a length, and so many bytes. Those are
//! the payload of a packet, or the intervals that are asked for from now on. Packets of one kind get our discriminator, or no
//! session would ever hear them.
//!
//! Whatever comes: what is decoded is encoded to the same bytes; no more than two packets answer an event, none with Poll and
//! Final, none quick unless the session is up; what was due has been done; ups and downs are told in turn; and the session ends
//! when there is silence.

use std::time::{Duration, Instant};

use control::bfd::State;
use control::bfd::packet::{LENGTH, Packet};
use control::bfd::session::{Action, Event, Parameters, Session};
use control::bgp::speaker_state::BfdState;

use super::{Seen, Target};

pub const BFD: Target =
    Target { name: "bfd", run, seeds, tokens: &["\u{20}\u{40}\u{3}\u{18}"], longest: 1024, rounds: 100_000 };

const OURS: u32 = 0x0a0b_0c0d;
/// Events of one input.
const EVENTS_MAX: usize = 64;

struct Neighbourhood {
    session: Session,
    now: Instant,
    is_up: bool,
    ups: usize,
}

impl Neighbourhood {
    fn handle(&mut self, event: Event) {
        let mut out = Vec::new();
        let is_timer = event == Event::Timer;
        self.session.handle(event, self.now, &mut out);
        let mut sent = 0;
        for action in out {
            match action {
                Action::Send(packet) => {
                    sent += 1;
                    assert!(!(packet.poll && packet.is_final), "RFC 5880 §6.8.7: {packet:?}");
                    let is_slow = packet.desired_min_tx.0 >= 1_000_000;
                    assert!(is_slow || packet.state == State::Up, "RFC 5880 §6.8.3: {packet:?}");
                    assert_eq!((packet.my_discriminator, packet.demand), (OURS, false));
                    assert_eq!(Packet::decode(&packet.encode()).ok(), is_decodable(&packet).then_some(packet));
                }
                Action::Changed(changed) => {
                    assert_ne!(changed.up, self.is_up, "told twice");
                    assert!(!(changed.up && changed.is_failure));
                    self.is_up = changed.up;
                    self.ups += usize::from(changed.up);
                }
            }
        }
        assert!(sent <= 2, "{sent} packets at once");
        assert_eq!(self.is_up, self.session.state() == State::Up, "a change that was not told");
        let is_due = self.session.deadline().is_some_and(|at| at <= self.now);
        assert!(!(is_timer && is_due), "what is due is not done");
    }

    /// Lets time pass, and the deadlines in it.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        // An interval is a millisecond, less a quarter.
        for _ in 0..2 * time.as_millis() + 4 {
            let Some(at) = self.session.deadline().filter(|at| *at <= end) else { break };
            self.now = at.max(self.now);
            self.handle(Event::Timer);
        }
        assert!(self.session.deadline().is_none_or(|at| at > end), "more is due than may be");
        self.now = end;
    }
}

/// RFC 5880 §6.8.6: without a discriminator of the other side, only a session that is down can be told of.
fn is_decodable(packet: &Packet) -> bool {
    packet.your_discriminator != 0 || matches!(packet.state, State::Down | State::AdminDown)
}

fn parameters(bytes: &[u8]) -> Option<Parameters> {
    let [tx, rx, multiplier, ..] = *bytes else { return None };
    let interval = |byte: u8| Duration::from_millis(u64::from(byte) * 4);
    let wanted = BfdState { min_tx: interval(tx), min_rx: interval(rx), multiplier, multihop: false };
    Parameters::of(&wanted).ok()
}

fn run(input: &[u8]) -> Seen {
    let first = parameters(&[3, 3, 3]).expect("12 ms are allowed");
    let now = Instant::now();
    let mut all = Neighbourhood { session: Session::new(OURS, first, 1, now), now, is_up: false, ups: 0 };
    let (mut rest, mut received, mut refused) = (input, 0, None);
    for _ in 0..EVENTS_MAX {
        let [what, length, more @ ..] = rest else { break };
        let (bytes, after) = more.split_at(usize::from(*length).min(more.len()));
        rest = after;
        let wait = u64::from(what >> 3);
        all.pass(Duration::from_millis(wait * wait));
        match what & 7 {
            7 => all.handle(Event::AdminDown),
            6 => parameters(bytes).into_iter().for_each(|parameters| all.handle(Event::Configure(parameters))),
            kind => match Packet::decode(bytes) {
                Err(reason) => refused = refused.max(Some(reason)),
                Ok(mut packet) => {
                    let again = packet.encode();
                    // What follows a packet and reserved bits aside.
                    assert_eq!(Packet::decode(&again), Ok(packet));
                    assert_eq!(again[4..], bytes[4..LENGTH]);
                    if kind > 0 {
                        packet.your_discriminator = OURS;
                    }
                    received += 1;
                    all.handle(Event::Received(packet));
                }
            },
        }
    }
    let shape = (all.session.state(), all.ups.min(3), all.session.diagnostic(), refused, received.min(4));
    // Silence ends it. The longest detection time is what a packet can say, 255 times.
    if let Some(time) = all.session.detection_time().filter(|_| all.is_up) {
        all.now += time;
        all.handle(Event::Timer);
        assert!(!all.is_up, "up in spite of silence for {time:?}");
    }
    if received == 0 { Seen::refused(shape) } else { Seen::accepted(shape) }
}

/// The ways of sessions: up; up and down again; with a Poll; with intervals that change; cut off.
fn seeds() -> Vec<Vec<u8>> {
    let packet = |what: u8, flags: u8, tx: u32| {
        let mut bytes = vec![what, LENGTH as u8, 0x20, flags, 3, LENGTH as u8, 0, 0, 0, 9, 0, 0, 0, 1];
        [tx, 10_000, 0].iter().for_each(|word| bytes.extend(word.to_be_bytes()));
        bytes
    };
    let (down, init, up, poll, last) = (0x40, 0x80, 0xc0, 0xe0, 0xd0);
    let way = |flags: &[u8]| flags.iter().flat_map(|flags| packet(1 | 2 << 3, *flags, 10_000)).collect::<Vec<u8>>();
    vec![
        way(&[down, init, last, up, up]),
        way(&[down, up, last, down, init]),
        way(&[down, up, poll, last, 0, down]),
        [way(&[down, init]), vec![6, 3, 50, 50, 5], way(&[last, up, last])].concat(),
        [way(&[down, init]), vec![7, 0], way(&[up, down])].concat(),
        [way(&[down, init]), packet(31 << 3, down, 0), packet(1, 0xc2, u32::MAX)].concat(),
    ]
}
