//! The kernel's events on the wire (SPEC.md, §3.1), and what a [`crate::KernelFeed`] makes of them.

use serde::Serialize;

use crate::bytes::{Bytes, Epoch, Hash, Id};
use crate::contract::{NodeHealth, PeerRecord};
use crate::error::{Error, Result};
use crate::fields::Fields;
use crate::wire::parse;

const VERSION: u64 = 1;
const HEARTBEAT: u64 = 0;
const MESSAGE: u64 = 1;
const HEALTH: u64 = 2;
const PEER: u64 = 3;

/// Where an event stands: `instance` changes with each start of the kernel, `epoch` with each activation of the stream,
/// and `seq` has no gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The kernel's process.
    pub instance: Id,
    /// The activation of the stream.
    pub epoch: Epoch,
    /// The event in it.
    pub seq: u64,
}

/// A message on a shard.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs)] // fields have the names and meanings of SPEC.md
pub struct KernelMessage {
    /// `m/<cluster>/<shard>`.
    pub stream: String,
    #[serde(flatten)]
    pub place: Place,
    pub time_ns: i64,
    pub content_topic: String,
    pub message_hash: Hash,
    pub timestamp: i64,
    pub meta: Bytes,
    pub ephemeral: bool,
    pub version: u32,
    pub proof: Bytes,
    /// 0 relay, 1 filter, 2 the node itself; others may come.
    pub source: u64,
    pub payload: Bytes,
}

/// What a feed gives.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum KernelEvent {
    /// A message.
    Message(Box<KernelMessage>),
    /// The node's health has changed; it is complete.
    Health {
        /// All of it.
        health: NodeHealth,
    },
    /// A peer `joined`, `left` or `changed`; others may come.
    Peer {
        /// Which of them.
        change: String,
        /// The peer as it is now.
        peer: Box<PeerRecord>,
    },
    /// All peers: events of peers were lost, and these take their place.
    PeersSnapshot {
        /// As many as fit in a reply.
        peers: Vec<PeerRecord>,
    },
    /// Events of a stream are lost.
    StreamLoss {
        /// The stream.
        stream: String,
        /// The first one that is lost.
        first: u64,
        /// The last one; none: the stream restarted, and how many there were is not known.
        last: Option<u64>,
        /// For people.
        reason: String,
    },
    /// The kernel is unreachable. The client keeps trying.
    KernelLost {
        /// For people.
        reason: String,
    },
    /// The kernel is back.
    KernelFound {
        /// Its process.
        instance: Id,
        /// It is another one than before, so its streams start at seq 1 again.
        restarted: bool,
    },
}

/// The header of an event.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Header {
    pub place: Place,
    pub time_ns: i64,
    pub content: Content,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Content {
    Heartbeat,
    Message(Box<KernelMessage>),
    Health(NodeHealth),
    Peer(String, Box<PeerRecord>),
    /// Of a kind of a later version: skipped, but its seq counts.
    Unknown,
}

/// Decode F1. A header of another version is an error: hello has agreed on one.
pub(crate) fn decode_header(frame: &[u8]) -> Result<Header> {
    let mut fields = Fields::new(frame, "event header", 6)?;
    let version = fields.uint()?;
    if version != VERSION {
        return Err(Error::bad(format!("event header: version {version} is not {VERSION}")));
    }
    let kind = fields.uint()?;
    let place = Place { instance: fields.id()?, epoch: fields.epoch()?, seq: fields.uint()? };
    let time_ns = fields.ns()?;
    let content = match kind {
        HEARTBEAT => {
            fields.bool()?; // covered
            Content::Heartbeat
        }
        MESSAGE => Content::Message(Box::new(KernelMessage {
            stream: String::new(),
            place,
            time_ns,
            content_topic: fields.text()?,
            message_hash: fields.hash()?,
            timestamp: fields.ns()?,
            meta: fields.meta()?,
            ephemeral: fields.bool()?,
            version: fields.uint32()?,
            proof: Bytes(fields.binary()?.to_vec()),
            source: fields.uint()?,
            payload: Bytes::default(),
        })),
        HEALTH => Content::Health(map(&mut fields)?),
        PEER => Content::Peer(fields.text()?, map(&mut fields)?),
        _ => Content::Unknown,
    };
    fields.end()?;
    Ok(Header { place, time_ns, content })
}

fn map<T: serde::de::DeserializeOwned>(fields: &mut Fields<'_>) -> Result<T> {
    let value = fields.value()?;
    if !value.is_map() {
        return Err(Error::bad("event header: an element is not a map"));
    }
    parse(value)
}

/// The version of a header, if it is one that we do not speak.
pub(crate) fn other_version(frame: &[u8]) -> Option<u64> {
    let version = Fields::new(frame, "event header", 1).and_then(|mut fields| fields.uint()).ok()?;
    (version != VERSION).then_some(version)
}
