//! Against a model of the kernel that does each step on a `HostState`, for any two states; and one round
//! against the real kernel in a namespace.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;

use super::*;
use crate::host::{NextHop, netns};

/// What the kernel would do with one step.
fn carry_out(change: &Change, state: &mut HostState) {
    match change.clone() {
        Change::DeleteRoute(route) => assert!(state.routes.remove(&route), "deletes what is there: {change}"),
        Change::DeleteNeighbour { link, address } => {
            let key = (link, address);
            let was = (state.neighbours.remove(&key), state.managed.remove(&key));
            assert_ne!(was, (None, false), "deletes what is there: {change}");
        }
        Change::DeleteAddress(address) => assert!(state.addresses.remove(&address), "{change}"),
        Change::SetSysctl { key, value } => drop(state.sysctls.insert(key, value)),
        Change::SetMac { link, mac } => state.links.get_mut(&link).unwrap().mac = mac,
        Change::SetMtu { link, mtu } => state.links.get_mut(&link).unwrap().mtu = mtu,
        Change::SetUp { link, up } => state.links.get_mut(&link).unwrap().up = up,
        Change::AddAddress(address) => assert!(state.addresses.insert(address), "{change}"),
        Change::SetNeighbour { link, address, mac } => {
            state.managed.remove(&(link, address));
            state.neighbours.insert((link, address), mac);
        }
        Change::ManageNeighbour { link, address } => {
            assert!(!state.neighbours.contains_key(&(link, address)), "a static entry stays: {change}");
            state.managed.insert((link, address));
        }
        Change::AddRoute(route) => {
            assert!(state.routes.iter().all(|other| other.key() != route.key()), "{change}");
            state.routes.insert(route);
        }
        Change::ReplaceRoute { old, new } => {
            assert_eq!(old.key(), new.key());
            assert!(state.routes.remove(&old), "{change}");
            state.routes.insert(new);
        }
    }
}

fn rank(change: &Change) -> u8 {
    match change {
        Change::DeleteRoute(_) => 0,
        Change::DeleteNeighbour { .. } => 1,
        Change::DeleteAddress(_) => 2,
        Change::SetSysctl { .. } => 3,
        Change::SetMac { .. } => 4,
        Change::SetMtu { .. } => 5,
        Change::SetUp { .. } => 6,
        Change::AddAddress(_) => 7,
        Change::SetNeighbour { .. } => 8,
        Change::ManageNeighbour { .. } => 9,
        Change::AddRoute(_) => 10,
        Change::ReplaceRoute { .. } => 11,
    }
}

fn link() -> impl Strategy<Value = LinkIndex> {
    (1u32..5).prop_map(LinkIndex)
}

fn address() -> impl Strategy<Value = IpAddr> {
    (any::<bool>(), 1u8..5).prop_map(|(v4, last)| {
        if v4 { IpAddr::from([10, 0, 0, last]) } else { format!("fd00::{last}").parse().unwrap() }
    })
}

fn mac() -> impl Strategy<Value = MacAddress> {
    (0u8..3).prop_map(|last| MacAddress([2, 0, 0, 0, 0, last]))
}

fn route() -> impl Strategy<Value = Route> {
    let target = prop_oneof![
        Just(Target::Blackhole),
        (link(), proptest::option::of(address()))
            .prop_map(|(link, gateway)| { Target::Forward(vec![NextHop { link, gateway, onlink: false }]) }),
    ];
    (address(), 30u8..=32, 0u32..2, target)
        .prop_map(|(address, length, metric, target)| Route::new(Cidr::new(address, length).unwrap(), metric, target))
}

fn interface_address() -> impl Strategy<Value = InterfaceAddress> {
    (link(), address(), 24u8..=32).prop_map(|(link, address, prefix_length)| InterfaceAddress {
        link,
        address,
        prefix_length,
    })
}

fn link_state() -> impl Strategy<Value = LinkState> {
    (any::<bool>(), mac(), 1400u32..1403).prop_map(|(up, mac, mtu)| LinkState { up, mac, mtu })
}

/// A state that may be asked for.
fn state() -> impl Strategy<Value = HostState> {
    (
        btree_map(link(), link_state(), 0..4),
        btree_set(interface_address(), 0..4),
        btree_map((link(), address()), mac(), 0..4),
        btree_set((link(), address()), 0..4),
        btree_set(route(), 0..6),
        btree_map("[ab]", "[01]", 0..3),
    )
        .prop_map(|(links, addresses, neighbours, managed, routes, sysctls)| HostState {
            links,
            addresses,
            neighbours,
            managed,
            routes,
            sysctls,
        })
}

/// A state the kernel can be in: one route per key, and no entry both static and managed.
fn kernel_state() -> impl Strategy<Value = HostState> {
    state().prop_map(|mut state| {
        state.routes = by_key(state.routes.iter()).into_values().cloned().collect();
        state.managed.retain(|key| !state.neighbours.contains_key(key));
        state
    })
}

/// What is left of `desired` when links that are not there, and double claims, are taken away.
fn reachable(desired: &HostState, actual: &HostState) -> HostState {
    let missing = missing_links(desired, actual);
    let mut state = desired.clone();
    state.links.retain(|link, _| !missing.contains(link));
    state.addresses.retain(|address| !missing.contains(&address.link));
    state.neighbours.retain(|(link, _), _| !missing.contains(link));
    state
        .managed
        .retain(|(link, address)| !missing.contains(link) && !desired.neighbours.contains_key(&(*link, *address)));
    state.routes.retain(|route| !route.links().any(|link| missing.contains(&link)));
    state.routes = by_key(state.routes.iter()).into_values().cloned().collect();
    state
}

proptest! {
    #[test]
    fn equal_states_need_nothing(state in kernel_state()) {
        prop_assert_eq!(diff(&state, &state), vec![]);
    }

    #[test]
    fn all_steps_lead_to_the_desired_state(desired in state(), actual in kernel_state()) {
        let mut result = actual.clone();
        let changes = diff(&desired, &actual);
        for change in &changes {
            carry_out(change, &mut result);
        }
        prop_assert!(changes.is_sorted_by_key(rank));
        let expected = reachable(&desired, &actual);
        prop_assert_eq!(&result.routes, &expected.routes);
        prop_assert_eq!(&result.addresses, &expected.addresses);
        prop_assert_eq!(&result.neighbours, &expected.neighbours);
        prop_assert_eq!(&result.managed, &expected.managed);
        for (link, state) in &expected.links {
            prop_assert_eq!(&result.links[link], state);
        }
        for (key, value) in &expected.sysctls {
            prop_assert_eq!(&result.sysctls[key], value);
        }
        prop_assert_eq!(diff(&desired, &result), vec![]);
    }

    /// Links and settings nobody asked about keep their values, and no link appears.
    #[test]
    fn what_is_not_ours_stays(desired in state(), actual in kernel_state()) {
        let mut result = actual.clone();
        diff(&desired, &actual).iter().for_each(|change| carry_out(change, &mut result));
        prop_assert!(result.links.keys().eq(actual.links.keys()));
        for (link, state) in actual.links.iter().filter(|(link, _)| !desired.links.contains_key(link)) {
            prop_assert_eq!(&result.links[link], state);
        }
        for (key, value) in actual.sysctls.iter().filter(|(key, _)| !desired.sysctls.contains_key(*key)) {
            prop_assert_eq!(&result.sysctls[key], value);
        }
    }

    /// Any part of the steps, done in order, then a second round: the same end.
    #[test]
    fn a_round_may_fail_anywhere(desired in state(), actual in kernel_state(), done in vec(any::<bool>(), 40)) {
        let mut result = actual.clone();
        let changes = diff(&desired, &actual);
        let mut not_deleted = BTreeSet::new();
        for (change, done) in changes.iter().zip(done.iter().chain(std::iter::repeat(&true))) {
            // A kernel in which the deletion failed refuses or overrides what follows from it; the second
            // round must cope with either, so the step is left out with it.
            let entry = match change {
                Change::DeleteNeighbour { link, address }
                | Change::SetNeighbour { link, address, .. }
                | Change::ManageNeighbour { link, address } => Some((*link, *address)),
                _ => None,
            };
            if *done && !entry.is_some_and(|entry| not_deleted.contains(&entry)) {
                carry_out(change, &mut result);
            } else {
                not_deleted.extend(entry);
            }
        }
        diff(&desired, &result).iter().for_each(|change| carry_out(change, &mut result));
        prop_assert_eq!(diff(&desired, &result), vec![]);
        prop_assert_eq!(result.routes, reachable(&desired, &actual).routes);
    }
}

#[test]
fn a_round_against_the_kernel() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: network namespaces need root");
        return;
    }
    let name = format!("hxr{}", std::process::id());
    netns::create(&name).unwrap();
    let result = std::panic::catch_unwind(|| {
        netns::in_namespace(&name, || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(round());
        })
        .unwrap();
    });
    netns::delete(&name).unwrap();
    result.unwrap();
}

async fn round() {
    let host = Host::connect().unwrap();
    let loopback = host.link("lo").await.unwrap();
    host.set_up(loopback.index, true).await.unwrap();
    let (near, _far) = host.ensure_veth_pair("vrouter", "vrouter-fp", 1).await.unwrap();
    let link = near.index;
    let gateway: IpAddr = [169, 254, 1, 1].into();
    let mac = MacAddress([0xee; 6]);
    let route = |text: &str, target| Route::new(Cidr::parse(text).unwrap(), 1024, target);
    let via = Target::Forward(vec![NextHop { link, gateway: Some(gateway), onlink: true }]);

    let mut desired = HostState::default();
    desired.links.insert(link, LinkState { up: true, mac: near.mac.unwrap(), mtu: 1400 });
    desired.addresses.insert(InterfaceAddress { link, address: [10, 9, 0, 1].into(), prefix_length: 32 });
    desired.neighbours.insert((link, gateway), mac);
    desired.managed.insert((link, [10, 9, 0, 7].into()));
    desired.routes.insert(route("10.0.0.5/32", via.clone()));
    desired.routes.insert(route("10.0.0.0/26", Target::Blackhole));
    desired.routes.insert(route("fd00:10::/122", Target::Blackhole));
    desired.sysctls.insert("ipv4/conf/vrouter/rp_filter".to_owned(), "2".to_owned());

    let check = async |desired: &HostState| {
        let outcome = reconcile(&host, desired).await.unwrap();
        assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
        let actual = read(&host, desired).await.unwrap();
        assert_eq!(actual, *desired);
        assert_eq!(reconcile(&host, desired).await.unwrap().applied, 0);
    };
    check(&desired).await;

    // What fails is named and does not stop the rest.
    let mut wrong = desired.clone();
    wrong.routes.insert(route(
        "192.0.2.0/24",
        Target::Forward(vec![NextHop { link: LinkIndex(999), gateway: None, onlink: false }]),
    ));
    wrong.sysctls.insert("ipv4/conf/absent/rp_filter".to_owned(), "2".to_owned());
    wrong.links.insert(LinkIndex(998), LinkState { up: true, mac, mtu: 1500 });
    wrong.routes.insert(route("198.51.100.0/24", via));
    let outcome = reconcile(&host, &wrong).await.unwrap();
    assert_eq!((outcome.applied, outcome.failed.len()), (1, 2), "{:?}", outcome.failed);
    assert!(outcome.missing.contains(&LinkIndex(998)));

    // Everything goes but the link.
    check(&HostState { links: desired.links.clone(), ..HostState::default() }).await;
    host.delete_link(link).await.unwrap();
}
