//! The daemon with a large cluster in its datastore: how long it takes to start, what it holds in memory, and how long a
//! change takes from the request until every worker's next breath uses it.
//!
//! ```text
//!     namespace   vrouter run ── cali0 … cali99: endpoints of the node
//!                    ▲
//!                    │ unix socket: apply
//!                 this process: 100,000 endpoints of other nodes, 2,000 policies, then one change after the other
//! ```
//!
//! A change is timed from the first byte of its request to the last byte of the answer, which comes after the tables are
//! published: parsing, checks, the commit to disk, calculation and compilation are all in it.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::lab::{self, LabError, system};
use crate::memory::thousands;
use crate::random::Random;
use crate::report::{Measurement, Report, Spread};
use crate::{Error, Scale};

/// Applications in the cluster; endpoints and policies say which one they are about.
const APPS: u64 = 100;
const TIERS: [&str; 3] = ["front", "middle", "back"];
/// Objects in one request.
const BATCH: usize = 2000;
const PATIENCE: Duration = Duration::from_secs(120);

pub fn measure(scale: &Scale, report: &mut Report) -> Result<(), Error> {
    let Some(program) = program() else {
        report.note("cluster: no vrouter beside this program; build it first: cargo build --release -p vrouter");
        return Ok(());
    };
    let (endpoints, policies, local, changes) = scale.cluster;
    let place = Place::new("cluster")?;
    place.batch(&place.namespace, &links(local))?;
    let mut daemon = place.start(&program, &[])?;
    let start = Instant::now();
    let mut batch = Vec::new();
    let all = (0..endpoints).map(|position| endpoint(position, position < local));
    for object in all.chain((0..policies).map(|position| policy(position, 0))) {
        batch.push(object);
        if batch.len() == BATCH {
            place.apply(&std::mem::take(&mut batch))?;
        }
    }
    place.apply(&batch)?;
    let name = format!("{} endpoints, {} policies, {local} local", thousands(endpoints), thousands(policies));
    report.note(&format!("{name}: written in {:.1} s", start.elapsed().as_secs_f64()));

    daemon.stop()?;
    let start = Instant::now();
    let mut daemon = place.start(&program, &[])?;
    let started = start.elapsed().as_secs_f64();
    let memory = daemon.peak_memory()?;
    report.add(Measurement {
        group: "cluster",
        name: format!("start, {name}"),
        frame_mode: "copy",
        numbers: vec![("s to in sync", started), ("MB at most", memory)],
    })?;

    let mut random = Random::new(3);
    let mut time = |what: &str, make: &mut dyn FnMut(usize, &mut Random) -> Value| -> Result<(), Error> {
        let mut spread = Spread::default();
        for round in 0..changes {
            let object = make(round, &mut random);
            let start = Instant::now();
            place.apply(&[object])?;
            spread.record(start.elapsed().as_nanos() as u64, 1);
        }
        let milliseconds = |percent| spread.percentile(percent) / 1e6;
        report.add(Measurement {
            group: "cluster",
            name: what.to_owned(),
            frame_mode: "copy",
            numbers: vec![("ms p50", milliseconds(50.0)), ("p99", milliseconds(99.0)), ("max", milliseconds(100.0))],
        })?;
        Ok(())
    };
    time("apply of a policy's new rules", &mut |round, random| {
        policy(random.below(policies as u64) as usize, round as u32 + 1)
    })?;
    time("apply of a new policy", &mut |round, _| policy(policies + round, 0))?;
    time("apply of an endpoint's new labels", &mut |round, random| {
        let mut object = endpoint(local + random.below((endpoints - local) as u64) as usize, false);
        object["metadata"]["labels"]["app"] = format!("app-{}", round as u64 % APPS).into();
        object
    })?;
    daemon.stop()?;
    Ok(())
}

/// The daemon beside this program, or the one of the debug build.
pub(crate) fn program() -> Option<PathBuf> {
    let own = std::env::current_exe().ok()?;
    let folder = own.parent()?;
    let candidates = [folder.join("vrouter"), folder.join("../debug/vrouter")];
    candidates.into_iter().find(|path| path.exists())
}

/// One of the cluster's endpoints: 10.A.B.C, in one of 20 namespaces, part of one of the applications.
pub(crate) fn endpoint(position: usize, is_local: bool) -> Value {
    let number = position as u32;
    let address = address(position);
    let node = if is_local { "router".to_owned() } else { format!("node-{}", number / 100) };
    let labels = json!({
        "app": format!("app-{}", u64::from(number) % APPS),
        "tier": TIERS[position % 3],
        "version": format!("v{}", number % 7),
        "zone": format!("zone-{}", number % 11),
    });
    json!({
        "apiVersion": "projectcalico.org/v3",
        "kind": "WorkloadEndpoint",
        "metadata": {
            "name": format!("{}-k8s-pod--{number}-eth0", node.replace('-', "--")),
            "namespace": format!("ns-{}", number % 20),
            "labels": labels,
        },
        "spec": {
            "node": node, "orchestrator": "k8s", "pod": format!("pod-{number}"), "endpoint": "eth0",
            "interfaceName": if is_local { format!("cali{number}") } else { format!("cali{number:08x}") },
            "mac": mac(position),
            "ipNetworks": [format!("{address}/32")],
        },
    })
}

pub(crate) fn address(position: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a40_0000 + position as u32)
}

pub(crate) fn mac(position: usize) -> String {
    let [a, b, c, d] = (position as u32).to_be_bytes();
    format!("02:00:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

/// A policy for one application: ten rules about others.
pub(crate) fn policy(position: usize, version: u32) -> Value {
    let mut random = Random::new(position as u64 * 1000 + u64::from(version));
    let rule = |random: &mut Random| {
        json!({
            "action": "Allow",
            "protocol": "TCP",
            "source": {"selector": format!(
                "app == 'app-{}' && tier == '{}'", random.below(APPS), TIERS[random.below(3) as usize]
            )},
            "destination": {"ports": [1024 + random.below(4096)]},
        })
    };
    json!({
        "apiVersion": "projectcalico.org/v3",
        "kind": "GlobalNetworkPolicy",
        "metadata": {"name": format!("policy-{position}")},
        "spec": {
            "order": position % 500,
            "selector": format!("app == 'app-{}'", position as u64 % APPS),
            "types": ["Ingress"],
            "ingress": (0..10).map(|_| rule(&mut random)).collect::<Vec<_>>(),
        },
    })
}

/// A namespace with interfaces, and a folder with the datastore and the socket.
pub(crate) struct Place {
    pub(crate) namespace: String,
    pub(crate) folder: PathBuf,
}

/// The interfaces of so many endpoints, as commands of `ip`.
fn links(local: usize) -> String {
    (0..local).fold(String::new(), |mut lines, number| {
        let _ = writeln!(lines, "link add cali{number} type veth peer name peer{number}");
        lines
    })
}

impl Place {
    pub(crate) fn new(purpose: &str) -> Result<Place, LabError> {
        let namespace = lab::namespace(purpose)?;
        let folder = std::env::temp_dir().join(&namespace);
        fs::create_dir_all(&folder).map_err(system("make a folder"))?;
        Ok(Place { namespace, folder })
    }

    /// Commands of `ip`, one a line, in a namespace.
    pub(crate) fn batch(&self, namespace: &str, lines: &str) -> Result<(), LabError> {
        let path = self.folder.join("batch");
        fs::write(&path, lines).map_err(system("write commands"))?;
        lab::run("ip", &["-n", namespace, "-batch", &path.to_string_lossy()])
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.join("api.sock")
    }

    /// Returns when the daemon is in sync.
    pub(crate) fn start(&self, program: &Path, more: &[&str]) -> Result<Daemon, LabError> {
        let log = fs::File::create(self.folder.join("log")).map_err(system("make a log"))?;
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace]).arg(program).args(["run", "--node-name", "router"]).args(more);
        command.arg("--datastore").arg(format!("embedded:{}", self.folder.join("store").display()));
        command.arg("--api-socket").arg(self.socket()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = lab::spawn(&mut command)?;
        let daemon = Daemon(child);
        let start = Instant::now();
        while !self.request("GET", "/v1/show/status", "").is_ok_and(|text| text.contains("\"is_ready\":true")) {
            if start.elapsed() > PATIENCE {
                let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
                return Err(LabError::Command { command: "vrouter run".to_owned(), output: log });
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(daemon)
    }

    pub(crate) fn apply(&self, objects: &[Value]) -> Result<(), LabError> {
        if objects.is_empty() {
            return Ok(());
        }
        let body = json!({ "resources": objects }).to_string();
        self.request("POST", "/v1/apply", &body).map(|_| ()).map_err(system("apply objects"))
    }

    /// One call whose answer is one of success.
    pub(crate) fn post(&self, path: &str, body: &Value) -> io::Result<()> {
        self.request("POST", path, &body.to_string()).map(|_| ())
    }

    /// One of the daemon's views.
    pub(crate) fn shown(&self, what: &str) -> Result<Value, LabError> {
        let text = self.request("GET", &format!("/v1/show/{what}"), "").map_err(system("ask the daemon"))?;
        let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        serde_json::from_str(body).map_err(|error| system(format!("read what it says of {what}"))(error.into()))
    }

    /// Waits until a number of the daemon's status is right.
    pub(crate) fn await_status(&self, field: &str, is_right: impl Fn(u64) -> bool) -> Result<(), LabError> {
        let start = Instant::now();
        while !self.shown("status")?[field].as_u64().is_some_and(&is_right) {
            if start.elapsed() > PATIENCE {
                return Err(LabError::Late { what: format!("{field} of the daemon"), seconds: PATIENCE.as_secs() });
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// The whole answer, which must be one of success.
    fn request(&self, method: &str, path: &str, body: &str) -> io::Result<String> {
        let mut stream = UnixStream::connect(self.socket())?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: vrouter\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(body.as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let is_success = text.split(' ').nth(1) == Some("200");
        if is_success { Ok(text) } else { Err(io::Error::other(text.chars().take(2000).collect::<String>())) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lab::delete_namespace(&self.namespace);
        let _ = fs::remove_dir_all(&self.folder);
    }
}

pub(crate) struct Daemon(Child);

impl Daemon {
    /// The most it ever held, in MB.
    fn peak_memory(&mut self) -> Result<f64, LabError> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id())).map_err(system("read memory"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
        let kilobytes: f64 = line.trim().trim_end_matches(" kB").parse().unwrap_or(f64::NAN);
        Ok(kilobytes / 1000.0)
    }

    /// What it holds at present, in bytes, by the kernel's count.
    pub(crate) fn resident(&self) -> Result<f64, LabError> {
        let path = format!("/proc/{}/smaps_rollup", self.0.id());
        let text = fs::read_to_string(path).map_err(system("read memory"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("Rss:")).unwrap_or_default();
        Ok(line.trim().trim_end_matches(" kB").parse().unwrap_or(f64::NAN) * 1024.0)
    }

    pub(crate) fn stop(&mut self) -> Result<(), LabError> {
        lab::run("kill", &["-TERM", &self.0.id().to_string()])?;
        self.0.wait().map(|_| ()).map_err(system("wait for vrouter"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
