//! A network namespace given by a path: opened once, looked at, and from then on the file counts and not the path.
//!
//! Sources: ioctl_ns(2), statfs(2) (NSFS_MAGIC).

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::sys::statfs::fstatfs;

use super::error::WorkloadError;
use crate::host::{HostError, netns};

const OWN: &str = "/proc/self/ns/net";
/// NSFS_MAGIC of linux/magic.h.
const NSFS: i64 = 0x6e73_6673;
const PATH_MAX: usize = 4096;

#[derive(Debug)]
pub struct Namespace {
    file: File,
    path: PathBuf,
}

impl Namespace {
    /// None: there is nothing at that path.
    pub fn open(path: &Path) -> Result<Option<Namespace>, WorkloadError> {
        let wrong = |reason: &str| WorkloadError::Namespace { path: path.to_path_buf(), reason: reason.to_string() };
        if !path.is_absolute() || path.as_os_str().len() > PATH_MAX || path.as_os_str().as_encoded_bytes().contains(&0)
        {
            return Err(wrong("expected an absolute path of at most 4096 bytes"));
        }
        // What is no namespace may be a pipe: opening must not wait.
        let file = match OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path) {
            Ok(file) => file,
            Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound) => return Ok(None),
            Err(error) => return Err(wrong(&error.to_string())),
        };
        let system = fstatfs(&file).map_err(|error| wrong(error.desc()))?;
        if system.filesystem_type().0 != NSFS {
            return Err(wrong("it is not a network namespace"));
        }
        let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let found = file.metadata().map(identity).map_err(|error| wrong(&error.to_string()))?;
        let own = fs::metadata(OWN).map(identity).map_err(|error| wrong(&error.to_string()))?;
        if found == own {
            return Err(wrong("it is the host's own network namespace"));
        }
        Ok(Some(Namespace { file, path: path.to_path_buf() }))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn file(&self) -> &File {
        &self.file
    }

    /// Runs `work` inside, on a thread of its own. A namespace of another kind is refused by the kernel here.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, HostError> {
        netns::in_namespace_of(&self.file, &self.path.display().to_string(), work)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_is_no_namespace_is_told_so() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "x").unwrap();
        let pipe = folder.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(OWN, &link).unwrap();
        let reason = |path: &Path| match Namespace::open(path) {
            Err(WorkloadError::Namespace { reason, .. }) => reason,
            other => panic!("{}: {other:?}", path.display()),
        };
        assert!(Namespace::open(&folder.path().join("nothing")).unwrap().is_none());
        assert_eq!(reason(&file), "it is not a network namespace");
        assert_eq!(reason(&pipe), "it is not a network namespace");
        assert_eq!(reason(folder.path()), "it is not a network namespace");
        assert_eq!(reason(&link), "it is the host's own network namespace");
        assert!(reason(Path::new("relative")).starts_with("expected an absolute path"));
        assert!(reason(Path::new("/a\0b")).starts_with("expected an absolute path"));
        assert!(reason(&PathBuf::from(format!("/{}", "a".repeat(5000)))).starts_with("expected"));
    }
}
