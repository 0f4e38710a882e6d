//! Ethernet II and the 802.1Q / 802.1ad tag. IEEE 802.3 §3.2, 802.1Q §9.

use super::be16;

pub const HEADER_LEN: usize = 14;
pub const TAG_LEN: usize = 4;
/// An IPv4 packet shorter than 46 bytes is padded to this frame length (without FCS).
pub const MIN_FRAME_LEN: usize = 60;

pub const ETHERTYPE_IPV4: u16 = 0x0800;
pub const ETHERTYPE_ARP: u16 = 0x0806;
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
pub const ETHERTYPE_VLAN: u16 = 0x8100;
pub const ETHERTYPE_SERVICE_VLAN: u16 = 0x88a8;

/// A MAC address.
pub type Mac = [u8; 6];

pub const BROADCAST: Mac = [0xff; 6];

/// True for multicast and broadcast addresses (the group bit).
pub fn is_group(mac: &Mac) -> bool {
    mac[0] & 1 == 1
}

/// How source addresses begin that stand for a link, see [`link_mac`]. Locally administered.
const LINK_PREFIX: [u8; 3] = [0x02, 0x76, 0x72];

/// The source address that a frame carries on the private pair when it is on its way between the host's stack and the
/// link with this number of the kernel's. `steer_host_out` and `steer_host_in` write and read the same. None for numbers
/// beyond 24 bits.
pub fn link_mac(link: u32) -> Option<Mac> {
    let [high, a, b, c] = link.to_be_bytes();
    (high == 0).then_some([LINK_PREFIX[0], LINK_PREFIX[1], LINK_PREFIX[2], a, b, c])
}

/// The other way round.
pub fn link_of(mac: &Mac) -> Option<u32> {
    let number = mac.strip_prefix(&LINK_PREFIX)?;
    number.first_chunk::<3>().map(|[a, b, c]| u32::from_be_bytes([0, *a, *b, *c]))
}

/// View of an Ethernet header.
pub struct Ethernet<'a>(&'a [u8; HEADER_LEN]);

impl<'a> Ethernet<'a> {
    #[inline(always)]
    pub fn at(bytes: &'a [u8]) -> Option<Self> {
        bytes.first_chunk().map(Self)
    }
    pub fn destination(&self) -> Mac {
        [self.0[0], self.0[1], self.0[2], self.0[3], self.0[4], self.0[5]]
    }
    pub fn source(&self) -> Mac {
        [self.0[6], self.0[7], self.0[8], self.0[9], self.0[10], self.0[11]]
    }
    pub fn ethertype(&self) -> u16 {
        be16(self.0, 12)
    }
}

/// View of what follows a tag's EtherType: the tag control field and the inner EtherType.
pub struct Tag<'a>(&'a [u8; TAG_LEN]);

impl<'a> Tag<'a> {
    #[inline(always)]
    pub fn at(bytes: &'a [u8]) -> Option<Self> {
        bytes.first_chunk().map(Self)
    }
    /// VLAN identifier; 0 means "priority only".
    pub fn vlan(&self) -> u16 {
        be16(self.0, 0) & 0x0fff
    }
    pub fn ethertype(&self) -> u16 {
        be16(self.0, 2)
    }
}

/// True for both EtherTypes that announce a tag.
pub fn is_tag(ethertype: u16) -> bool {
    ethertype == ETHERTYPE_VLAN || ethertype == ETHERTYPE_SERVICE_VLAN
}
