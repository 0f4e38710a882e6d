//! Containers come and go by the plugin: nobody is let through before policy is in force, nothing stays, whoever dies half way.
//!
//! ```text
//!     attach-router: vrouter run ◀─unix socket─ vrouter-cni, as a runtime starts it
//!     attach-c0, attach-c1, …     namespaces without interfaces, as a runtime makes them
//! ```

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use control::host::netns;
use control::ipam::call::PoolsView;
use control::workload::call::Attachment;
use serde_json::{Value, json};
use tests::cni::{Answer, Call};
use tests::daemon::{self, Daemon, SOON};
use tests::topology::{Machine, Topology};
use tests::wait;

/// One endpoint that was there before, and stays.
const LAB: &str = "
endpoints:
- name: before
  interface: calibefore
  addresses: [10.1.0.2]
";
const POOLS: &str = "
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: { name: main }
spec: { cidr: 10.65.0.0/16 }
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: { name: six }
spec: { cidr: fd65::/112 }
";

/// How many are added and taken away again, and how many at the same time; an ordinary run has fewer.
const CYCLES: usize = 40;
const TOGETHER: usize = 32;
/// Times that somebody is killed.
const KILLS: u64 = 12;
/// How many are attached beside GC.
const COLLECTED: usize = 12;

fn count_of(variable: &str, ordinary: usize) -> usize {
    std::env::var(variable).map_or(ordinary, |text| text.parse().expect("a number"))
}

struct Node {
    daemon: Option<Daemon>,
    plugin: PathBuf,
    topology: Topology,
}

/// A namespace, gone when this is dropped.
pub struct Container(String);

impl Container {
    pub fn new(name: &str) -> Container {
        netns::create(name).unwrap();
        Container(name.to_owned())
    }

    pub fn name(&self) -> String {
        self.0.clone()
    }

    pub fn path(&self) -> String {
        netns::path(&self.0).display().to_string()
    }

    fn run(&self, line: &str) -> std::process::Output {
        Command::new("ip").args(["netns", "exec", &self.0]).args(line.split(' ')).output().unwrap()
    }

    fn can_ping(&self, address: &str) -> bool {
        self.run(&format!("ping -n -q -c 1 -W 1 {address}")).status.success()
    }

    /// Names of its interfaces, but for lo.
    fn links(&self) -> Vec<String> {
        links(&self.0)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = netns::delete(&self.0);
    }
}

fn links(namespace: &str) -> Vec<String> {
    let output = Command::new("ip").args(["-n", namespace, "-j", "link"]).output().unwrap();
    let links: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    links.iter().map(|link| link["ifname"].as_str().unwrap().to_owned()).filter(|name| name != "lo").collect()
}

impl Node {
    fn up(name: &str) -> Option<Node> {
        let topology = Topology::up(name, LAB)?;
        let plugin = topology.folder().join("vrouter-cni");
        std::os::unix::fs::symlink(daemon::program().get_program(), &plugin).unwrap();
        let daemon = Daemon::start(&topology, &["--uplinks", ""]);
        daemon.apply(POOLS);
        Some(Node { daemon: Some(daemon), plugin, topology })
    }

    fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().unwrap()
    }

    fn call(&self, verb: &str, container: &str, netns: &str, change: impl FnOnce(&mut Call, &mut Value)) -> Answer {
        call(&self.topology.node(), &self.plugin, &self.topology.folder(), verb, container, netns, change)
    }

    fn add(&self, container: &Container) -> Value {
        self.call("ADD", &container.0, &container.path(), |_, _| {}).result()
    }

    fn del(&self, container: &Container) {
        let answer = self.call("DEL", &container.0, &container.path(), |_, _| {});
        assert!(answer.is_success(), "{answer:?}");
    }

    /// Nothing of any container is there.
    #[track_caller]
    fn is_empty(&self) {
        let left = self.left();
        assert!(left.is_empty(), "{left:?}\n{}", self.daemon().log());
    }

    fn left(&self) -> Vec<String> {
        let mut left: Vec<String> = links(self.topology.node().namespace())
            .into_iter()
            .filter(|name| name.starts_with("cali") && name != "calibefore")
            .collect();
        let attached: Vec<Attachment> = self.json(&["endpoint", "list"]);
        left.extend(attached.into_iter().map(|attachment| attachment.endpoint));
        let pools: PoolsView = self.json(&["ipam", "show"]);
        let in_use: u64 = pools.pools.iter().map(|pool| pool.counts.in_use).sum();
        left.extend((in_use > 0).then(|| format!("{in_use} addresses")));
        let routes = self.topology.node().run("ip route show 10.65.0.0/16");
        left.extend(routes.lines().filter(|line| !line.contains("blackhole")).map(str::to_owned));
        let attached = self.daemon().show::<Value>("interfaces");
        let names = attached.iter().filter_map(|view| view["name"].as_str());
        left.extend(names.filter(|name| name.starts_with("cali") && *name != "calibefore").map(str::to_owned));
        left
    }

    fn json<T: serde::de::DeserializeOwned>(&self, question: &[&str]) -> T {
        serde_json::from_str(&self.daemon().cli(&[question, &["-o", "json"]].concat())).unwrap()
    }
}

pub fn call(
    node: &Machine,
    plugin: &Path,
    folder: &Path,
    verb: &str,
    container: &str,
    netns: &str,
    change: impl FnOnce(&mut Call, &mut Value),
) -> Answer {
    let mut config = json!({
        "cniVersion": "1.0.0", "name": "pods", "type": "vrouter-cni", "socket": folder.join("api.sock"),
        "ipam": { "type": "vrouter-ipam", "assign_ipv6": true },
    });
    let mut call = Call::new(verb, container, netns, &Value::Null);
    change(&mut call, &mut config);
    call.config = config.to_string().into_bytes();
    call.run(node.command("env"), plugin)
}

fn address(result: &Value) -> &str {
    result["ips"][0]["address"].as_str().unwrap().split('/').next().unwrap()
}

/// From the moment that ADD has answered, and also before: what policy denies never arrives.
#[test]
fn policy_is_in_force_before_an_add_has_answered() {
    let Some(node) = Node::up("attach-policy") else { return };
    node.daemon().apply(
        "
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: { name: friends }
spec:
  selector: role == 'web'
  ingress: [{ action: Allow, source: { selector: role == 'friend' } }]
",
    );
    let labelled = |container: &Container, role: &str| {
        let answer = node.call("ADD", &container.0, &container.path(), |_, config| {
            config["args"] = json!({ "cni": { "labels": [{ "key": "role", "value": role }] } });
        });
        answer.result()
    };
    let web = Container::new("attach-policy-web");
    let result = labelled(&web, "web");
    let target = address(&result).to_owned();
    for round in 0..4 {
        let (friend, stranger) =
            (Container::new(&format!("attach-policy-f{round}")), Container::new(&format!("attach-policy-s{round}")));
        labelled(&friend, "friend");
        labelled(&stranger, "stranger");
        assert!(!stranger.can_ping(&target), "round {round}: a stranger was let in");
        assert!(friend.can_ping(&target), "round {round}: a friend was not let in\n{}", node.daemon().log());
        let six = result["ips"][1]["address"].as_str().unwrap().trim_end_matches("/128");
        assert!(friend.can_ping(six) && !stranger.can_ping(six), "round {round}: IPv6");
        node.del(&friend);
        node.del(&stranger);
        assert_eq!(stranger.links(), [""; 0]);
    }
    node.del(&web);
    node.is_empty();
}

/// Descriptors, frames, links, routes, addresses: as many as before.
#[test]
fn containers_that_have_gone_leave_nothing() {
    let Some(node) = Node::up("attach-cycles") else { return };
    let container = Container::new("attach-cycles-c");
    let once = || {
        node.add(&container);
        node.del(&container);
    };
    let pid = node.topology.node().run("pgrep -n -f attach-cycles/store").trim().to_owned();
    let descriptors = || fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let frames = || node.daemon().workers().iter().map(|worker| worker.frames_free).sum::<u64>();
    // Sockets are closed off the worker, and the kernel gives frames back in its time: as it stays for a while.
    let settled = || {
        let (mut last, mut same) = ((0, 0), 0);
        wait::until("everything to have gone", SOON, || {
            let now = (descriptors(), frames());
            same = if now == last && node.left().is_empty() { same + 1 } else { 0 };
            last = now;
            (same == 10).then_some(now)
        })
    };
    // What is made once and kept, as frames on the rings of those who stay, is made by then.
    let cycles = count_of("ATTACH_CYCLES", CYCLES);
    (0..cycles.min(CYCLES)).for_each(|_| once());
    let before = settled();
    (0..cycles).for_each(|_| once());
    assert_eq!(settled(), before, "descriptors and free frames");
    let cached = node.topology.node().run("ip neigh show proxy");
    assert_eq!(cached, "", "proxies");
}

#[test]
fn many_are_added_at_the_same_time() {
    let Some(node) = Node::up("attach-many") else { return };
    let containers: Vec<Container> = (0..count_of("ATTACH_TOGETHER", TOGETHER))
        .map(|number| Container::new(&format!("attach-many-{number}")))
        .collect();
    let (machine, plugin, folder) = (node.topology.node(), &node.plugin, node.topology.folder());
    let all = |verb: &'static str| -> Vec<Answer> {
        thread::scope(|scope| {
            let (machine, folder) = (&machine, &folder);
            let one = |container: &Container| {
                let (id, path) = (container.0.clone(), container.path());
                scope.spawn(move || call(machine, plugin, folder, verb, &id, &path, |_, _| {}))
            };
            let threads: Vec<_> = containers.iter().map(one).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    };
    let results: Vec<Value> = all("ADD").iter().map(Answer::result).collect();
    let mut addresses: Vec<&str> = results.iter().map(address).collect();
    let first = addresses[0].to_owned();
    addresses.sort_unstable();
    addresses.dedup();
    assert_eq!(addresses.len(), containers.len(), "two have the same address");
    for container in containers.iter().skip(1).step_by(7) {
        assert!(container.can_ping(&first), "{} does not reach the first", container.0);
    }
    assert!(all("DEL").iter().all(Answer::is_success));
    wait::until_true("all to have gone", SOON, || node.left().is_empty());
}

/// The plugin is killed, or the daemon, at any moment of an ADD: the runtime's DEL and the next start leave nothing.
#[test]
fn whoever_is_killed_half_way_leaves_nothing() {
    let Some(mut node) = Node::up("attach-kill") else { return };
    for round in 0..KILLS {
        let container = Container::new(&format!("attach-kill-{round}"));
        let delay = Duration::from_millis(round * 7);
        let kills_daemon = round % 2 == 1;
        let (machine, plugin, folder) = (node.topology.node(), node.plugin.clone(), node.topology.folder());
        let (id, path) = (container.0.clone(), container.path());
        let killed = node.daemon.take_if(|_| kills_daemon);
        thread::scope(|scope| {
            let adding = scope.spawn(|| call(&machine, &plugin, &folder, "ADD", &id, &path, |_, _| {}));
            thread::park_timeout(delay);
            match killed {
                Some(daemon) => daemon.kill(),
                None => drop(
                    Command::new("pkill").args(["-KILL", "-f", &format!("{}/vrouter-cni", folder.display())]).output(),
                ),
            }
            let _ = adding.join().unwrap();
        });
        if kills_daemon {
            node.daemon = Some(Daemon::bare(&node.topology, &["--uplinks", ""]));
        }
        // Half of the runtimes have died as well, and nobody says that the container is gone: it is.
        if round % 4 < 2 {
            node.del(&container);
            wait::until_ok("nothing to be left", SOON, || {
                let left = node.left();
                left.is_empty().then_some(()).ok_or_else(|| format!("round {round}: {left:?}"))
            });
        }
        drop(container);
    }
    // What is left of those whose runtime has died goes with the next start.
    node.daemon.take().unwrap().terminate();
    node.daemon = Some(Daemon::bare(&node.topology, &["--uplinks", ""]));
    wait::until_ok("nothing to be left after a start", SOON, || {
        let left = node.left();
        left.is_empty().then_some(()).ok_or_else(|| format!("{left:?}"))
    });
}

/// A pod's new sandbox is there before the old one is taken away; and a container's id comes again.
#[test]
fn a_late_del_leaves_the_new_container_alone() {
    let Some(node) = Node::up("attach-late") else { return };
    let (old, new) = (Container::new("attach-late-old"), Container::new("attach-late-new"));
    let pod = |verb: &str, container: &Container| {
        let answer = node.call(verb, &container.0, &container.path(), |call, _| {
            call.args = Some("IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_UID=1".to_owned());
        });
        assert!(answer.is_success(), "{answer:?}");
        answer
    };
    pod("ADD", &old);
    let second = pod("ADD", &new).result();
    pod("DEL", &old);
    pod("DEL", &old);
    let attached: Vec<Attachment> = node.json(&["endpoint", "list"]);
    assert_eq!(attached.len(), 1, "{attached:?}");
    assert_eq!(
        (attached[0].identity.container.as_str(), attached[0].identity.workload.as_str()),
        ("attach-late-new", "web")
    );
    assert_eq!(attached[0].addresses[0].to_string(), address(&second));
    assert_eq!(old.links(), [""; 0]);
    // The same id, another life.
    pod("DEL", &new);
    let again = pod("ADD", &new).result();
    assert!(again["interfaces"][1]["mac"].is_string());
    pod("DEL", &new);
    node.is_empty();
}

/// A runtime ought to let nobody come or go during GC. Of one that does not wait, whoever it names stays; whoever it does not name yet
/// is whole or gone, and never half.
#[test]
fn gc_beside_add() {
    let Some(node) = Node::up("attach-gc") else { return };
    let (machine, plugin, folder) = (node.topology.node(), &node.plugin, node.topology.folder());
    let make = |verb: &str, container: &Container, change: &dyn Fn(&mut Value)| {
        let (id, path) = (&container.0, container.path());
        call(&machine, plugin, &folder, verb, id, &path, |_, config| {
            config["cniVersion"] = json!("1.1.0");
            change(config);
        })
    };
    let collect = |named: &[Container]| {
        let named: Vec<Value> =
            named.iter().map(|container| json!({"containerID": container.0, "ifname": "eth0"})).collect();
        let nobody = Container("attach-gc-nobody".to_owned());
        let answer = make("GC", &nobody, &|config| config["cni.dev/valid-attachments"] = json!(named));
        assert!(answer.is_success(), "{answer:?}");
    };
    // Attached by four at a time, with one GC after the other until all have been.
    let beside_gc = |containers: &[Container], named: &[Container]| -> (Vec<Value>, usize) {
        thread::scope(|scope| {
            let attach = |container: &Container| make("ADD", container, &|_| {}).result();
            let adding: Vec<_> = containers
                .chunks(containers.len() / 4)
                .map(|some| scope.spawn(move || some.iter().map(attach).collect::<Vec<_>>()))
                .collect();
            let mut collections = 0;
            while adding.iter().any(|thread| !thread.is_finished()) {
                collect(named);
                collections += 1;
            }
            (adding.into_iter().flat_map(|thread| thread.join().unwrap()).collect(), collections)
        })
    };
    let is_whole = |container: &Container, result: &Value| {
        make("CHECK", container, &|config| config["prevResult"] = result.clone()).is_success()
    };
    let old = Container::new("attach-gc-old");
    node.add(&old);
    let containers = |kind: &str| -> Vec<Container> {
        (0..COLLECTED).map(|number| Container::new(&format!("attach-gc-{kind}{number}"))).collect()
    };
    let named = containers("named");
    let (results, collections) = beside_gc(&named, &named);
    assert!(named.iter().zip(&results).all(|(container, result)| is_whole(container, result)));
    assert_eq!(old.links(), [""; 0], "nobody has named it");

    let unnamed = containers("unnamed");
    let (results, more) = beside_gc(&unnamed, &named);
    let are_whole: Vec<bool> =
        unnamed.iter().zip(&results).map(|(container, result)| is_whole(container, result)).collect();
    let attached: Vec<Attachment> = node.json(&["endpoint", "list"]);
    for (container, is_whole) in unnamed.iter().zip(&are_whole) {
        let has_endpoint = attached.iter().any(|attachment| attachment.identity.container == container.0);
        assert_eq!((has_endpoint, container.links().len()), (*is_whole, usize::from(*is_whole)), "{}", container.0);
    }
    let whole = are_whole.iter().filter(|is_whole| **is_whole).count();
    println!(
        "{collections} and {more} times GC; of {COLLECTED} that were not named {whole} were attached after the last"
    );
    collect(&[]);
    node.is_empty();
}

/// By hand: a namespace by name, by its file, by a process; an interface of the host.
#[test]
fn by_hand() {
    let Some(node) = Node::up("attach-hand") else { return };
    let (web, cli) = (Container::new("attach-hand-web"), Container::new("attach-hand-cli"));
    let process = node.topology.node().command("ip").args(["netns", "exec", &cli.0, "sleep", "100"]).spawn().unwrap();
    struct Reaped(std::process::Child);
    impl Drop for Reaped {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
    let process = Reaped(process);
    wait::until_true("the process to be inside", SOON, || {
        let link = |path: String| fs::metadata(path).map(|found| std::os::unix::fs::MetadataExt::ino(&found)).ok();
        link(format!("/proc/{}/ns/net", process.0.id())) == link(cli.path())
    });
    let said =
        node.daemon().cli(&["endpoint", "add", "web", "--netns", &web.0, "--ip", "10.65.1.1", "--label", "role=web"]);
    assert!(said.contains("10.65.1.1"), "{said}");
    node.daemon().cli(&["endpoint", "add", "cli", "--pid", &process.0.id().to_string(), "--ipv6"]);
    assert!(cli.can_ping("10.65.1.1"));
    let labels = node.daemon().cli(&["get", "wep", "-o", "json"]);
    assert!(labels.contains("\"role\": \"web\""), "{labels}");
    let twice = node.daemon().attempt(&["endpoint", "add", "web", "--netns", &web.path()]);
    let text = String::from_utf8_lossy(&twice.stderr).into_owned();
    assert!(twice.status.code() == Some(4) && text.contains("VR1502") && text.contains("eth0"), "{text}");
    assert!(cli.can_ping("10.65.1.1"), "a second add has taken away the first");

    node.topology.node().run("ip link add card0 type veth peer name far0");
    node.topology.node().run("ip link set card0 up");
    node.daemon().cli(&["endpoint", "add", "metal", "--interface", "card0", "--no-ipam", "--ip", "10.99.0.1"]);
    assert!(
        node.daemon().interface("card0").is_some_and(|view| view.endpoint.is_some_and(|name| name.contains("metal")))
    );

    let again =
        node.daemon().attempt(&["endpoint", "add", "metal", "--interface", "card0", "--no-ipam", "--ip", "10.99.0.2"]);
    assert!(String::from_utf8_lossy(&again.stderr).contains("metal is attached already"), "{again:?}");

    let listed = node.daemon().cli(&["endpoint", "list"]);
    assert!(["web", "cli", "metal", "card0"].iter().all(|word| listed.contains(word)), "{listed}");
    for name in ["web", "cli", "metal", "metal"] {
        node.daemon().cli(&["endpoint", "del", name]);
    }
    node.is_empty();
    let denied = node.daemon().attempt(&["endpoint", "add", "x", "--netns", "../../etc/passwd"]);
    assert!(String::from_utf8_lossy(&denied.stderr).contains("VR1501"), "{denied:?}");
}

/// A namespace that is none, or goes away under the plugin.
#[test]
fn namespaces_that_are_none() {
    let Some(node) = Node::up("attach-none") else { return };
    let file = node.topology.folder().join("plain");
    File::create(&file).unwrap();
    for path in [
        file.display().to_string(),
        "/nonexistent".to_owned(),
        "/proc/1/ns/mnt".to_owned(),
        "/proc/self/root".to_owned(),
    ] {
        let answer = node.call("ADD", "c1", &path, |_, _| {});
        assert_eq!(answer.json().unwrap()["code"], 8, "{path}: {answer:?}");
        node.is_empty();
    }
    for round in 0..6u64 {
        let container = Container::new("attach-none-gone");
        let (machine, plugin, folder) = (node.topology.node(), node.plugin.clone(), node.topology.folder());
        let path = container.path();
        thread::scope(|scope| {
            let adding = scope.spawn(|| call(&machine, &plugin, &folder, "ADD", "gone", &path, |_, _| {}));
            thread::park_timeout(Duration::from_millis(5 + round * 8));
            drop(container);
            // Either way, and never half.
            let _ = adding.join().unwrap();
        });
        let answer = node.call("DEL", "gone", "", |_, _| {});
        assert!(answer.is_success(), "{answer:?}");
        wait::until_ok("nothing to be left", SOON, || {
            let left = node.left();
            left.is_empty().then_some(()).ok_or_else(|| format!("round {round}: {left:?}"))
        });
    }
}

/// Without a daemon the plugin says so at once, and that it may be tried again.
#[test]
fn without_a_daemon_it_is_to_be_tried_again() {
    let Some(mut node) = Node::up("attach-down") else { return };
    let container = Container::new("attach-down-c");
    node.add(&container);
    node.daemon.take().unwrap().terminate();
    for verb in ["ADD", "DEL", "CHECK"] {
        let answer = node.call(verb, &container.0, &container.path(), |_, _| {});
        assert_eq!(answer.json().unwrap()["code"], 11, "{verb}: {answer:?}");
    }
    node.daemon = Some(Daemon::bare(&node.topology, &["--uplinks", ""]));
    assert_eq!(node.call("ADD", &container.0, &container.path(), |_, _| {}).json().unwrap()["code"], 101);
    node.del(&container);
    node.is_empty();
}
