//! The binary: arguments to command. What the commands do is in `cli`, `daemon`, `doctor` and `lab`.

#![forbid(unsafe_code)]

mod cli;
mod client;
mod daemon;
mod doctor;
mod lab;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    cli::execute(cli::Cli::parse())
}
