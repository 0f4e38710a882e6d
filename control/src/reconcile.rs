//! Makes the kernel's side of this node what it should be: read actual, compare, change.
//!
//! ```text
//! desired ─┐
//!          ├─diff─▶ changes in dependency order ─apply─▶ kernel
//! actual ──┘        (pure)                               └─▶ what failed, for the next round
//! ```
//!
//! Order: what is no longer wanted goes first, in reverse (routes, neighbours, addresses); then
//! settings, links, addresses, neighbours, routes. A changed route is one replacement, so its
//! destination is never without a route in between.
//!
//! Invariants: nothing is deleted that is not in `actual`, and `actual` holds only what carries our
//! mark (see `host`); links and settings are changed, never removed, since they belong to others.
//! Applying any part of the changes and comparing again ends in the same state, so a round may be
//! interrupted or fail half-way.
//!
//! Left out: when to do a round, and creating links: endpoints' are the CNI plugin's, the private pair
//! is `Host::ensure_veth_pair` at start.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use config::net::{Cidr, MacAddress};

use crate::host::{Host, HostError, InterfaceAddress, LinkIndex, Route, Target, sysctl};

/// The part of the host's network state that we care about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostState {
    pub links: BTreeMap<LinkIndex, LinkState>,
    pub addresses: BTreeSet<InterfaceAddress>,
    /// Permanent entries.
    pub neighbours: BTreeMap<(LinkIndex, IpAddr), MacAddress>,
    /// Next hops the kernel keeps resolved for the fast path.
    pub managed: BTreeSet<(LinkIndex, IpAddr)>,
    /// At most one per destination and metric counts: the first in order.
    pub routes: BTreeSet<Route>,
    /// Key below /proc/sys/net to value, as it reads back.
    pub sysctls: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkState {
    pub up: bool,
    pub mac: MacAddress,
    pub mtu: u32,
}

/// One step. The variants stand in the order in which steps are done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    DeleteRoute(Route),
    DeleteNeighbour { link: LinkIndex, address: IpAddr },
    DeleteAddress(InterfaceAddress),
    SetSysctl { key: String, value: String },
    SetMac { link: LinkIndex, mac: MacAddress },
    SetMtu { link: LinkIndex, mtu: u32 },
    SetUp { link: LinkIndex, up: bool },
    AddAddress(InterfaceAddress),
    SetNeighbour { link: LinkIndex, address: IpAddr, mac: MacAddress },
    ManageNeighbour { link: LinkIndex, address: IpAddr },
    AddRoute(Route),
    ReplaceRoute { old: Route, new: Route },
}

/// A step that did not work, and why. It stays for the next round.
#[derive(Debug, thiserror::Error)]
#[error("{change}: {error}")]
pub struct Failure {
    pub change: Change,
    #[source]
    pub error: HostError,
}

/// What a round did.
#[derive(Debug, Default)]
pub struct Outcome {
    pub applied: usize,
    pub failed: Vec<Failure>,
    /// Desired links that are not there yet; what hangs on them waits too.
    pub missing: BTreeSet<LinkIndex>,
}

/// One round.
pub async fn reconcile(host: &Host, desired: &HostState) -> Result<Outcome, HostError> {
    let actual = read(host, desired).await?;
    let missing = missing_links(desired, &actual);
    let outcome = apply(host, diff(desired, &actual)).await;
    Ok(Outcome { missing, ..outcome })
}

/// Reads what is ours, and of what is not ours the links and settings that `desired` names.
pub async fn read(host: &Host, desired: &HostState) -> Result<HostState, HostError> {
    let mut actual = HostState::default();
    for link in host.links().await? {
        if let (true, Some(mac)) = (desired.links.contains_key(&link.index), link.mac) {
            actual.links.insert(link.index, LinkState { up: link.up, mac, mtu: link.mtu });
        }
    }
    actual.addresses.extend(host.our_addresses().await?);
    for neighbour in host.neighbours().await?.into_iter().filter(|neighbour| neighbour.is_ours) {
        let key = (neighbour.link, neighbour.address);
        if neighbour.is_managed {
            actual.managed.insert(key);
        } else if let (true, Some(mac)) = (neighbour.is_our_static(), neighbour.mac) {
            actual.neighbours.insert(key, mac);
        }
    }
    actual.routes.extend(host.our_routes().await?);
    for key in desired.sysctls.keys() {
        if let Some(value) = sysctl::read(key)? {
            actual.sysctls.insert(key.clone(), value);
        }
    }
    Ok(actual)
}

/// The steps from `actual` to `desired`. Pure.
pub fn diff(desired: &HostState, actual: &HostState) -> Vec<Change> {
    let missing = missing_links(desired, actual);
    let is_there = |link: &LinkIndex| !missing.contains(link);

    let routes = by_key(desired.routes.iter().filter(|route| route.links().all(|link| is_there(&link))));
    let neighbours: BTreeMap<_, _> = desired.neighbours.iter().filter(|((link, _), _)| is_there(link)).collect();
    let managed: BTreeSet<_> = desired.managed.iter().filter(|(link, _)| is_there(link)).collect();
    let addresses: BTreeSet<_> = desired.addresses.iter().filter(|address| is_there(&address.link)).collect();
    let actual_routes = by_key(actual.routes.iter());

    let mut changes = Vec::new();
    let unwanted = actual.routes.iter().filter(|route| !routes.contains_key(&route.key()));
    changes.extend(unwanted.cloned().map(Change::DeleteRoute));
    let entries = actual.neighbours.keys().chain(&actual.managed);
    // An entry that changes from static to managed, or back, has to go first: the kernel keeps no both.
    let unwanted = entries.filter(|key| {
        let stays_static = neighbours.contains_key(key) && !actual.managed.contains(key);
        // Wanted both ways, static wins.
        let is_wanted_managed = managed.contains(key) && !neighbours.contains_key(key);
        let stays_managed = is_wanted_managed && !actual.neighbours.contains_key(key);
        !stays_static && !stays_managed
    });
    let unwanted: BTreeSet<_> = unwanted.collect();
    changes.extend(unwanted.iter().map(|(link, address)| Change::DeleteNeighbour { link: *link, address: *address }));
    let extra = actual.addresses.iter().filter(|address| !addresses.contains(address));
    changes.extend(extra.copied().map(Change::DeleteAddress));

    for (key, value) in &desired.sysctls {
        if actual.sysctls.get(key) != Some(value) {
            changes.push(Change::SetSysctl { key: key.clone(), value: value.clone() });
        }
    }
    diff_links(desired, actual, &mut changes);

    let absent = addresses.iter().filter(|address| !actual.addresses.contains(address));
    changes.extend(absent.map(|address| Change::AddAddress(**address)));
    for (key @ (link, address), mac) in neighbours {
        if unwanted.contains(key) || actual.neighbours.get(key) != Some(mac) {
            changes.push(Change::SetNeighbour { link: *link, address: *address, mac: *mac });
        }
    }
    for key @ (link, address) in managed {
        // A static entry needs no upkeep, and must not be undone by it.
        let is_static = desired.neighbours.contains_key(key);
        if !is_static && (unwanted.contains(key) || !actual.managed.contains(key)) {
            changes.push(Change::ManageNeighbour { link: *link, address: *address });
        }
    }
    let mut replacements = Vec::new();
    for (key, route) in routes {
        match actual_routes.get(&key) {
            None => changes.push(Change::AddRoute(route.clone())),
            Some(old) if *old == route => {}
            Some(old) => replacements.push(Change::ReplaceRoute { old: (*old).clone(), new: route.clone() }),
        }
    }
    changes.extend(replacements);
    changes
}

/// Links that are wanted and not there.
pub fn missing_links(desired: &HostState, actual: &HostState) -> BTreeSet<LinkIndex> {
    desired.links.keys().filter(|link| !actual.links.contains_key(link)).copied().collect()
}

/// Does every step, those after a failed one too.
pub async fn apply(host: &Host, changes: Vec<Change>) -> Outcome {
    let mut outcome = Outcome::default();
    for change in changes {
        match apply_one(host, &change).await {
            Ok(()) => outcome.applied += 1,
            Err(error) => outcome.failed.push(Failure { change, error }),
        }
    }
    outcome
}

async fn apply_one(host: &Host, change: &Change) -> Result<(), HostError> {
    match change {
        Change::DeleteRoute(route) => host.delete_route(route).await,
        Change::DeleteNeighbour { link, address } => host.delete_neighbour(*address, *link).await,
        Change::DeleteAddress(address) => host.delete_address(address).await,
        Change::SetSysctl { key, value } => sysctl::write(key, value),
        Change::SetMac { link, mac } => host.set_mac(*link, *mac).await,
        Change::SetMtu { link, mtu } => host.set_mtu(*link, *mtu).await,
        Change::SetUp { link, up } => host.set_up(*link, *up).await,
        Change::AddAddress(address) => host.add_address(address).await,
        Change::SetNeighbour { link, address, mac } => host.set_static(*address, *mac, *link).await,
        // On a kernel without managed entries the step comes back each round, which is what it needs.
        Change::ManageNeighbour { link, address } => host.ensure_managed(*address, *link).await.map(|_| ()),
        Change::AddRoute(route) => host.add_route(route).await,
        Change::ReplaceRoute { old, new } => host.replace_route(old, new).await,
    }
}

fn diff_links(desired: &HostState, actual: &HostState, changes: &mut Vec<Change>) {
    let pairs = || desired.links.iter().filter_map(|(link, wanted)| Some((*link, wanted, actual.links.get(link)?)));
    let macs = pairs().filter(|(_, wanted, found)| wanted.mac != found.mac);
    changes.extend(macs.map(|(link, wanted, _)| Change::SetMac { link, mac: wanted.mac }));
    let mtus = pairs().filter(|(_, wanted, found)| wanted.mtu != found.mtu);
    changes.extend(mtus.map(|(link, wanted, _)| Change::SetMtu { link, mtu: wanted.mtu }));
    let ups = pairs().filter(|(_, wanted, found)| wanted.up != found.up);
    changes.extend(ups.map(|(link, wanted, _)| Change::SetUp { link, up: wanted.up }));
}

fn by_key<'a>(routes: impl Iterator<Item = &'a Route>) -> BTreeMap<(Cidr, u32), &'a Route> {
    let mut first = BTreeMap::new();
    for route in routes {
        first.entry(route.key()).or_insert(route);
    }
    first
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::DeleteRoute(route) => write!(f, "delete route {}", Shown(route)),
            Change::DeleteNeighbour { link, address } => write!(f, "delete neighbour {address} on {link}"),
            Change::DeleteAddress(address) => write!(f, "delete address {address}"),
            Change::SetSysctl { key, value } => write!(f, "set {key} to {value}"),
            Change::SetMac { link, mac } => write!(f, "set mac {mac} on {link}"),
            Change::SetMtu { link, mtu } => write!(f, "set mtu {mtu} on {link}"),
            Change::SetUp { link, up } => write!(f, "set {link} {}", if *up { "up" } else { "down" }),
            Change::AddAddress(address) => write!(f, "add address {address}"),
            Change::SetNeighbour { link, address, mac } => write!(f, "set neighbour {address} to {mac} on {link}"),
            Change::ManageNeighbour { link, address } => write!(f, "keep neighbour {address} on {link} resolved"),
            Change::AddRoute(route) => write!(f, "add route {}", Shown(route)),
            Change::ReplaceRoute { old, new } => write!(f, "replace route {} by {}", Shown(old), Shown(new)),
        }
    }
}

/// A route in words.
struct Shown<'a>(&'a Route);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.destination())?;
        match &self.0.target {
            Target::Forward(hops) => {
                for hop in hops {
                    if let Some(gateway) = hop.gateway {
                        write!(f, " via {gateway}")?;
                    }
                    write!(f, " on {}", hop.link)?;
                }
            }
            Target::Blackhole => f.write_str(" blackhole")?,
            Target::Other => f.write_str(" of another kind")?,
        }
        write!(f, " metric {}", self.0.metric)
    }
}

#[cfg(test)]
mod tests;
