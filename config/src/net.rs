//! Network value types: `Cidr`, `MacAddress`, `Protocol`, `Port` and the IP version.
//!
//! Each is checked where it is made and stays right after: text in (`FromStr`), the same text out (`Display`), and the
//! JSON form Calico uses (a string; a number where Calico writes one).
//!
//! Invariants: a `Cidr`'s length fits its address family; a `Protocol` is 1-255; a `PortRange` has 1 <= first <= last.
//! Left out: MAC and address allocation, and anything that looks at the host.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Prefix length of ::ffff:0:0/96, which holds IPv4 addresses in IPv6's form (RFC 4291, 2.5.5.2).
const MAPPED_LENGTH: u8 = 96;
/// The longest name a port may have.
const PORT_NAME_MAX: usize = 128;

/// Why a text is not the value it should be: what was found and what was expected instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("found {found:?}, expected {expected}")]
pub struct ValueError {
    pub found: String,
    pub expected: &'static str,
}

impl ValueError {
    fn new(found: impl fmt::Display, expected: &'static str) -> ValueError {
        ValueError { found: found.to_string(), expected }
    }
}

/// 4 or 6, written as that number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IpVersion {
    V4,
    V6,
}

impl IpVersion {
    pub const BOTH: [IpVersion; 2] = [IpVersion::V4, IpVersion::V6];

    /// Position in arrays of what is known for each, in the order of `BOTH`.
    pub fn index(self) -> usize {
        usize::from(self == IpVersion::V6)
    }

    pub fn of(address: IpAddr) -> IpVersion {
        if address.is_ipv4() { IpVersion::V4 } else { IpVersion::V6 }
    }

    /// Length in bits of an address: 32 or 128.
    pub fn address_bits(self) -> u8 {
        match self {
            IpVersion::V4 => 32,
            IpVersion::V6 => 128,
        }
    }
}

impl fmt::Display for IpVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            IpVersion::V4 => "4",
            IpVersion::V6 => "6",
        })
    }
}

/// An address with a prefix length: a network, or an interface address when bits of the host part are set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    address: IpAddr,
    length: u8,
}

impl Cidr {
    pub const EXPECTED: &'static str = "an address or CIDR such as 10.0.0.0/24 or 2001:db8::/64";

    /// Keeps host bits; see `masked`. None when the length does not fit the family.
    pub fn new(address: IpAddr, length: u8) -> Option<Cidr> {
        (length <= IpVersion::of(address).address_bits()).then_some(Cidr { address, length })
    }

    /// The /32 or /128 of one address.
    pub fn host(address: IpAddr) -> Cidr {
        Cidr { address, length: IpVersion::of(address).address_bits() }
    }

    /// Reads `10.0.0.0/24`; a bare address is its /32 or /128. An IPv4 address in IPv6's form is refused: no packet has
    /// it, so a rule with it would match nothing.
    pub fn parse(text: &str) -> Result<Cidr, ValueError> {
        let cidr = Cidr::read(text)?;
        let is_mapped = matches!(cidr.address, IpAddr::V6(address) if address.to_ipv4_mapped().is_some());
        if is_mapped && cidr.length >= MAPPED_LENGTH {
            return Err(ValueError::new(text, "an IPv4 network written as one, such as 10.0.0.0/24"));
        }
        Ok(cidr)
    }

    fn read(text: &str) -> Result<Cidr, ValueError> {
        let wrong = || ValueError::new(text, Cidr::EXPECTED);
        let Some((address, length)) = text.split_once('/') else {
            return text.parse().map(Cidr::host).map_err(|_| wrong());
        };
        let is_plain = !length.is_empty() && length.len() <= 3 && length.bytes().all(|b| b.is_ascii_digit());
        if !is_plain {
            return Err(wrong());
        }
        let address = address.parse().map_err(|_| wrong())?;
        let length = length.parse().map_err(|_| wrong())?;
        Cidr::new(address, length).ok_or_else(wrong)
    }

    pub fn address(&self) -> IpAddr {
        self.address
    }

    pub fn length(&self) -> u8 {
        self.length
    }

    pub fn version(&self) -> IpVersion {
        IpVersion::of(self.address)
    }

    pub fn is_ipv4(&self) -> bool {
        self.address.is_ipv4()
    }

    /// One address only: /32 or /128.
    pub fn is_host(&self) -> bool {
        self.length == self.version().address_bits()
    }

    /// The network: host bits cleared.
    pub fn masked(&self) -> Cidr {
        Cidr { address: mask(self.address, self.length), length: self.length }
    }

    pub fn is_masked(&self) -> bool {
        self.masked() == *self
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.is_ipv4() && mask(address, self.length) == mask(self.address, self.length)
    }

    /// Some address lies in both.
    pub fn overlaps(&self, other: &Cidr) -> bool {
        if self.length <= other.length { self.contains(other.address) } else { other.contains(self.address) }
    }
}

fn mask(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let kept = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            Ipv4Addr::from_bits(v4.to_bits() & kept).into()
        }
        IpAddr::V6(v6) => {
            let kept = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            Ipv6Addr::from_bits(v6.to_bits() & kept).into()
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// A 48-bit Ethernet address, written `02:42:ac:11:00:02`.
#[derive(Default, Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    pub const EXPECTED: &'static str = "a MAC address such as 02:42:ac:11:00:02";

    /// Reads six hexadecimal pairs joined by `:` or by `-`.
    pub fn parse(text: &str) -> Result<MacAddress, ValueError> {
        let wrong = || ValueError::new(text, MacAddress::EXPECTED);
        let separator = if text.contains('-') { '-' } else { ':' };
        let mut octets = [0; 6];
        let mut parts = text.split(separator);
        for octet in &mut octets {
            let part = parts.next().ok_or_else(wrong)?;
            if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(wrong());
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        if parts.next().is_some() {
            return Err(wrong());
        }
        Ok(MacAddress(octets))
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// An IP protocol, 1-255. Two spellings of one number (`TCP`, `6`) are equal; each keeps the form it was written in.
#[derive(Debug, Clone, Copy)]
pub struct Protocol {
    number: u8,
    is_named: bool,
}

impl Protocol {
    pub const EXPECTED: &'static str = "one of TCP, UDP, ICMP, ICMPv6, SCTP, UDPLite, or a number 1-255";
    pub const TCP: Protocol = Protocol { number: 6, is_named: true };
    pub const UDP: Protocol = Protocol { number: 17, is_named: true };
    pub const ICMP: Protocol = Protocol { number: 1, is_named: true };
    pub const ICMPV6: Protocol = Protocol { number: 58, is_named: true };
    pub const SCTP: Protocol = Protocol { number: 132, is_named: true };
    pub const UDPLITE: Protocol = Protocol { number: 136, is_named: true };

    /// The names in Calico's exact spelling.
    pub const NAMES: [(&'static str, Protocol); 6] = [
        ("TCP", Protocol::TCP),
        ("UDP", Protocol::UDP),
        ("ICMP", Protocol::ICMP),
        ("ICMPv6", Protocol::ICMPV6),
        ("SCTP", Protocol::SCTP),
        ("UDPLite", Protocol::UDPLITE),
    ];

    /// None for 0, which is no protocol a rule can name.
    pub fn from_number(number: u8) -> Option<Protocol> {
        (number != 0).then_some(Protocol { number, is_named: false })
    }

    /// Reads a name, in exact case, or a number in text.
    pub fn parse(text: &str) -> Result<Protocol, ValueError> {
        if let Some((_, protocol)) = Protocol::NAMES.iter().find(|(name, _)| *name == text) {
            return Ok(*protocol);
        }
        let number = text.parse().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()));
        number.and_then(Protocol::from_number).ok_or_else(|| ValueError::new(text, Protocol::EXPECTED))
    }

    pub fn number(&self) -> u8 {
        self.number
    }

    /// Rules may name numeric ports for these only: TCP, UDP, SCTP.
    pub fn has_ports(&self) -> bool {
        matches!(self.number, 6 | 17 | 132)
    }

    fn name(&self) -> Option<&'static str> {
        let named = Protocol::NAMES.iter().find(|(_, protocol)| protocol == self);
        named.filter(|_| self.is_named).map(|(name, _)| *name)
    }
}

impl PartialEq for Protocol {
    fn eq(&self, other: &Protocol) -> bool {
        self.number == other.number
    }
}

impl Eq for Protocol {}

impl PartialOrd for Protocol {
    fn partial_cmp(&self, other: &Protocol) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Protocol {
    fn cmp(&self, other: &Protocol) -> Ordering {
        self.number.cmp(&other.number)
    }
}

impl Hash for Protocol {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.number.hash(state);
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{}", self.number),
        }
    }
}

/// Consecutive ports, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// None unless 1 <= first <= last.
    pub fn new(first: u16, last: u16) -> Option<PortRange> {
        (first >= 1 && first <= last).then_some(PortRange { first, last })
    }

    pub fn first(&self) -> u16 {
        self.first
    }

    pub fn last(&self) -> u16 {
        self.last
    }

    pub fn contains(&self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { write!(f, "{}", self.first) } else { write!(f, "{}:{}", self.first, self.last) }
    }
}

/// A port as a rule writes it: `80`, `8000:8080`, or the name an endpoint gave to one of its ports.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Port {
    Numbers(PortRange),
    Named(PortName),
}

impl Port {
    pub const EXPECTED: &'static str = "a port 1-65535, a range low:high, or a port name";

    pub fn parse(text: &str) -> Result<Port, ValueError> {
        let wrong = || ValueError::new(text, Port::EXPECTED);
        let number = |text: &str| text.parse().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()));
        if let Some((first, last)) = text.split_once(':') {
            let (first, last) = (number(first).ok_or_else(wrong)?, number(last).ok_or_else(wrong)?);
            return PortRange::new(first, last).map(Port::Numbers).ok_or_else(wrong);
        }
        // Digits alone are a number even though they would pass as a name; 65536 must not become a name.
        if text.bytes().all(|b| b.is_ascii_digit()) {
            let port = number(text).ok_or_else(wrong)?;
            return PortRange::new(port, port).map(Port::Numbers).ok_or_else(wrong);
        }
        PortName::parse(text).map(Port::Named).map_err(|_| wrong())
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Port::Numbers(range) => range.fmt(f),
            Port::Named(name) => name.fmt(f),
        }
    }
}

/// Ports by number only: `80`, `8000:8080`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortNumbers(pub PortRange);

impl PortNumbers {
    pub const EXPECTED: &'static str = "a port 1-65535, or a range low:high";

    pub fn parse(text: &str) -> Result<PortNumbers, ValueError> {
        match Port::parse(text) {
            Ok(Port::Numbers(range)) => Ok(PortNumbers(range)),
            _ => Err(ValueError::new(text, PortNumbers::EXPECTED)),
        }
    }
}

impl fmt::Display for PortNumbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of an endpoint's port: `[a-zA-Z0-9_.-]{1,128}`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortName(String);

impl PortName {
    pub const EXPECTED: &'static str = "a port name: 1-128 letters, digits, '_', '.' or '-'";

    pub fn parse(text: &str) -> Result<PortName, ValueError> {
        let is_allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
        if (1..=PORT_NAME_MAX).contains(&text.len()) && text.bytes().all(is_allowed) {
            Ok(PortName(text.to_string()))
        } else {
            Err(ValueError::new(text, PortName::EXPECTED))
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Gives a type its text form from its `parse`, and its JSON form: a string both ways.
macro_rules! text_form {
    ($type:ident) => {
        impl FromStr for $type {
            type Err = ValueError;

            fn from_str(text: &str) -> Result<$type, ValueError> {
                $type::parse(text)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$type, D::Error> {
                struct Text;
                impl Visitor<'_> for Text {
                    type Value = $type;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($type::EXPECTED)
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$type, E> {
                        $type::parse(text).map_err(|error| E::invalid_value(de::Unexpected::Str(text), &error.expected))
                    }
                }
                deserializer.deserialize_str(Text)
            }
        }
    };
}

text_form!(Cidr);
text_form!(MacAddress);
text_form!(PortName);

impl FromStr for Protocol {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Protocol, ValueError> {
        Protocol::parse(text)
    }
}

impl FromStr for Port {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Port, ValueError> {
        Port::parse(text)
    }
}

impl Serialize for IpVersion {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(if *self == IpVersion::V4 { 4 } else { 6 })
    }
}

impl Serialize for Protocol {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.name() {
            Some(name) => serializer.serialize_str(name),
            None => serializer.serialize_u8(self.number),
        }
    }
}

impl Serialize for Port {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Port::Numbers(range) if range.first == range.last => serializer.serialize_u16(range.first),
            _ => serializer.collect_str(self),
        }
    }
}

impl Serialize for PortNumbers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Port::Numbers(self.0).serialize(serializer)
    }
}

/// Reads a value that may be written as a number or as a string; the two closures are its two readings.
pub(crate) fn number_or_text<'de, D, T>(
    deserializer: D,
    expected: &'static str,
    from_number: fn(u64) -> Option<T>,
    from_text: fn(&str) -> Option<T>,
) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
{
    struct NumberOrText<T> {
        expected: &'static str,
        from_number: fn(u64) -> Option<T>,
        from_text: fn(&str) -> Option<T>,
    }
    impl<T> Visitor<'_> for NumberOrText<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.expected)
        }

        fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
            (self.from_number)(number).ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(number), &self))
        }

        fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
            let value = u64::try_from(number).ok().and_then(self.from_number);
            value.ok_or_else(|| E::invalid_value(de::Unexpected::Signed(number), &self))
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
            (self.from_text)(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
        }
    }
    deserializer.deserialize_any(NumberOrText { expected, from_number, from_text })
}

impl<'de> Deserialize<'de> for IpVersion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<IpVersion, D::Error> {
        let from_number = |number| match number {
            4 => Some(IpVersion::V4),
            6 => Some(IpVersion::V6),
            _ => None,
        };
        number_or_text(deserializer, "4 or 6", from_number, |_| None)
    }
}

impl<'de> Deserialize<'de> for Protocol {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Protocol, D::Error> {
        let from_number = |number| u8::try_from(number).ok().and_then(Protocol::from_number);
        number_or_text(deserializer, Protocol::EXPECTED, from_number, |text| text.parse().ok())
    }
}

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Port, D::Error> {
        let from_number = |number| {
            let port = u16::try_from(number).ok()?;
            PortRange::new(port, port).map(Port::Numbers)
        };
        number_or_text(deserializer, Port::EXPECTED, from_number, |text| text.parse().ok())
    }
}

impl<'de> Deserialize<'de> for PortNumbers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<PortNumbers, D::Error> {
        let from_number = |number| {
            let port = u16::try_from(number).ok()?;
            PortRange::new(port, port).map(PortNumbers)
        };
        number_or_text(deserializer, PortNumbers::EXPECTED, from_number, |text| PortNumbers::parse(text).ok())
    }
}

#[cfg(test)]
mod tests;
