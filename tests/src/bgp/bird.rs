//! BIRD 2: its configuration from a `Speaker`, and what `birdc` prints as values.
//!
//! There is no kernel protocol, so nothing gets into the kernel's routes. A session is `peer_` and the address with the
//! separators replaced, see `protocol`.
//!
//! Sources: BIRD 2.0 user's guide; the output is that of 2.0.12 in Debian 12.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use config::net::{Cidr, IpVersion};

use super::{Announced, BfdSession, Origin, Peer, Route, Session, Speaker};

/// The name of the session with an address.
pub fn protocol(peer: IpAddr) -> String {
    format!("peer_{}", peer.to_string().replace(['.', ':'], "_"))
}

/// The whole configuration.
pub fn config(speaker: &Speaker, log: &str) -> String {
    let mut text = format!("log \"{log}\" all;\nrouter id {};\nprotocol device {{}}\n", speaker.router_id);
    if let Some(bfd) = speaker.bfd {
        let interval = format!("interval {} ms; multiplier {};", bfd.interval.as_millis(), bfd.multiplier);
        let _ = writeln!(text, "protocol bfd {{ interface \"*\" {{ {interval} }}; multihop {{ {interval} }}; }}");
    }
    for family in [IpVersion::V4, IpVersion::V6] {
        let routes = speaker.routes.iter().filter(|route| route.prefix.version() == family);
        let routes: String = routes.map(announced).collect();
        let _ = writeln!(text, "protocol static own_{0} {{ {0};\n{routes}}}", channel(family));
    }
    speaker.peers.iter().for_each(|peer| text += &session(speaker, peer));
    text + &speaker.more
}

fn channel(family: IpVersion) -> &'static str {
    if family == IpVersion::V4 { "ipv4" } else { "ipv6" }
}

fn announced(route: &Announced) -> String {
    let way = route.next_hop.map_or_else(|| "blackhole".to_owned(), |next_hop| format!("recursive {next_hop}"));
    let mut attributes = String::new();
    // Each goes in front of what is there.
    route.as_path.iter().rev().for_each(|number| attributes += &format!(" bgp_path.prepend({number});"));
    if let Some(med) = route.med {
        attributes += &format!(" bgp_med = {med};");
    }
    if let Some(preference) = route.local_pref {
        attributes += &format!(" bgp_local_pref = {preference};");
    }
    for (high, low) in &route.communities {
        attributes += &format!(" bgp_community.add(({high},{low}));");
    }
    for (administrator, first, second) in &route.large_communities {
        attributes += &format!(" bgp_large_community.add(({administrator},{first},{second}));");
    }
    format!("  route {} {way} {{{attributes} }};\n", route.prefix)
}

fn session(speaker: &Speaker, peer: &Peer) -> String {
    let mut text = format!("protocol bgp {} {{\n", protocol(peer.address));
    let local = peer.local_address.map_or_else(String::new, |address| address.to_string());
    let _ = writeln!(text, "  local {local} port {} as {};", speaker.port, speaker.as_number);
    let _ = writeln!(text, "  neighbor {} port {} as {};", peer.address, peer.port, peer.as_number);
    let mut line = |line: &str| text += &format!("  {line};\n");
    line(if peer.is_multihop { "multihop" } else { "direct" });
    line(&format!("hold time {}", peer.hold_time.as_secs()));
    // As quick as it goes: tests wait for it.
    line("connect delay time 1");
    line("connect retry time 1");
    line("error wait time 1, 2");
    // A peer that ends a session must not keep it from coming back.
    line("error forget time 1");
    if peer.is_passive {
        line("passive");
    }
    if peer.is_client {
        line("rr client");
    }
    if let Some(password) = &peer.password {
        line(&format!("password \"{password}\""));
    }
    if peer.ttl_security {
        line("ttl security");
    }
    if peer.bfd {
        line("bfd");
    }
    if peer.extended_messages {
        line("enable extended messages");
    }
    match peer.restart_time {
        Some(time) => line(&format!("graceful restart on; graceful restart time {}", time.as_secs())),
        None => line("graceful restart off"),
    }
    match peer.long_lived_time {
        Some(time) => line(&format!("long lived graceful restart on; long lived stale time {}", time.as_secs())),
        None => line("long lived graceful restart off"),
    }
    for family in &peer.families {
        text += &families(peer, *family);
    }
    text + "}\n"
}

fn families(peer: &Peer, family: IpVersion) -> String {
    let policy = |expression: &Option<String>| match expression {
        Some(expression) => format!("where {expression}"),
        None => "all".to_owned(),
    };
    let mut text = format!(
        "  {} {{ import {}; export {}; import table;",
        channel(family),
        policy(&peer.import_where),
        policy(&peer.export_where)
    );
    if peer.add_paths {
        text += " add paths;";
    }
    if peer.next_hop_self {
        text += " next hop self;";
    }
    if let Some(limit) = peer.import_limit {
        text += &format!(" import limit {limit} action disable;");
    }
    if family == IpVersion::V4 && peer.address.is_ipv6() {
        text += " extended next hop;";
    }
    text + " };\n"
}

/// `show route all`.
pub fn routes(text: &str) -> Vec<Route> {
    let mut routes: Vec<Route> = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if line.starts_with('\t') {
            if let (Some(route), Some((name, value))) = (routes.last_mut(), line.trim().split_once(':')) {
                attribute(route, name, value.trim());
            }
        } else if let Some(open) = line.find('[') {
            // A further path to the same prefix begins with spaces.
            let named = words.first().and_then(|word| Cidr::parse(word).ok()).filter(|_| !line.starts_with(' '));
            let Some(prefix) = named.or_else(|| routes.last().map(|route| route.prefix)) else { continue };
            routes.push(heading(prefix, &line[open..]));
        }
    }
    routes
}

/// `[peer_192_0_2_2 13:00:00.043 from 192.0.2.2] * (100s) [AS65020?]`
fn heading(prefix: Cidr, text: &str) -> Route {
    let mut route = Route::to(prefix);
    let (source, rest) = text.trim_start_matches('[').split_once(']').unwrap_or((text, ""));
    let words: Vec<&str> = source.split_whitespace().collect();
    let from = words.iter().position(|word| *word == "from").and_then(|position| words.get(position + 1));
    // Without `from`, the peer is the next hop, and its name says which.
    let name = words.first().and_then(|name| name.strip_prefix("peer_"));
    let named = name.and_then(|name| name.replace('_', ".").parse().ok().or(name.replace('_', ":").parse().ok()));
    route.from = from.and_then(|from| from.parse().ok()).or(named);
    route.is_best = rest.contains('*');
    let preference = rest.split_once('(').and_then(|(_, rest)| rest.split_once(')')).map_or("", |(inside, _)| inside);
    route.is_stale = preference.contains('s');
    route
}

fn attribute(route: &mut Route, name: &str, value: &str) {
    let lists = |value: &str| -> Vec<String> {
        let inside = value.split(['(', ')']).skip(1).step_by(2);
        inside
            .map(|numbers| numbers.split([',', ' ']).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(":"))
            .collect()
    };
    match name {
        "BGP.origin" => {
            route.origin = Some(match value {
                "IGP" => Origin::Igp,
                "EGP" => Origin::Egp,
                _ => Origin::Incomplete,
            });
        }
        "BGP.as_path" => value.clone_into(&mut route.as_path),
        // A link-local one may follow.
        "BGP.next_hop" => route.next_hop = value.split(' ').next().and_then(|word| word.parse().ok()),
        "BGP.med" => route.med = value.parse().ok(),
        "BGP.local_pref" => route.local_pref = value.parse().ok(),
        "BGP.community" => route.communities = lists(value),
        "BGP.ext_community" => route.extended_communities = lists(value),
        "BGP.large_community" => route.large_communities = lists(value),
        "BGP.originator_id" => route.originator = value.parse().ok(),
        "BGP.cluster_list" => route.cluster_list = value.split(' ').filter_map(|word| word.parse().ok()).collect(),
        _ => {}
    }
}

/// `show protocols all`: those of BGP.
pub fn sessions(text: &str) -> Vec<Session> {
    let mut sessions = Vec::new();
    // Protocols are parted by empty lines.
    for part in text.split("\n\n") {
        let field = |name: &str| {
            let line = part.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'))?;
            Some(line.trim().to_owned())
        };
        let (Some(state), Some(peer)) = (field("BGP state"), field("Neighbor address")) else { continue };
        let Some(peer) = peer.split('%').next().and_then(|address| address.parse().ok()) else { continue };
        let (mut imported, mut exported) = (0, 0);
        for line in part.lines().filter_map(|line| line.trim().strip_prefix("Routes:")) {
            imported += before(line, "imported");
            exported += before(line, "exported");
        }
        let is_established = state == "Established";
        // The line of the protocol itself: name, BGP, table, state, time of the day.
        let line = part.lines().find(|line| line.split_whitespace().nth(1) == Some("BGP")).unwrap_or_default();
        let since = line.split_whitespace().nth(4).map_or(f64::NAN, seconds_of_day);
        sessions.push(Session { peer, is_established, since, imported, exported, details: part.to_owned() });
    }
    sessions
}

/// `12:59:55.774`
fn seconds_of_day(time: &str) -> f64 {
    time.split(':').fold(0.0, |sum, part| sum * 60.0 + part.parse().unwrap_or(f64::NAN))
}

/// The number in front of a word: `2 imported, 1 filtered`.
fn before(line: &str, word: &str) -> u64 {
    let found = line.split(',').find_map(|part| part.trim().strip_suffix(word)?.trim().parse().ok());
    found.unwrap_or(0)
}

/// `show bfd sessions`.
pub fn bfd_sessions(text: &str) -> Vec<BfdSession> {
    let seconds = |word: &str| word.parse().ok().map(Duration::from_secs_f64);
    let session = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [peer, interface, state, .., interval, timeout] = words[..] else { return None };
        Some(BfdSession {
            peer: peer.parse().ok()?,
            interface: interface.to_owned(),
            is_up: state == "Up",
            interval: seconds(interval)?,
            timeout: seconds(timeout)?,
        })
    };
    text.lines().filter_map(session).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_read() {
        let text = "Table master4:\n\
            10.2.0.0/16          unreachable [peer_192_0_2_2 12:59:59.972 from 192.0.2.2] * (100) [?]\n\
            \tType: BGP univ\n\tBGP.origin: Incomplete\n\tBGP.as_path: \n\tBGP.next_hop: 192.0.2.2\n\tBGP.med: 5\n\
            \tBGP.local_pref: 200\n\tBGP.community: (65000,2) (65000,3)\n\tBGP.large_community: (65000, 3, 4)\n\
            \x20                    unreachable [peer_192_0_2_3 12:59:59.999] (100s) [AS65020?]\n\
            \tType: BGP univ\n\tBGP.as_path: 65020 {65021 65022}\n\tBGP.next_hop: 192.0.2.3\n\
            \tBGP.originator_id: 1.1.1.1\n\tBGP.cluster_list: 2.2.2.2 3.3.3.3\n";
        let routes = routes(text);
        assert_eq!(routes.len(), 2);
        let expected = Route {
            is_best: true,
            from: "192.0.2.2".parse().ok(),
            origin: Some(Origin::Incomplete),
            next_hop: "192.0.2.2".parse().ok(),
            med: Some(5),
            local_pref: Some(200),
            communities: vec!["65000:2".to_owned(), "65000:3".to_owned()],
            large_communities: vec!["65000:3:4".to_owned()],
            ..Route::to(Cidr::parse("10.2.0.0/16").unwrap())
        };
        assert_eq!(routes[0], expected);
        let expected = Route {
            from: "192.0.2.3".parse().ok(),
            next_hop: "192.0.2.3".parse().ok(),
            as_path: "65020 {65021 65022}".to_owned(),
            originator: "1.1.1.1".parse().ok(),
            cluster_list: vec!["2.2.2.2".parse().unwrap(), "3.3.3.3".parse().unwrap()],
            is_stale: true,
            ..Route::to(Cidr::parse("10.2.0.0/16").unwrap())
        };
        assert_eq!(routes[1], expected);
    }

    #[test]
    fn sessions_are_read() {
        let text = "BIRD 2.0.12 ready.\nName Proto Table State Since Info\n\
            far BGP --- up 12:59:55.774 Established\n  BGP state:          Established\n    Neighbor address: 192.0.2.2\n\
            \x20 Channel ipv4\n    Routes:         2 imported, 1 filtered, 3 exported, 1 preferred\n  Channel ipv6\n\
            \x20   Routes:         1 imported, 1 exported, 1 preferred\n\ndevice1 Device --- up 12:59:55\n";
        let sessions = sessions(text);
        assert_eq!(sessions.len(), 1);
        assert_eq!((sessions[0].is_established, sessions[0].imported, sessions[0].exported), (true, 3, 4));
        assert_eq!(sessions[0].since, 46795.774);
    }
}
