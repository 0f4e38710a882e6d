//! What `-o` may say.
//!
//! All commands know `ps`, `wide`, `json` and `yaml`. `get` also knows `custom-columns=A,B`. Go templates are refused
//! with what to use instead: a template engine of another language, in part, would be worse than none.

use std::str::FromStr;

use super::Format;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    pub format: Format,
    /// The headings asked for, or `HEADING:.path.to.value`.
    pub columns: Option<Vec<String>>,
}

impl From<Format> for Output {
    fn from(format: Format) -> Output {
        Output { format, columns: None }
    }
}

const EXPECTED: &str = "ps, wide, json, yaml or custom-columns=NAME,...";

impl FromStr for Output {
    type Err = String;

    fn from_str(text: &str) -> Result<Output, String> {
        let (word, value) = match text.split_once('=') {
            Some((word, value)) => (word, Some(value)),
            None => (text, None),
        };
        match (word, value) {
            ("ps" | "text", None) => Ok(Format::Ps.into()),
            ("wide", None) => Ok(Format::Wide.into()),
            ("json", None) => Ok(Format::Json.into()),
            ("yaml", None) => Ok(Format::Yaml.into()),
            ("custom-columns", Some(names)) if !names.is_empty() => {
                let columns = names.split(',').map(str::to_string).collect();
                Ok(Output { format: Format::Ps, columns: Some(columns) })
            }
            ("custom-columns", _) => Err("expected names of columns: custom-columns=NAME,SELECTOR".to_string()),
            ("go-template" | "go-template-file", _) => Err(
                "Go templates are not offered: this program is not written in Go. Use custom-columns=NAME,A:.spec.path, \
                 or -o json and jq"
                    .to_string(),
            ),
            _ => Err(format!("expected {EXPECTED}")),
        }
    }
}
