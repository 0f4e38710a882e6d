//! What is told about packets of host endpoints is what happens to them: `trace` before, real sockets, `why` after.
//!
//! ```text
//!     far ──up0── node: 8080, 9999        client ─ node ─ far: forwarded
//! ```

use serde_json::Value;
use tests::daemon::Daemon;
use tests::talk::{Service, is_silent, until_connected};
use tests::topology::{Machine, Topology};

use crate::{CLIENT, FAR, NODE, TWO_AND_FAR, WEB, ip};

const POLICY: &str = "
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: { name: uplink, labels: { role: node } }
spec: { node: router, interfaceName: up0, expectedIPs: [192.0.2.1] }
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: { name: early }
spec:
  selector: role == 'node'
  preDNAT: true
  applyOnForward: true
  ingress: [{ action: Deny, protocol: TCP, destination: { ports: [8082] } }]
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: { name: through }
spec:
  selector: role == 'node'
  order: 10
  applyOnForward: true
  types: [Ingress, Egress]
  ingress: [{ action: Allow, protocol: TCP, destination: { ports: [8080] } }, { action: Deny, protocol: TCP }, { action: Allow }]
  egress: [{ action: Deny, protocol: TCP, destination: { ports: [8081] } }, { action: Allow }]
";

/// Asks before, tries, and asks after. `denied` is the reason of the drop and the rule that denies.
fn check(daemon: &Daemon, from: (&Machine, &str, &[&str]), to: &Service, denied: Option<(&str, &str)>) {
    let (machine, source, way) = from;
    let (address, port) = (to.address.ip().to_string(), to.address.port().to_string());
    let packet = [way, &["--src", source, "--dst", &address, "--tcp", &port, "-o", "json"]].concat();
    let traced = json(daemon, &[&["trace"], packet.as_slice()].concat());
    let told = (traced["verdict"].as_str().unwrap(), traced["decisions"].as_array().unwrap().last().cloned());
    let Some((reason, rule)) = denied else {
        assert_eq!(told.0, "forward", "{packet:?}: {traced}");
        drop(until_connected(machine, to.address));
        return;
    };
    let last = told.1.unwrap();
    assert_eq!((told.0, last["name"].as_str()), (format!("drop: {reason}").as_str(), Some(rule)), "{packet:?}");
    assert!(is_silent(machine, to.address), "{packet:?}");
    let why = json(daemon, &["why", "--reason", reason, "--dst", &address, "--port", &port, "-o", "json"]);
    let decision = &why["drops"][0]["decision"];
    for field in ["endpoint", "list", "direction", "verdict", "name", "tier", "policy", "rule", "nearest"] {
        assert_eq!(decision[field], last[field], "{field} of {decision}");
    }
    assert_eq!(decision["endpoint"], "HostEndpoint uplink");
}

fn json(daemon: &Daemon, arguments: &[&str]) -> Value {
    serde_json::from_str(&daemon.cli(arguments)).unwrap()
}

#[test]
fn trace_and_why_say_of_host_endpoints_what_sockets_meet() {
    let Some(topology) = Topology::up("told", TWO_AND_FAR) else { return };
    let (node, far, client, web) = (topology.node(), topology.at("far"), topology.at("client"), topology.at("web"));
    let daemon = Daemon::start(&topology, &[]);
    let start = |at: &Machine, address: &str| [8080, 8081, 8082].map(|port| Service::start(at, ip(address), port));
    let (own, inside, outside) = (start(&node, NODE[0]), start(&web, WEB[0]), start(&far, FAR[0]));
    daemon.apply(POLICY);

    let shown = json(&daemon, &["show", "host-endpoints", "-o", "json"]);
    assert_eq!(shown[0]["interfaces"][0]["is_guarded"], true, "{shown}");
    let lists: Vec<String> =
        shown[0]["lists"].as_array().unwrap().iter().map(|list| list["list"].to_string()).collect();
    assert_eq!(lists.join(" "), r#""preDNAT" "forward" "normal" "normal" "forward""#);

    let from_far = (&far, FAR[0], &["--from", "up0"][..]);
    let early = Some(("host_pre_dnat", "GlobalNetworkPolicy early ingress[0]"));
    check(&daemon, from_far, &own[0], None);
    check(&daemon, from_far, &own[1], Some(("host_ingress", "GlobalNetworkPolicy through ingress[1]")));
    check(&daemon, from_far, &own[2], early);
    check(&daemon, from_far, &inside[0], None);
    check(&daemon, from_far, &inside[1], Some(("host_forward_ingress", "GlobalNetworkPolicy through ingress[1]")));
    check(&daemon, from_far, &inside[2], early);
    let from_client = (&client, CLIENT[0], &["--from", "default/client"][..]);
    check(&daemon, from_client, &outside[0], None);
    check(&daemon, from_client, &outside[1], Some(("host_forward_egress", "GlobalNetworkPolicy through egress[0]")));
    let from_node = (&node, NODE[0], &["--from", "host", "--out", "up0"][..]);
    check(&daemon, from_node, &outside[0], None);
    check(&daemon, from_node, &outside[1], Some(("host_egress", "GlobalNetworkPolicy through egress[0]")));
    // What the host sends to its own workloads nobody is asked about.
    check(&daemon, (&node, NODE[0], &["--from", "host"][..]), &inside[1], None);
}
