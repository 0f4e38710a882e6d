//! The router under test: the same program, `run` in the node's namespace, and its command line.
//!
//! This is the only file of the lab that knows the command line's arguments and JSON. Everything else
//! sees the small structs below.

use std::env;
use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr};
use std::ops::Add;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use config::net::Cidr;
use control::bgp::speaker::view::{NeighborView, PeerView, SummaryView, WhyView};
use control::host::netns;
use control::http::views::{DropView, FlowView, InterfaceView, WorkerView};
use control::ipam::call::PoolsView;
use control::workload::call::Attachment;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::de::DeserializeOwned;

use super::state::State;
use super::{Lab, LabError};

/// The program that is running, also when its file has been replaced since.
const PROGRAM: &str = "/proc/self/exe";
const READY_LIMIT: Duration = Duration::from_secs(10);
const STOP_LIMIT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(20);
/// Lines of the router's log that go with an error.
const LOG_LINES: usize = 15;

pub struct Router {
    child: Child,
    state: State,
}

/// Counters of one interface since the router's start.
#[derive(Debug, Clone, Default)]
pub struct InterfaceCounters {
    pub name: String,
    pub rx_packets: u64,
    pub rx_bytes: u64,
    pub tx_packets: u64,
    pub tx_bytes: u64,
}

#[derive(Debug, Clone)]
pub struct DropCount {
    pub reason: String,
    /// The rule that refused, where one did.
    pub rule: Option<String>,
    pub packets: u64,
}

/// The workers' books: every packet that came in has one fate.
#[derive(Debug, Clone, Copy, Default)]
pub struct Accounts {
    pub packets_in: u64,
    pub sent: u64,
    pub answered: u64,
    pub punted: u64,
    pub dropped: u64,
    /// In, less everything above; not zero is a fault of the router.
    pub unaccounted: i64,
}

impl Add for Accounts {
    type Output = Accounts;

    fn add(self, other: Accounts) -> Accounts {
        Accounts {
            packets_in: self.packets_in + other.packets_in,
            sent: self.sent + other.sent,
            answered: self.answered + other.answered,
            punted: self.punted + other.punted,
            dropped: self.dropped + other.dropped,
            unaccounted: self.unaccounted + other.unaccounted,
        }
    }
}

impl Accounts {
    pub fn accounted(&self) -> u64 {
        self.sent + self.answered + self.punted + self.dropped
    }
}

impl Router {
    /// Starts it and waits until it answers.
    pub fn start(lab: &Lab, state: &State) -> Result<Router, LabError> {
        let uplinks: Vec<&str> = lab.hosts.iter().map(|host| host.uplink.as_str()).collect();
        Router::start_node(&lab.node, &lab.namespace(&lab.node), &uplinks, &[], state)
    }

    /// The router of that node, in that namespace, with further settings as the command line has them.
    pub fn start_node(
        node: &str,
        namespace: &str,
        uplinks: &[&str],
        settings: &[&str],
        state: &State,
    ) -> Result<Router, LabError> {
        let log = File::create(state.log()).map_err(LabError::io("create the router's log"))?;
        let errors = log.try_clone().map_err(LabError::io("create the router's log"))?;
        let mut command = Command::new(PROGRAM);
        command.args(["run", "--node-name", node, "--uplinks", &uplinks.join(",")]).args(settings);
        command.arg("--datastore").arg(format!("embedded:{}", state.store().display()));
        command.arg("--api-socket").arg(state.socket());
        // Settings of the operator's own router in the environment are not for this one.
        command.env_clear().envs(env::var_os("PATH").map(|path| ("PATH", path)));
        // Ctrl-C at the terminal is for the lab, which stops the router in its turn.
        command.process_group(0).stdin(Stdio::null()).stdout(log).stderr(errors);
        let child = netns::in_namespace(namespace, || command.spawn())?;
        let child = child.map_err(LabError::io("start the router"))?;
        state.record_daemon(child.id())?;
        let mut router = Router { child, state: state.clone() };
        router.wait_until_ready()?;
        Ok(router)
    }

    fn wait_until_ready(&mut self) -> Result<(), LabError> {
        let start = Instant::now();
        loop {
            let error = match self.show::<serde_json::Value>("workers") {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            let ended = self.child.try_wait().map_err(LabError::io("wait for the router"))?;
            if ended.is_some() || start.elapsed() > READY_LIMIT {
                let why = match ended {
                    Some(status) => format!("it ended with {status}"),
                    None => format!("not ready within {READY_LIMIT:?}: {error}"),
                };
                return Err(self.error("run", format!("{why}; its last words:\n{}", self.last_words())));
            }
            thread::sleep(POLL);
        }
    }

    /// Applies a file or every manifest of a folder.
    pub fn apply(&self, path: &Path) -> Result<(), LabError> {
        self.command(&["apply", "-f", &path.display().to_string()]).map(drop)
    }

    /// Sets a label of an object of the default namespace.
    pub fn label(&self, kind: &str, name: &str, label: &str) -> Result<(), LabError> {
        self.command(&["label", kind, name, label, "--overwrite"]).map(drop)
    }

    /// How many workloads are attached.
    pub fn endpoints(&self) -> Result<usize, LabError> {
        let attachments: Vec<Attachment> = self.json(&["endpoint", "list"])?;
        Ok(attachments.len())
    }

    /// Of all pools.
    pub fn addresses_in_use(&self) -> Result<u64, LabError> {
        let view: PoolsView = self.json(&["ipam", "show"])?;
        Ok(view.pools.iter().map(|pool| pool.counts.in_use).sum())
    }

    pub fn delete(&self, path: &Path) -> Result<(), LabError> {
        self.command(&["delete", "-f", &path.display().to_string()]).map(drop)
    }

    pub fn interfaces(&self) -> Result<Vec<InterfaceCounters>, LabError> {
        let views: Vec<InterfaceView> = self.show("interfaces")?;
        let counters = views.into_iter().map(|view| InterfaceCounters {
            name: view.name,
            rx_packets: view.rx_packets,
            rx_bytes: view.rx_bytes,
            tx_packets: view.tx_packets,
            tx_bytes: view.tx_bytes,
        });
        Ok(counters.collect())
    }

    pub fn drops(&self) -> Result<Vec<DropCount>, LabError> {
        let views: Vec<DropView> = self.show("drops")?;
        let counts =
            views.into_iter().map(|view| DropCount { reason: view.reason, rule: view.rule, packets: view.packets });
        Ok(counts.collect())
    }

    pub fn accounts(&self) -> Result<Accounts, LabError> {
        let views: Vec<WorkerView> = self.show("workers")?;
        let of_worker = |view: &WorkerView| Accounts {
            packets_in: view.packets_in,
            sent: view.sent,
            answered: view.answered,
            punted: view.punted,
            dropped: view.dropped,
            unaccounted: view.unaccounted,
        };
        Ok(views.iter().map(of_worker).fold(Accounts::default(), Accounts::add))
    }

    /// Whether the router tracks this TCP connection.
    pub fn has_tcp_flow(&self, source: IpAddr, destination: SocketAddr) -> Result<bool, LabError> {
        let views: Vec<FlowView> = self.show("flows")?;
        Ok(views.iter().any(|view| {
            view.protocol == "tcp"
                && view.source == source
                && view.destination == destination.ip()
                && view.destination_port == Some(destination.port())
        }))
    }

    /// Its BGP sessions.
    pub fn bgp_peers(&self) -> Result<Vec<PeerView>, LabError> {
        let view: SummaryView = self.json(&["bgp", "summary"])?;
        Ok(view.peers)
    }

    /// Whether BFD hears that BGP peer; false also where nobody asked for BFD.
    pub fn is_bfd_up(&self, peer: IpAddr) -> Result<bool, LabError> {
        let view: NeighborView = self.json(&["bgp", "neighbor", &peer.to_string()])?;
        Ok(view.is_bfd_up == Some(true))
    }

    /// Where packets to a prefix that was learned by BGP go, in order.
    pub fn bgp_next_hops(&self, prefix: Cidr) -> Result<Vec<IpAddr>, LabError> {
        let mut view: WhyView = self.json(&["bgp", "why", &prefix.to_string()])?;
        view.next_hops.sort();
        Ok(view.next_hops)
    }

    /// Stops it as an operator would; a router that does not stop is killed, which is an error.
    pub fn stop(mut self) -> Result<(), LabError> {
        let status = self.terminate()?;
        self.state.forget_daemon()?;
        match status {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(self.error("run", format!("ended with {status}:\n{}", self.last_words()))),
            None => Err(self.error("run", format!("did not stop within {STOP_LIMIT:?} of SIGTERM; killed"))),
        }
    }

    fn terminate(&mut self) -> Result<Option<ExitStatus>, LabError> {
        let wait = |error| LabError::io("wait for the router")(error);
        if let Some(status) = self.child.try_wait().map_err(wait)? {
            return Ok(Some(status));
        }
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(i32::MAX));
        kill(pid, Signal::SIGTERM).map_err(|error| LabError::io("stop the router")(error.into()))?;
        let start = Instant::now();
        while start.elapsed() < STOP_LIMIT {
            if let Some(status) = self.child.try_wait().map_err(wait)? {
                return Ok(Some(status));
            }
            thread::sleep(POLL);
        }
        self.child.kill().map_err(LabError::io("kill the router"))?;
        self.child.wait().map_err(wait)?;
        Ok(None)
    }

    fn show<T: DeserializeOwned>(&self, what: &str) -> Result<T, LabError> {
        self.json(&["show", what])
    }

    fn json<T: DeserializeOwned>(&self, question: &[&str]) -> Result<T, LabError> {
        let text = self.command(&[question, &["-o", "json"]].concat())?;
        serde_json::from_slice(&text)
            .map_err(|error| self.error(&question.join(" "), format!("its JSON is not as expected: {error}")))
    }

    fn command(&self, arguments: &[&str]) -> Result<Vec<u8>, LabError> {
        let output = Command::new(PROGRAM)
            .arg("--socket")
            .arg(self.state.socket())
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .map_err(LabError::io(format!("run vrouter {}", arguments.join(" "))))?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(self.error(&arguments.join(" "), message))
    }

    fn error(&self, command: &str, message: String) -> LabError {
        LabError::Router { command: format!("vrouter {command}"), message }
    }

    fn last_words(&self) -> String {
        let log = fs::read(self.state.log()).unwrap_or_default();
        let text = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }
}
