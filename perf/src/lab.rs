//! Two endpoints and a router between them, in network namespaces of this process's own.
//!
//! ```text
//!     PREFIX-a                      PREFIX-r                      PREFIX-b
//!     10.66.0.2, fd66::2                                          10.67.0.2, fd67::2
//!     end0 ═══════════════ near-a  ┌ kernel ┐  near-b ═══════════════ end0
//!                                  └ worker ┘
//!                                  anchor0 ══ anchor1
//! ```
//!
//! What forwards between `near-a` and `near-b` is a [`crate::forwarder::Forwarder`]. All of them use the same addresses,
//! routes and permanent neighbours, so nothing else differs between them.
//!
//! Invariants: nothing outside the three namespaces is touched; they are deleted when the lab is dropped and when the
//! process is interrupted; those that a killed process left are deleted by the next one.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Once;
use std::thread;

use fastpath::io::blast::BlastError;
use fastpath::io::program::{Preference, Program, ProgramError, Role};
use fastpath::io::xsk::{XskError, XskQueue};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{SigSet, Signal};

use crate::tables;

const NAME: &str = "vrperf";
const ROUTER_LINK_LOCAL: &str = "fe80::ecee:eeff:feee:eeee";
pub const A_ADDRESSES: (&str, &str) = ("10.66.0.2", "fd66::2");
pub const B_ADDRESSES: (&str, &str) = ("10.67.0.2", "fd67::2");

#[derive(Debug, thiserror::Error)]
pub enum LabError {
    #[error("run `{command}`: {output}")]
    Command { command: String, output: String },
    #[error("{what}")]
    System { what: String, source: io::Error },
    #[error("{what}: not within {seconds} s")]
    Late { what: String, seconds: u64 },
    #[error("read the answer of iperf3: {answer}")]
    Answer { answer: String },
    /// Somebody else's program, in its own words or in ours.
    #[error("{0}")]
    Peer(String),
    #[error("a thread of the lab panicked")]
    Panicked,
    #[error(transparent)]
    Socket(#[from] XskError),
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error(transparent)]
    Blast(#[from] BlastError),
}

/// Turns an operating system error into one that says what was tried.
pub fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> LabError {
    let what = what.into();
    |source| LabError::System { what, source }
}

/// One of the namespaces.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    A,
    Router,
    B,
}

pub struct Lab {
    prefix: String,
    mtu: u16,
}

impl Lab {
    /// Builds namespaces, links, addresses, routes and neighbours.
    pub fn new(mtu: u16) -> Result<Lab, LabError> {
        watch_for_interruption();
        delete_leftovers();
        let lab = Lab { prefix: prefix(std::process::id()), mtu };
        for place in [Place::A, Place::Router, Place::B] {
            ip(&format!("netns add {}", lab.name(place)))?;
            lab.within(place, || {
                // Nothing may wait for duplicate address detection, nor be lost to a check of the way back.
                for (name, value) in [
                    ("ipv6/conf/all/accept_dad", "0"),
                    ("ipv6/conf/default/accept_dad", "0"),
                    ("ipv4/conf/all/rp_filter", "0"),
                    ("ipv4/conf/default/rp_filter", "0"),
                ] {
                    set(name, value)?;
                }
                Ok::<_, LabError>(())
            })??;
            ip(&format!("-n {} link set lo up", lab.name(place)))?;
        }
        lab.attach(Place::A, "near-a", A_ADDRESSES, tables::A_MAC)?;
        lab.attach(Place::B, "near-b", B_ADDRESSES, tables::B_MAC)?;
        let router = lab.name(Place::Router);
        ip(&format!("-n {router} link add anchor0 mtu {mtu} type veth peer name anchor1 mtu {mtu}"))?;
        ip(&format!("-n {router} link set anchor0 up"))?;
        ip(&format!("-n {router} link set anchor1 up"))?;
        Ok(lab)
    }

    /// One endpoint and the router's side of it.
    fn attach(&self, place: Place, near: &str, addresses: (&str, &str), mac: [u8; 6]) -> Result<(), LabError> {
        let (router, end, mtu) = (self.name(Place::Router), self.name(place), self.mtu);
        let (mac, gateway_mac) = (mac_text(mac), mac_text(tables::ROUTER_MAC));
        let (ipv4, ipv6) = addresses;
        // All that the endpoint may send from: whoever checks the way back must find it.
        let network = format!(
            "{}/16",
            std::net::Ipv4Addr::from_bits(if place == Place::A { tables::A_IPV4 } else { tables::B_IPV4 })
        );
        for command in [
            format!("-n {router} link add {near} mtu {mtu} type veth peer name end0 mtu {mtu} netns {end}"),
            format!("-n {router} link set {near} address {gateway_mac}"),
            format!("-n {end} link set end0 address {mac}"),
            format!("-n {end} link set end0 up"),
            format!("-n {router} link set {near} up"),
            format!("-n {end} addr add {ipv4}/32 dev end0"),
            format!("-n {end} addr add {ipv6}/128 dev end0 nodad"),
            format!("-n {end} neigh add 169.254.1.1 lladdr {gateway_mac} dev end0 nud permanent"),
            format!("-n {end} neigh add {ROUTER_LINK_LOCAL} lladdr {gateway_mac} dev end0 nud permanent"),
            format!("-n {end} route add default via 169.254.1.1 dev end0 onlink"),
            format!("-n {end} -6 route add default via {ROUTER_LINK_LOCAL} dev end0 onlink"),
            format!("-n {router} route add {ipv4}/32 dev {near}"),
            format!("-n {router} route add {network} dev {near}"),
            format!("-n {router} -6 route add {ipv6}/128 dev {near}"),
            format!("-n {router} neigh add {ipv4} lladdr {mac} dev {near} nud permanent"),
            format!("-n {router} neigh add {ipv6} lladdr {mac} dev {near} nud permanent"),
        ] {
            ip(&command)?;
        }
        Ok(())
    }

    pub fn name(&self, place: Place) -> String {
        let suffix = match place {
            Place::A => "a",
            Place::Router => "r",
            Place::B => "b",
        };
        format!("{}-{suffix}", self.prefix)
    }

    pub fn mtu(&self) -> u16 {
        self.mtu
    }

    /// Moves the calling thread into a namespace, for good.
    pub fn enter(&self, place: Place) -> Result<(), LabError> {
        enter(&self.name(place))
    }

    /// Does something on a thread inside a namespace.
    pub fn within<T: Send>(&self, place: Place, work: impl FnOnce() -> T + Send) -> Result<T, LabError> {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.enter(place)?;
                Ok(work())
            });
            thread.join().map_err(|_| LabError::Panicked)?
        })
    }

    /// Prepares the endpoints for a router in user space, or undoes that: their stacks receive on threads of their own,
    /// and not inside the worker's system call. That needs packets that may be joined (GRO), so finished checksums.
    pub fn prepare_endpoints(&self, is_on: bool) -> Result<(), LabError> {
        let (offloads, joining) = if is_on { ("off", "on") } else { ("on", "off") };
        let router = self.name(Place::Router);
        for (place, near) in [(Place::A, "near-a"), (Place::B, "near-b")] {
            let end = self.name(place);
            // Only a command of `ip netns exec` sees the namespace's own /sys. Without GRO there is nothing to have threads, but
            // what is set stays and would show as soon as there is.
            let thread = |value: &str| {
                let command = format!("echo {value} > /sys/class/net/end0/threaded");
                run("ip", &["netns", "exec", &end, "sh", "-c", &command])
            };
            if !is_on {
                thread("0")?;
            }
            ip(&format!("netns exec {router} ethtool -K {near} tso {offloads}"))?;
            ip(&format!("netns exec {end} ethtool -K end0 tx {offloads} gro {joining}"))?;
            if is_on {
                thread("1")?;
            }
        }
        Ok(())
    }

    /// Lets the router's side take frames that a tester makes without socket buffers: a veth does that only while it
    /// receives by NAPI, which without an XDP program it does for GRO's sake. Nothing that a tester sends can be joined.
    pub fn receive_by_napi(&self) -> Result<(), LabError> {
        let router = self.name(Place::Router);
        ip(&format!("netns exec {router} ethtool -K near-a gro on"))
    }

    /// Lets the kernel of the router's namespace forward, or not.
    pub fn forward_by_kernel(&self, is_on: bool) -> Result<(), LabError> {
        let value = if is_on { "1" } else { "0" };
        self.within(Place::Router, || {
            set("ipv4/ip_forward", value)?;
            set("ipv6/conf/all/forwarding", value)
        })?
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        delete_namespaces(&self.prefix);
    }
}

/// Puts our program on an interface of the calling thread's namespace.
pub fn attach_program(interface: &str, frags: bool, queue: Option<&XskQueue>) -> Result<Program, LabError> {
    let mut program = Program::load(Role::Workload, frags)?;
    if let Some(queue) = queue {
        program.register(0, queue.map_fd())?;
    }
    program.attach(index(interface)?, Preference::Native)?;
    Ok(program)
}

/// Takes it off again.
pub fn detach_program(interface: &str) -> Result<(), LabError> {
    Ok(Program::detach(index(interface)?)?)
}

/// Moves the calling thread into a namespace by its name, for good.
pub fn enter(name: &str) -> Result<(), LabError> {
    let path = format!("/run/netns/{name}");
    let file = File::open(&path).map_err(system(format!("open {path}")))?;
    setns(&file, CloneFlags::CLONE_NEWNET).map_err(|error| system(format!("enter {path}"))(error.into()))
}

/// The number of an interface of the calling thread's namespace.
pub fn index(interface: &str) -> Result<u32, LabError> {
    nix::net::if_::if_nametoindex(interface)
        .map_err(|error| system(format!("find interface {interface}"))(error.into()))
}

fn set(name: &str, value: &str) -> Result<(), LabError> {
    let path = format!("/proc/sys/net/{name}");
    fs::write(&path, value).map_err(system(format!("write {path}")))
}

/// Runs `ip` with these arguments.
fn ip(arguments: &str) -> Result<(), LabError> {
    run("ip", &arguments.split(' ').collect::<Vec<_>>())
}

/// Runs a command to its end; what it says on failure becomes the error.
pub fn run(program: &str, arguments: &[&str]) -> Result<(), LabError> {
    let command = || format!("{program} {}", arguments.join(" "));
    let output = Command::new(program).args(arguments).output().map_err(system(format!("run `{}`", command())))?;
    if output.status.success() {
        return Ok(());
    }
    let output = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(LabError::Command { command: command(), output })
}

/// A namespace of this process's own, for a measurement that builds its topology itself.
pub fn namespace(purpose: &str) -> Result<String, LabError> {
    watch_for_interruption();
    delete_leftovers();
    let name = format!("{}-{purpose}", prefix(std::process::id()));
    ip(&format!("netns add {name}"))?;
    ip(&format!("-n {name} link set lo up"))?;
    Ok(name)
}

/// Starts a child that hears the signals which this process has blocked for its own watcher.
pub fn spawn(command: &mut Command) -> Result<Child, LabError> {
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
    let blocked = |source: nix::errno::Errno| system("change the signal mask")(source.into());
    signals.thread_unblock().map_err(blocked)?;
    let child = command.spawn().map_err(system("start a program"));
    signals.thread_block().map_err(blocked)?;
    child
}

/// What is left of it goes with the next process.
pub fn delete_namespace(name: &str) {
    let _ = ip(&format!("netns del {name}"));
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn prefix(process: u32) -> String {
    format!("{NAME}{process}")
}

fn namespaces() -> Vec<String> {
    let names = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    names.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| name.starts_with(NAME)).collect()
}

/// Ends what runs in the namespaces, and deletes them and the folders that belong to them. Goes on after a failure: the next
/// process tries again.
fn delete_namespaces(prefix: &str) {
    for name in namespaces().into_iter().filter(|name| name.rsplit_once('-').is_some_and(|(head, _)| head == prefix)) {
        if let Ok(output) = Command::new("ip").args(["netns", "pids", &name]).output() {
            for process in String::from_utf8_lossy(&output.stdout).split_whitespace() {
                let _ = Command::new("kill").args(["-9", process]).status();
            }
        }
        let _ = ip(&format!("netns del {name}"));
    }
    let folders = fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten();
    for folder in folders.filter(|folder| folder.file_name().to_string_lossy().starts_with(&format!("{prefix}-"))) {
        let _ = fs::remove_dir_all(folder.path());
    }
}

fn delete_leftovers() {
    for name in namespaces() {
        let Some((head, _)) = name.rsplit_once('-') else { continue };
        if !Path::new("/proc").join(head.trim_start_matches(NAME)).exists() {
            delete_namespaces(head);
        }
    }
}

/// The signals that would end the process are blocked, and a thread waits for them, so that no handler is needed.
fn watch_for_interruption() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
        if signals.thread_block().is_err() {
            return;
        }
        thread::spawn(move || {
            if signals.wait().is_ok() {
                delete_namespaces(&prefix(std::process::id()));
                std::process::exit(130);
            }
        });
    });
}
