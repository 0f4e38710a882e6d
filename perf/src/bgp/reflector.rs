//! A route reflector with clients that all tell something at once: how long until every client has what all others told.
//!
//! The time begins when the first client may send, and ends with the last prefix that the last client was told. Clients read as fast as
//! they can, on a thread each, and share the machine's cores with the speaker: what they cost is the same whoever is measured.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use super::load::{self, Teller};
use super::peer::Peer;
use super::place::{self, Place};
use super::speaker::{Session, Sessions, Speaker};
use super::{AS_NUMBER, LIMIT, Size, wire};
use crate::Error;
use crate::lab::LabError;
use crate::memory::thousands;
use crate::report::{Measurement, Report, median};

const STEP: Duration = Duration::from_millis(5);

struct Figures {
    seconds: f64,
    cpu: f64,
    resident: f64,
    /// UPDATEs and octets that a client was sent on average.
    updates: f64,
    megabytes: f64,
    /// Prefixes that a client was told more than once, or told not to be there: churn.
    excess: f64,
}

pub fn measure(size: &Size, rounds: usize, speakers: &[Speaker], report: &mut Report) -> Result<(), Error> {
    let loads = loads(size.clients, size.each);
    let mut all: Vec<Vec<Figures>> = speakers.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for (speaker, figures) in speakers.iter().zip(&mut all) {
            figures.push(once(*speaker, &loads, size)?);
        }
    }
    for (speaker, own) in speakers.iter().zip(&all) {
        let of = |number: &dyn Fn(&Figures) -> f64| median(&own.iter().map(number).collect::<Vec<_>>());
        let ratios: Vec<f64> = own.iter().zip(&all[0]).map(|(own, first)| own.seconds / first.seconds).collect();
        report.add(Measurement {
            group: "bgp, route reflector",
            name: format!("{}, {} clients x {}", speaker.name(), size.clients, thousands(size.each)),
            frame_mode: "veth",
            numbers: vec![
                ("x BIRD", median(&ratios)),
                ("s to clients", of(&|figures| figures.seconds)),
                ("CPU s", of(&|figures| figures.cpu)),
                ("MiB after", of(&|figures| figures.resident)),
                ("k updates", of(&|figures| figures.updates / 1e3)),
                ("MB a client", of(&|figures| figures.megabytes)),
                ("told twice", of(&|figures| figures.excess)),
            ],
        })?;
    }
    Ok(())
}

/// What each client tells: nothing twice.
pub(super) fn loads(clients: usize, each: usize) -> Vec<Vec<u8>> {
    let prefixes = load::prefixes(clients * each);
    let load = |(number, own): (usize, &[wire::Prefix])| {
        let teller = Teller { address: place::peer(number), as_number: None };
        load::updates(own, teller, number as u64).0
    };
    prefixes.chunks(each).enumerate().map(load).collect()
}

pub(super) fn sessions(clients: usize) -> Sessions {
    let peers = (0..clients).map(|number| Session { address: place::peer(number), as_number: AS_NUMBER });
    Sessions { as_number: AS_NUMBER, peers: peers.collect() }
}

/// All clients, each with its session.
pub(super) fn connect(place: &Place, clients: usize) -> Result<Vec<Peer>, LabError> {
    place.among_peers(|| (0..clients).map(|number| Peer::connect(place::peer(number), AS_NUMBER)).collect())
}

/// All tell what they have, and all are waited for.
pub(super) fn exchange(peers: &[Peer], loads: &[Vec<u8>], wanted: u64) -> Result<f64, LabError> {
    peers.iter().for_each(|peer| peer.expect(wanted));
    let barrier = Barrier::new(peers.len() + 1);
    thread::scope(|scope| {
        let senders: Vec<_> = peers
            .iter()
            .zip(loads)
            .map(|(peer, load)| {
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    peer.send(load)
                })
            })
            .collect();
        barrier.wait();
        let start = Instant::now();
        let last = loop {
            let reached: Vec<Instant> = peers.iter().filter_map(Peer::reached).collect();
            if reached.len() == peers.len() {
                break reached.into_iter().max();
            }
            if let Some(over) = peers.iter().find(|peer| peer.is_over()) {
                return Err(LabError::Peer(format!("a session ended: {}", over.ending())));
            }
            if start.elapsed() > LIMIT {
                let least = peers.iter().map(Peer::reachable).min().unwrap_or(0);
                return Err(LabError::Peer(format!("{least} of {wanted} prefixes came to a client")));
            }
            thread::sleep(STEP);
        };
        for sender in senders {
            sender.join().map_err(|_| LabError::Panicked)??;
        }
        Ok(last.map_or(0.0, |last| last.saturating_duration_since(start).as_secs_f64()))
    })
}

fn once(speaker: Speaker, loads: &[Vec<u8>], size: &Size) -> Result<Figures, LabError> {
    let place = Place::new(size.clients)?;
    let running = speaker.start(&place, &sessions(size.clients))?;
    let peers = connect(&place, size.clients)?;
    let cpu_before = running.cpu();
    let wanted = ((size.clients - 1) * size.each) as u64;
    let seconds = exchange(&peers, loads, wanted)?;
    let mean = |number: &dyn Fn(&Peer) -> u64| peers.iter().map(number).sum::<u64>() as f64 / peers.len() as f64;
    let figures = Figures {
        seconds,
        cpu: running.cpu() - cpu_before,
        resident: running.resident(),
        updates: mean(&Peer::updates),
        megabytes: mean(&Peer::bytes) / 1e6,
        excess: mean(&|peer| peer.reachable() - wanted + peer.withdrawn()),
    };
    drop(peers);
    running.stop()?;
    Ok(figures)
}
