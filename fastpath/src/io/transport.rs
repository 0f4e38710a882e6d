//! Options of TCP sockets that no safe crate knows: TCP-MD5 and the least TTL.
//!
//! Routing sessions use them, which `control` has; they stand here because this is where system calls are made by hand.
//!
//! Invariants: what is given to the kernel is a byte array or an integer of the length that is named with it, alive for
//! the call; the kernel copies it.
//! Sources: tcp(7), ip(7), `struct tcp_md5sig` in linux/tcp.h; RFC 2385, RFC 5082.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};

/// Longest key of TCP-MD5, in octets.
pub const MD5_KEY_MAX: usize = libc::TCP_MD5SIG_MAXKEYLEN;

/// `struct tcp_md5sig`: a `sockaddr_storage`, flags, prefix length, key length, interface, key.
const MD5_LEN: usize = 136 + MD5_KEY_MAX;
const KEY_LENGTH_AT: usize = 130;
const KEY_AT: usize = 136;

/// Segments to and from a peer carry the MD5 digest of this key; others from that address are dropped. On a listening
/// socket it holds for connections of the peer from the first segment on. An empty key takes it away.
///
/// Errors: the kernel's; EINVAL for a key that is too long; ENOENT when a key is to be taken away and there is none.
pub fn set_md5(socket: &impl AsFd, peer: IpAddr, key: &[u8]) -> io::Result<()> {
    if key.len() > MD5_KEY_MAX {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut request = [0u8; MD5_LEN];
    match peer {
        IpAddr::V4(address) => {
            request[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
            request[4..8].copy_from_slice(&address.octets());
        }
        IpAddr::V6(address) => {
            request[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
            request[8..24].copy_from_slice(&address.octets());
        }
    }
    request[KEY_LENGTH_AT..KEY_LENGTH_AT + 2].copy_from_slice(&(key.len() as u16).to_ne_bytes());
    request[KEY_AT..KEY_AT + key.len()].copy_from_slice(key);
    set(socket, libc::IPPROTO_TCP, libc::TCP_MD5SIG, &request)
}

/// Packets with a smaller TTL or hop limit are dropped before they reach the socket. RFC 5082 §3.
///
/// Errors: the kernel's.
pub fn set_least_ttl(socket: &impl AsFd, is_ipv4: bool, least: u8) -> io::Result<()> {
    let (level, option) =
        if is_ipv4 { (libc::IPPROTO_IP, libc::IP_MINTTL) } else { (libc::IPPROTO_IPV6, libc::IPV6_MINHOPCOUNT) };
    set(socket, level, option, &libc::c_int::from(least).to_ne_bytes())
}

fn set(socket: &impl AsFd, level: libc::c_int, option: libc::c_int, value: &[u8]) -> io::Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: `value` is alive during the call and as long as is said; the kernel copies it and keeps no pointer. The
    // descriptor is open, since it is borrowed.
    let result = unsafe { libc::setsockopt(fd, level, option, value.as_ptr().cast(), value.len() as libc::socklen_t) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

const _: () = assert!(MD5_LEN == 216);

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn listener(address: &str) -> Option<TcpListener> {
        TcpListener::bind(address).ok()
    }

    #[test]
    fn equal_keys_talk() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Some(listening) = listener(address) else { continue };
            let local = listening.local_addr().unwrap();
            set_md5(&listening, local.ip(), b"secret").unwrap();
            let domain = socket2::Domain::for_address(local);
            let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None).unwrap();
            set_md5(&socket, local.ip(), b"secret").unwrap();
            socket.connect(&local.into()).unwrap();
            let mut stream = TcpStream::from(socket);
            let (mut other, _) = listening.accept().unwrap();
            stream.write_all(b"x").unwrap();
            let mut read = [0];
            other.read_exact(&mut read).unwrap();
            assert_eq!(read, *b"x");
        }
    }

    #[test]
    fn a_key_that_is_too_long_and_one_that_is_not_there() {
        let Some(listening) = listener("127.0.0.1:0") else { return };
        let peer = listening.local_addr().unwrap().ip();
        assert_eq!(set_md5(&listening, peer, &[b'x'; MD5_KEY_MAX + 1]).unwrap_err().raw_os_error(), Some(libc::EINVAL));
        set_md5(&listening, peer, &[b'x'; MD5_KEY_MAX]).unwrap();
        set_md5(&listening, peer, b"").unwrap();
        assert_eq!(set_md5(&listening, peer, b"").unwrap_err().raw_os_error(), Some(libc::ENOENT));
    }

    #[test]
    fn a_least_ttl_is_taken() {
        for (address, is_ipv4) in [("127.0.0.1:0", true), ("[::1]:0", false)] {
            let Some(listening) = listener(address) else { continue };
            set_least_ttl(&listening, is_ipv4, 255).unwrap();
        }
    }
}
