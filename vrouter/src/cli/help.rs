//! The first screen, and what clap says about a wrong command line put into our form.

use std::ffi::OsString;

use clap::error::{Error, ErrorKind};
use clap::{Command, CommandFactory};
use control::http::api::{ApiError, ErrorBody, ErrorCode};

use super::render;
use super::{Cli, Format};

/// Which command stands under which heading of the first screen. One that is in no group stands under the last.
const GROUPS: &[(&str, &[&str])] = &[
    ("Resources", &["get", "describe", "apply", "create", "replace", "patch", "label", "delete"]),
    ("Before", &["validate", "diff"]),
    ("After", &["history", "undo", "confirm"]),
    ("Policy", &["policy", "selector", "why"]),
    ("Packets", &["show", "trace", "worker"]),
    ("Workloads", &["endpoint", "cni", "ipam"]),
    ("Machine", &["run", "doctor", "lab", "bench"]),
    ("Help", &["explain", "version", "completion"]),
];

/// Width of a terminal nobody has made larger.
const WIDTH: usize = 80;

const HEADING_WIDTH: usize = 11;

/// The tree of commands, with our first screen.
pub fn command() -> Command {
    let command = Cli::command();
    let screen = screen(&command);
    command.override_help(screen)
}

pub fn screen(command: &Command) -> String {
    let mut text = format!(
        "vrouter {}: the router of one node. Calico resources in, packets by AF_XDP.\n\n\
         Usage: vrouter [-o FORMAT] [--socket PATH] COMMAND ...\n\n",
        env!("CARGO_PKG_VERSION")
    );
    let mut rest: Vec<&str> = command.get_subcommands().map(Command::get_name).collect();
    for (heading, names) in GROUPS {
        let shown: Vec<&str> = names.iter().copied().filter(|name| rest.contains(name)).collect();
        rest.retain(|name| !shown.contains(name));
        text.push_str(&row(heading, &shown));
    }
    text.push_str(&row("More", &rest));
    text.push_str(
        "
  vrouter COMMAND --help       what a command does, with examples
  vrouter explain commands     all commands, a line for each
  vrouter explain gnp.spec     a kind and its fields;  explain VR1203: an error

  -o ps|wide|json|yaml         how to print; get also has custom-columns=A,B
  --socket PATH                the daemon's; default /run/vrouter/api.sock
Exit status: 0 done, 1 differences, 2 usage or manifest, 3 not found,
4 conflict, 5 denied, 6 not available, 7 in part, 8 timeout, 70 fault of vrouter
",
    );
    text
}

fn row(heading: &str, names: &[&str]) -> String {
    let mut text = String::new();
    let mut line = format!("{heading:<HEADING_WIDTH$}");
    for name in names {
        if line.len() + name.len() > WIDTH {
            text.push_str(&format!("{}\n", line.trim_end()));
            line = " ".repeat(HEADING_WIDTH);
        }
        line.push_str(&format!("{name} "));
    }
    match names.is_empty() {
        true => String::new(),
        false => text + &format!("{}\n", line.trim_end()),
    }
}

/// All commands, a line for each.
pub fn commands() -> Vec<(String, String)> {
    let about = |command: &Command| command.get_about().map(ToString::to_string).unwrap_or_default();
    Cli::command().get_subcommands().map(|command| (command.get_name().to_string(), about(command))).collect()
}

/// The format that a wrong command line asked for, as far as it can be told.
pub fn format_of(arguments: &[OsString]) -> Format {
    let words: Vec<&str> = arguments.iter().filter_map(|argument| argument.to_str()).collect();
    let follows = |pair: &[&str]| match pair {
        ["-o" | "--output", value] => value.parse::<super::Output>().ok(),
        _ => None,
    };
    let inline = |word: &&str| {
        let value = word.strip_prefix("--output=").or(word.strip_prefix("-o").filter(|value| !value.is_empty()))?;
        value.trim_start_matches('=').parse::<super::Output>().ok()
    };
    let found = words.windows(2).find_map(follows).or_else(|| words.iter().find_map(inline));
    found.map_or(Format::Ps, |output| output.format)
}

/// Prints what clap has to say and gives the exit status.
pub fn report(error: &Error, format: Format) -> u8 {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        // A closed pipe has seen enough.
        let _ = error.print();
        return 0;
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = error.print();
        return ErrorCode::Usage.exit_status();
    }
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let is_refused = text.contains("are not offered:");
    let code = if is_refused { ErrorCode::NotOffered } else { ErrorCode::Usage };
    let message = text.lines().next().unwrap_or_default();
    if let Ok(Some(json)) = render::structured(format, &ErrorBody { error: ApiError::new(code, message) }) {
        eprint!("{json}");
        return code.exit_status();
    }
    eprint!("error[{code}]: {text}");
    code.exit_status()
}
