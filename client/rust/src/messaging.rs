//! The client of a Messaging API: subscribe, send, and one ordered stream of events (SPEC.md, §4).

use std::collections::BTreeMap;
use std::future::{poll_fn, Future};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{ready, Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use rmpv::Value;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::bytes::Id;
use crate::contract::{
    CancelReply, FindSendReply, MapiHello, MapiLimits, NetworkInfo, NodeInfoReply, PendingReply, PendingSend,
    StatusReply, SubscribeReply, SubscriptionsReply,
};
use crate::endpoints::{check_name, endpoint};
use crate::error::{Code, Error, Result};
use crate::events::{Event, Position};
use crate::link::{Link, TIMEOUT};
use crate::session::{ack_body, check_size, id_value, AppSession, Shared};
use crate::stream::StreamCounters;
use crate::wire::{Body, Reply};

const DEFAULT_CREDIT: u64 = 2 << 20;
const LEAVE: Duration = Duration::from_secs(2);

/// How to connect to a Messaging API; see [`MessagingClient::at`].
#[derive(Debug, Clone)]
#[must_use]
pub struct ConnectOptions {
    node: String,
    name: Option<String>,
    takeover: bool,
    credit: u64,
    auto_ack: bool,
    timeout: Duration,
}

impl ConnectOptions {
    /// Be a durable app of this name (`[a-z0-9._-]{1,64}`): its subscriptions, stream and position outlive the program.
    /// Without a name the app ends with its connection.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// End another live connection of that name.
    pub fn takeover(mut self, takeover: bool) -> Self {
        self.takeover = takeover;
        self
    }

    /// Bytes of events that may wait here or be on their way (2 MiB).
    pub fn credit(mut self, bytes: u64) -> Self {
        self.credit = bytes;
        self
    }

    /// Leave it to [`MessagingClient::ack`] to acknowledge events. Without this an event is acknowledged when the next
    /// one is asked for, or by [`MessagingClient::close`].
    pub fn manual_ack(mut self) -> Self {
        self.auto_ack = false;
        self
    }

    /// How long to wait for the Messaging API, and then for each reply (10 s).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Connect: requests go out through the client, events come from the stream.
    ///
    /// Errors: `NotReady` (there is no Messaging API in time), `Conflict` (the name is in use), `BadRequest`,
    /// `UnsupportedVersion`, `Unauthorised`.
    ///
    /// # Panics
    /// Outside of a tokio runtime with its I/O and time drivers.
    pub async fn connect(self) -> Result<(MessagingClient, Events)> {
        let endpoint = endpoint(&self.node, "mapi/apps")?;
        if let Some(name) = &self.name {
            check_name(name)?;
        }
        if self.credit == 0 {
            return Err(Error::bad("credit: bytes, at least one"));
        }
        let shared = Shared::new(self.credit, self.auto_ack);
        let session = AppSession::new(shared.clone(), self.name, self.takeover);
        let link = Link::open(&endpoint, session, shared.due.clone())?;
        if let Err(error) = link.when_ready(Instant::now() + self.timeout).await {
            link.close().await;
            return Err(error);
        }
        let background = tokio::spawn(shared.clone().keep_subscribed(link.clone()));
        let inner = Arc::new(Inner { link, shared, background });
        let client = MessagingClient { inner, timeout: self.timeout };
        client.complete_topics().await?;
        Ok((client.clone(), Events { client, opening: None }))
    }
}

pub(crate) struct Inner {
    link: Link,
    pub(crate) shared: Arc<Shared>,
    background: JoinHandle<()>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.background.abort(); // it holds the link, which ends with its last handle
    }
}

/// An app's connection to a Messaging API. Clones share it. It reconnects by itself.
#[derive(Clone)]
pub struct MessagingClient {
    pub(crate) inner: Arc<Inner>,
    pub(crate) timeout: Duration,
}

/// Options of [`MessagingClient::send_with`].
#[derive(Debug, Clone, Default)]
pub struct SendOptions {
    /// The idempotency key within the app for 24 h; made up where there is none.
    pub request_id: Option<Id>,
    /// At most 64 bytes beside the payload.
    pub meta: Vec<u8>,
    /// Not to be stored by the network.
    pub ephemeral: bool,
}

impl MessagingClient {
    /// How to connect to a node: its run directory, `ipc://…` or `tcp://…`.
    pub fn at(node: impl Into<String>) -> ConnectOptions {
        ConnectOptions {
            node: node.into(),
            name: None,
            takeover: false,
            credit: DEFAULT_CREDIT,
            auto_ack: true,
            timeout: TIMEOUT,
        }
    }

    /// The same client, whose requests wait at most so long for their replies.
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        MessagingClient { inner: self.inner.clone(), timeout }
    }

    // -- what is known -----------------------------------------------------------------------------------------------

    fn hello<T>(&self, part: impl FnOnce(&MapiHello) -> T) -> T {
        part(self.inner.shared.app().hello.as_ref().expect("connect returns after the hello"))
    }

    /// Whether the Messaging API is there now (not whether its node has peers: see [`MessagingClient::status`]).
    pub fn connected(&self) -> bool {
        self.inner.link.ready()
    }

    /// The app's name; one made up by the Messaging API when it is ephemeral.
    pub fn name(&self) -> String {
        self.hello(|hello| hello.app.clone())
    }

    /// Whether the app's stream outlives its connection.
    pub fn durable(&self) -> bool {
        self.hello(|hello| hello.durable)
    }

    /// Name and version of the Messaging API.
    pub fn server(&self) -> String {
        self.hello(|hello| hello.server.clone())
    }

    /// What the Messaging API can do beyond version 1 of the contract.
    pub fn features(&self) -> Vec<String> {
        self.hello(|hello| hello.features.clone())
    }

    /// The network the node is on.
    pub fn network(&self) -> NetworkInfo {
        self.hello(|hello| hello.network.clone())
    }

    /// The Messaging API's limits; `max_payload` is what surely fits a message.
    pub fn limits(&self) -> MapiLimits {
        self.hello(|hello| hello.limits.clone())
    }

    /// The node's status as far as it is known here, without a request: the hello's, and what events have brought since.
    pub fn last_status(&self) -> StatusReply {
        self.inner.shared.app().status.clone()
    }

    /// What happened to events on their way in.
    pub fn counters(&self) -> StreamCounters {
        self.inner.shared.app().stream.counters
    }

    /// Bytes of events that wait for the app or are in its hands.
    pub fn buffered_bytes(&self) -> u64 {
        self.inner.shared.app().stream.queued_bytes()
    }

    // -- requests ----------------------------------------------------------------------------------------------------

    /// Any method of the contract, once.
    pub async fn call(&self, method: &str, body: Body, blobs: Vec<Vec<u8>>) -> Result<Reply> {
        self.inner.link.request(method, body, blobs, self.timeout).await
    }

    /// An idempotent request: it does not give up when a connection is lost.
    pub(crate) async fn repeat(&self, method: &str, body: Body, blobs: Vec<Vec<u8>>) -> Result<Reply> {
        self.inner.link.repeat(method, body, blobs, self.timeout).await
    }

    /// Subscribe to content topics: topic → why not; the others took effect.
    pub async fn subscribe<T: AsRef<str>>(
        &self,
        topics: impl IntoIterator<Item = T>,
    ) -> Result<BTreeMap<String, String>> {
        self.subscribe_since(topics, false, Duration::ZERO).await
    }

    /// Subscribe, and ask stores for messages from before: those since the app unsubscribed the topic (`since_last`), and
    /// those of the last `history`.
    pub async fn subscribe_since<T: AsRef<str>>(
        &self,
        topics: impl IntoIterator<Item = T>,
        since_last: bool,
        history: Duration,
    ) -> Result<BTreeMap<String, String>> {
        let topics: Vec<String> = topics.into_iter().map(|topic| topic.as_ref().to_owned()).collect();
        let body = Body::new()
            .texts("topics", &topics)
            .maybe("since_last", since_last.then_some(true))
            .maybe("history_ms", (!history.is_zero()).then_some(history.as_millis() as u64));
        let errors = self.repeat("subscribe", body, Vec::new()).await?.parse::<SubscribeReply>()?.errors;
        self.inner.shared.app().topics.extend(topics.into_iter().filter(|topic| !errors.contains_key(topic)));
        Ok(errors)
    }

    /// Unsubscribe from content topics: topic → why not.
    pub async fn unsubscribe<T: AsRef<str>>(
        &self,
        topics: impl IntoIterator<Item = T>,
    ) -> Result<BTreeMap<String, String>> {
        let topics: Vec<String> = topics.into_iter().map(|topic| topic.as_ref().to_owned()).collect();
        let reply = self.call("unsubscribe", Body::new().texts("topics", &topics), Vec::new()).await?;
        self.inner.shared.app().topics.retain(|topic| !topics.contains(topic));
        Ok(reply.parse::<SubscribeReply>()?.errors)
    }

    /// The app's content topics, all of them.
    pub async fn subscriptions(&self) -> Result<Vec<String>> {
        let mut found: Vec<String> = Vec::new();
        loop {
            let body = Body::new().maybe("after", found.last().map(String::as_str));
            let part = self.repeat("subscriptions", body, Vec::new()).await?.parse::<SubscriptionsReply>()?;
            let more = part.more == Some(true) && !part.topics.is_empty();
            found.extend(part.topics);
            if !more {
                return Ok(found);
            }
        }
    }

    /// Get the rest of a first hello's list that went on (§4.2): a server that loses the app's subscriptions then gets
    /// all of them again.
    async fn complete_topics(&self) -> Result<()> {
        let more = self.inner.shared.app().hello.as_ref().and_then(|hello| hello.more);
        if more == Some(true) {
            let topics = self.subscriptions().await?;
            self.inner.shared.app().topics.extend(topics);
        }
        Ok(())
    }

    /// Hand a message over: its request id once it is accepted. Its outcome follows as events with this id.
    pub async fn send(&self, topic: &str, payload: impl Into<Vec<u8>>) -> Result<Id> {
        self.send_with(topic, payload, SendOptions::default()).await
    }

    /// Hand a message over. Across reconnects the same send is repeated under its id, and done once.
    ///
    /// Errors: `BadRequest` (payload, topic, meta), `Busy`, `Conflict` (another message under this id), `TooLarge`,
    /// `RlnRequired`.
    pub async fn send_with(&self, topic: &str, payload: impl Into<Vec<u8>>, options: SendOptions) -> Result<Id> {
        let payload = payload.into();
        self.hello(|hello| check_size(payload.len(), hello.limits.blob_bytes, &hello.network))?;
        let request_id = options.request_id.unwrap_or_else(Id::random);
        let body = Body::new()
            .with("request_id", id_value(request_id))
            .with("content_topic", topic)
            .maybe("meta", (!options.meta.is_empty()).then_some(Value::Binary(options.meta)))
            .maybe("ephemeral", options.ephemeral.then_some(true));
        self.repeat("send", body, vec![payload]).await?;
        Ok(request_id)
    }

    /// The node's connection status, and the health of each subscribed content topic.
    pub async fn status(&self) -> Result<StatusReply> {
        let mut found: Option<StatusReply> = None;
        loop {
            let after = found.as_ref().and_then(|status| status.topics.keys().next_back().cloned());
            let body = Body::new().maybe("after", after);
            let part = self.repeat("status", body, Vec::new()).await?.parse::<StatusReply>()?;
            let more = part.more == Some(true) && !part.topics.is_empty();
            let status = match found.take() {
                Some(mut status) => {
                    status.topics.extend(part.topics);
                    status
                }
                None => part,
            };
            if !more {
                return Ok(StatusReply { more: None, ..status });
            }
            found = Some(status);
        }
    }

    /// The sends that have no outcome yet, oldest first, at most 1,000, and how many there are. `name`: of another named
    /// app of the same user.
    pub async fn pending(&self, name: Option<&str>) -> Result<PendingReply> {
        self.repeat("pending", Body::new().maybe("name", name), Vec::new()).await?.parse()
    }

    /// A send by its request id, also when it is final: `state` is then `sent`, `unconfirmed`, `failed` or `cancelled`.
    /// None: it was not accepted, or a day ago, after which ids are forgotten. `name`: as in `pending`.
    pub async fn find_send(&self, request_id: Id, name: Option<&str>) -> Result<Option<PendingSend>> {
        let body = Body::new().with("request_id", id_value(request_id)).maybe("name", name);
        Ok(self.repeat("find_send", body, Vec::new()).await?.parse::<FindSendReply>()?.send)
    }

    /// Cancel a send that was not attempted yet; false: too late, or there is no such send. `name`: as in `pending`.
    pub async fn cancel(&self, request_id: Id, name: Option<&str>) -> Result<bool> {
        let body = Body::new().with("request_id", id_value(request_id)).maybe("name", name);
        Ok(self.call("cancel", body, Vec::new()).await?.parse::<CancelReply>()?.cancelled)
    }

    /// Acknowledge everything up to a position. For a named app it is on disk when this returns.
    pub async fn ack(&self, position: Position) -> Result<()> {
        self.call("ack", ack_body(position), Vec::new()).await?;
        self.inner.shared.app().stream.acked(position);
        Ok(())
    }

    /// The last position that counts as handled.
    pub fn handled(&self) -> Option<Position> {
        self.inner.shared.app().stream.handled()
    }

    /// Facts about the node: Version, Metrics, MyPeerId, …; all of them without `ids`.
    pub async fn node_info(&self, ids: &[&str]) -> Result<BTreeMap<String, Value>> {
        let body = if ids.is_empty() { Body::new() } else { Body::new().texts("ids", ids) };
        Ok(self.repeat("node.info", body, Vec::new()).await?.parse::<NodeInfoReply>()?.info)
    }

    /// Delete a named app of the same user: its stream, its subscriptions, its position.
    pub async fn forget(&self, name: &str) -> Result<()> {
        self.call("forget", Body::new().with("name", name), Vec::new()).await.map(drop)
    }

    /// Leave: what was taken from the events counts as handled, the last one too, and is acknowledged (unless acks are
    /// manual). A named app goes on in the Messaging API. A client that is dropped instead gets the last event again.
    pub async fn close(&self) {
        let Inner { link, shared, .. } = &*self.inner;
        let due = {
            let mut app = shared.app();
            if !app.opening {
                app.stream.done();
            }
            app.stream.ack_due().filter(|_| app.auto_ack)
        };
        if link.ready() {
            let acked = match due {
                Some(due) => link.request("ack", ack_body(due), Vec::new(), LEAVE).await.is_ok(),
                None => true,
            };
            if acked {
                // A server that is gone now has what it needs: an app that comes again.
                let _ = link.request("goodbye", Body::new(), Vec::new(), LEAVE).await;
            }
        }
        link.close().await;
        shared.end();
    }
}

/// The app's events, in one order. Asking for the next one says that the one before it is handled.
pub struct Events {
    client: MessagingClient,
    /// Gives back a segment that was decrypted here.
    opening: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Events {
    /// The next event; none when no more can come: the client was closed, or another connection has taken over.
    ///
    /// Cancel safe: no event is lost with a future that is dropped.
    pub async fn next(&mut self) -> Option<Event> {
        poll_fn(|context| self.poll_event(context)).await
    }

    fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<Option<Event>> {
        loop {
            if let Some(opening) = &mut self.opening {
                ready!(opening.as_mut().poll(context));
                self.opening = None;
            }
            match ready!(self.client.inner.shared.poll_event(context.waker())) {
                Some((Event::ChannelSegmentReceived(segment), Some(hooks))) => {
                    self.opening = Some(Box::pin(self.client.clone().open_segment(hooks, segment)));
                }
                event => return Poll::Ready(event.map(|(event, _)| event)),
            }
        }
    }
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        self.poll_event(context)
    }
}
