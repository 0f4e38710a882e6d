//! Failsafe ports: never closed to the host by policy, so that nobody locks himself out. Written as Felix does.
//!
//!     tcp:22    udp:10.0.0.0/8:68    tcp:[fd00::/8]:179    22 (tcp)

use std::fmt;

use crate::net::Cidr;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// A port, and whose packets it is open for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailsafePort {
    /// 6 or 17.
    pub protocol: u8,
    pub port: u16,
    /// None: everybody's.
    pub net: Option<Cidr>,
}

impl FailsafePort {
    pub fn parse(text: &str) -> Option<FailsafePort> {
        let (protocol, rest) = match text.split_once(':') {
            Some((word, rest)) if word.eq_ignore_ascii_case("tcp") => (TCP, rest),
            Some((word, rest)) if word.eq_ignore_ascii_case("udp") => (UDP, rest),
            Some(_) => return None,
            None => (TCP, text),
        };
        let (net, port) = match rest.rsplit_once(':') {
            Some((net, port)) => {
                let net = net.strip_prefix('[').and_then(|net| net.strip_suffix(']')).unwrap_or(net);
                (Some(Cidr::parse(net).ok()?.masked()), port)
            }
            None => (None, rest),
        };
        let is_number = port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|port| is_number && *port > 0)?;
        Some(FailsafePort { protocol, port, net })
    }

    /// What is open to the host when nothing else is said: ssh, DHCP, BGP, etcd, Typha and the Kubernetes API.
    pub fn inbound_defaults() -> Vec<FailsafePort> {
        [(TCP, 22), (UDP, 68)].into_iter().chain(CLUSTER.map(|port| (TCP, port))).map(open).collect()
    }

    /// What the host may always reach: DNS, DHCP, and the same services.
    pub fn outbound_defaults() -> Vec<FailsafePort> {
        [(UDP, 53), (UDP, 67)].into_iter().chain(CLUSTER.map(|port| (TCP, port))).map(open).collect()
    }
}

const CLUSTER: [u16; 7] = [179, 2379, 2380, 5473, 6443, 6666, 6667];

fn open((protocol, port): (u8, u16)) -> FailsafePort {
    FailsafePort { protocol, port, net: None }
}

impl fmt::Display for FailsafePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = if self.protocol == TCP { "tcp" } else { "udp" };
        match self.net {
            None => write!(f, "{protocol}:{}", self.port),
            Some(net) if net.is_ipv4() => write!(f, "{protocol}:{net}:{}", self.port),
            Some(net) => write!(f, "{protocol}:[{net}]:{}", self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_as_written() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(FailsafePort::parse(text).map(|port| port.to_string()).as_deref(), expected, "{text}");
        };
        check("22", Some("tcp:22"));
        check("UDP:68", Some("udp:68"));
        check("tcp:10.1.2.3/8:22", Some("tcp:10.0.0.0/8:22"));
        check("tcp:[fd00::/8]:179", Some("tcp:[fd00::/8]:179"));
        check("tcp:fd00::/8:179", Some("tcp:[fd00::/8]:179"));
        for text in ["", "tcp", "tcp:", "sctp:22", "tcp:0", "tcp:65536", "tcp:+22", "tcp:ten:22", "tcp:10.0.0.0/33:22"]
        {
            check(text, None);
        }
    }
}
