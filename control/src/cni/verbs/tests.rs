//! What a runtime's call wants, field by field.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc;

use super::*;
use crate::http::api::{ApiCall, ApiRequest};
use crate::http::desk::Desk;
use crate::workload::call::{DhcpRelay, EndpointCall, NodeView};
use crate::workload::endpoint::endpoint_of;

fn request(config: &Value, args: &str) -> Request {
    let mut whole = json!({ "cniVersion": "1.0.0", "name": "pods", "type": "vrouter-cni" });
    let object = whole.as_object_mut().unwrap();
    object.extend(config.as_object().unwrap().clone());
    let call = CniCall {
        command: "ADD".to_string(),
        container_id: "c1".to_string(),
        netns: "/run/netns/c1".to_string(),
        ifname: "eth0".to_string(),
        args: args.to_string(),
        path: "/opt/cni/bin".to_string(),
        config: whole.to_string(),
        ..CniCall::default()
    };
    Request::read(&call).unwrap()
}

fn wished(config: &Value) -> Wish {
    wish(&request(config, "")).unwrap()
}

fn asked(config: &Value, args: &str) -> Ask {
    match wish(&request(config, args)).unwrap().addresses {
        Source::Pools(ask) => ask,
        Source::Given(addresses) => panic!("{addresses:?}"),
    }
}

fn code(config: &Value) -> u32 {
    wish(&request(config, "")).unwrap_err().code
}

#[test]
fn a_container_and_a_pod() {
    let container = wished(&json!({})).identity;
    assert_eq!((container.orchestrator.as_str(), container.namespace.as_str()), ("cni", "default"));
    assert_eq!(container.workload, "c1");
    let pod = wish(&request(&json!({ "profiles": ["x"] }), "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web")).unwrap();
    assert_eq!((pod.identity.orchestrator.as_str(), pod.identity.namespace.as_str()), ("k8s", "shop"));
    assert_eq!((pod.identity.workload.as_str(), pod.profiles), ("web", None));
    // podman has a name and no namespace: that is no pod of a cluster.
    let podman = wish(&request(&json!({}), "IgnoreUnknown=1;K8S_POD_NAME=web")).unwrap().identity;
    assert_eq!((podman.orchestrator.as_str(), podman.workload.as_str()), ("cni", "c1"));
}

/// Go writes an empty list or map so.
#[test]
fn null_is_nothing() {
    let nothing = json!({
        "ipam": { "type": "calico-ipam", "assign_ipv6": null, "ipv4_pools": null, "routes": null }, "mtu": null,
        "args": { "cni": { "ips": null, "labels": null } }, "labels": null, "profiles": null, "dns": null, "prevResult": null,
        "runtimeConfig": {
            "io.kubernetes.cri.pod-annotations": null, "portMappings": null, "ips": null, "mac": null, "bandwidth": null,
            "dns": { "servers": null, "searches": null, "options": null },
        },
    });
    assert_eq!(wished(&nothing), wished(&json!({ "ipam": { "type": "calico-ipam" } })));
}

/// The closer to the container somebody has said it, the more it counts.
#[test]
fn addresses_by_who_has_asked() {
    let ip = |last: u8| IpAddr::from([10, 0, 0, last]);
    assert_eq!(asked(&json!({}), ""), Ask { ipv4: true, ..Ask::default() });
    assert_eq!(asked(&json!({}), "IP=10.0.0.1").addresses, [ip(1)]);
    let args = json!({ "args": { "cni": { "ips": ["10.0.0.2"] } } });
    assert_eq!(asked(&args, "IP=10.0.0.1").addresses, [ip(2)]);
    let mut runtime = args.clone();
    runtime["runtimeConfig"] = json!({ "ips": ["10.0.0.3/24"] });
    assert_eq!(asked(&runtime, "IP=10.0.0.1").addresses, [ip(3)]);
    runtime["runtimeConfig"]["io.kubernetes.cri.pod-annotations"] =
        json!({ "cni.projectcalico.org/ipAddrs": "[\"10.0.0.4\"]" });
    assert_eq!(asked(&runtime, "IP=10.0.0.1").addresses, [ip(4)]);
}

#[test]
fn families_and_pools() {
    let ipam = json!({ "ipam": { "type": "calico-ipam", "assign_ipv4": "false", "assign_ipv6": "true", "ipv4_pools": ["a"], "ipv6_pools": ["b"] } });
    let ask = asked(&ipam, "");
    let one = |name: &str| vec![name.to_string()];
    assert_eq!((ask.ipv4, ask.ipv6, ask.ipv4_pools, ask.ipv6_pools), (false, true, one("a"), one("b")));
    let mut annotated = ipam.clone();
    annotated["runtimeConfig"] = json!({ "io.kubernetes.cri.pod-annotations": {
        "cni.projectcalico.org/ipFamilies": "[\"IPv4\", \"IPv6\"]", "cni.projectcalico.org/ipv4pools": "[\"c\"]",
    }});
    let ask = asked(&annotated, "");
    assert_eq!((ask.ipv4, ask.ipv6, ask.ipv4_pools, ask.ipv6_pools), (true, true, one("c"), one("b")));
    // A family whose pools nobody names is left to the pools' selectors.
    let ask = asked(&json!({ "ipam": { "assign_ipv6": true, "ipv6_pools": ["b"] } }), "");
    assert_eq!((ask.ipv4, ask.ipv6, ask.ipv4_pools, ask.ipv6_pools), (true, true, Vec::new(), one("b")));
}

#[test]
fn what_is_passed_on_is_written_down() {
    let wish = wished(&json!({
        "mtu": 1400, "num_queues": 4, "labels": { "a": "1", "b": "2" },
        "args": { "cni": { "labels": [{ "key": "b", "value": "3" }] } },
        "container_settings": { "allow_ip_forwarding": true },
        "ipam": { "routes": [{ "dst": "10.0.0.0/8" }] }, "include_default_routes": true,
        "runtimeConfig": {
            "mac": "02:00:00:00:00:01",
            "portMappings": [{ "hostPort": 80, "containerPort": 8080, "protocol": "tcp", "hostIP": "192.0.2.1" }],
            "bandwidth": { "ingressRate": 5, "ingressBurst": 9000, "egressRate": 1_000_000 },
        },
    }));
    assert_eq!((wish.mtu, wish.queues, wish.may_forward), (Some(1400), 4, true));
    assert_eq!(wish.labels, [("a", "1"), ("b", "3")].map(|(k, v)| (k.to_string(), v.to_string())).into());
    let routes: Vec<String> = wish.routes.iter().map(ToString::to_string).collect();
    assert_eq!(routes, ["10.0.0.0/8", "0.0.0.0/0", "::/0"]);
    assert_eq!(wish.mac.unwrap().to_string(), "02:00:00:00:00:01");
    assert_eq!((wish.ports[0].port, wish.ports[0].host_port), (8080, 80));
    let qos = wish.qos.unwrap();
    assert_eq!((qos.ingress_bandwidth, qos.ingress_burst, qos.egress_bandwidth), (1000, 9000, 1_000_000));
}

#[test]
fn what_cannot_be_had_is_refused() {
    assert_eq!(code(&json!({ "device_type": "netkit" })), 2);
    for config in [
        json!({ "runtimeConfig": { "mac": "x" } }),
        json!({ "runtimeConfig": { "ips": ["x"] } }),
        json!({ "runtimeConfig": { "portMappings": [{ "containerPort": 0 }] } }),
        json!({ "runtimeConfig": { "portMappings": [{ "containerPort": 1, "protocol": "x" }] } }),
        json!({ "ipam": { "routes": [{ "dst": "x" }] } }),
        json!({ "mtu": 5_000_000_000u64 }),
    ] {
        assert_eq!(code(&config), 7, "{config}");
    }
    let annotated = |name: &str, value: &str, control: Value| {
        json!({
            "runtimeConfig": { "io.kubernetes.cri.pod-annotations": { format!("cni.projectcalico.org/{name}"): value } },
            "feature_control": control,
        })
    };
    assert_eq!(code(&annotated("ipAddrsNoIpam", "[\"10.0.0.1\"]", json!({}))), 7);
    let allowed = annotated("ipAddrsNoIpam", "[\"10.0.0.1\"]", json!({ "ip_addrs_no_ipam": true }));
    assert_eq!(wished(&allowed).addresses, Source::Given(vec![[10, 0, 0, 1].into()]));
    assert_eq!(code(&annotated("floatingIPs", "[\"10.0.0.1\"]", json!({}))), 7);
    assert_eq!(code(&annotated("floatingIPs", "[\"10.0.0.1\"]", json!({ "floating_ips": true }))), 2);
    assert_eq!(code(&annotated("ipFamilies", "[\"IPv5\"]", json!({}))), 7);
}

/// A configuration may hold what is nobody's business: it is in no text that is made of a call.
#[test]
fn a_configuration_is_not_in_any_log() {
    let call = CniCall { config: "{\"password\": \"canary\"}".to_string(), ..CniCall::default() };
    assert!(!format!("{call:?}").contains("canary"));
}

/// A control that has these endpoints, whatever is deleted; `meanwhile` is attached and answered while it is asked which.
async fn answer_by_rote(
    mut requests: mpsc::Receiver<ApiRequest>,
    endpoints: Vec<Identity>,
    meanwhile: (Workloads, Option<Identity>),
    deleted: Arc<Mutex<Vec<String>>>,
) {
    let node = NodeView {
        node: "n1".to_string(),
        prefix: "none".to_string(),
        mtu: 1500,
        prepares: false,
        dhcp: DhcpRelay::default(),
    };
    let endpoint = |identity: &Identity| {
        let wish = Wish { identity: identity.clone(), ..Wish::default() };
        endpoint_of(&wish, &node, &identity.host_interface("none"), &[], None).0
    };
    while let Some(ApiRequest { call, reply, .. }) = requests.recv().await {
        let answer = match call {
            ApiCall::Endpoint(EndpointCall::Node) => json!(node),
            ApiCall::Endpoint(EndpointCall::List) => {
                if let (workloads, Some(identity)) = &meanwhile {
                    drop(workloads.turn(identity).await.unwrap());
                }
                json!(endpoints.iter().map(endpoint).collect::<Vec<_>>())
            }
            ApiCall::Endpoint(EndpointCall::Delete { container, .. }) => {
                deleted.lock().unwrap().push(container);
                json!(true)
            }
            _ => json!({ "released": [] }),
        };
        let _ = reply.send(Ok(answer));
    }
}

/// Who is deleted by a GC that names nobody, where `under_way` has a turn and `meanwhile` has one while endpoints are looked for.
async fn collected(containers: &[&str], under_way: Option<&str>, meanwhile: Option<&str>) -> Vec<String> {
    let request = request(&json!({ "cniVersion": "1.1.0", "cni.dev/valid-attachments": [] }), "");
    let identity = |container: &str| Identity {
        container: container.to_string(),
        workload: container.to_string(),
        ..identity_of(&request)
    };
    let (control, requests) = mpsc::channel(8);
    let workloads = Workloads::new(Desk::new(control));
    let deleted = Arc::default();
    let endpoints = containers.iter().map(|container| identity(container)).collect();
    let others = (workloads.clone(), meanwhile.map(identity));
    tokio::spawn(answer_by_rote(requests, endpoints, others, Arc::clone(&deleted)));
    let _turn = match under_way {
        Some(container) => Some(workloads.turn(&identity(container)).await.unwrap()),
        None => None,
    };
    let collected = tokio::time::timeout(Duration::from_secs(10), collect(&workloads, &request));
    collected.await.expect("GC waits for nobody").unwrap();
    deleted.lock().unwrap().clone()
}

/// An ADD writes its endpoint before it answers: from then on GC sees it, and no runtime can have named it yet.
#[tokio::test]
async fn who_is_being_attached_is_not_collected() {
    let both = ["old", "new"];
    assert_eq!(collected(&both, None, None).await, both);
    assert_eq!(collected(&both, Some("new"), None).await, ["old"]);
    assert_eq!(collected(&both, None, Some("new")).await, ["old"]);
}
