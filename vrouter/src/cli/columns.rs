//! The columns of `get`, kind by kind, with calicoctl's headings.
//!
//! A column is a heading and the places in the resource's JSON to take the cell from. What a kind shows is one row of
//! `COLUMNS`; a kind without a row shows its name.

use config::resource::Kind;
use control::http::api::ErrorCode;
use serde_json::Value;

use super::error::CliError;
use super::render::{self, Table};

/// A heading, and where its cell is: the first place that has something. A place behind a `#` is a list to
/// count; one that is no pointer is the text for "nothing there".
type Column = (&'static str, &'static [&'static str]);

/// What a kind shows: always, and in addition with `-o wide`.
struct Row {
    kinds: &'static [Kind],
    narrow: &'static [Column],
    wide: &'static [Column],
}

const NAMESPACE: Column = ("NAMESPACE", &["/metadata/namespace"]);
const NAME: Column = ("NAME", &["/metadata/name"]);
const NODE: Column = ("NODE", &["/spec/node"]);
const TIER: Column = ("TIER", &["/spec/tier", "default"]);
const CIDR: Column = ("CIDR", &["/spec/cidr"]);
const ORDER: Column = ("ORDER", &["/spec/order"]);
const SELECTOR: Column = ("SELECTOR", &["/spec/selector", "all()"]);
const NODE_SELECTOR: Column = ("SELECTOR", &["/spec/nodeSelector", "all()"]);
const INTERFACE: Column = ("INTERFACE", &["/spec/interfaceName"]);
const PROFILES: Column = ("PROFILES", &["/spec/profiles"]);
const WORKLOAD: Column = ("WORKLOAD", &["/spec/pod", "/spec/workload"]);
const NETWORKS: Column = ("NETWORKS", &["/spec/ipNetworks"]);

const COLUMNS: &[Row] = &[
    Row {
        kinds: &[
            Kind::NetworkPolicy,
            Kind::GlobalNetworkPolicy,
            Kind::StagedNetworkPolicy,
            Kind::StagedGlobalNetworkPolicy,
        ],
        narrow: &[NAME, TIER],
        wide: &[ORDER, SELECTOR],
    },
    Row { kinds: &[Kind::Tier], narrow: &[NAME, ORDER], wide: &[] },
    Row { kinds: &[Kind::Profile], narrow: &[NAME], wide: &[("LABELS", &["/spec/labelsToApply"])] },
    Row {
        kinds: &[Kind::HostEndpoint],
        narrow: &[NAME, NODE],
        wide: &[INTERFACE, ("IPS", &["/spec/expectedIPs"]), PROFILES],
    },
    Row {
        kinds: &[Kind::Node],
        narrow: &[NAME],
        wide: &[
            ("ASN", &["/spec/bgp/asNumber"]),
            ("IPV4", &["/spec/bgp/ipv4Address"]),
            ("IPV6", &["/spec/bgp/ipv6Address"]),
        ],
    },
    Row {
        kinds: &[Kind::StaticRoute],
        narrow: &[
            NAME,
            ("DESTINATION", &["/spec/destination"]),
            ("NEXTHOP", &["/spec/nextHop"]),
            ("INTERFACE", &["/spec/interface"]),
        ],
        wide: &[NODE, ("BLACKHOLE", &["/spec/blackhole", "false"])],
    },
    Row { kinds: &[Kind::NetworkSet, Kind::GlobalNetworkSet], narrow: &[NAME], wide: &[("NETS", &["/spec/nets"])] },
    Row { kinds: &[Kind::IpReservation], narrow: &[NAME], wide: &[("CIDRS", &["/spec/reservedCIDRs"])] },
    Row {
        kinds: &[Kind::IpamConfiguration],
        narrow: &[
            NAME,
            ("STRICTAFFINITY", &["/spec/strictAffinity", "false"]),
            ("AUTOALLOCATEBLOCKS", &["/spec/autoAllocateBlocks", "true"]),
        ],
        wide: &[("MAXBLOCKSPERHOST", &["/spec/maxBlocksPerHost", "0"])],
    },
    Row {
        kinds: &[Kind::BlockAffinity],
        narrow: &[NAME, NODE, CIDR, ("STATE", &["/spec/state"]), ("TYPE", &["/spec/type"])],
        wide: &[],
    },
    Row { kinds: &[Kind::IpamBlock], narrow: &[NAME, CIDR, ("AFFINITY", &["/spec/affinity"])], wide: &[] },
    Row { kinds: &[Kind::IpamHandle], narrow: &[NAME, ("HANDLE", &["/spec/handleID"])], wide: &[] },
    Row {
        kinds: &[Kind::BgpConfiguration],
        narrow: &[
            NAME,
            ("LOGSEVERITY", &["/spec/logSeverityScreen", "Info"]),
            ("MESHENABLED", &["/spec/nodeToNodeMeshEnabled"]),
            ("ASNUMBER", &["/spec/asNumber"]),
        ],
        wide: &[],
    },
    Row {
        kinds: &[Kind::BgpPeer],
        narrow: &[
            NAME,
            ("PEERIP", &["/spec/peerIP"]),
            ("NODE", &["/spec/node", "/spec/nodeSelector", "(global)"]),
            ("ASN", &["/spec/asNumber"]),
        ],
        wide: &[],
    },
    Row {
        kinds: &[Kind::BgpFilter],
        narrow: &[
            NAME,
            ("NUMEXPORTV4", &["#/spec/exportV4"]),
            ("NUMIMPORTV4", &["#/spec/importV4"]),
            ("NUMEXPORTV6", &["#/spec/exportV6"]),
            ("NUMIMPORTV6", &["#/spec/importV6"]),
        ],
        wide: &[],
    },
    Row {
        kinds: &[Kind::ClusterInformation],
        narrow: &[
            NAME,
            ("CLUSTERGUID", &["/spec/clusterGUID"]),
            ("CLUSTERTYPE", &["/spec/clusterType"]),
            ("CALICOVERSION", &["/spec/calicoVersion"]),
            ("DATASTOREREADY", &["/spec/datastoreReady"]),
        ],
        wide: &[],
    },
    Row { kinds: &[Kind::CalicoNodeStatus], narrow: &[NAME, NODE], wide: &[("CLASSES", &["/spec/classes"])] },
    Row {
        kinds: &[Kind::KubernetesNetworkPolicy, Kind::StagedKubernetesNetworkPolicy],
        narrow: &[NAME],
        wide: &[("POD-SELECTOR", &["/spec/podSelector"]), ("TYPES", &["/spec/policyTypes"])],
    },
    Row { kinds: &[Kind::ClusterNetworkPolicy], narrow: &[NAME, TIER, ("PRIORITY", &["/spec/priority"])], wide: &[] },
    Row {
        kinds: &[Kind::Service],
        narrow: &[
            NAME,
            ("TYPE", &["/spec/type"]),
            ("CLUSTER-IP", &["/spec/clusterIPs", "/spec/clusterIP"]),
            ("PORTS", &["/spec/ports"]),
        ],
        wide: &[],
    },
    Row {
        kinds: &[Kind::EndpointSlice],
        narrow: &[NAME, ("ADDRESSTYPE", &["/addressType"]), ("PORTS", &["/ports"]), ("ENDPOINTS", &["#/endpoints"])],
        wide: &[],
    },
];

/// With `-o wide` these kinds do not add columns but show others.
const REPLACED: &[(Kind, &[Column], &[Column])] = &[
    (
        Kind::WorkloadEndpoint,
        &[WORKLOAD, NODE, NETWORKS, INTERFACE],
        &[NAME, WORKLOAD, NODE, NETWORKS, INTERFACE, PROFILES, ("NATS", &["/spec/ipNATs"])],
    ),
    (
        Kind::IpPool,
        &[NAME, CIDR, NODE_SELECTOR],
        &[
            NAME,
            CIDR,
            ("NAT", &["/spec/natOutgoing", "false"]),
            ("IPIPMODE", &["/spec/ipipMode", "Never"]),
            ("VXLANMODE", &["/spec/vxlanMode", "Never"]),
            ("DISABLED", &["/spec/disabled", "false"]),
            ("DISABLEBGPEXPORT", &["/spec/disableBGPExport", "false"]),
            NODE_SELECTOR,
            ("ASSIGNMENTMODE", &["/spec/assignmentMode", "Automatic"]),
        ],
    ),
];

fn columns(kind: Kind, is_wide: bool) -> Vec<Column> {
    if let Some((_, narrow, wide)) = REPLACED.iter().find(|(replaced, ..)| *replaced == kind) {
        return if is_wide { wide.to_vec() } else { narrow.to_vec() };
    }
    let Some(row) = COLUMNS.iter().find(|row| row.kinds.contains(&kind)) else {
        return vec![NAME];
    };
    let wide = if is_wide { row.wide } else { &[] };
    row.narrow.iter().chain(wide).copied().collect()
}

/// One table per kind, in the order of first appearance. The kind asked for has one even when empty.
pub fn tables(asked: Option<Kind>, items: &[Value], is_wide: bool, with_namespace: bool) -> String {
    let table = |kind: Kind| {
        let mut columns = columns(kind, is_wide);
        if with_namespace && kind.is_namespaced() {
            columns.insert(0, NAMESPACE);
        }
        let mut table = Table::new(columns.iter().map(|(heading, _)| *heading));
        for item in items.iter().filter(|item| kind_of(item) == Some(kind)) {
            table.row(columns.iter().map(|(_, places)| value(item, places)));
        }
        table.text()
    };
    kinds(asked, items).into_iter().map(table).collect::<Vec<_>>().join("\n")
}

/// The columns named: a heading of the kind, or `HEADING:.path.to.value` for any place in the resource.
pub fn custom(asked: Option<Kind>, items: &[Value], names: &[String]) -> Result<String, CliError> {
    let table = |kind: Kind| -> Result<String, CliError> {
        let places = names.iter().map(|name| place(kind, name)).collect::<Result<Vec<_>, _>>()?;
        let mut table = Table::new(places.iter().map(|(heading, _)| heading.clone()));
        for item in items.iter().filter(|item| kind_of(item) == Some(kind)) {
            table.row(places.iter().map(|(_, place)| match place {
                Place::Of(places) => value(item, places),
                Place::Pointer(pointer) => item.pointer(pointer).map(render::cell).unwrap_or_default(),
            }));
        }
        Ok(table.text())
    };
    let tables = kinds(asked, items).into_iter().map(table).collect::<Result<Vec<_>, _>>()?;
    Ok(tables.join("\n"))
}

enum Place {
    Of(&'static [&'static str]),
    Pointer(String),
}

fn place(kind: Kind, name: &str) -> Result<(String, Place), CliError> {
    if let Some((heading, path)) = name.split_once(':') {
        let path = path.trim_start_matches(['.', '{']).trim_end_matches('}').trim_start_matches('.');
        let steps = path.replace(']', "").replace(['[', '.'], "/");
        return Ok((heading.to_string(), Place::Pointer(format!("/{steps}"))));
    }
    let mut known = columns(kind, true);
    known.extend(columns(kind, false));
    known.extend([NAMESPACE, NAME]);
    match known.iter().find(|(heading, _)| heading.eq_ignore_ascii_case(name)) {
        Some((heading, places)) => Ok((heading.to_string(), Place::Of(places))),
        None => {
            let mut headings: Vec<&str> = known.iter().map(|(heading, _)| *heading).collect();
            headings.sort_unstable();
            headings.dedup();
            let message = format!(
                "unknown column {name:?} of {kind}, expected one of {}, or NAME:.path.to.value",
                headings.join(", ")
            );
            Err(CliError::refused(ErrorCode::Usage, message))
        }
    }
}

fn kind_of(item: &Value) -> Option<Kind> {
    Kind::of(item["apiVersion"].as_str()?, item["kind"].as_str()?)
}

fn kinds(asked: Option<Kind>, items: &[Value]) -> Vec<Kind> {
    let mut kinds: Vec<Kind> = Vec::new();
    for kind in asked.into_iter().chain(items.iter().filter_map(kind_of)) {
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    kinds
}

fn value(item: &Value, places: &[&str]) -> String {
    let at = |place: &&str| match (place.strip_prefix('#'), place.starts_with('/')) {
        (Some(list), _) => Some(item.pointer(list).and_then(Value::as_array).map_or(0, Vec::len).to_string()),
        (None, true) => item.pointer(place).map(render::cell).filter(|text| !text.is_empty()),
        (None, false) => Some(place.to_string()),
    };
    places.iter().find_map(at).unwrap_or_default()
}
