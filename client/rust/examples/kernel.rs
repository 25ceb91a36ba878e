//! A kernel's client driven by lines of JSON on its input, for tests and for trying things out:
//!
//!     cargo run --release --example kernel -- data/run 0 [max bytes]
//!     {"id": 1, "cmd": "publish", "topic": "/a/1/b/c", "payload": "68656c6c6f"}
//!
//! Each command is answered by {"id", "ok", "result" | "error"}; events of the shard, of health and of peers are lines
//! {"event", …}. Bytes are hex.

use std::sync::Arc;

use logos_client::{FeedOptions, KernelClient, Publish, Result, StoreQuery};
use serde_json::{json, Value};
use tokio::io::{stdin, AsyncBufReadExt, BufReader};
use tokio::sync::Mutex;

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).expect("hex")).collect()
}

async fn run(kernel: &KernelClient, shard: u16, command: &Value) -> Result<Value> {
    let text = |key: &str| command[key].as_str().unwrap_or_default().to_owned();
    Ok(match command["cmd"].as_str().unwrap_or_default() {
        "publish" => {
            let (content_topic, payload) = (text("topic"), unhex(&text("payload")));
            let message = Publish { content_topic, payload, shard: Some(shard), ..Default::default() };
            json!(kernel.publish(message).await?.message_hash)
        }
        "query" => {
            let query = StoreQuery { content_topics: vec![text("topic")], include_data: true, ..Default::default() };
            json!(kernel.store_query(query).await?.messages.len())
        }
        "health" => json!(kernel.health().await?),
        "peers" => json!(kernel.peers().await?),
        "info" => json!(kernel.info(&["MyPeerId"]).await?.len()),
        other => panic!("no command {other}"),
    })
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [node, shard, more @ ..] = &arguments[..] else { panic!("<run directory> <shard> [max bytes]") };
    let shard = shard.parse().expect("a shard");
    let kernel = KernelClient::at(node).connect().await?;
    let mut options = FeedOptions::shards([shard]).health().peers();
    if let [bytes, ..] = more {
        options = options.max_bytes(bytes.parse().expect("bytes"));
    }
    let mut feed = kernel.events(options).await?;
    println!("{}", json!({"event": "connected"}));
    // While a `pause` holds it, events are not taken.
    let gate = Arc::new(Mutex::new(()));
    let taking = gate.clone();
    let shown = tokio::spawn(async move {
        while let Some(event) = feed.next().await {
            drop(taking.lock().await);
            println!("{}", json!(event));
        }
        println!("{}", json!({"event": "end", "replays": feed.counters().replays, "skipped": feed.counters().skipped}));
    });
    let mut paused = None;
    let mut lines = BufReader::new(stdin()).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let command: Value = serde_json::from_str(&line).expect("a line of JSON");
        let said = match command["cmd"].as_str() {
            Some("pause") => {
                paused = Some(gate.clone().lock_owned().await);
                Ok(Value::Null)
            }
            Some("resume") => {
                paused = None;
                Ok(Value::Null)
            }
            Some("stop") => break,
            _ => run(&kernel, shard, &command).await,
        };
        match said {
            Ok(result) => println!("{}", json!({"id": command["id"], "ok": true, "result": result})),
            Err(error) => println!("{}", json!({"id": command["id"], "ok": false, "error": error.code.as_str()})),
        }
    }
    drop(paused);
    kernel.close().await;
    let _ = shown.await;
    Ok(())
}
