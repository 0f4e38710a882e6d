//! Addresses that the host shares with workloads: what an uplink's program knows of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use aya::Ebpf;
use aya::maps::{HashMap, MapData};

use super::guard::{absent_is_fine, octets};
use super::program::{ProgramError, take_map};
use crate::table::translation::Ports;

/// Addresses of the node that stand for workloads outside, and the ports under which answers to workloads come.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Shared {
    pub addresses: BTreeSet<IpAddr>,
    pub ports: Ports,
}

/// The map of a loaded instance, and what it holds.
pub(super) struct SharedMap {
    map: HashMap<MapData, [u8; 16], u32>,
    held: BTreeMap<IpAddr, Ports>,
}

impl SharedMap {
    pub(super) fn take(object: &mut Ebpf) -> Result<SharedMap, ProgramError> {
        Ok(SharedMap { map: take_map(object, "shared")?, held: BTreeMap::new() })
    }

    /// Makes the map hold this. After a failure `held` still says what it holds, and the next call goes on from there.
    pub(super) fn hold(&mut self, wanted: &Shared) -> Result<(), ProgramError> {
        let failed = |source| ProgramError::Shared { source };
        for address in &wanted.addresses {
            if self.held.get(address) != Some(&wanted.ports) {
                self.map.insert(octets(*address), value(wanted.ports), 0).map_err(failed)?;
                self.held.insert(*address, wanted.ports);
            }
        }
        let surplus: Vec<IpAddr> = self.held.keys().filter(|held| !wanted.addresses.contains(held)).copied().collect();
        for address in surplus {
            absent_is_fine(self.map.remove(&octets(address))).map_err(failed)?;
            self.held.remove(&address);
        }
        Ok(())
    }
}

/// `struct ports` of steer.bpf.c.
fn value(ports: Ports) -> u32 {
    let ([a, b], [c, d]) = (ports.first.to_ne_bytes(), ports.last.to_ne_bytes());
    u32::from_ne_bytes([a, b, c, d])
}
