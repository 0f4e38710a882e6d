//! Instructions per packet, by stage, counted under callgrind: the figure of speed that no neighbour can disturb.
//!
//! ```text
//!     perf instructions ──▶ valgrind --tool=callgrind perf count SCENARIO ──▶ callgrind.out ──▶ instructions per stage
//!                                   counts only inside `stages::measured`                        beside the baseline
//! ```
//!
//! The same binary on the same input executes the same instructions, so a stage that takes more than a little more than
//! the baseline has become dearer, and the run fails. Another compiler makes other code, and another processor picks other
//! instructions: then the numbers are printed
//! and nothing is judged.
//! Left out: time. A cache miss costs no instruction; `memory.rs` measures those.
//! See: the Callgrind format specification in the Valgrind manual.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use fastpath::burst::BURST;
use serde_json::{Value, json};

use crate::frames;
use crate::lab::{LabError, system};
use crate::report::{Measurement, Report, ReportError};
use crate::stages::{Bench, Order, SHORT, STAGES, udp6_frame};
use crate::{Error, tables};

/// Bursts that are counted, after as many that are not.
const BURSTS: usize = 16;
/// How much dearer than the baseline a stage may be.
const TOLERANCE: f64 = 1.03;
/// And how many instructions, so that a stage of next to nothing is not judged by one.
const LEAST: f64 = 2.0;
const MTU: u16 = 1500;

/// What passes while instructions are counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scenario {
    /// Packets of open flows.
    Hit,
    HitIpv6,
    /// Packets of open flows whose source is translated.
    Translated,
    /// Packets of open flows, recorded under older tables.
    Stale,
    /// First packets, asked of a policy of a thousand rules at either end.
    Miss,
    /// To the host by an uplink whose list of a thousand rules keeps no state.
    Untracked,
}

impl Scenario {
    pub const ALL: [Scenario; 6] =
        [Scenario::Hit, Scenario::HitIpv6, Scenario::Translated, Scenario::Stale, Scenario::Miss, Scenario::Untracked];

    pub fn name(self) -> &'static str {
        match self {
            Scenario::Hit => "hit",
            Scenario::HitIpv6 => "hit-ipv6",
            Scenario::Translated => "translated",
            Scenario::Stale => "stale",
            Scenario::Miss => "miss",
            Scenario::Untracked => "untracked",
        }
    }

    fn bench(self) -> Bench {
        let frame = frames::udp_frame(SHORT);
        match self {
            Scenario::Hit | Scenario::Stale => Bench::new(tables::two_endpoints(1, MTU), 4096, frame),
            Scenario::HitIpv6 => Bench::new(tables::two_endpoints(1, MTU), 4096, udp6_frame(SHORT + 20)),
            Scenario::Translated => Bench::new(tables::two_endpoints(1, MTU), 4096, frame).translating(),
            Scenario::Miss => Bench::new(tables::two_endpoints(1000, MTU), 1 << 16, frame),
            Scenario::Untracked => Bench::new(tables::untracked(1000, MTU), 4096, frame),
        }
    }
}

/// Passes the bursts of a scenario; called under callgrind.
pub fn count(scenario: Scenario) {
    let mut bench = scenario.bench();
    let mut order = Order::new(if scenario == Scenario::Miss { 1 << 15 } else { 64 });
    for burst in 0..2 * BURSTS {
        if scenario == Scenario::Stale {
            bench.renew();
        }
        // Counting begins with the second half.
        if burst < BURSTS {
            bench.pass(true, || order.next());
        } else {
            bench.pass(false, || order.next());
        }
    }
}

/// Counts all scenarios, prints them beside the baseline, and fails if one has become dearer.
pub fn measure(report: &mut Report, baselines: &Path, save: bool) -> Result<(), Error> {
    let path = baselines.join("instructions.jsonl");
    let compiler = format!("{}, {}", report.compiler(), report.machine().cpu);
    let baseline = Baseline::load(&path)?;
    let is_comparable = baseline.compiler.as_deref() == Some(compiler.as_str());
    if !is_comparable {
        report.note(&format!("no baseline by {compiler}: nothing is judged"));
    }
    let mut lines = Vec::new();
    let mut dearer = Vec::new();
    for scenario in Scenario::ALL {
        for (stage, instructions) in counted(scenario)? {
            let name = format!("{}: {stage}", scenario.name());
            let before = baseline.counts.get(&(scenario.name().to_owned(), stage.clone())).copied();
            report.add(Measurement {
                group: "instructions",
                name: name.clone(),
                frame_mode: "memory",
                numbers: [("a packet", Some(instructions)), ("baseline", before)]
                    .into_iter()
                    .filter_map(|(column, value)| Some((column, value?)))
                    .collect(),
            })?;
            if let Some(before) = before.filter(|_| is_comparable)
                && instructions > before * TOLERANCE + LEAST
            {
                dearer.push(format!("{name}: {instructions:.1} instructions a packet, baseline {before:.1}"));
            }
            lines.push(json!({
                "scenario": scenario.name(),
                "stage": stage,
                "instructions_per_packet": (instructions * 100.0).round() / 100.0,
                "compiler": compiler,
            }));
        }
    }
    if save {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        fs::write(&path, text).map_err(|source| ReportError::Write { path, source })?;
        return Ok(());
    }
    if dearer.is_empty() { Ok(()) } else { Err(Error::Dearer(dearer.join("\n  "))) }
}

#[derive(Default)]
struct Baseline {
    compiler: Option<String>,
    /// By scenario and stage.
    counts: HashMap<(String, String), f64>,
}

impl Baseline {
    fn load(path: &Path) -> Result<Baseline, ReportError> {
        let Ok(text) = fs::read_to_string(path) else { return Ok(Baseline::default()) };
        let mut baseline = Baseline::default();
        for line in text.lines() {
            let line: Value = serde_json::from_str(line)
                .map_err(|error| ReportError::Baseline { path: path.to_owned(), source: error.into() })?;
            let text = |field: &str| line[field].as_str().map(str::to_owned);
            baseline.compiler = text("compiler");
            let count = line["instructions_per_packet"].as_f64();
            if let (Some(scenario), Some(stage), Some(count)) = (text("scenario"), text("stage"), count) {
                baseline.counts.insert((scenario, stage), count);
            }
        }
        Ok(baseline)
    }
}

/// Instructions a packet of every stage, and of all together.
fn counted(scenario: Scenario) -> Result<Vec<(String, f64)>, LabError> {
    let out: PathBuf = std::env::temp_dir().join(format!("vrouter-callgrind-{}.out", std::process::id()));
    let own = std::env::current_exe().map_err(system("find this program"))?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--collect-atstart=no", "--toggle-collect=perf::stages::measured*"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(own)
        .args(["count", scenario.name()])
        .output()
        .map_err(system("run valgrind, of the package valgrind"))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(LabError::Command { command: "valgrind".to_owned(), output: text });
    }
    let profile = fs::read_to_string(&out).map_err(system("read what callgrind has written"))?;
    let _ = fs::remove_file(&out);
    let packets = (BURSTS * BURST) as f64;
    let costs = inclusive(&profile);
    let of = |function: &str| costs.iter().filter(|(name, _)| name.starts_with(function)).map(|(_, cost)| cost).sum();
    let mut result: Vec<(String, f64)> = STAGES
        .iter()
        .map(|stage| {
            let cost: u64 = of(&format!("fastpath::stage::{}::burst", stage.name()));
            (stage.name().to_owned(), cost as f64 / packets)
        })
        .collect();
    let total = profile.lines().find_map(|line| line.strip_prefix("totals: ")?.trim().parse::<u64>().ok()).unwrap_or(0);
    result.push(("all stages".to_owned(), total as f64 / packets));
    Ok(result)
}

/// What the calls of every function cost, with all that they called. For functions that do not call themselves.
fn inclusive(profile: &str) -> BTreeMap<String, u64> {
    // A name is written out where it first occurs; afterwards its number stands for it.
    let mut names: HashMap<&str, &str> = HashMap::new();
    let mut costs: BTreeMap<String, u64> = BTreeMap::new();
    let mut called = "";
    let mut is_call = false;
    for line in profile.lines() {
        let reference = line.strip_prefix("cfn=").map(|text| (text, true));
        if let Some((text, is_callee)) = reference.or(line.strip_prefix("fn=").map(|text| (text, false))) {
            let (number, name) = text.split_once(' ').unwrap_or((text, ""));
            if !name.is_empty() {
                names.insert(number, name);
            }
            if is_callee {
                called = names.get(number).copied().unwrap_or_default();
            }
        } else if line.starts_with("calls=") {
            is_call = true;
        } else if std::mem::take(&mut is_call) {
            let cost = line.split_whitespace().nth(1).and_then(|cost| cost.parse::<u64>().ok()).unwrap_or(0);
            *costs.entry(called.to_owned()).or_default() += cost;
        }
    }
    costs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_of_calls_are_added_up_by_name() {
        let profile =
            "fn=(1) outer\n3 5\ncfn=(2) inner\ncalls=1 0\n4 100\n+1 7\nfn=(3) other\n1 1\ncfn=(2)\ncalls=2 9\n* 30\n";
        let costs = inclusive(profile);
        assert_eq!(costs, BTreeMap::from([("inner".to_owned(), 130)]));
    }

    #[test]
    fn every_scenario_forwards_what_it_is_about() {
        for scenario in Scenario::ALL {
            let mut bench = scenario.bench();
            let mut order = Order::new(64);
            for _ in 0..2 {
                // Asserts that every packet was forwarded.
                bench.pass(false, || order.next());
            }
        }
    }
}
