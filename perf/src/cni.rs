//! Containers added and taken away by the CNI plugin, beside the reference plugins bridge and host-local.
//!
//! ```text
//!     namespace    vrouter run ◀─unix socket─ vrouter-cni ┐
//!                  bridge cni0 ◀─────────── bridge, host-local ┴─ this process, as a runtime: nsenter, the plugin, its answer
//!     containers   one namespace each, with an interface of either
//! ```
//!
//! A call is timed from the start of `nsenter`, which enters the node's namespace and becomes the plugin, until its answer has
//! been read. Ours comes back when policy is in force; the bridge has none. Both are called in turn for the same container, so
//! that what the machine does meanwhile is the same for both. The kernel deletes namespaces in its own time: that is in
//! neither.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use serde_json::{Value, json};

use crate::cluster::{Place, program};
use crate::lab::{self, LabError, system};
use crate::report::{Measurement, Report, Spread};
use crate::{Error, Scale};

/// Where Debian puts the reference plugins.
const REFERENCE: &str = "/usr/lib/cni";

/// Who is added at the same time.
const TOGETHER: usize = 200;

struct Caller {
    /// The node's namespace, as a file.
    node: PathBuf,
    plugin: PathBuf,
    socket: PathBuf,
    config: String,
    ifname: &'static str,
}

impl Caller {
    fn call(&self, verb: &str, container: &str) -> Result<u64, LabError> {
        let start = Instant::now();
        let mut child = lab::spawn(
            Command::new("nsenter")
                .arg(format!("--net={}", self.node.display()))
                .arg(&self.plugin)
                .env("VROUTER_SOCKET", &self.socket)
                .env("CNI_COMMAND", verb)
                .env("CNI_CONTAINERID", container)
                .env("CNI_NETNS", path_of(container))
                .env("CNI_IFNAME", self.ifname)
                .env("CNI_PATH", REFERENCE)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null()),
        )?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(self.config.as_bytes()).map_err(system("write the configuration"))?;
        }
        let output = child.wait_with_output().map_err(system("wait for the plugin"))?;
        let taken = start.elapsed().as_nanos() as u64;
        match output.status.success() {
            true => Ok(taken),
            false => Err(LabError::Command {
                command: format!("{verb} of {}", self.plugin.display()),
                output: String::from_utf8_lossy(&output.stdout).into_owned(),
            }),
        }
    }
}

pub fn measure(scale: &Scale, report: &mut Report) -> Result<(), Error> {
    let Some(program) = program() else {
        report.note("cni: no vrouter beside this program; build it first: cargo build --release -p vrouter");
        return Ok(());
    };
    let place = Place::new("cni")?;
    let mut daemon = place.start(&program, &[])?;
    place.apply(&[json!({
        "apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": { "name": "main" },
        "spec": { "cidr": "10.65.0.0/16" },
    })])?;
    let plugin = place.folder.join("vrouter-cni");
    std::os::unix::fs::symlink(&program, &plugin).map_err(system("name the plugin"))?;
    let node = path_of(&place.namespace);
    let caller = |plugin: &Path, ifname: &'static str, config: Value| Caller {
        node: node.clone(),
        plugin: plugin.to_path_buf(),
        socket: place.socket(),
        config: config.to_string(),
        ifname,
    };
    let ours = caller(&plugin, "eth0", json!({ "cniVersion": "1.0.0", "name": "pods", "type": "vrouter-cni" }));
    let bridge = Path::new(REFERENCE).join("bridge");
    let ipam = json!({ "type": "host-local", "subnet": "10.90.0.0/16", "dataDir": place.folder.join("host-local") });
    let reference = json!({
        "cniVersion": "1.0.0", "name": "reference", "type": "bridge", "bridge": "cni0", "isGateway": true, "ipam": ipam,
    });
    let reference = bridge.is_file().then(|| caller(&bridge, "eth1", reference));
    if reference.is_none() {
        report.note("cni: no reference plugins; Debian has them in containernetworking-plugins");
    }

    let containers = Containers::new(scale.containers.max(TOGETHER.min(scale.containers * 2)))?;
    let mut spreads = [(); 4].map(|()| Spread::default());
    let [add, del, add_reference, del_reference] = &mut spreads;
    for container in containers.0.iter().take(scale.containers) {
        add.record(ours.call("ADD", container)?, 1);
        if let Some(reference) = &reference {
            add_reference.record(reference.call("ADD", container)?, 1);
        }
    }
    for container in containers.0.iter().take(scale.containers) {
        del.record(ours.call("DEL", container)?, 1);
        if let Some(reference) = &reference {
            del_reference.record(reference.call("DEL", container)?, 1);
        }
    }
    let count = scale.containers;
    add_line(report, format!("ADD, up to {count} on the node"), add)?;
    add_line(report, format!("DEL, from {count}"), del)?;
    if reference.is_some() {
        add_line(report, format!("bridge and host-local: ADD, up to {count}"), add_reference)?;
        add_line(report, format!("bridge and host-local: DEL, from {count}"), del_reference)?;
    }

    for verb in ["ADD", "DEL"] {
        let start = Instant::now();
        let taken: Vec<Result<u64, LabError>> = thread::scope(|scope| {
            let ours = &ours;
            let threads: Vec<_> =
                containers.0.iter().map(|container| scope.spawn(move || ours.call(verb, container))).collect();
            let broken = || Err(system("call the plugin")(io::Error::other("the thread has failed")));
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| broken())).collect()
        });
        let seconds = start.elapsed().as_secs_f64();
        let mut spread = Spread::default();
        for taken in taken {
            spread.record(taken?, 1);
        }
        report.add(Measurement {
            group: "cni",
            name: format!("{verb}, {} at the same time", containers.0.len()),
            frame_mode: "copy",
            numbers: vec![
                ("containers/s", containers.0.len() as f64 / seconds),
                ("ms p50", spread.percentile(50.0) / 1e6),
                ("max", spread.percentile(100.0) / 1e6),
            ],
        })?;
    }
    daemon.stop()?;
    Ok(())
}

fn add_line(report: &mut Report, name: String, spread: &Spread) -> Result<(), Error> {
    let milliseconds = |percent| spread.percentile(percent) / 1e6;
    report.add(Measurement {
        group: "cni",
        name,
        frame_mode: "copy",
        numbers: vec![("ms p50", milliseconds(50.0)), ("p99", milliseconds(99.0)), ("max", milliseconds(100.0))],
    })?;
    Ok(())
}

/// Their namespaces, gone when this is dropped.
struct Containers(Vec<String>);

impl Containers {
    fn new(count: usize) -> Result<Containers, LabError> {
        let mut containers = Containers(Vec::with_capacity(count));
        for number in 0..count {
            containers.0.push(lab::namespace(&format!("ct{number}"))?);
        }
        Ok(containers)
    }
}

impl Drop for Containers {
    fn drop(&mut self) {
        self.0.iter().for_each(|name| lab::delete_namespace(name));
    }
}

fn path_of(namespace: &str) -> PathBuf {
    Path::new("/run/netns").join(namespace)
}
