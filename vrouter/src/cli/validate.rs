//! validate: what is wrong with manifests, without a daemon and without rights.
//!
//! Each resource of each file is a line. With `-o json` each is a JSON object on a line of its own:
//! `{"file", "line", "column", "kind", "namespace", "name", "valid", "problems": [{"code", "field", "message", …}], "warnings"}`.
//!
//! Left out: what only the daemon knows, such as a tier that is not there. `apply --dry-run` asks it.

use clap::Args;
use config::yaml::Examined;
use control::http::api::ApiProblem;
use serde::Serialize;

use super::Format;
use super::error::{self, CliError};
use super::input::{self, Input};
use super::render::{self, harmless};

#[derive(Debug, Args)]
pub struct ValidateArguments {
    #[command(flatten)]
    input: Input,
}

/// What became of one resource.
#[derive(Debug, Serialize)]
struct Verdict {
    file: String,
    line: usize,
    column: usize,
    kind: Option<String>,
    namespace: Option<String>,
    name: Option<String>,
    valid: bool,
    problems: Vec<ApiProblem>,
    /// What is legal and hardly meant, or not looked at.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

pub fn validate(format: Format, arguments: &ValidateArguments) -> Result<(), CliError> {
    let mut verdicts = Vec::new();
    for (file, examined) in input::examine(&arguments.input.files, arguments.input.walk)? {
        verdicts.extend(examined.into_iter().map(|examined| verdict(&file, examined)));
    }
    let text = match format {
        Format::Json => {
            let mut text = String::new();
            for verdict in &verdicts {
                text.push_str(&render::json_line(verdict)?);
            }
            text
        }
        Format::Yaml => render::structured(format, &verdicts)?.unwrap_or_default(),
        Format::Ps | Format::Wide => verdicts.iter().map(text).collect(),
    };
    render::print(&text)?;
    match verdicts.iter().filter(|verdict| !verdict.valid).count() {
        0 => Ok(()),
        invalid => Err(CliError::NotValid(invalid)),
    }
}

fn verdict(file: &str, examined: Examined) -> Verdict {
    // The stored form has what defaults fill in, such as the namespace.
    let key = examined.resource.as_ref().map(|resource| resource.key());
    Verdict {
        file: file.to_string(),
        line: examined.position.line,
        column: examined.position.column,
        kind: examined.kind,
        namespace: key.and_then(|key| key.namespace).or(examined.namespace),
        name: examined.name,
        valid: examined.problems.is_empty(),
        problems: examined.problems.iter().map(error::describe).collect(),
        warnings: examined
            .resource
            .as_ref()
            .map(|resource| input::warnings(std::slice::from_ref(resource)))
            .unwrap_or_default(),
    }
}

fn text(verdict: &Verdict) -> String {
    let name = match (&verdict.kind, &verdict.name) {
        (Some(kind), Some(name)) => render::object(kind, verdict.namespace.as_deref(), name),
        (Some(kind), None) => format!("{kind} without a name"),
        (None, _) => "not a resource".to_string(),
    };
    let word = if verdict.valid { "valid" } else { "INVALID" };
    let mut text = format!("{word:<7}  {}:{}  {}\n", harmless(&verdict.file), verdict.line, harmless(&name));
    for problem in &verdict.problems {
        text.push_str(&format!("  {}\n", error::problem_text(problem)));
    }
    for warning in &verdict.warnings {
        text.push_str(&format!("  warning: {warning}\n"));
    }
    text
}
