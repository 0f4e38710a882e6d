//! What a run found, as tables for people.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::router::{Accounts, DropCount, InterfaceCounters};

/// The outcome of one check.
pub struct Line {
    pub check: String,
    pub passed: bool,
    pub detail: String,
}

impl Line {
    pub fn new(check: impl Into<String>, result: Result<String, String>) -> Line {
        let passed = result.is_ok();
        let detail = result.unwrap_or_else(|failure| failure);
        Line { check: check.into(), passed, detail }
    }

    /// `PASS  ping IPv4 client > web  3 of 3 answered`
    pub fn print(&self) {
        let word = if self.passed { "PASS" } else { "FAIL" };
        say(format!("{word}  {:<44} {}", self.check, self.detail).trim_end().to_owned() + "\n");
    }
}

/// The last line, and the exit status that says the same.
pub fn verdict(lines: &[Line], elapsed: Duration) -> ExitCode {
    let failed = lines.iter().filter(|line| !line.passed).count();
    let verdict = if failed == 0 { "PASS" } else { "FAIL" };
    say(format!("\n{verdict}: {} checks, {failed} failed, {elapsed:.1?}\n", lines.len()));
    ExitCode::from(u8::from(failed > 0))
}

/// Prints. A reader who has gone away is no reason to leave the lab standing.
pub fn say(text: impl AsRef<str>) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_ref().as_bytes()).and_then(|()| out.flush());
}

/// Columns as wide as their widest cell; the first is left-aligned, numbers are right-aligned.
pub fn table(title: &str, header: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([header[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for (column, (cell, width)) in cells.zip(&widths).enumerate() {
            line += &if column == 0 { format!("  {cell:<width$}") } else { format!("  {cell:>width$}") };
        }
        line.trim_end().to_owned() + "\n"
    };
    let mut text = format!("\n{title}\n");
    text += &line(&mut header.iter().copied());
    for row in rows {
        text += &line(&mut row.iter().map(String::as_str));
    }
    text
}

/// Rates between two readings.
pub fn interface_table(before: &[InterfaceCounters], after: &[InterfaceCounters], elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64().max(f64::EPSILON);
    let before: BTreeMap<&str, &InterfaceCounters> = before.iter().map(|line| (line.name.as_str(), line)).collect();
    let none = InterfaceCounters::default();
    let rows: Vec<Vec<String>> = after
        .iter()
        .map(|now| {
            let then = before.get(now.name.as_str()).copied().unwrap_or(&none);
            let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
            vec![
                now.name.clone(),
                scaled(rate(now.rx_packets, then.rx_packets)),
                scaled(rate(now.rx_bytes, then.rx_bytes) * 8.0),
                scaled(rate(now.tx_packets, then.tx_packets)),
                scaled(rate(now.tx_bytes, then.tx_bytes) * 8.0),
                now.rx_packets.to_string(),
                now.tx_packets.to_string(),
            ]
        })
        .collect();
    let header = ["interface", "rx packet/s", "rx bit/s", "tx packet/s", "tx bit/s", "rx packets", "tx packets"];
    table("Interfaces, over all checks", &header, &rows)
}

pub fn latency_table(rows: &[(String, Histogram<u64>)]) -> String {
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|(path, times)| {
            let at = |quantile| microseconds(times.value_at_quantile(quantile));
            vec![path.clone(), times.len().to_string(), at(0.5), at(0.99), at(0.999), microseconds(times.max())]
        })
        .collect();
    table("UDP round trips", &["path", "count", "p50 µs", "p99 µs", "p99.9 µs", "max µs"], &rows)
}

pub fn drop_table(drops: &[DropCount]) -> String {
    let mut sums: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for drop in drops {
        *sums.entry((&drop.reason, drop.rule.as_deref().unwrap_or("-"))).or_default() += drop.packets;
    }
    let rows: Vec<Vec<String>> = sums
        .into_iter()
        .filter(|(_, packets)| *packets > 0)
        .map(|((reason, rule), packets)| vec![reason.to_owned(), packets.to_string(), rule.to_owned()])
        .collect();
    table("Drops", &["reason", "packets", "rule"], &rows)
}

/// `1234 packets in = 1234 accounted for (1200 sent, ...)`
pub fn accounts_line(accounts: &Accounts) -> Line {
    let Accounts { packets_in, sent, answered, punted, dropped, unaccounted } = accounts;
    let fates = format!("{sent} sent, {answered} answered, {punted} punted, {dropped} dropped");
    let accounted = accounts.accounted();
    let result = if *unaccounted == 0 && *packets_in > 0 {
        Ok(format!("{packets_in} packets in = {packets_in} accounted for ({fates})"))
    } else {
        Err(format!("{packets_in} packets in, {accounted} accounted for ({fates}), {unaccounted} without a fate"))
    };
    Line::new("every packet has a fate", result)
}

/// `12.3M`: three digits and a decimal prefix.
pub fn scaled(value: f64) -> String {
    let (value, unit) = match value {
        value if value >= 1e9 => (value / 1e9, "G"),
        value if value >= 1e6 => (value / 1e6, "M"),
        value if value >= 1e3 => (value / 1e3, "k"),
        value => (value, ""),
    };
    format!("{value:.1}{unit}")
}

fn microseconds(nanoseconds: u64) -> String {
    format!("{:.1}", nanoseconds as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up() {
        let rows = [vec!["caliweb".to_owned(), "12".to_owned()], vec!["up0".to_owned(), "3456".to_owned()]];
        let expected = "\nTitle\n  name     count\n  caliweb     12\n  up0       3456\n";
        assert_eq!(table("Title", &["name", "count"], &rows), expected);
    }

    #[test]
    fn rates_are_scaled() {
        for (value, expected) in [(0.0, "0.0"), (999.0, "999.0"), (1000.0, "1.0k"), (2.5e6, "2.5M"), (3.31e9, "3.3G")] {
            assert_eq!(scaled(value), expected);
        }
    }

    #[test]
    fn books_that_do_not_balance_fail() {
        let balanced = Accounts { packets_in: 5, sent: 4, dropped: 1, ..Accounts::default() };
        assert!(accounts_line(&balanced).passed);
        assert!(!accounts_line(&Accounts { unaccounted: 1, ..balanced }).passed);
        assert!(!accounts_line(&Accounts::default()).passed, "a router that saw nothing proves nothing");
    }
}
