//! States and timers. RFC 4271 §8, RFC 6608, RFC 9687, RFC 4486.

use super::*;
use crate::bgp::session::notification::{reset, shutdown};
use crate::bgp::speaker_state::MaxPrefixes;

#[test]
fn a_session_comes_up_and_says_how_far_it_is() {
    let mut rig = Rig::new(|_| {});
    assert_eq!((rig.session.state(), rig.session.deadline()), (State::Idle, None));
    rig.check(Event::Start, &[]);
    assert_eq!(rig.session.state(), State::Active);
    rig.check_timer(1.5..=2.0, &["connect 0"]);
    assert_eq!(rig.session.state(), State::Connect);
    assert_eq!(rig.connected(0), ["send 0 OPEN"]);
    assert_eq!(rig.session.state(), State::OpenSent);
    assert_eq!(rig.session.status().problem.as_deref(), Some("waits for the peer's OPEN"));
    assert_eq!(rig.receive(0, &[Message::Open(their_open())]), ["send 0 KEEPALIVE"]);
    assert_eq!(rig.session.state(), State::OpenConfirm);
    assert_eq!(rig.receive(0, &[Message::Keepalive]), ["up 0"]);
    assert_eq!(rig.session.state(), State::Established);
    let status = rig.session.status();
    assert_eq!((status.problem, status.established, status.flaps), (None, 1, 0));
    assert_eq!((status.hold_time, status.keepalive_time), (Some(seconds(90)), Some(seconds(30))));
    assert_eq!((status.received.opens, status.received.keepalives, status.sent.total()), (1, 1, 2));
    assert_eq!(status.since, Some(rig.now));
    assert_eq!((status.families, status.remote), (vec![V4, V6], Some(address(THEM))));
    assert_eq!(State::OpenConfirm.to_string(), "OpenConfirm");
}

#[test]
fn a_connection_that_fails_is_tried_again() {
    // RFC 4271 §8.2.2, ConnectRetryTimer; 5 s as Calico has it, less jitter (§10).
    let mut rig = Rig::new(|_| {});
    rig.event(Event::Start);
    rig.check_timer(1.5..=2.0, &["connect 0"]);
    let failed = Event::ConnectFailed { connection: ConnectionId(0), reason: "connection refused".to_string() };
    rig.check(failed, &[]);
    assert_eq!(rig.session.state(), State::Active);
    assert_eq!(rig.session.status().problem.as_deref(), Some("connect: connection refused"));
    rig.check_timer(3.75..=5.0, &["connect 2"]);
    // Nobody answers: given up, and tried again at once.
    rig.check_timer(5.0..=5.0, &["close 2", "connect 4"]);
    assert_eq!(rig.session.status().problem.as_deref(), Some("connect: no answer"));
    // An answer that comes too late is for a connection that is closed.
    assert_eq!(rig.connected(2), [""; 0]);
}

#[test]
fn a_silent_password_or_distance_is_named() {
    let mut rig = Rig::new(|state| {
        state.transport.password = Some(Password::Known("secret".into()));
        state.transport.ttl_security = Some(1);
    });
    rig.event(Event::Start);
    rig.after(seconds(10));
    let problem = rig.session.status().problem.unwrap_or_default();
    assert!(problem.contains("TCP-MD5") && problem.contains("TTL security"), "{problem}");
    assert!(!problem.contains("secret"));
}

#[test]
fn a_passive_side_waits() {
    let mut rig = Rig::new(|state| state.transport.passive = true);
    rig.event(Event::Start);
    assert_eq!((rig.session.state(), rig.session.deadline()), (State::Active, None));
    assert_eq!(rig.session.status().problem.as_deref(), Some("waits for the peer to connect"));
    assert_eq!(rig.up_again(1, &their_open()), ["send 1 KEEPALIVE", "up 1"]);
    assert_eq!(rig.closed(1), ["down keep 4 keep 6"]);
    assert_eq!(rig.after(seconds(3600)), ["drop 4", "drop 6"]);
    assert_eq!(rig.up_again(3, &their_open()), ["send 3 KEEPALIVE", "up 3"]);
}

#[test]
fn a_missing_password_stops_this_session_only() {
    let mut rig = Rig::new(|state| state.transport.password = Some(Password::Missing("secret rack is missing".into())));
    rig.event(Event::Start);
    assert_eq!(rig.session.deadline(), None);
    assert_eq!(rig.accepted(1), ["close 1"]);
    assert_eq!(rig.session.status().problem.as_deref(), Some("waits: secret rack is missing"));
    let mut state = peer_state();
    state.transport.password = Some(Password::Known("x".into()));
    rig.check(Event::Update(Box::new(state)), &[]);
    rig.check_timer(1.5..=2.0, &["connect 0"]);
}

#[test]
fn hold_timer_and_keepalives() {
    let mut rig = Rig::up(|_| {}, &plain_open());
    // RFC 4271 §10: a third of 90 s, less a quarter at most.
    let start = rig.now;
    for _ in 0..2 {
        let before = rig.now;
        rig.now = rig.session.deadline().expect("a keepalive");
        assert!((22.5..=30.0).contains(&(rig.now - before).as_secs_f64()));
        rig.check(Event::Timer, &["send 0 KEEPALIVE"]);
    }
    // §6.5: nothing has come for 90 s.
    rig.check_timer(0.0..=90.0, &["send 0 N(4/0)", "close 0", "down"]);
    assert_eq!(rig.now - start, seconds(90));
    assert_eq!(rig.session.status().problem.as_deref(), Some("we sent Hold Timer Expired (4/0)"));
    // Nobody's mistake: no wait in Idle.
    assert_eq!(rig.session.state(), State::Active);
    // A KEEPALIVE and an UPDATE restart it.
    let mut rig = Rig::up(|_| {}, &plain_open());
    for message in [Message::Keepalive, end_of_rib(V4), Message::Keepalive] {
        rig.after(seconds(80));
        rig.receive(0, &[message]);
    }
    assert_eq!(rig.session.state(), State::Established);
}

#[test]
fn a_stall_of_ours_is_none_of_the_peer() {
    let mut rig = Rig::up(|_| {}, &plain_open());
    rig.now += seconds(1000);
    rig.check(Event::Timer, &["send 0 KEEPALIVE"]);
    // What has come meanwhile is read.
    rig.receive(0, &[Message::Keepalive]);
    assert_eq!(rig.after(seconds(80)).iter().filter(|text| text.contains("N(")).count(), 0);
    // Nothing has: a second more, and once only.
    rig.now += seconds(1000);
    rig.check(Event::Timer, &["send 0 KEEPALIVE"]);
    rig.check_timer(1.0..=1.0, &["send 0 N(4/0)", "close 0", "down"]);
    let mut rig = Rig::up(|_| {}, &plain_open());
    rig.now += seconds(1000);
    rig.check(Event::Timer, &["send 0 KEEPALIVE"]);
    rig.now += seconds(1000);
    rig.check(Event::Timer, &["send 0 N(4/0)", "close 0", "down"]);
}

#[test]
fn updates_that_are_sent_are_keepalives() {
    let mut rig = Rig::up(|_| {}, &plain_open());
    for _ in 0..40 {
        assert_eq!(rig.after(seconds(20)), [""; 0]);
        rig.session.sent_updates(3, rig.now);
        rig.receive(0, &[Message::Keepalive]);
    }
    assert_eq!((rig.session.status().sent.updates, rig.session.status().sent.keepalives), (120, 1));
}

#[test]
fn the_hold_time_is_the_smaller_one_and_zero_is_none() {
    let check = |ours: u64, theirs: u64, configured: Option<u64>, expected: (u64, u64)| {
        let mut open = plain_open();
        open.hold_time = seconds(theirs);
        let rig = Rig::up(
            |state| {
                state.transport.hold_time = seconds(ours);
                state.transport.keepalive_time = configured.map(seconds);
            },
            &open,
        );
        let status = rig.session.status();
        let found = (status.hold_time.map(|time| time.as_secs()), status.keepalive_time.map(|time| time.as_secs()));
        assert_eq!(found, (Some(expected.0), Some(expected.1)));
        rig
    };
    check(240, 90, None, (90, 30));
    check(90, 240, None, (90, 30));
    check(90, 3, None, (3, 1));
    check(240, 180, Some(20), (180, 20));
    // More than a third would let the session die.
    check(240, 9, Some(80), (9, 3));
    // RFC 4271 §4.2: zero on either side; then nothing ever times out, a blocked socket included.
    let mut rig = check(0, 90, None, (0, 0));
    rig.event(Event::OutputBlocked { connection: ConnectionId(0) });
    assert_eq!(rig.session.deadline(), None);
    check(90, 0, Some(10), (0, 0));
    // What cannot be offered is not (§4.2).
    check(2, 90, None, (3, 1));
}

#[test]
fn an_open_is_waited_for_for_a_while_only() {
    // RFC 4271 §8.2.2: 4 minutes on a connection that we made.
    let mut rig = Rig::new(|_| {});
    rig.event(Event::Start);
    rig.check_timer(1.5..=2.0, &["connect 0"]);
    rig.connected(0);
    rig.check_timer(240.0..=240.0, &["send 0 N(4/0)", "close 0"]);
    // A peer that connects and says nothing is gone after 10 s.
    let mut rig = Rig::new(|state| state.transport.passive = true);
    rig.event(Event::Start);
    rig.accepted(1);
    rig.check_timer(10.0..=10.0, &["send 1 N(4/0)", "close 1"]);
    // And the KEEPALIVE: the hold time, or 4 minutes when there is none.
    for (hold, wait) in [(30, 30.0), (0, 240.0)] {
        let mut rig = Rig::new(|state| state.transport.passive = true);
        rig.event(Event::Start);
        rig.accepted(1);
        let mut open = their_open();
        open.hold_time = seconds(hold);
        rig.receive(1, &[Message::Open(open)]);
        rig.check_timer(wait..=wait, &["send 1 N(4/0)", "close 1"]);
    }
}

#[test]
fn messages_out_of_place_end_the_connection() {
    // RFC 6608: the subcode is the state's, the data the type of the message.
    let refresh = Message::Refresh(Refresh { family: Some(V4), subtype: RefreshSubtype::Request });
    let check = |phase: usize, message: &Message, expected: &str, kind: u8| {
        let mut rig = Rig::new(|state| state.transport.passive = true);
        rig.event(Event::Start);
        rig.accepted(1);
        let before = [Message::Open(plain_open()), Message::Keepalive];
        rig.receive(1, &before[..phase]);
        let mut out = Vec::new();
        let bytes = bytes_of(message);
        rig.session.handle(Event::Received { connection: ConnectionId(1), bytes: &bytes }, rig.now, &mut out);
        let mut texts: Vec<String> = out.iter().map(text).collect();
        texts.retain(|text| text != "down");
        assert_eq!(texts, [format!("send 1 {expected}"), "close 1".to_string()]);
        let Some(Action::Send { bytes, .. }) = out.first() else { panic!("nothing sent") };
        assert_eq!(bytes.last(), Some(&kind), "{message:?}");
        // Row 15 of RFC 4271's table: in Idle for a while, nobody is let in.
        assert_eq!(rig.session.state(), State::Idle);
        assert_eq!(rig.accepted(3), ["close 3"]);
    };
    check(0, &Message::Keepalive, "N(5/1)", 4);
    check(0, &end_of_rib(V4), "N(5/1)", 2);
    check(0, &refresh, "N(5/1)", 5);
    check(1, &Message::Open(plain_open()), "N(5/2)", 1);
    check(1, &end_of_rib(V4), "N(5/2)", 2);
    check(1, &refresh, "N(5/2)", 5);
    check(2, &Message::Open(plain_open()), "N(5/3)", 1);
}

#[test]
fn bytes_that_are_no_messages_end_the_connection() {
    let check = |bytes: &[u8], expected: &str| {
        let mut rig = Rig::new(|state| state.transport.passive = true);
        rig.event(Event::Start);
        rig.accepted(1);
        rig.check(Event::Received { connection: ConnectionId(1), bytes }, &[expected, "close 1"]);
    };
    let with = |length: u16, kind: u8| {
        let mut bytes = vec![0xff; 16];
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.push(kind);
        bytes
    };
    check(&[0; 19], "send 1 N(1/1)");
    check(&with(18, 4), "send 1 N(1/2)");
    check(&with(4097, 1), "send 1 N(1/2)");
    check(&with(65535, 2), "send 1 N(1/2)");
    check(&with(19, 9), "send 1 N(1/3)");
    check(b"GET / HTTP/1.1\r\n\r\n", "send 1 N(1/1)");
}

#[test]
fn messages_are_found_however_they_are_cut() {
    let messages =
        [Message::Open(plain_open()), Message::Keepalive, end_of_rib(V4), Message::Keepalive, end_of_rib(V6)];
    let bytes: Vec<u8> = messages.iter().flat_map(bytes_of).collect();
    let expected = ["send 1 OPEN", "send 1 KEEPALIVE", "up 1", "end-of-rib 4", "end-of-rib 6"];
    for piece in 1..=bytes.len() {
        let mut rig = Rig::new(|state| state.transport.passive = true);
        rig.event(Event::Start);
        let mut actions = rig.accepted(1);
        for bytes in bytes.chunks(piece) {
            actions.extend(rig.event(Event::Received { connection: ConnectionId(1), bytes }));
        }
        assert_eq!(actions, expected, "in pieces of {piece}");
    }
}

#[test]
fn a_flood_in_one_read_is_handled_in_order() {
    let mut rig = Rig::up(|_| {}, &plain_open());
    let request = Message::Refresh(Refresh { family: Some(V6), subtype: RefreshSubtype::Request });
    let mut flood = Vec::new();
    for _ in 0..50_000 {
        flood.extend([end_of_rib(V4), request.clone()]);
    }
    let actions = rig.receive(0, &flood);
    assert_eq!(actions.len(), 100_000);
    assert!(actions.chunks(2).all(|pair| pair == ["end-of-rib 4", "refresh"]));
    assert_eq!(rig.session.status().received.updates, 50_000);
}

#[test]
fn the_operator_stops_and_starts() {
    let mut rig = Rig::up(|_| {}, &plain_open());
    rig.check(Event::Stop { notification: shutdown("new cable") }, &["send 0 N(6/2)", "close 0", "down"]);
    assert_eq!((rig.session.state(), rig.session.deadline()), (State::Idle, None));
    let problem = "stopped: Cease/Administrative Shutdown (6/2): \"new cable\"";
    assert_eq!(rig.session.status().problem.as_deref(), Some(problem));
    // A neighbour that is disabled is not let in.
    assert_eq!(rig.accepted(1), ["close 1"]);
    assert_eq!(rig.session.status().refused, 1);
    rig.check(Event::Start, &[]);
    rig.check_timer(1.5..=2.0, &["connect 2"]);
    // A reset: at once again.
    rig.connected(2);
    rig.check(Event::ResetBy(reset("")), &["send 2 N(6/4)", "close 2"]);
    rig.check_timer(1.5..=2.0, &["connect 4"]);
}

#[test]
fn a_change_of_terms_interrupts_nothing() {
    let mut rig = Rig::up(|_| {}, &plain_open());
    let mut state = peer_state();
    state.terms.allow_own_as = 3;
    rig.check(Event::Update(Box::new(state.clone())), &[]);
    assert_eq!((rig.session.state(), rig.session.peer().terms.allow_own_as), (State::Established, 3));
    state.transport.hold_time = seconds(30);
    rig.check(Event::Update(Box::new(state)), &["send 0 N(6/6)", "close 0", "down"]);
    rig.check_timer(1.5..=2.0, &["connect 2"]);
}

#[test]
fn errors_that_repeat_wait_longer() {
    // RFC 4271 §8.1.1, DampPeerOscillations; 5 to 30 s as Calico has it.
    let mut rig = Rig::new(|_| {});
    rig.event(Event::Start);
    let mut connection = 0;
    let (_, actions) = rig.until_something();
    assert_eq!(actions, ["connect 0"]);
    for wait in [5.0, 10.0, 20.0, 30.0, 30.0] {
        rig.connected(connection);
        rig.receive(connection, &[Message::Keepalive]);
        assert_eq!(rig.session.state(), State::Idle);
        connection += 2;
        rig.check_timer(wait * 0.75..=wait, &[&format!("connect {connection}")]);
    }
    // What the peer says is an error is one as well.
    rig.connected(connection);
    assert_eq!(
        rig.receive(connection, &[Message::Notification(Notification::new(2, 2))]),
        [format!("close {connection}")]
    );
    assert_eq!(rig.session.state(), State::Idle);
    let problem = "waits after an error: the peer sent OPEN Message Error/Bad Peer AS (2/2)";
    assert_eq!(rig.session.status().problem.as_deref(), Some(problem));
    // By hand it goes faster, and the next error is the first.
    rig.event(Event::Start);
    let (time, _) = rig.until_something();
    assert!(time <= seconds(2));
}

#[test]
fn a_peer_that_ceases_may_come_back_by_itself() {
    let mut rig = Rig::up(|_| {}, &plain_open());
    assert_eq!(rig.receive(0, &[Message::Notification(shutdown("bye"))]), ["close 0", "down"]);
    let received = rig.session.status().last_received.map(|incident| incident.text);
    let text = "the peer sent Cease/Administrative Shutdown (6/2): \"bye\"";
    assert_eq!(received.as_deref(), Some(text));
    assert_eq!(rig.session.state(), State::Active);
    assert_eq!(rig.up_again(1, &plain_open()), ["send 1 KEEPALIVE", "up 1"]);
}

#[test]
fn too_many_prefixes_end_the_session_for_a_while_or_for_good() {
    // RFC 4486 §4.
    let limit = |restart_after| MaxPrefixes { count: 1000, restart_after };
    let mut rig = Rig::up(|state| state.terms.max_prefixes = limit(Some(seconds(600))), &plain_open());
    let mut out = Vec::new();
    rig.session.handle(Event::MaxPrefixes { family: V4 }, rig.now, &mut out);
    let Some(Action::Send { bytes, .. }) = out.first() else { panic!("nothing sent") };
    let expected = Message::Notification(Notification::with(6, 1, [0, 1, 1, 0, 0, 3, 232]));
    assert_eq!(messages(bytes), [expected]);
    assert_eq!(rig.accepted(1), ["close 1"]);
    rig.check_timer(600.0..=600.0, &["connect 2"]);

    let mut rig = Rig::up(|state| state.terms.max_prefixes = limit(None), &plain_open());
    rig.check(Event::MaxPrefixes { family: V4 }, &["send 0 N(6/1)", "close 0", "down"]);
    assert_eq!((rig.session.state(), rig.session.deadline()), (State::Idle, None));
    assert!(rig.session.status().problem.unwrap_or_default().starts_with("waits to be enabled by hand"));
    // Said once more, for prefixes that were on their way.
    rig.check(Event::MaxPrefixes { family: V6 }, &[]);
    rig.event(Event::Start);
    rig.check_timer(1.5..=2.0, &["connect 2"]);
}

#[test]
fn a_peer_that_does_not_read_is_left() {
    // RFC 9687: 8 minutes, or twice the hold time.
    for (hold, wait) in [(90, 480), (300, 600)] {
        let mut open = plain_open();
        open.hold_time = seconds(hold);
        let mut rig = Rig::up(|state| state.transport.hold_time = seconds(hold), &open);
        let blocked = || Event::OutputBlocked { connection: ConnectionId(0) };
        let keep_alive = |rig: &mut Rig, time: u64| -> Vec<String> {
            let mut actions = Vec::new();
            for _ in 0..time / 10 {
                actions.extend(rig.after(seconds(10)));
                rig.receive(0, &[Message::Keepalive]);
            }
            actions.into_iter().filter(|text| !text.ends_with("KEEPALIVE")).collect()
        };
        rig.event(blocked());
        assert_eq!(keep_alive(&mut rig, wait - 10), [""; 0]);
        // Some bytes are taken: anew.
        rig.event(Event::OutputProgress { connection: ConnectionId(0) });
        rig.event(blocked());
        // Said again in between, it is no later.
        assert_eq!(keep_alive(&mut rig, wait - 10), [""; 0]);
        rig.event(blocked());
        assert_eq!(keep_alive(&mut rig, 10), ["send 0 N(8/0)", "close 0", "down"]);
    }
}

#[test]
fn bfd_ends_what_is_up_and_only_that() {
    // RFC 9384.
    let mut rig = Rig::up(|_| {}, &plain_open());
    rig.check(Event::Bfd(BfdFinding::Failed), &["send 0 N(6/10)", "close 0", "down"]);
    rig.accepted(1);
    rig.check(Event::Bfd(BfdFinding::Failed), &[]);
    assert_eq!(rig.session.state(), State::OpenSent);
    rig.check(Event::Bfd(BfdFinding::Up), &[]);
    assert_eq!(rig.session.status().is_bfd_up, Some(true));
    // Not watched any more, which is no failure: RFC 5882 §4.2.
    let mut rig = Rig::up(|_| {}, &plain_open());
    rig.check(Event::Bfd(BfdFinding::Up), &[]);
    rig.check(Event::Bfd(BfdFinding::Down), &[]);
    assert_eq!((rig.session.state(), rig.session.status().is_bfd_up), (State::Established, Some(false)));
}

#[test]
fn routes_are_asked_for_again() {
    // RFC 2918, RFC 7313 §4.
    let refresh = |subtype| Message::Refresh(Refresh { family: Some(V4), subtype });
    let mut rig = Rig::up(|_| {}, &their_open());
    rig.check(Event::RequestRefresh(V4), &["send 0 Request"]);
    rig.check(Event::RefreshBegins(V6), &["send 0 Begin"]);
    rig.check(Event::RefreshEnds(V6), &["send 0 End"]);
    assert_eq!(rig.receive(0, &[refresh(RefreshSubtype::Request)]), ["refresh"]);
    // Before the end of RIB a beginning is ignored, and so is an end without one.
    assert_eq!(rig.receive(0, &[refresh(RefreshSubtype::Begin), refresh(RefreshSubtype::End)]), [""; 0]);
    rig.receive(0, &[end_of_rib(V4)]);
    assert_eq!(rig.receive(0, &[refresh(RefreshSubtype::End)]), [""; 0]);
    let both = [refresh(RefreshSubtype::Begin), refresh(RefreshSubtype::End), refresh(RefreshSubtype::End)];
    assert_eq!(rig.receive(0, &both), ["mark 4", "drop 4"]);
    // A family that is not spoken.
    let unknown = Message::Refresh(Refresh { family: None, subtype: RefreshSubtype::Request });
    assert_eq!(rig.receive(0, &[unknown]), [""; 0]);
    // A peer that cannot is not asked. Of one that has not said that it knows beginnings, everything is a request.
    let mut open = plain_open();
    (open.capabilities.route_refresh, open.capabilities.enhanced_refresh) = (false, false);
    let mut rig = Rig::up(|_| {}, &open);
    rig.check(Event::RequestRefresh(V4), &[]);
    rig.check(Event::RefreshBegins(V4), &[]);
    assert_eq!(rig.receive(0, &[refresh(RefreshSubtype::Begin)]), ["refresh"]);
    // An end of RIB is not waited for where none will come.
    let mut rig = Rig::up(|_| {}, &plain_open());
    assert_eq!(rig.receive(0, &[refresh(RefreshSubtype::Begin)]), ["mark 4"]);
}
