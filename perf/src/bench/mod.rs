//! `vrouter bench`: what a router carries, how long packets take in it, and what changes under load cost them.
//!
//! | file | what it holds |
//! |---|---|
//! | `mod.rs` | what can be asked, and the points that are measured |
//! | `throughput.rs` | `mrr`, `ndr`, `pdr`, `compare`: packets per second |
//! | `latency.rs` | `latency`: percentiles at fixed loads, and of an idle ping-pong |
//! | `decide.rs` | `decide`: every packet decided anew, beside the kernel in Calico's layouts |
//! | `steady.rs` | `soak`, `reconf`: a steady load, for long or while tables are swapped |
//! | `record.rs` | lines for people, JSON lines, and the facts of the host |
//!
//! A measurement has points: a first one, and others that differ from it in one thing, so that each thing can be plotted.
//! At every point forwarders take turns, round by round, in one lab.

mod decide;
mod latency;
mod record;
mod steady;
mod throughput;

use std::path::PathBuf;
use std::time::Duration;

pub use record::{BenchError, Recorder};
pub(crate) use throughput::receive_rate;

use fastpath::io::gauge::Depth;

use crate::forwarder::{Forwarder, Kernel};
use crate::lab::Lab;
use crate::replay::Capture;
use crate::router::RouterOptions;
use crate::traffic::{Family, Size, Traffic};
use crate::trial::{Ends, Tester};

/// Of one trial. Short enough that the kernel does not take the cores away from urgent threads for the sake of others.
pub const TRIAL: Duration = Duration::from_millis(400);
/// For a search, where nothing else is asked.
const SEARCH: Duration = Duration::from_secs(25);
/// Loads between which is searched, packets a second.
const LOADS: (f64, f64) = (1e3, 2e7);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Mrr,
    Ndr,
    Pdr,
    Latency,
    Soak,
    Reconf,
    Compare,
    Decide,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Mrr => "mrr",
            Kind::Ndr => "ndr",
            Kind::Pdr => "pdr",
            Kind::Latency => "latency",
            Kind::Soak => "soak",
            Kind::Reconf => "reconf",
            Kind::Compare => "compare",
            Kind::Decide => "decide",
        }
    }

    /// What is measured, in a sentence.
    pub fn about(self) -> &'static str {
        match self {
            Kind::Mrr => "maximum receive rate: packets that arrive while more are sent than can be forwarded",
            Kind::Ndr => "no drop rate: the highest load without loss, by MLRsearch",
            Kind::Pdr => "partial drop rate: the highest load that loses no more than 0.5 %, by MLRsearch",
            Kind::Latency => "one-way latency at 10, 50 and 90 % of the partial drop rate, and of an idle ping-pong",
            Kind::Soak => "a steady load for long: loss, latency and memory over time",
            Kind::Reconf => "a steady load while tables are swapped: packets lost, and packets that met half a change",
            Kind::Compare => "maximum receive rate of several forwarders, in turn",
            Kind::Decide => "packets each of which is decided anew, beside the kernel in Calico's layouts",
        }
    }
}

/// What is asked for. Lists have at least one value; the first of each makes the first point.
#[derive(Clone, Debug)]
pub struct Plan {
    pub kind: Kind,
    pub sizes: Vec<Size>,
    pub families: Vec<Family>,
    pub flows: Vec<u32>,
    pub rules: Vec<usize>,
    pub routes: Vec<usize>,
    pub rounds: usize,
    /// Of one trial; of the whole for `soak`; of a search for `ndr` and `pdr`.
    pub duration: Option<Duration>,
    /// Packets a second, for `soak`, `reconf` and `latency`; none: a share of what is found to be carried.
    pub rate: Option<f64>,
    /// Packets of this instead of made ones, for `mrr`, `ndr`, `pdr` and `compare`.
    pub capture: Option<PathBuf>,
    pub ends: Ends,
    pub out: PathBuf,
    /// JSON lines on standard output too, in place of lines for people.
    pub json: bool,
    pub commit: Option<String>,
}

/// What one row of figures is about.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Point {
    pub traffic: Traffic,
    pub rules: usize,
    pub routes: usize,
    /// What is different from the first point.
    pub varies: &'static str,
}

impl Point {
    /// Our router, with room for these flows.
    pub fn router(&self) -> RouterOptions {
        let flows = self.traffic.flows;
        RouterOptions {
            rules: self.rules,
            routes: self.routes,
            flows: (flows + flows / 2).next_power_of_two().max(1 << 16),
            ..RouterOptions::default()
        }
    }

    pub fn name(&self) -> String {
        let grouped = crate::memory::thousands;
        let rules = if self.rules == 1 { "rule" } else { "rules" };
        format!("{}, {} {rules}, {} routes", self.traffic.name(), grouped(self.rules), grouped(self.routes))
    }
}

impl Plan {
    /// What a row of a table is about.
    fn title(&self, point: &Point) -> String {
        match &self.capture {
            Some(path) => {
                format!("packets of {}, {} rules, {} routes", path.display(), point.rules, point.routes)
            }
            None => point.name(),
        }
    }

    /// Bytes of a packet, where they are known.
    fn bytes(&self, point: &Point) -> f64 {
        if self.capture.is_some() { f64::NAN } else { point.traffic.size.mean() }
    }

    pub fn points(&self) -> Vec<Point> {
        let traffic = Traffic { size: self.sizes[0], family: self.families[0], flows: self.flows[0] };
        let first = Point { traffic, rules: self.rules[0], routes: self.routes[0], varies: "nothing" };
        let mut points = vec![first];
        let with = |change: &dyn Fn(&mut Point), varies| {
            let mut point = Point { varies, ..first };
            change(&mut point);
            point
        };
        points.extend(self.sizes[1..].iter().map(|size| with(&|point| point.traffic.size = *size, "size")));
        points.extend(self.families[1..].iter().map(|family| with(&|point| point.traffic.family = *family, "family")));
        points.extend(self.flows[1..].iter().map(|flows| with(&|point| point.traffic.flows = *flows, "flows")));
        points.extend(self.rules[1..].iter().map(|rules| with(&|point| point.rules = *rules, "rules")));
        points.extend(self.routes[1..].iter().map(|routes| with(&|point| point.routes = *routes, "routes")));
        points
    }
}

/// Where a point's packets come from: made, or from the plan's capture.
fn tester<'lab>(plan: &Plan, lab: &'lab Lab, point: &Point, depth: Depth) -> Result<Tester<'lab>, BenchError> {
    match &plan.capture {
        Some(path) => Ok(Tester::replaying(lab, Capture::read(path)?)?),
        None => Ok(Tester::between(lab, point.traffic, depth, plan.ends)?),
    }
}

/// Measures, tells, and writes the lines. `others` are compared too, beside the kernel and our router.
pub fn run(plan: &Plan, others: &[Box<dyn Forwarder>]) -> Result<PathBuf, BenchError> {
    let mut recorder = Recorder::open(plan)?;
    match plan.kind {
        Kind::Mrr | Kind::Compare => throughput::receive_rates(plan, others, &mut recorder)?,
        Kind::Ndr | Kind::Pdr => throughput::searches(plan, &mut recorder)?,
        Kind::Decide => decide::measure(plan, &mut recorder)?,
        Kind::Latency => latency::measure(plan, &mut recorder)?,
        Kind::Soak => steady::soak(plan, &mut recorder)?,
        Kind::Reconf => steady::reconfigure(plan, &mut recorder)?,
    }
    Ok(recorder.path().to_owned())
}

/// The kernel first: what the others are compared with.
fn forwarders(point: &Point) -> Vec<(&'static str, Box<dyn Forwarder>)> {
    vec![("kernel", Box::new(Kernel)), ("router", Box::new(point.router()))]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_differs_from_the_first_in_one_thing() {
        let plan = Plan {
            kind: Kind::Mrr,
            sizes: vec![Size::Fixed(64), Size::Fixed(512), Size::Imix],
            families: vec![Family::Ipv4, Family::Ipv6],
            flows: vec![64, 1000],
            rules: vec![1],
            routes: vec![0, 10, 20],
            rounds: 1,
            duration: None,
            rate: None,
            capture: None,
            ends: Ends::default(),
            out: PathBuf::new(),
            json: false,
            commit: None,
        };
        let varies: Vec<&str> = plan.points().iter().map(|point| point.varies).collect();
        assert_eq!(varies, ["nothing", "size", "size", "family", "flows", "routes", "routes"]);
        let last = plan.points()[6];
        assert_eq!((last.routes, last.rules, last.traffic.size), (20, 1, Size::Fixed(64)));
    }
}
