//! A change that cuts somebody off is undone by itself, unless it is confirmed.
//!
//! ```text
//!     client ── connects ──▶ router ──▶ web        deny, with --confirm: silent, then open again
//! ```

use std::fs;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use tests::daemon::{Daemon, SOON};
use tests::talk::{Service, is_silent, until_connected};
use tests::topology::Topology;
use tests::wait;

use crate::{TWO_AND_FAR, WEB, ip};

const DENY_ALL: &str = "
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: { name: deny-web }
spec: { selector: app == 'web', types: [Ingress], ingress: [{ action: Deny }] }
";

fn apply(daemon: &Daemon, topology: &Topology, confirm: &str) {
    let file = topology.folder().join("deny.yaml");
    fs::write(&file, DENY_ALL).unwrap();
    daemon.cli(&["apply", "-f", file.to_str().unwrap(), "--confirm", confirm]);
}

fn is_there(daemon: &Daemon) -> bool {
    daemon.attempt(&["get", "gnp", "deny-web"]).status.success()
}

#[test]
fn a_change_that_is_not_confirmed_is_undone_and_packets_pass_again() {
    let Some(topology) = Topology::up("undone", TWO_AND_FAR) else { return };
    let daemon = Daemon::start(&topology, &[]);
    let service = Service::start(&topology.at("web"), ip(WEB[0]), 0);
    let client = topology.at("client");
    until_connected(&client, service.address);
    apply(&daemon, &topology, "10s");
    assert!(is_silent(&client, service.address));
    let status = daemon.cli(&["show", "status"]);
    assert!(status.contains("waits for `vrouter confirm`"), "{status}");
    wait::until("the change to be undone", SOON, || (!is_there(&daemon)).then_some(()));
    until_connected(&client, service.address);
    let history: Value = serde_json::from_str(&daemon.cli(&["history", "-o", "json"])).unwrap();
    assert_eq!(history["transactions"][0]["author"], "vrouter");

    apply(&daemon, &topology, "1h");
    daemon.cli(&["confirm"]);
    let history: Value = serde_json::from_str(&daemon.cli(&["history", "-o", "json"])).unwrap();
    assert!(history["pending"].is_null());
    assert!(is_there(&daemon) && is_silent(&client, service.address));
    daemon.cli(&["undo"]);
    until_connected(&client, service.address);
}

#[test]
fn a_change_nobody_confirmed_while_the_router_was_down_is_undone_at_start() {
    let Some(topology) = Topology::up("overdue", TWO_AND_FAR) else { return };
    let daemon = Daemon::start(&topology, &[]);
    apply(&daemon, &topology, "3600s");
    daemon.kill();
    // Not over yet: it is in force, and still waits.
    let daemon = Daemon::bare(&topology, &[]);
    assert!(is_there(&daemon));
    daemon.cli(&["undo"]);
    apply(&daemon, &topology, "1s");
    daemon.kill();
    over(Duration::from_secs(1));
    let daemon = Daemon::bare(&topology, &[]);
    assert!(!is_there(&daemon));
    let service = Service::start(&topology.at("web"), ip(WEB[0]), 0);
    until_connected(&topology.at("client"), service.address);
}

/// Until the clock that a confirmation is kept by has moved on, and a second more, as it counts whole ones.
fn over(time: Duration) {
    let end = SystemTime::now() + time + Duration::from_secs(1);
    wait::until("the time to be over", SOON, || (SystemTime::now() > end).then_some(()));
}
