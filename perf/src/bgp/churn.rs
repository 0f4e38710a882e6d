//! A route reflector whose clients tell something new all the time: do all sessions stay, and how late does a client hear of it?
//!
//! Every few milliseconds some clients tell one of their prefixes once more, with the time as its MED, at a rate that does not wait for
//! anybody. All other clients are told, and take the age of what they are told. A speaker that is too slow is late or tells only the last
//! of several changes; both show: in the ages, and in how many of the changes came.

use std::thread;
use std::time::{Duration, Instant};

use super::Size;
use super::peer::Peer;
use super::place::{self, Place};
use super::reflector;
use super::speaker::Speaker;
use super::wire::{self, Attributes, Prefix};
use crate::Error;
use crate::lab::LabError;
use crate::report::{Measurement, Report, Spread, median};

/// Prefixes of a client, told in turn.
const EACH: usize = 1000;
/// Clients that take ages; all count.
const OBSERVERS: usize = 10;
const TICK: Duration = Duration::from_millis(10);
/// Nothing more has come for so long: what is late is over.
const QUIET: Duration = Duration::from_secs(2);
const DRAIN_LIMIT: Duration = Duration::from_secs(60);

struct Figures {
    lost: f64,
    /// Milliseconds.
    ages: [f64; 4],
    /// Of what each client should have been told, how much came.
    share: f64,
    /// Until the last of it came, after the last was sent.
    late: f64,
    /// How late the load itself was, at most.
    behind: f64,
    cpu: f64,
    resident: f64,
}

pub fn measure(size: &Size, speakers: &[Speaker], report: &mut Report) -> Result<(), Error> {
    for speaker in speakers {
        let figures = once(*speaker, size)?;
        report.add(Measurement {
            group: "bgp, churn",
            name: format!("{}, {} clients, {} updates/s", speaker.name(), size.churn_clients, size.churn_rate),
            frame_mode: "veth",
            numbers: vec![
                ("sessions lost", figures.lost),
                ("p50 ms", figures.ages[0]),
                ("p99 ms", figures.ages[1]),
                ("p99.9 ms", figures.ages[2]),
                ("max ms", figures.ages[3]),
                ("came", figures.share),
                ("s after", figures.late),
                ("load late ms", figures.behind),
                ("CPU s", figures.cpu),
                ("MiB after", figures.resident),
            ],
        })?;
    }
    Ok(())
}

fn prefix(client: usize, number: usize) -> Prefix {
    // 100.0.0.0 and on: a /16 for each client, of which /26s are told.
    (0x6400_0000 + ((client as u32) << 16) + ((number % EACH) as u32) * 64, 26)
}

fn attributes(client: usize, med: u32) -> Attributes {
    Attributes {
        as_path: vec![65000 + client as u32],
        next_hop: place::peer(client),
        med: Some(med),
        local_pref: Some(100),
        communities: Vec::new(),
    }
}

fn once(speaker: Speaker, size: &Size) -> Result<Figures, LabError> {
    let clients = size.churn_clients;
    let place = Place::new(clients)?;
    let running = speaker.start(&place, &reflector::sessions(clients))?;
    let peers = reflector::connect(&place, clients)?;
    let loads: Vec<Vec<u8>> = (0..clients)
        .map(|client| {
            let mut bytes = Vec::new();
            let all: Vec<Prefix> = (0..EACH).map(|number| prefix(client, number)).collect();
            wire::update(&mut bytes, &attributes(client, 0), &all);
            wire::end_of_rib(&mut bytes);
            bytes
        })
        .collect();
    reflector::exchange(&peers, &loads, ((clients - 1) * EACH) as u64)?;
    let (cpu_before, start) = (running.cpu(), Instant::now());
    let told_before: u64 = peers.iter().map(Peer::reachable).sum();
    peers.iter().take(OBSERVERS).for_each(|peer| peer.measure_ages(start));
    let (sent, behind) = churn(&peers, start, size)?;
    let ended = Instant::now();
    let last = drain(&peers);
    let told: u64 = peers.iter().map(Peer::reachable).sum::<u64>() - told_before;
    let figures = Figures {
        lost: peers.iter().filter(|peer| peer.is_over()).count() as f64,
        ages: ages(&peers),
        share: told as f64 / (sent as f64 * (clients - 1) as f64),
        late: last.saturating_duration_since(ended).as_secs_f64(),
        behind: behind.as_secs_f64() * 1e3,
        cpu: running.cpu() - cpu_before,
        resident: running.resident(),
    };
    drop(peers);
    running.stop()?;
    Ok(figures)
}

/// Tells changes for as long as it should take, and gives back how many, and how late the latest was.
fn churn(peers: &[Peer], start: Instant, size: &Size) -> Result<(u64, Duration), LabError> {
    let per_tick = (size.churn_rate as f64 * TICK.as_secs_f64()).max(1.0) as usize;
    // A thread for some of the clients each, so that one that is not read does not hold up all.
    let threads = peers.len().min(10);
    let pause = TICK * threads as u32;
    let result: Vec<Result<(u64, Duration), LabError>> = thread::scope(|scope| {
        let senders: Vec<_> = (0..threads)
            .map(|thread| {
                let own: Vec<(usize, &Peer)> = peers.iter().enumerate().skip(thread).step_by(threads).collect();
                // Each has its tick in turn, so that changes come evenly.
                let begin = start + TICK * thread as u32;
                scope.spawn(move || sender(&own, begin, start, pause, per_tick, size.churn))
            })
            .collect();
        senders.into_iter().map(|sender| sender.join().unwrap_or(Err(LabError::Panicked))).collect()
    });
    let mut all = (0, Duration::ZERO);
    for result in result {
        let (sent, behind) = result?;
        all = (all.0 + sent, all.1.max(behind));
    }
    Ok(all)
}

fn sender(
    own: &[(usize, &Peer)],
    begin: Instant,
    since: Instant,
    pause: Duration,
    per_tick: usize,
    length: Duration,
) -> Result<(u64, Duration), LabError> {
    let (mut sent, mut behind, mut next) = (0_usize, Duration::ZERO, begin);
    while next < since + length {
        let now = Instant::now();
        if let Some(wait) = next.checked_duration_since(now) {
            thread::sleep(wait);
        } else {
            behind = behind.max(now.duration_since(next));
        }
        // The age counts from when it was due, not from when the load came to it.
        let med = next.duration_since(since).as_micros() as u32;
        let mut bytes: Vec<Vec<u8>> = own.iter().map(|_| Vec::new()).collect();
        for _ in 0..per_tick {
            let position = sent % own.len();
            let (client, _) = own[position];
            wire::update(&mut bytes[position], &attributes(client, med), &[prefix(client, sent / own.len())]);
            sent += 1;
        }
        for ((_, peer), bytes) in own.iter().zip(&bytes) {
            // A session that is lost shows; the others go on.
            if !peer.is_over() {
                let _ = peer.send(bytes);
            }
        }
        next += pause;
    }
    Ok((sent as u64, behind))
}

/// Waits until nothing comes any more; when the last came.
fn drain(peers: &[Peer]) -> Instant {
    let start = Instant::now();
    loop {
        let last = peers.iter().filter_map(Peer::last).max().unwrap_or(start);
        if last.elapsed() > QUIET || start.elapsed() > DRAIN_LIMIT {
            return last;
        }
        thread::sleep(TICK);
    }
}

/// p50, p99, p99.9 and the highest of all observers, in milliseconds: the middle one of the observers' own.
fn ages(peers: &[Peer]) -> [f64; 4] {
    let spreads: Vec<Spread> = peers.iter().filter_map(Peer::take_ages).map(|(spread, _)| spread).collect();
    [50.0, 99.0, 99.9, 100.0].map(|percent| {
        let all: Vec<f64> = spreads.iter().map(|spread| spread.percentile(percent) / 1e3).collect();
        if percent < 100.0 { median(&all) } else { all.into_iter().fold(f64::NAN, f64::max) }
    })
}
