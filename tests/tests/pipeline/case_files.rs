//! The cases in `tests/data/pipeline/*.case`, whose form `tests::casefile` describes.
//!
//! `UPDATE_CASES=1` writes what is found into the files instead of comparing; review the difference like code.

use std::path::PathBuf;

use tests::casefile::{CaseError, play};

fn files() -> Vec<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("data/pipeline");
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|e| e == "case")).collect();
    files.sort();
    files
}

#[test]
fn every_case_file_says_what_happens() {
    let mut differences = Vec::new();
    assert!(!files().is_empty());
    for file in files() {
        let text = std::fs::read_to_string(&file).unwrap();
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let found = play(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        if std::env::var_os("UPDATE_CASES").is_some() {
            std::fs::write(&file, &found).unwrap();
        }
        for (number, (expected, found)) in text.lines().zip(found.lines()).enumerate() {
            if expected != found {
                differences.push(format!("{name}:{}\n    says  {expected}\n    found {found}", number + 1));
            }
        }
    }
    assert!(differences.is_empty(), "\n{}", differences.join("\n"));
}

#[test]
fn a_wrong_verdict_is_noticed() {
    let text = "endpoint a 10.0.0.1\nendpoint b 10.0.0.2\npolicy p on all() ingress none egress allow\n";
    let found = play(&format!("{text}a -> b udp 1:2 => forward  # never\n")).unwrap();
    assert_eq!(found.lines().last(), Some("a -> b udp 1:2 => drop policy_ingress  # never"));
}

#[test]
fn a_line_that_means_nothing_is_refused_by_number() {
    for (line, expected) in [
        ("endpint a 10.0.0.1", "\"endpint\" begins no statement"),
        ("endpoint a 10.0.0.256", "\"10.0.0.256\" is no address and no label"),
        ("a -> b tcp 1:2 => forward", "nothing is called \"a\""),
        ("setting sometimes", "\"sometimes\" is no setting: preserve or reevaluate"),
        ("policy p all() ingress tcp", "`on SELECTOR` is missing"),
        ("policy p early on all() ingress tcp", "`on SELECTOR` is missing"),
        ("hostendpoint h", "a host endpoint has a name and a place: an uplink, * or an address"),
        ("failsafe sideways tcp:22", "\"sideways\" is no direction: inbound or outbound"),
        ("failsafe inbound sctp:22", "\"sctp:22\" is no failsafe port"),
        ("uplink up 192.0.2.0/33 has ten", "\"ten\" is no address"),
        ("uplink up 192.0.2.0/x", "\"192.0.2.0/x\" is no prefix"),
    ] {
        let error = play(&format!("# a comment\n{line}\n")).unwrap_err();
        assert_eq!(error, CaseError { line: 2, message: expected.to_string() });
    }
}
