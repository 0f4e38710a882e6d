//! get: resources as calicoctl shows them.
//!
//! A column is a heading and the places in the resource's JSON to take the cell from, so a new
//! column is one line of `columns`.
//!
//! Left out: custom columns and templates; `-o json` and a tool that reads it do that.

use std::path::PathBuf;

use clap::Args;
use config::resource::{DEFAULT_NAMESPACE, Key, Kind, Resource};
use control::http::views::GetReply;
use serde_json::{Value, json};

use super::Format;
use super::error::CliError;
use super::input::{self, Walk};
use super::render::{self, Table};
use crate::client::{Client, encode};

/// What the store adds to a resource; `--export` leaves it out.
const STORE_FIELDS: [&str; 3] = ["uid", "resourceVersion", "creationTimestamp"];

#[derive(Debug, Args)]
pub struct GetArguments {
    /// Kind, in any of calicoctl's words
    #[arg(required_unless_present = "files")]
    kind: Option<String>,

    #[arg(value_name = "NAME")]
    names: Vec<String>,

    /// The resources of these manifests; may be given several times
    #[arg(short, long = "filename", conflicts_with = "kind", value_name = "FILE|DIR|-")]
    files: Vec<PathBuf>,

    #[command(flatten)]
    walk: Walk,

    /// Namespace to look in
    #[arg(short, long, default_value = DEFAULT_NAMESPACE)]
    namespace: String,

    /// Look in all namespaces
    #[arg(short = 'A', long, short_alias = 'a')]
    all_namespaces: bool,

    /// Leave out what the datastore added
    #[arg(long)]
    export: bool,
}

pub fn get(client: &Client, format: Format, arguments: &GetArguments) -> Result<(), CliError> {
    let mut items = fetch(client, arguments)?;
    items.iter_mut().for_each(render::shorten_numbers);
    if arguments.export {
        items.iter_mut().for_each(strip);
    }
    // One resource that was named is shown alone, everything else as a list.
    let is_single = arguments.names.len() == 1 && items.len() == 1;
    let structured = match is_single {
        true => render::structured(format, &items[0])?,
        false => render::structured(format, &list(arguments, &items)?)?,
    };
    match structured {
        Some(text) => render::print(&text),
        None => {
            let asked = arguments.kind.as_deref().map(super::kind).transpose()?;
            render::print(&tables(asked, &items, format == Format::Wide, arguments.all_namespaces))
        }
    }
}

/// The path of one resource.
pub fn path(key: &Key) -> String {
    let query = key.namespace.as_deref().map(|namespace| format!("?namespace={}", encode(namespace)));
    format!("/v1/resources/{}/{}{}", key.kind, encode(&key.name), query.unwrap_or_default())
}

fn fetch(client: &Client, arguments: &GetArguments) -> Result<Vec<Value>, CliError> {
    let keys: Vec<Key> = match &arguments.kind {
        None => input::read(&arguments.files, arguments.walk)?.iter().map(Resource::key).collect(),
        Some(word) => {
            let kind = super::kind(word)?;
            if arguments.names.is_empty() {
                let query = match kind.is_namespaced() && !arguments.all_namespaces {
                    true => format!("?namespace={}", encode(&arguments.namespace)),
                    false => String::new(),
                };
                return Ok(client.get::<GetReply>(&format!("/v1/resources/{kind}{query}"))?.items);
            }
            if arguments.all_namespaces && kind.is_namespaced() {
                return Err(CliError::Usage("a name and all namespaces cannot be combined; use -n".to_string()));
            }
            let key = |name: &String| super::key(kind, Some(&arguments.namespace), name);
            arguments.names.iter().map(key).collect()
        }
    };
    let mut items = Vec::with_capacity(keys.len());
    for key in keys {
        items.extend(client.get::<GetReply>(&path(&key))?.items);
    }
    Ok(items)
}

fn strip(item: &mut Value) {
    if let Some(metadata) = item["metadata"].as_object_mut() {
        metadata.retain(|name, _| !STORE_FIELDS.contains(&name.as_str()));
    }
}

fn list(arguments: &GetArguments, items: &[Value]) -> Result<Value, CliError> {
    let (api_version, kind) = match &arguments.kind {
        Some(word) => {
            let kind = super::kind(word)?;
            (kind.api_version(), format!("{}List", kind.written()))
        }
        None => ("v1", "List".to_string()),
    };
    Ok(json!({ "apiVersion": api_version, "kind": kind, "items": items }))
}

/// One table per kind, in the order of first appearance. The kind asked for has one even when empty.
pub(super) fn tables(asked: Option<Kind>, items: &[Value], is_wide: bool, with_namespace: bool) -> String {
    let kind_of = |item: &Value| Kind::of(item["apiVersion"].as_str()?, item["kind"].as_str()?);
    let mut kinds: Vec<Kind> = Vec::new();
    for kind in asked.into_iter().chain(items.iter().filter_map(kind_of)) {
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    let table = |kind: Kind| {
        let mut columns = columns(kind, is_wide);
        if with_namespace && kind.is_namespaced() {
            columns.insert(0, ("NAMESPACE", &["/metadata/namespace"]));
        }
        let mut table = Table::new(columns.iter().map(|(heading, _)| *heading));
        for item in items.iter().filter(|item| kind_of(item) == Some(kind)) {
            table.row(columns.iter().map(|(_, places)| value(item, places)));
        }
        table.text()
    };
    kinds.into_iter().map(table).collect::<Vec<_>>().join("\n")
}

/// A heading, and where its cell is: the first place that has something. A place behind a `#` is a list to
/// count; one that is no pointer is the text for "nothing there".
type ColumnOf = (&'static str, &'static [&'static str]);

fn value(item: &Value, places: &[&str]) -> String {
    let at = |place: &&str| match (place.strip_prefix('#'), place.starts_with('/')) {
        (Some(list), _) => Some(item.pointer(list).and_then(Value::as_array).map_or(0, Vec::len).to_string()),
        (None, true) => item.pointer(place).map(render::cell).filter(|text| !text.is_empty()),
        (None, false) => Some(place.to_string()),
    };
    places.iter().find_map(at).unwrap_or_default()
}

fn columns(kind: Kind, is_wide: bool) -> Vec<ColumnOf> {
    const NAME: ColumnOf = ("NAME", &["/metadata/name"]);
    const NODE: ColumnOf = ("NODE", &["/spec/node"]);
    const TIER: ColumnOf = ("TIER", &["/spec/tier", "default"]);
    const CIDR: ColumnOf = ("CIDR", &["/spec/cidr"]);
    const POOL_SELECTOR: ColumnOf = ("SELECTOR", &["/spec/nodeSelector", "all()"]);
    const INTERFACE: ColumnOf = ("INTERFACE", &["/spec/interfaceName"]);
    const WORKLOAD: ColumnOf = ("WORKLOAD", &["/spec/pod", "/spec/workload"]);
    const NETWORKS: ColumnOf = ("NETWORKS", &["/spec/ipNetworks"]);
    const PROFILES: ColumnOf = ("PROFILES", &["/spec/profiles"]);
    match (kind, is_wide) {
        (
            Kind::NetworkPolicy
            | Kind::GlobalNetworkPolicy
            | Kind::StagedNetworkPolicy
            | Kind::StagedGlobalNetworkPolicy,
            is_wide,
        ) => {
            let mut columns = vec![NAME, TIER];
            if is_wide {
                columns.extend([("ORDER", &["/spec/order"][..]), ("SELECTOR", &["/spec/selector", "all()"])]);
            }
            columns
        }
        (Kind::Tier, _) => vec![NAME, ("ORDER", &["/spec/order"])],
        (Kind::Profile, false) => vec![NAME],
        (Kind::Profile, true) => vec![NAME, ("LABELS", &["/spec/labelsToApply"])],
        (Kind::HostEndpoint, false) => vec![NAME, NODE],
        (Kind::HostEndpoint, true) => vec![NAME, NODE, INTERFACE, ("IPS", &["/spec/expectedIPs"]), PROFILES],
        (Kind::WorkloadEndpoint, false) => vec![WORKLOAD, NODE, NETWORKS, INTERFACE],
        (Kind::WorkloadEndpoint, true) => {
            vec![NAME, WORKLOAD, NODE, NETWORKS, INTERFACE, PROFILES, ("NATS", &["/spec/ipNATs"])]
        }
        (Kind::Node, false) => vec![NAME],
        (Kind::Node, true) => vec![
            NAME,
            ("ASN", &["/spec/bgp/asNumber"]),
            ("IPV4", &["/spec/bgp/ipv4Address"]),
            ("IPV6", &["/spec/bgp/ipv6Address"]),
        ],
        (Kind::IpPool, false) => vec![NAME, CIDR, POOL_SELECTOR],
        (Kind::IpPool, true) => vec![
            NAME,
            CIDR,
            ("NAT", &["/spec/natOutgoing", "false"]),
            ("IPIPMODE", &["/spec/ipipMode", "Never"]),
            ("VXLANMODE", &["/spec/vxlanMode", "Never"]),
            ("DISABLED", &["/spec/disabled", "false"]),
            ("DISABLEBGPEXPORT", &["/spec/disableBGPExport", "false"]),
            POOL_SELECTOR,
            ("ASSIGNMENTMODE", &["/spec/assignmentMode", "Automatic"]),
        ],
        (Kind::StaticRoute, false) => {
            vec![NAME, ("DESTINATION", &["/spec/destination"]), ("NEXTHOP", &["/spec/nextHop"]), INTERFACE_OF_ROUTE]
        }
        (Kind::StaticRoute, true) => vec![
            NAME,
            ("DESTINATION", &["/spec/destination"]),
            ("NEXTHOP", &["/spec/nextHop"]),
            INTERFACE_OF_ROUTE,
            NODE,
            ("BLACKHOLE", &["/spec/blackhole", "false"]),
        ],
        (Kind::NetworkSet | Kind::GlobalNetworkSet, true) => vec![NAME, ("NETS", &["/spec/nets"])],
        (Kind::IpReservation, true) => vec![NAME, ("CIDRS", &["/spec/reservedCIDRs"])],
        (Kind::IpamConfiguration, is_wide) => {
            let mut columns = vec![
                NAME,
                ("STRICTAFFINITY", &["/spec/strictAffinity"][..]),
                ("AUTOALLOCATEBLOCKS", &["/spec/autoAllocateBlocks"]),
            ];
            if is_wide {
                columns.push(("MAXBLOCKSPERHOST", &["/spec/maxBlocksPerHost", "0"]));
            }
            columns
        }
        (Kind::BlockAffinity, _) => vec![NAME, NODE, CIDR, ("STATE", &["/spec/state"]), ("TYPE", &["/spec/type"])],
        (Kind::BgpConfiguration, _) => vec![
            NAME,
            ("LOGSEVERITY", &["/spec/logSeverityScreen", "Info"]),
            ("MESHENABLED", &["/spec/nodeToNodeMeshEnabled"]),
            ("ASNUMBER", &["/spec/asNumber"]),
        ],
        (Kind::BgpPeer, _) => vec![
            NAME,
            ("PEERIP", &["/spec/peerIP"]),
            ("NODE", &["/spec/node", "/spec/nodeSelector", "(global)"]),
            ("ASN", &["/spec/asNumber"]),
        ],
        (Kind::BgpFilter, _) => vec![
            NAME,
            ("NUMEXPORTV4", &["#/spec/exportV4"]),
            ("NUMIMPORTV4", &["#/spec/importV4"]),
            ("NUMEXPORTV6", &["#/spec/exportV6"]),
            ("NUMIMPORTV6", &["#/spec/importV6"]),
        ],
        (Kind::ClusterInformation, _) => vec![
            NAME,
            ("CLUSTERGUID", &["/spec/clusterGUID"]),
            ("CLUSTERTYPE", &["/spec/clusterType"]),
            ("CALICOVERSION", &["/spec/calicoVersion"]),
            ("DATASTOREREADY", &["/spec/datastoreReady"]),
        ],
        (Kind::CalicoNodeStatus, false) => vec![NAME, NODE],
        (Kind::CalicoNodeStatus, true) => vec![NAME, NODE, ("CLASSES", &["/spec/classes"])],
        (Kind::KubernetesNetworkPolicy, true) => {
            vec![NAME, ("POD-SELECTOR", &["/spec/podSelector"]), ("TYPES", &["/spec/policyTypes"])]
        }
        (Kind::ClusterNetworkPolicy, _) => vec![NAME, TIER, ("PRIORITY", &["/spec/priority"])],
        (Kind::Service, _) => vec![
            NAME,
            ("TYPE", &["/spec/type"]),
            ("CLUSTER-IP", &["/spec/clusterIPs", "/spec/clusterIP"]),
            ("PORTS", &["/spec/ports"]),
        ],
        (Kind::EndpointSlice, _) => {
            vec![NAME, ("ADDRESSTYPE", &["/addressType"]), ("PORTS", &["/ports"]), ("ENDPOINTS", &["#/endpoints"])]
        }
        (
            Kind::NetworkSet
            | Kind::GlobalNetworkSet
            | Kind::IpReservation
            | Kind::StagedKubernetesNetworkPolicy
            | Kind::FelixConfiguration
            | Kind::KubeControllersConfiguration
            | Kind::KubernetesNetworkPolicy
            | Kind::Namespace
            | Kind::ServiceAccount,
            _,
        ) => vec![NAME],
    }
}

const INTERFACE_OF_ROUTE: ColumnOf = ("INTERFACE", &["/spec/interface"]);
