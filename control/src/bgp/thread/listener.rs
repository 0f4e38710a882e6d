//! Sockets that peers connect to, and the keys that they need for that.
//!
//! Without listen addresses there is one socket for each family. Keys of TCP-MD5 are on the listening sockets before a peer
//! connects. What cannot be opened is tried again with the next desired state.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::net::{IpAddr, SocketAddr};

use fastpath::io::transport;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::super::speaker_state::{Password, SpeakerState};
use super::connection::{Io, any};

/// Connections that the kernel keeps for us.
const BACKLOG: i32 = 128;

#[derive(Default)]
pub struct Listeners {
    open: BTreeMap<SocketAddr, Open>,
}

struct Open {
    /// The same socket, for its keys.
    socket: Socket,
    task: JoinHandle<()>,
    keys: BTreeMap<IpAddr, std::sync::Arc<str>>,
}

impl Listeners {
    /// Opens, closes and gives keys. Returns what could not be done.
    pub fn follow(&mut self, desired: &SpeakerState, events: &mpsc::Sender<Io>) -> Vec<String> {
        let mut problems = Vec::new();
        let wanted: Vec<SocketAddr> = match &desired.identity {
            None => Vec::new(),
            Some(identity) => {
                let all = [any(true), any(false)];
                let addresses = match &identity.listen_addresses[..] {
                    [] => &all[..],
                    some => some,
                };
                addresses.iter().map(|address| SocketAddr::new(*address, identity.listen_port)).collect()
            }
        };
        self.open.retain(|address, open| {
            let stays = wanted.contains(address) && !open.task.is_finished();
            if !stays {
                open.task.abort();
            }
            stays
        });
        for address in wanted {
            if let Entry::Vacant(place) = self.open.entry(address) {
                match listen(address, events) {
                    Ok(open) => _ = place.insert(open),
                    Err(error) => problems.push(format!("listen for BGP on {address}: {error}")),
                }
            }
        }
        let known = desired.peers.iter().filter_map(|(key, peer)| match &peer.transport.password {
            Some(Password::Known(password)) => Some((key.address, password.clone())),
            _ => None,
        });
        let keys: BTreeMap<IpAddr, _> = known.collect();
        for (address, open) in &mut self.open {
            let of_family = |peer: &IpAddr| peer.is_ipv4() == address.is_ipv4();
            let gone: Vec<IpAddr> = open.keys.keys().filter(|peer| !keys.contains_key(*peer)).copied().collect();
            let new = keys.iter().filter(|(peer, key)| of_family(peer) && open.keys.get(*peer) != Some(*key));
            let changes =
                gone.into_iter().map(|peer| (peer, None)).chain(new.map(|(peer, key)| (*peer, Some(key.clone()))));
            for (peer, key) in changes.collect::<Vec<_>>() {
                let octets = key.as_ref().map_or(&[][..], |key| key.as_bytes());
                match transport::set_md5(&open.socket, peer, octets) {
                    Ok(()) => match key {
                        Some(key) => _ = open.keys.insert(peer, key),
                        None => _ = open.keys.remove(&peer),
                    },
                    Err(error) => problems.push(format!("set the TCP-MD5 key of {peer} on {address}: {error}")),
                }
            }
        }
        problems
    }
}

fn listen(address: SocketAddr, events: &mpsc::Sender<Io>) -> io::Result<Open> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from_std(socket.try_clone()?.into())?;
    let task = tokio::spawn(accept(listener, events.clone()));
    Ok(Open { socket, task, keys: BTreeMap::new() })
}

async fn accept(listener: TcpListener, events: mpsc::Sender<Io>) {
    loop {
        match listener.accept().await {
            Ok((stream, remote)) => {
                // Gone already.
                let Ok(local) = stream.local_addr() else { continue };
                if events.send(Io::Accepted { stream, local, remote }).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                // Out of descriptors, mostly: others may be freed.
                tracing::warn!(%error, "accept a BGP connection");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}
