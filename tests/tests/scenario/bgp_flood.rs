//! Peers that do harm without a wrong byte: whoever else has a session does not notice.
//!
//! ```text
//!     far (floods from .10 and on) ──up0── router (BIRD or ours) ──up1── tor (BIRD)
//! ```

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use config::net::{Cidr, IpVersion};
use tests::bgp::flood::{self, Silent};
use tests::bgp::message::{Open, Update};
use tests::bgp::neighbour::SOON;
use tests::bgp::ours::{self, Session};
use tests::bgp::raw::Raw;
use tests::bgp::{Announced, Kind, Neighbour, Peer, Speaker};
use tests::daemon::Daemon;
use tests::topology::Topology;
use tests::wait;

use crate::{CHAIN, ip};

pub const DEVICE: &str = "192.0.2.1";
pub const BEHIND: [&str; 2] = ["172.31.1.1", "172.31.1.2"];
/// Of the device and its inner peers; of the outer peers; of the router behind.
pub const SYSTEMS: [u32; 3] = [64512, 65001, 65099];
/// Peers that the device knows: one that behaves, one that does not read, one that tells too much.
const GOOD: [u8; 4] = [192, 0, 2, 20];
const SLOW: [u8; 4] = [192, 0, 2, 21];
const LOUD: [u8; 4] = [192, 0, 2, 22];
/// Of the loud one's routes the device takes so many.
const LIMIT: u32 = 20_000;
const CONNECTIONS: usize = 10_000;
/// Of the router behind: what a slow reader has to be told.
const MANY: u32 = 20_000;

fn device() -> SocketAddr {
    SocketAddr::new(ip(DEVICE), 179)
}

fn address(of: [u8; 4]) -> IpAddr {
    IpAddr::from(of)
}

/// Far gets addresses, and tor a neighbour with many routes.
fn surroundings(topology: &Topology) -> Neighbour {
    for last in 10..=22 {
        topology.at("far").run(&format!("ip address add 192.0.2.{last}/24 dev eth0"));
    }
    let mut behind = Speaker::new(SYSTEMS[2], BEHIND[1]);
    behind.peers.push(Peer::new(BEHIND[0], SYSTEMS[0]));
    let routes = (0..MANY).map(|number| Cidr::host(IpAddr::from((0x0b00_0000 + number).to_be_bytes())));
    behind.routes = routes.map(|prefix| Announced { prefix, ..Announced::new("11.0.0.0/8") }).collect();
    Neighbour::start(Kind::Bird, &topology.at("tor"), &topology.folder(), &behind)
}

/// A session of a peer that the device knows.
fn session(topology: &Topology, of: [u8; 4]) -> Raw {
    let open = Open::new(SYSTEMS[1], of.into());
    wait::until_ok("a session", SOON, || Raw::establish(&topology.at("far"), address(of), device(), &open)).0
}

fn route(prefix: &str) -> Update {
    Update {
        prefixes: vec![Cidr::parse(prefix).unwrap()],
        next_hop: ip("192.0.2.2"),
        as_path: vec![SYSTEMS[1]],
        local_pref: None,
        communities: Vec::new(),
        two_octet_as: false,
        path: None,
    }
}

/// Everything, one after the other, to a device that is up.
fn harm(topology: &Topology, behind: &Neighbour) {
    behind.until_established(BEHIND[0]);
    let before = behind.session(BEHIND[0]);
    let far = topology.at("far");

    // Strangers, and one that the device knows, connect and say nothing.
    let strangers: Vec<IpAddr> = (10..20).map(|last| address([192, 0, 2, last])).collect();
    let silent = Silent::start(&far, &[&strangers[..], &[address(SLOW)]].concat(), device(), CONNECTIONS);
    flood::half_open(&far, strangers[0], device(), 1000);
    let mut good = session(topology, GOOD);
    good.send(&route("10.5.0.0/16").message());
    behind.until_learned("10.5.0.0/16");
    println!("of {CONNECTIONS} connections that say nothing {} are open", silent.open());
    drop(silent);

    // One does not read: what it is to be told waits, and nobody else does.
    let slow = session(topology, SLOW);
    socket2::SockRef::from(slow.stream()).set_recv_buffer_size(1024).unwrap();
    let mut loud = session(topology, LOUD);
    flood::tell(&mut loud, &route("10.128.0.0/32"), LIMIT * 2);
    wait::until_true("the loud one to be cut off", SOON, || loud.drain().is_err());
    good.send(&route("10.6.0.0/16").message());
    behind.until_learned("10.6.0.0/16");
    wait::until_true("the loud one's routes to go", SOON, || {
        let routes = behind.routes(IpVersion::V4);
        routes.iter().filter(|route| route.from.is_some()).count() < 10
    });
    assert!(behind.session(BEHIND[0]).is_still(&before), "the session behind is another one");
    assert!(good.drain().is_ok());
}

#[test]
fn floods_harm_nobody_with_bird_as_the_device() {
    let Some(topology) = Topology::up("bgpflood", CHAIN) else { return };
    let mut speaker = Speaker::new(SYSTEMS[0], DEVICE);
    for of in [GOOD, SLOW, LOUD] {
        let peer = Peer::new(&address(of).to_string(), SYSTEMS[1]);
        let hold_time = Duration::from_secs(240);
        speaker.peers.push(Peer { is_passive: true, import_limit: Some(LIMIT), hold_time, ..peer });
    }
    speaker.peers.push(Peer::new(BEHIND[1], SYSTEMS[2]));
    let _device = Neighbour::start(Kind::Bird, &topology.node(), &topology.folder(), &speaker);
    harm(&topology, &surroundings(&topology));
}

#[test]
fn floods_harm_nobody() {
    let Some(topology) = Topology::up("bgpharm", CHAIN) else { return };
    let daemon = Daemon::start(&topology, &[]);
    let behind = surroundings(&topology);
    let open = |address: String, as_number| Session {
        spec: vec!["filters: [everything]", "sourceAddress: None"],
        annotations: vec![("max-prefixes", "20000")],
        ..Session::new(&address, as_number)
    };
    let mut sessions = vec![Session { annotations: Vec::new(), ..open(BEHIND[1].to_owned(), SYSTEMS[2]) }];
    sessions.extend([GOOD, SLOW, LOUD].map(|of| open(address(of).to_string(), SYSTEMS[1])));
    daemon.apply(&ours::manifests(&sessions, ""));
    harm(&topology, &behind);
}
