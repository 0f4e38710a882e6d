//! Containers of real runtimes, attached by our plugin: their packets go through our workers, and nothing stays of them.
//!
//! ```text
//!     one (containerd), two (podman)   network pods,    label app=pod ──┐
//!     three (podman)                   network clients, label app=client├── router ──up0── far
//!     web                              of the lab ──────────────────────┘
//! ```

use std::net::IpAddr;

use serde_json::{Value, json};
use tests::cni::Call;
use tests::containers::{Containerd, Host, Podman, Runtime, SERVE};
use tests::daemon::{self, Daemon, SOON};
use tests::talk::pings;
use tests::topology::Topology;
use tests::wait;

use crate::cni_cases::{POOLS, addresses_in_use, ours, variable};
use crate::containers_reference::measure;
use crate::{FAR, NODE, TWO_AND_FAR, ip};

/// Only clients may come in; that profiles would let others in does not count any more.
const ONLY_CLIENTS: &str = "
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: { name: only-clients }
spec: { selector: app == 'pod', types: [Ingress], ingress: [{ action: Allow, source: { selector: app == 'client' } }] }
";

/// A network whose containers have that label.
fn network(name: &str, label: &str) -> Value {
    json!({"cniVersion": "1.0.0", "name": name, "plugins": [
        {"type": "calico", "labels": {"app": label}, "ipam": {"type": "calico-ipam"}}]})
}

/// The node, its daemon with pools, and a host whose networks are ours.
fn stand(topology: &Topology) -> (Daemon, Host) {
    let daemon = Daemon::start(topology, &[]);
    daemon.apply(POOLS);
    let host = Host::start(topology);
    host.reference_plugins();
    host.our_plugins(topology);
    host.network("pods", &network("pods", "pod").to_string());
    host.network("clients", &network("clients", "client").to_string());
    (daemon, host)
}

/// The address of a container, which is one of the pool's.
fn address(runtime: &impl Runtime, name: &str) -> IpAddr {
    let addresses = runtime.addresses(name, "eth0");
    let [address] = &addresses[..] else { panic!("{name}: {addresses:?}") };
    assert!(address.starts_with("10.66.0.") && (address.ends_with("/32") || !address.contains('/')), "{address}");
    ip(address.split('/').next().unwrap())
}

/// Endpoints that a runtime has, by name.
fn endpoints(daemon: &Daemon) -> Vec<String> {
    let text = daemon.cli(&["get", "wep", "-A", "-o", "json"]);
    let list: Value = serde_json::from_str(&text).unwrap();
    let names = list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap());
    names.filter(|name| name.contains("-cni-")).map(str::to_owned).collect()
}

/// Packets that our workers have taken from containers, and given to them.
fn packets(daemon: &Daemon) -> (u64, u64) {
    let of_containers = daemon.show("interfaces").into_iter().filter(|view: &control::http::views::InterfaceView| {
        view.endpoint.as_ref().is_some_and(|endpoint| endpoint.contains("-cni-"))
    });
    of_containers.fold((0, 0), |(taken, given), view| (taken + view.rx_packets, given + view.tx_packets))
}

#[test]
fn containers_of_two_runtimes_talk_through_our_workers_as_policy_says() {
    let Some(topology) = Topology::up("pods", TWO_AND_FAR) else { return };
    let (daemon, host) = stand(&topology);
    topology.at("far").run(&format!("ip route add 10.66.0.0/24 via {}", NODE[0]));
    let links = host.links();
    let (containerd, podman) = (Containerd::start(&host), Podman::start(&host));
    containerd.run("one", "pods", &[], &SERVE).unwrap();
    podman.run("two", "pods", &[], &SERVE).unwrap();
    podman.run("three", "clients", &[], &SERVE).unwrap();
    let (one, two) = (address(&containerd, "one"), address(&podman, "two"));
    let three = address(&podman, "three");
    assert_eq!(addresses_in_use(&daemon), 3);
    assert_eq!(endpoints(&daemon).len(), 3, "{:?}", endpoints(&daemon));

    let before = packets(&daemon);
    containerd.until_pings("one", two);
    podman.until_pings("two", one);
    containerd.until_served("one", two);
    podman.until_served("two", one);
    containerd.until_pings("one", ip(FAR[0]));
    // By its profile a network is for its own.
    assert!(!pings(&topology.at("far"), one));
    let after = packets(&daemon);
    assert!(after.0 >= before.0 + 20 && after.1 >= before.1 + 20, "{before:?} {after:?}");

    assert!(!podman.is_served("three", two));
    daemon.apply(ONLY_CLIENTS);
    podman.until_served("three", two);
    podman.until_served("three", one);
    assert!(!containerd.is_served("one", two));
    assert!(!podman.is_served("two", one));
    daemon.cli(&["delete", "gnp", "only-clients"]);
    containerd.until_served("one", two);
    assert!(!podman.is_served("three", two));

    containerd.stop("one").unwrap();
    podman.stop("two").unwrap();
    assert_eq!(endpoints(&daemon).len(), 1, "{:?}", endpoints(&daemon));
    podman.remove("two").unwrap();
    podman.remove("three").unwrap();
    assert_eq!(endpoints(&daemon), Vec::<String>::new());
    assert_eq!(addresses_in_use(&daemon), 0);
    assert_eq!(host.traces(&links), Vec::<String>::new());
    // The block stays the node's; nobody's address is in it.
    let routes = topology.node().run("ip route show table all");
    let has_route = |address: &IpAddr| routes.contains(&format!("{address} "));
    assert!(![one, two, three].iter().any(has_route), "{routes}");
}

#[test]
fn the_daemon_is_killed_and_its_containers_stay() {
    let Some(topology) = Topology::up("pods-kill", TWO_AND_FAR) else { return };
    let (daemon, host) = stand(&topology);
    let links = host.links();
    let (containerd, podman) = (Containerd::start(&host), Podman::start(&host));
    containerd.run("one", "pods", &[], &SERVE).unwrap();
    podman.run("two", "pods", &[], &SERVE).unwrap();
    let (one, two) = (address(&containerd, "one"), address(&podman, "two"));
    daemon.kill();
    // Nobody is attached by nobody, and nothing stays of who tried.
    let error = podman.run("three", "pods", &[], &SERVE).unwrap_err();
    assert!(error.contains("the vrouter daemon does not answer"), "{error}");
    let daemon = Daemon::bare(&topology, &[]);
    containerd.until_pings("one", two);
    podman.until_pings("two", one);
    podman.remove("three").unwrap();
    podman.run("three", "pods", &[], &SERVE).unwrap();
    podman.until_pings("three", one);
    // Power is lost for the one: nobody calls DEL, until a runtime tells what it has.
    containerd.abandon("one");
    let config = json!({"cniVersion": "1.1.0", "name": "pods", "type": "calico", "ipam": {"type": "calico-ipam"},
        "cni.dev/valid-attachments": valid(&podman, &["two", "three"])});
    let mut entering = topology.node().command("env");
    entering.arg(variable(&topology));
    let answer = Call::new("GC", "x", "", &config).run(entering, &ours(&topology, "calico"));
    assert!(answer.is_success(), "{answer:?}");
    assert_eq!(endpoints(&daemon).len(), 2, "{:?}", endpoints(&daemon));
    assert_eq!(addresses_in_use(&daemon), 2);
    podman.until_pings("three", two);
    for name in ["two", "three"] {
        podman.remove(name).unwrap();
    }
    assert_eq!(addresses_in_use(&daemon), 0);
    assert_eq!(host.traces(&links), Vec::<String>::new());
}

/// What a runtime would say is there.
fn valid(podman: &Podman, names: &[&str]) -> Value {
    let id = |name: &&str| {
        let output = podman.command(&["inspect", "--format", "{{.Id}}", name]).output().unwrap();
        json!({"containerID": String::from_utf8(output.stdout).unwrap().trim(), "ifname": "eth0"})
    };
    names.iter().map(id).collect()
}

#[test]
fn an_address_of_choice_and_a_second_network() {
    let Some(topology) = Topology::up("pods-more", TWO_AND_FAR) else { return };
    let (daemon, host) = stand(&topology);
    let podman = Podman::start(&host);
    podman.run("one", "pods", &["--ip", "10.66.0.77"], &SERVE).unwrap();
    assert_eq!(address(&podman, "one"), ip("10.66.0.77"));
    let error = podman.run("two", "pods", &["--ip", "10.66.0.77"], &SERVE).unwrap_err();
    assert!(error.contains("10.66.0.77"), "{error}");
    podman.remove("two").unwrap();
    let second = ["--network", "clients:interface_name=eth1"];
    podman.run("two", "pods:interface_name=eth0", &second, &SERVE).unwrap();
    assert_eq!(endpoints(&daemon).len(), 3, "{:?}", endpoints(&daemon));
    address(&podman, "two");
    assert_eq!(podman.addresses("two", "eth1").len(), 1);
    podman.until_pings("two", ip("10.66.0.77"));
    // The second interface is behind the first one, and its own network's.
    podman.run("three", "clients", &[], &SERVE).unwrap();
    let three = address(&podman, "three").to_string();
    assert!(!podman.is_served("two", ip(&three)));
    let by_second = ["ping", "-c", "1", "-W", "1", "-I", "eth1", &three];
    wait::until_true("a ping by eth1", SOON, || podman.exec("two", &by_second).status.success());
    podman.remove("three").unwrap();
    podman.remove("one").unwrap();
    podman.remove("two").unwrap();
    assert_eq!(endpoints(&daemon), Vec::<String>::new());
    assert_eq!(addresses_in_use(&daemon), 0);
}

/// The two commands of the documents, and a runtime that knows nothing else.
#[test]
fn what_cni_install_puts_there_is_enough() {
    let Some(topology) = Topology::up("pods-install", TWO_AND_FAR) else { return };
    let daemon = Daemon::start(&topology, &[]);
    daemon.apply(POOLS);
    let host = Host::start(&topology);
    let install = |verb: &str| {
        let mut command = host.command(daemon::program().get_program().to_str().unwrap());
        command.arg("--socket").arg(topology.folder().join("api.sock")).args(["cni", verb]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let said = install("install");
    assert!(said.contains("/opt/cni/bin/vrouter-cni") && said.contains("/etc/cni/net.d/10-vrouter.conflist"), "{said}");
    let (containerd, podman) = (Containerd::start(&host), Podman::start(&host));
    containerd.run("one", "10-vrouter", &[], &SERVE).unwrap();
    podman.run("two", "vrouter", &[], &SERVE).unwrap();
    podman.until_pings("two", address(&containerd, "one"));
    containerd.stop("one").unwrap();
    podman.remove("two").unwrap();
    assert_eq!(addresses_in_use(&daemon), 0);
    assert_eq!(install("uninstall").lines().count(), 3);
}

/// Beside what `containers_reference.rs` prints; not judged.
#[test]
fn our_plugin_is_measured() {
    let Some(topology) = Topology::up("pods-time", TWO_AND_FAR) else { return };
    let daemon = Daemon::start(&topology, &[]);
    daemon.apply(POOLS);
    let config = json!({"cniVersion": "1.0.0", "name": "pods", "type": "calico", "ipam": {"type": "calico-ipam"}});
    println!("calico: {}", measure(&topology, &[variable(&topology)], &ours(&topology, "calico"), &config));
    assert_eq!(addresses_in_use(&daemon), 0);
}
