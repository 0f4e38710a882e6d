//! Frames of DHCP clients: the message in one, and one around a message.

use std::net::Ipv4Addr;

use config::net::MacAddress;
use etherparse::{LinkSlice, PacketBuilder, SlicedPacket, TransportSlice};
use fastpath::header::build::TTL;
use fastpath::header::udp::{DHCP_CLIENT, DHCP_SERVER};

use super::count::Refusal;
use crate::host::GATEWAY_MAC;

/// Who has sent a client's frame, and the message in it. Its UDP checksum is not looked at: a sender whose packets nobody
/// takes over a wire leaves it to be completed.
pub fn read(frame: &[u8]) -> Result<(MacAddress, &[u8]), Refusal> {
    let packet = SlicedPacket::from_ethernet(frame).map_err(|_| Refusal::Malformed)?;
    let (Some(LinkSlice::Ethernet2(link)), Some(TransportSlice::Udp(udp))) = (packet.link, packet.transport) else {
        return Err(Refusal::Malformed);
    };
    match (udp.source_port(), udp.destination_port()) {
        (DHCP_CLIENT, DHCP_SERVER) => Ok((MacAddress(link.source()), udp.payload())),
        _ => Err(Refusal::Malformed),
    }
}

/// Where an answer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Destination {
    pub mac: MacAddress,
    pub address: Ipv4Addr,
}

/// To everybody on the link, of whom there is one.
pub const EVERYBODY: Destination = Destination { mac: MacAddress([0xff; 6]), address: Ipv4Addr::BROADCAST };

/// As the host side of a workload's interface sends it.
pub fn write(message: &[u8], from: Ipv4Addr, to: Destination) -> Result<Vec<u8>, Refusal> {
    let builder = PacketBuilder::ethernet2(GATEWAY_MAC.0, to.mac.0)
        .ipv4(from.octets(), to.address.octets(), TTL)
        .udp(DHCP_SERVER, DHCP_CLIENT);
    let mut frame = Vec::with_capacity(builder.size(message.len()));
    builder.write(&mut frame, message).map_err(|_| Refusal::TooLong)?;
    Ok(frame)
}
