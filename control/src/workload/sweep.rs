//! What nobody has taken away: looked for when the process starts, and every so often.
//!
//! | left | by | taken away |
//! |---|---|---|
//! | addresses that no endpoint has | a process that was killed before it wrote the endpoint | at start |
//! | a host side that no endpoint has | the same | at start; later when seen four times |
//! | an endpoint without its host side | a namespace that went without a word, or the machine that did | at start; later when seen twice |
//!
//! At start nobody can be half way: whoever asked has seen the connection break. Later an order may be under way, so what is
//! seen counts when it is seen again after longer than any order takes. A host side may also wait for somebody else's address
//! plugin: the reference `dhcp` gives up after three and a half minutes. Addresses that are lost while the process runs are the
//! collector's (`ipam::collect`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tracing::{info, warn};

use super::call::Attachment;
use super::error::WorkloadError;
use super::service::{PATIENCE, Workloads, blocking};
use super::wire;
use crate::tell::chain;

/// Longer than any order takes.
const PAUSE: Duration = PATIENCE.saturating_mul(3);
/// Looks after the first at a host side that no endpoint has.
const WAITS: u32 = 3;
/// Until control is ready.
const START_PAUSE: Duration = Duration::from_millis(50);

/// What was seen in one look.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    /// Name and alias, and how many looks before have seen it.
    host_sides: BTreeMap<(String, String), u32>,
    endpoints: BTreeSet<String>,
}

impl Workloads {
    /// Looks now and again, for as long as the process runs.
    pub async fn keep_tidy(self) {
        while self.node().await.is_err() {
            tokio::time::sleep(START_PAUSE).await;
        }
        match self.release_unattached().await {
            Ok(0) => {}
            Ok(released) => info!(released, "addresses released that no workload has got"),
            Err(error) => warn!(error = %chain(&error), "addresses that no workload has got could not be released"),
        }
        let mut before = None;
        loop {
            // Attaching begins after the first look, whatever came of it: from then on only what is seen again counts.
            before = Some(self.look(before.as_ref()).await.unwrap_or_else(|error| {
                warn!(error = %chain(&error), "what workloads have left could not be looked for");
                Seen::default()
            }));
            self.now_tidy();
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Takes away what is left, all of it in the first look and what was there before in later ones.
    async fn look(&self, before: Option<&Seen>) -> Result<Seen, WorkloadError> {
        let attachments = self.list().await?;
        let host_sides = blocking(wire::host_sides).await?;
        let seen = left(&attachments, &host_sides, &self.node().await?.prefix, before);
        let is_old = |is_in: &dyn Fn(&Seen) -> bool| before.is_none_or(is_in);
        for ((interface, alias), looks) in &seen.host_sides {
            if is_old(&|_| *looks >= WAITS) {
                let (name, alias) = (interface.clone(), alias.clone());
                let removed = blocking(move || wire::remove(&name, &alias)).await;
                match removed {
                    Ok(_) => info!(interface, "removed: no endpoint has it"),
                    Err(error) => warn!(interface, error = %chain(&error), "could not be removed"),
                }
            }
        }
        for attachment in attachments.iter().filter(|attachment| seen.endpoints.contains(&attachment.endpoint)) {
            if is_old(&|before| before.endpoints.contains(&attachment.endpoint)) {
                match self.detach_if_gone(attachment).await {
                    Ok(true) => info!(endpoint = attachment.endpoint, "taken away: its interface is gone"),
                    Ok(false) => {}
                    Err(error) => {
                        warn!(endpoint = attachment.endpoint, error = %chain(&error), "could not be taken away");
                    }
                }
            }
        }
        Ok(seen)
    }
}

/// What is there without the other. Whose interface is the host's own has no host side of ours.
fn left(attachments: &[Attachment], host_sides: &[(String, String)], prefix: &str, before: Option<&Seen>) -> Seen {
    let known: BTreeSet<String> = attachments.iter().map(|attachment| attachment.identity.alias()).collect();
    let present: BTreeSet<&str> = host_sides.iter().map(|(_, alias)| alias.as_str()).collect();
    let wired = attachments.iter().filter(|own| own.interface == own.identity.host_interface(prefix));
    Seen {
        host_sides: host_sides
            .iter()
            .filter(|(_, alias)| !known.contains(alias))
            .map(|side| {
                (side.clone(), before.and_then(|before| before.host_sides.get(side)).map_or(0, |looks| looks + 1))
            })
            .collect(),
        endpoints: wired
            .filter(|attachment| !present.contains(attachment.identity.alias().as_str()))
            .map(|attachment| attachment.endpoint.clone())
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::identity::Identity;

    fn attachment(container: &str, interface: Option<&str>) -> Attachment {
        let identity =
            Identity { container: container.to_string(), interface: "eth0".to_string(), ..Identity::default() };
        let interface = interface.map_or_else(|| identity.host_interface("cali"), str::to_string);
        Attachment { endpoint: container.to_string(), interface, addresses: Vec::new(), identity }
    }

    #[test]
    fn what_is_left_is_seen_and_what_is_whole_is_not() {
        let (whole, bare, alone) = (attachment("a", None), attachment("b", Some("eth7")), attachment("c", None));
        let side = |of: &Attachment| (of.interface.clone(), of.identity.alias());
        let orphan = ("calix".to_string(), "vrouter:00".to_string());
        let look = |before: Option<&Seen>| {
            let attachments = [whole.clone(), bare.clone(), alone.clone()];
            left(&attachments, &[side(&whole), orphan.clone()], "cali", before)
        };
        let mut seen = look(None);
        for looks in 0..WAITS + 2 {
            assert_eq!(seen.host_sides, BTreeMap::from([(orphan.clone(), looks)]));
            assert_eq!(seen.endpoints, BTreeSet::from(["c".to_string()]));
            seen = look(Some(&seen));
        }
        assert_eq!(look(Some(&Seen::default())).host_sides, BTreeMap::from([(orphan, 0)]), "another one of that name");
    }
}
