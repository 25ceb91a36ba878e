//! Counts the messages of a round and acknowledges them, over a TCP connection of its own.

use serde_json::json;
use tokio::{io::AsyncWriteExt, net::TcpListener, sync::mpsc};

use crate::lines::{cpu_us, emit, now, Command};

struct Expected {
    round: u64,
    messages: usize,
    ack_every: usize,
    hosts: u32,
    seen: Vec<u64>, // the hosts that have it, a bit each
    stamps: Option<Vec<i64>>,
    received: usize,
    duplicates: usize,
    first: i64,
    last: i64,
    cpu: f64,
    last_count: usize,
}

pub struct Receiver {
    expected: Option<Expected>,
    acks: mpsc::UnboundedSender<u32>,
}

impl Receiver {
    pub fn new(acks: mpsc::UnboundedSender<u32>) -> Self {
        Receiver { expected: None, acks }
    }

    /// Start a round: a message counts when all `hosts` (at most 64) have it.
    pub fn expect(&mut self, c: &Command, hosts: u32) {
        assert!(hosts <= u64::BITS);
        self.expected = Some(Expected {
            round: c.round,
            messages: c.messages,
            ack_every: c.ack_every,
            hosts,
            seen: vec![0; c.messages],
            stamps: c.stamps.then(|| vec![0; c.messages]),
            received: 0,
            duplicates: 0,
            first: 0,
            last: 0,
            cpu: cpu_us(),
            last_count: usize::MAX,
        });
        emit("expecting", json!({"round": c.round}));
    }

    pub fn take(&mut self, host: u32, payload: &[u8]) {
        let Some(e) = self.expected.as_mut() else { return };
        let number = u64::from_be_bytes(payload[..8].try_into().unwrap());
        if number >> 32 != e.round {
            return;
        }
        let index = (number & 0xffff_ffff) as usize;
        if e.seen[index] & 1 << host != 0 {
            e.duplicates += 1;
            return;
        }
        e.seen[index] |= 1 << host;
        if e.seen[index].count_ones() < e.hosts {
            return;
        }
        e.received += 1;
        if let Some(stamps) = e.stamps.as_mut() {
            stamps[index] = now();
        }
        if e.received == 1 {
            e.first = now();
        }
        if e.received == e.messages {
            e.last = now();
            let cpu = cpu_us();
            let _ = self.acks.send(e.received as u32);
            self.finish(cpu);
        } else if e.received % e.ack_every == 0 {
            let _ = self.acks.send(e.received as u32);
        }
    }

    fn finish(&mut self, cpu: f64) {
        let Some(e) = self.expected.take() else { return };
        let mut v = json!({
            "round": e.round, "received": e.received, "duplicates": e.duplicates, "lost": e.messages - e.received,
            "first_ns": e.first, "last_ns": e.last, "cpu_us": cpu - e.cpu,
        });
        if let Some(s) = e.stamps {
            v["stamps"] = json!(s);
        }
        emit("received", v);
    }

    /// Called every 10 s: nothing new since the last call ends the round, with what there is.
    pub fn stalled(&mut self) {
        let Some(e) = self.expected.as_mut() else { return };
        if e.received != e.last_count {
            e.last_count = e.received;
            return;
        }
        self.finish(cpu_us());
    }
}

pub async fn serve_acks() -> (u16, mpsc::UnboundedSender<u32>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tx, mut rx) = mpsc::unbounded_channel::<u32>();
    tokio::spawn(async move {
        let (mut c, _) = listener.accept().await.unwrap();
        c.set_nodelay(true).unwrap();
        while let Some(mut n) = rx.recv().await {
            while let Ok(more) = rx.try_recv() {
                n = more;
            }
            if c.write_all(&n.to_be_bytes()).await.is_err() {
                std::process::exit(1);
            }
        }
    });
    (port, tx)
}
