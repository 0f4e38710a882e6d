//! Offloads and channels of an interface, over the kernel's ethtool netlink family (5.6 and later).
//!
//! The ioctl would need `unsafe`, which this crate forbids, and the `ethtool` program may not be
//! installed where the router runs; the netlink family needs neither.
//!
//! Why offloads matter here: a frame that its sender left with a partial checksum reaches an AF_XDP
//! socket as it is, since the socket carries no such mark, and whoever gets it next drops it. With
//! transmit checksums off in the endpoint's namespace the sender completes them itself (and segments
//! too: TSO needs checksums).

use std::collections::BTreeSet;

use super::genetlink::{Attributes, Family, attributes, number, text};
use super::{HostError, LinkIndex};

const ETHTOOL_MSG_FEATURES_GET: u8 = 11;
const ETHTOOL_MSG_FEATURES_SET: u8 = 12;
const ETHTOOL_MSG_CHANNELS_GET: u8 = 17;
const ETHTOOL_MSG_CHANNELS_SET: u8 = 18;
/// Every request starts with this header.
const ETHTOOL_A_HEADER: u16 = 1;
const ETHTOOL_A_HEADER_DEV_INDEX: u16 = 1;
const ETHTOOL_A_FEATURES_WANTED: u16 = 3;
const ETHTOOL_A_FEATURES_ACTIVE: u16 = 4;
const ETHTOOL_A_BITSET_BITS: u16 = 3;
const ETHTOOL_A_BITSET_BITS_BIT: u16 = 1;
const ETHTOOL_A_BITSET_BIT_NAME: u16 = 2;
const ETHTOOL_A_BITSET_BIT_VALUE: u16 = 3;
const ETHTOOL_A_CHANNELS_RX_MAX: u16 = 2;
const ETHTOOL_A_CHANNELS_TX_MAX: u16 = 3;
const ETHTOOL_A_CHANNELS_COMBINED_MAX: u16 = 5;
const ETHTOOL_A_CHANNELS_RX_COUNT: u16 = 6;
const ETHTOOL_A_CHANNELS_TX_COUNT: u16 = 7;
const ETHTOOL_A_CHANNELS_COMBINED_COUNT: u16 = 9;

/// Work an interface does for the stack; each stands for the kernel features of that purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offload {
    TxChecksum,
    /// TCP segmentation.
    Tso,
    /// Generic segmentation, and UDP's.
    Gso,
    /// Generic receive: the merging of segments.
    Gro,
}

impl Offload {
    /// The kernel's names, as in `ethtool -k`.
    fn features(self) -> &'static [&'static str] {
        match self {
            Offload::TxChecksum => {
                &["tx-checksum-ipv4", "tx-checksum-ipv6", "tx-checksum-ip-generic", "tx-checksum-sctp"]
            }
            Offload::Tso => &[
                "tx-tcp-segmentation",
                "tx-tcp6-segmentation",
                "tx-tcp-ecn-segmentation",
                "tx-tcp-mangleid-segmentation",
            ],
            Offload::Gso => &["tx-generic-segmentation", "tx-udp-segmentation"],
            Offload::Gro => &["rx-gro"],
        }
    }
}

/// Queues in use and possible. Combined ones serve both ways and count in neither of the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Channels {
    pub rx: u32,
    pub tx: u32,
    pub combined: u32,
    pub rx_max: u32,
    pub tx_max: u32,
    pub combined_max: u32,
}

/// Switches offloads on or off; what the interface cannot change stays as it is, without an error.
pub fn set_offloads(link: LinkIndex, wanted: &[(Offload, bool)]) -> Result<(), HostError> {
    let mut bits = Attributes::default();
    // Kernels go on to learn ways of segmenting TCP; a name that one does not know makes it refuse all.
    let active = match wanted.contains(&(Offload::Tso, false)) {
        true => active_features(link)?,
        false => BTreeSet::new(),
    };
    for (offload, on) in wanted {
        let known = offload.features().iter().copied();
        let is_tcp = |name: &&str| name.starts_with("tx-tcp") && !offload.features().contains(name);
        let learnt = active.iter().map(String::as_str).filter(|_| *offload == Offload::Tso).filter(is_tcp);
        for name in known.chain(learnt) {
            let mut bit = Attributes::default();
            bit.put_str(ETHTOOL_A_BITSET_BIT_NAME, name);
            if *on {
                bit.put_flag(ETHTOOL_A_BITSET_BIT_VALUE);
            }
            bits.put_nested(ETHTOOL_A_BITSET_BITS_BIT, &bit);
        }
    }
    let mut bitset = Attributes::default();
    bitset.put_nested(ETHTOOL_A_BITSET_BITS, &bits);
    let mut request = request_for(link);
    request.put_nested(ETHTOOL_A_FEATURES_WANTED, &bitset);
    open()?.ask(&format!("set offloads of {link}"), ETHTOOL_MSG_FEATURES_SET, &request)?;
    Ok(())
}

/// Whether any feature of that offload is active.
pub fn is_active(link: LinkIndex, offload: Offload) -> Result<bool, HostError> {
    let active = active_features(link)?;
    Ok(offload.features().iter().any(|name| active.contains(*name)))
}

/// The kernel's names of all active features.
pub fn active_features(link: LinkIndex) -> Result<BTreeSet<String>, HostError> {
    let action = format!("read offloads of {link}");
    let answers = open()?.ask(&action, ETHTOOL_MSG_FEATURES_GET, &request_for(link))?;
    let names = answers
        .iter()
        .flat_map(|answer| inside(answer, ETHTOOL_A_FEATURES_ACTIVE))
        .filter(|(kind, _)| *kind == ETHTOOL_A_BITSET_BITS)
        .flat_map(|(_, bits)| attributes(bits))
        .filter_map(|(_, bit)| {
            attributes(bit).find(|(kind, _)| *kind == ETHTOOL_A_BITSET_BIT_NAME).map(|(_, name)| text(name))
        });
    Ok(names.collect())
}

/// None: the driver does not tell, which for virtual devices means one queue.
pub fn channels(link: LinkIndex) -> Result<Option<Channels>, HostError> {
    let action = format!("read channels of {link}");
    let answers = match open()?.ask(&action, ETHTOOL_MSG_CHANNELS_GET, &request_for(link)) {
        Ok(answers) => answers,
        Err(error) if error.errno() == Some(nix::Error::EOPNOTSUPP as i32) => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut channels = Channels::default();
    for (kind, value) in answers.iter().flat_map(|answer| attributes(answer)) {
        let Some(value) = number(value).and_then(|value| u32::try_from(value).ok()) else { continue };
        match kind {
            ETHTOOL_A_CHANNELS_RX_MAX => channels.rx_max = value,
            ETHTOOL_A_CHANNELS_TX_MAX => channels.tx_max = value,
            ETHTOOL_A_CHANNELS_COMBINED_MAX => channels.combined_max = value,
            ETHTOOL_A_CHANNELS_RX_COUNT => channels.rx = value,
            ETHTOOL_A_CHANNELS_TX_COUNT => channels.tx = value,
            ETHTOOL_A_CHANNELS_COMBINED_COUNT => channels.combined = value,
            _ => {}
        }
    }
    Ok(Some(channels))
}

/// Sets how many queues are in use each way.
pub fn set_channels(link: LinkIndex, rx: u32, tx: u32) -> Result<(), HostError> {
    let mut request = request_for(link);
    request.put_u32(ETHTOOL_A_CHANNELS_RX_COUNT, rx);
    request.put_u32(ETHTOOL_A_CHANNELS_TX_COUNT, tx);
    let action = format!("set {rx} receive and {tx} transmit queues on {link}");
    open()?.ask(&action, ETHTOOL_MSG_CHANNELS_SET, &request)?;
    Ok(())
}

fn open() -> Result<Family, HostError> {
    Family::open("ethtool")?.ok_or(HostError::NoFamily { name: "ethtool", since: "5.6" })
}

fn request_for(link: LinkIndex) -> Attributes {
    let mut header = Attributes::default();
    header.put_u32(ETHTOOL_A_HEADER_DEV_INDEX, link.0);
    let mut request = Attributes::default();
    request.put_nested(ETHTOOL_A_HEADER, &header);
    request
}

/// The attributes nested in the attribute of kind `outer`.
fn inside(bytes: &[u8], outer: u16) -> impl Iterator<Item = (u16, &[u8])> {
    attributes(bytes).filter(move |(kind, _)| *kind == outer).flat_map(|(_, value)| attributes(value))
}
