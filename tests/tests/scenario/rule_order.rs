//! Which rule decides: actions, the order of rules, policies and tiers, what a tier does at its end, profiles, directions.
//!
//! ```text
//!     client ──┐
//!              ├── router ── web
//!      other ──┘
//! ```

use std::fs;

use tests::daemon::{Daemon, SOON};
use tests::reach::{Cast, Reach};
use tests::wait;

const WORKLOADS: &[&str] = &["default/web", "default/client", "default/other"];
const EVERYBODY: &str = "
    client -> web tcp 80 open
    client -> web udp6 81 open
    other -> web tcp 80 open
    web -> client tcp 80 open";

fn gnp(name: &str, spec: &str) -> String {
    format!(
        "{{ apiVersion: projectcalico.org/v3, kind: GlobalNetworkPolicy, metadata: {{ name: {name} }}, spec: {{ {spec} }} }}\n---\n"
    )
}

fn tier(name: &str, spec: &str) -> String {
    format!(
        "{{ apiVersion: projectcalico.org/v3, kind: Tier, metadata: {{ name: {name} }}, spec: {{ {spec} }} }}\n---\n"
    )
}

/// Allow one port of TCP, in a list of rules.
const ALLOW_80: &str = "{ action: Allow, protocol: TCP, destination: { ports: [80] } }";
const DENY_80: &str = "{ action: Deny, protocol: TCP, destination: { ports: [80] } }";
const PASS_80: &str = "{ action: Pass, protocol: TCP, destination: { ports: [80] } }";

#[test]
fn actions_policies_and_tiers() {
    let cast = Cast::of(WORKLOADS);
    let Some(topology) = cast.up("order") else { return };
    let daemon = Daemon::start(&topology, &["--policy-change", "reevaluate"]);
    let reach = Reach::new(&topology, &cast, &[80, 81], &[]);
    reach.check(&daemon, "without a policy", EVERYBODY);
    let web = |rest: &str| format!("selector: app == 'web', types: [Ingress], {rest}");
    let cases: Vec<(&str, String, &str)> = vec![
        (
            "what no rule allows is denied at the tier's end",
            gnp("a", &web(&format!("ingress: [{ALLOW_80}]"))),
            "client -> web tcp 80 open
             client -> web tcp6 80 open
             client -> web tcp 81 shut
             client -> web udp 80 shut
             client -> other tcp 81 open
             web -> client tcp 81 open",
        ),
        (
            "the first rule that matches decides",
            gnp("a", &web(&format!("ingress: [{DENY_80}, {{ action: Allow }}, {{ action: Deny }}]"))),
            "client -> web tcp 80 shut
             client -> web tcp 81 open
             client -> web udp 80 open",
        ),
        (
            "Log goes on to the next rule",
            gnp("a", &web(&format!("ingress: [{{ action: Log }}, {ALLOW_80}, {{ action: Log }}]"))),
            "client -> web tcp 80 open
             client -> web tcp 81 shut",
        ),
        (
            "policies apply by their order, whatever their names",
            gnp("a", &web("order: 20, ingress: [{ action: Allow }]"))
                + &gnp("b", &web(&format!("order: 10, ingress: [{DENY_80}]"))),
            "client -> web tcp 80 shut
             client -> web tcp 81 open",
        ),
        (
            "the other way round",
            gnp("a", &web("order: 5, ingress: [{ action: Allow }]"))
                + &gnp("b", &web(&format!("order: 10, ingress: [{DENY_80}]"))),
            "client -> web tcp 80 open
             client -> web tcp 81 open",
        ),
        (
            "without an order comes last",
            gnp("a", &web("ingress: [{ action: Allow }]"))
                + &gnp("b", &web(&format!("order: 1000000, ingress: [{DENY_80}]"))),
            "client -> web tcp 80 shut
             client -> web tcp 81 open",
        ),
        (
            "of equal orders the name decides",
            gnp("b", &web("order: 1, ingress: [{ action: Allow }]"))
                + &gnp("a", &web(&format!("order: 1, ingress: [{DENY_80}]"))),
            "client -> web tcp 80 shut
             client -> web tcp 81 open",
        ),
        (
            "Pass goes to the next tier",
            tier("first", "order: 10")
                + &gnp("first.a", &web(&format!("tier: first, ingress: [{PASS_80}]")))
                + &gnp("a", &web("ingress: [{ action: Allow, source: { selector: app == 'client' } }]")),
            "client -> web tcp 80 open
             other -> web tcp 80 shut
             client -> web tcp 81 shut",
        ),
        (
            "Pass in the last tier goes to the profiles",
            gnp("a", &web(&format!("ingress: [{PASS_80}]"))),
            "client -> web tcp 80 open
             client -> web tcp 81 shut",
        ),
        (
            "an earlier tier decides first",
            tier("first", "order: 10")
                + &gnp("first.a", &web(&format!("tier: first, ingress: [{DENY_80}, {{ action: Pass }}]")))
                + &gnp("a", &web("ingress: [{ action: Allow }]")),
            "client -> web tcp 80 shut
             client -> web tcp 81 open",
        ),
        (
            "a tier that passes at its end",
            tier("first", "order: 10, defaultAction: Pass")
                + &gnp("first.a", &web(&format!("tier: first, ingress: [{DENY_80}]"))),
            "client -> web tcp 80 shut
             client -> web tcp 81 open
             other -> web udp 80 open",
        ),
        (
            "a tier that denies at its end",
            tier("first", "order: 10, defaultAction: Deny")
                + &gnp("first.a", &web(&format!("tier: first, ingress: [{ALLOW_80}]"))),
            "client -> web tcp 80 open
             client -> web tcp 81 shut",
        ),
        (
            "a tier of which no policy selects the endpoint",
            tier("first", "order: 10") + &gnp("first.a", "tier: first, selector: app == 'nobody', types: [Ingress]"),
            EVERYBODY,
        ),
        (
            "ingress alone leaves egress to the profile",
            gnp("a", "selector: app == 'client', types: [Ingress]"),
            "web -> client tcp 80 shut
             client -> web tcp 80 open",
        ),
        (
            "egress alone leaves ingress to the profile",
            gnp("a", &format!("selector: app == 'client', egress: [{ALLOW_80}]")),
            "client -> web tcp 80 open
             client -> other tcp 80 open
             client -> web tcp 81 shut
             client -> web udp 80 shut
             web -> client udp 80 open",
        ),
        (
            "egress by the receiver's labels and prefix",
            gnp(
                "a",
                "selector: app == 'client', types: [Egress], egress: [{ action: Allow, protocol: TCP, destination: { \
                 selector: app == 'web' } }, { action: Allow, protocol: UDP, destination: { nets: [10.65.0.4/32] } }]",
            ),
            "client -> web tcp 80 open
             client -> web tcp6 81 open
             client -> other tcp 80 shut
             client -> other udp 80 open
             client -> other udp6 80 shut
             client -> web udp 80 shut",
        ),
        (
            "both directions and no rule",
            gnp("a", "selector: app == 'client', types: [Ingress, Egress]"),
            "client -> web tcp 80 shut
             web -> client tcp 80 shut
             other -> web tcp 80 open",
        ),
        (
            "both ends have a say",
            gnp("a", &format!("selector: app == 'client', types: [Egress], egress: [{ALLOW_80}]"))
                + &gnp("b", &web("ingress: [{ action: Allow, protocol: TCP, destination: { ports: [81] } }]")),
            "client -> web tcp 80 shut
             client -> web tcp 81 shut
             other -> web tcp 81 open
             client -> other tcp 80 open",
        ),
    ];
    for (what, manifests, lines) in cases {
        let file = topology.folder().join("case.yaml");
        fs::write(&file, &manifests).unwrap();
        daemon.cli(&["apply", "-f", file.to_str().unwrap()]);
        reach.check(&daemon, what, lines);
        // In the order in which they can go: a tier after its policies.
        for document in manifests.rsplit("---\n").filter(|document| !document.is_empty()) {
            fs::write(&file, document).unwrap();
            daemon.cli(&["delete", "-f", file.to_str().unwrap()]);
        }
    }
    wait::until_true("the Log rule in the log", SOON, || daemon.log().contains("GlobalNetworkPolicy a ingress[0]"));
    reach.check(&daemon, "after all of them", EVERYBODY);
}

#[test]
fn profiles() {
    let cast = Cast::of(WORKLOADS);
    let Some(topology) = cast.up("order") else { return };
    let daemon = Daemon::start(&topology, &["--policy-change", "reevaluate"]);
    let reach = Reach::new(&topology, &cast, &[80, 81], &[]);
    reach.check(&daemon, "the lab's profile", EVERYBODY);
    let profile = |name: &str, spec: &str| {
        daemon.apply(&format!(
            "{{ apiVersion: projectcalico.org/v3, kind: Profile, metadata: {{ name: {name} }}, spec: {{ {spec} }} }}"
        ));
    };
    profile("only-80", &format!("ingress: [{ALLOW_80}], egress: [{{ action: Allow }}]"));
    profile("never-80", &format!("ingress: [{DENY_80}, {{ action: Allow }}], egress: [{{ action: Allow }}]"));
    let cases: [(&str, &[&str], &str); 6] = [
        (
            "a profile with one rule",
            &["only-80"],
            "client -> web tcp 80 open
             client -> web tcp6 80 open
             client -> web tcp 81 shut
             web -> client tcp 81 open",
        ),
        (
            "two profiles: the first that decides",
            &["only-80", "lab-allow"],
            "client -> web tcp 80 open
             client -> web tcp 81 open",
        ),
        (
            "two profiles: the first denies",
            &["never-80", "only-80"],
            "client -> web tcp 80 shut
             client -> web tcp 81 open",
        ),
        (
            "no profile",
            &[],
            "client -> web tcp 80 shut
             web -> client tcp 80 shut
             client -> other tcp 80 open",
        ),
        (
            "a profile that does not exist",
            &["nowhere"],
            "client -> web tcp 80 shut
             web -> client tcp6 80 shut
             client -> other tcp 80 open",
        ),
        ("the lab's profile again", &["lab-allow"], EVERYBODY),
    ];
    for (what, profiles, lines) in cases {
        daemon.edit_endpoint("default", "web", |endpoint| endpoint["spec"]["profiles"] = (*profiles).into());
        reach.check(&daemon, what, lines);
    }
    // A policy that selects the endpoint takes over: the profile is not asked.
    daemon.edit_endpoint("default", "web", |endpoint| endpoint["spec"]["profiles"] = ["never-80"].as_slice().into());
    daemon.apply(&gnp("a", &format!("selector: app == 'web', types: [Ingress], ingress: [{ALLOW_80}]")));
    reach.check(
        &daemon,
        "a policy instead of the profile",
        "client -> web tcp 80 open
         client -> web tcp 81 shut
         web -> client tcp 81 open",
    );
    // A profile that changes, changes for those who have it.
    daemon.cli(&["delete", "gnp", "a"]);
    profile("never-80", &format!("ingress: [{ALLOW_80}], egress: [{DENY_80}, {{ action: Allow }}]"));
    reach.check(
        &daemon,
        "the profile has changed",
        "client -> web tcp 80 open
         client -> web tcp 81 shut
         web -> client tcp 80 shut
         web -> client tcp 81 open",
    );
}
