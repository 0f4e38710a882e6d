//! Docker's calls as anybody may send them.
//!
//! The input is a call's path and its body, with a line's end between them. Whatever it says: what is refused is refused in
//! few and plain words, and what is accepted makes valid objects that say whose they are.

use std::net::IpAddr;

use config::resource::Resource;
use control::docker::driver;
use control::docker::ipam::Pool;
use control::docker::messages::{Call, CreateNetwork};
use control::docker::networks::Network;
use control::workload::call::{DhcpRelay, NodeView, Source};
use control::workload::endpoint::endpoint_of;
use control::workload::identity::Identity;

use super::{Seen, Target};

pub const DOCKER: Target = Target {
    name: "docker",
    run: docker,
    seeds,
    tokens: &[
        "/NetworkDriver.CreateEndpoint",
        "/NetworkDriver.CreateNetwork",
        "/IpamDriver.RequestAddress",
        "com.docker.network.generic",
        "com.docker.network.portmap",
        "com.docker.network.internal",
        "vrouter.label.",
        "vrouter.namespace",
        "null",
        "/32",
        "ipv6",
    ],
    longest: 2048,
    rounds: 2000,
};

/// A refusal goes to a terminal. A field's own message may name the field beside what was found.
const SAID_MAX: usize = 2048;

fn docker(bytes: &[u8]) -> Seen {
    let mut parts = bytes.splitn(2, |byte| *byte == b'\n');
    let path = String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
    let call = match Call::read(&path, parts.next().unwrap_or_default()) {
        None => return Seen::refused("no call"),
        Some(Err(error)) => return refused(&path, &error),
        Some(Ok(call)) => call,
    };
    let known = CreateNetwork { network_id: "4f1c".to_string(), ..CreateNetwork::default() };
    let (known, _) = Network::asked(&known).expect("a network");
    match &call {
        Call::CreateNetwork(request) => match Network::asked(request) {
            Err(error) => refused(&path, &error),
            Ok((network, profile)) => {
                assert_eq!(Network::of(&profile).as_ref(), Some(&network));
                let profile = Resource::Profile(profile);
                assert_eq!(profile.validate(), [], "{network:?}");
                assert_eq!(Resource::from_json(&profile.to_json()).as_ref(), Ok(&profile));
                Seen::accepted((path, network.mtu.is_some(), network.namespace == "default"))
            }
        },
        Call::CreateEndpoint(request) => match driver::wish(&known, request) {
            Err(error) => refused(&path, &error),
            Ok(wish) => {
                let node = NodeView {
                    node: "n".to_string(),
                    prefix: "cali".to_string(),
                    mtu: 1500,
                    prepares: true,
                    dhcp: DhcpRelay::Off,
                };
                let Source::Given(addresses) = &wish.addresses else { panic!("Docker gives addresses: {wish:?}") };
                let addresses: Vec<IpAddr> = addresses.clone();
                let (endpoint, _) = endpoint_of(&wish, &node, "cali0", &addresses, wish.mac);
                assert_eq!(Identity::of(&endpoint).as_ref(), Some(&wish.identity));
                // What is wrong is told before anything is made.
                let problems = Resource::WorkloadEndpoint(endpoint).validate();
                Seen::accepted((path, addresses.len(), wish.ports.len().min(2), problems.is_empty()))
            }
        },
        Call::RequestAddress(request) | Call::ReleaseAddress(request) => match Pool::parse(&request.pool_id) {
            Err(error) => refused(&path, &error),
            Ok(pool) => {
                assert_eq!(pool.id(), request.pool_id);
                Seen::accepted((path, pool.version().to_string()))
            }
        },
        _ => Seen::accepted(path),
    }
}

fn refused(path: &str, error: &control::docker::error::DockerError) -> Seen {
    let said = error.to_string();
    assert!(said.len() < SAID_MAX && !said.chars().any(|char| char.is_control()), "{said:?}");
    Seen::refused((path.to_string(), said.split(':').next().map(str::to_string)))
}

fn seeds() -> Vec<Vec<u8>> {
    let seeds = [
        r#"/NetworkDriver.CreateNetwork
{"NetworkID":"4f1c2d3e4f5a6b7c","Options":{"com.docker.network.generic":{"label.role":"web","vrouter.namespace":"shop","com.docker.network.driver.mtu":"1400"},"com.docker.network.internal":true},"IPv4Data":[{"AddressSpace":"vrouter-local","Pool":"10.0.0.0/8","Gateway":"169.254.1.1/32","AuxAddresses":{}}],"IPv6Data":[]}"#,
        r#"/NetworkDriver.CreateEndpoint
{"NetworkID":"4f1c","EndpointID":"e1","Interface":{"Address":"10.0.0.1/32","AddressIPv6":"","MacAddress":""},"Options":{"com.docker.network.portmap":[{"Proto":6,"IP":"","Port":80,"HostIP":"0.0.0.0","HostPort":8080,"HostPortEnd":8080}],"label.app":"db"}}"#,
        r#"/NetworkDriver.Join
{"NetworkID":"4f1c","EndpointID":"e1","SandboxKey":"/var/run/docker/netns/1","Options":null}"#,
        r#"/IpamDriver.RequestPool
{"AddressSpace":"vrouter-local","Pool":"10.0.0.0/8","SubPool":"","Options":{},"V6":false}"#,
        r#"/IpamDriver.RequestAddress
{"PoolID":"10.0.0.0/8","Address":"10.0.0.1","Options":{"RequestAddressType":"com.docker.network.gateway"}}"#,
        r#"/IpamDriver.ReleaseAddress
{"PoolID":"ipv6","Address":"fd00::1"}"#,
        "/Plugin.Activate\n",
    ];
    seeds.map(|seed| seed.as_bytes().to_vec()).to_vec()
}
