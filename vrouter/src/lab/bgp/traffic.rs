//! Many flows of UDP there and back while something happens, and what they lose.
//!
//! Every datagram has a number. It goes out on one flow after the other, is counted where it arrives, is sent back and
//! counted again: a loss has a direction. Flows differ in their source port, so that routers with several ways use all.
//!
//! The event has a thread of its own: sending does not wait for it.
//!
//! Invariants: `MAX_SENT` datagrams at most are remembered, and sending ends with them.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::super::LabError;
use super::super::checks::{Failed, Path, in_namespace};

const FLOWS: usize = 16;
const INTERVAL: Duration = Duration::from_millis(2);
const BEFORE: Duration = Duration::from_secs(1);
const AFTER: Duration = Duration::from_secs(5);
/// Two minutes.
const MAX_SENT: usize = 60_000;
/// What comes back later than this after the last one was sent is lost.
const STRAGGLERS: Duration = Duration::from_millis(500);
/// No loss for so long at the end: it is over.
const QUIET: Duration = Duration::from_secs(1);

/// What was lost. Times are since the event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    pub sent: usize,
    pub lost_there: usize,
    pub lost_back: usize,
    /// Of both, those sent before the event: it is not to blame.
    pub lost_before: usize,
    /// Of `FLOWS`, those that lost anything.
    pub flows: usize,
    /// When the last datagram that was lost had been sent; none: nothing was lost since the event.
    pub whole_after: Option<Duration>,
    pub is_over: bool,
}

impl Loss {
    pub fn is_none(&self) -> bool {
        self.lost_there + self.lost_back == 0
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Loss { sent, lost_there, lost_back, lost_before, flows, .. } = self;
        if self.is_none() {
            return write!(f, "{sent} packets on {FLOWS} flows there and back, none lost");
        }
        write!(f, "{sent} packets, {lost_there} lost there, {lost_back} back, on {flows} of {FLOWS} flows")?;
        match self.whole_after {
            Some(after) => write!(f, "; the last {} ms after", after.as_millis()),
            None => Ok(()),
        }?;
        if *lost_before > 0 { write!(f, "; {lost_before} before") } else { Ok(()) }
    }
}

/// Sends from before the event until well after its end.
pub fn during(
    path: &Path,
    stop: &AtomicBool,
    event: impl FnOnce() -> Result<(), LabError> + Send,
) -> Result<Loss, Failed> {
    let bind = |namespace: &str, address| {
        in_namespace(namespace, || UdpSocket::bind((address, 0))).map_err(|error| format!("bind: {error}"))
    };
    let far = bind(&path.to_namespace, path.destination)?;
    let connect = || -> Result<Vec<UdpSocket>, io::Error> {
        far.set_read_timeout(Some(INTERVAL))?;
        let address = far.local_addr()?;
        let any = if path.destination.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let open = |_| {
            let socket = in_namespace(&path.from_namespace, || UdpSocket::bind(any))?;
            socket.connect(address)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        (0..FLOWS).map(open).collect()
    };
    let near = connect().map_err(|error| format!("open sockets: {error}"))?;
    let done = AtomicBool::new(false);
    let (sent, arrived) = thread::scope(|scope| {
        let echo = scope.spawn(|| echo(&far, &done));
        let sent = send(&near, stop, event);
        done.store(true, Ordering::Relaxed);
        (sent, echo.join())
    });
    let arrived = arrived.map_err(|_| "the far end ended by a fault of its own".to_owned())?;
    let (sent, happened) = sent?;
    Ok(tally(&sent, &arrived, happened))
}

/// One datagram that was sent.
#[derive(Debug, Clone, Copy)]
struct Sent {
    at: Instant,
    is_back: bool,
}

fn send(
    near: &[UdpSocket],
    stop: &AtomicBool,
    event: impl FnOnce() -> Result<(), LabError> + Send,
) -> Result<(Vec<Sent>, Instant), Failed> {
    let start = Instant::now();
    let mut sent: Vec<Sent> = Vec::new();
    let mut event = Some(event);
    let mut happened = start;
    let result = thread::scope(|scope| {
        let mut running = None;
        let mut end = None;
        loop {
            let now = Instant::now();
            if now >= start + BEFORE
                && let Some(event) = event.take()
            {
                happened = now;
                running = Some(scope.spawn(event));
            }
            if end.is_none() && running.as_ref().is_some_and(|event| event.is_finished()) {
                end = Some(now + AFTER);
            }
            let is_over = end.is_some_and(|end| now >= end) || stop.load(Ordering::Relaxed);
            if is_over || sent.len() >= MAX_SENT {
                return running.map(|event| event.join());
            }
            if let Some(socket) = near.get(sent.len() % FLOWS) {
                // One that cannot be sent does not arrive, and is counted so.
                let _ = socket.send(&(sent.len() as u64).to_be_bytes());
                sent.push(Sent { at: now, is_back: false });
            }
            collect(near, &mut sent);
            thread::sleep(INTERVAL);
        }
    });
    match result {
        None => return Err("stopped before anything happened".to_owned()),
        Some(Err(_)) => return Err("what was to happen ended by a fault of its own".to_owned()),
        Some(Ok(result)) => result.map_err(|error| error.to_string())?,
    }
    let end = Instant::now();
    while end.elapsed() < STRAGGLERS && sent.iter().any(|one| !one.is_back) {
        collect(near, &mut sent);
        thread::sleep(INTERVAL);
    }
    Ok((sent, happened))
}

/// Marks what has come back by now.
fn collect(near: &[UdpSocket], sent: &mut [Sent]) {
    let mut buffer = [0; 8];
    for socket in near {
        // An error here is ICMP's word about an earlier one, which is lost then; nothing more is there after it.
        while let Ok(8) = socket.recv(&mut buffer) {
            if let Some(one) = usize::try_from(u64::from_be_bytes(buffer)).ok().and_then(|number| sent.get_mut(number))
            {
                one.is_back = true;
            }
        }
    }
}

/// Numbers of what arrived, all sent back.
fn echo(far: &UdpSocket, done: &AtomicBool) -> Vec<u64> {
    let mut arrived = Vec::new();
    let mut buffer = [0; 8];
    while !done.load(Ordering::Relaxed) {
        match far.recv_from(&mut buffer) {
            Ok((8, from)) => {
                arrived.push(u64::from_be_bytes(buffer));
                // What cannot be sent back is counted as lost by the one who waits for it.
                let _ = far.send_to(&buffer, from);
            }
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => {}
        }
    }
    arrived
}

fn tally(sent: &[Sent], arrived: &[u64], happened: Instant) -> Loss {
    let mut has_arrived = vec![false; sent.len()];
    for number in arrived {
        if let Some(flag) = usize::try_from(*number).ok().and_then(|number| has_arrived.get_mut(number)) {
            *flag = true;
        }
    }
    let mut flows = [false; FLOWS];
    let mut loss = Loss {
        sent: sent.len(),
        lost_there: 0,
        lost_back: 0,
        lost_before: 0,
        flows: 0,
        whole_after: None,
        is_over: true,
    };
    let end = sent.last().map_or(happened, |one| one.at);
    for (number, (one, has_arrived)) in sent.iter().zip(has_arrived).enumerate() {
        if one.is_back {
            continue;
        }
        *(if has_arrived { &mut loss.lost_back } else { &mut loss.lost_there }) += 1;
        flows[number % FLOWS] = true;
        if one.at >= happened {
            loss.whole_after = Some(one.at.duration_since(happened));
        } else {
            loss.lost_before += 1;
        }
        loss.is_over &= end.duration_since(one.at) >= QUIET;
    }
    loss.flows = flows.iter().filter(|flow| **flow).count();
    loss
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_have_a_direction_and_a_time() {
        let start = Instant::now();
        let happened = start + Duration::from_millis(100);
        // Sent every 10 ms for 2 s.
        let check = |lost_there: &[usize], lost_back: &[usize], expected: &str| {
            let sent: Vec<Sent> = (0..200)
                .map(|number| Sent {
                    at: start + Duration::from_millis(10) * number as u32,
                    is_back: !lost_there.contains(&number) && !lost_back.contains(&number),
                })
                .collect();
            let arrived: Vec<u64> = (0..200).filter(|number| !lost_there.contains(&(*number as usize))).collect();
            let loss = tally(&sent, &arrived, happened);
            assert_eq!(format!("{loss} {}", loss.is_over), expected);
        };
        check(&[], &[], "200 packets on 16 flows there and back, none lost true");
        check(&[12, 28], &[13], "200 packets, 2 lost there, 1 back, on 2 of 16 flows; the last 180 ms after true");
        check(&[3], &[], "200 packets, 1 lost there, 0 back, on 1 of 16 flows; 1 before true");
        check(&[], &[150], "200 packets, 0 lost there, 1 back, on 1 of 16 flows; the last 1400 ms after false");
    }
}
