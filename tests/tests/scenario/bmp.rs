//! A BMP station hears what a BGP peer says, before rules, whenever it comes and goes.
//!
//! ```text
//!     router ──up0── far: BIRD, and a station that is read by somebody else's decoder
//! ```

use std::collections::BTreeSet;
use std::io::Read;
use std::net::{IpAddr, TcpListener, TcpStream};
use std::time::Duration;

use bgpkit_parser::bmp::messages::BmpMessageBody;
use bgpkit_parser::models::BgpMessage;
use bgpkit_parser::parser::bmp::parse_bmp_msg;
use serde_json::Value;
use tests::bgp::ours::{self, Session};
use tests::bgp::{Announced, Kind, Neighbour, Peer, Speaker};
use tests::daemon::Daemon;
use tests::topology::Topology;
use tests::wait;

use crate::{FAR, NODE, TWO_AND_FAR, ip};

const OTHER: u32 = 65001;
const STATION: &str = "192.0.2.2:11019";
const SOON: Duration = tests::daemon::SOON;

/// One connection of the router, and what was heard on it.
struct Station {
    stream: TcpStream,
    unread: Vec<u8>,
    node: Option<String>,
    up: BTreeSet<IpAddr>,
    prefixes: BTreeSet<String>,
    ends: usize,
    is_over: bool,
}

impl Station {
    fn accept(listener: &TcpListener) -> Station {
        let (stream, _) = wait::until("the router to connect", SOON, || listener.accept().ok());
        stream.set_nonblocking(true).unwrap();
        let (up, prefixes) = (BTreeSet::new(), BTreeSet::new());
        Station { stream, unread: Vec::new(), node: None, up, prefixes, ends: 0, is_over: false }
    }

    /// Reads what is there.
    fn hear(&mut self) -> &Station {
        let mut buffer = [0; 65536];
        while let Ok(count @ 1..) = self.stream.read(&mut buffer) {
            self.unread.extend(&buffer[..count]);
        }
        while let Some(length) = self.unread.get(1..5) {
            let length = u32::from_be_bytes(length.try_into().unwrap()) as usize;
            if self.unread.len() < length {
                break;
            }
            let message: Vec<u8> = self.unread.drain(..length).collect();
            self.message(message);
        }
        self
    }

    fn message(&mut self, message: Vec<u8>) {
        let read = parse_bmp_msg(&mut message.into()).unwrap();
        let peer = read.per_peer_header.map(|header| header.peer_ip);
        match read.message_body {
            BmpMessageBody::InitiationMessage(first) => {
                self.node = first.tlvs.iter().map(|tlv| tlv.info.clone()).find(|text| text == "router");
            }
            BmpMessageBody::PeerUpNotification(_) => drop(self.up.insert(peer.unwrap())),
            BmpMessageBody::PeerDownNotification(_) => {
                assert!(self.up.remove(&peer.unwrap()));
                self.prefixes.clear();
            }
            BmpMessageBody::RouteMonitoring(route) if route.is_end_of_rib() => self.ends += 1,
            BmpMessageBody::RouteMonitoring(route) => {
                let BgpMessage::Update(update) = route.bgp_message else { panic!("an UPDATE") };
                assert!(self.up.contains(&peer.unwrap()));
                let (reach, unreach) =
                    (update.attributes.get_reachable_nlri(), update.attributes.get_unreachable_nlri());
                let gone = unreach.map_or(&[][..], |nlri| &nlri.prefixes).iter().chain(&update.withdrawn_prefixes);
                gone.for_each(|found| _ = self.prefixes.remove(&found.prefix.to_string()));
                let come = reach.map_or(&[][..], |nlri| &nlri.prefixes).iter().chain(&update.announced_prefixes);
                self.prefixes.extend(come.map(|found| found.prefix.to_string()));
            }
            BmpMessageBody::TerminationMessage(_) => self.is_over = true,
            BmpMessageBody::StatsReport(_) => {}
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn until(&mut self, what: &str, is_so: impl Fn(&Station) -> bool) {
        wait::until_true(what, SOON, || is_so(self.hear()));
    }
}

/// What the command line says that BIRD has said.
fn received(daemon: &Daemon) -> BTreeSet<String> {
    let text = daemon.cli(&["bgp", "neighbor", FAR[0], "received", "-o", "json"]);
    let routes: Vec<Value> = serde_json::from_str(&text).unwrap();
    routes.iter().map(|route| route["prefix"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_station_hears_what_a_peer_says() {
    let Some(topology) = Topology::up("bmp", TWO_AND_FAR) else { return };
    let far = topology.at("far");
    let listen = || {
        let listener = far.within(|| TcpListener::bind(STATION).unwrap());
        listener.set_nonblocking(true).unwrap();
        listener
    };
    let listener = listen();
    let daemon = Daemon::start(&topology, &["--bmp-station", STATION]);
    let wide = Announced { next_hop: Some(ip(FAR[1])), ..Announced::new("fd01::/64") };
    let routes = vec![Announced::new("10.1.0.0/16"), Announced::new("10.2.0.0/16"), wide];
    let peer = Peer::new(NODE[0], ours::AS_NUMBER);
    let mut speaker = Speaker { peers: vec![peer], routes, ..Speaker::new(OTHER, FAR[0]) };
    let bird = Neighbour::start(Kind::Bird, &far, &topology.folder(), &speaker);
    // One route is not taken, and the station hears of it all the same.
    let mut session = Session::new(FAR[0], OTHER);
    session.annotations.push(("families", "4 6"));
    session.spec.push("filters: [only]");
    daemon.apply(
        "apiVersion: projectcalico.org/v3\nkind: BGPFilter\nmetadata: { name: only }\n\
         spec: { importV4: [{ cidr: 10.2.0.0/16, matchOperator: In, action: Reject }] }\n",
    );
    daemon.apply(&ours::manifests(&[session], ""));
    ours::until_established(&daemon, FAR[0]);

    // What happens while it is there.
    let mut station = Station::accept(&listener);
    station.until("three routes of a peer", |station| station.prefixes.len() == 3 && station.ends > 0);
    assert_eq!(station.prefixes, received(&daemon));
    assert_eq!((station.node.as_deref(), &station.up), (Some("router"), &BTreeSet::from([ip(FAR[0])])));
    speaker.routes.remove(0);
    bird.configure(&speaker);
    station.until("a route to be gone", |station| station.prefixes.len() == 2);
    assert_eq!(station.prefixes, received(&daemon));

    // What was there before it came back.
    drop(station);
    let mut station = Station::accept(&listener);
    station.until("the dump", |station| station.ends == 2);
    assert_eq!(station.prefixes, received(&daemon));
    assert!(station.prefixes.contains("10.2.0.0/16"), "what rules refuse too");
    let summary: Value = serde_json::from_str(&daemon.cli(&["bgp", "summary", "-o", "json"])).unwrap();
    assert_eq!(summary["station"]["isConnected"], Value::Bool(true), "{summary}");

    // A session that ends, and the router itself.
    daemon.cli(&["bgp", "disable", FAR[0]]);
    station.until("the end of the session", |station| station.up.is_empty());
    daemon.cli(&["bgp", "enable", FAR[0]]);
    ours::until_established(&daemon, FAR[0]);
    station.until("the session again", |station| station.prefixes.len() == 2);
    daemon.terminate();
    station.until("the last word", |station| station.is_over);
}
