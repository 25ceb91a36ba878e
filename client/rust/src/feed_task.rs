//! The task that owns a feed's socket, and catches up on what is missing.

mod replay;
mod silence;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, oneshot};
use tokio::time::Instant;

use crate::bytes::Bytes;
use crate::cursor::{Cursor, Verdict};
use crate::error::Result;
use crate::feed::FeedShared;
use crate::kernel::KernelClient;
use crate::kernel_events::{decode_header, other_version, Content, Header, KernelEvent};
use crate::socket::Socket;
use crate::wire::Frames;

use self::replay::Fetched;

const RETRY: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// Heartbeats that may be missing before the kernel is asked whether it is there.
const MISSED: u32 = 3;
/// Events taken in one round, so that replays and notices get their turn.
const ROUND: usize = 256;

/// Which cursor is being served, and what for.
type Work = Pin<Box<dyn Future<Output = (usize, Result<Fetched>)> + Send>>;

pub(crate) struct FeedTask {
    client: KernelClient,
    endpoint: String,
    socket: Socket,
    cursors: Vec<Cursor>,
    shared: Arc<FeedShared>,
    lease: bool,
    heard: Option<oneshot::Sender<()>>,
    notices: broadcast::Receiver<KernelEvent>,
    work: Option<Work>,
    retry: Duration,
    retry_at: Option<Instant>,
    ended: bool,
    beat: Duration,
    /// When something came.
    last_word: Instant,
    watch_at: Instant,
    /// The control socket is being asked.
    asking: Option<Pin<Box<dyn Future<Output = bool> + Send>>>,
    /// The kernel is, as its silence showed.
    down: bool,
}

/// F0 of a stream: the NUL keeps `m/1/1` from matching `m/1/10`.
fn topic(cursor: &Cursor) -> Vec<u8> {
    [cursor.stream.as_bytes(), b"\0"].concat()
}

fn subscribe(endpoint: &str, cursors: &[Cursor]) -> Result<Socket> {
    let topics: Vec<Vec<u8>> = cursors.iter().map(topic).collect();
    Socket::subscriber(endpoint, topics.iter().map(Vec::as_slice))
}

impl FeedTask {
    /// `heard` is sent when all subscriptions are in force.
    pub fn new(
        client: KernelClient,
        cursors: Vec<Cursor>,
        shared: Arc<FeedShared>,
        lease: bool,
        heard: oneshot::Sender<()>,
    ) -> Result<Self> {
        let endpoint = client.hello(|hello| hello.events.clone());
        let socket = subscribe(&endpoint, &cursors)?;
        let notices = client.inner.shared.notices.subscribe();
        let beat = Duration::from_millis(client.hello(|hello| hello.heartbeat_ms).max(1).into());
        let now = Instant::now();
        Ok(FeedTask {
            client,
            endpoint,
            socket,
            cursors,
            shared,
            lease,
            heard: Some(heard),
            notices,
            work: None,
            retry: RETRY,
            retry_at: None,
            ended: false,
            beat,
            last_word: now,
            watch_at: now + beat,
            asking: None,
            down: false,
        })
    }

    pub async fn run(mut self) {
        while !self.ended {
            let more = self.drain();
            self.begin_work();
            let idle = Instant::now() + RETRY_MAX;
            tokio::select! {
                biased;
                notice = self.notices.recv() => self.notice(notice),
                (at, fetched) = finished(&mut self.work) => {
                    self.work = None;
                    self.take(at, fetched);
                }
                answers = finished(&mut self.asking) => {
                    self.asking = None;
                    self.answered(answers);
                }
                () = tokio::time::sleep_until(self.watch_at) => self.watch(),
                () = tokio::task::yield_now(), if more => {}
                () = self.socket.changed() => {}
                () = self.shared.room.notified() => {}
                () = tokio::time::sleep_until(self.retry_at.unwrap_or(idle)) => self.retry_at = None,
            }
        }
        self.shared.queue().end();
    }

    // -- events in ---------------------------------------------------------------------------------------------------

    /// Take what has arrived; true: there is more.
    fn drain(&mut self) -> bool {
        for _ in 0..ROUND {
            match self.socket.receive() {
                _ if self.ended => return false,
                Some(frames) => self.receive(frames),
                None => return self.socket.pending(),
            }
        }
        true
    }

    fn receive(&mut self, frames: Frames) {
        let [f0, f1, payload] = match <[Vec<u8>; 3]>::try_from(frames) {
            Ok(frames) => frames,
            Err(_) => return self.shared.queue().counters.garbage += 1,
        };
        let found = self.cursors.iter().position(|cursor| f0.strip_suffix(b"\0") == Some(cursor.stream.as_bytes()));
        let (Some(at), Ok(header)) = (found, decode_header(&f1)) else {
            self.shared.queue().counters.garbage += 1;
            if let Some(version) = other_version(&f1) {
                // Hello has agreed on a version: to skip what is in another would be to lose it in silence.
                let reason = format!("the kernel sends events of version {version}");
                self.shared.queue().put(KernelEvent::KernelLost { reason });
                self.ended = true;
            }
            return;
        };
        self.last_word = Instant::now();
        let cursor = &mut self.cursors[at];
        let full = self.shared.queue().full();
        let verdict = match header.content {
            Content::Heartbeat => cursor.heartbeat(header.place),
            // The kernel's ring keeps it, and a replay brings it when there is room.
            _ if full && !cursor.behind => Verdict::CatchUp,
            _ => cursor.event(header.place),
        };
        match verdict {
            Verdict::Keep => {
                self.report(at); // a loss comes before what follows it
                self.show(at, header, payload);
            }
            Verdict::CatchUp | Verdict::Skip => {
                let gap = cursor.behind || verdict == Verdict::CatchUp;
                cursor.behind = gap;
                if header.content != Content::Heartbeat {
                    let hold = gap && !full && cursor.is_messages();
                    let dropped = if hold { cursor.held.add(header, payload) } else { 1 + cursor.held.clear() };
                    self.shared.queue().counters.skipped += dropped;
                }
            }
        }
        self.report(at);
        self.tell_heard();
    }

    fn tell_heard(&mut self) {
        if self.heard.is_some() && self.cursors.iter().all(|cursor| cursor.heard || !beats(cursor, self.lease)) {
            if let Some(heard) = self.heard.take() {
                let _ = heard.send(()); // the caller may have given up
            }
        }
    }

    fn show(&mut self, at: usize, header: Header, payload: Vec<u8>) {
        let event = match header.content {
            Content::Message(mut message) => {
                message.stream.clone_from(&self.cursors[at].stream);
                message.payload = Bytes(payload);
                KernelEvent::Message(message)
            }
            Content::Health(health) => KernelEvent::Health { health },
            Content::Peer(change, peer) => KernelEvent::Peer { change, peer },
            Content::Heartbeat | Content::Unknown => return,
        };
        let mut queue = self.shared.queue();
        queue.counters.received += 1;
        queue.put(event);
    }

    fn report(&mut self, at: usize) {
        let cursor = &mut self.cursors[at];
        let losses = std::mem::take(&mut cursor.losses);
        if !cursor.is_messages() {
            cursor.behind |= !losses.is_empty(); // the complete state replaces the changes that are lost
            return;
        }
        let mut queue = self.shared.queue();
        losses.into_iter().for_each(|loss| queue.put(loss));
    }

    // -- the kernel --------------------------------------------------------------------------------------------------

    fn notice(&mut self, notice: Result<KernelEvent, broadcast::error::RecvError>) {
        match notice {
            Ok(event) => {
                self.last_word = Instant::now();
                let reported = std::mem::take(&mut self.down) && matches!(event, KernelEvent::KernelLost { .. });
                if !reported {
                    self.shared.queue().put(event);
                }
                self.ended |= self.client.inner.link.is_closed();
                let endpoint = self.client.hello(|hello| hello.events.clone());
                if endpoint != self.endpoint {
                    match subscribe(&endpoint, &self.cursors) {
                        Ok(socket) => (self.socket, self.endpoint) = (socket, endpoint),
                        Err(error) => {
                            self.shared.queue().put(KernelEvent::KernelLost { reason: error.to_string() });
                        }
                    }
                }
            }
            Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => self.ended = true,
        }
    }
}

/// A shard that we do not lease may stay silent.
fn beats(cursor: &Cursor, lease: bool) -> bool {
    lease || !cursor.is_messages()
}

async fn finished<T>(work: &mut Option<Pin<Box<dyn Future<Output = T> + Send>>>) -> T {
    match work {
        Some(work) => work.await,
        None => std::future::pending().await,
    }
}
