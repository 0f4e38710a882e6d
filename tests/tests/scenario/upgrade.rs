//! The daemon is replaced by the next one while ten thousand flows are open and five hundred policies are in force.
//!
//! ```text
//!     client ══ 2500 TCP, 7569 UDP: allowed ══▶ web       nobody may begin anything towards client
//!     mallory ── TCP and UDP, all the while: denied ──▶ web
//!     client  ── TCP to another port, all the while: denied ──▶ web
//! ```
//!
//! No flow is lost: afterwards every connection carries bytes both ways, and every UDP flow carries a datagram in the
//! direction that no rule allows by itself. Nothing is let through: whoever tries what is forbidden gets nowhere, before,
//! during and after. Positive controls: without the policies the same attempts succeed, and without the file of flows the
//! same datagrams do not arrive.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tests::daemon::{Daemon, SOON};
use tests::load::{Load, count};
use tests::talk::{Service, echo, is_silent, until_connected};
use tests::topology::{Machine, Topology};
use tests::wait;

use crate::ip;

const LAB: &str = r#"
endpoints:
  - { name: web, addresses: [10.65.0.2], labels: { app: web } }
  - { name: client, addresses: [10.65.0.3], labels: { app: client } }
  - { name: mallory, addresses: [10.65.0.4], labels: { app: mallory } }
"#;
const WEB: &str = "10.65.0.2";
const CLIENT: &str = "10.65.0.3";
const OPEN: u16 = 8080;
const FORBIDDEN: u16 = 9090;
const UDP_FORBIDDEN: u16 = 7000;
const CONNECTIONS: usize = 2500;
/// Sockets at either end; each pair of them is a flow.
const SOCKETS: usize = 87;
const FLOWS: u64 = (CONNECTIONS + SOCKETS * SOCKETS) as u64;

/// What is allowed, and enough besides that five hundred policies apply.
fn policies() -> String {
    let policy = |name: &str, order: usize, app: &str, rules: &str| {
        format!(
            "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {{ name: {name} }}\nspec: \
             {{ order: {order}, selector: app == '{app}', types: [Ingress], ingress: [{rules}] }}\n---\n"
        )
    };
    let mut text = String::new();
    for number in 0..498 {
        let app = ["web", "client", "mallory"][number % 3];
        let rule = format!(
            "{{ action: Allow, protocol: TCP, source: {{ nets: [10.{}.{}.0/24] }}, destination: {{ ports: [{}] }} }}",
            100 + number / 250,
            number % 250,
            10_000 + number
        );
        write!(text, "{}", policy(&format!("filler-{number}"), number, app, &rule)).unwrap();
    }
    let from = "source: { selector: app == 'client' }";
    let allowed = format!(
        "{{ action: Allow, protocol: TCP, {from}, destination: {{ ports: [{OPEN}] }} }}, \
         {{ action: Allow, protocol: UDP, {from}, destination: {{ ports: [\"20000:20999\"] }} }}"
    );
    text += &policy("client-to-web", 1000, "web", &allowed);
    text += &policy("nothing-to-client", 1000, "client", "");
    text
}

/// Room for both ends of every connection.
fn raise_the_limit_of_open_files() {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let wanted = (4 * CONNECTIONS + 4 * SOCKETS + 1000) as u64;
    assert!(hard >= wanted, "open files: the limit is {hard}, this needs {wanted}");
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(wanted), hard).unwrap();
}

/// Both ends of every connection, side by side.
fn connections(web: &Machine, client: &Machine) -> Vec<[TcpStream; 2]> {
    let listener = web.within(|| TcpListener::bind((ip(WEB), OPEN))).unwrap();
    let address = listener.local_addr().unwrap();
    let accepting = thread::spawn(move || -> HashMap<SocketAddr, TcpStream> {
        (0..CONNECTIONS).map(|_| listener.accept().unwrap()).map(|(stream, peer)| (peer, stream)).collect()
    });
    let near: Vec<TcpStream> =
        client.within(|| (0..CONNECTIONS).map(|_| TcpStream::connect(address).unwrap()).collect());
    let mut far = accepting.join().unwrap();
    let pair = |near: TcpStream| {
        let far = far.remove(&near.local_addr().unwrap()).unwrap();
        for end in [&near, &far] {
            end.set_nonblocking(true).unwrap();
            end.set_nodelay(true).unwrap();
        }
        [near, far]
    };
    near.into_iter().map(pair).collect()
}

/// A connection's next bytes both ways: written, or read as far as they are there.
struct Stream {
    ends: [TcpStream; 2],
    /// By end.
    written: [u64; 2],
    read: [u64; 2],
}

impl Stream {
    /// Writes one number into each end. A full buffer is no loss: nothing was written.
    fn write(&mut self) {
        for (end, written) in self.ends.iter_mut().zip(&mut self.written) {
            match end.write(&written.to_be_bytes()) {
                Ok(length) => {
                    assert_eq!(length, 8, "half a number");
                    *written += 1;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("{:?}: {error}", end.local_addr()),
            }
        }
    }

    /// Reads what has arrived: every number once and in order.
    fn read(&mut self) {
        let mut buffer = [0; 8];
        for (end, read) in self.ends.iter_mut().zip(&mut self.read) {
            loop {
                match end.peek(&mut buffer) {
                    Ok(8) => {
                        end.read_exact(&mut buffer).unwrap();
                        assert_eq!(u64::from_be_bytes(buffer), *read, "{:?}", end.local_addr());
                        *read += 1;
                    }
                    Ok(0) => panic!("{:?} was closed", end.local_addr()),
                    Ok(_) => break,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("{:?}: {error}", end.local_addr()),
                }
            }
        }
    }

    fn has_arrived(&self) -> bool {
        self.read == [self.written[1], self.written[0]]
    }
}

/// Keeps all connections busy, a few thousand numbers a second, until it is told to stop; then hands them back.
struct Talk {
    is_over: Arc<AtomicBool>,
    thread: thread::JoinHandle<Vec<Stream>>,
}

impl Talk {
    fn start(mut streams: Vec<Stream>) -> Talk {
        let is_over = Arc::new(AtomicBool::new(false));
        let over = is_over.clone();
        let thread = thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                for some in streams.chunks_mut(10) {
                    some.iter_mut().for_each(Stream::write);
                    some.iter_mut().for_each(Stream::read);
                    thread::park_timeout(Duration::from_millis(2));
                }
            }
            streams
        });
        Talk { is_over, thread }
    }

    fn stop(self) -> Vec<Stream> {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// Every pair of these is a flow.
struct Datagrams {
    near: Vec<UdpSocket>,
    far: Vec<UdpSocket>,
}

impl Datagrams {
    fn open(web: &Machine, client: &Machine) -> Datagrams {
        let bind = |machine: &Machine, address: &str, first: u16| {
            let ports = first..first + SOCKETS as u16;
            let sockets = ports.map(|port| machine.within(|| UdpSocket::bind((ip(address), port))).unwrap());
            sockets.inspect(|socket| socket.set_nonblocking(true).unwrap()).collect()
        };
        Datagrams { near: bind(client, CLIENT, 30_000), far: bind(web, WEB, 20_000) }
    }

    /// Sends by every flow that is not in `arrived` yet, and notes what arrives of this round: late copies of an earlier one
    /// show nothing. `is_inward` is the direction that is allowed.
    fn exchange(&self, round: u32, is_inward: bool, arrived: &mut [bool]) -> usize {
        let (from, to) = if is_inward { (&self.near, &self.far) } else { (&self.far, &self.near) };
        let mut buffer = [0; 8];
        for (receiver, socket) in to.iter().enumerate() {
            let address = socket.local_addr().unwrap();
            for (sender, socket) in from.iter().enumerate() {
                let flow = sender * SOCKETS + receiver;
                if !arrived[flow] {
                    // Refused is what a socket remembers of an earlier one.
                    let _ = socket.send_to(&(u64::from(round) << 32 | flow as u64).to_be_bytes(), address);
                }
            }
        }
        for socket in to {
            while let Ok(length) = socket.recv(&mut buffer) {
                let number = buffer[..length].try_into().map_or(0, u64::from_be_bytes);
                if number >> 32 == u64::from(round) {
                    arrived[number as u32 as usize] = true;
                }
            }
        }
        arrived.iter().filter(|arrived| !**arrived).count()
    }

    /// Every flow carries a datagram that way; what is lost is sent again.
    fn until_all(&self, round: u32, what: &str, is_inward: bool) {
        let mut arrived = vec![false; SOCKETS * SOCKETS];
        wait::until_ok(what, SOON, || match self.exchange(round, is_inward, &mut arrived) {
            0 => Ok(()),
            missing => Err(format!("{missing} flows carry nothing")),
        });
    }
}

/// Tries to connect where it may not, all the while.
struct Prober {
    is_over: Arc<AtomicBool>,
    tried: Arc<AtomicU64>,
    connected: Arc<AtomicU64>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Prober {
    fn start(from: &Machine, to: SocketAddr) -> Prober {
        let [tried, connected] = [(); 2].map(|()| Arc::new(AtomicU64::new(0)));
        let is_over = Arc::new(AtomicBool::new(false));
        let (machine, over) = (from.clone(), is_over.clone());
        let (tries, connections) = (tried.clone(), connected.clone());
        let thread = thread::spawn(move || {
            machine.within(|| {
                while !over.load(Ordering::Relaxed) {
                    let is_connected = TcpStream::connect_timeout(&to, Duration::from_millis(20)).is_ok();
                    connections.fetch_add(u64::from(is_connected), Ordering::Relaxed);
                    tries.fetch_add(1, Ordering::Relaxed);
                }
            });
        });
        Prober { is_over, tried, connected, thread: Some(thread) }
    }

    fn tried(&self) -> u64 {
        self.tried.load(Ordering::Relaxed)
    }

    fn connected(&self) -> u64 {
        self.connected.load(Ordering::Relaxed)
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(thread::JoinHandle::join);
    }
}

/// How many connections a listener has been given, wherever they come from.
fn count_accepted(at: &Machine, port: u16) -> Arc<AtomicU64> {
    let listener = at.within(|| TcpListener::bind((ip(WEB), port))).unwrap();
    let accepted = Arc::new(AtomicU64::new(0));
    let counter = accepted.clone();
    thread::spawn(move || {
        while listener.accept().is_ok() {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    });
    accepted
}

#[test]
fn ten_thousand_flows_go_on_and_nothing_slips_through() {
    let Some(topology) = Topology::up("upgrade", LAB) else { return };
    raise_the_limit_of_open_files();
    let (web, client, mallory) = (topology.at("web"), topology.at("client"), topology.at("mallory"));
    let daemon = Daemon::start(&topology, &[]);

    // Without policies the forbidden succeeds.
    let accepted = count_accepted(&web, FORBIDDEN);
    let datagrams = count(&web, ip(WEB), UDP_FORBIDDEN);
    let probers = [&mallory, &client].map(|from| Prober::start(from, SocketAddr::new(ip(WEB), FORBIDDEN)));
    let flood = Load::start(&mallory, vec![SocketAddr::new(ip(WEB), UDP_FORBIDDEN)]);
    wait::until_true("the forbidden, before it is", SOON, || {
        probers.iter().all(|prober| prober.connected() > 5) && datagrams.load(Ordering::Relaxed) > 100
    });
    drop((probers, flood));
    daemon.apply(&policies());
    // Open flows keep what they had; these are over.
    daemon.terminate();
    fs::remove_file(topology.folder().join("store/flows")).unwrap();
    let daemon = Daemon::bare(&topology, &[]);

    let forbidden = || {
        let probers = [(&mallory, FORBIDDEN), (&client, FORBIDDEN), (&mallory, OPEN)];
        probers.map(|(from, port)| Prober::start(from, SocketAddr::new(ip(WEB), port)))
    };
    let probers = forbidden();
    let _flood = Load::start(&mallory, vec![SocketAddr::new(ip(WEB), UDP_FORBIDDEN)]);
    let let_through = || (accepted.load(Ordering::Relaxed), datagrams.load(Ordering::Relaxed));
    let before = let_through();
    let ends = connections(&web, &client);
    let streams = ends.into_iter().map(|ends| Stream { ends, written: [0; 2], read: [0; 2] }).collect();
    let udp = Datagrams::open(&web, &client);
    udp.until_all(1, "every UDP flow to begin", true);
    udp.until_all(2, "every UDP flow to be answered", false);

    let talk = Talk::start(streams);
    let tried = probers.iter().map(Prober::tried).sum::<u64>();
    daemon.terminate();
    let daemon = Daemon::bare(&topology, &[]);
    let log = daemon.log();
    let restored = log.lines().rfind(|line| line.contains("flows restored")).unwrap_or_else(|| panic!("{log}"));
    let number = restored.split("restored=").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<u64>().ok());
    assert!(number >= Some(FLOWS), "{restored}");
    udp.until_all(3, "every UDP flow to go on in the direction that no rule allows", false);
    let mut streams = talk.stop();
    streams.iter_mut().for_each(Stream::write);
    wait::until_ok("every connection to carry what was written", SOON, || {
        streams.iter_mut().for_each(Stream::read);
        match streams.iter().filter(|stream| !stream.has_arrived()).count() {
            0 => Ok(()),
            behind => Err(format!("{behind} connections are behind")),
        }
    });
    assert!(streams.iter().all(|stream| stream.written.iter().all(|written| *written > 1)), "no load");

    wait::until_true("attempts after the restart", SOON, || {
        probers.iter().map(Prober::tried).sum::<u64>() > tried + 50
    });
    assert_eq!(probers.each_ref().map(Prober::connected), [0; 3], "connections that are forbidden");
    assert_eq!(let_through(), before, "something forbidden arrived");
    let (dropped, _) = daemon.drops("policy_ingress");
    assert!(dropped > 0, "nobody tried");

    // Without the file the same flows are new ones, and what comes back is nobody's answer.
    daemon.terminate();
    fs::remove_file(topology.folder().join("store/flows")).unwrap();
    let daemon = Daemon::bare(&topology, &[]);
    let mut arrived = vec![false; SOCKETS * SOCKETS];
    let before = daemon.drops("policy_ingress").0;
    wait::until_true("answers to be dropped", SOON, || {
        udp.exchange(4, false, &mut arrived);
        daemon.drops("policy_ingress").0 > before + 1000
    });
    assert!(!arrived.contains(&true), "an answer passed without its flow");
}

#[test]
fn flows_that_were_saved_outlive_sigkill() {
    let Some(topology) = Topology::up("upgrade", LAB) else { return };
    let (web, client) = (topology.at("web"), topology.at("client"));
    let daemon = Daemon::start(&topology, &[]);
    daemon.apply(&policies());
    let service = Service::start(&web, ip(WEB), OPEN);
    let mut open = until_connected(&client, service.address);
    echo(&mut open, 1000).unwrap();
    let file = topology.folder().join("store/flows");
    // The one that is written at the start is from before the connection.
    daemon.terminate();
    let daemon = Daemon::bare(&topology, &[]);
    wait::until_true("flows to be saved", SOON, || file.exists());
    daemon.apply("apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: { name: no-new }\nspec: { order: 1, selector: app == 'web', types: [Ingress], ingress: [{ action: Deny }] }\n");
    daemon.kill();
    let daemon = Daemon::bare(&topology, &[]);
    echo(&mut open, 100_000).unwrap();
    assert!(is_silent(&client, service.address), "a new connection, under the policy that came later");
    // A file that is damaged is refused, and the router starts.
    daemon.terminate();
    let mut bytes = fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&file, bytes).unwrap();
    let daemon = Daemon::bare(&topology, &[]);
    assert!(daemon.log().contains("their file is refused: it is damaged"), "{}", daemon.log());
    open.set_read_timeout(Some(tests::talk::IN_VAIN)).unwrap();
    assert!(echo(&mut open, 100).is_err(), "the flow has been forgotten and may not begin again");
}

#[test]
fn a_restart_that_judges_again_cuts_what_is_denied_meanwhile() {
    let Some(topology) = Topology::up("upgrade", LAB) else { return };
    let (web, client) = (topology.at("web"), topology.at("client"));
    let daemon = Daemon::start(&topology, &[]);
    let service = Service::start(&web, ip(WEB), OPEN);
    let other = Service::start(&web, ip(WEB), FORBIDDEN);
    let mut open = until_connected(&client, service.address);
    let mut cut = until_connected(&client, other.address);
    echo(&mut open, 1000).unwrap();
    echo(&mut cut, 1000).unwrap();
    daemon.apply(&policies());
    echo(&mut cut, 1000).unwrap();
    daemon.terminate();
    let _daemon = Daemon::bare(&topology, &["--policy-change", "reevaluate"]);
    echo(&mut open, 10_000).unwrap();
    cut.set_read_timeout(Some(tests::talk::IN_VAIN)).unwrap();
    assert!(echo(&mut cut, 100).is_err(), "a connection that the policies deny");
}
