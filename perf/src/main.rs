//! `perf [TOPIC]... [options]`: arguments to [`perf::Options`], and nothing else.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use perf::instructions::{self, Scenario};
use perf::{Options, Scale, Topic};

const USAGE: &str = "usage: perf [TOPIC]... [options]

  all            everything, at full length (some minutes; needs root)
  smoke          everything, as short as possible
  memory         the pipeline and its tables in memory; needs no privilege
  instructions   instructions per packet and stage, under callgrind, beside the baseline
  lpm            the tables of routes: lookups, changes, memory; needs no privilege
  veth           packets per second between two namespaces, beside kernel forwarding
  tcp            iperf3 between two namespaces, beside kernel forwarding
  latency        UDP ping-pong between two namespaces, beside kernel forwarding
  idle           a worker with many queues and no packets, awake and asleep; needs root
  scaling        two workers in memory, on two cores, beside one
  cluster        the daemon with 100,000 endpoints and 2,000 policies: start, memory, changes
  flows          the flow table with ten million flows; needs no privilege, and 3 GB
  resident       the daemon with 100 endpoints, 10,000 routes, 1,000 policies and 512,000 flows: memory by part
  ipam           addresses given out and back by the daemon, one after the other and many at a time; needs root
  cni            containers added and taken away by the plugin, beside Debian's bridge and host-local; needs root
  peers          the kernel in Calico's layouts, Open vSwitch and DPDK in the same lab, in turn; not part of all
  peers-tcp      one TCP connection through ours, the kernel, Open vSwitch and l3fwd, in turn; not part of all
  bgp            our BGP speaker beside BIRD 2: a million prefixes, a route reflector, churn; not part of all
  bgp-table      of that the million prefixes; not part of all
  peers-memory   DPDK's tables beside ours, over the same sets; not part of all

  --commit TEXT      written into every line (default: git)
  --date TEXT        written into every line (default: today)
  --out DIR          where the lines go (default: perf/out)
  --rounds N         rounds over veth
  --save-baseline    keep this run's lines in perf/baselines";

fn main() -> ExitCode {
    if let Some(scenario) = scenario() {
        instructions::count(scenario);
        return ExitCode::SUCCESS;
    }
    let options = match parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(message) => {
            eprintln!("{message}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match perf::run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("perf: {}", perf::chain(&error));
            ExitCode::FAILURE
        }
    }
}

/// `count SCENARIO`: what runs under callgrind.
fn scenario() -> Option<Scenario> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().filter(|word| word == "count").and_then(|_| arguments.next())?;
    Scenario::ALL.into_iter().find(|scenario| scenario.name() == name)
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options {
        topics: Vec::new(),
        scale: Scale::FULL,
        commit: None,
        date: None,
        out: PathBuf::from("perf/out"),
        baselines: PathBuf::from("perf/baselines"),
        save_baseline: false,
    };
    let mut rounds = None;
    while let Some(argument) = arguments.next() {
        let mut value = |name: &str| arguments.next().ok_or(format!("{name}: expected a value after it"));
        match argument.as_str() {
            "all" => options.topics.extend(Topic::ALL),
            "smoke" => options.scale = Scale::SMOKE,
            "--commit" => options.commit = Some(value("--commit")?),
            "--date" => options.date = Some(value("--date")?),
            "--out" => options.out = value("--out")?.into(),
            "--rounds" => {
                let given = value("--rounds")?;
                let count = given.parse().ok().filter(|count| (1..=1000).contains(count));
                rounds = Some(count.ok_or(format!("--rounds {given}: expected a number from 1 to 1000"))?);
            }
            "--save-baseline" => options.save_baseline = true,
            name => match Topic::ALL.into_iter().chain(Topic::MORE).find(|topic| topic.name() == name) {
                Some(topic) => options.topics.push(topic),
                None => return Err(format!("{name}: expected a topic or an option")),
            },
        }
    }
    if options.topics.is_empty() {
        options.topics.extend(Topic::ALL);
    }
    if let Some(rounds) = rounds {
        options.scale.rounds = rounds;
    }
    Ok(options)
}
