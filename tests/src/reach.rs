//! Who reaches whom: cases in text, each tried with real sockets, all of them at once.
//!
//! ```text
//! web -> db tcp 5432        open       a connection, and what is sent comes back
//! web -> db udp 53          shut       the same with a datagram; `udplite` likewise
//! web -> db sctp 7000       shut       a datagram with SCTP's header from a raw socket arrives, there; not back
//! web -> db icmp 8/0        open       a message of this type and code arrives
//! web -> db proto 47        open       a packet of this protocol arrives
//! web -> db tcp6 5432       open       by IPv6
//! ```
//!
//! Everybody listens on the ports a test names, in both families, so what is shut is shut by the router: `check` also looks
//! whether the router dropped at least that many packets by policy. What is open is waited for, what is shut is tried more
//! than once within a moment. Every attempt has source ports, identifiers and contents of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use fastpath::header::checksum::Sum;
use socket2::{Domain, Protocol, Socket, Type};

use crate::daemon::Daemon;
use crate::talk::{IN_VAIN, PATIENCE};
use crate::topology::{Machine, Topology};

const UDP: u8 = 17;
const UDPLITE: u8 = 136;
const SCTP: u8 = 132;
/// Between two tries of one attempt.
const AGAIN: Duration = Duration::from_millis(150);

/// Who is there: workloads, with addresses from 10.65.0.2 and fd65::2 on, and `far` (192.0.2.2, 2001:db8::2) behind the uplink.
pub struct Cast {
    lab: String,
    addresses: Vec<(&'static str, [IpAddr; 2])>,
}

impl Cast {
    /// Workloads as `NAMESPACE/NAME`; the label `app` is the name, or what stands after a blank.
    pub fn of(workloads: &[&'static str]) -> Cast {
        let mut lab = "endpoints:\n".to_owned();
        let mut addresses = Vec::new();
        for (number, workload) in (2..).zip(workloads) {
            let (path, app) = workload.split_once(' ').unwrap_or((workload, ""));
            let (namespace, name) = path.split_once('/').unwrap();
            let app = if app.is_empty() { name } else { app };
            let (ipv4, ipv6) = (format!("10.65.0.{number}"), format!("fd65::{number}"));
            lab.push_str(&format!(
                "  - {{ name: {name}, namespace: {namespace}, addresses: [{ipv4}, \"{ipv6}\"], labels: {{ app: {app} }} }}\n"
            ));
            addresses.push((name, [ipv4.parse().unwrap(), ipv6.parse().unwrap()]));
        }
        lab.push_str(
            "hosts:\n  - { name: far, addresses: [192.0.2.2/24, \"2001:db8::2/64\"], uplink: up0, \
             nodeAddresses: [192.0.2.1/24, \"2001:db8::1/64\"] }\n",
        );
        addresses.push(("far", ["192.0.2.2".parse().unwrap(), "2001:db8::2".parse().unwrap()]));
        Cast { lab, addresses }
    }

    /// Builds the lab they are in; `None` without root.
    pub fn up(&self, name: &str) -> Option<Topology> {
        Topology::up(name, &self.lab)
    }
}

/// Participants that listen.
pub struct Reach {
    addresses: BTreeMap<&'static str, [IpAddr; 2]>,
    machines: BTreeMap<&'static str, Machine>,
    heard: BTreeMap<&'static str, Heard>,
    /// The next attempt's mark.
    mark: AtomicU64,
}

/// Marks in what arrived on raw sockets, each with the ICMP type and code that came with it.
type Heard = Arc<Mutex<BTreeSet<(u8, u64)>>>;

/// One line.
#[derive(Debug, Clone)]
struct Attempt {
    line: String,
    from: String,
    to: String,
    way: Way,
    is_ipv4: bool,
    is_open: bool,
}

#[derive(Debug, Clone, Copy)]
enum Way {
    Tcp(u16),
    Datagram(u8, u16),
    Sctp(u16),
    Icmp(u8, u8),
    Protocol(u8),
}

impl Reach {
    /// Lets everybody listen on these ports, and to these protocols.
    pub fn new(topology: &Topology, cast: &Cast, ports: &[u16], protocols: &[u8]) -> Reach {
        let mut reach = Reach {
            addresses: BTreeMap::new(),
            machines: BTreeMap::new(),
            heard: BTreeMap::new(),
            mark: AtomicU64::new(1),
        };
        for (name, addresses) in cast.addresses.iter().copied() {
            let machine = topology.at(name);
            for (address, port) in addresses.iter().flat_map(|address| ports.iter().map(move |port| (*address, *port)))
            {
                let listener = machine.within(|| TcpListener::bind((address, port))).unwrap();
                thread::spawn(move || serve(&listener));
                for protocol in [UDP, UDPLITE] {
                    let socket = machine.within(|| datagrams(protocol, address, port)).unwrap();
                    thread::spawn(move || give_back(&socket));
                }
            }
            let heard = Heard::default();
            for address in addresses {
                let icmp = if address.is_ipv4() { 1 } else { 58 };
                for protocol in protocols.iter().copied().chain([SCTP, icmp]) {
                    let socket = machine.within(|| raw(protocol, address)).unwrap();
                    let heard = heard.clone();
                    thread::spawn(move || hear(&socket, protocol, &heard));
                }
            }
            reach.addresses.insert(name, addresses);
            reach.machines.insert(name, machine);
            reach.heard.insert(name, heard);
        }
        reach
    }

    /// Tries every line; fails with all that are not as they say.
    #[track_caller]
    pub fn check(&self, daemon: &Daemon, what: &str, lines: &str) {
        let denied = || daemon.drops("policy_ingress").0 + daemon.drops("policy_egress").0;
        let before = denied();
        let attempts: Vec<Attempt> =
            lines.lines().map(str::trim).filter(|line| !line.is_empty()).map(Attempt::read).collect();
        let wrong: Vec<String> = thread::scope(|scope| {
            let tried: Vec<_> =
                attempts.iter().map(|attempt| (attempt, scope.spawn(|| self.attempt(attempt)))).collect();
            let found = tried.into_iter().map(|(attempt, thread)| (attempt, thread.join().unwrap()));
            let wrong = found.filter(|(attempt, is_open)| attempt.is_open != *is_open);
            wrong.map(|(attempt, _)| attempt.line.clone()).collect()
        });
        assert!(wrong.is_empty(), "{what}: not so:\n  {}\n{}", wrong.join("\n  "), daemon.cli(&["show", "drops"]));
        let shut = attempts.iter().filter(|attempt| !attempt.is_open).count() as u64;
        let denied = denied() - before;
        assert!(denied >= shut, "{what}: {shut} attempts got nowhere, and policy dropped {denied} packets");
    }

    fn attempt(&self, attempt: &Attempt) -> bool {
        let address = |name: &str| {
            let addresses = self.addresses.get(name).unwrap_or_else(|| panic!("{}: who is {name}?", attempt.line));
            addresses[usize::from(!attempt.is_ipv4)]
        };
        let (own, to) = (address(&attempt.from), address(&attempt.to));
        let (from, heard) = (&self.machines[attempt.from.as_str()], &self.heard[attempt.to.as_str()]);
        let patience = if attempt.is_open { PATIENCE } else { IN_VAIN };
        let mark = self.mark.fetch_add(1, Ordering::Relaxed);
        match attempt.way {
            Way::Tcp(port) => connects(from, SocketAddr::new(to, port), patience),
            Way::Datagram(protocol, port) => {
                let socket = from.within(|| datagrams(protocol, own, 0)).unwrap();
                is_answered(&socket, SocketAddr::new(to, port), mark, patience)
            }
            Way::Sctp(port) => {
                let mut packet = [(0x8000 | mark as u16).to_be_bytes(), port.to_be_bytes()].concat();
                // Tag, checksum, and one chunk without content of a type that is left alone.
                packet.extend([0, 0, 0, 1, 0, 0, 0, 0, 0xfe, 0, 0, 12]);
                packet.extend(mark.to_be_bytes());
                arrives(from, SCTP, to, &packet, heard, (SCTP, mark), patience)
            }
            Way::Icmp(kind, code) => {
                let mut packet = vec![kind, code, 0, 0];
                packet.extend((mark as u16).to_be_bytes());
                packet.extend([0, 1]);
                packet.extend(mark.to_be_bytes());
                let sum = Sum::new().bytes(&packet).finish();
                packet[2..4].copy_from_slice(&sum.to_be_bytes());
                // The kernel sums for ICMPv6 itself.
                let protocol = if attempt.is_ipv4 { 1 } else { 58 };
                arrives(from, protocol, to, &packet, heard, (protocol, mark), patience)
            }
            Way::Protocol(protocol) => {
                arrives(from, protocol, to, &mark.to_be_bytes(), heard, (protocol, mark), patience)
            }
        }
    }
}

impl Attempt {
    fn read(line: &str) -> Attempt {
        let fault = || -> ! { panic!("{line:?}: expected FROM -> TO WAY WHAT open|shut") };
        let words: Vec<&str> = line.split_whitespace().collect();
        let [from, "->", to, way, what, verdict] = words[..] else { fault() };
        let (way, is_ipv4) = way.strip_suffix('6').map_or((way, true), |way| (way, false));
        let number = |text: &str| text.parse::<u16>().unwrap_or_else(|_| fault());
        let way = match way {
            "tcp" => Way::Tcp(number(what)),
            "udp" => Way::Datagram(UDP, number(what)),
            "udplite" => Way::Datagram(UDPLITE, number(what)),
            "sctp" => Way::Sctp(number(what)),
            "proto" => Way::Protocol(number(what) as u8),
            "icmp" => {
                let (kind, code) = what.split_once('/').unwrap_or_else(|| fault());
                Way::Icmp(number(kind) as u8, number(code) as u8)
            }
            _ => fault(),
        };
        let is_open = match verdict {
            "open" => true,
            "shut" => false,
            _ => fault(),
        };
        Attempt { line: line.to_owned(), from: from.to_owned(), to: to.to_owned(), way, is_ipv4, is_open }
    }
}

fn domain(address: IpAddr) -> Domain {
    if address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 }
}

/// UDP-Lite's sockets and raw ones are used like those of UDP.
fn datagrams(protocol: u8, address: IpAddr, port: u16) -> io::Result<UdpSocket> {
    let socket = Socket::new(domain(address), Type::DGRAM, Some(Protocol::from(i32::from(protocol))))?;
    socket.bind(&SocketAddr::new(address, port).into())?;
    Ok(socket.into())
}

fn raw(protocol: u8, address: IpAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(domain(address), Type::RAW, Some(Protocol::from(i32::from(protocol))))?;
    socket.bind(&SocketAddr::new(address, 0).into())?;
    Ok(socket.into())
}

/// Gives back what every connection sends.
fn serve(listener: &TcpListener) {
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { return };
        thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok(length @ 1..) = stream.read(&mut buffer) {
                if stream.write_all(&buffer[..length]).is_err() {
                    return;
                }
            }
        });
    }
}

fn give_back(socket: &UdpSocket) {
    let mut buffer = [0; 64];
    while let Ok((length, from)) = socket.recv_from(&mut buffer) {
        // Who cannot be answered will ask again.
        let _ = socket.send_to(&buffer[..length], from);
    }
}

/// Notes the mark at the end of every packet of a protocol.
fn hear(socket: &UdpSocket, protocol: u8, heard: &Heard) {
    let mut buffer = [0; 2048];
    while let Ok(length) = socket.recv(&mut buffer) {
        if let Some(mark) = buffer[..length].last_chunk::<8>() {
            heard.lock().unwrap().insert((protocol, u64::from_be_bytes(*mark)));
        }
    }
}

fn connects(from: &Machine, to: SocketAddr, patience: Duration) -> bool {
    let start = Instant::now();
    while start.elapsed() < patience {
        let mut answer = [0; 4];
        let mut talk = || {
            let mut stream = from.within(|| TcpStream::connect_timeout(&to, AGAIN))?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(b"mark")?;
            stream.read_exact(&mut answer)
        };
        if talk().is_ok() {
            return answer == *b"mark";
        }
    }
    false
}

fn is_answered(socket: &UdpSocket, to: SocketAddr, mark: u64, patience: Duration) -> bool {
    socket.set_read_timeout(Some(AGAIN)).unwrap();
    let start = Instant::now();
    let mut buffer = [0; 64];
    while start.elapsed() < patience {
        socket.send_to(&mark.to_be_bytes(), to).unwrap();
        if socket.recv(&mut buffer).is_ok_and(|length| buffer[..length] == mark.to_be_bytes()) {
            return true;
        }
    }
    false
}

/// Sends by a raw socket until the other side has heard it.
fn arrives(
    from: &Machine,
    protocol: u8,
    to: IpAddr,
    packet: &[u8],
    heard: &Heard,
    mark: (u8, u64),
    patience: Duration,
) -> bool {
    let any = if to.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
    let socket = from.within(|| raw(protocol, any)).unwrap();
    let start = Instant::now();
    while start.elapsed() < patience {
        socket.send_to(packet, SocketAddr::new(to, 0)).unwrap();
        let has_arrived = || heard.lock().unwrap().contains(&mark);
        if crate::wait::within(AGAIN, has_arrived) {
            return true;
        }
    }
    false
}
