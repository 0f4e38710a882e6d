//! Adjacency: a next hop with everything needed to send to it.

use super::{EndpointIndex, GroupIndex, InterfaceIndex};
use crate::header::ethernet::{self, Mac};

/// What sending by an adjacency means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AdjacencyKind {
    /// Rewrite and transmit.
    Forward,
    /// To the host's own stack.
    Host,
    /// The frame leaves as it came, but for its source address: between the host's stack and an uplink with a host
    /// endpoint.
    Frame,
    /// The next hop's MAC address is not known yet: punt, so that control resolves it.
    Unresolved,
    /// Resolution failed: answer "host unreachable".
    Unreachable,
    /// Discard, and say so.
    Blackhole,
    /// One of several, by the flow: no way out itself.
    Group,
}

/// Longest layer 2 header we write: Ethernet and two tags.
pub const MAX_REWRITE: usize = ethernet::HEADER_LEN + 2 * ethernet::TAG_LEN;

/// A way out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Adjacency {
    pub kind: AdjacencyKind,
    pub interface: InterfaceIndex,
    /// The local endpoint behind it, whose ingress policy applies; NONE for a next hop.
    pub endpoint: EndpointIndex,
    /// Largest network packet that may leave this way.
    pub mtu: u16,
    /// The layer 2 header but for its final EtherType.
    rewrite: [u8; MAX_REWRITE],
    rewrite_len: u8,
}

impl Adjacency {
    /// A way out that rewrites: destination and source MAC address, and the tags of the interface.
    pub fn new(
        kind: AdjacencyKind,
        interface: InterfaceIndex,
        endpoint: EndpointIndex,
        mtu: u16,
        destination: Mac,
        source: Mac,
        tags: [u16; 2],
    ) -> Self {
        let mut rewrite = [0u8; MAX_REWRITE];
        rewrite[..6].copy_from_slice(&destination);
        rewrite[6..12].copy_from_slice(&source);
        let mut at = 12;
        let count = tags.iter().take_while(|tag| **tag != 0).count();
        for (position, tag) in tags.iter().take(count).enumerate() {
            // The outer of two tags is the service tag. 802.1ad §9.5.
            let ethertype =
                if count == 2 && position == 0 { ethernet::ETHERTYPE_SERVICE_VLAN } else { ethernet::ETHERTYPE_VLAN };
            rewrite[at..at + 2].copy_from_slice(&ethertype.to_be_bytes());
            rewrite[at + 2..at + 4].copy_from_slice(&tag.to_be_bytes());
            at += ethernet::TAG_LEN;
        }
        Self { kind, interface, endpoint, mtu, rewrite, rewrite_len: at as u8 }
    }

    /// A way out that needs no rewrite because nothing leaves by it.
    pub fn without_rewrite(kind: AdjacencyKind, interface: InterfaceIndex) -> Self {
        Self::new(kind, interface, EndpointIndex::NONE, u16::MAX, [0; 6], [0; 6], [0; 2])
    }

    /// The choice among the members of a group; of none, if the group is NONE.
    pub fn choice(group: GroupIndex) -> Self {
        let mut adjacency = Self::without_rewrite(AdjacencyKind::Group, InterfaceIndex::NONE);
        adjacency.rewrite[..4].copy_from_slice(&group.0.to_ne_bytes());
        adjacency
    }

    /// The group to choose from, if this is a choice. Its number stands where others have what they write.
    pub fn group(&self) -> Option<GroupIndex> {
        let number = self.rewrite.first_chunk().filter(|_| self.kind == AdjacencyKind::Group)?;
        Some(GroupIndex(u32::from_ne_bytes(*number)))
    }

    /// The MAC addresses, if they are all there is in front of the EtherType of a packet that is routed.
    #[inline(always)]
    pub fn untagged(&self) -> Option<&[u8; 12]> {
        let is_routed = !matches!(self.kind, AdjacencyKind::Frame);
        self.rewrite.first_chunk().filter(|_| is_routed & (self.rewrite_len == 12))
    }

    /// The bytes in front of the final EtherType.
    #[inline(always)]
    pub fn rewrite(&self) -> &[u8] {
        &self.rewrite[..usize::from(self.rewrite_len)]
    }
}
