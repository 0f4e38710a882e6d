//! The kernel's neighbour cache (ARP and ND).
//!
//! The fast path sends to uplink neighbours that the kernel resolves. Such an entry would age away,
//! since the kernel sees none of the fast path's traffic; so it is made *managed* (NTF_EXT_MANAGED,
//! kernel 5.16 and later): the kernel then keeps probing it by itself. Older kernels are asked to use
//! it once (NTF_USE), and the caller has to ask again now and then.
//!
//! Entries made here carry our mark (NDA_PROTOCOL), so that they can be told from others later.

use std::net::IpAddr;

use config::net::MacAddress;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
/// What the kernel believes of an entry.
pub use netlink_packet_route::neighbour::NeighbourState;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage,
};
use netlink_packet_route::route::{RouteProtocol, RouteType};

use super::{Host, HostError, LinkIndex, PROTOCOL, family_of};

const ENOENT: i32 = 2;
const ENODEV: i32 = 19;
const EINVAL: i32 = 22;
const EOPNOTSUPP: i32 = 95;

/// One entry of the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    pub link: LinkIndex,
    pub address: IpAddr,
    /// Known while the entry is resolved, and often stale afterwards: see `usable_mac`.
    pub mac: Option<MacAddress>,
    pub state: NeighbourState,
    /// Kept resolved by the kernel without traffic.
    pub is_managed: bool,
    /// Carries our mark.
    pub is_ours: bool,
    /// IPv6: it said that it is a router.
    pub is_router: bool,
}

/// Whether the kernel keeps an entry resolved by itself from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upkeep {
    Managed,
    /// The kernel is too old: it was told to resolve the entry now, and has to be told again.
    AskAgain,
}

impl Neighbour {
    /// The address to send to, as far as the kernel believes in it. STALE, DELAY and PROBE count: the
    /// kernel itself sends to such entries while it finds out.
    pub fn usable_mac(&self) -> Option<MacAddress> {
        match self.state {
            NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Permanent
            | NeighbourState::Noarp => self.mac,
            _ => None,
        }
    }

    /// The kernel asked and nobody answered.
    pub fn has_failed(&self) -> bool {
        self.state == NeighbourState::Failed
    }

    /// Set by hand and by us.
    pub fn is_our_static(&self) -> bool {
        self.is_ours && self.state == NeighbourState::Permanent
    }

    pub(super) fn from_message(message: &NeighbourMessage) -> Option<Neighbour> {
        let mut address = None;
        let mut neighbour = Neighbour {
            link: LinkIndex(message.header.ifindex),
            address: IpAddr::from([0; 4]),
            mac: None,
            state: message.header.state,
            is_managed: false,
            is_ours: false,
            is_router: message.header.flags.contains(NeighbourFlags::Router),
        };
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
                    address = Some(IpAddr::V4(*v4));
                }
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                    address = Some(IpAddr::V6(*v6));
                }
                NeighbourAttribute::LinkLayerAddress(bytes) => {
                    neighbour.mac = bytes.as_slice().try_into().ok().map(MacAddress);
                }
                NeighbourAttribute::ExtFlags(flags) => {
                    neighbour.is_managed = flags.contains(NeighbourExtFlags::Managed);
                }
                NeighbourAttribute::Protocol(protocol) => {
                    neighbour.is_ours = u8::from(*protocol) == PROTOCOL;
                }
                _ => {}
            }
        }
        // None for bridge forwarding entries, which share the message type.
        neighbour.address = address?;
        Some(neighbour)
    }
}

impl Host {
    /// Every entry of both families, on every link.
    pub async fn neighbours(&self) -> Result<Vec<Neighbour>, HostError> {
        let request = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
        let messages = self.dump(|| "list neighbours".to_owned(), request).await?;
        let neighbours = messages.iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewNeighbour(message) => Neighbour::from_message(message),
            _ => None,
        });
        Ok(neighbours.collect())
    }

    /// Has the kernel resolve this neighbour and keep it resolved. A known MAC stays in use meanwhile.
    pub async fn ensure_managed(&self, address: IpAddr, link: LinkIndex) -> Result<Upkeep, HostError> {
        let action = || format!("keep neighbour {address} on {link} resolved");
        let mut message = message_of(address, link);
        message.attributes.push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
        let request = RouteNetlinkMessage::NewNeighbour(message);
        match self.change(action, request, NLM_F_CREATE | NLM_F_REPLACE).await {
            Ok(()) => return Ok(Upkeep::Managed),
            Err(error) if matches!(error.errno(), Some(EINVAL | EOPNOTSUPP)) => {}
            Err(error) => return Err(error),
        }
        let mut message = message_of(address, link);
        message.header.flags = NeighbourFlags::Use;
        let request = RouteNetlinkMessage::NewNeighbour(message);
        self.change(action, request, NLM_F_CREATE | NLM_F_REPLACE).await?;
        Ok(Upkeep::AskAgain)
    }

    /// Sets a permanent entry.
    pub async fn set_static(&self, address: IpAddr, mac: MacAddress, link: LinkIndex) -> Result<(), HostError> {
        let mut message = message_of(address, link);
        message.header.state = NeighbourState::Permanent;
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
        self.change(
            || format!("set neighbour {address} to {mac} on {link}"),
            RouteNetlinkMessage::NewNeighbour(message),
            NLM_F_CREATE | NLM_F_REPLACE,
        )
        .await
    }

    /// Forgets an entry; one that is gone already, or whose link is, is fine. The kernel makes it
    /// anew, unmanaged, when it next needs it.
    pub async fn delete_neighbour(&self, address: IpAddr, link: LinkIndex) -> Result<(), HostError> {
        let request = RouteNetlinkMessage::DelNeighbour(message_of(address, link));
        let action = || format!("delete neighbour {address} on {link}");
        match self.change(action, request, 0).await {
            Err(error) if matches!(error.errno(), Some(ENOENT | ENODEV)) => Ok(()),
            result => result,
        }
    }
}

fn message_of(address: IpAddr, link: LinkIndex) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family_of(address);
    message.header.ifindex = link.0;
    message.header.kind = RouteType::Unicast;
    message.attributes = vec![
        NeighbourAttribute::Destination(address.into()),
        NeighbourAttribute::Protocol(RouteProtocol::Other(PROTOCOL)),
    ];
    message
}
