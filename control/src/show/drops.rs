//! Who dropped what: exact counts by interface and reason, and by rule as far as records came through. What the kernel's
//! side lost before a worker had it is told beside, under reasons that begin with `kernel_`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use fastpath::burst::DropReason;
use fastpath::flow::unmapped_address;
use fastpath::io::xsk::XskQueue;
use fastpath::stats::record::{self, Record};
use fastpath::table::InterfaceIndex;
use fastpath::worker::Remote;

use crate::attach::KernelDrops;
use crate::compile::{Attachment, RuleNames};
use crate::http::views::DropView;
use crate::policy::decided::Decided;
use crate::resources::Resources;
use crate::show::recent::{About, RecentDrops};

/// Kinds of drops remembered one by one; more are still in the sums by reason.
const MAX_ROWS: usize = 4096;
/// Lines that `Log` rules may write in one collection.
const MAX_LOG_LINES: usize = 20;

type RowKey = (InterfaceIndex, DropReason, Option<Arc<str>>);

/// Drops as records told of them.
#[derive(Debug, Default)]
pub struct Drops {
    rows: BTreeMap<RowKey, (u64, Instant)>,
    /// The drops of the last minutes, flow by flow.
    pub recent: RecentDrops,
}

/// What is needed to call a record's parts by their names.
pub struct Naming<'a, F> {
    pub rules: &'a RuleNames,
    pub resources: &'a Resources,
    pub interface: F,
}

impl Drops {
    /// Empties the rings of the workers, and writes what `Log` rules matched to the log.
    pub fn collect<'a>(
        &mut self,
        remotes: impl Iterator<Item = &'a Remote<XskQueue>>,
        naming: &Naming<'_, impl Fn(InterfaceIndex) -> Option<String>>,
        now: Instant,
    ) {
        let names = naming.rules;
        let mut logged = 0;
        for remote in remotes {
            for record in record::waiting(&remote.records) {
                if let Some(reason) = record.reason {
                    self.count(&record, reason, names, now);
                    self.recent.note(&record, reason, now, || {
                        let rule = names.name(record.rule).map(str::to_owned);
                        let decided = rule.as_deref().map(|rule| Decided::by(rule, naming.resources));
                        let interface = (naming.interface)(record.ingress);
                        About { interface, rule, decided: decided.unwrap_or_default() }
                    });
                }
                if !record.log.is_none() {
                    logged += 1;
                    if logged <= MAX_LOG_LINES {
                        log(&record, names);
                    }
                }
            }
        }
        self.recent.expire(now);
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
                let total: u64 = remotes.iter().map(of).sum();
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

/// What the kernel's side of the interfaces lost: not part of packets in, since no worker had it.
pub fn before_workers<'a>(drops: impl Iterator<Item = (&'a str, KernelDrops)>) -> impl Iterator<Item = DropView> {
    drops.flat_map(|(name, drops)| {
        [
            ("kernel_no_socket", "No worker listens on the packet's queue.", drops.no_socket),
            ("kernel_malformed", "The packet ends within its headers, or contradicts them.", drops.malformed),
            (
                "kernel_no_frame",
                "No frame of the worker was free, or the packet is larger than a frame.",
                drops.no_frame,
            ),
            ("kernel_ring_full", "The worker did not empty its receive ring in time.", drops.ring_full),
        ]
        .into_iter()
        .filter(|(_, _, packets)| *packets > 0)
        .map(move |(reason, description, packets)| DropView {
            interface: Some(name.to_owned()),
            reason: reason.to_owned(),
            description: description.to_owned(),
            packets,
            rule: None,
            last_seen_seconds_ago: None,
        })
    })
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
