//! Policy as it is described to the compiler: rules, blocks, programs, and the members of sets.

use crate::table::RuleIndex;

/// First and last of a run of addresses; IPv4 mapped into IPv6.
pub type AddressRange = (u128, u128);
/// First and last of a run of ports.
pub type PortRange = (u16, u16);
/// A port of an address: what named ports and services are made of.
pub type PortMember = (u128, u8, u16);

/// What a matching rule does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    Allow,
    Deny,
    /// Leave this tier for the next.
    Pass,
    /// Note it and go on to the next rule.
    Log,
}

/// The condition on protocol and ICMP type.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash, PartialOrd, Ord)]
pub struct L4Match {
    pub is_ipv4: Option<bool>,
    pub protocol: Option<u8>,
    pub not_protocol: Option<u8>,
    pub icmp: Option<IcmpMatch>,
    pub not_icmp: Option<IcmpMatch>,
}

/// An ICMP type, and possibly a code.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub struct IcmpMatch {
    pub kind: u8,
    pub code: Option<u8>,
}

impl IcmpMatch {
    fn holds(self, kind: u8, code: u8) -> bool {
        self.kind == kind && self.code.is_none_or(|wanted| wanted == code)
    }
}

impl L4Match {
    /// The condition itself; ICMP conditions say nothing about other protocols.
    pub fn holds(&self, is_ipv4: bool, protocol: u8, icmp: Option<(u8, u8)>) -> bool {
        self.is_ipv4.is_none_or(|wanted| wanted == is_ipv4)
            && self.protocol.is_none_or(|wanted| wanted == protocol)
            && self.not_protocol.is_none_or(|unwanted| unwanted != protocol)
            && self.icmp.is_none_or(|wanted| icmp.is_some_and(|(kind, code)| wanted.holds(kind, code)))
            && self.not_icmp.is_none_or(|unwanted| !icmp.is_some_and(|(kind, code)| unwanted.holds(kind, code)))
    }
}

/// The condition on one side of a packet. Empty positive lists do not constrain.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SideMatch {
    /// The address is in one of these, unless there are none.
    pub nets: Vec<AddressRange>,
    /// The rule had nets, but none of the packet's family: it can not match.
    pub never: bool,
    pub not_nets: Vec<AddressRange>,
    /// The address is in all of these sets (positions in [`AclSpec::sets`]).
    pub sets: Vec<usize>,
    pub not_sets: Vec<usize>,
    /// The port is in one of these, or address and port are in one of `named_ports`, unless both are empty.
    pub ports: Vec<PortRange>,
    /// Positions in [`AclSpec::port_sets`].
    pub named_ports: Vec<usize>,
    pub not_ports: Vec<PortRange>,
    pub not_named_ports: Vec<usize>,
    /// Address, protocol and port are in all of these (positions in [`AclSpec::port_sets`]).
    pub services: Vec<usize>,
}

/// A rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RuleSpec {
    pub l4: L4Match,
    pub source: SideMatch,
    pub destination: SideMatch,
    pub action: Action,
    pub index: RuleIndex,
}

/// What happens after the last policy of a tier.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TierEnd {
    /// Deny, counted under this index.
    Deny(RuleIndex),
    Pass,
}

/// What a program says when nothing in it decided.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProgramEnd {
    /// Deny, counted under this index.
    Deny(RuleIndex),
    /// Nothing: whoever asked goes on.
    Undecided,
}

/// A tier of a program: its blocks in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TierSpec {
    pub blocks: Vec<usize>,
    pub end: TierEnd,
}

/// What one endpoint enforces in one direction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProgramSpec {
    pub tiers: Vec<TierSpec>,
    pub profiles: Vec<usize>,
    pub end: ProgramEnd,
}

/// Everything an [`Acl`](super::Acl) is built from, when it is built at once.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AclSpec {
    pub sets: Vec<Vec<AddressRange>>,
    pub port_sets: Vec<Vec<PortMember>>,
    pub blocks: Vec<Vec<RuleSpec>>,
    pub programs: Vec<ProgramSpec>,
}
