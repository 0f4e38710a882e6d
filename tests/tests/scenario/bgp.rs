//! Our speaker with BIRD and with GoBGP: what either side tells arrives as the other side's own tool shows it, and packets follow.
//!
//! ```text
//!     web ──caliweb── router ──up0── far (BIRD or GoBGP)
//!                            └─up1── tor (BIRD), where there is one
//! ```

use std::time::Duration;

use tests::bgp::ours::{self, AS_NUMBER, Session};
use tests::bgp::{Announced, Kind, Neighbour, Peer, Speaker};
use tests::daemon::Daemon;
use tests::talk::{pings, until_reachable};
use tests::topology::Topology;
use tests::wait;

use crate::{CHAIN, FAR, NODE, TWO_AND_FAR, ip};

/// Another system.
const OTHER: u32 = 65001;
const SOON: Duration = tests::daemon::SOON;

/// A neighbour with two routes to itself, and a session over each family.
fn far(as_number: u32) -> Speaker {
    let plain = Announced {
        communities: vec![(65000, 1)],
        large_communities: vec![(65000, 1, 2)],
        next_hop: Some(ip(FAR[0])),
        ..Announced::new("10.1.0.0/16")
    };
    let wide = Announced { next_hop: Some(ip(FAR[1])), ..Announced::new("fd01::/64") };
    let session = |family: usize| Peer {
        families: vec![plain.prefix.version(), wide.prefix.version()][family..=family].to_vec(),
        local_address: Some(ip(FAR[family])),
        ..Peer::new(NODE[family], AS_NUMBER)
    };
    Speaker {
        peers: vec![session(0), session(1)],
        routes: vec![plain.clone(), wide.clone()],
        ..Speaker::new(as_number, FAR[0])
    }
}

fn sessions(as_number: u32) -> Vec<Session> {
    FAR.iter().map(|address| Session::new(address, as_number)).collect()
}

/// Both ways, in both families, with packets.
fn both_ways(name: &str, kind: Kind, as_number: u32) {
    let Some(topology) = Topology::up(name, TWO_AND_FAR) else { return };
    let daemon = Daemon::start(&topology, &[]);
    let (web, at_far) = (topology.at("web"), topology.at("far"));
    at_far.run("ip address add 10.1.0.1/32 dev lo");
    at_far.run("ip address add fd01::1/128 dev lo");
    let other = Neighbour::start(kind, &at_far, &topology.folder(), &far(as_number));
    daemon.apply(&ours::manifests(&sessions(as_number), ""));
    for family in 0..2 {
        other.until_established(NODE[family]);
        ours::until_established(&daemon, FAR[family]);
    }

    // What we tell.
    let (path, preference) = if as_number == AS_NUMBER { ("", Some(2_147_482_623)) } else { ("64512", None) };
    for (family, prefix) in ["10.65.0.2/32", "fd65::2/128"].into_iter().enumerate() {
        let route = other.until_learned(prefix);
        assert_eq!(route.next_hop, Some(ip(NODE[family])), "{route:?}");
        assert_eq!(route.as_path, path, "{route:?}");
        if as_number == AS_NUMBER {
            assert_eq!(route.local_pref, preference, "{route:?}");
        }
    }
    // What we learn, packets show.
    until_reachable(&web, ip("10.1.0.1"));
    until_reachable(&web, ip("fd01::1"));
    assert_eq!(ours::until_established(&daemon, FAR[0]).accepted, 1);

    // It goes as it came.
    daemon.cli(&["delete", "wep", "router-k8s-client-eth0", "-n", "default"]);
    other.until_forgotten("10.65.0.3/32");
    other.until_learned("10.65.0.2/32");
    other.kill();
    wait::until_true("the learned route to be gone", SOON, || !pings(&web, ip("10.1.0.1")));
}

#[test]
fn both_ways_with_bird_inside_the_system() {
    both_ways("bgp-bird-in", Kind::Bird, AS_NUMBER);
}

#[test]
fn both_ways_with_bird_of_another_system() {
    both_ways("bgp-bird-ex", Kind::Bird, OTHER);
}

#[test]
fn both_ways_with_gobgp_inside_the_system() {
    both_ways("bgp-go-in", Kind::Gobgp, AS_NUMBER);
}

#[test]
fn both_ways_with_gobgp_of_another_system() {
    both_ways("bgp-go-ex", Kind::Gobgp, OTHER);
}

#[test]
fn communities_go_along() {
    let Some(topology) = Topology::up("bgp-comm", TWO_AND_FAR) else { return };
    let daemon = Daemon::start(&topology, &[]);
    let other = Neighbour::start(Kind::Bird, &topology.at("far"), &topology.folder(), &far(OTHER));
    let more = ", prefixAdvertisements: [{ cidr: 10.65.0.0/16, communities: [\"64512:7\", \"64512:8:9\"] }]";
    daemon.apply(&ours::manifests(&sessions(OTHER), more));
    let route = other.until_learned("10.65.0.2/32");
    assert_eq!(
        (route.communities, route.large_communities),
        (vec!["64512:7".to_owned()], vec!["64512:8:9".to_owned()])
    );
}

#[test]
fn a_filter_decides_what_is_told_and_what_is_taken() {
    let Some(topology) = Topology::up("bgp-filter", TWO_AND_FAR) else { return };
    let daemon = Daemon::start(&topology, &[]);
    let (web, at_far) = (topology.at("web"), topology.at("far"));
    at_far.run("ip address add 10.1.0.1/32 dev lo");
    let other = Neighbour::start(Kind::Bird, &at_far, &topology.folder(), &far(OTHER));
    daemon.apply(&ours::manifests(&sessions(OTHER), ""));
    other.until_learned("10.65.0.2/32");
    until_reachable(&web, ip("10.1.0.1"));

    let session = other.session(NODE[0]);
    daemon.apply(
        "apiVersion: projectcalico.org/v3\nkind: BGPFilter\nmetadata: { name: less }\nspec:\n  \
         exportV4: [{ cidr: 10.65.0.2/32, matchOperator: In, action: Reject }]\n  \
         importV4: [{ cidr: 10.1.0.0/16, matchOperator: In, action: Reject }]\n",
    );
    let less = Session { spec: vec!["filters: [less]"], ..Session::new(FAR[0], OTHER) };
    daemon.apply(&ours::manifests(&[less], ""));
    other.until_forgotten("10.65.0.2/32");
    other.until_learned("10.65.0.3/32");
    wait::until_true("the learned route to be gone", SOON, || !pings(&web, ip("10.1.0.1")));
    daemon.apply(&ours::manifests(&sessions(OTHER), ""));
    other.until_learned("10.65.0.2/32");
    until_reachable(&web, ip("10.1.0.1"));
    // All of that without a new session.
    assert!(other.session(NODE[0]).is_still(&session));
}

#[test]
fn gtsm_keeps_the_session_and_needs_both_sides() {
    let Some(topology) = Topology::up("bgp-gtsm", TWO_AND_FAR) else { return };
    let daemon = Daemon::start(&topology, &[]);
    let mut speaker = far(OTHER);
    speaker.peers.iter_mut().for_each(|peer| peer.ttl_security = true);
    let other = Neighbour::start(Kind::Bird, &topology.at("far"), &topology.folder(), &speaker);
    let secured = |session: Session| Session { spec: vec!["ttlSecurity: 1"], ..session };
    daemon.apply(&ours::manifests(&sessions(OTHER).into_iter().map(secured).collect::<Vec<_>>(), ""));
    FAR.iter().for_each(|address| drop(ours::until_established(&daemon, address)));
    other.until_learned("10.65.0.2/32");
    other.until_learned("fd65::2/128");
}

#[test]
fn a_password_is_needed_and_waited_for() {
    let Some(topology) = Topology::up("bgp-md5", TWO_AND_FAR) else { return };
    let secrets = topology.folder().join("secrets");
    let daemon = Daemon::start(&topology, &["--secrets", secrets.to_str().unwrap()]);
    let secret = "password: { secretKeyRef: { name: far, key: password } }";
    let guarded = |session: Session| Session { spec: vec![secret], ..session };
    daemon.apply(&ours::manifests(&sessions(OTHER).into_iter().map(guarded).collect::<Vec<_>>(), ""));
    let mut speaker = far(OTHER);
    speaker.peers.iter_mut().for_each(|peer| peer.password = Some("secret".to_owned()));
    for kind in [Kind::Bird, Kind::Gobgp] {
        let other = Neighbour::start(kind, &topology.at("far"), &topology.folder(), &speaker);
        if kind == Kind::Bird {
            wait::while_true("no session without the password", Duration::from_secs(3), || {
                !other.session(NODE[0]).is_established
            });
            std::fs::create_dir_all(secrets.join("far")).unwrap();
            std::fs::write(secrets.join("far/password"), "secret\n").unwrap();
        }
        FAR.iter().for_each(|address| drop(ours::until_established(&daemon, address)));
        other.until_learned("10.65.0.2/32");
        other.until_learned("fd65::2/128");
        other.terminate();
    }
    // Another one is no better than none.
    speaker.peers.iter_mut().for_each(|peer| peer.password = Some("wrong".to_owned()));
    let other = Neighbour::start(Kind::Bird, &topology.at("far"), &topology.folder(), &speaker);
    wait::while_true("no session with another password", Duration::from_secs(5), || {
        !other.session(NODE[0]).is_established
    });
}

#[test]
fn a_reflector_passes_on_what_clients_say_and_says_who_said_it() {
    let Some(topology) = Topology::up("bgp-reflect", CHAIN) else { return };
    let daemon = Daemon::start(&topology, &[]);
    let folder = topology.folder();
    let tor = Peer { local_address: Some(ip("172.31.1.2")), is_multihop: true, ..Peer::new(NODE[0], AS_NUMBER) };
    topology.at("tor").run("ip route replace 192.0.2.0/24 via 172.31.1.1");
    let tor = Speaker {
        peers: vec![Peer { address: ip("172.31.1.1"), ..tor }],
        routes: vec![Announced { next_hop: Some(ip("172.31.1.2")), ..Announced::new("10.3.0.0/16") }],
        ..Speaker::new(AS_NUMBER, "172.31.1.2")
    };
    let mut one = far(AS_NUMBER);
    one.peers.truncate(1);
    let far = Neighbour::start(Kind::Gobgp, &topology.at("far"), &folder, &one);
    let tor = Neighbour::start(Kind::Bird, &topology.at("tor"), &folder, &tor);
    let open = |address| Session {
        spec: vec!["filters: [everything]", "sourceAddress: None"],
        ..Session::new(address, AS_NUMBER)
    };
    daemon.apply(
        "apiVersion: projectcalico.org/v3\nkind: Node\nmetadata: { name: router }\n\
         spec: { bgp: { ipv4Address: 192.0.2.1/24, ipv6Address: \"2001:db8::1/64\", routeReflectorClusterID: 244.0.0.1 } }\n",
    );
    daemon.apply(&ours::manifests(&[open(FAR[0]), open("172.31.1.2")], ""));
    for (from, to, prefix, next_hop) in
        [(FAR[0], &tor, "10.1.0.0/16", FAR[0]), ("172.31.1.2", &far, "10.3.0.0/16", "172.31.1.2")]
    {
        let route = to.until_learned(prefix);
        assert_eq!(route.next_hop, Some(ip(next_hop)), "{route:?}");
        assert_eq!(route.originator.map(|address| address.to_string()).as_deref(), Some(from), "{route:?}");
        assert_eq!(route.cluster_list, ["244.0.0.1".parse::<std::net::Ipv4Addr>().unwrap()], "{route:?}");
    }
    // Nobody is told what he said himself.
    assert!(far.paths("10.1.0.0/16").iter().all(|route| route.from.is_none()));
    tor.terminate();
    far.until_forgotten("10.3.0.0/16");
}

#[test]
fn too_many_prefixes_end_the_session() {
    let Some(topology) = Topology::up("bgp-limit", TWO_AND_FAR) else { return };
    let daemon = Daemon::start(&topology, &[]);
    let mut speaker = far(OTHER);
    speaker.peers.truncate(1);
    let few = speaker.clone();
    speaker.routes.extend((1..20).map(|number| Announced::new(&format!("10.2.{number}.0/24"))));
    let other = Neighbour::start(Kind::Bird, &topology.at("far"), &topology.folder(), &few);
    let limited = Session { annotations: vec![("max-prefixes", "10")], ..Session::new(FAR[0], OTHER) };
    daemon.apply(&ours::manifests(&[limited], ""));
    ours::until_established(&daemon, FAR[0]);
    other.configure(&speaker);
    // RFC 4486: Cease, maximum number of prefixes reached.
    let details = other.until_down(NODE[0]).details;
    assert!(
        details.contains("Maximum number of prefixes reached") || other.log().contains("Maximum number of prefixes"),
        "{details}"
    );
    assert!(ours::peers(&daemon).iter().all(|peer| peer.state != "Established"));
}

#[test]
fn a_refresh_tells_everything_again() {
    let Some(topology) = Topology::up("bgp-refresh", TWO_AND_FAR) else { return };
    let daemon = Daemon::start(&topology, &[]);
    for kind in [Kind::Bird, Kind::Gobgp] {
        let other = Neighbour::start(kind, &topology.at("far"), &topology.folder(), &far(AS_NUMBER));
        daemon.apply(&ours::manifests(&sessions(AS_NUMBER), ""));
        other.until_learned("10.65.0.2/32");
        ours::until_established(&daemon, FAR[0]);
        // BIRD with an import table asks nobody: the neighbour here is told to, and must have everything afterwards.
        other.refresh(NODE[0], "in");
        other.refresh(NODE[0], "out");
        other.until_learned("10.65.0.2/32");
        other.until_learned("10.65.0.3/32");
        assert!(other.session(NODE[0]).is_established);
        other.terminate();
    }
}

#[test]
fn routes_stay_while_either_side_restarts() {
    let Some(topology) = Topology::up("bgp-restart", TWO_AND_FAR) else { return };
    let daemon = Daemon::start(&topology, &[]);
    let (web, at_far) = (topology.at("web"), topology.at("far"));
    at_far.run("ip address add 10.1.0.1/32 dev lo");
    let mut speaker = far(OTHER);
    speaker.peers.iter_mut().for_each(|peer| peer.restart_time = Some(Duration::from_secs(60)));
    let other = Neighbour::start(Kind::Bird, &at_far, &topology.folder(), &speaker);
    let lasting = |session: Session| Session { spec: vec!["maxRestartTime: 60s"], ..session };
    let manifests = ours::manifests(&sessions(OTHER).into_iter().map(lasting).collect::<Vec<_>>(), "");
    daemon.apply(&manifests);
    other.until_learned("10.65.0.2/32");
    until_reachable(&web, ip("10.1.0.1"));

    // The neighbour is killed and comes back: packets find their way all the time.
    other.kill();
    wait::while_true("the route of a neighbour that restarts stays", Duration::from_secs(2), || {
        let is_there = pings(&web, ip("10.1.0.1"));
        if !is_there {
            println!("{}{}", daemon.cli(&["bgp", "neighbor", FAR[0]]), daemon.cli(&["bgp", "why", "10.1.0.0/16"]));
        }
        is_there
    });
    let other = Neighbour::start(Kind::Bird, &at_far, &topology.folder(), &speaker);
    ours::until_established(&daemon, FAR[0]);
    assert!(pings(&web, ip("10.1.0.1")));
    other.until_learned("10.65.0.2/32");

    // Ours is killed and comes back: the neighbour never forgets.
    daemon.kill();
    assert!(other.until_down(NODE[0]).details.contains("graceful restart active"));
    let daemon = Daemon::bare(&topology, &[]);
    let route = || other.paths("10.65.0.2/32").len();
    wait::until_true("the session to be back", SOON, || {
        assert_eq!(route(), 1, "forgotten while we restarted");
        other.session(NODE[0]).is_established
    });
    wait::while_true("our route is there", Duration::from_secs(3), || {
        let paths = other.paths("10.65.0.2/32");
        if paths.len() != 1 {
            println!("{paths:?}\n{}", daemon.cli(&["bgp", "why", "10.65.0.2/32"]));
        }
        paths.len() == 1
    });
    ours::until_established(&daemon, FAR[0]);
}

#[test]
fn a_silent_neighbour_is_noticed_by_bfd() {
    let Some(topology) = Topology::up("bgp-bfd", TWO_AND_FAR) else { return };
    let daemon = Daemon::start(&topology, &[]);
    let mut speaker = far(OTHER);
    speaker.bfd = Some(tests::bgp::Bfd { interval: Duration::from_millis(100), multiplier: 3 });
    speaker.peers.iter_mut().for_each(|peer| (peer.bfd, peer.hold_time) = (true, Duration::from_secs(240)));
    let other = Neighbour::start(Kind::Bird, &topology.at("far"), &topology.folder(), &speaker);
    let watched = |session| Session { annotations: vec![("bfd", "100ms x 3")], ..session };
    daemon.apply(&ours::manifests(&sessions(OTHER).into_iter().map(watched).collect::<Vec<_>>(), ""));
    FAR.iter().for_each(|address| drop(ours::until_established(&daemon, address)));
    wait::until_true("BFD to be up", SOON, || other.bfd_sessions().iter().filter(|session| session.is_up).count() == 2);
    other.freeze(true);
    wait::until_true("the silence to be noticed", Duration::from_secs(5), || {
        ours::peers(&daemon).iter().all(|peer| peer.state != "Established")
    });
    other.freeze(false);
    FAR.iter().for_each(|address| drop(ours::until_established(&daemon, address)));
}

/// A CalicoNodeStatus is answered by the node that it names, again and again, and is no change that anybody made.
#[test]
fn a_node_reports_its_status() {
    let Some(topology) = Topology::up("bgp-status", TWO_AND_FAR) else { return };
    let daemon = Daemon::start(&topology, &[]);
    let other = Neighbour::start(Kind::Bird, &topology.at("far"), &topology.folder(), &far(OTHER));
    daemon.apply(&ours::manifests(&sessions(OTHER), ""));
    other.until_established(NODE[0]);
    let wish = |name: &str, node: &str| {
        format!(
            "apiVersion: projectcalico.org/v3\nkind: CalicoNodeStatus\nmetadata: {{ name: {name} }}\n\
             spec: {{ node: {node}, classes: [Agent, BGP, Routes], updatePeriodSeconds: 1 }}\n---\n"
        )
    };
    daemon.apply(&(wish("here", "router") + &wish("elsewhere", "another")));
    let history = daemon.cli(&["history", "-o", "json"]);
    let get = |name: &str| -> serde_json::Value {
        serde_json::from_str(&daemon.cli(&["get", "caliconodestatus", name, "-o", "json"])).unwrap()
    };
    let report = wait::until("the report of a session that is up", SOON, || {
        Some(get("here")).filter(|object| object["status"]["bgp"]["numberEstablishedV4"] == 1)
    });
    let status = &report["status"];
    assert_eq!(report["spec"]["updatePeriodSeconds"], 1, "{report}");
    assert_eq!(status["agent"]["birdV4"]["state"], "Ready", "{report}");
    assert_eq!(status["bgp"]["peersV4"][0]["peerIP"], FAR[0], "{report}");
    assert_eq!(status["bgp"]["peersV4"][0]["type"], "NodePeer", "{report}");
    wait::until_true("the learned route in a report", SOON, || {
        let report = get("here");
        let routes = report["status"]["routes"]["routesV4"].as_array().cloned().unwrap_or_default();
        routes.iter().any(|route| {
            route["destination"] == "10.1.0.0/16"
                && route["gateway"] == FAR[0]
                && route["interface"] == "up0"
                && route["type"] == "FIB"
                && route["learnedFrom"]["peerIP"] == FAR[0]
        })
    });
    let first = report["status"]["lastUpdated"].clone();
    wait::until_true("another report", SOON, || get("here")["status"]["lastUpdated"] != first);
    assert!(get("elsewhere")["status"].is_null());
    assert_eq!(daemon.cli(&["history", "-o", "json"]), history);
}
