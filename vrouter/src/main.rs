//! The binary: arguments to command. What the commands do is in `cli`, `daemon`, `doctor` and `lab`.

#![forbid(unsafe_code)]

mod cli;
mod client;
mod daemon;
mod doctor;
mod lab;

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// A large cluster is a million small objects: with the C library's allocator a start takes a sixth longer.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    cli::main(std::env::args_os().collect())
}
