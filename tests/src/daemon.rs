//! The router's binary, as the scenarios run it.

use std::env;
use std::path::PathBuf;
use std::process::Command;

/// The `vrouter` that was built with these tests; `.ci/run` builds it before the scenarios.
pub fn program() -> Command {
    Command::new(path())
}

/// `VROUTER` names another binary. A test stands in `target/PROFILE/deps`, the binary one folder above.
fn path() -> PathBuf {
    env::var_os("VROUTER")
        .map_or_else(|| env::current_exe().unwrap().ancestors().nth(2).unwrap().join("vrouter"), PathBuf::from)
}
