//! What BGP has and Calico has no field for: annotations in our own group, on BGPPeer and BGPConfiguration.
//!
//! ```text
//!   metadata.annotations
//!     bgp.vrouter.io/max-prefixes: "100000"     on a BGPPeer: its sessions
//!     bgp.vrouter.io/bfd: 10ms x 3              on BGPConfiguration default: the node-to-node mesh
//! ```
//!
//! An annotation of the group that nobody knows is refused: whoever mistypes one would believe it is in force.
//!
//! Sources: RFC 9234 (roles), RFC 5880 (BFD), RFC 5082 (GTSM), RFC 8212 (policy), RFC 9494 (long-lived), RFC 4271 (hold time).

use std::collections::BTreeMap;
use std::time::Duration;

use super::check::{Check, entry, quoted};
use super::duration::TimeSpan;
use super::word::words;
use crate::net::IpVersion;
use crate::suggest;

/// What our annotations of BGP begin with.
pub const BGP_GROUP: &str = "bgp.vrouter.io/";

/// The hold time is two octets of seconds; zero is none, and one and two are refused. RFC 4271 §4.2.
const HOLD_TIME_MAX: u64 = 65_535;
const HOLD_TIME_MIN: u64 = 3;
/// Three octets of seconds. RFC 9494 §3.
const LONG_LIVED_MAX: u64 = 16_777_215;
const RESTART_AFTER_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
const INTERVAL_MIN: Duration = Duration::from_millis(1);
const INTERVAL_MAX: Duration = Duration::from_secs(60);

words! {
    /// What a node is to its neighbour. RFC 9234 §4.1.
    BgpRole: exact {
        Provider = "provider",
        RouteServer = "route-server",
        RouteServerClient = "route-server-client",
        Customer = "customer",
        Peer = "peer",
    }
}

/// How often BFD sends and expects packets, and how many may be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BfdTimers {
    pub interval: Duration,
    pub multiplier: u8,
}

/// What the annotations say. What they do not say is none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BgpAnnotations {
    /// More prefixes than these, of one family, end the session.
    pub max_prefixes: Option<u32>,
    /// It is tried again after that.
    pub max_prefixes_restart: Option<Duration>,
    pub role: Option<BgpRole>,
    pub bfd: Option<BfdTimers>,
    pub long_lived_time: Option<Duration>,
    pub hold_time: Option<Duration>,
    /// Peers of other systems say and are told nothing without rules.
    pub requires_policy: Option<bool>,
    /// Hops that other nodes may be away.
    pub ttl_security: Option<u8>,
    /// Families that a session carries, whatever it runs over.
    pub families: Vec<IpVersion>,
}

/// An annotation of the group that says nothing that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrongAnnotation {
    pub key: String,
    pub found: String,
    pub expected: String,
}

/// Whose annotations they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Annotated {
    Peer,
    Configuration,
}

struct Reader {
    name: &'static str,
    /// None: on both.
    only: Option<Annotated>,
    expected: &'static str,
    read: fn(&mut BgpAnnotations, &str) -> Option<()>,
}

const READERS: [Reader; 9] = [
    Reader {
        name: "max-prefixes",
        only: None,
        expected: "a number of prefixes 1-4294967295",
        read: |all, text| {
            all.max_prefixes = Some(number(text)?);
            Some(())
        },
    },
    Reader {
        name: "max-prefixes-restart",
        only: None,
        expected: "a length of time 1s-720h such as 5m, beside max-prefixes",
        read: |all, text| {
            let time = TimeSpan::parse(text)?.length();
            all.max_prefixes_restart = Some(within(time, Duration::from_secs(1), RESTART_AFTER_MAX)?);
            Some(())
        },
    },
    Reader {
        name: "role",
        only: Some(Annotated::Peer),
        expected: "what the node is to the peer: one of provider, route-server, route-server-client, customer, peer",
        read: |all, text| {
            all.role = Some(BgpRole::parse(text)?);
            Some(())
        },
    },
    Reader {
        name: "bfd",
        only: None,
        expected: "an interval 1ms-1m and how many packets may be lost, 1-255, such as 10ms x 3",
        read: |all, text| {
            let (interval, multiplier) = text.split_once('x')?;
            let interval = within(TimeSpan::parse(interval.trim())?.length(), INTERVAL_MIN, INTERVAL_MAX)?;
            let multiplier = u8::try_from(number(multiplier.trim())?).ok()?;
            all.bfd = Some(BfdTimers { interval, multiplier });
            Some(())
        },
    },
    Reader {
        name: "long-lived-time",
        only: None,
        expected: "a length of time in whole seconds 1s-16777215s such as 24h",
        read: |all, text| {
            let time = seconds(text)?;
            all.long_lived_time = Some(within(time, Duration::from_secs(1), Duration::from_secs(LONG_LIVED_MAX))?);
            Some(())
        },
    },
    Reader {
        name: "hold-time",
        only: None,
        expected: "a length of time in whole seconds 3s-65535s such as 90s, or 0s for none",
        read: |all, text| {
            let time = seconds(text)?;
            let is_none = time.is_zero();
            let is_some = within(time, Duration::from_secs(HOLD_TIME_MIN), Duration::from_secs(HOLD_TIME_MAX));
            all.hold_time = if is_none { Some(time) } else { Some(is_some?) };
            Some(())
        },
    },
    Reader {
        name: "ebgp-requires-policy",
        only: None,
        expected: "true or false",
        read: |all, text| {
            all.requires_policy = Some(text.parse().ok()?);
            Some(())
        },
    },
    Reader {
        name: "ttl-security",
        only: Some(Annotated::Configuration),
        expected: "how many hops nodes may be away 1-255",
        read: |all, text| {
            all.ttl_security = Some(u8::try_from(number(text)?).ok()?);
            Some(())
        },
    },
    Reader {
        name: "families",
        only: Some(Annotated::Peer),
        expected: "the families of the sessions: 4, 6, or both as in \"4 6\"",
        read: |all, text| {
            let family = |word| match word {
                "4" => Some(IpVersion::V4),
                "6" => Some(IpVersion::V6),
                _ => None,
            };
            let mut families: Vec<IpVersion> = text.split_whitespace().map(family).collect::<Option<_>>()?;
            families.sort();
            let count = families.len();
            families.dedup();
            all.families = Some(families).filter(|families| families.len() == count && count > 0)?;
            Some(())
        },
    },
];

impl BgpAnnotations {
    /// What is wrong is left out, and told.
    pub fn read(annotations: &BTreeMap<String, String>, on: Annotated) -> (BgpAnnotations, Vec<WrongAnnotation>) {
        let mut all = BgpAnnotations::default();
        let mut wrong = Vec::new();
        for (key, text) in annotations {
            let Some(name) = key.strip_prefix(BGP_GROUP) else { continue };
            let mut refuse = |found: String, expected: String| {
                wrong.push(WrongAnnotation { key: key.clone(), found, expected });
            };
            let known = || READERS.iter().filter(|reader| reader.only.is_none_or(|only| only == on));
            match known().find(|reader| reader.name == name) {
                Some(reader) => {
                    if (reader.read)(&mut all, text).is_none() {
                        refuse(quoted(text), reader.expected.to_owned());
                    }
                }
                None => {
                    let names: Vec<&str> = known().map(|reader| reader.name).collect();
                    let near = suggest::nearest(name, names.iter().copied());
                    let near = near.map(|near| format!(" (did you mean {BGP_GROUP}{near}?)")).unwrap_or_default();
                    refuse("an unknown annotation".to_owned(), format!("one of {}{near}", names.join(", ")));
                }
            }
        }
        if all.max_prefixes_restart.is_some() && all.max_prefixes.is_none() {
            let key = format!("{BGP_GROUP}max-prefixes-restart");
            let found = "a time without max-prefixes".to_owned();
            wrong.push(WrongAnnotation { key, found, expected: format!("{BGP_GROUP}max-prefixes beside it") });
        }
        (all, wrong)
    }

    /// Refuses what `read` would leave out.
    pub(super) fn validate(annotations: &BTreeMap<String, String>, on: Annotated, check: &mut Check) {
        let (_, wrong) = BgpAnnotations::read(annotations, on);
        check.field("metadata", |check| {
            for WrongAnnotation { key, found, expected } in wrong {
                check.refuse_field(&entry("annotations", &key), found, expected);
            }
        });
    }
}

/// From one on.
fn number(text: &str) -> Option<u32> {
    let is_plain = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|number| *number > 0 && is_plain)
}

fn within(time: Duration, least: Duration, most: Duration) -> Option<Duration> {
    (least..=most).contains(&time).then_some(time)
}

fn seconds(text: &str) -> Option<Duration> {
    let time = TimeSpan::parse(text)?.length();
    (time.subsec_nanos() == 0).then_some(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, value: &str, on: Annotated) -> (BgpAnnotations, Vec<WrongAnnotation>) {
        let annotations =
            [(format!("{BGP_GROUP}{name}"), value.to_owned()), ("other.org/x".to_owned(), "y".to_owned())];
        BgpAnnotations::read(&annotations.into_iter().collect(), on)
    }

    #[test]
    fn values() {
        let check = |name: &str, value: &str, expected: Option<&dyn Fn(&BgpAnnotations) -> bool>| {
            let (all, wrong) = read(name, value, Annotated::Peer);
            match expected {
                Some(expected) => assert!(wrong.is_empty() && expected(&all), "{name}: {value}: {all:?} {wrong:?}"),
                None => assert!(wrong.len() == 1 && all == BgpAnnotations::default(), "{name}: {value}: {all:?}"),
            }
        };
        check("max-prefixes", "100000", Some(&|all| all.max_prefixes == Some(100_000)));
        for wrong in ["0", "-1", "+1", "4294967296", "many", ""] {
            check("max-prefixes", wrong, None);
        }
        check("role", "route-server-client", Some(&|all| all.role == Some(BgpRole::RouteServerClient)));
        check("role", "Customer", None);
        let timers = |millis, multiplier| Some(BfdTimers { interval: Duration::from_millis(millis), multiplier });
        check("bfd", "10ms x 3", Some(&|all| all.bfd == timers(10, 3)));
        check("bfd", "1s x5", Some(&|all| all.bfd == timers(1000, 5)));
        for wrong in ["10ms", "10ms x 0", "10ms x 256", "x 3", "10 x 3", "0s x 3", "2m x 3", "10ms x 3 x 3"] {
            check("bfd", wrong, None);
        }
        check("long-lived-time", "24h", Some(&|all| all.long_lived_time == Some(Duration::from_secs(86_400))));
        check("long-lived-time", "16777216s", None);
        check("long-lived-time", "1500ms", None);
        check("hold-time", "90s", Some(&|all| all.hold_time == Some(Duration::from_secs(90))));
        check("hold-time", "0s", Some(&|all| all.hold_time == Some(Duration::ZERO)));
        check("hold-time", "2s", None);
        check("hold-time", "65536s", None);
        check("ebgp-requires-policy", "true", Some(&|all| all.requires_policy == Some(true)));
        check("ebgp-requires-policy", "yes", None);
        check("families", "6 4", Some(&|all| all.families == [IpVersion::V4, IpVersion::V6]));
        for wrong in ["", "5", "4 4", "4,6"] {
            check("families", wrong, None);
        }
        check("ttl-security", "1", None);
        check("max-prefix", "1", None);
    }

    #[test]
    fn a_time_for_the_restart_needs_a_number() {
        let (all, wrong) = read("max-prefixes-restart", "5m", Annotated::Peer);
        assert_eq!(all.max_prefixes_restart, Some(Duration::from_secs(300)));
        assert_eq!(wrong.len(), 1);
        assert_eq!(read("ttl-security", "255", Annotated::Configuration).0.ttl_security, Some(255));
        assert_eq!(read("role", "peer", Annotated::Configuration).1.len(), 1);
    }
}
