//! Docker's own engine with our drivers, as a person uses it.
//!
//! ```text
//!     one, two   network shop, label role=web ──┐
//!     three      network any                    ├── router ──up0── far
//! ```

use std::net::IpAddr;

use serde_json::Value;
use tests::containers::{Docker, Host, Runtime, SERVE};
use tests::topology::Topology;

use crate::docker::{ALONE, POOLS, endpoints, killed, nothing_is_left, stand};
use crate::ip;

/// Who has the network's label hears those that have none.
const ONLY_STRANGERS: &str = "
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: { name: strangers }
spec: { selector: role == 'web', types: [Ingress], ingress: [{ action: Allow, source: { selector: '!has(role)' } }] }
";

const NETWORK: [&str; 6] = ["network", "create", "--driver", "vrouter", "--ipam-driver", "vrouter-ipam"];

/// What Docker says of a container's place in a network.
fn told(docker: &Docker, container: &str, network: &str) -> Value {
    let text = docker.cli(&["inspect", container, "--format", "{{json .NetworkSettings.Networks}}"]);
    serde_json::from_str::<Value>(&text).unwrap()[network].clone()
}

/// The address of a container, which Docker and the container agree on.
fn address(docker: &Docker, container: &str, network: &str) -> IpAddr {
    let told = told(docker, container, network);
    let text = told["IPAddress"].as_str().unwrap();
    let inside = docker.addresses(container, "eth0");
    assert!(inside.iter().any(|address| address.split('/').next() == Some(text)), "{text}: {inside:?}");
    assert_eq!(told["Gateway"], "169.254.1.1");
    ip(text)
}

/// `IPv6` of the same.
fn address_ipv6(docker: &Docker, container: &str, network: &str) -> IpAddr {
    ip(told(docker, container, network)["GlobalIPv6Address"].as_str().unwrap())
}

#[test]
fn containers_of_docker_talk_as_policy_says_and_leave_nothing() {
    let Some(topology) = Topology::up("engine", ALONE) else { return };
    let (mut daemon, engine) = stand(&topology);
    daemon.apply(POOLS);
    let host = Host::start(&topology);
    for name in ["vrouter", "vrouter-ipam"] {
        Docker::driver(&host, name, &engine.socket.with_file_name(format!("{name}.sock")));
    }
    let mut docker = Docker::start(&host);
    let links = crate::docker::names(&topology.node());
    let of_shop = ["--subnet", "10.77.0.0/24", "--ipv6", "--subnet", "fd77::/112", "--opt", "label.role=web", "shop"];
    docker.cli(&[&NETWORK[..], &of_shop].concat());
    docker.cli(&[&NETWORK[..], &["any"]].concat());
    for (wrong, expected) in [
        (["--subnet", "10.99.0.0/24", "--label", "x=y"], "expected the CIDR of an enabled IPPool: 10.77.0.0/24"),
        (["--subnet", "10.77.0.0/24", "--gateway", "10.77.0.1"], "--gateway"),
        (["--subnet", "10.77.0.0/24", "--ip-range", "10.77.0.0/25"], "--ip-range"),
        (["--subnet", "10.77.0.0/24", "--opt", "colour=red"], "option: found \"colour\""),
    ] {
        let output = docker.command(&[&NETWORK[..], &wrong, &["bad"]].concat()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(expected), "{wrong:?}: {said}");
    }

    docker.run("one", "shop", &["--publish", "8080:80"], &SERVE).unwrap();
    docker.run("two", "shop", &["--ip", "10.77.0.200"], &SERVE).unwrap();
    docker.run("three", "any", &["--mac-address", "02:42:aa:00:00:07"], &SERVE).unwrap();
    let (one, two) = (address(&docker, "one", "shop"), address(&docker, "two", "shop"));
    assert_eq!(two, ip("10.77.0.200"));
    assert_eq!(told(&docker, "three", "any")["MacAddress"], "02:42:aa:00:00:07");
    docker.until_pings("one", two);
    docker.until_pings("two", address_ipv6(&docker, "one", "shop"));
    assert!(docker.is_served("two", one) && !docker.is_served("three", one));
    let prepared = daemon.cli(&["show", "interfaces", "-o", "wide"]);
    assert!(!prepared.contains('!'), "{prepared}");

    daemon.apply(ONLY_STRANGERS);
    assert!(docker.is_served("three", one) && !docker.is_served("two", one));
    daemon.cli(&["delete", "gnp", "strangers"]);
    assert!(docker.is_served("two", one) && !docker.is_served("three", one));

    // Neither asks the other anything when it is started again.
    daemon = killed(&topology, daemon);
    docker.until_pings("one", two);
    docker.until_pings("two", one);
    docker.restart();
    // Its containers have died, and their endpoints and addresses with them.
    assert_eq!(endpoints(&daemon), [Value::Null; 0]);
    assert!(!daemon.cli(&["get", "ipamhandle"]).contains("libnetwork"));
    docker.cli(&["start", "one", "two"]);
    docker.until_pings("one", two);

    for name in ["one", "two", "three"] {
        docker.stop(name).unwrap();
        docker.remove(name).unwrap();
    }
    docker.cli(&["network", "rm", "shop", "any"]);
    nothing_is_left(&daemon, &topology, &links);
    assert_eq!(daemon.cli(&["get", "profile"]).matches("docker-").count(), 0);
}
