//! 64 endpoints on one worker, each talking to the next.
//!
//! ```text
//!     e0 ─▶ e1 ─▶ e2 ─▶ … ─▶ e63 ─▶ e0
//! ```

use std::fmt::Write as _;

use tests::daemon::Daemon;
use tests::talk::{udp, until_reachable};
use tests::topology::Topology;

use crate::ip;

const COUNT: usize = 64;

#[test]
fn sixty_four_endpoints_on_one_worker() {
    let mut description = String::from("endpoints:\n");
    for number in 0..COUNT {
        writeln!(description, "  - {{ name: e{number}, addresses: [10.65.1.{number}, \"fd65::1:{number}\"] }}")
            .unwrap();
    }
    let Some(topology) = Topology::up("many", &description) else { return };
    let daemon = Daemon::start(&topology, &["--workers", "0"]);
    for number in 0..COUNT {
        let next = (number + 1) % COUNT;
        let (from, to) = (topology.at(&format!("e{number}")), topology.at(&format!("e{next}")));
        for address in [format!("10.65.1.{next}"), format!("fd65::1:{next}")] {
            until_reachable(&from, ip(&address));
            udp(&from, &to, ip(&address), 1200).unwrap();
        }
    }
    let workers = daemon.workers();
    assert_eq!(workers.len(), 1);
    assert!(workers[0].sent >= 4 * 2 * COUNT as u64, "{workers:?}");
}
