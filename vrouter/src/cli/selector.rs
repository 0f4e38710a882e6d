//! selector: what a label expression is called, and whether it matches; JSON lines, no daemon.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use config::selector::Selector;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha224};

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
    let canonical = selector.to_string();
    let mut answer = json!({ "canonical": canonical, "id": id(&canonical) });
    if let Some(labels) = question.labels {
        answer["match"] = json!(selector.matches(&labels));
    }
    Ok(answer)
}

/// The identity of a selection: two spellings of one selector share it.
fn id(canonical: &str) -> String {
    format!("s:{}", URL_SAFE_NO_PAD.encode(Sha224::digest(format!("s:{canonical}"))))
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
        check(
            r#"{"selector": "a in {'b', 'a'}", "labels": {"a": "b"}}"#,
            json!({ "canonical": r#"a in {"a", "b"}"#, "id": super::id(r#"a in {"a", "b"}"#), "match": true }),
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
