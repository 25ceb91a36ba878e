//! Replays the contract's vectors (ipc_schema/vectors/frames.json): what a client sends, and what it gets.

use serde_json::Value as Json;

use crate::bytes::Id;
use crate::error::Code;
use crate::kernel_events::{decode_header, Content};
use crate::wire::{decode_app_event, decode_reply, is_event, request_header, Frames, Incoming};
use crate::Value;

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).expect("hex")).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A meaning in MessagePack: `{"$bin": hex}` is bytes, `{"$int": decimal}` an integer.
fn value(json: &Json) -> Value {
    match json {
        Json::Null => Value::Nil,
        Json::Bool(value) => (*value).into(),
        Json::String(text) => text.as_str().into(),
        Json::Array(items) => Value::Array(items.iter().map(value).collect()),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => number.into(),
            (_, Some(number)) => number.into(),
            _ => number.as_f64().expect("a number").into(),
        },
        Json::Object(entries) => match (entries.get("$bin"), entries.get("$int")) {
            (Some(bin), _) => Value::Binary(unhex(bin.as_str().expect("text"))),
            (_, Some(int)) => int.as_str().expect("text").parse::<i64>().expect("an integer").into(),
            _ => Value::Map(entries.iter().map(|(key, item)| (key.as_str().into(), value(item))).collect()),
        },
    }
}

/// A meaning as this crate writes JSON: bytes are hex, integers exact.
fn plain(json: &Json) -> Json {
    match json {
        Json::Array(items) => items.iter().map(plain).collect(),
        Json::Object(entries) => match (entries.get("$bin"), entries.get("$int")) {
            (Some(bin), _) => bin.clone(),
            (_, Some(int)) => int.as_str().expect("text").parse::<i64>().expect("an integer").into(),
            _ => entries.iter().map(|(key, item)| (key.clone(), plain(item))).collect(),
        },
        other => other.clone(),
    }
}

/// Vectors of a kind: name, frames, meaning (none: a bad one).
fn vectors(kind: &str) -> Vec<(String, Frames, Option<Json>, Json)> {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../ipc_schema/vectors/frames.json");
    let text = std::fs::read_to_string(file).expect("the vectors of the repository");
    let read: Json = serde_json::from_str(&text).expect("JSON");
    assert_eq!(read["version"], 1);
    let all = read["vectors"].as_array().expect("vectors").iter().filter(|vector| vector["kind"] == kind);
    let found: Vec<_> = all
        .map(|vector| {
            let frames = vector["frames"].as_array().expect("frames").iter();
            let frames = frames.map(|frame| unhex(frame.as_str().expect("hex"))).collect();
            let name = vector["name"].as_str().expect("a name").to_owned();
            (name, frames, vector.get("meaning").cloned(), vector.clone())
        })
        .collect();
    assert!(found.len() > 5, "{kind}: {} vectors", found.len());
    found
}

#[test]
fn requests_are_made_byte_for_byte() {
    for (name, frames, meaning, vector) in vectors("request") {
        let Some(meaning) = meaning.filter(|_| vector["exact"] == true) else { continue };
        let Value::Binary(id) = value(&meaning["correlation_id"]) else { panic!("{name}: no id") };
        let number = |key: &str| meaning[key].as_u64().expect("a number");
        let method = meaning["method"].as_str().expect("a method");
        let header =
            request_header(&Id::try_from(&id[..]).expect("16 bytes"), method, number("budget_ms"), number("flags"));
        let mut body = Vec::new();
        rmpv::encode::write_value(&mut body, &value(&meaning["body"])).expect("a Vec takes everything");
        let at = usize::from(meaning["delimited"] == true);
        assert_eq!((hex(&header), hex(&body)), (hex(&frames[at + 1]), hex(&frames[at + 2])), "{name}");
    }
}

#[test]
fn replies_have_their_meaning_and_bad_ones_are_refused() {
    for (name, frames, meaning, vector) in vectors("reply") {
        assert!(!is_event(&frames), "{name}");
        let decoded = decode_reply(frames);
        let Some(meaning) = meaning else {
            assert_eq!(decoded.expect_err(&name).code, Code::BadRequest, "{name}");
            continue;
        };
        let reply = decoded.expect(&name);
        assert_eq!(Value::Binary(reply.id.to_vec()), value(&meaning["correlation_id"]), "{name}");
        assert_eq!(Value::Binary(reply.instance.to_vec()), value(&meaning["instance"]), "{name}");
        assert_eq!(reply.body, value(&meaning["body"]), "{name}");
        let blobs = Value::Array(reply.blobs.into_iter().map(Value::Binary).collect());
        assert_eq!(blobs, value(&meaning["blobs"]), "{name}");
        let error = reply.error.map(|error| (error.code.as_str(), error.retriable));
        let wanted = vector["code"].as_str().map(|code| (code, vector["retriable"] == true));
        assert_eq!(error, wanted, "{name}");
    }
}

#[test]
fn events_of_an_app_have_their_meaning_and_bad_ones_are_refused() {
    for (name, frames, meaning, _) in vectors("app_event") {
        let Some(meaning) = meaning else {
            assert_eq!(decode_app_event(frames).err().expect(&name).code, Code::BadRequest, "{name}");
            continue;
        };
        assert!(is_event(&frames), "{name}");
        match decode_app_event(frames).expect(&name) {
            Incoming::Heartbeat => assert_eq!(meaning["event"], "heartbeat", "{name}"),
            Incoming::Unknown { seq, .. } => {
                assert_eq!((&meaning["event"], meaning["seq"].as_u64()), (&"unknown".into(), Some(seq)), "{name}");
            }
            Incoming::Event { event, .. } => {
                let mut wanted = plain(&meaning);
                let found = serde_json::to_value(event).expect("JSON");
                if found.get("payload").is_none() {
                    wanted.as_object_mut().expect("a map").remove("payload");
                }
                assert_eq!(found, wanted, "{name}");
            }
        }
    }
}

#[test]
fn events_of_the_kernel_have_their_meaning_and_bad_ones_are_refused() {
    for (name, frames, meaning, _) in vectors("kernel_event") {
        let decoded = decode_header(&frames[1]);
        let Some(meaning) = meaning.as_ref().map(plain) else {
            assert_eq!(decoded.expect_err(&name).code, Code::BadRequest, "{name}");
            continue;
        };
        let header = decoded.expect(&name);
        let place = serde_json::to_value(header.place).expect("JSON");
        for key in ["instance", "epoch", "seq"] {
            assert_eq!(place[key], meaning[key], "{name}");
        }
        assert_eq!(Json::from(header.time_ns), meaning["time_ns"], "{name}");
        let (kind, found) = match header.content {
            Content::Heartbeat => ("heartbeat", Json::Null),
            Content::Message(message) => ("message", serde_json::to_value(message).expect("JSON")),
            Content::Health(_) => ("health", Json::Null),
            Content::Peer(change, _) => ("peer", serde_json::json!({"change": change})),
            Content::Unknown => ("unknown", Json::Null),
        };
        assert_eq!(kind, meaning["event"], "{name}");
        for (key, wanted) in meaning.as_object().expect("a map") {
            if let Some(found) = found.get(key).filter(|_| key != "payload" && key != "event") {
                assert_eq!(found, wanted, "{name}: {key}");
            }
        }
    }
}
