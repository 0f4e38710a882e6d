//! The veth pair of a workload, and what is inside its namespace. Everything here waits for the kernel; it is called on threads
//! that may.
//!
//! ```text
//! workload's namespace                    host
//! eth0  10.65.0.2/32 fd65::2/128  ─veth─  cali…  ee:ee:ee:ee:ee:ee, no address, no IPv6, alias vrouter:…
//!       169.254.1.1 on link
//!       default via 169.254.1.1
//!       default via fe80::ecee:eeff:feee:eeee
//! ```
//!
//! Both ends are up before the pair is told to anybody. Until the workload's endpoint is in force everything it sends is
//! dropped: an interface with the prefix of workloads is attached as soon as it is seen.
//!
//! Sources: Calico's CNI plugin for addresses and routes (its documentation, "how Calico wires a pod").

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;

use config::net::{Cidr, MacAddress};

use super::error::WorkloadError;
use super::namespace::Namespace;
use super::{GATEWAY_V4, GATEWAY_V6, gateway_of, identity};
use crate::host::prepare;
use crate::host::route::METRIC;
use crate::host::{
    GATEWAY_MAC, Host, HostError, InterfaceAddress, Link, LinkIndex, NextHop, Route, Target, VethEnd, sysctl,
};
use crate::tell::chain;

const EEXIST: i32 = 17;

/// A pair to be made.
#[derive(Debug, Clone)]
pub struct Pair {
    /// Host side.
    pub host: String,
    /// What is written on it: whose it is.
    pub alias: String,
    /// What the far end is called if it is to wait here.
    pub far: String,
    pub mac: Option<MacAddress>,
    pub mtu: u32,
    pub queues: u32,
    /// A far end that waits here is made fit for a router in user space.
    pub is_prepared: bool,
}

/// What the workload has inside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inside {
    pub addresses: Vec<IpAddr>,
    /// Where to, by the gateway; everywhere when empty.
    pub routes: Vec<Cidr>,
    pub may_forward: bool,
}

/// An interface as it is found inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub mac: Option<MacAddress>,
    pub is_up: bool,
    pub addresses: Vec<IpAddr>,
    pub routes: Vec<Cidr>,
}

/// Makes the pair, its host side up. Its far end is made in the namespace, under that name and up; without one it stays here and
/// down, for somebody who takes it where it belongs. Returns the far end's address.
///
/// An interface that is made where it belongs is not moved: moving one takes the kernel as long as everything else.
pub fn create(pair: &Pair, into: Option<(&Namespace, &str)>) -> Result<Option<MacAddress>, WorkloadError> {
    let mac = on_runtime(async || {
        let host = Host::connect()?;
        let end = |name, mac| VethEnd { queues: pair.queues, mac, mtu: Some(pair.mtu), ..VethEnd::new(name) };
        let near = end(&pair.host, Some(GATEWAY_MAC));
        let far = match into {
            Some((namespace, name)) => VethEnd { namespace: Some(namespace.file().as_fd()), ..end(name, pair.mac) },
            None => end(&pair.far, pair.mac),
        };
        match host.create_veth_pair(&near, &far).await {
            Err(error) if error.errno() == Some(EEXIST) => {
                return Err(match (host.find_link(&pair.host).await?, into) {
                    (Some(_), _) => WorkloadError::Foreign { interface: pair.host.clone() },
                    (None, None) => WorkloadError::Foreign { interface: pair.far.clone() },
                    (None, Some((namespace, name))) => {
                        WorkloadError::Exists { interface: name.to_owned(), path: namespace.path().to_owned() }
                    }
                });
            }
            result => result?,
        }
        silence(&pair.host)?;
        let link = host.link(&pair.host).await?.index;
        host.set_alias(link, &pair.alias).await?;
        let mut mac = None;
        if into.is_none() {
            silence(&pair.far)?;
            let far = host.link(&pair.far).await?;
            if pair.is_prepared {
                // A veth has a queue for a thread to serve as long as it is up. The host side is not, so that nobody takes the
                // far end for one that is in its container.
                host.set_up(far.index, true).await?;
                tell(&pair.host, prepare::ahead(far.index));
                host.set_up(far.index, false).await?;
            }
            mac = far.mac;
        }
        host.set_up(link, true).await?;
        Ok(mac)
    })?;
    let Some((namespace, name)) = into else { return Ok(mac) };
    in_namespace(namespace, async |host| {
        let link = host.link(name).await?;
        host.set_up(link.index, true).await?;
        Ok(link.mac)
    })
}

/// What makes an interface inside fit for a router in user space, and takes the kernel longer than anybody wants to wait.
pub fn prepare_inside(namespace: &Namespace, name: &str) {
    let index = in_namespace(namespace, async |host| Ok(host.link(name).await?.index));
    match index {
        Ok(index) => tell(name, namespace.enter(|| prepare::ahead(index)).flatten()),
        // It has gone again.
        Err(error) => tracing::debug!(interface = name, error = %chain(&error), "endpoint not prepared"),
    }
}

/// It works without, too: inside of a namespace whose /sys a runtime has mounted read-only, nobody can.
fn tell(interface: &str, prepared: Result<(), HostError>) {
    if let Err(error) = prepared {
        tracing::debug!(interface, error = %chain(&error), "endpoint not prepared");
    }
}

/// The router speaks for this interface; the kernel keeps quiet on it.
pub fn silence(interface: &str) -> Result<(), HostError> {
    let silent = format!("ipv6/conf/{interface}/disable_ipv6");
    match sysctl::read(&silent)? {
        Some(_) => sysctl::write(&silent, "1"),
        None => Ok(()),
    }
}

/// Gives the workload its addresses and routes.
pub fn configure(namespace: &Namespace, interface: &str, inside: &Inside) -> Result<(), WorkloadError> {
    in_namespace(namespace, async |host| {
        let link = host.link(interface).await?.index;
        if inside.addresses.iter().any(IpAddr::is_ipv6) {
            // Runtimes switch it off where nobody has asked for it.
            for scope in ["all", "default", interface] {
                let key = format!("ipv6/conf/{scope}/disable_ipv6");
                if sysctl::read(&key)?.is_some() {
                    sysctl::write(&key, "0")?;
                }
            }
        }
        if inside.may_forward {
            sysctl::write("ipv4/ip_forward", "1")?;
        }
        for address in &inside.addresses {
            let prefix_length = Cidr::host(*address).length();
            host.add_address(&InterfaceAddress { link, address: *address, prefix_length }).await?;
        }
        let wanted = routes(&inside.addresses, &inside.routes, link);
        let metric = free_metric(interface, link, &wanted, &host.routes().await?);
        for route in wanted {
            host.add_route(&Route::new(route.destination(), metric, route.target)).await?;
        }
        Ok(())
    })
}

/// The routes of a workload with these addresses: the gateway, then by it.
pub fn routes(addresses: &[IpAddr], wanted: &[Cidr], link: LinkIndex) -> Vec<Route> {
    let via = |destination: Cidr, gateway: Option<IpAddr>| {
        Route::new(destination, METRIC, Target::Forward(vec![NextHop { link, gateway, onlink: false }]))
    };
    let mut routes = Vec::new();
    for (everything, gateway) in [
        (IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V4(GATEWAY_V4)),
        (IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V6(GATEWAY_V6)),
    ] {
        if !addresses.iter().any(|address| address.is_ipv4() == gateway.is_ipv4()) {
            continue;
        }
        if gateway.is_ipv4() {
            routes.push(via(Cidr::host(gateway), None));
        }
        let default = Cidr::new(everything, 0).unwrap_or(Cidr::host(everything));
        match wanted.is_empty() {
            true => routes.push(via(default, Some(gateway))),
            false => {
                let same = wanted.iter().filter(|network| network.is_ipv4() == gateway.is_ipv4());
                routes.extend(same.map(|network| via(*network, Some(gateway))));
            }
        }
    }
    routes
}

/// The lowest that no other interface has for the same destinations. That of the first interface is kept for it, whichever is
/// attached first: podman attaches them in any order.
fn free_metric(interface: &str, link: LinkIndex, wanted: &[Route], taken: &[Route]) -> u32 {
    let is_elsewhere = |route: &&Route| match &route.target {
        Target::Forward(hops) => hops.iter().any(|hop| hop.link != link),
        Target::Blackhole | Target::Other => true,
    };
    let others: BTreeSet<(Cidr, u32)> = taken.iter().filter(is_elsewhere).map(Route::key).collect();
    let is_free = |metric: &u32| !wanted.iter().any(|route| others.contains(&(route.destination(), *metric)));
    let lowest = METRIC + u32::from(interface != identity::FIRST_INTERFACE);
    (lowest..u32::MAX).find(is_free).unwrap_or(lowest)
}

/// Deletes the host side, and with it the other. False: there was none. One without that alias is somebody else's.
pub fn remove(interface: &str, alias: &str) -> Result<bool, WorkloadError> {
    on_runtime(async || {
        let host = Host::connect()?;
        let Some(link) = host.find_link(interface).await? else { return Ok(false) };
        let is_theirs = match &link.alias {
            Some(found) => found == alias,
            // Made, and then nobody came to write whose it is.
            None => link.is_veth() && link.mac == Some(GATEWAY_MAC),
        };
        if !is_theirs {
            return Err(WorkloadError::Foreign { interface: interface.to_owned() });
        }
        host.delete_link(link.index).await?;
        Ok(true)
    })
}

/// Whether the host has the interface, and with that alias.
pub fn is_there(interface: &str, alias: &str) -> Result<bool, WorkloadError> {
    on_runtime(async || {
        let found = Host::connect()?.find_link(interface).await?;
        Ok(found.is_some_and(|link| link.alias.as_deref() == Some(alias)))
    })
}

/// Where the far end of a pair is that was made for somebody to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FarEnd {
    Here {
        mac: Option<MacAddress>,
    },
    /// It was taken.
    Elsewhere,
    /// There is no such pair.
    Nowhere,
}

pub fn far_end(interface: &str, alias: &str, far: &str) -> Result<FarEnd, WorkloadError> {
    on_runtime(async || {
        let host = Host::connect()?;
        let near = host.find_link(interface).await?.filter(|link| link.alias.as_deref() == Some(alias));
        let Some(near) = near else { return Ok(FarEnd::Nowhere) };
        Ok(match host.find_link(far).await? {
            Some(far) if near.peer == Some(far.index) => FarEnd::Here { mac: far.mac },
            _ => FarEnd::Elsewhere,
        })
    })
}

/// What there is inside under that name.
pub fn inspect(namespace: &Namespace, interface: &str) -> Result<Option<Found>, WorkloadError> {
    in_namespace(namespace, async |host| {
        let Some(link) = host.find_link(interface).await? else { return Ok(None) };
        let addresses = host.addresses().await?.into_iter().filter(|found| found.link == link.index);
        let is_gateways = |route: &Route| match &route.target {
            Target::Forward(hops) => hops
                .iter()
                .any(|hop| hop.link == link.index && hop.gateway.is_some_and(|gateway| gateway == gateway_of(gateway))),
            Target::Blackhole | Target::Other => false,
        };
        let routes = host.routes().await?.into_iter().filter(is_gateways);
        Ok(Some(Found {
            mac: link.mac,
            is_up: link.up,
            addresses: addresses.map(|found| found.address).collect(),
            routes: routes.map(|route| route.destination()).collect(),
        }))
    })
}

/// Whether what is inside goes by our gateway already.
pub fn has_gateway(namespace: &Namespace) -> Result<bool, WorkloadError> {
    let gateway = Cidr::host(GATEWAY_V4.into());
    in_namespace(namespace, async |host| Ok(host.routes().await?.iter().any(|route| route.destination() == gateway)))
}

/// Whether it is a host side that was made here.
pub fn is_ours(link: &Link) -> bool {
    link.alias.as_ref().is_some_and(|alias| alias.starts_with(identity::ALIAS))
}

/// Host sides that were made here: name and alias.
pub fn host_sides() -> Result<Vec<(String, String)>, WorkloadError> {
    on_runtime(async || {
        let links = Host::connect()?.links().await?;
        let ours = links.into_iter().filter_map(|link| {
            let alias = link.alias.clone().filter(|_| is_ours(&link))?;
            Some((link.name, alias))
        });
        Ok(ours.collect())
    })
}

fn in_namespace<T: Send>(
    namespace: &Namespace,
    work: impl AsyncFnOnce(&Host) -> Result<T, HostError> + Send,
) -> Result<T, WorkloadError> {
    namespace.enter(|| on_runtime(async || Ok(work(&Host::connect()?.as_operator()).await?)))?
}

/// On this thread, until it is done.
fn on_runtime<T>(work: impl AsyncFnOnce() -> Result<T, WorkloadError>) -> Result<T, WorkloadError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(HostError::io("start a runtime"))?;
    runtime.block_on(work())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn lines(addresses: &[&str], wanted: &[&str]) -> Vec<String> {
        let addresses: Vec<IpAddr> = addresses.iter().map(|text| text.parse().unwrap()).collect();
        let wanted: Vec<Cidr> = wanted.iter().map(|text| Cidr::parse(text).unwrap()).collect();
        let line = |route: Route| match route.target {
            Target::Forward(ref hops) => match hops[0].gateway {
                Some(gateway) => format!("{} via {gateway}", route.destination()),
                None => format!("{} on link", route.destination()),
            },
            _ => String::new(),
        };
        routes(&addresses, &wanted, LinkIndex(7)).into_iter().map(line).collect()
    }

    #[test]
    fn routes_of_a_workload() {
        assert_eq!(lines(&["10.0.0.1"], &[]), ["169.254.1.1/32 on link", "0.0.0.0/0 via 169.254.1.1"]);
        assert_eq!(lines(&["fd00::1"], &[]), ["::/0 via fe80::ecee:eeff:feee:eeee"]);
        assert_eq!(
            lines(&["10.0.0.1", "fd00::1"], &["10.0.0.0/8", "fd00::/8"]),
            ["169.254.1.1/32 on link", "10.0.0.0/8 via 169.254.1.1", "fd00::/8 via fe80::ecee:eeff:feee:eeee"]
        );
        assert_eq!(lines(&["10.0.0.1"], &["fd00::/8"]), ["169.254.1.1/32 on link"]);
        assert!(lines(&[], &[]).is_empty());
    }

    #[test]
    fn other_interfaces_come_behind_the_first() {
        let at = |link, metric| -> Vec<Route> {
            let routes = routes(&["10.0.0.1".parse().unwrap()], &[], LinkIndex(link)).into_iter();
            routes.map(|route| Route::new(route.destination(), metric, route.target)).collect()
        };
        let check = |interface: &str, link, taken: &[Route], expected| {
            assert_eq!(free_metric(interface, LinkIndex(link), &at(link, METRIC), taken), expected, "{interface}");
        };
        check("eth0", 7, &[], METRIC);
        check("eth0", 7, &at(7, METRIC), METRIC);
        check("net1", 8, &[], METRIC + 1);
        check("net1", 8, &at(7, METRIC), METRIC + 1);
        check("net1", 8, &at(8, METRIC + 1), METRIC + 1);
        check("net2", 9, &[at(7, METRIC), at(8, METRIC + 1)].concat(), METRIC + 2);
        check("eth0", 7, &at(8, METRIC + 1), METRIC);
        // Somebody else's is left alone.
        check("eth0", 7, &at(5, METRIC), METRIC + 1);
    }
}
