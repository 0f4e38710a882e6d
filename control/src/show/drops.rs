//! Who dropped what: exact counts by interface and reason, and by rule as far as records came through.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use fastpath::burst::DropReason;
use fastpath::flow::unmapped_address;
use fastpath::io::xsk::XskQueue;
use fastpath::stats::record::Record;
use fastpath::table::InterfaceIndex;
use fastpath::worker::Remote;

use crate::compile::{Attachment, RuleNames};
use crate::http::views::DropView;

/// Kinds of drops remembered one by one; more are still in the sums by reason.
const MAX_ROWS: usize = 4096;
/// Lines that `Log` rules may write in one collection.
const MAX_LOG_LINES: usize = 20;

type RowKey = (InterfaceIndex, DropReason, Option<Arc<str>>);

/// Drops as records told of them.
#[derive(Debug, Default)]
pub struct Drops {
    rows: BTreeMap<RowKey, (u64, Instant)>,
}

impl Drops {
    /// Empties the rings of the workers, and writes what `Log` rules matched to the log.
    pub fn collect<'a>(
        &mut self,
        remotes: impl Iterator<Item = &'a Remote<XskQueue>>,
        names: &RuleNames,
        now: Instant,
    ) {
        let mut logged = 0;
        for remote in remotes {
            while let Some(record) = remote.records.pop() {
                if let Some(reason) = record.reason {
                    self.count(&record, reason, names, now);
                }
                if !record.log.is_none() {
                    logged += 1;
                    if logged <= MAX_LOG_LINES {
                        log(&record, names);
                    }
                }
            }
        }
        if logged > MAX_LOG_LINES {
            tracing::info!(target: "policy", suppressed = logged - MAX_LOG_LINES, "log rules matched more packets");
        }
    }

    fn count(&mut self, record: &Record, reason: DropReason, names: &RuleNames, now: Instant) {
        let rule = names.name(record.rule).map(Arc::from);
        let key = (record.ingress, reason, rule);
        if self.rows.len() < MAX_ROWS || self.rows.contains_key(&key) {
            let row = self.rows.entry(key).or_insert((0, now));
            row.0 += 1;
            row.1 = now;
        }
    }

    /// All drops: what records tell by rule, and what only the counters know.
    pub fn view<'a>(
        &self,
        remotes: impl Iterator<Item = &'a Remote<XskQueue>>,
        attached: &BTreeMap<String, Attachment>,
        name: impl Fn(InterfaceIndex) -> Option<String>,
    ) -> Vec<DropView> {
        let remotes: Vec<_> = remotes.collect();
        let mut rows = Vec::new();
        for reason in DropReason::ALL {
            let mut unattributed: u64 = remotes.iter().map(|r| r.counters.dropped[*reason as usize].get()).sum();
            if unattributed == 0 {
                continue;
            }
            for attachment in attached.values() {
                let of = |remote: &&Remote<XskQueue>| {
                    remote.counters.interface(attachment.index).dropped[*reason as usize].get()
                };
                let total: u64 = remotes.iter().map(|remote| of(remote)).sum();
                if total > 0 {
                    self.rows_of(attachment.index, *reason, total, &name, &mut rows);
                    unattributed = unattributed.saturating_sub(total);
                }
            }
            if unattributed > 0 {
                rows.push(row(None, *reason, unattributed, None, None));
            }
        }
        rows
    }

    fn rows_of(
        &self,
        interface: InterfaceIndex,
        reason: DropReason,
        total: u64,
        name: impl Fn(InterfaceIndex) -> Option<String>,
        rows: &mut Vec<DropView>,
    ) {
        let mut rest = total;
        let known = self.rows.iter().filter(|((i, r, _), _)| *i == interface && *r == reason);
        for ((_, _, rule), (packets, last)) in known {
            let packets = (*packets).min(rest);
            rest -= packets;
            if packets > 0 {
                rows.push(row(name(interface), reason, packets, rule.as_deref(), Some(*last)));
            }
        }
        if rest > 0 {
            rows.push(row(name(interface), reason, rest, None, None));
        }
    }
}

fn row(
    interface: Option<String>,
    reason: DropReason,
    packets: u64,
    rule: Option<&str>,
    last: Option<Instant>,
) -> DropView {
    DropView {
        interface,
        reason: reason.name().into(),
        description: reason.description().into(),
        packets,
        rule: rule.map(str::to_owned),
        last_seen_seconds_ago: last.map(|last| last.elapsed().as_secs()),
    }
}

fn log(record: &Record, names: &RuleNames) {
    let key = &record.key;
    tracing::info!(
        target: "policy",
        rule = names.name(record.log).unwrap_or("?"),
        source = %unmapped_address(key.source),
        source_port = key.source_port,
        destination = %unmapped_address(key.destination),
        destination_port = key.destination_port,
        protocol = super::protocol_name(key.protocol),
        verdict = record.reason.map_or("allowed", DropReason::name),
        "log rule matched"
    );
}
