//! A policy changes while connections are open.
//!
//! ```text
//!     client ══ open connection ══▶ web:8080       deny web:8080 from client
//!     client ── new connection ───▶ web:8080
//! ```

use std::io::Write as _;

use tests::daemon::Daemon;
use tests::talk::{Service, echo, is_silent, until_connected};
use tests::topology::Topology;

use crate::{TWO_AND_FAR, WEB, ip};

const DENY: &str = "
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: { name: deny-web, namespace: default }
spec:
  order: 10
  selector: app == 'web'
  types: [Ingress]
  ingress:
    - { action: Deny, protocol: TCP, source: { selector: app == 'client' }, destination: { ports: [8080] } }
    - { action: Allow }
";
const RULE: &str = "NetworkPolicy default/deny-web ingress[0]";

#[test]
fn preserve_keeps_open_connections_and_refuses_new_ones() {
    for address in WEB.map(ip) {
        let Some(topology) = Topology::up("preserve", TWO_AND_FAR) else { return };
        let daemon = Daemon::start(&topology, &[]);
        let (web, client) = (topology.at("web"), topology.at("client"));
        let service = Service::start(&web, address, 8080);
        let mut open = until_connected(&client, service.address);
        echo(&mut open, 10_000).unwrap();

        daemon.apply(DENY);
        assert!(is_silent(&client, service.address), "a connection after the policy");
        let (packets, rules) = daemon.drops("policy_ingress");
        assert!(packets > 0 && rules == [RULE], "{packets} by {rules:?}");
        echo(&mut open, 10_000).unwrap();
        // Other ports are as they were.
        let other = Service::start(&web, address, 8081);
        echo(&mut until_connected(&client, other.address), 10_000).unwrap();

        daemon.cli(&["delete", "np", "deny-web"]);
        echo(&mut until_connected(&client, service.address), 10_000).unwrap();
        echo(&mut open, 10_000).unwrap();
    }
}

#[test]
fn reevaluate_cuts_open_connections() {
    for address in WEB.map(ip) {
        let Some(topology) = Topology::up("reevaluate", TWO_AND_FAR) else { return };
        let daemon = Daemon::start(&topology, &["--policy-change", "reevaluate"]);
        let (web, client) = (topology.at("web"), topology.at("client"));
        let service = Service::start(&web, address, 8080);
        let other = Service::start(&web, address, 8081);
        let mut open = until_connected(&client, service.address);
        let mut elsewhere = until_connected(&client, other.address);
        echo(&mut open, 10_000).unwrap();
        echo(&mut elsewhere, 10_000).unwrap();

        daemon.apply(DENY);
        open.set_read_timeout(Some(tests::talk::IN_VAIN)).unwrap();
        assert!(echo(&mut open, 100).is_err(), "an open connection that the policy denies");
        assert!(is_silent(&client, service.address), "a connection after the policy");
        echo(&mut elsewhere, 10_000).unwrap();

        // What was held back is sent again by the client's stack, and passes.
        daemon.cli(&["delete", "np", "deny-web"]);
        open.set_read_timeout(Some(tests::talk::PATIENCE)).unwrap();
        let mut late = [0; 100];
        std::io::Read::read_exact(&mut open, &mut late).unwrap();
        open.write_all(b"x").unwrap();
    }
}

/// What lets client in, each way of it to another port of web; and nothing else does.
const WAYS_IN: &str = "
{ apiVersion: projectcalico.org/v3, kind: Profile, metadata: { name: guests }, spec: { labelsToApply: { guest: 'yes' } } }
---
{ apiVersion: projectcalico.org/v3, kind: NetworkPolicy, metadata: { name: a-rest, namespace: default }, spec: { order: 100, selector: app == 'web', types: [Ingress] } }
---
{ apiVersion: projectcalico.org/v3, kind: NetworkPolicy, metadata: { name: b-ways, namespace: default }, spec: { order: 50, selector: app == 'web', types: [Ingress], ingress: [
  { action: Allow, protocol: TCP, destination: { ports: [8080] } },
  { action: Allow, protocol: TCP, destination: { ports: [8081] }, source: { selector: trusted == 'yes' } },
  { action: Allow, protocol: TCP, destination: { ports: [8082] }, source: { selector: guest == 'yes' } },
  { action: Allow, protocol: TCP, destination: { ports: [8083] }, source: { nets: [10.65.0.3/32, 10.65.0.7/32] } } ] } }
---
{ apiVersion: projectcalico.org/v3, kind: NetworkPolicy, metadata: { name: c-own, namespace: default }, spec: { order: 60, selector: app == 'web', types: [Ingress], ingress: [
  { action: Allow, protocol: TCP, destination: { ports: [8084] } } ] } }
";

/// A change, the port of which it takes the way in, and how it is made.
type Change = (&'static str, u16, fn(&Daemon));

const CHANGES: [Change; 5] = [
    ("a policy that denies is added", 8080, |daemon| {
        daemon.apply(
            "{ apiVersion: projectcalico.org/v3, kind: NetworkPolicy, metadata: { name: deny, namespace: default }, spec: { \
             order: 1, selector: app == 'web', types: [Ingress], ingress: [{ action: Deny, protocol: TCP, destination: { \
             ports: [8080] } }] } }",
        );
    }),
    ("the peer loses the label", 8081, |daemon| {
        daemon.edit_endpoint("default", "client", |endpoint| {
            endpoint["metadata"]["labels"].as_object_mut().unwrap().remove("trusted");
        });
    }),
    ("the peer's profile loses the label", 8082, |daemon| {
        daemon.apply("{ apiVersion: projectcalico.org/v3, kind: Profile, metadata: { name: guests }, spec: { labelsToApply: { guest: 'no' } } }");
    }),
    ("the rule loses the prefix", 8083, |daemon| daemon.apply(&WAYS_IN.replace("10.65.0.3/32, ", ""))),
    ("the policy is deleted", 8084, |daemon| drop(daemon.cli(&["delete", "np", "c-own"]))),
];

/// For every change: a connection from before it, one after it, and both when it has been taken back.
fn whatever_the_change(settings: &[&str], goes_on: bool) {
    let Some(topology) = Topology::up("changes", TWO_AND_FAR) else { return };
    let daemon = Daemon::start(&topology, settings);
    let (web, client) = (topology.at("web"), topology.at("client"));
    let introduce = || {
        daemon.edit_endpoint("default", "client", |endpoint| {
            endpoint["metadata"]["labels"]["trusted"] = "yes".into();
            endpoint["spec"]["profiles"] = ["lab-allow", "guests"].as_slice().into();
        });
        daemon.apply(WAYS_IN);
    };
    introduce();
    for (what, port, change) in CHANGES {
        let service = Service::start(&web, ip(WEB[0]), port);
        let mut open = until_connected(&client, service.address);
        echo(&mut open, 10_000).unwrap();
        change(&daemon);
        assert!(is_silent(&client, service.address), "{what}: a connection after it");
        if goes_on {
            echo(&mut open, 10_000).unwrap_or_else(|error| panic!("{what}: the open connection: {error}"));
        } else {
            open.set_read_timeout(Some(tests::talk::IN_VAIN)).unwrap();
            assert!(echo(&mut open, 100).is_err(), "{what}: the open connection goes on");
        }
        introduce();
        if port == 8080 {
            daemon.cli(&["delete", "np", "deny"]);
        }
        echo(&mut until_connected(&client, service.address), 10_000).unwrap();
        if !goes_on {
            // What was held back is sent again by the client's stack, and passes.
            open.set_read_timeout(Some(tests::talk::PATIENCE)).unwrap();
            std::io::Read::read_exact(&mut open, &mut [0; 100]).unwrap_or_else(|error| panic!("{what}: {error}"));
        }
        echo(&mut open, 1000).unwrap();
    }
}

#[test]
fn preserve_keeps_what_was_allowed_whatever_changes() {
    whatever_the_change(&[], true);
}

#[test]
fn reevaluate_cuts_what_is_not_allowed_any_more_whatever_changes() {
    whatever_the_change(&["--policy-change", "reevaluate"], false);
}
