//! Where packets come from: UDP packets of many flows from A to B, in memory or out of an AF_XDP socket.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use fastpath::header::checksum::{Sum, pseudo_header};
use fastpath::header::{build, ethernet, protocol};
use fastpath::io::Queue;
use fastpath::io::xsk::{QueueOptions, XskMemory, XskOptions};

use crate::cpu::Task;
use crate::lab::{Lab, LabError, Place, system};
use crate::tables::{A_IPV4, A_MAC, B_IPV4, DENIED_PORT, ROUTER_MAC};

const IPV4_AT: usize = ethernet::HEADER_LEN;
const UDP_AT: usize = IPV4_AT + 20;
const PAYLOAD_AT: usize = UDP_AT + 8;
pub const FIRST_PORT: u16 = 1024;
const PORTS: u32 = 1 << 10;
/// Discard, RFC 863.
pub const DESTINATION_PORT: u16 = 9;

/// Numbers that look random and repeat from run to run. See: Steele, Lea, Flood, "Fast Splittable Pseudorandom Number
/// Generators", 2014.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 to `bound` - 1.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }
}

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

/// Sends as fast as it can, from A's own interface, until it is stopped.
pub struct Generator {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<(), LabError>>,
    pub task: Task,
}

impl Generator {
    /// Packets of `length` bytes of so many flows, one after the other.
    pub fn start(lab: &Arc<Lab>, length: usize, flows: u32) -> Result<Generator, LabError> {
        let stop = Arc::new(AtomicBool::new(false));
        let (send, receive) = mpsc::channel();
        let (lab, is_stopped) = (lab.clone(), stop.clone());
        let thread = thread::Builder::new()
            .name("generator".to_owned())
            .spawn(move || {
                lab.enter(Place::A)?;
                // Nobody waits for the answer only if the lab has given up.
                let _ = send.send(Task::current());
                transmit(length, flows, &is_stopped)
            })
            .map_err(system("start the generator's thread"))?;
        match receive.recv() {
            Ok(task) => Ok(Generator { stop, thread, task }),
            // The thread has ended without a word: it has an error to tell.
            Err(_) => Err(thread.join().map_err(|_| LabError::Panicked)?.err().unwrap_or(LabError::Panicked)),
        }
    }

    pub fn stop(self) -> Result<(), LabError> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| LabError::Panicked)?
    }
}

fn transmit(length: usize, flows: u32, is_stopped: &AtomicBool) -> Result<(), LabError> {
    const BATCH: usize = 64;
    let (mut umem, memory) = XskMemory::new(XskOptions::new("end0", 0))?;
    let mut queue = memory.open("end0", 0, QueueOptions::default())?;
    let frame = udp_frame(length);
    let mut flow = 0;
    while !is_stopped.load(Ordering::Relaxed) {
        for _ in 0..BATCH {
            let Some(packet) = umem.copy_in([frame.as_slice()]) else { break };
            address(umem.data_mut(&packet), flow);
            flow = if flow + 1 >= flows { 0 } else { flow + 1 };
            if let Err(packet) = queue.send(&mut umem, packet) {
                umem.free(packet);
                break;
            }
        }
        queue.flush(&mut umem);
        queue.reclaim(&mut umem);
    }
    queue.close(&mut umem);
    Ok(())
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
