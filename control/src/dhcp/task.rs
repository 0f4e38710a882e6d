//! The sockets of the relay, served by a task beside control, on its thread.
//!
//! ```text
//!   control ─Heard (bounded)─▶ ┌──────┐ ─UDP 67─▶ servers
//!   control ─RelayState──────▶ │ task │ ─packet socket─▶ clients
//!   control ◀─problem, counts─ └──────┘ ◀─UDP 67─ servers
//! ```
//!
//! The socket is there as long as there is something to relay. What keeps it from being opened, such as a DHCP server on this
//! very node, is told and tried again; nothing else waits for it.
//!
//! Bounds: `HEARD` frames that wait for the task while its socket takes no more; what is beyond is refused and counted.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastpath::header::udp::DHCP_SERVER;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};

use super::RelayState;
use super::count::{Counters, Refusal};
use super::message::MESSAGE_MAX;
use super::relay::{Client, Relay};
use crate::host::frames::Frames;

/// Frames that wait for the task.
const HEARD: usize = 256;
/// How long what could not be opened is left alone.
const RETRY: Duration = Duration::from_secs(2);

/// A frame that a workload has sent.
#[derive(Debug)]
pub struct Heard {
    pub client: Client,
    pub frame: Vec<u8>,
}

/// The task, as control knows it; it ends with this.
#[derive(Debug)]
pub struct Dhcp {
    heard: mpsc::Sender<Heard>,
    wanted: watch::Sender<Option<RelayState>>,
    problem: watch::Receiver<Option<String>>,
    counters: Arc<Counters>,
}

impl Dhcp {
    /// To be called on a runtime's thread.
    pub fn start() -> Dhcp {
        let (heard, frames) = mpsc::channel(HEARD);
        let (wanted, states) = watch::channel(None);
        let (tell, problem) = watch::channel(None);
        let counters = Arc::<Counters>::default();
        let task = Task { frames, states, problem: tell, counters: counters.clone(), relay: Relay::default() };
        tokio::spawn(task.run());
        Dhcp { heard, wanted, problem, counters }
    }

    /// What is to be relayed from now on.
    pub fn want(&self, state: Option<RelayState>) {
        self.wanted.send_if_modified(|wanted| {
            let is_new = *wanted != state;
            *wanted = state;
            is_new
        });
    }

    pub fn hear(&self, heard: Heard) {
        if self.heard.try_send(heard).is_err() {
            self.counters.refuse(Refusal::QueueFull);
        }
    }

    /// What keeps it from relaying.
    pub fn problem(&self) -> Option<String> {
        self.problem.borrow().clone()
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }
}

struct Task {
    frames: mpsc::Receiver<Heard>,
    states: watch::Receiver<Option<RelayState>>,
    problem: watch::Sender<Option<String>>,
    counters: Arc<Counters>,
    relay: Relay,
}

/// What is open, for one state of the relay.
struct Sockets {
    servers: UdpSocket,
    clients: Frames,
}

impl Task {
    async fn run(mut self) {
        let mut state: Option<RelayState> = None;
        let mut sockets: Option<Sockets> = None;
        let mut retry = tokio::time::Instant::now();
        let mut buffer = vec![0; MESSAGE_MAX + 1];
        loop {
            tokio::select! {
                changed = self.states.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    state = self.states.borrow_and_update().clone();
                    // The one before it may have the port.
                    drop(sockets.take());
                    sockets = self.open(state.as_ref());
                    retry = tokio::time::Instant::now() + RETRY;
                }
                () = tokio::time::sleep_until(retry), if state.is_some() && sockets.is_none() => {
                    sockets = self.open(state.as_ref());
                    retry = tokio::time::Instant::now() + RETRY;
                }
                heard = self.frames.recv() => match (heard, &state) {
                    (None, _) => return,
                    (Some(heard), Some(state)) => self.ask(state, sockets.as_ref(), &heard).await,
                    (Some(_), None) => self.counters.refuse(Refusal::NotSent),
                },
                received = receive(sockets.as_ref(), &mut buffer) => match (received, &state, &mut sockets) {
                    (Ok((length, server)), Some(state), Some(sockets)) => {
                        self.answer(state, sockets, server, &buffer[..length]);
                    }
                    (Err(error), _, _) => {
                        self.tell(Some(format!("DHCP relay: receive: {error}")));
                        sockets = None;
                        retry = tokio::time::Instant::now() + RETRY;
                    }
                    _ => {}
                },
            }
        }
    }

    fn open(&self, state: Option<&RelayState>) -> Option<Sockets> {
        let state = state?;
        let from = SocketAddrV4::new(state.own_address, DHCP_SERVER);
        match open(from) {
            Ok(sockets) => {
                tracing::info!(own = %from, servers = ?state.servers, "DHCP is relayed");
                self.tell(None);
                Some(sockets)
            }
            Err(error) => {
                self.tell(Some(format!(
                    "DHCP relay: listen on UDP {from}: {error}; tried again every {} s",
                    RETRY.as_secs()
                )));
                None
            }
        }
    }

    fn tell(&self, problem: Option<String>) {
        self.problem.send_replace(problem);
    }

    async fn ask(&mut self, state: &RelayState, sockets: Option<&Sockets>, heard: &Heard) {
        let Heard { client, frame } = heard;
        let asked = self.relay.ask(state, client, frame, Instant::now());
        match asked.and_then(|datagram| Ok((datagram, &sockets.ok_or(Refusal::NotSent)?.servers))) {
            Ok((datagram, socket)) => {
                let mut is_sent = false;
                // One that cannot be reached keeps the question from nobody.
                for server in &state.servers {
                    is_sent |= socket.send_to(&datagram, (*server, DHCP_SERVER)).await.is_ok();
                }
                if is_sent { self.counters.request() } else { self.counters.refuse(Refusal::NotSent) }
            }
            Err(why) => {
                tracing::debug!(interface = client.interface, why = why.name(), "DHCP question not relayed");
                self.counters.refuse(why);
            }
        }
    }

    fn answer(&mut self, state: &RelayState, sockets: &mut Sockets, server: Ipv4Addr, datagram: &[u8]) {
        let answered = self.relay.answer(state, server, datagram, Instant::now()).and_then(|answer| {
            // A client that has gone meanwhile misses nothing.
            sockets.clients.send(answer.link, &answer.frame).map_err(|_| Refusal::NotSent)
        });
        match answered {
            Ok(()) => self.counters.reply(),
            Err(why) => {
                tracing::debug!(%server, why = why.name(), "DHCP answer not relayed");
                self.counters.refuse(why);
            }
        }
    }
}

fn open(from: SocketAddrV4) -> io::Result<Sockets> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.bind(&from.into())?;
    Ok(Sockets { servers: UdpSocket::from_std(socket.into())?, clients: Frames::open()? })
}

/// One datagram. What is longer than a message may be is cut, and then too long by one.
async fn receive(sockets: Option<&Sockets>, buffer: &mut [u8]) -> io::Result<(usize, Ipv4Addr)> {
    let Some(Sockets { servers, .. }) = sockets else { return std::future::pending().await };
    let (length, from) = servers.recv_from(buffer).await?;
    match from {
        SocketAddr::V4(from) => Ok((length, *from.ip())),
        SocketAddr::V6(_) => Err(io::ErrorKind::InvalidData.into()),
    }
}
