//! Open vSwitch in user space, with its AF_XDP ports: Debian's package, a database and a daemon of this lab's own.
//!
//! ```text
//!     table 0   track, if that is asked for                    1   established: 3; new: 2
//!     table 2   policy, one flow or two per rule               3   routes: decrement TTL, rewrite, output
//! ```

use std::path::PathBuf;

use fastpath::table::acl::Action;

use crate::cpu::Task;
use crate::forwarder::{Forwarder, Running};
use crate::lab::{A_ADDRESSES, B_ADDRESSES, Lab, LabError, Place, run};
use crate::memory::thousands;
use crate::peers::daemon::{Daemon, Scratch};
use crate::peers::sets::rule_words;
use crate::{peers, tables};

const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";
const DAEMON: &str = "/usr/lib/openvswitch-switch/ovs-vswitchd";

/// What a port is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Port {
    AfXdp,
    /// What it falls back to without AF_XDP.
    AfPacket,
}

/// Open vSwitch, and so many rules; 0 for routes alone.
#[derive(Clone, Debug)]
pub struct OpenVswitch {
    pub port: Port,
    pub rules: usize,
    pub is_tracking: bool,
    /// Where what it says is kept.
    pub out: PathBuf,
}

impl Forwarder for OpenVswitch {
    fn name(&self) -> String {
        let port = if self.port == Port::AfXdp { "AF_XDP" } else { "AF_PACKET" };
        let rules = if self.rules > 0 { format!("{} rules", thousands(self.rules)) } else { "routes only".to_owned() };
        let tracking = if self.is_tracking { ", conntrack" } else { "" };
        format!("Open vSwitch, {port}, {rules}{tracking}")
    }

    fn start<'lab>(&self, lab: &'lab Lab) -> Result<Box<dyn Running + 'lab>, LabError> {
        let scratch = Scratch::new(lab, "ovs")?;
        let [database, socket] = ["conf.db", "db.sock"].map(|name| scratch.file(name));
        run("ovsdb-tool", &["create", &database, SCHEMA])?;
        let listen = format!("--remote=punix:{socket}");
        let control = format!("--unixctl={}", scratch.file("ovsdb.ctl"));
        let mut server = Daemon::start(
            lab,
            &self.out,
            "ovsdb-server",
            &["ovsdb-server", &database, &listen, &control, "-vfile:off"],
        )?;
        server.wait_until("its socket", || PathBuf::from(&socket).exists())?;
        let at_database = format!("--db=unix:{socket}");
        let mask = format!("other_config:pmd-cpu-mask={:#x}", 1u64 << peers::worker_core());
        run("ovs-vsctl", &[&at_database, "--no-wait", "init", "--", "set", "Open_vSwitch", ".", &mask])?;
        let control = format!("--unixctl={}", scratch.file("vswitchd.ctl"));
        let connect = format!("unix:{socket}");
        // Its sockets for management stand where this variable says.
        let directory = format!("OVS_RUNDIR={}", scratch.path().display());
        let mut switch = Daemon::start(
            lab,
            &self.out,
            "ovs-vswitchd",
            &["env", &directory, DAEMON, &connect, &control, "-vconsole:info", "-vfile:off", "-vsyslog:off"],
        )?;
        let management = scratch.file("br0.mgmt");
        let mut command = vec![at_database.as_str(), "--no-wait", "add-br", "br0", "--", "set", "bridge", "br0"];
        command.extend(["datapath_type=netdev", "fail-mode=secure"]);
        for (near, number) in [("near-a", "1"), ("near-b", "2")] {
            command.extend(["--", "add-port", "br0", near, "--", "set", "interface", near]);
            command.push(if number == "1" { "ofport_request=1" } else { "ofport_request=2" });
            if self.port == Port::AfXdp {
                command.extend(["type=afxdp", "options:xdp-mode=native"]);
            }
        }
        run("ovs-vsctl", &command)?;
        switch.wait_until("its bridge", || PathBuf::from(&management).exists())?;
        let flows = scratch.write("flows", &self.flows())?;
        run("ovs-ofctl", &["add-flows", &management, &flows])?;
        let running = AtWork { lab, switch: Some(switch), server: Some(server), _scratch: scratch };
        // A port that could not be opened is told here and not in the answer to the command.
        let said = |running: &AtWork| running.switch.as_ref().map(Daemon::said).unwrap_or_default();
        if let Some(line) =
            said(&running).lines().find(|line| line.contains("could not") || line.contains("failed to set up"))
        {
            return Err(LabError::Peer(line.to_owned()));
        }
        if self.is_tracking {
            peers::finish_checksums(lab, true)?;
            let greeted = peers::greet(lab);
            peers::finish_checksums(lab, false)?;
            greeted?;
        }
        Ok(Box::new(running))
    }
}

impl OpenVswitch {
    fn flows(&self) -> String {
        let mut text = String::new();
        let mut add = |line: String| {
            text.push_str(&line);
            text.push('\n');
        };
        let after = if self.rules > 0 { 2 } else { 3 };
        if self.is_tracking {
            add("table=0,ip,actions=ct(table=1)".to_owned());
            add("table=1,priority=20,ct_state=+trk+est,ip,actions=goto_table:3".to_owned());
            add("table=1,priority=20,ct_state=+trk+inv,ip,actions=drop".to_owned());
            add(format!("table=1,priority=10,ct_state=+trk+new,ip,actions=goto_table:{after}"));
        } else {
            add(format!("table=0,ip,actions=goto_table:{after}"));
        }
        let allow = if self.is_tracking { "ct(commit),goto_table:3" } else { "goto_table:3" };
        if self.rules > 0 {
            for (number, rule) in tables::policy(self.rules).blocks[0].iter().enumerate() {
                let Some([source, length, _, _, _, _, first, last, protocol, mask]) = rule_words(rule) else {
                    continue;
                };
                let mut fields = format!("table=2,priority={}", 65_000 - number);
                fields.push_str(match (protocol, mask) {
                    (_, 0) => ",ip",
                    (17, _) => ",udp",
                    _ => ",tcp",
                });
                if length > 0 {
                    fields.push_str(&format!(",nw_src={}/{length}", std::net::Ipv4Addr::from_bits(source)));
                }
                let action = if rule.action == Action::Allow { allow } else { "drop" };
                if (first, last) == (0, 65535) {
                    add(format!("{fields},actions={action}"));
                } else {
                    for port in first..=last {
                        add(format!("{fields},tp_dst={port},actions={action}"));
                    }
                }
            }
        } else if self.is_tracking {
            add("table=3,priority=30,ct_state=+new,ip,actions=ct(commit),resubmit(,4)".to_owned());
        }
        let router = mac_text(tables::ROUTER_MAC);
        // After a commit the same routes, once more: no table may be entered twice.
        for table in [3, 4] {
            for ((ipv4, ipv6), mac, port) in [(A_ADDRESSES, tables::A_MAC, 1), (B_ADDRESSES, tables::B_MAC, 2)] {
                let mac = mac_text(mac);
                let rewrite = format!("dec_ttl,set_field:{router}->eth_src,set_field:{mac}->eth_dst,output:{port}");
                add(format!("table={table},priority=10,ip,nw_dst={ipv4},actions={rewrite}"));
                add(format!("table={table},priority=10,ipv6,ipv6_dst={ipv6},actions={rewrite}"));
            }
        }
        // Rules are about IPv4.
        add("table=0,ipv6,actions=goto_table:3".to_owned());
        text
    }
}

struct AtWork<'lab> {
    lab: &'lab Lab,
    switch: Option<Daemon>,
    server: Option<Daemon>,
    _scratch: Scratch,
}

impl Running for AtWork<'_> {
    fn tasks(&self) -> Vec<Task> {
        self.switch.iter().flat_map(Daemon::tasks).collect()
    }

    fn stop(self: Box<Self>) -> Result<(), LabError> {
        Ok(())
    }
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.switch.take().into_iter().chain(self.server.take()).for_each(Daemon::stop);
        // Its own interfaces stay, and its program may.
        for link in ["br0", "ovs-netdev"] {
            let _ = run("ip", &["-n", &self.lab.name(Place::Router), "link", "del", link]);
        }
        peers::clear_programs(self.lab);
    }
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_a_flow_for_each_of_its_ports() {
        let switch = OpenVswitch { port: Port::AfXdp, rules: 10, is_tracking: true, out: PathBuf::new() };
        let flows = switch.flows();
        assert_eq!(flows.lines().filter(|line| line.starts_with("table=2")).count(), 2 * 9 + 1);
        assert!(flows.contains("table=2,priority=64991,ip,actions=ct(commit),goto_table:3"));
    }
}
