//! Two workers: what one receives may leave by an interface of the other.
//!
//! ```text
//!     web ── worker 0 ══ hand-off ══ worker 1 ── client
//! ```

use tests::daemon::Daemon;
use tests::talk::{Service, echo, udp, until_connected, until_reachable};
use tests::topology::Topology;

use crate::{CLIENT, FAR, TWO_AND_FAR, WEB, ip};

#[test]
fn packets_change_threads_and_arrive() {
    let Some(topology) = Topology::up("workers", TWO_AND_FAR) else { return };
    let daemon = Daemon::start(&topology, &["--workers", "0,1"]);
    let machines = [("web", WEB), ("client", CLIENT), ("far", FAR)];
    for (from, _) in machines {
        for (to, addresses) in machines {
            for address in addresses.iter().filter(|_| from != to) {
                let (from, to) = (topology.at(from), topology.at(to));
                until_reachable(&from, ip(address));
                let service = Service::start(&to, ip(address), 0);
                echo(&mut until_connected(&from, service.address), 1 << 20).unwrap();
                udp(&from, &to, ip(address), 4000).unwrap();
            }
        }
    }
    let owner = |name: &str| daemon.interface(name).unwrap().queues[0].worker;
    assert_ne!(owner("caliweb"), owner("caliclient"), "the endpoints are spread");
    let workers = daemon.workers();
    assert!(workers.iter().all(|worker| worker.handed_off > 0), "{workers:?}");
    assert_eq!(workers.iter().map(|worker| worker.core).collect::<Vec<_>>(), [Some(0), Some(1)]);
}
