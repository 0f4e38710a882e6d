//! Builds a lab. What a previous one of the same name left is taken down first.
//!
//! Order: record the namespaces, make them, wire them, write the manifests. Whatever fails, `down`
//! finds everything by the record.
//!
//! Per endpoint, as a CNI plugin does it (`control::workload::wire` has its routes):
//! ```text
//! endpoint's ns                         node's ns
//! eth0  10.65.0.2/32 fd65::2/128 ─veth─ cali…  ee:ee:ee:ee:ee:ee, no address, no IPv6
//!       169.254.1.1 on link
//!       default via 169.254.1.1
//!       default via fe80::ecee:eeff:feee:eeee
//! ```

use std::fs;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::os::fd::AsFd;

use config::net::Cidr;
use control::host::route::METRIC;
use control::host::{
    GATEWAY_MAC, Host, HostError, InterfaceAddress, LinkIndex, NextHop, Route, Target, VethEnd, ethtool, netns, sysctl,
};
use control::workload::wire;
use nix::unistd::geteuid;

use super::description::{Endpoint, FarHost, Offload};
use super::down::down;
use super::manifests::manifests;
use super::state::State;
use super::{Lab, LabError};

const INSIDE: &str = "eth0";

pub fn up(lab: &Lab) -> Result<State, LabError> {
    if !geteuid().is_root() {
        return Err(LabError::NotRoot);
    }
    let state = State::of(&lab.name)?;
    down(&lab.name)?;
    record(&state, &lab.namespaces())?;
    build(lab, &state).inspect_err(|_| {
        // The first error is the one to tell; what teardown leaves is found again by the next.
        let _ = down(&lab.name);
    })?;
    Ok(state)
}

/// What to type next.
pub fn how_to_enter(lab: &Lab) -> String {
    let mut text = format!("lab {} is up\n", lab.name);
    for (name, addresses) in lab.participants() {
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        text += &format!("  {:<12} ip netns exec {:<20} {}\n", name, lab.namespace(name), addresses.join(" "));
    }
    text += &format!("  {:<12} ip netns exec {}\n", "the router", lab.namespace(&lab.node));
    if let Ok(state) = State::of(&lab.name) {
        text += &format!("  manifests    {}\n", state.manifests().display());
    }
    text
}

/// Writes down what is to be made, none of which may be there: whoever comes later can take it down.
fn record(state: &State, namespaces: &[String]) -> Result<(), LabError> {
    if let Some(namespace) = namespaces.iter().find(|namespace| netns::exists(namespace)) {
        return Err(LabError::ForeignNamespace { namespace: namespace.clone() });
    }
    state.create()?;
    state.record_namespaces(namespaces)
}

fn make(namespaces: &[String]) -> Result<(), LabError> {
    for namespace in namespaces {
        netns::create(namespace)?;
        in_host(namespace, prepare)?;
    }
    Ok(())
}

/// Records the namespaces and makes them, with nothing in them.
pub fn found(state: &State, namespaces: &[String]) -> Result<(), LabError> {
    record(state, namespaces)?;
    make(namespaces)
}

fn build(lab: &Lab, state: &State) -> Result<(), LabError> {
    make(&lab.namespaces())?;
    for endpoint in &lab.endpoints {
        connect_endpoint(&lab.namespace(&lab.node), &lab.namespace(&endpoint.name), endpoint)?;
    }
    for host in &lab.hosts {
        connect_host(lab, host)?;
    }
    for (file, resources) in manifests(lab) {
        let documents: Vec<_> = resources.iter().map(config::resource::Resource::to_json).collect();
        let text = serde_saphyr::to_string_multiple(&documents)
            .map_err(|error| LabError::Io { action: format!("write {file}"), source: std::io::Error::other(error) })?;
        let path = state.manifests().join(file);
        fs::write(&path, text).map_err(LabError::io(format!("write {}", path.display())))?;
    }
    Ok(())
}

/// Runs `work` with the kernel of that namespace.
pub fn in_host<T: Send>(
    namespace: &str,
    work: impl AsyncFnOnce(&Host) -> Result<T, HostError> + Send,
) -> Result<T, LabError> {
    let result = netns::in_namespace(namespace, || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .map_err(LabError::io("start a runtime"))?;
        runtime.block_on(async { Ok::<T, LabError>(work(&Host::connect()?.as_operator()).await?) })
    });
    result?
}

/// Addresses work at once (no duplicate address detection), nobody configures itself by what it hears,
/// and no kernel forwards in the router's place: a packet that arrives has been through the router.
async fn prepare(host: &Host) -> Result<(), HostError> {
    for (key, value) in [
        ("ipv6/conf/all/accept_dad", "0"),
        ("ipv6/conf/default/accept_dad", "0"),
        ("ipv6/conf/default/dad_transmits", "0"),
        ("ipv6/conf/all/accept_ra", "0"),
        ("ipv6/conf/default/accept_ra", "0"),
        ("ipv6/conf/all/forwarding", "0"),
        ("ipv4/ip_forward", "0"),
    ] {
        // A kernel without IPv6 still carries a lab of IPv4.
        if sysctl::read(key)?.is_some() {
            sysctl::write(key, value)?;
        }
    }
    let loopback = host.link("lo").await?;
    host.set_up(loopback.index, true).await
}

/// Joins the endpoint's namespace to its node's.
pub fn connect_endpoint(node: &str, namespace: &str, endpoint: &Endpoint) -> Result<(), LabError> {
    let inside = netns::open(namespace)?;
    in_host(node, async |host| {
        let near = VethEnd {
            queues: endpoint.queues,
            mac: Some(GATEWAY_MAC),
            mtu: Some(endpoint.mtu),
            ..VethEnd::new(&endpoint.interface)
        };
        let far = VethEnd {
            queues: endpoint.queues,
            mac: Some(endpoint.mac),
            mtu: Some(endpoint.mtu),
            namespace: Some(inside.as_fd()),
            ..VethEnd::new(INSIDE)
        };
        host.create_veth_pair(&near, &far).await?;
        wire::silence(&endpoint.interface)?;
        let link = host.link(&endpoint.interface).await?.index;
        if endpoint.offload == Offload::Off {
            // Frames the router sends must reach the endpoint in pieces its GRO may join.
            ethtool::set_offloads(link, &[(ethtool::Offload::Tso, false)])?;
        }
        host.set_up(link, true).await
    })?;
    in_host(namespace, async |host| {
        let link = host.link(INSIDE).await?.index;
        if endpoint.offload == Offload::Off {
            complete_checksums(link)?;
        }
        for address in &endpoint.addresses {
            let prefix_length = Cidr::host(*address).length();
            host.add_address(&InterfaceAddress { link, address: *address, prefix_length }).await?;
        }
        host.set_up(link, true).await?;
        for route in wire::routes(&endpoint.addresses, &[], link) {
            host.add_route(&route).await?;
        }
        Ok(())
    })?;
    if endpoint.offload == Offload::Off {
        receive_on_own_thread(namespace)?;
    }
    Ok(())
}

/// The endpoint's stack receives on a thread of its own then, and not inside the router's send. Only
/// an interface that is up has something to move. A kernel that cannot do it is slower, not wrong.
fn receive_on_own_thread(namespace: &str) -> Result<(), LabError> {
    let switch = format!("/sys/class/net/{INSIDE}/threaded");
    match netns::in_namespace_with_sysfs(namespace, || fs::write(&switch, "1"))? {
        Err(error) if !matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::NotFound) => {
            Err(LabError::io(format!("write 1 to {switch} in {namespace}"))(error))
        }
        _ => Ok(()),
    }
}

fn connect_host(lab: &Lab, far: &FarHost) -> Result<(), LabError> {
    let node = lab.namespace(&lab.node);
    let namespace = lab.namespace(&far.name);
    let inside = netns::open(&namespace)?;
    in_host(&node, async |host| {
        let near = VethEnd { mtu: Some(far.mtu), ..VethEnd::new(&far.uplink) };
        let there = VethEnd { mtu: Some(far.mtu), namespace: Some(inside.as_fd()), ..VethEnd::new(INSIDE) };
        host.create_veth_pair(&near, &there).await?;
        let link = host.link(&far.uplink).await?.index;
        // A wire carries whole checksums; what the node itself sends here must have them too.
        complete_checksums(link)?;
        add_addresses(host, link, &far.node_addresses).await?;
        host.set_up(link, true).await
    })?;
    in_host(&namespace, async |host| {
        let link = host.link(INSIDE).await?.index;
        complete_checksums(link)?;
        add_addresses(host, link, &far.addresses).await?;
        host.set_up(link, true).await?;
        for endpoint in &lab.endpoints {
            for address in &endpoint.addresses {
                let same_family = |near: &&Cidr| near.is_ipv4() == address.is_ipv4();
                if let Some(node) = far.node_addresses.iter().find(same_family) {
                    host.add_route(&via(Cidr::host(*address), link, Some(node.address()))).await?;
                }
            }
        }
        Ok(())
    })
}

pub async fn add_addresses(host: &Host, link: LinkIndex, addresses: &[Cidr]) -> Result<(), HostError> {
    for address in addresses {
        let address = InterfaceAddress { link, address: address.address(), prefix_length: address.length() };
        host.add_address(&address).await?;
    }
    Ok(())
}

/// The sender's stack completes checksums and cuts segments; the receiver's joins them.
pub fn complete_checksums(link: LinkIndex) -> Result<(), HostError> {
    ethtool::set_offloads(link, &[(ethtool::Offload::TxChecksum, false), (ethtool::Offload::Gro, true)])
}

fn via(destination: Cidr, link: LinkIndex, gateway: Option<IpAddr>) -> Route {
    let hop = NextHop { link, gateway, onlink: false };
    Route::new(destination, METRIC, Target::Forward(vec![hop]))
}
