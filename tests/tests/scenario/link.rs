//! Links go down, change their MTU, go away and come back; who is not concerned never notices.
//!
//! ```text
//!     web ──caliweb (down, narrower, deleted, made anew)──┐
//!                                                         ├── router ──up0 (down, made anew)── far
//!  client ──────────────────────────────────────cali…─────┘
//! ```

use tests::daemon::{Daemon, SOON};
use tests::talk::{Service, echo, pings, until_connected, until_reachable};
use tests::topology::{Topology, said};
use tests::wait;

use crate::{CLIENT, FAR, NODE, TWO_AND_FAR, WEB, ip};

#[test]
fn a_link_that_went_down_works_again() {
    let Some(topology) = Topology::up("flap", TWO_AND_FAR) else { return };
    let daemon = Daemon::start(&topology, &[]);
    let (node, web, client) = (topology.node(), topology.at("web"), topology.at("client"));
    for (interface, end, address) in [("caliweb", &web, WEB[0]), ("up0", &topology.at("far"), FAR[0])] {
        until_reachable(&client, ip(address));
        // A stack forgets its routes with its link.
        let routes = end.run("ip -4 route show");
        end.run("ip link set dev eth0 down");
        wait::until_true("the link to be seen down", SOON, || !daemon.interface(interface).unwrap().is_up);
        assert!(!pings(&client, ip(address)));
        end.run("ip link set dev eth0 up");
        wait::until_true("the link to be seen up", SOON, || daemon.interface(interface).unwrap().is_up);
        // The way to the gateway comes last there, and has to be first here.
        for route in routes.lines().rev() {
            end.run(&format!("ip route replace {route}"));
        }
        until_reachable(&client, ip(address));
    }
    // The node's own end: an endpoint's is switched on again by the router, an uplink's by who switched it off.
    node.run("ip link set dev caliweb down");
    until_reachable(&client, ip(WEB[0]));
    node.run("ip link set dev up0 down");
    wait::until_true("the uplink to be seen down", SOON, || !daemon.interface("up0").unwrap().is_up);
    assert!(!pings(&client, ip(FAR[0])));
    node.run("ip link set dev up0 up");
    until_reachable(&client, ip(FAR[0]));
}

#[test]
fn a_new_mtu_is_followed() {
    let Some(topology) = Topology::up("mtu", TWO_AND_FAR) else { return };
    let daemon = Daemon::start(&topology, &[]);
    let (node, client) = (topology.node(), topology.at("client"));
    until_reachable(&client, ip(WEB[0]));
    client.run(&format!("ping -n -c 1 -W 2 -M do -s 1472 {}", WEB[0]));
    node.run("ip link set dev caliweb mtu 1300");
    wait::until_true("the MTU to be followed", SOON, || daemon.interface("caliweb").unwrap().mtu == 1300);
    let text = said(&client.attempt(&format!("ping -n -c 1 -W 1 -M do -s 1472 {}", WEB[0])));
    assert!(text.contains("mtu = 1300"), "{text}");
}

#[test]
fn an_interface_that_is_made_anew_works_and_nobody_else_notices() {
    let Some(topology) = Topology::up("anew", TWO_AND_FAR) else { return };
    let daemon = Daemon::start(&topology, &[]);
    let (node, web, client, far) = (topology.node(), topology.at("web"), topology.at("client"), topology.at("far"));
    until_reachable(&client, ip(WEB[0]));
    let service = Service::start(&far, ip(FAR[0]), 0);
    let mut elsewhere = until_connected(&client, service.address);
    for _ in 0..3 {
        node.run("ip link delete caliweb");
        wait::until_true("the interface to be gone", SOON, || daemon.interface("caliweb").is_none());
        assert!(!pings(&client, ip(WEB[0])));
        echo(&mut elsewhere, 100_000).unwrap();

        let inside = web.namespace();
        node.run(&format!("ip link add caliweb address ee:ee:ee:ee:ee:ee type veth peer name eth0 netns {inside}"));
        node.run("ip link set dev caliweb up");
        web.run("ip link set dev eth0 address 02:6c:61:62:00:01 up");
        web.run(&format!("ip address add {}/32 dev eth0", WEB[0]));
        web.run("ip route add 169.254.1.1 dev eth0");
        web.run("ip route add default via 169.254.1.1 dev eth0");
        web.run(&format!("ip address add {}/128 dev eth0 nodad", WEB[1]));
        web.run("ip -6 route add default via fe80::ecee:eeff:feee:eeee dev eth0");
        for family in 0..2 {
            until_reachable(&client, ip(WEB[family]));
            until_reachable(&web, ip(CLIENT[family]));
        }
        echo(&mut elsewhere, 100_000).unwrap();
    }
}

#[test]
fn an_uplink_that_is_made_anew_works_and_endpoints_do_not_notice() {
    let Some(topology) = Topology::up("new-uplink", TWO_AND_FAR) else { return };
    let daemon = Daemon::start(&topology, &[]);
    let (node, client, far) = (topology.node(), topology.at("client"), topology.at("far"));
    let service = Service::start(&topology.at("web"), ip(WEB[0]), 0);
    let mut between = until_connected(&client, service.address);
    for _ in 0..2 {
        FAR.iter().for_each(|address| until_reachable(&client, ip(address)));
        node.run("ip link delete up0");
        wait::until_true("the uplink to be gone", SOON, || daemon.interface("up0").is_none());
        assert!(FAR.iter().all(|address| !pings(&client, ip(address))));
        echo(&mut between, 100_000).unwrap();

        node.run(&format!("ip link add up0 type veth peer name eth0 netns {}", far.namespace()));
        for (machine, interface, addresses) in [(&node, "up0", NODE), (&far, "eth0", FAR)] {
            machine.run(&format!("ip address add {}/24 dev {interface}", addresses[0]));
            machine.run(&format!("ip address add {}/64 dev {interface} nodad", addresses[1]));
            machine.run(&format!("ip link set dev {interface} up"));
        }
        for endpoint in [WEB, CLIENT] {
            for (address, gateway) in endpoint.iter().zip(NODE) {
                far.run(&format!("ip route add {address} via {gateway}"));
            }
        }
        echo(&mut between, 100_000).unwrap();
    }
    FAR.iter().for_each(|address| until_reachable(&client, ip(address)));
    CLIENT.iter().for_each(|address| until_reachable(&far, ip(address)));
}
