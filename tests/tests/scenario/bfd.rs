//! Our BFD against BIRD's: over one hop and two, IPv4 and IPv6; a cut, a goodbye of either side, other intervals.
//!
//! ```text
//!     web ──caliweb── router ──up0── far (BIRD)
//!                     ours, or only the kernel that forwards between the other two
//! ```
//!
//! The thread `bfd` runs as a library, started in the namespace of `router`, or of `web` for two hops. No router runs.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use control::bfd::{Bfd, BfdKey, Change, Diagnostic, SessionStatus, State};
use control::bgp::speaker_state::BfdState;
use tests::bgp::{Kind, Neighbour, Speaker};
use tests::daemon::SOON;
use tests::topology::{Machine, Topology};
use tests::wait;

use crate::{FAR, NODE, TWO_AND_FAR, ip};

const INTERVAL: Duration = Duration::from_millis(50);
/// Three of them is the detection time.
const DETECTION_TIME: Duration = Duration::from_millis(150);
/// A busy machine may hold a thread up that long.
const SLACK: Duration = Duration::from_secs(2);
/// Addresses of a link between `web` and `router` as two routers have it.
const WEB_LINK: [&str; 2] = ["198.51.100.2", "2001:db8:1::2"];
const NODE_LINK: [&str; 2] = ["198.51.100.1", "2001:db8:1::1"];

fn wanted(interval: Duration) -> BfdState {
    BfdState { min_rx: interval, min_tx: interval, multiplier: 3, multihop: false }
}

fn key(peer: &str) -> BfdKey {
    BfdKey { peer: ip(peer), local: None, interface: None }
}

/// BIRD with sessions to these neighbours, and a log of all packets.
fn bird(topology: &Topology, sessions: &str) -> Neighbour {
    let interval = "interval 50 ms; multiplier 3;";
    let more = format!(
        "protocol bfd {{ debug all; interface \"*\" {{ {interval} }}; multihop {{ {interval} }}; {sessions} }}\n"
    );
    let speaker = Speaker { bfd: None, more, ..Speaker::new(65001, FAR[0]) };
    Neighbour::start(Kind::Bird, &topology.at("far"), &topology.folder(), &speaker)
}

/// Ours, with all that it has told.
struct Ours {
    bfd: Bfd,
    changes: tokio::sync::mpsc::Receiver<Change>,
}

impl Ours {
    fn start(machine: &Machine, sessions: BTreeMap<BfdKey, BfdState>) -> Ours {
        let (bfd, changes) = machine.within(Bfd::start).unwrap();
        bfd.want(sessions);
        Ours { bfd, changes }
    }

    fn status(&self, key: &BfdKey) -> SessionStatus {
        self.bfd.status().into_iter().find(|status| status.key == *key).unwrap()
    }

    /// The next change, whatever it is about.
    #[track_caller]
    fn next(&mut self, what: &str) -> Change {
        wait::until(what, SOON, || self.changes.try_recv().ok())
    }

    /// Every session goes down in time, says why, and says that once.
    #[track_caller]
    fn assert_silence_is_seen(&mut self, keys: &[BfdKey], since: Instant) {
        let mut missing = keys.to_vec();
        while !missing.is_empty() {
            let change = self.next("silence to be seen");
            assert!(!change.up && change.is_failure && missing.contains(&change.key), "{change:?}");
            assert_eq!(change.diagnostic, Diagnostic::DetectionTimeExpired, "{change:?}");
            let taken = change.at - since;
            println!("{}: seen {taken:?} after the cut", change.key);
            assert!(taken <= DETECTION_TIME + SLACK, "{change:?}: {taken:?}");
            missing.retain(|key| *key != change.key);
        }
    }

    #[track_caller]
    fn until_up(&mut self, keys: &[BfdKey]) {
        let mut missing = keys.to_vec();
        while !missing.is_empty() {
            let change = self.next("sessions to be up");
            assert!(change.up && missing.contains(&change.key), "{change:?}");
            missing.retain(|key| *key != change.key);
        }
    }
}

#[track_caller]
fn until_bird_says(bird: &Neighbour, up: usize) {
    wait::until_true(&format!("BIRD to have {up} sessions up; its log: {}", bird.log()), SOON, || {
        bird.bfd_sessions().iter().filter(|session| session.is_up).count() == up
    });
}

#[test]
fn bird_and_we_watch_a_link() {
    let Some(topology) = Topology::up("bfd", TWO_AND_FAR) else { return };
    let (node, far) = (topology.node(), topology.at("far"));
    // A link-local address as well: it needs the interface on both sides.
    node.sysctl("ipv6/conf/up0/keep_addr_on_down", "1");
    far.run("ip address add fe80::2/64 dev eth0 nodad");
    node.run("ip address add fe80::1/64 dev up0 nodad");
    let sessions = format!(
        "neighbor {} dev \"eth0\" local {}; neighbor {} dev \"eth0\" local {}; neighbor fe80::1 dev \"eth0\" local fe80::2;",
        NODE[0], FAR[0], NODE[1], FAR[1]
    );
    let there = bird(&topology, &sessions);
    let local = BfdKey { peer: ip("fe80::2"), local: Some(ip("fe80::1")), interface: Some("up0".to_string()) };
    let v6 = BfdKey { local: Some(ip(NODE[1])), ..key(FAR[1]) };
    let keys = [key(FAR[0]), v6.clone(), local.clone()];
    let all: BTreeMap<BfdKey, BfdState> = keys.iter().map(|key| (key.clone(), wanted(INTERVAL))).collect();
    let mut ours = Ours::start(&node, all.clone());
    ours.until_up(&keys);
    until_bird_says(&there, 3);
    for key in &keys {
        wait::until_true("the intervals to be agreed on", SOON, || {
            let status = ours.status(key);
            status.interval == INTERVAL && status.detection_time == Some(DETECTION_TIME)
        });
    }
    wait::until_true("BIRD to have agreed", SOON, || {
        there.bfd_sessions().iter().all(|session| session.interval == INTERVAL && session.timeout == DETECTION_TIME)
    });

    // Other intervals are agreed on while the session is up; the others are not touched.
    let discriminators = |ours: &Ours| keys.each_ref().map(|key| ours.status(key).discriminator);
    let before = discriminators(&ours);
    let mut changed = all.clone();
    changed.insert(keys[0].clone(), wanted(INTERVAL * 4));
    ours.bfd.want(changed);
    wait::until_true("BIRD to see the other interval", SOON, || {
        let sessions = there.bfd_sessions();
        let session = sessions.iter().find(|session| session.peer == ip(NODE[0]));
        session.is_some_and(|session| session.interval == INTERVAL * 4 && session.timeout == DETECTION_TIME * 4)
    });
    ours.bfd.want(all.clone());
    wait::until_true("the former interval", SOON, || ours.status(&keys[0]).interval == INTERVAL);
    assert_eq!(discriminators(&ours), before);
    assert!(ours.changes.try_recv().is_err(), "no session has noticed");

    // A link that is cut, and then a neighbour that stands still: silence in both cases.
    let cut_at = Instant::now();
    node.run("ip link set dev up0 down");
    ours.assert_silence_is_seen(&keys, cut_at);
    until_bird_says(&there, 0);
    node.run("ip link set dev up0 up");
    // The others are kept.
    node.run("ip address add fe80::1/64 dev up0 nodad");
    ours.until_up(&keys);
    until_bird_says(&there, 3);
    let cut_at = Instant::now();
    there.freeze(true);
    ours.assert_silence_is_seen(&keys, cut_at);
    there.freeze(false);
    ours.until_up(&keys);
    until_bird_says(&there, 3);

    // BIRD ends without a goodbye (2.0.12 never says AdminDown).
    let cut_at = Instant::now();
    there.terminate();
    ours.assert_silence_is_seen(&keys, cut_at);
    let there = bird(&topology, &sessions);
    ours.until_up(&keys);
    until_bird_says(&there, 3);

    // One session of ours ends: BIRD hears of it, and the others go on.
    ours.bfd.want(all.into_iter().filter(|(key, _)| *key != v6).collect());
    until_bird_says(&there, 2);
    assert!(ours.changes.try_recv().is_err(), "who does not want a session is told nothing about it");
    assert_eq!(ours.status(&local).state, State::Up);
    // We say goodbye.
    let stopped_at = Instant::now();
    drop(ours);
    println!("stopped within {:?}", stopped_at.elapsed());
    assert!(stopped_at.elapsed() < SLACK);
    until_bird_says(&there, 0);
    let heard =
        |log: &str, from: &str| log.lines().any(|line| line.contains(&format!("CTL received from {from} [AdminDown")));
    let log = there.log();
    assert!(heard(&log, NODE[0]) && heard(&log, NODE[1]) && heard(&log, "fe80::1"), "{log}");
}

#[test]
fn bird_and_we_watch_a_path_of_two_hops() {
    let Some(topology) = Topology::up("bfd-hops", TWO_AND_FAR) else { return };
    let (node, web, far) = (topology.node(), topology.at("web"), topology.at("far"));
    node.sysctl("ipv6/conf/caliweb/disable_ipv6", "0");
    for family in [0, 1] {
        let length = ["/24", "/64 nodad"][family];
        node.run(&format!("ip address add dev caliweb {}{length}", NODE_LINK[family]));
        web.run(&format!("ip address add dev eth0 {}{length}", WEB_LINK[family]));
        web.run(&format!("ip route add {} via {}", FAR[family], NODE_LINK[family]));
        far.run(&format!("ip route add {} via {}", WEB_LINK[family], NODE[family]));
    }
    node.sysctl("ipv4/ip_forward", "1");
    node.sysctl("ipv6/conf/all/forwarding", "1");
    let session = |family: usize| format!("neighbor {} local {} multihop yes;", WEB_LINK[family], FAR[family]);
    let there = bird(&topology, &(session(0) + &session(1)));
    let keys = [0, 1].map(|family| BfdKey { local: Some(ip(WEB_LINK[family])), ..key(FAR[family]) });
    let state = BfdState { multihop: true, ..wanted(INTERVAL) };
    let all: BTreeMap<BfdKey, BfdState> = keys.iter().map(|key| (key.clone(), state)).collect();

    // BIRD sends 64, of which the router between us takes one.
    let mut ours = Ours::start(&web, all);
    ours.until_up(&keys);
    until_bird_says(&there, 2);

    let cut_at = Instant::now();
    node.sysctl("ipv4/ip_forward", "0");
    node.sysctl("ipv6/conf/all/forwarding", "0");
    ours.assert_silence_is_seen(&keys, cut_at);
    until_bird_says(&there, 0);
    node.sysctl("ipv4/ip_forward", "1");
    node.sysctl("ipv6/conf/all/forwarding", "1");
    ours.until_up(&keys);
    until_bird_says(&there, 2);
    drop(ours);
    until_bird_says(&there, 0);
}

#[test]
fn sockets_are_tried_again_when_what_was_in_their_way_is_gone() {
    let Some(topology) = Topology::up("bfd-again", TWO_AND_FAR) else { return };
    let (node, far) = (topology.node(), topology.at("far"));
    let near = BfdKey { local: Some(ip(NODE[0])), interface: Some("up0".to_string()), ..key(FAR[0]) };
    let mut there = Ours::start(&far, BTreeMap::from([(key(NODE[0]), wanted(INTERVAL))]));
    let mut first = Ours::start(&node, BTreeMap::from([(near.clone(), wanted(INTERVAL))]));
    first.until_up(std::slice::from_ref(&near));

    // The port is taken: told, and tried again until it is free.
    let mut second = Ours::start(&node, BTreeMap::from([(key(FAR[0]), wanted(INTERVAL))]));
    wait::until_true("the problem to be told", SOON, || {
        second.status(&key(FAR[0])).problem.is_some_and(|problem| problem.contains("in use"))
    });
    drop(first);
    second.until_up(&[key(FAR[0])]);
    // Whose session was shut knows that the path has not failed.
    let told: Vec<(bool, bool, Diagnostic)> = (0..3)
        .map(|_| there.next("a goodbye"))
        .map(|change| (change.up, change.is_failure, change.diagnostic))
        .collect();
    let none = Diagnostic::None;
    assert_eq!(told, [(true, false, none), (false, false, Diagnostic::NeighbourSignaledDown), (true, false, none)]);
    assert_eq!(second.status(&key(FAR[0])).problem, None);
    drop(second);

    // The interface goes away and comes back as another one.
    let mut ours = Ours::start(&node, BTreeMap::from([(near.clone(), wanted(INTERVAL))]));
    ours.until_up(std::slice::from_ref(&near));
    node.run("ip link delete up0");
    let change = ours.next("the cut to be seen");
    assert!(!change.up && change.is_failure, "{change:?}");
    wait::until_true("the problem to be told", SOON, || ours.status(&near).problem.is_some());
    node.run(&format!("ip link add up0 type veth peer name eth0 netns {}", far.namespace()));
    for (machine, interface, address) in [(&node, "up0", NODE[0]), (&far, "eth0", FAR[0])] {
        machine.run(&format!("ip address add {address}/24 dev {interface}"));
        machine.run(&format!("ip link set dev {interface} up"));
    }
    ours.until_up(std::slice::from_ref(&near));
}

/// How often two of ours take each other for gone in five seconds at 3 × 10 ms, while every core is busy. None: they were to
/// have real-time priority, and may not.
fn false_downs_while_cores_are_busy(topology: &Topology, realtime: bool) -> Option<u64> {
    let quick = wanted(Duration::from_millis(10));
    let start = |machine: &Machine, peer: &str| {
        let (bfd, changes) = machine.within(|| Bfd::start_with(realtime)).unwrap();
        bfd.want(BTreeMap::from([(key(peer), quick)]));
        Ours { bfd, changes }
    };
    let mut near = start(&topology.node(), FAR[0]);
    let far = start(&topology.at("far"), NODE[0]);
    near.until_up(&[key(FAR[0])]);
    if realtime && !near.bfd.report().is_realtime {
        return None;
    }
    let is_over = std::sync::atomic::AtomicBool::new(false);
    let spin = || {
        while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
            std::hint::spin_loop();
        }
    };
    std::thread::scope(|scope| {
        (0..2 * std::thread::available_parallelism().unwrap().get()).for_each(|_| drop(scope.spawn(spin)));
        wait::while_true("the sessions are there", Duration::from_secs(5), || true);
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    Some(near.status(&key(FAR[0])).counters.failures + far.status(&key(NODE[0])).counters.failures)
}

#[test]
fn who_spins_on_every_core_makes_no_neighbour_wait() {
    let Some(topology) = Topology::up("bfd-busy", TWO_AND_FAR) else { return };
    let plain = false_downs_while_cores_are_busy(&topology, false);
    let realtime = false_downs_while_cores_are_busy(&topology, true);
    println!("false downs: {realtime:?} with real-time priority, {plain:?} without");
    // A machine that is itself kept from running for thirty milliseconds is no fault of ours.
    let (Some(realtime), Some(plain)) = (realtime, plain) else { return eprintln!("not run: no real-time priority") };
    assert!(realtime <= plain.max(1), "{realtime} with real-time priority, {plain} without");
}
