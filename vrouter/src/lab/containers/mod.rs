//! `vrouter lab run containers`: two containers attached by the CNI plugin, a policy by label, and nothing left when they go.
//!
//! ```text
//!  containers-web        containers-client      namespaces, as a runtime would have made them
//!  eth0 ───veth─── cali… ┐
//!  10.65.x.y/32          ├── vrouter run (AF_XDP) in containers-node
//!  eth0 ───veth─── cali… ┘
//! ```
//!
//! The lab is the runtime: it makes the namespaces and starts the plugin, which is this program under another name, with the
//! environment and the configuration that containerd or podman would give it.
//!
//! The story: both are added, and have addresses that nobody has written down anywhere; they reach each other; CHECK finds
//! them as they were left; a policy lets only friends in, and the client is none; it becomes one; both are taken away, twice;
//! links, endpoints and addresses are counted.
//!
//! | file | what it holds |
//! |---|---|
//! | `plugin.rs` | one call of the plugin |
//! | `manifests/` | the pool, and the policy |
//!
//! Left out: images, processes, and a real runtime, which the scenarios of the tests have.

mod plugin;

use std::fs;
use std::net::IpAddr;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use nix::unistd::geteuid;
use serde_json::Value;

use self::plugin::Plugin;
use super::checks::{self, Path};
use super::report::{self, Line, say};
use super::router::Router;
use super::run::{Guard, stop_flag};
use super::state::State;
use super::up::{found, in_host};
use super::{LabError, down};

/// What to run instead of a description's file, and how the lab is called.
pub const NAME: &str = "containers";

const NODE: &str = "containers-node";
const WEB: Container = Container { name: "web", namespace: "containers-web" };
const CLIENT: Container = Container { name: "client", namespace: "containers-client" };
const CONTAINERS: [Container; 2] = [WEB, CLIENT];

const POOL: &str = include_str!("manifests/pool.yaml");
const POLICY: &str = include_str!("manifests/policy.yaml");

const SETTINGS: [&str; 4] = ["--frames-per-worker", "4096", "--flow-table-size", "8192"];
const PINGS: u32 = 3;
const MEBIBYTES: u32 = 16;

#[derive(Debug, Clone, Copy)]
struct Container {
    name: &'static str,
    namespace: &'static str,
}

/// One that is attached.
struct Running {
    container: Container,
    address: IpAddr,
    result: Value,
}

pub fn run(keep: bool) -> Result<ExitCode, LabError> {
    if !geteuid().is_root() {
        return Err(LabError::NotRoot);
    }
    let stop = stop_flag()?;
    let start = Instant::now();
    down::down(NAME)?;
    let state = State::of(NAME)?;
    let guard = Guard::of(NAME);
    build(&state)?;
    say(format!("lab {NAME}: {} namespaces built in {:.1?}\n", CONTAINERS.len() + 1, start.elapsed()));
    let result = with_router(&state, keep, &stop);
    if keep && !stop.load(Ordering::Relaxed) {
        guard.keep();
        say(format!(
            "lab {NAME} is up\n  the router   vrouter --socket {} endpoint list\n  take down    vrouter lab down {NAME}\n",
            state.socket().display()
        ));
    } else {
        guard.finish()?;
    }
    Ok(report::verdict(&result?, start.elapsed()))
}

fn build(state: &State) -> Result<(), LabError> {
    found(state, &[NODE, WEB.namespace, CLIENT.namespace].map(str::to_owned))?;
    for (file, text) in [("pool.yaml", POOL), ("policy.yaml", POLICY)] {
        let path = state.manifests().join(file);
        fs::write(&path, text).map_err(LabError::io(format!("write {}", path.display())))?;
    }
    Ok(())
}

fn with_router(state: &State, keep: bool, stop: &AtomicBool) -> Result<Vec<Line>, LabError> {
    let router = Router::start_node("node", NODE, &[], &SETTINGS, state)?;
    router.apply(&state.manifests().join("pool.yaml"))?;
    let mut lines = Vec::new();
    let mut add = |line: Line| {
        line.print();
        lines.push(line);
        if stop.load(Ordering::Relaxed) { Err(LabError::Interrupted) } else { Ok(()) }
    };
    tell(&router, state, keep, &mut add)?;
    if !keep {
        let stopped = router.stop().map(|()| String::new()).map_err(|error| error.to_string());
        add(Line::new("router stops on SIGTERM", stopped))?;
    }
    Ok(lines)
}

/// The story. A signal ends it between two lines.
fn tell(
    router: &Router,
    state: &State,
    keep: bool,
    add: &mut impl FnMut(Line) -> Result<(), LabError>,
) -> Result<(), LabError> {
    let plugin = Plugin::new(&state.socket(), NODE);
    let mut running = Vec::new();
    for container in CONTAINERS {
        let start = Instant::now();
        match plugin.add(container.name, container.namespace) {
            Ok((address, result)) => {
                add(Line::new(format!("add {}", container.name), Ok(format!("{address}, {:.0?}", start.elapsed()))))?;
                running.push(Running { container, address, result });
            }
            Err(error) => add(Line::new(format!("add {}", container.name), Err(error)))?,
        }
    }
    let [web, client] = running.as_slice() else { return Ok(()) };
    let path = Path {
        from: client.container.name.to_owned(),
        to: web.container.name.to_owned(),
        from_namespace: client.container.namespace.to_owned(),
        to_namespace: web.container.namespace.to_owned(),
        destination: web.address,
    };
    let name = |what: &str| format!("{what} {} > {}", path.from, path.to);
    add(Line::new(name("ping"), ping(&path)))?;
    let rate = checks::tcp(&path, MEBIBYTES).map(|rate| format!("{MEBIBYTES} MiB at {}bit/s", report::scaled(rate)));
    add(Line::new(name("tcp"), rate))?;
    for one in &running {
        let found = plugin.check(one.container.name, one.container.namespace, &one.result);
        add(Line::new(format!("check {}", one.container.name), found.map(|()| String::new())))?;
    }

    router.apply(&state.manifests().join("policy.yaml"))?;
    let refused = match ping(&path) {
        Ok(answered) => Err(format!("{answered}, and the client is no friend")),
        Err(why) => Ok(why),
    };
    add(Line::new("only friends may in: ping client > web", refused))?;
    router.label("workloadendpoint", &endpoint_of(client), "role=friend")?;
    add(Line::new("the client is a friend: ping client > web", ping(&path)))?;
    add(report::accounts_line(&router.accounts()?))?;
    if keep {
        return Ok(());
    }

    for one in &running {
        for what in ["del", "del again"] {
            let gone = plugin.del(one.container.name, one.container.namespace).map(|()| String::new());
            add(Line::new(format!("{what} {}", one.container.name), gone))?;
        }
    }
    let left = in_host(NODE, async |host| host.links().await)?;
    let left: Vec<String> = left.into_iter().map(|link| link.name).filter(|name| name.starts_with("cali")).collect();
    add(Line::new("links that are left", nothing(left.len(), &left.join(", "))))?;
    let endpoints = router.endpoints()?;
    add(Line::new("endpoints that are left", nothing(endpoints, "")))?;
    let in_use = router.addresses_in_use()?;
    add(Line::new("addresses in use", nothing(usize::try_from(in_use).unwrap_or(usize::MAX), "")))
}

fn endpoint_of(one: &Running) -> String {
    format!("node-cni-{}-eth0", one.container.name)
}

fn ping(path: &Path) -> Result<String, String> {
    checks::ping(path, PINGS).map(|()| format!("{PINGS} of {PINGS} answered"))
}

fn nothing(count: usize, which: &str) -> Result<String, String> {
    match count {
        0 => Ok("none".to_owned()),
        _ => Err(format!("{count} {which}").trim_end().to_owned()),
    }
}
