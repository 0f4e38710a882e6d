//! What a rule says about the packet: protocol, ports, prefixes, ICMP, family. Real sockets, each field with what it lets
//! in and what it does not.
//!
//! ```text
//!     client ──┐                        policies select web, ingress
//!      other ──┼── router ── web
//!        far ──┘ (uplink)
//! ```

use tests::daemon::Daemon;
use tests::reach::{Cast, Reach};

const WORKLOADS: &[&str] = &["default/web", "default/client", "default/other"];

/// The one policy of these stories, with these ingress rules.
fn policy(rules: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {{ name: web, namespace: default }}\nspec:\n  \
         selector: app == 'web'\n  types: [Ingress]\n  ingress:\n{rules}"
    )
}

/// Rules as they are written, and who gets through.
type Case = (&'static str, &'static str, &'static str);

fn story(name: &str, cases: &[Case]) {
    let cast = Cast::of(WORKLOADS);
    let Some(topology) = cast.up(name) else { return };
    // Each case is judged by its own policy, also where packets have no port to tell attempts apart.
    let daemon = Daemon::start(&topology, &["--policy-change", "reevaluate"]);
    let reach = Reach::new(&topology, &cast, &[80, 81, 443, 8080], &[47]);
    let everybody = "
        client -> web tcp 80 open
        client -> web tcp6 81 open
        client -> web udp 80 open
        client -> web udp6 443 open
        client -> web udplite 80 open
        client -> web udplite6 80 open
        client -> web sctp 80 open
        client -> web icmp 8/0 open
        client -> web icmp6 128/0 open
        client -> web icmp 13/0 open
        client -> web proto 47 open
        client -> web proto6 47 open
        far -> web tcp 80 open
        far -> web udp6 80 open
        other -> web tcp 80 open";
    reach.check(&daemon, "without a policy", everybody);
    for (what, rules, lines) in cases {
        let rules: String = rules.trim().lines().map(|rule| format!("    - {}\n", rule.trim())).collect();
        daemon.apply(&policy(&rules));
        reach.check(&daemon, what, lines);
    }
    daemon.cli(&["delete", "np", "web"]);
    reach.check(&daemon, "without the policy", everybody);
}

#[test]
fn protocols_and_ports() {
    story(
        "match",
        &[
            (
                "protocol by name",
                "{ action: Allow, protocol: TCP }",
                "client -> web tcp 80 open
                 client -> web tcp6 8080 open
                 client -> web udp 80 shut
                 client -> web udplite 80 shut
                 client -> web sctp 80 shut
                 client -> web icmp 8/0 shut
                 client -> web icmp6 128/0 shut
                 client -> web proto 47 shut",
            ),
            (
                "UDP, SCTP and UDP-Lite",
                "{ action: Allow, protocol: UDP, destination: { ports: [80] } }
                 { action: Allow, protocol: SCTP, destination: { ports: [81] } }
                 { action: Allow, protocol: UDPLite }",
                "client -> web udp 80 open
                 client -> web udp6 80 open
                 client -> web udp 81 shut
                 client -> web sctp 81 open
                 client -> web sctp6 81 open
                 client -> web sctp 80 shut
                 client -> web udplite 80 open
                 client -> web udplite6 443 open
                 client -> web tcp 80 shut
                 client -> web tcp 81 shut",
            ),
            (
                "protocol by number",
                "{ action: Allow, protocol: 47 }",
                "client -> web proto 47 open
                 client -> web proto6 47 open
                 far -> web proto 47 open
                 client -> web udp 80 shut
                 client -> web sctp 80 shut",
            ),
            (
                "not a protocol",
                "{ action: Allow, notProtocol: TCP }",
                "client -> web tcp 80 shut
                 client -> web tcp6 80 shut
                 client -> web udp 80 open
                 client -> web sctp 80 open
                 client -> web proto 47 open
                 client -> web icmp 8/0 open
                 client -> web icmp6 128/0 open",
            ),
            (
                "ports and ranges, single and at their ends",
                "{ action: Allow, protocol: TCP, destination: { ports: [80, \"443:8080\"] } }",
                "client -> web tcp 80 open
                 client -> web tcp 443 open
                 client -> web tcp6 8080 open
                 client -> web tcp 81 shut
                 client -> web udp 80 shut",
            ),
            (
                "not ports",
                "{ action: Allow, protocol: TCP, destination: { notPorts: [80, \"443:444\"] } }",
                "client -> web tcp 80 shut
                 client -> web tcp6 443 shut
                 client -> web tcp 81 open
                 client -> web tcp6 8080 open",
            ),
            (
                "ports and not ports",
                "{ action: Allow, protocol: TCP, destination: { ports: [\"80:443\"], notPorts: [81] } }",
                "client -> web tcp 80 open
                 client -> web tcp 443 open
                 client -> web tcp 81 shut
                 client -> web tcp 8080 shut",
            ),
            (
                "the sender's ports",
                "{ action: Deny, protocol: UDP, source: { ports: [\"1024:65535\"] } }
                 { action: Allow, protocol: TCP, source: { ports: [\"1024:65535\"] } }",
                "client -> web tcp 80 open
                 client -> web udp 80 shut",
            ),
        ],
    );
}

#[test]
fn prefixes() {
    story(
        "match",
        &[
            (
                "prefixes of the sender",
                "{ action: Allow, source: { nets: [10.65.0.3/32, 192.0.2.0/24] } }",
                "client -> web tcp 80 open
                 client -> web udp 80 open
                 far -> web tcp 80 open
                 other -> web tcp 80 shut
                 client -> web tcp6 80 shut
                 far -> web udp6 80 shut",
            ),
            (
                "the same by IPv6",
                "{ action: Allow, source: { nets: [\"fd65::2/127\"] } }",
                "client -> web tcp6 80 open
                 other -> web tcp6 80 shut
                 far -> web tcp6 80 shut
                 client -> web tcp 80 shut",
            ),
            (
                "not these prefixes",
                "{ action: Allow, source: { notNets: [10.65.0.4/30] } }",
                "client -> web tcp 80 open
                 far -> web tcp 80 open
                 other -> web tcp 80 shut
                 client -> web tcp6 80 shut",
            ),
            (
                "a prefix without a part of it",
                "{ action: Allow, source: { nets: [10.65.0.0/24], notNets: [10.65.0.4/32] } }",
                "client -> web tcp 80 open
                 other -> web tcp 80 shut
                 far -> web tcp 80 shut",
            ),
            (
                "the receiver's prefix",
                "{ action: Allow, protocol: TCP, destination: { nets: [10.65.0.2/32] } }
                 { action: Allow, protocol: UDP, destination: { nets: [10.65.0.3/32] } }",
                "client -> web tcp 80 open
                 client -> web udp 80 shut
                 client -> web tcp6 80 shut",
            ),
        ],
    );
}

#[test]
fn icmp_and_families() {
    story(
        "match",
        &[
            (
                "type and code",
                "{ action: Allow, protocol: ICMP, icmp: { type: 8, code: 0 } }",
                "client -> web icmp 8/0 open
                 client -> web icmp 13/0 shut
                 client -> web icmp6 128/0 shut
                 client -> web tcp 80 shut",
            ),
            (
                "a type with any code",
                "{ action: Allow, protocol: ICMP, icmp: { type: 13 } }",
                "client -> web icmp 13/0 open
                 client -> web icmp 13/1 open
                 client -> web icmp 8/0 shut",
            ),
            (
                "not this type",
                "{ action: Allow, protocol: ICMP, notICMP: { type: 8 } }",
                "client -> web icmp 13/0 open
                 client -> web icmp 8/0 shut
                 client -> web icmp6 128/0 shut",
            ),
            (
                "not this code of the type",
                "{ action: Allow, protocol: ICMP, notICMP: { type: 13, code: 1 } }",
                "client -> web icmp 13/0 open
                 client -> web icmp 8/0 open
                 client -> web icmp 13/1 shut",
            ),
            (
                "ICMP of IPv6",
                "{ action: Allow, protocol: ICMPv6, icmp: { type: 128 } }",
                "client -> web icmp6 128/0 open
                 client -> web icmp 8/0 shut
                 client -> web tcp6 80 shut",
            ),
            (
                "one family",
                "{ action: Allow, ipVersion: 4 }",
                "client -> web tcp 80 open
                 client -> web udp 80 open
                 client -> web icmp 8/0 open
                 client -> web tcp6 80 shut
                 client -> web icmp6 128/0 shut",
            ),
            (
                "the other family, and only TCP",
                "{ action: Allow, ipVersion: 6, protocol: TCP }",
                "client -> web tcp6 80 open
                 client -> web tcp 80 shut
                 client -> web udp6 80 shut",
            ),
        ],
    );
}
