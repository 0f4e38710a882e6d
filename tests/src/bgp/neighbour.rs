//! A running BIRD or GoBGP: started in a namespace, asked by its own tool, told to read its configuration again, stopped.
//!
//! Files are in a folder of its own: the configuration, the log, BIRD's socket. GoBGP's tool speaks TCP to the loopback of the
//! namespace, so there may be one GoBGP in a namespace.
//!
//! Invariants: the program answers when `start` returns; it is killed when its `Neighbour` is dropped.

use std::fs::{self, File};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use config::net::{Cidr, IpVersion};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::{Announced, BfdSession, Route, Session, Speaker, bird, gobgp};
use crate::topology::{Machine, said};
use crate::wait;

/// Ample for a start, a session, and for what follows from a change, on a busy machine.
pub const SOON: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Bird,
    Gobgp,
}

pub struct Neighbour {
    kind: Kind,
    machine: Machine,
    folder: PathBuf,
    child: Child,
}

impl Neighbour {
    /// Starts a program in a namespace, with its files below `folder`, in one named after the program and the namespace.
    pub fn start(kind: Kind, machine: &Machine, folder: &Path, speaker: &Speaker) -> Neighbour {
        let folder = folder.join(format!("{kind:?}-{}", machine.namespace()).to_lowercase());
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("config"), configuration(kind, &folder, speaker)).unwrap();
        let log = File::options().create(true).append(true).open(folder.join("log")).unwrap();
        let path = |name: &str| folder.join(name).display().to_string();
        let mut command = match kind {
            Kind::Bird => {
                // In the foreground, so that the child is the program. What an earlier one left would be in the way.
                let _ = fs::remove_file(path("socket"));
                let mut command = machine.command("bird");
                command.args(["-f", "-c", &path("config"), "-s", &path("socket"), "-P", &path("pid")]);
                command
            }
            Kind::Gobgp => {
                let mut command = machine.command("gobgpd");
                command.args(["-t", "toml", "-f", &path("config"), "--api-hosts", "127.0.0.1:50051"]);
                command
            }
        };
        let child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let mut neighbour = Neighbour { kind, machine: machine.clone(), folder, child };
        neighbour.await_answer();
        if kind == Kind::Gobgp {
            speaker.routes.iter().for_each(|route| neighbour.announce(route));
        }
        neighbour
    }

    fn await_answer(&mut self) {
        wait::until_ok("a neighbour to answer", SOON, || {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "{:?} ended with {ended:?}:\n{}", self.kind, self.log());
            match self.kind {
                Kind::Bird => self.attempt(&["show", "status"]),
                Kind::Gobgp => self.attempt(&["global"]),
            }
        });
    }

    /// Lets it run before others, so that its clock is not late on a busy machine.
    pub fn hurry(&self) {
        let output = self.machine.attempt(&format!("chrt --rr --pid 10 {}", self.child.id()));
        assert!(output.status.success(), "chrt: {}", said(&output));
    }

    /// What its own tool prints, if it succeeds; else what it says instead.
    pub fn attempt(&self, words: &[&str]) -> Result<String, String> {
        let mut command = match self.kind {
            Kind::Bird => {
                let mut command = std::process::Command::new("birdc");
                command.arg("-s").arg(self.folder.join("socket"));
                command
            }
            Kind::Gobgp => self.machine.command("gobgp"),
        };
        let output = command.args(words).stdin(Stdio::null()).output().unwrap();
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(said(&output))
        }
    }

    #[track_caller]
    pub fn cli(&self, words: &[&str]) -> String {
        self.attempt(words).unwrap_or_else(|error| panic!("{:?} {words:?}: {error}\n{}", self.kind, self.log()))
    }

    #[track_caller]
    fn json(&self, words: &[&str]) -> Value {
        let text = self.cli(&[words, &["-j"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("gobgp {words:?}: {error}: {text}"))
    }

    /// Everything in its table of a family, all paths.
    #[track_caller]
    pub fn routes(&self, family: IpVersion) -> Vec<Route> {
        match self.kind {
            Kind::Bird => {
                let table = if family == IpVersion::V4 { "master4" } else { "master6" };
                bird::routes(&self.cli(&["show", "route", "table", table, "all"]))
            }
            Kind::Gobgp => gobgp::routes(&self.json(&["global", "rib", "-a", gobgp::family(family)])),
        }
    }

    /// The paths to one prefix, the best first.
    #[track_caller]
    pub fn paths(&self, prefix: &str) -> Vec<Route> {
        let prefix = Cidr::parse(prefix).unwrap();
        let mut routes = self.routes(prefix.version());
        routes.retain(|route| route.prefix == prefix);
        routes.sort_by_key(|route| !route.is_best);
        routes
    }

    /// Waits for the best path to a prefix, learned from somebody.
    #[track_caller]
    pub fn until_learned(&self, prefix: &str) -> Route {
        let learned = || self.paths(prefix).into_iter().find(|route| route.from.is_some());
        wait::until(&format!("{:?} to learn {prefix}; its log: {}", self.kind, self.log()), SOON, learned)
    }

    /// Waits until there is no path to a prefix.
    #[track_caller]
    pub fn until_forgotten(&self, prefix: &str) {
        wait::until_true(&format!("{:?} to forget {prefix}", self.kind), SOON, || self.paths(prefix).is_empty());
    }

    /// GoBGP: prefixes and numbers of the paths that came from a peer, as they came. RFC 7911.
    #[track_caller]
    pub fn path_ids(&self, peer: &str, family: IpVersion) -> Vec<(Cidr, u32)> {
        assert_eq!(self.kind, Kind::Gobgp, "BIRD does not print the numbers of paths");
        gobgp::path_ids(&self.cli(&["neighbor", peer, "adj-in", "-a", gobgp::family(family)]))
    }

    #[track_caller]
    pub fn sessions(&self) -> Vec<Session> {
        match self.kind {
            Kind::Bird => bird::sessions(&self.cli(&["show", "protocols", "all"])),
            Kind::Gobgp => gobgp::sessions(&self.json(&["neighbor"])),
        }
    }

    #[track_caller]
    pub fn session(&self, peer: &str) -> Session {
        let peer: IpAddr = peer.parse().unwrap();
        let sessions = self.sessions();
        sessions.into_iter().find(|session| session.peer == peer).unwrap_or_else(|| panic!("no session with {peer}"))
    }

    #[track_caller]
    pub fn until_established(&self, peer: &str) -> Session {
        wait::until(&format!("{:?}'s session with {peer}", self.kind), SOON, || {
            Some(self.session(peer)).filter(|session| session.is_established)
        })
    }

    #[track_caller]
    pub fn until_down(&self, peer: &str) -> Session {
        wait::until(&format!("the end of {:?}'s session with {peer}", self.kind), SOON, || {
            Some(self.session(peer)).filter(|session| !session.is_established)
        })
    }

    /// BIRD: its BFD sessions.
    #[track_caller]
    pub fn bfd_sessions(&self) -> Vec<BfdSession> {
        assert_eq!(self.kind, Kind::Bird, "GoBGP has no BFD");
        bird::bfd_sessions(&self.cli(&["show", "bfd", "sessions"]))
    }

    /// GoBGP: a route of its own, from now on. BIRD's are in its configuration.
    #[track_caller]
    pub fn announce(&self, route: &Announced) {
        assert_eq!(self.kind, Kind::Gobgp, "BIRD's routes are in its configuration");
        let words = gobgp::add(route, self.speaker_address(route));
        self.cli(&words.iter().map(String::as_str).collect::<Vec<_>>());
    }

    /// GoBGP wants a next hop; this one means itself.
    fn speaker_address(&self, route: &Announced) -> IpAddr {
        route.next_hop.unwrap_or_else(|| if route.prefix.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() })
    }

    /// Asks a peer for its routes once more, or tells it ours: `in` or `out`.
    #[track_caller]
    pub fn refresh(&self, peer: &str, direction: &str) {
        match self.kind {
            Kind::Bird => self.cli(&["reload", direction, &bird::protocol(peer.parse().unwrap())]),
            Kind::Gobgp => self.cli(&["neighbor", peer, &format!("softreset{direction}")]),
        };
    }

    /// Another configuration, taken over without a restart.
    #[track_caller]
    pub fn configure(&self, speaker: &Speaker) {
        fs::write(self.folder.join("config"), configuration(self.kind, &self.folder, speaker)).unwrap();
        match self.kind {
            Kind::Bird => drop(self.cli(&["configure"])),
            Kind::Gobgp => kill(self.pid(), Signal::SIGHUP).unwrap(),
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Asks it to stop, and waits until it has: it says goodbye to its peers.
    pub fn terminate(mut self) {
        kill(self.pid(), Signal::SIGTERM).unwrap();
        wait::until("a neighbour to stop", SOON, || self.child.try_wait().unwrap());
    }

    /// Pulls the plug: SIGKILL. Its connections end with a FIN or RST of its kernel.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Holds it still, so that it answers nobody, or lets it go on.
    pub fn freeze(&self, is_frozen: bool) {
        kill(self.pid(), if is_frozen { Signal::SIGSTOP } else { Signal::SIGCONT }).unwrap();
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the log of {:?} in {}:\n{}", self.kind, self.machine.namespace(), self.log());
        }
        // It may have ended by itself; then there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn configuration(kind: Kind, folder: &Path, speaker: &Speaker) -> String {
    match kind {
        Kind::Bird => bird::config(speaker, &folder.join("log").display().to_string()),
        Kind::Gobgp => gobgp::config(speaker),
    }
}
