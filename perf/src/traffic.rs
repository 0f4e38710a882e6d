//! What is sent through a forwarder: sizes, family, flows.
//!
//! Sizes are those on a wire, with the four bytes of the frame check sequence that a veth does not have: 64 is a frame of
//! 60 bytes here. Every packet is UDP with a stamp behind its header ([`fastpath::io::blast`]), so the shortest of IPv6 is
//! 84 on a wire, and shorter sizes are raised to it.
//!
//! Flows differ in source port and, beyond 1024 of them, in source address. IMIX is the simple one of seven short, four
//! middle and one long packet; RFC 6985 would write it `aaaaaaabbbbc`, sent here in an order that spreads the sizes.

use fastpath::header::{build, ethernet, protocol};
use fastpath::io::blast::{MAGIC, STAMP_LEN};

use crate::tables::{A_IPV4, A_IPV6, A_MAC, B_IPV4, B_IPV6, ROUTER_MAC};

/// Frame check sequence.
pub const FCS_LEN: usize = 4;
pub const SHORTEST: usize = 64;
/// Longer ones do not fit a page of the generator's, with what XDP needs around them.
pub const LONGEST: usize = 1518;
/// RFC 2544 §9.1.
pub const SIZES: [usize; 7] = [64, 128, 256, 512, 1024, 1280, 1518];
/// An endpoint of a lab owns a /16: 65,000 addresses of 1024 ports.
pub const MOST_FLOWS: u32 = 60_000_000;

const IMIX: [usize; 12] = [64, 570, 64, 64, 570, 64, 64, 570, 64, 1518, 64, 570];
const UDP_LEN: usize = 8;
pub const FIRST_PORT: u16 = 1024;
/// Discard, RFC 863.
const DESTINATION_PORT: u16 = 9;
const HOP_LIMIT: u8 = 64;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    Ipv4,
    Ipv6,
}

impl Family {
    pub fn name(self) -> &'static str {
        match self {
            Family::Ipv4 => "IPv4",
            Family::Ipv6 => "IPv6",
        }
    }

    fn headers_len(self) -> usize {
        let ip = match self {
            Family::Ipv4 => 20,
            Family::Ipv6 => 40,
        };
        ethernet::HEADER_LEN + ip + UDP_LEN
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Size {
    /// On a wire.
    Fixed(usize),
    Imix,
}

impl Size {
    pub fn name(self) -> String {
        match self {
            Size::Fixed(size) => format!("{size} B"),
            Size::Imix => "IMIX".to_owned(),
        }
    }

    /// Mean number of bytes on a wire.
    pub fn mean(self) -> f64 {
        match self {
            Size::Fixed(size) => size as f64,
            Size::Imix => IMIX.iter().sum::<usize>() as f64 / IMIX.len() as f64,
        }
    }
}

impl std::str::FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Size, String> {
        if text.eq_ignore_ascii_case("imix") {
            return Ok(Size::Imix);
        }
        let size = text.parse().ok().filter(|size| (SHORTEST..=LONGEST).contains(size));
        size.map(Size::Fixed).ok_or(format!("size {text}: expected imix or bytes from {SHORTEST} to {LONGEST}"))
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Traffic {
    pub size: Size,
    pub family: Family,
    pub flows: u32,
}

impl Traffic {
    pub fn name(&self) -> String {
        let flows = crate::memory::thousands(self.flows as usize);
        format!("{}, {}, {flows} flows", self.size.name(), self.family.name())
    }

    /// Frames to be sent in turn, each of flow 0.
    pub fn frames(&self) -> Vec<Vec<u8>> {
        match self.size {
            Size::Fixed(size) => vec![frame(self.family, size)],
            Size::Imix => IMIX.iter().map(|size| frame(self.family, *size)).collect(),
        }
    }
}

/// A frame of flow 0, from A to B, that is as long as this on a wire.
pub fn frame(family: Family, size: usize) -> Vec<u8> {
    let headers_len = family.headers_len();
    let length = (size - FCS_LEN).max(headers_len + STAMP_LEN);
    let mut frame = vec![0u8; length];
    frame[..6].copy_from_slice(&ROUTER_MAC);
    frame[6..12].copy_from_slice(&A_MAC);
    let udp_at = headers_len - UDP_LEN;
    let udp_len = length - udp_at;
    let ethertype = match family {
        Family::Ipv4 => {
            let header = build::ipv4(A_IPV4 + 2, B_IPV4 + 2, protocol::UDP, udp_len);
            frame[ethernet::HEADER_LEN..udp_at].copy_from_slice(&header);
            ethernet::ETHERTYPE_IPV4
        }
        Family::Ipv6 => {
            let header = build::ipv6(A_IPV6 + 2, B_IPV6 + 2, protocol::UDP, HOP_LIMIT, udp_len);
            frame[ethernet::HEADER_LEN..udp_at].copy_from_slice(&header);
            ethernet::ETHERTYPE_IPV6
        }
    };
    frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
    frame[udp_at..udp_at + 2].copy_from_slice(&FIRST_PORT.to_be_bytes());
    frame[udp_at + 2..udp_at + 4].copy_from_slice(&DESTINATION_PORT.to_be_bytes());
    frame[udp_at + 4..udp_at + 6].copy_from_slice(&(udp_len as u16).to_be_bytes());
    frame[headers_len..headers_len + 4].copy_from_slice(&MAGIC.to_be_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_as_long_as_their_size_says_and_carry_a_stamp() {
        for (family, size, expected) in
            [(Family::Ipv4, 64, 60), (Family::Ipv4, 1518, 1514), (Family::Ipv6, 64, 80), (Family::Ipv6, 1518, 1514)]
        {
            let frame = frame(family, size);
            assert_eq!(frame.len(), expected);
            assert!(frame.len() >= family.headers_len() + STAMP_LEN);
        }
    }

    #[test]
    fn imix_is_seven_four_and_one() {
        let count = |size| IMIX.iter().filter(|other| **other == size).count();
        assert_eq!([count(64), count(570), count(1518)], [7, 4, 1]);
    }

    #[test]
    fn sizes_are_read_and_their_limits_told() {
        assert_eq!("imix".parse(), Ok(Size::Imix));
        assert_eq!("1518".parse(), Ok(Size::Fixed(1518)));
        for wrong in ["63", "1519", "", "-1", "big"] {
            assert!(wrong.parse::<Size>().is_err(), "{wrong}");
        }
    }
}
