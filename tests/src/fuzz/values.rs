//! Fuzz targets: small languages and values.
//!
//! | target | input | promise |
//! |---|---|---|
//! | `selector` | a selector | the canonical text selects the same; negating and joining it do what they say |
//! | `settings` | a file, with lines `env NAME=VALUE` and `flag NAME=VALUE` | a refusal says where; what is accepted is within its bounds, and the same when given as flags |
//! | `net` | a value | what is read is written in one way, which reads as the same |
//! | `netlink` | attributes of a message | they lie one after the other within the message |

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Debug, Display};

use config::failsafe::FailsafePort;
use config::net::{Cidr, MacAddress, Port, PortName, Protocol};
use config::selector::Selector;
use config::settings::{
    BgpKernelRoutes, BusyPoll, EndpointOffload, EndpointToHostAction, File, Io, LogFormat, LogLevel, PolicyChange,
    Poll, Rebalance, SETTINGS, Settings, SourceSpoofing, XdpMode, ZeroCopy,
};
use control::host::genetlink::{self, attributes};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Seen, Target};

pub const SELECTOR: Target = Target {
    name: "selector",
    run: selector,
    seeds: selector_seeds,
    tokens: &[
        "a",
        "role",
        "'web'",
        "\"eb\"",
        "''",
        " == ",
        " != ",
        " contains ",
        " starts with ",
        " ends with ",
        " in ",
        " not in ",
        "{",
        "}",
        ", ",
        "(",
        ")",
        "!",
        "&&",
        "||",
        "has(a)",
        "has( role )",
        "all()",
        "global()",
        "\t",
        "ä",
    ],
    longest: 1024,
    rounds: 200_000,
};

pub const SETTINGS_LANGUAGE: Target = Target {
    name: "settings",
    run: settings,
    seeds: settings_seeds,
    tokens: &[
        "nodeName: ",
        "uplinks: ",
        "workers: ",
        "[0, 1]",
        "poll: always\n",
        "datastore: embedded:/",
        "apiSocket: /",
        "logLevel: ",
        "trace",
        "framesPerWorker: ",
        "flowTableSize: ",
        "1024",
        "16777217",
        "\nenv VROUTER_",
        "WORKERS=",
        "UPLINKS=",
        "NODENAME=",
        "\nflag ",
        "workers=",
        "xdp-mode=",
        "native",
        ",",
        "=",
        "\n",
        "- ",
        "null",
        "---\n",
    ],
    longest: 1500,
    rounds: 40_000,
};

pub const NET: Target = Target {
    name: "net",
    run: net,
    seeds: net_seeds,
    tokens: &[
        "/", ":", "::", "::ffff:", ".", "-", "0", "00", "+", "255", "65535", "128", "TCP", "ICMPv6", "%eth0", " ",
    ],
    longest: 200,
    rounds: 200_000,
};

pub const NETLINK: Target = Target {
    name: "netlink",
    run: netlink,
    seeds: netlink_seeds,
    tokens: &["\u{4}\0\u{1}\0", "\u{8}\0\u{1}\0abc\0", "\0\0\0\0", "\u{3}\0\0\0"],
    longest: 300,
    rounds: 200_000,
};

/// Every set of labels over two names and a few values.
fn label_sets() -> Vec<BTreeMap<String, String>> {
    let values = [None, Some(""), Some("web"), Some("eb")];
    let mut sets = Vec::new();
    for a in values {
        for role in values {
            let pairs = [("a", a), ("role", role)].into_iter().filter_map(|(name, value)| Some((name, value?)));
            sets.push(pairs.map(|(name, value)| (name.to_string(), value.to_string())).collect());
        }
    }
    sets
}

fn selector(input: &[u8]) -> Seen {
    let text = String::from_utf8_lossy(input);
    let selector = match Selector::parse(&text) {
        Ok(selector) => selector,
        Err(error) => {
            assert!(error.position <= text.len() && text.is_char_boundary(error.position), "{error}");
            assert!(!error.found.is_empty(), "{error}");
            return Seen::refused((error.expected, error.position.min(12)));
        }
    };
    assert_eq!(selector.text(), text);
    let canonical = selector.to_string();
    // A canonical text has more parentheses; deep ones are beyond what a resource may hold.
    if text.matches('(').count() > 200 {
        return Seen::accepted("deep");
    }
    let again = read(&canonical);
    // `!(!a)` is written `!!a`, whose own canonical text is `a`; further than that no text changes.
    let settled = again.to_string();
    assert_eq!(read(&settled).to_string(), settled, "the canonical text of a canonical text");
    let is_blank = selector.is_blank();
    let not = read(&if is_blank { "!all()".to_string() } else { format!("!({text})") });
    let both = selector.and(&not);
    let either = read(&format!("{canonical} || {not}"));
    let mut matched = 0u32;
    for labels in label_sets() {
        let is_match = selector.matches(&labels);
        assert_eq!(again.matches(&labels), is_match, "{text:?} and {canonical:?} on {labels:?}");
        assert_eq!(not.matches(&labels), !is_match, "not {text:?} on {labels:?}");
        assert!(!both.matches(&labels), "{both} on {labels:?}");
        assert!(either.matches(&labels), "{either} on {labels:?}");
        matched = matched << 1 | u32::from(is_match);
    }
    Seen::accepted((matched, text.matches("&&").count().min(3), text.matches("||").count().min(3)))
}

#[track_caller]
fn read(text: &str) -> Selector {
    Selector::parse(text).unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

fn selector_seeds() -> Vec<Vec<u8>> {
    let texts = [
        "",
        "all()",
        "role == 'web' && !has(a)",
        "a in {'web', \"eb\"} || role not in {}",
        "!(a contains 'e' && (role starts with 'w' || role ends with \"b\"))",
        "a != '' && role=='it\"s'",
        "in in {'in'} && contains contains 'contains'",
        "!!has(a) || global()",
    ];
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

fn settings(input: &[u8]) -> Seen {
    let text = String::from_utf8_lossy(input);
    let (mut file, mut environment, mut flags) = (String::new(), Vec::new(), Vec::new());
    for line in text.split_inclusive('\n') {
        let pair =
            |rest: &str| rest.trim_end_matches('\n').split_once('=').map(|(a, b)| (a.to_string(), b.to_string()));
        if let Some(pair) = line.strip_prefix("env ").and_then(pair) {
            environment.push(pair);
        } else if let Some(pair) = line.strip_prefix("flag ").and_then(pair) {
            flags.push(pair);
        } else {
            file.push_str(line);
        }
    }
    let file = File { name: "file", text: &file };
    let flags = flags.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    match Settings::load("host", Some(file), environment, flags) {
        Err(errors) => {
            assert!(!errors.is_empty(), "refused without a reason");
            for error in &errors {
                let place = &error.place;
                let is_placed = place.starts_with("file:") || ["environment", "command line"].contains(&place.as_str());
                assert!(is_placed, "{error}");
                assert!(!error.error.found.is_empty() && !error.error.expected.is_empty(), "{error:?}");
            }
            let first = &errors[0].error;
            Seen::refused((errors[0].place.chars().next(), &first.expected, errors.len().min(3)))
        }
        Ok(settings) => {
            within_bounds(&settings);
            let given = as_flags(&settings);
            let flags = given.iter().map(|(name, value)| (name.as_str(), value.as_str()));
            let again = Settings::load("another", None, [], flags);
            assert_eq!(again.as_ref(), Ok(&settings), "{given:?}");
            let defaults = as_flags(&Settings::defaults("host"));
            Seen::accepted(given.iter().zip(&defaults).map(|(a, b)| a == b).collect::<Vec<_>>())
        }
    }
}

fn within_bounds(settings: &Settings) {
    let distinct = |count: usize, all: usize| assert_eq!(count, all, "{settings:?}");
    assert!(!settings.workers.is_empty() && settings.workers.iter().all(|core| *core < 1024), "{settings:?}");
    distinct(settings.workers.iter().collect::<BTreeSet<_>>().len(), settings.workers.len());
    distinct(settings.uplinks.iter().collect::<BTreeSet<_>>().len(), settings.uplinks.len());
    assert!(settings.uplinks.iter().all(|name| (1..16).contains(&name.len()) && !name.contains('/')), "{settings:?}");
    assert!((1..=253).contains(&settings.node_name.len()), "{settings:?}");
    assert!(settings.api_socket.is_absolute() && settings.api_socket.as_os_str().len() < 108, "{settings:?}");
    let plugin = settings.docker_plugin_socket.as_ref();
    assert!(plugin.is_none_or(|path| path.is_absolute() && path.as_os_str().len() < 103), "{settings:?}");
    let dhcp = settings.dhcp_servers.iter().chain(&settings.dhcp_link_selection);
    assert!(dhcp.clone().count() <= 9 && dhcp.clone().all(|address| !address.is_multicast()), "{settings:?}");
    assert!((1024..=1 << 20).contains(&settings.frames_per_worker), "{settings:?}");
    assert!((1024..=1 << 24).contains(&settings.flow_table_size), "{settings:?}");
}

/// All settings, as one would give them on the command line.
fn as_flags(settings: &Settings) -> Vec<(String, String)> {
    let workers: Vec<String> = settings.workers.iter().map(usize::to_string).collect();
    let word = |word: &str| word.to_string();
    let value = |name: &str| match name {
        "nodeName" => settings.node_name.clone(),
        "uplinks" => settings.uplinks.join(","),
        "workers" => workers.join(","),
        "poll" => word(if settings.poll == Poll::Sleep { "sleep" } else { "always" }),
        "datastore" => settings.datastore.to_string(),
        "dockerPluginSocket" => match &settings.docker_plugin_socket {
            Some(path) => path.display().to_string(),
            None => word("none"),
        },
        "apiSocket" => settings.api_socket.display().to_string(),
        "logFormat" => word(if settings.log_format == LogFormat::Text { "text" } else { "json" }),
        "logLevel" => word(match settings.log_level {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        }),
        "framesPerWorker" => settings.frames_per_worker.to_string(),
        "flowTableSize" => settings.flow_table_size.to_string(),
        "flowQuota" => settings.flow_quota.to_string(),
        "policyChange" => {
            word(if settings.policy_change == PolicyChange::Preserve { "preserve" } else { "reevaluate" })
        }
        "defaultEndpointToHostAction" => word(match settings.default_endpoint_to_host_action {
            EndpointToHostAction::Drop => "Drop",
            EndpointToHostAction::Accept => "Accept",
            EndpointToHostAction::Return => "Return",
        }),
        "defaultWorkloadInterfacePrefix" => settings.default_workload_interface_prefix.clone(),
        "xdpMode" => word(match settings.xdp_mode {
            XdpMode::Native => "native",
            XdpMode::Generic => "generic",
            XdpMode::Auto => "auto",
        }),
        "endpointOffload" => word(if settings.endpoint_offload == EndpointOffload::Off { "off" } else { "leave" }),
        "io" => word(if settings.io == Io::Raw { "raw" } else { "xsk-rs" }),
        "rebalance" => word(if settings.rebalance == Rebalance::Auto { "auto" } else { "off" }),
        "bgpKernelRoutes" => word(if settings.bgp_kernel_routes == BgpKernelRoutes::On { "on" } else { "off" }),
        "bmpStation" => settings.bmp_station.map_or_else(|| word("none"), |station| station.to_string()),
        "dhcpServers" => settings.dhcp_servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
        "dhcpLinkSelection" => settings.dhcp_link_selection.map_or_else(|| word("none"), |link| link.to_string()),
        "busyPoll" => word(if settings.busy_poll == BusyPoll::Auto { "auto" } else { "off" }),
        "zeroCopy" => word(if settings.zero_copy == ZeroCopy::Auto { "auto" } else { "off" }),
        "failsafeInboundHostPorts" => failsafes(&settings.failsafe_inbound_host_ports),
        "failsafeOutboundHostPorts" => failsafes(&settings.failsafe_outbound_host_ports),
        "workloadSourceSpoofing" => {
            word(if settings.workload_source_spoofing == SourceSpoofing::Any { "Any" } else { "Disabled" })
        }
        "allowVxlanPacketsFromWorkloads" => settings.allow_vxlan_packets_from_workloads.to_string(),
        "allowIpipPacketsFromWorkloads" => settings.allow_ipip_packets_from_workloads.to_string(),
        "vxlanPort" => settings.vxlan_port.to_string(),
        "secrets" => settings.secrets.display().to_string(),
        name => panic!("setting {name} is new: write it here too"),
    };
    SETTINGS.iter().map(|setting| (setting.flag(), value(setting.name))).collect()
}

fn failsafes(ports: &[FailsafePort]) -> String {
    let texts: Vec<String> = ports.iter().map(ToString::to_string).collect();
    if texts.is_empty() { "none".to_string() } else { texts.join(",") }
}

fn settings_seeds() -> Vec<Vec<u8>> {
    let texts = [
        "",
        "nodeName: worker-1\nuplinks: [eth0, eth1]\nworkers: [0, 2]\npoll: always\nlogFormat: json\nlogLevel: debug\n",
        "datastore: embedded:/var/db\napiSocket: /run/x.sock\nframesPerWorker: 4096\nflowTableSize: 2048\n",
        "policyChange: reevaluate\ndefaultEndpointToHostAction: Accept\ndefaultWorkloadInterfacePrefix: veth\n",
        "failsafeInboundHostPorts: [22, 'udp:10.0.0.0/8:68']\nfailsafeOutboundHostPorts: none\nvxlanPort: 8472\n",
        "workers: 1023\nframesPerWorker: 1048576\nflowTableSize: 16777216\n",
        "workers: [1024]\n",
        "framesPerWorker: 1023\n",
        "xdpMode: generic\nendpointOffload: leave\nrebalance: auto\nflowQuota: 100\nio: xsk-rs\nbusyPoll: off\nenv VROUTER_WORKERS=1,2\nflag uplinks=eth0,eth1\n",
        "dhcpServers: [192.0.2.53, 192.0.2.54]\ndhcpLinkSelection: 10.77.0.1\n",
        "dhcpServers: 255.255.255.255\ndhcpLinkSelection: none\nflag dhcp-servers=1.2.3.4,1.2.3.4\n",
        "env NODENAME=one\nenv VROUTER_NODE_NAME=two\nflag node-name=three\n",
    ];
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

fn net(input: &[u8]) -> Seen {
    let Ok(text) = std::str::from_utf8(input) else { return Seen::refused(0) };
    let cidr = same(text, Cidr::parse(text));
    let mac = same(text, MacAddress::parse(text));
    let port = same(text, Port::parse(text));
    let protocol = same(text, Protocol::parse(text));
    let name = same(text, PortName::parse(text));
    if let Some(cidr) = cidr {
        assert!(cidr.contains(cidr.address()) && cidr.overlaps(&cidr), "{cidr}");
        assert!(cidr.masked().is_masked() && cidr.masked().contains(cidr.address()), "{cidr}");
        assert!(cidr.overlaps(&cidr.masked()) && cidr.contains(cidr.masked().address()), "{cidr}");
        let host = Cidr::host(cidr.address());
        assert!(host.is_host() && cidr.overlaps(&host) && host.overlaps(&cidr), "{cidr}");
    }
    if let Some(Port::Numbers(range)) = &port {
        assert!(range.first() >= 1 && range.contains(range.first()) && range.contains(range.last()), "{range}");
    }
    if let Some(protocol) = &protocol {
        assert_ne!(protocol.number(), 0);
    }
    let shape = (cidr.map(|cidr| (cidr.length(), cidr.is_masked())), mac.is_some(), protocol.map(|p| p.number()));
    match (shape, &port, &name) {
        ((None, false, None), None, None) => Seen::refused(text.len().min(8)),
        (shape, port, name) => Seen::accepted((shape, port.is_some(), name.is_some())),
    }
}

/// Written and read again as text and as JSON.
fn same<T, E: Display>(text: &str, parsed: Result<T, E>) -> Option<T>
where
    T: Display + Debug + PartialEq + Serialize + DeserializeOwned + std::str::FromStr<Err = E>,
{
    match parsed {
        Err(error) => {
            assert!(error.to_string().contains("expected"), "{error}");
            None
        }
        Ok(value) => {
            let written = value.to_string();
            match written.parse::<T>() {
                Ok(again) => assert_eq!((&again, again.to_string()), (&value, written), "{text:?}"),
                Err(error) => panic!("{text:?} is written {written:?}: {error}"),
            }
            let json = serde_json::to_string(&value).expect("a scalar");
            let again: T = serde_json::from_str(&json).unwrap_or_else(|error| panic!("{text:?}, {json}: {error}"));
            assert_eq!(again, value, "{text:?} by {json}");
            Some(value)
        }
    }
}

fn net_seeds() -> Vec<Vec<u8>> {
    let texts = [
        "10.0.0.1/24",
        "10.0.0.1",
        "2001:db8::1/64",
        "::ffff:10.0.0.1/100",
        "0.0.0.0/0",
        "::/0",
        "02:42:ac:11:00:02",
        "02-42-AC-11-00-02",
        "80",
        "8000:8080",
        "http",
        "TCP",
        "UDPLite",
        "132",
    ];
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

fn netlink(input: &[u8]) -> Seen {
    let mut end = 0;
    let mut kinds = Vec::new();
    for (kind, value) in attributes(input) {
        let start = value.as_ptr() as usize - input.as_ptr() as usize;
        assert_eq!(start, end + 4, "behind the one before: {input:?}");
        assert!(start + value.len() <= input.len(), "{input:?}");
        end = (start + value.len()).next_multiple_of(4);
        assert!(kind < 1 << 14, "{kind}");
        kinds.push((kind.min(4), value.len().min(9)));
        assert!(kinds.len() <= input.len() / 4, "more attributes than fit: {input:?}");
        let inner: usize = attributes(value).map(|(_, value)| value.len() + 4).sum();
        assert!(inner <= value.len(), "{input:?}");
        let _ = (genetlink::text(value), genetlink::number(value));
    }
    if kinds.is_empty() { Seen::refused(input.len().min(8)) } else { Seen::accepted(kinds) }
}

fn netlink_seeds() -> Vec<Vec<u8>> {
    let attribute =
        |length: u16, kind: u16, value: &[u8]| [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
    vec![
        attribute(8, 1, &7u32.to_ne_bytes()),
        [attribute(7, 2, b"abc\0"), attribute(4, 3, &[])].concat(),
        attribute(12, 0x8009, &attribute(8, 1, &[1; 4])),
    ]
}
