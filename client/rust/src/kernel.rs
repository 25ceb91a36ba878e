//! The client of a kernel: the bare relay, peers, health, stores, and streams of events (SPEC.md, §3).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rmpv::Value;
use tokio::sync::{broadcast, Notify};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::bytes::{Bytes, Hash, Id};
use crate::contract::{
    ConnectResult, KernelHello, KernelLimits, LeaseAcquireReply, NetworkInfo, NodeHealth, NodeInfoReply,
    PeersConnectReply, PeersDisconnectReply, PeersListReply, RelayPublishReply, StoreQueryReply,
};
use crate::endpoints::{check_name, endpoint};
use crate::error::{Code, Error, Result};
use crate::fields::Fields;
use crate::kernel_events::KernelEvent;
use crate::link::{Link, Session, TIMEOUT};
use crate::session::{check_size, hello_body, parse_hello};
use crate::wire::{Body, Reply};

const RETRY: Duration = Duration::from_secs(1);
const NOTICES: usize = 64;

/// How to connect to a kernel; see [`KernelClient::at`].
#[derive(Debug, Clone)]
#[must_use]
pub struct KernelOptions {
    node: String,
    name: Option<String>,
    kind: String,
    timeout: Duration,
}

impl KernelOptions {
    /// The consumer's name (`[a-z0-9._-]{1,64}`): leases belong to it, and its next connection continues them.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// `tool` (default), `app` or `mapi`.
    pub fn kind(mut self, kind: impl Into<String>) -> Self {
        self.kind = kind.into();
        self
    }

    /// How long to wait for the kernel, and then for each reply (10 s).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Connect.
    ///
    /// # Panics
    /// Outside of a tokio runtime with its I/O and time drivers.
    pub async fn connect(self) -> Result<KernelClient> {
        let requests = endpoint(&self.node, "kernel/requests")?;
        let control = endpoint(&self.node, "kernel/control")?;
        if let Some(name) = &self.name {
            check_name(name)?;
        }
        let shared = Arc::new(KernelShared {
            hello: Mutex::new(None),
            leased: Mutex::new(BTreeMap::new()),
            renew: Notify::new(),
            notices: broadcast::channel(NOTICES).0,
        });
        let session = KernelSession { shared: shared.clone(), name: self.name, kind: self.kind };
        let link = Link::open(&requests, session, Arc::default())?;
        if let Err(error) = link.when_ready(Instant::now() + self.timeout).await {
            link.close().await;
            return Err(error);
        }
        let background = tokio::spawn(keep_leases(shared.clone(), link.clone()));
        let inner = KernelInner { link, control, shared, replay: tokio::sync::Mutex::new(()), background };
        Ok(KernelClient { inner: Arc::new(inner), timeout: self.timeout })
    }
}

pub(crate) struct KernelShared {
    hello: Mutex<Option<KernelHello>>,
    /// Shard → how many hold it.
    leased: Mutex<BTreeMap<u16, usize>>,
    renew: Notify,
    /// `KernelLost` and `KernelFound`, for the feeds.
    pub notices: broadcast::Sender<KernelEvent>,
}

pub(crate) struct KernelInner {
    pub link: Link,
    /// Asked when heartbeats are missing: any answer says that the kernel is there.
    pub control: String,
    pub shared: Arc<KernelShared>,
    /// The kernel takes one replay of a consumer at a time.
    pub replay: tokio::sync::Mutex<()>,
    background: JoinHandle<()>,
}

impl Drop for KernelInner {
    fn drop(&mut self) {
        self.background.abort(); // it holds the link, which ends with its last handle
    }
}

struct KernelSession {
    shared: Arc<KernelShared>,
    name: Option<String>,
    kind: String,
}

const LOCK: &str = "nothing panics while it holds the lock";

impl Session for KernelSession {
    const KEEPALIVE: Option<&'static str> = None; // leases are renewed every ten seconds, and heartbeats come by SUB

    fn hello(&mut self) -> Body {
        hello_body(&self.kind, self.name.as_deref())
    }

    fn greeted(&mut self, reply: &Reply) -> Result<()> {
        let hello: KernelHello = parse_hello(reply, "logos-kernel/", "a kernel: apps use MessagingClient")?;
        let instance = hello.instance;
        let before = self.shared.hello.lock().expect(LOCK).replace(hello);
        self.shared.renew.notify_one();
        if let Some(before) = before {
            let found = KernelEvent::KernelFound { instance, restarted: before.instance != instance };
            let _ = self.shared.notices.send(found); // there may be no feed
        }
        Ok(())
    }

    fn lost(&mut self, reason: &str) {
        let _ = self.shared.notices.send(KernelEvent::KernelLost { reason: reason.to_owned() });
    }
}

/// Renew all leases: in time, after each hello, and soon after a failure.
async fn keep_leases(shared: Arc<KernelShared>, link: Link) {
    let every = shared.hello.lock().expect(LOCK).as_ref().map_or(10_000, |hello| hello.limits.lease_renew_ms);
    let every = Duration::from_millis(every);
    let mut wait = every;
    loop {
        let _ = tokio::time::timeout(wait, shared.renew.notified()).await;
        wait = every;
        let shards: Vec<u16> = shared.leased.lock().expect(LOCK).keys().copied().collect();
        if !shards.is_empty() && acquire(&link, &shards).await.is_err() {
            wait = wait.min(RETRY);
        }
    }
}

async fn acquire(link: &Link, shards: &[u16]) -> Result<LeaseAcquireReply> {
    link.request("lease.acquire", shards_body(shards), Vec::new(), TIMEOUT).await?.parse()
}

fn shards_body(shards: &[u16]) -> Body {
    Body::new().with("shards", shards.iter().copied().map(Value::from).collect::<Vec<_>>())
}

/// A message to publish; `..Default::default()` fills the rest.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs)] // fields have the names and meanings of SPEC.md
pub struct Publish {
    pub content_topic: String,
    pub payload: Vec<u8>,
    /// Without it and without `shard` the content topic decides (autosharding).
    pub pubsub_topic: Option<String>,
    pub shard: Option<u16>,
    /// Without it the kernel takes the current time. Publishing again with the same timestamp is safe.
    pub timestamp: Option<i64>,
    pub meta: Vec<u8>,
    pub version: u32,
    pub ephemeral: bool,
    pub proof: Vec<u8>,
    /// Send even what was sent before.
    pub force: bool,
}

/// What to ask a store for; a message must match everything given, and times are inclusive.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs)] // fields have the names and meanings of SPEC.md
pub struct StoreQuery {
    pub pubsub_topic: Option<String>,
    pub content_topics: Vec<String>,
    pub time_start: Option<i64>,
    pub time_end: Option<i64>,
    pub hashes: Vec<Hash>,
    pub cursor: Option<Hash>,
    /// The newest first.
    pub backward: bool,
    pub limit: Option<u16>,
    pub include_data: bool,
    pub max_messages: Option<u16>,
    /// A peer id or a multiaddr; the node's own peer id asks its own archive.
    pub peer: Option<String>,
}

/// A message of a store.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)] // fields have the names and meanings of SPEC.md
pub struct StoredMessage {
    pub message_hash: Hash,
    pub pubsub_topic: String,
    pub content_topic: String,
    pub timestamp: i64,
    pub meta: Bytes,
    pub ephemeral: bool,
    pub version: u32,
    pub proof: Bytes,
    pub payload: Bytes,
}

/// A store's answer, oldest first whatever the direction.
#[derive(Debug, Clone, PartialEq)]
pub struct StorePage {
    /// The store that answered.
    pub peer: String,
    /// Of the messages found.
    pub hashes: Vec<Hash>,
    /// One for each hash if data was asked for.
    pub messages: Vec<StoredMessage>,
    /// For the next page in the query's direction, at the same peer; none: there is no more.
    pub cursor: Option<Hash>,
}

/// A consumer of a kernel. Clones share it. It reconnects by itself and keeps its leases.
#[derive(Clone)]
pub struct KernelClient {
    pub(crate) inner: Arc<KernelInner>,
    timeout: Duration,
}

impl KernelClient {
    /// How to connect to a node's kernel: its run directory, or the endpoint of its requests.
    pub fn at(node: impl Into<String>) -> KernelOptions {
        KernelOptions { node: node.into(), name: None, kind: "tool".to_owned(), timeout: TIMEOUT }
    }

    /// The same client, whose requests wait at most so long for their replies.
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        KernelClient { inner: self.inner.clone(), timeout }
    }

    pub(crate) fn hello<T>(&self, part: impl FnOnce(&KernelHello) -> T) -> T {
        part(self.inner.shared.hello.lock().expect(LOCK).as_ref().expect("connect returns after the hello"))
    }

    /// Whether the kernel is there now.
    pub fn connected(&self) -> bool {
        self.inner.link.ready()
    }

    /// The kernel's process.
    pub fn instance(&self) -> Id {
        self.hello(|hello| hello.instance)
    }

    /// The name under which the kernel knows us.
    pub fn consumer(&self) -> String {
        self.hello(|hello| hello.consumer.clone())
    }

    /// Name and version of the kernel.
    pub fn server(&self) -> String {
        self.hello(|hello| hello.server.clone())
    }

    /// The network the node is on.
    pub fn network(&self) -> NetworkInfo {
        self.hello(|hello| hello.network.clone())
    }

    /// The kernel's limits.
    pub fn limits(&self) -> KernelLimits {
        self.hello(|hello| hello.limits.clone())
    }

    /// Any method of the contract, once. [`crate::replies`] has the types of its reply.
    pub async fn call(&self, method: &str, body: Body, blobs: Vec<Vec<u8>>) -> Result<Reply> {
        self.inner.link.request(method, body, blobs, self.timeout).await
    }

    /// Publish a message: how many peers it went to, and its hash.
    ///
    /// Errors: `NoPeers` (`detail` has message_hash and timestamp; readers of this node get the message all the same),
    /// `TooLarge`, `BadRequest`, `PeerRestarted`.
    pub async fn publish(&self, message: Publish) -> Result<RelayPublishReply> {
        self.hello(|hello| check_size(message.payload.len(), hello.limits.blob_bytes, &hello.network))?;
        let bytes = |bytes: Vec<u8>| (!bytes.is_empty()).then_some(Value::Binary(bytes));
        let body = Body::new()
            .with("content_topic", message.content_topic)
            .maybe("pubsub_topic", message.pubsub_topic)
            .maybe("shard", message.shard)
            .maybe("timestamp", message.timestamp)
            .maybe("meta", bytes(message.meta))
            .maybe("version", (message.version > 0).then_some(message.version))
            .maybe("ephemeral", message.ephemeral.then_some(true))
            .maybe("proof", bytes(message.proof))
            .maybe("force", message.force.then_some(true));
        self.call("relay.publish", body, vec![message.payload]).await?.parse()
    }

    /// Ask a store for history.
    ///
    /// Errors: `NoPeers` (`detail` has the attempts), `BadRequest` (a cursor that the store does not know, too),
    /// `NotReady` (the own archive is off), `RateLimited`.
    pub async fn store_query(&self, query: StoreQuery) -> Result<StorePage> {
        let binary = |hash: &Hash| Value::Binary(hash.to_vec());
        let mut body = Body::new()
            .maybe("pubsub_topic", query.pubsub_topic)
            .maybe("time_start", query.time_start)
            .maybe("time_end", query.time_end)
            .maybe("cursor", query.cursor.as_ref().map(binary))
            .with("forward", !query.backward)
            .maybe("limit", query.limit)
            .with("include_data", query.include_data)
            .maybe("max_messages", query.max_messages)
            .maybe("peer", query.peer);
        if !query.content_topics.is_empty() {
            body = body.texts("content_topics", query.content_topics);
        }
        if !query.hashes.is_empty() {
            body = body.with("hashes", query.hashes.iter().map(binary).collect::<Vec<_>>());
        }
        let mut reply = self.call("store.query", body, Vec::new()).await?;
        let blobs = std::mem::take(&mut reply.blobs);
        let StoreQueryReply { peer, hashes, cursor } = reply.parse()?;
        let messages = if query.include_data { stored(&hashes, blobs)? } else { Vec::new() };
        Ok(StorePage { peer, hashes, messages, cursor })
    }

    /// The peers that are connected: services, shards, score, mesh, and how each was found.
    pub async fn peers(&self) -> Result<PeersListReply> {
        self.call("peers.list", Body::new(), Vec::new()).await?.parse()
    }

    /// Dial multiaddresses: what became of each.
    pub async fn connect_peers<T: AsRef<str>>(
        &self,
        addresses: impl IntoIterator<Item = T>,
    ) -> Result<Vec<ConnectResult>> {
        let body = Body::new().texts("addresses", addresses);
        Ok(self.call("peers.connect", body, Vec::new()).await?.parse::<PeersConnectReply>()?.results)
    }

    /// Disconnect a peer; false: it was not connected.
    pub async fn disconnect_peer(&self, peer_id: &str) -> Result<bool> {
        let body = Body::new().with("peer_id", peer_id);
        Ok(self.call("peers.disconnect", body, Vec::new()).await?.parse::<PeersDisconnectReply>()?.disconnected)
    }

    /// The state of the node, of each protocol and shard, and of its event loop.
    pub async fn health(&self) -> Result<NodeHealth> {
        self.call("node.health", Body::new(), Vec::new()).await?.parse()
    }

    /// Facts about the node; all of them without `ids`.
    pub async fn info(&self, ids: &[&str]) -> Result<BTreeMap<String, Value>> {
        let body = if ids.is_empty() { Body::new() } else { Body::new().texts("ids", ids) };
        Ok(self.call("node.info", body, Vec::new()).await?.parse::<NodeInfoReply>()?.info)
    }

    /// Make the kernel join shards and record them until `release`; renewed by itself.
    pub async fn lease(&self, shards: &[u16]) -> Result<LeaseAcquireReply> {
        let leases = acquire(&self.inner.link, shards).await?;
        let mut leased = self.inner.shared.leased.lock().expect(LOCK);
        shards.iter().for_each(|shard| *leased.entry(*shard).or_default() += 1);
        Ok(leases)
    }

    /// Undo `lease`, as often as it was done. After an error the lease lapses by itself.
    pub async fn release(&self, shards: &[u16]) -> Result<()> {
        let unused = self.unlease(shards);
        if unused.is_empty() || !self.connected() {
            return Ok(());
        }
        self.call("lease.release", shards_body(&unused), Vec::new()).await.map(drop)
    }

    /// The shards that nothing here holds any more.
    pub(crate) fn unlease(&self, shards: &[u16]) -> Vec<u16> {
        let mut leased = self.inner.shared.leased.lock().expect(LOCK);
        let mut unused = Vec::new();
        for shard in shards {
            match leased.get_mut(shard) {
                Some(count) if *count > 1 => *count -= 1,
                Some(_) => {
                    leased.remove(shard);
                    unused.push(*shard);
                }
                None => {}
            }
        }
        unused
    }

    /// Release the leases and disconnect; feeds end.
    pub async fn close(&self) {
        let held: Vec<u16> = std::mem::take(&mut *self.inner.shared.leased.lock().expect(LOCK)).into_keys().collect();
        if !held.is_empty() && self.connected() {
            let brief = self.with_timeout(Duration::from_secs(1));
            // A kernel that does not take it lets them lapse.
            let _ = brief.call("lease.release", shards_body(&held), Vec::new()).await;
        }
        self.inner.link.close().await;
        let reason = "the client is closed".to_owned();
        let _ = self.inner.shared.notices.send(KernelEvent::KernelLost { reason });
        // there may be no feed
    }
}

fn stored(hashes: &[Hash], blobs: Vec<Vec<u8>>) -> Result<Vec<StoredMessage>> {
    if blobs.len() != 2 * hashes.len() {
        let message = format!("store.query: {} blobs for {} messages", blobs.len(), hashes.len());
        return Err(Error::new(Code::BadRequest, message));
    }
    let mut blobs = blobs.into_iter();
    let mut next = || blobs.next().unwrap_or_default();
    hashes.iter().map(|hash| stored_message(*hash, &next(), next())).collect()
}

fn stored_message(message_hash: Hash, header: &[u8], payload: Vec<u8>) -> Result<StoredMessage> {
    let mut fields = Fields::new(header, "message of a store", 7)?;
    let message = StoredMessage {
        message_hash,
        pubsub_topic: fields.text()?,
        content_topic: fields.text()?,
        timestamp: fields.ns()?,
        meta: fields.meta()?,
        ephemeral: fields.bool()?,
        version: fields.uint32()?,
        proof: Bytes(fields.binary()?.to_vec()),
        payload: Bytes(payload),
    };
    fields.end()?;
    Ok(message)
}
