//! Two machines talk: sockets of real stacks, with what they carry compared byte by byte.
//!
//! Sockets are made inside the namespaces and used from the test, since a socket stays where it was made.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;
use std::time::Duration;

use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, sendto, socket};

use crate::topology::Machine;
use crate::wait;

/// An answer that is not there by then does not come.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// For connections and datagrams that must not get through: long beside any round trip here.
pub const IN_VAIN: Duration = Duration::from_millis(400);
/// Between two tries of something that may take a moment to work.
const TRY: Duration = Duration::from_millis(200);

/// Waits until `to` answers pings.
#[track_caller]
pub fn until_reachable(from: &Machine, to: IpAddr) {
    wait::until_true(&format!("{} to reach {to}", from.namespace()), PATIENCE * 2, || pings(from, to));
}

/// Whether one ping is answered within a moment.
pub fn pings(from: &Machine, to: IpAddr) -> bool {
    from.attempt(&format!("ping -n -q -c 1 -W 0.3 {to}")).status.success()
}

/// A service that listens and gives back what it is sent, on every connection, until it is dropped with its machine.
pub struct Service {
    pub address: SocketAddr,
}

impl Service {
    /// Its threads end with the test's process; a connection's when the other end closes it.
    pub fn start(at: &Machine, address: IpAddr, port: u16) -> Service {
        let listener = at.within(|| TcpListener::bind((address, port))).unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                thread::spawn(move || {
                    let mut buffer = [0; 4096];
                    while let Ok(length @ 1..) = stream.read(&mut buffer) {
                        if stream.write_all(&buffer[..length]).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Service { address }
    }
}

/// A connection from a machine.
pub fn connect(from: &Machine, to: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let stream = from.within(|| TcpStream::connect_timeout(&to, limit))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Connects, however often that takes.
#[track_caller]
pub fn until_connected(from: &Machine, to: SocketAddr) -> TcpStream {
    wait::until_ok(&format!("a connection to {to}"), PATIENCE, || connect(from, to, TRY))
}

/// Whether a connection attempt gets no answer at all. A refusal is an answer: the packet went through.
pub fn is_silent(from: &Machine, to: SocketAddr) -> bool {
    connect(from, to, IN_VAIN).is_err_and(|error| error.kind() == ErrorKind::TimedOut)
}

/// Sends through an echo service and compares what comes back.
pub fn echo(stream: &mut TcpStream, bytes: usize) -> io::Result<()> {
    let sent = pattern(bytes);
    let mut writer = stream.try_clone()?;
    let mut received = vec![0; bytes];
    thread::scope(|scope| {
        let sending = scope.spawn(|| writer.write_all(&sent));
        stream.read_exact(&mut received)?;
        sending.join().unwrap()
    })?;
    assert!(received == sent, "what came back is not what was sent");
    Ok(())
}

/// A datagram there and one back, from the address it was sent to; `bytes` long.
pub fn udp(from: &Machine, to: &Machine, address: IpAddr, bytes: usize) -> io::Result<()> {
    udp_to_port(from, to, SocketAddr::new(address, 0), bytes)
}

/// The same to a port; 0 is any.
pub fn udp_to_port(from: &Machine, to: &Machine, address: SocketAddr, bytes: usize) -> io::Result<()> {
    let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let far = to.within(|| UdpSocket::bind(address))?;
    let near = from.within(|| UdpSocket::bind((any, 0)))?;
    for socket in [&far, &near] {
        socket.set_read_timeout(Some(PATIENCE / 10))?;
    }
    near.connect(far.local_addr()?)?;
    let sent = pattern(bytes);
    let mut buffer = vec![0; bytes + 1];
    near.send(&sent)?;
    let (length, back) = far.recv_from(&mut buffer)?;
    assert!(buffer[..length] == sent, "the datagram changed on the way");
    far.send_to(&sent, back)?;
    let length = near.recv(&mut buffer)?;
    assert!(buffer[..length] == sent, "the datagram changed on the way back");
    Ok(())
}

/// The interface of an endpoint, for frames as somebody wrote them.
pub struct Wire {
    socket: OwnedFd,
    link: LinkAddr,
}

impl Wire {
    pub fn at(machine: &Machine, interface: &str) -> Wire {
        machine.within(|| {
            let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), None).unwrap();
            let mut addresses = nix::ifaddrs::getifaddrs().unwrap();
            let link = addresses.find_map(|address| {
                let link = address.address.as_ref().and_then(|address| address.as_link_addr()).copied();
                link.filter(|_| address.interface_name == interface)
            });
            Wire { socket, link: link.unwrap() }
        })
    }

    pub fn mac(&self) -> [u8; 6] {
        self.link.addr().unwrap()
    }

    /// From the layer 2 header on, as it is.
    pub fn send(&self, frame: &[u8]) {
        let sent = sendto(self.socket.as_raw_fd(), frame, &self.link, MsgFlags::empty()).unwrap();
        assert_eq!(sent, frame.len());
    }
}

/// Bytes with a prime period, so that a shifted or repeated segment shows.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index % 251) as u8).collect()
}
