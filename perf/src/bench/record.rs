//! What a bench tells: lines for people, and JSON lines in a file, the facts of the host first.
//!
//! Every line has `record`: `host`, `throughput`, `latency`, `soak` or `reconf`. `docs/BENCH.md` lists their fields.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{Plan, Point};
use crate::lab::LabError;
use crate::replay::ReplayError;
use crate::report::{Machine, output_of};
use crate::trial::{Generator, Outcome, Sink};

#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    #[error(transparent)]
    Lab(#[from] LabError),
    #[error(transparent)]
    Replay(#[from] ReplayError),
    #[error("write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("write to stdout")]
    Output(#[source] io::Error),
    #[error("--pcap: packets of a capture carry no stamps, so only mrr, ndr, pdr and compare can use them")]
    Capture,
    #[error("needs root: it makes network namespaces, loads programs into the kernel and opens AF_XDP sockets")]
    Root,
}

/// Where lines go.
pub struct Recorder {
    path: PathBuf,
    file: File,
    json: bool,
    kind: &'static str,
}

impl Recorder {
    pub fn open(plan: &Plan) -> Result<Recorder, BenchError> {
        if !nix::unistd::geteuid().is_root() {
            return Err(BenchError::Root);
        }
        let path = plan.out.join(format!("{}.jsonl", plan.kind.name()));
        let failed = |source| BenchError::Write { path: path.clone(), source };
        fs::create_dir_all(&plan.out).map_err(failed)?;
        let file = File::create(&path).map_err(failed)?;
        let mut recorder = Recorder { path, file, json: plan.json, kind: plan.kind.name() };
        let facts = facts(plan);
        recorder.say(&format!("{}: {}", plan.kind.name(), plan.kind.about()))?;
        recorder.say(&format!(
            "{} × {}, Linux {}, load {}; veth, native XDP, frames copied; tester on core {}, forwarder on core {}",
            facts["cores"],
            text(&facts["cpu"]),
            text(&facts["kernel"]),
            facts["load_average"],
            crate::trial::TESTER_CORE,
            crate::trial::FORWARDER_CORE,
        ))?;
        recorder.write(facts)?;
        Ok(recorder)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A line for people.
    pub fn say(&self, text: &str) -> Result<(), BenchError> {
        if self.json {
            return Ok(());
        }
        match writeln!(io::stdout(), "{text}") {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(BenchError::Output(error)),
            _ => Ok(()),
        }
    }

    /// A line for programs.
    pub fn write(&mut self, mut line: Value) -> Result<(), BenchError> {
        line["bench"] = self.kind.into();
        writeln!(self.file, "{line}").map_err(|source| BenchError::Write { path: self.path.clone(), source })?;
        match self.json.then(|| writeln!(io::stdout(), "{line}")) {
            Some(Err(error)) if error.kind() != io::ErrorKind::BrokenPipe => Err(BenchError::Output(error)),
            _ => Ok(()),
        }
    }
}

/// A line's part about its point.
pub fn about(record: &str, forwarder: &str, point: &Point) -> Value {
    json!({
        "record": record,
        "forwarder": forwarder,
        "size": point.traffic.size.name(),
        "bytes": (point.traffic.size.mean() * 10.0).round() / 10.0,
        "family": point.traffic.family.name(),
        "flows": point.traffic.flows,
        "rules": point.rules,
        "routes": point.routes,
        "varies": point.varies,
    })
}

/// What a sink that reads every packet has found, of all these trials: a line for people, where there is such a sink.
pub fn tell_sink(outcomes: &[Outcome], line: &mut Value) -> Option<String> {
    let losses: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.flow_loss).collect();
    if losses.is_empty() {
        return None;
    }
    let sum = |field: fn(&Outcome) -> u64| outcomes.iter().map(field).sum::<u64>();
    let (unread, damaged) = (sum(|outcome| outcome.unread), sum(|outcome| outcome.damaged));
    let (twice, reordered) = (sum(|outcome| outcome.twice), sum(|outcome| outcome.reordered));
    let most = |field: fn(&crate::ledger::FlowLoss) -> u64| losses.iter().map(field).max().unwrap_or(0);
    let (flows, with_loss, worst) = (most(|loss| loss.flows), most(|loss| loss.with_loss), most(|loss| loss.worst));
    line["sink"] = json!({
        "unread": unread, "damaged": damaged, "twice": twice, "reordered": reordered,
        "flows": flows, "flows_with_loss": with_loss, "worst_flow_lost": worst,
    });
    Some(format!(
        "    sink: {damaged} damaged, {twice} twice, {reordered} out of order, {unread} lost by its own socket; in a trial at most {with_loss} of \
         {flows} flows lost packets, one of them {worst}"
    ))
}

/// Three digits behind the point are more than any of this is worth.
pub fn rounded(value: f64) -> Value {
    if value.is_finite() { json!((value * 1e4).round() / 1e4) } else { Value::Null }
}

/// A number in a column of eleven; what is not known is a dash.
pub fn cell(value: f64, digits: usize) -> String {
    if value.is_finite() { format!("{value:>11.digits$}") } else { format!("{:>11}", "–") }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Where and when this was measured.
fn facts(plan: &Plan) -> Value {
    let machine = Machine::this();
    let read = |path: &str| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    let load = read("/proc/loadavg").and_then(|text| text.split(' ').next()?.parse::<f64>().ok());
    json!({
        "record": "host",
        "version": env!("CARGO_PKG_VERSION"),
        "commit": plan.commit.clone().or_else(|| output_of("git", &["rev-parse", "--short", "HEAD"])),
        "date": output_of("date", &["-u", "+%FT%TZ"]),
        "kernel": machine.kernel,
        "cpu": machine.cpu,
        "cores": machine.cores,
        "tsc_ghz": machine.tsc_ghz,
        "governor": read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "load_average": load,
        "memory_mb": read("/proc/meminfo")
            .and_then(|text| text.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kb| kb / 1024)),
        "interface": "veth",
        "driver": "veth",
        "xdp_mode": "native",
        "copy_mode": "copy",
        "generator": match plan.ends.generator {
            _ if plan.capture.is_some() => "AF_XDP socket, packets of a capture",
            Generator::Kernel => "live frames of BPF_PROG_TEST_RUN",
            Generator::Xsk => "AF_XDP socket",
        },
        "sink": match plan.ends.sink {
            Sink::Gauge => "classifier in the kernel",
            Sink::Xsk => "AF_XDP socket",
        },
        "tester_core": crate::trial::TESTER_CORE,
        "forwarder_core": crate::trial::FORWARDER_CORE,
    })
}
