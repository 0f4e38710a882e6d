//! What peers say of themselves and of routes, in words.

use config::net::IpVersion;

use crate::bgp::attribute::{AsPath, SegmentKind};
use crate::bgp::message::{Capabilities, Role};

pub fn family_name(family: IpVersion) -> String {
    format!("IPv{family}")
}

/// As everybody writes paths: sets in braces, confederations in parentheses.
pub fn as_path_text(path: &AsPath) -> String {
    let segments = path.segments.iter().map(|segment| {
        let numbers: Vec<String> = segment.numbers.iter().map(u32::to_string).collect();
        match segment.kind {
            SegmentKind::Sequence => numbers.join(" "),
            SegmentKind::Set => format!("{{{}}}", numbers.join(" ")),
            SegmentKind::ConfederationSequence => format!("({})", numbers.join(" ")),
            SegmentKind::ConfederationSet => format!("({{{}}})", numbers.join(" ")),
        }
    });
    segments.collect::<Vec<_>>().join(" ")
}

pub fn role_name(role: Role) -> &'static str {
    match role {
        Role::Provider => "provider",
        Role::RouteServer => "rs",
        Role::RouteServerClient => "rs-client",
        Role::Customer => "customer",
        Role::Peer => "peer",
    }
}

/// Capabilities in words.
pub fn capabilities(capabilities: &Capabilities) -> Vec<String> {
    let mut words: Vec<String> =
        capabilities.families.iter().map(|family| format!("multiprotocol {}", family_name(*family))).collect();
    let mut say = |is_there: bool, word: &str| {
        if is_there {
            words.push(word.to_owned());
        }
    };
    say(capabilities.four_octet_as, "four-octet AS");
    say(capabilities.route_refresh, "route refresh");
    say(capabilities.enhanced_refresh, "enhanced route refresh");
    say(capabilities.extended_message, "extended message");
    say(capabilities.extended_next_hop, "extended next hop");
    say(capabilities.graceful_restart.is_some(), "graceful restart");
    say(!capabilities.long_lived.is_empty(), "long-lived graceful restart");
    for add_path in &capabilities.add_path {
        let directions = [(add_path.send, "send"), (add_path.receive, "receive")];
        let directions: Vec<&str> = directions.into_iter().filter(|(is_so, _)| *is_so).map(|(_, word)| word).collect();
        words.push(format!("add-path {} {}", family_name(add_path.family), directions.join(" and ")));
    }
    words.extend(capabilities.role.map(|role| format!("role {}", role_name(role))));
    words.extend(capabilities.others.iter().map(|code| format!("code {code}")));
    words
}
