//! The policy cases of `tests/data/policy`: one topic a file, beside its manifests, over the cast that all share. Each is judged
//! by the classifier that routers use, and by the interpreter that walks the resources; both times by `vrouter policy test`.
//!
//! ```text
//! cast.yaml + tiers.yaml + tiers.case ─▶ vrouter policy test [--oracle] ─▶ every case holds
//!                          verdicts turned round ─▶ no case holds
//! ```

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/policy")
}

fn topics() -> Vec<String> {
    let names = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut topics: Vec<String> = names.filter_map(|name| Some(name.strip_suffix(".case")?.to_owned())).collect();
    topics.sort();
    topics
}

/// The command's last line, and all it said; `cases` in place of the topic's own.
fn run(topic: &str, cases: &Path, more: &[&str]) -> (String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vrouter"));
    command.args(["policy", "test"]).arg("cast.yaml").arg(format!("{topic}.yaml")).arg(cases).args(more);
    let output = command.current_dir(folder()).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    (said.lines().last().unwrap_or_default().to_owned(), said)
}

fn cases_in(text: &str) -> usize {
    text.lines().filter(|line| !line.split('#').next().unwrap().trim().is_empty()).count()
}

fn own(topic: &str) -> (PathBuf, usize) {
    let path = folder().join(format!("{topic}.case"));
    let text = fs::read_to_string(&path).unwrap();
    (path, cases_in(&text))
}

#[test]
fn every_case_holds_by_the_classifier() {
    assert!(topics().len() >= 15, "{:?}", topics());
    for topic in topics() {
        let (path, count) = own(&topic);
        let (last, said) = run(&topic, &path, &[]);
        assert_eq!(last, format!("{count} cases, 0 failed"), "{topic}:\n{said}");
    }
}

#[test]
fn every_case_holds_by_the_interpreter() {
    for topic in topics() {
        let (path, count) = own(&topic);
        let (last, said) = run(&topic, &path, &["--oracle"]);
        assert_eq!(last, format!("{count} cases, 0 failed"), "{topic}:\n{said}");
    }
}

/// The positive control.
#[test]
fn no_case_holds_with_its_verdict_turned_round() {
    let scratch = tempfile::TempDir::new().unwrap();
    for topic in topics() {
        let (path, count) = own(&topic);
        let text = fs::read_to_string(path).unwrap();
        let turned = text.replace("=> allow", "=> tmp").replace("=> deny", "=> allow").replace("=> tmp", "=> deny");
        let path = scratch.path().join(format!("{topic}.case"));
        fs::write(&path, turned).unwrap();
        let (last, said) = run(&topic, &path, &[]);
        assert_eq!(last, format!("{count} cases, {count} failed"), "{topic}:\n{said}");
    }
}
