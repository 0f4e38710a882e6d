//! The kernel's routes to learned prefixes: protocol 197, in the main table, written many at a time.
//!
//! ```text
//! [ add │ add │ replace │ … │ delete + ACK ] ──one datagram──▶ kernel
//!   errors, each with the number of its message, and the last one's acknowledgement ◀──┘
//! ```
//!
//! Sockets of its own, asked and answered at once: the kernel has done everything when the write returns, and so much is
//! written as a round has time for. `route.rs` waits for each route alone, which is right for a few.
//!
//! New routes are added with NLM_F_EXCL, so that another's route is never overwritten; a replacement is made only where
//! ours is known to be; a deletion names the protocol.
//!
//! Invariants: after a call that failed nothing is known about its edits. Reading is one dump after the other, a datagram at a
//! time; strict checking makes the kernel send only our protocol's, and what it sends in spite of that is left out here. It is not
//! asked for the main table alone: where nobody has put a route into that yet, there is none, and asking is an error.

use std::io;
use std::time::Duration;

use config::net::Cidr;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::route::{RouteMessage, RouteProtocol};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::route::{is_main, message_of, parse};
use super::{HostError, LEARNED, Route};
use crate::rib::kernel::Edit;

/// Room for answers: an error for every edit of a datagram.
const ANSWERS: usize = 1 << 20;

/// Edits of one datagram.
pub const MOST: usize = 128;

/// Datagrams that one call reads at most; a datagram of a dump has a hundred routes or more.
const DATAGRAMS: usize = 64;

const ESRCH: i32 = 3;

/// The kernel answers at once, or something is wrong: control waits no longer.
const PATIENCE: Duration = Duration::from_secs(2);

/// The sockets: one for edits and one for dumps, so that the answers to one are never taken for those to the other.
pub struct LearnedRoutes {
    socket: Socket,
    reader: Socket,
    port: u32,
    /// Of the last edit, and of the last question for a dump.
    sequence: u32,
    asked: u32,
    /// Family whose dump is under way.
    reading: Option<AddressFamily>,
}

impl LearnedRoutes {
    /// In the calling thread's namespace, for good.
    pub fn open() -> Result<LearnedRoutes, HostError> {
        let (socket, port) = open()?;
        let (reader, _) = open()?;
        Ok(LearnedRoutes { socket, reader, port, sequence: 0, asked: 0, reading: None })
    }

    /// What notifications of our own changes say who made them.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Makes these edits, at most [`MOST`]. Returns the positions of those that the kernel refused.
    pub fn edit(&mut self, edits: &[Edit]) -> Result<Vec<(usize, io::Error)>, HostError> {
        assert!(edits.len() <= MOST, "no more than fit the room for answers");
        let failed = || HostError::io("change learned routes");
        let Some(last) = edits.len().checked_sub(1) else { return Ok(Vec::new()) };
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        for (position, edit) in edits.iter().enumerate() {
            let (message, flags) = request(edit);
            self.sequence = self.sequence.wrapping_add(1);
            let acknowledge = if position == last { NLM_F_ACK } else { 0 };
            append(&mut bytes, message, NLM_F_REQUEST | flags | acknowledge, self.sequence);
        }
        self.socket.send(&bytes, 0).map_err(failed())?;
        let mut refused = Vec::new();
        // One answer for each edit at most.
        for _ in edits {
            let (datagram, _) = self.socket.recv_from_full().map_err(failed())?;
            for message in messages(&datagram) {
                let NetlinkPayload::Error(error) = message.payload else { continue };
                let position = message.header.sequence_number.wrapping_sub(first) as usize;
                // An answer to earlier edits, that came too late.
                let Some(edit) = edits.get(position) else { continue };
                let is_delete = matches!(edit, Edit::Delete(..));
                let error = error.code.map(|_| error.to_io());
                if let Some(error) = error.filter(|error| !(is_delete && error.raw_os_error() == Some(ESRCH))) {
                    refused.push((position, error));
                }
                if position == last {
                    return Ok(refused);
                }
            }
        }
        Err(HostError::Closed { action: "change learned routes".to_owned() })
    }

    /// The next of the kernel's routes that are ours, and whether they were the last. Begins anew after the last.
    pub fn read(&mut self) -> Result<(Vec<Route>, bool), HostError> {
        let result = self.read_some();
        if result.is_err() {
            self.reading = None;
        }
        result
    }

    fn read_some(&mut self) -> Result<(Vec<Route>, bool), HostError> {
        let failed = || HostError::io("list learned routes");
        let family = match self.reading {
            Some(family) => family,
            None => self.ask(AddressFamily::Inet)?,
        };
        let mut routes = Vec::new();
        for _ in 0..DATAGRAMS {
            let (datagram, _) = self.reader.recv_from_full().map_err(failed())?;
            for message in messages(&datagram) {
                if message.header.sequence_number != self.asked {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route))
                        if is_main(&route) && u8::from(route.header.protocol) == LEARNED =>
                    {
                        routes.extend(parse(&route));
                    }
                    NetlinkPayload::Error(error) if error.code.is_some() => return Err(failed()(error.to_io())),
                    NetlinkPayload::Done(_) if family == AddressFamily::Inet => {
                        self.ask(AddressFamily::Inet6)?;
                        return Ok((routes, false));
                    }
                    NetlinkPayload::Done(_) => {
                        self.reading = None;
                        return Ok((routes, true));
                    }
                    _ => {}
                }
            }
        }
        Ok((routes, false))
    }

    fn ask(&mut self, family: AddressFamily) -> Result<AddressFamily, HostError> {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        message.header.protocol = RouteProtocol::from(LEARNED);
        self.asked = self.asked.wrapping_add(1);
        let mut bytes = Vec::new();
        append(&mut bytes, RouteNetlinkMessage::GetRoute(message), NLM_F_REQUEST | NLM_F_DUMP, self.asked);
        self.reader.send(&bytes, 0).map_err(HostError::io("list learned routes"))?;
        self.reading = Some(family);
        Ok(family)
    }
}

/// A socket, and its number.
fn open() -> Result<(Socket, u32), HostError> {
    let failed = || HostError::io("open netlink socket for learned routes");
    let mut socket = Socket::new(NETLINK_ROUTE).map_err(failed())?;
    let address = socket.bind_auto().map_err(failed())?;
    socket.connect(&SocketAddr::new(0, 0)).map_err(failed())?;
    socket2::SockRef::from(&socket).set_read_timeout(Some(PATIENCE)).map_err(failed())?;
    let _ = socket.set_rx_buf_sz(ANSWERS);
    // Old kernels have none of these: then answers are longer, and dumps are.
    let _ = socket.set_cap_ack(true);
    let _ = socket.set_netlink_get_strict_chk(true);
    Ok((socket, address.port_number()))
}

fn request(edit: &Edit) -> (RouteNetlinkMessage, u16) {
    match edit {
        Edit::Add(route) => (RouteNetlinkMessage::NewRoute(message_of(route, LEARNED)), NLM_F_CREATE | NLM_F_EXCL),
        Edit::Replace(route) => {
            (RouteNetlinkMessage::NewRoute(message_of(route, LEARNED)), NLM_F_CREATE | NLM_F_REPLACE)
        }
        Edit::Delete(prefix, metric) => (RouteNetlinkMessage::DelRoute(deletion(*prefix, *metric)), 0),
    }
}

/// Whatever it leads to; of our protocol.
fn deletion(prefix: Cidr, metric: u32) -> RouteMessage {
    let mut message = message_of(&Route::new(prefix, metric, super::Target::Blackhole), LEARNED);
    message.header.kind = netlink_packet_route::route::RouteType::Unspec;
    message.header.scope = netlink_packet_route::route::RouteScope::NoWhere;
    message
}

/// Puts a message behind those that are there.
fn append(bytes: &mut Vec<u8>, message: RouteNetlinkMessage, flags: u16, sequence: u32) {
    let mut message = NetlinkMessage::from(message);
    message.header.flags = flags;
    message.header.sequence_number = sequence;
    message.finalize();
    let start = bytes.len();
    bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
    message.serialize(&mut bytes[start..]);
}

/// The messages of a datagram, up to the first that cannot be understood.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = NetlinkMessage<RouteNetlinkMessage>> + '_ {
    std::iter::from_fn(move || {
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes).ok()?;
        let length = (message.header.length as usize).next_multiple_of(4).max(4);
        bytes = bytes.get(length..).unwrap_or_default();
        Some(message)
    })
}
