//! Calico's own selector and validator cases, read in place from the shared conformance data.
//!
//! The data is not part of this repository; without it every test here says "skipped" and passes.
//! Every line must be covered; cases about what is private to the crate are run where that is.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::path::Path;

use config::resource::{Kind, Resource};
use config::selector::Selector;
use config::yaml;
use serde_json::{Value, json};

/// Validator cases we decide otherwise, each with its reason.
const EXCEPTIONS: [(&str, &str); 0] = [];

fn cases(file: &str) -> Option<Vec<Value>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/conformance").join(file);
    let Ok(text) = std::fs::read_to_string(&path) else {
        println!("skipped: {} is not here", path.display());
        return None;
    };
    Some(text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

fn labels(value: &Value) -> BTreeMap<String, String> {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn selectors() {
    let Some(cases) = cases("selector-cases.jsonl") else { return };
    let mut covered = BTreeMap::new();
    let mut left = BTreeMap::new();
    let mut wrong = Vec::new();
    for case in &cases {
        let kind = case["kind"].as_str().unwrap();
        // What is private is tested where it is.
        if ["tokenize", "stringset_members", "stringset_dedupe"].contains(&kind) {
            continue;
        }
        let parsed = case["selector"].as_str().map(Selector::parse);
        let found = match (kind, parsed) {
            ("match", Some(Ok(selector))) => json!(selector.matches(&labels(&case["labels"]))),
            ("canonical", Some(Ok(selector))) => {
                if let Some(id) = case["uid"].as_str() {
                    assert_eq!(selector.id(), id, "{}", case["id"]);
                }
                json!(selector.to_string())
            }
            ("label_restrictions", Some(Ok(selector))) => json!(
                selector
                    .restrictions()
                    .into_iter()
                    .map(|(label, restriction)| {
                        let mut form = json!({
                            "mustBePresent": restriction.must_be_present,
                            "mustBeAbsent": restriction.must_be_absent,
                        });
                        if let Some(values) = restriction.must_have_one_of {
                            form["mustHaveOneOfValues"] = json!(values);
                        }
                        (label, form)
                    })
                    .collect::<BTreeMap<_, _>>()
            ),
            ("validate", None) => {
                let name = case["goType"].as_str().unwrap();
                let mut whole = resource(name, &case["input"]).unwrap();
                whole["apiVersion"] = "projectcalico.org/v3".into();
                json!(if yaml::parse("case", &whole.to_string()).is_ok() { "valid" } else { "invalid" })
            }
            ("prefix_labels", Some(Ok(selector))) => {
                json!(selector.prefix_labels(case["prefix"].as_str().unwrap()).to_string())
            }
            ("match" | "canonical" | "prefix_labels", Some(Err(error))) => json!(error.to_string()),
            ("parse_error" | "tokenize_error", Some(parsed)) => {
                json!(parsed.map_or_else(|_| "error".to_string(), |selector| selector.to_string()))
            }
            _ => {
                *left.entry(kind).or_insert(0) += 1;
                continue;
            }
        };
        *covered.entry(kind).or_insert(0) += 1;
        if found != case["expect"] {
            wrong.push(format!("{}: {} => {found}, expected {}", case["id"], case["selector"], case["expect"]));
        }
    }
    println!("selector cases passed by kind: {covered:?}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(left.is_empty(), "not covered: {left:?}");
}

/// A whole resource around the fragment a case is about; none for types we do not have.
fn resource(go_type: &str, input: &Value) -> Option<Value> {
    let whole = |kind: &str, spec: Value| json!({"kind": kind, "metadata": {"name": "default"}, "spec": spec});
    let rule = |rule: Value| whole("GlobalNetworkPolicy", json!({"ingress": [rule]}));
    let endpoint = |spec: Value| whole("WorkloadEndpoint", spec);
    let controllers = |controllers: Value| whole("KubeControllersConfiguration", json!({"controllers": controllers}));
    let name = go_type.rsplit(' ').next()?;
    if Kind::from_name(name).is_some() {
        let mut json = input.clone();
        json["kind"] = name.into();
        return Some(json);
    }
    if let Some(kind) = name.strip_suffix("Spec").filter(|kind| Kind::from_name(kind).is_some()) {
        return Some(whole(kind, input.clone()));
    }
    Some(match name {
        "Rule" => rule(input.clone()),
        "EntityRule" => rule(json!({"action": "Allow", "source": input})),
        "ICMPFields" => rule(json!({"action": "Allow", "protocol": "ICMP", "icmp": input})),
        "HTTPMatch" => rule(json!({"action": "Allow", "http": input})),
        "other" | "Protocol" if !input.is_object() => rule(json!({"action": "Allow", "protocol": input})),
        "NodeStatus" => json!({"kind": "Node", "metadata": {"name": "x"}, "status": input}),
        "WorkloadEndpointPort" => endpoint(json!({"interfaceName": "cali0", "ports": [input]})),
        "IPNAT" => {
            let own = input["internalIP"].as_str()?;
            endpoint(json!({"interfaceName": "cali0", "ipNATs": [input], "ipNetworks": [own]}))
        }
        "ProtoPort" => whole("FelixConfiguration", json!({"failsafeInboundHostPorts": [input]})),
        "BGPFilterRuleV4" => whole("BGPFilter", json!({"importV4": [input]})),
        "BGPFilterRuleV6" => whole("BGPFilter", json!({"importV6": [input]})),
        "BGPFilterOperation" => whole("BGPFilter", json!({"importV4": [{"action": "Accept", "operations": [input]}]})),
        "Template" => controllers(json!({"node": {"hostEndpoint": {"templates": [input]}}})),
        "NodeControllerConfig" => controllers(json!({"node": input})),
        "PolicyControllerConfig" => controllers(json!({"policy": input})),
        "WorkloadEndpointControllerConfig" => controllers(json!({"workloadEndpoint": input})),
        "ServiceAccountControllerConfig" => controllers(json!({"serviceAccount": input})),
        "NamespaceControllerConfig" => controllers(json!({"namespace": input})),
        _ => return None,
    })
}

#[test]
fn validators() {
    let Some(cases) = cases("validator-cases.jsonl") else { return };
    let mut covered = 0;
    let mut left: BTreeMap<&str, usize> = BTreeMap::new();
    let mut wrong = Vec::new();
    for case in &cases {
        let go_type = case["goType"].as_str().unwrap();
        let id = case["id"].as_str().unwrap();
        let Some(mut json) = resource(go_type, &case["input"]) else {
            *left.entry(go_type).or_default() += 1;
            continue;
        };
        json["apiVersion"] = "projectcalico.org/v3".into();
        if let Some((_, reason)) = EXCEPTIONS.iter().find(|(exception, _)| *exception == id) {
            println!("exception {id}: {reason}");
            continue;
        }
        covered += 1;
        let result = yaml::parse(id, &json.to_string());
        let is_valid = result.is_ok();
        if is_valid != case["valid"].as_bool().unwrap() {
            let input: String = case["input"].to_string().chars().take(300).collect();
            wrong.push(format!("{id} {go_type} valid={is_valid}: {input}\n    {result:?}"));
        }
        // What is stored must be read back as it was.
        for resource in result.unwrap_or_default() {
            assert_eq!(Resource::from_json(&resource.to_json()).as_ref(), Ok(&resource), "{id}");
        }
    }
    println!("validator cases passed: {covered}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(left.is_empty(), "types not covered: {left:?}");
}
