//! Addresses of interfaces.
//!
//! Addresses added here carry our mark (IFA_PROTO, kernel 5.18 and later; older kernels ignore it and
//! `is_ours` is then never true). IPv6 addresses are added without duplicate address detection: a
//! router's own address has to work at once, and what the router owns has no second claimant.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope};

use super::{Host, HostError, LinkIndex, PROTOCOL, family_of};

const EADDRNOTAVAIL: i32 = 99;
const ENODEV: i32 = 19;

/// An address on a link, with the length of the network it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceAddress {
    pub link: LinkIndex,
    pub address: IpAddr,
    pub prefix_length: u8,
}

impl fmt::Display for InterfaceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} on {}", self.address, self.prefix_length, self.link)
    }
}

impl Host {
    /// Every address of the namespace.
    pub async fn addresses(&self) -> Result<Vec<InterfaceAddress>, HostError> {
        Ok(self.dump_addresses().await?.map(|(address, _)| address).collect())
    }

    /// Those we added.
    pub async fn our_addresses(&self) -> Result<Vec<InterfaceAddress>, HostError> {
        let all = self.dump_addresses().await?;
        Ok(all.filter(|(_, ours)| *ours).map(|(address, _)| address).collect())
    }

    /// Adds the address, marked as ours; one that is there already is fine.
    pub async fn add_address(&self, address: &InterfaceAddress) -> Result<(), HostError> {
        self.change(
            || format!("add address {}/{} to {}", address.address, address.prefix_length, address.link),
            RouteNetlinkMessage::NewAddress(message_of(address, self.mark)),
            NLM_F_CREATE | NLM_F_REPLACE,
        )
        .await
    }

    /// Deletes the address; one that is gone already, or whose link is, is fine.
    pub async fn delete_address(&self, address: &InterfaceAddress) -> Result<(), HostError> {
        let action = || format!("delete address {}/{} from {}", address.address, address.prefix_length, address.link);
        let request = RouteNetlinkMessage::DelAddress(message_of(address, self.mark));
        match self.change(action, request, 0).await {
            Err(error) if matches!(error.errno(), Some(EADDRNOTAVAIL | ENODEV)) => Ok(()),
            result => result,
        }
    }

    async fn dump_addresses(&self) -> Result<impl Iterator<Item = (InterfaceAddress, bool)>, HostError> {
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let messages = self.dump(|| "list addresses".to_owned(), request).await?;
        Ok(messages.into_iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewAddress(message) => parse(&message),
            _ => None,
        }))
    }
}

fn message_of(address: &InterfaceAddress, mark: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family_of(address.address);
    message.header.index = address.link.0;
    message.header.prefix_len = address.prefix_length;
    message.header.scope = AddressScope::Universe;
    if address.address.is_ipv6() {
        message.header.flags = AddressHeaderFlags::Nodad;
    }
    message.attributes = vec![
        AddressAttribute::Local(address.address),
        AddressAttribute::Address(address.address),
        AddressAttribute::Protocol(mark.into()),
    ];
    if let IpAddr::V4(v4) = address.address
        && address.prefix_length < 31
    {
        let host_bits = u32::MAX >> address.prefix_length;
        let broadcast = Ipv4Addr::from(u32::from(v4) | host_bits);
        message.attributes.push(AddressAttribute::Broadcast(broadcast));
    }
    message
}

/// The address and whether it carries our mark. IFA_LOCAL is the address itself where both are given
/// (on point-to-point links IFA_ADDRESS is the far end's).
fn parse(message: &AddressMessage) -> Option<(InterfaceAddress, bool)> {
    let mut local = None;
    let mut address = None;
    let mut ours = false;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => address = Some(*ip),
            AddressAttribute::Protocol(protocol) => ours = u8::from(*protocol) == PROTOCOL,
            _ => {}
        }
    }
    let parsed = InterfaceAddress {
        link: LinkIndex(message.header.index),
        address: local.or(address)?,
        prefix_length: message.header.prefix_len,
    };
    Some((parsed, ours))
}
