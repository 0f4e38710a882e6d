//! What Felix is told about a node, as far as it concerns this router: one struct, whoever filled it.

use std::net::Ipv4Addr;

use config::failsafe::FailsafePort;
use config::net::PortNumbers;
use config::resource::{FelixConfigurationSpec, Key, Kind, PortProtocol, ProtoPort, Resource};
use config::settings::{EndpointToHostAction, Settings, SourceSpoofing};

use fastpath::table::translation::Ports;

use crate::resources::Resources;

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;

/// Settings of the whole node that shape what endpoints and the host may do.
#[derive(Debug, Clone, PartialEq)]
pub struct FelixSettings {
    pub failsafe_inbound: Vec<FailsafePort>,
    pub failsafe_outbound: Vec<FailsafePort>,
    pub endpoint_to_host: EndpointToHostAction,
    /// Endpoints may have allowSpoofedSourcePrefixes.
    pub allows_spoofing: bool,
    pub allows_vxlan: bool,
    pub allows_ipip: bool,
    pub vxlan_port: u16,
    /// Ports and identifiers that translated sources have.
    pub nat_ports: Ports,
    /// What translated IPv4 sources have for an address, in place of the uplink's.
    pub nat_outgoing_address: Option<Ipv4Addr>,
    /// Nodes hear workloads by their own source.
    pub nat_exempts_nodes: bool,
}

impl Default for FelixSettings {
    fn default() -> Self {
        Self {
            failsafe_inbound: FailsafePort::inbound_defaults(),
            failsafe_outbound: FailsafePort::outbound_defaults(),
            endpoint_to_host: EndpointToHostAction::Drop,
            allows_spoofing: false,
            allows_vxlan: false,
            allows_ipip: false,
            vxlan_port: 4789,
            nat_ports: Ports::default(),
            nat_outgoing_address: None,
            nat_exempts_nodes: false,
        }
    }
}

impl From<&Settings> for FelixSettings {
    fn from(settings: &Settings) -> Self {
        Self {
            failsafe_inbound: settings.failsafe_inbound_host_ports.clone(),
            failsafe_outbound: settings.failsafe_outbound_host_ports.clone(),
            endpoint_to_host: settings.default_endpoint_to_host_action,
            allows_spoofing: settings.workload_source_spoofing == SourceSpoofing::Any,
            allows_vxlan: settings.allow_vxlan_packets_from_workloads,
            allows_ipip: settings.allow_ipip_packets_from_workloads,
            vxlan_port: settings.vxlan_port,
            ..Self::default()
        }
    }
}

impl FelixSettings {
    /// The same, with what the FelixConfigurations say: that of the name `default`, and over it that of this node.
    pub fn with(&self, resources: &Resources, node: &str) -> Self {
        let mut settings = self.clone();
        for name in ["default".to_owned(), format!("node.{node}")] {
            if let Some(Resource::FelixConfiguration(configuration)) =
                resources.get(&Key::cluster(Kind::FelixConfiguration, name))
            {
                settings.overlay(&configuration.spec);
            }
        }
        settings
    }

    fn overlay(&mut self, spec: &FelixConfigurationSpec) {
        let failsafes = |ports: &Vec<ProtoPort>| ports.iter().map(failsafe).collect();
        if let Some(ports) = &spec.failsafe_inbound_host_ports {
            self.failsafe_inbound = failsafes(ports);
        }
        if let Some(ports) = &spec.failsafe_outbound_host_ports {
            self.failsafe_outbound = failsafes(ports);
        }
        if let Some(action) = spec.default_endpoint_to_host_action {
            self.endpoint_to_host = match action {
                config::resource::EndpointToHostAction::Drop => EndpointToHostAction::Drop,
                config::resource::EndpointToHostAction::Accept => EndpointToHostAction::Accept,
                config::resource::EndpointToHostAction::Return => EndpointToHostAction::Return,
            };
        }
        if let Some(spoofing) = spec.workload_source_spoofing {
            self.allows_spoofing = spoofing == config::resource::SourceSpoofing::Any;
        }
        self.allows_vxlan = spec.allow_vxlan_packets_from_workloads.unwrap_or(self.allows_vxlan);
        self.allows_ipip = spec.allow_ipip_packets_from_workloads.unwrap_or(self.allows_ipip);
        let vxlan_port = spec.vxlan_port.and_then(|port| u16::try_from(port.get()).ok());
        self.vxlan_port = vxlan_port.unwrap_or(self.vxlan_port);
        if let Some(PortNumbers(range)) = spec.nat_port_range {
            self.nat_ports = Ports { first: range.first(), last: range.last() };
        }
        self.nat_outgoing_address = spec.nat_outgoing_address.or(self.nat_outgoing_address);
        if let Some(exclusions) = spec.nat_outgoing_exclusions {
            self.nat_exempts_nodes = exclusions == config::resource::NatOutgoingExclusions::IpPoolsAndHostIps;
        }
    }
}

fn failsafe(port: &ProtoPort) -> FailsafePort {
    let protocol = match port.protocol {
        Some(PortProtocol::Udp) => UDP,
        Some(PortProtocol::Sctp) => SCTP,
        Some(PortProtocol::Tcp) | None => TCP,
    };
    FailsafePort { protocol, port: port.port, net: port.net }
}
