//! A host endpoint on the uplink while packets change threads, while they take several frames, and both.
//!
//! ```text
//!     web, client ── worker 0 ══ hand-off ══ worker 1 ── up0 (guarded) ── far        MTU 1500 | 9000 everywhere
//!                                    └── private pair ── node: ssh (failsafe), 8080 (allowed), 8081
//! ```

use tests::daemon::Daemon;
use tests::talk::{Service, echo, is_silent, pings, udp, until_connected, until_reachable};
use tests::topology::{Machine, Topology};

use crate::{CLIENT, FAR, NODE, WEB, ip, two_and_far_with};

const SSH: u16 = 22;
/// Long enough for many bursts, and for acknowledgements that change threads the other way.
const BULK: usize = 2 << 20;
/// What comes to the host, what it sends, and what is only forwarded: each with a port that is shut.
const POLICY: &str = "
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: { name: uplink, labels: { role: node } }
spec: { node: router, interfaceName: up0 }
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: { name: host }
spec:
  order: 5
  selector: role == 'node'
  types: [Ingress, Egress]
  ingress:
    - { action: Allow, protocol: TCP, destination: { ports: [8080] } }
    - { action: Allow, protocol: UDP }
    - { action: Allow, protocol: ICMP }
    - { action: Allow, protocol: ICMPv6 }
  egress:
    - { action: Allow, protocol: TCP, destination: { ports: [9000] } }
    - { action: Allow, protocol: UDP }
    - { action: Allow, protocol: ICMP }
    - { action: Allow, protocol: ICMPv6 }
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: { name: through }
spec:
  order: 10
  selector: role == 'node'
  applyOnForward: true
  types: [Ingress, Egress]
  ingress: [{ action: Deny, protocol: TCP, destination: { ports: [9002] } }, { action: Pass }]
  egress: [{ action: Deny, protocol: TCP, destination: { ports: [9003] } }, { action: Pass }]
";

fn bulk(from: &Machine, service: &Service) {
    echo(&mut until_connected(from, service.address), BULK).unwrap();
}

fn story(name: &str, workers: &str, mtu: u32) {
    let Some(topology) = Topology::up(name, &two_and_far_with(mtu, "")) else { return };
    let (node, far, client, web) = (topology.node(), topology.at("far"), topology.at("client"), topology.at("web"));
    let daemon = Daemon::start(&topology, &["--workers", workers]);
    let services = |at: &Machine, addresses: [&str; 2], port| addresses.map(|a| Service::start(at, ip(a), port));
    let (ssh, http, shut) = (services(&node, NODE, SSH), services(&node, NODE, 8080), services(&node, NODE, 8081));
    let (outside, shut_outside) = (services(&far, FAR, 9000), services(&far, FAR, 9003));
    let (inside, shut_inside) = (services(&web, WEB, 9001), services(&web, WEB, 9002));
    for service in shut.iter().chain(&shut_inside) {
        bulk(&far, service);
    }
    daemon.apply(POLICY);

    let everything_that_is_open = || {
        for service in ssh.iter().chain(&http).chain(&inside) {
            bulk(&far, service);
        }
        for service in &outside {
            bulk(&node, service);
            bulk(&client, service);
        }
    };
    everything_that_is_open();
    for service in shut.iter().chain(&shut_inside) {
        assert!(is_silent(&far, service.address), "{} from far", service.address);
    }
    for service in &shut_outside {
        assert!(is_silent(&client, service.address), "{} from client", service.address);
        assert!(is_silent(&node, service.address), "{} from the host", service.address);
    }
    for reason in ["host_ingress", "host_egress", "host_forward_ingress", "host_forward_egress"] {
        assert!(daemon.drops(reason).0 > 0, "{reason}");
    }
    // Packets as long as the link lets them be, and such as do not fit in one.
    let ways = [(&far, NODE), (&node, FAR), (&far, WEB), (&client, FAR)];
    for (from, to) in ways {
        for (address, headers) in to.into_iter().zip([28, 48]) {
            from.run(&format!("ping -n -c 2 -i 0.1 -W 2 -M do -s {} {address}", mtu - headers));
        }
    }
    for ((from, to), addresses) in [((&far, &node), NODE), ((&node, &far), FAR), ((&client, &far), FAR)] {
        for address in addresses {
            udp(from, to, ip(address), mtu as usize + 3000).unwrap();
        }
    }
    let handed_off: Vec<u64> = daemon.workers().iter().map(|worker| worker.handed_off).collect();
    assert!(handed_off.len() == 1 || handed_off.iter().all(|packets| *packets > 0), "{handed_off:?}");

    // Without a router failsafe ports stay open, open connections to them too, and nothing else does.
    let mut session = until_connected(&far, ssh[0].address);
    echo(&mut session, BULK).unwrap();
    daemon.kill();
    echo(&mut session, BULK).unwrap();
    for (service, closed) in ssh.iter().zip(&http) {
        bulk(&far, service);
        assert!(is_silent(&far, closed.address), "{} without a router", closed.address);
    }
    for (service, closed) in inside.iter().zip(&outside) {
        assert!(is_silent(&far, service.address), "{} without a router", service.address);
        assert!(is_silent(&node, closed.address), "{} without a router", closed.address);
        assert!(is_silent(&client, closed.address), "{} without a router", closed.address);
    }
    assert!(!pings(&far, ip(NODE[0])) && !pings(&node, ip(FAR[1])) && !pings(&far, ip(WEB[0])), "without a router");

    let daemon = Daemon::bare(&topology, &["--workers", workers]);
    for address in CLIENT.into_iter().chain(WEB) {
        until_reachable(&far, ip(address));
    }
    everything_that_is_open();
    echo(&mut session, BULK).unwrap();
    assert!(is_silent(&far, shut[0].address) && is_silent(&far, shut_inside[1].address), "under the next router");
    for machine in [&node, &far, &client, &web] {
        for counter in ["TcpInCsumErrors", "UdpInCsumErrors", "Udp6InCsumErrors"] {
            assert_eq!(machine.counter(counter), 0, "{counter} at {}", machine.namespace());
        }
    }
    drop(daemon);
}

#[test]
fn two_workers() {
    story("guardtwo", "0,1", 1500);
}

#[test]
fn packets_of_several_frames() {
    story("guardlong", "0", 9000);
}

#[test]
fn two_workers_and_packets_of_several_frames() {
    story("guardboth", "0,1", 9000);
}
