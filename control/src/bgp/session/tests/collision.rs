//! Two connections. RFC 4271 §6.8, RFC 6286 §2.3, RFC 4724 §5.

use super::*;

/// Both connections are there and have sent OPENs: `0` is ours, `1` the peer's.
fn both(change: impl FnOnce(&mut PeerState)) -> Rig {
    let mut rig = Rig::new(change);
    rig.event(Event::Start);
    rig.check_timer(1.5..=2.0, &["connect 0"]);
    assert_eq!(rig.connected(0), ["send 0 OPEN"]);
    assert_eq!(rig.accepted(1), ["send 1 OPEN"]);
    rig
}

fn open(router_id: [u8; 4], as_number: u32) -> Message {
    Message::Open(Open { router_id: router_id.into(), as_number, ..plain_open() })
}

#[test]
fn the_connection_of_the_higher_identifier_stays() {
    // We are 10.0.0.1. Whichever OPEN is first, the same connection is left: `stays`.
    let check = |router_id: [u8; 4], remote_as: u32, stays: u64| {
        for first in [0, 1] {
            let mut rig = both(|state| state.transport.remote_as = remote_as);
            let goes = 1 - stays;
            let opens = [open(router_id, remote_as)];
            let mut actions = rig.receive(first, &opens);
            actions.extend(rig.receive(1 - first, &opens));
            actions.extend(rig.receive(stays, &[Message::Keepalive]));
            let end = [format!("send {goes} N(6/7)"), format!("close {goes}")];
            let (confirm, up) = (format!("send {stays} KEEPALIVE"), format!("up {stays}"));
            let expected = match first == stays {
                // The other one goes before its OPEN is here.
                true => [&end[..], &[confirm, up]].concat(),
                // It has our KEEPALIVE already: it goes when the better one is up.
                false => [&[format!("send {goes} KEEPALIVE"), confirm], &end[..], &[up]].concat(),
            };
            assert_eq!(actions, expected, "{router_id:?} {first}");
            assert_eq!(rig.session.state(), State::Established);
            // Nothing went wrong.
            assert_eq!(rig.session.status().last_sent, None);
        }
    };
    check([10, 0, 0, 2], OUR_AS, 1);
    check([10, 0, 0, 0], OUR_AS, 0);
    // Unsigned, and not as text.
    check([200, 0, 0, 0], OUR_AS, 1);
    check([9, 255, 255, 255], OUR_AS, 0);
    check([10, 0, 0, 2], 64513, 1);
    // RFC 6286 §2.3: equal identifiers; the higher AS number.
    check([10, 0, 0, 1], 64513, 1);
    check([10, 0, 0, 1], 64511, 0);
}

#[test]
fn a_connection_in_openconfirm_gives_way_or_not() {
    // Ours is in OpenConfirm when the peer connects; the peer is 10.0.0.2, so that its connection wins.
    let mut rig = Rig::new(|_| {});
    rig.event(Event::Start);
    rig.after(seconds(2));
    rig.connected(0);
    rig.receive(0, &[open([10, 0, 0, 2], OUR_AS)]);
    rig.accepted(1);
    assert_eq!(rig.receive(1, &[open([10, 0, 0, 2], OUR_AS)]), ["send 1 KEEPALIVE"]);
    assert_eq!(rig.receive(1, &[Message::Keepalive]), ["send 0 N(6/7)", "close 0", "up 1"]);
    // It is 10.0.0.0: ours does.
    let mut rig = Rig::new(|_| {});
    rig.event(Event::Start);
    rig.after(seconds(2));
    rig.connected(0);
    rig.receive(0, &[open([10, 0, 0, 0], OUR_AS)]);
    rig.accepted(1);
    assert_eq!(rig.receive(1, &[open([10, 0, 0, 0], OUR_AS)]), ["send 1 N(6/7)", "close 1"]);
    assert_eq!(rig.receive(0, &[Message::Keepalive]), ["up 0"]);
}

#[test]
fn a_connection_that_is_ready_waits_for_a_better_one_for_a_while() {
    // The peer's connection would win, but its OPEN is not here.
    let ready = || {
        let mut rig = both(|_| {});
        assert_eq!(rig.receive(0, &[open([10, 0, 0, 2], OUR_AS), Message::Keepalive]), ["send 0 KEEPALIVE"]);
        assert_eq!(rig.session.state(), State::OpenConfirm);
        rig
    };
    // It comes.
    let mut rig = ready();
    let actions = rig.receive(1, &[open([10, 0, 0, 2], OUR_AS), Message::Keepalive]);
    assert_eq!(actions, ["send 1 KEEPALIVE", "send 0 N(6/7)", "close 0", "up 1"]);
    // Its OPEN does, and then the peer gives it up.
    let mut rig = ready();
    let given_up = Message::Notification(Notification::new(6, 7));
    let actions = rig.receive(1, &[open([10, 0, 0, 2], OUR_AS), given_up]);
    assert_eq!(actions, ["send 1 KEEPALIVE", "close 1", "up 0"]);
    // It does not: the one that is there is taken.
    let mut rig = ready();
    rig.check_timer(5.0..=5.0, &["send 1 N(6/7)", "close 1", "up 0"]);
    // It ends.
    let mut rig = ready();
    assert_eq!(rig.closed(1), ["up 0"]);
    // The peer goes on with the one that is there.
    let mut rig = ready();
    assert_eq!(rig.receive(0, &[Message::Keepalive]), [""; 0]);
    assert_eq!(rig.receive(0, &[end_of_rib(V4)]), ["send 1 N(6/7)", "close 1", "up 0", "end-of-rib 4"]);
    // The operator stops it: it was never up.
    let mut rig = ready();
    let stop = Event::Stop { notification: Notification::new(6, 2) };
    rig.check(stop, &["send 0 N(6/2)", "close 0", "send 1 N(6/2)", "close 1"]);
}

#[test]
fn what_is_established_stays() {
    let mut rig = Rig::up(|_| {}, &plain_open());
    rig.after(seconds(30));
    rig.receive(0, &[Message::Keepalive]);
    assert_eq!(rig.accepted(1), ["send 1 OPEN"]);
    // A KEEPALIVE finds out whether the old one is dead.
    let actions = rig.receive(1, &[Message::Open(plain_open())]);
    assert_eq!(actions, ["send 0 KEEPALIVE", "send 1 N(6/7)", "close 1"]);
    // Others that say nothing take each other's place; the session does not notice.
    assert_eq!(rig.accepted(3), ["send 3 OPEN"]);
    assert_eq!(rig.accepted(5), ["send 3 N(6/7)", "close 3", "send 5 OPEN"]);
    assert_eq!(rig.accepted(7), ["send 5 N(6/7)", "close 5", "send 7 OPEN"]);
    // Nor that one talks nonsense: no wait, as the session is up.
    rig.check(Event::Received { connection: ConnectionId(7), bytes: &[0; 30] }, &["send 7 N(1/1)", "close 7"]);
    assert_eq!(rig.session.state(), State::Established);
    assert_eq!(rig.session.status().flaps, 0);
}

#[test]
fn a_flood_of_connections_is_two_at_a_time() {
    let mut rig = both(|_| {});
    let mut open = vec![0, 1];
    for serial in 1..10_000 {
        let id = ConnectionId::accepted(serial).0;
        open.push(id);
        for action in rig.accepted(id) {
            if let Some(closed) = action.strip_prefix("close ").and_then(|id| id.parse::<u64>().ok()) {
                open.retain(|id| *id != closed);
            }
        }
        assert!(open.len() <= 2 && open.contains(&0));
    }
    // 10 s later none of them is left.
    rig.check_timer(0.0..=10.0, &["send 19999 N(4/0)", "close 19999"]);
}

#[test]
fn two_of_the_same_side_are_a_new_try() {
    let mut rig = Rig::new(|state| state.transport.passive = true);
    rig.event(Event::Start);
    rig.accepted(1);
    rig.receive(1, &[Message::Open(plain_open())]);
    rig.accepted(3);
    assert_eq!(rig.receive(3, &[Message::Open(plain_open())]), ["send 3 KEEPALIVE"]);
    assert_eq!(rig.receive(3, &[Message::Keepalive]), ["send 1 N(6/7)", "close 1", "up 3"]);
}

#[test]
fn while_the_peer_is_here_we_do_not_connect() {
    let mut rig = Rig::new(|_| {});
    rig.event(Event::Start);
    rig.accepted(1);
    rig.receive(1, &[Message::Open(plain_open())]);
    // Until it is lost.
    assert_eq!(rig.after(seconds(20)), [""; 0]);
    rig.closed(1);
    rig.check_timer(3.75..=5.0, &["connect 0"]);
    // A try that has no answer yet ends when the session is up.
    assert_eq!(rig.up_again(3, &plain_open()), ["send 3 KEEPALIVE", "close 0", "up 3"]);
}

#[test]
fn a_peer_that_can_restart_and_is_back_is_taken() {
    // RFC 4724 §4.2: the old connection is closed without a word, the routes stay.
    let mut rig = Rig::up(|_| {}, &their_open());
    rig.receive(0, &[end_of_rib(V4), end_of_rib(V6)]);
    rig.after(seconds(20));
    assert_eq!(rig.accepted(1), ["send 1 OPEN"]);
    // Only an OPEN shows that it is the peer.
    assert_eq!(rig.session.state(), State::Established);
    let mut restarted = their_open();
    if let Some(capability) = &mut restarted.capabilities.graceful_restart {
        capability.restarting = true;
    }
    let actions = rig.receive(1, &[Message::Open(restarted), Message::Keepalive, end_of_rib(V4)]);
    let expected =
        ["close 0", "down keep 4 keep 6", "send 1 KEEPALIVE", "up 1 stale 4 stale 6", "drop 4", "end-of-rib 4"];
    assert_eq!(actions, expected);
    let loss = rig.session.status().last_loss.map(|incident| incident.text);
    assert_eq!(loss.as_deref(), Some("the peer has restarted"));
    // One that is not the peer: the session does not notice.
    rig.after(seconds(20));
    rig.accepted(3);
    let other = Open { as_number: 64999, ..their_open() };
    assert_eq!(rig.receive(3, &[Message::Open(other)]), ["send 3 N(2/2)", "close 3"]);
    assert_eq!(rig.session.state(), State::Established);
}

#[test]
fn both_sides_connecting_is_no_restart() {
    // The second of two connections that were made at the same time is late: the first is up already. Nothing flaps, also when
    // the peer had just restarted and says so on both.
    for restarting in [false, true] {
        let mut theirs = their_open();
        if let Some(capability) = &mut theirs.capabilities.graceful_restart {
            capability.restarting = restarting;
        }
        let mut rig = Rig::up(|_| {}, &theirs);
        rig.accepted(1);
        let actions = rig.receive(1, &[Message::Open(theirs)]);
        assert_eq!(actions, ["send 0 KEEPALIVE", "send 1 N(6/7)", "close 1"]);
        assert_eq!(rig.session.status().flaps, 0);
    }
    // It has restarted since, however soon.
    let mut rig = Rig::up(|_| {}, &their_open());
    rig.accepted(1);
    let mut restarted = their_open();
    if let Some(capability) = &mut restarted.capabilities.graceful_restart {
        capability.restarting = true;
    }
    assert_eq!(rig.receive(1, &[Message::Open(restarted)]), ["close 0", "down keep 4 keep 6", "send 1 KEEPALIVE"]);
}
