//! What a rule says about the peer: labels, namespaces, service accounts, in the policy of a namespace and in a global one.
//!
//! ```text
//!     namespace front             namespace back           nowhere
//!     client  app=client  ┐       stranger app=client      far ─┐
//!     other   app=other   ├─ web  the same labels          (uplink)
//! ```

use tests::daemon::Daemon;
use tests::reach::{Cast, Reach};

const WORKLOADS: &[&str] = &["front/web", "front/client", "front/other", "back/stranger client"];
/// Labels that come with a namespace or a service account, as Kubernetes' controllers write them.
const PROFILES: &str = "
{ apiVersion: projectcalico.org/v3, kind: Profile, metadata: { name: kns.front }, spec: { labelsToApply: { pcns.team: red, pcns.projectcalico.org/name: front } } }
---
{ apiVersion: projectcalico.org/v3, kind: Profile, metadata: { name: kns.back }, spec: { labelsToApply: { pcns.team: blue, pcns.projectcalico.org/name: back } } }
---
{ apiVersion: projectcalico.org/v3, kind: Profile, metadata: { name: ksa.gold }, spec: { labelsToApply: { pcsa.trust: high } } }
";

/// Who runs as what.
fn introduce(daemon: &Daemon) {
    daemon.apply(PROFILES);
    for (namespace, name, account) in
        [("front", "web", ""), ("front", "client", "gold"), ("front", "other", "tin"), ("back", "stranger", "gold")]
    {
        daemon.edit_endpoint(namespace, name, |endpoint| {
            let mut profiles = vec!["lab-allow".to_owned(), format!("kns.{namespace}")];
            if account == "gold" {
                profiles.push("ksa.gold".to_owned());
            }
            endpoint["spec"]["profiles"] = profiles.into();
            endpoint["spec"]["serviceAccountName"] = account.into();
        });
    }
}

#[test]
fn peers() {
    let cast = Cast::of(WORKLOADS);
    let Some(topology) = cast.up("peers") else { return };
    let daemon = Daemon::start(&topology, &["--policy-change", "reevaluate"]);
    let reach = Reach::new(&topology, &cast, &[80], &[]);
    introduce(&daemon);
    let everybody = "
        client -> web tcp 80 open
        other -> web tcp6 80 open
        stranger -> web udp 80 open
        far -> web tcp 80 open";
    reach.check(&daemon, "without a policy", everybody);

    // The source of the one rule, and who of client, other, stranger and far gets through.
    let in_namespace = [
        ("selector: app == 'client'", [true, false, false, false]),
        ("selector: has(app)", [true, true, false, false]),
        ("selector: \"app in {'other', 'nobody'}\"", [false, true, false, false]),
        ("selector: all(), namespaceSelector: all()", [true, true, true, false]),
        ("selector: app == 'client', namespaceSelector: all()", [true, false, true, false]),
        ("selector: app == 'client', namespaceSelector: team == 'blue'", [false, false, true, false]),
        ("namespaceSelector: team == 'blue'", [false, false, true, false]),
        ("namespaceSelector: projectcalico.org/name == 'front'", [true, true, false, false]),
        ("notSelector: app == 'client'", [false, true, false, false]),
        ("selector: has(app), notSelector: app == 'other', namespaceSelector: all()", [true, false, true, false]),
        ("serviceAccounts: { names: [gold] }", [true, false, false, false]),
        ("serviceAccounts: { names: [gold, tin] }", [true, true, false, false]),
        ("serviceAccounts: { names: [gold] }, namespaceSelector: all()", [true, false, true, false]),
        ("serviceAccounts: { selector: trust == 'high' }, namespaceSelector: all()", [true, false, true, false]),
        ("serviceAccounts: { selector: trust == 'high' }, selector: app == 'other'", [false; 4]),
        ("selector: app == 'client', nets: [10.65.0.0/24]", [true, false, false, false]),
        ("selector: app == 'client', nets: [10.65.0.4/32]", [false; 4]),
    ];
    for (source, expected) in in_namespace {
        daemon.apply(&format!(
            "{{ apiVersion: projectcalico.org/v3, kind: NetworkPolicy, metadata: {{ name: web, namespace: front }}, \
             spec: {{ selector: app == 'web', ingress: [{{ action: Allow, source: {{ {source} }} }}] }} }}"
        ));
        reach.check(&daemon, source, &lines(expected, source.contains("nets")));
    }
    daemon.cli(&["delete", "np", "web", "-n", "front"]);

    // In a global policy a selector means everybody.
    let global = [
        ("selector: app == 'client'", [true, false, true, false]),
        ("selector: app == 'client', namespaceSelector: team == 'red'", [true, false, false, false]),
        ("notSelector: app == 'client'", [false, true, false, true]),
        ("serviceAccounts: { names: [tin] }", [false, true, false, false]),
        ("selector: projectcalico.org/namespace == 'back'", [false, false, true, false]),
    ];
    for (source, expected) in global {
        daemon.apply(&format!(
            "{{ apiVersion: projectcalico.org/v3, kind: GlobalNetworkPolicy, metadata: {{ name: web }}, spec: {{ \
             selector: app == 'web', namespaceSelector: team == 'red', ingress: [{{ action: Allow, source: {{ {source} }} }}] }} }}"
        ));
        reach.check(&daemon, source, &lines(expected, false));
    }
    // Whom a policy selects by its namespace or service account, and whom not.
    daemon.apply(
        "{ apiVersion: projectcalico.org/v3, kind: GlobalNetworkPolicy, metadata: { name: web }, spec: { \
         selector: all(), namespaceSelector: team == 'blue', types: [Ingress, Egress] } }",
    );
    reach.check(
        &daemon,
        "a policy for one namespace",
        "stranger -> web tcp 80 shut
         client -> stranger tcp 80 shut
         client -> web tcp 80 open",
    );
    daemon.apply(
        "{ apiVersion: projectcalico.org/v3, kind: GlobalNetworkPolicy, metadata: { name: web }, spec: { \
         serviceAccountSelector: trust == 'high', types: [Egress] } }",
    );
    reach.check(
        &daemon,
        "a policy for a service account",
        "stranger -> web tcp 80 shut
         client -> web tcp 80 shut
         other -> web tcp 80 open
         other -> client tcp 80 open",
    );
    daemon.cli(&["delete", "gnp", "web"]);
    reach.check(&daemon, "without policies", everybody);
}

/// The four peers in both families; a prefix is of one.
fn lines(expected: [bool; 4], is_ipv4_only: bool) -> String {
    let peers = ["client", "other", "stranger", "far"].into_iter().zip(expected);
    let word = |is_open: bool| if is_open { "open" } else { "shut" };
    peers
        .flat_map(|(peer, is_open)| {
            let ways = ["tcp", "udp6"].map(|way| {
                let is_open = is_open && !(is_ipv4_only && way.ends_with('6'));
                format!("{peer} -> web {way} 80 {}\n", word(is_open))
            });
            ways.into_iter()
        })
        .collect()
}
