//! containerd, with `ctr run --cni` in the foreground for each container: only then does it call DEL.
//!
//! `ctr` knows no network by name, it takes the first file in its folder. So each `ctr run` has a mount namespace more, where that
//! folder holds the one network. The container's id is `default-NAME` to the plugin, its namespace /proc/PID/ns/net, and
//! its interface eth0; ctr calls the loopback plugin, too.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::process::{Child, Command, Output};

use crate::daemon::SOON;
use crate::wait;

use super::{Host, Runtime, finish, image};

const CONFIGURATION: &str = r#"
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
    "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper"]
"#;

/// Runs a command where `$1` is the only network.
const ONE_NETWORK: &str = r#"
mount -t tmpfs one /mnt
cp "/etc/cni/net.d/$1.conflist" /mnt/
mount --move /mnt /etc/cni/net.d
shift
exec "$@"
"#;

/// Containers are separate from those of others by this name.
const SPACE: &str = "default";

pub struct Containerd<'a> {
    host: &'a Host,
    daemon: Child,
    /// The `ctr` of each container.
    running: RefCell<BTreeMap<String, Child>>,
    count: RefCell<u32>,
}

impl<'a> Containerd<'a> {
    pub fn start(host: &'a Host) -> Containerd<'a> {
        host.write("/etc/containerd/config.toml", CONFIGURATION);
        let mut command = host.command("containerd");
        command.args(["--config", "/etc/containerd/config.toml"]);
        let daemon = host.start_daemon("containerd.log", command);
        let containerd = Containerd { host, daemon, running: RefCell::default(), count: RefCell::default() };
        wait::until_ok("containerd to answer", SOON, || {
            finish(&mut containerd.ctr(&["version"])).map_err(|said| said + &host.log("containerd.log"))
        });
        let archive = host.folder().join("image.tar");
        image::write(&archive);
        finish(containerd.ctr(&["image", "import"]).arg(archive)).unwrap();
        containerd
    }

    fn ctr(&self, arguments: &[&str]) -> Command {
        let mut command = self.host.command("ctr");
        command.args(["--namespace", SPACE]).args(arguments);
        command
    }

    /// The id by which plugins know a container.
    pub fn id(name: &str) -> String {
        format!("{SPACE}-{name}")
    }

    /// The process of a container that runs: its namespace is /proc/PID/ns/net.
    fn process(&self, name: &str) -> Option<u32> {
        let text = finish(&mut self.ctr(&["task", "ls"])).ok()?;
        let words = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let task = words.into_iter().find(|words| words.first() == Some(&name) && words.get(2) == Some(&"RUNNING"))?;
        task[1].parse().ok()
    }

    /// Kills the `ctr` that would have called DEL, and the container with it: what a node that lost power comes back with.
    pub fn abandon(&self, name: &str) {
        let mut child = self.running.borrow_mut().remove(name).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        finish(&mut self.ctr(&["task", "delete", "--force", name])).unwrap();
        finish(&mut self.ctr(&["container", "delete", name])).unwrap();
    }
}

impl Runtime for Containerd<'_> {
    fn run(&self, name: &str, network: &str, options: &[&str], command: &[&str]) -> Result<(), String> {
        let mut ctr = self.host.command("unshare");
        ctr.args(["--mount", "sh", "-euc", ONE_NETWORK, "sh", network]);
        ctr.args(["ctr", "--namespace", SPACE, "run", "--cni", "--rm", "--snapshotter", "native"]);
        ctr.arg("--cgroup").arg(format!("{}/{name}", self.host.cgroup()));
        ctr.args(options).args([image::TAG, name]).args(command);
        let log = format!("ctr-{name}.log");
        let mut child = self.host.start_daemon(&log, ctr);
        let is_up = wait::until(&format!("container {name}"), SOON, || {
            if child.try_wait().unwrap().is_some() {
                return Some(false);
            }
            self.process(name).map(|_| true)
        });
        if !is_up {
            return Err(self.host.log(&log));
        }
        self.running.borrow_mut().insert(name.to_owned(), child);
        Ok(())
    }

    fn exec(&self, name: &str, command: &[&str]) -> Output {
        let id = self.count.replace_with(|count| *count + 1).to_string();
        self.ctr(&["task", "exec", "--exec-id", &id, name]).args(command).output().unwrap()
    }

    /// `ctr` takes it off its network, and forgets it.
    fn stop(&self, name: &str) -> Result<(), String> {
        let Some(mut child) = self.running.borrow_mut().remove(name) else {
            return Err(format!("no container {name}"));
        };
        finish(&mut self.ctr(&["task", "kill", "--signal", "SIGKILL", name]))?;
        wait::until(&format!("container {name} to be gone"), SOON, || child.try_wait().unwrap());
        let said = self.host.log(&format!("ctr-{name}.log"));
        if said.contains("ctr: ") { Err(said) } else { Ok(()) }
    }

    fn remove(&self, name: &str) -> Result<(), String> {
        if self.running.borrow().contains_key(name) { self.stop(name) } else { Ok(()) }
    }
}

impl Drop for Containerd<'_> {
    /// Containers end with the host.
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        for child in self.running.get_mut().values_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
