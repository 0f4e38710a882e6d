//! What workloads ask DHCP servers: who asks is found here, and told to the relay.
//!
//! A workload that is being attached has no endpoint yet, because its endpoint has an address and the address is what it asks
//! for. Who makes its interface says which hardware address is behind it.
//!
//! Bounds: `WIRED_MAX` interfaces without an endpoint, for `WIRED_WITHIN`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use config::net::MacAddress;

use super::Control;
use crate::datastore::Datastore;
use crate::dhcp::RelayState;
use crate::dhcp::count::Refusal;
use crate::dhcp::relay::Client;
use crate::dhcp::task::{Dhcp, Heard};
use crate::http::views::{DhcpRefusedView, DhcpView};
use crate::resolve::Waiting;
use crate::workload::call::DhcpRelay;

/// As many as may wait for their turn to be attached.
const WIRED_MAX: usize = 1024;
/// A client of an address plugin gives up before.
const WIRED_WITHIN: Duration = Duration::from_secs(180);

/// What the node's address is missing for.
const NO_ADDRESS: &str =
    "DHCP relay: the node has no IPv4 address that servers could answer to; set spec.bgp.ipv4Address of its Node";

#[derive(Default)]
pub(crate) struct Relaying {
    /// There when somebody was to be relayed once.
    relay: Option<Dhcp>,
    state: Option<RelayState>,
    /// Interfaces of workloads that are being attached.
    wired: BTreeMap<String, (MacAddress, Instant)>,
}

impl<D: Datastore> Control<D> {
    /// Says what keeps it from relaying.
    pub(super) fn tell_of_dhcp(&mut self) {
        let problem = match self.dhcp_relay() {
            DhcpRelay::Broken(problem) => vec![problem],
            DhcpRelay::Off | DhcpRelay::On => Vec::new(),
        };
        self.note("dhcp", problem);
    }
}

impl<D> Control<D> {
    /// Works out what is to be relayed, and says whether anything is.
    pub(super) fn relay_dhcp(&mut self) -> bool {
        let own = self.state().node_addresses.iter().find_map(|address| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        });
        let servers = self.settings.dhcp_servers.clone();
        let state = own.filter(|_| !servers.is_empty()).map(|own_address| RelayState {
            servers,
            own_address,
            link_selection: self.settings.dhcp_link_selection,
        });
        let Relaying { relay, state: last, .. } = &mut self.relaying;
        if state.is_some() || relay.is_some() {
            relay.get_or_insert_with(Dhcp::start).want(state.clone());
        }
        *last = state;
        last.is_some()
    }

    pub(super) fn dhcp_relay(&self) -> DhcpRelay {
        let Relaying { relay, state, .. } = &self.relaying;
        match (state, relay.as_ref().and_then(Dhcp::problem)) {
            _ if self.settings.dhcp_servers.is_empty() => DhcpRelay::Off,
            (None, _) => DhcpRelay::Broken(NO_ADDRESS.to_owned()),
            (Some(_), Some(problem)) => DhcpRelay::Broken(problem),
            (Some(_), None) => DhcpRelay::On,
        }
    }

    /// This hardware address is behind the interface, although no endpoint says so yet.
    pub(super) fn expect_dhcp(&mut self, interface: String, mac: MacAddress) {
        let (wired, now) = (&mut self.relaying.wired, Instant::now());
        wired.retain(|_, (_, since)| now.duration_since(*since) < WIRED_WITHIN);
        if wired.len() < WIRED_MAX {
            wired.insert(interface, (mac, now));
        }
    }

    /// Hands a workload's question to the relay.
    pub(super) fn hear_dhcp(&mut self, packet: Waiting) {
        let Some(relay) = &self.relaying.relay else { return };
        let attached = self.attachments.view().iter().find(|(_, attachment)| attachment.index == packet.interface);
        let client = attached.and_then(|(name, attachment)| {
            let mac = self.hardware_address(name)?;
            Some(Client { interface: name.clone(), link: attachment.link, mac })
        });
        match client {
            Some(client) => relay.hear(Heard { client, frame: packet.bytes }),
            None => relay.counters().refuse(Refusal::ClientUnknown),
        }
    }

    fn hardware_address(&self, interface: &str) -> Option<MacAddress> {
        match self.state().endpoints.iter().find(|endpoint| endpoint.interface == interface) {
            Some(endpoint) => endpoint.mac,
            None => {
                let (mac, since) = self.relaying.wired.get(interface)?;
                (since.elapsed() < WIRED_WITHIN).then_some(*mac)
            }
        }
    }

    pub(crate) fn dhcp_view(&self) -> Option<DhcpView> {
        let Relaying { relay, state, .. } = &self.relaying;
        let counters = relay.as_ref()?.counters();
        let (requests, replies) = counters.relayed();
        let refused =
            |why: &Refusal| DhcpRefusedView { reason: why.name().to_owned(), packets: counters.refused(*why) };
        Some(DhcpView {
            servers: self.settings.dhcp_servers.clone(),
            own_address: state.as_ref().map(|state| state.own_address),
            requests,
            replies,
            refused: Refusal::ALL.iter().map(refused).collect(),
        })
    }
}
