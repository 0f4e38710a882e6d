//! Policies as Calico's agent lays them out for the kernel: the text for `iptables-restore` and for `nft -f`.
//!
//! ```text
//!     raw      PREROUTING → marks, reverse path check
//!     mangle   PREROUTING → established: accept
//!     nat      PREROUTING, POSTROUTING → chains that are empty here
//!     filter   FORWARD → cali-FORWARD ─┬ in near-…  → cali-from-wl-dispatch ─goto→ cali-fw-near-a ┐
//!                                      └ out near-… → cali-to-wl-dispatch ───goto→ cali-tw-near-b ┤
//!        ┌──────────────────────────────────────────────────────────────────────────────────────┘
//!        └▶ established: accept · invalid: drop · clear marks · (from a workload: no VXLAN, no IPIP)
//!           cali-gi-… / cali-go-… one jump per policy, a look at the verdict before every fifth
//!             └▶ cali-pi-N / cali-po-N  the rule sets a mark; return
//!           accepted: return · else drop
//! ```
//!
//! What the agent does and this does as well: chains per policy and direction, policies of one selector in a group with a chain of
//! its own, verdicts carried as mark bits, dispatch by interface (a verdict map in nftables), a counter in every rule. A policy is
//! one rule here, the same as one rule of [`crate::tables::policy`]; all of them stand at A's way out and at B's way in.
//!
//! Left out: comments, IPv6, host endpoints (their chains are there and empty), the rules of kube-proxy, and IP sets, because the rules
//! have prefixes. So Calico's own cost on a node is not less than what is measured here.
//! See: projectcalico/calico, `felix/rules/`, at 3.30; the rules here are written from what it does, not taken from it.

use std::fmt::Write;

use fastpath::table::acl::{Action, RuleSpec};

use super::sets::rule_words;

/// Jumps after which the group's chain looks whether there is a verdict.
const STRIDE: usize = 5;
const ACCEPT: &str = "0x10000";
const PASS: &str = "0x20000";
const BOTH: &str = "0x30000";
const FROM_WORKLOAD: &str = "0x40000";
const ALL: &str = "0xf0000";

/// Whether connections are tracked, as always with Calico, or every packet walks the policies, which is what a first packet costs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tracking {
    Established,
    /// Tracked, and no flow is ever answered.
    New,
    Untracked,
}

/// A rule in the words of the two languages.
struct Match {
    protocol: Option<&'static str>,
    source: Option<String>,
    ports: Option<(u32, u32)>,
    action: Action,
}

fn matches(rules: &[RuleSpec]) -> Vec<Match> {
    rules
        .iter()
        .filter_map(|rule| {
            let words = rule_words(rule)?;
            let [source, length, _, _, _, _, first, last, protocol, mask] = words;
            let protocol = match (protocol, mask) {
                (_, 0) => None,
                (17, _) => Some("udp"),
                (6, _) => Some("tcp"),
                _ => return None,
            };
            Some(Match {
                protocol,
                source: (length > 0).then(|| format!("{}/{length}", std::net::Ipv4Addr::from_bits(source))),
                ports: ((first, last) != (0, 65535)).then_some((first, last)),
                action: rule.action,
            })
        })
        .collect()
}

/// For `iptables-restore`, which puts it in place at once, table by table.
pub fn iptables(rules: &[RuleSpec], tracking: Tracking) -> String {
    let mut text = String::new();
    let mut add = |line: &str| {
        text.push_str(line);
        text.push('\n');
    };
    add("*raw\n:PREROUTING ACCEPT\n:cali-PREROUTING -\n:cali-from-host-endpoint -\n-A PREROUTING -j cali-PREROUTING");
    add(&format!("-A cali-PREROUTING -j MARK --set-xmark 0x0/{ALL}"));
    add(&format!("-A cali-PREROUTING -i near-+ -j MARK --set-xmark {FROM_WORKLOAD}/{FROM_WORKLOAD}"));
    add(&format!(
        "-A cali-PREROUTING -m mark --mark {FROM_WORKLOAD}/{FROM_WORKLOAD} -m rpfilter --validmark --invert -j DROP"
    ));
    add(&format!("-A cali-PREROUTING -m mark --mark 0x0/{FROM_WORKLOAD} -j cali-from-host-endpoint"));
    add(&format!("-A cali-PREROUTING -m mark --mark {ACCEPT}/{ACCEPT} -j ACCEPT"));
    if tracking == Tracking::Untracked {
        add("-A PREROUTING -j CT --notrack");
    }
    add("COMMIT\n*mangle\n:PREROUTING ACCEPT\n:POSTROUTING ACCEPT\n:cali-PREROUTING -\n:cali-POSTROUTING -");
    add(":cali-from-host-endpoint -\n:cali-to-host-endpoint -");
    add("-A PREROUTING -j cali-PREROUTING\n-A POSTROUTING -j cali-POSTROUTING");
    add("-A cali-PREROUTING -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT");
    add(&format!("-A cali-PREROUTING -m mark --mark {ACCEPT}/{ACCEPT} -j ACCEPT"));
    add("-A cali-PREROUTING -j cali-from-host-endpoint");
    add(&format!("-A cali-PREROUTING -m mark --mark {ACCEPT}/{ACCEPT} -j ACCEPT"));
    add(&format!("-A cali-POSTROUTING -m mark --mark {ACCEPT}/{ACCEPT} -j RETURN"));
    add(&format!("-A cali-POSTROUTING -j MARK --set-xmark 0x0/{ALL}"));
    add("-A cali-POSTROUTING -m conntrack --ctstate DNAT -j cali-to-host-endpoint");
    add(&format!("-A cali-POSTROUTING -m mark --mark {ACCEPT}/{ACCEPT} -j RETURN"));
    add("COMMIT\n*nat\n:PREROUTING ACCEPT\n:POSTROUTING ACCEPT\n:cali-PREROUTING -\n:cali-POSTROUTING -");
    add(":cali-fip-dnat -\n:cali-fip-snat -\n:cali-nat-outgoing -");
    add("-A PREROUTING -j cali-PREROUTING\n-A POSTROUTING -j cali-POSTROUTING\n-A cali-PREROUTING -j cali-fip-dnat");
    add("-A cali-POSTROUTING -j cali-fip-snat\n-A cali-POSTROUTING -j cali-nat-outgoing\nCOMMIT\n*filter");
    add(":FORWARD ACCEPT\n:cali-FORWARD -\n:cali-from-hep-forward -\n:cali-to-hep-forward -\n:cali-cidr-block -");
    add(":cali-from-wl-dispatch -\n:cali-to-wl-dispatch -\n:cali-gi-group -\n:cali-go-group -");
    add("-A FORWARD -j cali-FORWARD");
    add(&format!("-A FORWARD -m mark --mark {ACCEPT}/{ACCEPT} -j ACCEPT"));
    add(&format!("-A FORWARD -j MARK --set-xmark {ACCEPT}/{ACCEPT}"));
    add("-A cali-FORWARD -j MARK --set-xmark 0x0/0xe0000");
    add(&format!("-A cali-FORWARD -m mark --mark 0x0/{ACCEPT} -j cali-from-hep-forward"));
    add("-A cali-FORWARD -i near-+ -j cali-from-wl-dispatch\n-A cali-FORWARD -o near-+ -j cali-to-wl-dispatch");
    add("-A cali-FORWARD -j cali-to-hep-forward\n-A cali-FORWARD -j cali-cidr-block");
    for near in ["near-a", "near-b"] {
        for (chain, dispatch, side, group) in
            [("fw", "from", "-i", "cali-go-group"), ("tw", "to", "-o", "cali-gi-group")]
        {
            let chain = format!("cali-{chain}-{near}");
            add(&format!(":{chain} -\n-A cali-{dispatch}-wl-dispatch {side} {near} -g {chain}"));
            add(&format!("-A {chain} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"));
            add(&format!("-A {chain} -m conntrack --ctstate INVALID -j DROP"));
            add(&format!("-A {chain} -j MARK --set-xmark 0x0/{BOTH}"));
            if dispatch == "from" {
                add(&format!("-A {chain} -p udp -m multiport --dports 4789 -j DROP\n-A {chain} -p 4 -j DROP"));
            }
            add(&format!("-A {chain} -j MARK --set-xmark 0x0/{PASS}"));
            add(&format!("-A {chain} -m mark --mark 0x0/{PASS} -j {group}"));
            add(&format!("-A {chain} -m mark --mark {ACCEPT}/{ACCEPT} -j RETURN"));
            add(&format!("-A {chain} -m mark --mark 0x0/{PASS} -j DROP\n-A {chain} -j DROP"));
        }
    }
    add("-A cali-from-wl-dispatch -j DROP\n-A cali-to-wl-dispatch -j DROP");
    for (direction, group) in [("pi", "cali-gi-group"), ("po", "cali-go-group")] {
        for (number, rule) in matches(rules).iter().enumerate() {
            let chain = format!("cali-{direction}-{number}");
            add(&format!(":{chain} -"));
            if number % STRIDE == 0 {
                if number > 0 {
                    add(&format!("-A {group} -m mark ! --mark 0x0/{BOTH} -j RETURN"));
                }
                add(&format!("-A {group} -j {chain}"));
            } else {
                add(&format!("-A {group} -m mark --mark 0x0/{BOTH} -j {chain}"));
            }
            let mut line = format!("-A {chain}");
            // Writing to a string does not fail.
            let _ = rule.protocol.map_or(Ok(()), |protocol| write!(line, " -p {protocol}"));
            let _ = rule.source.as_ref().map_or(Ok(()), |source| write!(line, " -s {source}"));
            let _ = rule.ports.map_or(Ok(()), |(first, last)| write!(line, " -m multiport --dports {first}:{last}"));
            if rule.action == Action::Allow {
                add(&format!("{line} -j MARK --set-xmark {ACCEPT}/{ACCEPT}"));
                add(&format!("-A {chain} -m mark --mark {ACCEPT}/{ACCEPT} -j RETURN"));
            } else {
                add(&format!("{line} -j DROP"));
            }
        }
    }
    add("COMMIT");
    text
}

/// For `nft -f`, which puts it in place at once.
pub fn nftables(rules: &[RuleSpec], tracking: Tracking) -> String {
    let matches = matches(rules);
    let mut text = "table ip calico {\n".to_owned();
    let chain = |text: &mut String, name: &str, rules: &[String]| {
        let _ = writeln!(text, "chain {name} {{\n{}\n}}", rules.join("\n"));
    };
    let hook = |name: &str, priority: &str, kind: &str| format!("type {kind} hook {name} priority {priority};");
    let is_set = |mark: &str| format!("meta mark & {mark} == {mark}");
    let is_clear = |mark: &str| format!("meta mark & {mark} == 0");
    let set = |mark: &str| format!("counter meta mark set meta mark | {mark}");
    let clear = |mark: u32| format!("counter meta mark set meta mark & {:#010x}", !mark);
    // Maps and the chains they name, then whoever uses the maps: a reference must be known.
    for (direction, prefix) in [("pi", "filter-cali-gi-group"), ("po", "filter-cali-go-group")] {
        let mut group = Vec::new();
        for (number, rule) in matches.iter().enumerate() {
            let name = format!("filter-cali-{direction}-{number}");
            let mut line = String::new();
            let _ = rule.source.as_ref().map_or(Ok(()), |source| write!(line, "ip saddr {source} "));
            match (rule.protocol, rule.ports) {
                (Some(protocol), None) => line.push_str(&format!("meta l4proto {protocol} ")),
                (Some(protocol), Some((first, last))) => {
                    line.push_str(&format!("meta l4proto {protocol} {protocol} dport {first}-{last} "));
                }
                (None, _) => {}
            }
            let rules = match rule.action {
                Action::Allow => vec![format!("{line}{}", set(ACCEPT)), format!("{} counter return", is_set(ACCEPT))],
                _ => vec![format!("{line}counter drop")],
            };
            chain(&mut text, &name, &rules);
            if number % STRIDE == 0 {
                if number > 0 {
                    group.push(format!("meta mark & {BOTH} != 0 counter return"));
                }
                group.push(format!("counter jump {name}"));
            } else {
                group.push(format!("{} counter jump {name}", is_clear(BOTH)));
            }
        }
        chain(&mut text, prefix, &group);
    }
    for near in ["near-a", "near-b"] {
        for (side, group) in [("fw", "filter-cali-go-group"), ("tw", "filter-cali-gi-group")] {
            let mut rules = vec![
                "ct state established,related counter accept".to_owned(),
                "ct state invalid counter drop".to_owned(),
                clear(0x30000),
            ];
            if side == "fw" {
                rules.push("meta l4proto udp udp dport 4789 counter drop".to_owned());
                rules.push("meta l4proto 4 counter drop".to_owned());
            }
            rules.extend([
                clear(0x20000),
                format!("{} counter jump {group}", is_clear(PASS)),
                format!("{} counter return", is_set(ACCEPT)),
                format!("{} counter drop", is_clear(PASS)),
                "counter drop".to_owned(),
            ]);
            chain(&mut text, &format!("filter-cali-{side}-{near}"), &rules);
        }
    }
    for side in ["fw", "tw"] {
        let _ = writeln!(
            text,
            "map filter-cali-{side}-dispatch {{ type ifname : verdict; elements = {{ \
             near-a : goto filter-cali-{side}-near-a, near-b : goto filter-cali-{side}-near-b }}; }}"
        );
    }
    let dispatch =
        |field: &str, side: &str| vec![format!("{field} vmap @filter-cali-{side}-dispatch"), "counter drop".to_owned()];
    chain(&mut text, "filter-cali-from-wl-dispatch", &dispatch("iifname", "fw"));
    chain(&mut text, "filter-cali-to-wl-dispatch", &dispatch("oifname", "tw"));
    for name in [
        "filter-cali-from-hep-forward",
        "filter-cali-to-hep-forward",
        "filter-cali-cidr-block",
        "raw-cali-from-host-endpoint",
        "mangle-cali-from-host-endpoint",
        "mangle-cali-to-host-endpoint",
        "nat-cali-fip-dnat",
        "nat-cali-fip-snat",
        "nat-cali-nat-outgoing",
    ] {
        chain(&mut text, name, &[]);
    }
    chain(
        &mut text,
        "filter-cali-FORWARD",
        &[
            clear(0xe0000),
            format!("{} counter jump filter-cali-from-hep-forward", is_clear(ACCEPT)),
            "iifname \"near-*\" counter jump filter-cali-from-wl-dispatch".to_owned(),
            "oifname \"near-*\" counter jump filter-cali-to-wl-dispatch".to_owned(),
            "counter jump filter-cali-to-hep-forward".to_owned(),
            "counter jump filter-cali-cidr-block".to_owned(),
        ],
    );
    chain(
        &mut text,
        "filter-FORWARD",
        &[
            hook("forward", "filter", "filter"),
            "counter jump filter-cali-FORWARD".to_owned(),
            format!("{} counter accept", is_set(ACCEPT)),
            set(ACCEPT),
        ],
    );
    let mut raw = vec![
        hook("prerouting", "raw", "filter"),
        clear(0xf0000),
        format!("iifname \"near-*\" {}", set(FROM_WORKLOAD)),
        format!("{} fib saddr . mark . iif oif 0 counter drop", is_set(FROM_WORKLOAD)),
        format!("{} counter jump raw-cali-from-host-endpoint", is_clear(FROM_WORKLOAD)),
        format!("{} counter accept", is_set(ACCEPT)),
    ];
    if tracking == Tracking::Untracked {
        raw.push("counter notrack".to_owned());
    }
    chain(&mut text, "raw-PREROUTING", &raw);
    chain(
        &mut text,
        "mangle-PREROUTING",
        &[
            hook("prerouting", "mangle", "filter"),
            "ct state established,related counter accept".to_owned(),
            format!("{} counter accept", is_set(ACCEPT)),
            "counter jump mangle-cali-from-host-endpoint".to_owned(),
            format!("{} counter accept", is_set(ACCEPT)),
        ],
    );
    chain(
        &mut text,
        "mangle-POSTROUTING",
        &[
            hook("postrouting", "mangle", "filter"),
            format!("{} counter return", is_set(ACCEPT)),
            clear(0xf0000),
            "ct status dnat counter jump mangle-cali-to-host-endpoint".to_owned(),
            format!("{} counter return", is_set(ACCEPT)),
        ],
    );
    chain(
        &mut text,
        "nat-PREROUTING",
        &[hook("prerouting", "dstnat", "nat"), "counter jump nat-cali-fip-dnat".to_owned()],
    );
    chain(
        &mut text,
        "nat-POSTROUTING",
        &[
            hook("postrouting", "srcnat", "nat"),
            "counter jump nat-cali-fip-snat".to_owned(),
            "counter jump nat-cali-nat-outgoing".to_owned(),
        ],
    );
    text.push_str("}\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables;

    #[test]
    fn a_policy_is_a_chain_of_each_direction() {
        let spec = tables::policy(12);
        let lines = iptables(&spec.blocks[0], Tracking::Established);
        let lines: Vec<&str> = lines.lines().collect();
        for chain in [
            ":cali-pi-0 -",
            ":cali-po-11 -",
            "-A cali-go-group -j cali-po-5",
            "-A cali-pi-11 -j MARK --set-xmark 0x10000/0x10000",
        ] {
            assert!(lines.contains(&chain), "{chain}");
        }
        assert_eq!(lines.iter().filter(|line| line.contains("0x0/0x30000 -j RETURN")).count(), 4);
        assert!(!lines.iter().any(|line| line.contains("notrack")));
    }

    #[test]
    fn both_languages_say_the_same_rules() {
        let rules = &tables::policy(50).blocks[0];
        let (iptables, nftables) = (iptables(rules, Tracking::Untracked), nftables(rules, Tracking::Untracked));
        for rule in matches(rules) {
            let source = rule.source.unwrap_or_default();
            assert!(iptables.contains(&source) && nftables.contains(&source));
        }
        assert!(iptables.contains("notrack") && nftables.contains("notrack"));
    }
}
