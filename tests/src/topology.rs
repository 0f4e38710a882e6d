//! Network namespaces and veth pairs that go away by themselves.
//!
//! A story says what it needs as a lab description (see `vrouter lab`), and the product's own `vrouter lab up` builds it:
//!
//! ```text
//! Topology::up("plain", "endpoints: …") ─▶ plain-web, plain-far, … ─▶ Drop ─▶ vrouter lab down plain
//!          └─ at("web") ─▶ Machine: run a program or a function with that network
//! ```
//!
//! Invariants: a topology exists only while its `Turn` is held, so names are never taken and measurements not disturbed;
//! what an earlier run left when it was killed is replaced by the next of that name; every program started in a `Machine`
//! is killed by the kernel when the thread that started it ends.
//! Left out: running the router. `daemon.rs` does.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use control::host::netns;

use crate::daemon;

/// Where `vrouter lab` keeps what belongs to a lab.
const LABS: &str = "/run/vrouter-lab";
/// Held by whoever has a topology, in whatever process.
const TURN: &str = "/run/vrouter-scenario.lock";

/// The right to build a topology; one story at a time has it.
pub struct Turn {
    _lock: File,
}

impl Turn {
    /// Waits for the turn. None without root, which namespaces need.
    pub fn take() -> Option<Turn> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("not run: needs root (namespaces, XDP, AF_XDP)");
            return None;
        }
        let lock = File::create(TURN).unwrap();
        lock.lock().unwrap();
        Some(Turn { _lock: lock })
    }
}

/// A lab that is up.
pub struct Topology {
    name: String,
    _turn: Turn,
}

impl Topology {
    /// Builds a lab from a description without its name; `None` without root.
    pub fn up(name: &str, description: &str) -> Option<Topology> {
        let turn = Turn::take()?;
        let topology = Topology { name: name.to_owned(), _turn: turn };
        // The lab writes its folder itself; the description is beside it until it has been read.
        let file = Path::new("/run").join(format!("vrouter-scenario-{name}.yaml"));
        fs::write(&file, format!("name: {name}\n{description}")).unwrap();
        let output = daemon::program().args(["lab", "up"]).arg(&file).output().unwrap();
        fs::remove_file(&file).unwrap();
        assert!(output.status.success(), "vrouter lab up: {}", String::from_utf8_lossy(&output.stderr));
        Some(topology)
    }

    /// Where the story may leave files: gone with the topology.
    pub fn folder(&self) -> PathBuf {
        Path::new(LABS).join(&self.name)
    }

    /// The lab's own manifests: node, endpoints, routes, and a profile that allows everything.
    pub fn manifests(&self) -> PathBuf {
        self.folder().join("manifests")
    }

    /// An endpoint, a host, or `router`.
    pub fn at(&self, participant: &str) -> Machine {
        Machine { namespace: format!("{}-{participant}", self.name) }
    }

    pub fn node(&self) -> Machine {
        self.at("router")
    }
}

impl Drop for Topology {
    fn drop(&mut self) {
        let output = daemon::program().args(["lab", "down", &self.name]).output();
        let is_down = output.as_ref().is_ok_and(|output| output.status.success());
        // A second panic while the first unwinds would hide it.
        if !is_down && !std::thread::panicking() {
            panic!("vrouter lab down {}: {output:?}", self.name);
        }
    }
}

/// One network namespace, as a place to run something in.
#[derive(Debug, Clone)]
pub struct Machine {
    namespace: String,
}

impl Machine {
    /// A namespace that somebody else has made.
    pub fn of(namespace: &str) -> Machine {
        Machine { namespace: namespace.to_owned() }
    }

    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Does `work` on a thread of this namespace. Sockets made there stay there.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        netns::in_namespace(&self.namespace, work).unwrap()
    }

    /// A program of this namespace; the kernel kills it when the calling thread ends.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "nsenter"]);
        command.arg(format!("--net={}", netns::path(&self.namespace).display()));
        command.arg("--").arg(program).stdin(Stdio::null());
        command
    }

    /// Runs a command line to its end, whatever its status.
    pub fn attempt(&self, line: &str) -> Output {
        let mut words = line.split_whitespace();
        let program = words.next().unwrap();
        self.command(program).args(words).output().unwrap()
    }

    /// Runs a command line that must succeed, and gives back what it printed.
    #[track_caller]
    pub fn run(&self, line: &str) -> String {
        let output = self.attempt(line);
        let text = said(&output);
        assert!(output.status.success(), "{}: {line}: {text}", self.namespace);
        text
    }

    /// Starts a program that runs until the guard is dropped.
    pub fn start(&self, line: &str) -> Running {
        let mut words = line.split_whitespace();
        let program = words.next().unwrap();
        let child = self.command(program).args(words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Running { child }
    }

    /// Sets a value below /proc/sys/net.
    pub fn sysctl(&self, key: &str, value: &str) {
        self.within(|| fs::write(Path::new("/proc/sys/net").join(key), value).unwrap());
    }

    /// A counter of the namespace's stack, by the names of `nstat`: `TcpInCsumErrors`, `Udp6InCsumErrors`.
    pub fn counter(&self, name: &str) -> u64 {
        self.within(|| {
            let text = |file: &str| fs::read_to_string(Path::new("/proc/thread-self/net").join(file)).unwrap();
            let pairs = pairs_of(&text("snmp")) + &text("snmp6");
            let row = pairs.lines().find(|line| line.split_whitespace().next() == Some(name));
            row.and_then(|row| row.split_whitespace().nth(1)?.parse().ok())
                .unwrap_or_else(|| panic!("no counter {name}"))
        })
    }
}

/// A program that is killed when this is dropped.
pub struct Running {
    child: Child,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a program printed, both ways.
pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// /proc/net/snmp has a line of names and a line of values per protocol; one pair per line is easier to search.
fn pairs_of(snmp: &str) -> String {
    let lines: Vec<&str> = snmp.lines().collect();
    let mut pairs = String::new();
    for lines in lines.chunks_exact(2) {
        let protocol = lines[0].split(':').next().unwrap();
        for (name, value) in lines[0].split_whitespace().zip(lines[1].split_whitespace()).skip(1) {
            writeln!(pairs, "{protocol}{name} {value}").unwrap();
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_paired_with_their_names() {
        let text = "Tcp: InSegs InCsumErrors\nTcp: 12 0\nUdp: InDatagrams\nUdp: 7\n";
        assert_eq!(pairs_of(text), "TcpInSegs 12\nTcpInCsumErrors 0\nUdpInDatagrams 7\n");
    }
}
