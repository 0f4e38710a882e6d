//! Everybody reaches everybody, as far as the MTU allows and a little further.
//!
//! ```text
//!     web ──caliweb──┐
//!                    ├── router ──up0 (MTU 1400 in one story)── far
//!  client ──cali…────┘
//! ```

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::thread;

use tests::daemon::Daemon;
use tests::talk::{self, Service, echo, udp, until_connected, until_reachable};
use tests::topology::{Topology, said};

use crate::{CLIENT, FAR, TWO_AND_FAR, WEB, ip};

/// Enough that TCP has to send full segments.
const LENGTH: usize = 1 << 20;

#[test]
fn everybody_reaches_everybody() {
    let Some(topology) = Topology::up("plain", TWO_AND_FAR) else { return };
    let _daemon = Daemon::start(&topology, &[]);
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
                echo(&mut until_connected(&from, service.address), 1 << 20).unwrap();
                udp(&from, &to, address, 1000).unwrap();
            }
        }
    }
}

#[test]
fn traceroute_finds_the_router_in_between() {
    let Some(topology) = Topology::up("trace", TWO_AND_FAR) else { return };
    let _daemon = Daemon::start(&topology, &[]);
    for (from, addresses) in [("client", FAR), ("far", CLIENT), ("client", WEB)] {
        let from = topology.at(from);
        for to in addresses {
            until_reachable(&from, ip(to));
            let text = from.run(&format!("traceroute -n -q 1 -w 2 -m 4 {to}"));
            let hops: Vec<&str> = text.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)).collect();
            assert_eq!(hops.len(), 2, "the router, then {to}: {text}");
            assert!(hops[0].parse::<std::net::IpAddr>().is_ok(), "the router answered: {text}");
            assert_eq!(hops[1], to, "{text}");
        }
    }
}

#[test]
fn a_smaller_mtu_on_the_way_is_told_and_kept() {
    let Some(topology) = Topology::up("pmtu", TWO_AND_FAR) else { return };
    // The far end thinks it may send and receive 1500, so that only the router can tell.
    topology.node().run("ip link set dev up0 mtu 1400");
    let _daemon = Daemon::start(&topology, &[]);
    let (client, far) = (topology.at("client"), topology.at("far"));
    for address in FAR {
        until_reachable(&client, ip(address));
        let output = client.attempt(&format!("ping -n -c 2 -W 1 -M do -s 1420 {address}"));
        let text = said(&output);
        assert!(text.contains("mtu = 1400") || text.contains("mtu=1400"), "{text}");
        assert!(!output.status.success(), "{text}");
        // 1372 and 8 bytes of ICMP in 20 of IPv4: just fits.
        let fits = if address.contains(':') { 1352 } else { 1372 };
        client.run(&format!("ping -n -c 1 -W 2 -M do -s {fits} {address}"));
        // The path is forgotten, so that TCP has to find out by itself.
        client.attempt("ip route flush cache");
        client.attempt("ip -6 route flush cache");
        let listener = far.within(|| TcpListener::bind((ip(address), 0))).unwrap();
        let port = listener.local_addr().unwrap().port();
        let receiver = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(talk::PATIENCE)).unwrap();
            stream.read_exact(&mut vec![0; LENGTH]).unwrap();
        });
        let target = SocketAddr::new(ip(address), port);
        until_connected(&client, target).write_all(&vec![7; LENGTH]).unwrap();
        receiver.join().unwrap();
    }
}

#[test]
fn a_narrow_endpoint_is_told_of_to_neighbours_and_to_the_far_side() {
    let narrow = TWO_AND_FAR.replace("labels: { app: web } }", "labels: { app: web }, mtu: 1280 }");
    let Some(topology) = Topology::up("narrow", &narrow) else { return };
    let _daemon = Daemon::start(&topology, &[]);
    let web = topology.at("web");
    // It offers segments that its own link cannot carry, so that nobody but the router can tell.
    web.run("ip route add default via 169.254.1.1 dev eth0 metric 1 advmss 1460");
    web.run("ip -6 route add default via fe80::ecee:eeff:feee:eeee dev eth0 metric 1 advmss 1440");
    for from in ["client", "far"] {
        let from = topology.at(from);
        for (address, fits, told) in [(WEB[0], 1252, "IcmpInDestUnreachs"), (WEB[1], 1232, "Icmp6InPktTooBigs")] {
            until_reachable(&from, ip(address));
            from.run(&format!("ping -n -c 1 -W 2 -M do -s {fits} {address}"));
            let text = said(&from.attempt(&format!("ping -n -c 2 -W 1 -M do -s {} {address}", fits + 1)));
            assert!(text.contains("mtu = 1280") || text.contains("mtu=1280"), "{text}");
            from.attempt("ip route flush cache");
            from.attempt("ip -6 route flush cache");
            let before = from.counter(told);
            let service = Service::start(&web, ip(address), 0);
            echo(&mut until_connected(&from, service.address), LENGTH).unwrap();
            assert!(from.counter(told) > before, "{address}: no segment was too big");
        }
    }
}

#[test]
fn fragments_arrive_whole() {
    let Some(topology) = Topology::up("frag", TWO_AND_FAR) else { return };
    let _daemon = Daemon::start(&topology, &[]);
    let (client, web, far) = (topology.at("client"), topology.at("web"), topology.at("far"));
    for (to, addresses) in [(&web, WEB), (&far, FAR)] {
        for address in addresses {
            until_reachable(&client, ip(address));
            client.run(&format!("ping -n -c 3 -i 0.1 -W 2 -s 4000 {address}"));
            talk::udp(&client, to, ip(address), 8000).unwrap();
        }
    }
}
