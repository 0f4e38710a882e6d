//! Two workers: what one receives may leave by an interface of the other, and interfaces change hands.
//!
//! ```text
//!     web ── worker 0 ══ hand-off ══ worker 1 ── client
//! ```

use control::http::views::FlowView;
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

/// Moved to and fro while a connection is open and datagrams are under way: the connection goes on, policy is not asked anew,
/// and what is lost is counted.
#[test]
fn an_endpoint_changes_worker_while_it_talks() {
    let Some(topology) = Topology::up("rehome", TWO_AND_FAR) else { return };
    let daemon = Daemon::start(&topology, &["--workers", "0,1"]);
    let (web, client) = (topology.at("web"), topology.at("client"));
    let address = ip(WEB[0]);
    until_reachable(&client, address);
    let service = Service::start(&web, address, 0);
    let mut connection = until_connected(&client, service.address);
    echo(&mut connection, 1 << 16).unwrap();
    let owner = |name: &str| daemon.interface(name).unwrap().queues[0].worker;
    for _ in 0..3 {
        let from = owner("caliweb");
        let to = (1 - from).to_string();
        let said = daemon.cli(&["worker", "move", "caliweb", &to]);
        assert!(said.contains(&format!("caliweb moved from worker {from} to worker {to}")), "{said}");
        println!("{}", said.trim());
        assert_eq!(owner("caliweb").to_string(), to);
        echo(&mut connection, 1 << 16).unwrap();
        udp(&client, &web, address, 500).unwrap();
    }
    let flows: Vec<FlowView> = daemon.show("flows");
    let port = service.address.port();
    let tcp: Vec<_> =
        flows.iter().filter(|flow| flow.protocol == "tcp" && flow.destination_port == Some(port)).collect();
    assert_eq!(tcp.len(), 1, "one flow from beginning to end: {tcp:?}");
    // Asked for something that cannot be, nothing changes.
    for (interface, worker, reason) in [
        ("caliweb", "7", "found 2 worker(s)"),
        ("vrouter-fp", "1", "every worker has a queue of it"),
        ("calinone", "1", "no such interface is attached"),
    ] {
        let output = daemon.attempt(&["worker", "move", interface, worker]);
        assert!(!output.status.success());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(reason), "{said}");
    }
    echo(&mut connection, 1 << 16).unwrap();
}
