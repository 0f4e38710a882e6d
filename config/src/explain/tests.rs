//! Every field that a document may have has an entry, found by asking the decoder: a field that does not exist is
//! answered with the names of those that do.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::*;
use crate::document::Node;
use crate::resource::fields_at;

const PROBE: &str = "zzzzprobe";

/// Deeper than any kind goes.
const DEPTH_MAX: usize = 14;

/// A document that has `inner` at `path`, whose steps end in `[]` for lists and `{}` for maps.
fn document(kind: Kind, path: &[String], inner: Value) -> Value {
    let mut value = inner;
    for step in path.iter().rev() {
        value = match (step.strip_suffix("[]"), step.strip_suffix("{}")) {
            (Some(name), _) => json!({ name: [value] }),
            (_, Some(name)) => json!({ name: { "key": value } }),
            _ => json!({ step: value }),
        };
    }
    value["apiVersion"] = kind.api_version().into();
    value["kind"] = kind.written().into();
    value
}

/// The fields of the struct at `path`, or none when there is no struct.
fn struct_at(kind: Kind, path: &[String]) -> Option<Vec<String>> {
    let document = document(kind, path, json!({ PROBE: null }));
    fields_at(&Node::from_json(&document), kind, PROBE)
}

fn walk(kind: Kind, path: &[String], found: &mut Vec<String>) {
    assert!(path.len() < DEPTH_MAX, "{kind}: {path:?} has no end");
    for field in struct_at(kind, path).unwrap_or_default() {
        let step = |sign: &str| [path, &[format!("{field}{sign}")]].concat();
        let plain: Vec<String> = step("").iter().map(|step| step.replace("[]", "").replace("{}", "")).collect();
        found.push(plain.join("."));
        // A struct, a list of structs, a list of lists is not there, a map of structs.
        for sign in ["", "[]", "{}"] {
            if struct_at(kind, &step(sign)).is_some_and(|fields| !fields.is_empty()) {
                walk(kind, &step(sign), found);
                break;
            }
        }
    }
}

fn all_paths(kind: Kind) -> Vec<String> {
    let mut found = Vec::new();
    walk(kind, &[], &mut found);
    found.retain(|path| !matches!(path.as_str(), "apiVersion" | "kind"));
    found
}

#[test]
fn every_field_of_every_kind_is_explained() {
    let mut missing = BTreeSet::new();
    let mut count = 0;
    for kind in Kind::ALL.iter().copied() {
        assert!(!super::kind(kind).meaning.is_empty(), "{kind} has no page in fields.txt");
        let paths = all_paths(kind);
        assert!(paths.iter().any(|path| path == "metadata.name"), "{kind}: the walk finds nothing");
        count += paths.len();
        for path in paths {
            match field(kind, &path) {
                Ok(Some(entry)) if !entry.kind.is_empty() => {}
                _ => drop(missing.insert(format!("{kind}.{path}"))),
            }
        }
    }
    assert!(count > 1000, "{count} fields");
    let missing: Vec<String> = missing.into_iter().collect();
    assert!(missing.is_empty(), "without an entry in fields.txt: {}\n{}", missing.len(), missing.join("\n"));
}

#[test]
fn nothing_is_explained_that_is_not_there() {
    let mut stale = Vec::new();
    for kind in Kind::ALL.iter().copied() {
        let real: BTreeSet<String> = all_paths(kind).into_iter().collect();
        let mut open: Vec<(String, Option<Entry>)> = vec![(String::new(), None)];
        while let Some((path, entry)) = open.pop() {
            for below in fields_below(kind, entry.as_ref()) {
                let path = if path.is_empty() { below.name.to_string() } else { format!("{path}.{}", below.name) };
                match real.contains(&path) {
                    true => open.push((path, Some(below))),
                    false => stale.push(format!("{kind}.{path}")),
                }
            }
        }
    }
    assert!(stale.is_empty(), "in fields.txt, but no field: {}\n{}", stale.len(), stale.join("\n"));
}

#[test]
fn paths_are_read_as_they_are_written() {
    let check = |path: &str, expected: &str| {
        let found = match field(Kind::GlobalNetworkPolicy, path) {
            Ok(Some(entry)) => entry.name.to_string(),
            Ok(None) => "the kind".to_string(),
            Err(error) => error.to_string(),
        };
        assert!(found.starts_with(expected), "{path}: {found}");
    };
    check("", "the kind");
    check("spec.ingress", "ingress");
    check("spec.ingress[0].source.nets[1]", "nets");
    check("metadata.labels[\"a.b/c\"]", "labels");
    check("spec.ingres", "GlobalNetworkPolicy.spec has no field \"ingres\", expected one of ");
    check("spec.order.deeper", "GlobalNetworkPolicy.spec.order has no field \"deeper\" and no fields at all");
}
