//! What a lab leaves on disk while it is up: enough for any later process to take it down.
//!
//! ```text
//! /run/vrouter-lab/NAME/namespaces      one name per line, written before the first is made
//!                      /daemon.pid      while `lab run` has a router
//!                      /manifests/*.yaml
//!                      /api.sock /store /daemon.log
//!                      /PART/daemon.pid ...     in a lab of several routers: those of each
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::LabError;

const ROOT: &str = "/run/vrouter-lab";
const DAEMON: &str = "daemon.pid";

/// The folder of one lab.
#[derive(Debug, Clone)]
pub struct State {
    folder: PathBuf,
}

impl State {
    /// The name becomes a folder's name, so it must be one.
    pub fn of(name: &str) -> Result<State, LabError> {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if name.is_empty() || !name.bytes().all(inner) {
            return Err(LabError::Name { name: name.to_owned() });
        }
        Ok(State { folder: Path::new(ROOT).join(name) })
    }

    pub fn create(&self) -> Result<(), LabError> {
        let manifests = self.manifests();
        fs::create_dir_all(&manifests).map_err(LabError::io(format!("create {}", manifests.display())))
    }

    /// What one router of several has.
    pub fn part(&self, name: &str) -> Result<State, LabError> {
        State::of(name).map(|_| State { folder: self.folder.join(name) })
    }

    /// All that were recorded to run.
    pub fn parts(&self) -> Result<Vec<State>, LabError> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(LabError::io(format!("read {}", self.folder.display()))(error)),
        };
        let states = entries.filter_map(Result::ok).map(|entry| State { folder: entry.path() });
        Ok(states.filter(|state| state.folder.join(DAEMON).is_file()).collect())
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn manifests(&self) -> PathBuf {
        self.folder.join("manifests")
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.join("api.sock")
    }

    pub fn store(&self) -> PathBuf {
        self.folder.join("store")
    }

    pub fn log(&self) -> PathBuf {
        self.folder.join("daemon.log")
    }

    /// Namespaces recorded as this lab's; none when there is no lab.
    pub fn namespaces(&self) -> Result<Vec<String>, LabError> {
        let text = self.read("namespaces")?.unwrap_or_default();
        Ok(text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect())
    }

    pub fn record_namespaces(&self, names: &[String]) -> Result<(), LabError> {
        self.write("namespaces", &(names.join("\n") + "\n"))
    }

    pub fn daemon(&self) -> Result<Option<i32>, LabError> {
        Ok(self.read(DAEMON)?.and_then(|text| text.trim().parse().ok()))
    }

    pub fn record_daemon(&self, pid: u32) -> Result<(), LabError> {
        self.write(DAEMON, &pid.to_string())
    }

    pub fn forget_daemon(&self) -> Result<(), LabError> {
        self.remove(&self.folder.join(DAEMON), |path| fs::remove_file(path))
    }

    pub fn remove_all(&self) -> Result<(), LabError> {
        self.remove(&self.folder, |path| fs::remove_dir_all(path))
    }

    pub fn write(&self, file: &str, text: &str) -> Result<(), LabError> {
        let path = self.folder.join(file);
        fs::write(&path, text).map_err(LabError::io(format!("write {}", path.display())))
    }

    fn read(&self, file: &str) -> Result<Option<String>, LabError> {
        let path = self.folder.join(file);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(LabError::io(format!("read {}", path.display()))(error)),
        }
    }

    fn remove(&self, path: &Path, remove: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), LabError> {
        match remove(path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(LabError::io(format!("remove {}", path.display()))(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_leave_the_folder() {
        for name in ["", "..", "a/b", "/etc", "A", "a b"] {
            assert!(State::of(name).is_err(), "{name}");
        }
        assert!(State::of("demo-2").is_ok());
    }
}
