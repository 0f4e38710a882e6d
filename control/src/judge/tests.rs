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
    let judge = judge(false);
    let db = judge.endpoint("shop/m-k8s-db-eth0").expect("the resource");
    assert_eq!(judge.endpoint("shop/db"), Ok(db.clone()));
    assert_eq!(judge.owner("fd00::2".parse().unwrap()), Some(db.clone()));
    assert_eq!(judge.owner("10.9.9.9".parse().unwrap()), None);
    assert_eq!(judge.on_interface("cali1", Some("m")), Ok(db));
    assert!(judge.on_interface("cali1", None).unwrap_err().contains("--node"));
    assert!(judge.on_interface("cali9", None).unwrap_err().contains("expected the interface"));
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
