//! One TCP connection: made or accepted, then read and written by a task each.
//!
//! Options that have to be there before the first segment are set before it: the key of TCP-MD5, the TTL, the source address.
//!
//! Invariants: `queued` is what was given to `send` and has not been written; a connection that is closed is told to nobody.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fastpath::io::transport;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::super::session::ConnectionId;
use super::super::speaker_state::{Password, PeerKey, Transport};
use super::READ;

/// The kernel's own patience is minutes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// What is sent and not acknowledged for so long ends the connection; longer than any hold time that people use.
const USER_TIMEOUT: Duration = Duration::from_secs(480);
/// Packets of routing protocols go first: CS6.
const TOS: u32 = 0xc0;
const MAX_TTL: u32 = 255;

/// What happened at a socket.
pub enum Io {
    Accepted { stream: TcpStream, local: SocketAddr, remote: SocketAddr },
    Connected { peer: PeerKey, connection: ConnectionId, stream: TcpStream, local: SocketAddr, remote: SocketAddr },
    Failed { peer: PeerKey, connection: ConnectionId, reason: String },
    Read { peer: PeerKey, connection: ConnectionId, bytes: Vec<u8> },
    Closed { peer: PeerKey, connection: ConnectionId, reason: String },
    Written { peer: PeerKey, connection: ConnectionId },
}

pub struct Connection {
    queued: Arc<AtomicUsize>,
    state: State,
}

enum State {
    Connecting(JoinHandle<()>),
    Open { writes: mpsc::UnboundedSender<Vec<u8>>, reader: JoinHandle<()>, writer: JoinHandle<()> },
}

impl Connection {
    /// Begins to connect.
    pub fn connect(
        peer: PeerKey,
        connection: ConnectionId,
        transport: &Transport,
        events: mpsc::Sender<Io>,
    ) -> Connection {
        let socket = outgoing(peer, transport);
        let task = tokio::spawn(async move {
            let connected = async {
                let stream = tokio::time::timeout(CONNECT_TIMEOUT, socket?.connect((peer.address, peer.port).into()));
                let stream = stream.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
                let (local, remote) = (stream.local_addr()?, stream.peer_addr()?);
                Ok::<_, io::Error>((stream, local, remote))
            };
            let event = match connected.await {
                Ok((stream, local, remote)) => Io::Connected { peer, connection, stream, local, remote },
                Err(error) => Io::Failed { peer, connection, reason: error.to_string() },
            };
            let _ = events.send(event).await;
        });
        Connection { queued: Arc::default(), state: State::Connecting(task) }
    }

    /// Reads and writes from now on.
    pub fn start(peer: PeerKey, connection: ConnectionId, stream: TcpStream, events: mpsc::Sender<Io>) -> Connection {
        let queued = Arc::new(AtomicUsize::new(0));
        let (reading, writing) = stream.into_split();
        let (writes, to_write) = mpsc::unbounded_channel();
        let reader = tokio::spawn(read(peer, connection, reading, events.clone()));
        let writer = tokio::spawn(write(peer, connection, writing, to_write, queued.clone(), events));
        Connection { queued, state: State::Open { writes, reader, writer } }
    }

    pub fn is_connecting(&self) -> bool {
        matches!(self.state, State::Connecting(_))
    }

    /// Octets that wait for the socket.
    pub fn queued(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }

    /// Queues octets. What waits is bounded by who calls: sessions say little, and updates are given by `queued`.
    pub fn send(&self, bytes: Vec<u8>) {
        if let State::Open { writes, .. } = &self.state {
            self.queued.fetch_add(bytes.len(), Ordering::Relaxed);
            let _ = writes.send(bytes);
        }
    }

    /// Closes it when what is queued was written. Gives the task that does that.
    pub fn close(self) -> Option<JoinHandle<()>> {
        match self.state {
            State::Connecting(task) => {
                task.abort();
                None
            }
            State::Open { reader, writer, writes } => {
                reader.abort();
                drop(writes);
                Some(writer)
            }
        }
    }
}

async fn read(peer: PeerKey, connection: ConnectionId, mut stream: OwnedReadHalf, events: mpsc::Sender<Io>) {
    let mut buffer = Vec::new();
    loop {
        buffer.reserve(READ);
        let event = match stream.read_buf(&mut buffer).await {
            Ok(0) => Io::Closed { peer, connection, reason: "closed by the peer".to_owned() },
            Ok(_) => {
                let bytes = buffer[..].into();
                buffer.clear();
                Io::Read { peer, connection, bytes }
            }
            Err(error) => Io::Closed { peer, connection, reason: error.to_string() },
        };
        let is_end = matches!(event, Io::Closed { .. });
        if events.send(event).await.is_err() || is_end {
            break;
        }
    }
}

async fn write(
    peer: PeerKey,
    connection: ConnectionId,
    mut stream: OwnedWriteHalf,
    mut writes: mpsc::UnboundedReceiver<Vec<u8>>,
    queued: Arc<AtomicUsize>,
    events: mpsc::Sender<Io>,
) {
    while let Some(bytes) = writes.recv().await {
        let mut left = &bytes[..];
        while !left.is_empty() {
            match stream.write(left).await {
                Ok(count) => {
                    left = left.get(count..).unwrap_or_default();
                    queued.fetch_sub(count, Ordering::Relaxed);
                    if events.send(Io::Written { peer, connection }).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    // After a close nobody asks any more.
                    let event = Io::Closed { peer, connection, reason: error.to_string() };
                    let _ = events.send(event).await;
                    return;
                }
            }
        }
    }
    let _ = stream.shutdown().await;
}

/// A socket that can connect to the peer.
fn outgoing(peer: PeerKey, wanted: &Transport) -> io::Result<tokio::net::TcpSocket> {
    let domain = if peer.address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    if let Some(address) = wanted.local_address {
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::new(address, 0).into())?;
    }
    prepare(&socket, peer.address, wanted)?;
    if let Some(Password::Known(key)) = &wanted.password {
        transport::set_md5(&socket, peer.address, key.as_bytes())?;
    }
    Ok(tokio::net::TcpSocket::from_std_stream(socket.into()))
}

/// What an accepted socket has to have. Its key it has from the listener.
pub fn prepare_accepted(stream: &TcpStream, wanted: &Transport) -> io::Result<()> {
    let remote = stream.peer_addr()?.ip();
    prepare(&socket2::SockRef::from(stream), remote, wanted)
}

fn prepare(socket: &Socket, peer: IpAddr, wanted: &Transport) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    let (is_ipv4, ttl) = (peer.is_ipv4(), MAX_TTL);
    if is_ipv4 {
        socket.set_ttl_v4(ttl)?;
        socket.set_tos_v4(TOS)?;
    } else {
        socket.set_unicast_hops_v6(ttl)?;
        socket.set_tclass_v6(TOS)?;
    }
    if let Some(hops) = wanted.ttl_security {
        // RFC 5082 §3: packets that came farther are somebody else's.
        let least = u8::MAX.saturating_sub(hops.saturating_sub(1));
        transport::set_least_ttl(socket, is_ipv4, least)?;
    }
    Ok(())
}

/// All addresses of a family.
pub fn any(is_ipv4: bool) -> IpAddr {
    if is_ipv4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}
