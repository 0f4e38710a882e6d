//! A program of somebody else's in the router's namespace: started, watched until it is ready, ended.
//!
//! Invariants: what was started ends when this is dropped, and with the lab's namespace when the lab is interrupted, because the
//! lab ends whatever runs there; what it says is in a file that stays.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::cpu::Task;
use crate::lab::{Lab, LabError, Place, spawn, system};

/// How long a program may take until it is ready.
const START_LIMIT: Duration = Duration::from_secs(20);
/// How long it may take to end when it is asked to, before it is made to.
const STOP_LIMIT: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_millis(20);

/// A running program.
pub struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts a program in the router's namespace; what it says goes to `NAME.log` in the directory.
    pub fn start(lab: &Lab, directory: &Path, name: &str, command: &[&str]) -> Result<Daemon, LabError> {
        let log = directory.join(format!("{name}.log"));
        let file = File::create(&log).map_err(system(format!("write {}", log.display())))?;
        let errors = file.try_clone().map_err(system(format!("write {}", log.display())))?;
        // `ip netns exec` becomes the program, so its number is the child's.
        let mut start = Command::new("ip");
        start.args(["netns", "exec", &lab.name(Place::Router)]).args(command);
        let child = spawn(start.stdin(Stdio::null()).stdout(file).stderr(errors))?;
        Ok(Daemon { name: name.to_owned(), child, log })
    }

    /// Waits until `is_ready` says so; an error when the program ends first.
    pub fn wait_until(&mut self, what: &str, is_ready: impl Fn() -> bool) -> Result<(), LabError> {
        let end = Instant::now() + START_LIMIT;
        while !is_ready() {
            if let Ok(Some(status)) = self.child.try_wait() {
                let answer = format!("{} ended ({status}): {}", self.name, self.last_words());
                return Err(LabError::Peer(answer));
            }
            if Instant::now() > end {
                return Err(LabError::Late { what: format!("{}: {what}", self.name), seconds: START_LIMIT.as_secs() });
            }
            thread::sleep(STEP);
        }
        Ok(())
    }

    /// What it has said so far.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn last_words(&self) -> String {
        let said = self.said();
        let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
        lines[lines.len().saturating_sub(3)..].join("; ")
    }

    pub fn log(&self) -> &Path {
        &self.log
    }

    pub fn tasks(&self) -> Vec<Task> {
        Task::of_process(self.child.id())
    }

    /// Asks it to end, and waits until it has.
    pub fn stop(mut self) {
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let end = Instant::now() + STOP_LIMIT;
        while Instant::now() < end && matches!(self.child.try_wait(), Ok(None)) {
            thread::sleep(STEP);
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended; then there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A directory for sockets and configuration, short enough for the path of a socket; gone when this is dropped.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(lab: &Lab, name: &str) -> Result<Scratch, LabError> {
        let path = std::env::temp_dir().join(format!("{}-{name}", lab.name(Place::Router)));
        // What an earlier one of this process left.
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).map_err(system(format!("make {}", path.display())))?;
        Ok(Scratch(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn file(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    pub fn write(&self, name: &str, text: &str) -> Result<String, LabError> {
        let path = self.file(name);
        fs::write(&path, text).map_err(system(format!("write {path}")))?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
