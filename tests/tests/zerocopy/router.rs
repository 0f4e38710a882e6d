//! The router's daemon over cards in zero-copy mode and a veth in copy mode, which share the worker's frames.
//!
//! Every test ends with the daemon's books: packets in = packets with a fate (`tests::daemon`).

use control::http::views::CopyMode;
use tests::daemon::{Daemon, SOON};
use tests::talk::{Service, echo, pings, udp, until_connected, until_reachable};
use tests::topology::{Topology, said};
use tests::wait;

use crate::cards::{self, CLIENT, FAR, WEB, ip, route_web};

const SETTINGS: [&str; 6] = ["--zero-copy", "auto", "--frames-per-worker", "4096", "--flow-table-size", "4096"];

/// The router, with its cards in the mode that all of this is about.
fn start(topology: &Topology, more: &[&str]) -> Daemon {
    let daemon = Daemon::start(topology, &[&SETTINGS[..], more].concat());
    modes_are_right(&daemon);
    daemon
}

#[track_caller]
fn modes_are_right(daemon: &Daemon) {
    for (name, copy) in [("up0", CopyMode::ZeroCopy), ("caliweb", CopyMode::ZeroCopy), ("caliclient", CopyMode::Copy)] {
        let interface = daemon.interface(name).unwrap_or_else(|| panic!("{name} is not attached: {}", daemon.log()));
        assert!(
            !interface.queues.is_empty() && interface.queues.iter().all(|queue| queue.copy == copy),
            "{interface:?}"
        );
    }
}

/// Pings, TCP with its bytes compared, and datagrams of many lengths, from everybody to everybody.
fn all_talk(topology: &Topology) {
    let machines = [("web", WEB), ("client", CLIENT), ("far", FAR)];
    for (from, _) in machines {
        for (to, addresses) in machines {
            if from == to {
                continue;
            }
            let (from, to) = (topology.at(from), topology.at(to));
            for address in addresses.map(ip) {
                until_reachable(&from, address);
                let service = Service::start(&to, address, 0);
                echo(&mut until_connected(&from, service.address), 1 << 17).unwrap();
                for bytes in [0, 1, 17, 18, 19, 512, 1000, 1450, 1452, 1472, 4000] {
                    udp(&from, &to, address, bytes).unwrap();
                }
            }
        }
    }
    for (name, _) in machines {
        for counter in ["TcpInCsumErrors", "UdpInCsumErrors", "Udp6InCsumErrors"] {
            assert_eq!(topology.at(name).counter(counter), 0, "{name} {counter}");
        }
    }
}

#[test]
fn everybody_reaches_everybody_in_place_and_by_copies() {
    let Some(topology) = cards::up("zero") else { return };
    let daemon = start(&topology, &[]);
    all_talk(&topology);
    for reason in ["transmit_ring_full", "frames_exhausted", "kernel_no_frame", "kernel_no_socket"] {
        assert_eq!(daemon.drops(reason).0, 0, "{reason}");
    }
    daemon.terminate();
}

#[test]
fn workers_share_cards() {
    let Some(topology) = cards::up("zero-two") else { return };
    let _daemon = start(&topology, &["--workers", "0,1", "--busy-poll", "off"]);
    let (client, far) = (topology.at("client"), topology.at("far"));
    for address in FAR.map(ip) {
        until_reachable(&client, address);
        let service = Service::start(&far, address, 0);
        echo(&mut until_connected(&client, service.address), 1 << 16).unwrap();
    }
}

#[test]
fn links_go_down_and_change_their_mtu() {
    let Some(topology) = cards::up("zero-link") else { return };
    let daemon = start(&topology, &[]);
    let (node, web, client) = (topology.node(), topology.at("web"), topology.at("client"));
    FAR.iter().for_each(|address| until_reachable(&client, ip(address)));
    node.run("ip link set dev up0 down");
    wait::until_true("the uplink to be seen down", SOON, || !daemon.interface("up0").unwrap().is_up);
    assert!(!pings(&client, ip(FAR[0])));
    node.run("ip link set dev up0 up");
    until_reachable(&client, ip(FAR[0]));
    // An endpoint's interface is switched on again by the router.
    node.run("ip link set dev caliweb down");
    until_reachable(&client, ip(WEB[0]));
    web.run("ip link set dev eth0 down");
    web.run("ip link set dev eth0 up");
    route_web(&web);
    until_reachable(&client, ip(WEB[0]));
    client.run(&format!("ping -n -c 1 -W 2 -M do -s 1472 {}", WEB[0]));
    node.run("ip link set dev caliweb mtu 1300");
    wait::until_true("the MTU to be followed", SOON, || daemon.interface("caliweb").unwrap().mtu == 1300);
    let text = said(&client.attempt(&format!("ping -n -c 1 -W 1 -M do -s 1472 {}", WEB[0])));
    assert!(text.contains("mtu = 1300"), "{text}");
    client.run(&format!("ping -n -c 1 -W 2 -M do -s 1272 {}", WEB[0]));
    modes_are_right(&daemon);
}

#[test]
fn a_router_that_was_killed_takes_its_cards_again() {
    let Some(topology) = cards::up("zero-kill") else { return };
    let (client, far) = (topology.at("client"), topology.at("far"));
    let daemon = start(&topology, &[]);
    until_reachable(&client, ip(FAR[0]));
    daemon.kill();
    // Nothing passes without it, and the node itself is still there.
    assert!(!pings(&client, ip(FAR[0])));
    until_reachable(&far, ip("192.0.2.1"));
    let daemon = start(&topology, &[]);
    until_reachable(&client, ip(FAR[0]));
    until_reachable(&client, ip(WEB[0]));
    daemon.terminate();
}
