//! One host: publisher or receiver.

use std::{
    sync::{
        atomic::{AtomicI64, Ordering},
        Arc,
    },
    time::Duration,
};

use futures::{FutureExt, StreamExt};
use libp2p::{
    gossipsub::{self, IdentTopic, MessageAcceptance},
    swarm::SwarmEvent,
    Multiaddr, Swarm,
};
use serde_json::json;
use tokio::{io::AsyncReadExt, net::TcpStream, sync::Notify};

use crate::{
    lines::{cpu_us, emit, now, stdin_lines, Command},
    message::{decode, maker},
    receiver::{serve_acks, Receiver},
    swarm::{swarm, Behaviour, BehaviourEvent, TOPIC},
};

/// Publishes between two turns of the swarm.
const TURN_MESSAGES: usize = 64;
const TURN_BYTES: usize = 1 << 20;

#[derive(Default)]
struct Acked {
    count: AtomicI64,
    moved: Notify,
}

async fn read_acks(port: u16, acked: Arc<Acked>) {
    let mut c = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    c.set_nodelay(true).unwrap();
    tokio::spawn(async move {
        let mut b = [0u8; 4];
        while c.read_exact(&mut b).await.is_ok() {
            acked.count.store(u32::from_be_bytes(b) as i64, Ordering::Release);
            acked.moved.notify_one();
        }
    });
}

/// Validate and count a message; ignore other events.
fn on_event(swarm: &mut Swarm<Behaviour>, event: SwarmEvent<BehaviourEvent>, receiver: &mut Option<Receiver>) {
    if let SwarmEvent::Behaviour(BehaviourEvent::Gossipsub(gossipsub::Event::Message {
        propagation_source,
        message_id,
        message,
    })) = event
    {
        let waku = decode(&message.data);
        let verdict = if waku.is_some() {
            MessageAcceptance::Accept
        } else {
            MessageAcceptance::Reject
        };
        swarm
            .behaviour_mut()
            .gossipsub
            .report_message_validation_result(&message_id, &propagation_source, verdict);
        if let (Some(w), Some(r)) = (waku, receiver.as_mut()) {
            r.take(0, w.payload);
        }
    }
}

/// Handle what is ready, without waiting.
fn turn(swarm: &mut Swarm<Behaviour>, receiver: &mut Option<Receiver>) {
    while let Some(Some(event)) = swarm.next().now_or_never() {
        on_event(swarm, event, receiver);
    }
}

async fn until<F: Fn(&Swarm<Behaviour>) -> bool>(
    swarm: &mut Swarm<Behaviour>,
    receiver: &mut Option<Receiver>,
    done: F,
) {
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    while !done(swarm) {
        tokio::select! {
            event = swarm.select_next_some() => on_event(swarm, event, receiver),
            _ = tick.tick() => {}
        }
    }
}

async fn until_acked(swarm: &mut Swarm<Behaviour>, receiver: &mut Option<Receiver>, acked: &Acked, count: i64) {
    while acked.count.load(Ordering::Acquire) < count {
        tokio::select! {
            event = swarm.select_next_some() => on_event(swarm, event, receiver),
            _ = acked.moved.notified() => {}
        }
    }
}

async fn publish(
    swarm: &mut Swarm<Behaviour>,
    receiver: &mut Option<Receiver>,
    topic: &IdentTopic,
    acked: &Acked,
    c: &Command,
) {
    let make = maker(c.size);
    let turn_every = TURN_MESSAGES.min(TURN_BYTES / c.size).max(1);
    acked.count.store(0, Ordering::Release);
    let (cpu, start) = (cpu_us(), now());
    for i in 0..c.messages {
        if i as i64 - acked.count.load(Ordering::Acquire) >= c.window as i64 {
            until_acked(swarm, receiver, acked, (i + 1 - c.window) as i64).await;
        }
        let data = make(c.round << 32 | i as u64);
        decode(&data).unwrap();
        swarm.behaviour_mut().gossipsub.publish(topic.hash(), data).unwrap();
        if i % turn_every == turn_every - 1 {
            turn(swarm, receiver);
            tokio::task::yield_now().await;
        }
    }
    until_acked(swarm, receiver, acked, c.messages as i64).await;
    emit(
        "published",
        json!({"round": c.round, "start_ns": start, "end_ns": now(), "cpu_us": cpu_us() - cpu}),
    );
}

async fn pace(
    swarm: &mut Swarm<Behaviour>,
    receiver: &mut Option<Receiver>,
    topic: &IdentTopic,
    acked: &Acked,
    c: &Command,
) {
    let make = maker(c.size);
    acked.count.store(0, Ordering::Release);
    let mut stamps = Vec::with_capacity(c.messages);
    let (cpu, start) = (cpu_us(), tokio::time::Instant::now());
    for i in 0..c.messages {
        let sleep = tokio::time::sleep_until(start + Duration::from_nanos(i as u64 * 1_000_000_000 / c.rate));
        tokio::pin!(sleep);
        loop {
            tokio::select! {
                event = swarm.select_next_some() => on_event(swarm, event, receiver),
                _ = &mut sleep => break,
            }
        }
        let data = make(c.round << 32 | i as u64);
        decode(&data).unwrap();
        stamps.push(now());
        swarm.behaviour_mut().gossipsub.publish(topic.hash(), data).unwrap();
    }
    until_acked(swarm, receiver, acked, c.messages as i64).await;
    emit(
        "paced",
        json!({"round": c.round, "stamps": stamps, "cpu_us": cpu_us() - cpu}),
    );
}

pub async fn node(role: String) {
    let topic = IdentTopic::new(TOPIC);
    let mut swarm = swarm(&topic, false);
    let mut commands = stdin_lines();
    let mut receiver = None;
    let mut port = 0;
    swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
    let address = loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            break address;
        }
    };
    if role == "receiver" {
        let (p, acks) = serve_acks().await;
        port = p;
        receiver = Some(Receiver::new(acks));
    }
    let me = *swarm.local_peer_id();
    emit(
        "ready",
        json!({"role": role, "peerId": me.to_string(), "addresses": [format!("{address}/p2p/{me}")], "ackPort": port}),
    );
    let acked = Arc::new(Acked::default());
    let mut stall = tokio::time::interval(Duration::from_secs(10));
    loop {
        let command = tokio::select! {
            event = swarm.select_next_some() => { on_event(&mut swarm, event, &mut receiver); continue }
            _ = stall.tick() => {
                if let Some(r) = receiver.as_mut() { r.stalled(); }
                continue
            }
            command = commands.recv() => command.unwrap(),
        };
        match command.cmd.as_str() {
            "connect" => {
                swarm.dial(command.address.parse::<Multiaddr>().unwrap()).unwrap();
                read_acks(command.ack_port, acked.clone()).await;
                let hash = topic.hash();
                until(&mut swarm, &mut receiver, |s| {
                    s.behaviour().gossipsub.mesh_peers(&hash).next().is_some()
                })
                .await;
                emit("connected", json!({}));
            }
            "attend" => {
                if command.ack_port != 0 {
                    read_acks(command.ack_port, acked.clone()).await;
                }
                let hash = topic.hash();
                let n = command.peers;
                until(&mut swarm, &mut receiver, |s| {
                    s.behaviour()
                        .gossipsub
                        .all_peers()
                        .filter(|(_, t)| t.contains(&&hash))
                        .count()
                        >= n
                })
                .await;
                emit("attended", json!({"peers": n}));
            }
            "expect" => {
                receiver.as_mut().unwrap().expect(&command, 1);
            }
            "publish" => publish(&mut swarm, &mut receiver, &topic, &acked, &command).await,
            "pace" => pace(&mut swarm, &mut receiver, &topic, &acked, &command).await,
            "stop" => std::process::exit(0),
            other => panic!("{other}"),
        }
    }
}
