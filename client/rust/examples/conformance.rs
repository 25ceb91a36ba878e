//! The adapter of this crate for client/conformance: commands as lines of JSON on stdin, answers on stdout.

use std::sync::Arc;
use std::time::Duration;

use logos_client::{
    ChannelEncryption, ChannelOptions, Error, Events, FeedOptions, HookError, Id, KernelClient, KernelFeed,
    MessagingClient, Position, Publish, Result, SendOptions, StoreQuery,
};
use serde_json::{json, Map, Value};
use tokio::io::{stdin, AsyncBufReadExt, BufReader};
use tokio::sync::Mutex;

/// One client at a time, and the last event it gave.
#[derive(Default)]
struct Subject {
    client: Mutex<Option<MessagingClient>>,
    events: Mutex<Option<Events>>,
    position: Mutex<Option<Position>>,
    kernel: Mutex<Option<KernelClient>>,
    feed: Mutex<Option<KernelFeed>>,
}

/// The kit's encryption: a mark, and bit 5 of each byte flipped.
struct Flipped;

const MARK: &[u8] = b"+";

impl ChannelEncryption for Flipped {
    fn encrypt(&self, segment: &[u8]) -> Result<Vec<u8>, HookError> {
        Ok(MARK.iter().copied().chain(segment.iter().map(|byte| byte ^ 0x20)).collect())
    }

    fn decrypt(&self, segment: &[u8]) -> Result<Vec<u8>, HookError> {
        let content = segment.strip_prefix(MARK).ok_or("not sealed")?;
        Ok(content.iter().map(|byte| byte ^ 0x20).collect())
    }
}

fn text(arguments: &Map<String, Value>, key: &str) -> String {
    arguments.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn topics(arguments: &Map<String, Value>) -> Vec<String> {
    arguments["topics"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).expect("hex")).collect()
}

/// Carry out a command of a kernel's client.
async fn run_kernel(
    subject: &Subject,
    kernel: &KernelClient,
    command: &str,
    arguments: &Map<String, Value>,
    timeout: Duration,
) -> Result<Value> {
    Ok(match command {
        "feed" => {
            let shards = arguments["shards"].as_array().into_iter().flatten().filter_map(Value::as_u64);
            let mut options = FeedOptions::shards(shards.map(|shard| shard as u16)).health().peers();
            if let Some(bytes) = arguments.get("max_bytes").and_then(Value::as_u64) {
                options = options.max_bytes(bytes as _);
            }
            *subject.feed.lock().await = Some(kernel.events(options).await?);
            Value::Null
        }
        "next" => {
            let mut feed = subject.feed.lock().await;
            let next = feed.as_mut().expect("feed comes first").next();
            json!(tokio::time::timeout(timeout, next).await.ok().flatten())
        }
        "publish" => {
            let (content_topic, payload) = (text(arguments, "topic"), unhex(&text(arguments, "payload")));
            json!(kernel.publish(Publish { content_topic, payload, ..Default::default() }).await?.message_hash)
        }
        "query" => {
            let own = kernel.info(&["MyPeerId"]).await?["MyPeerId"].as_str().map(str::to_owned);
            let query =
                StoreQuery { content_topics: topics(arguments), include_data: true, peer: own, ..Default::default() };
            let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            json!(kernel.store_query(query).await?.messages.iter().map(|one| hex(&one.payload)).collect::<Vec<_>>())
        }
        "peers" => json!(kernel.peers().await?),
        "health" => json!(kernel.health().await?),
        "close" => {
            kernel.close().await;
            Value::Null
        }
        _ => panic!("no command {command}"),
    })
}

/// Carry out one command.
async fn run(subject: &Subject, command: &str, arguments: &Map<String, Value>) -> Result<Value> {
    let timeout = Duration::from_millis(arguments.get("timeout_ms").and_then(Value::as_u64).unwrap_or(10_000));
    if command == "connect" {
        let mut options = MessagingClient::at(text(arguments, "endpoint")).timeout(timeout);
        if let Some(name) = arguments.get("name").and_then(Value::as_str) {
            options = options.name(name);
        }
        if let Some(credit) = arguments.get("credit").and_then(Value::as_u64) {
            options = options.credit(credit);
        }
        let takeover = arguments.get("takeover").and_then(Value::as_bool).unwrap_or(false);
        let (client, events) = options.takeover(takeover).connect().await?;
        *subject.client.lock().await = Some(client);
        *subject.events.lock().await = Some(events);
        return Ok(Value::Null);
    }
    if command == "kernel_connect" {
        let mut options = KernelClient::at(text(arguments, "directory"));
        if let Some(name) = arguments.get("name").and_then(Value::as_str) {
            options = options.name(name);
        }
        *subject.kernel.lock().await = Some(options.connect().await?);
        return Ok(Value::Null);
    }
    let kernel = subject.kernel.lock().await.clone();
    if let Some(kernel) = kernel {
        return run_kernel(subject, &kernel, command, arguments, timeout).await;
    }
    let client = subject.client.lock().await.as_ref().expect("connect comes first").with_timeout(timeout);
    Ok(match command {
        "next" => {
            let mut events = subject.events.lock().await;
            let next = tokio::time::timeout(timeout, events.as_mut().expect("connect comes first").next());
            let event = next.await.ok().flatten();
            if let Some(event) = &event {
                *subject.position.lock().await = event.position();
            }
            json!(event)
        }
        "send" => {
            let request_id = Id::try_from(&unhex(&text(arguments, "request_id"))[..]).ok();
            let payload = unhex(&text(arguments, "payload"));
            let options = SendOptions { request_id, ..Default::default() };
            json!(client.send_with(&text(arguments, "topic"), payload, options).await?)
        }
        "find_send" => {
            let request_id = Id::try_from(&unhex(&text(arguments, "request_id"))[..]).unwrap_or_default();
            if arguments.contains_key("channel") {
                json!(client.find_channel_send(&text(arguments, "channel"), request_id).await?.map(|found| found.end))
            } else {
                json!(client.find_send(request_id, None).await?.map(|found| found.state))
            }
        }
        "status" => json!(client.status().await?),
        "subscribe" => json!(client.subscribe(topics(arguments)).await?),
        "unsubscribe" => json!(client.unsubscribe(topics(arguments)).await?),
        "subscriptions" => json!(client.subscriptions().await?),
        "channel_create" => {
            let channel = text(arguments, "channel");
            client.set_channel_encryption(&channel, Flipped);
            let options = ChannelOptions { hooks: true, ..Default::default() };
            json!(client.create_channel_with(&channel, &text(arguments, "topic"), options).await?)
        }
        "channel_send" => {
            let payload = unhex(&text(arguments, "payload"));
            json!(client.send_to_channel(&text(arguments, "channel"), payload).await?)
        }
        "ack" => {
            let position = *subject.position.lock().await;
            if let Some(position) = position {
                client.ack(position).await?;
            }
            Value::Null
        }
        "close" => {
            client.close().await;
            Value::Null
        }
        _ => panic!("no command {command}"),
    })
}

fn told(error: &Error) -> Value {
    json!({
        "code": error.code.as_str(),
        "retriable": error.retriable,
        "message": error.message,
        "retry_after_ms": error.retry_after.map(|time| time.as_millis() as u64),
    })
}

/// Until the end of the input. Commands may overlap.
#[tokio::main]
async fn main() {
    let subject = Arc::new(Subject::default());
    let mut lines = BufReader::new(stdin()).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let command: Map<String, Value> = serde_json::from_str(&line).expect("a line of JSON");
        let subject = subject.clone();
        tokio::spawn(async move {
            let name = text(&command, "cmd");
            let said = match run(&subject, &name, &command).await {
                Ok(result) => json!({"id": command["id"], "ok": true, "result": result}),
                Err(error) => json!({"id": command["id"], "ok": false, "error": told(&error)}),
            };
            println!("{said}");
        });
    }
}
