//! Fuzz targets: what becomes a resource, whoever hands it in.
//!
//! | target | input | promise |
//! |---|---|---|
//! | `yaml` | a text | every problem has its place and says what was found and expected; what is accepted means the same when it is written out and read again, as JSON and as YAML |
//! | `api` | the body of a request | what is accepted means the same when written and read again; a refusal names what is wrong |
//! | `record` | a record of the store | nothing is read whose checksum is wrong; what is read means the same when written and read again |

use std::sync::Arc;

use config::convert;
use config::resource::{FieldError, GlobalNetworkPolicy, Key, Kind, Metadata, NetworkPolicy, Resource};
use config::yaml::{self, What};
use control::datastore::{Revision, Update, record};
use control::http::answer::read_resources;
use control::http::api::{DeleteCall, ErrorCode, WriteCall};
use control::http::views::TraceRequest;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::manifests::DOCUMENTS;
use super::{Seen, Target};

pub const YAML: Target =
    Target { name: "yaml", run: yaml, seeds: yaml_seeds, tokens: TOKENS, longest: 4000, rounds: 100_000 };

pub const API: Target =
    Target { name: "api", run: api, seeds: api_seeds, tokens: TOKENS, longest: 4000, rounds: 60_000 };

pub const RECORD: Target =
    Target { name: "record", run: record, seeds: record_seeds, tokens: TOKENS, longest: 4000, rounds: 60_000 };

const TOKENS: &[&str] = &[
    "---\n",
    "- ",
    "  ",
    "&a ",
    "*a",
    "!!str ",
    "|\n",
    ">-\n",
    "\"",
    "'",
    "{",
    "}",
    "[",
    "]",
    ": ",
    ",",
    "null",
    "~",
    "true",
    ".nan",
    ".inf",
    "-.inf",
    "1e400",
    "-0.0",
    "0.30000000000000004",
    "18446744073709551615",
    "-9223372036854775808",
    "0x10",
    "65536",
    "\\u0000",
    "\u{85}",
    "\u{2028}",
    "\u{feff}",
    "ä",
    "apiVersion: projectcalico.org/v3\n",
    "apiVersion: vrouter.io/v1\n",
    "apiVersion: networking.k8s.io/v1\n",
    "apiVersion: v1\n",
    "kind: ",
    "NetworkPolicy",
    "GlobalNetworkPolicy",
    "WorkloadEndpoint",
    "HostEndpoint",
    "IPPool",
    "StaticRoute",
    "Profile",
    "Tier",
    "Node",
    "NetworkSet",
    "BGPPeer",
    "BGPFilter",
    "FelixConfiguration",
    "ClusterNetworkPolicy",
    "Service",
    "EndpointSlice",
    "List",
    "90s",
    "1.5h",
    "[a-z]{2,3}*",
    "matchExpressions: [{key: a, operator: NotIn, values: [b]}]",
    "ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}",
    "metadata:\n  name: x\n",
    "namespace: ",
    "labels: {a: b}",
    "spec:\n",
    "order: ",
    "selector: ",
    "ingress:\n",
    "- action: Allow\n",
    "protocol: TCP",
    "ports: [80, \"1:2\", name]",
    "nets: [10.0.0.0/8]",
    "cidr: fd00::/64",
    "10.0.0.1/33",
    "resourceVersion: \"1\"",
    "\"resources\":",
    "\"targets\":",
    "\"dryRun\":true",
    "\"value\":null",
];

fn yaml(input: &[u8]) -> Seen {
    let text = String::from_utf8_lossy(input);
    match yaml::parse("input", &text) {
        Err(problems) => {
            assert!(!problems.is_empty(), "refused without a reason");
            let lines = text.split(['\n', '\r']).count();
            for problem in &problems {
                let position = problem.position;
                assert!((1..=lines).contains(&position.line), "line {} of {lines}: {problem}", position.line);
                assert!(position.column >= 1, "{problem}");
                if let What::Field(error) = &problem.what {
                    assert!(!error.found.is_empty(), "{problem}");
                    assert!(!error.expected.is_empty(), "{problem}");
                }
            }
            let shape = |problem: &yaml::Problem| match &problem.what {
                What::Syntax(message) => message.clone(),
                What::Field(error) => format!("{} {}", path_shape(&error.path), error.expected),
            };
            Seen::refused(problems.iter().map(shape).next())
        }
        Ok(resources) => {
            for resource in &resources {
                assert_eq!(resource.validate(), [], "accepted and invalid");
                converted(resource);
                same_again(resource);
                let json = resource.to_json().to_string();
                match yaml::parse("again", &json) {
                    Ok(again) => assert_eq!(again, std::slice::from_ref(resource), "by YAML: {json}"),
                    Err(problems) => panic!("refused when read again: {} in {json}", problems[0]),
                }
            }
            Seen::accepted(resources.iter().map(fields).collect::<Vec<_>>())
        }
    }
}

/// What the policy calculation takes in place of Kubernetes' objects is as valid as they are.
fn converted(resource: &Resource) {
    let metadata = Metadata::named("x");
    let (converted, is_policy) = match resource {
        Resource::KubernetesNetworkPolicy(policy) => {
            let converted = convert::network_policy(policy);
            // A rule holds fewer networks than an ipBlock.
            let is_too_long = |error: &FieldError| error.path.ends_with(".except");
            assert!(converted.left_out.iter().all(is_too_long), "{:?} of an accepted object", converted.left_out);
            (Resource::NetworkPolicy(NetworkPolicy { metadata, ..converted.resource }), true)
        }
        Resource::ClusterNetworkPolicy(policy) => {
            let converted = convert::cluster_network_policy(policy);
            (Resource::GlobalNetworkPolicy(GlobalNetworkPolicy { metadata, ..converted.resource }), true)
        }
        Resource::Namespace(namespace) => (Resource::Profile(convert::namespace_profile(namespace)), false),
        Resource::ServiceAccount(account) => (Resource::Profile(convert::service_account_profile(account)), false),
        _ => return,
    };
    // A selector that is written out may be longer than one that a person may write, and labels get a prefix.
    let is_too_long = |error: &FieldError| error.found.ends_with("characters") || error.found.ends_with("entries");
    let mut namespaced = converted;
    if is_policy && namespaced.kind().is_namespaced() {
        namespaced.metadata_mut().namespace = Some("x".to_string());
    }
    let problems = namespaced.validate();
    assert!(!is_policy || problems.iter().all(is_too_long), "{problems:?} in {}", namespaced.to_json());
}

/// By JSON as the store and the API have it.
fn same_again(resource: &Resource) {
    let text = resource.to_json().to_string();
    let json: Value = serde_json::from_str(&text).expect("our own JSON");
    assert_eq!(
        Resource::from_written(text.as_bytes()).unwrap_or_else(|| resource.clone()),
        *resource,
        "as text: {text}"
    );
    match Resource::from_json(&json) {
        Ok(again) => assert_eq!(again, *resource, "by JSON: {text}"),
        Err(errors) => panic!("refused when read again: {} in {text}", errors[0]),
    }
}

/// Which fields a resource has, without their values.
fn fields(resource: &Resource) -> Vec<String> {
    fn walk(path: &str, value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(entries) if !path.ends_with("abels") && !path.ends_with("annotations") => {
                entries.iter().for_each(|(name, value)| walk(&format!("{path}.{name}"), value, found));
            }
            Value::Array(items) => items.iter().take(2).for_each(|item| walk(&format!("{path}[]"), item, found)),
            _ => found.push(path.to_string()),
        }
    }
    let mut found = vec![resource.kind().to_string()];
    walk("", &resource.to_json(), &mut found);
    found.dedup();
    found
}

fn path_shape(path: &str) -> String {
    path.chars().filter(|c| !c.is_ascii_digit()).take(60).collect()
}

fn yaml_seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = DOCUMENTS.iter().map(|text| text.as_bytes().to_vec()).collect();
    seeds.push([DOCUMENTS[5], "---\n", DOCUMENTS[7]].concat().into_bytes());
    seeds.push(b"apiVersion: v1\nkind: List\nitems:\n- &p\n  apiVersion: projectcalico.org/v3\n  kind: Profile\n  metadata: {name: a}\n- *p\n".to_vec());
    seeds
}

/// Everything that was accepted, as JSON.
fn resources() -> Vec<Value> {
    let read = |text: &&str| yaml::parse("seed", text).unwrap_or_else(|problems| panic!("{}", problems[0]));
    DOCUMENTS.iter().flat_map(read).map(|resource| resource.to_json()).collect()
}

fn api(input: &[u8]) -> Seen {
    let write = decoded::<WriteCall>(input);
    let delete = decoded::<DeleteCall>(input);
    let trace = decoded::<TraceRequest>(input);
    let Some(call) = write else {
        let kinds = (delete.as_ref().map(|call| call.targets.len().min(3)), trace.is_some());
        return if kinds == (None, false) { Seen::refused(json_shape(input)) } else { Seen::accepted(kinds) };
    };
    match read_resources(&call.resources) {
        Ok(resources) => {
            assert_eq!(resources.len(), call.resources.len());
            resources.iter().for_each(same_again);
            Seen::accepted(resources.iter().map(fields).collect::<Vec<_>>())
        }
        Err(error) => {
            assert_eq!(error.code, ErrorCode::Manifest);
            assert!(!error.problems.is_empty(), "{error}");
            for problem in &error.problems {
                assert!(!problem.object.is_empty() && !problem.message.is_empty(), "{problem:?}");
            }
            Seen::refused(path_shape(&error.problems[0].field))
        }
    }
}

/// Decodes a body; what can be decoded is the same when it is encoded and decoded again.
fn decoded<T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(input: &[u8]) -> Option<T> {
    let value: T = serde_json::from_slice(input).ok()?;
    let text = serde_json::to_vec(&value).expect("our own types");
    let again: T = serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{value:?}: {error}"));
    assert_eq!(value, again);
    Some(value)
}

fn json_shape(input: &[u8]) -> String {
    let error = serde_json::from_slice::<WriteCall>(input).map(|_| ()).map_err(|error| error.to_string());
    error.err().map_or(String::new(), |text| text.chars().filter(|c| !c.is_ascii_digit()).take(40).collect())
}

fn api_seeds() -> Vec<Vec<u8>> {
    let resources = resources();
    let mut seeds: Vec<Vec<u8>> = resources
        .chunks(2)
        .map(|chunk| serde_json::json!({ "resources": chunk, "dryRun": true }).to_string().into_bytes())
        .collect();
    for text in [
        r#"{"targets":[{"kind":"NetworkPolicy","namespace":"a","name":"b","expected":7},{"kind":"Tier","name":"x"}],"skipMissing":true}"#,
        r#"{"from":"default/web","source":"10.0.0.1","destination":"10.0.0.2","transport":{"protocol":"tcp","source_port":1,"destination_port":2},"ttl":64,"is_fragment":false}"#,
        r#"{"from":"up","source":"fd00::1","destination":"fd00::2","transport":{"protocol":"icmp-echo"},"ttl":1,"is_fragment":true}"#,
    ] {
        seeds.push(text.as_bytes().to_vec());
    }
    seeds
}

/// The input is a record's kind (object or change), whether to give it a right checksum, and its bytes behind that. The
/// key is the one that the record itself names, or that of a resource nobody has.
fn record(input: &[u8]) -> Seen {
    let [control, rest @ ..] = input else { return Seen::refused(0) };
    if control & 1 == 0 { object(control & 2 != 0, rest) } else { change(control & 2 != 0, rest) }
}

fn object(is_sealed: bool, rest: &[u8]) -> Seen {
    let json = rest.get(16..).unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    let whole: Value = serde_json::from_slice(json).unwrap_or_default();
    if let (Some(found), Ok(expected)) = (Resource::from_written(json), Resource::from_json(&whole)) {
        assert_eq!(found, expected, "straight from the text, and by way of a document");
    }
    let (written, name) = (text(&whole["kind"]), text(&whole["metadata"]["name"]));
    let kind = Kind::of(&text(&whole["apiVersion"]), &written).map_or(written, |kind| kind.name().to_string());
    let namespace = text(&whole["metadata"]["namespace"]);
    let mut bytes = rest.to_vec();
    let sum = rest
        .get(8..16)
        .map(|revision| fnv(&[kind.as_bytes(), namespace.as_bytes(), name.as_bytes(), revision, json]).to_le_bytes());
    if let Some(sum) = sum.filter(|_| is_sealed) {
        bytes[..8].copy_from_slice(&sum);
    }
    match record::decode_object((&kind, &namespace, &name), &bytes) {
        Err(reason) => {
            assert!(reason.contains("object"), "{reason}");
            Seen::refused(reason.chars().rev().filter(|c| !c.is_ascii_digit()).take(20).collect::<String>())
        }
        Ok(stored) => {
            let key = Key::clone(&stored.key);
            assert_eq!(sum.as_ref().map(|sum| &sum[..]), bytes.get(..8), "read in spite of its checksum");
            assert_eq!(key, stored.resource.key());
            let encoded = record::encode_object(&key, stored.revision, &stored.resource);
            let (kind, namespace, name) = record::table_key(&key);
            let again = record::decode_object((kind, namespace, name), &encoded);
            assert_eq!(again.as_ref(), Ok(&stored));
            Seen::accepted(fields(&stored.resource))
        }
    }
}

fn change(is_sealed: bool, rest: &[u8]) -> Seen {
    let json = rest.get(8..).unwrap_or_default();
    let (revision, index) = (7u64, 1u32);
    let sum = fnv(&[&revision.to_le_bytes(), &index.to_le_bytes(), json]).to_le_bytes();
    let mut bytes = rest.to_vec();
    if is_sealed && bytes.len() >= 8 {
        bytes[..8].copy_from_slice(&sum);
    }
    match record::decode_update((revision, index), &bytes) {
        Err(reason) => {
            assert!(reason.contains("change 7.1"), "{reason}");
            Seen::refused(reason.chars().rev().filter(|c| !c.is_ascii_digit()).take(20).collect::<String>())
        }
        Ok(update) => {
            assert_eq!(bytes.get(..8), Some(&sum[..]), "read in spite of its checksum");
            if let Some(resource) = &update.value {
                assert_eq!(resource.key(), update.key, "a change of one object that holds another");
            }
            let again = record::decode_update((revision, index), &record::encode_update(&update, index));
            assert_eq!(again, Ok(update.clone()));
            Seen::accepted((update.key.kind.name(), update.value.as_deref().map(fields)))
        }
    }
}

/// FNV-1a with the lengths, as the record's header describes it.
fn fnv(parts: &[&[u8]]) -> u64 {
    let mut sum: u64 = 0xcbf2_9ce4_8422_2325;
    for part in parts {
        for byte in (part.len() as u64).to_le_bytes().iter().chain(*part) {
            sum = (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
    sum
}

fn record_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for json in resources() {
        let resource = Resource::from_json(&json).expect("accepted before");
        let key = resource.key();
        seeds.push([&[2][..], &record::encode_object(&key, Revision(7), &resource)].concat());
        let update = Update { revision: Revision(7), key, value: Some(Arc::new(resource)) };
        seeds.push([&[3][..], &record::encode_update(&update, 1)].concat());
    }
    let key = Key { kind: Kind::Tier, namespace: None, name: "gone".to_string() };
    let update = Update { revision: Revision(7), key, value: None };
    seeds.push([&[1][..], &record::encode_update(&update, 1)].concat());
    seeds
}
