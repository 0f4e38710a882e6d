//! Wrong UPDATEs over real sockets, said to a router that has another one behind it.
//!
//! ```text
//!     far (raw peers, .10-.17 inside, .20-.27 outside) ──up0── router ──up1── tor (BIRD)
//! ```

use std::net::{IpAddr, SocketAddr};

use tests::bgp::cases::{Bench, Seen};
use tests::bgp::ours::{self, Session};
use tests::bgp::{Kind, Neighbour, Peer, Speaker};
use tests::bgp_cases::{Case, Expected, cases};
use tests::daemon::Daemon;
use tests::topology::Topology;

use crate::bgp_flood::{BEHIND, DEVICE, SYSTEMS};
use crate::{CHAIN, ip};

const PEERS: u8 = 8;
fn addresses(is_internal: bool) -> Vec<IpAddr> {
    let first = if is_internal { 10 } else { 20 };
    (first..first + PEERS).map(|last| IpAddr::from([192, 0, 2, last])).collect()
}

/// A case that did not end as it has to.
struct Difference {
    case: String,
    is_internal: bool,
    expected: Expected,
    seen: Seen,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = if self.is_internal { "ibgp" } else { "ebgp" };
        write!(f, "{} {kind}: expected {:?}, seen {:?}", self.case, self.expected, self.seen)
    }
}

/// Says cases to the device that is up, and gives back what did not end as the RFC says. The router behind must have found
/// nothing wrong with what it was told.
fn differences(topology: &Topology, behind: &Neighbour, daemon: &Daemon, cases: &[Case]) -> Vec<Difference> {
    let mut found = Vec::new();
    for is_internal in [true, false] {
        let mut bench = Bench {
            machine: &topology.at("far"),
            addresses: addresses(is_internal),
            next: 0,
            device: SocketAddr::new(ip(DEVICE), 179),
            as_number: SYSTEMS[usize::from(!is_internal)],
            is_internal,
            behind,
            sentinels: if is_internal { 0 } else { 0x8000 },
            excuse: &|peer| _ = daemon.cli(&["bgp", "enable", &peer.to_string()]),
        };
        for case in cases {
            let expected = if is_internal { case.ibgp } else { case.ebgp };
            let seen = bench.run(case);
            if !seen.is(expected) {
                let difference = Difference { case: case.name.clone(), is_internal, expected, seen };
                println!("{difference}");
                found.push(difference);
            }
            let is_calm = behind.sessions().iter().all(|session| session.is_established);
            assert!(is_calm, "{} ended the session behind the device", case.name);
        }
        assert_eq!(bench.complaints(), Vec::<String>::new(), "what was passed on was wrong");
    }
    found
}

/// Addresses for all raw peers, and the router behind the device.
fn surroundings(topology: &Topology) -> Neighbour {
    for address in [true, false].into_iter().flat_map(addresses) {
        topology.at("far").run(&format!("ip address add {address}/24 dev eth0"));
    }
    let mut behind = Speaker::new(SYSTEMS[2], BEHIND[1]);
    // Not only on its link: the next hop of IPv6 routes is the device's address of the other one.
    behind.peers.push(Peer { is_multihop: true, ..Peer::new(BEHIND[0], SYSTEMS[0]) });
    Neighbour::start(Kind::Bird, &topology.at("tor"), &topology.folder(), &behind)
}

#[test]
fn wrong_updates_end_as_they_have_to() {
    let Some(topology) = Topology::up("bgpwrong", CHAIN) else { return };
    let daemon = Daemon::start(&topology, &[]);
    let behind = surroundings(&topology);
    let open = |address: String, as_number| Session {
        spec: vec!["filters: [everything]", "sourceAddress: None"],
        annotations: vec![("families", "4 6")],
        ..Session::new(&address, as_number)
    };
    let mut sessions = vec![open(BEHIND[1].to_owned(), SYSTEMS[2])];
    for is_internal in [true, false] {
        let system = SYSTEMS[usize::from(!is_internal)];
        sessions.extend(addresses(is_internal).iter().map(|address| open(address.to_string(), system)));
    }
    daemon.apply(&ours::manifests(&sessions, ""));
    behind.until_established(BEHIND[0]);
    let all = cases();
    let found = differences(&topology, &behind, &daemon, &all);
    let told: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert!(told.is_empty(), "{} of {}:\n  {}", told.len(), 2 * all.len(), told.join("\n  "));
}
