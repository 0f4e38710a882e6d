//! Peers that do harm by what they do not do: thousands of connections that say nothing, one that does not read, one that tells very much.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};

use config::net::Cidr;
use socket2::{Domain, Socket, Type};

use super::message::{HEADER, Update};
use super::raw::Raw;
use crate::topology::Machine;

/// Connections that never send an OPEN, all begun at once. Closed when this is dropped.
pub struct Silent(Vec<Socket>);

impl Silent {
    pub fn start(machine: &Machine, from: &[IpAddr], to: SocketAddr, count: usize) -> Silent {
        let limit = nix::sys::resource::Resource::RLIMIT_NOFILE;
        let (soft, hard) = nix::sys::resource::getrlimit(limit).unwrap();
        let wanted = (count as u64 + 1000).max(soft);
        nix::sys::resource::setrlimit(limit, wanted, wanted.max(hard)).unwrap();
        let begun = (0..count).map(|number| begin(from[number % from.len()], to));
        machine.within(|| Silent(begun.collect()))
    }

    /// How many the other side has taken and not closed, by now.
    pub fn open(&self) -> usize {
        let is_open = |socket: &&Socket| {
            let mut octet = [std::mem::MaybeUninit::uninit()];
            // Nothing to read is the sign of life; an end or an error is none.
            socket.peer_addr().is_ok()
                && socket.peek(&mut octet).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
        };
        self.0.iter().filter(is_open).count()
    }
}

/// A connection that is not waited for.
fn begin(from: IpAddr, to: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
    // In progress is what it should be; a refusal shows later.
    let _ = socket.connect(&to.into());
    socket
}

/// Half-open: SYNs by connections that are given up at once, before the other side has answered.
pub fn half_open(machine: &Machine, from: IpAddr, to: SocketAddr, count: usize) {
    machine.within(|| (0..count).for_each(|_| drop(begin(from, to))));
}

/// Tells this many /32s, `10.128.0.0` and on, in messages of 700, until all are told or the other side has had enough.
pub fn tell(raw: &mut Raw, like: &Update, count: u32) -> u32 {
    let mut told = 0;
    while told < count {
        let many = (count - told).min(700);
        let prefixes = (0..many)
            .map(|number| Cidr::host(IpAddr::from((0x0a80_0000_u32.wrapping_add(told + number)).to_be_bytes())));
        let bytes = Update { prefixes: prefixes.collect(), ..like.clone() }.message();
        debug_assert!(bytes.len() <= 4096 && bytes.len() > HEADER);
        if raw.stream().write_all(&bytes).is_err() {
            break;
        }
        told += many;
    }
    told
}
