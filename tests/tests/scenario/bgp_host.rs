//! What BGP's resources put into the host's own routes: the node's blocks, and ways to peers.
//!
//! ```text
//!     router ──up0── far: BIRD, at an address that is on no link
//! ```

use tests::bgp::ours::{self, Session};
use tests::bgp::{Kind, Neighbour, Peer, Speaker};
use tests::daemon::{Daemon, SOON};
use tests::topology::Topology;
use tests::wait;

use crate::{FAR, NODE, TWO_AND_FAR, ip};

const OTHER: u32 = 65001;
/// Of the peer.
const BEHIND: &str = "198.51.100.9";

#[test]
fn a_peer_is_reached_by_its_gateway() {
    let Some(topology) = Topology::up("bgp-gateway", TWO_AND_FAR) else { return };
    let (node, far) = (topology.node(), topology.at("far"));
    far.run(&format!("ip address add {BEHIND}/32 dev lo"));
    let peer = Peer { local_address: Some(ip(BEHIND)), is_multihop: true, ..Peer::new(NODE[0], ours::AS_NUMBER) };
    let speaker = Speaker { peers: vec![peer], ..Speaker::new(OTHER, BEHIND) };
    let other = Neighbour::start(Kind::Bird, &far, &topology.folder(), &speaker);
    let daemon = Daemon::start(&topology, &[]);
    let mut session = Session::new(BEHIND, OTHER);
    session.spec.push("reachableBy: 192.0.2.2");
    daemon.apply(&ours::manifests(&[session], ""));
    let ours = || node.run("ip route show proto 196");
    wait::until_true("a route to the peer", SOON, || ours().contains(&format!("{BEHIND} via {} dev up0", FAR[0])));
    ours::until_established(&daemon, BEHIND);
    other.until_established(NODE[0]);

    // It goes with the peer; what somebody else has added stays.
    node.run(&format!("ip route add 203.0.113.0/24 via {}", FAR[0]));
    daemon.cli(&["delete", "bgppeer", "peer198-51-100-9"]);
    wait::until_true("the route to be gone", SOON, || !ours().contains(BEHIND));
    assert!(node.run("ip route").contains("203.0.113.0/24"));
}

#[test]
fn nobody_in_a_block_of_this_node_is_looked_for_elsewhere() {
    let Some(topology) = Topology::up("bgp-block", TWO_AND_FAR) else { return };
    let node = topology.node();
    let daemon = Daemon::start(&topology, &[]);
    node.run(&format!("ip route add default via {}", FAR[0]));
    let block = |name: &str, node: &str, cidr: &str| {
        format!(
            "apiVersion: projectcalico.org/v3\nkind: BlockAffinity\nmetadata: {{ name: {name} }}\n\
             spec: {{ state: confirmed, node: {node}, cidr: \"{cidr}\" }}\n---\n"
        )
    };
    let all =
        [("four", "router", "10.65.0.0/26"), ("six", "router", "fd65::/122"), ("other", "another", "10.65.1.0/26")];
    daemon.apply(&all.map(|(name, node, cidr)| block(name, node, cidr)).concat());
    let ours = |family: &str| node.run(&format!("ip {family} route show proto 196"));
    wait::until_true("blackholes", SOON, || {
        ours("-4").contains("blackhole 10.65.0.0/26") && ours("-6").contains("blackhole fd65::/122")
    });
    assert!(!ours("-4").contains("10.65.1.0/26"));
    // An endpoint in it has its own route, and who has none is not sent out.
    assert!(ours("-4").contains("10.65.0.2 via"));
    assert!(node.attempt("ip route get 10.65.0.9").status.code() != Some(0));
    assert!(node.run("ip route get 10.65.1.9").contains("dev up0"));
    daemon.cli(&["delete", "blockaffinity", "four"]);
    wait::until_true("the blackhole to be gone", SOON, || !ours("-4").contains("blackhole"));
}
