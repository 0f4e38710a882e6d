//! The host module against the real kernel, in network namespaces of its own.
//!
//! ```text
//! ns hx…a: a0 10.77.0.1/24, fd77::1/64 ────veth──── b0 10.77.0.2/24, fd77::2/64 :ns hx…b
//! ```
//!
//! Needs root; without it every case says so and passes. Waiting is always for a condition with a deadline.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use netlink_packet_route::neighbour::NeighbourState;

use super::route::METRIC;
use super::*;

const DEADLINE: Duration = Duration::from_secs(10);

/// A namespace that goes away with the value.
struct Namespace(String);

impl Namespace {
    fn new() -> Namespace {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("hx{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        netns::create(&name).unwrap();
        Namespace(name)
    }

    fn run<T: Send, F: Future<Output = T>>(&self, work: impl FnOnce() -> F + Send) -> T {
        netns::in_namespace(&self.0, || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { tokio::time::timeout(DEADLINE, work()).await.expect("in time") })
        })
        .unwrap()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        netns::delete(&self.0).unwrap();
    }
}

fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: network namespaces need root");
    }
    root
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn cidr(text: &str) -> Cidr {
    Cidr::parse(text).unwrap()
}

fn via(gateway: &str, link: LinkIndex) -> Target {
    Target::Forward(vec![NextHop { link, gateway: Some(ip(gateway)), onlink: gateway.starts_with("169.") }])
}

#[test]
fn namespaces_come_and_go() {
    if !is_root() {
        return;
    }
    let namespace = Namespace::new();
    let name = namespace.0.clone();
    assert!(netns::exists(&name));
    assert!(netns::list().unwrap().contains(&name));
    assert!(netns::create(&name).is_err(), "the name is taken");
    let links = namespace.run(|| async { Host::connect().unwrap().links().await.unwrap() });
    assert_eq!(links.len(), 1, "only loopback: {links:?}");
    assert!(links[0].loopback && !links[0].up);
    drop(namespace);
    assert!(!netns::exists(&name));
    netns::delete(&name).unwrap();
    assert!(netns::in_namespace(&name, || ()).is_err());
    assert!(netns::create("../x").is_err());
}

#[test]
fn sysfs_and_scratch_namespaces() {
    if !is_root() {
        return;
    }
    let namespace = Namespace::new();
    let names = || std::fs::read_dir("/sys/class/net").unwrap().count();
    let outside = names();
    namespace.run(|| async { Host::connect().unwrap().ensure_veth_pair("v0", "v1", 1).await.unwrap() });
    assert_eq!(netns::in_namespace_with_sysfs(&namespace.0, names).unwrap(), 3, "lo, v0, v1");
    assert_eq!(names(), outside, "the mount is seen by one thread only");
    let scratch = netns::in_scratch(|| std::fs::read_link("/proc/thread-self/ns/net").unwrap()).unwrap();
    assert_ne!(scratch, std::fs::read_link("/proc/thread-self/ns/net").unwrap());
}

#[test]
fn veth_pair_is_kept_when_it_fits_and_replaced_when_not() {
    if !is_root() {
        return;
    }
    Namespace::new().run(|| async {
        let (host, mut events) = Host::open().unwrap();
        let (a, b) = host.ensure_veth_pair("vrouter", "vrouter-fp", 2).await.unwrap();
        assert_eq!((a.rx_queues, b.tx_queues), (2, 2));
        assert_eq!((a.peer, b.peer), (Some(b.index), Some(a.index)));
        let again = host.ensure_veth_pair("vrouter", "vrouter-fp", 2).await.unwrap();
        assert_eq!(again.0.index, a.index, "kept");
        let other = host.ensure_veth_pair("vrouter", "vrouter-fp", 1).await.unwrap();
        assert_ne!(other.0.index, a.index, "replaced");
        loop {
            if let HostEvent::LinkRemoved { index, name } = events.next().await.unwrap()
                && index == a.index
            {
                assert_eq!(name, "vrouter");
                break;
            }
        }
        host.set_mtu(other.0.index, 1400).await.unwrap();
        host.set_mac(other.0.index, GATEWAY_MAC).await.unwrap();
        host.set_up(other.0.index, true).await.unwrap();
        loop {
            if let HostEvent::LinkChanged(link) = events.next().await.unwrap()
                && link.index == other.0.index
                && link.up
            {
                assert_eq!((link.mtu, link.mac), (1400, Some(GATEWAY_MAC)));
                break;
            }
        }
        let error = host.ensure_veth_pair("lo", "vrouter-fp", 1).await.unwrap_err();
        assert!(matches!(error, HostError::NotVeth { .. }), "{error}");
        host.delete_link(other.0.index).await.unwrap();
        host.delete_link(other.0.index).await.unwrap();
        assert_eq!(host.find_link("vrouter-fp").await.unwrap(), None);
    });
}

#[test]
fn requests_may_overlap() {
    if !is_root() {
        return;
    }
    Namespace::new().run(|| async {
        let host = Host::connect().unwrap();
        host.ensure_veth_pair("v0", "v1", 1).await.unwrap();
        let dumps = (0..20).map(|_| async { tokio::join!(host.links(), host.routes(), host.neighbours()) });
        for (links, routes, neighbours) in futures_util::future::join_all(dumps).await {
            assert_eq!(links.unwrap().len(), 3);
            routes.unwrap();
            neighbours.unwrap();
        }
    });
}

#[test]
fn routes_of_others_are_left_alone() {
    if !is_root() {
        return;
    }
    Namespace::new().run(|| async {
        let (host, mut events) = Host::open().unwrap();
        let (near, _) = host.ensure_veth_pair("vrouter", "vrouter-fp", 1).await.unwrap();
        let far = host.link("vrouter-fp").await.unwrap();
        host.set_up(near.index, true).await.unwrap();
        host.set_up(far.index, true).await.unwrap();
        // Until a namespace has its first address, the kernel takes every gateway for a broadcast address.
        host.set_up(host.link("lo").await.unwrap().index, true).await.unwrap();

        let v4 = Route::new(cidr("10.0.0.5/32"), METRIC, via("169.254.1.1", near.index));
        let v6 = Route::new(cidr("fd00:10::5/128"), METRIC, via("fe80::ecee:eeff:feee:eeee", near.index));
        let hole = Route::new(cidr("10.0.0.0/26"), METRIC, Target::Blackhole);
        for route in [&v4, &v6, &hole] {
            host.add_route(route).await.unwrap();
            host.add_route(route).await.unwrap();
        }
        let mut ours = host.our_routes().await.unwrap();
        ours.sort();
        let mut expected = vec![v4.clone(), v6.clone(), hole.clone()];
        expected.sort();
        assert_eq!(ours, expected, "what is read is what was written");
        let found = host.route_get(ip("10.0.0.5")).await.unwrap().unwrap();
        assert_eq!((found.link, found.gateway), (near.index, Some(ip("169.254.1.1"))));
        let found = host.route_get(ip("fd00:10::5")).await.unwrap().unwrap();
        assert_eq!((found.link, found.gateway), (near.index, Some(ip("fe80::ecee:eeff:feee:eeee"))));
        assert_eq!(host.route_get(ip("10.0.0.6")).await.unwrap(), None, "blackhole");
        assert_eq!(host.route_get(ip("192.0.2.1")).await.unwrap(), None, "no route");

        let moved = Route::new(v4.destination(), METRIC, via("169.254.1.1", far.index));
        host.replace_route(&v4, &moved).await.unwrap();
        assert!(host.our_routes().await.unwrap().contains(&moved));

        // An address makes a route of the kernel's own: 10.9.0.0/24.
        let address = InterfaceAddress { link: near.index, address: ip("10.9.0.1"), prefix_length: 24 };
        host.add_address(&address).await.unwrap();
        assert_eq!(host.our_addresses().await.unwrap(), [address]);
        let same = Route::new(cidr("10.9.0.0/24"), 0, Target::Blackhole);
        let error = host.add_route(&same).await.unwrap_err();
        assert!(matches!(error, HostError::ForeignRoute { .. }), "{error}");
        host.delete_route(&same).await.unwrap();
        assert!(host.routes().await.unwrap().iter().any(|route| route.destination() == cidr("10.9.0.0/24")));
        host.delete_address(&address).await.unwrap();
        host.delete_address(&address).await.unwrap();

        for route in [&moved, &v6, &hole] {
            host.delete_route(route).await.unwrap();
            host.delete_route(route).await.unwrap();
        }
        assert!(host.our_routes().await.unwrap().is_empty());
        while events.next().await.unwrap() != HostEvent::RouteChanged {}
    });
}

#[test]
fn neighbours_resolve_and_stay() {
    if !is_root() {
        return;
    }
    let (near, far) = (Namespace::new(), Namespace::new());
    let addresses = |link, host_part: u8| {
        [("10.77.0.", 24), ("fd77::", 64)].map(|(network, prefix_length)| InterfaceAddress {
            link,
            address: ip(&format!("{network}{host_part}")),
            prefix_length,
        })
    };
    near.run(|| async {
        let host = Host::connect().unwrap();
        let namespace = netns::open(&far.0).unwrap();
        let there = VethEnd { namespace: Some(namespace.as_fd()), ..VethEnd::new("b0") };
        host.create_veth_pair(&VethEnd::new("a0"), &there).await.unwrap();
    });
    let far_mac = far.run(|| async {
        let host = Host::connect().unwrap();
        let link = host.link("b0").await.unwrap();
        for address in addresses(link.index, 2) {
            host.add_address(&address).await.unwrap();
        }
        host.set_up(link.index, true).await.unwrap();
        link.mac
    });
    near.run(|| async {
        let (host, mut events) = Host::open().unwrap();
        let link = host.link("a0").await.unwrap();
        assert_eq!(link.peer, None, "the peer is in another namespace");
        for address in addresses(link.index, 1) {
            host.add_address(&address).await.unwrap();
        }
        host.set_up(link.index, true).await.unwrap();
        for address in [ip("10.77.0.2"), ip("fd77::2")] {
            assert_eq!(host.ensure_managed(address, link.index).await.unwrap(), neighbour::Upkeep::Managed);
            loop {
                if let HostEvent::NeighbourChanged(neighbour) = events.next().await.unwrap()
                    && neighbour.address == address
                    && neighbour.usable_mac().is_some()
                {
                    assert_eq!(neighbour.usable_mac(), far_mac);
                    assert!(neighbour.is_managed && neighbour.is_ours, "{neighbour:?}");
                    break;
                }
            }
        }
        let mac = MacAddress([2, 0, 0, 0, 0, 9]);
        host.set_static(ip("10.77.0.9"), mac, link.index).await.unwrap();
        let find = |neighbours: Vec<Neighbour>| neighbours.into_iter().find(|entry| entry.address == ip("10.77.0.9"));
        let entry = find(host.neighbours().await.unwrap()).unwrap();
        assert_eq!((entry.state, entry.usable_mac()), (NeighbourState::Permanent, Some(mac)));
        assert!(entry.is_our_static());
        host.delete_neighbour(ip("10.77.0.9"), link.index).await.unwrap();
        // The kernel frees a deleted entry when nothing refers to it any more.
        let start = Instant::now();
        while find(host.neighbours().await.unwrap()).is_some_and(|entry| entry.usable_mac().is_some()) {
            assert!(start.elapsed() < DEADLINE);
        }
    });
}

#[test]
fn sysctls_are_those_of_the_namespace() {
    if !is_root() {
        return;
    }
    let key = "ipv4/conf/all/arp_ignore";
    let outside = sysctl::read(key).unwrap();
    let namespace = Namespace::new();
    namespace.run(|| async move {
        sysctl::write(key, "7").unwrap();
        assert_eq!(sysctl::read(key).unwrap().as_deref(), Some("7"));
        assert!(matches!(sysctl::write("ipv4/conf/all/arp_ignored", "1"), Err(HostError::Sysctl { .. })));
    });
    assert_eq!(sysctl::read(key).unwrap(), outside);
}

#[test]
fn offloads_and_channels() {
    if !is_root() {
        return;
    }
    use ethtool::Offload;
    Namespace::new().run(|| async {
        let host = Host::connect().unwrap();
        let (link, _) = host.ensure_veth_pair("v0", "v1", 2).await.unwrap();
        let all = [Offload::TxChecksum, Offload::Tso, Offload::Gso];
        for offload in all {
            assert!(ethtool::is_active(link.index, offload).unwrap(), "{offload:?} is on in a new veth");
        }
        ethtool::set_offloads(link.index, &[(Offload::TxChecksum, false), (Offload::Gro, true)]).unwrap();
        assert!(!ethtool::is_active(link.index, Offload::TxChecksum).unwrap());
        assert!(!ethtool::is_active(link.index, Offload::Tso).unwrap(), "needs checksums");
        assert!(ethtool::is_active(link.index, Offload::Gro).unwrap());
        ethtool::set_offloads(link.index, &all.map(|offload| (offload, true))).unwrap();
        assert!(ethtool::is_active(link.index, Offload::Tso).unwrap());

        let is_native = || netdev::xdp_features(link.index).unwrap().is_none_or(|features| features.native);
        assert!(is_native());
        let channels = ethtool::channels(link.index).unwrap().unwrap();
        assert_eq!((channels.rx, channels.tx), (2, 2));
        ethtool::set_channels(link.index, 1, 1).unwrap();
        assert_eq!(ethtool::channels(link.index).unwrap().unwrap().rx, 1);
        assert!(!is_native() || netdev::xdp_features(link.index).unwrap().is_none(), "fewer queues than the peer");
        assert!(ethtool::set_channels(link.index, 100, 100).is_err());
        assert!(ethtool::channels(LinkIndex(9999)).is_err());
    });
}

/// All of ours to learned prefixes.
fn read_learned(learned: &mut LearnedRoutes) -> Vec<Route> {
    let mut all = Vec::new();
    loop {
        let (routes, is_end) = learned.read().unwrap();
        all.extend(routes);
        if is_end {
            all.sort();
            return all;
        }
    }
}

#[test]
fn learned_routes_are_written_many_at_a_time_and_are_nobody_elses() {
    use crate::rib::kernel::Edit;

    if !is_root() {
        return;
    }
    Namespace::new().run(|| async {
        let (host, mut events) = Host::open().unwrap();
        let mut learned = LearnedRoutes::open().unwrap();
        events.ignore(learned.port());
        let (near, _) = host.ensure_veth_pair("v0", "v1", 1).await.unwrap();
        for name in ["lo", "v0", "v1"] {
            host.set_up(host.link(name).await.unwrap().index, true).await.unwrap();
        }
        let own = InterfaceAddress { link: near.index, address: ip("10.77.0.1"), prefix_length: 24 };
        host.add_address(&own).await.unwrap();
        let hop = |gateway: &str| NextHop { link: near.index, gateway: Some(ip(gateway)), onlink: true };
        let to = |hops: &[&str]| Target::Forward(hops.iter().map(|gateway| hop(gateway)).collect());
        let route = |prefix: &str, target: Target| Route::new(cidr(prefix), METRIC, target);

        // Somebody's own, with the prefix and metric of one of ours.
        let foreign = route("10.0.3.0/24", to(&["10.77.0.9"]));
        host.clone().as_operator().add_route(&foreign).await.unwrap();
        let mut wanted: Vec<Route> =
            (0..100).map(|number| route(&format!("10.0.{number}.0/24"), to(&["10.77.0.2"]))).collect();
        wanted.push(route("10.1.0.0/24", to(&["10.77.0.2", "192.0.2.7"])));
        wanted.push(route("10.2.0.0/26", Target::Blackhole));
        wanted.push(route("fd00:1::/64", to(&["fd77::2"])));
        wanted.push(route("fd00:2::/64", to(&["fd77::2", "fd77::3"])));
        wanted.push(route("fd00:3::/122", Target::Blackhole));
        wanted.push(route("10.3.0.0/24", to(&["fd77::2"])));
        let edits: Vec<Edit> = wanted.iter().cloned().map(Edit::Add).collect();
        let refused: Vec<usize> = learned.edit(&edits).unwrap().into_iter().map(|(position, _)| position).collect();
        assert_eq!(refused, [3], "the one that is somebody else's");
        wanted.remove(3);
        wanted.sort();
        assert_eq!(read_learned(&mut learned), wanted, "what is read is what was written");
        assert_eq!(host.our_routes().await.unwrap(), []);
        let others = host.routes().await.unwrap();
        assert!(others.contains(&foreign) && !others.contains(&wanted[0]), "{others:?}");
        let found = host.route_get(ip("10.0.9.1")).await.unwrap().unwrap();
        assert_eq!((found.link, found.gateway), (near.index, Some(ip("10.77.0.2"))));

        // Others next hops for all, in one step each.
        let moved: Vec<Route> = wanted
            .iter()
            .map(|route| {
                let target =
                    if route.destination().is_ipv4() { to(&["10.77.0.5"]) } else { to(&["fd77::5", "fd77::6"]) };
                Route::new(route.destination(), METRIC, target)
            })
            .collect();
        let edits: Vec<Edit> = moved.iter().cloned().map(Edit::Replace).collect();
        assert!(learned.edit(&edits).unwrap().is_empty());
        assert_eq!(read_learned(&mut learned), moved);

        // A next hop on a link that is not there is refused; what is gone can go again; another's cannot go by us.
        let nowhere = Target::Forward(vec![NextHop { link: LinkIndex(9999), ..hop("10.77.0.2") }]);
        let edits = [
            Edit::Add(route("10.9.0.0/24", nowhere)),
            Edit::Delete(cidr("10.0.3.0/24"), METRIC),
            Edit::Delete(cidr("10.99.0.0/24"), METRIC),
            Edit::Delete(cidr("10.0.0.0/24"), METRIC),
            Edit::Delete(cidr("fd00:2::/64"), METRIC),
        ];
        let refused: Vec<usize> = learned.edit(&edits).unwrap().into_iter().map(|(position, _)| position).collect();
        assert_eq!(refused, [0]);
        assert_eq!(read_learned(&mut learned).len(), moved.len() - 2);
        assert!(host.routes().await.unwrap().contains(&foreign));

        // Of all this nothing is told but what others did.
        let mut other = LearnedRoutes::open().unwrap();
        assert!(other.edit(&[Edit::Delete(cidr("10.0.1.0/24"), METRIC)]).unwrap().is_empty());
        let mut told = 0;
        loop {
            match events.next().await.unwrap() {
                HostEvent::RouteChanged => told += 1,
                HostEvent::LearnedRouteChanged => break,
                _ => {}
            }
        }
        assert!(told < 20, "{told} changes of others' routes: of links and addresses, and one by hand");
    });
}
