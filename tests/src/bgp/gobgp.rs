//! GoBGP: its configuration from a `Speaker`, and what `gobgp -j` prints as values.
//!
//! Routes of its own are not in the configuration, they are added by its tool. What BIRD alone has is left out: BFD, filters as
//! expressions, extended messages.
//!
//! Sources: GoBGP's docs/sources/configuration.md; the output is that of 3.10 in Debian 12.

use std::fmt::Write as _;
use std::net::IpAddr;

use config::net::{Cidr, IpVersion};
use serde_json::Value;

use super::{Announced, Origin, Peer, Route, Session, Speaker};

/// The name of a family.
pub fn family(family: IpVersion) -> &'static str {
    if family == IpVersion::V4 { "ipv4" } else { "ipv6" }
}

/// The whole configuration.
pub fn config(speaker: &Speaker) -> String {
    let mut text = format!(
        "[global.config]\n  as = {}\n  router-id = \"{}\"\n  port = {}\n",
        speaker.as_number, speaker.router_id, speaker.port
    );
    speaker.peers.iter().for_each(|peer| text += &session(speaker, peer));
    text + &speaker.more
}

fn session(speaker: &Speaker, peer: &Peer) -> String {
    let mut text = "[[neighbors]]\n".to_owned();
    let mut section = |name: &str, lines: &[String]| {
        if !lines.is_empty() {
            let _ = writeln!(text, "  [neighbors.{name}]\n    {}", lines.join("\n    "));
        }
    };
    let mut own = vec![format!("neighbor-address = \"{}\"", peer.address), format!("peer-as = {}", peer.as_number)];
    own.extend(peer.password.iter().map(|password| format!("auth-password = \"{password}\"")));
    section("config", &own);
    let mut transport = vec![format!("remote-port = {}", peer.port), format!("passive-mode = {}", peer.is_passive)];
    transport.extend(peer.local_address.iter().map(|address| format!("local-address = \"{address}\"")));
    section("transport.config", &transport);
    let hold = peer.hold_time.as_secs();
    let timers =
        ["connect-retry = 1".to_owned(), format!("hold-time = {hold}"), format!("keepalive-interval = {}", hold / 3)];
    section("timers.config", &[&timers[..], &["idle-hold-time-after-reset = 1".to_owned()]].concat());
    if peer.is_client {
        let cluster = format!("route-reflector-cluster-id = \"{}\"", speaker.router_id);
        section("route-reflector.config", &["route-reflector-client = true".to_owned(), cluster]);
    }
    if peer.ttl_security {
        section("ttl-security.config", &["enabled = true".to_owned(), "ttl-min = 255".to_owned()]);
    }
    if peer.is_multihop {
        section("ebgp-multihop.config", &["enabled = true".to_owned(), "multihop-ttl = 64".to_owned()]);
    }
    if let Some(time) = peer.restart_time {
        let mut lines = vec!["enabled = true".to_owned(), "notification-enabled = true".to_owned()];
        lines.push(format!("restart-time = {}", time.as_secs()));
        lines.push(format!("long-lived-enabled = {}", peer.long_lived_time.is_some()));
        section("graceful-restart.config", &lines);
    }
    peer.families.iter().for_each(|version| text += &families(peer, *version));
    text
}

fn families(peer: &Peer, version: IpVersion) -> String {
    let name = family(version);
    let mut text = format!(
        "  [[neighbors.afi-safis]]\n    [neighbors.afi-safis.config]\n      afi-safi-name = \"{name}-unicast\"\n"
    );
    let mut section = |name: &str, lines: String| text += &format!("    [neighbors.afi-safis.{name}]\n      {lines}\n");
    if peer.restart_time.is_some() {
        section("mp-graceful-restart.config", "enabled = true".to_owned());
    }
    if let Some(time) = peer.long_lived_time {
        section(
            "long-lived-graceful-restart.config",
            format!("enabled = true\n      restart-time = {}", time.as_secs()),
        );
    }
    if peer.add_paths {
        section("add-paths.config", "receive = true\n      send-max = 8".to_owned());
    }
    if let Some(limit) = peer.import_limit {
        section("prefix-limit.config", format!("max-prefixes = {limit}"));
    }
    text
}

/// The words that add a route.
pub fn add(route: &Announced, next_hop: IpAddr) -> Vec<String> {
    let joined = |parts: Vec<String>| parts.join(",");
    let mut words = vec!["global".to_owned(), "rib".to_owned(), "add".to_owned(), "-a".to_owned()];
    words.extend([family(route.prefix.version()).to_owned(), route.prefix.to_string()]);
    let mut option = |name: &str, value: String| words.extend([name.to_owned(), value]);
    option("origin", "igp".to_owned());
    option("nexthop", next_hop.to_string());
    if !route.as_path.is_empty() {
        // In quotes there it would be one word of a shell; here it is one word already.
        option("aspath", joined(route.as_path.iter().map(ToString::to_string).collect()));
    }
    if let Some(med) = route.med {
        option("med", med.to_string());
    }
    if let Some(preference) = route.local_pref {
        option("local-pref", preference.to_string());
    }
    if !route.communities.is_empty() {
        option("community", joined(route.communities.iter().map(|(high, low)| format!("{high}:{low}")).collect()));
    }
    if !route.large_communities.is_empty() {
        let text = route
            .large_communities
            .iter()
            .map(|(administrator, first, second)| format!("{administrator}:{first}:{second}"));
        option("large-community", joined(text.collect()));
    }
    words
}

/// `global rib -j`: an object of lists, by prefix.
pub fn routes(value: &Value) -> Vec<Route> {
    let all = value.as_object().into_iter().flatten();
    all.flat_map(|(prefix, paths)| paths.as_array().into_iter().flatten().filter_map(|path| route(prefix, path)))
        .collect()
}

fn route(prefix: &str, path: &Value) -> Option<Route> {
    let mut route = Route::to(Cidr::parse(prefix).ok()?);
    route.is_best = path["best"].as_bool()?;
    route.is_stale = path["stale"].as_bool().unwrap_or(false);
    route.from = text(&path["neighbor-ip"]);
    for attribute in path["attrs"].as_array()? {
        let number = |value: &Value| value.as_u64().and_then(|number| u32::try_from(number).ok());
        let value = &attribute["value"];
        match attribute["type"].as_u64()? {
            1 => {
                route.origin = Some(
                    [Origin::Igp, Origin::Egp][..].get(value.as_u64()? as usize).copied().unwrap_or(Origin::Incomplete),
                )
            }
            2 => route.as_path = as_path(attribute["as_paths"].as_array()?),
            // As an attribute of its own, or with the prefixes.
            3 | 14 => route.next_hop = text(&attribute["nexthop"]),
            4 => route.med = number(&attribute["metric"]),
            5 => route.local_pref = number(value),
            8 => {
                let all = attribute["communities"].as_array()?.iter().filter_map(number);
                route.communities =
                    all.map(|community| format!("{}:{}", community >> 16, community & 0xffff)).collect();
            }
            9 => route.originator = text(value),
            10 => route.cluster_list = value.as_array()?.iter().filter_map(text).collect(),
            16 => {
                let all = value.as_array()?.iter().filter_map(|community| community["value"].as_str());
                route.extended_communities = all.map(ToOwned::to_owned).collect();
            }
            32 => {
                let parts = ["ASN", "LocalData1", "LocalData2"];
                let large = |value: &Value| parts.map(|part| value[part].to_string()).join(":");
                route.large_communities = value.as_array()?.iter().map(large).collect();
            }
            _ => {}
        }
    }
    Some(route)
}

fn text<T: std::str::FromStr>(value: &Value) -> Option<T> {
    value.as_str()?.parse().ok()
}

/// Segments in the words of BIRD: a set in braces, in order of appearance.
fn as_path(segments: &[Value]) -> String {
    let segment = |segment: &Value| {
        let numbers = segment["asns"].as_array().into_iter().flatten().map(ToString::to_string);
        let numbers = numbers.collect::<Vec<_>>().join(" ");
        if segment["segment_type"] == 1 { format!("{{{numbers}}}") } else { numbers }
    };
    segments.iter().map(segment).collect::<Vec<_>>().join(" ")
}

/// `neighbor X adj-in`: numbers of paths, which are in the table for people alone.
pub fn path_ids(text: &str) -> Vec<(Cidr, u32)> {
    let row = |line: &str| {
        let mut words = line.split_whitespace();
        let number = words.next()?.parse().ok()?;
        Some((Cidr::parse(words.next()?).ok()?, number))
    };
    text.lines().filter_map(row).collect()
}

/// `neighbor -j`.
pub fn sessions(value: &Value) -> Vec<Session> {
    let session = |neighbour: &Value| {
        let families = || neighbour["afi_safis"].as_array().into_iter().flatten();
        let sum = |name: &str| families().filter_map(|family| family["state"][name].as_u64()).sum();
        Some(Session {
            peer: text(&neighbour["conf"]["neighbor_address"])
                .or_else(|| text(&neighbour["state"]["neighbor_address"]))?,
            // PeerState_ESTABLISHED.
            is_established: neighbour["state"]["session_state"] == 6,
            since: neighbour["timers"]["state"]["uptime"]["seconds"].as_f64().unwrap_or(f64::NAN),
            imported: sum("accepted"),
            exported: sum("advertised"),
            details: neighbour.to_string(),
        })
    };
    value.as_array().into_iter().flatten().filter_map(session).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn routes_are_read() {
        let value = json!({"10.1.0.0/16": [{"nlri": {"prefix": "10.1.0.0/16"}, "age": 1, "best": true, "attrs": [
            {"type": 1, "value": 0},
            {"type": 2, "as_paths": [{"segment_type": 2, "num": 1, "asns": [65011]}, {"segment_type": 1, "num": 2, "asns": [7, 8]}]},
            {"type": 3, "nexthop": "192.0.2.1"}, {"type": 4, "metric": 50}, {"type": 5, "value": 100},
            {"type": 8, "communities": [4_259_840_001_u32]}, {"type": 16, "value": [{"type": 0, "subtype": 2, "value": "65000:7"}]},
            {"type": 32, "value": [{"ASN": 65000, "LocalData1": 1, "LocalData2": 2}]}],
            "stale": false, "source-id": "192.0.2.1", "neighbor-ip": "192.0.2.1"}]});
        let expected = Route {
            is_best: true,
            from: "192.0.2.1".parse().ok(),
            origin: Some(Origin::Igp),
            next_hop: "192.0.2.1".parse().ok(),
            as_path: "65011 {7 8}".to_owned(),
            med: Some(50),
            local_pref: Some(100),
            communities: vec!["65000:1".to_owned()],
            extended_communities: vec!["65000:7".to_owned()],
            large_communities: vec!["65000:1:2".to_owned()],
            ..Route::to(Cidr::parse("10.1.0.0/16").unwrap())
        };
        assert_eq!(routes(&value), vec![expected]);
    }

    #[test]
    fn numbers_of_paths_are_read() {
        let text = "   ID  Network   Next Hop  AS_PATH  Age  Attrs\n   3   10.1.0.0/16   192.0.2.1   00:00:44   [{Origin: i}]\n";
        assert_eq!(path_ids(text), vec![(Cidr::parse("10.1.0.0/16").unwrap(), 3)]);
    }
}
