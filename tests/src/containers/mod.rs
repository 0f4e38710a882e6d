//! Real container runtimes on the node of a topology, and containers of theirs.
//!
//! ```text
//!     Topology ─▶ Host ─┬─▶ Containerd ─┐
//!                       ├─▶ Podman ─────┼─ Runtime: run, exec, stop, remove ─▶ a network plugin, by the network's name
//!                       └─▶ Docker ─────┘
//! ```
//!
//! | file | what it holds |
//! |---|---|
//! | `host.rs` | folders, mounts and processes of the runtimes, which go away together |
//! | `image.rs` | the one image: busybox, and nothing from the network |
//! | `containerd.rs` | containerd, by `ctr run --cni` |
//! | `podman.rs` | podman with its CNI back-end |
//! | `docker.rs` | dockerd with no network of its own |
//! | `cri.rs` | containerd once more, by the interface that the kubelet uses: sandboxes of pods, which are no `Runtime` |

pub mod containerd;
pub mod cri;
pub mod docker;
pub mod host;
pub mod image;
pub mod podman;

use std::net::IpAddr;
use std::process::{Command, Output};

use crate::daemon::SOON;
use crate::topology::said;
use crate::wait;

pub use containerd::Containerd;
pub use cri::Cri;
pub use docker::Docker;
pub use host::Host;
pub use podman::Podman;

/// Where `SERVE` listens.
pub const PORT: u16 = 7;

/// What a container does that others talk to: gives back what it is sent, on every connection.
pub const SERVE: [&str; 6] = ["nc", "-ll", "-p", "7", "-e", "/bin/cat"];

/// A runtime, as a person uses it.
pub trait Runtime {
    /// Starts a container on a network, with the runtime's own options besides. What the runtime said if it did not come up.
    fn run(&self, name: &str, network: &str, options: &[&str], command: &[&str]) -> Result<(), String>;

    /// A command inside a container that runs.
    fn exec(&self, name: &str, command: &[&str]) -> Output;

    /// Ends its processes and takes it off its network. It is still known, except to containerd.
    fn stop(&self, name: &str) -> Result<(), String>;

    /// Takes away what is left of it. A container that runs is stopped first.
    fn remove(&self, name: &str) -> Result<(), String>;

    /// Waits until one container can ping an address.
    #[track_caller]
    fn until_pings(&self, from: &str, to: IpAddr) {
        let to = to.to_string();
        wait::until_ok(&format!("container {from} to ping {to}"), SOON, || {
            success(self.exec(from, &["ping", "-c", "1", "-W", "1", &to]))
        });
    }

    /// Waits until what a container sends to `SERVE` at an address comes back.
    #[track_caller]
    fn until_served(&self, from: &str, to: IpAddr) {
        wait::until_true(&format!("container {from} to be served by {to}"), SOON, || self.is_served(from, to));
    }

    /// Whether what a container sends to `SERVE` at an address comes back.
    fn is_served(&self, from: &str, to: IpAddr) -> bool {
        let line = format!("echo over-there | timeout 1 nc {to} {PORT}");
        String::from_utf8_lossy(&self.exec(from, &["sh", "-c", &line]).stdout).contains("over-there")
    }

    /// The addresses of an interface inside that routers pass on, as `ip` prints them.
    #[track_caller]
    fn addresses(&self, name: &str, interface: &str) -> Vec<String> {
        let text = success(self.exec(name, &["ip", "-o", "address", "show", "dev", interface])).unwrap();
        let words = text.lines().filter(|line| !line.contains("scope link")).map(|line| line.split_whitespace().nth(3));
        words.map(|word| word.unwrap().to_owned()).collect()
    }
}

/// What a program printed if it succeeded, and otherwise what it printed as an error.
pub(crate) fn success(output: Output) -> Result<String, String> {
    if output.status.success() { Ok(said(&output)) } else { Err(format!("{}: {}", output.status, said(&output))) }
}

/// Runs a command to its end.
pub(crate) fn finish(command: &mut Command) -> Result<String, String> {
    success(command.output().unwrap())
}
