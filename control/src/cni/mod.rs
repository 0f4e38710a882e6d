//! The Container Network Interface, versions 0.1.0 to 1.1.0: a runtime's words, and ours.
//!
//! ```text
//! runtime ──environment, stdin──▶ plugin ──CniCall──▶ daemon: request ─▶ verbs ─▶ workload
//!         ◀──────── stdout ────── plugin ◀─CniAnswer─ daemon: reply
//!                                   │ delegate: the address plugin of the configuration, run by the plugin
//! ```
//!
//! | file | what it holds |
//! |---|---|
//! | `request.rs` | the call: what is missing or malformed, in the order in which the reference library looks |
//! | `config.rs` | the network configuration: Calico's fields, and the specification's |
//! | `arguments.rs` | CNI_ARGS, and the annotations of a pod |
//! | `verbs.rs` | ADD, DEL, CHECK, GC, STATUS, VERSION |
//! | `reply.rs` | results, in the form of the version that was asked for |
//! | `error.rs` | errors and their numbers |
//!
//! The plugin is a pipe: it reads, asks the daemon, runs another plugin when it is told to, and prints. It has no credentials
//! and decides nothing; it reads the request only to be able to refuse it without a daemon.
//!
//! Sources: the CNI specification 1.1.0; Calico's plugin for the fields, annotations and names.

pub mod arguments;
pub mod config;
pub mod error;
pub mod reply;
pub mod request;
pub mod verbs;
