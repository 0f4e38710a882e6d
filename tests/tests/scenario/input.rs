//! Wrong manifests, restarts, and an endpoint that does not behave.
//!
//! ```text
//!     client ── forged, broken, cut ──▶ router ──▶ nobody
//! ```

use std::fs;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, Socket, Type};
use tests::daemon::{Daemon, SOON};
use tests::packet::Packet;
use tests::talk::{Service, Wire, echo, is_silent, until_connected, until_reachable};
use tests::topology::{Topology, said};
use tests::wait;

use crate::{CLIENT, TWO_AND_FAR, WEB, ip};

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
fn a_wrong_file_among_good_ones_is_told_with_its_line_and_nothing_is_applied() {
    let Some(topology) = Topology::up("folder", TWO_AND_FAR) else { return };
    let daemon = Daemon::start(&topology, &[]);
    let folder = topology.folder().join("several");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("10-good.yaml"), DENY_ALL).unwrap();
    fs::write(folder.join("20-bad.yaml"), DENY_ALL.replace("deny-web", "other").replace("app ==", "app =")).unwrap();
    let output = daemon.attempt(&["apply", "-f", folder.to_str().unwrap()]);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("20-bad.yaml:5:") && text.contains("spec.selector"), "{text}");
    // Neither in the store nor in force.
    assert_eq!(daemon.attempt(&["get", "gnp", "deny-web"]).status.code(), Some(3));
    let service = Service::start(&topology.at("web"), ip(WEB[0]), 0);
    echo(&mut until_connected(&topology.at("client"), service.address), 1000).unwrap();
    // Without the bad one the same folder works, so it was the bad one that held the good one back.
    fs::remove_file(folder.join("20-bad.yaml")).unwrap();
    daemon.cli(&["apply", "-f", folder.to_str().unwrap()]);
    assert!(is_silent(&topology.at("client"), service.address));
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

/// The gateway's address, at which every endpoint's packets are aimed.
const GATEWAY: [u8; 6] = [0xee; 6];

#[test]
fn frames_that_no_stack_sends_are_dropped_by_name() {
    let Some(topology) = Topology::up("frames", TWO_AND_FAR) else { return };
    let daemon = Daemon::start(&topology, &[]);
    let (web, client) = (topology.at("web"), topology.at("client"));
    until_reachable(&client, ip(WEB[0]));
    let wire = Wire::at(&client, "eth0");
    let frame = |to: [u8; 6], from: [u8; 6], ethertype: u16, rest: &[u8]| {
        [&to[..], &from, &ethertype.to_be_bytes(), rest].concat()
    };
    let mac = wire.mac();
    let good = Packet::new(CLIENT[0], WEB[0]).udp(4000, 4001).bytes();
    let good6 = Packet::new(CLIENT[1], WEB[1]).udp(4000, 4001).bytes();
    let spoofed6 = Packet::new("fd65::9", WEB[1]).udp(4000, 4001).bytes();
    let mut wrong_sum = good.clone();
    wrong_sum[10] ^= 1;
    let mut group = mac;
    group[0] |= 1;
    let tagged = [&[0, 7, 8, 0], &good[..]].concat();
    let cases = [
        ("frame_too_short", frame(GATEWAY, mac, 0x8100, &[])),
        ("mac_not_ours", frame([2, 0, 0, 0, 0, 99], mac, 0x0800, &good)),
        ("mac_source_group", frame(GATEWAY, group, 0x0800, &good)),
        ("vlan_unexpected", frame(GATEWAY, mac, 0x8100, &tagged)),
        ("ethertype_unknown", frame(GATEWAY, mac, 0x88cc, &good)),
        ("arp_malformed", frame(GATEWAY, mac, 0x0806, &[0, 1, 8, 0, 6, 4, 0, 1])),
        ("ipv4_malformed", frame(GATEWAY, mac, 0x0800, &good[..12])),
        ("ipv4_malformed", frame(GATEWAY, mac, 0x0800, &good[..good.len() - 1])),
        ("ipv4_checksum", frame(GATEWAY, mac, 0x0800, &wrong_sum)),
        ("ipv6_malformed", frame(GATEWAY, mac, 0x86dd, &good6[..39])),
        ("source_spoofed", frame(GATEWAY, mac, 0x86dd, &spoofed6)),
    ];
    let heard = || web.counter("IpInReceives") + web.counter("Ip6InReceives");
    let before = heard();
    for (reason, frame) in cases {
        let drops = daemon.drops(reason).0;
        wire.send(&frame);
        wait::until_true(reason, SOON, || daemon.drops(reason).0 > drops);
    }
    assert_eq!(heard(), before, "something arrived");
    // The same frame without its fault does arrive.
    wire.send(&frame(GATEWAY, mac, 0x0800, &good));
    wire.send(&frame(GATEWAY, mac, 0x86dd, &good6));
    wait::until_true("the good ones to arrive", SOON, || heard() >= before + 2);
    until_reachable(&client, ip(WEB[0]));
}
