//! What our speaker and GoBGP do together beside plain routes: several paths to a prefix, and restarts of either.
//!
//! ```text
//!     router ──up0── far (GoBGP)
//!        ├─────up1── tor  (BIRD of another system)
//!        └─────up2── edge (BIRD of a third), where several paths are wanted
//! ```

use std::time::Duration;

use config::net::IpVersion;
use tests::bgp::ours::{self, AS_NUMBER, Session};
use tests::bgp::{Announced, Kind, Neighbour, Peer, Speaker};
use tests::daemon::{Daemon, SOON};
use tests::talk::{pings, until_reachable};
use tests::topology::Topology;
use tests::wait;

use crate::{FAR, NODE, TWO_AND_FAR, ip};

const STAR: &str = r#"
endpoints:
  - { name: web, addresses: [10.65.0.2] }
hosts:
  - { name: far, addresses: [192.0.2.2/24], uplink: up0, nodeAddresses: [192.0.2.1/24] }
  - { name: tor, addresses: [172.31.1.2/24], uplink: up1, nodeAddresses: [172.31.1.1/24] }
  - { name: edge, addresses: [172.31.2.2/24], uplink: up2, nodeAddresses: [172.31.2.1/24] }
"#;

/// A prefix that both of the others tell.
const BOTH: &str = "10.9.0.0/16";

/// One of the two.
fn other(topology: &Topology, name: &str, as_number: u32, own: &str, node: &str) -> Neighbour {
    let peer = Peer { local_address: Some(ip(own)), is_multihop: true, ..Peer::new(node, AS_NUMBER) };
    let routes = vec![Announced::new(BOTH), Announced::new(&format!("10.{}.0.0/16", as_number % 256))];
    let speaker = Speaker { peers: vec![peer], routes, ..Speaker::new(as_number, own) };
    Neighbour::start(Kind::Bird, &topology.at(name), &topology.folder(), &speaker)
}

#[test]
fn gobgp_is_told_all_paths_with_their_numbers() {
    let Some(topology) = Topology::up("go-paths", STAR) else { return };
    let daemon = Daemon::start(&topology, &["--uplinks", "up0,up1,up2"]);
    let peer = Peer { add_paths: true, families: vec![IpVersion::V4], ..Peer::new(NODE[0], AS_NUMBER) };
    let own = Announced { next_hop: Some(ip(FAR[0])), ..Announced::new("10.1.0.0/16") };
    let speaker = Speaker { peers: vec![peer], routes: vec![own], ..Speaker::new(AS_NUMBER, FAR[0]) };
    let far = Neighbour::start(Kind::Gobgp, &topology.at("far"), &topology.folder(), &speaker);
    let tor = other(&topology, "tor", 65002, "172.31.1.2", "172.31.1.1");
    let edge = other(&topology, "edge", 65003, "172.31.2.2", "172.31.2.1");
    let near = |address, as_number| Session {
        spec: vec!["filters: [everything]", "sourceAddress: None"],
        ..Session::new(address, as_number)
    };
    daemon
        .apply(&ours::manifests(&[near(FAR[0], AS_NUMBER), near("172.31.1.2", 65002), near("172.31.2.2", 65003)], ""));
    for address in [FAR[0], "172.31.1.2", "172.31.2.2"] {
        ours::until_established(&daemon, address);
    }
    let numbers = || -> Vec<u32> {
        let paths = far.path_ids(NODE[0], IpVersion::V4).into_iter();
        paths.filter(|(prefix, _)| prefix.to_string() == BOTH).map(|(_, number)| number).collect()
    };
    wait::until_true(
        "two paths with numbers of their own",
        SOON,
        || matches!(numbers()[..], [one, another] if one != another),
    );
    let text = || daemon.cli(&["bgp", "neighbor", FAR[0]]);
    assert!(text().contains("add-path IPv4"), "{}", text());
    // What GoBGP says comes with a number, and is a route like others.
    wait::until_true("GoBGP's route", SOON, || {
        daemon.cli(&["bgp", "neighbor", FAR[0], "accepted"]).contains("10.1.0.0/16")
    });
    // A path that goes takes its number along and leaves the other.
    let before = numbers();
    tor.terminate();
    wait::until_true("one path", SOON, || numbers().len() == 1);
    assert!(before.contains(&numbers()[0]));
    edge.terminate();
    wait::until_true("no path", SOON, || numbers().is_empty());
    far.until_forgotten(BOTH);
}

#[test]
fn routes_stay_while_gobgp_or_we_restart() {
    let Some(topology) = Topology::up("go-restart", TWO_AND_FAR) else { return };
    let daemon = Daemon::start(&topology, &[]);
    let (web, at_far) = (topology.at("web"), topology.at("far"));
    at_far.run("ip address add 10.1.0.1/32 dev lo");
    let peer = Peer {
        restart_time: Some(Duration::from_secs(60)),
        families: vec![IpVersion::V4],
        ..Peer::new(NODE[0], AS_NUMBER)
    };
    let own = Announced { next_hop: Some(ip(FAR[0])), ..Announced::new("10.1.0.0/16") };
    let speaker = Speaker { peers: vec![peer], routes: vec![own], ..Speaker::new(65001, FAR[0]) };
    let other = Neighbour::start(Kind::Gobgp, &at_far, &topology.folder(), &speaker);
    let lasting = Session { spec: vec!["maxRestartTime: 60s"], ..Session::new(FAR[0], 65001) };
    daemon.apply(&ours::manifests(&[lasting], ""));
    other.until_learned("10.65.0.2/32");
    until_reachable(&web, ip("10.1.0.1"));

    // GoBGP is killed: packets find their way, and its route is known to be old.
    other.kill();
    wait::until_true("its route to be stale", SOON, || {
        let text = daemon.cli(&["bgp", "neighbor", FAR[0], "received", "-o", "json"]);
        text.contains("\"isStale\": true")
    });
    assert!(pings(&web, ip("10.1.0.1")));
    let other = Neighbour::start(Kind::Gobgp, &at_far, &topology.folder(), &speaker);
    ours::until_established(&daemon, FAR[0]);
    wait::until_true("its route to be told again", SOON, || {
        let text = daemon.cli(&["bgp", "neighbor", FAR[0], "received", "-o", "json"]);
        text.contains("10.1.0.0/16") && !text.contains("\"isStale\": true")
    });
    assert!(pings(&web, ip("10.1.0.1")));
    other.until_learned("10.65.0.2/32");

    // Ours is killed: GoBGP keeps what it was told, and has it as new when we are back.
    daemon.kill();
    other.until_down(NODE[0]);
    assert!(other.paths("10.65.0.2/32").iter().any(|route| route.is_stale), "{:?}", other.paths("10.65.0.2/32"));
    let daemon = Daemon::bare(&topology, &[]);
    wait::until_true("the session to be back, and the route", SOON, || {
        let paths = other.paths("10.65.0.2/32");
        assert_eq!(paths.len(), 1, "forgotten while we restarted");
        !paths[0].is_stale && other.session(NODE[0]).is_established
    });
    ours::until_established(&daemon, FAR[0]);
    until_reachable(&web, ip("10.1.0.1"));
}
