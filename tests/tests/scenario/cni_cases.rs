//! The cases of `tests/data/cni`: first by Debian's plugins as far as they are the library's, then by ours, without a daemon and with one.
//!
//! ```text
//!     runtime (the test) ── plugin in router's namespace ── a namespace per case
//! ```

use std::path::{Path, PathBuf};

use control::host::netns;
use control::ipam::call::PoolsView;
use serde_json::{Value, json};
use tests::cni::{Answer, Call, Case, Stage, cases};
use tests::containers::host::{OUR_PLUGINS, REFERENCE_PLUGINS};
use tests::daemon::{self, Daemon};
use tests::topology::{Machine, Topology, said};

use crate::TWO_AND_FAR;

/// Small blocks, and few addresses: a case that leaks is noticed by those after it.
pub const POOLS: &str = "
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: { name: pods }
spec: { cidr: 10.66.0.0/24, blockSize: 28 }
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: { name: pods-v6 }
spec: { cidr: 'fd66::/120', blockSize: 124 }
";

/// A case that is played on the topology's node, with a namespace of its own.
struct Play {
    node: Machine,
    /// What the plugin finds in its environment.
    socket: String,
    plugin: PathBuf,
    config: Value,
    namespace: String,
}

impl Play {
    fn attempt(&self, machine: &str, line: &str) -> Result<(), String> {
        let (line, should_fail) = line.strip_prefix("! ").map_or((line, false), |line| (line, true));
        let mut command = match machine {
            "" => self.node.command("env"),
            namespace => {
                let mut command = self.node.command("nsenter");
                command.args([&format!("--net={}", netns::path(namespace).display()), "--"]);
                command
            }
        };
        let output = command.args(line.split_whitespace()).output().unwrap();
        let is_right = output.status.success() != should_fail;
        if is_right { Ok(()) } else { Err(format!("{line}: {}", said(&output))) }
    }
}

impl Stage for Play {
    fn config(&self) -> Value {
        self.config.clone()
    }

    fn netns(&self) -> String {
        netns::path(&self.namespace).display().to_string()
    }

    fn call(&self, call: &Call) -> Answer {
        let mut entering = self.node.command("env");
        entering.arg(&self.socket);
        call.run(entering, &self.plugin)
    }

    fn inside(&self, line: &str) -> Result<(), String> {
        self.attempt(&self.namespace, line)
    }

    fn outside(&self, line: &str) -> Result<(), String> {
        self.attempt("", line)
    }
}

/// Plays them all before it complains.
fn play(topology: &Topology, cases: &[Case], plugin: &Path, config: &Value) {
    let mut wrong = Vec::new();
    for case in cases {
        let namespace = format!("{}-case", topology.node().namespace());
        netns::delete(&namespace).unwrap();
        netns::create(&namespace).unwrap();
        let (socket, config) = (variable(topology), config.clone());
        let play = Play { node: topology.node(), socket, plugin: plugin.to_owned(), config, namespace };
        wrong.extend(case.play(&play).err());
        netns::delete(&play.namespace).unwrap();
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

/// Where the daemon of a topology listens.
pub fn variable(topology: &Topology) -> String {
    format!("VROUTER_SOCKET={}", topology.folder().join("api.sock").display())
}

/// The binary under a plugin's name.
pub fn ours(topology: &Topology, name: &str) -> PathBuf {
    let link = topology.folder().join(name);
    std::os::unix::fs::symlink(daemon::program().get_program(), &link).unwrap();
    link
}

fn our_config() -> Value {
    json!({"cniVersion": "1.0.0", "name": "net", "type": "vrouter-cni", "ipam": {"type": "calico-ipam"}})
}

/// What the pools have given out.
pub fn addresses_in_use(daemon: &Daemon) -> u64 {
    let view: PoolsView = serde_json::from_str(&daemon.cli(&["ipam", "show", "-o", "json"])).unwrap();
    view.pools.iter().map(|pool| pool.counts.in_use).sum()
}

#[test]
fn ours_refuses_by_itself_what_makes_no_sense() {
    let Some(topology) = Topology::up("cni-alone", TWO_AND_FAR) else { return };
    for name in ["vrouter-cni", "calico-ipam"] {
        play(&topology, &cases("alone.txt"), &ours(&topology, name), &our_config());
    }
}

#[test]
fn ours_does_what_the_library_does() {
    let Some(topology) = Topology::up("cni-library", TWO_AND_FAR) else { return };
    let daemon = Daemon::start(&topology, &[]);
    daemon.apply(POOLS);
    for name in OUR_PLUGINS {
        play(&topology, &cases("library.txt"), &ours(&topology, name), &our_config());
    }
    assert_eq!(addresses_in_use(&daemon), 0);
}

#[test]
fn ours_attaches_and_takes_away_as_its_cases_say() {
    let Some(topology) = Topology::up("cni-node", TWO_AND_FAR) else { return };
    let daemon = Daemon::start(&topology, &[]);
    daemon.apply(POOLS);
    play(&topology, &cases("node.txt"), &ours(&topology, "vrouter-cni"), &our_config());
    assert_eq!(addresses_in_use(&daemon), 0, "{}", daemon.cli(&["ipam", "check", "--show-all-ips"]));
    assert!(!daemon.cli(&["get", "wep", "-A"]).contains("-cni-"));
    assert!(!topology.node().run("ip -d link show").contains("alias vrouter:"));
}

#[test]
fn addresses_of_other_plugins() {
    let Some(topology) = Topology::up("cni-others", TWO_AND_FAR) else { return };
    let _daemon = Daemon::start(&topology, &[]);
    play(&topology, &cases("delegates.txt"), &ours(&topology, "vrouter-cni"), &our_config());
    assert!(!topology.node().run("ip -d link show").contains("alias vrouter:"));
    std::fs::remove_dir_all("/run/vrouter-scenario-addresses").unwrap();
}

#[test]
fn the_library_is_as_its_cases_say() {
    let Some(topology) = Topology::up("library", TWO_AND_FAR) else { return };
    let addresses = topology.folder().join("addresses");
    let config = json!({"cniVersion": "1.0.0", "name": "net", "type": "host-local",
        "ipam": {"type": "host-local", "dataDir": addresses, "ranges": [[{"subnet": "10.67.0.0/24"}]]}});
    play(&topology, &cases("library.txt"), &Path::new(REFERENCE_PLUGINS).join("host-local"), &config);
}
