//! Others beside ours, in the same run: DPDK's tables in memory, and other forwarders in the same topology.
//!
//! | file | what it holds |
//! |---|---|
//! | `sets.rs` | routes, rules and keys that both sides are given |
//! | `dpdk_tables.rs` | the program over DPDK's tables: compiled, started, asked |
//! | `memory.rs` | our tables beside DPDK's |
//! | `layout.rs`, `firewall.rs` | policies as Calico lays them out for the kernel; the kernel with them |
//! | `ovs.rs`, `dpdk.rs` | Open vSwitch and DPDK's l3fwd on their AF_XDP ports |
//! | `daemon.rs` | programs of others in the router's namespace |
//! | `stream.rs` | one TCP connection through ours, the kernel and those on AF_XDP |
//! | `compare.rs` | all of them and ours in turn: packets, TCP, round trips; one table |
//!
//! Nothing of theirs is part of this program or of its repository: they are Debian's packages, which `make peers`
//! installs. What is not installed or does not start is a line that says so, and never an error.

pub mod compare;
pub mod daemon;
pub mod dpdk;
pub mod dpdk_tables;
pub mod firewall;
pub mod layout;
pub mod memory;
pub mod ovs;
pub mod sets;
pub mod stream;

use std::net::UdpSocket;
use std::path::Path;
use std::time::Duration;

use dpdk::L3fwd;
use firewall::{Firewall, Language};
use layout::Tracking;
use ovs::{OpenVswitch, Port};

use crate::cpu::last_core;
use crate::forwarder::Forwarder;
use crate::frames::{DESTINATION_PORT, FIRST_PORT};
use crate::lab::{A_ADDRESSES, B_ADDRESSES, Lab, LabError, Place, run, system};

/// Flows that are known to who tracks them before they are measured.
pub const FLOWS: u16 = 64;
const GREETING_LIMIT: Duration = Duration::from_millis(200);
const GREETINGS: u8 = 5;

/// The kernel in both of Calico's layouts, with up to so many policies.
pub fn firewalls(most: usize) -> Vec<Box<dyn Forwarder>> {
    let mut all: Vec<Box<dyn Forwarder>> = Vec::new();
    for language in [Language::Iptables, Language::Nftables] {
        for tracking in [Tracking::Established, Tracking::Untracked] {
            for policies in [10, 100, 1000, 10_000].into_iter().filter(|count| *count <= most) {
                all.push(Box::new(Firewall { language, policies, tracking }));
            }
        }
    }
    all
}

/// Those that forward in user space, with up to so many rules. What they say is kept in `out`.
pub fn switches(most: usize, out: &Path) -> Vec<Box<dyn Forwarder>> {
    let switch = |port, rules, is_tracking| OpenVswitch { port, rules, is_tracking, out: out.to_owned() };
    let mut all: Vec<Box<dyn Forwarder>> = vec![
        Box::new(switch(Port::AfXdp, 0, false)),
        Box::new(switch(Port::AfXdp, most, false)),
        Box::new(switch(Port::AfXdp, most.min(1000), true)),
        Box::new(switch(Port::AfPacket, 0, false)),
    ];
    for rules in [0, 100, 1000, 10_000].into_iter().filter(|count| *count <= most) {
        all.push(Box::new(L3fwd { rules, out: out.to_owned() }));
    }
    all
}

/// Lets a packet of each flow that will be sent from A to B be answered, so that who tracks connections takes what follows for
/// established: a flow that was never answered is a new one for ever. B answers without having heard, because whoever
/// measures may already keep everything from it.
pub(crate) fn greet(lab: &Lab) -> Result<(), LabError> {
    let bind = |place, (address, port): (&str, u16)| {
        let socket = lab.within(place, || UdpSocket::bind((address, port)))?;
        let socket = socket.map_err(system(format!("bind to {address}, port {port}")))?;
        socket.set_read_timeout(Some(GREETING_LIMIT)).map_err(system("limit the wait for a packet"))?;
        Ok::<_, LabError>(socket)
    };
    let far = bind(Place::B, (B_ADDRESSES.0, DESTINATION_PORT))?;
    for port in FIRST_PORT..FIRST_PORT + FLOWS {
        let near = bind(Place::A, (A_ADDRESSES.0, port))?;
        let mut buffer = [0; 16];
        let is_answered = (0..GREETINGS).any(|_| {
            let sent = near.send_to(b"hello", (B_ADDRESSES.0, DESTINATION_PORT));
            let answered = far.send_to(b"hello", (A_ADDRESSES.0, port));
            sent.is_ok() && answered.is_ok() && near.recv(&mut buffer).is_ok()
        });
        if !is_answered {
            return Err(LabError::Peer(format!("no packet from B came to A's port {port}")));
        }
    }
    Ok(())
}

/// Lets the endpoints' stacks finish checksums themselves, or leave them to hardware that is not there.
pub(crate) fn finish_checksums(lab: &Lab, is_on: bool) -> Result<(), LabError> {
    for place in [Place::A, Place::B] {
        let offload = if is_on { "off" } else { "on" };
        run("ip", &["netns", "exec", &lab.name(place), "ethtool", "-K", "end0", "tx", offload])?;
    }
    Ok(())
}

/// The core that a forwarder with a thread of its own runs on: the last one.
pub(crate) fn worker_core() -> usize {
    last_core().map_or(0, |core| core.id)
}

/// Takes whatever program is still there off the near interfaces, and leaves them as the lab made them.
pub(crate) fn clear_programs(lab: &Lab) {
    let router = lab.name(Place::Router);
    for near in ["near-a", "near-b"] {
        for command in [["xdp", "off"], ["xdpgeneric", "off"], ["promisc", "off"]] {
            // There may be none.
            let _ = run("ip", &["-n", &router, "link", "set", "dev", near, command[0], command[1]]);
        }
    }
}
