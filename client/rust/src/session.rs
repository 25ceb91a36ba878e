//! An app's session with the Messaging API: hello, its stream over any number of connections, credit and acks.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Poll, Waker};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::bytes::Id;
use crate::contract::{MapiHello, NetworkInfo, StatusReply, SubscribeReply, PROTOCOL_VERSION};
use crate::error::{Code, Error, Result};
use crate::events::{Event, LinkLost, LinkRestored, Position};
use crate::hooks::ChannelEncryption;
use crate::link::{Link, Session, TIMEOUT};
use crate::stream::AppStream;
use crate::wire::{decode_app_event, parse, Body, Frames, Reply};

/// One ack for all that was handled in this time: for a named app it is a write to the server's disk.
const ACK_DELAY: Duration = Duration::from_millis(100);
const RETRY: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// What the handles of a client and the task of its connection share.
pub(crate) struct Shared {
    state: Mutex<App>,
    /// Wakes the connection's task: credit or an ack may be due.
    pub due: Arc<Notify>,
    resubscribe: Notify,
}

pub(crate) struct App {
    pub stream: AppStream,
    pub hello: Option<MapiHello>,
    pub status: StatusReply,
    /// The app's content topics, to be subscribed again where the server does not know them any more.
    pub topics: BTreeSet<String>,
    pub auto_ack: bool,
    /// By channel.
    pub hooks: HashMap<String, Arc<dyn ChannelEncryption>>,
    /// The event in hand is a segment that is being given back, and not the app's.
    pub opening: bool,
    /// Nothing comes any more behind what is queued.
    ended: bool,
    reader: Option<Waker>,
    ack_scheduled: bool,
    missing: Option<Vec<String>>,
    /// Until the app has the event.
    lost: Option<Position>,
}

/// An event, and the hooks of its channel if it is a segment that has some.
type Taken = (Event, Option<Arc<dyn ChannelEncryption>>);

impl Shared {
    pub fn new(credit: u64, auto_ack: bool) -> Arc<Self> {
        let app = App {
            stream: AppStream::new(credit),
            hello: None,
            status: StatusReply::default(),
            topics: BTreeSet::new(),
            auto_ack,
            hooks: HashMap::new(),
            opening: false,
            ended: false,
            reader: None,
            ack_scheduled: false,
            missing: None,
            lost: None,
        };
        Arc::new(Shared { state: Mutex::new(app), due: Arc::new(Notify::new()), resubscribe: Notify::new() })
    }

    pub fn app(&self) -> MutexGuard<'_, App> {
        self.state.lock().expect("nothing panics while it holds the lock")
    }

    /// The next event; the one before it counts as handled.
    pub fn poll_event(&self, waker: &Waker) -> Poll<Option<Taken>> {
        let mut app = self.app();
        let event = app.stream.take();
        let ack = app.auto_ack && !app.ack_scheduled && app.stream.ack_due().is_some();
        app.ack_scheduled |= ack;
        if ack || app.stream.credit_due().is_some() {
            self.due.notify_one();
        }
        match event {
            Some(event) => {
                app.ended |= matches!(event, Event::TakenOver(_));
                let hooks = match &event {
                    Event::ChannelSegmentReceived(segment) => app.hooks.get(&segment.channel_id).cloned(),
                    _ => None,
                };
                app.opening = hooks.is_some();
                Poll::Ready(Some((event, hooks)))
            }
            None if app.ended => Poll::Ready(None),
            None => {
                app.reader = Some(waker.clone());
                Poll::Pending
            }
        }
    }

    /// End the events behind what is queued.
    pub fn end(&self) {
        let mut app = self.app();
        app.ended = true;
        app.wake_reader();
    }

    /// Subscribe again, after each hello, to what the Messaging API does not know of us any more.
    pub async fn keep_subscribed(self: Arc<Self>, link: Link) {
        loop {
            self.resubscribe.notified().await;
            let Some(topics) = self.app().missing.take() else { continue };
            if let Some(errors) = subscribe_again(&link, &topics).await {
                let mut app = self.app();
                app.topics.retain(|topic| !errors.contains_key(topic));
                app.restored(errors);
            }
        }
    }
}

/// The topics that are refused now, and why. None: the connection was lost, and the next hello does it.
async fn subscribe_again(link: &Link, topics: &[String]) -> Option<BTreeMap<String, String>> {
    let mut delay = RETRY;
    loop {
        let body = Body::new().texts("topics", topics);
        let answer = link.request("subscribe", body, Vec::new(), TIMEOUT).await;
        match answer.and_then(Reply::parse::<SubscribeReply>) {
            Ok(reply) => return Some(reply.errors),
            Err(error) if error.code == Code::PeerRestarted || !link.ready() => return None,
            Err(error) if !error.retriable => {
                return Some(topics.iter().map(|topic| (topic.clone(), error.to_string())).collect());
            }
            Err(_) => {}
        }
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(RETRY_MAX);
    }
}

impl App {
    fn wake_reader(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    fn put_local(&mut self, event: Event) {
        self.stream.put_local(event);
        self.wake_reader();
    }

    fn restored(&mut self, subscription_errors: BTreeMap<String, String>) {
        let lost = self.lost.take();
        self.put_local(Event::LinkRestored(LinkRestored {
            resumed: lost.is_none(),
            lost_stream: lost.map(|lost| lost.stream_id),
            last_seq: lost.map_or(self.stream.last_seq, |lost| lost.seq),
            subscription_errors,
        }));
    }

    /// The last known status follows events as they arrive, before the app takes them.
    fn note_status(&mut self, event: &Event) {
        match event {
            Event::ConnectionStatusChange(change) => {
                self.status.connection.clone_from(&change.status);
                self.status.reason.clone_from(&change.reason);
            }
            Event::ContentTopicHealthChange(change) => {
                self.status.topics.insert(change.content_topic.clone(), change.health.clone());
            }
            _ => {}
        }
    }
}

/// The side of it that the connection's task calls.
pub(crate) struct AppSession {
    shared: Arc<Shared>,
    name: Option<String>,
    takeover: bool,
    offered: u64,
    ack_at: Option<Instant>,
}

impl AppSession {
    pub fn new(shared: Arc<Shared>, name: Option<String>, takeover: bool) -> Self {
        AppSession { shared, name, takeover, offered: 0, ack_at: None }
    }
}

impl Session for AppSession {
    const KEEPALIVE: Option<&'static str> = Some("ping");

    fn hello(&mut self) -> Body {
        let app = self.shared.app();
        self.offered = app.stream.opening_credit();
        // Taking over is for the first time only: two that both insist would take turns for ever.
        let takeover = self.takeover && app.hello.is_none();
        // By what was seen a server notices that an older state of its database was put back.
        let seen = app.hello.as_ref().zip(app.stream.seen()).map(|(hello, seen)| {
            let body = Body::new().with("stream", id_value(seen.stream_id)).with("seq", seen.seq);
            body.with("instance", id_value(hello.instance)).into_value()
        });
        hello_body("app", self.name.as_deref())
            .with("takeover", takeover)
            .with("credit", self.offered)
            .maybe("seen", seen)
    }

    fn greeted(&mut self, reply: &Reply) -> Result<()> {
        let hello: MapiHello = parse_hello(reply, "logos-mapi/", "a Messaging API: apps connect to mapi/apps")?;
        let mut guard = self.shared.app();
        let app = &mut *guard;
        let lost = app.stream.greeted(hello.stream.id, hello.stream.acked, self.offered);
        // The connection may be lost again before the app is told: what it has events of is the first stream.
        app.lost = app.lost.or(lost);
        app.status = hello.status.clone();
        let known: BTreeSet<&String> = hello.subscriptions.iter().collect();
        if app.hello.is_none() {
            app.topics.extend(hello.subscriptions.iter().cloned());
        } else {
            // A list that was cut is sorted: it says nothing about what is behind its end.
            let end = hello.subscriptions.last().filter(|_| hello.more == Some(true));
            let told = |topic: &&String| end.is_none_or(|end| *topic <= end);
            let missing: Vec<_> =
                app.topics.iter().filter(told).filter(|topic| !known.contains(topic)).cloned().collect();
            if missing.is_empty() {
                app.restored(BTreeMap::new());
            } else {
                app.missing = Some(missing);
                self.shared.resubscribe.notify_one();
            }
        }
        app.hello = Some(hello);
        Ok(())
    }

    fn lost(&mut self, reason: &str) {
        self.ack_at = None;
        let mut app = self.shared.app();
        app.ack_scheduled = false;
        app.put_local(Event::LinkLost(LinkLost { reason: reason.to_owned() }));
    }

    fn event(&mut self, frames: Frames) -> Result<()> {
        let incoming = decode_app_event(frames);
        let mut app = self.shared.app();
        let Ok(incoming) = incoming else {
            app.stream.counters.garbage += 1;
            return Ok(());
        };
        let mut taken_over = false;
        if let crate::wire::Incoming::Event { event, .. } = &incoming {
            taken_over = matches!(event, Event::TakenOver(_));
            app.note_status(event);
        }
        if app.stream.receive(incoming) {
            app.wake_reader();
        }
        if taken_over {
            return Err(Error::new(Code::Conflict, "another connection has taken over this app's name"));
        }
        Ok(())
    }

    fn outgoing(&mut self, send: &mut dyn FnMut(&'static str, Body)) -> Option<Instant> {
        let mut app = self.shared.app();
        if let Some(total) = app.stream.credit_due() {
            send("credit", Body::new().with("total", total));
            app.stream.granted(total);
        }
        let Some(due) = app.stream.ack_due().filter(|_| app.auto_ack) else {
            self.ack_at = None;
            app.ack_scheduled = false;
            return None;
        };
        let now = Instant::now();
        let at = *self.ack_at.get_or_insert(now + ACK_DELAY);
        if at > now {
            return Some(at);
        }
        send("ack", ack_body(due));
        app.stream.acked(due);
        app.ack_scheduled = false;
        self.ack_at = None;
        None
    }
}

/// A frame above the server's limit would cost us the connection: its socket refuses it unread.
pub(crate) fn check_size(size: usize, limit: u64, network: &NetworkInfo) -> Result<()> {
    if size as u64 <= limit {
        return Ok(());
    }
    let most = network.max_message_size;
    let message = format!("Message size exceeded maximum of {most} bytes: the payload alone has {size}");
    Err(Error::new(Code::TooLarge, message))
}

pub(crate) fn hello_body(kind: &str, name: Option<&str>) -> Body {
    let protocol = vec![PROTOCOL_VERSION.into(), PROTOCOL_VERSION.into()];
    Body::new().with("kind", kind).with("protocol", rmpv::Value::Array(protocol)).maybe("name", name)
}

/// The reply to a hello, of the server that is wanted: `is` says which.
pub(crate) fn parse_hello<T: serde::de::DeserializeOwned>(reply: &Reply, server: &str, is: &str) -> Result<T> {
    let found = reply.body["server"].as_str().unwrap_or("what answers");
    if !found.starts_with(server) {
        return Err(Error::bad(format!("{found} is not {is}")));
    }
    parse(reply.body.clone()).map_err(|error| Error::bad(format!("hello: {}", error.message)))
}

pub(crate) fn ack_body(position: Position) -> Body {
    Body::new().with("stream", id_value(position.stream_id)).with("seq", position.seq)
}

pub(crate) fn id_value(id: Id) -> rmpv::Value {
    rmpv::Value::Binary(id.to_vec())
}
