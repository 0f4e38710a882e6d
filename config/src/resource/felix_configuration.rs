//! FelixConfiguration: how each node's agent works. `default` is for all nodes, `node.<name>` for one, and any other name
//! for the nodes that its `nodeSelector` selects.
//!
//! All of Calico's fields are read and checked, whether they mean something to this router or not; docs/FELIX.md says
//! which do. Absent means Calico's default, which whoever uses a field knows.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Deserializer, Serialize};

use super::bgp_configuration::{LogSeverity, ProgramClusterRoutes, RoutePriority};
use super::check::Check;
use super::duration::TimeSpan;
use super::felix_values::*;
use super::form::blank_is_absent as text;
use super::metadata::Metadata;
use super::number::Number;
use super::pattern::Pattern;
use super::qos::Dscp;
use super::word::Switch;
use crate::net::{Cidr, PortNumbers};
use crate::selector::Selector;

/// The least and the most index of a routing table that a range may have, when there is one range.
const ONE_RANGE_TABLES: (i64, i64) = (1, 250);
/// All ranges together.
const TABLES_MAX: i64 = 65_535;
const NODE_PORT_RANGES_MAX: usize = 7;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FelixConfiguration {
    #[serde(default)]
    pub metadata: Metadata,
    #[serde(default)]
    pub spec: Box<FelixConfigurationSpec>,
}

/// One line for each field: our name and type, Calico's name, and whether it is written as text, so that blank text
/// means absent.
macro_rules! felix_configuration {
    ($($field:ident: $type:ty = $name:literal by $form:literal;)+) => {
        #[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
        #[serde(default)]
        pub struct FelixConfigurationSpec {
            $(
                #[serde(rename = $name, deserialize_with = $form, skip_serializing_if = "Option::is_none")]
                pub $field: Option<$type>,
            )+
        }

        impl FelixConfigurationSpec {
            /// Calico's names.
            pub const FIELDS: &'static [&'static str] = &[$($name,)+];
        }
    };
}

fn value<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    Option::deserialize(deserializer)
}

felix_configuration! {
    // The nodes this is for, unless the name says so.
    node_selector: Selector = "nodeSelector" by "text";

    // Process: Feature detection/overrides
    feature_detect_override: KeyValues = "featureDetectOverride" by "text";
    feature_gates: KeyValues = "featureGates" by "text";

    // Process: Go runtime
    go_gc_threshold: Limit = "goGCThreshold" by "value";
    go_max_procs: Limit = "goMaxProcs" by "value";
    go_memory_limit_mb: Limit = "goMemoryLimitMB" by "value";

    // Process: Health port and timeouts
    health_enabled: bool = "healthEnabled" by "value";
    health_host: Host = "healthHost" by "text";
    health_port: PortNumber = "healthPort" by "value";
    health_timeout_overrides: Vec<HealthTimeoutOverride> = "healthTimeoutOverrides" by "value";

    // Process: Logging
    log_action_rate_limit: LogRate = "logActionRateLimit" by "text";
    log_action_rate_limit_burst: Number<0, 9_999> = "logActionRateLimitBurst" by "value";
    log_debug_filename_regex: Pattern = "logDebugFilenameRegex" by "text";
    log_file_path: String = "logFilePath" by "text";
    log_prefix: String = "logPrefix" by "text";
    log_severity_file: LogSeverity = "logSeverityFile" by "text";
    log_severity_screen: LogSeverity = "logSeverityScreen" by "text";
    log_severity_sys: LogSeverity = "logSeveritySys" by "text";

    // Process: Prometheus metrics
    prometheus_go_metrics_enabled: bool = "prometheusGoMetricsEnabled" by "value";
    prometheus_metrics_ca_file: String = "prometheusMetricsCAFile" by "text";
    prometheus_metrics_cert_file: String = "prometheusMetricsCertFile" by "text";
    prometheus_metrics_client_auth: ClientAuth = "prometheusMetricsClientAuth" by "text";
    prometheus_metrics_enabled: bool = "prometheusMetricsEnabled" by "value";
    prometheus_metrics_host: Host = "prometheusMetricsHost" by "text";
    prometheus_metrics_key_file: String = "prometheusMetricsKeyFile" by "text";
    prometheus_metrics_port: PortNumber = "prometheusMetricsPort" by "value";
    prometheus_process_metrics_enabled: bool = "prometheusProcessMetricsEnabled" by "value";
    prometheus_wire_guard_metrics_enabled: bool = "prometheusWireGuardMetricsEnabled" by "value";

    // Dataplane: Common
    allow_ipip_packets_from_workloads: bool = "allowIPIPPacketsFromWorkloads" by "value";
    allow_vxlan_packets_from_workloads: bool = "allowVXLANPacketsFromWorkloads" by "value";
    cgroup_v2_path: String = "cgroupV2Path" by "text";
    chain_insert_mode: ChainInsertMode = "chainInsertMode" by "text";
    dataplane_driver: String = "dataplaneDriver" by "text";
    dataplane_watchdog_timeout: TimeSpan = "dataplaneWatchdogTimeout" by "text";
    default_endpoint_to_host_action: EndpointToHostAction = "defaultEndpointToHostAction" by "text";
    device_route_protocol: Number<0, 255> = "deviceRouteProtocol" by "value";
    device_route_source_address: Ipv4Addr = "deviceRouteSourceAddress" by "text";
    device_route_source_address_ipv6: Ipv6Addr = "deviceRouteSourceAddressIPv6" by "text";
    disable_conntrack_invalid_check: bool = "disableConntrackInvalidCheck" by "value";
    endpoint_status_path_prefix: String = "endpointStatusPathPrefix" by "text";
    external_nodes_list: Vec<Cidr> = "externalNodesList" by "value";
    failsafe_inbound_host_ports: Vec<ProtoPort> = "failsafeInboundHostPorts" by "value";
    failsafe_outbound_host_ports: Vec<ProtoPort> = "failsafeOutboundHostPorts" by "value";
    floating_ips: Switch = "floatingIPs" by "text";
    ip_forwarding: Switch = "ipForwarding" by "text";
    ipv4_elevated_route_priority: RoutePriority = "ipv4ElevatedRoutePriority" by "value";
    ipv4_normal_route_priority: RoutePriority = "ipv4NormalRoutePriority" by "value";
    ipv6_elevated_route_priority: RoutePriority = "ipv6ElevatedRoutePriority" by "value";
    ipv6_normal_route_priority: RoutePriority = "ipv6NormalRoutePriority" by "value";
    interface_exclude: InterfaceExclusions = "interfaceExclude" by "text";
    interface_prefix: InterfacePrefixes = "interfacePrefix" by "text";
    interface_refresh_interval: TimeSpan = "interfaceRefreshInterval" by "text";
    ipv6_support: bool = "ipv6Support" by "value";
    istio_ambient_mode: Switch = "istioAmbientMode" by "text";
    istio_dscp_mark: Dscp = "istioDSCPMark" by "text";
    live_migration_route_convergence_time: TimeSpan = "liveMigrationRouteConvergenceTime" by "text";
    local_subnet_l2_reachability: LocalSubnetReachability = "localSubnetL2Reachability" by "text";
    local_subnet_l2_reachability_refresh_interval: TimeSpan = "localSubnetL2ReachabilityRefreshInterval" by "text";
    mtu_iface_pattern: Pattern = "mtuIfacePattern" by "text";
    nat_outgoing_address: Ipv4Addr = "natOutgoingAddress" by "text";
    nat_outgoing_exclusions: NatOutgoingExclusions = "natOutgoingExclusions" by "text";
    nat_port_range: PortNumbers = "natPortRange" by "text";
    nftables_flow_table_data_iface_pattern: Pattern = "nftablesFlowTableDataIfacePattern" by "text";
    nftables_flow_table_offload: FlowTableOffload = "nftablesFlowTableOffload" by "text";
    nftables_mode: NftablesMode = "nftablesMode" by "text";
    netlink_timeout: TimeSpan = "netlinkTimeout" by "text";
    policy_sync_path_prefix: String = "policySyncPathPrefix" by "text";
    program_cluster_routes: ProgramClusterRoutes = "programClusterRoutes" by "text";
    remove_external_routes: bool = "removeExternalRoutes" by "value";
    require_mtu_file: bool = "requireMTUFile" by "value";
    route_refresh_interval: TimeSpan = "routeRefreshInterval" by "text";
    route_source: RouteSource = "routeSource" by "text";
    route_sync_disabled: bool = "routeSyncDisabled" by "value";
    route_table_range: RouteTableRange = "routeTableRange" by "value";
    route_table_ranges: Vec<RouteTableRange> = "routeTableRanges" by "value";
    service_loop_prevention: ServiceLoopPrevention = "serviceLoopPrevention" by "text";
    sidecar_acceleration_enabled: bool = "sidecarAccelerationEnabled" by "value";
    use_internal_dataplane_driver: bool = "useInternalDataplaneDriver" by "value";
    workload_source_spoofing: SourceSpoofing = "workloadSourceSpoofing" by "text";

    // Dataplane: iptables
    ipsets_refresh_interval: TimeSpan = "ipsetsRefreshInterval" by "text";
    iptables_backend: IptablesBackend = "iptablesBackend" by "text";
    iptables_filter_allow_action: AllowAction = "iptablesFilterAllowAction" by "text";
    iptables_filter_deny_action: DenyAction = "iptablesFilterDenyAction" by "text";
    iptables_lock_probe_interval: TimeSpan = "iptablesLockProbeInterval" by "text";
    iptables_mangle_allow_action: AllowAction = "iptablesMangleAllowAction" by "text";
    iptables_mark_mask: Mark = "iptablesMarkMask" by "value";
    iptables_nat_outgoing_interface_filter: InterfaceName = "iptablesNATOutgoingInterfaceFilter" by "text";
    iptables_post_write_check_interval: TimeSpan = "iptablesPostWriteCheckInterval" by "text";
    iptables_refresh_interval: TimeSpan = "iptablesRefreshInterval" by "text";
    kube_node_port_ranges: Vec<PortNumbers> = "kubeNodePortRanges" by "value";
    max_ipset_size: Size = "maxIpsetSize" by "value";

    // Dataplane: nftables
    nftables_filter_allow_action: AllowAction = "nftablesFilterAllowAction" by "text";
    nftables_filter_deny_action: DenyAction = "nftablesFilterDenyAction" by "text";
    nftables_mangle_allow_action: AllowAction = "nftablesMangleAllowAction" by "text";
    nftables_mark_mask: Mark = "nftablesMarkMask" by "value";
    nftables_refresh_interval: TimeSpan = "nftablesRefreshInterval" by "text";

    // Dataplane: eBPF
    bpf_attach_type: BpfAttachType = "bpfAttachType" by "text";
    bpf_ctlb_log_filter: BpfCtlbLogFilter = "bpfCTLBLogFilter" by "text";
    bpf_connect_time_load_balancing: BpfConnectTimeBalancing = "bpfConnectTimeLoadBalancing" by "text";
    bpf_connect_time_load_balancing_enabled: bool = "bpfConnectTimeLoadBalancingEnabled" by "value";
    bpf_conntrack_mode: BpfConntrackMode = "bpfConntrackMode" by "text";
    bpf_conntrack_log_level: BpfConntrackLogLevel = "bpfConntrackLogLevel" by "text";
    bpf_conntrack_timeouts: ConntrackTimeouts = "bpfConntrackTimeouts" by "value";
    bpf_dsr_optout_cidrs: Vec<Cidr> = "bpfDSROptoutCIDRs" by "value";
    bpf_data_iface_pattern: Pattern = "bpfDataIfacePattern" by "text";
    bpf_disable_gro_for_ifaces: Pattern = "bpfDisableGROForIfaces" by "text";
    bpf_disable_unprivileged: bool = "bpfDisableUnprivileged" by "value";
    bpf_enabled: bool = "bpfEnabled" by "value";
    bpf_enforce_rpf: BpfEnforceRpf = "bpfEnforceRPF" by "text";
    bpf_exclude_cidrs_from_nat: Vec<Cidr> = "bpfExcludeCIDRsFromNAT" by "value";
    bpf_export_buffer_size_mb: Size = "bpfExportBufferSizeMB" by "value";
    bpf_ext_to_service_connmark: Mark = "bpfExtToServiceConnmark" by "value";
    bpf_external_service_mode: BpfExternalServiceMode = "bpfExternalServiceMode" by "text";
    bpf_force_track_packets_from_ifaces: Vec<InterfaceName> = "bpfForceTrackPacketsFromIfaces" by "value";
    bpf_host_conntrack_bypass: bool = "bpfHostConntrackBypass" by "value";
    bpf_host_networked_nat_without_ctlb: Switch = "bpfHostNetworkedNATWithoutCTLB" by "text";
    bpf_ip_frag_timeout: TimeSpan = "bpfIPFragTimeout" by "text";
    bpf_ip_fragment_reassembly_enabled: bool = "bpfIPFragmentReassemblyEnabled" by "value";
    bpf_jit_hardening: BpfJitHardening = "bpfJITHardening" by "text";
    bpf_kube_proxy_healthz_port: PortNumber = "bpfKubeProxyHealthzPort" by "value";
    bpf_kube_proxy_iptables_cleanup_enabled: bool = "bpfKubeProxyIptablesCleanupEnabled" by "value";
    bpf_kube_proxy_min_sync_period: TimeSpan = "bpfKubeProxyMinSyncPeriod" by "text";
    bpf_l3_iface_pattern: Pattern = "bpfL3IfacePattern" by "text";
    bpf_log_filters: BTreeMap<String, String> = "bpfLogFilters" by "value";
    bpf_log_level: BpfLogLevel = "bpfLogLevel" by "text";
    bpf_maglev_max_endpoints_per_service: Number<1, 3_000> = "bpfMaglevMaxEndpointsPerService" by "value";
    bpf_maglev_max_services: Number<1, 3_000> = "bpfMaglevMaxServices" by "value";
    bpf_map_size_conntrack: Size = "bpfMapSizeConntrack" by "value";
    bpf_map_size_conntrack_cleanup_queue: Size = "bpfMapSizeConntrackCleanupQueue" by "value";
    bpf_map_size_conntrack_scaling: BpfConntrackScaling = "bpfMapSizeConntrackScaling" by "text";
    bpf_map_size_ip_sets: Size = "bpfMapSizeIPSets" by "value";
    bpf_map_size_if_state: Size = "bpfMapSizeIfState" by "value";
    bpf_map_size_nat_affinity: Size = "bpfMapSizeNATAffinity" by "value";
    bpf_map_size_nat_backend: Size = "bpfMapSizeNATBackend" by "value";
    bpf_map_size_nat_frontend: Size = "bpfMapSizeNATFrontend" by "value";
    bpf_map_size_per_cpu_conntrack: Number<0, 2_147_483_647> = "bpfMapSizePerCpuConntrack" by "value";
    bpf_map_size_route: Size = "bpfMapSizeRoute" by "value";
    bpf_overlay_host_source_ip: BpfOverlayHostSource = "bpfOverlayHostSourceIP" by "text";
    bpf_psnat_ports: PortNumbers = "bpfPSNATPorts" by "text";
    bpf_policy_debug_enabled: bool = "bpfPolicyDebugEnabled" by "value";
    bpf_profiling: Switch = "bpfProfiling" by "text";
    bpf_redirect_to_peer: BpfRedirectToPeer = "bpfRedirectToPeer" by "text";

    // Dataplane: Windows
    windows_manage_firewall_rules: Switch = "windowsManageFirewallRules" by "text";

    // Dataplane: OpenStack support
    endpoint_reporting_delay: TimeSpan = "endpointReportingDelay" by "text";
    endpoint_reporting_enabled: bool = "endpointReportingEnabled" by "value";
    metadata_addr: MetadataHost = "metadataAddr" by "text";
    metadata_port: PortNumber = "metadataPort" by "value";
    openstack_region: RegionName = "openstackRegion" by "text";
    reporting_interval: TimeSpan = "reportingInterval" by "text";
    reporting_ttl: TimeSpan = "reportingTTL" by "text";

    // Dataplane: XDP acceleration for iptables dataplane
    generic_xdp_enabled: bool = "genericXDPEnabled" by "value";
    xdp_enabled: bool = "xdpEnabled" by "value";
    xdp_refresh_interval: TimeSpan = "xdpRefreshInterval" by "text";

    // Overlay: VXLAN overlay
    vxlan_enabled: bool = "vxlanEnabled" by "value";
    vxlan_mtu: Mtu = "vxlanMTU" by "value";
    vxlan_mtu_v6: Mtu = "vxlanMTUV6" by "value";
    vxlan_port: PortNumber = "vxlanPort" by "value";
    vxlan_vni: Number<0, 16_777_215> = "vxlanVNI" by "value";

    // Overlay: IP-in-IP
    ipip_enabled: bool = "ipipEnabled" by "value";
    ipip_mtu: Mtu = "ipipMTU" by "value";

    // Overlay: Wireguard
    wireguard_enabled: bool = "wireguardEnabled" by "value";
    wireguard_enabled_v6: bool = "wireguardEnabledV6" by "value";
    wireguard_host_encryption_enabled: bool = "wireguardHostEncryptionEnabled" by "value";
    wireguard_interface_name: InterfaceName = "wireguardInterfaceName" by "text";
    wireguard_interface_name_v6: InterfaceName = "wireguardInterfaceNameV6" by "text";
    wireguard_listening_port: PortNumber = "wireguardListeningPort" by "value";
    wireguard_listening_port_v6: PortNumber = "wireguardListeningPortV6" by "value";
    wireguard_mtu: Mtu = "wireguardMTU" by "value";
    wireguard_mtu_v6: Mtu = "wireguardMTUV6" by "value";
    wireguard_keep_alive: TimeSpan = "wireguardKeepAlive" by "text";
    wireguard_routing_rule_priority: Number<1, 32_765> = "wireguardRoutingRulePriority" by "value";
    wireguard_threading_enabled: bool = "wireguardThreadingEnabled" by "value";

    // Flow logs: file reports
    flow_logs_collector_debug_trace: bool = "flowLogsCollectorDebugTrace" by "value";
    flow_logs_flush_interval: TimeSpan = "flowLogsFlushInterval" by "text";
    flow_logs_goldmane_server: String = "flowLogsGoldmaneServer" by "text";
    flow_logs_local_reporter: Switch = "flowLogsLocalReporter" by "text";
    flow_logs_policy_evaluation_mode: PolicyEvaluationMode = "flowLogsPolicyEvaluationMode" by "text";

    // AWS integration
    aws_src_dst_check: AwsSourceCheck = "awsSrcDstCheck" by "text";

    // Debug/test-only (generally unsupported)
    debug_disable_log_dropping: bool = "debugDisableLogDropping" by "value";
    debug_host: Host = "debugHost" by "text";
    debug_memory_profile_path: String = "debugMemoryProfilePath" by "text";
    debug_port: PortNumber = "debugPort" by "value";
    debug_simulate_calc_graph_hang_after: TimeSpan = "debugSimulateCalcGraphHangAfter" by "text";
    debug_simulate_dataplane_apply_delay: TimeSpan = "debugSimulateDataplaneApplyDelay" by "text";
    debug_simulate_dataplane_hang_after: TimeSpan = "debugSimulateDataplaneHangAfter" by "text";

    // Usage reporting
    usage_reporting_enabled: bool = "usageReportingEnabled" by "value";
    usage_reporting_initial_delay: TimeSpan = "usageReportingInitialDelay" by "text";
    usage_reporting_interval: TimeSpan = "usageReportingInterval" by "text";
}

impl FelixConfiguration {
    pub(super) fn validate(&self, check: &mut Check) {
        check.field("spec", |check| self.spec.validate(check));
    }
}

impl FelixConfigurationSpec {
    fn validate(&self, check: &mut Check) {
        if let Some(selector) = &self.node_selector {
            check.selector("nodeSelector", selector);
        }
        if let Some(overrides) = &self.health_timeout_overrides {
            check.each("healthTimeoutOverrides", overrides, |check, timeout| timeout.validate(check));
        }
        // As Calico has it: nodes outside the cluster are known by IPv4 only.
        if let Some(nodes) = &self.external_nodes_list {
            check.each("externalNodesList", nodes, |check, cidr| {
                if !cidr.is_ipv4() {
                    check.refuse(cidr, "an IPv4 address or CIDR");
                }
            });
        }
        for (name, mask) in
            [("iptablesMarkMask", self.iptables_mark_mask), ("nftablesMarkMask", self.nftables_mark_mask)]
        {
            if let Some(mask) = mask.filter(|mask| mask.get().count_ones() < 2) {
                check.refuse_field(name, format_args!("{:#x}", mask.get()), "a mask with at least 2 bits set");
            }
        }
        if let Some(ranges) = &self.kube_node_port_ranges {
            check.at_most("kubeNodePortRanges", ranges.len(), NODE_PORT_RANGES_MAX);
        }
        self.validate_tables(check);
    }

    fn validate_tables(&self, check: &mut Check) {
        if self.route_table_range.is_some() && self.route_table_ranges.is_some() {
            check.refuse_field(
                "routeTableRange",
                "both routeTableRange and routeTableRanges",
                "routeTableRanges alone",
            );
        }
        if let Some(range) = &self.route_table_range {
            check.field("routeTableRange", |check| range.validate(ONE_RANGE_TABLES, check));
        }
        let Some(ranges) = &self.route_table_ranges else { return };
        check.each("routeTableRanges", ranges, |check, range| range.validate((1, i64::from(u32::MAX)), check));
        let total = ranges.iter().fold(0_i64, |total, range| total.saturating_add(range.size()));
        if total > TABLES_MAX {
            let expected = format!("at most {TABLES_MAX} in all ranges together");
            check.refuse_field("routeTableRanges", format_args!("{total} tables"), expected);
        }
    }
}
