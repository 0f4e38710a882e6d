//! The values of FelixConfiguration's fields that nothing else has.

use serde::{Deserialize, Serialize};

use super::check::{Check, is_dns_label, quoted};
use super::duration::TimeSpan;
use super::form::{blank_is_absent, is_default};
use super::number::Number;
use super::word::words;
use crate::net::Cidr;

/// A bound, where -1 is none.
pub type Limit = Number<-1, { i64::MAX }>;
/// 0 means none, or any, where that has a meaning.
pub type PortNumber = Number<0, 65_535>;
/// 0 leaves it to the agent.
pub type Mtu = Number<0, 65_535>;
/// How many entries a table has room for.
pub type Size = Number<1, 2_147_483_647>;
/// The 32 bits of a packet's mark.
pub type Mark = Number<0, 4_294_967_295>;

words! {
    ClientAuth: exact {
        NoClientCert = "NoClientCert",
        RequireAndVerifyClientCert = "RequireAndVerifyClientCert",
        RequireAnyClientCert = "RequireAnyClientCert",
        VerifyClientCertIfGiven = "VerifyClientCertIfGiven",
    }
    ChainInsertMode: any_case {
        Append = "Append",
        Insert = "Insert",
    }
    EndpointToHostAction: any_case {
        Accept = "Accept",
        Drop = "Drop",
        Return = "Return",
    }
    LocalSubnetReachability: exact {
        Disabled = "Disabled",
        PodsAndLoadBalancers = "PodsAndLoadBalancers",
    }
    NatOutgoingExclusions: exact {
        IpPoolsAndHostIps = "IPPoolsAndHostIPs",
        IpPoolsOnly = "IPPoolsOnly",
    }
    FlowTableOffload: exact {
        All = "All",
        Disabled = "Disabled",
    }
    NftablesMode: exact {
        Auto = "Auto",
        Disabled = "Disabled",
        Enabled = "Enabled",
    }
    RouteSource: any_case {
        CalicoIpam = "CalicoIPAM",
        WorkloadIps = "WorkloadIPs",
    }
    ServiceLoopPrevention: any_case {
        Disabled = "Disabled",
        Drop = "Drop",
        Reject = "Reject",
    }
    SourceSpoofing: any_case {
        Any = "Any",
        Disabled = "Disabled",
    }
    IptablesBackend: exact {
        Auto = "Auto",
        Legacy = "Legacy",
        Nft = "NFT",
    }
    AllowAction: any_case {
        Accept = "Accept",
        Return = "Return",
    }
    DenyAction: any_case {
        Drop = "Drop",
        Reject = "Reject",
    }
    BpfAttachType: exact {
        Netkit = "Netkit",
        Tc = "TC",
        Tcx = "TCX",
    }
    BpfConnectTimeBalancing: exact {
        Disabled = "Disabled",
        Enabled = "Enabled",
        Tcp = "TCP",
    }
    BpfConntrackMode: exact {
        Auto = "Auto",
        BpfProgram = "BPFProgram",
        Userspace = "Userspace",
    }
    BpfConntrackLogLevel: exact {
        Debug = "Debug",
        Off = "Off",
    }
    BpfEnforceRpf: any_case {
        Disabled = "Disabled",
        Loose = "Loose",
        Strict = "Strict",
    }
    BpfExternalServiceMode: any_case {
        Dsr = "DSR",
        Tunnel = "Tunnel",
    }
    BpfJitHardening: exact {
        Auto = "Auto",
        Strict = "Strict",
    }
    BpfLogLevel: any_case {
        Debug = "Debug",
        Info = "Info",
        Off = "Off",
    }
    BpfConntrackScaling: any_case {
        Disabled = "Disabled",
        DoubleIfFull = "DoubleIfFull",
    }
    BpfOverlayHostSource: exact {
        HostAddress = "HostAddress",
        TunnelAddress = "TunnelAddress",
    }
    BpfRedirectToPeer: exact {
        Disabled = "Disabled",
        Enabled = "Enabled",
        L2Only = "L2Only",
    }
    PolicyEvaluationMode: exact {
        Continuous = "Continuous",
        None = "None",
    }
    AwsSourceCheck: exact {
        Disable = "Disable",
        DoNothing = "DoNothing",
        Enable = "Enable",
    }
    BpfCtlbLogFilter: any_case {
        All = "all",
    }
    /// Protocols that have ports.
    PortProtocol: any_case {
        Tcp = "TCP",
        Udp = "UDP",
        Sctp = "SCTP",
    }
}

/// Text that must have a form: `checked_text! { /// Doc. Name: is_right, "what is expected"; }`
macro_rules! checked_text {
    ($($(#[$attribute:meta])* $name:ident: $is_right:expr, $expected:literal;)+) => {
        $(
            $(#[$attribute])*
            #[derive(Debug, Clone, PartialEq, Eq)]
            pub struct $name(String);

            impl $name {
                pub const EXPECTED: &'static str = $expected;

                pub fn parse(text: &str) -> Option<$name> {
                    let is_right: fn(&str) -> bool = $is_right;
                    is_right(text).then(|| $name(text.to_string()))
                }

                pub fn as_str(&self) -> &str {
                    &self.0
                }
            }

            impl Serialize for $name {
                fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                    serializer.serialize_str(&self.0)
                }
            }

            impl<'de> Deserialize<'de> for $name {
                fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<$name, D::Error> {
                    super::word::read_text(deserializer, $name::EXPECTED, $name::parse)
                }
            }
        )+
    };
}

checked_text! {
    /// Where something listens.
    Host: |text| is_of(text, 64, "._:+-"), "a host name or address of at most 64 characters";
    /// An interface, or with `+` at the end all that begin so.
    InterfaceName: |text| is_of(text, 15, "._:+-"), "an interface name: 1-15 letters, digits or any of '._:+-'";
    InterfacePrefixes:
        |text| text.split(',').all(|prefix| is_of(prefix, 15, "_-")),
        "beginnings of interface names joined by ',': each 1-15 letters, digits, '_' or '-'";
    InterfaceExclusions:
        |text| text.split(',').all(is_exclusion),
        "interface names or /regular expressions/ joined by ','";
    MetadataHost: |text| is_of(text, 253, "_.-"), "a host name or IPv4 address";
    /// Longer ones do not fit the names that are made of them.
    RegionName: |text| text.len() <= 46 && is_dns_label(text), "lowercase letters, digits and '-', at most 46";
    KeyValues: is_key_values, "pairs such as FeatureA=true,FeatureB=false";
    LogRate: is_log_rate, "a rate such as 10/second: 1-9999 per second, minute, hour or day";
}

fn is_of(text: &str, length_max: usize, signs: &str) -> bool {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || signs.contains(c);
    (1..=length_max).contains(&text.len()) && text.chars().all(is_allowed)
}

fn is_exclusion(text: &str) -> bool {
    match text.strip_prefix('/').and_then(|rest| rest.strip_suffix('/')) {
        Some(pattern) => super::pattern::Pattern::parse(pattern).is_some(),
        None => is_of(text, 15, "._:+-"),
    }
}

fn is_key_values(text: &str) -> bool {
    let is_pair = |pair: &str| match pair.split_once('=') {
        Some((key, value)) => is_of(key, 64, "_-.") && (value.is_empty() || is_of(value, 64, "_-.")),
        None => false,
    };
    text.split(',').all(|pair| pair.is_empty() || is_pair(pair))
}

fn is_log_rate(text: &str) -> bool {
    let Some((count, unit)) = text.split_once('/') else { return false };
    let is_count = (1..=4).contains(&count.len()) && count.bytes().all(|b| b.is_ascii_digit());
    is_count && !count.starts_with('0') && ["second", "minute", "hour", "day"].contains(&unit)
}

/// How long one part of the agent may be silent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HealthTimeoutOverride {
    pub name: String,
    pub timeout: TimeSpan,
}

impl HealthTimeoutOverride {
    pub(super) fn validate(&self, check: &mut Check) {
        if !is_of(&self.name, 64, "_-") {
            check.refuse_field("name", quoted(&self.name), "a name: 1-64 letters, digits, '_' or '-'");
        }
    }
}

/// Indexes of routing tables, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteTableRange {
    pub min: i64,
    pub max: i64,
}

impl RouteTableRange {
    pub fn size(&self) -> i64 {
        self.max.saturating_sub(self.min).saturating_add(1)
    }

    pub(super) fn validate(&self, (least, most): (i64, i64), check: &mut Check) {
        if !(least..=most).contains(&self.min) {
            check.refuse_field("min", self.min, format!("a table {least}-{most}"));
        }
        if !(least..=most).contains(&self.max) {
            check.refuse_field("max", self.max, format!("a table {least}-{most}"));
        } else if self.max < self.min {
            check.refuse_field("max", self.max, format!("a table of at least min, {}", self.min));
        }
    }
}

/// A port that stays open whatever policy says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProtoPort {
    /// TCP when absent.
    #[serde(default, deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub protocol: Option<PortProtocol>,
    pub port: u16,
    /// Where the other end is; absent is anywhere.
    #[serde(default, deserialize_with = "blank_is_absent", skip_serializing_if = "Option::is_none")]
    pub net: Option<Cidr>,
}

/// How long what is known about a connection is kept without packets.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ConntrackTimeouts {
    #[serde(rename = "creationGracePeriod", skip_serializing_if = "is_default")]
    pub creation_grace_period: Option<ConntrackTimeout>,
    #[serde(rename = "tcpSynSent", skip_serializing_if = "is_default")]
    pub tcp_syn_sent: Option<ConntrackTimeout>,
    #[serde(rename = "tcpEstablished", skip_serializing_if = "is_default")]
    pub tcp_established: Option<ConntrackTimeout>,
    #[serde(rename = "tcpFinsSeen", skip_serializing_if = "is_default")]
    pub tcp_fins_seen: Option<ConntrackTimeout>,
    #[serde(rename = "tcpResetSeen", skip_serializing_if = "is_default")]
    pub tcp_reset_seen: Option<ConntrackTimeout>,
    #[serde(rename = "udpTimeout", skip_serializing_if = "is_default")]
    pub udp_timeout: Option<ConntrackTimeout>,
    #[serde(rename = "genericTimeout", skip_serializing_if = "is_default")]
    pub generic_timeout: Option<ConntrackTimeout>,
    #[serde(rename = "icmpTimeout", skip_serializing_if = "is_default")]
    pub icmp_timeout: Option<ConntrackTimeout>,
}

/// A length of time, or the kernel's own.
#[derive(Debug, Clone, PartialEq)]
pub enum ConntrackTimeout {
    Auto,
    After(TimeSpan),
}

impl ConntrackTimeout {
    pub const EXPECTED: &'static str = "a length of time such as 90s, or Auto";
    const AUTO: &'static str = "Auto";

    pub fn parse(text: &str) -> Option<ConntrackTimeout> {
        match text {
            ConntrackTimeout::AUTO => Some(ConntrackTimeout::Auto),
            _ => TimeSpan::parse(text).map(ConntrackTimeout::After),
        }
    }
}

impl Serialize for ConntrackTimeout {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            ConntrackTimeout::Auto => serializer.serialize_str(ConntrackTimeout::AUTO),
            ConntrackTimeout::After(span) => span.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for ConntrackTimeout {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<ConntrackTimeout, D::Error> {
        super::word::read_text(deserializer, ConntrackTimeout::EXPECTED, ConntrackTimeout::parse)
    }
}
