//! A peer that is only load: it connects, says who it is, sends bytes that were made before, and counts what comes.
//!
//! A thread reads as fast as it can, so that nothing waits for the peer; whoever sends does it from a thread of its own. A
//! KEEPALIVE goes out of the reading thread, between two pieces of what is sent, and is left out while a piece is being sent: then
//! something is on its way already.
//!
//! Invariants: what is sent goes out in whole messages; counts are those of the reading thread, brought up to date after every read.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt};

use super::place;
use super::wire::{self, Walker};
use crate::lab::{LabError, system};
use crate::report::Spread;

const PORT: u16 = 179;
/// What is offered to the speaker.
const HOLD_TIME: u16 = 90;
const KEEPALIVE_TIME: Duration = Duration::from_secs(20);
const READ_LENGTH: usize = 1 << 18;
/// How long the reading thread waits before it looks at the clock.
const LOOK: Duration = Duration::from_millis(500);
/// Until a speaker that has just started takes a connection and has said who it is.
const PATIENCE: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_millis(50);
/// A piece of what is sent: between two of them a KEEPALIVE may go.
const PIECE: usize = 1 << 16;

pub struct Peer {
    stream: Arc<Mutex<TcpStream>>,
    counts: Arc<Counts>,
    reader: Option<JoinHandle<()>>,
}

/// What the reading thread has seen.
#[derive(Default)]
pub struct Counts {
    reachable: AtomicU64,
    withdrawn: AtomicU64,
    updates: AtomicU64,
    bytes: AtomicU64,
    is_established: AtomicBool,
    /// The connection is over, whoever ended it.
    is_over: AtomicBool,
    /// So many prefixes are waited for.
    target: AtomicU64,
    /// When there were as many.
    reached: Mutex<Option<Instant>>,
    /// When an UPDATE last came.
    last: Mutex<Option<Instant>>,
    ending: Mutex<String>,
    /// How old what came was, where a MED is a time.
    ages: Mutex<Option<Ages>>,
}

struct Ages {
    /// MEDs are microseconds since then.
    since: Instant,
    spread: Spread,
    count: u64,
}

impl Peer {
    /// Connects from a peer's address, and waits until the session is there.
    pub fn connect(address: Ipv4Addr, as_number: u32) -> Result<Peer, LabError> {
        let start = Instant::now();
        let stream = loop {
            match open(address) {
                Ok(stream) => break stream,
                Err(error) if start.elapsed() > PATIENCE => {
                    return Err(system(format!("connect from {address} to the speaker"))(error));
                }
                Err(_) => thread::sleep(STEP),
            }
        };
        let failed = || system(format!("set up the connection from {address}"));
        stream.set_read_timeout(Some(LOOK)).map_err(failed())?;
        stream.set_nodelay(true).map_err(failed())?;
        let reading = stream.try_clone().map_err(failed())?;
        let mut hello = Vec::new();
        wire::open(&mut hello, as_number, HOLD_TIME, address);
        wire::keepalive(&mut hello);
        (&stream).write_all(&hello).map_err(failed())?;
        let (stream, counts) = (Arc::new(Mutex::new(stream)), Arc::new(Counts::default()));
        let reader = thread::Builder::new().stack_size(1 << 20).spawn({
            let (stream, counts) = (stream.clone(), counts.clone());
            move || read(reading, &stream, &counts)
        });
        let peer = Peer { stream, counts, reader: Some(reader.map_err(failed())?) };
        while !peer.counts.is_established.load(Ordering::Acquire) {
            if peer.is_over() || start.elapsed() > PATIENCE {
                return Err(LabError::Peer(format!("no session for {address}: {}", peer.ending())));
            }
            thread::sleep(STEP);
        }
        Ok(peer)
    }

    /// Whole messages. `limit`: what is slower than that is an error.
    pub fn send(&self, mut bytes: &[u8]) -> Result<(), LabError> {
        while !bytes.is_empty() {
            let (piece, rest) = bytes.split_at(piece(bytes));
            let mut stream = self.stream.lock().map_err(|_| LabError::Panicked)?;
            stream.write_all(piece).map_err(system("send to the speaker"))?;
            bytes = rest;
        }
        Ok(())
    }

    pub fn reachable(&self) -> u64 {
        self.counts.reachable.load(Ordering::Acquire)
    }

    pub fn withdrawn(&self) -> u64 {
        self.counts.withdrawn.load(Ordering::Acquire)
    }

    pub fn updates(&self) -> u64 {
        self.counts.updates.load(Ordering::Acquire)
    }

    pub fn bytes(&self) -> u64 {
        self.counts.bytes.load(Ordering::Acquire)
    }

    pub fn is_over(&self) -> bool {
        self.counts.is_over.load(Ordering::Acquire)
    }

    /// How the connection ended.
    pub fn ending(&self) -> String {
        self.counts.ending.lock().map(|ending| ending.clone()).unwrap_or_default()
    }

    /// From now on notes when so many prefixes will have come.
    pub fn expect(&self, prefixes: u64) {
        self.counts.target.store(prefixes, Ordering::Release);
    }

    pub fn reached(&self) -> Option<Instant> {
        self.counts.reached.lock().ok().and_then(|reached| *reached)
    }

    /// When an UPDATE last came.
    pub fn last(&self) -> Option<Instant> {
        self.counts.last.lock().ok().and_then(|last| *last)
    }

    /// From now on takes MEDs for microseconds since a moment.
    pub fn measure_ages(&self, since: Instant) {
        if let Ok(mut ages) = self.counts.ages.lock() {
            *ages = Some(Ages { since, spread: Spread::default(), count: 0 });
        }
    }

    /// How old what came since then was, in microseconds, and how many there were.
    pub fn take_ages(&self) -> Option<(Spread, u64)> {
        self.counts.ages.lock().ok()?.take().map(|ages| (ages.spread, ages.count))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Ok(stream) = self.stream.lock() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

/// Octets of whole messages, at least one, and no more than a piece if it is more than one.
fn piece(bytes: &[u8]) -> usize {
    let mut end = 0;
    while let Some([high, low]) = bytes.get(end + 16..end + 18) {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        if end > 0 && end + length > PIECE {
            break;
        }
        end += length;
    }
    end.min(bytes.len())
}

fn open(address: Ipv4Addr) -> io::Result<TcpStream> {
    let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    // Many runs, one after the other, from the same address.
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    bind(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(address, 0)))?;
    connect(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(place::SPEAKER, PORT)))?;
    Ok(TcpStream::from(socket))
}

/// Until the connection is over.
fn read(mut reading: TcpStream, writing: &Mutex<TcpStream>, counts: &Counts) {
    let ending = reading_until_the_end(&mut reading, writing, counts);
    if let Ok(mut place) = counts.ending.lock() {
        *place = ending;
    }
    counts.is_over.store(true, Ordering::Release);
}

fn reading_until_the_end(reading: &mut TcpStream, writing: &Mutex<TcpStream>, counts: &Counts) -> String {
    let mut buffer = vec![0; READ_LENGTH];
    let mut walker = Walker::default();
    let mut keepalive = Vec::new();
    wire::keepalive(&mut keepalive);
    let mut kept_alive = Instant::now();
    loop {
        let now = Instant::now();
        if now.duration_since(kept_alive) > KEEPALIVE_TIME {
            kept_alive = now;
            if let Ok(mut stream) = writing.try_lock()
                && let Err(error) = stream.write_all(&keepalive)
            {
                return format!("send a KEEPALIVE: {error}");
            }
        }
        let length = match reading.read(&mut buffer) {
            Ok(0) => return "closed by the speaker".to_owned(),
            Ok(length) => length,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => continue,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return error.to_string(),
        };
        let now = Instant::now();
        let walked = match counts.ages.lock() {
            Ok(mut ages) => walker.walk(&buffer[..length], &mut |med| {
                if let Some(ages) = ages.as_mut() {
                    let age = now.saturating_duration_since(ages.since + Duration::from_micros(u64::from(med)));
                    // A spread is made for less than a second of nanoseconds.
                    ages.spread.record(age.as_micros() as u64, 1);
                    ages.count += 1;
                }
            }),
            Err(_) => return "a thread panicked".to_owned(),
        };
        if let Err(error) = walked {
            return error;
        }
        let seen = &walker.seen;
        if let Some((code, subcode)) = seen.notification {
            return format!("NOTIFICATION {code}/{subcode}");
        }
        counts.bytes.fetch_add(length as u64, Ordering::Release);
        counts.reachable.store(seen.reachable, Ordering::Release);
        counts.withdrawn.store(seen.withdrawn, Ordering::Release);
        counts.is_established.store(seen.opens > 0 && seen.keepalives > 0, Ordering::Release);
        if counts.updates.swap(seen.updates, Ordering::AcqRel) < seen.updates
            && let Ok(mut last) = counts.last.lock()
        {
            *last = Some(now);
        }
        let target = counts.target.load(Ordering::Acquire);
        if target > 0
            && seen.reachable >= target
            && let Ok(mut reached) = counts.reached.lock()
        {
            reached.get_or_insert(now);
        }
    }
}
