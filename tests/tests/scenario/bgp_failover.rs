//! A next hop of very many prefixes falls silent: how long until packets go by the alternative, counted in packets that are lost.
//!
//! ```text
//!     web ──caliweb── router ──up0── far   the best way to all prefixes, watched by BFD
//!                            └─up1── tor   the same prefixes, a longer path
//! ```
//!
//! `web` sends numbered datagrams to many of the prefixes in turn. Then every packet is lost at `far`, whose link stays up.
//!
//! An ordinary run has few prefixes and slow BFD, and asks only that BFD, not the hold time, ends the loss. For the figure, with
//! a release build on a machine that has nothing else to do:
//! `FAILOVER_PREFIXES=100000 cargo test --release -p tests --test scenario -- --nocapture failover`.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use config::net::Cidr;
use tests::bgp::ours::{self, AS_NUMBER, Session};
use tests::bgp::{Announced, Bfd, Kind, Neighbour, Peer, Speaker};
use tests::daemon::Daemon;
use tests::talk::until_reachable;
use tests::topology::{Machine, Topology};
use tests::wait;

use crate::{CHAIN, FAR, NODE, ip};

const TOR: &str = "172.31.1.2";
const NODE_AT_TOR: &str = "172.31.1.1";
const OTHER: u32 = 65001;
const PORT: u16 = 9;

/// Prefixes in an ordinary run.
const PREFIXES: u32 = 1000;
const SLOWLY: Bfd = Bfd { interval: Duration::from_millis(100), multiplier: 3 };
/// So that `tor` counts as a neighbour on a link, and BFD is of one hop.
const NODE_WITH_LINKS: &str = r#"---
apiVersion: projectcalico.org/v3
kind: Node
metadata: { name: router }
spec:
  bgp: { ipv4Address: 192.0.2.1/24, ipv6Address: "2001:db8::1/64" }
  interfaces: [{ name: up1, addresses: [172.31.1.1/24] }]
"#;
/// For the figure.
const QUICKLY: Bfd = Bfd { interval: Duration::from_millis(10), multiplier: 3 };

/// Of all prefixes, those that are sent to.
const FLOWS: u32 = 64;
const INTERVAL: Duration = Duration::from_micros(500);
const BEFORE: Duration = Duration::from_secs(1);
const AFTER: Duration = Duration::from_secs(3);
/// Learning very many.
const LIMIT: Duration = Duration::from_secs(120);
/// The hold time is many times as long: whatever ends the loss in time, BGP does not.
const HOLD_TIME: Duration = Duration::from_secs(240);

fn prefix(number: u32) -> Cidr {
    Cidr::new((0x1400_0000 + (number << 8)).to_be_bytes().into(), 24).unwrap()
}

/// All of the prefixes, by a path of this length.
fn neighbour(topology: &Topology, name: &str, prefixes: u32, as_path: &[u32], bfd: Bfd) -> Neighbour {
    let machine = topology.at(name);
    let (address, node) = if name == "far" { (FAR[0], NODE[0]) } else { (TOR, NODE_AT_TOR) };
    // Whoever is sent to there is there.
    machine.run("ip route add local 20.0.0.0/7 dev lo");
    machine.run(&format!("ip route add 10.65.0.0/16 via {node}"));
    let peer = Peer {
        families: vec![config::net::IpVersion::V4],
        local_address: Some(ip(address)),
        bfd: true,
        hold_time: HOLD_TIME,
        ..Peer::new(node, AS_NUMBER)
    };
    let route = |number| Announced {
        prefix: prefix(number),
        next_hop: Some(ip(address)),
        as_path: as_path.to_vec(),
        ..Announced::new("20.0.0.0/24")
    };
    let speaker = Speaker {
        peers: vec![peer],
        routes: (0..prefixes).map(route).collect(),
        bfd: Some(bfd),
        ..Speaker::new(OTHER, address)
    };
    let neighbour = Neighbour::start(Kind::Bird, &machine, &topology.folder(), &speaker);
    neighbour.hurry();
    neighbour
}

/// Hears whatever is sent to `PORT`.
fn listen(at: &Machine) -> UdpSocket {
    let socket = at.within(|| UdpSocket::bind(("0.0.0.0", PORT))).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    socket
}

/// Numbers of what arrives, until it is over.
fn receive(socket: &UdpSocket, is_over: &AtomicBool) -> Vec<usize> {
    let (mut numbers, mut buffer) = (Vec::new(), [0; 8]);
    while !is_over.load(Ordering::Relaxed) {
        if let Ok(8) = socket.recv(&mut buffer) {
            numbers.extend(usize::try_from(u64::from_be_bytes(buffer)));
        }
    }
    numbers
}

/// Sends to all flows in turn. Returns when each datagram was sent.
fn send(from: &Machine, prefixes: u32, is_over: &AtomicBool) -> Vec<Instant> {
    let socket = from.within(|| UdpSocket::bind(("0.0.0.0", 0))).unwrap();
    let mut sent = Vec::new();
    while !is_over.load(Ordering::Relaxed) {
        let flow = sent.len() as u32 % FLOWS;
        let mut address = prefix(flow * (prefixes / FLOWS)).address();
        if let std::net::IpAddr::V4(network) = address {
            address = (network.to_bits() + 1).to_be_bytes().into();
        }
        sent.push(Instant::now());
        // What cannot be sent does not arrive.
        let _ = socket.send_to(&(sent.len() as u64 - 1).to_be_bytes(), (address, PORT));
        thread::park_timeout(INTERVAL);
    }
    sent
}

#[test]
fn failover_to_the_alternative_of_very_many_prefixes_does_not_wait_for_bgp() {
    let Some(topology) = Topology::up("bgp-fail", CHAIN) else { return };
    let asked = std::env::var("FAILOVER_PREFIXES").ok();
    let prefixes: u32 = asked.as_ref().map_or(PREFIXES, |text| text.parse().expect("FAILOVER_PREFIXES: a number"));
    let (bfd, words) = if asked.is_some() { (QUICKLY, "10ms x 3") } else { (SLOWLY, "100ms x 3") };
    let daemon = Daemon::start(&topology, &["--uplinks", "up0,up1"]);
    let _far = neighbour(&topology, "far", prefixes, &[], bfd);
    let tor = neighbour(&topology, "tor", prefixes, &[65009, 65010], bfd);
    let watched = |address| Session {
        spec: vec!["filters: [everything]", "sourceAddress: None"],
        annotations: vec![("bfd", words), ("hold-time", "240s")],
        ..Session::new(address, OTHER)
    };
    daemon.apply(&(ours::manifests(&[watched(FAR[0]), watched(TOR)], "") + NODE_WITH_LINKS));
    wait::until_true("all prefixes by both ways", LIMIT, || {
        let peers = ours::peers(&daemon);
        peers.len() == 2 && peers.iter().all(|peer| peer.accepted == u64::from(prefixes))
    });
    let (web, far, at_tor) = (topology.at("web"), topology.at("far"), topology.at("tor"));
    until_reachable(&web, ip("20.0.0.1"));
    let why = daemon.cli(&["bgp", "why", "20.0.0.0/24"]);
    assert!(why.contains(FAR[0]) && why.contains(TOR), "{why}");
    wait::until_true("BFD to be up", LIMIT, || {
        let up = |address| daemon.cli(&["bgp", "neighbor", address, "-o", "json"]).contains("\"isBfdUp\": true");
        up(FAR[0]) && up(TOR)
    });
    // What was learned is written into the kernel, too, which takes a while and the machine's time.
    wait::until_true("the machine to be quiet", LIMIT, || {
        topology.node().run("ip -4 route show proto 197").lines().count() as u32 >= prefixes
    });

    let (by_far, by_tor) = (listen(&far), listen(&at_tor));
    // So that one more rule of routing can come before all others.
    far.run("ip rule add pref 10 lookup local");
    far.run("ip rule del pref 0");
    let is_over = AtomicBool::new(false);
    let (sent, cut_at, by_far, by_tor) = thread::scope(|scope| {
        let by_far = scope.spawn(|| receive(&by_far, &is_over));
        let by_tor = scope.spawn(|| receive(&by_tor, &is_over));
        let sender = scope.spawn(|| send(&web, prefixes, &is_over));
        thread::park_timeout(BEFORE);
        let cut_at = Instant::now();
        // Neither in nor out, and the link has its carrier.
        far.run("ip rule add pref 5 blackhole");
        thread::park_timeout(AFTER);
        is_over.store(true, Ordering::Relaxed);
        (sender.join().unwrap(), cut_at, by_far.join().unwrap(), by_tor.join().unwrap())
    });
    drop(tor);
    let (last_by_far, first_by_tor) =
        (by_far.iter().max().unwrap(), by_tor.iter().min().expect("nothing by the other way"));
    let mut is_lost = vec![true; sent.len()];
    by_far.iter().chain(&by_tor).for_each(|number| is_lost[*number] = false);
    let lost: Vec<usize> = (0..sent.len()).filter(|number| is_lost[*number]).collect();
    println!(
        "{prefixes} prefixes, BFD {words}: {} of {} packets lost; {:.1} ms from the last by the first way to the first by \
         the other, which was sent {:.1} ms after the cut was asked for; the last that was lost {:.1} ms after",
        lost.len(),
        sent.len(),
        (sent[*first_by_tor] - sent[*last_by_far]).as_secs_f64() * 1e3,
        (sent[*first_by_tor] - cut_at).as_secs_f64() * 1e3,
        lost.last().map_or(0.0, |number| (sent[*number] - cut_at).as_secs_f64() * 1e3),
    );
    let end = cut_at + AFTER - Duration::from_secs(1);
    assert!(lost.iter().all(|number| sent[*number] >= cut_at), "before the cut nothing is lost: {lost:?}");
    assert!(
        lost.iter().all(|number| sent[*number] < end),
        "the loss is over before the hold time: {} lost",
        lost.len()
    );
    assert!(lost.iter().all(|number| number > last_by_far), "by the first way until the cut");
}
