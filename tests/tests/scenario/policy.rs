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
