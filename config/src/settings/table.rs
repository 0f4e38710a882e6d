//! The table of settings: the name of each in the file, what it is for, and how it is taken from text.

use std::net::{Ipv4Addr, SocketAddr};

use super::{
    BgpKernelRoutes, BusyPoll, CORE_MAX, DHCP_SERVERS_MAX, Datastore, EndpointOffload, EndpointToHostAction, Io,
    LogFormat, LogLevel, NAME_EXPECTED, NODE_NAME, PREFIX_MAX, PolicyChange, Poll, Rebalance, Refusal, Setting,
    SourceSpoofing, TRUTH, Take, XdpMode, ZeroCopy, choose, ensure, failsafes, is_distinct, number, range,
};
use crate::resource;

/// The second name that Docker looks for is five bytes longer, and the kernel's sun_path holds 108 with the closing zero.
const PLUGIN: &str = "an absolute path of at most 102 bytes that ends in .sock, or none";

const SERVERS: &str = "at most 8 IPv4 addresses of hosts, each once";

const LINK: &str = "an IPv4 address of the subnet, or none";

const STATION: &str = "an address and a port, such as 192.0.2.9:11019 or [2001:db8::9]:11019, or none";

/// Everything that can be set, in the order it is shown.
pub const SETTINGS: [Setting; 32] = [
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
        name: "bgpKernelRoutes",
        about: "whether the host's own packets go by learned routes too: on or off; default: on",
        take: Take::One(|settings, text| {
            let words = [("on", BgpKernelRoutes::On), ("off", BgpKernelRoutes::Off)];
            choose(&mut settings.bgp_kernel_routes, text, &words)
        }),
    },
    Setting {
        name: "bmpStation",
        about: "who is told by BMP what BGP peers say: an address and port such as 192.0.2.9:11019; default: none",
        take: Take::One(|settings, text| {
            let station = if text == "none" { Ok(None) } else { text.parse().map(Some) };
            let station: Option<SocketAddr> = station.map_err(|_| Refusal::new(STATION))?;
            ensure(station.is_none_or(|station| station.port() > 0), STATION)?;
            settings.bmp_station = station;
            Ok(())
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
        name: "dockerPluginSocket",
        about: "the socket of Docker's network and IPAM drivers, such as /run/docker/plugins/vrouter.sock; default: none",
        take: Take::One(|settings, text| {
            let is_path = text.starts_with('/') && text.ends_with(".sock") && !text.ends_with("/.sock");
            ensure(text == "none" || (is_path && text.len() <= 102), PLUGIN)?;
            settings.docker_plugin_socket = (text != "none").then(|| text.into());
            Ok(())
        }),
    },
    Setting {
        name: "dhcpServers",
        about: "DHCP servers that workloads' requests are relayed to, by IPv4 address; default: none",
        take: Take::Many(|settings, texts| {
            let servers: Vec<Ipv4Addr> = texts.iter().filter_map(|text| text.parse().ok()).collect();
            let is_right = servers.len() == texts.len() && servers.len() <= DHCP_SERVERS_MAX && is_distinct(&servers);
            ensure(is_right && servers.iter().all(is_host), SERVERS)?;
            settings.dhcp_servers = servers;
            Ok(())
        }),
    },
    Setting {
        name: "dhcpLinkSelection",
        about: "an address of the subnet that DHCP servers shall lease from (RFC 3527); default: none, the node's address says",
        take: Take::One(|settings, text| {
            let link = if text == "none" { Ok(None) } else { text.parse().map(Some) };
            let link: Option<Ipv4Addr> = link.map_err(|_| Refusal::new(LINK))?;
            ensure(link.as_ref().is_none_or(is_host), LINK)?;
            settings.dhcp_link_selection = link;
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
    Setting {
        name: "secrets",
        about: "where passwords are, a file SECRET/KEY each; default: /etc/vrouter/secrets",
        take: Take::One(|settings, text| {
            ensure(text.starts_with('/'), "an absolute path")?;
            settings.secrets = text.into();
            Ok(())
        }),
    },
];

/// The address of a host or a subnet that packets are routed to.
fn is_host(address: &Ipv4Addr) -> bool {
    !address.is_loopback() && !address.is_link_local() && (1..224).contains(&address.octets()[0])
}
