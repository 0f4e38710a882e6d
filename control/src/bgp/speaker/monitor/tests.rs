//! What a station has after it was told is what `bgp neighbor PEER received` says, whatever happened and whenever it came.

use std::net::{IpAddr, Ipv4Addr};

use bgpkit_parser::bmp::messages::{BmpMessageBody, PeerDownReason};
use bgpkit_parser::models::{AsnLength, BgpMessage, NetworkPrefix};
use bgpkit_parser::parser::bgp::messages::parse_bgp_message;
use bgpkit_parser::parser::bmp::parse_bmp_msg;
use config::net::Cidr;
use proptest::prelude::*;

use super::*;
use crate::bgp::attribute::{AsPath, Attributes};
use crate::bgp::message::{AddPath, Capabilities, Message, Notification, Open, Reachable};
use crate::bgp::session::{ConnectionId, Event as SessionEvent};
use crate::bgp::speaker::Event;
use crate::bgp::speaker::view::Which;
use crate::bgp::speaker_state::{Identity, PeerKey, PeerKind, PeerState, Restart, SpeakerState, Terms, Transport};

const OURS: u32 = 64512;
const THEIRS: u32 = 4_200_000_001;
const LOCAL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const SINCE_1970: Duration = Duration::from_secs(1_700_000_000);
/// Octets of a BMP message before the UPDATE of a peer.
const BEFORE_UPDATE: usize = 6 + 42;

fn peer(number: u8) -> PeerKey {
    PeerKey { address: Ipv4Addr::new(192, 0, 2, 10 + number).into(), port: 179 }
}

/// A speaker whose peers wait to be told what to say.
struct Stand {
    speaker: Speaker,
    now: Instant,
    connections: BTreeMap<PeerKey, ConnectionId>,
    codec: Codec,
    add_path: bool,
}

impl Stand {
    fn new(peers: u8, add_path: bool) -> Stand {
        let transport = Transport {
            local_address: None,
            local_as: OURS,
            remote_as: THEIRS,
            passive: true,
            password: None,
            ttl_security: None,
            hold_time: Duration::from_secs(90),
            keepalive_time: None,
            families: IpVersion::BOTH.to_vec(),
            add_path,
            restart: Restart { restart_time: Duration::from_secs(120), long_lived_time: Duration::ZERO },
            role: None,
            bfd: None,
        };
        let state = PeerState {
            name: String::new(),
            origin: String::new(),
            kind: PeerKind::Global,
            transport,
            terms: Terms::default(),
        };
        let identity = Identity {
            as_number: OURS,
            router_id: LOCAL,
            listen_port: 179,
            listen_addresses: Vec::new(),
            cluster_id: None,
            addresses: vec![LOCAL.into()],
        };
        let peers = (0..peers).map(|number| (peer(number), state.clone())).collect();
        let desired = SpeakerState { identity: Some(identity), peers, ..SpeakerState::default() };
        let now = Instant::now();
        let mut speaker = Speaker::new(7, false);
        speaker.monitor_by(Monitor::new("192.0.2.9:11019".parse().unwrap(), "node-1", now));
        speaker.handle(Event::Desired(Arc::new(desired)), now, &mut Vec::new());
        let open = open(0, add_path);
        let codec = Codec::agreed(&open, &open, false);
        Stand { speaker, now, connections: BTreeMap::new(), codec, add_path }
    }

    /// The peer connects, and the session is up.
    fn up(&mut self, number: u8) {
        let key = peer(number);
        let (local, remote) = ((LOCAL, 179).into(), (key.address, 40_000).into());
        let accepted = self.speaker.accept(local, remote, self.now, &mut Vec::new());
        self.connections.insert(key, accepted.unwrap().1);
        self.say(number, &Message::Open(open(number, self.add_path)));
        self.say(number, &Message::Keepalive);
        assert!(self.speaker.connection(&key).is_some());
    }

    fn say(&mut self, number: u8, message: &Message) {
        let mut bytes = Vec::new();
        self.codec.encode(message, &mut bytes);
        self.session(number, |connection| SessionEvent::Received { connection, bytes: &bytes });
    }

    /// The connection breaks.
    fn lose(&mut self, number: u8) {
        self.session(number, |connection| SessionEvent::Closed { connection, reason: "cut".to_owned() });
        self.connections.remove(&peer(number));
    }

    fn session<'a>(&mut self, number: u8, event: impl FnOnce(ConnectionId) -> SessionEvent<'a>) {
        let Some(connection) = self.connections.get(&peer(number)).copied() else { return };
        self.speaker.handle(Event::Session(peer(number), event(connection)), self.now, &mut Vec::new());
        self.speaker.settle();
    }

    fn announce(&mut self, number: u8, prefix: u8, path_id: u32, med: u32) {
        let nlri = self.nlri(prefix, path_id);
        let next_hop: IpAddr =
            if prefix.is_multiple_of(2) { peer(number).address } else { "2001:db8::9".parse().unwrap() };
        let attributes = Attributes {
            as_path: AsPath::sequence(vec![THEIRS, 65_000]),
            med: Some(med),
            ..Attributes::local(next_hop)
        };
        let reachable = vec![Reachable { attributes: Arc::new(attributes), nlri: vec![nlri] }];
        self.say(number, &Message::Update(Update { reachable, ..Update::default() }));
    }

    fn withdraw(&mut self, number: u8, prefix: u8, path_id: u32) {
        let withdrawn = vec![self.nlri(prefix, path_id)];
        self.say(number, &Message::Update(Update { withdrawn, ..Update::default() }));
    }

    fn nlri(&self, prefix: u8, path_id: u32) -> Nlri {
        let text =
            if prefix.is_multiple_of(2) { format!("10.{prefix}.0.0/16") } else { format!("2001:db8:{prefix}::/48") };
        Nlri { prefix: Cidr::parse(&text).unwrap(), path_id: if self.add_path { path_id } else { 0 } }
    }

    fn end_of_rib(&mut self, number: u8, family: IpVersion) {
        self.say(number, &Message::Update(Update { end_of_rib: Some(family), ..Update::default() }));
    }

    /// The station is there.
    fn connect(&mut self) -> Station {
        self.now += Duration::from_secs(60);
        self.handle_at_station(StationEvent::Timer);
        self.handle_at_station(StationEvent::Connected);
        Station { add_path: self.add_path, ..Station::default() }
    }

    fn handle_at_station(&mut self, event: StationEvent) -> Vec<Action> {
        let mut actions = Vec::new();
        self.speaker.station(event, self.now, SINCE_1970, &mut actions);
        actions
    }

    /// The station takes so many octets, or a message more.
    fn pull(&mut self, station: &mut Station, octets: usize) {
        let mut bytes = Vec::new();
        self.speaker.pull_for_station(octets, &mut bytes);
        station.read(&bytes);
    }

    fn pull_all(&mut self, station: &mut Station) {
        self.pull(station, usize::MAX);
        assert!(!self.speaker.has_for_station());
    }

    /// What the peers that are up have said, as the command line has it.
    fn received(&self) -> BTreeMap<IpAddr, Routes> {
        let up = self.connections.keys().map(|key| {
            let views = self.speaker.routes(*key, Which::Received, usize::MAX).unwrap();
            let routes = views.into_iter().filter(|view| !view.is_stale).map(|view| {
                let said = (view.next_hop, view.as_path, view.med);
                ((view.prefix.to_string(), if self.add_path { view.path_id } else { 0 }), said)
            });
            (key.address, routes.collect())
        });
        up.collect()
    }
}

fn open(number: u8, add_path: bool) -> Open {
    let both = |family| AddPath { family, send: true, receive: true };
    Open {
        as_number: THEIRS,
        hold_time: Duration::from_secs(90),
        router_id: Ipv4Addr::new(192, 0, 2, 10 + number),
        capabilities: Capabilities {
            families: IpVersion::BOTH.to_vec(),
            four_octet_as: true,
            add_path: if add_path { IpVersion::BOTH.map(both).to_vec() } else { Vec::new() },
            graceful_restart: Some(crate::bgp::message::GracefulRestart {
                restart_time: Duration::from_secs(120),
                families: IpVersion::BOTH.map(|family| (family, true)).to_vec(),
                ..Default::default()
            }),
            ..Capabilities::default()
        },
    }
}

/// Prefix and number of the path; next hop, path and MED.
type Routes = BTreeMap<(String, u32), (IpAddr, String, Option<u32>)>;

/// What a station makes of it, read by somebody else.
#[derive(Debug, Default)]
struct Station {
    add_path: bool,
    messages: usize,
    up: BTreeMap<IpAddr, Routes>,
    ends: Vec<IpAddr>,
    downs: Vec<PeerDownReason>,
    counted: usize,
    is_over: bool,
}

impl Station {
    fn read(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let length = u32::from_be_bytes(bytes[1..5].try_into().unwrap()) as usize;
            let (message, rest) = bytes.split_at(length);
            bytes = rest;
            assert!(!self.is_over, "nothing comes after the end");
            assert_eq!(self.messages == 0, message[5] == 4, "the first is the initiation");
            self.messages += 1;
            if message[5] == 0 {
                self.route(message);
            } else {
                self.other(message);
            }
        }
    }

    fn other(&mut self, message: &[u8]) {
        let read = parse_bmp_msg(&mut message.to_vec().into()).unwrap();
        let peer = read.per_peer_header.as_ref().map(|header| header.peer_ip);
        match read.message_body {
            BmpMessageBody::PeerUpNotification(up) => {
                assert_eq!((up.local_addr, up.local_port, up.remote_port), (LOCAL.into(), 179, 40_000));
                let (BgpMessage::Open(sent), BgpMessage::Open(received)) = (up.sent_open, up.received_open) else {
                    panic!("OPENs")
                };
                assert_eq!((sent.bgp_identifier, IpAddr::V4(received.bgp_identifier)), (LOCAL, peer.unwrap()));
                assert_eq!(read.per_peer_header.unwrap().peer_asn.to_u32(), THEIRS);
                assert_eq!(self.up.insert(peer.unwrap(), Routes::new()), None, "up once");
            }
            BmpMessageBody::PeerDownNotification(down) => {
                assert!(self.up.remove(&peer.unwrap()).is_some(), "down after up");
                self.downs.push(down.reason);
            }
            BmpMessageBody::StatsReport(_) => self.counted += 1,
            BmpMessageBody::TerminationMessage(_) => self.is_over = true,
            BmpMessageBody::InitiationMessage(_) => {}
            other => panic!("{other:?}"),
        }
    }

    fn route(&mut self, message: &[u8]) {
        // Its own reader of BMP knows nothing of numbers of paths.
        let header = &message[6..BEFORE_UPDATE];
        assert_eq!(header[1], 0, "an IPv4 peer, AS numbers of four octets, before rules");
        let peer = IpAddr::from(<[u8; 4]>::try_from(&header[22..26]).unwrap());
        let mut update = message[BEFORE_UPDATE..].to_vec().into();
        let read = parse_bgp_message(&mut update, self.add_path, &AsnLength::Bits32).unwrap();
        let BgpMessage::Update(update) = read else { panic!("an UPDATE") };
        let routes = self.up.get_mut(&peer).expect("routes of a session that is up");
        if update.is_end_of_rib() {
            self.ends.push(peer);
            return;
        }
        let key = |found: &NetworkPrefix| (found.prefix.to_string(), found.path_id.unwrap_or(0));
        let (reach, unreach) = (update.attributes.get_reachable_nlri(), update.attributes.get_unreachable_nlri());
        let gone = unreach.map_or(&[][..], |nlri| &nlri.prefixes).iter().chain(&update.withdrawn_prefixes);
        gone.for_each(|found| drop(routes.remove(&key(found))));
        let next_hop = update.attributes.next_hop().or(reach.and_then(|nlri| Some(nlri.next_hop.as_ref()?.addr())));
        let med = update.attributes.iter().find_map(|value| match value {
            bgpkit_parser::models::AttributeValue::MultiExitDiscriminator(med) => Some(*med),
            _ => None,
        });
        for found in reach.map_or(&[][..], |nlri| &nlri.prefixes).iter().chain(&update.announced_prefixes) {
            let path = update.attributes.as_path().unwrap().to_string();
            routes.insert(key(found), (next_hop.unwrap(), path, med));
        }
    }
}

#[test]
fn a_station_hears_what_was_there_and_what_happens() {
    let mut stand = Stand::new(2, false);
    stand.up(0);
    stand.announce(0, 2, 0, 5);
    stand.announce(0, 3, 0, 5);
    let mut station = stand.connect();
    stand.pull_all(&mut station);
    assert_eq!(station.up, stand.received());
    assert_eq!(station.up[&peer(0).address].len(), 2);
    assert_eq!(station.ends, [peer(0).address; 2], "both families");

    stand.up(1);
    stand.announce(1, 2, 0, 7);
    stand.end_of_rib(1, IpVersion::V4);
    stand.withdraw(0, 3, 0);
    stand.announce(0, 2, 0, 6);
    stand.pull_all(&mut station);
    assert_eq!(station.up, stand.received());
    assert_eq!(station.up[&peer(0).address].len(), 1);
    assert_eq!(station.ends[2..], [peer(1).address]);

    stand.now += Duration::from_secs(60);
    stand.handle_at_station(StationEvent::Timer);
    stand.say(1, &Message::Notification(Notification::new(6, 2)));
    stand.connections.remove(&peer(1));
    stand.pull_all(&mut station);
    assert_eq!((station.counted, station.up.len()), (2, 1));
    assert!(matches!(station.downs[..], [PeerDownReason::RemoteSystemClosedNotificationPduFollows]));
    stand.speaker.shut_down(Some(Notification::new(6, 2)), stand.now, &mut Vec::new());
    stand.pull_all(&mut station);
    assert!(matches!(station.downs[1], PeerDownReason::LocalSystemClosedNotificationPduFollows));
    assert!(station.is_over && station.up.is_empty());
}

#[test]
fn what_a_peer_does_not_tell_again_after_its_restart_is_withdrawn() {
    let mut stand = Stand::new(1, false);
    stand.up(0);
    stand.announce(0, 2, 0, 5);
    stand.announce(0, 4, 0, 5);
    let mut station = stand.connect();
    stand.pull_all(&mut station);
    stand.lose(0);
    stand.now += Duration::from_secs(10);
    stand.up(0);
    stand.announce(0, 4, 0, 5);
    stand.pull_all(&mut station);
    assert_eq!(station.up, stand.received());
    assert!(matches!(station.downs[..], [PeerDownReason::RemoteSystemsClosedNoData]));
    stand.end_of_rib(0, IpVersion::V4);
    stand.pull_all(&mut station);
    assert_eq!(station.up, stand.received());
    assert_eq!(station.up[&peer(0).address].len(), 1);
}

#[test]
fn who_takes_nothing_is_closed_and_told_everything_anew() {
    let mut stand = Stand::new(1, false);
    stand.up(0);
    stand.connect();
    let (mut said, next_hop) = (0_u32, peer(0).address);
    while stand.speaker.monitor.as_ref().unwrap().feed.as_ref().unwrap().overflow.is_none() {
        // As long as they come, so that few are enough.
        let communities = (0..900).map(|low| said << 16 | low).collect();
        let attributes =
            Attributes { communities, as_path: AsPath::sequence(vec![THEIRS]), ..Attributes::local(next_hop) };
        let reachable = vec![Reachable { attributes: Arc::new(attributes), nlri: vec![stand.nlri(2, 0)] }];
        stand.say(0, &Message::Update(Update { reachable, ..Update::default() }));
        said += 1;
        assert!((said as usize) < LOG_MAX / 3600 + 2);
    }
    assert_eq!(stand.speaker.monitor.as_ref().unwrap().view().waiting_bytes, 0, "nothing is kept");
    assert!(stand.speaker.deadline().is_some_and(|deadline| deadline <= stand.now));
    let mut actions = Vec::new();
    stand.speaker.handle(Event::Timer, stand.now, &mut actions);
    assert!(actions.iter().any(|action| matches!(action, Action::CloseStation)));
    assert!(!stand.speaker.has_for_station());
    let mut station = stand.connect();
    stand.pull_all(&mut station);
    assert_eq!(station.up, stand.received());
}

#[derive(Debug, Clone)]
enum Step {
    Up(u8),
    Lose(u8),
    Announce(u8, u8, u32, u32),
    Withdraw(u8, u8, u32),
    EndOfRib(u8, bool),
    Pull(usize),
    Reconnect,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0u8..3).prop_map(Step::Up),
        1 => (0u8..3).prop_map(Step::Lose),
        12 => (0u8..3, 0u8..8, 1u32..3, 0u32..3).prop_map(|(peer, prefix, id, med)| Step::Announce(peer, prefix, id, med)),
        6 => (0u8..3, 0u8..8, 1u32..3).prop_map(|(peer, prefix, id)| Step::Withdraw(peer, prefix, id)),
        2 => (0u8..3, any::<bool>()).prop_map(|(peer, is_ipv4)| Step::EndOfRib(peer, is_ipv4)),
        4 => (1usize..600).prop_map(Step::Pull),
        1 => Just(Step::Reconnect),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_station_has_what_was_received(add_path: bool, steps in prop::collection::vec(step(), 0..80)) {
        let mut stand = Stand::new(3, add_path);
        let mut station = stand.connect();
        for step in steps {
            stand.now += Duration::from_millis(100);
            match step {
                Step::Up(peer) if !stand.connections.contains_key(&self::peer(peer)) => stand.up(peer),
                Step::Up(_) => {}
                Step::Lose(peer) => stand.lose(peer),
                Step::Announce(peer, prefix, id, med) => stand.announce(peer, prefix, id, med),
                Step::Withdraw(peer, prefix, id) => stand.withdraw(peer, prefix, id),
                Step::EndOfRib(peer, is_ipv4) => {
                    stand.end_of_rib(peer, if is_ipv4 { IpVersion::V4 } else { IpVersion::V6 });
                }
                Step::Pull(octets) => stand.pull(&mut station, octets),
                Step::Reconnect => {
                    stand.handle_at_station(StationEvent::Lost("cut".to_owned()));
                    station = stand.connect();
                }
            }
        }
        stand.pull_all(&mut station);
        prop_assert_eq!(&station.up, &stand.received());
    }
}
