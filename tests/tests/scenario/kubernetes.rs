//! Kubernetes' own policies, by the recipes that its users know: namespaces are objects, and pods get their labels from them.
//!
//! ```text
//!     namespace shop (team=red)        namespace ops (team=blue)      nowhere
//!     web  app=web   db  app=db        monitor app=monitor            far, behind the uplink
//! ```

use tests::daemon::Daemon;
use tests::reach::{Cast, Reach};

const WORKLOADS: &[&str] = &["shop/web", "shop/db", "ops/monitor"];
const NAMESPACES: &str = "
{ apiVersion: v1, kind: Namespace, metadata: { name: shop, labels: { team: red } } }
---
{ apiVersion: v1, kind: Namespace, metadata: { name: ops, labels: { team: blue } } }
";

/// A recipe: what the policy's spec says, and who gets where because of it.
type Recipe = (&'static str, &'static str, &'static str);

const RECIPES: [Recipe; 10] = [
    (
        "deny everything to an app",
        "podSelector: { matchLabels: { app: web } }, ingress: []",
        "db -> web tcp 80 shut
         monitor -> web tcp6 80 shut
         far -> web udp 80 shut
         web -> db tcp 80 open",
    ),
    (
        "limit to an app of the namespace",
        "podSelector: { matchLabels: { app: web } }, ingress: [{ from: [{ podSelector: { matchLabels: { app: db } } }] }]",
        "db -> web tcp 80 open
         db -> web udp6 80 open
         monitor -> web tcp 80 shut
         far -> web tcp 80 shut",
    ),
    (
        "deny everything to a namespace",
        "podSelector: {}, ingress: []",
        "web -> db tcp 80 shut
         db -> web tcp 80 shut
         monitor -> db tcp6 80 shut
         web -> monitor tcp 80 open",
    ),
    (
        "allow everything to an app",
        "podSelector: { matchLabels: { app: web } }, ingress: [{}]",
        "db -> web tcp 80 open
         far -> web udp6 80 open",
    ),
    (
        "only from the own namespace",
        "podSelector: {}, ingress: [{ from: [{ podSelector: {} }] }]",
        "web -> db tcp 80 open
         db -> web tcp6 80 open
         monitor -> web tcp 80 shut
         far -> web tcp 80 shut",
    ),
    (
        "from a namespace, by its labels",
        "podSelector: { matchLabels: { app: web } }, ingress: [{ from: [{ namespaceSelector: { matchLabels: { team: blue } } }] }]",
        "monitor -> web tcp 80 open
         db -> web tcp 80 shut
         far -> web tcp 80 shut",
    ),
    (
        "from some pods of another namespace",
        "podSelector: { matchLabels: { app: web } }, ingress: [{ from: [{ namespaceSelector: { matchExpressions: [{ key: team, operator: In, \
         values: [blue, green] }] }, podSelector: { matchLabels: { app: nobody } } }] }]",
        "monitor -> web tcp 80 shut
         db -> web tcp 80 shut",
    ),
    (
        "only to a port, from anywhere",
        "podSelector: { matchLabels: { app: web } }, ingress: [{ ports: [{ port: 80 }, { port: 8000, endPort: 8080 }] }]",
        "db -> web tcp 80 open
         far -> web tcp6 8080 open
         db -> web tcp 9000 shut
         db -> web udp 80 shut",
    ),
    (
        "from addresses, but for some",
        "podSelector: { matchLabels: { app: web } }, ingress: [{ from: [{ ipBlock: { cidr: 10.65.0.0/24, except: [10.65.0.4/32] } }] }]",
        "db -> web tcp 80 open
         monitor -> web tcp 80 shut
         db -> web tcp6 80 shut
         far -> web tcp 80 shut",
    ),
    (
        "out of an app only to a port",
        "podSelector: { matchLabels: { app: web } }, policyTypes: [Egress], egress: [{ ports: [{ port: 8080, protocol: UDP }] }]",
        "web -> db udp 8080 open
         web -> far udp6 8080 open
         web -> db tcp 80 shut
         web -> far tcp 80 shut
         db -> web tcp 80 open",
    ),
];

#[test]
fn recipes() {
    let cast = Cast::of(WORKLOADS);
    let Some(topology) = cast.up("recipes") else { return };
    let daemon = Daemon::start(&topology, &["--policy-change", "reevaluate"]);
    let reach = Reach::new(&topology, &cast, &[80, 8080, 9000], &[]);
    daemon.apply(NAMESPACES);
    for (namespace, name) in [("shop", "web"), ("shop", "db"), ("ops", "monitor")] {
        daemon.edit_endpoint(namespace, name, |endpoint| {
            endpoint["spec"]["profiles"] = vec![format!("kns.{namespace}")].into();
        });
    }
    let everybody = "
        db -> web tcp 80 open
        monitor -> web tcp6 80 open
        far -> web udp 80 open
        web -> db tcp 9000 open";
    reach.check(&daemon, "without a policy", everybody);
    for (name, spec, expected) in RECIPES {
        daemon.apply(&format!(
            "{{ apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{ name: recipe, namespace: shop }}, spec: {{ {spec} }} }}"
        ));
        reach.check(&daemon, name, expected);
    }
    daemon.cli(&["delete", "knp", "recipe", "-n", "shop"]);
    reach.check(&daemon, "without policies", everybody);

    // The cluster's administrators decide before the namespaces, or for want of them.
    let admin = |tier: &str, action: &str| {
        format!(
            "{{ apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {{ name: admin }}, spec: {{ tier: {tier}, \
             priority: 10, subject: {{ namespaces: {{ matchLabels: {{ team: red }} }} }}, ingress: [{{ action: {action}, from: [{{ namespaces: \
             {{ matchLabels: {{ team: blue }} }} }}] }}] }} }}"
        )
    };
    daemon.apply(&admin("Admin", "Deny"));
    reach.check(
        &daemon,
        "the administrators deny",
        "monitor -> web tcp 80 shut
         db -> web tcp 80 open",
    );
}
