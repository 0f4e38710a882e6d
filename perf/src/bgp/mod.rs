//! Our BGP speaker beside BIRD 2, in turn, in one run: the same peers, the same bytes.
//!
//! ```text
//!     peers of this process ══ veth ══ BIRD 2 | vrouter run
//!       send UPDATEs made before, count what comes
//! ```
//!
//! | file | what it holds |
//! |---|---|
//! | `table.rs` | one peer, a million prefixes: time until they are in the table, CPU, memory |
//! | `reflector.rs` | a route reflector with clients that all tell something: time until all have it |
//! | `churn.rs` | a route reflector under changes: sessions lost, how late a change is heard of |
//! | `speaker.rs` | who is measured: started, asked, stopped |
//! | `peer.rs` | a peer that is only load |
//! | `load.rs` `wire.rs` | routes as the public network has them; messages made and counted |
//! | `place.rs` | the namespaces |
//!
//! What is not installed is a line that says so, and never an error. A ratio is to the first of a round, which is BIRD where it is there.

pub mod churn;
pub mod load;
pub mod peer;
pub mod place;
pub mod reflector;
pub mod speaker;
pub mod table;
pub mod wire;

use std::time::Duration;

use speaker::Speaker;

use crate::report::Report;
use crate::{Error, Scale};

/// The system of who is measured.
const AS_NUMBER: u32 = 64512;
/// For one round of one speaker.
const LIMIT: Duration = Duration::from_secs(300);

/// How much is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Size {
    /// By the one peer.
    pub prefixes: usize,
    /// Clients of the reflector, and what each tells.
    pub clients: usize,
    pub each: usize,
    pub churn_clients: usize,
    /// Changes a second, and for how long.
    pub churn_rate: usize,
    pub churn: Duration,
}

pub fn measure(scale: &Scale, report: &mut Report) -> Result<(), Error> {
    let speakers = speakers(report);
    if speakers.is_empty() {
        return Ok(());
    }
    table::measure(&scale.bgp, scale.rounds, &speakers, report)?;
    reflector::measure(&scale.bgp, scale.rounds, &speakers, report)?;
    churn::measure(&scale.bgp, &speakers, report)
}

/// `table.rs` alone.
pub fn measure_table(scale: &Scale, report: &mut Report) -> Result<(), Error> {
    let speakers = speakers(report);
    if speakers.is_empty() { Ok(()) } else { table::measure(&scale.bgp, scale.rounds, &speakers, report) }
}

/// Those that are installed.
fn speakers(report: &mut Report) -> Vec<Speaker> {
    let mut speakers = Vec::new();
    for speaker in Speaker::ALL {
        match speaker.absent() {
            Some(reason) => report.note(&format!("{}: not measured: {reason}", speaker.name())),
            None => speakers.push(speaker),
        }
    }
    speakers
}
