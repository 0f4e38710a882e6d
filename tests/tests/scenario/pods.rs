//! Pods by containerd's CRI, called as the kubelet calls it: what they say of themselves arrives, and nothing stays of them.
//!
//! ```text
//!     web      label role=web      address of the pool that it names, and an IPv6 one of some pool ──┐
//!     client   label role=client   the address that it names ────────────────────────────────────────┼── router
//!     other    says nothing        address of some pool ─────────────────────────────────────────────┘
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};

use config::net::Cidr;
use control::http::views::InterfaceView;
use serde_json::{Value, json};
use tests::containers::cri::Pod;
use tests::containers::{Cri, Host, PORT};
use tests::daemon::{self, Daemon, SOON};
use tests::talk::{echo, is_silent, until_connected};
use tests::topology::{Machine, Topology};
use tests::wait;

use crate::cni_cases::{POOLS, addresses_in_use};
use crate::{TWO_AND_FAR, ip};

/// Nobody gets one of its addresses who does not name it.
const CHOSEN: &str = "
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: { name: chosen }
spec: { cidr: 10.67.0.0/26, nodeSelector: '!all()' }
";

const ONLY_CLIENTS: &str = "
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: { name: only-clients, namespace: shop }
spec: { selector: role == 'web', types: [Ingress], ingress: [{ action: Allow, source: { selector: role == 'client' } }] }
";

const WEB: Pod<'_> = Pod {
    namespace: "shop",
    name: "web",
    attempt: 0,
    // Of a pod's own labels a runtime says nothing.
    labels: &[("role", "unheard")],
    annotations: &[
        ("cni.projectcalico.org/ipFamilies", r#"["IPv4", "IPv6"]"#),
        ("cni.projectcalico.org/ipv4pools", r#"["chosen"]"#),
        ("vrouter/labels", r#"{"role": "web"}"#),
        ("somebody.else/key", "value"),
    ],
};

const CLIENT: Pod<'_> = Pod {
    name: "client",
    annotations: &[
        ("cni.projectcalico.org/ipAddrs", r#"["10.66.0.200"]"#),
        ("vrouter/labels", r#"{"role": "client"}"#),
    ],
    ..WEB
};

const OTHER: Pod<'_> = Pod { name: "other", annotations: &[], ..WEB };

/// As the documents say.
fn install(host: &Host, topology: &Topology) {
    let mut command = host.command(daemon::program().get_program().to_str().unwrap());
    command.arg("--socket").arg(topology.folder().join("api.sock")).args(["cni", "install"]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// The endpoints of pods, by the pod's name.
fn endpoints(daemon: &Daemon) -> BTreeMap<String, Value> {
    let list: Value = serde_json::from_str(&daemon.cli(&["get", "wep", "-n", "shop", "-o", "json"])).unwrap();
    let named = |item: &Value| (item["spec"]["pod"].as_str().unwrap().to_owned(), item.clone());
    list["items"].as_array().unwrap().iter().map(named).collect()
}

/// Where a sandbox is, and its first address.
fn place(cri: &Cri<'_>, sandbox: &str) -> (Machine, IpAddr) {
    let status = cri.status(sandbox).unwrap();
    assert!(status.is_ready, "{status:?}");
    (status.machine.unwrap(), status.addresses[0])
}

fn is_served(from: &Machine, to: IpAddr) {
    let mut stream = until_connected(from, SocketAddr::new(to, PORT));
    echo(&mut stream, 4000).unwrap();
}

/// Packets that our workers have taken from pods.
fn packets(daemon: &Daemon) -> u64 {
    let views: Vec<InterfaceView> = daemon.show("interfaces");
    let of_pods = views.iter().filter(|view| view.endpoint.as_ref().is_some_and(|endpoint| endpoint.contains("-k8s-")));
    of_pods.map(|view| view.rx_packets).sum()
}

/// What is left of pods: links, namespaces, endpoints, addresses, and what the runtime has kept for a DEL.
fn left(host: &Host, daemon: &Daemon, links: &std::collections::BTreeSet<String>) -> Vec<String> {
    let mut left = host.traces(links);
    left.extend(endpoints(daemon).into_keys());
    let in_use = addresses_in_use(daemon);
    left.extend((in_use > 0).then(|| format!("{in_use} addresses")));
    let kept = fs::read_dir(host.path("/var/lib/cni/results")).into_iter().flatten().flatten();
    left.extend(kept.map(|entry| entry.path().display().to_string()));
    left
}

#[test]
fn a_pod_gets_what_its_annotations_say_and_policy_knows_its_label() {
    let Some(topology) = Topology::up("cri", TWO_AND_FAR) else { return };
    let daemon = Daemon::start(&topology, &[]);
    daemon.apply(&format!("{POOLS}---{CHOSEN}"));
    let host = Host::start(&topology);
    host.reference_plugins();
    let cri = Cri::start(&host);
    let links = host.links();
    let is_network_ready = || cri.conditions().unwrap()["NetworkReady"];
    assert!(!is_network_ready());
    install(&host, &topology);
    wait::until_true("the network to be ready", SOON, is_network_ready);

    let sandboxes = [WEB, CLIENT, OTHER].map(|pod| cri.run(&pod).unwrap());
    let [(web, web_address), (client, client_address), (other, other_address)] =
        [0, 1, 2].map(|number: usize| place(&cri, &sandboxes[number]));
    assert!(web_address.to_string().starts_with("10.67.0."), "{web_address}");
    assert_eq!(client_address, ip("10.66.0.200"));
    assert!(other_address.to_string().starts_with("10.66.0."), "{other_address}");
    for (pod, sandbox, address, labels) in [
        ("web", &sandboxes[0], web_address, json!({"role": "web"})),
        ("client", &sandboxes[1], client_address, json!({"role": "client"})),
        ("other", &sandboxes[2], other_address, Value::Null),
    ] {
        let endpoint = &endpoints(&daemon)[pod];
        let of_pods: serde_json::Map<String, Value> = endpoint["metadata"]["labels"]
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(name, _)| !name.starts_with("projectcalico.org/"))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        assert_eq!(Value::Object(of_pods), if labels.is_null() { json!({}) } else { labels }, "{endpoint}");
        let spec = &endpoint["spec"];
        assert_eq!(spec["orchestrator"], "k8s", "{endpoint}");
        assert_eq!(spec["profiles"], json!(["kns.shop"]), "{endpoint}");
        assert_eq!(spec["containerID"], json!(sandbox), "{endpoint}");
        let addresses = cri.status(sandbox).unwrap().addresses;
        let networks = addresses.iter().map(|address| Cidr::host(*address).to_string());
        assert_eq!(spec["ipNetworks"], json!(networks.collect::<Vec<_>>()), "{endpoint}");
        assert_eq!((addresses[0], addresses.len()), (address, if pod == "web" { 2 } else { 1 }), "{endpoint}");
    }

    let before = packets(&daemon);
    is_served(&client, web_address);
    is_served(&other, web_address);
    is_served(&web, other_address);
    assert!(packets(&daemon) >= before + 20, "{before} {}", packets(&daemon));
    daemon.apply(ONLY_CLIENTS);
    assert!(is_silent(&other, SocketAddr::new(web_address, PORT)));
    is_served(&client, web_address);
    is_served(&web, other_address);

    // What cannot be had is told to the kubelet, by its name, and nothing stays of who asked.
    let names: Vec<String> = endpoints(&daemon).into_keys().collect();
    for (annotation, value, told) in [
        ("cni.projectcalico.org/ipAddrs", r#"["10.66.0.200"]"#, "10.66.0.200 has an owner already"),
        ("cni.projectcalico.org/ipv4pools", r#"["no-such-pool"]"#, "pool no-such-pool: found no enabled IPPool"),
        ("cni.projectcalico.org/ipAddrs", "10.66.0.201", "ipAddrs: expected a JSON list"),
    ] {
        let error = cri.run(&Pod { name: "refused", annotations: &[(annotation, value)], ..OTHER }).unwrap_err();
        assert!(error.contains(told), "{error}");
    }
    assert_eq!(endpoints(&daemon).into_keys().collect::<Vec<_>>(), names);
    assert_eq!((addresses_in_use(&daemon), host.namespaces().len()), (4, 3));

    for sandbox in &sandboxes {
        cri.stop(sandbox).unwrap();
        assert!(!cri.status(sandbox).unwrap().is_ready);
    }
    assert_eq!(left(&host, &daemon, &links), Vec::<String>::new());
    for sandbox in &sandboxes {
        cri.remove(sandbox).unwrap();
        assert!(cri.status(sandbox).unwrap_err().contains("not found"));
    }
    assert_eq!(left(&host, &daemon, &links), Vec::<String>::new());
}

/// The kubelet makes a new sandbox for a pod, and takes the old one away when it comes to it; also while there is no daemon.
#[test]
fn a_pods_new_sandbox_outlives_the_old_one() {
    let Some(topology) = Topology::up("cri-anew", TWO_AND_FAR) else { return };
    let daemon = Daemon::start(&topology, &[]);
    daemon.apply(&format!("{POOLS}---{CHOSEN}"));
    let host = Host::start(&topology);
    host.reference_plugins();
    install(&host, &topology);
    let cri = Cri::start(&host);
    let links = host.links();
    let client = cri.run(&CLIENT).unwrap();
    let (from, _) = place(&cri, &client);
    let old = cri.run(&WEB).unwrap();
    let (_, old_address) = place(&cri, &old);
    let new = cri.run(&Pod { attempt: 1, ..WEB }).unwrap();
    let (_, address) = place(&cri, &new);
    assert_ne!(address, old_address);
    is_served(&from, address);
    let has_new = |daemon: &Daemon| endpoints(daemon)["web"]["spec"]["containerID"] == json!(new);
    assert!(has_new(&daemon));

    cri.stop(&old).unwrap();
    assert!(has_new(&daemon));
    is_served(&from, address);
    assert_eq!(addresses_in_use(&daemon), 3, "the old one's addresses are free");
    // As often as the kubelet likes.
    cri.stop(&old).unwrap();
    cri.remove(&old).unwrap();
    cri.remove(&old).unwrap();
    is_served(&from, address);

    daemon.kill();
    let error = cri.stop(&new).unwrap_err();
    assert!(error.contains("the vrouter daemon does not answer"), "{error}");
    let error = cri.run(&OTHER).unwrap_err();
    assert!(error.contains("the vrouter daemon does not answer"), "{error}");
    let daemon = Daemon::bare(&topology, &[]);
    // The kubelet goes by what there is; the one that was not made is among them.
    let sandboxes = cri.sandboxes().unwrap();
    assert!(sandboxes.len() == 3 && sandboxes.contains(&new) && sandboxes.contains(&client), "{sandboxes:?}");
    for sandbox in &sandboxes {
        cri.stop(sandbox).unwrap();
        cri.remove(sandbox).unwrap();
    }
    assert_eq!(left(&host, &daemon, &links), Vec::<String>::new());
}
