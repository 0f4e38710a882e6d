//! selector: what a label expression is called, and whether it matches; JSON lines, no daemon.

use std::collections::BTreeMap;

use config::selector::Selector;
use serde::Deserialize;
use serde_json::{Value, json};

use super::error::CliError;
use super::lines;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    selector: String,
    labels: Option<BTreeMap<String, String>>,
}

pub fn run() -> Result<(), CliError> {
    lines::answer(r#"{"selector": "...", "labels": {"name": "value"}}"#, answer)
}

fn answer(question: Question) -> Result<Value, String> {
    let selector = Selector::parse(&question.selector).map_err(|error| format!("selector: {error}"))?;
    let mut answer = json!({ "canonical": selector.to_string(), "id": selector.id() });
    if let Some(labels) = question.labels {
        answer["match"] = json!(selector.matches(&labels));
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expected: Value) {
        let found = serde_json::from_str(line).map_err(|error| error.to_string()).and_then(answer);
        assert_eq!(found.unwrap_or_else(|error| json!({ "error": error })), expected, "{line}");
    }

    #[test]
    fn answers() {
        let spelt_otherwise = Selector::parse(r#"a in {"a", "b"}"#).unwrap();
        check(
            r#"{"selector": "a in {'b', 'a'}", "labels": {"a": "b"}}"#,
            json!({ "canonical": r#"a in {"a", "b"}"#, "id": spelt_otherwise.id(), "match": true }),
        );
        check(
            r#"{"selector": " all() "}"#,
            json!({ "canonical": "all()", "id": "s:5y5I3VdRZfDU01O--xXAPx2yxCQQqMf0M6IWug" }),
        );
        check(
            r#"{"selector": "a =="}"#,
            json!({ "error": "selector: at position 5: found the end, expected a quoted string such as 'web'" }),
        );
        check(
            r#"{"selector": "a", "label": {}}"#,
            json!({ "error": "unknown field `label`, expected `selector` or `labels` at line 1 column 25" }),
        );
    }
}
