//! A DHCP server with leases as short as a test, made of a codec that is not ours; and what it has heard.
//!
//! It gives the addresses behind `FIRST` out by hardware address, one after the other, and answers to the relay (RFC 2131 §4.1).
//! Left out: all that a server does to remember and to check.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use dhcproto::v4::relay::{RelayCode, RelayInfo};
use dhcproto::v4::{DhcpOption, Message, MessageType, Opcode, OptionCode};
use dhcproto::{Decodable, Encodable};

use crate::topology::Machine;

const FIRST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 10);
/// Between two looks whether it is to end.
const PAUSE: Duration = Duration::from_millis(50);

/// A question, as it came from the relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    pub kind: MessageType,
    pub relay: Ipv4Addr,
    pub hops: u8,
    /// What the client has.
    pub client: Ipv4Addr,
    pub chaddr: Vec<u8>,
    pub circuit: String,
    pub link: Option<Ipv4Addr>,
}

#[derive(Default)]
struct State {
    questions: Vec<Question>,
    leases: BTreeMap<Vec<u8>, Ipv4Addr>,
}

/// Runs until it is dropped.
pub struct Server {
    state: Arc<Mutex<State>>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub fn start(machine: &Machine, address: Ipv4Addr, lease: Duration) -> Server {
        let socket = machine.within(|| UdpSocket::bind((address, 67)).unwrap());
        socket.set_read_timeout(Some(PAUSE)).unwrap();
        let (state, is_over) = (Arc::<Mutex<State>>::default(), Arc::new(AtomicBool::new(false)));
        let (shared, ends) = (state.clone(), is_over.clone());
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while !ends.load(Ordering::Relaxed) {
                match socket.recv_from(&mut buffer) {
                    Ok((length, from)) => serve(&socket, address, lease, &shared, &buffer[..length], from),
                    Err(error) => {
                        assert!([ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()), "{error}")
                    }
                }
            }
        });
        Server { state, is_over, thread: Some(thread) }
    }

    pub fn questions(&self) -> Vec<Question> {
        self.state.lock().unwrap().questions.clone()
    }

    pub fn count(&self, kind: MessageType) -> usize {
        self.questions().iter().filter(|question| question.kind == kind).count()
    }

    /// Addresses that are given out.
    pub fn leases(&self) -> Vec<Ipv4Addr> {
        self.state.lock().unwrap().leases.values().copied().collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let is_well = self.thread.take().is_none_or(|thread| thread.join().is_ok());
        assert!(is_well || std::thread::panicking(), "the DHCP server failed");
    }
}

fn serve(socket: &UdpSocket, own: Ipv4Addr, lease: Duration, state: &Mutex<State>, bytes: &[u8], from: SocketAddr) {
    let asked = Message::from_bytes(bytes).unwrap();
    let Some(kind) = asked.opts().msg_type() else { panic!("no message type: {asked:?}") };
    let chaddr = asked.chaddr()[..6].to_vec();
    let mut state = state.lock().unwrap();
    state.questions.push(question(&asked, kind, &chaddr));
    let free = Ipv4Addr::from_bits(FIRST.to_bits() + state.leases.len() as u32);
    let address = state.leases.get(&chaddr).copied().unwrap_or(free);
    let answer = match kind {
        MessageType::Discover => MessageType::Offer,
        MessageType::Request => {
            state.leases.insert(chaddr, address);
            MessageType::Ack
        }
        MessageType::Release => {
            state.leases.remove(&chaddr);
            return;
        }
        _ => return,
    };
    let seconds = lease.as_secs() as u32;
    let mut reply = asked.clone();
    reply.set_opcode(Opcode::BootReply).set_hops(0).set_yiaddr(address).set_siaddr(own);
    let options = reply.opts_mut();
    for code in [OptionCode::RequestedIpAddress, OptionCode::ParameterRequestList, OptionCode::ClientIdentifier] {
        options.remove(code);
    }
    options.insert(DhcpOption::MessageType(answer));
    options.insert(DhcpOption::ServerIdentifier(own));
    options.insert(DhcpOption::SubnetMask([255, 255, 255, 0].into()));
    options.insert(DhcpOption::AddressLeaseTime(seconds));
    options.insert(DhcpOption::Renewal(seconds / 2));
    options.insert(DhcpOption::Rebinding(seconds * 7 / 8));
    assert_eq!(from.ip(), std::net::IpAddr::V4(asked.giaddr()), "the relay speaks as somebody else");
    socket.send_to(&reply.to_vec().unwrap(), (asked.giaddr(), 67)).unwrap();
}

fn question(asked: &Message, kind: MessageType, chaddr: &[u8]) -> Question {
    let option = match asked.opts().get(OptionCode::RelayAgentInformation) {
        Some(DhcpOption::RelayAgentInformation(option)) => Some(option),
        _ => None,
    };
    let part = |code| option.and_then(|option| option.get(code));
    Question {
        kind,
        relay: asked.giaddr(),
        hops: asked.hops(),
        client: asked.ciaddr(),
        chaddr: chaddr.to_vec(),
        circuit: match part(RelayCode::AgentCircuitId) {
            Some(RelayInfo::AgentCircuitId(bytes)) => String::from_utf8_lossy(bytes).into_owned(),
            _ => String::new(),
        },
        link: match part(RelayCode::LinkSelection) {
            Some(RelayInfo::LinkSelection(link)) => Some(*link),
            _ => None,
        },
    }
}
