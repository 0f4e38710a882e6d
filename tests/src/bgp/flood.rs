//! Peers that do harm by what they do not do: thousands of connections that say nothing, one that does not read, one that tells very much.

use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use config::net::Cidr;
use socket2::{Domain, Socket, Type};

use super::message::{HEADER, Update};
use super::raw::Raw;
use crate::topology::Machine;

/// A connection of a flood is not waited for: who does not take it, does not.
const GLANCE: Duration = Duration::from_millis(200);

/// Connections that never send an OPEN, as many of so many as were taken. Closed when this is dropped.
pub fn silent(machine: &Machine, from: &[IpAddr], to: SocketAddr, count: usize) -> Vec<TcpStream> {
    let limit = nix::sys::resource::Resource::RLIMIT_NOFILE;
    let (soft, hard) = nix::sys::resource::getrlimit(limit).unwrap();
    let wanted = (count as u64 + 1000).max(soft);
    nix::sys::resource::setrlimit(limit, wanted, wanted.max(hard)).unwrap();
    machine.within(|| {
        let connect = |number: usize| {
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).ok()?;
            socket.bind(&SocketAddr::new(from[number % from.len()], 0).into()).ok()?;
            socket.connect_timeout(&to.into(), GLANCE).ok()?;
            Some(TcpStream::from(socket))
        };
        (0..count).map_while(connect).collect()
    })
}

/// Half-open: SYNs by connections that are given up at once, before the other side has answered.
pub fn half_open(machine: &Machine, from: IpAddr, to: SocketAddr, count: usize) {
    machine.within(|| {
        for _ in 0..count {
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
            let _ = socket.connect(&to.into());
        }
    });
}

/// Tells this many /32s, `10.128.0.0` and on, in messages of a thousand, until all are told or the other side has had enough.
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
