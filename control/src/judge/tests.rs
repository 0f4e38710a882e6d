//! Endpoints found by what people call them, and verdicts by both ways.

use super::*;

const RESOURCES: &str = "\
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: n-k8s-web-eth0, namespace: shop, labels: {app: web}}
spec: {node: n, orchestrator: k8s, pod: web, endpoint: eth0, interfaceName: cali1, ipNetworks: [10.0.0.1/32], mac: 'ee:ee:ee:ee:ee:01'}
---
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: m-k8s-db-eth0, namespace: shop, labels: {app: db}}
spec: {node: m, orchestrator: k8s, pod: db, endpoint: eth0, interfaceName: cali1, ipNetworks: [10.0.0.2/32, fd00::2/128]}
---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  selector: app == 'db'
  ingress:
  - {action: Allow, protocol: TCP, source: {selector: app == 'web'}, destination: {ports: [5432]}}
";

fn judge(by_oracle: bool) -> Judge {
    let resources = config::yaml::parse("case", RESOURCES).expect("legal");
    Judge::new(resources.into_iter().collect(), by_oracle)
}

fn packet(port: u16) -> Fields {
    let address = |text: &str| text.parse().expect("an address");
    Fields {
        source: address("10.0.0.1"),
        destination: address("10.0.0.2"),
        protocol: 6,
        source_port: 4000,
        destination_port: port,
        icmp: None,
    }
}

#[test]
fn both_ways_name_the_rule() {
    for by_oracle in [false, true] {
        let mut judge = judge(by_oracle);
        let db = judge.endpoint("shop/db").expect("the pod");
        let mut check = |direction, port, allow, rule: &str| {
            let found = judge.verdict(&db, direction, &packet(port)).expect("a verdict");
            assert_eq!((found.allow, found.rule.as_str()), (allow, rule));
        };
        check(PolicyType::Ingress, 5432, true, "NetworkPolicy shop/db ingress[0]");
        check(PolicyType::Ingress, 80, false, "Tier default: end of tier, ingress default deny");
        check(PolicyType::Egress, 80, false, "no policy and no profile: egress default deny");
    }
}

#[test]
fn endpoints_are_found_by_what_people_call_them() {
    let mut judge = judge(false);
    let db = judge.endpoint("shop/db").expect("the pod");
    assert_eq!(judge.endpoint("shop/m-k8s-db-eth0"), Ok(db.clone()));
    assert_eq!(judge.owner("fd00::2".parse().unwrap()), Some(&db));
    assert_eq!(judge.owner("10.9.9.9".parse().unwrap()), None);
    let mut asked = |interface: &str, node: Option<&str>| {
        let fields = packet(5432);
        let question = Question {
            endpoint: None,
            interface: Some(interface.to_owned()),
            direction: Some(PolicyType::Ingress),
            node: node.map(str::to_owned),
            before: fields.clone(),
            fields,
        };
        judge.ask(&question).map(|said| said[0].endpoint.clone())
    };
    assert_eq!(asked("cali1", Some("m")), Ok(Some(db)));
    assert!(asked("cali1", None).unwrap_err().contains("--node"));
    assert!(asked("cali9", None).unwrap_err().contains("expected the interface"));
    assert!(judge.endpoint("shop/nobody").unwrap_err().contains("expected namespace/name"));
}

#[test]
fn an_endpoint_that_lost_its_interface_to_another_says_so() {
    let rival = RESOURCES.replace("node: m", "node: n");
    let resources = config::yaml::parse("case", &rival).expect("legal");
    let mut judge = Judge::new(resources.into_iter().collect(), false);
    let web = judge.endpoint("shop/web").expect("the pod");
    let refused = judge.verdict(&web, PolicyType::Egress, &packet(80)).unwrap_err();
    assert!(refused.contains("interface cali1 belongs to"), "{refused}");
}

const HOST: &str = "\
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: n-eth0, labels: {is: uplink}}
spec: {node: n, interfaceName: eth0, expectedIPs: [192.0.2.1]}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: early}
spec:
  selector: is == 'uplink'
  preDNAT: true
  applyOnForward: true
  ingress: [{action: Deny, protocol: TCP, destination: {nets: [192.0.2.1/32], ports: [30080]}}]
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: fast}
spec:
  selector: is == 'uplink'
  doNotTrack: true
  applyOnForward: true
  ingress: [{action: Allow, protocol: UDP, destination: {ports: [9]}}]
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: through}
spec:
  selector: is == 'uplink'
  order: 1
  applyOnForward: true
  ingress: [{action: Deny, protocol: TCP, destination: {ports: [81]}}, {action: Allow}]
  egress: [{action: Deny, protocol: TCP, destination: {ports: [25]}}, {action: Allow}]
---
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: n-k8s-open-eth0, namespace: shop}
spec: {node: n, orchestrator: k8s, pod: open, endpoint: eth0, interfaceName: cali9, ipNetworks: [10.0.0.9/32], profiles: [projectcalico-default-allow]}
";

fn between(source: &str, destination: &str, protocol: u8, port: u16) -> Fields {
    let address = |text: &str| text.parse().expect("an address");
    let (source, destination) = (address(source), address(destination));
    Fields { source, destination, protocol, source_port: 4000, destination_port: port, icmp: None }
}

/// What was said, as `list verdict`, and the conclusion.
#[track_caller]
fn check(by: (&str, &str), fields: Fields, before: Option<(&str, u16)>, expected: &str) {
    for by_oracle in [false, true] {
        let resources = config::yaml::parse("case", &format!("{HOST}---\n{RESOURCES}")).expect("legal");
        let mut judge = Judge::new(resources.into_iter().collect(), by_oracle);
        let named = |kind: &str| (by.0 == kind).then(|| by.1.to_owned());
        let mut earlier = fields.clone();
        if let Some((address, port)) = before {
            (earlier.destination, earlier.destination_port) = (address.parse().expect("an address"), port);
        }
        let question = Question {
            endpoint: named("endpoint"),
            interface: named("interface"),
            direction: None,
            node: None,
            before: earlier,
            fields: fields.clone(),
        };
        let found = match judge.ask(&question) {
            Err(message) => message,
            Ok(said) => {
                let words = said.iter().map(|said| {
                    let list = said.list.map_or("-", decided::list_name);
                    let word = if said.verdict.allow { "allow" } else { "deny" };
                    format!("{list} {}", if said.verdict.rule.is_empty() { "pass" } else { word })
                });
                format!("{} => {}", words.collect::<Vec<_>>().join(", "), conclusion(&said).rule)
            }
        };
        assert_eq!(found, expected, "by oracle: {by_oracle}");
    }
}

#[test]
fn host_endpoints_are_asked_list_by_list() {
    let away = "198.51.100.7";
    let by = ("interface", "eth0");
    // To the host.
    let through = "GlobalNetworkPolicy through ingress[1]";
    check(
        by,
        between(away, "192.0.2.1", 6, 80),
        None,
        &format!("untracked pass, preDNAT pass, normal allow => {through}"),
    );
    check(
        by,
        between(away, "192.0.2.1", 6, 22),
        None,
        "untracked allow, preDNAT allow, normal allow => failsafe port: ingress",
    );
    check(by, between(away, "192.0.2.1", 17, 9), None, "untracked allow => GlobalNetworkPolicy fast ingress[0]");
    let denied = "untracked pass, preDNAT deny => GlobalNetworkPolicy early ingress[0]";
    check(by, between(away, "192.0.2.1", 6, 30080), None, denied);
    // The pre-NAT destination is what the first two look at, and the other what the rest looks at.
    check(by, between(away, "10.0.0.9", 6, 80), Some(("192.0.2.1", 30080)), denied);
    check(
        by,
        between(away, "10.0.0.9", 6, 81),
        Some(("192.0.2.1", 30081)),
        "untracked pass, preDNAT pass, forward deny => GlobalNetworkPolicy through ingress[0]",
    );
    // Through it to a workload, whose policy comes last.
    let profile = "Profile projectcalico-default-allow ingress[0]";
    let way = "untracked pass, preDNAT pass, forward allow, normal allow";
    check(by, between(away, "10.0.0.9", 6, 80), None, &format!("{way} => {profile}"));
    check(
        ("endpoint", "n-eth0"),
        between(away, "10.0.0.9", 6, 80),
        None,
        &format!("untracked pass, preDNAT pass, forward allow => {through}"),
    );
    // From the host, and from a workload.
    let denied = "normal deny => GlobalNetworkPolicy through egress[0]";
    check(by, between("192.0.2.1", away, 6, 25), None, denied);
    check(by, between("192.0.2.1", away, 17, 53), None, "normal allow => failsafe port: egress");
    let denied = "normal allow, forward deny => GlobalNetworkPolicy through egress[0]";
    check(by, between("10.0.0.9", away, 6, 25), None, denied);
    check(("", ""), between("10.0.0.9", away, 6, 25), None, denied);
    // Whatever its policy says, a workload does not speak as a tunnel, nor to its own host.
    check(("", ""), between("10.0.0.9", away, 17, 4789), None, "- deny => workload_vxlan");
    check(("", ""), between("10.0.0.9", "192.0.2.1", 6, 80), None, "- deny => endpoint_to_host");
    // By addresses alone: the sender's node, then the receiver's.
    let denied = "normal allow, forward allow, normal deny => Tier default: end of tier, ingress default deny";
    check(("", ""), between("10.0.0.9", "10.0.0.2", 6, 80), None, denied);
}

#[test]
fn a_host_endpoint_on_a_workloads_interface_is_none() {
    let wrong = "apiVersion: projectcalico.org/v3\nkind: HostEndpoint\nmetadata: {name: wrong}\n\
                 spec: {node: n, interfaceName: cali9}\n";
    for by_oracle in [false, true] {
        let resources = config::yaml::parse("case", &format!("{HOST}---\n{wrong}")).expect("legal");
        let mut judge = Judge::new(resources.into_iter().collect(), by_oracle);
        let fields = between("10.0.0.9", "198.51.100.7", 6, 80);
        let mut question =
            Question { endpoint: None, interface: None, direction: None, node: None, before: fields.clone(), fields };
        let said = judge.ask(&question).expect("the other host endpoint's");
        assert_eq!(conclusion(&said).rule, "GlobalNetworkPolicy through egress[1]");
        question.endpoint = Some("wrong".to_owned());
        assert!(judge.ask(&question).is_err_and(|refused| refused.contains("wrong is inactive")));
    }
}

#[test]
fn an_uplink_that_is_not_said_must_not_matter() {
    let second = HOST.replace("n-eth0", "n-eth1").replace("interfaceName: eth0", "interfaceName: eth1");
    let second = second
        .split("---")
        .next()
        .expect("the first")
        .replace("is: uplink", "is: other")
        .replace("192.0.2.1", "192.0.2.2");
    let resources = config::yaml::parse("case", &format!("{HOST}---\n{second}")).expect("legal");
    let mut judge = Judge::new(resources.into_iter().collect(), false);
    let mut ask = |port| {
        let fields = between("10.0.0.9", "198.51.100.7", 6, port);
        let question =
            Question { endpoint: None, interface: None, direction: None, node: None, before: fields.clone(), fields };
        judge.ask(&question)
    };
    let refused = ask(25).expect_err("two answers");
    assert!(refused.contains("by eth0 and by eth1 of node n"), "{refused}");
}
