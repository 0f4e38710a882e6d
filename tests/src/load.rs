//! Datagrams one way, many of them, and somebody who counts what arrives.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::topology::Machine;

/// Counts the datagrams that arrive on a port of an address.
pub fn count(at: &Machine, address: IpAddr, port: u16) -> Arc<AtomicU64> {
    let socket = at.within(|| UdpSocket::bind((address, port))).unwrap();
    let seen = Arc::new(AtomicU64::new(0));
    let counter = seen.clone();
    thread::spawn(move || {
        let mut buffer = [0; 64];
        while socket.recv(&mut buffer).is_ok() {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    });
    seen
}

/// Sends to all targets, a few thousand datagrams a second, until dropped.
pub struct Load {
    is_over: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Load {
    pub fn start(from: &Machine, targets: Vec<SocketAddr>) -> Load {
        let bind = |any: IpAddr| from.within(|| UdpSocket::bind((any, 0))).unwrap();
        let sockets = [bind([0; 4].into()), bind([0; 16].into())];
        let is_over = Arc::new(AtomicBool::new(false));
        let over = is_over.clone();
        let thread = thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                for target in &targets {
                    // Unreachable is what the kernel says while nobody answers.
                    let _ = sockets[usize::from(target.is_ipv6())].send_to(b"load", target);
                }
                thread::park_timeout(Duration::from_micros(200));
            }
        });
        Load { is_over, thread: Some(thread) }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(thread::JoinHandle::join);
    }
}
