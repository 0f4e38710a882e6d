//! What a workload asks DHCP servers goes to control, where there is a relay; all else ends as it does without one.

use fastpath::burst::DropReason;
use fastpath::burst::DropReason::{DestinationMartian, EndpointUnknown, PuntRateLimited, SourceMartian, SourceSpoofed};
use std::time::Duration;
use tests::packet::{self, Packet};
use tests::plan::Plan;
use tests::router::{Fate, Router};

const NOBODY: &str = "0.0.0.0";
const EVERYBODY: &str = "255.255.255.255";
const A: &str = "10.0.0.1";

fn relaying(change: impl FnOnce(&mut Plan)) -> Router {
    Router::small(|plan| {
        plan.relays_dhcp = true;
        change(plan);
    })
}

fn question(source: &str) -> Packet {
    Packet::new(source, EVERYBODY).udp(68, 67).filled(300)
}

/// To everybody on the link, as clients send it.
fn broadcast(router: &Router, from: &str, packet: &Packet) -> Vec<u8> {
    let mut frame = router.frame(from, packet);
    frame[..6].fill(0xff);
    frame
}

#[track_caller]
fn punted(router: &mut Router, from: &str, frame: &[u8]) {
    assert_eq!(router.fate_of_frame(from, frame), Fate::Punted(frame.to_vec()));
}

#[test]
fn a_question_reaches_control_as_it_was_sent() {
    let mut router = relaying(|_| {});
    for source in [NOBODY, A] {
        let frame = broadcast(&router, "a", &question(source));
        punted(&mut router, "a", &frame);
        let to_us = router.frame("a", &question(source));
        punted(&mut router, "a", &to_us);
    }
    let frame = broadcast(&router, "a", &question(NOBODY));
    let mut padded = frame.clone();
    padded.extend([0; 7]);
    assert_eq!(router.fate_of_frame("a", &padded), Fate::Punted(frame));
}

/// Who is being attached has neither an endpoint nor an address.
#[test]
fn a_question_is_heard_before_there_is_an_endpoint_and_nothing_else_is() {
    let mut router = relaying(|plan| plan.at_mut("a").has_endpoint = false);
    let frame = broadcast(&router, "a", &question(NOBODY));
    punted(&mut router, "a", &frame);
    router.fate("a", &question(A)).dropped(EndpointUnknown);
    router.fate("a", &Packet::new(A, "10.0.0.2").udp(68, 67)).dropped(EndpointUnknown);
}

/// The same frames with a relay and without one: only the question itself fares better.
#[test]
fn nothing_else_is_let_in() {
    let cases: [(&str, &str, Packet, DropReason); 9] = [
        ("another's address", "a", question("10.0.0.2"), SourceSpoofed),
        ("by an uplink", "up", question(NOBODY), SourceMartian),
        ("by the host", "host", question(NOBODY), SourceMartian),
        ("from a server's port", "a", Packet::new(NOBODY, EVERYBODY).udp(67, 68), SourceMartian),
        ("to another port", "a", Packet::new(NOBODY, EVERYBODY).udp(68, 68), SourceMartian),
        ("from another port", "a", Packet::new(A, EVERYBODY).udp(1068, 67), DestinationMartian),
        ("to a server", "a", Packet::new(NOBODY, "192.0.2.1").udp(68, 67), SourceMartian),
        ("to a group", "a", Packet::new(A, "224.0.0.251").udp(68, 67), DestinationMartian),
        ("by TCP", "a", Packet::new(A, EVERYBODY).tcp(68, 67, packet::SYN), DestinationMartian),
    ];
    for relays in [true, false] {
        let mut router = Router::small(|plan| plan.relays_dhcp = relays);
        for (what, from, packet, reason) in &cases {
            assert_eq!(router.fate(from, packet), Fate::Dropped(*reason), "{what}, relay {relays}");
            let frame = broadcast(&router, from, packet);
            // A question is heard, and then it is seen who asks.
            let reason = if relays && *reason == SourceSpoofed { SourceSpoofed } else { DestinationMartian };
            assert_eq!(router.fate_of_frame(from, &frame), Fate::Dropped(reason), "{what}, relay {relays}");
        }
    }
    let mut router = relaying(|_| {});
    let fragment = router.wrap("a", &question(NOBODY).fragment(0, 64));
    assert_eq!(router.fate_of_frame("a", &fragment), Fate::Dropped(SourceMartian));
    let mut damaged = broadcast(&router, "a", &question(NOBODY));
    damaged[24] ^= 1;
    assert_eq!(router.fate_of_frame("a", &damaged), Fate::Dropped(DestinationMartian));
}

#[test]
fn without_a_relay_a_question_ends_as_it_always_has() {
    let mut router = Router::small(|_| {});
    let frame = broadcast(&router, "a", &question(NOBODY));
    assert_eq!(router.fate_of_frame("a", &frame), Fate::Dropped(DestinationMartian));
    router.fate("a", &question(NOBODY)).dropped(SourceMartian);
    router.fate("a", &question(A)).dropped(DestinationMartian);
}

/// Ten at once and ten a second, of one interface: another's are not touched, nor are answers.
#[test]
fn who_asks_without_end_is_heard_ten_times_a_second() {
    let mut router = relaying(|_| {});
    let frame = broadcast(&router, "a", &question(NOBODY));
    let asked = |router: &mut Router, times: u32| {
        let heard = (0..times).filter(|_| router.fate_of_frame("a", &frame) != Fate::Dropped(PuntRateLimited));
        heard.count()
    };
    assert_eq!(asked(&mut router, 50), 10);
    let other = broadcast(&router, "b", &question(NOBODY));
    punted(&mut router, "b", &other);
    router.fate("a", &Packet::new(A, "169.254.1.1").echo_request(1, 1)).answered();
    router.advance(Duration::from_millis(500));
    assert!((4..=6).contains(&asked(&mut router, 50)));
}
