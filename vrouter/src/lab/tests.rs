//! Building, breaking and taking down labs in the real kernel, and the checks between two of its
//! namespaces that are joined without a router. Needs root; without it every case says so and passes.
#![allow(clippy::unwrap_used)]

use std::path::Path as FilePath;
use std::process;

use control::host::ethtool::{self, Offload};
use control::host::netns;
use nix::unistd::geteuid;

use super::checks::{self, Path};
use super::down::down;
use super::state::State;
use super::{Lab, LabError, up};

/// A lab of this process and test, taken down with the value.
struct Built {
    lab: Lab,
}

impl Built {
    fn new(test: &str) -> Option<Built> {
        if !geteuid().is_root() {
            eprintln!("skipped: labs need root");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("lab.yaml");
        let text = format!(
            "
name: hx{}-{test}
endpoints:
  - {{ name: web, addresses: [10.65.0.2, 'fd65::2'] }}
  - {{ name: raw, addresses: [10.65.0.3], offload: leave, mtu: 1400, queues: 2 }}
hosts:
  - name: far
    addresses: [192.0.2.2/24, '2001:db8::2/64']
    uplink: up0
    nodeAddresses: [192.0.2.1/24, '2001:db8::1/64']
",
            process::id()
        );
        std::fs::write(&file, text).unwrap();
        Some(Built { lab: Lab::read(&file).unwrap() })
    }

    fn state(&self) -> State {
        State::of(&self.lab.name).unwrap()
    }
}

impl Drop for Built {
    fn drop(&mut self) {
        down(&self.lab.name).unwrap();
        assert!(self.lab.namespaces().iter().all(|namespace| !netns::exists(namespace)));
        assert!(!self.state().folder().exists());
    }
}

#[test]
fn up_builds_what_is_described_and_may_be_repeated() {
    let Some(built) = Built::new("up") else { return };
    let lab = &built.lab;
    for _ in 0..2 {
        up::up(lab).unwrap();
        let node = lab.namespace(&lab.node);
        let (links, uplink) =
            up::in_host(&node, async |host| Ok((host.links().await?, host.link("up0").await?))).unwrap();
        assert!(uplink.up);
        let raw = links.iter().find(|link| link.name == "caliraw").unwrap();
        assert_eq!((raw.mac, raw.mtu, raw.rx_queues), (Some(control::host::GATEWAY_MAC), 1400, 2));
        let addresses = up::in_host(&node, async |host| host.addresses().await).unwrap();
        assert!(addresses.iter().all(|address| address.link != raw.index), "host sides have no address");
        for (name, is_on) in [("web", false), ("raw", true)] {
            let link = up::in_host(&lab.namespace(name), async |host| host.link("eth0").await).unwrap();
            let active =
                netns::in_namespace(&lab.namespace(name), || ethtool::is_active(link.index, Offload::TxChecksum));
            assert_eq!(active.unwrap().unwrap(), is_on, "{name}");
            let read = || std::fs::read_to_string("/sys/class/net/eth0/threaded").unwrap();
            let threaded = netns::in_namespace_with_sysfs(&lab.namespace(name), read).unwrap();
            assert_eq!(threaded.trim() == "1", !is_on, "{name}");
        }
    }
    let manifests = std::fs::read_dir(built.state().manifests()).unwrap().count();
    assert_eq!(manifests, 4);
    for file in std::fs::read_dir(built.state().manifests()).unwrap() {
        let path = file.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(config::yaml::parse("manifest", &text).is_ok(), "{}:\n{text}", path.display());
    }
}

#[test]
fn a_namespace_of_somebody_else_is_left_alone() {
    let Some(built) = Built::new("foreign") else { return };
    let foreign = built.lab.namespace("web");
    netns::create(&foreign).unwrap();
    assert!(matches!(up::up(&built.lab), Err(LabError::ForeignNamespace { .. })));
    down(&built.lab.name).unwrap();
    assert!(netns::exists(&foreign), "neither up nor down touch it");
    netns::delete(&foreign).unwrap();
}

#[test]
fn down_takes_a_half_built_lab_and_none_at_all() {
    let Some(built) = Built::new("half") else { return };
    down(&built.lab.name).unwrap();
    let state = built.state();
    state.create().unwrap();
    state.record_namespaces(&built.lab.namespaces()).unwrap();
    netns::create(&built.lab.namespaces()[1]).unwrap();
    // Process 1 is not this lab's router, whatever the record says.
    state.record_daemon(1).unwrap();
    down(&built.lab.name).unwrap();
    assert!(!netns::exists(&built.lab.namespaces()[1]));
    down(&built.lab.name).unwrap();
    assert!(FilePath::new("/proc/1").exists());
}

#[test]
fn checks_see_traffic_and_its_absence() {
    let Some(built) = Built::new("checks") else { return };
    let lab = &built.lab;
    up::up(lab).unwrap();
    let path = |destination: &str| Path {
        from: "far".to_owned(),
        to: "router".to_owned(),
        from_namespace: lab.namespace("far"),
        to_namespace: lab.namespace(&lab.node),
        destination: destination.parse().unwrap(),
    };
    for destination in ["192.0.2.1", "2001:db8::1"] {
        let path = path(destination);
        checks::ping(&path, 3).unwrap();
        assert!(checks::tcp(&path, 4).unwrap() > 1e6);
        let exchanges = checks::udp(&path, 50).unwrap();
        assert_eq!((exchanges.round_trips.len(), exchanges.lost), (50, 0));
    }
    // Nobody forwards to an endpoint in this lab: no router runs.
    let failure = checks::ping(&path("10.65.0.2"), 1).unwrap_err();
    assert!(failure.contains("no answer"), "{failure}");
}
