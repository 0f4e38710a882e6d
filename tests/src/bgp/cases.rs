//! Wrong UPDATEs over real sockets: a case of `tests/data/bgp/rfc7606.txt` is said to a device that has BIRD behind it.
//!
//! ```text
//!     Raw (many addresses) ──session of the case──▶ device ──eBGP──▶ BIRD
//!       1. the routes of the case, rightly, with a mark      3. a sentinel of its own ──────▶ seen: the case was dealt with
//!       2. the case                                          4. the routes there: gone, marked, or without the mark
//! ```
//!
//! What BIRD has of the routes tells the outcome: with the mark, as before; without, taken; none, withdrawn. Whether an attribute was
//! discarded is not told apart from an acceptance here, but nothing that BIRD finds wrong may reach it.
//!
//! Invariants: a session that was reset is not used again; every case has a sentinel of its own.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use config::net::{Cidr, IpVersion};

use super::message::{Open, Update, add_path, extended_next_hop, family};
use super::raw::Raw;
use super::{Neighbour, Route};
use crate::bgp_cases::{Case, Expected};
use crate::topology::Machine;

/// A case may take so long; a device that does nothing shows as that.
const PATIENCE: Duration = Duration::from_secs(10);
/// A NOTIFICATION is given so long before anything else is said.
const GOODBYE: Duration = Duration::from_millis(20);
/// The mark of what was told before: the community 65000:7606.
const MARK: u32 = 65000 << 16 | 7606;

/// Where a case is said.
pub struct Bench<'a> {
    pub machine: &'a Machine,
    /// The device has a session for each of these; they are used in turn, because one that was reset may have to wait.
    pub addresses: Vec<IpAddr>,
    pub next: usize,
    pub device: SocketAddr,
    /// Of the raw peers.
    pub as_number: u32,
    pub is_internal: bool,
    /// Behind the device.
    pub behind: &'a Neighbour,
    pub sentinels: u32,
    /// Tells the device that it need not wait before it takes this peer again.
    pub excuse: &'a dyn Fn(IpAddr),
}

/// What became of a case, as far as it can be seen from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// The routes are there as the case told them.
    Taken,
    /// They are gone.
    Withdrawn,
    /// They are as they were before.
    Untouched,
    Reset(u8, u8),
    /// Something else, in words.
    Other(String),
}

impl Seen {
    /// Whether it is what a case expects; a discarded attribute looks like an acceptance.
    pub fn is(&self, expected: Expected) -> bool {
        match expected {
            Expected::Accept | Expected::Discard => *self == Seen::Taken,
            Expected::Withdraw => *self == Seen::Withdrawn,
            Expected::Nothing => *self == Seen::Untouched,
            Expected::Reset(code, subcode) => *self == Seen::Reset(code, subcode),
        }
    }
}

impl Bench<'_> {
    pub fn run(&mut self, case: &Case) -> Seen {
        self.attempt(case).unwrap_or_else(Seen::Other)
    }

    fn attempt(&mut self, case: &Case) -> Result<Seen, String> {
        let address = self.addresses[self.next % self.addresses.len()];
        self.next += 1;
        let mut raw = self.session(case, address)?;
        for prefix in &case.routes {
            raw.send(&self.right(case, *prefix, vec![MARK]).message());
        }
        self.sentinel(case, &mut raw).map_err(|error| format!("before the case: {error}"))?;
        let before = self.there(case);
        // What is of a family that was not agreed on cannot be told, rightly or not.
        let agreed = |prefix: &&Cidr| prefix.is_ipv4() || !case.session.ipv4_only;
        let mut agreed = case.routes.iter().filter(agreed).peekable();
        let is_any_agreed = agreed.peek().is_some();
        if let Some(missing) = agreed.find(|prefix| !before.iter().any(|route| route.prefix == **prefix)) {
            return Err(format!("{missing} does not arrive even when it is told rightly"));
        }
        raw.send(&case.message());
        // What is sent to a connection that is being closed is answered by a reset, and that takes a NOTIFICATION that was not read along.
        let told =
            raw.next(Instant::now() + GOODBYE).and_then(|message| match message.and_then(|it| it.notification()) {
                Some((code, subcode)) => Err(format!("NOTIFICATION {code}/{subcode}")),
                None => self.sentinel(case, &mut raw),
            });
        if let Err(error) = told {
            return match error.strip_prefix("NOTIFICATION ").and_then(|text| text.split_once('/')) {
                Some((code, subcode)) => Ok(Seen::Reset(code.parse().unwrap_or(0), subcode.parse().unwrap_or(0))),
                None => Err(error),
            };
        }
        let routes = self.there(case);
        let is_marked = |route: &&Route| route.communities.iter().any(|community| community == "65000:7606");
        let marked = routes.iter().filter(is_marked).count();
        Ok(match (routes.len(), marked) {
            (0, _) if is_any_agreed => Seen::Withdrawn,
            (0, _) => Seen::Untouched,
            (all, 0) if all == case.routes.len() => Seen::Taken,
            (all, marked) if all == marked && all == case.routes.len() => Seen::Untouched,
            (all, marked) => Seen::Other(format!("{all} of {} routes, {marked} as before", case.routes.len())),
        })
    }

    /// The routes of a case that BIRD has.
    fn there(&self, case: &Case) -> Vec<Route> {
        let all = [IpVersion::V4, IpVersion::V6].into_iter().flat_map(|version| self.behind.routes(version));
        all.filter(|route| case.routes.contains(&route.prefix)).collect()
    }

    fn session(&self, case: &Case, address: IpAddr) -> Result<Raw, String> {
        let IpAddr::V4(router_id) = address else { return Err("a raw peer has an IPv4 address".to_owned()) };
        let mut open = Open::new(self.as_number, router_id);
        let session = &case.session;
        open.capabilities.retain(|capability| {
            let is_ipv6 = *capability == family(IpVersion::V6);
            !(capability.0 == 65 && session.two_octet_as || is_ipv6 && session.ipv4_only)
        });
        if session.extended_next_hop {
            open.capabilities.push(extended_next_hop());
        }
        if session.path_ids {
            open.capabilities.push(add_path(&[IpVersion::V4, IpVersion::V6]));
        }
        let end = Instant::now() + PATIENCE;
        loop {
            // What it says of a session that was reset a moment ago is that it has to wait.
            match Raw::establish(self.machine, address, self.device, &open) {
                Ok((raw, _)) => return Ok(raw),
                Err(error) if Instant::now() > end => return Err(format!("no session: {error}")),
                Err(_) => (self.excuse)(address),
            }
        }
    }

    /// A right route of this peer.
    fn right(&self, case: &Case, prefix: Cidr, communities: Vec<u32>) -> Update {
        let next_hop = if prefix.is_ipv4() { IpAddr::from([192, 0, 2, 2]) } else { "2001:db8::2".parse().unwrap() };
        Update {
            prefixes: vec![prefix],
            next_hop,
            as_path: vec![65001],
            local_pref: self.is_internal.then_some(100),
            communities,
            two_octet_as: case.session.two_octet_as,
            // The number that the cases use: another one would be another path.
            path: case.session.path_ids.then_some(7),
        }
    }

    /// Tells one more route, and waits until it is behind the device: everything before it was dealt with.
    fn sentinel(&mut self, case: &Case, raw: &mut Raw) -> Result<(), String> {
        self.sentinels += 1;
        let prefix = Cidr::host(IpAddr::V4(Ipv4Addr::from_bits(0x0afe_0000 + self.sentinels)));
        raw.send(&self.right(case, prefix, Vec::new()).message());
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            for message in raw.drain()? {
                if let Some((code, subcode)) = message.notification() {
                    return Err(format!("NOTIFICATION {code}/{subcode}"));
                }
            }
            if self.behind.routes(IpVersion::V4).iter().any(|route| route.prefix == prefix) {
                return Ok(());
            }
        }
        Err(format!("the sentinel {prefix} does not arrive"))
    }

    /// Whether BIRD found anything wrong with what it was told.
    pub fn complaints(&self) -> Vec<String> {
        let log = self.behind.log();
        let is_complaint = |line: &&str| line.contains("<RMT>") || line.contains("nvalid") || line.contains("alformed");
        log.lines().filter(is_complaint).map(ToOwned::to_owned).collect()
    }
}
