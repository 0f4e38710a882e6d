//! What a rule means by a name: networks with labels, ports of endpoints, and policies that are only staged.
//!
//! ```text
//!     client, other ── web (port "http" is 8080)      far: one of the networks
//! ```

use serde_json::json;
use tests::daemon::Daemon;
use tests::reach::{Cast, Reach};

const WORKLOADS: &[&str] = &["front/web", "front/client"];

fn policy(kind: &str, rules: &str) -> String {
    format!(
        "{{ apiVersion: projectcalico.org/v3, kind: {kind}, metadata: {{ name: web }}, spec: {{ selector: app == 'web', types: [Ingress], \
         ingress: [{rules}] }} }}"
    )
}

#[test]
fn names() {
    let cast = Cast::of(WORKLOADS);
    let Some(topology) = cast.up("names") else { return };
    let daemon = Daemon::start(&topology, &["--policy-change", "reevaluate"]);
    let reach = Reach::new(&topology, &cast, &[80, 8080], &[]);
    let everybody = "
        client -> web tcp 80 open
        far -> web udp6 8080 open";
    reach.check(&daemon, "without a policy", everybody);

    // Staged policies are never enforced.
    daemon.apply(&policy("StagedGlobalNetworkPolicy", "{ action: Deny }"));
    reach.check(&daemon, "a staged policy", everybody);

    // Networks by their labels; an entry that goes takes its permission along.
    let networks = |nets: &str| {
        format!(
            "{{ apiVersion: projectcalico.org/v3, kind: GlobalNetworkSet, metadata: {{ name: partners, labels: {{ trust: partner }} }}, \
             spec: {{ nets: [{nets}] }} }}"
        )
    };
    daemon.apply(&networks("192.0.2.0/30, '2001:db8::/64'"));
    daemon.apply(&policy("GlobalNetworkPolicy", "{ action: Allow, source: { selector: trust == 'partner' } }"));
    reach.check(
        &daemon,
        "a network set",
        "far -> web tcp 80 open
         far -> web udp6 80 open
         client -> web tcp 80 shut",
    );
    daemon.apply(&networks("192.0.2.0/30"));
    reach.check(
        &daemon,
        "a network set with one network less",
        "far -> web tcp 80 open
         far -> web udp6 80 shut",
    );

    // Ports by their name, with the protocol that the endpoint gives it.
    daemon.edit_endpoint("front", "web", |endpoint| {
        endpoint["spec"]["ports"] = json!([{ "name": "http", "protocol": "TCP", "port": 8080 }]);
    });
    daemon.apply(&policy("GlobalNetworkPolicy", "{ action: Allow, protocol: TCP, destination: { ports: [http] } }"));
    reach.check(
        &daemon,
        "a port's name",
        "client -> web tcp 8080 open
         far -> web tcp6 8080 open
         client -> web tcp 80 shut
         client -> web udp 8080 shut",
    );
    daemon
        .apply(&policy("GlobalNetworkPolicy", "{ action: Allow, protocol: TCP, destination: { ports: [http, 80] } }"));
    reach.check(
        &daemon,
        "a port's name or a number",
        "client -> web tcp 8080 open
         client -> web tcp 80 open
         client -> web udp 80 shut",
    );
    daemon.apply(&policy("GlobalNetworkPolicy", "{ action: Allow, protocol: TCP, destination: { notPorts: [http] } }"));
    reach.check(
        &daemon,
        "any port but that of a name",
        "client -> web tcp 8080 shut
         client -> web tcp 80 open",
    );
    daemon.edit_endpoint("front", "web", |endpoint| {
        endpoint["spec"]["ports"] = json!([{ "name": "http", "protocol": "TCP", "port": 80 }]);
    });
    reach.check(
        &daemon,
        "the name moves to another port",
        "client -> web tcp 8080 open
         client -> web tcp 80 shut",
    );
}
