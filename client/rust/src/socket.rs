//! libzmq's sockets on tokio: its file descriptor says, by edges, that something may have happened inside.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::OnceLock;
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use zmq2::{SocketEvent, SocketType};

use crate::error::{Error, Result};
use crate::wire::Frames;

const RECONNECT_MS: i32 = 50;
const RECONNECT_MAX_MS: i32 = 250;
const NEVER: i32 = i32::MAX;
const HANDSHAKE_MS: i32 = 5_000;
/// Not 0: libzmq 4.3.5 aborts the process (session_base.cpp, `clean_pipes`) if it learns in one go that a socket was closed
/// without linger and that its server died in the middle of a message to it.
const LINGER_MS: i32 = 100;
/// The largest frame that is taken: beyond it libzmq ends the connection.
const MAX_FRAME: i64 = 64 << 20;
const FEED_HWM: i32 = 2_000;
/// While a pipe is full, its file descriptor may stay silent.
pub(crate) const FULL_RETRY: Duration = Duration::from_millis(5);

fn context() -> &'static zmq2::Context {
    static CONTEXT: OnceLock<zmq2::Context> = OnceLock::new();
    CONTEXT.get_or_init(zmq2::Context::new)
}

/// A socket in the hands of one task.
pub(crate) struct Socket {
    fd: AsyncFd<RawFd>, // before the socket: it is dropped first
    inner: zmq2::Socket,
}

/// What the monitor of a socket reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// The handshake is done: the server's socket is of the right kind.
    Up,
    Down,
    /// An attempt to connect has failed.
    Failed,
}

impl Socket {
    fn of(inner: zmq2::Socket) -> Result<Self> {
        let fd = inner.get_fd().map_err(broken)?;
        // libzmq knows its descriptors as numbers only. This one is the socket's own, and both end here together.
        #[allow(deprecated)] // the other constructor wants a type that says so, which takes `unsafe`
        let fd = AsyncFd::new(fd).map_err(|error| Error::bad(format!("a socket of libzmq: {error}")))?;
        Ok(Socket { fd, inner })
    }

    /// A DEALER, not connected yet, and its monitor.
    ///
    /// libzmq does not reconnect it: requests for a server that is gone would reach its successor. Its option against this,
    /// IMMEDIATE, ends the pipe of a lost connection at any read, also between two frames of a message, and aborts the
    /// process then (4.3.5: fq.cpp, `!_more`); and so does the -1 that it has for "never" (SPEC.md, §1).
    pub fn dealer() -> Result<(Socket, Socket)> {
        static MONITORS: AtomicU64 = AtomicU64::new(0);
        let socket = context().socket(SocketType::DEALER).map_err(broken)?;
        socket.set_reconnect_ivl(NEVER).map_err(broken)?;
        configure(&socket)?;
        let endpoint = format!("inproc://logos-monitor-{}", MONITORS.fetch_add(1, Ordering::Relaxed));
        let events = [SocketEvent::HANDSHAKE_SUCCEEDED, SocketEvent::DISCONNECTED, SocketEvent::CONNECT_RETRIED];
        socket.monitor(&endpoint, events.into_iter().fold(0, |all, event| all | event as i32)).map_err(broken)?;
        let monitor = context().socket(SocketType::PAIR).map_err(broken)?;
        monitor.set_linger(0).map_err(broken)?;
        monitor.connect(&endpoint).map_err(broken)?;
        Ok((Socket::of(socket)?, Socket::of(monitor)?))
    }

    /// A DEALER for one question that any server may answer: so libzmq may connect it again.
    pub fn probe(endpoint: &str) -> Result<Socket> {
        let socket = context().socket(SocketType::DEALER).map_err(broken)?;
        socket.set_reconnect_ivl(RECONNECT_MS).map_err(broken)?;
        configure(&socket)?;
        let socket = Socket::of(socket)?;
        socket.connect(endpoint)?;
        Ok(socket)
    }

    /// A SUB that is connected and subscribed.
    pub fn subscriber<'a>(endpoint: &str, topics: impl Iterator<Item = &'a [u8]>) -> Result<Socket> {
        let socket = context().socket(SocketType::SUB).map_err(broken)?;
        // Subscriptions are messages to the server: with a bound they would be lost at a reconnect.
        socket.set_sndhwm(0).map_err(broken)?;
        socket.set_rcvhwm(FEED_HWM).map_err(broken)?;
        socket.set_reconnect_ivl(RECONNECT_MS).map_err(broken)?;
        socket.set_reconnect_ivl_max(RECONNECT_MAX_MS).map_err(broken)?;
        configure(&socket)?;
        for topic in topics {
            socket.set_subscribe(topic).map_err(broken)?;
        }
        let socket = Socket::of(socket)?;
        socket.connect(endpoint)?;
        Ok(socket)
    }

    pub fn connect(&self, endpoint: &str) -> Result<()> {
        self.inner.connect(endpoint).map_err(|error| Error::bad(format!("{endpoint} is not an endpoint: {error}")))
    }

    /// Drop what is queued for an endpoint, and what came from it and was not read.
    pub fn disconnect(&self, endpoint: &str) {
        let _ = self.inner.disconnect(endpoint); // an error: it has none, as wanted
    }

    /// What has arrived; none: nothing (more) now.
    pub fn receive(&mut self) -> Option<Frames> {
        let mut frames = Frames::new();
        loop {
            frames.push(uninterrupted(|| self.inner.recv_bytes(zmq2::DONTWAIT)).ok()?);
            if !self.inner.get_rcvmore().ok()? {
                return Some(frames);
            }
        }
    }

    /// As `receive`, of a monitor.
    pub fn change(&mut self) -> Option<Change> {
        const UP: u16 = SocketEvent::HANDSHAKE_SUCCEEDED as u16;
        const DOWN: u16 = SocketEvent::DISCONNECTED as u16;
        const FAILED: u16 = SocketEvent::CONNECT_RETRIED as u16;
        loop {
            // The first frame begins with the event, in the byte order of the host (zmq_socket_monitor(3)).
            let frames = self.receive()?;
            match frames[0].first_chunk().map(|event| u16::from_ne_bytes(*event)) {
                Some(UP) => return Some(Change::Up),
                Some(DOWN) => return Some(Change::Down),
                Some(FAILED) => return Some(Change::Failed),
                _ => {}
            }
        }
    }

    /// Hand a message over; false: the pipe is full, or there is none.
    pub fn send<'a>(&mut self, frames: impl IntoIterator<Item = &'a [u8]>) -> bool {
        let mut frames = frames.into_iter().peekable();
        while let Some(frame) = frames.next() {
            let more = if frames.peek().is_some() { zmq2::SNDMORE } else { 0 };
            if uninterrupted(|| self.inner.send(frame, zmq2::DONTWAIT | more)).is_err() {
                return false;
            }
        }
        true
    }

    /// Whether there is something to receive. Makes the socket notice what has happened, a lost connection included.
    pub fn pending(&mut self) -> bool {
        uninterrupted(|| self.inner.get_events()).is_ok_and(|events| events.contains(zmq2::POLLIN))
    }

    /// Wait for the next edge. Only after `pending` has said false: an edge that was consumed inside does not return.
    pub async fn changed(&mut self) {
        match self.fd.readable().await {
            Ok(mut guard) => guard.clear_ready(),
            Err(_) => std::future::pending().await, // the runtime is shutting down
        }
    }
}

/// Make a call again that a signal ended: each for itself, since a whole message would begin again in its middle.
fn uninterrupted<T>(call: impl Fn() -> zmq2::Result<T>) -> zmq2::Result<T> {
    loop {
        match call() {
            Err(zmq2::Error::EINTR) => {}
            result => return result,
        }
    }
}

fn configure(socket: &zmq2::Socket) -> Result<()> {
    socket.set_linger(LINGER_MS).map_err(broken)?;
    socket.set_handshake_ivl(HANDSHAKE_MS).map_err(broken)?;
    socket.set_maxmsgsize(MAX_FRAME).map_err(broken)
}

fn broken(error: zmq2::Error) -> Error {
    Error::bad(format!("a socket of libzmq: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without lingering, libzmq aborts a process that closes a dealer while its server dies in the middle of a request;
    /// that cannot be brought about at will.
    #[test]
    fn dealers_linger() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _inside = runtime.enter();
        let (dealer, _monitor) = Socket::dealer().unwrap();
        let probe = Socket::probe("ipc:///a/path/without/a/server").unwrap();
        for socket in [dealer, probe] {
            assert_eq!(socket.inner.get_linger(), Ok(LINGER_MS));
            assert_ne!(LINGER_MS, 0);
        }
    }
}
