//! The command line: arguments, tables and exit statuses, without a daemon.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;

use clap::CommandFactory;
use config::resource::Resource;
use control::http::views::{TraceTransport, WriteOutcome, WriteView};
use serde_json::json;
use tempfile::TempDir;

use super::error::CliError;
use super::input::{self, Walk};
use super::render::{self, Table, harmless};
use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split(' '))
}

#[test]
fn the_tree_of_commands_is_sound_and_has_examples() {
    let command = Cli::command();
    command.clone().debug_assert();
    for command in command.get_subcommands() {
        let help = command.get_after_help().expect("an example").to_string();
        assert!(help.starts_with("Example"), "{}", command.get_name());
        for line in help.lines().filter(|line| line.starts_with("  vrouter")) {
            let line = line.trim().split(" < ").next().unwrap();
            parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }
}

#[test]
fn lines_people_type() {
    let check = |line: &str, is_right: bool| {
        assert_eq!(parse(line).is_ok(), is_right, "{line}");
    };
    check("vrouter get gnp", true);
    check("vrouter get gnp -o wide -A", true);
    check("vrouter get -f policy.yaml -o yaml", true);
    check("vrouter get", false);
    check("vrouter delete gnp", false);
    check("vrouter delete gnp a b -s", true);
    check("vrouter delete -f x.yaml --skip-not-exists", true);
    check("vrouter delete gnp a -f x.yaml", false);
    check("vrouter apply", false);
    check("vrouter apply -f x --dry-run", true);
    check("vrouter apply -f x --dry-run=client --confirm 5m", true);
    check("vrouter apply -f x --dry-run=never", false);
    check("vrouter apply -f x --confirm 2h", false);
    check("vrouter get gnp -o custom-columns=NAME,A:.spec.order", true);
    check("vrouter get gnp -o custom-columns=", false);
    check("vrouter get gnp -o go-template={{.}}", false);
    check("vrouter patch gnp web", false);
    check("vrouter patch gnp web -p {} -t json", true);
    check("vrouter label node n1 a=b --overwrite --remove", false);
    check("vrouter undo 12 --force", true);
    check("vrouter history show twelve", false);
    check("vrouter apply -R -f a -f b", true);
    check("vrouter --socket /x show if -w", true);
    check("vrouter show arp --address fe80::1", true);
    check("vrouter show nonsense", false);
    check("vrouter trace --from a/b --src 10.0.0.1 --dst 10.0.0.2 --icmp echo --ttl 1", true);
    check("vrouter trace --from a/b --src 10.0.0.1 --dst 10.0.0.2", false);
    check("vrouter trace --from a/b --src 10.0.0.1 --dst 10.0.0.2 --tcp 1 --udp 2", false);
    check("vrouter trace --from a/b --src 10.0.0.1 --dst 10.0.0.2 --tcp 0", false);
    check("vrouter trace --from a/b --src 10.0.0.1 --dst 10.0.0.2 --proto 256", false);
}

#[test]
fn settings_are_flags() {
    let line = "vrouter run --node n1 --uplinks eth0 --uplink eth1,eth2 --workers 0,1 --socket /run/x.sock";
    let Cli { command: Command::Run(mut arguments), global } = parse(line).unwrap() else {
        panic!("not run");
    };
    arguments.settings.default_socket(global.socket.as_deref());
    let flags: Vec<_> = arguments.settings.iter().collect();
    let expected =
        [("node-name", "n1"), ("uplinks", "eth0,eth1,eth2"), ("workers", "0,1"), ("api-socket", "/run/x.sock")];
    assert_eq!(flags, expected);
    let loaded = config::settings::Settings::load("host", None, [], flags);
    assert_eq!(loaded.unwrap().uplinks, ["eth0", "eth1", "eth2"]);
}

#[test]
fn the_result_line_is_calicoctls() {
    let view =
        |kind: &str, outcome| WriteView { kind: kind.to_string(), namespace: None, name: "a".to_string(), outcome };
    let check = |views: &[WriteView], dry_run, expected: &str| {
        assert_eq!(apply::summary("apply", "applied", views, dry_run), format!("{expected}\n"));
    };
    let (created, same) = (WriteOutcome::Created, WriteOutcome::Unchanged);
    let policy = |outcome| view("GlobalNetworkPolicy", outcome);
    let (three, two) = ([policy(created), policy(created), policy(created)], [policy(same), policy(same)]);
    check(&three, false, "Successfully applied 3 'GlobalNetworkPolicy' resource(s)");
    check(&two, false, "Successfully applied 2 'GlobalNetworkPolicy' resource(s)");
    check(&[policy(same), view("Tier", created)], false, "Successfully applied 2 resource(s)");
    check(&three, true, "Dry run: would apply 3 'GlobalNetworkPolicy' resource(s)");
    check(&[], false, "Successfully applied 0 resource(s)");
}

#[test]
fn tables_are_aligned_and_harmless() {
    let mut table = Table::new(["NAME", "PACKETS"]);
    table.row(["web".to_string(), "7".to_string()]);
    table.row(["\u{1b}[2Jx".to_string(), "12345".to_string()]);
    table.row([String::new(), String::new()]);
    let expected = "\
NAME         PACKETS
web                7
\\u{1b}[2Jx     12345
-                  -
";
    assert_eq!(table.text(), expected);
}

#[test]
fn nothing_a_terminal_obeys_gets_through() {
    assert_eq!(harmless("a\u{9b}31m\r\n\u{202e}é"), "a\\u{9b}31m\\r\\n\\u{202e}é");
    for format in [Format::Json, Format::Yaml] {
        let value = json!({ "name": "a\u{1b}[0m\u{9b}\u{202e}\u{7f}" });
        let text = render::structured(format, &value).unwrap().unwrap();
        assert!(text.chars().all(|letter| letter == '\n' || (' '..='~').contains(&letter)), "{text:?}");
        let read: serde_json::Value = match format {
            Format::Json => serde_json::from_str(&text).unwrap(),
            _ => serde_saphyr::from_str(&text).unwrap(),
        };
        assert_eq!(read, value);
    }
}

#[test]
fn ports_of_a_trace() {
    let request = |ports: &str| {
        let line = format!("vrouter trace --from a/b --src 10.0.0.1 --dst 10.0.0.2 --tcp {ports}");
        let Command::Trace(arguments) = parse(&line).unwrap().command else {
            panic!("not trace");
        };
        trace::request(&arguments).unwrap().transport
    };
    let tcp = |source_port, destination_port| TraceTransport::Tcp { source_port, destination_port };
    assert_eq!(request("80"), tcp(40_000, 80));
    assert_eq!(request("80:1234"), tcp(1234, 80));

    let line = "vrouter trace --from a/b --src 10.0.0.1 --dst fe80::1 --proto 47";
    let Command::Trace(arguments) = parse(line).unwrap().command else {
        panic!("not trace");
    };
    assert!(matches!(trace::request(&arguments), Err(CliError::Usage(_))));
}

const PROFILE: &str = "apiVersion: projectcalico.org/v3\nkind: Profile\nmetadata:\n  name: ";

fn read(folder: &TempDir, names: &[&str], recursive: bool) -> Result<Vec<String>, CliError> {
    let files: Vec<_> = names.iter().map(|name| folder.path().join(name)).collect();
    let resources = input::read(&files, Walk { recursive, skip_empty: false })?;
    Ok(resources.iter().map(|resource| resource.metadata().name.clone()).collect())
}

#[test]
fn manifests_come_from_files_and_folders() {
    let folder = TempDir::new().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    fs::create_dir_all(folder.path().join("all/below")).unwrap();
    fs::create_dir(folder.path().join("none")).unwrap();
    write("all/b.yaml", &format!("{PROFILE}b\n---\n{PROFILE}c\n"));
    write("all/a.json", r#"{"apiVersion":"projectcalico.org/v3","kind":"Profile","metadata":{"name":"a"}}"#);
    write("all/notes.txt", "not: [a manifest");
    write("all/below/d.yml", &format!("{PROFILE}d\n"));
    write("broken.yaml", &format!("{PROFILE}e\nspec:\n  colour: red\n"));
    write("worse.yaml", "kind: [");

    assert_eq!(read(&folder, &["all"], false).unwrap(), ["a", "b", "c"]);
    assert_eq!(read(&folder, &["all"], true).unwrap(), ["a", "b", "c", "d"]);
    assert_eq!(read(&folder, &["all/below/d.yml"], false).unwrap(), ["d"]);
    assert!(matches!(read(&folder, &["none"], true), Err(CliError::Empty { .. })));
    let missing = read(&folder, &["missing.yaml"], false).unwrap_err();
    assert_eq!(missing.exit_status(), 3);

    // Both files' problems at once, each with its place.
    let error = read(&folder, &["all", "broken.yaml", "worse.yaml"], false).unwrap_err();
    assert_eq!(error.exit_status(), 2);
    let CliError::Manifest(problems) = error else {
        panic!("{error}");
    };
    assert!(problems[0].to_string().contains("broken.yaml:6:3: "), "{}", problems[0]);
    assert!(problems.last().unwrap().source_name.ends_with("worse.yaml"));
}

#[test]
fn a_policy_that_only_logs_is_pointed_out() {
    let policy = |actions: &[&str]| {
        let rules: Vec<_> = actions.iter().map(|action| json!({ "action": action })).collect();
        Resource::from_json(&json!({
            "apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy",
            "metadata": { "name": "p" }, "spec": { "egress": rules },
        }))
        .unwrap()
    };
    let warnings = input::warnings(&[policy(&["Log"]), policy(&["Log", "Deny"]), policy(&[])]);
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].starts_with("GlobalNetworkPolicy p: every egress rule only logs"), "{}", warnings[0]);
}

#[test]
fn nothing_found_still_has_headings() {
    assert_eq!(columns::tables(Some(Kind::Tier), &[], false, false), "NAME   ORDER\n");
}

#[test]
fn numbers_are_as_people_write_them() {
    let mut value = json!({ "order": 10.0, "list": [0.5, -3.0, 1e300], "count": 7 });
    render::shorten_numbers(&mut value);
    assert_eq!(value, json!({ "order": 10, "list": [0.5, -3, 1e300], "count": 7 }));
}

#[test]
fn columns_are_calicoctls() {
    let check = |item: serde_json::Value, is_wide, with_namespace, expected: &[&str]| {
        let mut item = item;
        item["apiVersion"] = json!("projectcalico.org/v3");
        let text = columns::tables(None, &[item], is_wide, with_namespace);
        let lines: Vec<String> =
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(lines, expected);
    };
    let policy = json!({
        "kind": "NetworkPolicy", "metadata": { "name": "web", "namespace": "shop" },
        "spec": { "tier": "security", "order": 10, "selector": "role == 'web'" },
    });
    check(policy.clone(), false, false, &["NAME TIER", "web security"]);
    let wide = ["NAMESPACE NAME TIER ORDER SELECTOR", "shop web security 10 role == 'web'"];
    check(policy, true, true, &wide);
    let endpoint = json!({
        "kind": "WorkloadEndpoint", "metadata": { "name": "n1-k8s-web-eth0", "namespace": "shop" },
        "spec": { "pod": "web", "node": "n1", "interfaceName": "cali1", "ipNetworks": ["10.0.0.1/32", "10.0.0.2/32"] },
    });
    check(endpoint, false, false, &["WORKLOAD NODE NETWORKS INTERFACE", "web n1 10.0.0.1/32,10.0.0.2/32 cali1"]);
    let pool = json!({ "kind": "IPPool", "metadata": { "name": "main" }, "spec": { "cidr": "10.0.0.0/16" } });
    check(pool, false, false, &["NAME CIDR SELECTOR", "main 10.0.0.0/16 all()"]);
    check(json!({ "kind": "Node", "metadata": { "name": "n1" } }), true, false, &["NAME ASN IPV4 IPV6", "n1 - - -"]);
}
