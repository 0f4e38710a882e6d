//! The router's binary, as the scenarios run it: `vrouter run` in a topology's node, and its command line.
//!
//! ```text
//!     Topology ─▶ Daemon::start ─▶ apply, delete, show … ─▶ kill | terminate | Drop
//! ```
//!
//! Invariants: a daemon answers when `start` returns; it is gone when its `Daemon` is; and its books balance: a daemon
//! that is dropped while it runs is asked for packets without a fate first.

use std::env;
use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use control::http::views::{DropView, InterfaceView, WorkerView};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::topology::{Topology, said};
use crate::wait;

/// Ample for a start, a stop, and for what follows from a change, on a busy machine.
pub const SOON: Duration = Duration::from_secs(20);

/// The `vrouter` that was built with these tests; `.ci/run` builds it before the scenarios.
pub fn program() -> Command {
    Command::new(path())
}

/// `VROUTER` names another binary. A test stands in `target/PROFILE/deps`, the binary one folder above.
fn path() -> PathBuf {
    let beside = || env::current_exe().unwrap().ancestors().nth(2).unwrap().join("vrouter");
    env::var_os("VROUTER").map_or_else(beside, PathBuf::from)
}

/// A running router.
pub struct Daemon {
    folder: PathBuf,
    child: Child,
}

impl Daemon {
    /// Starts the router in the topology's node, with the topology's own manifests applied and these settings besides.
    pub fn start(topology: &Topology, settings: &[&str]) -> Daemon {
        let daemon = Daemon::bare(topology, settings);
        daemon.cli(&["apply", "-f", topology.manifests().to_str().unwrap()]);
        daemon
    }

    /// The same, with what its datastore already holds.
    pub fn bare(topology: &Topology, settings: &[&str]) -> Daemon {
        let folder = topology.folder();
        let log = File::options().create(true).append(true).open(folder.join("router.log")).unwrap();
        let mut command = topology.node().command(path());
        command.arg("run").args(["--node-name", "router"]);
        if !settings.contains(&"--uplinks") {
            command.args(["--uplinks", "up0"]);
        }
        command.arg("--datastore").arg(format!("embedded:{}", folder.join("store").display()));
        command.arg("--api-socket").arg(folder.join("api.sock")).args(settings);
        command.env_clear().env("PATH", env::var_os("PATH").unwrap_or_default());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let mut daemon = Daemon { folder, child: command.spawn().unwrap() };
        wait::until_ok("the router to be ready", SOON, || {
            let ended = daemon.child.try_wait().unwrap();
            assert!(ended.is_none(), "the router ended with {ended:?}:\n{}", daemon.log());
            let output = daemon.attempt(&["show", "status", "-o", "json"]);
            let is_ready = String::from_utf8_lossy(&output.stdout).contains("\"is_ready\": true");
            is_ready.then_some(()).ok_or_else(|| said(&output) + &daemon.log())
        });
        daemon
    }

    /// Runs a command line against the daemon, whatever its status.
    pub fn attempt(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a command line that must succeed, and gives back what it printed.
    #[track_caller]
    pub fn cli(&self, arguments: &[&str]) -> String {
        let output = self.attempt(arguments);
        assert!(output.status.success(), "vrouter {}: {}\n{}", arguments.join(" "), said(&output), self.log());
        said(&output)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program();
        command.env_remove("VROUTER_SOCKET").arg("--socket").arg(self.folder.join("api.sock"));
        command.args(arguments).stdin(Stdio::null());
        command
    }

    /// Applies manifests; they are in force when this returns.
    #[track_caller]
    pub fn apply(&self, manifests: &str) {
        let output = self.try_apply(manifests);
        assert!(output.status.success(), "vrouter apply: {}", said(&output));
    }

    /// The same, whatever comes of it.
    pub fn try_apply(&self, manifests: &str) -> Output {
        let mut child = self
            .command(&["apply", "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(manifests.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    /// Changes an endpoint of the lab as a CNI plugin or an operator would; in force when this returns.
    #[track_caller]
    pub fn edit_endpoint(&self, namespace: &str, name: &str, change: impl FnOnce(&mut Value)) {
        let name = format!("router-k8s-{name}-eth0");
        let text = self.cli(&["get", "wep", &name, "-n", namespace, "--export", "-o", "json"]);
        let mut endpoint: Value = serde_json::from_str(&text).unwrap();
        change(&mut endpoint);
        self.apply(&endpoint.to_string());
    }

    /// What `vrouter show WHAT -o json` says.
    #[track_caller]
    pub fn show<T: DeserializeOwned>(&self, what: &str) -> Vec<T> {
        serde_json::from_str(&self.cli(&["show", what, "-o", "json"])).unwrap()
    }

    #[track_caller]
    pub fn interface(&self, name: &str) -> Option<InterfaceView> {
        self.show("interfaces").into_iter().find(|view: &InterfaceView| view.name == name)
    }

    pub fn workers(&self) -> Vec<WorkerView> {
        self.show("workers")
    }

    /// Packets dropped for a reason, and the rules that did it.
    pub fn drops(&self, reason: &str) -> (u64, Vec<String>) {
        let views: Vec<DropView> = self.show("drops");
        let of_reason: Vec<_> = views.into_iter().filter(|view| view.reason == reason).collect();
        let packets = of_reason.iter().map(|view| view.packets).sum();
        (packets, of_reason.into_iter().filter_map(|view| view.rule).collect())
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("router.log")).unwrap_or_default()
    }

    /// Pulls the plug: SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to stop, as a service manager would, and expects that it does.
    pub fn terminate(mut self) {
        self.balance();
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        let status = wait::until("the router to stop", SOON, || self.child.try_wait().unwrap());
        assert!(status.success(), "stopped with {status}:\n{}", self.log());
    }

    /// Packets in = packets accounted for.
    #[track_caller]
    fn balance(&self) {
        for worker in self.workers() {
            assert_eq!(worker.unaccounted, 0, "{worker:?}");
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let runs = self.child.try_wait().is_ok_and(|status| status.is_none());
        if std::thread::panicking() {
            eprintln!("the router's log:\n{}", self.log());
        } else if runs {
            self.balance();
        }
        // It may have ended by itself; then there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
