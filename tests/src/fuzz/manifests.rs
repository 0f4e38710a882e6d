//! One document of each kind, with much of what it may hold: what fuzzing of documents begins with.

/// One document per kind, with much of what it may hold.
pub(super) const DOCUMENTS: [&str; 32] = [
    r#"{"apiVersion": "projectcalico.org/v3", "kind": "Node", "metadata": {"name": "worker-1", "labels": {"zone": "a"}},
  "spec": {"bgp": {"ipv4Address": "192.0.2.1/24", "asNumber": 64512}, "addresses": [{"address": "192.0.2.1", "type": "InternalIP"}]}}"#,
    r#"apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: worker--1-k8s-web-eth0, namespace: default, labels: {app: web}}
spec:
  node: worker-1
  orchestrator: k8s
  pod: web
  endpoint: eth0
  interfaceName: cali1234
  mac: 02:00:00:00:00:01
  ipNetworks: [10.0.0.1/32, "fd00::1/128"]
  profiles: [kns.default]
  ports:
    - {name: http, protocol: TCP, port: 8080}
"#,
    r#"apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: worker-1-eth0, labels: {role: node}}
spec: {node: worker-1, interfaceName: eth0, expectedIPs: [192.0.2.1]}
"#,
    r#"apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: pool}
spec: {cidr: 10.65.0.0/16, blockSize: 26, natOutgoing: false, nodeSelector: all()}
"#,
    r#"apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: allow-dns}
spec:
  order: 100.5
  selector: role == 'client' && !has(quarantine)
  types: [Ingress, Egress]
  ingress:
    - action: Deny
      protocol: ICMP
      icmp: {type: 8, code: 0}
      source: {notNets: [10.0.0.0/8], namespaceSelector: all()}
  egress:
    - {action: Allow, protocol: UDP, destination: {ports: [53], nets: [10.0.0.53/32]}}
"#,
    r#"apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: allow-web, namespace: shop}
spec:
  tier: default
  selector: app in {'web', 'api'}
  ingress:
    - action: Allow
      protocol: TCP
      source: {selector: app == 'lb'}
      destination: {ports: [80, "8000:8080", metrics]}
"#,
    r#"apiVersion: vrouter.io/v1
kind: StaticRoute
metadata: {name: far}
spec: {node: worker-1, destination: 198.51.100.0/24, nextHop: 192.0.2.2}
"#,
    r#"apiVersion: projectcalico.org/v3
kind: Profile
metadata: {name: kns.default}
spec: {labelsToApply: {ns: default}, ingress: [{action: Allow}], egress: [{action: Allow}]}
"#,
    r#"apiVersion: projectcalico.org/v3
kind: Tier
metadata: {name: security}
spec: {order: 10, defaultAction: Pass}
"#,
    r#"apiVersion: projectcalico.org/v3
kind: NetworkSet
metadata: {name: office, namespace: shop, labels: {role: office}}
spec: {nets: [192.0.2.0/24, "2001:db8::1"]}
"#,
    r#"apiVersion: projectcalico.org/v3
kind: GlobalNetworkSet
metadata: {name: office, labels: {role: office}}
spec: {nets: [192.0.2.0/24]}
"#,
    r#"apiVersion: projectcalico.org/v3
kind: StagedNetworkPolicy
metadata: {name: try, namespace: shop}
spec: {stagedAction: Set, order: 5, selector: has(a), ingress: [{action: Deny, source: {serviceAccounts: {names: [b]}}}]}
"#,
    r#"apiVersion: projectcalico.org/v3
kind: StagedGlobalNetworkPolicy
metadata: {name: try}
spec: {stagedAction: Learn, applyOnForward: true, doNotTrack: true, namespaceSelector: has(a), types: [Egress]}
"#,
    r#"apiVersion: projectcalico.org/v3
kind: StagedKubernetesNetworkPolicy
metadata: {name: try}
spec: {podSelector: {matchLabels: {a: b}}, egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}]}]}
"#,
    r#"apiVersion: projectcalico.org/v3
kind: IPReservation
metadata: {name: kept}
spec: {reservedCIDRs: [10.65.0.0/29]}
"#,
    r#"apiVersion: projectcalico.org/v3
kind: IPAMConfiguration
metadata: {name: default}
spec: {strictAffinity: true, maxBlocksPerHost: 4, ipCooldownSeconds: 60, kubeVirtVMAddressPersistence: Enabled}
"#,
    r#"apiVersion: projectcalico.org/v3
kind: BlockAffinity
metadata: {name: worker-1-10-65-0-0-26}
spec: {cidr: 10.65.0.0/26, node: worker-1, state: pending, type: host, deleted: false}
"#,
    r#"apiVersion: projectcalico.org/v3
kind: IPAMBlock
metadata: {name: 10-65-0-0-30}
spec:
  cidr: 10.65.0.0/30
  affinity: host:worker-1
  affinityClaimTime: 2026-01-01T00:00:00Z
  allocations: [0, null, 1, null]
  unallocated: [3, 1]
  attributes: [{handle_id: h, secondary: {node: worker-1, pod: web}}, {releasedAt: 2026-01-01T00:00:00Z}]
  sequenceNumber: 1700000000000000000
  sequenceNumberForAllocation: {"0": 1700000000000000000}
  deleted: false
"#,
    r#"apiVersion: projectcalico.org/v3
kind: IPAMHandle
metadata: {name: k8s-pod-network.1a2b}
spec: {handleID: k8s-pod-network.1a2b, block: {10.65.0.0/30: 1}, deleted: false}
"#,
    r#"apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {name: default}
spec:
  asNumber: 64512
  logSeverityScreen: info
  nodeMeshMaxRestartTime: 2m0s
  nodeMeshPassword: {secretKeyRef: {name: s, key: k}}
  serviceClusterIPs: [{cidr: 10.96.0.0/12}]
  communities: [{name: c, value: "100:520"}]
  prefixAdvertisements: [{cidr: 10.65.0.0/16, communities: [c, "1:2:3"]}]
  ignoredInterfaces: [eth*]
  ipv4NormalRoutePriority: 1024
"#,
    r#"apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: rack}
spec: {nodeSelector: rack == 'a', peerIP: "[fd00::1]:1790", asNumber: "1.10", reachableBy: "fd00::2", nextHopMode: Self, filters: [f], ttlSecurity: 1}
"#,
    r#"apiVersion: projectcalico.org/v3
kind: BGPFilter
metadata: {name: f}
spec:
  exportV4: [{action: Accept, cidr: 10.0.0.0/8, matchOperator: In, prefixLength: {min: 16, max: 24}, operations: [{addCommunity: {value: "1:2"}}]}]
  importV6: [{action: Reject, interface: eth*, source: RemotePeers, peerType: eBGP, communities: {values: ["1:2:3"]}, asPathPrefix: [64512], priority: 5}]
"#,
    r#"apiVersion: projectcalico.org/v3
kind: FelixConfiguration
metadata: {name: default}
spec:
  defaultEndpointToHostAction: drop
  failsafeInboundHostPorts: [{protocol: tcp, port: 22, net: 10.0.0.0/8}]
  routeTableRanges: [{min: 1, max: 250}]
  routeRefreshInterval: 1m30s
  mtuIfacePattern: ^eth.*
  interfaceExclude: kube-ipvs0,/^d.*/
  kubeNodePortRanges: ["30000:32767", 80]
  healthTimeoutOverrides: [{name: a, timeout: 1s}]
  bpfConntrackTimeouts: {tcpFinsSeen: Auto, udpTimeout: 60s}
  iptablesMarkMask: 0xffff0000
  istioDSCPMark: EF
  ipv6Support: true
  nodeSelector: has(x)
"#,
    r#"apiVersion: projectcalico.org/v3
kind: KubeControllersConfiguration
metadata: {name: default}
spec:
  healthChecks: Enabled
  etcdV3CompactionPeriod: 10m
  controllers:
    node: {syncLabels: Disabled, hostEndpoint: {autoCreate: Enabled, templates: [{generateName: x, interfacePattern: eth.*, interfaceCIDRs: [10.0.0.0/8], nodeSelector: has(a)}]}}
    loadBalancer: {assignIPs: AllServices}
"#,
    r#"apiVersion: projectcalico.org/v3
kind: ClusterInformation
metadata: {name: default}
spec: {clusterGUID: a, clusterType: k8s, calicoVersion: v3, datastoreReady: true, variant: Calico}
"#,
    r#"apiVersion: projectcalico.org/v3
kind: CalicoNodeStatus
metadata: {name: worker-1}
spec: {node: worker-1, classes: [Agent, BGP, Routes], updatePeriodSeconds: 10}
status:
  agent: {birdV4: {state: Ready, routerID: 192.0.2.1}}
  bgp: {numberEstablishedV4: 1, peersV4: [{peerIP: 192.0.2.2, type: NodeMesh, state: Established, since: now}]}
  routes: {routesV4: [{type: FIB, destination: 10.0.0.0/8, learnedFrom: {sourceType: BGPPeer, peerIP: 192.0.2.2}}]}
"#,
    r#"apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop, managedFields: [{}]}
spec:
  podSelector: {matchExpressions: [{key: a, operator: In, values: [b]}]}
  policyTypes: [Ingress, Egress]
  ingress: [{from: [{namespaceSelector: {}, podSelector: {}}], ports: [{port: 80, endPort: 90}, {port: http, protocol: UDP}]}]
  egress: [{}]
"#,
    r#"apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: base}
spec:
  tier: Baseline
  priority: 5
  subject: {pods: {podSelector: {}, namespaceSelector: {matchLabels: {a: b}}}}
  ingress: [{name: x, action: Deny, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: 80}}}, {udp: {destinationPort: {range: {start: 1, end: 9}}}}]}]
  egress: [{action: Pass, to: [{networks: [10.0.0.0/8]}, {nodes: {}}, {domainNames: ["*.example.org"]}]}]
"#,
    r#"apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {team: a}}
status: {phase: Active}
"#,
    r#"apiVersion: v1
kind: ServiceAccount
metadata: {name: web, namespace: shop, labels: {trust: high}}
"#,
    r#"apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {type: LoadBalancer, clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1], externalIPs: [192.0.2.9], selector: {a: b}, externalTrafficPolicy: Local, ports: [{name: http, port: 80, targetPort: http, nodePort: 30080}]}
status: {loadBalancer: {ingress: [{ip: 192.0.2.10}]}}
"#,
    r#"apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints: [{addresses: [10.65.0.1], conditions: {ready: true}, nodeName: worker-1, targetRef: {kind: Pod, name: web, namespace: shop}}]
ports: [{name: http, port: 8080, protocol: TCP}]
"#,
];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use config::resource::Kind;
    use config::yaml;

    #[test]
    fn every_kind_has_one() {
        let kinds: Vec<Kind> =
            super::DOCUMENTS.iter().map(|text| yaml::parse("document", text).unwrap()[0].kind()).collect();
        assert_eq!(kinds, Kind::ALL);
    }
}
