//! What the daemon of a busy node holds in memory, part by part: 100 endpoints, 10,000 routes, 1,000 policies, 512,000
//! flows, made by packets.
//!
//! ```text
//!     namespace of the node                                     namespace of the ends
//!     vrouter run ── cali0 … cali49  ═══════════════════════════ end0 … end49     each has an address and sends
//!                 ── cali50 … cali99 ═══════════════════════════ end50 … end99    have none, and receive
//!                 ── up0 (10,000 routes by 100 next hops) ══════ far0
//! ```
//!
//! Endpoint n sends to endpoint n + 50, from one port to many. The daemon says itself what its parts take (`vrouter show
//! memory`), and the kernel what it takes in all.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cluster::{self, Place};
use crate::lab::{self, LabError, system};
use crate::memory::thousands;
use crate::report::{Measurement, Report};
use crate::{Error, Scale};

const MOST_FLOWS: usize = 512_000;
const SHARE_IPV6: usize = 10;
const MIB: f64 = (1 << 20) as f64;
/// Flows end after a minute without packets; until then they have to be there.
const PATIENCE: Duration = Duration::from_secs(45);
/// Nodes that routes lead to, and the last part of the first one's address.
const NEXT_HOPS: usize = 100;
const FIRST_HOP: usize = 2;
const UPLINK: &str = "up0";
/// First port that flows go to.
const FIRST_PORT: u16 = 1024;

pub fn measure(scale: &Scale, report: &mut Report) -> Result<(), Error> {
    let Some(program) = cluster::program() else {
        report.note("resident: no vrouter beside this program; build it first: cargo build --release -p vrouter");
        return Ok(());
    };
    let node = Node {
        endpoints: scale.cluster.2,
        routes: scale.routes / 10,
        policies: scale.rules / 10,
        flows: scale.flows.min(MOST_FLOWS),
    };
    let place = Place::new("resident")?;
    let ends = lab::namespace("ends")?;
    let result = node.measure(&place, &ends, &program, report);
    lab::delete_namespace(&ends);
    result
}

#[derive(Clone, Copy)]
struct Node {
    endpoints: usize,
    routes: usize,
    policies: usize,
    flows: usize,
}

impl Node {
    fn measure(&self, place: &Place, ends: &str, program: &std::path::Path, report: &mut Report) -> Result<(), Error> {
        place.batch(&place.namespace, &self.node_side(ends))?;
        place.batch(ends, &self.far_side())?;
        let mut daemon = place.start(program, &["--uplinks", UPLINK])?;
        let endpoints = (0..self.endpoints).map(|position| cluster::endpoint(position, true));
        let policies = (0..self.policies).map(|position| cluster::policy(position, 0)).chain([allow_udp()]);
        place.apply(&endpoints.collect::<Vec<_>>())?;
        place.apply(&policies.collect::<Vec<_>>())?;
        // As after any start: what the first life has allocated and freed is no part of the figure.
        daemon.stop()?;
        let kernel_before = kernel_memory();
        let mut daemon = place.start(program, &["--uplinks", UPLINK])?;
        place.await_status("routes", |routes| routes >= self.routes as u64)?;
        let start = Instant::now();
        let flows = self.fill(place, ends)?;
        report.note(&format!(
            "{} endpoints, {} routes, {} policies; filled with {} flows in {:.1} s",
            self.endpoints,
            thousands(self.routes),
            thousands(self.policies),
            thousands(flows),
            start.elapsed().as_secs_f64()
        ));
        // By what was asked for, so that runs can be compared.
        let name = format!("{} endpoints, {} flows", self.endpoints, thousands(self.flows));
        for part in place.shown("memory")?.as_array().into_iter().flatten() {
            let of = |field: &str| part[field].as_f64().map_or(f64::NAN, |bytes| bytes / MIB);
            report.add(Measurement {
                group: "resident memory",
                name: format!("{name}: {}", part["part"].as_str().unwrap_or_default()),
                frame_mode: "copy",
                numbers: vec![("MiB", of("resident_bytes")), ("MiB allocated", of("allocated_bytes"))],
            })?;
        }
        report.add(Measurement {
            group: "resident memory",
            name: format!("{name}: by the kernel"),
            frame_mode: "copy",
            numbers: vec![("MiB", daemon.resident()? / MIB)],
        })?;
        let kernel = (kernel_memory() - kernel_before) / MIB;
        report.note(&format!(
            "the kernel has {kernel:.0} MiB more in all than before the daemon, others' share included"
        ));
        daemon.stop()?;
        Ok(())
    }

    /// Interfaces and routes of the node.
    fn node_side(&self, ends: &str) -> String {
        let mut lines = String::new();
        for number in 0..self.endpoints {
            let _ = writeln!(lines, "link add cali{number} type veth peer name end{number} netns {ends}");
            let _ = writeln!(lines, "link set cali{number} up");
        }
        let _ = writeln!(lines, "link add {UPLINK} type veth peer name far0 netns {ends}");
        let _ = writeln!(lines, "link set {UPLINK} up");
        let _ = writeln!(lines, "addr add 192.0.2.1/24 dev {UPLINK}");
        let _ = writeln!(lines, "addr add 2001:db8::1/64 dev {UPLINK} nodad");
        for next_hop in FIRST_HOP..FIRST_HOP + NEXT_HOPS {
            let mac = cluster::mac(next_hop);
            let _ = writeln!(lines, "neigh add 192.0.2.{next_hop} lladdr {mac} dev {UPLINK} nud permanent");
            let _ = writeln!(lines, "neigh add 2001:db8::{next_hop:x} lladdr {mac} dev {UPLINK} nud permanent");
        }
        // Neighbouring prefixes lead to different nodes: nothing may be merged.
        let next_hop = |number: usize| FIRST_HOP + number * 7 % NEXT_HOPS;
        let ipv6 = self.routes / SHARE_IPV6;
        for number in 0..self.routes - ipv6 {
            // Blocks of 64 addresses, as Calico gives them to nodes.
            let block = Ipv4Addr::from_bits(0x0a80_0000 + number as u32 * 64);
            let _ = writeln!(lines, "route add {block}/26 via 192.0.2.{} dev {UPLINK}", next_hop(number));
        }
        for number in 0..ipv6 {
            let prefix = format!("fd80:0:0:{number:x}::/64");
            let _ = writeln!(lines, "route add {prefix} via 2001:db8::{:x} dev {UPLINK}", next_hop(number));
        }
        lines
    }

    /// Addresses of those that send, and the ways to those that receive.
    fn far_side(&self) -> String {
        let mut lines = "link set far0 up\n".to_owned();
        let pairs = self.endpoints / 2;
        for number in 0..self.endpoints {
            let _ = writeln!(lines, "link set end{number} address {}", cluster::mac(number));
            let _ = writeln!(lines, "link set end{number} up");
        }
        for number in 0..pairs {
            let (from, to) = (cluster::address(number), cluster::address(number + pairs));
            let _ = writeln!(lines, "addr add {from}/32 dev end{number}");
            let _ = writeln!(lines, "neigh add 169.254.1.1 lladdr ee:ee:ee:ee:ee:ee dev end{number} nud permanent");
            let _ = writeln!(lines, "route add {to}/32 via 169.254.1.1 dev end{number} onlink src {from}");
        }
        lines
    }

    /// Sends packets until there are the flows; those that were lost on the way are sent again. How many there are then.
    fn fill(&self, place: &Place, ends: &str) -> Result<usize, LabError> {
        let start = Instant::now();
        loop {
            thread::scope(|scope| {
                let sender = scope.spawn(|| {
                    lab::enter(ends)?;
                    self.send()
                });
                sender.join().map_err(|_| LabError::Panicked)?
            })?;
            // Workers say how many they have every tenth of a second.
            thread::sleep(Duration::from_millis(300));
            let flows = place.shown("status")?["flows"].as_u64().unwrap_or(0) as usize;
            // A worker keeps some entries free.
            if flows + flows / 100 >= self.flows || start.elapsed() > PATIENCE {
                return Ok(flows);
            }
        }
    }

    /// A packet of every flow, from the calling thread's namespace.
    fn send(&self) -> Result<(), LabError> {
        let pairs = self.endpoints / 2;
        let failed = || system("send a packet of a flow");
        let sockets: Vec<UdpSocket> = (0..pairs)
            .map(|number| UdpSocket::bind((cluster::address(number), 0)))
            .collect::<Result<_, _>>()
            .map_err(system("open a socket"))?;
        // As many ports as each pair needs, in turn, so that no queue gets a flood.
        for port in 0..(self.flows / pairs.max(1)) as u16 {
            for (number, socket) in sockets.iter().enumerate() {
                let to = (cluster::address(number + pairs), FIRST_PORT + port);
                match socket.send_to(&[0; 18], to) {
                    Err(error) if error.raw_os_error() != Some(105) => return Err(failed()(error)),
                    // No buffer at present: it is sent again if it is missing.
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

/// Stands before all others, so that every flow is allowed.
fn allow_udp() -> Value {
    json!({
        "apiVersion": "projectcalico.org/v3",
        "kind": "GlobalNetworkPolicy",
        "metadata": {"name": "allow-udp"},
        "spec": {
            "order": -1,
            "types": ["Ingress", "Egress"],
            "ingress": [{"action": "Allow", "protocol": "UDP"}],
            "egress": [{"action": "Allow"}],
        },
    })
}

/// What the kernel has for itself: what it keeps for sockets is among it. In bytes.
fn kernel_memory() -> f64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let of = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap_or(0.0) * 1024.0
    };
    of("SUnreclaim") + of("VmallocUsed") + of("Percpu")
}
