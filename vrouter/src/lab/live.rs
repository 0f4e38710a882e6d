//! A policy applied, and removed again, while a connection it forbids is open.
//!
//! ```text
//! open connection ──────echo──────echo──────echo──────echo──────▶ must never stop (preserve)
//!                    apply            delete
//! new connections     ok │  as expected   │ ok
//! ```

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::checks::{Path, accept, connect, listen};
use super::description::{Live, Verdict};
use super::report::Line;
use super::router::{DropCount, Router};

/// How long a change may take until it shows.
const EFFECT_LIMIT: Duration = Duration::from_secs(5);
/// A connection attempt that has no answer by then was dropped.
const ATTEMPT: Duration = Duration::from_millis(400);
/// Echoes the open connection must make after a change.
const ECHOES: u64 = 20;
const ECHO_LIMIT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(5);

/// All checks of the story; it goes on after a failure, and the policy is always removed.
pub fn live(router: &Router, live: &Live, path: &Path) -> Vec<Line> {
    let listener = match listen(path, live.tcp) {
        Ok(listener) => listener,
        Err(failure) => return vec![Line::new("live: listen", Err(failure))],
    };
    let done = AtomicBool::new(false);
    let echoes = AtomicU64::new(0);
    thread::scope(|scope| {
        scope.spawn(|| serve(&listener, &done));
        let lines = match connect(path, live.tcp, EFFECT_LIMIT) {
            Ok(stream) => {
                let source = stream.local_addr();
                scope.spawn(|| keep_talking(stream, &echoes, &done));
                let source = source.map_err(|error| format!("read own address: {error}"));
                story(router, live, path, &echoes, source)
            }
            Err(error) => vec![Line::new("live: open a connection", Err(error.to_string()))],
        };
        done.store(true, Ordering::Relaxed);
        lines
    })
}

fn story(
    router: &Router,
    live: &Live,
    path: &Path,
    echoes: &AtomicU64,
    source: Result<SocketAddr, String>,
) -> Vec<Line> {
    let mut lines = vec![Line::new("live: connection open before the policy", progresses(echoes))];
    let before = router.drops().unwrap_or_default();
    let applied = router.apply(&live.apply).map_err(|error| error.to_string());
    lines.push(Line::new("live: apply policy", applied.map(|()| live.apply.display().to_string())));

    let expected = live.verdict == Verdict::Allowed;
    let word = if expected { "allowed" } else { "dropped" };
    lines.push(Line::new(format!("live: new connection is {word}"), until_new_connections(path, live.tcp, expected)));
    lines.push(Line::new("live: open connection goes on", progresses(echoes)));
    if live.verdict == Verdict::Dropped {
        lines.push(Line::new("live: drop names its rule", named_drop(router, &before)));
    }
    lines.push(Line::new(
        "live: open connection is tracked",
        source.and_then(|source| tracked(router, live, path, source)),
    ));

    let deleted = router.delete(&live.apply).map_err(|error| error.to_string());
    lines.push(Line::new("live: delete policy", deleted.map(|()| live.apply.display().to_string())));
    lines.push(Line::new("live: new connection works again", until_new_connections(path, live.tcp, true)));
    lines.push(Line::new("live: open connection went on throughout", progresses(echoes)));
    lines
}

/// Tries until connecting works, or until it does not any more.
fn until_new_connections(path: &Path, port: u16, succeed: bool) -> Result<String, String> {
    let start = Instant::now();
    loop {
        let outcome = connect(path, port, ATTEMPT);
        let took = start.elapsed();
        let seen = match &outcome {
            Ok(_) => "connected".to_owned(),
            // A refusal is an answer from the far end: the packet went through.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => "refused by the far end".to_owned(),
            Err(error) => format!("no answer ({error})"),
        };
        let is_dropped = outcome.as_ref().is_err_and(|error| error.kind() == ErrorKind::TimedOut);
        if (succeed && outcome.is_ok()) || (!succeed && is_dropped) {
            return Ok(format!("{seen}, {took:.1?} after the change"));
        }
        if took > EFFECT_LIMIT {
            return Err(format!("{seen} still, {took:.1?} after the change"));
        }
        thread::sleep(POLL);
    }
}

/// The open connection makes some more echoes.
fn progresses(echoes: &AtomicU64) -> Result<String, String> {
    let from = echoes.load(Ordering::Relaxed);
    let start = Instant::now();
    loop {
        let now = echoes.load(Ordering::Relaxed);
        if now >= from + ECHOES {
            return Ok(format!("{} echoes in {:.1?}", now - from, start.elapsed()));
        }
        if start.elapsed() > ECHO_LIMIT {
            return Err(format!("{} echoes in {ECHO_LIMIT:?}, expected {ECHOES}", now - from));
        }
        thread::sleep(POLL);
    }
}

/// Some drop with a rule has more packets than before.
fn named_drop(router: &Router, before: &[DropCount]) -> Result<String, String> {
    let count = |drops: &[DropCount], wanted: &DropCount| -> u64 {
        let same = drops.iter().filter(|drop| drop.rule == wanted.rule && drop.reason == wanted.reason);
        same.map(|drop| drop.packets).sum()
    };
    let after = router.drops().map_err(|error| error.to_string())?;
    let grown = after.iter().filter(|drop| count(&after, drop) > count(before, drop));
    let named = grown.filter_map(|drop| Some((drop.rule.as_ref()?, drop))).next();
    match named {
        Some((rule, drop)) => Ok(format!("{}: {rule}, {} packets", drop.reason, count(&after, drop))),
        None => Err(format!("no drop of these names a rule: {after:?}")),
    }
}

fn tracked(router: &Router, live: &Live, path: &Path, source: SocketAddr) -> Result<String, String> {
    let destination = SocketAddr::new(path.destination, live.tcp);
    match router.has_tcp_flow(source.ip(), destination) {
        Ok(true) => Ok(format!("tcp {source} > {destination}")),
        Ok(false) => Err(format!("no flow tcp {source} > {destination}")),
        Err(error) => Err(error.to_string()),
    }
}

/// Accepts until told to stop, and sends back on each connection what comes.
fn serve(listener: &TcpListener, done: &AtomicBool) {
    thread::scope(|scope| {
        while !done.load(Ordering::Relaxed) {
            if let Ok(stream) = accept(listener, ATTEMPT) {
                scope.spawn(move || echo(stream, done));
            }
        }
    });
}

fn echo(mut stream: TcpStream, done: &AtomicBool) {
    let mut buffer = [0; 64];
    if stream.set_read_timeout(Some(ATTEMPT)).is_err() {
        return;
    }
    while !done.load(Ordering::Relaxed) {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) if stream.write_all(&buffer[..length]).is_err() => return,
            Ok(_) => {}
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {}
            Err(_) => return,
        }
    }
}

/// One echo after the other; the count stops when the connection does.
fn keep_talking(mut stream: TcpStream, echoes: &AtomicU64, done: &AtomicBool) {
    let mut buffer = [0; 64];
    if stream.set_read_timeout(Some(EFFECT_LIMIT)).is_err() {
        return;
    }
    while !done.load(Ordering::Relaxed) {
        if stream.write_all(&buffer).and_then(|()| stream.read_exact(&mut buffer)).is_err() {
            return;
        }
        echoes.fetch_add(1, Ordering::Relaxed);
        thread::sleep(POLL);
    }
}
