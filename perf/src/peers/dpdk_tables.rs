//! DPDK's tables, in a program of their own that is compiled when it is wanted, and asked line by line.
//!
//! The program is `perf/peers/dpdk_tables.c`, whose header says what is said to it and what it answers. Its source
//! is part of this binary; compiling it needs a C compiler, `pkg-config` and Debian's `libdpdk-dev`.
//!
//! Invariants: the process ends when this is dropped, and by itself when we end, because its input does; no answer is
//! waited for longer than the program lives.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::lab::{LabError, spawn, system};

const SOURCE: &str = include_str!("../../peers/dpdk_tables.c");
/// Pages of 2 MiB that the kernel may hand out while the program wants them.
const PAGES: u64 = 1536;
const PAGES_PATH: &str = "/proc/sys/vm/nr_overcommit_hugepages";

/// Compiles the program, and says with which version of DPDK.
pub fn compile(directory: &Path) -> Result<(PathBuf, String), LabError> {
    fs::create_dir_all(directory).map_err(system(format!("make {}", directory.display())))?;
    let source = directory.join("dpdk_tables.c");
    let program = directory.join("dpdk_tables");
    fs::write(&source, SOURCE).map_err(system(format!("write {}", source.display())))?;
    let version = output("pkg-config", &["--modversion", "libdpdk"])?;
    let flags = output("pkg-config", &["--cflags", "--libs", "libdpdk"])?;
    let (from, to) = (source.display().to_string(), program.display().to_string());
    let mut arguments = vec!["-O3", "-march=native", "-o", &to, &from];
    arguments.extend(flags.split_whitespace());
    output("cc", &arguments)?;
    Ok((program, version))
}

pub(crate) fn output(program: &str, arguments: &[&str]) -> Result<String, LabError> {
    let output = Command::new(program).args(arguments).output().map_err(system(format!("run `{program}`")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).lines().take(5).collect::<Vec<_>>().join("; ");
    Err(LabError::Command { command: format!("{program} {}", arguments.first().unwrap_or(&"")), output: said })
}

/// Lets the kernel hand out large pages beyond those it keeps, until this is dropped. None of them stays: they go back with
/// the process that had them.
pub struct LargePages(Option<String>);

impl LargePages {
    pub fn allow() -> LargePages {
        let before = fs::read_to_string(PAGES_PATH).unwrap_or_default().trim().to_owned();
        let is_enough = before.parse::<u64>().is_ok_and(|pages| pages >= PAGES);
        let is_allowed = is_enough || fs::write(PAGES_PATH, PAGES.to_string()).is_ok();
        LargePages(is_allowed.then_some(before))
    }

    pub fn are_allowed(&self) -> bool {
        self.0.is_some()
    }
}

impl Drop for LargePages {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = fs::write(PAGES_PATH, before);
        }
    }
}

/// Which tables are wanted of the program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Ipv4,
    Ipv6,
    Acl,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Ipv4 => "ipv4",
            Kind::Ipv6 => "ipv6",
            Kind::Acl => "acl",
        }
    }
}

/// The program at work.
pub struct DpdkTables {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    directory: PathBuf,
    /// Ticks of the time-stamp counter in a second.
    pub hz: f64,
    /// Tables that were built, with the ticks that took.
    pub built: Vec<(String, f64)>,
    /// Tables that were not, and why.
    pub refused: Vec<String>,
}

/// One line of numbers about one table.
#[derive(Clone, PartialEq, Debug)]
pub struct Line {
    pub table: String,
    pub numbers: Vec<f64>,
}

impl DpdkTables {
    /// Starts it over files that [`write_words`] has written to `directory`, and lets it build its tables.
    pub fn start(
        program: &Path,
        kind: Kind,
        directory: &Path,
        core: usize,
        pages: &LargePages,
    ) -> Result<DpdkTables, LabError> {
        let log = directory.join("dpdk_tables.log");
        let errors = fs::File::create(&log).map_err(system(format!("write {}", log.display())))?;
        let pages = if pages.are_allowed() { "huge" } else { "small" };
        let mut command = Command::new(program);
        command.arg(kind.name()).arg(directory).arg(core.to_string()).arg(pages);
        let mut child = spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(LabError::Peer("no pipe to dpdk_tables".to_owned()));
        };
        let mut started = DpdkTables {
            child,
            input: Some(input),
            output: BufReader::new(output),
            directory: directory.to_owned(),
            hz: 0.0,
            built: Vec::new(),
            refused: Vec::new(),
        };
        for line in started.read()? {
            match line.split_once(' ') {
                Some(("hz", hz)) => started.hz = hz.parse().unwrap_or(0.0),
                Some(("built", rest)) => started.built.extend(numbers(rest).map(|line| {
                    let ticks = line.numbers.first().copied().unwrap_or(0.0);
                    (line.table, ticks)
                })),
                Some(("refused", rest)) => started.refused.push(rest.to_owned()),
                _ => return Err(LabError::Peer(line)),
            }
        }
        Ok(started)
    }

    /// Asks for a `round` or an `update`.
    pub fn ask(&mut self, request: &str) -> Result<Vec<Line>, LabError> {
        if let Some(input) = &mut self.input {
            writeln!(input, "{request}").map_err(system(format!("ask dpdk_tables for `{request}`")))?;
        }
        let mut lines = Vec::new();
        for line in self.read()? {
            match line.split_once(' ') {
                Some(("refused", rest)) => self.refused.push(rest.to_owned()),
                Some((word, rest)) if word == request => lines.extend(numbers(rest)),
                _ => return Err(LabError::Peer(line)),
            }
        }
        Ok(lines)
    }

    /// What a table answered to every key.
    pub fn answers(&self, table: &str) -> Result<Vec<u32>, LabError> {
        let path = self.directory.join(format!("{table}.answers"));
        let bytes = fs::read(&path).map_err(system(format!("read {}", path.display())))?;
        let (words, _) = bytes.as_chunks::<4>();
        Ok(words.iter().map(|word| u32::from_le_bytes(*word)).collect())
    }

    /// Lines until `done`.
    fn read(&mut self) -> Result<Vec<String>, LabError> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            let count = self.output.read_line(&mut line).map_err(system("read from dpdk_tables"))?;
            let line = line.trim_end();
            if count == 0 {
                let log = fs::read_to_string(self.directory.join("dpdk_tables.log")).unwrap_or_default();
                let said = log.lines().last().unwrap_or("it ended without a word").to_owned();
                return Err(LabError::Peer(said));
            }
            if line == "done" {
                return Ok(lines);
            }
            lines.push(line.to_owned());
        }
    }
}

impl Drop for DpdkTables {
    fn drop(&mut self) {
        self.input = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn numbers(text: &str) -> Option<Line> {
    let mut words = text.split_whitespace();
    let table = words.next()?.to_owned();
    Some(Line { table, numbers: words.filter_map(|word| word.parse().ok()).collect() })
}

/// Writes words as the program reads them.
pub fn write_words(directory: &Path, name: &str, words: impl Iterator<Item = u32>) -> Result<(), LabError> {
    let path = directory.join(name);
    let write = || -> io::Result<()> {
        let mut file = io::BufWriter::new(fs::File::create(&path)?);
        for word in words {
            file.write_all(&word.to_le_bytes())?;
        }
        file.flush()
    };
    write().map_err(system(format!("write {}", path.display())))
}

/// An IPv6 address, or the like, as four words.
pub fn wide_words(number: u128) -> [u32; 4] {
    [(number >> 96) as u32, (number >> 64) as u32, (number >> 32) as u32, number as u32]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_table_and_its_numbers() {
        let line = Line { table: "rte_fib".to_owned(), numbers: vec![1.5, 22.0] };
        assert_eq!(numbers("rte_fib 1.5 22"), Some(line));
        assert_eq!(numbers(""), None);
    }

    #[test]
    fn the_most_significant_word_comes_first() {
        assert_eq!(wide_words(1 << 96 | 7), [1, 0, 0, 7]);
    }
}
