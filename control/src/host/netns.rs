//! Named network namespaces, the way `ip netns` keeps them: a bind mount of the namespace on
//! /run/netns/NAME. What is made here `ip netns exec NAME` can enter, and the other way round.
//!
//! A thread changes namespace, not a process; so everything that enters one does it on a thread of its
//! own that ends afterwards. No other thread ever changes where it is.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::panic;
use std::path::{Path, PathBuf};
use std::thread;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use super::HostError;

const FOLDER: &str = "/run/netns";
const NONE: Option<&str> = None;

/// Where the namespace of that name is mounted.
pub fn path(name: &str) -> PathBuf {
    Path::new(FOLDER).join(name)
}

/// Whether there is a namespace (or a leftover of one) of that name.
pub fn exists(name: &str) -> bool {
    path(name).exists()
}

/// The names there are, sorted.
pub fn list() -> Result<Vec<String>, HostError> {
    let entries = match fs::read_dir(FOLDER) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(HostError::io("list network namespaces")(error)),
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<String> = names.collect();
    names.sort();
    Ok(names)
}

/// Makes a new namespace, its loopback still down. Fails if the name is taken.
pub fn create(name: &str) -> Result<(), HostError> {
    check_name(name)?;
    let action = || format!("create network namespace {name}");
    prepare_folder().map_err(HostError::io(action()))?;
    let target = path(name);
    OpenOptions::new().write(true).create_new(true).mode(0o000).open(&target).map_err(HostError::io(action()))?;
    let mounted = on_own_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        let own = Path::new("/proc/thread-self/ns/net");
        mount(Some(own), &target, NONE, MsFlags::MS_BIND, NONE)?;
        Ok::<(), nix::Error>(())
    });
    let mounted = mounted
        .map_err(HostError::io(action()))
        .and_then(|result| result.map_err(|error| HostError::io(action())(error.into())));
    if mounted.is_err() {
        let _ = fs::remove_file(&target);
    }
    mounted
}

/// Takes the name away; the namespace goes with the last process or socket in it. Nothing of that
/// name is fine, and so is a file left behind without a mount.
pub fn delete(name: &str) -> Result<(), HostError> {
    check_name(name)?;
    let action = || format!("delete network namespace {name}");
    let target = path(name);
    match umount2(&target, MntFlags::MNT_DETACH) {
        // EINVAL: not a mount point.
        Ok(()) | Err(nix::Error::ENOENT | nix::Error::EINVAL) => {}
        Err(error) => return Err(HostError::io(action())(error.into())),
    }
    match fs::remove_file(&target) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(HostError::io(action())(error)),
    }
}

/// The namespace as a file: to put a link into it, or to enter it.
pub fn open(name: &str) -> Result<File, HostError> {
    check_name(name)?;
    File::open(path(name)).map_err(HostError::io(format!("open network namespace {name}")))
}

/// Runs `work` in that namespace, on a thread of its own, and gives back its result. Sockets and
/// tokio runtimes made inside stay in the namespace and may be returned.
pub fn in_namespace<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> Result<T, HostError> {
    in_namespace_of(&open(name)?, name, work)
}

/// As `in_namespace`, for a namespace that is known by a file only (`/proc/PID/ns/net`).
pub fn in_namespace_of<T: Send>(namespace: &File, name: &str, work: impl FnOnce() -> T + Send) -> Result<T, HostError> {
    let action = || format!("enter network namespace {name}");
    let result = on_own_thread(|| {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        Ok::<T, nix::Error>(work())
    });
    match result {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(HostError::io(action())(error.into())),
        Err(error) => Err(HostError::io(action())(error)),
    }
}

/// As `in_namespace`, with /sys showing that namespace too: /sys/class/net lists what was there when
/// sysfs was mounted, so it is mounted anew, for this one thread.
pub fn in_namespace_with_sysfs<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> Result<T, HostError> {
    in_namespace(name, || {
        mount_sysfs(name)?;
        Ok(work())
    })?
}

/// As `in_namespace_with_sysfs`, for a namespace that is known by a file only.
pub fn in_namespace_of_with_sysfs<T: Send>(
    namespace: &File,
    name: &str,
    work: impl FnOnce() -> T + Send,
) -> Result<T, HostError> {
    in_namespace_of(namespace, name, || {
        mount_sysfs(name)?;
        Ok(work())
    })?
}

/// Gives the calling thread a /sys that shows the network namespace it is in.
fn mount_sysfs(name: &str) -> Result<(), HostError> {
    let mounted = unshare(CloneFlags::CLONE_NEWNS)
        // Nothing mounted here may be seen outside.
        .and_then(|()| mount(NONE, "/", NONE, MsFlags::MS_SLAVE | MsFlags::MS_REC, NONE))
        .and_then(|()| mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), NONE));
    mounted.map_err(|error| HostError::io(format!("mount sysfs of network namespace {name}"))(error.into()))
}

/// Runs `work` in a new namespace without a name, which is gone when the last thing `work` made in it is.
pub fn in_scratch<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, HostError> {
    let action = "make a scratch network namespace";
    let result = on_own_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        Ok::<T, nix::Error>(work())
    });
    match result {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(HostError::io(action)(error.into())),
        Err(error) => Err(HostError::io(action)(error)),
    }
}

/// A panic inside is our own mistake and goes on outside.
fn on_own_thread<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().spawn_scoped(scope, work)?;
        thread.join().or_else(|payload| panic::resume_unwind(payload))
    })
}

/// /run/netns as iproute2 prepares it: a mount point of its own and shared, so that a namespace made
/// in one mount namespace is seen, and can be removed, in the others.
fn prepare_folder() -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(FOLDER)?;
    let share = || mount(Some(""), FOLDER, Some("none"), MsFlags::MS_SHARED | MsFlags::MS_REC, NONE);
    match share() {
        Ok(()) => return Ok(()),
        // Not a mount point yet.
        Err(nix::Error::EINVAL) => {}
        Err(error) => return Err(error.into()),
    }
    mount(Some(FOLDER), FOLDER, Some("none"), MsFlags::MS_BIND | MsFlags::MS_REC, NONE)?;
    Ok(share()?)
}

fn check_name(name: &str) -> Result<(), HostError> {
    let legal = !name.is_empty()
        && name.len() <= 255
        && name != "."
        && name != ".."
        && !name.bytes().any(|byte| byte == b'/' || byte == 0);
    if legal {
        return Ok(());
    }
    Err(HostError::Invalid {
        what: "network namespace name",
        value: name.to_owned(),
        expected: "a file name: 1 to 255 bytes, no slash",
    })
}
