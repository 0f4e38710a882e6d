//! Seeds, and random resources made from them.
//!
//! Everything random in a simulation comes from one number. Each test runs a fixed list of seeds; a failure names its
//! seed, and `SIM_SEED=7 cargo test -p tests --test sim NAME` runs only that one. `SIM_SEEDS=1000` runs more of them.
//!
//! The names are few on purpose: endpoints share labels, rules meet endpoints, a second write hits the same object.
//! What comes out is legal; every resource is validated.

use std::net::IpAddr;

use config::resource::Resource;
use serde_json::{Value, json};
use tests::node::NODE;
use tests::random::Random;

/// Runs a test with each seed in turn.
pub fn with_seeds(count: u64, test: impl Fn(&mut Random)) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let seeds = match number("SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SIM_SEEDS").unwrap_or(count),
    };
    for seed in seeds {
        let _named = Named(seed);
        test(&mut Random::new(seed));
    }
}

/// Says which seed was running when a test fails.
struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with seed {0}; repeat with SIM_SEED={0}", self.0);
        }
    }
}

/// Endpoints `e0` to `e7`; half of their addresses are on this node.
pub const ENDPOINTS: usize = 8;

pub fn interface(number: usize) -> String {
    format!("cali{number}")
}

pub fn addresses(number: usize) -> [IpAddr; 2] {
    [IpAddr::from([10, 0, 0, number as u8 + 1]), format!("fd00::{}", number + 1).parse().unwrap()]
}

/// Addresses in packets: of endpoints, of host endpoints, and of nobody.
pub fn any_address(random: &mut Random, is_ipv4: bool) -> IpAddr {
    let others =
        if is_ipv4 { ["192.0.2.1", "10.0.0.77", "172.16.0.1"] } else { ["2001:db8::1", "fd00::77", "fd16::1"] };
    match random.below(ENDPOINTS + 4) {
        number if number < ENDPOINTS => addresses(number)[usize::from(!is_ipv4)],
        _ => random.pick(&others).parse().unwrap(),
    }
}

/// A resource of any kind that matters here.
pub fn resource(random: &mut Random) -> Resource {
    match random.below(28) {
        0..6 => endpoint(random),
        6..10 => policy(random, true),
        10..14 => policy(random, false),
        14 => tier(random),
        15 | 16 => profile(random),
        17 => host_endpoint(random),
        18 => route(random),
        19 => network_set(random, true),
        20 => network_set(random, false),
        21 => slice(random),
        22 => staged(random),
        23 => kubernetes_policy(random),
        24 => cluster_policy(random),
        25 => namespace_or_account(random),
        26 => host_policy(random),
        _ => pool_or_node(random),
    }
}

/// An endpoint whose number says its interface and addresses, so that no two claim the same.
pub fn endpoint(random: &mut Random) -> Resource {
    let number = random.below(ENDPOINTS);
    numbered_endpoint(random, number, number)
}

/// As `endpoint`, but with the interface and addresses of any: some will be taken.
pub fn rival_endpoint(random: &mut Random) -> Resource {
    let (number, place) = (random.below(ENDPOINTS), random.below(ENDPOINTS));
    numbered_endpoint(random, number, place)
}

fn numbered_endpoint(random: &mut Random, number: usize, place: usize) -> Resource {
    let namespaces = ["default", "prod"];
    // The namespace belongs to the number: otherwise one interface would have two endpoints.
    let namespace = namespaces[number % 2];
    let node = if random.chance(80) { NODE } else { "elsewhere" };
    let networks = addresses(place).map(|address| format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 }));
    let mut spec = json!({
        "node": node, "orchestrator": "k8s", "pod": format!("e{number}"), "endpoint": "eth0",
        "interfaceName": interface(place), "ipNetworks": networks, "profiles": profiles(random),
    });
    if random.chance(90) {
        spec["mac"] = json!(format!("02:00:00:00:00:{number:02x}"));
    }
    if random.chance(50) {
        let http = json!({ "name": "http", "protocol": "TCP", "port": random.pick(&[79, 80, 81]) });
        let dns = json!({ "name": "dns", "protocol": random.pick(&["UDP", "TCP", "SCTP"]), "port": 82 });
        spec["ports"] = random.pick(&[json!([http]), json!([http, dns]), json!([dns])]);
    }
    if random.chance(60) {
        spec["serviceAccountName"] = json!(random.pick(&["web", "db"]));
    }
    let mut labels = labels(random);
    // Claims. The account's counts where the endpoint says none, as in Calico.
    for (label, value) in [("pcns.team", "red"), ("pcsa.trust", "high"), ("projectcalico.org/serviceaccount", "web")] {
        if random.chance(20) {
            labels[label] = json!(value);
        }
    }
    let metadata = json!({ "name": format!("e{number}"), "namespace": namespace, "labels": labels });
    make("WorkloadEndpoint", metadata, spec)
}

fn policy(random: &mut Random, is_global: bool) -> Resource {
    let mut metadata = json!({ "name": random.pick(&["a", "b", "c", "d", "e"]) });
    let mut spec = json!({ "selector": random.pick(&SELECTORS), "tier": random.pick(&TIERS) });
    if is_global {
        if random.chance(20) {
            spec["namespaceSelector"] = json!(random.pick(&["team == 'red'", "all()", "!has(team)"]));
        }
    } else {
        metadata["namespace"] = json!(random.pick(&["default", "prod"]));
    }
    if random.chance(20) {
        spec["serviceAccountSelector"] = json!(random.pick(&["trust == 'high'", "!has(trust)"]));
    }
    if random.chance(60) {
        spec["order"] = json!(random.pick(&[1.0, 1.0, 2.5, -3.0]));
    }
    if random.chance(40) {
        spec["types"] = random.pick(&[json!(["Ingress"]), json!(["Egress"]), json!(["Ingress", "Egress"])]);
    }
    for direction in ["ingress", "egress"] {
        spec[direction] = rules(random, 4, direction);
    }
    make(if is_global { "GlobalNetworkPolicy" } else { "NetworkPolicy" }, metadata, spec)
}

/// Networks that overlap endpoints, each other and nobody.
fn network_set(random: &mut Random, is_global: bool) -> Resource {
    let nets = [
        json!(["10.0.0.0/30", "fd00::/126"]),
        json!(["192.0.2.0/24", "2001:db8::/32"]),
        json!(["10.0.0.2/32", "172.16.0.1/32"]),
        json!(["0.0.0.0/0"]),
        json!([]),
    ];
    let mut metadata = json!({ "name": random.pick(&["s0", "s1"]), "labels": labels(random) });
    if !is_global {
        metadata["namespace"] = json!(random.pick(&["default", "prod"]));
    }
    make(if is_global { "GlobalNetworkSet" } else { "NetworkSet" }, metadata, json!({ "nets": random.pick(&nets) }))
}

/// A part of what a Service leads to.
fn slice(random: &mut Random) -> Resource {
    let is_ipv4 = random.chance(60);
    let addresses: Vec<String> = (0..random.below(3)).map(|_| any_address(random, is_ipv4).to_string()).collect();
    let endpoints: Vec<Value> = addresses.iter().map(|address| json!({ "addresses": [address] })).collect();
    let ports = [
        json!([{ "port": 80 }]),
        json!([{ "protocol": "UDP", "port": 82 }, { "protocol": "TCP", "port": 443 }]),
        json!([{ "protocol": "SCTP", "port": 81 }, {}]),
        json!([]),
    ];
    let labels = json!({ "kubernetes.io/service-name": random.pick(&["db", "web"]) });
    let namespace = random.pick(&["default", "prod"]);
    let metadata = json!({ "name": random.pick(&["x0", "x1"]), "namespace": namespace, "labels": labels });
    checked(&json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata,
        "addressType": if is_ipv4 { "IPv4" } else { "IPv6" }, "endpoints": endpoints, "ports": random.pick(&ports),
    }))
}

/// What a staged policy says is never enforced.
fn staged(random: &mut Random) -> Resource {
    let spec = json!({ "selector": random.pick(&SELECTORS), "tier": random.pick(&TIERS), "order": -10.0,
        "ingress": rules(random, 2, "ingress"), "egress": rules(random, 2, "egress") });
    let name = random.pick(&["a", "b"]);
    match random.chance(50) {
        true => make("StagedGlobalNetworkPolicy", json!({ "name": name }), spec),
        false => make("StagedNetworkPolicy", json!({ "name": name, "namespace": "prod" }), spec),
    }
}

fn tier(random: &mut Random) -> Resource {
    let mut spec = json!({ "defaultAction": random.pick(&["Deny", "Pass", "Pass"]) });
    if random.chance(70) {
        spec["order"] = json!(random.pick(&[1.0, 1.0, 2_000_000.0]));
    }
    make("Tier", json!({ "name": random.pick(&TIERS[2..]) }), spec)
}

fn profile(random: &mut Random) -> Resource {
    let mut inherited = labels(random);
    for (label, values) in [("pcns.team", ["red", "blue"]), ("pcsa.trust", ["high", "low"])] {
        if random.chance(70) {
            inherited[label] = json!(random.pick(&values));
        }
    }
    let spec = json!({ "ingress": rules(random, 2, "ingress"), "egress": rules(random, 2, "egress"),
        "labelsToApply": inherited });
    make("Profile", json!({ "name": random.pick(&["p0", "p1", "p2", "kns.prod"]) }), spec)
}

pub fn host_endpoint(random: &mut Random) -> Resource {
    let node = if random.chance(75) { NODE } else { "elsewhere" };
    let interface = random.pick(&["eth0", "eth1", "*", "cali1"]);
    let own = [json!(["192.0.2.1"]), json!(["192.0.2.1", "2001:db8::1"]), json!([]), json!(["10.0.0.3"])];
    let mut spec = json!({ "node": node, "interfaceName": interface, "expectedIPs": random.pick(&own) });
    spec["profiles"] = json!(profiles(random));
    if random.chance(30) {
        spec["ports"] = json!([{ "name": "http", "protocol": "TCP", "port": random.pick(&[79, 80, 81]) }]);
    }
    let number = random.below(3);
    if random.chance(20) {
        // Found by an address that no other one expects.
        spec["interfaceName"] = json!("");
        spec["expectedIPs"] = json!([format!("203.0.113.{number}")]);
    }
    make("HostEndpoint", json!({ "name": format!("h{number}"), "labels": labels(random) }), spec)
}

fn route(random: &mut Random) -> Resource {
    let way = [json!({ "blackhole": true }), json!({ "nextHop": "172.31.0.1" }), json!({ "interface": "up" })];
    let mut spec = random.pick(&way);
    spec["destination"] = json!(random.pick(&["198.51.100.0/24", "203.0.113.0/24", "10.0.0.1/32"]));
    if random.chance(30) {
        spec["node"] = json!(random.pick(&[NODE, "elsewhere"]));
    }
    make("StaticRoute", json!({ "name": random.pick(&["r0", "r1", "r2"]) }), spec)
}

fn pool_or_node(random: &mut Random) -> Resource {
    if random.chance(50) {
        let spec = json!({ "cidr": random.pick(&["10.0.0.0/16", "fd00::/64"]), "disabled": random.chance(30) });
        return make("IPPool", json!({ "name": random.pick(&["q0", "q1"]) }), spec);
    }
    let address = random.pick(&["192.0.2.10/24", "192.0.2.11/24"]);
    make("Node", json!({ "name": random.pick(&[NODE, "elsewhere"]) }), json!({ "bgp": { "ipv4Address": address } }))
}

const TIERS: [&str; 5] = ["default", "default", "first", "second", "ghost"];

const SELECTORS: [&str; 9] = [
    "all()",
    "",
    "role == 'web'",
    "role != 'web'",
    "role in {'web', 'db'} && env == 'a'",
    "!has(env)",
    "has(role) || env starts with 'b'",
    "projectcalico.org/namespace == 'prod'",
    "!(role == 'db' || env == 'b')",
];

const HOST_SELECTORS: [&str; 5] =
    ["all()", "role == 'web'", "!has(env)", "!has(projectcalico.org/namespace)", "role in {'web', 'db'}"];

fn labels(random: &mut Random) -> Value {
    let mut labels = json!({});
    for (label, values) in [("role", ["web", "db", "lb"]), ("env", ["a", "b", "bb"])] {
        if random.chance(60) {
            labels[label] = json!(random.pick(&values));
        }
    }
    labels
}

fn profiles(random: &mut Random) -> Vec<&'static str> {
    let all = ["p0", "p1", "p2", "projectcalico-default-allow", "kns.default", "kns.prod", "ksa.prod.web"];
    (0..random.below(3)).map(|_| random.pick(&all)).collect()
}

/// A policy that only host endpoints can have: before tracking, before translation, or for what is forwarded.
pub fn host_policy(random: &mut Random) -> Resource {
    let mut spec =
        json!({ "selector": random.pick(&HOST_SELECTORS), "tier": random.pick(&TIERS), "applyOnForward": true });
    let mut types = random.pick(&[json!(["Ingress"]), json!(["Egress"]), json!(["Ingress", "Egress"])]);
    match random.below(3) {
        0 => spec["doNotTrack"] = json!(true),
        1 => {
            spec["preDNAT"] = json!(true);
            types = json!(["Ingress"]);
        }
        _ => {}
    }
    spec["types"] = types.clone();
    if random.chance(60) {
        spec["order"] = json!(random.pick(&[1.0, 1.0, 2.5, -3.0]));
    }
    for (direction, governed) in [("ingress", "Ingress"), ("egress", "Egress")] {
        if types.as_array().is_some_and(|types| types.contains(&json!(governed))) {
            spec[direction] = rules(random, 3, direction);
            if random.chance(30) {
                spec[direction].as_array_mut().expect("a list").push(json!({ "action": "Deny" }));
            }
        }
    }
    make("GlobalNetworkPolicy", json!({ "name": random.pick(&["h-a", "h-b", "h-c", "h-d"]) }), spec)
}

/// What Felix is told about one node or all.
pub fn felix(random: &mut Random) -> Resource {
    let ports = [
        json!([]),
        json!([{ "protocol": "TCP", "port": 80 }, { "protocol": "UDP", "port": 82, "net": "10.0.0.0/30" }]),
        json!([{ "protocol": "SCTP", "port": 81 }, { "port": 443, "net": "fd00::/125" }]),
    ];
    let mut spec = json!({});
    for field in ["failsafeInboundHostPorts", "failsafeOutboundHostPorts"] {
        if random.chance(60) {
            spec[field] = random.pick(&ports);
        }
    }
    if random.chance(40) {
        spec["defaultEndpointToHostAction"] = json!(random.pick(&["Drop", "Accept", "Return"]));
    }
    if random.chance(40) {
        spec["vxlanPort"] = json!(random.pick(&[82, 4789]));
    }
    for field in ["allowVXLANPacketsFromWorkloads", "allowIPIPPacketsFromWorkloads"] {
        if random.chance(40) {
            spec[field] = json!(random.chance(50));
        }
    }
    make("FelixConfiguration", json!({ "name": random.pick(&["default", "node.node", "node.elsewhere"]) }), spec)
}

/// One of the two objects that give labels, and of which the first lets through what no policy decides.
fn namespace_or_account(random: &mut Random) -> Resource {
    let labels = json!({ "team": random.pick(&["red", "blue"]), "trust": random.pick(&["high", "low"]) });
    let (kind, metadata) = match random.chance(50) {
        true => ("Namespace", json!({ "name": random.pick(&["default", "prod"]), "labels": labels })),
        false => {
            let namespace = random.pick(&["default", "prod"]);
            ("ServiceAccount", json!({ "name": random.pick(&["web", "db"]), "namespace": namespace, "labels": labels }))
        }
    };
    checked(&json!({ "apiVersion": "v1", "kind": kind, "metadata": metadata }))
}

fn label_selector(random: &mut Random, labels: &[(&str, [&str; 2])]) -> Value {
    let (label, values) = random.pick(labels);
    match random.below(6) {
        0 | 1 => json!({}),
        2 => json!({ "matchLabels": { label: values[0] } }),
        3 => json!({ "matchExpressions": [{ "key": label, "operator": "In", "values": values }] }),
        4 => json!({ "matchExpressions": [{ "key": label, "operator": "NotIn", "values": [values[1]] }] }),
        _ => {
            json!({ "matchExpressions": [{ "key": label, "operator": random.pick(&["Exists", "DoesNotExist"]) }] })
        }
    }
}

fn pod_selector(random: &mut Random) -> Value {
    label_selector(random, &[("role", ["web", "db"]), ("env", ["a", "b"])])
}

fn namespace_selector(random: &mut Random) -> Value {
    label_selector(random, &[("team", ["red", "blue"]), ("projectcalico.org/name", ["prod", "default"])])
}

fn kubernetes_policy(random: &mut Random) -> Resource {
    let mut spec = json!({ "podSelector": pod_selector(random) });
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        let rules: Vec<Value> = (0..random.below(3)).map(|_| kubernetes_rule(random, peers)).collect();
        if !rules.is_empty() {
            spec[direction] = json!(rules);
        }
    }
    if random.chance(50) {
        spec["policyTypes"] = random.pick(&[json!(["Ingress"]), json!(["Egress"]), json!(["Ingress", "Egress"])]);
    }
    let namespace = random.pick(&["default", "prod"]);
    let metadata = json!({ "name": random.pick(&["a", "k"]), "namespace": namespace });
    let api = "networking.k8s.io/v1";
    checked(&json!({ "apiVersion": api, "kind": "NetworkPolicy", "metadata": metadata, "spec": spec }))
}

fn kubernetes_rule(random: &mut Random, peers_field: &str) -> Value {
    let mut rule = json!({});
    let peers: Vec<Value> = (0..random.below(3))
        .map(|_| match random.below(4) {
            0 => json!({ "podSelector": pod_selector(random) }),
            1 => json!({ "namespaceSelector": namespace_selector(random) }),
            2 => json!({ "podSelector": pod_selector(random), "namespaceSelector": namespace_selector(random) }),
            _ => random.pick(&[
                json!({ "ipBlock": { "cidr": "10.0.0.0/29", "except": ["10.0.0.2/32"] } }),
                json!({ "ipBlock": { "cidr": "fd00::/125" } }),
            ]),
        })
        .collect();
    if !peers.is_empty() {
        rule[peers_field] = json!(peers);
    }
    let ports: Vec<Value> = (0..random.below(3))
        .map(|_| {
            random.pick(&[
                json!({ "protocol": "TCP", "port": 80 }),
                json!({ "port": 79, "endPort": 82 }),
                json!({ "protocol": "UDP", "port": 82 }),
                json!({ "protocol": "UDP", "port": "dns" }),
                json!({ "port": "http" }),
                json!({ "protocol": "SCTP" }),
            ])
        })
        .collect();
    if !ports.is_empty() {
        rule["ports"] = json!(ports);
    }
    rule
}

fn cluster_policy(random: &mut Random) -> Resource {
    let pods = |random: &mut Random| json!({ "podSelector": pod_selector(random), "namespaceSelector": namespace_selector(random) });
    let mut spec = json!({ "tier": random.pick(&["Admin", "Baseline"]), "priority": random.below(3) });
    spec["subject"] = match random.chance(50) {
        true => json!({ "namespaces": namespace_selector(random) }),
        false => json!({ "pods": pods(random) }),
    };
    for (direction, field) in [("ingress", "from"), ("egress", "to")] {
        let mut rules = Vec::new();
        for _ in 0..random.below(3) {
            let mut peers = Vec::new();
            for _ in 0..1 + random.below(2) {
                peers.push(match random.below(if field == "to" { 5 } else { 2 }) {
                    0 => json!({ "namespaces": namespace_selector(random) }),
                    1 => json!({ "pods": pods(random) }),
                    2 | 3 => json!({ "networks": random.pick(&[["10.0.0.0/29", "fd00::/125"], ["192.0.2.0/24", "10.0.0.2/32"]]) }),
                    _ => random.pick(&[json!({ "nodes": {} }), json!({ "domainNames": ["example.com."] })]),
                });
            }
            let has_only_pods = peers.iter().all(|peer| peer.get("namespaces").or(peer.get("pods")).is_some());
            let mut rule = json!({ "action": random.pick(&["Accept", "Deny", "Pass"]) });
            rule[field] = json!(peers);
            let protocols: Vec<Value> = (0..random.below(3))
                .map(|_| {
                    random.pick(&[
                        json!({ "tcp": {} }),
                        json!({ "tcp": { "destinationPort": { "number": 80 } } }),
                        json!({ "udp": { "destinationPort": { "range": { "start": 79, "end": 82 } } } }),
                        json!({ "sctp": {} }),
                        // Only pods have names for their ports.
                        if has_only_pods { json!({ "destinationNamedPort": "http" }) } else { json!({ "tcp": {} }) },
                    ])
                })
                .collect();
            if !protocols.is_empty() {
                rule["protocols"] = json!(protocols);
            }
            rules.push(rule);
        }
        if !rules.is_empty() {
            spec[direction] = json!(rules);
        }
    }
    let (api, name) = ("policy.networking.k8s.io/v1alpha2", random.pick(&["a", "k"]));
    checked(&json!({ "apiVersion": api, "kind": "ClusterNetworkPolicy", "metadata": { "name": name }, "spec": spec }))
}

fn rules(random: &mut Random, most: usize, direction: &str) -> Value {
    (0..random.below(most + 1)).map(|_| rule(random, direction)).collect()
}

fn rule(random: &mut Random, direction: &str) -> Value {
    let actions = ["Allow", "Allow", "Deny", "Pass", "Log"];
    let mut rule = json!({ "action": random.pick(&actions) });
    let is_ipv4 = random.chance(60);
    let protocol = random.pick(&["", "", "TCP", "TCP", "UDP", "SCTP", "UDPLite", "ICMP", "ICMPv6", "47"]);
    if !protocol.is_empty() {
        rule["protocol"] = json!(protocol);
    } else if random.chance(30) {
        rule["notProtocol"] = json!(random.pick(&["TCP", "UDP"]));
    }
    if protocol.starts_with("ICMP") {
        let kind = if protocol == "ICMP" { 8 } else { 128 };
        let fields = random.pick(&[json!({ "type": kind }), json!({ "type": kind, "code": 1 }), json!({})]);
        match random.below(3) {
            0 => rule["icmp"] = fields,
            1 => rule["notICMP"] = fields,
            _ => {}
        }
    } else if random.chance(15) {
        rule["ipVersion"] = json!(if is_ipv4 { 4 } else { 6 });
    }
    if direction == "ingress" && rule["action"] == "Allow" && ["", "TCP"].contains(&protocol) && random.chance(8) {
        rule["http"] = json!({ "methods": ["GET"] });
    }
    let has_ports = ["TCP", "UDP", "SCTP"].contains(&protocol);
    let far = if direction == "ingress" { "source" } else { "destination" };
    for name in ["source", "destination"] {
        let service = json!({ "name": random.pick(&["db", "web"]), "namespace": random.pick(&["default", "prod"]) });
        let side = match name == far && random.chance(10) {
            true => json!({ "services": service }),
            false => side(random, is_ipv4, has_ports, protocol.is_empty()),
        };
        if side != json!({}) {
            rule[name] = side;
        }
    }
    rule
}

fn side(random: &mut Random, is_ipv4: bool, has_ports: bool, may_name_ports: bool) -> Value {
    let mut side = json!({});
    let nets = if is_ipv4 {
        ["10.0.0.0/29", "10.0.0.2/32", "192.0.2.0/24", "10.0.0.0/30"]
    } else {
        ["fd00::/125", "fd00::2/128", "2001:db8::/32", "fd00::/126"]
    };
    for field in ["nets", "notNets"] {
        if random.chance(15) {
            side[field] = (0..1 + random.below(2)).map(|_| random.pick(&nets)).collect();
        }
    }
    for field in ["selector", "notSelector"] {
        if random.chance(20) {
            side[field] = json!(random.pick(&SELECTORS));
        }
    }
    if random.chance(12) {
        side["namespaceSelector"] = json!(random.pick(&["team == 'red'", "all()", "global()", "!has(team)"]));
    }
    if random.chance(8) {
        let accounts = [
            json!({ "names": ["web"] }),
            json!({ "selector": "trust == 'high'" }),
            json!({ "names": ["db", "web"], "selector": "!has(trust)" }),
            json!({}),
        ];
        side["serviceAccounts"] = random.pick(&accounts);
    }
    for field in ["ports", "notPorts"] {
        if has_ports && random.chance(25) {
            let named = [json!(["http"]), json!(["dns", 443]), json!(["dns", "http"])];
            let numbers = [json!([80]), json!(["79:81", 443]), json!(["1:65535"])];
            side[field] = if random.chance(40) { random.pick(&named) } else { random.pick(&numbers) };
        } else if may_name_ports && random.chance(8) {
            // Without a protocol, a name means a port of TCP.
            side[field] = random.pick(&[json!(["http"]), json!(["dns", "http"])]);
        }
    }
    side
}

fn make(kind: &str, metadata: Value, spec: Value) -> Resource {
    let group = if kind == "StaticRoute" { "vrouter.io/v1" } else { "projectcalico.org/v3" };
    checked(&json!({ "apiVersion": group, "kind": kind, "metadata": metadata, "spec": spec }))
}

fn checked(json: &Value) -> Resource {
    let resource = Resource::from_json(json).unwrap_or_else(|errors| panic!("{json}: {errors:?}"));
    let problems = resource.validate();
    assert!(problems.is_empty(), "{json}: {problems:?}");
    resource
}
