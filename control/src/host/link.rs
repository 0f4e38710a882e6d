//! Interfaces of the host, veth pairs and bridges.
//!
//! Names are limited to 15 bytes by the kernel (IFNAMSIZ); a longer one is refused before it is sent.
//!
//! Queues: a veth made here with an explicit number has exactly that many in use. One made without
//! (as CNI plugins do) reports one per CPU here and uses one; `ethtool::channels` tells the number in use.

use std::os::fd::{AsRawFd, BorrowedFd};

use config::net::MacAddress;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, LinkXdp, XdpAttached,
};

use super::{Host, HostError, LinkIndex};

const NAME_LIMIT: usize = 15;
const ENODEV: i32 = 19;

/// One interface as the kernel reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub index: LinkIndex,
    pub name: String,
    /// None for links without an Ethernet address (tunnels).
    pub mac: Option<MacAddress>,
    pub mtu: u32,
    /// Switched on by the administrator (IFF_UP).
    pub up: bool,
    /// Able to carry packets (IFF_RUNNING); for veth: both ends are up.
    pub running: bool,
    pub loopback: bool,
    /// `veth`, `vxlan`, `bridge`, ...; None for hardware and loopback.
    pub kind: Option<String>,
    pub tx_queues: u32,
    pub rx_queues: u32,
    /// The attached XDP program's mode, if there is one.
    pub xdp: Option<XdpMode>,
    /// The other end, or the device below, when it is in this namespace.
    pub peer: Option<LinkIndex>,
    /// The same, when it is in another namespace, which has this number in ours.
    pub far_peer: Option<FarPeer>,
    /// The bridge, bond or VRF this link belongs to.
    pub controller: Option<LinkIndex>,
    /// What somebody has written on it (`ip link set ... alias`).
    pub alias: Option<String>,
}

impl Link {
    /// An Ethernet that is up, and of which nothing else is known.
    pub fn named(index: LinkIndex, name: &str) -> Self {
        Self {
            index,
            name: name.to_owned(),
            mac: None,
            mtu: 1500,
            up: true,
            running: true,
            loopback: false,
            kind: None,
            tx_queues: 1,
            rx_queues: 1,
            xdp: None,
            peer: None,
            far_peer: None,
            controller: None,
            alias: None,
        }
    }

    /// Switched on, and with somebody at the other end: what is sent here arrives somewhere.
    pub fn can_carry(&self) -> bool {
        self.up && self.running
    }
}

/// An interface of another network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FarPeer {
    /// The number by which our namespace knows that one.
    pub namespace: i32,
    pub index: LinkIndex,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XdpMode {
    Native,
    Generic,
    Hardware,
    /// More than one mode at once, or one this program does not know.
    Other,
}

/// One end of a veth pair to create.
#[derive(Debug, Clone, Copy)]
pub struct VethEnd<'a> {
    pub name: &'a str,
    /// Queues each way; at least one.
    pub queues: u32,
    pub mac: Option<MacAddress>,
    pub mtu: Option<u32>,
    /// Where the end is created; None is the host's own namespace.
    pub namespace: Option<BorrowedFd<'a>>,
}

impl<'a> VethEnd<'a> {
    /// An end with one queue and the kernel's choice of address and MTU.
    pub fn new(name: &'a str) -> VethEnd<'a> {
        VethEnd { name, queues: 1, mac: None, mtu: None, namespace: None }
    }

    fn message(&self) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(self.name.to_owned()),
            LinkAttribute::NumTxQueues(self.queues),
            LinkAttribute::NumRxQueues(self.queues),
        ];
        if let Some(mac) = self.mac {
            message.attributes.push(LinkAttribute::Address(mac.0.to_vec()));
        }
        if let Some(mtu) = self.mtu {
            message.attributes.push(LinkAttribute::Mtu(mtu));
        }
        if let Some(namespace) = self.namespace {
            message.attributes.push(LinkAttribute::NetNsFd(namespace.as_raw_fd()));
        }
        message
    }
}

impl Host {
    /// Every interface of the namespace, by index.
    pub async fn links(&self) -> Result<Vec<Link>, HostError> {
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let messages = self.dump(|| "list interfaces".to_owned(), request).await?;
        let mut links: Vec<Link> = messages
            .iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewLink(link) => Some(Link::from(link)),
                _ => None,
            })
            .collect();
        links.sort_by_key(|link| link.index);
        Ok(links)
    }

    /// The interface of that name, if there is one.
    pub async fn find_link(&self, name: &str) -> Result<Option<Link>, HostError> {
        check_name(name)?;
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let request = RouteNetlinkMessage::GetLink(message);
        match self.get(|| format!("read interface {name}"), request).await {
            Ok(RouteNetlinkMessage::NewLink(link)) => Ok(Some(Link::from(&link))),
            Ok(other) => {
                Err(HostError::Protocol { action: format!("read interface {name}"), detail: format!("{other:?}") })
            }
            Err(error) if error.errno() == Some(ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The interface of that name; its absence is an error.
    pub async fn link(&self, name: &str) -> Result<Link, HostError> {
        let found = self.find_link(name).await?;
        found.ok_or_else(|| HostError::NoSuchLink { name: name.to_owned() })
    }

    /// Creates both ends, down. Fails if either name is taken.
    pub async fn create_veth_pair(&self, near: &VethEnd<'_>, far: &VethEnd<'_>) -> Result<(), HostError> {
        check_name(near.name)?;
        check_name(far.name)?;
        assert!(near.queues > 0);
        assert!(far.queues > 0);
        let mut message = near.message();
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(far.message()))),
        ]));
        self.change(
            || format!("create veth pair {} - {}", near.name, far.name),
            RouteNetlinkMessage::NewLink(message),
            NLM_F_CREATE | NLM_F_EXCL,
        )
        .await
    }

    /// Makes sure that `a` and `b` are the two ends of one veth pair in this namespace with `queues`
    /// queues each way. A pair that fits is kept, with its sockets and programs; one that does not is
    /// replaced; an interface of another kind under either name is an error and stays.
    pub async fn ensure_veth_pair(&self, a: &str, b: &str, queues: u32) -> Result<(Link, Link), HostError> {
        let existing = (self.find_link(a).await?, self.find_link(b).await?);
        if let (Some(a), Some(b)) = &existing {
            let fits = |link: &Link| link.tx_queues == queues && link.rx_queues == queues;
            let paired = a.peer == Some(b.index) && b.peer == Some(a.index);
            if a.is_veth() && b.is_veth() && paired && fits(a) && fits(b) {
                return Ok((a.clone(), b.clone()));
            }
        }
        for link in [existing.0, existing.1].into_iter().flatten() {
            if !link.is_veth() {
                return Err(HostError::NotVeth {
                    name: link.name,
                    kind: link.kind.unwrap_or_else(|| "device".to_owned()),
                });
            }
            // The second is gone already when it was the first one's peer.
            self.delete_link(link.index).await?;
        }
        let [near, far] = [a, b].map(|name| VethEnd { queues, ..VethEnd::new(name) });
        self.create_veth_pair(&near, &far).await?;
        Ok((self.link(a).await?, self.link(b).await?))
    }

    /// Creates a bridge, down and without ports: a learning switch that runs no spanning tree.
    pub async fn create_bridge(&self, name: &str) -> Result<(), HostError> {
        check_name(name)?;
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]),
        ];
        let action = || format!("create bridge {name}");
        self.change(action, RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL).await
    }

    /// Makes the interface a port of that bridge.
    pub async fn set_controller(&self, link: LinkIndex, bridge: LinkIndex) -> Result<(), HostError> {
        self.set_attribute(link, LinkAttribute::Controller(bridge.0), || format!("make {link} a port of {bridge}"))
            .await
    }

    pub async fn set_up(&self, link: LinkIndex, up: bool) -> Result<(), HostError> {
        let mut message = LinkMessage::default();
        message.header.index = link.0;
        message.header.change_mask = LinkFlags::Up;
        if up {
            message.header.flags = LinkFlags::Up;
        }
        let action = || format!("set {link} {}", if up { "up" } else { "down" });
        self.change(action, RouteNetlinkMessage::SetLink(message), 0).await
    }

    pub async fn set_mtu(&self, link: LinkIndex, mtu: u32) -> Result<(), HostError> {
        self.set_attribute(link, LinkAttribute::Mtu(mtu), || format!("set mtu {mtu} on {link}")).await
    }

    pub async fn set_mac(&self, link: LinkIndex, mac: MacAddress) -> Result<(), HostError> {
        self.set_attribute(link, LinkAttribute::Address(mac.0.to_vec()), || format!("set mac {mac} on {link}")).await
    }

    /// Writes a text of at most 255 bytes on it, which stays for as long as the interface does.
    pub async fn set_alias(&self, link: LinkIndex, alias: &str) -> Result<(), HostError> {
        self.set_attribute(link, LinkAttribute::IfAlias(alias.to_owned()), || format!("set alias of {link}")).await
    }

    /// Deletes the interface, and a veth's other end with it. One that is gone already is fine.
    pub async fn delete_link(&self, link: LinkIndex) -> Result<(), HostError> {
        let mut message = LinkMessage::default();
        message.header.index = link.0;
        let request = RouteNetlinkMessage::DelLink(message);
        match self.change(|| format!("delete {link}"), request, 0).await {
            Err(error) if error.errno() == Some(ENODEV) => Ok(()),
            result => result,
        }
    }

    async fn set_attribute(
        &self,
        link: LinkIndex,
        attribute: LinkAttribute,
        action: impl FnOnce() -> String,
    ) -> Result<(), HostError> {
        let mut message = LinkMessage::default();
        message.header.index = link.0;
        message.attributes.push(attribute);
        self.change(action, RouteNetlinkMessage::SetLink(message), 0).await
    }
}

impl Link {
    pub fn is_veth(&self) -> bool {
        self.kind.as_deref() == Some("veth")
    }
}

impl From<&LinkMessage> for Link {
    fn from(message: &LinkMessage) -> Link {
        let flags = message.header.flags;
        let mut link = Link {
            mtu: 0,
            up: flags.contains(LinkFlags::Up),
            running: flags.contains(LinkFlags::Running),
            loopback: flags.contains(LinkFlags::Loopback),
            ..Link::named(LinkIndex(message.header.index), "")
        };
        let mut namespace = None;
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Address(bytes) => {
                    link.mac = bytes.as_slice().try_into().ok().map(MacAddress);
                }
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::NumTxQueues(queues) => link.tx_queues = *queues,
                LinkAttribute::NumRxQueues(queues) => link.rx_queues = *queues,
                LinkAttribute::Link(peer) if *peer != 0 => link.peer = Some(LinkIndex(*peer)),
                LinkAttribute::LinkNetNsId(number) => namespace = Some(*number),
                LinkAttribute::Controller(index) if *index != 0 => {
                    link.controller = Some(LinkIndex(*index));
                }
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias.clone()),
                LinkAttribute::Xdp(attributes) => link.xdp = xdp_mode(attributes),
                LinkAttribute::LinkInfo(infos) => {
                    link.kind = infos.iter().find_map(|info| match info {
                        LinkInfo::Kind(kind) => Some(kind.to_string()),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        if let Some(namespace) = namespace {
            link.far_peer = link.peer.take().map(|index| FarPeer { namespace, index });
        }
        link
    }
}

fn xdp_mode(attributes: &[LinkXdp]) -> Option<XdpMode> {
    attributes.iter().find_map(|attribute| match attribute {
        LinkXdp::Attached(XdpAttached::None) => None,
        LinkXdp::Attached(XdpAttached::Driver) => Some(XdpMode::Native),
        LinkXdp::Attached(XdpAttached::SocketBuffer) => Some(XdpMode::Generic),
        LinkXdp::Attached(XdpAttached::Hardware) => Some(XdpMode::Hardware),
        LinkXdp::Attached(_) => Some(XdpMode::Other),
        _ => None,
    })
}

fn check_name(name: &str) -> Result<(), HostError> {
    let legal = !name.is_empty()
        && name.len() <= NAME_LIMIT
        && name != "."
        && name != ".."
        && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b':');
    if legal {
        return Ok(());
    }
    Err(HostError::Invalid {
        what: "interface name",
        value: name.to_owned(),
        expected: "1 to 15 printable characters without space, slash or colon",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_names() {
        let check = |name: &str, legal: bool| assert_eq!(check_name(name).is_ok(), legal, "{name}");
        check("cali0123456789a", true);
        check("cali0123456789ab", false);
        check("", false);
        check("..", false);
        check("a/b", false);
        check("a b", false);
        check("eth0", true);
    }
}
