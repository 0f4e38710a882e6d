//! The API over a socket, against a control thread that answers by rote.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::time::SystemTime;

use serde_json::json;
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot};

use super::answer;
use super::views::*;
use super::*;
use crate::bgp::speaker::view::{MessagesView, PeerKindView, PeerView, SummaryView};
use crate::datastore::{Author, Embedded};
use crate::http::api::ApiRequest;
use crate::ipam::call::{BlockView, CountsView, PoolView, PoolsView};

/// A served socket and a control loop that answers from a real store.
struct Stand {
    folder: TempDir,
    _server: Server,
}

fn serve_for(path: &Path, control: mpsc::Sender<ApiRequest>) -> Result<Server, ServeError> {
    let desk = Desk::new(control);
    serve(path, desk.clone(), Workloads::new(desk))
}

impl Stand {
    fn path(&self) -> PathBuf {
        self.folder.path().join("run").join("api.sock")
    }

    fn new() -> Stand {
        let folder = TempDir::new().unwrap();
        let store = Embedded::open(folder.path()).unwrap();
        let (control, mut requests) = mpsc::channel::<ApiRequest>(8);
        tokio::spawn(async move {
            while let Some(ApiRequest { call, caller, reply }) = requests.recv().await {
                // The caller may have gone.
                let _ = reply.send(fake_answer(&store, call, &caller).await);
            }
        });
        let server = serve_for(&folder.path().join("run").join("api.sock"), control).unwrap();
        Stand { folder, _server: server }
    }

    async fn send(&self, request: Vec<u8>) -> (u16, String) {
        let path = self.path();
        // The server shares this thread, so the client has its own.
        let exchange = tokio::task::spawn_blocking(move || {
            let mut stream = UnixStream::connect(path).unwrap();
            // A server that refuses early may close before it has read everything.
            let _ = stream.write_all(&request);
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
            String::from_utf8(answer).unwrap()
        });
        let answer = exchange.await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_string())
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        self.send(request.into_bytes()).await
    }

    async fn post(&self, path: &str, body: &str) -> (u16, String) {
        let length = body.len();
        let request =
            format!("POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}");
        self.send(request.into_bytes()).await
    }
}

async fn fake_answer(store: &Embedded, call: ApiCall, caller: &Author) -> Result<Value, ApiError> {
    if let Some(answered) = answer::respond(store, &call, caller, SystemTime::now()).await {
        return answered.map(|answered| answered.value);
    }
    let value = match call {
        ApiCall::Show { what: ShowKind::Status, .. } => json!(views().status),
        ApiCall::Show { what: ShowKind::Interfaces, .. } => json!(views().interfaces),
        ApiCall::Show { what: ShowKind::Workers, .. } => json!(views().workers),
        ApiCall::Show { what: ShowKind::Drops, .. } => json!(views().drops),
        ApiCall::Show { filter, .. } => json!([filter]),
        ApiCall::Bgp(BgpCall::Summary) => json!(views().bgp),
        ApiCall::Ipam(_) => json!(views().addresses),
        ApiCall::Trace(request) => json!(request),
        ApiCall::Why(request) => json!(request),
        ApiCall::Move(call) => json!(call),
        ApiCall::Preview(request) => json!(request),
        _ => json!(VersionView { version: "1".to_string(), node: None }),
    };
    Ok(value)
}

fn views() -> metrics::Views {
    let datastore = DatastoreView {
        location: "embedded:/var/lib/vrouter/store.redb".to_string(),
        revision: 7,
        in_sync: true,
        objects: 3,
        error: None,
    };
    let status = StatusView {
        node: "n\"1".to_string(),
        version: "0.1.0".to_string(),
        uptime_seconds: 60,
        is_ready: true,
        problems: vec![],
        datastore,
        generation: 2,
        workers: 1,
        interfaces: 1,
        endpoints: 1,
        policies: 0,
        routes: 4,
        flows: 5,
        packets_in: 10,
        sent: 8,
        dropped: 2,
        unaccounted: 0,
        dhcp: Some(DhcpView {
            servers: vec![[192, 0, 2, 53].into()],
            own_address: Some([192, 0, 2, 1].into()),
            requests: 4,
            replies: 3,
            refused: vec![DhcpRefusedView { reason: "malformed".to_string(), packets: 2 }],
        }),
    };
    let queue = QueueView { queue: 0, worker: 0, xdp: XdpMode::Native, copy: CopyMode::ZeroCopy, busy_poll: false };
    let interface = InterfaceView {
        name: "cali1".to_string(),
        index: 4,
        kind: InterfaceKind::Workload,
        endpoint: Some("shop/web".to_string()),
        queues: vec![queue],
        prepared: vec![],
        mtu: 1500,
        mac: None,
        is_up: true,
        rx_packets: 10,
        rx_bytes: 1000,
        tx_packets: 8,
        tx_bytes: 800,
        drops: 2,
    };
    let worker = WorkerView {
        index: 0,
        core: Some(1),
        poll: PollMode::Sleep,
        breaths: 100,
        bursts: 6,
        packets_in: 10,
        sent: 8,
        answered: 0,
        punted: 0,
        dropped: 2,
        handed_off: 0,
        unaccounted: 0,
        busy_ratio: 0.25,
        interfaces: 1,
        packets_per_second: 20.0,
        frames_total: 4096,
        frames_free: 4000,
        flows: 5,
        flows_limit: 65_536,
        burst_size_average: 1.5,
        breath_microseconds_p50: 2.0,
        breath_microseconds_p99: 9.0,
        breath_microseconds_p999: 30.0,
    };
    let drop = |rule: &str| DropView {
        interface: Some("cali1".to_string()),
        reason: "policy".to_string(),
        description: "a policy denies it".to_string(),
        packets: 1,
        rule: Some(rule.to_string()),
        last_seen_seconds_ago: Some(3),
    };
    let drops = vec![drop("a ingress 0"), drop("b ingress 1")];
    metrics::Views {
        status,
        interfaces: vec![interface],
        workers: vec![worker],
        drops,
        bgp: summary(1),
        addresses: pools(),
    }
}

fn pools() -> PoolsView {
    let counts = CountsView { total: 64, in_use: 3, reserved: 2, resting: 1, free: 58 };
    let block = BlockView { cidr: "10.65.0.0/26".to_string(), affinity: None, counts };
    let (name, cidr) = ("main".to_string(), "10.65.0.0/26".to_string());
    PoolsView { pools: vec![PoolView { name, cidr, is_disabled: false, counts, blocks: vec![block] }], stray: vec![] }
}

/// Of a speaker with so many peers, of which every other one is up.
fn summary(peers: u32) -> SummaryView {
    let messages = MessagesView { opens: 1, updates: 20, notifications: 0, keepalives: 3, refreshes: 0 };
    let peer = |number: u32| PeerView {
        address: std::net::Ipv4Addr::from(0xc000_0200 + number).into(),
        port: 179,
        name: "Global".to_string(),
        kind: PeerKindView::Global,
        origin: "BGPPeer rack".to_string(),
        as_number: 65001,
        local_as: 64512,
        state: if number.is_multiple_of(2) { "Established" } else { "Active" }.to_string(),
        since_seconds: 30,
        problem: None,
        is_disabled: false,
        router_id: None,
        families: vec!["IPv4".to_string()],
        received: 7,
        accepted: 5,
        rejected: 2,
        stale: 0,
        advertised: 4,
        established: 1,
        flaps: 2,
        messages_sent: messages,
        messages_received: messages,
        discarded_attributes: 6,
        withdrawn_by_error: 1,
        behind: 0,
        catching_up: 0,
        fell_behind: 0,
    };
    SummaryView {
        router_id: None,
        as_number: Some(64512),
        cluster_id: None,
        listen_port: Some(179),
        prefixes: 11,
        paths: 13,
        attribute_sets: 3,
        memory_bytes: 4096,
        waiting_bytes: 0,
        is_deferred: false,
        peers: (0..peers).map(peer).collect(),
        station: None,
        problems: vec![],
    }
}

fn profile(name: &str, content: &str) -> Value {
    json!({
        "apiVersion": "projectcalico.org/v3",
        "kind": "Profile",
        "metadata": { "name": name },
        "spec": { "labelsToApply": { "content": content } },
    })
}

fn error_code(body: &str) -> String {
    let body: ErrorBody = serde_json::from_str(body).expect(body);
    body.error.code.id().to_string()
}

#[tokio::test]
async fn resources_come_and_go() {
    let stand = Stand::new();
    let body = json!({ "resources": [profile("a", "1"), profile("b", "1")] }).to_string();
    let (status, answer) = stand.post("/v1/apply", &body).await;
    assert_eq!(status, 200, "{answer}");
    let reply: WriteReply = serde_json::from_str(&answer).unwrap();
    assert_eq!(reply.results.iter().map(|view| view.outcome).collect::<Vec<_>>(), [WriteOutcome::Created; 2]);

    let (status, answer) = stand.post("/v1/create", &body).await;
    assert_eq!((status, error_code(&answer).as_str()), (409, "VR1202"));

    let dry = json!({ "resources": [profile("a", "2")], "dryRun": true }).to_string();
    let (_, answer) = stand.post("/v1/replace", &dry).await;
    let reply: WriteReply = serde_json::from_str(&answer).unwrap();
    assert_eq!(reply.results[0].outcome, WriteOutcome::Updated);

    let (_, answer) = stand.get("/v1/resources/profiles/a").await;
    let reply: GetReply = serde_json::from_str(&answer).unwrap();
    assert_eq!(reply.items[0]["spec"]["labelsToApply"]["content"], "1");

    let delete = json!({ "targets": [{ "kind": "Profile", "name": "a" }, { "kind": "Profile", "name": "x" }] });
    let (status, _) = stand.post("/v1/delete", &delete.to_string()).await;
    assert_eq!(status, 404);
    let mut skipping = delete.clone();
    skipping["skipMissing"] = json!(true);
    let (status, _) = stand.post("/v1/delete", &skipping.to_string()).await;
    assert_eq!(status, 200);
    let (_, answer) = stand.get("/v1/resources/Profile").await;
    let reply: GetReply = serde_json::from_str(&answer).unwrap();
    assert_eq!(reply.items.len(), 1);
}

#[tokio::test]
async fn a_refusal_is_json_with_a_class() {
    let stand = Stand::new();
    let check = async |answer: (u16, String), status: u16, code: &str| {
        assert_eq!((answer.0, error_code(&answer.1).as_str()), (status, code), "{}", answer.1);
    };
    check(stand.get("/v1/nothing").await, 404, "VR1005").await;
    check(stand.get("/v1/apply").await, 404, "VR1005").await;
    check(stand.get("/v1/resources/profle").await, 422, "VR1002").await;
    check(stand.get("/v1/resources/profile/x").await, 404, "VR1201").await;
    check(stand.get("/v1/resources/profile?colour=red").await, 422, "VR1003").await;
    check(stand.get("/v1/show/nonsense").await, 404, "VR1005").await;
    check(stand.get("/v1/show/flows?worker=many").await, 422, "VR1003").await;
    check(stand.post("/v1/apply", "{").await, 422, "VR1003").await;
    check(stand.post("/v1/apply", "{\"resources\": [], \"colour\": 1}").await, 422, "VR1003").await;

    let mut first = profile("A", "1");
    first["spec"]["colour"] = json!("red");
    let body = json!({ "resources": [first, { "kind": "Profile" }] }).to_string();
    let (_, answer) = stand.post("/v1/apply", &body).await;
    let ErrorBody { error } = serde_json::from_str(&answer).unwrap();
    assert!(error.problems.len() >= 2, "{error:?}");
}

#[tokio::test]
async fn a_large_body_is_refused_whole() {
    let stand = Stand::new();
    let mut body = json!({ "resources": [profile("a", "1")] }).to_string();
    body.push_str(&" ".repeat(MAX_BODY_BYTES));
    let (status, answer) = stand.post("/v1/apply", &body).await;
    assert_eq!((status, error_code(&answer).as_str()), (422, "VR1004"));
    assert!(answer.contains("4 MiB"));
}

#[tokio::test]
async fn filters_and_traces_arrive() {
    let stand = Stand::new();
    let (_, answer) = stand.get("/v1/show/flows?worker=1&address=10.0.0.1&limit=5").await;
    let filter: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(filter, json!([{ "address": "10.0.0.1", "limit": 5, "worker": 1 }]));
    let request = json!({
        "from": "shop/web", "source": "10.0.0.1", "destination": "10.0.0.2",
        "transport": { "protocol": "tcp", "source_port": 1, "destination_port": 2 },
        "ttl": 64, "is_fragment": false,
    });
    let (status, answer) = stand.post("/v1/trace", &request.to_string()).await;
    assert_eq!((status, serde_json::from_str::<Value>(&answer).unwrap()), (200, request));
}

#[tokio::test]
async fn metrics_are_prometheus_text() {
    let stand = Stand::new();
    let (status, text) = stand.get("/metrics").await;
    assert_eq!(status, 200);
    for line in [
        "# TYPE vrouter_unaccounted_packets gauge",
        "vrouter_unaccounted_packets{worker=\"0\"} 0",
        "vrouter_drop_packets_total{interface=\"cali1\",reason=\"policy\"} 2",
        "vrouter_build_info{version=\"0.1.0\",node=\"n\\\"1\"} 1",
        "vrouter_queue_mode_info{interface=\"cali1\",queue=\"0\",worker=\"0\",xdp=\"native\",copy=\"zero-copy\"} 1",
        "vrouter_worker_breath_seconds{worker=\"0\",quantile=\"0.5\"} 0.000002",
        "vrouter_ipam_addresses{pool=\"main\",state=\"in_use\"} 3",
        "vrouter_ipam_addresses{pool=\"main\",state=\"free\"} 58",
        "vrouter_dhcp_relayed_packets_total{direction=\"reply\"} 3",
        "vrouter_dhcp_refused_packets_total{reason=\"malformed\"} 2",
        "vrouter_ipam_blocks{pool=\"main\"} 1",
        "vrouter_bgp_peers 1",
        "vrouter_bgp_prefixes 11",
        "vrouter_bgp_paths 13",
        "vrouter_bgp_memory_bytes 4096",
        "vrouter_bgp_peer_up{peer=\"192.0.2.0\"} 1",
        "vrouter_bgp_peer_state_info{peer=\"192.0.2.0\",state=\"Established\"} 1",
        "vrouter_bgp_peer_uptime_seconds{peer=\"192.0.2.0\"} 30",
        "vrouter_bgp_peer_flaps_total{peer=\"192.0.2.0\"} 2",
        "vrouter_bgp_routes_received{peer=\"192.0.2.0\"} 7",
        "vrouter_bgp_routes_accepted{peer=\"192.0.2.0\"} 5",
        "vrouter_bgp_routes_rejected{peer=\"192.0.2.0\"} 2",
        "vrouter_bgp_routes_stale{peer=\"192.0.2.0\"} 0",
        "vrouter_bgp_routes_advertised{peer=\"192.0.2.0\"} 4",
        "vrouter_bgp_messages_sent_total{peer=\"192.0.2.0\",type=\"update\"} 20",
        "vrouter_bgp_messages_received_total{peer=\"192.0.2.0\",type=\"keepalive\"} 3",
        "vrouter_bgp_malformed_total{peer=\"192.0.2.0\",outcome=\"discarded\"} 6",
        "vrouter_bgp_malformed_total{peer=\"192.0.2.0\",outcome=\"withdrawn\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} not in\n{text}");
    }
}

#[test]
fn peers_beyond_the_limit_are_summed() {
    // 1000 have series of their own; of the 5 others 3 are up.
    let text = metrics::metrics(&metrics::Views { bgp: summary(1005), ..views() });
    let of = |name: &str| text.lines().filter(|line| line.starts_with(&format!("vrouter_{name}{{"))).count();
    assert_eq!(of("bgp_peer_up"), metrics::PEERS_MAX + 1);
    assert_eq!(of("bgp_peer_uptime_seconds"), metrics::PEERS_MAX);
    for line in [
        "vrouter_bgp_peers 1005",
        "vrouter_bgp_peer_up{peer=\"other\"} 3",
        "vrouter_bgp_peer_state_info{peer=\"other\",state=\"Active\"} 2",
        "vrouter_bgp_peer_state_info{peer=\"other\",state=\"Established\"} 3",
        "vrouter_bgp_routes_received{peer=\"other\"} 35",
        "vrouter_bgp_messages_sent_total{peer=\"other\",type=\"update\"} 100",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not there");
    }
}

#[tokio::test]
async fn the_socket_is_guarded_by_its_mode_and_removed() {
    let stand = Stand::new();
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!(mode(&stand.path()), 0o660);
    assert_eq!(mode(stand.path().parent().unwrap()), 0o750);
    let path = stand.path();
    let Stand { folder: _folder, _server: server } = stand;
    drop(server);
    assert!(!path.exists());
}

#[tokio::test]
async fn only_a_dead_socket_is_replaced() {
    let stand = Stand::new();
    let (control, _requests) = mpsc::channel(1);
    let answered = serve_for(&stand.path(), control.clone()).err();
    assert!(matches!(answered, Some(ServeError::InUse { .. })));
    assert_eq!(stand.get("/v1/version").await.0, 200);

    let folder = TempDir::new().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "precious").unwrap();
    let refused = serve_for(&file, control.clone()).err();
    assert!(matches!(refused, Some(ServeError::NotASocket { .. })));

    let stale = folder.path().join("stale");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    serve_for(&stale, control).unwrap();
}

#[tokio::test]
async fn a_full_queue_and_a_gone_loop_are_said() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("api.sock");
    let (control, mut requests) = mpsc::channel(1);
    let desk = Desk::new(control.clone());
    let server = serve_for(&path, control.clone()).unwrap();
    let (reply, _answer) = oneshot::channel();
    control.try_send(ApiRequest { call: ApiCall::Version, caller: Author::default(), reply }).unwrap();
    let full = desk.ask(ApiCall::Version).await.unwrap_err();
    assert_eq!(full.code, ErrorCode::Busy);
    requests.recv().await.unwrap();
    let (asked, ()) = tokio::join!(desk.ask(ApiCall::Version), async {
        drop(requests.recv().await);
    });
    assert_eq!(asked.unwrap_err().message, "the daemon is stopping");
    drop((requests, server));
}
