//! `calculate`, case by case: resources in, and what the one endpoint of interest enforces, in words.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use config::net::Cidr;
use config::resource::PolicyType::{Egress, Ingress};
use config::resource::{PolicyType, Resource};
use config::yaml;

use super::*;
use crate::node_state::{Member, ProgramEnd, ResolvedRule, ResolvedSide, RouteTarget, SetName};

const HERE: &str = "here";

/// A resource in one line of YAML.
fn make(kind: &str, metadata: &str, spec: &str) -> String {
    let group = if kind == "StaticRoute" { "vrouter.io/v1" } else { "projectcalico.org/v3" };
    format!("{{apiVersion: {group}, kind: {kind}, metadata: {{{metadata}}}, spec: {{{spec}}}}}")
}

/// An endpoint here; the last part of its address also makes its MAC address and names its interface.
fn endpoint(name: &str, namespace: &str, last: u8, labels: &str, more: &str) -> String {
    make(
        "WorkloadEndpoint",
        &format!("name: {name}, namespace: {namespace}, labels: {{{labels}}}"),
        &format!(
            "node: {HERE}, orchestrator: k8s, pod: {name}, endpoint: eth0, interfaceName: cali{last}, \
             mac: '02:00:00:00:00:{last:02x}', ipNetworks: [10.0.0.{last}/32], {more}"
        ),
    )
}

/// The endpoint that policies are about, and one that they mention.
fn web() -> String {
    endpoint("web", "default", 1, "role: web", "profiles: [base]")
}

fn db() -> String {
    endpoint("db", "prod", 2, "role: db", "profiles: [kns.prod], serviceAccountName: db")
}

fn policy(name: &str, spec: &str) -> String {
    make("NetworkPolicy", &format!("name: {name}, namespace: default"), spec)
}

fn global(name: &str, spec: &str) -> String {
    make("GlobalNetworkPolicy", &format!("name: {name}"), spec)
}

fn tier(name: &str, spec: &str) -> String {
    make("Tier", &format!("name: {name}"), spec)
}

fn profile(name: &str, spec: &str) -> String {
    make("Profile", &format!("name: {name}"), spec)
}

fn resources(texts: &[String]) -> Resources {
    let parse = |text: &String| yaml::parse("case", text).unwrap_or_else(|problems| panic!("{text}\n{problems:?}"));
    texts.iter().flat_map(parse).collect()
}

fn state(texts: &[String]) -> NodeState {
    calculate(&resources(texts), HERE, &FelixSettings::default())
}

/// What an endpoint enforces, one line for each rule and each end.
fn program(state: &NodeState, name: &str, direction: PolicyType) -> Vec<String> {
    let endpoint = state.endpoints.iter().find(|endpoint| endpoint.key.name == name).expect("the endpoint is here");
    let program = if direction == Ingress { &endpoint.ingress } else { &endpoint.egress };
    let block = |name: &BlockName| state.blocks[name].iter().map(|rule| line(state, rule));
    let mut lines = Vec::new();
    for tier in &program.tiers {
        lines.extend(tier.blocks.iter().flat_map(block));
        lines.push(tier.end.clone().unwrap_or_else(|| "next tier".into()));
    }
    lines.extend(program.profiles.iter().flat_map(block));
    lines.push(match &program.end {
        ProgramEnd::Deny(name) => name.clone(),
        ProgramEnd::Undecided => "undecided".into(),
    });
    lines
}

fn line(state: &NodeState, rule: &ResolvedRule) -> String {
    let mut line = format!("{} {}", rule.name, rule.action);
    let mut add = |word: &str, value: Option<String>| {
        if let Some(value) = value {
            line.push_str(&format!(" {word} {value}"));
        }
    };
    let icmp = |(kind, code): (u8, Option<u8>)| code.map_or(kind.to_string(), |code| format!("{kind}/{code}"));
    add("ip", rule.ip_version.map(|version| version.to_string()));
    add("proto", rule.protocol.map(|number| number.to_string()));
    add("!proto", rule.not_protocol.map(|number| number.to_string()));
    add("icmp", rule.icmp.map(icmp));
    add("!icmp", rule.not_icmp.map(icmp));
    for (word, side) in [("from", &rule.source), ("to", &rule.destination)] {
        let side = words(state, side);
        add(word, (!side.is_empty()).then_some(side));
    }
    line
}

fn words(state: &NodeState, side: &ResolvedSide) -> String {
    fn list<T: ToString>(mark: &str, items: &[T]) -> Option<String> {
        let items: Vec<String> = items.iter().map(ToString::to_string).collect();
        (!items.is_empty()).then(|| format!("{mark}[{}]", items.join(" ")))
    }
    let set = |mark: &'static str| {
        move |name: &SetName| {
            let word = |member: &Member| match member {
                Member::Net(net) => net.to_string(),
                Member::Port(address, protocol, port) => format!("{address} {protocol}:{port}"),
            };
            let members: Vec<String> = state.sets[name].keys().map(word).collect();
            format!("{mark}{{{}}}", members.join(" "))
        }
    };
    let parts = list("", &side.nets).into_iter().chain(list("!", &side.not_nets));
    let parts = parts.chain(side.sets.iter().map(set(""))).chain(side.not_sets.iter().map(set("!")));
    let parts = parts.chain(list(":", &side.ports)).chain(side.named_ports.iter().map(set(":")));
    let parts = parts.chain(list("!:", &side.not_ports)).chain(side.not_named_ports.iter().map(set("!:")));
    let parts = parts.chain(side.services.iter().map(set("service")));
    parts.collect::<Vec<_>>().join(" ")
}

const NO_POLICY: &str = "no policy and no profile: ingress default deny";
const END: &str = "Tier default: end of tier, ingress default deny";

/// Which of these policies selects the endpoint `web` of namespace `default`, by the ends of its ingress program.
#[track_caller]
fn check_selects(texts: &[String], expected: bool) {
    let found = program(&state(texts), "web", Ingress);
    assert_eq!(found.iter().any(|line| line == END), expected, "{found:?}");
}

#[test]
fn labels_are_own_before_inherited_and_the_first_profile_wins() {
    let web = |labels: &str, profiles: &str| {
        endpoint("web", "default", 1, labels, &format!("profiles: [{profiles}], serviceAccountName: front"))
    };
    let profiles = [
        profile("p", "labelsToApply: {role: web, env: a}"),
        profile("q", "labelsToApply: {role: db, env: b, zone: z}"),
        profile("kns.default", "labelsToApply: {pcns.team: blue}"),
    ];
    let check = |labels: &str, names: &str, selector: &str, expected: bool| {
        let mut texts = vec![web(labels, names), global("a", &format!("selector: \"{selector}\""))];
        texts.extend(profiles.clone());
        check_selects(&texts, expected);
    };
    check("role: lb", "p, q", "role == 'lb'", true);
    check("", "p, q", "role == 'web'", true);
    check("", "q, p", "role == 'db'", true);
    check("role: lb", "q, p", "env == 'b' && zone == 'z' && role == 'lb'", true);
    check("", "absent, p", "role == 'web'", true);
    check("", "", "has(role)", false);
    check("", "", "projectcalico.org/namespace == 'default'", true);
    check("", "", "projectcalico.org/orchestrator == 'k8s'", true);
    check("", "", "projectcalico.org/serviceaccount == 'front'", true);
    // Nobody claims another identity by a label.
    check("projectcalico.org/namespace: prod", "", "projectcalico.org/namespace == 'prod'", false);
    check("projectcalico.org/serviceaccount: back", "", "projectcalico.org/serviceaccount == 'back'", false);
    check("pcns.team: red, pcsa.trust: high", "", "has(pcns.team) || has(pcsa.trust)", false);
    check("pcns.team: red", "kns.default", "pcns.team == 'red'", false);
    check("", "kns.default", "pcns.team == 'blue'", true);
}

#[test]
fn a_policy_selects_by_namespace_labels_and_accounts() {
    let check = |policy: String, expected: bool| {
        let inherited = profile("kns.default", "labelsToApply: {pcns.team: red, pcsa.trust: high}");
        let web = endpoint("web", "default", 1, "role: web", "profiles: [kns.default]");
        check_selects(&[web, inherited, policy], expected);
    };
    check(policy("a", ""), true);
    check(policy("a", "selector: role == 'web'"), true);
    check(policy("a", "selector: role == 'db'"), false);
    check(policy("a", "serviceAccountSelector: trust == 'high'"), true);
    check(policy("a", "serviceAccountSelector: trust == 'low'"), false);
    check(make("NetworkPolicy", "name: a, namespace: prod", ""), false);
    check(make("NetworkPolicy", "name: a, namespace: prod", "selector: role == 'web'"), false);
    check(global("a", "selector: role == 'web'"), true);
    check(global("a", "namespaceSelector: team == 'red'"), true);
    check(global("a", "namespaceSelector: team == 'blue'"), false);
    check(global("a", "namespaceSelector: all()"), true);
    check(global("a", "selector: role == 'web', serviceAccountSelector: has(trust)"), true);
}

#[test]
fn types_follow_the_rules_that_are_there() {
    let check = |spec: &str, ingress: bool, egress: bool| {
        let state = state(&[endpoint("web", "default", 1, "", ""), policy("a", spec)]);
        let ends = |direction| program(&state, "web", direction)[0].starts_with("no policy");
        assert_eq!((!ends(Ingress), !ends(Egress)), (ingress, egress), "{spec}");
    };
    check("", true, false);
    check("ingress: [{action: Allow}]", true, false);
    check("egress: [{action: Allow}]", false, true);
    check("ingress: [{action: Allow}], egress: [{action: Allow}]", true, true);
    check("types: [Egress]", false, true);
    check("types: [Egress], ingress: [{action: Allow}]", false, true);
    check("types: [Ingress, Egress]", true, true);
}

#[test]
fn policies_apply_by_order_then_name() {
    let check = |policies: &[(&str, &str)], expected: &[&str]| {
        let rule = "ingress: [{action: Allow}]";
        let mut texts = vec![endpoint("web", "default", 1, "", "")];
        texts.extend(policies.iter().map(|(name, order)| match name.strip_prefix("default/") {
            Some(name) => policy(name, &format!("{order} {rule}")),
            None => global(name, &format!("{order} {rule}")),
        }));
        let found = program(&state(&texts), "web", Ingress);
        let names = found.iter().filter_map(|line| line.strip_suffix(" ingress[0] Allow"));
        assert_eq!(names.map(|name| name.split(' ').next_back().unwrap()).collect::<Vec<_>>(), expected);
    };
    check(&[("b", "order: 1,"), ("a", "order: 2,")], &["b", "a"]);
    check(&[("a", ""), ("b", "order: 1000000,")], &["b", "a"]);
    check(&[("c", ""), ("b", ""), ("a", "")], &["a", "b", "c"]);
    check(&[("c", "order: 1,"), ("b", "order: 1,"), ("a", "order: 1.5,")], &["b", "c", "a"]);
    check(&[("a", "order: 0,"), ("b", "order: -1,")], &["b", "a"]);
    // Of one name and order: those outside of namespaces first.
    check(&[("default/a", ""), ("a", "")], &["a", "default/a"]);
    check(&[("default/a", ""), ("b", ""), ("default/b", "order: 1,")], &["default/b", "default/a", "b"]);
}

#[test]
fn tiers_apply_by_order_then_name_and_unknown_ones_last() {
    let check = |tiers: &[(&str, &str)], in_tiers: &[&str], expected: &[&str]| {
        let mut texts = vec![endpoint("web", "default", 1, "", "")];
        texts.extend(tiers.iter().map(|(name, spec)| tier(name, spec)));
        texts.extend(in_tiers.iter().map(|name| global(&format!("of-{name}"), &format!("tier: {name}"))));
        let found = program(&state(&texts), "web", Ingress);
        let ends = found.iter().map(|line| line.split(": ").next().unwrap().trim_start_matches("Tier "));
        assert_eq!(ends.take(expected.len()).collect::<Vec<_>>(), expected);
    };
    check(&[("b", "order: 1"), ("a", "order: 2")], &["a", "b"], &["b", "a"]);
    check(&[("b", "order: 1"), ("a", "order: 1")], &["b", "a"], &["a", "b"]);
    check(&[("a", ""), ("b", "order: 5000000")], &["a", "b", "default"], &["default", "b", "a"]);
    check(&[("z", "order: 1")], &["absent", "z", "default"], &["z", "default", "absent"]);
    check(&[], &["kube-baseline", "default", "kube-admin"], &["next tier", "default", "next tier"]);
    check(&[("a", "order: 1, defaultAction: Pass")], &["a", "default"], &["next tier", "default"]);
    // A tier without a policy for the endpoint is as if it were not there.
    check(&[("a", "order: 1")], &["default"], &["default", "no policy and no profile"]);
}

#[test]
fn pass_leads_on_and_profiles_come_last() {
    let base = profile("base", "ingress: [{action: Allow, source: {nets: [192.0.2.0/24]}}]");
    let pass = policy("a", "ingress: [{action: Pass}]");
    assert_eq!(
        program(&state(&[web(), base.clone(), pass]), "web", Ingress),
        [
            "NetworkPolicy default/a ingress[0] Pass",
            END,
            "Profile base ingress[0] Allow from [192.0.2.0/24]",
            "no rule of profiles base matched: ingress default deny",
        ]
    );
    assert_eq!(
        program(&state(&[web(), base]), "web", Egress),
        ["no rule of profiles base matched: egress default deny"]
    );
}

#[test]
fn profiles_that_do_not_exist_deny_and_the_built_in_one_allows() {
    let check = |names: &str, expected: &[&str]| {
        let more = format!("profiles: [{names}]");
        let state = state(&[endpoint("web", "default", 1, "", &more), profile("p", "ingress: [{action: Log}]")]);
        let found = program(&state, "web", Ingress);
        assert_eq!(found[..found.len() - 1], *expected);
    };
    check("", &[]);
    check("absent", &["Profile absent (does not exist) ingress[0] Deny"]);
    check("p, absent", &["Profile p ingress[0] Log", "Profile absent (does not exist) ingress[0] Deny"]);
    check("projectcalico-default-allow", &["Profile projectcalico-default-allow ingress[0] Allow"]);
    assert_eq!(program(&state(&[endpoint("web", "default", 1, "", "")]), "web", Ingress), [NO_POLICY]);
}

/// Endpoints `web` (default, 10.0.0.1), `db` (prod, 10.0.0.2) and a host endpoint; rules of a namespace's policy.
#[track_caller]
fn check_rule(rule: &str, expected: &str) {
    check_rule_of(policy("a", &format!("ingress: [{{{rule}}}]")), "NetworkPolicy default/a ingress[0]", expected);
}

#[track_caller]
fn check_global_rule(rule: &str, expected: &str) {
    check_rule_of(global("a", &format!("ingress: [{{{rule}}}]")), "GlobalNetworkPolicy a ingress[0]", expected);
}

#[track_caller]
fn check_rule_of(policy: String, name: &str, expected: &str) {
    let host = make("HostEndpoint", "name: h, labels: {role: host}", "node: other, expectedIPs: [192.0.2.7]");
    let prod = profile("kns.prod", "labelsToApply: {pcns.team: red}");
    let found = program(&state(&[web(), db(), prod, host, policy]), "web", Ingress);
    assert_eq!(found[0], format!("{name} {expected}"));
}

#[test]
fn selectors_in_rules_become_sets_of_addresses() {
    check_global_rule("action: Allow, source: {selector: all()}", "Allow from {10.0.0.1/32 10.0.0.2/32 192.0.2.7/32}");
    check_global_rule("action: Allow, source: {selector: role == 'db'}", "Allow from {10.0.0.2/32}");
    check_global_rule("action: Allow, source: {selector: role == 'none'}", "Allow from {}");
    check_global_rule("action: Allow, destination: {notSelector: role == 'db'}", "Allow to !{10.0.0.2/32}");
    check_global_rule("action: Allow, source: {namespaceSelector: team == 'red'}", "Allow from {10.0.0.2/32}");
    check_global_rule("action: Allow, source: {namespaceSelector: all()}", "Allow from {10.0.0.1/32 10.0.0.2/32}");
    check_global_rule("action: Allow, source: {namespaceSelector: global()}", "Allow from {192.0.2.7/32}");
    check_global_rule("action: Allow, source: {serviceAccounts: {names: [db]}}", "Allow from {10.0.0.2/32}");
    check_global_rule(
        "action: Allow, source: {selector: role == 'web', serviceAccounts: {names: [db]}}",
        "Allow from {}",
    );
}

#[test]
fn an_address_of_two_is_meant_because_of_either() {
    let set = make("GlobalNetworkSet", "name: n, labels: {role: net}", "nets: [10.0.0.1/32, 198.51.100.0/24]");
    let check = |rule: &str, expected: &str| {
        let found = state(&[web(), db(), set.clone(), global("a", &format!("ingress: [{{{rule}}}]"))]);
        assert_eq!(program(&found, "web", Ingress)[0], format!("GlobalNetworkPolicy a ingress[0] {expected}"));
    };
    // Wanted as the endpoint, though the set that has the address too is not.
    check("action: Allow, source: {selector: role == 'web', notSelector: role == 'net'}", "Allow from {10.0.0.1/32}");
    check(
        "action: Allow, source: {selector: role == 'net', notSelector: role == 'web'}",
        "Allow from {10.0.0.1/32 198.51.100.0/24}",
    );
    // Nobody is wanted: the address must be nobody's who is not.
    check("action: Allow, source: {notSelector: role == 'net'}", "Allow from !{10.0.0.1/32 198.51.100.0/24}");
}

#[test]
fn selectors_of_a_namespaces_policy_mean_that_namespace() {
    check_rule("action: Allow, source: {selector: all()}", "Allow from {10.0.0.1/32}");
    check_rule("action: Allow, source: {selector: role == 'db'}", "Allow from {}");
    check_rule(
        "action: Allow, source: {selector: role == 'db', namespaceSelector: team == 'red'}",
        "Allow from {10.0.0.2/32}",
    );
    check_rule("action: Allow, source: {serviceAccounts: {names: [db]}}", "Allow from {}");
    check_rule("action: Allow, source: {namespaceSelector: all()}", "Allow from {10.0.0.1/32 10.0.0.2/32}");
    check_rule("action: Allow, source: {notSelector: role == 'db'}", "Allow from {10.0.0.1/32}");
    check_rule("action: Allow, source: {notSelector: role == 'web'}", "Allow from {}");
    // Nothing about endpoints: not limited to them.
    check_rule("action: Allow, source: {nets: [198.51.100.0/24]}", "Allow from [198.51.100.0/24]");
    check_rule("action: Allow", "Allow");
}

#[test]
fn the_other_fields_of_a_rule_are_taken_over() {
    check_rule("action: Log", "Log");
    check_rule("action: Deny, ipVersion: 6", "Deny ip 6");
    check_rule(
        "action: Allow, protocol: TCP, destination: {ports: [80, '8000:8080']}",
        "Allow proto 6 to :[80 8000:8080]",
    );
    check_rule("action: Allow, protocol: UDP, source: {notPorts: [53]}", "Allow proto 17 from !:[53]");
    check_rule("action: Allow, notProtocol: SCTP", "Allow !proto 132");
    check_rule("action: Allow, protocol: 47", "Allow proto 47");
    check_rule("action: Allow, protocol: ICMP, icmp: {type: 8}", "Allow proto 1 icmp 8");
    check_rule("action: Allow, protocol: ICMPv6, notICMP: {type: 128, code: 1}", "Allow proto 58 !icmp 128/1");
    check_rule("action: Allow, protocol: ICMP, icmp: {}", "Allow proto 1");
    check_rule(
        "action: Allow, source: {nets: [10.0.0.0/8], notNets: [10.1.0.0/16, 10.2.0.0/16]}",
        "Allow from [10.0.0.0/8] ![10.1.0.0/16 10.2.0.0/16]",
    );
}

#[test]
fn a_rule_matches_on_the_fields_beside_http() {
    check_rule("action: Allow, protocol: TCP, http: {methods: [GET]}", "Allow proto 6");
}

#[test]
fn what_is_equal_is_shared() {
    let endpoints = [endpoint("a", "default", 1, "", ""), endpoint("b", "default", 2, "", "")];
    let rule = "{action: Allow, source: {selector: role == 'x'}, destination: {selector: \"role == 'x'\"}}";
    let state = state(&[&endpoints[..], &[global("p", &format!("ingress: [{rule}, {rule}]"))]].concat());
    assert_eq!((state.sets.len(), state.blocks.len()), (1, 1));
    assert_eq!(state.endpoints[0].ingress, state.endpoints[1].ingress);
}

#[test]
fn only_endpoints_of_this_node_are_enforced_here_but_all_are_members() {
    let elsewhere = db().replace("node: here", "node: there");
    let state = state(&[web(), elsewhere, global("a", "ingress: [{action: Allow, source: {selector: role == 'db'}}]")]);
    assert_eq!(state.endpoints.len(), 1);
    let members: Vec<&Member> = state.sets.values().flat_map(BTreeMap::keys).collect();
    assert_eq!(members, [&Member::Net(Cidr::parse("10.0.0.2/32").unwrap())]);
    let endpoint = &state.endpoints[0];
    assert_eq!(endpoint.key.to_string(), "WorkloadEndpoint default/web");
    assert_eq!(endpoint.interface, "cali1");
    assert_eq!(endpoint.mac.unwrap().to_string(), "02:00:00:00:00:01");
    assert_eq!(endpoint.addresses, [Cidr::parse("10.0.0.1/32").unwrap()]);
}

#[test]
fn every_problem_is_said() {
    let check = |texts: &[String], active: &[&str], expected: &[&str]| {
        let state = state(texts);
        assert_eq!(state.endpoints.iter().map(|endpoint| endpoint.key.name.as_str()).collect::<Vec<_>>(), active);
        assert_eq!(state.problems.len(), expected.len(), "{:?}", state.problems);
        for (found, expected) in state.problems.iter().zip(expected) {
            assert!(found.starts_with(expected), "{found}");
        }
    };
    check(&[web(), db()], &["web", "db"], &[]);
    let same_interface = db().replace("cali2", "cali1");
    let inactive = "WorkloadEndpoint db is inactive: interface cali1 belongs to web";
    check(&[web(), same_interface.clone()], &["web"], &[inactive]);
    check(&[same_interface, web()], &["web"], &[inactive]);
    let same_address = db().replace("10.0.0.2/32", "10.0.0.1/32");
    check(&[web(), same_address], &["web"], &["WorkloadEndpoint db is inactive: address 10.0.0.1/32 belongs to web"]);
    // Who is on another node takes nothing from us.
    check(&[web(), db().replace("cali2", "cali1").replace("node: here", "node: there")], &["web"], &[]);
    // Who lost takes nothing from a third.
    let third = endpoint("x", "prod", 2, "", "");
    check(&[web(), db().replace("cali2", "cali1"), third], &["web", "x"], &[inactive]);
    let without_mac = web().replace("mac: '02:00:00:00:00:01', ", "");
    check(&[without_mac], &["web"], &["WorkloadEndpoint default/web: spec.mac is missing"]);
}

#[test]
fn who_is_translated_and_towards_whom() {
    let pool = |name: &str, spec: &str| make("IPPool", &format!("name: {name}"), spec);
    let node =
        |name: &str, address: &str| make("Node", &format!("name: {name}"), &format!("bgp: {{ipv4Address: {address}}}"));
    let felix = |spec: &str| make("FelixConfiguration", "name: default", spec);
    let masked = |name: &str, last: u8, networks: &str| {
        endpoint(name, "default", last, "", "")
            .replace("labels: {}", &format!("annotations: {{vrouter/ip-masq: '{networks}'}}"))
    };
    let mut texts = vec![
        pool("out", "cidr: 10.0.0.0/16, natOutgoing: true"),
        pool("off", "cidr: 'fd00::/64', natOutgoing: true, disabled: true"),
        pool("in", "cidr: 10.1.0.0/16"),
        pool("lb", "cidr: 10.2.0.0/24, allowedUses: [LoadBalancer], natOutgoing: false"),
        node("here", "192.0.2.10/24"),
        node("there", "192.0.2.11/24"),
        masked("one", 7, ""),
        masked("two", 8, "10.9.0.5/24, x, fd09::/64"),
    ];
    let cidrs = |texts: &[&str]| texts.iter().map(|text| Cidr::parse(text).unwrap()).collect();
    let translated = state(&texts).translated;
    assert_eq!(translated.sources, cidrs(&["10.0.0.0/16", "fd00::/64", "10.0.0.7/32", "10.0.0.8/32"]));
    assert_eq!(translated.exempt, cidrs(&["10.0.0.0/16", "10.1.0.0/16", "fd00::/64", "10.9.0.0/24", "fd09::/64"]));
    let [problem] = &translated.problems[..] else { panic!("{:?}", translated.problems) };
    assert!(problem.contains("WorkloadEndpoint default/two: annotation vrouter/ip-masq: found \"x\""), "{problem}");

    texts.push(felix(
        "natOutgoingExclusions: IPPoolsAndHostIPs, natPortRange: '40000:41000', natOutgoingAddress: 192.0.2.77",
    ));
    let state = state(&texts);
    let hosts = cidrs(&["192.0.2.10/32", "192.0.2.11/32"]);
    assert_eq!(&state.translated.exempt - &translated.exempt, hosts);
    assert_eq!((state.felix.nat_ports.first, state.felix.nat_ports.last), (40_000, 41_000));
    assert_eq!(state.felix.nat_outgoing_address, Some([192, 0, 2, 77].into()));
}

#[test]
fn routes_pools_and_addresses_are_those_of_this_node() {
    let route = |name: &str, spec: &str| make("StaticRoute", &format!("name: {name}"), spec);
    let pool = |name: &str, spec: &str| make("IPPool", &format!("name: {name}"), spec);
    let node = |name: &str, address: &str| {
        make(
            "Node",
            &format!("name: {name}"),
            &format!("bgp: {{ipv4Address: {address}}}, addresses: [{{address: fd09::9/128}}]"),
        )
    };
    let host = |name: &str, node: &str, interface: &str| {
        make("HostEndpoint", &format!("name: {name}"), &format!("node: {node}, interfaceName: '{interface}'"))
    };
    let state = state(&[
        route("a", "destination: 198.51.100.0/24, nextHop: 192.0.2.1"),
        route("b", "destination: 203.0.113.0/24, nextHop: 192.0.2.1, interface: eth0, node: here"),
        route("c", "destination: 10.9.0.0/16, blackhole: true"),
        route("d", "destination: 'fd00:1::/64', interface: eth1"),
        route("e", "destination: 10.8.0.0/16, blackhole: true, node: there"),
        pool("p", "cidr: 10.0.0.0/16"),
        pool("q", "cidr: 10.1.0.0/16, disabled: true"),
        node("here", "192.0.2.10/24"),
        node("there", "192.0.2.11/24"),
        host("h0", "here", "eth0"),
        host("h1", "here", "*"),
        host("h2", "there", "eth5"),
    ]);
    let address = |text: &str| text.parse().unwrap();
    let targets: Vec<(&str, &RouteTarget)> =
        state.static_routes.iter().map(|route| (route.name.as_str(), &route.target)).collect();
    assert_eq!(
        targets,
        [
            ("StaticRoute a", &RouteTarget::NextHop { address: address("192.0.2.1"), interface: None }),
            ("StaticRoute b", &RouteTarget::NextHop { address: address("192.0.2.1"), interface: Some("eth0".into()) }),
            ("StaticRoute c", &RouteTarget::Blackhole),
            ("StaticRoute d", &RouteTarget::Interface("eth1".into())),
        ]
    );
    assert_eq!(state.pools, [Cidr::parse("10.0.0.0/16").unwrap()]);
    assert_eq!(state.node_addresses, [address("192.0.2.10"), address("fd09::9")]);
    let hosts: Vec<&str> = state.host_endpoints.iter().map(|endpoint| endpoint.interface.as_str()).collect();
    assert_eq!(hosts, ["eth0", "*"]);
}

#[test]
fn host_endpoints_that_cannot_be_what_they_say_are_told() {
    let host = |name: &str, interface: &str| {
        make("HostEndpoint", &format!("name: {name}"), &format!("node: here, interfaceName: '{interface}'"))
    };
    let untracked = make("GlobalNetworkPolicy", "name: fast", "doNotTrack: true, applyOnForward: true");
    let state = state(&[web(), host("h0", "cali1"), host("h1", "*"), untracked]);
    let interfaces: Vec<&str> = state.host_endpoints.iter().map(|endpoint| endpoint.interface.as_str()).collect();
    assert_eq!(interfaces, ["*"]);
    assert_eq!(state.host_endpoints[0].untracked_ingress, None);
    assert_eq!(
        state.problems,
        [
            "HostEndpoint h0 is inactive: interface cali1 is that of WorkloadEndpoint default/web; name another",
            "GlobalNetworkPolicy fast is not enforced on HostEndpoint h1: no doNotTrack policy is where interfaceName is *; \
             name the interface",
        ]
    );
}

#[test]
fn nothing_comes_of_nothing() {
    assert_eq!(state(&[]), NodeState::default());
    let of_others: Vec<Resource> = yaml::parse("case", &db().replace("node: here", "node: there")).unwrap();
    assert_eq!(calculate(&of_others.into_iter().collect(), HERE, &FelixSettings::default()), NodeState::default());
}
