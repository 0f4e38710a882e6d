//! What a driver says it can do with XDP: the `netdev` generic netlink family (kernel 6.3 and later).
//!
//! A claim, not a proof: zero-copy may still be refused at bind time (MTU, queues, frame size).
//! See: linux/Documentation/netlink/specs/netdev.yaml.

use super::genetlink::{Attributes, Family, attributes, number};
use super::{HostError, LinkIndex};

const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;
const NETDEV_A_DEV_XDP_ZC_MAX_SEGS: u16 = 4;
const NETDEV_A_DEV_XSK_FEATURES: u16 = 6;
const NETDEV_XDP_ACT_BASIC: u64 = 1;
const NETDEV_XDP_ACT_XSK_ZEROCOPY: u64 = 1 << 3;
const NETDEV_XDP_ACT_RX_SG: u64 = 1 << 5;
const NETDEV_XSK_FLAGS_TX_CHECKSUM: u64 = 1 << 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct XdpFeatures {
    /// Programs run in the driver, before an skb is made.
    pub native: bool,
    pub zero_copy: bool,
    /// Frames of several buffers (jumbo frames).
    pub multi_buffer: bool,
    /// Frames one zero-copy packet may span.
    pub zero_copy_segments: u64,
    /// Completes checksums for AF_XDP senders that ask by TX metadata.
    pub tx_checksum: bool,
}

/// None: this kernel does not tell.
pub fn xdp_features(link: LinkIndex) -> Result<Option<XdpFeatures>, HostError> {
    let Some(mut family) = Family::open("netdev")? else { return Ok(None) };
    let mut request = Attributes::default();
    request.put_u32(NETDEV_A_DEV_IFINDEX, link.0);
    let answers = family.ask(&format!("read xdp features of {link}"), NETDEV_CMD_DEV_GET, &request)?;
    let find = |wanted| {
        let mut all = answers.iter().flat_map(|answer| attributes(answer));
        all.find(|(kind, _)| *kind == wanted).and_then(|(_, value)| number(value))
    };
    let Some(xdp) = find(NETDEV_A_DEV_XDP_FEATURES) else { return Ok(None) };
    Ok(Some(XdpFeatures {
        native: xdp & NETDEV_XDP_ACT_BASIC != 0,
        zero_copy: xdp & NETDEV_XDP_ACT_XSK_ZEROCOPY != 0,
        multi_buffer: xdp & NETDEV_XDP_ACT_RX_SG != 0,
        zero_copy_segments: find(NETDEV_A_DEV_XDP_ZC_MAX_SEGS).unwrap_or(1),
        tx_checksum: find(NETDEV_A_DEV_XSK_FEATURES).unwrap_or(0) & NETDEV_XSK_FLAGS_TX_CHECKSUM != 0,
    }))
}
