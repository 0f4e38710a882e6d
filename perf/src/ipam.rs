//! Addresses given out and back by the daemon: how many in a second, and how long one request waits.
//!
//! ```text
//!     namespace   vrouter run, its datastore on disk
//!                    ▲ unix socket: assign, release
//!                 this process: one asker after the other, then several at the same time
//! ```
//!
//! A request is timed from the connection to the last byte of the answer: parsing, planning and the commit, which the disk
//! has to keep, are all in it. What comes while a commit is under way shares the next.

use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use serde_json::json;

use crate::cluster::{Place, program};
use crate::lab::{LabError, system};
use crate::report::{Measurement, Report, Spread};
use crate::{Error, Scale};

/// Askers at the same time: fewer than the daemon serves.
const ASKERS: [usize; 2] = [1, 12];

pub fn measure(scale: &Scale, report: &mut Report) -> Result<(), Error> {
    let Some(program) = program() else {
        report.note("ipam: no vrouter beside this program; build it first: cargo build --release -p vrouter");
        return Ok(());
    };
    let place = Place::new("ipam")?;
    let mut daemon = place.start(&program, &[])?;
    place.apply(&[json!({
        "apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": { "name": "main" },
        "spec": { "cidr": "10.0.0.0/16" },
    })])?;
    for askers in ASKERS {
        let rounds = scale.addresses / askers;
        let (assigning, releasing) = (Mutex::new(Spread::default()), Mutex::new(Spread::default()));
        let start = Instant::now();
        let outcomes: Vec<Result<(), LabError>> = thread::scope(|scope| {
            let ask = |asker: usize| {
                let (place, assigning, releasing) = (&place, &assigning, &releasing);
                move || (0..rounds).try_for_each(|round| pair(place, &format!("{asker}.{round}"), assigning, releasing))
            };
            let threads: Vec<_> = (0..askers).map(|asker| scope.spawn(ask(asker))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap_or(Ok(()))).collect()
        });
        let seconds = start.elapsed().as_secs_f64();
        outcomes.into_iter().collect::<Result<(), LabError>>()?;
        let milliseconds = |spread: &Mutex<Spread>, percent| match spread.lock() {
            Ok(spread) => spread.percentile(percent) / 1e6,
            Err(_) => f64::NAN,
        };
        report.add(Measurement {
            group: "ipam",
            name: format!("assign and release, {askers} at the same time"),
            frame_mode: "copy",
            numbers: vec![
                ("pairs/s", (rounds * askers) as f64 / seconds),
                ("ms assign p50", milliseconds(&assigning, 50.0)),
                ("p99", milliseconds(&assigning, 99.0)),
                ("ms release p50", milliseconds(&releasing, 50.0)),
                ("p99 ", milliseconds(&releasing, 99.0)),
            ],
        })?;
    }
    daemon.stop()?;
    Ok(())
}

/// One address under a name of its own, and back.
fn pair(place: &Place, handle: &str, assigning: &Mutex<Spread>, releasing: &Mutex<Spread>) -> Result<(), LabError> {
    let attributes = json!({ "pod": format!("pod-{handle}"), "namespace": "default" });
    let assign = json!({ "assign": { "ipv4": 1, "handle": handle, "attributes": attributes } });
    let release = json!({ "release": { "handle": handle } });
    for (call, spread) in [(assign, assigning), (release, releasing)] {
        let start = Instant::now();
        place.post("/v1/ipam", &call).map_err(system("ask for an address"))?;
        let taken = start.elapsed().as_nanos() as u64;
        if let Ok(mut spread) = spread.lock() {
            spread.record(taken, 1);
        }
    }
    Ok(())
}
