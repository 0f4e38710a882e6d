//! Packets that workers punted: those that wait for a next hop are given back when it has answered, and what workloads ask DHCP
//! servers goes to the relay.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use fastpath::table::InterfaceIndex;
use fastpath::table::interface::InterfaceKind;
use fastpath::worker::PUNT_DEPTH;

use super::Control;
use crate::compile::RouteRow;
use crate::datastore::Datastore;
use crate::host::LinkIndex;
use crate::resolve::{self, Waiting};

impl<D: Datastore> Control<D> {
    /// Takes the packets that workers punted, and asks for the neighbours they wait for.
    pub(super) fn take_punts(&mut self) {
        let mut packets = Vec::new();
        for remote in self.attachments.remotes() {
            // No more than the lane holds: who sends without end must not keep us here.
            let waiting = (0..PUNT_DEPTH).map_while(|_| {
                remote.punt.receive(|buffer| Waiting { interface: buffer.interface, bytes: buffer.bytes().to_vec() })
            });
            packets.extend(waiting);
        }
        self.tell_of_dhcp();
        for packet in packets {
            let destination = resolve::destination(&packet.bytes);
            // Nobody is asked for this one: workers punt it for what it says.
            if destination == Some(IpAddr::V4(Ipv4Addr::BROADCAST)) {
                self.hear_dhcp(packet);
                continue;
            }
            let Some(neighbour) = destination.and_then(|address| self.next_hop_to(address)) else {
                self.resolver.given_up += 1;
                continue;
            };
            if self.resolver.keep(neighbour, packet, Instant::now()) {
                self.dirty.tables = true;
            }
        }
    }
}

impl<D> Control<D> {
    /// The longest route to an address.
    pub(super) fn route_to(&self, address: IpAddr) -> Option<&RouteRow> {
        self.routes.iter().filter(|row| row.prefix.contains(address)).max_by_key(|row| row.prefix.length())
    }

    /// The neighbour that a packet to this address has to be sent to.
    fn next_hop_to(&self, address: IpAddr) -> Option<IpAddr> {
        Some(self.route_to(address)?.next_hop.unwrap_or(address))
    }

    pub(super) fn on_uplink(&self, neighbour: IpAddr) -> Option<(LinkIndex, IpAddr)> {
        let attachment = self.attachments.view().get(self.route_to(neighbour)?.interface.as_ref()?)?;
        (attachment.kind == InterfaceKind::Uplink).then_some((attachment.link, neighbour))
    }

    /// Gives packets back whose next hop has been resolved.
    pub(super) fn give_back(&mut self) {
        let resolved: Vec<IpAddr> = self
            .resolver
            .neighbours()
            .filter(|ip| {
                let mut entries = self.kernel.neighbours.values().filter(|neighbour| neighbour.address == *ip);
                entries.any(|neighbour| neighbour.usable_mac().is_some())
            })
            .collect();
        for neighbour in resolved {
            for packet in self.resolver.release(neighbour) {
                let owner = self.owner_of(packet.interface);
                if let Some(remote) = self.attachments.remotes().nth(owner) {
                    remote.inject.send(packet.interface, [packet.bytes.as_slice()].into_iter());
                    remote.doorbell.ring();
                }
            }
        }
    }

    fn owner_of(&self, interface: InterfaceIndex) -> usize {
        let mut attached = self.attachments.view().values();
        attached.find(|attachment| attachment.index == interface).map_or(0, |attachment| attachment.owner.index())
    }
}
