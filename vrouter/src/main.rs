//! The binary: arguments to command. What the commands do is in `cli`, `daemon`, `doctor` and `lab`.

#![forbid(unsafe_code)]

mod cli;
mod client;
mod daemon;
mod doctor;
mod lab;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main(std::env::args_os().collect())
}
