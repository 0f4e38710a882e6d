//! Workloads have addresses from a DHCP server upstream, by the relay: as containers of the `dhcp` address plugin, and by themselves.
//!
//! ```text
//!     container ── vrouter-cni ─▶ dhcp ─▶ dhcp daemon, which asks in the container's namespace
//!     web (busybox udhcpc) ──┐
//!     container ─────────────┴── router 192.0.2.1 ──up0── far 192.0.2.2: a DHCP server of 10.77.0.0/24
//! ```

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use control::host::netns;
use control::http::views::{DhcpView, StatusView};
use dhcproto::v4::MessageType;
use serde_json::{Value, json};
use tests::cni::{Answer, Call};
use tests::containers::host::REFERENCE_PLUGINS;
use tests::daemon::{Daemon, SOON};
use tests::dhcp::Server;
use tests::packet::Packet;
use tests::talk::Wire;
use tests::topology::{Running, Topology, said};
use tests::wait;

use crate::TWO_AND_FAR;
use crate::cni_cases::ours;

const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const OWN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const LINK: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const RELAY: [&str; 4] = ["--dhcp-servers", "192.0.2.2", "--dhcp-link-selection", "10.77.0.1"];
/// As short as the reference client takes in earnest.
const LEASE: Duration = Duration::from_secs(4);

struct Stand {
    daemon: Option<Daemon>,
    plugin: PathBuf,
    /// The plugin's own daemon, which keeps leases.
    _keeper: Running,
    topology: Topology,
}

impl Stand {
    /// `patience`: how long the plugin's daemon waits for an answer, of which it waits for several.
    fn up(name: &str, settings: &[&str], patience: &str) -> Option<Stand> {
        let topology = Topology::up(name, TWO_AND_FAR)?;
        topology.at("far").run("ip route add 10.77.0.0/24 via 192.0.2.1");
        let daemon = Daemon::start(&topology, settings);
        let socket = topology.folder().join("dhcp.sock");
        let keeper = topology.node().start(&format!(
            "{REFERENCE_PLUGINS}/dhcp daemon -socketpath {} -timeout {patience} -resendmax 1s",
            socket.display()
        ));
        wait::until_true("the plugin's daemon", SOON, || socket.exists());
        let plugin = ours(&topology, "vrouter-cni");
        Some(Stand { daemon: Some(daemon), plugin, _keeper: keeper, topology })
    }

    fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().unwrap()
    }

    fn call(&self, verb: &str, container: &Container, previous: Option<&Value>) -> Answer {
        let folder = self.topology.folder();
        let mut config = json!({
            "cniVersion": "1.0.0", "name": "leased", "type": "vrouter-cni", "socket": folder.join("api.sock"),
            "ipam": { "type": "dhcp", "daemonSocketPath": folder.join("dhcp.sock") },
        });
        if let Some(previous) = previous {
            config["prevResult"] = previous.clone();
        }
        let path = netns::path(&container.0).display().to_string();
        Call::new(verb, &container.0, &path, &config).run(self.topology.node().command("env"), &self.plugin)
    }

    /// The address in the result, as /32.
    #[track_caller]
    fn add(&self, container: &Container) -> (Value, Ipv4Addr) {
        let answer = self.call("ADD", container, None);
        assert!(answer.is_success(), "{answer:?}\n{}", self.daemon().log());
        let result = answer.result();
        let address = result["ips"][0]["address"].as_str().unwrap().strip_suffix("/32").unwrap().parse().unwrap();
        (result, address)
    }

    fn dhcp(&self) -> DhcpView {
        let status: StatusView = serde_json::from_str(&self.daemon().cli(&["show", "status", "-o", "json"])).unwrap();
        status.dhcp.unwrap()
    }

    fn refused(&self, reason: &str) -> u64 {
        self.dhcp().refused.iter().filter(|refused| refused.reason == reason).map(|refused| refused.packets).sum()
    }

    /// Nothing of a container is there.
    #[track_caller]
    fn is_empty(&self, container: &Container) {
        assert!(!container.run("ip link show dev eth0").status.success(), "eth0 is still there");
        assert!(!self.topology.node().run("ip -d link show").contains("alias vrouter:"));
        assert_eq!(self.daemon().cli(&["endpoint", "list", "-o", "json"]).trim(), "[]");
    }
}

/// A namespace, gone when this is dropped.
struct Container(String);

impl Container {
    fn new(name: &str) -> Container {
        netns::delete(name).unwrap();
        netns::create(name).unwrap();
        Container(name.to_owned())
    }

    fn run(&self, line: &str) -> std::process::Output {
        std::process::Command::new("ip").args(["netns", "exec", &self.0]).args(line.split(' ')).output().unwrap()
    }

    #[track_caller]
    fn pings(&self, address: Ipv4Addr) {
        let output = self.run(&format!("ping -n -q -c 1 -W 2 {address}"));
        assert!(output.status.success(), "{}", said(&output));
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = netns::delete(&self.0);
    }
}

/// ADD, CHECK, renewals also when the router has been killed, and DEL, which gives the address back.
#[test]
fn a_container_has_a_lease_as_long_as_it_lives() {
    let Some(mut stand) = Stand::up("dhcp-lease", &RELAY, "2s") else { return };
    let server = Server::start(&stand.topology.at("far"), SERVER, LEASE);
    let container = Container::new("dhcp-lease-c");
    let started = Instant::now();
    let (result, address) = stand.add(&container);
    println!("ADD by DHCP took {:.0?}", started.elapsed());
    assert_eq!(server.leases(), [address]);
    let host_side = result["interfaces"][0]["name"].as_str().unwrap();
    let first = &server.questions()[0];
    assert_eq!((first.kind, first.relay, first.hops, first.link), (MessageType::Discover, OWN, 1, Some(LINK)));
    assert_eq!(first.circuit, host_side);
    container.pings(SERVER);
    let answer = stand.call("CHECK", &container, Some(&result));
    assert!(answer.is_success(), "{answer:?}");

    let renewals = || server.questions().into_iter().filter(|question| question.client == address).count();
    wait::until_true("two renewals", SOON, || renewals() >= 2);
    container.pings(SERVER);
    assert_eq!(server.leases(), [address]);

    stand.daemon.take().unwrap().kill();
    stand.daemon = Some(Daemon::bare(&stand.topology, &RELAY));
    let before = renewals();
    wait::until_true("a renewal after a restart", SOON, || renewals() > before);
    container.pings(SERVER);

    let answer = stand.call("DEL", &container, None);
    assert!(answer.is_success(), "{answer:?}");
    wait::until_true("the release", SOON, || server.leases().is_empty());
    stand.is_empty(&container);
    assert!(stand.call("DEL", &container, None).is_success(), "once more");
    let view = stand.dhcp();
    assert!(view.requests >= 2 && view.replies >= 1, "{view:?}");
    assert_eq!(view.refused.iter().map(|refused| refused.packets).sum::<u64>(), 0, "{view:?}");
}

/// A server that people run: leases from the subnet that the link selection names, and takes them back.
#[test]
fn leases_of_dnsmasq() {
    let Some(stand) = Stand::up("dhcp-dnsmasq", &RELAY, "2s") else { return };
    let leases = stand.topology.folder().join("leases");
    let _server = stand.topology.at("far").start(&format!(
        "/usr/sbin/dnsmasq --no-daemon --conf-file=/dev/null --port=0 --user=root --no-ping --bind-interfaces \
         --listen-address=192.0.2.2 --dhcp-authoritative --dhcp-range=10.77.0.50,10.77.0.60,255.255.255.0,120s --dhcp-leasefile={}",
        leases.display()
    ));
    let container = Container::new("dhcp-dnsmasq-c");
    let (_, address) = stand.add(&container);
    assert_eq!(address.octets()[..3], [10, 77, 0]);
    container.pings(SERVER);
    let kept = || fs::read_to_string(&leases).unwrap_or_default();
    wait::until_true("the lease to be kept", SOON, || kept().contains(&address.to_string()));
    assert!(stand.call("DEL", &container, None).is_success());
    wait::until_true("the lease to be given back", SOON, || !kept().contains(&address.to_string()));
    stand.is_empty(&container);
}

/// Another client, by itself: answers that are broadcast and such that are not, and a release.
#[test]
fn a_workload_asks_by_itself() {
    let Some(stand) = Stand::up("dhcp-client", &RELAY, "2s") else { return };
    let server = Server::start(&stand.topology.at("far"), SERVER, Duration::from_secs(60));
    let web = stand.topology.at("web");
    for flags in ["", "-B"] {
        let line = format!("busybox udhcpc -i eth0 -f -n -q -t 3 -T 1 -s /bin/true {flags}");
        let text = web.run(line.trim());
        assert!(text.contains("lease of 10.77.0.10 obtained from 192.0.2.2"), "{text}");
    }
    assert!(server.questions().iter().all(|question| question.circuit == "caliweb"), "{:?}", server.questions());

    let told = stand.daemon().attempt(&[
        "trace",
        "--from",
        "default/web",
        "--src",
        "0.0.0.0",
        "--dst",
        "255.255.255.255",
        "--udp",
        "67:68",
    ]);
    assert!(said(&told).contains("=> punt: dhcp"), "{}", said(&told));

    // Where a host endpoint lets nothing but its failsafe ports through: that to servers is one of them.
    stand.daemon().apply(
        "
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: { name: up0 }
spec: { node: router, interfaceName: up0 }
",
    );
    let text = web.run("busybox udhcpc -i eth0 -f -n -q -t 3 -T 1 -s /bin/true");
    assert!(text.contains("lease of 10.77.0.10 obtained"), "{text}");

    // In another's name, as another relay, and as a server; without end.
    let wire = Wire::at(&web, "eth0");
    let asked = server.questions().len();
    let question = |chaddr: [u8; 6], giaddr: [u8; 4], op: u8| {
        let mut message = vec![0; 236];
        message[..3].copy_from_slice(&[op, 1, 6]);
        message[24..28].copy_from_slice(&giaddr);
        message[28..34].copy_from_slice(&chaddr);
        message.extend([99, 130, 83, 99, 53, 1, 1, 255]);
        let network = Packet::new("0.0.0.0", "255.255.255.255").udp(68, 67).payload(&message).bytes();
        [&[0xff; 6][..], &wire.mac(), &[8, 0], &network].concat()
    };
    wire.send(&question([2, 9, 9, 9, 9, 9], [0; 4], 1));
    wire.send(&question(wire.mac(), [192, 0, 2, 1], 1));
    wire.send(&question(wire.mac(), [0; 4], 2));
    wait::until_true("three refusals", SOON, || {
        let all = ["client_spoofed", "relayed_already", "wrong_direction"].map(|reason| stand.refused(reason));
        all == [1, 1, 1]
    });
    let flood = question([2, 9, 9, 9, 9, 9], [0; 4], 1);
    let started = Instant::now();
    (0..1000).for_each(|_| wire.send(&flood));
    // What the ring has no room for the kernel drops.
    wait::until_true("the limit", SOON, || stand.daemon().drops("punt_rate_limited").0 > 50);
    let heard = stand.refused("client_spoofed") - 1;
    assert!(heard <= 20 + 10 * started.elapsed().as_secs(), "{heard} in {:?}", started.elapsed());
    assert_eq!(server.questions().len(), asked);
}

#[test]
fn without_servers_an_add_is_refused_at_once() {
    let Some(stand) = Stand::up("dhcp-off", &[], "2s") else { return };
    let container = Container::new("dhcp-off-c");
    let started = Instant::now();
    let answer = stand.call("ADD", &container, None);
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    let error = answer.json().unwrap();
    assert_eq!((answer.is_success(), error["code"].as_u64()), (false, Some(7)), "{error}");
    assert!(error["details"].as_str().unwrap().contains("dhcpServers"), "{error}");
    stand.is_empty(&container);
}

/// Nobody answers; and what keeps the relay from asking is said, and is over when it is over.
#[test]
fn a_server_that_is_away_leaves_nothing_and_nor_does_a_port_that_is_taken() {
    let Some(stand) = Stand::up("dhcp-away", &RELAY, "200ms") else { return };
    let container = Container::new("dhcp-away-c");
    let started = Instant::now();
    let answer = stand.call("ADD", &container, None);
    println!("ADD without a server: {:.1?}, {}", started.elapsed(), answer.stdout);
    assert!(!answer.is_success() && started.elapsed() < Duration::from_secs(15), "{answer:?}");
    assert_eq!(answer.json().unwrap()["code"], 11, "{answer:?}");
    stand.is_empty(&container);
    assert!(stand.dhcp().requests > 0);
    drop(stand);

    let Some(topology) = Topology::up("dhcp-taken", TWO_AND_FAR) else { return };
    let other = topology.node().within(|| UdpSocket::bind((OWN, 67)).unwrap());
    let daemon = Daemon::start(&topology, &RELAY);
    let status = || daemon.cli(&["show", "status"]);
    wait::until_true("the problem", SOON, || status().contains("listen on UDP 192.0.2.1:67: Address already in use"));
    let plugin = ours(&topology, "vrouter-cni");
    let config = json!({ "cniVersion": "1.0.0", "name": "leased", "socket": topology.folder().join("api.sock"), "ipam": { "type": "dhcp" } });
    let call = Call::new("ADD", "c", &netns::path(&container.0).display().to_string(), &config);
    let answer = call.run(topology.node().command("env"), &plugin);
    let error = answer.json().unwrap();
    assert_eq!(error["code"], 11, "{error}");
    assert!(error["details"].as_str().unwrap().contains("192.0.2.1:67"), "{error}");
    drop(other);
    wait::until_true("the port", SOON, || !status().contains("DHCP relay"));
}
