//! Real traffic between two participants: ICMP echo, a TCP transfer, UDP ping-pong.
//!
//! Sockets are made inside the namespaces and used from here, since a socket stays where it was made.
//! Every wait has a limit, and a failed check says what was seen instead of what was expected.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use control::host::netns;
use hdrhistogram::Histogram;

/// No check takes longer.
const LIMIT: Duration = Duration::from_secs(10);
/// By then a path that works has its neighbours resolved and its flow set up.
const REACHABLE_LIMIT: Duration = Duration::from_secs(4);
/// A datagram that is not back by then is lost.
const LOST_AFTER: Duration = Duration::from_millis(500);
const POLL: Duration = Duration::from_millis(1);
const CHUNK: usize = 64 << 10;
/// Payload repeats with a prime period, so that a shifted or repeated segment shows.
const PERIOD: usize = 251;
const DATAGRAM: usize = 64;
const WARM_UP: u64 = 3;

/// Who sends to whom.
#[derive(Debug, Clone)]
pub struct Path {
    pub from: String,
    pub to: String,
    pub from_namespace: String,
    pub to_namespace: String,
    pub destination: IpAddr,
}

impl Path {
    pub fn family(&self) -> &'static str {
        if self.destination.is_ipv4() { "IPv4" } else { "IPv6" }
    }
}

/// Why a check failed, in one sentence.
pub type Failed = String;

/// Echo requests; all must come back. One that has to wake neighbours and flows goes ahead uncounted.
pub fn ping(path: &Path, count: u32) -> Result<(), Failed> {
    let start = Instant::now();
    while ping_once(path, 1)? == 0 {
        if start.elapsed() > REACHABLE_LIMIT {
            return Err(format!("no answer from {} within {REACHABLE_LIMIT:?}", path.destination));
        }
    }
    match ping_once(path, count)? {
        // It asks until so many are back: where answers are slow, it has asked more often by then.
        received if received >= count => Ok(()),
        received => Err(format!("{received} of {count} answered")),
    }
}

fn ping_once(path: &Path, count: u32) -> Result<u32, Failed> {
    let output = in_namespace(&path.from_namespace, || {
        Command::new("ping")
            .args(["-n", "-q", "-i", "0.02", "-W", "1", "-w", "5", "-c"])
            .arg(count.to_string())
            .arg(path.destination.to_string())
            // Ctrl-C at the terminal ends the lab between two checks, not in the middle of one.
            .process_group(0)
            .stdin(Stdio::null())
            .output()
    });
    match output {
        Ok(output) => received_of(&output),
        Err(error) if error.kind() == ErrorKind::NotFound => Err("no `ping` program; install iputils-ping".to_owned()),
        Err(error) => Err(format!("run ping: {error}")),
    }
}

/// Of `3 packets transmitted, 3 received, 0% packet loss, time 40ms` the second number.
fn received_of(output: &Output) -> Result<u32, Failed> {
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find(|line| line.contains("packets transmitted"));
    let part = line.and_then(|line| line.split(',').find(|part| part.contains("received")));
    let number = part.and_then(|part| part.split_whitespace().next()?.parse().ok());
    number.ok_or_else(|| format!("ping said: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

/// Bits per second of a transfer, from the first byte sent until the receiver has said how much it got.
pub fn tcp(path: &Path, mebibytes: u32) -> Result<f64, Failed> {
    let total = u64::from(mebibytes) << 20;
    let listener = listen(path, 0)?;
    let port = listener.local_addr().map_err(failed("read the listener's port"))?.port();
    thread::scope(|scope| {
        let receiver = scope.spawn(|| receive(&accept(&listener, LIMIT)?));
        let sent = connect(path, port, LIMIT).map_err(failed("connect")).and_then(|stream| send(&stream, total));
        let received = receiver.join().unwrap_or_else(|_| Err("receiver ended by a fault of its own".to_owned()));
        // The sender's trouble is the more telling one.
        let elapsed = sent?;
        let received = received?;
        if received != total {
            return Err(format!("{received} of {total} bytes arrived"));
        }
        Ok(total as f64 * 8.0 / elapsed.as_secs_f64())
    })
}

fn send(mut stream: &TcpStream, total: u64) -> Result<Duration, Failed> {
    limit(stream)?;
    let pattern = pattern();
    let start = Instant::now();
    let mut sent = 0u64;
    while sent < total {
        let offset = (sent % PERIOD as u64) as usize;
        let length = CHUNK.min(usize::try_from(total - sent).unwrap_or(CHUNK));
        sent += match stream.write(&pattern[offset..offset + length]) {
            Ok(written) => written as u64,
            Err(error) if error.kind() == ErrorKind::Interrupted => 0,
            Err(error) => return Err(format!("send: {error} after {sent} of {total} bytes")),
        };
    }
    stream.shutdown(Shutdown::Write).map_err(failed("end the transfer"))?;
    let mut count = [0; 8];
    stream.read_exact(&mut count).map_err(|error| format!("wait for the receiver's count: {error}"))?;
    let elapsed = start.elapsed();
    match u64::from_be_bytes(count) {
        received if received == total => Ok(elapsed),
        received => Err(format!("{received} of {total} bytes arrived")),
    }
}

fn receive(mut stream: &TcpStream) -> Result<u64, Failed> {
    limit(stream)?;
    let pattern = pattern();
    let mut buffer = vec![0; CHUNK];
    let mut received = 0u64;
    loop {
        let length = match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(format!("receive: {error} after {received} bytes")),
        };
        let offset = (received % PERIOD as u64) as usize;
        if buffer[..length] != pattern[offset..offset + length] {
            return Err(format!("the payload changed on the way, near byte {received}"));
        }
        received += length as u64;
    }
    stream.write_all(&received.to_be_bytes()).map_err(failed("answer with the count"))?;
    Ok(received)
}

/// What one UDP ping-pong saw.
pub struct Exchanges {
    /// Round trips in nanoseconds.
    pub round_trips: Histogram<u64>,
    pub lost: u32,
}

/// One datagram at a time, there and back.
pub fn udp(path: &Path, exchanges: u32) -> Result<Exchanges, Failed> {
    let bind = |namespace: &str, address: IpAddr| {
        let socket = in_namespace(namespace, || UdpSocket::bind((address, 0))).map_err(failed("bind"))?;
        socket.set_read_timeout(Some(LOST_AFTER)).map_err(failed("bound the wait"))?;
        Ok::<UdpSocket, Failed>(socket)
    };
    let any: IpAddr = if path.destination.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let far = bind(&path.to_namespace, path.destination)?;
    let near = bind(&path.from_namespace, any)?;
    let address = far.local_addr().map_err(failed("read the echo's address"))?;
    near.connect(address).map_err(failed("connect"))?;
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| echo(&far, &done));
        let result = exchange(&near, exchanges);
        done.store(true, Ordering::Relaxed);
        result
    })
}

fn echo(socket: &UdpSocket, done: &AtomicBool) {
    let mut buffer = [0; DATAGRAM];
    while !done.load(Ordering::Relaxed) {
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            // What cannot be sent back is counted as lost by the one who waits for it.
            let _ = socket.send_to(&buffer[..length], from);
        }
    }
}

fn exchange(socket: &UdpSocket, exchanges: u32) -> Result<Exchanges, Failed> {
    let highest = u64::try_from(LOST_AFTER.as_nanos()).unwrap_or(u64::MAX);
    let round_trips = Histogram::new_with_bounds(1, highest, 3).map_err(|error| error.to_string())?;
    let mut result = Exchanges { round_trips, lost: 0 };
    let start = Instant::now();
    for number in 0..u64::from(exchanges) + WARM_UP {
        if start.elapsed() > LIMIT {
            return Err(format!("{number} exchanges in {LIMIT:?}, {} lost", result.lost));
        }
        match (round_trip(socket, number)?, number < WARM_UP) {
            (_, true) => {}
            (Some(time), false) => {
                result.round_trips.saturating_record(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
            }
            (None, false) => result.lost += 1,
        }
    }
    Ok(result)
}

/// None: lost. Late answers to earlier numbers are passed over.
fn round_trip(socket: &UdpSocket, number: u64) -> Result<Option<Duration>, Failed> {
    let mut datagram = [0; DATAGRAM];
    datagram[..8].copy_from_slice(&number.to_be_bytes());
    let start = Instant::now();
    socket.send(&datagram).map_err(failed("send a datagram"))?;
    while start.elapsed() < LOST_AFTER {
        match socket.recv(&mut datagram) {
            Ok(_) if datagram[..8] == number.to_be_bytes() => return Ok(Some(start.elapsed())),
            Ok(_) => {}
            // Nothing yet, or a signal, whose flag is looked at after the check.
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {}
            // ICMP said that nobody is there.
            Err(error) => return Err(format!("receive a datagram: {error}")),
        }
    }
    Ok(None)
}

/// A listener in the destination's namespace; port 0 is any.
pub fn listen(path: &Path, port: u16) -> Result<TcpListener, Failed> {
    in_namespace(&path.to_namespace, || TcpListener::bind((path.destination, port)))
        .map_err(|error| format!("listen on {}: {error}", SocketAddr::new(path.destination, port)))
}

/// A connection from the source's namespace.
pub fn connect(path: &Path, port: u16, limit: Duration) -> io::Result<TcpStream> {
    let address = SocketAddr::new(path.destination, port);
    in_namespace(&path.from_namespace, || TcpStream::connect_timeout(&address, limit))
}

/// Waits for a connection no longer than `limit`.
pub fn accept(listener: &TcpListener, limit: Duration) -> Result<TcpStream, Failed> {
    listener.set_nonblocking(true).map_err(failed("bound the wait"))?;
    let start = Instant::now();
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false).map_err(failed("accept"))?;
                return Ok(stream);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock && start.elapsed() < limit => thread::sleep(POLL),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                return Err(format!("nobody connected within {limit:?}"));
            }
            Err(error) => return Err(format!("accept: {error}")),
        }
    }
}

pub fn in_namespace<T: Send>(namespace: &str, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    netns::in_namespace(namespace, work).map_err(io::Error::other)?
}

fn limit(stream: &TcpStream) -> Result<(), Failed> {
    let set = stream.set_read_timeout(Some(LIMIT)).and_then(|()| stream.set_write_timeout(Some(LIMIT)));
    set.map_err(failed("bound the wait"))
}

fn pattern() -> Vec<u8> {
    (0..CHUNK + PERIOD).map(|index| (index % PERIOD) as u8).collect()
}

fn failed(action: &'static str) -> impl FnOnce(io::Error) -> Failed {
    move |error| format!("{action}: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ping_summaries() {
        let check = |text: &str, expected: Option<u32>| {
            let output = Output { status: Default::default(), stdout: text.into(), stderr: Vec::new() };
            assert_eq!(received_of(&output).ok(), expected, "{text}");
        };
        check("\n3 packets transmitted, 3 received, 0% packet loss, time 40ms\n", Some(3));
        check("5 packets transmitted, 0 received, +5 errors, 100% packet loss, time 4ms", Some(0));
        check("1 packets transmitted, 1 received, +1 duplicates, 0% packet loss", Some(1));
        check("connect: Network is unreachable", None);
        check("", None);
    }
}
