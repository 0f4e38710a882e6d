//! What stays when the peer is away, and what we say after our own restart. RFC 4724, RFC 8538, RFC 9494.

use super::opens::sent_open;
use super::*;
use crate::bgp::message::LongLived;
use crate::bgp::session::notification::{reset, shutdown};

/// The peer's OPEN with that of graceful restart.
fn graceful(change: impl FnOnce(&mut GracefulRestart)) -> Open {
    let mut open = their_open();
    if let Some(capability) = &mut open.capabilities.graceful_restart {
        change(capability);
    }
    open
}

fn with_notification() -> Open {
    graceful(|capability| capability.notification = true)
}

/// The peer keeps routes of last resort for an hour, and says whether it has forwarded by them.
fn long_lived(forwarding: bool) -> Open {
    let mut open = their_open();
    let offer = |family| LongLived { family, forwarding, stale_time: seconds(3600) };
    open.capabilities.long_lived = vec![offer(V4), offer(V6)];
    open
}

fn we_keep_long(state: &mut PeerState) {
    state.transport.restart.long_lived_time = seconds(86400);
}

#[test]
fn routes_stay_until_the_peer_has_told_them_again() {
    let mut rig = Rig::up(|_| {}, &their_open());
    assert_eq!(rig.closed(0), ["down keep 4 keep 6"]);
    let stale = rig.session.status().stale;
    let until = rig.now + seconds(60);
    assert_eq!(stale.len(), 2);
    assert!(stale.iter().all(|stale| stale.until == until && !stale.is_long_lived));
    rig.after(seconds(1));
    assert_eq!(rig.up_again(1, &their_open()), ["send 1 KEEPALIVE", "up 1 stale 4 stale 6"]);
    assert_eq!(rig.receive(1, &[end_of_rib(V6)]), ["drop 6", "end-of-rib 6"]);
    // Said twice, it means nothing more.
    assert_eq!(rig.receive(1, &[end_of_rib(V6)]), ["end-of-rib 6"]);
    // No end of RIB of the other family: not for ever, but for 6 minutes.
    let mut drops = Vec::new();
    for time in (10..400).step_by(10) {
        let actions = rig.after(seconds(10));
        drops.extend(actions.into_iter().filter(|text| !text.ends_with("KEEPALIVE")).map(|text| (time, text)));
        rig.receive(1, &[Message::Keepalive]);
    }
    assert_eq!(drops, [(360, "drop 4".to_string())]);
    assert_eq!(rig.session.state(), State::Established);
}

#[test]
fn the_restart_time_is_the_smaller_one() {
    let check = |ours: u64, theirs: u64, expected: u64| {
        let open = graceful(|capability| capability.restart_time = seconds(theirs));
        let passive = |state: &mut PeerState| {
            state.transport.passive = true;
            state.transport.restart.restart_time = seconds(ours);
        };
        let mut rig = Rig::new(passive);
        rig.event(Event::Start);
        rig.up_again(1, &open);
        rig.closed(1);
        // The peer comes and goes without getting anywhere: that changes nothing.
        rig.accepted(3);
        rig.closed(3);
        rig.check_timer(expected as f64..=expected as f64, &["drop 4", "drop 6"]);
    };
    check(120, 60, 60);
    check(30, 60, 30);
}

#[test]
fn without_graceful_restart_nothing_stays() {
    let check = |change: fn(&mut PeerState), theirs: Open, expected: &str| {
        let mut rig = Rig::up(change, &theirs);
        assert_eq!(rig.closed(0), [expected], "{:?}", theirs.capabilities.graceful_restart);
    };
    check(|_| {}, their_open(), "down keep 4 keep 6");
    check(|_| {}, plain_open(), "down");
    check(|state| state.transport.restart.restart_time = Duration::ZERO, their_open(), "down");
    // RFC 4724 §3: a capability without families is about the end of RIB only.
    check(|_| {}, graceful(|capability| capability.families.clear()), "down");
    check(|_| {}, graceful(|capability| capability.restart_time = Duration::ZERO), "down");
    // Families of the session, and of the capability. F is of no matter before a restart (row 17 of what broke others).
    check(|_| {}, graceful(|capability| capability.families = vec![(V6, false)]), "down keep 6");
    check(|state| state.transport.families = vec![V4], their_open(), "down keep 4");
}

#[test]
fn what_the_peer_did_not_forward_by_goes_when_it_is_back() {
    // RFC 4724 §4.2: F not set, the family not there, the capability not there.
    let check = |theirs: Open, expected: &[&str]| {
        let mut rig = Rig::up(|_| {}, &their_open());
        rig.closed(0);
        assert_eq!(rig.up_again(1, &theirs), expected);
    };
    let v6_only = ["send 1 KEEPALIVE", "drop 4", "up 1 stale 6"];
    check(graceful(|capability| capability.families = vec![(V4, false), (V6, true)]), &v6_only);
    check(graceful(|capability| capability.families = vec![(V6, true)]), &v6_only);
    check(plain_open(), &["send 1 KEEPALIVE", "drop 4", "drop 6", "up 1"]);
    let mut open = their_open();
    open.capabilities.families = vec![V6];
    check(open, &v6_only);
}

#[test]
fn a_second_loss_takes_what_was_still_stale() {
    // RFC 4724 §4.2: consecutive restarts.
    let mut rig = Rig::up(|_| {}, &their_open());
    rig.closed(0);
    rig.up_again(1, &their_open());
    rig.receive(1, &[end_of_rib(V6)]);
    // IPv6 has been told whole; of IPv4, what was not told again goes, and the rest stays.
    assert_eq!(rig.closed(1), ["drop 4", "down keep 4 keep 6"]);
    // Without the capability this time: all goes.
    rig.up_again(3, &plain_open());
    assert_eq!(rig.closed(3), ["down"]);
    assert_eq!(rig.session.status().stale, []);
}

#[test]
fn a_notification_is_survived_if_both_have_said_so() {
    // RFC 4724 §4: else not. RFC 8538 §4: N on both sides, and no hard reset.
    let received = |theirs: &Open, notification: Notification| {
        let mut rig = Rig::up(|_| {}, theirs);
        rig.receive(0, &[Message::Notification(notification)])
    };
    assert_eq!(received(&their_open(), reset("")), ["close 0", "down"]);
    assert_eq!(received(&with_notification(), reset("")), ["close 0", "down keep 4 keep 6"]);
    assert_eq!(received(&with_notification(), Notification::new(3, 1)), ["close 0", "down keep 4 keep 6"]);
    assert_eq!(received(&with_notification(), Notification::with(6, 9, [6, 4])), ["close 0", "down"]);
    assert_eq!(received(&with_notification(), Notification::new(6, 9)), ["close 0", "down"]);

    let sent = |theirs: &Open, event: Event<'_>| Rig::up(|_| {}, theirs).event(event);
    let by = |notification: Notification| Event::ResetBy(notification);
    assert_eq!(sent(&their_open(), by(reset(""))), ["send 0 N(6/4)", "close 0", "down"]);
    assert_eq!(sent(&with_notification(), by(reset(""))), ["send 0 N(6/4)", "close 0", "down keep 4 keep 6"]);
    // §5: what is meant for good is said for good, but only to one who knows it.
    let stop = || Event::Stop { notification: shutdown("bye") };
    assert_eq!(sent(&their_open(), stop()), ["send 0 N(6/2)", "close 0", "down"]);
    assert_eq!(sent(&with_notification(), stop()), ["send 0 N(6/9)", "close 0", "down"]);
    assert_eq!(sent(&with_notification(), Event::Bfd(BfdFinding::Failed)), ["send 0 N(6/9)", "close 0", "down"]);
    assert_eq!(sent(&with_notification(), Event::MaxPrefixes { family: V4 }), ["send 0 N(6/9)", "close 0", "down"]);
    assert_eq!(sent(&with_notification(), by(Notification::with(6, 9, [6, 4]))), ["send 0 N(6/9)", "close 0", "down"]);

    // The hold time is over (RFC 8538 §4).
    let mut rig = Rig::up(|_| {}, &with_notification());
    rig.check_timer(90.0..=90.0, &["send 0 N(4/0)", "close 0", "down keep 4 keep 6"]);
    // An error of the peer: its routes stay while it waits in Idle, and go in time.
    let mut rig = Rig::up(|_| {}, &with_notification());
    let actions = rig.event(Event::Received { connection: ConnectionId(0), bytes: &[0; 19] });
    assert_eq!(actions, ["send 0 N(1/1)", "close 0", "down keep 4 keep 6"]);
    assert_eq!(rig.session.state(), State::Idle);
}

#[test]
fn a_hard_reset_says_why() {
    // RFC 8538 §3.1: the NOTIFICATION that it would have been.
    let mut rig = Rig::up(|_| {}, &with_notification());
    let mut out = Vec::new();
    rig.session.handle(Event::Stop { notification: shutdown("bye") }, rig.now, &mut out);
    let Some(Action::Send { bytes, .. }) = out.first() else { panic!("nothing sent") };
    let expected = Notification::with(6, 9, [&[6, 2, 3], b"bye".as_slice()].concat());
    assert_eq!(messages(bytes), [Message::Notification(expected)]);
}

#[test]
fn stopping_drops_what_is_stale() {
    let mut rig = Rig::up(|_| {}, &their_open());
    rig.closed(0);
    let stop = Event::Stop { notification: shutdown("") };
    rig.check(stop, &["drop 4", "drop 6"]);
    assert_eq!(rig.session.deadline(), None);
}

#[test]
fn after_the_restart_time_routes_are_of_last_resort() {
    // RFC 9494 §4.2: the peer's time, at most ours.
    let passive = |state: &mut PeerState| {
        we_keep_long(state);
        state.transport.passive = true;
    };
    let mut rig = Rig::new(passive);
    rig.event(Event::Start);
    rig.up_again(1, &long_lived(true));
    assert_eq!(rig.closed(1), ["down keep 4 keep 6"]);
    rig.check_timer(60.0..=60.0, &["long-lived 4", "long-lived 6"]);
    assert!(rig.session.status().stale.iter().all(|stale| stale.is_long_lived));
    rig.check_timer(3600.0..=3600.0, &["drop 4", "drop 6"]);

    // Our own limit.
    let mut rig = Rig::new(|state| {
        passive(state);
        state.transport.restart.long_lived_time = seconds(100);
    });
    rig.event(Event::Start);
    rig.up_again(1, &long_lived(true));
    rig.closed(1);
    rig.check_timer(60.0..=60.0, &["long-lived 4", "long-lived 6"]);
    rig.check_timer(100.0..=100.0, &["drop 4", "drop 6"]);

    // A restart time of zero, or a family that is in the one capability only: at once.
    let mut open = long_lived(true);
    open.capabilities.graceful_restart =
        Some(GracefulRestart { restart_time: seconds(60), families: vec![(V4, true)], ..GracefulRestart::default() });
    let mut rig = Rig::up(we_keep_long, &open);
    assert_eq!(rig.closed(0), ["down keep 4 keep 6", "long-lived 6"]);
    // §4.5: without graceful restart it is not there; and without our own offer neither.
    open.capabilities.graceful_restart = None;
    let mut rig = Rig::up(we_keep_long, &open);
    assert_eq!(rig.closed(0), ["down"]);
    let mut rig = Rig::up(|_| {}, &long_lived(true));
    rig.closed(0);
    assert_eq!(rig.after(seconds(60)).iter().filter(|text| text.starts_with("drop")).count(), 2);
}

#[test]
fn the_long_lived_timer_runs_on_until_the_end_of_rib() {
    let away = || {
        let mut rig = Rig::new(|state| {
            we_keep_long(state);
            state.transport.passive = true;
        });
        rig.event(Event::Start);
        rig.up_again(1, &long_lived(true));
        rig.closed(1);
        assert_eq!(rig.after(seconds(1060)), ["long-lived 4", "long-lived 6"]);
        rig
    };
    // The bit of its own capability counts in this period.
    let mut rig = away();
    assert_eq!(rig.up_again(3, &long_lived(false)), ["send 3 KEEPALIVE", "drop 4", "drop 6", "up 3"]);
    let mut rig = away();
    assert_eq!(rig.up_again(3, &their_open()), ["send 3 KEEPALIVE", "drop 4", "drop 6", "up 3"]);
    let mut rig = away();
    assert_eq!(rig.up_again(3, &long_lived(true)), ["send 3 KEEPALIVE", "up 3 stale 4 stale 6"]);
    assert_eq!(rig.receive(3, &[end_of_rib(V4)]), ["drop 4", "end-of-rib 4"]);
    // Lost again before the end of RIB of IPv6: nothing stale is dropped, and its timer is not begun anew. IPv4 begins anew.
    assert_eq!(rig.closed(3), ["down keep 4 keep 6"]);
    rig.check_timer(60.0..=60.0, &["long-lived 4", "long-lived 6"]);
    rig.check_timer(2540.0..=2540.0, &["drop 6"]);
    rig.check_timer(1060.0..=1060.0, &["drop 4"]);
}

#[test]
fn our_own_restart_is_told_until_the_peer_has_seen_it() {
    let bits = |open: Open| {
        let restart = open.capabilities.graceful_restart.expect("graceful restart");
        (restart.restarting, restart.families.iter().all(|(_, forwarding)| *forwarding))
    };
    // RFC 4724 §4.1: R and F.
    let mut rig = Rig::with(1, true, |state| state.transport.passive = true);
    rig.event(Event::Start);
    assert_eq!(bits(sent_open(&mut rig, 1)), (true, true));
    assert!(rig.session.status().is_restarting);
    rig.receive(1, &[Message::Open(their_open()), Message::Keepalive]);
    rig.closed(1);
    // §4.2: no longer R; and F, since nothing has stopped forwarding (RFC 8538 §4).
    assert_eq!(bits(sent_open(&mut rig, 3)), (false, true));
    assert!(!rig.session.status().is_restarting);
    // Nobody was there for as long as our routes are kept: a cold start like any other.
    let mut rig = Rig::with(1, true, |state| state.transport.passive = true);
    rig.event(Event::Start);
    rig.after(seconds(120));
    assert_eq!(bits(sent_open(&mut rig, 1)), (false, false));
}
