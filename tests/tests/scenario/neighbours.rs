//! BIRD and GoBGP talk to each other: the harness sees what is there before ours is judged by it.
//!
//! ```text
//!     router (BIRD) ──up0── far (GoBGP)
//! ```

use std::time::Duration;

use tests::bgp::{Announced, Bfd, Kind, Neighbour, Origin, Peer, Speaker};
use tests::topology::Topology;
use tests::wait;

use crate::{FAR, NODE, TWO_AND_FAR, ip};

/// How long routes are kept of a neighbour that went away.
const SECONDS: Duration = Duration::from_secs(20);

/// A speaker with two routes of its own, and one session of all families over IPv4.
fn speaker(as_number: u32, own: &str, number: u8, peer: Peer) -> Speaker {
    let plain = Announced {
        med: Some(50),
        communities: vec![(65000, 1)],
        large_communities: vec![(65000, 1, 2)],
        ..Announced::new(&format!("10.{number}.0.0/16"))
    };
    let far_away = Announced { as_path: vec![65010, 65011], ..Announced::new(&format!("10.{number}.1.0/24")) };
    // Over a session of IPv4 GoBGP would say its IPv4 address, which BIRD refuses.
    let itself = if own == FAR[0] { FAR[1] } else { NODE[1] };
    let wide = Announced { next_hop: Some(ip(itself)), ..Announced::new(&format!("2001:db8:{number}::/48")) };
    Speaker { peers: vec![peer], routes: vec![plain, far_away, wide], ..Speaker::new(as_number, own) }
}

#[test]
fn bird_and_gobgp_say_what_they_have() {
    let Some(topology) = Topology::up("neighbours", TWO_AND_FAR) else { return };
    let near = Peer { restart_time: Some(SECONDS), ..Peer::new(FAR[0], 65002) };
    let far = Peer { restart_time: Some(SECONDS), password: Some("secret".to_owned()), ..Peer::new(NODE[0], 65001) };
    let near = speaker(65001, NODE[0], 1, Peer { password: Some("secret".to_owned()), ..near });
    let far = speaker(65002, FAR[0], 2, far);
    let folder = topology.folder();
    let bird = Neighbour::start(Kind::Bird, &topology.node(), &folder, &near);
    let gobgp = Neighbour::start(Kind::Gobgp, &topology.at("far"), &folder, &far);
    bird.until_established(FAR[0]);
    gobgp.until_established(NODE[0]);

    // BIRD tells no MED to another system unless an export filter sets it.
    for (who, prefix, next_hop, nearest, med) in
        [(&bird, 2, FAR[0], "65002", Some(50)), (&gobgp, 1, NODE[0], "65001", None)]
    {
        let route = who.until_learned(&format!("10.{prefix}.0.0/16"));
        assert_eq!(route.next_hop, next_hop.parse().ok(), "{route:?}");
        assert_eq!(route.from, next_hop.parse().ok(), "{route:?}");
        assert_eq!((route.as_path.as_str(), route.med), (nearest, med), "{route:?}");
        assert_eq!((route.origin, route.is_best), (Some(Origin::Igp), true), "{route:?}");
        assert_eq!(route.communities, ["65000:1"], "{route:?}");
        assert_eq!(route.large_communities, ["65000:1:2"], "{route:?}");
        let route = who.until_learned(&format!("10.{prefix}.1.0/24"));
        assert_eq!(route.as_path, format!("{nearest} 65010 65011"));
        who.until_learned(&format!("2001:db8:{prefix}::/48"));
    }
    assert_eq!(bird.session(FAR[0]).imported, 3);

    // A route comes and goes without the session.
    gobgp.announce(&Announced::new("10.9.0.0/16"));
    bird.until_learned("10.9.0.0/16");
    gobgp.cli(&["global", "rib", "del", "10.9.0.0/16"]);
    bird.until_forgotten("10.9.0.0/16");
    let mut less = near.clone();
    less.routes.truncate(1);
    bird.configure(&less);
    gobgp.until_forgotten("10.1.1.0/24");
    gobgp.until_learned("10.1.0.0/16");

    // Killed, it is waited for, and its routes stay.
    gobgp.kill();
    assert!(bird.until_down(FAR[0]).details.contains("graceful restart active"));
    bird.until_learned("10.2.0.0/16");
    let gobgp = Neighbour::start(Kind::Gobgp, &topology.at("far"), &folder, &far);
    assert!(!bird.until_established(FAR[0]).details.contains("graceful restart active"));
    // With a goodbye they do not.
    bird.terminate();
    gobgp.until_down(NODE[0]);
    gobgp.until_forgotten("10.1.0.0/16");
}

#[test]
fn two_birds_watch_each_other_and_tell_all_paths() {
    let Some(topology) = Topology::up("birds", TWO_AND_FAR) else { return };
    let of = |own: usize, number, peer: &str| {
        let peer = Peer { add_paths: true, bfd: true, ttl_security: true, ..Peer::new(peer, 65000) };
        let bfd = Bfd { interval: Duration::from_millis(50), multiplier: 3 };
        Speaker { bfd: Some(bfd), ..speaker(65000, [NODE[0], FAR[0]][own], number, peer) }
    };
    let folder = topology.folder();
    let near = Neighbour::start(Kind::Bird, &topology.node(), &folder, &of(0, 1, FAR[0]));
    let far = Neighbour::start(Kind::Bird, &topology.at("far"), &folder, &of(1, 2, NODE[0]));
    near.until_established(FAR[0]);
    assert_eq!(near.until_learned("10.2.0.0/16").local_pref, Some(100));
    wait::until_true("BFD to be up", tests::daemon::SOON, || {
        near.bfd_sessions().iter().any(|session| session.is_up && session.peer == ip(FAR[0]))
    });
    // Who is silent is noticed long before the hold time ends.
    far.freeze(true);
    near.until_down(FAR[0]);
    assert!(!near.bfd_sessions().iter().any(|session| session.is_up));
    far.freeze(false);
    near.until_established(FAR[0]);
    near.until_learned("10.2.1.0/24");
}
