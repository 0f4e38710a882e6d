//! UDP as BFD needs it: a socket that tells for each packet its TTL, interface and addresses, and one per session that sends.
//!
//! | | receives | sends |
//! |---|---|---|
//! | sockets | one per family and port | one per session |
//! | port | 3784, several hops 4784 | of the session alone, 49152 to 65535 |
//! | TTL | told for each packet, checked by `sessions.rs` | 255 |
//!
//! Sending sockets are not connected: an ICMP error about one packet would be reported in place of sending the next.
//!
//! Invariants: nothing here blocks; a socket that sends keeps its port when it is opened anew (RFC 5881 §4).
//! Sources: RFC 5881 §4, §5; RFC 5883 §5, §6; ip(7), ipv6(7).

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::cmsg_space;
use nix::libc::{in_pktinfo, in6_pktinfo};
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use super::packet::LENGTH;
use super::sessions::{Arrival, BfdKey};

const PORT_SINGLE_HOP: u16 = 3784;
const PORT_MULTIHOP: u16 = 4784;
/// RFC 5881 §4.
const SOURCE_PORTS: std::ops::RangeInclusive<u16> = 49152..=65535;
const TTL: u32 = 255;
/// DSCP CS6, network control: in a full queue these packets are not the ones to drop.
const TRAFFIC_CLASS: u32 = 0xc0;
/// Packets of hundreds of neighbours that come at once; the kernel may give less.
const RECEIVE_BUFFER: usize = 1 << 20;
/// More than any control packet can be; what is behind it is not looked at.
const PAYLOAD_MAX: usize = 512;

fn port(multihop: bool) -> u16 {
    if multihop { PORT_MULTIHOP } else { PORT_SINGLE_HOP }
}

/// Where packets of one family and port arrive.
pub struct Receiver {
    socket: Socket,
    multihop: bool,
    control: Vec<u8>,
    payload: Box<[u8; PAYLOAD_MAX]>,
}

impl Receiver {
    /// Fails when somebody has the port, another BFD daemon for instance.
    pub fn open(is_ipv6: bool, multihop: bool) -> io::Result<Receiver> {
        let domain = if is_ipv6 { Domain::IPV6 } else { Domain::IPV4 };
        let socket = Socket::new(domain, Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
        let any = if is_ipv6 {
            socket.set_only_v6(true)?;
            setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
            setsockopt(&socket, sockopt::Ipv6RecvHopLimit, &true)?;
            IpAddr::V6(Ipv6Addr::UNSPECIFIED)
        } else {
            setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
            setsockopt(&socket, sockopt::Ipv4RecvTtl, &true)?;
            IpAddr::V4(Ipv4Addr::UNSPECIFIED)
        };
        socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
        socket.bind(&SocketAddr::new(any, port(multihop)).into())?;
        let control = cmsg_space!(in_pktinfo, in6_pktinfo, i32);
        Ok(Receiver { socket, multihop, control, payload: Box::new([0; PAYLOAD_MAX]) })
    }

    /// The next packet, if there is one. One that the kernel tells too little about is passed over.
    pub fn receive(&mut self) -> io::Result<Option<Arrival<'_>>> {
        let mut pieces = [IoSliceMut::new(self.payload.as_mut_slice())];
        let message = recvmsg::<SockaddrStorage>(
            self.socket.as_raw_fd(),
            &mut pieces,
            Some(&mut self.control),
            MsgFlags::MSG_DONTWAIT,
        )?;
        let (mut to, mut ttl) = (None, None);
        for told in message.cmsgs()? {
            match told {
                ControlMessageOwned::Ipv4PacketInfo(info) => {
                    let address = Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr));
                    to = u32::try_from(info.ipi_ifindex).ok().map(|index| (IpAddr::V4(address), index));
                }
                ControlMessageOwned::Ipv6PacketInfo(info) => {
                    to = Some((IpAddr::V6(Ipv6Addr::from(info.ipi6_addr.s6_addr)), info.ipi6_ifindex));
                }
                ControlMessageOwned::Ipv4Ttl(value) | ControlMessageOwned::Ipv6HopLimit(value) => {
                    ttl = u8::try_from(value).ok();
                }
                _ => {}
            }
        }
        let from = message.address.as_ref().and_then(address_of);
        let length = message.bytes;
        let (Some(from), Some((to, interface)), Some(ttl)) = (from, to, ttl) else { return Ok(None) };
        let payload = self.payload.get(..length).unwrap_or_default();
        Ok(Some(Arrival { from, to, interface, ttl, multihop: self.multihop, payload }))
    }
}

impl AsFd for Receiver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn address_of(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
}

/// Where the packets of one session leave.
pub struct Sender {
    socket: Socket,
    to: SocketAddr,
    /// The number of the session's interface, if it has one.
    interface: Option<u32>,
}

impl Sender {
    /// With this source port. Fails when it is taken, the local address is not there, or the interface is not.
    pub fn open(key: &BfdKey, multihop: bool, source_port: u16) -> io::Result<Sender> {
        let interface_name = key.interface.as_deref().filter(|_| !multihop);
        let interface = interface_name.map(if_nametoindex).transpose()?;
        let domain = if key.peer.is_ipv6() { Domain::IPV6 } else { Domain::IPV4 };
        let socket = Socket::new(domain, Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
        // Nobody reads it: as little as possible is kept for it.
        socket.set_recv_buffer_size(0)?;
        if key.peer.is_ipv6() {
            socket.set_only_v6(true)?;
            socket.set_unicast_hops_v6(TTL)?;
            socket.set_tclass_v6(TRAFFIC_CLASS)?;
        } else {
            socket.set_ttl_v4(TTL)?;
            socket.set_tos_v4(TRAFFIC_CLASS)?;
        }
        if let Some(name) = interface_name {
            socket.bind_device(Some(name.as_bytes()))?;
        }
        let any = if key.peer.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        let from = socket_address(key.local.unwrap_or(any), source_port, interface);
        socket.bind(&from.into())?;
        Ok(Sender { socket, to: socket_address(key.peer, port(multihop), interface), interface })
    }

    pub fn send(&self, bytes: &[u8; LENGTH]) -> io::Result<()> {
        self.socket.send_to(bytes, &self.to.into()).map(drop)
    }

    pub fn interface(&self) -> Option<u32> {
        self.interface
    }
}

/// A link-local address means something only together with its interface.
fn socket_address(address: IpAddr, port: u16, interface: Option<u32>) -> SocketAddr {
    match address {
        IpAddr::V6(address) if address.is_unicast_link_local() => {
            SocketAddr::V6(SocketAddrV6::new(address, port, 0, interface.unwrap_or(0)))
        }
        address => SocketAddr::new(address, port),
    }
}

/// Hands out the source ports, each to one session.
pub struct SourcePorts {
    taken: std::collections::BTreeSet<u16>,
    next: u16,
}

impl SourcePorts {
    pub fn starting_at(seed: u64) -> SourcePorts {
        let span = u64::from(SOURCE_PORTS.end() - SOURCE_PORTS.start()) + 1;
        SourcePorts { taken: Default::default(), next: SOURCE_PORTS.start() + (seed % span) as u16 }
    }

    /// The next one that no session has. None: all are taken.
    pub fn take(&mut self) -> Option<u16> {
        for _ in SOURCE_PORTS {
            let port = self.next;
            self.next = if port == *SOURCE_PORTS.end() { *SOURCE_PORTS.start() } else { port + 1 };
            if self.taken.insert(port) {
                return Some(port);
            }
        }
        None
    }

    pub fn give_back(&mut self, port: u16) {
        self.taken.remove(&port);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_ports_are_of_one_session_each_and_in_the_range() {
        let mut ports = SourcePorts::starting_at(16383);
        let taken: Vec<u16> = std::iter::from_fn(|| ports.take()).collect();
        assert_eq!(taken.len(), 16384);
        assert_eq!((taken[0], taken[1]), (65535, 49152));
        assert!(taken.iter().all(|port| SOURCE_PORTS.contains(port)));
        ports.give_back(50000);
        assert_eq!((ports.take(), ports.take()), (Some(50000), None));
    }
}
