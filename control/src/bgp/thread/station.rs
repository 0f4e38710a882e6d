//! The socket of a monitoring station: connected, written, and read only to see that it is closed.
//!
//! One piece at a time waits for the socket; whoever wants to know when the next one is taken hears `Written`.
//!
//! Invariant: a link that was dropped says nothing any more, since its number is not the current one.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// What is sent and not acknowledged for so long ends the connection.
const USER_TIMEOUT: Duration = Duration::from_secs(60);

/// What happened, and to which link.
pub struct StationIo {
    pub link: u64,
    pub event: StationEvent,
}

pub enum StationEvent {
    Connected,
    Written,
    Lost(String),
}

/// A connection that is made or there.
pub struct Link {
    number: u64,
    writes: mpsc::Sender<Vec<u8>>,
    task: JoinHandle<()>,
}

impl Link {
    /// Begins to connect.
    pub fn connect(number: u64, address: SocketAddr, events: mpsc::Sender<StationIo>) -> Link {
        let (writes, to_write) = mpsc::channel(1);
        let task = tokio::spawn(async move {
            let ended = run(number, address, to_write, &events).await;
            let reason = ended.map_or_else(|error| error.to_string(), |()| "closed by the station".to_owned());
            let _ = events.send(StationIo { link: number, event: StationEvent::Lost(reason) }).await;
        });
        Link { number, writes, task }
    }

    pub fn number(&self) -> u64 {
        self.number
    }

    /// The place for the next piece, if there is one.
    pub fn room(&self) -> Option<mpsc::Permit<'_, Vec<u8>>> {
        self.writes.try_reserve().ok()
    }

    /// Closes it at once.
    pub fn abort(self) {
        self.task.abort();
    }

    /// Writes what is left, and closes it. Gives the task that does that.
    pub async fn close(self, last: Vec<u8>) -> JoinHandle<()> {
        // It has ended by itself.
        let _ = self.writes.send(last).await;
        self.task
    }
}

/// Ends well when the station closes the connection, or when there is nobody who writes any more.
async fn run(
    link: u64,
    address: SocketAddr,
    mut to_write: mpsc::Receiver<Vec<u8>>,
    events: &mpsc::Sender<StationIo>,
) -> io::Result<()> {
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await;
    let mut stream = connected.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    let say = |event| events.send(StationIo { link, event });
    let _ = say(StationEvent::Connected).await;
    let (mut reading, mut writing) = stream.split();
    let closed = async {
        // A station says nothing (RFC 7854 §3.2); what it says all the same is not looked at.
        let mut ignored = [0; 1024];
        while reading.read(&mut ignored).await? > 0 {}
        Ok(())
    };
    let written = async {
        while let Some(bytes) = to_write.recv().await {
            writing.write_all(&bytes).await?;
            let _ = say(StationEvent::Written).await;
        }
        writing.shutdown().await
    };
    tokio::select! {
        ended = closed => ended,
        ended = written => ended,
    }
}
