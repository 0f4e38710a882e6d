//! Kinds: defaults, validation, and the places that errors name.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use serde_json::json;

use super::*;

fn policy(spec: Value) -> Resource {
    Resource::from_json(&json!({
        "apiVersion": "projectcalico.org/v3", "kind": "NetworkPolicy", "metadata": {"name": "web"}, "spec": spec,
    }))
    .unwrap()
}

#[test]
fn defaults_are_stored_and_stable() {
    let mut resource = policy(json!({"egress": [{"action": "Allow"}]}));
    assert_eq!(
        resource.to_json(),
        json!({
            "apiVersion": "projectcalico.org/v3",
            "kind": "NetworkPolicy",
            "metadata": {"name": "web", "namespace": "default", "labels": {"projectcalico.org/tier": "default"}},
            "spec": {"tier": "default", "egress": [{"action": "Allow"}], "types": ["Egress"]},
        })
    );
    assert_eq!(resource.key(), Key::namespaced(Kind::NetworkPolicy, "default", "web"));
    let before = resource.clone();
    resource.apply_defaults();
    assert_eq!(resource, before);
    assert_eq!(Resource::from_json(&resource.to_json()), Ok(resource));
}

#[test]
fn types_follow_the_rules_there_are() {
    let check = |spec: Value, expected: Value| assert_eq!(policy(spec).to_json()["spec"]["types"], expected);
    let rules = json!([{"action": "Deny"}]);
    check(json!({}), json!(["Ingress"]));
    check(json!({"types": []}), json!(["Ingress"]));
    check(json!({"ingress": rules}), json!(["Ingress"]));
    check(json!({"egress": rules}), json!(["Egress"]));
    check(json!({"ingress": rules, "egress": rules}), json!(["Ingress", "Egress"]));
    check(json!({"ingress": rules, "types": ["Egress"]}), json!(["Egress"]));
}

#[test]
fn pool_defaults() {
    let pool = |cidr: &str| {
        let json = json!({"apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": {"name": "p"},
            "spec": {"cidr": cidr}});
        Resource::from_json(&json).unwrap().to_json()["spec"].clone()
    };
    let defaults = |cidr: &str, size: u8| {
        json!({"cidr": cidr, "blockSize": size, "nodeSelector": "all()", "ipipMode": "Never", "vxlanMode": "Never",
            "assignmentMode": "Automatic"})
    };
    assert_eq!(pool("10.0.0.0/16"), defaults("10.0.0.0/16", 26));
    assert_eq!(pool("2001:db8::/64"), defaults("2001:db8::/64", 122));
}

#[test]
fn derived_endpoint_names() {
    let check = |orchestrator: &str, expected: &str| {
        let spec = WorkloadEndpointSpec {
            node: "worker-1".into(),
            orchestrator: orchestrator.into(),
            pod: "web-0".into(),
            container_id: "c0ffee".into(),
            workload: "vm".into(),
            endpoint: "eth0".into(),
            ..WorkloadEndpointSpec::default()
        };
        assert_eq!(spec.derived_name(), expected);
    };
    check("k8s", "worker--1-k8s-web--0-eth0");
    check("cni", "worker--1-cni-c0ffee-eth0");
    check("openstack", "worker--1-openstack-vm-eth0");
}

#[test]
fn written_selectors_are_kept_as_written() {
    let json = policy(json!({"selector": "role=='web'", "ingress": [{"action": "Allow", "source": {"selector": ""}}]}));
    assert_eq!(json.to_json()["spec"]["selector"], "role=='web'");
    assert_eq!(json.to_json()["spec"]["ingress"], json!([{"action": "Allow"}]));
}

#[test]
fn json_problems_name_their_fields() {
    let json = json!({"apiVersion": "projectcalico.org/v3", "kind": "Tier", "metadata": {"name": 5},
        "spec": {"order": "first", "colour": "red"}});
    let errors = Resource::from_json(&json).unwrap_err();
    let paths: Vec<&str> = errors.iter().map(|error| error.path.as_str()).collect();
    assert_eq!(paths, ["metadata.name", "spec.order", "spec.colour"]);
}
