//! Frames of requests, replies and events (SPEC.md, §2 and §4.3). No I/O.

use std::time::Duration;

use rmpv::Value;
use serde::de::DeserializeOwned;

use crate::bytes::Id;
use crate::contract::{decode_event, Head, HEARTBEAT};
use crate::error::{Code, Error, Result};
use crate::events::Event;
use crate::fields::Fields;

/// The frames of one message.
pub(crate) type Frames = Vec<Vec<u8>>;

pub(crate) const MAGIC: &[u8] = b"LD1";
pub(crate) const NO_REPLY: u64 = 1;
const MAX_DEPTH: usize = 16;
const APP_EVENT: u64 = 1;

/// The body of a request. Keys without a value are left out.
#[derive(Debug, Clone, Default)]
pub struct Body(Vec<(Value, Value)>);

impl Body {
    /// `{}`.
    pub fn new() -> Self {
        Self::default()
    }

    /// With one more key.
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.0.push((key.into(), value.into()));
        self
    }

    /// With one more key if there is a value.
    pub fn maybe(self, key: &str, value: Option<impl Into<Value>>) -> Self {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }

    pub(crate) fn texts<T: AsRef<str>>(self, key: &str, values: impl IntoIterator<Item = T>) -> Self {
        self.with(key, values.into_iter().map(|text| Value::from(text.as_ref())).collect::<Vec<_>>())
    }

    pub(crate) fn into_value(self) -> Value {
        Value::Map(self.0)
    }

    pub(crate) fn encode(self) -> Vec<u8> {
        pack(&self.into_value())
    }
}

fn pack(value: &Value) -> Vec<u8> {
    let mut packed = Vec::with_capacity(64);
    rmpv::encode::write_value(&mut packed, value).expect("a Vec takes everything");
    packed
}

/// Header of a request.
pub(crate) fn request_header(id: &Id, method: &str, budget_ms: u64, flags: u64) -> Vec<u8> {
    pack(&Value::Array(vec![Value::from(&id[..]), method.into(), budget_ms.into(), flags.into()]))
}

/// A reply to a request.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    pub(crate) id: Id,
    pub(crate) instance: Id,
    pub(crate) error: Option<Error>,
    /// A map.
    pub body: Value,
    /// What travelled beside the body.
    pub blobs: Vec<Vec<u8>>,
}

impl Reply {
    /// The body as a type of the contract.
    pub fn parse<T: DeserializeOwned>(self) -> Result<T> {
        parse(self.body)
    }
}

/// A body as a type of the contract: nil is absent, and of a repeated key the last one wins.
pub(crate) fn parse<T: DeserializeOwned>(mut body: Value) -> Result<T> {
    tidy(&mut body);
    rmpv::ext::from_value(body).map_err(|error| Error::bad(format!("reply: {error}")))
}

fn tidy(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(tidy),
        Value::Map(entries) => {
            let mut kept: Vec<(Value, Value)> = Vec::with_capacity(entries.len());
            for (key, mut item) in std::mem::take(entries) {
                tidy(&mut item);
                // Bodies are small; large maps have keys that differ, and a scan of texts is cheap.
                match kept.iter_mut().find(|(known, _)| *known == key) {
                    Some(known) => known.1 = item,
                    None => kept.push((key, item)),
                }
            }
            kept.retain(|(_, item)| !item.is_nil());
            *entries = kept;
        }
        _ => {}
    }
}

/// One value and nothing behind it, with what the contract allows in a body.
fn unpack(frame: &[u8], what: &str) -> Result<Value> {
    let mut rest = frame;
    let value = rmpv::decode::read_value_with_max_depth(&mut rest, MAX_DEPTH + 1)
        .map_err(|error| Error::bad(format!("{what}: {error}")))?;
    if !rest.is_empty() {
        return Err(Error::bad(format!("{what}: trailing bytes")));
    }
    check(&value, 1).map_err(|wrong| Error::bad(format!("{what}: {wrong}")))?;
    Ok(value)
}

fn check(value: &Value, depth: usize) -> Result<(), &'static str> {
    match value {
        Value::Ext(..) => Err("an extension type"),
        Value::String(text) if text.is_err() => Err("text that is not UTF-8"),
        Value::Integer(number) if number.as_i64().is_none() => Err("an integer above 2^63 - 1"),
        Value::Array(_) | Value::Map(_) if depth > MAX_DEPTH => Err("nested too deep"),
        Value::Array(items) => items.iter().try_for_each(|item| check(item, depth + 1)),
        Value::Map(entries) => entries.iter().try_for_each(|(key, item)| {
            if !key.is_str() {
                return Err("a key that is not text");
            }
            check(key, depth + 1).and_then(|()| check(item, depth + 1))
        }),
        _ => Ok(()),
    }
}

/// Whether frames are an event of the app's stream: an integer leads its header, and a binary that of a reply.
pub(crate) fn is_event(frames: &[Vec<u8>]) -> bool {
    let Some(header) = frames.get(1) else { return false };
    let first = match header.first() {
        Some(0xdc) => 3,
        Some(0xdd) => 5,
        _ => 1,
    };
    header.get(first) == Some(&1)
}

/// A reply from its frames; an empty delimiter may precede it.
pub(crate) fn decode_reply(frames: Frames) -> Result<Reply> {
    let mut frames = frames.into_iter().peekable();
    frames.next_if(Vec::is_empty);
    let (Some(magic), Some(header), Some(body)) = (frames.next(), frames.next(), frames.next()) else {
        return Err(Error::bad("not the frames of a reply"));
    };
    if magic != MAGIC {
        return Err(Error::bad("not the frames of a reply"));
    }
    let mut fields = Fields::new(&header, "reply header", 3)?;
    let (id, status, instance) = (fields.id()?, fields.uint()?, fields.id()?);
    fields.end()?;
    let body = unpack(&body, "body")?;
    if !body.is_map() {
        return Err(Error::bad("body: not a map"));
    }
    let error = match status {
        0 => None,
        1 => Some(decode_error(&body)?),
        _ => return Err(Error::bad("reply header: a status that is neither 0 nor 1")),
    };
    Ok(Reply { id, instance, error, body, blobs: frames.collect() })
}

#[derive(serde::Deserialize)]
struct ErrorBody {
    code: String,
    message: String,
    retriable: Option<bool>,
    retry_after_ms: Option<u64>,
    detail: Option<Value>,
}

fn decode_error(body: &Value) -> Result<Error> {
    let said: ErrorBody = parse(body.clone())?;
    let detail = said.detail.unwrap_or(Value::Nil);
    if !detail.is_nil() && !detail.is_map() {
        return Err(Error::bad("error: detail is not a map"));
    }
    let code = Code::of(&said.code);
    Ok(Error {
        code,
        retriable: said.retriable.unwrap_or(code.retriable()),
        message: said.message,
        retry_after: said.retry_after_ms.map(Duration::from_millis),
        detail,
    })
}

/// What the frames of an event are.
pub(crate) enum Incoming {
    Heartbeat,
    Event {
        event: Event,
        cost: usize,
    },
    /// Of a kind of a later version: skipped, but its seq counts.
    Unknown {
        stream_id: Id,
        seq: u64,
        time_ns: i64,
        cost: usize,
    },
}

/// An event from its frames.
pub(crate) fn decode_app_event(mut frames: Frames) -> Result<Incoming> {
    if frames.len() < 2 || frames[0] != MAGIC {
        return Err(Error::bad("not the frames of an event"));
    }
    let payload = if frames.len() > 2 { std::mem::take(&mut frames[2]) } else { Vec::new() };
    let cost = frames[1].len() + payload.len();
    let mut fields = Fields::new(&frames[1], "event", 5)?;
    if fields.uint()? != APP_EVENT {
        return Err(Error::bad("event: 1 does not lead its header"));
    }
    let head = Head { stream_id: fields.id()?, seq: fields.uint()?, kind: fields.uint()?, time_ns: fields.ns()? };
    if head.kind == HEARTBEAT {
        fields.end()?;
        return Ok(Incoming::Heartbeat);
    }
    let event = decode_event(&head, &mut fields, payload)?;
    fields.end()?;
    Ok(match event {
        Some(event) => Incoming::Event { event, cost },
        None => Incoming::Unknown { stream_id: head.stream_id, seq: head.seq, time_ns: head.time_ns, cost },
    })
}
