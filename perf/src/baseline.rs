//! The lines of an earlier run on this kind of machine.
//!
//! One file per kind of machine, one line per measurement. Saving replaces the lines that were measured again and keeps
//! the others, so that one topic can be renewed alone.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::report::{Machine, ReportError, baseline_path};

/// Lines by group and name.
#[derive(Default)]
pub struct Baseline(BTreeMap<(String, String), Value>);

impl Baseline {
    /// Reads the baseline of a machine; none is an empty one.
    pub fn load(directory: &Path, machine: &Machine) -> Result<Baseline, ReportError> {
        let path = baseline_path(directory, machine);
        let failed = |source| ReportError::Baseline { path: path.clone(), source };
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Baseline::default()),
            Err(error) => return Err(failed(error)),
        };
        let lines = text.lines().map(|line| {
            let value: Value = serde_json::from_str(line).map_err(|error| failed(error.into()))?;
            Ok((key(&value), value))
        });
        Ok(Baseline(lines.collect::<Result<_, _>>()?))
    }

    /// The number that a measurement is compared by.
    pub fn first_number(&self, group: &str, name: &str) -> Option<f64> {
        let line = self.0.get(&(group.to_owned(), name.to_owned()))?;
        line["numbers"].as_object()?.values().next()?.as_f64()
    }

    /// Writes the baseline with these lines in it.
    pub fn save(mut self, directory: &Path, machine: &Machine, lines: &[Value]) -> Result<PathBuf, ReportError> {
        self.0.extend(lines.iter().map(|line| (key(line), line.clone())));
        let text: String = self.0.values().map(|line| format!("{line}\n")).collect();
        let path = baseline_path(directory, machine);
        let failed = |source| ReportError::Write { path: path.clone(), source };
        fs::create_dir_all(directory).map_err(failed)?;
        fs::write(&path, text).map_err(failed)?;
        Ok(path)
    }
}

fn key(line: &Value) -> (String, String) {
    let text = |field: &str| line[field].as_str().unwrap_or_default().to_owned();
    (text("group"), text("name"))
}
