//! Commands in, events out: JSON lines; and the two clocks whose readings they carry.

use std::io::Write;

use serde::Deserialize;
use serde_json::{json, Value};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    sync::mpsc,
};

#[derive(Deserialize, Default, Debug, Clone)]
#[serde(default, rename_all = "camelCase")]
pub struct Command {
    pub cmd: String,
    pub round: u64,
    pub messages: usize,
    pub ack_every: usize,
    pub address: String,
    pub ack_port: u16,
    pub size: usize,
    pub window: usize,
    pub peers: usize,
    pub hosts: usize,
    pub rate: u64,
    pub stamps: bool,
}

fn clock(which: libc::clockid_t) -> i64 {
    let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    unsafe { libc::clock_gettime(which, &mut ts) };
    ts.tv_sec * 1_000_000_000 + ts.tv_nsec
}
pub fn now() -> i64 {
    clock(libc::CLOCK_MONOTONIC)
}
pub fn cpu_us() -> f64 {
    clock(libc::CLOCK_PROCESS_CPUTIME_ID) as f64 / 1000.0
}

pub fn emit(event: &str, mut values: Value) {
    values["event"] = json!(event);
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{values}");
    let _ = out.flush();
}

pub fn stdin_lines() -> mpsc::UnboundedReceiver<Command> {
    let (tx, rx) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut lines = BufReader::new(tokio::io::stdin()).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let _ = tx.send(serde_json::from_str(&line).unwrap());
        }
        std::process::exit(0);
    });
    rx
}
