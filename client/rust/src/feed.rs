//! The kernel's streams of events in one: gaps are found and replayed, and memory is bounded (SPEC.md, §3.1 and §3.2).

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_core::Stream;
use tokio::sync::{oneshot, Notify};
use tokio::task::JoinHandle;

use crate::cursor::Cursor;
use crate::error::{Code, Error, Result};
use crate::feed_task::FeedTask;
use crate::held::OVERHEAD;
use crate::kernel::KernelClient;
use crate::kernel_events::{KernelEvent, Place};

const DEFAULT_BYTES: usize = 8 << 20;
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(5);
pub(crate) const HEALTH: &str = "p";
pub(crate) const PEERS: &str = "n";

/// Which streams a feed has.
#[derive(Debug, Clone)]
#[must_use]
pub struct FeedOptions {
    shards: Vec<u16>,
    health: bool,
    peers: bool,
    lease: bool,
    max_bytes: usize,
}

impl Default for FeedOptions {
    fn default() -> Self {
        FeedOptions { shards: Vec::new(), health: false, peers: false, lease: true, max_bytes: DEFAULT_BYTES }
    }
}

impl FeedOptions {
    /// The messages of these shards, which are leased while the feed is open.
    pub fn shards(shards: impl IntoIterator<Item = u16>) -> Self {
        FeedOptions { shards: shards.into_iter().collect(), ..Default::default() }
    }

    /// The node's health too.
    pub fn health(mut self) -> Self {
        self.health = true;
        self
    }

    /// Its peers too.
    pub fn peers(mut self) -> Self {
        self.peers = true;
        self
    }

    /// Only watch: messages come if another consumer leases the shards, and what is lost is not replayed.
    pub fn without_lease(mut self) -> Self {
        self.lease = false;
        self
    }

    /// Bound of what waits here (8 MiB). Beyond it messages stay with the kernel, and are replayed when there is room.
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self
    }
}

/// What happened to events on their way in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FeedCounters {
    /// Queued for the reader.
    pub received: u64,
    /// Live ones left to a replay.
    pub skipped: u64,
    /// Requests for a replay.
    pub replays: u64,
    /// Frames that are no event.
    pub garbage: u64,
    /// `KernelLost` and `KernelFound` that did not fit, since the reader did not look.
    pub local_dropped: u64,
}

pub(crate) struct FeedQueue {
    events: VecDeque<(KernelEvent, usize)>,
    bytes: usize,
    max_bytes: usize,
    full: bool,
    ended: bool,
    reader: Option<Waker>,
    pub counters: FeedCounters,
}

pub(crate) struct FeedShared {
    queue: Mutex<FeedQueue>,
    pub room: Notify,
}

impl FeedShared {
    pub fn queue(&self) -> MutexGuard<'_, FeedQueue> {
        self.queue.lock().expect("nothing panics while it holds the lock")
    }

    fn poll(&self, waker: &Waker) -> Poll<Option<KernelEvent>> {
        let mut queue = self.queue();
        if let Some((event, cost)) = queue.events.pop_front() {
            queue.bytes -= cost;
            if queue.full && queue.bytes <= queue.max_bytes / 2 {
                queue.full = false;
                self.room.notify_one();
            }
            return Poll::Ready(Some(event));
        }
        if queue.ended {
            return Poll::Ready(None);
        }
        queue.reader = Some(waker.clone());
        Poll::Pending
    }
}

impl FeedQueue {
    pub fn full(&self) -> bool {
        self.full
    }

    pub fn put(&mut self, event: KernelEvent) {
        let local = matches!(event, KernelEvent::KernelLost { .. } | KernelEvent::KernelFound { .. });
        if local && self.bytes > 2 * self.max_bytes {
            self.counters.local_dropped += 1; // a kernel that flaps while the reader does not look
            return;
        }
        let payload = if let KernelEvent::Message(message) = &event { message.payload.len() } else { 0 };
        self.bytes += OVERHEAD + payload;
        self.full |= self.bytes >= self.max_bytes;
        self.events.push_back((event, OVERHEAD + payload));
        self.wake();
    }

    pub fn end(&mut self) {
        self.ended = true;
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

/// Events of some of the kernel's streams, each stream in its order. Made by [`KernelClient::events`].
///
/// What is missing in a message stream is replayed, or reported as a loss. Dropped, it lets its leases lapse;
/// [`KernelFeed::close`] releases them.
pub struct KernelFeed {
    client: KernelClient,
    shared: Arc<FeedShared>,
    leased: Vec<u16>,
    task: JoinHandle<()>,
}

impl KernelClient {
    /// Events of the kernel's streams, once the subscriptions are in force.
    ///
    /// Errors: `NotReady` if they do not come into force, and those of [`KernelClient::lease`].
    pub async fn events(&self, options: FeedOptions) -> Result<KernelFeed> {
        let cluster = self.network().cluster;
        let mut streams: Vec<String> = options.shards.iter().map(|shard| format!("m/{cluster}/{shard}")).collect();
        let extra = [(options.health, HEALTH), (options.peers, PEERS)];
        streams.extend(extra.iter().filter(|(wanted, _)| *wanted).map(|(_, name)| (*name).to_owned()));
        let held_bytes = options.max_bytes / (2 * streams.len().max(1));
        let mut cursors: Vec<Cursor> = streams.into_iter().map(|stream| Cursor::new(stream, held_bytes)).collect();
        if cursors.is_empty() {
            return Err(Error::bad("a feed of no stream: name shards, health or peers"));
        }
        let leased = if options.lease { options.shards.clone() } else { Vec::new() };
        if !leased.is_empty() {
            let instance = self.instance();
            for state in self.lease(&leased).await?.leases {
                if let Some(cursor) = cursors.iter_mut().find(|cursor| cursor.stream == state.stream) {
                    cursor.start(Place { instance, epoch: state.epoch, seq: state.last });
                }
            }
        }
        let queue = FeedQueue {
            events: VecDeque::new(),
            bytes: 0,
            max_bytes: options.max_bytes.max(1),
            full: false,
            ended: false,
            reader: None,
            counters: FeedCounters::default(),
        };
        let shared = Arc::new(FeedShared { queue: Mutex::new(queue), room: Notify::new() });
        let (heard, ready) = oneshot::channel();
        let task = FeedTask::new(self.clone(), cursors, shared.clone(), options.lease, heard)?;
        let feed = KernelFeed { client: self.clone(), shared, leased, task: tokio::spawn(task.run()) };
        match tokio::time::timeout(SUBSCRIBE_TIMEOUT, ready).await {
            Ok(Ok(())) => Ok(feed),
            _ => {
                let _ = feed.close().await; // the leases lapse otherwise
                Err(Error::new(Code::NotReady, "no heartbeat on a stream that was subscribed"))
            }
        }
    }
}

impl KernelFeed {
    /// The next event; none when the client was closed, or the kernel speaks another version.
    pub async fn next(&mut self) -> Option<KernelEvent> {
        std::future::poll_fn(|context| self.shared.poll(context.waker())).await
    }

    /// What happened to events on their way in.
    pub fn counters(&self) -> FeedCounters {
        self.shared.queue().counters
    }

    /// Unsubscribe, and release the leases.
    pub async fn close(mut self) -> Result<()> {
        self.task.abort();
        let leased = std::mem::take(&mut self.leased);
        self.client.release(&leased).await
    }
}

impl Drop for KernelFeed {
    fn drop(&mut self) {
        self.task.abort();
        self.client.unlease(&self.leased);
    }
}

impl Stream for KernelFeed {
    type Item = KernelEvent;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<KernelEvent>> {
        self.shared.poll(context.waker())
    }
}
