//! Answers as text: tables, JSON, YAML.
//!
//! Names, labels and reasons come from whoever may write resources, and end up on somebody's
//! terminal: everything printed passes `harmless`, which leaves nothing a terminal would obey.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;
use serde_json::Value;

use super::Format;
use super::error::CliError;

/// What stands for "nothing to say" in a table.
const NOTHING: &str = "-";

const GAP: &str = "   ";

/// Rows under headings. Columns of numbers are aligned to the right.
#[derive(Debug, Default)]
pub struct Table {
    headings: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(headings: impl IntoIterator<Item = impl Into<String>>) -> Table {
        // A heading may come from the command line.
        let headings = headings.into_iter().map(|heading| harmless(&heading.into())).collect();
        Table { headings, rows: Vec::new() }
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells: Vec<String> = cells.into_iter().map(|cell| cell_text(&cell)).collect();
        assert_eq!(cells.len(), self.headings.len());
        self.rows.push(cells);
    }

    pub fn text(&self) -> String {
        let mut text = String::new();
        let columns: Vec<Column> = (0..self.headings.len()).map(|index| self.column(index)).collect();
        for row in std::iter::once(&self.headings).chain(&self.rows) {
            let mut line = String::new();
            for (cell, column) in row.iter().zip(&columns) {
                let padding = " ".repeat(column.width - cell.chars().count());
                let (first, second) = match column.is_numeric {
                    true => (padding.as_str(), cell.as_str()),
                    false => (cell.as_str(), padding.as_str()),
                };
                line.extend([first, second, GAP]);
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    fn column(&self, index: usize) -> Column {
        let cells = || self.rows.iter().map(|row| row[index].as_str());
        let width = cells().map(|cell| cell.chars().count()).max().unwrap_or(0);
        let is_number = |cell: &str| cell == NOTHING || cell.parse::<f64>().is_ok();
        let is_numeric = cells().any(|cell| cell != NOTHING) && cells().all(is_number);
        Column { width: width.max(self.headings[index].chars().count()), is_numeric }
    }
}

struct Column {
    width: usize,
    is_numeric: bool,
}

fn cell_text(cell: &str) -> String {
    match cell.is_empty() {
        true => NOTHING.to_string(),
        false => harmless(cell),
    }
}

/// How an object is called: `Kind namespace/name`, like a key.
pub fn object(kind: &str, namespace: Option<&str>, name: &str) -> String {
    match namespace {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}"),
    }
}

/// One end of a flow.
pub fn end(address: IpAddr, port: Option<u16>) -> String {
    match port {
        Some(port) => SocketAddr::new(address, port).to_string(),
        None => address.to_string(),
    }
}

/// An optional value as a cell.
pub fn optional(value: Option<impl ToString>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

/// `value` as JSON or YAML when that was asked for.
pub fn structured(format: Format, value: &impl Serialize) -> Result<Option<String>, CliError> {
    let failed = |form, reason: String| CliError::Form { form, reason };
    let json = || {
        let json = serde_json::to_string_pretty(value).map_err(|error| failed("JSON", error.to_string()))?;
        Ok(harmless_json(&json) + "\n")
    };
    match format {
        Format::Ps | Format::Wide => Ok(None),
        Format::Json => json().map(Some),
        Format::Yaml => {
            let yaml = serde_saphyr::to_string(value).map_err(|error| failed("YAML", error.to_string()))?;
            // JSON is YAML, and has an escape for everything.
            match yaml.chars().any(|letter| letter != '\n' && is_harmful(letter)) {
                true => json().map(Some),
                false => Ok(Some(yaml)),
            }
        }
    }
}

/// `value` as JSON on one line.
pub fn json_line(value: &impl Serialize) -> Result<String, CliError> {
    let json =
        serde_json::to_string(value).map_err(|error| CliError::Form { form: "JSON", reason: error.to_string() })?;
    Ok(harmless_json(&json) + "\n")
}

pub fn print(text: &str) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        // `vrouter … | head` has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(CliError::Output),
    }
}

/// Rows between lines of `+---+`, as calicoctl draws them: headings in the middle, cells to the left but for those of numbers.
pub fn framed(headings: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([headings[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let line: String = widths.iter().map(|width| format!("+{}", "-".repeat(width + 2))).collect::<String>() + "+\n";
    let mut text = line.clone();
    for (heading, width) in headings.iter().zip(&widths) {
        text.push_str(&format!("| {heading:^width$} "));
    }
    text.push_str("|\n");
    text.push_str(&line);
    for row in rows {
        for (cell, width) in row.iter().zip(&widths) {
            let cell = harmless(cell);
            match cell.parse::<f64>() {
                Ok(_) => text.push_str(&format!("| {cell:>width$} ")),
                Err(_) => text.push_str(&format!("| {cell:<width$} ")),
            }
        }
        text.push_str("|\n");
    }
    text + &line
}

/// `32.0 MiB`
pub fn mebibytes(octets: u64) -> String {
    format!("{:.1} MiB", octets as f64 / (1 << 20) as f64)
}

/// `text` with everything escaped that a terminal would obey or hide.
pub fn harmless(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut safe, letter| {
        match is_harmful(letter) {
            true => safe.extend(letter.escape_default()),
            false => safe.push(letter),
        }
        safe
    })
}

/// The same for JSON text, where such characters can only be inside strings.
fn harmless_json(json: &str) -> String {
    json.chars().fold(String::with_capacity(json.len()), |mut safe, letter| {
        match letter != '\n' && is_harmful(letter) {
            true => {
                for unit in letter.encode_utf16(&mut [0; 2]) {
                    // Writing to a String cannot fail.
                    let _ = write!(safe, "\\u{unit:04x}");
                }
            }
            false => safe.push(letter),
        }
        safe
    })
}

/// Control characters, and the invisible ones that change the direction or place of others.
fn is_harmful(letter: char) -> bool {
    let is_invisible = matches!(letter,
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}'
    );
    letter.is_control() || is_invisible
}

/// Numbers without a fraction as people write them: 10, not 10.0.
pub fn shorten_numbers(value: &mut Value) {
    const EXACT: f64 = 9_007_199_254_740_992.0; // 2^53, up to which every integer is an f64
    match value {
        Value::Number(number) => {
            let float = number.as_f64().filter(|float| number.is_f64() && float.fract() == 0.0);
            if let Some(float) = float.filter(|float| float.abs() < EXACT) {
                *value = Value::from(float as i64);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(shorten_numbers),
        Value::Object(entries) => entries.values_mut().for_each(shorten_numbers),
        _ => {}
    }
}

/// A JSON value as one cell: lists and maps with commas, absent as nothing.
pub fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(","),
        Value::Object(entries) => {
            let entry = |(name, value): (&String, &Value)| format!("{name}={}", cell(value));
            entries.iter().map(entry).collect::<Vec<_>>().join(",")
        }
        other => other.to_string(),
    }
}
