//! The router is killed under load, and the kernel, which could forward, gets nothing to forward.
//!
//! ```text
//!     client ── udp 7000: denied ──▶ web       node: ip_forward=1, routes to both, proxy ARP
//!     client ── udp 7001: allowed ─▶ web       far ── ping ──▶ node: always
//! ```
//!
//! The positive control comes first and last: without our programs the same node forwards the same packets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tests::daemon::{Daemon, SOON};
use tests::load::{Load, count};
use tests::talk::{Service, echo, pings, until_connected, until_reachable};
use tests::topology::{Machine, Topology};
use tests::wait;

use crate::{CLIENT, FAR, NODE, TWO_AND_FAR, WEB, ip};

const DENIED: u16 = 7000;
const ALLOWED: u16 = 7001;
const DENY: &str = "
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: { name: not-7000 }
spec:
  selector: app == 'web'
  types: [Ingress]
  ingress:
    - { action: Deny, protocol: UDP, destination: { ports: [7000] } }
    - { action: Allow }
";
/// How long nothing may come through.
const WATCH: Duration = Duration::from_secs(1);

/// Makes the node's kernel a router for the endpoints, as it would be under another CNI.
fn let_the_kernel_forward(node: &Machine) {
    node.sysctl("ipv4/ip_forward", "1");
    node.sysctl("ipv6/conf/all/forwarding", "1");
    for (interface, position) in [("caliweb", 0), ("caliclient", 1)] {
        node.sysctl(&format!("ipv4/conf/{interface}/proxy_arp"), "1");
        node.sysctl(&format!("ipv4/conf/{interface}/rp_filter"), "0");
        node.sysctl(&format!("ipv6/conf/{interface}/disable_ipv6"), "0");
        for address in [[WEB, CLIENT][position][0], [WEB, CLIENT][position][1]] {
            node.run(&format!("ip route replace {address} dev {interface} metric 1"));
        }
    }
    node.run(&format!("ip route replace default via {} dev up0", FAR[0]));
}

#[test]
fn a_killed_router_lets_nothing_through() {
    let Some(topology) = Topology::up("kill", TWO_AND_FAR) else { return };
    let (node, web, client, far) = (topology.node(), topology.at("web"), topology.at("client"), topology.at("far"));
    let denied = WEB.map(|address| count(&web, ip(address), DENIED));
    let allowed = WEB.map(|address| count(&web, ip(address), ALLOWED));
    let all = |counters: &[Arc<AtomicU64>; 2]| counters.each_ref().map(|counter| counter.load(Ordering::Relaxed));
    let grow = |what: &str, counters: &[Arc<AtomicU64>; 2]| {
        let before = all(counters);
        wait::until_true(what, SOON, || all(counters).iter().zip(before).all(|(now, before)| *now > before + 20));
    };

    let_the_kernel_forward(&node);
    let targets = WEB.iter().flat_map(|web| [DENIED, ALLOWED].map(|port| SocketAddr::new(ip(web), port)));
    let _load = Load::start(&client, targets.collect());
    grow("the kernel to forward, without a router", &denied);

    // The policy is there before the endpoints are, so that no denied datagram ever opens a flow.
    let daemon = Daemon::bare(&topology, &[]);
    daemon.apply(DENY);
    // What the kernel has forwarded before waits for whoever counts it, on a busy machine for a while.
    let (mut last, mut same) = (all(&denied), 0);
    wait::until_true("the receivers to have counted what the kernel forwarded", SOON, || {
        let now = all(&denied);
        same = if std::mem::replace(&mut last, now) == now { same + 1 } else { 0 };
        same >= 20
    });
    let before = all(&denied);
    daemon.cli(&["apply", "-f", topology.manifests().to_str().unwrap()]);
    grow("the router to forward", &allowed);
    assert_eq!(all(&denied), before, "denied while the router runs");
    let ours =
        || node.run("ip route show proto 196").lines().count() + node.run("ip -6 route show proto 196").lines().count();
    let routes = ours();

    daemon.kill();
    let stopped = all(&allowed);
    wait::while_true("no denied datagram arrives after SIGKILL", WATCH, || all(&denied) == before);
    let still = all(&allowed);
    wait::while_true("no datagram at all arrives after SIGKILL", WATCH / 2, || all(&allowed) == still);
    // What was in the receiver's queue at the moment of the kill may have been counted since.
    assert!(still.iter().zip(stopped).all(|(still, stopped)| still - stopped < 5000), "{stopped:?} to {still:?}");
    assert!(!pings(&client, ip(FAR[0])) && !pings(&far, ip(WEB[0])) && !pings(&far, ip(WEB[1])), "by the kernel");
    for address in NODE {
        assert!(pings(&far, ip(address)), "the node itself stays reachable at {address}");
    }

    let daemon = Daemon::bare(&topology, &[]);
    grow("the next router to forward", &allowed);
    assert_eq!(all(&denied), before, "denied while the next router runs");
    assert_eq!(ours(), routes, "the next router found the routes of the first");
    let pair = node.run("ip -o link show").lines().filter(|line| line.contains("vrouter-fp")).count();
    assert_eq!(pair, 2, "one private pair, each end of which names the other");
    until_reachable(&far, ip(WEB[0]));
    daemon.terminate();
    wait::while_true("no denied datagram arrives after SIGTERM", WATCH / 2, || all(&denied) == before);

    // Taken off by hand, our programs were all that held the kernel back.
    for interface in ["caliweb", "caliclient"] {
        node.run(&format!("ip link set dev {interface} xdp off"));
    }
    node.run("ip link delete vrouter");
    let_the_kernel_forward(&node);
    grow("the kernel to forward again", &denied);
}

#[test]
fn what_comes_and_goes_by_the_uplink_is_held_back_too() {
    let Some(topology) = Topology::up("cut", TWO_AND_FAR) else { return };
    let (node, web, client, far) = (topology.node(), topology.at("web"), topology.at("client"), topology.at("far"));
    let arriving =
        [WEB.map(|address| count(&web, ip(address), ALLOWED)), FAR.map(|address| count(&far, ip(address), ALLOWED))];
    let arrived = || -> Vec<u64> { arriving.iter().flatten().map(|counter| counter.load(Ordering::Relaxed)).collect() };
    let grow = |what: &str| {
        let before = arrived();
        wait::until_true(what, SOON, || arrived().iter().zip(&before).all(|(now, before)| *now > before + 20));
    };
    let held = |what: &str| {
        // What was on its way at that moment may still be counted; the load never pauses for so many looks.
        let (mut last, mut still) = (arrived(), 0);
        wait::until_true(what, SOON, || {
            let now = arrived();
            still = if now == last { still + 1 } else { 0 };
            last = now;
            still >= 20
        });
        wait::while_true(what, WATCH, || arrived() == last);
    };

    let_the_kernel_forward(&node);
    let _inward = Load::start(&far, WEB.map(|address| SocketAddr::new(ip(address), ALLOWED)).into());
    let _outward = Load::start(&client, FAR.map(|address| SocketAddr::new(ip(address), ALLOWED)).into());
    grow("the kernel to forward in and out, without a router");

    let daemon = Daemon::start(&topology, &[]);
    grow("the router to forward in and out");
    let service = Service::start(&web, ip(WEB[0]), 0);
    let mut open = until_connected(&far, service.address);
    echo(&mut open, 1000).unwrap();
    daemon.kill();
    held("nothing comes in or goes out after SIGKILL");
    for address in NODE {
        let service = Service::start(&node, ip(address), 0);
        echo(&mut until_connected(&far, service.address), 100_000).unwrap();
    }

    let daemon = Daemon::bare(&topology, &[]);
    grow("the next router to forward in and out");
    echo(&mut open, 100_000).unwrap();
    daemon.terminate();
    held("nothing comes in or goes out after SIGTERM");

    for interface in ["caliweb", "caliclient", "up0"] {
        node.run(&format!("ip link set dev {interface} xdp off"));
    }
    node.run("ip link delete vrouter");
    let_the_kernel_forward(&node);
    grow("the kernel to forward in and out again");
}
