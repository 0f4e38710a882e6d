//! A topology of the scenarios in which the ways to `web` and to `far` are network cards.

use std::env;
use std::fs;
use std::net::IpAddr;
use std::ops::Deref;
use std::process::Command;

use tests::daemon::SOON;
use tests::topology::{Machine, Topology};
use tests::wait;

/// Set in the virtual machine.
const MACHINE: &str = "ZEROCOPY_CARDS";

const DESCRIPTION: &str = r#"
endpoints:
  - { name: web, addresses: [10.65.0.2, "fd65::2"] }
  - { name: client, addresses: [10.65.0.3, "fd65::3"] }
hosts:
  - name: far
    addresses: [192.0.2.2/24, "2001:db8::2/64"]
    uplink: up0
    nodeAddresses: [192.0.2.1/24, "2001:db8::1/64"]
"#;

/// Addresses, by family.
pub const WEB: [&str; 2] = ["10.65.0.2", "fd65::2"];
pub const CLIENT: [&str; 2] = ["10.65.0.3", "fd65::3"];
pub const FAR: [&str; 2] = ["192.0.2.2", "2001:db8::2"];
const NODE: [&str; 2] = ["192.0.2.1", "2001:db8::1"];

pub fn ip(address: &str) -> IpAddr {
    address.parse().unwrap()
}

/// The topology. A namespace in which somebody still listens does not end, so its cards are taken back first.
pub struct Lab(Topology);

impl Deref for Lab {
    type Target = Topology;

    fn deref(&self) -> &Topology {
        &self.0
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let places =
            [(self.node(), "up0"), (self.at("far"), "eth0"), (self.node(), "caliweb"), (self.at("web"), "eth0")];
        for (number, (machine, name)) in places.iter().enumerate() {
            // One that was never given is still at home.
            machine.attempt(&format!("ip link set dev {name} netns 1 name card{number}"));
        }
    }
}

/// Builds the topology; `None` where there are no such cards.
pub fn up(name: &str) -> Option<Lab> {
    if env::var_os(MACHINE).is_none() {
        eprintln!("not run: needs network cards that use frames in place; .ci/zerocopy has them");
        return None;
    }
    let topology = Lab(Topology::up(name, DESCRIPTION)?);
    let (node, web, far) = (topology.node(), topology.at("web"), topology.at("far"));
    node.run("ip link delete up0");
    node.run("ip link delete caliweb");
    give(0, &node, "up0");
    give(1, &far, "eth0");
    give(2, &node, "caliweb");
    give(3, &web, "eth0");
    for (machine, interface, addresses) in [(&node, "up0", NODE), (&far, "eth0", FAR)] {
        machine.run(&format!("ip address add {}/24 dev {interface}", addresses[0]));
        machine.run(&format!("ip address add {}/64 dev {interface} nodad", addresses[1]));
        machine.run(&format!("ip link set dev {interface} up"));
    }
    for endpoint in [WEB, CLIENT] {
        for (address, gateway) in endpoint.iter().zip(NODE) {
            far.run(&format!("ip route add {address} via {gateway}"));
        }
    }
    node.run("ip link set dev caliweb address ee:ee:ee:ee:ee:ee up");
    web.run("ip link set dev eth0 address 02:6c:61:62:00:01 up");
    route_web(&web);
    Some(topology)
}

/// Addresses and routes of `web`; its stack forgets routes with its link.
pub fn route_web(web: &Machine) {
    web.run(&format!("ip address replace {}/32 dev eth0", WEB[0]));
    web.run("ip route replace 169.254.1.1 dev eth0");
    web.run("ip route replace default via 169.254.1.1 dev eth0");
    web.run(&format!("ip address replace {}/128 dev eth0 nodad", WEB[1]));
    web.run("ip -6 route replace default via fe80::ecee:eeff:feee:eeee dev eth0");
}

/// Moves a card into a machine's namespace.
fn give(number: usize, to: &Machine, name: &str) {
    let known = wait::until(&format!("card virtio{number}"), SOON, || known(number));
    let arguments = ["link", "set", "dev", &known, "netns", to.namespace(), "name", name];
    let output = Command::new("ip").args(arguments).output().unwrap();
    assert!(output.status.success(), "ip {}: {output:?}", arguments.join(" "));
}

/// The name that a card has in the first namespace.
fn known(number: usize) -> Option<String> {
    fs::read_dir("/sys/class/net").unwrap().find_map(|entry| {
        let path = entry.unwrap().path();
        let device = fs::read_link(path.join("device")).ok()?;
        let is_it = device.file_name()?.to_str()? == format!("virtio{number}");
        is_it.then(|| path.file_name().unwrap().to_str().unwrap().to_owned())
    })
}
