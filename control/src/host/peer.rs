//! The namespace that the other end of a veth is in.
//!
//! The kernel says of an interface which number our namespace has for that one, and nothing leads from the number to the
//! namespace. The other way is open: of any file that is a namespace the kernel tells the number. So the places where such
//! files are get looked through: first where they have names, then the processes.
//!
//! ```text
//!     request  [ struct nlmsghdr 16 | struct rtgenmsg 1, pad to 4 | NETNSA_FD ]
//!     answer   [ the same                                         | NETNSA_NSID ]
//! ```
//!
//! Bounds: `MOST_FILES` files are looked at; a namespace that several lead to is asked for once.
//! Left out: namespaces that neither a name nor a process of this host leads to. Their interfaces are left as they are.
//! Sources: linux/net_namespace.h, linux/rtnetlink.h (RTM_GETNSID).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use super::HostError;
use super::genetlink::attributes;

const FOLDERS: [&str; 2] = ["/run/netns", "/run/docker/netns"];
const MOST_FILES: usize = 1 << 16;

const RTM_NEWNSID: u16 = 88;
const RTM_GETNSID: u16 = 90;
const NLM_F_REQUEST: u16 = 1;
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;
/// nlmsghdr and a padded rtgenmsg.
const HEADERS: usize = 20;

/// Namespaces found so far, by the number that the calling thread's namespace has for them. To be kept for a moment: names
/// and processes come and go.
#[derive(Default)]
pub struct Namespaces {
    by_number: Option<BTreeMap<i32, (File, PathBuf)>>,
}

impl Namespaces {
    /// The namespace of that number, if a name or a process leads to it.
    pub fn find(&mut self, number: i32) -> Result<Option<(&File, &Path)>, HostError> {
        let found = match self.by_number.take() {
            Some(found) => found,
            None => look()?,
        };
        Ok(self.by_number.insert(found).get(&number).map(|(file, path)| (file, path.as_path())))
    }
}

fn look() -> Result<BTreeMap<i32, (File, PathBuf)>, HostError> {
    let action = "ask for the numbers of network namespaces";
    let mut socket = Socket::new(NETLINK_ROUTE).map_err(HostError::io(action))?;
    socket.bind_auto().map_err(HostError::io(action))?;
    socket.connect(&SocketAddr::new(0, 0)).map_err(HostError::io(action))?;
    let mut seen = BTreeSet::new();
    let mut found = BTreeMap::new();
    // What cannot be read, or went away meanwhile, leads nowhere.
    for path in named().chain(of_processes()).take(MOST_FILES) {
        let Ok(metadata) = fs::metadata(&path) else { continue };
        if !seen.insert((metadata.dev(), metadata.ino())) {
            continue;
        }
        let Ok(file) = File::open(&path) else { continue };
        if let Some(number) = ask(&socket, &file).map_err(HostError::io(action))? {
            found.entry(number).or_insert((file, path));
        }
    }
    Ok(found)
}

fn named() -> impl Iterator<Item = PathBuf> {
    FOLDERS.iter().flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten()).map(|entry| entry.path())
}

fn of_processes() -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let processes = entries.filter(|entry| entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit));
    processes.map(|entry| entry.path().join("ns/net"))
}

/// The number for a file; none when it has none, or is no namespace.
fn ask(socket: &Socket, file: &File) -> std::io::Result<Option<i32>> {
    let mut request = Vec::with_capacity(HEADERS + 8);
    request.extend(((HEADERS + 8) as u32).to_ne_bytes());
    request.extend(RTM_GETNSID.to_ne_bytes());
    request.extend(NLM_F_REQUEST.to_ne_bytes());
    request.resize(HEADERS, 0);
    request.extend(8u16.to_ne_bytes());
    request.extend(NETNSA_FD.to_ne_bytes());
    request.extend(file.as_raw_fd().to_ne_bytes());
    socket.send(&request, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    Ok(read(&answer))
}

fn read(answer: &[u8]) -> Option<i32> {
    let kind = u16::from_ne_bytes(*answer.get(4..)?.first_chunk()?);
    if kind != RTM_NEWNSID {
        return None;
    }
    let (_, value) = attributes(answer.get(HEADERS..)?).find(|(kind, _)| *kind == NETNSA_NSID)?;
    // Negative: our namespace has no number for it, so no interface of ours has its other end there.
    Some(i32::from_ne_bytes(value.try_into().ok()?)).filter(|number| *number >= 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        let answer = |kind: u16, number: i32| {
            let mut bytes = vec![0; HEADERS];
            bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
            bytes.extend([8, 0, 1, 0]);
            bytes.extend(number.to_ne_bytes());
            bytes
        };
        assert_eq!(read(&answer(RTM_NEWNSID, 7)), Some(7));
        assert_eq!(read(&answer(RTM_NEWNSID, -1)), None);
        assert_eq!(read(&answer(2, 7)), None);
        let whole = answer(RTM_NEWNSID, 7);
        for length in 0..whole.len() {
            assert_eq!(read(&whole[..length]), None, "{length} bytes");
        }
    }
}
