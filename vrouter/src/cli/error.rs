//! Every way a command fails: what to print, and the exit status.
//!
//! Text goes to stderr as `error: …`; with `-o json` or `-o yaml` it is the object a failed request
//! carries, so that a script reads one form wherever the fault was found.

use std::io;
use std::path::PathBuf;

use config::yaml::Problem;
use control::http::api::{ApiError, ApiProblem, ErrorCode};

use super::Format;
use super::render::{self, harmless};
use crate::client::ClientError;

/// Problems printed before the rest is only counted.
const MAX_PROBLEMS_SHOWN: usize = 20;

#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error(transparent)]
    Client(#[from] ClientError),

    #[error("{0}")]
    Usage(String),

    #[error("{} in the manifests; nothing was sent", count(.0.len()))]
    Manifest(Vec<Problem>),

    #[error("read {path}: {source}", path = path.display())]
    Read { path: PathBuf, source: io::Error },

    #[error("no resources in {path}", path = path.display())]
    Empty { path: PathBuf },

    #[error("write to stdout: {0}")]
    Output(io::Error),

    /// The answer is there but cannot be written in the form asked for.
    #[error("write the answer as {form}: {reason}")]
    Form { form: &'static str, reason: String },
}

impl CliError {
    pub fn exit_status(&self) -> u8 {
        self.code().exit_status()
    }

    /// Prints the error to stderr.
    pub fn report(&self, format: Format) {
        let error = self.as_api_error();
        if let Ok(Some(text)) = render::structured(format, &error) {
            return eprint!("{text}");
        }
        for problem in error.problems.iter().take(MAX_PROBLEMS_SHOWN) {
            eprintln!("{}: {}", harmless(&problem.object), harmless(&problem.message));
        }
        if error.problems.len() > MAX_PROBLEMS_SHOWN {
            eprintln!("... and {} more", error.problems.len() - MAX_PROBLEMS_SHOWN);
        }
        eprintln!("error: {}", harmless(&error.message));
    }

    fn code(&self) -> ErrorCode {
        match self {
            CliError::Client(error) => error.code(),
            CliError::Usage(_) | CliError::Manifest(_) | CliError::Empty { .. } => ErrorCode::Invalid,
            CliError::Read { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => ErrorCode::NotFound,
                io::ErrorKind::PermissionDenied => ErrorCode::Denied,
                _ => ErrorCode::Unavailable,
            },
            CliError::Output(_) => ErrorCode::Unavailable,
            CliError::Form { .. } => ErrorCode::Internal,
        }
    }

    fn as_api_error(&self) -> ApiError {
        match self {
            CliError::Client(ClientError::Refused(refusal)) => refusal.clone(),
            CliError::Manifest(problems) => {
                let mut error = ApiError::new(self.code(), self.to_string());
                error.problems = problems.iter().map(describe).collect();
                error
            }
            _ => ApiError::new(self.code(), self.to_string()),
        }
    }
}

/// The place of a problem is its object: `file:line:column`.
fn describe(problem: &Problem) -> ApiProblem {
    let (field, message) = match &problem.what {
        config::yaml::What::Syntax(message) => (String::new(), message.clone()),
        config::yaml::What::Field(error) => (error.path.clone(), error.to_string()),
    };
    ApiProblem { object: format!("{}:{}", problem.source_name, problem.position), field, message }
}

fn count(problems: usize) -> String {
    match problems {
        1 => "1 problem".to_string(),
        many => format!("{many} problems"),
    }
}
