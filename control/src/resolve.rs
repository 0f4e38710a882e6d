//! Packets that wait for a next hop's MAC address.
//!
//! A worker punts a packet whose next hop is not resolved. Here it is kept for a moment while the kernel asks; when the
//! answer has reached the tables the packet is given back to a worker, as if it had just arrived.
//!
//! Invariants: so many packets per next hop, so many next hops, so much time; beyond that packets are dropped here and
//! counted.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use etherparse::{NetSlice, SlicedPacket};
use fastpath::table::InterfaceIndex;

/// Packets kept per next hop: enough for the first of a few connections, as in Linux.
const PER_NEXT_HOP: usize = 16;
/// Next hops waited for at one time; a scan over a large subnet does not take more.
const NEXT_HOPS: usize = 256;
/// How long the kernel is asked to keep a neighbour resolved that somebody sent to. A flow that goes on longer is asked
/// for again, without loss.
const UPKEEP: Duration = Duration::from_secs(600);
/// How long a packet is kept: what the kernel takes to give up is three tries of a second.
const PATIENCE: Duration = Duration::from_secs(3);

/// A packet that waits.
#[derive(Debug)]
pub struct Waiting {
    pub interface: InterfaceIndex,
    pub bytes: Vec<u8>,
}

/// All packets that wait, by the neighbour they wait for.
#[derive(Debug, Default)]
pub struct Resolver {
    waiting: BTreeMap<IpAddr, (Instant, Vec<Waiting>)>,
    /// Neighbours to keep resolved, and since when.
    asked: BTreeMap<IpAddr, Instant>,
    /// Packets given up.
    pub given_up: u64,
}

impl Resolver {
    /// Keeps a packet for a neighbour. True when the neighbour is new here and has to be asked for.
    pub fn keep(&mut self, neighbour: IpAddr, packet: Waiting, now: Instant) -> bool {
        if !self.waiting.contains_key(&neighbour) && self.waiting.len() >= NEXT_HOPS {
            self.given_up += 1;
            return false;
        }
        if self.asked.len() >= 4 * NEXT_HOPS
            && let Some(oldest) = self.asked.iter().min_by_key(|(_, since)| **since).map(|(address, _)| *address)
        {
            self.asked.remove(&oldest);
        }
        let is_new = self.asked.insert(neighbour, now).is_none();
        let (_, packets) = self.waiting.entry(neighbour).or_insert_with(|| (now, Vec::new()));
        if packets.len() < PER_NEXT_HOP {
            packets.push(packet);
        } else {
            self.given_up += 1;
        }
        is_new
    }

    /// The neighbours that the kernel shall keep resolved.
    pub fn asked(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.asked.keys().copied()
    }

    /// The neighbours waited for.
    pub fn neighbours(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.waiting.keys().copied()
    }

    /// The packets for a neighbour that has been resolved.
    pub fn release(&mut self, neighbour: IpAddr) -> Vec<Waiting> {
        self.waiting.remove(&neighbour).map_or(Vec::new(), |(_, packets)| packets)
    }

    /// Gives up what has waited too long. True when a neighbour need not be kept resolved any longer.
    pub fn expire(&mut self, now: Instant) -> bool {
        self.waiting.retain(|_, (since, packets)| {
            let is_late = now.duration_since(*since) > PATIENCE;
            if is_late {
                self.given_up += packets.len() as u64;
            }
            !is_late
        });
        let before = self.asked.len();
        self.asked.retain(|_, since| now.duration_since(*since) < UPKEEP);
        self.asked.len() < before
    }
}

/// Where a punted packet wants to go.
pub fn destination(bytes: &[u8]) -> Option<IpAddr> {
    match SlicedPacket::from_ethernet(bytes).ok()?.net? {
        NetSlice::Ipv4(packet) => Some(IpAddr::V4(Ipv4Addr::from(packet.header().destination()))),
        NetSlice::Ipv6(packet) => Some(IpAddr::V6(Ipv6Addr::from(packet.header().destination()))),
        NetSlice::Arp(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet() -> Waiting {
        Waiting { interface: InterfaceIndex(1), bytes: vec![1, 2, 3] }
    }

    fn neighbour(number: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + number))
    }

    #[test]
    fn packets_wait_for_their_neighbour_and_no_longer_than_patience() {
        let mut resolver = Resolver::default();
        let start = Instant::now();
        assert!(resolver.keep(neighbour(1), packet(), start));
        assert!(!resolver.keep(neighbour(1), packet(), start));
        assert!(resolver.keep(neighbour(2), packet(), start + PATIENCE));
        assert_eq!(resolver.release(neighbour(1)).len(), 2);
        assert_eq!(resolver.release(neighbour(1)).len(), 0);
        resolver.expire(start + PATIENCE * 3);
        assert_eq!((resolver.neighbours().count(), resolver.given_up), (0, 1));
        assert_eq!(resolver.asked().count(), 2, "kept resolved although nothing waits");
        assert!(resolver.expire(start + PATIENCE + UPKEEP));
        assert_eq!(resolver.asked().count(), 0);
    }

    #[test]
    fn a_scan_is_bounded() {
        let mut resolver = Resolver::default();
        let now = Instant::now();
        for number in 0..1000 {
            for _ in 0..20 {
                resolver.keep(neighbour(number), packet(), now);
            }
        }
        assert_eq!(resolver.neighbours().count(), NEXT_HOPS);
        assert_eq!(resolver.given_up as usize, 20_000 - NEXT_HOPS * PER_NEXT_HOP);
    }

    #[test]
    fn destinations_are_read_and_garbage_has_none() {
        assert_eq!(destination(&[1, 2, 3]), None);
        let mut bytes = Vec::new();
        let builder =
            etherparse::PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).udp(1, 2);
        builder.write(&mut bytes, b"x").unwrap();
        assert_eq!(destination(&bytes), Some(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2))));
    }
}
