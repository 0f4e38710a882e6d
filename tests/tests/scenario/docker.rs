//! Docker's drivers, called as dockerd calls them: in its order, with its HTTP, and with the interface moved as it does.
//!
//! ```text
//!     engine ──vrouter.sock──▶ router ──┬── one   network web, label role=web
//!                                       ├── two   the same, label app=db of its own
//!                                       └── three network other
//! ```

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use control::host::netns;
use serde_json::{Value, json};
use tests::daemon::{Daemon, SOON};
use tests::talk::{pings, until_reachable};
use tests::topology::{Machine, Topology};
use tests::wait;

use crate::ip;

/// A node without containers.
pub const ALONE: &str = r#"
endpoints:
  - { name: web, addresses: [10.65.0.2] }
hosts:
  - name: far
    addresses: [192.0.2.2/24, "2001:db8::2/64"]
    uplink: up0
    nodeAddresses: [192.0.2.1/24, "2001:db8::1/64"]
"#;

pub const POOLS: &str = r#"
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: { name: containers }
spec: { cidr: 10.77.0.0/24, blockSize: 28 }
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: { name: containers-v6 }
spec: { cidr: "fd77::/112", blockSize: 122 }
"#;

/// In the order of a container's addresses.
const POOL: [&str; 2] = ["10.77.0.0/24", "fd77::/112"];

/// Who has the label hears those of the role, and nobody else.
const DB_HEARS_CLIENTS: &str = "
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: { name: db }
spec: { selector: app == 'db', types: [Ingress], ingress: [{ action: Allow, source: { selector: role == 'client' } }] }
";

const WEB: &str = "1111111111111111aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const OTHER: &str = "2222222222222222bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

/// What dockerd is to its drivers.
pub struct Engine {
    pub socket: PathBuf,
}

impl Engine {
    /// Sends bytes and gives back the status and the body.
    fn send(&self, socket: &Path, request: &[u8]) -> (u16, Value) {
        let mut stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        // Who refuses early may close before it has read everything.
        let _ = stream.write_all(request);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}")))
    }

    /// One call as the engine 20.10 writes it: no host, no type of content.
    fn call_at(&self, socket: &Path, method: &str, path: &str, body: &str) -> (u16, Value) {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: \r\nUser-Agent: Go-http-client/1.1\r\nContent-Length: {}\r\n\
             Accept: application/vnd.docker.plugins.v1.2+json\r\nConnection: close\r\n\r\n",
            body.len()
        );
        self.send(socket, (head + body).as_bytes())
    }

    /// What a call is answered with, or why it is refused.
    fn call(&self, path: &str, body: Value) -> Result<Value, String> {
        let (status, answer) = self.call_at(&self.socket, "POST", path, &body.to_string());
        assert_eq!(status, 200, "{path}: {answer}");
        match answer.get("Err") {
            None => Ok(answer),
            Some(text) => {
                assert_eq!(answer["Error"], *text, "both keys");
                Err(text.as_str().unwrap().to_owned())
            }
        }
    }

    #[track_caller]
    fn done(&self, path: &str, body: Value) -> Value {
        self.call(path, body.clone()).unwrap_or_else(|error| panic!("{path} {body}: {error}"))
    }

    #[track_caller]
    fn refused(&self, path: &str, body: Value) -> String {
        match self.call(path, body.clone()) {
            Err(error) => error,
            Ok(answer) => panic!("{path} {body}: {answer}"),
        }
    }

    /// `docker network create --driver vrouter --ipam-driver vrouter-ipam --subnet … --ipv6 --subnet … --opt …`
    fn create_network(&self, id: &str, generic: Value) {
        let mut data = Vec::new();
        for pool in POOL {
            let is_v6 = pool.contains(':');
            let body =
                json!({ "AddressSpace": "vrouter-local", "Pool": pool, "SubPool": "", "Options": {}, "V6": is_v6 });
            let answer = self.done("/IpamDriver.RequestPool", body.clone());
            assert_eq!(answer, self.done("/IpamDriver.RequestPool", body), "the same question, the same answer");
            assert_eq!(answer["Pool"], pool);
            let gateway = answer["Data"]["com.docker.network.gateway"].clone();
            data.push(json!({ "AddressSpace": "vrouter-local", "Pool": pool, "Gateway": gateway, "AuxAddresses": {} }));
        }
        let options = json!({ "com.docker.network.generic": generic, "com.docker.network.enable_ipv6": true });
        let body = json!({ "NetworkID": id, "Options": options, "IPv4Data": [data[0]], "IPv6Data": [data[1]] });
        self.done("/NetworkDriver.CreateNetwork", body);
    }

    fn delete_network(&self, id: &str) {
        self.done("/NetworkDriver.DeleteNetwork", json!({ "NetworkID": id }));
        for (pool, gateway) in [("10.77.0.0/24", "169.254.1.1"), ("fd77::/112", "fe80::ecee:eeff:feee:eeee")] {
            // The gateway is given back though it was never asked for.
            self.done("/IpamDriver.ReleaseAddress", json!({ "PoolID": pool, "Address": gateway }));
            self.done("/IpamDriver.ReleasePool", json!({ "PoolID": pool }));
        }
    }

    /// An address without its length, which has to be that of one address.
    fn request_address(&self, pool: &str, address: &str) -> Result<IpAddr, String> {
        let body = json!({ "PoolID": pool, "Address": address, "Options": null });
        let answer = self.call("/IpamDriver.RequestAddress", body)?;
        let text = answer["Address"].as_str().unwrap();
        let (address, length) = text.split_once('/').expect("an address in CIDR");
        assert_eq!(length, if address.contains(':') { "128" } else { "32" });
        Ok(ip(address))
    }

    fn release_address(&self, pool: &str, address: IpAddr) -> Result<Value, String> {
        self.call("/IpamDriver.ReleaseAddress", json!({ "PoolID": pool, "Address": address.to_string() }))
    }

    /// The names of an endpoint, for calls about it.
    fn endpoint(network: &str, endpoint: &str) -> Value {
        json!({ "NetworkID": network, "EndpointID": endpoint, "SandboxKey": "/var/run/docker/netns/1", "Options": null })
    }
}

/// A container, as far as its network goes.
struct Container<'a> {
    machine: Machine,
    engine: &'a Engine,
    node: Machine,
    network: &'a str,
    endpoint: String,
    addresses: [IpAddr; 2],
    source: String,
}

impl<'a> Container<'a> {
    /// Everything that `docker run` calls: addresses, endpoint, join, and the interface in its place.
    fn run(topology: &Topology, engine: &'a Engine, network: &'a str, name: &str, options: Value) -> Container<'a> {
        let mut container = Container::created(topology, engine, network, name, options);
        container.join();
        container
    }

    fn created(topology: &Topology, engine: &'a Engine, network: &'a str, name: &str, options: Value) -> Container<'a> {
        let addresses = POOL.map(|pool| engine.request_address(pool, "").unwrap());
        let machine = topology.at(name);
        let _ = netns::delete(machine.namespace());
        netns::create(machine.namespace()).unwrap();
        let letters: String = name.bytes().map(|byte| format!("{byte:02x}")).collect();
        let endpoint = format!("{letters:0<64}");
        let node = topology.node();
        let container = Container { machine, engine, node, network, endpoint, addresses, source: String::new() };
        container.create(options);
        container
    }

    fn create(&self, options: Value) {
        let [v4, v6] = self.addresses;
        let interface = json!({ "Address": format!("{v4}/32"), "AddressIPv6": format!("{v6}/128"), "MacAddress": "" });
        let mut body = Engine::endpoint(self.network, &self.endpoint);
        body["Interface"] = interface;
        body["Options"] = options;
        let answer = self.engine.done("/NetworkDriver.CreateEndpoint", body);
        let answered = answer["Interface"].as_object().unwrap();
        assert!(answered.keys().all(|key| key == "MacAddress"), "what was given is repeated: {answer}");
    }

    fn join(&mut self) {
        let engine = self.engine;
        for _ in 0..2 {
            engine.done("/NetworkDriver.EndpointOperInfo", Engine::endpoint(self.network, &self.endpoint));
        }
        let mut body = Engine::endpoint(self.network, &self.endpoint);
        body["SandboxKey"] = json!(netns::path(self.machine.namespace()));
        let joined = engine.done("/NetworkDriver.Join", body);
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        self.source = text(&joined["InterfaceName"]["SrcName"]);
        assert_eq!(joined["InterfaceName"]["DstPrefix"], "eth");
        let inside = &self.machine;
        self.node.run(&format!("ip link set {} netns {}", self.source, inside.namespace()));
        inside.run(&format!("ip link set {} name eth0", self.source));
        inside.sysctl("ipv6/conf/eth0/disable_ipv6", "0");
        let [v4, v6] = self.addresses;
        inside.run(&format!("ip address add {v4}/32 dev eth0"));
        inside.run(&format!("ip address add {v6}/128 dev eth0 nodad"));
        inside.run("ip link set eth0 up");
        for route in joined["StaticRoutes"].as_array().unwrap() {
            assert_eq!(route["RouteType"], 1);
            inside.run(&format!("ip route add {} dev eth0 scope link", text(&route["Destination"])));
        }
        inside.run(&format!("ip route add default via {}", text(&joined["Gateway"])));
        inside.run(&format!("ip -6 route add default via {} dev eth0", text(&joined["GatewayIPv6"])));
    }

    /// What `docker stop` calls.
    fn stop(&self) {
        self.engine.done("/NetworkDriver.Leave", Engine::endpoint(self.network, &self.endpoint));
        self.machine.attempt("ip link set eth0 down");
        self.machine.attempt(&format!("ip link set eth0 name {}", self.source));
        let host = format!("ip link set {} netns 1", self.source);
        self.machine.attempt(&host);
        self.delete();
    }

    fn delete(&self) {
        self.engine.done("/NetworkDriver.DeleteEndpoint", Engine::endpoint(self.network, &self.endpoint));
        for (pool, address) in POOL.into_iter().zip(self.addresses) {
            self.engine.release_address(pool, address).unwrap();
        }
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        let _ = netns::delete(self.machine.namespace());
    }
}

pub fn stand(topology: &Topology) -> (Daemon, Engine) {
    let socket = topology.folder().join("plugins/vrouter.sock");
    let daemon = again(topology);
    daemon.cli(&["apply", "-f", topology.manifests().to_str().unwrap()]);
    daemon.apply(POOLS);
    (daemon, Engine { socket })
}

fn again(topology: &Topology) -> Daemon {
    let socket = topology.folder().join("plugins/vrouter.sock");
    Daemon::bare(topology, &["--docker-plugin-socket", socket.to_str().unwrap()])
}

pub fn endpoints(daemon: &Daemon) -> Vec<Value> {
    let list: Value = serde_json::from_str(&daemon.cli(&["get", "wep", "-A", "-o", "json"])).unwrap();
    let is_dockers = |endpoint: &&Value| endpoint["spec"]["orchestrator"] == "libnetwork";
    list["items"].as_array().unwrap().iter().filter(is_dockers).cloned().collect()
}

/// No link, endpoint or address that was not there before.
pub fn nothing_is_left(daemon: &Daemon, topology: &Topology, links: &str) {
    assert_eq!(names(&topology.node()), links);
    assert_eq!(endpoints(daemon), [Value::Null; 0]);
    let handles = daemon.cli(&["get", "ipamhandle"]);
    assert!(!handles.contains("libnetwork"), "{handles}");
}

pub fn names(machine: &Machine) -> String {
    let text = machine.run("ip -o link show");
    let mut names: Vec<&str> = text.lines().filter_map(|line| line.split(": ").nth(1)?.split('@').next()).collect();
    names.sort_unstable();
    names.join(" ")
}

#[test]
fn a_network_comes_lives_and_goes() {
    let Some(topology) = Topology::up("docker", ALONE) else { return };
    let (daemon, engine) = stand(&topology);
    let links = names(&topology.node());
    let implements = json!({ "Implements": ["NetworkDriver", "IpamDriver"] });
    assert_eq!(engine.done("/Plugin.Activate", Value::Null), implements);
    let second = engine.socket.with_file_name("vrouter-ipam.sock");
    assert_eq!(engine.call_at(&second, "POST", "/Plugin.Activate", "").1, implements);
    assert_eq!(engine.done("/NetworkDriver.GetCapabilities", Value::Null)["Scope"], "local");
    assert_eq!(engine.done("/IpamDriver.GetCapabilities", Value::Null)["RequiresMACAddress"], false);
    let spaces = engine.done("/IpamDriver.GetDefaultAddressSpaces", Value::Null);
    assert_eq!(spaces["LocalDefaultAddressSpace"], "vrouter-local");

    engine.create_network(WEB, json!({ "label.role": "web", "com.docker.network.driver.mtu": "1400" }));
    engine.create_network(OTHER, json!({}));
    let ports = json!([{ "Proto": 6, "IP": "", "Port": 80, "HostIP": "", "HostPort": 8080, "HostPortEnd": 8080 }]);
    let one = Container::run(&topology, &engine, WEB, "one", json!({ "com.docker.network.portmap": ports }));
    let two = Container::run(&topology, &engine, WEB, "two", json!({ "vrouter.label.app": "db" }));
    let three = Container::run(&topology, &engine, OTHER, "three", json!({ "label.role": "client" }));
    assert!(one.machine.run("ip link show eth0").contains("mtu 1400"));
    let published = endpoints(&daemon).into_iter().filter(|endpoint| !endpoint["spec"]["ports"].is_null());
    assert_eq!(published.map(|endpoint| endpoint["spec"]["ports"][0]["hostPort"].clone()).collect::<Vec<_>>(), [8080]);

    // Those of a network talk to each other and to the world; of other networks they hear nobody.
    for (from, to) in [(&one, &two), (&two, &one)] {
        to.addresses.iter().for_each(|address| until_reachable(&from.machine, *address));
    }
    topology.at("far").run("ip route add 10.77.0.0/24 via 192.0.2.1");
    until_reachable(&one.machine, ip("192.0.2.2"));
    assert!(!pings(&topology.at("far"), one.addresses[0]));
    assert!(!pings(&three.machine, two.addresses[0]));
    let text = daemon.cli(&["ipam", "check"]);
    for claim in ["0 IPs that are allocated in IPAM but not", "0 in-use IPs that are in active IP pools but"] {
        assert!(text.contains(claim), "{text}");
    }

    // Labels of endpoints and of networks are what policy selects by.
    daemon.apply(DB_HEARS_CLIENTS);
    assert!(!pings(&one.machine, two.addresses[0]));
    until_reachable(&three.machine, two.addresses[0]);
    daemon.apply(&DB_HEARS_CLIENTS.replace("role == 'client'", "role == 'web'"));
    until_reachable(&one.machine, two.addresses[0]);
    assert!(!pings(&three.machine, two.addresses[0]));
    daemon.cli(&["delete", "gnp", "db"]);

    let taken = one.addresses;
    one.stop();
    // What is gone already can be taken away, and is given out again.
    one.delete();
    assert_eq!(engine.request_address("10.77.0.0/24", &taken[0].to_string()), Ok(taken[0]));
    assert!(engine.request_address("10.77.0.0/24", &taken[0].to_string()).unwrap_err().contains("has an owner"));
    engine.release_address("10.77.0.0/24", taken[0]).unwrap();
    two.stop();
    three.stop();
    engine.delete_network(WEB);
    engine.delete_network(OTHER);
    engine.delete_network(OTHER);
    assert!(!daemon.cli(&["get", "profile"]).contains("docker-"));
    nothing_is_left(&daemon, &topology, &links);
}

#[test]
fn the_router_is_killed_between_any_two_calls() {
    let Some(topology) = Topology::up("dockerkill", ALONE) else { return };
    let (mut daemon, engine) = stand(&topology);
    let links = names(&topology.node());
    engine.create_network(WEB, json!({}));
    daemon = killed(&topology, daemon);
    let one = Container::run(&topology, &engine, WEB, "one", Value::Null);
    let addresses = POOL.map(|pool| engine.request_address(pool, "").unwrap());
    daemon = killed(&topology, daemon);
    // They are still Docker's: nobody else is given them.
    let other = engine.request_address(POOL[0], &addresses[0].to_string());
    assert!(other.is_err(), "{other:?}");
    for (pool, address) in POOL.into_iter().zip(addresses) {
        engine.release_address(pool, address).unwrap();
    }
    let mut two = Container::created(&topology, &engine, WEB, "two", Value::Null);
    daemon = killed(&topology, daemon);
    // Its answer was lost: dockerd asks again.
    two.create(Value::Null);
    two.join();
    until_reachable(&one.machine, two.addresses[0]);
    daemon = killed(&topology, daemon);
    until_reachable(&one.machine, two.addresses[0]);
    until_reachable(&two.machine, one.addresses[1]);

    // A namespace that goes takes its pair with it; dockerd finds out later, and so may we.
    netns::delete(two.machine.namespace()).unwrap();
    wait::until_true("the pair to go", SOON, || {
        names(&topology.node()).split(' ').count() == links.split(' ').count() + 1
    });
    daemon = killed(&topology, daemon);
    wait::until_true("its endpoint to go", SOON, || endpoints(&daemon).len() == 1);
    let again = engine.request_address(POOL[0], &two.addresses[0].to_string());
    assert!(again.is_err(), "Docker has not given it back: {again:?}");
    two.delete();

    // An engine that starts again gives back the addresses of who has died, and says nothing of their endpoints.
    let three = Container::run(&topology, &engine, WEB, "three", Value::Null);
    netns::delete(three.machine.namespace()).unwrap();
    for (pool, address) in POOL.into_iter().zip(three.addresses) {
        engine.release_address(pool, address).unwrap();
    }
    assert_eq!(endpoints(&daemon).len(), 1);
    one.stop();
    daemon = killed(&topology, daemon);
    engine.delete_network(WEB);
    nothing_is_left(&daemon, &topology, &links);
}

/// Without a word, and started again.
pub fn killed(topology: &Topology, daemon: Daemon) -> Daemon {
    daemon.kill();
    again(topology)
}

#[test]
fn what_nobody_should_say_is_refused() {
    let Some(topology) = Topology::up("dockerbad", ALONE) else { return };
    let (daemon, engine) = stand(&topology);
    let links = names(&topology.node());
    let mode = std::fs::metadata(&engine.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);

    // By HTTP.
    let at = |method: &str, path: &str, body: &str| engine.call_at(&engine.socket, method, path, body);
    assert_eq!(at("POST", "/NetworkDriver.ProgramExternalConnectivity", "{}").0, 404);
    assert_eq!(at("POST", "/Plugin.Nothing", "{}").0, 404);
    assert_eq!(at("GET", "/Plugin.Activate", "").0, 404);
    let large = format!("{{\"NetworkID\": \"{}\"}}", "a".repeat(1 << 20));
    assert_eq!(at("POST", "/NetworkDriver.CreateNetwork", &large).0, 413);
    for body in ["", "{", "[]", "null", &"[".repeat(100_000), "{\"NetworkID\": 7}", "{\"NetworkID\": null}", "\u{0}"] {
        let (status, answer) = at("POST", "/NetworkDriver.CreateNetwork", body);
        assert!(status == 200 && answer["Err"].is_string(), "{body:.20}: {status} {answer}");
    }
    // A little less than too much is read, and refused for what it says.
    let options: BTreeMap<String, String> =
        (0..30_000).map(|number| (format!("label.l{number}"), "x".to_owned())).collect();
    let body = json!({ "NetworkID": WEB, "Options": { "com.docker.network.generic": options } });
    assert!(engine.refused("/NetworkDriver.CreateNetwork", body).contains("at most 64 labels"));

    // Pools.
    let pool = |space: &str, pool: &str, sub: &str, v6: bool, options: Value| {
        let body = json!({ "AddressSpace": space, "Pool": pool, "SubPool": sub, "V6": v6, "Options": options });
        engine.call("/IpamDriver.RequestPool", body)
    };
    let any = pool("vrouter-local", "", "", false, json!({})).unwrap();
    assert_eq!((any["PoolID"].as_str(), any["Pool"].as_str()), (Some("ipv4"), Some("0.0.0.0/0")));
    for (wrong, expected) in [
        (pool("local", "10.77.0.0/24", "", false, json!({})), "AddressSpace: found \"local\", expected vrouter-local"),
        (pool("vrouter-local", "10.1.0.0/24", "", false, json!({})), "vrouter apply"),
        (pool("vrouter-local", "10.77.0.0/24", "", true, json!({})), "Pool: found \"10.77.0.0/24\""),
        (pool("vrouter-local", "10.77.0.0/24", "10.77.0.0/25", false, json!({})), "--ip-range"),
        (pool("vrouter-local", "", "10.77.0.0/25", false, json!({})), "--ip-range"),
        (pool("vrouter-local", "10.77.0.0/24", "", false, json!({ "colour": "red" })), "option: found \"colour\""),
    ] {
        assert!(wrong.as_ref().is_err_and(|error| error.contains(expected)), "{wrong:?}, not {expected}");
    }
    for id in ["", "0", "10.77.0.1/24", "../..", "ipv5"] {
        assert!(engine.request_address(id, "").unwrap_err().starts_with("PoolID: found"), "{id}");
        assert!(engine.refused("/IpamDriver.ReleasePool", json!({ "PoolID": id })).starts_with("PoolID: found"));
    }
    for address in ["10.78.0.1", "fd77::1", "x", "10.77.0.1/24"] {
        assert!(
            engine.request_address("10.77.0.0/24", address).unwrap_err().starts_with("Address: found"),
            "{address}"
        );
    }
    let gateway = json!({ "RequestAddressType": "com.docker.network.gateway" });
    let ask = |address: &str| json!({ "PoolID": "10.77.0.0/24", "Address": address, "Options": gateway });
    assert!(engine.refused("/IpamDriver.RequestAddress", ask("10.77.0.1")).contains("--gateway"));
    assert_eq!(engine.done("/IpamDriver.RequestAddress", ask(""))["Address"], "169.254.1.1/32");
    assert_eq!(engine.release_address("10.77.0.0/24", ip("10.77.0.9")), Ok(json!({})));

    // Networks and endpoints.
    let network = |generic: Value, v4: &str| {
        let body = json!({ "NetworkID": OTHER, "Options": { "com.docker.network.generic": generic }, "IPv4Data": [{ "Pool": v4 }] });
        engine.call("/NetworkDriver.CreateNetwork", body)
    };
    for (wrong, expected) in [
        (network(json!({ "colour": "red" }), "10.77.0.0/24"), "option: found \"colour\", expected label.KEY"),
        (network(json!({ "label.a b": "x" }), "10.77.0.0/24"), "label"),
        (network(json!({ "vrouter.namespace": "../a" }), "10.77.0.0/24"), "vrouter.namespace: found"),
        (network(json!({ "com.docker.network.driver.mtu": "9" }), "10.77.0.0/24"), "576 to 65535"),
        (network(json!({}), "172.18.0.0/16"), "Pool: found \"172.18.0.0/16\""),
    ] {
        assert!(wrong.as_ref().is_err_and(|error| error.contains(expected)), "{wrong:?}, not {expected}");
    }
    engine.create_network(WEB, json!({}));
    let endpoint = |network: &str, id: &str| Engine::endpoint(network, id);
    for path in ["CreateEndpoint", "Join", "EndpointOperInfo"] {
        let path = format!("/NetworkDriver.{path}");
        assert!(engine.refused(&path, endpoint(OTHER, "e1")).contains("is not known here"));
        engine.refused(&path, endpoint(WEB, "e1"));
        engine.refused(&path, endpoint(WEB, ""));
        engine.refused(&path, endpoint("../x", "e1"));
    }
    engine.done("/NetworkDriver.Leave", endpoint(WEB, "e1"));
    engine.done("/NetworkDriver.DeleteEndpoint", endpoint(WEB, "e1"));
    engine.done("/NetworkDriver.DeleteEndpoint", endpoint(OTHER, "e1"));
    engine.refused("/NetworkDriver.DeleteEndpoint", endpoint(WEB, "e\n1"));

    // Nobody takes an address that is somebody else's, nor an endpoint that is in use.
    let two = Container::run(&topology, &engine, WEB, "two", Value::Null);
    let create = |address: &str, mac: &str| {
        let mut body = endpoint(WEB, "e1");
        body["Interface"] = json!({ "Address": address, "MacAddress": mac });
        engine.call("/NetworkDriver.CreateEndpoint", body)
    };
    for (wrong, expected) in [
        (create("10.77.0.99/24", ""), "was not given out by vrouter-ipam"),
        (create(&two.addresses[0].to_string(), ""), "is in use by endpoint default/router-libnetwork-"),
        (create("", ""), "--ipam-driver vrouter-ipam"),
        (create("x", ""), "Interface.Address: found \"x\""),
        (create("10.77.0.99", "x"), "Interface.MacAddress: found \"x\""),
        (create("10.77.0.99", "ff:ff:ff:ff:ff:ff"), "the address of one interface"),
    ] {
        assert!(wrong.as_ref().is_err_and(|error| error.contains(expected)), "{wrong:?}, not {expected}");
    }
    assert!(engine.refused("/NetworkDriver.Join", endpoint(WEB, &two.endpoint)).contains("joined"));
    let second = Container::created(&topology, &engine, WEB, "second", Value::Null);
    let mut body = endpoint(WEB, &second.endpoint);
    body["SandboxKey"] = json!(netns::path(two.machine.namespace()));
    assert!(engine.refused("/NetworkDriver.Join", body).contains("is in a network of vrouter already"));
    second.delete();
    assert!(engine.release_address("10.77.0.0/24", two.addresses[0]).unwrap_err().contains("is in use by"));
    daemon.cli(&["ipam", "assign", "--handle", "mine", "--ip", "10.77.0.200"]);
    assert!(engine.release_address("10.77.0.0/24", ip("10.77.0.200")).unwrap_err().contains("was left alone"));
    daemon.cli(&["ipam", "release", "--ip", "10.77.0.200"]);
    two.stop();
    engine.delete_network(WEB);
    nothing_is_left(&daemon, &topology, &links);
}
