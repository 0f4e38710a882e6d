//! Every way a command fails: its code, what to print, and the exit status.
//!
//! Text goes to stderr as `error[VR1203]: …`; with `-o json` or `-o yaml` it is the object a failed request
//! carries, `{"error": {"code": …, "message": …, "problems": […]}}`, so that a script reads one form wherever the fault
//! was found. `vrouter explain CODE` has a page about each code.

use std::io;
use std::path::PathBuf;

use config::yaml::{Problem, What};
use control::http::answer;
use control::http::api::{ApiError, ApiProblem, ErrorBody, ErrorCode};

use super::Format;
use super::render::{self, harmless};
use crate::client::ClientError;

/// Problems printed before the rest is only counted.
const MAX_PROBLEMS_SHOWN: usize = 20;

/// Status of `diff` and `validate` that found something: not an error, but not nothing either.
const EXIT_DIFFERENT: u8 = 1;

#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error(transparent)]
    Client(#[from] ClientError),

    #[error("{0}")]
    Usage(String),

    /// A fault whose code says more than `Usage`.
    #[error("{message}")]
    Refused { code: ErrorCode, message: String },

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

    /// Everything has been printed; what was compared is not the same.
    #[error("there are differences")]
    Different,

    /// Everything has been printed; something is not valid.
    #[error("{} invalid", count(*.0))]
    NotValid(usize),
}

impl CliError {
    pub fn refused(code: ErrorCode, message: impl Into<String>) -> CliError {
        CliError::Refused { code, message: message.into() }
    }

    pub fn exit_status(&self) -> u8 {
        match self {
            CliError::Different => EXIT_DIFFERENT,
            _ => self.code().exit_status(),
        }
    }

    /// Prints the error to stderr.
    pub fn report(&self, format: Format) {
        if matches!(self, CliError::Different | CliError::NotValid(_)) {
            return;
        }
        let error = self.as_api_error();
        if let Ok(Some(text)) = render::structured(format, &ErrorBody { error: error.clone() }) {
            return eprint!("{text}");
        }
        for problem in error.problems.iter().take(MAX_PROBLEMS_SHOWN) {
            eprintln!("{}", problem_text(problem));
        }
        if error.problems.len() > MAX_PROBLEMS_SHOWN {
            eprintln!("... and {} more", error.problems.len() - MAX_PROBLEMS_SHOWN);
        }
        eprintln!("error[{}]: {}", error.code, harmless(&error.message));
    }

    pub fn code(&self) -> ErrorCode {
        match self {
            CliError::Client(error) => error.code(),
            CliError::Usage(_) => ErrorCode::Usage,
            CliError::Refused { code, .. } => *code,
            CliError::Manifest(_) | CliError::NotValid(_) => ErrorCode::Manifest,
            CliError::Empty { .. } => ErrorCode::NoResources,
            CliError::Read { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => ErrorCode::FileNotFound,
                io::ErrorKind::PermissionDenied => ErrorCode::FileDenied,
                _ => ErrorCode::FileUnreadable,
            },
            CliError::Output(_) => ErrorCode::Output,
            CliError::Form { .. } => ErrorCode::Form,
            CliError::Different => ErrorCode::Conflict,
        }
    }

    pub fn as_api_error(&self) -> ApiError {
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

pub fn problem_text(problem: &ApiProblem) -> String {
    format!("{}: error[{}]: {}", harmless(&problem.object), problem.code, harmless(&problem.message))
}

/// The place of a problem is its object: `file:line:column`.
pub fn describe(problem: &Problem) -> ApiProblem {
    let (code, field, message) = match &problem.what {
        What::Syntax(message) => (ErrorCode::Syntax, String::new(), message.clone()),
        What::Field(error) => (answer::code_of(error), error.path.clone(), error.to_string()),
    };
    ApiProblem { code, object: format!("{}:{}", problem.source_name, problem.position), field, message }
}

fn count(problems: usize) -> String {
    match problems {
        1 => "1 problem".to_string(),
        many => format!("{many} problems"),
    }
}
