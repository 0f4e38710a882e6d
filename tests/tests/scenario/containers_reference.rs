//! The stand for runtimes, proved with plugins that are not ours: Debian's bridge and host-local.
//!
//! ```text
//!     one (containerd) ──┐
//!     two (podman) ──────┼── bridge ref0 ── router
//!     three (docker)       by itself: without remote drivers it has no network here
//! ```

use std::path::Path;
use std::time::{Duration, Instant};

use control::host::netns;
use serde_json::{Value, json};
use tests::cni::Call;
use tests::containers::host::REFERENCE_PLUGINS;
use tests::containers::{Containerd, Docker, Host, Podman, Runtime, SERVE};
use tests::topology::Topology;

use crate::{TWO_AND_FAR, ip};

const REFERENCE: &str = r#"{"cniVersion": "1.0.0", "name": "reference", "plugins": [
    {"type": "bridge", "bridge": "ref0", "isGateway": true, "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.67.0.0/24"}]],
     "routes": [{"dst": "0.0.0.0/0"}]}}]}"#;

#[test]
fn containers_of_three_runtimes_talk_and_leave_nothing() {
    let Some(topology) = Topology::up("reference", TWO_AND_FAR) else { return };
    let before = netns::list().unwrap();
    let host = Host::start(&topology);
    host.reference_plugins();
    host.network("reference", REFERENCE);
    let links = host.links();
    let (containerd, podman, docker) = (Containerd::start(&host), Podman::start(&host), Docker::start(&host));
    containerd.run("one", "reference", &[], &SERVE).unwrap();
    podman.run("two", "reference", &[], &SERVE).unwrap();
    docker.run("three", "none", &[], &SERVE).unwrap();
    let address = |addresses: Vec<String>| ip(addresses[0].split('/').next().unwrap());
    let (one, two) = (address(containerd.addresses("one", "eth0")), address(podman.addresses("two", "eth0")));
    containerd.until_pings("one", two);
    podman.until_pings("two", one);
    containerd.until_served("one", two);
    podman.until_served("two", one);
    assert!(docker.addresses("three", "lo")[0].starts_with("127."));
    assert_eq!(host.namespaces().len(), 1, "podman's is seen from outside");

    containerd.stop("one").unwrap();
    podman.remove("two").unwrap();
    docker.remove("three").unwrap();
    topology.node().run("ip link delete dev ref0");
    assert_eq!(host.traces(&links), Vec::<String>::new());
    assert!(podman.run("two", "no-such-network", &[], &SERVE).is_err());
    // What runs now goes with the host.
    podman.run("four", "reference", &[], &SERVE).unwrap();
    containerd.run("five", "reference", &[], &SERVE).unwrap();
    drop((containerd, podman, docker));
    drop(host);
    let is_new = |name: &String| name.starts_with("netns-") && !before.contains(name);
    assert_eq!(netns::list().unwrap().into_iter().find(is_new), None);
}

/// What our plugin is compared with; printed, not judged.
#[test]
fn the_reference_plugins_are_measured() {
    let Some(topology) = Topology::up("measured", TWO_AND_FAR) else { return };
    let folder = topology.folder();
    let config = json!({"cniVersion": "1.0.0", "name": "reference", "type": "bridge", "bridge": "ref0", "isGateway": true,
        "ipam": {"type": "host-local", "dataDir": folder.join("addresses"), "ranges": [[{"subnet": "10.67.0.0/24"}]]}});
    let plugin = Path::new(REFERENCE_PLUGINS).join("bridge");
    println!("bridge + host-local: {}", measure(&topology, &[], &plugin, &config));
}

/// How long it takes until an ADD is answered, and a DEL, called directly, one after the other.
pub fn measure(topology: &Topology, environment: &[String], plugin: &Path, config: &Value) -> String {
    const TIMES: usize = 50;
    let (mut added, mut deleted) = (Vec::new(), Vec::new());
    for number in 0..TIMES {
        let name = format!("{}-c{number}", topology.node().namespace());
        netns::create(&name).unwrap();
        let path = netns::path(&name);
        let call = |verb: &str, times: &mut Vec<Duration>| {
            let call = Call::new(verb, &name, path.to_str().unwrap(), config);
            let mut entering = topology.node().command("env");
            entering.args(environment);
            let start = Instant::now();
            let answer = call.run(entering, plugin);
            times.push(start.elapsed());
            answer
        };
        let answer = call("ADD", &mut added);
        let deletion = call("DEL", &mut deleted);
        netns::delete(&name).unwrap();
        assert!(answer.result()["ips"][0]["address"].is_string());
        assert!(deletion.is_success(), "{deletion:?}");
    }
    let told = [("ADD", added), ("DEL", deleted)].map(|(verb, mut times)| {
        times.sort();
        let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
        format!("{verb} {TIMES} times, p50 {:.1?}, p99 {:.1?}", at(50), at(99))
    });
    told.join("; ")
}
