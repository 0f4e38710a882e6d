//! One peer tells a million prefixes: how long until the speaker has them all in its table, what that cost, and what it holds.
//!
//! The time begins with the first byte that is sent. The table is there when the speaker says that it has so many; it is asked every
//! few milliseconds. What the answers cost is part of what is measured, and little. All is done, with us the forwarding
//! tables of the workers too, when the speaker has nothing left to compute: that is what is compared, and memory is that of then.

use std::thread;
use std::time::{Duration, Instant};

use super::load::{self, Teller};
use super::peer::Peer;
use super::place::{self, Place};
use super::speaker::{Running, Session, Sessions, Speaker};
use super::{AS_NUMBER, LIMIT, Size};
use crate::Error;
use crate::lab::LabError;
use crate::memory::thousands;
use crate::report::{Measurement, Report, median};

const TELLER_AS: u32 = 65001;
const STEP: Duration = Duration::from_millis(5);
/// Who uses less than a twentieth of a core for so long has nothing left to do.
const QUIET: Duration = Duration::from_millis(100);

struct Figures {
    /// Until the table is there, and until all is done.
    table: f64,
    done: f64,
    cpu: f64,
    resident: f64,
    /// Before there was anything to hold.
    resident_before: f64,
}

pub fn measure(size: &Size, rounds: usize, speakers: &[Speaker], report: &mut Report) -> Result<(), Error> {
    let prefixes = load::prefixes(size.prefixes);
    let teller = Teller { address: place::peer(0), as_number: Some(TELLER_AS) };
    let (bytes, sets) = load::updates(&prefixes, teller, 7);
    report.note(&format!(
        "{} prefixes, {:.2} of a set of attributes, {:.1} MB of UPDATEs",
        thousands(prefixes.len()),
        prefixes.len() as f64 / sets as f64,
        bytes.len() as f64 / 1e6
    ));
    let mut all: Vec<Vec<Figures>> = speakers.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for (speaker, figures) in speakers.iter().zip(&mut all) {
            figures.push(once(*speaker, &bytes, prefixes.len())?);
        }
    }
    for (speaker, own) in speakers.iter().zip(&all) {
        let of = |number: &dyn Fn(&Figures) -> f64| median(&own.iter().map(number).collect::<Vec<_>>());
        let ratios: Vec<f64> = own.iter().zip(&all[0]).map(|(own, first)| own.done / first.done).collect();
        report.add(Measurement {
            group: "bgp, one peer",
            name: format!("{}, {} prefixes", speaker.name(), thousands(prefixes.len())),
            frame_mode: "veth",
            numbers: vec![
                ("x BIRD", median(&ratios)),
                ("s to table", of(&|figures| figures.table)),
                ("s until done", of(&|figures| figures.done)),
                ("CPU s", of(&|figures| figures.cpu)),
                ("MiB after", of(&|figures| figures.resident)),
                ("MiB before", of(&|figures| figures.resident_before)),
                (
                    "B/prefix",
                    of(&|figures| (figures.resident - figures.resident_before) * 1_048_576.0 / prefixes.len() as f64),
                ),
            ],
        })?;
    }
    Ok(())
}

fn once(speaker: Speaker, bytes: &[u8], prefixes: usize) -> Result<Figures, LabError> {
    let place = Place::new(1)?;
    let session = Session { address: place::peer(0), as_number: TELLER_AS };
    let mut running = speaker.start(&place, &Sessions { as_number: AS_NUMBER, peers: vec![session] })?;
    let peer = place.among_peers(|| Peer::connect(session.address, session.as_number))?;
    let (cpu_before, resident_before) = (running.cpu(), running.resident());
    let start = Instant::now();
    let (table, done) = thread::scope(|scope| {
        let sender = scope.spawn(|| peer.send(bytes));
        loop {
            let there = running.prefixes(0, session.address)?;
            if there >= prefixes as u64 {
                break;
            }
            if start.elapsed() > LIMIT || peer.is_over() {
                let ending = peer.ending();
                return Err(LabError::Peer(format!("{}: {there} of {prefixes} prefixes: {ending}", speaker.name())));
            }
            thread::sleep(STEP);
        }
        let table = start.elapsed().as_secs_f64();
        sender.join().map_err(|_| LabError::Panicked)??;
        let done = await_quiet(&running, start);
        Ok::<(f64, f64), LabError>((table, done))
    })?;
    let figures =
        Figures { table, done, cpu: running.cpu() - cpu_before, resident: running.resident(), resident_before };
    drop(peer);
    running.stop()?;
    Ok(figures)
}

/// Seconds until it had nothing left to do.
fn await_quiet(running: &Running, start: Instant) -> f64 {
    // When it was busy last, and how much it had used by then.
    let (mut busy, mut last) = (running.busy(), start.elapsed());
    while start.elapsed() < last + QUIET && start.elapsed() < LIMIT {
        thread::sleep(STEP);
        let (now, used) = (start.elapsed(), running.busy());
        if used.saturating_sub(busy) > (now - last).as_nanos() as u64 / 20 + QUIET.as_nanos() as u64 / 50 {
            (busy, last) = (used, now);
        }
    }
    last.as_secs_f64()
}
