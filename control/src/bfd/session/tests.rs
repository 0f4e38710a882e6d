//! The rules of a session one by one, and two sessions against each other in simulated time.

use super::*;

const MS: Duration = Duration::from_millis(1);

fn wanted(min_tx: u64, min_rx: u64, multiplier: u8) -> Parameters {
    let (min_tx, min_rx) = (Duration::from_millis(min_tx), Duration::from_millis(min_rx));
    Parameters::of(&BfdState { min_rx, min_tx, multiplier, multihop: false }).unwrap()
}

/// A session and what it did last.
struct Bench {
    session: Session,
    now: Instant,
    out: Vec<Action>,
}

impl Bench {
    /// 10 ms both ways, multiplier 3.
    fn new() -> Bench {
        Bench::with(wanted(10, 10, 3))
    }

    fn with(parameters: Parameters) -> Bench {
        let now = Instant::now();
        Bench { session: Session::new(7, parameters, 1, now), now, out: Vec::new() }
    }

    fn handle(&mut self, event: Event) -> &[Action] {
        self.out.clear();
        self.session.handle(event, self.now, &mut self.out);
        &self.out
    }

    /// Receives what the other side, with discriminator 9, says in this state.
    fn receive(&mut self, packet: Packet) -> &[Action] {
        self.handle(Event::Received(packet))
    }

    fn hear(&mut self, state: State) -> &[Action] {
        self.receive(packet(state, 7))
    }

    /// Lets the next deadline pass.
    fn pass(&mut self) -> &[Action] {
        self.now = self.session.deadline().unwrap();
        self.handle(Event::Timer)
    }

    /// Up, the Poll sequence over.
    fn up(mut self) -> Bench {
        self.handle(Event::Timer);
        self.hear(State::Down);
        self.hear(State::Up);
        self.receive(Packet { is_final: true, ..packet(State::Up, 7) });
        assert_eq!(self.session.state(), State::Up);
        assert_eq!(self.session.interval(), 10 * MS);
        self
    }

    fn sent(&self) -> Vec<Packet> {
        self.out
            .iter()
            .filter_map(|action| if let Action::Send(packet) = action { Some(*packet) } else { None })
            .collect()
    }

    fn changed(&self) -> Option<Changed> {
        self.out.iter().find_map(|action| if let Action::Changed(changed) = action { Some(*changed) } else { None })
    }
}

/// What the other side, whose discriminator is 9, says.
pub(in crate::bfd) fn packet(state: State, your_discriminator: u32) -> Packet {
    Packet {
        diagnostic: Diagnostic::None,
        state,
        poll: false,
        is_final: false,
        control_plane_independent: false,
        demand: false,
        detect_mult: 3,
        my_discriminator: 9,
        your_discriminator,
        desired_min_tx: Micros(10_000),
        required_min_rx: Micros(10_000),
        required_min_echo_rx: Micros(0),
    }
}

/// RFC 5880 §6.2, §6.8.6: the state that a received state leads to.
#[test]
fn the_state_machine() {
    use State::{AdminDown, Down, Init, Up};
    let check = |ours: State, theirs: State, expected: State| {
        let mut bench = Bench::new();
        match ours {
            Down => {}
            Init => drop(bench.hear(Down).to_vec()),
            Up => bench = bench.up(),
            AdminDown => drop(bench.handle(Event::AdminDown).to_vec()),
        }
        assert_eq!(bench.session.state(), ours);
        bench.hear(theirs);
        assert_eq!(bench.session.state(), expected, "{ours} receives {theirs}");
    };
    check(Down, AdminDown, Down);
    check(Down, Down, Init);
    check(Down, Init, Up);
    check(Down, Up, Down);
    check(Init, AdminDown, Down);
    check(Init, Down, Init);
    check(Init, Init, Up);
    check(Init, Up, Up);
    check(Up, AdminDown, Down);
    check(Up, Down, Down);
    check(Up, Init, Up);
    check(Up, Up, Up);
    for theirs in [AdminDown, Down, Init, Up] {
        check(AdminDown, theirs, AdminDown);
    }
}

/// RFC 5880 §6.8.6 for the diagnostics, RFC 5882 §4.2 for what is a failure.
#[test]
fn going_down_has_its_reason() {
    let mut bench = Bench::new().up();
    bench.hear(State::Down);
    let diagnostic = Diagnostic::NeighbourSignaledDown;
    assert_eq!(bench.changed(), Some(Changed { up: false, diagnostic, is_failure: true }));
    assert_eq!(bench.sent()[0].diagnostic, diagnostic);

    let mut bench = Bench::new().up();
    bench.hear(State::AdminDown);
    assert_eq!(bench.changed(), Some(Changed { up: false, diagnostic, is_failure: false }));

    let mut bench = Bench::new().up();
    let diagnostic = Diagnostic::AdministrativelyDown;
    bench.handle(Event::AdminDown);
    assert_eq!(bench.changed(), Some(Changed { up: false, diagnostic, is_failure: false }));
    assert_eq!((bench.sent()[0].state, bench.sent()[0].diagnostic), (State::AdminDown, diagnostic));
}

/// RFC 5880 §6.8.4.
#[test]
fn silence_for_the_detection_time_is_down() {
    let mut bench = Bench::new().up();
    let heard = bench.now;
    assert_eq!(bench.session.detection_time(), Some(30 * MS));
    while bench.session.state() == State::Up {
        bench.pass();
    }
    assert_eq!(bench.now - heard, 30 * MS);
    let diagnostic = Diagnostic::DetectionTimeExpired;
    assert_eq!(bench.changed(), Some(Changed { up: false, diagnostic, is_failure: true }));
    // At once, and with what is not known any more: RFC 5880 §6.8.1, bfd.RemoteDiscr.
    let said = bench.sent()[0];
    assert_eq!((said.state, said.diagnostic, said.your_discriminator), (State::Down, diagnostic, 0));
    assert_eq!(said.desired_min_tx, SLOW);
}

/// RFC 5880 §6.8.4: their multiplier, and the larger of our required and their desired interval.
#[test]
fn the_detection_time() {
    let check = |ours: u64, theirs: u32, multiplier: u8, expected: Duration| {
        let mut bench = Bench::with(wanted(10, ours, 5));
        bench.receive(Packet { desired_min_tx: Micros(theirs), detect_mult: multiplier, ..packet(State::Down, 7) });
        assert_eq!(bench.session.detection_time(), Some(expected));
    };
    check(10, 20_000, 3, 60 * MS);
    check(20, 10_000, 3, 60 * MS);
    check(20, 10_000, 1, 20 * MS);
    check(20, 0, 2, 40 * MS);
    check(1, u32::MAX, 255, Duration::from_micros(u64::from(u32::MAX)) * 255);
    assert_eq!(Bench::new().session.detection_time(), None);
}

/// RFC 5880 §6.8.4 in `Init`.
#[test]
fn silence_in_init_is_down() {
    let mut bench = Bench::new();
    bench.hear(State::Down);
    assert_eq!(bench.session.state(), State::Init);
    while bench.session.state() == State::Init {
        bench.pass();
    }
    assert_eq!(bench.session.diagnostic(), Diagnostic::DetectionTimeExpired);
    assert_eq!(bench.changed(), None, "it was never up");
}

/// RFC 5880 §6.8.3.
#[test]
fn until_it_is_up_a_session_is_slow() {
    let mut bench = Bench::new();
    let mut times = Vec::new();
    for _ in 0..50 {
        bench.pass();
        assert_eq!((bench.sent().len(), bench.sent()[0].desired_min_tx), (1, SLOW));
        times.push(bench.now);
    }
    for pair in times.windows(2) {
        assert!((750 * MS..=1000 * MS).contains(&(pair[1] - pair[0])), "{:?}", pair[1] - pair[0]);
    }
    // A session that is slower by its own wish stays so.
    assert_eq!(Bench::with(wanted(3000, 10, 3)).session.interval(), 3000 * MS);
}

/// RFC 5880 §6.8.7: 75 to 100 %, 75 to 90 % when the multiplier is 1; and not always the same.
#[test]
fn jitter() {
    for (multiplier, most) in [(3, 10_000), (2, 10_000), (1, 9_000)] {
        let mut bench = Bench::with(wanted(10, 10_000, multiplier)).up_slowly();
        let mut waits = Vec::new();
        for _ in 0..2000 {
            let before = bench.now;
            bench.pass();
            waits.push((bench.now - before).as_micros());
            bench.receive(Packet { desired_min_tx: Micros(10_000), ..packet(State::Up, 7) });
        }
        let (shortest, longest) = (*waits.iter().min().unwrap(), *waits.iter().max().unwrap());
        assert!((7_500..7_600).contains(&shortest) && (most - 100..=most).contains(&longest), "{shortest} {longest}");
    }
}

impl Bench {
    fn up_slowly(mut self) -> Bench {
        self.handle(Event::Timer);
        self.hear(State::Down);
        self.hear(State::Up);
        self.receive(Packet { is_final: true, ..packet(State::Up, 7) });
        self
    }
}

/// RFC 5880 §6.8.2: our interval is the larger of ours and what they require; a shorter one holds at once.
#[test]
fn what_the_other_side_requires_is_kept_to() {
    let mut bench = Bench::new().up();
    bench.pass();
    bench.receive(Packet { required_min_rx: Micros(200_000), ..packet(State::Up, 7) });
    assert_eq!(bench.session.interval(), 200 * MS);
    bench.now += 20 * MS;
    bench.receive(Packet { required_min_rx: Micros(10_000), ..packet(State::Up, 7) });
    assert_eq!(bench.sent().len(), 1, "20 ms have passed since the last packet");
}

/// RFC 5880 §6.8.7: zero means no periodic packets; news and answers are still sent.
#[test]
fn a_side_that_requires_nothing_gets_nothing() {
    let mut bench = Bench::new().up();
    bench.receive(Packet { required_min_rx: Micros(0), ..packet(State::Up, 7) });
    let heard = bench.now;
    assert_eq!(bench.session.deadline(), Some(heard + 30 * MS), "only the detection time is left");
    bench.receive(Packet { required_min_rx: Micros(0), poll: true, ..packet(State::Up, 7) });
    assert!(bench.sent()[0].is_final);
}

/// RFC 5880 §6.8.7: a Poll is answered at once, whatever the timer, without Poll, and the timer goes on.
#[test]
fn a_poll_is_answered() {
    let mut bench = Bench::new().up();
    let deadline = bench.session.deadline();
    bench.receive(Packet { poll: true, ..packet(State::Up, 7) });
    let sent = bench.sent();
    assert_eq!((sent.len(), sent[0].is_final, sent[0].poll), (1, true, false));
    assert_eq!(bench.session.deadline(), deadline);
    // Also while the session is down.
    let mut bench = Bench::new();
    bench.handle(Event::Timer);
    bench.receive(Packet { poll: true, ..packet(State::Up, 7) });
    assert_eq!((bench.sent().len(), bench.sent()[0].is_final), (1, true));
}

/// RFC 5880 §6.8.6, the last step of the table: a side in demand mode wants no periodic packets once both are up.
#[test]
fn demand_mode_of_the_other_side_is_respected() {
    let mut bench = Bench::new().up();
    bench.receive(Packet { demand: true, ..packet(State::Up, 7) });
    assert_eq!(bench.session.deadline(), Some(bench.now + 30 * MS));
    // A Poll sequence of ours goes on all the same: RFC 5880 §6.5.
    bench.handle(Event::Configure(wanted(20, 10, 3)));
    assert!(bench.sent()[0].poll);
    assert!(bench.session.deadline().unwrap() < bench.now + 30 * MS);
}

/// RFC 5880 §6.8.3 and §6.5: changed intervals are polled for until the Final bit is seen.
#[test]
fn up_begins_a_poll_sequence() {
    let mut bench = Bench::new();
    bench.handle(Event::Timer);
    bench.hear(State::Down);
    bench.hear(State::Up);
    assert_eq!(bench.session.state(), State::Up);
    assert_eq!(bench.changed(), Some(Changed { up: true, diagnostic: Diagnostic::None, is_failure: false }));
    let said = bench.sent()[0];
    assert_eq!((said.poll, said.desired_min_tx), (true, Micros(10_000)));
    bench.pass();
    assert!(bench.sent()[0].poll, "until it is answered");
    bench.receive(Packet { is_final: true, ..packet(State::Up, 7) });
    bench.pass();
    assert!(!bench.sent()[0].poll);
    bench.receive(Packet { is_final: true, ..packet(State::Up, 7) });
    assert_eq!(bench.session.state(), State::Up, "a Final that nobody asked for says nothing");
}

/// RFC 5880 §6.8.3: a longer transmit interval holds only after the Poll sequence.
#[test]
fn a_longer_interval_waits_for_the_final_bit() {
    let mut bench = Bench::new().up();
    bench.handle(Event::Configure(wanted(50, 10, 3)));
    assert_eq!((bench.sent()[0].poll, bench.sent()[0].desired_min_tx), (true, Micros(50_000)));
    assert_eq!(bench.session.interval(), 10 * MS);
    bench.receive(Packet { is_final: true, ..packet(State::Up, 7) });
    assert_eq!(bench.session.interval(), 50 * MS);
    // A shorter one holds at once.
    bench.handle(Event::Configure(wanted(20, 10, 3)));
    assert_eq!(bench.session.interval(), 20 * MS);
}

/// RFC 5880 §6.8.3: a shorter required interval counts for the detection time only after the Poll sequence.
#[test]
fn a_shorter_detection_time_waits_for_the_final_bit() {
    let mut bench = Bench::with(wanted(10, 100, 3)).up_slowly();
    bench.hear(State::Up);
    assert_eq!(bench.session.detection_time(), Some(300 * MS));
    bench.handle(Event::Configure(wanted(10, 20, 3)));
    assert_eq!(bench.sent()[0].required_min_rx, Micros(20_000));
    assert_eq!(bench.session.detection_time(), Some(300 * MS));
    bench.receive(Packet { is_final: true, ..packet(State::Up, 7) });
    assert_eq!(bench.session.detection_time(), Some(60 * MS));
    // A longer one holds at once.
    bench.handle(Event::Configure(wanted(10, 200, 3)));
    assert_eq!(bench.session.detection_time(), Some(600 * MS));
}

/// RFC 5880 §6.5: one sequence at a time. What changes meanwhile is asked for by another one, and an answer to the former is
/// not taken for an answer to it.
#[test]
fn a_change_during_a_poll_sequence_gets_its_own() {
    let mut bench = Bench::new().up();
    bench.handle(Event::Configure(wanted(50, 10, 3)));
    bench.handle(Event::Configure(wanted(60, 10, 3)));
    bench.receive(Packet { is_final: true, ..packet(State::Up, 7) });
    assert_eq!(bench.session.interval(), 10 * MS, "the answer may be to the first");
    bench.pass();
    assert!(!bench.sent()[0].poll);
    bench.receive(Packet { is_final: true, ..packet(State::Up, 7) });
    assert_eq!(bench.session.interval(), 10 * MS, "a second answer to the first");
    bench.pass();
    assert!(bench.sent()[0].poll);
    bench.receive(Packet { is_final: true, ..packet(State::Up, 7) });
    assert_eq!(bench.session.interval(), 60 * MS);
}

/// Another multiplier is told, and needs no Poll: RFC 5880 §6.8.3 names the intervals only.
#[test]
fn another_multiplier_is_told_at_once() {
    let mut bench = Bench::new().up();
    bench.handle(Event::Configure(wanted(10, 10, 5)));
    assert_eq!((bench.sent()[0].detect_mult, bench.sent()[0].poll), (5, false));
    assert!(bench.handle(Event::Configure(wanted(10, 10, 5))).is_empty(), "nothing new");
}

/// RFC 5880 §6.8.16: who shows that it does not know is told again; who knows is not.
#[test]
fn admin_down_is_said_until_it_is_known() {
    let mut bench = Bench::new().up();
    bench.handle(Event::AdminDown);
    bench.hear(State::Up);
    assert_eq!(bench.sent().len(), 1);
    assert_eq!(bench.sent()[0].state, State::AdminDown);
    bench.hear(State::Down);
    assert!(bench.sent().is_empty());
    assert!(bench.session.deadline().unwrap() > bench.now + 700 * MS, "no detection time any more");
}

/// RFC 5880 §6.8.6: a neighbour that starts anew has another discriminator.
#[test]
fn a_neighbour_that_starts_anew_is_taken_up_again() {
    let mut bench = Bench::new().up();
    bench.receive(Packet { my_discriminator: 11, your_discriminator: 0, ..packet(State::Down, 7) });
    assert_eq!(bench.session.state(), State::Down);
    assert_eq!(bench.sent()[0].your_discriminator, 11);
    bench.receive(Packet { my_discriminator: 11, ..packet(State::Init, 7) });
    assert_eq!(bench.session.state(), State::Up);
}

#[test]
fn parameters_are_within_bounds() {
    let check = |min_tx, min_rx, multiplier, is_good: bool| {
        let wanted = BfdState { min_rx, min_tx, multiplier, multihop: false };
        assert_eq!(Parameters::of(&wanted).is_ok(), is_good, "{wanted:?}");
    };
    check(MS, MS, 1, true);
    check(LONGEST, LONGEST, 255, true);
    check(MS, MS, 0, false);
    check(Duration::ZERO, MS, 3, false);
    check(MS, Duration::from_micros(999), 3, false);
    check(LONGEST + MS, MS, 3, false);
}
