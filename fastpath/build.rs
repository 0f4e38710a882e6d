//! Compiles the programs for the kernel, `src/io/*.bpf.c`, into `OUT_DIR`, where the files of `io/` embed them.
//!
//! Needs clang with its BPF target, and the kernel's user-space headers; libbpf's come with libbpf-sys. `CLANG` names
//! another compiler. The object is the same for every machine of one byte order, and is never committed.

use std::env;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

const FOLDER: &str = "src/io";
const SOURCES: [&str; 5] = ["steer.bpf", "guard.bpf", "blast.bpf", "gauge.bpf", "sink.bpf"];
const HEADERS: [&str; 2] = ["src/io/steer.bpf.h", "src/io/stamp.bpf.h"];

fn main() -> ExitCode {
    for header in HEADERS {
        println!("cargo::rerun-if-changed={header}");
    }
    for name in SOURCES {
        println!("cargo::rerun-if-changed={FOLDER}/{name}.c");
    }
    println!("cargo::rerun-if-env-changed=CLANG");
    match SOURCES.iter().try_for_each(|name| compile(name)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            println!("cargo::error={message}");
            ExitCode::FAILURE
        }
    }
}

fn compile(name: &str) -> Result<(), String> {
    let source = format!("{FOLDER}/{name}.c");
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    let object = PathBuf::from(variable("OUT_DIR")?).join(format!("{name}.o"));
    let architecture = variable("CARGO_CFG_TARGET_ARCH")?;
    let target = match variable("CARGO_CFG_TARGET_ENDIAN")?.as_str() {
        "big" => "bpfeb",
        _ => "bpfel",
    };
    let output = Command::new(&clang)
        .args(["-O2", "-g", "-Wall", "-Wextra", "-Werror", "-target", target, "-c", &source, "-o"])
        .arg(&object)
        .arg(format!("-I{}", variable("DEP_BPF_INCLUDE")?))
        // Debian keeps asm/types.h in a folder that clang searches for its own target only.
        .arg("-idirafter")
        .arg(format!("/usr/include/{architecture}-linux-gnu"))
        // What -g records must not depend on where the checkout lies.
        .arg(format!("-fdebug-prefix-map={}=.", variable("CARGO_MANIFEST_DIR")?))
        .output()
        .map_err(|error| {
            format!("cannot run {clang} to compile {source}: {error}; install clang or name one in CLANG")
        })?;
    if output.status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    eprintln!("{complaint}");
    let first = complaint.lines().next().unwrap_or("no message");
    Err(format!("{clang} could not compile {source}: {first}; all of its output is above"))
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|_| format!("cargo did not set {name} for this build script"))
}
