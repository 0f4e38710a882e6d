//! Kubernetes' objects and what becomes of them, one line each, and properties of all that are accepted.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::resource::{EntityRule, Resource, Rule};
use crate::yaml;

fn object(kind: &str, text: &str) -> Value {
    let group = match kind {
        "ClusterNetworkPolicy" => "policy.networking.k8s.io/v1alpha2",
        "StagedKubernetesNetworkPolicy" => "projectcalico.org/v3",
        "NetworkPolicy" => "networking.k8s.io/v1",
        _ => "v1",
    };
    let document = format!("{{apiVersion: {group}, kind: {kind}, metadata: {{name: x}}, spec: {text}}}");
    let (documents, errors) = crate::document::read(&document);
    assert!(errors.is_empty(), "{document}: {errors:?}");
    to_json(&documents[0])
}

fn to_json(node: &crate::document::Node) -> Value {
    use crate::document::Value as Written;
    match &node.value {
        Written::Null => Value::Null,
        Written::Bool(value) => json!(value),
        Written::Integer(value) => json!(value),
        Written::Unsigned(value) => json!(value),
        Written::Float(value) => json!(value),
        Written::Text(text) => json!(text),
        Written::List(items) => items.iter().map(to_json).collect(),
        Written::Map(entries) => entries.iter().map(|(key, value)| (key.name.clone(), to_json(value))).collect(),
    }
}

/// `Allow TCP from role == "lb" in team == "a" to 80,443`
fn rule_text(rule: &Rule) -> String {
    let mut words = vec![rule.action.to_string()];
    words.extend(rule.protocol.map(|protocol| protocol.to_string()));
    for (word, side) in [("from", &rule.source), ("to", &rule.destination)] {
        let text = side_text(side);
        if !text.is_empty() {
            words.push(format!("{word} {text}"));
        }
    }
    words.join(" ")
}

fn side_text(side: &EntityRule) -> String {
    let joined = |items: Vec<String>| items.join(",");
    let mut words = Vec::new();
    words.extend(
        side.selector.as_ref().map(|s| s.to_string().replace("projectcalico.org/orchestrator == \"k8s\"", "pods")),
    );
    words.extend(side.namespace_selector.as_ref().map(|s| format!("in {s}")));
    if !side.nets.is_empty() {
        words.push(joined(side.nets.iter().map(ToString::to_string).collect()));
    }
    if !side.not_nets.is_empty() {
        words.push(format!("except {}", joined(side.not_nets.iter().map(ToString::to_string).collect())));
    }
    if !side.ports.is_empty() {
        words.push(format!("port {}", joined(side.ports.iter().map(ToString::to_string).collect())));
    }
    words.join(" ")
}

fn told(left_out: &[FieldError]) -> Vec<String> {
    left_out.iter().map(|error| format!("! {}: {}", error.path, error.help.as_deref().unwrap_or_default())).collect()
}

/// The ingress rules of a NetworkPolicy whose only ingress rule is this, then what was left out.
fn ingress(rule: &str, expected: &[&str]) {
    let json = object("NetworkPolicy", &format!("{{ingress: [{rule}]}}"));
    let Ok(Resource::KubernetesNetworkPolicy(policy)) = Resource::from_json(&json) else { panic!("{json}") };
    let Converted { resource, left_out } = network_policy(&policy);
    let mut found: Vec<String> = resource.spec.ingress.iter().map(rule_text).collect();
    found.extend(told(&left_out));
    assert_eq!(found, expected, "{rule}");
}

#[test]
fn peers_and_ports_of_network_policies() {
    ingress("{}", &["Allow"]);
    ingress("{from: [], ports: []}", &["Allow"]);
    ingress("{from: [{podSelector: {}}]}", &["Allow from pods"]);
    ingress(
        "{from: [{podSelector: {matchLabels: {b: '2', a: '1'}}}]}",
        &["Allow from (pods && a == \"1\" && b == \"2\")"],
    );
    ingress("{from: [{namespaceSelector: {}}]}", &["Allow from pods in all()"]);
    ingress("{from: [{namespaceSelector: {matchLabels: {team: a}}}]}", &["Allow from pods in team == \"a\""]);
    ingress(
        "{from: [{podSelector: {matchLabels: {a: '1'}}, namespaceSelector: {matchExpressions: [{key: t, operator: Exists}]}}]}",
        &["Allow from (pods && a == \"1\") in has(t)"],
    );
    ingress(
        "{from: [{podSelector: {matchExpressions: [{key: a, operator: In, values: [y, x]}, {key: b, operator: NotIn, values: [z]}, \
         {key: c, operator: DoesNotExist}]}}]}",
        &["Allow from (pods && a in {\"x\", \"y\"} && b not in {\"z\"} && !has(c))"],
    );
    ingress(
        "{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}]}",
        &["Allow from 10.0.0.0/8 except 10.1.0.0/16"],
    );
    ingress("{ports: [{port: 80}]}", &["Allow TCP to port 80"]);
    ingress("{ports: [{protocol: UDP}]}", &["Allow UDP"]);
    ingress(
        "{ports: [{port: 80}, {port: 81}, {port: 443}, {port: 90, endPort: 99}]}",
        &["Allow TCP to port 80:81,90:99,443"],
    );
    ingress("{ports: [{port: 1, endPort: 65535}, {port: 65535}]}", &["Allow TCP to port 1:65535"]);
    ingress("{ports: [{port: 80}, {}]}", &["Allow TCP"]);
    ingress("{ports: [{port: http}, {port: 80}, {port: http}]}", &["Allow TCP to port 80,http"]);
    ingress(
        "{ports: [{port: 53}, {port: 53, protocol: UDP}, {port: 54}]}",
        &["Allow TCP to port 53:54", "Allow UDP to port 53"],
    );
    ingress(
        "{from: [{podSelector: {}}, {ipBlock: {cidr: 'fd00::/8'}}], ports: [{port: 1}, {port: 1, protocol: SCTP}]}",
        &[
            "Allow TCP from pods to port 1",
            "Allow SCTP from pods to port 1",
            "Allow TCP from fd00::/8 to port 1",
            "Allow SCTP from fd00::/8 to port 1",
        ],
    );
}

#[test]
fn rules_that_cannot_be_converted_are_left_out() {
    let check = |rule: &str, path: &str| {
        ingress(rule, &[&format!("! spec.ingress[0].{path}: the rule is left out: it allows nothing")]);
    };
    check("{from: [{}]}", "from[0]");
    check("{from: [{podSelector: {}, ipBlock: {cidr: 10.0.0.0/8}}]}", "from[0].ipBlock");
    check("{from: [{serviceSelector: {}}]}", "from[0]");
    check("{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [0.0.0.0/0]}}]}", "from[0].ipBlock.except");
    check("{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/9]}}]}", "from[0].ipBlock.except");
    check(
        "{from: [{podSelector: {}}, {podSelector: {matchLabels: {\"a' || all() || a\": b}}}]}",
        "from[1].podSelector.matchLabels",
    );
    check("{from: [{podSelector: {matchLabels: {a: \"x' || all() || a == '\"}}}]}", "from[0].podSelector.matchLabels");
    check(
        "{from: [{namespaceSelector: {matchExpressions: [{key: a, operator: In}]}}]}",
        "from[0].namespaceSelector.matchExpressions[0]",
    );
    check(
        "{from: [{podSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}}]}",
        "from[0].podSelector.matchExpressions[0]",
    );
    check("{ports: [{port: 80}, {port: 80, endPort: 79}]}", "ports[1].endPort");
    check("{ports: [{endPort: 79}]}", "ports[0].endPort");
    check("{ports: [{protocol: ICMP}]}", "ports[0].protocol");
}

#[test]
fn a_whole_network_policy() {
    let check = |spec: &str, expected: Value| {
        let json = object("NetworkPolicy", spec);
        let Ok(Resource::KubernetesNetworkPolicy(policy)) = Resource::from_json(&json) else { panic!("{json}") };
        let resource = Resource::NetworkPolicy(network_policy(&policy).resource);
        assert_eq!(resource.to_json()["spec"], expected, "{spec}");
        assert_eq!(resource.metadata().namespace.as_deref(), Some("default"));
    };
    let policy = |selector: &str, types: Value| json!({"tier": "default", "order": 1000.0, "selector": selector, "types": types});
    let pods = "projectcalico.org/orchestrator == 'k8s'";
    check("{}", policy(pods, json!(["Ingress"])));
    check("{podSelector: {matchLabels: {a: b}}}", policy(&format!("{pods} && a == 'b'"), json!(["Ingress"])));
    check("{policyTypes: [Egress]}", policy(pods, json!(["Egress"])));
    let mut both = policy(pods, json!(["Ingress", "Egress"]));
    both["egress"] = json!([{"action": "Allow", "protocol": "UDP", "destination": {"ports": [53]}}]);
    check("{egress: [{ports: [{port: 53, protocol: UDP}]}]}", both);
    // Nobody knows whom this isolates: everybody, and the rules that allow are not for everybody.
    check(
        "{podSelector: {matchExpressions: [{key: a, operator: In}]}, ingress: [{}]}",
        policy(pods, json!(["Ingress"])),
    );
}

#[test]
fn staged_policies_are_converted_when_they_would_enforce_something() {
    let check = |action: &str, is_converted: bool| {
        let json = object("StagedKubernetesNetworkPolicy", &format!("{{stagedAction: {action}}}"));
        let Ok(Resource::StagedKubernetesNetworkPolicy(policy)) = Resource::from_json(&json) else { panic!("{json}") };
        assert_eq!(staged_network_policy(&policy).is_some(), is_converted, "{action}");
    };
    check("Set", true);
    check("Learn", true);
    check("''", true);
    check("Delete", false);
    check("Ignore", false);
}

fn cluster(spec: &str) -> Converted<crate::resource::GlobalNetworkPolicy> {
    let json = object("ClusterNetworkPolicy", spec);
    match Resource::from_json(&json) {
        Ok(Resource::ClusterNetworkPolicy(policy)) => cluster_network_policy(&policy),
        other => panic!("{json}: {other:?}"),
    }
}

/// The rules of a ClusterNetworkPolicy for all pods.
fn cluster_rules(rules: &str, expected: &[&str]) {
    let spec = format!("{{tier: Admin, priority: 7, subject: {{namespaces: {{}}}}, {rules}}}");
    let Converted { resource, left_out } = cluster(&spec);
    let mut found: Vec<String> = resource.spec.ingress.iter().chain(&resource.spec.egress).map(rule_text).collect();
    found.extend(told(&left_out));
    assert_eq!(found, expected, "{rules}");
}

#[test]
fn rules_of_cluster_policies() {
    cluster_rules("ingress: [{action: Accept, from: [{namespaces: {}}]}]", &["Allow from pods in all()"]);
    cluster_rules(
        "ingress: [{action: Deny, from: [{pods: {namespaceSelector: {matchLabels: {t: a}}, podSelector: {matchLabels: {b: c}}}}]}]",
        &["Deny from (pods && b == \"c\") in t == \"a\""],
    );
    cluster_rules(
        "egress: [{action: Pass, to: [{networks: [10.0.0.0/8, 'fd00::/8', 192.0.2.0/24]}], protocols: [{tcp: {destinationPort: {number: 80}}}, \
         {tcp: {destinationPort: {range: {start: 81, end: 90}}}}, {udp: {}}]}]",
        &[
            "Pass TCP to 10.0.0.0/8,192.0.2.0/24 port 80:90",
            "Pass UDP to 10.0.0.0/8,192.0.2.0/24",
            "Pass TCP to fd00::/8 port 80:90",
            "Pass UDP to fd00::/8",
        ],
    );
    cluster_rules(
        "egress: [{action: Deny, to: [{namespaces: {}}], protocols: [{destinationNamedPort: http}]}]",
        &["Deny to pods in all() port http"],
    );
}

#[test]
fn cluster_rules_fail_closed() {
    let check = |rule: &str, path: &str| {
        let of = |action: &str| format!("egress: [{{action: {action}, {rule}}}]");
        let left_out = format!("! spec.egress[0].{path}: the rule is left out: it accepts nothing");
        cluster_rules(&of("Accept"), &[&left_out]);
        let denies = format!("! spec.egress[0].{path}: the rule denies everything");
        cluster_rules(&of("Deny"), &["Deny", &denies]);
        cluster_rules(&of("Pass"), &["Deny", &denies]);
    };
    check("to: []", "to");
    check("from: [{namespaces: {}}]", "to");
    check("to: [{}]", "to[0]");
    check("to: [{somethingNew: {}}]", "to[0]");
    check("to: [{nodes: {}}]", "to[0].nodes");
    check("to: [{domainNames: [example.org]}]", "to[0].domainNames");
    check("to: [{namespaces: {}, networks: [10.0.0.0/8]}]", "to[0]");
    check("to: [{namespaces: {matchLabels: {\"'\": a}}}]", "to[0].namespaces.matchLabels");
    check("to: [{namespaces: {}}], protocols: [{}]", "protocols[0]");
    check("to: [{namespaces: {}}], protocols: [{quic: {}}]", "protocols[0]");
    check("to: [{namespaces: {}}], protocols: [{tcp: {}, udp: {}}]", "protocols[0]");
    check("to: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {}}}]", "protocols[0].tcp.destinationPort");
    check(
        "to: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: 1, range: {start: 2, end: 3}}}}]",
        "protocols[0].tcp.destinationPort",
    );
    cluster_rules(
        "ingress: [{action: Accept, from: [{networks: [10.0.0.0/8]}]}]",
        &["! spec.ingress[0].from[0]: the rule is left out: it accepts nothing"],
    );
}

#[test]
fn whole_cluster_policies() {
    let check = |spec: &str, expected: Value| {
        let resource = Resource::GlobalNetworkPolicy(cluster(spec).resource);
        assert_eq!(resource.to_json()["spec"], expected, "{spec}");
    };
    let pods = "projectcalico.org/orchestrator == 'k8s'";
    check(
        "{tier: Baseline, priority: 0, subject: {pods: {podSelector: {matchLabels: {a: b}}, namespaceSelector: {}}}, \
         ingress: [{action: Pass, from: [{namespaces: {}}]}]}",
        json!({"tier": "kube-baseline", "order": 0.0, "selector": format!("{pods} && a == 'b'"), "namespaceSelector": "all()",
            "types": ["Ingress"],
            "ingress": [{"action": "Pass", "source": {"selector": pods, "namespaceSelector": "all()"}}]}),
    );
    check(
        "{tier: Admin, priority: 1000, subject: {namespaces: {}}}",
        json!({"tier": "kube-admin", "order": 1000.0, "selector": pods, "namespaceSelector": "all()", "types": []}),
    );
    // Whom it is for was written for a newer version.
    check(
        "{tier: Admin, priority: 1, subject: {machines: {}}, ingress: [{action: Accept, from: [{namespaces: {}}]}], \
         egress: [{action: Accept, to: [{namespaces: {}}]}, {action: Deny, to: [{namespaces: {}}]}]}",
        json!({"tier": "kube-admin", "order": 1.0, "selector": pods, "types": ["Egress"], "egress": [{"action": "Deny"}]}),
    );
}

#[test]
fn profiles() {
    let labels = [("team".to_string(), "a".to_string()), ("projectcalico.org/name".to_string(), "b".to_string())];
    let mut metadata = Metadata::named("shop");
    metadata.labels.extend(labels);
    let profile = namespace_profile(&crate::resource::Namespace { metadata: metadata.clone() });
    assert_eq!(
        Resource::Profile(profile).to_json(),
        json!({"apiVersion": "projectcalico.org/v3", "kind": "Profile", "metadata": {"name": "kns.shop"},
            "spec": {"ingress": [{"action": "Allow"}], "egress": [{"action": "Allow"}],
                "labelsToApply": {"pcns.team": "a", "pcns.projectcalico.org/name": "shop"}}})
    );
    metadata.namespace = Some("prod".to_string());
    let profile = service_account_profile(&crate::resource::ServiceAccount { metadata });
    assert_eq!(
        Resource::Profile(profile).to_json(),
        json!({"apiVersion": "projectcalico.org/v3", "kind": "Profile", "metadata": {"name": "ksa.prod.shop"},
            "spec": {"labelsToApply": {"pcsa.team": "a", "pcsa.projectcalico.org/name": "shop"}}})
    );
}

fn label_selectors() -> impl Strategy<Value = Value> {
    let values = || proptest::collection::vec("[a-c]{0,2}", 0..3);
    let requirement = ("[ab]", "In|NotIn|Exists|DoesNotExist", values())
        .prop_map(|(key, operator, values)| json!({"key": key, "operator": operator, "values": values}));
    (proptest::collection::btree_map("[ab]", "[a-c]{0,2}", 0..2), proptest::collection::vec(requirement, 0..2))
        .prop_map(|(labels, expressions)| json!({"matchLabels": labels, "matchExpressions": expressions}))
}

fn nets() -> impl Strategy<Value = String> {
    proptest::sample::select(vec![
        "0.0.0.0/0",
        "10.0.0.0/8",
        "10.1.0.0/16",
        "10.0.0.1",
        "::/0",
        "fd00::/8",
        "fd00::1/128",
    ])
    .prop_map(str::to_string)
}

fn network_policies() -> impl Strategy<Value = Value> {
    let block = (nets(), proptest::collection::vec(nets(), 0..2))
        .prop_map(|(cidr, except)| json!({"ipBlock": {"cidr": cidr, "except": except}}));
    let peer = prop_oneof![
        block,
        label_selectors().prop_map(|pods| json!({"podSelector": pods})),
        label_selectors().prop_map(|namespaces| json!({"namespaceSelector": namespaces})),
        (label_selectors(), label_selectors())
            .prop_map(|(pods, namespaces)| json!({"podSelector": pods, "namespaceSelector": namespaces})),
        Just(json!({})),
    ];
    let port = prop_oneof![
        Just(json!(0)),
        (1..=65535u16).prop_map(|port| json!(port)),
        Just(json!("http")),
        Just(json!(null))
    ];
    let ports = ("TCP|UDP|SCTP", port, proptest::option::of(1..=65535u16))
        .prop_map(|(protocol, port, end)| json!({"protocol": protocol, "port": port, "endPort": end}));
    let rule = (proptest::collection::vec(peer, 0..3), proptest::collection::vec(ports, 0..4));
    let rules = || proptest::collection::vec(rule.clone(), 0..3);
    (label_selectors(), rules(), rules(), proptest::option::of(Just(json!(["Egress"])))).prop_map(
        |(pods, ingress, egress, types)| {
            let rules = |peers: &str, rules: Vec<(Vec<Value>, Vec<Value>)>| -> Vec<Value> {
                rules.into_iter().map(|(sides, ports)| json!({(peers): sides, "ports": ports})).collect()
            };
            json!({"podSelector": pods, "ingress": rules("from", ingress), "egress": rules("to", egress), "policyTypes": types})
        },
    )
}

fn cluster_policies() -> impl Strategy<Value = Value> {
    let pods = || {
        (label_selectors(), label_selectors())
            .prop_map(|(pods, namespaces)| json!({"pods": {"podSelector": pods, "namespaceSelector": namespaces}}))
    };
    let namespaces = || label_selectors().prop_map(|namespaces| json!({"namespaces": namespaces}));
    let peer = prop_oneof![
        pods(),
        namespaces(),
        proptest::collection::vec(nets(), 0..4).prop_map(|nets| json!({"networks": nets})),
        Just(json!({"nodes": {}})),
        Just(json!({"domainNames": ["example.org"]})),
        Just(json!({})),
    ];
    let port = prop_oneof![
        (1..=65535u16).prop_map(|port| json!({"destinationPort": {"number": port}})),
        (1..=65535u16, 1..=65535u16)
            .prop_map(|(start, end)| json!({"destinationPort": {"range": {"start": start, "end": end}}})),
        Just(json!({})),
    ];
    let protocol = prop_oneof![
        ("tcp|udp|sctp", port).prop_map(|(protocol, port)| json!({(protocol): port})),
        Just(json!({"destinationNamedPort": "http"})),
    ];
    let rule = ("Accept|Deny|Pass", proptest::collection::vec(peer, 0..3), proptest::collection::vec(protocol, 0..3));
    let rules = || proptest::collection::vec(rule.clone(), 0..3);
    (0..=1000i64, "Admin|Baseline", prop_oneof![pods(), namespaces(), Just(json!({}))], rules(), rules()).prop_map(
        |(priority, tier, subject, ingress, egress)| {
            let rules = |peers: &str, rules: Vec<(String, Vec<Value>, Vec<Value>)>| -> Vec<Value> {
                let rule =
                    |(action, sides, protocols)| json!({"action": action, (peers): sides, "protocols": protocols});
                rules.into_iter().map(rule).collect()
            };
            json!({"tier": tier, "priority": priority, "subject": subject, "ingress": rules("from", ingress),
                "egress": rules("to", egress)})
        },
    )
}

/// Read without its rules, as from an API server; and whether the rules accept it.
fn read(kind: &str, group: &str, spec: &Value) -> Option<(Resource, bool)> {
    let json = json!({"apiVersion": group, "kind": kind, "metadata": {"name": "x"}, "spec": spec});
    let resource = Resource::from_json(&json).ok()?;
    let is_accepted = yaml::parse("x", &json.to_string()).is_ok();
    Some((resource, is_accepted))
}

proptest! {
    #[test]
    fn network_policies_become_valid_ones(spec in network_policies()) {
        if let Some((Resource::KubernetesNetworkPolicy(policy), is_accepted)) = read("NetworkPolicy", "networking.k8s.io/v1", &spec) {
            let Converted { resource, left_out } = network_policy(&policy);
            prop_assert_eq!(Resource::NetworkPolicy(resource).validate(), [], "{}", spec);
            prop_assert!(!is_accepted || left_out.is_empty(), "{}: {:?}", spec, left_out);
        }
    }

    #[test]
    fn cluster_policies_become_valid_ones(spec in cluster_policies()) {
        let group = "policy.networking.k8s.io/v1alpha2";
        if let Some((Resource::ClusterNetworkPolicy(policy), is_accepted)) = read("ClusterNetworkPolicy", group, &spec) {
            let Converted { resource, left_out } = cluster_network_policy(&policy);
            prop_assert_eq!(Resource::GlobalNetworkPolicy(resource).validate(), [], "{}", spec);
            // Valid, and still not ours to resolve.
            let is_beyond_us = |error: &FieldError| error.path.ends_with(".nodes") || error.path.ends_with(".domainNames");
            prop_assert!(!is_accepted || left_out.iter().all(is_beyond_us), "{}: {:?}", spec, left_out);
        }
    }
}
