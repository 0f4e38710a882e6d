//! Where it happens: the speaker in one namespace, all its peers in another, one veth pair between them.
//!
//! ```text
//!     PREFIX-speaker                        PREFIX-peers
//!     10.99.0.1/16  up0 ═══════════════ end0  10.99.1.1/16, 10.99.1.2/16, …
//! ```

use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::thread;

use crate::lab::{self, LabError, system};

/// The speaker's address.
pub const SPEAKER: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);

/// The address of a peer, counted from 0; at most `PEERS`.
pub fn peer(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 99, 1, number as u8 + 1)
}

pub const PEERS: usize = 250;

pub struct Place {
    speaker: String,
    peers: String,
    folder: PathBuf,
}

impl Place {
    pub fn new(peers: usize) -> Result<Place, LabError> {
        let (speaker, others) = (lab::namespace("speaker")?, lab::namespace("peers")?);
        // It goes with the namespaces if this process is interrupted: the prefix is the same.
        let folder = std::env::temp_dir().join(format!("{speaker}-bgp"));
        let place = Place { speaker, peers: others, folder };
        let _ = fs::remove_dir_all(&place.folder);
        fs::create_dir_all(&place.folder).map_err(system("make a folder"))?;
        let other = &place.peers;
        place.batch(
            &place.speaker,
            &format!(
                "link add up0 type veth peer name end0 netns {other}\naddr add {SPEAKER}/16 dev up0\nlink set up0 up\n"
            ),
        )?;
        let mut lines = "link set end0 up\n".to_owned();
        for number in 0..peers.min(PEERS) {
            let _ = writeln!(lines, "addr add {}/16 dev end0", peer(number));
        }
        place.batch(other, &lines)?;
        Ok(place)
    }

    fn batch(&self, namespace: &str, lines: &str) -> Result<(), LabError> {
        let path = self.file("batch");
        fs::write(&path, lines).map_err(system("write commands"))?;
        lab::run("ip", &["-n", namespace, "-batch", &path.to_string_lossy()])
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The speaker's namespace.
    pub fn speaker(&self) -> &str {
        &self.speaker
    }

    /// Does something on a thread among the peers; sockets made there stay there.
    pub fn among_peers<T: Send>(&self, work: impl FnOnce() -> Result<T, LabError> + Send) -> Result<T, LabError> {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                lab::enter(&self.peers)?;
                work()
            });
            thread.join().map_err(|_| LabError::Panicked)?
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lab::delete_namespace(&self.speaker);
        lab::delete_namespace(&self.peers);
        let _ = fs::remove_dir_all(&self.folder);
    }
}
