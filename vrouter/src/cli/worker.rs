//! worker move: an endpoint's interface from one worker to another.

use clap::{Args, Subcommand};
use control::http::api::MoveCall;
use control::http::views::MovedView;

use super::error::CliError;
use super::{Format, render};
use crate::client::Client;

#[derive(Debug, Args)]
pub struct WorkerArguments {
    #[command(subcommand)]
    command: WorkerCommand,
}

#[derive(Debug, Subcommand)]
enum WorkerCommand {
    /// Give an endpoint's interface to another worker; some milliseconds of its packets are dropped
    Move(MoveArguments),
}

#[derive(Debug, Args)]
struct MoveArguments {
    /// The interface, as `vrouter show interfaces` names it
    interface: String,

    /// The worker, as `vrouter show workers` numbers it
    worker: u16,
}

pub fn run(client: &Client, format: Format, arguments: &WorkerArguments) -> Result<(), CliError> {
    let WorkerCommand::Move(arguments) = &arguments.command;
    let call = MoveCall { interface: arguments.interface.clone(), worker: arguments.worker };
    let moved: MovedView = client.post("/v1/move", &call)?;
    match render::structured(format, &moved)? {
        Some(text) => render::print(&text),
        None if moved.from == moved.to => {
            render::print(&format!("{} is on worker {} already\n", moved.interface, moved.to))
        }
        None => render::print(&format!(
            "{} moved from worker {} to worker {}; nobody received from it for {:.1} ms\n",
            moved.interface, moved.from, moved.to, moved.gap_milliseconds
        )),
    }
}
