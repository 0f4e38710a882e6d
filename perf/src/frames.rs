//! Frames of UDP packets of many flows from A to B, for measurements in memory.

use fastpath::header::checksum::{Sum, pseudo_header};
use fastpath::header::{build, ethernet, protocol};

use crate::tables::{A_IPV4, A_MAC, B_IPV4, DENIED_PORT, ROUTER_MAC};

const IPV4_AT: usize = ethernet::HEADER_LEN;
const UDP_AT: usize = IPV4_AT + 20;
const PAYLOAD_AT: usize = UDP_AT + 8;
pub const FIRST_PORT: u16 = 1024;
const PORTS: u32 = 1 << 10;
/// Discard, RFC 863.
pub const DESTINATION_PORT: u16 = 9;

/// A frame of `length` bytes, of flow 0.
pub fn udp_frame(length: usize) -> Vec<u8> {
    let length = length.max(PAYLOAD_AT);
    let mut frame = vec![0u8; length];
    frame[..6].copy_from_slice(&ROUTER_MAC);
    frame[6..12].copy_from_slice(&A_MAC);
    frame[12..14].copy_from_slice(&ethernet::ETHERTYPE_IPV4.to_be_bytes());
    frame[UDP_AT + 2..UDP_AT + 4].copy_from_slice(&DESTINATION_PORT.to_be_bytes());
    frame[UDP_AT + 4..UDP_AT + 6].copy_from_slice(&((length - UDP_AT) as u16).to_be_bytes());
    address(&mut frame, 0);
    frame
}

/// Makes a frame one of flow `index`; flows differ in source address and source port.
pub fn address(frame: &mut [u8], index: u32) {
    let source = A_IPV4 + 2 + index / PORTS;
    let port = FIRST_PORT + (index % PORTS) as u16;
    let length = frame.len() - UDP_AT;
    let header = build::ipv4(source, B_IPV4 + 2, protocol::UDP, length);
    frame[IPV4_AT..UDP_AT].copy_from_slice(&header);
    frame[UDP_AT..UDP_AT + 2].copy_from_slice(&port.to_be_bytes());
    // A checksum of 0 says that there is none. RFC 768.
    frame[UDP_AT + 6..PAYLOAD_AT].fill(0);
}

/// Another destination, which [`crate::tables::two_endpoints_but_one_port`] denies.
pub fn to_denied_port(frame: &mut [u8]) {
    frame[UDP_AT + 2..UDP_AT + 4].copy_from_slice(&DENIED_PORT.to_be_bytes());
}

/// A source that is not the sender's own.
pub fn from_nobody(frame: &mut [u8]) {
    let length = frame.len() - UDP_AT;
    let header = build::ipv4(B_IPV4 + 3, B_IPV4 + 2, protocol::UDP, length);
    frame[IPV4_AT..UDP_AT].copy_from_slice(&header);
}

/// Leaves in the frame what a stack leaves for hardware to finish: the sum of the pseudo header.
pub fn leave_partial_checksum(frame: &mut [u8]) {
    let source = u32::from_be_bytes([frame[26], frame[27], frame[28], frame[29]]);
    let destination = u32::from_be_bytes([frame[30], frame[31], frame[32], frame[33]]);
    let sum: Sum = pseudo_header(source.into(), destination.into(), true, protocol::UDP, frame.len() - UDP_AT);
    frame[UDP_AT + 6..PAYLOAD_AT].copy_from_slice(&sum.fold().to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_differ() {
        let mut frames: Vec<Vec<u8>> = Vec::new();
        for index in [0, 1, 1023, 1024, 999_999] {
            let mut frame = udp_frame(60);
            address(&mut frame, index);
            assert!(!frames.contains(&frame));
            frames.push(frame);
        }
    }
}
