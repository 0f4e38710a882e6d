//! Where packets of a measurement leave the kernel for an AF_XDP socket: `sink.bpf.c`, loaded, attached, counted.
//!
//! Who reads the socket finds eight bytes in front of each packet: when it arrived, see [`arrival`]. What the program has
//! counted and nobody has read was lost by the socket, and not by whoever forwarded.
//!
//! Left out: packets of several frames. For interfaces that a measurement has made; nothing else may have a program there.

use std::os::fd::{AsFd, AsRawFd, RawFd};

use aya::Ebpf;
use aya::maps::{MapData, PerCpuArray, XskMap};
use aya::programs::Xdp;

use super::XdpMode;
use super::gauge::{Totals, sum};
use super::program::{ProgramError, advice, netlink_attach, take_map, with_loader};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sink.bpf.o"));

/// Bytes in front of a packet.
const FRONT: usize = 8;

/// When the packet arrived, in nanoseconds of `CLOCK_MONOTONIC`, and the packet.
pub fn arrival(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (front, packet) = bytes.split_first_chunk::<FRONT>()?;
    Some((u64::from_ne_bytes(*front), packet))
}

/// The loaded program, with its maps.
pub struct SinkProgram {
    fd: RawFd,
    sockets: XskMap<MapData>,
    totals: PerCpuArray<MapData, u64>,
    /// Owns the program behind `fd`.
    _object: Ebpf,
}

impl SinkProgram {
    pub fn load() -> Result<SinkProgram, ProgramError> {
        let name = "sink";
        let failed = |error: aya::programs::ProgramError| ProgramError::Load { name, source: error.into() };
        let mut object = with_loader(name, OBJECT)?;
        let program = object.program_mut(name).ok_or(ProgramError::Missing { what: "program", name })?;
        let program: &mut Xdp = program.try_into().map_err(failed)?;
        program.load().map_err(failed)?;
        Ok(SinkProgram {
            fd: program.fd().map_err(failed)?.as_fd().as_raw_fd(),
            sockets: take_map(&mut object, "sockets")?,
            totals: take_map(&mut object, "totals")?,
            _object: object,
        })
    }

    /// Packets that arrive on `queue` go to this socket.
    pub fn register(&mut self, queue: u32, socket: RawFd) -> Result<(), ProgramError> {
        self.sockets.set(queue, socket, 0).map_err(|source| ProgramError::Register { queue, source })
    }

    /// Everything that arrives at the interface ends here from now on, in the driver.
    pub fn attach(&self, ifindex: u32) -> Result<(), ProgramError> {
        netlink_attach(ifindex, self.fd, XdpMode::Native).map_err(|source| ProgramError::Attach {
            ifindex,
            advice: advice(&source),
            source,
        })
    }

    /// Takes whatever program is there off the interface.
    pub fn detach(ifindex: u32) -> Result<(), ProgramError> {
        netlink_attach(ifindex, -1, XdpMode::Native).map_err(|source| ProgramError::Detach { ifindex, source })
    }

    /// What has arrived since the program was loaded, whether or not the socket had room for it. Order and duplicates are
    /// for the reader of the socket to see.
    pub fn totals(&self) -> Result<Totals, ProgramError> {
        // In the order of `enum total`.
        Ok(Totals {
            packets: sum(&self.totals, 0)?,
            bytes: sum(&self.totals, 1)?,
            foreign: sum(&self.totals, 2)?,
            ..Totals::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_stands_in_front_of_the_packet() {
        let bytes = [&7u64.to_ne_bytes()[..], b"packet"].concat();
        assert_eq!(arrival(&bytes), Some((7, &b"packet"[..])));
        assert_eq!(arrival(&bytes[..7]), None);
    }
}
