//! The call: what is missing or malformed, in the order in which the reference library looks.
//!
//! ```text
//! variables that are missing (4, all named) ─▶ not JSON (6) ─▶ network name (7) ─▶ malformed variables (4) ─▶ command (4) ─▶ version (1)
//! ```
//!
//! The plugin reads a call so that it can refuse it without a daemon, and the daemon reads it again: who can open the socket
//! may have written anything.
//!
//! Bounds: `CONFIG_MAX` bytes of configuration, 128 levels of nesting (serde_json's own), names of the lengths below.
//! Source: the CNI specification 1.1.0, sections 2 and 4; the order is that of the reference library.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::arguments::{self, Arguments};
use super::config::NetworkConfig;
use super::error::{self, CniError};

/// The versions that are spoken, oldest first.
pub const VERSIONS: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// What a configuration without a version means, as Calico has it.
pub const DEFAULT_VERSION: &str = "0.2.0";

pub const CONFIG_MAX: usize = 1 << 20;
const IDENTIFIER_MAX: usize = 255;
const INTERFACE_MAX: usize = 15;
const PATH_MAX: usize = 4096;
const ARGUMENTS_MAX: usize = 64 << 10;

/// As the environment and stdin have it.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct CniCall {
    /// Called as an address plugin.
    pub is_ipam: bool,
    pub command: String,
    pub container_id: String,
    pub netns: String,
    pub ifname: String,
    pub args: String,
    pub path: String,
    /// The configuration's text.
    pub config: String,
    /// What the address plugin said, once it was run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delegated: Option<Delegated>,
}

/// The configuration may hold secrets of other plugins: never in a log.
impl fmt::Debug for CniCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CniCall { is_ipam, command, container_id, netns, ifname, .. } = self;
        write!(f, "{command} {container_id} {ifname} {netns} {is_ipam}")
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Delegated {
    /// Its output; null where there is none.
    Result(Value),
    Error(CniError),
}

/// What the plugin does next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CniAnswer {
    /// Print it, unless there is nothing.
    Done(Option<Value>),
    Failed(CniError),
    /// Run this address plugin, and ask again with what it said.
    Delegate {
        plugin: String,
        command: String,
    },
    /// Run its DEL, whatever it says, and fail with this.
    TakeBack {
        plugin: String,
        error: CniError,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

impl Verb {
    fn read(text: &str) -> Option<Verb> {
        Some(match text {
            "ADD" => Verb::Add,
            "DEL" => Verb::Del,
            "CHECK" => Verb::Check,
            "GC" => Verb::Gc,
            "STATUS" => Verb::Status,
            "VERSION" => Verb::Version,
            _ => return None,
        })
    }

    /// The first version that has it.
    fn since(self) -> &'static str {
        match self {
            Verb::Add | Verb::Del | Verb::Version => "0.1.0",
            Verb::Check => "0.4.0",
            Verb::Gc | Verb::Status => "1.1.0",
        }
    }

    fn is_about_container(self) -> bool {
        matches!(self, Verb::Add | Verb::Del | Verb::Check)
    }
}

/// A call that makes sense.
#[derive(Debug, Clone)]
pub struct Request {
    pub verb: Verb,
    pub version: &'static str,
    pub container_id: String,
    /// Empty where DEL has none.
    pub netns: String,
    pub ifname: String,
    pub arguments: Arguments,
    pub config: NetworkConfig,
}

impl Request {
    /// Every refusal has the version that was asked for, as far as it is known.
    pub fn read(call: &CniCall) -> Result<Request, CniError> {
        let mut version = DEFAULT_VERSION.to_string();
        read(call, &mut version).map_err(|error| CniError { cni_version: version, ..error })
    }
}

fn read(call: &CniCall, told: &mut String) -> Result<Request, CniError> {
    let verb = Verb::read(&call.command);
    let missing = missing(call, verb);
    if !missing.is_empty() {
        let names = missing.join(",");
        return Err(CniError::new(error::ENVIRONMENT, format!("required env variables [{names}] missing")));
    }
    for (name, value, limit) in [
        ("CNI_NETNS", &call.netns, PATH_MAX),
        ("CNI_ARGS", &call.args, ARGUMENTS_MAX),
        ("CNI_PATH", &call.path, ARGUMENTS_MAX),
    ] {
        if value.len() > limit || value.contains('\0') {
            return Err(CniError::new(
                error::ENVIRONMENT,
                format!("{name}: expected at most {limit} bytes, none of them NUL"),
            ));
        }
    }
    if call.config.len() > CONFIG_MAX {
        let found = call.config.len();
        return Err(CniError::new(
            error::DECODE,
            format!("network configuration: found {found} bytes, expected at most {CONFIG_MAX}"),
        ));
    }
    if verb == Some(Verb::Version) && call.config.trim().is_empty() {
        return Ok(Request { version: VERSIONS[VERSIONS.len() - 1], ..Request::empty(Verb::Version) });
    }
    let document: Value = serde_json::from_str(&call.config).map_err(|error| decode(&error))?;
    if !document.is_object() {
        return Err(CniError::new(error::DECODE, "network configuration: expected a JSON object"));
    }
    let asked = match document.get("cniVersion") {
        None | Some(Value::Null) => DEFAULT_VERSION.to_string(),
        Some(Value::String(text)) if text.is_empty() => DEFAULT_VERSION.to_string(),
        Some(Value::String(text)) => text.clone(),
        Some(_) => return Err(CniError::new(error::DECODE, "network configuration: cniVersion: expected a text")),
    };
    told.clone_from(&asked);
    if verb == Some(Verb::Version) {
        // Told in the newest version we know, if the asked one is none.
        let version = known(&asked).unwrap_or(VERSIONS[VERSIONS.len() - 1]);
        return Ok(Request { version, ..Request::empty(Verb::Version) });
    }
    let name = document.get("name").and_then(Value::as_str).unwrap_or_default();
    if name.is_empty() {
        return Err(CniError::new(error::CONFIG, "missing network name").with_details("network configuration: name"));
    }
    if !is_identifier(name) {
        let expected = format!("name: expected {IDENTIFIER}, at most {IDENTIFIER_MAX} bytes");
        return Err(CniError::new(error::CONFIG, "invalid characters found in network name").with_details(expected));
    }
    let about_container = verb.is_none_or(Verb::is_about_container);
    if about_container {
        check_identifier("CNI_CONTAINERID", &call.container_id)?;
        check_interface(&call.ifname)?;
    }
    let Some(verb) = verb else {
        let command = call.command.escape_debug();
        return Err(CniError::new(error::ENVIRONMENT, format!("unknown CNI_COMMAND: {command}")));
    };
    let version = known(&asked).ok_or_else(|| {
        let details = format!("config is {asked:?}, plugin supports {VERSIONS:?}");
        CniError::new(error::VERSION, "incompatible CNI versions").with_details(details)
    })?;
    if position(version) < position(verb.since()) {
        let details = format!("config version {version} does not allow {}", call.command);
        return Err(CniError::new(error::VERSION, "config version does not allow this command").with_details(details));
    }
    let mut text = serde_json::Deserializer::from_str(&call.config);
    let config: NetworkConfig = serde_path_to_error::deserialize(&mut text).map_err(|error| {
        let path = error.path().to_string();
        CniError::new(error::DECODE, format!("network configuration cannot be decoded: {path}"))
            .with_details(error.inner().to_string())
    })?;
    let arguments = arguments::read(&call.args)?;
    Ok(Request {
        verb,
        version,
        container_id: call.container_id.clone(),
        netns: call.netns.clone(),
        ifname: call.ifname.clone(),
        arguments,
        config,
    })
}

impl Request {
    fn empty(verb: Verb) -> Request {
        Request {
            verb,
            version: DEFAULT_VERSION,
            container_id: String::new(),
            netns: String::new(),
            ifname: String::new(),
            arguments: Arguments::default(),
            config: NetworkConfig::default(),
        }
    }
}

/// The variables that the verb needs and that are empty.
fn missing(call: &CniCall, verb: Option<Verb>) -> Vec<&'static str> {
    let needs_container = verb.is_some_and(Verb::is_about_container);
    let needs_namespace = matches!(verb, Some(Verb::Add | Verb::Check));
    let needs_path = verb.is_some_and(|verb| verb != Verb::Version);
    [
        ("CNI_COMMAND", &call.command, true),
        ("CNI_CONTAINERID", &call.container_id, needs_container),
        ("CNI_NETNS", &call.netns, needs_namespace),
        ("CNI_IFNAME", &call.ifname, needs_container),
        ("CNI_PATH", &call.path, needs_path),
    ]
    .into_iter()
    .filter(|(_, value, is_needed)| *is_needed && value.is_empty())
    .map(|(name, ..)| name)
    .collect()
}

const IDENTIFIER: &str = "a letter or digit, then letters, digits, `_`, `.` and `-`";

fn is_identifier(text: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    text.len() <= IDENTIFIER_MAX
        && text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
        && text.bytes().all(is_inner)
}

fn check_identifier(name: &str, text: &str) -> Result<(), CniError> {
    if text.is_empty() || is_identifier(text) {
        return Ok(());
    }
    let shown: String = text.chars().take(40).collect();
    let details = format!("{name}: found {shown:?}, expected {IDENTIFIER}, at most {IDENTIFIER_MAX} bytes");
    Err(CniError::new(error::ENVIRONMENT, "invalid characters in containerID").with_details(details))
}

fn check_interface(name: &str) -> Result<(), CniError> {
    let is_legal = name.len() <= INTERFACE_MAX
        && name != "."
        && name != ".."
        && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b':');
    if is_legal {
        return Ok(());
    }
    let shown: String = name.chars().take(40).collect();
    let details = format!(
        "CNI_IFNAME: found {shown:?}, expected 1 to {INTERFACE_MAX} printable characters without `/`, `:` and space"
    );
    Err(CniError::new(error::ENVIRONMENT, "interface name is invalid").with_details(details))
}

/// serde_json's words name line and column, and at most the value of a field that is read here: none of those is a secret.
fn decode(error: &serde_json::Error) -> CniError {
    CniError::new(error::DECODE, "network configuration cannot be decoded").with_details(error.to_string())
}

fn known(version: &str) -> Option<&'static str> {
    VERSIONS.into_iter().find(|known| *known == version)
}

/// Where a version is among those that are spoken.
pub fn position(version: &str) -> usize {
    VERSIONS.iter().position(|known| *known == version).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(command: &str) -> CniCall {
        CniCall {
            command: command.to_string(),
            container_id: "c1".to_string(),
            netns: "/run/netns/x".to_string(),
            ifname: "eth0".to_string(),
            path: "/opt/cni/bin".to_string(),
            config: r#"{"cniVersion": "1.0.0", "name": "pods", "type": "vrouter-cni"}"#.to_string(),
            ..CniCall::default()
        }
    }

    #[track_caller]
    fn check(call: &CniCall, code: u32, text: &str) {
        match Request::read(call) {
            Ok(request) => panic!("accepted: {request:?}"),
            Err(error) => {
                assert_eq!(error.code, code, "{error}");
                assert!(error.to_string().contains(text), "{error}");
            }
        }
    }

    #[test]
    fn a_call_that_makes_sense() {
        for command in ["ADD", "DEL", "CHECK"] {
            let request = Request::read(&call(command)).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!((request.version, request.config.name.as_str()), ("1.0.0", "pods"));
        }
        let without = CniCall { netns: String::new(), ..call("DEL") };
        assert!(Request::read(&without).is_ok());
        for version in VERSIONS {
            let config = format!(r#"{{"cniVersion": "{version}", "name": "pods"}}"#);
            assert_eq!(Request::read(&CniCall { config, ..call("ADD") }).map(|request| request.version), Ok(version));
        }
    }

    #[test]
    fn what_is_looked_at_first_is_told() {
        let nothing = CniCall { command: "ADD".to_string(), ..CniCall::default() };
        check(&nothing, 4, "[CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH] missing");
        let path = CniCall { container_id: "../x".to_string(), ..call("ADD") };
        check(&CniCall { config: "{".to_string(), ..path.clone() }, 6, "line 1");
        check(&CniCall { config: r#"{"name": "a b"}"#.to_string(), ..path.clone() }, 7, "network name");
        check(&path, 4, "containerID");
        check(&CniCall { container_id: "a".repeat(256), ..call("ADD") }, 4, "containerID");
        for name in ["a/b", "..", "a:b", "a b", "sixteen-letters-", "a\0", "a\r\n"] {
            check(&CniCall { ifname: name.to_string(), ..call("DEL") }, 4, "interface name");
        }
        check(&CniCall { config: "{".to_string(), ..call("ADD") }, 6, "line 1");
        check(&CniCall { config: "[]".to_string(), ..call("ADD") }, 6, "JSON object");
        check(&CniCall { config: "{}".to_string(), ..call("NONE") }, 7, "network name");
        check(&CniCall { config: r#"{"name": "a b"}"#.to_string(), ..call("ADD") }, 7, "network name");
        check(&call("NONE"), 4, "unknown CNI_COMMAND");
        check(&CniCall { config: r#"{"name": "a", "cniVersion": "9.0.0"}"#.to_string(), ..call("ADD") }, 1, "1.1.0");
        check(&CniCall { config: r#"{"name": "a", "cniVersion": "0.3.1"}"#.to_string(), ..call("CHECK") }, 1, "CHECK");
        check(&call("GC"), 1, "GC");
        check(&call("STATUS"), 1, "STATUS");
    }

    #[test]
    fn large_and_deep_ones_are_refused() {
        let large = format!(r#"{{"name": "a", "x": "{}"}}"#, "x".repeat(CONFIG_MAX));
        check(&CniCall { config: large, ..call("ADD") }, 6, "at most");
        let deep = format!(r#"{{"name": "a", "x": {}{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
        check(&CniCall { config: deep, ..call("ADD") }, 6, "recursion");
        let twice = r#"{"name": "a", "mtu": 1500, "mtu": 1400}"#.to_string();
        check(&CniCall { config: twice, ..call("ADD") }, 6, "duplicate");
        let wrong = r#"{"name": "a", "ipam": {"ipv4_pools": [7]}}"#.to_string();
        check(&CniCall { config: wrong, ..call("ADD") }, 6, "ipam.ipv4_pools[0]");
    }

    #[test]
    fn a_version_is_told_to_whoever_asks() {
        let check = |config: &str, version: &str| {
            let call = CniCall { command: "VERSION".to_string(), config: config.to_string(), ..CniCall::default() };
            assert_eq!(Request::read(&call).map(|request| request.version), Ok(version), "{config}");
        };
        check("", "1.1.0");
        check(r#"{"cniVersion": "0.3.1"}"#, "0.3.1");
        check(r#"{"cniVersion": "7.0.0"}"#, "1.1.0");
    }
}
