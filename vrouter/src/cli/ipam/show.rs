//! ipam show and who: pools, blocks, borrowed addresses, the configuration, one address.

use std::net::IpAddr;

use control::ipam::call::{AddressView, BorrowedView, ConfigurationView, CountsView, IpamCall, PoolsView};

use super::super::Format;
use super::super::error::CliError;
use super::super::render::{self, harmless};
use super::ShowArguments;
use crate::client::Client;

pub(super) fn show(client: &Client, format: Format, arguments: &ShowArguments) -> Result<(), CliError> {
    if let Some(address) = arguments.ip {
        return one(client, format, address);
    }
    if arguments.show_configuration {
        return configuration(client, format);
    }
    if arguments.show_borrowed {
        return borrowed(client, format);
    }
    let view: PoolsView = client.post("/v1/ipam", &IpamCall::Pools)?;
    if let Some(text) = render::structured(format, &view)? {
        return render::print(&text);
    }
    let headings = ["GROUPING", "CIDR", "IPS TOTAL", "IPS IN USE", "IPS RESERVED", "IPS FREE"];
    let mut rows = Vec::new();
    for pool in &view.pools {
        rows.push(row("IP Pool", &pool.cidr, &pool.counts));
        for block in pool.blocks.iter().filter(|_| arguments.show_blocks) {
            rows.push(row("Block", &block.cidr, &block.counts));
        }
    }
    for block in view.stray.iter().filter(|_| arguments.show_blocks) {
        rows.push(row("Block", &block.cidr, &block.counts));
    }
    render::print(&render::framed(&headings, &rows))
}

fn row(grouping: &str, cidr: &str, counts: &CountsView) -> Vec<String> {
    let share = |count: u64| {
        let percent = if counts.total == 0 { 0.0 } else { 100.0 * count as f64 / counts.total as f64 };
        format!("{} ({percent:.0}%)", short(count))
    };
    // What rests is free for nobody yet.
    let used = counts.in_use + counts.resting;
    let cells = [grouping.to_string(), cidr.to_string(), short(counts.total), share(used), share(counts.reserved)];
    cells.into_iter().chain([share(counts.free)]).collect()
}

/// Five digits, as Go's `%.5g` has them.
fn short(count: u64) -> String {
    if count < 100_000 {
        return count.to_string();
    }
    let text = format!("{:.4e}", count as f64);
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let digits = digits.trim_end_matches('0').trim_end_matches('.');
    format!("{digits}e+{exponent:0>2}")
}

fn borrowed(client: &Client, format: Format) -> Result<(), CliError> {
    let view: Vec<BorrowedView> = client.post("/v1/ipam", &IpamCall::Borrowed)?;
    if let Some(text) = render::structured(format, &view)? {
        return render::print(&text);
    }
    let headings = ["IP", "BORROWING-NODE", "BLOCK", "BLOCK OWNER", "TYPE", "ALLOCATED-TO"];
    let row = |view: &BorrowedView| {
        let BorrowedView { address, borrowing_node, block, block_owner, kind, allocated_to } = view.clone();
        vec![address.to_string(), borrowing_node, block, block_owner, kind, allocated_to]
    };
    let rows: Vec<Vec<String>> = view.iter().map(row).collect();
    render::print(&render::framed(&headings, &rows))
}

pub(super) fn configuration(client: &Client, format: Format) -> Result<(), CliError> {
    let view: ConfigurationView = client.post("/v1/ipam", &IpamCall::Configuration)?;
    if let Some(text) = render::structured(format, &view)? {
        return render::print(&text);
    }
    let rows = [
        ("StrictAffinity", view.strict_affinity.to_string()),
        ("AutoAllocateBlocks", view.auto_allocate_blocks.to_string()),
        ("MaxBlocksPerHost", view.max_blocks_per_host.to_string()),
        ("KubeVirtVMAddressPersistence", view.kube_virt_vm_address_persistence),
        ("IPCooldownSeconds", view.ip_cooldown_seconds.to_string()),
    ];
    let rows: Vec<Vec<String>> = rows.into_iter().map(|(name, value)| vec![name.to_string(), value]).collect();
    render::print(&render::framed(&["PROPERTY", "VALUE"], &rows))
}

fn one(client: &Client, format: Format, address: IpAddr) -> Result<(), CliError> {
    let view: AddressView = client.post("/v1/ipam", &IpamCall::Who { address })?;
    if let Some(text) = render::structured(format, &view)? {
        return render::print(&text);
    }
    if !view.is_assigned {
        return render::print(&format!("IP {address} is not currently assigned\n"));
    }
    let mut text = format!("IP {address} is in use\n");
    if !view.attributes.is_empty() {
        text.push_str("Attributes:\n");
    }
    for (name, value) in &view.attributes {
        text.push_str(&format!("  {}: {}\n", harmless(name), harmless(value)));
    }
    render::print(&text)
}

/// All that is known of an address.
pub(super) fn who(client: &Client, format: Format, address: IpAddr) -> Result<(), CliError> {
    let view: AddressView = client.post("/v1/ipam", &IpamCall::Who { address })?;
    if let Some(text) = render::structured(format, &view)? {
        return render::print(&text);
    }
    let none = || "none".to_string();
    let state = match (&view.rests_until, view.is_assigned, view.is_reserved) {
        (Some(until), _, _) => format!("released, rests until {until}"),
        (None, true, true) => "assigned, reserved".to_string(),
        (None, true, false) => "assigned".to_string(),
        (None, false, true) => "free, reserved: only by name".to_string(),
        (None, false, false) if view.pool.is_none() => "outside of all pools".to_string(),
        (None, false, false) => "free".to_string(),
    };
    let block = match (view.block, view.block_owner) {
        (Some(block), Some(owner)) => format!("{block} of {owner}"),
        (Some(block), None) => format!("{block} of nobody"),
        (None, _) => none(),
    };
    let mut lines = vec![
        ("Address".to_string(), address.to_string()),
        ("State".to_string(), state),
        ("Pool".to_string(), view.pool.unwrap_or_else(none)),
        ("Block".to_string(), block),
    ];
    if view.is_assigned {
        lines.push(("Handle".to_string(), view.handle.unwrap_or_else(none)));
    }
    lines.extend(view.attributes.into_iter().map(|(name, value)| (format!("  {name}"), value)));
    let endpoints = if view.endpoints.is_empty() { none() } else { view.endpoints.join(", ") };
    lines.push(("Endpoints".to_string(), endpoints));
    let width = lines.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0) + 2;
    let line =
        |(name, value): &(String, String)| format!("{:<width$}{}\n", format!("{}:", harmless(name)), harmless(value));
    render::print(&lines.iter().map(line).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_five_digits_as_calicoctl_writes_them() {
        let check = |count: u64, expected: &str| assert_eq!(short(count), expected);
        check(0, "0");
        check(65_536, "65536");
        check(131_072, "1.3107e+05");
        check(1_048_576, "1.0486e+06");
        check(100_000, "1e+05");
        check(u64::MAX, "1.8447e+19");
    }

    #[test]
    fn a_pool_is_a_row_of_calicoctl_s_table() {
        let counts = CountsView { total: 64, in_use: 3, reserved: 8, resting: 1, free: 52 };
        let rows = [row("IP Pool", "10.65.0.0/26", &counts)];
        let expected = "\
+----------+--------------+-----------+------------+--------------+----------+
| GROUPING |     CIDR     | IPS TOTAL | IPS IN USE | IPS RESERVED | IPS FREE |
+----------+--------------+-----------+------------+--------------+----------+
| IP Pool  | 10.65.0.0/26 |        64 | 4 (6%)     | 8 (12%)      | 52 (81%) |
+----------+--------------+-----------+------------+--------------+----------+
";
        let headings = ["GROUPING", "CIDR", "IPS TOTAL", "IPS IN USE", "IPS RESERVED", "IPS FREE"];
        assert_eq!(render::framed(&headings, &rows), expected);
    }
}
