//! Endpoints that the router prepares when it attaches them, as a user sees it: by either back-end, at MTU 1500 and 9000, and an
//! endpoint whose other end is out of reach.

use tests::daemon::{Daemon, SOON};
use tests::talk::until_reachable;
use tests::topology::{Machine, Topology};
use tests::wait;

use crate::iperf::{LEAST, iperf};
use crate::{WEB, ip, two_and_far_with};

/// What was done to an interface, in order; a step that failed has an exclamation mark.
fn prepared(daemon: &Daemon, interface: &str) -> Vec<String> {
    let steps = daemon.interface(interface).map(|view| view.prepared).unwrap_or_default();
    let word = |failure: &Option<String>| if failure.is_some() { "!" } else { "" };
    steps.iter().map(|step| format!("{}{}", word(&step.failure), step.step)).collect()
}

fn feature(machine: &Machine, interface: &str, name: &str) -> bool {
    let text = machine.run(&format!("ethtool -k {interface}"));
    text.lines().any(|line| line.trim() == format!("{name}: on"))
}

fn story(name: &str, mtu: u32, io: &str, inside: &[&str]) {
    let Some(topology) = Topology::up(name, &two_and_far_with(mtu, ", offload: leave")) else { return };
    let (node, web, client) = (topology.node(), topology.at("web"), topology.at("client"));
    assert!(feature(&node, "caliweb", "tcp-segmentation-offload") && !feature(&web, "eth0", "generic-receive-offload"));
    let daemon = Daemon::start(&topology, &["--io", io]);
    until_reachable(&client, ip(WEB[0]));
    let all = [&["tso"], inside].concat();
    wait::until_true("endpoints to be prepared", SOON, || {
        ["caliweb", "caliclient"].iter().all(|interface| prepared(&daemon, interface).len() == all.len())
    });
    assert_eq!(prepared(&daemon, "caliweb"), all);
    assert_eq!(prepared(&daemon, "up0"), [""; 0]);
    assert!(!feature(&node, "caliweb", "tcp-segmentation-offload"));
    assert!(feature(&web, "eth0", "generic-receive-offload"));
    assert_eq!(feature(&web, "eth0", "tx-checksumming"), !inside.contains(&"checksums"));
    // Only a command of `ip netns exec` sees the namespace's own /sys.
    let threaded = node.run(&format!("ip netns exec {} cat /sys/class/net/eth0/threaded", web.namespace()));
    assert_eq!(threaded.trim(), "1");
    let text = daemon.cli(&["show", "interfaces", "-o", "wide"]);
    assert!(text.contains(&all.join(",")), "{text}");

    let _server = web.start("iperf3 -s");
    for address in WEB {
        until_reachable(&client, ip(address));
        for reverse in ["", "-R"] {
            let rate = iperf(&client, address, reverse);
            assert!(rate > LEAST, "{rate} bit/s between client and {address} {reverse}, MTU {mtu}, {io}");
        }
    }
    for machine in [&web, &client] {
        assert_eq!(machine.counter("TcpInCsumErrors"), 0, "at {}", machine.namespace());
    }
}

#[test]
fn by_our_own_sockets_at_mtu_1500() {
    story("prep", 1500, "raw", &["gro", "thread"]);
}

#[test]
fn by_our_own_sockets_at_mtu_9000() {
    story("prep-jumbo", 9000, "raw", &["gro", "thread"]);
}

#[test]
fn by_xsk_rs_at_mtu_1500() {
    story("prep-xskrs", 1500, "xsk-rs", &["checksums", "gro", "thread"]);
}

#[test]
fn by_xsk_rs_at_mtu_9000() {
    story("prep-xskrs-jumbo", 9000, "xsk-rs", &["checksums", "gro", "thread"]);
}

#[test]
fn an_endpoint_out_of_reach_is_attached_all_the_same() {
    let Some(topology) = Topology::up("prep-far", &two_and_far_with(1500, ", offload: leave")) else { return };
    let node = topology.node();
    // Its other end is where no name and no namespace of its own leads: in the node itself.
    node.run("ip link add calinear type veth peer name calinear1");
    node.run("ip link set calinear1 up");
    let daemon = Daemon::start(&topology, &[]);
    node.run("ip link set calinear up");
    wait::until_true("the interface to be attached and seen up", SOON, || {
        daemon.interface("calinear").is_some_and(|view| view.is_up && view.prepared.len() == 3)
    });
    assert_eq!(prepared(&daemon, "calinear"), ["tso", "!gro", "!thread"]);
    let reason = daemon.interface("calinear").unwrap().prepared[1].failure.clone().unwrap();
    assert!(reason.contains("in another network namespace"), "{reason}");
    until_reachable(&topology.at("client"), ip(WEB[0]));
}
