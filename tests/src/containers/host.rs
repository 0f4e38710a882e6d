//! What the runtimes of one node see of the machine: the node's network, and folders of their own.
//!
//! ```text
//!     machine  /run/netns ═══════════ shared: a namespace that podman makes is there for the router, too
//!     holder   /etc /opt /var/lib     overlays: read from the machine, written to memory
//!              /run                   empty, but for namespaces and the topology's sockets
//!              /sys/fs/cgroup/TAG     every container, whichever runtime has it
//! ```
//!
//! One process, the holder, keeps a mount namespace; everything else is started in it, and in the node's network namespace,
//! with a word in its environment that tells whose it is.
//!
//! Invariants: when a `Host` is dropped no process of it runs, and no mount, network namespace or control group of it is left.
//! What a run left behind that was killed ends when the next of that name starts. `ip netns exec` is not used: it would hide the
//! control groups behind a /sys of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use control::host::netns;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::daemon::{self, SOON};
use crate::topology::{Machine, Topology};
use crate::wait;

/// In the environment of everything that belongs to a host.
const TAG: &str = "VROUTER_CONTAINERS";
const CGROUPS: &str = "/sys/fs/cgroup";
/// Debian's reference plugins.
pub const REFERENCE_PLUGINS: &str = "/usr/lib/cni";
/// What the router's binary is as a plugin: main plugins, address plugins.
pub const OUR_PLUGINS: [&str; 4] = ["vrouter-cni", "calico", "vrouter-ipam", "calico-ipam"];
/// Where runtimes look for plugins.
const PLUGINS: &str = "/opt/cni/bin";
const NETWORKS: &str = "/etc/cni/net.d";
/// `unchanged`, and then one by one: the mount of /run/netns alone stays shared with the machine's.
const SETUP: &str = r#"
for target in $(cut -d' ' -f5 /proc/self/mountinfo); do
    case $target in /run/netns*) ;; *) mount --make-private "$target" 2>/dev/null || true ;; esac
done
mkdir -p "$1"
mount -t tmpfs own "$1"
cd "$1"
mkdir -p etc etc.work opt opt.work lib lib.work run/netns run/vrouter-lab run/lock run/tmp
mount --rbind /run/netns run/netns
mount --bind /run/vrouter-lab run/vrouter-lab
mount -t overlay own -o lowerdir=/etc,upperdir=etc,workdir=etc.work /etc
mount -t overlay own -o lowerdir=/opt,upperdir=opt,workdir=opt.work /opt
mount -t overlay own -o lowerdir=/var/lib,upperdir=lib,workdir=lib.work /var/lib
mount --rbind run /run
rm -rf /etc/cni /opt/cni /var/lib/cni /var/lib/containerd /var/lib/containers /var/lib/docker /etc/docker
mkdir -p /etc/cni/net.d /opt/cni/bin /etc/docker/plugins
echo ready
exec sleep infinity
"#;

/// The place where runtimes are.
pub struct Host {
    machine: Machine,
    tag: String,
    folder: PathBuf,
    holder: Child,
    /// Network namespaces that were there before.
    before: BTreeSet<String>,
}

impl Host {
    /// Makes the place on the topology's node, without any network yet.
    pub fn start(topology: &Topology) -> Host {
        let machine = topology.node();
        let tag = machine.namespace().to_owned();
        end(&tag);
        let folder = topology.folder().join("containers");
        fs::create_dir_all(&folder).unwrap();
        let before = sweep(&tag);
        let mut command = machine.command("unshare");
        command.args(["--mount", "--propagation", "unchanged", "sh", "-euc", SETUP, "sh"]);
        command.arg(folder.join("own")).env(TAG, &tag).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut holder = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let host = Host { machine, tag, folder, holder, before };
        assert_eq!(line, "ready\n", "{}", host.complaint());
        host
    }

    /// Why there is no holder.
    fn complaint(mut self) -> String {
        let mut text = String::new();
        self.holder.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        text
    }

    /// A program of the machine's among the runtimes: their mounts, the node's network. It ends with the calling thread.
    pub fn command(&self, program: &str) -> Command {
        let mut command = self.machine.command("nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.holder.id())).args(["--", program]);
        command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("TMPDIR", "/run/tmp").env("HOME", "/root").envs([self.tag()]);
        command
    }

    /// Something that runs for long; what it says goes to a file in `folder`.
    pub(super) fn start_daemon(&self, name: &str, mut command: Command) -> Child {
        let log = fs::File::create(self.folder.join(name)).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
    }

    /// What it said.
    pub fn log(&self, name: &str) -> String {
        fs::read_to_string(self.folder.join(name)).unwrap_or_default()
    }

    /// A file or folder of the runtimes', as seen from outside.
    pub fn path(&self, inside: &str) -> PathBuf {
        Path::new("/proc").join(self.holder.id().to_string()).join("root").join(inside.trim_start_matches('/'))
    }

    /// Files that both sides see under the same path, gone with the topology.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes a file of the runtimes'.
    pub fn write(&self, inside: &str, text: impl AsRef<[u8]>) {
        let path = self.path(inside);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A network by its list of plugins, which has to have that name.
    pub fn network(&self, name: &str, list: &str) {
        self.write(&format!("{NETWORKS}/{name}.conflist"), list);
    }

    /// A plugin, under the name that networks call it by.
    pub fn plugin(&self, name: &str, program: &Path) {
        let link = self.path(PLUGINS).join(name);
        let _ = fs::remove_file(&link);
        symlink(program, link).unwrap();
    }

    /// All of Debian's, which networks of ours are compared with or chained to.
    pub fn reference_plugins(&self) {
        for entry in fs::read_dir(REFERENCE_PLUGINS).expect("containernetworking-plugins: .ci/run install") {
            let path = entry.unwrap().path();
            self.plugin(path.file_name().unwrap().to_str().unwrap(), &path);
        }
    }

    /// Our own, under every name that the binary is called by, and the socket where they look for it.
    pub fn our_plugins(&self, topology: &Topology) {
        let program = PathBuf::from(daemon::program().get_program());
        for name in OUR_PLUGINS {
            self.plugin(name, &program);
        }
        let link = self.path("/run/vrouter/api.sock");
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        symlink(topology.folder().join("api.sock"), link).unwrap();
    }

    /// For the environment of what does not inherit it.
    pub(super) fn tag(&self) -> (String, String) {
        (TAG.to_owned(), self.tag.clone())
    }

    /// The control group that all containers are below.
    pub(super) fn cgroup(&self) -> String {
        format!("/{}", self.tag)
    }

    /// Network namespaces that were made since, by name.
    pub fn namespaces(&self) -> Vec<String> {
        let now = netns::list().unwrap().into_iter();
        now.filter(|name| is_of_a_container(name) && !self.before.contains(name)).collect()
    }

    /// What of containers is on the node: links but for these, and namespaces. Empty once they are gone.
    pub fn traces(&self, links: &BTreeSet<String>) -> Vec<String> {
        let now = self.links();
        let mut traces: Vec<String> = now.difference(links).map(|name| format!("link {name}")).collect();
        traces.extend(self.namespaces().into_iter().map(|name| format!("namespace {name}")));
        traces
    }

    /// The names of the node's links.
    pub fn links(&self) -> BTreeSet<String> {
        let text = self.machine.run("ip -o link show");
        let names = text.lines().filter_map(|line| line.split(": ").nth(1));
        names.map(|name| name.split('@').next().unwrap().to_owned()).collect()
    }
}

/// As podman names them; the lab and others have names of other forms.
fn is_of_a_container(name: &str) -> bool {
    name.starts_with("netns-") || name.starts_with("cni-")
}

impl Drop for Host {
    fn drop(&mut self) {
        end(&self.tag);
        let _ = self.holder.wait();
        sweep(&self.tag);
        let _ = fs::remove_file(record(&self.tag));
    }
}

/// Which network namespaces there were when a host of that tag started, for the next one if this one is killed.
fn record(tag: &str) -> PathBuf {
    Path::new("/run").join(format!("vrouter-containers-{tag}"))
}

/// Takes away the names of containers' network namespaces that came since the record was written and that nobody is in. Writes it
/// anew, and returns what is in it.
fn sweep(tag: &str) -> BTreeSet<String> {
    let record = record(tag);
    let names = || netns::list().unwrap().into_iter();
    if let Ok(before) = fs::read_to_string(&record) {
        let before: BTreeSet<&str> = before.lines().collect();
        let used = namespaces_in_use();
        let is_used = |name: &str| fs::metadata(netns::path(name)).is_ok_and(|file| used.contains(&file.ino()));
        let is_left = |name: &String| is_of_a_container(name) && !before.contains(name.as_str()) && !is_used(name);
        for name in names().filter(is_left) {
            if let Err(error) = netns::delete(&name) {
                eprintln!("{error}");
            }
        }
    }
    fs::write(&record, names().collect::<Vec<_>>().join("\n")).unwrap();
    names().collect()
}

/// By inode, of every process.
fn namespaces_in_use() -> BTreeSet<u64> {
    let processes = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path().join("ns/net"));
    processes.filter_map(|path| fs::metadata(path).ok()).map(|file| file.ino()).collect()
}

/// Ends every process of that tag, and takes away its control groups.
fn end(tag: &str) {
    let is_over = wait::within(SOON, || {
        let processes = processes(tag);
        for process in &processes {
            let _ = kill(Pid::from_raw(*process), Signal::SIGKILL);
        }
        processes.is_empty()
    });
    let are_gone = wait::within(SOON, || remove_cgroups(tag));
    // A second panic while the first unwinds would hide it.
    if !std::thread::panicking() {
        assert!(is_over, "processes of {tag} do not end: {:?}", processes(tag));
        assert!(are_gone, "control groups of {tag} are still in use");
    }
}

/// Those with the tag, and all below them: a container's own have another environment. Not those that are dead already.
fn processes(tag: &str) -> BTreeSet<i32> {
    let wanted = format!("{TAG}={tag}");
    let mut found = BTreeSet::new();
    let mut parents: BTreeMap<i32, i32> = BTreeMap::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(process) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // PID (NAME) STATE PARENT …, where NAME may hold anything.
        let mut words = stat.rsplit(") ").next().unwrap_or_default().split(' ');
        let (Some(state), Some(Ok(parent))) = (words.next(), words.next().map(str::parse)) else { continue };
        if state == "Z" {
            continue;
        }
        parents.insert(process, parent);
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        if environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes()) {
            found.insert(process);
        }
    }
    loop {
        let below = |(process, parent): (&i32, &i32)| found.contains(parent).then_some(*process);
        let more: Vec<i32> = parents.iter().filter_map(below).filter(|process| !found.contains(process)).collect();
        if more.is_empty() {
            return found;
        }
        found.extend(more);
    }
}

/// True when there are none left, in any hierarchy.
fn remove_cgroups(tag: &str) -> bool {
    let hierarchies = fs::read_dir(CGROUPS).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut roots: Vec<PathBuf> = hierarchies.filter(|path| path.file_name().is_some_and(|name| name != tag)).collect();
    roots.push(PathBuf::from(CGROUPS));
    // Not short of one that stays: the others go all the same.
    roots.into_iter().map(|root| root.join(tag)).filter(|group| !remove_cgroup(group)).count() == 0
}

fn remove_cgroup(group: &Path) -> bool {
    let Ok(entries) = fs::read_dir(group) else { return true };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_cgroup(&entry.path());
    }
    fs::remove_dir(group).is_ok()
}
