//! What is done to interfaces beside attaching them, and how their queues are opened.

use fastpath::io::xsk::QueueOptions;
use fastpath::table::interface::InterfaceKind;

use super::LAYER2;
use crate::host::Link;

#[derive(Debug, Clone, Copy, Default)]
pub struct Recipe {
    pub prepare_endpoints: bool,
    /// Poll the drivers of uplinks that are network cards.
    pub busy_poll: bool,
    /// Let the drivers of network cards use frames in place, where they can.
    pub zero_copy: bool,
}

impl Recipe {
    /// For the queues of a link, when a frame has room for a packet of so many bytes.
    pub(super) fn options(&self, kind: InterfaceKind, link: &Link, frame_room: u32) -> QueueOptions {
        // A link of no kind is hardware.
        let is_card = link.kind.is_none() && kind != InterfaceKind::Host;
        QueueOptions {
            alone: self.zero_copy && is_card,
            busy_poll: self.busy_poll && is_card && kind == InterfaceKind::Uplink,
            is_short: link.mtu + LAYER2 <= frame_room,
            ..QueueOptions::default()
        }
    }
}
