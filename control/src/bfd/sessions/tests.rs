//! Whose a packet is, and what becomes of the sessions when others are wanted.

use super::super::packet::Micros;
use super::super::session::tests::packet;
use super::*;

const MS: Duration = Duration::from_millis(1);
const PEER: &str = "192.0.2.2";
const LOCAL: &str = "192.0.2.1";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn key(text: &str) -> BfdKey {
    let (rest, local) = text.split_once(" from ").map_or((text, None), |(rest, local)| (rest, Some(ip(local))));
    let (peer, interface) = rest.split_once('%').map_or((rest, None), |(peer, name)| (peer, Some(name.to_string())));
    BfdKey { peer: ip(peer), local, interface }
}

fn wanted(interval: u64) -> BfdState {
    BfdState { min_rx: interval as u32 * MS, min_tx: interval as u32 * MS, multiplier: 3, multihop: false }
}

struct Bench {
    sessions: Sessions,
    now: Instant,
    out: Vec<Output>,
}

impl Bench {
    fn new(all: &[(&str, BfdState)]) -> Bench {
        let mut bench = Bench { sessions: Sessions::default(), now: Instant::now(), out: Vec::new() };
        bench.want(all);
        bench
    }

    fn want(&mut self, all: &[(&str, BfdState)]) {
        let all = all.iter().map(|(text, state)| (key(text), *state)).collect();
        self.out.clear();
        self.sessions.want(&all, self.now, &mut self.out);
    }

    fn discriminator(&self, text: &str) -> u32 {
        let status = self.sessions.status(self.now);
        status.iter().find(|status| status.key == key(text)).unwrap().discriminator
    }

    fn status(&self, text: &str) -> SessionStatus {
        self.sessions.status(self.now).into_iter().find(|status| status.key == key(text)).unwrap()
    }

    /// Single hop, from `PEER`, by interface 5.
    fn receive(&mut self, packet: Packet) {
        self.receive_as(packet, |_| {});
    }

    fn receive_as(&mut self, packet: Packet, change: impl FnOnce(&mut Arrival)) {
        let payload = packet.encode();
        let mut arrival =
            Arrival { from: ip(PEER), to: ip(LOCAL), interface: 5, ttl: 255, multihop: false, payload: &payload };
        change(&mut arrival);
        self.out.clear();
        self.sessions.receive(&arrival, self.now, &mut self.out);
    }

    fn bring_up(&mut self, text: &str) {
        let discriminator = self.discriminator(text);
        let from = key(text).peer;
        self.receive_as(packet(State::Down, 0), |arrival| arrival.from = from);
        self.receive_as(packet(State::Init, discriminator), |arrival| arrival.from = from);
        assert_eq!(self.status(text).state, State::Up);
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        self.out.clear();
        while let Some(at) = self.sessions.deadline().filter(|at| *at <= end) {
            self.now = at;
            self.sessions.expire(at, &mut self.out);
        }
        self.now = end;
    }

    fn sent(&self) -> Vec<Packet> {
        self.out
            .iter()
            .filter_map(|output| if let Output::Send { packet, .. } = output { Some(*packet) } else { None })
            .collect()
    }

    fn changes(&self) -> Vec<(bool, bool)> {
        let change = |output: &Output| {
            if let Output::Change(change) = output { Some((change.up, change.is_failure)) } else { None }
        };
        self.out.iter().filter_map(change).collect()
    }
}

/// RFC 5881 §3, RFC 5883 §3: which session a first packet is of. `interface` is what `eth0` has.
#[test]
fn a_first_packet_finds_its_session_by_addresses_and_interface() {
    let check = |all: &[&str], arrival: (&str, &str, u32), expected: Option<&str>| {
        let states: Vec<(&str, BfdState)> = all.iter().map(|text| (*text, wanted(10))).collect();
        let mut bench = Bench::new(&states);
        for text in all.iter().filter(|text| text.contains("%eth0")) {
            let discriminator = bench.discriminator(text);
            bench.sessions.interface_is(discriminator, Some(5));
        }
        bench.receive_as(packet(State::Down, 0), |to| {
            (to.from, to.to, to.interface) = (ip(arrival.0), ip(arrival.1), arrival.2)
        });
        let reached: Vec<String> = bench
            .sessions
            .status(bench.now)
            .iter()
            .filter(|status| status.counters.received > 0)
            .map(|status| status.key.to_string())
            .collect();
        assert_eq!(reached, expected.into_iter().map(str::to_string).collect::<Vec<_>>(), "{all:?} {arrival:?}");
        assert_eq!(bench.sessions.refused().get(&Refused::UnknownNeighbour), expected.is_none().then_some(&1));
    };
    check(&["192.0.2.2"], (PEER, LOCAL, 5), Some("192.0.2.2"));
    check(&["192.0.2.2"], ("192.0.2.3", LOCAL, 5), None);
    check(&[], (PEER, LOCAL, 5), None);
    check(&["192.0.2.2 from 192.0.2.1"], (PEER, LOCAL, 5), Some("192.0.2.2 from 192.0.2.1"));
    check(&["192.0.2.2 from 192.0.2.9"], (PEER, LOCAL, 5), None);
    check(&["192.0.2.2%eth0"], (PEER, LOCAL, 5), Some("192.0.2.2%eth0"));
    check(&["192.0.2.2%eth0"], (PEER, LOCAL, 6), None);
    // An interface that is not there has no number, and no packet comes by it.
    check(&["192.0.2.2%gone"], (PEER, LOCAL, 0), None);
    // The one that says most about itself.
    check(&["192.0.2.2", "192.0.2.2 from 192.0.2.1"], (PEER, LOCAL, 5), Some("192.0.2.2 from 192.0.2.1"));
    check(&["192.0.2.2", "192.0.2.2%eth0"], (PEER, LOCAL, 5), Some("192.0.2.2%eth0"));
    check(&["192.0.2.2", "192.0.2.2%eth0"], (PEER, LOCAL, 6), Some("192.0.2.2"));
    check(&["fe80::2%eth0", "fe80::2%eth1"], ("fe80::2", "fe80::1", 5), Some("fe80::2%eth0"));
}

/// RFC 5880 §6.8.6, RFC 5881 §5, RFC 5883 §5: what a packet with a discriminator has to fulfil.
#[test]
fn a_packet_that_is_not_what_it_should_be_is_dropped_with_a_reason() {
    let check = |is_multihop: bool, change: &dyn Fn(&mut Arrival), your: Option<u32>, expected: Option<Refused>| {
        let state = BfdState { multihop: is_multihop, ..wanted(10) };
        let mut bench = Bench::new(&[("192.0.2.2 from 192.0.2.1", state)]);
        let discriminator = bench.discriminator("192.0.2.2 from 192.0.2.1");
        let your = your.unwrap_or(discriminator);
        bench.receive_as(packet(State::Down, your), |arrival| {
            arrival.multihop = is_multihop;
            change(arrival);
        });
        let refused: Vec<Refused> = bench.sessions.refused().keys().copied().collect();
        assert_eq!(refused, expected.into_iter().collect::<Vec<_>>());
        let is_received = bench.status("192.0.2.2 from 192.0.2.1").counters.received == 1;
        assert_eq!(is_received, expected.is_none());
    };
    check(false, &|_| {}, None, None);
    check(false, &|arrival| arrival.ttl = 254, None, Some(Refused::Ttl));
    check(false, &|arrival| arrival.ttl = 254, Some(0), Some(Refused::Ttl));
    check(false, &|_| {}, Some(0), None);
    check(false, &|_| {}, Some(1), Some(Refused::UnknownDiscriminator));
    // One that knows the discriminator, from elsewhere.
    check(false, &|arrival| arrival.from = ip("192.0.2.3"), None, Some(Refused::WrongPath));
    check(false, &|arrival| arrival.to = ip("192.0.2.3"), None, Some(Refused::WrongPath));
    check(false, &|arrival| arrival.multihop = true, None, Some(Refused::WrongPath));
    check(true, &|arrival| arrival.multihop = false, None, Some(Refused::WrongPath));
    check(true, &|arrival| arrival.ttl = 62, None, None);
    check(true, &|arrival| arrival.ttl = 1, Some(0), None);
    check(false, &|arrival| arrival.payload = &[0x20; 23], None, Some(Refused::Short));
}

#[test]
fn what_is_wanted_as_before_is_not_touched() {
    let mut bench = Bench::new(&[(PEER, wanted(10)), ("192.0.2.3", wanted(10))]);
    bench.bring_up(PEER);
    let discriminator = bench.discriminator(PEER);
    bench.want(&[(PEER, wanted(10)), ("192.0.2.3", wanted(20)), ("192.0.2.4", wanted(10))]);
    assert_eq!((bench.discriminator(PEER), bench.status(PEER).state), (discriminator, State::Up));
    assert!(
        bench
            .out
            .iter()
            .all(|output| !matches!(output, Output::Send { discriminator: to, .. } if *to == discriminator))
    );
    // Other intervals: the same session, and a Poll.
    bench.want(&[(PEER, wanted(20)), ("192.0.2.3", wanted(20))]);
    assert_eq!((bench.discriminator(PEER), bench.status(PEER).state), (discriminator, State::Up));
    assert!(bench.sent().iter().any(|packet| packet.poll && packet.required_min_rx == Micros(20_000)));
    assert!(bench.changes().is_empty());
}

/// RFC 5880 §6.8.16.
#[test]
fn a_session_that_is_not_wanted_says_so_until_it_is_known() {
    let mut bench = Bench::new(&[(PEER, wanted(10))]);
    bench.bring_up(PEER);
    let discriminator = bench.discriminator(PEER);
    bench.want(&[]);
    assert_eq!(bench.sent().iter().map(|packet| packet.state).collect::<Vec<_>>(), [State::AdminDown]);
    assert!(bench.changes().is_empty() && bench.sessions.status(bench.now).is_empty());
    assert!(!bench.sessions.is_empty(), "it may not be known yet");
    bench.receive(packet(State::Up, discriminator));
    assert_eq!(bench.sent().len(), 1);
    bench.receive(packet(State::Down, discriminator));
    assert_eq!(bench.out, [Output::Gone { discriminator }]);
    assert!(bench.sessions.is_empty() && bench.sessions.deadline().is_none());
    assert!(bench.sessions.by_neighbour.is_empty());
    // Without an answer it ends with the other side's detection time.
    let mut bench = Bench::new(&[(PEER, wanted(10))]);
    bench.bring_up(PEER);
    bench.want(&[]);
    bench.pass(29 * MS);
    assert!(!bench.sessions.is_empty());
    bench.pass(MS);
    assert!(bench.sessions.is_empty());
    // Where nobody was ever heard, nobody has to know.
    let mut bench = Bench::new(&[(PEER, wanted(10))]);
    bench.want(&[]);
    assert!(bench.sessions.is_empty());
}

#[test]
fn a_session_that_is_wanted_again_begins_anew() {
    let mut bench = Bench::new(&[(PEER, wanted(10))]);
    bench.bring_up(PEER);
    let former = bench.discriminator(PEER);
    bench.want(&[]);
    bench.want(&[(PEER, wanted(10))]);
    assert_ne!(bench.discriminator(PEER), former);
    // A first packet is of the new one, and the former one still hears what is its own.
    bench.receive(packet(State::Down, 0));
    assert_eq!(bench.status(PEER).state, State::Init);
    bench.receive(packet(State::Down, former));
    assert!(bench.out.contains(&Output::Gone { discriminator: former }));
    assert_eq!(bench.status(PEER).state, State::Init);
}

/// RFC 5882 §4.2: who counted on the session learns that it is gone, and not that the path failed.
#[test]
fn another_kind_of_session_takes_the_place_of_the_former() {
    let mut bench = Bench::new(&[(PEER, wanted(10))]);
    bench.bring_up(PEER);
    bench.want(&[(PEER, BfdState { multihop: true, ..wanted(10) })]);
    assert_eq!(bench.changes(), [(false, false)]);
    assert_eq!(bench.status(PEER).state, State::Down);
    let mut bench = Bench::new(&[(PEER, wanted(10))]);
    bench.bring_up(PEER);
    bench.want(&[(PEER, BfdState { multiplier: 0, ..wanted(10) })]);
    assert_eq!(bench.changes(), [(false, false)]);
    assert!(bench.status(PEER).problem.unwrap().contains("multiplier"));
}

#[test]
fn what_cannot_be_is_refused_with_its_reason() {
    let check = |text: &str, state: BfdState, part: &str| {
        let bench = Bench::new(&[(text, state)]);
        assert!(bench.status(text).problem.unwrap().contains(part), "{text}");
        assert!(bench.out.is_empty());
    };
    check("fe80::2", wanted(10), "needs an interface");
    check("fe80::2%eth0", BfdState { multihop: true, ..wanted(10) }, "several hops");
    check("192.0.2.2 from 2001:db8::1", wanted(10), "another family");
    check("0.0.0.0", wanted(10), "no address of a neighbour");
    check("ff02::1%eth0", wanted(10), "no address of a neighbour");
    check(PEER, BfdState { multiplier: 0, ..wanted(10) }, "multiplier");
    check(PEER, wanted(0), "min_tx");
}

#[test]
fn there_are_so_many_sessions_and_no_more() {
    let all: Vec<String> = (0..SESSIONS_MAX + 1).map(|n| format!("10.0.{}.{}", n / 256, n % 256)).collect();
    let states: Vec<(&str, BfdState)> = all.iter().skip(1).map(|text| (text.as_str(), wanted(10))).collect();
    let mut bench = Bench::new(&states);
    assert_eq!(bench.sessions.by_key.len(), SESSIONS_MAX);
    let more: Vec<(&str, BfdState)> = states.iter().copied().chain([(PEER, wanted(10))]).collect();
    bench.want(&more);
    assert!(bench.status(PEER).problem.unwrap().contains("no more"));
    assert_eq!(bench.sessions.status(bench.now).len(), SESSIONS_MAX + 1);
}

#[test]
fn silence_is_told_once_and_counted() {
    let mut bench = Bench::new(&[(PEER, wanted(10))]);
    bench.bring_up(PEER);
    bench.pass(5000 * MS);
    assert_eq!(bench.changes(), [(false, true)]);
    let status = bench.status(PEER);
    assert_eq!((status.state, status.diagnostic), (State::Down, Diagnostic::DetectionTimeExpired));
    assert_eq!((status.counters.ups, status.counters.downs, status.counters.failures), (1, 1, 1));
    assert!(status.state_age > 4900 * MS);
}
