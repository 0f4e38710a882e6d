//! Where packets of a measurement end, in the kernel: `gauge.bpf.c` and what it has counted.
//!
//! Counters and histogram are kept per CPU by the program and summed up here. They only grow: who measures takes the
//! difference of two readings.

use std::os::fd::RawFd;

use aya::Ebpf;
use aya::maps::{MapData, PerCpuArray};
use libbpf_sys::BPF_TC_INGRESS;

use super::guard::{attach, load_classifier, remove_discipline};
use super::program::{ProgramError, take_map, with_loader};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/gauge.bpf.o"));

/// As in gauge.bpf.c, as are the next two. Last byte of a destination MAC that no packet should have.
pub const MARK: u8 = 0xff;

const SUB_BITS: u32 = 5;
const BUCKETS: u32 = 1152;

/// What has arrived since the gauge was loaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    pub packets: u64,
    pub bytes: u64,
    /// Packets without our stamp.
    pub foreign: u64,
    /// Packets that had come before; not among `packets`.
    pub twice: u64,
    /// Packets that came after one with a later sequence number.
    pub reordered: u64,
    /// Packets to a MAC address that ends with [`MARK`].
    pub marked: u64,
}

/// How much is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Depth {
    /// Packets and bytes: costs least.
    Count,
    /// The stamps too: latency, order, duplicates.
    Whole,
}

pub struct Gauge {
    fd: RawFd,
    totals: PerCpuArray<MapData, u64>,
    latencies: PerCpuArray<MapData, u64>,
    /// Owns the program behind `fd`.
    _object: Ebpf,
}

impl Gauge {
    pub fn load(depth: Depth) -> Result<Gauge, ProgramError> {
        let name = match depth {
            Depth::Count => "gauge_count",
            Depth::Whole => "gauge_whole",
        };
        let mut object = with_loader(name, OBJECT)?;
        Ok(Gauge {
            fd: load_classifier(&mut object, name)?,
            totals: take_map(&mut object, "totals")?,
            latencies: take_map(&mut object, "latencies")?,
            _object: object,
        })
    }

    /// Everything that arrives at the interface ends here from now on. This is for interfaces that a measurement has made:
    /// it is in front of everything else there.
    pub fn attach(&self, ifindex: u32) -> Result<(), ProgramError> {
        attach(ifindex, BPF_TC_INGRESS, self.fd)
    }

    /// Takes every filter off the interface.
    pub fn detach(ifindex: u32) -> Result<(), ProgramError> {
        remove_discipline(ifindex)
    }

    pub fn totals(&self) -> Result<Totals, ProgramError> {
        let read = |index: u32| sum(&self.totals, index);
        // In the order of `enum total`.
        Ok(Totals {
            packets: read(0)?,
            bytes: read(1)?,
            foreign: read(2)?,
            twice: read(3)?,
            reordered: read(4)?,
            marked: read(5)?,
        })
    }

    /// How many packets took how many nanoseconds: buckets in order, by the middle of each, empty ones left out.
    pub fn latencies(&self) -> Result<Vec<(u64, u64)>, ProgramError> {
        let mut found = Vec::new();
        for bucket in 0..BUCKETS {
            let count = sum(&self.latencies, bucket)?;
            if count > 0 {
                found.push((middle(bucket), count));
            }
        }
        Ok(found)
    }
}

pub(super) fn sum(map: &PerCpuArray<MapData, u64>, index: u32) -> Result<u64, ProgramError> {
    let values = map.get(&index, 0).map_err(|source| ProgramError::Counters { source })?;
    Ok(values.iter().sum())
}

/// The middle of a bucket, in nanoseconds.
fn middle(bucket: u32) -> u64 {
    let (power, part) = (bucket >> SUB_BITS, u64::from(bucket & ((1 << SUB_BITS) - 1)));
    match power {
        0 => part,
        power => {
            let width = 1u64 << (power - 1);
            ((1 << SUB_BITS) + part) * width + width / 2
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `bucket_of` of gauge.bpf.c.
    fn bucket_of(value: u64) -> u32 {
        if value < 1 << SUB_BITS {
            return value as u32;
        }
        let power = value.ilog2() - SUB_BITS;
        ((power + 1) << SUB_BITS) + ((value >> power) as u32 & ((1 << SUB_BITS) - 1))
    }

    #[test]
    fn the_middle_of_a_bucket_is_in_it_and_near_every_value_of_it() {
        for value in (0..60).flat_map(|power| [1u64 << power, (1 << power) + (1 << power) / 3]) {
            let bucket = bucket_of(value);
            if bucket >= BUCKETS {
                continue;
            }
            let middle = middle(bucket);
            assert_eq!(bucket_of(middle), bucket, "{value}");
            assert!(middle.abs_diff(value) as f64 <= value as f64 / 32.0, "{value} {middle}");
        }
    }
}
