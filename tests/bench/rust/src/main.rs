//! The relay bench's reference in Rust: rust-libp2p gossipsub as publisher, as receiver, or as a sink of many hosts.
//! The commands and events are those of tests/bench/js/relay_node.mjs; a sink has `dial` (hosts that connect) besides.

mod lines;
mod message;
mod node;
mod receiver;
mod sink;
mod swarm;

use clap::Parser;

#[derive(Parser)]
struct Args {
    /// publisher, receiver or sink
    #[arg(long)]
    role: String,
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

fn main() {
    let args = Args::parse();
    if args.role == "sink" {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let local = tokio::task::LocalSet::new();
        runtime.block_on(local.run_until(sink::sink()));
        return;
    }
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(args.threads).enable_all().build().unwrap();
    // On a worker thread, not on the one that blocks.
    runtime.block_on(async { tokio::spawn(node::node(args.role)).await.unwrap() });
}
