//! Workloads leave with the node's address, answers find back, and the host keeps what is its own.
//!
//! ```text
//!     web ──caliweb──┐                       no way back to 10.65/16
//!                    ├── router ──up0── far  and fd65::/112
//!  client ──cali…────┘   192.0.2.1, 2001:db8::1
//! ```

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use control::http::views::FlowView;
use serde_json::json;
use tests::daemon::{self, Daemon};
use tests::talk::{
    self, PATIENCE, Service, echo, is_silent, pings, udp, udp_to_port, until_connected, until_reachable,
};
use tests::topology::{Machine, Topology, said};
use tests::wait;

use crate::attach::{self, Container};
use crate::{CLIENT, FAR, NODE, TWO_AND_FAR, WEB, ip};

const POOLS: &str = "
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: { name: four }
spec: { cidr: 10.65.0.0/16, natOutgoing: true }
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: { name: six }
spec: { cidr: fd65::/112, natOutgoing: true }
";
/// In the range that translated sources are given.
const PORTS: std::ops::RangeInclusive<u16> = 20_000..=29_999;

/// The far end does not know where workloads are: what is not translated is not answered.
fn forget_the_way_back(far: &Machine) {
    for line in ["ip -o route show", "ip -6 -o route show"] {
        for route in far.run(line).lines().filter(|route| route.contains(" via ")) {
            let family = if route.contains(':') { "-6" } else { "-4" };
            far.run(&format!("ip {family} route del {}", route.split_whitespace().next().unwrap()));
        }
    }
}

/// Who the far end sees, sooner or later.
fn seen_by(far: &Machine, from: &Machine, address: &str) -> SocketAddr {
    wait::until_ok("a connection", PATIENCE, || seen_at_once(far, from, address))
}

fn seen_at_once(far: &Machine, from: &Machine, address: &str) -> io::Result<SocketAddr> {
    let listener = far.within(|| TcpListener::bind((ip(address), 0)))?;
    let _stream = talk::connect(from, listener.local_addr()?, talk::IN_VAIN)?;
    Ok(listener.accept()?.1)
}

/// Everything that works between two machines with a router in between.
fn everything(from: &Machine, far: &Machine) {
    for (address, node) in FAR.into_iter().zip(NODE) {
        until_reachable(from, ip(address));
        let service = Service::start(far, ip(address), 0);
        echo(&mut until_connected(from, service.address), 1 << 20).unwrap();
        udp(from, far, ip(address), 1000).unwrap();
        // In pieces, both ways.
        udp(from, far, ip(address), 8000).unwrap();
        from.run(&format!("ping -n -c 2 -i 0.1 -W 2 -s 4000 {address}"));
        let seen = seen_by(far, from, address);
        assert_eq!(seen.ip(), ip(node), "the node's address");
        assert!(PORTS.contains(&seen.port()), "{seen}");
    }
}

/// A datagram to a port where nobody listens: the far end's error comes to who sent it.
fn is_refused(from: &Machine, to: SocketAddr) {
    let socket = from.within(|| UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })).unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send(b"anybody?").unwrap();
    let error = socket.recv(&mut [0; 16]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{to}: {error}");
}

#[test]
fn workloads_reach_who_does_not_know_them() {
    let Some(topology) = Topology::up("translate", TWO_AND_FAR) else { return };
    let (node, far, web, client) = (topology.node(), topology.at("far"), topology.at("web"), topology.at("client"));
    let daemon = Daemon::start(&topology, &[]);
    for address in FAR {
        until_reachable(&web, ip(address));
    }
    forget_the_way_back(&far);
    wait::until_true("nobody to answer workloads", PATIENCE, || !pings(&web, ip(FAR[0])) && !pings(&web, ip(FAR[1])));
    daemon.apply(POOLS);
    everything(&web, &far);
    everything(&client, &far);
    for address in FAR {
        is_refused(&web, SocketAddr::new(ip(address), 9));
        let hops = web.run(&format!("traceroute -n -q 1 -w 2 -m 4 {address}"));
        assert_eq!(hops.lines().last().and_then(|line| line.split_whitespace().nth(1)), Some(address), "{hops}");
    }

    let trace = |to: &str| daemon.cli(&["trace", "--from", "default/web", "--src", WEB[0], "--dst", to, "--tcp", "80"]);
    let told = trace(FAR[0]);
    assert!(told.contains("its source becomes 192.0.2.1, with a port of 20000-29999"), "{told}");
    assert!(!trace(CLIENT[0]).contains("translate"));

    // Among themselves workloads have their own addresses.
    for (address, own) in CLIENT.into_iter().zip(WEB) {
        assert_eq!(seen_by(&client, &web, address).ip(), ip(own));
    }
    // Two at once to one place, each with its own answers.
    let service = Service::start(&far, ip(FAR[0]), 0);
    let mut streams = [&web, &client].map(|from| until_connected(from, service.address));
    for _ in 0..3 {
        streams.iter_mut().for_each(|stream| echo(stream, 100_000).unwrap());
    }
    let flows: Vec<FlowView> = daemon.show("flows");
    let outside = flows.iter().filter(|flow| flow.destination_port == Some(service.address.port()));
    let outside: Vec<_> = outside.filter_map(|flow| flow.outside).collect();
    assert_eq!(outside.len(), 2, "{flows:?}");
    assert!(outside.iter().all(|outside| outside.address == ip(NODE[0]) && PORTS.contains(&outside.port)));

    // What the host has in that range is the host's: its services, its connections, its errors.
    for (address, far_address) in NODE.into_iter().zip(FAR) {
        let service = Service::start(&node, ip(address), 27_017);
        echo(&mut until_connected(&far, service.address), 1 << 20).unwrap();
        udp_to_port(&far, &node, SocketAddr::new(ip(address), 20_053), 7000).unwrap();
        is_refused(&far, SocketAddr::new(ip(address), 20_054));
        is_refused(&node, SocketAddr::new(ip(far_address), 9));
        far.run(&format!("ping -n -c 2 -i 0.1 -W 2 -s 4000 {address}"));
        node.run(&format!("ping -n -c 2 -i 0.1 -W 2 -s 4000 {far_address}"));
    }

    // A restart takes nothing from open connections, while they talk and while they do not.
    let is_over = AtomicBool::new(false);
    let mut busy = until_connected(&web, service.address);
    let daemon = thread::scope(|scope| {
        let talking = scope.spawn(|| {
            let mut rounds = 0;
            while !is_over.load(Ordering::Relaxed) {
                echo(&mut busy, 200_000).unwrap();
                rounds += 1;
            }
            rounds
        });
        daemon.terminate();
        let daemon = Daemon::bare(&topology, &[]);
        streams.iter_mut().for_each(|stream| echo(stream, 100_000).unwrap());
        is_over.store(true, Ordering::Relaxed);
        assert!(talking.join().unwrap() > 1);
        daemon
    });
    everything(&web, &far);

    // What pools say no more holds for who begins now.
    daemon.apply(&POOLS.replace("natOutgoing: true", "natOutgoing: false"));
    streams.iter_mut().for_each(|stream| echo(stream, 100_000).unwrap());
    assert!(is_silent(&web, service.address), "translated after it was told not to");
    daemon.apply(POOLS);
    everything(&web, &far);
    for machine in [&node, &far, &client, &web] {
        for counter in ["TcpInCsumErrors", "UdpInCsumErrors", "Udp6InCsumErrors"] {
            assert_eq!(machine.counter(counter), 0, "{counter} at {}", machine.namespace());
        }
    }
}

#[test]
fn a_guarded_uplink_translates_too() {
    let Some(topology) = Topology::up("translateguard", TWO_AND_FAR) else { return };
    let (node, far, web) = (topology.node(), topology.at("far"), topology.at("web"));
    let daemon = Daemon::start(&topology, &["--workers", "0,1"]);
    forget_the_way_back(&far);
    daemon.apply(POOLS);
    daemon.apply(
        "
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: { name: uplink, labels: { role: node } }
spec: { node: router, interfaceName: up0 }
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: { name: host }
spec:
  selector: role == 'node'
  types: [Ingress, Egress]
  ingress: [{ action: Allow, protocol: TCP, destination: { ports: [25000] } }]
  egress: [{ action: Allow }]
",
    );
    everything(&web, &far);
    for address in NODE {
        let [open, shut] = [25_000, 25_001].map(|port| Service::start(&node, ip(address), port));
        echo(&mut until_connected(&far, open.address), 100_000).unwrap();
        assert!(is_silent(&far, shut.address), "{}", shut.address);
    }
    for address in FAR {
        is_refused(&web, SocketAddr::new(ip(address), 9));
    }
}

/// What a network plugin's configuration asks for with `ipMasq`, whoever gives the addresses.
#[test]
fn a_container_whose_network_says_so() {
    let Some(topology) = Topology::up("translatecni", TWO_AND_FAR) else { return };
    let (node, far) = (topology.node(), topology.at("far"));
    let plugin = topology.folder().join("vrouter-cni");
    std::os::unix::fs::symlink(daemon::program().get_program(), &plugin).unwrap();
    let daemon = Daemon::start(&topology, &[]);
    forget_the_way_back(&far);
    daemon.apply(&POOLS.replace("natOutgoing: true", "natOutgoing: false"));
    let ours = json!({ "type": "vrouter-ipam", "assign_ipv6": true });
    let other = json!({
        "type": "host-local", "dataDir": topology.folder().join("host-local"),
        "ranges": [[{ "subnet": "10.99.0.0/24" }], [{ "subnet": "fd99::/64" }]],
    });
    for (ipam, name) in [(ours, "ours"), (other, "other")] {
        let container = Container::new(&format!("translatecni-{name}"));
        let inside = Machine::of(&container.name());
        let call = |verb: &str, masquerades: bool| {
            attach::call(&node, &plugin, &topology.folder(), verb, &container.name(), &container.path(), |_, config| {
                config["ipam"] = ipam.clone();
                config["ipMasq"] = json!(masquerades);
            })
        };
        for masquerades in [false, true] {
            call("ADD", masquerades).result();
            for (address, own) in FAR.into_iter().zip(NODE) {
                if masquerades {
                    until_reachable(&inside, ip(address));
                    assert_eq!(seen_by(&far, &inside, address).ip(), ip(own), "{name}");
                } else {
                    assert!(!pings(&inside, ip(address)), "{name}: {address} without ipMasq");
                }
            }
            assert!(call("DEL", masquerades).is_success());
        }
    }
}

/// The node has another address: what is open ends, what begins has the new one.
#[test]
fn an_address_that_goes_takes_its_flows_along() {
    let Some(topology) = Topology::up("translateaway", TWO_AND_FAR) else { return };
    let (node, far, web) = (topology.node(), topology.at("far"), topology.at("web"));
    let daemon = Daemon::start(&topology, &[]);
    for address in FAR {
        until_reachable(&web, ip(address));
    }
    daemon.apply(POOLS);
    until_reachable(&web, ip(FAR[0]));
    let mut open = until_connected(&web, Service::start(&far, ip(FAR[0]), 0).address);
    echo(&mut open, 1000).unwrap();
    node.run("ip address del 192.0.2.1/24 dev up0");
    node.run("ip address add 192.0.2.77/24 dev up0");
    wait::until_true("the new address", PATIENCE, || {
        seen_at_once(&far, &web, FAR[0]).is_ok_and(|seen| seen.ip() == ip("192.0.2.77"))
    });
    open.set_read_timeout(Some(talk::IN_VAIN)).unwrap();
    assert!(is_cut(&mut open), "under an address that the node has no more");
    let status = said(&daemon.attempt(&["show", "status"]));
    assert!(!status.contains("to translate sources to"), "{status}");
}

fn is_cut(stream: &mut TcpStream) -> bool {
    stream.write_all(b"still there?").is_err() || !matches!(stream.read(&mut [0; 16]), Ok(1..))
}
