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
    let client = topology.at("client");
    for far in FAR {
        until_reachable(&client, ip(far));
        let text = client.run(&format!("traceroute -n -q 1 -w 2 -m 4 {far}"));
        let hops: Vec<&str> = text.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)).collect();
        assert_eq!(hops.len(), 2, "the router, then {far}: {text}");
        assert!(hops[0].parse::<std::net::IpAddr>().is_ok(), "the router answered: {text}");
        assert_eq!(hops[1], far, "{text}");
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
