//! Wrong manifests, restarts, and an endpoint that does not behave.
//!
//! ```text
//!     client ── forged, broken, cut ──▶ router ──▶ nobody
//! ```

use std::net::SocketAddr;

use socket2::{Domain, Protocol, Socket, Type};
use tests::daemon::{Daemon, SOON};
use tests::talk::{Service, echo, is_silent, until_connected, until_reachable};
use tests::topology::{Topology, said};
use tests::wait;

use crate::{TWO_AND_FAR, WEB, ip};

const DENY_ALL: &str = "
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: { name: deny-web }
spec: { selector: app == 'web', types: [Ingress], ingress: [{ action: Deny }] }
";

#[test]
fn a_wrong_manifest_is_told_by_place_and_changes_nothing() {
    let Some(topology) = Topology::up("wrong", TWO_AND_FAR) else { return };
    let daemon = Daemon::start(&topology, &[]);
    let before = daemon.cli(&["get", "gnp", "-o", "json"]);
    let good_and_bad = format!("{DENY_ALL}---\n{}", DENY_ALL.replace("action: Deny", "action: deny"));
    let output = daemon.try_apply(&good_and_bad);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("spec.ingress[0].action") && text.contains("found \"deny\""), "{text}");
    assert!(text.lines().next().unwrap().starts_with("-:"), "the place comes first: {text}");
    assert_eq!(daemon.cli(&["get", "gnp", "-o", "json"]), before);
    let (web, client) = (topology.at("web"), topology.at("client"));
    let service = Service::start(&web, ip(WEB[0]), 0);
    echo(&mut until_connected(&client, service.address), 1000).unwrap();
}

#[test]
fn what_was_applied_is_in_force_at_once_and_after_pulling_the_plug() {
    let Some(topology) = Topology::up("plug", TWO_AND_FAR) else { return };
    let daemon = Daemon::start(&topology, &[]);
    let (web, client) = (topology.at("web"), topology.at("client"));
    let services = WEB.map(|address| Service::start(&web, ip(address), 8080));
    for service in &services {
        until_connected(&client, service.address);
    }
    daemon.apply(DENY_ALL);
    daemon.kill();
    for service in &services {
        assert!(is_silent(&client, service.address), "without a router");
    }
    let daemon = Daemon::bare(&topology, &[]);
    for service in &services {
        assert!(is_silent(&client, service.address), "the first packet after the restart");
    }
    assert!(daemon.drops("policy_ingress").0 > 0);
    daemon.cli(&["delete", "gnp", "deny-web"]);
    for service in &services {
        echo(&mut until_connected(&client, service.address), 1000).unwrap();
    }
    daemon.terminate();
}

#[test]
fn an_endpoint_that_does_not_behave_gets_nowhere() {
    let Some(topology) = Topology::up("forge", TWO_AND_FAR) else { return };
    let daemon = Daemon::start(&topology, &[]);
    let (web, client) = (topology.at("web"), topology.at("client"));
    until_reachable(&client, ip(WEB[0]));
    // With protocol 255 the sender writes the IPv4 header itself; the kernel fills in length and checksum.
    let socket = client.within(|| Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255)))).unwrap();
    let send = |source: [u8; 4], protocol: u8, payload: &[u8]| {
        let mut packet = vec![0x45, 0, 0, 0, 0, 1, 0, 0, 64, protocol, 0, 0];
        packet.extend(source);
        packet.extend([10, 65, 0, 2]);
        packet.extend(payload);
        socket.send_to(&packet, &SocketAddr::new(ip(WEB[0]), 0).into()).unwrap();
    };
    let own = [10, 65, 0, 3];
    let received = web.counter("IpInReceives");
    let flagless = [0, 80, 0, 81, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0, 0, 0, 0, 0, 0, 0];
    let cases: [(&str, [u8; 4], u8, &[u8]); 4] = [
        ("source_spoofed", [10, 65, 0, 9], 17, &[0, 1, 0, 2, 0, 8, 0, 0]),
        ("source_martian", [127, 0, 0, 1], 17, &[0, 1, 0, 2, 0, 8, 0, 0]),
        ("transport_malformed", own, 17, &[0, 1, 0, 2, 0xff, 0xff, 0, 0]),
        ("tcp_flags", own, 6, &flagless),
    ];
    for (reason, source, protocol, payload) in cases {
        let before = daemon.drops(reason).0;
        send(source, protocol, payload);
        wait::until_true(reason, SOON, || daemon.drops(reason).0 > before);
    }
    assert_eq!(web.counter("IpInReceives"), received, "something arrived");
    until_reachable(&client, ip(WEB[0]));
}
