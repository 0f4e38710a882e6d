//! Takes a lab down: stops its routers, deletes its namespaces (and with them all interfaces), removes
//! its folder. Goes on after a failure and tells of all; nothing there is fine.

use std::fs;
use std::time::{Duration, Instant};

use control::host::netns;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::LabError;
use super::state::State;

/// How long a router may take to stop by itself.
const STOP_LIMIT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(10);

pub fn down(name: &str) -> Result<(), LabError> {
    let state = State::of(name)?;
    let mut errors = Vec::new();
    let mut attempt = |result: Result<(), LabError>| {
        if let Err(error) = result {
            errors.push(error.to_string());
        }
    };
    match state.parts() {
        Ok(parts) => parts.iter().chain([&state]).for_each(|state| attempt(stop_router(state))),
        Err(error) => attempt(Err(error)),
    }
    match state.namespaces() {
        Ok(namespaces) => {
            for namespace in namespaces {
                attempt(netns::delete(&namespace).map_err(LabError::from));
            }
        }
        Err(error) => attempt(Err(error)),
    }
    // The record of namespaces goes last, and only when they have gone.
    if errors.is_empty() {
        state.remove_all()?;
    }
    if errors.is_empty() { Ok(()) } else { Err(LabError::Teardown { name: name.to_owned(), errors }) }
}

/// Stops the router that a run left behind, if the process of that number is still it.
fn stop_router(state: &State) -> Result<(), LabError> {
    let Some(pid) = state.daemon()? else { return Ok(()) };
    if is_our_router(pid, state) {
        let pid = Pid::from_raw(pid);
        send(pid, Signal::SIGTERM)?;
        let start = Instant::now();
        while start.elapsed() < STOP_LIMIT && is_our_router(pid.as_raw(), state) {
            std::thread::sleep(POLL);
        }
        if is_our_router(pid.as_raw(), state) {
            send(pid, Signal::SIGKILL)?;
        }
    }
    state.forget_daemon()
}

fn send(pid: Pid, signal: Signal) -> Result<(), LabError> {
    match kill(pid, signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(LabError::io(format!("send {signal} to router process {pid}"))(error.into())),
    }
}

/// Process numbers are reused: ours has this lab's folder among its arguments.
fn is_our_router(pid: i32, state: &State) -> bool {
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let folder = state.folder().display().to_string();
    String::from_utf8_lossy(&arguments).contains(&format!("{folder}/"))
}
