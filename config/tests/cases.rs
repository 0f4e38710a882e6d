//! The cases in `data/`: rules, selectors and whole documents, and what is said of them.
//!
//! `UPDATE_CASES=1` writes what is found into the files instead of comparing.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::path::PathBuf;

use config::resource::{Kind, Resource};
use config::selector::Selector;
use config::yaml::{self, Problem, What};

/// Compares a case file with itself after every expectation is replaced by what is found.
fn check(file: &str, regenerate: impl Fn(&str) -> String) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(file);
    let text = std::fs::read_to_string(&path).unwrap();
    let found = regenerate(&text);
    if std::env::var_os("UPDATE_CASES").is_some() {
        return std::fs::write(&path, found).unwrap();
    }
    for (number, (expected, found)) in text.lines().zip(found.lines()).enumerate() {
        assert_eq!(found, expected, "{file}, line {}", number + 1);
    }
    assert_eq!(found.lines().count(), text.lines().count(), "{file} ends elsewhere");
}

#[test]
fn rules() {
    check("rules.txt", |text| {
        let mut out = String::new();
        for line in text.lines().filter(|line| !line.starts_with("    =>")) {
            out.push_str(line);
            out.push('\n');
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (place, rule) = line.split_once(' ').unwrap();
            let (kind, direction) = match place.strip_prefix("global-") {
                Some(direction) => ("GlobalNetworkPolicy", direction),
                None => ("NetworkPolicy", place),
            };
            let document = format!(
                "{{apiVersion: projectcalico.org/v3, kind: {kind}, metadata: {{name: x}}, spec: {{{direction}: [{rule}]}}}}"
            );
            match yaml::parse("case", &document) {
                Ok(_) => out.push_str("    => ok\n"),
                Err(problems) => {
                    for problem in problems {
                        let said = said(&problem).replace(&format!("spec.{direction}[0]."), "");
                        out.push_str(&format!("    => {said}\n"));
                    }
                }
            }
        }
        out
    });
}

#[test]
fn kinds() {
    check("kinds.txt", |text| {
        let mut out = String::new();
        for line in text.lines().filter(|line| !line.starts_with("    =>")) {
            out.push_str(line);
            out.push('\n');
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (object, spec) = line.split_once(' ').unwrap();
            let (kind, name) = object.split_once('/').unwrap_or((object, "default"));
            let kind = Kind::from_name(kind).unwrap();
            let written = kind.written();
            let document =
                format!("{{apiVersion: {}, kind: {written}, metadata: {{name: {name}}}, {spec}}}", kind.api_version());
            match yaml::parse("case", &document) {
                Ok(resources) => {
                    assert_eq!(resources[0].kind(), kind);
                    assert_eq!(Resource::from_json(&resources[0].to_json()).as_ref(), Ok(&resources[0]), "{line}");
                    out.push_str("    => ok\n");
                }
                Err(problems) => {
                    problems.iter().for_each(|problem| out.push_str(&format!("    => {}\n", said(problem))))
                }
            }
        }
        out
    });
}

#[test]
fn selectors() {
    check("selectors.txt", |text| {
        let mut out = String::new();
        let mut selector = None;
        for line in text.lines().filter(|line| !line.starts_with("    =>")) {
            if let Some(labels) = line.strip_prefix("    ") {
                let labels = labels.split(" => ").next().unwrap().trim_end();
                let selector: &Selector = selector.as_ref().expect("labels stand under a selector that can be read");
                let found = if selector.matches(&labels_of(labels)) { "yes" } else { "no" };
                out.push_str(&format!("    {labels} => {found}\n"));
                continue;
            }
            out.push_str(&format!("{line}\n"));
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let read = Selector::parse(line);
            let said = read.as_ref().map_or_else(ToString::to_string, ToString::to_string);
            out.push_str(&format!("    => {said}\n"));
            selector = read.ok();
        }
        out
    });
}

/// `role=web, env=` is two labels, the second without a value; `none` is no label.
fn labels_of(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split(", ").filter_map(|pair| pair.split_once('='));
    pairs.map(|(label, value)| (label.to_owned(), value.to_owned())).collect()
}

fn said(problem: &Problem) -> String {
    match &problem.what {
        What::Field(error) => error.to_string(),
        What::Syntax(message) => message.clone(),
    }
}

#[test]
fn documents() {
    check("documents.txt", |text| {
        let mut parts = text.split("\n== ");
        let mut out = parts.next().unwrap().to_string();
        for case in parts {
            let (title, rest) = case.split_once('\n').unwrap();
            let document: Vec<&str> = rest.lines().filter(|line| !line.starts_with("=>")).collect();
            let document = format!("{}\n", document.join("\n").trim_end());
            let found = match yaml::parse("a.yaml", &document) {
                Ok(resources) => {
                    resources.iter().map(|resource| format!("=> {}\n", resource.key())).collect::<String>()
                }
                Err(problems) => problems.iter().map(|problem| format!("=> {problem}\n")).collect(),
            };
            out.push_str(&format!("\n== {title}\n{document}{found}"));
        }
        out
    });
}
