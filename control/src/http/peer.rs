//! Who is at the other end of the socket: the kernel's word for it, and the user's name.
//!
//! Names come from /etc/passwd alone. Asking the name service could block the control thread on a network.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};

use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use tokio::net::UnixListener;

use crate::datastore::Author;

const PASSWD: &str = "/etc/passwd";

/// What is read of it.
const PASSWD_MAX: u64 = 1024 * 1024;

#[derive(Debug, Clone, Copy)]
pub(super) struct Peer {
    pub(super) uid: Option<u32>,
    pub(super) pid: Option<i32>,
}

impl Peer {
    pub(super) fn author(&self) -> Author {
        let name = match self.uid {
            None => "unknown".to_string(),
            Some(uid) => user_name(uid).unwrap_or_else(|| format!("uid {uid}")),
        };
        Author { name, uid: self.uid }
    }
}

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Peer {
        let credentials = stream.io().peer_cred().ok();
        Peer {
            uid: credentials.map(|credentials| credentials.uid()),
            pid: credentials.and_then(|credentials| credentials.pid()),
        }
    }
}

fn user_name(uid: u32) -> Option<String> {
    let file = File::open(PASSWD).ok()?;
    name_in(BufReader::new(file.take(PASSWD_MAX)), uid)
}

fn name_in(passwd: impl BufRead, uid: u32) -> Option<String> {
    let name = |line: String| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let found: u32 = fields.nth(1)?.parse().ok()?;
        (found == uid).then(|| name.to_string())
    };
    passwd.lines().map_while(Result::ok).find_map(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_users() {
        let passwd = "root:x:0:0::/:/bin/sh\n# a remark\n::5:\nana:x:1000:1000:Ana:/:/bin/sh\n";
        let check = |uid, expected: Option<&str>| assert_eq!(name_in(passwd.as_bytes(), uid).as_deref(), expected);
        check(0, Some("root"));
        check(1000, Some("ana"));
        check(5, None);
        check(7, None);
    }
}
