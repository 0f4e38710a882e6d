//! OPENs: what we say, what is refused, what is agreed on. RFC 4271 §6.2, RFC 5492, RFC 6286, RFC 7911, RFC 9234.

use super::*;
use crate::bgp::message::{AddPath, Role};

fn our_open(restarting: bool, change: impl FnOnce(&mut PeerState)) -> Open {
    let mut rig = Rig::with(1, restarting, change);
    rig.event(Event::Start);
    sent_open(&mut rig, 1)
}

/// The OPEN on the next connection that the peer makes.
pub(super) fn sent_open(rig: &mut Rig, connection: u64) -> Open {
    let mut out = Vec::new();
    let connection = ConnectionId(connection);
    rig.session.handle(Event::Accepted { connection, local: address(US), remote: address(THEM) }, rig.now, &mut out);
    let Some(Action::Send { bytes, .. }) = out.first() else { panic!("nothing sent") };
    let Some(Message::Open(open)) = messages(bytes).pop() else { panic!("no OPEN") };
    open
}

fn answer(change: impl FnOnce(&mut PeerState), theirs: &Open) -> Result<Box<Negotiated>, Notification> {
    let mut rig = Rig::new(change);
    rig.event(Event::Start);
    rig.accepted(1);
    let mut out = Vec::new();
    let bytes: Vec<u8> = [Message::Open(theirs.clone()), Message::Keepalive].iter().flat_map(bytes_of).collect();
    rig.session.handle(Event::Received { connection: ConnectionId(1), bytes: &bytes }, rig.now, &mut out);
    for action in out {
        match action {
            Action::Up(negotiated) => return Ok(negotiated),
            Action::Send { bytes, .. } => {
                if let Some(Message::Notification(notification)) = messages(&bytes).pop() {
                    return Err(notification);
                }
            }
            _ => {}
        }
    }
    panic!("neither up nor refused");
}

#[test]
fn our_open_says_what_is_configured() {
    let open = our_open(false, |_| {});
    assert_eq!((open.as_number, open.router_id, open.hold_time), (OUR_AS, US, seconds(90)));
    let can = &open.capabilities;
    assert_eq!(can.families, [V4, V6]);
    assert!(can.route_refresh && can.enhanced_refresh && can.four_octet_as && can.extended_message);
    assert!(can.extended_next_hop && can.long_lived.is_empty() && can.role.is_none());
    assert_eq!(can.add_path.len(), 2);
    let restart = can.graceful_restart.clone().expect("graceful restart");
    assert_eq!((restart.restarting, restart.notification, restart.restart_time), (false, true, seconds(120)));
    // A cold start: nothing was kept.
    assert_eq!(restart.families, [(V4, false), (V6, false)]);

    let open = our_open(false, |state| {
        let transport = &mut state.transport;
        (transport.local_as, transport.remote_as) = (4_200_000_000, 64513);
        (transport.families, transport.add_path, transport.hold_time) = (vec![V6], false, Duration::ZERO);
        (transport.restart.restart_time, transport.restart.long_lived_time) = (Duration::ZERO, seconds(3600));
        transport.role = Some(Role::Customer);
    });
    let can = &open.capabilities;
    assert_eq!((open.as_number, open.hold_time), (4_200_000_000, Duration::ZERO));
    assert_eq!((can.role, can.extended_next_hop), (Some(Role::Customer), false));
    // RFC 9494 §4.5: not without graceful restart.
    assert!(can.add_path.is_empty() && can.graceful_restart.is_none() && can.long_lived.is_empty());

    // What does not fit the field is what does (RFC 4724 §3, RFC 9494 §3).
    let open = our_open(false, |state| {
        state.transport.restart = Restart { restart_time: seconds(100_000), long_lived_time: seconds(100_000_000) };
    });
    assert_eq!(open.capabilities.graceful_restart.map(|restart| restart.restart_time), Some(seconds(4095)));
    assert_eq!(open.capabilities.long_lived.first().map(|offer| offer.stale_time), Some(seconds(0xff_ffff)));
    // RFC 9234 §4: a role is for other systems.
    let open = our_open(false, |state| state.transport.role = Some(Role::Peer));
    assert_eq!(open.capabilities.role, None);
}

#[test]
fn an_open_that_will_not_do_is_refused_with_the_reason() {
    let external = |state: &mut PeerState| state.transport.remote_as = 64513;
    let internal = |_: &mut PeerState| {};
    let check = |peer: &dyn Fn(&mut PeerState), change: &dyn Fn(&mut Open), expected: Option<(u8, u8)>| {
        let mut open = their_open();
        let mut state = peer_state();
        peer(&mut state);
        open.as_number = state.transport.remote_as;
        change(&mut open);
        let found = answer(|state| peer(state), &open).err();
        assert_eq!(found.map(|found| (found.code, found.subcode)), expected, "{open:?}");
    };
    check(&internal, &|_| {}, None);
    check(&internal, &|open| open.as_number = 64999, Some((2, 2)));
    check(&internal, &|open| open.as_number = 0, Some((2, 2)));
    check(&internal, &|open| open.router_id = Ipv4Addr::UNSPECIFIED, Some((2, 3)));
    // RFC 6286 §2.1: our own identifier is an error inside of a system only.
    check(&internal, &|open| open.router_id = US, Some((2, 3)));
    check(&external, &|open| open.router_id = US, None);
    // Any number: also those that are no address of a host.
    check(&external, &|open| open.router_id = Ipv4Addr::BROADCAST, None);
    check(&internal, &|open| open.hold_time = seconds(1), Some((2, 6)));
    check(&internal, &|open| open.hold_time = seconds(2), Some((2, 6)));
    check(&internal, &|open| open.hold_time = seconds(3), None);
    check(&internal, &|open| open.hold_time = Duration::ZERO, None);
    check(&internal, &|open| open.capabilities.families = vec![V6], None);
    // RFC 4760 §8: none is IPv4.
    check(&internal, &|open| open.capabilities.families = vec![], None);
    let only_v6 = |state: &mut PeerState| state.transport.families = vec![V6];
    check(&only_v6, &|open| open.capabilities.families = vec![], Some((2, 7)));
    check(&only_v6, &|open| open.capabilities.families = vec![V4], Some((2, 7)));
    // What we do not know is nothing to us (RFC 5492 §3).
    check(&internal, &|open| open.capabilities.others = vec![200, 201], None);
}

#[test]
fn the_refusal_says_what_is_missing_and_we_say_what_was_wrong() {
    let mut open = their_open();
    open.capabilities.families = vec![V4];
    let refused = answer(|state| state.transport.families = vec![V6], &open).expect_err("refused");
    assert_eq!(refused.data, [1, 4, 0, 2, 0, 1]);
    let mut rig = Rig::new(|_| {});
    rig.event(Event::Start);
    rig.accepted(1);
    let mut open = their_open();
    open.as_number = 64999;
    rig.receive(1, &[Message::Open(open)]);
    let problem = rig.session.status().problem.unwrap_or_default();
    assert!(problem.contains("Bad Peer AS"), "{problem}");
    let sent = rig.session.status().last_sent.map(|incident| incident.text).unwrap_or_default();
    assert!(sent.contains("its OPEN says AS 64999, identifier 10.0.0.2, hold time 240 s"), "{sent}");
}

#[test]
fn roles_have_to_fit() {
    // RFC 9234 §4.2, table 2.
    use Role::{Customer, Peer, Provider, RouteServer, RouteServerClient};
    let roles = [Provider, RouteServer, RouteServerClient, Customer, Peer];
    let fitting = [
        (Provider, Customer),
        (Customer, Provider),
        (RouteServer, RouteServerClient),
        (RouteServerClient, RouteServer),
        (Peer, Peer),
    ];
    let result = |ours: Option<Role>, theirs: Option<Role>| {
        let mut open = their_open();
        open.as_number = 64513;
        open.capabilities.role = theirs;
        let answer = answer(
            |state| {
                state.transport.remote_as = 64513;
                state.transport.role = ours;
            },
            &open,
        );
        answer.map(|up| up.role).map_err(|refused| (refused.code, refused.subcode))
    };
    for ours in roles {
        for theirs in roles {
            let expected = if fitting.contains(&(ours, theirs)) { Ok(Some(ours)) } else { Err((2, 11)) };
            assert_eq!(result(Some(ours), Some(theirs)), expected);
        }
        // Who says nothing is let in: strictness is not offered.
        assert_eq!(result(Some(ours), None), Ok(Some(ours)));
        assert_eq!(result(None, Some(ours)), Ok(None));
    }
}

#[test]
fn both_sides_together_make_what_is_agreed_on() {
    let up = answer(|_| {}, &their_open()).expect("up");
    assert_eq!((up.families.clone(), up.internal, up.hold_time), (vec![V4, V6], true, seconds(90)));
    assert!(up.route_refresh && up.enhanced_refresh && up.end_of_rib_expected && !up.graceful_notification);
    assert_eq!((up.graceful.clone(), up.long_lived, up.stale.clone()), (vec![V4, V6], false, vec![]));
    // RFC 7911 §4: one side has to send what the other takes.
    let mut open = their_open();
    open.capabilities.add_path =
        vec![AddPath { family: V4, send: true, receive: false }, AddPath { family: V6, send: false, receive: true }];
    let up = answer(|_| {}, &open).expect("up");
    let path_ids =
        |up: &Negotiated| [V4, V6].map(|family| (up.codec.sends_path_ids(family), up.codec.receives_path_ids(family)));
    assert_eq!(path_ids(&up), [(false, true), (true, false)]);
    let up = answer(|state| state.transport.add_path = false, &open).expect("up");
    assert_eq!(path_ids(&up), [(false, false); 2]);
    // A peer without anything.
    let bare = Open { capabilities: Capabilities::default(), ..their_open() };
    let up = answer(|_| {}, &bare).expect("up");
    assert_eq!(up.families, [V4]);
    assert!(!up.route_refresh && !up.enhanced_refresh && !up.end_of_rib_expected && up.graceful.is_empty());
    // Graceful restart of some families; and a peer that has restarted is not waited for (RFC 4724 §4.1).
    let mut open = their_open();
    open.capabilities.graceful_restart = Some(GracefulRestart {
        restarting: true,
        notification: true,
        restart_time: seconds(5),
        families: vec![(V6, true)],
    });
    let up = answer(|_| {}, &open).expect("up");
    assert_eq!((up.graceful.clone(), up.graceful_notification, up.end_of_rib_expected), (vec![V6], true, false));
    let up = answer(|state| state.transport.restart.restart_time = Duration::ZERO, &open).expect("up");
    assert_eq!((up.graceful.clone(), up.graceful_notification), (vec![], false));
}
