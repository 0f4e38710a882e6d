//! Docker's drivers over their socket, against a control that answers by rote; and what is made of options.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::SystemTime;

use config::resource::Resource;
use serde_json::{Map, Value, json};
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::error::{DockerError, shown};
use super::ipam::Pool;
use super::messages::{Call, CreateEndpoint, CreateNetwork};
use super::networks::Network;
use super::server::{MAX_BODY_BYTES, Server, serve};
use super::{driver, options};
use crate::datastore::Embedded;
use crate::http::answer;
use crate::http::api::{ApiCall, ApiRequest};
use crate::http::desk::Desk;
use crate::ipam::service::Ipam;
use crate::resources::Resources;
use crate::workload::call::{DhcpRelay, EndpointCall, NodeView};
use crate::workload::endpoint::endpoint_of;
use crate::workload::identity::Identity;
use crate::workload::service::Workloads;

const ID: &str = "4F1c2d3e4f5a6b7c8d9e0f";

fn map(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

fn network(generic: Value) -> Result<(Network, config::resource::Profile), DockerError> {
    let options = map(json!({ "com.docker.network.generic": generic }));
    Network::asked(&CreateNetwork { network_id: ID.to_string(), options, ..CreateNetwork::default() })
}

#[test]
fn a_network_is_known_by_its_profile() {
    let generic = json!({ "label.role": "web", "vrouter.label.a.b/c": "", "vrouter.namespace": "shop",
        "com.docker.network.driver.mtu": "1400", "com.docker.network.bridge.name": "br0" });
    let (asked, profile) = network(generic).unwrap();
    assert_eq!(
        (asked.profile.as_str(), asked.namespace.as_str(), asked.mtu),
        ("docker-4f1c2d3e4f5a", "shop", Some(1400))
    );
    assert_eq!(Network::of(&profile), Some(asked));
    let labels: Vec<&str> = profile.spec.labels_to_apply.keys().map(String::as_str).collect();
    assert_eq!(labels, ["a.b/c", "docker-4f1c2d3e4f5a", "role"]);
    // What the datastore has is read the same.
    let stored = Resource::from_json(&Resource::Profile(profile.clone()).to_json()).unwrap();
    assert_eq!(stored, Resource::Profile(profile));
}

#[test]
fn an_internal_network_talks_to_itself() {
    let options = map(json!({ "com.docker.network.internal": true }));
    let request = CreateNetwork { network_id: ID.to_string(), options, ..CreateNetwork::default() };
    let (_, profile) = Network::asked(&request).unwrap();
    assert!(profile.spec.egress.iter().all(|rule| rule.destination.selector.is_some()));
    assert!(network(json!({})).unwrap().1.spec.egress.iter().all(|rule| rule.destination.selector.is_none()));
}

#[test]
fn options_are_refused_by_name() {
    let refused = |generic: Value| network(generic).unwrap_err().to_string();
    assert!(refused(json!({ "colour": "red" })).starts_with("option: found \"colour\", expected label.KEY"));
    assert!(refused(json!({ "label.a b": "x" })).contains("labelsToApply"));
    assert!(refused(json!({ "label.a": 7 })).ends_with("found \"7\", expected a text"));
    assert!(refused(json!({ "vrouter.namespace": "" })).contains("found nothing, expected a namespace's name"));
    assert!(refused(json!({ "com.docker.network.driver.mtu": "70000" })).contains("576 to 65535"));
    assert!(refused(json!("x")).starts_with("com.docker.network.generic: found"));
    for id in ["", "../../x", "a\0b", &"a".repeat(129)] {
        let request = CreateNetwork { network_id: id.to_string(), ..CreateNetwork::default() };
        assert!(Network::asked(&request).unwrap_err().to_string().starts_with("NetworkID: found"), "{id}");
    }
}

#[test]
fn ports_are_those_of_the_host() {
    let port = |proto: u8, host: &str, host_port: u16| {
        let binding =
            json!({ "Proto": proto, "IP": "", "Port": 80, "HostIP": host, "HostPort": host_port, "HostPortEnd": 1 });
        options::of_endpoint(&map(json!({ "com.docker.network.portmap": [binding], "com.docker.other": {} })))
    };
    let read = |host: &str| port(6, host, 8080).unwrap().ports.remove(0);
    assert_eq!((read("").port, read("").host_port, read("").host_ip), (80, 8080, None));
    assert_eq!(read("0.0.0.0").host_ip, None);
    assert_eq!(read("192.0.2.1").host_ip, Some("192.0.2.1".parse().unwrap()));
    // Nobody chooses one.
    assert!(port(6, "", 0).unwrap().ports.is_empty());
    assert!(port(1, "", 1).unwrap_err().to_string().contains("protocol 6, 17 or 132"));
    assert!(port(6, "x", 1).unwrap_err().to_string().contains("an address"));
}

#[test]
fn an_endpoint_is_valid_and_says_whose_it_is() {
    let (network, _) = network(json!({ "vrouter.namespace": "shop" })).unwrap();
    let body = json!({ "NetworkID": ID, "EndpointID": "e".repeat(64), "Options": { "label.app": "db" },
        "Interface": { "Address": "10.77.0.5/16", "AddressIPv6": "fd77::5/64", "MacAddress": "02:42:ac:11:00:02" } });
    let Some(Ok(Call::CreateEndpoint(request))) =
        Call::read("/NetworkDriver.CreateEndpoint", body.to_string().as_bytes())
    else {
        panic!("not read")
    };
    let wish = driver::wish(&network, &request).unwrap();
    let node = NodeView {
        node: "n-1".to_string(),
        prefix: "cali".to_string(),
        mtu: 1500,
        prepares: true,
        dhcp: DhcpRelay::Off,
    };
    let addresses = ["10.77.0.5", "fd77::5"].map(|text| text.parse().unwrap());
    let (endpoint, companion) = endpoint_of(&wish, &node, "cali0", &addresses, wish.mac);
    assert!(companion.is_none());
    assert_eq!(Identity::of(&endpoint), Some(wish.identity));
    assert_eq!(endpoint.spec.profiles, [network.profile.as_str()]);
    assert_eq!(endpoint.metadata.labels.get("app"), Some("db"));
    assert_eq!(Resource::WorkloadEndpoint(endpoint).validate(), []);
    let refused = |change: &dyn Fn(&mut CreateEndpoint)| {
        let mut request = request.clone();
        change(&mut request);
        driver::wish(&network, &request).unwrap_err().to_string()
    };
    assert!(refused(&|request| request.endpoint_id = "e-1".to_string()).starts_with("EndpointID: found"));
    assert!(refused(&|request| request.interface = Default::default()).contains("--ipam-driver vrouter-ipam"));
    assert!(refused(&|request| request.interface.address = "fd00::1".to_string()).starts_with("Interface.Address: "));
    assert!(
        refused(&|request| request.interface.mac_address = "01:00:00:00:00:00".to_string()).contains("one interface")
    );
}

#[test]
fn null_is_nothing_and_what_is_not_known_is_passed_over() {
    let read = |body: &str| Call::read("/IpamDriver.RequestAddress", body.as_bytes()).unwrap();
    let Ok(Call::RequestAddress(request)) = read(r#"{"PoolID":"ipv4","Address":null,"Options":null,"New":[1]}"#) else {
        panic!("not read")
    };
    assert_eq!((request.pool_id.as_str(), request.address.as_str(), request.options.len()), ("ipv4", "", 0));
    assert!(read(r#"{"PoolID":null}"#).is_err() && read("").is_err() && read(&"[".repeat(1 << 20)).is_err());
    assert_eq!(Call::read("/NetworkDriver.ProgramExternalConnectivity", b"{}").map(|call| call.is_ok()), None);
}

#[test]
fn pools_are_called_by_one_name() {
    for id in ["ipv4", "ipv6", "10.77.0.0/24", "fd77::/112"] {
        assert_eq!(Pool::parse(id).unwrap().id(), id);
    }
    for id in ["", "ipv5", "10.77.0.1/24", "10.77.0.0", "10.77.0.0/024", "FD77::/112"] {
        assert!(Pool::parse(id).unwrap_err().to_string().starts_with("PoolID: found"), "{id}");
    }
}

#[test]
fn what_is_shown_of_others_is_short_and_plain() {
    assert_eq!(shown("\u{1b}[2J"), "\"\\u{1b}[2J\"");
    assert!(shown(&"é".repeat(1 << 20)).len() < 300);
}

/// A served socket; a control that knows a datastore and its addresses.
struct Stand {
    folder: TempDir,
    _server: Server,
}

impl Stand {
    async fn new() -> Stand {
        let folder = TempDir::new().unwrap();
        let store = Embedded::open(&folder.path().join("store")).unwrap();
        let (control, requests) = mpsc::channel(8);
        tokio::spawn(answer_by_rote(store, requests));
        let desk = Desk::new(control);
        let workloads = Workloads::new(desk.clone());
        tokio::spawn(workloads.clone().keep_tidy());
        let server = serve(&folder.path().join("run/p.sock"), desk, workloads).unwrap();
        Stand { folder, _server: server }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("run").join(name)
    }

    async fn post(&self, socket: &str, path: &str, body: &str) -> (u16, Value) {
        let socket = self.path(socket);
        let head =
            format!("POST {path} HTTP/1.1\r\nHost: \r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
        let request = head + body;
        let exchange = tokio::task::spawn_blocking(move || {
            let mut stream = UnixStream::connect(socket).unwrap();
            let _ = stream.write_all(request.as_bytes());
            let mut answer = String::new();
            let _ = stream.read_to_string(&mut answer);
            answer
        });
        let answer = exchange.await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("application/vnd.docker.plugins"), "{head}");
        (head.split(' ').nth(1).unwrap().parse().unwrap(), serde_json::from_str(body).unwrap())
    }
}

async fn answer_by_rote(store: Embedded, mut requests: mpsc::Receiver<ApiRequest>) {
    let (resources, mut ipam) = (Resources::default(), Ipam::default());
    while let Some(ApiRequest { call, caller, reply }) = requests.recv().await {
        let now = SystemTime::now();
        let answer = match &call {
            ApiCall::Ipam(call) if call.is_order() => {
                let mut done = ipam.carry_out(&store, &resources, "n1", std::slice::from_ref(call), now).await;
                done.pop().unwrap().map(|done| json!(done)).map_err(Into::into)
            }
            ApiCall::Ipam(call) => Ok(ipam.ask(&resources, "n1", call, now)),
            ApiCall::Endpoint(EndpointCall::Node) => Ok(json!(NodeView {
                node: "n1".to_string(),
                prefix: "none".to_string(),
                mtu: 1500,
                prepares: false,
                dhcp: DhcpRelay::Off
            })),
            ApiCall::Endpoint(_) => Ok(json!([])),
            call => answer::respond(&store, call, &caller, now).await.unwrap().map(|answered| answered.value),
        };
        let _ = reply.send(answer);
    }
}

#[tokio::test]
async fn both_names_are_answered_and_go_together() {
    let stand = Stand::new().await;
    let implements = json!({ "Implements": ["NetworkDriver", "IpamDriver"] });
    for socket in ["p.sock", "p-ipam.sock"] {
        assert_eq!(stand.post(socket, "/Plugin.Activate", "").await, (200, implements.clone()));
    }
    let folder = stand.path("");
    let Stand { folder: _folder, _server: server } = stand;
    drop(server);
    assert_eq!(fs::read_dir(folder).unwrap().count(), 0);
}

#[tokio::test]
async fn a_refusal_has_both_keys() {
    let stand = Stand::new().await;
    let check = async |path: &str, body: &str, status: u16, text: &str| {
        let (found, answer) = stand.post("p.sock", path, body).await;
        assert_eq!((found, &answer["Err"]), (status, &answer["Error"]), "{answer}");
        assert!(answer["Err"].as_str().unwrap().contains(text), "{answer}");
    };
    check("/NetworkDriver.ProgramExternalConnectivity", "{}", 404, "no such call").await;
    check("/NetworkDriver.CreateNetwork", "{", 200, "the body").await;
    check("/NetworkDriver.CreateNetwork", &" ".repeat(MAX_BODY_BYTES + 1), 413, "1 MiB").await;
    let pool = r#"{"AddressSpace":"vrouter-local","Pool":"10.0.0.0/8"}"#;
    check("/IpamDriver.RequestPool", pool, 200, "an enabled IPPool of IPv4, and there is none").await;
    check("/NetworkDriver.Join", r#"{"NetworkID":"a","EndpointID":"b"}"#, 200, "network a is not known here").await;
}

#[tokio::test]
async fn a_network_is_created_once_and_deleted_twice() {
    let stand = Stand::new().await;
    let create = async |id: &str| {
        let body = json!({ "NetworkID": id, "IPv4Data": [{ "Pool": "0.0.0.0/0" }], "IPv6Data": null });
        stand.post("p.sock", "/NetworkDriver.CreateNetwork", &body.to_string()).await.1
    };
    assert_eq!(create(ID).await, json!({}));
    assert_eq!(create(ID).await, json!({}));
    // As far as the Profile's name goes they are the same.
    let other = format!("{}ff", &ID[..12]);
    assert!(create(&other).await["Err"].as_str().unwrap().contains("is somebody else's"));
    for id in [other.as_str(), ID, ID] {
        let body = json!({ "NetworkID": id }).to_string();
        assert_eq!(stand.post("p.sock", "/NetworkDriver.DeleteNetwork", &body).await, (200, json!({})));
    }
    assert_eq!(create(&other).await, json!({}));
}
