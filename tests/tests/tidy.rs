//! The house rules that a program can check. docs/TESTING.md says what to do about a failure.
//!
//! Every test collects all violations before it fails, so that one run shows all of them. An exception stands in a list
//! here, with its reason.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const CRATES: [&str; 6] = ["config", "control", "fastpath", "perf", "tests", "vrouter"];

/// Which crate may depend on which. `tests` may use everything that is a library; of the last three, nothing depends on the
/// binary and on `tests`, and the binary alone on `perf`, for `vrouter bench`.
const ARROWS: [(&str, &[&str]); 6] = [
    ("config", &[]),
    ("fastpath", &[]),
    ("control", &["config", "fastpath"]),
    ("vrouter", &["config", "control", "fastpath", "perf"]),
    ("perf", &["fastpath"]),
    ("tests", &["config", "control", "fastpath"]),
];

/// A file past this length has a second noun in it. STYLE: about 600 lines.
const LONGEST_FILE: usize = 600;

/// Files that may be longer, each with its reason.
const LONG_FILES: [(&str, &str); 1] =
    [("tests/tests/pipeline/drops.rs", "one list: every drop reason with its cases, side by side")];

/// Where `unsafe` may stand.
const UNSAFE: [&str; 4] = ["fastpath/src/io/", "fastpath/src/rcu.rs", "fastpath/src/mapped.rs", "fastpath/tests/io_"];

/// What no stage may reach: locks, clocks, output, allocation.
const NOT_IN_A_STAGE: [&str; 16] = [
    "Mutex",
    "RwLock",
    "Instant",
    "SystemTime",
    "println!",
    "eprintln!",
    "dbg!",
    "tracing",
    "log::",
    "Vec::new",
    "vec!",
    "Box::new",
    "format!",
    ".to_vec()",
    ".to_string()",
    "String::",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// Files with one of these extensions below a folder of the repository, by their path in it.
fn files(folder: &str, extensions: &[&str]) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            let is_ours = name != "target" && name != "out" && (!name.starts_with('.') || name == ".ci");
            if path.is_dir() && is_ours {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extensions.iter().any(|wanted| extension == *wanted)) {
                let text = fs::read_to_string(&path).unwrap();
                found.insert(path.strip_prefix(root()).unwrap().to_str().unwrap().to_string(), text);
            }
        }
    }
    found
}

fn rust_files() -> BTreeMap<String, String> {
    CRATES.iter().flat_map(|name| files(name, &["rs"])).collect()
}

#[track_caller]
fn assert_none(rule: &str, violations: Vec<String>) {
    assert!(violations.is_empty(), "{rule}\n  {}", violations.join("\n  "));
}

/// The part of a file before its tests, without comments and string literals.
fn production(text: &str) -> String {
    let end = text.find("#[cfg(test)]").or(text.find("#[cfg(all(test")).unwrap_or(text.len());
    text[..end]
        .lines()
        .map(|line| without_strings(line.split("//").next().unwrap_or("")))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The pieces of a line between quotes taken out; a good enough reading of one line of Rust.
fn without_strings(line: &str) -> String {
    line.split('"').step_by(2).collect::<Vec<_>>().join("\"\"")
}

/// `[section]` and `name = value` of a manifest, with the whole line.
fn dependencies(manifest: &str) -> Vec<(String, String)> {
    let mut section = String::new();
    let mut found = Vec::new();
    for line in manifest.lines() {
        let line = line.trim();
        if line.starts_with('[') {
            section = line.to_string();
        } else if section.ends_with("dependencies]") && !line.is_empty() && !line.starts_with('#') {
            let name = line.split(['=', '.', ' ']).next().unwrap_or("");
            found.push((name.to_string(), line.to_string()));
        }
    }
    found
}

fn manifest(name: &str) -> String {
    fs::read_to_string(root().join(name).join("Cargo.toml")).unwrap()
}

#[test]
fn crates_depend_only_along_the_arrows() {
    let mut violations = Vec::new();
    for (name, allowed) in ARROWS {
        for (dependency, _) in dependencies(&manifest(name)) {
            if CRATES.contains(&dependency.as_str()) && !allowed.contains(&dependency.as_str()) {
                violations.push(format!("{name} depends on {dependency}"));
            }
        }
    }
    assert_none("a crate depends on one it should know nothing of", violations);
}

#[test]
fn every_dependency_has_its_reason_beside_it() {
    let mut violations = Vec::new();
    for name in CRATES {
        for (dependency, line) in dependencies(&manifest(name)) {
            let is_ours = CRATES.contains(&dependency.as_str());
            let reason = line.rsplit_once('#').map_or("", |(_, reason)| reason.trim());
            if !is_ours && reason.len() < 5 {
                violations.push(format!("{name}/Cargo.toml: {dependency}"));
            }
        }
    }
    assert_none("a dependency without a `# reason` on its line", violations);
}

#[test]
fn every_file_has_a_header() {
    let without = |(path, text): (&String, &String)| (!text.starts_with("//!")).then(|| path.clone());
    assert_none("a file that does not begin with `//!`", rust_files().iter().filter_map(without).collect());
}

#[test]
fn no_file_is_too_long() {
    let mut violations = Vec::new();
    for (path, text) in rust_files() {
        let is_excepted = LONG_FILES.iter().any(|(long, _)| *long == path);
        let length = text.lines().count();
        if length > LONGEST_FILE && !is_excepted {
            violations.push(format!("{path}: {length} lines"));
        }
        if length <= LONGEST_FILE && is_excepted {
            violations.push(format!("{path}: {length} lines, and no exception any more"));
        }
    }
    assert_none("a file of more than 600 lines: look for the second noun", violations);
}

#[test]
fn unsafe_stands_only_where_it_may() {
    let mut violations = Vec::new();
    for (path, text) in rust_files() {
        if UNSAFE.iter().any(|allowed| path.starts_with(allowed)) {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            let code = without_strings(line.split("//").next().unwrap_or(""));
            let is_word = |word: &str| word == "unsafe";
            if code.split(|c: char| !c.is_alphanumeric() && c != '_').any(is_word) {
                violations.push(format!("{path}:{}", number + 1));
            }
        }
    }
    assert_none("`unsafe` outside of fastpath::io, fastpath::rcu and fastpath::mapped", violations);
}

#[test]
fn crates_without_unsafe_forbid_it() {
    let roots = ["config/src/lib.rs", "control/src/lib.rs", "vrouter/src/main.rs"];
    let lacks = |path: &&&str| !fs::read_to_string(root().join(path)).unwrap().contains("#![forbid(unsafe_code)]");
    assert_none("no #![forbid(unsafe_code)]", roots.iter().filter(lacks).map(|path| path.to_string()).collect());
}

#[test]
fn stages_do_not_lock_log_allocate_or_look_at_the_clock() {
    let mut violations = Vec::new();
    for (path, text) in files("fastpath/src/stage", &["rs"]) {
        let production = production(&text);
        for (number, line) in production.lines().enumerate() {
            for word in NOT_IN_A_STAGE.iter().filter(|word| line.contains(*word)) {
                violations.push(format!("{path}:{}: {word}", number + 1));
            }
        }
    }
    assert_none("something in a stage that may block, print or allocate", violations);
}

#[test]
fn stages_return_no_result_to_their_caller() {
    let mut violations = Vec::new();
    for (path, text) in files("fastpath/src/stage", &["rs"]) {
        let entry = |line: &&str| line.starts_with("pub fn burst") && line.contains("Result");
        violations.extend(production(&text).lines().filter(entry).map(|_| path.clone()));
    }
    assert_none("a stage that returns `Result`: a packet's problem is a DropReason", violations);
}

#[test]
fn config_is_pure() {
    const IMPURE: [&str; 8] = [
        "std::net::Tcp",
        "std::net::Udp",
        "std::os::unix::net",
        "std::thread",
        "Instant::now",
        "SystemTime::now",
        "std::process",
        "tokio",
    ];
    let mut violations = Vec::new();
    for (path, text) in files("config/src", &["rs"]) {
        let production = production(&text);
        violations
            .extend(IMPURE.iter().filter(|word| production.contains(*word)).map(|word| format!("{path}: {word}")));
    }
    assert_none("a socket, thread or clock in config", violations);
}

#[test]
fn only_compile_sees_both_node_state_and_tables() {
    // Reading what a worker did (counters, flows, records) is no decision; building tables is.
    let builders = ["Acl::build", "AclSpec {", "Routes::build", "RoutesWriter", "Adjacency::new("];
    let mut violations = Vec::new();
    for (path, text) in files("control/src", &["rs"]) {
        let production = production(&text);
        let is_compile = path.starts_with("control/src/compile");
        for word in builders.iter().filter(|word| !is_compile && production.contains(**word)) {
            violations.push(format!("{path}: {word}"));
        }
    }
    assert_none("tables are built in control::compile and nowhere else", violations);
}

#[test]
fn drop_reasons_have_distinct_names_fit_for_a_label() {
    use fastpath::burst::DropReason;
    let names: BTreeSet<&str> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
    assert_eq!(names.len(), DropReason::ALL.len());
    let is_label = |name: &&&str| name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    assert_eq!(names.iter().filter(is_label).count(), names.len(), "{names:?}");
}

#[test]
fn nothing_names_the_place_it_was_written_at() {
    let mut violations = Vec::new();
    let texts = CRATES.iter().flat_map(|name| files(name, &["rs", "c", "toml", "case", "yaml"]));
    let others = [".ci", "docs", "demo"].iter().flat_map(|name| files(name, &["md", "yaml", "sh"]));
    let mut all: BTreeMap<String, String> = texts.chain(others).collect();
    for name in ["README.md", "Makefile", ".ci/run", ".ci/install", "Cargo.toml"] {
        if let Ok(text) = fs::read_to_string(root().join(name)) {
            all.insert(name.to_string(), text);
        }
    }
    // Written so that this file does not contain them.
    let places = [["/wo", "rk/"].concat(), ["/ho", "me/"].concat(), ["/ro", "ot/"].concat()];
    for (path, text) in all {
        for (number, line) in text.lines().enumerate() {
            if places.iter().any(|place| line.contains(place.as_str())) {
                violations.push(format!("{path}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert_none("an absolute path of one machine", violations);
}

#[test]
fn tests_do_not_sleep() {
    // `tests/src/wait.rs` is where waiting has a deadline; a measurement is no test.
    let mut violations = Vec::new();
    for (path, text) in rust_files() {
        let is_waiting = path == "tests/src/wait.rs" || path.starts_with("perf/");
        let tests_begin = text.find("#[cfg(test)]").unwrap_or(text.len());
        let is_test_file = path.contains("/tests/") || path.ends_with("tests.rs");
        let part = if is_test_file { &text[..] } else { &text[tests_begin..] };
        let code = part.lines().map(|line| without_strings(line.split("//").next().unwrap_or("")));
        let needle = ["thread::", "sleep("].concat();
        if !is_waiting && code.filter(|line| line.contains(&needle)).count() > 0 {
            violations.push(path);
        }
    }
    assert_none("a sleep in a test: wait for the condition, with a deadline", violations);
}

#[test]
fn no_test_is_ignored() {
    let mut violations = Vec::new();
    for (path, text) in rust_files() {
        let attribute = ["#[", "ignore"].concat();
        violations.extend(text.lines().filter(|line| line.trim().starts_with(&attribute)).map(|_| path.clone()));
    }
    assert_none("a test that never runs: assert what happens, with a FIXME", violations);
}

#[test]
fn no_compiled_object_is_kept() {
    let found = CRATES.iter().flat_map(|name| files_named(name, &["o", "so", "a", "ll"])).collect();
    assert_none("a compiled object in the tree", found);
}

fn files_named(folder: &str, extensions: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let is_target = path.file_name().is_some_and(|name| name == "target");
            if path.is_dir() && !is_target {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extensions.iter().any(|wanted| extension == *wanted)) {
                found.push(path.display().to_string());
            }
        }
    }
    found
}

/// The rules themselves: each must notice what it forbids.
mod positive_controls {
    use super::*;

    #[test]
    fn code_is_told_from_comments_strings_and_tests() {
        let text = "let a = 1; // Mutex\nlet b = \"vec![]\";\n#[cfg(test)]\nmod tests { vec![] }";
        let found = production(text);
        assert!(!found.contains("Mutex") && !found.contains("vec!"), "{found}");
        assert!(production("let c = vec![1];").contains("vec!"));
    }

    #[test]
    fn dependencies_are_read_in_every_section() {
        let manifest = "[package]\nname = \"x\"\n[dependencies]\na = \"1\" # why\nb.workspace = true\n[dev-dependencies]\nc = { path = \"../c\" }\n";
        let names: Vec<String> = dependencies(manifest).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["a", "b", "c"]);
    }
}
