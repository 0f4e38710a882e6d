//! Numbers for people on standard output, and one JSON line per measurement in a file.
//!
//! A row is printed as soon as it is known. Its first number is the one that is compared with the baseline; `before` shows
//! the baseline's, so that a change that claims speed has both in one table.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

use crate::Options;
use crate::baseline::Baseline;

/// Units per nanosecond in which spreads are recorded: pieces of nanoseconds matter where a lookup takes three.
const RESOLUTION: f64 = 1000.0;

const NAME_WIDTH: usize = 46;
const NUMBER_WIDTH: usize = 13;

#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    #[error("write {path}")]
    Write { path: PathBuf, source: io::Error },
    #[error("read baseline {path}: expected one JSON object per line")]
    Baseline { path: PathBuf, source: io::Error },
}

/// One figure, or several of one thing.
pub struct Measurement {
    pub group: &'static str,
    pub name: String,
    /// How frames cross the kernel boundary.
    pub frame_mode: &'static str,
    /// Most important first.
    pub numbers: Vec<(&'static str, f64)>,
}

/// Where it was measured.
#[derive(Clone, Debug)]
pub struct Machine {
    pub kernel: String,
    pub cpu: String,
    pub cores: usize,
    /// Rate of the time-stamp counter, where the kernel tells.
    pub tsc_ghz: Option<f64>,
}

pub struct Report {
    machine: Machine,
    commit: String,
    date: String,
    path: PathBuf,
    file: File,
    lines: Vec<Value>,
    baseline: Baseline,
    /// Group and columns of the row before, to know when a new heading is due.
    heading: String,
}

impl Report {
    pub fn open(options: &Options) -> Result<Report, ReportError> {
        let machine = Machine::this();
        let commit = known(options.commit.clone().or_else(|| output_of("git", &["rev-parse", "--short", "HEAD"])));
        let date = known(options.date.clone().or_else(|| output_of("date", &["-u", "+%F"])));
        let path = options.out.join(format!("{date}.jsonl"));
        let failed = |source| ReportError::Write { path: path.clone(), source };
        fs::create_dir_all(&options.out).map_err(failed)?;
        let file = File::options().create(true).append(true).open(&path).map_err(failed)?;
        let baseline = Baseline::load(&options.baselines, &machine)?;
        println!("{} × {}, Linux {}, commit {commit}, {date}", machine.cores, machine.cpu, machine.kernel);
        Ok(Report { machine, commit, date, path, file, lines: Vec::new(), baseline, heading: String::new() })
    }

    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// The compiler that is there, which is most likely the one that made this.
    pub fn compiler(&self) -> String {
        known(output_of("rustc", &["--version"]))
    }

    /// Prints and writes one measurement.
    pub fn add(&mut self, measurement: Measurement) -> Result<(), ReportError> {
        self.print(&measurement);
        let line = self.line(&measurement);
        writeln!(self.file, "{line}").map_err(|source| ReportError::Write { path: self.path.clone(), source })?;
        self.lines.push(line);
        Ok(())
    }

    /// A sentence between rows.
    pub fn note(&self, text: &str) {
        println!("  {text}");
    }

    pub fn finish(self, options: &Options) -> Result<(), ReportError> {
        println!("\nlines appended to {}", self.path.display());
        if options.save_baseline {
            let path = self.baseline.save(&options.baselines, &self.machine, &self.lines)?;
            println!("baseline saved to {}", path.display());
        }
        Ok(())
    }

    fn print(&mut self, measurement: &Measurement) {
        let columns = measurement.numbers.iter().map(|(name, _)| format!("{name:>NUMBER_WIDTH$}"));
        let heading = format!("\n{:NAME_WIDTH$}{}", measurement.group, columns.collect::<String>());
        if heading != self.heading {
            println!("{heading}");
            self.heading = heading;
        }
        let numbers: String =
            measurement.numbers.iter().map(|(_, value)| format!("{:>NUMBER_WIDTH$}", shown(*value))).collect();
        let before = self.baseline.first_number(measurement.group, &measurement.name);
        let before = before.map_or(String::new(), |value| format!("   before {}", shown(value)));
        println!("{:NAME_WIDTH$}{numbers}{before}", format!("  {}", measurement.name));
    }

    fn line(&self, measurement: &Measurement) -> Value {
        let numbers: Map<String, Value> = measurement
            .numbers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), json!((value * 1000.0).round() / 1000.0)))
            .collect();
        json!({
            "group": measurement.group,
            "name": measurement.name,
            "numbers": numbers,
            "frame_mode": measurement.frame_mode,
            "commit": self.commit,
            "date": self.date,
            "kernel": self.machine.kernel,
            "cpu": self.machine.cpu,
            "cores": self.machine.cores,
        })
    }
}

impl Machine {
    pub fn this() -> Machine {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = |wanted: &str| {
            let line = cpuinfo.lines().find(|line| line.split(':').next().is_some_and(|name| name.trim() == wanted))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        Machine {
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            cpu: field("model name").unwrap_or_else(|| "unknown CPU".to_owned()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            // On x86 the kernel prints two "bogus" instructions per tick of the time-stamp counter.
            tsc_ghz: field("bogomips").and_then(|text| text.parse::<f64>().ok()).map(|mips| mips / 2000.0),
        }
    }
}

/// Times of many short windows.
pub struct Spread(Histogram<u64>);

impl Default for Spread {
    fn default() -> Self {
        // Up to a second, with three digits: bounds that are always valid.
        let bounded = Histogram::new_with_bounds(1, 1_000_000_000_000, 3);
        Spread(bounded.unwrap_or_else(|error| unreachable!("bounds of a spread: {error}")))
    }
}

impl Spread {
    /// Notes a window in which `count` things took `nanoseconds`.
    pub fn record(&mut self, nanoseconds: u64, count: usize) {
        let each = nanoseconds as f64 * RESOLUTION / count.max(1) as f64;
        self.0.saturating_record(each as u64);
    }

    /// Nanoseconds that this share of windows stayed below.
    pub fn percentile(&self, percent: f64) -> f64 {
        self.0.value_at_percentile(percent) as f64 / RESOLUTION
    }
}

/// The middle one; the mean of the two middle ones.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => sorted[middle],
        _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}

/// Three digits that matter; a dash for what is not a number.
fn shown(value: f64) -> String {
    match value.abs() {
        size if size.is_nan() => "-".to_owned(),
        size if size >= 1e6 => format!("{:.2}M", value / 1e6),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// What a program says, if it is there and content.
pub(crate) fn output_of(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn known(said: Option<String>) -> String {
    said.unwrap_or_else(|| "unknown".to_owned())
}

/// The file of a machine's baseline.
pub fn baseline_path(directory: &Path, machine: &Machine) -> PathBuf {
    let version: Vec<&str> = machine.kernel.split('.').take(2).collect();
    directory.join(format!("{}cpu-linux-{}.jsonl", machine.cores, version.join(".")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn a_spread_keeps_fractions_of_a_nanosecond() {
        let mut spread = Spread::default();
        spread.record(640, 256);
        assert!((spread.percentile(50.0) - 2.5).abs() < 0.01);
    }
}
