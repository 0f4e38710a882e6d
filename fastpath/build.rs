//! Compiles the XDP program, `src/io/steer.bpf.c`, into `OUT_DIR/steer.bpf.o`, where `io/program.rs` embeds it.
//!
//! Needs clang with its BPF target, and the kernel's user-space headers; libbpf's come with libbpf-sys. `CLANG` names
//! another compiler. The object is the same for every machine of one byte order, and is never committed.

use std::env;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

const SOURCE: &str = "src/io/steer.bpf.c";

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed={SOURCE}");
    println!("cargo::rerun-if-env-changed=CLANG");
    match compile() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            println!("cargo::error={message}");
            ExitCode::FAILURE
        }
    }
}

fn compile() -> Result<(), String> {
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    let object = PathBuf::from(variable("OUT_DIR")?).join("steer.bpf.o");
    let architecture = variable("CARGO_CFG_TARGET_ARCH")?;
    let target = match variable("CARGO_CFG_TARGET_ENDIAN")?.as_str() {
        "big" => "bpfeb",
        _ => "bpfel",
    };
    let output = Command::new(&clang)
        .args(["-O2", "-g", "-Wall", "-Wextra", "-Werror", "-target", target, "-c", SOURCE, "-o"])
        .arg(&object)
        .arg(format!("-I{}", variable("DEP_BPF_INCLUDE")?))
        // Debian keeps asm/types.h in a folder that clang searches for its own target only.
        .arg("-idirafter")
        .arg(format!("/usr/include/{architecture}-linux-gnu"))
        // What -g records must not depend on where the checkout lies.
        .arg(format!("-fdebug-prefix-map={}=.", variable("CARGO_MANIFEST_DIR")?))
        .output()
        .map_err(|error| {
            format!("cannot run {clang} to compile {SOURCE}: {error}; install clang or name one in CLANG")
        })?;
    if output.status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    eprintln!("{complaint}");
    let first = complaint.lines().next().unwrap_or("no message");
    Err(format!("{clang} could not compile {SOURCE}: {first}; all of its output is above"))
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|_| format!("cargo did not set {name} for this build script"))
}
