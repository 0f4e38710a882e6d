//! The command line end to end: the binary, a socket, a store; no packets and no rights needed.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod codes;
mod stand;

use serde_json::Value;
use stand::Stand;

const POLICY: &str = "\
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata:
  name: web
  labels: {team: a}
spec:
  order: 10
  selector: app == 'web'
  ingress:
  - action: Allow
    protocol: TCP
    destination: {ports: [80]}
";

const TIER: &str = "\
apiVersion: projectcalico.org/v3
kind: Tier
metadata: {name: security}
spec: {order: 5}
";

fn both() -> String {
    format!("{POLICY}---\n{TIER}")
}

#[test]
fn writes_say_what_calicoctl_says_and_what_is_unchanged() {
    let stand = Stand::new();
    stand.write("both.yaml", &both());
    stand.write("policy.yaml", POLICY);
    stand.check(&["apply", "-f", "both.yaml", "--dry-run=client"], 0, "Dry run (client): would apply 2 resource(s)\n");
    stand.check(&["apply", "-f", "both.yaml", "--dry-run"], 0, "Dry run: would apply 2 resource(s)\n");
    stand.check(&["get", "gnp"], 0, "NAME   TIER\n");
    stand.check(&["create", "-f", "policy.yaml"], 0, "Successfully created 1 'GlobalNetworkPolicy' resource(s)\n");
    assert_eq!(stand.code(&["create", "-f", "policy.yaml"], 4), "VR1202");
    stand.check(
        &["apply", "-f", "both.yaml"],
        0,
        "Successfully applied 2 resource(s)\n  unchanged  GlobalNetworkPolicy web\n",
    );
    stand.check(&["create", "-f", "both.yaml", "--skip-exists"], 0, "Successfully created 0 resource(s)\n");
    stand.check(
        &["replace", "-f", "policy.yaml"],
        0,
        "Successfully replaced 1 'GlobalNetworkPolicy' resource(s)\n  unchanged  GlobalNetworkPolicy web\n",
    );
    stand.check(&["delete", "-f", "both.yaml"], 0, "Successfully deleted 2 resource(s)\n");
    assert_eq!(stand.code(&["delete", "-f", "both.yaml"], 3), "VR1201");
    stand.check(&["delete", "gnp", "web", "-s"], 0, "Successfully deleted 0 resource(s)\n");
    let ran = stand.run_with_input(&["apply", "-f", "-"], TIER);
    assert_eq!((ran.status, ran.stdout.as_str()), (0, "Successfully applied 1 'Tier' resource(s)\n"));
}

#[test]
fn an_apply_is_all_or_none() {
    let stand = Stand::new();
    stand.write("a.yaml", TIER);
    stand.write("b.yaml", &TIER.replace("security}", "other, resourceVersion: \"77\"}"));
    let ran = stand.run(&["replace", "-f", "a.yaml", "-f", "b.yaml"]);
    assert_eq!(ran.status, 3);
    stand.check(&["apply", "-f", "a.yaml"], 0, "Successfully applied 1 'Tier' resource(s)\n");
    stand.write("a.yaml", &TIER.replace("5", "6"));
    assert_eq!(stand.run(&["replace", "-f", "a.yaml", "-f", "b.yaml"]).status, 3);
    stand.check(&["get", "tier"], 0, "NAME       ORDER\nsecurity       5\n");
}

#[test]
fn get_has_every_form() {
    let stand = Stand::new();
    stand.write("both.yaml", &both());
    stand.write(
        "set.yaml",
        "apiVersion: projectcalico.org/v3\nkind: NetworkSet\nmetadata: {name: s}\nspec: {nets: [10.0.0.0/8]}\n",
    );
    assert_eq!(stand.run(&["apply", "-f", "both.yaml"]).status, 0);
    assert_eq!(stand.run(&["apply", "-f", "set.yaml", "-n", "shop"]).status, 0);
    stand.check(
        &["get", "gnp", "-o", "wide"],
        0,
        "NAME   TIER      ORDER   SELECTOR\nweb    default      10   app == 'web'\n",
    );
    stand.check(&["get", "netsets"], 0, "NAME\n");
    stand.check(&["get", "netsets", "-A"], 0, "NAMESPACE   NAME\nshop        s\n");
    stand.check(&["get", "netsets", "-a", "-o", "wide"], 0, "NAMESPACE   NAME   NETS\nshop        s      10.0.0.0/8\n");
    stand.check(
        &["get", "gnp", "web", "-o", "custom-columns=NAME,SELECTOR,PORT:.spec.ingress[0].destination.ports"],
        0,
        "NAME   SELECTOR       PORT\nweb    app == 'web'     80\n",
    );
    let ran = stand.run(&["get", "gnp", "-o", "custom-columns=NAME,COLOUR"]);
    assert_eq!(ran.status, 2);
    assert!(ran.stderr.starts_with("error[VR1001]: unknown column \"COLOUR\""), "{}", ran.stderr);
    let ran = stand.run(&["get", "gnp", "-o", "go-template={{.}}"]);
    assert_eq!(ran.status, 2);
    assert!(ran.stderr.starts_with("error[VR1006]: ") && ran.stderr.contains("-o json and jq"), "{}", ran.stderr);

    let ran = stand.run(&["get", "gnp", "web", "-o", "json", "--export"]);
    let object: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(
        object["metadata"],
        serde_json::json!({ "name": "web", "labels": { "team": "a", "projectcalico.org/tier": "default" } })
    );
    let ran = stand.run(&["get", "-f", "both.yaml", "-o", "yaml"]);
    assert!(ran.stdout.starts_with("apiVersion: v1\n") && ran.stdout.contains("kind: List"), "{}", ran.stdout);
    let ran = stand.run(&["get", "gnp", "wep"]);
    assert_eq!(ran.stderr, "error[VR1201]: GlobalNetworkPolicy wep not found; did you mean web?\n");
    let ran = stand.run(&["get", "networkset", "s"]);
    assert_eq!(ran.stderr, "error[VR1201]: NetworkSet default/s not found; there is one in namespace shop\n");
}

#[test]
fn patches_of_all_types() {
    let stand = Stand::new();
    stand.write("policy.yaml", POLICY);
    assert_eq!(stand.run(&["apply", "-f", "policy.yaml"]).status, 0);
    let order = || stand.run(&["get", "gnp", "web", "-o", "custom-columns=O:.spec.order"]).stdout;
    let patched = "Successfully patched 1 'GlobalNetworkPolicy' resource\n";
    stand.check(&["patch", "gnp", "web", "-p", "{\"spec\":{\"order\":20}}"], 0, patched);
    assert_eq!(order(), " O\n20\n");
    stand.check(&["patch", "gnp", "web", "-p", "spec: {order: null}", "-t", "merge"], 0, patched);
    assert_eq!(order(), "O\n-\n");
    let operations = r#"[{"op":"add","path":"/spec/order","value":7},{"op":"test","path":"/spec/order","value":7}]"#;
    stand.check(&["patch", "gnp", "web", "-t", "json", "-p", operations], 0, patched);
    assert_eq!(order(), "O\n7\n");
    stand.check(
        &[
            "patch",
            "gnp",
            "web",
            "-p",
            "{\"spec\":{\"ingress\":[{\"action\":\"Deny\"}],\"order\":{\"$patch\":\"delete\"}}}",
        ],
        0,
        patched,
    );
    let ran =
        stand.run(&["get", "gnp", "web", "-o", "custom-columns=A:.spec.ingress[0].action,B:.spec.ingress[0].protocol"]);
    assert_eq!(ran.stdout, "A      B\nDeny   -\n");
    for (kind, patch) in [
        ("json", r#"[{"op":"remove","path":"/spec/colour"}]"#),
        ("json", "{}"),
        ("merge", "[1]"),
        ("strategic", "{\"spec\":{\"$setElementOrder/x\":[]}}"),
        ("strategic", "{\"metadata\":{\"name\":\"other\"}}"),
        ("merge", "{{"),
    ] {
        assert_eq!(stand.code(&["patch", "gnp", "web", "-t", kind, "-p", patch], 2), "VR1107", "{patch}");
    }
    assert_eq!(stand.code(&["patch", "gnp", "web", "-p", "{\"spec\":{\"colour\":1}}"], 2), "VR1100");
    assert_eq!(
        stand.code(
            &["patch", "gnp", "web", "-p", "{\"metadata\":{\"resourceVersion\":\"1\"},\"spec\":{\"order\":1}}"],
            4
        ),
        "VR1203"
    );
}

#[test]
fn labels_are_set_changed_and_removed() {
    let stand = Stand::new();
    stand.write("policy.yaml", POLICY);
    assert_eq!(stand.run(&["apply", "-f", "policy.yaml"]).status, 0);
    stand.check(&["label", "gnp", "web", "rack=7"], 0, "Successfully set label rack on gnp web\n");
    assert_eq!(stand.code(&["label", "gnp", "web", "rack=8"], 4), "VR1208");
    stand.check(&["label", "gnp", "web", "rack=8", "--overwrite"], 0, "Successfully updated label rack on gnp web\n");
    stand.check(&["label", "gnp", "web", "rack", "--remove"], 0, "Successfully removed label rack from gnp web\n");
    assert_eq!(stand.code(&["label", "gnp", "web", "rack", "--remove"], 2), "VR1108");
    assert_eq!(stand.code(&["label", "gnp", "web", "rack"], 2), "VR1108");
    assert_eq!(stand.code(&["label", "gnp", "web", "-x=1", "--overwrite"], 2), "VR1001");
}

#[test]
fn validate_needs_no_daemon_and_names_every_resource() {
    let stand = Stand::new();
    let text = format!("{}---\n{}", both(), POLICY.replace("Allow", "allow").replace("selector", "selektor"));
    stand.write("mixed.yaml", &text);
    let ran = stand.run(&["validate", "--socket", "/nonexistent", "-f", "mixed.yaml", "-o", "json"]);
    assert_eq!(ran.status, 2);
    let lines: Vec<Value> = ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let field = |name: &str| lines.iter().map(|line| line[name].clone()).collect::<Vec<_>>();
    assert_eq!(field("valid"), [true, true, false]);
    assert_eq!(field("line"), [1, 14, 19]);
    assert_eq!(field("kind"), ["GlobalNetworkPolicy", "Tier", "GlobalNetworkPolicy"]);
    let codes: Vec<&str> =
        lines[2]["problems"].as_array().unwrap().iter().map(|problem| problem["code"].as_str().unwrap()).collect();
    assert_eq!(codes, ["VR1102", "VR1103"]);

    stand.write("right.yaml", &both());
    stand.check(
        &["validate", "-f", "right.yaml"],
        0,
        "valid    right.yaml:1  GlobalNetworkPolicy web\nvalid    right.yaml:14  Tier security\n",
    );
    stand.write("broken.yaml", "kind: [");
    let ran = stand.run(&["validate", "-f", "broken.yaml"]);
    assert!(ran.status == 2 && ran.stdout.contains("error[VR1101]"), "{}", ran.stdout);
}

#[test]
fn diff_tells_what_apply_would_change() {
    let stand = Stand::new();
    stand.write("both.yaml", &both());
    let ran = stand.run(&["diff", "-f", "both.yaml"]);
    assert_eq!(ran.status, 1);
    assert!(ran.stdout.starts_with("--- /dev/null\n+++ GlobalNetworkPolicy web (given)\n"), "{}", ran.stdout);
    assert_eq!(stand.run(&["apply", "-f", "both.yaml"]).status, 0);
    stand.check(&["diff", "-f", "both.yaml"], 0, "");
    stand.write("both.yaml", &both().replace("order: 5", "order: 6"));
    let ran = stand.run(&["diff", "-f", "both.yaml"]);
    assert_eq!(ran.status, 1);
    assert!(ran.stdout.contains("\n-  order: 5\n+  order: 6\n"), "{}", ran.stdout);
    let ran = stand.run(&["diff", "-f", "both.yaml", "-o", "json"]);
    assert_eq!((ran.status, ran.stderr.as_str()), (1, ""));
    let all: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((&all[0]["difference"], &all[1]["difference"]), (&"same".into(), &"different".into()));
    assert_eq!(stand.run(&["diff", "--socket", "/nonexistent", "-f", "both.yaml"]).status, 6);
}

#[test]
fn history_undo_and_confirm() {
    let stand = Stand::new();
    assert_eq!(stand.code(&["undo"], 3), "VR1302");
    assert_eq!(stand.code(&["confirm"], 3), "VR1307");
    stand.write("tier.yaml", TIER);
    assert_eq!(stand.run(&["apply", "-f", "tier.yaml"]).status, 0);
    stand.write("tier.yaml", &TIER.replace("5", "6"));
    let ran = stand.run(&["apply", "-f", "tier.yaml", "--confirm", "60s"]);
    assert!(ran.stdout.contains("\nRevision 2 is undone in 60 s, at "), "{}", ran.stdout);

    let ran = stand.run(&["history", "-o", "json"]);
    let history: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((&history["pending"]["revision"], &history["transactions"][0]["verb"]), (&2.into(), &"apply".into()));
    assert!(history["transactions"][0]["uid"].is_u64());
    let ran = stand.run(&["history", "show", "2"]);
    assert!(ran.stdout.contains("-  order: 5\n+  order: 6\n"), "{}", ran.stdout);
    assert_eq!(stand.code(&["history", "show", "99"], 3), "VR1301");

    stand.write("seven.yaml", &TIER.replace("5", "7"));
    assert_eq!(stand.code(&["apply", "-f", "seven.yaml"], 4), "VR1306");
    stand.write("other.yaml", &TIER.replace("security", "other"));
    assert_eq!(stand.code(&["apply", "-f", "other.yaml", "--confirm", "9s"], 4), "VR1305");
    stand.check(&["confirm"], 0, "Confirmed revision 2; it stays\n");
    stand.let_time_pass(3600);
    stand.check(&["get", "tier"], 0, "NAME       ORDER\nsecurity       6\n");

    assert_eq!(stand.run(&["apply", "-f", "seven.yaml", "--confirm", "60s"]).status, 0);
    stand.let_time_pass(61);
    stand.check(&["get", "tier"], 0, "NAME       ORDER\nsecurity       6\n");
    let ran = stand.run(&["history"]);
    assert!(ran.stdout.contains("vrouter   undo, not confirmed in time of 3"), "{}", ran.stdout);

    assert_eq!(stand.code(&["undo", "1"], 4), "VR1303");
    stand.check(
        &["undo", "1", "--force", "--dry-run"],
        0,
        "Dry run: would undo revision 1: 1 'Tier' resource(s)\n  deleted    Tier security\n",
    );
    stand.check(&["undo"], 0, "Undid revision 4 by revision 5: 1 'Tier' resource(s)\n  updated    Tier security\n");
    stand.check(&["get", "tier"], 0, "NAME       ORDER\nsecurity       7\n");
}

#[test]
fn calicoctl_by_its_name() {
    let stand = Stand::new();
    stand.write("both.yaml", &both());
    let check = |arguments: &[&str], status: i32, stdout: &str| {
        let ran = stand.calicoctl(arguments);
        assert_eq!((ran.status, ran.stdout.as_str()), (status, stdout), "{arguments:?}: {}", ran.stderr);
        ran.stderr
    };
    let flags = ["--allow-version-mismatch", "-c", "/etc/calico/calicoctl.cfg", "-l", "panic"];
    check(&[&["apply", "-f", "both.yaml"], &flags[..]].concat(), 0, "Successfully applied 2 resource(s)\n");
    check(&["apply", "-f", "both.yaml"], 0, "Successfully applied 2 resource(s)\n");
    check(&["get", "policies", "-a"], 0, "NAMESPACE   NAME   TIER\n");
    check(&["get", "gnp", "nothere"], 1, "");
    check(&["get", "nonsense"], 1, "");
    check(&["apply"], 1, "");
    check(&["label", "tier", "security", "a=b"], 0, "Successfully set label a on tier security\n");
    let ours = env!("CARGO_PKG_VERSION");
    check(
        &["version"],
        0,
        &format!(
            "Client Version:    v{ours}\nGit commit:        unknown\nCluster Version:   v9.9.9\nCluster Type:      vrouter\n"
        ),
    );
    for words in [&["cluster", "diags"][..], &["datastore", "migrate", "lock"]] {
        let error = check(words, 1, "");
        assert!(error.starts_with("error[VR1006]: `") && error.contains("not there yet"), "{error}");
    }
    check(&["cluster", "diags"], 1, "");
}

#[test]
fn explain_knows_codes_kinds_and_fields() {
    let stand = Stand::new();
    let starts = |arguments: &[&str], expected: &str| {
        let ran = stand.run(arguments);
        assert!(ran.status == 0 && ran.stdout.starts_with(expected), "{arguments:?}: {}{}", ran.stdout, ran.stderr);
        ran.stdout
    };
    starts(&["explain", "vr1203"], "VR1203: the object changed since it was read\n\nCause ");
    let text =
        starts(&["explain", "gnp.spec.ingress[0].action"], "GlobalNetworkPolicy.spec.ingress[0].action\n\nType ");
    assert!(text.contains("one of Allow, Deny, Log, Pass"), "{text}");
    starts(&["explain", "pool"], "IPPool  (projectcalico.org/v3)\n");
    for kind in config::resource::Kind::ALL {
        starts(&["explain", kind.name()], kind.name());
    }
    starts(&["explain", "kinds"], "KIND ");
    starts(&["explain", "commands"], "COMMAND ");
    starts(&["explain", "codes"], "CODE ");
    let ran = stand.run(&["explain", "gnp.spec.ingres"]);
    assert!(
        ran.status == 2 && ran.stderr.starts_with("error[VR1102]: ") && ran.stderr.contains("did you mean ingress?")
    );
    assert_eq!(stand.code(&["explain", "VR9999"], 3), "VR1200");
    assert_eq!(stand.code(&["explain", "nonsense"], 2), "VR1002");
}

#[test]
fn the_first_screen_is_one_screen() {
    let stand = Stand::new();
    let ran = stand.run(&["--help"]);
    assert_eq!(ran.status, 0);
    assert!(ran.stdout.lines().count() <= 24, "{} lines", ran.stdout.lines().count());
    assert!(ran.stdout.lines().all(|line| line.chars().count() <= 80), "{}", ran.stdout);
    let listed = stand.run(&["explain", "commands", "-o", "json"]);
    let commands: Value = serde_json::from_str(&listed.stdout).unwrap();
    for command in commands.as_array().unwrap() {
        let name = command["command"].as_str().unwrap();
        assert!(ran.stdout.split_whitespace().any(|word| word == name), "{name} is not on the first screen");
    }
    let ran = stand.run(&["completion", "bash"]);
    assert!(ran.status == 0 && ran.stdout.contains("vrouter"));
}

const FILTER: &str = "\
apiVersion: projectcalico.org/v3
kind: BGPFilter
metadata: {name: edge}
spec:
  importV4:
  - {cidr: 10.9.1.0/24, matchOperator: In, action: Reject}
  - {peerType: eBGP, communities: {values: ['65001:7']}, action: Accept, operations: [{setPriority: {value: 512}}]}
";

#[test]
fn a_stored_filter_is_asked_about_a_route() {
    let stand = Stand::new();
    stand.write("edge.yaml", FILTER);
    stand.run(&["apply", "-f", "edge.yaml"]);
    let check = |arguments: &[&str], expected: &str| {
        let arguments = [&["bgp", "import-test", "edge"][..], arguments].concat();
        stand.check(&arguments, 0, expected);
    };
    check(
        &["10.9.1.7/32"],
        "10.9.1.7/32: rejected\n  BGPFilter edge, importV4[0] matches: rejected\n  BGPFilter edge, importV4[1] is not looked at\n",
    );
    check(
        &["10.9.0.0/24", "--community", "65001:7", "--from-as", "65001"],
        "10.9.0.0/24: accepted\n  BGPFilter edge, importV4[0] does not match: 10.9.0.0/24 is not in 10.9.1.0/24\n  BGPFilter edge, importV4[1] matches: accepted, priority becomes 512\n",
    );
    check(
        &["10.9.0.0/24", "--community", "65001:7", "--internal"],
        "10.9.0.0/24: no rule matches\n  BGPFilter edge, importV4[0] does not match: 10.9.0.0/24 is not in 10.9.1.0/24\n  BGPFilter edge, importV4[1] does not match: the peer is iBGP and not eBGP\n  no rule matches: the next filter decides, and after the last one the route is accepted\n",
    );
    check(
        &["fd00::/64"],
        "fd00::/64: no rule matches\n  BGPFilter edge has no importV6 rules\n  no rule matches: the next filter decides, and after the last one the route is accepted\n",
    );
    let ran = stand.run(&["bgp", "import-test", "edge", "10.9.0.0/24", "--community", "65001:7", "-o", "json"]);
    let view: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(
        (&view["verdict"], &view["rule"]),
        (&Value::from("accept"), &Value::from("BGPFilter edge, importV4[1]"))
    );
    assert_eq!(view["changes"], serde_json::json!(["priority becomes 512"]));
    assert_eq!(stand.code(&["bgp", "import-test", "edg", "10.9.0.0/24"], 3), "VR1201");
    assert_eq!(stand.code(&["bgp", "import-test", "edge", "10.9.0.0/24", "--community", "65001"], 2), "VR1001");
}
