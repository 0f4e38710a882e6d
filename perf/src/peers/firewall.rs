//! The kernel with policies in Calico's layout, in nftables or by way of iptables.

use crate::cpu::Task;
use crate::forwarder::{Forwarder, Running};
use crate::lab::{Lab, LabError, Place, run};
use crate::memory::thousands;
use crate::peers::daemon::Scratch;
use crate::peers::layout::{self, Tracking};
use crate::{peers, tables};

/// Which of the kernel's two languages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Language {
    /// Debian's `iptables`, which speaks to nftables; what `iptables-legacy` speaks to is going away.
    Iptables,
    Nftables,
}

/// The kernel, and so many policies.
#[derive(Clone, Copy, Debug)]
pub struct Firewall {
    pub language: Language,
    pub policies: usize,
    pub tracking: Tracking,
}

impl Forwarder for Firewall {
    fn name(&self) -> String {
        let language = match self.language {
            Language::Iptables => "iptables",
            Language::Nftables => "nftables",
        };
        let each = match self.tracking {
            Tracking::Established => "",
            Tracking::New => ", new flows",
            Tracking::Untracked => ", untracked",
        };
        format!("Calico {language}, {} policies{each}", thousands(self.policies))
    }

    fn start<'lab>(&self, lab: &'lab Lab) -> Result<Box<dyn Running + 'lab>, LabError> {
        let rules = &tables::policy(self.policies).blocks[0];
        let scratch = Scratch::new(lab, "rules")?;
        let router = lab.name(Place::Router);
        // From here on dropping it takes the rules away, also when only some of them came to be.
        let at_work = AtWork(lab);
        match self.language {
            Language::Iptables => {
                let path = scratch.write("rules", &layout::iptables(rules, self.tracking))?;
                run("ip", &["netns", "exec", &router, "iptables-restore", &path])?;
            }
            Language::Nftables => {
                let path = scratch.write("rules", &layout::nftables(rules, self.tracking))?;
                run("ip", &["netns", "exec", &router, "nft", "-f", &path])?;
            }
        }
        lab.forward_by_kernel(true)?;
        if self.tracking == Tracking::Established {
            peers::greet(lab)?;
        }
        Ok(Box::new(at_work))
    }
}

struct AtWork<'lab>(&'lab Lab);

impl Running for AtWork<'_> {
    fn tasks(&self) -> Vec<Task> {
        Vec::new()
    }

    fn stop(self: Box<Self>) -> Result<(), LabError> {
        Ok(())
    }
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        let _ = self.0.forward_by_kernel(false);
        // Everything in this namespace is ours. What cannot be taken away goes with the namespace.
        let _ = run("ip", &["netns", "exec", &self.0.name(Place::Router), "nft", "flush", "ruleset"]);
    }
}
