//! Kernel settings below /proc/sys/net.
//!
//! A key is the path below that folder, with slashes: `ipv4/conf/cali0/rp_filter`. (Dots would be
//! ambiguous: interface names may hold them.) The files show the namespace of the thread that opens
//! them, so calls must be made in the namespace they are meant for.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use super::HostError;

const ROOT: &str = "/proc/sys/net";

/// Writes `value`. Writing what is there already is fine.
pub fn write(key: &str, value: &str) -> Result<(), HostError> {
    let path = path_of(key)?;
    fs::write(&path, value).map_err(|source| HostError::Sysctl { path, value: value.to_owned(), source })
}

/// The current value without the line's end; None when this kernel has no such setting.
pub fn read(key: &str) -> Result<Option<String>, HostError> {
    let path = path_of(key)?;
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text.trim_end().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(HostError::Io { action: format!("read {}", path.display()), source }),
    }
}

fn path_of(key: &str) -> Result<PathBuf, HostError> {
    let below = Path::new(key);
    let is_plain = !key.is_empty() && below.components().all(|component| matches!(component, Component::Normal(_)));
    if is_plain {
        return Ok(Path::new(ROOT).join(below));
    }
    Err(HostError::Invalid {
        what: "sysctl key",
        value: key.to_owned(),
        expected: "a path below /proc/sys/net such as ipv4/conf/all/rp_filter",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_stay_below_net() {
        let check = |key: &str, legal: bool| assert_eq!(path_of(key).is_ok(), legal, "{key}");
        check("ipv4/conf/all/rp_filter", true);
        check("ipv4/conf/eth0.5/rp_filter", true);
        check("../kernel/panic", false);
        check("ipv4/../../kernel/panic", false);
        check("/etc/passwd", false);
        check("", false);
    }

    #[test]
    fn an_absent_setting_is_none() {
        assert!(matches!(read("ipv4/no_such_setting"), Ok(None)));
    }
}
