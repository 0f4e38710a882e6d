//! Documents to resources: what a person wrote, read whole, with every problem and its place.
//!
//!     web.yaml:12:15: spec.ingress[0].action: found "allow", expected one of Allow, Deny, Log, Pass (did you mean Allow?)
//!
//! A text may hold several documents, and a document may be a list (`kind: NetworkPolicyList`, or
//! plain `List`). Empty documents are passed over. JSON is read as the YAML it is.
//!
//! Invariants: the resources handed back have their defaults and passed `validate`; if anything is
//! wrong anywhere in the text, nothing is handed back.

use std::fmt;

use crate::document::{self, Node, Position, SyntaxError, Value};
use crate::resource::{self, FieldError, Kind, Read, Resource};

/// What a list kind ends in; alone, it is a list of any kinds.
const LIST: &str = "List";

/// One thing wrong with a text, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Problem {
    /// The name the text was given, such as a file name.
    pub source_name: String,
    pub position: Position,
    pub what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// Not a document at all.
    Syntax(String),
    Field(FieldError),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.source_name, self.position)?;
        match &self.what {
            What::Syntax(message) => f.write_str(message),
            What::Field(error) => error.fmt(f),
        }
    }
}

/// One resource of a text, right or wrong, as far as it could be read.
#[derive(Debug, Clone, PartialEq)]
pub struct Examined {
    pub position: Position,
    /// What is written under `kind`, `metadata.namespace` and `metadata.name`.
    pub kind: Option<String>,
    pub namespace: Option<String>,
    pub name: Option<String>,
    /// With its defaults; none when there are problems.
    pub resource: Option<Resource>,
    pub problems: Vec<Problem>,
}

/// Reads all resources of a text, or says everything that is wrong with it.
pub fn parse(source_name: &str, text: &str) -> Result<Vec<Resource>, Vec<Problem>> {
    let mut resources = Vec::new();
    let mut problems = Vec::new();
    for mut examined in examine(source_name, text) {
        resources.extend(examined.resource);
        problems.append(&mut examined.problems);
    }
    if problems.is_empty() { Ok(resources) } else { Err(problems) }
}

/// Every resource of a text by itself. What is no resource, such as text that is no YAML, stands among them with its
/// problem and without a kind.
pub fn examine(source_name: &str, text: &str) -> Vec<Examined> {
    let (documents, errors) = document::read(text);
    let mut found = Found { source_name, examined: Vec::new() };
    for document in &documents {
        found.document(document);
    }
    for SyntaxError { position, message } in errors {
        found.problem(position, What::Syntax(message));
    }
    found.examined
}

struct Found<'a> {
    source_name: &'a str,
    examined: Vec<Examined>,
}

impl Found<'_> {
    fn document(&mut self, document: &Node) {
        if document.value == Value::Null {
            return;
        }
        let text = |field: &str| document.get(field).and_then(Node::as_text).unwrap_or_default();
        match text("kind").strip_suffix(LIST) {
            Some("") => self.list(document, None),
            Some(of) => match Kind::of(text("apiVersion"), of).or_else(|| Kind::written_as(of).next()) {
                Some(kind) => self.list(document, Some(kind)),
                None => self.resource(document, "", None),
            },
            None => self.resource(document, "", None),
        }
    }

    fn list(&mut self, document: &Node, kind: Option<Kind>) {
        match document.get("items").map(|items| &items.value) {
            Some(Value::List(items)) => {
                for (i, item) in items.iter().enumerate() {
                    self.resource(item, &format!("items[{i}]"), kind);
                }
            }
            Some(Value::Null) | None => {}
            Some(_) => {
                let error = FieldError {
                    path: "items".to_string(),
                    found: document.get("items").map(Node::describe).unwrap_or_default(),
                    expected: "a list of resources".to_string(),
                    help: None,
                };
                self.problem(document.position_of("items"), What::Field(error));
            }
        }
        if let Value::Map(entries) = &document.value {
            const LIST_FIELDS: [&str; 4] = ["apiVersion", "kind", "metadata", "items"];
            for (key, _) in entries.iter().filter(|(key, _)| !LIST_FIELDS.contains(&key.name.as_str())) {
                let error = FieldError {
                    path: key.name.clone(),
                    found: "an unknown field".to_string(),
                    expected: format!("one of {}", LIST_FIELDS.join(", ")),
                    help: None,
                };
                self.problem(key.position, What::Field(error));
            }
        }
    }

    fn resource(&mut self, document: &Node, path: &str, listed_kind: Option<Kind>) {
        let Read { resource, mut problems, left_out } = resource::read(document, path, listed_kind);
        if let Some(resource) = &resource {
            for mut error in resource.validate() {
                if left_out.iter().any(|gap| is_consequence(&error.path, gap)) {
                    continue;
                }
                let position = document.position_of(&error.path);
                if !path.is_empty() {
                    error.path = format!("{path}.{}", error.path);
                }
                problems.push((position, error));
            }
        }
        problems.sort_by_key(|(position, _)| *position);
        let is_right = problems.is_empty();
        let problem = |(position, error)| Problem {
            source_name: self.source_name.to_string(),
            position,
            what: What::Field(error),
        };
        let text = |node: Option<&Node>| node.and_then(Node::as_text).map(str::to_string);
        let metadata = document.get("metadata");
        let kind = text(document.get("kind")).or_else(|| listed_kind.map(|kind| kind.written().to_string()));
        self.examined.push(Examined {
            position: document.position,
            kind,
            namespace: text(metadata.and_then(|metadata| metadata.get("namespace"))),
            name: text(metadata.and_then(|metadata| metadata.get("name"))),
            problems: problems.into_iter().map(problem).collect(),
            resource: resource.filter(|_| is_right),
        });
    }

    /// Something wrong that belongs to no resource.
    fn problem(&mut self, position: Position, what: What) {
        let problem = Problem { source_name: self.source_name.to_string(), position, what };
        self.examined.push(Examined {
            position,
            kind: None,
            namespace: None,
            name: None,
            resource: None,
            problems: vec![problem],
        });
    }
}

/// Whether a problem may only follow from a value that was left out because it could not be read: it is at that value,
/// at what holds it, or in the same entry of the same list (one rule of a policy, one port of an endpoint).
fn is_consequence(path: &str, gap: &str) -> bool {
    let holder = gap.rfind(['.', '[']).map_or("", |end| &gap[..end]);
    let entry = match gap.find(']') {
        Some(end) if end + 1 < gap.len() => &gap[..=end],
        // The entry itself is missing, and so the count of its list is wrong.
        Some(_) => holder,
        None => gap,
    };
    path == holder || path.starts_with(entry)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,300}") {
            let _ = parse("any", &text);
        }

        #[test]
        fn any_arrangement_of_yaml_signs(text in "([-?:,\\[\\]{}#&*!|>'\"%@` \n\ta~0.<]|kind: |spec:\n|- |  ){0,120}") {
            let _ = parse("any", &text);
        }

        #[test]
        fn any_shape_under_a_kind(
            kind in proptest::sample::select(Kind::ALL),
            body in "(  [a-zA-Z]{1,12}: [-\\[\\]{}a-z0-9\"' ]{0,12}\n|  (nets|ports|cidr|ingress|spec|bgp|controllers):\n    - [a-z:{} 0-9]{0,8}\n){0,6}",
        ) {
            let (version, kind) = (kind.api_version(), kind.written());
            let _ = parse("any", &format!("apiVersion: {version}\nkind: {kind}\nmetadata:\n  name: x\nspec:\n{body}"));
        }
    }
}
