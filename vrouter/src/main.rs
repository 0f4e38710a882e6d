//! The binary: arguments to command. What the commands do is in `cli`, `daemon`, `doctor` and `lab`;
//! under the names of CNI plugins it is one, and that is `cni`.

#![forbid(unsafe_code)]

mod cli;
mod client;
mod cni;
mod daemon;
mod doctor;
mod lab;

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// A large cluster is a million small objects: with the C library's allocator a start takes a sixth longer.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    match arguments.first().and_then(|name| cni::role(name)) {
        Some(is_ipam) => cni::main(is_ipam),
        None => cli::main(arguments),
    }
}
