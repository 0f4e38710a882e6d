//! bench: measurements in network namespaces of this machine, and the page that shows them. All of it is `perf`'s; what is
//! here are the arguments.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use control::tell::chain;
use perf::bench::{self, BenchError, Kind, Plan};
use perf::forwarder::Forwarder;
use perf::peers;
use perf::traffic::{Family, MOST_FLOWS, Size};
use perf::trial::{Ends, Generator, Sink};

use super::Format;

/// Bounds of what may be asked for, so that a slip of the finger does not take the machine.
const MOST_RULES: usize = 50_000;
const MOST_ROUTES: usize = 1_000_000;
/// Rules and policies of those that are compared.
const MOST_PEER_RULES: usize = 10_000;
const MOST_SECONDS: f64 = 86_400.0;
const RATES: (f64, f64) = (1.0, 1e8);
/// Errors of the world, and lack of rights: as for all commands.
const EXIT_FAILED: u8 = 6;
const EXIT_DENIED: u8 = 5;
const EXIT_USAGE: u8 = 2;

#[derive(Debug, Args)]
pub struct BenchArguments {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    /// Maximum receive rate: what arrives while more is sent than can be forwarded
    #[command(after_help = "Example:\n  vrouter bench mrr --sizes 64,512,imix --rules 100,10000")]
    Mrr(MeasureArguments),
    /// The highest load without loss, by MLRsearch
    Ndr(MeasureArguments),
    /// The highest load that loses at most 0.5 %, by MLRsearch
    Pdr(MeasureArguments),
    /// Latency percentiles at 10, 50 and 90 % of the partial drop rate, and of an idle ping-pong
    Latency(MeasureArguments),
    /// A steady load for long: loss and memory over time
    #[command(after_help = "Example:\n  vrouter bench soak --duration 1h --rate 200000")]
    Soak(MeasureArguments),
    /// A steady load while tables are swapped: effective blocked time
    Reconf(MeasureArguments),
    /// Several forwarders in turn, in one run
    Compare(CompareArguments),
    /// Packets each of which is decided anew, new flows and untracked ones, beside the kernel in Calico's layouts
    #[command(after_help = "Example:\n  vrouter bench decide --rules 10,100,1000")]
    Decide(MeasureArguments),
    /// Make one HTML page of what was measured
    #[command(after_help = "Example:\n  vrouter bench report --in bench-results --out report.html")]
    Report(ReportArguments),
}

/// Each list's first value makes the first point; every other one is measured with the first ones of the other lists.
#[derive(Debug, Args)]
struct MeasureArguments {
    /// Packet sizes on a wire, 64 to 1518, or imix
    #[arg(long, value_delimiter = ',', value_name = "BYTES")]
    sizes: Vec<Size>,

    /// 4 or 6
    #[arg(long, value_delimiter = ',', value_name = "4|6", value_parser = family)]
    family: Vec<Family>,

    /// Flows that are sent in turn
    #[arg(long, value_delimiter = ',', value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_FLOWS)))]
    flows: Vec<u32>,

    /// Policy rules at each endpoint; the last one decides
    #[arg(long, value_delimiter = ',', value_name = "N", value_parser = rules)]
    rules: Vec<usize>,

    /// Routes of other nodes
    #[arg(long, value_delimiter = ',', value_name = "N", value_parser = routes)]
    routes: Vec<usize>,

    /// Rounds in which the forwarders take turns
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: Option<u16>,

    /// Of a trial; of a search for ndr and pdr; of the whole for soak: 500ms, 20s, 5m, 1h
    #[arg(long, value_name = "TIME", value_parser = duration)]
    duration: Option<Duration>,

    /// Packets a second, for latency, soak and reconf; default: a share of what is found to be carried
    #[arg(long, value_name = "PPS", value_parser = rate)]
    rate: Option<f64>,

    /// Send the packets of this capture, for mrr, ndr, pdr and compare
    #[arg(long, value_name = "FILE", conflicts_with_all = ["sizes", "family", "flows"])]
    pcap: Option<PathBuf>,

    /// Who makes packets: the kernel, or a thread out of an AF_XDP socket, which is slower
    #[arg(long, value_enum, value_name = "WHO", default_value_t, conflicts_with = "pcap")]
    generator: GeneratorName,

    /// Where packets end: counted in the kernel (gauge), or read from an AF_XDP socket, each checked and booked by its flow
    #[arg(long, value_enum, value_name = "WHERE", default_value_t, conflicts_with = "pcap")]
    sink: SinkName,

    /// Where the JSON lines go, one file for each kind of measurement
    #[arg(long, value_name = "DIR", default_value = "bench-results")]
    out: PathBuf,

    /// JSON lines on stdout too, in place of tables; the same as -o json
    #[arg(long)]
    json: bool,

    /// Written into the facts of the host; default: git is asked
    #[arg(long, value_name = "TEXT")]
    commit: Option<String>,
}

#[derive(Debug, Args)]
struct CompareArguments {
    /// Others beside the kernel and our router: calico, the kernel in Calico's iptables and nftables layouts; switches, Open
    /// vSwitch and DPDK's l3fwd on AF_XDP. One that is not installed is a line that says so
    #[arg(long, value_delimiter = ',', value_enum, value_name = "WHO")]
    peers: Vec<Peers>,

    #[command(flatten)]
    measure: MeasureArguments,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum GeneratorName {
    #[default]
    Kernel,
    Xsk,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum SinkName {
    #[default]
    Gauge,
    Xsk,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Peers {
    Calico,
    Switches,
}

#[derive(Debug, Args)]
struct ReportArguments {
    /// Folders with JSON lines
    #[arg(long = "in", value_name = "DIR", num_args = 1.., default_value = "bench-results")]
    folders: Vec<PathBuf>,

    /// JSON lines of instructions per stage
    #[arg(long, value_name = "FILE", default_value = "perf/baselines/instructions.jsonl")]
    instructions: PathBuf,

    /// The page
    #[arg(long, value_name = "FILE", default_value = "bench-results/report.html")]
    out: PathBuf,
}

pub fn run(format: Format, arguments: BenchArguments) -> ExitCode {
    let result = match arguments.command {
        BenchCommand::Mrr(arguments) => measure(Kind::Mrr, format, arguments),
        BenchCommand::Ndr(arguments) => measure(Kind::Ndr, format, arguments),
        BenchCommand::Pdr(arguments) => measure(Kind::Pdr, format, arguments),
        BenchCommand::Latency(arguments) => measure(Kind::Latency, format, arguments),
        BenchCommand::Soak(arguments) => measure(Kind::Soak, format, arguments),
        BenchCommand::Reconf(arguments) => measure(Kind::Reconf, format, arguments),
        BenchCommand::Decide(arguments) => measure(Kind::Decide, format, arguments),
        BenchCommand::Compare(arguments) => compare(format, arguments),
        BenchCommand::Report(arguments) => report(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", chain(&error));
            ExitCode::from(match error {
                BenchError::Root => EXIT_DENIED,
                BenchError::Capture | BenchError::Replay(_) => EXIT_USAGE,
                _ => EXIT_FAILED,
            })
        }
    }
}

fn compare(format: Format, arguments: CompareArguments) -> Result<(), BenchError> {
    let mut others = Vec::new();
    if arguments.peers.contains(&Peers::Calico) {
        others.extend(peers::firewalls(MOST_PEER_RULES));
    }
    if arguments.peers.contains(&Peers::Switches) {
        others.extend(peers::switches(MOST_PEER_RULES, &arguments.measure.out));
    }
    measure_beside(Kind::Compare, format, arguments.measure, &others)
}

fn measure(kind: Kind, format: Format, arguments: MeasureArguments) -> Result<(), BenchError> {
    measure_beside(kind, format, arguments, &[])
}

fn measure_beside(
    kind: Kind,
    format: Format,
    arguments: MeasureArguments,
    others: &[Box<dyn Forwarder>],
) -> Result<(), BenchError> {
    if arguments.pcap.is_some() && !matches!(kind, Kind::Mrr | Kind::Ndr | Kind::Pdr | Kind::Compare) {
        return Err(BenchError::Capture);
    }
    let plan = plan(kind, format, arguments);
    let path = bench::run(&plan, others)?;
    if !plan.json {
        println!("\nlines written to {}; `vrouter bench report` makes a page of them", path.display());
    }
    Ok(())
}

/// What is measured where nothing is said: within a minute, and for `mrr` a little of everything.
fn plan(kind: Kind, format: Format, arguments: MeasureArguments) -> Plan {
    let is_broad = kind == Kind::Mrr && arguments.pcap.is_none();
    let broad = |all: &[usize]| if is_broad { all.to_vec() } else { all[..1].to_vec() };
    let or = |given: Vec<usize>, all: &[usize]| if given.is_empty() { broad(all) } else { given };
    let sizes = [Size::Fixed(64), Size::Fixed(512), Size::Fixed(1518), Size::Imix];
    let sizes = match arguments.sizes.is_empty() {
        true if is_broad => sizes.to_vec(),
        true => sizes[..1].to_vec(),
        false => arguments.sizes,
    };
    let families = match arguments.family.is_empty() {
        true if is_broad => vec![Family::Ipv4, Family::Ipv6],
        true => vec![Family::Ipv4],
        false => arguments.family,
    };
    let flows = match arguments.flows.is_empty() {
        true if is_broad => vec![64, 100_000],
        true => vec![64],
        false => arguments.flows,
    };
    Plan {
        kind,
        sizes,
        families,
        flows,
        rules: or(arguments.rules, if kind == Kind::Decide { &[1000] } else { &[100, 1, 1000, 10_000] }),
        routes: or(arguments.routes, &[0, 100_000]),
        rounds: arguments.rounds.map_or(3, usize::from),
        duration: arguments.duration,
        rate: arguments.rate,
        capture: arguments.pcap,
        ends: Ends {
            generator: match arguments.generator {
                GeneratorName::Kernel => Generator::Kernel,
                GeneratorName::Xsk => Generator::Xsk,
            },
            sink: match arguments.sink {
                SinkName::Gauge => Sink::Gauge,
                SinkName::Xsk => Sink::Xsk,
            },
        },
        out: arguments.out,
        json: arguments.json || format == Format::Json,
        commit: arguments.commit,
    }
}

fn report(arguments: &ReportArguments) -> Result<(), BenchError> {
    perf::page::write(&arguments.folders, &arguments.instructions, &arguments.out)?;
    println!("{}", arguments.out.display());
    Ok(())
}

fn family(text: &str) -> Result<Family, String> {
    match text {
        "4" => Ok(Family::Ipv4),
        "6" => Ok(Family::Ipv6),
        _ => Err("expected 4 or 6".to_string()),
    }
}

fn rules(text: &str) -> Result<usize, String> {
    number(text, 1, MOST_RULES)
}

fn routes(text: &str) -> Result<usize, String> {
    number(text, 0, MOST_ROUTES)
}

fn number(text: &str, least: usize, most: usize) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (least..=most).contains(number));
    number.ok_or(format!("expected a number from {least} to {most}"))
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| (RATES.0..=RATES.1).contains(rate));
    rate.ok_or(format!("expected packets a second, {} to {}", RATES.0, RATES.1))
}

fn duration(text: &str) -> Result<Duration, String> {
    let units = [("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let read = |(unit, seconds): &(&str, f64)| Some(text.strip_suffix(unit)?.parse::<f64>().ok()? * seconds);
    let seconds = units.iter().find_map(read).filter(|seconds| (0.05..=MOST_SECONDS).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or("expected a time from 50ms to 24h, such as 500ms, 20s or 5m".to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_their_units() {
        for (text, seconds) in [("500ms", 0.5), ("20s", 20.0), ("5m", 300.0), ("1h", 3600.0), ("0.1s", 0.1)] {
            assert_eq!(duration(text), Ok(Duration::from_secs_f64(seconds)), "{text}");
        }
        for text in ["", "5", "-1s", "10ms", "25h", "nans", "s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
