//! TCP of real stacks: bulk transfers both ways, in both families, whatever the endpoint's stack leaves undone.
//!
//! ```text
//!     web (MTU 1500 | 9000, offload off | left on) ── router ── client, far
//! ```

use std::time::Duration;

use tests::daemon::Daemon;
use tests::talk::until_reachable;
use tests::topology::{Machine, Topology, said};
use tests::wait;

use crate::{FAR, WEB, ip, two_and_far_with};

/// Far below what passes here on a bad day, far above what a connection carries whose packets are dropped.
pub const LEAST: f64 = 20e6;

/// Bits per second that arrived.
pub fn iperf(from: &Machine, to: &str, reverse: &str) -> f64 {
    let line = format!("iperf3 -c {to} -t 1 -J --connect-timeout 2000 {reverse}");
    wait::until_ok(&line, Duration::from_secs(20), || {
        let text = said(&from.attempt(&line));
        let answer: serde_json::Value = serde_json::from_str(&text).map_err(|_| text.clone())?;
        answer["end"]["sum_received"]["bits_per_second"].as_f64().ok_or(text)
    })
}

fn story(name: &str, mtu: u32, offload: &str) {
    let Some(topology) = Topology::up(name, &two_and_far_with(mtu, &format!(", offload: {offload}"))) else { return };
    // As the lab made them.
    let daemon = Daemon::start(&topology, &["--endpoint-offload", "leave"]);
    let (web, client, far) = (topology.at("web"), topology.at("client"), topology.at("far"));
    for (to, addresses) in [(&web, WEB), (&far, FAR)] {
        let _server = to.start("iperf3 -s");
        for address in addresses {
            until_reachable(&client, ip(address));
            for reverse in ["", "-R"] {
                let rate = iperf(&client, address, reverse);
                assert!(
                    rate > LEAST,
                    "{rate} bit/s between client and {address} {reverse}, MTU {mtu}, offload {offload}"
                );
            }
        }
    }
    for machine in [&web, &client, &far] {
        assert_eq!(machine.counter("TcpInCsumErrors"), 0, "at {}", machine.namespace());
    }
    if mtu > 1500 {
        // A full packet takes several frames here, and arrives.
        let size = mtu - 28;
        client.run(&format!("ping -n -c 2 -i 0.1 -W 2 -M do -s {size} {}", WEB[0]));
    }
    drop(daemon);
}

#[test]
fn partial_checksums_at_mtu_1500() {
    story("partial", 1500, "leave");
}

#[test]
fn partial_checksums_at_mtu_9000() {
    story("jumbo-partial", 9000, "leave");
}

#[test]
fn whole_checksums_at_mtu_1500() {
    story("whole", 1500, "off");
}

#[test]
fn whole_checksums_at_mtu_9000() {
    story("jumbo-whole", 9000, "off");
}
