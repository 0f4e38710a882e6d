//! What can stand between the endpoints of a lab: the kernel, the router, and whoever else is compared with them.
//!
//! ```text
//!     Forwarder ──start(lab)──▶ Running ──stop──▶ as if it had never been there
//!     what it is                near-a ⇄ near-b
//! ```
//!
//! A forwarder finds `near-a` and `near-b` in the router's namespace ([`crate::lab`]) with addresses, routes and permanent
//! neighbours in place, `ip_forward` off and no program attached. From `start` to `stop` it forwards between them, IPv4
//! and IPv6, and decrements TTL; after `stop` the namespace is as it was found.
//!
//! Invariant: at most one runs in a lab at a time.

use crate::cpu::Task;
use crate::lab::{Lab, LabError};
use crate::router::{Router, RouterOptions};

pub trait Forwarder {
    /// What it is called in tables and reports.
    fn name(&self) -> String;

    /// Begins to forward. It does when this returns.
    fn start<'lab>(&self, lab: &'lab Lab) -> Result<Box<dyn Running + 'lab>, LabError>;
}

/// A forwarder at work.
pub trait Running {
    /// Its threads, where it has threads of its own: what they cost is told beside what they forward.
    fn tasks(&self) -> Vec<Task>;

    fn stop(self: Box<Self>) -> Result<(), LabError>;
}

/// Plain forwarding by the kernel: no firewall, no connection tracking.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kernel;

impl Forwarder for Kernel {
    fn name(&self) -> String {
        "kernel forwarding".to_owned()
    }

    fn start<'lab>(&self, lab: &'lab Lab) -> Result<Box<dyn Running + 'lab>, LabError> {
        lab.forward_by_kernel(true)?;
        Ok(Box::new(KernelAtWork(lab)))
    }
}

struct KernelAtWork<'lab>(&'lab Lab);

impl Running for KernelAtWork<'_> {
    fn tasks(&self) -> Vec<Task> {
        Vec::new()
    }

    fn stop(self: Box<Self>) -> Result<(), LabError> {
        self.0.forward_by_kernel(false)
    }
}

/// Lets a forwarder work while `measure` runs, and takes it away again whatever came of that.
pub fn with<T>(
    forwarder: &dyn Forwarder,
    lab: &Lab,
    measure: impl FnOnce(&dyn Running) -> Result<T, LabError>,
) -> Result<T, LabError> {
    let running = forwarder.start(lab)?;
    let result = measure(running.as_ref());
    running.stop()?;
    result
}

/// The same for our own router, which can be asked and told more.
pub fn with_router<T>(
    options: RouterOptions,
    lab: &Lab,
    measure: impl FnOnce(&mut Router<'_>) -> Result<T, LabError>,
) -> Result<T, LabError> {
    let mut router = Box::new(options.start_router(lab)?);
    let result = measure(&mut router);
    router.stop()?;
    result
}
