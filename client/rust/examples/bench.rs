//! The program of the bench `clients` for Rust; tests/bench/clients/driver.py describes its command line.

use std::fs;
use std::time::{Duration, Instant};

use logos_client::{Event, Id, MessagingClient};

const TOPIC: &str = "/bench/1/clients/plain";
const WINDOW: usize = 64;

/// CPU of this process, all threads, in µs.
fn cpu_us() -> f64 {
    let tasks = fs::read_dir("/proc/self/task").expect("Linux");
    let times = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("schedstat")).ok());
    times.filter_map(|line| line.split(' ').next()?.parse::<f64>().ok()).sum::<f64>() / 1000.0
}

struct Stopwatch {
    cpu: f64,
    start: Instant,
}

impl Stopwatch {
    fn start() -> Self {
        Stopwatch { cpu: cpu_us(), start: Instant::now() }
    }

    fn done(self, mut delays: Vec<Duration>) {
        let (seconds, cpu) = (self.start.elapsed().as_secs_f64(), cpu_us() - self.cpu);
        let mut line = serde_json::json!({"event": "done", "seconds": seconds, "cpu_us": cpu});
        delays.sort_unstable();
        for (name, share) in [("p50_us", 50), ("p99_us", 99)] {
            if let Some(delay) = delays.get(delays.len() * share / 100) {
                line[name] = (delay.as_secs_f64() * 1e6).into();
            }
        }
        println!("{line}");
    }
}

/// The app's work is a task, as in most programs: what `main` itself awaits runs on a thread of its own.
#[tokio::main]
async fn client(role: String, endpoint: String, count: usize, size: usize) {
    tokio::spawn(app(role, endpoint, count, size)).await.expect("it does not panic");
}

async fn app(role: String, endpoint: String, count: usize, size: usize) {
    let (client, mut events) = MessagingClient::at(&endpoint).connect().await.expect("a server");
    match role.as_str() {
        "receive" => {
            client.subscribe([format!("/bench/1/{count}/{size}")]).await.expect("subscribed");
            events.next().await.expect("an event");
            let watch = Stopwatch::start();
            for seq in 2..=count as u64 {
                match events.next().await {
                    Some(Event::MessageReceived(message)) => assert_eq!(message.seq, seq),
                    other => panic!("{other:?}"),
                }
            }
            watch.done(Vec::new());
        }
        "send" => {
            let watch = Stopwatch::start();
            let senders: Vec<_> = (0..WINDOW)
                .map(|sender| {
                    let client = client.clone();
                    tokio::spawn(async move {
                        for _ in (sender..count).step_by(WINDOW) {
                            client.send(TOPIC, vec![0; size]).await.expect("accepted");
                        }
                    })
                })
                .collect();
            for sender in senders {
                sender.await.expect("it does not panic");
            }
            watch.done(Vec::new());
        }
        _ => {
            let (watch, mut delays) = (Stopwatch::start(), Vec::with_capacity(count));
            for _ in 0..count {
                let start = Instant::now();
                client.send(TOPIC, vec![0; size]).await.expect("accepted");
                delays.push(start.elapsed());
            }
            watch.done(delays);
        }
    }
    client.close().await;
}

/// The frames of a `send` request, the same each time.
fn request(size: usize) -> [Vec<u8>; 4] {
    let id = Id::random();
    let mut header = vec![0x94, 0xc4, 16];
    header.extend_from_slice(&id);
    header.extend_from_slice(b"\xa4send\x00\x00");
    let mut body = b"\x82\xaarequest_id\xc4\x10".to_vec();
    body.extend_from_slice(&id);
    body.extend_from_slice(b"\xadcontent_topic\xb6");
    body.extend_from_slice(TOPIC.as_bytes());
    [b"LD1".to_vec(), header, body, vec![0; size]]
}

fn bare(role: &str, endpoint: &str, count: usize, size: usize) {
    let context = zmq2::Context::new();
    let dealer = context.socket(zmq2::DEALER).expect("a socket");
    dealer.set_linger(0).expect("an option");
    dealer.connect(endpoint).expect("an endpoint");
    let request = request(size);
    let send = || dealer.send_multipart(request.iter().map(Vec::as_slice), 0).expect("sent");
    let receive = || dealer.recv_multipart(0).expect("received");
    match role {
        "receive" => {
            let (count_text, size_text) = (count.to_string(), size.to_string());
            dealer.send_multipart(["flood", &count_text, &size_text], 0).expect("sent");
            receive();
            let watch = Stopwatch::start();
            for _ in 1..count {
                receive();
            }
            watch.done(Vec::new());
        }
        "send" => {
            let watch = Stopwatch::start();
            for number in 0..count + WINDOW {
                if number >= WINDOW {
                    receive();
                }
                if number < count {
                    send();
                }
            }
            watch.done(Vec::new());
        }
        _ => {
            let (watch, mut delays) = (Stopwatch::start(), Vec::with_capacity(count));
            for _ in 0..count {
                let start = Instant::now();
                send();
                receive();
                delays.push(start.elapsed());
            }
            watch.done(delays);
        }
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [role, side, endpoint, count, size] = &arguments[..] else { panic!("ROLE SIDE ENDPOINT COUNT SIZE") };
    let (count, size) = (count.parse().expect("COUNT"), size.parse().expect("SIZE"));
    match side.as_str() {
        "client" => client(role.clone(), endpoint.clone(), count, size),
        _ => bare(role, endpoint, count, size),
    }
}
