//! ipam check, and release --from-report: what does not fit together, in calicoctl's words, and its end.
//!
//! An address may be given out between a check and a release. So a release takes what all reports agree on, each address
//! with the number it was seen with, from this cluster only, and wants one report made while the datastore was as it is now.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use control::http::api::ErrorCode;
use control::ipam::call::{CheckView, CheckedAddress, IpamCall, ReleaseCall, ReleaseView};

use super::super::Format;
use super::super::error::CliError;
use super::super::render::{self, harmless};
use super::{CheckArguments, ReleaseArguments};
use crate::client::Client;

/// Nodes that are listed by their addresses.
const NODES_SHOWN: usize = 20;

/// Largest report that is read.
const REPORT_MAX: u64 = 256 * 1024 * 1024;

pub(super) fn check(client: &Client, format: Format, arguments: &CheckArguments) -> Result<(), CliError> {
    let view: CheckView = client.post("/v1/ipam", &IpamCall::Check)?;
    if let Some(path) = &arguments.report {
        let json = serde_json::to_string_pretty(&view)
            .map_err(|error| CliError::Form { form: "JSON", reason: error.to_string() })?;
        fs::write(path, json + "\n").map_err(|error| {
            let message = format!("write {}: {error}", path.display());
            CliError::refused(ErrorCode::Output, message)
        })?;
    }
    if let Some(text) = render::structured(format, &view)? {
        return render::print(&text);
    }
    let mut text = describe(&view, arguments);
    if let Some(path) = &arguments.report {
        text.push_str(&format!("Report written to {}.\n", harmless(&path.display().to_string())));
    }
    render::print(&text)
}

fn describe(view: &CheckView, arguments: &CheckArguments) -> String {
    let mut text = String::from("Checking IPAM for inconsistencies...\n\nLoading all IPAM blocks...\n");
    let mut line = |words: String| {
        text.push_str(&harmless(&words));
        text.push('\n');
    };
    line(format!("Found {} IPAM blocks.", view.blocks.len()));
    for block in &view.blocks {
        line(format!(" IPAM block {} affinity={}:", block.cidr, block.affinity.as_deref().unwrap_or("<none>")));
    }
    line(format!("IPAM blocks record {} allocations.", view.all.len()));
    line(String::new());
    line("Loading all IPAM pools...".to_string());
    view.pools.iter().for_each(|pool| line(format!("  {pool}")));
    line(format!("Found {} active IP pools.", view.pools.len()));
    line(String::new());
    line("Loading all nodes.".to_string());
    line(format!("Found {} node tunnel IPs.", view.tunnel_addresses));
    line(String::new());
    line("Loading all workload endpoints.".to_string());
    line(format!("Found {} workload IPs.", view.workload_addresses));
    line(format!("Workloads and nodes are using {} IPs.", view.workload_addresses + view.tunnel_addresses));
    line(String::new());
    line("Loading all handles".to_string());
    line(format!("Looking for top (up to {NODES_SHOWN}) nodes by allocations..."));
    let mut nodes: Vec<(&String, usize)> = view.nodes.iter().map(|(node, count)| (node, *count)).collect();
    nodes.sort_by_key(|(node, count)| (usize::MAX - count, *node));
    for (node, count) in nodes.iter().take(NODES_SHOWN) {
        line(format!("  {node} has {count} allocations"));
    }
    if let (Some((_, most)), Some((_, median))) = (nodes.first(), nodes.get(nodes.len() / 2)) {
        line(format!("Node with most allocations has {most}; median is {median}"));
    }
    line(String::new());
    let show = arguments.show_problem_ips || arguments.show_all_ips;
    if arguments.show_all_ips {
        view.all.iter().for_each(|found| line(format!("  {}", about(found))));
        line(String::new());
    }
    line("Scanning for IPs that are allocated but not actually in use...".to_string());
    view.leaked.iter().filter(|_| show).for_each(|found| line(format!("  {} leaked; {}", found.address, about(found))));
    line(format!("Found {} IPs that are allocated in IPAM but not actually in use.", view.leaked.len()));
    line("Scanning for IPs that are in use by a workload or node but not allocated in IPAM...".to_string());
    for found in view.outside_pools.iter().filter(|_| show) {
        line(format!("  {} in use by {} but not in any active IP pool", found.address, found.owner));
    }
    for found in view.not_assigned.iter().filter(|_| show) {
        line(format!(
            "  {} in use by {} and in active IPAM pool but has no IPAM allocation",
            found.address, found.owner
        ));
    }
    line(format!("Found {} in-use IPs that are not in active IP pools.", view.outside_pools.len()));
    line(format!(
        "Found {} in-use IPs that are in active IP pools but have no corresponding IPAM allocation.",
        view.not_assigned.len()
    ));
    line(String::new());
    line("Scanning for IPAM handles with no matching IPs...".to_string());
    view.handles_without_addresses.iter().filter(|_| show).for_each(|handle| line(format!("  {handle}")));
    line(format!(
        "Found {} handles with no matching IPs (and {} handles with matches).",
        view.handles_without_addresses.len(),
        view.handles_with_addresses
    ));
    line("Scanning for IPs with missing handle...".to_string());
    view.missing_handles.iter().filter(|_| show).for_each(|handle| line(format!("  {handle}")));
    line(format!("Found {} handles mentioned in blocks with no matching handle resource.", view.missing_handles.len()));
    line(format!("Check complete; found {} problems.", view.problems()));
    text
}

fn about(found: &CheckedAddress) -> String {
    let handle = found.handle.as_deref().unwrap_or("none");
    format!("{} handle {handle}, {}", found.address, found.owner)
}

/// Gives back what all reports say that nobody has.
pub(super) fn release_reported(client: &Client, format: Format, arguments: &ReleaseArguments) -> Result<(), CliError> {
    let reports: Vec<CheckView> = arguments.from_report.iter().map(|path| read(path)).collect::<Result<_, _>>()?;
    let now: CheckView = client.post("/v1/ipam", &IpamCall::Check)?;
    let refused = |message: String| Err(CliError::refused(ErrorCode::NotReleased, message));
    for (report, path) in reports.iter().zip(&arguments.from_report) {
        let path = path.display();
        if report.cluster_guid != now.cluster_guid {
            let (found, expected) = (&report.cluster_guid, &now.cluster_guid);
            return refused(format!(
                "{path}: found a report of cluster {found:?}, expected {expected:?}; nothing was released"
            ));
        }
        if report.version != now.version && !arguments.force {
            let (found, expected) = (&report.version, &now.version);
            return refused(format!(
                "{path}: found a report of version {found}, expected {expected}; check again, or use --force"
            ));
        }
    }
    let is_current = |report: &CheckView| report.cluster_information_revision == now.cluster_information_revision;
    if !reports.iter().any(is_current) {
        let message = "no report was made since the datastore was locked; check again and add that report";
        return refused(format!("{message}; nothing was released"));
    }
    if !now.is_locked && !arguments.force {
        let message = "the datastore is not locked: set datastoreReady of ClusterInformation default to false first, or use --force";
        return refused(format!("{message}; nothing was released"));
    }
    let all = agreed(&reports);
    let calls = all.into_iter().map(|found| ReleaseCall {
        address: Some(found.address),
        handle: found.handle,
        sequence: found.sequence,
    });
    let calls: Vec<ReleaseCall> = calls.collect();
    let mut view = ReleaseView::default();
    for part in calls.chunks(1000) {
        let part: ReleaseView = client.post("/v1/ipam", &IpamCall::ReleaseAll { addresses: part.to_vec() })?;
        view.released.extend(part.released);
        view.left.extend(part.left);
    }
    if let Some(text) = render::structured(format, &view)? {
        return render::print(&text);
    }
    let left: String = view.left.iter().map(|reason| format!("{}\n", harmless(reason))).collect();
    render::print(&format!("{left}Successfully released {} IPs\n", view.released.len()))
}

/// What every report has, with the same handle and number.
fn agreed(reports: &[CheckView]) -> BTreeSet<CheckedAddress> {
    let mut sets = reports.iter().map(|report| report.leaked.iter().cloned().collect::<BTreeSet<_>>());
    let first = sets.next().unwrap_or_default();
    sets.fold(first, |all, set| all.intersection(&set).cloned().collect())
}

fn read(path: &Path) -> Result<CheckView, CliError> {
    let failed = |source| CliError::Read { path: path.to_path_buf(), source };
    let size = fs::metadata(path).map_err(failed)?.len();
    if size > REPORT_MAX {
        let message = format!("{}: found {size} octets, expected a report of at most {REPORT_MAX}", path.display());
        return Err(CliError::refused(ErrorCode::TooLarge, message));
    }
    let text = fs::read_to_string(path).map_err(failed)?;
    serde_json::from_str(&text).map_err(|error| {
        let message = format!("{}: expected a report of `vrouter ipam check --report FILE`: {error}", path.display());
        CliError::refused(ErrorCode::BadBody, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(leaked: &[(&str, &str, u64)]) -> CheckView {
        let leaked: Vec<CheckedAddress> = leaked
            .iter()
            .map(|(address, handle, sequence)| CheckedAddress {
                address: address.parse().unwrap(),
                handle: Some(handle.to_string()),
                sequence: Some(*sequence),
                owner: "shop/web".to_string(),
            })
            .collect();
        CheckView {
            version: "0.1.0".to_string(),
            cluster_guid: "g".to_string(),
            cluster_information_revision: "3".to_string(),
            is_locked: false,
            pools: vec!["10.65.0.0/16".to_string()],
            blocks: Vec::new(),
            tunnel_addresses: 0,
            workload_addresses: 0,
            nodes: [("a".to_string(), 2), ("b".to_string(), 5)].into(),
            handles_with_addresses: 1,
            all: leaked.clone(),
            leaked,
            outside_pools: Vec::new(),
            not_assigned: Vec::new(),
            handles_without_addresses: vec!["old".to_string()],
            missing_handles: Vec::new(),
        }
    }

    #[test]
    fn reports_agree_on_an_address_that_was_not_given_out_again() {
        let first = view(&[("10.65.0.1", "a", 1), ("10.65.0.2", "b", 2), ("10.65.0.3", "c", 3)]);
        let second = view(&[("10.65.0.1", "a", 1), ("10.65.0.2", "b", 9), ("10.65.0.3", "d", 3)]);
        let found: Vec<String> = agreed(&[first, second]).iter().map(|found| found.address.to_string()).collect();
        assert_eq!(found, ["10.65.0.1"]);
    }

    #[test]
    fn a_check_says_what_calicoctl_says() {
        let arguments = CheckArguments { show_all_ips: false, show_problem_ips: true, report: None };
        let text = describe(&view(&[("10.65.0.1", "a", 1)]), &arguments);
        let check = |expected: &str| assert!(text.contains(expected), "{expected:?} is not in\n{text}");
        check("IPAM blocks record 1 allocations.\n");
        check("  b has 5 allocations\n  a has 2 allocations\nNode with most allocations has 5; median is 2\n");
        check(
            "  10.65.0.1 leaked; 10.65.0.1 handle a, shop/web\nFound 1 IPs that are allocated in IPAM but not actually in use.\n",
        );
        check("  old\nFound 1 handles with no matching IPs (and 1 handles with matches).\n");
        check("Check complete; found 2 problems.\n");
    }
}
