//! Where a worker with nothing to do waits, and how others end its wait.
//!
//! `Sleeper` is an epoll instance over the descriptors of the worker's queues; `Waker` is an eventfd that is part of it.
//! A wake-up that comes before the wait is not lost: it ends the next wait at once.
//!
//! Left out: edge triggering. A queue that still has packets ends the wait again.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

/// Ready descriptors that one wait reports; the others are ready still at the next.
const EVENTS: usize = 64;

const WAKER: u64 = u64::MAX;

pub struct Sleeper {
    epoll: OwnedFd,
    waker: Waker,
    events: [libc::epoll_event; EVENTS],
    ready: usize,
}

/// Ends the wait of the `Sleeper` it comes from, from any thread.
#[derive(Clone)]
pub struct Waker {
    event: Arc<OwnedFd>,
}

impl Sleeper {
    pub fn new() -> io::Result<Sleeper> {
        // SAFETY: no pointers are passed.
        let epoll = owned(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: no pointers are passed.
        let event = owned(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        let waker = Waker { event: Arc::new(event) };
        let sleeper = Sleeper { epoll, waker, events: [libc::epoll_event { events: 0, u64: 0 }; EVENTS], ready: 0 };
        sleeper.control(libc::EPOLL_CTL_ADD, sleeper.waker.event.as_raw_fd(), WAKER)?;
        Ok(sleeper)
    }

    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// From now on a wait ends when `fd` is readable, and `ready` then names `token`. The largest `u64` is taken.
    pub fn add(&mut self, fd: RawFd, token: u64) -> io::Result<()> {
        assert_ne!(token, WAKER, "this token is the waker's own");
        self.control(libc::EPOLL_CTL_ADD, fd, token)
    }

    /// Forgets `fd`; to be called before it is closed. Nothing to forget is no error.
    pub fn remove(&mut self, fd: RawFd) -> io::Result<()> {
        match self.control(libc::EPOLL_CTL_DEL, fd, 0) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EBADF)) => Ok(()),
            other => other,
        }
    }

    /// Waits until a descriptor is readable, a waker is used or the time is over; without a timeout, for ever. Returns
    /// how many descriptors are ready, which is none when a waker, the clock or a signal ended the wait.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<usize> {
        let milliseconds = timeout.map_or(-1, milliseconds);
        // SAFETY: the array is ours, has room for EVENTS events and outlives the call.
        let count = unsafe {
            libc::epoll_wait(self.epoll.as_raw_fd(), self.events.as_mut_ptr(), EVENTS as libc::c_int, milliseconds)
        };
        self.ready = 0;
        if count < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::Interrupted { Ok(0) } else { Err(error) };
        }
        for index in 0..count as usize {
            let event = self.events[index];
            if event.u64 == WAKER {
                self.waker.drain();
            } else {
                self.events[self.ready] = event;
                self.ready += 1;
            }
        }
        Ok(self.ready)
    }

    /// Tokens of the descriptors that the last wait found ready.
    pub fn ready(&self) -> impl Iterator<Item = u64> {
        self.events[..self.ready].iter().map(|event| event.u64)
    }

    fn control(&self, operation: libc::c_int, fd: RawFd, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: token };
        // SAFETY: `event` outlives the call, which copies it.
        let result = unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), operation, fd, &mut event) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl Waker {
    /// Ends the present wait, or the next one. Cheap enough to be called too often.
    pub fn wake(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: eight readable bytes are passed. The only possible failure is a counter that is already at its
        // limit, and then the wait ends all the same.
        unsafe { libc::write(self.event.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    fn drain(&self) {
        let mut count = [0u8; 8];
        // SAFETY: eight writable bytes are passed. A failure means that there was nothing to drain.
        unsafe { libc::read(self.event.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    }
}

/// Rounded up, so that a wait never ends before its time and then spins.
fn milliseconds(timeout: Duration) -> libc::c_int {
    let rounded = timeout.as_nanos().div_ceil(1_000_000);
    libc::c_int::try_from(rounded).unwrap_or(libc::c_int::MAX)
}

fn owned(fd: libc::c_int) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_wake_up_before_the_wait_is_not_lost_and_counts_once() {
        let mut sleeper = Sleeper::new().unwrap();
        let waker = sleeper.waker();
        waker.wake();
        waker.wake();
        assert_eq!(sleeper.wait(None).unwrap(), 0);
        assert_eq!(sleeper.wait(Some(Duration::ZERO)).unwrap(), 0);
    }

    #[test]
    fn a_wake_up_from_another_thread_ends_the_wait() {
        let mut sleeper = Sleeper::new().unwrap();
        let waker = sleeper.waker();
        let other = std::thread::spawn(move || waker.wake());
        sleeper.wait(None).unwrap();
        other.join().unwrap();
    }

    #[test]
    fn ready_names_the_readable_descriptors() {
        let mut sleeper = Sleeper::new().unwrap();
        let (mut near, far) = UnixStream::pair().unwrap();
        let (_silent, quiet) = UnixStream::pair().unwrap();
        sleeper.add(far.as_raw_fd(), 7).unwrap();
        sleeper.add(quiet.as_raw_fd(), 8).unwrap();
        near.write_all(b"x").unwrap();
        sleeper.waker().wake();
        assert_eq!(sleeper.wait(None).unwrap(), 1);
        assert_eq!(sleeper.ready().collect::<Vec<_>>(), [7]);
        sleeper.remove(far.as_raw_fd()).unwrap();
        sleeper.remove(far.as_raw_fd()).unwrap();
        assert_eq!(sleeper.wait(Some(Duration::ZERO)).unwrap(), 0);
        assert_eq!(sleeper.ready().count(), 0);
    }

    #[test]
    fn a_timeout_is_rounded_up() {
        assert_eq!(milliseconds(Duration::from_micros(1)), 1);
        assert_eq!(milliseconds(Duration::from_millis(3)), 3);
        assert_eq!(milliseconds(Duration::ZERO), 0);
        assert_eq!(milliseconds(Duration::MAX), libc::c_int::MAX);
    }
}
