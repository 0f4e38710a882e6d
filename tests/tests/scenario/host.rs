//! A host endpoint on the uplink: the host itself is behind policy, and what is forwarded too where a policy says so.
//!
//! ```text
//!     far ──up0── node: ssh (failsafe), 8080, 8081        client ─ node ─ far: forwarded
//! ```

use std::time::Duration;

use tests::daemon::{Daemon, SOON};
use tests::talk::{Service, Wire, echo, is_silent, pings, udp, until_connected, until_reachable};
use tests::topology::{Machine, Topology};
use tests::wait;

use crate::{CLIENT, FAR, NODE, TWO_AND_FAR, WEB, ip};

const SSH: u16 = 22;
const ENDPOINT: &str = "
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: { name: uplink, labels: { role: node } }
spec: { node: router, interfaceName: up0 }
";
const EVERY: &str = "
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: { name: every, labels: { role: node } }
spec: { node: router, interfaceName: \"*\" }
";
const BY_ADDRESS: &str = "
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: { name: by-address, labels: { role: node } }
spec: { node: router, expectedIPs: [192.0.2.1] }
";

/// A policy for the host endpoint.
fn policy(name: &str, spec: &str) -> String {
    format!(
        "
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {{ name: {name} }}
spec:
  selector: role == 'node'
{spec}
"
    )
}

/// Everything both ways.
fn open() -> String {
    policy(
        "open",
        "  order: 1000\n  types: [Ingress, Egress]\n  ingress: [{ action: Allow }]\n  egress: [{ action: Allow }]",
    )
}

/// What the kernel has on the uplink beside addresses.
fn bare_link(node: &Machine) -> (String, String) {
    let link = node.run("ip -o -d link show up0");
    let xdp = link.split("xdp").nth(1).unwrap_or("none").chars().take(20).collect();
    (xdp, node.run("tc qdisc show dev up0") + &node.run("tc filter show dev up0 egress"))
}

fn reaches(from: &Machine, service: &Service) {
    echo(&mut until_connected(from, service.address), 100_000).unwrap();
}

#[test]
fn a_host_endpoint_closes_the_host_but_for_failsafes_and_policy_opens_it() {
    let Some(topology) = Topology::up("host", TWO_AND_FAR) else { return };
    let (node, far, client, web) = (topology.node(), topology.at("far"), topology.at("client"), topology.at("web"));
    let daemon = Daemon::start(&topology, &[]);
    let before = bare_link(&node);
    let ssh = NODE.map(|address| Service::start(&node, ip(address), SSH));
    let http = NODE.map(|address| Service::start(&node, ip(address), 8080));
    let other = NODE.map(|address| Service::start(&node, ip(address), 8081));
    let outside = FAR.map(|address| Service::start(&far, ip(address), 9000));
    let inside = WEB.map(|address| Service::start(&web, ip(address), 9001));
    for service in ssh.iter().chain(&http).chain(&other) {
        reaches(&far, service);
    }
    for service in &outside {
        reaches(&node, service);
        reaches(&client, service);
    }

    daemon.apply(ENDPOINT);
    for service in http.iter().chain(&other) {
        assert!(is_silent(&far, service.address), "{} without a policy", service.address);
    }
    for (service, address) in outside.iter().zip(NODE) {
        assert!(is_silent(&node, service.address), "{} from the host without a policy", service.address);
        assert!(!pings(&far, ip(address)), "{address} is closed to pings too");
        reaches(&client, service);
    }
    for service in &ssh {
        reaches(&far, service);
    }
    for service in &inside {
        reaches(&far, service);
        reaches(&node, service);
    }
    assert!(daemon.drops("host_ingress").0 > 0 && daemon.drops("host_egress").0 > 0);

    let rule = "  order: 10\n  types: [Ingress]\n  ingress: [{ action: Allow, protocol: TCP, destination: { ports: [8080] } }]";
    daemon.apply(&policy("http", rule));
    for (service, other) in http.iter().zip(&other) {
        reaches(&far, service);
        assert!(is_silent(&far, other.address), "{} is not allowed", other.address);
    }
    daemon.apply(&open());
    for (service, address) in other.iter().zip(NODE).map(|(service, address)| (service, ip(address))) {
        // The policy with the lower order decides first, and allows only what it says.
        assert!(pings(&far, address) || is_silent(&far, service.address));
    }
    daemon.cli(&["delete", "gnp", "http"]);
    for (address, remote) in NODE.map(ip).into_iter().zip(FAR.map(ip)) {
        until_reachable(&far, address);
        until_reachable(&node, remote);
        // Fragments, both ways.
        udp(&far, &node, address, 4000).unwrap();
        udp(&node, &far, remote, 4000).unwrap();
    }
    for service in outside.iter() {
        echo(&mut until_connected(&node, service.address), 1 << 20).unwrap();
    }
    for service in other.iter() {
        echo(&mut until_connected(&far, service.address), 1 << 20).unwrap();
    }
    // An open connection survives a policy that would not let it begin.
    let mut open = until_connected(&far, other[0].address);
    echo(&mut open, 1000).unwrap();
    daemon.apply(&policy("shut", "  order: 1\n  types: [Ingress]\n  ingress: [{ action: Deny }]"));
    assert!(is_silent(&far, other[0].address), "a new connection after the deny");
    echo(&mut open, 100_000).unwrap();
    assert!(daemon.drops("host_ingress").1.iter().any(|rule| rule.contains("shut")));
    for counter in ["TcpInCsumErrors", "UdpInCsumErrors"] {
        assert_eq!(node.counter(counter) + far.counter(counter), 0, "{counter}");
    }

    daemon.cli(&["delete", "hep", "uplink"]);
    for service in http.iter().chain(&other) {
        reaches(&far, service);
    }
    assert_eq!(bare_link(&node), before, "the uplink is as it was");
    assert!(!node.run("tc filter show dev vrouter ingress").contains("steer"), "nothing is left on the private pair");
}

#[test]
fn a_killed_router_leaves_failsafes_open_and_nothing_else() {
    let Some(topology) = Topology::up("hostkill", TWO_AND_FAR) else { return };
    let (node, far) = (topology.node(), topology.at("far"));
    let daemon = Daemon::start(&topology, &["--failsafe-outbound-host-ports", "tcp:9000"]);
    daemon.apply(&open());
    daemon.apply(ENDPOINT);
    let ssh = NODE.map(|address| Service::start(&node, ip(address), SSH));
    let http = NODE.map(|address| Service::start(&node, ip(address), 8080));
    let failsafe = FAR.map(|address| Service::start(&far, ip(address), 9000));
    let outside = FAR.map(|address| Service::start(&far, ip(address), 9001));
    for service in ssh.iter().chain(&http) {
        reaches(&far, service);
    }
    for service in failsafe.iter().chain(&outside) {
        reaches(&node, service);
    }
    let mut session = until_connected(&far, ssh[0].address);
    echo(&mut session, 1000).unwrap();

    daemon.kill();
    echo(&mut session, 100_000).unwrap();
    for (service, closed) in ssh.iter().zip(&http) {
        reaches(&far, service);
        assert!(is_silent(&far, closed.address), "{} without a router", closed.address);
    }
    for (service, closed) in failsafe.iter().zip(&outside) {
        reaches(&node, service);
        assert!(is_silent(&node, closed.address), "{} without a router", closed.address);
    }
    assert!(!pings(&far, ip(NODE[0])) && !pings(&node, ip(FAR[1])), "without a router");
    // From a failsafe port one reaches no other: the port alone opens nothing.
    let line = format!("nc -w 1 -z -p 9000 {} 8080", NODE[0]);
    assert!(!far.attempt(&line).status.success(), "from port 9000");

    let _daemon = Daemon::bare(&topology, &["--failsafe-outbound-host-ports", "tcp:9000"]);
    for service in ssh.iter().chain(&http) {
        reaches(&far, service);
    }
    for service in failsafe.iter().chain(&outside) {
        reaches(&node, service);
    }
}

#[test]
fn lists_without_state_and_before_routing() {
    let Some(topology) = Topology::up("hostlists", TWO_AND_FAR) else { return };
    let (node, far, client, web) = (topology.node(), topology.at("far"), topology.at("client"), topology.at("web"));
    let daemon = Daemon::start(&topology, &[]);
    daemon.apply(&open());
    daemon.apply(ENDPOINT);
    let service = Service::start(&node, ip(NODE[0]), 8080);
    let outside = Service::start(&far, ip(FAR[0]), 9000);
    let inside = Service::start(&web, ip(WEB[0]), 9001);
    let mut open = until_connected(&far, service.address);
    echo(&mut open, 1000).unwrap();

    // Without state a deny is for open connections too, and at once.
    let deny = "{ action: Deny, protocol: TCP, destination: { ports: [8080] } }";
    let spec =
        format!("  order: 1\n  doNotTrack: true\n  applyOnForward: true\n  types: [Ingress]\n  ingress: [{deny}]");
    daemon.apply(&policy("raw", &spec));
    open.set_read_timeout(Some(tests::talk::IN_VAIN)).unwrap();
    assert!(echo(&mut open, 100).is_err(), "an open connection under an untracked deny");
    assert!(daemon.drops("host_untracked_ingress").0 > 0);
    daemon.cli(&["delete", "gnp", "raw"]);
    reaches(&far, &service);

    let stateless = Service::start(&node, ip(NODE[0]), 8090);
    // An untracked allow passes both ways, where the normal list closes everything.
    daemon.cli(&["delete", "gnp", "open"]);
    assert!(is_silent(&far, stateless.address), "without a policy");
    let both = "  order: 1\n  doNotTrack: true\n  applyOnForward: true\n  types: [Ingress, Egress]\n  \
                ingress: [{ action: Allow, protocol: TCP, destination: { ports: [8090] } }]\n  \
                egress: [{ action: Allow, protocol: TCP, source: { ports: [8090] } }]";
    daemon.apply(&policy("raw", both));
    reaches(&far, &stateless);
    assert!(!daemon.cli(&["show", "flows"]).contains(":8090"), "nothing is kept of it");
    daemon.cli(&["delete", "gnp", "raw"]);
    daemon.apply(&self::open());

    // Before it is known where it goes, a packet to a workload is judged as one to the host.
    let spec = "  order: 1\n  preDNAT: true\n  applyOnForward: true\n  types: [Ingress]\n  \
                ingress: [{ action: Deny, protocol: TCP, destination: { ports: [8080, 9001] } }]";
    daemon.apply(&policy("early", spec));
    assert!(is_silent(&far, service.address) && is_silent(&far, inside.address), "under a preDNAT deny");
    assert!(daemon.drops("host_pre_dnat").0 > 0);
    reaches(&client, &inside);
    daemon.cli(&["delete", "gnp", "early"]);
    reaches(&far, &inside);

    // What is forwarded, both ways; the host's own packets are not.
    reaches(&client, &outside);
    let spec = "  order: 1\n  applyOnForward: true\n  types: [Ingress, Egress]\n  \
                ingress: [{ action: Deny, protocol: TCP, destination: { ports: [9001] } }, { action: Allow }]\n  \
                egress: [{ action: Deny, source: { nets: [10.65.0.3/32] } }, { action: Allow }]";
    daemon.apply(&policy("forward", spec));
    assert!(is_silent(&far, inside.address) && is_silent(&client, outside.address), "under applyOnForward denies");
    assert!(daemon.drops("host_forward_ingress").0 > 0 && daemon.drops("host_forward_egress").0 > 0);
    reaches(&far, &service);
    reaches(&node, &outside);
    reaches(&client, &inside);
}

#[test]
fn every_uplink_and_one_found_by_its_address() {
    for (endpoint, mode) in [(EVERY, "generic"), (BY_ADDRESS, "auto")] {
        let Some(topology) = Topology::up("hostevery", TWO_AND_FAR) else { return };
        let (node, far) = (topology.node(), topology.at("far"));
        let daemon = Daemon::start(&topology, &["--xdp-mode", mode]);
        let service = Service::start(&node, ip(NODE[0]), 8080);
        let ssh = Service::start(&node, ip(NODE[0]), SSH);
        reaches(&far, &service);
        daemon.apply(endpoint);
        assert!(is_silent(&far, service.address), "{endpoint}");
        reaches(&far, &ssh);
        daemon.apply(&open());
        reaches(&far, &service);
        for address in FAR.map(ip) {
            reaches(&node, &Service::start(&far, address, 9000));
        }
        // Lists without state are not for an endpoint that stands for all interfaces, and that is said.
        let spec = "  order: 1\n  doNotTrack: true\n  applyOnForward: true\n  types: [Ingress]\n  ingress: [{ action: Deny, protocol: TCP }]";
        daemon.apply(&policy("raw", spec));
        let is_everywhere = endpoint == EVERY;
        assert_ne!(is_silent(&far, service.address), is_everywhere, "an untracked deny under {endpoint}");
        assert_eq!(daemon.cli(&["show", "status"]).contains("doNotTrack"), is_everywhere);
    }
}

#[test]
fn a_workload_does_not_speak_as_a_tunnel_nor_with_a_strange_source() {
    let Some(topology) = Topology::up("forged", TWO_AND_FAR) else { return };
    let (client, far) = (topology.at("client"), topology.at("far"));
    let send = |bytes: &[u8]| {
        let wire = Wire::at(&client, "eth0");
        wire.send(bytes);
    };
    let frame = |source: &str, change: fn(tests::packet::Packet) -> tests::packet::Packet| {
        let link =
            tests::packet::Link { destination: [0xee; 6], source: Wire::at(&client, "eth0").mac(), tags: [0; 2] };
        change(tests::packet::Packet::new(source, FAR[0])).frame(&link)
    };
    for allowed in [false, true] {
        let word = if allowed { "true" } else { "false" };
        let spoofing = if allowed { "Any" } else { "Disabled" };
        let settings = [
            ["--allow-vxlan-packets-from-workloads", word],
            ["--allow-ipip-packets-from-workloads", word],
            ["--workload-source-spoofing", spoofing],
        ];
        let daemon = Daemon::start(&topology, &settings.concat());
        until_reachable(&client, ip(FAR[0]));
        let dropped = |reason: &str, bytes: Vec<u8>| {
            let before = daemon.drops(reason).0;
            send(&bytes);
            let grows = || daemon.drops(reason).0 > before;
            if allowed {
                wait::while_true(reason, Duration::from_millis(300), || !grows());
            } else {
                wait::until_true(reason, SOON, grows);
            }
        };
        dropped("workload_vxlan", frame(CLIENT[0], |packet| packet.udp(4000, 4789)));
        dropped("workload_ipip", frame(CLIENT[0], |packet| packet.raw(4)));
        let strange = || frame("198.51.100.7", |packet| packet.udp(4000, 7));
        let before = daemon.drops("source_spoofed").0;
        send(&strange());
        wait::until_true("the strange source to be dropped", SOON, || daemon.drops("source_spoofed").0 > before);

        // The endpoint asks for more sources than its own.
        let manifest = daemon.cli(&["get", "wep", "-n", "default", "-o", "yaml"]);
        let manifest = manifest.replace(
            "ipNetworks:\n    - 10.65.0.3/32",
            "allowSpoofedSourcePrefixes: [198.51.100.0/24]\n    ipNetworks:\n    - 10.65.0.3/32",
        );
        let manifest = manifest.replace(
            "  ipNetworks:\n  - 10.65.0.3/32",
            "  allowSpoofedSourcePrefixes: [198.51.100.0/24]\n  ipNetworks:\n  - 10.65.0.3/32",
        );
        assert!(manifest.contains("allowSpoofed"), "{manifest}");
        daemon.apply(&manifest);
        if allowed {
            until_reachable(&client, ip(FAR[0]));
            let before = daemon.drops("source_spoofed").0;
            send(&strange());
            wait::while_true("the source is allowed", Duration::from_millis(300), || {
                daemon.drops("source_spoofed").0 == before
            });
        } else {
            assert!(!pings(&client, ip(FAR[0])) && !pings(&far, ip(CLIENT[0])), "the endpoint is inactive");
            assert!(daemon.cli(&["show", "status"]).contains("allowSpoofedSourcePrefixes"), "and it is said why");
        }
        daemon.terminate();
        std::fs::remove_dir_all(topology.folder().join("store")).unwrap();
    }
}
