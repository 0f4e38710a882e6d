//! The CNI plugin: a pipe between a runtime and the daemon.
//!
//! ```text
//! environment, stdin ─▶ CniCall ─▶ daemon ─▶ print
//!                          ▲          └─▶ run the address plugin, ask again
//!                          └─────────────────────┘
//! ```
//!
//! The name under which the program is called says what it is: `vrouter-cni` or `calico`, and `vrouter-ipam` or `calico-ipam`.
//! It opens nothing but the daemon's socket, and starts nothing but an address plugin that the configuration names, found in
//! CNI_PATH.
//!
//! Bounds: `CONFIG_MAX` bytes of configuration, as many of an address plugin's answer; `TURNS` questions.
//! Source: the CNI specification 1.1.0, sections 2 to 5.

use std::env;
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use control::cni::error::{self, CniError};
use control::cni::request::{CONFIG_MAX, CniAnswer, CniCall, DEFAULT_VERSION, Delegated, Request, VERSIONS, Verb};
use control::cni::verbs;
use serde_json::Value;

use crate::client::{Client, ClientError, DEFAULT_SOCKET};

/// What it is called for.
const MAIN: [&str; 2] = ["vrouter-cni", "calico"];
const IPAM: [&str; 2] = ["vrouter-ipam", "calico-ipam"];

/// A question, the address plugin's answer to it, and one more.
const TURNS: usize = 4;

/// Whether the program is called by a plugin's name, and then whether by an address plugin's.
pub fn role(name: &OsStr) -> Option<bool> {
    let name = Path::new(name).file_name()?.to_str()?;
    match (MAIN.contains(&name), IPAM.contains(&name)) {
        (true, _) => Some(false),
        (_, true) => Some(true),
        _ => None,
    }
}

pub fn main(is_ipam: bool) -> ExitCode {
    if env::var_os("CNI_COMMAND").is_none() {
        eprintln!(
            "vrouter's CNI plugin {}; it is started by a container runtime\nCNI protocol versions supported: {}",
            env!("CARGO_PKG_VERSION"),
            VERSIONS.join(", ")
        );
        return ExitCode::SUCCESS;
    }
    let outcome = read(is_ipam).and_then(|call| {
        let version = asked_version(&call);
        carry_out(call).map_err(|error| match error.cni_version.is_empty() {
            true => CniError { cni_version: version, ..error },
            false => error,
        })
    });
    match outcome {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(value)) => print(&value).map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS),
        Err(error) => {
            let version = if error.cni_version.is_empty() { DEFAULT_VERSION.to_string() } else { error.cni_version };
            let error = CniError { cni_version: version, ..error };
            let _ = print(&serde_json::to_value(&error).unwrap_or_default());
            ExitCode::FAILURE
        }
    }
}

fn print(value: &Value) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{value:#}")?;
    out.flush()
}

fn read(is_ipam: bool) -> Result<CniCall, CniError> {
    let variable = |name: &str| match env::var_os(name) {
        None => Ok(String::new()),
        Some(value) => value.into_string().map_err(|_| {
            CniError::new(error::ENVIRONMENT, format!("{name}: found bytes that are no text, expected UTF-8"))
        }),
    };
    let mut call = CniCall {
        is_ipam,
        command: variable("CNI_COMMAND")?,
        container_id: variable("CNI_CONTAINERID")?,
        netns: variable("CNI_NETNS")?,
        ifname: variable("CNI_IFNAME")?,
        args: variable("CNI_ARGS")?,
        path: variable("CNI_PATH")?,
        ..CniCall::default()
    };
    let mut config = Vec::new();
    let limit = CONFIG_MAX as u64 + 1;
    let taken = io::stdin().lock().take(limit).read_to_end(&mut config);
    taken.map_err(|error| {
        CniError::new(error::IO, "network configuration cannot be read").with_details(error.to_string())
    })?;
    call.config = String::from_utf8(config).map_err(|_| {
        CniError::new(error::DECODE, "network configuration: found bytes that are no text, expected UTF-8")
    })?;
    Ok(call)
}

/// For errors that nobody has given a version.
fn asked_version(call: &CniCall) -> String {
    Request::read(call).map_or(String::new(), |request| request.version.to_string())
}

fn carry_out(mut call: CniCall) -> Result<Option<Value>, CniError> {
    let request = Request::read(&call)?;
    if request.verb == Verb::Version {
        return Ok(Some(verbs::versions(request.version)));
    }
    let configured = Some(request.config.socket).filter(|socket| !socket.is_empty()).map(PathBuf::from);
    let socket = env::var_os("VROUTER_SOCKET").map(PathBuf::from).or(configured);
    let client = Client::new(socket.as_deref().unwrap_or(Path::new(DEFAULT_SOCKET)));
    for _ in 0..TURNS {
        let answer: CniAnswer = client.post("/v1/cni", &call).map_err(|error| unavailable(&error, request.verb))?;
        match answer {
            CniAnswer::Done(value) => return Ok(value),
            CniAnswer::Failed(error) => return Err(error),
            CniAnswer::Delegate { plugin, command } => {
                call.delegated = Some(match run(&plugin, &command, &call) {
                    Ok(value) => Delegated::Result(value),
                    Err(error) => Delegated::Error(error),
                });
            }
            CniAnswer::TakeBack { plugin, error } => {
                if let Err(again) = run(&plugin, "DEL", &call) {
                    eprintln!("{plugin}: what it has given could not be taken back: {again}");
                }
                return Err(error);
            }
        }
    }
    Err(CniError::new(error::DELEGATE, "the daemon and the address plugin do not come to an end"))
}

/// Whoever asks may ask again: nothing was done, or it is undone.
fn unavailable(error: &ClientError, verb: Verb) -> CniError {
    let code = match verb {
        Verb::Status => error::UNAVAILABLE,
        _ => error::AGAIN,
    };
    CniError::new(code, "the vrouter daemon does not answer").with_details(error.to_string())
}

/// Runs an address plugin with our own environment and configuration.
fn run(plugin: &str, command: &str, call: &CniCall) -> Result<Value, CniError> {
    let failed = |what: &str, why: String| {
        CniError::new(error::DELEGATE, format!("address plugin {plugin}: {what}")).with_details(why)
    };
    let program = find(plugin, &call.path)?;
    let mut child = Command::new(&program)
        .env("CNI_COMMAND", command)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| failed("cannot be started", error.to_string()))?;
    let mut input = child.stdin.take();
    let config = call.config.clone();
    // It may answer before it has read everything.
    let writing = std::thread::spawn(move || input.as_mut().map(|input| input.write_all(config.as_bytes())));
    let mut output = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        let taken = stdout.take(CONFIG_MAX as u64).read_to_end(&mut output);
        taken.map_err(|error| failed("its answer cannot be read", error.to_string()))?;
    }
    let status = child.wait().map_err(|error| failed("cannot be waited for", error.to_string()))?;
    // What it did not read it did not want.
    let _ = writing.join();
    let answer = match output.trim_ascii().is_empty() {
        true => Ok(Value::Null),
        false => serde_json::from_slice::<Value>(&output),
    };
    match (status.success(), answer) {
        (true, Ok(value)) => Ok(value),
        (true, Err(error)) => Err(failed("its answer is not JSON", error.to_string())),
        (false, answer) => match answer.ok().and_then(|value| serde_json::from_value::<CniError>(value).ok()) {
            Some(error) => Err(error),
            None => Err(failed("has failed", status.to_string())),
        },
    }
}

/// A file in one of the folders: the name must not lead anywhere else.
fn find(plugin: &str, path: &str) -> Result<PathBuf, CniError> {
    let is_name = !plugin.is_empty() && plugin != "." && plugin != ".." && !plugin.contains(['/', '\0']);
    if !is_name {
        let shown: String = plugin.chars().take(40).collect();
        return Err(CniError::new(
            error::CONFIG,
            format!("ipam.type: found {shown:?}, expected the name of a program"),
        ));
    }
    let found = env::split_paths(path).map(|folder| folder.join(plugin)).find(|file| file.is_file());
    found.ok_or_else(|| {
        CniError::new(error::DELEGATE, format!("address plugin {plugin} is in no folder of CNI_PATH"))
            .with_details(path.to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_is_wanted() {
        let check = |name: &str, expected| assert_eq!(role(OsStr::new(name)), expected, "{name}");
        check("/opt/cni/bin/vrouter-cni", Some(false));
        check("calico", Some(false));
        check("./calico-ipam", Some(true));
        check("vrouter-ipam", Some(true));
        check("vrouter", None);
        check("calicoctl", None);
    }

    #[test]
    fn a_plugin_is_a_file_of_the_path_and_nothing_else() {
        for name in ["", ".", "..", "../x", "/bin/sh", "a/b", "a\0b"] {
            assert_eq!(find(name, "/bin").map_err(|error| error.code), Err(error::CONFIG), "{name:?}");
        }
        assert_eq!(find("no-such-plugin", "/bin:/usr/bin").map_err(|error| error.code), Err(error::DELEGATE));
        assert!(find("sh", "/nonexistent:/bin").is_ok());
    }
}
