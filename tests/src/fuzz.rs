//! Seeded mutation, the fuzz targets and their corpus.
//!
//! ```text
//!     seeds, tests/data/fuzz/<target>/* ──▶ [ pool ] ──pick──▶ mutate ──▶ target ──panic──▶ tests/data/fuzz/crashes/
//!                                              └──── kept when its shape is new ◀┘
//! ```
//!
//! A target takes any bytes and panics when the code under test breaks its promise. It says whether the input was
//! accepted, and a number for what happened to it, its shape. An input with a new shape joins the pool, which is how
//! mutation gets past the first check without instrumented code. A stable toolchain is all this needs; a target is also
//! what `libFuzzer` calls, should somebody have it: `fuzz_target!(|bytes: &[u8]| { (TARGET.run)(bytes); })`.
//!
//! | file | targets |
//! |---|---|
//! | `fuzz/frames.rs` | `packet`, `icmp` |
//! | `fuzz/parse.rs` | `parse` |
//! | `fuzz/documents.rs` | `yaml`, `api`, `record` |
//! | `fuzz/translated.rs` | `translate` |
//! | `fuzz/flows.rs` | `flows` |
//! | `fuzz/routes.rs` | `routes` |
//! | `fuzz/bgp.rs` | `bgp_open`, `bgp_update`, `bgp_message` |
//! | `fuzz/sessions.rs` | `bgp_session` |
//! | `fuzz/values.rs` | `selector`, `settings`, `net`, `netlink` |
//! | `fuzz/bfd.rs` | `bfd` |
//! | `fuzz/cni.rs` | `cni` |
//! | `fuzz/ipam.rs` | `ipam` |
//! | `fuzz/docker.rs` | `docker` |
//! | `fuzz/dhcp.rs` | `dhcp` |
//! | `fuzz/mutate.rs` | the mutations |
//!
//! `FUZZ_ROUNDS=200000 FUZZ_SEED=7 cargo test -p tests --test fuzz packet` runs one target longer and elsewhere. A file
//! of the corpus that ends in `.hex` holds hexadecimal digits with `#` comments; any other holds the input itself.
//!
//! Invariant: the same seed, rounds and corpus give the same inputs, in the same order.
//! Left out: coverage of branches, shrinking, and decoders that only the binary has (the lab's description).

pub mod bfd;
pub mod bgp;
pub mod cni;
pub mod dhcp;
pub mod docker;
pub mod documents;
pub mod flows;
pub mod frames;
pub mod ipam;
mod manifests;
pub mod mutate;
pub mod parse;
pub mod routes;
pub mod sessions;
pub mod translated;
pub mod values;

use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::random::Random;

/// Inputs kept for further mutation.
const POOL_MAX: usize = 2048;
const SEED: u64 = 1;

/// Something that takes any bytes.
pub struct Target {
    /// Also the folder of its corpus.
    pub name: &'static str,
    pub run: fn(&[u8]) -> Seen,
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Pieces of the input's language.
    pub tokens: &'static [&'static str],
    pub longest: usize,
    /// Mutated inputs in an ordinary test run.
    pub rounds: usize,
}

/// What became of an input.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seen {
    /// Got past every check, so that the properties of good input were looked at.
    pub is_accepted: bool,
    /// Equal for inputs that went the same way.
    pub shape: u64,
}

impl Seen {
    pub fn accepted(shape: impl Hash) -> Seen {
        Seen { is_accepted: true, shape: hash(&(true, shape)) }
    }

    pub fn refused(shape: impl Hash) -> Seen {
        Seen { is_accepted: false, shape: hash(&(false, shape)) }
    }
}

/// Every target; each has a test of its name in tests/fuzz.rs.
pub const TARGETS: [Target; 22] = [
    frames::PACKET,
    frames::ICMP,
    translated::TRANSLATE,
    parse::PARSE,
    documents::YAML,
    documents::API,
    documents::RECORD,
    values::SELECTOR,
    values::SETTINGS_LANGUAGE,
    values::NET,
    values::NETLINK,
    flows::FLOWS,
    routes::ROUTES,
    bgp::OPEN,
    bgp::UPDATE,
    bgp::MESSAGE,
    sessions::BGP_SESSION,
    bfd::BFD,
    cni::CNI,
    ipam::IPAM,
    docker::DOCKER,
    dhcp::DHCP,
];

/// How long and from where.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub rounds: usize,
    pub seed: u64,
}

impl Plan {
    /// What the environment says, else what an ordinary run of this target does.
    pub fn of(target: &Target) -> Plan {
        let number = |name: &str| {
            let text = std::env::var(name).ok()?;
            Some(text.parse::<u64>().unwrap_or_else(|_| panic!("{name}: found {text:?}, expected a number")))
        };
        Plan {
            rounds: number("FUZZ_ROUNDS").map_or(target.rounds, |rounds| rounds as usize),
            seed: number("FUZZ_SEED").unwrap_or(SEED),
        }
    }
}

/// A run without a failure, in numbers.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    pub runs: usize,
    pub accepted: usize,
    pub shapes: usize,
    pub time: Duration,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = self.runs as f64 / self.time.as_secs_f64().max(1e-9);
        let Report { runs, accepted, shapes, .. } = self;
        write!(f, "{runs} runs, {accepted} accepted, {shapes} shapes, {rate:.0} runs/s")
    }
}

/// Where the saved inputs of all targets are.
pub fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/fuzz")
}

/// Runs the target on its saved inputs, one after the other, and gives them back.
pub fn replay(target: &Target, corpus: &Path) -> Vec<Vec<u8>> {
    let inputs = saved(target, corpus);
    for (path, input) in &inputs {
        if catch_unwind(AssertUnwindSafe(|| (target.run)(input))).is_err() {
            panic!("the saved input {} fails; the panic above says how", path.display());
        }
    }
    inputs.into_iter().map(|(_, input)| input).collect()
}

/// Runs the target on its seeds, its saved inputs and what mutation makes of them. An input that fails is kept.
pub fn run(target: &Target, plan: Plan, corpus: &Path) -> Report {
    let mut random = Random::new(plan.seed);
    let mut given = (target.seeds)();
    given.extend(saved(target, corpus).into_iter().map(|(_, input)| input));
    let mut pool = Pool::default();
    let mut shapes = HashSet::new();
    let mut report = Report { runs: 0, accepted: 0, shapes: 0, time: Duration::ZERO };
    let start = Instant::now();
    for round in 0..given.len() + plan.rounds {
        let input = match given.get(round) {
            Some(input) => input.clone(),
            None => pool.mutated(&mut random, target),
        };
        let Ok(seen) = catch_unwind(AssertUnwindSafe(|| (target.run)(&input))) else {
            let kept = keep(target, &input, corpus);
            panic!(
                "{} fails, found in round {round} of FUZZ_SEED={}; the panic above says how.\nThe input is {kept}\n\
                 Move it to {}/NAME, named after what it shows, and run: cargo test -p tests --test fuzz {}",
                target.name,
                plan.seed,
                corpus.join(target.name).display(),
                target.name,
            );
        };
        report.runs += 1;
        report.accepted += usize::from(seen.is_accepted);
        if shapes.insert(seen.shape) || round < given.len() {
            pool.add(&mut random, input, seen.is_accepted);
        }
    }
    report.shapes = shapes.len();
    report.time = start.elapsed();
    report
}

/// Inputs worth changing further. Those that were accepted are few and lead further, so they are drawn more often.
#[derive(Default)]
struct Pool {
    accepted: Vec<Vec<u8>>,
    refused: Vec<Vec<u8>>,
}

impl Pool {
    fn add(&mut self, random: &mut Random, input: Vec<u8>, is_accepted: bool) {
        let inputs = if is_accepted { &mut self.accepted } else { &mut self.refused };
        if inputs.len() < POOL_MAX {
            inputs.push(input);
        } else {
            inputs[random.below(POOL_MAX)] = input;
        }
    }

    fn mutated(&self, random: &mut Random, target: &Target) -> Vec<u8> {
        let mut input = self.pick(random).clone();
        let other = self.pick(random);
        mutate::mutate(random, &mut input, other, target.tokens, target.longest);
        input
    }

    fn pick(&self, random: &mut Random) -> &Vec<u8> {
        let wants_accepted = random.below(4) > 0;
        let inputs = match (wants_accepted, self.accepted.is_empty(), self.refused.is_empty()) {
            (true, false, _) | (false, false, true) => &self.accepted,
            _ => &self.refused,
        };
        &inputs[random.below(inputs.len())]
    }
}

/// Puts a failing input where it can be looked at. Says where that is, or the input itself.
fn keep(target: &Target, input: &[u8], corpus: &Path) -> String {
    let folder = corpus.join("crashes");
    let path = folder.join(format!("{}-{:016x}.hex", target.name, hash(&input)));
    let text: Vec<String> = input.chunks(32).map(crate::decode::hex).collect();
    let written = fs::create_dir_all(&folder).and_then(|()| fs::write(&path, text.join("\n") + "\n"));
    match written {
        Ok(()) => path.display().to_string(),
        Err(error) => format!("(not kept: {error}) {}", crate::decode::hex(input)),
    }
}

/// The files of a target's corpus, in the order of their names.
fn saved(target: &Target, corpus: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let Ok(entries) = fs::read_dir(corpus.join(target.name)) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("a readable folder").path()).collect();
    paths.sort();
    let read = |path: PathBuf| {
        let bytes = fs::read(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
        let is_hex = path.extension().is_some_and(|extension| extension == "hex");
        let input = if is_hex { from_hex(&path, &bytes) } else { bytes };
        (path, input)
    };
    paths.into_iter().map(read).collect()
}

fn from_hex(path: &Path, text: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(text);
    let code = text.lines().map(|line| line.split('#').next().unwrap_or_default());
    let digits: Vec<u8> = code.flat_map(str::chars).filter(|c| !c.is_whitespace()).map(|c| digit(path, c)).collect();
    assert!(digits.len().is_multiple_of(2), "{}: an odd number of digits", path.display());
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn digit(path: &Path, c: char) -> u8 {
    let value = c.to_digit(16).unwrap_or_else(|| panic!("{}: {c:?} is no hexadecimal digit", path.display()));
    value as u8
}

/// The same in every run, unlike that of a `HashMap`.
fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
