//! Stories with real stacks: the router's binary in a network namespace, and machines around it that talk.
//!
//! ```text
//!     web ──caliweb──┐
//!                    ├── router ──up0── far
//!  client ──cali…────┘
//! ```
//!
//! | file | the story |
//! |---|---|
//! | `plain.rs` | everybody reaches everybody: ping, TCP, UDP, traceroute, path MTU, fragments |
//! | `rule_match.rs` | what a rule says about the packet, field by field |
//! | `rule_peers.rs` | what a rule says about the peer: labels, namespaces, service accounts |
//! | `rule_sets.rs` | what a rule means by a name: network sets, port names, staged policies |
//! | `rule_services.rs` | what a rule means by a Service: backends that come and go |
//! | `kubernetes.rs` | Kubernetes' policies, by the recipes that its users know |
//! | `rule_order.rs` | which rule decides: actions, order, tiers, profiles, directions |
//! | `policy.rs` | a policy changes while connections are open |
//! | `kill.rs` | the router is killed under load |
//! | `iperf.rs` | TCP of real stacks, with partial checksums and with whole ones, MTU 1500 and 9000 |
//! | `prepared.rs` | endpoints prepared by the router, by either back-end, or out of its reach |
//! | `link.rs` | links go down, change their MTU, go away and come back |
//! | `confirm.rs` | a change that nobody confirms is undone |
//! | `many.rs` | 64 endpoints on one worker |
//! | `workers.rs` | two workers, and packets that change threads |
//! | `upgrade.rs` | the daemon is restarted under ten thousand flows and five hundred policies |
//! | `host.rs` | host endpoints, and what workloads may not say |
//! | `guarded.rs` | a host endpoint with two workers, with long packets, and with both |
//! | `told.rs` | what `trace` and `why` tell about host endpoints is what happens |
//! | `neighbours.rs` | BIRD and GoBGP talk to each other, seen by the harness that will judge our speaker |
//! | `bgp.rs` | our speaker with BIRD and with GoBGP: what either tells is what the other shows, and packets follow |
//! | `bgp_failover.rs` | the next hop of very many prefixes falls silent, and packets go by another |
//! | `bgp_input.rs` | wrong UPDATEs over real sockets, with another router behind |
//! | `bgp_flood.rs` | peers that do harm without a wrong byte |
//! | `bgp_gobgp.rs` | several paths and restarts, with GoBGP |
//! | `bgp_host.rs` | blocks of the node and ways to peers, in the host's own routes |
//! | `bmp.rs` | a monitoring station hears what a peer says, whenever it comes |
//! | `cni_cases.rs` | network plugins called as runtimes do, right and wrong |
//! | `containers.rs` | containers of containerd and podman, attached by our plugin |
//! | `pods.rs` | pods by containerd's CRI, called as the kubelet calls it |
//! | `containers_reference.rs` | the stand for runtimes, proved with plugins that are not ours |
//! | `secrets.rs` | a session's password is changed under it |
//! | `attach.rs` | containers come and go by the plugin, whoever is killed meanwhile |
//! | `bfd.rs` | our BFD and BIRD's watch a link and a path of two hops |
//! | `dhcp.rs` | containers and others have addresses from a DHCP server upstream, by the relay |
//! | `docker.rs` | Docker's drivers, called as dockerd calls them, with the router killed in between |
//! | `docker_engine.rs` | Docker's own engine with our drivers |
//! | `translate.rs` | workloads leave with the node's address, and the host keeps what is its own |
//! | `input.rs` | wrong manifests, restarts, endpoints that do not behave |
//!
//! Each needs root, and is not run without.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod attach;
mod bfd;
mod bgp;
mod bgp_failover;
mod bgp_flood;
mod bgp_gobgp;
mod bgp_host;
mod bgp_input;
mod bmp;
mod cni_cases;
mod confirm;
mod containers;
mod containers_reference;
mod dhcp;
mod docker;
mod docker_engine;
mod guarded;
mod host;
mod input;
mod iperf;
mod kill;
mod kubernetes;
mod link;
mod many;
mod neighbours;
mod plain;
mod pods;
mod policy;
mod prepared;
mod rule_match;
mod rule_order;
mod rule_peers;
mod rule_services;
mod rule_sets;
mod secrets;
mod told;
mod translate;
mod upgrade;
mod workers;

use std::net::IpAddr;

/// A router between two others.
const CHAIN: &str = r#"
endpoints:
  - { name: web, addresses: [10.65.0.2, "fd65::2"] }
hosts:
  - name: far
    addresses: [192.0.2.2/24, "2001:db8::2/64"]
    uplink: up0
    nodeAddresses: [192.0.2.1/24, "2001:db8::1/64"]
  - name: tor
    addresses: [172.31.1.2/24, "fd31::2/64"]
    uplink: up1
    nodeAddresses: [172.31.1.1/24, "fd31::1/64"]
"#;

/// The machines of the drawing above.
const TWO_AND_FAR: &str = r#"
endpoints:
  - { name: web, addresses: [10.65.0.2, "fd65::2"], labels: { app: web } }
  - { name: client, addresses: [10.65.0.3, "fd65::3"], labels: { app: client } }
hosts:
  - name: far
    addresses: [192.0.2.2/24, "2001:db8::2/64"]
    uplink: up0
    nodeAddresses: [192.0.2.1/24, "2001:db8::1/64"]
"#;

/// The same with links of this MTU, and `more` settings for each workload.
fn two_and_far_with(mtu: u32, more: &str) -> String {
    format!(
        r#"
endpoints:
  - {{ name: web, addresses: [10.65.0.2, "fd65::2"], mtu: {mtu}{more} }}
  - {{ name: client, addresses: [10.65.0.3, "fd65::3"], mtu: {mtu}{more} }}
hosts:
  - name: far
    addresses: [192.0.2.2/24, "2001:db8::2/64"]
    uplink: up0
    nodeAddresses: [192.0.2.1/24, "2001:db8::1/64"]
    mtu: {mtu}
"#
    )
}

/// Their addresses, by family.
const WEB: [&str; 2] = ["10.65.0.2", "fd65::2"];
const CLIENT: [&str; 2] = ["10.65.0.3", "fd65::3"];
const FAR: [&str; 2] = ["192.0.2.2", "2001:db8::2"];
/// The node itself, on its uplink.
const NODE: [&str; 2] = ["192.0.2.1", "2001:db8::1"];

fn ip(address: &str) -> IpAddr {
    address.parse().unwrap()
}
