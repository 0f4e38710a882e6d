//! `vrouter lab`: a small network of namespaces around one router, to look at and to test with.
//!
//! ```text
//!  ns web              ns router (the node)                        ns far
//!  eth0 ───veth─── caliweb ┐                            ┌ up0 ───veth─── eth0
//!  10.65.0.2/32            ├── vrouter run (AF_XDP) ────┤ 192.0.2.1/24    192.0.2.2/24
//!  eth0 ───veth─── calicli ┘    no kernel forwarding    └
//!  ns client
//! ```
//!
//! | file | what it holds |
//! |---|---|
//! | `description.rs` | the YAML description, and the checked `Lab` |
//! | `manifests.rs` | the lab as resources: Node, Profile, WorkloadEndpoints, StaticRoutes |
//! | `state.rs` | what a lab leaves on disk, so that it can be taken down by any later process |
//! | `up.rs` `down.rs` | build it; take it down |
//! | `run.rs` | up, router, checks, live policy change, report, down |
//! | `router.rs` | the daemon under test and its command line: the only file that knows its JSON |
//! | `checks.rs` `live.rs` | ping, TCP, UDP between all pairs; the policy change under an open connection |
//! | `report.rs` | tables |
//! | `containers/` | a lab of its own: containers attached by the CNI plugin |
//! | `bgp/` | a lab of its own: four routers that speak BGP, and a link that is cut |
//!
//! Invariants: only namespaces recorded in the state folder before they were made are ever deleted;
//! the caller's own namespace is not touched; nothing outlives `run` without `--keep`.

mod bgp;
mod checks;
mod containers;
mod description;
mod down;
mod live;
mod manifests;
mod report;
mod router;
mod run;
mod state;
#[cfg(test)]
mod tests;
mod up;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use control::host::HostError;

use description::Lab;

#[derive(Debug, clap::Args)]
pub struct LabArguments {
    #[command(subcommand)]
    command: LabCommand,
}

#[derive(Debug, clap::Subcommand)]
enum LabCommand {
    /// Build the namespaces and write the lab's manifests; a lab of that name is replaced
    Up {
        /// The description
        file: PathBuf,
    },
    /// Take everything of a lab down, half-built or whole
    Down {
        /// The description, or the lab's name
        lab: PathBuf,
    },
    /// Build the lab, run the router in it, check the traffic between all pairs, take it down
    Run {
        /// The description; or bgp: three nodes and a route reflector, and a link that is cut; or containers: two of them, attached by the CNI plugin
        file: PathBuf,
        /// A folder of further manifests to apply before the checks
        #[arg(long)]
        manifests: Option<PathBuf>,
        /// Leave the lab and the router running at the end
        #[arg(long)]
        keep: bool,
    },
}

/// Exit status 1 means that a check failed; the others that there was no lab to check.
pub fn run(arguments: LabArguments) -> ExitCode {
    execute(arguments.command).unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::from(error.exit_status())
    })
}

fn execute(command: LabCommand) -> Result<ExitCode, LabError> {
    match command {
        LabCommand::Up { file } => {
            let lab = Lab::read(&file)?;
            up::up(&lab)?;
            report::say(up::how_to_enter(&lab));
            Ok(ExitCode::SUCCESS)
        }
        LabCommand::Down { lab } => {
            // A description names its lab; anything else is the name itself.
            let name = if lab.is_file() { Lab::read(&lab)?.name } else { lab.display().to_string() };
            down::down(&name)?;
            Ok(ExitCode::SUCCESS)
        }
        LabCommand::Run { file, manifests: None, keep } if file.as_os_str() == bgp::NAME && !file.is_file() => {
            bgp::run(keep)
        }
        LabCommand::Run { file, manifests: None, keep } if file.as_os_str() == containers::NAME && !file.is_file() => {
            containers::run(keep)
        }
        LabCommand::Run { file, manifests, keep } => {
            let lab = Lab::read(&file)?;
            run::run(&lab, manifests.as_deref(), keep)
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum LabError {
    #[error("{}: {message}", file.display())]
    Description { file: PathBuf, message: String },
    #[error("lab name `{name}`: expected lower-case letters, digits and dashes, or a description file")]
    Name { name: String },
    #[error("{action}: {source}")]
    Io {
        action: String,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(
        "create network namespace {namespace}: it exists and is not of this lab; delete it (`ip netns delete {namespace}`) or choose another prefix"
    )]
    ForeignNamespace { namespace: String },
    #[error("need root: namespaces and interfaces cannot be made without CAP_NET_ADMIN and CAP_SYS_ADMIN")]
    NotRoot,
    #[error("{command}: {message}")]
    Router { command: String, message: String },
    #[error("stopped by a signal")]
    Interrupted,
    #[error("take down lab {name}: {}", errors.join("; "))]
    Teardown { name: String, errors: Vec<String> },
}

impl LabError {
    /// As the other sub-commands: see the command line's help.
    fn exit_status(&self) -> u8 {
        match self {
            LabError::Description { .. } | LabError::Name { .. } => 2,
            LabError::ForeignNamespace { .. } => 4,
            LabError::NotRoot => 5,
            LabError::Router { .. } | LabError::Io { .. } | LabError::Host(_) => 6,
            LabError::Teardown { .. } => 7,
            // As a shell has it for SIGINT.
            LabError::Interrupted => 130,
        }
    }

    fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> LabError {
        let action = action.into();
        move |source| LabError::Io { action, source }
    }
}
