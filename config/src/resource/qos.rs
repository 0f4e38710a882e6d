//! Traffic limits of a workload endpoint: bandwidth, packet rate, connections, and the DSCP mark.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::check::Check;
use super::form::is_default;
use crate::net::number_or_text;

/// All limits: 0 is "no limit". Bandwidth, peak rate in bit/s; burst in bits; minimum burst in bytes.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct QosControls {
    #[serde(skip_serializing_if = "is_default")]
    pub ingress_bandwidth: u64,
    #[serde(skip_serializing_if = "is_default")]
    pub ingress_burst: u64,
    #[serde(skip_serializing_if = "is_default")]
    pub ingress_peakrate: u64,
    #[serde(skip_serializing_if = "is_default")]
    pub ingress_minburst: u64,
    #[serde(skip_serializing_if = "is_default")]
    pub egress_bandwidth: u64,
    #[serde(skip_serializing_if = "is_default")]
    pub egress_burst: u64,
    #[serde(skip_serializing_if = "is_default")]
    pub egress_peakrate: u64,
    #[serde(skip_serializing_if = "is_default")]
    pub egress_minburst: u64,
    #[serde(skip_serializing_if = "is_default")]
    pub ingress_packet_rate: u64,
    #[serde(skip_serializing_if = "is_default")]
    pub ingress_packet_burst: u64,
    #[serde(skip_serializing_if = "is_default")]
    pub egress_packet_rate: u64,
    #[serde(skip_serializing_if = "is_default")]
    pub egress_packet_burst: u64,
    #[serde(skip_serializing_if = "is_default")]
    pub ingress_max_connections: u64,
    #[serde(skip_serializing_if = "is_default")]
    pub egress_max_connections: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dscp: Option<Dscp>,
}

impl QosControls {
    pub(super) fn validate(&self, check: &mut Check) {
        const BIT_RATE: (u64, u64) = (1_000, 1_000_000_000_000_000);
        const PACKET_RATE: (u64, u64) = (1, 10_000);
        const CONNECTIONS: (u64, u64) = (1, u32::MAX as u64);
        let limits = [
            ("ingressBandwidth", self.ingress_bandwidth, BIT_RATE),
            ("egressBandwidth", self.egress_bandwidth, BIT_RATE),
            ("ingressPacketRate", self.ingress_packet_rate, PACKET_RATE),
            ("egressPacketRate", self.egress_packet_rate, PACKET_RATE),
            ("ingressMaxConnections", self.ingress_max_connections, CONNECTIONS),
            ("egressMaxConnections", self.egress_max_connections, CONNECTIONS),
        ];
        for (name, value, (least, most)) in limits {
            if value != 0 && !(least..=most).contains(&value) {
                check.refuse_field(name, value, format!("a number {least}-{most}"));
            }
        }
    }
}

/// A DSCP value 0-63, written as a number or as the name of its class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Dscp(u8);

/// RFC 2474 (DF, CS), RFC 2597 (AF), RFC 3246 (EF), RFC 5865 (VA), RFC 8622 (LE).
const CLASSES: [(&str, u8); 24] = [
    ("DF", 0),
    ("LE", 1),
    ("CS0", 0),
    ("CS1", 8),
    ("CS2", 16),
    ("CS3", 24),
    ("CS4", 32),
    ("CS5", 40),
    ("CS6", 48),
    ("CS7", 56),
    ("AF11", 10),
    ("AF12", 12),
    ("AF13", 14),
    ("AF21", 18),
    ("AF22", 20),
    ("AF23", 22),
    ("AF31", 26),
    ("AF32", 28),
    ("AF33", 30),
    ("AF41", 34),
    ("AF42", 36),
    ("AF43", 38),
    ("VA", 44),
    ("EF", 46),
];

impl Dscp {
    pub const EXPECTED: &'static str = "a DSCP value 0-63, or a class such as EF, AF11 or CS1";

    pub fn from_number(value: u8) -> Option<Dscp> {
        (value < 64).then_some(Dscp(value))
    }

    pub fn parse(text: &str) -> Option<Dscp> {
        let class = CLASSES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
        let value = class.map(|(_, value)| *value).or_else(|| text.parse().ok());
        value.and_then(Dscp::from_number)
    }

    pub fn value(self) -> u8 {
        self.0
    }
}

impl fmt::Display for Dscp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match CLASSES.iter().find(|(_, value)| *value == self.0) {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "{}", self.0),
        }
    }
}

impl Serialize for Dscp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match CLASSES.iter().find(|(_, value)| *value == self.0) {
            Some((name, _)) => serializer.serialize_str(name),
            None => serializer.serialize_u8(self.0),
        }
    }
}

impl<'de> Deserialize<'de> for Dscp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Dscp, D::Error> {
        let from_number = |number| u8::try_from(number).ok().and_then(Dscp::from_number);
        number_or_text(deserializer, Dscp::EXPECTED, from_number, Dscp::parse)
    }
}
