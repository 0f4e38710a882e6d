//! What the daemon itself is told: its settings, from a file, the environment and flags.
//!
//! One table, `SETTINGS` in `table.rs`, says what there is. Every setting can be given three ways, later ones win:
//!
//!     nodeName: worker-1  in the file  <  VROUTER_NODE_NAME=worker-1  <  --node-name worker-1
//!
//! Invariants: settings handed back were all checked; what is not given has its default.
//! Left out: reading files, the environment and the host's name. The caller does, and hands over text.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use crate::document::{self, Value};
use crate::failsafe::FailsafePort;
use crate::resource::{self, FieldError};
use crate::suggest;

pub use table::SETTINGS;
pub use values::{
    BgpKernelRoutes, BusyPoll, Datastore, EndpointOffload, EndpointToHostAction, Io, LogFormat, LogLevel, PolicyChange,
    Poll, Rebalance, SourceSpoofing, XdpMode, ZeroCopy,
};

/// A variable every environment of a Calico node has. Ours beside it wins.
const CALICO_NODE_NAME: &str = "NODENAME";
const ENVIRONMENT_PREFIX: &str = "VROUTER_";
/// Says where the settings file is; read by whoever opens it.
const FILE_VARIABLE: &str = "VROUTER_CONFIG";
/// Says where the command line finds the daemon, and so where the daemon listens.
const SOCKET_VARIABLE: &str = "VROUTER_SOCKET";

#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    pub node_name: String,
    /// Interfaces to the rest of the world.
    pub uplinks: Vec<String>,
    /// The core of each worker; never empty.
    pub workers: Vec<usize>,
    pub poll: Poll,
    pub rebalance: Rebalance,
    pub bgp_kernel_routes: BgpKernelRoutes,
    /// Who is told by BMP what BGP peers say.
    pub bmp_station: Option<SocketAddr>,
    pub datastore: Datastore,
    pub api_socket: PathBuf,
    /// Where Docker's drivers are offered.
    pub docker_plugin_socket: Option<PathBuf>,
    /// Who gives out addresses to workloads that ask for one; none: they are not heard.
    pub dhcp_servers: Vec<Ipv4Addr>,
    /// In the subnet that these shall lease from; else they have the node's address to go by.
    pub dhcp_link_selection: Option<Ipv4Addr>,
    pub log_format: LogFormat,
    pub log_level: LogLevel,
    pub frames_per_worker: usize,
    pub flow_table_size: usize,
    /// Flows of one interface on one worker; 0: a quarter of what the worker has room for.
    pub flow_quota: usize,
    pub policy_change: PolicyChange,
    pub default_endpoint_to_host_action: EndpointToHostAction,
    pub default_workload_interface_prefix: String,
    pub xdp_mode: XdpMode,
    pub endpoint_offload: EndpointOffload,
    pub io: Io,
    pub busy_poll: BusyPoll,
    pub zero_copy: ZeroCopy,
    pub failsafe_inbound_host_ports: Vec<FailsafePort>,
    pub failsafe_outbound_host_ports: Vec<FailsafePort>,
    pub workload_source_spoofing: SourceSpoofing,
    pub allow_vxlan_packets_from_workloads: bool,
    pub allow_ipip_packets_from_workloads: bool,
    pub vxlan_port: u16,
    /// Passwords: a file for each key, in a folder for each secret.
    pub secrets: PathBuf,
}

/// One wrong setting, and where it was given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {error}")]
pub struct SettingsError {
    /// `vrouter.yaml:3:7`, `environment` or `command line`.
    pub place: String,
    pub error: FieldError,
}

/// The text of a settings file, and what to call it.
#[derive(Debug, Clone, Copy)]
pub struct File<'a> {
    pub name: &'a str,
    pub text: &'a str,
}

impl Settings {
    /// What holds when nothing is given, on the host of this name.
    pub fn defaults(host_name: &str) -> Settings {
        Settings {
            node_name: host_name.trim().to_lowercase(),
            uplinks: Vec::new(),
            workers: vec![0],
            poll: Poll::Sleep,
            rebalance: Rebalance::Off,
            bgp_kernel_routes: BgpKernelRoutes::On,
            bmp_station: None,
            datastore: Datastore::Embedded("/var/lib/vrouter/db".into()),
            api_socket: "/run/vrouter/api.sock".into(),
            docker_plugin_socket: None,
            dhcp_servers: Vec::new(),
            dhcp_link_selection: None,
            log_format: LogFormat::Text,
            log_level: LogLevel::Info,
            frames_per_worker: 16_384,
            flow_table_size: 524_288,
            flow_quota: 0,
            policy_change: PolicyChange::Preserve,
            default_endpoint_to_host_action: EndpointToHostAction::Drop,
            default_workload_interface_prefix: "cali".to_string(),
            xdp_mode: XdpMode::Auto,
            endpoint_offload: EndpointOffload::Off,
            io: Io::Raw,
            busy_poll: BusyPoll::Auto,
            zero_copy: ZeroCopy::Off,
            failsafe_inbound_host_ports: FailsafePort::inbound_defaults(),
            failsafe_outbound_host_ports: FailsafePort::outbound_defaults(),
            workload_source_spoofing: SourceSpoofing::Disabled,
            allow_vxlan_packets_from_workloads: false,
            allow_ipip_packets_from_workloads: false,
            vxlan_port: 4789,
            secrets: "/etc/vrouter/secrets".into(),
        }
    }

    /// Lays the file, the environment and the flags over the defaults. `flags` are names without
    /// their dashes (`node-name`) and values.
    pub fn load<'a>(
        host_name: &str,
        file: Option<File<'_>>,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Settings, Vec<SettingsError>> {
        let mut overlay = Overlay { settings: Settings::defaults(host_name), errors: Vec::new() };
        let mut is_named = false;
        if let Some(file) = file {
            is_named |= overlay.file(file);
        }
        is_named |= overlay.environment(environment.into_iter().collect());
        for (flag, value) in flags {
            is_named |= flag == flag_name(NODE_NAME);
            overlay.flag(flag, value);
        }
        // A host name nobody chose as a node name may still be unfit for one.
        if !is_named && !resource::is_subdomain(&overlay.settings.node_name) {
            let found = resource::quoted(host_name);
            let help = Some("set nodeName, because this host's name cannot be one".to_string());
            overlay.refuse("host name".to_string(), NODE_NAME.to_string(), found, NAME_EXPECTED.to_string(), help);
        }
        if overlay.errors.is_empty() { Ok(overlay.settings) } else { Err(overlay.errors) }
    }
}

/// One setting: its name in the file, what it is for, and how to take it from text.
pub struct Setting {
    pub name: &'static str,
    pub about: &'static str,
    take: Take,
}

enum Take {
    One(fn(&mut Settings, &str) -> Result<(), Refusal>),
    /// A list in the file; elsewhere separated by commas.
    Many(fn(&mut Settings, &[String]) -> Result<(), Refusal>),
}

struct Refusal {
    expected: String,
    help: Option<String>,
}

const NODE_NAME: &str = "nodeName";
const NAME_EXPECTED: &str = "a node name: lowercase letters, digits, '-' and '.', at most 253";
const PREFIX_MAX: usize = 10;
const CORE_MAX: usize = 1023;

const TRUTH: [(&str, bool); 2] = [("true", true), ("false", false)];
/// Each packet of a client's goes to all of them.
const DHCP_SERVERS_MAX: usize = 8;
/// As many failsafe ports as anybody could read.
const FAILSAFES_MAX: usize = 256;

impl Setting {
    /// `VROUTER_NODE_NAME`
    pub fn variable(&self) -> String {
        format!("{ENVIRONMENT_PREFIX}{}", words(self.name, '_').to_uppercase())
    }

    /// `node-name`
    pub fn flag(&self) -> String {
        flag_name(self.name)
    }
}

fn flag_name(name: &str) -> String {
    words(name, '-')
}

/// `nodeName` to `node-name`
fn words(name: &str, joint: char) -> String {
    let mut text = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() {
            text.push(joint);
        }
        text.push(letter.to_ascii_lowercase());
    }
    text
}

/// The settings as laid over each other so far, and what was wrong on the way.
struct Overlay {
    settings: Settings,
    errors: Vec<SettingsError>,
}

impl Overlay {
    /// True when the file names the node.
    fn file(&mut self, file: File<'_>) -> bool {
        let (documents, errors) = document::read(file.text);
        for error in errors {
            let place = format!("{}:{}", file.name, error.position);
            self.refuse(place, String::new(), error.message, "a settings file".to_string(), None);
        }
        if let Some(second) = documents.get(1) {
            let place = format!("{}:{}", file.name, second.position);
            self.refuse(place, String::new(), "a second document".to_string(), "one document".to_string(), None);
        }
        let Some(document) = documents.first() else { return false };
        let Value::Map(entries) = &document.value else {
            if document.value != Value::Null {
                let place = format!("{}:{}", file.name, document.position);
                self.refuse(place, String::new(), document.describe(), "a map of settings".to_string(), None);
            }
            return false;
        };
        for (key, node) in entries {
            let Some(setting) = SETTINGS.iter().find(|setting| setting.name == key.name) else {
                let names = SETTINGS.map(|setting| setting.name);
                let help = suggest::nearest(&key.name, names).map(|name| format!("did you mean {name}?"));
                let place = format!("{}:{}", file.name, key.position);
                let expected = format!("one of {}", names.join(", "));
                self.refuse(place, key.name.clone(), "an unknown setting".to_string(), expected, help);
                continue;
            };
            if node.value == Value::Null {
                continue;
            }
            let place = format!("{}:{}", file.name, node.position);
            match (node.texts(), &setting.take) {
                (Some(texts), Take::Many(take)) => {
                    let result = take(&mut self.settings, &texts);
                    self.taken(place, key.name.clone(), &texts.join(", "), result);
                }
                (Some(texts), Take::One(take)) if !matches!(node.value, Value::List(_)) => {
                    let result = take(&mut self.settings, &texts.concat());
                    self.taken(place, key.name.clone(), &texts.concat(), result);
                }
                (_, Take::One(_)) => {
                    self.refuse(place, key.name.clone(), node.describe(), "one value".to_string(), None);
                }
                (None, Take::Many(_)) => {
                    self.refuse(place, key.name.clone(), node.describe(), "a list of values".to_string(), None);
                }
            }
        }
        document.get(NODE_NAME).is_some_and(|node| node.value != Value::Null)
    }

    /// True when the environment names the node.
    fn environment(&mut self, mut variables: Vec<(String, String)>) -> bool {
        // Calico's variable first, so that ours is laid over it.
        variables.sort_by_key(|(name, _)| name != CALICO_NODE_NAME);
        let mut is_named = false;
        for (name, value) in variables {
            let is_calico_name = name == CALICO_NODE_NAME;
            let setting = SETTINGS
                .iter()
                .find(|setting| setting.variable() == name || (is_calico_name && setting.name == NODE_NAME));
            if let Some(setting) = setting {
                is_named |= setting.name == NODE_NAME;
                self.text("environment", name, setting, &value);
            } else if name.starts_with(ENVIRONMENT_PREFIX) && ![FILE_VARIABLE, SOCKET_VARIABLE].contains(&name.as_str())
            {
                // Only a near miss is refused: Kubernetes puts variables such as VROUTER_SERVICE_HOST into the
                // environment of every pod beside a service of our name.
                let known = SETTINGS.map(|setting| setting.variable());
                if let Some(near) = suggest::nearest(&name, known.iter().map(String::as_str)) {
                    let help = Some(format!("did you mean {near}?"));
                    let expected = "a variable that is a setting".to_string();
                    let found = "an unknown variable".to_string();
                    self.refuse("environment".to_string(), name, found, expected, help);
                }
            }
        }
        is_named
    }

    fn flag(&mut self, flag: &str, value: &str) {
        let path = format!("--{flag}");
        match SETTINGS.iter().find(|setting| setting.flag() == flag) {
            Some(setting) => self.text("command line", path, setting, value),
            None => {
                let known = SETTINGS.map(|setting| setting.flag());
                let near = suggest::nearest(flag, known.iter().map(String::as_str));
                let help = near.map(|near| format!("did you mean --{near}?"));
                let expected = "a flag that is a setting".to_string();
                self.refuse("command line".to_string(), path, "an unknown flag".to_string(), expected, help);
            }
        }
    }

    fn text(&mut self, place: &str, path: String, setting: &Setting, value: &str) {
        let result = match setting.take {
            Take::One(take) => take(&mut self.settings, value),
            Take::Many(take) => {
                let parts = value.split(',').map(|part| part.trim().to_string());
                let parts: Vec<String> = parts.filter(|part| !part.is_empty()).collect();
                take(&mut self.settings, &parts)
            }
        };
        self.taken(place.to_string(), path, value, result);
    }

    fn taken(&mut self, place: String, path: String, value: &str, result: Result<(), Refusal>) {
        if let Err(Refusal { expected, help }) = result {
            self.refuse(place, path, resource::quoted(value), expected, help);
        }
    }

    fn refuse(&mut self, place: String, path: String, found: String, expected: String, help: Option<String>) {
        self.errors.push(SettingsError { place, error: FieldError { path, found, expected, help } });
    }
}

impl Refusal {
    fn new(expected: impl Into<String>) -> Refusal {
        Refusal { expected: expected.into(), help: None }
    }
}

fn ensure(is_right: bool, expected: &str) -> Result<(), Refusal> {
    if is_right { Ok(()) } else { Err(Refusal::new(expected)) }
}

fn choose<T: Copy>(place: &mut T, text: &str, words: &[(&str, T)]) -> Result<(), Refusal> {
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
        *place = *value;
        return Ok(());
    }
    let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    let near = suggest::nearest(text, names.iter().copied());
    let help = near.map(|near| format!("did you mean {near}?"));
    Err(Refusal { expected: format!("one of {}", names.join(", ")), help })
}

/// The word `none` alone is no port at all, as in Felix.
fn failsafes(texts: &[String]) -> Result<Vec<FailsafePort>, Refusal> {
    if let [word] = texts
        && word.eq_ignore_ascii_case("none")
    {
        return Ok(Vec::new());
    }
    let ports: Vec<FailsafePort> = texts.iter().filter_map(|text| FailsafePort::parse(text)).collect();
    let is_right = ports.len() == texts.len() && ports.len() <= FAILSAFES_MAX;
    ensure(is_right, "at most 256 of PORT, tcp:PORT, udp:PORT or tcp:CIDR:PORT, or none")?;
    Ok(ports)
}

fn range(place: &mut usize, text: &str, least: usize, most: usize) -> Result<(), Refusal> {
    let value = number(text, least, most);
    *place = value.ok_or_else(|| Refusal::new(format!("a whole number {least}-{most}")))?;
    Ok(())
}

fn number(text: &str, least: usize, most: usize) -> Option<usize> {
    let value = text.parse().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()))?;
    (least..=most).contains(&value).then_some(value)
}

fn is_distinct<T: Ord>(items: &[T]) -> bool {
    items.iter().collect::<BTreeSet<_>>().len() == items.len()
}

mod table;
#[cfg(test)]
mod tests;
mod values;
