//! The task that owns a feed's socket, and catches up on what is missing.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use rmpv::Value;
use tokio::sync::{broadcast, oneshot};
use tokio::time::Instant;

use crate::bytes::{Bytes, Id};
use crate::contract::{NodeHealth, PeersListReply, StreamReplayReply, StreamState};
use crate::cursor::{Cursor, Verdict};
use crate::error::{Code, Error, Result};
use crate::feed::{FeedShared, HEALTH, PEERS};
use crate::kernel::KernelClient;
use crate::kernel_events::{decode_header, other_version, Content, Header, KernelEvent, Place};
use crate::link::Call;
use crate::link_task::Outgoing;
use crate::socket::{Socket, FULL_RETRY};
use crate::wire::{decode_reply, parse, Body, Frames};

const RETRY: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// Heartbeats that may be missing before the kernel is asked whether it is there.
const MISSED: u32 = 3;
const CONTROL_TIMEOUT: Duration = Duration::from_secs(1);
/// Events taken in one round, so that replays and notices get their turn.
const ROUND: usize = 256;

enum Fetched {
    Health(NodeHealth),
    Peers(PeersListReply),
    Page { events: Vec<(Vec<u8>, Vec<u8>)>, complete: bool },
}

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
    /// `heard` is told when all subscriptions are in force.
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
            Verdict::CatchUp => cursor.behind = true,
            Verdict::Skip if header.content != Content::Heartbeat => self.shared.queue().counters.skipped += 1,
            Verdict::Skip => {}
        }
        self.report(at);
        self.tell_heard();
    }

    fn tell_heard(&mut self) {
        if self.heard.is_some() && self.cursors.iter().all(|cursor| cursor.heard || !beats(cursor, self.lease)) {
            if let Some(heard) = self.heard.take() {
                let _ = heard.send(()); // who opens the feed may have given up
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
        if cursor.stream == HEALTH || cursor.stream == PEERS {
            cursor.behind |= !losses.is_empty(); // the complete state replaces the changes that are lost
            return;
        }
        let mut queue = self.shared.queue();
        losses.into_iter().for_each(|loss| queue.put(loss));
    }

    // -- catching up -------------------------------------------------------------------------------------------------

    /// One request at a time: the kernel takes one replay of a consumer at once.
    fn begin_work(&mut self) {
        if self.work.is_some() || self.retry_at.is_some() || self.shared.queue().full() {
            return;
        }
        let Some(at) = self.cursors.iter().position(|cursor| cursor.behind) else { return };
        let (client, stream, place) = (self.client.clone(), self.cursors[at].stream.clone(), self.cursors[at].at());
        self.shared.queue().counters.replays += u64::from(stream != HEALTH && stream != PEERS);
        self.work = Some(Box::pin(async move { (at, fetch(&client, &stream, place).await) }));
    }

    fn take(&mut self, at: usize, fetched: Result<Fetched>) {
        let highest = self.cursors[at].highest();
        let cursor = &mut self.cursors[at];
        match fetched {
            Ok(Fetched::Health(health)) => {
                cursor.jump(highest);
                cursor.behind = false;
                self.shared.queue().put(KernelEvent::Health { health });
            }
            Ok(Fetched::Peers(list)) => {
                cursor.jump(highest);
                cursor.behind = false;
                self.shared.queue().put(KernelEvent::PeersSnapshot { peers: list.peers });
            }
            Ok(Fetched::Page { events, complete }) => {
                cursor.behind = !complete;
                for (header, payload) in events {
                    match decode_header(&header) {
                        Ok(header) if self.cursors[at].replayed(header.place) == Verdict::Keep => {
                            self.report(at);
                            self.show(at, header, payload);
                        }
                        Ok(_) => {}
                        Err(error) => return self.failed(at, error),
                    }
                }
            }
            Err(error) => return self.failed(at, error),
        }
        self.retry = RETRY;
        self.report(at);
    }

    fn failed(&mut self, at: usize, error: Error) {
        let instance = self.client.instance();
        let cursor = &mut self.cursors[at];
        let first = error.detail("first").and_then(Value::as_u64);
        match (error.code, first) {
            (Code::Trimmed, Some(first)) if cursor.at().is_some_and(|place| first > place.seq + 1) => {
                cursor.give_up(first - 1, "no longer in the kernel's ring");
            }
            (Code::EpochChanged, _) => match parse::<StreamState>(error.detail.clone()) {
                // It names the epoch that we asked for: no stream was restarted.
                Ok(state) if cursor.at().is_some_and(|at| at.epoch == state.epoch) => self.retry_later(),
                Ok(state) => {
                    let place = Place { instance, epoch: state.epoch, seq: 0 };
                    cursor.begin_again(place, "the kernel restarted this stream");
                    self.retry_at = Some(Instant::now() + RETRY); // it may restart once more
                }
                Err(_) => give_up(cursor, &error),
            },
            _ if error.retriable => self.retry_later(),
            _ => give_up(cursor, &error),
        }
        self.report(at);
    }

    fn retry_later(&mut self) {
        self.retry_at = Some(Instant::now() + self.retry);
        self.retry = (self.retry * 2).min(RETRY_MAX);
    }

    // -- silence -----------------------------------------------------------------------------------------------------

    /// Ask the control socket when three heartbeats are missing (SPEC.md, §3.1). A kernel that hangs keeps its
    /// connections, so nothing else shows it.
    fn watch(&mut self) {
        self.drain(); // this task may have had no turn: what waits in the socket comes first
        self.watch_at = Instant::now() + self.beat;
        let beating = self.cursors.iter().any(|cursor| beats(cursor, self.lease));
        let silent = self.down || self.last_word.elapsed() > MISSED * self.beat;
        if !silent || !beating || self.heard.is_some() || self.asking.is_some() || !self.client.inner.link.ready() {
            return;
        }
        self.asking = Some(Box::pin(answers(self.client.inner.control.clone())));
    }

    /// A kernel that answers may have sent events that did not come.
    fn answered(&mut self, answers: bool) {
        if !self.client.inner.link.ready() {
            return;
        }
        if !answers {
            if !std::mem::replace(&mut self.down, true) {
                let reason = "no heartbeat, and no answer from its control socket".to_owned();
                self.shared.queue().put(KernelEvent::KernelLost { reason });
            }
            return;
        }
        if std::mem::take(&mut self.down) {
            let instance = self.client.instance();
            self.shared.queue().put(KernelEvent::KernelFound { instance, restarted: false });
        }
        self.last_word = Instant::now();
        for cursor in self.cursors.iter_mut().filter(|cursor| beats(cursor, self.lease)) {
            cursor.behind = true;
        }
    }

    // -- the kernel --------------------------------------------------------------------------------------------------

    fn notice(&mut self, notice: Result<KernelEvent, broadcast::error::RecvError>) {
        match notice {
            Ok(event) => {
                self.last_word = Instant::now();
                let told = std::mem::take(&mut self.down) && matches!(event, KernelEvent::KernelLost { .. });
                if !told {
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

fn give_up(cursor: &mut Cursor, error: &Error) {
    cursor.give_up(cursor.highest(), &error.to_string());
    cursor.behind = false;
}

/// A shard that we do not lease may stay silent.
fn beats(cursor: &Cursor, lease: bool) -> bool {
    lease || cursor.stream == HEALTH || cursor.stream == PEERS
}

/// Whether a control socket answers.
async fn answers(endpoint: String) -> bool {
    let Ok((mut dealer, _monitor)) = Socket::dealer() else { return false };
    if dealer.connect(&endpoint).is_err() {
        return false;
    }
    let budget = CONTROL_TIMEOUT.as_millis() as u64;
    let question = Outgoing::new(&Id::random(), budget, 0, Call::new("health", Body::new(), Vec::new()));
    let asked = async {
        let mut sent = false;
        loop {
            sent = sent || dealer.send(question.frames());
            match dealer.receive() {
                Some(frames) => {
                    if decode_reply(frames).is_ok() {
                        return;
                    }
                }
                None if dealer.pending() => {}
                None => tokio::select! {
                    () = dealer.changed() => {}
                    () = tokio::time::sleep(FULL_RETRY), if !sent => {}
                },
            }
        }
    };
    tokio::time::timeout(CONTROL_TIMEOUT, asked).await.is_ok()
}

async fn finished<T>(work: &mut Option<Pin<Box<dyn Future<Output = T> + Send>>>) -> T {
    match work {
        Some(work) => work.await,
        None => std::future::pending().await,
    }
}

async fn fetch(client: &KernelClient, stream: &str, place: Option<Place>) -> Result<Fetched> {
    match stream {
        HEALTH => client.health().await.map(Fetched::Health),
        PEERS => client.peers().await.map(Fetched::Peers),
        _ => {
            let place = place.ok_or_else(|| Error::bad("a stream that has not begun"))?;
            let body = Body::new()
                .with("stream", stream)
                .with("epoch", Value::Binary(place.epoch.to_vec()))
                .with("after", place.seq);
            let _one_at_a_time = client.inner.replay.lock().await;
            let mut reply = client.call("stream.replay", body, Vec::new()).await?;
            let blobs = std::mem::take(&mut reply.blobs);
            page(reply.parse()?, blobs)
        }
    }
}

fn page(reply: StreamReplayReply, blobs: Vec<Vec<u8>>) -> Result<Fetched> {
    if blobs.len() != 2 * usize::from(reply.events) || (blobs.is_empty() && !reply.complete) {
        return Err(Error::bad(format!("stream.replay: {} blobs for {} events", blobs.len(), reply.events)));
    }
    let mut blobs = blobs.into_iter();
    let mut events = Vec::with_capacity(usize::from(reply.events));
    while let (Some(header), Some(payload)) = (blobs.next(), blobs.next()) {
        events.push((header, payload));
    }
    Ok(Fetched::Page { events, complete: reply.complete })
}
