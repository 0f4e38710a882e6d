//! One HTML page of what a bench has measured: self-contained, without scripts, for light and dark.
//!
//! Reads every `*.jsonl` of the given folders: records of `vrouter bench`, and measurements of `perf`; other lines are skipped and counted. A section
//! that has no figures says how to get them. Bounds: `MOST_BYTES` a file; names and texts are escaped.

mod sections;
mod svg;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::bench::BenchError;
use svg::escape;

const STYLE: &str = include_str!("style.css");
/// Of one file of lines.
const MOST_BYTES: u64 = 64 << 20;

/// The kind of what `perf` writes, which says none.
const MEASURED: &str = "measured";

/// Records by their kind.
#[derive(Default)]
pub(crate) struct Records {
    by_kind: BTreeMap<String, Vec<Value>>,
    skipped: usize,
}

impl Records {
    fn read(folders: &[PathBuf]) -> Result<Records, BenchError> {
        let mut records = Records::default();
        for folder in folders {
            let failed = |source| BenchError::Read { path: folder.clone(), source };
            let mut paths: Vec<PathBuf> = Vec::new();
            for entry in fs::read_dir(folder).map_err(failed)? {
                paths.push(entry.map_err(failed)?.path());
            }
            paths.sort();
            for path in paths.iter().filter(|path| path.extension().is_some_and(|extension| extension == "jsonl")) {
                records.add(&text(path)?);
            }
        }
        Ok(records)
    }

    fn add(&mut self, text: &str) {
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            match serde_json::from_str::<Value>(line) {
                Ok(value) if value["record"].is_string() => {
                    let kind = value["record"].as_str().unwrap_or_default().to_owned();
                    self.by_kind.entry(kind).or_default().push(value);
                }
                // What `perf` has measured.
                Ok(value) if value["group"].is_string() && value["numbers"].is_object() => {
                    self.by_kind.entry(MEASURED.to_owned()).or_default().push(value);
                }
                _ => self.skipped += 1,
            }
        }
    }

    pub(crate) fn of(&self, kind: &str) -> &[Value] {
        self.by_kind.get(kind).map_or(&[], Vec::as_slice)
    }
}

fn text(path: &Path) -> Result<String, BenchError> {
    let failed = |source| BenchError::Read { path: path.to_owned(), source };
    if fs::metadata(path).map_err(failed)?.len() > MOST_BYTES {
        return Err(failed(std::io::Error::other(format!("longer than {MOST_BYTES} bytes"))));
    }
    fs::read_to_string(path).map_err(failed)
}

/// Writes the page. A file of instructions that is not there is a section that says so.
pub fn write(folders: &[PathBuf], instructions: &Path, out: &Path) -> Result<(), BenchError> {
    let records = Records::read(folders)?;
    let mut counted = Vec::new();
    if instructions.exists() {
        counted.extend(text(instructions)?.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()));
    }
    let failed = |source| BenchError::Write { path: out.to_owned(), source };
    if let Some(folder) = out.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    fs::write(out, page(&records, &counted)).map_err(failed)
}

fn page(records: &Records, instructions: &[Value]) -> String {
    let host = records.of("host").last().cloned().unwrap_or(Value::Null);
    let sections = [
        sections::numbers(records),
        sections::throughput(records),
        sections::searches(records),
        sections::compared(records),
        sections::decided(records),
        sections::latency(records),
        sections::changes(records),
        sections::soak(records),
        sections::instructions(instructions),
        sections::measured(records.of(MEASURED)),
        sections::facts(records),
    ];
    let word = |field: &str| escape(host[field].as_str().unwrap_or("unknown"));
    let skipped = match records.skipped {
        0 => String::new(),
        count => format!(" {count} lines were no records and are not shown."),
    };
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><title>vrouter bench</title><style>{STYLE}</style></head><body><main>\
         <h1>What vrouter carries on this machine</h1>\
         <div class=\"facts\">{} × {} · Linux {} · veth, {} XDP, frames {} · commit {} · {}</div>{}\
         <footer>Made by <code>vrouter bench report</code>. Figures of a shared machine move with its neighbours: forwarders took \
         turns in the same minutes, so their ratios hold better than their numbers.{skipped}</footer></main></body></html>\n",
        host["cores"],
        word("cpu"),
        word("kernel"),
        word("xdp_mode"),
        if host["copy_mode"] == "copy" { "copied" } else { "not copied" },
        word("commit"),
        word("date"),
        sections.concat(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_without_figures_says_how_to_get_them() {
        let text = page(&Records::default(), &[]);
        assert!(text.contains("vrouter bench latency") && text.ends_with("</html>\n"));
    }

    #[test]
    fn lines_of_other_kinds_are_skipped_and_counted_and_texts_escaped() {
        let mut records = Records::default();
        records.add("{\"record\":\"host\",\"cpu\":\"<b>\"}\nnonsense\n{\"group\":\"tcp\"}\n\n");
        assert_eq!((records.of("host").len(), records.skipped), (1, 2));
        let text = page(&records, &[]);
        assert!(text.contains("&lt;b&gt;") && !text.contains("<b>") && text.contains("2 lines were no records"));
    }

    #[test]
    fn of_a_measurement_made_twice_the_last_is_shown() {
        let mut records = Records::default();
        for p50 in [31.5, 7.25] {
            let numbers = serde_json::json!({"p50": p50, "p10": 1234.0});
            records.add(&serde_json::json!({"group": "memory", "name": "flow hit", "numbers": numbers}).to_string());
        }
        let text = page(&records, &[]);
        assert_eq!(records.skipped, 0);
        assert!(text.contains("flow hit") && text.contains("7.25") && text.contains("1234") && !text.contains("31.5"));
    }

    #[test]
    fn the_sum_of_stages_is_no_stage() {
        let line = |stage: &str, count: u32| serde_json::json!({"scenario": "hit", "stage": stage, "instructions_per_packet": count});
        let text = page(&Records::default(), &[line("parse", 200), line("rewrite", 140), line("all stages", 340)]);
        assert!(text.contains(">340</text>") && !text.contains("680") && !text.contains("all stages"), "{text}");
    }

    #[test]
    fn figures_become_plots() {
        let mut records = Records::default();
        for (bytes, varies) in [(64.0, "nothing"), (1518.0, "size")] {
            for forwarder in ["kernel", "router"] {
                records.add(&format!(
                    "{{\"record\":\"throughput\",\"bench\":\"mrr\",\"measure\":\"mrr\",\"forwarder\":\"{forwarder}\",\"size\":\"{bytes} B\",\
                     \"bytes\":{bytes},\"family\":\"IPv4\",\"flows\":64,\"rules\":1,\"routes\":0,\"varies\":\"{varies}\",\"mpps\":1.5,\"x_kernel\":1.0}}"
                ));
            }
        }
        let text = page(&records, &[]);
        assert!(text.matches("<svg").count() >= 1 && text.contains("1518 B"), "{text}");
    }
}
