//! Settings: which source wins, and what is told of a wrong one.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;

fn load(file: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Settings, String> {
    let environment = environment.iter().map(|(name, value)| (name.to_string(), value.to_string()));
    let file = Some(File { name: "v.yaml", text: file });
    Settings::load("Host-1", file, environment, flags.iter().copied()).map_err(|errors| {
        let lines: Vec<String> = errors.iter().map(SettingsError::to_string).collect();
        lines.join("\n")
    })
}

#[test]
fn nothing_given_is_the_defaults() {
    assert_eq!(load("", &[], &[]), Ok(Settings::defaults("host-1")));
    assert_eq!(
        load("# nothing\n", &[("PATH", "/bin"), ("VROUTER_SERVICE_HOST", "10.0.0.1")], &[]),
        Ok(Settings::defaults("host-1"))
    );
}

#[test]
fn every_setting_from_a_file() {
    let text = "nodeName: n1\nuplinks: [eth1, eth2]\nworkers:\n- 2\n- 3\npoll: always\nrebalance: auto\nbgpKernelRoutes: off\n\
            bmpStation: 192.0.2.9:11019\ndatastore: embedded:/data\napiSocket: /tmp/s\ndockerPluginSocket: /run/p.sock\n\
            dhcpServers: [192.0.2.53, 192.0.2.54]\ndhcpLinkSelection: 10.77.0.1\nlogFormat: json\nlogLevel: debug\nframesPerWorker: 2048\n\
            flowTableSize: 4096\nflowQuota: 512\npolicyChange: reevaluate\ndefaultEndpointToHostAction: Accept\n\
            defaultWorkloadInterfacePrefix: tap\nxdpMode: native\nendpointOffload: leave\n\
            io: xsk-rs\nbusyPoll: off\nzeroCopy: auto\n\
            failsafeInboundHostPorts: [22, 'udp:10.0.0.0/8:68']\nfailsafeOutboundHostPorts: none\n\
            workloadSourceSpoofing: Any\nallowVxlanPacketsFromWorkloads: true\nallowIpipPacketsFromWorkloads: true\n\
            vxlanPort: 8472\nsecrets: /run/secrets\n";
    let expected = Settings {
        node_name: "n1".into(),
        uplinks: vec!["eth1".into(), "eth2".into()],
        workers: vec![2, 3],
        poll: Poll::Always,
        rebalance: Rebalance::Auto,
        bgp_kernel_routes: BgpKernelRoutes::Off,
        bmp_station: Some("192.0.2.9:11019".parse().unwrap()),
        datastore: Datastore::Embedded("/data".into()),
        api_socket: "/tmp/s".into(),
        docker_plugin_socket: Some("/run/p.sock".into()),
        dhcp_servers: vec!["192.0.2.53".parse().unwrap(), "192.0.2.54".parse().unwrap()],
        dhcp_link_selection: Some("10.77.0.1".parse().unwrap()),
        log_format: LogFormat::Json,
        log_level: LogLevel::Debug,
        frames_per_worker: 2048,
        flow_table_size: 4096,
        flow_quota: 512,
        policy_change: PolicyChange::Reevaluate,
        default_endpoint_to_host_action: EndpointToHostAction::Accept,
        default_workload_interface_prefix: "tap".into(),
        xdp_mode: XdpMode::Native,
        endpoint_offload: EndpointOffload::Leave,
        io: Io::XskRs,
        busy_poll: BusyPoll::Off,
        zero_copy: ZeroCopy::Auto,
        failsafe_inbound_host_ports: ["22", "udp:10.0.0.0/8:68"].map(|port| FailsafePort::parse(port).unwrap()).into(),
        failsafe_outbound_host_ports: Vec::new(),
        workload_source_spoofing: SourceSpoofing::Any,
        allow_vxlan_packets_from_workloads: true,
        allow_ipip_packets_from_workloads: true,
        vxlan_port: 8472,
        secrets: "/run/secrets".into(),
    };
    assert_eq!(load(text, &[], &[]), Ok(expected));
    assert_eq!(load("endpointOffload: off\nworkers: 4\n", &[], &[]).unwrap().workers, [4]);
}

#[test]
fn later_ones_win() {
    let name = |environment: &[(&str, &str)], flags: &[(&str, &str)]| {
        load("nodeName: file\n", environment, flags).unwrap().node_name
    };
    assert_eq!(name(&[], &[]), "file");
    assert_eq!(name(&[("NODENAME", "calico")], &[]), "calico");
    assert_eq!(name(&[("VROUTER_NODE_NAME", "ours"), ("NODENAME", "calico")], &[]), "ours");
    assert_eq!(name(&[("VROUTER_NODE_NAME", "ours")], &[("node-name", "flag")]), "flag");
    let uplinks = load("uplinks: [a]\n", &[("VROUTER_UPLINKS", "eth1, eth2")], &[]).unwrap().uplinks;
    assert_eq!(uplinks, ["eth1", "eth2"]);
}

#[test]
fn refusals() {
    let check = |file: &str, environment: &[(&str, &str)], flags: &[(&str, &str)], expected: &str| {
        assert_eq!(load(file, environment, flags).unwrap_err(), expected);
    };
    check(
        "poll: sleep\nlogLvl: info\n",
        &[],
        &[],
        "v.yaml:2:1: logLvl: found an unknown setting, expected one of nodeName, uplinks, workers, poll, rebalance, \
             bgpKernelRoutes, bmpStation, datastore, apiSocket, dockerPluginSocket, dhcpServers, dhcpLinkSelection, logFormat, logLevel, framesPerWorker, flowTableSize, flowQuota, policyChange, \
             defaultEndpointToHostAction, defaultWorkloadInterfacePrefix, xdpMode, endpointOffload, \
             io, busyPoll, zeroCopy, failsafeInboundHostPorts, failsafeOutboundHostPorts, workloadSourceSpoofing, \
             allowVxlanPacketsFromWorkloads, allowIpipPacketsFromWorkloads, vxlanPort, secrets \
             (did you mean logLevel?)",
    );
    check(
        "poll: slep\nworkers: [0, 0]\n",
        &[],
        &[],
        "v.yaml:1:7: poll: found \"slep\", expected one of sleep, always (did you mean sleep?)\n\
             v.yaml:2:10: workers: found \"0, 0\", expected at least one core number 0-1023, each once",
    );
    check(
        "failsafeInboundHostPorts: [22, 'sctp:7']\n",
        &[],
        &[],
        "v.yaml:1:27: failsafeInboundHostPorts: found \"22, sctp:7\", expected at most 256 of PORT, tcp:PORT, udp:PORT \
             or tcp:CIDR:PORT, or none",
    );
    check(
        "bmpStation: station:11019\n",
        &[],
        &[],
        "v.yaml:1:13: bmpStation: found \"station:11019\", expected an address and a port, such as 192.0.2.9:11019 or \
             [2001:db8::9]:11019, or none",
    );
    check(
        "dockerPluginSocket: /run/docker/plugins/vrouter\n",
        &[],
        &[],
        "v.yaml:1:21: dockerPluginSocket: found \"/run/docker/plugins/vrouter\", expected an absolute path of at most 102 \
             bytes that ends in .sock, or none",
    );
    for wrong in ["dhcp", "2001:db8::53", "255.255.255.255", "127.0.0.1", "192.0.2.53, 192.0.2.53"] {
        let expected =
            format!("v.yaml:1:14: dhcpServers: found {wrong:?}, expected at most 8 IPv4 addresses of hosts, each once");
        check(&format!("dhcpServers: ['{}']\n", wrong.replace(", ", "', '")), &[], &[], &expected);
    }
    check(
        "dhcpLinkSelection: 10.77.0.0/24\n",
        &[],
        &[],
        "v.yaml:1:20: dhcpLinkSelection: found \"10.77.0.0/24\", expected an IPv4 address of the subnet, or none",
    );
    check("poll: [sleep]\n", &[], &[], "v.yaml:1:7: poll: found a list, expected one value");
    check("- poll\n", &[], &[], "v.yaml:1:1: found a list, expected a map of settings");
    check(
        "",
        &[("VROUTER_XDP_MOD", "x")],
        &[("poll", "never")],
        "environment: VROUTER_XDP_MOD: found an unknown variable, expected a variable that is a setting \
             (did you mean VROUTER_XDP_MODE?)\n\
             command line: --poll: found \"never\", expected one of sleep, always",
    );
    let unfit = Settings::load("my_host", None, [], []).unwrap_err();
    assert!(unfit[0].to_string().starts_with("host name: nodeName: found \"my_host\""), "{}", unfit[0]);
}
