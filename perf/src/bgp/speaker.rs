//! Who is measured: BIRD 2 or our router, started in the place's namespace with the same sessions.
//!
//! BIRD has no kernel protocol and no import table, and peers are `direct`, which is the cheapest it can do. Our router writes no
//! kernel routes either; it has the veth for an uplink, a filter that lets everything out, because Calico's own rules tell
//! nothing that is not in a pool, and what it keeps besides: its forwarding tables. Both are asked over their sockets.
//!
//! Invariants: a speaker answers when `start` returns; it is gone when it is dropped.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::place::{self, Place};
use crate::cluster;
use crate::lab::{self, LabError, system};

const START_LIMIT: Duration = Duration::from_secs(30);
const STOP_LIMIT: Duration = Duration::from_secs(20);
const STEP: Duration = Duration::from_millis(20);
/// An answer of BIRD's; a busy one answers late.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// The kernel's unit in /proc/PID/stat, whatever it counts in itself.
const TICKS_PER_SECOND: f64 = 100.0;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Speaker {
    Bird,
    Vrouter,
}

/// A session that the speaker should have.
#[derive(Clone, Copy, Debug)]
pub struct Session {
    pub address: Ipv4Addr,
    pub as_number: u32,
}

/// The sessions, and the speaker's own system. Peers of the same system are clients that it reflects to.
pub struct Sessions {
    pub as_number: u32,
    pub peers: Vec<Session>,
}

impl Speaker {
    pub const ALL: [Speaker; 2] = [Speaker::Bird, Speaker::Vrouter];

    pub fn name(self) -> &'static str {
        match self {
            Speaker::Bird => "BIRD 2",
            Speaker::Vrouter => "vrouter",
        }
    }

    /// Why it cannot be measured.
    pub fn absent(self) -> Option<String> {
        match self {
            Speaker::Bird => {
                let output = Command::new("bird").arg("--version").output();
                output.is_err().then(|| "not installed (Debian package bird2)".to_owned())
            }
            Speaker::Vrouter => {
                let Some(program) = cluster::program() else {
                    return Some("not beside this program: cargo build --release -p vrouter".to_owned());
                };
                let output = Command::new(program).args(["bgp", "summary", "--help"]).output();
                let knows = output.is_ok_and(|output| output.status.success());
                (!knows).then(|| "has no `bgp summary`".to_owned())
            }
        }
    }

    pub fn start(self, place: &Place, sessions: &Sessions) -> Result<Running, LabError> {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", place.speaker()]);
        match self {
            Speaker::Bird => {
                let config = place.file("bird.conf");
                fs::write(&config, bird(sessions)).map_err(system("write BIRD's configuration"))?;
                let _ = fs::remove_file(place.file("bird.socket"));
                command.args(["bird", "-f", "-c"]).arg(config).arg("-s").arg(place.file("bird.socket"));
                command.arg("-P").arg(place.file("bird.pid"));
            }
            Speaker::Vrouter => {
                let program = cluster::program().ok_or(LabError::Peer("no vrouter beside this program".to_owned()))?;
                let _ = fs::remove_dir_all(place.file("store"));
                command.arg(program).args(["run", "--node-name", "router", "--uplinks", "up0"]);
                command.arg("--datastore").arg(format!("embedded:{}", place.file("store").display()));
                command.arg("--api-socket").arg(place.file("api.sock")).args(["--bgp-kernel-routes", "off"]);
            }
        }
        let log = File::create(place.file("log")).map_err(system("make a log"))?;
        let errors = log.try_clone().map_err(system("make a log"))?;
        let child = lab::spawn(command.stdin(Stdio::null()).stdout(log).stderr(errors))?;
        let mut running = Running { speaker: self, child, folder: place.folder().to_owned(), bird: None };
        running.await_answer()?;
        if self == Speaker::Vrouter {
            let body = json!({ "resources": resources(sessions) }).to_string();
            running.request("POST", "/v1/apply", &body).map_err(system("apply sessions"))?;
        }
        Ok(running)
    }
}

fn bird(sessions: &Sessions) -> String {
    let mut text = format!("router id {};\nprotocol device {{}}\n", place::SPEAKER);
    for (number, peer) in sessions.peers.iter().enumerate() {
        let client = if peer.as_number == sessions.as_number { " rr client;" } else { "" };
        let _ = writeln!(
            text,
            "protocol bgp p{number} {{ local {} as {}; neighbor {} as {}; direct; passive;{client} \
             ipv4 {{ import all; export all; }}; }}",
            place::SPEAKER,
            sessions.as_number,
            peer.address,
            peer.as_number
        );
    }
    text
}

/// The same as resources.
fn resources(sessions: &Sessions) -> Vec<Value> {
    let object = |kind: &str, name: &str, spec: Value| json!({"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": {"name": name}, "spec": spec});
    let number = sessions.as_number;
    let address = format!("{}/16", place::SPEAKER);
    let node = json!({"bgp": {"ipv4Address": address, "asNumber": number, "routeReflectorClusterID": "10.99.0.1"}});
    let everything = json!({"exportV4": [{"action": "Accept"}], "importV4": [{"action": "Accept"}]});
    let mut all = vec![
        object("BGPConfiguration", "default", json!({"nodeToNodeMeshEnabled": false, "asNumber": number})),
        object("Node", "router", node),
        object("BGPFilter", "everything", everything),
    ];
    for (position, peer) in sessions.peers.iter().enumerate() {
        let spec = json!({
            "node": "router", "peerIP": peer.address.to_string(), "asNumber": peer.as_number, "filters": ["everything"],
        });
        all.push(object("BGPPeer", &format!("peer-{position}"), spec));
    }
    all
}

pub struct Running {
    speaker: Speaker,
    child: Child,
    folder: PathBuf,
    /// Kept open: BIRD answers one question after the other.
    bird: Option<UnixStream>,
}

impl Running {
    fn await_answer(&mut self) -> Result<(), LabError> {
        let start = Instant::now();
        loop {
            let is_ready = match self.speaker {
                Speaker::Bird => self.ask_bird("show status").is_ok(),
                Speaker::Vrouter => {
                    self.request("GET", "/v1/show/status", "").is_ok_and(|text| text.contains("\"is_ready\":true"))
                }
            };
            if is_ready {
                return Ok(());
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(LabError::Peer(format!("{} ended ({status}): {}", self.speaker.name(), self.last_words())));
            }
            if start.elapsed() > START_LIMIT {
                return Err(LabError::Late { what: self.speaker.name().to_owned(), seconds: START_LIMIT.as_secs() });
            }
            thread::sleep(STEP);
        }
    }

    fn last_words(&self) -> String {
        let said = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
        lines[lines.len().saturating_sub(3)..].join("; ")
    }

    /// Prefixes in its table that came from this peer.
    pub fn prefixes(&mut self, peer: usize, address: Ipv4Addr) -> Result<u64, LabError> {
        match self.speaker {
            Speaker::Bird => {
                let text = self.ask_bird(&format!("show protocols all p{peer}")).map_err(system("ask BIRD"))?;
                let routes = text.lines().find_map(|line| line.trim().strip_prefix("Routes:")).unwrap_or("0");
                Ok(routes.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0))
            }
            Speaker::Vrouter => {
                let text = self.request("POST", "/v1/bgp", "\"summary\"").map_err(system("ask vrouter"))?;
                let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
                let answer: Value = serde_json::from_str(body)
                    .map_err(|error| LabError::Peer(format!("read what vrouter says of its sessions: {error}")))?;
                let address = address.to_string();
                let peers = answer["peers"].as_array().into_iter().flatten();
                let own = peers.filter(|peer| peer["address"] == address.as_str());
                Ok(own.filter_map(|peer| peer["accepted"].as_u64()).sum())
            }
        }
    }

    /// A question to BIRD, over its socket; the whole answer without its codes.
    fn ask_bird(&mut self, question: &str) -> io::Result<String> {
        let mut stream = match self.bird.take() {
            Some(stream) => stream,
            None => {
                let mut stream = UnixStream::connect(self.folder.join("bird.socket"))?;
                stream.set_read_timeout(Some(ANSWER_LIMIT))?;
                // It says its name first.
                answer(&mut stream)?;
                stream
            }
        };
        stream.write_all(format!("{question}\n").as_bytes())?;
        let text = answer(&mut stream)?;
        self.bird = Some(stream);
        Ok(text)
    }

    /// A request to our router: the whole answer, which must be one of success.
    fn request(&self, method: &str, path: &str, body: &str) -> io::Result<String> {
        let mut stream = UnixStream::connect(self.folder.join("api.sock"))?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: vrouter\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(head.as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let is_success = text.split(' ').nth(1) == Some("200");
        if is_success { Ok(text) } else { Err(io::Error::other(text.chars().take(2000).collect::<String>())) }
    }

    /// Seconds of CPU so far, of all its threads and of those that have ended.
    pub fn cpu(&self) -> f64 {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        // The name is in parentheses and may hold spaces; then there are 11 fields before user and system time.
        let fields = text.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace();
        let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        ticks as f64 / TICKS_PER_SECOND
    }

    /// Nanoseconds of CPU so far of its threads that are there now: finer than `cpu`.
    pub fn busy(&self) -> u64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).into_iter().flatten().flatten();
        let of = |task: fs::DirEntry| {
            let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
            text.split_whitespace().next()?.parse::<u64>().ok()
        };
        tasks.filter_map(of).sum()
    }

    /// MiB of memory in use at present.
    pub fn resident(&self) -> f64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        line.split_whitespace().next().and_then(|word| word.parse::<f64>().ok()).map_or(f64::NAN, |kib| kib / 1024.0)
    }

    /// Asks it to end, and waits until it has.
    pub fn stop(mut self) -> Result<(), LabError> {
        lab::run("kill", &["-TERM", &self.child.id().to_string()])?;
        let start = Instant::now();
        while start.elapsed() < STOP_LIMIT && matches!(self.child.try_wait(), Ok(None)) {
            thread::sleep(STEP);
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended; then there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Lines until one whose code is followed by a space: `0000 `, or `8001 ` for what it does not know.
fn answer(stream: &mut UnixStream) -> io::Result<String> {
    let (mut text, mut line) = (String::new(), Vec::new());
    let mut buffer = [0; 4096];
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut is_over = false;
        for byte in &buffer[..length] {
            if *byte != b'\n' {
                line.push(*byte);
                continue;
            }
            let whole = String::from_utf8_lossy(&line).into_owned();
            line.clear();
            // A line without a code of its own begins with a space.
            let has_code = whole.len() > 4 && whole.as_bytes()[..4].iter().all(u8::is_ascii_digit);
            is_over = has_code && whole.as_bytes()[4] == b' ';
            text += if has_code { &whole[5..] } else { &whole };
            text.push('\n');
        }
        if is_over {
            return Ok(text);
        }
    }
}
