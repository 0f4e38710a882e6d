//! One whole run: build, start the router, apply, check, change a policy live, report, take down.
//!
//! The lab goes away however this ends: by success, failure, panic, SIGINT or SIGTERM. A signal only
//! sets a flag; it is looked at between checks, none of which takes longer than ten seconds.

use std::path::Path as FilePath;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use tokio::signal::unix::{SignalKind, signal};

use super::checks::{self, Path};
use super::description::Live;
use super::down::down;
use super::report::{self, Line, say};
use super::router::Router;
use super::state::State;
use super::{Lab, LabError, live, up};

pub fn run(lab: &Lab, manifests: Option<&FilePath>, keep: bool) -> Result<ExitCode, LabError> {
    let stop = stop_flag()?;
    let start = Instant::now();
    let state = up::up(lab)?;
    let guard = Guard::of(&lab.name);
    say(format!("lab {}: {} namespaces built in {:.1?}\n", lab.name, lab.namespaces().len(), start.elapsed()));

    let result = with_router(lab, &state, manifests, keep, &stop);
    let interrupted = stop.load(Ordering::Relaxed);
    if keep && !interrupted {
        guard.keep();
        say(up::how_to_enter(lab));
        let socket = state.socket();
        say(format!("  socket       {}\n  take down    vrouter lab down {}\n", socket.display(), lab.name));
    } else {
        guard.finish()?;
    }
    let lines = result?;
    Ok(report::verdict(&lines, start.elapsed()))
}

fn with_router(
    lab: &Lab,
    state: &State,
    manifests: Option<&FilePath>,
    keep: bool,
    stop: &AtomicBool,
) -> Result<Vec<Line>, LabError> {
    let router = Router::start(lab, state)?;
    let result = examine(lab, state, manifests, &router, stop);
    if keep && !stop.load(Ordering::Relaxed) {
        return result;
    }
    let stopped = router.stop();
    // Of two errors the first tells more.
    let mut lines = result?;
    let line = Line::new("router stops on SIGTERM", stopped.map(|()| String::new()).map_err(|error| error.to_string()));
    line.print();
    lines.push(line);
    Ok(lines)
}

fn examine(
    lab: &Lab,
    state: &State,
    manifests: Option<&FilePath>,
    router: &Router,
    stop: &AtomicBool,
) -> Result<Vec<Line>, LabError> {
    for folder in [Some(state.manifests().as_path()), manifests].into_iter().flatten() {
        router.apply(folder)?;
    }
    let before = router.interfaces()?;
    let start = Instant::now();
    let mut lines = Vec::new();
    let mut latencies = Vec::new();
    let mut add = |line: Line| {
        line.print();
        lines.push(line);
    };
    for path in paths(lab) {
        let name = |check: &str| format!("{check} {} {} > {}", path.family(), path.from, path.to);
        let proceed = || if stop.load(Ordering::Relaxed) { Err(LabError::Interrupted) } else { Ok(()) };
        proceed()?;
        let pings = lab.checks.pings;
        let ping = checks::ping(&path, pings).map(|()| format!("{pings} of {pings} answered"));
        let reachable = ping.is_ok();
        add(Line::new(name("ping"), ping));
        if !reachable {
            // Its TCP and UDP would only spend their time limits to say the same.
            continue;
        }
        proceed()?;
        let mebibytes = lab.checks.tcp_mebibytes;
        let tcp = checks::tcp(&path, mebibytes).map(|rate| format!("{mebibytes} MiB at {}bit/s", report::scaled(rate)));
        add(Line::new(name("tcp"), tcp));
        proceed()?;
        let udp = checks::udp(&path, lab.checks.udp_exchanges).and_then(|exchanges| {
            let (count, lost) = (exchanges.round_trips.len(), exchanges.lost);
            latencies.push((name("").trim().to_owned(), exchanges.round_trips));
            if lost == 0 {
                Ok(format!("{count} exchanges, none lost"))
            } else {
                Err(format!("{lost} lost, {count} not"))
            }
        });
        add(Line::new(name("udp"), udp));
    }
    let elapsed = start.elapsed();
    let after = router.interfaces()?;
    if let Some(story) = &lab.live
        && !stop.load(Ordering::Relaxed)
    {
        match live_path(lab, story) {
            Some(path) => live::live(router, story, &path).into_iter().for_each(&mut add),
            None => add(Line::new("live", Err("the two ends have no address family in common".to_owned()))),
        }
    }
    add(report::accounts_line(&router.accounts()?));
    say(report::interface_table(&before, &after, elapsed));
    say(report::latency_table(&latencies));
    say(report::drop_table(&router.drops()?));
    if stop.load(Ordering::Relaxed) { Err(LabError::Interrupted) } else { Ok(lines) }
}

/// All ordered pairs with an endpoint at one end at least, in each family both have. What passes
/// between two hosts is not this router's promise.
fn paths(lab: &Lab) -> Vec<Path> {
    let participants = lab.participants();
    let mut paths = Vec::new();
    for (from, sources) in &participants {
        for (to, destinations) in &participants {
            if from == to || !(lab.is_endpoint(from) || lab.is_endpoint(to)) {
                continue;
            }
            for destination in destinations {
                if sources.iter().any(|source| source.is_ipv4() == destination.is_ipv4()) {
                    paths.push(Path {
                        from: (*from).to_owned(),
                        to: (*to).to_owned(),
                        from_namespace: lab.namespace(from),
                        to_namespace: lab.namespace(to),
                        destination: *destination,
                    });
                }
            }
        }
    }
    paths
}

/// The story is told once, in the first family both ends have.
fn live_path(lab: &Lab, story: &Live) -> Option<Path> {
    paths(lab).into_iter().find(|path| path.from == story.from && path.to == story.to)
}

/// Takes the lab down when dropped.
pub struct Guard {
    name: Option<String>,
}

impl Guard {
    pub fn of(name: &str) -> Guard {
        Guard { name: Some(name.to_owned()) }
    }

    pub fn keep(mut self) {
        self.name = None;
    }

    pub fn finish(mut self) -> Result<(), LabError> {
        self.name.take().map_or(Ok(()), |name| down(&name))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(name) = self.name.take()
            && let Err(error) = down(&name)
        {
            eprintln!("error: {error}");
        }
    }
}

/// Set by SIGINT and SIGTERM from now on, which then end nothing by themselves.
pub fn stop_flag() -> Result<Arc<AtomicBool>, LabError> {
    let action = "watch for signals";
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(LabError::io(action))?;
    let (mut interrupt, mut terminate) = {
        let _entered = runtime.enter();
        let open = |kind| signal(kind).map_err(LabError::io(action));
        (open(SignalKind::interrupt())?, open(SignalKind::terminate())?)
    };
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    thread::Builder::new()
        .name("lab-signals".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                loop {
                    tokio::select! {
                        _ = interrupt.recv() => {}
                        _ = terminate.recv() => {}
                    }
                    flag.store(true, Ordering::Relaxed);
                    eprintln!("stopping; the lab is being taken down");
                }
            });
        })
        .map_err(LabError::io(action))?;
    Ok(stop)
}
