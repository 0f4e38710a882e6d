//! Packets of a capture, made fit for a lab; [`crate::sender`] sends them from A, round and round.
//!
//! A capture's addresses mean nothing here. Sources become addresses of A, destinations addresses of B, each different one a
//! different one, in the order they come; MAC addresses become the lab's; checksums are brought along. All packets travel
//! from A to B, whichever way they went. Lengths, protocols, ports and contents stay.
//!
//! Skipped, and counted: what is neither IPv4 nor IPv6, fragments, packets that the capture has cut, and packets longer
//! than an MTU of 1500 allows. Bounds: `MOST_BYTES` of a file, `MOST_PACKETS` packets.
//! Left out: pcapng, the times of the capture.
//! See: the format, draft-ietf-opsawg-pcap.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use fastpath::header::checksum;
use fastpath::header::{ethernet, protocol};

use crate::tables::{A_IPV4, A_IPV6, A_MAC, B_IPV4, B_IPV6, ROUTER_MAC};

const MOST_BYTES: u64 = 64 << 20;
const MOST_PACKETS: usize = 100_000;
const LONGEST: usize = 1514;
const SHORTEST: usize = 60;
/// Hosts in an endpoint's IPv4 network.
const HOSTS: u32 = 65_000;
const FILE_HEADER_LEN: usize = 24;
const RECORD_HEADER_LEN: usize = 16;
const ETHERNET: u32 = 1;
const RAW_IP: u32 = 101;

#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error("read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("read {}: {what}", path.display())]
    Form { path: PathBuf, what: String },
}

/// Packets ready to be sent.
#[derive(Debug)]
pub struct Capture {
    pub frames: Vec<Vec<u8>>,
    pub skipped: usize,
}

impl Capture {
    pub fn read(path: &Path) -> Result<Capture, ReplayError> {
        let failed = |source| ReplayError::Read { path: path.to_owned(), source };
        let wrong = |what: String| ReplayError::Form { path: path.to_owned(), what };
        let length = fs::metadata(path).map_err(failed)?.len();
        if length > MOST_BYTES {
            return Err(wrong(format!("{length} bytes, expected at most {MOST_BYTES}; cut it with editcap -c")));
        }
        Capture::parse(&fs::read(path).map_err(failed)?).map_err(wrong)
    }

    fn parse(bytes: &[u8]) -> Result<Capture, String> {
        let header = bytes.get(..FILE_HEADER_LEN).ok_or("no capture: shorter than its header")?;
        let magic = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
        let is_swapped = match magic {
            0xa1b2_c3d4 | 0xa1b2_3c4d => false,
            0xd4c3_b2a1 | 0x4d3c_b2a1 => true,
            0x0a0d_0d0a => return Err("a pcapng file, expected pcap; convert it with editcap -F pcap".to_owned()),
            _ => return Err("no capture: it does not begin with the number of a pcap file".to_owned()),
        };
        let word = |bytes: &[u8], at: usize| {
            let word = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
            if is_swapped { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) }
        };
        let link = word(header, 20) & 0xffff;
        if link != ETHERNET && link != RAW_IP {
            return Err(format!("link type {link}, expected Ethernet (1) or raw IP (101)"));
        }
        let mut capture = Capture { frames: Vec::new(), skipped: 0 };
        let mut names = Names::default();
        let mut rest = &bytes[FILE_HEADER_LEN..];
        while !rest.is_empty() && capture.frames.len() < MOST_PACKETS {
            let at = bytes.len() - rest.len();
            let (record, after) =
                rest.split_at_checked(RECORD_HEADER_LEN).ok_or(format!("cut in the packet at byte {at}"))?;
            let (kept, original) = (word(record, 8) as usize, word(record, 12) as usize);
            let (packet, next) = after.split_at_checked(kept).ok_or(format!("cut in the packet at byte {at}"))?;
            rest = next;
            let frame = (kept == original).then(|| names.retarget(packet, link)).flatten();
            match frame {
                Some(frame) => capture.frames.push(frame),
                None => capture.skipped += 1,
            }
        }
        match capture.frames.is_empty() {
            true => Err(format!("no packet that could be sent; {} skipped", capture.skipped)),
            false => Ok(capture),
        }
    }
}

/// Addresses that have been given out.
#[derive(Default)]
struct Names {
    sources: HashMap<Vec<u8>, u32>,
    destinations: HashMap<Vec<u8>, u32>,
}

fn number(names: &mut HashMap<Vec<u8>, u32>, address: &[u8]) -> u32 {
    let next = names.len() as u32 % HOSTS;
    *names.entry(address.to_vec()).or_insert(next)
}

impl Names {
    /// A captured packet as a frame from A to B.
    fn retarget(&mut self, packet: &[u8], link: u32) -> Option<Vec<u8>> {
        let network = match link {
            ETHERNET => packet.get(ethernet::HEADER_LEN..)?,
            _ => packet,
        };
        let is_ipv4 = match network.first()? >> 4 {
            4 => true,
            6 => false,
            _ => return None,
        };
        let (header_len, length, addresses) = match is_ipv4 {
            true => {
                let header_len = usize::from(network[0] & 15) * 4;
                let length = usize::from(u16::from_be_bytes([*network.get(2)?, *network.get(3)?]));
                // More fragments, or an offset.
                if header_len < 20 || u16::from_be_bytes([*network.get(6)?, *network.get(7)?]) & 0x3fff != 0 {
                    return None;
                }
                (header_len, length, (12, 4))
            }
            false => (40, 40 + usize::from(u16::from_be_bytes([*network.get(4)?, *network.get(5)?])), (8, 16)),
        };
        if length < header_len || network.len() < length || ethernet::HEADER_LEN + length > LONGEST {
            return None;
        }
        let mut frame = Vec::with_capacity(LONGEST);
        frame.extend(ROUTER_MAC);
        frame.extend(A_MAC);
        frame.extend(if is_ipv4 { ethernet::ETHERTYPE_IPV4 } else { ethernet::ETHERTYPE_IPV6 }.to_be_bytes());
        frame.extend(&network[..length]);
        let (at, size) = (ethernet::HEADER_LEN + addresses.0, addresses.1);
        let old = frame[at..at + 2 * size].to_vec();
        let (source, destination) =
            (number(&mut self.sources, &old[..size]), number(&mut self.destinations, &old[size..]));
        match is_ipv4 {
            true => {
                frame[at..at + 4].copy_from_slice(&(A_IPV4 + 2 + source).to_be_bytes());
                frame[at + 4..at + 8].copy_from_slice(&(B_IPV4 + 2 + destination).to_be_bytes());
            }
            false => {
                frame[at..at + 16].copy_from_slice(&(A_IPV6 + 2 + u128::from(source)).to_be_bytes());
                frame[at + 16..at + 32].copy_from_slice(&(B_IPV6 + 2 + u128::from(destination)).to_be_bytes());
            }
        }
        let new = frame[at..at + 2 * size].to_vec();
        let kind = network[if is_ipv4 { 9 } else { 6 }];
        let transport = ethernet::HEADER_LEN + header_len;
        let field = match kind {
            protocol::TCP => Some(16),
            protocol::UDP => Some(6),
            protocol::ICMPV6 => Some(2),
            _ => None,
        };
        if is_ipv4 {
            correct(&mut frame, ethernet::HEADER_LEN + 10, &old, &new)?;
        }
        if let Some(field) = field {
            // No checksum is none afterwards.
            if kind != protocol::UDP || frame.get(transport + 6..transport + 8)? != [0, 0] {
                correct(&mut frame, transport + field, &old, &new)?;
            }
        }
        frame.resize(frame.len().max(SHORTEST), 0);
        Some(frame)
    }
}

/// Brings a checksum along with a change under it.
fn correct(frame: &mut [u8], at: usize, old: &[u8], new: &[u8]) -> Option<()> {
    let field: &mut [u8; 2] = frame.get_mut(at..at + 2)?.try_into().ok()?;
    let mut sum = u16::from_be_bytes(*field);
    for (old, new) in old.as_chunks::<2>().0.iter().zip(new.as_chunks::<2>().0) {
        sum = checksum::update(sum, u16::from_be_bytes(*old), u16::from_be_bytes(*new));
    }
    *field = sum.to_be_bytes();
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::{Family, frame};
    use fastpath::header::checksum::{Sum, pseudo_header};

    fn file(link: u32, packets: &[(&[u8], usize)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65_535, link] {
            bytes.extend(word.to_le_bytes());
        }
        for (packet, original) in packets {
            for word in [1, 2, packet.len() as u32, *original as u32] {
                bytes.extend(word.to_le_bytes());
            }
            bytes.extend(*packet);
        }
        bytes
    }

    /// Sums of the IPv4 header and of UDP; right ones are all ones.
    fn sums(frame: &[u8]) -> (u16, u16) {
        let word = |at: usize| u128::from(u32::from_be_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]]));
        let length = usize::from(u16::from_be_bytes([frame[16], frame[17]])) - 20;
        let udp = pseudo_header(word(26), word(30), true, protocol::UDP, length).bytes(&frame[34..34 + length]);
        (Sum::new().bytes(&frame[14..34]).fold(), udp.fold())
    }

    fn udp(source: u8) -> Vec<u8> {
        let mut frame = frame(Family::Ipv4, 100);
        frame[26..30].copy_from_slice(&[192, 0, 2, source]);
        frame[24..26].fill(0);
        let sum = Sum::new().bytes(&frame[14..34]).finish();
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        let length = frame.len() - 34;
        let sum = pseudo_header(
            u128::from(0xc000_0200 + u32::from(source)),
            u128::from(B_IPV4 + 2),
            true,
            protocol::UDP,
            length,
        );
        let sum = sum.bytes(&frame[34..]).finish();
        frame[40..42].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(sums(&frame), (0xffff, 0xffff));
        frame
    }

    #[test]
    fn packets_get_the_labs_addresses_and_keep_their_checksums() {
        let (one, other) = (udp(7), udp(9));
        let capture = Capture::parse(&file(ETHERNET, &[(&one, 96), (&other, 96), (&one, 96)])).unwrap();
        assert_eq!((capture.frames.len(), capture.skipped), (3, 0));
        assert_eq!(capture.frames[0], capture.frames[2]);
        let sources: Vec<u32> =
            capture.frames.iter().map(|frame| u32::from_be_bytes(frame[26..30].try_into().unwrap())).collect();
        assert_eq!(sources, [A_IPV4 + 2, A_IPV4 + 3, A_IPV4 + 2]);
        for frame in &capture.frames {
            assert_eq!(sums(frame), (0xffff, 0xffff));
        }
        let raw = Capture::parse(&file(RAW_IP, &[(&one[14..], 82)])).unwrap();
        assert_eq!(raw.frames[0], capture.frames[0]);
    }

    #[test]
    fn what_cannot_be_sent_is_skipped_and_counted() {
        let whole = udp(7);
        let mut fragment = whole.clone();
        fragment[20] = 0x20;
        let mut arp = whole.clone();
        arp[14] = 0;
        let packets: [(&[u8], usize); 5] = [(&whole, 96), (&fragment, 96), (&arp, 96), (&whole[..50], 96), (&[], 0)];
        let capture = Capture::parse(&file(ETHERNET, &packets)).unwrap();
        assert_eq!((capture.frames.len(), capture.skipped), (1, 4));
    }

    #[test]
    fn files_that_are_no_captures_are_refused_with_what_was_expected() {
        let whole = udp(7);
        let good = file(ETHERNET, &[(&whole, 96)]);
        for (bytes, expected) in [
            (vec![], "shorter than its header"),
            (vec![0; 24], "does not begin"),
            ([&[0x0a, 0x0d, 0x0d, 0x0a][..], &[0; 20]].concat(), "editcap -F pcap"),
            (file(113, &[]), "link type 113"),
            (good[..good.len() - 1].to_vec(), "cut in the packet at byte 24"),
            (good[..30].to_vec(), "cut in the packet at byte 24"),
            (file(ETHERNET, &[]), "no packet"),
        ] {
            let error = Capture::parse(&bytes).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn bytes_of_every_length_and_bit_are_read_without_harm() {
        let good = file(ETHERNET, &[(&udp(7), 96), (&udp(8), 96)]);
        for length in 0..good.len() {
            let _ = Capture::parse(&good[..length]);
        }
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let _ = Capture::parse(&bytes);
        }
    }
}
