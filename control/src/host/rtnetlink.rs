//! The conversation with the kernel's routing subsystem: one socket to ask on, one to listen on.
//!
//! ```text
//! Host ──request──▶ socket A ──▶ kernel          every request waits for its acknowledgement
//! Events ◀─────────  socket B ◀── kernel         links, neighbours, addresses, routes
//! ```
//!
//! They are apart so that a burst of notifications can never push an answer out of the buffer. The
//! buffer of socket B is the only queue of events and it is bounded (`EVENT_BUFFER`): when it
//! overflows the kernel says so (ENOBUFS), the caller gets [`HostEvent::Overflow`] and dumps again.
//!
//! Both sockets belong to the namespace of the thread that calls [`Host::open`], for good.
//!
//! Invariants: an acknowledged request has happened; a dump is whole (its end was seen) or an error.
//! Left out: strict checking of dumps, so that kernels before 4.20 answer too; filters are ours.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;

use futures_util::StreamExt;
use netlink_packet_core::{
    ErrorMessage, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::{AsyncSocket, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE};
use rtnetlink::{Handle, MulticastGroup};
use tokio::sync::Mutex;

use super::{HostError, LEARNED, Link, LinkIndex, Neighbour, OPERATOR, PROTOCOL};

/// Receive buffer of the event socket: about 10 000 notifications before an overflow.
const EVENT_BUFFER: usize = 4 << 20;

const EVENT_GROUPS: [MulticastGroup; 6] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];

/// How often a dump is begun again because something changed under it.
const DUMP_ATTEMPTS: u32 = 4;

const ENOBUFS: i32 = 105;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;

/// Requests to the kernel in one network namespace. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Host {
    handle: Handle,
    /// Protocol number of the routes and addresses it makes.
    pub(super) mark: u8,
    dumping: Arc<Mutex<()>>,
}

impl Host {
    /// Opens both sockets in the calling thread's namespace. Needs a tokio runtime with I/O on this
    /// thread; it carries the request socket until the last clone of `Host` is gone.
    pub fn open() -> Result<(Host, Events), HostError> {
        // Events first: what changes between a caller's first dump and now is then not lost.
        let events = Events::open()?;
        Ok((Host::connect()?, events))
    }

    /// Only the request socket, for one-off work.
    pub fn connect() -> Result<Host, HostError> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| HostError::NoRuntime)?;
        let (mut connection, handle, _) = rtnetlink::new_connection().map_err(HostError::io("open netlink socket"))?;
        // Acknowledgements and ends of dumps reach us, so that a connection that dies in between
        // cannot be taken for success.
        connection.set_forward_ack(true);
        connection.set_forward_done(true);
        let socket = connection.socket_mut().socket_ref();
        // Words for errors, and errors without the request echoed. Old kernels lack them: numbers do.
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        runtime.spawn(connection);
        Ok(Host { handle, mark: PROTOCOL, dumping: Arc::default() })
    }

    /// What this handle makes counts as made by the operator: a router that runs here leaves it alone.
    pub fn as_operator(mut self) -> Host {
        self.mark = OPERATOR;
        self
    }

    /// Sends one request that changes something and waits until the kernel has done it.
    pub(super) async fn change(
        &self,
        action: impl FnOnce() -> String,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(), HostError> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        let mut handle = self.handle.clone();
        let Ok(mut answers) = handle.request(request) else {
            return Err(HostError::Closed { action: action() });
        };
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::Error(error) = answer.payload {
                return match error.code {
                    None => Ok(()),
                    Some(_) => Err(refused(action(), &error)),
                };
            }
        }
        Err(HostError::Closed { action: action() })
    }

    /// Asks for one object.
    pub(super) async fn get(
        &self,
        action: impl FnOnce() -> String,
        message: RouteNetlinkMessage,
    ) -> Result<RouteNetlinkMessage, HostError> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST;
        let mut handle = self.handle.clone();
        let Ok(mut answers) = handle.request(request) else {
            return Err(HostError::Closed { action: action() });
        };
        match answers.next().await.map(|answer| answer.payload) {
            Some(NetlinkPayload::InnerMessage(message)) => Ok(message),
            Some(NetlinkPayload::Error(error)) => Err(refused(action(), &error)),
            Some(other) => Err(HostError::Protocol { action: action(), detail: format!("{other:?}") }),
            None => Err(HostError::Closed { action: action() }),
        }
    }

    /// Asks for all objects of a kind. A dump that something changed under is not one state of the
    /// kernel and is done again; after `DUMP_ATTEMPTS` it is taken as it is, since the change that
    /// spoilt it has an event of its own.
    pub(super) async fn dump(
        &self,
        action: impl FnOnce() -> String,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, HostError> {
        // The kernel does one dump per socket at a time.
        let _turn = self.dumping.lock().await;
        let mut last = Vec::new();
        for _ in 0..DUMP_ATTEMPTS {
            let (messages, is_consistent) = match self.dump_once(message.clone()).await {
                Ok(dump) => dump,
                Err(None) => return Err(HostError::Closed { action: action() }),
                Err(Some(error)) => return Err(refused(action(), &error)),
            };
            last = messages;
            if is_consistent {
                break;
            }
        }
        Ok(last)
    }

    /// The objects and whether they are one state. An error without a message is a lost connection.
    async fn dump_once(
        &self,
        message: RouteNetlinkMessage,
    ) -> Result<(Vec<RouteNetlinkMessage>, bool), Option<ErrorMessage>> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let mut handle = self.handle.clone();
        let mut answers = handle.request(request).map_err(|_| None)?;
        let mut messages = Vec::new();
        let mut is_consistent = true;
        while let Some(answer) = answers.next().await {
            is_consistent &= answer.header.flags & NLM_F_DUMP_INTR == 0;
            match answer.payload {
                NetlinkPayload::InnerMessage(message) => messages.push(message),
                NetlinkPayload::Done(_) => return Ok((messages, is_consistent)),
                NetlinkPayload::Error(error) => return Err(Some(error)),
                _ => {}
            }
        }
        Err(None)
    }
}

/// What changed in the kernel. Notifications are hints about state: after `Overflow`, and whenever
/// in doubt, dump.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostEvent {
    LinkChanged(Link),
    LinkRemoved {
        index: LinkIndex,
        name: String,
    },
    NeighbourChanged(Neighbour),
    NeighbourRemoved(Neighbour),
    /// An address came, went or changed on this link.
    AddressChanged {
        link: LinkIndex,
    },
    RouteChanged,
    /// Somebody else changed a route of ours to a learned prefix.
    LearnedRouteChanged,
    /// Notifications were lost; everything known from events must be read again.
    Overflow,
}

/// The subscription. Dropping it ends it.
pub struct Events {
    socket: TokioSocket,
    pending: VecDeque<HostEvent>,
    /// The port of the socket that writes routes to learned prefixes.
    writer: Option<u32>,
}

impl Events {
    /// Passes over what this socket changes in routes to learned prefixes.
    pub fn ignore(&mut self, writer: u32) {
        self.writer = Some(writer);
    }

    fn open() -> Result<Events, HostError> {
        tokio::runtime::Handle::try_current().map_err(|_| HostError::NoRuntime)?;
        let action = "subscribe to kernel events";
        let mut socket = TokioSocket::new(NETLINK_ROUTE).map_err(HostError::io(action))?;
        let mut groups = 0u32;
        for group in EVENT_GROUPS {
            groups |= 1 << (group as u32 - 1);
        }
        let inner = socket.socket_mut();
        // A smaller buffer only means earlier overflows, which are handled.
        let _ = inner.set_rx_buf_sz(EVENT_BUFFER);
        inner.bind(&SocketAddr::new(0, groups)).map_err(HostError::io(action))?;
        Ok(Events { socket, pending: VecDeque::new(), writer: None })
    }

    /// The next event. Cancel safe: dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<HostEvent, HostError> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Ok(event);
            }
            match poll_fn(|context| self.socket.poll_recv_from_full(context)).await {
                Ok((datagram, _)) if is_own(&datagram, self.writer) => {}
                Ok((datagram, _)) => parse_datagram(&datagram, &mut self.pending),
                Err(error) if error.raw_os_error() == Some(ENOBUFS) => {
                    return Ok(HostEvent::Overflow);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(HostError::Io { action: "receive kernel events".to_owned(), source });
                }
            }
        }
    }
}

/// A notification of a route to a learned prefix by who wrote it: there are as many as there are routes, so it is told by a
/// few bytes. Type and port of struct nlmsghdr, and the protocol of struct rtmsg behind it.
fn is_own(datagram: &[u8], writer: Option<u32>) -> bool {
    const HEADER: usize = 16;
    let length = datagram.first_chunk().map_or(0, |length| u32::from_ne_bytes(*length) as usize);
    let kind = datagram.get(4..6).and_then(|kind| kind.first_chunk()).map(|kind| u16::from_ne_bytes(*kind));
    let port = datagram.get(12..HEADER).and_then(|port| port.first_chunk()).map(|port| u32::from_ne_bytes(*port));
    let is_alone = length.next_multiple_of(4) >= datagram.len();
    is_alone
        && matches!(kind, Some(RTM_NEWROUTE | RTM_DELROUTE))
        && datagram.get(HEADER + 5) == Some(&LEARNED)
        && writer.is_some_and(|writer| port == Some(writer))
}

/// One datagram holds one or more messages. One that cannot be parsed is a change we did not
/// understand, which is the same as one we did not get: `Overflow`.
fn parse_datagram(mut bytes: &[u8], out: &mut VecDeque<HostEvent>) {
    while !bytes.is_empty() {
        let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes) else {
            out.push_back(HostEvent::Overflow);
            return;
        };
        // Messages are padded to four bytes; a length of zero would never end.
        let length = (message.header.length as usize).next_multiple_of(4);
        assert!(length > 0);
        bytes = bytes.get(length..).unwrap_or_default();
        match message.payload {
            NetlinkPayload::InnerMessage(message) => out.extend(event_of(message)),
            NetlinkPayload::Overrun(_) => out.push_back(HostEvent::Overflow),
            _ => {}
        }
    }
}

fn event_of(message: RouteNetlinkMessage) -> Option<HostEvent> {
    match message {
        // Bridges announce their ports as links of family AF_BRIDGE; those are not links coming or going.
        RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link)
            if link.header.interface_family != AddressFamily::Unspec =>
        {
            None
        }
        RouteNetlinkMessage::NewLink(link) => Some(HostEvent::LinkChanged(Link::from(&link))),
        RouteNetlinkMessage::DelLink(link) => {
            let Link { index, name, .. } = Link::from(&link);
            Some(HostEvent::LinkRemoved { index, name })
        }
        RouteNetlinkMessage::NewNeighbour(message) => {
            Neighbour::from_message(&message).map(HostEvent::NeighbourChanged)
        }
        RouteNetlinkMessage::DelNeighbour(message) => {
            Neighbour::from_message(&message).map(HostEvent::NeighbourRemoved)
        }
        RouteNetlinkMessage::NewAddress(message) | RouteNetlinkMessage::DelAddress(message) => {
            Some(HostEvent::AddressChanged { link: LinkIndex(message.header.index) })
        }
        RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route)
            if u8::from(route.header.protocol) == LEARNED =>
        {
            Some(HostEvent::LearnedRouteChanged)
        }
        RouteNetlinkMessage::NewRoute(_) | RouteNetlinkMessage::DelRoute(_) => Some(HostEvent::RouteChanged),
        _ => None,
    }
}

fn refused(action: String, error: &ErrorMessage) -> HostError {
    HostError::Refused { action, source: error.to_io(), hint: extended_acknowledgement(&error.header) }
}

/// The text in an extended acknowledgement: behind the request's header (16 bytes) come attributes,
/// NLMSGERR_ATTR_MSG (1) is a string. See include/uapi/linux/netlink.h.
fn extended_acknowledgement(payload: &[u8]) -> Option<String> {
    const NLMSGERR_ATTR_MSG: u16 = 1;
    let mut rest = payload.get(16..)?;
    while let [a, b, c, d, ..] = *rest {
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let kind = u16::from_ne_bytes([c, d]);
        let value = rest.get(4..length)?;
        if kind == NLMSGERR_ATTR_MSG {
            let text = String::from_utf8_lossy(value);
            return Some(text.trim_end_matches('\0').to_owned());
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extended_acknowledgement_text() {
        let mut payload = vec![0; 16];
        payload.extend_from_slice(&8u16.to_ne_bytes());
        payload.extend_from_slice(&2u16.to_ne_bytes());
        payload.extend_from_slice(&[0; 4]);
        payload.extend_from_slice(&8u16.to_ne_bytes());
        payload.extend_from_slice(&1u16.to_ne_bytes());
        payload.extend_from_slice(b"no!\0");
        assert_eq!(extended_acknowledgement(&payload).as_deref(), Some("no!"));
        assert_eq!(extended_acknowledgement(&payload[..16]), None);
        assert_eq!(extended_acknowledgement(&payload[..30]), None);
        assert_eq!(extended_acknowledgement(&[0; 24]), None, "a length of zero ends the walk");
    }

    #[test]
    fn a_datagram_that_is_not_netlink_means_dump_again() {
        let mut events = VecDeque::new();
        parse_datagram(&[1, 2, 3], &mut events);
        parse_datagram(&[0; 64], &mut events);
        assert!(events.iter().all(|event| *event == HostEvent::Overflow));
        assert_eq!(events.len(), 2);
    }
}
