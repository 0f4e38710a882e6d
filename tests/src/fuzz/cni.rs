//! A runtime's call of the CNI plugin: arguments, configuration, results of other plugins.
//!
//! The first line of the input is CNI_ARGS, the rest is the configuration. Whatever it says: nobody panics, a refusal has a
//! number of the specification and the version that was asked for, what is accepted names an endpoint that can be told from
//! others, and a result of another plugin has the same addresses in every version that can say them.

use config::net::Cidr;
use control::cni::error::CniError;
use control::cni::reply::Reply;
use control::cni::request::{CniCall, Request, VERSIONS, position};
use control::cni::verbs;
use control::workload::call::{DhcpRelay, NodeView};
use control::workload::endpoint::endpoint_of;
use control::workload::identity::Identity;

use super::{Seen, Target};

pub const CNI: Target = Target {
    name: "cni",
    run: cni,
    seeds,
    tokens: &[
        "cniVersion",
        "\"1.0.0\"",
        "\"name\"",
        "ipam",
        "prevResult",
        "runtimeConfig",
        "portMappings",
        "io.kubernetes.cri.pod-annotations",
        "cni.projectcalico.org/ipAddrs",
        "interfaces",
        "K8S_POD_NAME=",
        "IgnoreUnknown=1;",
        "IP=10.0.0.1",
        "10.0.0.1/32",
    ],
    longest: 4096,
    rounds: 1500,
};

fn cni(bytes: &[u8]) -> Seen {
    let text = String::from_utf8_lossy(bytes);
    let (args, config) = text.split_once('\n').unwrap_or(("", &text));
    let call = CniCall {
        command: "ADD".to_string(),
        container_id: "c1".to_string(),
        netns: "/run/netns/c1".to_string(),
        ifname: "eth0".to_string(),
        args: args.to_string(),
        path: "/opt/cni/bin".to_string(),
        config: config.to_string(),
        ..CniCall::default()
    };
    let request = match Request::read(&call) {
        Ok(request) => request,
        Err(error) => return refused(&error),
    };
    let has_previous = match request.config.previous.as_ref().map(|value| Reply::read(value, "prevResult")) {
        Some(Err(error)) => return refused(&error),
        Some(Ok(reply)) => {
            same_in_every_version(&reply);
            true
        }
        None => false,
    };
    let wish = match verbs::wish(&request) {
        Ok(wish) => wish,
        Err(error) => return refused(&error),
    };
    let node = NodeView {
        node: "n1".to_string(),
        prefix: "cali".to_string(),
        mtu: 1500,
        prepares: true,
        dhcp: DhcpRelay::Off,
    };
    let address = [10, 0, 0, 1].into();
    let (endpoint, _) = endpoint_of(&wish, &node, "cali1", &[address], wish.mac);
    assert_eq!(Identity::of(&endpoint), Some(wish.identity.clone()));
    assert_eq!(endpoint.spec.ip_networks, [Cidr::host(address)]);
    Seen::accepted((has_previous, wish.mac.is_some(), wish.ports.len().min(3), wish.identity.orchestrator))
}

fn refused(error: &CniError) -> Seen {
    assert!((1..200).contains(&error.code) && !error.msg.is_empty(), "{error:?}");
    assert!(error.to_string().len() < 4096, "{error}");
    Seen::refused((error.code, error.msg.chars().take(20).collect::<String>()))
}

/// Before 0.3.0 one address of each family can be said.
fn same_in_every_version(reply: &Reply) {
    for version in VERSIONS {
        let written = reply.write(version);
        let again = Reply::read(&written, "it").unwrap_or_else(|error| panic!("{version}: {error}: {written}"));
        match position(version) < position("0.3.0") {
            true => assert!(again.addresses().iter().all(|address| reply.addresses().contains(address))),
            false => assert_eq!(again.addresses(), reply.addresses(), "{version}"),
        }
    }
}

fn seeds() -> Vec<Vec<u8>> {
    [
        "\n{\"cniVersion\": \"1.0.0\", \"name\": \"pods\", \"type\": \"vrouter-cni\"}",
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web\n{\"cniVersion\": \"0.3.1\", \"name\": \"pods\", \"mtu\": 1400, \
         \"ipam\": {\"type\": \"calico-ipam\", \"assign_ipv4\": \"true\", \"ipv4_pools\": [\"a\"]}, \"policy\": {\"type\": \"k8s\"}}",
        "IP=10.0.0.1\n{\"cniVersion\": \"1.1.0\", \"name\": \"a\", \"runtimeConfig\": {\"mac\": \"02:00:00:00:00:01\", \"portMappings\": \
         [{\"hostPort\": 80, \"containerPort\": 8080, \"protocol\": \"tcp\"}], \"bandwidth\": {\"ingressRate\": 5}}}",
        "\n{\"cniVersion\": \"0.4.0\", \"name\": \"a\", \"prevResult\": {\"interfaces\": [{\"name\": \"lo\"}], \"ips\": [{\"version\": \"4\", \
         \"address\": \"127.0.0.1/8\", \"interface\": 0}], \"routes\": [{\"dst\": \"0.0.0.0/0\"}], \"dns\": {\"nameservers\": [\"10.0.0.1\"]}}}",
        "\n{\"name\": \"a\", \"prevResult\": {\"ip4\": {\"ip\": \"10.0.0.1/24\", \"routes\": [{\"dst\": \"0.0.0.0/0\", \"gw\": \"10.0.0.2\"}]}, \
         \"ip6\": {\"ip\": \"fd00::1/64\"}}}",
        "\n{\"name\": \"a\", \"runtimeConfig\": {\"io.kubernetes.cri.pod-annotations\": {\"cni.projectcalico.org/ipAddrs\": \
         \"[\\\"10.0.0.1\\\"]\", \"cni.projectcalico.org/hwAddr\": \"02:00:00:00:00:02\"}}}",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}
