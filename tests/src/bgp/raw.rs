//! A peer by plain TCP: it says the bytes that it is given, and keeps what comes.
//!
//! Left out: TCP-MD5. Setting a key takes a system call that no crate here offers without `unsafe`; BIRD and GoBGP have it.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::message::{HEADER, KEEPALIVE, Message, OPEN, Open, keepalive};
use crate::topology::Machine;

/// A message is waited for so long, unless a test says otherwise.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Raw {
    stream: TcpStream,
    /// What has come and is not a whole message yet.
    buffer: Vec<u8>,
    /// Every message so far, in order.
    pub received: Vec<Message>,
}

impl Raw {
    /// A connection from one of a machine's addresses.
    pub fn connect(machine: &Machine, from: IpAddr, to: SocketAddr) -> io::Result<Raw> {
        let stream = machine.within(|| {
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            socket.bind(&SocketAddr::new(from, 0).into())?;
            socket.connect_timeout(&to.into(), PATIENCE)?;
            Ok::<_, io::Error>(TcpStream::from(socket))
        })?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Raw { stream, buffer: Vec::new(), received: Vec::new() })
    }

    /// Connects, says who it is, and gives back the other side's OPEN when the session is there.
    pub fn establish(machine: &Machine, from: IpAddr, to: SocketAddr, open: &Open) -> Result<(Raw, Message), String> {
        let mut raw = Raw::connect(machine, from, to).map_err(|error| format!("connect: {error}"))?;
        raw.send(&open.message());
        let theirs = raw.until(OPEN)?;
        raw.send(&keepalive());
        raw.until(KEEPALIVE)?;
        Ok((raw, theirs))
    }

    /// Whatever becomes of it: an end shows when something is waited for.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Waits for a message of a type; the others before it are kept. An error is why there is none.
    pub fn until(&mut self, kind: u8) -> Result<Message, String> {
        let end = Instant::now() + PATIENCE;
        while let Some(message) = self.next(end)? {
            if message.kind == kind {
                return Ok(message);
            }
            if let Some((code, subcode)) = message.notification() {
                return Err(format!("NOTIFICATION {code}/{subcode}"));
            }
        }
        Err(format!("no message of type {kind} within {PATIENCE:?}"))
    }

    /// What has come by now.
    pub fn drain(&mut self) -> Result<Vec<Message>, String> {
        let mut all = Vec::new();
        while let Some(message) = self.next(Instant::now())? {
            all.push(message);
        }
        Ok(all)
    }

    /// The next message that comes before a moment; an error when the connection is over.
    pub fn next(&mut self, end: Instant) -> Result<Option<Message>, String> {
        loop {
            if let Some(message) = self.cut()? {
                self.received.push(message.clone());
                return Ok(Some(message));
            }
            let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            self.stream.set_read_timeout(Some(left)).map_err(|error| error.to_string())?;
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err("closed".to_owned()),
                Ok(length) => self.buffer.extend(&buffer[..length]),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    return Ok(None);
                }
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    fn cut(&mut self) -> Result<Option<Message>, String> {
        let Some(header) = self.buffer.first_chunk::<HEADER>() else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes([header[16], header[17]]));
        if header[..16] != [0xff; 16] || length < HEADER {
            return Err(format!("a header that cannot be: {header:?}"));
        }
        if self.buffer.len() < length {
            return Ok(None);
        }
        let rest = self.buffer.split_off(length);
        let whole = std::mem::replace(&mut self.buffer, rest);
        Ok(Some(Message { kind: whole[18], body: whole[HEADER..].to_vec() }))
    }
}
