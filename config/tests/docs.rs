//! The tables of docs/RESOURCES.md and docs/FELIX.md say what the code says.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::path::Path;

use config::resource::{FelixConfigurationSpec, Kind};

const STATES: [&str; 3] = ["used", "accepted, no effect", "refused"];

fn rows(file: &str) -> Vec<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(file);
    let text = std::fs::read_to_string(path).unwrap();
    let cells = |line: &str| line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_string()).collect();
    let is_row =
        |line: &&str| line.starts_with("| ") && !line.starts_with("| kind |") && !line.starts_with("| parameter |");
    text.lines().filter(is_row).map(cells).collect()
}

#[test]
fn every_kind_has_its_row() {
    let found: Vec<Vec<String>> = rows("RESOURCES.md").into_iter().map(|row| row[..4].to_vec()).collect();
    let expected: Vec<Vec<String>> = Kind::ALL
        .iter()
        .map(|kind| {
            let namespaced = if kind.is_namespaced() { "yes" } else { "no" };
            let version = format!("`{}`", kind.api_version());
            vec![kind.written().to_string(), version, kind.words().join(", "), namespaced.to_string()]
        })
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn every_field_of_felix_configuration_has_its_row() {
    let rows = rows("FELIX.md");
    let fields: Vec<&str> = rows.iter().map(|row| row[1].trim_matches('`')).filter(|field| *field != "–").collect();
    let distinct: BTreeSet<&str> = fields.iter().copied().collect();
    assert_eq!(distinct.len(), fields.len(), "a field has two rows");
    assert_eq!(distinct, FelixConfigurationSpec::FIELDS.iter().copied().collect());
    for row in &rows {
        let [parameter, field, state, why] = &row[..] else { panic!("{row:?} has not four cells") };
        assert!(STATES.contains(&state.as_str()), "{parameter} is {state:?}");
        assert!(state == "used" || !why.is_empty(), "{parameter} has no reason");
        assert_eq!(state == "refused", field == "–", "{parameter}: what is not a field is refused, and nothing else");
    }
}

#[test]
fn every_parameter_of_calicos_agent_has_its_row() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/conformance/felix-config-params.jsonl");
    let Ok(text) = std::fs::read_to_string(&path) else {
        println!("skipped: {} is not here", path.display());
        return;
    };
    let parameters: Vec<(String, String)> = text
        .lines()
        .map(|line| {
            let parameter: serde_json::Value = serde_json::from_str(line).unwrap();
            let field = parameter["resourceField"].as_str().map_or("–".to_string(), |field| format!("`{field}`"));
            (parameter["file"].as_str().unwrap().to_string(), field)
        })
        .collect();
    let found: Vec<(String, String)> = rows("FELIX.md")
        .into_iter()
        .map(|row| (row[0].clone(), row[1].clone()))
        .filter(|(name, _)| name != "–")
        .collect();
    assert_eq!(found, parameters);
    println!("parameters with a row: {}", found.len());
}
