//! What the daemon takes of the machine's memory, part by part.
//!
//! ```text
//!     all mappings (smaps) ─┬─ of sockets    rings shared with the kernel
//!                           ├─ of files      the program and its libraries
//!                           └─ anonymous ─┬─ what tables say of themselves: frames, flows, routes, policy
//!                                         └─ the rest: control
//! ```
//!
//! The kernel says what is resident in all, so that nothing is forgotten: what no part claims is control's. Parts on the
//! heap are what they asked for; what the allocator keeps beside it is control's too.
//!
//! Left out: memory of the kernel. It keeps about 125 bytes for each frame and socket.

use std::fs;

use fastpath::mapped::Extent;

use crate::control::Control;
use crate::http::views::MemoryView;

/// Bytes that are resident, by what is mapped.
#[derive(Debug, Default, PartialEq, Eq)]
struct Resident {
    sockets: u64,
    files: u64,
    anonymous: u64,
}

/// All parts, or why nothing can be said.
pub fn memory<D>(control: &Control<D>) -> Vec<MemoryView> {
    // A kernel without /proc/self/smaps tells nothing; then all is what the parts say of themselves.
    let resident = fs::read_to_string("/proc/self/smaps").map(|text| resident(&text)).unwrap_or_default();
    let tables = control.publisher.current();
    let [ipv4, ipv6] = tables.routes.extents();
    let parts = [
        ("frames", "memory for packets, shared with the kernel", control.attachments.frames()),
        ("flows", "the table of open flows", control.flows.extent()),
        ("routes-ipv4", "where packets go, IPv4", ipv4),
        ("routes-ipv6", "where packets go, IPv6", ipv6),
        ("policy", "compiled policy, with the members of its sets", Extent::of_heap(tables.policy.size())),
    ];
    let claimed: Extent = parts.iter().map(|(.., extent)| *extent).sum();
    let mut views: Vec<MemoryView> = parts
        .into_iter()
        .map(|(part, description, extent)| view(part, description, extent.resident as u64, Some(extent.allocated)))
        .collect();
    let rest = resident.anonymous.saturating_sub(claimed.resident as u64);
    views.push(view("sockets", "rings shared with the kernel", resident.sockets, None));
    views.push(view("program", "the program and its libraries, also of other processes", resident.files, None));
    views.push(view("control", "datastore, objects, calculation, and everything else", rest, None));
    let total = views.iter().map(|view| view.resident_bytes).sum();
    views.push(view("total", "what the kernel counts as resident", total, None));
    views
}

fn view(part: &str, description: &str, resident: u64, allocated: Option<usize>) -> MemoryView {
    MemoryView {
        part: part.to_owned(),
        description: description.to_owned(),
        resident_bytes: resident,
        allocated_bytes: allocated.map(|bytes| bytes as u64),
    }
}

/// Sums what proc(5) says of every mapping.
fn resident(smaps: &str) -> Resident {
    let mut sum = Resident::default();
    let mut path = "";
    for line in smaps.lines() {
        let first = line.split_whitespace().next().unwrap_or_default();
        if first == "Rss:" {
            let kilobytes: u64 = line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).unwrap_or(0);
            let kind = match path {
                path if path.starts_with("socket:") => &mut sum.sockets,
                path if path.starts_with('/') => &mut sum.files,
                _ => &mut sum.anonymous,
            };
            *kind += kilobytes * 1024;
        } else if !first.ends_with(':') {
            // Range, access, offset, device, inode; then what is mapped, if it has a name.
            path = line.split_whitespace().nth(5).unwrap_or_default();
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_summed_by_kind() {
        let text = "\
5581c3a3f000-5581c3a73000 r--p 00000000 fd:01 1234                       /usr/bin/vrouter
Size:                208 kB
Rss:                 200 kB
Pss:                 100 kB
7f0000000000-7f0000200000 rw-p 00000000 00:00 0
Rss:                  12 kB
VmFlags: rd wr mr mw me ac
7f0000200000-7f0000220000 rw-s 100000000 00:08 5678                      socket:[91011]
Rss:                   8 kB
7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0                          [stack]
Rss:                   4 kB
";
        let expected = Resident { sockets: 8 << 10, files: 200 << 10, anonymous: 16 << 10 };
        assert_eq!(resident(text), expected);
    }

    #[test]
    fn this_process_has_all_kinds_but_sockets() {
        let text = fs::read_to_string("/proc/self/smaps").expect("smaps of this process");
        let resident = resident(&text);
        assert!(resident.files > 0 && resident.anonymous > 0);
    }
}
