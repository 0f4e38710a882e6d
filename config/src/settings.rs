//! What the daemon itself is told: its settings, from a file, the environment and flags.
//!
//! One table, `SETTINGS`, says what there is. Every setting can be given three ways, later ones win:
//!
//!     nodeName: worker-1  in the file  <  VROUTER_NODE_NAME=worker-1  <  --node-name worker-1
//!
//! Invariants: settings handed back were all checked; what is not given has its default.
//! Left out: reading files, the environment and the host's name. The caller does, and hands over text.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::document::{self, Node, Value};
use crate::failsafe::FailsafePort;
use crate::resource::{self, FieldError};
use crate::suggest;

pub use values::{
    BusyPoll, Datastore, EndpointOffload, EndpointToHostAction, Io, LogFormat, LogLevel, PolicyChange, Poll, Rebalance,
    SourceSpoofing, XdpMode, ZeroCopy,
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
    pub datastore: Datastore,
    pub api_socket: PathBuf,
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
            datastore: Datastore::Embedded("/var/lib/vrouter/db".into()),
            api_socket: "/run/vrouter/api.sock".into(),
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

/// Everything that can be set, in the order it is shown.
pub const SETTINGS: [Setting; 26] = [
    Setting {
        name: NODE_NAME,
        about: "this node's name in the datastore; default: the host's name",
        take: Take::One(|settings, text| {
            ensure(resource::is_subdomain(text), NAME_EXPECTED)?;
            settings.node_name = text.to_string();
            Ok(())
        }),
    },
    Setting {
        name: "uplinks",
        about: "interfaces to the rest of the world",
        take: Take::Many(|settings, names| {
            let expected = "interface names of 1-15 characters, each once";
            ensure(names.iter().all(|name| resource::is_interface(name)) && is_distinct(names), expected)?;
            settings.uplinks = names.to_vec();
            Ok(())
        }),
    },
    Setting {
        name: "workers",
        about: "the core of each worker; default: 0",
        take: Take::Many(|settings, texts| {
            let cores: Vec<usize> = texts.iter().filter_map(|text| number(text, 0, CORE_MAX)).collect();
            let is_right = !texts.is_empty() && cores.len() == texts.len() && is_distinct(&cores);
            ensure(is_right, "at least one core number 0-1023, each once")?;
            settings.workers = cores;
            Ok(())
        }),
    },
    Setting {
        name: "poll",
        about: "what an idle worker does: sleep, or always look for packets",
        take: Take::One(|settings, text| {
            choose(&mut settings.poll, text, &[("sleep", Poll::Sleep), ("always", Poll::Always)])
        }),
    },
    Setting {
        name: "rebalance",
        about: "whether endpoints move from busy workers to idle ones: off or auto; default: off",
        take: Take::One(|settings, text| {
            choose(&mut settings.rebalance, text, &[("off", Rebalance::Off), ("auto", Rebalance::Auto)])
        }),
    },
    Setting {
        name: "datastore",
        about: "where resources are kept; default: embedded:/var/lib/vrouter/db",
        take: Take::One(|settings, text| {
            let directory = text.strip_prefix("embedded:").filter(|path| path.starts_with('/'));
            let directory = directory.ok_or_else(|| Refusal::new("embedded: and an absolute path"))?;
            settings.datastore = Datastore::Embedded(directory.into());
            Ok(())
        }),
    },
    Setting {
        name: "apiSocket",
        about: "the socket the command line talks to; default: /run/vrouter/api.sock",
        take: Take::One(|settings, text| {
            // The kernel's sun_path holds 108 bytes with the closing zero.
            ensure(text.starts_with('/') && text.len() < 108, "an absolute path of at most 107 bytes")?;
            settings.api_socket = text.into();
            Ok(())
        }),
    },
    Setting {
        name: "logFormat",
        about: "text or json",
        take: Take::One(|settings, text| {
            choose(&mut settings.log_format, text, &[("text", LogFormat::Text), ("json", LogFormat::Json)])
        }),
    },
    Setting {
        name: "logLevel",
        about: "error, warn, info, debug or trace; default: info",
        take: Take::One(|settings, text| {
            let levels = [
                ("error", LogLevel::Error),
                ("warn", LogLevel::Warn),
                ("info", LogLevel::Info),
                ("debug", LogLevel::Debug),
                ("trace", LogLevel::Trace),
            ];
            choose(&mut settings.log_level, text, &levels)
        }),
    },
    Setting {
        name: "framesPerWorker",
        about: "packet buffers each worker owns; default: 16384",
        take: Take::One(|settings, text| range(&mut settings.frames_per_worker, text, 1_024, 1_048_576)),
    },
    Setting {
        name: "flowTableSize",
        about: "flows all workers together can remember; default: 524288",
        take: Take::One(|settings, text| range(&mut settings.flow_table_size, text, 1_024, 16_777_216)),
    },
    Setting {
        name: "flowQuota",
        about: "flows that one interface may have on one worker; default: 0, a quarter of the worker's",
        take: Take::One(|settings, text| range(&mut settings.flow_quota, text, 0, 16_777_216)),
    },
    Setting {
        name: "policyChange",
        about: "open flows when policy changes: preserve or reevaluate",
        take: Take::One(|settings, text| {
            let words = [("preserve", PolicyChange::Preserve), ("reevaluate", PolicyChange::Reevaluate)];
            choose(&mut settings.policy_change, text, &words)
        }),
    },
    Setting {
        name: "defaultEndpointToHostAction",
        about: "packets from a workload to its own host: Drop, Accept, or Return to the host's own filter",
        take: Take::One(|settings, text| {
            let words = [
                ("Drop", EndpointToHostAction::Drop),
                ("Accept", EndpointToHostAction::Accept),
                ("Return", EndpointToHostAction::Return),
            ];
            choose(&mut settings.default_endpoint_to_host_action, text, &words)
        }),
    },
    Setting {
        name: "defaultWorkloadInterfacePrefix",
        about: "how names of workload interfaces begin; default: cali",
        take: Take::One(|settings, text| {
            let is_right = resource::is_interface(text) && text.len() <= PREFIX_MAX;
            ensure(is_right, "1-10 letters, digits, '_', '.' or '-'")?;
            settings.default_workload_interface_prefix = text.to_string();
            Ok(())
        }),
    },
    Setting {
        name: "xdpMode",
        about: "native, generic, or auto for the best each interface can",
        take: Take::One(|settings, text| {
            let words = [("native", XdpMode::Native), ("generic", XdpMode::Generic), ("auto", XdpMode::Auto)];
            choose(&mut settings.xdp_mode, text, &words)
        }),
    },
    Setting {
        name: "endpointOffload",
        about: "offloads of endpoint interfaces that are in the way: off, or leave",
        take: Take::One(|settings, text| {
            let words = [("off", EndpointOffload::Off), ("leave", EndpointOffload::Leave)];
            choose(&mut settings.endpoint_offload, text, &words)
        }),
    },
    Setting {
        name: "io",
        about: "who works AF_XDP's rings: raw (vrouter itself) or xsk-rs",
        take: Take::One(|settings, text| choose(&mut settings.io, text, &[("raw", Io::Raw), ("xsk-rs", Io::XskRs)])),
    },
    Setting {
        name: "busyPoll",
        about: "poll the drivers of uplinks that are network cards: auto or off",
        take: Take::One(|settings, text| {
            choose(&mut settings.busy_poll, text, &[("auto", BusyPoll::Auto), ("off", BusyPoll::Off)])
        }),
    },
    Setting {
        name: "zeroCopy",
        about: "let drivers of network cards use frames in place: auto (where they can) or off",
        take: Take::One(|settings, text| {
            choose(&mut settings.zero_copy, text, &[("auto", ZeroCopy::Auto), ("off", ZeroCopy::Off)])
        }),
    },
    Setting {
        name: "failsafeInboundHostPorts",
        about: "ports of the host that no policy closes, such as tcp:22 or udp:10.0.0.0/8:68; or none",
        take: Take::Many(|settings, texts| {
            settings.failsafe_inbound_host_ports = failsafes(texts)?;
            Ok(())
        }),
    },
    Setting {
        name: "failsafeOutboundHostPorts",
        about: "ports that the host may always reach; or none",
        take: Take::Many(|settings, texts| {
            settings.failsafe_outbound_host_ports = failsafes(texts)?;
            Ok(())
        }),
    },
    Setting {
        name: "workloadSourceSpoofing",
        about: "whether endpoints may have allowSpoofedSourcePrefixes: Disabled or Any",
        take: Take::One(|settings, text| {
            let words = [("Disabled", SourceSpoofing::Disabled), ("Any", SourceSpoofing::Any)];
            choose(&mut settings.workload_source_spoofing, text, &words)
        }),
    },
    Setting {
        name: "allowVxlanPacketsFromWorkloads",
        about: "whether workloads may send to the VXLAN port: true or false",
        take: Take::One(|settings, text| choose(&mut settings.allow_vxlan_packets_from_workloads, text, &TRUTH)),
    },
    Setting {
        name: "allowIpipPacketsFromWorkloads",
        about: "whether workloads may send IP in IP: true or false",
        take: Take::One(|settings, text| choose(&mut settings.allow_ipip_packets_from_workloads, text, &TRUTH)),
    },
    Setting {
        name: "vxlanPort",
        about: "the UDP port of VXLAN; default: 4789",
        take: Take::One(|settings, text| {
            let port = number(text, 1, 65_535).and_then(|port| u16::try_from(port).ok());
            settings.vxlan_port = port.ok_or_else(|| Refusal::new("a port 1-65535"))?;
            Ok(())
        }),
    },
];

const TRUTH: [(&str, bool); 2] = [("true", true), ("false", false)];
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
            match (texts(node), &setting.take) {
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

/// The texts of a scalar or of a list of scalars.
fn texts(node: &Node) -> Option<Vec<String>> {
    match &node.value {
        Value::List(items) => {
            let texts: Option<Vec<Vec<String>>> = items.iter().map(texts).collect();
            texts.map(|texts| texts.concat())
        }
        Value::Text(text) => Some(vec![text.clone()]),
        Value::Bool(value) => Some(vec![value.to_string()]),
        Value::Integer(value) => Some(vec![value.to_string()]),
        Value::Unsigned(value) => Some(vec![value.to_string()]),
        Value::Float(value) => Some(vec![value.to_string()]),
        Value::Null | Value::Map(_) => None,
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

#[cfg(test)]
mod tests;
mod values;
