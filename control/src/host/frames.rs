//! Frames that are sent by an interface as they are, by a packet socket that hears nothing.
//!
//! Where an interface is, the kernel tells for all of them at once; it is remembered by number, which no other interface gets.
//! Bounds: `LINKS_MAX` interfaces are remembered, then all are forgotten.
//! See: packet(7).

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, sendto, socket};

use super::LinkIndex;

const LINKS_MAX: usize = 1024;

pub struct Frames {
    socket: OwnedFd,
    links: HashMap<LinkIndex, LinkAddr>,
}

impl Frames {
    pub fn open() -> io::Result<Frames> {
        // Protocol 0 is none: nothing is received.
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Packet, SockType::Raw, flags, None)?;
        Ok(Frames { socket, links: HashMap::new() })
    }

    /// Sends a whole frame, from its layer 2 header on.
    pub fn send(&mut self, link: LinkIndex, frame: &[u8]) -> io::Result<()> {
        let place = match self.links.get(&link) {
            Some(place) => *place,
            None => self.find(link)?,
        };
        match sendto(self.socket.as_raw_fd(), frame, &place, MsgFlags::empty()) {
            Ok(_) => Ok(()),
            Err(error) => {
                self.links.remove(&link);
                Err(error.into())
            }
        }
    }

    fn find(&mut self, link: LinkIndex) -> io::Result<LinkAddr> {
        let is_it = |place: &LinkAddr| u32::try_from(place.ifindex()) == Ok(link.0);
        let mut places = nix::ifaddrs::getifaddrs()?.filter_map(|found| found.address?.as_link_addr().copied());
        let place = places.find(is_it).ok_or(io::ErrorKind::NotFound)?;
        if self.links.len() >= LINKS_MAX {
            self.links.clear();
        }
        self.links.insert(link, place);
        Ok(place)
    }
}
